"""A noisy image at lower resolution, where its noise is weaker and a patch spans more of the scene.

The image is cut to its lowest frequencies, among which white noise stays white. What is found there is
mixed into the low frequencies of the full image: after the multiscale recomposition of Facciolo, Pierazzo
and Morel (2017, doi:10.1137/17M1111826), which puts it in their place.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from knitcore.noise_model import Noise

# Shares of the coarse image's band up to which it counts fully, and from which on not at all: its
# highest frequencies are cut off from what they belong to
FULL, NONE = 0.55, 0.85
LEAST_SIDE = 16  # pixels of a coarse image
WEAK, STRONG = 18.0, 12.0  # the picture's variance over the noise's: none is mixed in, or all


def cosine_transform(values: torch.Tensor) -> torch.Tensor:
    """Orthonormal DCT-II along the last axis, by an FFT of the same length (Makhoul 1980)."""
    n = values.shape[-1]
    order = torch.cat([values[..., ::2], values[..., 1::2].flip(-1)], -1)
    out = (torch.fft.fft(order) * _turns(n, values)).real * math.sqrt(2 / n)
    out[..., 0] /= math.sqrt(2)
    return out


def inverse_cosine_transform(waves: torch.Tensor) -> torch.Tensor:
    """The inverse of `cosine_transform`."""
    n = waves.shape[-1]
    waves = waves * math.sqrt(n / 2)
    waves[..., 0] *= math.sqrt(2)
    mirrored = torch.cat([torch.zeros_like(waves[..., :1]), waves[..., 1:].flip(-1)], -1)
    order = torch.fft.ifft(torch.complex(waves, -mirrored) / _turns(n, waves)).real
    out = torch.empty_like(waves)
    out[..., ::2], out[..., 1::2] = order[..., : (n + 1) // 2], order[..., (n + 1) // 2 :].flip(-1)
    return out


def _turns(n: int, like: torch.Tensor) -> torch.Tensor:
    angle = torch.arange(n, dtype=torch.float64) * (-math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(like.device)


def to_waves(planes: torch.Tensor) -> torch.Tensor:
    """Cosine transform of the last two axes."""
    return cosine_transform(cosine_transform(planes).mT).mT


def to_planes(waves: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_waves`."""
    return inverse_cosine_transform(inverse_cosine_transform(waves).mT).mT


def coarse_sides(sides: tuple[int, int], factor: float) -> tuple[int, int]:
    """Sides of a coarse plane."""
    return round(sides[0] / factor), round(sides[1] / factor)


def gain_of(sides: tuple[int, int], small: tuple[int, int]) -> float:
    """White noise of variance 1 has 1 / gain^2 on the coarse planes."""
    return math.sqrt(math.prod(sides) / math.prod(small))


def shrink(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Planes at a coarser resolution, cut to their lowest waves: (C, Z, Y, X) to (C, Z, Y', X')."""
    sides = (values.shape[-2], values.shape[-1])
    high, wide = coarse_sides(sides, factor)
    # one by one: a transform takes several times the memory of what it transforms
    planes = [
        to_planes(to_waves(plane)[..., :high, :wide].contiguous()) for plane in values.flatten(0, 1)
    ]
    out = torch.stack(planes).div_(gain_of(sides, (high, wide)))
    return out.view(*values.shape[:2], high, wide)


def mix(
    values: torch.Tensor, coarse: list[tuple[torch.Tensor, float]], strength: float = 1.0
) -> torch.Tensor:
    """Move low waves towards those of coarse images, each by a share of the way.

    Parameters
    ----------
    values : Tensor, shape (C, Z, Y, X)
        Left as it is.
    coarse : list of (Tensor, float)
        Coarse images (C, Z, Y', X'), and their shares.
    strength : float
        Times all shares.

    Returns
    -------
    Tensor, shape (C, Z, Y, X)
    """
    if not coarse:
        return values
    sides = (values.shape[-2], values.shape[-1])
    out = values.clone()
    for number, plane in enumerate(out.flatten(0, 1)):
        waves = to_waves(plane)
        change = torch.zeros_like(plane)
        for image, share in coarse:
            low = image.flatten(0, 1)[number]
            high, wide = low.shape
            moved = to_waves(low).mul_(gain_of(sides, (high, wide))) - waves[:high, :wide]
            change[:high, :wide] += strength * share * taper(low.shape, low.device) * moved
        plane += to_planes(change)
    return out


def taper(sides: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """How much each wave of a coarse plane counts."""
    along = [
        ((NONE - torch.arange(n, device=device) / n) / (NONE - FULL)).clamp(0, 1) for n in sides
    ]
    return along[0][:, None] * along[1]


def noise_at(noise: Noise, gain: float) -> Noise:
    """White noise on a coarse image whose values are multiplied by `gain`: as strong as before.

    The variance at a value follows its grey level on the full image, which is smaller by the gain.
    """
    return replace(noise, gain=tuple(one / gain for one in noise.gain))


def contrast(picture: torch.Tensor, noise: Noise) -> float:
    """A picture's variance (C, Z, Y, X) over the noise's."""
    return float(picture[..., ::2, ::2].var() / noise.variance(picture).mean())


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
