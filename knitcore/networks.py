"""The knitwork's networks (article, Fig. 2), each with a leading ensemble axis E.

One `torch.baddbmm` a layer serves all members: no loop over them anywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.func import functional_call

from knitcore.degradation import collapse_kernel
from knitcore.device import lean


class EnsembleLinear(nn.Module):
    """E linear layers side by side: (E, N, inputs) -> (E, N, outputs)."""

    def __init__(
        self, generators: list[torch.Generator], inputs: int, outputs: int, gain: float = 2.0
    ) -> None:
        super().__init__()
        # one generator a member: a member does not depend on its companions
        draws = [torch.randn(inputs, outputs, generator=g) for g in generators]
        self.weight = nn.Parameter(torch.stack(draws) * math.sqrt(gain / inputs))
        self.bias = nn.Parameter(torch.zeros(len(generators), 1, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class HiddenLayers(nn.Module):
    """Layers in front of a network's last one, which alone always computes in float32.

    Attributes
    ----------
    precision : str
        As in the recipe.
    """

    precision = "float32"

    def __init__(self, generators: list[torch.Generator], sizes: list[int]) -> None:
        super().__init__()
        layers = [EnsembleLinear(generators, a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        with lean(x.device, self.precision):
            for layer in self.layers:
                x = activation(layer(x))
        return x.float()


class FourierFeatures(nn.Module):
    """Random Fourier features [sin 2 pi B x, cos 2 pi B x], B ~ N(0, scale^2).

    Tancik et al. 2020; article, section 3.1. (E, N, D) or (N, D) -> (E, N, 2F).
    """

    frequencies: torch.Tensor

    def __init__(
        self,
        generators: list[torch.Generator],
        dimensions: int,
        frequencies: int,
        scales: list[float],
        directions: list[list[tuple[torch.Tensor, float]]] | None = None,
    ) -> None:
        super().__init__()
        draws = [
            torch.randn(dimensions, frequencies, generator=g) * (2 * math.pi * scale)
            for g, scale in zip(generators, scales, strict=True)
        ]
        for e, own in enumerate(directions or ()):  # of each member
            if own:
                metrics = torch.stack([metric for metric, _ in own])
                shares = torch.tensor([share for _, share in own])
                pick = torch.multinomial(
                    shares, frequencies, replacement=True, generator=generators[e]
                )
                draws[e] = torch.einsum("df,fde->ef", draws[e], metrics[pick])
        self.register_buffer("frequencies", torch.stack(draws))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        phase = x @ self.frequencies
        return torch.cat([phase.sin(), phase.cos()], -1)


class PatchMLP(nn.Module):
    """Coordinates -> multi-scale patches, the article's G: (E, N, D) -> (E, N, S, K, C)."""

    def __init__(
        self,
        generators: list[torch.Generator],
        encoding: FourierFeatures,
        width: int,
        depth: int,
        patch: tuple[int, int, int],
        sigmoid: bool,
    ) -> None:
        super().__init__()
        self.encoding, self.patch, self.sigmoid = encoding, patch, sigmoid
        sizes = [2 * encoding.frequencies.shape[-1]] + [width] * depth
        self.hidden = HiddenLayers(generators, sizes)
        # a small last layer starts the fit at the mean
        self.last = EnsembleLinear(generators, width, math.prod(patch), gain=0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.hidden(self.encoding(x), torch.relu))
        x = torch.sigmoid(x) if self.sigmoid else x
        return x.unflatten(-1, self.patch)


class Reconstructor(nn.Module):
    """Patch -> pixel, the article's R: (E, N, S, K, C) -> (E, N, C).

    With `residual` the patch's own centre is the first guess and the network corrects it.
    """

    def __init__(
        self,
        generators: list[torch.Generator],
        patch: tuple[int, int, int],
        width: int,
        depth: int,
        residual: bool,
        sigmoid: bool,
    ) -> None:
        super().__init__()
        self.residual, self.sigmoid = residual, sigmoid
        sizes = [math.prod(patch)] + [width] * depth
        self.hidden = HiddenLayers(generators, sizes)
        self.last = EnsembleLinear(generators, width, patch[-1], gain=0.1)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = self.last(self.hidden(patches.flatten(-3), torch.relu))
        if self.residual:
            return x + patch_centre(patches)
        return torch.sigmoid(x) if self.sigmoid else x


class PatchCentre(nn.Module):
    """Patch -> its own centre at the lowest scale: no reconstructor, for the article's ablation."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return patch_centre(patches)


class Discriminator(nn.Module):
    """Patch -> logit of being real (article, 3.2): 3 LeakyReLU layers, slope 0.2."""

    def __init__(
        self, generators: list[torch.Generator], patch: tuple[int, int, int], width: int
    ) -> None:
        super().__init__()
        sizes = [math.prod(patch), width, width, width]
        self.hidden = HiddenLayers(generators, sizes)
        self.last = EnsembleLinear(generators, width, 1, gain=1.0)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        leaky = partial(nn.functional.leaky_relu, negative_slope=0.2)
        return self.last(self.hidden(patches.flatten(-3), leaky))


class DegradationKernel(nn.Module):
    """Deep linear network that turns a fine image into the measured one (article, 4.3): -> (E, *K).

    Layers of linear convolutions without bias amount to one kernel, which is all that is used; more
    layers only make it easier to learn (Bell-Kligler et al. 2019). It starts at `start`.
    """

    def __init__(
        self, generators: list[torch.Generator], start: torch.Tensor, layers: int, width: int
    ) -> None:
        super().__init__()
        dimensions = start.ndim
        # each further layer of 3 adds one pixel to each side of the first one's reach
        layers = max(1, min(layers, (min(start.shape) - 1) // 2))
        cut = (slice(layers - 1, 1 - layers if layers > 1 else None),) * dimensions
        first = start[cut] / start[cut].sum()
        counts = [1, *[width] * (layers - 1), 1]
        self.weights = nn.ParameterList()
        for number, (inputs, outputs) in enumerate(itertools.pairwise(counts)):
            size = tuple(first.shape) if number == 0 else (3,) * dimensions
            middle = first if number == 0 else torch.zeros(size)
            if number:
                middle[(1,) * dimensions] = 1 / inputs
            noise = [
                torch.randn(outputs, inputs, *size, generator=g) * (0.02 / inputs / first.numel())
                for g in generators
            ]
            self.weights.append(nn.Parameter(torch.stack(noise) + middle))

    def forward(self) -> torch.Tensor:
        members = zip(*(weight.unbind(0) for weight in self.weights), strict=True)
        return torch.stack([collapse_kernel(weights) for weights in members])


def only_members(network: nn.Module, members: slice) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward pass of some of a network's members alone, without a copy of their numbers.

    Parameters
    ----------
    network : nn.Module
        Whose parameters and buffers all have the ensemble axis first.
    members : slice

    Returns
    -------
    callable
    """
    held = itertools.chain(network.named_parameters(), network.named_buffers())
    own = {name: tensor[members] for name, tensor in held}
    return lambda x: functional_call(network, own, (x,))


def patch_centre(patches: torch.Tensor) -> torch.Tensor:
    """Central entry of the lowest-scale patch, phi(x)[o] of equation (2): (..., S, K, C) -> (..., C)."""
    return patches[..., 0, patches.shape[-2] // 2, :]
