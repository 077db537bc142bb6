"""The batch widget: a folder worked through by a child process, beside a real viewer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import knitcore
from knit_plugin.batch_widget import DONE, FAILED, STOPPED, BatchWidget
from knitcore.run_file import load_run

ROOT = Path(__file__).parents[2]
WAIT = 120_000

Wait = Callable[[Any], None]


@pytest.fixture
def over(qtbot: Any) -> Wait:
    """Wait until the child process has ended."""

    def wait(widget: Any) -> None:
        qtbot.waitUntil(lambda: widget.process is None, timeout=WAIT)

    return wait


@pytest.fixture
def folder(tmp_path: Path, slope: np.ndarray) -> Path:
    """Three images with a hole of zeros, one of which is none; and something else."""
    source = tmp_path / "scans, first day"
    source.mkdir()
    for number, name in enumerate(("a.tif", "c.tif"), start=1):
        image = slope + np.uint16(number)
        image[12:20, 14:22] = 0
        tifffile.imwrite(source / name, image)
    (source / "b.tif").write_text("no image at all")
    (source / "notes.txt").write_text("of the first day")
    return source


def set_up(widget: Any, folder: Path, target: Path, *, steps: int = 3) -> None:
    recipe = folder.parent / "recipe.yaml"
    knitcore.save_recipe(knitcore.Inpaint(steps=steps, ensemble=1, knit_depth=0), recipe)
    widget.source.line.setText(str(folder))
    widget.mask_path.line.setText("value=0")
    widget.recipe.line.setText(str(recipe))
    widget.target.line.setText(str(target))
    widget.check()


def states(widget: Any) -> dict[str, str]:
    return {path.name: state for path, state in widget.states.items()}


def test_a_folder_is_worked_through_whatever_is_wrong_with_one_file(
    dock_task: Any,
    qtbot: Any,
    over: Wait,
    folder: Path,
    tmp_path: Path,
    messages: list[str],
) -> None:
    viewer, widget = dock_task(BatchWidget)
    target = tmp_path / "results"
    set_up(widget, folder, target)
    assert list(states(widget)) == ["a.tif", "b.tif", "c.tif"]
    widget.run_button.click()
    assert widget.stop_button.isEnabled()
    assert not widget.run_button.isEnabled()
    over(widget)

    assert states(widget) == {"a.tif": DONE, "b.tif": FAILED, "c.tif": DONE}
    assert "its content looks like text" in widget.table.item(1, 2).text()
    assert widget.summary.text() == "2 done · 1 failed"
    assert messages == []  # a file that fails is told in the table

    # the same pixels as by the function
    image = knitcore.read_image(folder / "a.tif")
    same = knitcore.inpaint(image, "value=0", knitcore.load_recipe(tmp_path / "recipe.yaml"))
    np.testing.assert_array_equal(knitcore.read_image(target / "a_inpainted.tif").data, same.image)

    # the file it wrote says all of it
    run_file = load_run(target / "knit-run.yaml", allow_outside=True)
    assert run_file.source.images == [str(folder)]
    assert run_file.source.mask == "value=0"

    widget.table.cellDoubleClicked.emit(0, 1)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=WAIT)
    assert [layer.name for layer in viewer.layers] == ["a.tif", "a_inpainted.tif"]


def test_stop_leaves_whole_files_and_run_goes_on(
    dock_task: Any, over: Wait, qtbot: Any, folder: Path, tmp_path: Path
) -> None:
    _, widget = dock_task(BatchWidget)
    target = tmp_path / "results"
    set_up(widget, folder, target)
    # nothing to fill in the first, and the second's fit would last for hours
    (folder / "b.tif").unlink()
    tifffile.imwrite(folder / "a.tif", np.full((30, 30), 7, np.uint16))
    large = np.arange(200 * 200, dtype=np.uint16).reshape(200, 200)
    large[50:150, 50:150] = 0
    tifffile.imwrite(folder / "c.tif", large)
    set_up(widget, folder, target, steps=100_000)
    widget.run_button.click()
    qtbot.waitUntil(lambda: states(widget)["a.tif"] == DONE, timeout=WAIT)
    widget.stop_button.click()
    widget.stop()
    over(widget)
    assert states(widget) == {"a.tif": DONE, "c.tif": STOPPED}
    assert sorted(file.name for file in target.iterdir() if file.name[0] != ".") == [
        "a_inpainted.tif",
        "a_inpainted.tif.knit.json",
        "knit-report.jsonl",
        "knit-run.yaml",
    ]
    assert widget.run_button.text() == "Resume"

    before = (target / "a_inpainted.tif").stat().st_mtime_ns
    shutil.copyfile(folder / "a.tif", folder / "c.tif")
    widget.run_button.click()
    over(widget)
    assert states(widget) == {"a.tif": DONE, "c.tif": DONE}
    assert (target / "a_inpainted.tif").stat().st_mtime_ns == before

    # a new session opens with the same inputs and finds what is done
    _, other = dock_task(BatchWidget)
    other.run_button.click()
    over(other)
    assert states(other) == {"a.tif": DONE, "c.tif": DONE}
    assert other.table.item(1, 2).text() == "done before"
    assert (target / "a_inpainted.tif").stat().st_mtime_ns == before


def test_what_is_missing_is_said_before_the_run(
    dock_task: Any, folder: Path, tmp_path: Path
) -> None:
    _, widget = dock_task(BatchWidget)
    said = widget.hint.text

    def check(line: Any, text: str) -> str:
        line.setText(text)
        widget.check()
        assert widget.run_button.isEnabled() == (said() == "")
        return str(said())

    widget.check()
    assert "Choose the folder of the images" in said()
    assert "no such folder" in check(widget.source.line, str(tmp_path / "absent"))
    assert "folder for the results" in check(widget.source.line, str(folder))
    assert "Choose another folder" in check(widget.target.line, str(folder))
    assert "what is to be filled" in check(widget.target.line, str(tmp_path / "out"))
    assert check(widget.mask_path.line, "hot") == ""
    assert "no image is called *.png" in check(widget.pattern, "*.png")
    assert check(widget.pattern, "a* c*") == ""
    assert list(states(widget)) == ["a.tif", "c.tif"]
    bad = tmp_path / "bad.yaml"
    bad.write_text("task: inpaint\nstepz: 3\n")
    assert "did you mean `steps`" in check(widget.recipe.line, str(bad))
    knitcore.save_recipe(knitcore.Denoise(), bad)
    assert "is for the task denoise, not inpaint" in check(widget.recipe.line, str(bad))
    widget.task_box.setCurrentText("denoise")
    assert said() == ""
    assert widget.mask_path.isHidden()


@pytest.mark.parametrize("mask", ["folder", "suffix:_m"])
def test_masks_beside_the_images_are_no_images(
    mask: str,
    dock_task: Any,
    over: Wait,
    folder: Path,
    tmp_path: Path,
    hole: np.ndarray,
    messages: list[str],
) -> None:
    _, widget = dock_task(BatchWidget)
    ending = "_mask" if mask == "folder" else "_m"
    for name in ("a", "b", "c"):
        tifffile.imwrite(folder / f"{name}{ending}.tif", hole)
    set_up(widget, folder, tmp_path / "results")
    widget.mask_path.line.setText(str(folder) if mask == "folder" else mask)
    widget.check()
    assert list(states(widget)) == ["a.tif", "b.tif", "c.tif"]
    widget.run_button.click()
    over(widget)
    assert states(widget) == {"a.tif": DONE, "b.tif": FAILED, "c.tif": DONE}
    assert widget.summary.text() == "2 done · 1 failed"
    assert messages == []


@pytest.mark.parametrize("mask", ["hotter", "above=abc", "/no/mask.tif"])
def test_a_mask_that_is_none_is_told_before_the_run(
    mask: str, dock_task: Any, folder: Path, tmp_path: Path
) -> None:
    _, widget = dock_task(BatchWidget)
    set_up(widget, folder, tmp_path / "results")
    widget.mask_path.line.setText(mask)
    widget.check()
    assert not widget.run_button.isEnabled()
    assert mask in widget.hint.text()
    assert "--" not in widget.hint.text()


def test_a_process_that_ends_early_is_told(
    dock_task: Any, over: Wait, folder: Path, tmp_path: Path, messages: list[str]
) -> None:
    _, widget = dock_task(BatchWidget)
    set_up(widget, folder, tmp_path / "results")
    # a label, where the mask is a word and has none
    recipe = knitcore.Inpaint(steps=3, ensemble=1, knit_depth=0, mask_label=1)
    knitcore.save_recipe(recipe, tmp_path / "recipe.yaml")
    widget.run()
    over(widget)
    assert set(states(widget).values()) == {STOPPED}
    assert "needs a mask image, not 'value=0'" in messages[0]
    assert widget.run_button.isEnabled()


def test_results_of_other_settings_are_replaced_only_on_request(
    dock_task: Any, over: Wait, folder: Path, tmp_path: Path
) -> None:
    _, widget = dock_task(BatchWidget)
    target = tmp_path / "results"
    (folder / "b.tif").unlink()
    (folder / "c.tif").unlink()
    tifffile.imwrite(folder / "a.tif", np.full((30, 30), 7, np.uint16))  # quick
    set_up(widget, folder, target)
    widget.run()
    over(widget)
    set_up(widget, folder, target, steps=4)
    assert states(widget) == {"a.tif": "waiting"}
    widget.run()
    over(widget)
    assert states(widget) == {"a.tif": FAILED}
    assert "exists" in widget.table.item(0, 2).text()
    widget.replace_box.setChecked(True)
    widget.run()
    over(widget)
    assert states(widget) == {"a.tif": DONE}


def test_a_reason_fits_its_cell(dock_task: Any, over: Wait, folder: Path, tmp_path: Path) -> None:
    _, widget = dock_task(BatchWidget)
    masks = tmp_path / "masks"
    masks.mkdir()
    tifffile.imwrite(masks / "c.tif", np.zeros((40, 48), np.uint8))
    set_up(widget, folder, tmp_path / "results")
    widget.mask_path.line.setText(str(masks))
    widget.check()
    widget.run()
    over(widget)
    told = widget.table.item(0, 2)
    assert told.text().startswith("no mask for a.tif in masks (")
    assert f"in {masks} (" in told.toolTip()  # whole


def test_the_process_ends_with_the_dock(
    dock_task: Any, qtbot: Any, folder: Path, tmp_path: Path
) -> None:
    viewer, widget = dock_task(BatchWidget, show=True)
    set_up(widget, folder, tmp_path / "results", steps=100_000)
    qtbot.waitUntil(widget.isVisible)
    widget.run_button.click()
    process = widget.process
    assert process.waitForStarted()
    pid = process.processId()
    viewer.window.remove_dock_widget(widget.parent())
    qtbot.waitUntil(lambda: not Path(f"/proc/{pid}").exists(), timeout=WAIT)


RUN = """
task: inpaint
steps: 3
ensemble: 1
knit_depth: 0
source:
  images: [scans]
  include: ["?.tif"]
  exclude: ["b.*"]
  recursive: true
  mask: value=0
target:
  folder: repaired
  save: [std]
  overwrite: true
executor:
  jobs: 1
  timeout: 600.0
"""


def test_a_run_file_that_is_dropped_on_napari_fills_it_in_and_is_kept_whole(
    make_napari_viewer: Any, plugin: str, over: Wait, folder: Path, tmp_path: Path
) -> None:
    folder.rename(tmp_path / "scans")
    (tmp_path / "scans" / "deeper").mkdir()
    (tmp_path / "scans" / "c.tif").rename(tmp_path / "scans" / "deeper" / "c.tif")
    file = tmp_path / "night.yaml"
    file.write_text(RUN)
    viewer = make_napari_viewer()
    assert viewer.open(str(file), plugin=None) == []
    widget = viewer.window.dock_widgets["Batch (Knitworks)"]
    assert widget.source.text == str(tmp_path / "scans")
    assert (widget.pattern.text(), widget.mask_path.text) == ("?.tif", "value=0")
    assert widget.target.text == str(tmp_path / "repaired")
    assert widget.replace_box.isChecked()
    assert sorted(states(widget)) == ["a.tif", "c.tif"]
    said = widget.summary.text()
    assert said == (
        "Filled in from night.yaml; from the file also: exclude ['b.*'], recursive, save ['std'], "
        "timeout 600.0."
    )
    widget.run()
    over(widget)
    assert states(widget) == {"a.tif": DONE, "c.tif": DONE}
    assert (tmp_path / "repaired" / "deeper" / "c_inpainted_std.tif").is_file()
    again = load_run(widget.run_path, allow_outside=True)
    told = load_run(file)
    assert again.recipe == told.recipe
    assert again.source == told.source
    assert again.executor == told.executor


def test_a_record_or_a_folder_can_be_dropped_on_it(
    dock_task: Any, folder: Path, tmp_path: Path, messages: list[str]
) -> None:
    from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
    from qtpy.QtGui import QDropEvent

    def drop(path: Path) -> None:
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path))])
        action, button = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
        none = Qt.KeyboardModifier.NoModifier
        widget.dropEvent(QDropEvent(QPointF(5, 5), action, data, button, none))

    _, widget = dock_task(BatchWidget)
    assert widget.acceptDrops()
    drop(folder)
    assert widget.source.text == str(folder)
    image = np.add.outer(np.arange(20), np.arange(24)).astype(np.uint16)
    result = knitcore.inpaint(image, image == 20, steps=2, knit_depth=0)
    record = tmp_path / "cells.tif.knit.json"
    record.write_text(json.dumps(result.record))
    drop(record)
    assert (widget.task_box.currentText(), widget.recipe.text) == ("inpaint", str(record))
    assert widget.make_recipe().steps == 2
    places = tmp_path / "places.yaml"
    places.write_text("task: denoise\nsource: {images: [a/x.tif, b/y.tif]}\n")
    drop(places)
    assert "2 places; here it can be one folder" in messages[0]
    assert widget.recipe.text == str(record)  # nothing of it is filled in


def test_keys_start_and_stop_a_batch_and_tab_goes_from_top_to_bottom(
    dock_task: Any, qtbot: Any, over: Wait, folder: Path, tmp_path: Path
) -> None:
    from qtpy.QtCore import Qt

    viewer, widget = dock_task(BatchWidget, show=True)
    set_up(widget, folder, tmp_path / "repaired", steps=100_000)
    qtbot.waitUntil(widget.isVisible)
    viewer.window._qt_window.activateWindow()
    line = widget.source.line
    line.setFocus()
    qtbot.waitUntil(line.hasFocus)
    heights, at = [], widget.task_box
    while at is not widget.stop_button:
        assert widget.isAncestorOf(at)
        if at.isVisible() and at.focusPolicy() & Qt.FocusPolicy.TabFocus.value:
            heights.append(at.mapTo(widget, at.rect().topLeft()).y())
        at = at.nextInFocusChain()
    assert len(heights) > 8
    assert heights == sorted(heights)
    qtbot.keyClick(line, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    assert widget.process is not None
    qtbot.keyClick(line, Qt.Key.Key_Escape)
    over(widget)
    assert STOPPED in states(widget).values()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_looks_like_this(
    make_napari_viewer: Any,
    open_from_menu: Any,
    qtbot: Any,
    over: Wait,
    folder: Path,
    tmp_path: Path,
    theme: str,
) -> None:
    """Also makes the pictures in the docs, as docs/napari.md says."""
    viewer = make_napari_viewer(show=True)
    viewer.theme = theme
    viewer.window._qt_window.resize(1100, 700)
    widget = open_from_menu(viewer, "Batch (Knitworks)")
    place = tmp_path / "day 1"
    folder.rename(place)
    update = os.environ.get("KNIT_UPDATE_SCREENSHOTS")
    set_up(widget, place, tmp_path / "repaired", steps=50 if update else 3)
    if update:
        samples = ROOT / "knitcore" / "samples"
        shutil.copyfile(samples / "damaged_micrograph.tif", place / "neuron.tif")
        (place / "a.tif").unlink()
        masks = tmp_path / "masks"
        masks.mkdir()
        shutil.copyfile(samples / "damaged_micrograph_mask.png", masks / "neuron.png")
        tifffile.imwrite(masks / "c.tif", (tifffile.imread(place / "c.tif") == 0).view(np.uint8))
        widget.mask_path.line.setText(str(masks))
        widget.check()
    qtbot.waitUntil(widget.isVisible)
    widget.run_button.click()
    over(widget)
    widget.table.cellDoubleClicked.emit(2 if update else 0, 1)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=WAIT)
    qtbot.wait(300)
    file = tmp_path / "widget.png"
    window = viewer.screenshot(str(file), canvas_only=False, flash=False)
    assert len(np.unique(window.reshape(-1, 4), axis=0)) > 100
    assert widget.minimumSizeHint().width() < 420
    if update:
        shutil.copy(file, ROOT / "docs" / "images" / f"widget_batch_{theme}.png")
