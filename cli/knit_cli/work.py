"""The work on one file, in this process or in a worker: read, fit, write, tell."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knit_cli.executors import POISONED, Together, peak_memory
from knit_cli.jobs import Job
from knitcore.errors import Cancelled, DeviceError, FileError, KnitError
from knitcore.events import Event, Note, Progress, drain
from knitcore.files import file_hash, record_path
from knitcore.metadata import read_metadata
from knitcore.recipe import Inpaint, Recipe, make_recipe, recipe_fields

if TYPE_CHECKING:
    from knit_cli.stacks import Part
    from knitcore.side_by_side import SharedFits

PAUSES = (0.5, 2.0, 5.0)  # before writing is tried again on a disk that dropped out
DROPPED_OUT = tuple(
    getattr(errno, name) for name in ("EIO", "ESTALE", "ETIMEDOUT") if hasattr(errno, name)
)


@dataclass(frozen=True)
class FileTask:
    """One file of a run as plain data, which travels to a worker.

    Attributes
    ----------
    job : Job
    name : str
        Of the input within the run.
    recipe : dict
        Fields of the recipe, with the seed of this file.
    kernel : array-like or None
        Values of a kernel that came as a file or in a record.
    kernel_file : dict or None
        Its name and hash, for the record.
    repeats : dict or None
        The record this run repeats and is compared with.
    max_pixels : int
    series : int or None
        Which image of a file with several.
    allow_damaged, missing_as_hole, overwrite, keep_metadata, debug : bool
    part : Part or None
        Of a stack that is split over the workers; see `stacks`.
    """

    job: Job
    name: str
    recipe: dict[str, Any]
    kernel: Any = None
    kernel_file: dict[str, Any] | None = None
    repeats: dict[str, Any] | None = None
    max_pixels: int = 2**31
    series: int | None = None
    allow_damaged: bool = False
    missing_as_hole: bool = False
    overwrite: bool = False
    keep_metadata: bool = False
    debug: bool = False
    part: Part | None = None


def file_seed(seed: int, name: str) -> int:
    """Seed of one file of a batch: it follows from its name, not from its place in the list.

    Parameters
    ----------
    seed : int
        Of the recipe.
    name : str
        Of the file in the run, with "/" between folders.

    Returns
    -------
    int
        0 up to 2^63 - 1.
    """
    text = f"{seed}\0".encode() + name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def job_key(task: FileTask, image_hash: str, mask_hash: str) -> str:
    """What decides a result: two results of one key are the same.

    Parameters
    ----------
    task : FileTask
    image_hash, mask_hash : str
        Of the files' bytes; of a mask that is a word, the word.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    from knitcore.result import METHOD_VERSION

    kernel = None if task.kernel is None else (task.kernel_file or {}).get("sha256") or "values"
    parts = {
        "image": image_hash,
        "mask": mask_hash,
        "recipe": task.recipe,
        "kernel": kernel,
        "reading": [task.allow_damaged, task.series, task.missing_as_hole],
        "method": METHOD_VERSION,
    }
    if task.keep_metadata:
        parts["metadata"] = "all"
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def input_hashes(job: Job) -> tuple[str, str]:
    """Hashes of an image's and its mask's bytes.

    Parameters
    ----------
    job : Job

    Returns
    -------
    image, mask : str

    Raises
    ------
    OSError
        Unreadable.
    """
    mask = file_hash(job.mask) if isinstance(job.mask, Path) else str(job.mask or "")
    return file_hash(job.image), mask


def plain_fields(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, which `make_recipe` takes."""
    fields = recipe_fields(recipe)
    fields.pop("recipe_version")
    return fields


def warm() -> None:
    """Load what every file needs: torch, above all."""
    import torch  # noqa: F401

    import knitcore.tasks  # noqa: F401


def work_on(
    task: FileTask | Together, emit: Callable[[dict[str, Any]], None], cancel: threading.Event
) -> dict[str, Any]:
    """What a worker does with a task.

    Parameters
    ----------
    task : FileTask or Together
    emit : callable
        Takes `{"progress": fraction, "stage": text}` and `{"note": text, "level": level}`.
    cancel : Event

    Returns
    -------
    dict
        As `attempt`; status "stopped" if it was cancelled.
    """
    if isinstance(task, Together):
        return _work_together(task, emit, cancel)
    last = 0.0

    def tell(event: Event) -> None:
        nonlocal last
        if isinstance(event, Note):
            emit({"note": event.text, "level": event.level})
        elif isinstance(event, Progress) and time.monotonic() - last > 0.2:
            last = time.monotonic()
            emit({"progress": event.fraction, "stage": event.stage})

    try:
        outcome = attempt(task, tell, cancel)
    except Cancelled:
        return {"status": "stopped"}
    if outcome.pop("poisoned", False):
        os._exit(POISONED)
    return outcome


def _work_together(
    together: Together, emit: Callable[[dict[str, Any]], None], cancel: threading.Event
) -> dict[str, Any]:
    """Work on several files side by side; what became of each is told as soon as it is known."""
    from knitcore.device import choose_device
    from knitcore.side_by_side import SharedFits, side_by_side

    last: dict[int, float] = {}  # when each file that is under way last told how far it is
    began: dict[int, float] = {}
    shared: SharedFits | None = SharedFits()

    def works() -> Iterator[Generator[None, None, dict[str, Any]]]:
        for number, task in enumerate(together.tasks):
            began[number], last[number] = time.monotonic(), 0.0

            def tell(event: Event, number: int = number) -> None:
                now = time.monotonic()
                if isinstance(event, Note):
                    emit({"file": number, "note": event.text, "level": event.level})
                elif isinstance(event, Progress) and now - last[number] > 0.2 * len(last):
                    last[number] = now
                    emit({"file": number, "progress": event.fraction, "stage": event.stage})

            yield attempt_steps(task, tell, cancel, shared=shared)

    recipe = together.tasks[0].recipe  # but for the seed that of all
    if not recipe["batch"]:  # chosen by the device, which only here can be asked
        with suppress(DeviceError):
            if choose_device(recipe["device"]).type == "cpu":
                shared = None
    try:
        for number, outcome in side_by_side(works(), shared or SharedFits()):
            if outcome.pop("poisoned", False):
                os._exit(POISONED)
            outcome.setdefault("seconds", round(time.monotonic() - began[number], 3))
            outcome.setdefault("peak_memory", peak_memory())
            del last[number]
            emit({"file": number, "outcome": outcome})
            if outcome.get("abort"):  # the others would fare no better
                return {"status": "stopped"}
    except Cancelled:
        return {"status": "stopped"}
    return {"status": "over"}


def is_poison(error: Exception) -> bool:
    """Whether an error has left this process's GPU context useless, so that all later fits fail, too.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    bool
    """
    full = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, RuntimeError) and "CUDA error" in str(error) and not full


def attempt(
    task: FileTask,
    tell: Callable[[Event], None],
    cancel: Any,
    shield: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[str, Any]:
    """Work on one file; whatever is wrong with it is told in the outcome.

    Parameters
    ----------
    task : FileTask
    tell : callable
        Takes the task's events.
    cancel : CancelToken
    shield : callable
        Makes the context in which results are put in place.

    Returns
    -------
    dict
        `status` "done" and facts, or "failed" with an `error` and, if it is the surroundings'
        fault and the run should end, `abort`.

    Raises
    ------
    Cancelled
    """
    return drain(attempt_steps(task, tell, cancel, shield))


def attempt_steps(
    task: FileTask,
    tell: Callable[[Event], None],
    cancel: Any,
    shield: Callable[[], AbstractContextManager] = nullcontext,
    shared: SharedFits | None = None,
) -> Generator[Any, None, dict[str, Any]]:
    """`attempt` step by step, so that several files can take turns.

    Parameters
    ----------
    task, tell, cancel, shield
        As of `attempt`.
    shared : SharedFits, optional
        Where other files are fitted, too.

    Yields
    ------
    None
        After each event.

    Returns
    -------
    dict
    """
    outcome: dict[str, Any] = {"status": "failed", "input": str(task.job.image)}
    if task.job.fault:
        return {**outcome, "error": task.job.fault}
    try:
        if task.part is not None:
            from knit_cli.stacks import work_on_part

            return work_on_part(task, tell, cancel, shield)
        return (yield from _whole_steps(task, tell, cancel, shield, shared))
    except Cancelled:
        raise
    except KnitError as error:
        from knitcore.files import SURROUNDINGS

        outcome["error"] = str(error)
        if isinstance(error, FileError) and error.errno in SURROUNDINGS:
            outcome["abort"] = True
        if task.debug:
            outcome["trace"] = traceback.format_exc()
    except Exception as error:  # our own fault must not cost the other files
        from knit_cli.main import internal

        outcome["error"] = f"{task.job.image}: {internal(error)}"
        outcome["poisoned"] = is_poison(error)
        if task.debug:
            outcome["trace"] = traceback.format_exc()
    return outcome


def work_on_whole(
    task: FileTask,
    tell: Callable[[Event], None],
    cancel: Any,
    shield: Callable[[], AbstractContextManager],
) -> dict[str, Any]:
    """Read, fit and write one file; parameters and outcome as of `attempt`.

    Raises
    ------
    KnitError
        What is wrong with it.
    """
    return drain(_whole_steps(task, tell, cancel, shield))


def _whole_steps(
    task: FileTask,
    tell: Callable[[Event], None],
    cancel: Any,
    shield: Callable[[], AbstractContextManager],
    shared: SharedFits | None = None,
) -> Generator[Any, None, dict[str, Any]]:
    from knitcore.files import check_writable, read_image, read_mask
    from knitcore.tasks import run_steps

    began = time.monotonic()
    job, recipe = task.job, make_recipe(**task.recipe)
    notes: list[Note] = []
    own = (job.image.name, job.mask.name if isinstance(job.mask, Path) else job.image.name)

    def show(item: Event) -> None:
        if isinstance(item, Note) and not item.text.startswith(own):
            item = replace(item, text=f"{job.image.name}: {item.text}")
        tell(item)

    def note(item: Note) -> None:
        notes.append(item)
        show(item)

    limits: dict[str, Any] = {"max_pixels": task.max_pixels, "allow_damaged": task.allow_damaged}
    more: dict[str, Any] = {"series": task.series, "missing_as_hole": task.missing_as_hole}
    image = read_image(job.image, on_note=note, **limits, **more)
    image = with_texts(task, image)
    mask: Any = job.mask
    if isinstance(job.mask, Path):
        mask = read_mask(job.mask, on_note=note, **limits)
    hashes = input_hashes(job)
    check_writable(image, job.output, overwrite=task.overwrite)
    check_space(task, image)
    if task.repeats is not None:
        _compare(task.repeats, image, mask, recipe, note)

    apart = time.monotonic() - began
    steps = run_steps(recipe, image, mask, kernel=task.kernel, cancel=cancel, shared=shared)
    try:
        while True:
            show(next(steps))
            yield
    except StopIteration as end:
        result = end.value
    finally:
        steps.close()

    record = result.record
    complete_record(record, task, hashes, notes)
    writing = time.monotonic()
    with shield():
        _write(task, result)
    seconds = time.monotonic() - began
    if shared is not None:  # less what it waited for the others
        seconds = apart + record["seconds"]["total"] + time.monotonic() - writing
    return done(task, record, seconds, hashes)


def with_texts(task: FileTask, image: Any) -> Any:
    """The image, with what its file tells in words if that is to be kept."""
    if not task.keep_metadata:
        return image
    return replace(image, extra={**image.extra, "metadata": read_metadata(task.job.image)})


def complete_record(
    record: dict[str, Any], task: FileTask, hashes: tuple[str, str], notes: list[Note]
) -> None:
    """Add to a record of a result what only the command knows.

    Parameters
    ----------
    record : dict
        Changed in place.
    task : FileTask
    hashes : (str, str)
        Of image and mask.
    notes : list of Note
        Told before the fit.
    """
    job = task.job
    files: dict[str, Any] = {"image": {"name": job.image.name, "sha256": hashes[0]}}
    if isinstance(job.mask, Path):
        files["mask"] = {"name": job.mask.name, "sha256": hashes[1]}
    elif record["task"] == "inpaint":
        files["mask"] = {"word": job.mask} if job.mask else None
    if task.kernel_file is not None or task.kernel is not None:
        files["kernel"] = task.kernel_file
    places = {"output": job.output, **job.sides}
    record["files"] = files | {name: path.name for name, path in places.items()}
    record["key"] = job_key(task, *hashes)
    if task.keep_metadata:
        record["source_metadata"] = read_metadata(job.image)
    record["notes"] = [
        *({"level": item.level, "text": item.text} for item in notes),
        *record.get("notes", []),
    ]


def done(
    task: FileTask, record: dict[str, Any], seconds: float, hashes: tuple[str, str]
) -> dict[str, Any]:
    """The outcome of a file whose result is in its place.

    Parameters
    ----------
    task : FileTask
    record : dict
        As written.
    seconds : float
    hashes : (str, str)

    Returns
    -------
    dict
    """
    job = task.job
    return {
        "status": "done",
        "task": record["task"],
        "input": str(job.image),
        "output": str(job.output),
        "record": str(record_path(job.output)),
        "sides": {name: str(path) for name, path in job.sides.items()},
        **_facts(record),
        "seconds": round(max(record["seconds"]["total"], seconds), 3),
        "device": record["device"],
        "notes": record["notes"],
        "key": record["key"],
        "hashes": {"input": hashes[0], "mask": hashes[1] or None},
        "written": record["written"],
    }


def _write(task: FileTask, result: Any) -> None:
    from knit_cli.outputs import write_outputs

    for pause in (*PAUSES, None):
        try:
            write_outputs(task.job, result, task.overwrite)
            return
        except FileError as error:
            if error.errno not in DROPPED_OUT or pause is None:
                raise
            time.sleep(pause)


def check_space(task: FileTask, image: Any) -> None:
    """Refuse to begin a fit whose result would not fit on the disk.

    Parameters
    ----------
    task : FileTask
    image : Image

    Raises
    ------
    FileError
    """
    scale = math.prod(float(f) for f in str(task.recipe.get("scale", "1")).split("x"))
    if "x" not in str(task.recipe.get("scale", "1")):
        scale **= 2
    sides = sum(4 for side in task.job.sides if side in ("std", "residual"))
    values = math.prod(image.shape)
    # compression is not counted on; 64 KiB for the record and the folder
    need = int(values * scale * (image.dtype.itemsize + sides)) + 2**16
    try:
        free = shutil.disk_usage(task.job.output.parent).free
    except OSError:
        return
    if free < need:
        lack = max((need - free) / 1e6, 0.1)
        error = FileError(
            f"{task.job.output}: disk full: needs {lack:.1f} MB more; free some and run again"
        )
        error.errno = errno.ENOSPC
        raise error


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
