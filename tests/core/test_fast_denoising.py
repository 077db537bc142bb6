"""One canvas from noise to result."""

import numpy as np
import pytest
import torch

from knitcore.fast_denoising import denoise_steps_on_canvas, replace_lone
from knitcore.noise import Noise
from knitcore.recipe import Denoise

QUICK = {"steps": 60, "width": 48}


def canvas(values, joint=True, **fields):
    """The result and the stages on the way to it."""
    recipe, stages = Denoise(**{**QUICK, **fields}), []
    values = np.asarray(values, np.float32)
    steps = denoise_steps_on_canvas(
        values, (1.0,) * (values.ndim - 1), recipe, torch.device("cpu"), "test", joint
    )
    try:
        while True:
            stages.append(next(steps))
    except StopIteration as end:
        return end.value, stages


def picture(*shape):
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    return np.broadcast_to(100 + 40 * np.sin(x / 6) + 30 * (np.hypot(x - 30, y - 40) < 20), shape)


def noise(shape, sigma=10.0, seed=0):
    return np.random.default_rng(seed).normal(0, sigma, shape)


def error(found, clean):
    return float(np.sqrt(((found - clean) ** 2).mean()))


@pytest.mark.parametrize("sigma", [None, 10.0])
def test_most_noise_goes_and_the_error_is_known(sigma):
    clean = picture(1, 80, 96)
    done, stages = canvas(clean + noise(clean.shape), sigma=sigma)
    assert done.noise.kind == "gaussian"
    assert error(done.clean, clean) < 3.5
    assert 0.85 < (abs(done.clean - clean) <= 2 * done.std).mean() <= 1
    assert done.clean.dtype == done.std.dtype == np.float32
    assert [s.done for s in stages] == sorted(s.done for s in stages)
    assert any(s.values is not None and s.values.shape == clean.shape for s in stages)
    again, _ = canvas(clean + noise(clean.shape), sigma=sigma)
    np.testing.assert_array_equal(again.clean, done.clean)


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 40, 40), 5.0),
        np.add.outer(np.arange(40.0), np.arange(40.0))[None],
        np.indices((40, 40)).sum(0)[None] % 2 * 255.0,
        ((np.arange(60) % 7 == 0) * 200.0 + np.zeros((1, 60, 1))),
        (picture(3, 96, 96) > 110) * 255.0,
    ],
    ids=["constant", "gradient", "checkerboard", "lines", "shapes"],
)
def test_an_image_without_noise_stays_as_it_is(image):
    done, _ = canvas(image)
    assert done.noise.kind == "none"
    np.testing.assert_array_equal(done.clean, image.astype(np.float32))


def test_noise_along_x_is_widened_for_and_named():
    clean = picture(1, 96, 110)
    white = noise((1, 96, 112), 15)
    lined = (white[..., :-2] + 2 * white[..., 1:-1] + white[..., 2:]) / 6**0.5
    done, _ = canvas(clean + lined)
    blind, _ = canvas(clean + lined, blind_spot="0", sigma=15.0)
    assert done.blind_spot.startswith("x")
    assert "correlated along x" in done.notes[-1].text
    assert error(done.clean, clean) < 0.9 * error(blind.clean, clean)


def test_a_channel_without_noise_stays_and_the_others_gain():
    clean = picture(2, 72, 72)
    noisy = clean.copy()
    noisy[0] += noise(noisy[0].shape)
    noisy[1] = np.indices((72, 72))[0] // 9
    done, _ = canvas(noisy)
    np.testing.assert_array_equal(done.clean[1], noisy[1].astype(np.float32))
    assert error(done.clean[0], clean[0]) < 4
    assert done.noise.offset[1] == 0


def test_a_grey_picture_stored_as_colours_is_grey():
    clean = picture(1, 64, 64)
    grey = clean + noise(clean.shape)
    done, _ = canvas(np.repeat(grey, 3, 0))
    alone, _ = canvas(grey)
    np.testing.assert_array_equal(done.clean, np.repeat(alone.clean, 3, 0))
    assert len(done.noise.offset) == 3


def test_channels_one_by_one():
    clean = picture(2, 64, 64)
    both = clean + noise(clean.shape)
    done, stages = canvas(both, joint=False)
    alone, _ = canvas(both[:1], joint=False)
    assert done.clean.shape == clean.shape
    assert abs(done.clean[0] - alone.clean[0]).mean() < 1.5
    assert [s.done for s in stages] == sorted(s.done for s in stages)


def test_a_volume():
    clean = picture(1, 4, 48, 48)
    done, _ = canvas(clean + noise(clean.shape))
    assert done.clean.shape == done.std.shape == clean.shape
    assert error(done.clean, clean) < 2.5


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 4), (3, 9, 7), (1, 2, 8, 8)])
def test_small_canvases_do_not_fall_over(shape):
    done, _ = canvas(picture(*shape) + noise(shape), sigma=10.0)
    assert done.clean.shape == shape
    assert np.isfinite(done.clean).all()
    assert np.isfinite(done.std).all()


def test_a_line_is_too_thin_and_says_so():
    image = noise((1, 1, 50))
    done, _ = canvas(image)
    np.testing.assert_array_equal(done.clean, image.astype(np.float32))
    assert done.notes[0].level == "warning"


def test_one_hot_pixel_spoils_nothing():
    clean = picture(1, 72, 72)
    noisy = clean + noise(clean.shape)
    noisy[0, 30, 50] = 60_000
    done, _ = canvas(noisy)
    assert done.clean.max() < 250
    assert error(done.clean, clean) < 4
    assert "1 pixels" in done.notes[0].text


def test_a_line_one_pixel_wide_is_no_defect():
    values = torch.zeros(1, 1, 20, 20)
    values[..., 7] = 1000
    values[0, 0, 3, 14] = 1000
    replaced, count = replace_lone(values, Noise("gaussian", (0.0,), (1.0,), (1.0,)))
    assert count == 1
    assert replaced[0, 0, 3, 14] == 0
    assert (replaced[..., 7] == 1000).all()
