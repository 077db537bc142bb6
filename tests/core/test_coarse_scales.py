"""Coarser copies of a noisy image, and what is mixed in from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft
import torch

import knitcore
from knitcore.coarse_scales import (
    coarse_shares,
    cosine_transform,
    gain_of,
    inverse_cosine_transform,
    mix,
    noise_at,
    shrink,
)
from knitcore.noise_model import Noise


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def wave(sides: tuple[int, int], y: int, x: int) -> torch.Tensor:
    """A product of cosines with so many half waves along each side."""
    rows, columns = (
        torch.cos(math.pi * k * (torch.arange(n, dtype=torch.float64) + 0.5) / n)
        for n, k in zip(sides, (y, x), strict=True)
    )
    return (rows[:, None] * columns).float()


@pytest.mark.parametrize("n", [1, 2, 7, 12, 61])
def test_the_transform_is_that_of_scipy_and_back(n: int, draw: torch.Generator) -> None:
    values = torch.randn(3, n, generator=draw)
    waves = cosine_transform(values)
    expected = scipy.fft.dct(values.double().numpy(), norm="ortho")
    np.testing.assert_allclose(waves.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(inverse_cosine_transform(waves), values, atol=1e-5, rtol=0)


def test_grey_levels_and_slow_waves_are_the_same_at_the_coarse_resolution() -> None:
    level = torch.full((2, 1, 48, 60), 7.0)
    torch.testing.assert_close(shrink(level, 1.5), torch.full((2, 1, 32, 40), 7.0))
    small = shrink(wave((48, 60), 4, 9)[None, None], 1.5)
    torch.testing.assert_close(small[0, 0], wave((32, 40), 4, 9), atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [1.5, 2.0])
def test_white_noise_stays_white_and_gets_weaker(factor: float, draw: torch.Generator) -> None:
    noise = torch.randn(4, 1, 192, 180, generator=draw)
    small = shrink(noise, factor)
    gain = gain_of((192, 180), (small.shape[2], small.shape[3]))
    assert gain == pytest.approx(factor, rel=0.01)
    small *= gain
    assert float(small.var()) == pytest.approx(1, rel=0.05)
    for shift in ((0, 1), (1, 0), (1, 1)):
        beside = small.roll(shift, (2, 3))
        assert abs(float((small * beside).mean())) < 0.02


def test_what_the_coarse_image_has_more_of_is_added_at_full_resolution(
    draw: torch.Generator,
) -> None:
    values = torch.rand(3, 2, 48, 60, generator=draw)
    small = shrink(values, 2.0)
    torch.testing.assert_close(mix(values, [(small, 0.4)]), values, atol=1e-5, rtol=0)
    more = mix(values, [(small + wave((24, 30), 3, 5), 0.5)], strength=0.5)
    expected = values + 0.25 * wave((48, 60), 3, 5)
    torch.testing.assert_close(more, expected, atol=1e-4, rtol=0)
    # the highest waves of the coarse image are not trusted
    none = mix(values, [(small + wave((24, 30), 23, 5), 0.4)])
    torch.testing.assert_close(none, values, atol=1e-5, rtol=0)
    assert mix(values, []) is values


def test_a_long_image_takes_no_more_memory_than_a_square_one() -> None:
    long = torch.zeros(1, 1, 32, 60_000)
    assert shrink(long, 1.5).shape == (1, 1, 21, 40_000)


def test_noise_at_the_coarse_scale_follows_the_level_of_the_full_one() -> None:
    noise = Noise("poisson-gaussian", (2.0, 0.0), (3.0, 5.0), (0.1, 0.1))
    level = torch.tensor([[1.0, 50.0], [1.0, 50.0]])
    torch.testing.assert_close(noise_at(noise, 1.5).variance(1.5 * level), noise.variance(level))


def test_shares_follow_the_noise() -> None:
    assert coarse_shares(0.4, 3, 2.0) == [0.4, 0.2, 0.1]
    assert coarse_shares(0.4, 2, 15.0) == pytest.approx([0.2, 0.1])  # half way
    assert coarse_shares(0.4, 2, 30.0) == []
    assert coarse_shares(0.0, 2, 2.0) == []


@pytest.fixture
def stripes() -> np.ndarray:
    """Stripes and a slope, 96 × 96: more of them in a patch of the coarse image."""
    y, x = np.mgrid[:96, :96]
    return (120 + 0.4 * y + 25 * np.sin((x + 0.5 * y) / 2.5)).astype(np.float32)


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image - truth) ** 2)))


@pytest.mark.parametrize("axes", ["YX", "ZYX", "YXS"])
def test_strong_noise_is_taken_away_better(
    axes: str, stripes: np.ndarray, rng: np.random.Generator
) -> None:
    truth = {
        "YX": stripes,
        "ZYX": np.stack([stripes, stripes]),
        "YXS": np.stack([stripes, stripes / 2, 255 - stripes], -1),
    }[axes]
    noisy = (truth + rng.normal(0, 30, truth.shape)).astype(np.float32)
    told = {"axes": axes, "steps": 100, "sigma": 30.0}
    alone = knitcore.denoise(noisy, coarse_weight=0, **told)
    mixed = knitcore.denoise(noisy, **told)
    assert error(mixed.image, truth) < 0.97 * error(alone.image, truth)
    assert np.mean(np.abs(mixed.image - truth) <= 2 * mixed.std) > 0.9


def test_weak_noise_is_left_to_the_full_image(
    stripes: np.ndarray, rng: np.random.Generator
) -> None:
    noisy = (stripes + rng.normal(0, 3, stripes.shape)).astype(np.float32)
    told = {"sigma": 3.0, "steps": 20}
    alone = knitcore.denoise(noisy, coarse=(), **told)
    np.testing.assert_array_equal(knitcore.denoise(noisy, **told).image, alone.image)


def test_small_images_have_no_coarser_ones(rng: np.random.Generator) -> None:
    noisy = rng.normal(100, 20, (12, 20)).astype(np.float32)
    told = {"sigma": 20.0, "steps": 20}
    alone = knitcore.denoise(noisy, coarse=(), **told)
    np.testing.assert_array_equal(knitcore.denoise(noisy, **told).image, alone.image)


@pytest.mark.parametrize("coarse", [(2.0, 1.5), (0.5,), (20.0,), "many"])
def test_factors_that_make_no_sense_are_refused(coarse: object) -> None:
    with pytest.raises(knitcore.RecipeError, match="coarse"):
        knitcore.denoise(np.zeros((20, 20)), coarse=coarse)
