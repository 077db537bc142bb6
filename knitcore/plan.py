"""Which pixels are filled together: holes become regions of bounded size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt, find_objects, label

from knitcore.recipe import Inpaint

SHALLOW_CELL = 64  # shallow holes are filled cell by cell on a grid of this side
DEEP_CELL = 96  # least side of the pieces a long deep hole is cut into


@dataclass(frozen=True)
class Region:
    """A box of the image, and the part of it that is filled from there.

    Attributes
    ----------
    box : tuple of slice
        Spatial box that is read: the hole and the known pixels round it.
    inner : tuple of slice
        Within the image as well; unknown pixels of this box (and this depth class) are filled.
    deep : bool
        True if the knitwork fits it, False if the start alone fills it.
    depth : float
        Largest distance of an unknown pixel from a known one, in pixels.
    """

    box: tuple[slice, ...]
    inner: tuple[slice, ...]
    deep: bool
    depth: float


def make_regions(hole: np.ndarray, recipe: Inpaint) -> tuple[list[Region], np.ndarray]:
    """Cut one plane's (or volume's) unknown pixels into regions.

    Parameters
    ----------
    hole : ndarray of bool, shape (*spatial)
    recipe : Inpaint

    Returns
    -------
    regions : list of Region
        Every unknown pixel belongs to at least one of them.
    deep : ndarray of bool, shape (*spatial)
        Unknown pixels that deep regions fill; shallow ones fill the rest.
    """
    if recipe.region == "image":
        whole = tuple(slice(0, n) for n in hole.shape)
        return [Region(whole, whole, True, math.inf)], hole.copy()
    # without a start there is nothing else to fill a shallow hole with
    least = recipe.knit_depth if recipe.start != "none" else 0.0
    labels, _ = label(hole, structure=np.ones((3,) * hole.ndim))
    deep = np.zeros_like(hole)
    found: list[Region] = []
    for number, box in enumerate(find_objects(labels), 1):
        sides = [s.stop - s.start for s in box]
        # the image border is not a known pixel: a hole that touches it is as deep as it is wide
        across = [
            side * (1 + (s.start == 0 or s.stop == n))
            for side, s, n in zip(sides, box, hole.shape, strict=True)
        ]
        if min(across) <= 2 * least:
            continue
        around = _grow(box, 1, hole.shape)
        start = [s.start for s in around]
        for part, own, depth in _deep_parts(labels[around] == number, least):
            margin = math.ceil(max(recipe.margin, recipe.margin_factor * depth))
            here = _shift(part, start)
            deep[here] |= own
            for piece in _cells(here, max(DEEP_CELL, 4 * math.ceil(depth))):
                inside = _shift(piece, [-s.start for s in here])
                tight = _tighten(own[inside], piece)
                if tight is not None:
                    found.append(Region(_grow(tight, margin, hole.shape), tight, True, depth))
    regions = _merge(found, recipe.max_region)
    margin = math.ceil(recipe.margin)
    shallow = hole & ~deep
    if shallow.any():
        for cell_box in _cells(tuple(slice(0, n) for n in hole.shape), SHALLOW_CELL):
            tight = _tighten(shallow[cell_box], cell_box)
            if tight is not None:
                regions.append(
                    Region(_grow(tight, margin, hole.shape), tight, False, recipe.knit_depth)
                )
    return regions, deep


def _deep_parts(
    hole: np.ndarray, least: float
) -> Iterator[tuple[tuple[slice, ...], np.ndarray, float]]:
    """Parts of one connected hole that are deeper than `least`, without the thin lines they hang on.

    A lost tile with seams to the image's edges is one tile, and seams: fitted apart, it is not cut
    into pieces along with them.

    Parameters
    ----------
    hole : ndarray of bool
        One connected hole, in a box that ends at a known pixel or at the image border.
    least : float
        In pixels.

    Yields
    ------
    box : tuple of slice
        Within `hole`.
    own : ndarray of bool
        The part's pixels in that box.
    depth : float
    """
    if hole.all():  # no known pixel in sight
        yield tuple(slice(0, n) for n in hole.shape), hole, float(max(hole.shape))
        return
    away = distance_transform_edt(hole)
    cores, _ = label(away > least, structure=np.ones((3,) * hole.ndim))
    for number, core in enumerate(find_objects(cores), 1):
        reach = math.ceil(2 * least) + 1
        box = _grow(core, reach, hole.shape)
        mine = cores[box] == number
        # the core was thinned by `least`: twice that, corners included, brings back all but lines
        own = hole[box] & (distance_transform_cdt(~mine, "chessboard") <= reach)
        yield box, own, float(away[core][cores[core] == number].max())


def _shift(box: tuple[slice, ...], by: list[int]) -> tuple[slice, ...]:
    return tuple(slice(s.start + b, s.stop + b) for s, b in zip(box, by, strict=True))


def _grow(box: tuple[slice, ...], by: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, s.start - by), min(n, s.stop + by)) for s, n in zip(box, shape, strict=True)
    )


def _cells(box: tuple[slice, ...], side: int) -> list[tuple[slice, ...]]:
    """Cut a box into pieces of about equal size, none wider than `side`."""
    cuts = []
    for s in box:
        count = max(1, math.ceil((s.stop - s.start) / side))
        edges = np.linspace(s.start, s.stop, count + 1).round().astype(int)
        cuts.append([slice(int(a), int(b)) for a, b in itertools.pairwise(edges)])
    return list(itertools.product(*cuts))


def _tighten(part: np.ndarray, box: tuple[slice, ...]) -> tuple[slice, ...] | None:
    """Smallest box round the True pixels of `part`, which lies at `box`; None if there are none."""
    found = find_objects(part.astype(np.uint8))
    if not found:
        return None
    return tuple(
        slice(s.start + f.start, s.start + f.stop) for s, f in zip(box, found[0], strict=True)
    )


def _volume(box: tuple[slice, ...]) -> int:
    return math.prod(s.stop - s.start for s in box)


def _join(a: tuple[slice, ...], b: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(min(s.start, t.start), max(s.stop, t.stop)) for s, t in zip(a, b, strict=True)
    )


def _overlap(a: tuple[slice, ...], b: tuple[slice, ...]) -> bool:
    return all(s.start < t.stop and t.start < s.stop for s, t in zip(a, b, strict=True))


def _merge(regions: list[Region], limit: int) -> list[Region]:
    """Join regions that overlap so far that one fit is no dearer than two, and no longer than a piece."""
    waiting, done = list(regions), []
    while waiting:
        region = waiting.pop()
        for other in waiting:
            box = _join(region.box, other.box)
            inner = _join(region.inner, other.inner)
            depth = max(region.depth, other.depth)
            parts = _volume(region.box) + _volume(other.box)
            short = max(s.stop - s.start for s in inner) <= max(DEEP_CELL, 4 * math.ceil(depth))
            cheap = _volume(box) <= min(limit, 1.1 * parts)
            if short and cheap and _overlap(region.box, other.box):
                waiting.remove(other)
                waiting.append(Region(box, inner, True, depth))
                break
        else:
            done.append(region)
    return done[::-1]
