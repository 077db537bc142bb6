"""Interpolation learned from the image's own coarser scale, for images sampled without blur.

The image is thinned out by two once more; what the interpolation of the thinned image lacks is known
there, and is fitted by linear filters of 7x7 pixels: one for each phase of the finer grid and each
direction, strength and coherence of the gradient (Romano, Isidoro and Milanfar 2017, with the image
itself as the only example). A picture need not look alike at both scales, so the correction is
weighed by what such filters of the scale below were worth at this one.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import torch
import torch.nn.functional as F

from knitcore.degradation import delta_kernel, sample_origin
from knitcore.sampling import Degradation, enlarge

SIDE = 7  # of a filter, fine pixels
DIRECTIONS = 8
STRENGTHS = (20.0, 100.0, 500.0)  # squared gradients, of a range of 255
COHERENCES = (0.4, 0.75)
CLASSES = DIRECTIONS * (len(STRENGTHS) + 1) * (len(COHERENCES) + 1)
RIDGE = 300.0  # of the filters towards their phase's common one, per pixel and class
LIMIT = 64.0  # of a correction, and of values beyond the image's range
LEAST_SIDE = 32  # coarse pixels: below, too few examples


def can_learn(shape: Sequence[int], scale: Sequence[float]) -> bool:
    """Whether the factor is made of steps of two in a plane that is large enough."""
    return (
        len(scale) == 2
        and scale[0] == scale[1]
        and scale[0] in (2, 4, 8)
        and min(shape) >= LEAST_SIDE
    )


def learned_steps(
    data: torch.Tensor, doublings: int, anchor: str
) -> Generator[torch.Tensor | None, None, torch.Tensor]:
    """Double an image some times.

    Parameters
    ----------
    data : Tensor, shape (C, Y, X)
        In units of a 255th of the image's range.
    doublings : int
    anchor : str
        "centre" or "corner".

    Yields
    ------
    Tensor or None
        The enlarged image after each doubling.

    Returns
    -------
    Tensor, shape (C, Y 2^doublings, X 2^doublings)
    """
    data = data.clamp(-LIMIT, 255 + LIMIT)  # a hot pixel would be the only example
    thin = _thinned(data, anchor)
    yield None
    below = yield from _learn(thin, anchor)
    told = yield from _corrected(thin, below, anchor)
    plain = _doubled(thin, anchor)
    rows, columns = plain.shape[1:]
    change, lack = told - plain, data[:, :rows, :columns] - plain
    worth = float((change * lack).sum() / change.square().sum().clamp_min(1e-9))
    weight = min(max(worth, 0.0), 1.0)
    filters = yield from _learn(data, anchor)
    for _ in range(doublings):
        plain = _doubled(data, anchor)
        told = yield from _corrected(data, filters, anchor)
        data = plain + (weight * (told - plain)).clamp(-LIMIT, LIMIT)
        yield data
    return data


def _doubled(image: torch.Tensor, anchor: str) -> torch.Tensor:
    fine = [2 * n for n in image.shape[1:]]
    return enlarge(image, fine, (2.0, 2.0), sample_origin((2.0, 2.0), anchor))


def _thinned(image: torch.Tensor, anchor: str) -> torch.Tensor:
    """Every second sample, or the midpoints of each four."""
    fine = [n // 2 * 2 for n in image.shape[1:]]
    scale = (2.0, 2.0)
    origin = sample_origin(scale, anchor)
    kernel = delta_kernel(scale, anchor)
    degrade = Degradation(kernel, [n // 2 for n in fine], fine, scale, origin, image.device)
    return degrade(image[:, : fine[0], : fine[1]])


def _features(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class of each pixel, its phase included, (Y, X); and the image padded for the filters."""
    grey = image.mean(0)
    gy, gx = torch.gradient(grey)
    products = torch.stack([gy * gy, gx * gx, gy * gx])
    yy, xx, yx = F.avg_pool2d(F.pad(products[None], (2,) * 4, mode="reflect"), 5, 1)[0]
    angle = 0.5 * torch.atan2(2 * yx, xx - yy)
    total = yy + xx
    coherence = ((yy - xx).square() + 4 * yx.square()).sqrt() / (total + 1)
    direction = (angle / math.pi * DIRECTIONS + 0.5 * DIRECTIONS + 0.5).long() % DIRECTIONS
    strong = sum((total > least).long() for least in STRENGTHS)
    clear = sum((coherence > least).long() for least in COHERENCES)
    kind = (strong * (len(COHERENCES) + 1) + clear) * DIRECTIONS + direction
    rows, columns = (torch.arange(n, device=image.device) % 2 for n in grey.shape)
    padded = F.pad(image[:, None], (SIDE // 2,) * 4, mode="reflect")
    return kind * 4 + rows[:, None] * 2 + columns, padded


def _patches(padded: torch.Tensor, top: int, bottom: int) -> torch.Tensor:
    """Neighbourhoods less their centre of the pixels of some rows, (C, SIDE^2, pixels)."""
    found = F.unfold(padded[:, :, top : bottom + SIDE - 1], SIDE)
    return found - found[:, SIDE * SIDE // 2, None]


def _learn(data: torch.Tensor, anchor: str) -> Generator[None, None, torch.Tensor]:
    """Filters (classes and phases, SIDE^2) from an image and itself thinned, in eight positions."""
    kinds, size = CLASSES * 4, SIDE * SIDE
    square, mixed = data.new_zeros((kinds, size, size)), data.new_zeros((kinds, size))
    for turn in range(8):
        image = torch.rot90(data if turn < 4 else data.flip(2), turn % 4, (1, 2)).contiguous()
        rows, columns = (n // 2 * 2 for n in image.shape[1:])
        image = image[:, :rows, :columns]
        plain = _doubled(_thinned(image, anchor), anchor)
        kind, padded = _features(plain)
        order = kind.reshape(-1).argsort()
        patches = _patches(padded, 0, rows)[:, :, order]
        lack = (image - plain).reshape(len(image), -1)[:, order]
        yield
        start = 0
        for number, count in enumerate(torch.bincount(kind.reshape(-1), minlength=kinds).tolist()):
            some = slice(start, start + count)
            start += count
            if count:
                part = patches[:, :, some]
                square[number] += (part @ part.transpose(1, 2)).sum(0)
                mixed[number] += (part @ lack[:, some, None]).sum((0, 2))
            if number % 96 == 95:
                yield
    one = torch.eye(size, device=data.device)
    whole = square.view(CLASSES, 4, size, size).sum(0)
    level = whole.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    common = torch.linalg.solve(
        whole + (0.01 * RIDGE * 1e-2 * level + 1e-3) * one, mixed.view(CLASSES, 4, size).sum(0)
    ).repeat(CLASSES, 1)
    pull = RIDGE * data.numel() * 8 / kinds
    return torch.linalg.solve(square + pull * one, mixed + pull * common)


def _corrected(
    data: torch.Tensor, filters: torch.Tensor, anchor: str
) -> Generator[None, None, torch.Tensor]:
    """The doubled image with what the filters say it lacks."""
    image = _doubled(data, anchor)
    kind, padded = _features(image)
    result = image.clone()
    for top in range(0, image.shape[1], 32):
        bottom = min(top + 32, image.shape[1])
        weights = filters[kind[top:bottom].reshape(-1)]
        change = torch.einsum("ckn,nk->cn", _patches(padded, top, bottom), weights)
        result[:, top:bottom] += change.view(len(image), bottom - top, -1)
        yield
    return result
