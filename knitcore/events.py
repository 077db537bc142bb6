"""What a running task reports, and how a plain call waits for its end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np


@dataclass(frozen=True)
class Progress:
    """How far the whole task is; at most about ten a second.

    Attributes
    ----------
    fraction : float
        Share of the work done, 0 to 1, never falling.
    stage : str
        What is being done, in a few words ("fit 12 holes").
    losses : dict of str to float
        Current losses by the names of the article's equations; empty outside the fit.
    seconds, remaining : float
        Time since the start, and the estimate of what is left (NaN while unknown).
    """

    fraction: float
    stage: str
    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    remaining: float = float("nan")


@dataclass(frozen=True)
class Preview:
    """The current state of one box of the result, in the input's dtype and axes.

    Attributes
    ----------
    box : tuple of slice
        Where `values` belongs: ``result[box] = values``.
    values : ndarray
        Shape of ``result[box]``, dtype of the input; known pixels are the input's.
    """

    box: tuple[slice, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Note:
    """Something the user should know; it is also kept in the record.

    Attributes
    ----------
    text : str
        One sentence.
    level : str
        "info" or "warning".
    """

    text: str
    level: str = "info"


Event = Progress | Preview | Note
T = TypeVar("T")


class CancelToken(Protocol):
    """Anything with ``is_set()``, such as `threading.Event`."""

    def is_set(self) -> bool: ...


def drain(steps: Generator[Event, None, T], on_event: Callable[[Event], Any] | None = None) -> T:
    """Run a task's generator to its end and return its result.

    Parameters
    ----------
    steps : generator of events
        As made by `knitcore.inpaint_steps`.
    on_event : callable, optional
        Called with each event.

    Returns
    -------
    object
        What the generator returns.
    """
    try:
        while True:
            event = next(steps)
            if on_event is not None:
                on_event(event)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()
