"""The widget "Denoise (Knitworks)"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QFormLayout, QWidget

from knit_plugin._layers import Taken
from knit_plugin._results import Ready, ResultLayers, one_a_pixel, residual_width
from knit_plugin._run_panel import duration
from knit_plugin._task_widget import TaskWidget
from knitcore import Result

BASIC = ("preset", "noise", "sigma", "blind_spot", "seed", "device")
ADVANCED = (
    "gain",
    "offset",
    "channels",
    "hot_pixels",
    "planes",
    "precision",
    "nan_as_hole",
    "steps",
    "passes",
    "patch",
    "window",
    "group",
    "block",
)


class DenoiseWidget(TaskWidget):
    """Take the noise out of an image layer.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    task = "denoise"
    verb = "Denoise"
    image_tip = "The image layer to denoise; it is not changed."
    summed_up = "no noise was found: returned as it was"
    basic = BASIC
    advanced = ADVANCED

    def add_inputs(self, layers: QFormLayout) -> list[QWidget]:
        """Whether the residual is wanted, too."""
        self.form.inputs["patch"].step = 2  # only odd ones are allowed
        self.residual_box = QCheckBox()
        tip = "Add what was taken away as a hidden layer: it should be noise, without structure."
        self.form.add_basic_row("Residual layer", self.residual_box, tip)
        return []

    @staticmethod
    def rehearse() -> None:
        """A noisy slope, two steps."""
        import knitcore

        noise = np.random.default_rng(0).normal(size=(32, 32))
        slope = np.add.outer(np.arange(32.0), np.arange(32.0))
        knitcore.denoise(slope + noise, sigma=1.0, steps=2, passes=1, device="cpu")

    def done(self, recipe: Any) -> str:
        """For the result layer's name."""
        return "denoised"

    def in_worker(self, image: Taken) -> Callable[[Result], Any]:
        """The residual, when it is wanted."""
        if not self.residual_box.isChecked():
            return lambda result: None

        def residual(result: Result) -> tuple[np.ndarray, float]:
            taken = one_a_pixel(result.residual, image.rgb)
            return taken, residual_width(taken)

        return residual

    def has_changed(self, result: Result) -> bool:
        """Whether there was noise, or a hole that was filled."""
        return _kinds(result) != {"none"} or bool(result.synthesised.any())

    def more_layers(
        self, layers: ResultLayers, result: Result, ready: Ready
    ) -> list[Callable[[], None]]:
        """The residual, and which pixels were filled, if any were."""
        more: list[Callable[[], None]] = []
        if ready.extra is not None:
            residual, width = ready.extra
            more.append(lambda: layers.add_residual(residual, width, result))
        if result.synthesised.any():
            more.append(lambda: layers.add_synthesised(result, ready))
        return more

    def summary(self, result: Result) -> str:
        """Which noise was taken out, how fast and where."""
        record = result.record
        seconds = duration(record["seconds"]["total"])
        if not self.has_changed(result):
            return "No noise found: the image is as it was."
        text = f"Took out {noise_in_words(record.get('noise', []))}"
        filled = np.count_nonzero(result.synthesised)
        if filled:
            text += f", filled {filled:,} values"
        return f"{text} in {seconds} on {record['device']}."


def _kinds(result: Result) -> set[str]:
    return {found.get("kind", "unknown") for found in result.record.get("noise", [])}


def noise_in_words(found: list[dict[str, Any]]) -> str:
    """Which noise the planes of an image have.

    Parameters
    ----------
    found : list of dict
        As in a record: ``kind``, and ``sigma``, or ``gain`` and ``offset``, as far as known.

    Returns
    -------
    str

    Examples
    --------
    >>> noise_in_words([{"kind": "gaussian", "sigma": 12.34}, {"kind": "gaussian", "sigma": 13}])
    'gaussian noise of sigma 12.3 to 13 (grey levels)'
    >>> noise_in_words([{"kind": "poisson-gaussian", "gain": 2, "offset": -30}])
    'poisson-gaussian noise of variance 2 × value − 30'
    """

    def span(name: str, unsigned: bool = False) -> str:
        values = [np.atleast_1d(one[name]) for one in found if one.get(name) is not None]
        if not values:
            return ""
        every = np.concatenate(values).astype(float)
        low, high = f"{every.min():.3g}", f"{every.max():.3g}"
        return (low if low == high else f"{low} to {high}").replace("-", "−")

    found = [one for one in found if one.get("kind") != "none"]
    kinds = {one.get("kind") for one in found}
    if kinds == {"gaussian"} and span("sigma"):
        return f"gaussian noise of sigma {span('sigma')} (grey levels)"
    if kinds == {"poisson-gaussian"} and span("gain") and span("offset"):
        offset = span("offset")
        signed = (
            f"− {offset[1:]}" if offset.startswith("−") and "to" not in offset else f"+ {offset}"
        )
        return f"poisson-gaussian noise of variance {span('gain')} × value {signed}"
    return f"{kinds.pop()} noise" if len(kinds) == 1 and kinds != {"unknown"} else "noise"
