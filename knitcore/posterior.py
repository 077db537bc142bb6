"""Patch posteriors: groups of similar patches on a pilot give a Gaussian prior for each of them.

The second step of non-local Bayes (Lebrun, Buades and Morel 2013, doi:10.1137/120874989) with a
blind-spot network as its first: a patch's posterior mean under the group's mean and covariance, averaged
over all patches that cover a pixel. Signal-dependent and correlated noise enter as the noise covariance
of the patch, without a variance-stabilising transform and its inverse.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from knitcore.events import EVENT_SECONDS, two_at_once
from knitcore.noise_model import Noise, line_covariance
from knitcore.recipe import Denoise

TURNED = 2.0  # a patch that has to be turned or mirrored counts as so many times as far
BEYOND = 1.5  # so many times what noise explains is no loss yet, where a group's means differ
MORE = 1.5  # so many times the patches share a prior
FLAT = 0.02  # where a group varies by less, over the noise's variance: there is nothing to blur
ROUGH = 1.0  # and where by more: a few cannot span it. In between is texture, which more would blur
TEAM = 4  # so many references a side share one search window
TEAMS = 8  # searched at once: of more, what is worked on does not stay in a processor's cache
GPU_TEAMS = 16  # so many times as many on a GPU


def patch_table(image: torch.Tensor, size: int) -> torch.Tensor:
    """All patches of all planes: (C, Z, Y, X) to (Z * Y' * X', C * size * size)."""
    patches = image.unfold(2, size, 1).unfold(3, size, 1)
    return patches.permute(1, 2, 3, 0, 4, 5).reshape(-1, len(image) * size * size)


def reference_starts(length: int, size: int, stride: int) -> torch.Tensor:
    """First pixels of the reference patches along an axis, in rows of `TEAM`; the end is covered.

    The last is repeated to fill its row, and counts as often there.
    """
    starts = [*range(0, length - size, stride), length - size]
    starts += starts[-1:] * (-len(starts) % TEAM)
    return torch.tensor(starts).view(-1, TEAM)


def team_side(stride: int, window: int) -> int:
    """Side of the window a team searches, in pixels."""
    return (TEAM - 1) * stride + 1 + 2 * window


def teams_at_once(device: torch.device) -> int:
    """How many teams are searched at once."""
    return TEAMS if device.type == "cpu" else TEAMS * GPU_TEAMS


def team_windows(
    ys: torch.Tensor,
    xs: torch.Tensor,
    shape: tuple[int, int, int],
    window: int,
    side: int,
    at_once: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """References and what they are compared with, some teams at a time.

    Parameters
    ----------
    ys, xs : Tensor of int, shapes (R, TEAM) and (S, TEAM)
        As `reference_starts` gives them.
    shape : (int, int, int)
        Planes, rows and columns of the places of patches.
    window : int
        How far a team sees before its first reference.
    side : int
        Of its window; at the far end a window is moved back rather than cut.
    at_once : int
        Teams.

    Yields
    ------
    reference : Tensor of int, shape (B, TEAM * TEAM)
        Rows of the `patch_table` of the first plane.
    candidate : Tensor of int, shape (B, S)
        Rows of the table of all planes.
    """
    planes, high, wide = shape
    device = ys.device
    tall, broad = min(side, high), min(side, wide)
    top = (ys[:, 0] - window).clamp(0, high - tall)
    left = (xs[:, 0] - window).clamp(0, wide - broad)
    plane = torch.arange(planes, device=device)[:, None, None] * high * wide
    down = torch.arange(tall, device=device)[:, None] * wide
    seen = (plane + down + torch.arange(broad, device=device)).reshape(-1)
    teams = torch.cartesian_prod(
        torch.arange(len(ys), device=device), torch.arange(len(xs), device=device)
    )
    for chosen in teams.split(at_once):
        i, j = chosen[:, 0], chosen[:, 1]
        reference = (ys[i][:, :, None] * wide + xs[j][:, None]).reshape(len(chosen), -1)
        yield reference, (top[i] * wide + left[j])[:, None] + seen


def turned_orders(channels: int, size: int, lined: bool, device: torch.device) -> torch.Tensor:
    """Order of a patch's numbers in each of its eight positions, (8, D); four where noise has lines."""
    square = torch.arange(size * size, device=device).view(size, size)
    squares = [square, square.flip(0), square.flip(1), square.flip(0, 1)]
    if not lined:
        squares += [one.T for one in squares]
    plane = torch.stack([one.reshape(-1) for one in squares])
    first = torch.arange(channels, device=device) * size * size
    return (plane[:, None] + first[:, None]).flatten(1)


def rows_of(
    table: torch.Tensor,
    rows: torch.Tensor,
    orders: torch.Tensor | None = None,
    position: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rows of a table, (G, K) to (G, K, D), each in its order; see `find_groups`."""
    # a third of the time of indexing by an array
    near = table.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)
    return near if orders is None or position is None else near.gather(2, orders[position])


def find_groups(
    table: torch.Tensor,
    square: torch.Tensor,
    reference: torch.Tensor,
    candidate: torch.Tensor,
    group: int,
    orders: torch.Tensor | None = None,
    in_order: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The patches nearest to each reference.

    Parameters
    ----------
    table : Tensor, shape (P, D)
    square : Tensor, shape (P,)
        Its squared row norms.
    reference, candidate : Tensor of int, shapes (B, R) and (B, S)
        Rows of the table; each reference of a team is compared with all the team's candidates.
    group : int
    orders : Tensor of int, shape (F, D), optional
        Positions a candidate may be turned to, the first its own; see `turned_orders`.
    in_order : bool
        The nearest first.

    Returns
    -------
    rows : Tensor of int, shape (B * R, group)
        Of the table; the reference is one of them.
    position : Tensor of int, shape (B * R, group), or None
        Which order of a row's numbers is near to the reference; None without `orders`.
    """
    many, position = candidate.shape[1], None
    if orders is None:
        cross = rows_of(table, reference) @ rows_of(table, candidate).transpose(1, 2)
        distance = square[candidate][:, None] - 2 * cross
    else:
        # to turn the reference back is less work than to turn all candidates
        turned = rows_of(table, reference)[:, :, orders.argsort(1)]
        cross = turned.flatten(1, 2) @ rows_of(table, candidate).transpose(1, 2)
        distance = cross.view(*turned.shape[:3], many).mul_(-2)
        distance += square[candidate][:, None, None]
        distance += square[reference][:, :, None, None]
        distance.clamp_min_(0)  # of rounding
        distance[:, :, 1:] *= TURNED
        distance = distance.flatten(2)
    best = distance.topk(group, 2, largest=False, sorted=in_order).indices
    rows = candidate[:, None].expand(-1, reference.shape[1], -1).gather(2, best % many)
    # in a flat picture all are as near: the reference itself must not be left out
    missing = (rows != reference[:, :, None]).all(2)
    rows[..., 0] = torch.where(missing, reference, rows[..., 0])
    if orders is not None:
        position = best // many
        position[..., 0].masked_fill_(missing, 0)
        position = position.view(-1, group)
    return rows.view(-1, group), position


def asks_for_more(
    table: torch.Tensor,
    rows: torch.Tensor,
    orders: torch.Tensor | None = None,
    position: torch.Tensor | None = None,
) -> torch.Tensor:
    """Which groups are to have more patches: those that vary next to not, or by more than the noise.

    Parameters
    ----------
    table : Tensor, shape (P, D)
        Of a pilot on a scale on which the noise is about 1.
    rows : Tensor of int, shape (G, K)
    orders : Tensor of int, shape (F, D), optional
    position : Tensor of int, shape (G, K), optional
        As of `find_groups`.

    Returns
    -------
    Tensor of bool, shape (G,)
    """
    spread = rows_of(table, rows, orders, position).var(1, correction=0).mean(1)
    return (spread < FLAT) | (spread > ROUGH)


def group_posterior(
    noisy: torch.Tensor, pilot: torch.Tensor, noise: Noise, whiten: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and variance of patches whose prior is the Gaussian of their pilots.

    Parameters
    ----------
    noisy, pilot : Tensor, shape (G, K, D)
        Groups of K patches of D numbers, channels first.
    noise : Noise
    whiten : Tensor or None, shape (2, D, D)
        Inverse Cholesky factor of the noise's correlation and the factor itself; None if white.

    Returns
    -------
    estimate : Tensor, shape (G, K, D)
    variance : Tensor, shape (G, D)
        In units of the noise's; the same for all patches of a group.
    """
    K, D = pilot.shape[1:]
    mean = pilot.mean(1, keepdim=True)
    channels = len(noise.gain)
    by_channel = mean.reshape(len(mean), channels, -1).transpose(0, 1)
    s2 = noise.variance(by_channel).transpose(0, 1).reshape(mean.shape)
    scale = s2.sqrt()
    x, n = (pilot - mean) / scale, (noisy - mean) / scale
    if whiten is not None:
        x, n = x @ whiten[0].T, n @ whiten[0].T
    # gain = P / (P + 1) for P = x'x / (K - 1): the smaller of the two forms of the inverse. Single
    # precision bears no noise below a thousandth of the structure
    lift = 1 + 1e-6 * (x * x).sum((1, 2))[:, None, None] / (K - 1)
    lost = _lost(n - x)
    n = n - lost
    if D <= K:
        eye = torch.eye(D, device=x.device)
        factor = torch.linalg.cholesky_ex(x.transpose(1, 2) @ x / (K - 1) + lift * eye)[0]
        turned = _solved(factor, eye.expand_as(factor))
        estimate = n - (n @ turned) @ turned.mT * lift
    else:
        eye = torch.eye(K, device=x.device)
        factor = torch.linalg.cholesky_ex(x @ x.transpose(1, 2) + (K - 1) * lift * eye)[0]
        turned = _solved(factor, x.mT)
        estimate = (n @ turned) @ turned.mT
    estimate = estimate + lost
    if whiten is not None:
        estimate, turned = estimate @ whiten[1].T, whiten[1] @ turned
    variance = (turned * turned).sum(2)
    if D <= K:
        variance = 1 - variance
    # the mean is no better known than by K noisy patches
    variance = variance.clamp_min(0) + 1 / K
    return estimate.mul_(scale).add_(mean), variance


def _solved(factor: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`right` times the transposed inverse of a lower triangle; in a third of the time that the inverse
    takes times the transposed `right`."""
    return torch.linalg.solve_triangular(factor.mT, right, upper=True, left=False)


def _lost(residual: torch.Tensor) -> torch.Tensor:
    """What a group's pilots lack: its residuals' mean, as far as it is off by more than noise.

    James and Stein 1961; the largest and the least of each number are left out, for one outlier must not
    be given to all members.

    Parameters
    ----------
    residual : Tensor, shape (G, K, D)
        In units of the noise.

    Returns
    -------
    Tensor, shape (G, 1, D)
    """
    K, D = residual.shape[1:]
    if K < 4:
        return residual.new_zeros(len(residual), 1, D)
    total = residual.sum(1, keepdim=True)
    ends = residual.amax(1, keepdim=True) + residual.amin(1, keepdim=True)
    off = (total - ends) / (K - 2)
    power = K * (off * off).sum(2, keepdim=True)
    return off * (1 - BEYOND * D / power.clamp_min(1e-9)).clamp_min(0)


def whitening(noise: Noise, channels: int, size: int, device: torch.device) -> torch.Tensor | None:
    """Inverse Cholesky factor of the noise's correlation in a patch, and the factor itself."""
    if len(noise.along_y) == len(noise.along_x) == 1:
        return None
    plane = torch.kron(line_covariance(noise.along_y, size), line_covariance(noise.along_x, size))
    factor = torch.linalg.cholesky(torch.kron(torch.eye(channels, dtype=plane.dtype), plane))
    return torch.stack([torch.linalg.inv(factor), factor]).float().to(device)


def alike(values: torch.Tensor, noise: Noise) -> torch.Tensor:
    """Values on a scale on which the noise is everywhere about 1, for comparing patches."""
    if not any(noise.gain):
        return values
    shape = (-1, *[1] * (values.ndim - 1))
    gain = torch.tensor(noise.gain, device=values.device).view(shape)
    root = noise.variance(values).sqrt()
    return torch.where(gain > 0.02, 2 * root / gain.clamp_min(1e-6), values / root.mean())


def patch_sums(table: torch.Tensor, planes: int, high: int, wide: int, size: int) -> torch.Tensor:
    """Add patches up where they lie: (planes * high * wide, C * size * size) to (C, planes, Y, X)."""
    parts = table.view(planes, high, wide, -1, size, size).permute(3, 0, 1, 2, 4, 5)
    out = parts.new_zeros(len(parts), planes, high + size - 1, wide + size - 1)
    for y in range(size):
        for x in range(size):
            out[:, :, y : y + high, x : x + wide] += parts[..., y, x]
    return out


def covered(count: torch.Tensor, planes: int, high: int, wide: int, size: int) -> torch.Tensor:
    """How often each pixel is covered by patches that count so often: to (planes, Y, X)."""
    around = F.pad(count.view(planes, 1, high, wide), (size - 1,) * 4)
    return F.avg_pool2d(around, size, 1, divisor_override=1)[:, 0]


def patch_side(recipe: Denoise, channels: int) -> int:
    """Side of the patches, in pixels."""
    return recipe.patch or (7 if channels == 1 else 5)


@dataclass(frozen=True)
class GroupsOf:
    """What the groups of one piece are made from; see `posterior_steps`.

    Attributes
    ----------
    table : Tensor, shape (P, D)
        What patches are compared by, and its squared row norms.
    square : Tensor, shape (P,)
    seen, pilots : Tensor, shape (P, D)
        Noisy patches and their pilots.
    here : int
        Row of the first patch of the plane that references are in.
    orders : Tensor of int, shape (F, D), or None
    noise : Noise
    whiten : Tensor or None
    group : int
    more : bool
    """

    table: torch.Tensor
    square: torch.Tensor
    seen: torch.Tensor
    pilots: torch.Tensor
    here: int
    orders: torch.Tensor | None
    noise: Noise
    whiten: torch.Tensor | None
    group: int
    more: bool

    def posteriors(
        self, pair: tuple[torch.Tensor, torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of some teams: rows (M,) of the tables, and what to add there: estimates by weights, weights."""
        reference, candidate = pair
        few = min(self.group, candidate.shape[1])
        most = min(round(MORE * self.group), candidate.shape[1]) if self.more else few
        found, position = find_groups(
            self.table,
            self.square,
            reference + self.here,
            candidate,
            most,
            self.orders,
            in_order=self.more,
        )
        parts: list[tuple[slice | torch.Tensor, int]] = [(slice(None), few)]
        if self.more:
            place = None if position is None else position[:, :few]
            wider = asks_for_more(self.table, found[:, :few], self.orders, place)
            parts = [(~wider, few), (wider, most)]
        results = []
        for chosen, many in parts:
            members = found[chosen, :many]
            if not len(members):
                continue
            place = None if position is None else position[chosen, :many]
            measured, before = (
                rows_of(t, members, self.orders, place) for t in (self.seen, self.pilots)
            )
            estimate, variance = group_posterior(measured, before, self.noise, self.whiten)
            # pixels that are better known, of patches whose prior is narrower, count for more
            sure = (1 / variance)[:, None].expand_as(estimate)
            told = estimate * sure
            if self.orders is not None and place is not None:
                back = self.orders.argsort(1)[place]
                told, sure = told.gather(2, back), sure.gather(2, back)
            at = members.reshape(-1)
            results.append((at, told.reshape(len(at), -1), sure.reshape(len(at), -1)))
        return results


def posterior_steps(
    noisy: torch.Tensor,
    pilot: torch.Tensor,
    noise: Noise,
    recipe: Denoise,
    group: int,
    more: bool = False,
    beside: bool = False,
) -> Generator[float, None, tuple[torch.Tensor, torch.Tensor]]:
    """Posterior mean of every pixel, piece by piece; the pieces leave no seam.

    Parameters
    ----------
    noisy, pilot : Tensor, shape (C, Z, Y, X)
        In units in which the noise of each channel is about 1.
    noise : Noise
        In these units.
    recipe : Denoise
    group : int
        Patches in a group.
    more : bool
        Half as many again where `asks_for_more`: worth its time for colours in weak noise.
    beside : bool
        On two cores, with the same result.

    Yields
    ------
    float
        Share done.

    Returns
    -------
    clean, variance : Tensor, shape (C, Z, Y, X)
    """
    C, Z, Y, X = noisy.shape
    device = noisy.device
    size = min(patch_side(recipe, C), (min(Y, X) + 1) // 2)
    stride = min(recipe.stride, size)  # or pixels between the patches would have no answer
    whiten = whitening(noise, C, size, device)
    orders = turned_orders(C, size, whiten is not None, device) if recipe.turned else None
    total, weight = torch.zeros_like(noisy), torch.zeros_like(noisy)
    count = torch.zeros_like(noisy[:1])
    rows, columns = (reference_starts(n, size, stride).to(device) for n in (Y, X))
    teams = max(1, recipe.block // (TEAM * stride))
    pieces = [
        (z, rows[i : i + teams], columns[j : j + teams])
        for z in range(Z)
        for i in range(0, len(rows), teams)
        for j in range(0, len(columns), teams)
    ]
    side = team_side(stride, recipe.window)
    reported = time.monotonic()
    for number, (z, ys, xs) in enumerate(pieces):
        reach = []
        for starts, length in ((ys, Y), (xs, X)):
            # at the ends a window is moved rather than cut
            first = min(int(starts[0, 0]) - recipe.window, length - size + 1 - side)
            last = max(int(starts[-1, -1]) + recipe.window + 1, side) + size - 1
            reach.append(slice(max(0, first), last))
        box = (slice(max(0, z - 1), z + 2), *reach)
        part = pilot[(slice(None), *box)]
        planes, high, wide = part.shape[1], part.shape[2] - size + 1, part.shape[3] - size + 1
        pilots = patch_table(part, size)
        seen = patch_table(noisy[(slice(None), *box)], size)
        table = patch_table(alike(part, noise), size) if any(noise.gain) else pilots
        # distances are differences of squares: about the channels' means they lose fewer digits
        level = table.view(len(table), C, -1).mean((0, 2))
        table = table - level.repeat_interleave(size * size)
        square = (table * table).sum(1)
        ys, xs = ys - box[1].start, xs - box[2].start
        here = (z - box[0].start) * high * wide
        sums, weights = torch.zeros_like(pilots), torch.zeros_like(pilots)
        counts = pilots.new_zeros(len(pilots))
        at_once = teams_at_once(device)
        if orders is not None:  # each is turned to all positions
            at_once //= 2
        own_teams, shape = len(ys) * len(xs), (planes, high, wide)
        pairs = team_windows(ys, xs, shape, recipe.window, side, at_once)
        groups = GroupsOf(table, square, seen, pilots, here, orders, noise, whiten, group, more)
        for done, parts in enumerate(two_at_once(groups.posteriors, pairs, beside), 1):
            for at, told, sure in parts:
                sums.index_add_(0, at, told)
                weights.index_add_(0, at, sure)
                counts += torch.bincount(at, minlength=len(counts))
            if time.monotonic() - reported > EVENT_SECONDS:
                reported = time.monotonic()
                yield (number + min(1, done * at_once / own_teams)) / len(pieces)
        total[(slice(None), *box)] += patch_sums(sums, planes, high, wide, size)
        weight[(slice(None), *box)] += patch_sums(weights, planes, high, wide, size)
        count[(slice(None), *box)] += covered(counts, planes, high, wide, size)
    weight.clamp_min_(1e-20)
    clean = total.div_(weight)
    # a harmonic mean: weights are inverse variances
    return clean, noise.variance(clean).mul_(count).div_(weight)
