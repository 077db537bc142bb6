"""Save layers as files that keep pixel size, units and axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from knit_plugin._layers import axis_letters
from knitcore import FileError, Image, InputError, KnitError, read_image
from knitcore.files import write_image as write_file

_PLAIN = ("pixel", "", None)


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer; napari calls it for File > Save.

    Parameters
    ----------
    path : str
        .tif, .ome.tif or .png.
    data : array-like, or list of them
        Of a multiscale layer level 0 is written.
    attributes : dict
        The layer's properties.

    Returns
    -------
    list of str
        The path, if all went well.

    Raises
    ------
    FileError
        The format cannot hold the layer, or the file cannot be written.
    """
    if attributes.get("multiscale") or isinstance(data, list):
        data = data[0]
    return _write(path, np.asarray(data), attributes)


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer, in the smallest integer type that holds its labels.

    Parameters
    ----------
    path, attributes
        As for `write_image`.
    data : array-like of int

    Returns
    -------
    list of str
    """
    labels = np.asarray(data[0] if attributes.get("multiscale") else data)
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if labels.size and labels.min() >= 0:
        for small in (np.uint8, np.uint16, np.uint32):
            if labels.max() <= np.iinfo(small).max and labels.dtype.itemsize > small().itemsize:
                labels = labels.astype(small)
                break
    return _write(path, labels, attributes)


def _write(path: str, array: np.ndarray, attributes: dict[str, Any]) -> list[str]:
    rgb = bool(attributes.get("rgb"))
    ndim = array.ndim - rgb
    labels = attributes.get("axis_labels") or tuple(str(i - ndim) for i in range(ndim))
    letters = axis_letters(tuple(labels))
    scale = [abs(float(s)) for s in attributes.get("scale", (1.0,) * ndim)]
    units = [str(u) for u in attributes.get("units") or ("pixel",) * ndim]
    calibrated = any(u not in _PLAIN for u in units) or not np.allclose(scale, 1)
    size = dict(zip(letters, scale, strict=True)) if calibrated else {}
    unit = {a: u for a, u in zip(letters, units, strict=True) if u not in _PLAIN}
    if turned := [k for k in ("rotate", "shear", "affine") if not _is_plain(k, attributes)]:
        from napari.utils.notifications import show_warning

        # the file cannot say it, and a later overlay would be wrong in silence
        show_warning(f"{path}: holds pixels, pixel size and units, but not {' and '.join(turned)}")
    image = Image(
        array,
        letters + "S" * rgb,
        pixel_size=size,
        unit=unit,
        alpha=rgb and array.shape[-1] in (2, 4),
        name=str(attributes.get("name", "layer")),
    )
    if lost := _not_kept(image, path):
        from napari.utils.notifications import show_warning

        show_warning(f"{path}: this format does not keep {lost}")
    try:
        write_file(image, path, overwrite=True)  # napari has asked already
    except InputError as error:
        raise FileError(str(error)) from None
    return [path]


def _not_kept(image: Image, path: str) -> str:
    """What a format forgets, in words: colours; sizes without a unit, or of an axis it cannot name."""
    if "S" in image.axes and Path(path).suffix == ".zarr":
        return "colours as such: they become channels; .tif keeps them"
    corner = tuple(slice(None if axis == "S" else 2) for axis in image.axes)
    few = replace(image, data=np.asarray(image.data)[corner])
    with TemporaryDirectory(prefix="knit-") as folder:
        try:
            told = Path(folder, Path(path).name)
            write_file(few, told, overwrite=True)
            known = read_image(told).pixel_size
        except (KnitError, OSError):
            return ""  # told when the layer itself is written
    lost = [a for a, n in image.pixel_size.items() if not np.isclose(known.get(a, 1.0), n)]
    where = f" along {', '.join(lost)}" if len(lost) < len(image.pixel_size) else ""
    return f"the pixel size{where}; .ome.zarr does" if lost else ""


def _is_plain(name: str, attributes: dict[str, Any]) -> bool:
    value = attributes.get(name)
    if value is None:
        return True
    value = np.asarray(value, float)
    if name == "shear":
        return bool(np.allclose(value, 0))
    return bool(value.ndim == 2 and np.allclose(value, np.eye(len(value))))
