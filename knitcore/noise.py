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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from knitcore.events import Note

BLOCK = 8  # side of the transformed blocks, pixels
BLOCKS = 60_000  # as many are looked at, of all channels together
LEVELS = 20  # classes of grey level
LEAST = 100  # blocks in a class
QUIET = 0.25  # share of a class's blocks that count as flat
LOWER = 0.35  # quantile of the classes that the variance follows: structure only ever adds
LOWEST = 0.12  # and where it is the same in all of them
STRUCTURE_SPREAD = 0.75  # more scatter of the blocks' high band than noise can have
LINE = 0.15  # correlation along a line that is seen before anything is fitted
DROP = 0.6  # a structure's correlation falls off more slowly than by this factor a lag
SLIGHT = 0.05  # and in what a first result has left over, where no structure is mistaken for it
REACH = 3  # longest lag looked at
STILL, DRAWN = 0.02, 0.2  # exactly flat blocks, and correlated others: a drawing
ALIKE = 1.6  # channels whose variances differ by less share one law
ROUNDING = 0.2  # variance below this share of a squared grey level step is rounding
STEEP = 1.6  # variance of the brightest over the darkest class that makes noise signal-dependent
BETTER = 0.6  # share of the misfit of a constant that a line may leave


@dataclass(frozen=True)
class Noise:
    """Variance ``gain * value + offset`` of each channel, at least `floor`; correlation along axes.

    Attributes
    ----------
    kind : str
        "none", "gaussian" or "poisson-gaussian".
    gain : tuple of float
        Variance per grey level, one a channel; 0 for gaussian.
    offset : tuple of float
        Variance at grey level 0, may be negative, one a channel.
    floor : tuple of float
        Least variance, one a channel.
    along_y, along_x : tuple of float
        Autocorrelation at lags 0, 1, ...; (1.0,) where the noise is white.
    """

    kind: str
    gain: tuple[float, ...]
    offset: tuple[float, ...]
    floor: tuple[float, ...] = ()
    along_y: tuple[float, ...] = (1.0,)
    along_x: tuple[float, ...] = (1.0,)

    def variance(self, level: torch.Tensor) -> torch.Tensor:
        """Variance where the noise-free value is `level`, of shape (C, ...)."""
        gain, offset, floor = (
            torch.tensor(v, dtype=level.dtype, device=level.device).view(
                -1, *[1] * (level.ndim - 1)
            )
            for v in (self.gain, self.offset, self.floor)
        )
        return (gain * level + offset).maximum(floor)

    def facts(self) -> dict[str, Any]:
        """For the record: plain numbers, grey levels; a single one where all channels agree."""

        def plain(values: tuple[float, ...]) -> float | list[float]:
            rounded = [float(f"{value:.6g}") for value in values]
            return rounded[0] if len(set(rounded)) == 1 else rounded

        facts: dict[str, Any] = {"kind": self.kind}
        if self.kind == "gaussian":
            facts["sigma"] = plain(tuple(math.sqrt(max(b, 0.0)) for b in self.offset))
        elif self.kind == "poisson-gaussian":
            facts |= {"gain": plain(self.gain), "offset": plain(self.offset)}
        for name in ("along_y", "along_x"):
            if len(getattr(self, name)) > 1:
                facts[name] = [round(value, 4) for value in getattr(self, name)]
        return facts

    def scaled(self, centre: torch.Tensor, scale: torch.Tensor) -> Noise:
        """The same noise of ``(values - centre) / scale``; both of shape (C,)."""
        units = [(float(m), float(s)) for m, s in zip(centre, scale, strict=True)]
        pairs = list(zip(self.gain, self.offset, self.floor, units, strict=True))
        return replace(
            self,
            gain=tuple(a / s for a, _, _, (_, s) in pairs),
            offset=tuple((a * m + b) / s**2 for a, b, _, (m, s) in pairs),
            floor=tuple(f / s**2 for _, _, f, (_, s) in pairs),
        )

    def of(self, channels: list[int]) -> Noise:
        """That of some channels."""
        gain, offset, floor = (
            tuple(v[c] for c in channels) for v in (self.gain, self.offset, self.floor)
        )
        return replace(self, gain=gain, offset=offset, floor=floor)

    def put(self, channels: list[int], other: Noise) -> Noise:
        """With that of some channels replaced; the correlation is the other's."""

        def merged(mine: tuple[float, ...], its: tuple[float, ...]) -> tuple[float, ...]:
            new = dict(zip(channels, its, strict=True))
            return tuple(new.get(c, value) for c, value in enumerate(mine))

        return replace(
            other,
            gain=merged(self.gain, other.gain),
            offset=merged(self.offset, other.offset),
            floor=merged(self.floor, other.floor),
        )

    def times(self, factor: float) -> Noise:
        """The same noise with its variance multiplied."""
        gain, offset, floor = (
            tuple(v * factor for v in values) for values in (self.gain, self.offset, self.floor)
        )
        return replace(self, gain=gain, offset=offset, floor=floor)


@dataclass(frozen=True)
class Denoised:
    """What is known of one canvas after denoising.

    Attributes
    ----------
    clean, std : ndarray of float32, shape (C, *spatial)
        Posterior mean and its expected error, grey levels.
    noise : Noise
        As given or estimated, in grey levels.
    blind_spot : str
        What the prediction of a pixel did not see.
    notes : list of Note
    """

    clean: np.ndarray
    std: np.ndarray
    noise: Noise
    blind_spot: str
    notes: list[Note]


def given_noise(
    channels: int, sigma: float | None, gain: float | None, offset: float | None
) -> Noise:
    """The noise a user states, the same for every channel.

    Parameters
    ----------
    channels : int
    sigma : float or None
        Standard deviation, grey levels.
    gain, offset : float or None
        Of the variance ``gain * value + offset``.

    Returns
    -------
    Noise
    """
    if sigma is not None:
        kind = "gaussian" if sigma else "none"
        return Noise(kind, (0.0,) * channels, (sigma**2,) * channels, (sigma**2,) * channels)
    if gain is None or offset is None:
        raise ValueError("neither sigma nor gain and offset")
    floor = max(gain**2, 1e-3 * abs(offset)) * 0.05
    kind = "poisson-gaussian" if gain or offset > 0 else "none"
    return Noise(kind, (gain,) * channels, (offset,) * channels, (floor,) * channels)


def grey_step(values: np.ndarray) -> float:
    """Distance between the grey levels of quantised values, 0 where none is seen.

    Parameters
    ----------
    values : ndarray of float

    Returns
    -------
    float
    """
    some = values.reshape(-1)[:: max(1, values.size // 50_000)]
    gaps = np.diff(np.unique(some))
    if len(gaps) < 1 or len(gaps) > some.size / 2:
        return 0.0
    step = float(gaps.min())
    whole = gaps / step
    return step if np.abs(whole - whole.round()).max() < 0.02 else 0.0


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
    along_y: tuple[float, ...], along_x: tuple[float, ...], least: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Keep a correlation that runs along one axis only.

    What is correlated along both is taken for a structure: an oversampled one looks the same.

    Parameters
    ----------
    along_y, along_x : tuple of float
        From `autocorrelation`.
    least : float
        Correlation of neighbours that matters.

    Returns
    -------
    along_y, along_x : tuple of float
        (1.0,) where there is none.
    """
    white = (1.0,)
    y, x = (lags[1] if len(lags) > 1 else 0.0 for lags in (along_y, along_x))
    if max(x, y) < least or min(x, y) > max(x, y) / 3:
        return white, white
    lags = along_x if x > y else along_y
    if len(lags) > 2 and lags[2] > DROP * lags[1] and lags[1] < 0.5:
        return white, white
    last = max(k for k, r in enumerate(lags) if abs(r) > least / 3)
    return (white, lags[: last + 1]) if x > y else (lags[: last + 1], white)


def line_covariance(correlation: tuple[float, ...], size: int) -> torch.Tensor:
    """Correlation matrix of neighbours on a line, made positive definite.

    Parameters
    ----------
    correlation : tuple of float
        At lags 0, 1, ...
    size : int

    Returns
    -------
    Tensor, shape (size, size)
    """
    lags = torch.zeros(max(size, len(correlation)), dtype=torch.float64)
    lags[: len(correlation)] = torch.tensor(correlation, dtype=torch.float64)
    matrix = lags[(torch.arange(size)[:, None] - torch.arange(size)).abs()]
    power, axes = torch.linalg.eigh(matrix)
    matrix = axes * power.clamp_min(0.02) @ axes.T
    scale = matrix.diagonal().rsqrt()
    return matrix * scale * scale[:, None]


@dataclass(frozen=True)
class Levels:
    """Variance of the flat blocks of each grey level class of one channel.

    Attributes
    ----------
    mean, variance, count : ndarray, shape (L,)
    still : float
        Share of the blocks that are exactly flat.
    quiet, weight : Tensor, shapes (N, B, B) and (N,)
        The flat blocks, and one over their variance.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray
    still: float
    quiet: torch.Tensor
    weight: torch.Tensor


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
    mean = blocks.mean((1, 2))
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
    still = (blocks.abs().amax((1, 2)) <= 1e-6 * mean.abs().clamp_min(1e-6)).numpy()
    moving = np.flatnonzero(~still)
    none = np.zeros(0)
    if not len(moving):
        return Levels(none, none, none, 1.0, blocks[:0], mean[:0])
    least, most = np.quantile(mean.numpy()[moving], (0.002, 0.998))
    place = ((mean.numpy() - least) / max(most - least, 1e-300)).clip(0, 1) ** 0.5
    level = np.minimum((place * LEVELS).astype(int), LEVELS - 1)
    if len(moving) < 4 * LEAST:
        level[:] = 0
    expected = math.sqrt(
        2 / ((side - from_y) * (side - from_x))
    )  # scatter of the high band of white noise
    rows, chosen, weights = [], [], []
    for k in range(LEVELS):
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
        return Levels(none, none, none, float(still.mean()), blocks[:0], mean[:0])
    table = np.array(rows)
    return Levels(
        table[:, 0],
        table[:, 1],
        table[:, 2],
        still=float(still.mean()),
        quiet=blocks[np.concatenate(chosen)],
        weight=torch.tensor(np.concatenate(weights)),
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
    if kind == "gaussian" or len(mean) < 5:
        return ("gaussian" if kind == "auto" else kind), 0.0, float(constant)
    line, law, error = quantile_fit(np.stack([ones, (mean - centre) / scale], 1))
    gain = float(line[1] / scale)
    steep = law[np.argmax(mean)] > STEEP * law[np.argmin(mean)] and error < BETTER * flat_error
    if gain > 0 and (kind == "poisson-gaussian" or steep):
        return "poisson-gaussian", gain, float(line[0] - gain * centre)
    return ("gaussian" if kind == "auto" else kind), 0.0, float(constant)


def estimate_noise(
    values: torch.Tensor, step: float, kind: str, draw: torch.Generator
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
    zeros = (0.0,) * channels
    if not use:
        return Noise("none", zeros, zeros, zeros), notes
    quiet = torch.cat([levels[c].quiet for c in use])
    along = autocorrelation(quiet, torch.cat([levels[c].weight for c in use]))
    along_y, along_x = line_of(along[0], along[1], LINE)
    if len(along_y) + len(along_x) > 2:
        again = [read_levels(blocks, along_y, along_x) for blocks in drawn]
        use = [c for c in use if len(again[c].mean)]
        levels = again
    laws = {c: fit_law([levels[c]], kind) for c in use}
    flat = [fit_law([levels[c]], "gaussian")[2] for c in use]
    if len(use) > 1 and max(flat) < ALIKE * min(flat):
        laws = dict.fromkeys(use, fit_law([levels[c] for c in use], kind))
    laws = {c: law for c, law in laws.items() if _counts(law, levels[c], step)}
    kinds = {law[0] for law in laws.values()}
    top = next((k for k in ("poisson-gaussian", "gaussian") if k in kinds), "none")
    gain = tuple(laws[c][1] if c in laws else 0.0 for c in range(channels))
    offset = tuple(laws[c][2] if c in laws else 0.0 for c in range(channels))
    floor = tuple(
        max(0.2 * float(levels[c].variance.min()), step**2 / 12) if c in laws else 0.0
        for c in range(channels)
    )
    return Noise(top, gain, offset, floor, along_y, along_x), notes


def _is_drawn(levels: Levels) -> bool:
    """Exactly flat in parts, and what there is elsewhere runs on from pixel to pixel."""
    if levels.still <= STILL or not len(levels.mean):
        return False
    return max(lags[1] for lags in autocorrelation(levels.quiet, levels.weight)) > DRAWN


def _counts(law: tuple[str, float, float], levels: Levels, step: float) -> bool:
    one = Noise(law[0], (law[1],), (law[2],), (0.0,))
    return is_noise(one, torch.from_numpy(levels.mean)[None], step)


def is_noise(noise: Noise, level: torch.Tensor, step: float) -> bool:
    """More than the rounding of the grey levels, or of the computer's numbers.

    Parameters
    ----------
    noise : Noise
    level : Tensor, shape (C, ...)
        Values met in the image.
    step : float
        Distance of the grey levels, 0 if they are not quantised.

    Returns
    -------
    bool
    """
    least = max(ROUNDING * step**2, (1e-6 * float(level.abs().max())) ** 2)
    return float(noise.variance(level).max()) > least
