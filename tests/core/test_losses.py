"""The article's equations on arrays small enough to check by hand."""

import itertools
import math

import pytest
import torch

from knitcore.losses import (
    adversarial_loss,
    consistency_loss,
    degrade_tile,
    discriminator_loss,
    downsampling_loss,
    kernel_loss,
    patch_loss,
    pixel_loss,
)

SCALES = (1, 2)


def patches_of(image: torch.Tensor, scales=SCALES) -> torch.Tensor:
    """Patches that agree with each other: entry (s, k) at x is the image at x + s k (wrapped)."""
    entries = []
    for s in scales:
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                entries.append(torch.roll(image, (-dy * s, -dx * s), (0, 1)))
    stacked = torch.stack(entries, -1).reshape(*image.shape, len(scales), 9, 1)
    return stacked.flatten(0, 1)[None]


def test_patch_loss_counts_valid_entries_only():
    patches = torch.zeros(1, 2, 1, 9, 1)
    reference = torch.ones(1, 2, 1, 9, 1)
    reference[0, 1] = 100.0
    valid = torch.ones(1, 2, 1, 9, 1)
    valid[0, 1] = 0
    assert patch_loss(patches, reference, valid).tolist() == [1.0]


def test_patch_loss_without_any_valid_entry_is_zero():
    nothing = torch.zeros(2, 3, 1, 9, 1)
    assert patch_loss(nothing + 5, nothing, nothing).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("norm", "expected"), [("l1", 2.0), ("l2", 4.0)])
def test_pixel_loss_norms(norm, expected):
    pixels = torch.full((3, 4, 1), 2.0)
    assert (
        pixel_loss(pixels, torch.zeros(1, 4, 1), torch.ones(1, 4, 1), norm).tolist()
        == [expected] * 3
    )


def test_consistency_is_zero_for_patches_of_one_image():
    image = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    assert consistency_loss(patches_of(image), (12, 12), SCALES).abs().max() < 1e-12


def test_consistency_of_one_wrong_entry():
    """One entry off by 1 everywhere: its own term is 1, all others 0; the mean is over 17 terms."""
    image = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    patches = patches_of(image)
    patches[:, :, 1, 3] += 1
    loss = consistency_loss(patches, (12, 12), SCALES)
    assert math.isclose(loss.item(), 1 / 17, rel_tol=1e-5)


@pytest.mark.parametrize("tile", [(12, 12), (3, 5), (2, 7, 6), (9,)])
def test_consistency_is_equation_2_pair_by_pair(tile):
    scales, draw = (1, 2, 4), torch.Generator().manual_seed(4)
    offsets = list(itertools.product((-1, 0, 1), repeat=len(tile)))
    shape = (2, 3, *tile, len(scales), len(offsets), 2)
    patches = torch.rand(shape, generator=draw, requires_grad=True)
    middle, total, terms = len(offsets) // 2, 0.0, 0
    for i, scale in enumerate(scales):
        for k, offset in enumerate(offsets):
            found = []
            for here in itertools.product(*map(range, tile)):
                there = tuple(h + scale * o for h, o in zip(here, offset, strict=True))
                inside = all(0 <= t < n for t, n in zip(there, tile, strict=True))
                if inside and (i, k) != (0, middle):  # a centre at another scale is a pair, too
                    own = patches[:, :, *there, 0, middle]
                    found.append((patches[:, :, *here, i, k] - own) ** 2)
            if found:
                total, terms = total + torch.stack(found, 1).mean((1, 2, 3)), terms + 1
    expected = total / terms
    seen = consistency_loss(patches.flatten(1, 1 + len(tile)), tile, scales)
    torch.testing.assert_close(seen, expected)
    slopes = [torch.autograd.grad(v.sum(), patches, retain_graph=True)[0] for v in (seen, expected)]
    torch.testing.assert_close(*slopes)


def test_consistency_over_passes_equals_the_whole_region():
    """Halo and core weights make the sum over tiles the exact full-batch loss."""
    from knitcore.patches import make_pyramid
    from knitcore.recipe import make_recipe
    from knitcore.tiles import step_batches

    shape = (40, 33)
    generator = torch.Generator().manual_seed(1)
    patches = torch.rand(1, *shape, 2, 9, 1, generator=generator)
    whole = consistency_loss(patches.flatten(1, 2), shape, SCALES)
    recipe = make_recipe(preset="paper", tile=16, scales=SCALES)
    values = torch.zeros(1, *shape).numpy()
    pyramid = make_pyramid(values, values + 1, SCALES, torch.device("cpu"))
    total, share = torch.zeros(1), 0.0
    for batch in next(step_batches(recipe, (16, 16), 2, pyramid, [generator])):
        part = patches[:, batch.position[0, :, 0], batch.position[0, :, 1]]
        total = total + consistency_loss(part, batch.tile, SCALES, batch.core, shape)
        share += batch.share
    assert math.isclose(share, 1, rel_tol=1e-6)
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-6)


def test_members_do_not_influence_each_other():
    generator = torch.Generator().manual_seed(2)
    patches = torch.rand(2, 144, 2, 9, 1, generator=generator)
    both = consistency_loss(patches, (12, 12), SCALES)
    alone = consistency_loss(patches[1:], (12, 12), SCALES)
    torch.testing.assert_close(both[1:], alone)


def test_adversarial_losses_at_an_undecided_discriminator():
    logits = torch.zeros(1, 5, 1)
    assert math.isclose(adversarial_loss(logits).item(), math.log(2), rel_tol=1e-6)
    loss = discriminator_loss(logits, logits, torch.ones(1, 5, 1), 0.1)
    assert math.isclose(loss.item(), 2 * math.log(2), rel_tol=1e-6)


def test_label_smoothing_punishes_certainty():
    sure = torch.full((1, 5, 1), 20.0)
    one = torch.ones(1, 5, 1)
    smoothed = discriminator_loss(sure, -sure, one, 0.1)
    plain = discriminator_loss(sure, -sure, one, 0.0)
    assert smoothed.item() > plain.item() + 1


# super-resolution -------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3])
def test_degrading_a_tile_samples_the_blurred_image(factor):
    side = 2 * factor  # a box of two coarse pixels' width
    kernel = torch.full((1, side, side), 1 / side**2)
    fine = torch.arange(18.0)[None, :, None, None].expand(1, 18, 18, 1)
    found, first = degrade_tile(fine, kernel, (factor, factor), (0, 0))
    assert first == (0, 0)
    rows = torch.arange(found.shape[2]) * factor + (side - 1) / 2
    torch.testing.assert_close(found[0, 0, :, 0], rows)


def test_a_tile_that_begins_later_gives_later_pixels():
    kernel = torch.rand(1, 4, 4)
    fine = torch.rand(1, 20, 20, 1)
    whole, _ = degrade_tile(fine, kernel, (2, 2), (0, 0))
    part, first = degrade_tile(fine[:, 5:], kernel, (2, 2), (5, 0))
    assert first == (3, 0)
    torch.testing.assert_close(part, whole[:, :, 3:])


def test_downsampling_loss_counts_weighted_pixels():
    coarse = torch.ones(1, 2, 3, 3)
    reference = torch.zeros(1, 3, 3)
    weight = torch.zeros(3, 3)
    weight[0] = 1
    assert downsampling_loss(coarse, reference, weight, "l1", 3.0).tolist() == [1.0, 1.0]


def test_kernel_loss_is_zero_for_a_centred_kernel_of_sum_one():
    good = torch.zeros(1, 4, 4)
    good[0, 1:3, 1:3] = 0.25
    assert kernel_loss(good).item() == pytest.approx(0)
    assert kernel_loss(2 * good).item() == pytest.approx(1)
    shifted = torch.roll(good, 1, 2)
    assert kernel_loss(shifted).item() == pytest.approx(1)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_consistency_of_a_volume_thinner_than_the_widest_patch(depth):
    """No two planes are as far apart as the scale, so only pairs within reach count."""
    size = depth * 12 * 12
    scales = (1, 2, 4)
    patches = torch.ones(1, size, len(scales), 27, 1)
    assert consistency_loss(patches, (depth, 12, 12), scales).tolist() == [0.0]
