"""What napari, its user and the disk do in the middle of a run; ../FAULTS_napari.md says which is what."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import tifffile
import torch

from knit_plugin import _settings

Dock = Callable[..., tuple[Any, Any]]
Wait = Callable[[Any], None]


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def test_a_deleted_source_is_told_and_the_result_keeps_its_place(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=150)
    viewer.add_image(slope, name="cells", scale=(0.5, 0.5), translate=(3, 4))
    viewer.add_labels(hole, name="damage", scale=(0.5, 0.5), translate=(3, 4))
    widget.run()
    fitting(widget)
    viewer.layers.remove("cells")
    finish(widget)
    np.testing.assert_allclose(viewer.layers["cells (inpainted)"].translate, (3, 4))
    assert "source layer was deleted meanwhile" in widget.panel.summary.text()
    widget.add_residual()  # there is nothing to compare with, and that is said
    assert "There is no result and its source" in widget.panel.summary.text()


def test_a_result_layer_that_was_deleted_comes_back_once_at_the_end(
    dock: Dock, qtbot: Any, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=300)
    viewer.add_image(np.stack([slope, slope]), name="cells", axis_labels=("t", "y", "x"))
    viewer.add_labels(hole)
    widget.run()
    fitting(widget)
    viewer.layers.remove("cells (inpainted)")
    before = widget.panel.bar.value()
    qtbot.waitUntil(lambda: widget.panel.bar.value() > before or widget.job is None, timeout=60_000)
    if widget.job is not None:
        assert "cells (inpainted)" not in names(viewer)
    viewer.layers.reverse()
    viewer.dims.set_current_step(0, 1)
    viewer.layers.selection.clear()
    finish(widget)
    assert [name for name in names(viewer) if "inpainted" in name] == ["cells (inpainted)"]
    assert viewer.dims.current_step[0] == 1


def test_an_exception_in_the_worker_is_shown_once_and_the_log_has_the_rest(
    dock: Dock,
    finish: Wait,
    slope: np.ndarray,
    hole: np.ndarray,
    messages: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from napari.utils import progress

    viewer, widget = dock(steps=3)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    monkeypatch.setattr(widget, "in_worker", lambda image: lambda result: 1 // 0)
    widget.run()
    finish(widget)
    (shown,) = [text for text in messages if text.startswith("error")]
    assert shown.startswith("error: Inpaint cells: unexpected ZeroDivisionError")
    assert "please report it" in shown
    assert "Traceback" in caplog.text
    assert names(viewer) == ["cells", "hole"]
    assert not progress._all_instances
    assert widget.panel.run_button.isEnabled()

    monkeypatch.undo()
    widget.run()
    finish(widget)
    assert "cells (inpainted)" in names(viewer)


def test_memory_that_torch_does_not_get_is_no_fault_of_the_program(
    dock: Dock,
    finish: Wait,
    slope: np.ndarray,
    hole: np.ndarray,
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer, widget = dock(steps=3)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    monkeypatch.setattr(widget, "in_worker", lambda image: lambda result: torch.empty(2**55))
    widget.run()
    finish(widget)
    (shown,) = [text for text in messages if text.startswith("error")]
    assert "not enough memory" in shown
    assert "unexpected" not in shown
    assert widget.panel.run_button.isEnabled()


@pytest.mark.filterwarnings("default")
def test_a_warning_in_the_worker_stops_nothing(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    def warn(block: np.ndarray) -> np.ndarray:
        warnings.warn("a dead amplifier", RuntimeWarning, stacklevel=1)
        return block

    stack = dask.array.from_array(np.stack([slope] * 2), chunks=(1, 40, 48))
    viewer, widget = dock(steps=3)
    lazy = stack.map_blocks(warn, dtype=stack.dtype, meta=np.zeros((0, 0, 0), np.uint16))
    viewer.add_image(lazy, name="movie", contrast_limits=(0, 2000))
    viewer.add_labels(hole)
    widget.run()
    finish(widget)
    assert "movie (inpainted)" in names(viewer)


def test_a_mask_on_one_slice_is_told_and_the_others_stay(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    stack = np.stack([slope + i for i in range(40)])
    marks = np.zeros(stack.shape, np.uint8)
    marks[7] = hole
    viewer, widget = dock(steps=3)
    viewer.add_image(stack, name="movie", axis_labels=("t", "y", "x"))
    viewer.add_labels(marks)
    widget.run()
    finish(widget)
    filled = viewer.layers["movie (inpainted)"].data
    np.testing.assert_array_equal(np.delete(filled, 7, 0), np.delete(stack, 7, 0))
    record = viewer.layers["movie (inpainted)"].metadata["knitworks"]
    assert record["mask"]["filled"] == np.count_nonzero(hole)
    assert "the mask covers 1 of 40 planes" in widget.panel.summary.text()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("one pixel", "no known pixel left"),
        ("infinite", "Filled 135 pixels"),
        ("bool", "Filled 134 pixels"),
    ],
)
def test_unusual_images_are_filled_or_refused_in_the_cores_words(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, kind: str, said: str
) -> None:
    image: np.ndarray = slope.astype(np.float32)
    if kind == "one pixel":
        image, hole = slope[:1, :1], np.ones((1, 1), np.uint8)
    elif kind == "infinite":
        image[2, 2] = np.inf
    else:
        image = slope > 1300
    viewer, widget = dock(steps=3)
    viewer.add_image(image, name="cells", contrast_limits=(0, 2000))
    viewer.add_labels(hole, name="damage")
    widget.run()
    finish(widget)
    assert said in widget.panel.summary.text()
    made = [name for name in names(viewer) if "inpainted" in name]
    assert bool(made) == said.startswith("Filled")
    if made:
        assert viewer.layers[made[0]].data.dtype == image.dtype
        assert np.isfinite(viewer.layers[made[0]].data).all()
    assert widget.panel.run_button.isEnabled()


def test_a_file_that_vanishes_behind_a_lazy_layer_is_named(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "scan_007.tif"
    tifffile.imwrite(file, np.stack([slope, slope]))
    reading = dask.delayed(tifffile.imread)(str(file))
    lazy = dask.array.from_delayed(reading, (2, 40, 48), np.uint16)
    viewer, widget = dock(steps=3)
    layer = viewer.add_image(lazy, name="scan", contrast_limits=(0, 2000))
    viewer.add_labels(hole)
    layer.visible = False  # hidden layers are worked on, too
    file.unlink()
    widget.run()
    finish(widget)
    said = widget.panel.summary.text()
    assert str(file) in said
    assert "Is the file behind it still there?" in said
    assert names(viewer) == ["scan", "hole"]

    tifffile.imwrite(file, np.stack([slope, slope]))  # the disk is back
    widget.run()
    finish(widget)
    filled = np.asarray(viewer.layers["scan (inpainted)"].data)
    np.testing.assert_array_equal(filled[1][hole == 0], slope[hole == 0])


def test_a_run_that_takes_more_than_is_free_asks_first(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QMessageBox

    asked: list[str] = []

    def question(parent: Any, title: str, text: str) -> Any:
        asked.append(text)
        return QMessageBox.StandardButton.No

    monkeypatch.setattr(QMessageBox, "question", question)
    # 40 TB that no disk holds; nothing of it is ever computed
    huge = dask.array.zeros((10_000, 40_000, 50_000), dtype=np.uint16, chunks=(1, 500, 500))
    viewer, widget = dock()
    viewer.add_image(huge, name="brain", contrast_limits=(0, 1), axis_labels=("t", "y", "x"))
    viewer.add_labels(hole, name="damage")
    patient = _settings.Preferences(ask_above_gb=1e6)
    monkeypatch.setattr(_settings, "preferences", lambda: patient)
    widget.run()
    assert widget.job is None
    assert "GB that are free on this machine" in asked[0]
