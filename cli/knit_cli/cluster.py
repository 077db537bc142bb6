"""Where the files of a batch are worked on: the workers of a dask cluster.

A worker of dask only watches: for each of its threads it keeps one process of `executors.Processes`,
which does the files. So a file that crashes, hangs or eats memory costs its process, as on one machine
and told in the same words, and the worker stays.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knit_cli.executors import (
    ExecutorError,
    Limits,
    Outcome,
    Processes,
    Work,
    without_interrupts,
    worker_environments,
)
from knitcore.run_file import Executor

REACH = 5.0  # seconds in which a scheduler must answer
PATIENCE = {"dask": 300.0, "dask-local": 300.0}  # without any worker; jobs may wait a day
DAY = 24 * 3600.0
SAY = 30.0  # seconds without any worker until that is said
IDLE = 300.0  # seconds after which a worker's process without a file ends
SETTLE = 0.3  # a worker's last messages and the news of its death come on different ways
INNOCENT = 5  # times that a file may lose its worker before it was begun
DROP = 10.0  # seconds that workers have to tell that they stopped; a fifth if it is urgent
EVERY = 1.0  # seconds between two words on a file's progress
QUEUES = {  # class of dask-jobqueue, and what submits a job
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "sge": ("SGECluster", "qsub"),
}


class ClusterError(ExecutorError):
    """The cluster asked for cannot be had: nothing was started."""


@dataclass(frozen=True)
class _Terms:
    """What a worker is told about a run, with every file."""

    token: str
    work: Work
    warm: Callable[[], Any] | None
    clean: Callable[[Any], None] | None
    limits: Limits
    here: str
    home: str
    environments: list[dict[str, str]]
    versions: dict[str, str]


@dataclass
class _Flight:
    """A file that was handed to the cluster."""

    task: Any
    number: int
    key: str = ""
    future: Any = None
    starts: int = 0
    begun: bool = False  # since it was last handed over
    lost: int = 0
    began: float = field(default_factory=time.monotonic)


@dataclass
class DaskWorkers:
    """The workers of a dask cluster, as an executor; see `executors.Processes`.

    Parameters
    ----------
    work, warm, limits, on_event, pressed, clean
        As for `Processes`; all but the last three travel to the workers, and so does `clean`.
    settings : Executor
        Which cluster.
    home : Path
        The output folder, which every worker must see.
    device : str
        Of the recipe.
    """

    work: Work
    settings: Executor
    home: Path = Path()
    device: str = "auto"
    warm: Callable[[], Any] | None = None
    limits: Limits = field(default_factory=Limits)
    on_event: Callable[[int, Any, dict[str, Any]], None] | None = None
    pressed: Callable[[], int] | None = None
    clean: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        self._client: Any = None
        self._cluster: Any = None
        self._token = secrets.token_hex(4)
        self._inbox = queue.SimpleQueue[tuple[str, Any]]()
        self._live: dict[str, _Flight] = {}
        self._again: deque[_Flight] = deque()
        self._judged: list[tuple[float, _Flight]] = []
        self._workers: dict[str, int] = {}  # number of each worker, for the terminal
        self._threads = 0
        self._looked = 0.0
        self._alone: float | None = None  # since when there is no worker
        self._told = False
        self._pressed, self._press_since = 0, 0.0

    def reach(self) -> None:
        """Find out whether the cluster can be had, before anything is written.

        Raises
        ------
        ClusterError
            dask is not installed, the scheduler does not answer, or there is no queue here.
        """
        wanted = ["distributed"] + ["dask_jobqueue"] * self.settings.is_queue
        if lacking := [name for name in wanted if find_spec(name) is None]:
            raise ClusterError(
                f"a cluster needs {' and '.join(lacking).replace('_', '-')}: pip install "
                "'napari-knitworks[cluster]'"
            )
        _quiet()
        if self.settings.kind == "dask":
            self._client = _connect(self.settings.address)
        elif self.settings.is_queue:
            command = QUEUES[self.settings.kind][1]
            if shutil.which(command) is None:
                raise ClusterError(
                    f"no {command} here: start knit where jobs of {self.settings.kind.upper()} can be "
                    "submitted"
                )

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Outcome]]:
        """Work through tasks, of which only a window is with the cluster at a time.

        Parameters
        ----------
        tasks : iterable
            Read as workers become free.

        Yields
        ------
        task, outcome : object, dict
            As `Processes.run`.

        Raises
        ------
        ExecutorError
            No worker comes, or the scheduler is gone.
        ClusterError
            As `reach`.
        """
        mark = self.home / ".knit" / f"run-{self._token}"
        try:
            if self._client is None:
                self.reach()
            if self._client is None:
                self._open()
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text("workers look whether they see this folder\n")
            self._client.subscribe_topic(
                self._topic, lambda event: self._inbox.put(("event", event[1]))
            )
            yield from self._loop(enumerate(tasks))
        finally:
            with contextlib.suppress(OSError):
                mark.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Leave the cluster, or end it if it is ours."""
        client, cluster = self._client, self._cluster
        self._client = self._cluster = None
        if cluster is not None:
            _end_workers(cluster)
        with contextlib.suppress(Exception):
            if client is not None:
                if cluster is None:
                    client.cancel([flight.future for flight in self._live.values()], force=True)
                    client.run(_end_run_there, self._token, wait=False, on_error="ignore")
                client.close(timeout=2)
        if cluster is None:
            return
        ending = threading.Thread(
            target=_close, args=(cluster, self.settings.is_queue), daemon=True
        )
        ending.start()
        # who pressed Ctrl-C need not wait for the farewells of workers of this machine, which are dead
        ending.join(0.2 if self._pressed and not self.settings.is_queue else None)

    @property
    def _topic(self) -> str:
        return f"knit-{self._token}"

    def _open(self) -> None:
        from distributed import Client

        with without_interrupts():
            try:
                self._cluster = make_cluster(self.settings, self.home)
                self._client = Client(self._cluster, set_as_default=False)
            except ClusterError:
                raise
            except Exception as error:
                raise ExecutorError(f"the cluster does not start: {_words(error)}") from None

    def _terms(self) -> _Terms:
        settings, limits = self.settings, self.limits
        environments: list[dict[str, str]] = [{}]
        if settings.kind == "dask-local":
            environments = worker_environments(settings.workers or 1, self.device)
        if settings.cores:
            threads = dict.fromkeys(
                ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(settings.cores)
            )
            environments = [{**one, **threads} for one in environments]
        if settings.memory and not limits.memory:
            from dask.utils import parse_bytes

            # the file should fail, rather than its job be ended by the queue
            limits = replace(limits, memory=int(0.9 * parse_bytes(settings.memory)))
        return _Terms(
            self._token,
            self.work,
            self.warm,
            self.clean,
            limits,
            os.getcwd(),
            os.path.abspath(self.home),
            environments,
            versions(),
        )

    def _loop(self, waiting: Iterator[tuple[int, Any]]) -> Iterator[tuple[Any, Outcome]]:
        terms, more = self._terms(), True
        while True:
            level = self.pressed() if self.pressed else 0
            if level:
                yield from self._press(level)
            else:
                more = self._hand_out(waiting, more, terms)
            if not (self._live or self._judged) and (level or not (more or self._again)):
                return
            yield from self._listen()
            self._look_after()

    def _hand_out(self, waiting: Iterator[tuple[int, Any]], more: bool, terms: _Terms) -> bool:
        """Fill the window: twice as many files as there are threads, so that none waits for us."""
        window = 2 * max(self._threads, self.settings.workers or 1)
        while len(self._live) + len(self._judged) < window:
            if self._again:
                flight = self._again.popleft()
            else:
                found = next(waiting, None)
                if found is None:
                    return False
                flight = _Flight(found[1], found[0])
            flight.begun = False
            flight.key = f"knit-{self._token}-{flight.number}-{flight.starts}-{flight.lost}"
            try:
                flight.future = self._client.submit(
                    _do, terms, flight.key, flight.task, key=flight.key, pure=False
                )
            except Exception as error:
                raise self._gone(error) from None
            self._live[flight.key] = flight
            flight.future.add_done_callback(
                lambda future, key=flight.key: self._inbox.put(("done", key))
            )
        return more

    def _listen(self) -> Iterator[tuple[Any, Outcome]]:
        wait = 0.1
        while True:
            try:
                kind, content = self._inbox.get(timeout=wait)
            except queue.Empty:
                break
            wait = 0.0
            if kind == "done":
                flight = self._live.pop(content, None)
                if flight is not None:
                    yield from self._landed(flight)
            else:
                self._hear(content)
        now = time.monotonic()
        due = [flight for moment, flight in self._judged if moment <= now]
        self._judged = [(moment, flight) for moment, flight in self._judged if moment > now]
        for flight in due:
            yield from self._judge(flight)

    def _hear(self, event: dict[str, Any]) -> None:
        flight = self._live.get(event["key"]) or next(
            (one for _, one in self._judged if one.key == event["key"]), None
        )
        if flight is None:
            return
        worker = self._workers.setdefault(event["worker"], len(self._workers))
        if event["what"] == "start":
            flight.starts += 1
            flight.begun = True
            flight.began = time.monotonic()
        elif self.on_event is not None:
            self.on_event(worker, flight.task, event["event"])

    def _landed(self, flight: _Flight) -> Iterator[tuple[Any, Outcome]]:
        """What became of a file."""
        from distributed import KilledWorker

        future, status = flight.future, flight.future.status
        flight.future = None
        try:
            if status == "finished":
                outcome = future.result(timeout=60)
                name = outcome.pop("dask_worker", "")
                outcome["worker"] = self._workers.setdefault(name, len(self._workers))
                yield flight.task, outcome
            elif status == "error" and isinstance(error := future.exception(), KilledWorker):
                # whether it was being worked on is told on another way, and may come later
                self._judged.append((time.monotonic() + SETTLE, flight))
            elif status == "error":
                if _cannot_load(error):
                    raise ExecutorError(
                        f"the scheduler or a worker cannot load knit ({_words(error):.200}): install "
                        "the same napari-knitworks, with its extra cluster, there"
                    )
                yield flight.task, {"status": "failed", "error": f"unexpected {_words(error)}"}
            elif self._client.status != "running":
                raise self._gone()
            else:  # its worker went away with the result before we had it
                self._judged.append((time.monotonic() + SETTLE, flight))
        except ExecutorError:
            raise
        except Exception as error:  # dask raises anything when it loses its peer
            if self._client.status != "running":
                raise self._gone(error) from None
            self._judged.append((time.monotonic() + SETTLE, flight))
        finally:
            with contextlib.suppress(Exception):
                future.release()

    def _judge(self, flight: _Flight) -> Iterator[tuple[Any, Outcome]]:
        """A file's worker is dead: was it the file?"""
        if self._pressed:
            return
        innocent = not flight.begun
        if innocent:
            flight.lost += 1
        if self.clean is not None and not innocent:
            self.clean(flight.task)
        if flight.lost <= INNOCENT and flight.starts <= self.limits.retries:
            self._again.append(flight)
            if self.on_event is not None and not innocent:
                again = "its worker was lost (killed, or its machine is gone); trying it once more"
                self.on_event(-1, flight.task, {"note": again, "level": "warning"})
            return
        seconds = round(time.monotonic() - flight.began, 3)
        reason = "its worker was lost (killed, or its machine is gone)"
        if flight.starts > 1:
            reason += f", tried {flight.starts} times"
        yield flight.task, {"status": "failed", "error": reason, "seconds": seconds}

    def _press(self, level: int) -> Iterator[tuple[Any, Outcome]]:
        """Take back what was not begun, and tell the workers how urgent it is."""
        now = time.monotonic()
        if level > self._pressed:
            self._press_since = self._press_since or now
            self._pressed = level
            idle = [flight for flight in self._live.values() if not flight.begun]
            for flight in idle:
                del self._live[flight.key]
            self._again.clear()
            self._judged.clear()
            client = self._client

            def tell() -> None:
                with contextlib.suppress(Exception):
                    client.run(_press_on, self._token, level, wait=False, on_error="ignore")
                    client.cancel([flight.future for flight in idle], force=True)

            # not waited for: a worker that does not answer would hold us up
            threading.Thread(target=tell, daemon=True).start()
        if now - self._press_since > DROP / (5 if level > 1 else 1):
            for flight in self._live.values():
                yield flight.task, {"status": "stopped"}
            self._live.clear()

    def _look_after(self) -> None:
        """How many workers there are, and whether there is anybody at all."""
        now = time.monotonic()
        if now - self._looked < 1:
            return
        self._looked = now
        if self._client.status not in ("running", "connecting"):
            raise self._gone()
        try:
            self._threads = sum(self._client.nthreads().values())
        except Exception as error:
            raise self._gone(error) from None
        if self._threads:
            self._alone, self._told = None, False
            return
        self._alone = self._alone or now
        patience = self.settings.worker_timeout or PATIENCE.get(self.settings.kind, DAY)
        if now - self._alone > patience:
            raise ExecutorError(f"no worker has come within {patience:g} s{self._hint()}")
        if now - self._alone > SAY and not self._told and self.on_event is not None:
            self._told = True
            text = f"no worker has come yet; waiting{self._hint()}"
            self.on_event(-1, None, {"note": text, "level": "warning"})

    def _hint(self) -> str:
        if self.settings.kind == "dask":
            return f" (start some: dask worker {self.settings.address} --nthreads 1)"
        if self.settings.is_queue:
            return f" (look at the queue, and at {self.home / '.knit' / 'jobs'})"
        return ""

    def _gone(self, error: Exception | None = None) -> ExecutorError:
        told = f" ({_words(error)})" if error else ""
        return ExecutorError(f"the cluster's scheduler is gone{told}")


def make_cluster(settings: Executor, home: Path) -> Any:
    """Start a cluster of this machine, or one of jobs.

    Parameters
    ----------
    settings : Executor
    home : Path
        Where the queue leaves the jobs' logs, in `.knit/jobs`.

    Returns
    -------
    distributed.deploy.Cluster
        Its workers have one thread each, and are replaced when they die.

    Raises
    ------
    ClusterError
        dask-jobqueue does not take an option.
    """
    import dask

    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": 0,  # we count ourselves, and only the guilty
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.worker.daemon": False,
            "distributed.admin.low-level-log-length": 100,  # else they grow with the run
        }
    )
    if settings.kind == "dask-local":
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=settings.workers or 1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=0,  # the limit is that of the process which does the files
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    import dask_jobqueue

    logs = home / ".knit" / "jobs"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        cluster = getattr(dask_jobqueue, QUEUES[settings.kind][0])(**job_options(settings, logs))
    except (TypeError, ValueError) as error:
        raise ClusterError(
            f"dask-jobqueue does not take these `executor` settings: {_words(error)}"
        ) from None
    cluster.adapt(minimum_jobs=settings.workers, maximum_jobs=settings.workers)
    return cluster


def job_options(settings: Executor, logs: Path) -> dict[str, Any]:
    """Settings of an executor in the words of dask-jobqueue.

    Parameters
    ----------
    settings : Executor
        Of a queue.
    logs : Path
        Where the jobs' logs go.

    Returns
    -------
    dict
    """
    count, kind = settings.cores or 1, settings.kind
    # one thread a worker, whatever the cores: each fits one file, and torch uses the cores
    options: dict[str, Any] = {
        "cores": 1,
        "processes": 1,
        "memory": settings.memory,
        "walltime": settings.walltime,
        "log_directory": os.path.abspath(logs),
        "job_name": "knit",
        "job_extra_directives": list(settings.directives),
        "job_script_prologue": list(settings.prologue),
        "worker_extra_args": ["--memory-limit", "0"],
        "scheduler_options": {"dashboard_address": ":0"},
    }
    options |= {"slurm": {"job_cpu": count}, "lsf": {"ncpus": count}}.get(kind, {})
    if kind == "pbs":
        memory = str(settings.memory).lower()
        memory += "" if memory.endswith("b") else "b"
        options["resource_spec"] = f"select=1:ncpus={count}:mem={memory}"
    if settings.queue:
        options["queue"] = settings.queue
    if settings.account:
        options["account" if kind in ("slurm", "pbs") else "project"] = settings.account
    if settings.interface:
        options["interface"] = settings.interface
    return options | settings.options


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What must be the same on all machines, for the same results; not to be changed in place."""
    from knitcore.result import METHOD_VERSION

    found = {"method": str(METHOD_VERSION)}
    for name in ("napari-knitworks", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _quiet() -> None:
    """dask reports workers that die as we do, but in lines of its own."""
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _connect(address: str | None) -> Any:
    from distributed import Client

    try:
        with without_interrupts():
            return Client(address, timeout=REACH, set_as_default=False, name="knit")
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ClusterError(
            f"no dask scheduler answers at {address} ({told:.200}); start one with: dask scheduler"
        ) from None


def _close(cluster: Any, is_queue: bool) -> None:
    with contextlib.suppress(Exception):
        cluster.close(timeout=30 if is_queue else 2)


def _end_workers(cluster: Any) -> None:
    """End the workers of this machine at once, which would else take seconds."""
    import psutil

    for nanny in list(getattr(cluster, "workers", {}).values()):
        with contextlib.suppress(Exception):
            nanny.auto_restart = False
            psutil.Process(nanny.pid).kill()


def _cannot_load(error: BaseException | None) -> bool:
    """Whether a task could not even be unpacked over there."""
    while error is not None:
        if isinstance(error, (ImportError, AttributeError)) or "deserializ" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# From here on: what runs in the workers.

_slots: dict[tuple[str, int], _Slot] = {}
_levels: dict[str, int] = {}
_lock = threading.Lock()


@dataclass
class _Slot:
    """The process of one thread of a worker."""

    processes: Processes
    folder: Path
    busy: bool = True
    timer: threading.Timer | None = None


def _do(terms: _Terms, key: str, task: Any) -> Outcome:
    """Work on one file in this thread's process."""
    from distributed import get_worker

    worker = get_worker()
    name, last, topic = f"{worker.address}/{threading.get_ident()}", [0.0], f"knit-{terms.token}"

    def tell(what: str, event: dict[str, Any] | None = None) -> None:
        content = {"what": what, "key": key, "worker": name, "event": event or {}}
        worker.log_event(topic, content)

    def pass_on(_: int, __: Any, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if "progress" in event and now - last[0] < EVERY:
            return
        last[0] = now
        tell("event", event)

    tell("start")
    if (trouble := _unfit(terms)) is not None:
        host = os.uname().nodename if hasattr(os, "uname") else worker.address
        return {"status": "failed", "error": f"worker on {host}: {trouble}", "abort": True}
    slot = _slot(terms, worker)
    slot.processes.on_event = pass_on
    try:
        for _, outcome in slot.processes.run([task]):
            return {**outcome, "dask_worker": name}
    except ExecutorError as error:
        return {"status": "failed", "error": str(error), "abort": True}
    finally:
        _rest(terms.token, slot)
    return {"status": "stopped", "dask_worker": name}


def _unfit(terms: _Terms) -> str | None:
    """Why this machine cannot take part, if it cannot."""
    ours, theirs = versions(), terms.versions
    other = [f"{name} {ours.get(name)}" for name in theirs if ours.get(name) != theirs[name]]
    if other:
        wanted = ", ".join(f"{name} {one}" for name, one in theirs.items())
        return f"has {', '.join(other)}, the run is of {wanted}: results could differ"
    end = time.monotonic() + SAY
    mark = Path(terms.home, ".knit", f"run-{terms.token}")
    while not mark.is_file():  # network disks show new files late
        if time.monotonic() > end:
            return f"does not see the run's folder {terms.home}: is it on a disk that all machines share?"
        time.sleep(0.5)
    if not os.path.isdir(terms.here):
        return f"does not see the folder {terms.here}, from which knit was started"
    return None


def _slot(terms: _Terms, worker: Any) -> _Slot:
    place = terms.token, threading.get_ident()
    with _lock:
        slot = _slots.get(place)
        if slot is not None:
            slot.busy = True
            if slot.timer is not None:
                slot.timer.cancel()
            return slot
    # a worker of dask is a daemon, which Python lets have no children unless told otherwise
    multiprocessing.current_process().daemon = False
    # dask has freed memory given back at once; a fit then takes up to twice as long, for getting it again
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    number = int(worker.name) if str(worker.name).isdigit() else 0
    environment = terms.environments[number % len(terms.environments)]
    folder = Path(worker.local_directory, f"knit-{terms.token}-{place[1]}")
    folder.mkdir(parents=True, exist_ok=True)
    processes = Processes(
        terms.work,
        1,
        warm=partial(_begin, terms.here, terms.warm),
        limits=terms.limits,
        scratch=folder,
        environments=[environment],
        pressed=lambda: _levels.get(terms.token, 0),
        clean=terms.clean,
        keep=True,
    )
    with _lock:
        return _slots.setdefault(place, _Slot(processes, folder))


def _begin(here: str, warm: Callable[[], Any] | None) -> None:
    os.chdir(here)  # names of files are meant from there
    if warm is not None:
        warm()


def _rest(token: str, slot: _Slot) -> None:
    """A process without a file waits for the next, but not for ever."""
    with _lock:
        slot.busy = False
        slot.timer = threading.Timer(IDLE, _end_run, (token,))
        slot.timer.daemon = True
        slot.timer.start()


def _end_run(token: str) -> None:
    """End the processes that wait for files of a run."""
    with _lock:
        ended = [place for place, slot in _slots.items() if place[0] == token and not slot.busy]
        slots = [_slots.pop(place) for place in ended]
    for slot in slots:
        if slot.timer is not None:
            slot.timer.cancel()
        slot.processes.close()
        shutil.rmtree(slot.folder, ignore_errors=True)


# dask waits for plain functions, but not for coroutines


async def _end_run_there(token: str) -> None:
    _end_run(token)


async def _press_on(token: str, level: int) -> None:
    _levels[token] = level
