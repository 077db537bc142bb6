"""A batch: lock the output folder, skip what is done, hand out the rest, report every file."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from knit_cli.estimates import START, guesses, measured
from knit_cli.executors import (
    ExecutorError,
    Limits,
    Processes,
    Together,
    visible_gpus,
    worker_environments,
)
from knit_cli.jobs import cannot_write, prepare_folders
from knit_cli.main import FAILED, SURROUNDINGS, signals
from knit_cli.places import STATE, Leftovers, locked, state_of
from knit_cli.render import Board, Terminal, shown, summary
from knit_cli.report import Report, report_line
from knit_cli.runs import Plan, check_device, make_task, say_event, say_line, tell_outcome
from knit_cli.stacks import may_split, split
from knit_cli.work import FileTask, input_hashes, job_key, warm, work_on
from knitcore.events import Note
from knitcore.recipe import Inpaint, Recipe
from knitcore.run_file import Executor
from knitcore.zarr_files import is_zarr

if TYPE_CHECKING:
    from knit_cli.cluster import DaskWorkers

LONG = 30 * 24 * 3600.0  # from here on a run is only started with --yes
GPU_FILES = 64  # that a worker with a GPU gets at a time: as many holes as it fits together at most


def run_batch(plan: Plan, values: dict[str, Any], terminal: Terminal, ctx: click.Context) -> int:
    """Work on all files of a plan.

    Parameters
    ----------
    plan : Plan
    values : dict
        The command's options.
    terminal : Terminal
    ctx : click.Context

    Returns
    -------
    int
        The exit code.
    """
    if values["dry_run"]:
        return show_plan(plan, values, terminal)
    _refuse_the_absurd(plan, values)
    cluster = _cluster(values)
    if not plan.jobs:
        terminal.say("Note", "no file falls to this shard")
        return 0
    # the folder itself is made, not those above it: a mistyped path should not grow a tree
    _make(plan.home)
    with locked(plan.home, shard=values["shard"], patient=values["wait"]):
        prepare_folders([job for job in plan.jobs if not job.fault], plan.out)
        return _Batch(plan, values, terminal, cluster).run()


def files_at_a_time(recipe: Recipe, files: int, workers: int) -> int:
    """How many files a worker gets at a time: enough for one fit, if each has a single hole.

    Parameters
    ----------
    recipe : Recipe
    files, workers : int
        Of the run.

    Returns
    -------
    int
        1 where files are worked on one by one, as without `batch` on the CPU.
    """
    if not isinstance(recipe, Inpaint) or not recipe.tiles:
        return 1
    gpu = recipe.device.startswith("cuda") or (recipe.device == "auto" and visible_gpus())
    most = recipe.batch or (GPU_FILES if gpu else 1)
    return max(1, min(most, math.ceil(files / workers)))


def portions(tasks: list[FileTask], workers: int) -> list[list[FileTask]]:
    """A few files, evenly for all workers.

    Parameters
    ----------
    tasks : list of FileTask
        No more than a worker gets at a time.
    workers : int

    Returns
    -------
    list of list of FileTask
    """
    each = max(1, math.ceil(len(tasks) / workers))
    return [tasks[first : first + each] for first in range(0, len(tasks), each)]


def cluster_of(values: dict[str, Any]) -> Executor | None:
    """The cluster that options or run file ask for, or None for processes of this machine.

    Parameters
    ----------
    values : dict
        The command's options.

    Returns
    -------
    Executor or None

    Raises
    ------
    click.UsageError
        Two clusters.
    """
    if values.get("dask") and values.get("dask_local"):
        raise click.UsageError("--dask uses a cluster that runs, --dask-local starts one: give one")
    if values.get("dask"):
        return Executor(kind="dask", address=values["dask"])
    if values.get("dask_local"):
        return Executor(kind="dask-local", workers=values["dask_local"])
    return values.get("cluster")


def _cluster(values: dict[str, Any]) -> DaskWorkers | None:
    """The cluster's workers, once it is known that they can be had."""
    settings = cluster_of(values)
    if settings is None:
        return None
    from knit_cli.cluster import ClusterError, DaskWorkers

    workers = DaskWorkers(work_on, settings)
    try:
        workers.reach()
    except ClusterError as error:
        raise click.UsageError(str(error)) from None
    return workers


def _make(folder: Path) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
    except OSError as error:
        raise cannot_write(folder, error) from None


class _Batch:
    """A batch that is going on: what has become of its files so far."""

    def __init__(
        self,
        plan: Plan,
        values: dict[str, Any],
        terminal: Terminal,
        cluster: DaskWorkers | None = None,
    ) -> None:
        self.plan, self.values, self.terminal, self.cluster = plan, values, terminal, cluster
        self.report = Report(plan.home)
        self.known = self.report.read()
        self.leftovers = Leftovers()
        self.failed: list[tuple[str, str]] = []
        self.counts = dict.fromkeys(("done", "skipped", "failed"), 0)
        count = values["jobs"] if cluster is None else cluster.settings.workers or 1
        # a stack may be work for all of them
        most = count if any(may_split(job) for job in plan.jobs[:100]) else len(plan.jobs)
        self.workers = max(1, min(count, most))
        self.broken: set[str] = set()  # stacks of which a part has failed
        self.board: Board | None = None
        self.abort = ""

    def run(self) -> int:
        """All files; then the table. Returns the exit code."""
        self.tell({"event": "start", "task": self.plan.recipe.task, "files": len(self.plan.jobs)})
        # from here on a signal only sets a flag, which the executor looks at
        signals.gentle = True
        code = 0
        try:
            code = self._work()
        except ExecutorError as error:
            self.abort = str(error)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self.abort = f"{error.filename or self.report.path}: {reason}"
        finally:
            signals.gentle = False
            if self.board is not None:
                self.board.close()
        if self.abort:
            self.terminal.say("Error", self.abort)
            code = SURROUNDINGS
        elif signals.count:
            self.terminal.say("Error", "stopped" if signals.code == 130 else "terminated")
            code = signals.code
        elif self.counts["failed"]:
            code = FAILED
        self._finish(code)
        return code

    def _work(self) -> int:
        plan = self.plan
        # on a cluster, its machines have the device, or tell that they have not
        far = self.cluster is not None and self.cluster.settings.kind != "dask-local"
        if not far and (trouble := check_device(plan)) is not None:
            self.abort = trouble
            return SURROUNDINGS
        if signals.count:
            return signals.code
        executor = self._executor()
        self.board = Board(self.terminal, len(plan.jobs), self.workers)
        grown: set[Path] = set()
        for task, outcome in executor.run(self._together(self._tasks())):
            self._take(task, outcome)
            if task.part is not None and outcome["status"] == "done":
                grown.add(task.part.folder)
        for folder in grown:  # whoever came late to a finished stack may have begun it anew
            shutil.rmtree(folder, ignore_errors=True)
        return 0

    def _executor(self) -> Processes | DaskWorkers:
        """Local processes, or the cluster: what they do is the same."""
        plan, values = self.plan, self.values
        limits = Limits(values["timeout"], values["max_memory"], values["retries"])
        scratch = plan.home / STATE / "crash"
        scratch.mkdir(parents=True, exist_ok=True)
        if self.cluster is None:
            return Processes(
                work_on,
                self.workers,
                warm=warm,
                limits=limits,
                scratch=scratch,
                environments=worker_environments(self.workers, plan.recipe.device),
                on_event=self._event,
                pressed=self._pressed,
                clean=settle,
            )
        cluster = self.cluster
        cluster.home, cluster.device, cluster.limits = plan.home, plan.recipe.device, limits
        cluster.warm, cluster.clean = warm, settle
        cluster.on_event, cluster.pressed = self._event, self._pressed
        return cluster

    def _pressed(self) -> int:
        if self.abort:
            return 1
        if not signals.count:
            return 0
        if not signals.told:
            signals.told = True
            running = len(self.board.running) if self.board else 0
            if signals.code == 130 and signals.count == 1:
                files = "1 running image" if running == 1 else f"{running} running images"
                self.terminal.say(
                    "Note", f"stopping: {files} may end within a second; Ctrl-C again: at once"
                )
        # a terminated run has no second Ctrl-C to wait for
        return 2 if signals.count > 1 or signals.code != 130 else 1

    def _tasks(self) -> Iterator[FileTask]:
        """The files that are to be worked on; those done or refused are told on the way."""
        values = self.values
        for number in range(len(self.plan.jobs)):
            if signals.count or self.abort:
                return
            task = make_task(self.plan, number, values)
            job, output = task.job, self._output(task)
            if values["retry_failed"] and self.known.get(output, {}).get("state") != "failed":
                continue
            self.leftovers.settle(job)
            hashes, key = ("", ""), None
            state, reason = "failed", job.fault
            if not job.fault:
                if any(os.path.lexists(path) for path in job.outputs()):
                    with contextlib.suppress(OSError):
                        hashes = input_hashes(job)
                        key = job_key(task, *hashes)
                state, reason = state_of(
                    job, key, overwrite=values["overwrite"], verify=values["verify"]
                )
            if state == "done":
                self._skip(task, key, hashes)
            elif state == "failed":
                self._take(task, {"status": "failed", "input": str(job.image), "error": reason})
            else:
                ready = replace(task, overwrite=state == "redo")
                if self.workers == 1 and self.cluster is None:
                    yield ready
                else:
                    yield from split(ready, alone=self._few())

    def _together(self, tasks: Iterator[FileTask]) -> Iterator[FileTask | Together]:
        """Files whose holes are fitted together as one task; all others as they are."""
        values, size = self.values, 1
        # limits are of a file, not of several; and on a cluster files are told apart by their tasks
        if not (values["timeout"] or values["max_memory"] or self.cluster):
            size = files_at_a_time(self.plan.recipe, len(self.plan.jobs), self.workers)
        held: list[FileTask] = []
        given = False
        for task in tasks:
            if size == 1 or task.part is not None or is_zarr(task.job.image):
                yield task
                continue
            held.append(task)
            if len(held) == size:
                yield Together(tuple(held))
                held, given = [], True
        if not (signals.count or self.abort):
            # of a run that goes on, they may be all there is; else each worker has had its share
            for some in portions(held, 1 if given else self.workers):
                yield Together(tuple(some)) if len(some) > 1 else some[0]

    def _few(self) -> bool:
        """Whether there are fewer files than would keep all workers busy."""
        unknown = self.cluster is not None and self.cluster.settings.workers is None
        return unknown or len(self.plan.jobs) < 2 * self.workers

    def _output(self, task: FileTask) -> str:
        """Name of an output in the report: below the output folder."""
        path = os.path.abspath(task.job.output)
        return os.path.relpath(path, os.path.abspath(self.plan.home)).replace(os.sep, "/")

    def _skip(self, task: FileTask, key: str | None, hashes: tuple[str, str]) -> None:
        self.counts["skipped"] += 1
        if self.board is not None:
            self.board.ended(None, task.name, "skipped")
        line = self._line(task, {"status": "skipped", "key": key})
        self.tell(line)
        if self.terminal.verbose:
            self.terminal.say("Note", f"{task.job.image}: done already; skipped")
        self.terminal.log(f"skipped {task.job.image}")
        if self.known.get(self._output(task), {}).get("state") != "done":
            # its run was killed between the result and the line
            from knitcore.files import read_record, record_path

            written = read_record(record_path(task.job.output)).get("written")
            found = {"status": "done", "key": key, "written": written}
            found["hashes"] = {"input": hashes[0], "mask": hashes[1] or None}
            self.report.append(self._line(task, found))

    def _line(self, task: FileTask, outcome: dict[str, Any]) -> dict[str, Any]:
        return report_line(task.name, outcome, self._output(task))

    def _event(self, worker: int, task: FileTask | None, event: dict[str, Any]) -> None:
        if "note" in event:
            text = event["note"]
            if task is not None and task.job.image.name not in text:
                text = f"{task.name}: {text}"
            self.terminal.event(Note(text, event["level"]))
            if "gone" in event and self.board is not None:
                self.board.gone(worker)
        elif self.board is not None and task is not None:
            self.board.at_work(worker, task.name, event["progress"], event["stage"])
            if self.values["events"] == "json":
                self.tell({"event": "progress", "file": task.name, "worker": worker, **event})

    def _take(self, task: FileTask, outcome: dict[str, Any]) -> None:
        """A file has an outcome."""
        state = outcome["status"]
        if self.board is not None:
            self.board.ended(outcome.get("worker"), task.name, state)
        if state in ("stopped", "part"):
            return
        if state == "failed" and task.part is not None:
            if str(task.job.output) in self.broken:
                return
            self.broken.add(str(task.job.output))
        self.counts[state] += 1
        if outcome.pop("abort", False) and not self.abort:
            self.abort = outcome["error"]
        if "trace" in outcome:
            click.echo(outcome.pop("trace"), err=True)
        stack = outcome.pop("stack", "")
        outcome.setdefault("input", str(task.job.image))
        if state == "failed":
            reason = outcome["error"]
            if stack:
                self._keep_stack(task, stack)
            own = str(task.job.image)
            if own not in reason:
                reason = reason.removeprefix(f"{task.job.image.name}: ")
                outcome["error"] = f"{own}: {reason}"
            short = outcome["error"].removeprefix(own).lstrip(": ")
            self.failed.append((task.name, short))
            if not self.abort:
                self.terminal.say("Error", outcome["error"])
            outcome = {**outcome, "status": "failed"}
        line = self._line(task, outcome)
        if state == "failed":
            line["reason"] = self.failed[-1][1]
        self.report.append(line)
        self.tell(line)
        if state == "done":
            self.terminal.log(f"done {task.job.image} -> {task.job.output}")
        if not self.values["events"]:
            self._clear_of_board(outcome)

    def _clear_of_board(self, outcome: dict[str, Any]) -> None:
        live = self.board.live if self.board is not None else None
        if live is not None and sys.stdout.isatty():
            live.stop()
            tell_outcome(outcome, self.values)
            live.start()
        else:
            tell_outcome(outcome, self.values)

    def _keep_stack(self, task: FileTask, stack: str) -> None:
        name = os.fsdecode(os.fsencode(task.name.replace("/", "__"))[:200])
        with contextlib.suppress(OSError):
            (self.plan.home / STATE / "crash" / f"{name}.txt").write_text(stack)

    def tell(self, line: dict[str, Any]) -> None:
        """A line on stdout for machines."""
        say_event(line, self.values)

    def _finish(self, code: int) -> None:
        total = len(self.plan.jobs)
        counts = {**self.counts, "not started": total - sum(self.counts.values())}
        self.tell({"event": "end", "exit": code, **counts})
        table = summary(counts, self.failed)
        self.terminal.log(table.splitlines()[0])
        if code or not self.values["quiet"]:
            click.echo(table, err=True)
            if code in (FAILED, SURROUNDINGS, 130, 143):
                click.echo(_how_to_repeat(code), err=True)


def settle(task: FileTask) -> None:
    """Finish or remove what a dead worker left of a file.

    Parameters
    ----------
    task : FileTask
    """
    if task.part is None:  # parts share a folder, in which others go on writing
        Leftovers().settle(task.job, again=True)


def _how_to_repeat(code: int) -> str:
    words = sys.argv[1:]
    if code == FAILED and "--retry-failed" not in words:
        words = [*words[:1], "--retry-failed", *words[1:]]
    way = "To repeat only the failed" if code == FAILED else "To go on: the same command again"
    names = ", with the same names on stdin" if "-" in words else ""
    return f"{way}{names}: {shown(shlex.join(['knit', *words]))}"


def _refuse_the_absurd(plan: Plan, values: dict[str, Any]) -> None:
    """Do not begin what would take longer than anyone can have meant."""
    limit = values["max_time"] * 3600 if values["max_time"] else LONG
    total = sum(guesses(plan, look=False)) / max(1, values["jobs"])
    if total > limit and not values["yes"]:
        raise click.UsageError(
            f"this would take about {span(total)} (limit {span(limit)}); --yes to go on, or fewer "
            "--steps, smaller --ensemble, more --jobs"
        )


def show_plan(plan: Plan, values: dict[str, Any], terminal: Terminal) -> int:
    """A table of what would happen; nothing is written.

    Parameters
    ----------
    plan : Plan
    values : dict
    terminal : Terminal

    Returns
    -------
    int
        The exit code.
    """
    try:
        os.stat(os.path.dirname(os.path.abspath(plan.home)))  # a run makes the last folder only
    except OSError as error:
        raise cannot_write(plan.home, error) from None
    known = Report(plan.home).read()
    told = guesses(plan, look=True)
    factor = measured(plan, known, told)
    rows: list[dict[str, Any]] = []
    total = 0.0
    counts = {"run": 0, "redo": 0, "done": 0, "failed": 0}
    for number, job in enumerate(plan.jobs):
        task = make_task(plan, number, values)
        state, reason = "failed", job.fault
        if not job.fault and not os.path.exists(job.image):
            reason = "cannot read: no such file or directory"
        elif not job.fault:
            key = None
            if any(os.path.lexists(path) for path in job.outputs()):
                with contextlib.suppress(OSError):
                    key = job_key(task, *input_hashes(job))
            state, reason = state_of(
                job, key, overwrite=values["overwrite"], verify=values["verify"]
            )
        output = os.path.relpath(os.path.abspath(job.output), os.path.abspath(plan.home))
        if values["retry_failed"] and known.get(output, {}).get("state") != "failed":
            continue
        counts[state] += 1
        words = {
            "run": "would run",
            "redo": "would redo",
            "done": "is done",
            "failed": "would fail",
        }
        seconds = told[number] * (factor or 1.0) if state in ("run", "redo") else 0.0
        total += seconds
        own = reason.removeprefix(str(job.image)).lstrip(": ")
        rows.append(
            {
                "file": task.name,
                "state": words[state],
                "seconds": seconds,
                "output": str(job.output),
                "reason": own,
            }
        )
    if values["as_json"] or values["events"]:
        for row in rows:
            say_line(json.dumps({"event": "plan", **row}))
    else:
        width = min(max((len(row["file"]) for row in rows), default=0), 40)
        for row in rows:
            about = f"about {span(row['seconds'])}" if row["seconds"] else ""
            target = row["reason"] or f"-> {row['output']}"
            say_line(
                shown(f"{row['file']:{width}}  {row['state']:10}  {about:12}  {target}").rstrip()
            )
    workers = max(1, min(values["jobs"], max(counts["run"] + counts["redo"], 1)))
    basis = "as measured here" if factor else "a guess until files have been done here"
    total = total / workers + (START if total else 0.0)
    click.echo(
        f"would run {counts['run'] + counts['redo']} · done already {counts['done']} · "
        f"would fail {counts['failed']} · about {span(total)} with "
        f"{workers} {'worker' if workers == 1 else 'workers'} ({basis})",
        err=True,
    )
    return 0


def span(seconds: float) -> str:
    """A time in the largest unit that fits.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str
    """
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1g} s"
