"""What the peers share: a picture as planes in [0, 1], and a clock that reports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from knitcore.errors import InputError
from knitcore.events import EVENT_SECONDS, Progress


@dataclass(frozen=True)
class Scaling:
    """How a picture became planes; `restore` is the way back.

    Attributes
    ----------
    low, span : float
        Grey level that became 0, and grey levels to 1.
    channels : bool
        The picture has a channel axis (its last).
    """

    low: float
    span: float
    channels: bool

    def restore(self, planes: np.ndarray) -> np.ndarray:
        """Planes (C, Y, X) to the picture, float32, (Y, X) or (Y, X, C), in grey levels."""
        picture = planes.astype(np.float32) * np.float32(self.span) + np.float32(self.low)
        return np.moveaxis(picture, 0, -1) if self.channels else picture[0]


def to_planes(image: Any, known: np.ndarray | None = None) -> tuple[np.ndarray, Scaling]:
    """A picture as planes in [0, 1], by the least and greatest known value.

    Integers of 8 bits are divided by 255, as in the articles.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    known : ndarray of bool, shape (Y, X), optional
        Pixels that count for the range; all others become 0.

    Returns
    -------
    planes : ndarray of float32, shape (C, Y, X)
    scaling : Scaling

    Raises
    ------
    InputError
        Another number of axes, or no known pixel.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.dtype.kind not in "biuf":
        raise InputError(
            f"a picture (Y, X) or (Y, X, C) is needed, not {image.dtype} {image.shape}"
        )
    planes = np.moveaxis(np.atleast_3d(image).astype(np.float64), -1, 0)
    seen = planes if known is None else planes[:, known]
    if not seen.size:
        raise InputError("no known pixel is left")
    low, high = (0.0, 255.0) if image.dtype == np.uint8 else (float(seen.min()), float(seen.max()))
    span = high - low or 1.0
    planes = (planes - low) / span
    if known is not None:
        planes = np.where(known, planes, 0)
    return planes.astype(np.float32), Scaling(low, span, image.ndim == 3)


class Clock:
    """Progress of a loop of known length, at most ten a second.

    Parameters
    ----------
    total : int
        Steps in all.
    stage : str
        What is being done, in a few words.
    """

    def __init__(self, total: int, stage: str) -> None:
        self.total, self.stage, self.begin, self.told = max(total, 1), stage, time.monotonic(), 0.0

    def due(self, step: float) -> bool:
        """Whether to report after this step (counted from 1)."""
        return step == self.total or time.monotonic() - self.told >= EVENT_SECONDS

    def progress(self, step: float, **losses: float) -> Progress:
        """The report."""
        self.told = time.monotonic()
        seconds = self.told - self.begin
        left = seconds * (self.total - step) / step if step else float("nan")
        return Progress(step / self.total, self.stage, losses, seconds, left)
