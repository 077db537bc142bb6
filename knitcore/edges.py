"""Where a noisy picture has edges, and where texture or nothing: they ask for different last passes.

At a strong edge, and wherever much noise is left, a further patch posterior still takes noise away;
texture it smooths, and there larger patches are nearer to the truth. Which of both a pixel needs is told
by the slopes round it and by the variance that is left, in units of the noise: bounds chosen on Set5 with
noise of 20 and 40 grey levels, whole and reduced to 96 pixels; the same hold on Set14.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from knitcore.noise_model import Noise

REACH = 2.0  # pixels: standard deviation of the neighbourhood whose slopes count
FAINT, STEEP = 0.06, 0.16  # squared slope, a pixel, over the noise's variance: no edge, an edge
LITTLE, MUCH = 0.055, 0.075  # of the noise's variance left


def edge_share(clean: torch.Tensor, variance: torch.Tensor, noise: Noise) -> torch.Tensor:
    """How far each pixel lies at an edge, or amid noise that is left.

    Parameters
    ----------
    clean, variance : Tensor, shape (C, Z, Y, X)
        A denoised image and its posterior variance; the channels' means count.
    noise : Noise

    Returns
    -------
    Tensor, shape (Z, Y, X)
        0 to 1: the larger of two, along the logarithm of the squared slope from `FAINT` to `STEEP`, and
        along the variance left from `LITTLE` to `MUCH`.
    """
    level = noise.variance(clean).mean(0)
    down, along = torch.gradient(clean.mean(0), dim=(1, 2))
    power = _blur((down.square_() + along.square_()).div_(level)).clamp_min_(1e-12)
    edge = power.div_(FAINT).log_().div_(math.log(STEEP / FAINT))
    left = variance.mean(0).div_(level).sub_(LITTLE).div_(MUCH - LITTLE)
    return edge.maximum(left).clamp_(0, 1)


def _blur(planes: torch.Tensor) -> torch.Tensor:
    """Gaussian mean of the surroundings, (Z, Y, X); beyond the border its pixels go on."""
    radius = math.ceil(3 * REACH)
    at = torch.arange(-radius, radius + 1, device=planes.device) / REACH
    line = (-at.square() / 2).exp()
    line = (line / line.sum()).to(planes.dtype)
    padded = F.pad(planes[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))[:, 0]
