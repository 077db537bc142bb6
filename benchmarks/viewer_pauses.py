"""How long the napari viewer stands still while a fit runs, and how long Cancel takes.

A timer of 10 ms runs in the event loop; a pause is the time between two of its ticks.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="fits, and cancelled fits (default 3)")
    parser.add_argument("--steps", type=int, help="steps of each fit (default: the preset's)")
    options = parser.parse_args()

    import napari
    from napari.layers import Layer
    from qtpy.QtCore import QEventLoop, Qt, QTimer

    from knit_plugin._sample_data import damaged_micrograph
    from knit_plugin.inpaint_widget import InpaintWidget

    viewer = napari.Viewer()
    ticks: list[float] = []
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start(10)

    def wait(until: Callable[[], bool], seconds: float = 3600) -> None:
        # Qt's own loop: polling from Python would take the lock from the fit
        loop, check, end = QEventLoop(), QTimer(), time.perf_counter() + seconds
        check.timeout.connect(lambda: (until() or time.perf_counter() > end) and loop.quit())
        check.start(10)
        loop.exec()

    def report(what: str) -> None:
        pauses = 1000 * np.diff(ticks)
        load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(
            f"{what}: longest {pauses.max():.0f} ms, 99th percentile "
            f"{np.percentile(pauses, 99):.0f} ms, over 100 ms {np.sum(pauses > 100)} of "
            f"{len(pauses)}{load}",
            flush=True,
        )
        ticks.clear()

    for data, keywords, kind in damaged_micrograph():
        viewer.add_layer(Layer.create(data, keywords, kind))
    wait(lambda: False, 2)
    ticks.clear()
    wait(lambda: False, 2)
    report("idle")

    widget = InpaintWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Inpaint (Knitworks)")
    wait(lambda: not widget._warm_up.is_alive())
    wait(lambda: False, 0.5)
    report("dock opened, torch loading")
    if options.steps:
        widget.form.inputs["steps"].value = options.steps
    for _ in range(options.runs):
        widget.run()
        ticks.clear()  # the pause of the click itself, which adds the result layer
        wait(lambda: bool(widget._pending) or widget.job is None)
        report("fit")
        wait(lambda: widget.job is None)
        wait(lambda: False, 0.3)
        report("the end, two layers added")
        print(widget.panel.summary.text().splitlines()[0], flush=True)

    widget.form.inputs["steps"].value = 100_000
    for run in range(options.runs):
        widget.run()
        wait(lambda: bool(widget.panel.losses.text()))
        wait(lambda: False, 1 + 0.37 * run)
        asked = time.perf_counter()
        widget.cancel()
        wait(lambda: widget.job is None)
        print(f"cancel: {1000 * (time.perf_counter() - asked):.0f} ms", flush=True)
    viewer.close()
    wait(lambda: False, 0.3)


if __name__ == "__main__":
    main()
