"""What goes into a hole: values made alike, a smooth start, and the members' share of the result."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from knitcore.harmonic import harmonic_fill
from knitcore.kriging import kriging_steps
from knitcore.recipe import Inpaint

STRAY = 2.0  # a member whose fill is this many expected errors off the start is dropped
RIM = 2.0  # known pixels so near a hole tell how restless each part of it is
MAX_RIM = 2000  # of them at most: bounds the time
SLOPE_POWER = 0.15  # of the fill's slopes in the expected error


def standardise(
    canvas: np.ndarray, known: np.ndarray, recipe: Inpaint, joint: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a box with centre 0 and spread 1, extremes held back.

    A hot pixel of 60 000 among signals below 100 would otherwise be all that the fit sees: values
    beyond the 0.5 and 99.5 percentiles by more than twice their distance are clipped, for the fit.

    Parameters
    ----------
    canvas, known : ndarray, shape (C, *spatial)
    recipe : Inpaint
        With a sigmoid output, values are brought into 0..1 instead.
    joint : bool
        One spread for all channels (colour), or one each.

    Returns
    -------
    values : ndarray of float64, shape (C, *spatial)
        0 where unknown.
    centre, spread : ndarray, shape (C,)
        ``canvas = values * spread + centre``.
    """
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
        if recipe.network_output == "sigmoid":
            centre[c], spread[c] = seen.min(), np.ptp(seen)
        else:
            centre[c], spread[c] = seen.mean(), seen.std()
    if joint:
        spread[:] = (
            spread.max() if recipe.network_output == "sigmoid" else np.sqrt((spread**2).mean())
        )
    spread[spread <= 0] = 1.0
    shape = (-1,) + (1,) * (canvas.ndim - 1)
    values = np.where(known, (values - centre.reshape(shape)) / spread.reshape(shape), 0.0)
    return values, centre, spread


def start_steps(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    step: tuple[float, ...],
    recipe: Inpaint,
) -> Generator[Any, None, tuple[np.ndarray, np.ndarray, float]]:
    """Smooth fill and its expected error.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    target : ndarray of bool, shape (*spatial)
    step : tuple of float
        Relative pixel size along each spatial axis.
    recipe : Inpaint

    Yields
    ------
    float
        Share done.

    Returns
    -------
    fill, doubt : ndarray, shape (C, *spatial)
        The doubt is 0 where the start has no estimate of its error.
    levelled : float
        How far the doubt already follows the level of the values, from 0 to 1; see `kriging_steps`.
    """
    if recipe.start == "kriging":
        fill, doubt, levelled = yield from kriging_steps(values, known, target, step)
    elif recipe.start == "harmonic":
        fill, doubt, levelled = harmonic_fill(values, known, target), np.zeros(values.shape), 0.0
    else:
        return np.where(known, values, 0.0), np.zeros(values.shape), 0.0
    for c in range(len(values)):
        if known[c].any():
            fill[c] = np.clip(fill[c], values[c][known[c]].min(), values[c][known[c]].max())
    return fill, doubt, levelled


def mix_members(
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


def steepness(
    picture: np.ndarray, seen: np.ndarray, target: np.ndarray, step: tuple[float, ...]
) -> np.ndarray:
    """How the expected error is spread within a hole, by the slopes of what was drawn there.

    Where a fill runs from one side's grey to the other's, the place of the edge between them is a
    guess. The factor is the slope to the power 0.15, brought to a root mean square of 1 in each channel.
    The power was chosen on Set5 by rank correlation with the error, after `restlessness`.

    Parameters
    ----------
    picture, seen : ndarray, shape (C, *spatial)
        Known values and the fill, and where there is either: other pixels have no slope to tell.
    target : ndarray of bool, shape (*spatial)
    step : tuple of float
        Relative pixel size along each spatial axis.

    Returns
    -------
    ndarray, shape (C, n)
        A factor for each True pixel of the target.
    """
    square = np.zeros(picture.shape)
    for axis, size in enumerate(step, 1):
        one, two = _neighbours(axis, picture.ndim)
        both = seen[one] & seen[two]
        slope = np.where(both, (picture[one] - picture[two]) / size, 0.0)
        total, count = np.zeros(picture.shape), np.zeros(picture.shape)
        for side in (one, two):
            total[side] += slope
            count[side] += both
        square += (total / np.maximum(count, 1)) ** 2
    slopes = np.sqrt(square[:, target])
    top = slopes.max(1, keepdims=True, initial=0.0)
    factor = np.where(top > 1e-10, slopes + 1e-3 * top, 1.0) ** SLOPE_POWER
    return root_mean_square_one(factor)


def root_mean_square_one(factor: np.ndarray) -> np.ndarray:
    """Factors (..., n) whose squares have a mean of 1 along the last axis."""
    return factor / np.sqrt((factor**2).mean(-1, keepdims=True)) if factor.size else factor


def _neighbours(axis: int, dimensions: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices of all pixels that have one before them along an axis, and of those before them."""
    ahead, behind = [slice(None)] * dimensions, [slice(None)] * dimensions
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    return tuple(ahead), tuple(behind)


def restlessness(
    values: np.ndarray, known: np.ndarray, target: np.ndarray, step: tuple[float, ...]
) -> np.ndarray:
    """How the expected error is spread within a hole, by what its rim shows nearby.

    A variogram holds for a whole region: it gives a hole between sky and twigs one error all over.
    Here each pixel looks at the rim with weights 1 / distance^2, and takes the mean squared difference
    e of neighbours there and the variance v of the values there, large where the sides of the hole
    disagree. The factor is (e v)^(1/4), brought to a root mean square of 1, so that the size of the
    error stays the variogram's. Powers and rim were chosen on Set5 by rank correlation with the error.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    target : ndarray of bool, shape (*spatial)
    step : tuple of float
        Relative pixel size along each spatial axis.

    Returns
    -------
    ndarray, shape (n,)
        A factor for each True pixel of the target; 1 where the rim tells nothing.
    """
    plain = np.ones(int(target.sum()))
    seen = np.asarray(known.all(0))
    rim = seen & (distance_transform_edt(~target) <= RIM)
    places = np.argwhere(rim)
    places = places[:: -(-len(places) // MAX_RIM) or 1]
    if len(places) < 2 or not len(plain):
        return plain
    energy = np.zeros(target.shape)
    for axis in range(target.ndim):
        one, two = _neighbours(axis, target.ndim)
        square = ((values[(slice(None), *one)] - values[(slice(None), *two)]) ** 2).mean(0)
        square = np.where(seen[one] & seen[two], square, 0.0)
        energy[one] += square
        energy[two] += square
    at: tuple[Any, ...] = tuple(places.T)
    rows = np.stack([energy[at], *values[(slice(None), *at)], *values[(slice(None), *at)] ** 2])
    wanted = np.argwhere(target) * step
    scaled = places * np.array(step)
    means = np.empty((len(rows), len(wanted)))
    for start in range(0, len(wanted), 2048):
        part = slice(start, start + 2048)
        # |a - b|^2 = |a|^2 - 2 a.b + |b|^2
        square = (wanted[part] ** 2).sum(1)[:, None] + (scaled**2).sum(1)
        square -= 2 * wanted[part] @ scaled.T
        weight = 1 / np.maximum(square, min(step) ** 2)
        means[:, part] = (rows @ weight.T) / weight.sum(1)
    half = 1 + len(values)
    variance = np.maximum(means[half:] - means[1:half] ** 2, 0.0).mean(0)
    product = means[0] * variance
    top = float(product.max())
    if not top > 1e-20:
        return plain
    return root_mean_square_one(np.maximum(product, 1e-4 * top) ** 0.25)
