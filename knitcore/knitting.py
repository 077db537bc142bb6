"""The article's knitwork on a whole canvas: all coordinates at once, for denoising and super-resolution."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from scipy.ndimage import map_coordinates

from knitcore.degradation import starting_kernel
from knitcore.events import Note, Stage
from knitcore.filling import standardise
from knitcore.fit import Coarse, Fitted, Target, fit_regions
from knitcore.noise_model import Denoised, Noise
from knitcore.recipe import Recipe
from knitcore.running import Canvas, Run
from knitcore.upscaling import Upscaled, consistency

ALONE = Note("one network alone knows no error: std is 0; set ensemble for an estimate")


def knit_denoised(
    canvas: Canvas, run: Run[Any], device: torch.device, colours: bool, previews: bool
) -> Generator[Stage, None, Denoised]:
    """Fit a knitwork to all pixels of a noisy canvas (article, 4.4).

    Parameters
    ----------
    canvas : Canvas
    run : Run
        Receives losses, restarts and parameters.
    device : torch.device
    colours : bool
        One spread for all channels.
    previews : bool

    Yields
    ------
    Stage

    Returns
    -------
    Denoised
    """
    everywhere = np.ones(canvas.values.shape, bool)
    values, centre, spread = standardise(canvas.values, everywhere, run.recipe, joint=colours)
    target = Target(
        values=values.astype(np.float32),
        weight=everywhere.astype(np.float32),
        want=everywhere[0],
        step=run.layout.step,
        key=canvas.key,
    )
    _, mean, std = yield from _fit(target, run, device, previews, centre, spread)
    shape = canvas.values.shape
    notes = [ALONE] if run.recipe.ensemble == 1 else []
    none = (0.0,) * len(canvas.values)
    noise = Noise("unknown", none, none, none)
    return Denoised(mean.reshape(shape), std.reshape(shape), noise, "none", notes)


def knit_enlarged(
    canvas: Canvas,
    factors: tuple[float, ...],
    kernel: Any,
    run: Run[Any],
    device: torch.device,
    colours: bool,
    previews: bool,
) -> Generator[Stage, None, Upscaled]:
    """Fit a knitwork and a deep linear degradation kernel to a coarse canvas (article, 4.3).

    The knitwork lives on a grid of whole factors and a margin of half a kernel; for other factors it
    is asked for its values at the coordinates between.

    Parameters
    ----------
    canvas : Canvas
    factors : tuple of float
    kernel : str or ndarray
        As for `knitcore.upscaling.upscale_steps`. Only "estimate" is fitted: it starts from the
        parametric estimate, and the linear network learns the rest.
    run : Run
    device : torch.device
    colours, previews : bool

    Yields
    ------
    Stage

    Returns
    -------
    Upscaled
    """
    yield Stage(0.0, "estimate the kernel")
    whole = tuple(math.ceil(factor) for factor in factors)
    anchor = run.recipe.anchor
    start, facts = starting_kernel(canvas.values, whole, factors, kernel, anchor)
    known = np.ones(canvas.values.shape, bool)
    values, centre, spread = standardise(canvas.values, known, run.recipe, joint=colours)
    learn = isinstance(kernel, str) and kernel == "estimate"
    centred = anchor == "centre"
    coarse = Coarse(values.astype(np.float32), whole, start, learn, centred)
    sides = tuple(
        n * s + 2 * m for n, s, m in zip(canvas.values.shape[1:], whole, coarse.margin, strict=True)
    )
    shape = tuple(
        max(1, math.floor(n * f + 0.5))
        for n, f in zip(canvas.values.shape[1:], factors, strict=True)
    )
    half = 0.5 if centred else 0.0
    places = [
        ((np.arange(n) + half) / f * s - half + m).astype(np.float32)
        for n, f, s, m in zip(shape, factors, whole, coarse.margin, strict=True)
    ]
    nothing = np.zeros((len(values), *sides), np.float32)
    target = Target(
        values=nothing,
        weight=nothing,
        want=np.ones(sides, bool),
        step=(1.0,) * len(sides),
        key=canvas.key,
        places=np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, len(sides)),
        coarse=coarse,
    )
    state, mean, std = yield from _fit(
        target, run, device, previews, centre, spread, (len(values), *shape)
    )
    assert state.kernel is not None
    found = state.kernel.mean(0).astype(np.float64)
    found = _on_output_grid(found, whole, factors)
    image = mean.reshape(len(values), *shape)
    residual = consistency(canvas.values, image, found, factors, anchor)
    notes = [ALONE] if run.recipe.ensemble == 1 else []
    return Upscaled(
        image=image,
        std=std.reshape(image.shape),
        kernel=found,
        kernel_parameters={**facts, "learned": learn},
        residual=residual,
        noise=0.0,
        notes=notes,
    )


def _on_output_grid(
    kernel: np.ndarray, whole: tuple[int, ...], factors: tuple[float, ...]
) -> np.ndarray:
    """A kernel on the grid of whole factors, on that of the output; its sum is 1."""
    if whole != factors:
        grids = []
        for side, s, f in zip(kernel.shape, whole, factors, strict=True):
            reach = math.ceil((side - 1) / 2 * f / s)
            steps = np.arange(-reach, reach + 1) if s != f else np.arange(side) - (side - 1) / 2
            grids.append(steps * s / f + (side - 1) / 2)
        kernel = map_coordinates(kernel, np.meshgrid(*grids, indexing="ij"), order=1)
    return kernel / kernel.sum()


def _fit(
    target: Target,
    run: Run[Recipe],
    device: torch.device,
    previews: bool,
    centre: np.ndarray,
    spread: np.ndarray,
    shape: tuple[int, ...] | None = None,
) -> Generator[Stage, None, tuple[Fitted, np.ndarray, np.ndarray]]:
    """Run the fit; mean and scatter of its members in grey levels, shape (C, n)."""
    shape = shape or target.values.shape

    def mean(members: np.ndarray) -> np.ndarray:
        return (members.mean(0) * spread[:, None] + centre[:, None]).astype(np.float32)

    fit = fit_regions([target], run.recipe, device, previews)
    try:
        while True:
            [state] = next(fit)
            shown = None if state.members is None else mean(state.members).reshape(shape)
            yield Stage(state.done, "fit", dict(state.losses), shown)
    except StopIteration as end:
        [state] = end.value
    finally:
        fit.close()
    run.losses.append(state.losses)
    run.restarts += state.restarts
    run.parameters = state.parameters
    assert state.members is not None
    scatter = state.members.std(0) * spread[:, None]
    return state, mean(state.members), scatter.astype(np.float32)
