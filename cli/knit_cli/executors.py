"""Where the files of a batch are worked on: processes of this machine.

An executor has one method, ``run(tasks)``: it takes tasks from an iterator, no more at a time than it
has workers for, and yields each with its outcome. Tasks and outcomes are plain, picklable data, and
the function that turns one into the other stands at the top of a module.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Outcome = dict[str, Any]
Emit = Callable[[dict[str, Any]], None]
Work = Callable[[Any, Emit, threading.Event], Outcome]

GRACE = 0.5  # seconds that running files have to end by themselves, and then to drop their fit
POISONED = 86  # exit code of a worker whose GPU context is lost
STARTS = 3  # workers that may die one after the other before any of them was ready


class ExecutorError(RuntimeError):
    """No worker can be started, or all are gone for good."""


@dataclass(frozen=True)
class Limits:
    """What a file may cost.

    Attributes
    ----------
    timeout : float or None
        Seconds.
    memory : int or None
        Bytes of its worker.
    retries : int
        How often a file is tried again whose worker died.
    """

    timeout: float | None = None
    memory: int | None = None
    retries: int = 1


@dataclass(frozen=True)
class Together:
    """Tasks that one worker does side by side; each has an outcome of its own.

    The work tells which of them it speaks of: ``emit({"file": number, ...})``, and what became of it
    with ``"outcome"``. If its worker dies, those without are tried again, one by one.

    Attributes
    ----------
    tasks : tuple
    """

    tasks: tuple[Any, ...]


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    number: int
    crash: Path
    ready: bool = False
    task: Any = None
    left: dict[int, Any] = field(default_factory=dict)  # of a Together: those without an outcome
    began: float = 0.0
    peak: int = 0
    cause: str = ""  # why we ended it ourselves
    cancelled: float = 0.0


@dataclass
class Processes:
    """Worker processes, each started once and used again and again.

    Parameters
    ----------
    work : callable
        Task, `emit` (of a dict), cancel event -> outcome; at the top of a module.
    count : int
        Workers.
    warm : callable, optional
        Called once in each worker before its first task, such as to load torch.
    limits : Limits
    scratch : Path
        A folder for what crashed workers leave.
    environments : list of dict
        Environment variables of each worker, taken in turn.
    on_event : callable, optional
        Called with the worker's number, the task and what it emitted; a note with `gone` is about a
        worker that died.
    pressed : callable, optional
        How urgently to stop: 0 not at all, 1 start nothing new, 2 drop what is running.
    clean : callable, optional
        Called with a task whose worker is dead, before it is tried again or given up.
    keep : bool
        Leave the workers for another `run` when the tasks are through; `close` ends them.
    """

    work: Work
    count: int = 1
    warm: Callable[[], Any] | None = None
    limits: Limits = field(default_factory=Limits)
    scratch: Path = Path()
    environments: list[dict[str, str]] = field(default_factory=list)
    on_event: Callable[[int, Any, dict[str, Any]], None] | None = None
    pressed: Callable[[], int] | None = None
    clean: Callable[[Any], None] | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")  # never fork after torch or threads
        self._workers: list[_Worker] = []
        self._early_deaths = 0
        self._tries: dict[int, int] = {}
        self._again: deque[Any] = deque()
        self._stop_since = 0.0

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Outcome]]:
        """Work through tasks.

        Parameters
        ----------
        tasks : iterable
            Read as workers become free.

        Yields
        ------
        task, outcome : object, dict
            In the order they end; those of a `Together` each by itself. The `status` is what the
            function gave, or "failed" with an `error` if its worker died, or "stopped".

        Raises
        ------
        ExecutorError
            Workers die before they are ready.
        """
        waiting, more = iter(tasks), True
        try:
            while True:
                level = self.pressed() if self.pressed else 0
                if not level:
                    more = self._hand_out(waiting, more)
                busy = [worker for worker in self._workers if worker.task is not None]
                if level:
                    self._press(level, busy)
                if not busy and (level or not (more or self._again)):
                    return
                yield from self._listen()
        finally:
            if not self.keep:
                self.close()

    def close(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            _end(worker.process)
            with contextlib.suppress(OSError):
                worker.pipe.close()
                worker.crash.unlink(missing_ok=True)
        for worker in self._workers:
            worker.process.join(5)
        self._workers.clear()

    def _hand_out(self, waiting: Iterator[Any], more: bool) -> bool:
        """Give tasks to idle workers, starting workers only for tasks that are there."""
        while True:
            idle = next((w for w in self._workers if w.ready and w.task is None), None)
            room = len(self._workers) < self.count and all(w.ready for w in self._workers)
            if idle is None and not room:
                return more
            if not self._again:
                # looked for before a worker is started: there may be none
                task = next(waiting, None)
                if task is None:
                    return False
                self._again.append(task)
            if idle is None:
                self._start()  # one at a time, so that few files do not start many
                continue
            task = self._again.popleft()
            idle.task, idle.began, idle.peak = task, time.monotonic(), 0
            idle.left = dict(enumerate(task.tasks)) if isinstance(task, Together) else {}
            try:
                idle.pipe.send(task)
            except OSError:  # it died while idle: the task is not to blame
                idle.task = None
                idle.ready = False
                self._again.appendleft(task)
                return more

    def _start(self) -> None:
        numbers = {worker.number for worker in self._workers}
        number = next(n for n in range(self.count) if n not in numbers)
        environment = (
            self.environments[number % len(self.environments)] if self.environments else {}
        )
        ours, theirs = self._context.Pipe()
        crash = self.scratch / f"worker-{os.getpid()}-{number}.txt"
        process = self._context.Process(
            target=_serve,
            args=(theirs, self.work, self.warm, environment, str(crash), os.getpid()),
            daemon=True,
        )
        with without_interrupts():  # from its first moment on, imports and all
            process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours, number, crash))

    def _listen(self) -> Iterator[tuple[Any, Outcome]]:
        """Wait a moment for messages and deaths, and see to the limits."""
        by_pipe = {worker.pipe: worker for worker in self._workers}
        for pipe in wait(list(by_pipe), timeout=0.1):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, content = worker.pipe.recv()
            except Exception:  # closed, or torn in mid-message
                yield from self._bury(worker)
                continue
            if kind == "ready":
                worker.ready, self._early_deaths = True, 0
            elif kind == "event":
                yield from self._hear(worker, content)
            elif isinstance(worker.task, Together):
                worker.task = None
                yield from self._leave(worker, content["status"] == "stopped")
            else:
                task, worker.task = worker.task, None
                self._tries.pop(id(task), None)
                content.setdefault("peak_memory", worker.peak or None)
                content["worker"] = worker.number
                yield task, content
        for worker in self._workers:
            self._watch(worker)

    def _hear(self, worker: _Worker, content: dict[str, Any]) -> Iterator[tuple[Any, Outcome]]:
        """What a worker tells on its way; the end of one of several tasks, too."""
        number, task = content.pop("file", None), worker.task
        if number is not None:
            task = task.tasks[number]
        if "outcome" in content:
            del worker.left[number]
            yield task, {**content["outcome"], "worker": worker.number}
        elif self.on_event is not None:
            self.on_event(worker.number, task, content)

    def _leave(self, worker: _Worker, stopped: bool) -> Iterator[tuple[Any, Outcome]]:
        """Of tasks done side by side, those that have no outcome: each by itself now."""
        left, worker.left = list(worker.left.values()), {}
        if stopped:
            for task in left:
                yield task, {"status": "stopped", "worker": worker.number}
        else:
            self._again.extend(left)

    def _watch(self, worker: _Worker) -> None:
        if worker.task is None or worker.cause:
            return
        limit = self.limits.timeout
        if limit and time.monotonic() - worker.began > limit:
            worker.cause = "timeout"
            # a handler in C that writes the stack even while something holds the interpreter
            if hasattr(signal, "SIGUSR1"):
                with contextlib.suppress(OSError):
                    os.kill(worker.process.pid, signal.SIGUSR1)
                    time.sleep(0.2)
            _end(worker.process)
        if self.limits.memory:
            worker.peak = max(worker.peak, _resident(worker.process.pid))
            if worker.peak > self.limits.memory:
                worker.cause = "memory"
                _end(worker.process)

    def _bury(self, worker: _Worker) -> Iterator[tuple[Any, Outcome]]:
        """A worker is dead: its task is tried again or has failed."""
        self._workers.remove(worker)
        worker.pipe.close()
        _end(worker.process)
        worker.process.join()
        task, stack = worker.task, _text(worker.crash)
        worker.crash.unlink(missing_ok=True)
        if task is None:
            if not worker.ready:
                self._early_deaths += 1
                if self._early_deaths >= STARTS:
                    reason = f"workers die at their start: {_death(worker, stack)}{_guard()}"
                    if not any(other.ready for other in self._workers):
                        raise ExecutorError(reason)
                    # such as for lack of memory: those that work go on without it
                    self.count, self._early_deaths = len(self._workers), 0
                    if self.on_event is not None:
                        told = {"note": f"{reason}; going on with {self.count}", "level": "warning"}
                        self.on_event(worker.number, None, told)
            return
        if isinstance(task, Together):
            if self.clean is not None:
                for one in worker.left.values():
                    self.clean(one)
            if self.on_event is not None and worker.left and worker.cause != "stop":
                again = f"{_death(worker, stack)}; trying its {len(worker.left)} files one by one"
                gone = {"note": again, "level": "warning", "gone": True}
                self.on_event(worker.number, None, gone)
            yield from self._leave(worker, worker.cause == "stop")
            return
        if self.clean is not None:
            self.clean(task)
        outcome: Outcome = {"worker": worker.number, "peak_memory": worker.peak or None}
        outcome["seconds"] = round(time.monotonic() - worker.began, 3)
        if worker.cause == "stop":
            yield task, outcome | {"status": "stopped"}
            return
        tries = self._tries[id(task)] = self._tries.get(id(task), 0) + 1
        if not worker.cause and tries <= self.limits.retries:
            self._again.append(task)
            if self.on_event is not None:
                again = f"{_death(worker, stack)}; trying it once more"
                gone = {"note": again, "level": "warning", "gone": True}
                self.on_event(worker.number, task, gone)
            return
        del self._tries[id(task)]
        limit = self.limits
        if worker.cause == "timeout":
            place = _innermost(stack)
            reason = f"no end after {limit.timeout:g} s" + (f", in {place}" if place else "")
        elif worker.cause == "memory":
            reason = f"needed over {(limit.memory or 0) / 2**30:.3g} GiB (--max-memory)"
        else:
            reason = _death(worker, stack) + (f", tried {tries} times" if tries > 1 else "")
        yield task, outcome | {"status": "failed", "error": reason, "stack": stack}

    def _press(self, level: int, busy: list[_Worker]) -> None:
        """First let running files end, then ask them to drop their fit, then end them."""
        now = time.monotonic()
        self._stop_since = self._stop_since or now
        for worker in busy:
            if worker.cancelled:
                if now - worker.cancelled > GRACE:
                    worker.cause = "stop"
                    _end(worker.process)
            elif level > 1 or now - self._stop_since > GRACE:
                worker.cancelled = now
                with contextlib.suppress(OSError):
                    worker.pipe.send(_CANCEL)


_CANCEL = "cancel"


def _end(process: Any) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        process.kill()


def _death(worker: _Worker, stack: str) -> str:
    code = worker.process.exitcode
    crashes = {
        getattr(signal, name): text
        for name, text in {
            "SIGSEGV": "segmentation fault",
            "SIGABRT": "aborted",
            "SIGBUS": "bus error (disk full under a mapped file?)",
            "SIGILL": "illegal instruction",
            "SIGFPE": "arithmetic fault",
        }.items()
        if hasattr(signal, name)
    }
    if code is not None and code < 0:
        if -code in crashes:
            place = _innermost(stack)
            return f"crashed: {crashes[-code]}" + (f", in {place}" if place else "")
        hint = "; out of memory?" if -code == 9 else ""
        return f"worker killed (signal {-code}{hint})"
    if code == POISONED:
        return "the GPU failed (CUDA error), and its worker with it"
    return f"worker ended by itself (exit code {code})"


def _guard() -> str:
    """A hint for scripts, which the workers import: without a guard they would start again."""
    main = getattr(sys.modules["__main__"], "__file__", None) or ""
    if Path(main).stem in ("", "knit", "__main__"):
        return ""
    return '; from a script, call it under `if __name__ == "__main__":`'


def _innermost(stack: str) -> str:
    """The place in the last file of a stack of faulthandler, as "fit.py:88"."""
    import re

    # the thread that works stands last (of all) or is called current
    part = stack.split("Current thread", 1)[-1]
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', part):
        if "threading.py" not in file and "connection.py" not in file:
            return f"{Path(file).name}:{line}"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return ""


def _resident(pid: int) -> int:
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Start processes and threads that the terminal's Ctrl-C does not reach: it is for us."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # it would lift the mask if it were started inside; and what is dropped in a hurry, it need not tell
    told = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    resource_tracker.ensure_running()
    del os.environ["PYTHONWARNINGS"]
    if told is not None:
        os.environ["PYTHONWARNINGS"] = told
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(
    pipe: Connection,
    work: Work,
    warm: Callable[[], Any] | None,
    environment: dict[str, str],
    crash: str,
    parent: int,
) -> None:
    """Life of a worker: tasks in, outcomes out, until the pipe closes or the parent is gone."""
    os.environ.update(environment)
    # the terminal's Ctrl-C reaches the whole group: the parent decides what becomes of it
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    # nothing is forked; but locks of libraries then vanish with this process, however it ends
    with contextlib.suppress(ValueError):
        multiprocessing.set_start_method("fork", force=True)
    with contextlib.suppress(OSError):
        stacks = open(crash, "w")  # noqa: SIM115 - open as long as the process
        faulthandler.enable(stacks)
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    cancel, inbox, lock = threading.Event(), queue.SimpleQueue[Any](), threading.Lock()

    def listen() -> None:
        while True:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                os._exit(1)
            if isinstance(message, str) and message == _CANCEL:
                cancel.set()
            else:
                inbox.put(message)

    def send(kind: str, content: Any) -> None:
        with lock:
            try:
                pipe.send((kind, content))
            except OSError:
                os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    if warm is not None:
        warm()
    send("ready", None)
    while True:
        task = inbox.get()
        reset_peak()
        began = time.monotonic()
        try:
            outcome = work(task, lambda event: send("event", event), cancel)
        except BaseException as error:  # whatever it is, it costs this file only
            text = " ".join(str(error).split())[:300]
            outcome = {"status": "failed", "error": f"unexpected {type(error).__name__}: {text}"}
        outcome.setdefault("seconds", round(time.monotonic() - began, 3))
        outcome.setdefault("peak_memory", peak_memory())
        send("outcome", outcome)


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the closed pipe tells."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def reset_peak() -> None:
    """Forget the highest memory use so far, where the system can."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")


def peak_memory() -> int | None:
    """Highest resident memory of this process since `reset_peak`, in bytes; None if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def worker_environments(count: int, device: str) -> list[dict[str, str]]:
    """Environment of each of some workers: their share of cores, and a GPU each.

    Parameters
    ----------
    count : int
    device : str
        Of the recipe. "cuda:1" is left as it is.

    Returns
    -------
    list of dict
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    share = max(1, cores // max(count, 1))
    told = os.environ.get("OMP_NUM_THREADS", "")
    share = min(share, int(told)) if told.isdigit() and int(told) else share
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    threads = {name: str(share) for name in names}
    cards = visible_gpus() if device in ("auto", "cuda") else []
    if not cards:
        return [threads]
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": cards[number % len(cards)]}
        for number in range(max(count, 1))
    ]


def visible_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that may be used, without loading torch.

    Returns
    -------
    list of str
    """
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip() not in ("", "-1")]
    try:
        return [str(number) for number in range(len(os.listdir("/proc/driver/nvidia/gpus")))]
    except OSError:
        return []
