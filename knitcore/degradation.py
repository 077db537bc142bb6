"""The kernel by which an image lost its resolution, and where the samples lie.

Coordinates count fine pixels. With the anchor "centre" (areas of both images coincide) coarse sample
i lies at ``i s + (s - 1) / 2``, for an even factor between two fine pixels, so kernels of even size
belong to even factors; with the anchor "corner" (the coarse image is every s-th pixel of the fine
one, from the first) it lies at ``i s``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from knitcore.spectrum import fit_blur

MIDPOINT = np.array([-1.0, 9.0, 9.0, -1.0]) / 16  # Keys' cubic half way between two pixels


def output_shape(shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    """Pixels of the fine image along each axis: n s, rounded half up, at least 1."""
    return tuple(max(1, math.floor(n * s + 0.5 + 1e-9)) for n, s in zip(shape, scale, strict=True))


def sample_origin(scale: Sequence[float], anchor: str = "centre") -> tuple[float, ...]:
    """Where the first coarse sample lies, in fine pixels along each axis."""
    return tuple((s - 1) / 2 if anchor == "centre" else 0.0 for s in scale)


def even_kernel(scale: float, anchor: str = "centre") -> bool:
    """Whether each coarse sample lies half way between two fine pixels, as for even factors."""
    return anchor == "centre" and float(scale).is_integer() and int(scale) % 2 == 0


def delta_kernel(scale: Sequence[float], anchor: str = "centre") -> np.ndarray:
    """No blur: a single 1, or the four weights of the cubic midpoint between fine pixels.

    Parameters
    ----------
    scale : sequence of float
        Factor of each spatial axis.
    anchor : str
        "centre" or "corner".

    Returns
    -------
    ndarray, float64
        1 or 4 pixels along each axis; sum 1.
    """
    kernel = np.ones((1,) * len(scale))
    for axis, factor in enumerate(scale):
        if even_kernel(factor, anchor):
            kernel = kernel * np.moveaxis(MIDPOINT.reshape((4,) + (1,) * (len(scale) - 1)), 0, axis)
    return kernel


def gaussian_kernel(
    sigmas: Sequence[float],
    angle: float = 0.0,
    even: Sequence[bool] | None = None,
    reach: float = 4.0,
) -> np.ndarray:
    """A Gaussian sampled on the fine grid.

    Parameters
    ----------
    sigmas : sequence of float
        Standard deviation along each axis, fine pixels; 0 is no blur along that axis.
    angle : float
        Degrees by which the last two axes are turned: at 0 the last sigma acts along the last axis
        (x), at 45 along the diagonal on which x and y grow together.
    even : sequence of bool, optional
        Axes of an even number of pixels, the centre lying between the middle two.
    reach : float
        The kernel ends this many sigmas from its centre.

    Returns
    -------
    ndarray, float64
        Sum 1, symmetric about its centre.
    """
    dimensions = len(sigmas)
    even = [False] * dimensions if even is None else list(even)
    spread = np.diag(np.square(np.asarray(sigmas, np.float64)))
    if angle:
        # narrower, a turned Gaussian would fall between the pixels
        spread[-2:, -2:] = np.maximum(spread[-2:, -2:], 0.3**2 * np.eye(2))
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.array([[c, s], [-s, c]])  # rows y, x: the x axis goes to (s, c)
        spread[-2:, -2:] = turn @ spread[-2:, -2:] @ turn.T
    axes = []
    for axis in range(dimensions):
        radius = math.ceil(reach * math.sqrt(spread[axis, axis]) - (0.5 if even[axis] else 0))
        size = 2 * max(radius, 0) + 1 + (1 if even[axis] else 0)
        if even[axis]:
            size = max(size, 4)
        axes.append(np.arange(size) - (size - 1) / 2)
    sharp = [
        axis for axis in range(dimensions) if np.all(spread[axis] < 0.2**2)
    ]  # narrower than the grid can show: a delta along that axis
    blurred = [axis for axis in range(dimensions) if axis not in sharp]
    kernel = np.ones([len(a) for a in axes])
    if blurred:
        inverse = np.linalg.inv(spread[np.ix_(blurred, blurred)] + 1e-9 * np.eye(len(blurred)))
        grid = np.stack(np.meshgrid(*axes, indexing="ij"))[blurred]
        kernel = np.exp(-0.5 * np.einsum("i...,ij,j...->...", grid, inverse, grid))
    for axis in sharp:
        one = MIDPOINT if even[axis] else np.ones(1)
        shape = [1] * dimensions
        shape[axis] = len(one)
        index = [slice(None)] * dimensions
        index[axis] = slice((len(axes[axis]) - len(one)) // 2, (len(axes[axis]) + len(one)) // 2)
        kernel = kernel[tuple(index)] * one.reshape(shape)
    return kernel / kernel.sum()


def checked_kernel(kernel: np.ndarray, dimensions: int) -> np.ndarray:
    """A kernel given by the user, its sum brought to 1 and its centre of mass to its middle.

    The middle is that of the array; rows of zeros are added where the mass lies off it by half a
    pixel or more.

    Raises
    ------
    ValueError
        Another number of axes, NaN, or a sum that is not positive.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != dimensions:
        raise ValueError(f"the kernel has {kernel.ndim} axes, the image {dimensions} spatial ones")
    if not np.isfinite(kernel).all() or not kernel.sum() > 1e-12:
        raise ValueError("the kernel holds NaN or infinity, or its sum is not positive")
    kernel = kernel / kernel.sum()
    for axis in range(dimensions):
        off = 2 * round(float(kernel_centre(kernel)[axis]))
        pad = [(0, 0)] * dimensions
        pad[axis] = (max(0, -off), max(0, off))
        if off and abs(off) < 2 * kernel.shape[axis]:
            kernel = np.pad(kernel, pad)
    return kernel


def kernel_centre(kernel: np.ndarray) -> np.ndarray:
    """Centre of mass of a kernel as an offset from the middle of its array, fine pixels."""
    total = kernel.sum()
    grids = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in kernel.shape], indexing="ij")
    return np.array([(g * kernel).sum() / total for g in grids])


def kernel_widths(kernel: np.ndarray) -> np.ndarray:
    """Covariance of a kernel taken as a density, fine pixels squared."""
    total, centre = kernel.sum(), kernel_centre(kernel)
    grids = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in kernel.shape], indexing="ij")
    off = [g - c for g, c in zip(grids, centre, strict=True)]
    return np.array([[(a * b * kernel).sum() / total for b in off] for a in off])


def collapse_kernel(weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """The one kernel that a stack of linear convolution layers amounts to.

    Parameters
    ----------
    weights : sequence of Tensor
        Layer weights (out, in, *size), the first with one input, the last with one output channel;
        no bias, stride 1.

    Returns
    -------
    Tensor, shape of the sum of the sizes less one for each further layer
        Differentiable. Correlating with it (`torch.nn.functional.conv2d`) equals correlating with
        the layers in turn, borders apart.
    """
    dimensions = weights[0].ndim - 2
    axes = tuple(range(2, 2 + dimensions))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    result = weights[0].transpose(0, 1)  # (1, channels, *size): the response to one pixel
    for weight in weights[1:]:
        pad = [n - 1 for n in weight.shape[2:]]
        result = convolve(result, weight.flip(axes), padding=pad)
    return result[0, 0]


def estimate_kernel(
    values: np.ndarray, scale: Sequence[float], anchor: str = "centre"
) -> tuple[np.ndarray, dict[str, Any], float]:
    """The kernel that a coarse image most probably comes from (`knitcore.spectrum`).

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)
        Grey levels, two or three spatial axes.
    scale : sequence of float
        Factor of each spatial axis; along an axis of factor 1 there is no blur.
    anchor : str

    Returns
    -------
    kernel : ndarray
        On the fine grid, sum 1.
    facts : dict
        For the record: family, sigmas (fine and coarse pixels), angle, and how each family fitted.
    noise : float
        Standard deviation of white noise, grey levels.
    """
    spread, facts, noise = fit_blur(values, scale)
    facts = _described(facts, spread, scale)
    if facts["family"] == "delta":
        return delta_kernel(scale, anchor), facts, noise
    even = [even_kernel(factor, anchor) for factor in scale]
    return gaussian_kernel(facts["sigmas_output_pixels"], facts["angle"], even), facts, noise


def _described(facts: dict[str, Any], spread: np.ndarray, scale: Sequence[float]) -> dict[str, Any]:
    """`facts` with the widths and the direction of a covariance, fine pixels squared."""
    sigmas, angle = np.sqrt(np.diag(spread)), 0.0
    if spread[-2, -1]:
        power, axes = np.linalg.eigh(spread[-2:, -2:])
        sigmas[-2:] = np.sqrt(np.maximum(power, 0))
        angle = (math.degrees(math.atan2(axes[0, 1], axes[1, 1])) + 90) % 180 - 90
    return {
        **facts,
        "sigmas_output_pixels": [round(float(s), 4) for s in sigmas],
        "sigmas_input_pixels": [round(float(s / f), 4) for s, f in zip(sigmas, scale, strict=True)],
        "angle": round(angle, 2),
    }


def starting_kernel(
    values: np.ndarray,
    scale: Sequence[float],
    factors: Sequence[float],
    choice: str | np.ndarray,
    anchor: str = "centre",
) -> tuple[np.ndarray, dict[str, Any]]:
    """The kernel that a choice stands for.

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)
        The coarse image, for "estimate".
    scale : sequence of float
        Factor of the grid that the kernel is for.
    factors : sequence of float
        Factor of the output whose pixels "gaussian:" counts; the same as `scale` but for a solver
        that works on a grid of whole factors.
    choice : str or ndarray
        "estimate", "delta", "gaussian:S" or "gaussian:SY,SX,ANGLE" (three sigmas for a volume), or
        an array on the output's grid.
    anchor : str

    Returns
    -------
    kernel : ndarray, float64
    facts : dict
        For the record.
    """
    if isinstance(choice, np.ndarray):
        return checked_kernel(choice, len(scale)), {"family": "given", "chosen": "given"}
    if choice == "estimate":
        return estimate_kernel(values, scale, anchor)[:2]
    facts: dict[str, Any] = {"family": "delta", "chosen": "given", "fits": []}
    if choice == "delta":
        return delta_kernel(scale, anchor), _described(facts, np.zeros((len(scale),) * 2), scale)
    numbers = [float(n) for n in choice.removeprefix("gaussian:").split(",")]
    angle = numbers.pop() if len(numbers) == len(scale) + 1 else 0.0
    sigmas = numbers * len(scale) if len(numbers) == 1 else numbers
    sigmas = [n * s / f if f > 1 else 0 for n, s, f in zip(sigmas, scale, factors, strict=True)]
    kernel = gaussian_kernel(sigmas, angle, [even_kernel(s, anchor) for s in scale])
    facts = _described({**facts, "family": "given"}, np.diag(np.square(sigmas)), scale)
    return kernel, {**facts, "angle": angle}
