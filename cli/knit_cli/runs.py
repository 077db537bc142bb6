"""One run of a task: the plan, then one file after the other."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from knit_cli.jobs import SIDES, Job, list_images, parse_mask, plan_jobs, recorded_mask
from knit_cli.main import FAILED, SURROUNDINGS, Stopped, WrongPlan, internal, shielded, signals
from knit_cli.options import given_fields
from knit_cli.render import Terminal, result_line, shown, summary
from knitcore.errors import Cancelled, DeviceError, FileError, KnitError, RecipeError
from knitcore.events import Event, Note
from knitcore.recipe import Inpaint, Recipe, SuperResolve, make_recipe, override_recipe, with_fields


def run(ctx: click.Context, task: str, inputs: tuple[str, ...], values: dict[str, Any]) -> None:
    """Do what a task's command was asked for, and leave with its exit code.

    Parameters
    ----------
    ctx : click.Context
    task : str
        One of `knitcore.recipe.RECIPES`.
    inputs : tuple of str
        Files and folders.
    values : dict
        The command's options.
    """
    terminal = Terminal(quiet=values["quiet"], verbose=values["verbose"])
    try:
        plan = _prepare(task, inputs, values, terminal)
    except RecipeError as error:
        raise WrongPlan(shown(error, lines=True)) from None
    jobs = plan.jobs
    outcomes: list[dict[str, Any]] = []
    code = 0
    try:
        _check_device(plan)
        for job in jobs:
            # appended first, so that a signal finds it in the list
            label = (
                job.image.name
                if len(jobs) == 1
                else f"{len(outcomes) + 1}/{len(jobs)} {job.image.name}"
            )
            outcome = _one(job, plan, label, terminal, values)
            outcomes.append(outcome)
            if outcome["status"] == "failed":
                code = FAILED
                terminal.say("Error", outcome["error"])
            if values["as_json"] or outcome["status"] == "done":
                click.echo(result_line(outcome, values["as_json"]))
    except Stopped as stop:
        terminal.say("Error", "stopped" if stop.code == 130 else "terminated")
        code = stop.code
    except _Abort as error:
        terminal.say("Error", str(error))
        code = SURROUNDINGS
    except BrokenPipeError:  # whoever read our lines has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(code if len(outcomes) == len(jobs) else FAILED)
    if len(jobs) > 1 and (code or not values["quiet"]):
        click.echo(summary(outcomes, len(jobs)), err=True)
    ctx.exit(code)


class _Abort(Exception):  # noqa: N818 - ends the run, not only a file
    """The surroundings make it useless to go on."""


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
class _Plan:
    """What is settled before the first fit; `record` is the one to repeat and compare with."""

    recipe: Recipe
    jobs: list[Job]
    record: dict[str, Any] | None = None
    kernel: _Kernel | None = None


def _prepare(
    task: str, inputs: tuple[str, ...], values: dict[str, Any], terminal: Terminal
) -> _Plan:
    """Recipe, jobs, and what goes with them; all checks that need no pixels of images."""
    fields, record, source = given_fields(task, values), None, values["recipe_file"]
    recipe = override_recipe(source, task, **fields) if source else make_recipe(task, **fields)
    if source and source.endswith(".knit.json"):
        record = _record(Path(source))
    mask = parse_mask(values["mask"]) if values.get("mask") else None
    kernel = None
    if isinstance(recipe, SuperResolve):
        kernel = _kernel(recipe, values, record)
        if kernel is not None and kernel.path is not None:
            recipe = with_fields(recipe, {"kernel": kernel.path.name})  # no place in the record
    path = kernel.path if kernel else None
    images, skipped = list_images(inputs, mask, path)
    if terminal.verbose and skipped:
        names = ", ".join(path.name for path in skipped)
        terminal.say("Note", f"skipped {len(skipped)} other files: {names}")
    if isinstance(recipe, Inpaint):
        mask = _mask(recipe, mask, values, record, images[0])
    ending = {"inpaint": "_inpainted", "denoise": "_denoised"}.get(task, "")
    if isinstance(recipe, SuperResolve):
        ending = "_x" + "x".join(f"{factor:g}" for factor in recipe.factors)
    jobs = plan_jobs(
        images,
        values["out"],
        ending,
        many=len(inputs) > 1 or Path(inputs[0]).is_dir(),
        overwrite=values["overwrite"],
        sides=[name for name in SIDES if values.get(_flag(name))],
        mask=mask,
        kernel=path,
    )
    return _Plan(recipe, jobs, record, kernel)


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
    if mask is None and recipe.alpha_channel == "keep" and not recipe.saturated_as_hole:
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
    return _Kernel(image.data, folder / choice, _file(folder / choice))


def _record(path: Path) -> dict[str, Any] | None:
    from knitcore.files import read_record

    try:
        return read_record(path)
    except FileError:
        return None  # a plain recipe that happens to be called so


def _check_device(plan: _Plan) -> None:
    if plan.recipe.device in ("auto", "cpu") or all(job.fault for job in plan.jobs):
        return
    from knitcore.device import choose_device

    try:
        choose_device(plan.recipe.device)
    except DeviceError as error:
        raise _Abort(str(error)) from None


def _one(
    job: Job,
    plan: _Plan,
    label: str,
    terminal: Terminal,
    values: dict[str, Any],
) -> dict[str, Any]:
    """Work on one image; whatever is wrong with it is told in the outcome."""
    outcome: dict[str, Any] = {"status": "failed", "input": str(job.image), "error": job.fault}
    if job.fault:
        return outcome
    terminal.start(label)
    try:
        return _work(job, plan, terminal, values)
    except Cancelled:
        raise Stopped(signals.code) from None
    except MemoryError:
        outcome["error"] = f"{job.image}: not enough memory"
    except KnitError as error:
        from knitcore.files import SURROUNDINGS as ERRNOS

        if isinstance(error, FileError) and error.errno in ERRNOS:
            raise _Abort(str(error)) from None
        outcome["error"] = str(error)
        _trace(values)
    except Exception as error:  # our own fault must not cost the other files
        outcome["error"] = f"{job.image}: {internal(error)}"
        _trace(values)
    finally:
        terminal.finish()
    return outcome


def _trace(values: dict[str, Any]) -> None:
    if values["debug"]:
        click.echo(traceback.format_exc(), err=True)


def _work(job: Job, plan: _Plan, terminal: Terminal, values: dict[str, Any]) -> dict[str, Any]:
    from knit_cli.outputs import write_outputs
    from knitcore.files import check_writable, read_image, read_mask, record_path
    from knitcore.tasks import run_steps

    began = time.monotonic()
    notes: list[Note] = []
    own = (job.image.name, job.mask.name if isinstance(job.mask, Path) else job.image.name)

    def show(item: Event) -> None:
        if isinstance(item, Note) and not item.text.startswith(own):
            item = replace(item, text=f"{job.image.name}: {item.text}")
        terminal.event(item)

    def note(item: Note) -> None:
        notes.append(item)
        show(item)

    limits = {"max_pixels": values["max_pixels"], "allow_damaged": values["allow_damaged"]}
    image = read_image(job.image, on_note=note, **limits)
    mask: Any = job.mask
    files: dict[str, Any] = {"image": _file(job.image)}
    if isinstance(plan.recipe, Inpaint):
        files["mask"] = {"word": job.mask} if job.mask else None
    if isinstance(job.mask, Path):
        mask = read_mask(job.mask, on_note=note, **limits)
        files["mask"] = _file(job.mask)
    if plan.kernel is not None:
        files["kernel"] = plan.kernel.file
    check_writable(image, job.output, overwrite=values["overwrite"])
    if plan.record is not None:
        _compare(plan.record, image, mask, plan.recipe, note)

    kernel = plan.kernel.values if plan.kernel else None
    steps = run_steps(plan.recipe, image, mask, kernel=kernel, cancel=signals.stop)
    try:
        while True:
            show(next(steps))
    except StopIteration as end:
        result = end.value
    finally:
        steps.close()

    record = result.record
    places = {"output": job.output, **job.sides}
    record["files"] = files | {name: path.name for name, path in places.items()}
    record["notes"] = [
        *({"level": item.level, "text": item.text} for item in notes),
        *record.get("notes", []),
    ]
    with shielded():
        write_outputs(job, result, values["overwrite"])
    sides = [name for name in SIDES if _flag(name) in values]
    return {
        "status": "done",
        "task": record["task"],
        "input": str(job.image),
        "output": str(job.output),
        "record": str(record_path(job.output)),
        **{name: str(job.sides[name]) if name in job.sides else None for name in sides},
        **_facts(record),
        "seconds": round(max(record["seconds"]["total"], time.monotonic() - began), 3),
        "device": record["device"],
        "notes": record["notes"],
    }


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """What a task found out, for the line on stdout."""
    facts: dict[str, Any] = {
        name: record[name]
        for name in ("regions", "validation", "noise", "residual")
        if name in record
    }
    if "mask" in record:
        facts |= {name: record["mask"][name] for name in ("filled", "fraction")}
    if "kernel" in record:
        facts["kernel"] = {k: v for k, v in record["kernel"].items() if k != "values"}
        facts["axes"], facts["input_shape"] = record["image"]["axes"], record["image"]["shape"]
        facts["output_shape"] = record["output"]["shape"]
    return facts


def _file(path: Path) -> dict[str, str]:
    with path.open("rb") as handle:
        return {"name": path.name, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _compare(
    record: dict[str, Any], image: Any, mask: Any, recipe: Recipe, note: Callable[[Note], None]
) -> None:
    """Warn where a run repeated from its record will differ from it."""
    import numpy as np

    from knitcore.masks import resolve_mask
    from knitcore.result import array_hash, versions

    then = record.get("image") or {}
    if then.get("sha256") not in (None, array_hash(np.asarray(image.data))):
        name = then.get("name", "its image")
        note(Note(f"{image.name}: differs from {name} of the record", "warning"))
    elif isinstance(recipe, Inpaint) and (record.get("mask") or {}).get("sha256") is not None:
        hole = resolve_mask(image, mask, recipe)[0]
        if record["mask"]["sha256"] != array_hash(hole):
            note(Note(f"{image.name}: other pixels are masked than in the record", "warning"))
    now = versions()
    other = [
        f"{name} {version} (now {now[name]})"
        for name, version in (record.get("versions") or {}).items()
        if name in ("method", "torch", "numpy") and now.get(name) not in (None, version)
    ]
    if other:
        text = f"recorded with {', '.join(other)}: pixels may differ slightly"
        note(Note(f"{image.name}: {text}", "warning"))
