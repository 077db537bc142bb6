"""What napari reads: the manifest, the menus it makes, and the sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from npe2 import PluginManifest

ROOT = Path(__file__).parents[2]


def manifest() -> PluginManifest:
    return PluginManifest.from_file(ROOT / "napari.yaml")


def test_all_commands_can_be_imported() -> None:
    manifest().validate_imports()


def test_every_menu_is_one_of_naparis_or_ours() -> None:
    # npe2 accepts any menu id, and a wrong one is never shown
    from napari._app_model.constants import MenuId

    contributions = manifest().contributions
    ours = {submenu.id for submenu in contributions.submenus}
    commands = {command.id for command in contributions.commands}
    assert set(contributions.menus) <= {menu.value for menu in MenuId} | ours
    for items in contributions.menus.values():
        for item in items:
            assert getattr(item, "command", None) in commands or item.submenu in ours


def titles(menu: Any) -> dict[str, Any]:
    menu.aboutToShow.emit()
    return {action.text().replace("&", ""): action for action in menu.actions()}


def test_the_widgets_stand_in_both_menus_and_open_from_them(
    make_napari_viewer: Callable[..., Any], plugin: str
) -> None:
    from knit_plugin.denoise_widget import DenoiseWidget
    from knit_plugin.inpaint_widget import InpaintWidget
    from knit_plugin.super_resolve_widget import SuperResolveWidget

    window = make_napari_viewer().window
    plugins = titles(titles(window.plugins_menu)["Knitworks"].menu())
    knitworks = titles(titles(window.layers_menu)["Filter"].menu())["Knitworks"].menu()
    for kind in (InpaintWidget, DenoiseWidget, SuperResolveWidget):
        title = f"{kind.verb} (Knitworks)"
        assert title in plugins
        titles(knitworks)[title].trigger()
        assert isinstance(window.dock_widgets[title], kind)


def test_each_menu_has_what_belongs_there(
    make_napari_viewer: Callable[..., Any], plugin: str
) -> None:
    window = make_napari_viewer().window
    layers = titles(window.layers_menu)
    assert "Super-resolve (Knitworks)" in titles(layers["Transform"].menu())
    titles(layers["Annotate"].menu())["Make a mask (Knitworks)"].trigger()
    assert "Make a mask (Knitworks)" in window.dock_widgets
    titles(titles(window.file_menu)["IO Utilities"].menu())["Batch (Knitworks)"].trigger()
    assert "Batch (Knitworks)" in window.dock_widgets


def test_every_setting_has_a_title_and_a_description() -> None:
    for page in manifest().contributions.configurations.values():
        for name, setting in page.properties.items():
            assert setting.title, name
            assert setting.description, name


def test_all_samples_open_calibrated_and_are_small(
    make_napari_viewer: Callable[..., Any], plugin: str
) -> None:
    viewer = make_napari_viewer()
    for sample in manifest().contributions.sample_data:
        viewer.open_sample(plugin, sample.key)
        assert {str(unit) for unit in viewer.layers[-1].units} == {"micrometer"}
    assert [layer.name for layer in viewer.layers if type(layer).__name__ == "Image"] == [
        "Damaged micrograph",
        "Noisy micrograph",
        "Damaged stack",
    ]
    samples = list((ROOT / "knitcore" / "samples").iterdir())
    assert sum(file.stat().st_size for file in samples) < 1_500_000
    credits = (ROOT / "knitcore" / "samples" / "CREDITS.md").read_text()
    assert all(file.name in credits for file in samples if file.suffix != ".md")


def test_the_sample_is_an_image_and_the_labels_of_its_damage(
    make_napari_viewer: Callable[..., Any], plugin: str
) -> None:
    viewer = make_napari_viewer()
    viewer.open_sample(plugin, "damaged-micrograph")
    image, labels = viewer.layers
    file = ROOT / "knitcore" / "samples" / "damaged_micrograph.tif"
    np.testing.assert_array_equal(image.data, tifffile.imread(file))
    assert image.data.dtype == np.uint16
    for layer in (image, labels):
        np.testing.assert_allclose(layer.scale, (0.16, 0.16))
        assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
        assert layer.axis_labels == ("y", "x")
    assert labels.data.shape == image.data.shape
    assert set(np.unique(labels.data)) == {0, 1}
