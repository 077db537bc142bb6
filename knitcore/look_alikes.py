"""What look-alike patches say about a mean fill, and how much of it to believe.

The mean of several textured fills (`knitcore.texture`) is a guess of its own: good where the surroundings
repeat, bad where they do not. How good it is for this image is asked at held-out holes, where the truth
is known: the share that would have been best there is taken for the holes themselves.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial

import numpy as np

from knitcore.events import relayed
from knitcore.filling import standardise, start_steps
from knitcore.recipe import Inpaint
from knitcore.texture import random_numbers, texture_steps
from knitcore.validation import Job, Plane, held_out_holes

GUIDES = (0.1, 0.3, 0.6, 1.0)  # one textured fill each: from free to bound to the mean fill
ASKED = (0.1, 0.6)  # of these at the held-out holes
MOST = 0.8  # share at most: the held-out holes are few


def look_alike_steps(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    fill: np.ndarray,
    key: tuple[int, str],
    guides: tuple[float, ...] = GUIDES,
) -> Generator[float, None, np.ndarray]:
    """Mean of textured fills.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    target : ndarray of bool, shape (*spatial)
    fill : ndarray, shape (C, *spatial)
        The mean fill they start from.
    key : (int, str)
        Seed and name that decide the random numbers.
    guides : tuple of float
        See `texture_steps`.

    Yields
    ------
    float
        Share done.

    Returns
    -------
    ndarray, shape (C, *spatial)
    """
    total = np.zeros(fill.shape)
    for number, guide in enumerate(guides):
        random = random_numbers(key[0], f"{key[1]} {guide}")
        weaving = texture_steps(values, known, target, fill, random, guide)
        total += yield from relayed(weaving, partial(_share, number, len(guides)))
    return total / len(guides)


def look_alike_share_steps(
    plane_of: Plane, jobs: list[Job], step: tuple[float, ...], recipe: Inpaint, joint: bool
) -> Generator[float, None, float]:
    """Share of the look-alikes in the fill that would have been best at held-out holes.

    For a start s, look-alikes p and truth t the squared error of s + w (p - s), each hole's in units of
    that of s alone, is least at w = sum (s - t)(s - p) / sum (s - p)^2.

    Parameters
    ----------
    plane_of : callable
        Plane -> values and unknown pixels, both of shape (C, *spatial).
    jobs : list of (plane, region, deep)
        The regions of the fill; only deep ones count.
    step : tuple of float
        Relative pixel size along each spatial axis.
    recipe : Inpaint
    joint : bool
        As for `standardise`.

    Yields
    ------
    float
        Share done.

    Returns
    -------
    float
        0 to `MOST`; 0 where no place is large enough to ask at.
    """
    held, _ = held_out_holes(plane_of, [job for job in jobs if job[1].deep])
    along = apart = 0.0
    for number, one in enumerate(held):
        values, unknown = plane_of(one.plane)
        around = one.surroundings(recipe, unknown.shape[1:])
        place = one.within(around)
        canvas = values[(slice(None), *around)]
        measured = np.broadcast_to(~unknown[(slice(None), *around)], canvas.shape)
        known = measured.copy()
        known[(slice(None), *place)] &= ~one.hidden
        target = np.zeros(known.shape[1:], bool)
        target[place] = one.hidden.any(0)
        truth = measured[:, target]
        scaled, centre, spread = standardise(canvas, known, recipe, joint)
        shape = (-1,) + (1,) * target.ndim
        true = ((canvas - centre.reshape(shape)) / spread.reshape(shape))[:, target]
        solving = start_steps(scaled, known, target, step, recipe)
        start, *_ = yield from relayed(solving, partial(_share, 2 * number, 2 * len(held)))
        key = (recipe.seed, f"held-out {one.plane} {[s.start for s in one.box]}")
        asking = look_alike_steps(scaled, known, target, start, key, ASKED)
        woven = yield from relayed(asking, partial(_share, 2 * number + 1, 2 * len(held)))
        error = np.where(truth, start[:, target] - true, 0.0)
        change = np.where(truth, start[:, target] - woven[:, target], 0.0)
        size = float((error**2).sum())
        if size > 1e-12 and np.isfinite(size):
            along += float((error * change).sum()) / size
            apart += float((change**2).sum()) / size
    return float(np.clip(along / apart, 0.0, MOST)) if apart > 1e-12 else 0.0


def _share(done: int, total: int, part: float) -> float:
    """Share done of `total` equal pieces, when `done` and a part of one more are over."""
    return (done + part) / total
