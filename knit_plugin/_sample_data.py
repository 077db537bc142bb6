"""The samples of File > Open Sample: what is damaged with the mask of it, and what is noisy."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

from knitcore import Image, read_image, read_mask

LayerData = list[tuple[Any, dict[str, Any], str]]


def damaged_micrograph() -> LayerData:
    """Read the damaged micrograph that ships with the package.

    Returns
    -------
    list of (data, keyword arguments, layer type)
        An image layer (a neuron, 256×256 uint16, pixels of 0.16 µm) and a Labels layer, 1 where the
        image is lost.
    """
    return _with_damage("damaged_micrograph.tif", "damaged_micrograph_mask.png")


def damaged_stack() -> LayerData:
    """Read the damaged z-stack that ships with the package.

    Returns
    -------
    list of (data, keyword arguments, layer type)
        An image layer (a nucleus, 10×64×64 uint16, voxels of 0.5 µm) and a Labels layer, 1 where the
        image is lost.
    """
    return _with_damage("damaged_stack.tif", "damaged_stack_mask.tif")


def noisy_micrograph() -> LayerData:
    """Read the noisy micrograph that ships with the package.

    Returns
    -------
    list of (data, keyword arguments, layer type)
        An image layer (cells with small bright spots, 256×256 uint16, pixels of 0.23 µm).
    """
    image = _read("noisy_micrograph.tif")
    # the few brightest pixels are noise, and would leave all else in the dark
    look = {"colormap": "gray", "contrast_limits": (470, 1300)}
    return [(image.data, {"name": "Noisy micrograph", **look, **place_in_layers(image)}, "image")]


def place_in_layers(image: Image) -> dict[str, Any]:
    """Scale, units and axis labels of an image, as a layer takes them.

    Parameters
    ----------
    image : Image

    Returns
    -------
    dict
        One value for each axis but S.
    """
    axes = image.axes.removesuffix("S")
    return {
        "scale": [image.pixel_size.get(axis, 1.0) for axis in axes],
        "units": [image.unit.get(axis, "pixel") for axis in axes],
        "axis_labels": [axis.lower() for axis in axes],
    }


def _read(name: str, *, mask: bool = False) -> Image:
    with as_file(files("knitcore") / "samples" / name) as path:
        return read_mask(path) if mask else read_image(path)


def _with_damage(name: str, mask_name: str) -> LayerData:
    image, mask = _read(name), _read(mask_name, mask=True)
    title = name.removesuffix(".tif").replace("_", " ").capitalize()
    place = place_in_layers(image)
    lost = (mask.data > 0).astype("uint8")
    return [
        (image.data, {"name": title, "colormap": "gray", **place}, "image"),
        (lost, {"name": "Damage", **place}, "labels"),
    ]
