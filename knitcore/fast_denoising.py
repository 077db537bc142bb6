"""Denoising of one canvas: noise, blind-spot pilot, patch posteriors, in this order."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from knitcore.blind_spot import (
    DIRECTIONS,
    hidden_pixels,
    pilot_steps,
    predicted_share,
    surround,
)
from knitcore.coarse_scales import (
    LEAST_SIDE,
    WEAK,
    coarse_shares,
    contrast,
    gain_of,
    mix,
    noise_at,
    shrink,
)
from knitcore.device import fit_threads
from knitcore.edges import edge_share
from knitcore.events import Alongside, Note, Stage, relayed
from knitcore.fit import random_source
from knitcore.noise import (
    QUIET,
    SLIGHT,
    autocorrelation,
    by_chance,
    correlation_in,
    draw_blocks,
    draw_blocks_alike,
    estimate_noise,
    line_of,
    read_levels,
)
from knitcore.noise_model import Denoised, Noise, given_noise, grey_step, is_noise
from knitcore.posterior import patch_side, posterior_steps
from knitcore.recipe import Denoise

S = TypeVar("S")
T = TypeVar("T")
PassSteps = Generator[float | None, None, tuple[torch.Tensor, torch.Tensor]]
CoarseSteps = Alongside[tuple[float, float], list[torch.Tensor]]

LONE = 8.0  # a pixel so many noise deviations off all its neighbours is a defect
RAISED = 3.0  # and its neighbours rise less than by this: those of a point of light do not
KEPT = 5.5  # so many noise deviations off the result, a pixel is given back as measured
KEPT_PAIR = 4.0  # and so many together with a neighbour
SPARED = 0.96  # share of the noise's variance that is acted upon where it is strong, and even
THIN = 4  # sides below this hold no patch
TAKEN = 1.2  # more variance taken away than so many times the noise's is structure
PASSES = 2
MOST_BESIDE = 2**24  # numbers of a canvas: beyond, memory counts more than time
COARSE_TIME = 0.6  # of the last pass and the coarse scales before it
EDGE_TIME = 0.4  # of what follows the coarse scales
COLOUR_TIME = 0.7  # share of all that is over when the passes on colours begin
AFTER = 0.5  # share of the coarse images in the result over that in the last pass's pilot
GROUP = 48  # similar patches
LATER_GROUP = 2 / 3  # group size of the later passes, whose pilot is better, over the first one's


def replace_lone(values: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, int]:
    """Replace hot and dead pixels by the median of their neighbours.

    Parameters
    ----------
    values : Tensor, shape (C, Z, Y, X)
        Left as it is.
    noise : Noise

    Returns
    -------
    values : Tensor
    count : int
        Pixels far outside the noise of neighbours that agree with each other, and none of which
        the pixel has lit up: a point of light is no defect.
    """
    out, count = values, 0
    Y, X = values.shape[2:]
    for c, channel in enumerate(values):
        ends = channel.reshape(-1)[:: max(1, channel.numel() // 100_000)].sort().values
        tail = len(ends) // 1000
        # what stands out less than the image's own range may be a structure one pixel wide
        least = float(ends[-1 - tail] - ends[tail]) / 2
        for z, plane in enumerate(channel):
            padded = F.pad(plane[None, None], (1, 1, 1, 1), mode="replicate")
            off = F.avg_pool2d(padded, 3, 1)[0, 0].sub_(plane).abs_()
            at = (off > least / 2).nonzero()
            if not len(at):
                continue
            around = [
                plane[(at[:, 0] + y).clamp(0, Y - 1), (at[:, 1] + x).clamp(0, X - 1)]
                for y, x in DIRECTIONS
            ]
            near, here = torch.stack(around).sort(0).values, plane[at[:, 0], at[:, 1]]
            middle = (near[3] + near[4]) / 2
            up = torch.where(here > middle, 1.0, -1.0)
            beside = torch.stack([around[k] for k in (1, 3, 4, 6)]) - middle
            rise = (beside * up).sort(0).values[2:]
            # the second largest and smallest: another defect may be beside
            span = near[6] - near[1]
            level = torch.maximum(middle, here)
            far = (here - middle).abs()
            lone = far > LONE * noise.of([c]).variance(level[None])[0].sqrt()
            lone &= (far > 3 * span) & (far > least)
            calm = noise.of([c]).variance(middle[None])[0].sqrt()
            lone &= (rise[0] < RAISED * calm) & (rise[1] < KEPT * calm)
            if lone.any():
                out = out.clone() if out is values else out
                at = at[lone]
                out[c, z, at[:, 0], at[:, 1]] = middle[lone]
                count += len(at)
    return out, count


def denoise_steps_on_canvas(
    values: np.ndarray,
    step: tuple[float, ...],
    recipe: Denoise,
    device: torch.device,
    key: str,
    joint: bool,
    cores: int = 1,
) -> Generator[Stage, None, Denoised]:
    """Denoise one canvas.

    Parameters
    ----------
    values : ndarray of float32, shape (C, *spatial)
        Grey levels, finite; two or three spatial axes (ZYX).
    step : tuple of float
        Relative pixel size along each spatial axis.
    recipe : Denoise
    device : torch.device
    key : str
        Name of the canvas: with the seed it decides all random numbers.
    joint : bool
        All channels together, or each by itself.
    cores : int
        Where there are two for each of torch's threads, parts that need nothing of each other are
        worked on at once, with the same result.

    Yields
    ------
    Stage
        Several a second.

    Returns
    -------
    Denoised
    """
    before = torch.get_num_threads()
    threads = fit_threads()  # of each part: their number decides how sums are rounded
    beside = cores >= 2 * threads and device.type == "cpu" and values.size <= MOST_BESIDE
    torch.set_num_threads(threads)
    try:
        if joint or len(values) == 1:
            return (yield from _distinct_steps(values, recipe, device, key, beside))
        parts = []
        for c in range(len(values)):
            name = f"{key} channel {c}"
            steps = _canvas_steps(values[c : c + 1], recipe, device, name, beside)
            while True:
                try:
                    stage = next(steps)
                except StopIteration as end:
                    parts.append(end.value)
                    break
                yield Stage((c + stage.done) / len(values), stage.text, stage.losses)
        return _joined(parts)
    finally:
        torch.set_num_threads(before)


def _distinct_steps(
    values: np.ndarray, recipe: Denoise, device: torch.device, key: str, beside: bool
) -> Generator[Stage, None, Denoised]:
    """Grey pictures stored as colours: equal channels have equal noise, and count as one."""
    same = [
        next(k for k in range(c + 1) if np.array_equal(values[k], values[c]))
        for c in range(len(values))
    ]
    first = sorted(set(same))
    if len(first) == len(values):
        return (yield from _canvas_steps(values, recipe, device, key, beside))
    back = [first.index(k) for k in same]
    steps = _canvas_steps(values[first], recipe, device, key, beside)
    while True:
        try:
            stage = next(steps)
        except StopIteration as end:
            done: Denoised = end.value
            break
        yield stage if stage.values is None else replace(stage, values=stage.values[back])
    clean, std = done.clean[back], done.std[back]
    return replace(done, clean=clean, std=std, noise=done.noise.of(back))


def _joined(parts: list[Denoised]) -> Denoised:
    """Channels denoised one by one as one canvas."""
    noises = [part.noise for part in parts]
    kinds = [noise.kind for noise in noises]
    top = next((k for k in ("poisson-gaussian", "gaussian") if k in kinds), "none")
    gain, offset, floor = (
        tuple(getattr(noise, name)[0] for noise in noises) for name in ("gain", "offset", "floor")
    )
    lines = [max((getattr(n, name) for n in noises), key=len) for name in ("along_y", "along_x")]
    return Denoised(
        np.concatenate([part.clean for part in parts]),
        np.concatenate([part.std for part in parts]),
        Noise(top, gain, offset, floor, *lines),
        ", ".join(dict.fromkeys(part.blind_spot for part in parts)),
        list(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _unchanged(values: np.ndarray, noise: Noise, notes: list[Note]) -> Denoised:
    noise = replace(noise, kind="none")
    return Denoised(
        np.array(values, np.float32), np.zeros(values.shape, np.float32), noise, "none", notes
    )


def _line_noise(
    values: torch.Tensor, noise: Noise, blind_spot: str, draw: torch.Generator
) -> tuple[Noise, list[Note]]:
    """Given noise with its correlation, as far as the recipe lets it be looked for."""
    levels = [read_levels(draw_blocks(channel, draw)) for channel in values]
    all_power, high = [], []  # of the flat blocks, over the variance given
    for c, one in enumerate(levels):
        if len(one.mean):
            given = float(noise.of([c]).variance(torch.from_numpy(one.mean)[None]).mean())
            all_power.append(float(one.quiet.var((1, 2)).mean()) / given)
            high.append(float(one.variance.mean()) / given)
    if not high or max(all_power) < 1 / 4 or max(high) < 1e-3:
        return noise, []  # less than this noise would have left
    along_y, along_x, notes = correlation_in(levels, values.numel(), blind_spot)
    if max(all_power) > 4:
        notes = []  # structure, by far
    return replace(noise, along_y=along_y, along_x=along_x), notes


def _estimated(
    values: torch.Tensor, step: float, recipe: Denoise, draw: torch.Generator
) -> tuple[Noise, list[Note]]:
    """The noise in the form the recipe asks for: of mean strength, where that does not fit."""
    if recipe.noise == "gaussian":
        noise, notes = estimate_noise(values, step, "auto", draw, recipe.blind_spot)
        if noise.kind == "poisson-gaussian":
            flat = values.reshape(len(values), -1)
            flat = flat[:, :: max(1, flat.shape[1] // 100_000)]
            mean = tuple(float(v) for v in noise.variance(flat).mean(1))
            zeros = (0.0,) * len(values)
            noise = replace(noise, kind="gaussian", gain=zeros, offset=mean, floor=mean)
            text = "the noise grows with the signal: poisson-gaussian fits better"
            return noise, [*notes, Note(text, "warning")]
    return estimate_noise(values, step, recipe.noise, draw, recipe.blind_spot)


def _canvas_steps(
    values: np.ndarray, recipe: Denoise, device: torch.device, key: str, beside: bool
) -> Generator[Stage, None, Denoised]:
    C, spatial = len(values), values.shape[1:]
    quantum = grey_step(values)
    if min(spatial[-2:]) < THIN:
        none = Noise("none", (0.0,) * C, (0.0,) * C, (0.0,) * C)
        text = f"{spatial[-2]} x {spatial[-1]} pixels are too few to tell noise from structure"
        return _unchanged(values, none, [Note(text + ": left as it is", "warning")])
    yield Stage(0.0, "look for noise")
    raw = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
    raw = raw.view(C, -1, *spatial[-2:])
    draw = random_source(recipe.seed, key, "noise")
    given = recipe.sigma is not None or recipe.gain is not None
    notes: list[Note] = []
    if given:
        noise = given_noise(C, recipe.sigma, recipe.gain, recipe.offset)
    else:
        noise, notes = _estimated(raw, quantum, recipe, draw)
    yield Stage(0.01, "look for noise")
    if recipe.blind_spot == "0":
        noise = replace(noise, along_y=(1.0,), along_x=(1.0,))
    elif given and noise.kind != "none":
        noise, notes = _line_noise(raw, noise, recipe.blind_spot, draw)
    noisy = [c for c in range(C) if noise.kind != "none" and noise.floor[c] > 0]
    if not noisy:
        return _unchanged(values, noise, notes)
    work = raw if len(noisy) == C else raw[noisy]
    steps = _noisy_steps(work, noise.of(noisy), given, quantum, recipe, key, beside)

    def whole(part: np.ndarray, rest: np.ndarray | float) -> np.ndarray:
        """All channels: those worked on, and the rest."""
        if len(noisy) == C:
            return part.reshape(values.shape)
        full = np.array(np.broadcast_to(rest, values.shape), np.float32)
        full[noisy] = part.reshape(len(noisy), *spatial)
        return full

    while True:
        try:
            stage = next(steps)
        except StopIteration as end:
            done: Denoised = end.value
            break
        if stage.values is not None:
            stage = replace(stage, values=whole(stage.values, values))
        yield stage
    if done.noise.kind == "none":
        return _unchanged(values, done.noise, [])  # nothing of what was noted came about
    clean, std = whole(done.clean, values), whole(done.std, 0.0)
    return Denoised(clean, std, noise.put(noisy, done.noise), done.blind_spot, notes + done.notes)


def _noisy_steps(
    raw: torch.Tensor,
    noise: Noise,
    given: bool,
    quantum: float,
    recipe: Denoise,
    key: str,
    beside: bool,
) -> Generator[Stage, None, Denoised]:
    """Denoise channels (C, Z, Y, X) that do have noise."""
    C = len(raw)
    notes: list[Note] = []
    draw = random_source(recipe.seed, key, "check")
    sound, count = replace_lone(raw, noise) if recipe.hot_pixels == "replace" else (raw, 0)
    lone = (sound != raw).nonzero(as_tuple=True) if count else ()
    off = (sound[lone] - raw[lone]).abs() / 2 if count else None
    yield Stage(0.015, "look for noise")
    if count:
        text = (
            f"{count} pixels far outside the noise of their neighbours (hot or dead) were replaced"
        )
        notes.append(Note(text))
    flat = sound.reshape(C, -1)
    flat = flat[:, :: max(1, flat.shape[1] // 100_000)]
    centre = flat.median(1).values
    scale = noise.variance(flat).mean(1).sqrt()
    view = (-1, 1, 1, 1)
    y = (sound - centre.view(view)).div_(scale.view(view))
    del sound
    mine = noise.scaled(centre, scale)

    def grey(z: torch.Tensor) -> np.ndarray:
        return (z * scale.view(view)).add_(centre.view(view)).cpu().numpy()

    def units(noise: Noise) -> Noise:
        return noise.scaled(-centre / scale, 1 / scale)

    hidden, name = hidden_pixels(recipe.blind_spot, mine)
    yield Stage(0.02, "look around")
    around = surround(y, hidden)
    yield Stage(0.02, "look around")
    if not given:
        share = predicted_share(around, mine, draw)
        if share < 0.5:
            mine = mine.times(share)
            if not is_noise(units(mine), flat, quantum):
                none = replace(units(mine), kind="none")
                return Denoised(grey(y), grey(y), none, "none", notes)
    # what is seen is picture and noise
    strong = contrast(y, mine) - 1 <= WEAK
    # strong noise hides what only slightly differs from it: less is taken for noise than there is
    spared = SPARED if strong and not any(mine.gain) else 1.0
    mine = mine.times(spared)
    more = C > 1 and not strong  # colours' patches have more numbers than a group has patches
    passes = PASSES if recipe.passes is None else recipe.passes
    coarse: list[tuple[torch.Tensor, float]] = []
    with ExitStack() as at_end:
        begun, told = None, mine
        if beside and strong and passes > 1:
            begun = _begin_coarse(at_end, y, mine, hidden, recipe, key)
        # in strong noise the other core is at the coarse images
        free = beside and not strong
        fit = pilot_steps(around, mine, recipe, key, check=not given, weak=not strong, beside=free)
        clean, mine = yield from _staged(fit, 0.02, 0.3, "fit the blind-spot network")
        del fit, around
        if not given and not is_noise(units(mine), flat, quantum):
            none = replace(units(mine), kind="none")
            return Denoised(grey(y), grey(y), none, "none", notes)
        yield Stage(0.3, "predict", values=grey(clean))
        if begun is not None and mine != told:  # the noise is weaker than it was taken for
            begun.close()
            begun = _begin_coarse(at_end, y, mine, hidden, recipe, key)
        colours = bool(C > 1 and recipe.colour_patches and not any(mine.gain))
        done, last = 0.3, COLOUR_TIME if colours else 1.0
        variance = clean if passes else mine.variance(clean)  # until a pass tells it
        for k in range(passes):
            text = f"patch posteriors {k + 1} of {passes}"
            until = 0.3 + (last - 0.3) * (k + 1) / passes
            if k == passes - 1:
                pause = done + COARSE_TIME * (until - done)
                finding = _coarse_images(y, clean, mine, hidden, recipe, key, begun)
                coarse = yield from _staged(finding, done, pause, "denoise at lower resolution")
                done = pause if coarse else done
                clean = mix(clean, coarse)
            pilot, group = clean, _group(recipe, k)
            twofold = strong and k == passes - 1 and recipe.passes is None
            pause = until - EDGE_TIME * (until - done) if twofold else until
            steps = posterior_steps(y, pilot, mine, recipe, group, more, free)
            broad = _larger_steps(y, pilot, mine, recipe, group)
            if twofold and beside:
                broad = _begin(at_end, broad).wait()
            clean, variance = yield from _staged(steps, done, pause, text)
            if twofold:
                edges = edge_share(clean, variance, mine)
                steps = _edges_and_texture(y, clean, edges, mine, recipe, group, broad)
                clean, variance = yield from _staged(steps, pause, until, "edges and texture")
            del pilot, broad
            done = until
            if k == 0 and recipe.blind_spot == "auto" and len(hidden) == 1:
                found = _left_line(y, clean, mine, draw)
                if found != mine:
                    # slight correlation shows only now: the prediction was drawn to the noise
                    mine, (hidden, name) = found, hidden_pixels("auto", found)
                    fit = pilot_steps(surround(y, hidden), mine, recipe, key, check=False)
                    clean, mine = yield from _staged(fit, done, done, "fit the blind-spot network")
                    del fit
                    if begun is not None:
                        begun.close()
                    coarse, begun = [], None  # their noise was taken for white
                    steps = posterior_steps(y, clean, mine, recipe, _group(recipe, k), more)
                    clean, variance = yield from _staged(steps, done, done, text)
            if k + 1 < passes:
                yield Stage(done, text, values=grey(clean))
    clean = mix(clean, coarse, AFTER)
    del coarse, begun
    if colours:
        yield Stage(done, "colours", values=grey(clean))
        refining = _colours_again(y, clean, mine, recipe, beside)
        clean = yield from _staged(refining, done, 1.0, "colours")
    some = slice(None, None, max(1, y[0].numel() // 1_000_000))
    left, level = (v.reshape(C, -1)[:, some] for v in (y, clean))
    taken = float(((left - level) ** 2 / mine.variance(level)).clamp_max(25).mean())
    # four deviations of an estimate from the high frequencies (9 of 64) of the flattest quarter
    doubt = 0.0 if given else 4 * math.sqrt(2 / (QUIET * 9 / 64 * y.numel()))
    if taken > max(TAKEN, 1 + doubt):
        clean += (1 - taken**-0.5) * (y - clean)
        text = "more was taken away than noise explains: mixed with the input"
        notes.append(Note(text, "warning"))
    kept = standing_out(y, clean, mine).nonzero(as_tuple=True)
    if len(kept[0]):
        variance[kept], clean[kept] = mine.variance(y)[kept], y[kept]
        text = "pixels stand out from their surroundings by more than noise explains"
        notes.append(Note(f"{len(kept[0])} {text}: kept as measured"))
    del y
    seen = [
        f"{axis} ({lags[1]:.2f} between neighbours)"
        for axis, lags in (("x", mine.along_x), ("y", mine.along_y))
        if len(lags) > 1 and abs(lags[1]) >= SLIGHT
    ]
    if seen:
        text = f"the noise is correlated along {' and '.join(seen)}; blind spot {name}"
        notes.append(Note(text))
    std = variance.sqrt_().mul_(scale.view(view))
    if off is not None:
        std[lone] = std[lone].maximum(off)
    return Denoised(grey(clean), std.cpu().numpy(), units(mine.times(1 / spared)), name, notes)


def _larger_steps(
    noisy: torch.Tensor, pilot: torch.Tensor, noise: Noise, recipe: Denoise, group: int
) -> PassSteps:
    """A pass with larger patches."""
    changed = {"patch": patch_side(recipe, len(noisy)) + 2, "stride": recipe.stride + 1}
    larger = recipe.model_copy(update=changed)
    return (yield from posterior_steps(noisy, pilot, noise, larger, group))


def _edges_and_texture(
    noisy: torch.Tensor,
    clean: torch.Tensor,
    edges: torch.Tensor,
    noise: Noise,
    recipe: Denoise,
    group: int,
    broad: PassSteps,
) -> Generator[float, None, tuple[torch.Tensor, torch.Tensor]]:
    """Another pass for `clean` where `edges` are; what `broad` finds with larger patches elsewhere."""
    again = posterior_steps(noisy, clean, noise, recipe, group)
    sharp = yield from relayed(again, lambda part: part / 3)
    found = yield from relayed(broad, lambda part: (1 + 2 * (part or 0.0)) / 3)
    return found[0].lerp_(sharp[0], edges), found[1].lerp_(sharp[1], edges)


def _colours_again(
    noisy: torch.Tensor, clean: torch.Tensor, noise: Noise, recipe: Denoise, beside: bool
) -> Generator[tuple[float, float], None, torch.Tensor]:
    """Further passes on the differences of channels: less is in them than in the brightness.

    Along the channels a cosine transform, for three the opponent colours of Dabov et al. 2007
    (doi:10.1109/ICIP.2007.4378954), leaves noise of equal strength as it is. Brightness stays; of
    the differences it is the mean of what there was and of each pass.
    """
    C = len(noisy)
    k, c = torch.arange(C, dtype=torch.float64)[:, None], torch.arange(C, dtype=torch.float64)
    turn = torch.cos(math.pi / C * k * (c + 0.5)).mul_(math.sqrt(2 / C))
    turn[0] /= math.sqrt(2)
    turn = turn.to(clean)
    seen, pilot = (torch.einsum("kc,c...->k...", turn, v) for v in (noisy, clean))
    strength = (sum(noise.offset) / C,) * (C - 1)
    theirs = replace(noise.of(list(range(1, C))), offset=strength, floor=strength)
    sides, group = recipe.colour_patches, _group(recipe, 1)
    passes: list[PassSteps] = [
        posterior_steps(
            seen[1:], pilot[1:], theirs, recipe.model_copy(update={"patch": side}), group
        )
        for side in sides
    ]
    with ExitStack() as at_end:
        if beside and len(passes) > 1:  # the last one takes as long as the others
            passes[-1] = _begin(at_end, passes[-1]).wait()
        total = pilot[1:].clone()
        for number, steps in enumerate(passes):
            found, _ = yield from relayed(steps, partial(_part_done, number, len(sides)))
            total += found
    pilot[1:] = total.div_(len(sides) + 1)
    return torch.einsum("kc,k...->c...", turn, pilot)


def _coarse_factors(noisy: torch.Tensor, noise: Noise, recipe: Denoise) -> list[float]:
    """By what the sides are divided, the finest first."""
    if len(noise.along_y) + len(noise.along_x) > 2:
        return []  # correlated noise would be correlated otherwise there
    return [factor for factor in recipe.coarse if min(noisy.shape[-2:]) / factor >= LEAST_SIDE]


def _begin(at_end: ExitStack, steps: Generator[S, None, T]) -> Alongside[S, T]:
    begun = Alongside(steps)
    at_end.callback(begun.close)
    return begun


def _begin_coarse(
    at_end: ExitStack,
    noisy: torch.Tensor,
    noise: Noise,
    hidden: set[tuple[int, int]],
    recipe: Denoise,
    key: str,
) -> CoarseSteps | None:
    """Coarse images beside whatever comes next, if there are any."""
    factors = _ahead(_coarse_factors(noisy, noise, recipe)) if recipe.coarse_weight else []
    if not factors:
        return None
    return _begin(at_end, _coarse_steps(noisy, factors, noise, hidden, recipe, key))


def _ahead(factors: list[float]) -> list[float]:
    """The coarse images that are worked on beside pilot and first pass, which take as long."""
    return factors[:-1] or factors


def _coarse_images(
    noisy: torch.Tensor,
    clean: torch.Tensor,
    noise: Noise,
    hidden: set[tuple[int, int]],
    recipe: Denoise,
    key: str,
    begun: CoarseSteps | None,
) -> Generator[tuple[float, float], None, list[tuple[torch.Tensor, float]]]:
    """The image denoised at lower resolutions, each with the share it is to have in the result.

    What was begun is waited for.
    """
    factors = _coarse_factors(noisy, noise, recipe)
    shares = coarse_shares(recipe.coarse_weight, len(factors), contrast(clean, noise))
    if not shares:
        if begun is not None:
            begun.close()
        return []
    ahead = _ahead(factors) if begun is not None else []
    # what was begun comes last: there is something else to do meanwhile
    steps = _coarse_steps(noisy, factors[len(ahead) :], noise, hidden, recipe, key)
    found = yield from relayed(steps, partial(_part_done, 0, 2 if ahead else 1))
    if begun is not None:
        found = (yield from relayed(begun.wait(), partial(_part_done, 1, 2))) + found
    return list(zip(found, shares, strict=True))


def _coarse_steps(
    noisy: torch.Tensor,
    factors: list[float],
    noise: Noise,
    hidden: set[tuple[int, int]],
    recipe: Denoise,
    key: str,
) -> Generator[tuple[float, float], None, list[torch.Tensor]]:
    """The image denoised at lower resolutions.

    Each has a pilot and passes of its own: what only refines the full image is of less help.
    """
    results, parts = [], len(factors) * (PASSES + 1)
    # they only count for a share: fewer patches cost nothing
    recipe = recipe.model_copy(update={"stride": recipe.stride + 1})
    for number, factor in enumerate(factors):
        over = number * (PASSES + 1)
        small = shrink(noisy, factor)
        gain = gain_of((noisy.shape[-2], noisy.shape[-1]), (small.shape[-2], small.shape[-1]))
        # in units in which the noise is as strong as on the full image
        small, own = small.mul_(gain), noise_at(noise, gain)
        around, name = surround(small, hidden), f"{key} 1/{factor:g}"
        fit = pilot_steps(around, own, recipe, name, check=False)
        result, _ = yield from relayed(fit, partial(_part_done, over, parts))
        for k in range(PASSES):
            steps = posterior_steps(small, result, own, recipe, _group(recipe, k))
            result, _ = yield from relayed(steps, partial(_part_done, over + 1 + k, parts))
        results.append(result.div_(gain))
    return results


def _part_done(
    over: int, parts: int, at: float | tuple[float, float] | None
) -> tuple[float, float]:
    """Share of all parts that is done, and the loss, if the part under way has one."""
    share, loss = at if isinstance(at, tuple) else (at or 0.0, math.nan)
    return (over + share) / parts, loss


def _group(recipe: Denoise, number: int) -> int:
    """Patches in a group of a pass, counted from 0."""
    group = recipe.group or GROUP
    return max(4, round(LATER_GROUP * group)) if number else group


def standing_out(noisy: torch.Tensor, clean: torch.Tensor, noise: Noise) -> torch.Tensor:
    """Pixels farther off the result than any noise: small structures that no other patch has.

    Parameters
    ----------
    noisy, clean : Tensor, shape (C, Z, Y, X)
    noise : Noise

    Returns
    -------
    Tensor of bool, shape (C, Z, Y, X)
    """
    off = (noisy - clean).div_(noise.variance(torch.maximum(noisy, clean)).sqrt_())
    kept = off.abs() > KEPT
    if len(noise.along_y) + len(noise.along_x) > 2:
        return kept  # neighbours are off together
    for sign in (1, -1):
        far = sign * off > KEPT_PAIR
        if far.any():
            kept |= far & (F.avg_pool2d(far.float(), 3, 1, 1) > 1.5 / 9)
    return kept


def _left_line(
    noisy: torch.Tensor, clean: torch.Tensor, noise: Noise, draw: torch.Generator
) -> Noise:
    """The noise with its correlation along a line in what a first result has left over."""
    count, parts = 8000 // len(noisy) + 1, []
    for c in range(len(noisy)):
        pairs = draw_blocks_alike((noisy[c], clean[c]), draw, count)
        parts.append((pairs[0] - pairs[1]) / noise.of([c]).variance(pairs[1][None])[0].sqrt())
    blocks = torch.cat(parts)
    blocks = blocks[blocks.abs().amax((1, 2)) < KEPT]  # what stands out is no noise
    if not len(blocks):
        return noise
    if not 1 / 4 < float((blocks**2).clamp_max(25).mean()) < TAKEN:
        return noise  # what is left over is not the noise
    along = autocorrelation(blocks, torch.ones(len(blocks), dtype=blocks.dtype))
    along_y, along_x = line_of(along[0], along[1], max(SLIGHT, by_chance(noisy.numel())), 1 / 3)
    return replace(noise, along_y=along_y, along_x=along_x)


def _staged(
    steps: Generator[Any, None, T], start: float, stop: float, text: str
) -> Generator[Stage, None, T]:
    """Progress of a part as progress of the whole."""
    while True:
        try:
            found = next(steps)
        except StopIteration as end:
            return end.value
        share, loss = found if isinstance(found, tuple) else (found, float("nan"))
        yield Stage(start + (stop - start) * share, text, {} if math.isnan(loss) else {"nll": loss})
