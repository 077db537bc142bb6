"""What the widgets of all tasks share: inputs, Run and Cancel, one job, and the layers at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtGui import QPixmap, QShowEvent
from qtpy.QtWidgets import QCheckBox, QFormLayout, QVBoxLayout, QWidget

from knit_plugin import _settings
from knit_plugin._layer_box import LayerBox
from knit_plugin._layers import Taken, core_image, core_mask, memory_needed, read, take
from knit_plugin._recipe_form import InputsArea, RecipeForm, add_row, form_layout
from knit_plugin._results import Canvas, ResultLayers, enlarged_shape, nearest
from knit_plugin._run_panel import RunPanel, amount, wrapped_label
from knit_plugin._worker import Job, Outcome, busy, torch_devices, wait_for, warm_up
from knitcore import InputError, Note, Preview, Progress, RecipeError, Result
from knitcore.events import CancelToken
from knitcore.recipe import PRESETS, RECIPES, Recipe, make_recipe

PREVIEW_GAP = 0.5  # seconds
BREATH = 30  # ms, for the event loop between two layers that are added


class TaskWidget(QWidget):
    """A task's inputs, and its runs one after the other. A subclass for each task fills in the rest.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The name is what napari looks for when it opens the widget.
    """

    task: ClassVar[str]  # as the recipe names it
    verb: ClassVar[str]  # for napari's activity dock: "Inpaint"
    image_tip: ClassVar[str]
    basic: ClassVar[tuple[str, ...]]  # fields of the recipe that are shown at once,
    advanced: ClassVar[tuple[str, ...]]  # and those that are folded away

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        from napari.layers import Image

        self.viewer = napari_viewer
        self.job: Job | None = None
        self.remark = ""  # to be shown with the progress of the run
        self._layers: ResultLayers | None = None
        self._pending: list[Any] = []
        self._dock: Any = None

        self.image_box = LayerBox(napari_viewer, (Image,), "no image layer")
        self.boxes = [self.image_box]
        self.hint = wrapped_label()
        self.form = RecipeForm(RECIPES[self.task], PRESETS[self.task], self.basic, self.advanced)
        self.panel = RunPanel()
        self._lay_out()

        for box in self.boxes:
            box.layer_changed.connect(self.check)
        self.panel.run.connect(self.run)
        self.panel.cancel.connect(self.cancel)
        self._choose_selected()
        _settings.recall_form(self.task, self.form)
        self.check()

        self._warm_up = warm_up(self.rehearse)
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

    # what a task fills in

    def add_inputs(self, layers: QFormLayout) -> list[QWidget]:
        """Add the task's own rows below the image's (and to the form).

        Parameters
        ----------
        layers : QFormLayout

        Returns
        -------
        list of QWidget
            What else stands between the layers and the hint.
        """
        return []

    @staticmethod
    def rehearse() -> None:
        """Do the task in small, so that all its libraries are loaded; in a thread."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """Fields of the recipe, as the inputs say."""
        return self.form.values()

    def take(self, *, copy: bool) -> tuple[Taken, Taken | None]:
        """The layers a run works on: an image, and perhaps a mask.

        Parameters
        ----------
        copy : bool
            As for `knit_plugin._layers.take`.

        Raises
        ------
        InputError
            Something is missing, or cannot be used.
        """
        if self.image_box.layer is None:
            raise InputError("Open an image first (File > Open Sample > Knitworks has one).")
        return take(self.image_box.layer, copy=copy), None

    def refuse(self, image: Taken, mask: Taken | None, recipe: Any) -> None:
        """Raise InputError where a run could lead to nothing; called when Run is pressed."""

    def factors(self, image: Taken, recipe: Any) -> tuple[float, ...]:
        """By how much each axis of the image layer grows."""
        return (1.0,) * image.ndim

    def done(self, recipe: Any) -> str:
        """What was done to the image, for the result layer's name: "inpainted"."""
        raise NotImplementedError

    def start_watching(self) -> None:
        """A run starts."""

    def stop_watching(self) -> None:
        """The run is over."""

    def in_worker(self, image: Taken) -> Callable[[Result], Any]:
        """What to make of the result in the worker, for `more_layers`; called at Run."""
        return lambda result: None

    def has_changed(self, result: Result) -> bool:
        """Whether there is a result to show as layers."""
        return True

    def more_layers(
        self, layers: ResultLayers, result: Result, extra: Any
    ) -> list[Callable[[], None]]:
        """What adds the task's further layers to the image and std, one by one."""
        return []

    def summary(self, result: Result) -> str:
        """One sentence on the result."""
        raise NotImplementedError

    def picture(self, result: Result) -> tuple[QPixmap, str] | tuple[()]:
        """A small picture to stand below the summary, and its tooltip."""
        return ()

    # layout

    def _lay_out(self) -> None:
        inputs = QWidget()
        column = QVBoxLayout(inputs)
        column.setContentsMargins(0, 0, 0, 0)
        layers = form_layout()
        add_row(layers, "Image", self.image_box, self.image_tip)
        column.addLayout(layers)
        for widget in (*self.add_inputs(layers), self.hint, self.form):
            column.addWidget(widget)
        self.keep_box = QCheckBox()
        tip = "After Cancel, leave the layer with what was reached so far."
        add_row(self.form.advanced_rows, "Keep on cancel", self.keep_box, tip)
        self._scroll = InputsArea(inputs)
        self.form.toggle.toggled.connect(self._scroll.updateGeometry)
        layout = QVBoxLayout(self)
        layout.addWidget(self._scroll)
        layout.addWidget(self.panel)
        layout.addStretch()

    def _choose_selected(self) -> None:
        # from Layers > Filter, the selected image is the one meant
        active = self.viewer.layers.selection.active
        for box in self.boxes:
            if active in box._layers:
                box.layer = active

    def _offer_devices(self) -> None:
        if not self._warm_up.is_alive():
            self._device_timer.stop()
            self.form.set_choices("device", ["auto", *torch_devices()])
            _settings.recall_device(self.task, self.form)

    # before the run

    def check(self) -> None:
        """Say what is missing, or what the run will need; Run is on when nothing is missing."""
        if self.job is not None:
            return
        try:
            image, _ = self.take(copy=False)
            text = self._needs(image)
        except InputError as problem:
            self._say(str(problem))
            self.panel.show_idle(ready=False)
            return
        self._say(text)
        self.panel.show_idle(ready=True)

    def _needs(self, image: Taken) -> str:
        try:
            factors = self.factors(image, make_recipe(self.task, **self.fields()))
        except RecipeError:
            factors = (1.0,) * image.ndim  # told when Run is pressed
        sides = " × ".join(map(str, image.data.shape))
        shape = enlarged_shape(image, factors)
        if shape != tuple(image.data.shape):
            sides += " to " + " × ".join(map(str, shape))
        needed = amount(memory_needed(image, int(np.prod(shape))))
        return f"{sides} {np.dtype(image.data.dtype)}, about {needed} for the layers"

    def _say(self, text: str) -> None:
        self.hint.setText(text)
        self._scroll.updateGeometry()  # it may take another line

    # the run

    def run(self) -> None:
        """Start the fit with what the inputs say now."""
        if self.job is not None:
            return
        try:
            recipe = make_recipe(self.task, **self.fields())
            image, mask = self.take(copy=True)
            self.refuse(image, mask, recipe)
            factors = self.factors(image, recipe)
        except (InputError, RecipeError) as problem:
            self._show_error(str(problem))
            return
        if busy():
            self._show_error(
                "Another knitwork is being fitted, and one fit runs at a time: "
                "wait for its end, or cancel it"
            )
            return
        pixels = int(np.prod(enlarged_shape(image, factors)))
        if not _settings.may_take(memory_needed(image, pixels), self):
            return
        _settings.keep_form(self.task, self.form)
        anchor = getattr(recipe, "anchor", "centre")  # only super-resolution has one
        layers = ResultLayers(self.viewer, image, self.done(recipe), factors, anchor)
        warming, in_worker = self._warm_up, self.in_worker(image)

        def steps(cancel: Any) -> Generator[Any, None, tuple[Result, Any]]:
            yield from wait_for(warming, cancel)
            result = yield from run_on_layers(recipe, image, mask, layers.shape, cancel)
            return result, in_worker(result)

        job = Job(steps, f"{self.verb} {image.name}", self._receive, self._end)
        self.job, self._layers = job, layers
        self._jobs.append(job)
        self._watch_dock()
        self.remark = ""
        self.start_watching()
        self.panel.show_running()
        layers.open()
        job.start()

    def cancel(self) -> None:
        """Stop the run soon; harmless when there is none."""
        if self.job is not None:
            self.job.cancel()
            self.panel.show_cancelling()

    def _receive(self, event: Any) -> None:
        layers = self._layers
        if layers is None:
            return
        if isinstance(event, Progress):
            if self.remark:
                event = replace(event, stage=f"{event.stage} ({self.remark})")
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
        if outcome.result is None:
            if outcome.cancelled and self.keep_box.isChecked():
                layers.keep_preview()
            else:
                layers.discard()
            self._leave_run("Cancelled." if outcome.cancelled else "")
            if outcome.error:
                self._show_error(outcome.error)
            return
        result, extra = outcome.result
        if not self.has_changed(result):
            layers.discard()
            self._finish_run(result)
            return
        # One by one: napari takes 0.1 to 0.2 s to add a layer.
        self._pending = [*layers.finish(result), *self.more_layers(layers, result, extra)]
        self._pending.append(lambda: self._finish_run(result))
        QTimer.singleShot(BREATH, self._next_pending)

    def _next_pending(self) -> None:
        if self._pending:
            self._pending.pop(0)()
        if self._pending:
            QTimer.singleShot(BREATH, self._next_pending)

    def _finish_run(self, result: Result) -> None:
        if self._layers is not None and self.has_changed(result):
            name = f"{self._layers.source.name} ({self._layers.done})"
            _settings.autosave(result, name, self._show_error)
        self._leave_run()
        notes = [note["text"] for note in result.record["notes"]]
        text = "\n".join([self.summary(result), *notes])
        self.panel.show_summary(text, *self.picture(result))

    def _leave_run(self, text: str = "") -> None:
        self.stop_watching()
        self.job = self._layers = None
        self._jobs.clear()
        self.check()
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
        for box in self.boxes:
            box.release()
        self.stop_watching()
        self.job = self._layers = None


def run_on_layers(
    recipe: Recipe,
    image: Taken,
    mask: Taken | None,
    shape: tuple[int, ...],
    cancel: CancelToken,
) -> Generator[Any, None, Result]:
    """Read the layers and run the recipe's task on them; for a worker thread.

    Parameters
    ----------
    recipe : Recipe
    image : Taken
    mask : Taken or None
        For inpainting.
    shape : tuple of int
        Of the result.
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
    marks = None if mask is None else (yield from core_mask(mask, image, cancel))
    source = core_image(image, array)
    steps = knitcore.run_steps(recipe, source, marks, cancel=cancel, previews=True)
    canvas, shown = None, 0.0
    try:
        while True:
            event = next(steps)
            if not isinstance(event, Preview):
                yield event
                continue
            if canvas is None:
                canvas = Canvas(nearest(array, shape))
            canvas.data[event.box] = event.values
            if time.monotonic() - shown >= PREVIEW_GAP:
                shown = time.monotonic()
                yield canvas
    except StopIteration as end:
        return end.value
    finally:
        steps.close()
