"""The fast super-resolver: blind on a real image, exact where the answer is known, and its promise."""

import numpy as np
import pytest
import torch
from skimage import data as pictures

from knitcore.degradation import (
    delta_kernel,
    even_kernel,
    gaussian_kernel,
    output_shape,
    sample_origin,
)
from knitcore.events import Stage
from knitcore.recipe import make_recipe
from knitcore.sampling import Degradation, enlarge
from knitcore.upscaling import consistency, least_variation, upscale_steps

CPU = torch.device("cpu")


def photograph(side=128, top=60, left=150):
    """Part of a face, (C, Y, X)."""
    part = pictures.astronaut()[top : top + side, left : left + side]
    return part.astype(np.float32).transpose(2, 0, 1).copy()


def degraded(truth, kernel, scale, anchor="centre"):
    coarse = [round(n / s) for n, s in zip(truth.shape[1:], scale, strict=True)]
    degrade = Degradation(kernel, coarse, truth.shape[1:], scale, sample_origin(scale, anchor))
    return degrade(torch.tensor(truth)).numpy().round().clip(0, 255)


def upscale(values, scale, kernel="estimate", joint=True, cores=1, **fields):
    steps = upscale_steps(
        np.asarray(values, np.float32),
        scale,
        kernel,
        make_recipe("super-resolve", **fields),
        CPU,
        "",
        joint,
        cores,
    )
    seen = []
    try:
        while True:
            seen.append(next(steps))
    except StopIteration as end:
        return end.value, seen


def cubic(values, fine, scale, anchor="centre"):
    found = enlarge(torch.tensor(values), fine, scale, sample_origin(scale, anchor))
    return found.numpy()


def psnr(image, truth):
    return 10 * np.log10(255**2 / np.square(np.clip(image, 0, 255) - truth).mean())


@pytest.mark.parametrize("anchor", ["centre", "corner"])
def test_a_blurred_image_is_restored_blindly(anchor):
    truth = photograph()
    even = [even_kernel(2, anchor)] * 2
    data = degraded(truth, gaussian_kernel((1.6, 1.6), 0, even), (2, 2), anchor)
    done, seen = upscale(data, (2, 2), anchor=anchor)
    assert psnr(done.image, truth) > psnr(cubic(data, (128, 128), (2, 2), anchor), truth) + 4
    assert done.kernel_parameters["family"] == "round"
    assert done.kernel_parameters["sigmas_output_pixels"] == pytest.approx([1.6, 1.6], abs=0.25)
    assert done.kernel.sum() == pytest.approx(1, abs=1e-6)
    assert [n % 2 == 0 for n in done.kernel.shape] == even
    assert done.residual.max() < 0.5
    assert done.noise < 0.6
    assert all(isinstance(stage, Stage) for stage in seen)
    assert [stage.done for stage in seen] == sorted(stage.done for stage in seen)
    assert any(s.values is not None and s.values.shape == truth.shape for s in seen)
    again, _ = upscale(data, (2, 2), anchor=anchor)
    np.testing.assert_array_equal(again.image, done.image)


def test_a_decimated_image_is_not_deblurred():
    truth = photograph()
    data = degraded(truth, delta_kernel((2, 2), "corner"), (2, 2), "corner")
    done, _ = upscale(data, (2, 2), anchor="corner")
    assert done.kernel_parameters["family"] == "delta"
    assert done.kernel.shape == (1, 1)
    assert psnr(done.image, truth) > psnr(cubic(data, (128, 128), (2, 2), "corner"), truth)
    np.testing.assert_allclose(done.image[:, ::2, ::2], data, atol=1)


def test_an_estimated_kernel_given_as_an_array_does_the_same():
    truth = photograph(96)
    for kernel in (delta_kernel((2, 2)), gaussian_kernel((1.6, 1.6), 0, (True, True))):
        data = degraded(truth, kernel, (2, 2))
        first, _ = upscale(data, (2, 2), passes=2)
        second, _ = upscale(data, (2, 2), first.kernel, passes=2)
        np.testing.assert_allclose(second.image, first.image, atol=1e-2)
        assert second.noise == first.noise


def test_noise_is_not_amplified():
    truth = photograph(192)
    data = degraded(truth, gaussian_kernel((1.6, 1.6), 0, (True, True)), (2, 2))
    data = data + np.random.default_rng(0).normal(0, 5, data.shape).astype(np.float32)
    done, _ = upscale(data, (2, 2))
    assert done.noise == pytest.approx(5, rel=0.2)
    assert psnr(done.image, truth) > psnr(cubic(data, (192, 192), (2, 2)), truth) + 1
    assert done.residual.max() < 1.2 * 5


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((1, 8, 9), (2, 2)),
        ((2, 4, 5), (3, 3)),
        ((1, 20, 24), (1.5, 3.7)),
        ((1, 20, 24), (2, 1)),
        ((1, 20, 24), (1, 1)),
        ((1, 5, 12, 14), (2, 1, 1)),
        ((2, 5, 12, 14), (1, 2, 2)),
    ],
)
@pytest.mark.parametrize("kernel", ["estimate", "gaussian:0.8"])
def test_any_factors_give_back_the_input(shape, scale, kernel):
    start = 60
    volume = np.stack([photograph(64, start + z)[: shape[0]] for z in range(6)], 1)
    values = volume[:, : shape[1], : shape[2], : shape[3]] if len(shape) == 4 else volume[:, 0]
    values = values[:, : shape[1], : shape[2]].round()
    done, _ = upscale(values, scale, kernel, joint=False, passes=2)
    fine = output_shape(shape[1:], scale)
    assert done.image.shape == done.std.shape == (shape[0], *fine)
    assert np.isfinite(done.image).all()
    assert (done.std >= 0).all()
    assert done.residual.max() < 1.5
    np.testing.assert_allclose(
        done.residual, consistency(values, done.image, done.kernel, scale), atol=1e-4
    )


@pytest.mark.parametrize("kernel", ["estimate", "delta", "gaussian:1.6"])
def test_a_flat_image_stays_flat(kernel):
    done, _ = upscale(np.full((1, 40, 40), 7.0), (2, 2), kernel)
    np.testing.assert_allclose(done.image, 7, atol=1e-3)


def test_a_ramp_is_enlarged_to_a_ramp():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32) * 5, (1, 40, 40))
    for kernel in ("delta", "gaussian:1"):
        done, _ = upscale(ramp, (3, 3), kernel)
        place = (np.arange(120) + 0.5) / 3 - 0.5
        inside = done.image[0, 30:-30, 30:-30]
        # a bare ramp leaves the learned filters free: what remains differs between processors
        np.testing.assert_allclose(
            inside, np.broadcast_to(place * 5, (120, 120))[30:-30, 30:-30], atol=0.75
        )


def test_a_hot_pixel_stays_where_it_is():
    values = photograph(96)[:1]
    spoiled = values.copy()
    spoiled[0, 48, 48] = 60000
    clean, _ = upscale(values, (2, 2), passes=2)
    done, _ = upscale(spoiled, (2, 2), passes=2)
    assert done.kernel_parameters["family"] == clean.kernel_parameters["family"]
    far = np.ones((192, 192), bool)
    far[70:126, 70:126] = False
    assert np.abs(done.image[0] - clean.image[0])[far].mean() < 1


def test_scale_of_the_grey_levels_changes_nothing():
    values = photograph(64)
    done, _ = upscale(values, (2, 2), "gaussian:1.6", passes=2)
    other, _ = upscale(values * 200 + 1000, (2, 2), "gaussian:1.6", passes=2)
    np.testing.assert_allclose((other.image - 1000) / 200, done.image, atol=0.3)


def test_blocks_meet_without_a_seam():
    truth = photograph(192, 40, 120)
    data = degraded(truth, gaussian_kernel((1.6, 1.6), 0, (True, True)), (2, 2))[:1]
    whole, _ = upscale(data, (2, 2), "gaussian:1.6", passes=2)
    parts, _ = upscale(data, (2, 2), "gaussian:1.6", passes=2, block=48)
    error = np.abs(parts.image - whole.image)
    assert error[:, 94:98].mean() < 1.5 * error.mean() + 0.1
    assert np.square(error).mean() < 0.1 * np.square(whole.image - truth[:1]).mean()


def test_the_image_of_least_variation_keeps_an_edge():
    edge = torch.zeros((1, 32, 32))
    edge[..., 16:] = 100
    kernel = gaussian_kernel((1.6, 1.6), 0, (True, True))
    degrade = Degradation(kernel, (16, 16), (32, 32), (2, 2), sample_origin((2, 2)))
    data = degrade(edge)
    image = enlarge(data, (32, 32), (2, 2), sample_origin((2, 2)))
    before = float((image - edge).square().mean())
    *_, (_, image) = least_variation(degrade, data, image, 0.01)
    assert float((image - edge).square().mean()) < 0.05 * before


def test_expected_error_is_of_the_size_of_the_error():
    truth = photograph()
    data = degraded(truth, gaussian_kernel((1.6, 1.6), 0, (True, True)), (2, 2))
    done, _ = upscale(data, (2, 2))
    error = np.abs(done.image - truth)
    assert 0.4 < np.sqrt(np.square(error).mean() / np.square(done.std).mean()) < 2.5
    large = done.std > np.median(done.std)
    assert error[large].mean() > 1.5 * error[~large].mean()


def test_two_cores_give_the_pixels_of_one():
    image = photograph(48)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (one, _), (two, _) = (upscale(image, (2, 2), cores=cores, passes=2) for cores in (1, 2))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.std, two.std)


def test_more_rounds_are_nearer_to_the_truth():
    """The preset `quality` has more than twice as many."""
    truth = photograph()
    seen = degraded(truth, gaussian_kernel((1.6, 1.6), 0, (True, True)), (2, 2))
    rounds = [make_recipe("super-resolve", preset=name).passes for name in ("fast", "quality")]
    few, many = (psnr(upscale(seen, (2, 2), passes=n)[0].image, truth) for n in rounds)
    assert rounds == [8, 20]
    assert many > few + 0.02
