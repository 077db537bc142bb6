"""Patch posteriors: the closed form, no seam, every pixel covered."""

import numpy as np
import pytest
import torch

from knitcore.fit import random_source
from knitcore.noise_model import Noise
from knitcore.posterior import (
    find_groups,
    group_posterior,
    patch_table,
    posterior_steps,
    reference_starts,
    whitening,
)
from knitcore.recipe import Denoise


def gaussian(channels=1, variance=1.0, **fields):
    return Noise(
        "gaussian", (0.0,) * channels, (variance,) * channels, (variance,) * channels, **fields
    )


def end_of(steps):
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("members", [12, 60], ids=["fewer than numbers", "more than numbers"])
@pytest.mark.parametrize("lined", [False, True])
def test_group_posterior_is_the_closed_form(members, lined):
    draw = random_source(0, members)
    noise = gaussian(2, 0.7, along_x=(1.0, 0.5)) if lined else gaussian(2, 0.7)
    numbers = 2 * 3 * 3
    mixing = torch.randn(numbers, numbers, generator=draw) / 3
    pilot = torch.randn(4, members, numbers, generator=draw) @ mixing + 5
    noisy = pilot + torch.randn(pilot.shape, generator=draw)
    whiten = whitening(noise, 2, 3, torch.device("cpu"))
    assert (whiten is not None) == lined
    estimate, variance = group_posterior(noisy, pilot, noise, whiten)
    plane = torch.eye(9)
    if lined:
        plane = torch.kron(torch.eye(3), 0.5 ** (torch.arange(3)[:, None] - torch.arange(3)).abs())
        plane[(plane > 0) & (plane < 0.5)] = 0  # lag 2
    covariance = 0.7 * torch.kron(torch.eye(2), plane)
    for g in range(4):
        mean = pilot[g].mean(0)
        prior = (pilot[g] - mean).T @ (pilot[g] - mean) / (members - 1)
        gain = prior @ torch.linalg.inv(prior + covariance)
        expected = mean + (noisy[g] - mean) @ gain.T
        torch.testing.assert_close(estimate[g], expected, atol=2e-3, rtol=1e-3)
        if not lined:
            known = (gain @ covariance).diagonal() + 0.7 / members
            torch.testing.assert_close(variance[g], known, atol=2e-3, rtol=1e-3)


def test_signal_dependent_noise_trusts_the_dark_pixel_more():
    noise = Noise("poisson-gaussian", (1.0,), (0.0,), (0.01,))
    pilot = torch.tensor([1.0, 100.0]) + torch.randn(1, 4000, 2, generator=random_source(1))
    kept = [group_posterior(pilot + shift, pilot, noise, None)[0] for shift in (0, 1)]
    gain = (kept[1] - kept[0])[0, 0]
    assert gain[0] == pytest.approx(1 / (1 + 1), abs=0.05)
    assert gain[1] == pytest.approx(1 / (1 + 100), abs=0.05)


def test_groups_are_the_nearest_patches():
    table = torch.randn(200, 9, generator=random_source(2))
    reference = torch.tensor([[3, 50], [120, 7]])
    candidate = torch.stack([torch.arange(100), torch.arange(100, 200)])
    found = find_groups(table, (table**2).sum(1), reference, candidate, 10)
    assert found.shape == (4, 10)
    for row, (team, at) in zip(found, [(0, 3), (0, 50), (1, 120), (1, 7)], strict=True):
        distance = ((table[candidate[team]] - table[at]) ** 2).sum(1)
        nearest = candidate[team][distance.argsort()[:10]]
        assert set(row.tolist()) == set(nearest.tolist())


@pytest.mark.parametrize("length", [5, 6, 7, 30, 31])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_references_reach_the_end(length, stride):
    starts = reference_starts(length, 5, stride).flatten()
    assert starts[0] == 0
    assert starts[-1] == length - 5
    assert starts.diff().max() <= stride if len(starts) > 1 else True


def test_patch_table_holds_every_patch_channels_first():
    image = torch.arange(2 * 1 * 4 * 5.0).view(2, 1, 4, 5)
    table = patch_table(image, 3)
    assert table.shape == (6, 18)
    torch.testing.assert_close(table[4].view(2, 3, 3), image[:, 0, 1:4, 1:4])


def noisy_scene(*shape):
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    clean = np.broadcast_to(8 * np.sin(x / 6) + 5 * (y > x), shape).astype(np.float32)
    return clean, clean + np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_pieces_leave_no_seam():
    clean, noisy = (torch.tensor(v) for v in noisy_scene(1, 1, 75, 90))
    clean = clean + 0.1 * noisy  # few distances are the same: ties may be broken either way
    whole = end_of(posterior_steps(noisy, clean, gaussian(), Denoise(block=256), 24))
    pieces = end_of(posterior_steps(noisy, clean, gaussian(), Denoise(block=32), 24))
    torch.testing.assert_close(pieces[0], whole[0], atol=0.02, rtol=0)
    torch.testing.assert_close(pieces[1], whole[1], atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 1, 9, 30), (2, 4, 20, 17)])
def test_every_pixel_of_any_shape_is_answered(shape):
    clean, noisy = (torch.tensor(v) for v in noisy_scene(*shape))
    found, variance = end_of(
        posterior_steps(noisy, clean, gaussian(len(clean)), Denoise(window=4), 16)
    )
    assert found.shape == variance.shape == noisy.shape
    assert torch.isfinite(found).all()
    assert (variance > 0).all()
    assert (variance <= 1.3).all()
    assert ((found - clean) ** 2).mean() < ((noisy - clean) ** 2).mean()
