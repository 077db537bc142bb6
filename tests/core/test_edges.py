"""Which last pass a pixel gets: another one at edges, larger patches elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import knitcore
from knitcore.edges import FAINT, LITTLE, MUCH, edge_share
from knitcore.noise_model import Noise

WHITE = Noise("gaussian", (0.0,), (1.0,), (1.0,))


def step(height: float, planes: int = 1) -> torch.Tensor:
    """An edge between columns 19 and 20: (1, Z, 40, 40)."""
    picture = torch.zeros(1, planes, 40, 40)
    picture[..., 20:] = height
    return picture


def test_a_step_is_an_edge_and_its_surroundings_are_not() -> None:
    share = edge_share(step(3.0), torch.zeros(1, 1, 40, 40), WHITE)
    assert share.shape == (1, 40, 40)
    assert (share[0, :, 18:22] == 1).all()
    assert (share[0, :, [0, 5, 34, 39]] == 0).all()


def test_slopes_count_in_units_of_the_noise() -> None:
    nothing = torch.zeros(1, 1, 40, 40)
    stronger = replace(WHITE, offset=(100.0,), floor=(100.0,))
    assert edge_share(step(3.0), nothing, stronger).max() == 0
    torch.testing.assert_close(
        edge_share(step(30.0), nothing, stronger), edge_share(step(3.0), nothing, WHITE)
    )


def test_a_ramp_is_no_edge_until_it_is_steep() -> None:
    line = torch.arange(40.0).expand(1, 1, 40, 40)
    share = [edge_share(line * slope, line * 0, WHITE)[0, 20, 20] for slope in (0.2, 0.3, 0.5)]
    assert share[0] == 0 < share[1] < 1 == share[2]
    assert 0.2**2 < FAINT < 0.3**2


def test_where_much_noise_is_left_there_is_another_pass_too() -> None:
    flat = step(0.0)
    share = [
        edge_share(flat, torch.full_like(flat, left), WHITE)[0, 20, 20].item()
        for left in (LITTLE, (LITTLE + MUCH) / 2, MUCH)
    ]
    assert share == pytest.approx([0, 0.5, 1])


def test_planes_and_tiny_pictures_are_looked_at_one_by_one() -> None:
    picture = step(0.0, planes=3)
    picture[:, 1] = step(3.0)[:, 0]
    share = edge_share(picture, torch.zeros_like(picture), WHITE)
    assert share[1, 20, 20] == 1
    assert not share[[0, 2]].any()
    tiny = torch.zeros(2, 1, 4, 4)
    two = Noise("gaussian", (0.0,) * 2, (1.0,) * 2, (1.0,) * 2)
    assert edge_share(tiny, tiny, two).tolist() == [[[0.0] * 4] * 4]


def test_strong_noise_is_left_less_than_by_two_passes_alone() -> None:
    data = pytest.importorskip("skimage.data")
    clean = data.coffee()[200:360, 250:410].astype(np.float32)
    noisy = clean + np.random.default_rng(0).normal(0, 40, clean.shape).astype(np.float32)
    results = [knitcore.denoise(noisy, axes="YXS", **given) for given in ({}, {"passes": 2})]
    off = [float(((result.image - clean) ** 2).mean()) for result in results]
    assert off[0] < 0.995 * off[1]


def test_weak_noise_gets_the_two_passes_alone() -> None:
    data = pytest.importorskip("skimage.data")
    clean = data.astronaut()[60:124, 180:244].astype(np.float32)
    noisy = clean + np.random.default_rng(0).normal(0, 6, clean.shape).astype(np.float32)
    one, two = (knitcore.denoise(noisy, axes="YXS", **given).image for given in ({}, {"passes": 2}))
    np.testing.assert_array_equal(one, two)
