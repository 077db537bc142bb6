"""`knit inpaint` on real files: what it writes, what it says, how it ends."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import tifffile

from knitcore.files import read_image


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_hole_is_filled_and_nothing_else_changes(folder, knit):
    said = knit("inpaint", "cells.tif", "--mask", "dust.png")
    before, after = read_image("cells.tif"), read_image("cells_inpainted.tif")
    hole = read_image("dust.png").data > 0
    assert (after.data[~hole] == before.data[~hole]).all()
    assert after.dtype == before.dtype
    assert after.pixel_size == before.pixel_size == {"X": 0.5, "Y": 0.5}
    assert after.extra["tiff"]["kind"] == "imagej"
    assert said.stdout.startswith(
        "cells.tif -> cells_inpainted.tif: 64 pixels filled in 1 region, "
    )
    assert said.stdout.count("\n") == 1
    assert said.stderr == ""


def test_validate_tells_the_expected_error_in_the_line_and_the_record(folder, knit, record):
    said = knit("inpaint", "cells.tif", "--mask", "dust.png", "--validate")
    told = record("cells_inpainted.tif")["validation"]
    assert f"expected error of this fill: ±{told['rmse']:.3g} grey levels" in said.stdout
    assert f"(RMSE over {told['holes']} held-out hole" in said.stdout
    assert said.stdout.count("\n") == 1


def test_the_record_lies_beside_and_names_no_place_or_person(folder, knit, record):
    knit("inpaint", "cells.tif", "--mask", "dust.png", "--seed", 5)
    kept = record("cells_inpainted.tif")
    assert kept["recipe"]["seed"] == 5
    assert kept["files"]["image"]["name"] == "cells.tif"
    assert kept["files"]["mask"]["name"] == "dust.png"
    assert len(kept["files"]["mask"]["sha256"]) == 64
    assert str(folder) not in json.dumps(kept)
    assert names(folder) == [
        "cells.tif",
        "cells_inpainted.tif",
        "cells_inpainted.tif.knit.json",
        "dust.png",
    ]


def test_a_record_repeats_its_run_exactly(folder, knit):
    # without the smooth start, so that every pixel is the network's
    alone = ("--start", "none", "--start-weight", 0)
    knit("inpaint", "cells.tif", "--mask", "dust.png", *alone, "--seed", 3, "-o", "one.tif")
    knit("inpaint", "cells.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif")
    assert (folder / "one.tif").read_bytes() == (folder / "two.tif").read_bytes()
    said = knit(
        "inpaint",
        "cells.tif",
        *("--mask", "dust.png", "--recipe", "one.tif.knit.json", "--seed", 4, "-o", "three.tif"),
    )
    assert said.stderr == ""
    assert (folder / "one.tif").read_bytes() != (folder / "three.tif").read_bytes()


def test_a_record_used_on_other_files_is_warned_of(folder, knit):
    knit("inpaint", "cells.tif", "--mask", "dust.png", "-o", "one.tif")
    other = tifffile.imread("cells.tif")
    other[0, 0] += 1
    tifffile.imwrite("other.tif", other)
    said = knit("inpaint", "other.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif")
    assert "Warning: other.tif: differs from cells.tif of the record" in said.stderr
    mask = np.array(PIL.Image.open("dust.png"))
    mask[0, 0] = 255
    PIL.Image.fromarray(mask).save("more.png")
    said = knit(
        *("inpaint", "cells.tif", "--mask", "more.png"),
        *("--recipe", "one.tif.knit.json", "-o", "three.tif"),
    )
    assert "Warning: cells.tif: other pixels are masked than in the record" in said.stderr


def test_the_mask_of_a_record_is_found_beside_it_or_asked_for(folder, knit):
    knit("inpaint", "cells.tif", "--mask", "value=0", "-o", "one.tif")
    knit("inpaint", "cells.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif")
    knit("inpaint", "cells.tif", "--mask", "dust.png", "-o", "three.tif")
    (folder / "dust.png").unlink()
    said = knit("inpaint", "cells.tif", "--recipe", "three.tif.knit.json", "-o", "4.tif", code=2)
    assert "the record's mask dust.png is not beside the image; name it with --mask" in said.stderr


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_spread_and_synthesised_pixels(folder, knit, suffix):
    knit(
        *("inpaint", "cells.tif", "--mask", "dust.png", "-o", f"out{suffix}"),
        *("--save-std", "--save-synthesised"),
    )
    hole = read_image("dust.png").data > 0
    marks, std = read_image(f"out_synthesised{suffix}"), read_image("out_std.tif")
    assert (marks.data == np.where(hole, 255, 0)).all()
    assert std.dtype == np.float32
    assert (std.data[~hole] == 0).all()
    assert (std.data[hole] > 0).all()
    assert std.pixel_size == {"X": 0.5, "Y": 0.5}


def test_side_images_of_colours(folder, knit):
    colours = np.random.default_rng(0).integers(0, 255, (32, 40, 4), dtype=np.uint8)
    PIL.Image.fromarray(colours).save("rgba.png")
    said = knit("inpaint", "rgba.png", "--mask", "dust.png", "--save-std", "--save-synthesised")
    assert "64 pixels filled" in said.stdout  # not 192 samples
    after = read_image("rgba_inpainted.png")
    hole = read_image("dust.png").data > 0
    assert (after.data[~hole] == colours[~hole]).all()
    assert (after.data[..., 3] == colours[..., 3]).all()
    assert read_image("rgba_inpainted_synthesised.png").axes == "YX"
    std = read_image("rgba_inpainted_std.tif")
    assert (std.axes, std.shape) == ("CYX", (3, 32, 40))


def test_words_for_masks(folder, knit):
    image = tifffile.imread("cells.tif").astype(np.float32)
    image[3, 4] = np.nan
    tifffile.imwrite("holes.tif", image)
    assert "1 pixel filled" in knit("inpaint", "holes.tif", "--mask", "nan").stdout
    assert np.isfinite(tifffile.imread("holes_inpainted.tif")).all()
    assert "1 pixel filled" in knit("inpaint", "cells.tif", "--mask", "VALUE=0").stdout


def test_options_of_the_mask(folder, knit):
    labels = np.zeros((32, 40), np.uint8)
    labels[3:5, 3:5], labels[10, 10] = 1, 2
    PIL.Image.fromarray(labels).save("labels.png")
    said = knit("inpaint", "cells.tif", "--mask", "labels.png", "--mask-label", 2)
    assert "1 pixel filled" in said.stdout
    PIL.Image.fromarray(np.where(labels, 0, 255).astype(np.uint8)).save("kept.png")
    said = knit("inpaint", "cells.tif", "--mask", "kept.png", "--invert-mask", "--overwrite")
    assert "5 pixels filled" in said.stdout


def test_an_empty_mask_copies_the_image(folder, knit):
    PIL.Image.new("L", (40, 32)).save("none.png")
    said = knit("inpaint", "cells.tif", "--mask", "none.png", "-v")
    assert "nothing to fill, copied" in said.stdout
    assert "Note: cells.tif: nothing to fill" in said.stderr
    assert (tifffile.imread("cells_inpainted.tif") == tifffile.imread("cells.tif")).all()


def test_json_is_one_object_a_line(folder, knit):
    (folder / "empty.tif").touch()
    said = knit(
        "inpaint", "cells.tif", "empty.tif", "--mask", "dust.png", "--json", "-o", "out", code=1
    )
    done, failed = map(json.loads, said.stdout.splitlines())
    assert done["status"] == "done"
    assert done["input"] == "cells.tif"
    assert done["output"] == "out/cells_inpainted.tif"
    assert done["filled"] == 64
    assert failed == {
        "status": "failed",
        "input": "empty.tif",
        "error": "empty.tif: file is empty (0 bytes)",
    }


def test_quiet_leaves_errors_and_results(folder, knit):
    most = np.full((32, 40), 255, np.uint8)
    most[:12] = 0
    PIL.Image.fromarray(most).save("most.png")
    said = knit(
        "inpaint", "cells.tif", "--mask", "most.png", "--start", "harmonic", "--knit-depth", 99
    )
    assert "Warning: cells.tif: 62 % of the image is to be filled" in said.stderr
    said = knit("inpaint", "cells.tif", "--mask", "dust.png", "--quiet", "--overwrite")
    assert said.stderr == ""
    said = knit("inpaint", "cells.tif", "--mask", "dust.png", "--quiet", code=1)
    assert said.stderr.startswith("Error: cells_inpainted.tif: exists")


# Several files


def test_a_folder_of_images_and_one_of_masks(folder, knit):
    for where in ("images", "masks"):
        (folder / where).mkdir()
    for name in ("a.tif", "b.tif", "c.tif", "d.tif", ".hidden.tif"):
        shutil.copy("cells.tif", folder / "images" / name)
    (folder / "images" / "notes.txt").write_text("not an image")
    mask = tifffile.imread("cells.tif") * 0
    mask[5, 5] = 1
    tifffile.imwrite("masks/a.tif", mask)
    shutil.copy("dust.png", "masks/b.png")
    shutil.copy("dust.png", "masks/c_mask.png")
    said = knit("inpaint", "images", "--mask", "masks", "-o", "out", "-v", code=1)
    assert "done 3 · failed 1 · not started 0" in said.stderr
    assert "skipped 1 other files: notes.txt" in said.stderr
    assert "no mask for d.tif in masks (looked for d.tif, d.* or d_mask.*)" in said.stderr
    assert [line.split(": ")[1][:8] for line in said.stdout.splitlines()] == [
        "1 pixel ",
        "64 pixel",
        "64 pixel",
    ]


def test_outputs_and_masks_in_the_input_folder_are_no_inputs(folder, knit):
    shutil.copy("dust.png", "cells_mask.png")
    (folder / "dust.png").unlink()
    knit("inpaint", ".", "--mask", ".", "--save-std", "--save-synthesised")
    said = knit("inpaint", ".", "--mask", ".", "--overwrite")
    assert said.stdout.count("\n") == 1
    assert said.stdout.startswith("cells.tif -> cells_inpainted.tif")


def test_the_same_file_twice_is_done_once(folder, knit):
    said = knit("inpaint", "cells.tif", folder / "cells.tif", ".", "--mask", "dust.png")
    assert said.stdout.count("\n") == 1


# What is refused before anything starts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cells.tif"], "what is to be filled? Give --mask"),
        (
            ["cells.tif", "--mask", "none.png"],
            "--mask none.png: no such file or folder, nor a word",
        ),
        (["cells.tif", "--mask", "value=dark"], "write a number after the equals sign"),
        (["cells.tif", "--mask", "nan", "--invert-mask"], "--invert-mask needs a mask image"),
        (["cells.tif", "--mask", "dust.png", "--stepz", "1"], "No such option"),
        (["cells.tif", "--mask", "dust.png", "--steps", "0"], "0 is not in the range"),
        (
            ["cells.tif", "--mask", "dust.png", "--margin", "nan"],
            "`margin`: input should be a finite",
        ),
        (["cells.tif", "--mask", "dust.png", "--scales", "4,2"], "`scales`: must be rising"),
        (["cells.tif", "--mask", "dust.png", "--scales", "a"], "numbers with commas"),
        (["cells.tif", "--mask", "dust.png", "--device", "tpu"], "`device`"),
        (["cells.tif", "--mask", "dust.png", "-o", "a.jpg"], "JPEG would change the pixels"),
        (["cells.tif", "--mask", "dust.png", "-o", "a.xyz"], "cannot write .xyz"),
        (["cells.tif", "--mask", "dust.png", "-o", "cells.tif"], "cells.tif: is an input"),
        (["cells.tif", "--mask", "dust.png", "-o", "dust.png"], "dust.png: is an input"),
        (["cells.tif", "--mask", "cells.tif"], "is both the image and its mask"),
        (["a/cells.tif", "cells.tif", "--mask", "dust.png", "-o", "b"], "would both be written to"),
        (["cells.tif", "a", "--mask", "dust.png", "-o", "c.tif"], "must be a folder for several"),
        (["empty", "--mask", "dust.png"], "no image in the folder empty"),
        ([], "Missing argument 'INPUT...'"),
    ],
)
def test_a_wrong_plan_writes_nothing(folder, knit, words, message):
    (folder / "a").mkdir()
    (folder / "empty").mkdir()
    shutil.copy("cells.tif", "a")
    (folder / "c.tif").touch()
    before = names(folder)
    # --overwrite must make no difference
    said = knit("inpaint", *words, "--overwrite", code=2)
    assert message in " ".join(said.stderr.split())
    assert names(folder) == before


def test_faults_of_the_mask_are_told_with_its_name(folder, knit):
    PIL.Image.new("L", (4, 4)).save("small.png")
    said = knit("inpaint", "cells.tif", "--mask", "small.png", code=1)
    assert "Error: small.png: the mask is 4 x 4, the image cells.tif is 32 x 40" in said.stderr
    PIL.Image.new("L", (40, 32), 255).save("all.png")
    assert "no known pixel left" in knit("inpaint", "cells.tif", "--mask", "all.png", code=1).stderr
