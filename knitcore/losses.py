"""The article's equations, one function each.

Every loss is a mean per ensemble member, shape (E,): members never influence each other.
Tiles: coordinates come in T square tiles, N = T * prod(tile), so that neighbours are at hand.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable
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
    grid = patches.unflatten(1, (-1, math.prod(tile))).flatten(-3, -2)
    reach = 1 if patches.shape[-2] > 1 else 0  # patches of a single pixel have no neighbours
    over = tile if core is None or region is None else region
    pairs = tile_pairs(tile, over, scales, reach, patches.device)
    weight = pairs.weight / len(grid[0]) if core is None else pairs.weight * pairs.seen_in(core)
    found: torch.Tensor = PairedSquares.apply(grid, weight[..., None] / grid.shape[-1], pairs)
    return found


@dataclass(frozen=True)
class TilePairs:
    """Which position of a tile each patch entry points to, for n positions and J = S*K entries.

    Attributes
    ----------
    there : Tensor of int, shape (n, J)
        Flat positions; the coordinate's own where the entry points out of the tile.
    back : Tensor of int, shape (n, J)
        The other way: flat index into (n, J) of the entry that points here, or of this position's own
        centre, which is no pair.
    weight : Tensor of float32, shape (n, J)
        What a pair's square counts for, in a mean over pairs and entries; 0 where there is no pair.
    centre : int
        Entry of a patch's own centre.
    """

    there: torch.Tensor
    back: torch.Tensor
    weight: torch.Tensor
    centre: int

    def seen_in(self, core: torch.Tensor) -> torch.Tensor:
        """Values of (T, *tile) at the positions pointed to, (T, n, J)."""
        return core.flatten(1)[:, self.there]


@lru_cache(maxsize=8)
def tile_pairs(
    tile: tuple[int, ...],
    region: tuple[int, ...],
    scales: tuple[int, ...],
    reach: int,
    device: torch.device,
) -> TilePairs:
    """The pairs of equation (2) in a tile.

    Parameters
    ----------
    tile : tuple of int
    region : tuple of int
        Sides of the grid whose pairs the mean is taken over.
    scales : tuple of int
        Patch spacings in pixels.
    reach : int
        Patch entries on each side of the centre.
    device : torch.device

    Returns
    -------
    TilePairs
    """
    sides = torch.tensor(tile)
    place = torch.stack(torch.meshgrid(*map(torch.arange, tile), indexing="ij"), -1).flatten(0, -2)
    strides = torch.tensor([math.prod(tile[axis + 1 :]) for axis in range(len(tile))])
    steps = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=len(tile))))
    offsets = torch.cat([steps * scale for scale in scales])
    entry, centre = torch.arange(len(offsets)), len(steps) // 2
    own = torch.arange(len(place))[:, None]

    def pointed(offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat positions at these offsets, and whether they lie in the tile; a centre has no pair."""
        there = place[:, None] + offsets
        inside = ((there >= 0) & (there < sides)).all(-1) & (entry != centre)
        return (there * strides).sum(-1), inside

    there, inside = pointed(offsets)
    origin, comes = pointed(-offsets)
    back = torch.where(comes, origin * len(offsets) + entry, own * len(offsets) + centre)
    counts = (torch.tensor(region) - offsets.abs()).clamp_min(0).prod(-1).clamp_min(1)
    weight = inside.float() / counts / inside.any(0).sum().clamp_min(1)
    # not waited for: a step on a GPU must not
    there = torch.where(inside, there, own).to(device, non_blocking=True)
    back, weight = (part.to(device, non_blocking=True) for part in (back, weight))
    return TilePairs(there, back, weight, centre)


class PairedSquares(torch.autograd.Function):
    """Weighted sum of the squares of equation (2), a step of its own: differences are kept once.

    Its gradient gathers what comes back to a centre rather than scatter it: quicker, and in the same
    order each time, on a GPU, too.
    """

    @staticmethod
    def forward(
        ctx: Any, grid: torch.Tensor, weight: torch.Tensor, pairs: TilePairs
    ) -> torch.Tensor:
        """(E, T, n, J, C), float32, to (E,); `weight` is broadcast against the last four axes."""
        centres = grid[..., pairs.centre, :].flatten(0, 1)
        off = grid - centres.index_select(1, pairs.there.flatten()).view_as(grid)
        weighted = off * weight
        ctx.pairs = pairs
        ctx.save_for_backward(weighted)
        return torch.linalg.vecdot(weighted.flatten(1), off.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """2 * weight * difference to each entry, and minus their sum to the centre they point to."""
        [weighted] = ctx.saved_tensors
        slope = weighted * (2 * gradient).view(-1, 1, 1, 1, 1)
        entries = slope.flatten(2, 3).flatten(0, 1)
        come = entries.index_select(1, ctx.pairs.back.flatten()).view_as(slope).sum(3)
        slope[..., ctx.pairs.centre, :] -= come
        return slope, None, None


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
