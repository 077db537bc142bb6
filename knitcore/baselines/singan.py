"""SinGAN (Shaham, Dekel and Michaeli 2019): a pyramid of patch GANs, trained on one picture.

Written from the paper. Choices where it leaves one open, or where a picture has a hole:

- The picture is padded with zeros once before each generator; its and the discriminator's
  convolutions are without padding, so that each score belongs to one 11 x 11 patch of the picture.
- The gradient penalty takes the gradient of the sum of all scores at each pixel (its norm over the
  channels), so that it does not depend on the picture's size.
- The noise of a scale is 0.1 of the RMSE of the upsampled reconstruction, that of the coarsest is 1.
- No hidden pixel is ever seen: the hole is filled harmonically before the pyramid is made; noise
  amplitude and reconstruction loss count known pixels, and the discriminator's real patches are whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from knitcore.adam import Adam
from knitcore.baselines.common import Clock, Scaling, to_planes
from knitcore.baselines.learned import checked_mask, plain, preview
from knitcore.degradation import output_shape
from knitcore.device import choose_device
from knitcore.errors import InputError
from knitcore.events import Event
from knitcore.fit import random_source
from knitcore.harmonic import harmonic_fill

BLOCKS = 5
PATCH = 2 * BLOCKS + 1  # receptive field of five 3 x 3 convolutions
LEAST_SIDE = 25  # shorter side at the coarsest scale
RATIO = 4 / 3
KERNELS, MOST_KERNELS, DOUBLED_EVERY = 32, 128, 4
PENALTY = 0.1
RECONSTRUCTION = {"inpaint": 10.0, "super-resolve": 100.0}
NOISE = 0.1
TURNS = 3  # steps of the discriminator, and of the generator, in one iteration
RATE, BETA1, BETA2 = 5e-4, 0.5, 0.999
SLOWER_AFTER = 0.8  # share of the iterations after which the learning rate is a tenth
STEPS = 2000
LEAK = 0.2


def kernels_at(scale: int) -> int:
    """Kernels in a convolution of a scale, counted from the coarsest, 0."""
    return min(KERNELS * 2 ** (scale // DOUBLED_EVERY), MOST_KERNELS)


def conv_blocks(
    kernels: int, channels: int, outputs: int, source: torch.Generator
) -> nn.Sequential:
    """Five 3 x 3 convolutions, batch normalisation and LeakyReLU after all but the last.

    Weights start at N(0, 0.02^2), scales of the normalisation at N(1, 0.02^2) (Radford et al. 2016).

    Parameters
    ----------
    kernels, channels, outputs : int
        Channels within, of the input and of the output.
    source : torch.Generator
        Of the weights; the global one is left alone.

    Returns
    -------
    torch.nn.Sequential
        (1, channels, Y, X) -> (1, outputs, Y - 10, X - 10).
    """
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        for inputs in [channels] + [kernels] * (BLOCKS - 2):
            # statistics of the one picture at hand, in training and after
            norm = nn.BatchNorm2d(kernels, track_running_stats=False)
            layers += [nn.Conv2d(inputs, kernels, 3), norm, nn.LeakyReLU(LEAK)]
        layers.append(nn.Conv2d(kernels, outputs, 3))
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            mean = 0.0 if isinstance(layer, nn.Conv2d) else 1.0
            nn.init.normal_(layer.weight, mean, 0.02, generator=source)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class ScaleGenerator(nn.Module):
    """Generator of one scale: what it adds to the upsampled picture of the scale below."""

    def __init__(self, kernels: int, channels: int, source: torch.Generator) -> None:
        super().__init__()
        self.body = conv_blocks(kernels, channels, channels, source)

    def forward(self, noise: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """(1, C, Y, X) twice -> (1, C, Y, X)."""
        return below + torch.tanh(self.body(F.pad(noise + below, [BLOCKS] * 4)))


def parameter_count(scales: int, channels: int = 3, discriminators: bool = False) -> int:
    """Trained numbers of a pyramid.

    The article's 2,381 K are the generators of twelve scales alone. How many scales there are depends
    on the picture's size, so that the number cannot be the same for another size.

    Parameters
    ----------
    scales : int
    channels : int
    discriminators : bool
        Count them, too.

    Returns
    -------
    int

    Examples
    --------
    >>> parameter_count(12)
    2381604
    """
    total = 0
    for k in map(kernels_at, range(scales)):
        inner = (9 * channels + 3) * k + (BLOCKS - 2) * (9 * k + 3) * k
        total += inner + (9 * k + 1) * channels
        total += inner + (9 * k + 1) if discriminators else 0
    return total


def pyramid_shapes(shape: tuple[int, int], ratio: float | None = None) -> list[tuple[int, int]]:
    """Sizes of the scales, the coarsest first, whose shorter side is about 25 pixels.

    Parameters
    ----------
    shape : (int, int)
        Of the picture.
    ratio : float, optional
        Between scales. Default: as near to 4/3 as makes the coarsest side exactly 25.

    Returns
    -------
    list of (int, int)
        A picture of at most 28 pixels has a single scale.
    """
    short = min(shape)
    steps = math.log(max(short / LEAST_SIDE, 1)) / math.log(ratio or RATIO)
    count = round(steps) if ratio is None else math.floor(steps + 1e-9)
    if ratio is None and count:
        ratio = (short / LEAST_SIDE) ** (1 / count)
    powers = [(ratio or RATIO) ** n for n in range(count, -1, -1)]
    return [(max(1, round(shape[0] / p)), max(1, round(shape[1] / p))) for p in powers]


def resize(picture: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Bicubic, low-passed where it becomes smaller."""
    if tuple(picture.shape[-2:]) == shape:
        return picture
    return F.interpolate(picture, shape, mode="bicubic", align_corners=False, antialias=True)


def mostly_known(share: torch.Tensor) -> torch.Tensor:
    """1 where all is known; or where the best quarter is, if less than a quarter is known whole."""
    return (share >= min(0.999, float(share.quantile(0.75)))).float()


def gradient_penalty(
    discriminator: Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    mix: torch.Tensor,
) -> torch.Tensor:
    """Mean of (|gradient of the scores' sum at a pixel| - 1)^2, between real and fake.

    Gulrajani et al. 2017.

    Parameters
    ----------
    discriminator : callable
    real, fake : Tensor, shape (1, C, Y, X)
    mix : Tensor, scalar
        0: at `fake`; 1: at `real`.

    Returns
    -------
    Tensor, scalar
    """
    between = (fake + mix * (real - fake)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return ((slope.norm(dim=1) - 1) ** 2).mean()


def rmse(picture: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> float:
    """Root mean square error at the known pixels, (1, C, Y, X) and (1, 1, Y, X)."""
    return math.sqrt(float(((picture - truth) ** 2 * known).sum() / known.sum() / truth.shape[1]))


@dataclass
class SinGAN:
    """A trained pyramid, the coarsest scale first.

    Attributes
    ----------
    generators : list of ScaleGenerator
    shapes : list of (int, int)
    amplitudes : list of float
        Standard deviation of the noise of each scale.
    start : Tensor, shape (1, C, *shapes[0])
        z*, the fixed noise of the reconstruction.
    source : torch.Generator
        Of all noise.
    """

    generators: list[ScaleGenerator]
    shapes: list[tuple[int, int]]
    amplitudes: list[float]
    start: torch.Tensor
    source: torch.Generator
    reconstructions: list[torch.Tensor] = field(default_factory=list)

    def noise(self, shape: tuple[int, int]) -> torch.Tensor:
        """White noise of this shape, (1, C, *shape)."""
        # drawn on the CPU: the same on every device
        drawn = torch.randn(1, self.start.shape[1], *shape, generator=self.source)
        return drawn.to(self.start.device)


@torch.no_grad()
def sample(
    model: SinGAN, picture: torch.Tensor | None = None, scale: int = 0, scales: int | None = None
) -> torch.Tensor:
    """A new picture, or one injected at a scale and made anew from there on (the paper's Fig. 4).

    Parameters
    ----------
    model : SinGAN
    picture : Tensor, shape (1, C, Y, X), optional
        What the scale below would have made, of any size, in [-1, 1].
    scale : int
        First generator that is applied.
    scales : int, optional
        How many of the pyramid's scales are used (default: all).

    Returns
    -------
    Tensor, shape (1, C, *shapes[scales - 1])
    """
    if picture is not None and scale > 0:
        picture = resize(picture, model.shapes[scale - 1])
    for n in range(scale, len(model.generators) if scales is None else scales):
        shape = model.shapes[n]
        below = torch.zeros_like(model.start) if picture is None else resize(picture, shape)
        picture = model.generators[n](model.amplitudes[n] * model.noise(shape), below)
    assert picture is not None
    return picture


@torch.no_grad()
def reconstruct(model: SinGAN) -> torch.Tensor:
    """What the fixed noise z*, and none above the coarsest scale, becomes: the picture itself."""
    noise, below = model.start, torch.zeros_like(model.start)
    for generator, shape in zip(model.generators, model.shapes, strict=True):
        if below.shape[-2:] != shape:
            below = resize(below, shape)
            noise = torch.zeros_like(below)
        below = generator(noise, below)
    return below


def real_pyramid(picture: torch.Tensor, shapes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """The picture at each scale, the coarsest first."""
    return [resize(picture, shape) for shape in shapes]


def whole_patches(known: torch.Tensor) -> torch.Tensor:
    """Scores that count: 1 where an 11 x 11 patch holds no hidden pixel; (1, 1, Y - 10, X - 10)."""
    return mostly_known(F.avg_pool2d(known, PATCH, stride=1))


def train_steps(
    planes: np.ndarray,
    known: np.ndarray,
    *,
    weight: float,
    ratio: float | None = None,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    preview_every: int = 0,
    scaling: Scaling | None = None,
) -> Generator[Event, None, SinGAN]:
    """Train a pyramid scale by scale; a generator of events.

    Parameters
    ----------
    planes : ndarray of float32, shape (C, Y, X)
        In [0, 1].
    known : ndarray of bool, shape (Y, X)
        Hidden pixels have no influence.
    weight : float
        Of the reconstruction loss.
    ratio : float, optional
        Between scales; see `pyramid_shapes`.
    steps : int
        Iterations a scale, of three steps of the discriminator and three of the generator.
    seed : int
    device : str
    preview_every : int
        Yield the reconstruction as it stands after every so many iterations of the finest scale.
    scaling : Scaling, optional
        The way back to grey levels, for previews.

    Returns
    -------
    SinGAN

    Raises
    ------
    InputError
        The picture is smaller than a patch.
    """
    if min(planes.shape[1:]) < PATCH:
        raise InputError(
            f"a picture of {planes.shape[1]} x {planes.shape[2]} is too small for SinGAN: "
            f"{PATCH} pixels a side, at least"
        )
    where = choose_device(device)
    seen = np.broadcast_to(known, planes.shape)
    filled = planes if known.all() else harmonic_fill(planes, seen, ~known)
    picture = torch.tensor(filled[None] * 2 - 1, dtype=torch.float32, device=where)
    mask = torch.tensor(known[None, None].astype(np.float32), device=where)
    rows, columns = planes.shape[1:]
    shapes = pyramid_shapes((rows, columns), ratio)
    source = random_source(seed, "noise")
    first = torch.randn(1, len(planes), *shapes[0], generator=source).to(where)
    model = SinGAN([], shapes, [], first, source)
    clock = Clock(steps * len(shapes), f"train {len(shapes)} scales")
    critic: nn.Sequential | None = None
    for scale, (shape, real) in enumerate(zip(shapes, real_pyramid(picture, shapes), strict=True)):
        kernels = kernels_at(scale)
        drawn = random_source(seed, "weights", scale)
        generator = ScaleGenerator(kernels, len(planes), drawn)
        below_critic, critic = critic, conv_blocks(kernels, len(planes), 1, drawn)
        if below_critic is not None and kernels == kernels_at(scale - 1):
            generator.load_state_dict(model.generators[-1].state_dict())
            critic.load_state_dict(below_critic.state_dict())
        generator.to(where)
        critic.to(where)
        share = F.adaptive_avg_pool2d(mask, shape)
        clear, whole = mostly_known(share), whole_patches((share >= 0.999).float())
        before = resize(model.reconstructions[-1], shape) if scale else torch.zeros_like(real)
        anchor = torch.zeros_like(real) if scale else first
        model.generators.append(generator)
        model.amplitudes.append(NOISE * rmse(before, real, clear) if scale else 1.0)
        adams = [Adam(list(part.parameters()), BETA1, BETA2) for part in (critic, generator)]

        # bound once a scale: the loop below must not see the next scale's
        def scores(
            of: torch.Tensor, critic: nn.Sequential = critic, whole: torch.Tensor = whole
        ) -> torch.Tensor:
            return (critic(of) * whole).sum() / whole.sum()

        def fake(scale: int = scale) -> tuple[torch.Tensor, torch.Tensor]:
            shape = model.shapes[scale]
            below = torch.zeros_like(model.start)
            if scale:
                below = resize(sample(model, scales=scale), shape)
            return model.amplitudes[scale] * model.noise(shape), below

        for step in range(1, steps + 1):
            rate = RATE * (0.1 if step > SLOWER_AFTER * steps else 1)
            told: dict[str, torch.Tensor] = {}
            for turn in range(2 * TURNS):
                # not held over a yield: whose thread takes the event keeps its own mode
                with torch.enable_grad():
                    if turn < TURNS:
                        with torch.no_grad():
                            made = generator(*fake())
                        mix = torch.rand((), generator=source).to(where)
                        penalty = gradient_penalty(critic, real, made, mix)
                        # the fakes are scored everywhere, the real patches where they are whole
                        loss = critic(made).mean() - scores(real) + PENALTY * penalty
                        told["critic"] = loss.detach()
                    else:
                        wrong = (generator(anchor, before) - real) ** 2 * clear
                        wrong = wrong.sum() / clear.sum() / len(planes)
                        loss = weight * wrong - critic(generator(*fake())).mean()
                        told["reconstruction"] = wrong.detach()
                    adam = adams[turn // TURNS]
                    adam.clear()
                    loss.backward(inputs=adam.parameters)
                    adam.step(rate)
                done = scale * steps + step - 1 + (turn + 1) / (2 * TURNS)
                if clock.due(done):
                    yield clock.progress(done, **{k: float(v) for k, v in told.items()})
            if preview_every and scaling and scale == len(shapes) - 1 and step % preview_every == 0:
                with torch.no_grad():
                    yield preview((generator(anchor, before)[0] + 1) / 2, scaling)
        with torch.no_grad():
            model.reconstructions.append(generator(anchor, before))
    return model


def inpaint_singan_steps(
    image: Any, mask: Any, *, inject: int = 1, **settings: Any
) -> Generator[Event, None, np.ndarray]:
    """Train on the known pixels, then make the harmonically filled picture anew; as events.

    The paper's editing: the composite is injected at a coarse scale, and the scales from there on
    turn it into patches of the picture. Outside the hole the result is the reconstruction.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    mask : array-like of bool, shape (Y, X)
        True where pixels are missing.
    inject : int
        Scale of the injection, from the coarsest, 0; the finest one if there are fewer.
    **settings
        Keywords of `train_steps`: steps, seed, device, preview_every.

    Yields
    ------
    Progress or Preview

    Returns
    -------
    ndarray of float32
        Shape of `image`, in grey levels.

    Raises
    ------
    InputError
        Not a picture, too small, another shape of mask, or no known pixel.
    """
    image = np.asarray(image)
    known = checked_mask(image, mask)
    planes, scaling = to_planes(image, known)
    weight = RECONSTRUCTION["inpaint"]
    model = yield from train_steps(planes, known, weight=weight, scaling=scaling, **settings)
    filled = harmonic_fill(planes, np.broadcast_to(known, planes.shape), ~known)
    composite = torch.tensor(filled[None] * 2 - 1, dtype=torch.float32, device=model.start.device)
    made = sample(model, composite, min(inject, len(model.shapes) - 1))
    hidden = torch.tensor(~known, device=made.device)
    result = torch.where(hidden, made, model.reconstructions[-1])[0]
    return scaling.restore(((result + 1) / 2).cpu().numpy())


def super_resolve_singan_steps(
    image: Any, scale: float, *, anchor: str = "centre", **settings: Any
) -> Generator[Event, None, np.ndarray]:
    """Train on the coarse picture, then enlarge it by the finest generator again and again; as events.

    The ratio of the scales is the k-th root of the factor, so that k times give the factor; each time
    the picture is enlarged bicubically and goes through the finest generator with its noise.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    scale : float
        Factor of rows and columns, above 1.
    anchor : str
        "centre": both pictures cover the same place; "corner": coarse pixel i is fine pixel
        i * scale (the result is then moved by the difference, cubically).
    **settings
        Keywords of `train_steps`.

    Returns
    -------
    ndarray of float32, shape (Y', X') or (Y', X', C)
        Sides are those of `image` times `scale`, rounded.

    Raises
    ------
    InputError
        Not a picture, too small, or a factor of 1 or less.
    """
    if scale <= 1:
        raise InputError(f"a scale above 1 is needed, not {scale}")
    planes, scaling = to_planes(image)
    coarse = planes.shape[1:]
    times = max(1, math.ceil(math.log(scale) / math.log(RATIO) - 1e-9))
    ratio = scale ** (1 / times)
    known = np.ones(coarse, bool)
    weight = RECONSTRUCTION["super-resolve"]
    model = yield from train_steps(planes, known, weight=weight, ratio=ratio, **settings)
    picture = torch.tensor(planes[None] * 2 - 1, device=model.start.device)
    with torch.no_grad():
        for turn in range(1, times + 1):
            rows, columns = output_shape(coarse, (ratio**turn, ratio**turn))
            larger = resize(picture, (rows, columns))
            noise = model.amplitudes[-1] * model.noise((rows, columns))
            picture = model.generators[-1](noise, larger)
    result = ((picture[0] + 1) / 2).cpu().numpy()
    if anchor == "corner":
        move = -(scale - 1) / 2
        result = ndimage.shift(result, (0, move, move), order=3, mode="nearest")
    return scaling.restore(result)


inpaint_singan = plain(inpaint_singan_steps)
super_resolve_singan = plain(super_resolve_singan_steps)
