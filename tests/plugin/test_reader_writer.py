"""Files dropped onto napari that hold settings, and layers saved with pixel size and units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array
import napari.layers as nl
import numpy as np
import pytest

import knitcore
from knit_plugin._reader import looks_like_ours, settings_reader
from knit_plugin._writer import write_image

# settings


def test_a_record_opens_the_widget_with_its_settings(
    make_napari_viewer: Any, plugin: str, tmp_path: Path, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer = make_napari_viewer()
    result = knitcore.inpaint(slope, hole, seed=7, steps=3, ensemble=2, margin=9, mask_label=2)
    record = tmp_path / "cells.tif.knit.json"
    record.write_text(json.dumps(result.record))
    assert viewer.open(str(record), plugin=None) == []
    widget = viewer.window.dock_widgets["Inpaint (Knitworks)"]
    fields = widget.recipe().model_dump()
    assert (fields["seed"], fields["steps"], fields["ensemble"]) == (7, 3, 2)
    assert (fields["margin"], fields["mask_label"]) == (9, 2)

    # run from these inputs, the same pixels come out
    again = knitcore.inpaint(slope, hole, widget.recipe())
    np.testing.assert_array_equal(again.image, result.image)

    viewer.open(str(record), plugin=None)
    assert list(viewer.window.dock_widgets) == ["Inpaint (Knitworks)"]  # no second one


@pytest.mark.parametrize(
    ("task", "title", "fields"),
    [
        ("denoise", "Denoise (Knitworks)", {"sigma": 12.5, "blind_spot": "x"}),
        ("super-resolve", "Super-resolve (Knitworks)", {"scale": "3"}),
    ],
)
def test_recipes_of_each_task_open_theirs(
    make_napari_viewer: Any, plugin: str, tmp_path: Path, task: Any, title: str, fields: Any
) -> None:
    viewer = make_napari_viewer()
    recipe = knitcore.recipe.make_recipe(task, **fields)
    file = tmp_path / "mine.yaml"
    knitcore.save_recipe(recipe, file)
    viewer.open(str(file), plugin=None)
    widget = viewer.window.dock_widgets[title]
    shown = widget.recipe()
    for name in fields:
        assert getattr(shown, name) == getattr(recipe, name)


def test_fields_without_an_input_count_too(
    make_napari_viewer: Any, plugin: str, tmp_path: Path
) -> None:
    from knit_plugin.inpaint_widget import ADVANCED, BASIC, MASK_FIELDS

    hidden = [
        name
        for name, field in knitcore.Inpaint.model_fields.items()
        if name not in {*BASIC, *ADVANCED, *MASK_FIELDS, "task"} and field.annotation is int
    ]
    name = hidden[0]
    value = getattr(knitcore.Inpaint(), name) + 1
    file = tmp_path / "rare.yaml"
    file.write_text(f"task: inpaint\n{name}: {value}\n")
    viewer = make_napari_viewer()
    viewer.open(str(file), plugin=None)
    widget = viewer.window.dock_widgets["Inpaint (Knitworks)"]
    assert getattr(widget.recipe(), name) == value


@pytest.mark.parametrize(
    "text", ["", "services:\n  web: nginx\n", "{", "- a\n- b\n", "task: cook dinner\n", "\0\1\2"]
)
def test_files_of_others_are_left_to_them(tmp_path: Path, text: str) -> None:
    for name in ("other.yaml", "other.json"):
        file = tmp_path / name
        file.write_text(text)
        assert settings_reader(str(file)) is None
    assert settings_reader([str(file), str(file)]) is None
    assert settings_reader(str(tmp_path / "absent.yaml")) is None


def test_ours_with_a_mistake_in_it_says_which(
    make_napari_viewer: Any, plugin: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: inpaint\nstepz: 30\n")
    assert looks_like_ours(file)
    with pytest.raises(Exception, match=r"Tried opening") as caught:
        make_napari_viewer().open(str(file), plugin=None)
    assert "did you mean `steps`" in str(caught.value.__cause__)


# layers


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".ome.zarr"])
def test_an_image_is_saved_with_pixel_size_units_and_axes(
    plugin: str, tmp_path: Path, suffix: str
) -> None:
    stack = np.arange(4 * 6 * 7, dtype=np.uint16).reshape(4, 6, 7)
    layer = nl.Image(
        stack, scale=(2, 0.25, 0.5), units=("um", "um", "um"), axis_labels=("z", "y", "x")
    )
    path = tmp_path / f"cells{suffix}"
    assert layer.save(str(path), plugin=plugin) == [str(path)]
    image = knitcore.read_image(path)
    np.testing.assert_array_equal(image.data, stack)
    assert image.axes == "ZYX"
    assert image.pixel_size == pytest.approx({"Z": 2, "Y": 0.25, "X": 0.5}, rel=1e-4)
    assert set(image.unit.values()) <= {"micrometer", "µm", "um", "micron"}


def test_without_calibration_none_is_invented(plugin: str, tmp_path: Path) -> None:
    layer = nl.Image(np.ones((5, 6), np.uint8))
    layer.save(str(tmp_path / "a.tif"), plugin=plugin)
    assert knitcore.read_image(tmp_path / "a.tif").pixel_size == {}


def test_lazy_multiscale_and_colour_layers_are_saved(plugin: str, tmp_path: Path) -> None:
    fine = dask.array.from_array(np.arange(80, dtype=np.uint16).reshape(8, 10))
    pyramid = nl.Image([fine, fine[::2, ::2]], multiscale=True, scale=(0.5, 0.5))
    pyramid.save(str(tmp_path / "p.tif"), plugin=plugin)
    np.testing.assert_array_equal(knitcore.read_image(tmp_path / "p.tif").data, fine.compute())
    colours = np.arange(6 * 7 * 4, dtype=np.uint8).reshape(6, 7, 4)
    nl.Image(colours, rgb=True).save(str(tmp_path / "c.png"), plugin=plugin)
    image = knitcore.read_image(tmp_path / "c.png")
    np.testing.assert_array_equal(image.data, colours)
    assert image.alpha


def test_labels_are_saved_in_the_smallest_type_that_holds_them(plugin: str, tmp_path: Path) -> None:
    for highest, dtype in ((1, np.uint8), (300, np.uint16), (70_000, np.int32)):
        labels = np.zeros((6, 7), np.int32)
        labels[2, 3] = highest
        layer = nl.Labels(labels, scale=(0.1, 0.1), units=("um", "um"))
        path = tmp_path / f"{highest}.tif"
        layer.save(str(path), plugin=plugin)
        image = knitcore.read_mask(path)
        assert image.dtype == dtype
        np.testing.assert_array_equal(image.data, labels)
        assert image.pixel_size["X"] == pytest.approx(0.1, rel=1e-4)


def test_what_a_file_cannot_hold_is_told(
    plugin: str, tmp_path: Path, messages: list[str], make_napari_viewer: Any
) -> None:
    make_napari_viewer()
    nl.Image(np.ones((6, 7), np.uint8), rotate=30).save(str(tmp_path / "r.tif"), plugin=plugin)
    assert any("but not rotate" in text for text in messages)
    with pytest.raises(Exception, match="PNG"):
        nl.Image(np.ones((3, 6, 7), np.uint8)).save(str(tmp_path / "s.png"), plugin=plugin)
    assert not (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("units", "suffix", "lost"),
    [
        (("um", "um", "um"), ".ome.zarr", None),
        (("pixel",) * 3, ".ome.zarr", None),
        (("um", "um", "um"), ".tif", "the pixel size along Q"),
        (("pixel",) * 3, ".tif", "the pixel size"),
    ],
)
def test_a_pixel_size_that_a_format_forgets_is_told(
    tmp_path: Path, messages: list[str], units: tuple[str, ...], suffix: str, lost: str | None
) -> None:
    stack = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
    told = {"scale": (2.0, 0.5, 0.5), "units": units, "name": "stack"}
    path = str(tmp_path / f"stack{suffix}")
    assert write_image(path, stack, told) == [path]
    expected = (
        []
        if lost is None
        else [f"warning: {path}: this format does not keep {lost}; .ome.zarr does"]
    )
    assert messages == expected
