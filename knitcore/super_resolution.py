"""Blind super-resolution: a finer image and the kernel that turns it into the one that was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import map_coordinates

from knitcore.axes import Image, Layout, as_image, check_kind, choose_layout, to_dtype
from knitcore.errors import InputError
from knitcore.events import CancelToken, Event, Stage, drain, until_cancelled
from knitcore.recipe import SuperResolve, make_recipe, with_fields
from knitcore.result import Result
from knitcore.running import (
    Canvas,
    Run,
    canvases,
    channels_together,
    refuse_unfit,
    saturation,
    with_rounding,
    work_through,
)

if TYPE_CHECKING:
    from knitcore.upscaling import Upscaled

GIVEN = "given"  # what a recipe says of a kernel that came as an array


def super_resolve(
    image: Any,
    scale: float | str | tuple[float, ...] | None = None,
    kernel: Any = None,
    recipe: SuperResolve | None = None,
    *,
    axes: str | None = None,
    on_event: Callable[[Event], Any] | None = None,
    cancel: CancelToken | None = None,
    **fields: Any,
) -> Result:
    """Enlarge one image, and find out by which kernel it lost its resolution.

    Output pixel i lies at input coordinate (i + 1/2) / scale - 1/2, so that both images cover the
    same place (with ``anchor="corner"`` at i / scale).

    Parameters
    ----------
    image : Image or array-like, shape (..., Y, X[, S])
        Any integer or float type but bool.
    scale : float, str or tuple of float, optional
        Factor from 1 to 8 for Y and X, or one for each of the last axes, such as "1x2x2" for ZYX.
        Default: the recipe's (2).
    kernel : str or array-like, optional
        "estimate" (the recipe's default), "delta", "gaussian:S" with the standard deviation in
        output pixels, an image file, or an array on the output's grid.
    recipe : SuperResolve, optional
        All settings; `fields` override single ones.
    axes : str, optional
        One letter an axis, such as "ZYX" or "YXS"; see `knitcore.as_image`.
    on_event : callable, optional
        Called with each `Progress` and `Note`.
    cancel : object with ``is_set()``, optional
        Such as `threading.Event`; looked at about ten times a second.
    **fields
        Fields of the recipe: ``seed=1``, ``channels="separate"``, ``device="cpu"``, ...

    Returns
    -------
    Result
        `image` in the input's dtype, enlarged; `kernel`; `std`, the expected error; and in
        ``record["residual"]`` what is left when the result is degraded by the kernel again.

    Raises
    ------
    InputError
        The image or kernel cannot be used.
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
    >>> wave = np.sin(np.arange(24) / 3)
    >>> image = (np.outer(wave, wave) * 100 + 128).astype(np.uint8)
    >>> result = knit.super_resolve(image, 2, kernel="gaussian:1")
    >>> result.image.shape, round(float(result.kernel.sum()), 3)
    ((48, 48), 1.0)
    """
    steps = super_resolve_steps(image, scale, kernel, recipe, axes=axes, cancel=cancel, **fields)
    return drain(steps, on_event)


def super_resolve_steps(
    image: Any,
    scale: float | str | tuple[float, ...] | None = None,
    kernel: Any = None,
    recipe: SuperResolve | None = None,
    *,
    axes: str | None = None,
    cancel: CancelToken | None = None,
    previews: bool = False,
    **fields: Any,
) -> Generator[Event, None, Result]:
    """`super_resolve` as a generator of events, for those who render progress themselves.

    Parameters
    ----------
    image, scale, kernel, recipe, axes, cancel, **fields
        As for `super_resolve`.
    previews : bool
        Also yield a `Preview` whenever there is a better picture to show. Its box is the result's.

    Yields
    ------
    Progress, Preview or Note

    Returns
    -------
    Result
    """
    if scale is not None:
        fields = {**fields, "scale": scale}
    values = None
    if isinstance(kernel, str):
        fields = {**fields, "kernel": kernel}
    elif kernel is not None:
        values = np.asarray(kernel.data if isinstance(kernel, Image) else kernel)
        if recipe is None or recipe.kernel in ("estimate", "delta"):
            fields = {**fields, "kernel": GIVEN}
    recipe = with_fields(recipe, fields) if recipe else make_recipe("super-resolve", **fields)
    work = _super_resolve(as_image(image, axes), recipe, values, previews)
    return (yield from until_cancelled(work, cancel))


def _super_resolve(
    source: Image, recipe: SuperResolve, values: np.ndarray | None, previews: bool
) -> Generator[Event, None, Result]:
    check_kind(source)
    layout, factors = enlargement(source, recipe.factors)
    refuse_unfit(source, layout, "super-resolution")
    if values is None:
        values = _kernel_file(recipe)
    if values is not None:
        values = _checked_kernel(values, len(factors), recipe.kernel)
    shape = list(source.shape)
    for axis, factor in zip(layout.spatial, factors, strict=True):
        shape[axis] = max(1, math.floor(source.shape[axis] * factor + 0.5))
    run = Run(
        image=source,
        recipe=recipe,
        layout=layout,
        out=np.zeros(shape, source.dtype.newbyteorder("=")),
        std=np.zeros(shape, np.float32),
    )
    if text := saturation(source):
        yield run.note(text)
    device = yield from run.choose_device(networks=recipe.method == "knitwork")
    from knitcore.upscaling import kernel_notes, upscale_steps

    joint = channels_together(source, recipe)
    colours = source.axes.endswith("S")
    found: list[Upscaled] = []
    places: list[dict[str, str]] = []

    facts: dict[str, Any] = {}
    if values is None and recipe.kernel == "estimate" and recipe.method == "posterior":
        values, facts = yield from _best_estimate(run, factors, joint)
        for note in kernel_notes(facts):
            yield run.note(note.text, note.level)

    def work(canvas: Canvas) -> Generator[Stage, None, Upscaled]:
        # one instrument, one kernel: what the first plane learned holds for the others
        kernel: Any = found[0].kernel if found else recipe.kernel if values is None else values
        if recipe.method == "knitwork":
            from knitcore.knitting import knit_enlarged

            return knit_enlarged(canvas, factors, kernel, run, device, colours, previews)
        return upscale_steps(
            canvas.values, factors, kernel, recipe, device, canvas.key, joint, run.cores
        )

    def paste(canvas: Canvas, done: Upscaled) -> tuple[np.ndarray, np.ndarray]:
        run.pass_on(done.notes, canvas)
        # the array would be kept for every plane: the result has it already
        found.append(replace(done, image=done.image[:0], std=done.std[:0]))
        places.append(canvas.where)
        return done.image, with_rounding(done.std, source.dtype)

    if source.alpha:
        half = 0.5 if recipe.anchor == "centre" else 0.0
        run.out[..., -1] = _enlarged_alpha(source, layout, factors, half, run.out.shape)
    yield from work_through(
        run, work, paste, joint=joint, fill=recipe.nan_as_hole, previews=previews
    )
    kernel = found[0].kernel
    record = run.record(
        device,
        output={"shape": list(run.out.shape)},
        kernel={
            "choice": recipe.kernel,
            **(facts or found[0].kernel_parameters),
            "sum": float(kernel.sum()),
            "values": kernel.tolist(),
        },
        residual=[
            {
                **place,
                "rms": [float(r) for r in np.atleast_1d(done.residual)],
                "noise": float(done.noise),
            }
            for place, done in zip(places, found, strict=True)
        ],
    )
    letters = [source.axes[a] for a in layout.spatial]
    return Result(
        run.out,
        np.ones(run.out.shape, bool),
        run.std,
        record,
        source,
        kernel=kernel,
        factors=dict(zip(letters, factors, strict=True)),
    )


def enlargement(image: Image, factors: tuple[float, ...]) -> tuple[Layout, tuple[float, ...]]:
    """Which axes grow, and by how much.

    Parameters
    ----------
    image : Image
    factors : tuple of float
        As `SuperResolve.factors`: one for Y and X, or one for each of the last axes but C and S.

    Returns
    -------
    layout : Layout
        Axes that do not grow are worked through plane by plane (but for Y and X).
    factors : tuple of float
        One a spatial axis of the layout.

    Raises
    ------
    InputError
        More factors than axes, or an axis that cannot grow.
    """
    free = [a for a in image.axes if a not in "CS"]
    free = [a for a in free if a not in "YX"] + ["Y", "X"]
    if len(factors) == 1:
        factors = factors * 2
    if len(factors) > len(free):
        raise InputError(
            f"{image.name}: {len(factors)} factors for {len(free)} axes ({''.join(free)})"
        )
    by_axis = dict(zip(free[len(free) - len(factors) :], factors, strict=True))
    if by_axis.get("T", 1.0) != 1.0:
        raise InputError(
            f"{image.name}: time (axis T) cannot be super-resolved; its factor must be 1"
        )
    looped = [a for a in free[:-2] if by_axis.get(a, 1.0) == 1.0]
    layout = choose_layout(image, None, "".join(looped) or "none")
    return layout, tuple(by_axis[image.axes[a]] for a in layout.spatial)


def _best_estimate(
    run: Run[SuperResolve], factors: tuple[float, ...], joint: bool
) -> Generator[Event, None, tuple[np.ndarray, dict[str, Any]]]:
    """The kernel as the plane with the most contrast tells it."""
    from knitcore.degradation import estimate_kernel

    best, most = None, -1.0
    for canvas, count in canvases(run.image, run.layout, joint, run.recipe.nan_as_hole):
        yield run.progress("estimate the kernel")
        contrast = float(canvas.values.std()) if count > 1 else 0.0
        if contrast > most:
            best, most = canvas.values, contrast
    assert best is not None
    kernel, facts, _ = estimate_kernel(best, factors, run.recipe.anchor)
    return kernel, facts


def _kernel_file(recipe: SuperResolve) -> np.ndarray | None:
    if not recipe.kernel_is_file:
        return None
    if recipe.kernel == GIVEN:
        raise InputError("the recipe's kernel was given as an array: give it again as `kernel`")
    from knitcore.files import read_image

    return np.asarray(read_image(recipe.kernel).data)


def _checked_kernel(values: np.ndarray, dimensions: int, name: str) -> np.ndarray:
    name = "kernel" if name == GIVEN else f"kernel {name}"
    values = np.squeeze(values) if values.ndim > dimensions else values
    # files leave out leading axes of one pixel
    values = values.reshape((1,) * (dimensions - values.ndim) + values.shape)
    if values.ndim != dimensions or values.dtype.kind not in "biuf":
        raise InputError(f"{name}: must have {dimensions} axes of numbers, has {values.ndim}")
    values = values.astype(np.float64)
    total = values.sum()
    if not np.isfinite(values).all() or not total > 0:
        raise InputError(f"{name}: its values must be finite, with a sum above 0")
    if max(values.shape) > 129:
        raise InputError(f"{name}: {values.shape} is too large; at most 129 pixels a side")
    return values / total


def _enlarged_alpha(
    source: Image,
    layout: Layout,
    factors: tuple[float, ...],
    half: float,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Transparency, interpolated linearly onto the output's pixels."""
    alpha = np.asarray(source.data[..., -1])
    grid = [np.arange(n, dtype=np.float64) for n in shape[:-1]]
    for axis, factor in zip(layout.spatial, factors, strict=True):
        grid[axis] = (grid[axis] + half) / factor - half
    places = np.meshgrid(*grid, indexing="ij")
    enlarged = map_coordinates(alpha.astype(np.float64), places, order=1, mode="nearest")
    return to_dtype(enlarged, source.dtype)
