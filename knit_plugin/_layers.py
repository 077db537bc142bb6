"""From napari layers to the core: what was chosen, on the image's own grid."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from knitcore import Image, InputError, Note, Progress
from knitcore.errors import Cancelled, FileError
from knitcore.events import CancelToken, Event

# Arrays up to this size are copied the moment Run is pressed, larger ones first thing in the worker.
COPY_AT_ONCE = 64 * 2**20
READ_BYTES = 32 * 2**20  # read at a time, so that Cancel is heard between reads

_LETTER_OF = {
    **dict.fromkeys(("x", "column", "columns", "width"), "X"),
    **dict.fromkeys(("y", "row", "rows", "height"), "Y"),
    **dict.fromkeys(("z", "plane", "planes", "depth", "slice", "slices"), "Z"),
    **dict.fromkeys(("t", "time", "frame", "frames", "timepoint"), "T"),
    **dict.fromkeys(("c", "channel", "channels"), "C"),
}


@dataclass(frozen=True)
class Taken:
    """A layer as it was when Run was pressed; plain data that a thread may use.

    Attributes
    ----------
    name, kind : str
        The layer's name, and "image", "labels", "shapes" or "points".
    data : array-like or list of ndarray
        Level 0 of the layer's data, lazy if that is; for Shapes the corners of each shape.
    state : dict
        The layer's properties, as napari's layer constructors take them.
    shape : tuple of int
        Of `data`, without an RGB axis; empty for Shapes and Points.
    matrix : ndarray, (D + 1, D + 1)
        From data to world coordinates, homogeneous.
    units : tuple
        Unit of each world axis (pint units).
    """

    name: str
    kind: str
    data: Any
    state: dict[str, Any]
    shape: tuple[int, ...]
    matrix: np.ndarray
    units: tuple[Any, ...]

    @property
    def ndim(self) -> int:
        return len(self.matrix) - 1

    @property
    def rgb(self) -> bool:
        return bool(self.state.get("rgb"))

    @property
    def axes(self) -> str:
        return axis_letters(self.state["axis_labels"]) + "S" * self.rgb


def own(taken: Taken) -> Taken:
    """A layer whose array is the run's own, if it is an array of up to 64 MiB.

    Parameters
    ----------
    taken : Taken

    Returns
    -------
    Taken
    """
    data = taken.data
    if isinstance(data, np.ndarray) and data.nbytes <= COPY_AT_ONCE:
        return replace(taken, data=data.copy())
    return taken


def take(layer: Any, *, copy: bool = True) -> Taken:
    """Note down all that a run needs from a layer.

    Parameters
    ----------
    layer : napari Image, Labels, Shapes or Points layer
    copy : bool
        Copy arrays of up to 64 MiB now, so that later edits of the layer do not count. (Larger
        ones are copied by `read`, lazy ones computed by it.)

    Returns
    -------
    Taken
    """
    # The state is a plain dict, free of the proxies that napari puts round layers for plugins.
    data, state, kind = layer.as_layer_data_tuple()
    if kind in ("image", "labels"):
        data = data[0] if state.get("multiscale") else data
    ndim = layer.ndim
    origin = np.asarray(layer.data_to_world(np.zeros(ndim)), float)
    matrix = np.eye(ndim + 1)
    matrix[:ndim, ndim] = origin
    for axis, step in enumerate(np.eye(ndim)):
        matrix[:ndim, axis] = np.asarray(layer.data_to_world(step), float) - origin
    shape = tuple(data.shape[:ndim]) if kind in ("image", "labels") else ()
    taken = Taken(state["name"], kind, data, state, shape, matrix, tuple(state["units"]))
    return own(taken) if copy else taken


def axis_letters(labels: tuple[str, ...]) -> str:
    """The core's letter for each axis of a layer.

    Parameters
    ----------
    labels : tuple of str
        napari's axis labels ("z", "time", ...; by default "-3", "-2", "-1").

    Returns
    -------
    str
        Known names give X, Y, Z, T, C. Unless X and Y are among them, the last two axes are Y and X;
        other axes get letters without meaning and are fitted plane by plane.
    """
    letters = [_LETTER_OF.get(str(label).strip().lower(), "") for label in labels]
    if "X" not in letters or "Y" not in letters:
        letters = [letter if letter not in ("X", "Y") else "" for letter in letters]
        letters[-2:] = ["Y", "X"]
    free = iter("QRUVWMNOP")
    seen: set[str] = set()
    for i, letter in enumerate(letters):
        letters[i] = letter if letter and letter not in seen else next(free)
        seen.add(letters[i])
    return "".join(letters)


def read(taken: Taken, cancel: CancelToken | None = None) -> Generator[Event, None, np.ndarray]:
    """Get a layer's array into memory; for a worker thread.

    Parameters
    ----------
    taken : Taken
        Of an image or Labels layer.
    cancel : object with ``is_set()``, optional

    Yields
    ------
    Progress
        Between reads of about 32 MiB.

    Returns
    -------
    ndarray
        The run's own copy.

    Raises
    ------
    FileError
        A lazy layer's data cannot be read.
    Cancelled
    """
    data = taken.data
    if isinstance(data, np.ndarray):
        # small arrays were copied by `take` already
        return data if data.nbytes <= COPY_AT_ONCE else data.copy()
    array = np.empty(data.shape, data.dtype)
    rows = max(1, int(READ_BYTES / max(1, array.nbytes / max(1, len(array)))))
    chunks = getattr(data, "chunks", None)  # dask: a tuple a dimension; zarr: a number
    if chunks:
        first = chunks[0] if isinstance(chunks[0], int) else max(chunks[0])
        rows = max(first, rows // first * first)
    for start in range(0, len(array), rows):
        if cancel is not None and cancel.is_set():
            raise Cancelled(f"stopped while reading layer {taken.name!r}")
        yield Progress(0.0, f"read layer {taken.name}: {100 * start // len(array)} %")
        try:
            array[start : start + rows] = np.asarray(data[start : start + rows])
        except Exception as error:
            raise FileError(
                f"layer {taken.name!r}: its data cannot be read ({error}). "
                "Is the file behind it still there?"
            ) from error
    return array


def core_image(taken: Taken, array: np.ndarray) -> Image:
    """Give an image layer's array its axes, pixel size and units.

    Parameters
    ----------
    taken : Taken
    array : ndarray
        As returned by `read`.

    Returns
    -------
    Image
    """
    steps = np.linalg.norm(taken.matrix[:-1, :-1], axis=0)
    letters = taken.axes[: taken.ndim]
    units = dict(zip(letters, (str(unit) for unit in taken.units), strict=True))
    plain = all(unit == "pixel" for unit in units.values()) and np.allclose(steps, 1)
    return Image(
        array,
        taken.axes,
        pixel_size={} if plain else dict(zip(letters, (float(s) for s in steps), strict=True)),
        unit={a: u for a, u in units.items() if u != "pixel"},
        alpha=taken.rgb and array.shape[-1] == 4,
        name=taken.name,
    )


def memory_needed(taken: Taken, pixels: int | None = None, share: float = 1.0) -> int:
    """Bytes a run takes for an image layer's copy, preview, result, std and synthesised pixels.

    Parameters
    ----------
    taken : Taken
    pixels : int, optional
        How many the result has, if not as many as the layer.
    share : float
        Of the pixels, those that are held in memory; the mask is held for all.

    Returns
    -------
    int
    """
    each, own = np.dtype(taken.data.dtype).itemsize, int(np.prod(taken.data.shape))
    made = own if pixels is None else pixels
    return int(share * (own * each + made * (2 * each + 4))) + made


def image_to_mask(image: Taken, mask: Taken) -> np.ndarray:
    """Where the image's pixels lie in the mask layer.

    Parameters
    ----------
    image, mask : Taken
        A mask of fewer dimensions belongs to the image's last ones, as napari shows it.

    Returns
    -------
    ndarray, (D + 1, D + 1)
        From data coordinates of the image's last D axes to the mask's, homogeneous.

    Raises
    ------
    InputError
        The mask has more dimensions, or the layers' axes do not fit together.
    """
    lead, depth = image.ndim - mask.ndim, mask.ndim
    if lead < 0:
        raise InputError(
            f"mask layer {mask.name!r} has {mask.ndim} dimensions, image layer {image.name!r} has "
            f"{image.ndim}: use a mask of as many or fewer dimensions"
        )
    if lead and not np.allclose(image.matrix[lead:-1, :lead], 0):
        raise InputError(_turned(image, mask))
    world = np.eye(depth + 1)
    world[:depth, :depth] = image.matrix[lead:-1, lead:-1]
    world[:depth, depth] = image.matrix[lead:-1, -1]
    pairs = list(zip(image.units[lead:], mask.units, strict=True))
    if all(ours.dimensionality == theirs.dimensionality for ours, theirs in pairs):
        # napari converts units that can be converted and takes bare numbers otherwise
        factors = [float((1 * ours).to(theirs).magnitude) for ours, theirs in pairs]
        world[:depth] *= np.array(factors)[:, None]
    return np.linalg.inv(mask.matrix) @ world


def _turned(image: Taken, mask: Taken) -> str:
    return (
        f"mask layer {mask.name!r} is rotated or sheared against image layer {image.name!r}: "
        "give both layers the same transform, or paint the mask in a new Labels layer"
    )


def nearest_indices(image: Taken, mask: Taken) -> list[np.ndarray]:
    """For each of the image's last axes, the mask index nearest to each pixel.

    Parameters
    ----------
    image, mask : Taken

    Returns
    -------
    list of ndarray of int
        May lie outside the mask.

    Raises
    ------
    InputError
        As `image_to_mask`; also when one layer is rotated or sheared against the other.
    """
    matrix = image_to_mask(image, mask)
    depth = mask.ndim
    sides = np.array(image.shape[image.ndim - depth :])
    skew = matrix[:depth, :depth] * (1 - np.eye(depth))
    if np.any(np.abs(skew) * sides > 0.25):  # less than a quarter pixel over the whole image
        raise InputError(_turned(image, mask))
    steps, shifts = np.diag(matrix)[:depth], matrix[:depth, depth]
    # the small term keeps rounding errors of the matrix from deciding at pixel borders
    return [
        np.floor(np.arange(side) * step + shift + 0.5 + 1e-6).astype(np.int64)
        for side, step, shift in zip(sides, steps, shifts, strict=True)
    ]


def labels_on_grid(mask: Taken, image: Taken, array: np.ndarray) -> tuple[np.ndarray, list[Note]]:
    """Bring a Labels array onto the image's pixels, by world coordinates.

    Parameters
    ----------
    mask, image : Taken
    array : ndarray of int or bool
        The mask layer's data.

    Returns
    -------
    ndarray
        Labels on the image's last ``mask.ndim`` axes, 0 outside the mask layer.
    list of Note
        What the user should know: resampled, or partly outside the image.
    """
    indices = nearest_indices(image, mask)
    if array.shape == tuple(map(len, indices)) and all(
        np.array_equal(index, np.arange(len(index))) for index in indices
    ):
        return array, []
    notes = []
    inside = [
        (index >= 0) & (index < side) for index, side in zip(indices, array.shape, strict=True)
    ]
    taken = array[np.ix_(*(i[ok] for i, ok in zip(indices, inside, strict=True)))]
    labels = np.zeros(tuple(map(len, indices)), array.dtype)
    labels[np.ix_(*inside)] = taken
    steps = [abs(int(i[-1] - i[0])) / max(1, len(i) - 1) for i in indices]
    if any(abs(step - 1) > 1e-3 for step, i in zip(steps, indices, strict=True) if len(i) > 1):
        notes.append(
            Note(
                f"mask layer {mask.name!r} has another pixel size than the image: "
                "its nearest pixel was taken"
            )
        )
    box = tuple(
        slice(int(i[ok].min()), int(i[ok].max()) + 1) if ok.any() else slice(0)
        for i, ok in zip(indices, inside, strict=True)
    )
    total = np.count_nonzero(array)
    outside = total - np.count_nonzero(array[box])
    if outside:
        notes.append(
            Note(
                f"{100 * outside / total:.3g} % of mask layer {mask.name!r} lies outside the image "
                "and is ignored; if that is wrong, give both layers the same scale and translate",
                "warning",
            )
        )
    return labels, notes


def shapes_on_grid(mask: Taken, image: Taken) -> np.ndarray:
    """Draw the shapes of a Shapes layer on the image's pixels.

    Parameters
    ----------
    mask : Taken
        Of a Shapes layer. Closed shapes are filled; lines and paths are as wide as their edge.
    image : Taken

    Returns
    -------
    ndarray of int32
        On the image's last ``mask.ndim`` axes: 0, or the shape's place in the layer, from 1 on.

    Raises
    ------
    InputError
        As `image_to_mask`. (Rotated layers are fine: corners are carried over one by one.)
    """
    from napari.layers import Shapes
    from scipy.ndimage import distance_transform_edt

    back = np.linalg.inv(image_to_mask(image, mask))
    depth = mask.ndim
    grid = image.shape[image.ndim - depth :]
    labels = np.zeros(grid, np.int32)
    pixel = float(np.mean(np.abs(np.linalg.det(back[depth - 2 : depth, depth - 2 : depth])))) ** 0.5
    state = mask.state
    for number, corners in enumerate(mask.data, start=1):
        corners = np.asarray(corners, float) @ back[:depth, :depth].T + back[:depth, depth]
        corners = corners.round(4)  # a border on pixel centres must not depend on rounding errors
        planes = tuple(
            slice(max(0, round(low)), max(0, round(high) + 1))
            for low, high in zip(corners[:, :-2].min(0), corners[:, :-2].max(0), strict=True)
        )
        kind = state["shape_type"][number - 1]
        drawn = Shapes([corners[:, -2:]], shape_type=kind).to_labels(grid[-2:]) > 0
        width = float(state["edge_width"][number - 1]) * pixel
        if kind in ("line", "path") and width > 1 and drawn.any():
            drawn = distance_transform_edt(~drawn) <= (width - 1) / 2
        labels[planes] = np.where(drawn, number, labels[planes])
    return labels


def points_on_grid(mask: Taken, image: Taken) -> np.ndarray:
    """Draw the points of a Points layer as discs on the image's pixels.

    Parameters
    ----------
    mask : Taken
        Of a Points layer. Each point covers a disc of its size in its own plane, and one pixel at
        least.
    image : Taken

    Returns
    -------
    ndarray of int32
        On the image's last ``mask.ndim`` axes: 0, or the point's place in the layer, from 1 on.

    Raises
    ------
    InputError
        As `image_to_mask`.
    """
    there = image_to_mask(image, mask)
    depth = mask.ndim
    back = np.linalg.inv(there)
    grid = image.shape[image.ndim - depth :]
    labels = np.zeros(grid, np.int32)
    points = np.asarray(mask.data, float).reshape(-1, depth)
    sizes = np.broadcast_to(np.asarray(mask.state["size"], float), len(points))
    # a pixel's step along rows or columns, in the points' own coordinates
    step = there[:depth, depth - 2 : depth]
    reach = np.linalg.norm(back[depth - 2 : depth, depth - 2 : depth], 2)
    for number, (point, size) in enumerate(zip(points, sizes, strict=True), start=1):
        at = (back[:depth, :depth] @ point + back[:depth, depth]).round(4)
        nearest = np.floor(at + 0.5).astype(int)
        if any(not 0 <= n < side for n, side in zip(nearest[:-2], grid[:-2], strict=True)):
            continue
        low = np.maximum(np.floor(at[-2:] - reach * size / 2), 0).astype(int)
        high = np.minimum(np.ceil(at[-2:] + reach * size / 2) + 1, grid[-2:]).astype(int)
        if np.any(high <= low):
            continue
        y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
        off = step @ np.stack([y.ravel() - at[-2], x.ravel() - at[-1]])
        near = np.linalg.norm(off, axis=0).reshape(y.shape) <= size / 2 + 1e-6
        near |= (y == nearest[-2]) & (x == nearest[-1])
        labels[tuple(nearest[:-2])][low[0] : high[0], low[1] : high[1]][near] = number
    return labels


def core_mask(
    mask: Taken, image: Taken, cancel: CancelToken | None = None
) -> Generator[Event, None, Image]:
    """The mask as the core takes it: labels on the image's grid; for a worker thread.

    Parameters
    ----------
    mask : Taken
        Of a Labels, Shapes or Points layer.
    image : Taken
    cancel : object with ``is_set()``, optional

    Yields
    ------
    Progress, Note

    Returns
    -------
    Image
        Non-zero where the image is to be filled, on its last ``mask.ndim`` axes.
    """
    refuse_unfit(mask, image)
    if mask.kind == "shapes":
        yield Progress(0.0, f"draw the shapes of {mask.name}")
        labels = shapes_on_grid(mask, image)
    elif mask.kind == "points":
        yield Progress(0.0, f"draw the points of {mask.name}")
        labels = points_on_grid(mask, image)
    else:
        array = yield from read(mask, cancel)
        labels, notes = labels_on_grid(mask, image, array)
        yield from notes
    planes = labels.reshape(-1, *labels.shape[-2:])
    marked = sum(bool(plane.any()) for plane in planes)
    if len(planes) > 1 and 0 < marked < len(planes):
        yield Note(f"the mask covers {marked} of {len(planes)} planes; the others stay as they are")
    return Image(labels, image.axes[image.ndim - mask.ndim : image.ndim], name=mask.name)


def refuse_unfit(mask: Taken, image: Taken) -> None:
    """Say what is wrong with a mask layer, as far as that is seen without its pixels.

    Parameters
    ----------
    mask, image : Taken

    Raises
    ------
    InputError
        No layer that covers pixels, too many dimensions, or rotated against the image.
    """
    if mask.kind not in ("labels", "shapes", "points"):
        raise InputError(
            f"{mask.name!r} is a {mask.kind.capitalize()} layer, which covers no pixels: "
            "use Labels, Shapes or Points to mark what is to be filled"
        )
    if mask.kind == "labels":
        nearest_indices(image, mask)
    else:
        image_to_mask(image, mask)
