"""Denoising as a user calls it: laws that hold for every image, and quality on real ones."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import knitcore as knit

TINY = {"steps": 8, "batch": 64, "width": 16, "passes": 1, "window": 4, "group": 12}


@pytest.fixture(scope="module")
def neuron(request):
    path = request.config.rootpath / "tests/data/fluo_neuron_16bit.tif"
    return tifffile.imread(path)[200:328, 200:328]


@pytest.fixture(scope="module")
def tissue(request):
    from PIL import Image

    path = request.config.rootpath / "tests/data/rgb_ihc_crop.png"
    return np.asarray(Image.open(path))[:128, :128]


def noisy(image, sigma, seed=0):
    rng = np.random.default_rng(seed)
    return (image + rng.normal(0, sigma, image.shape)).astype(np.float32)


def error(image, truth):
    return float(np.sqrt(np.mean((image.astype(float) - truth) ** 2)))


# laws -------------------------------------------------------------------------------------------

DTYPES = ["uint8", "uint16", "int16", "uint32", "float16", "float32", "float64", ">u2"]


@settings(deadline=None, max_examples=15)
@given(
    dtype=st.sampled_from(DTYPES),
    shape_axes=st.sampled_from(
        [
            ((24, 30), "YX"),
            ((24, 30, 3), "YXS"),
            ((24, 30, 4), "YXS"),
            ((2, 24, 30), "CYX"),
            ((24, 30, 2), "YXT"),
            ((3, 20, 20), "ZYX"),
            ((5, 9), "YX"),
        ]
    ),
    seed=st.integers(0, 1000),
)
def test_dtype_shape_and_finiteness_are_kept(dtype, shape_axes, seed):
    shape, axes = shape_axes
    image = (np.random.default_rng(seed).random(shape) * 200).astype(dtype)
    result = knit.denoise(image, 10.0, axes=axes, **TINY)
    assert result.image.shape == result.std.shape == shape
    assert result.image.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.isfinite(result.image.astype(float)).all()
    assert np.isfinite(result.std).all()
    assert (result.std >= 0).all()
    assert not result.synthesised.any()
    if shape[-1] == 4:
        np.testing.assert_array_equal(result.image[..., 3], image[..., 3])  # alpha is no data


def test_same_seed_same_pixels(neuron):
    first = knit.denoise(neuron, seed=1, **TINY)
    again = knit.denoise(neuron, seed=1, **TINY)
    other = knit.denoise(neuron, seed=2, **TINY)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.std, again.std)
    assert (first.image != other.image).any()


def test_the_record_repeats_the_run(neuron, tmp_path):
    image = neuron[:64, :64]
    first = knit.denoise(image, seed=3, **TINY)
    path = tmp_path / "run.knit.json"
    path.write_text(json.dumps(first.record))
    again = knit.run(knit.load_recipe(path), image)
    np.testing.assert_array_equal(first.image, again.image)
    assert again.record["noise"] == first.record["noise"]


def test_the_input_is_not_changed(neuron):
    image = neuron[:48, :48].copy()
    knit.denoise(image, 20.0, **TINY)
    np.testing.assert_array_equal(image, neuron[:48, :48])


def test_the_residual_is_what_was_taken_away(neuron):
    result = knit.denoise(neuron[:64, :64], 20.0, **TINY)
    taken = neuron[:64, :64].astype(np.float32) - result.image
    np.testing.assert_array_equal(result.residual, taken)


def test_planes_of_a_movie_are_worked_on_one_by_one(neuron):
    movie = np.stack([neuron[:40, :40], neuron[40:80, :40]])
    both = knit.denoise(movie, 20.0, axes="TYX", **TINY)
    assert [found["where"] for found in both.record["noise"]] == ["T 0", "T 1"]


def test_colours_are_worked_on_together_and_channels_separately(tissue):
    colours = tissue[:40, :40]
    channels = np.moveaxis(colours, -1, 0)

    def noises(image, axes, **fields):
        return len(knit.denoise(image, 8.0, axes=axes, **fields, **TINY).record["noise"])

    assert noises(colours, "YXS") == 1
    assert noises(channels, "CYX") == 3
    assert noises(colours, "YXS", channels="separate") == 3
    assert noises(channels, "CYX", channels="joint") == 1


def test_the_error_of_rounding_is_part_of_std():
    counts = np.random.default_rng(0).poisson(3, (48, 48))
    exact = knit.denoise(counts.astype(np.float32), 1.7, **TINY).std
    rounded = knit.denoise(counts.astype(np.uint16), 1.7, **TINY).std
    np.testing.assert_allclose(rounded**2, exact**2 + 1 / 12, rtol=1e-3)


def test_a_sigma_far_above_the_image_s_spread_is_warned_of(neuron):
    result = knit.denoise(neuron[:40, :40], 1e6, **TINY)
    assert "far above the spread" in str(result.record["notes"])


# quality ----------------------------------------------------------------------------------------


def test_noise_of_unknown_strength_is_found_and_taken_out(tissue):
    image = noisy(tissue, 20)
    result = knit.denoise(image)
    assert error(result.image, tissue) < 0.55 * 20
    found = result.record["noise"][0]
    assert found["kind"] == "gaussian"
    assert found["sigma"] == pytest.approx(20, rel=0.1)
    inside = np.abs(result.image - tissue.astype(float)) <= 2 * result.std
    assert 0.85 < inside.mean() <= 1


def test_what_is_taken_out_of_noise_looks_like_noise(tissue):
    """No structure in the residual: neighbours do not agree, and its size is that of the noise."""
    result = knit.denoise(noisy(tissue, 20), 20.0)
    taken = result.residual[..., 1]
    assert taken.std() == pytest.approx(20, rel=0.2)
    assert abs(np.corrcoef(taken[:, 1:].ravel(), taken[:, :-1].ravel())[0, 1]) < 0.15


def test_paper_preset_runs_the_article_on_the_whole_image(neuron):
    image = neuron[:48, :56]
    result = knit.denoise(image, preset="paper", steps=3, width=32, frequencies=16)
    assert {"recon", "xpatch", "pixel", "gan", "discriminator"} <= set(result.record["losses"])
    assert result.image.dtype == image.dtype
    assert "ensemble" in str(result.record["notes"])


def test_paper_preset_with_several_networks_knows_their_scatter(neuron):
    result = knit.denoise(
        neuron[:40, :40], preset="paper", steps=3, width=16, frequencies=8, ensemble=2
    )
    assert (result.std > 0).all()


# images without noise ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_comes_back(value):
    image = np.full((40, 50), value, np.uint16)
    result = knit.denoise(image)
    np.testing.assert_array_equal(result.image, image)
    assert result.record["noise"][0]["kind"] == "none"
    assert "no noise was found" in str(result.record["notes"])


@pytest.mark.parametrize("preset", ["fast", "quality"])
def test_a_padded_image_keeps_its_padding(neuron, preset):
    """Patches of the padding are all alike, and some were in no group: their pixels came out as the median."""
    image = noisy(neuron.astype(np.float32)[:96, :128], 60)
    image[:, 80:] = 500
    done = knit.denoise(image.astype(np.uint16), 60, preset=preset).image
    assert abs(done[:, 90:].astype(float) - 500).max() < 10


@pytest.mark.parametrize("padding", [0, 65535])
def test_a_padded_image_is_denoised_as_well_as_without(neuron, padding):
    clean = np.tile(neuron, (2, 2)).astype(np.float32)[:200, :240]
    image = noisy(clean, 60).clip(0, 65535).astype(np.uint16)
    plain = knit.denoise(image)
    image[:, 150:] = padding
    done = knit.denoise(image)
    off = [error(one.image[:, :145], clean[:, :145]) for one in (plain, done)]
    assert off[1] < 1.15 * off[0]
    # what the step leaves over would look like noise that runs on along it
    assert not any("correlated" in note["text"] for note in done.record["notes"])


def drawings():
    y, x = np.mgrid[:96, :96]
    yield "checkerboard", ((y // 8 + x // 8) % 2 * 200 + 20).astype(np.uint8)
    yield "gradient", (y + x).astype(np.uint8)
    yield "disc", (((y - 48) ** 2 + (x - 40) ** 2 < 900) * 180 + 30).astype(np.uint8)
    yield "lines", ((x % 6 == 0) * 255).astype(np.uint8)
    yield "smooth", (100 + 80 * np.sin(y / 9) * np.cos(x / 7)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "image"), drawings(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_noise_free_image_comes_back_within_rounding(name, image):
    result = knit.denoise(image)
    assert np.abs(result.image.astype(int) - image).max() <= 1


# events and cancel ------------------------------------------------------------------------------


def test_progress_rises_to_one(neuron):
    events = []
    knit.denoise(np.stack([neuron[:48, :48]] * 2), 20.0, on_event=events.append, **TINY)
    fractions = [e.fraction for e in events if isinstance(e, knit.Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_previews_are_boxes_of_the_result(neuron):
    image = neuron[:96, :96]
    previews = [
        e
        for e in knit.denoise_steps(image, 20.0, previews=True, **TINY)
        if isinstance(e, knit.Preview)
    ]
    assert previews[-1].values.shape == image[previews[-1].box].shape
    assert previews[-1].values.dtype == image.dtype


def test_cancel_ends_the_run_at_the_next_event(neuron):
    stop = threading.Event()
    seen = []

    def on_event(event):
        seen.append(event)
        if isinstance(event, knit.Progress) and event.fraction > 0.05:
            stop.set()

    with pytest.raises(knit.Cancelled):
        knit.denoise(neuron, 20.0, on_event=on_event, cancel=stop)
    assert seen[-1].fraction < 0.9


# bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((20, 20), bool), "two values only"),
        (np.zeros((20, 20), complex), "complex"),
        (np.zeros((0, 20), np.uint8), "holds no pixel"),
        (np.zeros((2, 30), np.uint8), "too small for denoising"),
        (np.zeros(20, np.uint8), "at least two"),
    ],
)
def test_what_cannot_be_denoised_is_refused(image, words):
    with pytest.raises(knit.InputError, match=words):
        knit.denoise(image, **TINY)


def test_nan_is_refused_or_filled(neuron):
    image = neuron[:48, :48].astype(np.float32)
    image[10:12, 10:12] = np.nan
    image[30, 30] = np.inf
    with pytest.raises(knit.InputError, match=r"5 values are NaN or infinite.*nan_as_hole"):
        knit.denoise(image, 20.0, **TINY)
    result = knit.denoise(image, 20.0, nan_as_hole=True, **TINY)
    assert np.isfinite(result.image).all()
    assert result.synthesised.sum() == 5
    assert np.isfinite(result.residual).all()
    assert result.std[result.synthesised].min() > result.std[~result.synthesised].max()


def test_a_noise_free_image_of_many_bits_comes_back_bit_for_bit():
    image = (np.arange(64 * 64).reshape(64, 64) // 256 * 1001 + 3_000_000_001).astype(np.uint32)
    result = knit.denoise(image)
    np.testing.assert_array_equal(result.image, image)
    assert "24 bits" in str(result.record["notes"])


def test_numbers_whose_squares_cannot_be_held_are_refused():
    with pytest.raises(knit.InputError, match="rescale"):
        knit.denoise(np.random.default_rng(0).normal(1e30, 1e29, (40, 40)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sigma": -1.0}, "sigma"),
        ({"sigma": 5.0, "gain": 1.0, "offset": 0.0}, "not both"),
        ({"gain": 1.0}, "together"),
        ({"noise": "poisson-gaussian", "sigma": 5.0}, "belongs to gaussian"),
        ({"blind_spot": "z"}, "must be auto, x, y or a number from 0 to 9"),
        ({"patch": 4}, "odd"),
        ({"preset": "paper", "sigma": 5.0}, "^the knitwork .* has no use for sigma$"),
    ],
)
def test_wrong_settings_are_told(neuron, fields, words):
    with pytest.raises(knit.RecipeError, match=words):
        knit.denoise(neuron, **fields)


# memory -----------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
import numpy as np
import knitcore as knit
from knitcore import fast_denoising
side = int(sys.argv[1])
image = np.random.default_rng(0).normal(1000, 30, (side, side)).astype(np.uint16)
fields = dict(block=96, steps=4, batch=64, width=16, passes=1, window=2, group=8, stride=4)
knit.denoise(image[:320, :320], 30.0, **fields)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
knit.denoise(image, 30.0, **fields)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / side**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
def test_memory_grows_by_at_most_a_hundred_bytes_a_pixel():
    """So 4096 x 4096 pixels take less than 2 GB beyond what one block takes (docs/denoising.md)."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "1024"], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 100


@pytest.mark.parametrize("sigma", [5.0, 60.0])
def test_the_record_tells_the_noise_as_given_however_strong(sigma):
    """In strong noise less is acted upon."""
    y, x = np.mgrid[:64, :64] / 64
    noisy = 100 + 40 * np.sin(9 * x + 5 * y) + np.random.default_rng(0).normal(0, sigma, (64, 64))
    result = knit.denoise(noisy, sigma, steps=20)
    assert result.record["noise"][0]["sigma"] == sigma
