"""Fast blind super-resolution: an estimated kernel, data steps, and priors of similar patches.

1. The kernel: `knitcore.degradation.estimate_kernel`.
2. A start: without blur an interpolation learned from the image's coarser scale
   (`knitcore.cross_scale`; cubic for factors that are no power of two, and for volumes); else the image
   of least total variation that explains the data (reweighted squares, conjugate gradients).
3. Rounds of two steps with a falling assumed error s (half-quadratic splitting with a patch prior):
   the posterior mean of every patch under the Gaussian of its group of similar patches, as if the
   image had white noise of deviation s; then the image nearest to that which explains the data within
   their noise (`knitcore.sampling.back_project`).

The last step is a data step, so that degrading the result gives back the input.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from knitcore.cross_scale import can_learn, learned_steps
from knitcore.degradation import (
    estimate_kernel,
    kernel_widths,
    output_shape,
    sample_origin,
    starting_kernel,
)
from knitcore.events import Note, Stage, both_halves, relayed
from knitcore.fit import random_source
from knitcore.noise import estimate_noise
from knitcore.noise_model import grey_step
from knitcore.posterior import (
    covered,
    find_groups,
    patch_sums,
    patch_table,
    reference_starts,
    rows_of,
    team_side,
    team_windows,
    teams_at_once,
)
from knitcore.recipe import SuperResolve
from knitcore.sampling import Degradation, back_project, enlarge
from knitcore.spectrum import WIDEST, flat_noise, noise_floor

OVERLAP = 12  # coarse pixels that a block sees beyond those it is for, at least
OPPONENT = (
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [0.5, -1.0, 0.5]])
    / torch.tensor([[3.0], [2.0], [1.5]]).sqrt()
)
# of a range of 255: below, an inversion believes in its kernel too much
LEAST_NOISE = {"sharp": 0.02, "blurred": 0.25}
EDGE = 18.0  # gradient at which total variation expects an edge; of 9, 18 and 22 on three of Set5
ROUNDING = 1e-5  # of single precision, in a sum of some dozen products
WIDE = 0.6  # sigma in coarse pixels from which next to no structure is left at the finest detail
GROUPS = 256  # solved at once on a CPU, where more do not stay in its cache
SHARP = 0.2  # a kernel with a sigma below this, in coarse pixels, is taken for none


@dataclass(frozen=True)
class Upscaled:
    """A finer image and what was found on the way.

    Attributes
    ----------
    image, std : ndarray, float32, shape (C, *fine)
        Grey levels, and the expected error of each.
    kernel : ndarray
        On the fine grid, sum 1, centred; sides even where the samples lie between fine pixels.
    kernel_parameters : dict
        For the record.
    residual : ndarray, shape (C,)
        Root mean square of the degraded result minus the input, grey levels.
    noise : float
        Estimated standard deviation of the input's noise, grey levels.
    notes : list of Note
    """

    image: np.ndarray
    std: np.ndarray
    kernel: np.ndarray
    kernel_parameters: dict[str, Any]
    residual: np.ndarray
    noise: float
    notes: list[Note] = field(default_factory=list)


def upscale_steps(
    values: np.ndarray,
    scale: Sequence[float],
    kernel: str | np.ndarray,
    recipe: SuperResolve,
    device: torch.device,
    key: str = "",
    joint: bool = True,
    cores: int = 1,
) -> Generator[Stage, None, Upscaled]:
    """Enlarge a canvas.

    Parameters
    ----------
    values : ndarray, float32, shape (C, *coarse)
        Grey levels without NaN; two or three spatial axes.
    scale : sequence of float
        Factor of each spatial axis, 1 to 8.
    kernel : str or ndarray
        As for `knitcore.degradation.starting_kernel`. An array lies on the output's grid, the middle
        of the array over an input pixel; of even size where that is between two output pixels, or
        else it is interpolated.
    recipe : SuperResolve
        Its fields sigma, anchor, patch, window, group, stride, passes and block are used.
    device : torch.device
    key : str
        Not needed: nothing here is drawn at random.
    joint : bool
        Three channels are colours: they share the groups of patches, found on their mean.
    cores : int
        Where there are two for each of torch's threads, halves of the patches are worked on at once,
        with the same result.

    Yields
    ------
    Stage

    Returns
    -------
    Upscaled
    """
    yield Stage(0.0, "estimate the kernel")
    values = np.ascontiguousarray(values, np.float32)
    scale = tuple(float(s) for s in scale)
    anchor = recipe.anchor
    groups = [list(range(len(values)))] if joint else [[c] for c in range(len(values))]
    scaled = np.empty_like(values)
    units = []
    for channels in groups:
        low, high = np.percentile(values[channels], (0.2, 99.8))
        unit = max(float(high - low), 1e-3 * float(np.ptp(values[channels])), 1e-12) / 255
        scaled[channels] = (values[channels] - low) / unit
        units.append((float(low), unit))
    if isinstance(kernel, str) and kernel == "estimate":
        kernel, facts, _ = estimate_kernel(scaled, scale, anchor)
    else:
        kernel, facts = starting_kernel(scaled, scale, scale, kernel, anchor)
    spread = kernel_widths(kernel) / np.outer(scale, scale)
    sharp = bool((np.diag(spread) <= SHARP**2).all())
    noise = []
    for channels, (_, unit) in zip(groups, units, strict=True):
        yield Stage(0.01, "estimate the noise")
        step = grey_step(values[channels]) / unit
        if recipe.sigma is not None:
            level = recipe.sigma / unit
        elif sharp:
            level = flat_noise(scaled[channels])[1]
        else:
            level = _noise_of_blurred(scaled[channels], spread, scale, step, recipe.seed)
        noise.append(max(level, step / 12**0.5))
    least = LEAST_NOISE["sharp" if sharp else "blurred"]
    fine = output_shape(values.shape[1:], scale)
    image = np.empty((len(values), *fine), np.float32)
    std = np.empty_like(image)
    beside = cores >= 2 * torch.get_num_threads() and device.type == "cpu"
    blocks = _blocks(values.shape[1:], fine, scale, recipe.block, kernel.shape)
    pieces, done = len(groups) * len(blocks), 0
    for channels, (low, unit), sigma in zip(groups, units, noise, strict=True):
        for block in blocks:
            data = torch.as_tensor(scaled[channels][(slice(None), *block.coarse)], device=device)
            sides = [f.stop - f.start for f in block.fine]
            origin = block.origin(scale, anchor)
            degrade = Degradation(kernel, data.shape[1:], sides, scale, origin, device)
            inner = _solve(degrade, data, scale, origin, max(sigma, least), sharp, recipe, beside)
            try:
                while True:
                    part, text, found = next(inner)
                    shown = None
                    if found is not None and pieces == 1:
                        shown = found.cpu().numpy() * unit + low
                    yield Stage(0.02 + 0.96 * (done + part) / pieces, text, {}, shown)
            except StopIteration as end:
                solved, spread = end.value
            finally:
                inner.close()
            cut = _inside(block.own_fine, block.fine)
            for number, channel in enumerate(channels):
                image[channel][block.own_fine] = solved[number].cpu().numpy()[cut] * unit + low
                std[channel][block.own_fine] = spread[number].cpu().numpy()[cut] * unit
            done += 1
    yield Stage(0.99, "compare with the input")
    squares = np.zeros(len(values))
    for found_squares in _misfits(values, image, kernel, scale, anchor):
        squares += found_squares
        yield Stage(0.99, "compare with the input")
    residual = np.sqrt(squares / values[0].size)
    grey = float(np.mean([n * unit for n, (_, unit) in zip(noise, units, strict=True)]))
    return Upscaled(image, std, kernel, facts, residual, grey, kernel_notes(facts))


def _noise_of_blurred(
    values: np.ndarray, spread: np.ndarray, scale: Sequence[float], step: float, seed: int
) -> float:
    """Noise of an image (C, *coarse) under a kernel of this covariance, in coarse pixels squared."""
    level = noise_floor(values)
    axes = [axis for axis, factor in enumerate(scale) if factor > 1]
    if np.linalg.eigvalsh(spread[np.ix_(axes, axes)]).min() >= WIDE**2:
        # so wide a blur lets no structure through to where noise is looked for
        planes = torch.as_tensor(values).view(len(values), -1, *values.shape[-2:])
        found, _ = estimate_noise(planes, step, "gaussian", random_source(seed, "noise"))
        level = max(level, math.sqrt(float(np.mean(found.offset))))
    return level


def kernel_notes(facts: dict[str, Any]) -> list[Note]:
    """What a user should know of an estimated kernel.

    Parameters
    ----------
    facts : dict
        As `knitcore.degradation.estimate_kernel` returns them.

    Returns
    -------
    list of Note
    """
    if facts["chosen"] == "given":
        return []
    if facts["family"] == "delta":
        return [Note(f"the image is taken as sampled without blur: {facts['chosen']}")]
    widths = " and ".join(f"{s:.2f}" for s in facts["sigmas_output_pixels"] if s > 0)
    turned = f", turned by {facts['angle']:.0f} degrees" if facts["family"] == "oblong" else ""
    notes = [Note(f"estimated blur: a Gaussian of sigma {widths} output pixels{turned}")]
    if max(facts["sigmas_input_pixels"]) >= 0.99 * WIDEST:
        notes.append(
            Note(
                "the image is smoother than the widest kernel that is looked for: it was out of focus "
                "or has more pixels than detail, and there is little to gain",
                "warning",
            )
        )
    return notes


@dataclass(frozen=True)
class _Block:
    """What a block sees of both images, and what of them it is for."""

    coarse: tuple[slice, ...]
    fine: tuple[slice, ...]
    own_coarse: tuple[slice, ...]
    own_fine: tuple[slice, ...]

    def origin(self, scale: Sequence[float], anchor: str) -> list[float]:
        """Place of its first coarse pixel in its fine pixels."""
        starts = zip(sample_origin(scale, anchor), scale, self.coarse, self.fine, strict=True)
        return [o + s * c.start - f.start for o, s, c, f in starts]


def _blocks(
    coarse: Sequence[int],
    fine: Sequence[int],
    scale: Sequence[float],
    side: int,
    kernel: Sequence[int],
) -> list[_Block]:
    """Pieces of about 2 `side` fine pixels."""
    cuts = []
    for n, m, s, k in zip(coarse, fine, scale, kernel, strict=True):
        count = max(1, math.ceil(n * s / (2 * side)))
        edges = [round(n * i / count) for i in range(count + 1)]
        reach = OVERLAP + math.ceil(k / (2 * s))
        row = []
        for a, b in pairwise(edges):
            c = slice(max(0, a - reach), min(n, b + reach))
            f = slice(math.floor(c.start * s), m if c.stop == n else min(m, math.ceil(c.stop * s)))
            own = slice(math.floor(a * s), m if b == n else math.floor(b * s))
            row.append((c, f, slice(a, b), own))
        cuts.append(row)
    picks = (
        [row[i] for row, i in zip(cuts, at, strict=True)] for at in np.ndindex(*map(len, cuts))
    )
    return [_Block(*map(tuple, zip(*pick, strict=True))) for pick in picks]


def _inside(own: Sequence[slice], seen: Sequence[slice]) -> tuple[slice, ...]:
    """`own` in the coordinates of what is seen."""
    return tuple(slice(o.start - s.start, o.stop - s.start) for o, s in zip(own, seen, strict=True))


Step = tuple[float, str, "torch.Tensor | None"]


def _solve(
    degrade: Degradation,
    data: torch.Tensor,
    scale: Sequence[float],
    origin: Sequence[float],
    noise: float,
    sharp: bool,
    recipe: SuperResolve,
    beside: bool,
) -> Generator[Step, None, tuple[torch.Tensor, torch.Tensor]]:
    """One block, in units of a 255th of the image's range; yields the share done and the image."""
    start = image = enlarge(data, degrade.fine, scale, origin)
    yield 0.02, "interpolate", image
    if sharp and can_learn(data.shape[1:], scale):
        learner = learned_steps(data, round(math.log2(scale[0])), recipe.anchor)
        try:
            while True:
                next(learner)
                yield 0.1, "learn from the coarser scale", None
        except StopIteration as end:
            image = back_project(degrade, end.value, data, 0.0, 2)
    elif not sharp:
        for part, found in least_variation(degrade, data, start, noise**2 / EDGE):
            image = found
            yield 0.02 + 0.3 * part, "deblur", None
        start = image
        yield 0.32, "deblur", image
    errors = error_schedule(recipe.passes, sharp, noise)
    colours = len(image) == 3
    members: list[torch.Tensor] = []
    for number, error in enumerate(errors):
        part = 0.32 + 0.66 * number / len(errors)
        mixed = torch.einsum("ij,j...->i...", OPPONENT.to(image), image) if colours else image
        if number % 2 == 0:
            members = yield from _searched(mixed[0], recipe, part, beside)
        guess = yield from _posterior(mixed, members, error, recipe.patch, part, beside)
        guess = torch.einsum("ji,j...->i...", OPPONENT.to(image), guess) if colours else guess
        image = back_project(degrade, guess, data, (noise / error) ** 2, 4)
        yield part, "patch posterior", image
    spread = expected_error(image, start, noise, scale, sharp)
    return image, spread


def error_schedule(passes: int, sharp: bool, noise: float) -> list[float]:
    """Assumed error of the image in each round, units of a 255th of the range."""
    first, last = (6.0, 1.5) if sharp else (32.0, 0.7)
    return [float(e) for e in np.geomspace(first, last, passes)] if passes > 1 else [last] * passes


def expected_error(
    image: torch.Tensor, start: torch.Tensor, noise: float, scale: Sequence[float], sharp: bool
) -> torch.Tensor:
    """Deviation expected of each value: larger where the image is rough or was changed.

    The share of a neighbourhood's variance that is lost grows with the factor; the number is that of
    Set5 and Set14, where the error's root mean square is within a factor of two of this one's.
    """
    axes = tuple(range(1, image.ndim))
    pool = (F.avg_pool2d, F.avg_pool3d)[len(axes) - 2]

    def smooth(values: torch.Tensor) -> torch.Tensor:
        return pool(F.pad(values[None], (2, 2) * len(axes), mode="replicate"), 5, 1)[0]

    centred = image - image.mean(dim=axes, keepdim=True)  # squares of large means lose digits
    rough = (smooth(centred.square()) - smooth(centred).square()).clamp_min(0)
    share = (0.09 if sharp else 0.05) * (max(scale) ** 2 - 1)
    return (share * (rough + smooth((image - start).square())) + noise**2).sqrt()


def least_variation(
    degrade: Degradation,
    data: torch.Tensor,
    image: torch.Tensor,
    weight: float,
    rounds: int = 5,
    steps: int = 15,
) -> Generator[tuple[float, torch.Tensor], None, None]:
    """Image of least total variation (colours together) that explains the data.

    Minimises |A x - y|^2 + 2 weight sum |grad x| by reweighted squares (Rudin, Osher and Fatemi 1992;
    Vogel and Oman 1996).

    Yields
    ------
    tuple of float and Tensor
        Share done, and the image so far.
    """
    axes = range(1, image.ndim)
    last = degrade.transpose(data)
    for turn in range(rounds):
        slopes = [_slope(image, axis).square().sum(0, keepdim=True) for axis in axes]
        share = 1 / (torch.stack(slopes).sum(0) + 1).sqrt()

        def turned(v: torch.Tensor, share: torch.Tensor = share) -> torch.Tensor:
            rough = sum(_slope_back(share * _slope(v, axis), axis) for axis in axes)
            return degrade.transpose(degrade(v)) + weight * rough

        residual = last - turned(image)
        direction, power = residual.clone(), residual.square().sum()
        for step in range(steps):
            if not float(power) > 1e-9:
                break
            answer = turned(direction)
            length = power / (direction * answer).sum()
            image = image + length * direction
            residual = residual - length * answer
            power, old = residual.square().sum(), power
            direction = residual + power / old * direction
            yield (turn + step / steps) / rounds, image


def _slope(image: torch.Tensor, axis: int) -> torch.Tensor:
    """Next minus this along an axis; 0 at the end."""
    slope = torch.zeros_like(image)
    n = image.shape[axis] - 1
    torch.sub(image.narrow(axis, 1, n), image.narrow(axis, 0, n), out=slope.narrow(axis, 0, n))
    return slope


def _slope_back(slope: torch.Tensor, axis: int) -> torch.Tensor:
    """The transpose of `_slope`."""
    n = slope.shape[axis] - 1
    image = torch.zeros_like(slope)
    image.narrow(axis, 0, n).sub_(slope.narrow(axis, 0, n))
    image.narrow(axis, 1, n).add_(slope.narrow(axis, 0, n))
    return image


def _searched(
    image: torch.Tensor, recipe: SuperResolve, part: float, beside: bool
) -> Generator[Step, None, list[torch.Tensor]]:
    """For each plane (Y, X): rows of `patch_table` of each group, (groups, members)."""
    found = []
    told: Step = (part, "find similar patches", None)
    for plane in image.reshape(-1, *image.shape[-2:]):
        size = min(recipe.patch, *plane.shape)
        stride = min(recipe.stride, size)  # or pixels between the patches would have no answer
        # distances are differences of squares: about the mean they lose fewer digits
        table = patch_table((plane - plane.mean())[None, None], size)
        ys, xs = (reference_starts(n, size, stride).to(plane.device) for n in plane.shape)
        square = (table * table).sum(1)
        shape = (1, *(n - size + 1 for n in plane.shape))
        side = team_side(stride, recipe.window)
        at_once = teams_at_once(plane.device)
        windows = [
            team_windows(some, xs, shape, recipe.window, side, at_once) for some in _halves(ys)
        ]
        groups = [_groups(table, square, some, recipe.group) for some in windows]
        halves = both_halves(groups, beside)
        found.append(torch.cat((yield from relayed(halves, lambda _: told))))
    return found


def _halves(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What two threads work on; a GPU takes all at once."""
    return rows.chunk(2 if rows.device.type == "cpu" else 1)


def _groups(
    table: torch.Tensor,
    square: torch.Tensor,
    windows: Iterator[tuple[torch.Tensor, torch.Tensor]],
    group: int,
) -> Generator[None, None, torch.Tensor]:
    """The groups of some teams."""
    found = []
    for reference, candidate in windows:
        most = min(group, candidate.shape[1])
        found.append(find_groups(table, square, reference, candidate, most)[0])
        yield
    return torch.cat(found)


def _posterior(
    image: torch.Tensor,
    members: list[torch.Tensor],
    error: float,
    patch: int,
    part: float,
    beside: bool,
) -> Generator[Step, None, torch.Tensor]:
    """Posterior mean of each patch under the Gaussian of its group; overlaps averaged.

    Patches that are better known count for more: by one over the mean of their posterior variance.

    Parameters
    ----------
    image : Tensor, shape (C, *fine)
    members : list of Tensor of int, shape (groups, members)
        As `_searched` gives them for each plane; shared by the channels.
    error : float
        Standard deviation of the white noise that the image is taken to have.
    patch : int
    part : float
        Share of the work that is done.
    beside : bool
        Halves of the groups at once; the result is the same.
    """
    result = torch.empty_like(image)
    planes = image.reshape(len(image), -1, *image.shape[-2:])
    target = result.view_as(planes)
    told: Step = (part, "patch posterior", None)
    for number, rows in enumerate(members):
        size = min(patch, *planes.shape[-2:])
        high, wide = (n - size + 1 for n in planes.shape[-2:])
        for channel, plane in enumerate(planes[:, number]):
            table = patch_table(plane[None, None], size)
            sums = [_group_sums(table, half, error, (high, wide)) for half in _halves(rows)]
            halves = yield from relayed(both_halves(sums, beside), lambda _: told)
            total, count = (sum(parts[1:], parts[0]) for parts in zip(*halves, strict=True))
            target[channel, number] = total / count
    return result


def _group_sums(
    table: torch.Tensor, rows: torch.Tensor, error: float, shape: tuple[int, int]
) -> Generator[None, None, tuple[torch.Tensor, torch.Tensor]]:
    """Weighted sum of the posterior means of one channel's patches at each pixel, and of the weights.

    Parameters
    ----------
    table : Tensor, shape (P, D)
        All patches.
    rows : Tensor of int, shape (G, K)
        Groups of them.
    error : float
        Standard deviation of the white noise that the patches are taken to have.
    shape : (int, int)
        Rows and columns of patches.

    Returns
    -------
    tuple of Tensor, shape (Y, X)
    """
    total, count = torch.zeros_like(table), table.new_zeros(len(table))
    eye = torch.eye(table.shape[1], device=table.device)
    for chunk in rows.split(GROUPS if rows.device.type == "cpu" else 64 * GROUPS):
        seen = rows_of(table, chunk)
        group = seen - seen.mean(1, keepdim=True)
        cov = group.transpose(1, 2) @ group / max(1, chunk.shape[1] - 1)
        # beside a hot pixel's variance the noise would be lost in rounding
        least = cov.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] * ROUNDING
        root = torch.linalg.cholesky(cov + (error**2 + least) * eye)
        half = torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)
        gain = half.transpose(1, 2) @ half
        guess = torch.baddbmm(seen, group, gain, alpha=-(error**2))
        # in units of the noise's; the mean is no better known than by so many noisy patches
        left = 1 - error**2 * gain.diagonal(dim1=1, dim2=2).mean(1)
        sure = (1 / (left + 1 / chunk.shape[1]))[:, None].expand(chunk.shape)
        guess *= sure[..., None]
        total.index_add_(0, chunk.reshape(-1), guess.flatten(0, 1))
        count.index_add_(0, chunk.reshape(-1), sure.reshape(-1))
        yield
    side = math.isqrt(table.shape[1])
    return patch_sums(total, 1, *shape, side)[0, 0], covered(count, 1, *shape, side)[0]


def consistency(
    values: np.ndarray,
    image: np.ndarray,
    kernel: np.ndarray,
    scale: Sequence[float],
    anchor: str = "centre",
) -> np.ndarray:
    """Root mean square of the degraded image minus the measured one.

    Parameters
    ----------
    values : ndarray, shape (C, *coarse)
    image : ndarray, shape (C, *fine)
    kernel : ndarray
        On the fine grid.
    scale : sequence of float
    anchor : str

    Returns
    -------
    ndarray, shape (C,)
        Grey levels.
    """
    return np.sqrt(sum(_misfits(values, image, kernel, scale, anchor)) / values[0].size)


def _misfits(
    values: np.ndarray,
    image: np.ndarray,
    kernel: np.ndarray,
    scale: Sequence[float],
    anchor: str,
) -> Generator[np.ndarray, None, None]:
    """Sum of the squares of what is left in each block, (C,)."""
    for block in _blocks(values.shape[1:], image.shape[1:], scale, 256, kernel.shape):
        seen = torch.as_tensor(image[(slice(None), *block.fine)].astype(np.float32))
        sides = [c.stop - c.start for c in block.coarse]
        degrade = Degradation(kernel, sides, seen.shape[1:], scale, block.origin(scale, anchor))
        own = (slice(None), *_inside(block.own_coarse, block.coarse))
        left = degrade(seen)[own].numpy() - values[(slice(None), *block.own_coarse)]
        yield np.square(left, dtype=np.float64).sum(tuple(range(1, left.ndim)))
