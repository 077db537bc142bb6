"""A textured fill: the hole is woven from patches of its surroundings, coarse to fine.

The mean fill is the best guess of each pixel, and smoother than any texture. This is the other answer: a
picture with the surroundings' statistics. Every patch that touches the hole is replaced by the known
patch nearest to it, and overlapping ones are averaged; this is repeated at each level of a pyramid
(Wexler, Shechtman and Irani 2007, doi:10.1109/TPAMI.2007.60; Newson et al. 2017,
doi:10.5201/ipol.2017.189), with an exact search by matrix products. Averages are smooth again, so in the
end each pixel is a copy: of the known pixel that the most fitting patch over it puts there.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_erosion, maximum_filter, zoom

from knitcore.kriging import few_threads

SIDE = {1: 7, 2: 7, 3: 5}  # of a patch, by the number of axes
LEVELS = 3  # each has half the sides of the one below
ROUNDS = (4, 5, 8)  # of search and vote, from the finest level to the coarsest
NUMBERS = 24  # principal components that patches are compared by
MAX_KNOWN = 12_000  # known patches at most: bounds time and memory
GUIDE = 1.0
CHUNK = 1024  # patches searched for at once


def random_numbers(seed: int, key: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the region's name alone."""
    return np.random.default_rng([seed, *key.encode()])


def texture_steps(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    start: np.ndarray,
    random: np.random.Generator,
    guide: float = 0.3,
) -> Generator[float, None, np.ndarray]:
    """Weave the target from known patches.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    target : ndarray of bool, shape (*spatial)
        Pixels to be filled; others that are unknown are not touched, nor copied from.
    start : ndarray, shape (C, *spatial)
        The mean fill: what lies where is taken from it at the coarsest level.
    random : numpy.random.Generator
        Draws the known patches where there are more than `MAX_KNOWN`.

    guide : float
        Weight of the mean fill, in 0..1, in a first round from the rim inwards, where nothing is known
        yet: 0 lets the texture go its own way, 1 is bound to a smooth picture.

    Yields
    ------
    float
        Share done.

    Returns
    -------
    ndarray, shape (C, *spatial)
        `start`, with the target woven as far as patches of known and target pixels alone cover it.
    """
    side = SIDE[target.ndim]
    seen = np.asarray(known.all(0))
    picture = np.where(seen, values, start)
    pyramid = [(picture, target, seen)]
    while len(pyramid) < LEVELS and min(target.shape) // 2 ** len(pyramid) >= 3 * side:
        pyramid.append(_halved(*pyramid[-1]))
    total = sum(ROUNDS[: len(pyramid)])
    done, woven, begun = 0, None, False
    for level in reversed(range(len(pyramid))):
        here, want, sure = pyramid[level]
        here = here.copy()
        if woven is not None:
            grown = _doubled(woven, here.shape)
            here[:, want] = grown[:, want]
        source = _whole(sure, side)
        query = _whole(sure | want, side) & _touching(want, side)
        if int(source.sum()) > 2 * NUMBERS and query.any():
            bank = _Bank(here, source, side, random)
            if not begun:
                begun = True
                here = yield from _peeled(here, want, query, side, bank, guide)
            for turn in range(ROUNDS[level]):
                last = level == 0 and turn == ROUNDS[0] - 1
                here = yield from _woven(here, want, query, side, bank, last, done / total)
                done += 1
                yield done / total
        else:
            done += ROUNDS[level]
        woven = here
    assert woven is not None
    result = start.copy()
    result[:, target] = woven[:, target]
    return result


class _Bank:
    """Known patches of a level, and their principal components to be searched by."""

    @few_threads
    def __init__(
        self, picture: np.ndarray, source: np.ndarray, side: int, random: np.random.Generator
    ) -> None:
        places = np.argwhere(source)
        if len(places) > MAX_KNOWN:
            places = places[np.sort(random.choice(len(places), MAX_KNOWN, replace=False))]
        self.patches = _patches(picture, places, side)
        self.mean = self.patches.mean(0)
        centred = self.patches - self.mean
        _, vectors = np.linalg.eigh(centred.T @ centred)
        self.basis = vectors[:, ::-1][:, :NUMBERS].copy()
        self.codes = centred @ self.basis
        self.squares = (self.codes**2).sum(1)

    @few_threads
    def nearest(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the nearest known patch, and the squared distance to it."""
        codes = (patches - self.mean) @ self.basis
        distance = self.squares - 2 * codes @ self.codes.T
        found = distance.argmin(1)
        least = distance[np.arange(len(codes)), found] + (codes**2).sum(1)
        return found, np.maximum(least, 0.0)


def _peeled(
    picture: np.ndarray,
    want: np.ndarray,
    query: np.ndarray,
    side: int,
    bank: _Bank,
    guide: float,
) -> Generator[float, None, np.ndarray]:
    """A first filling, ring by ring from outside, by what is known or filled already.

    The mean fill, being smooth, would be answered by smooth patches: it counts with a small weight.
    """
    picture, waiting = picture.copy(), want.copy()
    squares = bank.patches**2
    corner = np.array([-(side // 2)] * want.ndim)
    while waiting.any():
        ring = waiting & ~binary_erosion(waiting, np.ones((3,) * want.ndim), border_value=1)
        ring = ring if ring.any() else waiting
        centres = np.argwhere(ring)
        places = np.clip(centres + corner, 0, np.array(query.shape) - 1)
        fine = query[tuple(places.T)]
        centres, places = centres[fine], places[fine]
        if len(places):
            patches = _patches(picture, places, side)
            told = _patches(np.broadcast_to(~waiting, picture.shape), places, side)
            weight = np.where(told, 1.0, guide)
            distance = weight @ squares.T - 2 * (weight * patches) @ bank.patches.T
            found = bank.patches[distance.argmin(1)].reshape(len(places), len(picture), -1)
            inner = np.ravel_multi_index(tuple((centres - places).T), (side,) * want.ndim)
            picture[(slice(None), *centres.T)] = found[np.arange(len(places)), :, inner].T
        waiting &= ~ring
        yield 0.0
    return picture


def _woven(
    picture: np.ndarray,
    want: np.ndarray,
    query: np.ndarray,
    side: int,
    bank: _Bank,
    copy: bool,
    share: float,
) -> Generator[float, None, np.ndarray]:
    """One round: each patch finds its nearest, and the pixels take their mean, or the best one's."""
    places = np.argwhere(query)
    found, least = np.empty(len(places), int), np.empty(len(places))
    for begin in range(0, len(places), CHUNK):
        part = slice(begin, begin + CHUNK)
        found[part], least[part] = bank.nearest(_patches(picture, places[part], side))
        yield share
    # patches that fit badly have little to say: Gaussian in the distance, by its upper quartile
    weight = np.exp(-least / (2 * max(float(np.quantile(least, 0.75)), 1e-12))) + 1e-4
    channels = len(picture)
    votes = bank.patches[found].reshape(len(places), channels, -1)
    sums, weights = np.zeros(picture.shape), np.zeros(want.shape)
    best = np.zeros(want.shape)
    for number, offset in enumerate(np.ndindex(*(side,) * want.ndim)):
        at = tuple((places + offset).T)  # each place once: plain indexing adds rightly
        if copy:
            better = weight > best[at]
            at = tuple(axis[better] for axis in at)
            best[at] = weight[better]
            sums[(slice(None), *at)] = votes[better, :, number].T
        else:
            sums[(slice(None), *at)] += votes[:, :, number].T * weight
            weights[at] += weight
    covered = want & ((best if copy else weights) > 0)
    result = picture.copy()
    result[:, covered] = sums[:, covered] / (1.0 if copy else weights[covered])
    return result


def _patches(picture: np.ndarray, places: np.ndarray, side: int) -> np.ndarray:
    """Patches (n, C * side^D) by their first corners (n, D)."""
    windows = sliding_window_view(
        picture, (side,) * (picture.ndim - 1), axis=tuple(range(1, picture.ndim))
    )
    return np.stack([w[tuple(places.T)] for w in windows], 1).reshape(len(places), -1)


def _whole(seen: np.ndarray, side: int) -> np.ndarray:
    """First corners of the patches that lie in `seen` altogether."""
    windows = sliding_window_view(seen, (side,) * seen.ndim)
    return np.asarray(windows.all(tuple(range(-seen.ndim, 0))))


def _touching(want: np.ndarray, side: int) -> np.ndarray:
    """First corners of the patches with a wanted pixel."""
    # the filter's window is centred: the corner of the first patch is half a side before
    reach = maximum_filter(want, side, mode="constant")
    return reach[tuple(slice(side // 2, n - side + side // 2 + 1) for n in want.shape)]


def _halved(
    picture: np.ndarray, want: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The level above: means of 2 x 2 (x 2) pixels; wanted if one is, known if all are."""

    def blocks(a: np.ndarray, axes: int) -> np.ndarray:
        lead = a.ndim - axes
        for axis in range(lead, a.ndim):
            if a.shape[axis] % 2:
                a = np.concatenate([a, np.take(a, [-1], axis)], axis)
        shape = list(a.shape[:lead])
        for n in a.shape[lead:]:
            shape += [n // 2, 2]
        return a.reshape(shape)

    axes = want.ndim
    inner = tuple(range(1, 2 * axes, 2))
    means = blocks(picture, axes).mean(tuple(1 + i for i in inner))
    wanted = np.asarray(blocks(want, axes).any(inner))
    return means, wanted, np.asarray(blocks(seen, axes).all(inner))


def _doubled(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation to the level below, cut to its shape."""
    factors = (1, *(2,) * (picture.ndim - 1))
    grown = zoom(picture, factors, order=1, mode="nearest", grid_mode=True)
    return grown[tuple(slice(0, n) for n in shape)]


def patch_distance(filled: np.ndarray, truth: np.ndarray, mask: np.ndarray, side: int = 5) -> float:
    """How differently the patches in a hole are distributed from the true ones (sliced Wasserstein).

    Patches centred in the hole are projected on 64 fixed random directions; along each, sorted values are
    compared. What lies where does not matter.

    Parameters
    ----------
    filled, truth : ndarray, shape (Y, X) or (Y, X, C)
    mask : ndarray of bool, shape (Y, X)
    side : int
        Of a patch, in pixels.

    Returns
    -------
    float
        Mean absolute difference of sorted projections, in grey levels of a patch's mean pixel times
        the root of the numbers in a patch. 0 for the truth itself.
    """
    patches = []
    for image in (filled, truth):
        planes = np.moveaxis(np.atleast_3d(image).astype(np.float64), -1, 0)
        half = side // 2
        padded = np.pad(planes, ((0, 0), (half, half), (half, half)), mode="reflect")
        patches.append(_patches(padded, np.argwhere(mask), side))
    directions = np.random.default_rng(0).standard_normal((patches[0].shape[1], 64))
    directions /= np.linalg.norm(directions, axis=0)
    one, two = (np.sort(p @ directions, axis=0) for p in patches)
    return float(np.abs(one - two).mean())


def gradient_ratio(filled: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Energy of differences between neighbours in the hole, over the truth's.

    Parameters
    ----------
    filled, truth : ndarray, shape (Y, X) or (Y, X, C)
    mask : ndarray of bool, shape (Y, X)

    Returns
    -------
    float
        1 for a fill as lively as the truth, less for a smooth one; NaN where the truth is flat.
    """
    energies = []
    for image in (filled, truth):
        values = np.atleast_3d(image).astype(np.float64)
        total = 0.0
        for axis in (0, 1):
            pairs = mask & np.roll(mask, -1, axis)
            pairs[(slice(None),) * axis + (-1,)] = False
            square = (np.roll(values, -1, axis) - values) ** 2
            total += float(square[pairs].sum())
        energies.append(total)
    return energies[0] / energies[1] if energies[1] else math.nan
