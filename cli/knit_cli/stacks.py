"""A large OME-Zarr stack split over the workers: each part is written once, into one array.

The array grows in a folder of its own beside the output, `.NAME.KEY.grow`, with a record of each part
that is done. So a run that was killed goes on where it stopped, and whoever finishes the last part puts
the array in its place. Planes keep the names and random numbers that they have in the whole, so that
the pixels are those of a run in one piece.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from knit_cli.jobs import Job
from knit_cli.work import (
    FileTask,
    check_space,
    complete_record,
    done,
    input_hashes,
    job_key,
    with_texts,
    work_on_whole,
)
from knitcore.axes import Image, choose_layout, cut
from knitcore.errors import Cancelled, FileError, InputError, KnitError
from knitcore.events import Event, Note
from knitcore.files import adopt_folder, check_writable, read_image, read_mask
from knitcore.recipe import Recipe, SuperResolve, make_recipe, recipe_fields, with_fields
from knitcore.result import Result, array_hash
from knitcore.zarr_files import is_zarr

LARGE = 2**28  # values from which a stack is split even if there are files enough for all workers


@dataclass(frozen=True)
class Part:
    """A run of planes of a stack.

    Attributes
    ----------
    number, count : int
        Of the parts.
    axis : str
        Along which the stack is split.
    start, stop : int
    planes : str
        The axes that are looped over, in letters.
    folder : Path
        Where the array grows.
    hashes : (str, str)
        Of image and mask.
    """

    number: int
    count: int
    axis: str
    start: int
    stop: int
    planes: str
    folder: Path
    hashes: tuple[str, str]


def may_split(job: Job) -> bool:
    """Whether a job reads and writes Zarr, and nothing else.

    Parameters
    ----------
    job : Job

    Returns
    -------
    bool
    """
    return (
        job.output.suffix.lower() == ".zarr"
        and not job.sides
        and not job.fault
        and is_zarr(job.image)
    )


def split(task: FileTask, *, alone: bool) -> Iterator[FileTask]:
    """The parts of a stack that are still to be done, or the task itself.

    Parameters
    ----------
    task : FileTask
    alone : bool
        There are fewer files than workers: even a small stack is split.

    Yields
    ------
    FileTask
    """
    if not may_split(task.job) or task.missing_as_hole or task.repeats is not None:
        yield task
        return
    try:
        parts = _parts(task, alone)
    except (KnitError, OSError):
        parts = []  # told when the file is worked on as a whole
    if len(parts) < 2:
        yield task
        return
    folder = parts[0].folder
    todo = [part for part in parts if not _record_of(part).exists()]
    for part in todo or parts[:1]:
        if (folder / "failed").exists():
            return
        yield replace(task, part=part)


def _parts(task: FileTask, alone: bool) -> list[Part]:
    job, recipe = task.job, make_recipe(**task.recipe)
    limits: dict[str, Any] = {"max_pixels": task.max_pixels, "series": task.series}
    image = with_texts(task, read_image(job.image, lazy=True, **limits))
    planes = _planes(recipe, image, task)
    if not planes or not (alone or math.prod(image.shape) >= LARGE):
        return []
    check_writable(image, job.output, overwrite=task.overwrite)
    check_space(task, image)
    hashes = input_hashes(job)
    key = job_key(task, *hashes)
    folder = job.output.with_name(f".{_short(job.output)}.{key[:8]}.grow")
    for other in job.output.parent.glob(f".{_escaped(_short(job.output))}.????????.grow"):
        if other != folder or (folder / "whole").exists():
            shutil.rmtree(other, ignore_errors=True)
    whole = _whole(recipe, image)
    levels, told = None, folder / "plan.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        plan = json.loads(told.read_text())
        if plan["key"] == key:
            levels = plan["axis"], plan["length"]
    if levels is None:
        from knitcore.zarr_files import create_zarr, split_zarr

        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        (folder / "done").mkdir()
        arrays = create_zarr(folder / "data", whole, job.output)
        levels = split_zarr(whole, job.output, arrays, planes)
        _write_json(told, {"key": key, "axis": levels[0], "length": levels[1]})
    for stale in ("finish", "failed"):
        (folder / stale).unlink(missing_ok=True)
    axis, length = levels
    if not axis:
        shutil.rmtree(folder, ignore_errors=True)
        return []
    size = image.shape[image.axes.index(axis)]
    edges = list(range(0, size, length))
    return [
        Part(i, len(edges), axis, start, min(start + length, size), planes, folder, hashes)
        for i, start in enumerate(edges)
    ]


def _planes(recipe: Recipe, image: Image, task: FileTask) -> str:
    """Letters of the axes whose planes have nothing to do with each other; empty: there are none."""
    if isinstance(recipe, SuperResolve):
        from knitcore.super_resolution import enlargement

        if recipe.method == "knitwork" or (recipe.kernel == "estimate" and task.kernel is None):
            return ""  # one kernel is found for all planes
        layout = enlargement(image, recipe.factors)[0]
    else:
        layout = choose_layout(image, None, recipe.planes)
    return "".join(image.axes[a] for a in layout.planes)


@dataclass(frozen=True)
class _Shape:
    """In place of the pixels of a result that never is in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype


def _whole(recipe: Recipe, image: Image) -> Image:
    """The result's axes, sizes and place in the world, without pixels."""
    shape, factors = list(image.shape), {}
    if isinstance(recipe, SuperResolve):
        from knitcore.super_resolution import enlargement

        layout, scales = enlargement(image, recipe.factors)
        for axis, factor in zip(layout.spatial, scales, strict=True):
            shape[axis] = max(1, math.floor(image.shape[axis] * factor + 0.5))
            factors[image.axes[axis]] = factor
    empty: Any = _Shape(tuple(shape), image.dtype)
    record = {"recipe": recipe_fields(recipe)}
    return Result(empty, empty, empty, record, image, factors=factors).as_image()


def work_on_part(
    task: FileTask,
    tell: Callable[[Event], None],
    cancel: Any,
    shield: Callable[[], AbstractContextManager],
) -> dict[str, Any]:
    """Do a part of a stack; whoever does the last one finishes the stack.

    Parameters
    ----------
    task, tell, cancel, shield
        As of `work.attempt`.

    Returns
    -------
    dict
        `status` "part", or the outcome of the whole stack.

    Raises
    ------
    KnitError
        What is wrong with it.
    """
    part = task.part
    assert part is not None
    if (owner := _text(part.folder / "whole")) is not None and owner != str(part.number):
        return {"status": "part"}
    try:
        if owner is None:
            if not _record_of(part).exists():
                _fit(task, part, tell, cancel, shield)
            return _finish(task, part, shield)
    except InputError:
        # one plane cannot tell: together with the others it may well be done
        if not _claim(part, "whole"):
            return {"status": "part"}
    except Cancelled:
        raise
    except (KnitError, MemoryError, OSError):
        if not part.folder.exists() or (part.folder / "whole").exists():
            return {"status": "part"}  # somebody else does, or has done, the stack
        with contextlib.suppress(OSError):
            (part.folder / "failed").touch()
        raise
    outcome = work_on_whole(replace(task, part=None), tell, cancel, shield)
    shutil.rmtree(part.folder, ignore_errors=True)
    return outcome


def _fit(
    task: FileTask,
    part: Part,
    tell: Callable[[Event], None],
    cancel: Any,
    shield: Callable[[], AbstractContextManager],
) -> None:
    from knitcore.tasks import run_steps
    from knitcore.zarr_files import write_zarr_part

    began = time.monotonic()
    job, recipe = task.job, make_recipe(**task.recipe)
    notes: list[Note] = []

    def note(item: Note) -> None:
        notes.append(item)
        if part.number == 0:  # the same for each part
            tell(item)

    limits: dict[str, Any] = {"max_pixels": task.max_pixels}
    source = read_image(job.image, series=task.series, lazy=True, on_note=note, **limits)
    mask: Any = job.mask
    if isinstance(job.mask, Path):
        mask = _cut_mask(read_mask(job.mask, lazy=True, on_note=note, **limits), source, part)
    image = cut(source, part.axis, part.start, part.stop)
    own = (
        recipe if isinstance(recipe, SuperResolve) else with_fields(recipe, {"planes": part.planes})
    )
    steps = run_steps(own, image, mask, kernel=task.kernel, cancel=cancel)
    try:
        while True:
            event = next(steps)
            if not isinstance(event, Note):
                tell(event)
            elif event.level == "warning":
                tell(replace(event, text=f"{job.image.name}: {event.text}"))
    except StopIteration as end:
        result = end.value
    finally:
        steps.close()
    with shield():
        whole = _whole(recipe, source)
        data = part.folder / "data"
        try:
            same = write_zarr_part(data, whole, job.output, part.axis, part.start, result.image)
        except (OSError, ExceptionGroup) as error:
            raise _cannot_write(job.output, error) from None
        if not same:
            raise FileError(f"{job.output}: what was written does not read back (disk full?)")
        told = [{"level": item.level, "text": item.text} for item in notes]
        seconds = time.monotonic() - began
        content = {"record": result.record, "notes": told, "seconds": seconds}
        _write_json(_record_of(part), content)


def _cut_mask(mask: Image, image: Image, part: Part) -> Image:
    """The mask's planes that go with a part; a mask without such planes serves all."""
    size = image.shape[image.axes.index(part.axis)]
    if mask.shape == image.shape:
        index = image.axes.index(part.axis)
    elif part.axis in mask.axes and mask.shape[mask.axes.index(part.axis)] == size:
        index = mask.axes.index(part.axis)
    elif size not in mask.shape[:-2]:
        return mask
    else:
        raise InputError(f"{mask.name}: which of its planes go with which cannot be told")
    return cut(mask, mask.axes[index], part.start, part.stop)


def _finish(
    task: FileTask, part: Part, shield: Callable[[], AbstractContextManager]
) -> dict[str, Any]:
    """Put the stack in its place if all parts are done and nobody else is at it."""
    records = [_record_of(replace(part, number=i)) for i in range(part.count)]
    if not all(path.exists() for path in records) or not _claim(part, "finish"):
        return {"status": "part"}
    told = [json.loads(path.read_text()) for path in records]
    job = task.job
    image = read_image(job.image, series=task.series, lazy=True, max_pixels=task.max_pixels)
    record = _joined([one["record"] for one in told], make_recipe(**task.recipe), image)
    notes = {
        (n["level"], n["text"]): Note(n["text"], n["level"]) for one in told for n in one["notes"]
    }
    complete_record(record, task, part.hashes, list(notes.values()))
    for stray in (part.folder / "data").rglob("*.partial"):  # of a worker killed in mid-chunk
        stray.unlink(missing_ok=True)
    with shield():
        adopt_folder(part.folder / "data", record, job.output, overwrite=task.overwrite)
    shutil.rmtree(part.folder, ignore_errors=True)
    return done(task, record, sum(one["seconds"] for one in told), part.hashes)


def _joined(records: list[dict[str, Any]], recipe: Recipe, image: Image) -> dict[str, Any]:
    """One record of those of all parts."""
    first = records[0]
    record = {**first, "recipe": recipe_fields(recipe), "parts": len(records)}
    record["image"] = {
        **first["image"],
        "name": image.name,
        "shape": list(image.shape),
        "sha256": array_hash(image.data),
    }
    if "output" in first:
        axis = next(
            i
            for i, (a, b) in enumerate(zip(first["image"]["shape"], image.shape, strict=True))
            if a != b
        )
        shape = list(first["output"]["shape"])
        shape[axis] = image.shape[axis]
        record["output"] = {**first["output"], "shape": shape}
    for name in ("noise", "residual"):
        if name in first:
            record[name] = [item for one in records for item in one[name]]
    for name in ("regions", "filled", "restarts"):
        if name in first:
            record[name] = sum(one[name] for one in records)
    if "mask" in first:
        filled = sum(one["mask"]["filled"] for one in records)
        pixels = math.prod(n for a, n in zip(image.axes, image.shape, strict=True) if a != "S")
        record["mask"] = {"sha256": None, "filled": filled, "fraction": filled / max(1, pixels)}
    if any(one.get("validation") for one in records):
        record["validation"] = _joined_figures([one.get("validation") for one in records])
    record["seconds"] = _sums([one["seconds"] for one in records])
    parameters = [one["parameters"] for one in records]
    record["parameters"] = max(parameters)
    fitted = next((one for one in records if one["device_name"]), first)
    record |= {name: fitted[name] for name in ("device", "device_name", "threads")}
    losses = [one["losses"] for one in records if one["losses"]]
    means = _sums(losses)
    record["losses"] = {name: value / len(losses) for name, value in means.items()}
    notes = {json.dumps(note): note for one in records for note in one["notes"]}
    record["notes"] = list(notes.values())
    return record


def _joined_figures(figures: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Expected errors of all parts, each weighing as its held-out pixels."""
    known = [one for one in figures if one]
    weights = np.array([one["pixels"] for one in known], float)
    weights /= weights.sum()
    joined: dict[str, Any] = {name: sum(one[name] for one in known) for name in ("holes", "pixels")}
    joined["rmse"] = math.sqrt(
        sum(w * one["rmse"] ** 2 for w, one in zip(weights, known, strict=True))
    )
    for name in ("mae", "within_2_std", "share"):
        joined[name] = float(sum(w * one[name] for w, one in zip(weights, known, strict=True)))
    joined["psnr"] = None  # the range of all known values was not looked at
    joined["rmse_of_holes"] = [value for one in known for value in one["rmse_of_holes"]]
    return joined


def _sums(rows: list[dict[str, float]]) -> dict[str, float]:
    names = {name: None for row in rows for name in row}
    return {name: round(sum(row.get(name, 0.0) for row in rows), 6) for name in names}


def _record_of(part: Part) -> Path:
    return part.folder / "done" / f"{part.number}.json"


def _claim(part: Part, what: str) -> bool:
    """Take something upon oneself, once; a part that is tried again may go on with it."""
    path = part.folder / what
    try:
        with path.open("x") as handle:
            handle.write(str(part.number))
        return True
    except FileExistsError:
        return _text(path) == str(part.number)
    except FileNotFoundError:  # the stack is finished, and its folder gone
        return False


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with part.open("w") as handle:
        json.dump(content, handle, default=float)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def _cannot_write(path: Path, error: OSError | ExceptionGroup) -> FileError:
    if isinstance(error, ExceptionGroup):  # zarr writes chunks side by side
        found = error.subgroup(OSError)
        if found is None:
            raise error
        inner: Any = found.exceptions[0]
        return _cannot_write(path, inner)
    told = FileError(f"{path}: cannot write: {(error.strerror or str(error)).lower()}")
    told.errno = error.errno
    return told


def _short(path: Path) -> str:
    return os.fsdecode(os.fsencode(path.name)[:200])


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
