"""The optimiser against the library's."""

import sys

import torch

from knitcore.adam import Adam


def test_adam_takes_the_librarys_steps():
    start = torch.linspace(-1, 1, 12).reshape(3, 4)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = Adam([ours], beta2=0.99)
    other = torch.optim.Adam([theirs], betas=(0.9, 0.99))
    for step in range(20):
        rate = 0.1 / (1 + step)
        for parameter in (ours, theirs):
            parameter.grad = None
            ((parameter - torch.arange(4.0)) ** 4).sum().backward()
        mine.step(rate)
        other.param_groups[0]["lr"] = rate
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_a_gradient_stays():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimiser = Adam([parameter])
    optimiser.clear()
    optimiser.step(0.1)
    assert parameter.tolist() == [1, 1, 1]


def test_a_fit_does_not_import_the_compiler():
    """The reason for an Adam of our own: remove both together."""
    import subprocess

    code = """if True:
        import sys
        import numpy as np
        import knitcore as knit
        mask = np.zeros((40, 40), bool)
        mask[8:30, 8:30] = True
        image = np.random.default_rng(0).random((40, 40))
        knit.inpaint(image, mask, steps=2, ensemble=2)
        assert "torch" in sys.modules
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
