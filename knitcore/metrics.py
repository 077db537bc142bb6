"""How close an image is to the truth, over a region."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from knitcore.errors import InputError


def grey_range(truth: Any) -> float:
    """Range of grey levels that errors are measured against.

    Parameters
    ----------
    truth : array-like

    Returns
    -------
    float
        255 for uint8, 1 for bool; else the 99.9 minus the 0.1 percentile, so that a hot pixel
        does not flatter the score.
    """
    truth = np.asarray(truth)
    if truth.dtype == np.uint8:
        return 255.0
    if truth.dtype == bool:
        return 1.0
    low, high = np.percentile(truth.astype(np.float64), (0.1, 99.9))
    return float(high - low)


def psnr(image: Any, truth: Any, mask: Any = None, *, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio.

    Parameters
    ----------
    image, truth : array-like
        Of one shape.
    mask : array-like of bool, optional
        Region to score, such as a hole: shape of the images, or of them without their last axes.
    data_range : float, optional
        Peak value; `grey_range` of the truth if left out.

    Returns
    -------
    float
        In dB; infinite for identical regions.

    Raises
    ------
    InputError
        Shapes differ, the region is empty, or the truth is constant and no range is given.
    """
    image, truth, region = _same(image, truth, mask)
    error = (image[region].astype(np.float64) - truth[region].astype(np.float64)) ** 2
    mean = float(error.mean())
    if mean == 0:
        return math.inf
    return 10 * math.log10(_peak(truth, data_range) ** 2 / mean)


def ssim(
    image: Any,
    truth: Any,
    mask: Any = None,
    *,
    data_range: float | None = None,
    channel_axis: int | None = None,
) -> float:
    """Structural similarity, by scikit-image, averaged over a region.

    Parameters
    ----------
    image, truth : array-like
        Of one shape, at least 7 pixels along each axis but the channels.
    mask : array-like of bool, optional
        As for `psnr`; the windows of its pixels reach 3 pixels beyond it.
    data_range : float, optional
        As for `psnr`.
    channel_axis : int, optional
        Axis of colours or channels, averaged over.

    Returns
    -------
    float
        1 for identical images.

    Raises
    ------
    InputError
        As `psnr`.
    """
    from skimage.metrics import structural_similarity

    image, truth, region = _same(image, truth, mask)
    _, each = structural_similarity(
        truth.astype(np.float64),
        image.astype(np.float64),
        data_range=_peak(truth, data_range),
        channel_axis=channel_axis,
        full=True,
    )
    return float(each[region].mean())


def _same(image: Any, truth: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, truth = np.asarray(image), np.asarray(truth)
    if image.shape != truth.shape:
        raise InputError(f"shapes differ: image {image.shape}, truth {truth.shape}")
    if mask is None:
        return image, truth, np.ones(image.shape, bool)
    region = np.asarray(mask, bool)
    if region.shape != image.shape[: region.ndim]:
        raise InputError(f"the mask is {region.shape}, the images are {image.shape}")
    if not region.any():
        raise InputError("the mask is empty: there is nothing to score")
    return image, truth, region


def _peak(truth: np.ndarray, data_range: float | None) -> float:
    peak = grey_range(truth) if data_range is None else data_range
    if not peak > 0:
        raise InputError("the truth is constant: give data_range")
    return peak
