"""The sample of File > Open Sample: a micrograph with holes, and the mask that marks them."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

from knitcore.files import read_image, read_mask


def damaged_micrograph() -> list[tuple[Any, dict[str, Any], str]]:
    """Read the damaged micrograph that ships with the package.

    Returns
    -------
    list of (data, keyword arguments, layer type)
        An image layer (a neuron, 256×256 uint16, pixels of 0.16 µm) and a Labels layer, 1 where the
        image is lost.
    """
    samples = files("knitcore") / "samples"
    with as_file(samples / "damaged_micrograph.tif") as path:
        image = read_image(path)
    with as_file(samples / "damaged_micrograph_mask.png") as path:
        mask = read_mask(path)
    place = {
        "scale": [image.pixel_size.get(axis, 1.0) for axis in image.axes],
        "units": [image.unit.get(axis, "pixel") for axis in image.axes],
        "axis_labels": [axis.lower() for axis in image.axes],
    }
    lost = (mask.data > 0).astype("uint8")
    return [
        (image.data, {"name": "Damaged micrograph", "colormap": "gray", **place}, "image"),
        (lost, {"name": "Damage", **place}, "labels"),
    ]
