"""What the plugin keeps between sessions: napari's preferences page, and what was last chosen."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PLUGIN = "napari-knitworks"
# What belongs to one image: kept, it would spoil the next one without a word
OF_ONE_IMAGE = ("sigma", "gain", "offset", "kernel", "mask_label", "invert_mask")


@dataclass(frozen=True)
class Preferences:
    """The page Knitworks of napari's preferences.

    Attributes
    ----------
    device : str
        What widgets offer first: "auto", "cpu", "cuda" or "mps".
    precision : str
        What widgets offer first: "float32" or "bfloat16".
    ask_above_gb : float
        Ask before a run whose layers take more memory than this.
    remember : bool
        Open the widgets with the inputs of the last run, but device and precision.
    autosave_folder : str
        Where results are saved at the end of each run; empty: nowhere.
    cache_mb : float
        Most memory for results of earlier runs; 0: none are kept.
    """

    device: str = "auto"
    precision: str = "float32"
    ask_above_gb: float = 2.0
    remember: bool = True
    autosave_folder: str = ""
    cache_mb: float = 0.0


def preferences() -> Preferences:
    """Read the preferences as they are now.

    Returns
    -------
    Preferences
        The defaults where napari has no such page (before 0.9), or does not know the plugin.
    """
    settings = _plugin_settings()
    if settings is None:
        return Preferences()
    return Preferences(
        device=str(settings.compute.device),
        precision=str(settings.compute.precision),
        ask_above_gb=float(settings.compute.ask_above_gb),
        remember=bool(settings.inputs.remember),
        autosave_folder=str(settings.files.autosave_folder).strip(),
        cache_mb=float(settings.files.cache_mb),
    )


def _plugin_settings() -> Any:
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return None
    try:
        return get_plugin_settings(PLUGIN)
    except Exception:  # not installed, or a file that somebody has edited by hand
        logging.getLogger(__name__).debug("no preferences", exc_info=True)
        return None


def settings_folder() -> Path | None:
    """The folder of napari's own settings.

    Returns
    -------
    Path or None
        None where napari keeps its settings in memory only.
    """
    path = getattr(_plugin_settings(), "config_path", None)
    if path is None:
        from napari.settings import get_settings

        path = getattr(get_settings(), "config_path", None)
    return None if path is None else Path(path).parent


def last_inputs(widget: str) -> dict[str, Any]:
    """The inputs of a widget's last run, in this session or an earlier one.

    Parameters
    ----------
    widget : str
        Such as "inpaint".

    Returns
    -------
    dict
        Empty where nothing is kept, or "Remember" is off in the preferences. The values may be
        those of another version: whoever uses them must be ready for unknown names and values.
    """
    if not preferences().remember:
        return {}
    kept = _read().get(widget, {})
    return kept if isinstance(kept, dict) else {}


def keep_inputs(widget: str, values: dict[str, Any]) -> None:
    """Keep a widget's inputs for the next session; without a place to write to, for this one.

    Parameters
    ----------
    widget : str
    values : dict
        Plain numbers, words, None, and lists of them.
    """
    if not preferences().remember:
        return
    everything = {**_read(), widget: values}
    _kept.clear()
    _kept.update(everything)
    file = _file()
    if file is None:
        return
    # no home, or one that is full or read-only, is no reason to stop a run
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
        try:
            part.write_text(json.dumps(everything, indent=1), encoding="utf-8")
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


_kept: dict[str, Any] = {}  # what this session knows, where there is no file


def _file() -> Path | None:
    folder = settings_folder()
    return None if folder is None else folder / f"{PLUGIN}-inputs.json"


def _read() -> dict[str, Any]:
    file = _file()
    if file is not None:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(known, dict):
                return known
    return dict(_kept)


def keep_form(task: str, form: Any) -> None:
    """Keep what a task's form says, but for what belongs to one image.

    Parameters
    ----------
    task : str
    form : RecipeForm
    """
    values = form.values()
    keep_inputs(task, {k: v for k, v in values.items() if k not in OF_ONE_IMAGE})


def recall_form(task: str, form: Any) -> None:
    """Fill in what `keep_form` kept, but device and precision as the preferences say.

    Parameters
    ----------
    task : str
    form : RecipeForm
    """
    values = last_inputs(task)
    set_inputs(form.inputs, {**values, **_wanted(values)})


def _wanted(kept: dict[str, Any]) -> dict[str, Any]:
    """Device and precision: those of the preferences, or of the last run where there is no page."""
    chosen = preferences() if _plugin_settings() is not None else None
    return {
        name: getattr(chosen, name) if chosen else kept.get(name, getattr(Preferences, name))
        for name in ("device", "precision")
    }


def recall_device(task: str, form: Any) -> None:
    """Choose the device again, now that torch has told which there are.

    Parameters
    ----------
    task : str
    form : RecipeForm
    """
    wanted = _wanted(last_inputs(task))["device"]
    if form.inputs["device"].value == "auto":
        set_inputs(form.inputs, {"device": wanted})


def may_take(needed: int, parent: Any) -> bool:
    """Ask before a run that takes more memory than the preferences let pass, or than is free.

    Parameters
    ----------
    needed : int
        Bytes.
    parent : QWidget

    Returns
    -------
    bool
        Whether to go on.
    """
    limit = preferences().ask_above_gb
    free = psutil.virtual_memory().available
    if needed <= min(limit * 1e9, free):
        return True
    from qtpy.QtWidgets import QMessageBox

    why = (
        f"That is more than the {free / 1e9:.3g} GB that are free on this machine."
        if needed > free
        else f"Asked from {limit:g} GB on; see File > Preferences > Knitworks."
    )
    text = (
        f"The layers of this run take about {needed / 1e9:.3g} GB. Go on?\n"
        f"({why} A crop of the image takes less.)"
    )
    yes = QMessageBox.StandardButton.Yes
    return bool(QMessageBox.question(parent, "Knitworks", text) == yes)


def set_inputs(inputs: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Put kept values into a form's inputs, leaving out what they do not take.

    Parameters
    ----------
    inputs : dict
        By name, each with a `value` to set, such as `RecipeForm.inputs`.
    values : dict

    Returns
    -------
    list of str
        Names that could not be set.
    """
    # a preset writes into the others, so it goes first
    order = sorted(values, key=lambda name: name != "preset")
    return [name for name in order if not _set(inputs, name, values[name])]


def _set(inputs: dict[str, Any], name: str, value: Any) -> bool:
    if name not in inputs:
        return False
    try:
        inputs[name].value = value
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def autosave(result: Any, name: str, folder: str, tell: Callable[[str], Any]) -> Path | None:
    """Save a result, with its record; for a worker thread.

    Parameters
    ----------
    result : knitcore.Result
    name : str
        Of the result layer; becomes the file's name.
    folder : str
        The one of the preferences.
    tell : callable
        Called with what went wrong: a result in the viewer is not lost because a disk is full.

    Returns
    -------
    Path or None
        The new file; None if there is no folder for it, or it could not be written.
    """
    from knitcore import FileError, write_result

    if not folder:
        return None
    place = Path(folder).expanduser()
    # a layer may be called anything
    stem = (
        "".join(c if c.isalnum() or c in " ._-()+" else "_" for c in name).strip(" .") or "result"
    )
    stem = stem.encode()[:200].decode(errors="ignore")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            path = place / (f"{stem}.tif" if number == 1 else f"{stem} {number}.tif")
            if not path.exists():
                return write_result(replace(result, image=np.asarray(result.image)), path)
    except (FileError, OSError) as error:
        tell(f"the result was not autosaved: {error}")
    return None
