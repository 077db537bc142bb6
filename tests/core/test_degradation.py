"""Kernels, sampling and its transpose, and the blur read from a real image's spectrum."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_filter
from skimage import data as pictures

from knitcore import spectrum
from knitcore.degradation import (
    checked_kernel,
    collapse_kernel,
    delta_kernel,
    estimate_kernel,
    even_kernel,
    gaussian_kernel,
    kernel_centre,
    kernel_widths,
    output_shape,
    sample_origin,
    starting_kernel,
)
from knitcore.sampling import Degradation, _Axis, back_project, cubic_weights
from knitcore.spectrum import flat_noise

CASES = [
    ((9, 7), (2, 2), "centre", gaussian_kernel((1.6, 1.6), 0, (True, True))),
    ((9, 7), (3, 3), "centre", gaussian_kernel((1.0, 3.6), 45)),
    ((9, 7), (4, 4), "corner", gaussian_kernel((1.4, 4.8), 30)),
    ((9, 7), (1.5, 3.7), "centre", gaussian_kernel((1.2, 2.0))),
    ((9, 7), (2, 1), "centre", delta_kernel((2, 1))),
    ((5, 6, 7), (1, 2, 2), "centre", gaussian_kernel((0, 1.5, 2.0), 0, (False, True, True))),
]


def operator(coarse, scale, anchor, kernel):
    return Degradation(
        kernel, coarse, output_shape(coarse, scale), scale, sample_origin(scale, anchor)
    )


def red_channel():
    return pictures.astronaut()[..., 0].astype(np.float64)


@pytest.mark.parametrize("even", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("sigmas", "angle"), [((1.5, 1.5), 0), ((0.7, 2.4), 45), ((0, 2), 0)])
def test_gaussian_has_sum_1_its_centre_and_its_widths(sigmas, angle, even):
    kernel = gaussian_kernel(sigmas, angle, even)
    assert [n % 2 == 0 for n in kernel.shape] == list(even)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(kernel_centre(kernel), 0, atol=1e-9)
    if min(sigmas):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turn = np.array([[c, s], [-s, c]])
        expected = turn @ np.diag(np.square(sigmas)) @ turn.T
        np.testing.assert_allclose(kernel_widths(kernel), expected, rtol=0.01, atol=0.02)


def test_an_angle_of_45_degrees_is_the_diagonal_of_growing_x_and_y():
    kernel = gaussian_kernel((0.5, 3.0), 45)
    middle = kernel.shape[0] // 2
    assert kernel[middle + 2, middle + 2] > 100 * kernel[middle + 2, middle - 2]


def test_delta_is_one_pixel_or_the_cubic_midpoint():
    assert delta_kernel((3, 3)).shape == (1, 1)
    assert delta_kernel((2, 2), "corner").shape == (1, 1)
    np.testing.assert_allclose(delta_kernel((2, 1))[:, 0], cubic_weights(0.5))
    assert even_kernel(4)
    assert not even_kernel(4, "corner")
    assert not even_kernel(1.5)


@pytest.mark.parametrize(("coarse", "scale", "anchor", "kernel"), CASES)
def test_the_transpose_is_the_transpose(coarse, scale, anchor, kernel):
    degrade = operator(coarse, scale, anchor, kernel)
    draw = torch.Generator().manual_seed(3)
    x = torch.randn((2, *degrade.fine), generator=draw)
    y = torch.randn((2, *coarse), generator=draw)
    there, back = (degrade(x).double() * y).sum(), (x.double() * degrade.transpose(y)).sum()
    assert float(there) == pytest.approx(float(back), abs=1e-4)
    torch.testing.assert_close(degrade(torch.ones_like(x)), torch.ones_like(y))


@pytest.mark.parametrize("scale", [(2, 2), (3, 3), (1.5, 2.5), (4, 1)])
@pytest.mark.parametrize("anchor", ["centre", "corner"])
def test_samples_lie_where_the_geometry_says(scale, anchor):
    """A ramp sampled through any centred kernel is its value at the sample."""
    coarse = (12, 10)
    even = [even_kernel(s, anchor) for s in scale]
    degrade = operator(coarse, scale, anchor, gaussian_kernel((0.8, 0.8), 0, even))
    for axis in (0, 1):
        ramp = np.broadcast_to(
            np.moveaxis(np.arange(degrade.fine[axis])[:, None], 0, axis), degrade.fine
        )
        seen = degrade(torch.tensor(ramp.copy(), dtype=torch.float32)[None])[0].numpy()
        place = np.arange(coarse[axis]) * scale[axis]
        place = place + ((scale[axis] - 1) / 2 if anchor == "centre" else 0)
        line = np.take(seen, 5, 1 - axis)
        np.testing.assert_allclose(line[3:-3], place[3:-3], atol=1e-3)


@given(st.integers(1, 9), st.integers(-24, 4), st.integers(1, 30))
def test_beyond_the_edges_the_image_is_mirrored_however_far(fine, first, length):
    """And what comes back is added up where it came from."""
    last = max(first + length, 1)
    first = min(first, fine - 1)
    axis = _Axis(first, last, fine, 1, None)
    image = torch.arange(2 * fine, dtype=torch.float32).view(2, fine)
    expected = np.pad(image.numpy(), [(0, 0), (40, 40)], "symmetric")[:, 40 + first : 40 + last]
    np.testing.assert_array_equal(axis.mirrored(image, 1), expected)
    # whole numbers, whose sums are exact
    answer = torch.arange(2 * (last - first), dtype=torch.float32).view(2, -1) % 7 - 3
    there = (axis.mirrored(image, 1) * answer).sum()
    assert there == (image * axis.folded(answer, 1)).sum()


def test_blur_and_borders_are_those_of_scipy():
    image = red_channel()[:40, :36]
    kernel = gaussian_kernel((0.7, 2.4), 30)
    degrade = operator((20, 18), (2, 2), "corner", kernel)
    seen = degrade(torch.tensor(image, dtype=torch.float32)[None])[0].numpy()
    np.testing.assert_allclose(seen, convolve(image, kernel, mode="reflect")[::2, ::2], atol=1e-3)


def test_a_tile_is_degraded_as_the_whole():
    image = torch.rand((1, 60, 60), generator=torch.Generator().manual_seed(0))
    kernel = gaussian_kernel((1.2, 1.2), 0, (False, False))
    whole = operator((40, 40), (1.5, 1.5), "centre", kernel)(image)
    origin = [o + 1.5 * 11 - 16 for o in sample_origin((1.5, 1.5))]
    part = Degradation(kernel, (20, 20), (32, 32), (1.5, 1.5), origin)(image[:, 16:48, 16:48])
    torch.testing.assert_close(part[0, 6:-6, 6:-6], whole[0, 17:25, 17:25], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("coarse", "scale", "anchor", "kernel"), CASES)
def test_back_projection_explains_the_data(coarse, scale, anchor, kernel):
    degrade = operator(coarse, scale, anchor, kernel)
    truth = torch.rand((2, *degrade.fine), generator=torch.Generator().manual_seed(1))
    data = degrade(truth)
    found = back_project(degrade, torch.zeros_like(truth), data, 0.0, 30)
    assert float((degrade(found) - data).abs().max()) < 0.01
    again = back_project(degrade, truth, data, 0.0, 5)
    torch.testing.assert_close(again, truth, atol=1e-4, rtol=0)


def test_layers_collapse_to_one_kernel():
    draw = torch.Generator().manual_seed(2)
    layers = [
        torch.randn(shape, generator=draw, requires_grad=True)
        for shape in [(4, 1, 5, 5), (3, 4, 3, 3), (1, 3, 1, 2)]
    ]
    image = torch.randn((1, 1, 20, 20), generator=draw)
    expected = image
    for layer in layers:
        expected = torch.nn.functional.conv2d(expected, layer)
    kernel = collapse_kernel(layers)
    assert kernel.shape == (7, 8)
    torch.testing.assert_close(
        torch.nn.functional.conv2d(image, kernel[None, None]), expected, atol=1e-4, rtol=1e-4
    )
    kernel.sum().backward()
    assert all(layer.grad is not None for layer in layers)


def test_a_given_kernel_is_brought_to_sum_1_and_its_middle():
    kernel = np.zeros((5, 5))
    kernel[2, 4] = 3
    found = checked_kernel(kernel, 2)
    assert found.sum() == 1
    np.testing.assert_allclose(kernel_centre(found), 0, atol=1e-9)
    for wrong in (np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones(3)):
        with pytest.raises(ValueError, match="kernel"):
            checked_kernel(wrong, 2)


def test_choices_by_name():
    image = np.zeros((1, 40, 40))
    kernel, facts = starting_kernel(image, (4, 4), (3.5, 3.5), "gaussian:1.4")
    assert facts["sigmas_output_pixels"] == [1.6, 1.6]  # of the grid that was asked for
    assert kernel.shape[0] % 2 == 0
    kernel, _ = starting_kernel(image, (3, 3), (3, 3), "gaussian:0.7,2.4,45")
    np.testing.assert_allclose(kernel_widths(kernel)[0, 1], (2.4**2 - 0.7**2) / 2, rtol=0.02)
    assert starting_kernel(image, (2, 2), (2, 2), "estimate")[1]["family"] == "delta"


def test_noise_is_seen_and_texture_is_not():
    draw = np.random.default_rng(5)
    noisy = gaussian_filter(red_channel(), 2)[None] + draw.normal(0, 5, (1, 512, 512))
    assert flat_noise(noisy)[1] == pytest.approx(5, rel=0.25)
    assert flat_noise(red_channel()[None, ::2, ::2])[1] < 0.5


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(
    ("family", "sigmas", "angle"),
    [("delta", (0, 0), 0), ("round", (0.8, 0.8), 0), ("oblong", (0.35, 1.2), 45)],
)
def test_the_kernel_is_found_blindly(family, sigmas, angle, scale):
    """Of a real image, eight-bit; sigmas in coarse pixels."""
    image = pictures.astronaut().astype(np.float32).transpose(2, 0, 1)
    true = gaussian_kernel([s * scale for s in sigmas], angle)
    degrade = operator((512 // scale,) * 2, (scale, scale), "corner", true)
    data = degrade(torch.tensor(image)).round().numpy()
    kernel, facts, noise = estimate_kernel(data, (scale, scale), "corner")
    assert facts["family"] == family
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(kernel_centre(kernel), 0, atol=1e-6)
    np.testing.assert_allclose(facts["sigmas_input_pixels"], sigmas, atol=0.15)
    if family == "oblong":
        assert facts["angle"] == pytest.approx(angle, abs=5)
    assert noise < 1


@pytest.mark.parametrize("scale", [(2, 2), (2.5, 1)])
def test_the_fit_of_the_spectrum_goes_down_its_true_slope(scale, monkeypatch):
    apart = []
    minimize = spectrum.minimize

    def checked(cost, start, **options):
        at = start + np.random.default_rng(0).normal(0, 0.05, len(start))
        steps = 1e-6 * np.eye(len(at))
        seen = np.array([(cost(at + step)[0] - cost(at - step)[0]) / 2e-6 for step in steps])
        apart.append(np.abs(cost(at)[1] - seen).max() / np.abs(seen).max())
        return minimize(cost, start, **options)

    monkeypatch.setattr(spectrum, "minimize", checked)
    image = pictures.astronaut()[::2, ::2].astype(np.float32).transpose(2, 0, 1)
    estimate_kernel(image, scale)
    assert len(apart) > 3
    assert max(apart) < 1e-6
