"""Expected error of a fill, from held-out holes: its own holes' shapes, moved to where the truth is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_cdt, find_objects, label

from knitcore.metrics import grey_range
from knitcore.plan import Region
from knitcore.recipe import Inpaint

DRAWS = 24  # draws of a filled pixel; the holes they fall into are held out elsewhere
DEEP_HOLES = 6  # at most as many held-out holes that need a fit, or one for each deep hole drawn
RING = 4  # pixels round a hole by which places are compared
WINDOW = 2**21  # most pixels that are searched for places round a hole
LACK = 0.1  # part of a held-out hole that may be missing itself, if there is no better place
LEAST_SHARE = 0.5  # a figure must stand for so much of what was filled
GAP = 3  # pixels between a held-out hole and what is missing, where there is room

Job = tuple[tuple[int, ...], Region, np.ndarray]
Plane = Callable[[tuple[int, ...]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class HeldOut:
    """A hole's shape at a place where all is known.

    Attributes
    ----------
    plane : tuple of int
    box : tuple of slice
        Along the spatial axes.
    hidden : ndarray of bool, shape (C, *box)
    depth : float
        Of the region the hole belongs to, in pixels.
    share : float
        Of the filled pixels, those it stands for.
    """

    plane: tuple[int, ...]
    box: tuple[slice, ...]
    hidden: np.ndarray
    depth: float
    share: float

    def surroundings(self, recipe: Inpaint, sides: tuple[int, ...]) -> tuple[slice, ...]:
        """The box, in an image of these sides, that the recipe fits round such a hole."""
        reach = math.ceil(max(recipe.margin, recipe.margin_factor * self.depth)) + 1
        return tuple(
            slice(max(0, s.start - reach), min(n, s.stop + reach))
            for s, n in zip(self.box, sides, strict=True)
        )

    def within(self, around: tuple[slice, ...]) -> tuple[slice, ...]:
        """Its box, counted from the corner of another one."""
        return tuple(
            slice(s.start - a.start, s.stop - a.start)
            for s, a in zip(self.box, around, strict=True)
        )


def held_out_holes(plane_of: Plane, jobs: list[Job]) -> tuple[list[HeldOut], float]:
    """Choose holes of a fill, drawn by their area, and places for their shapes.

    Parameters
    ----------
    plane_of : callable
        Plane -> values and unknown pixels, both of shape (C, *spatial).
    jobs : list of (plane, region, deep)
        The regions of the fill.

    Returns
    -------
    holes : list of HeldOut
    share : float
        Of the filled pixels, those for whose hole a place was found, by the draws.
    """
    parts: list[tuple[Job, tuple[slice, ...], np.ndarray, int]] = []
    last: Any = None
    for job in jobs:
        plane, region, deep = job
        if plane != last:
            missing, last = np.asarray(plane_of(plane)[1].any(0)), plane
        own = missing[region.inner] & (deep[region.inner] == region.deep)
        labels, _ = label(own, structure=np.ones((3,) * own.ndim))
        for number, box in enumerate(find_objects(labels), 1):
            shape = labels[box] == number
            place = tuple(
                slice(i.start + b.start, i.start + b.stop)
                for i, b in zip(region.inner, box, strict=True)
            )
            parts.append((job, place, shape, int(shape.sum())))
    if not parts:
        return [], 0.0
    sums = np.cumsum([size for *_, size in parts])
    draws = (np.arange(DRAWS) + 0.5) / DRAWS * sums[-1]
    drawn = Counter(int(k) for k in np.searchsorted(sums, draws, side="right"))
    holes: list[HeldOut] = []
    found = 0.0
    for number, times in sorted(drawn.items()):
        (plane, region, _), place, shape, _ = parts[number]
        count = max(1, times * DEEP_HOLES // DRAWS) if region.deep else times
        values, unknown = plane_of(plane)
        mine = [hole.box for hole in holes if hole.plane == plane]
        boxes = _places(values, unknown, place, shape, count, mine)
        hidden = unknown[(slice(None), *place)] & shape
        holes += [
            HeldOut(
                plane,
                box,
                hidden & ~unknown[(slice(None), *box)],
                min(region.depth, 1e3),
                times / DRAWS / len(boxes),
            )
            for box in boxes
        ]
        found += times / DRAWS if boxes else 0.0
    return holes, found


def _places(
    values: np.ndarray,
    unknown: np.ndarray,
    place: tuple[slice, ...],
    shape: np.ndarray,
    count: int,
    taken: list[tuple[slice, ...]],
) -> list[tuple[slice, ...]]:
    """Up to `count` boxes, near the hole and with alike surroundings, where nothing is missing."""
    from scipy.signal import fftconvolve  # it imports all of scipy.stats: a third of a second

    spatial = unknown.shape[1:]
    window = _window(place, spatial)
    here = tuple(
        slice(p.start - w.start, p.stop - w.start) for p, w in zip(place, window, strict=True)
    )
    seen = values[(slice(None), *window)].astype(np.float64)
    lost = unknown[(slice(None), *window)]
    known = ~lost.any(0)
    pad = [(RING, RING)] * shape.ndim
    hole = np.pad(shape, pad)
    ring = binary_dilation(hole, np.ones((3,) * hole.ndim), RING) & ~hole
    energy, spread = _texture(seen, ~lost)

    def over(weight: np.ndarray, where: np.ndarray) -> np.ndarray:
        # the sum under the ring, for each place of its box; beyond the border there is nothing
        flipped = np.flip(ring).astype(float)
        return fftconvolve(np.pad(np.where(where, weight, 0.0), pad), flipped, "valid")

    inside = known & np.isfinite(energy)
    ones = np.maximum(over(np.ones(known.shape), inside), 0.0)
    enough = ones > 0.25 * ring.sum()
    tiny = 1e-6 * max(float(energy[inside].mean()) if inside.any() else 1.0, 1e-12)
    marks = [
        np.log(np.maximum(over(mark, inside), 0) / np.maximum(ones, 1) + tiny)
        for mark in (energy, spread)
    ]
    at = tuple(s.start for s in here)
    unlike = sum(np.abs(mark - mark[at]) for mark in marks)
    sides = np.array(shape.shape)
    grid = np.indices(ones.shape)
    shift = np.stack([g - a for g, a in zip(grid, at, strict=True)])
    far = np.sqrt(((shift / max(sides.max(), 16)) ** 2).sum(0))
    score = unlike + 0.1 * far
    # what lies at the image's border has known pixels on one side only: it is moved along the border,
    # and what does not stays off it
    kept = []
    for s, p, n in zip(shift, place, spatial, strict=True):
        if p.start == 0 or p.stop == n:
            kept.append(s == 0)
        else:
            kept.append((p.start + s > 0) & (p.stop + s < n))
    along = np.logical_and.reduce(kept)
    # a lost frame finds no other without a lost pixel: at worst a few of the shape are missing there
    for gap, lack in ((GAP, 0.0), (1, 0.0), (0, LACK)):
        near = ~known
        if gap and near.any():
            near = distance_transform_cdt(known, "chessboard") <= gap
        blocked = fftconvolve(near.astype(float), np.flip(shape).astype(float), "valid")
        open_ = (blocked < lack * shape.sum() + 0.5) & enough & along
        boxes = _best(np.where(open_, score, np.inf), sides, count, window, taken)
        if boxes:
            return boxes
    return []


def _best(
    score: np.ndarray,
    sides: np.ndarray,
    count: int,
    window: tuple[slice, ...],
    taken: list[tuple[slice, ...]],
) -> list[tuple[slice, ...]]:
    """The places of lowest score whose boxes do not overlap."""

    def close(start: np.ndarray, stop: np.ndarray) -> None:
        low = np.maximum(start - sides + 1, 0)
        score[tuple(slice(a, max(a, b)) for a, b in zip(low, stop, strict=True))] = np.inf

    origin = np.array([w.start for w in window])
    for box in taken:
        close(
            np.array([s.start for s in box]) - origin,
            np.maximum(np.array([s.stop for s in box]) - origin, 0),
        )
    boxes: list[tuple[slice, ...]] = []
    while len(boxes) < count:
        best = np.array(np.unravel_index(int(score.argmin()), score.shape))
        if not np.isfinite(score[tuple(best)]):
            break
        boxes.append(
            tuple(slice(int(a), int(a + n)) for a, n in zip(best + origin, sides, strict=True))
        )
        close(best, best + sides)
    return boxes


def _window(place: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Box round a hole in which places are looked for."""
    reach = max(128, 3 * max(p.stop - p.start for p in place))
    while True:
        window = tuple(
            slice(max(0, p.start - reach), min(n, p.stop + reach))
            for p, n in zip(place, shape, strict=True)
        )
        if reach <= 8 or math.prod(s.stop - s.start for s in window) <= WINDOW:
            return window
        reach = reach * 2 // 3


def _texture(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared gradient and squared distance from the mean, each channel by its variance.

    Shapes (*spatial); NaN where a difference has an unknown side.
    """
    energy, spread = np.zeros(values.shape[1:]), np.zeros(values.shape[1:])
    for channel, seen in zip(values, known, strict=True):
        if not seen.any():
            continue
        # held back, so that a hot pixel is not all there is
        low, high = np.percentile(channel[seen], (0.5, 99.5))
        z = np.where(seen, np.clip(channel, low, high), np.nan)
        variance = max(float(np.nanvar(z)), 1e-12)
        for axis in range(z.ndim):
            if z.shape[axis] > 1:
                energy += np.diff(z, axis=axis, append=np.take(z, [-1], axis)) ** 2 / variance
        spread += (z - np.nanmean(z)) ** 2 / variance
    return energy, np.nan_to_num(spread)


def validation_figures(
    errors: list[np.ndarray],
    stds: list[np.ndarray],
    hidden: list[np.ndarray],
    shares: list[float],
    truth: np.ndarray,
) -> dict[str, Any]:
    """Sum up the errors at held-out holes.

    Parameters
    ----------
    errors, stds : list of ndarray, shape (C, *box)
        Fill minus truth, and its std, in grey levels.
    hidden : list of ndarray of bool, shape (C, *box)
        Which of these pixels were held out.
    shares : list of float
        Weight of each hole.
    truth : ndarray
        Known values of the image, for the range of the PSNR.

    Returns
    -------
    dict
        holes, rmse, mae, psnr (dB), within_2_std, rmse_of_holes, and rmse_of_channels where there
        are several. `psnr` is None where there is no error or no range.
    """
    weight = np.array(shares) / sum(shares)
    pairs = [(e[h], s[h]) for e, s, h in zip(errors, stds, hidden, strict=True)]
    squares = np.array([np.mean(e**2) for e, _ in pairs])
    rmse = float(np.sqrt(weight @ squares))
    peak = grey_range(truth)
    figures: dict[str, Any] = {
        "holes": len(pairs),
        "pixels": int(sum(h.any(0).sum() for h in hidden)),
        "rmse": rmse,
        "mae": float(weight @ [np.mean(np.abs(e)) for e, _ in pairs]),
        "psnr": 20 * math.log10(peak / rmse) if rmse > 0 and peak > 0 else None,
        "within_2_std": min(1.0, float(weight @ [np.mean(np.abs(e) <= 2 * s) for e, s in pairs])),
        "rmse_of_holes": [float(v) for v in np.sqrt(squares)],
    }
    if len(hidden[0]) > 1:
        rows = []
        for c in range(len(hidden[0])):
            own = [
                (w, np.mean(e[c][h[c]] ** 2))
                for w, e, h in zip(weight, errors, hidden, strict=True)
                if h[c].any()
            ]
            total = sum(w for w, _ in own)
            rows.append(math.sqrt(sum(w * v for w, v in own) / total) if own else None)
        figures["rmse_of_channels"] = rows
    return figures
