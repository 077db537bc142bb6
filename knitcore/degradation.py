"""The kernel by which an image lost its resolution: what it may be, and its estimate from the image.

**Geometry.** Coordinates count fine pixels. With the anchor "centre" (areas of both images coincide) coarse sample
i lies at ``i s + (s - 1) / 2``, for an even factor between two fine pixels, so kernels of even size
belong to even factors; with the anchor "corner" (the coarse image is every s-th pixel of the fine
one, from the first) it lies at ``i s``.

**Estimate.** A kernel and an image that are both free explain anything; three numbers do not. The
power spectrum of an image falls as a power of the frequency, whatever the distance it is seen from;
a Gaussian blur falls as the exponential of its square, and without blur the frequencies beyond
those that the coarse grid can hold are folded back. So the power law (its exponent and its strength
in each direction free), times a Gaussian (none, round or oblong), folded, plus white noise, is fitted
to the logarithm of the spectrum. A wider family is taken only where it fits better by a margin
that no image without such a blur reached (Set5 and Set14, factors 2 and 4: a gain of at most 24
without blur, at least 155 with one; at most 13 for an oblong one where it was round, at least 102
where it was oblong). In doubt there is no blur: a blur that was not there costs more than one overlooked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import convolve1d
from scipy.optimize import minimize

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


@dataclass(frozen=True)
class Spectrum:
    """Power of an image in cells of directions and distances of the frequency plane.

    Attributes
    ----------
    power : ndarray, shape (n,)
        Grey levels squared: white noise of variance v has power v.
    frequency : ndarray, shape (2, n)
        Radians per coarse pixel, y and x.
    count : ndarray, shape (n,)
        Frequencies averaged.
    """

    power: np.ndarray
    frequency: np.ndarray
    count: np.ndarray


FAMILIES = ("delta", "round", "oblong")
LEAST_SIDE = 24  # coarse pixels: below, a spectrum tells nothing
MARGIN_BLUR, MARGIN_OBLONG = 40.0, 30.0  # gains of the fit; see the head of this file
WIDEST = 1.75  # sigma in coarse pixels
OWN_BLUR = 0.5  # sigma of what blurs the fine image itself, fine pixels


def estimate_kernel(
    values: np.ndarray, scale: Sequence[float], anchor: str = "centre"
) -> tuple[np.ndarray, dict[str, Any], float]:
    """The kernel that a coarse image most probably comes from.

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
    values = np.asarray(values, np.float64)
    low, high = np.percentile(values, (0.02, 99.98))
    noise = flat_noise(values)
    plain = delta_kernel(scale, anchor)
    facts: dict[str, Any] = {"family": "delta", "chosen": "there is no contrast", "fits": []}
    if not high > low:
        return plain, _described(facts, np.zeros((len(scale),) * 2), scale), noise
    values = np.clip(values, low - 0.1 * (high - low), high + 0.1 * (high - low))
    unit = (high - low) / 255
    spread = np.zeros((len(scale), len(scale)))
    wide = [axis for axis, factor in enumerate(scale) if factor > 1]
    planes = [(-2, -1)] if any(axis >= len(scale) - 2 for axis in wide) else []
    planes += [(-3, -1)] if len(scale) == 3 and scale[0] > 1 else []
    found = []
    for plane in planes:
        factors = (scale[plane[0]], scale[plane[1]])
        if min(values.shape[plane[0]], values.shape[plane[1]]) < LEAST_SIDE:
            facts["chosen"] = f"fewer than {LEAST_SIDE} pixels along an axis: no blur assumed"
            continue
        # what was found along x already holds for the plane of z and x
        known = spread[-1, -1] if plane[0] == -3 else None
        spectrum = read_spectrum(values / unit, plane)
        family, cov, level, fits = _choose(spectrum, factors, noise / unit, known)
        facts["fits"] += fits
        facts["chosen"] = "best fit to the spectrum, by a margin over the simpler ones"
        spread[np.ix_(plane, plane)] = cov
        found.append(family)
        if family != "delta":
            noise = level * unit
    facts["family"] = max(found, key=FAMILIES.index, default="delta")
    facts = _described(facts, spread, scale)
    if facts["family"] == "delta":
        return plain, facts, noise
    even = [even_kernel(factor, anchor) for factor in scale]
    sigmas = np.sqrt(np.diag(spread))
    if spread[-2, -1]:
        sigmas[-2:] = facts["sigmas_output_pixels"][-2:]
    return gaussian_kernel(sigmas, facts["angle"], even), facts, noise


def _described(
    facts: dict[str, Any], spread: np.ndarray, scale: Sequence[float]
) -> dict[str, Any]:
    """`facts` with the widths and the direction of a covariance, fine pixels squared."""
    sigmas, angle = np.sqrt(np.diag(spread)), 0.0
    if spread[-2, -1]:
        power, axes = np.linalg.eigh(spread[-2:, -2:])
        sigmas[-2:] = np.sqrt(np.maximum(power, 0))
        angle = (math.degrees(math.atan2(axes[0, 1], axes[1, 1])) + 90) % 180 - 90
    return {
        **facts,
        "sigmas_output_pixels": [round(float(s), 4) for s in sigmas],
        "sigmas_input_pixels": [
            round(float(s / f), 4) for s, f in zip(sigmas, scale, strict=True)
        ],
        "angle": round(angle, 2),
    }


def flat_noise(values: np.ndarray) -> float:
    """Standard deviation of noise from the flattest twentieth of the blocks of 8x8 pixels."""
    values = np.asarray(values, np.float64)
    if min(values.shape[-2:]) < 4:
        return 0.0
    second = np.array([1.0, -2.0, 1.0])
    rough = convolve1d(convolve1d(values, second, axis=-1), second, axis=-2)[..., 1:-1, 1:-1] / 6
    side = min(8, *rough.shape[-2:])
    rows, columns = (n // side for n in rough.shape[-2:])
    rough = rough[..., : rows * side, : columns * side]
    blocks = rough.reshape(len(values), -1, rows, side, columns, side)
    power = np.square(blocks).mean((0, 3, 5))
    return 1.1 * math.sqrt(float(np.quantile(power, 0.05)))


def read_spectrum(values: np.ndarray, plane: tuple[int, int] = (-2, -1)) -> Spectrum:
    """Mean power spectrum of the planes of an image, in 14 distances and 12 directions.

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)
    plane : tuple of int
        The two axes, from the end.

    Returns
    -------
    Spectrum
    """
    planes = np.moveaxis(values, plane, (-2, -1))
    planes = planes.reshape(-1, *planes.shape[-2:])
    planes = planes[:: max(1, len(planes) // 32)]
    side = [min(n, 512) for n in planes.shape[-2:]]
    places = [
        sorted({0, (n - m) // 2, n - m}) for n, m in zip(planes.shape[-2:], side, strict=True)
    ]
    window = np.hanning(side[0] + 2)[1:-1, None] * np.hanning(side[1] + 2)[1:-1]
    power = np.zeros((side[0], side[1] // 2 + 1))
    for y in places[0]:
        for x in places[1]:
            part = planes[:, y : y + side[0], x : x + side[1]]
            part = part - (part * window).sum((-2, -1), keepdims=True) / window.sum()
            power += np.square(np.abs(np.fft.rfft2(part * window))).mean(0)
    power /= len(places[0]) * len(places[1]) * np.square(window).sum()
    fy = np.fft.fftfreq(side[0])[:, None] * 2 * np.pi + 0 * power
    fx = np.fft.rfftfreq(side[1]) * 2 * np.pi + 0 * power
    radius, angle = np.hypot(fy, fx), np.arctan2(fy, fx)
    least, most, rings, rays = 0.35, np.pi * 2**0.5 * 1.0001, 14, 12
    keep = (radius > least) & ((fx > 0) | (fy > 0))
    ring = np.floor(np.log(radius[keep] / least) / math.log(most / least) * rings).astype(int)
    ray = np.floor((angle[keep] / np.pi + 0.5) * rays + 0.5).astype(int)
    cell = np.clip(ring, 0, rings - 1) * rays + ray % rays
    turned = np.where(ray == rays, -1, 1)  # beyond half a turn: the same cell from the other side
    count = np.bincount(cell, minlength=rings * rays)
    used = count > 0
    mean = [
        np.bincount(cell, v, rings * rays)[used] / count[used]
        for v in (power[keep], fy[keep] * turned, fx[keep] * turned)
    ]
    return Spectrum(mean[0], np.stack(mean[1:]), count[used])


def _choose(
    spectrum: Spectrum, scale: tuple[float, float], noise: float, known: float | None
) -> tuple[str, np.ndarray, float, list[dict[str, Any]]]:
    """The simplest family that fits a plane's spectrum; covariance in fine pixels squared."""
    one_axis = known is not None or min(scale) == 1
    families = FAMILIES[:2] if one_axis else FAMILIES
    fits = [_fit(spectrum, scale, noise, family, known) for family in families]
    costs = [fit[0] for fit in fits]
    best = 0
    if costs[0] - min(costs[1:]) > MARGIN_BLUR:
        best = 2 if len(costs) == 3 and costs[1] - costs[2] > MARGIN_OBLONG else 1
    told = [
        {"family": family, "cost": round(cost, 2), "noise": round(level, 3)}
        for family, (cost, _, level) in zip(families, fits, strict=True)
    ]
    return families[best], fits[best][1], fits[best][2], told


def _fit(
    spectrum: Spectrum,
    scale: tuple[float, float],
    noise: float,
    family: str,
    known: float | None,
) -> tuple[float, np.ndarray, float]:
    """Cost, covariance (fine pixels squared) and noise of the best member of a family.

    Parameters: logarithm of the strength, exponent, logarithm of the noise's variance, strength in
    four harmonics of the direction, then the Cholesky factor of the blur in coarse pixels.
    """
    power, weight = np.log(np.maximum(spectrum.power, 1e-12)), np.sqrt(np.minimum(spectrum.count, 60))
    expected = 2 * math.log(max(noise, 0.29))  # rounding to whole numbers alone makes 0.29
    folds = []
    for ky in range(-1, 2):
        for kx in range(-1, 2):
            places = (spectrum.frequency + 2 * np.pi * np.array([[ky], [kx]])) / np.array(
                [[scale[0]], [scale[1]]]
            )
            held = (np.abs(places) <= np.pi * 1.0001).all(0)
            if held.any():
                folds.append((np.where(held, places, 1.0), held))
    y, x = (np.stack([places[axis] for places, _ in folds]) for axis in (0, 1))
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    base = np.where(np.stack([h for _, h in folds]), -np.square(OWN_BLUR * radius), -100.0)
    distance = np.log(radius * max(scale))
    harmonics = np.stack([f(n * angle) for n in (2, 4) for f in (np.cos, np.sin)])
    grown = np.array(scale) > 1

    def spread(factor: np.ndarray) -> np.ndarray:
        if family == "delta":
            cov = np.zeros((2, 2))
        elif family == "round":
            cov = np.diag(np.where(grown, np.square(factor[0] * np.array(scale)), 0))
        else:
            lower = np.array([[factor[0], 0], [factor[1], factor[2]]]) * np.array(scale)[:, None]
            cov = lower @ lower.T
        if known is not None:
            cov[1, 1] = known
        return cov

    def cost(t: np.ndarray) -> float:
        cov = spread(t[7:])
        blur = cov[0, 0] * y * y + cov[1, 1] * x * x + 2 * cov[0, 1] * y * x
        level = t[0] - t[1] * distance - blur + base + np.tensordot(t[3:7], harmonics, 1)
        model = np.log(np.exp(level).sum(0) + np.exp(t[2]))
        # near a line for large misfits: single lines and rings of a picture are no power law
        misfit = np.sqrt(1 + np.square((power - model) / 0.3)) - 1
        prior = ((t[1] - 2.2) / 0.35) ** 2 + 4 * (t[2] - expected) ** 2
        return 100 * float((weight * misfit).sum() / weight.sum()) + prior + float(
            np.square(t[3:7] / 0.4).sum()
        )

    starts = {
        "delta": [()],
        "round": [(0.1,), (0.4,), (0.8,)],
        "oblong": [(0.1, 0.0, 0.1), (0.7, 0.0, 0.7), (0.6, 0.4, 0.4), (0.6, -0.4, 0.4)],
    }[family]
    strength = float(np.median(power + 2.2 * np.log(np.hypot(*spectrum.frequency))))
    tries = [
        minimize(
            cost,
            np.array([strength, 2.2, expected, 0, 0, 0, 0, *start]),
            method="L-BFGS-B",
            bounds=[(None, 60), (0.5, 4), (expected - 2, expected + 2)]
            + [(-3, 3)] * 4
            + [(-WIDEST, WIDEST)] * len(start),
            options={"maxiter": 150},
        )
        for start in starts
    ]
    best = min(tries, key=lambda found: found.fun)
    return float(best.fun), spread(best.x[7:]), math.exp(best.x[2] / 2)


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
        kernel, facts, _ = estimate_kernel(values, scale, anchor)
        return kernel, facts
    facts = {"family": "delta", "chosen": "given", "fits": []}
    if choice == "delta":
        return delta_kernel(scale, anchor), _described(facts, np.zeros((len(scale),) * 2), scale)
    numbers = [float(n) for n in choice.removeprefix("gaussian:").split(",")]
    angle = numbers.pop() if len(numbers) == len(scale) + 1 else 0.0
    sigmas = numbers * len(scale) if len(numbers) == 1 else numbers
    sigmas = [n * s / f if f > 1 else 0 for n, s, f in zip(sigmas, scale, factors, strict=True)]
    kernel = gaussian_kernel(sigmas, angle, [even_kernel(s, anchor) for s in scale])
    facts = _described({**facts, "family": "given"}, np.diag(np.square(sigmas)), scale)
    return kernel, {**facts, "angle": angle}
