"""What the widgets of all tasks share: inputs, Run and Cancel, one job, and the layers at its end."""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Generator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtGui import QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from knit_plugin import _settings
from knit_plugin._background import Background
from knit_plugin._cache import keep_result, kept_result, run_key, trim
from knit_plugin._layer_box import LayerBox
from knit_plugin._layers import (
    Taken,
    core_image,
    core_mask,
    memory_needed,
    own,
    read,
    take,
)
from knit_plugin._parts import Box, current_plane, cut, in_view, planes_between
from knit_plugin._recipe_form import (
    InputsArea,
    RecipeForm,
    add_keys,
    add_row,
    form_layout,
    label_of,
)
from knit_plugin._repeat import as_command, as_python, same_in_file, save_input
from knit_plugin._results import (
    Canvas,
    Ready,
    ResultLayers,
    enlarged_shape,
    make_ready,
    nearest,
    one_a_pixel,
    place_of,
    residual_width,
)
from knit_plugin._run_panel import RunPanel, amount, without_options, wrapped_label
from knit_plugin._settings import set_inputs
from knit_plugin._worker import Job, Outcome, busy, torch_devices, wait_for, warm_up
from knitcore import (
    InputError,
    KnitError,
    Note,
    Preview,
    Progress,
    RecipeError,
    Result,
    load_recipe,
    save_recipe,
)
from knitcore.baselines.methods import METHODS, run_method_steps
from knitcore.events import CancelToken, drain
from knitcore.overlay import Overlay
from knitcore.recipe import PRESETS, RECIPES, Recipe, make_recipe, with_fields

PREVIEW_STEPS = 150  # no more for a trial; the article's settings take thousands
PREVIEW_MEMBERS = 2  # nor more networks
PREVIEW_SECONDS = 8.0  # after which it shows what it has
AGAIN = 400  # ms without another change of the settings, before a preview starts anew
RECIPE_FILES = "Recipes and records (*.yaml *.yml *.json)"
MOST_POPUPS = 3  # of warnings in a run; all stand in the summary or the record
MOST_NOTES = 5  # of a record in the summary; a stack may have one for each plane
BREATH = 30  # ms, for the event loop between two layers that are added
FAR_PLANES = 4.0  # from this ratio of z step to pixel size on, neighbouring planes tell little


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
    preview_side: ClassVar[int] = 256  # most pixels that a preview is high and wide
    summed_up: ClassVar[str] = ""  # a note of the core that the summary tells anyway
    in_planes: ClassVar[bool] = True  # whether the recipe has a choice of 2-D or 3-D

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        from napari.layers import Image

        self.viewer = napari_viewer
        self.job: Job | None = None
        self._notes: list[str] = []  # of the run under way
        self._warned = 0  # of them, warnings
        self.remark = ""  # to be shown with the progress of the run
        self._layers: ResultLayers | None = None
        self._pending: list[Any] = []  # what is still to be done in the viewer, step by step
        self._aside: set[Background] = set()  # what is worked out in threads, besides runs
        self._dock: Any = None
        self._extra_fields: dict[str, Any] = {}  # of a loaded recipe, without an input here
        self._trying = self._try_again = False  # the run under way is a preview; start it anew
        self._try_over = False  # its time is over
        self._tried_layers: list[Any] = []  # what it tries
        self._tried: Any = None  # the layer of the last preview
        self._tried_box: Box = ()
        # no strong references: what the user deletes is to leave the memory
        self._last: dict[str, Any] = {}

        self.image_box = LayerBox(napari_viewer, (Image,), "no image layer")
        self.boxes = [self.image_box]
        self.hint = wrapped_label()
        self.form = RecipeForm(RECIPES[self.task], PRESETS[self.task], self.basic, self.advanced)
        self.panel = RunPanel()
        self._lay_out()

        for box in self.boxes:
            box.layer_changed.connect(self.check)
            box.layer_changed.connect(self._layers_changed)
        self.panel.run.connect(self.run)
        self.panel.cancel.connect(self.cancel)
        self.panel.preview.connect(self.preview)
        keys = {
            "Ctrl+Return": self.panel.run_button,
            "Ctrl+Shift+Return": self.panel.preview_button,
            "Esc": self.panel.cancel_button,
        }
        add_keys(self, keys)
        self._fill_menus()
        self._again_timer = QTimer(self)
        self._again_timer.setSingleShot(True)
        self._again_timer.setInterval(AGAIN)
        self._again_timer.timeout.connect(self._preview_again)
        for form in self._forms():
            form.on_change(self._settings_changed)
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
        self, layers: ResultLayers, result: Result, ready: Ready
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
        self._part_row = self._make_part_row()
        tip = "Which planes of a stack: all, the one in view, or a range along its first axis."
        add_row(layers, "Part", self._part_row, tip)
        self.volume = QComboBox()
        self.volume.addItems(["auto", "plane by plane (2-D)", "planes together (3-D)"])
        self.volume.currentIndexChanged.connect(lambda _: self.check())
        self.volume.currentIndexChanged.connect(lambda _: self._settings_changed())
        tip = (
            "Whether the planes of a stack are fitted one by one, or as a volume. Auto: as a volume "
            f"along z, unless the step in z is {FAR_PLANES:g} times the pixel size or more."
        )
        if self.in_planes:
            add_row(layers, "Fit", self.volume, tip)
        self._layer_rows = layers
        column.addLayout(layers)
        for widget in (*self.add_inputs(layers), self.hint, self.form):
            column.addWidget(widget)
        self.keep_box = QCheckBox()
        tip = "After Cancel, leave the layer with what was reached so far."
        add_row(self.form.advanced_rows, "Keep on cancel", self.keep_box, tip)
        self._scroll = InputsArea(inputs)
        self.form.toggle.toggled.connect(lambda _: self._scroll.make_room())
        layout = QVBoxLayout(self)
        layout.addWidget(self._scroll)
        layout.addWidget(self.panel)
        layout.addStretch()

    def _make_part_row(self) -> QWidget:
        self.part = QComboBox()
        self.part.addItems(["all planes", "current plane", "planes from, to"])
        self.first, self.last = QSpinBox(), QSpinBox()
        row = QWidget()
        line = QHBoxLayout(row)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.part)
        for box, name in ((self.first, "First plane"), (self.last, "Last plane")):
            box.setRange(0, 10**6)
            box.setAccessibleName(name)
            box.setToolTip(f"{name}, counted from 0.")
            box.hide()
            line.addWidget(box)
            box.valueChanged.connect(lambda _: self.check())

        def choose(index: int) -> None:
            self.first.setVisible(index == 2)
            self.last.setVisible(index == 2)
            self.check()

        self.part.currentIndexChanged.connect(choose)
        return row

    def _forms(self) -> list[RecipeForm]:
        mask_form = getattr(self, "mask_form", None)
        return [self.form, *([] if mask_form is None else [mask_form])]

    def _fill_menus(self) -> None:
        menu: Any = self.panel.compare_button.menu()
        self.toggle_action = menu.addAction("Show source / result", self.toggle_result)
        self.toggle_action.setToolTip("Switch between the source and the last result.")
        self.std_action = menu.addAction("Expected error over the result", self.toggle_std)
        self.residual_action = menu.addAction("Add residual layer", self.add_residual)
        self.residual_action.setToolTip("Source minus result, as a new layer.")
        menu.addSeparator()
        others = menu.addMenu("Compare with…")
        others.setToolTipsVisible(True)
        for name, method in METHODS[self.task].items():
            there = not method.needs or find_spec(method.needs) is not None
            if method.quick and name != "fast" and there:
                action = others.addAction(method.title)
                action.setToolTip("Does the same to the plane in view, as another layer.")
                action.triggered.connect(lambda _=False, name=name: self.compare_with(name))
        menu = self.panel.repeat_button.menu()
        menu.addAction("Copy as command", self.copy_command)
        menu.addAction("Copy as Python", self.copy_python)
        menu.addSeparator()
        menu.addAction("Save recipe…", self.save_recipe_as)
        menu.addAction("Load recipe…", self.load_recipe_from)
        menu.addSeparator()
        menu.addAction("Run again with the selected layer's settings", self.run_again)

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
        self._show_stack_rows()
        try:
            image, mask = self.take(copy=False)
            text = self._needs(cut(image, self._part_box(image)), mask)
        except InputError as problem:
            self._say(str(problem))
            self.panel.show_idle(ready=False)
            return
        self._say(text)
        self.panel.show_idle(ready=True)

    def _show_stack_rows(self) -> None:
        layer = self.image_box.layer
        image = None if layer is None else take(layer, copy=False)
        stack = image is not None and bool(plane_axes(image))
        rows = [self._part_row, *([self.volume] if self.in_planes else [])]
        for row in rows:
            if self._layer_rows.isRowVisible(row) != stack:
                self._layer_rows.setRowVisible(row, stack)
        if self.in_planes and stack and image is not None:
            by_hand = self.form.inputs["planes"].value != "auto"
            self.volume.setEnabled(not by_hand)
            self.volume.setItemText(0, "as Planes says" if by_hand else auto_in_words(image))

    def _part_box(self, image: Taken) -> Box:
        chosen = self.part.currentIndex()
        if plane_axes(image):
            if chosen == 1:
                return current_plane(image, self.image_box.layer, self.viewer)
            if chosen == 2:
                return planes_between(image, self.first.value(), self.last.value())
        return tuple((0, n) for n in image.shape)

    def share_held(self, image: Taken, mask: Taken | None) -> float:
        """Of the image's pixels, those that a run holds in memory."""
        return 1.0

    def _memory(self, image: Taken, mask: Taken | None, factors: tuple[float, ...]) -> int:
        pixels = int(np.prod(enlarged_shape(image, factors)))
        return memory_needed(image, pixels, self.share_held(image, mask))

    def _needs(self, image: Taken, mask: Taken | None) -> str:
        try:
            factors = self.factors(image, make_recipe(self.task, **self.fields()))
        except RecipeError:
            factors = (1.0,) * image.ndim  # told when Run is pressed
        sides = " × ".join(map(str, image.data.shape))
        shape = enlarged_shape(image, factors)
        if shape != tuple(image.data.shape):
            sides += " to " + " × ".join(map(str, shape))
        needed = amount(self._memory(image, mask, factors))
        return f"{sides} {np.dtype(image.data.dtype)}, about {needed} for the layers"

    def _say(self, text: str) -> None:
        self.hint.setText(text)
        self._scroll.updateGeometry()  # it may take another line

    # the run

    def recipe(self) -> Any:
        """What the inputs say now, with the fields of a loaded recipe that have no input.

        Raises
        ------
        RecipeError
        """
        fields = {**self._extra_fields, **self.fields()}
        if self.in_planes and self.image_box.layer is not None and fields["planes"] == "auto":
            image = take(self.image_box.layer, copy=False)
            fields["planes"] = chosen_planes(image, self.volume.currentIndex())
        return make_recipe(self.task, **fields)

    def run(self) -> None:
        """Start the fit with what the inputs say now."""
        self._start(trying=False)

    def preview(self) -> None:
        """Try the settings on what is in view."""
        self._start(trying=True)

    def _start(self, *, trying: bool) -> None:
        if self.job is not None:
            return
        self._finish_pending()
        try:
            recipe = self.recipe()
            whole, mask = self.take(copy=False)
            if trying:
                layer, side = self.image_box.layer, self.preview_side
                box = in_view(whole, layer, self.viewer, side)
                recipe = for_preview(recipe)
            else:
                box = self._part_box(whole)
            part = cut(whole, box)
            image, mask = own(part), None if mask is None else own(mask)
            self.refuse(image, mask, recipe)
            factors = self.factors(image, recipe)
        except (InputError, RecipeError) as problem:
            self._show_error(str(problem))
            return
        if not trying:
            if not _settings.may_take(self._memory(image, mask, factors), self):
                return
            _settings.keep_form(self.task, self.form)
        self._remove_tried()
        self._trying, self._try_again, self._tried_box = trying, False, box
        self._try_over, self._tried_layers = False, [one.layer for one in self.boxes]
        self._last_box = box
        self._source = weakref.ref(self.image_box.layer)
        cropped = part is not whole
        done = self.done(recipe) + (", preview" if trying else "")
        anchor = getattr(recipe, "anchor", "centre")  # only super-resolution has one
        told = {
            "preview": trying,
            "box": box,
            "shape": whole.shape,
            "layers": [(one.layer.unique_id, one.layer.name) for one in self.boxes],
        }
        layers = ResultLayers(self.viewer, image, done, factors, anchor, told)
        warming, in_worker = self._warm_up, self.in_worker(image)
        chosen = _settings.preferences()
        folder = "" if trying else chosen.autosave_folder
        name, has_changed = f"{image.name} ({done})", self.has_changed

        def steps(cancel: Any) -> Generator[Any, None, tuple[Result, Ready]]:
            yield from wait_for(warming, cancel)
            result = yield from run_on_layers(
                recipe, image, mask, layers, cancel, cropped, chosen.cache_mb
            )
            if folder and has_changed(result):
                yield Progress(1.0, "save")
                problems: list[str] = []
                _settings.autosave(result, name, folder, problems.append)
                yield from (Note(text, "warning") for text in problems)
            return result, make_ready(result, image.rgb, in_worker(result))

        self._launch(Job(steps, f"{self.verb} {image.name}", self._receive, self._end), layers)

    def _launch(self, job: Job, layers: ResultLayers, *, open_layer: bool = True) -> None:
        self.job, self._layers = job, layers
        self._jobs.append(job)
        self._watch_dock()
        self.remark, self._notes, self._warned = "", [], 0
        self.start_watching()
        self.panel.show_running()
        if open_layer and not busy():  # a run that waits shows nothing before it begins
            layers.open()
        job.start()

    def _settings_changed(self) -> None:
        if self.job is not None and self._trying:
            self._again_timer.start()

    def _layers_changed(self) -> None:
        # a layer that came or went changes the choice only if it was the one chosen
        chosen = [one.layer for one in self.boxes]
        if any(a is not b for a, b in zip(chosen, self._tried_layers, strict=False)):
            self._settings_changed()

    def _preview_again(self) -> None:
        if self.job is None:  # it has just ended
            if self._tried is not None:
                self.preview()
        elif self._trying:
            self._try_again = True
            self.cancel()

    def _remove_tried(self) -> None:
        tried, self._tried = self._tried, None
        layer = None if tried is None else tried()
        if layer is not None and layer in self.viewer.layers:
            self.viewer.layers.remove(layer)

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
            if self._trying and event.seconds > PREVIEW_SECONDS and layers.has_shown:
                self._try_over = True
                self.cancel()
        elif isinstance(event, Canvas):
            began = time.monotonic()
            layers.show(event)
            # when this comes, the picture has been painted
            QTimer.singleShot(0, lambda: layers.measure(began))
        elif isinstance(event, Note):
            text = self._in_words(event.text)
            self._notes.append(text)
            self._warned += event.level == "warning"
            if event.level == "warning" and self._warned <= MOST_POPUPS:
                from napari.utils.notifications import show_warning

                show_warning(text)

    def _end(self, outcome: Outcome) -> None:
        layers = self._layers
        if layers is None:
            return
        if outcome.result is None:
            over = outcome.cancelled and self._try_over and not self._try_again
            if outcome.cancelled and self.keep_box.isChecked() and not self._trying:
                layers.keep_preview()
            elif over and layers.layer is not None:
                self._tried = weakref.ref(layers.layer)
            else:
                # napari takes a moment to remove a layer, so it only goes out of sight at once
                layers.hide()
                self._pending = [layers.discard]
                QTimer.singleShot(BREATH, self._next_pending)
            again = self._trying and self._try_again and outcome.cancelled
            text = f"Preview of {self._tried_sides()} pixels, stopped after {PREVIEW_SECONDS:g} s"
            text = f"{text}: this is how far it was." if over else "Cancelled."
            self._leave_run(text if outcome.cancelled and not again else "")
            if again:
                self.preview()
            if outcome.error:
                self._show_error(outcome.error)
            return
        result, ready = outcome.result
        if not self.has_changed(result):
            layers.discard()
            self._finish_run(result)
            return
        # One by one: napari takes 0.1 to 0.2 s to add a layer.
        self._pending = layers.finish(result, ready)
        if self._trying:
            del self._pending[1:]
        else:
            self._pending += self.more_layers(layers, result, ready)
        self._pending.append(lambda: self._finish_run(result))
        QTimer.singleShot(BREATH, self._next_pending)

    def _next_pending(self) -> None:
        if self._pending:
            self._pending.pop(0)()
        if self._pending:
            QTimer.singleShot(BREATH, self._next_pending)

    def _finish_pending(self) -> None:
        while self._pending:
            self._pending.pop(0)()

    @property
    def busy(self) -> bool:
        """Whether a run, its layers or something beside it is under way."""
        return self.job is not None or bool(self._pending) or bool(self._aside)

    def _work_aside(self, function: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have something worked out in a thread that is no run, and go on with it here."""
        work = Background(self)
        self._aside.add(work)

        def end(call: Callable[[Any], None], outcome: Any) -> None:
            self._aside.discard(work)
            work.deleteLater()
            call(outcome)

        work.done.connect(lambda outcome: end(then, outcome))
        work.failed.connect(lambda text: end(self._show_error, text))
        work.ask(function)

    def _finish_run(self, result: Result) -> None:
        layers, trying = self._layers, self._trying
        self._leave_run()
        told = [self._in_words(note["text"]) for note in result.record["notes"]]
        # those on the layers are not in the record
        lines = [self.summary(result), *dict.fromkeys(n for n in self._notes if n not in told)]
        if self._source() not in self.viewer.layers:
            lines.append("Its source layer was deleted meanwhile: the run used its own copy.")
        told = [note for note in dict.fromkeys(told) if note != self.summed_up]
        lines += told[:MOST_NOTES]
        if len(told) > MOST_NOTES:
            lines.append(f"{len(told) - MOST_NOTES} more notes are in the record.")
        if trying:
            lines[0] = f"Preview of {self._tried_sides()} pixels: {lines[0]}"
            if layers is not None and layers.layer is not None:
                self._tried = weakref.ref(layers.layer)
        elif layers is not None and layers.layer is not None:
            std = layers.std_layer
            self._last = {
                "result": weakref.ref(layers.layer),
                "source": self._source,
                "std": None if std is None else weakref.ref(std),
                "box": self._last_box,
            }
        text = "\n".join(lines)
        self.panel.show_summary(text, *self.picture(result))
        if trying and self._try_again:  # a setting was changed while the layers were added
            self.preview()

    def _tried_sides(self) -> str:
        return " × ".join(str(high - low) for low, high in self._tried_box)

    def _leave_run(self, text: str = "") -> None:
        self.stop_watching()
        self.job = self._layers = None
        self._jobs.clear()
        self.check()
        self.panel.show_summary(text)

    # comparing

    def _layer_of(self, name: str) -> Any:
        """A layer of the last run that is still in the viewer, or None."""
        found = self._last.get(name)
        layer = None if found is None else found()
        return layer if layer is not None and layer in self.viewer.layers else None

    def toggle_result(self) -> None:
        """Show the source in the result's place, or the other way round."""
        result, source = self._layer_of("result"), self._layer_of("source")
        if result is None or source is None:
            self._say_missing("result and its source")
            return
        result.visible = not result.visible
        source.visible = True

    def toggle_std(self) -> None:
        """Lay the expected error over the result, half transparent, or hide it."""
        std = self._layer_of("std")
        if std is None:
            self._say_missing("std layer")
            return
        std.blending, std.opacity = "translucent", 0.5
        std.visible = not std.visible

    def add_residual(self) -> None:
        """Add source minus result as a layer."""
        from napari.layers import Image

        result, source = self._layer_of("result"), self._layer_of("source")
        if result is None or source is None:
            self._say_missing("result and its source")
            return
        whole = take(source, copy=False)
        part = cut(whole, self._last["box"])
        if tuple(part.data.shape) != result.data.shape:
            self._show_error("The result has other pixels than its source: there is no residual.")
            return
        before, after = part.data, result.data
        told = {k: v for k, v in result.metadata.items() if k.startswith("knitworks")}

        def subtract() -> tuple[np.ndarray, float]:
            taken = np.asarray(before).astype(np.float32) - np.asarray(after).astype(np.float32)
            taken = one_a_pixel(taken, part.rgb)
            return taken, residual_width(taken)

        def add(found: tuple[np.ndarray, float]) -> None:
            residual, width = found
            layer = Image(
                residual,
                name=f"{part.name} (residual)",
                colormap="gray",
                contrast_limits=(-width, width),
                rgb=False,
                metadata=told,
                **place_of(part),
            )
            self.viewer.add_layer(layer)

        self._work_aside(subtract, add)

    def compare_with(self, name: str) -> None:
        """Let another method do the same to the plane in view, as a further layer.

        Parameters
        ----------
        name : str
            A key of ``METHODS[task]``.
        """
        if self.job is not None:
            self._show_error("A run is under way: wait for its end, or cancel it")
            return
        try:
            recipe = self.recipe()
            whole, mask = self.take(copy=False)
            mask = None if mask is None else own(mask)
            letters = whole.axes[: whole.ndim]
            at = in_view(whole, self.image_box.layer, self.viewer, max(whole.shape))
            plane = current_plane(whole, self.image_box.layer, self.viewer)
            box = tuple(
                (a[0], a[0] + 1) if letter == "C" else p
                for letter, a, p in zip(letters, at, plane, strict=True)
            )
            image = own(cut(whole, box))
            factors = tuple(
                factor if letter in "YX" else 1.0  # a plane alone does not grow across itself
                for factor, letter in zip(self.factors(image, recipe), letters, strict=True)
            )
        except (InputError, RecipeError) as problem:
            self._show_error(str(problem))
            return
        anchor = getattr(recipe, "anchor", "centre")
        layers = ResultLayers(self.viewer, image, name, factors, anchor)
        shape, task = layers.shape, self.task

        def steps(cancel: Any) -> Generator[Any, None, Any]:
            array = yield from read(image, cancel)
            sides = [n for n, letter in zip(image.shape, letters, strict=True) if letter in "YX"]
            flat = array.reshape(*sides, *array.shape[image.ndim :])
            told: dict[str, Any] = {"seed": recipe.seed, "device": recipe.device}
            if mask is not None:
                from knitcore import resolve_mask

                marks = drain(core_mask(mask, image, cancel))
                hole = resolve_mask(core_image(image, array), marks, recipe)[0]
                told["mask"] = hole.reshape(flat.shape).reshape(*sides, -1).any(-1)
            if task == "super-resolve":
                grown = [f for f, letter in zip(factors, letters, strict=True) if letter in "YX"]
                told |= {"scale": tuple(grown), "anchor": recipe.anchor}
            elif task == "denoise":
                told["sigma"] = noise_sigma(flat) if recipe.sigma is None else recipe.sigma
            found = yield from run_method_steps(task, name, flat, **told)
            return np.asarray(found).reshape(shape)

        def end(outcome: Outcome) -> None:
            if self._layers is not layers:
                return
            if outcome.result is not None:
                layer = layers._add_image(outcome.result)
                layer.metadata = {"knitworks_method": name}
            title = METHODS[task][name].title
            self._leave_run(f"{title}: done." if outcome.result is not None else "Cancelled.")
            if outcome.error:
                self._show_error(outcome.error)

        self._trying = False
        job = Job(steps, f"{METHODS[task][name].title} {image.name}", self._receive, end)
        self._launch(job, layers, open_layer=False)

    def _say_missing(self, what: str) -> None:
        self._show_error(f"There is no {what} of this widget in the viewer: press Run first.")

    # repeating

    def copy_command(self) -> None:
        """Put what Run would do onto the clipboard, as a line for a shell."""
        self._copy(as_command)

    def copy_python(self) -> None:
        """Put what Run would do onto the clipboard, as lines of Python."""
        self._copy(as_python)

    def _copy(self, write: Callable[..., str]) -> None:
        try:
            recipe = self.recipe()
            whole, mask = self.take(copy=False)
            image = cut(whole, self._part_box(whole))
            self.refuse(image, mask, recipe)
        except KnitError as problem:
            self._show_error(str(problem))
            return
        told = self.image_box.layer.source.path if image is whole else None
        image, mask = own(image), None if mask is None else own(mask)

        def look() -> tuple[Any, Path | None]:
            source = core_image(image, drain(read(image)))
            # whole, for the shell it is pasted into may be anywhere
            return source, Path(told).absolute() if told and same_in_file(source, told) else None

        def ask(found: tuple[Any, Path | None]) -> None:
            source, path = found
            if path is not None and mask is None:
                copy((path, None, path.parent))
                return
            chosen = self.ask_folder()
            if not chosen:
                return
            folder = Path(chosen)

            def save() -> tuple[Path, Path | None, Path]:
                marks = None
                if mask is not None:
                    marks = save_input(drain(core_mask(mask, image)), folder, f"{image.name}_mask")
                return path or save_input(source, folder, image.name), marks, folder

            self._work_aside(save, copy)

        def copy(files: tuple[Path, Path | None, Path]) -> None:
            path, marks, folder = files
            out = folder / f"{path.stem}_{self.done(recipe)}.tif"
            clipboard: Any = QApplication.clipboard()
            clipboard.setText(write(recipe, path, marks, out))
            saved = f" The inputs are in {folder}." if marks or folder != path.parent else ""
            self.panel.show_summary(f"Copied.{saved}")

        self._work_aside(look, ask)

    def ask_folder(self) -> str:
        """A folder for inputs that are in no file as they are here; empty: none.

        Returns
        -------
        str
        """
        return QFileDialog.getExistingDirectory(self, "Save the inputs into this folder")

    def save_recipe_as(self) -> None:
        """Write the settings to a file that is asked for."""
        path, _ = QFileDialog.getSaveFileName(
            self, "Save recipe", f"{self.task}.yaml", RECIPE_FILES
        )
        if not path:
            return
        try:
            save_recipe(self.recipe(), path)
        except (KnitError, OSError) as problem:
            self._show_error(f"{path}: {problem}")
            return
        self.panel.show_summary(f"Saved as {path}")

    def load_recipe_from(self) -> None:
        """Take the settings from a file that is asked for."""
        path, _ = QFileDialog.getOpenFileName(self, "Load recipe", "", RECIPE_FILES)
        if not path:
            return
        try:
            self.show_recipe(load_recipe(path))
        except KnitError as problem:
            self._show_error(str(problem))

    def show_recipe(self, recipe: Recipe) -> None:
        """Fill in the inputs; fields without one are kept for the runs to come.

        Parameters
        ----------
        recipe : Recipe

        Raises
        ------
        RecipeError
            It is for another task.
        """
        if recipe.task != self.task:
            raise RecipeError(f"the recipe is for {recipe.task}: open that widget")
        fields = recipe.model_dump()
        shown: set[str] = set()
        for form in self._forms():
            mine = {name: value for name, value in fields.items() if name in form.inputs}
            left = set_inputs(form.inputs, mine)
            shown |= set(mine) - set(left)
        if self.in_planes:
            # without a window "auto" means a volume along z, however far its planes are apart
            layer = self.image_box.layer
            image = None if layer is None else take(layer, copy=False)
            far = image is not None and far_planes(image) >= FAR_PLANES
            self.volume.setCurrentIndex(2 if far and recipe.planes == "auto" else 0)
        extra = {name: value for name, value in fields.items() if name not in shown}
        self._extra_fields = {k: v for k, v in extra.items() if k not in ("task", "preset")}

    def run_again(self) -> None:
        """Take the settings from the selected result layer, and run."""
        layer = self.viewer.layers.selection.active
        record = None if layer is None else layer.metadata.get("knitworks")
        if self.job is not None:
            self._show_error("A run is under way: wait for its end, or cancel it")
            return
        if not isinstance(record, dict) or "recipe" not in record:
            self._show_error(
                "Select a layer that a run has made: its settings are in its metadata."
            )
            return
        told = layer.metadata.get("knitworks_run", {})
        if told.get("preview"):
            self._show_error("That layer is a preview: press Run for the whole.")
            return
        fields = {k: v for k, v in record["recipe"].items() if k != "recipe_version"}
        try:
            recipe = make_recipe(**fields)
            lost = self._choose_again(told["layers"] if recipe.task == self.task and told else [])
            self.show_recipe(recipe)
            if lost:
                raise InputError(
                    f"Layer {lost!r}, which that run was for, is not in the viewer. Its settings are "
                    "filled in: choose layers and press Run."
                )
            if told:
                self._show_part(told["box"], told["shape"])
        except (InputError, RecipeError) as problem:
            self._show_error(str(problem))
            return
        self._show_fit(recipe)
        self.run()

    def _choose_again(self, layers: list[tuple[Any, str]]) -> str:
        """Choose the layers of an earlier run; the name of one that is not there any more, or empty."""
        lost = ""
        for box, (identity, name) in zip(self.boxes, layers, strict=False):
            # a layer that was saved and opened again has its name only
            same = [one for one in box.layers if one.unique_id == identity] or [
                one for one in box.layers if one.name == name
            ]
            if same:
                box.layer = same[0]
            else:
                lost = lost or name
        return lost

    def _show_part(self, box: Box, shape: tuple[int, ...]) -> None:
        """Choose the planes of an earlier run on an image of some shape."""
        image = take(self.image_box.layer, copy=False)
        cut_axes = [a for a, (ends, n) in enumerate(zip(box, shape, strict=True)) if ends != (0, n)]
        if cut_axes and image.shape != shape:
            before, now = (" × ".join(map(str, sides)) for sides in (shape, image.shape))
            raise InputError(
                f"That run was for a part of {before} pixels; layer {image.name!r} has {now} now. Its "
                "settings are filled in: choose the part and press Run."
            )
        if not cut_axes or not plane_axes(image):
            self.part.setCurrentIndex(0)
        elif cut_axes == [0]:
            self.first.setValue(box[0][0])
            self.last.setValue(box[0][1] - 1)
            self.part.setCurrentIndex(2)
        else:  # one plane of several axes: the sliders say which
            inside = [low for low, _ in box]
            self.viewer.dims.set_point(
                range(self.viewer.dims.ndim - image.ndim, self.viewer.dims.ndim),
                self.image_box.layer.data_to_world(inside)[-image.ndim :],
            )
            self.part.setCurrentIndex(1)

    def _show_fit(self, recipe: Recipe) -> None:
        """Choose how the planes are fitted by its own input, where that gives the recipe's."""
        if not self.in_planes or recipe.planes == "auto" or self.image_box.layer is None:
            return
        image = take(self.image_box.layer, copy=False)
        for choice in range(self.volume.count()):
            if chosen_planes(image, choice) == recipe.planes:
                self.form.inputs["planes"].value = "auto"
                self.volume.setCurrentIndex(choice)
                return

    def _in_words(self, text: str) -> str:
        """A message of the core in this widget's words: no options, and inputs as they are labelled."""
        text = without_options(text)
        for form in self._forms():
            for name in form.inputs:
                if "_" in name:  # others are words that may stand for themselves
                    text = re.sub(rf"`?\b{name}\b`?", label_of(name), text)
        return text

    def _show_error(self, text: str) -> None:
        from napari.utils.notifications import show_error

        text = self._in_words(text)
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
        self._finish_pending() if self.job is None else self._pending.clear()
        if self.job is not None:
            self.job.abandon()
        if self._layers is not None:
            self._layers.discard()
        self._device_timer.stop()
        self._again_timer.stop()
        self._remove_tried()
        for box in self.boxes:
            box.release()
        self.stop_watching()
        self.job = self._layers = None


def plane_axes(image: Taken) -> str:
    """Letters of a stack's axes: all but Y, X and channels.

    Parameters
    ----------
    image : Taken

    Returns
    -------
    str
    """
    return "".join(letter for letter in image.axes[: image.ndim] if letter not in "YXC")


def far_planes(image: Taken) -> float:
    """Step along z in pixels of the plane.

    Parameters
    ----------
    image : Taken

    Returns
    -------
    float
        0 without a z axis, or where its unit cannot be compared.
    """
    letters = image.axes[: image.ndim]
    if "Z" not in letters:
        return 0.0
    steps = np.linalg.norm(image.matrix[:-1, :-1], axis=0)
    z, x = letters.index("Z"), letters.index("X")
    if str(image.units[z]) != str(image.units[x]):
        return 0.0
    return float(steps[z] / steps[x])


def chosen_planes(image: Taken, choice: int) -> str:
    """The recipe's field `planes` for a choice of 2-D or 3-D.

    Parameters
    ----------
    image : Taken
    choice : int
        0 auto, 1 plane by plane, 2 planes together.

    Returns
    -------
    str
    """
    letters = plane_axes(image)
    if not letters or (choice == 0 and far_planes(image) < FAR_PLANES):
        return "auto"
    if choice == 2:
        third = "Z" if "Z" in letters else letters[-1]
        return letters.replace(third, "") or "none"
    return letters


def auto_in_words(image: Taken) -> str:
    """What "auto" does with a stack.

    Parameters
    ----------
    image : Taken

    Returns
    -------
    str
    """
    if "Z" not in plane_axes(image):
        return "auto: 2-D, no axis is called z"
    ratio = far_planes(image)
    how = "2-D" if ratio >= FAR_PLANES else "3-D"
    return f"auto: {how}" + (f", z step {ratio:.2g} × pixel" if ratio else "")


def for_preview(recipe: Recipe) -> Recipe:
    """A recipe with what takes long left out.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    Recipe
    """
    fields: dict[str, Any] = {}
    if recipe.steps > PREVIEW_STEPS:
        fields["steps"] = PREVIEW_STEPS
    if getattr(recipe, "ensemble", 1) > PREVIEW_MEMBERS:
        fields["ensemble"] = PREVIEW_MEMBERS
    for name in ("validation", "look_alikes"):
        if getattr(recipe, name, False):
            fields[name] = False
    return with_fields(recipe, fields) if fields else recipe


def noise_sigma(picture: np.ndarray) -> float:
    """The noise's standard deviation by the median of diagonal Haar coefficients (Donoho 1995).

    Parameters
    ----------
    picture : ndarray, shape (Y, X) or (Y, X, C)

    Returns
    -------
    float
        In grey levels; above 0.
    """
    values = np.asarray(picture, np.float64)[..., None]
    values = values[: len(values) // 2 * 2, : values.shape[1] // 2 * 2]
    fine = values[::2, ::2] - values[1::2, ::2] - values[::2, 1::2] + values[1::2, 1::2]
    return float(np.nanmedian(np.abs(fine)) / 2 / 0.6745) or 1e-3


def run_on_layers(
    recipe: Recipe,
    image: Taken,
    mask: Taken | None,
    layers: ResultLayers,
    cancel: CancelToken,
    part: bool = False,
    cache_mb: float = 0.0,
) -> Generator[Any, None, Result]:
    """Read the layers and run the recipe's task on them; for a worker thread.

    Parameters
    ----------
    recipe : Recipe
    image : Taken
    mask : Taken or None
        For inpainting.
    layers : ResultLayers
        Tells the result's shape, and how often to show it.
    cancel : object with ``is_set()``
    part : bool
        The image is a part of its layer, so that it is no news that the mask reaches beyond it.
    cache_mb : float
        Most megabytes of results to keep; a run that is among them is not done again.

    Yields
    ------
    Progress, Note
        As the core does.
    Canvas
        At most two a second, fewer where they take long to paint.

    Returns
    -------
    Result
    """
    import knitcore

    if recipe.task == "inpaint" and not isinstance(image.data, np.ndarray):
        # filled where the holes are, and read nowhere else
        array: Any = Overlay(image.data, 2 + image.rgb, f"layer {image.name!r}")
    else:
        array = yield from read(image, cancel)
    marks = None
    if mask is not None:
        laying = core_mask(mask, image, cancel)
        marks = drain(laying) if part else (yield from laying)
    source = core_image(image, array)
    trim(cache_mb)
    # a kernel's file may hold another one by now
    lasting = not isinstance(array, Overlay) and not getattr(recipe, "kernel_is_file", False)
    key = run_key(recipe, source, marks) if cache_mb and lasting else ""
    if key and (kept := kept_result(key, source)):
        yield Note("From the cache: the same was done before; the time is that of that run.")
        return kept
    steps = knitcore.run_steps(recipe, source, marks, cancel=cancel, previews=True)
    canvas, shown = None, 0.0
    try:
        while True:
            event = next(steps)
            if not isinstance(event, Preview):
                yield event
                continue
            if canvas is None:
                lazy = isinstance(array, Overlay)
                start = Overlay(array, array.inner) if lazy else nearest(array, layers.shape)
                canvas = Canvas(start)
            canvas.data[event.box] = event.values
            if time.monotonic() - shown >= layers.gap:
                shown = time.monotonic()
                yield canvas
    except StopIteration as end:
        if key:
            keep_result(key, end.value, cache_mb)
        return end.value
    finally:
        steps.close()
