"""The widget "Inpaint (Knitworks)"."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtWidgets import QFormLayout, QWidget

from knit_plugin._layer_box import LayerBox
from knit_plugin._layers import COPY_AT_ONCE, Taken, refuse_unfit, take
from knit_plugin._recipe_form import RecipeForm, add_row
from knit_plugin._results import Ready, ResultLayers
from knit_plugin._run_panel import duration
from knit_plugin._task_widget import TaskWidget
from knitcore import Inpaint, InputError, Result

MASK_FIELDS = ("mask_label",)
BASIC = ("preset", "fill", "seed", "ensemble", "device", "validation")
ADVANCED = (
    "steps",
    "margin",
    "margin_factor",
    "start",
    "start_weight",
    "knit_depth",
    "max_region",
    "planes",
    "precision",
    "batch",
    "invert_mask",
    "saturated_as_hole",
    "alpha_channel",
)


class InpaintWidget(TaskWidget):
    """Fill the marked parts of an image layer.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    task = "inpaint"
    verb = "Inpaint"
    image_tip = "The image layer to repair; it is not changed."
    basic = BASIC
    advanced = ADVANCED

    def add_inputs(self, layers: QFormLayout) -> list[QWidget]:
        """The mask layer, and which of its labels count."""
        from napari.layers import Labels, Points, Shapes

        self._mask_events: list[Any] = []
        self.mask_box = LayerBox(self.viewer, (Labels, Shapes, Points), "no Labels layer")
        self.boxes.append(self.mask_box)
        tip = "Labels, Shapes or Points over what is lost: everything drawn there is filled."
        add_row(layers, "Mask", self.mask_box, tip)
        self.mask_form = RecipeForm(Inpaint, {}, MASK_FIELDS)
        return [self.mask_form]

    @staticmethod
    def rehearse() -> None:
        """A hole of 6×6 pixels, two steps."""
        import knitcore

        image = np.add.outer(np.arange(20.0), np.arange(20.0))
        mask = np.zeros(image.shape, bool)
        mask[7:13, 7:13] = True
        # knit_depth=0: even a small hole gets a fit, not a start alone
        knitcore.inpaint(image, mask, steps=2, ensemble=1, knit_depth=0, device="cpu")

    def fields(self) -> dict[str, Any]:
        """Fields of the recipe, those on the mask first."""
        return {**self.mask_form.values(), **self.form.values()}

    def take(self, *, copy: bool) -> tuple[Taken, Taken | None]:
        """Image and mask."""
        image, _ = super().take(copy=copy)
        if self.mask_box.layer is None:
            raise InputError(
                "Add a Labels layer and paint over what is lost; Shapes and Points can be used, too."
            )
        mask = take(self.mask_box.layer, copy=copy)
        refuse_unfit(mask, image)
        return image, mask

    def refuse(self, image: Taken, mask: Taken | None, recipe: Any) -> None:
        """Tell an empty mask before the run, as far as that is quick to see."""
        assert mask is not None
        if recipe.invert_mask or recipe.saturated_as_hole or recipe.alpha_channel == "mask":
            return
        if np.dtype(image.data.dtype).kind == "f":
            return  # may hold NaN to fill
        data = mask.data
        if mask.kind in ("shapes", "points"):
            empty = len(data) == 0
        else:
            small = isinstance(data, np.ndarray) and data.nbytes <= COPY_AT_ONCE
            empty = small and not data.any()
        if empty:
            raise InputError(f"mask layer {mask.name!r} is empty: paint over what is to be filled")

    def share_held(self, image: Taken, mask: Taken | None) -> float:
        """Of a lazy stack, the planes that are marked."""
        if isinstance(image.data, np.ndarray) or mask is None or image.ndim < 3:
            return 1.0
        marks = mask.data
        if not isinstance(marks, np.ndarray) or marks.ndim < image.ndim:
            return 1.0
        if marks.nbytes > COPY_AT_ONCE // 4:
            return 1.0  # it would take a moment
        return float(marks.reshape(*marks.shape[:-2], -1).any(-1).mean())

    def done(self, recipe: Any) -> str:
        """For the result layer's name."""
        return "inpainted"

    def start_watching(self) -> None:
        """Tell it when the mask is edited in the middle of the run."""
        events = self.mask_box.layer.events
        calls = dict.fromkeys(("paint", "data", "labels_update"), self._note_edit)
        calls["set_data"] = self._note_undo
        self._mask_events = [(getattr(events, n), c) for n, c in calls.items() if n in events]
        self._watched = weakref.ref(self.mask_box.layer)
        self._steps_back = self._undo_steps()
        for event, call in self._mask_events:
            event.connect(call)

    def stop_watching(self) -> None:
        """The mask may be edited again."""
        for event, call in self._mask_events:
            event.disconnect(call)
        self._mask_events = []

    def _undo_steps(self) -> tuple[int, ...]:
        """How many strokes of the mask can be taken back and made again; undoing has no event."""
        layer = self._watched()
        return tuple(len(getattr(layer, name, ())) for name in ("_undo_history", "_redo_history"))

    def _note_undo(self, event: Any = None) -> None:
        if self._undo_steps() != self._steps_back:
            self._steps_back = self._undo_steps()
            self._note_edit()

    def _note_edit(self, event: Any = None) -> None:
        if self._trying:
            self._settings_changed()
            return
        self.remark = "mask changed since the start; the run uses the one at Run"

    def has_changed(self, result: Result) -> bool:
        """Whether anything was filled."""
        return result.record["mask"]["filled"] > 0

    def more_layers(
        self, layers: ResultLayers, result: Result, ready: Ready
    ) -> list[Callable[[], None]]:
        """What was invented, as labels."""
        return [lambda: layers.add_synthesised(result, ready)]

    def summary(self, result: Result) -> str:
        """How much was filled, how fast and where."""
        record = result.record
        filled, fraction = record["mask"]["filled"], record["mask"]["fraction"]
        if not filled:
            return "Nothing to fill: the image is as it was."
        seconds = duration(record["seconds"]["total"])
        text = (
            f"Filled {filled:,} pixels ({100 * fraction:.3g} %) in {seconds} on {record['device']}"
        )
        told = record.get("validation")
        if told:
            text += f"; expected error ±{told['rmse']:.3g} grey levels"
            holes = "hole" if told["holes"] == 1 else "holes"
            text += f" (RMSE over {told['holes']} held-out {holes})"
        return text + "."
