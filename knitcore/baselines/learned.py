"""What the learned peers share: seeded layers, and pictures on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from torch import nn

from knitcore.baselines.common import Scaling, to_planes
from knitcore.device import choose_device
from knitcore.errors import InputError
from knitcore.events import CancelToken, Event, Preview, drain, until_cancelled


def convolution(
    inputs: int, outputs: int, size: int, generator: torch.Generator, stride: int = 1
) -> nn.Conv2d:
    """A convolution with bias, drawn as torch draws its own but from the given generator.

    Weights and biases are uniform up to one over the root of the number of inputs of an output.
    Nothing is padded. The global random state is neither read nor moved.
    """
    layer = torch.nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, stride=stride)
    reach = 1 / math.sqrt(inputs * size**2)
    with torch.no_grad():
        for values in layer.parameters():
            values.uniform_(-reach, reach, generator=generator)
    return layer


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(values.numel() for values in network.parameters() if values.requires_grad)


def preview(planes: torch.Tensor, scaling: Scaling) -> Preview:
    """The whole picture as it stands, float32 in grey levels, from planes (C, Y, X)."""
    values = scaling.restore(planes.detach().float().cpu().numpy())
    return Preview(tuple(slice(0, n) for n in values.shape), values)


def same_padding(inputs: int, outputs: int, size: int, source: torch.Generator) -> nn.Conv2d:
    """A `convolution` that keeps rows and columns: zeros are added outside."""
    layer = convolution(inputs, outputs, size, source)
    layer.padding = (size // 2, size // 2)
    return layer


def noisy_picture(image: Any, title: str, device: str) -> tuple[torch.Tensor, Scaling]:
    """A noisy picture (1, C, Y, X) on its device, and the way back, for methods that halve it.

    Raises
    ------
    InputError
        Not a picture, or less than 4 pixels a side.
    """
    planes, scaling = to_planes(image)
    if min(planes.shape[1:]) < 4:
        raise InputError(
            f"a picture of {planes.shape[1]} x {planes.shape[2]} is too small for {title}"
        )
    return torch.tensor(planes[None], device=choose_device(device)), scaling


def checked_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Known pixels (Y, X), of a mask that is True where pixels are missing.

    Raises
    ------
    InputError
        The mask has not the picture's rows and columns.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != image.shape[:2]:
        raise InputError(f"the mask is {mask.shape}, the picture {image.shape[:2]} (Y, X)")
    return ~mask


def plain(steps: Callable[..., Generator[Event, None, np.ndarray]]) -> Callable[..., np.ndarray]:
    """The plain function of a generator of events: it runs to the end and returns the picture.

    Parameters
    ----------
    steps : callable
        Named ``..._steps``.

    Returns
    -------
    callable
        With the arguments of `steps` and two more: ``on_event``, called with each event, and
        ``cancel``, an object with ``is_set()``.
    """

    def run(
        *told: Any,
        on_event: Callable[[Event], Any] | None = None,
        cancel: CancelToken | None = None,
        **settings: Any,
    ) -> np.ndarray:
        return drain(until_cancelled(steps(*told, **settings), cancel), on_event)

    name = steps.__name__
    run.__name__ = run.__qualname__ = name.removesuffix("_steps")
    run.__module__ = steps.__module__
    run.__doc__ = f"Run `{name}` to its end; its arguments, and `on_event` and `cancel`."
    return run
