"""The super-resolution widget in a real viewer; what all tasks share is tested with inpainting."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import napari.layers as nl
import numpy as np
import pytest
import tifffile

import knitcore
from knit_plugin._layers import take
from knit_plugin._results import nearest, place_of
from knit_plugin._run_panel import without_options

ROOT = Path(__file__).parents[2]
QUICK = {"passes": 1, "window": 4, "group": 16}

Dock = Callable[..., tuple[Any, Any]]
Wait = Callable[[Any], None]


@pytest.fixture
def dock(dock_task: Dock) -> Dock:
    """Dock the widget in a viewer, set to a second or two of work."""

    def open_widget(viewer: Any = None, *, show: bool = False, **fields: Any) -> tuple[Any, Any]:
        from knit_plugin.super_resolve_widget import SuperResolveWidget

        viewer, widget = dock_task(SuperResolveWidget, viewer, show=show)
        for name, value in {**QUICK, "kernel": "gaussian:1", **fields}.items():
            widget.form.inputs[name].value = value
        return viewer, widget

    return open_widget


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def run(widget: Any) -> None:
    widget.panel.run_button.click()


# where it lies

PLACES: list[dict[str, Any]] = [
    {},
    {"scale": (0.5, 0.25), "translate": (7, -3)},
    {"scale": (0.5, 0.25), "translate": (7, -3), "rotate": 30},
    {
        "scale": (2, 3),
        "rotate": -70,
        "shear": [0.3],
        "affine": [[1, 0.2, 5], [0.1, 2, 6], [0, 0, 1]],
    },
]
STACKS: list[dict[str, Any]] = [
    {"scale": (2, 0.5, 0.25), "translate": (1, 2, 3)},
    {"scale": (2, 0.5, 0.25), "rotate": (10, 20, 30)},
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("factors", [(2.0, 2.0), (1.5, 3.7), (1.0, 1.0)])
def test_an_enlarged_layer_covers_its_source(
    place: dict[str, Any], factors: tuple[float, ...]
) -> None:
    _check_place(nl.Image(np.zeros((10, 20)), **place), factors)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
@pytest.mark.parametrize("place", STACKS)
@pytest.mark.parametrize("factors", [(1.0, 2.0, 2.0), (3.0, 1.0, 1.25)])
def test_an_enlarged_stack_covers_its_source(
    place: dict[str, Any], factors: tuple[float, ...]
) -> None:
    _check_place(nl.Image(np.zeros((4, 10, 20)), **place), factors)


def _check_place(source: nl.Image, factors: tuple[float, ...]) -> None:
    place = place_of(take(source), factors)
    sides = np.rint(np.array(source.data.shape) * factors).astype(int)
    finer = nl.Image(np.zeros(sides), **place)
    for pixel in ([0] * source.ndim, sides - 1, [3, 5, 1][: source.ndim]):
        over = (np.array(pixel) + 0.5) / factors - 0.5
        np.testing.assert_allclose(finer.data_to_world(pixel), source.data_to_world(over))
    np.testing.assert_allclose(finer.scale, source.scale / np.array(factors))
    corner = nl.Image(np.zeros(sides), **place_of(take(source), factors, "corner"))
    np.testing.assert_allclose(
        corner.data_to_world(sides - 1), source.data_to_world((sides - 1) / factors)
    )


def test_a_feature_stays_where_it_is_in_the_world(dock: Dock, finish: Wait) -> None:
    y, x = np.mgrid[:24, :30]
    spot = (1000 * np.exp(-((y - 9) ** 2 + (x - 17) ** 2) / 8)).astype(np.float32)

    def seen_at(layer: Any) -> np.ndarray:
        weights = np.clip(layer.data - 50, 0, None)
        grid = np.indices(weights.shape).reshape(weights.ndim, -1)
        centre = grid @ weights.ravel() / weights.sum()
        return np.asarray(layer.data_to_world(centre))

    viewer, widget = dock()
    for scale, anchor, place in (
        ("2", "centre", PLACES[1]),
        ("1.5", "centre", PLACES[2]),
        ("3", "corner", PLACES[2]),
    ):
        viewer.layers.clear()
        source = viewer.add_image(spot, name="spot", units=("um", "um"), **place)
        widget.form.inputs["scale"].value = scale
        widget.form.inputs["anchor"].value = anchor
        run(widget)
        finish(widget)
        finer = viewer.layers[f"spot (x{scale})"]
        np.testing.assert_allclose(seen_at(finer), seen_at(source), atol=0.1 * 0.25)
        assert finer.units == source.units


# what comes out


def test_a_run_adds_the_enlarged_image_and_its_std(
    dock: Dock, finish: Wait, slope: np.ndarray
) -> None:
    viewer, widget = dock(seed=5)
    viewer.add_image(slope, name="cells", contrast_limits=(900, 1700), colormap="viridis")
    assert widget.hint.text() == "40 × 48 to 80 × 96 uint16, about 0.073 MB for the layers"
    run(widget)
    finish(widget)

    assert names(viewer) == ["cells", "cells (x2)", "cells (std)"]
    finer, std = list(viewer.layers)[1:]
    same = knitcore.super_resolve(slope, 2, "gaussian:1", seed=5, **QUICK)
    np.testing.assert_array_equal(finer.data, same.image)
    assert finer.data.shape == (80, 96)
    assert finer.data.dtype == np.uint16
    np.testing.assert_array_equal(std.data, same.std)
    assert not std.visible
    assert finer.contrast_limits == [900, 1700]
    assert finer.colormap.name == "viridis"
    for layer in (finer, std):
        np.testing.assert_allclose(layer.scale, (0.5, 0.5))
        np.testing.assert_allclose(layer.translate, (-0.25, -0.25))

    record = finer.metadata["knitworks"]
    assert record["recipe"]["kernel"] == "gaussian:1"
    np.testing.assert_allclose(record["kernel"]["values"], same.kernel)
    summary = widget.panel.summary.text().splitlines()[0]
    assert summary.startswith("Enlarged 40 × 48 to 80 × 96 in ")
    assert "; kernel gaussian 1 × 1 px; " in summary
    assert "; degrading it again leaves " in summary
    picture = widget.panel.picture
    assert picture.isVisibleTo(widget)
    assert 40 < picture.pixmap().width() <= 129
    assert "pixels of the result" in picture.toolTip()


def test_the_kernel_is_a_layer_when_it_is_wanted(
    dock: Dock, finish: Wait, slope: np.ndarray
) -> None:
    viewer, widget = dock()
    source = viewer.add_image(slope, name="cells", **PLACES[2])
    widget.kernel_box.setChecked(True)
    run(widget)
    finish(widget)
    kernel = viewer.layers["cells (kernel)"]
    assert kernel.data.sum() == pytest.approx(1, abs=1e-3)
    assert not kernel.visible
    middle = (np.array(kernel.data.shape) - 1) / 2
    centre = kernel.data_to_world(middle)
    np.testing.assert_allclose(centre, source.data_to_world((19.5, 23.5)))
    finer = viewer.layers["cells (x2)"]
    step = np.array(kernel.data_to_world(middle + np.array((0, 1)))) - centre
    there = np.array(finer.data_to_world((0, 1))) - finer.data_to_world((0, 0))
    np.testing.assert_allclose(step, there)


def test_each_axis_of_a_stack_has_its_factor(dock: Dock, finish: Wait, slope: np.ndarray) -> None:
    stack = np.stack([slope[:16, :20] + 9 * i for i in range(3)])
    viewer, widget = dock(scale="1x2x3")
    viewer.add_image(stack, name="stack", axis_labels=("z", "y", "x"), scale=(2, 0.5, 0.5))
    run(widget)
    finish(widget)
    finer = viewer.layers["stack (1x2x3)"]
    assert finer.data.shape == (3, 32, 60)
    np.testing.assert_allclose(finer.scale, (2, 0.25, 0.5 / 3))
    assert finer.axis_labels == ("z", "y", "x")

    widget.form.inputs["scale"].value = "2x1x1"
    widget.kernel_box.setChecked(True)
    run(widget)
    finish(widget)
    finer, kernel = viewer.layers["stack (2x1x1)"], viewer.layers["stack (kernel)"]
    assert finer.data.shape == (6, 16, 20)
    np.testing.assert_allclose(finer.scale, (1, 0.5, 0.5))
    assert kernel.ndim == 3
    assert "Its middle plane" in widget.panel.picture.toolTip()


def test_a_lazy_movie_and_an_rgba_slide(dock: Dock, finish: Wait, slope: np.ndarray) -> None:
    movie = dask.array.from_array(np.stack([slope, slope + 9])[:, :20, :20], chunks=(1, 20, 20))
    viewer, widget = dock()
    viewer.add_image(movie, name="movie", axis_labels=("t", "y", "x"), contrast_limits=(0, 2000))
    run(widget)
    assert names(viewer) == ["movie"]  # nothing of it is in memory yet
    finish(widget)
    assert viewer.layers["movie (x2)"].data.shape == (2, 40, 40)

    viewer.layers.clear()
    colours = np.stack([slope // 8, slope // 10, slope // 12, slope * 0 + 200], -1)
    viewer.add_image(colours.astype(np.uint8)[:20, :20], name="slide", rgb=True)
    run(widget)
    finish(widget)
    finer = viewer.layers["slide (x2)"]
    assert finer.rgb
    assert finer.data.shape == (40, 40, 4)
    assert (finer.data[..., 3] == 200).all()
    assert viewer.layers["slide (std)"].data.shape == (40, 40)


# the inputs


def test_untouched_inputs_give_the_presets_recipe(dock_task: Dock) -> None:
    from knit_plugin.super_resolve_widget import SuperResolveWidget

    _, widget = dock_task(SuperResolveWidget)
    make = knitcore.recipe.make_recipe
    assert make("super-resolve", **widget.fields()) == knitcore.SuperResolve()
    widget.form.inputs["preset"].value = "paper"
    assert make("super-resolve", **widget.fields()) == knitcore.SuperResolve(preset="paper")


def test_a_wrong_scale_is_refused_in_the_recipes_words(
    dock: Dock, slope: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock(scale="two")
    viewer.add_image(slope, name="cells")
    run(widget)
    assert widget.job is None
    assert messages == [f"error: {widget.panel.summary.text()}"]
    assert messages[0].startswith("error: `scale`: must be a factor such as 2")
    assert widget.panel.run_button.isEnabled()

    # this one is a scale, but not for this image: told before the run
    widget.form.inputs["scale"].value = "2x2x2"
    assert widget.hint.text() == "cells: 3 factors for 2 axes (YX)"
    assert not widget.panel.run_button.isEnabled()
    widget.form.inputs["scale"].value = "1.5"
    assert widget.hint.text().startswith("40 × 48 to 60 × 72 uint16")
    assert widget.panel.run_button.isEnabled()


def test_the_kernel_can_be_a_file(
    dock: Dock,
    finish: Wait,
    slope: np.ndarray,
    messages: list[str],
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    from qtpy.QtWidgets import QFileDialog

    file = tmp_path / "kernel.tif"
    tifffile.imwrite(file, np.ones((3, 3), np.float32))
    viewer, widget = dock()
    viewer.add_image(slope[:16, :16], name="cells")
    kernel = widget.form.inputs["kernel"]
    for chosen, value in (("", "gaussian:1"), (str(file), str(file))):
        monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, c=chosen: (c, ""))
        row = kernel.native.count() - 1
        kernel.native.setCurrentIndex(row)  # as by a click on the last row
        kernel.native.activated.emit(row)
        assert kernel.value == value
    run(widget)
    finish(widget)
    used = viewer.layers["cells (x2)"].metadata["knitworks"]["kernel"]
    np.testing.assert_allclose(np.sum(used["values"]), 1, atol=1e-3)

    kernel.value = str(tmp_path / "gone.tif")
    run(widget)
    finish(widget)
    assert len(messages) == 1
    assert "gone.tif" in messages[0]
    assert widget.panel.run_button.isEnabled()


@pytest.mark.parametrize("kind", ["two values", "small", "nan"])
def test_what_is_no_image_is_refused_in_the_cores_words(
    dock: Dock, finish: Wait, slope: np.ndarray, messages: list[str], kind: str
) -> None:
    bad = {
        "two values": slope > 1200,
        "small": slope[:3, :3],
        "nan": np.where(slope > 1500, np.nan, slope),
    }[kind]
    viewer, widget = dock()
    viewer.add_image(bad, name="odd", contrast_limits=(0, 1))
    run(widget)
    finish(widget)
    with pytest.raises(knitcore.InputError) as problem:
        knitcore.super_resolve(knitcore.as_image(bad, name="odd"))
    told = without_options(str(problem.value)).replace("nan_as_hole", "NaN as hole")
    assert messages == [f"error: {told}"]
    assert names(viewer) == ["odd"]
    assert widget.panel.run_button.isEnabled()


# the middle of a run


def test_the_result_layer_is_large_at_once_and_cancel_takes_it_away(
    dock: Dock, qtbot: Any, finish: Wait, slope: np.ndarray
) -> None:
    viewer, widget = dock(passes=32, group=48, window=10)
    viewer.add_image(np.tile(slope, (2, 2)), name="cells")
    run(widget)
    layer = viewer.layers["cells (x2)"]
    first = layer.data.copy()
    np.testing.assert_array_equal(first, np.kron(np.tile(slope, (2, 2)), np.ones((2, 2))))
    qtbot.waitUntil(lambda: bool((layer.data != first).any()), timeout=60_000)
    assert widget.job is not None
    widget.cancel()
    finish(widget)
    assert names(viewer) == ["cells"]
    assert widget.panel.summary.text() == "Cancelled."
    assert not widget.panel.picture.isVisibleTo(widget)
    assert widget.panel.run_button.isEnabled()


def test_a_pixel_is_enlarged_about_its_centre() -> None:
    row = np.array([1, 2, 3, 4])
    assert nearest(row, (8,)).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert nearest(row, (6,)).tolist() == [1, 2, 2, 3, 4, 4]
    assert nearest(row, (6,))[::-1].tolist() == [4, 4, 3, 2, 2, 1]
    assert nearest(row, (4,)) is not row


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


def test_a_run_looks_like_this(
    make_napari_viewer: Any, open_from_menu: Any, qtbot: Any, finish: Wait, tmp_path: Path
) -> None:
    """Also makes the picture in the docs, as docs/napari.md says."""
    update = os.environ.get("KNIT_UPDATE_SCREENSHOTS")
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1200, 760)
    image = tifffile.imread(ROOT / "tests" / "data" / "multichannel_dna_mt_actin_16bit.ome.tif")[2]
    image = image[100:228, 100:228] if update else image[100:132, 100:132]
    viewer.add_image(image, name="Actin", scale=(0.1, 0.1), units=("um", "um"))
    widget = open_from_menu(viewer, "Super-resolve (Knitworks)")
    qtbot.waitUntil(widget.isVisible)
    qtbot.wait(300)  # napari lays its window out anew
    run(widget)
    finish(widget)
    qtbot.wait(300)

    file = tmp_path / "widget.png"
    window = viewer.screenshot(str(file), canvas_only=False, flash=False)
    assert window.shape[0] > 600
    assert len(np.unique(window.reshape(-1, 4), axis=0)) > 100
    if update:
        shutil.copy(file, ROOT / "docs" / "images" / "widget_super_resolve.png")
