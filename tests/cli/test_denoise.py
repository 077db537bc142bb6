"""`knit denoise` on real files: the noise it tells, and the files beside the output."""

import json

import numpy as np
import pytest
import tifffile

from knitcore.files import read_image


@pytest.fixture
def noisy(folder):
    """noisy.tif: a smooth surface under gaussian noise of sigma 50, ImageJ, 0.5 micron."""
    wave = np.sin(np.arange(64) / 10)
    clean = 2000 + 400 * np.add.outer(wave, wave)
    image = np.uint16(clean + np.random.default_rng(0).normal(0, 50, clean.shape))
    tifffile.imwrite("noisy.tif", image, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
    return clean


def test_noise_goes_and_all_else_stays(noisy, knit):
    said = knit("denoise", "noisy.tif", "--sigma", 50)
    before, after = read_image("noisy.tif"), read_image("noisy_denoised.tif")
    assert abs(after.data - noisy).mean() < abs(before.data - noisy).mean() / 2
    assert (after.dtype, after.axes, after.shape) == (before.dtype, "YX", before.shape)
    assert after.pixel_size == before.pixel_size == {"X": 0.5, "Y": 0.5}
    assert after.extra["tiff"]["kind"] == "imagej"
    expected = "noisy.tif -> noisy_denoised.tif: gaussian noise, sigma 50, taken out in "
    assert said.stdout.startswith(expected)
    assert said.stderr == ""


def test_the_noise_found_is_told(noisy, knit, record):
    knit("denoise", "noisy.tif", "--noise", "gaussian")
    (found,) = record("noisy_denoised.tif")["noise"]
    assert found["kind"] == "gaussian"
    assert np.isclose(found["sigma"], 50, rtol=0.2).all()
    words = ("--noise", "poisson-gaussian", "--gain", 1.5, "--offset", -500, "-o", "b.tif")
    said = knit("denoise", "noisy.tif", *words)
    assert "poisson-gaussian noise, gain 1.5, offset -500, taken out in " in said.stdout
    said = knit("denoise", "noisy.tif", *words[:2], "--json", "-o", "c.tif")
    (told,) = json.loads(said.stdout)["noise"]
    assert {"kind", "blind_spot"} <= set(told)


def test_residual_and_expected_error(noisy, knit, record):
    knit("denoise", "noisy.tif", "--save-residual", "--save-std")
    before, after = read_image("noisy.tif"), read_image("noisy_denoised.tif")
    residual, std = read_image("noisy_denoised_residual.tif"), read_image("noisy_denoised_std.tif")
    assert (residual.data == before.data.astype(np.float32) - after.data).all()
    assert (std.data > 0).all()
    for image in (residual, std):
        assert (image.dtype, image.axes) == (np.float32, "YX")
        assert image.pixel_size == {"X": 0.5, "Y": 0.5}
    files = record("noisy_denoised.tif")["files"]
    assert files["residual"] == "noisy_denoised_residual.tif"
    assert "mask" not in files


def test_outputs_in_the_input_folder_are_no_inputs(noisy, folder, knit):
    (folder / "cells.tif").unlink()
    (folder / "dust.png").unlink()
    knit("denoise", ".", "--save-residual", "--save-std")
    said = knit("denoise", ".", "--overwrite")
    assert said.stdout.count("\n") == 1
    assert said.stdout.startswith("noisy.tif -> noisy_denoised.tif")


def test_planes_of_a_stack_and_channels(folder, knit):
    rng = np.random.default_rng(0)
    stack = rng.integers(900, 1100, (3, 24, 24)).astype(np.uint16)
    tifffile.imwrite("movie.tif", stack, imagej=True, metadata={"axes": "TYX"})
    said = knit("denoise", "movie.tif", "--noise", "gaussian")
    assert "gaussian noise, sigma " in said.stdout
    assert ", median of 3 planes, taken out in " in said.stdout
    colours = {"axes": "CYX", "Channel": {"Name": ["DNA", "actin", "tubulin"]}}
    tifffile.imwrite("colours.ome.tif", stack, metadata=colours)
    words = ("--sigma", 50, "--save-residual", "--channels", "separate")
    assert "sigma 50, median of 3 channels" in knit("denoise", "colours.ome.tif", *words).stdout
    after = read_image("colours_denoised.ome.tif")
    assert (after.axes, after.channel_names) == ("CYX", ("DNA", "actin", "tubulin"))
    assert read_image("colours_denoised_residual.tif").axes == "CYX"


def test_a_flat_image_comes_back(folder, knit):
    tifffile.imwrite("flat.tif", np.full((24, 24), 7, np.uint8))
    assert "no noise found" in knit("denoise", "flat.tif").stdout
    assert (read_image("flat_denoised.tif").data == 7).all()


def test_what_cannot_be_denoised_is_told(folder, knit):
    holes = np.full((24, 24), 7, np.float32)
    holes[3, 4] = np.nan
    tifffile.imwrite("holes.tif", holes)
    tifffile.imwrite("marks.tif", holes > 8)
    said = knit("denoise", "holes.tif", "marks.tif", code=1)
    assert "Error: holes.tif: 1 values are NaN or infinite" in said.stderr
    assert "Error: marks.tif: two values only (bool)" in said.stderr
    knit("denoise", "holes.tif", "--nan-as-hole")
    assert np.isfinite(read_image("holes_denoised.tif").data).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sigma", "5", "--gain", "1", "--offset", "0"], "give sigma, or gain and offset"),
        (["--noise", "gaussian", "--gain", "1", "--offset", "0"], "belong to poisson-gaussian"),
        (["--gain", "1"], "give gain and offset together"),
        (["--sigma", "-1"], "is not in the range"),
        (["--blind-spot", "z"], "`blind_spot`"),
        (["--mask", "dust.png"], "No such option"),
        (["--save-synthesised"], "No such option"),
    ],
)
def test_settings_that_contradict_each_other(folder, knit, words, message):
    said = knit("denoise", "cells.tif", *words, code=2)
    assert message in " ".join(said.stderr.split())
    assert sorted(path.name for path in folder.iterdir()) == ["cells.tif", "dust.png"]
