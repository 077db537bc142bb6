"""Preferences, inputs remembered between sessions, and results that are saved by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knitcore
from knit_plugin import _cache
from knit_plugin._recipe_form import RecipeForm
from knit_plugin._settings import (
    Preferences,
    autosave,
    keep_inputs,
    last_inputs,
    preferences,
    set_inputs,
    settings_folder,
)
from knitcore.recipe import PRESETS, Inpaint


@pytest.fixture
def page(plugin: str) -> Any:
    """The plugin's page of napari's preferences."""
    settings = pytest.importorskip("napari.settings")
    if not hasattr(settings, "get_plugin_settings"):
        pytest.skip("napari before 0.9 has no preferences of plugins")
    return settings.get_plugin_settings(plugin)


def test_the_page_has_the_defaults_the_code_has(page: Any) -> None:
    assert preferences() == Preferences()


def test_what_is_set_on_the_page_counts_and_is_kept(page: Any, own_settings: Path) -> None:
    page.compute.device = "cpu"
    page.files.autosave_folder = " /data/results "
    assert preferences().device == "cpu"
    assert preferences().autosave_folder == "/data/results"
    assert "cpu" in (own_settings / "napari-knitworks.yaml").read_text()


def test_the_page_can_be_opened(make_napari_viewer: Any, plugin: str, qtbot: Any) -> None:
    from napari._qt.dialogs.preferences_dialog import PreferencesDialog

    viewer = make_napari_viewer()
    dialog = PreferencesDialog(parent=viewer.window._qt_window)
    qtbot.addWidget(dialog)
    titles = [dialog._list.item(i).text() for i in range(dialog._list.count())]
    assert any("Knitworks" in title for title in titles)


def test_inputs_are_kept_between_sessions(plugin: str, own_settings: Path) -> None:
    assert settings_folder() == own_settings
    assert last_inputs("inpaint") == {}
    keep_inputs("inpaint", {"steps": 70, "mask_label": None})
    keep_inputs("denoise", {"sigma": 2.5})
    assert last_inputs("inpaint") == {"steps": 70, "mask_label": None}
    assert last_inputs("denoise") == {"sigma": 2.5}
    assert [file.name for file in own_settings.iterdir()] == ["napari-knitworks-inputs.json"]


def test_nothing_is_kept_if_the_user_says_so(page: Any) -> None:
    keep_inputs("inpaint", {"steps": 70})
    page.inputs.remember = False
    assert last_inputs("inpaint") == {}
    keep_inputs("inpaint", {"steps": 80})
    page.inputs.remember = True
    assert last_inputs("inpaint") == {"steps": 70}


def test_a_torn_file_or_no_place_to_write_stops_nothing(plugin: str, own_settings: Path) -> None:
    keep_inputs("inpaint", {"steps": 70})
    (own_settings / "napari-knitworks-inputs.json").write_text('{"inpaint": {"ste')
    assert last_inputs("inpaint") == {"steps": 70}  # this session still knows
    (own_settings / "napari-knitworks-inputs.json").unlink()
    own_settings.rmdir()
    own_settings.write_text("a file in the folder's place")
    keep_inputs("inpaint", {"steps": 90})
    assert last_inputs("inpaint") == {"steps": 90}


def test_kept_inputs_of_another_version_are_left_out(qtbot: Any) -> None:
    form = RecipeForm(Inpaint, PRESETS["inpaint"], ("preset", "seed", "device"), ("steps",))
    qtbot.addWidget(form)
    kept = {"steps": 70, "preset": "fast", "seed": "many", "device": "tpu", "colour": 3}
    assert sorted(set_inputs(form.inputs, kept)) == ["colour", "device", "seed"]
    # the preset was set first, so that it did not undo the steps
    assert form.values() == {"preset": "fast", "seed": 0, "device": "auto", "steps": 70}


def test_results_are_saved_beside_each_other_with_their_records(tmp_path: Path) -> None:
    image = np.add.outer(np.arange(20), np.arange(24)).astype(np.uint16)
    result = knitcore.inpaint(image, image == 20, steps=2, knit_depth=0)
    problems: list[str] = []
    assert autosave(result, "cells (inpainted)", "", problems.append) is None  # no folder chosen
    folder = str(tmp_path / "new" / "results")
    first = autosave(result, "a/b: cells (inpainted)", folder, problems.append)
    second = autosave(result, "a/b: cells (inpainted)", folder, problems.append)
    assert first is not None
    assert second is not None
    assert [first.name, second.name] == [
        "a_b_ cells (inpainted).tif",
        "a_b_ cells (inpainted) 2.tif",
    ]
    np.testing.assert_array_equal(knitcore.read_image(second).data, result.image)
    assert first.with_name(first.name + ".knit.json").exists()
    assert problems == []

    (tmp_path / "file").write_text("")
    assert autosave(result, "cells", str(tmp_path / "file"), problems.append) is None
    assert "not autosaved" in problems[0]


# in the widgets


def test_a_widget_opens_with_the_inputs_of_the_last_run(
    dock: Any, finish: Any, page: Any, slope: np.ndarray, hole: np.ndarray, tmp_path: Path
) -> None:
    from knit_plugin.inpaint_widget import InpaintWidget

    page.files.autosave_folder = str(tmp_path / "saved")
    page.compute.device = "cpu"
    viewer, widget = dock(steps=3)
    assert widget.form.values()["device"] == "cpu"
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.form.inputs["margin"].value = 9
    widget.mask_form.inputs["mask_label"].value = 2
    widget.panel.run_button.click()
    finish(widget)
    saved = knitcore.read_image(tmp_path / "saved" / "cells (inpainted).tif")
    np.testing.assert_array_equal(saved.data, viewer.layers["cells (inpainted)"].data)

    other = InpaintWidget(viewer)
    viewer.window.add_dock_widget(other, name="other")
    fields = other.fields()
    assert (fields["steps"], fields["margin"], fields["device"]) == (3, 9, "cpu")
    assert fields["mask_label"] is None  # belongs to that one image


def test_a_run_that_takes_much_memory_asks_first(
    dock: Any,
    finish: Any,
    slope: np.ndarray,
    hole: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qtpy.QtWidgets import QMessageBox

    from knit_plugin import _settings

    asked: list[str] = []
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]

    def question(parent: Any, title: str, text: str) -> Any:
        asked.append(text)
        return answers.pop(0)

    monkeypatch.setattr(QMessageBox, "question", question)
    monkeypatch.setattr(_settings, "preferences", lambda: Preferences(ask_above_gb=1e-6))
    viewer, widget = dock(steps=3)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.panel.run_button.click()
    assert widget.job is None
    assert "GB. Go on?" in asked[0]
    widget.panel.run_button.click()
    finish(widget)
    assert "cells (inpainted)" in viewer.layers


def test_the_device_of_the_page_counts_more_than_the_last_run(page: Any, dock_task: Any) -> None:
    keep_inputs("inpaint", {"device": "auto", "seed": 5})
    page.compute.device = "cpu"
    from knit_plugin.inpaint_widget import InpaintWidget

    _, widget = dock_task(InpaintWidget)
    assert widget.form.inputs["device"].value == "cpu"
    assert widget.form.inputs["seed"].value == 5


def test_the_precision_of_the_page_is_what_widgets_offer_first(page: Any, dock_task: Any) -> None:
    from knit_plugin.denoise_widget import DenoiseWidget

    page.compute.precision = "bfloat16"
    _, widget = dock_task(DenoiseWidget)
    assert widget.form.inputs["precision"].value == "bfloat16"
    assert widget.recipe().precision == "bfloat16"
    keep_inputs("denoise", {"precision": "bfloat16", "device": "cpu"})
    page.compute.precision = "float32"  # set back: what the last run had does not come again
    _, other = dock_task(DenoiseWidget)
    assert other.recipe().precision == "float32"
    assert other.recipe().device == "auto"


# the cache


def test_without_a_cache_nothing_is_kept(
    dock: Any, finish: Any, page: Any, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock(steps=2)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    for _ in range(2):
        widget.panel.run_button.click()
        finish(widget)
        assert "cache" not in widget.panel.summary.text()
    assert not _cache._results


def test_the_same_run_again_comes_from_the_cache(
    dock: Any, finish: Any, page: Any, slope: np.ndarray, hole: np.ndarray
) -> None:
    page.files.cache_mb = 10
    viewer, widget = dock(steps=2)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(hole)
    widget.panel.run_button.click()
    finish(widget)
    first = viewer.layers["cells (inpainted)"]
    pixels = first.data.copy()
    first.data[:] = 0  # edited by the user: their layer, not what is kept
    viewer.layers["cells (synthesised)"].data[:] = 0
    viewer.layers["cells"].name = "renamed"
    widget.panel.run_button.click()
    finish(widget)
    assert "From the cache" in widget.panel.summary.text()
    again = viewer.layers["renamed (inpainted)"]
    np.testing.assert_array_equal(again.data, pixels)
    np.testing.assert_array_equal(viewer.layers["renamed (synthesised)"].data, hole > 0)
    assert again.metadata["knitworks"]["image"]["name"] == "renamed"

    slope[0, 0] += 1  # another pixel, another run
    widget.panel.run_button.click()
    finish(widget)
    assert "cache" not in widget.panel.summary.text()
    widget.form.inputs["seed"].value = 1
    widget.panel.run_button.click()
    finish(widget)
    assert "cache" not in widget.panel.summary.text()


def test_the_oldest_results_make_room(slope: np.ndarray, hole: np.ndarray) -> None:
    results = [knitcore.inpaint(slope, hole, steps=1, seed=seed) for seed in range(3)]
    size = results[0].image.nbytes + results[0].std.nbytes + results[0].synthesised.nbytes
    for number, result in enumerate(results):
        _cache.keep_result(str(number), result, 2.5 * size / 1e6)
    source = results[0].source
    assert [_cache.kept_result(key, source) is None for key in "012"] == [True, False, False]
    _cache.kept_result("1", source)  # asked for, so that 2 is the oldest now
    _cache.keep_result("0", results[0], 2.5 * size / 1e6)
    assert list(_cache._results) == ["1", "0"]
    _cache.trim(1.5 * size / 1e6)
    assert list(_cache._results) == ["0"]
    _cache.keep_result("big", results[0], 0.5 * size / 1e6)  # room for none
    assert not _cache._results
