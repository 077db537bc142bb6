"""Adam (Kingma and Ba 2015, algorithm 1) on a list of tensors.

`torch.optim.Adam` gives the same numbers (a test compares them), but making one imports torch's
compiler: 1.7 s, as long as the fit of a small hole takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Adam:
    """Parameters and the running moments of their gradients.

    Parameters
    ----------
    parameters : list of Tensor
        Leaves that require a gradient; they are changed in place.
    beta1, beta2 : float
        Decay of the mean and of the mean square.
    """

    def __init__(
        self, parameters: Sequence[torch.Tensor], beta1: float = 0.9, beta2: float = 0.999
    ) -> None:
        self.parameters = list(parameters)
        self.beta1, self.beta2, self.steps = beta1, beta2, 0
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters against their gradients.

        Parameters
        ----------
        rate : float
            Learning rate of this step.
        """
        self.steps += 1
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch._foreach_lerp_(self.mean, gradients, 1 - self.beta1)
        torch._foreach_mul_(self.square, self.beta2)
        torch._foreach_addcmul_(self.square, gradients, gradients, 1 - self.beta2)
        scale = torch._foreach_sqrt(self.square)
        torch._foreach_div_(scale, (1 - self.beta2**self.steps) ** 0.5)
        torch._foreach_add_(scale, 1e-8)
        torch._foreach_addcdiv_(
            self.parameters, self.mean, scale, -rate / (1 - self.beta1**self.steps)
        )
