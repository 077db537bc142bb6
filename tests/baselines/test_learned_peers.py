"""Each learned peer does what its paper says, seen by a property that breaks with it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from knitcore import psnr
from knitcore.baselines import coordinate_mlp, deep_image_prior, noise2fast, zs_n2n
from knitcore.errors import Cancelled, InputError
from knitcore.events import Preview, Progress, drain

CPU = {"device": "cpu"}


@pytest.fixture
def smooth() -> np.ndarray:
    """A smooth colour picture, 24 x 32, 8 bits."""
    y, x = np.mgrid[:24, :32]
    planes = [128 + 90 * np.sin((y + k * x) / 9 + k) for k in range(3)]
    return np.uint8(np.stack(planes, -1))


@pytest.fixture
def hole(smooth) -> np.ndarray:
    mask = np.zeros(smooth.shape[:2], bool)
    mask[8:13, 10:18] = True
    return mask


def noisy_version(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 25, picture.shape)
    return np.uint8(np.clip(picture + noise, 0, 255))


# name: (seconds-short call on a picture and a hole)
SHORT = {
    "mlp": lambda p, h, **k: coordinate_mlp.inpaint_coordinate_mlp(p, h, steps=3, **k),
    "mlp batch": lambda p, h, **k: coordinate_mlp.inpaint_coordinate_mlp(
        p, h, steps=3, batch=64, **k
    ),
    "dip": lambda p, h, **k: deep_image_prior.inpaint_deep_image_prior(p, h, steps=3, **k),
    "zs-n2n": lambda p, h, **k: zs_n2n.denoise_zs_n2n(p, steps=3, **k),
    "noise2fast": lambda p, h, **k: noise2fast.denoise_noise2fast(p, steps=3, **k),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_seed_is_one_result_and_nothing_global_moves(name, smooth, hole):
    state, dtype, threads = (
        torch.get_rng_state(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    once = SHORT[name](smooth, hole, seed=4, **CPU)
    assert once.dtype == np.float32
    assert once.shape == smooth.shape
    assert np.array_equal(once, SHORT[name](smooth, hole, seed=4, **CPU))
    assert not np.array_equal(once, SHORT[name](smooth, hole, seed=5, **CPU))
    assert torch.equal(state, torch.get_rng_state())
    assert (dtype, threads) == (torch.get_default_dtype(), torch.get_num_threads())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", SHORT)
def test_a_peer_stops_between_steps(name, smooth, hole):
    stop = threading.Event()
    seen: list[object] = []

    def watch(event: object) -> None:
        seen.append(event)
        stop.set()

    with pytest.raises(Cancelled):
        SHORT[name](smooth, hole, on_event=watch, cancel=stop, **CPU)
    assert len(seen) == 1


@pytest.mark.parametrize("name", SHORT)
def test_previews_come_when_asked_and_the_last_is_the_result(name, smooth, hole):
    seen: list[object] = []
    result = SHORT[name](smooth, hole, preview_every=1, on_event=seen.append, **CPU)
    pictures = [event for event in seen if isinstance(event, Preview)]
    fractions = [event.fraction for event in seen if isinstance(event, Progress)]
    assert len(pictures) == (1 if name == "noise2fast" else 3)  # that one tries every ten steps
    assert np.allclose(np.clip(pictures[-1].values, 0, 255), result, atol=1e-3)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


@pytest.mark.parametrize("name", SHORT)
def test_grey_float_pictures_of_odd_sides_keep_shape_and_range(name):
    picture = np.random.default_rng(0).uniform(-3e4, 9e4, (17, 21)).astype(np.float32)
    result = SHORT[name](picture, np.eye(17, 21, dtype=bool), **CPU)
    assert result.shape == picture.shape
    assert -2e5 < result.min() < result.max() < 2e5
    assert np.ptp(result) > 1


def test_parameter_counts_are_those_of_the_docs():
    counts = {
        "coordinate MLP": (coordinate_mlp.parameters(3), 263_683),  # article: 263 K
        "coordinate MLP, grey": (coordinate_mlp.parameters(1), 263_169),
        "deep image prior": (deep_image_prior.parameters(3), 2_217_831),  # article: 2.4 M
        "deep image prior, holes": (deep_image_prior.parameters(3, skip=0, depth=2), 2_157_955),
        "deep image prior, skips of 32": (deep_image_prior.parameters(3, skip=32), 2_395_043),
        "ZS-N2N": (zs_n2n.parameters(3), 22_275),
        "Noise2Fast": (noise2fast.parameters(3), 260_483),
        "Noise2Fast, grey": (noise2fast.parameters(1), 259_201),
    }
    for name, (count, told) in counts.items():
        print(f"{name}: {count:,} parameters")
        assert count == told, name


def test_mlp_fits_the_known_pixels_of_a_smooth_picture(smooth, hole):
    result = coordinate_mlp.inpaint_coordinate_mlp(smooth, hole, steps=60, **CPU)
    assert psnr(result, smooth, ~hole, data_range=255) > 35


def test_mlp_counts_its_parameters_as_it_has_them():
    network = coordinate_mlp.CoordinateMLP(3, 10.0, 0, torch.device("cpu"))
    assert sum(p.numel() for p in network.parameters) == coordinate_mlp.parameters(3)


def test_mlp_reads_coarse_pixels_where_the_anchor_puts_them(smooth):
    coarse = smooth[:12, :16]
    settings = {"steps": 60, "sigma": 2.0, **CPU}
    corner = coordinate_mlp.super_resolve_coordinate_mlp(coarse, 2, anchor="corner", **settings)
    centre = coordinate_mlp.super_resolve_coordinate_mlp(coarse, 3, anchor="centre", **settings)
    assert psnr(corner[::2, ::2], coarse, data_range=255) > 35
    assert psnr(centre[1::3, 1::3], coarse, data_range=255) > 35


def test_mlp_gradients_do_not_depend_on_the_rows_taken_at_once(smooth, hole, monkeypatch):
    whole = coordinate_mlp.inpaint_coordinate_mlp(smooth, hole, steps=2, **CPU)
    monkeypatch.setattr(coordinate_mlp, "CHUNK", 100)
    assert np.allclose(
        whole, coordinate_mlp.inpaint_coordinate_mlp(smooth, hole, steps=2, **CPU), atol=0.05
    )


def test_deep_image_prior_nears_the_known_pixels_step_by_step(smooth, hole):
    def at(steps: int) -> float:
        result = deep_image_prior.inpaint_deep_image_prior(smooth, hole, steps=steps, **CPU)
        return psnr(result, smooth, ~hole, data_range=255)

    early, later = at(5), at(60)
    assert later > early + 3
    assert later > 15


def test_deep_image_prior_explains_the_coarse_picture_through_the_kernel_given(smooth):
    coarse = smooth[:12, :16]
    kernel = np.zeros((3, 3))
    kernel[0, 1] = 1  # the row above
    fine = deep_image_prior.super_resolve_deep_image_prior(
        coarse, 2, anchor="corner", kernel=kernel, steps=100, **CPU
    )
    rows = np.maximum(np.arange(0, 24, 2) - 1, 0)  # beyond the edge its own pixel
    shifted = psnr(fine[rows][:, ::2], coarse, data_range=255)
    assert shifted > 18
    assert shifted > psnr(fine[1::2, ::2], coarse, data_range=255)


@pytest.mark.parametrize("anchor", ["centre", "corner"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lanczos_is_even_and_keeps_the_mean(scale, anchor):
    kernel = deep_image_prior.lanczos(scale, anchor)
    assert kernel.sum() == pytest.approx(1)
    assert np.allclose(kernel, kernel[::-1, ::-1])
    even = scale % 2 == 0 and anchor == "centre"
    assert len(kernel) % 2 == (0 if even else 1)


def test_deep_image_prior_takes_small_pictures_and_refuses_tiny_ones():
    assert deep_image_prior.scale_count(16, 300) == 3
    assert deep_image_prior.scale_count(64, 64) == 5
    picture = np.zeros((16, 16), np.uint8)
    assert deep_image_prior.denoise_deep_image_prior(picture, steps=2, **CPU).shape == (16, 16)
    with pytest.raises(InputError, match="too small"):
        deep_image_prior.denoise_deep_image_prior(np.zeros((3, 50)), steps=2, **CPU)


def test_zs_n2n_takes_the_means_of_the_diagonals():
    picture = torch.tensor(
        [
            [1.0, 2.0, 3.0, 4.0],
            [5.0, 6.0, 7.0, 8.0],
            [9.0, 10.0, 11.0, 12.0],
            [13.0, 14.0, 15.0, 20.0],
        ]
    )
    rising, falling = zs_n2n.pair_downsample(picture)
    assert rising.tolist() == [[3.5, 5.5], [11.5, 13.5]]
    assert falling.tolist() == [[3.5, 5.5], [11.5, 15.5]]


def test_noise2fast_pushes_the_colours_of_the_checkerboard_together():
    picture = torch.arange(16.0).reshape(4, 4)
    (even, odd), (even_up, odd_up) = noise2fast.checkerboard(picture)
    assert even.tolist() == [[0, 2], [5, 7], [8, 10], [13, 15]]
    assert odd.tolist() == [[1, 3], [4, 6], [9, 11], [12, 14]]
    assert even_up.tolist() == [[0, 5, 2, 7], [8, 13, 10, 15]]
    assert odd_up.tolist() == [[4, 1, 6, 3], [12, 9, 14, 11]]


def test_zs_n2n_removes_noise(smooth):
    noisy = noisy_version(smooth)
    result = zs_n2n.denoise_zs_n2n(noisy, steps=150, **CPU)
    assert psnr(result, smooth, data_range=255) > psnr(noisy, smooth, data_range=255) + 3


def test_noise2fast_removes_noise_and_ends_by_itself(smooth, monkeypatch):
    noisy, seen = noisy_version(smooth), []
    monkeypatch.setattr(noise2fast, "PATIENCE", 3)
    work = noise2fast.denoise_noise2fast_steps(noisy, preview_every=1, **CPU)
    result = drain(work, seen.append)
    pictures = [event for event in seen if isinstance(event, Preview)]
    assert 20 < len(pictures) < noise2fast.STEPS
    assert seen[-1].fraction == 1
    assert psnr(result, smooth, data_range=255) > psnr(noisy, smooth, data_range=255) + 2


def test_settings_that_cannot_be_are_refused(smooth):
    with pytest.raises(InputError, match="mask"):
        coordinate_mlp.inpaint_coordinate_mlp(smooth, np.zeros((3, 3), bool), **CPU)
    with pytest.raises(InputError, match="no known pixel"):
        deep_image_prior.inpaint_deep_image_prior(smooth, np.ones((24, 32), bool), **CPU)
    with pytest.raises(InputError, match="scale"):
        coordinate_mlp.super_resolve_coordinate_mlp(smooth, 0.5, **CPU)
    with pytest.raises(InputError, match="float16"):
        coordinate_mlp.denoise_coordinate_mlp(smooth, precision="float16", **CPU)


def test_the_docs_tell_the_counts_that_the_networks_have():
    page = (Path(__file__).resolve().parents[2] / "docs" / "baselines.md").read_text("utf-8")
    for module in (coordinate_mlp, deep_image_prior, zs_n2n, noise2fast):
        assert f"| {module.parameters(3):,} |" in page, module.__name__
