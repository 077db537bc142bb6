"""Networks with a leading ensemble axis."""

import numpy as np
import torch

from knitcore.networks import (
    DegradationKernel,
    Discriminator,
    EnsembleLinear,
    FourierFeatures,
    PatchMLP,
    Reconstructor,
    patch_centre,
)


def generators(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def knit(*seeds, sigmoid=False, residual=True):
    encoding = FourierFeatures(generators(*seeds), 2, 8, [0.1] * len(seeds))
    patch_mlp = PatchMLP(generators(*seeds), encoding, 16, 2, (2, 9, 3), sigmoid)
    return patch_mlp, Reconstructor(generators(*seeds), (2, 9, 3), 16, 1, residual, sigmoid)


def test_shapes():
    patch_mlp, reconstructor = knit(0, 1, 2)
    patches = patch_mlp(torch.rand(10, 2))
    assert patches.shape == (3, 10, 2, 9, 3)
    assert reconstructor(patches).shape == (3, 10, 3)
    assert Discriminator(generators(0, 1, 2), (2, 9, 3), 16)(patches).shape == (3, 10, 1)
    assert patch_centre(patches).shape == (3, 10, 3)


def test_a_member_does_not_depend_on_its_companions():
    x = torch.rand(10, 2)
    together = knit(4, 5)[0](x)
    alone = knit(5)[0](x)
    torch.testing.assert_close(together[1:], alone)


def test_ensemble_linear_is_a_loop_of_linear_layers():
    layer = EnsembleLinear(generators(0, 1), 4, 3)
    x = torch.rand(2, 5, 4)
    for e in range(2):
        torch.testing.assert_close(layer(x)[e], x[e] @ layer.weight[e] + layer.bias[e])


def test_fourier_features_are_sines_and_cosines_of_the_phase():
    encoding = FourierFeatures(generators(0), 2, 8, [0.1])
    x = torch.rand(5, 2)
    found = encoding(x)[0]
    torch.testing.assert_close(found[:, :8] ** 2 + found[:, 8:] ** 2, torch.ones(5, 8))
    torch.testing.assert_close(found[:, :8], torch.sin(x @ encoding.frequencies[0]))


def test_directed_features_vary_across_the_direction_only():
    """A metric that ignores the y axis gives features constant along y."""
    flat = torch.from_numpy(np.diag([0.0, 1.0])).float()
    encoding = FourierFeatures(generators(0), 2, 8, [0.1], [[(flat, 1.0)]])
    found = encoding(torch.tensor([[0.0, 3.0], [7.0, 3.0], [0.0, 4.0]]))[0]
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - found[2]).abs().max() > 0.01


def test_sigmoid_output_stays_between_zero_and_one():
    patch_mlp, reconstructor = knit(0, sigmoid=True, residual=False)
    patches = patch_mlp(1e3 * torch.rand(50, 2))
    assert patches.min() >= 0
    assert patches.max() <= 1
    assert reconstructor(patches).min() >= 0


def test_a_deep_linear_network_starts_at_its_kernel():
    x = torch.arange(12.0) - 5.5
    start = torch.exp(-(x[:, None] ** 2 + x**2) / 4)
    start /= start.sum()
    network = DegradationKernel(generators(0, 1), start, 3, 8)
    found = network()
    assert found.shape == (2, 12, 12)
    assert len(network.weights) == 3
    torch.testing.assert_close(found[0], start, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2), atol=0.02, rtol=0)
    found.sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in network.weights)


def test_a_small_kernel_gets_fewer_layers():
    assert DegradationKernel(generators(0), torch.ones(2, 2) / 4, 3, 8)().shape == (1, 2, 2)
    assert DegradationKernel(generators(0), torch.ones(1, 5) / 5, 3, 8)().shape == (1, 1, 5)
