"""bfloat16 in the networks' hidden layers: asked for by the recipe, and used where the device has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import knitcore
from knitcore import device
from knitcore.networks import HiddenLayers

SETTINGS: dict[str, dict[str, Any]] = {
    "inpaint": {"steps": 20, "knit_depth": 0, "start": "none", "start_weight": 0.0},
    "denoise": {"steps": 20},
}


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:32, :36]
    noisy = 1000 + 10 * y + 200 * np.sin(x / 5) + rng.normal(0, 20, y.shape)
    return noisy.astype(np.float32)


@pytest.fixture
def hole() -> np.ndarray:
    hole = np.zeros((32, 36), bool)
    hole[10:20, 12:22] = True
    return hole


def run(task: str, picture: np.ndarray, hole: np.ndarray, precision: str) -> knitcore.Result:
    told = {**SETTINGS[task], "precision": precision, "device": "cpu"}
    if task == "inpaint":
        return knitcore.inpaint(picture, hole, **told)
    return knitcore.denoise(picture, **told)


@pytest.mark.parametrize("task", SETTINGS)
def test_with_units_for_it_the_result_is_nearly_the_same(
    task: str, picture: np.ndarray, hole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda device: True)
    exact = run(task, picture, hole, "float32")
    lean = run(task, picture, hole, "bfloat16")
    assert lean.record["recipe"]["precision"] == "bfloat16"
    assert not any("bfloat16" in note["text"] for note in lean.record["notes"])
    assert (lean.image != exact.image).any()  # it was used indeed
    apart = lean.image.astype(float) - exact.image
    assert np.sqrt((apart[hole] ** 2).mean()) < 0.1 * picture.std()
    if task == "inpaint":
        np.testing.assert_array_equal(lean.image[~hole], picture[~hole])


@pytest.mark.parametrize("task", SETTINGS)
def test_without_units_it_is_float32_and_the_record_says_so(
    task: str, picture: np.ndarray, hole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda device: False)
    exact = run(task, picture, hole, "float32")
    other = run(task, picture, hole, "bfloat16")
    np.testing.assert_array_equal(other.image, exact.image)
    assert {"level": "info", "text": "cpu has no units for bfloat16: computed in float32"} in (
        other.record["notes"]
    )


def test_other_work_in_the_process_keeps_its_precision(
    picture: np.ndarray, hole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda device: True)
    left = torch.rand(8, 8)
    before = left @ left
    for _ in knitcore.inpaint_steps(picture, hole, precision="bfloat16", **SETTINGS["inpaint"]):
        # in the middle of the fit
        assert not torch.is_autocast_enabled("cpu")
        assert torch.equal(left @ left, before)


def test_what_hidden_layers_give_is_single_precision_and_near() -> None:
    generators = [torch.Generator().manual_seed(0)]
    layers = HiddenLayers(generators, [6, 16, 16])
    x = torch.rand(1, 10, 6)
    exact = layers(x, torch.relu).detach()
    layers.precision = "bfloat16"
    lean = layers(x, torch.relu).detach()
    assert lean.dtype == torch.float32
    assert not torch.equal(lean, exact)
    assert torch.allclose(lean, exact, atol=0.02 * float(exact.max()))


def test_enlarging_without_networks_has_nothing_to_say_of_it(picture: np.ndarray) -> None:
    result = knitcore.super_resolve(
        picture, 2, kernel="delta", passes=1, precision="bfloat16", device="cpu"
    )
    assert not any("bfloat16" in note["text"] for note in result.record["notes"])
