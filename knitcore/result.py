"""What a task gives back, and the record that repeats it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from knitcore.axes import Image

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
