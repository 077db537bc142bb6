"""The widget "Inpaint (Knitworks)"."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from knit_plugin._layer_box import LayerBox
from knit_plugin._layers import (
    COPY_AT_ONCE,
    Taken,
    core_image,
    core_mask,
    memory_needed,
    read,
    refuse_unfit,
    take,
)
from knit_plugin._recipe_form import InputsArea, RecipeForm, add_row, form_layout
from knit_plugin._results import Canvas, ResultLayers
from knit_plugin._run_panel import RunPanel, amount, duration, wrapped_label
from knit_plugin._worker import Job, Outcome, busy, torch_devices, wait_for, warm_up
from knitcore import Inpaint, InputError, Note, Preview, Progress, RecipeError, Result
from knitcore.events import CancelToken
from knitcore.recipe import PRESETS, make_recipe

MASK_FIELDS = ("mask_label",)
BASIC = ("preset", "seed", "ensemble", "device")
ADVANCED = (
    "steps",
    "margin",
    "margin_factor",
    "start",
    "start_weight",
    "knit_depth",
    "max_region",
    "planes",
    "invert_mask",
    "saturated_as_hole",
    "alpha_channel",
)


PREVIEW_GAP = 0.5  # seconds
BREATH = 30  # ms, for the event loop between two layers that are added


class InpaintWidget(QWidget):
    """Fill the marked parts of an image layer.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The name is what napari looks for when it opens the widget.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        from napari.layers import Image, Labels, Points, Shapes

        self.viewer = napari_viewer
        self.job: Job | None = None
        self._layers: ResultLayers | None = None
        self._mask_events: list[Any] = []
        self._mask_edited = False
        self._pending: list[Any] = []
        self._dock: Any = None

        self.image_box = LayerBox(napari_viewer, (Image,), "no image layer")
        # Points are offered so that choosing them says what to use instead
        self.mask_box = LayerBox(napari_viewer, (Labels, Shapes, Points), "no Labels layer")
        self.hint = wrapped_label()
        self.mask_form = RecipeForm(Inpaint, {}, MASK_FIELDS)
        self.form = RecipeForm(Inpaint, PRESETS["inpaint"], BASIC, ADVANCED)
        self.keep_box = QCheckBox()
        tip = "After Cancel, leave the layer with what was reached so far."
        add_row(self.form.advanced_rows, "Keep on cancel", self.keep_box, tip)
        self.panel = RunPanel()
        self._lay_out()

        self.image_box.layer_changed.connect(self._check)
        self.mask_box.layer_changed.connect(self._check)
        self.panel.run.connect(self.run)
        self.panel.cancel.connect(self.cancel)
        self._choose_selected()
        self._check()

        self._warm_up = warm_up(_rehearse)
        self._device_timer = QTimer(self)
        self._device_timer.timeout.connect(self._offer_devices)
        self._device_timer.start(200)
        jobs: list[Job] = []
        self._jobs = jobs

        def abandon() -> None:
            for job in jobs:
                job.abandon()

        # A function, not a method: at this signal the widget's own methods are out of reach.
        self.destroyed.connect(abandon)

    # layout

    def _lay_out(self) -> None:
        inputs = QWidget()
        column = QVBoxLayout(inputs)
        column.setContentsMargins(0, 0, 0, 0)
        layers = form_layout()
        add_row(layers, "Image", self.image_box, "The image layer to repair; it is not changed.")
        add_row(
            layers,
            "Mask",
            self.mask_box,
            "Labels or Shapes layer over what is lost: everything drawn there is filled.",
        )
        column.addLayout(layers)
        for widget in (self.mask_form, self.hint, self.form):
            column.addWidget(widget)
        self._scroll = InputsArea(inputs)
        self.form.toggle.toggled.connect(self._scroll.updateGeometry)
        layout = QVBoxLayout(self)
        layout.addWidget(self._scroll)
        layout.addWidget(self.panel)
        layout.addStretch()

    def _choose_selected(self) -> None:
        # from Layers > Filter, the selected image is the one meant
        active = self.viewer.layers.selection.active
        for box in (self.image_box, self.mask_box):
            if active in box._layers:
                box.layer = active

    def _offer_devices(self) -> None:
        if not self._warm_up.is_alive():
            self._device_timer.stop()
            self.form.set_choices("device", ["auto", *torch_devices()])

    # before the run

    def _check(self) -> None:
        """Say what is missing, or what the run will need; Run is on when nothing is missing."""
        if self.job is not None:
            return
        try:
            image, _ = self._take(copy=False)
        except InputError as problem:
            self._say(str(problem))
            self.panel.show_idle(ready=False)
            return
        sides = " × ".join(map(str, image.data.shape))
        needed = amount(memory_needed(image))
        self._say(f"{sides} {np.dtype(image.data.dtype)}, about {needed} for the layers")
        self.panel.show_idle(ready=True)

    def _say(self, text: str) -> None:
        self.hint.setText(text)
        self._scroll.updateGeometry()  # it may take another line

    def _take(self, *, copy: bool) -> tuple[Taken, Taken]:
        image_layer, mask_layer = self.image_box.layer, self.mask_box.layer
        if image_layer is None:
            raise InputError("Open an image first (File > Open Sample > Knitworks has one).")
        if mask_layer is None:
            raise InputError(
                "Add a Labels layer and paint over what is lost; Shapes can be used, too."
            )
        image, mask = take(image_layer, copy=copy), take(mask_layer, copy=copy)
        refuse_unfit(mask, image)
        return image, mask

    # the run

    def run(self) -> None:
        """Start the fit with what the inputs say now."""
        if self.job is not None:
            return
        try:
            recipe = make_recipe(**self.mask_form.values(), **self.form.values())
            image, mask = self._take(copy=True)
            _refuse_empty(image, mask, recipe)
        except (InputError, RecipeError) as problem:
            self._show_error(str(problem))
            return
        if busy():
            self._show_error(
                "Another knitwork is being fitted, and one fit runs at a time: "
                "wait for its end, or cancel it"
            )
            return
        layers = ResultLayers(self.viewer, image, "inpainted")
        warming = self._warm_up

        def steps(cancel: Any) -> Generator[Any, None, Result]:
            yield from wait_for(warming, cancel)
            return (yield from inpaint_layers(image, mask, recipe, cancel))

        job = Job(steps, f"Inpaint {image.name}", self._receive, self._end)
        self.job, self._layers = job, layers
        self._jobs.append(job)
        self._watch_dock()
        self._watch_mask()
        self.panel.show_running()
        layers.open()
        job.start()

    def cancel(self) -> None:
        """Stop the run soon; harmless when there is none."""
        if self.job is not None:
            self.job.cancel()
            self.panel.show_cancelling()

    def _watch_mask(self) -> None:
        self._mask_edited = False
        events = self.mask_box.layer.events
        self._mask_events = [
            getattr(events, name) for name in ("paint", "data", "labels_update") if name in events
        ]
        for event in self._mask_events:
            event.connect(self._note_edit)

    def _note_edit(self, event: Any = None) -> None:
        self._mask_edited = True

    def _receive(self, event: Any) -> None:
        layers = self._layers
        if layers is None:
            return
        if isinstance(event, Progress):
            if self._mask_edited:
                changed = "mask changed since the start; the run uses the one at Run"
                event = Progress(
                    event.fraction,
                    f"{event.stage} ({changed})",
                    event.losses,
                    event.seconds,
                    event.remaining,
                )
            self.panel.show_progress(event)
        elif isinstance(event, Canvas):
            layers.show(event)
        elif isinstance(event, Note) and event.level == "warning":
            from napari.utils.notifications import show_warning

            show_warning(event.text)

    def _end(self, outcome: Outcome) -> None:
        layers = self._layers
        if layers is None:
            return
        if outcome.result is not None and outcome.result.record["mask"]["filled"]:
            # One by one: napari takes 0.1 to 0.2 s to add a layer.
            self._pending = layers.finish(outcome.result)
            self._pending.append(lambda: self._leave_run(summary(outcome.result)))
            QTimer.singleShot(BREATH, self._next_pending)
            return
        if outcome.cancelled and self.keep_box.isChecked():
            layers.keep_preview()
        else:
            layers.discard()
        if outcome.error:
            self._leave_run()
            self._show_error(outcome.error)
        elif outcome.cancelled:
            self._leave_run("Cancelled.")
        else:
            self._leave_run(summary(outcome.result))

    def _next_pending(self) -> None:
        if self._pending:
            self._pending.pop(0)()
        if self._pending:
            QTimer.singleShot(BREATH, self._next_pending)

    def _leave_run(self, text: str = "") -> None:
        for event in self._mask_events:
            event.disconnect(self._note_edit)
        self._mask_events = []
        self.job = self._layers = None
        self._jobs.clear()
        self._check()
        self.panel.show_summary(text)

    def _show_error(self, text: str) -> None:
        from napari.utils.notifications import show_error

        self.panel.show_summary(text)
        show_error(text)

    # the end of the widget

    def showEvent(self, event: QShowEvent | None) -> None:
        """Find the dock, when napari has put the widget into one."""
        # Rare events only are overridden: each call from Qt into Python waits for Python's lock.
        self._watch_dock()
        super().showEvent(event)

    def _watch_dock(self) -> None:
        # the dock is destroyed when it is closed, or together with the window
        dock = self.parent()
        if dock is not None and dock is not self._dock:
            self._dock = dock
            dock.destroyed.connect(self._lose_dock)

    def _lose_dock(self) -> None:
        self._dock = None
        if self.parent() is None:  # napari has taken the widget out of its closed dock
            self._give_up()
        elif self.job is not None:  # the window goes, and the viewer's layers with it
            self.job.abandon()

    def _give_up(self) -> None:
        self._pending = []
        if self.job is not None:
            self.job.abandon()
        if self._layers is not None:
            self._layers.discard()
        self._device_timer.stop()
        for box in (self.image_box, self.mask_box):
            box.release()
        for event in self._mask_events:
            event.disconnect(self._note_edit)
        self._mask_events = []
        self.job = self._layers = None


def _rehearse() -> None:
    import knitcore

    image = np.add.outer(np.arange(20.0), np.arange(20.0))
    mask = np.zeros(image.shape, bool)
    mask[7:13, 7:13] = True
    # knit_depth=0: even a small hole gets a fit, not a start alone
    knitcore.inpaint(image, mask, steps=2, ensemble=1, knit_depth=0, device="cpu")


def inpaint_layers(
    image: Taken, mask: Taken, recipe: Inpaint, cancel: CancelToken
) -> Generator[Any, None, Result]:
    """Read the layers and fill the image; for a worker thread.

    Parameters
    ----------
    image, mask : Taken
    recipe : Inpaint
    cancel : object with ``is_set()``

    Yields
    ------
    Progress, Note
        As the core does.
    Canvas
        At most two a second.

    Returns
    -------
    Result
    """
    import knitcore

    array = yield from read(image, cancel)
    marks = yield from core_mask(mask, image, cancel)
    source = core_image(image, array)
    steps = knitcore.inpaint_steps(source, marks, recipe, cancel=cancel, previews=True)
    canvas, shown = None, 0.0
    try:
        while True:
            event = next(steps)
            if not isinstance(event, Preview):
                yield event
                continue
            if canvas is None:
                canvas = Canvas(array.copy())
            canvas.data[event.box] = event.values
            if time.monotonic() - shown >= PREVIEW_GAP:
                shown = time.monotonic()
                yield canvas
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def _refuse_empty(image: Taken, mask: Taken, recipe: Inpaint) -> None:
    """Tell an empty mask before the run, as far as that is quick to see."""
    if recipe.invert_mask or recipe.saturated_as_hole or recipe.alpha_channel == "mask":
        return
    if np.dtype(image.data.dtype).kind == "f":
        return  # may hold NaN to fill
    data = mask.data
    if mask.kind == "shapes":
        empty = len(data) == 0
    else:
        small = isinstance(data, np.ndarray) and data.nbytes <= COPY_AT_ONCE
        empty = small and not data.any()
    if empty:
        raise InputError(f"mask layer {mask.name!r} is empty: paint over what is to be filled")


def summary(result: Result) -> str:
    """One line on a result, and its notes below.

    Parameters
    ----------
    result : Result

    Returns
    -------
    str
    """
    record = result.record
    filled, fraction = record["mask"]["filled"], record["mask"]["fraction"]
    seconds = duration(record["seconds"]["total"])
    if filled:
        line = (
            f"Filled {filled:,} pixels ({100 * fraction:.3g} %) in {seconds} on {record['device']}."
        )
    else:
        line = "Nothing to fill: the image is as it was."
    return "\n".join([line, *(note["text"] for note in record["notes"])])
