"""What a task gives back, and the record that repeats it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from knitcore.axes import Image
from knitcore.events import Note
from knitcore.recipe import Inpaint, recipe_fields

if TYPE_CHECKING:
    import torch

# Raised whenever the same recipe would give other pixels: old records then no longer count as done.
METHOD_VERSION = 1


@dataclass(frozen=True)
class Result:
    """Outcome of a task.

    Attributes
    ----------
    image : ndarray
        Shape and dtype of the input; pixels outside the mask are the input's, bit for bit.
    synthesised : ndarray of bool
        True where a pixel was invented; shape of `image`.
    std : ndarray of float32
        Expected error of each invented pixel in grey levels of the input, 0 at known pixels.
    record : dict
        JSON-ready: concrete recipe, versions, device, hashes, times, losses, warnings.
    source : Image
        The input with its axes, pixel size and units.
    """

    image: np.ndarray
    synthesised: np.ndarray
    std: np.ndarray
    record: dict[str, Any] = field(repr=False)
    source: Image = field(repr=False)


def array_hash(array: np.ndarray) -> str:
    """SHA-256 over an array's shape, dtype and values (little-endian, C order).

    Parameters
    ----------
    array : ndarray
        Any shape and numeric dtype.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.shape}{array.dtype.newbyteorder('<').str}".encode())
    # one plane at a time, so that hashing never copies the whole array
    for plane in array if array.ndim > 2 else [array]:
        digest.update(np.ascontiguousarray(plane, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package and of what decides the numbers.

    Returns
    -------
    dict of str to str
    """
    found = {"python": platform.python_version(), "method": str(METHOD_VERSION)}
    for name in ("napari-knitworks", "torch", "numpy", "scipy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def make_record(
    image: Image,
    hole: np.ndarray,
    recipe: Inpaint,
    *,
    device: torch.device | None,
    notes: list[Note],
    losses: list[dict[str, float]],
    seconds: dict[str, float],
    regions: int,
    restarts: int,
    parameters: int,
) -> dict[str, Any]:
    """Everything needed to repeat a run and to judge its result, JSON-ready.

    Parameters
    ----------
    image : Image
    hole : ndarray of bool
        Shape of the image: what was filled.
    recipe : Inpaint
    device : torch.device or None
        None if nothing had to be fitted.
    notes : list of Note
    losses : list of dict
        Last losses of each fit; the record has their means.
    seconds : dict of str to float
    regions, restarts, parameters : int

    Returns
    -------
    dict
    """
    # the samples of a pixel are filled together: count pixels, not colours
    pixels = hole[..., 0] if image.axes.endswith("S") else hole
    filled, threads, name = int(np.count_nonzero(pixels)), 0, ""
    if device is not None:
        from knitcore.device import device_name, fit_threads

        threads, name = fit_threads(), device_name(device)
    return {
        "record_version": 1,
        "task": recipe.task,
        "recipe": recipe_fields(recipe),
        "versions": versions(),
        "device": str(device) if device is not None else "cpu",
        "device_name": name,
        "threads": threads,
        "image": {
            "name": image.name,
            "sha256": array_hash(np.asarray(image.data)),
            "shape": list(image.shape),
            "dtype": image.dtype.name,
            "axes": image.axes,
            "pixel_size": dict(image.pixel_size),
            "unit": dict(image.unit),
        },
        "mask": {
            "sha256": array_hash(hole),
            "filled": filled,
            "fraction": filled / max(1, pixels.size),
        },
        "regions": regions,
        "parameters": parameters,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "losses": {
            name: sum(one.get(name, 0.0) for one in losses) / len(losses)
            for name in (losses[0] if losses else ())
        },
        "restarts": restarts,
        "notes": [{"level": note.level, "text": note.text} for note in notes],
    }
