"""`knit super-resolve` on real files: sizes, pixel sizes, and the kernel in and out."""

import json

import numpy as np
import PIL.Image
import pytest
import tifffile

from knitcore.files import read_image


def kernel_of(record, name):
    return np.array(record(name)["kernel"]["values"])


def test_the_image_grows_and_the_pixels_shrink(folder, knit, record):
    said = knit("super-resolve", "cells.tif")
    before, after = read_image("cells.tif"), read_image("cells_x2.tif")
    assert after.shape == (64, 80)
    assert (after.dtype, after.axes) == (before.dtype, "YX")
    assert after.pixel_size == {"X": 0.25, "Y": 0.25}
    assert after.unit == before.unit
    assert after.extra["tiff"]["kind"] == "imagej"
    expected = "cells.tif -> cells_x2.tif: 64 × 80 from 32 × 40 (kernel: "
    assert said.stdout.startswith(expected)
    kept = record("cells_x2.tif")
    assert kept["kernel"]["sum"] == pytest.approx(1, abs=1e-3)
    assert "mask" not in kept["files"]


@pytest.mark.parametrize(
    ("scale", "name", "shape", "size"),
    [
        ("1.5", "stack_x1.5.ome.tif", (2, 36, 30), {"X": 0.2, "Y": 0.2, "Z": 1.0}),
        ("1x2x1", "stack_x1x2x1.ome.tif", (2, 48, 20), {"X": 0.3, "Y": 0.15, "Z": 1.0}),
        ("2x2x2", "stack_x2x2x2.ome.tif", (4, 48, 40), {"X": 0.15, "Y": 0.15, "Z": 0.5}),
    ],
)
def test_a_factor_for_each_axis(folder, knit, scale, name, shape, size):
    stack = np.add.outer(np.arange(2) * 50, np.add.outer(np.arange(24), np.arange(20)) * 9)
    sizes = {f"PhysicalSize{a}": s for a, s in {"X": 0.3, "Y": 0.3, "Z": 1.0}.items()}
    tifffile.imwrite("stack.ome.tif", np.uint16(stack), metadata={"axes": "ZYX", **sizes})
    said = knit("super-resolve", "stack.ome.tif", "--scale", scale, "--kernel", "delta")
    after = read_image(name)
    assert (after.shape, after.axes) == (shape, "ZYX")
    assert after.pixel_size == pytest.approx(size)
    assert after.extra["tiff"]["kind"] == "ome"
    grown = f"{shape[0]} × {shape[1]} × {shape[2]} from 2 × 24 × 20"
    assert (grown if scale == "2x2x2" else "from 24 × 20 in 2 planes") in said.stdout


def test_a_kernel_written_is_a_kernel_read(folder, knit, record):
    knit("super-resolve", "cells.tif", "--save-kernel", "--save-std", "-o", "one.tif")
    kernel, picture = read_image("one_kernel.tif"), read_image("one_kernel.png")
    assert kernel.data == pytest.approx(kernel_of(record, "one.tif"), abs=1e-6)
    assert (kernel.dtype, kernel.pixel_size) == (np.float32, {"X": 0.25, "Y": 0.25})
    assert picture.dtype == np.uint8
    assert max(picture.shape) >= 128
    assert picture.data.max() == 255
    enlarged = picture.shape[0] // kernel.shape[0]
    brightest = np.unravel_index(kernel.data.argmax(), kernel.shape)
    middle = tuple(i * enlarged + enlarged // 2 for i in brightest)
    assert picture.data[middle] == 255
    assert read_image("one_std.tif").shape == (64, 80)

    (folder / "kernels").mkdir()
    (folder / "one_kernel.tif").rename("kernels/psf.tif")
    said = knit("super-resolve", "cells.tif", "--kernel", "kernels/psf.tif", "-o", "two.tif")
    assert "(kernel: psf.tif)" in said.stdout
    one, two = (read_image(name).data.astype(float) for name in ("one.tif", "two.tif"))
    assert abs(one - two).max() <= 1
    kept = record("two.tif")
    assert kept["recipe"]["kernel"] == kept["files"]["kernel"]["name"] == "psf.tif"
    assert len(kept["files"]["kernel"]["sha256"]) == 64
    assert "kernels" not in json.dumps(kept)

    # the record holds the kernel: the file is not needed again
    (folder / "kernels" / "psf.tif").unlink()
    knit("super-resolve", "cells.tif", "--recipe", "two.tif.knit.json", "-o", "three.tif")
    assert (folder / "two.tif").read_bytes() == (folder / "three.tif").read_bytes()
    assert record("three.tif")["files"]["kernel"] == kept["files"]["kernel"]


def test_a_kernel_named_in_a_recipe_lies_beside_it(folder, knit, record):
    (folder / "settings").mkdir()
    tifffile.imwrite("settings/psf.tif", np.ones((4, 4), np.float32))
    (folder / "settings" / "run.yaml").write_text("kernel: psf.tif\npasses: 1\n")
    knit("super-resolve", "cells.tif", "--recipe", "settings/run.yaml")
    assert kernel_of(record, "cells_x2.tif") == pytest.approx(np.full((4, 4), 1 / 16))
    words = ("cells.tif", "--recipe", "settings/run.yaml", "--kernel", "delta", "-o", "b.tif")
    knit("super-resolve", *words)
    assert record("b.tif")["kernel"]["choice"] == "delta"
    assert "kernel" not in record("b.tif")["files"]


def test_words_for_kernels(folder, knit, record):
    words = ("super-resolve", "cells.tif", "--kernel", "gaussian:1.5")
    said = knit(*words, "--json", "--save-kernel")
    kernel = kernel_of(record, "cells_x2.tif")
    at = np.arange(len(kernel)) - (len(kernel) - 1) / 2
    assert np.sqrt((kernel.sum(1) * at**2).sum()) == pytest.approx(1.5, rel=0.1)
    told = json.loads(said.stdout)
    assert told["kernel"]["choice"] == "gaussian:1.5"
    assert "values" not in told["kernel"]
    assert told["kernel_file"] == "cells_x2_kernel.tif"
    assert told["output_shape"] == [64, 80]
    assert {"rms", "noise"} <= set(told["residual"][0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kernel", "gone.tif"], "kernel gone.tif: cannot read: no such file"),
        (["--kernel", "notes.txt"], "kernel notes.txt: not an image"),
        (["--kernel", "gaussian:wide"], "`kernel`: must be gaussian:S"),
        (["--scale", "9"], "`scale`: factors must lie between 1 and 8"),
        (["--scale", "2 x 2"], "`scale`: must be a factor such as 2"),
        (["--kernel", "dust.png", "-o", "dust.png"], "dust.png: is an input"),
        (["--mask", "dust.png"], "No such option"),
    ],
)
def test_what_is_refused_before_anything_starts(folder, knit, words, message):
    (folder / "notes.txt").write_text("not an image")
    said = knit("super-resolve", "cells.tif", *words, "--overwrite", code=2)
    assert message in " ".join(said.stderr.split())
    assert sorted(path.name for path in folder.iterdir()) == ["cells.tif", "dust.png", "notes.txt"]


def test_what_does_not_fit_the_image_is_told(folder, knit):
    said = knit("super-resolve", "cells.tif", "--scale", "2x2x2", code=1)
    assert "Error: cells.tif: 3 factors for 2 axes (YX)" in said.stderr
    PIL.Image.new("RGB", (5, 5), "white").save("colours.png")
    said = knit("super-resolve", "cells.tif", "--kernel", "colours.png", code=1)
    assert "must have 2 axes of numbers, has 3" in said.stderr


def test_outputs_and_the_kernel_in_the_input_folder_are_no_inputs(folder, knit):
    (folder / "dust.png").unlink()
    tifffile.imwrite("psf.tif", np.ones((4, 4), np.float32))
    words = ("super-resolve", ".", "--kernel", "psf.tif")
    knit(*words, "--save-kernel", "--save-std")
    said = knit(*words, "--overwrite")
    assert said.stdout.count("\n") == 1
    assert said.stdout.startswith("cells.tif -> cells_x2.tif")
