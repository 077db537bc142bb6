"""What is known of an image's noise: its variance by grey level, and its correlation along a line."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from knitcore.events import Note

ROUNDING = 0.2  # variance below this share of a squared grey level step is rounding


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
        Posterior mean and its expected error, grey levels. A pixel kept as measured has the noise's
        deviation, a hot pixel that was replaced half its change at least, a channel without noise 0.
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
