"""An array too large for the memory, with some boxes of it replaced: results over a lazy image."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from knitcore.errors import FileError

Span = tuple[tuple[int, int], ...]


class Overlay:
    """A lazy array that can be written to; only what was written is held in memory.

    Reads like an array, by whole numbers, slices and Ellipsis. May be read by one thread while another
    writes.

    Parameters
    ----------
    source : array-like
        With ``shape``, ``dtype`` and slicing, such as a dask or Zarr array, or another `Overlay`. Never
        changed.
    inner : int
        So many last axes are a plane, which is read as a whole and kept until another one is asked for.
    name : str
        For messages.

    Raises
    ------
    FileError
        On reading: the source cannot be read.

    Examples
    --------
    >>> over = Overlay(np.zeros((2, 3, 3), np.uint8))
    >>> over[1:2, :2, :2] = np.ones((1, 2, 2), np.uint8)
    >>> over[1].tolist(), int(np.asarray(over).sum())
    ([[1, 1, 0], [1, 1, 0], [0, 0, 0]], 4)
    """

    def __init__(self, source: Any, inner: int = 2, name: str = "image") -> None:
        self.source, self.inner, self.name = source, inner, name
        self.shape: tuple[int, ...] = tuple(source.shape)
        self.dtype = np.dtype(source.dtype).newbyteorder("=")
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize
        self._boxes: dict[Span, np.ndarray] = {}
        self._plane: tuple[tuple[int, ...], np.ndarray] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        span, numbers = self._span(index)
        boxes = list(self._boxes.items())
        spans = [box for box, _ in boxes]
        if span in spans:  # the source has nothing to add to what was written there
            begin = spans.index(span)
            values, boxes = boxes[begin][1].copy(), boxes[begin + 1 :]
        else:
            values = self._read(span)
        for box, written in boxes:
            shared = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, span, strict=True)]
            if all(low < high for low, high in shared):
                here = tuple(
                    slice(low - s, high - s)
                    for (low, high), (s, _) in zip(shared, span, strict=True)
                )
                there = tuple(
                    slice(low - s, high - s)
                    for (low, high), (s, _) in zip(shared, box, strict=True)
                )
                values[here] = written[there]
        return values[numbers]

    def __setitem__(self, index: Any, values: np.ndarray) -> None:
        span, numbers = self._span(index)
        written = np.empty([high - low for low, high in span], self.dtype)
        written[numbers] = values
        self._boxes.pop(span, None)  # what is written last goes on top
        self._boxes[span] = written

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def _span(self, index: Any) -> tuple[Span, tuple[Any, ...]]:
        """The box of an index, and what is left to do: which of its axes go, and in which order."""
        told = index if isinstance(index, tuple) else (index,)
        if Ellipsis in told:
            at = told.index(Ellipsis)
            told = told[:at] + (slice(None),) * (self.ndim - len(told) + 1) + told[at + 1 :]
        told += (slice(None),) * (self.ndim - len(told))
        span: list[tuple[int, int]] = []
        rest: list[Any] = []
        for one, n in zip(told, self.shape, strict=True):
            if isinstance(one, slice):
                steps = range(n)[one]
                low, high = (min(steps), max(steps) + 1) if len(steps) else (0, 0)
                span.append((low, high))
                rest.append(slice(None, None, steps.step))
            else:
                number = range(n)[int(one)]
                span.append((number, number + 1))
                rest.append(0)
        return tuple(span), tuple(rest)

    def _read(self, span: Span) -> np.ndarray:
        """A copy of the source's part."""
        outer = span[: max(0, self.ndim - self.inner)]
        if outer and all(high - low == 1 for low, high in outer):
            numbers = tuple(low for low, _ in outer)
            with self._lock:
                if self._plane is None or self._plane[0] != numbers:
                    self._plane = (numbers, self._get(numbers))
                plane = self._plane[1]
            part = plane[tuple(slice(low, high) for low, high in span[len(outer) :])]
            return part[(None,) * len(outer)].astype(self.dtype)
        return self._get(tuple(slice(low, high) for low, high in span)).astype(self.dtype)

    def _get(self, index: tuple[Any, ...]) -> np.ndarray:
        try:
            return np.asarray(self.source[index])
        except FileError:
            raise
        except Exception as error:
            raise FileError(
                f"{self.name}: its data cannot be read ({error}). Is the file behind it still there?"
            ) from error
