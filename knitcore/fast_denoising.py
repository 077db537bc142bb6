"""Denoising of one canvas: noise, blind-spot pilot, patch posteriors, in this order."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from knitcore.blind_spot import hidden_pixels, pilot_steps, predicted_share, surround
from knitcore.device import fit_threads
from knitcore.events import Note, Stage
from knitcore.fit import random_source
from knitcore.noise import (
    LINE,
    SLIGHT,
    Denoised,
    Noise,
    autocorrelation,
    draw_blocks,
    estimate_noise,
    given_noise,
    grey_step,
    is_noise,
    line_of,
    read_levels,
)
from knitcore.posterior import posterior_steps
from knitcore.recipe import Denoise

T = TypeVar("T")

LONE = 8.0  # a pixel so many noise deviations off all its neighbours is a defect
THIN = 4  # sides below this hold no patch
TAKEN = 1.2  # more variance taken away than so many times the noise's is structure
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
        Pixels far outside the noise of neighbours that agree with each other.
    """
    out, count, band = values.clone(), 0, 256
    Y = values.shape[2]
    flat = values.reshape(len(values), -1)
    flat = flat[:, :: max(1, flat.shape[1] // 100_000)].sort(1).values
    tail = flat.shape[1] // 1000
    # what stands out less than the image's own range may be a structure one pixel wide
    least = (flat[:, -1 - tail] - flat[:, tail])[:, None, None] / 2
    for z in range(values.shape[1]):
        for start in range(0, Y, band):
            stop = min(Y, start + band)
            low, high = max(0, start - 1), min(Y, stop + 1)
            plane = values[:, None, z, low:high]
            around = F.unfold(F.pad(plane, (1, 1, 1, 1), mode="replicate"), 3)
            around = around.view(len(values), 9, high - low, -1)[:, :, start - low :][
                :, :, : stop - start
            ]
            near = around[:, [0, 1, 2, 3, 5, 6, 7, 8]].sort(1).values
            middle = (near[:, 3] + near[:, 4]) / 2
            off = (around[:, 4] - middle).abs()
            # the second largest and smallest: another defect may be beside
            span = near[:, 6] - near[:, 1]
            here = values[:, z, start:stop]
            deviation = noise.variance(torch.maximum(middle, here)).sqrt()
            lone = (off > LONE * deviation) & (off > 3 * span) & (off > least)
            out[:, z, start:stop] = torch.where(lone, middle, here)
            count += int(lone.sum())
    return out, count


def denoise_steps_on_canvas(
    values: np.ndarray,
    step: tuple[float, ...],
    recipe: Denoise,
    device: torch.device,
    key: str,
    joint: bool,
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

    Yields
    ------
    Stage
        Several a second.

    Returns
    -------
    Denoised
    """
    before = torch.get_num_threads()
    torch.set_num_threads(fit_threads())
    try:
        if joint or len(values) == 1:
            return (yield from _canvas_steps(values, recipe, device, key))
        parts = []
        for c in range(len(values)):
            steps = _canvas_steps(values[c : c + 1], recipe, device, f"{key} channel {c}")
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


def _unchanged(values: np.ndarray, noise: Noise, step: float, notes: list[Note]) -> Denoised:
    noise = replace(noise, kind="none")
    std = np.full(values.shape, step / math.sqrt(12), np.float32)
    return Denoised(np.array(values, np.float32), std, noise, "none", notes)


def _line_noise(
    values: torch.Tensor, noise: Noise, blind_spot: str, draw: torch.Generator
) -> Noise:
    """The noise with its correlation along a line, as far as the recipe lets it be looked for."""
    if blind_spot == "0":
        return replace(noise, along_y=(1.0,), along_x=(1.0,))
    levels = [read_levels(draw_blocks(channel, draw)) for channel in values]
    quiet = torch.cat([one.quiet for one in levels])
    if not len(quiet):
        return noise
    along_y, along_x = autocorrelation(quiet, torch.cat([one.weight for one in levels]))
    if blind_spot == "auto":
        along_y, along_x = line_of(along_y, along_x, LINE)
    else:
        reach = int(blind_spot) + 1 if blind_spot.isdigit() else len(along_x)
        along_y = along_y[: reach if blind_spot != "x" else 1]
        along_x = along_x[: reach if blind_spot != "y" else 1]
    return replace(noise, along_y=along_y, along_x=along_x)


def _canvas_steps(
    values: np.ndarray, recipe: Denoise, device: torch.device, key: str
) -> Generator[Stage, None, Denoised]:
    C, spatial = len(values), values.shape[1:]
    quantum = grey_step(values)
    if min(spatial[-2:]) < THIN:
        none = Noise("none", (0.0,) * C, (0.0,) * C, (0.0,) * C)
        text = f"{spatial[-2]} x {spatial[-1]} pixels are too few to tell noise from structure"
        return _unchanged(values, none, quantum, [Note(text + ": left as it is", "warning")])
    yield Stage(0.0, "look for noise")
    raw = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
    raw = raw.view(C, -1, *spatial[-2:])
    draw = random_source(recipe.seed, key, "noise")
    given = recipe.sigma is not None or recipe.gain is not None
    notes: list[Note] = []
    if given:
        noise = given_noise(C, recipe.sigma, recipe.gain, recipe.offset)
    else:
        noise, notes = estimate_noise(raw, quantum, recipe.noise, draw)
    yield Stage(0.01, "look for noise")
    if noise.kind != "none" and (given or recipe.blind_spot != "auto"):
        noise = _line_noise(raw, noise, recipe.blind_spot, draw)
    noisy = [c for c in range(C) if noise.kind != "none" and noise.floor[c] > 0]
    if not noisy:
        return _unchanged(values, noise, quantum, notes)
    clean, std = np.array(values, np.float32), np.full(values.shape, quantum / 12**0.5, np.float32)
    work = raw[noisy]
    steps = _noisy_steps(work, noise.of(noisy), given, quantum, recipe, key)
    result = None
    while result is None:
        try:
            stage = next(steps)
        except StopIteration as end:
            result = end.value
            break
        if stage.values is not None:
            shown = clean.copy()
            shown[noisy] = stage.values.reshape(len(noisy), *spatial)
            stage = replace(stage, values=shown)
        yield stage
    if result.noise.kind == "none":
        return _unchanged(values, result.noise, quantum, notes + result.notes)
    clean[noisy] = result.clean.reshape(len(noisy), *spatial)
    std[noisy] = result.std.reshape(len(noisy), *spatial)
    full = noise.put(noisy, result.noise)
    return Denoised(clean, std, full, result.blind_spot, notes + result.notes)


def _noisy_steps(
    raw: torch.Tensor, noise: Noise, given: bool, quantum: float, recipe: Denoise, key: str
) -> Generator[Stage, None, Denoised]:
    """Denoise channels (C, Z, Y, X) that do have noise."""
    C = len(raw)
    notes: list[Note] = []
    draw = random_source(recipe.seed, key, "check")
    whole, count = replace_lone(raw, noise)
    if count:
        text = (
            f"{count} pixels far outside the noise of their neighbours (hot or dead) were replaced"
        )
        notes.append(Note(text))
    flat = whole.reshape(C, -1)
    flat = flat[:, :: max(1, flat.shape[1] // 100_000)]
    centre = flat.median(1).values
    scale = noise.variance(flat).mean(1).sqrt()
    view = (-1, 1, 1, 1)
    y = (whole - centre.view(view)) / scale.view(view)
    del whole
    mine = noise.scaled(centre, scale)

    def grey(z: torch.Tensor) -> np.ndarray:
        return (z * scale.view(view) + centre.view(view)).cpu().numpy()

    def units(noise: Noise) -> Noise:
        return noise.scaled(-centre / scale, 1 / scale)

    hidden, name = hidden_pixels(recipe.blind_spot, mine)
    if not given:
        share = predicted_share(surround(y, hidden), mine, draw)
        if share < 0.5:
            mine = mine.times(share)
            if not is_noise(units(mine), flat, quantum):
                none = replace(units(mine), kind="none")
                return Denoised(grey(y), grey(y), none, "none", notes)
    fit = pilot_steps(y, mine, hidden, recipe, key, check=not given)
    clean, mine = yield from _staged(fit, 0.02, 0.3, "fit the blind-spot network")
    yield Stage(0.3, "predict", values=grey(clean))
    variance, done, passes = mine.variance(clean), 0.3, recipe.passes
    for k in range(passes):
        group, text = (
            recipe.group or (64 if C == 1 else 48),
            f"patch posteriors {k + 1} of {passes}",
        )
        if k:
            group = max(4, round(LATER_GROUP * group))
        until = 0.3 + 0.7 * (k + 1) / passes
        steps = posterior_steps(y, clean, mine, recipe, group)
        clean, variance = yield from _staged(steps, done, until, text)
        done = until
        if k == 0 and recipe.blind_spot == "auto" and len(hidden) == 1:
            found = _left_line(y, clean, mine, draw)
            if found != mine:
                # slight correlation shows only now: the prediction was drawn to the noise
                mine, (hidden, name) = found, hidden_pixels("auto", found)
                fit = pilot_steps(y, mine, hidden, recipe, key, check=False)
                clean, mine = yield from _staged(fit, done, done, "fit the blind-spot network")
                group = recipe.group or (64 if C == 1 else 48)
                steps = posterior_steps(y, clean, mine, recipe, group)
                clean, variance = yield from _staged(steps, done, done, text)
        if k + 1 < passes:
            yield Stage(done, text, values=grey(clean))
    excess = (y - clean).square_().div_(mine.variance(clean)).clamp_max_(25)
    taken = float(excess.mean())
    if taken > TAKEN:
        clean += (1 - taken**-0.5) * (y - clean)
        text = "more was taken away than noise explains: mixed with the input"
        notes.append(Note(text, "warning"))
    if len(mine.along_x) + len(mine.along_y) > 2:
        axis, lags = ("x", mine.along_x) if len(mine.along_x) > 1 else ("y", mine.along_y)
        text = (
            f"the noise is correlated along {axis} ({lags[1]:.2f} between neighbours); blind spot "
        )
        notes.append(Note(text + f"{name}"))
    std = variance.sqrt() * scale.view(view)
    return Denoised(grey(clean), std.cpu().numpy(), units(mine), name, notes)


def _left_line(
    noisy: torch.Tensor, clean: torch.Tensor, noise: Noise, draw: torch.Generator
) -> Noise:
    """The noise with its correlation along a line in what a first result has left over."""
    left = (noisy - clean) / noise.variance(clean).sqrt()
    count = 8000 // len(left) + 1
    blocks = torch.cat([draw_blocks(channel, draw, count) for channel in left])
    along = autocorrelation(blocks, torch.ones(len(blocks), dtype=blocks.dtype))
    along_y, along_x = line_of(along[0], along[1], SLIGHT)
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
