"""Super-resolution as a user calls it: geometry, consistency, and quality on a real image."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import center_of_mass, gaussian_filter, zoom
from skimage import data as pictures

import knitcore as knit

TINY = {"passes": 1, "window": 4, "group": 12}


@pytest.fixture(scope="module")
def neuron(request):
    path = request.config.rootpath / "tests/data/fluo_neuron_16bit.tif"
    return tifffile.imread(path)[200:328, 200:328]


def shrink(image, factor, sigma):
    """Blur and sample so that coarse pixel i lies at fine coordinate i * s + (s - 1) / 2."""
    blurred = gaussian_filter(image.astype(float), sigma)
    place = (np.arange(image.shape[0] // factor) * factor + (factor - 1) / 2) % 1
    if place[0]:  # between two pixels: the mean of both
        blurred = (blurred[:-1] + blurred[1:])[:, :-1] / 4 + (blurred[:-1] + blurred[1:])[:, 1:] / 4
    start = (factor - 1) // 2
    return blurred[start::factor, start::factor][
        : image.shape[0] // factor, : image.shape[1] // factor
    ]


# laws -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float16", "float32", "float64", ">u2"]),
    case=st.sampled_from(
        [
            ((12, 14), "YX", "2", (24, 28)),
            ((12, 14, 3), "YXS", "2", (24, 28, 3)),
            ((12, 14, 4), "YXS", "1.5", (18, 21, 4)),
            ((2, 12, 14), "CYX", "3", (2, 36, 42)),
            ((2, 12, 14), "TYX", "2", (2, 24, 28)),
            ((3, 12, 14), "ZYX", "1x2x2", (3, 24, 28)),
            ((8, 10, 12), "ZYX", "2x1x1", (16, 10, 12)),
            ((12, 14), "YX", "1x2", (12, 28)),
        ]
    ),
    seed=st.integers(0, 1000),
)
def test_shape_dtype_kernel_and_finiteness(dtype, case, seed):
    shape, axes, scale, enlarged = case
    image = (np.random.default_rng(seed).random(shape) * 200).astype(dtype)
    result = knit.super_resolve(image, scale, "gaussian:0.8", axes=axes, **TINY)
    assert result.image.shape == result.std.shape == result.synthesised.shape == enlarged
    assert result.image.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.isfinite(result.image.astype(float)).all()
    assert np.isfinite(result.std).all()
    assert result.kernel.sum() == pytest.approx(1, abs=1e-3)
    middle = [(n - 1) / 2 for n in result.kernel.shape]
    np.testing.assert_allclose(center_of_mass(result.kernel), middle, atol=0.05)
    assert result.record["kernel"]["sum"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [1.5, 2, 3, 3.7])
@pytest.mark.parametrize(("anchor", "half"), [("centre", 0.5), ("corner", 0.0)])
def test_a_spot_stays_in_its_place(scale, anchor, half):
    """Output pixel i lies at input coordinate (i + 1/2) / s - 1/2; with the anchor corner at i / s."""
    y, x = np.mgrid[:24, :28]
    image = 1000 * np.exp(-((y - 10.3) ** 2 + (x - 15.6) ** 2) / 8).astype(np.float32)
    result = knit.super_resolve(image, scale, "gaussian:1", anchor=anchor, **TINY)
    found = center_of_mass(np.clip(result.image, 0, None))
    there = [(place + half) * scale - half for place in center_of_mass(image)]
    np.testing.assert_allclose(found, there, atol=0.1)


@pytest.mark.parametrize("anchor", ["centre", "corner"])
def test_the_article_s_knitwork_has_the_same_geometry(anchor):
    """Few steps already bring a bright half to its side."""
    image = np.zeros((12, 12), np.float32)
    image[:, 6:] = 100
    fields = {"steps": 150, "width": 24, "frequencies": 12, "fourier_scales": (2.0,), "tile": 64}
    result = knit.super_resolve(
        image, 2, "delta", preset="paper", anchor=anchor, alpha=1.0, rate=5e-3, **fields
    )
    middle = result.image[6:-6].mean(0)
    half = 0.5 if anchor == "centre" else 0.0
    edge = np.interp(50, middle[8:16], np.arange(8, 16))
    assert edge == pytest.approx((5.5 + half) * 2 - half, abs=0.7)


def test_more_noise_makes_a_smoother_result(neuron):
    image = neuron[:40, :40]
    rough = knit.super_resolve(image, 2, "gaussian:1.4", sigma=1.0, **TINY)
    smooth = knit.super_resolve(image, 2, "gaussian:1.4", sigma=200.0, **TINY)
    variation = [np.abs(np.diff(r.image.astype(float))).sum() for r in (rough, smooth)]
    assert variation[1] < 0.9 * variation[0]


def test_pixel_size_shrinks_with_the_factor(data):
    stack = knit.read_image(data / "zstack_nucleus_crop.tif")
    from dataclasses import replace

    small = replace(stack, data=np.asarray(stack.data)[:2, :16, :16])
    result = knit.super_resolve(small, "1x2x2", "delta", **TINY)
    before, after = small.pixel_size, result.as_image().pixel_size
    assert after == pytest.approx({"Z": before["Z"], "Y": before["Y"] / 2, "X": before["X"] / 2})
    assert result.as_image().unit == small.unit
    with pytest.raises(knit.InputError, match="no residual"):
        _ = result.residual


def test_same_seed_same_pixels_and_the_record_repeats_the_run(neuron, tmp_path):
    image = neuron[:32, :32]
    first = knit.super_resolve(image, 2, seed=3, **TINY)
    path = tmp_path / "run.knit.json"
    path.write_text(json.dumps(first.record))
    again = knit.run(knit.load_recipe(path), image)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.kernel, again.kernel)


def test_a_kernel_may_be_an_array_or_a_file(neuron, tmp_path):
    image = neuron[:24, :24]
    named = knit.super_resolve(image, 2, "gaussian:1.2", **TINY)
    given_array = knit.super_resolve(image, 2, named.kernel, **TINY)
    assert given_array.record["recipe"]["kernel"] == "given"
    path = tmp_path / "psf.tif"
    tifffile.imwrite(path, named.kernel.astype(np.float32))
    from_file = knit.super_resolve(image, 2, str(path), **TINY)
    for other in (given_array, from_file):
        difference = np.abs(other.image.astype(float) - named.image)
        assert difference.max() <= 0.02 * np.ptp(image)


def test_alpha_is_enlarged_with_the_picture():
    image = np.full((16, 16, 4), 100, np.uint8)
    image[:8, :, 3], image[8:, :, 3] = 0, 255
    result = knit.super_resolve(image, 2, "delta", **TINY)
    assert (result.image[:15, :, 3] == 0).all()
    assert (result.image[17:, :, 3] == 255).all()
    assert (result.image[..., :3] == 100).all()


# quality ----------------------------------------------------------------------------------------


def test_blind_beats_cubic_interpolation_and_keeps_its_promise(neuron):
    low = np.rint(shrink(neuron, 2, 1.6)).astype(np.uint16)
    result = knit.super_resolve(low, 2)
    cubic = zoom(low.astype(float), 2, order=3, grid_mode=True, mode="nearest")
    inner = (slice(8, -8),) * 2
    truth = neuron.astype(float)

    def error(image):
        return np.sqrt(np.mean((image[inner].astype(float) - truth[inner]) ** 2))

    assert error(result.image) < error(cubic)
    # degrading the result again gives back the input within its noise
    residual = result.record["residual"][0]
    assert residual["rms"][0] <= max(1.0, 1.5 * residual["noise"])


def test_a_flat_image_stays_flat():
    image = np.full((20, 20), 77, np.uint8)
    assert (knit.super_resolve(image, 3).image == 77).all()


def test_paper_preset_learns_a_kernel_and_renders_any_factor(neuron):
    small = {"steps": 3, "width": 16, "frequencies": 8}
    result = knit.super_resolve(neuron[:20, :24], 2.5, preset="paper", **small)
    assert result.image.shape == (50, 60)
    assert {"xpatch", "pixel", "kernel", "gan"} <= set(result.record["losses"])
    assert result.kernel.sum() == pytest.approx(1, abs=1e-3)
    assert result.record["kernel"]["learned"]


# events and cancel ------------------------------------------------------------------------------


def test_progress_rises_to_one_and_previews_are_boxes_of_the_result(neuron):
    events = list(knit.super_resolve_steps(neuron[:40, :40], 2, previews=True, **TINY))
    fractions = [e.fraction for e in events if isinstance(e, knit.Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    previews = [e for e in events if isinstance(e, knit.Preview)]
    assert previews[-1].values.shape == (80, 80)


def test_cancel_ends_the_run_at_the_next_event(neuron):
    stop = threading.Event()

    def on_event(event):
        if isinstance(event, knit.Progress) and event.fraction > 0.05:
            stop.set()

    with pytest.raises(knit.Cancelled):
        knit.super_resolve(neuron, 2, on_event=on_event, cancel=stop)


# bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "fields", "error", "words"),
    [
        (np.zeros((20, 20), bool), {}, knit.InputError, "two values only"),
        (np.zeros((20, 20), complex), {}, knit.InputError, "complex"),
        (np.zeros((2, 30), np.uint8), {}, knit.InputError, "too small for super-resolution"),
        (np.zeros((20, 20), np.uint8), {"scale": 9}, knit.RecipeError, "between 1 and 8"),
        (np.zeros((20, 20), np.uint8), {"scale": "two"}, knit.RecipeError, "factor such as 2"),
        (np.zeros((20, 20), np.uint8), {"scale": "2x2x2"}, knit.InputError, "3 factors for 2 axes"),
        (np.zeros((20, 20), np.uint8), {"kernel": "gaussian:x"}, knit.RecipeError, "gaussian:S"),
        (np.zeros((20, 20), np.uint8), {"kernel": "no.tif"}, knit.FileError, "no.tif"),
        (np.zeros((20, 20), np.uint8), {"kernel": np.zeros((3, 3))}, knit.InputError, "above 0"),
        (np.full((20, 20), np.nan, np.float32), {}, knit.InputError, "NaN or infinite"),
    ],
)
def test_what_cannot_be_done_is_refused(image, fields, error, words):
    with pytest.raises(error, match=words):
        knit.super_resolve(image, **fields)


def test_time_cannot_be_super_resolved():
    with pytest.raises(knit.InputError, match="time"):
        knit.super_resolve(np.zeros((4, 20, 20), np.uint8), "2x2x2", axes="TYX")


def test_a_hot_pixel_stays_in_its_place_and_spoils_nothing(data):
    """A real hot pixel of 60 000 among signals below 100."""
    image = tifffile.imread(data / "twochannel_hotpixel_crop.tif")
    y, x = np.unravel_index(np.argmax(image[0]), image[0].shape)
    part = image[:, max(0, y - 30) : y + 30, max(0, x - 30) : x + 30]
    result = knit.super_resolve(part, 2, axes="CYX")
    assert result.image.max() <= 1.2 * part.max()
    far = np.abs(np.arange(result.image.shape[1]) - 2 * min(y, 30)) > 24
    assert result.image[:, far].max() < 3 * np.percentile(part, 99)


def test_progress_is_told_about_ten_times_a_second_and_at_each_change():
    """Search and posterior of a small image yield hundreds of times a second."""
    image = pictures.astronaut()[40:104, 180:260]
    events = []
    start = time.monotonic()
    knit.super_resolve(image, 2, on_event=events.append)
    seconds = time.monotonic() - start
    stages = [event.stage for event in events if isinstance(event, knit.Progress)]
    changes = sum(a != b for a, b in itertools.pairwise(stages))
    assert changes >= 4
    assert len(stages) <= changes + 10 * seconds + 10
