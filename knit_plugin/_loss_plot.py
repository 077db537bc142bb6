"""The losses of the fit under way, as small curves."""

from __future__ import annotations

import math
import time

from qtpy.QtCore import QEvent, QPointF, QSize, Qt
from qtpy.QtGui import (
    QColor,
    QFont,
    QFontMetrics,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QPixmap,
    QPolygonF,
    QResizeEvent,
)
from qtpy.QtWidgets import QSizePolicy, QWidget

MOST_POINTS = 240
# told apart by those who see colours otherwise, and on dark and light (Okabe and Ito 2008)
COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
SAMPLE, SPACE = 14, 10  # pixels: a line in the legend, and what is between two entries
PLOT_HEIGHT = 52
REDRAW = 1.0  # seconds; the panel around is painted more often, and curves are dear


class LossPlot(QWidget):
    """Losses against the share of the work done, on a logarithmic scale, in the theme's colours."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self._drawn: QPixmap | None = None
        self._drawn_at = 0.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip("Losses of the fit so far, on a logarithmic scale: left is the start.")
        self.setAccessibleName("Losses of the fit")

    def sizeHint(self) -> QSize:
        """Low enough for a dock; the legend sets the height."""
        return QSize(200, PLOT_HEIGHT)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """A narrow legend takes more lines."""
        super().resizeEvent(event)
        self._fit_height()

    def _fit_height(self) -> None:
        self.setFixedHeight(PLOT_HEIGHT + self._legend_height(self.width()))

    def clear(self) -> None:
        """Before a run."""
        self.curves, self._drawn = {}, None
        self._fit_height()
        self.update()

    def add(self, done: float, losses: dict[str, float]) -> None:
        """Add one value to each curve.

        Parameters
        ----------
        done : float
            0 to 1.
        losses : dict of str to float
            Values that have no logarithm are left out.
        """
        names = set(self.curves)
        for name, value in losses.items():
            if not (math.isfinite(value) and value > 0):
                continue
            curve = self.curves.setdefault(name, [])
            curve.append((done, math.log10(value)))
            if len(curve) > MOST_POINTS:
                del curve[
                    1:-1:2
                ]  # every other one, so that a long fit costs no more than a short one
        if set(self.curves) != names:
            self._fit_height()
        self.update()

    def changeEvent(self, event: QEvent | None) -> None:
        """Another theme has other colours, and perhaps another font."""
        self._drawn = None
        if event is not None and event.type() == QEvent.Type.FontChange:
            self._fit_height()
        super().changeEvent(event)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Show the curves as they were drawn last, no more than a second ago."""
        ratio, now = self.devicePixelRatioF(), time.monotonic()
        size = self.size() * ratio
        drawn = self._drawn
        if drawn is None or drawn.size() != size or now - self._drawn_at > REDRAW:
            drawn = QPixmap(size)
            drawn.setDevicePixelRatio(ratio)
            drawn.fill(Qt.GlobalColor.transparent)
            self._draw(QPainter(drawn))
            self._drawn_at = now
            self._drawn = drawn if self.curves else None
        painter = QPainter(self)
        painter.drawPixmap(0, 0, drawn)
        painter.end()

    def _draw(self, painter: QPainter) -> None:
        """Draw the curves over each other, each over its own range."""
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = self.rect().adjusted(4, 4 + self._legend_height(self.width()), -4, -4)
        faint = self.palette().color(QPalette.ColorRole.WindowText)
        faint.setAlphaF(0.25)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        for number, curve in enumerate(self.curves.values()):
            if len(curve) < 2:
                continue
            first, last = curve[0][0], max(curve[-1][0], curve[0][0] + 1e-6)
            values = [value for _, value in curve]
            low, span = min(values), max(max(values) - min(values), 1e-3)
            painter.setPen(QPen(QColor(COLOURS[number % len(COLOURS)]), 1.4))
            points = [
                QPointF(
                    area.left() + area.width() * (done - first) / (last - first),
                    area.bottom() - area.height() * (value - low) / span,
                )
                for done, value in curve
            ]
            painter.drawPolyline(QPolygonF(points))
        self._draw_legend(painter)
        painter.end()

    def _legend_font(self) -> QFont:
        font = self.font()
        if font.pointSizeF() > 0:
            font.setPointSizeF(0.85 * font.pointSizeF())
        return font

    def _legend_places(self, width: int) -> list[tuple[str, int, int]]:
        """Names of the curves, each with its left end and its line."""
        metrics, left, line = QFontMetrics(self._legend_font()), 4, 0
        places: list[tuple[str, int, int]] = []
        for name in self.curves:
            wide = SAMPLE + 3 + metrics.horizontalAdvance(name)
            if places and left + wide > width - 4:
                left, line = 4, line + 1
            places.append((name, left, line))
            left += wide + SPACE
        return places

    def _legend_height(self, width: int) -> int:
        places = self._legend_places(width)
        return QFontMetrics(self._legend_font()).height() * (1 + places[-1][2]) if places else 0

    def _draw_legend(self, painter: QPainter) -> None:
        """Which curve is which, above them."""
        painter.setFont(self._legend_font())
        metrics = painter.fontMetrics()
        text = self.palette().color(QPalette.ColorRole.WindowText)
        for number, (name, left, line) in enumerate(self._legend_places(self.width())):
            top = 2 + line * metrics.height()
            middle = top + metrics.height() // 2
            painter.setPen(QPen(QColor(COLOURS[number % len(COLOURS)]), 2))
            painter.drawLine(left, middle, left + SAMPLE, middle)
            painter.setPen(text)
            painter.drawText(left + SAMPLE + 3, top + metrics.ascent(), name)
