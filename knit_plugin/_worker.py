"""A task's generator in a thread: events to the widget, Cancel back, progress to napari."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from knitcore import Cancelled, KnitError, Progress
from knitcore.errors import memory_ran_out

# Two fits would only slow each other down, and napari's workers swap `warnings.showwarning` while
# they run, which overlapping runs would restore in the wrong order.
_one_fit = threading.Lock()
_waiting: list[Job] = []  # in the order in which they were started

# Each event that reaches Qt makes the main thread wait for Python's lock while the fit holds it,
# several times over: fewer of them keep the viewer quick.
PROGRESS_GAP = 0.25  # seconds
BAR_STEP = 5  # percent
SLOW_SPINNER = 10  # percent
COLLECT_EVERY = 300  # ms


@dataclass
class Outcome:
    """How a job ended: with a result, an error to show, or neither when it was cancelled."""

    result: Any = None
    error: str = ""

    @property
    def cancelled(self) -> bool:
        return self.result is None and not self.error


Steps = Callable[[threading.Event], Generator[Any, None, Any]]


class Job:
    """One run of a task in a thread of napari's pool.

    Parameters
    ----------
    steps : callable
        Takes the cancel flag, gives the generator of events to run; called in the thread.
    title : str
        For napari's activity dock.
    on_event, on_end : callable
        Called in the main thread with each event, and once with the `Outcome`.
    """

    def __init__(
        self,
        steps: Steps,
        title: str,
        on_event: Callable[[Any], None],
        on_end: Callable[[Outcome], None],
    ) -> None:
        self.cancelling = threading.Event()
        self._steps: Steps | None = steps
        self._title = title
        self._on_event: Callable[[Any], None] | None = on_event
        self._on_end: Callable[[Outcome], None] | None = on_end
        self._outcome = Outcome()
        self._bar: Any = None

    def __repr__(self) -> str:
        return self._title  # napari shows it when the window is closed in the middle of a run

    def start(self) -> None:
        """Start the thread, now or, where another job is running, at that one's end."""
        from napari.qt.threading import thread_worker
        from napari.utils import progress

        if not _one_fit.acquire(blocking=False):
            _waiting.append(self)
            self._receive(Progress(0.0, "waiting for another run to end"))
            return
        try:
            worker = thread_worker(self._run)()
            # Plain functions: napari keeps the worker, the worker keeps them, whatever becomes of
            # the widget. Quit is napari's own wish, on closing the window.
            worker.yielded.connect(lambda event: self._receive(event))
            worker.aborted.connect(lambda: self.cancel())
            worker.finished.connect(lambda: self._finish())
            # Our own bar, not `thread_worker(progress=...)`, which counts events.
            self._bar = progress(total=100, desc=self._title)
            set_spinner_speed(SLOW_SPINNER)
            collect_here_while(_one_fit.locked)
            worker.start()
        except BaseException:
            _one_fit.release()
            raise

    def cancel(self) -> None:
        """Ask the task to stop; harmless at any time, and twice."""
        self.cancelling.set()
        if self in _waiting:
            _waiting.remove(self)
            self._tell_end()

    def abandon(self) -> None:
        """Cancel, and tell the widget nothing any more: it is going away."""
        self._on_event = self._on_end = None
        self.cancel()

    def _run(self) -> Generator[Any, None, None]:
        last_progress = 0.0
        steps = None
        try:
            assert self._steps is not None
            steps = self._steps(self.cancelling)
            while True:
                event = next(steps)
                now = time.monotonic()
                if isinstance(event, Progress):
                    if now - last_progress < PROGRESS_GAP:
                        continue
                    last_progress = now
                yield event
        except StopIteration as end:
            self._outcome.result = end.value
        except Cancelled:
            pass
        except KnitError as error:
            self._outcome.error = str(error)
        except Exception as error:
            text = f"not enough memory ({error or 'none left'}): crop the image first"
            if not memory_ran_out(error):
                logging.getLogger(__name__).exception("%s failed", self._title)
                text = (
                    f"{self._title}: unexpected {type(error).__name__}: {error}. "
                    "The log holds the details; please report it."
                )
            self._outcome.error = text
        finally:
            if steps is not None:
                steps.close()
            steps = None
            self._steps = None

    def _receive(self, event: Any) -> None:
        if self._on_event is not None:
            self._on_event(event)
        # Last, for napari's bar turns the event loop and may bring the next event in here.
        if isinstance(event, Progress) and self._bar is not None:
            done = int(100 * event.fraction) - self._bar.n
            if done >= BAR_STEP:
                self._bar.update(done)

    def _finish(self) -> None:
        _one_fit.release()
        free_device_memory()
        self._tell_end()
        if _waiting and not busy():
            _waiting.pop(0).start()

    def _tell_end(self) -> None:
        bar, self._bar = self._bar, None
        on_end, self._on_event, self._on_end = self._on_end, None, None
        if bar is not None:
            set_spinner_speed(100)
            bar.close()
        if on_end is not None:
            on_end(self._outcome)
        self._outcome = Outcome()  # the layers hold the arrays now


def busy() -> bool:
    """Whether a job is running in this process; only one may.

    Returns
    -------
    bool
    """
    return _one_fit.locked()


def free_device_memory() -> None:
    """Give back what torch keeps of a GPU's memory for later; nothing where none was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


_collecting: list[Callable[[], bool]] = []  # whether each thread is still at work
_collector: Any = None  # the application, and a timer in it


def collect_here_while(running: Callable[[], bool]) -> None:
    """Let Python look for garbage in the main thread only, as long as a thread is at work.

    In another thread it may come upon Qt objects, and PySide then waits for the main thread with a lock
    held that the main thread waits for: the viewer stands still for good. Nor does a search through all
    that is loaded, 0.3 s with Python's lock held, come in the middle of a fit.

    Parameters
    ----------
    running : callable
        Whether the thread is still at work.
    """
    global _collector
    from qtpy.QtCore import QCoreApplication, QTimer

    if not _collecting and not gc.isenabled():
        return  # somebody else sees to it
    gc.disable()
    _collecting.append(running)
    application = QCoreApplication.instance()
    if _collector is None or _collector[0] is not application:
        timer = QTimer(application)
        timer.setInterval(COLLECT_EVERY)
        timer.timeout.connect(_collect)
        _collector = (application, timer)
    _collector[1].start()


def _collect() -> None:
    _collecting[:] = [running for running in _collecting if running()]
    if not _collecting:
        _collector[1].stop()
        gc.enable()
    elif gc.get_count()[0] > gc.get_threshold()[0]:
        gc.collect(1)


def set_spinner_speed(percent: int) -> None:
    """Set how fast the sign turns that napari shows beside a running progress bar.

    At its usual 30 pictures a second the whole window is painted as often, canvas included. Where
    that is done in software, a fit then takes nearly twice as long.

    Parameters
    ----------
    percent : int
        100 is napari's own.
    """
    from qtpy.QtWidgets import QApplication, QLabel

    for window in QApplication.topLevelWidgets():
        for label in window.findChildren(QLabel):
            movie = label.movie()
            if movie is not None:
                movie.setSpeed(percent)


def warm_up(rehearsal: Callable[[], Any]) -> threading.Thread:
    """Have a task done in small in a thread, so that the first Run finds all of torch loaded.

    Libraries are loaded with Python's lock held: in the middle of a run the viewer would stand
    still for up to half a second.

    Parameters
    ----------
    rehearsal : callable
        Imports what the task needs and takes a step or two of it.

    Returns
    -------
    Thread
        Running. Not a daemon: a library that is half loaded at the interpreter's end can crash it.
    """

    def work() -> None:
        try:
            rehearsal()
        except Exception:
            # the run itself says it again, in a place where it is seen
            logging.getLogger(__name__).exception("the warm-up failed")

    thread = threading.Thread(target=work, name="knitworks-warm-up")
    thread.start()
    collect_here_while(thread.is_alive)
    return thread


def wait_for(thread: threading.Thread, cancel: threading.Event) -> Generator[Progress]:
    """Wait for `warm_up` inside a task's generator.

    Parameters
    ----------
    thread : Thread
    cancel : Event

    Yields
    ------
    Progress

    Raises
    ------
    Cancelled
    """
    while thread.is_alive():
        yield Progress(0.0, "load torch")
        thread.join(0.05)
        if cancel.is_set():
            raise Cancelled("stopped while torch was loading")


def torch_devices() -> list[str]:
    """Devices besides "auto" that the loaded torch sees.

    Returns
    -------
    list of str
        Only "cpu" while torch is not loaded.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return ["cpu"]
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += ["cuda"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices
