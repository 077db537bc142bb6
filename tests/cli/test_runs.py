"""What holds for `inpaint`, `denoise` and `super-resolve` alike: files, plans, records, ends."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import tifffile

from knitcore.files import read_image

TASKS = {
    "inpaint": ("_inpainted", ("--mask", "dust.png")),
    "denoise": ("_denoised", ()),
    "super-resolve": ("_x2", ()),
}


@pytest.fixture(params=TASKS)
def task(request, knit):
    """A task: its name, how its outputs end, and `run`, which gives the mask if one is needed."""
    ending, words = TASKS[request.param]

    def run(*more, code=0):
        return knit(request.param, *words, *more, code=code)

    return SimpleNamespace(name=request.param, ending=ending, run=run)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_record_repeats_its_run_and_names_no_place(folder, task, record):
    task.run("cells.tif", "--seed", 3, "-o", "one.tif")
    kept = record("one.tif")
    assert kept["task"] == kept["recipe"]["task"] == task.name
    assert kept["recipe"]["seed"] == 3
    assert kept["files"]["image"]["name"] == "cells.tif"
    assert len(kept["files"]["image"]["sha256"]) == 64
    assert kept["files"]["output"] == "one.tif"
    assert str(folder) not in json.dumps(kept)
    said = task.run("cells.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif")
    assert said.stderr == ""
    assert (folder / "one.tif").read_bytes() == (folder / "two.tif").read_bytes()


def test_a_record_used_on_another_image_is_warned_of(folder, task):
    task.run("cells.tif", "-o", "one.tif")
    other = tifffile.imread("cells.tif")
    other[0, 0] += 1
    tifffile.imwrite("other.tif", other)
    said = task.run("other.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif")
    assert "Warning: other.tif: differs from cells.tif of the record" in said.stderr


def test_a_recipe_is_for_one_task(folder, task, knit, record):
    (folder / "any.yaml").write_text("seed: 8\n")
    task.run("cells.tif", "--recipe", "any.yaml", "-o", "one.tif")
    assert record("one.tif")["recipe"]["seed"] == 8
    before = names(folder)
    for other in set(TASKS) - {task.name}:
        (folder / "other.yaml").write_text(f"task: {other}\nseed: 8\n")
        said = task.run("cells.tif", "--recipe", "other.yaml", "-o", "two.tif", code=2)
        expected = f"Error: other.yaml: is for the task '{other}', not '{task.name}'"
        assert expected in said.stderr
        said = knit(other, "cells.tif", "--recipe", "one.tif.knit.json", "-o", "two.tif", code=2)
        assert f"is for the task '{task.name}', not '{other}'" in said.stderr
    assert names(folder) == sorted([*before, "other.yaml"])


def test_a_wrong_recipe(folder, task):
    (folder / "run.yaml").write_text("seed: 1\nstepz: 5\n")
    said = task.run("cells.tif", "--recipe", "run.yaml", code=2)
    expected = "Error: run.yaml, line 2: unknown key `stepz`; did you mean `steps`?"
    assert expected in said.stderr


def test_one_bad_file_never_stops_the_others(folder, task):
    (folder / "broken.tif").write_bytes((folder / "cells.tif").read_bytes()[:700])
    shutil.copy("cells.tif", "more.tif")
    said = task.run("broken.tif", "gone.tif", "cells.tif", "more.tif", "-o", "out", code=1)
    outputs = [f"cells{task.ending}.tif", f"more{task.ending}.tif"]
    assert names(folder / "out") == sorted(
        [".knit", "knit-report.jsonl", *outputs, *(f"{output}.knit.json" for output in outputs)]
    )
    assert "Error: broken.tif: the file is cut short" in said.stderr
    assert "Error: gone.tif: cannot read: no such file or directory" in said.stderr
    table = said.stderr[said.stderr.rindex("done 2") :].splitlines()
    assert table[0] == "done 2 · skipped 0 · failed 2 · not started 0"
    assert table[1].split()[0] == "broken.tif"
    assert " ".join(table[2].split()) == "gone.tif cannot read: no such file or directory"


def test_a_line_and_an_object_a_file(folder, task):
    (folder / "empty.tif").touch()
    said = task.run("cells.tif")
    assert said.stdout.startswith(f"cells.tif -> cells{task.ending}.tif: ")
    assert said.stdout.count("\n") == 1
    said = task.run("cells.tif", "empty.tif", "--save-std", "--json", "-o", "out", code=1)
    done, failed = map(json.loads, said.stdout.splitlines())
    output = f"out/cells{task.ending}"
    assert (done["status"], done["task"], done["input"]) == ("done", task.name, "cells.tif")
    assert done["output"] == f"{output}.tif"
    assert done["record"] == f"{output}.tif.knit.json"
    assert done["std"] == f"{output}_std.tif"
    assert failed["error"] == "empty.tif: file is empty (0 bytes)"


def test_jpeg_in_png_out(folder, task):
    grey = tifffile.imread("cells.tif") // 32
    PIL.Image.fromarray(grey.astype(np.uint8)).save("photo.jpg")
    task.run("photo.jpg")
    assert read_image(f"photo{task.ending}.png").dtype == np.uint8


def test_side_images_of_colours(folder, task):
    colours = np.random.default_rng(0).integers(100, 255, (32, 40, 4), dtype=np.uint8)
    PIL.Image.fromarray(colours).save("rgba.png")
    task.run("rgba.png", "--save-std")
    after, std = read_image(f"rgba{task.ending}.png"), read_image(f"rgba{task.ending}_std.tif")
    assert after.axes == "YXS"
    assert after.shape[-1] == 4
    assert (std.axes, std.shape) == ("CYX", (3, *after.shape[:2]))
    assert std.dtype == np.float32


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cells.tif", "-o", "a.jpg"], "JPEG would change the pixels"),
        (["cells.tif", "-o", "cells.tif"], "cells.tif: is an input"),
        (["cells.tif", "-o", "soft.tif"], "soft.tif: is an input"),
        (["cells.tif", "-o", "hard.tif"], "hard.tif: is an input"),
        (["cells.tif", "--stepz", "1"], "No such option"),
        (["cells.tif", "--device", "tpu"], "`device`"),
        (["a/cells.tif", "cells.tif", "-o", "b"], "would both be written to"),
        (["empty"], "no image in the folder empty"),
    ],
)
def test_a_wrong_plan_writes_nothing(folder, task, words, message):
    (folder / "a").mkdir()
    (folder / "empty").mkdir()
    shutil.copy("cells.tif", "a")
    (folder / "soft.tif").symlink_to("cells.tif")
    (folder / "hard.tif").hardlink_to("cells.tif")
    before = names(folder)
    # --overwrite must make no difference
    said = task.run(*words, "--overwrite", code=2)
    assert message in " ".join(said.stderr.split())
    assert names(folder) == before


def test_an_existing_output_stays_unless_told(folder, task):
    for name in (f"cells{task.ending}.tif", f"cells{task.ending}_std.tif"):
        (folder / name).write_text("precious")
        said = task.run("cells.tif", "--save-std", code=1)
        assert f"Error: {name}: exists; use --overwrite, or another -o" in said.stderr
        assert (folder / name).read_text() == "precious"
        (folder / name).unlink()
    (folder / f"cells{task.ending}.tif").write_text("not precious")
    task.run("cells.tif", "--overwrite")
    assert read_image(f"cells{task.ending}.tif").dtype == np.uint16


def test_places_that_cannot_be_written(folder, task):
    said = task.run("cells.tif", "-o", "no/such/a.tif", code=3)
    assert "Error: no/such: cannot write there: no such file or directory" in said.stderr


def test_a_device_that_is_absent(folder, task):
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    said = task.run("cells.tif", "--device", "cuda", code=3)
    assert "Error: no CUDA device" in said.stderr
    assert names(folder) == ["cells.tif", "dust.png"]


def test_a_result_that_does_not_fit_the_format_fails_before_the_fit(folder, task):
    stack = np.zeros((3, 32, 40), np.uint8)
    tifffile.imwrite("stack.tif", stack, photometric="minisblack")
    assert "PNG holds one plane" in task.run("stack.tif", "-o", "out.png", code=1).stderr


def test_declared_size_is_limited(folder, task):
    said = task.run("cells.tif", "--max-pixels", 1000, code=1)
    assert "raise the limit (--max-pixels, now 1,000)" in said.stderr


@pytest.mark.parametrize("name", ["with space.tif", "naïve µ.tif", "-dash.tif", "new\nline.tif"])
def test_names_of_any_kind(folder, task, name):
    (folder / "cells.tif").rename(folder / name)
    said = task.run("--", name)
    assert (folder / name.replace(".tif", f"{task.ending}.tif")).exists()
    assert said.stdout.count("\n") == 1
