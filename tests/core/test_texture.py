"""`fill="texture"`: the surroundings' statistics in the hole, told apart from a measurement."""

from __future__ import annotations

import numpy as np
import pytest

import knitcore as knit
from knitcore.texture import gradient_ratio, patch_distance


@pytest.fixture
def weave() -> np.ndarray:
    """Two crossed gratings, 64 x 64, float32."""
    y, x = np.mgrid[:64, :64]
    return (np.sin(y * 2 * np.pi / 8) + np.sin((x + y) * 2 * np.pi / 8)).astype(np.float32)


@pytest.fixture
def hole() -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[22:40, 20:42] = True
    return mask


def fill(image: np.ndarray, mask: np.ndarray, **fields: object) -> knit.Result:
    damaged = image.copy()
    damaged[mask] = 0
    return knit.inpaint(damaged, mask, steps=3, ensemble=1, device="cpu", **fields)


def test_a_weave_is_woven_on(weave: np.ndarray, hole: np.ndarray) -> None:
    smooth, woven = fill(weave, hole, start="harmonic"), fill(weave, hole, fill="texture")
    assert knit.psnr(woven.image, weave, hole, data_range=4) > 30
    assert 0.9 < gradient_ratio(woven.image, weave, hole) < 1.1
    assert gradient_ratio(smooth.image, weave, hole) < 0.5
    distance = patch_distance(woven.image, weave, hole)
    assert distance < 0.2 * patch_distance(smooth.image, weave, hole)


def test_a_texture_has_the_liveliness_of_its_surroundings(hole: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    smooth, woven = fill(noise, hole), fill(noise, hole, fill="texture")
    assert gradient_ratio(smooth.image, noise, hole) < 0.2
    assert 0.5 < gradient_ratio(woven.image, noise, hole) < 1.5


def test_woven_pixels_are_copies_of_known_ones(hole: np.ndarray) -> None:
    noise = np.random.default_rng(2).normal(size=(64, 64, 3)).astype(np.float32)
    woven = fill(noise, hole, fill="texture", axes="YXS")
    known = np.sort(noise[~hole][:, 0])
    copies = woven.image[hole][:, 0]
    place = np.clip(np.searchsorted(known, copies), 1, len(known) - 1)
    apart = np.minimum(abs(known[place] - copies), abs(known[place - 1] - copies))
    assert apart.max() < 1e-5
    assert np.array_equal(woven.image[~hole], noise[~hole])


def test_the_seed_decides_and_the_record_warns(weave: np.ndarray, hole: np.ndarray) -> None:
    noisy = weave + np.random.default_rng(3).normal(0, 0.2, weave.shape).astype(np.float32)
    notes: list[str] = []
    one = fill(noisy, hole, fill="texture")
    damaged = np.where(hole, 0, noisy).astype(np.float32)
    again = knit.inpaint(
        damaged,
        hole,
        steps=3,
        ensemble=1,
        device="cpu",
        fill="texture",
        on_event=lambda event: notes.append(getattr(event, "text", "")),
    )
    assert np.array_equal(one.image, again.image)
    assert one.record["fill"] == {"kind": "texture", "for_measurement": False}
    assert any("not for measurement" in note for note in notes)
    plain = fill(noisy, hole)
    assert plain.record["fill"] == {"kind": "mean", "for_measurement": True}
    # the sample wanders about the mean: its error cannot be less
    assert (one.std[hole] >= plain.std[hole] * 0.999).all()


def test_a_volume_is_woven_and_thin_lines_keep_the_mean_fill() -> None:
    z, y, x = np.mgrid[:14, :40, :40]
    volume = np.sin((x + y + z) * 2 * np.pi / 6).astype(np.float32)
    mask = np.zeros(volume.shape, bool)
    mask[3:11, 12:24, 12:24] = True
    woven = fill(volume, mask, fill="texture", axes="ZYX", knit_depth=2)
    assert knit.psnr(woven.image, volume, mask, data_range=2) > 20
    line = np.zeros((40, 40), bool)
    line[20] = True
    assert np.array_equal(fill(volume[0], line, fill="texture").image, fill(volume[0], line).image)


def test_what_measures_texture_knows_the_truth(weave: np.ndarray, hole: np.ndarray) -> None:
    assert patch_distance(weave, weave, hole) == 0
    assert gradient_ratio(weave, weave, hole) == 1
    assert np.isnan(gradient_ratio(weave, np.zeros_like(weave), hole))
