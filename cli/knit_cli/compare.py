"""`knit compare`: several methods side by side on the user's own picture."""

from __future__ import annotations

import csv
import io
import math
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from knit_cli.main import DONE, FAILED, SURROUNDINGS, Stopped, WrongPlan, internal, signals
from knit_cli.render import Terminal, shown
from knitcore.errors import Cancelled, FileError, InputError, KnitError

TASKS = ("inpaint", "denoise", "super-resolve")
COLUMNS = (
    *("method", "title", "status", "seconds", "steps", "device"),
    *("seed", "sigma", "scale", "psnr", "ssim", "file"),
)


@dataclass
class Row:
    """One method: a line of the table and a panel of the sheet."""

    method: str
    title: str
    status: str = "not started"
    seconds: float = math.nan
    steps: int = 0
    device: str = ""
    seed: int | None = None  # of what draws random numbers
    sigma: float | None = None  # where it was given
    scale: float | None = None
    psnr: float = math.nan
    ssim: float = math.nan
    file: str = ""
    picture: Any = None

    def cells(self) -> dict[str, str]:
        """As text, "" for what is not known."""
        numbers = {"seconds": 2, "psnr": 3, "ssim": 4}
        out = {}
        for name in COLUMNS:
            value = getattr(self, name)
            if name in numbers:
                value = "" if math.isnan(value) else f"{value:.{numbers[name]}f}"
            unknown = value is None or (name == "steps" and value == 0)
            out[name] = "" if unknown else str(value)
        return out


def _list_methods(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from knitcore.baselines.methods import METHODS

    for task, methods in METHODS.items():
        click.echo(f"{task}:")
        for name, method in methods.items():
            told = f", {method.steps} steps" if method.steps else ""
            told += f", needs {method.needs}" if method.needs else ""
            told += " (quick)" if method.quick else ""
            click.echo(f"  {name:<14} {method.title}{told}")
    ctx.exit()


@click.command(
    "compare",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("task", type=click.Choice(TASKS))
@click.argument("image", metavar="IMAGE")
@click.option(
    "-m",
    "--mask",
    metavar="MASK",
    help="What to fill: an image (non-zero = fill), or nan, saturated, alpha, value=0.",
)
@click.option("--truth", metavar="TRUTH", help="The true picture: gives PSNR and SSIM.")
@click.option(
    "--methods",
    default="quick",
    show_default=True,
    metavar="A,B,...",
    help="Names with commas, quick (ours and the classical ones) or all (the learned ones, too).",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_methods,
    help="Show the methods of each task and leave.",
)
@click.option(
    "-o",
    "--output",
    "out",
    metavar="FOLDER",
    help="Where sheet, table and results go. [default: IMAGE_compared beside the image]",
)
@click.option("--overwrite", is_flag=True, help="Replace what is there from an earlier comparison.")
@click.option(
    "--plane",
    multiple=True,
    metavar="T=3,Z=5",
    help="Which plane of a stack, counted from 0. [default: the middle one]",
)
@click.option(
    "--steps",
    multiple=True,
    metavar="dip=500,...",
    help="Steps of learned methods in place of those that --list shows.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0.1),
    metavar="S",
    help="Stop a learned method after so long, at its first picture at the earliest; take what it has.",
)
@click.option("--scale", type=click.FloatRange(1, 8), default=2.0, show_default=True, metavar="S")
@click.option(
    "--kernel", metavar="FILE", help="The blur of super-resolution, for tv-known and dip."
)
@click.option("--sigma", type=click.FloatRange(min=0), help="Noise in grey levels, if it is known.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="For learned methods.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@click.option("--debug", is_flag=True, help="Show where in the program an error arose.")
@click.pass_context
def compare(ctx: click.Context, **values: Any) -> None:
    """Run several methods side by side on one picture: is the expensive thing better here?

    TASK is inpaint, denoise or super-resolve. The folder gets a contact sheet (compared.png), a table
    (compared.csv) and each result in the picture's format and type. Inpainting is scored inside the mask.

    \b
      knit compare inpaint cells.tif --mask dust.png
      knit compare denoise noisy.tif --truth clean.tif --methods fast,bm3d,dip
      knit compare super-resolve small.png --scale 2 --methods all --max-seconds 60
    """
    try:
        plan = _plan(values)
    except (InputError, FileError) as error:
        raise WrongPlan(shown(error, lines=True)) from None
    terminal = Terminal(quiet=values["quiet"])
    code = DONE
    try:
        for row in plan.rows:
            terminal.start(row.title)
            try:
                _run(row, plan, values, terminal)
            finally:
                terminal.finish()
            if not values["quiet"]:
                terminal.say(row.method, _line(row))
            if row.status.startswith("failed"):
                code = FAILED
    except Stopped as stop:
        terminal.say("Error", "stopped; what is finished stays")
        code = stop.code
    finished = [row for row in plan.rows if row.picture is not None]
    try:
        if finished:
            _write_sheet(plan, plan.out / "compared.png")
        _write_table(plan, plan.out / "compared.csv")
    except OSError as error:
        terminal.say("Error", f"{plan.out}: cannot write: {error.strerror or error}")
        ctx.exit(SURROUNDINGS)
    _print_table(plan)
    ctx.exit(code)


@dataclass
class _Plan:
    """What is settled before the first method runs; `picture` is (Y, X) or (Y, X, C)."""

    task: str
    source: Any
    picture: Any
    mask: Any
    truth: Any
    kernel: Any
    out: Path
    rows: list[Row]
    limit: float | None
    steps: dict[str, int]


def _plan(values: dict[str, Any]) -> _Plan:
    import numpy as np

    from knitcore.baselines.methods import METHODS, choose_methods
    from knitcore.device import choose_device
    from knitcore.files import read_image, read_mask
    from knitcore.masks import resolve_mask
    from knitcore.recipe import make_recipe

    task = values["task"]
    names = choose_methods(task, values["methods"])
    steps = _pairs(values["steps"], "--steps", "dip=500")
    for name in steps:
        if name not in METHODS[task] or not METHODS[task][name].steps:
            raise InputError(f"--steps: {name!r} is no learned method of {task}; --list shows them")
    if task == "inpaint" and not values["mask"]:
        raise InputError("inpaint needs --mask: which pixels are to be filled?")
    if task != "inpaint" and values["mask"]:
        raise InputError(f"{task} takes no --mask")
    if task != "super-resolve" and values["kernel"]:
        raise InputError(f"{task} takes no --kernel")
    if "tv-known" in names and not values["kernel"]:
        raise InputError("tv-known must be told the blur: --kernel FILE")
    path = Path(values["image"])
    image = read_image(path)
    if image.dtype.kind not in "uif":
        raise InputError(f"{path}: {image.dtype} pixels cannot be compared; take grey levels")
    hole = None
    if task == "inpaint":
        word = values["mask"]
        mask: Any = word
        if Path(word).exists() or not re.match(r"(nan|saturated|alpha|value=.*)$", word):
            mask = read_mask(word)
        hole, _ = resolve_mask(image, mask, make_recipe("inpaint"))
    index = _plane_index(image, _pairs(values["plane"], "--plane", "T=3"))
    source, picture = _take_plane(image, index)
    if hole is not None:
        hole = np.broadcast_to(hole, image.shape) if hole.shape != image.shape else hole
        hole = _take_plane(replace(image, data=hole), index)[1]
        hole = hole.any(-1) if hole.ndim == 3 else hole
        if not hole.any():
            raise InputError(f"{path}: the mask is empty on this plane; choose one with --plane")
        if hole.all():
            raise InputError(f"{path}: the mask leaves no known pixel")
    truth = None
    if values["truth"]:
        true = read_image(values["truth"])
        whole = true.shape == image.shape and true.axes == image.axes
        truth = _take_plane(true, index if whole else _plane_index(true, {}))[1]
        wanted = picture.shape
        if task == "super-resolve":
            sides = tuple(math.floor(n * values["scale"] + 0.5 + 1e-9) for n in wanted[:2])
            wanted = (*sides, *wanted[2:])
        if truth.shape != wanted:
            raise InputError(
                f"{values['truth']}: is {truth.shape}, the result will be {tuple(wanted)}"
            )
    kernel = None
    if values["kernel"]:
        kernel = np.asarray(read_image(values["kernel"]).data, dtype=np.float64)
        if kernel.ndim != 2 or not kernel.sum():
            raise InputError(f"{values['kernel']}: a 2-D kernel with a sum is needed")
        kernel = kernel / kernel.sum()
    choose_device(values["device"])
    out = Path(values["out"]) if values["out"] else path.with_name(f"{path.stem}_compared")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, a folder is needed")
    if (out / "compared.csv").exists() and not values["overwrite"]:
        raise InputError(f"{out}: holds a comparison; --overwrite, or another folder with -o")
    written = ["compared.png", *(_file_name(path, name) for name in names)]
    there = [name for name in written if (out / name).exists()]
    if there and not values["overwrite"]:
        raise InputError(f"{out / there[0]}: is there; --overwrite, or another folder with -o")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from None
    rows = [
        Row(
            name,
            method.title,
            seed=values["seed"] if method.seeded else None,
            sigma=values["sigma"] if task == "denoise" and method.told_sigma else None,
            scale=values["scale"] if task == "super-resolve" else None,
        )
        for name, method in ((name, METHODS[task][name]) for name in names)
    ]
    limit = values["max_seconds"]
    return _Plan(task, source, picture, hole, truth, kernel, out, rows, limit, steps)


def _file_name(image: Path, method: str) -> str:
    """Name of a method's result: PNG stays PNG, everything else is written as TIFF."""
    suffix = image.suffix.lower()
    suffix = suffix if suffix in (".png", ".tif", ".tiff") else ".tif"
    return f"{image.name.split('.')[0]}_{method}{suffix}"


def _pairs(texts: tuple[str, ...], option: str, example: str) -> dict[str, int]:
    pairs = {}
    for part in filter(None, (p.strip() for p in ",".join(texts).split(","))):
        name, equals, number = part.partition("=")
        if not equals or not number.strip().isdigit():
            raise InputError(f"{option}: {part!r}: write {example}")
        pairs[name.strip()] = int(number)
    return pairs


def _plane_index(image: Any, chosen: dict[str, int]) -> tuple[Any, ...]:
    """Index of one plane; channels and samples stay."""
    chosen = {axis.upper(): number for axis, number in chosen.items()}
    for axis in chosen:
        if axis not in image.axes or axis in "YXSC":
            others = ", ".join(a for a in image.axes if a not in "YXSC") or "none"
            raise InputError(f"--plane: no axis {axis!r} to choose from; there are: {others}")
    index: list[Any] = []
    for axis, size in zip(image.axes, image.shape, strict=True):
        if axis in "YXSC":
            index.append(slice(None))
            continue
        number = chosen.get(axis, size // 2)
        if number >= size:
            raise InputError(f"--plane: {axis} has {size} planes, from 0 to {size - 1}")
        index.append(number)
    return tuple(index)


def _take_plane(image: Any, index: tuple[Any, ...]) -> tuple[Any, Any]:
    """One plane as an Image of its own axes, and as (Y, X) or (Y, X, C); alpha is left out."""
    import numpy as np

    axes = "".join(a for a, i in zip(image.axes, index, strict=True) if isinstance(i, slice))
    data = np.asarray(image.data[index])
    if "S" in axes and "C" in axes:
        raise InputError(
            f"{image.name}: has colours and channels at once, which compare cannot show"
        )
    if image.alpha:
        data = data[..., :-1]
        if data.shape[-1] == 1:
            data, axes = data[..., 0], axes.removesuffix("S")
    for axis in "SC":
        if axis in axes and data.shape[axes.index(axis)] == 1:
            data, axes = data.take(0, axes.index(axis)), axes.replace(axis, "")
    known = {a: image.pixel_size[a] for a in axes if a in image.pixel_size}
    units = {a: image.unit[a] for a in axes if a in image.unit}
    plane = replace(
        image, data=data, axes=axes, alpha=False, pixel_size=known, unit=units, extra={}
    )
    order = [axes.index(a) for a in "YXSC" if a in axes]
    return plane, data.transpose(order)


def _run(row: Row, plan: _Plan, values: dict[str, Any], terminal: Terminal) -> None:
    """Run one method, write its result, score it."""
    import numpy as np

    from knitcore.axes import to_dtype
    from knitcore.baselines.methods import METHODS
    from knitcore.device import choose_device
    from knitcore.files import write_image

    method = METHODS[plan.task][row.method]
    if method.steps:
        row.steps = plan.steps.get(row.method, method.steps)
        row.device = str(choose_device(values["device"]))
    start = time.monotonic()
    try:
        picture, ended = _follow(row, plan, values, terminal, start)
        row.seconds = time.monotonic() - start
        if not np.isfinite(picture).all() and np.isfinite(plan.picture).all():
            row.status = "failed: gave values that are no numbers"
            return
        picture = to_dtype(picture, plan.picture.dtype)
        row.picture = picture
        if plan.truth is not None:
            _score(row, plan, picture)
        # the axes of the source: colours and channels where they were
        axes = plan.source.axes
        order = "".join(a for a in "YXSC" if a in axes)
        data = picture.transpose([order.index(a) for a in axes])
        size = dict(plan.source.pixel_size)
        if plan.task == "super-resolve":
            size = {a: s / values["scale"] if a in "YX" else s for a, s in size.items()}
        name = _file_name(Path(values["image"]), row.method)
        write_image(
            replace(plan.source, data=data, pixel_size=size), plan.out / name, overwrite=True
        )
        row.file = name
        row.status = "done" if ended else f"stopped after {plan.limit:g} s"
    except Stopped:
        row.status, row.picture = "stopped by the user", None
        raise
    except Cancelled:
        row.status = "stopped by the user"
        raise Stopped(signals.code or 130) from None
    except KnitError as error:
        missing = "is not installed" in str(error)
        row.status = f"{'skipped' if missing else 'failed'}: {shown(error)}"
    except (MemoryError, RuntimeError, ValueError, ImportError, ArithmeticError) as error:
        if values["debug"]:
            raise
        row.status = f"failed: {internal(error)}"


def _follow(
    row: Row, plan: _Plan, values: dict[str, Any], terminal: Terminal, start: float
) -> tuple[Any, bool]:
    """The picture, and whether the method came to its end within the limit."""
    import numpy as np

    from knitcore.baselines.methods import run_method_steps
    from knitcore.events import Note, Preview

    work = run_method_steps(
        plan.task,
        row.method,
        plan.picture,
        mask=plan.mask,
        scale=values["scale"],
        kernel=plan.kernel,
        sigma=values["sigma"],
        steps=row.steps or None,
        seed=values["seed"],
        device=values["device"],
        previews=plan.limit is not None,
    )
    latest: Any = None
    try:
        while True:
            if signals.stop.is_set():
                raise Cancelled("stopped")
            try:
                event = next(work)
            except StopIteration as end:
                return end.value, True
            if isinstance(event, Preview):
                if latest is None:
                    shape = tuple(s.stop for s in event.box)
                    whole = plan.picture if plan.task != "super-resolve" else np.zeros(shape)
                    latest = whole.astype(np.float64)
                latest[event.box] = event.values
            elif not isinstance(event, Note):
                terminal.event(event)
            late = row.steps and plan.limit and time.monotonic() - start > plan.limit
            if late and latest is not None:
                if plan.mask is not None:
                    hole = plan.mask.reshape(plan.mask.shape + (1,) * (plan.picture.ndim - 2))
                    latest = np.where(hole, latest, plan.picture)
                return latest, False
    finally:
        work.close()


def _score(row: Row, plan: _Plan, picture: Any) -> None:
    from knitcore.metrics import grey_range, psnr, ssim

    scale = grey_range(plan.truth) or 1.0
    row.psnr = psnr(picture, plan.truth, plan.mask, data_range=scale)
    channel = -1 if picture.ndim == 3 else None
    if min(picture.shape[:2]) >= 7:
        row.ssim = ssim(picture, plan.truth, plan.mask, data_range=scale, channel_axis=channel)


def _line(row: Row) -> str:
    cells = row.cells()
    if row.picture is None:
        return row.status
    score = f", PSNR {cells['psnr']} dB, SSIM {cells['ssim']}" if cells["psnr"] else ""
    return f"{row.status}, {float(cells['seconds']):.1f} s{score}"


def _print_table(plan: _Plan) -> None:
    """The table on stdout, best PSNR first where there is one."""
    rows = sorted(plan.rows, key=lambda r: (math.isnan(r.psnr), -r.psnr if r.psnr == r.psnr else 0))
    width = max(len(r.method) for r in rows)
    where = " in the mask" if plan.task == "inpaint" else ""
    head = f"{'method':<{width}}  {'seconds':>8}"
    if plan.truth is not None:
        head += f"  {'PSNR dB' + where:>{18 if where else 8}}  {'SSIM':>6}"
    click.echo(head + "  state")
    for row in rows:
        cells = row.cells()
        line = f"{row.method:<{width}}  {cells['seconds']:>8}"
        if plan.truth is not None:
            psnr = f"{row.psnr:.2f}" if row.psnr == row.psnr else ""
            ssim = f"{row.ssim:.3f}" if row.ssim == row.ssim else ""
            line += f"  {psnr:>{18 if where else 8}}  {ssim:>6}"
        click.echo(f"{line}  {row.status}")
    click.echo(f"{shown(plan.out)}/compared.png, compared.csv")


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then put in place."""
    import os

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_table(plan: _Plan, path: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in plan.rows)
    _replace(path, text.getvalue().encode())


def _write_sheet(plan: _Plan, path: Path) -> None:
    """The contact sheet: each picture as a whole, and a detail of it below."""
    from knit_cli.sheet import Panel, draw_sheet

    first = "input"
    if plan.task == "inpaint":
        first = "input, to be filled"
    panels = [Panel(first, "", plan.picture, plan.mask)]
    if plan.truth is not None:
        panels.append(Panel("truth", "", plan.truth))
    for row in plan.rows:
        if row.picture is None:
            continue
        score = "" if math.isnan(row.psnr) else f"{row.psnr:.2f} dB  SSIM {row.ssim:.3f}  "
        panels.append(Panel(row.title, f"{score}{row.seconds:.1f} s", row.picture))
    buffer = io.BytesIO()
    draw_sheet(panels, plan.mask).save(buffer, "PNG", optimize=True)
    _replace(path, buffer.getvalue())
