"""Noise of one image: its variance as a function of the grey level, and its correlation along a line.

Differences of neighbours take fine speckle for noise. Here the variance is read from the highest
frequencies of the flattest blocks of each grey level (`noise_levels`). What a linear prediction from the
surroundings can tell is no noise either (`predicted_share`): it bounds the estimate where an image
repeats itself at the highest frequencies.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from knitcore.events import Note
from knitcore.noise_levels import (
    BLOCKS,
    HIGH,
    LEAST,
    PILED,
    QUIET,
    Levels,
    cosines,
    draw_blocks,
    draw_blocks_alike,
    least_of_channels,
    read_levels,
)
from knitcore.noise_model import Noise, is_noise

CALM = (
    0.1,
    0.3,
)  # share of the flat blocks that tell of correlation: a fence's pales are correlated, too
LOWER = 0.35  # quantile of the classes that the variance follows: structure only ever adds
LOWEST = 0.12  # and where it is the same in all of them
LINE = 0.15  # correlation along a line that is seen before anything is fitted
DROP = 0.6  # a structure's correlation falls off more slowly than by this factor a lag
ENOUGH = (3 / LINE) ** 2 * 8 / 3  # pixels of which white noise shows less
SLIGHT = 0.05  # and in what a first result has left over, where no structure is mistaken for it
REACH = 3  # longest lag looked at
STILL, DRAWN = 0.02, 0.2  # exactly flat blocks, and correlated others: a drawing
ALIKE = 1.6  # channels whose variances differ by less share one law
STEEP = 1.6  # variance of the brightest over the darkest class that makes noise signal-dependent
COMMON = 1.5  # more in one mixture of channels than in another, and all the same everywhere:
EVEN = 1.1  # noise that is correlated between the channels, up to this scatter
SURE = 50  # numbers a channel that a mixture has to be read from
MIXED = 10  # channels; of more, some mixture holds little by chance alone
LEAST_OF_ALL = 0.25  # less than this share of what the channels tell singly is no texture's doing
BETTER = 0.6  # share of the misfit of a constant that a line may leave
ACROSS = 0.5  # correlation across a line, over that along it, from which on it is no line


def autocorrelation(blocks: torch.Tensor, weight: torch.Tensor) -> list[tuple[float, ...]]:
    """Correlation of the noise along y and along x.

    Along an axis it is taken from what the blocks hold at high frequencies of the other one: there
    a structure leaves little, and the correlation of separable noise is the same.

    Parameters
    ----------
    blocks : Tensor, shape (N, B, B)
        Flat ones.
    weight : Tensor, shape (N,)
        One over the noise variance of each.

    Returns
    -------
    list of tuple of float
        Along y, along x, at lags 0, 1, ...
    """
    side = blocks.shape[-1]
    high = cosines(side).double()[side // 2 + 1 :]
    found = []
    for turned in (blocks.transpose(1, 2), blocks):
        rows = high @ turned  # high along the other axis, in space along this one
        power = (rows**2).mean((1, 2)) @ weight
        lags = [
            (rows[..., :-k] * rows[..., k:]).mean((1, 2)) @ weight / power.clamp_min(1e-300)
            for k in range(1, min(REACH, side - 1) + 1)
        ]
        found.append((1.0, *(float(lag) for lag in lags)))
    return found


def line_of(
    along_y: tuple[float, ...], along_x: tuple[float, ...], least: float, across: float = ACROSS
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Keep a correlation that runs along one axis only.

    What is correlated along both is taken for a structure: an oversampled one looks the same.

    Parameters
    ----------
    along_y, along_x : tuple of float
        From `autocorrelation`.
    least : float
        Correlation of neighbours that matters.
    across : float
        Share of it that there may be along the other axis.

    Returns
    -------
    along_y, along_x : tuple of float
        (1.0,) where there is none.
    """
    white = (1.0,)
    y, x = (lags[1] if len(lags) > 1 else 0.0 for lags in (along_y, along_x))
    if max(x, y) < least or min(x, y) > across * max(x, y):
        return white, white
    lags = along_x if x > y else along_y
    if len(lags) > 2 and lags[2] > DROP * lags[1] and lags[1] < 0.5:
        return white, white
    last = max(k for k, r in enumerate(lags) if abs(r) > least / 3)
    return (white, lags[: last + 1]) if x > y else (lags[: last + 1], white)


def by_chance(pixels: float) -> float:
    """Correlation that white noise of so many pixels shows now and then, by `autocorrelation`."""
    return 3 / math.sqrt(max(pixels * 3 / 8, 1e-9))


def correlation_in(
    levels: list[Levels], pixels: int, blind_spot: str
) -> tuple[tuple[float, ...], tuple[float, ...], list[Note]]:
    """Correlation of the noise in the flat blocks, as far as it may be looked for.

    Parameters
    ----------
    levels : list of Levels
        One a channel.
    pixels : int
        Of all these channels.
    blind_spot : str
        As in the recipe: "auto" takes a correlation along one axis only, "x", "y" and a number say
        where there is one. "0": as "auto", but no hint.

    Returns
    -------
    along_y, along_x : tuple of float
        (1.0,) where there is none.
    notes : list of Note
    """
    white = (1.0,)
    blocks, weight, low = (
        torch.cat([getattr(one, name) for one in levels]) for name in ("quiet", "weight", "low")
    )
    if not len(blocks):
        return white, white, []
    # of small images more, or chance would decide
    share = min(CALM[1], max(CALM[0], ENOUGH / (QUIET * pixels)))
    calm = (low * weight).topk(max(1, round(share * len(low))), largest=False).indices
    along_y, along_x = autocorrelation(blocks[calm], weight[calm])
    least = by_chance(share * QUIET * pixels)
    if blind_spot in ("auto", "0"):
        least = max(LINE, least)
        line = line_of(along_y, along_x, least)
        notes = []
        both = min(along_y[1:2] + along_x[1:2], default=0.0) > least
        if blind_spot == "auto" and both and line == (white, white):
            text = "neighbours agree along both axes: structure, or noise that is correlated; "
            notes.append(Note(text + "if it is noise, try blind_spot 1"))
        return *line, notes
    least = max(SLIGHT, least / 3)

    def seen(lags: tuple[float, ...]) -> tuple[float, ...]:
        """Up to the last lag that matters."""
        return lags[: 1 + max(k for k, r in enumerate(lags) if abs(r) > least)]

    along_y, along_x = (
        white if blind_spot == other else seen(lags)
        for other, lags in (("x", along_y), ("y", along_x))
    )
    return along_y, along_x, []


def fit_law(levels: list[Levels], kind: str, lowest: float = LOWEST) -> tuple[str, float, float]:
    """Gain and offset of the variance, along the lower edge of the classes.

    Parameters
    ----------
    levels : list of Levels
        Of channels that share one law.
    kind : str
        "auto", "gaussian" or "poisson-gaussian".
    lowest : float
        Quantile of the classes that a constant follows.

    Returns
    -------
    kind : str
        Poisson-Gaussian only where a line describes the classes much better than a constant.
    gain, offset : float
    """
    mean, variance, count = (
        np.concatenate([getattr(one, name) for one in levels])
        for name in ("mean", "variance", "count")
    )
    weight = np.sqrt(count)

    def quantile_fit(
        columns: np.ndarray, lower: float = LOWER
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Linear regression of a quantile, relative errors, by reweighted least squares."""
        law = np.full(len(variance), np.median(variance))
        for _ in range(40):
            side = np.where(variance > law, lower, 1 - lower)
            w = np.sqrt(weight * side / (np.maximum(np.abs(variance - law), 0.03 * law) * law))
            solution = np.linalg.lstsq(columns * w[:, None], variance * w, rcond=None)[0]
            law = np.maximum(columns @ solution, 0.02 * variance.mean())
            law = np.maximum(law, 0.2 * variance.min())
        side = np.where(variance > law, lower, 1 - lower)
        return solution, law, float((weight * side * np.abs(np.log(variance / law))).sum())

    ones = np.ones_like(mean)
    (constant,), _, _ = quantile_fit(ones[:, None], lowest)
    _, _, flat_error = quantile_fit(ones[:, None])
    centre, scale = mean.mean(), max(float(np.ptp(mean)), 1e-300)
    if kind == "gaussian" or len(mean) < (3 if kind == "poisson-gaussian" else 5):
        return ("gaussian" if kind == "auto" else kind), 0.0, float(constant)
    line, law, error = quantile_fit(np.stack([ones, (mean - centre) / scale], 1))
    gain = float(line[1] / scale)
    steep = law[np.argmax(mean)] > STEEP * law[np.argmin(mean)] and error < BETTER * flat_error
    if gain > 0 and (kind == "poisson-gaussian" or steep):
        return "poisson-gaussian", gain, float(line[0] - gain * centre)
    return ("gaussian" if kind == "auto" else kind), 0.0, float(constant)


def estimate_noise(
    values: torch.Tensor,
    step: float,
    kind: str,
    draw: torch.Generator,
    blind_spot: str = "auto",
) -> tuple[Noise, list[Note]]:
    """Estimate the noise of an image.

    Parameters
    ----------
    values : Tensor, shape (C, Z, Y, X)
        Grey levels.
    step : float
        Their distance, see `grey_step`; 0 if they are not quantised.
    kind : str
        "auto", "gaussian" or "poisson-gaussian".
    draw : torch.Generator
    blind_spot : str
        As in the recipe: where the noise may be correlated.

    Returns
    -------
    Noise
        A channel without noise has gain and offset 0.
    notes : list of Note
    """
    drawn = [draw_blocks(channel, draw, max(5000, BLOCKS // len(values))) for channel in values]
    levels = [read_levels(blocks) for blocks in drawn]
    channels = len(levels)
    pure = [kind == "auto" and _is_drawn(one) for one in levels]
    use = [c for c in range(channels) if len(levels[c].mean) and not pure[c]]
    notes: list[Note] = []
    if any(pure):
        which = "the image is" if all(pure) else f"{sum(pure)} of {channels} channels are"
        text = f"{which} exactly flat in parts and shows no noise elsewhere: left as it is"
        notes.append(Note(text + " (give sigma if there is noise)"))
    if not use:
        return _no_noise(values, step, notes)
    cut = 0.0
    for c in use:
        inside, share = _within_range(drawn[c], values[c], step)
        again = read_levels(drawn[c][inside]) if share else levels[c]
        if share and len(again.mean):
            drawn[c], levels[c] = drawn[c][inside], again
        cut = max(cut, share)
    pixels = len(use) * values[0].numel()
    along_y, along_x, told = correlation_in([levels[c] for c in use], pixels, blind_spot)
    if len(along_y) + len(along_x) > 2:
        levels = [read_levels(blocks, along_y, along_x) for blocks in drawn]
        use = [c for c in use if len(levels[c].mean)]
    laws = {c: fit_law([levels[c]], kind) for c in use}
    flat = [fit_law([levels[c]], "gaussian")[2] for c in use]
    if len(use) > 1 and max(flat) < ALIKE * min(flat):
        law = fit_law([levels[c] for c in use], kind)
        if len(along_y) == len(along_x) == 1 and len(use) <= MIXED:
            law = _law_between(values[use], law, kind, draw, step)
        laws = dict.fromkeys(use, law)
    laws = {c: law for c, law in laws.items() if _counts(law, levels[c], step)}
    if not laws:
        return _no_noise(values, step, notes)
    if cut:
        text = (
            f"{100 * cut:.2g} % of the pixels are at the end of the range: their noise is cut off"
        )
        notes.append(Note(text))
    kinds = {law[0] for law in laws.values()}
    top = "poisson-gaussian" if "poisson-gaussian" in kinds else "gaussian"
    gain = tuple(laws[c][1] if c in laws else 0.0 for c in range(channels))
    offset = tuple(laws[c][2] if c in laws else 0.0 for c in range(channels))
    floor = tuple(
        max(0.2 * float(levels[c].variance.min()), step**2 / 12) if c in laws else 0.0
        for c in range(channels)
    )
    return Noise(top, gain, offset, floor, along_y, along_x), notes + told


def _no_noise(values: torch.Tensor, step: float, notes: list[Note]) -> tuple[Noise, list[Note]]:
    if any(has_few_counts(channel, step) for channel in values):
        text = "too few counts to estimate the noise; for photon counts give gain 1, offset 0"
        notes = [Note(text)]
    zeros = (0.0,) * len(values)
    return Noise("none", zeros, zeros, zeros), notes


def has_few_counts(values: torch.Tensor, step: float) -> bool:
    """Mostly at the least of a few grey levels, with others strewn over it: single photons.

    Parameters
    ----------
    values : Tensor, shape (Z, Y, X)
    step : float
        Distance of the grey levels, 0 if they are not quantised.

    Returns
    -------
    bool
    """
    if not step:
        return False
    lit = values > values.min()
    count = int(lit.sum())
    if not 0 < count < lit.numel() / 2:
        return False
    beside = max(int((lit & lit.roll(1, axis)).sum()) for axis in (1, 2))
    return beside < count / 2


def _within_range(
    blocks: torch.Tensor, values: torch.Tensor, step: float
) -> tuple[torch.Tensor, float]:
    """Which blocks have no pixel at an end of the range where pixels pile up; the share of these."""
    some = values.reshape(-1)[:: max(1, values.numel() // 200_000)]
    share, inside = 0.0, torch.ones(len(blocks), dtype=torch.bool)
    width = 1.01 * step or float(some.max() - some.min()) / 256
    for sign, last in ((1, some.min()), (-1, some.max())):
        height = sign * (some - last)
        end, first, second = (
            int(((height > k * width) & (height <= (k + 1) * width)).sum()) for k in (-1, 0, 1)
        )
        # counts get fewer step by step, a cut off tail does not
        if end > max(PILED * len(some), 3 * first) and first < 2 * second:
            share += end / len(some)
            inside &= (sign * (blocks - float(last))).amin((1, 2)) > 0
    return (inside if inside.sum() >= 4 * LEAST else torch.ones_like(inside)), share


def _law_between(
    channels: torch.Tensor,
    law: tuple[str, float, float],
    kind: str,
    draw: torch.Generator,
    step: float,
) -> tuple[str, float, float]:
    """The law of channels that share one, without the structure that they have in common.

    Parameters
    ----------
    channels : Tensor, shape (C, Z, Y, X)
    law : (str, float, float)
        What they tell singly, as of `fit_law`.
    kind : str
        As of `fit_law`.
    draw : torch.Generator
    step : float
        Distance of the grey levels, 0 if they are not quantised.

    Returns
    -------
    law : (str, float, float)
        As it was, where noise that is correlated between the channels would be taken for structure.
    """
    drawn = draw_blocks_alike(channels, draw, max(5000, BLOCKS // len(channels)))
    inside = [
        _within_range(blocks, one, step)[0] for blocks, one in zip(drawn, channels, strict=True)
    ]
    blocks = torch.stack(drawn)[:, torch.stack(inside).all(0)]
    if not blocks.shape[1]:
        return law
    # channels of different brightness may have noise of different strength in one block
    singly = law[1] * blocks.mean((2, 3)) + law[2]
    singly = singly.clamp_min(0.02 * float(singly.mean()))
    pixels = channels[0].numel()
    found, excess, unrest = least_of_channels(blocks, pixels, singly.sqrt())
    if HIGH * found.count.sum() < SURE * len(channels) or (excess > COMMON and unrest < EVEN):
        return law
    share, off = _undisturbed(found)
    if kind == "auto" and law[1]:
        even, _, _ = least_of_channels(blocks, pixels)
        constant, off_even = _undisturbed(even) if len(even.mean) else (0.0, math.inf)
        if off_even < BETTER * off:
            law, share = ("gaussian", 0.0, constant), 1.0
    return (law[0], law[1] * share, law[2] * share) if share > LEAST_OF_ALL else law


def _undisturbed(levels: Levels) -> tuple[float, float]:
    """Mean variance of the classes that hold no more than noise of one strength, and how far all are off."""
    lower = fit_law([levels], "gaussian", LOWER)[2]
    chance = np.sqrt(2 / (HIGH * levels.count))
    near = levels.variance < (1 + 3 * chance) * lower
    if near.any():
        lower = float(np.average(levels.variance[near], weights=levels.count[near]))
    return lower, float(np.average(np.abs(np.log(levels.variance / lower)), weights=levels.count))


def _is_drawn(levels: Levels) -> bool:
    """Exactly flat in parts, and what there is elsewhere runs on from pixel to pixel."""
    if levels.still <= STILL or not len(levels.mean):
        return False
    return max(lags[1] for lags in autocorrelation(levels.quiet, levels.weight)) > DRAWN


def _counts(law: tuple[str, float, float], levels: Levels, step: float) -> bool:
    one = Noise(law[0], (law[1],), (law[2],), (0.0,))
    return is_noise(one, torch.from_numpy(levels.mean)[None], step)
