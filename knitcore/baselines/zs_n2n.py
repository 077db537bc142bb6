"""ZS-N2N: a tiny network learns from two halves of one noisy picture.

Mansour and Heckel, Zero-shot Noise2Noise: efficient image denoising without any data, CVPR 2023. Two
fixed filters make two half-size pictures of the means of the diagonals of each 2 x 2 block; their noise
is independent where the picture's is. A network of 3 x 3 convolutions (48 channels, 22,275 parameters in
colour) predicts the noise of one half by the other, and the predictions of the halves must agree with the
halves of the prediction. Adam at 1e-3, halved every 1000 of 2000 steps.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from knitcore.adam import Adam
from knitcore.baselines.common import Clock
from knitcore.baselines.learned import noisy_picture, parameter_count, plain, preview, same_padding
from knitcore.events import Event
from knitcore.fit import random_source

STEPS, RATE, HALVED_EVERY = 2000, 1e-3, 1000
WIDTH, SLOPE = 48, 0.2


def pair_downsample(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the anti-diagonal and of the diagonal of each 2 x 2 block.

    Parameters
    ----------
    picture : Tensor, shape (1, C, Y, X)
        An odd last row or column is left out.

    Returns
    -------
    tuple of Tensor, shape (1, C, Y // 2, X // 2)
    """
    rows, columns = (n // 2 * 2 for n in picture.shape[-2:])
    even, odd = picture[..., 0:rows:2, :columns], picture[..., 1:rows:2, :columns]
    anti = (even[..., 1::2] + odd[..., 0::2]) / 2
    main = (even[..., 0::2] + odd[..., 1::2]) / 2
    return anti, main


def network(channels: int, seed: int) -> nn.Sequential:
    """The noise of a picture, from the picture: (1, C, Y, X) -> (1, C, Y, X)."""
    source = random_source(seed)
    layers: list[nn.Module] = []
    for inputs, outputs, size in ((channels, WIDTH, 3), (WIDTH, WIDTH, 3), (WIDTH, channels, 1)):
        layers += [same_padding(inputs, outputs, size, source), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


def parameters(channels: int = 3) -> int:
    """Trainable numbers: 22,275 in colour."""
    return parameter_count(network(channels, 0))


def denoise_zs_n2n_steps(
    image: Any,
    *,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    preview_every: int = 0,
) -> Generator[Event, None, np.ndarray]:
    """Learn the noise from the picture's two halves and take it away; a generator of events.

    Parameters
    ----------
    image : array-like, shape (Y, X) or (Y, X, C), real
    steps : int
        Steps of Adam, over the whole picture each.
    seed : int
    device : str
    preview_every : int
        Yield the whole result after every so many steps; 0 for never.

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
    noisy, scaling = noisy_picture(image, "ZS-N2N", device)
    net = network(noisy.shape[1], seed).to(noisy.device)
    halves = pair_downsample(noisy)
    adam, clock = Adam(list(net.parameters())), Clock(steps, "fit ZS-N2N")
    for step in range(1, steps + 1):
        with torch.enable_grad():
            clean = [half - net(half) for half in halves]
            wholes = pair_downsample(noisy - net(noisy))
            residual = (F.mse_loss(clean[0], halves[1]) + F.mse_loss(clean[1], halves[0])) / 2
            agreement = sum(F.mse_loss(a, b) for a, b in zip(clean, wholes, strict=True)) / 2
            loss = residual + agreement
            adam.clear()
            loss.backward()
        adam.step(RATE * 0.5 ** ((step - 1) // HALVED_EVERY))
        if clock.due(step):
            yield clock.progress(step, residual=float(residual.detach()))
        if preview_every and step % preview_every == 0:
            with torch.no_grad():
                yield preview((noisy - net(noisy))[0], scaling)
    with torch.no_grad():
        return scaling.restore((noisy - net(noisy))[0].cpu().numpy())


denoise_zs_n2n = plain(denoise_zs_n2n_steps)
