"""Noise2Fast: a network learns from the two colours of a checkerboard of one noisy picture.

Lequyer, Philip, Sharma, Hsu and Pelletier, A fast blind zero-shot denoiser, Nature Machine Intelligence
2022. The pixels of either colour of a checkerboard, pushed together along the rows or along the columns,
make two half pictures each way; the network learns to make one of the other, of four pairs drawn at
random. Now and then it denoises the whole picture; when the result stops coming nearer to the noisy
picture, the mean of the last results is the answer. Eight 3 x 3 convolutions of 64 channels and a 1 x 1
one with a sigmoid; binary cross-entropy; Adam at 1e-3.

Two choices of ours: channels are denoised jointly, and a trial is made every 10 steps, not every step,
with a patience and a mean of 10 trials, which is the same span for a fraction of the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from knitcore.adam import Adam
from knitcore.baselines.common import Clock
from knitcore.baselines.learned import (
    convolution,
    noisy_picture,
    parameter_count,
    plain,
    preview,
    same_padding,
)
from knitcore.events import Event
from knitcore.fit import random_source

STEPS, RATE = 3000, 1e-3
WIDTH, LAYERS = 64, 8
TRIAL_EVERY, PATIENCE = 10, 10


def checkerboard(picture: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two colours of a checkerboard, pushed together along rows, and along columns.

    Parameters
    ----------
    picture : Tensor, shape (1, C, Y, X)
        An odd last row or column is left out.

    Returns
    -------
    list of two pairs of Tensor
        Shapes (1, C, Y, X // 2) and (1, C, Y // 2, X); the first of a pair has the pixels whose row
        and column add up to an even number.
    """
    rows, columns = (n // 2 * 2 for n in picture.shape[-2:])
    picture = picture[..., :rows, :columns]

    def along_rows(of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        even, odd = torch.empty_like(of[..., ::2]), torch.empty_like(of[..., ::2])
        even[..., ::2, :], even[..., 1::2, :] = of[..., ::2, ::2], of[..., 1::2, 1::2]
        odd[..., ::2, :], odd[..., 1::2, :] = of[..., ::2, 1::2], of[..., 1::2, ::2]
        return even, odd

    down = along_rows(picture.transpose(-1, -2))
    return [along_rows(picture), (down[0].transpose(-1, -2), down[1].transpose(-1, -2))]


def network(channels: int, seed: int) -> nn.Sequential:
    """Logits of the clean picture, from the noisy one: (1, C, Y, X) -> (1, C, Y, X)."""
    source = random_source(seed)
    layers: list[nn.Module] = []
    for inputs in (channels, *[WIDTH] * (LAYERS - 1)):
        layers += [same_padding(inputs, WIDTH, 3, source), nn.ReLU()]
    return nn.Sequential(*layers, convolution(WIDTH, channels, 1, source))


def parameters(channels: int = 3) -> int:
    """Trainable numbers."""
    return parameter_count(network(channels, 0))


def denoise_noise2fast_steps(
    image: Any,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    preview_every: int = 0,
) -> Generator[Event, None, np.ndarray]:
    """Learn from the picture's checkerboards until trials stop improving; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    steps : int
        Most steps of Adam; usually it stops by itself before.
    seed : int
    device : str
    preview_every : int
        Yield the mean of the last trials after every so many steps; 0 for never.

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
        Not a picture, or less than 4 pixels a side.
    """
    noisy, scaling = noisy_picture(image, "Noise2Fast", device)
    # cross-entropy wants targets in 0..1, which unclipped noise may leave for 8-bit ranges
    low, span = noisy.min(), (noisy.max() - noisy.min()).clamp_min(1e-12)
    data = (noisy - low) / span
    pairs = [pair for both in checkerboard(data) for pair in (both, both[::-1])]
    net = network(noisy.shape[1], seed).to(noisy.device)
    draw = random_source(seed, "pairs")
    adam, clock = Adam(list(net.parameters())), Clock(steps, "fit Noise2Fast")
    trials: deque[torch.Tensor] = deque(maxlen=PATIENCE)
    best, waited = float("inf"), 0
    for step in range(1, steps + 1):
        source, target = pairs[int(torch.randint(4, (), generator=draw))]
        with torch.enable_grad():
            loss = F.binary_cross_entropy_with_logits(net(source), target)
            adam.clear()
            loss.backward()
        adam.step(RATE)
        if step % TRIAL_EVERY == 0 or step == steps:
            with torch.no_grad():
                trials.append(net(data).sigmoid())
            error = float(F.mse_loss(trials[-1], data))
            best, waited = (error, 0) if error < best else (best, waited + 1)
        if waited > PATIENCE:
            break
        if clock.due(step):
            yield clock.progress(step, pixel=float(loss.detach()))
        if preview_every and step % preview_every == 0 and trials:
            yield preview((torch.stack(list(trials)).mean(0) * span + low)[0], scaling)
    mean = torch.stack(list(trials)).mean(0) * span + low
    yield clock.progress(clock.total)
    return scaling.restore(mean[0].cpu().numpy())


denoise_noise2fast = plain(denoise_noise2fast_steps)
