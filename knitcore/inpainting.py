"""Inpainting: a smooth start, a knitwork fitted round each hole, a paste that keeps every known pixel."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat, zip_longest
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
    whole_plane,
)
from knitcore.errors import DeviceError, InputError, KnitError, memory_ran_out
from knitcore.events import CancelToken, Event, Preview, drain, relayed, until_cancelled
from knitcore.filling import (
    mix_members,
    restlessness,
    root_mean_square_one,
    standardise,
    start_steps,
    steepness,
)
from knitcore.kriging import fit_variograms
from knitcore.look_alikes import look_alike_share_steps, look_alike_steps
from knitcore.masks import resolve_mask
from knitcore.overlay import Overlay
from knitcore.plan import Region, make_regions
from knitcore.recipe import Inpaint, make_recipe, with_fields
from knitcore.result import Result, array_hash
from knitcore.running import Run, coarse_numbers, saturation
from knitcore.side_by_side import MOST_VALUES, SharedFits, side_by_side
from knitcore.texture import random_numbers, texture_steps
from knitcore.validation import LEAST_SHARE, HeldOut, Job, held_out_holes, validation_figures

if TYPE_CHECKING:
    import torch

    from knitcore.fit import Fitted

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
    shared: SharedFits | None = None,
    **fields: Any,
) -> Generator[Event, None, Result]:
    """`inpaint` as a generator of events, for those who render progress themselves.

    Parameters
    ----------
    image, mask, recipe, axes, cancel, **fields
        As for `inpaint`.
    previews : bool
        Also yield a `Preview` of each region about twice a second.
    shared : SharedFits, optional
        Where other images are fitted, too; then `knitcore.side_by_side.side_by_side` must take the
        steps.

    Yields
    ------
    Progress, Preview or Note

    Returns
    -------
    Result
    """
    work = _inpaint(image, mask, recipe, axes, previews, shared, fields)
    return (yield from until_cancelled(work, cancel))


def inpaint_many(
    images: Iterable[Any],
    masks: Iterable[Any] | str | None = None,
    recipe: Inpaint | None = None,
    *,
    axes: str | None = None,
    on_event: Callable[[int, Event], Any] | None = None,
    cancel: CancelToken | None = None,
    **fields: Any,
) -> Iterator[tuple[int, Result | KnitError]]:
    """Fill the masked pixels of several images, whose holes are fitted together in one program.

    Each result is that of `inpaint`, but for rounding.

    Parameters
    ----------
    images : iterable of Image or array-like
        Read on as there is room: an iterator that opens files may be of any length.
    masks : iterable, str or None
        One an image, each as for `inpaint`; or one word for all.
    recipe, axes, cancel, **fields
        As for `inpaint`; ``batch`` is how many holes are fitted side by side.
    on_event : callable, optional
        Called with the number of the image and each `Progress` and `Note`.

    Yields
    ------
    number, result : int, Result or KnitError
        Which image, from 0 on, and its result, or what is wrong with it; in the order they end.

    Raises
    ------
    InputError
        Images and masks are not of the same number.
    RecipeError
        A field is unknown or out of bounds.
    Cancelled
        The cancel token was set.

    Examples
    --------
    >>> import numpy as np
    >>> import knitcore as knit
    >>> images = np.full((3, 32, 32), 7, np.uint8)
    >>> masks = np.zeros((3, 32, 32), bool)
    >>> masks[:, 10:14, 12:20] = True
    >>> [number for number, result in knit.inpaint_many(images, masks)]
    [0, 1, 2]
    """
    recipe = with_fields(recipe, fields) if recipe else make_recipe("inpaint", **fields)
    if not isinstance(masks, str) and isinstance(images, Sized) and isinstance(masks, Sized):
        _refuse_uneven(len(images) == len(masks))
    shared = SharedFits()

    def work(number: int, image: Any, mask: Any) -> Generator[None, None, Result | KnitError]:
        steps = inpaint_steps(image, mask, recipe, axes=axes, cancel=cancel, shared=shared)
        try:
            return (yield from relayed(steps, lambda event: on_event and on_event(number, event)))
        except KnitError as error:  # costs this image only
            return error
        except (MemoryError, RuntimeError) as error:
            if not memory_ran_out(error):
                raise
        return DeviceError(
            f"not enough memory for image {number}. Take a smaller part of it or, if a GPU was full, "
            'device="cpu"'
        )

    def works() -> Iterator[Generator[None, None, Result | KnitError]]:
        lacking: Any = object()
        pairs = (
            zip(images, repeat(masks))
            if masks is None or isinstance(masks, str)
            else zip_longest(images, masks, fillvalue=lacking)
        )
        for number, (image, mask) in enumerate(pairs):
            _refuse_uneven(image is not lacking and mask is not lacking)
            yield work(number, image, mask)

    yield from side_by_side(works(), shared)


def _refuse_uneven(even: bool) -> None:
    if not even:
        raise InputError("images and masks must be of the same number")


def _inpaint(
    image: Any,
    mask: Any,
    recipe: Inpaint | None,
    axes: str | None,
    previews: bool,
    shared: SharedFits | None,
    fields: dict[str, Any],
) -> Generator[Event, None, Result]:
    began = time.monotonic()
    source = as_image(image, axes)
    recipe = with_fields(recipe, fields) if recipe else make_recipe("inpaint", **fields)
    hole, notes = resolve_mask(source, mask, recipe)
    lazy = isinstance(source.data, Overlay)  # then what is not asked for is not looked at, either
    layout = choose_layout(source, hole, recipe.planes)
    out: Any = (
        Overlay(source.data, source.data.inner, source.data.name)
        if lazy
        else np.array(source.data, dtype=source.dtype.newbyteorder("="))
    )
    run = Run(
        image=source,
        recipe=recipe,
        layout=layout,
        out=out,
        std=np.zeros(source.shape, np.float32),
        began=began,
        seconds={"start": 0.0, "fit": 0.0},
        shared=shared,
    )
    for note in notes:
        yield run.note(note.text, note.level)
    device = None
    jobs: list[Job] = []
    if hole.any():
        if not lazy and (text := saturation(source, hole)):
            yield run.note(text)
        if not lazy and (text := coarse_numbers(source, np.asarray(source.data))):
            yield run.note(text, "warning")
        yield run.progress("plan")
        for plane in plane_numbers(source, layout):
            whole = tuple(slice(0, source.shape[a]) for a in layout.spatial)
            missing = to_canvas(hole[box_index(source, layout, plane, whole)], layout)
            _check_known(source, layout, plane, missing)
            regions, deep = make_regions(np.asarray(missing.any(0)), recipe)
            jobs += [(plane, region, deep) for region in regions]
        run.total = sum(_cost(region, recipe) for _, region, _ in jobs)
    held: list[HeldOut] = []
    told = 0.0
    if recipe.validation and jobs:
        yield run.progress("find places like the holes")
        held, told = held_out_holes(partial(_plane, source, hole, layout), jobs)
        rate = run.total / len(jobs)
        run.total += rate * len(held) if told >= LEAST_SHARE else 0.0
    if any(region.deep for _, region, _ in jobs):
        device = yield from run.choose_device()
    if recipe.look_alikes and any(region.deep for _, region, _ in jobs):
        clock = time.monotonic()
        plane_of, joint = partial(_plane, source, hole, layout), source.axes.endswith("S")
        asking = look_alike_share_steps(plane_of, jobs, layout.step, recipe, joint)
        run.look_alikes = yield from relayed(
            asking, lambda part: run.progress(f"ask held-out holes for look-alikes, {part:.0%}")
        )
        run.seconds["look-alikes"] = time.monotonic() - clock
    stages = [f"region {number} of {len(jobs)}" for number in range(1, len(jobs) + 1)]
    yield from _fill_regions(run, hole, jobs, stages, device, previews)
    if source.alpha and (
        mask == "alpha" if isinstance(mask, str) else recipe.alpha_channel == "mask"
    ):
        opaque = np.iinfo(source.dtype).max if source.dtype.kind in "iu" else 1
        shown = hole[..., 0] & (run.out[..., -1] == 0)
        if shown.any():
            alpha = run.out[..., -1]
            alpha[shown] = opaque
            run.out[..., -1] = alpha
            hole[..., -1] |= shown
            yield run.note(
                f"{int(shown.sum())} filled pixels were transparent; they are opaque now"
            )
    facts: dict[str, Any] = {
        "fill": {"kind": recipe.fill, "for_measurement": recipe.fill == "mean"}
    }
    if recipe.look_alikes:
        facts["fill"]["look_alikes"] = round(run.look_alikes, 3)
    if recipe.fill == "texture" and hole.any():
        yield run.note(
            "the fill is a sample of texture: for the eye, not for measurement", "warning"
        )
    if recipe.validation and jobs:
        facts["validation"] = yield from _validate(run, hole, held, told, device, rate)
    run.total = run.done = 1.0
    yield run.progress("done")
    # the samples of a pixel are filled together: count pixels, not colours
    pixels = hole[..., 0] if source.axes.endswith("S") else hole
    filled = int(np.count_nonzero(pixels))
    record = run.record(
        device,
        mask={
            "sha256": array_hash(hole),
            "filled": filled,
            "fraction": filled / max(1, pixels.size),
        },
        regions=len(jobs),
        **facts,
    )
    return Result(run.out, hole, run.std, record, source)


def _plane(
    image: Image, hole: np.ndarray, layout: Layout, plane: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Values and unknown pixels of a plane, (C, *spatial)."""
    whole = tuple(slice(0, image.shape[a]) for a in layout.spatial)
    index = box_index(image, layout, plane, whole)
    values = to_canvas(np.asarray(image.data[index]), layout)
    return values, to_canvas(hole[index], layout) | _transparent(image, index, layout)


def _validate(
    run: Run[Inpaint],
    hole: np.ndarray,
    held: list[HeldOut],
    told: float,
    device: torch.device | None,
    rate: float,
) -> Generator[Event, None, dict[str, Any] | None]:
    """Fill the held-out holes by the same recipe, each in a copy of its surroundings."""
    if told < LEAST_SHARE:
        yield run.note(
            "no figure for the expected error: this image has no known place large enough to hold out "
            + ("a hole of the same shape" if not held else "most of its holes' shapes"),
            "warning",
        )
        return None
    clock, layout, recipe = time.monotonic(), run.layout, run.recipe
    together = recipe.region == "image"  # one fit of the whole plane serves all its holes
    planes = sorted({one.plane for one in held})
    groups = (
        [[one for one in held if one.plane == plane] for plane in planes]
        if together
        else [[one] for one in held]
    )
    errors, stds = [], []
    waited = 0.0
    for number, group in enumerate(groups, 1):
        stage = f"held-out hole {number} of {len(groups)}"
        first = group[0]
        sides = tuple(run.image.shape[a] for a in layout.spatial)
        around = (
            tuple(slice(0, n) for n in sides) if together else first.surroundings(recipe, sides)
        )
        index = box_index(run.image, layout, first.plane, around)
        if run.image.axes.endswith("S"):
            index = (*index[:-1], slice(None))  # with alpha
        crop = replace(run.image, data=np.array(run.image.data[index]), first={})
        data = np.asarray(crop.data)
        part = Run(crop, recipe, layout, data.copy(), np.zeros(data.shape, np.float32))
        part.shared, part.held = run.shared, run.out.size
        part.seconds = {"start": 0.0, "fit": 0.0, "look-alikes": 0.0}
        part.look_alikes = run.look_alikes
        base = tuple(0 for _ in layout.planes)
        inner = box_index(crop, layout, base, tuple(slice(0, a.stop - a.start) for a in around))
        hidden = np.zeros(to_canvas(hole[index][inner], layout).shape, bool)
        places = [one.within(around) for one in group]
        for one, place in zip(group, places, strict=True):
            hidden[(slice(None), *place)] |= one.hidden
        lost = hole[index].copy()
        canvas = to_canvas(lost[inner], layout) | hidden
        lost[inner] = from_canvas(canvas, lost[inner].shape, layout)
        regions, deep = make_regions(np.asarray(hidden.any(0)), recipe)
        if device is None and any(region.deep for region in regions):
            from knitcore.device import choose_device

            device = choose_device(recipe.device)
        again = [(base, region, deep) for region in regions]
        for _ in _fill_regions(part, lost, again, [stage] * len(again), device, False):
            yield run.progress(stage)
        run.done += rate * len(group)
        run.waited += part.waited
        waited += part.waited
        for place in places:
            got, std = (
                to_canvas(a[inner], layout)[(slice(None), *place)] for a in (part.out, part.std)
            )
            true = to_canvas(data[inner], layout)[(slice(None), *place)]
            errors.append(got.astype(np.float64) - true.astype(np.float64))
            stds.append(std)
    run.seconds["validation"] = time.monotonic() - clock - waited
    whole, known = run.image.data, ~hole
    if isinstance(whole, Overlay):
        some = np.unique([plane for plane in range(len(whole)) if hole[plane].any()][:8])
        whole, known = np.stack([whole[plane] for plane in some]), known[some]
    whole = np.asarray(whole)
    truth = whole[known] if whole.size <= 2**22 else whole.reshape(-1)[:: whole.size // 2**20]
    truth = truth[np.isfinite(truth)] if truth.dtype.kind == "f" else truth
    figures = validation_figures(
        errors, stds, [one.hidden for one in held], [one.share for one in held], truth
    )
    if told < 0.99:
        yield run.note(
            f"the expected error is that of {told:.0%} of the filled pixels: for the other holes no "
            "known place is large enough"
        )
    return {**figures, "share": round(told, 3)}


def _check_known(image: Image, layout: Layout, plane: tuple[int, ...], missing: np.ndarray) -> None:
    lost = [c for c in range(len(missing)) if missing[c].all()]
    if not lost:
        return
    told = whole_plane(image, layout, plane)
    where = ", ".join(f"{image.axes[a]}={i}" for a, i in zip(layout.planes, told, strict=True))
    where = f"plane {where}" if where else "the image"
    if len(missing) > 1:
        where += f", channel {lost[0]}"
    hint = ""
    if layout.planes:
        letters = "".join(image.axes[a] for a in layout.planes)
        hint = f"; fit it together with its neighbours by naming fewer axes in planes (now {letters!r})"
    raise InputError(f"{image.name}: {where} has no known pixel left to fill it from{hint}")


def _transparent(image: Image, index: tuple[Any, ...], layout: Layout) -> np.ndarray:
    """Pixels of a box whose alpha is 0: nothing is shown there, so nothing is known. (1, *spatial)."""
    if not image.alpha:
        return np.zeros(1, bool)
    alpha = np.asarray(image.data[(*index[:-1], slice(-1, None))])
    return to_canvas(alpha == 0, layout)[:1]


def _cost(region: Region, recipe: Inpaint) -> float:
    """Rough relative time of a region, for the progress bar."""
    return 1.0 + (0.05 * recipe.steps if region.deep else 0.0)


@dataclass(frozen=True)
class _Hole:
    """A region whose smooth start lies in the output: what else its fill needs.

    Attributes
    ----------
    plane : tuple of int
    region : Region
    stage : str
        Which one it is, in words.
    index : tuple
        Of its box in the image's array.
    missing, known : ndarray of bool, shape (C, *spatial)
        To be filled somehow; fit to learn from.
    target : ndarray of bool, shape (*spatial)
        Pixels that this region fills.
    values : ndarray, shape (C, *spatial)
        Standardised by `centre` and `spread`, shape (C,).
    start, doubt : ndarray, shape (C, *spatial)
        The smooth start and its expected error.
    restless : ndarray, shape (n,)
        See `restlessness`.
    levelled : float
        See `start_steps`.
    """

    plane: tuple[int, ...]
    region: Region
    stage: str
    index: tuple[Any, ...]
    missing: np.ndarray
    known: np.ndarray
    target: np.ndarray
    values: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    start: np.ndarray
    doubt: np.ndarray
    restless: np.ndarray
    levelled: float

    def key(self, run: Run[Inpaint]) -> str:
        """What the random numbers of this region are drawn by."""
        box = [(s.start, s.stop) for s in self.region.box]
        return f"{whole_plane(run.image, run.layout, self.plane)}{box}"


def _fill_regions(
    run: Run[Inpaint],
    hole: np.ndarray,
    jobs: list[Job],
    stages: list[str],
    device: torch.device | None,
    previews: bool,
) -> Generator[Event, None, None]:
    """Fill regions, those that the knitwork fits some at a time.

    Parameters
    ----------
    run : Run
    hole : ndarray of bool
        Shape of the image.
    jobs : list of (plane, Region, deep)
    stages : list of str
        What each of them is called.
    device : torch.device or None
        None where no region is deep.
    previews : bool
    """
    waiting: list[_Hole] = []
    for number, ((plane, region, deep), stage) in enumerate(zip(jobs, stages, strict=True), 1):
        begun = yield from _start_region(run, hole, plane, region, deep, stage, previews)
        run.done += 1.0
        if begun is None:
            run.done += _cost(region, run.recipe) - 1
        else:
            waiting.append(begun)
        if waiting:
            from knitcore.fit import most_together

            assert device is not None
            held = sum(one.values.size for one in waiting)
            channels, dimensions = len(waiting[0].values), waiting[0].target.ndim
            most = most_together(run.recipe, channels, dimensions, device)
            # only what is fitted together is held: an image may have any number of holes
            if len(waiting) >= most or held >= MOST_VALUES or number == len(jobs):
                yield from _knit_regions(run, waiting, device, previews)
                waiting = []


def _start_region(
    run: Run[Inpaint],
    hole: np.ndarray,
    plane: tuple[int, ...],
    region: Region,
    deep: np.ndarray,
    stage: str,
    previews: bool,
) -> Generator[Event, None, _Hole | None]:
    """Fill a region smoothly; returned if a knitwork is to be fitted, too."""
    recipe, layout = run.recipe, run.layout
    whole = tuple(slice(0, run.image.shape[a]) for a in layout.spatial)
    index = box_index(run.image, layout, plane, region.box)
    raw = np.asarray(run.image.data[index])
    missing = to_canvas(hole[index], layout)
    unknown = missing | _transparent(run.image, index, layout)
    if unknown.reshape(len(unknown), -1).all(1).any():
        if region.box == whole:
            raise InputError(
                f"{run.image.name}: all pixels that are not to be filled are transparent"
            )
        region = replace(region, box=whole)  # no channel may be left without anything to go by
        return (yield from _start_region(run, hole, plane, region, deep, stage, previews))
    inner = np.zeros(missing.shape[1:], bool)
    inner[
        tuple(
            slice(i.start - b.start, i.stop - b.start)
            for i, b in zip(region.inner, region.box, strict=True)
        )
    ] = True
    # deep and shallow pixels of one box are filled by different regions
    target = missing.any(0) & inner & (deep[region.box] == region.deep)
    known = ~unknown
    values, centre, spread = standardise(
        to_canvas(raw, layout), known, recipe, joint=run.image.axes.endswith("S")
    )
    restless = restlessness(values, known, target, layout.step)

    clock = time.monotonic()
    solving = start_steps(values, known, target, layout.step, recipe)
    yield run.progress(f"{stage}: {recipe.start} start" if recipe.start != "none" else stage)
    start, doubt, levelled = yield from relayed(
        solving, lambda part: run.progress(f"{stage}: {recipe.start} start", part)
    )
    run.seconds["start"] += time.monotonic() - clock
    begun = _Hole(
        plane=plane,
        region=region,
        stage=stage,
        index=index,
        missing=missing,
        known=known,
        target=target,
        values=values,
        centre=centre,
        spread=spread,
        start=start,
        doubt=doubt,
        restless=restless,
        levelled=levelled,
    )
    _paste(run, begun, start, doubt)
    if previews:
        yield _preview(run, begun)
    alone = recipe.start_weight == 1 and recipe.fill == "mean" and not recipe.look_alikes
    return begun if region.deep and known.any() and not alone else None


def _paste(
    run: Run[Inpaint],
    one: _Hole,
    fill: np.ndarray,
    error: np.ndarray,
    guess: np.ndarray | None = None,
) -> None:
    """Put standardised values (C, *spatial) at a region's target, and their errors, into the output.

    The error, that of the best guess, follows its slopes: it is the fill itself, unless that is a sample of
    texture.
    """
    layout, where = run.layout, one.target & one.missing
    scale = one.spread.reshape((-1,) + (1,) * one.target.ndim)
    grey = fill * scale + one.centre.reshape(scale.shape)
    # what other regions fill is unknown here, or the order of regions would count
    seen = one.known | one.target
    guess = fill if guess is None else guess
    slopes = steepness(np.where(one.known, one.values, guess), seen, one.target, layout.step)
    error = error.copy()
    # an error that follows the level of the values is large where there are slopes, as it is
    shape = (one.restless * slopes) ** (1 - one.levelled)
    error[:, one.target] *= root_mean_square_one(shape)  # its size stays, or grows
    error = np.hypot(error, fill - guess)  # a sample is off by its own wandering as well
    for c in range(len(error)):
        span = np.ptp(one.values[c][one.known[c]]) if one.known[c].any() else 0.0
        if span > 0:  # as far off as that nothing can be
            error[c] = np.minimum(error[c], span)
    for array, values in ((run.out, grey), (run.std, error * scale)):
        old = array[one.index]
        box = to_canvas(old, layout).copy()
        box[where] = to_dtype(values[where], box.dtype) if array is run.out else values[where]
        array[one.index] = from_canvas(box, old.shape, layout)


def _preview(run: Run[Inpaint], one: _Hole) -> Preview:
    return Preview(one.index, run.out[one.index].copy())


def _knit_regions(
    run: Run[Inpaint], holes: list[_Hole], device: torch.device, previews: bool
) -> Generator[Event, None, None]:
    """Fit knitworks to regions side by side and mix them into their starts."""
    from knitcore.fit import Target, fit_regions

    recipe, layout = run.recipe, run.layout
    targets = []
    for one in holes:
        models = (
            fit_variograms(one.values, one.known, layout.step, (1.0,)) if recipe.directed else []
        )
        targets.append(
            Target(
                values=one.values.astype(np.float32),
                weight=one.known.astype(np.float32),
                want=one.target,
                step=layout.step,
                key=one.key(run),
                directions=models[0].directions(DIRECTION_LAG) if models else (),
            )
        )
        yield run.progress(f"{one.stage}: directions")
    stage = holes[0].stage + (f" and {len(holes) - 1} more" if len(holes) > 1 else "")
    costs = [_cost(one.region, recipe) - 1 for one in holes]
    clock = time.monotonic()
    if run.shared is None:
        fit = fit_regions(targets, recipe, device, previews)
    else:
        fit = run.shared.fit(targets, recipe, device, previews, run.held or run.out.size)
    try:
        while True:
            try:
                states = next(fit)
            except StopIteration as end:
                states = end.value
                break
            for one, state in zip(holes, states, strict=True):
                if state.members is not None:
                    mixed = mix_members(one.start, one.doubt, state.members, one.target, recipe)
                    _paste(run, one, *mixed[:2])
                    yield _preview(run, one)
            spent = sum(cost * state.done for cost, state in zip(costs, states, strict=True))
            yield run.progress(f"{stage}: fit", spent, _mean_losses(states))
    finally:
        fit.close()
    took = time.monotonic() - clock
    if run.shared is not None:
        own = min(took, sum(state.seconds for state in states))
        run.waited += took - own
        took = own
    run.seconds["fit"] += took
    run.done += sum(costs)
    for one, state in zip(holes, states, strict=True):
        yield from _finish_region(run, one, state, previews)


def _mean_losses(states: list[Fitted]) -> dict[str, float]:
    told = [state.losses for state in states if state.losses]
    return {name: float(np.mean([one[name] for one in told])) for name in (told or [{}])[0]}


def _finish_region(
    run: Run[Inpaint], one: _Hole, state: Fitted, previews: bool
) -> Generator[Event, None, None]:
    """Mix what was fitted into a region's start, with look-alikes or texture where asked for."""
    recipe, stage, key = run.recipe, one.stage, one.key(run)
    run.losses.append(state.losses)
    run.restarts += state.restarts
    run.parameters = state.parameters
    if state.restarts:
        yield run.note(f"{stage}: restarted {state.restarts} times with a lower rate", "warning")
    assert state.members is not None
    fill, error, strays = mix_members(one.start, one.doubt, state.members, one.target, recipe)
    if strays:
        yield run.note(
            f"{stage}: {strays} of {recipe.ensemble} members strayed from the start and were dropped",
            "warning" if strays == recipe.ensemble else "info",
        )
    if run.look_alikes:
        clock = time.monotonic()
        asking = look_alike_steps(one.values, one.known, one.target, fill, (recipe.seed, key))
        alike = yield from relayed(asking, lambda _: run.progress(f"{stage}: look-alikes"))
        fill = fill + run.look_alikes * (alike - fill)
        run.seconds["look-alikes"] += time.monotonic() - clock
    guess = fill
    if recipe.fill == "texture":
        clock = time.monotonic()
        numbers = random_numbers(recipe.seed, key)
        weaving = texture_steps(one.values, one.known, one.target, guess, numbers)
        fill = yield from relayed(weaving, lambda _: run.progress(f"{stage}: texture"))
        run.seconds["texture"] = run.seconds.get("texture", 0.0) + time.monotonic() - clock
    _paste(run, one, fill, error, guess)
    if previews:
        yield _preview(run, one)
