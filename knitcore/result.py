"""What a task gives back, and the record that repeats it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from knitcore.axes import Image
from knitcore.errors import InputError
from knitcore.events import Note
from knitcore.overlay import Overlay
from knitcore.recipe import Recipe, recipe_fields

if TYPE_CHECKING:
    import torch

# Raised whenever the same recipe would give other pixels or another std: old records then no longer
# count as done.
METHOD_VERSION = 13


@dataclass(frozen=True)
class Result:
    """Outcome of a task.

    Attributes
    ----------
    image : ndarray
        dtype of the input. Shape of the input, or enlarged by super-resolution. Inpainting keeps
        pixels outside the mask bit for bit. (An `Overlay` where the input was one.)
    synthesised : ndarray of bool
        True where a pixel was invented rather than measured; shape of `image`. All of a
        super-resolved image is, nothing of a denoised one but filled NaN.
    std : ndarray of float32
        Expected error of each pixel in grey levels of the input, 0 at pixels that were kept.
    record : dict
        JSON-ready: concrete recipe, versions, device, hashes, times, losses, warnings.
    source : Image
        The input with its axes, pixel size and units.
    kernel : ndarray of float or None, shape (*spatial)
        Super-resolution: how the fine image becomes the input, on the grid of `image`; its sum is 1.
    factors : dict of str to float
        Super-resolution: enlargement by axis letter.
    """

    image: np.ndarray
    synthesised: np.ndarray
    std: np.ndarray
    record: dict[str, Any] = field(repr=False)
    source: Image = field(repr=False)
    kernel: np.ndarray | None = field(default=None, repr=False)
    factors: dict[str, float] = field(default_factory=dict)

    @property
    def residual(self) -> np.ndarray:
        """What was taken away, input minus output, float32: noise, and no structure one hopes."""
        if self.factors:
            raise InputError("an enlarged image has no residual on the input's pixels")
        taken = np.asarray(self.source.data).astype(np.float32)
        # infinite minus infinite is nothing taken away
        with np.errstate(invalid="ignore"):
            taken -= self.image.astype(np.float32)
        return np.nan_to_num(taken, copy=False, posinf=0.0, neginf=0.0)

    @property
    def _centred(self) -> bool:
        return self.record.get("recipe", {}).get("anchor") != "corner"

    def as_image(self) -> Image:
        """The output with its axes, units and pixel size."""
        if not self.factors:
            return replace(self.source, data=self.image)
        size = {a: s / self.factors.get(a, 1.0) for a, s in self.source.pixel_size.items()}
        extra = dict(self.source.extra)
        if "tiff" in extra:  # its resolution tags are those of the coarse pixels
            extra["tiff"] = {k: v for k, v in extra["tiff"].items() if k != "resolution"}
        if "shift" in extra.get("zarr", {}) and self._centred:
            # the first fine pixel's centre lies before that of the first coarse one
            letters, shift = extra["zarr"]["letters"], extra["zarr"]["shift"]
            steps = [(size.get(a, 0.0), self.source.pixel_size.get(a, 0.0)) for a in letters]
            moved = [
                place + (fine - coarse) / 2
                for place, (fine, coarse) in zip(shift, steps, strict=True)
            ]
            extra["zarr"] = {**extra["zarr"], "shift": moved}
        return replace(self.source, data=self.image, pixel_size=size, extra=extra)


def array_hash(array: Any) -> str:
    """SHA-256 over an array's shape, dtype and values (little-endian, C order).

    Parameters
    ----------
    array : array-like
        Any shape and numeric dtype. May lie on disk: it is read plane by plane.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    array = array if hasattr(array, "dtype") else np.asarray(array)
    digest = hashlib.sha256(f"{array.shape}{array.dtype.newbyteorder('<').str}".encode())
    # one plane at a time, so that hashing never copies the whole array
    for plane in (array[i] for i in range(len(array))) if array.ndim > 2 else [np.asarray(array)]:
        digest.update(np.ascontiguousarray(plane, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of this package and of what decides the numbers.

    Returns
    -------
    dict of str to str
    """
    found = {"python": platform.python_version(), "method": str(METHOD_VERSION)}
    names = ("napari-knitworks", "torch", "numpy", "scipy")
    return found | {name: _package_version(name) for name in names}


@cache
def _package_version(name: str) -> str:
    """Looked up once: reading a package's metadata takes longer than restoring a small image."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def make_record(
    image: Image,
    recipe: Recipe,
    *,
    device: torch.device | None,
    notes: list[Note],
    losses: list[dict[str, float]],
    seconds: dict[str, float],
    restarts: int,
    parameters: int,
    **facts: Any,
) -> dict[str, Any]:
    """Everything needed to repeat a run and to judge its result, JSON-ready.

    Parameters
    ----------
    image : Image
    recipe : Recipe
    device : torch.device or None
        None if nothing had to be fitted.
    notes : list of Note
    losses : list of dict
        Last losses of each fit; the record has their means.
    seconds : dict of str to float
    restarts, parameters : int
    **facts
        What only this task has to tell: mask, regions, noise, kernel.

    Returns
    -------
    dict
    """
    threads, name = 0, ""
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
            # to hash a lazy image of a viewer would be to read all of it
            "sha256": None if isinstance(image.data, Overlay) else array_hash(image.data),
            "shape": list(image.shape),
            "dtype": image.dtype.name,
            "axes": image.axes,
            "pixel_size": dict(image.pixel_size),
            "unit": dict(image.unit),
        },
        **facts,
        "parameters": parameters,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "losses": {
            name: sum(one.get(name, 0.0) for one in losses) / len(losses)
            for name in (losses[0] if losses else ())
        },
        "restarts": restarts,
        "notes": [{"level": note.level, "text": note.text} for note in notes],
    }
