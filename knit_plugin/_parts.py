"""Part of a layer as a layer of its own: the view for a preview, some planes for a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from knit_plugin._layers import Taken
from knitcore import InputError

Box = tuple[tuple[int, int], ...]


def cut(taken: Taken, box: Box) -> Taken:
    """A part of an image layer, at its place in the world.

    Parameters
    ----------
    taken : Taken
    box : tuple of (int, int)
        First and past-the-last index along each axis of the layer.

    Returns
    -------
    Taken
        Its data is a view, or as lazy as before.
    """
    if all(low == 0 and high == n for (low, high), n in zip(box, taken.shape, strict=True)):
        return taken
    ndim = taken.ndim
    data = taken.data[tuple(slice(low, high) for low, high in box)]
    start = np.array([low for low, _ in box], float)
    matrix = taken.matrix.copy()
    shift = matrix[:ndim, :ndim] @ start
    matrix[:ndim, ndim] += shift
    # translate comes before affine
    affine = np.asarray(taken.state["affine"], float)[:ndim, :ndim]
    moved = np.asarray(taken.state["translate"], float) + np.linalg.solve(affine, shift)
    state = {key: value for key, value in taken.state.items() if key != "plane"}
    state["translate"] = moved
    shape = tuple(data.shape[:ndim])
    return replace(taken, data=data, state=state, shape=shape, matrix=matrix)


def current_index(layer: Any, viewer: Any, shape: tuple[int, ...]) -> list[int]:
    """The pixel of a layer that the viewer's sliders stand at.

    Parameters
    ----------
    layer : napari layer
    viewer : napari viewer
    shape : tuple of int
        Of the layer's level 0.

    Returns
    -------
    list of int
    """
    point = np.asarray(viewer.dims.point, float)[-len(shape) :]
    at = np.floor(np.asarray(layer.world_to_data(point), float) + 0.5)
    return [int(np.clip(i, 0, n - 1)) for i, n in zip(at, shape, strict=True)]


def current_plane(taken: Taken, layer: Any, viewer: Any) -> Box:
    """The plane in view: all of Y, X and channels, one index of each other axis.

    Parameters
    ----------
    taken : Taken
    layer, viewer
        As for `current_index`.

    Returns
    -------
    Box
    """
    at = current_index(layer, viewer, taken.shape)
    return tuple(
        (0, n) if letter in "YXC" else (i, i + 1)
        for letter, n, i in zip(taken.axes[: taken.ndim], taken.shape, at, strict=True)
    )


def in_view(taken: Taken, layer: Any, viewer: Any, most: int) -> Box:
    """What of the current plane is on the screen, no more than `most` pixels high and wide.

    Parameters
    ----------
    taken : Taken
    layer, viewer
        As for `current_index`.
    most : int

    Returns
    -------
    Box
    """
    box = list(current_plane(taken, layer, viewer))
    corners = np.asarray(layer.corner_pixels, float)[:, : taken.ndim]
    if getattr(layer, "multiscale", False):
        factors = np.asarray(layer.downsample_factors[layer.data_level])
        corners = corners * factors[: taken.ndim]
    # where the camera looks: the corners above are cut to the layer, or all of it in a small pyramid
    shown = set(viewer.dims.displayed)
    point = np.asarray(viewer.dims.point, float)
    for axis, at in zip(viewer.dims.displayed, viewer.camera.center[-len(shown) :], strict=True):
        point[axis] = at
    middle = np.asarray(layer.world_to_data(point[-taken.ndim :]), float)
    lead = viewer.dims.ndim - taken.ndim
    for axis, letter in enumerate(taken.axes[: taken.ndim]):
        if letter not in "YX":
            continue
        n = taken.shape[axis]
        low, high = 0, n
        if axis + lead in shown and corners[1, axis] > corners[0, axis]:
            low, high = int(corners[0, axis]), min(n, int(np.ceil(corners[1, axis])) + 1)
            low = max(0, min(low, n - 1))
        if high - low > most:
            seen = axis + lead in shown
            centre = round(middle[axis]) if seen else (low + high) // 2
            low = int(np.clip(centre - most // 2, low, high - most))
            high = low + most
        box[axis] = (low, high)
    return tuple(box)


def planes_between(taken: Taken, first: int, last: int) -> Box:
    """Some planes of a stack: indices along its first axis, both ends included.

    Parameters
    ----------
    taken : Taken
    first, last : int

    Returns
    -------
    Box

    Raises
    ------
    InputError
        The stack has no such planes.
    """
    n = taken.shape[0]
    if not 0 <= first <= last < n:
        raise InputError(f"planes from {first} to {last}: the stack has those from 0 to {n - 1}")
    return ((first, last + 1), *((0, side) for side in taken.shape[1:]))
