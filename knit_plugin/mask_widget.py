"""The widget "Make a mask (Knitworks)": labels on what is lost, from the image itself or a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QPushButton, QSpinBox, QVBoxLayout, QWidget

from knit_plugin._background import Background
from knit_plugin._layer_box import LayerBox
from knit_plugin._layers import Taken, core_image, core_mask, read, refuse_unfit, take
from knit_plugin._recipe_form import OptionalNumber, add_keys, add_row, form_layout
from knit_plugin._results import place_of
from knit_plugin._run_panel import without_options, wrapped_label
from knitcore import InputError, Note, drain, grow_mask, mask_from

# What is shown, and the core's word for it
SOURCES = {
    "saturated pixels": "saturated",
    "zero": "value=0",
    "NaN and infinite": "nan",
    "hot and dead pixels": "hot",
    "above a value": "above=",
    "below a value": "below=",
    "transparent (alpha 0)": "alpha",
    "a layer: Labels, Shapes, Points": "layer",
}
FARTHEST = 200  # pixels to grow or shrink


@dataclass(frozen=True)
class Made:
    """A mask as it came out of the thread."""

    labels: np.ndarray
    image: Taken
    notes: list[Note]


class MaskWidget(QWidget):
    """Make a Labels layer that marks what is to be filled; the image is left as it is.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    verb = "Make a mask"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        from napari.layers import Image, Labels, Points, Shapes

        self.viewer = napari_viewer
        self._made: Any = None  # the layer made last,
        self._made_data: Any = None  # and its array, as long as it is as we made it
        self._made_hash = 0
        self._made_for = ("", "")  # the name it was to have, and has
        self.image_box = LayerBox(napari_viewer, (Image,), "no image layer")
        self.source_box = QComboBox()
        self.source_box.addItems(list(SOURCES))
        self.value_box = QDoubleSpinBox()
        self.value_box.setDecimals(4)
        self.value_box.setRange(-1e12, 1e12)
        self.value_box.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        self.layer_box = LayerBox(napari_viewer, (Labels, Shapes, Points), "no such layer")
        self.label_box = OptionalNumber(1, 2**31 - 1, "all")
        self.grow_box = QSpinBox()
        self.grow_box.setRange(-FARTHEST, FARTHEST)
        self.grow_box.setSuffix(" px")
        self.button = QPushButton("Make mask")
        self.button.setToolTip(
            "Add a Labels layer. Pressed again, it replaces the last one, unless you painted on it."
        )
        self.hint, self.summary = wrapped_label(), wrapped_label()
        self._work = Background(self)
        self._lay_out()

        self.source_box.currentIndexChanged.connect(self._show_rows)
        for box in (self.image_box, self.layer_box):
            box.layer_changed.connect(self.check)
        self.button.clicked.connect(self.make)
        add_keys(self, {"Ctrl+Return": self.button})
        self._work.done.connect(self._finish)
        self._work.failed.connect(self._fail)
        active = self.viewer.layers.selection.active
        if active in self.image_box._layers:
            self.image_box.layer = active
        self._show_rows()

    def _lay_out(self) -> None:
        self._rows = rows = form_layout()
        add_row(rows, "Image", self.image_box, "The image to mark; it is not changed.")
        tip = (
            "Which pixels are lost. Of a colour image, those where any colour is. Hot and dead "
            "pixels stand far out of all that is around them."
        )
        add_row(rows, "Mask from", self.source_box, tip)
        add_row(rows, "Value", self.value_box, "Grey level of the image, not included.")
        tip = "Shapes are filled in, points become discs of their size; all as they are seen."
        add_row(rows, "Layer", self.layer_box, tip)
        tip = "One label of the layer (or one shape or point, by its place in it), or all."
        add_row(rows, "Label", self.label_box.native, tip)
        tip = (
            "Move the mask's border outwards in each plane; with a minus, inwards. A blurred "
            "defect is wider than it looks: 1 or 2 px more do no harm."
        )
        add_row(rows, "Grow by", self.grow_box, tip)
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        for widget in (self.hint, self.button, self.summary):
            layout.addWidget(widget)
        layout.addStretch()

    @property
    def source(self) -> str:
        """The core's word for what is chosen, without a number."""
        return SOURCES[self.source_box.currentText()]

    def _show_rows(self) -> None:
        source = self.source
        for box, shown in (
            (self.value_box, source.endswith("=")),
            (self.layer_box, source == "layer"),
            (self.label_box.native, source == "layer"),
        ):
            box.setVisible(shown)
            label = self._rows.labelForField(box)
            if label is not None:
                label.setVisible(shown)
        self.check()

    def check(self) -> None:
        """Say what is missing; the button is on when nothing is."""
        try:
            self._take(copy=False)
        except InputError as problem:
            self._say(str(problem))
            self.button.setEnabled(False)
            return
        self._say("")
        self.button.setEnabled(True)

    def _say(self, text: str) -> None:
        self.hint.setText(text)
        self.hint.setVisible(bool(text))

    def _take(self, *, copy: bool) -> tuple[Taken, Taken | None]:
        if self.image_box.layer is None:
            raise InputError("Open an image first (File > Open Sample > Knitworks has one).")
        image = take(self.image_box.layer, copy=copy)
        if self.source != "layer":
            return image, None
        if self.layer_box.layer is None:
            raise InputError("Add a Labels, Shapes or Points layer first.")
        layer = take(self.layer_box.layer, copy=copy)
        refuse_unfit(layer, image)
        return image, layer

    def make(self) -> None:
        """Make the mask that the inputs ask for, in the background."""
        try:
            image, layer = self._take(copy=True)
        except InputError as problem:
            self._fail(str(problem))
            return
        word = self.source
        if word.endswith("="):
            word += f"{self.value_box.value():.12g}"
        self.summary.setText("working…")
        self._work.ask(job(image, layer, word, self.label_box.value, self.grow_box.value()))

    def _finish(self, made: Made) -> None:
        from napari.layers import Labels

        name = f"{made.image.name} (mask)"
        marked = int(np.count_nonzero(made.labels))
        notes = "\n".join(without_options(note.text) for note in made.notes)
        if not marked:
            stays = " The earlier mask stays as it was." if self._made in self.viewer.layers else ""
            text = f"Nothing to mark, so no layer was added.{stays}"
            self.summary.setText(f"{text}\n{notes}".strip())
            return
        ours = self._made_for == (name, getattr(self._made, "name", "")) and self._untouched()
        if ours and self._made_data.shape == made.labels.shape:
            self._made.data = made.labels
        else:
            place = _place(made.image, made.image.ndim - made.labels.ndim)
            self._made = Labels(made.labels, name=name, opacity=0.6, **place)
            self.viewer.add_layer(self._made)
            self._made_for = (name, self._made.name)  # napari may have put a number behind it
        self._made_data = made.labels
        self._made_hash = _fingerprint(made.labels)
        share = 100 * marked / made.labels.size
        planes = math.prod(made.labels.shape[:-2])
        text = f"{marked:,} pixel{'s' * (marked != 1)} marked ({share:.3g} %)"
        if planes > 1:
            touched = sum(bool(p.any()) for p in made.labels.reshape(-1, *made.labels.shape[-2:]))
            text += f" in {touched} of {planes} planes"
        lead = made.image.ndim - made.labels.ndim
        if lead:
            count = math.prod(made.image.shape[:lead])
            text += f"; a {made.labels.ndim}-D mask, which serves each of {count} planes"
        self.summary.setText(f"{text}.\n{notes}".strip())

    def _untouched(self) -> bool:
        same = self._made in self.viewer.layers and self._made.data is self._made_data
        return same and _fingerprint(self._made_data) == self._made_hash

    def _fail(self, text: str) -> None:
        from napari.utils.notifications import show_error

        text = without_options(text)
        self.summary.setText(text)
        show_error(text)


def _fingerprint(labels: np.ndarray) -> int:
    return hash(labels.tobytes())


def _place(image: Taken, lead: int) -> dict[str, Any]:
    """Where a layer lies that has all of an image layer's axes but the first `lead`."""
    place = place_of(image)
    if not lead:
        return place
    own = {key: list(place[key])[lead:] for key in ("units", "axis_labels")}
    matrix = image.matrix[lead:, lead:]
    steps = np.diag(matrix)[:-1]
    if np.allclose(matrix[:-1, :-1], np.diag(steps)):
        return {**own, "scale": steps, "translate": matrix[:-1, -1]}
    return {**own, "affine": matrix}


def job(
    image: Taken, layer: Taken | None, word: str, label: int | None, grow: int
) -> Callable[[], Made]:
    """What makes a mask; a function for a thread.

    Parameters
    ----------
    image : Taken
    layer : Taken or None
        A Labels, Shapes or Points layer to take the mask from.
    word : str
        Otherwise: see `knitcore.mask_from`.
    label : int, optional
        Of the layer; None: all.
    grow : int
        Pixels.

    Returns
    -------
    callable
        Returns a `Made`, whose labels are uint8 0 and 1.
    """

    def make() -> Made:
        notes: list[Note] = []

        def keep(event: Any) -> None:
            if isinstance(event, Note):
                notes.append(event)

        if layer is None:
            marked, told = mask_from(core_image(image, drain(read(image))), word)
            notes += told
        else:
            labels = drain(core_mask(layer, image), keep)
            marked = labels.data != 0 if label is None else labels.data == label
            if label is not None and not marked.any():
                raise InputError(f"layer {layer.name!r} has no label {label}")
        return Made(grow_mask(marked, grow).astype(np.uint8), image, notes)

    return make
