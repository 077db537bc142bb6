"""The widget in a real viewer: a run from the click to the layers, and all that can happen in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest

import knitcore
from knit_plugin._run_panel import without_options

ROOT = Path(__file__).parents[2]

Dock = Callable[..., tuple[Any, Any]]
Wait = Callable[[Any], None]


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def run(widget: Any) -> None:
    widget.panel.run_button.click()


# what comes out


def test_a_run_adds_the_repaired_image_its_std_and_what_was_synthesised(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.form.inputs["seed"].value = 5
    run(widget)
    finish(widget)

    assert names(viewer) == [
        "cells",
        "hole",
        "cells (inpainted)",
        "cells (std)",
        "cells (synthesised)",
    ]
    filled, std, synthesised = list(viewer.layers)[2:]
    same = knitcore.inpaint(slope, hole, seed=5, steps=30, ensemble=1, knit_depth=0)
    np.testing.assert_array_equal(filled.data, same.image)
    np.testing.assert_array_equal(filled.data[hole == 0], slope[hole == 0])
    np.testing.assert_array_equal(synthesised.data, hole > 0)
    np.testing.assert_array_equal(std.data, same.std)
    assert not std.visible
    assert not synthesised.visible

    record = filled.metadata["knitworks"]
    assert record["recipe"]["seed"] == 5
    assert record["image"]["name"] == "cells"
    assert record["mask"]["filled"] == np.count_nonzero(hole)
    assert record == std.metadata["knitworks"] == synthesised.metadata["knitworks"]
    summary = widget.panel.summary.text().splitlines()[0]
    assert summary.startswith("Filled 134 pixels (6.98 %) in ")
    assert summary.endswith(" on cpu.")


def test_the_result_lies_and_looks_like_its_source(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    place = {
        "scale": (0.5, 0.25),
        "translate": (7, -3),
        "rotate": 30,
        "shear": [0.1],
        "affine": [[1, 0.2, 5], [0, 1, 6], [0, 0, 1]],
        "units": ("um", "um"),
        "axis_labels": ("y", "x"),
    }
    look = {"contrast_limits": (900, 1700), "colormap": "viridis", "gamma": 0.7}
    source = viewer.add_image(slope, name="cells", blending="additive", **place, **look)
    viewer.add_labels(hole, **place)
    run(widget)
    finish(widget)

    filled = viewer.layers["cells (inpainted)"]
    assert filled.contrast_limits == [900, 1700]
    assert filled.colormap.name == "viridis"
    assert filled.gamma == 0.7
    assert filled.blending == "additive"
    for made in list(viewer.layers)[2:]:
        for name in ("scale", "translate", "rotate", "shear"):
            np.testing.assert_allclose(getattr(made, name), getattr(source, name), err_msg=name)
        np.testing.assert_allclose(made.affine.affine_matrix, source.affine.affine_matrix)
        assert made.units == source.units
        assert made.axis_labels == source.axis_labels
    assert filled.metadata["knitworks"]["image"]["unit"] == {"Y": "micrometer", "X": "micrometer"}


def test_the_result_layer_is_there_at_once_and_refines(
    dock: Dock, qtbot: Any, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=100_000)
    source = viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    # without a smooth start, all that is seen is the fit's
    widget.form.inputs["start"].value = "none"
    widget.form.inputs["start_weight"].value = 0
    run(widget)
    layer = viewer.layers["cells (inpainted)"]
    np.testing.assert_array_equal(layer.data, slope)

    for _ in range(2):
        before = layer.data[hole > 0].copy()
        qtbot.waitUntil(lambda old=before: (layer.data[hole > 0] != old).any(), timeout=60_000)
    np.testing.assert_array_equal(layer.data[hole == 0], slope[hole == 0])
    np.testing.assert_array_equal(source.data, slope)
    widget.cancel()
    finish(widget)


def test_one_label_is_filled_when_it_is_chosen(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.mask_form.inputs["mask_label"].value = 2
    run(widget)
    finish(widget)
    np.testing.assert_array_equal(viewer.layers["cells (synthesised)"].data, hole == 2)


def test_shapes_mark_what_is_filled(dock: Dock, finish: Wait, slope: np.ndarray) -> None:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    shapes = viewer.add_shapes([[[10, 10], [10, 18], [16, 18], [16, 10]]], shape_type="rectangle")
    assert widget.mask_box.layer is shapes
    run(widget)
    finish(widget)
    drawn = shapes.to_labels(slope.shape) > 0
    np.testing.assert_array_equal(viewer.layers["cells (synthesised)"].data, drawn)


def test_an_rgb_image_is_fitted_jointly_and_stays_rgb(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    colours = np.stack([slope // 8, slope // 10, slope // 12, slope * 0 + 255], -1)
    viewer, widget = dock()
    viewer.add_image(colours.astype(np.uint8), name="slide", rgb=True)
    viewer.add_labels(hole)
    run(widget)
    finish(widget)
    filled = viewer.layers["slide (inpainted)"]
    assert filled.rgb
    assert filled.data.shape == (40, 48, 4)
    assert (filled.data[..., 3] == 255).all()
    assert viewer.layers["slide (synthesised)"].data.shape == (40, 48)
    assert viewer.layers["slide (std)"].data.shape == (40, 48)
    assert filled.metadata["knitworks"]["image"]["axes"] == "YXS"


def test_a_lazy_stack_is_computed_in_the_worker(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    computed_in = set()

    def note_thread(block: np.ndarray) -> np.ndarray:
        computed_in.add(threading.current_thread())
        return block

    stack = dask.array.from_array(np.stack([slope, slope + 9]), chunks=(1, 40, 48))
    lazy = stack.map_blocks(note_thread, dtype=stack.dtype)
    viewer, widget = dock()
    viewer.add_image(lazy, name="movie", axis_labels=("t", "y", "x"), contrast_limits=(0, 2000))
    viewer.add_labels(hole)
    computed_in.clear()  # napari's own slicing, in the main thread
    run(widget)
    finish(widget)
    filled = viewer.layers["movie (inpainted)"]
    known = np.broadcast_to(hole == 0, filled.data.shape)
    np.testing.assert_array_equal(np.asarray(filled.data)[known], np.asarray(stack)[known])
    assert threading.main_thread() not in computed_in
    assert "the 2-D mask is applied to each of 2 planes" in widget.panel.summary.text()


def test_level_0_of_a_multiscale_image_is_repaired(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    viewer.add_image([slope, slope[::2, ::2]], multiscale=True, name="cells", scale=(0.5, 0.5))
    viewer.add_labels(hole, scale=(0.5, 0.5))
    run(widget)
    finish(widget)
    filled = viewer.layers["cells (inpainted)"]
    assert filled.data.shape == slope.shape
    np.testing.assert_allclose(filled.scale, (0.5, 0.5))


def test_an_empty_mask_fills_nan_and_nothing_else(
    dock: Dock, finish: Wait, slope: np.ndarray
) -> None:
    image = slope.astype(np.float32)
    viewer, widget = dock()
    viewer.add_image(image, name="cells")
    viewer.add_labels(np.zeros(slope.shape, np.uint8))
    run(widget)
    finish(widget)
    assert names(viewer) == ["cells", "Labels"]
    assert widget.panel.summary.text().startswith("Nothing to fill")

    broken = image.copy()
    broken[5:8, 5:8] = np.nan
    viewer.layers["cells"].data = broken
    run(widget)
    finish(widget)
    np.testing.assert_array_equal(viewer.layers["cells (synthesised)"].data, np.isnan(broken))
    assert np.isfinite(viewer.layers["cells (inpainted)"].data).all()


# what is said before the run


def test_what_is_missing_is_said_before_the_run(
    dock: Dock, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    said, button = widget.hint.text, widget.panel.run_button
    assert said().startswith("Open an image first")
    assert not button.isEnabled()
    viewer.add_image(slope, name="cells")
    assert said().startswith("Add a Labels layer")
    labels = viewer.add_labels(hole, rotate=20, name="dust")
    widget.mask_box.layer = labels
    assert "'dust' is rotated or sheared against image layer 'cells'" in said()
    assert not button.isEnabled()
    viewer.layers.remove(labels)
    viewer.add_labels(np.stack([hole, hole]))
    assert "3 dimensions, image layer 'cells' has 2" in said()
    assert not button.isEnabled()

    viewer.layers.pop()
    viewer.add_labels(hole)
    assert said() == "40 × 48 uint16, about 0.021 MB for the layers"
    assert button.isEnabled()


def test_an_empty_mask_is_told_and_nothing_starts(
    dock: Dock, slope: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    viewer.add_labels(np.zeros(slope.shape, np.uint8), name="dust")
    run(widget)
    assert widget.job is None
    assert messages == ["error: mask layer 'dust' is empty: paint over what is to be filled"]
    assert names(viewer) == ["cells", "dust"]


def test_the_boxes_follow_the_viewer(dock: Dock, slope: np.ndarray, hole: np.ndarray) -> None:
    viewer, widget = dock()
    first = viewer.add_image(slope, name="first")
    viewer.add_image(slope, name="second")
    widget.image_box.layer = first
    first.name = "renamed"
    assert widget.image_box.currentText() == "renamed"
    viewer.layers.reverse()
    assert widget.image_box.layer is first
    viewer.layers.remove(first)
    assert widget.image_box.currentText() == "second"


def test_settings_that_do_not_fit_together_are_refused_in_the_recipes_words(
    dock: Dock, slope: np.ndarray, hole: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock()
    viewer.add_image(slope)
    viewer.add_labels(hole)
    widget.form.inputs["planes"].value = "t-y"
    run(widget)
    assert widget.job is None
    assert len(messages) == 1
    assert messages[0].startswith("error: `planes`: ")
    assert widget.panel.run_button.isEnabled()


# the middle of a run


def test_cancel_leaves_the_viewer_as_it_was(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=100_000)
    panel = widget.panel
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    assert panel.run_button.isEnabled()
    assert not panel.cancel_button.isEnabled()
    run(widget)
    assert not panel.run_button.isEnabled()
    assert panel.cancel_button.isEnabled()
    fitting(widget)
    panel.cancel_button.click()
    widget.cancel()  # twice is as good as once
    assert panel.cancel_button.text() == "Stopping…"
    finish(widget)
    assert names(viewer) == ["cells", "hole"]
    assert panel.summary.text() == "Cancelled."
    assert panel.run_button.isEnabled()
    assert not panel.cancel_button.isEnabled()
    assert panel.cancel_button.text() == "Cancel"


def test_cancel_can_be_at_the_very_start(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    run(widget)
    widget.cancel()
    finish(widget)
    assert names(viewer) == ["cells", "hole"]


def test_what_was_reached_can_be_kept(
    dock: Dock, qtbot: Any, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    slope[hole > 0] = 0
    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.keep_box.setChecked(True)
    run(widget)
    fitting(widget)
    widget.cancel()
    finish(widget)
    assert names(viewer) == ["cells", "hole", "cells (inpainted, stopped early)"]
    assert viewer.layers[-1].data[hole > 0].mean() > 500


def test_an_error_of_the_core_is_shown_in_its_words_and_the_widget_stays_usable(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    labels = viewer.add_labels(np.ones_like(hole))
    run(widget)
    finish(widget)
    with pytest.raises(knitcore.InputError) as problem:
        knitcore.inpaint(knitcore.as_image(slope, name="cells"), np.ones_like(hole))
    told = without_options(str(problem.value)).replace("invert_mask", "Invert mask")
    assert messages == [f"error: {told}"]
    assert widget.panel.summary.text() == told
    assert names(viewer) == ["cells", "Labels"]

    labels.data = hole
    run(widget)
    finish(widget)
    assert "cells (inpainted)" in names(viewer)


def test_an_error_that_nobody_foresaw_is_shown_once(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, messages: list[str], caplog: Any
) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise OSError("scan_007.tif is gone")

    viewer, widget = dock()
    stack = dask.array.zeros((2, 40, 48), dtype=np.uint16, chunks=(1, 40, 48))
    image = viewer.add_image(stack, name="scan", contrast_limits=(0, 1))
    viewer.add_labels(hole)
    image.visible = False
    image.data = stack.map_blocks(fail, dtype=np.uint16, meta=np.zeros((0, 0, 0), np.uint16))
    run(widget)
    finish(widget)
    assert messages == [
        "error: layer 'scan': its data cannot be read (scan_007.tif is gone). "
        "Is the file behind it still there?"
    ]
    assert widget.panel.run_button.isEnabled()


def test_a_second_run_waits_for_the_first_and_says_so(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    """FAULTS G 64."""
    viewer, first = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    run(first)
    fitting(first)
    job = first.job
    first.run()  # the button is off; a second call does nothing
    assert first.job is job
    _, second = dock(viewer)
    second.image_box.layer = viewer.layers["cells"]  # not the unfinished result
    run(second)
    assert second.panel.stage.text() == "waiting for another run to end"
    assert names(viewer) == ["cells", "hole", "cells (inpainted)"]  # nothing of it to be seen yet
    _, third = dock(viewer)
    run(third)
    third.cancel()  # at once, though the first still runs
    assert third.job is None
    first.cancel()
    finish(first)
    finish(second)
    assert len([name for name in names(viewer) if name.startswith("cells (inpainted)")]) == 1


def test_layers_deleted_or_renamed_in_the_middle_change_nothing(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=150)
    viewer.add_image(slope, name="cells", scale=(0.5, 0.5))
    viewer.add_labels(hole, scale=(0.5, 0.5))
    run(widget)
    fitting(widget)
    viewer.layers["cells"].name = "other"
    viewer.layers.clear()
    finish(widget)
    assert names(viewer) == ["cells (inpainted)", "cells (std)", "cells (synthesised)"]
    same = knitcore.inpaint(slope, hole, steps=150, ensemble=1, knit_depth=0)
    np.testing.assert_array_equal(viewer.layers[0].data, same.image)
    np.testing.assert_allclose(viewer.layers[0].scale, (0.5, 0.5))


def test_a_result_layer_that_the_user_took_over_is_left_alone(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=150)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    run(widget)
    fitting(widget)
    theirs = np.zeros((5, 6))
    viewer.layers["cells (inpainted)"].data = theirs
    finish(widget)
    assert viewer.layers["cells (inpainted)"].data is theirs
    filled = viewer.layers["cells (inpainted) [1]"]
    assert filled.data.shape == slope.shape
    assert "knitworks" in filled.metadata


def test_the_mask_at_run_counts(
    dock: Dock, qtbot: Any, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=300)
    viewer.add_image(slope, name="cells")
    labels = viewer.add_labels(hole.copy())
    run(widget)
    fitting(widget)
    labels.data_setitem((np.array([35]), np.array([35])), 1)
    qtbot.waitUntil(lambda: "mask changed" in widget.panel.stage.text(), timeout=60_000)
    finish(widget)
    np.testing.assert_array_equal(viewer.layers["cells (synthesised)"].data, hole > 0)


def test_the_users_selection_is_left_at_the_end(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=150)
    viewer.add_image(slope, name="cells")
    labels = viewer.add_labels(hole)
    run(widget)
    fitting(widget)
    viewer.layers.selection.active = labels
    finish(widget)
    assert viewer.layers.selection.active is labels
    assert set(viewer.layers.selection) == {labels}


def test_progress_goes_to_naparis_activity_dock(
    dock: Dock, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    from napari.utils import progress
    from qtpy.QtWidgets import QLabel

    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    labels = viewer.window._qt_window.findChildren(QLabel)
    (spinner,) = [label.movie() for label in labels if label.movie() is not None]
    assert spinner.speed() == 100
    run(widget)
    assert [bar.desc.rstrip(": ") for bar in progress._all_instances] == ["Inpaint cells"]
    assert spinner.speed() == 10  # at full speed it would repaint the canvas 30 times a second
    fitting(widget)
    assert widget.panel.bar.isVisibleTo(widget)
    assert "recon" in widget.panel.losses.text()
    widget.cancel()
    finish(widget)
    assert not progress._all_instances
    assert not widget.panel.bar.isVisibleTo(widget)
    assert spinner.speed() == 100


# the end of the widget


def test_closing_the_dock_cancels_the_run(
    dock: Dock, qtbot: Any, fitting: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    run(widget)
    fitting(widget)
    job = widget.job
    widget.parent().destroyOnClose()
    qtbot.waitUntil(lambda: not knit_is_running(), timeout=60_000)
    assert job.cancelling.is_set()
    assert names(viewer) == ["cells", "hole"]
    viewer.add_image(slope)  # nobody of ours listens any more


def test_closing_the_viewer_cancels_the_run(
    dock: Dock, qtbot: Any, fitting: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    run(widget)
    fitting(widget)
    job = widget.job
    viewer.close()
    qtbot.waitUntil(lambda: not knit_is_running(), timeout=60_000)
    assert job.cancelling.is_set()


def knit_is_running() -> bool:
    from knit_plugin._worker import busy

    return busy()


CLOSE_IN_THE_MIDDLE = """
import napari, numpy as np
from qtpy.QtCore import QTimer
from knit_plugin.inpaint_widget import InpaintWidget

viewer = napari.Viewer()
image = np.random.default_rng(0).random((64, 64)).astype("float32")
mask = np.zeros((64, 64), int)
mask[20:40, 20:40] = 1
viewer.add_image(image)
viewer.add_labels(mask)
widget = InpaintWidget(viewer)
viewer.window.add_dock_widget(widget)
widget.form.inputs["steps"].value = 100_000
widget.form.inputs["knit_depth"].value = 0

def close_when_fitting():
    if widget.panel.losses.text():
        timer.stop()
        print("closing")
        viewer.window._qt_window.close()

timer = QTimer()
timer.timeout.connect(close_when_fitting)
timer.start(50)
QTimer.singleShot(0, widget.run)
napari.run()
print("ended")
"""


def test_closing_the_window_in_the_middle_of_a_run_ends_the_process_quietly(
    make_napari_viewer: Any,
) -> None:
    # the fixture is named for the display it needs
    folders = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLOSE_IN_THE_MIDDLE],
        env={**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["closing", "ended"]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "deleted" not in done.stderr, done.stderr


# how it looks


def test_the_widget_is_narrow_and_tabs_from_top_to_bottom(
    dock: Dock, qtbot: Any, slope: np.ndarray
) -> None:
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox

    viewer, widget = dock(show=True)
    viewer.add_image(slope, name="a very long name " * 8)
    widget.form.toggle.setChecked(True)
    qtbot.waitUntil(widget.isVisible)
    assert widget.minimumSizeHint().width() < 420
    assert widget.sizeHint().width() < 420

    inputs = (QComboBox, QAbstractSpinBox, QAbstractButton)
    heights, at = [], widget.image_box
    while at is not widget.panel.cancel_button:
        assert widget.isAncestorOf(at)
        if isinstance(at, inputs) and at.isVisible():
            heights.append(at.mapTo(widget, at.rect().topLeft()).y())
        at = at.nextInFocusChain()
    assert len(heights) > 12
    assert heights == sorted(heights)


def test_a_run_on_the_sample_looks_like_this(
    make_napari_viewer: Any,
    plugin: str,
    open_from_menu: Callable[[Any, str], Any],
    qtbot: Any,
    finish: Wait,
    tmp_path: Path,
) -> None:
    """Also makes the picture in the docs, as docs/napari.md says."""
    update = os.environ.get("KNIT_UPDATE_SCREENSHOTS")
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1200, 760)
    viewer.open_sample(plugin, "damaged-micrograph")
    viewer.layers["Damage"].visible = False
    widget = open_from_menu(viewer, "Inpaint (Knitworks)")
    if not update:
        widget.form.inputs["steps"].value = 40
    qtbot.waitUntil(widget.isVisible)
    qtbot.wait(300)  # napari lays its window out anew
    run(widget)
    finish(widget)
    qtbot.wait(300)

    filled = viewer.layers["Damaged micrograph (inpainted)"]
    repaired = viewer.screenshot(canvas_only=True, flash=False)
    filled.visible = False
    damaged = viewer.screenshot(canvas_only=True, flash=False)
    filled.visible = True
    changed = (repaired != damaged).any(axis=-1).mean()
    assert 0.005 < changed < 0.5  # the scratch and the block are gone, the rest is as it was
    file = tmp_path / "widget.png"
    window = viewer.screenshot(str(file), canvas_only=False, flash=False)
    assert window.shape[0] > 600
    assert len(np.unique(window.reshape(-1, 4), axis=0)) > 100
    if update:
        shutil.copy(file, ROOT / "docs" / "images" / "widget.png")
