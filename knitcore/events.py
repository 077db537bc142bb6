"""What a running task reports, and how a plain call waits for its end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from knitcore.errors import Cancelled

EVENT_SECONDS = 0.1  # between two events that say much the same


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


@dataclass(frozen=True)
class Stage:
    """How far the work on one canvas is: what a task's numerics tell the task.

    Attributes
    ----------
    done : float
        Share of this canvas's work, 0 to 1.
    text : str
        What is being done, in a few words.
    losses : dict of str to float
        Current losses; empty outside a fit.
    values : ndarray or None, shape (C, *spatial)
        The result as it stands, in grey levels, when there is one to show.
    """

    done: float
    text: str
    losses: dict[str, float] = field(default_factory=dict)
    values: np.ndarray | None = None


Event = Progress | Preview | Note
T = TypeVar("T")
S = TypeVar("S")
U = TypeVar("U")


class CancelToken(Protocol):
    """Anything with ``is_set()``, such as `threading.Event`."""

    def is_set(self) -> bool: ...


def until_cancelled(
    work: Generator[Event, None, T], cancel: CancelToken | None
) -> Generator[Event, None, T]:
    """Pass a task's events on, and end it when the cancel token is set.

    Parameters
    ----------
    work : generator of events
        Closed at the end, however that comes.
    cancel : object with ``is_set()``, optional
        Looked at before each event.

    Yields
    ------
    Progress, Preview or Note

    Returns
    -------
    object
        What the generator returns.

    Raises
    ------
    Cancelled
        The token was set.
    """
    try:
        while True:
            if cancel is not None and cancel.is_set():
                raise Cancelled("cancelled")
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            yield event
    finally:
        work.close()


def relayed(steps: Generator[S, None, T], told: Callable[[S], U]) -> Generator[U, None, T]:
    """Pass on what a generator yields, as something else, and return what it returns.

    Parameters
    ----------
    steps : generator
        Such as one that yields the share done.
    told : callable
        What to yield in its place.

    Yields
    ------
    object

    Returns
    -------
    object
    """
    try:
        while True:
            try:
                part = next(steps)
            except StopIteration as end:
                return end.value
            yield told(part)
    finally:
        steps.close()


def drain(steps: Generator[Any, None, T], on_event: Callable[[Event], Any] | None = None) -> T:
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


class Alongside(Generic[S, T]):
    """A generator that runs to its end in a thread of its own, beside whoever made this.

    Parameters
    ----------
    steps : generator
        Must share nothing that either side changes.

    Attributes
    ----------
    told : object or None
        What it yielded last.
    """

    def __init__(self, steps: Generator[S, None, T]) -> None:
        self.told: S | None = None
        self._steps, self._stop = steps, threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self.told = next(self._steps)
                except StopIteration as end:
                    self._found.append(end.value)
                    return
        except BaseException as error:  # raised where it is waited for
            self._error = error
        finally:
            self._steps.close()

    def wait(self) -> Generator[S | None, None, T]:
        """Wait for the end; what was yielded last, about ten times a second, and the result.

        Yields
        ------
        object or None

        Returns
        -------
        object
        """
        try:
            while self._thread.is_alive():
                yield self.told
                self._thread.join(0.1)
        finally:
            self.close()
        if self._error is not None:
            raise self._error
        return self._found[0]

    def close(self) -> None:
        """End the generator at its next yield, and wait for that."""
        self._stop.set()
        self._thread.join()


def two_at_once(work: Callable[[S], T], items: Iterable[S], beside: bool) -> Iterator[T]:
    """Results in their order, each second one worked on in a thread of its own.

    Parameters
    ----------
    work : callable
        Changes nothing that another call or whoever takes the results looks at.
    items : iterable
        Gone through in this thread.
    beside : bool
        Or all in this thread; the results are the same.

    Yields
    ------
    object
    """
    if not beside:
        yield from map(work, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(1) as other:
        for item in waiting:
            second = [other.submit(work, later) for later in itertools.islice(waiting, 1)]
            yield work(item)
            for one in second:
                yield one.result()


def both_halves(
    halves: list[Generator[None, None, T]], beside: bool
) -> Generator[None, None, list[T]]:
    """Work through one or two generators, the second in a thread of its own or after the first.

    Parameters
    ----------
    halves : list of generator
        They share nothing that either changes.
    beside : bool
        At once; the result is the same.

    Yields
    ------
    None

    Returns
    -------
    list
        What each returns.
    """
    first, *others = halves
    begun = [Alongside(other) for other in others] if beside else []
    try:
        found = [(yield from first)]
        for rest in [one.wait() for one in begun] or others:
            found.append((yield from rest))
        return found
    finally:
        for one in begun:
            one.close()
