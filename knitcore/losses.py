"""The article's equations, one function each.

Every loss is a mean per ensemble member, shape (E,): members never influence each other.
Tiles: coordinates come in T square tiles, N = T * prod(tile), so that neighbours are at hand.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch.nn import functional as F


def patch_loss(
    patches: torch.Tensor,
    reference: torch.Tensor,
    valid: torch.Tensor,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_Recon, equation (1): squared error of the patches, masked by what is known.

    Parameters
    ----------
    patches : Tensor, shape (..., E, N, S, K, C)
    reference, valid : Tensor, shape (..., E or 1, N, S, K, C)
    count : Tensor, optional
        What to divide by when these are only some of the coordinates (default: sum of `valid`).

    Returns
    -------
    Tensor, shape (..., E)
    """
    over = (-4, -3, -2, -1)
    error = ((patches - reference) ** 2 * valid).sum(over)
    return error / (valid.sum(over) if count is None else count).clamp_min(1)


def pixel_loss(
    pixels: torch.Tensor,
    reference: torch.Tensor,
    known: torch.Tensor,
    norm: str,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_Pixel, equation (3): error of the reconstructed pixels.

    Parameters
    ----------
    pixels : Tensor, shape (..., E, N, C)
    reference, known : Tensor, shape (..., E or 1, N, C)
    norm : {"l1", "l2"}
        The article has l1.
    count : Tensor, optional
        As in `patch_loss`.

    Returns
    -------
    Tensor, shape (..., E)
    """
    error = pixels - reference
    error = error.abs() if norm == "l1" else error**2
    total = known.sum((-2, -1)) if count is None else count
    return (error * known).sum((-2, -1)) / total.clamp_min(1)


def consistency_loss(
    patches: torch.Tensor,
    tile: tuple[int, ...],
    scales: tuple[int, ...],
    core: torch.Tensor | None = None,
    region: tuple[int, ...] | None = None,
) -> torch.Tensor:
    """L_X-patch, equation (2): each patch entry against the centre of the patch it points to.

    Parameters
    ----------
    patches : Tensor, shape (E, T * prod(tile), S, K, C)
    tile : tuple of int
        Sides of a tile; pairs reaching out of their tile are left out of the sum.
    scales : tuple of int
        Patch spacings in pixels.
    core : Tensor, shape (T, *tile), optional
        1 where a coordinate is the tile's own, 0 in the halo it shares with its neighbours.
    region : tuple of int
        With `core`: sides of the whole region, whose pairs the mean is taken over.

    Returns
    -------
    Tensor, shape (E,)
    """
    grid = patches.unflatten(1, (-1, *tile)).flatten(-3, -2)
    # unbind: the gradient of each entry is written once, not as a slice of the whole
    entry = grid.unbind(-2)
    reach = 1 if patches.shape[-2] > 1 else 0  # patches of a single pixel have no neighbours
    offsets = list(itertools.product(range(-reach, reach + 1), repeat=len(tile)))
    middle = len(offsets) // 2
    reference = entry[middle]
    total, entries = 0.0 * reference.flatten(1).sum(1), 0
    for i, scale in enumerate(scales):
        for k, offset in enumerate(offsets):
            if i == 0 and k == middle:
                continue
            if any(abs(o) * scale >= n for o, n in zip(offset, tile, strict=True)):
                continue  # no two coordinates are so far apart
            here = tuple(
                slice(max(0, -o * scale), n - max(0, o * scale))
                for o, n in zip(offset, tile, strict=True)
            )
            there = tuple(
                slice(max(0, o * scale), n - max(0, -o * scale))
                for o, n in zip(offset, tile, strict=True)
            )
            error = (entry[i * len(offsets) + k][:, :, *here] - reference[:, :, *there]) ** 2
            over = tuple(range(1, error.ndim))
            if core is None or region is None:
                total = total + error.mean(over)
            else:
                pairs = math.prod(n - abs(o) * scale for n, o in zip(region, offset, strict=True))
                weight = core[:, *there][None, ..., None]
                total = total + (error * weight).sum(over) / max(1, pairs * error.shape[-1])
            entries += 1
    return total / max(entries, 1)


def degrade_tile(
    pixels: torch.Tensor, kernel: torch.Tensor, factors: tuple[int, ...], offset: tuple[int, ...]
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Blur a tile of fine pixels with the degradation kernel and sample it.

    Parameters
    ----------
    pixels : Tensor, shape (E, *tile, C)
    kernel : Tensor, shape (E, *K)
    factors : tuple of int
    offset : tuple of int
        Fine index of the tile's first pixel, counted from where coarse pixel 0's kernel begins.

    Returns
    -------
    coarse : Tensor, shape (C, E, *n)
        Only coarse pixels whose whole kernel lies in the tile.
    first : tuple of int
        Index of the first of them.
    """
    first = tuple(max(0, -(-o // s)) for o, s in zip(offset, factors, strict=True))
    begin = [f * s - o for f, s, o in zip(first, factors, offset, strict=True)]
    inside: Any = (slice(None), slice(None), *(slice(b, None) for b in begin))
    grid = pixels.movedim(-1, 0)[inside]
    convolve = F.conv2d if len(factors) == 2 else F.conv3d
    return convolve(grid, kernel[:, None], stride=factors, groups=len(kernel)), first


def downsampling_loss(
    coarse: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor, norm: str, count: float
) -> torch.Tensor:
    """Error of the degraded image against the measured one (article, 4.3 and Fig. 5).

    Parameters
    ----------
    coarse : Tensor, shape (C, E, *n)
    reference : Tensor, shape (C, *n)
    weight : Tensor, shape (*n)
        1 where a coarse pixel counts here.
    norm : {"l1", "l2"}
    count : float
        What to divide by.

    Returns
    -------
    Tensor, shape (E,)
    """
    error = coarse - reference[:, None]
    error = error.abs() if norm == "l1" else error**2
    return (error * weight).transpose(0, 1).flatten(1).sum(1) / max(count, 1.0)


def kernel_loss(kernel: torch.Tensor) -> torch.Tensor:
    """|1 - sum of k| of the article (4.3), and how far k's centre of mass is off its middle.

    Parameters
    ----------
    kernel : Tensor, shape (E, *K)

    Returns
    -------
    Tensor, shape (E,)
    """
    total = (1 - kernel.flatten(1).sum(1)).abs()
    for axis, side in enumerate(kernel.shape[1:], 1):
        view = [1] * kernel.ndim
        view[axis] = side
        place = torch.arange(side, device=kernel.device) - (side - 1) / 2
        total = total + (kernel * place.view(view)).flatten(1).sum(1) ** 2
    return total


def adversarial_loss(fake: torch.Tensor) -> torch.Tensor:
    """L_BCE,G of equation (4): the generator's non-saturating binary cross-entropy.

    Parameters
    ----------
    fake : Tensor, shape (E, N, 1)
        Discriminator's logits of synthesised patches.

    Returns
    -------
    Tensor, shape (E,)
    """
    return F.softplus(-fake).mean((1, 2))


def discriminator_loss(
    real: torch.Tensor, fake: torch.Tensor, weight: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Binary cross-entropy of the discriminator, real labels smoothed on one side (article, 3.2).

    Parameters
    ----------
    real, fake : Tensor, shape (E, N, 1)
        Logits.
    weight : Tensor, shape (E or 1, N, 1)
        1 where the real patch is known as a whole.
    smoothing : float
        Real labels are 1 - smoothing (Salimans et al. 2016).

    Returns
    -------
    Tensor, shape (E,)
    """
    labels = torch.full_like(real, 1 - smoothing)
    found = F.binary_cross_entropy_with_logits(real, labels, reduction="none") * weight
    return found.sum((1, 2)) / weight.sum((1, 2)).clamp_min(1) + F.softplus(fake).mean((1, 2))
