"""Preview, comparing, repeating, parts of stacks, waiting runs: what the task widgets share."""

from __future__ import annotations

import gc
import os
import shlex
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

import knitcore
from knit_plugin.denoise_widget import DenoiseWidget
from knit_plugin.super_resolve_widget import SuperResolveWidget

ROOT = Path(__file__).parents[2]
Dock = Callable[..., tuple[Any, Any]]
Wait = Callable[[Any], None]


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


@pytest.fixture
def inpainted(dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray) -> tuple[Any, Any]:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.run()
    finish(widget)
    return viewer, widget


def test_a_preview_fills_what_is_in_view_and_leaves_before_the_run(
    dock: Dock, finish: Wait
) -> None:
    big = np.add.outer(np.arange(600), np.arange(700)).astype(np.uint16)
    mask = np.zeros(big.shape, np.uint8)
    mask[295:303, 340:350] = 1
    mask[10:14, 10:14] = 1
    viewer, widget = dock()
    viewer.add_image(big, name="cells", scale=(0.5, 0.5))
    viewer.add_labels(mask, scale=(0.5, 0.5))
    widget.preview_side = 64
    widget.panel.preview_button.click()
    finish(widget)
    assert names(viewer) == ["cells", "mask", "cells (inpainted, preview)"]
    shown = viewer.layers[-1]
    assert shown.data.shape == (64, 64)
    assert widget.panel.summary.text().startswith("Preview of 64 × 64 pixels: Filled 80 pixels")
    corner = (np.asarray(shown.data_to_world((0, 0))) / 0.5).round().astype(int)
    np.testing.assert_array_equal(shown.data[0, 0], big[tuple(corner)])

    widget.preview()
    finish(widget)
    assert names(viewer) == ["cells", "mask", "cells (inpainted, preview)"]
    widget.run()
    finish(widget)
    assert "cells (inpainted, preview)" not in names(viewer)
    assert viewer.layers["cells (inpainted)"].data.shape == big.shape


def test_a_setting_changed_in_a_preview_starts_it_again(
    dock: Dock, qtbot: Any, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.form.inputs["ensemble"].value = 16
    widget.preview()
    first = widget.job
    widget.form.inputs["ensemble"].value = 1
    widget.form.inputs["seed"].value = 9
    qtbot.waitUntil(lambda: widget.job is not None and widget.job is not first, timeout=60_000)
    finish(widget)
    (shown,) = [layer for layer in viewer.layers if "preview" in layer.name]
    assert shown.metadata["knitworks"]["recipe"]["seed"] == 9
    assert shown.metadata["knitworks"]["recipe"]["steps"] == 150  # not the 100,000 of a full run


def test_another_layer_chosen_or_painted_on_in_a_preview_starts_it_again(
    dock: Dock, qtbot: Any, finish: Wait, slope: np.ndarray, hole: np.ndarray, monkeypatch: Any
) -> None:
    monkeypatch.setattr("knit_plugin._task_widget.PREVIEW_STEPS", 100_000)
    monkeypatch.setattr("knit_plugin._task_widget.PREVIEW_SECONDS", 1000)
    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope[::-1].copy(), name="others")
    viewer.add_image(slope, name="cells")
    labels = viewer.add_labels(hole)
    widget.image_box.layer = viewer.layers["cells"]
    widget.preview()

    def started_again(job: Any) -> None:
        qtbot.waitUntil(lambda: widget.job is not None and widget.job is not job, timeout=60_000)

    first = widget.job
    widget.image_box.layer = viewer.layers["others"]
    started_again(first)
    second = widget.job
    labels.paint((2, 2), 1)
    started_again(second)
    assert widget._layers.source.name == "others"
    widget.cancel()
    finish(widget)


def test_a_preview_that_takes_long_shows_how_far_it_is(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, monkeypatch: Any
) -> None:
    monkeypatch.setattr("knit_plugin._task_widget.PREVIEW_STEPS", 100_000)
    monkeypatch.setattr("knit_plugin._task_widget.PREVIEW_SECONDS", 0.5)
    viewer, widget = dock(steps=100_000)
    viewer.add_image(np.where(hole > 0, 0, slope).astype(np.uint16), name="cells")
    viewer.add_labels(hole)
    widget.preview()
    finish(widget)
    assert widget.panel.summary.text() == (
        "Preview of 40 × 48 pixels, stopped after 0.5 s: this is how far it was."
    )
    shown = viewer.layers["cells (inpainted, preview)"]
    assert shown.data[hole == 1].min() > 500
    widget.form.inputs["steps"].value = 3
    widget.run()
    finish(widget)
    assert shown not in viewer.layers


def test_planes_that_are_not_there_are_not_replaced_by_others(
    dock: Dock, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    viewer.add_image(np.stack([slope] * 4), name="movie", axis_labels=("t", "y", "x"))
    viewer.add_labels(hole)
    widget.part.setCurrentIndex(2)
    for first, last in ((3, 1), (7, 9)):
        widget.first.setValue(first)
        widget.last.setValue(last)
        assert not widget.panel.run_button.isEnabled()
        told = f"planes from {first} to {last}: the stack has those from 0 to 3"
        assert told in widget.hint.text()
    widget.first.setValue(1)
    widget.last.setValue(3)
    assert widget.panel.run_button.isEnabled()


def test_one_click_shows_the_source_and_the_next_the_result(inpainted: tuple[Any, Any]) -> None:
    viewer, widget = inpainted
    result = viewer.layers["cells (inpainted)"]
    widget.toggle_action.trigger()
    assert not result.visible
    assert viewer.layers["cells"].visible
    widget.toggle_action.trigger()
    assert result.visible


def test_std_lies_over_the_result_half_transparent(inpainted: tuple[Any, Any]) -> None:
    viewer, widget = inpainted
    std = viewer.layers["cells (std)"]
    widget.std_action.trigger()
    assert (std.visible, std.opacity, std.blending) == (True, 0.5, "translucent")
    widget.std_action.trigger()
    assert not std.visible


def test_the_residual_is_source_minus_result(
    inpainted: tuple[Any, Any], finish: Wait, slope: np.ndarray
) -> None:
    viewer, widget = inpainted
    widget.residual_action.trigger()
    finish(widget)
    filled = viewer.layers["cells (inpainted)"].data.astype(np.float32)
    np.testing.assert_array_equal(viewer.layers["cells (residual)"].data, slope - filled)


def test_another_method_fills_the_same_hole_in_a_layer_of_its_own(
    inpainted: tuple[Any, Any], finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    from knitcore.baselines.classical import inpaint_harmonic

    viewer, widget = inpainted
    widget.compare_with("harmonic")
    finish(widget)
    other = viewer.layers["cells (harmonic)"].data
    np.testing.assert_allclose(other[hole > 0], inpaint_harmonic(slope, hole > 0)[hole > 0])
    np.testing.assert_array_equal(other[hole == 0], slope[hole == 0])


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [(DenoiseWidget, "nlm", (40, 48)), (SuperResolveWidget, "bicubic", (80, 96))],
)
def test_the_other_tasks_are_compared_too(
    dock_task: Dock, finish: Wait, slope: np.ndarray, kind: Any, name: str, shape: tuple[int, ...]
) -> None:
    viewer, widget = dock_task(kind)
    viewer.add_image(np.stack([slope, slope + 1]), name="cells", axis_labels=("t", "y", "x"))
    viewer.dims.set_current_step(0, 1)
    widget.compare_with(name)
    finish(widget)
    layer = viewer.layers[f"cells ({name})"]
    assert layer.data.shape == (1, *shape)
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0))[0], 1)


def test_a_run_can_be_on_the_current_plane_or_on_some(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock()
    stack = np.stack([slope + i for i in range(5)])
    viewer.add_image(stack, name="movie", axis_labels=("t", "y", "x"), scale=(3, 1, 1))
    viewer.add_labels(hole)
    viewer.dims.set_current_step(0, 2)
    widget.part.setCurrentIndex(1)
    widget.run()
    finish(widget)
    one = viewer.layers["movie (inpainted)"]
    assert one.data.shape == (1, 40, 48)
    np.testing.assert_array_equal(one.data[0][hole == 0], stack[2][hole == 0])
    np.testing.assert_allclose(one.data_to_world((0, 0, 0)), (6, 0, 0))
    viewer.layers.remove(one)

    widget.part.setCurrentIndex(2)
    widget.first.setValue(3)
    widget.last.setValue(4)
    widget.run()
    finish(widget)
    two = viewer.layers["movie (inpainted)"]
    np.testing.assert_array_equal(two.data[:, hole == 0], stack[3:][:, hole == 0])
    np.testing.assert_allclose(two.data_to_world((0, 0, 0)), (9, 0, 0))


def test_of_a_lazy_stack_only_the_planes_asked_for_are_computed(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    import dask.array

    computed: list[int] = []

    def note(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            computed.append(block_info[0]["chunk-location"][0])
        return block

    stack = dask.array.from_array(np.stack([slope] * 6), chunks=(1, 40, 48))
    lazy = stack.map_blocks(note, dtype=stack.dtype)
    viewer, widget = dock()
    viewer.add_image(lazy, name="movie", axis_labels=("t", "y", "x"), contrast_limits=(0, 2000))
    viewer.add_labels(hole)
    viewer.dims.set_current_step(0, 4)
    widget.part.setCurrentIndex(1)
    computed.clear()
    widget.run()
    finish(widget)
    assert set(computed) == {4}


def test_a_lazy_stack_is_read_only_where_the_mask_is(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    import dask.array

    computed: list[int] = []

    def note(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info:
            computed.append(block_info[0]["chunk-location"][0])
        return block

    plain = np.stack([slope + 9 * i for i in range(6)])
    lazy = dask.array.from_array(plain, chunks=(1, 40, 48)).map_blocks(note, dtype=plain.dtype)
    viewer, widget = dock()
    viewer.add_image(lazy, name="movie", axis_labels=("t", "y", "x"), contrast_limits=(0, 2000))
    marks = np.zeros(plain.shape, np.uint8)
    marks[2], marks[4, 10:14, 10:14] = hole, 1
    viewer.add_labels(marks)
    viewer.dims.set_current_step(0, 4)
    whole = widget._memory(*widget.take(copy=False), (1.0,) * 3)
    computed.clear()
    widget.run()
    finish(widget)
    assert {2, 4} <= set(computed) <= {0, 2, 4}  # napari looks at 0 whenever a layer is made
    filled = viewer.layers["movie (inpainted)"].data
    same = knitcore.inpaint(knitcore.Image(plain, "TYX"), marks, steps=30, ensemble=1, knit_depth=0)
    np.testing.assert_array_equal(np.asarray(filled), same.image)
    marks[:] = hole
    assert widget._memory(*widget.take(copy=False), (1.0,) * 3) > 2 * whole
    widget.residual_action.trigger()
    finish(widget)
    np.testing.assert_array_equal(
        viewer.layers["movie (residual)"].data, plain - np.float32(same.image)
    )


def test_the_expected_error_is_told_where_it_is_wanted(
    dock: Dock,
    finish: Wait,
    slope: np.ndarray,
    hole: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer, widget = dock(steps=3)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    box = widget.form.inputs["validation"].native
    assert box.text() == "Estimate the error of this fill"
    assert "held out" in box.toolTip()
    box.setChecked(True)
    widget.preview()
    finish(widget)
    assert "expected error" not in widget.panel.summary.text()  # a preview is to be quick
    widget.run()
    finish(widget)
    told = viewer.layers["cells (inpainted)"].metadata["knitworks"]["validation"]
    summary = widget.panel.summary.text().splitlines()[0]
    assert "Filled 134 pixels (6.98 %) in " in summary
    assert f" on cpu; expected error ±{told['rmse']:.3g} grey levels (RMSE over" in summary
    monkeypatch.setattr(widget, "ask_folder", lambda: str(tmp_path))
    for copy, words in (
        (widget.copy_command, "--validate"),
        (widget.copy_python, "validation=True"),
    ):
        copy()
        finish(widget)
        assert words in QApplication.clipboard().text()


@pytest.mark.parametrize(
    ("step", "choice", "planes"),
    [(2, 0, "auto"), (5, 0, "Z"), (2, 1, "Z"), (5, 2, "none"), (1, 2, "none")],
)
def test_planes_are_fitted_one_by_one_or_as_a_volume(
    dock: Dock, slope: np.ndarray, hole: np.ndarray, step: float, choice: int, planes: str
) -> None:
    viewer, widget = dock()
    image = viewer.add_image(slope, name="cells")
    assert not widget.volume.isVisibleTo(widget)  # nothing to choose in a single plane
    viewer.layers.remove(image)
    stack = np.stack([slope] * 4)
    viewer.add_image(stack, axis_labels=("z", "y", "x"), scale=(step, 1, 1), name="stack")
    viewer.add_labels(hole)
    assert widget.volume.isVisibleTo(widget)
    assert widget.volume.itemText(0) == f"auto: {3 - (step >= 4)}-D, z step {step} × pixel"
    widget.volume.setCurrentIndex(choice)
    assert widget.recipe().planes == planes
    widget.form.inputs["planes"].value = "Z"  # written by hand it counts
    assert widget.recipe().planes == "Z"
    widget.show_recipe(knitcore.Inpaint())  # as a record of the command has it: a volume
    assert widget.recipe().planes == ("none" if step >= 4 else "auto")


def test_another_method_enlarges_each_axis_by_its_own_factor(
    dock_task: Dock, finish: Wait, slope: np.ndarray
) -> None:
    from knitcore.baselines.classical import super_resolve_bicubic

    viewer, widget = dock_task(SuperResolveWidget)
    viewer.add_image(slope, name="cells")
    widget.form.inputs["scale"].value = "3x1.5"
    widget.compare_with("bicubic")
    finish(widget)
    found = viewer.layers["cells (bicubic)"]
    assert found.data.shape == (120, 72)
    np.testing.assert_allclose(found.data, super_resolve_bicubic(slope, (3.0, 1.5)))
    np.testing.assert_allclose(found.scale, (1 / 3, 1 / 1.5))


def test_keys_start_and_stop_a_run(
    dock: Dock, qtbot: Any, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    from qtpy.QtCore import Qt

    viewer, widget = dock(steps=100_000, show=True)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    qtbot.waitUntil(widget.isVisible)
    viewer.window._qt_window.activateWindow()
    spin = widget.form.inputs["seed"].native
    spin.setFocus()
    qtbot.waitUntil(spin.hasFocus)
    assert "(Ctrl+Return)" in widget.panel.run_button.toolTip()
    qtbot.keyClick(spin, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert widget.job is not None
    fitting(widget)
    qtbot.keyClick(spin, Qt.Key.Key_Escape)
    finish(widget)
    assert names(viewer) == ["cells", "hole"]
    qtbot.keyClick(spin, Qt.Key.Key_Escape)  # nothing runs: nothing happens
    assert widget.panel.run_button.isEnabled()


@pytest.mark.parametrize("how", ["command", "python"])
def test_what_is_copied_gives_the_same_pixels(
    inpainted: tuple[Any, Any],
    finish: Wait,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    viewer, widget = inpainted
    folder = tmp_path / "my inputs"
    folder.mkdir()
    monkeypatch.setattr(widget, "ask_folder", lambda: str(folder))
    {"command": widget.copy_command, "python": widget.copy_python}[how]()
    finish(widget)
    text = QApplication.clipboard().text()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    if how == "command":
        words = shlex.split(text)
        assert words[0] == "knit"
        call = [sys.executable, "-m", "knit_cli", *words[1:]]
    else:
        (tmp_path / "again.py").write_text(text, encoding="utf-8")
        call = [sys.executable, str(tmp_path / "again.py")]
    done = subprocess.run(
        call, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    again = knitcore.read_image(folder / "cells_inpainted.tif").data
    np.testing.assert_array_equal(again, viewer.layers["cells (inpainted)"].data)


def test_a_recipe_is_saved_and_loaded_with_fields_that_have_no_input(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from knit_plugin import _task_widget

    _, widget = dock()
    mine = knitcore.Inpaint(seed=8, steps=41, width=48, mask_label=2)
    file = tmp_path / "mine.yaml"
    knitcore.save_recipe(mine, file)
    dialogs = _task_widget.QFileDialog
    monkeypatch.setattr(dialogs, "getOpenFileName", lambda *_: (str(file), ""))
    widget.load_recipe_from()
    assert widget.recipe() == mine
    copy = tmp_path / "copy.json"
    monkeypatch.setattr(dialogs, "getSaveFileName", lambda *_: (str(copy), ""))
    widget.save_recipe_as()
    assert knitcore.load_recipe(copy) == mine


def test_a_result_layer_runs_again_with_its_settings(
    inpainted: tuple[Any, Any], finish: Wait
) -> None:
    viewer, widget = inpainted
    first = viewer.layers["cells (inpainted)"]
    widget.form.inputs["seed"].value = 77
    viewer.layers.selection.active = first
    widget.run_again()
    finish(widget)
    again = viewer.layers["cells (inpainted) [1]"]
    np.testing.assert_array_equal(again.data, first.data)


@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize("at", [(104, 104), (700, 400)])
def test_a_preview_is_round_the_middle_of_the_view(
    pyramid: bool, at: tuple[int, int], dock: Dock, finish: Wait
) -> None:
    big = np.add.outer(np.arange(800), np.arange(960)).astype(np.uint16)
    mask = np.zeros(big.shape, np.uint8)
    mask[at[0] - 3 : at[0] + 3, at[1] - 3 : at[1] + 3] = 1
    viewer, widget = dock(steps=2)
    data = [big, big[::2, ::2], big[::4, ::4]] if pyramid else big
    viewer.add_image(data, name="cells", scale=(0.5, 0.5), multiscale=pyramid)
    viewer.add_labels(mask, scale=(0.5, 0.5))
    widget.image_box.layer = viewer.layers["cells"]
    viewer.camera.center = (0, at[0] / 2, at[1] / 2)
    viewer.camera.zoom = 2
    widget.preview()
    finish(widget)
    assert "Filled 36 pixels" in widget.panel.summary.text()


def test_the_focus_goes_from_run_to_cancel_and_back(
    inpainted: tuple[Any, Any], finish: Wait, fitting: Wait, qtbot: Any
) -> None:
    viewer, widget = inpainted
    viewer.window._qt_window.show()
    viewer.window._qt_window.activateWindow()
    widget.form.inputs["steps"].value = 100_000
    widget.panel.run_button.setFocus()
    qtbot.waitUntil(widget.panel.run_button.hasFocus)
    widget.run()
    assert widget.panel.cancel_button.hasFocus()
    fitting(widget)
    widget.cancel()
    finish(widget)
    assert widget.panel.run_button.hasFocus()


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_run_again_is_for_the_same_planes(
    part: int, dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=2)
    stack = np.stack([slope + n for n in range(4)])
    viewer.add_image(np.stack([stack, stack + 50]), name="movie", axis_labels=tuple("tzyx"))
    viewer.add_labels(hole)
    widget.form.inputs["planes"].value = "TZ"
    widget.part.setCurrentIndex(part)
    widget.first.setValue(1)
    widget.last.setValue(1)
    viewer.dims.set_current_step([0, 1], [1, 2])
    widget.run()
    finish(widget)
    first = viewer.layers["movie (inpainted)"]
    widget.part.setCurrentIndex((part + 1) % 3)
    widget.first.setValue(0)
    viewer.dims.set_current_step([0, 1], [0, 0])
    viewer.layers.selection.active = first
    widget.image_box.layer = viewer.layers["movie"]
    widget.run_again()
    finish(widget)
    assert widget.part.currentIndex() == part
    again = viewer.layers["movie (inpainted) [1]"]
    np.testing.assert_array_equal(again.data, first.data)
    np.testing.assert_array_equal(again.translate, first.translate)


def test_a_run_again_is_for_the_same_image_and_mask(
    inpainted: tuple[Any, Any], finish: Wait, messages: list[str]
) -> None:
    viewer, widget = inpainted
    first = viewer.layers["cells (inpainted)"]
    mask = viewer.layers["hole"]
    other = viewer.add_image(first.data + 1, name="other")
    widget.image_box.layer = other
    widget.mask_box.layer = viewer.layers["cells (synthesised)"]
    viewer.layers["cells"].name = "renamed"
    for kind in ("inpainted", "std", "synthesised"):
        viewer.layers.selection.active = viewer.layers[f"cells ({kind})"]
        widget.run_again()
        finish(widget)
        assert widget.image_box.layer is viewer.layers["renamed"]
        assert widget.mask_box.layer is mask
    np.testing.assert_array_equal(viewer.layers["renamed (inpainted)"].data, first.data)

    viewer.layers.remove("renamed")
    widget.form.inputs["seed"].value = 5
    viewer.layers.selection.active = first
    widget.run_again()
    assert widget.job is None
    assert "Layer 'cells', which that run was for, is not in the viewer" in messages[-1]
    assert widget.form.inputs["seed"].value == 0  # the settings are filled in


def test_a_run_again_on_a_stack_that_has_changed(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock(steps=2)
    stack = np.stack([slope + n for n in range(5)])
    movie = viewer.add_image(stack, name="movie", axis_labels=tuple("tyx"))
    viewer.add_labels(hole)
    widget.run()
    finish(widget)
    widget.part.setCurrentIndex(2)
    widget.first.setValue(2)
    widget.last.setValue(4)
    widget.run()
    finish(widget)
    movie.data = stack[:4]
    viewer.layers.selection.active = viewer.layers["movie (inpainted)"]  # all planes, as before
    widget.run_again()
    finish(widget)
    assert viewer.layers["movie (inpainted) [2]"].data.shape == (4, *slope.shape)
    viewer.layers.selection.active = viewer.layers["movie (inpainted) [1]"]
    widget.run_again()
    assert widget.job is None
    assert "for a part of 5 × 40 × 48 pixels; layer 'movie' has 4 × 40 × 48 now" in messages[-1]


def test_a_run_again_leaves_the_choice_of_fit_to_the_next_image(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=2)
    far = np.stack([slope, slope + 1])
    viewer.add_image(far, name="far", axis_labels=tuple("zyx"), scale=(10, 1, 1))
    viewer.add_labels(hole)
    widget.run()
    finish(widget)
    assert widget.recipe().planes == "Z"
    viewer.layers.selection.active = viewer.layers["far (inpainted)"]
    widget.run_again()
    finish(widget)
    assert widget.recipe().planes == "Z"
    assert widget.form.inputs["planes"].value == "auto"
    assert widget.volume.currentIndex() == 0


def test_a_run_again_waits_for_no_run_and_takes_no_preview(
    inpainted: tuple[Any, Any], finish: Wait, fitting: Wait, messages: list[str]
) -> None:
    viewer, widget = inpainted
    viewer.layers.selection.active = viewer.layers["cells (inpainted)"]
    widget.form.inputs["steps"].value = 100_000
    widget.run()
    fitting(widget)
    viewer.layers.selection.active = viewer.layers["cells (inpainted)"]
    widget.run_again()
    assert "A run is under way" in messages[-1]
    assert widget.form.inputs["steps"].value == 100_000
    widget.cancel()
    finish(widget)
    widget.form.inputs["steps"].value = 5
    widget.preview()
    finish(widget)
    viewer.layers.selection.active = viewer.layers["cells (inpainted, preview)"]
    widget.run_again()
    assert widget.job is None
    assert "That layer is a preview" in messages[-1]


def test_what_is_undone_in_the_mask_starts_a_preview_again(
    inpainted: tuple[Any, Any], finish: Wait, fitting: Wait
) -> None:
    viewer, widget = inpainted
    mask = viewer.layers["hole"]
    before = int(np.count_nonzero(mask.data))
    mask.brush_size, mask.mode = 5, "paint"
    mask.paint((5, 5), 1)
    after = int(np.count_nonzero(mask.data))
    widget.form.inputs["steps"].value = 100_000
    widget.preview()
    fitting(widget)
    assert not widget._again_timer.isActive()
    mask.undo()
    assert widget._again_timer.isActive()
    widget.form.inputs["steps"].value = 2
    finish(widget)
    assert before < after
    assert f"Filled {before} pixels" in widget.panel.summary.text()


def test_another_mask_s_strokes_are_no_change_of_this_one(
    inpainted: tuple[Any, Any], finish: Wait, fitting: Wait
) -> None:
    viewer, widget = inpainted
    mask = viewer.layers["hole"]
    mask.brush_size = 3
    mask.paint((5, 5), 1)
    other = viewer.add_labels(mask.data.copy(), name="other")
    widget.mask_box.layer = mask
    widget.form.inputs["steps"].value = 100_000
    widget.run()
    fitting(widget)
    widget.mask_box.layer = other
    mask.refresh()
    assert widget.remark == ""
    widget.cancel()
    finish(widget)


def test_a_setting_changed_at_the_very_end_of_a_preview_starts_it_again(
    inpainted: tuple[Any, Any], finish: Wait, qtbot: Any
) -> None:
    _, widget = inpainted
    widget.form.inputs["steps"].value = 2
    widget.preview()
    qtbot.waitUntil(lambda: bool(widget._pending), timeout=60_000)
    widget.mask_form.inputs["mask_label"].value = 1
    widget._preview_again()
    finish(widget)
    assert "Filled 64 pixels" in widget.panel.summary.text()


def test_of_many_notes_the_summary_has_some_and_says_so(
    dock: Dock, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=1)
    viewer.add_image(np.stack([slope] * 9), name="movie", axis_labels=tuple("tyx"))
    viewer.add_labels(hole, name="mask")
    widget.run()
    finish(widget)
    notes = viewer.layers["movie (inpainted)"].metadata["knitworks"]["notes"]
    lines = widget.panel.summary.text().splitlines()
    assert len(notes) == 10  # one of each plane: the members strayed; and one on the mask
    assert lines[-1] == "5 more notes are in the record."
    assert len(lines) == 1 + 5 + 1
    assert "each of 9 planes" in lines[1]


def test_a_widget_opened_later_chooses_what_the_user_has_drawn(
    inpainted: tuple[Any, Any], dock: Dock
) -> None:
    viewer, _ = inpainted
    viewer.layers.selection.active = None
    _, other = dock(viewer)
    assert (other.image_box.layer.name, other.mask_box.layer.name) == ("cells", "hole")


def test_the_legend_of_the_losses_names_each_in_its_colour(qtbot: Any) -> None:
    from qtpy.QtGui import QColor

    from knit_plugin._loss_plot import COLOURS, LossPlot

    plot = LossPlot()
    qtbot.addWidget(plot)
    names = ("recon", "xpatch", "pixel", "gan", "discriminator")
    for done in (0.1, 0.5, 0.9):
        plot.add(done, {name: 2.0 - done for name in names})
    assert len(COLOURS) >= len(names)
    heights = []
    for width in (420, 200):
        plot.resize(width, plot.height())
        plot.show()
        qtbot.waitExposed(plot)
        places = plot._legend_places(plot.width())
        assert [name for name, *_ in places] == list(names)
        assert min(left for _, left, _ in places) >= 0
        heights.append(plot.height())
        shown = plot.grab().toImage()
        seen = {
            shown.pixelColor(x, y).getRgb()[:3]
            for x in range(shown.width())
            for y in range(shown.height())
        }
        for colour in COLOURS:  # a screen of 16 bits shows them nearly
            wanted = QColor(colour).getRgb()[:3]
            assert (
                min(max(abs(a - b) for a, b in zip(one, wanted, strict=True)) for one in seen) <= 8
            )
    assert heights[1] > heights[0]


def test_messages_speak_of_inputs_not_of_options(
    dock: Dock, slope: np.ndarray, finish: Wait, messages: list[str]
) -> None:
    viewer, widget = dock(steps=2)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(np.ones(slope.shape, np.uint8))
    widget.run()
    finish(widget)
    told = "cells: no known pixel left: the mask covers the whole image. If it is inverted, set Invert mask"
    assert messages == [f"error: {told}"]
    assert widget.panel.summary.text() == told


def test_a_run_leaves_nothing_behind_but_its_layers(inpainted: tuple[Any, Any]) -> None:
    import torch

    viewer, widget = inpainted
    data = weakref.ref(viewer.layers["cells (inpainted)"].data)
    threads = torch.get_num_threads()
    viewer.layers.clear()
    gc.collect()
    held = data()
    assert held is None or not [
        o for o in gc.get_referrers(held) if o is widget or o is vars(widget)
    ]
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32


def test_garbage_is_looked_for_in_the_main_thread_only(
    dock: Dock, qtbot: Any, fitting: Wait, finish: Wait, slope: np.ndarray, hole: np.ndarray
) -> None:
    """In a thread PySide waits for the main one when it comes upon Qt objects, with a lock held."""
    import threading

    seen: set[Any] = set()

    def note(phase: str, info: dict[str, Any]) -> None:
        seen.add(threading.current_thread())

    viewer, widget = dock(steps=100_000)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    gc.callbacks.append(note)
    try:
        widget.run()
        fitting(widget)
        assert not gc.isenabled()
        widget.cancel()
        finish(widget)
        qtbot.waitUntil(gc.isenabled, timeout=60_000)
    finally:
        gc.callbacks.remove(note)
    assert seen <= {threading.main_thread()}


def test_losses_are_drawn(inpainted: tuple[Any, Any], qtbot: Any) -> None:
    from qtpy.QtGui import QColor

    plot = inpainted[1].panel.plot
    plot.clear()
    plot.resize(200, 56)
    empty = plot.grab().toImage()
    for i in range(1000):
        plot.add(i / 1000, {"recon": 1 / (1 + i), "bad": float("nan")})
    assert set(plot.curves) == {"recon"}
    assert len(plot.curves["recon"]) <= 240
    drawn = plot.grab().toImage()
    assert drawn != empty
    assert isinstance(drawn.pixelColor(0, 0), QColor)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_widget_looks_like_this_in_both_themes(
    dock: Dock,
    qtbot: Any,
    finish: Wait,
    tmp_path: Path,
    theme: str,
    slope: np.ndarray,
    hole: np.ndarray,
) -> None:
    """Also makes the pictures in the docs, as docs/napari.md says."""
    from napari.settings import get_settings

    update = os.environ.get("KNIT_UPDATE_SCREENSHOTS")
    viewer, widget = dock(show=True, steps=150 if update else 60)
    if update:
        widget.form.inputs["ensemble"].value = 4
        widget.form.inputs["validation"].value = True
    viewer.theme = theme
    get_settings().appearance.theme = theme
    viewer.window._qt_window.resize(1000, 760)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole, name="damage")
    widget.run()
    finish(widget)
    qtbot.wait(300)
    assert widget.width() <= 420
    assert widget.minimumSizeHint().width() <= 420
    assert widget.panel.plot.curves
    buttons = [widget.panel.preview_button, widget.panel.run_button, widget.panel.cancel_button]
    buttons += [widget.panel.compare_button, widget.panel.repeat_button]
    for button in buttons:  # no text is cut off
        assert button.width() >= button.fontMetrics().horizontalAdvance(button.text())
    picture = widget.grab()
    file = tmp_path / f"widget_{theme}.png"
    assert picture.save(str(file))
    colour = picture.toImage().pixelColor(2, 2)
    assert (colour.lightness() > 128) == (theme == "light")
    if update:
        shutil.copy(file, ROOT / "docs" / "images" / f"widget_{theme}.png")
