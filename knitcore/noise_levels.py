"""Variance of the noise at each grey level, read from small blocks of one image.

From the highest frequencies of 8x8 blocks (Ponomarenko et al. 2007; Pyatykh et al. 2013), of those
blocks of each grey level that hold the least at low frequencies. The two bands of an orthonormal
transform are independent for white noise, so that choosing by one does not bias the other, and an
oversampled structure has next to nothing in the high one.

Where everything is texture the high band holds it, too. In several channels it is much the same
texture: what blocks hold in that mixture of channels in which they hold least is noise
(`least_of_channels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from knitcore.noise_model import line_covariance

BLOCK = 8  # side of the transformed blocks, pixels
HIGH = 9  # of their frequencies are high along both axes
BLOCKS = 60_000  # as many are looked at, of all channels together
LEVELS = 20  # classes of grey level
LEAST = 100  # blocks in a class
QUIET = 0.25  # share of a class's blocks that count as flat
STRUCTURE_SPREAD = 0.75  # more scatter of the blocks' high band than noise can have
FLAT = 0.005  # share of the blocks from which on the exactly flat ones are padding
SPREAD = 1.55  # of the eigenvalues of white noise, of so many standard errors; simulated for 2 to 10 channels
RUN = 3  # pixels in a row at the padding's level
RIM = 0.25  # share of the blocks that may be its rim
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


def draw_blocks_alike(
    images: Iterable[torch.Tensor], draw: torch.Generator, most: int
) -> list[torch.Tensor]:
    """`draw_blocks` of images of one shape, at the same places in each."""
    seed = int(torch.randint(0, 2**31, (1,), generator=draw))
    return [draw_blocks(one, torch.Generator().manual_seed(seed), most) for one in images]


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

    @classmethod
    def empty(cls, still: float, like: torch.Tensor) -> Levels:
        """No class shows noise; `like` are blocks."""
        none, few = np.zeros(0), like.reshape(len(like), -1)[:0, 0]
        return cls(none, none, none, still, like[:0], few, few)


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


def exactly_flat(blocks: torch.Tensor) -> torch.Tensor:
    """Which of the blocks, (N, B, B), hold one value: no noise can be read there."""
    mean = blocks.mean((1, 2))
    return (blocks - mean[:, None, None]).abs().amax((1, 2)) <= 1e-6 * mean.abs().clamp_min(1e-6)


def flat_of_classes(mean: np.ndarray, low: np.ndarray, moving: np.ndarray) -> list[np.ndarray]:
    """The flat blocks of each grey level class.

    Parameters
    ----------
    mean, low : ndarray, shape (N,)
        Of each block its grey level, and what it holds at low frequencies.
    moving : ndarray of int, shape (M,)
        Blocks that may be looked at.

    Returns
    -------
    list of ndarray of int
        Blocks, a class each; a class of few blocks is left out.
    """
    least, most = np.quantile(mean[moving], (0.002, 0.998))
    place = ((mean - least) / max(most - least, 1e-300)).clip(0, 1) ** 0.5
    classes = max(1, min(LEVELS, len(moving) // (4 * LEAST)))
    level = np.minimum((place * classes).astype(int), classes - 1)
    found = []
    for k in range(classes):
        at = moving[level[moving] == k]
        if len(at) < min(LEAST, len(moving)):
            continue
        take = max(LEAST // 2, int(QUIET * len(at)))
        found.append(at[np.argsort(low[at], kind="stable")[:take]])
    return found


def is_structured(power: np.ndarray, coefficients: int) -> bool:
    """Whether what blocks hold in so many coefficients scatters more than white noise does."""
    expected = math.sqrt(2 / coefficients)
    return bool(power.std() > (STRUCTURE_SPREAD + expected) * power.mean())


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
    still = exactly_flat(levels)
    moving = np.flatnonzero((~still & ~_rim_of_padding(levels, still)).numpy())
    share_still = float(still.float().mean())
    if not len(moving):
        return Levels.empty(1.0, blocks)
    rows, chosen, weights = [], [], []
    for flat in flat_of_classes(mean.numpy(), low.numpy(), moving):
        power = high.numpy()[flat]
        variance = float(power.mean())
        if variance <= 0 or is_structured(power, (side - from_y) * (side - from_x)):
            continue
        rows.append((float(mean[flat].mean()), variance, len(flat)))
        chosen.append(flat)
        weights.append(np.full(len(flat), 1 / variance))
    if not rows:
        return Levels.empty(share_still, blocks)
    table = np.array(rows)
    kept = np.concatenate(chosen)
    return Levels(
        table[:, 0],
        table[:, 1],
        table[:, 2],
        still=share_still,
        quiet=blocks[kept],
        weight=torch.tensor(np.concatenate(weights)),
        low=low[kept],
    )


def least_of_channels(
    blocks: torch.Tensor, pixels: int, unit: torch.Tensor | None = None
) -> tuple[Levels, float, float]:
    """Noise variance in the mixture of channels that holds the least, class by class of brightness.

    Structure is much the same in all channels, and leaves little in some mixture of them; white noise
    of equal strength is as strong in each.

    Parameters
    ----------
    blocks : Tensor of float64, shape (C, N, B, B)
        At the same places in each channel.
    pixels : int
        Of a channel, in all: where there are fewer than numbers in the blocks, these are not all news.
    unit : Tensor, shape (C, N), optional
        Standard deviations that variances are relative to.

    Returns
    -------
    levels : Levels
        Without the blocks; `count` is that of whole blocks that would tell as much and do not overlap.
    excess : float
        Variance in the mixture that holds the most, over that in the one that holds the least.
    unrest : float
        How much the blocks scatter in the former, squared, over what white noise does: 1 where they
        hold the same everywhere, as noise does, also if it is correlated between the channels.
    """
    side = blocks.shape[-1]
    half = side // 2 + 1
    still = torch.stack([exactly_flat(channel) for channel in blocks])
    rims = [_rim_of_padding(*pair) for pair in zip(blocks, still, strict=True)]
    moving = np.flatnonzero((~still & ~torch.stack(rims)).all(0).numpy())
    if not len(moving):
        return Levels.empty(1.0, blocks[0]), 1.0, 1.0
    basis = cosines(side).double()
    grey = blocks.mean((2, 3))
    coefficients = basis @ (blocks - grey[..., None, None]) @ basis.T
    low = (coefficients[..., :half, :half] ** 2).sum((0, 2, 3))
    high = coefficients[..., half:, half:].flatten(2).permute(1, 0, 2)  # (N, C, F)
    if unit is not None:
        high = high / unit.T[..., None]
    rows, excess, unrest = [], [], []
    numbers = high.shape[-1]
    news = 1 / (1 + numbers * blocks.shape[1] / pixels)  # of a block's numbers: it overlaps others
    for flat in flat_of_classes(grey.mean(0).numpy(), low.numpy(), moving):
        mixtures = torch.linalg.eigh(_between(high[flat]))[1]
        least, most = (
            torch.einsum("ncf,c->nf", high[flat], mixture).square().mean(1).numpy()
            for mixture in (mixtures[:, 0], mixtures[:, -1])
        )
        # of so many mixtures of noise, one holds less by chance, and one more
        count = news * len(flat) * (numbers / HIGH)
        chance = min(0.5, SPREAD * math.sqrt((len(blocks) - 1) / (HIGH * count)))
        variance = float(least.mean()) / (1 - chance)
        if variance <= 0 or is_structured(least, numbers):
            continue
        rows.append((float(grey[:, flat].mean()), variance, count))
        excess.append(float(most.mean()) / (1 + chance) / variance)
        unrest.append(float(most.var() / most.mean() ** 2) * numbers / 2)
    if not rows:
        return Levels.empty(0.0, blocks[0]), 1.0, 1.0
    found = Levels.empty(float(still.any(0).float().mean()), blocks[0])
    mean, variances, count = np.array(rows).T
    found = replace(found, mean=mean, variance=variances, count=count)
    return found, float(np.average(excess, weights=count)), float(np.average(unrest, weights=count))


def _between(high: torch.Tensor) -> torch.Tensor:
    """Covariance of the channels, (C, C), of coefficients (N, C, F) of mean 0."""
    return torch.einsum("ncf,ndf->cd", high, high) / (high.shape[0] * high.shape[2])
