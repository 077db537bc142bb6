"""Multi-scale 3x3 patches: blurred copies of an image, gathered round coordinates (article, 3.1).

In shape comments G counts the regions that are fitted side by side.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

BLUR = 0.5  # Gaussian sd before sampling at scale s > 1, in units of s
LEAST_SHARE = 0.6  # a blurred value counts as known when this share of its kernel was


def patch_offsets(dimensions: int, size: int = 3) -> np.ndarray:
    """Offsets of a 3x3 (or 3x3x3) patch in rows; the middle one is its centre.

    Parameters
    ----------
    dimensions : int
        2 or 3.
    size : int
        3, or 1 for the centre alone.

    Returns
    -------
    ndarray of int, shape (K, D)
    """
    return np.array(list(itertools.product(range(-(size // 2), size // 2 + 1), repeat=dimensions)))


def blur_known(values: np.ndarray, known: np.ndarray, sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian blur of the known values only.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    sd : float
        In pixels.

    Returns
    -------
    blurred, share : ndarray of float32, shape (C, *spatial)
        Blur normalised by the share of the kernel that was known, and that share.
    """
    axes = (0,) + (sd,) * (values.ndim - 1)
    share = gaussian_filter(known.astype(np.float32), axes, mode="nearest", truncate=2.5)
    total = gaussian_filter(
        np.where(known, values, 0).astype(np.float32), axes, mode="nearest", truncate=2.5
    )
    return total / np.maximum(share, 1e-3), share


@dataclass(frozen=True)
class Pyramid:
    """Blurred copies of G regions, one a scale, padded so that every patch index is valid.

    Attributes
    ----------
    values, valid : Tensor, shape (P, S, C)
        Flattened padded pixels, one region after the other; `valid` is 0 beyond the border and at
        unknown pixels.
    pixels, known : Tensor, shape (P, C)
        The unblurred values, and 1 where they are known.
    strides : Tensor of int, shape (G, 1, D)
        Flat step along each axis.
    origin : Tensor of int, shape (G, 1)
        Flat index of a region's first pixel.
    offsets : Tensor of int, shape (G, 1, S, K)
        Flat step from a pixel to each entry of its patch.
    shapes : tuple of tuple of int
        The regions without padding.
    """

    values: torch.Tensor
    valid: torch.Tensor
    pixels: torch.Tensor
    known: torch.Tensor
    strides: torch.Tensor
    origin: torch.Tensor
    offsets: torch.Tensor
    shapes: tuple[tuple[int, ...], ...]

    def index(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Flat index of integer coordinates: (G or 1, N, D) -> (G, N)."""
        return self.origin + (coordinates * self.strides).sum(-1)


def make_pyramid(
    values: np.ndarray,
    weight: np.ndarray,
    scales: tuple[int, ...],
    device: torch.device,
    size: int = 3,
) -> Pyramid:
    """Blur and pad a region for patch gathering.

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)
        Standardised values.
    weight : ndarray, shape (C, *spatial)
        1 known, 0 unknown.
    scales : tuple of int
        Patch spacings in pixels.
    device : torch.device
    size : int
        Pixels along a side of the patches, 3 or 1.

    Returns
    -------
    Pyramid
    """
    pad = max(scales)
    widths = ((0, 0),) + ((pad, pad),) * (values.ndim - 1)
    known = weight > 0
    layers, valid = [], []
    for s in scales:
        if s == 1:
            layers.append(np.where(known, values, 0))
            valid.append(weight)
            continue
        blurred, share = blur_known(values, known, BLUR * s)
        layers.append(blurred)
        valid.append(share > LEAST_SHARE)

    def flat(stack: list[np.ndarray]) -> torch.Tensor:
        padded = np.stack([np.pad(a.astype(np.float32), widths) for a in stack])
        return torch.from_numpy(
            padded.reshape(len(stack), values.shape[0], -1).transpose(2, 0, 1).copy()
        )

    padded_shape = [n + 2 * pad for n in values.shape[1:]]
    strides = tuple(int(np.prod(padded_shape[d + 1 :])) for d in range(len(padded_shape)))
    offsets = patch_offsets(len(strides), size) @ np.array(strides)
    return Pyramid(
        values=flat(layers).to(device),
        valid=flat(valid).to(device),
        pixels=flat([np.where(known, values, 0)])[:, 0].to(device),
        known=flat([weight])[:, 0].to(device),
        strides=torch.tensor(strides)[None, None].to(device),
        origin=torch.tensor([[pad * sum(strides)]]).to(device),
        offsets=torch.from_numpy(np.array(scales)[:, None] * offsets)[None, None].to(device),
        shapes=(values.shape[1:],),
    )


def join_pyramids(pyramids: list[Pyramid]) -> Pyramid:
    """Put the regions of several pyramids side by side.

    Parameters
    ----------
    pyramids : list of Pyramid
        Of as many scales, channels and dimensions, on one device.

    Returns
    -------
    Pyramid
    """
    if len(pyramids) == 1:
        return pyramids[0]
    begins = itertools.accumulate((len(p.values) for p in pyramids), initial=0)
    return Pyramid(
        values=torch.cat([p.values for p in pyramids]),
        valid=torch.cat([p.valid for p in pyramids]),
        pixels=torch.cat([p.pixels for p in pyramids]),
        known=torch.cat([p.known for p in pyramids]),
        strides=torch.cat([p.strides for p in pyramids]),
        origin=torch.cat([p.origin + begin for p, begin in zip(pyramids, begins, strict=False)]),
        offsets=torch.cat([p.offsets for p in pyramids]),
        shapes=tuple(shape for p in pyramids for shape in p.shapes),
    )


def gather_patches(pyramid: Pyramid, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches round flat indices: the reference phi of equation (1) and its mask m.

    Parameters
    ----------
    pyramid : Pyramid
    index : Tensor of int, shape (G, N)

    Returns
    -------
    patches, valid : Tensor, shape (G, N, S, K, C)
    """
    at = index[..., None, None] + pyramid.offsets
    scale = torch.arange(at.shape[-2], device=index.device)[:, None]
    return pyramid.values[at, scale], pyramid.valid[at, scale]
