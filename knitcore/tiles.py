"""Where a step looks: coordinates in tiles, so that each has its neighbours at hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from knitcore.patches import Pyramid
from knitcore.recipe import Recipe


def tile_shape(recipe: Recipe, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of the tiles coordinates are drawn in: about as many pixels in 3-D as in 2-D.

    Parameters
    ----------
    recipe : Recipe
    shape : tuple of int
        Of the region.

    Returns
    -------
    tuple of int
    """
    side = recipe.tile
    if len(shape) == 3:
        side = max(max(recipe.scales) + 2, round(side ** (2 / 3)))
    return tuple(min(side, n) for n in shape)


@dataclass(frozen=True)
class Batch:
    """Coordinates of one pass: whole tiles, flattened.

    Attributes
    ----------
    position : Tensor of int, shape (N, D)
    index : Tensor of int, shape (N,)
        Flat index into the pyramid.
    tile : tuple of int
    core : Tensor or None, shape (T, *tile)
        See `knitcore.losses.consistency_loss`; None when the tiles are a random sample.
    share : float
        Share of the region's coordinates that this pass stands for.
    """

    position: torch.Tensor
    index: torch.Tensor
    tile: tuple[int, ...]
    core: torch.Tensor | None
    share: float


def step_batches(
    recipe: Recipe,
    shape: tuple[int, ...],
    tile: tuple[int, ...],
    reach: int,
    pyramid: Pyramid,
    draw: torch.Generator,
) -> Iterator[Batch]:
    """Coordinates of one optimiser step: a few random tiles, or all of the region in passes.

    Parameters
    ----------
    recipe : Recipe
    shape, tile : tuple of int
    reach : int
        Largest patch scale: width of the halo that passes share.
    pyramid : Pyramid
    draw : torch.Generator

    Yields
    ------
    Batch
    """
    device = pyramid.values.device
    local = torch.stack(torch.meshgrid(*(torch.arange(t) for t in tile), indexing="ij"), -1)
    local = local.reshape(-1, len(tile))

    def batch(corners: torch.Tensor, core: torch.Tensor | None, share: float) -> Batch:
        position = (corners[:, None] + local).reshape(-1, len(tile)).to(device)
        return Batch(position, pyramid.index(position), tile, core, share)

    if recipe.tiles:
        spans = [n - t + 1 for n, t in zip(shape, tile, strict=True)]
        corners = [torch.randint(0, span, (recipe.tiles,), generator=draw) for span in spans]
        yield batch(torch.stack(corners, -1), None, 1.0)
        return
    for cores in itertools.product(
        *(list(_cores(n, t, reach)) for n, t in zip(shape, tile, strict=True))
    ):
        corner = torch.tensor([start for start, _, _ in cores])
        core = torch.ones(1, *tile)
        for axis, (start, low, high) in enumerate(cores):
            along = torch.arange(tile[axis]) + start
            view = [1] * (len(tile) + 1)
            view[axis + 1] = -1
            core = core * ((along >= low) & (along < high)).float().view(view)
        yield batch(corner[None], core.to(device), float(core.sum()) / math.prod(shape))


def _cores(length: int, tile: int, reach: int) -> Iterator[tuple[int, int, int]]:
    """Tile starts along an axis, each with the stretch of pixels it answers for."""
    if tile >= length:
        yield 0, 0, length
        return
    inner = max(1, tile - 2 * reach)
    low = 0
    while low < length:
        start = min(max(0, low - reach), length - tile)
        high = length if start == length - tile else low + inner
        yield start, low, high
        low = high


def whole_counts(pyramid: Pyramid) -> tuple[torch.Tensor, torch.Tensor]:
    """Denominators of equations (1) and (3) over the whole region.

    Parameters
    ----------
    pyramid : Pyramid

    Returns
    -------
    patch entries, pixels : Tensor, shape (1,)
    """
    reach = [range(n) for n in pyramid.shape]
    total = pyramid.values.new_zeros(1)
    # an entry (s, k) of all patches together is the region shifted by s * k
    first = torch.tensor(list(itertools.product(*(r for r in reach[:-1]), (0,))))
    rows = pyramid.index(first.to(pyramid.values.device))
    row = torch.arange(pyramid.shape[-1], device=rows.device)
    for s in range(pyramid.offsets.shape[0]):
        for offset in pyramid.offsets[s]:
            total = total + pyramid.valid[(rows[:, None] + row + offset).reshape(-1), s].sum()
    return total, pyramid.known.sum().reshape(1)
