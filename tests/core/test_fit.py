"""Many regions fitted side by side: each becomes what it would have become alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import knitcore as knit
from knitcore import fit, inpainting, tiles
from knitcore.device import together
from knitcore.patches import join_pyramids, make_pyramid

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "steps": 8,
    "ensemble": 2,
    "tiles": 2,
    "width": 16,
    "frequencies": 8,
    "device": "cpu",
}


def target(number: int, *shape: int, channels: int = 1) -> fit.Target:
    rng = np.random.default_rng(number)
    values = rng.normal(size=(channels, *shape)).astype(np.float32)
    want = np.zeros(shape, bool)
    want[tuple(slice(n // 4, n // 2 + number) for n in shape)] = True
    weight = np.broadcast_to(~want, values.shape).astype(np.float32)
    stretched = np.diag([1.0, *[1.0 + number] * (len(shape) - 1)])
    directions = ((stretched, 0.7), (np.eye(len(shape)), 0.3)) if number % 2 else ()
    return fit.Target(values, weight, want, (1.0,) * len(shape), f"region {number}", directions)


def fitted(targets: list[fit.Target], recipe: knit.Inpaint) -> list[fit.Fitted]:
    work = fit.fit_regions(targets, recipe, CPU)
    try:
        while True:
            next(work)
    except StopIteration as end:
        return end.value


def assert_as_alone(targets: list[fit.Target], recipe: knit.Inpaint) -> list[fit.Fitted]:
    both = fitted(targets, recipe)
    for one, state in zip(targets, both, strict=True):
        [alone] = fitted([one], recipe)
        assert state.members is not None
        assert alone.members is not None
        assert state.members.shape[-1] == one.want.sum()
        np.testing.assert_allclose(state.members, alone.members, atol=1e-3)
        assert state.losses == pytest.approx(alone.losses, rel=1e-3)
        assert (state.parameters, state.restarts) == (alone.parameters, alone.restarts)
    return both


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"coordinates": "unit", "network_output": "sigmoid", "reconstructor": "plain"},
        {"discriminator": True, "gamma": 0.01},
        {"ensemble": 1, "patch_size": 1},
    ],
)
def test_regions_of_different_sizes_are_fitted_as_if_alone(fields: dict[str, Any]) -> None:
    targets = [target(0, 30, 34), target(1, 52, 20), target(2, 41, 41)]
    assert_as_alone(targets, knit.Inpaint(**{**TINY, **fields}))


def test_volumes_of_several_channels_are_fitted_as_if_alone() -> None:
    targets = [target(n, 12, 20 + n, 16, channels=2) for n in range(3)]
    assert_as_alone(targets, knit.Inpaint(**TINY))


def test_only_regions_that_are_alike_go_together() -> None:
    recipe = knit.Inpaint(**TINY)
    targets = [target(0, 30, 30), target(1, 9, 30), target(2, 40, 40), target(3, 9, 50)]
    assert fit._companies(targets, recipe) == [[0, 2], [1, 3]]
    assert_as_alone(targets, recipe)
    whole = knit.Inpaint(**{**TINY, "tiles": 0})
    assert fit._companies(targets, whole) == [[0], [1], [2], [3]]


def test_a_region_that_diverges_starts_again_and_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = fit.build_networks

    def poisoned(recipe: Any, scales: int, targets: Any, restart: int, device: Any) -> Any:
        networks = build(recipe, scales, targets, restart, device)
        for number, one in enumerate(targets):
            if one.key == "region 1" and restart == 0:
                networks[0][0].last.bias.data[2 * number] = torch.nan
        return networks

    monkeypatch.setattr(fit, "build_networks", poisoned)
    targets = [target(n, 30, 30 + n) for n in range(3)]
    both = assert_as_alone(targets, knit.Inpaint(**TINY))
    assert [state.restarts for state in both] == [0, 1, 0]


def test_a_region_that_never_stays_finite_is_an_error() -> None:
    targets = [target(n, 30, 30) for n in range(2)]
    targets[1].values[:] = 1e25
    with pytest.raises(knit.FitError, match="3 times"):
        fitted(targets, knit.Inpaint(**TINY))


def test_tiles_depend_neither_on_company_nor_on_how_many_are_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = knit.Inpaint(**TINY)
    regions = [target(n, 30, 40 + 5 * n) for n in range(3)]

    def drawn(numbers: list[int], at_once: int) -> list[Any]:
        monkeypatch.setattr(tiles, "DRAWS", at_once)
        own = [regions[n] for n in numbers]
        pyramid = join_pyramids([make_pyramid(r.values, r.weight, (1, 2), CPU) for r in own])
        draws = [torch.Generator().manual_seed(n) for n in numbers]
        steps = tiles.step_batches(recipe, (12, 12), 2, pyramid, draws)
        batches = [batch for _ in range(20) for batch in next(steps)]
        for batch in batches:  # what lies there is the region's own pixel
            for g, region in enumerate(own):
                y, x = batch.position[g].T
                known = region.values * region.weight
                found = pyramid.pixels[batch.index[g], 0].numpy()
                np.testing.assert_array_equal(found, known[0, y, x])
        return [batch.corners[-1].tolist() for batch in batches]

    assert drawn([2], 1) == drawn([2], 4096) == drawn([0, 1, 2], 7)


def many_holes(*planes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    shape = (*planes, 110, 150)
    y, x = np.indices(shape[-2:])
    image = 128 + 50 * np.sin(y / 6 + x / 9) + rng.normal(0, 4, shape)
    mask = np.zeros(shape, bool)
    for i in range(2):
        for j in range(3):
            mask[..., 8 + 55 * i : 26 + 55 * i, 10 + 50 * j : 26 + 50 * j + i] = True
    mask[..., 100, :] = True  # a line is filled by the start alone
    return image.clip(0, 255).astype(np.uint8), mask


SEPARATE: dict[str, Any] = {**TINY, "margin": 12, "margin_factor": 0.5, "steps": 20}


def test_the_fill_of_many_holes_does_not_depend_on_how_many_go_together() -> None:
    image, mask = many_holes()
    alone = knit.inpaint(image, mask, batch=1, **SEPARATE)
    events: list[Any] = []
    both = knit.inpaint(image, mask, batch=3, on_event=events.append, **SEPARATE)
    assert both.record["losses"] == pytest.approx(alone.record["losses"], rel=0.01)
    np.testing.assert_allclose(both.image.astype(int), alone.image, atol=1)
    assert (both.image == alone.image).mean() > 0.9999
    np.testing.assert_allclose(both.std, alone.std, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(both.image[~mask], image[~mask])
    told = [event.fraction for event in events if isinstance(event, knit.Progress)]
    assert told == sorted(told)
    assert told[-1] == 1
    assert any("and 2 more: fit" in getattr(event, "stage", "") for event in events)


def test_planes_of_a_stack_are_fitted_together() -> None:
    image, mask = many_holes(3)
    mask[:, :, 60:] = mask[:, 50:] = False  # one hole a plane
    stack = knit.Image(image, "TYX")
    stages: list[str] = []
    both = knit.inpaint(
        stack, mask, batch=8, on_event=lambda e: stages.append(getattr(e, "stage", "")), **SEPARATE
    )
    alone = knit.inpaint(stack, mask, batch=1, **SEPARATE)
    np.testing.assert_allclose(both.image.astype(int), alone.image, atol=1)
    assert "region 1 of 3 and 2 more: fit" in stages


def test_a_batch_is_cancelled_and_shows_each_region_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, mask = many_holes()
    stop, before = threading.Event(), torch.get_num_threads()
    monkeypatch.setattr(fit, "PREVIEW_SECONDS", 0.0)
    shown: set[str] = set()
    fields = {**SEPARATE, "steps": 100_000}
    steps = knit.inpaint_steps(image, mask, batch=4, cancel=stop, previews=True, **fields)
    next(event for event in steps if getattr(event, "losses", None))
    while len(shown) < 4:
        event = next(steps)
        if isinstance(event, knit.Preview):
            shown.add(str(event.box))
    stop.set()
    with pytest.raises(knit.Cancelled):
        next(steps)
    assert torch.get_num_threads() == before


def test_no_more_regions_are_held_than_are_fitted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inner = fit.fit_regions

    def counted(targets: Any, *rest: Any) -> Any:
        sizes.append(len(targets))
        return inner(targets, *rest)

    monkeypatch.setattr(fit, "fit_regions", counted)
    image, mask = many_holes()
    knit.inpaint(image, mask, batch=4, **SEPARATE)
    count = sum(sizes)
    assert sizes == [4] * (count // 4) + ([count % 4] if count % 4 else [])
    sizes.clear()
    monkeypatch.setattr(inpainting, "MOST_VALUES", 1000)
    knit.inpaint(image, mask, batch=4, **SEPARATE)
    assert sizes == [1] * count


def test_how_many_go_together_is_chosen_by_what_one_needs() -> None:
    assert together(CPU, 1) == together(CPU, 2**24) == 4
    assert together(CPU, 2**30) == 1
    assert fit.most_together(knit.Inpaint(), 1, 2, CPU) == 4
    assert fit.most_together(knit.Inpaint(batch=9), 1, 2, CPU) == 9
    assert fit.most_together(knit.Inpaint(preset="paper"), 1, 2, CPU) == 1


def test_a_step_reads_no_number_back() -> None:
    """On torch's device without numbers whatever would wait for one is an error."""
    nowhere = torch.device("meta")
    recipe = knit.Inpaint(**TINY, discriminator=True)
    targets = [target(n, 30, 30 + n) for n in range(3)]
    networks, discriminator = fit.build_networks(recipe, 3, targets, 0, nowhere)
    pyramids = [make_pyramid(t.values, t.weight, recipe.scales, nowhere) for t in targets]
    pyramid, frame = join_pyramids(pyramids), fit.make_frame(targets, nowhere)
    parameters = [p for network in networks for p in network.parameters()]
    optimiser = fit.Adam(parameters)
    draws = [torch.Generator() for _ in targets]
    for batch in next(tiles.step_batches(recipe, (12, 12), 4, pyramid, draws)):
        found = fit.batch_losses(
            batch, pyramid, networks, discriminator, recipe, recipe.scales, frame, None
        )
        assert {tuple(value.shape) for value in found.values()} == {(6,)}
        sum(found.values(), torch.zeros((), device=nowhere)).sum().backward()
    optimiser.step(0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, steps = torch.device("cuda"), 0
    losses = fit.batch_losses

    def watched(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        torch.cuda.set_sync_debug_mode("error")
        return losses(*arguments)

    stack = torch.stack

    def allowed(*arguments: Any, **named: Any) -> Any:  # of the losses, at a report
        torch.cuda.set_sync_debug_mode("default")
        return stack(*arguments, **named)

    monkeypatch.setattr(fit, "batch_losses", watched)
    monkeypatch.setattr(fit.torch, "stack", allowed)
    try:
        for _ in fit.fit_regions([target(0, 30, 30)] * 3, knit.Inpaint(**TINY), cuda):
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == TINY["steps"]
