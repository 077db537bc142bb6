"""Blur with a kernel, then sample: how a coarse image arises from a fine one, and the transpose.

Beyond its edges the fine image is mirrored, edge pixels repeated. Where the samples lie is told by
`knitcore.degradation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

MANY_WEIGHTS = 64  # of a kernel, from which transforms are faster than sums


@dataclass(frozen=True)
class _Axis:
    """Sampling along one axis: what is padded, stride, and the interpolation after it, if any."""

    first: int  # fine pixels that are seen, from the first to before the last; some lie outside
    last: int
    fine: int
    stride: int
    weights: torch.Tensor | None  # (coarse, strided) or none when the samples lie on the grid

    @property
    def seen(self) -> int:
        """Pixels with those mirrored."""
        return self.last - self.first

    def mirrored(self, image: torch.Tensor, axis: int) -> torch.Tensor:
        """Fine pixels and, beyond the edges, their mirror images: `fine` to `seen`."""
        before, after = max(0, -self.first), max(0, self.last - self.fine)
        if max(before, after) > self.fine:
            return image.index_select(axis, self._index().to(image.device))
        start, stop = max(0, self.first), min(self.fine, self.last)
        parts = [
            image.narrow(axis, 0, before).flip(axis),
            image.narrow(axis, start, stop - start),
            image.narrow(axis, self.fine - after, after).flip(axis),
        ]
        return torch.cat(parts, axis) if before or after else parts[1]

    def folded(self, image: torch.Tensor, axis: int) -> torch.Tensor:
        """The transpose of `mirrored`: what lies beyond the edges is added where it came from."""
        before, after = max(0, -self.first), max(0, self.last - self.fine)
        shape = list(image.shape)
        shape[axis] = self.fine
        out = image.new_zeros(shape)
        if max(before, after) > self.fine:
            return out.index_add_(axis, self._index().to(image.device), image)
        start, stop = max(0, self.first), min(self.fine, self.last)
        out.narrow(axis, start, stop - start).copy_(image.narrow(axis, before, stop - start))
        out.narrow(axis, 0, before).add_(image.narrow(axis, 0, before).flip(axis))
        out.narrow(axis, self.fine - after, after).add_(
            image.narrow(axis, self.seen - after, after).flip(axis)
        )
        return out

    def _index(self) -> torch.Tensor:
        """Fine pixel of each padded one, however far beyond."""
        index = torch.arange(self.first, self.last) % (2 * self.fine)
        return torch.where(index < self.fine, index, 2 * self.fine - 1 - index)


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
        Fine pixels between coarse samples.
    origin : sequence of float
        Place of the first coarse sample in fine pixels (`sample_origin`; other values for a tile).
    device : torch.device
    """

    def __init__(
        self,
        kernel: np.ndarray | torch.Tensor,
        coarse: Sequence[int],
        fine: Sequence[int],
        scale: Sequence[float],
        origin: Sequence[float],
        device: torch.device | str = "cpu",
    ) -> None:
        self.kernel = torch.as_tensor(kernel, dtype=torch.float32, device=device)
        self.coarse, self.fine = tuple(coarse), tuple(fine)
        self.axes = [
            _axis(*numbers, device)
            for numbers in zip(self.kernel.shape, coarse, fine, scale, origin, strict=True)
        ]
        dimensions = len(self.fine)
        self._conv = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
        self._back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        self._stride = tuple(axis.stride for axis in self.axes)
        self._transformed: torch.Tensor | None = None

    def __call__(self, image: torch.Tensor, kernel: torch.Tensor | None = None) -> torch.Tensor:
        """(C, *fine) to (C, *coarse), with another kernel of the same shape if one is given."""
        kernel = self.kernel if kernel is None else kernel
        for number, axis in enumerate(self.axes):
            image = axis.mirrored(image, number + 1)
        if kernel is self.kernel and kernel.numel() >= MANY_WEIGHTS:
            image = self._blurred(image)
        else:
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
        image = self._spread(image)
        for number, axis in enumerate(self.axes):
            image = axis.folded(image, number + 1)
        return image

    def _spread(self, image: torch.Tensor) -> torch.Tensor:
        """Each coarse value times the kernel round its sample, summed: the strided transpose."""
        if self.kernel.numel() < MANY_WEIGHTS:
            return self._back(
                image[:, None].contiguous(), self.kernel[None, None], stride=self._stride
            )[:, 0]
        sizes = [axis.seen for axis in self.axes]
        places = [
            slice(0, (n - 1) * step + 1, step)
            for n, step in zip(image.shape[1:], self._stride, strict=True)
        ]
        sparse = image.new_zeros((len(image), *sizes))
        sparse[(slice(None), *places)] = image
        return self._filtered(sparse, turned=False)[(slice(None), *(slice(0, n) for n in sizes))]

    def _blurred(self, padded: torch.Tensor) -> torch.Tensor:
        """The convolution at every `stride`-th place where the kernel lies inside, by transforms."""
        inside = [
            slice(0, n - k + 1, step)
            for n, k, step in zip(padded.shape[1:], self.kernel.shape, self._stride, strict=True)
        ]
        return self._filtered(padded, turned=True)[(slice(None), *inside)]

    def _filtered(self, image: torch.Tensor, turned: bool) -> torch.Tensor:
        """Circular convolution with the kernel, or correlation (`turned`), at a fast length."""
        dims = tuple(range(1, image.ndim))
        lengths = [_fast_length(axis.seen) for axis in self.axes]
        if self._transformed is None:
            self._transformed = torch.fft.rfftn(self.kernel, s=lengths)
        factor = self._transformed.conj() if turned else self._transformed
        return torch.fft.irfftn(
            torch.fft.rfftn(image, s=lengths, dim=dims) * factor, s=lengths, dim=dims
        )

    def spectrum(self) -> torch.Tensor:
        """Eigenvalues of A A', the map after its transpose, as if it were circulant."""
        middle = [n // 2 for n in self.coarse]
        point = torch.zeros((1, *self.coarse), device=self.kernel.device)
        point[(0, *middle)] = 1
        answer = self(self.transpose(point))[0].roll(
            [-m for m in middle], tuple(range(len(middle)))
        )
        return torch.fft.rfftn(answer).real.clamp_min(0)


@cache
def _fast_length(least: int) -> int:
    """The next length whose transform is fast: 2^a 3^b 5^c."""
    return min(
        2**a * 3**b * 5**c
        for b in range(4)
        for c in range(3)
        for a in range(24)
        if 2**a * 3**b * 5**c >= least
    )


def _axis(
    size: int, coarse: int, fine: int, scale: float, origin: float, device: torch.device | str
) -> _Axis:
    start = np.arange(coarse) * scale + origin - (size - 1) / 2  # first pixel of each window
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
    return _Axis(first, last + size, fine, stride, weights)


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

    def smooth(r: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfftn(torch.fft.rfftn(r, dim=axes) * inverse, s=data.shape[1:], dim=axes)

    def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(dim=axes, keepdim=True)

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


def enlarge(
    values: torch.Tensor, fine: Sequence[int], scale: Sequence[float], origin: Sequence[float]
) -> torch.Tensor:
    """Keys' cubic interpolation at the right places; (C, *coarse) to (C, *fine)."""
    for axis, (n, m, s, o) in enumerate(
        zip(values.shape[1:], fine, scale, origin, strict=True), start=1
    ):
        place = (np.arange(m) - o) / s
        below = np.floor(place + 1e-9).astype(int)
        table = np.zeros((m, n), np.float32)
        for row in range(m):
            for step, weight in enumerate(cubic_weights(float(place[row] - below[row]))):
                table[row, min(max(below[row] - 1 + step, 0), n - 1)] += weight
        weights = torch.as_tensor(table, device=values.device)
        values = (values.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return values.contiguous()
