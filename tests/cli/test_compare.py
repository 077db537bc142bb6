"""`knit compare` as a user runs it: sheet, table, results, and what goes wrong."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import tifffile

from knitcore import psnr, read_image, ssim


def table(folder):
    with (folder / "compared.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_a_fill_is_scored_in_the_mask_and_each_result_is_a_file_like_the_input(folder, knit):
    command = "compare inpaint cells.tif --mask dust.png --truth cells.tif -o out"
    result = knit(*command.split(), "--methods", "harmonic,biharmonic")
    rows = table(folder / "out")
    assert [row["status"] for row in rows.values()] == ["done", "done"]
    assert list(rows) == ["harmonic", "biharmonic"]
    truth = tifffile.imread(folder / "cells.tif")
    mask = np.asarray(PIL.Image.open(folder / "dust.png")) > 0
    for name, row in rows.items():
        assert row["file"] == f"cells_{name}.tif"
        image = read_image(folder / "out" / row["file"])
        assert image.dtype == np.uint16
        assert image.pixel_size == {"Y": 0.5, "X": 0.5}
        np.testing.assert_array_equal(image.data[~mask], truth[~mask])
        assert float(row["psnr"]) == pytest.approx(psnr(image.data, truth, mask), abs=1e-3)
        assert float(row["ssim"]) == pytest.approx(ssim(image.data, truth, mask), abs=1e-4)
        assert float(row["seconds"]) >= 0
        assert name in result.stdout
    with PIL.Image.open(folder / "out" / "compared.png") as sheet:
        assert sheet.size[0] > 4 * 230  # input, truth, two results side by side


def test_the_table_says_how_to_repeat_it(folder, knit):
    words = ["compare", "denoise", "cells.tif", "-q", "--overwrite", "--seed", "4", "-o", "out"]
    knit(*words, "--sigma", "90", "--methods", "mlp,nlm,fast", "--steps", "mlp=3")
    rows = table(folder / "out")
    assert [(row["seed"], row["sigma"], row["scale"]) for row in rows.values()] == [
        ("4", "", ""),  # not told to a learned method
        ("", "90.0", ""),
        ("4", "90.0", ""),
    ]
    knit("compare", "super-resolve", "cells.tif", "--methods", "bicubic", "-o", "more", "-q")
    (row,) = table(folder / "more").values()
    assert (row["sigma"], row["scale"]) == ("", "2.0")


def test_the_mask_hides_the_truth_from_every_method(folder, knit):
    other = tifffile.imread(folder / "cells.tif")
    other[np.asarray(PIL.Image.open(folder / "dust.png")) > 0] = 60000
    tifffile.imwrite(folder / "other.tif", other)
    for name in ("cells", "other"):
        words = ["compare", "inpaint", f"{name}.tif", "--mask", "dust.png", "-o", name, "-q"]
        knit(*words, "--methods", "harmonic,biharmonic,mlp", "--steps", "mlp=3")
    mask = np.asarray(PIL.Image.open(folder / "dust.png")) > 0
    for method in ("harmonic", "biharmonic", "mlp"):
        one, two = (
            tifffile.imread(folder / name / f"{name}_{method}.tif") for name in ("cells", "other")
        )
        np.testing.assert_array_equal(one[mask], two[mask])


def test_learned_and_classical_denoisers_side_by_side(folder, knit):
    result = knit(
        *["compare", "denoise", "cells.tif", "-o", "out", "--methods", "fast,nlm,zs-n2n,dip"],
        *("--steps", "zs-n2n=5", "--steps", "dip=3", "--seed", "3"),
    )
    rows = table(folder / "out")
    assert rows["zs-n2n"]["steps"] == "5"
    assert {row["status"] for row in rows.values()} == {"done"}
    assert rows["dip"]["steps"] == "3"
    assert rows["dip"]["device"]
    assert rows["nlm"]["steps"] == ""
    assert rows["nlm"]["psnr"] == ""  # no truth was given
    assert "PSNR" not in result.stdout


def test_an_enlarged_picture_has_smaller_pixels(folder, knit):
    knit(
        *[
            "compare",
            "super-resolve",
            "cells.tif",
            "--scale",
            "2",
            "-o",
            "out",
            "--methods",
            "bicubic",
            "-q",
        ]
    )
    image = read_image(folder / "out" / "cells_bicubic.tif")
    assert image.shape == (64, 80)
    assert image.pixel_size == {"Y": 0.25, "X": 0.25}


def test_a_plane_of_a_stack_with_channels(folder, knit):
    stack = np.random.default_rng(0).integers(100, 4000, (3, 2, 24, 26)).astype(np.uint16)
    stack[2] += 1000
    tifffile.imwrite(folder / "stack.ome.tif", stack, metadata={"axes": "TCYX"})
    knit(
        *[
            "compare",
            "denoise",
            "stack.ome.tif",
            "--plane",
            "T=2",
            "-o",
            "out",
            "--methods",
            "nlm",
            "-q",
        ]
    )
    image = read_image(folder / "out" / "stack_nlm.tif")
    assert image.axes == "CYX"
    assert image.shape == (2, 24, 26)
    assert np.mean(image.data) > 2800  # the plane with the offset


def test_a_method_that_fails_costs_its_row_only(folder, knit, monkeypatch):
    from knitcore.baselines import classical

    def broken(image, mask):
        raise ValueError("singular")

    monkeypatch.setattr(classical, "inpaint_biharmonic", broken)
    words = "compare inpaint cells.tif --mask dust.png -o out --methods biharmonic,harmonic"
    result = knit(*words.split(), code=1)
    rows = table(folder / "out")
    assert rows["harmonic"]["status"] == "done"
    assert rows["biharmonic"]["status"].startswith("failed")
    assert "singular" in result.stdout
    assert "Traceback" not in result.stderr


def test_memory_that_does_not_do_for_a_method_is_told_as_such(folder, knit, monkeypatch):
    import torch

    from knitcore.baselines import classical

    def hungry(*args, **kwargs):
        return torch.empty(2**55)

    monkeypatch.setattr(classical, "inpaint_biharmonic", hungry)
    words = ["compare", "inpaint", "cells.tif", "--mask", "dust.png", "-o", "out"]
    knit(*words, "--methods", "biharmonic,harmonic", code=1)
    rows = table(folder / "out")
    assert rows["biharmonic"]["status"] == "failed: not enough memory"
    assert rows["harmonic"]["status"] == "done"


def test_a_package_that_is_not_installed_is_named_and_no_failure(folder, knit, monkeypatch):
    monkeypatch.setattr("knitcore.baselines.methods.find_spec", lambda name: None)
    words = "compare denoise cells.tif -o out --methods bm3d,nlm -q"
    assert "bm3d is not installed" in knit(*words.split()).stdout
    assert table(folder / "out")["bm3d"]["status"].startswith("skipped")


def test_a_time_limit_takes_what_a_learned_method_has(folder, knit):
    # a time that is over before there is anything to show: the first picture is waited for
    words = "compare denoise cells.tif -o out --methods zs-n2n --max-seconds 0.1 -q"
    knit(*words.split(), "--steps", "zs-n2n=1000000")
    row = table(folder / "out")["zs-n2n"]
    assert row["status"] == "stopped after 0.1 s"
    assert tifffile.imread(folder / "out" / row["file"]).std() > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("inpaint cells.tif", "needs --mask"),
        ("denoise cells.tif --mask dust.png", "takes no --mask"),
        ("denoise cells.tif --kernel dust.png", "takes no --kernel"),
        ("denoise cells.tif --methods magic", "no method 'magic'"),
        ("denoise cells.tif --steps nlm=3", "no learned method"),
        ("denoise cells.tif --steps dip:3", "write dip=500"),
        ("denoise cells.tif --plane T=1", "no axis 'T'"),
        ("denoise nothing.tif", "nothing.tif"),
        ("denoise cells.tif --truth small.png", "the result will be"),
        ("super-resolve cells.tif --methods tv-known", "must be told the blur"),
        ("inpaint cells.tif --mask empty.png", "mask is empty"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_line_before_anything_runs(folder, knit, words, told):
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "small.png")
    PIL.Image.fromarray(np.zeros((32, 40), np.uint8)).save(folder / "empty.png")
    result = knit("compare", *words.split(), code=2)
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "cells_compared").exists()


def test_an_earlier_comparison_is_kept_unless_told(folder, knit):
    words = ["compare", "denoise", "cells.tif", "--methods", "nlm", "-q"]
    knit(*words)
    assert (folder / "cells_compared" / "compared.png").exists()
    assert "--overwrite" in knit(*words, code=2).stderr
    knit(*words, "--overwrite")


def test_a_file_of_the_user_in_the_output_folder_is_kept_unless_told(folder, knit):
    # no comparison stands in this folder, but a file that a result would replace
    (folder / "cells_nlm.tif").write_bytes(b"mine")
    words = ["compare", "denoise", "cells.tif", "--methods", "nlm", "-o", ".", "-q"]
    assert "cells_nlm.tif" in knit(*words, code=2).stderr
    assert (folder / "cells_nlm.tif").read_bytes() == b"mine"
    knit(*words, "--overwrite")
    assert tifffile.imread(folder / "cells_nlm.tif").shape == (32, 40)


def test_a_dim_8_bit_micrograph_is_stretched_on_the_sheet(folder, knit):
    dim = np.random.default_rng(0).integers(10, 30, (40, 48)).astype(np.uint8)
    tifffile.imwrite(folder / "dim.tif", dim)
    knit("compare", "denoise", "dim.tif", "--methods", "nlm", "-o", "out", "-q")
    with PIL.Image.open(folder / "out" / "compared.png") as sheet:
        whole = np.asarray(sheet.convert("L"))[50:230, 15:235]  # inside the input's panel
    assert np.ptp(np.percentile(whole, (5, 95))) > 150


def test_the_list_names_every_task(knit):
    listed = knit("compare", "--list").stdout
    for word in ("inpaint:", "denoise:", "super-resolve:", "singan", "noise2fast", "telea"):
        assert word in listed


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_keeps_what_is_finished(folder):
    words = [
        "compare",
        "denoise",
        "cells.tif",
        "-o",
        "out",
        "--methods",
        "nlm,dip",
        "--steps",
        "dip=100000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "knit_cli", *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "out" / "cells_nlm.tif").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    rows = table(folder / "out")
    assert rows["nlm"]["status"] == "done"
    assert rows["dip"]["status"] == "stopped by the user"
    assert (folder / "out" / "compared.png").exists()
