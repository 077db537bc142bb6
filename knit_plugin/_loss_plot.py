"""The losses of the fit under way, as small curves."""

from __future__ import annotations

import math
import time

from qtpy.QtCore import QEvent, QPointF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

MOST_POINTS = 240
STYLES = (Qt.PenStyle.SolidLine, Qt.PenStyle.DashLine, Qt.PenStyle.DotLine)
SAMPLE = 18  # pixels of a line in the legend
REDRAW = 1.0  # seconds; the panel around is painted more often, and dashes are dear


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
        """Low enough for a dock."""
        return QSize(200, 56)

    def clear(self) -> None:
        """Before a run."""
        self.curves, self._drawn = {}, None
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
        for name, value in losses.items():
            if not (math.isfinite(value) and value > 0):
                continue
            curve = self.curves.setdefault(name, [])
            curve.append((done, math.log10(value)))
            if len(curve) > MOST_POINTS:
                del curve[
                    1:-1:2
                ]  # every other one, so that a long fit costs no more than a short one
        self.update()

    def changeEvent(self, event: QEvent | None) -> None:
        """Another theme has other colours."""
        self._drawn = None
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
        area = self.rect().adjusted(4, 4, -4, -4)
        text = self.palette().color(QPalette.ColorRole.WindowText)
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
            painter.setPen(QPen(text, 1.2, STYLES[number % len(STYLES)]))
            points = [
                QPointF(
                    area.left() + area.width() * (done - first) / (last - first),
                    area.bottom() - area.height() * (value - low) / span,
                )
                for done, value in curve
            ]
            painter.drawPolyline(QPolygonF(points))
        self._draw_legend(painter, text)
        painter.end()

    def _draw_legend(self, painter: QPainter, colour: QColor) -> None:
        """Which line is which, at the upper right, where falling curves leave room."""
        font = painter.font()
        font.setPointSizeF(0.8 * font.pointSizeF())
        painter.setFont(font)
        metrics, right = painter.fontMetrics(), self.width() - 4
        middle = 4 + metrics.height() // 2
        for number, name in reversed(list(enumerate(self.curves))):
            painter.setPen(QPen(colour, 1.2, STYLES[number % len(STYLES)]))
            right -= metrics.horizontalAdvance(name)
            painter.drawText(right, 4 + metrics.ascent(), name)
            painter.drawLine(right - SAMPLE - 3, middle, right - 3, middle)
            right -= SAMPLE + 12
