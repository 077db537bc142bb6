"""The fit: from seed to stop, in one readable loop (article, 3.3)."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from knitcore.adam import Adam
from knitcore.device import fit_threads, together, usable_precision
from knitcore.errors import FitError
from knitcore.events import EVENT_SECONDS, relayed
from knitcore.losses import (
    adversarial_loss,
    consistency_loss,
    degrade_tile,
    discriminator_loss,
    downsampling_loss,
    kernel_loss,
    patch_loss,
    pixel_loss,
)
from knitcore.networks import (
    DegradationKernel,
    Discriminator,
    FourierFeatures,
    HiddenLayers,
    PatchCentre,
    PatchMLP,
    Reconstructor,
    only_members,
)
from knitcore.patches import Pyramid, gather_patches, join_pyramids, make_pyramid
from knitcore.recipe import Inpaint, Recipe, SuperResolve, consistency_weight
from knitcore.tiles import Batch, step_batches, tile_shape, whole_counts

PREVIEW_SECONDS = 0.5
RENDER_COORDINATES = 8192
RESTARTS = 2
KERNEL_RATE = 0.05  # of the networks' learning rate: a kernel's weights are small and few
REAL_PATCHES = 16384  # of the measured image, for the discriminator of super-resolution


@dataclass(frozen=True)
class Coarse:
    """For super-resolution: the measured image that the degraded fit must equal.

    Attributes
    ----------
    values : ndarray of float32, shape (C, *coarse)
        Standardised.
    factors : tuple of int
        Fine pixels a coarse pixel, along each axis.
    kernel : ndarray, shape (*K)
        Start of the degradation kernel; sides as odd or even as the factors.
    learn : bool
        Fit the kernel, or keep it.
    centred : bool
        Coarse pixels lie in the centre of their fine ones, or else on the first of them.
    """

    values: np.ndarray
    factors: tuple[int, ...]
    kernel: np.ndarray
    learn: bool
    centred: bool = True

    @property
    def margin(self) -> tuple[int, ...]:
        """Fine pixels fitted beyond each border, so that every coarse pixel has its whole kernel."""
        return tuple(side // 2 for side in self.kernel.shape)

    @property
    def begin(self) -> tuple[int, ...]:
        """Fine pixel, margin included, at which the kernel of coarse pixel 0 begins."""
        return tuple(
            (s - side) // 2 + margin if self.centred else 0
            for s, side, margin in zip(self.factors, self.kernel.shape, self.margin, strict=True)
        )


@dataclass(frozen=True)
class Target:
    """What one fit is to learn and where it is to answer.

    Attributes
    ----------
    values, weight : ndarray of float32, shape (C, *spatial)
        Standardised values; weight 1 known, 0 unknown.
    want : ndarray of bool, shape (*spatial)
        Where the fitted image is asked for.
    step : tuple of float
        Relative pixel size along each axis.
    key : str
        Name of the region: with the seed it decides all random numbers.
    directions : tuple of (ndarray, float)
        Metrics that the Fourier frequencies are drawn by, and their shares.
    places : ndarray or None, shape (n, D)
        Where the fit is to answer instead of at `want`: any coordinates, in pixels.
    coarse : Coarse or None
        Super-resolution: then `values` and `weight` are all zero.
    seed : int or None
        In place of the recipe's, where images with seeds of their own are fitted side by side.
    """

    values: np.ndarray
    weight: np.ndarray
    want: np.ndarray
    step: tuple[float, ...]
    key: str
    directions: tuple[tuple[np.ndarray, float], ...] = ()
    places: np.ndarray | None = None
    coarse: Coarse | None = None
    seed: int | None = None


@dataclass
class Fitted:
    """State of one region's fit, yielded while it runs and returned at its end.

    Attributes
    ----------
    done : float
        Share of the steps done.
    losses : dict of str to float
        By the equations' names; means over the members.
    members : ndarray or None, shape (E, C, n)
        Values at the wanted pixels, when rendered.
    restarts : int
        How often the fit had to start again.
    diverged : int or None
        Step at which the losses were no longer finite.
    parameters : int
        Trained numbers of one member, discriminator and kernel included.
    kernel : ndarray or None, shape (E, *K)
        The degradation kernels at the end.
    seconds : float
        This region's part of the time, which regions fitted side by side share evenly.
    """

    done: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    members: np.ndarray | None = None
    restarts: int = 0
    diverged: int | None = None
    parameters: int = 0
    kernel: np.ndarray | None = None
    seconds: float = 0.0


def fit_regions(
    targets: Sequence[Target],
    recipe: Recipe,
    device: torch.device,
    previews: bool = False,
    *,
    lenient: bool = False,
) -> Generator[list[Fitted], None, list[Fitted]]:
    """Fit an ensemble of knitworks to each of some regions, side by side where they are alike.

    What a region becomes does not depend on its company, but for rounding.

    Parameters
    ----------
    targets : sequence of Target
    recipe : Recipe
    device : torch.device
    previews : bool
        Render the wanted pixels of each region about twice a second.
    lenient : bool
        Leave a region that never stays finite without members, rather than raise.

    Yields
    ------
    list of Fitted
        One a region; about ten a second, never more than one step (or tile) apart in time.

    Returns
    -------
    list of Fitted

    Raises
    ------
    FitError
        Not finite, though started thrice, each time with half the learning rate.
    """
    states = [Fitted() for _ in targets]
    members: dict[int, np.ndarray] = {}
    # whoever diverges starts again, alone
    waiting = [(company, 0) for company in _companies(targets, recipe)]
    before = torch.get_num_threads()
    torch.set_num_threads(fit_threads())
    try:
        while waiting:
            company, restart = waiting.pop(0)
            began = time.monotonic()
            own = [targets[number] for number in company]
            for number in company:
                states[number] = Fitted(restarts=restart, seconds=states[number].seconds)
            under_way = [states[number] for number in company]
            fit = _fit_once(own, under_way, recipe, device, previews, restart)
            found = yield from relayed(fit, lambda _: states)
            for number, values in zip(company, found, strict=True):
                states[number].seconds += (time.monotonic() - began) / len(company)
                if values is not None:
                    members[number] = values
                elif restart < RESTARTS:
                    waiting.append(([number], restart + 1))
                elif not lenient:
                    raise FitError(
                        f"the fit diverged at step {states[number].diverged} of {recipe.steps}, "
                        f"{RESTARTS + 1} times; lower `rate` (now {recipe.rate:g}) or check the image "
                        "for extreme values"
                    )
    finally:
        torch.set_num_threads(before)
    for number, state in enumerate(states):
        state.members = members.get(number)
    return states


def most_together(recipe: Inpaint, channels: int, dimensions: int, device: torch.device) -> int:
    """How many regions to fit side by side.

    Parameters
    ----------
    recipe : Inpaint
    channels, dimensions : int
        Of the regions.
    device : torch.device

    Returns
    -------
    int
        1 where each step goes through all of a region.
    """
    if not recipe.tiles:
        return 1
    if recipe.batch:
        return recipe.batch
    sample = recipe.tiles * math.prod(tile_shape(recipe, (recipe.tile,) * dimensions))
    entries = len(recipe.scales) * recipe.patch_size**dimensions * channels
    layers = recipe.depth + recipe.reconstructor_depth + 3 * recipe.discriminator
    # what a step keeps for its gradients: each layer's inputs and outputs, and the patches' terms
    numbers = 4 * recipe.frequencies + 3 * recipe.width * layers + 12 * entries
    return together(device, 4 * recipe.ensemble * sample * numbers)


def _companies(targets: Sequence[Target], recipe: Recipe) -> list[list[int]]:
    """Which regions can be fitted side by side: those whose batches and patches have one shape."""
    found: dict[Any, list[int]] = {}
    for number, target in enumerate(targets):
        key: Any = (tile_shape(recipe, target.want.shape), len(target.values))
        if not recipe.tiles or target.coarse is not None:  # worked through in passes of its own
            key = number
        found.setdefault(key, []).append(number)
    return list(found.values())


def _fit_once(
    targets: list[Target],
    states: list[Fitted],
    recipe: Recipe,
    device: torch.device,
    previews: bool,
    restart: int,
) -> Generator[None, None, list[np.ndarray | None]]:
    """Fit regions that go together; their states tell how far it is. Their members, None if diverged."""
    first = targets[0]
    tile = tile_shape(recipe, first.want.shape)
    # a patch entry farther off than the tile is wide could never be compared with anything
    scales = tuple(s for s in recipe.scales if s < max(tile)) or (1,)
    reported = time.monotonic()
    pyramids = []
    for target in targets:
        pyramids.append(
            make_pyramid(target.values, target.weight, scales, device, recipe.patch_size)
        )
        if time.monotonic() - reported > EVENT_SECONDS:
            reported = time.monotonic()
            yield
    pyramid = join_pyramids(pyramids)
    del pyramids
    frame = make_frame(targets, device)
    networks, discriminator = build_networks(recipe, len(scales), targets, restart, device)
    rate = recipe.rate / 2**restart
    parameters = [p for network in networks for p in network.parameters()]
    scene = None
    kernel_weights: list[torch.nn.Parameter] = []
    if first.coarse is not None:
        assert isinstance(recipe, SuperResolve)
        scene = make_scene(first.coarse, recipe, scales, first.key, restart, device)
    optimiser = Adam(parameters, beta2=recipe.adam_beta2)
    opponent = kernel_optimiser = None
    trained = sum(p.numel() for p in parameters)
    if scene is not None and scene.coarse.learn:
        kernel_weights = list(scene.kernel.parameters())
        kernel_optimiser = Adam(kernel_weights, beta2=recipe.adam_beta2)
        trained += sum(p.numel() for p in kernel_weights)
    if discriminator is not None:
        weights = list(discriminator.parameters())
        opponent = Adam(weights, beta2=recipe.adam_beta2)
        trained += sum(p.numel() for p in weights)
    for state in states:
        state.parameters = trained // (recipe.ensemble * len(targets))
    draws = [
        random_source(_seed(recipe, target), target.key, "tiles", restart) for target in targets
    ]
    averaged: list[torch.Tensor] | None = None
    counts = None if recipe.tiles else whole_counts(pyramid)
    reported = measured = previewed = time.monotonic()
    told, due = -1, 0  # steps of the last report and of the next one
    reach = max(scales)
    if scene is not None:
        reach = max(reach, *scene.coarse.margin) + max(scene.coarse.factors)
    batches = step_batches(recipe, tile, reach, pyramid, draws)

    for step in range(recipe.steps):
        alpha = consistency_weight(recipe, step / recipe.steps)
        optimiser.clear()
        for other in (opponent, kernel_optimiser):
            if other is not None:
                other.clear()
        totals: dict[str, torch.Tensor] = {}
        for batch in next(batches):
            found = batch_losses(
                batch, pyramid, networks, discriminator, recipe, scales, frame, counts, scene
            )
            # equation (4); super-resolution has the downsampling loss in the pixels' place
            loss = found["recon"] + alpha * found["xpatch"] + recipe.beta * found["pixel"]
            if isinstance(recipe, SuperResolve):
                loss = loss + recipe.kernel_weight * found["kernel"]
            if "gan" in found:
                loss = loss + recipe.gamma * found["gan"]
                # the opponent's gradients of its own loss only: the patches are detached there
                found["discriminator"].sum().backward(inputs=weights)
            loss.sum().backward(inputs=parameters + kernel_weights)
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value.detach()
            if batch.core is not None and time.monotonic() - reported > EVENT_SECONDS:
                reported = time.monotonic()
                yield
        now_rate = learning_rate(recipe, rate, step)
        optimiser.step(now_rate)
        if opponent is not None:
            opponent.step(now_rate)
        if kernel_optimiser is not None:
            kernel_optimiser.step(KERNEL_RATE * now_rate)
        averaged = _average(averaged, parameters, recipe, step)

        # on a clock of its own: the passes of a slow step have just reported
        late = time.monotonic() - measured > EVENT_SECONDS
        if late or step == due or step == recipe.steps - 1:
            # the only place where the device is waited for
            means = torch.stack([v.unflatten(0, (len(targets), -1)) for v in totals.values()])
            for state, values in zip(states, means.mean(-1).T.tolist(), strict=True):
                state.done = (step + 1) / recipe.steps
                if all(math.isfinite(value) for value in values):
                    state.losses = dict(zip(totals, values, strict=True))
                elif state.diverged is None:
                    state.diverged = step
            if all(state.diverged is not None for state in states):
                return [None] * len(states)
            now = time.monotonic()
            # a device lags behind the clock: by its own pace the next report is due at this step
            due = step + max(1, int((step - told) * EVENT_SECONDS / max(now - measured, 1e-6)))
            told = step
            if previews and now - previewed > PREVIEW_SECONDS:
                for number, state in enumerate(states):
                    if state.diverged is None:
                        parts = render(networks, targets[number], number, recipe)
                        state.members = np.concatenate(list(parts), axis=-1)
                        yield
                        state.members = None
                previewed = time.monotonic()
            else:
                yield
            reported = measured = time.monotonic()

    if averaged is not None:
        with torch.no_grad():
            for parameter, mean in zip(parameters, averaged, strict=True):
                parameter.copy_(mean)
    members: list[np.ndarray | None] = []
    for number, state in enumerate(states):
        rendered = []
        for part in render(networks, targets[number], number, recipe):
            rendered.append(part)
            if time.monotonic() - reported > EVENT_SECONDS:
                reported = time.monotonic()
                yield
        values = np.concatenate(rendered, axis=-1)
        if state.diverged is None and not np.isfinite(values).all():
            state.diverged = recipe.steps
        members.append(values if state.diverged is None else None)
    if scene is not None:
        states[0].kernel = scene.kernel().detach().cpu().numpy()
    return members


def random_source(seed: int, *names: object) -> torch.Generator:
    """A generator whose numbers depend on the seed and the names alone, not on order or device.

    Parameters
    ----------
    seed : int
    *names
        What the numbers are for.

    Returns
    -------
    torch.Generator
        On the CPU.
    """
    text = "|".join(str(name) for name in (seed, *names))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(number % 2**63)


def _seed(recipe: Recipe, target: Target) -> int:
    return recipe.seed if target.seed is None else target.seed


def build_networks(
    recipe: Recipe, scales: int, targets: list[Target], restart: int, device: torch.device
) -> tuple[tuple[PatchMLP, Reconstructor | PatchCentre], Discriminator | None]:
    """Make the networks of one fit (article, Fig. 2): all members of a region, then of the next.

    Parameters
    ----------
    recipe : Recipe
    scales : int
        Number of patch scales.
    targets : list of Target
    restart : int
        Changes the random start.
    device : torch.device

    Returns
    -------
    (PatchMLP, Reconstructor or PatchCentre), Discriminator or None
    """
    generators = [
        random_source(_seed(recipe, target), target.key, e, restart)
        for target in targets
        for e in range(recipe.ensemble)
    ]
    channels, dimensions = targets[0].values.shape[0], targets[0].want.ndim
    patch = (scales, recipe.patch_size**dimensions, channels)
    sigmas = list(itertools.islice(itertools.cycle(recipe.fourier_scales), recipe.ensemble))
    sigmas *= len(targets)
    directions = [
        [(torch.from_numpy(m).float(), share) for m, share in target.directions]
        for target in targets
        for _ in range(recipe.ensemble)
    ]
    encoding = FourierFeatures(generators, dimensions, recipe.frequencies, sigmas, directions)
    sigmoid = recipe.network_output == "sigmoid"
    patch_mlp = PatchMLP(generators, encoding, recipe.width, recipe.depth, patch, sigmoid)
    reconstructor: Reconstructor | PatchCentre = PatchCentre()
    if recipe.reconstructor != "none":
        residual = recipe.reconstructor == "residual"
        depth = recipe.reconstructor_depth
        reconstructor = Reconstructor(generators, patch, recipe.width, depth, residual, sigmoid)
    discriminator = Discriminator(generators, patch, recipe.width) if recipe.discriminator else None
    for network in (patch_mlp, reconstructor, discriminator):
        for part in network.modules() if network is not None else ():
            if isinstance(part, HiddenLayers):
                part.precision = usable_precision(recipe.precision, device)
    if discriminator is not None:
        discriminator.to(device)
    return (patch_mlp.to(device), reconstructor.to(device)), discriminator


@dataclass(frozen=True)
class Scene:
    """Super-resolution: the kernel under way, the measured pixels, and their patches.

    Attributes
    ----------
    coarse : Coarse
    kernel : DegradationKernel
    values : Tensor, shape (C, *coarse)
    real, whole : Tensor, shape (1, M, S, K, C) and (1, M, 1)
        Patches of the measured image for the discriminator, and 1 where they are known as a whole.
    """

    coarse: Coarse
    kernel: DegradationKernel
    values: torch.Tensor
    real: torch.Tensor
    whole: torch.Tensor


def make_scene(
    coarse: Coarse,
    recipe: SuperResolve,
    scales: tuple[int, ...],
    key: str,
    restart: int,
    device: torch.device,
) -> Scene:
    """Bring what a super-resolution fit compares with to the device.

    Parameters
    ----------
    coarse : Coarse
    recipe : SuperResolve
    scales : tuple of int
    key : str
    restart : int
    device : torch.device

    Returns
    -------
    Scene
    """
    names = [(key, "kernel", e, restart) for e in range(recipe.ensemble)]
    generators = [random_source(recipe.seed, *name) for name in names]
    start = torch.from_numpy(coarse.kernel).float()
    layers = recipe.kernel_layers if coarse.learn else 1
    kernel = DegradationKernel(generators, start, layers, recipe.kernel_width).to(device)
    if not coarse.learn:  # a single layer without its noise is the given kernel itself
        with torch.no_grad():
            kernel.weights[0].copy_(start.expand_as(kernel.weights[0]))
            kernel.requires_grad_(False)
    pyramid = make_pyramid(
        coarse.values, np.ones_like(coarse.values), scales, device, recipe.patch_size
    )
    places = torch.from_numpy(np.argwhere(np.ones(coarse.values.shape[1:], bool)))
    if len(places) > REAL_PATCHES:
        draw = random_source(recipe.seed, key, "real patches", restart)
        places = places[torch.randperm(len(places), generator=draw)[:REAL_PATCHES]]
    real, valid = gather_patches(pyramid, pyramid.index(places.to(device)[None]))
    whole = (valid > 0).flatten(2).all(2)[..., None].float()
    return Scene(coarse, kernel, torch.from_numpy(coarse.values).to(device), real, whole)


Frame = tuple[torch.Tensor, torch.Tensor]  # sides and pixel sizes of the regions, (G, 1, D) each


def make_frame(targets: list[Target], device: torch.device) -> Frame:
    """What the coordinates of regions are measured by, on the device once and for all.

    Parameters
    ----------
    targets : list of Target
    device : torch.device

    Returns
    -------
    sides, pixel sizes : Tensor of float32, shape (G, 1, D)
    """
    sides = torch.tensor([target.want.shape for target in targets]).float()
    steps = torch.tensor([target.step for target in targets]).float()
    return sides[:, None].to(device), steps[:, None].to(device)


def fit_coordinates(index: torch.Tensor, frame: Frame, recipe: Recipe) -> torch.Tensor:
    """Pixel positions -> the coordinates the networks see.

    Parameters
    ----------
    index : Tensor of int or float, shape (G, N, D)
    frame : pair of Tensor
    recipe : Recipe
        "pixel": pixels from the region's centre, stretched by the pixel size; "unit": [0, 1).

    Returns
    -------
    Tensor of float32, shape (G*E, N, D)
    """
    size, step = frame
    unit = recipe.coordinates == "unit"
    found = index.float() / size if unit else (index.float() - size / 2) * step
    return to_members(found, recipe)


def to_members(values: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """What belongs to a region, for each of its members: (G, ...) -> (G*E, ...)."""
    return values[:, None].expand(-1, recipe.ensemble, *values.shape[1:]).flatten(0, 1)


def learning_rate(recipe: Recipe, highest: float, step: int) -> float:
    """Learning rate at a step: constant, or one cycle (Smith and Topin 2019).

    Parameters
    ----------
    recipe : Recipe
    highest : float
    step : int

    Returns
    -------
    float
        One cycle: from 1/25 up over the first 15 %, then down to nearly nothing, along cosines.
    """
    if recipe.rate_schedule == "constant":
        return highest
    done = (step + 0.5) / recipe.steps
    rise = 0.15
    if done < rise:
        low, high, share = highest / 25, highest, done / rise
    else:
        low, high, share = highest, highest / 1e4, (done - rise) / (1 - rise)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def batch_losses(
    batch: Batch,
    pyramid: Pyramid,
    networks: tuple[PatchMLP, Reconstructor | PatchCentre],
    discriminator: Discriminator | None,
    recipe: Recipe,
    scales: tuple[int, ...],
    frame: Frame,
    counts: tuple[torch.Tensor, torch.Tensor] | None,
    scene: Scene | None = None,
) -> dict[str, torch.Tensor]:
    """The terms of equation (4) on one batch, each of shape (G*E,).

    Parameters
    ----------
    batch : Batch
    pyramid : Pyramid
    networks : (PatchMLP, Reconstructor or PatchCentre)
    discriminator : Discriminator or None
    recipe : Recipe
    scales : tuple of int
    frame : pair of Tensor
    counts : pair of Tensor or None
        Denominators of the whole region, where the batch is only a part of it.
    scene : Scene, optional
        Super-resolution: `pixel` is then the downsampling loss.

    Returns
    -------
    dict of str to Tensor
        recon, xpatch, pixel, and with a discriminator gan and discriminator, with a scene kernel.
    """
    patch_mlp, reconstructor = networks
    patches = patch_mlp(fit_coordinates(batch.position, frame, recipe))
    reference, valid = gather_patches(pyramid, batch.index)
    pixels, known = pyramid.pixels[batch.index], pyramid.known[batch.index]
    entries, known_pixels = counts or (None, None)
    if batch.core is not None:
        own = batch.core.reshape(1, -1)
        valid, known = valid * own[..., None, None, None], known * own[..., None]
    drawn = reconstructor(patches)
    # a region's pixels serve all its members: not copied for each
    grouped = patches.unflatten(0, (-1, recipe.ensemble))
    found = {
        "recon": patch_loss(grouped, reference[:, None], valid[:, None], entries).flatten(),
        "xpatch": consistency_loss(patches, batch.tile, scales, batch.core, pyramid.shapes[0]),
    }
    if scene is None:
        grouped = drawn.unflatten(0, (-1, recipe.ensemble))
        found["pixel"] = pixel_loss(
            grouped, pixels[:, None], known[:, None], recipe.pixel_loss, known_pixels
        ).flatten()
        whole = (valid > 0).all(-1).all(-1).all(-1)[..., None].float()
    else:
        kernel = scene.kernel()
        found["pixel"] = degraded_loss(drawn, batch, kernel, scene, recipe)
        found["kernel"] = kernel_loss(kernel) * batch.share
        reference, whole = scene.real, scene.whole
    if discriminator is not None:
        found["gan"] = adversarial_loss(discriminator(patches)) * batch.share
        real = discriminator(to_members(reference, recipe))
        fake = discriminator(patches.detach())
        whole = to_members(whole, recipe)
        found["discriminator"] = (
            discriminator_loss(real, fake, whole, recipe.label_smoothing) * batch.share
        )
    return found


def degraded_loss(
    drawn: torch.Tensor,
    batch: Batch,
    kernel: torch.Tensor,
    scene: Scene,
    recipe: Recipe,
) -> torch.Tensor:
    """Downsampling loss of one batch's tiles.

    Parameters
    ----------
    drawn : Tensor, shape (E, N, C)
        Fine pixels.
    batch : Batch
    kernel : Tensor, shape (E, *K)
    scene : Scene
    recipe : Recipe

    Returns
    -------
    Tensor, shape (E,)
    """
    tiles = drawn.unflatten(1, (-1, *batch.tile)).unbind(1)
    [corners] = batch.corners.tolist()
    coarse, total = scene.coarse, drawn.new_zeros(len(drawn))
    factors = coarse.factors
    values = math.prod(scene.values.shape)
    for number, (tile, corner) in enumerate(zip(tiles, corners, strict=True)):
        offset = tuple(int(c) - b for c, b in zip(corner, coarse.begin, strict=True))
        found, first = degrade_tile(tile, kernel, factors, offset)
        counts = [
            min(n, side - f)
            for n, side, f in zip(found.shape[2:], scene.values.shape[1:], first, strict=True)
        ]
        inside: Any = (slice(None), slice(None), *(slice(n) for n in counts))
        found = found[inside]
        box: Any = (slice(None), *(slice(f, f + n) for f, n in zip(first, counts, strict=True)))
        weight = torch.ones(counts, device=drawn.device)
        if batch.core is not None:  # a coarse pixel belongs to the pass whose core holds its middle
            for axis, (f, n) in enumerate(zip(first, counts, strict=True)):
                middle = coarse.begin[axis] + kernel.shape[axis + 1] // 2 - int(corner[axis])
                inner = torch.arange(f, f + n, device=drawn.device) * factors[axis] + middle
                along = batch.core[number].amax([a for a in range(len(counts)) if a != axis])
                view = [1] * len(counts)
                view[axis] = n
                weight = weight * along[inner].view(view)
        count = values if batch.core is not None else len(tiles) * found[:, 0].numel()
        total = total + downsampling_loss(
            found, scene.values[box], weight, recipe.pixel_loss, count
        )
    return total


def _average(
    averaged: list[torch.Tensor] | None,
    parameters: list[torch.nn.Parameter],
    recipe: Recipe,
    step: int,
) -> list[torch.Tensor] | None:
    """Running mean of the weights over the last 40 % of the steps."""
    if recipe.average == 0 or step < 0.6 * recipe.steps:
        return averaged
    with torch.no_grad():
        now = [p.detach() for p in parameters]
        if averaged is None:
            return [p.clone() for p in now]
        torch._foreach_lerp_(averaged, now, 1 - recipe.average)
    return averaged


def render(
    networks: tuple[PatchMLP, Reconstructor | PatchCentre],
    target: Target,
    number: int,
    recipe: Recipe,
) -> Iterator[np.ndarray]:
    """Values at a region's wanted pixels, some thousand coordinates at a time.

    Parameters
    ----------
    networks : (PatchMLP, Reconstructor or PatchCentre)
    target : Target
    number : int
        Which of the regions that were fitted side by side it is.
    recipe : Recipe

    Yields
    ------
    ndarray of float32, shape (E, C, n)
    """
    device = next(networks[0].parameters()).device
    members = slice(number * recipe.ensemble, (number + 1) * recipe.ensemble)
    patch_mlp, reconstructor = (only_members(network, members) for network in networks)
    frame = make_frame([target], device)
    where = torch.from_numpy(np.argwhere(target.want) if target.places is None else target.places)
    for part in where.split(RENDER_COORDINATES):
        with torch.no_grad():
            coordinates = fit_coordinates(part.to(device)[None], frame, recipe)
            pixels = reconstructor(patch_mlp(coordinates))
        yield pixels.transpose(1, 2).cpu().numpy()
