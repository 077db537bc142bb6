"""Deep image prior: a convolutional hourglass drawn at random and fitted to one picture.

Ulyanov, Vedaldi and Lempitsky, Deep image prior, CVPR 2018 and International Journal of Computer
Vision 128 (2020). The network turns a fixed picture of noise into the result; what it can draw early
in the fit is the prior. Its settings are those of the paper and its supplement:

- five scales of 128 channels, each with a skip of 4 channels, 3x3 convolutions with mirrored edges,
  batch normalisation and leaky ReLU of slope 0.2, a sigmoid at the end: 2,217,831 parameters in colour;
- input of 32 channels, uniform in [0, 0.1), to which white noise of deviation 1/30 is added anew in
  each step; Adam at 0.01;
- denoising 1800 steps, super-resolution 2000 (4000 and deviation 1/20 from a factor of 8 on, bilinear
  upsampling in both), inpainting 5000 with upsampling by the nearest pixel;
- the result is the exponential average (0.99) of the network's pictures, which the paper uses for
  denoising and which helps everywhere.

For large holes the paper draws from a picture of the coordinates and without skips:
``grid=True, skip=0``, 2,157,955 parameters.

The picture drawn is somewhat larger than the result where sides are no multiples of two to the
number of scales, and cut; nothing is asked of the part cut off. Below 64 pixels there are fewer scales.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from knitcore.adam import Adam
from knitcore.baselines.common import Clock, Scaling, to_planes
from knitcore.baselines.learned import (
    checked_mask,
    convolution,
    parameter_count,
    plain,
    preview,
)
from knitcore.degradation import even_kernel, output_shape, sample_origin
from knitcore.device import choose_device, lean
from knitcore.errors import InputError
from knitcore.events import Event
from knitcore.fit import random_source
from knitcore.sampling import Degradation

STEPS = {"inpaint": 5000, "denoise": 1800, "super-resolve": 2000}
RATE = 0.01
SCALES, WIDTH, SKIP, DEPTH = 5, 128, 4, 32
SLOPE = 0.2
LEAST = 4  # pixels a side

Steps = Generator[Event, None, np.ndarray]


class Layer(nn.Module):
    """Convolution with mirrored edges, batch normalisation, leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int, source: torch.Generator, stride: int = 1
    ) -> None:
        super().__init__()
        self.margin = size // 2
        self.convolution = convolution(inputs, outputs, size, source, stride)
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.margin:
            x = F.pad(x, (self.margin,) * 4, mode="reflect")
        return F.leaky_relu_(self.norm(self.convolution(x)), SLOPE)


class Scale(nn.Module):
    """One scale of the hourglass: down to half the size, what is below, up again, beside the skip."""

    def __init__(
        self,
        inputs: int,
        below: nn.Module | None,
        skip: int,
        upsampling: str,
        source: torch.Generator,
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.down = nn.Sequential(
            Layer(inputs, WIDTH, 3, source, stride=2), Layer(WIDTH, WIDTH, 3, source)
        )
        self.below = below
        self.skip = Layer(inputs, skip, 1, source) if skip else None
        self.norm = nn.BatchNorm2d(WIDTH + skip, track_running_stats=False)
        self.up = nn.Sequential(
            Layer(WIDTH + skip, WIDTH, 3, source), Layer(WIDTH, WIDTH, 1, source)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deep = self.down(x)
        if self.below is not None:
            deep = self.below(deep)
        wide = {"align_corners": False} if self.upsampling == "bilinear" else {}
        deep = F.interpolate(deep, scale_factor=2, mode=self.upsampling, **wide)
        if self.skip is not None:
            deep = torch.cat([deep, self.skip(x)], 1)
        return self.up(self.norm(deep))


class Hourglass(nn.Module):
    """Input (1, D, Y, X) -> picture (1, C, Y, X) in (0, 1); sides multiples of 2**scales."""

    def __init__(
        self,
        channels: int,
        scales: int = SCALES,
        skip: int = SKIP,
        upsampling: str = "bilinear",
        depth: int = DEPTH,
        seed: int = 0,
    ) -> None:
        super().__init__()
        source = random_source(seed)
        body: nn.Module | None = None
        for level in reversed(range(scales)):
            body = Scale(WIDTH if level else depth, body, skip, upsampling, source)
        self.body, self.last = body, convolution(WIDTH, channels, 1, source)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.body is not None
        return self.last(self.body(x)).float().sigmoid()


def parameters(channels: int = 3, **shape: Any) -> int:
    """Trainable numbers; `shape` are keywords of `Hourglass`."""
    return parameter_count(Hourglass(channels, **shape))


def scale_count(rows: int, columns: int) -> int:
    """Scales for a picture: five, but no side below two pixels at the coarsest."""
    if min(rows, columns) < LEAST:
        raise InputError(
            f"a picture of {rows} x {columns} is too small: {LEAST} pixels a side, at least"
        )
    return min(SCALES, int(math.log2(min(rows, columns))) - 1)


def lanczos(scale: float, anchor: str = "centre") -> np.ndarray:
    """Lanczos kernel of two lobes, stretched by the factor: the paper's downsampler."""
    half = 2 * scale
    count = 2 * math.ceil(half) + (0 if even_kernel(scale, anchor) else 1)
    at = (np.arange(count) - (count - 1) / 2) / scale
    line = np.where(np.abs(at) < 2, np.sinc(at) * np.sinc(at / 2), 0)
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


def inpaint_deep_image_prior_steps(
    image: Any,
    mask: Any,
    *,
    steps: int = STEPS["inpaint"],
    upsampling: str = "nearest",
    **settings: Any,
) -> Steps:
    """Fit the known pixels; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    mask : array-like of bool, shape (Y, X)
        True where pixels are missing.
    steps, upsampling, **settings
        Keywords of `fit_steps`.

    Yields
    ------
    Progress or Preview

    Returns
    -------
    ndarray of float32
        Shape of `image`, in grey levels: what the network drew, at the known pixels too.

    Raises
    ------
    InputError
        Not a picture, too small, another shape of mask, or no known pixel.
    """
    image = np.asarray(image)
    known = checked_mask(image, mask)
    planes, scaling = to_planes(image, known)
    return fit_steps(
        planes, scaling, known.shape, known, steps=steps, upsampling=upsampling, **settings
    )


def denoise_deep_image_prior_steps(
    image: Any, *, steps: int = STEPS["denoise"], **settings: Any
) -> Steps:
    """Fit the noisy picture and stop after a fixed number of steps; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    steps, **settings
        Keywords of `fit_steps`.

    Returns
    -------
    ndarray of float32
        Shape of `image`, in grey levels.
    """
    planes, scaling = to_planes(image)
    return fit_steps(planes, scaling, planes.shape[1:], steps=steps, **settings)


def super_resolve_deep_image_prior_steps(
    image: Any,
    scale: float,
    *,
    anchor: str = "centre",
    kernel: np.ndarray | None = None,
    steps: int | None = None,
    jitter: float | None = None,
    **settings: Any,
) -> Steps:
    """Fit a fine picture whose coarse version is the one given; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    scale : float
        Factor of rows and columns, 1 or more.
    anchor : str
        "centre": both pictures cover the same place; "corner": coarse pixel i is fine pixel
        i * scale.
    kernel : ndarray, shape (Ky, Kx), optional
        Weights of the fine pixels round a coarse one; the paper's Lanczos kernel if not given.
    steps, jitter, **settings
        Keywords of `fit_steps`.

    Returns
    -------
    ndarray of float32, shape (Y', X') or (Y', X', C)
        Sides are those of `image` times `scale`, rounded.
    """
    if scale < 1:
        raise InputError(f"a scale of 1 or more is needed, not {scale}")
    planes, scaling = to_planes(image)
    coarse, scales = planes.shape[1:], (scale, scale)
    shape = output_shape(coarse, scales)
    blur = lanczos(scale, anchor) if kernel is None else np.asarray(kernel, dtype=np.float64)
    where = choose_device(settings.get("device", "auto"))
    degrade = Degradation(blur, coarse, shape, scales, sample_origin(scales, anchor), where)
    return fit_steps(
        planes,
        scaling,
        shape,
        degrade=degrade,
        steps=STEPS["super-resolve"] * (1 if scale < 8 else 2) if steps is None else steps,
        jitter=(1 / 30 if scale < 8 else 1 / 20) if jitter is None else jitter,
        **settings,
    )


def fit_steps(
    planes: np.ndarray,
    scaling: Scaling,
    shape: tuple[int, ...],
    known: np.ndarray | None = None,
    degrade: Degradation | None = None,
    *,
    steps: int,
    rate: float = RATE,
    jitter: float = 1 / 30,
    average: float = 0.99,
    upsampling: str = "bilinear",
    skip: int = SKIP,
    grid: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    preview_every: int = 0,
) -> Steps:
    """Fit an hourglass until what it draws explains the planes; a generator of events.

    Parameters
    ----------
    planes : ndarray of float32, shape (C, Y, X)
        In [0, 1].
    scaling : Scaling
        The way back to grey levels.
    shape : tuple of int
        Rows and columns of the result.
    known : ndarray of bool, shape (Y, X), optional
        Pixels of `planes` that count; all if not given.
    degrade : callable, optional
        From the result to `planes`; the identity if not given.
    steps : int
        Steps of Adam.
    rate : float
        Its learning rate, the same throughout.
    jitter : float
        Standard deviation of the noise added to the input in each step.
    average : float
        Weight of the past in the running average of the pictures, which is the result; 0 for the
        last picture alone.
    upsampling : str
        "bilinear" or "nearest".
    skip : int
        Channels of the skip at each scale; 0 for none.
    grid : bool
        Draw from a picture of the coordinates (2 channels) in place of noise (32).
    seed : int
        Of input, weights and noise.
    device : str
        "auto", "cpu", "mps", "cuda" or "cuda:N".
    precision : str
        "float32" or "bfloat16", for the convolutions.
    preview_every : int
        Yield a `Preview` of the whole result (the average) after every so many steps; 0 for none.
    """
    where = choose_device(device)
    scales = scale_count(*shape)
    rows, columns = (-(-n // 2**scales) * 2**scales for n in shape)
    source = random_source(seed, "input")
    if grid:
        lines = [torch.arange(n) / n for n in (rows, columns)]
        start = torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]
    else:
        start = torch.rand(1, DEPTH, rows, columns, generator=source) / 10
    start = start.to(where).contiguous(memory_format=torch.channels_last)
    network = Hourglass(len(planes), scales, skip, upsampling, start.shape[1], seed)
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = torch.tensor(planes, device=where)
    weight = torch.ones(data.shape[1:]) if known is None else torch.tensor(known).float()
    weight = (weight / weight.sum() / len(data)).to(where)
    noise = torch.Generator(where).manual_seed(seed)
    adam, clock = Adam(list(network.parameters())), Clock(steps, "fit the deep image prior")
    shaken, mean = torch.empty_like(start), None

    @torch.enable_grad()
    def descend() -> tuple[torch.Tensor, torch.Tensor]:
        shaken.normal_(std=jitter, generator=noise).add_(start) if jitter else shaken.copy_(start)
        with lean(where, precision):
            picture = network(shaken)
        picture = picture[0, :, : shape[0], : shape[1]]
        seen = picture if degrade is None else degrade(picture)
        loss = ((seen - data).square() * weight).sum()
        adam.clear()
        loss.backward()
        return picture.detach(), loss.detach()

    for step in range(1, steps + 1):
        picture, loss = descend()
        adam.step(rate)
        # never over more than a tenth of the steps, or a short fit shows its first pictures
        fresh = 1 - min(average, 1 - 10 / step) if average else 1.0
        mean = picture.clone() if mean is None else mean.lerp_(picture, min(fresh, 1.0))
        if clock.due(step):
            yield clock.progress(step, pixel=float(loss))
        if preview_every and step % preview_every == 0:
            yield preview(mean, scaling)
    if mean is None:
        raise InputError("at least one step is needed")
    return scaling.restore(mean.cpu().numpy())


inpaint_deep_image_prior = plain(inpaint_deep_image_prior_steps)
denoise_deep_image_prior = plain(denoise_deep_image_prior_steps)
super_resolve_deep_image_prior = plain(super_resolve_deep_image_prior_steps)
