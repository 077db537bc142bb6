"""Scores: worked out by hand on small arrays."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from knitcore.errors import InputError
from knitcore.metrics import grey_range, psnr, ssim


@pytest.fixture
def truth(rng):
    return rng.integers(0, 256, (24, 32), dtype=np.uint8)


def test_psnr_of_one_grey_level_off():
    truth = np.zeros((4, 4), np.uint8)
    assert psnr(truth + 1, truth) == pytest.approx(20 * math.log10(255))
    assert psnr(truth, truth) == math.inf


def test_psnr_agrees_with_scikit_image(truth, rng):
    image = rng.integers(0, 256, truth.shape, dtype=np.uint8)
    assert psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image))


def test_only_the_region_counts(truth):
    image, hole = truth.copy(), np.zeros(truth.shape, bool)
    hole[3:6, 4:9] = True
    image[~hole] = 0
    assert psnr(image, truth, hole) == math.inf
    assert psnr(image, truth, ~hole) < 20


def test_a_flat_region_serves_all_colours(truth):
    colours = np.stack([truth] * 3, axis=-1)
    hole = np.zeros(truth.shape, bool)
    hole[3, 4] = True
    off = colours.copy()
    off[3, 4, 0] ^= 1
    assert psnr(off, colours, hole) == pytest.approx(20 * math.log10(255) + 10 * math.log10(3))


def test_a_hot_pixel_does_not_flatter_the_score():
    truth = np.random.default_rng(0).integers(0, 100, (100, 100)).astype(np.uint16)
    truth[0, 0] = 60_000
    assert grey_range(truth) < 101
    assert grey_range(truth > 5) == 1


def test_ssim_of_identical_and_different_images(truth, rng):
    assert ssim(truth, truth) == pytest.approx(1)
    other = rng.integers(0, 256, truth.shape, dtype=np.uint8)
    assert ssim(other, truth) < 0.5
    half = np.zeros(truth.shape, bool)
    half[:, :10] = True
    mixed = np.where(half, truth, other)
    assert ssim(mixed, truth, half) > ssim(mixed, truth, ~half)
    colours = np.stack([truth] * 3, axis=-1)
    assert ssim(colours, colours, half, channel_axis=-1) == pytest.approx(1)


def test_scores_of_nothing_are_refused(truth):
    with pytest.raises(InputError, match="shapes differ"):
        psnr(truth[1:], truth)
    with pytest.raises(InputError, match="the mask is empty"):
        psnr(truth, truth, np.zeros(truth.shape, bool))
    with pytest.raises(InputError, match="the mask is"):
        psnr(truth, truth, np.zeros((3, 3), bool))
    with pytest.raises(InputError, match="constant"):
        psnr(np.ones((4, 4)), np.zeros((4, 4)))
