"""Images with named axes, and their way to the fit's layout and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from knitcore.errors import InputError


@dataclass(frozen=True)
class Image:
    """An n-D image and what its numbers mean.

    Attributes
    ----------
    data : array-like
        Needs ``shape``, ``dtype``, ``ndim`` and slicing; NumPy, dask and zarr arrays will do.
    axes : str
        One capital letter an axis: T time, C channel, Z, Y, X, S samples (RGB, last axis).
    pixel_size : dict of str to float
        Step between pixels by axis letter; axes without a known size are left out.
    unit : dict of str to str
        Unit of that step by axis letter, such as "micrometer".
    channel_names : tuple of str
        Names along C, or empty.
    alpha : bool
        True if the last sample of S is transparency.
    name : str
        File or layer name for messages.
    extra : dict
        What a writer of the same format needs back (`knitcore.files`).
    first : dict of str to int
        For a part of a larger image: where it begins along an axis, by letter; see `cut`.
    """

    data: Any
    axes: str
    pixel_size: dict[str, float] = field(default_factory=dict)
    unit: dict[str, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    alpha: bool = False
    name: str = "image"
    extra: dict[str, Any] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.data.dtype)


def as_image(image: Any, axes: str | None = None, *, name: str = "image") -> Image:
    """Wrap an array, guessing its axes when none are given.

    Parameters
    ----------
    image : Image or array-like
        2-D to 6-D.
    axes : str, optional
        One letter an axis. Guessed otherwise: a last axis of 2 to 4 entries after two longer ones
        is S (grey + alpha, RGB, RGBA); the last two (or, before S, two) are Y and X; others are Q,
        fitted plane by plane.
    name : str
        For messages.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        Not an image, or axes that do not fit.
    """
    if isinstance(image, Image):
        if axes is None:
            return image
        image, name = image.data, image.name
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        image = np.asarray(image)
    shape = tuple(image.shape)
    if axes is None:
        samples = len(shape) >= 3 and 2 <= shape[-1] <= 4 and min(shape[-3:-1]) > 4
        planar = len(shape) - samples
        if planar < 2:
            raise InputError(f"{name}: has {len(shape)} axes; an image needs at least two")
        axes = "QRUVW"[: planar - 2] + "YX" + "S" * samples
    axes = axes.upper()
    if len(axes) != len(shape):
        raise InputError(f"{name}: axes {axes!r} name {len(axes)} axes, the image has {len(shape)}")
    if len(set(axes)) != len(axes) or not axes.isalpha() or not {"Y", "X"} <= set(axes):
        raise InputError(f"{name}: axes {axes!r} must be different letters with Y and X among them")
    alpha = axes.endswith("S") and shape[-1] in (2, 4)
    return Image(image, axes, alpha=alpha, name=name)


def cut(image: Image, axis: str, start: int, stop: int) -> Image:
    """A part of an image, whose planes get the names and random numbers that they have in the whole.

    Parameters
    ----------
    image : Image
        Its pixels may lie on disk: only the part is read.
    axis : str
        One of its letters but Y, X, C and S.
    start, stop : int

    Returns
    -------
    Image
    """
    index = tuple(slice(start, stop) if a == axis else slice(None) for a in image.axes)
    first = {**image.first, axis: image.first.get(axis, 0) + start}
    return replace(image, data=np.asarray(image.data[index]), first=first)


def check_kind(image: Image) -> None:
    """Refuse what is no image of real numbers.

    Parameters
    ----------
    image : Image

    Raises
    ------
    InputError
        Complex or other non-numbers, or no pixel at all.
    """
    if image.dtype.kind == "c":
        raise InputError(
            f"{image.name}: complex numbers; take the real part, the imaginary part or the "
            "magnitude first"
        )
    if image.dtype.kind not in "biuf":
        raise InputError(f"{image.name}: values of type {image.dtype} are not an image")
    if 0 in image.shape:
        sides = " x ".join(map(str, image.shape))
        raise InputError(f"{image.name}: holds no pixel (shape {sides})")


@dataclass(frozen=True)
class Layout:
    """Which axes of an image are looped over, fitted jointly, and spatial.

    Attributes
    ----------
    planes, channels, spatial : tuple of int
        Axis numbers; spatial ones in the order Z (or T), Y, X.
    samples : slice
        The samples of S that are data: all but alpha.
    step : tuple of float
        Pixel size along the spatial axes relative to X; 1 where unknown.
    """

    planes: tuple[int, ...]
    channels: tuple[int, ...]
    spatial: tuple[int, ...]
    samples: slice
    step: tuple[float, ...]


def choose_layout(image: Image, hole: np.ndarray | None, planes: str) -> Layout:
    """Decide what is a plane, a channel and a spatial axis.

    Parameters
    ----------
    image : Image
    hole : ndarray of bool, optional
        Shape of the image. Where a whole frame is lost, no plane-by-plane fit could fill it: "auto"
        then takes the time (or only other) axis as the third spatial one.
    planes : str
        The recipe's field: "auto", "none", or the letters of the axes fitted plane by plane.

    Returns
    -------
    Layout

    Raises
    ------
    InputError
        Letters the image does not have, or more than three spatial axes.
    """
    axes = image.axes
    free = [a for a in axes if a not in "CS"]
    if planes == "auto":
        looped = [a for a in free if a not in "ZYX"]
        others = tuple(i for i, a in enumerate(axes) if a in "YX" or (a == "S"))
        if (
            hole is not None
            and looped
            and "Z" not in axes
            and _lost_planes(hole, others, image.alpha)
        ):
            looped.remove("T" if "T" in looped else looped[-1])
    elif planes == "none":
        looped = []
    else:
        looped = list(planes)
        unknown = [a for a in looped if a not in free or a in "YX"]
        if unknown:
            raise InputError(
                f"{image.name}: planes={planes!r} names {''.join(unknown)}, which is not a plane axis "
                f"of this image (axes {axes})"
            )
    spatial = [a for a in free if a not in looped]
    spatial = [a for a in spatial if a not in "YX"] + ["Y", "X"]
    if len(spatial) > 3:
        raise InputError(
            f"{image.name}: axes {''.join(spatial)} would be fitted together; at most three can. "
            f"Name the others in planes (for example planes={spatial[0]!r})"
        )
    sizes = [image.pixel_size.get(a, math.nan) for a in spatial]
    same_unit = len({image.unit.get(a) for a in spatial}) == 1
    usable = same_unit and all(1e-9 < s < 1e9 for s in sizes)
    step = tuple(s / sizes[-1] for s in sizes) if usable else (1.0,) * len(spatial)
    # beyond a factor of 20 the coarse axis says nothing, and distances would overflow the region
    step = tuple(min(max(s, 0.05), 20.0) for s in step)
    return Layout(
        planes=tuple(axes.index(a) for a in looped),
        channels=tuple(i for i, a in enumerate(axes) if a in "CS"),
        spatial=tuple(axes.index(a) for a in spatial),
        samples=slice(0, image.shape[-1] - image.alpha if axes.endswith("S") else None),
        step=step,
    )


def _lost_planes(hole: np.ndarray, inside: tuple[int, ...], alpha: bool) -> bool:
    if alpha:
        hole = hole[..., :-1]
    return bool(hole.all(axis=inside).any())


def plane_numbers(image: Image, layout: Layout) -> Iterator[tuple[int, ...]]:
    """Every combination of indices along the plane axes; one empty tuple if there are none."""
    yield from np.ndindex(*(image.shape[a] for a in layout.planes))


def whole_plane(image: Image, layout: Layout, plane: tuple[int, ...]) -> tuple[int, ...]:
    """A plane's indices in the image that this one was cut from.

    Parameters
    ----------
    image : Image
    layout : Layout
    plane : tuple of int
        One of `plane_numbers`.

    Returns
    -------
    tuple of int
    """
    shifts = (image.first.get(image.axes[a], 0) for a in layout.planes)
    return tuple(i + shift for i, shift in zip(plane, shifts, strict=True))


def box_index(
    image: Image, layout: Layout, plane: tuple[int, ...], box: tuple[slice, ...]
) -> tuple[Any, ...]:
    """Index of one plane's spatial box in the image's own axes.

    Parameters
    ----------
    image : Image
    layout : Layout
    plane : tuple of int
        One of `plane_numbers`.
    box : tuple of slice
        Along the layout's spatial axes.

    Returns
    -------
    tuple of slice
        Plane axes are kept with length one, so that the index also names a box of the result.
    """
    index: list[Any] = [slice(None)] * len(image.axes)
    for axis, number in zip(layout.planes, plane, strict=True):
        index[axis] = slice(number, number + 1)
    for axis, part in zip(layout.spatial, box, strict=True):
        index[axis] = part
    if image.axes.endswith("S"):
        index[-1] = layout.samples
    return tuple(index)


def to_canvas(array: np.ndarray, layout: Layout) -> np.ndarray:
    """Bring a box into the fit's order.

    Parameters
    ----------
    array : ndarray
        In the image's axes, plane axes of length one.
    layout : Layout

    Returns
    -------
    ndarray, shape (C, *spatial)
        A view where possible; C runs over all channels and samples.
    """
    order = layout.planes + layout.channels + layout.spatial
    moved = np.transpose(array, order)
    return moved.reshape((-1, *(array.shape[a] for a in layout.spatial)))


def from_canvas(canvas: np.ndarray, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """Inverse of `to_canvas`.

    Parameters
    ----------
    canvas : ndarray, shape (C, *spatial)
    shape : tuple of int
        Shape of the box in the image's axes.
    layout : Layout

    Returns
    -------
    ndarray of that shape
    """
    order = layout.planes + layout.channels + layout.spatial
    moved = canvas.reshape([shape[a] for a in order])
    return np.transpose(moved, np.argsort(order))


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round and clip to an integer type, or convert to a float type.

    Parameters
    ----------
    values : ndarray of float
    dtype : dtype
        bool takes values from one half up as True.

    Returns
    -------
    ndarray of `dtype`
    """
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # the largest 64-bit integers have no float of their own
        low, high = float(limits.min), np.nextafter(float(limits.max), 0)
        high = float(limits.max) if int(float(limits.max)) <= limits.max else high
        return np.clip(np.rint(values), low, high).astype(dtype)
    limits_f = np.finfo(dtype)
    return np.clip(values, limits_f.min, limits_f.max).astype(dtype)
