"""Noise of one image: its variance as a function of the grey level, and its correlation along a line.

Differences of neighbours take fine speckle for noise. Here the variance is read from the highest
frequencies of 8x8 blocks (Ponomarenko et al. 2007; Pyatykh et al. 2013), of those blocks of each grey
level that hold the least at low frequencies. The two bands of an orthonormal transform are independent
for white noise, so that choosing by one does not bias the other, and an oversampled structure has next
to nothing in the high one. What a linear prediction from the surroundings can tell is no noise either
(`predicted_share`): it bounds the estimate where an image repeats itself at the highest frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from knitcore.events import Note
from knitcore.noise_model import Noise, is_noise, line_covariance

BLOCK = 8  # side of the transformed blocks, pixels
BLOCKS = 60_000  # as many are looked at, of all channels together
LEVELS = 20  # classes of grey level
LEAST = 100  # blocks in a class
QUIET = 0.25  # share of a class's blocks that count as flat
CALM = (0.1, 0.3)  # share of these that tell of correlation: a fence's pales are correlated, too
LOWER = 0.35  # quantile of the classes that the variance follows: structure only ever adds
LOWEST = 0.12  # and where it is the same in all of them
STRUCTURE_SPREAD = 0.75  # more scatter of the blocks' high band than noise can have
LINE = 0.15  # correlation along a line that is seen before anything is fitted
DROP = 0.6  # a structure's correlation falls off more slowly than by this factor a lag
ENOUGH = (3 / LINE) ** 2 * 8 / 3  # pixels of which white noise shows less
SLIGHT = 0.05  # and in what a first result has left over, where no structure is mistaken for it
REACH = 3  # longest lag looked at
FLAT = 0.005  # share of the blocks from which on the exactly flat ones are padding
RUN = 3  # pixels in a row at the padding's level
RIM = 0.25  # share of the blocks that may be its rim
STILL, DRAWN = 0.02, 0.2  # exactly flat blocks, and correlated others: a drawing
ALIKE = 1.6  # channels whose variances differ by less share one law
STEEP = 1.6  # variance of the brightest over the darkest class that makes noise signal-dependent
BETTER = 0.6  # share of the misfit of a constant that a line may leave
ACROSS = 0.5  # correlation across a line, over that along it, from which on it is no line
PILED = 0.01  # share of the pixels at an end of the range from which on the noise may be cut off


def cosines(size: int) -> torch.Tensor:
    """Orthonormal cosine transform (DCT-II) as a matrix, one frequency a row."""
    k, i = torch.arange(size)[:, None], torch.arange(size)
    rows = torch.cos(math.pi * (i + 0.5) * k / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def draw_blocks(values: torch.Tensor, draw: torch.Generator, most: int = BLOCKS) -> torch.Tensor:
    """Square blocks at random places.

    Parameters
    ----------
    values : Tensor, shape (Z, Y, X)
    draw : torch.Generator
    most : int

    Returns
    -------
    Tensor, shape (N, B, B)
        On the CPU, in double precision, so that a flat block is flat.
    """
    Z, Y, X = values.shape
    side = min(BLOCK, Y, X)
    spans = (Z, Y - side + 1, X - side + 1)
    count = min(most, math.prod(spans))
    z, y, x = (torch.randint(0, n, (count,), generator=draw).to(values.device) for n in spans)
    inside = torch.arange(side, device=values.device)
    at = ((z * Y + y) * X + x)[:, None, None] + inside[:, None] * X + inside
    return values.reshape(-1)[at].cpu().double()


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


@dataclass(frozen=True)
class Levels:
    """Variance of the flat blocks of each grey level class of one channel.

    Attributes
    ----------
    mean, variance, count : ndarray, shape (L,)
    still : float
        Share of the blocks that are exactly flat.
    quiet, weight, low : Tensor, shapes (N, B, B), (N,) and (N,)
        The flat blocks, one over their variance, and what they hold at low frequencies.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray
    still: float
    quiet: torch.Tensor
    weight: torch.Tensor
    low: torch.Tensor


def _rim_of_padding(blocks: torch.Tensor, still: torch.Tensor) -> torch.Tensor:
    """Blocks that lie partly on padding: their step is neither noise nor correlation.

    Parameters
    ----------
    blocks : Tensor, shape (N, B, B)
        Grey levels.
    still : Tensor of bool, shape (N,)
        Exactly flat ones.

    Returns
    -------
    Tensor of bool, shape (N,)
        None of them where flat parts are everywhere, as between few photons or the lines of a drawing.
    """
    none = torch.zeros_like(still)
    if still.float().mean() < FLAT or blocks.shape[-1] < RUN:
        return none
    levels, counts = blocks[still, 0, 0].unique(return_counts=True)
    padding = torch.isin(blocks, levels[counts >= counts.sum() / 4]).float()[:, None]
    runs = [F.avg_pool2d(padding, side, 1).flatten(1).amax(1) for side in ((RUN, 1), (1, RUN))]
    rim = (torch.maximum(*runs) > 1 - 0.5 / RUN) & ~still
    few = rim.sum() < RIM * len(rim) and (~still & ~rim).sum() >= 4 * LEAST
    return rim if few else none


def read_levels(
    blocks: torch.Tensor,
    along_y: tuple[float, ...] = (1.0,),
    along_x: tuple[float, ...] = (1.0,),
) -> Levels:
    """Sort blocks by grey level and take the noise variance from the flat ones of each class.

    Parameters
    ----------
    blocks : Tensor of float64, shape (N, B, B)
    along_y, along_x : tuple of float
        Correlation of the noise. Along a correlated axis its high frequencies hold next to nothing,
        so that all are looked at there.

    Returns
    -------
    Levels
        Empty where no class shows noise.
    """
    side = blocks.shape[-1]
    mean, levels = blocks.mean((1, 2)), blocks
    blocks = blocks - mean[:, None, None]
    basis = cosines(side).double()
    coefficients = basis @ blocks @ basis.T
    half = side // 2 + 1
    low = (coefficients[:, :half, :half] ** 2).sum((1, 2))
    from_y, from_x = (half if len(lags) < 2 else 1 for lags in (along_y, along_x))
    power_y, power_x = (
        (basis @ line_covariance(lags, side) @ basis.T).diagonal() for lags in (along_y, along_x)
    )
    band = power_y[from_y:].mean() * power_x[from_x:].mean()
    high = (coefficients[:, from_y:, from_x:] ** 2).mean((1, 2)) / band
    still = blocks.abs().amax((1, 2)) <= 1e-6 * mean.abs().clamp_min(1e-6)
    moving = np.flatnonzero((~still & ~_rim_of_padding(levels, still)).numpy())
    none = np.zeros(0)
    if not len(moving):
        return Levels(none, none, none, 1.0, blocks[:0], mean[:0], low[:0])
    least, most = np.quantile(mean.numpy()[moving], (0.002, 0.998))
    place = ((mean.numpy() - least) / max(most - least, 1e-300)).clip(0, 1) ** 0.5
    classes = max(1, min(LEVELS, len(moving) // (4 * LEAST)))
    level = np.minimum((place * classes).astype(int), classes - 1)
    expected = math.sqrt(
        2 / ((side - from_y) * (side - from_x))
    )  # scatter of the high band of white noise
    rows, chosen, weights = [], [], []
    for k in range(classes):
        at = moving[level[moving] == k]
        if len(at) < min(LEAST, len(moving)):
            continue
        take = max(LEAST // 2, int(QUIET * len(at)))
        flat = at[np.argsort(low.numpy()[at], kind="stable")[:take]]
        power = high.numpy()[flat]
        variance = float(power.mean())
        if variance <= 0 or power.std() / variance > STRUCTURE_SPREAD + expected:
            continue
        rows.append((float(mean[flat].mean()), variance, len(flat)))
        chosen.append(flat)
        weights.append(np.full(len(flat), 1 / variance))
    if not rows:
        return Levels(none, none, none, float(still.float().mean()), blocks[:0], mean[:0], low[:0])
    table = np.array(rows)
    kept = np.concatenate(chosen)
    return Levels(
        table[:, 0],
        table[:, 1],
        table[:, 2],
        still=float(still.float().mean()),
        quiet=blocks[kept],
        weight=torch.tensor(np.concatenate(weights)),
        low=low[kept],
    )


def fit_law(levels: list[Levels], kind: str) -> tuple[str, float, float]:
    """Gain and offset of the variance, along the lower edge of the classes.

    Parameters
    ----------
    levels : list of Levels
        Of channels that share one law.
    kind : str
        "auto", "gaussian" or "poisson-gaussian".

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
    (constant,), _, _ = quantile_fit(ones[:, None], LOWEST)
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
        blocks, share = _within_range(drawn[c], values[c], step)
        again = read_levels(blocks) if share else levels[c]
        if share and len(again.mean):
            drawn[c], levels[c] = blocks, again
        cut = max(cut, share)
    pixels = len(use) * values[0].numel()
    along_y, along_x, told = correlation_in([levels[c] for c in use], pixels, blind_spot)
    if len(along_y) + len(along_x) > 2:
        levels = [read_levels(blocks, along_y, along_x) for blocks in drawn]
        use = [c for c in use if len(levels[c].mean)]
    laws = {c: fit_law([levels[c]], kind) for c in use}
    flat = [fit_law([levels[c]], "gaussian")[2] for c in use]
    if len(use) > 1 and max(flat) < ALIKE * min(flat):
        laws = dict.fromkeys(use, fit_law([levels[c] for c in use], kind))
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
    """Blocks without a pixel at an end of the range where pixels pile up; the share of these."""
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
    return (blocks[inside] if inside.sum() >= 4 * LEAST else blocks), share


def _is_drawn(levels: Levels) -> bool:
    """Exactly flat in parts, and what there is elsewhere runs on from pixel to pixel."""
    if levels.still <= STILL or not len(levels.mean):
        return False
    return max(lags[1] for lags in autocorrelation(levels.quiet, levels.weight)) > DRAWN


def _counts(law: tuple[str, float, float], levels: Levels, step: float) -> bool:
    one = Noise(law[0], (law[1],), (law[2],), (0.0,))
    return is_noise(one, torch.from_numpy(levels.mean)[None], step)
