"""A noisy image at lower resolution, where its noise is weaker and a patch spans more of the scene.

The image is cut to its lowest frequencies, among which white noise stays white. What is found there is
mixed into the low frequencies of the full image: after the multiscale recomposition of Facciolo, Pierazzo
and Morel (2017, doi:10.1137/17M1111826), which puts it in their place.
"""

from __future__ import annotations

import math

import torch

# Shares of the coarse image's band up to which it counts fully, and from which on not at all: its
# highest frequencies are cut off from what they belong to
FULL, NONE = 0.55, 0.85
LEAST_SIDE = 16  # pixels of a coarse image
WEAK, STRONG = 18.0, 12.0  # the picture's variance over the noise's: none is mixed in, or all


class CoarseScale:
    """From planes to coarser ones and back.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) of the planes.
    factor : float
        By how much both sides shrink.
    device : torch.device

    Attributes
    ----------
    gain : float
        White noise of variance 1 has 1 / gain^2 on the coarse planes.
    """

    def __init__(self, shape: tuple[int, int], factor: float, device: torch.device) -> None:
        self._down: list[torch.Tensor] = []
        self._up: list[torch.Tensor] = []
        self.gain = 1.0
        for length in shape:
            short = max(1, round(length / factor))
            gain = math.sqrt(length / short)
            wide, narrow = cosines(length, short), cosines(short, short)
            share = torch.arange(short, dtype=wide.dtype) / short
            taper = ((NONE - share) / (NONE - FULL)).clamp(0, 1)
            self._down.append((narrow.T @ wide / gain).float().to(device))
            self._up.append((wide.T @ (taper[:, None] * narrow) * gain).float().to(device))
            self.gain *= gain

    def shrink(self, values: torch.Tensor) -> torch.Tensor:
        """Planes at the coarse resolution: (..., Y, X) to (..., Y', X')."""
        return self._down[0] @ values @ self._down[1].T

    def change(self, values: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """What takes the low frequencies of `values` (..., Y, X) to those of `coarse` (..., Y', X')."""
        return self._up[0] @ (coarse - self.shrink(values)) @ self._up[1].T


def cosines(length: int, count: int) -> torch.Tensor:
    """The lowest waves of the orthonormal cosine transform (DCT-II): float64, (count, length)."""
    place = torch.arange(length, dtype=torch.float64) + 0.5
    wave = torch.arange(count, dtype=torch.float64)[:, None]
    rows = torch.cos(math.pi / length * wave * place) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows


def coarse_shares(weight: float, count: int, contrast: float) -> list[float]:
    """How much of each coarse image is mixed in, the finest first; each has half of the one before.

    Parameters
    ----------
    weight : float
        Of the finest, where the noise is strong.
    count : int
    contrast : float
        The picture's variance over the noise's.

    Returns
    -------
    list of float
        Empty if there is nothing to mix in.
    """
    first = weight * min(1.0, (WEAK - contrast) / (WEAK - STRONG))
    return [first / 2**k for k in range(count)] if first > 0 else []
