"""The blur an image went through, read from its power spectrum.

A kernel and an image that are both free explain anything; three numbers do not. The
power spectrum of an image falls as a power of the frequency, whatever the distance it is seen from;
a Gaussian blur falls as the exponential of its square, and without blur the frequencies beyond
those that the coarse grid can hold are folded back. So the power law (its exponent and its strength
in each direction free), times a Gaussian (none, round or oblong), folded, plus white noise, is fitted
to the logarithm of the spectrum. A wider family is taken only where it fits better by a margin
that no image without such a blur reached (Set5 and Set14, factors 2 and 4: a gain of at most 31
without blur, at least 171 with one; at most 14 for an oblong one where it was round, at least 101
where it was oblong). In doubt there is no blur: a blur that was not there costs more than one overlooked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import convolve1d
from scipy.optimize import minimize

from knitcore.noise_model import grey_step


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
LEAST_BLOCKS = 36  # below, a flat one that is by chance is not told from noise
MARGIN_BLUR, MARGIN_OBLONG = 40.0, 30.0  # gains of the fit; see the head of this file
WIDEST = 1.4  # sigma in coarse pixels; what is smoother was oversampled, or out of focus
OWN_BLUR = 0.2  # sigma in coarse pixels by which pictures fall short of a power law (Set5, Set14)


def fit_blur(
    values: np.ndarray, scale: Sequence[float]
) -> tuple[np.ndarray, dict[str, Any], float]:
    """The blur that a coarse image most probably went through.

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)
        Grey levels, two or three spatial axes.
    scale : sequence of float
        Factor of each spatial axis; along an axis of factor 1 there is no blur.

    Returns
    -------
    covariance : ndarray
        Of the Gaussian, fine pixels squared; zeros for none.
    facts : dict
        For the record: family, why, and how each family fitted.
    noise : float
        Standard deviation of white noise, grey levels.
    """
    values = np.asarray(values, np.float64)
    low, high = np.percentile(values, (0.02, 99.98))
    most, noise = flat_noise(values)
    facts: dict[str, Any] = {"family": "delta", "chosen": "there is no contrast", "fits": []}
    spread = np.zeros((len(scale), len(scale)))
    if not high > low:
        return spread, facts, noise
    facts["chosen"] = "no axis grows"
    rounding = grey_step(values) / math.sqrt(12)
    # a hot pixel would be the whole spectrum
    values = np.clip(values, low - 0.1 * (high - low), high + 0.1 * (high - low))
    unit = (high - low) / 255
    grown = [axis for axis, factor in enumerate(scale) if factor > 1]
    planes = [(-2, -1)] if any(axis >= len(scale) - 2 for axis in grown) else []
    planes += [(-3, -1)] if len(scale) == 3 and scale[0] > 1 else []
    families = ["delta"]
    for plane in planes:
        if min(values.shape[plane[0]], values.shape[plane[1]]) < LEAST_SIDE:
            facts["chosen"] = f"fewer than {LEAST_SIDE} pixels along an axis"
            continue
        # what was found along x already holds for the plane of z and x
        known = spread[-1, -1] if plane[0] == -3 else None
        spectrum = read_spectrum(values / unit, plane)
        factors = (scale[plane[0]], scale[plane[1]])
        family, cov, level, fits = _choose(spectrum, factors, most / unit, known)
        facts["fits"] += fits
        facts["chosen"] = "the spectrum does not show a wider one"
        spread[np.ix_(plane, plane)] = cov
        families.append(family)
        if family != "delta":
            noise = max(level * unit, rounding)
    facts["family"] = max(families, key=FAMILIES.index)
    return spread, facts, noise


def flat_noise(values: np.ndarray) -> tuple[float, float]:
    """White noise as the flattest twentieth of the blocks of 8x8 pixels shows it.

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)

    Returns
    -------
    most : float
        Standard deviation, grey levels, if all that is rough there is noise.
    sure : float
        The share of it that is as strong in the flattest fifth, as noise is and structure is not;
        at least the rounding to the grey levels that the values show.
    """
    values = np.asarray(values, np.float64)
    rounding = grey_step(values) / math.sqrt(12)
    if min(values.shape[-2:]) < 4:
        return rounding, rounding
    second = np.array([1.0, -2.0, 1.0])
    rough = convolve1d(convolve1d(values, second, axis=-1), second, axis=-2)[..., 1:-1, 1:-1] / 6
    side = min(8, *rough.shape[-2:])
    rows, columns = (n // side for n in rough.shape[-2:])
    rough = rough[..., : rows * side, : columns * side]
    blocks = rough.reshape(len(values), -1, rows, side, columns, side)
    power = np.square(blocks).mean((0, 3, 5))
    flat, flatter = np.quantile(power, (0.2, 0.05))
    if power.size < LEAST_BLOCKS:
        return max(math.sqrt(float(flatter)), rounding), rounding
    # what chance does to the blocks of pure noise, whose second differences are correlated
    chance = math.sqrt(2 * 2.6 / (len(values) * side * side))
    low = max(1 - 1.645 * chance, 0.1)
    most = math.sqrt(float(flatter) / low)
    usual = min(max((1 - 0.84 * chance) / low, 1.2), 1.7)
    share = min(max((1.8 - flat / max(flatter, 1e-12)) / (1.8 - usual), 0.0), 1.0)
    return max(most, rounding), max(most * share, rounding)


def noise_floor(values: np.ndarray) -> float:
    """White noise of a blurred image: what is left where its spectrum is weakest.

    Parameters
    ----------
    values : ndarray, shape (C, *spatial)

    Returns
    -------
    float
        Standard deviation, grey levels.
    """
    if min(values.shape[-2:]) < LEAST_SIDE:
        return flat_noise(values)[1]
    return math.sqrt(float(np.quantile(read_spectrum(np.asarray(values, np.float64)).power, 0.02)))


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
    power, weight = (
        np.log(np.maximum(spectrum.power, 1e-12)),
        np.sqrt(np.minimum(spectrum.count, 60)),
    )
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
    base = np.where(
        np.stack([h for _, h in folds]), -np.square(OWN_BLUR * max(scale) * radius), -100.0
    )
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

    def slopes(factor: np.ndarray, of_cov: np.ndarray) -> np.ndarray:
        """Gradient by the factor's numbers, from that by the covariance's yy, xx and yx."""
        yy, xx, yx = of_cov
        (sy, sx), xx = scale, 0.0 if known is not None else xx
        if family == "delta":
            return np.zeros(0)
        if family == "round":
            return np.array([2 * factor[0] * (grown[0] * sy * sy * yy + grown[1] * sx * sx * xx)])
        a, b, c = factor
        return np.array(
            [
                2 * a * sy * sy * yy + b * sy * sx * yx,
                2 * b * sx * sx * xx + a * sy * sx * yx,
                2 * c * sx * sx * xx,
            ]
        )

    def cost(t: np.ndarray) -> tuple[float, np.ndarray]:
        """Misfit and prior, and their gradient."""
        cov = spread(t[7:])
        blur = cov[0, 0] * y * y + cov[1, 1] * x * x + 2 * cov[0, 1] * y * x
        level = t[0] - t[1] * distance - blur + base + np.tensordot(t[3:7], harmonics, 1)
        parts, floor = np.exp(level), math.exp(t[2])
        total = parts.sum(0) + floor
        off = (np.log(total) - power) / 0.3
        # near a line for large misfits: single lines and rings of a picture are no power law
        far = np.sqrt(1 + np.square(off))
        found = 100 * float((weight * (far - 1)).sum() / weight.sum())
        found += ((t[1] - 2.2) / 0.35) ** 2 + 4 * (t[2] - expected) ** 2
        found += float(np.square(t[3:7] / 0.4).sum())
        by_total = 100 / 0.3 * weight / weight.sum() * off / far / total
        by_level = by_total * parts
        of_cov = np.array([-(by_level * v).sum() for v in (y * y, x * x, 2 * y * x)])
        gradient = [
            by_level.sum(),
            2 * (t[1] - 2.2) / 0.35**2 - (by_level * distance).sum(),
            8 * (t[2] - expected) + by_total.sum() * floor,
            *(np.tensordot(harmonics, by_level, 2) + 2 * t[3:7] / 0.4**2),
            *slopes(t[7:], of_cov),
        ]
        return found, np.array(gradient)

    choices: dict[str, list[tuple[float, ...]]] = {
        "delta": [()],
        "round": [(0.1,), (0.4,), (0.8,)],
        "oblong": [(0.1, 0.0, 0.1), (0.7, 0.0, 0.7), (0.6, 0.4, 0.4), (0.6, -0.4, 0.4)],
    }
    strength = float(np.median(power + 2.2 * np.log(np.hypot(*spectrum.frequency))))
    tries = [
        minimize(
            cost,
            np.array([strength, 2.2, expected, 0, 0, 0, 0, *start]),
            jac=True,
            method="L-BFGS-B",
            bounds=[(None, 60), (0.5, 4), (expected - 2, expected + 2)]
            + [(-3, 3)] * 4
            + [(-WIDEST, WIDEST)] * len(start),
            options={"maxiter": 150},
        )
        for start in choices[family]
    ]
    best = min(tries, key=lambda found: found.fun)
    return float(best.fun), spread(best.x[7:]), math.exp(best.x[2] / 2)
