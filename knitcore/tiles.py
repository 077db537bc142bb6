"""Where a step looks: coordinates in tiles, so that each has its neighbours at hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from knitcore.patches import Pyramid
from knitcore.recipe import Recipe

DRAWS = 4096  # random draws at a time: some hundredths of a second


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
    """Coordinates of one pass: whole tiles, flattened, as many of each region.

    Attributes
    ----------
    corners : Tensor of int, shape (G, T, D)
        First pixels of the tiles, on the CPU.
    position : Tensor of int, shape (G, N, D)
    index : Tensor of int, shape (G, N)
        Flat index into the pyramid.
    tile : tuple of int
    core : Tensor or None, shape (T, *tile)
        See `knitcore.losses.consistency_loss`; None when the tiles are a random sample.
    share : float
        Share of the region's coordinates that this pass stands for.
    """

    corners: torch.Tensor
    position: torch.Tensor
    index: torch.Tensor
    tile: tuple[int, ...]
    core: torch.Tensor | None
    share: float


def step_batches(
    recipe: Recipe,
    tile: tuple[int, ...],
    reach: int,
    pyramid: Pyramid,
    draws: list[torch.Generator],
) -> Iterator[Iterable[Batch]]:
    """Coordinates of one optimiser step after the other, without end, never waiting for the device.

    Parameters
    ----------
    recipe : Recipe
    tile : tuple of int
    reach : int
        Largest patch scale: width of the halo that passes share.
    pyramid : Pyramid
        Of a single region, if the recipe draws no random tiles.
    draws : list of torch.Generator
        One a region, so that none depends on its company.

    Yields
    ------
    iterable of Batch
        A few random tiles of each region, or all of the region in passes.
    """
    device = pyramid.values.device
    sides = [torch.arange(t) for t in tile]
    local = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(tile)).to(device)

    def batch(
        corners: torch.Tensor, there: torch.Tensor, core: torch.Tensor | None, share: float
    ) -> Batch:
        position = (there[:, :, None] + local).reshape(len(there), -1, len(tile))
        return Batch(corners, position, pyramid.index(position), tile, core, share)

    if recipe.tiles:
        for corners in _corners(recipe, tile, pyramid.shapes, draws):
            # drawn on the CPU, so that devices agree, and brought over many steps at a time
            there = corners.pin_memory() if device.type == "cuda" else corners
            there = there.to(device, non_blocking=True)
            for here, away in zip(corners, there, strict=True):
                yield [batch(here, away, None, 1.0)]
    [shape] = pyramid.shapes

    def passes() -> Iterator[Batch]:
        for cores in itertools.product(
            *(list(_cores(n, t, reach)) for n, t in zip(shape, tile, strict=True))
        ):
            corner = torch.tensor([[[start for start, _, _ in cores]]])
            core = torch.ones(1, *tile)
            for axis, (start, low, high) in enumerate(cores):
                along = torch.arange(tile[axis]) + start
                view = [1] * (len(tile) + 1)
                view[axis + 1] = -1
                core = core * ((along >= low) & (along < high)).float().view(view)
            share = float(core.sum()) / math.prod(shape)
            there = corner.to(device, non_blocking=True)
            yield batch(corner, there, core.to(device, non_blocking=True), share)

    while True:
        yield passes()


def _corners(
    recipe: Recipe,
    tile: tuple[int, ...],
    shapes: tuple[tuple[int, ...], ...],
    draws: list[torch.Generator],
) -> Iterator[torch.Tensor]:
    """Random tiles of some steps at a time, without end: (steps, G, T, D)."""
    spans = [[n - t + 1 for n, t in zip(shape, tile, strict=True)] for shape in shapes]
    steps = min(recipe.steps, max(1, DRAWS // (len(draws) * len(tile))))
    while True:
        drawn = [
            torch.randint(0, span, (recipe.tiles,), generator=draw)
            for _ in range(steps)
            for draw, own in zip(draws, spans, strict=True)
            for span in own
        ]
        yield torch.stack(drawn).view(steps, len(draws), len(tile), -1).transpose(2, 3)


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
        Of a single region.

    Returns
    -------
    patch entries, pixels : Tensor, shape (1,)
    """
    [shape] = pyramid.shapes
    reach = [range(n) for n in shape]
    total = pyramid.values.new_zeros(1)
    # an entry (s, k) of all patches together is the region shifted by s * k
    first = torch.tensor(list(itertools.product(*(r for r in reach[:-1]), (0,))))
    [rows] = pyramid.index(first.to(pyramid.values.device)[None])
    row = torch.arange(shape[-1], device=rows.device)
    for s, offsets in enumerate(pyramid.offsets[0, 0]):
        for offset in offsets:
            total = total + pyramid.valid[(rows[:, None] + row + offset).reshape(-1), s].sum()
    return total, pyramid.known.sum().reshape(1)
