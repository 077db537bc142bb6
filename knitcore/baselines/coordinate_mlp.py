"""The conventional coordinate MLP: Fourier features and a ReLU network.

Tancik, Srinivasan, Mildenhall, Fridovich-Keil, Raghavan, Singhal, Ramamoorthi, Barron and Ng, Fourier
features let networks learn high frequency functions in low dimensional domains, NeurIPS 2020; the
peer of the Neural Knitworks article's tables 1 to 3. Features [cos 2 pi B x, sin 2 pi B x] of x in
[0, 1)^2 with 256 rows of B ~ N(0, 10^2), four layers of which three have 256 ReLU units and the last
is a sigmoid: 263,683 parameters in colour. Adam at 1e-3, 2000 steps, all pixels in each step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch

from knitcore.adam import Adam
from knitcore.baselines.common import Clock, Scaling, to_planes
from knitcore.baselines.learned import checked_mask, plain, preview
from knitcore.degradation import output_shape, sample_origin
from knitcore.device import choose_device, lean
from knitcore.errors import InputError
from knitcore.events import Event
from knitcore.fit import random_source

STEPS = 2000
RATE = 1e-3
FREQUENCIES, SIGMA, WIDTH, LAYERS = 256, 10.0, 256, 4
CHUNK = (
    4096  # rows at once: their activations stay in the cache, and the sum of gradients is the same
)
KEPT = 2**26  # numbers of features that are kept from step to step; beyond, they are computed anew

Steps = Generator[Event, None, np.ndarray]


def parameters(channels: int = 3) -> int:
    """Trainable numbers: 263,683 in colour, 263,169 in grey."""
    sizes = [2 * FREQUENCIES, *[WIDTH] * (LAYERS - 1), channels]
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


class CoordinateMLP:
    """Places (N, 2) in [0, 1)^2 -> values (N, C) in (0, 1); weights drawn from one seed."""

    def __init__(self, channels: int, sigma: float, seed: int, device: torch.device) -> None:
        source = random_source(seed)
        self.turns = (torch.randn(2, FREQUENCIES, generator=source) * 2 * math.pi * sigma).to(
            device
        )
        sizes = [2 * FREQUENCIES, *[WIDTH] * (LAYERS - 1), channels]
        self.weights, self.biases = [], []
        for a, b in itertools.pairwise(sizes):  # Glorot and Bengio 2010
            weight = torch.randn(a, b, generator=source) * math.sqrt(2 / (a + b))
            self.weights.append(weight.to(device).requires_grad_())
            self.biases.append(torch.zeros(b, device=device, requires_grad=True))
        self.parameters = [*self.weights, *self.biases]

    def features(self, places: torch.Tensor) -> torch.Tensor:
        phase = places @ self.turns
        return torch.cat([phase.cos(), phase.sin()], -1)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        x = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.addmm(bias, x, weight).relu_()
        return torch.addmm(self.biases[-1], x, self.weights[-1]).float().sigmoid()


def inpaint_coordinate_mlp_steps(image: Any, mask: Any, **settings: Any) -> Steps:
    """Fit the known pixels and read the network everywhere; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    mask : array-like of bool, shape (Y, X)
        True where pixels are missing.
    **settings
        Keywords of `fit_steps`: steps, rate, sigma, batch, seed, device, precision, preview_every.

    Yields
    ------
    Progress or Preview

    Returns
    -------
    ndarray of float32
        Shape of `image`, in grey levels: what the network says, at the known pixels too.

    Raises
    ------
    InputError
        Not a picture, another shape of mask, or no known pixel.
    """
    image = np.asarray(image)
    known = checked_mask(image, mask)
    planes, scaling = to_planes(image, known)
    return fit_steps(planes, scaling, known, **settings)


def denoise_coordinate_mlp_steps(image: Any, **settings: Any) -> Steps:
    """Fit the noisy pixels and read the network at them; see `inpaint_coordinate_mlp_steps`."""
    planes, scaling = to_planes(image)
    return fit_steps(planes, scaling, np.ones(planes.shape[1:], bool), **settings)


def super_resolve_coordinate_mlp_steps(
    image: Any, scale: float, *, anchor: str = "centre", **settings: Any
) -> Steps:
    """Fit the coarse pixels and read the network at the fine ones; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    scale : float
        Factor of rows and columns, 1 or more.
    anchor : str
        "centre": both pictures cover the same place; "corner": coarse pixel i is fine pixel
        i * scale.
    **settings
        Keywords of `fit_steps`.

    Returns
    -------
    ndarray of float32, shape (Y', X') or (Y', X', C)
        Sides are those of `image` times `scale`, rounded.
    """
    if scale < 1:
        raise InputError(f"a scale of 1 or more is needed, not {scale}")
    planes, scaling = to_planes(image)
    known = np.ones(planes.shape[1:], bool)
    shape = output_shape(known.shape, (scale, scale))
    # fine pixel i lies at (i - origin) / scale in coarse pixels
    origin = sample_origin((scale, scale), anchor)
    places = [(np.arange(n) - o) / scale for n, o in zip(shape, origin, strict=True)]
    return fit_steps(planes, scaling, known, places, **settings)


def fit_steps(
    planes: np.ndarray,
    scaling: Scaling,
    known: np.ndarray,
    places: Sequence[np.ndarray] | None = None,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    sigma: float = SIGMA,
    batch: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    preview_every: int = 0,
) -> Steps:
    """Fit a network to pixels and read it on a grid; a generator of events.

    Parameters
    ----------
    planes : ndarray of float32, shape (C, Y, X)
        In [0, 1].
    scaling : Scaling
        The way back to grey levels.
    known : ndarray of bool, shape (Y, X)
        Pixels that are fitted.
    places : two arrays of float, optional
        Rows and columns at which the result is read, in pixels of `planes`; its own if not given.
    steps : int
        Steps of Adam.
    rate : float
        Its learning rate, the same throughout.
    sigma : float
        Standard deviation of the frequencies, in periods an image side.
    batch : int, optional
        Pixels a step, drawn with replacement; all of them if not given, as in the article.
    seed : int
        Of frequencies, weights and batches.
    device : str
        "auto", "cpu", "mps", "cuda" or "cuda:N".
    precision : str
        "float32" or "bfloat16", for the products of matrices.
    preview_every : int
        Yield a `Preview` of the whole result after every so many steps; 0 for none.
    """
    where = choose_device(device)
    network = CoordinateMLP(len(planes), sigma, seed, where)
    sides = torch.tensor(known.shape, dtype=torch.float32)
    told = (torch.tensor(np.argwhere(known)) / sides).to(where)
    values = torch.tensor(planes[:, known].T.copy(), device=where)
    places = [np.arange(n) for n in known.shape] if places is None else places
    shape = [len(line) for line in places]
    lines = [
        torch.as_tensor(p, dtype=torch.float32) / n for p, n in zip(places, sides, strict=True)
    ]
    grid = torch.cartesian_prod(*lines).to(where)
    adam, clock = Adam(network.parameters), Clock(steps, "fit the coordinate MLP")
    batches = torch.Generator(where).manual_seed(seed)
    total = len(told) if batch is None else min(batch, len(told))
    kept = None
    if total == len(told) and total * 2 * FREQUENCIES <= KEPT:
        kept = network.features(told)
        kept = kept.bfloat16() if precision == "bfloat16" else kept
    chunk = CHUNK if where.type == "cpu" else 2**16

    @torch.enable_grad()
    def descend(rows: slice | torch.Tensor) -> torch.Tensor:
        features = network.features(told[rows]) if kept is None else kept[rows]
        with lean(where, precision):
            out = network(features)
        loss = (out - values[rows]).square().sum() / (total * values.shape[1])
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def drawn() -> torch.Tensor:
        parts = []
        for part in grid.split(chunk):
            features = network.features(part)
            with lean(where, precision):
                parts.append(network(features))
        return torch.cat(parts).T.reshape(-1, *shape)

    for step in range(1, steps + 1):
        pick = None
        if total < len(told):
            pick = torch.randint(len(told), (total,), generator=batches, device=where)
        adam.clear()
        losses = []
        for begin in range(0, total, chunk):
            end = min(begin + chunk, total)
            losses.append(descend(slice(begin, end) if pick is None else pick[begin:end]))
            # a full step over a large picture takes seconds
            if end < total and clock.due(0):
                yield clock.progress(step - 1 + end / total)
        adam.step(rate)
        if clock.due(step):
            yield clock.progress(step, pixel=float(sum(losses)))
        if preview_every and step % preview_every == 0:
            yield preview(drawn(), scaling)
    return scaling.restore(drawn().cpu().numpy())


inpaint_coordinate_mlp = plain(inpaint_coordinate_mlp_steps)
denoise_coordinate_mlp = plain(denoise_coordinate_mlp_steps)
super_resolve_coordinate_mlp = plain(super_resolve_coordinate_mlp_steps)
