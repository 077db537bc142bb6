"""Kriging: the best linear guess of missing pixels, from the variogram of the known ones.

A stationary image is described by its variogram g(h) = E[(z(x) - z(x + h))^2] / 2 (Matheron 1963,
doi:10.2113/gsecongeo.58.8.1246). Here g is fitted, corner by corner of each hole, as a non-negative sum of a nugget
and terms (r^2 + |h|_M^2)^(p/2) - r^p with 0 < p < 2: far off a power of the lag, within the radius r as
smooth as an oversampled image. The metrics M are round, or stretched along a direction. Each term is
conditionally negative definite (a Bernstein function of |h|^2), so every such sum is a valid variogram.
The fast preset starts from this fill; the knitwork explains what is left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, wraps
from typing import Any, TypeVar, cast

import numpy as np
from scipy.fft import irfftn, next_fast_len, rfftn
from scipy.linalg import LinAlgError, cho_solve, solve_triangular
from scipy.ndimage import distance_transform_edt
from scipy.optimize import nnls
from threadpoolctl import ThreadpoolController

from knitcore.device import spare_cores
from knitcore.events import drain, relayed
from knitcore.power_transform import POWERS, PowerTransform, power_transform

SHAPES = tuple(itertools.product((0.5, 1.0, 1.5), (0.0, 1.0, 3.0)))  # p, r (pixels)
MIN_PAIRS = 50  # fewer say nothing about a lag
LAG_REACH = 8  # lags beyond this say little about the few pixels next to a hole
NEAR = 12.0  # pixels: so far from a hole an image counts exp(-1/2) as much as at its rim
WIDE = 16  # pixels: a hole that is longer along an axis has a variogram at either end
THIN = 2.5  # pixels from the rim at most: what is near decides, and one variogram does
SEEN, FILLED = 0.6, 0.4  # lengths of the hole: what a corner's variogram is fitted to, and fills
MAX_POINTS = 2000  # known pixels in one dense solve: bounds its time and memory
MAX_POINTS_3D = 700  # more and smaller blocks: as near to the truth, in half the time
JITTER = 1e-7  # of the highest variogram, on the diagonal of a solve
MAX_VARIANCES = 300  # pixels whose variance is solved for; the others follow by their depth
DIRECTED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # models compared, from round to directed
EVIDENCE_POINTS = 500  # known pixels by which they are compared, those nearest to the place
TIED = 0.25  # share of known pixels with one value from which on values are steps
LOG_MARGIN = 1.25  # so many times the root's gain in likelihood the logarithm must have
ANGLE = 11.25  # degrees between the directions that are tried

F = TypeVar("F", bound=Callable[..., Any])


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def few_threads(function: F) -> F:
    """Run a function's linear algebra on the spare cores only."""

    @wraps(function)
    def limited(*args: Any, **fields: Any) -> Any:
        with _blas().limit(limits=spare_cores(), user_api="blas"):
            return function(*args, **fields)

    return cast(F, limited)


@dataclass(frozen=True)
class Variogram:
    """A fitted variogram.

    Attributes
    ----------
    nugget : float
        Jump at lag zero, in units of the squared, standardised values.
    terms : tuple of (metric, (power, radius), weight)
        Metric of shape (D, D); see `term`.
    channel_scale : ndarray, shape (C,)
        Factor of each channel.
    """

    nugget: float
    terms: tuple[tuple[np.ndarray, tuple[float, float], float], ...]
    channel_scale: np.ndarray

    def directions(self, lag: float) -> tuple[tuple[np.ndarray, float], ...]:
        """Metric of each term, and its part in the variogram at a lag (pixels)."""
        at = np.array(lag**2)
        return tuple((m, weight * float(term(at, shape))) for m, shape, weight in self.terms)

    def __call__(self, lags: np.ndarray) -> np.ndarray:
        """Value at integer lags of shape (..., D), for channel scale 1."""
        total = np.where((lags != 0).any(-1), self.nugget, 0.0)
        for metric, shape, weight in self.terms:
            total += weight * term(_squared(lags, metric), shape)
        return total


@dataclass(frozen=True)
class Fitted:
    """A variogram, and of which values it is.

    Attributes
    ----------
    model : Variogram
        Of the transformed values.
    transform : PowerTransform
    share : float
        How much of the fit may be stretched; see `fit_variograms`.
    likelihood : float
        Logarithm of that of the known pixels round the target, in their own units; -inf if unknown.
    """

    model: Variogram
    transform: PowerTransform
    share: float
    likelihood: float = -np.inf


def _squared(lags: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Squared lengths of lags (..., D)."""
    along = np.moveaxis(lags @ metric.T, -1, 0)
    return sum(a * a for a in along[1:]) + along[0] * along[0]


def term(squared: np.ndarray, shape: tuple[float, float]) -> np.ndarray:
    """One term of a variogram: (r^2 + d^2)^(p/2) - r^p.

    Parameters
    ----------
    squared : ndarray
        d^2, d in pixels of the term's metric.
    shape : (float, float)
        p and r.

    Returns
    -------
    ndarray
    """
    power, radius = shape
    return (radius**2 + squared) ** (power / 2) - radius**power


def empirical_variogram(
    values: np.ndarray,
    known: np.ndarray,
    reach: int = LAG_REACH,
    weight: np.ndarray | float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean half squared difference of known pixels at every lag up to `reach`.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
        Values at unknown pixels are ignored.
    reach : int
        Largest lag along an axis, in pixels.
    weight : ndarray, shape (*spatial), or float
        Of each pixel; a pair counts by the product of its two.

    Returns
    -------
    lags : ndarray of int, shape (M, D)
        One of each pair h, -h.
    gamma : ndarray, shape (C, M)
        0 where no pair is known.
    pairs : ndarray, shape (C, M)
        The sum of their weights.
    """
    spatial = values.shape[1:]
    reaches = [min(reach, n - 1) for n in spatial]
    shape = [next_fast_len(n + r, real=True) for n, r in zip(spatial, reaches, strict=True)]
    axes = tuple(range(1, values.ndim))
    weights = known * np.asarray(weight, np.float64)
    total = weights.sum(axes, keepdims=True)
    centre = (values * weights).sum(axes, keepdims=True) / np.where(total > 0, total, 1.0)
    z = np.where(known, values - centre, 0.0)

    def transform(a: np.ndarray) -> np.ndarray:
        return rfftn(a, shape, axes=axes)

    fw, fz, fzz = transform(weights), transform(weights * z), transform(weights * z * z)
    pairs = irfftn(fw.conj() * fw, shape, axes=axes)
    squares = irfftn(fw.conj() * fzz + fzz.conj() * fw - 2 * fz.conj() * fz, shape, axes=axes)
    lags = np.array(
        [h for h in itertools.product(*(range(-r, r + 1) for r in reaches)) if h > (0,) * len(h)]
    )
    at = (slice(None), *lags.T)
    count = pairs[at]
    gamma = np.where(count > 0.5, np.maximum(squares[at], 0) / np.maximum(2 * count, 1), 0.0)
    return lags, gamma, np.where(count > 0.5, count, 0.0)


def nearness(target: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Weight of each pixel in the variogram by which a target is filled: an image is not alike all over.

    Parameters
    ----------
    target, known : ndarray of bool, shape (*spatial)

    Returns
    -------
    ndarray, shape (*spatial)
        1 at the known pixels nearest to the target.
    """
    away = distance_transform_edt(~target)
    nearest = away[known].min() if known.any() else 0.0
    return np.exp(-np.maximum(away**2 - nearest**2, 0.0) / (2 * NEAR**2))


def corners(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the box round a target; the middle along Z, where it is narrow, and if it is thin.

    Parameters
    ----------
    target : ndarray of bool, shape (*spatial)

    Returns
    -------
    places : ndarray, shape (n, D)
    lengths : ndarray, shape (D,)
        Of the box, in pixels, but at least `WIDE`.
    """
    where = np.argwhere(target)
    ends = list(zip(where.min(0).tolist(), where.max(0).tolist(), strict=True))
    wide = [high - low >= WIDE for low, high in ends]
    if len(ends) > 2:
        wide[0] = False  # corners along Z take twice the time for 0.01 dB
    elif any(wide) and distance_transform_edt(np.pad(target, 1)).max() < THIN:
        wide = [False] * len(ends)  # as do those of scratches and dots, for nothing
    sides = [
        (low, high) if far else ((low + high) / 2,)
        for (low, high), far in zip(ends, wide, strict=True)
    ]
    lengths = [max(WIDE, high - low + 1) for low, high in ends]
    return np.array(list(itertools.product(*sides)), float), np.array(lengths, float)


def closeness(
    coordinates: Iterable[np.ndarray], place: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """Gaussian weight of pixels by their distance to a place, measured in a length of each axis.

    Parameters
    ----------
    coordinates : iterable of ndarray
        One an axis; they broadcast against each other.
    place, lengths : ndarray, shape (D,)

    Returns
    -------
    ndarray
    """
    away = [
        ((along - p) / length) ** 2
        for along, p, length in zip(coordinates, place, lengths, strict=True)
    ]
    return np.exp(-0.5 * sum(away[1:], away[0]))


def _metrics(step: tuple[float, ...]) -> list[np.ndarray]:
    """Round metric first, then stretched ones; area- or volume-preserving."""
    base = np.diag(step)
    found = [base]
    if len(step) == 2:
        for angle in np.deg2rad(np.arange(0, 180, ANGLE)):
            along = np.array([np.sin(angle), np.cos(angle)])
            across = np.array([-along[1], along[0]])
            for ratio in (2.0, 5.0):
                stretch = np.stack([along / np.sqrt(ratio), across * np.sqrt(ratio)])
                found.append(stretch @ base)
    else:
        # between planes the image may change faster or slower than within them
        for axis, factor in itertools.product(range(3), (0.2, 0.5, 2.0, 5.0)):
            scale = np.ones(3)
            scale[axis] = factor
            found.append(np.diag(scale / factor ** (1 / 3)) @ base)
    return found


def fit_variograms(
    values: np.ndarray,
    known: np.ndarray,
    step: tuple[float, ...],
    shares: tuple[float, ...] = DIRECTED_SHARES,
    weight: np.ndarray | float = 1.0,
) -> list[Variogram]:
    """Fit variograms to the known pixels by non-negative least squares, from round to directed.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    step : tuple of float
        Relative pixel size along each spatial axis.
    shares : tuple of float
        For each model, the weight of the fit that may be stretched; the rest is the round fit.
    weight : ndarray, shape (*spatial), or float
        See `empirical_variogram`.

    Returns
    -------
    list of Variogram
        One a share; empty where the known pixels do not vary, or are too few.
    """
    lags, gamma, count = empirical_variogram(values, known, weight=weight)
    if len(lags) == 0:
        return []
    # few pairs say little; in a tiny image all there is must do
    least = np.minimum(MIN_PAIRS, count.max(1, keepdims=True) / 4)
    count = np.where(count >= least, count, 0.0)
    scale = (gamma * (count > 0)).sum(1) / np.maximum((count > 0).sum(1), 1)
    varying = scale > 1e-12
    if not varying.any():
        return []
    parts = gamma[varying] / scale[varying, None]
    total = count[varying].sum(0)
    usable = total > 0
    lags = lags[usable]
    shape = ((parts * count[varying]).sum(0) / np.maximum(total, 1))[usable]
    metrics = _metrics(step)
    distance = [_squared(lags, m) for m in metrics]
    # relative errors count, and each ring of lags counts alike
    trust = 1 / np.maximum(shape, 1e-4) / np.sqrt(np.linalg.norm(lags, axis=-1))
    columns = [np.ones(len(shape))] + [term(d, s) for d in distance for s in SHAPES]
    table, right = np.stack(columns, 1) * trust[:, None], shape * trust
    directed = nnls(table, right)[0]
    plain = np.zeros_like(directed)
    plain[: 1 + len(SHAPES)] = nnls(table[:, : 1 + len(SHAPES)], right)[0]
    found = []
    for share in shares:
        coefficients = share * directed + (1 - share) * plain
        if not coefficients[1:].any():
            coefficients[1] = 1e-3  # pure nugget: a slope so small that the fill is a local mean
        terms = tuple(
            (metric, form, float(c))
            for (metric, form), c in zip(
                itertools.product(metrics, SHAPES), coefficients[1:], strict=True
            )
            if c > 0
        )
        found.append(Variogram(float(coefficients[0]), terms, np.where(varying, scale, 0.0)))
    return found


def restricted_likelihood(values: np.ndarray, points: np.ndarray, model: Variogram) -> float:
    """Log-likelihood of known pixels under a variogram, its scale and their mean left free.

    Patterson and Thompson 1971 (doi:10.1093/biomet/58.3.545): the evidence by which the models of
    `fit_variograms` are compared.

    Parameters
    ----------
    values : ndarray, shape (C, n)
    points : ndarray of int, shape (n, D)
    model : Variogram

    Returns
    -------
    float
        Up to a constant; -inf where the model is not positive definite to working precision.
    """
    gamma = lag_table(points, points, model)(points, points)
    covariance = gamma.max() - gamma
    covariance[np.diag_indices(len(points))] += 1e-6 * gamma.max()
    try:
        # NumPy's, for SciPy's holds Python's lock all the while, and a viewer would stand still
        factor = (np.linalg.cholesky(covariance), True)
    except LinAlgError:
        return -np.inf
    right = np.concatenate([values.T, np.ones((len(points), 1))], axis=1)
    solved = cho_solve(factor, right, check_finite=False)
    ones = solved[:, -1].sum()
    log_determinant = 2 * np.log(np.diag(factor[0])).sum() + np.log(ones)
    free = len(points) - 1
    squares = (values.T * solved[:, :-1]).sum(0) - solved[:, :-1].sum(0) ** 2 / ones
    return float(-0.5 * (free * np.log(np.maximum(squares, 1e-12)) + log_determinant).sum())


@few_threads
def choose_variogram(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    step: tuple[float, ...],
    place: np.ndarray | None = None,
    power: float = 1.0,
    shares: tuple[float, ...] = DIRECTED_SHARES,
) -> Fitted | None:
    """The fitted variogram under which the pixels round the target, or near a place, are likeliest.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    target : ndarray of bool, shape (*spatial)
    step : tuple of float
        Relative pixel size along each spatial axis.
    place : ndarray, shape (D,), optional
        What is near it counts most: one of `corners`. Default: the middle of the target.
    power : float
        Of the values whose variogram it is; see `knitcore.power_transform`.
    shares : tuple of float
        Models that are compared; see `fit_variograms`.

    Returns
    -------
    Fitted or None
        None where the known pixels do not vary.
    """
    ends, lengths = corners(target)
    place = ends.mean(0) if place is None else place
    weight = nearness(target, np.asarray(known.any(0)))
    weight *= closeness(np.indices(target.shape, sparse=True), place, SEEN * lengths)
    transform = power_transform(values, known, power)
    models = fit_variograms(transform.forward(values), known, step, shares, weight)
    if not models:
        return None
    channels = np.flatnonzero(models[0].channel_scale > 0)
    points = choose_points(np.asarray(known[channels].all(0)), target)
    away = closeness(points.T, place, lengths)
    points = points[np.argsort(-away, kind="stable")[:EVIDENCE_POINTS]]
    middle = len(models) // 2
    unsaid = Fitted(models[middle], transform, shares[middle])
    if len(points) < 10:
        return unsaid
    near = values[(slice(None), *points.T)]
    channels = channels[np.ptp(near[channels], axis=1) > 0]  # the others say nothing here
    near, mine = near[channels], transform.of(channels)
    seen = mine.forward(near)
    if not len(channels) or not np.ptp(seen, axis=1).all() or (power != 1 and _tied(near)):
        return unsaid
    likelihoods = [restricted_likelihood(seen, points, model) for model in models]
    best = int(np.argmax(likelihoods))
    # the mean takes one of the degrees of freedom
    units = mine.log_slope(near).sum() * (1 - 1 / len(points))
    return Fitted(models[best], transform, shares[best], likelihoods[best] + float(units))


def _tied(values: np.ndarray) -> bool:
    """Whether many values of a channel (C, n) are one: a density of steps is no likelihood."""
    return any(np.unique(one, return_counts=True)[1].max() > TIED * len(one) for one in values)


def choose_power(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    step: tuple[float, ...],
    place: np.ndarray,
) -> Generator[None, None, Fitted | None]:
    """`choose_variogram` with the power of the values under which they are likeliest.

    The logarithm only where it explains `LOG_MARGIN` times what the root does: on photographs it gains
    no more likelihood than that, and loses.

    Yields
    ------
    None
        Before each power that is tried.

    Returns
    -------
    Fitted or None
    """
    yield
    plain = choose_variogram(values, known, target, step, place)
    if plain is None or not np.isfinite(plain.likelihood):
        return plain
    gains, best = [0.0], plain
    for power in POWERS[1:]:
        yield
        found = choose_variogram(values, known, target, step, place, power, (plain.share,))
        if found is None:
            break
        gains.append(found.likelihood - plain.likelihood)
        if not gains[-1] > LOG_MARGIN * gains[-2]:
            break
        best = found
    return best


def choose_points(known: np.ndarray, target: np.ndarray, limit: int = MAX_POINTS) -> np.ndarray:
    """Known pixels that matter for the target: all near it, fewer and fewer farther away.

    Parameters
    ----------
    known, target : ndarray of bool, shape (*spatial)
    limit : int
        Most points returned.

    Returns
    -------
    ndarray of int, shape (n, D)
    """
    away = distance_transform_edt(~target)
    reach = max(8.0, float(np.sqrt(target.sum())))
    grid = np.indices(target.shape)
    # along an axis of few planes a coarse grid would miss planes
    thin = np.array([n <= 8 for n in target.shape])

    def every(step: int) -> np.ndarray:
        return np.all(
            [g % (1 if t else step) == 0 for g, t in zip(grid, thin, strict=True)], axis=0
        )

    for near, step in ((3, 2), (3, 3), (3, 4), (2, 5), (2, 7), (2, 10), (1.5, 14), (1, 20)):
        keep = (
            (away <= near)
            | ((away <= 4 * near) & every(step))
            | ((away <= reach) & every(3 * step))
        )
        points = np.argwhere(keep & known)
        if len(points) <= limit:
            return points
    return points[:: -(-len(points) // limit)]


def lag_table(
    points: np.ndarray, targets: np.ndarray, model: Variogram
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Variogram between pixels: they lie on one grid, so each lag is evaluated once.

    Parameters
    ----------
    points, targets : ndarray of int, shape (n, D) and (m, D)
        All pixels that will be asked for.
    model : Variogram

    Returns
    -------
    callable
        ``gamma(a, b)`` for pixels a (n, D) and b (m, D): ndarray, shape (n, m).
    """
    low = np.minimum(points.min(0), targets.min(0))
    extent = np.maximum(points.max(0), targets.max(0)) - low
    strides = np.cumprod([1, *(2 * extent[:0:-1] + 1)])[::-1]
    centre = int(extent @ strides)
    # from lag 0 on; the other half is its mirror image
    half = np.unravel_index(np.arange(centre, 2 * centre + 1), tuple(2 * extent + 1))
    later = model(np.stack(half, axis=-1) - extent)
    table = np.concatenate([later[:0:-1], later])

    def gamma(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return table[((a - low) @ strides)[:, None] - ((b - low) @ strides)[None, :] + centre]

    return gamma


@few_threads
def krige(
    values: np.ndarray, points: np.ndarray, targets: np.ndarray, model: Variogram
) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary kriging of targets from points.

    Parameters
    ----------
    values : ndarray, shape (C, n)
        Values at `points`.
    points, targets : ndarray of int, shape (n, D) and (m, D)
    model : Variogram

    Returns
    -------
    mean, sd : ndarray, shape (C, m)
        Best linear unbiased estimate, and the square root of the kriging variance.
    """
    gamma = lag_table(points, targets, model)
    sample = np.arange(len(targets))
    if len(sample) > MAX_VARIANCES:
        sample = np.linspace(0, len(targets) - 1, MAX_VARIANCES).round().astype(int)
    between, near = gamma(points, points), gamma(points, targets[sample])
    solved = _solve_by_cholesky(between, near, values) or _solve_bordered(between, near, values)
    pull, level, variance = solved
    mean = np.empty((len(values), len(targets)))
    for start in range(0, len(targets), 4096):  # bounds the memory of the cross variogram
        part = slice(start, start + 4096)
        mean[:, part] = (level + gamma(targets[part], points) @ pull).T
    variance = np.maximum(variance, 0.0)
    if len(sample) < len(targets):
        variance = _by_depth(points, targets, sample, variance)
    return mean, np.sqrt(variance[None] * model.channel_scale[:, None])


def _solve_by_cholesky(
    between: np.ndarray, near: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Ordinary kriging with the covariance sill - gamma; any sill high enough gives the same fill.

    Parameters
    ----------
    between : ndarray, shape (n, n)
        The variogram between the points,
    near : ndarray, shape (n, m)
        and from them to the targets whose variance is wanted.
    values : ndarray, shape (C, n)

    Returns
    -------
    pull : ndarray, shape (n, C)
    level : ndarray, shape (C,)
        A target's mean is the level plus its variogram to the points times the pull.
    variance : ndarray, shape (m,)
        None in place of all three where no sill that numbers bear is high enough.
    """
    jitter = JITTER * max(between.max(), 1e-12)
    highest = max(between.max(), near.max(), 1e-12)
    for height in (3.0, 30.0, 1000.0):
        sill = height * highest
        covariance = sill - between
        covariance[np.diag_indices(len(between))] += jitter
        try:
            # NumPy's, for SciPy's holds Python's lock all the while, and a viewer would stand still
            factor = np.linalg.cholesky(covariance)
        except LinAlgError:
            continue
        # a pivot below what was added: the sill just suffices, and digits are lost
        if factor.diagonal().min() ** 2 > jitter / 2:
            break
    else:
        return None
    right = np.concatenate([values.T, np.ones((len(between), 1))], axis=1)
    solved = cho_solve((factor, True), right, check_finite=False)
    total = solved.sum(0)
    level = total[:-1] / total[-1]
    pull = level * solved[:, -1:] - solved[:, :-1]  # its columns sum to 0: the sill falls out
    variance = np.empty(near.shape[1])
    for start in range(0, len(variance), 50):  # SciPy holds Python's lock: not for long
        chosen = slice(start, start + 50)
        covered = sill - near[:, chosen]
        root = solve_triangular(factor, covered, lower=True, check_finite=False)
        gap = 1 - solved[:, -1] @ covered
        variance[chosen] = sill - np.einsum("ij,ij->j", root, root) + gap**2 / total[-1]
    return pull, level, variance


def _solve_bordered(
    between: np.ndarray, near: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_solve_by_cholesky`, for twice the time, by the system that any valid variogram can bear."""
    n, channels = len(between), len(values)
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = between
    system[np.diag_indices(n)] -= JITTER * max(between.max(), 1e-12)
    system[n, n] = 0.0
    right = np.ones((n + 1, channels + near.shape[1]))
    right[:n, :channels], right[n, :channels] = values.T, 0.0
    right[:n, channels:] = near
    solved = np.linalg.solve(system, right)
    variance = np.einsum("ij,ij->j", right[:, channels:], solved[:, channels:])
    return solved[:n, :channels], solved[n, :channels], variance


def _by_depth(
    points: np.ndarray, targets: np.ndarray, sample: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Spread the variance of sampled targets to all targets as deep."""
    low = np.minimum(points.min(0), targets.min(0))
    shape = np.maximum(points.max(0), targets.max(0)) - low + 1
    far = np.ones(shape, bool)
    far[tuple((points - low).T)] = False
    depth = distance_transform_edt(far)[tuple((targets - low).T)]
    order = np.argsort(depth[sample], kind="stable")
    knots, heights = depth[sample][order], variance[order]
    width = max(1, len(knots) // 20)
    smooth = np.convolve(np.pad(heights, width, mode="edge"), np.ones(2 * width + 1), "valid")
    return np.interp(depth, knots, smooth / (2 * width + 1))


def kriging_fill(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    step: tuple[float, ...],
    limit: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the target pixels from the known ones.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
        Masks may differ between channels.
    target : ndarray of bool, shape (*spatial)
        Where a fill is wanted; pixels known in a channel keep their value there.
    step : tuple of float
        Relative pixel size along each spatial axis.
    limit : int, optional
        Most known pixels in one solve.

    Returns
    -------
    fill, sd : ndarray, shape (C, *spatial)
        `values` with the target filled, and the expected error, 0 where known. A channel without
        any known pixel stays 0.
    """
    return drain(kriging_steps(values, known, target, step, limit))[:2]


def kriging_steps(
    values: np.ndarray,
    known: np.ndarray,
    target: np.ndarray,
    step: tuple[float, ...],
    limit: int | None = None,
) -> Generator[Any, None, tuple[np.ndarray, np.ndarray, float]]:
    """`kriging_fill` with a pause before each solve: at most some tenths of a second apart.

    Yields
    ------
    float
        Share of the target that is filled.

    Returns
    -------
    fill, sd : ndarray, shape (C, *spatial)
    levelled : float
        Share of the models that are of a power of the values: their errors follow the level.
    """
    fill, sd = np.where(known, values, 0.0), np.zeros(values.shape)
    total, done = max(1, int((target & ~known).sum())), 0
    if not target.any():
        return fill, sd, 0.0
    limit = limit or (MAX_POINTS if target.ndim < 3 else MAX_POINTS_3D)
    places, lengths = corners(target)
    models = []
    for place in places:
        found = yield from relayed(choose_power(values, known, target, step, place), lambda _: 0.0)
        if found is not None:
            models.append((place, found))
    for channels in _alike(known):
        mask = known[channels[0]]
        want = target & ~mask
        if not want.any() or not mask.any():
            continue
        if not models:
            for c in channels:
                fill[c][want] = values[c][mask].mean()
            continue
        for block in _blocks(want, limit):
            points, targets = _points_for(mask, block, limit), np.argwhere(block)
            source = (slice(None), *points.T)
            shares = 1e-9 + np.array(
                [closeness(targets.T, place, FILLED * lengths) for place, _ in models]
            )
            shares /= shares.sum(0)
            mean, variance = np.zeros((2, len(channels), len(targets)))
            for share, (_, found) in zip(shares, models, strict=True):
                yield done / total
                transform = found.transform.of(channels)
                part = replace(found.model, channel_scale=found.model.channel_scale[channels])
                seen = transform.forward(values[channels][source])
                noise = part.nugget * part.channel_scale
                guess, error = transform.back(*krige(seen, points, targets, part), noise)
                mean += share * guess
                variance += share * error**2
            for i, c in enumerate(channels):
                fill[c][block], sd[c][block] = mean[i], np.sqrt(variance[i])
            done += len(targets) * len(channels)
    powers = [found.transform.power for _, found in models] or [1.0]
    return fill, sd, sum(power != 1 for power in powers) / len(powers)


def _alike(known: np.ndarray) -> list[np.ndarray]:
    """Channels grouped by equal masks: each group is one solve."""
    groups: dict[bytes, list[int]] = {}
    for c, mask in enumerate(known):
        groups.setdefault(np.packbits(mask).tobytes(), []).append(c)
    return [np.array(group) for group in groups.values()]


def _around(block: np.ndarray, by: int) -> tuple[slice, ...]:
    """Box round the True pixels, `by` pixels wider on every side."""
    where = np.argwhere(block)
    return tuple(
        slice(max(0, int(a) - by), min(n, int(b) + 1 + by))
        for a, b, n in zip(where.min(0), where.max(0), block.shape, strict=True)
    )


def _blocks(want: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Cut a target in halves until the ring round each part holds few enough points to solve."""
    box = _around(want, 1)
    sides = [s.stop - s.start for s in box]
    ring = int((distance_transform_edt(~want[box]) <= 1.5).sum() - want.sum())
    if ring <= limit or max(sides) <= 10:
        yield want
        return
    axis = int(np.argmax(sides))
    middle = (box[axis].start + box[axis].stop) // 2
    for half in (slice(None, middle), slice(middle, None)):
        part = np.zeros_like(want)
        index = tuple(half if d == axis else slice(None) for d in range(want.ndim))
        part[index] = want[index]
        if part.any():
            yield from _blocks(part, limit)


def _points_for(known: np.ndarray, block: np.ndarray, limit: int) -> np.ndarray:
    """Known pixels round a block; far ones only where there are no near ones."""
    box = _around(block, int(max(16, np.ceil(np.sqrt(block.sum())))))
    points = choose_points(known[box], block[box], limit)
    if len(points):
        return points + [s.start for s in box]
    everywhere = np.argwhere(known)
    return everywhere[:: -(-len(everywhere) // limit)]
