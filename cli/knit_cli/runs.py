"""One run of a task: the plan, and a single file in this process; batches are in `batch`."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from knit_cli.jobs import (
    SIDES,
    Job,
    parse_mask,
    plan_jobs,
    prepare_folders,
    recorded_mask,
    without_helpers,
)
from knit_cli.listing import Choice, Listed, list_images, names_from_stdin, same_file
from knit_cli.main import (
    DONE,
    FAILED,
    SURROUNDINGS,
    Stopped,
    WrongPlan,
    recipe_checked,
    shielded,
    signals,
)
from knit_cli.options import given_fields
from knit_cli.places import STATE, Leftovers, locked, state_of
from knit_cli.render import Terminal, result_line, shown
from knit_cli.report import dump, report_line
from knit_cli.stacks import may_split
from knit_cli.work import (
    FileTask,
    attempt,
    file_seed,
    input_hashes,
    job_key,
    plain_fields,
    warm,
    work_on,
)
from knitcore.errors import Cancelled, DeviceError, FileError
from knitcore.events import Event, Note, Progress
from knitcore.files import file_hash
from knitcore.recipe import Inpaint, Recipe, SuperResolve, make_recipe, override_recipe, with_fields


def run(
    ctx: click.Context,
    task: str,
    inputs: tuple[str, ...],
    values: dict[str, Any],
    recipe: Recipe | None = None,
) -> None:
    """Do what a task's command was asked for, and leave with its exit code.

    Parameters
    ----------
    ctx : click.Context
    task : str
        One of `knitcore.recipe.RECIPES`.
    inputs : tuple of str
        Files and folders; "-" reads names from stdin.
    values : dict
        The command's options.
    recipe : Recipe, optional
        In place of the recipe that the options make.
    """
    terminal = Terminal(quiet=values["quiet"], verbose=values["verbose"], log=values["log"])
    if "-" in inputs:
        named = names_from_stdin()
        if not named:
            raise click.UsageError("no names on stdin")
        values = {**values, "many": True}
        inputs = tuple(name for text in inputs for name in (named if text == "-" else [text]))
    with recipe_checked():
        plan = _prepare(task, inputs, values, terminal, recipe)
    shared = values["jobs"] > 1 and any(may_split(job) for job in plan.jobs)
    cluster = values["dask"] or values["dask_local"]
    if cluster and plan.stdout:
        raise click.UsageError("-o - is for this machine alone: leave out --dask and --dask-local")
    if plan.many or cluster or shared:
        from knit_cli.batch import run_batch

        code = run_batch(plan, values, terminal, ctx)
    else:
        with contextlib.ExitStack() as held:
            if (plan.home / STATE).is_dir() and not values["dry_run"]:  # of batches: not beside one
                held.enter_context(locked(plan.home, patient=values["wait"]))
            code = _run_one(plan, values, terminal)
    ctx.exit(code)


def _run_one(plan: Plan, values: dict[str, Any], terminal: Terminal) -> int:
    """One file, in this process."""
    if values["dry_run"]:
        from knit_cli.batch import show_plan

        return show_plan(plan, values, terminal)
    prepare_folders(plan.jobs)
    tell = _Teller(plan, values, terminal)
    try:
        code = _attempt_one(plan, values, terminal, tell)
    except Cancelled:
        terminal.say("Error", "stopped" if signals.code == 130 else "terminated")
        code = signals.code
    except Stopped as stop:
        terminal.say("Error", "stopped" if stop.code == 130 else "terminated")
        code = stop.code
    tell.end(code)
    return code


class _Teller:
    """The events of a single file, as those of a batch: for --events json and the log."""

    def __init__(self, plan: Plan, values: dict[str, Any], terminal: Terminal) -> None:
        self.name, self.output = plan.names[0], plan.jobs[0].output
        self.values, self.terminal = values, terminal
        self.states = dict.fromkeys(("done", "skipped", "failed"), 0)
        say_event({"event": "start", "task": plan.recipe.task, "files": 1}, values)

    def event(self, event: Event) -> None:
        """What the task reports."""
        self.terminal.event(event)
        if isinstance(event, Progress):
            told = {"progress": event.fraction, "stage": event.stage}
            say_event({"event": "progress", "file": self.name, "worker": 0, **told}, self.values)

    def outcome(self, outcome: dict[str, Any]) -> None:
        """What became of the file."""
        state = outcome["status"]
        self.states[state] += 1
        say_event(report_line(self.name, outcome, self.output.name), self.values)
        if state == "done":  # the others have a line already
            self.terminal.log(f"done {self.name} -> {self.output}")

    def end(self, code: int) -> None:
        """The run is over."""
        left = {"not started": 1 - sum(self.states.values())}
        say_event({"event": "end", "exit": code, **self.states, **left}, self.values)


def _attempt_one(plan: Plan, values: dict[str, Any], terminal: Terminal, tell: _Teller) -> int:
    job = plan.jobs[0]
    if (trouble := check_device(plan)) is not None:
        terminal.say("Error", trouble)
        return SURROUNDINGS
    work = make_task(plan, 0, values)
    Leftovers().settle(job)
    state, reason = ("failed", job.fault) if job.fault else _state(work, values)
    if state == "done":
        terminal.say("Note", f"{job.output}: done already, with the same settings; skipped")
        tell.outcome({"status": "skipped"})
        return DONE
    outcome: dict[str, Any] = {"status": "failed", "input": str(job.image), "error": reason}
    if state != "failed":
        terminal.start(job.image.name)
        try:
            ready = replace(work, overwrite=work.overwrite or state == "redo")
            if values["timeout"] or values["max_memory"]:
                outcome = _in_a_worker(ready, values, tell)
            else:
                outcome = attempt(ready, tell.event, signals.stop, shielded)
        finally:
            terminal.finish()
    if "trace" in outcome:
        click.echo(outcome.pop("trace"), err=True)
    outcome.pop("poisoned", None)  # this process ends anyway
    failed = outcome["status"] == "failed"
    if failed:
        terminal.say("Error", outcome["error"])
    tell.outcome(outcome)
    if outcome.pop("abort", False):
        return SURROUNDINGS
    if plan.stdout and not failed:
        return _to_stdout(plan)
    if not values["events"]:
        tell_outcome(outcome, values)
    return FAILED if failed else DONE


def _in_a_worker(task: FileTask, values: dict[str, Any], tell: _Teller) -> dict[str, Any]:
    """As `attempt`, in a process of its own: only that can be held to limits."""
    from knit_cli.executors import ExecutorError, Limits, Processes, worker_environments

    began = time.monotonic()

    def show(worker: int, task: Any, event: dict[str, Any]) -> None:
        if "note" in event:
            tell.event(Note(event["note"], event["level"]))
            return
        fraction, seconds = event["progress"], time.monotonic() - began
        left = seconds * (1 - fraction) / fraction if fraction > 0.02 else float("nan")
        tell.event(Progress(fraction, event["stage"], {}, seconds, left))

    signals.gentle = True  # the executor looks at the count
    try:
        with tempfile.TemporaryDirectory(prefix="knit-") as scratch:
            executor = Processes(
                work_on,
                warm=warm,
                limits=Limits(values["timeout"], values["max_memory"], values["retries"]),
                scratch=Path(scratch),
                environments=worker_environments(1, task.recipe["device"]),
                on_event=show,
                pressed=lambda: 2 if signals.count else 0,
                clean=lambda task: Leftovers().settle(task.job),
            )
            outcomes = [outcome for _, outcome in executor.run([task])]
    except ExecutorError as error:
        return {"status": "failed", "error": str(error), "abort": True}
    finally:
        signals.gentle = False
    if not outcomes or outcomes[0]["status"] == "stopped":
        raise Cancelled
    outcome = {"input": str(task.job.image), **outcomes[0]}
    del outcome["worker"]
    if "stack" in outcome:
        outcome["error"] = f"{task.job.image}: {outcome['error']}"
        stack = outcome.pop("stack")
        if task.debug and stack:
            outcome["trace"] = stack
    return outcome


def tell_outcome(outcome: dict[str, Any], values: dict[str, Any]) -> None:
    """The line on stdout about a file; quiet if nobody reads it any more."""
    if not (values["as_json"] or outcome["status"] == "done"):
        return
    told = {k: v for k, v in outcome.items() if k not in ("sides", "hashes", "written", "key")}
    if outcome["status"] == "done":
        wanted = [name for name in SIDES if _flag(name) in values]
        told |= {name: None for name in wanted if name not in told} | outcome["sides"]
    say_line(result_line(told, values["as_json"]))


def say_line(text: str) -> None:
    """A line on stdout, as long as somebody reads it."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say_event(line: dict[str, Any], values: dict[str, Any]) -> None:
    """A line on stdout for machines, if they were asked for."""
    if values["events"] == "json":
        say_line(dump(line))


def _state(task: FileTask, values: dict[str, Any]) -> tuple[str, str]:
    """Whether a file is still to be done: hashes are only made where an output stands."""
    key = None
    if any(os.path.lexists(path) for path in task.job.outputs()):
        try:
            key = job_key(task, *input_hashes(task.job))
        except OSError:
            key = None
    return state_of(task.job, key, overwrite=values["overwrite"], verify=values["verify"])


def _to_stdout(plan: Plan) -> int:
    try:
        with plan.jobs[0].output.open("rb") as result:
            shutil.copyfileobj(result, sys.stdout.buffer)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    finally:
        shutil.rmtree(plan.jobs[0].output.parent, ignore_errors=True)
    return DONE


@dataclass(frozen=True)
class _Kernel:
    """A kernel that came as a file or in a record.

    Attributes
    ----------
    values : array-like
    path : Path or None
    file : dict or None
        Its name and hash, for the record.
    """

    values: Any
    path: Path | None = None
    file: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """What is settled before the first fit.

    Attributes
    ----------
    recipe : Recipe
    jobs : list of Job
    names : list of str
        Of the jobs' inputs within the run.
    many : bool
        A batch, with its lock and report, rather than a single file.
    home : Path
        Where lock and report of a batch are.
    out : Path or None
        The output folder, if one was named.
    record : dict or None
        The record to repeat and compare with.
    kernel : _Kernel or None
    stdout : bool
        The result goes to stdout.
    """

    recipe: Recipe
    jobs: list[Job]
    names: list[str]
    many: bool
    home: Path
    out: Path | None = None
    record: dict[str, Any] | None = None
    kernel: _Kernel | None = None
    stdout: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


def _prepare(
    task: str,
    inputs: tuple[str, ...],
    values: dict[str, Any],
    terminal: Terminal,
    recipe: Recipe | None,
) -> Plan:
    """Recipe, jobs, and what goes with them; all checks that need no pixels of images."""
    fields, record, source = given_fields(task, values), None, values["recipe_file"]
    if recipe is None:
        recipe = override_recipe(source, task, **fields) if source else make_recipe(task, **fields)
    else:
        recipe = with_fields(recipe, fields)
    if source and source.endswith(".knit.json"):
        record = _record(Path(source))
    mask = parse_mask(values["mask"]) if values.get("mask") else None
    kernel = None
    if isinstance(recipe, SuperResolve):
        kernel = _kernel(recipe, values, record)
        if kernel is not None and kernel.path is not None:
            recipe = with_fields(recipe, {"kernel": kernel.path.name})  # no place in the record
    path = kernel.path if kernel else None
    folders = [Path(text) for text in inputs if os.path.isdir(text) and not text.endswith(".zarr")]
    many = len(inputs) > 1 or bool(folders) or values.get("many", False)
    out = values["out"]
    if out == "-":
        return _plan_for_stdout(recipe, inputs, values, many, mask, record, kernel)
    choice = Choice(
        tuple(values["include"]),
        tuple(values["exclude"]),
        values["recursive"],
        Path(out) if out else None,
    )
    listing = list_images(inputs, choice, SIDES)
    listed = without_helpers(listing.images, mask, path) if folders else listing.images
    if not listed:
        raise click.UsageError(f"no image to work on in {', '.join(map(str, folders))}")
    if terminal.verbose and listing.skipped:
        others = ", ".join(one.name for one in listing.skipped)
        terminal.say("Note", f"skipped {len(listing.skipped)} other files: {others}")
    if isinstance(recipe, Inpaint):
        mask = _mask(recipe, mask, values, record, listed[0].path)
    jobs = plan_jobs(
        listed,
        out,
        _ending(recipe),
        many=many,
        overwrite=True,  # what stands there is looked at later: it may be ours
        keep_extension=values["keep_extension"],
        suffix="." + values["format"] if values["format"] else None,
        sides=[name for name in SIDES if values.get(_flag(name))],
        mask=mask,
        kernel=path,
    )
    names = [image.name for image in listed]
    if values["shard"]:
        jobs, names = _shard(jobs, names, values["shard"])
    folder = Path(out) if out and many else None
    if folder is not None and any(same_file(folder, one) for one in folders):
        terminal.say("Note", f"-o {out} is an input folder: results lie beside their images")
    if folder is None:
        parents = [os.path.abspath(job.output.parent) for job in jobs] or [os.curdir]
        home = Path(os.path.commonpath(parents)) if many else jobs[0].output.parent
    else:
        home = folder
    return Plan(recipe, jobs, names, many, home, folder, record, kernel)


def _shard(
    jobs: list[Job], names: list[str], shard: tuple[int, int]
) -> tuple[list[Job], list[str]]:
    """Every n-th file by the hash of its name: the same in each shard, however they are listed."""
    number, count = shard
    mine = [i for i, name in enumerate(names) if file_seed(0, name) % count == number - 1]
    return [jobs[i] for i in mine], [names[i] for i in mine]


def _plan_for_stdout(
    recipe: Recipe,
    inputs: tuple[str, ...],
    values: dict[str, Any],
    many: bool,
    mask: Path | str | None,
    record: dict[str, Any] | None,
    kernel: _Kernel | None,
) -> Plan:
    """A single file whose result is written to a folder for a moment, and then to stdout."""
    if many:
        raise click.UsageError("-o - writes one result to stdout: give one file")
    if sys.stdout.isatty():
        raise click.UsageError(
            "-o - would write an image to the terminal; send it on, or use -o FILE"
        )
    if values["as_json"] or values["events"]:
        raise click.UsageError("-o - leaves no room on stdout for --json or --events")
    if lost := [name for name in SIDES if values.get(_flag(name))]:
        raise click.UsageError(
            f"-o - writes the result alone: leave out --{_flag(lost[0]).replace('_', '-')}"
        )
    image = Listed(Path(inputs[0]))
    if isinstance(recipe, Inpaint):
        mask = _mask(recipe, mask, values, record, image.path)
    folder = tempfile.mkdtemp(prefix="knit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    jobs = plan_jobs(
        [image],
        folder,
        _ending(recipe),
        many=False,
        overwrite=False,
        suffix="." + values["format"] if values["format"] else None,
        mask=mask,
        kernel=kernel.path if kernel else None,
    )
    if jobs[0].output.suffix == ".zarr":
        raise click.UsageError("-o - cannot write Zarr, which is a folder; choose another --format")
    return Plan(recipe, jobs, [image.name], False, Path(folder), None, record, kernel, stdout=True)


def _ending(recipe: Recipe) -> str:
    if isinstance(recipe, SuperResolve):
        return "_x" + "x".join(f"{factor:g}" for factor in recipe.factors)
    return {"inpaint": "_inpainted", "denoise": "_denoised"}[recipe.task]


def _flag(side: str) -> str:
    """Which option asks for a file beside the output."""
    return "save_" + side.split("_")[0]


def _mask(
    recipe: Inpaint,
    mask: Path | str | None,
    values: dict[str, Any],
    record: dict[str, Any] | None,
    image: Path,
) -> Path | str | None:
    """The mask given, or that of the record; checked against the recipe."""
    if mask is None and record is not None:
        source = values["recipe_file"]
        try:
            mask = recorded_mask(record, Path(source), image)
        except FileError as error:
            raise WrongPlan(shown(f"{source}: {error}")) from None
    marked = recipe.alpha_channel == "mask" or recipe.saturated_as_hole
    if mask is None and not marked and not values["missing_as_hole"]:
        raise click.UsageError(
            "what is to be filled? Give --mask: an image, a folder, nan, saturated, alpha or value=0"
        )
    if isinstance(mask, str) and (recipe.mask_label or recipe.invert_mask):
        name = "--mask-label" if recipe.mask_label else "--invert-mask"
        raise click.UsageError(f"{name} needs a mask image, not {mask!r}")
    return mask


def _kernel(
    recipe: SuperResolve, values: dict[str, Any], record: dict[str, Any] | None
) -> _Kernel | None:
    """The kernel's values where the recipe's word is not enough to make it."""
    from knitcore.files import read_image

    choice, folder = recipe.kernel, Path()
    if not recipe.kernel_is_file:
        return None
    if values["kernel"] is None and record is not None:
        known = (record.get("kernel") or {}).get("values")
        if known:
            return _Kernel(known, file=(record.get("files") or {}).get("kernel"))
    if values["kernel"] is None and values["recipe_file"]:
        folder = Path(values["recipe_file"]).parent  # as a recipe's paths are meant
    try:
        image = read_image(folder / choice, max_pixels=values["max_pixels"])
    except FileError as error:
        raise WrongPlan(
            shown(f"kernel {error} (give estimate, delta, gaussian:S or an image file)")
        ) from None
    return _Kernel(
        image.data,
        folder / choice,
        {"name": Path(choice).name, "sha256": file_hash(folder / choice)},
    )


def _record(path: Path) -> dict[str, Any] | None:
    from knitcore.files import read_record

    try:
        return read_record(path)
    except FileError:
        return None  # a plain recipe that happens to be called so


def check_device(plan: Plan) -> str | None:
    """Why the device asked for cannot be used, if it cannot.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    str or None
    """
    if plan.recipe.device in ("auto", "cpu") or all(job.fault for job in plan.jobs):
        return None
    from knitcore.device import choose_device

    try:
        choose_device(plan.recipe.device)
    except DeviceError as error:
        return str(error)
    return None


def make_task(plan: Plan, number: int, values: dict[str, Any]) -> FileTask:
    """One file of a plan as plain data.

    Parameters
    ----------
    plan : Plan
    number : int
        Of the job.
    values : dict
        The command's options.

    Returns
    -------
    FileTask
    """
    fields, name = plan_fields(plan), plan.names[number]
    if plan.many and plan.record is None:
        fields = {**fields, "seed": file_seed(plan.recipe.seed, name)}
    return FileTask(
        plan.jobs[number],
        name,
        fields,
        kernel=plan.kernel.values if plan.kernel else None,
        kernel_file=plan.kernel.file if plan.kernel else None,
        repeats=plan.record,
        max_pixels=values["max_pixels"],
        series=values["series"],
        allow_damaged=values["allow_damaged"],
        missing_as_hole=values["missing_as_hole"],
        overwrite=values["overwrite"],
        keep_metadata=values["keep_metadata"] == "all",
        debug=values["debug"],
    )


def plan_fields(plan: Plan) -> dict[str, Any]:
    """The plan's recipe as plain data, made once."""
    if not plan.fields:
        plan.fields.update(plain_fields(plan.recipe))
    return plan.fields
