"""Classical methods without learning, as scikit-image, OpenCV and the core have them.

They are quick, and the bar that everything else must clear. All take one picture, (Y, X) or (Y, X, C),
of any real dtype, and return float32 in its grey levels; inpainting leaves known pixels as they are.
OpenCV (Telea, Navier-Stokes) and PyWavelets come with the extra `bench`; BM3D is for non-commercial use
only and no dependency of anything here: ``pip install bm3d`` by hand if its licence covers you.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from knitcore.baselines.common import to_planes
from knitcore.degradation import output_shape, sample_origin
from knitcore.errors import InputError
from knitcore.harmonic import harmonic_fill

TV_WEIGHT = 0.8  # of sigma; sought on two photographs for the best PSNR, as the other settings here
TV_STEPS, TV_INNER = 300, 5


def _mask(image: np.ndarray, mask: Any) -> np.ndarray:
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != image.shape[:2]:
        raise InputError(f"the mask is {mask.shape}, the picture {image.shape[:2]} (Y, X)")
    if mask.all():
        raise InputError("no known pixel is left")
    return mask


def _channels(image: np.ndarray) -> int | None:
    return -1 if image.ndim == 3 else None


def inpaint_harmonic(image: Any, mask: Any) -> np.ndarray:
    """The smoothest membrane through the known pixels: Laplace's equation.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    mask : array-like of bool, shape (Y, X)
        True where pixels are missing.

    Returns
    -------
    ndarray of float32
        Shape of `image`, in grey levels.
    """
    image = np.asarray(image)
    mask = _mask(image, mask)
    planes = np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float64)
    planes[:, mask] = 0
    filled = harmonic_fill(planes, np.broadcast_to(~mask, planes.shape), mask)
    return np.moveaxis(filled, 0, -1).reshape(image.shape).astype(np.float32)


def inpaint_biharmonic(image: Any, mask: Any) -> np.ndarray:
    """The smoothest plate through the known pixels (scikit-image); as `inpaint_harmonic`."""
    from skimage.restoration import inpaint_biharmonic as fill

    image = np.asarray(image)
    mask = _mask(image, mask)
    planes, scaling = to_planes(image, ~mask)
    filled = fill(planes.astype(np.float64), mask, channel_axis=0)
    return scaling.restore(filled)


def _opencv(image: Any, mask: Any, flag: str) -> np.ndarray:
    import cv2

    image = np.asarray(image)
    mask = _mask(image, mask)
    if image.dtype == np.uint8 and image.shape[2:] in ((), (3,)):
        blank = np.where(mask.reshape(mask.shape + (1,) * (image.ndim - 2)), 0, image)
        filled = cv2.inpaint(
            np.ascontiguousarray(blank), mask.astype(np.uint8), 3, getattr(cv2, flag)
        )
        return filled.astype(np.float32)
    planes, scaling = to_planes(image, ~mask)
    # 16 bits: its Telea fills floating point with nonsense
    deep = (planes * 65535 + 0.5).astype(np.uint16)
    fill = [cv2.inpaint(p, mask.astype(np.uint8), 3, getattr(cv2, flag)) for p in deep]
    return scaling.restore(np.where(mask, np.stack(fill) / np.float32(65535), planes))


def inpaint_telea(image: Any, mask: Any) -> np.ndarray:
    """Fast marching from the rim inwards (Telea 2004, OpenCV); as `inpaint_harmonic`."""
    return _opencv(image, mask, "INPAINT_TELEA")


def inpaint_navier_stokes(image: Any, mask: Any) -> np.ndarray:
    """Isophotes carried on like streamlines (Bertalmio et al. 2001, OpenCV); as `inpaint_harmonic`."""
    return _opencv(image, mask, "INPAINT_NS")


def noise_sigma(image: Any) -> float:
    """Standard deviation of white noise in grey levels, from the finest diagonal Haar details.

    Their median absolute value is 0.6745 sigma where the picture itself is smooth (Donoho and
    Johnstone 1994); mean of the channels.
    """
    planes = np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float64)
    rows, columns = (n // 2 * 2 for n in planes.shape[1:])
    planes = planes[:, :rows, :columns]
    even, odd = planes[:, ::2], planes[:, 1::2]
    detail = (even[..., ::2] - even[..., 1::2] - odd[..., ::2] + odd[..., 1::2]) / 2
    return float(np.mean(np.median(np.abs(detail), axis=(1, 2))) / 0.6745)


def _scaled(image: Any, sigma: float | None) -> tuple[np.ndarray, Any, float]:
    """The picture (Y, X[, C]) in [0, 1], the way back, and sigma in units of it."""
    image = np.asarray(image)
    planes, scaling = to_planes(image)
    picture = np.moveaxis(planes, 0, -1).reshape(image.shape).astype(np.float64)
    if sigma is None:
        sigma = noise_sigma(image)
    return picture, scaling, max(sigma, 1e-9) / scaling.span


def _back(picture: np.ndarray, scaling: Any) -> np.ndarray:
    return scaling.restore(np.moveaxis(np.atleast_3d(picture), -1, 0))


def denoise_nlm(image: Any, sigma: float | None = None) -> np.ndarray:
    """Non-local means (Buades et al. 2005, scikit-image): patches 5 x 5, distance 6, h = 0.6 sigma.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    sigma : float, optional
        Standard deviation of the noise in grey levels; estimated by `noise_sigma` if not given.

    Returns
    -------
    ndarray of float32
        Shape of `image`, in grey levels.
    """
    from skimage.restoration import denoise_nl_means

    picture, scaling, sigma = _scaled(image, sigma)
    settings: dict[str, Any] = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    clean = denoise_nl_means(
        picture, h=0.6 * sigma, sigma=sigma, channel_axis=_channels(picture), **settings
    )
    return _back(clean, scaling)


def denoise_tv(image: Any, sigma: float | None = None) -> np.ndarray:
    """Total variation (Chambolle 2004, scikit-image), weight 0.8 sigma; as `denoise_nlm`."""
    from skimage.restoration import denoise_tv_chambolle

    picture, scaling, sigma = _scaled(image, sigma)
    clean = denoise_tv_chambolle(
        picture,
        weight=TV_WEIGHT * sigma,
        eps=1e-5,
        max_num_iter=300,
        channel_axis=_channels(picture),
    )
    return _back(clean, scaling)


def denoise_wavelet(image: Any, sigma: float | None = None) -> np.ndarray:
    """BayesShrink of db2 wavelets (scikit-image, PyWavelets); as `denoise_nlm`."""
    from skimage.restoration import denoise_wavelet as shrink

    picture, scaling, sigma = _scaled(image, sigma)
    clean = shrink(
        picture,
        sigma=sigma,
        wavelet="db2",
        method="BayesShrink",
        convert2ycbcr=picture.shape[2:] == (3,),
        rescale_sigma=True,
        channel_axis=_channels(picture),
    )
    return _back(clean, scaling)


def denoise_bm3d(image: Any, sigma: float | None = None) -> np.ndarray:
    """BM3D (Dabov et al. 2007, the authors' package), its standard profile; as `denoise_nlm`."""
    import bm3d

    picture, scaling, sigma = _scaled(image, sigma)
    profile = bm3d.BM3DProfile()
    profile.num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: all cores
    if picture.shape[2:] == (3,):
        clean = bm3d.bm3d_rgb(picture, sigma, profile)
    else:
        each = np.atleast_3d(picture)
        parts = [bm3d.bm3d(each[..., c], sigma, profile) for c in range(each.shape[-1])]
        clean = np.stack(parts, -1).reshape(picture.shape)
    return _back(clean, scaling)


def cubic_rows(count: int, fine: int, scale: float, origin: float) -> np.ndarray:
    """Keys' cubic (a = -1/2) at fine pixels, as a matrix (fine, count); the edge pixel repeated.

    Fine pixel i lies at (i - origin) / scale in coarse pixels.
    """
    rows = np.zeros((fine, count))
    for i in range(fine):
        place = (i - origin) / scale
        below = math.floor(place)
        for at in range(below - 1, below + 3):
            d = abs(place - at)
            weight = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            rows[i, min(max(at, 0), count - 1)] += weight
    return rows


def _bicubic(planes: np.ndarray, scale: float | tuple[float, float], anchor: str) -> np.ndarray:
    coarse, scales = planes.shape[1:], scale if isinstance(scale, tuple) else (scale, scale)
    shape, origin = output_shape(coarse, scales), sample_origin(scales, anchor)
    rows, columns = (
        cubic_rows(n, m, s, o) for n, m, s, o in zip(coarse, shape, scales, origin, strict=True)
    )
    return rows @ planes @ columns.T


def super_resolve_bicubic(
    image: Any, scale: float | tuple[float, float], *, anchor: str = "centre"
) -> np.ndarray:
    """Keys' cubic interpolation: no blur is undone.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    scale : float or (float, float)
        Factor of rows and columns, or of each.
    anchor : str
        "centre": both pictures cover the same place; "corner": coarse pixel i is fine pixel i * scale.

    Returns
    -------
    ndarray of float32, shape (Y', X') or (Y', X', C)
        Sides are those of `image` times `scale`, rounded; in grey levels.
    """
    planes, scaling = to_planes(image)
    return scaling.restore(_bicubic(planes, scale, anchor))


def super_resolve_tv(
    image: Any, scale: float, kernel: Any, *, anchor: str = "centre", weight: float = 0.01
) -> np.ndarray:
    """Deconvolution with the kernel known and total variation of all channels jointly.

    Least of |A x - y|^2 / 2 + weight TV(x) by FISTA from the bicubic picture, the proximal step by
    fast gradient projection (Beck and Teboulle 2009), the dual field kept from step to step.

    Parameters
    ----------
    image, scale, anchor
        As for `super_resolve_bicubic`.
    kernel : array-like, shape (Ky, Kx)
        Weights of the fine pixels round a coarse one; their sum is 1.
    weight : float
        Of the total variation, for values in [0, 1].

    Returns
    -------
    ndarray of float32
        As `super_resolve_bicubic`.
    """
    import torch

    from knitcore.sampling import Degradation

    planes, scaling = to_planes(image)
    coarse, scales = planes.shape[1:], (scale, scale)
    shape = output_shape(coarse, scales)
    degrade = Degradation(
        np.asarray(kernel), coarse, shape, scales, sample_origin(scales, anchor), "cpu"
    )
    data = torch.tensor(planes)
    with torch.no_grad():
        picture = moved = torch.tensor(_bicubic(planes, scale, anchor), dtype=torch.float32)
        dual, speed = torch.zeros((2, *picture.shape)), 1.0
        for _ in range(TV_STEPS):
            target = moved - degrade.transpose(degrade(moved) - data)
            ahead, pace = dual, 1.0
            for _ in range(TV_INNER):
                clean = target - weight * _divergence(ahead)
                new = ahead + _differences(clean) / (8 * weight)
                new = new / new.square().sum((0, 1), keepdim=True).sqrt().clamp_min(1)
                faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
                ahead = new + (pace - 1) / faster * (new - dual)
                dual, pace = new, faster
            result = target - weight * _divergence(dual)
            faster = (1 + math.sqrt(1 + 4 * speed**2)) / 2
            moved = result + (speed - 1) / faster * (result - picture)
            picture, speed = result, faster
    return scaling.restore(picture.numpy())


def _differences(picture: Any) -> Any:
    """Forward differences (2, C, Y, X), 0 at the far edge."""
    import torch
    from torch.nn import functional as F

    down = F.pad(picture[:, 1:] - picture[:, :-1], (0, 0, 0, 1))
    right = F.pad(picture[:, :, 1:] - picture[:, :, :-1], (0, 1))
    return torch.stack([down, right])


def _divergence(field: Any) -> Any:
    """Transpose of `_differences`."""
    from torch.nn import functional as F

    down, right = field[0, :, :-1], field[1, :, :, :-1]
    down = F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
    right = F.pad(right, (1, 0)) - F.pad(right, (0, 1))
    return down + right
