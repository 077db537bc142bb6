"""Run, Cancel, and how far it is: the lower part of every task's widget."""

from __future__ import annotations

import math
import re

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from knit_plugin._loss_plot import LossPlot
from knitcore import Progress


class RunPanel(QWidget):
    """Buttons, progress bar, current losses, and a line (and a small picture) for what came out."""

    run = Signal()
    cancel = Signal()
    preview = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.run_button = QPushButton("Run")
        self.run_button.setToolTip("Start. The result appears as a new layer; nothing is changed.")
        self.preview_button = QPushButton("Preview")
        self.preview_button.setToolTip(
            "Try the settings on what is in view: a few seconds. Changing a setting meanwhile starts "
            "it again."
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop within a second.")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.stage, self.losses = quiet_line(), quiet_line()
        self.plot = LossPlot()
        self._part = ""  # whose losses are drawn
        self._cancelled_by_key = False  # then the focus goes back to Run
        self.plot.hide()
        self.summary = wrapped_label()
        self.summary.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.picture = QLabel()
        self.picture.setContentsMargins(4, 0, 0, 0)  # as far in as the text
        self.picture.hide()

        self.compare_button = menu_button("Compare", "Result against source, and other methods.")
        self.repeat_button = menu_button("Repeat", "As a command, in Python, as a recipe.")
        buttons = QHBoxLayout()
        buttons.addWidget(self.preview_button)
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        menus = QHBoxLayout()
        menus.addWidget(self.compare_button)
        menus.addWidget(self.repeat_button)
        layout.addLayout(menus)
        for widget in (
            self.bar,
            self.stage,
            self.losses,
            self.plot,
            self.summary,
            self.picture,
        ):
            layout.addWidget(widget)
        self.preview_button.clicked.connect(self.preview)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.show_idle(ready=False)

    def show_idle(self, *, ready: bool) -> None:
        """Buttons as between runs; `ready`: a run could start now."""
        back = self._cancelled_by_key or self.cancel_button.hasFocus()
        self._cancelled_by_key = False
        self.run_button.setEnabled(ready)
        self.preview_button.setEnabled(ready)
        if back:
            self.run_button.setFocus()
        self.cancel_button.setEnabled(False)
        self.cancel_button.setText("Cancel")
        for widget in (self.bar, self.stage, self.losses):
            widget.hide()

    def show_running(self) -> None:
        """Buttons and bar as at the start of a run."""
        self.cancel_button.setEnabled(True)
        if self.run_button.hasFocus() or self.preview_button.hasFocus():
            self.cancel_button.setFocus()  # or Qt would take the next one, and Space open a menu
        self.run_button.setEnabled(False)
        self.preview_button.setEnabled(False)
        self.plot.clear()
        self.plot.hide()
        self.show_summary("")
        for widget in (self.bar, self.stage, self.losses):
            widget.show()
        self.show_progress(Progress(0.0, "start"))

    def show_cancelling(self) -> None:
        """Cancel has been pressed and is on its way."""
        self._cancelled_by_key = self.cancel_button.hasFocus()
        self.cancel_button.setEnabled(False)
        self.cancel_button.setText("Stopping…")

    def show_progress(self, event: Progress) -> None:
        """Bar, time left, stage and losses of one event."""
        left = f" · {duration(event.remaining)} left" if math.isfinite(event.remaining) else ""
        losses = (f"{name} {value:.2g}" for name, value in event.losses.items())
        # A progress bar paints itself at once, and the whole window with it where a canvas is in
        # it: held back, all of this is painted in one go.
        self.setUpdatesEnabled(False)
        # a bar of unknown length moves by itself: something is going on
        self.bar.setRange(0, 1000 if event.fraction > 0 else 0)
        self.bar.setValue(round(1000 * event.fraction))
        self.bar.setFormat("%p %" + left)
        if event.losses:
            part = event.stage.partition(":")[0]  # "region 2 of 5"
            if part != self._part:
                self._part = part
                self.plot.clear()  # each fit starts anew
            self.plot.add(event.fraction, event.losses)
            self.plot.show()
        for line, text in ((self.stage, event.stage), (self.losses, "   ".join(losses))):
            if text != line.text():
                line.setText(text)
                line.setToolTip(text)  # it may be cut
                line.setCursorPosition(0)
        self.setUpdatesEnabled(True)

    def show_summary(self, text: str, picture: QPixmap | None = None, tip: str = "") -> None:
        """What came out, or what went wrong; empty hides the line, and none the picture."""
        self.summary.setText(text)
        self.summary.setVisible(bool(text))
        self.picture.setPixmap(picture or QPixmap())
        self.picture.setVisible(picture is not None)
        self.picture.setToolTip(tip)


def without_options(text: str) -> str:
    """A message of the core without its hints for the command line, which stand in brackets.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> without_options("If it is inverted, set invert_mask (--invert-mask)")
    'If it is inverted, set invert_mask'
    """
    return re.sub(r"\s*\((?:--|knit (?:inpaint|denoise|super-resolve|run) )[^()]*\)", "", text)


def menu_button(text: str, tip: str) -> QPushButton:
    """A button that opens a menu, as wide as it may become.

    Parameters
    ----------
    text, tip : str

    Returns
    -------
    QPushButton
    """
    button = QPushButton(text)
    button.setToolTip(tip)
    menu = QMenu(button)
    menu.setToolTipsVisible(True)
    button.setMenu(menu)
    return button


def wrapped_label() -> QLabel:
    """A label that wraps its plain text and never makes its parent wider.

    Returns
    -------
    QLabel
    """
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setMinimumWidth(1)
    return label


def quiet_line() -> QLineEdit:
    """A line of text for what changes all the time.

    Returns
    -------
    QLineEdit
        Unlike a label, it does not have the window laid out anew for each text.
    """
    line = QLineEdit()
    line.setReadOnly(True)
    line.setFrame(False)
    line.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    line.setStyleSheet("background: transparent; border: none; padding: 0px; margin: 0px;")
    return line


def duration(seconds: float) -> str:
    """A time in words of people.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> duration(2.34), duration(75), duration(7300)
    ('2.3 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(count: int) -> str:
    """Bytes in words of people.

    Parameters
    ----------
    count : int

    Returns
    -------
    str

    Examples
    --------
    >>> amount(900_000), amount(247_000_000), amount(5_000_000_000)
    ('0.9 MB', '247 MB', '5 GB')
    """
    if count >= 1e9:
        return f"{count / 1e9:.3g} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"
