"""Multi-scale patches: exact answers on small arrays."""

import numpy as np
import torch

from knitcore.patches import blur_known, gather_patches, make_pyramid, patch_offsets

CPU = torch.device("cpu")


def pyramid_of(values, weight, scales):
    return make_pyramid(values.astype(np.float32), weight.astype(np.float32), scales, CPU)


def test_patch_of_a_ramp_is_the_ramp_shifted():
    values = np.arange(49.0).reshape(1, 7, 7)
    pyramid = pyramid_of(values, np.ones_like(values), (1,))
    patches, valid = gather_patches(pyramid, pyramid.index(torch.tensor([[[3, 3]]])))
    assert patches.shape == (1, 1, 1, 9, 1)
    assert patches[0, 0, 0, :, 0].tolist() == [16, 17, 18, 23, 24, 25, 30, 31, 32]
    assert valid.min() == 1


def test_entries_beyond_the_border_and_in_the_hole_do_not_count():
    values = np.ones((1, 6, 6))
    weight = np.ones_like(values)
    weight[0, 1, 1] = 0
    pyramid = pyramid_of(values, weight, (1, 2))
    _, valid = gather_patches(pyramid, pyramid.index(torch.tensor([[[0, 0]]])))
    assert valid[0, 0, 0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 1, 0]
    assert valid[0, 0, 1, :, 0].tolist()[:4] == [0, 0, 0, 0]


def test_scale_two_samples_the_blurred_image_two_pixels_apart():
    values = np.random.default_rng(0).normal(size=(1, 9, 9))
    weight = np.ones_like(values)
    pyramid = pyramid_of(values, weight, (1, 2))
    patches, _ = gather_patches(pyramid, pyramid.index(torch.tensor([[[4, 4]]])))
    blurred, share = blur_known(values, weight > 0, 1.0)
    np.testing.assert_allclose(share, 1, atol=1e-5)
    np.testing.assert_allclose(
        patches[0, 0, 1, :, 0].numpy(), blurred[0, 2:7:2, 2:7:2].ravel(), rtol=1e-5
    )


def test_blur_ignores_unknown_values():
    values = np.ones((1, 9, 9))
    known = np.ones(values.shape, bool)
    known[0, 4, 4] = False
    values[0, 4, 4] = 1e6
    np.testing.assert_allclose(blur_known(values, known, 1.0)[0], 1, rtol=1e-5)


def test_three_dimensional_patches_have_27_entries():
    assert patch_offsets(3).shape == (27, 3)
    assert patch_offsets(3)[13].tolist() == [0, 0, 0]
    values = np.arange(125.0).reshape(1, 5, 5, 5)
    pyramid = pyramid_of(values, np.ones_like(values), (1,))
    patches, _ = gather_patches(pyramid, pyramid.index(torch.tensor([[[2, 2, 2]]])))
    np.testing.assert_array_equal(patches[0, 0, 0, :, 0].numpy(), values[0, 1:4, 1:4, 1:4].ravel())
