"""Several images side by side: their holes in one fit, each image as if it were alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import knitcore as knit
from knitcore import fit, inpainting, side_by_side

SMALL: dict[str, Any] = {
    "steps": 12,
    "ensemble": 2,
    "tiles": 2,
    "width": 16,
    "frequencies": 8,
    "margin": 12,
    "margin_factor": 0.5,
    "device": "cpu",
}


def picture(number: int, holes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    y, x = np.indices((70, 60 + 60 * max(holes, 1)))
    image = 128 + 50 * np.sin(y / 6 + x / 9 + number) + rng.normal(0, 4, y.shape)
    mask = np.zeros(y.shape, bool)
    for hole in range(holes):
        mask[20:36, 20 + 60 * hole : 38 + 60 * hole] = True
    mask[60, :10] = True  # a line is filled by the start alone
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many holes each fit had."""
    found: list[int] = []
    inner = fit.fit_regions

    def counted(targets: Any, *rest: Any, **more: Any) -> Any:
        found.append(len(targets))
        return inner(targets, *rest, **more)

    monkeypatch.setattr(fit, "fit_regions", counted)
    return found


def filled(images: list[Any], masks: Any, **fields: Any) -> dict[int, Any]:
    return dict(knit.inpaint_many(images, masks, **{**SMALL, **fields}))


def assert_as_alone(result: Any, image: np.ndarray, mask: np.ndarray, **fields: Any) -> None:
    alone = knit.inpaint(image, mask, **{**SMALL, "batch": 1, **fields})
    np.testing.assert_allclose(result.image.astype(int), alone.image, atol=1)
    assert (result.image == alone.image).mean() > 0.999
    np.testing.assert_allclose(result.std, alone.std, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(result.image[~mask], image[~mask])
    for fact in ("regions", "restarts", "parameters", "mask", "image", "notes"):
        assert result.record[fact] == alone.record[fact]


def test_the_holes_of_several_images_are_fitted_together_and_each_becomes_the_same(
    sizes: list[int],
) -> None:
    images, masks = zip(*(picture(n) for n in range(5)), strict=True)
    found = filled(images, masks, batch=3)
    assert sizes == [3, 2]
    assert sorted(found) == [0, 1, 2, 3, 4]
    for number, result in found.items():
        assert_as_alone(result, images[number], masks[number])


def test_an_image_of_many_holes_shares_its_last_fit_with_the_next(sizes: list[int]) -> None:
    images, masks = zip(*(picture(n, holes) for n, holes in enumerate((5, 3, 0))), strict=True)
    found = filled(images, masks, batch=4)
    assert sizes == [4, 4]
    for number, result in found.items():
        assert_as_alone(result, images[number], masks[number])


def test_holes_held_out_for_validation_are_fitted_together_too(sizes: list[int]) -> None:
    images, masks = zip(*(picture(n) for n in range(2)), strict=True)
    found = filled(images, masks, batch=2, validation=True)
    assert set(sizes) == {2}
    assert len(sizes) > 1
    for number, result in found.items():
        alone = knit.inpaint(images[number], masks[number], batch=1, validation=True, **SMALL)
        told, figures = result.record["validation"], alone.record["validation"]
        assert told["rmse"] == pytest.approx(figures["rmse"], rel=1e-3)


def test_images_of_other_sizes_channels_and_axes_go_along(sizes: list[int]) -> None:
    grey, mask = picture(0)
    colours = np.stack([grey, 255 - grey, grey // 2], -1)
    volume = np.stack([grey] * 12)
    images = [grey, knit.Image(colours, "YXS"), knit.Image(volume, "ZYX")]
    found = filled(images, [mask] * 3, batch=8)
    assert sizes == [3]
    for number, image in enumerate(images):
        alone = knit.inpaint(image, mask, batch=1, **SMALL)
        np.testing.assert_allclose(found[number].image.astype(int), alone.image, atol=1)


def test_what_is_wrong_with_one_image_is_its_result_and_costs_no_other() -> None:
    image, mask = picture(0)
    found = filled([np.zeros(3), image, image, image], [None, mask, np.ones_like(mask), mask])
    assert isinstance(found[0], knit.InputError)
    assert "known pixel" in str(found[2])
    for number in (1, 3):
        assert_as_alone(found[number], image, mask)


def test_an_image_whose_fit_never_stays_finite_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images, masks = zip(*(picture(n) for n in range(3)), strict=True)
    masks[1][36, 20:38] = True
    pixels = 17 * 18  # by which its hole is known
    build = fit.build_networks

    def poisoned(recipe: Any, scales: int, targets: Any, restart: int, device: Any) -> Any:
        networks = build(recipe, scales, targets, restart, device)
        for number, one in enumerate(targets):
            if one.want.sum() == pixels:
                networks[0][0].last.bias.data[2 * number] = np.nan
        return networks

    monkeypatch.setattr(fit, "build_networks", poisoned)
    found = filled(images, masks, batch=3)
    assert isinstance(found[1], knit.FitError)
    assert "3 times" in str(found[1])
    for number in (0, 2):
        assert_as_alone(found[number], images[number], masks[number])


def test_if_the_fit_of_all_fails_each_image_tries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the memory of a GPU does for one, not for all."""
    images, masks = zip(*(picture(n) for n in range(3)), strict=True)
    inner = fit.fit_regions

    def full(targets: Any, *rest: Any, **more: Any) -> Any:
        if len(targets) > 1:
            raise RuntimeError("out of memory")
        return (yield from inner(targets, *rest, **more))

    monkeypatch.setattr(fit, "fit_regions", full)
    found = filled(images, masks, batch=3)
    for number, result in found.items():
        assert_as_alone(result, images[number], masks[number])


def test_images_are_read_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def images(count: int) -> Iterator[np.ndarray]:
        for number in range(count):
            read.append(number)
            yield picture(number)[0]

    mask = picture(0)[1]
    over = knit.inpaint_many(images(6), [mask] * 6, batch=2, **SMALL)
    for ended, _ in enumerate(over):
        assert len(read) <= 2 * (ended // 2 + 1)
    read.clear()
    monkeypatch.setattr(side_by_side, "MOST_PIXELS", 1000)
    for ended, _ in enumerate(knit.inpaint_many(images(4), [mask] * 4, batch=9, **SMALL)):
        assert len(read) == ended + 1


def test_held_out_holes_keep_no_more_images_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A held-out hole waits with a copy of its surroundings, but its whole image is open."""
    read: list[int] = []
    image, mask = picture(0, holes=3)

    def images(count: int) -> Iterator[np.ndarray]:
        for number in range(count):
            read.append(number)
            yield image

    monkeypatch.setattr(side_by_side, "MOST_PIXELS", image.size)
    over = knit.inpaint_many(images(4), [mask] * 4, batch=9, validation=True, **SMALL)
    for ended, (_, result) in enumerate(over):
        assert len(read) == ended + 1
        assert result.record["validation"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_an_image_for_which_memory_does_not_do_costs_no_other(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = zip(*(picture(n, holes) for n, holes in enumerate((1, 3, 1))), strict=True)
    inner = inpainting.start_steps

    def full(values: np.ndarray, *rest: Any) -> Any:
        if values.shape[-1] == images[1].shape[-1]:
            raise error
        return (yield from inner(values, *rest))

    monkeypatch.setattr(inpainting, "start_steps", full)
    found = filled(images, masks, batch=3, region="image")
    assert isinstance(found[1], knit.DeviceError)
    assert "image 1" in str(found[1])
    for number in (0, 2):
        assert (found[number].image == images[number])[~masks[number]].all()


def test_cancelled_in_the_middle_all_end() -> None:
    images, masks = zip(*(picture(n) for n in range(3)), strict=True)
    stop, told = threading.Event(), set()

    def watch(number: int, event: Any) -> None:
        if getattr(event, "losses", None):
            told.add(number)
            if len(told) == 3:
                stop.set()

    fields = {**SMALL, "steps": 100_000, "batch": 3}
    with pytest.raises(knit.Cancelled):
        list(knit.inpaint_many(images, masks, on_event=watch, cancel=stop, **fields))
    assert told == {0, 1, 2}


def test_progress_of_each_image_never_falls_and_ends_at_one() -> None:
    images, masks = zip(*(picture(n, 2) for n in range(3)), strict=True)
    told: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def keep(number: int, event: Any) -> None:
        if isinstance(event, knit.Progress):
            told[number].append(event.fraction)

    list(knit.inpaint_many(images, masks, on_event=keep, batch=4, **SMALL))
    for fractions in told.values():
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1


def test_the_seconds_of_each_image_are_its_own_part_of_the_time() -> None:
    images, masks = zip(*(picture(n, 2) for n in range(4)), strict=True)
    began = time.monotonic()
    found = filled(images, masks, batch=8, validation=True, steps=60)
    took = time.monotonic() - began
    told = [result.record["seconds"] for result in found.values()]
    assert 0.5 * took < sum(seconds["total"] for seconds in told) < 1.05 * took
    assert all(seconds["fit"] + seconds["validation"] <= seconds["total"] for seconds in told)


def test_as_many_masks_as_images() -> None:
    image, mask = picture(0)
    with pytest.raises(knit.InputError, match="same number"):
        list(knit.inpaint_many([image, image], [mask], **SMALL))
    with pytest.raises(knit.InputError, match="same number"):
        list(knit.inpaint_many(iter([image, image]), iter([mask]), **SMALL))
    image = image.astype(np.float32)
    image[mask] = np.nan
    found = filled([image, image], "nan")
    assert all(np.isfinite(found[number].image).all() for number in (0, 1))
