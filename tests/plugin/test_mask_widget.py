"""The widget that makes masks, in a real viewer: from the image, from layers, grown and shrunk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from knit_plugin.mask_widget import SOURCES, MaskWidget
from knitcore import grow_mask

ROOT = Path(__file__).parents[2]

Make = Callable[[Any], Any]


@pytest.fixture
def made(qtbot: Any) -> Make:
    """Press the button, wait, and return the topmost layer."""

    def press(widget: Any) -> Any:
        widget.button.click()
        qtbot.waitUntil(lambda: not widget._work.busy, timeout=60_000)
        qtbot.waitUntil(lambda: widget.summary.text() != "working…")
        return widget.viewer.layers[-1]

    return press


def choose(widget: Any, source: str, value: float = 0.0) -> None:
    widget.source_box.setCurrentText(source)
    widget.value_box.setValue(value)


def test_every_source_makes_labels_where_the_image_says_so(
    dock_task: Any, made: Make, slope: np.ndarray
) -> None:
    image = slope.copy()
    image[3:5, 7], image[20, 30], image[8, 8] = 0, 65535, 40000
    viewer, widget = dock_task(MaskWidget)
    place = {"scale": (0.2, 0.2), "translate": (5, -2), "rotate": 20, "units": ("um", "um")}
    source = viewer.add_image(image, name="cells", **place)
    for text, value, expected in [
        ("saturated pixels", 0, image == 65535),
        ("zero", 0, image == 0),
        ("above a value", 30000, image > 30000),
        ("below a value", 1000, image < 1000),
        ("hot and dead pixels", 0, (image > 30000) | (image == 0)),
    ]:
        choose(widget, text, value)
        labels = made(widget)
        assert labels.name == "cells (mask)"
        np.testing.assert_array_equal(labels.data, expected, text)
        np.testing.assert_allclose(
            labels.data_to_world((7, 11)), source.data_to_world((7, 11)), atol=1e-9
        )
        assert labels.units == source.units
    assert len(viewer.layers) == 2  # one mask, made anew each time
    np.testing.assert_array_equal(source.data, image)


def test_nan_and_transparent_pixels(dock_task: Any, made: Make) -> None:
    viewer, widget = dock_task(MaskWidget)
    holes = np.ones((12, 14), np.float32)
    holes[2, 3] = np.nan
    viewer.add_image(holes)
    choose(widget, "NaN and infinite")
    assert np.argwhere(made(widget).data).tolist() == [[2, 3]]
    colours = np.full((12, 14, 4), 255, np.uint8)
    colours[5, 6, 3] = 0
    layer = viewer.add_image(colours, rgb=True)
    widget.image_box.layer = layer
    choose(widget, "transparent (alpha 0)")
    labels = made(widget)
    assert labels.data.shape == (12, 14)
    assert np.argwhere(labels.data).tolist() == [[5, 6]]


def test_shapes_points_and_one_label_become_a_mask(
    dock_task: Any, made: Make, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock_task(MaskWidget)
    viewer.add_image(slope, name="cells")
    layers = [
        (viewer.add_labels(hole), hole > 0),
        (viewer.add_shapes([[[2, 3], [2, 9], [6, 9], [6, 3]]], shape_type="rectangle"), None),
        (viewer.add_points([[10, 10], [30, 20]], size=5), None),
    ]
    choose(widget, "a layer: Labels, Shapes, Points")
    for layer, expected in layers:
        widget.layer_box.layer = layer
        mask = made(widget).data
        assert mask.any()
        if expected is not None:
            np.testing.assert_array_equal(mask, expected)
    assert mask[10, 10]
    assert mask[10, 12]
    assert not mask[10, 13]  # a disc of diameter 5
    widget.layer_box.layer = layers[0][0]
    widget.label_box.value = 2
    np.testing.assert_array_equal(made(widget).data, hole == 2)
    widget.label_box.value = 9
    assert "has no label 9" in _text(made, widget)


def _text(made: Make, widget: Any) -> str:
    made(widget)
    return widget.summary.text()


def test_masks_grow_and_shrink(
    dock_task: Any, made: Make, slope: np.ndarray, hole: np.ndarray
) -> None:
    viewer, widget = dock_task(MaskWidget)
    viewer.add_image(slope)
    viewer.add_labels(hole)
    choose(widget, "a layer: Labels, Shapes, Points")
    for pixels in (3, -2):
        widget.grow_box.setValue(pixels)
        np.testing.assert_array_equal(made(widget).data, grow_mask(hole, pixels))


def test_a_mask_the_user_painted_on_is_left_alone(
    dock_task: Any, made: Make, slope: np.ndarray
) -> None:
    viewer, widget = dock_task(MaskWidget)
    viewer.add_image(slope, name="cells")
    choose(widget, "below a value", 1100)
    first = made(widget)
    first.data[0, 0] = 7
    first.refresh()
    painted = first.data.copy()
    second = made(widget)
    assert second is not first
    np.testing.assert_array_equal(first.data, painted)


def test_its_own_mask_is_replaced_though_the_name_was_taken(
    dock_task: Any, made: Make, slope: np.ndarray
) -> None:
    viewer, widget = dock_task(MaskWidget)
    viewer.add_image(slope, name="cells")
    viewer.add_labels(np.zeros(slope.shape, np.uint8), name="cells (mask)")
    widget.image_box.layer = viewer.layers["cells"]
    widget.source_box.setCurrentText("above a value")
    widget.value_box.setValue(1500)
    for grow in (0, 1, 2):
        widget.grow_box.setValue(grow)
        made(widget)
    assert [layer.name for layer in viewer.layers] == ["cells", "cells (mask)", "cells (mask) [1]"]
    widget.value_box.setValue(1e6)
    made(widget)
    assert "The earlier mask stays as it was." in widget.summary.text()


def test_messages_speak_of_no_options(
    dock_task: Any, made: Make, slope: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock_task(MaskWidget)
    viewer.add_image(slope.astype(np.float32), name="cells")
    widget.source_box.setCurrentText("saturated pixels")
    made(widget)
    assert messages == ["error: cells: float32 has no saturation level; mark a value instead"]


def test_a_2d_mask_of_a_stack_is_told_to_serve_each_plane(dock_task: Any, made: Make) -> None:
    viewer, widget = dock_task(MaskWidget)
    stack = viewer.add_image(
        np.ones((3, 10, 12), np.uint8), scale=(2, 0.5, 0.5), translate=(9, 1, 2)
    )
    plane = np.zeros((10, 12), np.uint8)
    plane[4, 5] = 1
    viewer.add_labels(plane, scale=(0.5, 0.5), translate=(1, 2))
    choose(widget, "a layer: Labels, Shapes, Points")
    labels = made(widget)
    assert labels.data.shape == (10, 12)
    assert "serves each of 3 planes" in widget.summary.text()
    np.testing.assert_allclose(labels.data_to_world((4, 5)), stack.data_to_world((0, 4, 5))[1:])


def test_what_marks_nothing_adds_no_layer_and_says_so(
    dock_task: Any, made: Make, slope: np.ndarray
) -> None:
    viewer, widget = dock_task(MaskWidget)
    assert not widget.button.isEnabled()
    assert "Open an image" in widget.hint.text()
    viewer.add_image(slope, name="cells")
    assert widget.button.isEnabled()
    choose(widget, "saturated pixels")
    made(widget)
    assert len(viewer.layers) == 1
    assert "Nothing to mark" in widget.summary.text()
    assert "the highest value is" in widget.summary.text()


def test_only_the_rows_that_count_are_shown(dock_task: Any, slope: np.ndarray) -> None:
    _, widget = dock_task(MaskWidget)
    for text, word in SOURCES.items():
        widget.source_box.setCurrentText(text)
        assert widget.value_box.isHidden() != word.endswith("=")
        assert widget.layer_box.isHidden() != (word == "layer")


def test_points_are_filled_by_the_inpainting_widget(
    dock: Any, finish: Any, slope: np.ndarray
) -> None:
    viewer, widget = dock()
    viewer.add_image(slope, name="cells")
    viewer.add_points([[20, 20]], size=7)
    widget.panel.run_button.click()
    finish(widget)
    changed = viewer.layers["cells (synthesised)"].data
    assert changed[20, 17:24].all()
    assert 30 < changed.sum() < 45


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_looks_like_this(
    make_napari_viewer: Any, open_from_menu: Any, qtbot: Any, made: Make, tmp_path: Path, theme: str
) -> None:
    """Also makes the pictures in the docs, as docs/napari.md says."""
    viewer = make_napari_viewer(show=True)
    viewer.theme = theme
    viewer.window._qt_window.resize(1100, 700)
    image = tifffile.imread(ROOT / "tests" / "data" / "twochannel_hotpixel_crop.tif")[0]
    viewer.add_image(image, name="Membranes", contrast_limits=(0, 80))
    widget = open_from_menu(viewer, "Make a mask (Knitworks)")
    choose(widget, "hot and dead pixels")
    widget.grow_box.setValue(3)
    qtbot.waitUntil(widget.isVisible)
    made(widget)
    qtbot.wait(300)
    file = tmp_path / "widget.png"
    window = viewer.screenshot(str(file), canvas_only=False, flash=False)
    assert len(np.unique(window.reshape(-1, 4), axis=0)) > 100
    assert widget.minimumSizeHint().width() < 420
    if os.environ.get("KNIT_UPDATE_SCREENSHOTS"):
        shutil.copy(file, ROOT / "docs" / "images" / f"widget_mask_{theme}.png")
