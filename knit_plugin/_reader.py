"""Records, recipes and run files dropped onto napari: they open the widget with their settings."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from knitcore import RecipeError, load_recipe
from knitcore.recipe import MAX_RECIPE_BYTES, MAX_RECORD_BYTES, RECIPES, run_sections

TITLES = {"inpaint": "Inpaint", "denoise": "Denoise", "super-resolve": "Super-resolve"}
WIDGETS = {
    "Inpaint": ("inpaint_widget", "InpaintWidget"),
    "Denoise": ("denoise_widget", "DenoiseWidget"),
    "Super-resolve": ("super_resolve_widget", "SuperResolveWidget"),
    "Batch": ("batch_widget", "BatchWidget"),
}
NO_LAYER: list[tuple[None]] = [(None,)]  # napari's sign for: read, and nothing to show


def settings_reader(path: str | list[str]) -> Callable[[Any], list[tuple[None]]] | None:
    """Tell napari whether a file holds settings of ours.

    Parameters
    ----------
    path : str or list of str
        Many plugins read .yaml and .json, so the content decides.

    Returns
    -------
    callable or None
        Opens the matching widget of the current viewer with the file's settings; None for all that
        is not ours.
    """
    if not isinstance(path, str) or not looks_like_ours(Path(path)):
        return None
    return open_settings


def looks_like_ours(path: Path) -> bool:
    """Whether a file is a record, a recipe or a run file, right or wrong.

    Parameters
    ----------
    path : Path

    Returns
    -------
    bool
    """
    if path.name.endswith(".knit.json"):
        return True
    try:
        limit = MAX_RECORD_BYTES if path.suffix.lower() == ".json" else MAX_RECIPE_BYTES
        if path.stat().st_size > limit:
            return False
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    if any(word in text for word in ("recipe_version", "record_version", "run_version")):
        return True
    # a recipe by hand may have nothing but its task and a few fields
    quoted = text.replace('"', "").replace("'", "")
    lines = [line.strip().rstrip(",") for line in quoted.splitlines()]
    return any(f"task: {task}" in lines for task in RECIPES)


def open_settings(path: str) -> list[tuple[None]]:
    """Open the widget that a file of settings is for, and fill in its inputs.

    Parameters
    ----------
    path : str

    Returns
    -------
    list
        No layer.

    Raises
    ------
    RecipeError
        The file cannot be used; napari shows it.
    """
    import napari
    from napari.utils.notifications import show_info

    viewer = napari.current_viewer()
    if viewer is None:
        raise RecipeError(f"{path}: settings are opened in a viewer, and there is none")
    recipe = load_recipe(path)
    title = TITLES[recipe.task]
    if run_sections(path)[0]:
        title = "Batch"
        open_widget(viewer, title).show_file(path)
    else:
        open_widget(viewer, title).show_recipe(recipe)
    show_info(f"Settings of {Path(path).name}: see {title} (Knitworks)")
    return NO_LAYER


def open_widget(viewer: Any, title: str) -> Any:
    """The widget of a name, docked; the one that is open already, if there is one.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    title : str
        As in the menu: "Inpaint".

    Returns
    -------
    QWidget
    """
    name = f"{title} (Knitworks)"  # as napari's menu calls it
    docked = viewer.window.dock_widgets
    if name in docked:
        widget = docked[name]
        dock = widget.parent()
        if dock is not None:
            dock.show()
            dock.raise_()
        return widget
    module, kind = WIDGETS[title]
    widget = getattr(import_module(f"knit_plugin.{module}"), kind)(viewer)
    viewer.window.add_dock_widget(widget, name=name, tabify=True)
    return widget
