"""The preset `quality`: look-alike patches help a mean fill where the image repeats, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np

import knitcore as knit


def fill(image: np.ndarray, mask: np.ndarray, **fields: Any) -> knit.Result:
    damaged = image.copy()
    damaged[mask] = 0
    fast: dict[str, Any] = {"steps": 3, "ensemble": 1, "device": "cpu", "look_alikes": True}
    return knit.inpaint(damaged, mask, **{**fast, **fields})


def weave(side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:side, :side]
    image = np.sin(y * 2 * np.pi / 8) + np.sin((x + y) * 2 * np.pi / 8)
    mask = np.zeros(image.shape, bool)
    mask[40:56, 40:58] = True
    return image.astype(np.float32), mask


def test_where_the_image_repeats_look_alikes_are_believed() -> None:
    image, mask = weave()
    # harmonic: kriging alone would know a sum of two gratings well
    plain = fill(image, mask, start="harmonic", look_alikes=False)
    mixed = fill(image, mask, start="harmonic")
    assert mixed.record["fill"]["look_alikes"] > 0.6
    assert "look_alikes" not in plain.record["fill"]
    gain = knit.psnr(mixed.image, image, mask, data_range=4) - knit.psnr(
        plain.image, image, mask, data_range=4
    )
    assert gain > 6
    assert np.array_equal(mixed.image[~mask], image[~mask])


def test_noise_has_no_look_alikes() -> None:
    _, mask = weave()
    noise = np.random.default_rng(4).normal(size=mask.shape).astype(np.float32)
    plain, mixed = fill(noise, mask, look_alikes=False), fill(noise, mask)
    assert mixed.record["fill"]["look_alikes"] < 0.1
    assert abs(mixed.image - plain.image).max() < 0.5


def test_a_hole_without_a_place_to_ask_at_keeps_its_mean_fill() -> None:
    image, mask = weave(40)
    mask[:] = False
    mask[8:32, 8:32] = True
    plain, mixed = fill(image, mask, look_alikes=False), fill(image, mask)
    assert mixed.record["fill"]["look_alikes"] == 0
    assert np.array_equal(plain.image, mixed.image)


def test_quality_is_a_preset_that_validates_itself() -> None:
    recipe = knit.Inpaint(preset="quality")
    assert recipe.look_alikes
    assert recipe.ensemble > knit.Inpaint().ensemble
    image, mask = weave()
    told = fill(image, mask, validation=True)
    again = fill(image, mask)
    assert np.array_equal(told.image, again.image)  # validation changes no pixel
    assert told.record["validation"]["holes"] > 0
