"""`knit inpaint`: the plan, then one file after the other."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from knit_cli.jobs import Job, list_images, parse_mask, plan_jobs, recorded_mask
from knit_cli.main import FAILED, SURROUNDINGS, Stopped, WrongPlan, internal, shielded, signals
from knit_cli.options import Option, Range, SectionedCommand, given_fields, recipe_options
from knit_cli.render import Terminal, result_line, shown, summary
from knitcore.errors import Cancelled, DeviceError, FileError, KnitError, RecipeError
from knitcore.events import Note
from knitcore.recipe import Inpaint, make_recipe, override_recipe


def _option(*names: str, section: str, **settings: Any) -> Callable:
    return click.option(*names, cls=Option, section=section, **settings)


@click.command(
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@_option(
    "-m",
    "--mask",
    section="Files",
    metavar="MASK",
    help="What to fill: an image (non-zero = fill), a folder of them matched by name (a.tif goes "
    "with a.tif, a.png or a_mask.*), or a word: nan, saturated, alpha, value=0 (any number).",
)
@_option(
    "-o",
    "--output",
    "out",
    section="Files",
    metavar="OUT",
    help="A file for one input, else a folder. [default: NAME_inpainted beside each input]",
)
@_option("--overwrite", section="Files", is_flag=True, help="Replace existing outputs.")
@_option(
    "--save-std",
    section="Files",
    is_flag=True,
    help="Also write NAME_std.tif: the expected error of each filled pixel, in grey levels.",
)
@_option(
    "--save-synthesised",
    section="Files",
    is_flag=True,
    help="Also write NAME_synthesised: white where a pixel was filled.",
)
@_option(
    "--recipe",
    "recipe_file",
    section="Files",
    metavar="FILE",
    help="Settings from a YAML or JSON file, or from a record NAME.knit.json, which repeats that "
    "run. Options given here take precedence.",
)
@recipe_options
@_option(
    "--max-pixels",
    section="Other",
    type=Range(int, min=1),
    default=2**31,
    metavar="N",
    help="Refuse files that declare more values than this. [default: 2147483648]",
)
@_option(
    "--allow-damaged",
    section="Other",
    is_flag=True,
    help="Take what is readable of a damaged TIFF; the record says so.",
)
@_option(
    "--json", "as_json", section="Other", is_flag=True, help="One JSON object a line on stdout."
)
@_option("-q", "--quiet", section="Other", is_flag=True, help="Nothing on stderr but errors.")
@_option("-v", "--verbose", section="Other", is_flag=True, help="Notes and skipped files, too.")
@_option("--debug", section="Other", is_flag=True, help="Show where in the program an error arose.")
@click.pass_context
def inpaint(ctx: click.Context, inputs: tuple[str, ...], **values: Any) -> None:
    """Fill the masked pixels of one or more images.

    INPUT is a TIFF, PNG, JPEG or .npy file, or a folder of them. All other pixels stay as they are,
    bit for bit; type, axes, pixel size and unit too. Beside each output lies its record,
    NAME.knit.json.

    \b
      knit inpaint cells.tif --mask dust.png
      knit inpaint scans/ --mask masks/ -o repaired/
      knit inpaint movie.tif --mask value=0 --ensemble 8 --save-std
    """
    terminal = Terminal(quiet=values["quiet"], verbose=values["verbose"])
    try:
        recipe, record, jobs = _prepare(inputs, values, terminal)
    except RecipeError as error:
        raise WrongPlan(shown(error, lines=True)) from None
    outcomes: list[dict[str, Any]] = []
    code = 0
    try:
        _check_device(recipe, jobs)
        for job in jobs:
            # appended first, so that a signal finds it in the list
            label = (
                job.image.name
                if len(jobs) == 1
                else f"{len(outcomes) + 1}/{len(jobs)} {job.image.name}"
            )
            outcome = _one(job, recipe, record, label, terminal, values)
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


def _prepare(
    inputs: tuple[str, ...], values: dict[str, Any], terminal: Terminal
) -> tuple[Inpaint, dict[str, Any] | None, list[Job]]:
    """Recipe, record to compare with (if any) and jobs; all checks that need no pixels."""
    fields, record, source = given_fields(values), None, values["recipe_file"]
    recipe = override_recipe(source, **fields) if source else make_recipe("inpaint", **fields)
    if source and source.endswith(".knit.json"):
        record = _record(Path(source))
    mask = parse_mask(values["mask"]) if values["mask"] else None
    images, skipped = list_images(inputs, mask)
    if terminal.verbose and skipped:
        names = ", ".join(path.name for path in skipped)
        terminal.say("Note", f"skipped {len(skipped)} other files: {names}")
    if mask is None and record is not None:
        try:
            mask = recorded_mask(record, Path(source), images[0])
        except FileError as error:
            raise WrongPlan(shown(f"{source}: {error}")) from None
    if mask is None and recipe.alpha_channel == "keep" and not recipe.saturated_as_hole:
        raise click.UsageError(
            "what is to be filled? Give --mask: an image, a folder, nan, saturated, alpha or value=0"
        )
    if isinstance(mask, str) and (recipe.mask_label or recipe.invert_mask):
        name = "--mask-label" if recipe.mask_label else "--invert-mask"
        raise click.UsageError(f"{name} needs a mask image, not {mask!r}")
    jobs = plan_jobs(
        images,
        mask,
        values["out"],
        many=len(inputs) > 1 or Path(inputs[0]).is_dir(),
        overwrite=values["overwrite"],
        std=values["save_std"],
        synthesised=values["save_synthesised"],
    )
    return recipe, record, jobs


def _record(path: Path) -> dict[str, Any] | None:
    from knitcore.files import read_record

    try:
        return read_record(path)
    except FileError:
        return None  # a plain recipe that happens to be called so


def _check_device(recipe: Inpaint, jobs: list[Job]) -> None:
    if recipe.device in ("auto", "cpu") or all(job.fault for job in jobs):
        return
    from knitcore.device import choose_device

    try:
        choose_device(recipe.device)
    except DeviceError as error:
        raise _Abort(str(error)) from None


def _one(
    job: Job,
    recipe: Inpaint,
    record: dict[str, Any] | None,
    label: str,
    terminal: Terminal,
    values: dict[str, Any],
) -> dict[str, Any]:
    """Fill one image; whatever is wrong with it is told in the outcome."""
    outcome: dict[str, Any] = {"status": "failed", "input": str(job.image), "error": job.fault}
    if job.fault:
        return outcome
    terminal.start(label)
    try:
        return _fill(job, recipe, record, terminal, values)
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


def _fill(
    job: Job,
    recipe: Inpaint,
    record: dict[str, Any] | None,
    terminal: Terminal,
    values: dict[str, Any],
) -> dict[str, Any]:
    from knitcore.files import check_writable, read_image, read_mask, record_path
    from knitcore.inpainting import inpaint_steps

    began = time.monotonic()
    notes: list[Note] = []

    def note(item: Note) -> None:
        notes.append(item)
        terminal.event(item)

    limits = {"max_pixels": values["max_pixels"], "allow_damaged": values["allow_damaged"]}
    image = read_image(job.image, on_note=note, **limits)
    mask: Any = job.mask
    files: dict[str, Any] = {"image": _file(job.image), "mask": None}
    if isinstance(job.mask, Path):
        mask = read_mask(job.mask, on_note=note, **limits)
        files["mask"] = _file(job.mask)
    elif job.mask:
        files["mask"] = {"word": job.mask}
    check_writable(image, job.output, overwrite=values["overwrite"])
    if record is not None:
        _compare(record, image, mask, recipe, note)

    steps = inpaint_steps(image, mask, recipe, cancel=signals.stop)
    try:
        while True:
            terminal.event(next(steps))
    except StopIteration as end:
        result = end.value
    finally:
        steps.close()

    for name, path in (("output", job.output), ("std", job.std), ("synthesised", job.synthesised)):
        if path is not None:
            files[name] = path.name
    result.record["notes"] = [
        *({"level": item.level, "text": item.text} for item in notes),
        *result.record.get("notes", []),
    ]
    result.record["files"] = files
    with shielded():
        _write(job, result, values["overwrite"])
    total = result.record["seconds"]["total"]
    return {
        "status": "done",
        "input": str(job.image),
        "output": str(job.output),
        "record": str(record_path(job.output)),
        "std": str(job.std) if job.std else None,
        "synthesised": str(job.synthesised) if job.synthesised else None,
        "filled": result.record["mask"]["filled"],
        "fraction": result.record["mask"]["fraction"],
        "regions": result.record["regions"],
        "seconds": round(max(total, time.monotonic() - began), 3),
        "device": result.record["device"],
        "notes": result.record["notes"],
    }


def _file(path: Path) -> dict[str, str]:
    with path.open("rb") as handle:
        return {"name": path.name, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _compare(
    record: dict[str, Any], image: Any, mask: Any, recipe: Inpaint, note: Callable[[Note], None]
) -> None:
    """Warn where a run repeated from its record will differ from it."""
    import numpy as np

    from knitcore.masks import resolve_mask
    from knitcore.result import array_hash, versions

    then = record.get("image") or {}
    if then.get("sha256") not in (None, array_hash(np.asarray(image.data))):
        name = then.get("name", "its image")
        note(Note(f"{image.name}: differs from {name} of the record", "warning"))
    elif (record.get("mask") or {}).get("sha256") is not None:
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


def _write(job: Job, result: Any, overwrite: bool) -> None:
    from knitcore.files import write_image, write_result

    source = result.source
    # the side files first: an output with its record is then a whole one
    if job.std is not None:
        std, axes = result.std, source.axes
        if axes.endswith("S"):  # colours as channels: viewers take S as display colours
            std = std[..., : std.shape[-1] - source.alpha]
            std, axes = (
                (std[..., 0], axes[:-1]) if std.shape[-1] == 1 else _samples_first(std, axes)
            )
        write_image(_side(source, std, axes), job.std, overwrite=overwrite)
    if job.synthesised is not None:
        marks, axes = result.synthesised, source.axes
        if axes.endswith("S"):
            marks, axes = marks.any(-1), axes[:-1]
        marks = marks.astype("uint8") * 255
        write_image(_side(source, marks, axes), job.synthesised, overwrite=overwrite)
    write_result(result, job.output, overwrite=overwrite)


def _samples_first(data: Any, axes: str) -> tuple[Any, str]:
    import numpy as np

    place = len(axes) - 3
    return np.moveaxis(data, -1, place), axes[:place] + "C" + axes[place:-1]


def _side(source: Any, data: Any, axes: str) -> Any:
    """An image beside the result: same place in the world, values of another kind."""
    extra = dict(source.extra)
    tiff = dict(extra.get("tiff", {}))
    for name in ("display", "colormap", "photometric", "extrasamples"):
        tiff.pop(name, None)
    if tiff:
        extra["tiff"] = tiff
    extra.pop("icc_profile", None)
    names = source.channel_names if axes == source.axes else ()
    return replace(source, data=data, axes=axes, alpha=False, channel_names=names, extra=extra)
