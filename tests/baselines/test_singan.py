"""SinGAN, written from its paper: what would break if a part of it were wrong."""

import math
import threading

import numpy as np
import pytest
import torch

from knitcore import Cancelled, InputError, psnr
from knitcore.baselines import singan
from knitcore.events import drain


@pytest.fixture(scope="module")
def picture():
    """A disc and a slope, 33 x 36, RGB: two scales."""
    y, x = np.mgrid[:33, :36]
    disc = (y - 16) ** 2 + (x - 14) ** 2 < 70
    return np.uint8(np.stack([60 + 4 * x, 200 - 3 * y, 90 + 100 * disc], -1))


def trained(picture, steps, seed=0):
    planes = np.moveaxis(picture, -1, 0).astype(np.float32) / 255
    known = np.ones(planes.shape[1:], bool)
    return drain(singan.train_steps(planes, known, weight=10.0, steps=steps, seed=seed))


@pytest.fixture(scope="module")
def model(picture):
    return trained(picture, 40)


def test_a_score_belongs_to_one_patch_of_11_pixels():
    source = torch.Generator().manual_seed(0)
    critic = singan.conv_blocks(8, 3, 1, source)
    assert critic(torch.rand(1, 3, 30, 30)).shape[-2:] == (20, 20)
    for layer in critic:  # its statistics, but not its reach, go over the whole picture
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.forward = lambda x: x
    place = torch.rand(1, 3, 30, 30, requires_grad=True)
    critic(place)[0, 0, 10, 10].backward()
    touched = place.grad.abs().sum((0, 1)) > 0
    rows, columns = (torch.nonzero(touched.any(axis)).flatten().tolist() for axis in (1, 0))
    assert (rows[0], rows[-1]) == (columns[0], columns[-1]) == (10, 20)


def test_the_reconstruction_path_returns_the_picture_the_better_the_longer(picture, model):
    def quality(of):
        drawn = (singan.reconstruct(of)[0] + 1).numpy() * 127.5
        return psnr(np.moveaxis(drawn, 0, -1), picture, data_range=255)

    assert quality(model) > quality(trained(picture, 4)) + 3
    assert quality(model) > 20


def test_samples_of_the_coarsest_scale_differ_and_the_reconstruction_does_not(model):
    one, other = (singan.sample(model, scales=1) for _ in range(2))
    assert one.shape[-2:] == model.shapes[0]
    assert (one - other).abs().mean() > 0.01
    assert torch.equal(singan.reconstruct(model), singan.reconstruct(model))


def test_seeds_differ_and_one_seed_repeats(picture):
    first, again, other = (trained(picture, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(singan.reconstruct(first), singan.reconstruct(again))
    assert not torch.equal(first.start, other.start)


def test_the_noise_of_a_scale_is_a_tenth_of_what_is_missing(picture, model):
    assert model.amplitudes[0] == 1
    real = torch.tensor(np.moveaxis(picture, -1, 0)[None] / 127.5 - 1, dtype=torch.float32)
    before = singan.resize(model.reconstructions[0], model.shapes[1])
    missing = math.sqrt(float(((before - real) ** 2).mean()))
    assert model.amplitudes[1] == pytest.approx(0.1 * missing, rel=1e-4)


def test_the_gradient_penalty_of_a_linear_critic_is_known_by_hand():
    def critic(x):  # gradient (3, 4) over the channels of each pixel: norm 5
        return 3 * x[:, :1] + 4 * x[:, 1:]

    real, fake = torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
    penalty = singan.gradient_penalty(critic, real, fake, torch.tensor(0.3))
    assert float(penalty) == pytest.approx((5 - 1) ** 2)


@pytest.mark.parametrize(
    ("shape", "scales"), [((25, 25), 1), ((33, 36), 2), ((96, 96), 6), ((250, 188), 8)]
)
def test_the_coarsest_side_is_about_25_and_the_finest_the_picture(shape, scales):
    shapes = singan.pyramid_shapes(shape)
    assert len(shapes) == scales
    assert min(shapes[0]) == 25
    assert shapes[-1] == shape


def test_the_parameter_count_is_that_of_the_networks_and_the_articles(model):
    counted = sum(p.numel() for g in model.generators for p in g.parameters())
    assert counted == singan.parameter_count(len(model.generators))
    # the article's 2,381 K are twelve scales of generators
    assert singan.parameter_count(12) == 2_381_604


def test_hidden_pixels_have_no_influence(picture):
    mask = np.zeros(picture.shape[:2], bool)
    mask[10:18, 8:17] = True
    other = picture.copy()
    other[mask] = 255 - other[mask]
    one, two = (singan.inpaint_singan(image, mask, steps=2) for image in (picture, other))
    assert one.shape == picture.shape
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("scale", "shape"), [(2, (50, 54)), (1.5, (38, 41))])
def test_super_resolution_has_the_size_asked_for(scale, shape):
    coarse = np.random.default_rng(0).integers(0, 60000, (25, 27)).astype(np.uint16)
    large = singan.super_resolve_singan(coarse, scale, steps=1)
    assert large.shape == shape


def test_cancel_ends_it_and_too_small_a_picture_is_told(picture):
    stop = threading.Event()
    stop.set()
    mask = np.zeros(picture.shape[:2], bool)
    mask[4, 4] = True
    with pytest.raises(Cancelled):
        singan.inpaint_singan(picture, mask, cancel=stop)
    with pytest.raises(InputError, match="too small"):
        singan.super_resolve_singan(picture[:8, :8], 2)


def test_it_reports_within_an_iteration_which_may_last_seconds(picture, monkeypatch):
    monkeypatch.setattr("knitcore.baselines.common.EVENT_SECONDS", 0.0)
    planes = np.moveaxis(picture, -1, 0).astype(np.float32) / 255
    known = np.ones(planes.shape[1:], bool)
    events = list(singan.train_steps(planes, known, weight=10.0, steps=2))
    # two scales, two iterations each, three turns of either network
    assert [e.fraction for e in events] == pytest.approx(np.arange(1, 25) / 24)
    assert set(events[-1].losses) == {"critic", "reconstruction"}
