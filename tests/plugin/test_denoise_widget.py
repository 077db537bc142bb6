"""The denoising widget in a real viewer; what all tasks share is tested with the inpainting widget."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import knitcore
from knit_plugin.denoise_widget import noise_in_words

ROOT = Path(__file__).parents[2]
QUICK = {"steps": 20, "passes": 1, "window": 4, "group": 16}

Dock = Callable[..., tuple[Any, Any]]
Wait = Callable[[Any], None]


@pytest.fixture
def noisy(slope: np.ndarray) -> np.ndarray:
    """The slope with noise of 40 grey levels."""
    noise = np.random.default_rng(0).normal(0, 40, slope.shape)
    return (slope + noise).round().astype(np.uint16)


@pytest.fixture
def dock(dock_task: Dock) -> Dock:
    """Dock the widget in a viewer, set to a fit of a second or two, or one without an end."""

    def open_widget(
        viewer: Any = None, *, endless: bool = False, show: bool = False
    ) -> tuple[Any, Any]:
        from knit_plugin.denoise_widget import DenoiseWidget

        viewer, widget = dock_task(DenoiseWidget, viewer, show=show)
        # few pixels bound the steps of the fast preset, but not those of the article's
        chosen = {"preset": "paper", "steps": 100_000} if endless else {**QUICK, "steps": 20}
        for name, value in chosen.items():
            widget.form.inputs[name].value = value
        return viewer, widget

    return open_widget


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def run(widget: Any) -> None:
    widget.panel.run_button.click()


# what comes out


def test_a_run_adds_the_denoised_image_and_its_std(
    dock: Dock, finish: Wait, noisy: np.ndarray
) -> None:
    viewer, widget = dock()
    place = {"scale": (0.5, 0.25), "translate": (7, -3), "rotate": 30, "units": ("um", "um")}
    source = viewer.add_image(
        noisy, name="cells", contrast_limits=(900, 1700), colormap="viridis", **place
    )
    widget.form.inputs["seed"].value = 5
    run(widget)
    finish(widget)

    assert names(viewer) == ["cells", "cells (denoised)", "cells (std)"]
    denoised, std = list(viewer.layers)[1:]
    same = knitcore.denoise(noisy, seed=5, **QUICK)
    np.testing.assert_array_equal(denoised.data, same.image)
    assert denoised.data.dtype == np.uint16
    np.testing.assert_array_equal(std.data, same.std)
    np.testing.assert_array_equal(source.data, noisy)
    assert not std.visible
    assert denoised.contrast_limits == [900, 1700]
    assert denoised.colormap.name == "viridis"
    for made in (denoised, std):
        assert made.units == source.units
        for name in ("scale", "translate", "rotate"):
            np.testing.assert_allclose(getattr(made, name), getattr(source, name), err_msg=name)

    record = denoised.metadata["knitworks"]
    assert record == std.metadata["knitworks"]
    assert record["recipe"]["seed"] == 5
    assert record["recipe"]["sigma"] is None
    assert record["image"]["name"] == "cells"
    summary = widget.panel.summary.text().splitlines()
    assert summary[0].startswith("Took out ")
    assert "noise" in summary[0]
    assert summary[0].endswith(" on cpu.")
    assert summary[1:] == [note["text"] for note in record["notes"]]


def test_the_residual_is_a_layer_when_it_is_wanted(
    dock: Dock, finish: Wait, noisy: np.ndarray
) -> None:
    viewer, widget = dock()
    viewer.add_image(noisy, name="cells", scale=(0.5, 0.5))
    widget.residual_box.setChecked(True)
    widget.form.inputs["sigma"].value = 40
    run(widget)
    finish(widget)
    residual, denoised = viewer.layers["cells (residual)"], viewer.layers["cells (denoised)"]
    assert residual.data.dtype == np.float32
    np.testing.assert_array_equal(residual.data, noisy.astype(np.float32) - denoised.data)
    low, high = residual.contrast_limits
    assert high == -low == pytest.approx(3 * residual.data.std(), rel=1e-3)
    assert not residual.visible
    np.testing.assert_allclose(residual.scale, (0.5, 0.5))
    assert residual.metadata["knitworks"]["recipe"]["sigma"] == 40
    assert widget.panel.summary.text().startswith(
        "Took out gaussian noise of sigma 40 (grey levels) in "
    )


def test_an_rgba_image_stays_one(dock: Dock, finish: Wait, noisy: np.ndarray) -> None:
    colours = np.stack([noisy // 8, noisy // 10, noisy // 12, noisy * 0 + 200], -1)
    viewer, widget = dock()
    viewer.add_image(colours.astype(np.uint8), name="slide", rgb=True)
    widget.residual_box.setChecked(True)
    run(widget)
    finish(widget)
    denoised = viewer.layers["slide (denoised)"]
    assert denoised.rgb
    assert denoised.data.shape == (40, 48, 4)
    assert denoised.data.dtype == np.uint8
    assert (denoised.data[..., 3] == 200).all()
    assert (denoised.data[..., :3] != colours[..., :3]).any()
    for name in ("slide (std)", "slide (residual)"):
        assert viewer.layers[name].data.shape == (40, 48)
        assert not viewer.layers[name].rgb


def test_the_axis_labels_of_a_stack_decide(dock: Dock, finish: Wait, noisy: np.ndarray) -> None:
    movie = np.stack([noisy, noisy[::-1]])
    viewer, widget = dock()
    for label, axes in (("t", "TYX"), ("z", "ZYX")):
        viewer.layers.clear()
        viewer.add_image(movie, name="stack", axis_labels=(label, "y", "x"))
        run(widget)
        finish(widget)
        denoised = viewer.layers["stack (denoised)"]
        np.testing.assert_array_equal(
            denoised.data, knitcore.denoise(movie, axes=axes, **QUICK).image
        )
        assert denoised.axis_labels == (label, "y", "x")


def test_nan_is_refused_or_filled(
    dock: Dock, finish: Wait, noisy: np.ndarray, messages: list[str]
) -> None:
    broken = noisy.astype(np.float32)
    broken[5:7, 5:7] = np.nan
    viewer, widget = dock()
    viewer.add_image(broken, name="cells", contrast_limits=(900, 1700))
    run(widget)
    finish(widget)
    with pytest.raises(knitcore.InputError) as problem:
        knitcore.denoise(knitcore.as_image(broken, name="cells"))
    told = (
        str(problem.value)
        .replace(" (knit inpaint --mask nan)", "")
        .replace("nan_as_hole (--nan-as-hole)", "NaN as hole")
    )
    assert messages == [f"error: {told}"]
    assert widget.panel.summary.text() == told
    assert names(viewer) == ["cells"]

    widget.form.inputs["nan_as_hole"].value = True
    run(widget)
    finish(widget)
    assert np.isfinite(viewer.layers["cells (denoised)"].data).all()
    np.testing.assert_array_equal(viewer.layers["cells (synthesised)"].data, np.isnan(broken))
    assert ", filled 4 values in " in widget.panel.summary.text()


@pytest.mark.parametrize("kind", ["two values", "small"])
def test_what_is_no_image_is_refused_in_the_cores_words(
    dock: Dock, finish: Wait, noisy: np.ndarray, messages: list[str], kind: str
) -> None:
    bad = noisy[:3, :3] if kind == "small" else noisy > 1200
    viewer, widget = dock()
    viewer.add_image(bad, name="odd")
    run(widget)
    finish(widget)
    with pytest.raises(knitcore.InputError) as problem:
        knitcore.denoise(knitcore.as_image(bad, name="odd"))
    assert messages == [f"error: {problem.value}"]
    assert names(viewer) == ["odd"]
    assert widget.panel.run_button.isEnabled()


def test_without_noise_nothing_is_added(dock: Dock, finish: Wait) -> None:
    viewer, widget = dock()
    viewer.add_image(np.full((40, 48), 7, np.uint8), name="flat")
    run(widget)
    finish(widget)
    assert names(viewer) == ["flat"]
    assert widget.panel.summary.text().startswith("No noise found: the image is as it was.")


# the inputs


def test_an_image_is_all_it_needs(dock: Dock, noisy: np.ndarray) -> None:
    viewer, widget = dock()
    assert widget.hint.text().startswith("Open an image first")
    assert not widget.panel.run_button.isEnabled()
    viewer.add_labels(np.ones((4, 4), int))
    assert not widget.panel.run_button.isEnabled()
    viewer.add_image(noisy)
    assert widget.hint.text() == "40 × 48 uint16, about 0.021 MB for the layers"
    assert widget.panel.run_button.isEnabled()


def test_untouched_inputs_give_the_presets_recipe(dock_task: Dock) -> None:
    from knit_plugin.denoise_widget import DenoiseWidget

    _, widget = dock_task(DenoiseWidget)
    assert knitcore.recipe.make_recipe("denoise", **widget.fields()) == knitcore.Denoise()
    widget.form.inputs["preset"].value = "paper"
    paper = knitcore.Denoise(preset="paper")
    assert knitcore.recipe.make_recipe("denoise", **widget.fields()) == paper
    assert widget.form.inputs["steps"].value == paper.steps


def test_a_sigma_that_is_no_number_is_refused_in_the_recipes_words(
    dock: Dock, noisy: np.ndarray, messages: list[str]
) -> None:
    viewer, widget = dock()
    viewer.add_image(noisy)
    sigma = widget.form.inputs["sigma"]
    assert sigma.native.placeholderText() == "estimated"
    sigma.native.setText("12,5")
    run(widget)
    assert widget.job is None
    assert len(messages) == 1
    assert messages[0].startswith("error: `sigma`: ")
    sigma.native.setText(" 12.5 ")
    assert widget.fields()["sigma"] == 12.5
    widget.form.inputs["gain"].value = 1e-5
    assert widget.form.inputs["gain"].value == 1e-5
    run(widget)
    assert "give sigma, or gain and offset, not both" in messages[-1]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "noise"),
        ([{"kind": "unknown"}], "noise"),
        ([{"kind": "gaussian"}], "gaussian noise"),
        (
            [{"kind": "gaussian", "sigma": [3, 4.567]}, {"kind": "none"}],
            "gaussian noise of sigma 3 to 4.57 (grey levels)",
        ),
        ([{"kind": "gaussian", "sigma": 2}, {"kind": "poisson-gaussian", "gain": 2}], "noise"),
        (
            [{"kind": "poisson-gaussian", "gain": 1.5, "offset": -20}],
            "poisson-gaussian noise of variance 1.5 × value − 20",
        ),
    ],
)
def test_noise_in_words(found: list[dict[str, Any]], words: str) -> None:
    assert noise_in_words(found) == words


# the middle and the end of a run


def test_the_result_layer_is_there_at_once_and_cancel_takes_it_away(
    dock: Dock, qtbot: Any, fitting: Wait, finish: Wait, noisy: np.ndarray
) -> None:
    viewer, widget = dock(endless=True)
    viewer.add_image(noisy, name="cells")
    run(widget)
    np.testing.assert_array_equal(viewer.layers["cells (denoised)"].data, noisy)
    fitting(widget)
    widget.cancel()
    finish(widget)
    assert names(viewer) == ["cells"]
    assert widget.panel.summary.text() == "Cancelled."
    assert widget.panel.run_button.isEnabled()


def test_the_result_layer_refines(dock: Dock, qtbot: Any, finish: Wait, noisy: np.ndarray) -> None:
    # planes come one by one, so that the first is there before the last
    movie = np.stack([noisy] * 20)
    viewer, widget = dock()
    viewer.add_image(movie, name="movie", axis_labels=("t", "y", "x"))
    widget.keep_box.setChecked(True)
    run(widget)
    layer = viewer.layers["movie (denoised)"]
    qtbot.waitUntil(lambda: bool((layer.data[0] != noisy).any()), timeout=60_000)
    assert widget.job is not None
    np.testing.assert_array_equal(layer.data[-1], noisy)
    widget.cancel()
    finish(widget)
    assert names(viewer) == ["movie", "movie (denoised, stopped early)"]


def test_one_fit_runs_at_a_time_whatever_the_task(
    dock: Dock, dock_task: Dock, fitting: Wait, finish: Wait, noisy: np.ndarray, messages: list[str]
) -> None:
    from knit_plugin.super_resolve_widget import SuperResolveWidget

    viewer, first = dock(endless=True)
    viewer.add_image(noisy, name="cells")
    run(first)
    fitting(first)
    _, second = dock_task(SuperResolveWidget, viewer)
    run(second)
    assert second.panel.stage.text() == "waiting for another run to end"
    assert not messages
    second.cancel()  # at once, though the first still runs
    assert second.job is None
    first.cancel()
    finish(first)


def test_closing_the_dock_cancels_the_run(
    dock: Dock, qtbot: Any, fitting: Wait, noisy: np.ndarray
) -> None:
    from knit_plugin._worker import busy

    viewer, widget = dock(endless=True)
    viewer.add_image(noisy, name="cells")
    run(widget)
    fitting(widget)
    job = widget.job
    widget.parent().destroyOnClose()
    qtbot.waitUntil(lambda: not busy(), timeout=60_000)
    assert job.cancelling.is_set()
    assert names(viewer) == ["cells"]
    viewer.add_image(noisy)  # nobody of ours listens any more


# how it looks


def test_a_run_looks_like_this(
    make_napari_viewer: Any, open_from_menu: Any, qtbot: Any, finish: Wait, tmp_path: Path
) -> None:
    """Also makes the picture in the docs, as docs/napari.md says."""
    update = os.environ.get("KNIT_UPDATE_SCREENSHOTS")
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1200, 760)
    image = tifffile.imread(ROOT / "tests" / "data" / "multichannel_dna_mt_actin_16bit.ome.tif")[1]
    image = image[100:290, 60:250] if update else image[150:214, 100:164]
    viewer.add_image(image, name="Microtubules", scale=(0.1, 0.1), units=("um", "um"))
    widget = open_from_menu(viewer, "Denoise (Knitworks)")
    widget.residual_box.setChecked(True)
    qtbot.waitUntil(widget.isVisible)
    qtbot.wait(300)  # napari lays its window out anew
    run(widget)
    finish(widget)
    qtbot.wait(300)

    file = tmp_path / "widget.png"
    window = viewer.screenshot(str(file), canvas_only=False, flash=False)
    assert window.shape[0] > 600
    assert len(np.unique(window.reshape(-1, 4), axis=0)) > 100
    assert widget.minimumSizeHint().width() < 420
    if update:
        shutil.copy(file, ROOT / "docs" / "images" / "widget_denoise.png")
