"""What the learned peers share: seeded layers, lean precision, and pictures on the way."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn

from knitcore.baselines.common import Scaling
from knitcore.errors import InputError
from knitcore.events import Preview


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


def lean(device: torch.device, precision: str) -> AbstractContextManager:
    """Context in which products of matrices are taken in `precision`; weights stay float32.

    Parameters
    ----------
    device : torch.device
    precision : str
        "float32", or "bfloat16": several times faster on processors with matrix units for it.

    Raises
    ------
    InputError
        Another name.
    """
    if precision == "float32":
        return nullcontext()
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    raise InputError(f"precision {precision!r} is unknown; use float32 or bfloat16")


def preview(planes: torch.Tensor, scaling: Scaling) -> Preview:
    """The whole picture as it stands, float32 in grey levels, from planes (C, Y, X)."""
    values = scaling.restore(planes.detach().float().cpu().numpy())
    return Preview(tuple(slice(0, n) for n in values.shape), values)


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
