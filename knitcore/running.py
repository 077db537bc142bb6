"""One call of a task: its clock, its notes, its planes, and what goes into the record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from knitcore.axes import (
    Image,
    Layout,
    box_index,
    from_canvas,
    plane_numbers,
    to_canvas,
    to_dtype,
    whole_plane,
)
from knitcore.errors import InputError
from knitcore.events import EVENT_SECONDS, Event, Note, Preview, Progress, Stage
from knitcore.harmonic import harmonic_fill
from knitcore.recipe import Denoise, Recipe, SuperResolve
from knitcore.result import make_record

if TYPE_CHECKING:
    import torch

    from knitcore.side_by_side import SharedFits

T = TypeVar("T")
R = TypeVar("R", bound=Recipe)

LEAST_SIDE = 4  # pixels


@dataclass
class Run(Generic[R]):
    """What one call carries along.

    Attributes
    ----------
    image : Image
    recipe : Recipe
    layout : Layout
    out, std : ndarray
        The growing output in the input's dtype and axes, and its expected error (float32).
    total, done : float
        All the work and what is over, in one unit.
    look_alikes : float
        Share of look-alike patches in the mean fill of an inpainting.
    cores : int
        See `knitcore.device.cores_for`.
    shared : SharedFits or None
        Where images that are worked on side by side have their fits.
    held : int
        Values of the image that is open meanwhile; those of `out` unless told.
    waited : float
        Seconds spent there for others.
    """

    image: Image
    recipe: R
    layout: Layout
    out: np.ndarray
    std: np.ndarray
    total: float = 0.0
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    restarts: int = 0
    parameters: int = 0
    look_alikes: float = 0.0
    cores: int = 1
    shared: SharedFits | None = None
    held: int = 0
    waited: float = 0.0

    def progress(
        self, stage: str, part: float = 0.0, losses: dict[str, float] | None = None
    ) -> Progress:
        """How far the run is when `part` of the work under way is over."""
        fraction = min(1.0, (self.done + part) / self.total) if self.total else 0.0
        spent = time.monotonic() - self.began - self.waited
        left = spent * (1 - fraction) / fraction if fraction > 0.02 else math.nan
        return Progress(fraction, stage, dict(losses or {}), spent, left)

    def note(self, text: str, level: str = "info") -> Note:
        """Keep a note for the record; each text once."""
        found = Note(text, level)
        if found not in self.notes:
            self.notes.append(found)
        return found

    def choose_device(self, networks: bool = True) -> Generator[Event, None, torch.device]:
        """Load torch and choose the device; a note where it cannot do what networks are asked to."""
        yield self.progress("load torch")
        from knitcore.device import choose_device, usable_precision

        device = choose_device(self.recipe.device)
        usable = usable_precision(self.recipe.precision, device)
        if networks and usable != self.recipe.precision:
            yield self.note(
                f"{device} has no units for {self.recipe.precision}: computed in float32"
            )
        return device

    def pass_on(self, notes: list[Note], canvas: Canvas) -> None:
        """Keep notes on one canvas, saying which."""
        for note in notes:
            text = f"{canvas.label}: {note.text}" if canvas.label else note.text
            self.note(text, note.level)

    def record(self, device: torch.device | None, **facts: Any) -> dict[str, Any]:
        """The record of the run, which ends here."""
        return make_record(
            self.image,
            self.recipe,
            device=device,
            notes=self.notes,
            losses=self.losses,
            seconds={**self.seconds, "total": time.monotonic() - self.began - self.waited},
            restarts=self.restarts,
            parameters=self.parameters,
            **facts,
        )


@dataclass(frozen=True)
class Canvas:
    """One plane (or volume) of an image, with the channels that are worked on together.

    Attributes
    ----------
    raw : ndarray, shape (C, *spatial)
        In the image's dtype.
    values : ndarray of float32, shape (C, *spatial)
        Grey levels; finite.
    filled : ndarray of bool, shape (C, *spatial), or None
        Where values were missing and are only a smooth fill.
    plane : tuple of int
    channels : slice
        Of the plane's channels.
    label : str
        Which one it is, in words, empty if there is only one.
    key : str
        Seeds its random numbers.
    """

    raw: np.ndarray
    values: np.ndarray
    filled: np.ndarray | None
    plane: tuple[int, ...]
    channels: slice
    label: str
    key: str

    @property
    def where(self) -> dict[str, str]:
        """For the record: which canvas, if there are several."""
        return {"where": self.label} if self.label else {}


def canvases(image: Image, layout: Layout, joint: bool, fill: bool) -> Iterator[tuple[Canvas, int]]:
    """Planes of an image, one after the other, and how many there are.

    Parameters
    ----------
    image : Image
    layout : Layout
    joint : bool
        All channels of a plane at once, or one after the other.
    fill : bool
        Fill NaN and infinite values smoothly rather than refuse them.

    Yields
    ------
    Canvas, int

    Raises
    ------
    InputError
        Values that are not finite.
    """
    whole = tuple(slice(0, image.shape[a]) for a in layout.spatial)
    planes = list(plane_numbers(image, layout))
    for plane in planes:
        raw = to_canvas(np.asarray(image.data[box_index(image, layout, plane, whole)]), layout)
        told = whole_plane(image, layout, plane)
        groups = [slice(0, len(raw))] if joint else [slice(c, c + 1) for c in range(len(raw))]
        named = [
            f"{image.axes[a] if image.axes[a] in 'TZC' else 'plane'} {i}"
            for a, i in zip(layout.planes, told, strict=True)
        ]
        for channels in groups:
            _check_magnitude(image, raw[channels])
            values = raw[channels].astype(np.float32)
            lost = ~np.isfinite(values) if image.dtype.kind == "f" else None
            if lost is not None and lost.any():
                values = _without_holes(image, values, lost, fill)
            else:
                lost = None
            words = named + ([f"channel {channels.start}"] if len(groups) > 1 else [])
            key = f"{told}{channels.start}"
            canvas = Canvas(raw[channels], values, lost, plane, channels, ", ".join(words), key)
            yield canvas, len(planes) * len(groups)


def refuse_unfit(image: Image, layout: Layout, doing: str) -> None:
    """Refuse what has no neighbourhoods to go by.

    Parameters
    ----------
    image : Image
    layout : Layout
    doing : str
        Such as "denoising", for the message.

    Raises
    ------
    InputError
        Two values only, or fewer than `LEAST_SIDE` pixels along an axis.
    """
    if image.dtype.kind == "b":
        raise InputError(f"{image.name}: two values only (bool): nothing for {doing} to go by")
    sides = [image.shape[a] for a in layout.spatial[-2:]]
    if min(sides) < LEAST_SIDE:
        raise InputError(f"{image.name}: {sides[0]} x {sides[1]} is too small for {doing}")


def channels_together(image: Image, recipe: Denoise | SuperResolve) -> bool:
    """Whether all channels of a plane are worked on at once.

    Parameters
    ----------
    image : Image
    recipe : Denoise or SuperResolve

    Returns
    -------
    bool
        "auto": colours are, and the article's knitwork predicts all channels; those of a C axis
        show different things, and each has its own noise.
    """
    if recipe.channels == "auto":
        return image.axes.endswith("S") or recipe.method == "knitwork"
    return recipe.channels == "joint"


def with_rounding(std: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Expected errors with that of rounding to an integer type added.

    Parameters
    ----------
    std : ndarray of float32
    dtype : dtype

    Returns
    -------
    ndarray of float32
    """
    return np.sqrt(std**2 + np.float32(1 / 12)) if dtype.kind in "iu" else std


def _check_magnitude(image: Image, raw: np.ndarray) -> None:
    """Refuse numbers whose squares single precision cannot hold."""
    if image.dtype.kind == "f" and image.dtype.itemsize > 2:
        finite = np.abs(raw[np.isfinite(raw)])
        top = float(finite.max(initial=0))
        if top > 1e15 or 0 < top < 1e-15:
            raise InputError(
                f"{image.name}: values of a size of {top:.1g}; rescale the image first"
            )


def coarse_numbers(image: Image, raw: np.ndarray) -> str:
    """A warning if single precision, in which all is computed, has not enough digits for an image.

    Parameters
    ----------
    image : Image
    raw : ndarray
        A plane of it.

    Returns
    -------
    str
        Empty if there is nothing to say.
    """
    if image.dtype.itemsize < 4 or image.dtype == np.float32:
        return ""
    finite = raw[np.isfinite(raw)].astype(np.float64)
    top = float(np.abs(finite).max(initial=0))
    if top * 2.0**-24 <= (0.5 if image.dtype.kind in "iu" else 0.01 * float(finite.std())):
        return ""
    return (
        f"values up to {top:.3g} are computed with 24 bits, in steps of {top * 2.0**-23:.2g}: "
        "subtract a constant first if that is too coarse"
    )


def saturation(image: Image, hole: np.ndarray | None = None) -> str:
    """A note on pixels at the highest value of their type, where these are over one in a hundred.

    Parameters
    ----------
    image : Image
    hole : ndarray of bool, optional
        Shape of the image; what will be filled does not count.

    Returns
    -------
    str
        Empty if there is nothing to say. Alpha is not looked at.
    """
    if image.dtype.kind not in "iu" or image.dtype.itemsize > 2:
        return ""
    top = np.iinfo(image.dtype).max
    samples = image.shape[-1] - image.alpha if image.axes.endswith("S") else None
    colours = (..., slice(0, samples)) if samples else (...,)
    found = total = 0
    for number in range(image.shape[0]):
        high = np.asarray(image.data[number]) == top
        if hole is not None:
            high &= ~hole[number]
        found += int(np.count_nonzero(high[colours]))
        total += high[colours].size
    if found <= 0.01 * total:
        return ""
    return (
        f"{100 * found / total:.0f} % of the values are at {top}, the highest there is, and may be "
        "saturated; they count as measured"
    )


def _without_holes(image: Image, values: np.ndarray, lost: np.ndarray, fill: bool) -> np.ndarray:
    if not fill:
        raise InputError(
            f"{image.name}: {np.count_nonzero(lost):,} values are NaN or infinite; fill them first "
            "(knit inpaint --mask nan), or set nan_as_hole (--nan-as-hole)"
        )
    if lost.reshape(len(lost), -1).all(1).any():
        raise InputError(f"{image.name}: a plane holds nothing but NaN and infinite values")
    return harmonic_fill(values, ~lost, np.asarray(lost.any(0))).astype(np.float32)


def work_through(
    run: Run[Any],
    work: Callable[[Canvas], Generator[Stage, None, T]],
    paste: Callable[[Canvas, T], tuple[np.ndarray, np.ndarray]],
    *,
    joint: bool,
    fill: bool,
    previews: bool,
) -> Generator[Event, None, None]:
    """Work on each canvas of an image and put the outcome in its place.

    Parameters
    ----------
    run : Run
    work : callable
        Canvas -> generator of stages that returns an outcome.
    paste : callable
        Canvas, outcome -> values and their expected errors, (C, *output spatial), in grey levels;
        values of the image's dtype are taken as they are.
    joint, fill : bool
        As for `canvases`.
    previews : bool
        Also yield a `Preview` where a stage has values, and at each canvas's end.

    Yields
    ------
    Progress, Preview, Note
    """
    import torch

    from knitcore.device import cores_for, fit_threads

    before, clock, told = torch.get_num_threads(), time.monotonic(), len(run.notes)
    run.cores = cores_for(watched=previews)
    torch.set_num_threads(fit_threads())
    try:
        for event in _work_through(run, work, paste, joint, fill, previews):
            yield from run.notes[told:]
            told = len(run.notes)
            yield event
    finally:
        torch.set_num_threads(before)
    run.seconds["fit"] = time.monotonic() - clock


def _work_through(
    run: Run[Any],
    work: Callable[[Canvas], Generator[Stage, None, T]],
    paste: Callable[[Canvas, T], tuple[np.ndarray, np.ndarray]],
    joint: bool,
    fill: bool,
    previews: bool,
) -> Generator[Event, None, None]:
    layout = run.layout
    place = tuple(slice(0, run.out.shape[a]) for a in layout.spatial)
    for canvas, count in canvases(run.image, layout, joint, fill):
        run.total = count
        if warning := coarse_numbers(run.image, canvas.raw):
            run.note(warning, "warning")
        index = box_index(run.image, layout, canvas.plane, place)
        shape = run.out[index].shape

        def put(
            array: np.ndarray,
            values: np.ndarray,
            index: tuple[Any, ...] = index,
            shape: tuple[int, ...] = shape,
            channels: slice = canvas.channels,
        ) -> None:
            box = to_canvas(array[index], layout).copy()
            box[channels] = values
            array[index] = from_canvas(box, shape, layout)

        prefix = f"{canvas.label}: " if canvas.label else ""
        said, due = "", 0.0
        stages = work(canvas)
        try:
            while True:
                stage = next(stages)
                if stage.text != said or stage.values is not None or time.monotonic() > due:
                    yield run.progress(prefix + stage.text, stage.done, stage.losses)
                    said, due = stage.text, time.monotonic() + EVENT_SECONDS
                if previews and stage.values is not None:
                    put(run.out, to_dtype(stage.values, run.out.dtype))
                    yield Preview(index, run.out[index].copy())
        except StopIteration as end:
            values, errors = paste(canvas, end.value)
        finally:
            stages.close()
        put(run.out, values if values.dtype == run.out.dtype else to_dtype(values, run.out.dtype))
        put(run.std, errors)
        run.done += 1
        if previews:
            yield Preview(index, run.out[index].copy())
        yield run.progress(prefix + "done")
