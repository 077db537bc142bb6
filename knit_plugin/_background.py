"""A function in a thread, its result back in the main one: for what takes a moment, and is no fit."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal

from knit_plugin._worker import collect_here_while
from knitcore import KnitError
from knitcore.errors import memory_ran_out


class Background(QObject):
    """Runs functions, one at a time; of several asked for meanwhile only the last counts.

    Unlike napari's workers it leaves `warnings.showwarning` alone, so that it may overlap a fit.
    """

    done = Signal(object)  # what the function returned
    failed = Signal(str)
    _ended = Signal(object, str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._next: Callable[[], Any] | None = None
        self._thread: threading.Thread | None = None
        self._ended.connect(self._take, Qt.ConnectionType.QueuedConnection)

    @property
    def busy(self) -> bool:
        """Whether something is being worked on."""
        return self._thread is not None

    def ask(self, function: Callable[[], Any]) -> None:
        """Have a function called in a thread, soon."""
        self._next = function
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        function, self._next = self._next, None
        if function is None:
            return

        def work() -> None:
            outcome, problem = None, ""
            try:
                outcome = function()
            except KnitError as error:
                problem = str(error)
            except Exception as error:
                problem = "not enough memory: crop the image first"
                if not memory_ran_out(error):
                    logging.getLogger(__name__).exception("unexpected")
                    text = f"{type(error).__name__}: {error}"
                    problem = f"unexpected {text}. The log holds the details."
            with contextlib.suppress(RuntimeError):  # the widget went away meanwhile
                self._ended.emit(outcome, problem)

        self._thread = threading.Thread(target=work, name="knitworks", daemon=True)
        self._thread.start()
        collect_here_while(self._thread.is_alive)

    def _take(self, outcome: Any, problem: str) -> None:
        self._thread = None
        if self._next is not None:  # what has come is out of date
            self._start()
        elif problem:
            self.failed.emit(problem)
        else:
            self.done.emit(outcome)
