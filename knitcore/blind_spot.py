"""The pilot: each pixel predicted from its surroundings by a small network fitted to this image alone.

A prediction that has not seen the pixel cannot copy its noise (Krull et al. 2019; Laine et al. 2019).
The network gives a mean and the variance of what it cannot tell; with the noise known, both make the
posterior mean of the pixel: ``(s2 * mean + v * pixel) / (s2 + v)``.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from knitcore.adam import Adam
from knitcore.device import lean, usable_precision
from knitcore.events import EVENT_SECONDS, relayed, two_at_once
from knitcore.fit import random_source
from knitcore.noise import REACH
from knitcore.noise_model import Noise
from knitcore.recipe import Denoise

# features and local means of pixels -> mean relative to the local one, its variance, that of the noise
Predict = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

CHUNK = 8192  # pixels predicted at once
NEAR = 3  # reach of the neighbours taken one by one, pixels
RINGS = ((3, 5), (5, 9))  # (side, spacing) of the means farther out
ROUNDS = 7  # a pixel is learnt from so often each way: more, and its noise is learnt by heart
MANY = 2**15  # pixels: of fewer, strong noise is learnt by heart however they are mirrored
AREA, GROWTH = 2**16, 4  # a larger image's fit takes more steps, as its pixels, up to so many times
LONGER = 2  # so many times the steps where noise is weak, and there is more to learn
WIDER = 2  # so many times the units there, if there is four times as much to learn from,
WIDER_ROUNDS = 5  # and fewer rounds each way, since they learn noise by heart sooner
FRESH = 5  # up to which the fit's own errors tell what a prediction can do
APART = 1 / 32  # of the pixels are not learnt from, and tell it instead
LEAST_APART = 2000  # fewer tell nothing
MOST_APART = 4 * CHUNK  # more are not needed
DECAY = 1e-2  # decoupled weight decay
LIMIT = 6.0  # features beyond so many spreads are cut: a hot pixel must not drown the others
DIRECTIONS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
MIRRORED = list(itertools.product((1, -1), (1, -1)))  # signs of y and x: ways to look


def hidden_pixels(blind_spot: str, noise: Noise) -> tuple[set[tuple[int, int]], str]:
    """Offsets (y, x) that the prediction of a pixel must not see.

    Parameters
    ----------
    blind_spot : str
        As in the recipe.
    noise : Noise
        Its correlation decides for "auto".

    Returns
    -------
    offsets : set of (int, int)
        With (0, 0).
    name : str
        "pixel", "x 2" (along x, two pixels to each side), "y 1", "square 1".
    """
    if blind_spot.isdigit():
        n = int(blind_spot)
        square = {(y, x) for y in range(-n, n + 1) for x in range(-n, n + 1)}
        return square, f"square {n}" if n else "pixel"
    axis, reach = blind_spot, REACH
    if blind_spot == "auto":
        y, x = len(noise.along_y) - 1, len(noise.along_x) - 1
        axis, reach = ("x", x) if x >= y else ("y", y)
    line = range(-reach, reach + 1)
    name = f"{axis} {reach}" if reach else "pixel"
    return {(0, k) if axis == "x" else (k, 0) for k in line}, name


def mirrored(size: int, pad: int) -> torch.Tensor:
    """Indices of an axis continued by reflection on both sides, of any size."""
    at = torch.arange(-pad, size + pad).abs() % max(2 * size - 2, 1)
    return torch.where(at >= size, 2 * size - 2 - at, at)


@dataclass(frozen=True)
class Surroundings:
    """What predictions are made from: an image, padded, and its box means, as flat vectors.

    Attributes
    ----------
    banks : tuple of Tensor, shape (C, M)
    near : Tensor of int, shape (W, n)
        Offsets into the first bank: as they are, and mirrored in each other way of `MIRRORED`.
    rings : Tensor of int, shape (W, R, 8)
        Offsets into the others.
    weight : Tensor
        Of the near pixels in the local mean that features and targets are relative to.
    shape, padded : tuple of int
        (Z, Y, X) without and with the padding.
    pad, reach : tuple of int, int
        Farthest that a prediction looks, and farthest of the near pixels; beyond the border it sees
        a mirror image.
    turn : Tensor, shape (C, C)
        Rotation from the image's channels to those of the banks.
    """

    banks: tuple[torch.Tensor, ...]
    near: torch.Tensor
    rings: torch.Tensor
    weight: torch.Tensor
    shape: tuple[int, ...]
    padded: tuple[int, ...]
    pad: tuple[int, ...]
    reach: int
    turn: torch.Tensor

    def noise_at(self, noise: Noise, mean: torch.Tensor) -> torch.Tensor:
        """Noise variance of the banks' channels where they have these means; both (N, C)."""
        return noise.variance((mean @ self.turn).T).T @ (self.turn**2).T

    def place(self, pixel: torch.Tensor) -> torch.Tensor:
        """Flat index in the banks of pixels given by their flat index in the image."""
        _, Y, X = self.shape
        z, y, x = pixel // (Y * X), pixel // X % Y, pixel % X
        z, y, x = z + self.pad[0], y + self.pad[1], x + self.pad[2]
        return (z * self.padded[1] + y) * self.padded[2] + x

    def look(
        self, pixel: torch.Tensor, way: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features (N, F), local mean (N, C) and value (N, C) of pixels given by flat index."""
        at = self.place(pixel)[:, None]
        near = _columns(self.banks[0], at + self.near[way])
        mean = near @ self.weight  # alike all ways
        parts = [near]
        parts += [
            _columns(bank, at + ring)
            for bank, ring in zip(self.banks[1:], self.rings[way], strict=True)
        ]
        features = torch.cat(parts, 2) - mean[..., None]
        return features.permute(1, 0, 2).reshape(len(at), -1), mean.T, self.banks[0][:, at[:, 0]].T


def _columns(bank: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """``bank[:, at]``, in less than half the time."""
    return bank.index_select(1, at.reshape(-1)).view(len(bank), *at.shape)


def surround(values: torch.Tensor, hidden: set[tuple[int, int]]) -> Surroundings:
    """Prepare an image for predictions that do not see the hidden pixels.

    Its channels are decorrelated, so that each can be predicted by itself.

    Parameters
    ----------
    values : Tensor, shape (C, Z, Y, X)
    hidden : set of (int, int)

    Returns
    -------
    Surroundings
    """
    _, Z, Y, X = values.shape
    device = values.device
    blind = max(max(abs(y), abs(x)) for y, x in hidden)
    reach = max(NEAR, blind + 2)
    farther = max(0, blind - NEAR)
    pad = (int(Z > 1), *[RINGS[-1][1] + farther + RINGS[-1][0] // 2] * 2)
    turn = decorrelation(values)
    image = torch.einsum("kc,czyx->kzyx", turn, values) if len(values) > 1 else values
    for axis, (n, p) in enumerate(zip((Z, Y, X), pad, strict=True), 1):
        image = image.index_select(axis, mirrored(n, p).to(device))
    banks = [image, *(F.avg_pool2d(image, side, 1, side // 2) for side, _ in RINGS)]
    padded = tuple(image.shape[1:])
    line = range(-reach, reach + 1)
    near = [(0, y, x) for y in line for x in line if (y, x) not in hidden]
    squares = torch.tensor([float(y * y + x * x) for _, y, x in near])
    weight = torch.where(squares <= 2 * squares.min(), 1 / squares, 0.0)
    if Z > 1:  # the noise of other planes is another one
        beside = [(z, y, x) for z in (-1, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        near += beside
        weight = torch.cat([weight, torch.zeros(len(beside))])
    flat = [[(z * padded[1] + a * y) * padded[2] + b * x for z, y, x in near] for a, b in MIRRORED]
    rings = [
        [[(a * y * padded[2] + b * x) * (gap + farther) for y, x in DIRECTIONS] for _, gap in RINGS]
        for a, b in MIRRORED
    ]
    return Surroundings(
        tuple(bank.reshape(len(values), -1) for bank in banks),
        torch.tensor(flat, device=device),
        torch.tensor(rings, device=device),
        (weight / weight.sum()).to(device),
        (Z, Y, X),
        padded,
        pad,
        reach,
        turn,
    )


def predicted_share(around: Surroundings, noise: Noise, draw: torch.Generator) -> float:
    """Variance that no linear prediction from the surroundings can tell, over that of the noise.

    Well below 1 the noise is overestimated: a pattern that repeats itself was taken for it.

    Parameters
    ----------
    around : Surroundings
    noise : Noise
        Of the image's channels.
    draw : torch.Generator

    Returns
    -------
    float
    """
    total = math.prod(around.shape)
    pixel = torch.randint(0, total, (min(6000, total),), generator=draw)
    # in the mirror beyond the border a pixel would see itself
    _, Y, X = around.shape
    y, x = pixel // X % Y, pixel % X
    margin = torch.minimum(torch.minimum(y, Y - 1 - y), torch.minimum(x, X - 1 - x))
    near, rings = around.near.shape[1], around.rings[0].numel()
    for reach, seen in ((around.pad[1], near + rings), (around.reach, near)):
        inside = pixel[margin >= reach]
        if len(inside) >= 4 * seen * len(around.turn):
            break
    else:
        return math.inf  # too few to be sure of
    features, mean, value = around.look(inside.to(around.near.device))
    features = features.view(len(inside), -1, near + rings)[..., :seen].flatten(1)
    target = value - mean
    square = (features.T @ features).double()
    square.diagonal().add_(1e-9 * square.diagonal().mean().clamp_min(1e-30))
    weights = torch.linalg.solve(square, (features.T @ target).double()).float()
    left = (target - features @ weights) ** 2 / around.noise_at(noise, mean)
    spare = max(0.05, 1 - features.shape[1] / len(features))
    return float(left.mean()) / spare


def decorrelation(values: torch.Tensor) -> torch.Tensor:
    """Principal axes of the channels, one a row: for colours much like opponent colours."""
    C = len(values)
    if C == 1:
        return torch.eye(1, device=values.device)
    flat = values.reshape(C, -1)
    flat = flat[:, :: max(1, flat.shape[1] // 100_000)]
    flat = flat - flat.mean(1, keepdim=True)
    _, axes = torch.linalg.eigh((flat @ flat.T).double())
    # the sign of an axis is arbitrary: fix it, so that it is the same on every machine
    axes = axes * axes.sum(0).sign().where(axes.sum(0) != 0, torch.ones_like(axes.sum(0)))
    return axes.T.flip(0).to(values.dtype)


def pilot_steps(
    around: Surroundings,
    noise: Noise,
    recipe: Denoise,
    key: str,
    check: bool,
    weak: bool = False,
    beside: bool = False,
) -> Generator[tuple[float, float], None, tuple[torch.Tensor, Noise]]:
    """Fit the network and predict every pixel.

    Parameters
    ----------
    around : Surroundings
        Of an image in units in which the noise of each channel is about 1.
    noise : Noise
        In these units.
    recipe : Denoise
    key : str
        With the seed it decides all random numbers.
    check : bool
        Lower the noise if the network predicts better than it allows.
    weak : bool
        Whether the noise is: then there is more to learn, in more steps.
    beside : bool
        On two cores, with the same result.

    Yields
    ------
    done, loss : float
        Loss: mean negative log-likelihood of a pixel, without its constant.

    Returns
    -------
    pilot : Tensor, shape (C, Z, Y, X)
        Posterior mean of each pixel.
    noise : Noise
        As given or lowered.
    """
    C, device = len(around.turn), around.turn.device
    precision = usable_precision(recipe.precision, device)
    draw = random_source(recipe.seed, key, "blind spot")
    total = math.prod(around.shape)

    sample = torch.randint(0, total, (CHUNK,), generator=draw).to(device)
    features, _, _ = around.look(sample)
    spread = features.abs().mean().clamp_min(1e-6) * 1.25
    wider = weak and recipe.mirrored
    width = WIDER * recipe.width if wider else recipe.width
    drawn: list[torch.Tensor] = []
    for n, m in itertools.pairwise((features.shape[1], width, width, 2 * C)):
        shapes = (m, n), (m,)
        drawn += [(torch.rand(shape, generator=draw) * 2 - 1) / math.sqrt(n) for shape in shapes]
    drawn[-2] *= 0.3
    lengths = [one.numel() for one in drawn]
    # one vector of all layers: the optimiser's many small operations would take as long as a layer
    vector = torch.cat([one.flatten() for one in drawn]).to(device).requires_grad_()

    def predict(
        features: torch.Tensor, mean: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean relative to the local one, its variance, and that of the noise."""
        parts = zip(vector.split(lengths), drawn, strict=True)
        weight1, bias1, weight2, bias2, weight3, bias3 = (part.view_as(one) for part, one in parts)
        h = (features / spread).clamp(-LIMIT, LIMIT)
        with lean(device, precision):
            h = F.silu(F.linear(h, weight1, bias1))
            h = F.silu(F.linear(h, weight2, bias2))
        out = F.linear(h.float(), weight3, bias3)
        s2 = around.noise_at(noise, mean)
        return out[:, :C] * 2 * s2.sqrt(), s2 * (out[:, C:] - 2).clamp(-20, 20).exp(), s2

    optimiser = Adam([vector])
    # of each batch, for two cores: in strong noise the other one has coarse images to work on
    halves = 2 if weak and device.type == "cpu" else 1
    reported, ratios = time.monotonic(), []
    ways = len(MIRRORED) if recipe.mirrored else 1
    # so many times as many pixels there seem to be
    seeming = ways if weak else max(1, ways * min(1, total / MANY))
    rounds = (WIDER_ROUNDS if wider else ROUNDS) * seeming
    longest = recipe.steps * (LONGER if weak else 1)
    if not recipe.mirrored:  # what a few steps leave out is more in a large image
        longest = round(longest * min(max(total / AREA, 1), GROWTH))
    count = min(longest, max(20, int(rounds * total / recipe.batch)))
    fresh = count * recipe.batch < FRESH * total
    apart = min(round(APART * total), MOST_APART)
    if fresh or not check or not recipe.mirrored or apart < LEAST_APART:
        apart = 0
    order = torch.randperm(total, generator=draw) if apart else None

    def batches() -> Iterator[tuple[torch.Tensor, int]]:
        for step in range(count):
            pixel = torch.randint(0, total - apart, (recipe.batch,), generator=draw)
            pixel = (pixel if order is None else order[pixel]).to(device)
            for half in pixel.chunk(halves):
                yield half, step % ways

    def gradients(
        batch: tuple[torch.Tensor, int],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Some pixels' share of the loss, its gradient, and what they tell of the noise."""
        features, mean, value = around.look(*batch)
        guess, doubt, s2 = predict(features, mean)
        square = (value - mean - guess) ** 2
        # a wild pixel must not decide a step
        losses = (square / (doubt + s2)).clamp_max(50) + (doubt / s2 + 1).log()
        loss = losses.sum() / (recipe.batch * C)
        (gradient,) = torch.autograd.grad(loss, vector)
        return loss.detach(), gradient, torch.stack([doubt.detach(), (square / s2).detach()])

    # the parameters move only when both halves of a step are through
    told = two_at_once(gradients, batches(), beside and halves == 2)
    for step in range(count):
        found = list(itertools.islice(told, halves))
        vector.grad = torch.stack([gradient for _, gradient, _ in found]).sum(0)
        done = step / count
        warm, cool = min(1.0, 0.04 + done / 0.1), max(0.0, done - 0.1) / 0.9
        rate = recipe.rate * warm * 0.5 * (1 + math.cos(math.pi * cool))
        optimiser.step(rate)
        with torch.no_grad():
            vector *= 1 - rate * DECAY
        if check and fresh and step >= 0.8 * count:
            ratios += [ratio for _, _, ratio in found]
        if time.monotonic() - reported > EVENT_SECONDS:
            reported = time.monotonic()
            yield 0.8 * (step + 1) / count, float(sum(loss for loss, _, _ in found))
    vector.requires_grad_(False)
    if order is not None:
        features, mean, value = around.look(order[total - apart :].to(device))
        guess, doubt, s2 = predict(features, mean)
        ratios.append(torch.stack([doubt, (value - mean - guess) ** 2 / s2]))
    if ratios:
        doubt, square = torch.cat(ratios, 1).reshape(2, -1)
        share = float(square[doubt <= doubt.median()].mean())
        if share < 0.85:
            noise = noise.times(share)
    pilot = yield from relayed(
        _pilot(around, predict, ways, beside), lambda part: (0.8 + 0.2 * part, math.nan)
    )
    return pilot, noise


def _pilot(
    around: Surroundings, predict: Predict, ways: int, beside: bool
) -> Generator[float, None, torch.Tensor]:
    """Posterior mean of every pixel, (C, Z, Y, X): the mean of so many mirrored ways to look at it."""
    total = math.prod(around.shape)
    pilot = torch.empty(len(around.turn), total, device=around.turn.device)
    reported = time.monotonic()

    def posterior(start: int) -> torch.Tensor:
        pixel = torch.arange(start, min(total, start + CHUNK), device=pilot.device)
        post = torch.zeros(len(pixel), len(pilot), device=pilot.device)
        for way in range(ways):
            features, mean, value = around.look(pixel, way)
            guess, doubt, s2 = predict(features, mean)
            post += (mean + (s2 * guess + doubt * (value - mean)) / (s2 + doubt)) / ways
        return (post @ around.turn).T

    starts = range(0, total, CHUNK)
    for start, part in zip(starts, two_at_once(posterior, starts, beside), strict=True):
        pilot[:, start : start + CHUNK] = part
        if time.monotonic() - reported > EVENT_SECONDS:
            reported = time.monotonic()
            yield start / total
    return pilot.view(-1, *around.shape)
