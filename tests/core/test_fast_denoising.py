"""One canvas from noise to result."""

import threading

import numpy as np
import pytest
import torch
from skimage import data as pictures

from knitcore.events import Alongside
from knitcore.fast_denoising import denoise_steps_on_canvas, replace_lone, standing_out
from knitcore.noise_model import Noise
from knitcore.recipe import Denoise

QUICK = {"steps": 60, "width": 48}


def canvas_steps(values, joint=True, cores=1, **fields):
    recipe = Denoise(**{**QUICK, **fields})
    values, step = np.asarray(values, np.float32), (1.0,) * (np.ndim(values) - 1)
    device = torch.device("cpu")
    return denoise_steps_on_canvas(values, step, recipe, device, "test", joint, cores)


def canvas(values, joint=True, cores=1, **fields):
    """The result and the stages on the way to it."""
    steps, stages = canvas_steps(values, joint, cores, **fields), []
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


def test_twice_the_most_steps_in_weak_noise_are_no_error():
    clean = picture(1, 24, 24)
    done, _ = canvas(clean + noise(clean.shape, 2.0), sigma=2.0, steps=1_000_000, passes=0)
    assert error(done.clean, clean) < 2.0


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
    assert not done.std.any()


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
    assert not done.std[1].any()
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


def test_the_colours_alone_are_refined_further():
    """Colours differ from each other more smoothly than they are bright: brightness stays as it was."""
    clean = np.moveaxis(pictures.astronaut()[80:176, 180:276], -1, 0).astype(np.float32)
    noisy = clean + noise(clean.shape, 10)
    plain, _ = canvas(noisy, sigma=10.0)
    again, stages = canvas(noisy, sigma=10.0, colour_patches=(5, 7))
    off = [((one.clean - clean) ** 2).mean() for one in (plain, again)]
    assert off[1] < off[0]
    np.testing.assert_allclose(again.clean.mean(0), plain.clean.mean(0), atol=0.05)
    assert "colours" in {stage.text for stage in stages}
    told = [stage.done for stage in stages]
    assert told == sorted(told)
    assert told[-1] <= 1


@pytest.mark.parametrize("why", ["a single channel", "noise that grows with the signal", "apart"])
def test_where_there_are_no_colours_they_are_not_refined(why):
    shape = (1 if why == "a single channel" else 2, 48, 48)
    noisy = picture(*shape) + noise(shape)
    fields = {"gain": 0.5, "offset": 50.0} if why.startswith("noise") else {"sigma": 10.0}
    plain, _ = canvas(noisy, why != "apart", **fields)
    again, _ = canvas(noisy, why != "apart", colour_patches=(5,), **fields)
    np.testing.assert_array_equal(again.clean, plain.clean)


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


def test_a_hot_pixel_has_a_wide_error_and_may_be_kept():
    clean = picture(1, 72, 72)
    noisy = clean + noise(clean.shape)
    noisy[0, 30, 50] = 5000
    replaced, _ = canvas(noisy)
    assert replaced.std[0, 30, 50] >= abs(5000 - replaced.clean[0, 30, 50]) * 0.45
    kept, _ = canvas(noisy, hot_pixels="keep")
    assert kept.clean[0, 30, 50] == pytest.approx(5000)
    assert error(np.delete(kept.clean, 30, 1), np.delete(clean, 30, 1)) < 4


def test_a_point_of_light_is_no_defect():
    y, x = np.mgrid[:20, :20]
    values = 1000 * np.exp(-((y - 9) ** 2 + (x - 12) ** 2) / 2 / 0.6**2)[None, None]
    values[0, 0, 3, 4] = 1000
    replaced, count = replace_lone(
        torch.tensor(values, dtype=torch.float32), Noise("gaussian", (0.0,), (100.0,), (100.0,))
    )
    assert count == 1
    assert replaced[0, 0, 3, 4] < 10
    assert replaced[0, 0, 9, 12] == 1000


def test_single_bright_pixels_are_kept_as_measured_and_counted():
    clean = np.full((1, 96, 96), 100.0)
    clean[0, 10:90:20, 30] += 90
    noisy = clean + noise(clean.shape)
    done, _ = canvas(noisy, hot_pixels="keep")
    np.testing.assert_allclose(done.clean[clean > 100], noisy[clean > 100], rtol=1e-5)
    assert done.notes[-1].text.startswith("4 pixels stand out")
    assert done.std[clean > 100] == pytest.approx(10, rel=0.2)
    assert error(done.clean[clean == 100], 100) < 2


def test_what_stands_out_of_white_noise():
    white = Noise("gaussian", (0.0,), (4.0,), (4.0,))
    off = torch.zeros(1, 1, 20, 20)
    off[0, 0, 3, 3], off[0, 0, 3, 15] = 11.2, 10.0  # 5.6 and 5 deviations
    off[0, 0, 12:14, 8] = -9.0  # two together
    off[0, 0, 12, 15], off[0, 0, 12, 16] = 9.0, -9.0
    found = standing_out(off, torch.zeros_like(off), white)
    assert found.nonzero()[:, 2:].tolist() == [[3, 3], [12, 8], [13, 8]]
    lined = Noise("gaussian", (0.0,), (4.0,), (4.0,), along_y=(1.0, 0.5))
    assert standing_out(off, torch.zeros_like(off), lined).sum() == 1


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_noise_alone_does_not_stand_out(kind):
    rng, shape = np.random.default_rng(3), (1, 128, 128)
    photons = picture(*shape) / 20
    noisy = rng.normal(100, 10, shape) if kind == "gaussian" else rng.poisson(photons)
    done, _ = canvas(noisy)
    assert not [note for note in done.notes if "kept" in note.text]


def test_white_noise_of_a_small_image_raises_no_warning():
    for seed in range(3):
        done, _ = canvas(100 + noise((1, 48, 56), seed=seed))
        assert done.noise.kind == "gaussian"
        assert not done.notes


@pytest.mark.parametrize("given", [{"sigma": 5.0}, {"gain": 1e6, "offset": 0.0}])
@pytest.mark.parametrize("image", [np.full((1, 40, 40), 7.0), picture(1, 40, 40)])
def test_a_noise_that_is_not_there_is_not_said_to_be_correlated(image, given):
    done, _ = canvas(image, **given)
    assert not [note for note in done.notes if "correlated" in note.text]


def test_both_axes_of_a_square_are_named():
    white = noise((1, 98, 98), 15)
    row = (white[..., :-2] + 2 * white[..., 1:-1] + white[..., 2:]) / 6**0.5
    both = (row[:, :-2] + 2 * row[:, 1:-1] + row[:, 2:]) / 6**0.5
    clean = picture(1, 96, 96)
    done, _ = canvas(clean + both, blind_spot="1")
    assert "along x (0." in done.notes[-1].text
    assert "and y (0." in done.notes[-1].text
    plain, _ = canvas(clean + both)
    assert error(done.clean, clean) < error(plain.clean, clean)


def test_gaussian_noise_asked_for_has_the_mean_strength_of_one_that_grows():
    clean = np.linspace(0.2, 4, 128) * np.ones((1, 128, 1))
    counts = np.random.default_rng(0).poisson(clean)
    done, _ = canvas(counts, noise="gaussian")
    assert done.noise.kind == "gaussian"
    assert done.noise.offset[0] == pytest.approx(2.1, rel=0.25)
    assert done.notes[0].level == "warning"
    assert "poisson-gaussian fits better" in done.notes[0].text


@pytest.mark.parametrize("channels", [1, 3])
def test_two_cores_find_the_same_as_one_in_weak_noise(monkeypatch, channels):
    from knitcore import fast_denoising

    monkeypatch.setattr(fast_denoising, "fit_threads", lambda: 1)
    noisy = picture(channels, 90, 96) + noise((channels, 90, 96), 4.0)
    one, two = (canvas(noisy, cores=cores, preset="quality", steps=30)[0] for cores in (1, 2))
    np.testing.assert_array_equal(one.clean, two.clean)
    np.testing.assert_array_equal(one.std, two.std)


@pytest.mark.parametrize("lowered", [False, True])
def test_two_cores_find_the_same_as_one(monkeypatch, lowered):
    from knitcore import fast_denoising

    made = []
    inner = fast_denoising.pilot_steps

    def fit(*told, check, **fields):
        clean, noise = yield from inner(*told, check=check, **fields)
        return clean, noise.times(0.9) if check and lowered else noise

    monkeypatch.setattr(fast_denoising, "pilot_steps", fit)
    monkeypatch.setattr(
        fast_denoising, "Alongside", lambda steps: made.append(Alongside(steps)) or made[-1]
    )
    monkeypatch.setattr(fast_denoising, "fit_threads", lambda: 1)
    noisy = picture(3, 96, 90) + noise((3, 96, 90), 30.0)
    one = canvas(noisy, cores=1, preset="quality")
    assert not made
    two = canvas(noisy, cores=2, preset="quality")
    # the coarse images, anew where the noise turned out weaker, larger patches, colours
    assert len(made) == 3 + lowered
    np.testing.assert_array_equal(one[0].clean, two[0].clean)
    np.testing.assert_array_equal(one[0].std, two[0].std)
    done = [stage.done for stage in two[1]]
    assert done == sorted(done)


def test_no_thread_is_left_behind_when_a_run_is_stopped(monkeypatch):
    monkeypatch.setattr("knitcore.fast_denoising.fit_threads", lambda: 1)
    before, torch_threads = set(threading.enumerate()), torch.get_num_threads()
    steps = canvas_steps(picture(3, 160, 160) + noise((3, 160, 160), 30.0), cores=2, steps=400)
    for stage in steps:
        if "posteriors" in stage.text or set(threading.enumerate()) - before:
            break
    assert set(threading.enumerate()) - before  # the coarse image is under way
    steps.close()
    assert not set(threading.enumerate()) - before
    assert torch.get_num_threads() == torch_threads
