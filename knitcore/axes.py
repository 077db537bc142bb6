"""Images with named axes, and their way to the fit's layout and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    """

    data: Any
    axes: str
    pixel_size: dict[str, float] = field(default_factory=dict)
    unit: dict[str, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    alpha: bool = False
    name: str = "image"
    extra: dict[str, Any] = field(default_factory=dict)

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
