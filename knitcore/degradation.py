"""How a coarse image arises from a fine one: blur with a kernel, sample, and the transpose of it.

Coordinates count fine pixels. With the anchor "centre" (areas of both images coincide) coarse sample
i lies at ``i s + (s - 1) / 2``, for an even factor between two fine pixels, so kernels of even size
belong to even factors; with the anchor "corner" (the coarse image is every s-th pixel of the fine
one, from the first) it lies at ``i s``. Beyond its edges the fine image is mirrored, edge pixels
repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

MIDPOINT = np.array([-1.0, 9.0, 9.0, -1.0]) / 16  # Keys' cubic half way between two pixels


def output_shape(shape: Sequence[int], scale: Sequence[float]) -> tuple[int, ...]:
    """Pixels of the fine image along each axis: n s, rounded half up, at least 1."""
    return tuple(max(1, math.floor(n * s + 0.5 + 1e-9)) for n, s in zip(shape, scale, strict=True))


def sample_positions(count: int, scale: float, anchor: str = "centre") -> np.ndarray:
    """Where the coarse samples of one axis lie, in fine pixels."""
    return np.arange(count) * scale + ((scale - 1) / 2 if anchor == "centre" else 0.0)


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


@dataclass(frozen=True)
class _Axis:
    """Sampling along one axis: padding indices, stride, and the interpolation after it, if any."""

    mirror: torch.Tensor  # index into the fine axis of each padded pixel
    stride: int
    weights: torch.Tensor | None  # (coarse, strided) or none when the samples lie on the grid


class Degradation:
    """Blur with `kernel` on the fine grid, then sample: a linear map and its transpose.

    Parameters
    ----------
    kernel : ndarray or Tensor
        Weights of the fine pixels round a sample, the middle of the array on the sample. Where the
        samples do not fall on the grid of the blurred pixels (factors that are no integers), these
        are interpolated by Keys' cubic.
    coarse, fine : tuple of int
        Spatial shapes.
    scale : sequence of float
    anchor : str
        "centre" or "corner".
    device : torch.device
    """

    def __init__(
        self,
        kernel: np.ndarray | torch.Tensor,
        coarse: Sequence[int],
        fine: Sequence[int],
        scale: Sequence[float],
        anchor: str = "centre",
        device: torch.device | str = "cpu",
    ) -> None:
        self.kernel = torch.as_tensor(kernel, dtype=torch.float32, device=device)
        self.coarse, self.fine = tuple(coarse), tuple(fine)
        self.axes = [
            _axis(*numbers, anchor, device)
            for numbers in zip(self.kernel.shape, coarse, fine, scale, strict=True)
        ]
        dimensions = len(self.fine)
        self._conv = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
        self._back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        self._stride = tuple(axis.stride for axis in self.axes)

    def __call__(self, image: torch.Tensor, kernel: torch.Tensor | None = None) -> torch.Tensor:
        """(C, *fine) to (C, *coarse), with another kernel of the same shape if one is given."""
        kernel = self.kernel if kernel is None else kernel
        for number, axis in enumerate(self.axes):
            image = image.index_select(number + 1, axis.mirror)
        image = self._conv(image[:, None], kernel[None, None], stride=self._stride)[:, 0]
        for number, axis in enumerate(self.axes):
            if axis.weights is not None:
                image = (image.movedim(number + 1, -1) @ axis.weights.T).movedim(-1, number + 1)
        return image

    def transpose(self, image: torch.Tensor) -> torch.Tensor:
        """(C, *coarse) to (C, *fine): the transposed map."""
        for number, axis in enumerate(self.axes):
            if axis.weights is not None:
                image = (image.movedim(number + 1, -1) @ axis.weights).movedim(-1, number + 1)
        image = self._back(
            image[:, None].contiguous(), self.kernel[None, None], stride=self._stride
        )[:, 0]
        for number, axis in enumerate(self.axes):
            shape = list(image.shape)
            shape[number + 1] = self.fine[number]
            mirror = axis.mirror[: image.shape[number + 1]]
            image = image.new_zeros(shape).index_add_(number + 1, mirror, image)
        return image

    def spectrum(self) -> torch.Tensor:
        """Eigenvalues of A A', the map after its transpose, as if it were circulant."""
        middle = [n // 2 for n in self.coarse]
        point = torch.zeros((1, *self.coarse), device=self.kernel.device)
        point[(0, *middle)] = 1
        answer = self(self.transpose(point))[0].roll(
            [-m for m in middle], tuple(range(len(middle)))
        )
        return torch.fft.rfftn(answer).real.clamp_min(0)


def _axis(
    size: int, coarse: int, fine: int, scale: float, anchor: str, device: torch.device | str
) -> _Axis:
    start = sample_positions(coarse, scale, anchor) - (size - 1) / 2  # first pixel of each window
    on_grid = float(scale).is_integer() and abs(start[0] - round(start[0])) < 1e-6
    if on_grid:
        first, stride, weights = round(start[0]), int(scale), None
        last = first + (coarse - 1) * stride
    else:
        first, stride = math.floor(start[0]) - 1, 1
        last = math.floor(start[-1]) + 2
        table = np.zeros((coarse, last - first + 1))
        for row, place in enumerate(start):
            below = math.floor(place)
            table[row, below - 1 - first : below + 3 - first] = cubic_weights(place - below)
        weights = torch.as_tensor(table, dtype=torch.float32, device=device)
    index = np.arange(first, last + size) % (2 * fine)
    index = np.where(index < fine, index, 2 * fine - 1 - index)
    return _Axis(torch.as_tensor(index, device=device), stride, weights)


def cubic_weights(t: float) -> np.ndarray:
    """Keys' cubic (1981, a = -1/2): weights of the pixels at -1, 0, 1, 2 for a place t in 0..1."""
    return np.array(
        [
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ]
    )


def back_project(
    degrade: Degradation, image: torch.Tensor, data: torch.Tensor, ridge: float, steps: int
) -> torch.Tensor:
    """The image nearest to `image` that explains `data`: x + A' (A A' + ridge)^-1 (y - A x).

    Conjugate gradients on the coarse grid, preconditioned by the circulant of `spectrum`.

    Parameters
    ----------
    image : Tensor, shape (C, *fine)
    data : Tensor, shape (C, *coarse)
    ridge : float
        Variance of the data's noise over that of the image's error; 0 asks for the data themselves.
    steps : int
        Iterations at most.

    Returns
    -------
    Tensor, shape (C, *fine)
    """
    axes = tuple(range(1, data.ndim))
    inverse = 1 / (degrade.spectrum() + max(ridge, 1e-4))
    smooth = (
        lambda r: torch.fft.irfftn(  # noqa: E731
            torch.fft.rfftn(r, dim=axes) * inverse, s=data.shape[1:], dim=axes
        )
    )
    dot = lambda a, b: (a * b).sum(dim=axes, keepdim=True)  # noqa: E731
    residual = data - degrade(image)
    weight = torch.zeros_like(residual)
    direction = z = smooth(residual)
    power = dot(residual, z)
    for _ in range(steps):
        if not float(power.max()) > 1e-12:
            break
        turned = degrade(degrade.transpose(direction)) + ridge * direction
        length = power / dot(direction, turned).clamp_min(1e-30)
        weight = weight + length * direction
        residual = residual - length * turned
        z = smooth(residual)
        power, old = dot(residual, z), power
        direction = z + power / old.clamp_min(1e-30) * direction
    return image + degrade.transpose(weight)
