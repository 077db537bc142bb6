"""Patch posteriors: the closed form, no seam, every pixel covered."""

import numpy as np
import pytest
import torch

from knitcore.fit import random_source
from knitcore.noise_model import Noise
from knitcore.posterior import (
    BEYOND,
    asks_for_more,
    find_groups,
    group_posterior,
    patch_table,
    posterior_steps,
    reference_starts,
    turned_orders,
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
        residual = (noisy[g] - pilot[g]) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        ends = residual.amax(0) + residual.amin(0)
        off = torch.linalg.cholesky(covariance) @ ((residual.sum(0) - ends) / (members - 2))
        power = members * off @ torch.linalg.solve(covariance, off)
        known = mean + off * (1 - BEYOND * numbers / power).clamp_min(0)
        expected = known + (noisy[g] - known) @ gain.T
        torch.testing.assert_close(estimate[g], expected, atol=2e-3, rtol=1e-3)
        known = (gain @ covariance).diagonal() / 0.7 + 1 / members
        torch.testing.assert_close(variance[g], known, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("members", [12, 60], ids=["fewer than numbers", "more than numbers"])
def test_what_all_noisy_patches_of_a_group_have_and_no_pilot_is_given_back(members):
    draw = random_source(3)
    pilot = torch.randn(2, members, 25, generator=draw) * 0.1
    lost = torch.sin(torch.arange(25.0))
    noisy = pilot + torch.randn(pilot.shape, generator=draw)
    noisy[0] += 2 * lost
    estimate, _ = group_posterior(noisy, pilot, gaussian(), None)
    assert ((estimate[0] - 2 * lost) ** 2).mean() < 0.2 * (4 * lost**2).mean()
    # where the means are off by no more than noise, it is taken for noise
    assert ((estimate[1] - pilot[1]) ** 2).mean() < 0.1


def test_signal_dependent_noise_trusts_the_dark_pixel_more():
    noise = Noise("poisson-gaussian", (1.0,), (0.0,), (0.01,))
    pilot = torch.tensor([1.0, 100.0]) + torch.randn(1, 4000, 2, generator=random_source(1))
    moved = pilot.clone()
    moved[0, 0] += 1
    kept = [group_posterior(noisy, pilot, noise, None)[0] for noisy in (pilot, moved)]
    gain = (kept[1] - kept[0])[0, 0]
    assert gain[0] == pytest.approx(1 / (1 + 1), abs=0.05)
    assert gain[1] == pytest.approx(1 / (1 + 100), abs=0.05)


def test_groups_are_the_nearest_patches():
    table = torch.randn(200, 9, generator=random_source(2))
    reference = torch.tensor([[3, 50], [120, 107]])
    candidate = torch.stack([torch.arange(100), torch.arange(100, 200)])
    found, position = find_groups(table, (table**2).sum(1), reference, candidate, 10)
    assert position is None
    assert found.shape == (4, 10)
    for row, (team, at) in zip(found, [(0, 3), (0, 50), (1, 120), (1, 107)], strict=True):
        distance = ((table[candidate[team]] - table[at]) ** 2).sum(1)
        nearest = candidate[team][distance.argsort()[:10]]
        assert set(row.tolist()) == set(nearest.tolist())


def test_the_nearest_come_first_where_they_are_to():
    table = torch.randn(100, 9, generator=random_source(2))
    candidate = torch.arange(100)[None]
    square = (table**2).sum(1)
    found, _ = find_groups(table, square, torch.tensor([[3]]), candidate, 20, in_order=True)
    assert found[0, 0] == 3
    distance = ((table[found[0]] - table[3]) ** 2).sum(1)
    assert (distance.diff() >= 0).all()


def test_what_is_flat_and_what_varies_beyond_the_noise_asks_for_more_patches():
    spread = torch.tensor([0.0, 0.05, 0.3, 0.9, 1.5, 10.0])
    table = torch.randn(6, 16, 25, generator=random_source(5)) * spread[:, None, None]
    rows = torch.arange(6 * 16).view(6, 16)
    asked = asks_for_more(table.flatten(0, 1), rows)
    assert asked.tolist() == [True, True, False, False, True, True]
    # the same patches turned and, in the last group, turned each to another side: they only differ there
    orders = turned_orders(1, 5, False, torch.device("cpu"))
    position = torch.arange(16).remainder(8).expand(6, 16)
    turned = table.gather(2, orders.argsort(1)[position])
    turned[5] = table[5, 0][orders.argsort(1)[position[5]]]
    asked = asks_for_more(turned.flatten(0, 1), rows, orders, position)
    assert asked.tolist() == [True, True, False, False, True, True]


@pytest.mark.parametrize("lined", [False, True])
def test_a_turned_patch_is_found_and_turned_back(lined):
    draw = random_source(4)
    image = torch.randn(2, 3, 3, generator=draw)
    kinds = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
    kinds += [kind.mT for kind in kinds]
    others = 5 + torch.randn(20, 18, generator=draw)
    table = torch.cat([torch.stack(kinds).flatten(1), others])
    orders = turned_orders(2, 3, lined, torch.device("cpu"))
    assert len(orders) == (4 if lined else 8)  # lines of noise would lie across
    assert all(torch.equal(torch.sort(order).values, torch.arange(18)) for order in orders)
    candidate = torch.arange(len(table))[None]
    alike = len(orders)
    rows, position = find_groups(
        table, (table**2).sum(1), torch.tensor([[0]]), candidate, alike, orders
    )
    assert sorted(rows[0].tolist()) == list(range(alike))
    turned = table[rows[0]].gather(1, orders[position[0]])
    torch.testing.assert_close(turned, table[:1].expand(alike, -1))
    again = turned.gather(1, orders.argsort(1)[position[0]])
    torch.testing.assert_close(again, table[rows[0]])


def test_one_outlier_is_not_given_to_its_whole_group():
    pilot = torch.zeros(1, 48, 49)
    noisy = torch.randn(pilot.shape, generator=random_source(7))
    noisy[0, 5, 20] = 300
    estimate, _ = group_posterior(noisy, pilot, gaussian(), None)
    assert estimate[0, :5].abs().max() < 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_flat_picture_is_covered(turned):
    """All patches are as near as the reference itself, which was left out, and its pixels with it."""
    pilot = torch.full((1, 1, 70, 80), 3.0)
    recipe = Denoise(turned=turned)
    found, variance = end_of(posterior_steps(pilot, pilot, gaussian(), recipe, 32))
    torch.testing.assert_close(found, pilot)
    assert (variance > 0).all()


def test_a_turned_patch_counts_as_farther_away():
    image = torch.tensor([[1.0, 2], [3, 4]])
    table = torch.stack([image, image.flip(0) + 0.8, image + 1]).flatten(1)
    orders = turned_orders(1, 2, False, torch.device("cpu"))
    rows, position = find_groups(
        table, (table**2).sum(1), torch.tensor([[0]]), torch.arange(3)[None], 2, orders
    )
    assert set(zip(rows[0].tolist(), position[0].tolist(), strict=True)) == {(0, 0), (2, 0)}


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


@pytest.mark.parametrize("stride", [3, 4, 5])
def test_pieces_leave_no_seam(stride):
    clean, noisy = (torch.tensor(v) for v in noisy_scene(1, 1, 75, 90))
    clean = clean + 0.3 * noisy  # few distances are the same: ties may be broken either way
    whole, pieces = (
        end_of(posterior_steps(noisy, clean, gaussian(), Denoise(block=block, stride=stride), 24))
        for block in (256, 32)
    )
    torch.testing.assert_close(pieces[0], whole[0], atol=0.05, rtol=0)
    torch.testing.assert_close(pieces[1], whole[1], atol=0.05, rtol=0)


@pytest.mark.parametrize("stride", [3, 8])
def test_no_pixel_is_left_between_patches_that_are_few_and_small(stride):
    pilot = torch.full((1, 1, 40, 60), 3.0) + torch.randn(40, 60, generator=random_source(8))
    recipe = Denoise(stride=stride, patch=3)
    found, variance = end_of(posterior_steps(pilot, pilot, gaussian(), recipe, 4))
    assert (variance > 0).all()
    torch.testing.assert_close(found, pilot, atol=2.0, rtol=0)


def test_turned_patches_help_where_a_picture_has_few_of_a_kind():
    y, x = np.mgrid[:48, :48] - 23.5
    clean = torch.tensor(10.0 * (np.hypot(y, x) < 16), dtype=torch.float32)[None, None]
    noisy = clean + torch.randn(clean.shape, generator=random_source(5))
    pilot = clean + 0.5 * torch.randn(clean.shape, generator=random_source(6))
    errors = []
    for turned in (False, True):
        steps = posterior_steps(noisy, pilot, gaussian(), Denoise(turned=turned, window=32), 32)
        errors.append(float(((end_of(steps)[0] - clean) ** 2).mean()))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 1, 9, 30), (2, 4, 20, 17)])
def test_every_pixel_of_any_shape_is_answered(shape, turned):
    clean, noisy = (torch.tensor(v) for v in noisy_scene(*shape))
    recipe = Denoise(window=4, turned=turned)
    found, variance = end_of(posterior_steps(noisy, clean, gaussian(len(clean)), recipe, 16))
    assert found.shape == variance.shape == noisy.shape
    assert torch.isfinite(found).all()
    assert (variance > 0).all()
    assert (variance <= 1.3).all()
    assert ((found - clean) ** 2).mean() < ((noisy - clean) ** 2).mean()
