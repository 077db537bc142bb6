"""A form made from a recipe's fields: one text for `--help`, tooltip and docs."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox, LineEdit, SpinBox
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtGui import QKeySequence, QResizeEvent, QShortcut
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QLabel,
    QLineEdit,
    QScrollArea,
    QScrollBar,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

COMFORTABLE_WIDTH = 340
SETTLING = 60  # ms, in which Qt lays the dock out anew
LABEL_WIDTH = 120  # so that the columns of several forms stand under each other

# What fields of type str may hold, where that is a short list; of the device, until torch knows more
CHOICES = {"device": ("auto", "cpu"), "blind_spot": ("auto", "x", "y", *"0123456789")}
# Boxes with a sentence of their own instead of the field's name
SENTENCES = {"validation": "Estimate the error of this fill"}
# Words of a field that may also hold the path of a file
SUGGESTIONS = {"kernel": ("estimate", "delta", "gaussian:1")}


class RecipeForm(QWidget):
    """Inputs for some fields of a recipe, the rarer ones folded away.

    Choosing a preset writes that preset's values into the other inputs.

    Parameters
    ----------
    model : type of BaseModel
        The recipe, such as `knitcore.Inpaint`.
    presets : dict of str to dict
        Fields that each preset sets.
    basic, advanced : tuple of str
        Names of the fields shown at once, and under "Advanced".
    """

    def __init__(
        self,
        model: type[BaseModel],
        presets: dict[str, dict[str, Any]],
        basic: tuple[str, ...],
        advanced: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._model = model
        self._set_by_presets = set().union(*presets.values())
        self.inputs: dict[str, Any] = {}
        start = model()

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.basic_rows = form_layout()
        layout.addLayout(self.basic_rows)
        for name in basic:
            self._add_row(self.basic_rows, name, getattr(start, name))
        self._last_basic: QWidget = self.inputs[basic[-1]].native

        self.advanced = QWidget()
        self.advanced_rows = form_layout()
        self.advanced_rows.setContentsMargins(0, 0, 0, 0)
        self.advanced.setLayout(self.advanced_rows)
        for name in advanced:
            self._add_row(self.advanced_rows, name, getattr(start, name))
        self.advanced.hide()
        self.toggle = QToolButton()
        self.toggle.setText("Advanced")
        self.toggle.setToolTip("Show or hide settings that are rarely changed.")
        self.toggle.setCheckable(True)
        self.toggle.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.toggle.setArrowType(Qt.ArrowType.RightArrow)
        self.toggle.toggled.connect(self._unfold)
        if advanced:
            layout.addWidget(self.toggle)
            layout.addWidget(self.advanced)

        if "preset" in self.inputs:
            self.inputs["preset"].changed.connect(self._fill_from_preset)

    def _add_row(self, rows: QFormLayout, name: str, value: Any) -> None:
        field = self._model.model_fields[name]
        widget = field_input(name, field, value)
        self.inputs[name] = widget
        if name in SENTENCES:
            widget.native.setText(SENTENCES[name])
            widget.native.setToolTip(field.description or "")
            rows.addRow(widget.native)
            return
        add_row(rows, label_of(name), widget.native, field.description or "")

    def add_basic_row(self, text: str, native: QWidget, tip: str) -> None:
        """Add an input that is no field of the recipe below the basic ones."""
        add_row(self.basic_rows, text, native, tip)
        # made last, it would come after the advanced ones
        QWidget.setTabOrder(self._last_basic, native)
        self._last_basic = native

    def _unfold(self, opened: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow
        self.toggle.setArrowType(arrow)
        self.advanced.setVisible(opened)

    def _fill_from_preset(self, preset: str) -> None:
        fields = self._model(preset=preset)
        for name, widget in self.inputs.items():
            if name in self._set_by_presets:
                widget.value = getattr(fields, name)

    def values(self) -> dict[str, Any]:
        """What the inputs say, by field.

        Returns
        -------
        dict
            To be given to the recipe, which checks them together.
        """
        return {name: widget.value for name, widget in self.inputs.items()}

    def on_change(self, call: Callable[[], Any]) -> None:
        """Have a function called whenever an input changes.

        Parameters
        ----------
        call : callable
        """
        for widget in self.inputs.values():
            if isinstance(widget, OptionalNumber):
                signal = widget.native.valueChanged
            elif isinstance(widget, OptionalFloat):
                signal = widget.native.textChanged
            elif isinstance(widget, WordOrFile):
                signal = widget.native.editTextChanged
            else:
                signal = widget.changed
            signal.connect(lambda *_: call())

    def set_choices(self, name: str, choices: list[str]) -> None:
        """Replace the choices of one field, keeping the chosen one if it is still there."""
        widget = self.inputs[name]
        kept = widget.value
        widget.choices = choices
        if kept in choices:
            widget.value = kept


class OptionalNumber:
    """A whole number, or a word for none, in a spin box.

    Parameters
    ----------
    low, high : int
        Bounds of the number.
    word : str
        What none means, such as "all".
    value : int, optional
        To start with.
    """

    def __init__(self, low: int, high: int, word: str, value: int | None = None) -> None:
        self.native = QSpinBox()
        self._none = low - 1
        self.native.setRange(self._none, high)
        self.native.setSpecialValueText(word)  # shown at the lowest value
        self.value = value

    @property
    def value(self) -> int | None:
        """The number, or None."""
        value = self.native.value()
        return None if value == self._none else value

    @value.setter
    def value(self, value: int | None) -> None:
        self.native.setValue(self._none if value is None else value)


class OptionalFloat:
    """A number of any size, or "estimated" for none, in a line of text."""

    def __init__(self) -> None:
        self.native = QLineEdit()
        self.native.setPlaceholderText("estimated")
        self.native.setClearButtonEnabled(True)

    @property
    def value(self) -> float | str | None:
        """The number, or None; what is no number is left for the recipe to refuse."""
        text = self.native.text().strip()
        try:
            return float(text) if text else None
        except ValueError:
            return text

    @value.setter
    def value(self, value: float | None) -> None:
        self.native.setText("" if value is None else f"{value:.10g}")


class WordOrFile:
    """One of some words, something written by hand, or a file that is looked for.

    Parameters
    ----------
    words : tuple of str
    value : str
    """

    def __init__(self, words: tuple[str, ...], value: str) -> None:
        self.native = QComboBox()
        self.native.setEditable(True)
        self.native.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.native.setCompleter(None)
        self.native.addItems([*words, "choose a file…"])
        self._file_row = len(words)
        self.value = value
        # while the list is open, the text is already that of the chosen row
        self._before = value
        self.native.editTextChanged.connect(self._remember)
        self.native.activated.connect(self._choose)

    @property
    def value(self) -> str:
        """The text."""
        return self.native.currentText().strip()

    @value.setter
    def value(self, value: str) -> None:
        self.native.setEditText(value)

    def _remember(self, text: str) -> None:
        if text != self.native.itemText(self._file_row):
            self._before = text

    def _choose(self, row: int) -> None:
        if row == self._file_row:
            path, _ = QFileDialog.getOpenFileName(self.native, "An image of the kernel")
            self.value = path or self._before


class InputsArea(QScrollArea):
    """All inputs of a task's widget; only they scroll, so that Run stays in reach in a low window.

    Parameters
    ----------
    inputs : QWidget
    """

    def __init__(self, inputs: QWidget) -> None:
        super().__init__()
        self._inputs = inputs
        self._later = QTimer(self)  # a child, for a shot of its own would outlive this widget
        self._later.setSingleShot(True)
        self._later.timeout.connect(self.updateGeometry)
        self._settled = QTimer(self)
        self._settled.setSingleShot(True)
        self._settled.timeout.connect(self._show_bar)
        self.setWidget(inputs)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        bar = QScrollBar(Qt.Orientation.Vertical).sizeHint().width()
        self.setMinimumWidth(inputs.minimumSizeHint().width() + bar)

    def sizeHint(self) -> QSize:
        """As tall as the inputs, which Qt's own would not be."""
        wide = max(self.minimumWidth(), COMFORTABLE_WIDTH)
        width = self.width() if self.isVisible() else wide
        return QSize(wide, self._inputs.heightForWidth(width) + 2)

    def make_room(self) -> None:
        """Become as tall as the inputs, without a scroll bar while it is not yet clear how tall."""
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._settled.start(SETTLING)
        self.updateGeometry()

    def _show_bar(self) -> None:
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Another width wraps the texts in other lines."""
        super().resizeEvent(event)
        self._later.start(0)  # napari's style sheet comes after the first time


def label_of(field: str) -> str:
    """What an input of a recipe's field is called.

    Parameters
    ----------
    field : str

    Returns
    -------
    str

    Examples
    --------
    >>> label_of("nan_as_hole")
    'NaN as hole'
    """
    return field.replace("_", " ").capitalize().replace("Nan ", "NaN ")


def add_keys(widget: QWidget, buttons: Mapping[str, QAbstractButton]) -> None:
    """Press buttons by keys while the focus is somewhere in a widget, and say so in their tooltips.

    Parameters
    ----------
    widget : QWidget
    buttons : dict of str to QAbstractButton
        By key, such as "Ctrl+Return".
    """
    for keys, button in buttons.items():
        shortcut = QShortcut(QKeySequence(keys), widget)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(button.click)
        button.setToolTip(f"{button.toolTip()} ({keys})")


def form_layout() -> QFormLayout:
    """Two columns with little space, growing to the right.

    Returns
    -------
    QFormLayout
    """
    rows = QFormLayout()
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    rows.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setVerticalSpacing(4)
    return rows


def add_row(rows: QFormLayout, text: str, native: QWidget, tip: str) -> None:
    """Add a labelled input whose label and input show the same tooltip.

    Parameters
    ----------
    rows : QFormLayout
    text, tip : str
    native : QWidget
    """
    label = QLabel(text)
    label.setFixedWidth(LABEL_WIDTH)
    label.setToolTip(tip)
    label.setBuddy(native)
    native.setMinimumWidth(90)  # a seed of 19 digits would ask for twice the dock's width
    native.setToolTip(tip)
    native.setAccessibleName(text)
    rows.addRow(label, native)


def field_input(name: str, field: FieldInfo, value: Any) -> Any:
    """Make the input for one field of a recipe.

    Parameters
    ----------
    name : str
    field : FieldInfo
        Its type decides the kind of input, its bounds the range.
    value : object
        To start with.

    Returns
    -------
    object with `native` and `value`
        A magicgui widget, or one of those above.

    Raises
    ------
    TypeError
        A type that no input here can show.
    """
    kind, optional = _without_none(field.annotation)
    low, high = _bounds(field)
    if get_origin(kind) is Literal:
        return ComboBox(name=name, choices=list(get_args(kind)), value=value)
    if kind is bool:
        box = CheckBox(name=name, value=value)
        box.native.setText("")  # the row has a label
        return box
    if kind is int:
        if optional:
            word = "all" if name == "mask_label" else "auto"
            return OptionalNumber(int(low), int(high), word, value)
        return SpinBox(name=name, min=int(low), max=int(high), value=value)
    if kind is float and optional:
        return OptionalFloat()
    if kind is float:
        step = 0.05 if high <= 1 else 0.5
        return FloatSpinBox(name=name, min=low, max=high, step=step, value=value)
    if kind is str and name in CHOICES:
        return ComboBox(name=name, choices=list(CHOICES[name]), value=value)
    if kind is str and name in SUGGESTIONS:
        return WordOrFile(SUGGESTIONS[name], value)
    if kind is str:
        return LineEdit(name=name, value=value)
    raise TypeError(f"no input for field {name!r} of type {field.annotation}")


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            return kinds[0], True
    return annotation, False


def _bounds(field: FieldInfo) -> tuple[float, float]:
    low, high = 0.0, 2.0**31 - 1
    whole = _without_none(field.annotation)[0] is int
    nudge = 1 if whole else 0.01
    for rule in field.metadata:
        low = getattr(rule, "ge", low)
        high = getattr(rule, "le", high)
        if hasattr(rule, "gt"):
            low = rule.gt + nudge
        if hasattr(rule, "lt"):
            high = rule.lt - nudge
    return low, high
