"""Inpainting: a smooth start, a knitwork fitted round each hole, a paste that keeps every known pixel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from knitcore.axes import (
    Image,
    Layout,
    as_image,
    box_index,
    choose_layout,
    from_canvas,
    plane_numbers,
    to_canvas,
    to_dtype,
)
from knitcore.errors import Cancelled, InputError
from knitcore.events import CancelToken, Event, Note, Preview, Progress, drain
from knitcore.harmonic import harmonic_fill
from knitcore.kriging import fit_variograms, kriging_fill
from knitcore.masks import resolve_mask
from knitcore.plan import Region, make_regions
from knitcore.recipe import Inpaint, make_recipe, recipe_fields
from knitcore.result import Result, array_hash, versions

if TYPE_CHECKING:
    import torch

STRAY = 2.0  # a member whose fill is this many expected errors off the start is dropped
DIRECTION_LAG = 6.0  # pixels: at this lag the variogram's terms are weighed against each other


def inpaint(
    image: Any,
    mask: Any = None,
    recipe: Inpaint | None = None,
    *,
    axes: str | None = None,
    on_event: Callable[[Event], Any] | None = None,
    cancel: CancelToken | None = None,
    **fields: Any,
) -> Result:
    """Fill the masked pixels of one image; all others stay as they are, bit for bit.

    Parameters
    ----------
    image : Image or array-like, shape (..., Y, X[, S])
        Any integer or float type, bool included.
    mask : array-like, Image or str, optional
        True (non-zero) = to be filled. Shape of the image, of its spatial axes, or (Y, X) for all
        planes; or one of "nan", "saturated", "alpha", "value=0". NaN and infinite pixels always join.
    recipe : Inpaint, optional
        All settings; `fields` override single ones.
    axes : str, optional
        One letter an axis, such as "ZYX" or "YXS"; see `knitcore.as_image`.
    on_event : callable, optional
        Called with each `Progress` and `Note`.
    cancel : object with ``is_set()``, optional
        Such as `threading.Event`; looked at about ten times a second.
    **fields
        Fields of the recipe: ``preset="paper"``, ``seed=1``, ``ensemble=8``, ``device="cpu"``, ...

    Returns
    -------
    Result

    Raises
    ------
    InputError
        The image or mask cannot be used.
    RecipeError
        A field is unknown or out of bounds.
    DeviceError
        The device asked for is absent.
    FitError
        The fit did not stay finite.
    Cancelled
        The cancel token was set.

    Examples
    --------
    >>> import numpy as np
    >>> import knitcore as knit
    >>> image = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint16)
    >>> mask = np.zeros((32, 32), bool)
    >>> mask[10:14, 12:20] = True
    >>> result = knit.inpaint(np.where(mask, 0, image).astype(np.uint16), mask)
    >>> bool((result.image[~mask] == image[~mask]).all())
    True
    """
    steps = inpaint_steps(image, mask, recipe, axes=axes, cancel=cancel, **fields)
    return drain(steps, on_event)


def inpaint_steps(
    image: Any,
    mask: Any = None,
    recipe: Inpaint | None = None,
    *,
    axes: str | None = None,
    cancel: CancelToken | None = None,
    previews: bool = False,
    **fields: Any,
) -> Generator[Event, None, Result]:
    """`inpaint` as a generator of events, for those who render progress themselves.

    Parameters
    ----------
    image, mask, recipe, axes, cancel, **fields
        As for `inpaint`.
    previews : bool
        Also yield a `Preview` of each region about twice a second.

    Yields
    ------
    Progress, Preview or Note

    Returns
    -------
    Result
    """
    work = _inpaint(image, mask, recipe, axes, previews, fields)
    try:
        while True:
            if cancel is not None and cancel.is_set():
                raise Cancelled("cancelled")
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            yield event
    finally:
        work.close()


@dataclass
class _Run:
    """What one call carries along: its clock, its notes and its growing output."""

    image: Image
    recipe: Inpaint
    layout: Layout
    hole: np.ndarray
    out: np.ndarray
    std: np.ndarray
    total: float = 0.0
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=lambda: {"start": 0.0, "fit": 0.0})
    losses: list[dict[str, float]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    restarts: int = 0
    parameters: int = 0

    def progress(
        self, stage: str, part: float = 0.0, losses: dict[str, float] | None = None
    ) -> Progress:
        fraction = min(1.0, (self.done + part) / self.total) if self.total else 0.0
        spent = time.monotonic() - self.began
        left = spent * (1 - fraction) / fraction if fraction > 0.02 else math.nan
        return Progress(fraction, stage, dict(losses or {}), spent, left)

    def note(self, text: str, level: str = "info") -> Note:
        self.notes.append(Note(text, level))
        return self.notes[-1]


def _inpaint(
    image: Any,
    mask: Any,
    recipe: Inpaint | None,
    axes: str | None,
    previews: bool,
    fields: dict[str, Any],
) -> Generator[Event, None, Result]:
    began = time.monotonic()
    source = as_image(image, axes)
    if recipe is None:
        recipe = make_recipe("inpaint", **fields)
    elif fields:
        recipe = make_recipe(**{**recipe.model_dump(), **fields})
    hole, notes = resolve_mask(source, mask, recipe)
    data = np.asarray(source.data)
    layout = choose_layout(source, hole, recipe.planes)
    run = _Run(
        image=source,
        recipe=recipe,
        layout=layout,
        hole=hole,
        out=np.array(data, dtype=source.dtype.newbyteorder("=")),
        std=np.zeros(source.shape, np.float32),
        began=began,
    )
    for note in notes:
        yield run.note(note.text, note.level)
    device = None
    jobs: list[tuple[tuple[int, ...], Region, np.ndarray]] = []
    if hole.any():
        yield run.progress("plan")
        for plane in plane_numbers(source, layout):
            whole = tuple(slice(0, source.shape[a]) for a in layout.spatial)
            missing = to_canvas(hole[box_index(source, layout, plane, whole)], layout)
            _check_known(source, layout, plane, missing)
            regions, deep = make_regions(np.asarray(missing.any(0)), recipe)
            jobs += [(plane, region, deep) for region in regions]
        run.total = sum(_cost(region, recipe) for _, region, _ in jobs)
    if any(region.deep for _, region, _ in jobs):
        from knitcore.device import choose_device

        yield run.progress("load torch")
        device = choose_device(recipe.device)
    for number, (plane, region, deep) in enumerate(jobs, 1):
        stage = f"region {number} of {len(jobs)}"
        yield from _fill_region(run, plane, region, deep, device, stage, previews)
        run.done += _cost(region, recipe)
    run.total = run.done = 1.0
    yield run.progress("done")
    return Result(run.out, hole, run.std, _record(run, data, device, len(jobs)), source)


def _check_known(image: Image, layout: Layout, plane: tuple[int, ...], missing: np.ndarray) -> None:
    lost = [c for c in range(len(missing)) if missing[c].all()]
    if not lost:
        return
    where = ", ".join(f"{image.axes[a]}={i}" for a, i in zip(layout.planes, plane, strict=True))
    where = f"plane {where}" if where else "the image"
    if len(missing) > 1:
        where += f", channel {lost[0]}"
    hint = ""
    if layout.planes:
        letters = "".join(image.axes[a] for a in layout.planes)
        hint = f"; fit it together with its neighbours by naming fewer axes in planes (now {letters!r})"
    raise InputError(f"{image.name}: {where} has no known pixel left to fill it from{hint}")


def _cost(region: Region, recipe: Inpaint) -> float:
    """Rough relative time of a region, for the progress bar."""
    return 1.0 + (0.05 * recipe.steps if region.deep else 0.0)


def _fill_region(
    run: _Run,
    plane: tuple[int, ...],
    region: Region,
    deep: np.ndarray,
    device: torch.device | None,
    stage: str,
    previews: bool,
) -> Generator[Event, None, None]:
    recipe, layout = run.recipe, run.layout
    index = box_index(run.image, layout, plane, region.box)
    raw = np.asarray(run.image.data[index])
    missing = to_canvas(run.hole[index], layout)
    inner = np.zeros(missing.shape[1:], bool)
    inner[
        tuple(
            slice(i.start - b.start, i.stop - b.start)
            for i, b in zip(region.inner, region.box, strict=True)
        )
    ] = True
    # deep and shallow pixels of one box are filled by different regions
    target = missing.any(0) & inner & (deep[region.box] == region.deep)
    values, known, centre, spread = _standardise(
        to_canvas(raw, layout), ~missing, recipe, joint=run.image.axes.endswith("S")
    )

    def paste(fill: np.ndarray, error: np.ndarray) -> None:
        where = target & missing
        scale = spread.reshape((-1,) + (1,) * target.ndim)
        grey = fill * scale + centre.reshape(scale.shape)
        box = to_canvas(run.out[index], layout).copy()
        box[where] = to_dtype(grey[where], box.dtype)
        run.out[index] = from_canvas(box, raw.shape, layout)
        box_std = to_canvas(run.std[index], layout).copy()
        box_std[where] = (error * scale)[where]
        run.std[index] = from_canvas(box_std, raw.shape, layout)

    def preview() -> Preview:
        return Preview(index, run.out[index].copy())

    yield run.progress(f"{stage}: {recipe.start} start" if recipe.start != "none" else stage)
    clock = time.monotonic()
    start, doubt = _start(values, known, target, layout.step, recipe)
    run.seconds["start"] += time.monotonic() - clock
    paste(start, doubt)
    if previews:
        yield preview()
    if not region.deep or not known.any():
        return

    from knitcore.fit import Target, fit_region

    models = fit_variograms(values, known, layout.step, (1.0,)) if recipe.directed else []
    work = Target(
        values=values.astype(np.float32),
        weight=known.astype(np.float32),
        want=target,
        step=layout.step,
        key=f"{plane}{[(s.start, s.stop) for s in region.box]}",
        directions=models[0].directions(DIRECTION_LAG) if models else (),
    )
    assert device is not None
    clock = time.monotonic()
    fit = fit_region(work, recipe, device, previews)
    try:
        while True:
            try:
                state = next(fit)
            except StopIteration as end:
                state = end.value
                break
            if state.members is not None:
                paste(*_mix(start, doubt, state.members, target, recipe)[:2])
                yield preview()
            cost = (_cost(region, recipe) - 1) * state.done
            yield run.progress(f"{stage}: fit", 1 + cost, state.losses)
    finally:
        fit.close()
    run.seconds["fit"] += time.monotonic() - clock
    run.losses.append(state.losses)
    run.restarts += state.restarts
    run.parameters = state.parameters
    if state.restarts:
        yield run.note(f"{stage}: restarted {state.restarts} times with a lower rate", "warning")
    assert state.members is not None
    fill, error, strays = _mix(start, doubt, state.members, target, recipe)
    if strays:
        yield run.note(
            f"{stage}: {strays} of {recipe.ensemble} members strayed from the start and were dropped"
        )
    paste(fill, error)
    if previews:
        yield preview()


def _standardise(
    canvas: np.ndarray, known: np.ndarray, recipe: Inpaint, joint: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values of a box with centre 0 and spread 1, extremes held back.

    A hot pixel of 60 000 among signals below 100 would otherwise be all that the fit sees: values
    beyond the 0.5 and 99.5 percentiles by more than twice their distance are clipped, for the fit.
    """
    flat = tuple(range(1, canvas.ndim))
    values = np.zeros(canvas.shape)
    centre, spread = np.zeros(len(canvas)), np.ones(len(canvas))
    for c, channel in enumerate(canvas):
        seen = channel[known[c]].astype(np.float64)
        if seen.size == 0:
            continue
        low, high = np.percentile(seen, (0.5, 99.5))
        slack = 2 * (high - low)
        if slack == 0:  # nearly all alike: what differs is rare, and is no reason to clip it
            slack = 2 * max(seen.max() - high, low - seen.min())
            slack = 0.0 if seen.size > 50 else slack
        values[c] = np.where(known[c], np.clip(channel, low - slack, high + slack), 0.0)
        seen = values[c][known[c]]
        if recipe.output == "sigmoid":
            centre[c], spread[c] = seen.min(), np.ptp(seen)
        else:
            centre[c], spread[c] = seen.mean(), seen.std()
    if joint:
        spread[:] = spread.max() if recipe.output == "sigmoid" else np.sqrt((spread**2).mean())
    spread[spread <= 0] = 1.0
    shape = (-1,) + (1,) * len(flat)
    values = np.where(known, (values - centre.reshape(shape)) / spread.reshape(shape), 0.0)
    return values, known, centre, spread


def _start(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    step: tuple[float, ...],
    recipe: Inpaint,
) -> tuple[np.ndarray, np.ndarray]:
    """Smooth fill and its expected error, both (C, *spatial)."""
    if recipe.start == "kriging":
        fill, doubt = kriging_fill(values, known, target, step)
    elif recipe.start == "harmonic":
        fill, doubt = harmonic_fill(values, known, target), np.zeros(values.shape)
    else:
        return np.where(known, values, 0.0), np.zeros(values.shape)
    for c in range(len(values)):
        if known[c].any():
            fill[c] = np.clip(fill[c], values[c][known[c]].min(), values[c][known[c]].max())
    return fill, doubt


def _mix(
    start: np.ndarray,
    doubt: np.ndarray,
    members: np.ndarray,
    target: np.ndarray,
    recipe: Inpaint,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Average the members that stayed near the start, and lean on the start by its weight.

    Parameters
    ----------
    start, doubt : ndarray, shape (C, *spatial)
    members : ndarray, shape (E, C, n)
    target : ndarray of bool, shape (*spatial)
    recipe : Inpaint

    Returns
    -------
    fill, error : ndarray, shape (C, *spatial)
    strays : int
        Members left out.
    """
    base, sure = start[:, target], doubt[:, target]
    share = 1 - recipe.start_weight
    keep = np.ones(len(members), bool)
    if recipe.start == "kriging":
        off = (members - base) / np.maximum(sure, 0.05)
        keep = np.sqrt((off**2).mean((1, 2))) <= STRAY
    fill, error = start.copy(), doubt.copy()
    if not keep.any():
        return fill, error, len(members)
    kept = members[keep]
    mean = kept.mean(0)
    if recipe.start == "kriging":
        # what the members do not agree on, they do not know; one alone has only the start to ask
        apart = kept.var(0) if len(kept) > 1 else (mean - base) ** 2
        trusted = recipe.agreement**2 * np.maximum((sure**2).mean(), 1e-6)
        share /= 1 + apart.mean() / trusted
    fill[:, target] = (1 - share) * base + share * mean
    # members and start are guesses of one thing: their scatter is part of the error
    scatter = share * (kept.var(0) + (1 - share) * (mean - base) ** 2)
    error[:, target] = np.sqrt(sure**2 + scatter)
    return fill, error, int((~keep).sum())


def _record(
    run: _Run, data: np.ndarray, device: torch.device | None, regions: int
) -> dict[str, Any]:
    """Everything needed to repeat the run, JSON-ready."""
    from knitcore.device import device_name

    image = run.image
    # the samples of a pixel are filled together: count pixels, not colours
    pixels = run.hole[..., 0] if image.axes.endswith("S") else run.hole
    filled = int(np.count_nonzero(pixels))
    threads = 0
    if device is not None:
        import torch

        threads = torch.get_num_threads()
    means: dict[str, float] = {}
    for losses in run.losses:
        for name, value in losses.items():
            means[name] = means.get(name, 0.0) + value / len(run.losses)
    return {
        "record_version": 1,
        "task": "inpaint",
        "recipe": recipe_fields(run.recipe),
        "versions": versions(),
        "device": str(device) if device is not None else "cpu",
        "device_name": device_name(device) if device is not None else "",
        "threads": threads,
        "image": {
            "name": image.name,
            "sha256": array_hash(data),
            "shape": list(image.shape),
            "dtype": image.dtype.name,
            "axes": image.axes,
            "pixel_size": dict(image.pixel_size),
            "unit": dict(image.unit),
        },
        "mask": {
            "sha256": array_hash(run.hole),
            "filled": filled,
            "fraction": filled / max(1, pixels.size),
        },
        "regions": regions,
        "parameters": run.parameters,
        "seconds": {
            "total": round(time.monotonic() - run.began, 3),
            **{name: round(value, 3) for name, value in run.seconds.items()},
        },
        "losses": means,
        "restarts": run.restarts,
        "notes": [{"level": note.level, "text": note.text} for note in run.notes],
    }
