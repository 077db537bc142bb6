"""Noise estimates: right where the law is known, none where there is no noise."""

import numpy as np
import pytest
import torch

from knitcore.fit import random_source
from knitcore.noise import (
    Noise,
    autocorrelation,
    cosines,
    draw_blocks,
    estimate_noise,
    given_noise,
    grey_step,
    line_covariance,
    line_of,
)


def scene(side=160):
    """A smooth picture with edges, 40 to 210."""
    y, x = np.mgrid[:side, :side] / side
    waves = 125 + 50 * np.sin(7 * x + 3 * y) + 25 * np.cos(11 * y)
    return waves + 10.0 * (np.hypot(x - 0.5, y - 0.4) < 0.2)


def estimate(values, kind="auto", step=0.0):
    tensor = torch.tensor(np.asarray(values), dtype=torch.float32)
    tensor = tensor.reshape(1, 1, *tensor.shape) if tensor.ndim == 2 else tensor
    return estimate_noise(tensor, step, kind, random_source(0, "test"))


@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_gaussian_noise_is_measured_and_named(sigma):
    noise, notes = estimate(scene() + np.random.default_rng(0).normal(0, sigma, (160, 160)))
    assert noise.kind == "gaussian"
    assert noise.gain == (0.0,)
    assert noise.offset[0] ** 0.5 == pytest.approx(sigma, rel=0.06)
    assert noise.facts() == {"kind": "gaussian", "sigma": pytest.approx(sigma, rel=0.06)}
    assert not notes


def test_poisson_gaussian_noise_has_its_camera_offset():
    rng = np.random.default_rng(1)
    photons = np.clip(scene(256) - 40, 0, None)
    noisy = 4 * (rng.poisson(photons) + rng.normal(0, 2, photons.shape)) + 100
    noise, _ = estimate(noisy)
    assert noise.kind == "poisson-gaussian"
    assert noise.gain[0] == pytest.approx(4, rel=0.15)
    assert noise.offset[0] < 0  # variance 4 (x - 100) + 64
    level = torch.tensor([[[[500.0]]]])
    assert float(noise.variance(level)) == pytest.approx(4 * 400 + 64, rel=0.1)


def test_channels_of_unlike_noise_keep_their_own():
    rng = np.random.default_rng(2)
    both = np.stack([scene() + rng.normal(0, s, (160, 160)) for s in (4, 40)])[:, None]
    noise, _ = estimate(both)
    assert noise.offset[0] ** 0.5 == pytest.approx(4, rel=0.08)
    assert noise.offset[1] ** 0.5 == pytest.approx(40, rel=0.08)


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 64), 7.0),
        np.add.outer(np.arange(64.0), 2 * np.arange(64.0)),
        (scene(96) > 125) * 255.0,
        np.kron(np.random.default_rng(0).integers(0, 9, (12, 12)), np.ones((8, 8))),
    ],
    ids=["constant", "gradient", "shapes", "mosaic"],
)
def test_drawn_images_have_no_noise(image):
    noise, _ = estimate(image, step=grey_step(image))
    assert noise.kind == "none"
    assert noise.facts() == {"kind": "none"}


def test_rounding_is_not_noise():
    image = scene().round()
    assert grey_step(image) == 1
    assert estimate(image, step=1.0)[0].kind == "none"


def test_grey_step():
    assert grey_step(np.arange(50) % 20 * 0.25) == 0.25
    assert grey_step(np.random.default_rng(0).normal(size=1000)) == 0
    assert grey_step(np.ones(9)) == 0


def test_noise_along_a_line_is_seen_on_its_axis():
    white = np.random.default_rng(3).normal(0, 20, (200, 202))
    lined = (white[:, :-2] + 2 * white[:, 1:-1] + white[:, 2:]) / 6**0.5
    noise, _ = estimate(scene(200) + lined)
    assert noise.along_y == (1.0,)
    assert noise.along_x[1] == pytest.approx(2 / 3, abs=0.06)
    assert noise.offset[0] ** 0.5 == pytest.approx(20, rel=0.1)
    turned, _ = estimate(scene(200) + lined.T)
    assert turned.along_x == (1.0,)
    assert turned.along_y[1] == pytest.approx(2 / 3, abs=0.06)


def test_autocorrelation_of_white_noise_is_a_spike():
    values = torch.from_numpy(np.random.default_rng(4).normal(size=(1, 200, 200)))
    blocks = draw_blocks(values, random_source(0), 5000)
    for lags in autocorrelation(blocks, torch.ones(len(blocks), dtype=torch.float64)):
        assert lags[0] == 1
        assert max(abs(r) for r in lags[1:]) < 0.03


def test_a_structure_is_no_line():
    white = (1.0,)
    assert line_of((1.0, 0.5, 0.3), (1.0, 0.6, 0.3), 0.1) == (white, white)  # along both
    assert line_of(white, (1.0, 0.25, 0.2, 0.18), 0.1) == (white, white)  # too long
    assert line_of((1.0, 0.02), (1.0, 0.3, 0.1, 0.01), 0.1) == (white, (1.0, 0.3, 0.1))


def test_line_covariance_is_a_correlation_matrix():
    matrix = line_covariance((1.0, 0.9, -0.9), 6)  # no such noise exists
    assert torch.linalg.eigvalsh(matrix).min() > 0
    torch.testing.assert_close(matrix.diagonal(), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(line_covariance((1.0,), 4), torch.eye(4, dtype=torch.float64))


def test_units_go_there_and_back():
    noise = Noise("poisson-gaussian", (2.0, 0.5), (-30.0, 4.0), (1.0, 1.0))
    centre, scale = torch.tensor([100.0, -3.0]), torch.tensor([7.0, 0.1])
    level = torch.tensor([[120.0, 200.0], [5.0, 60.0]])
    inner = noise.scaled(centre, scale)
    expected = noise.variance(level) / scale[:, None] ** 2
    torch.testing.assert_close(inner.variance((level - centre[:, None]) / scale[:, None]), expected)
    back = inner.scaled(-centre / scale, 1 / scale)
    torch.testing.assert_close(back.variance(level), noise.variance(level), rtol=1e-4, atol=1e-4)


def test_some_channels_taken_out_and_put_back():
    noise = Noise("gaussian", (0.0,) * 3, (1.0, 0.0, 9.0), (1.0, 0.0, 9.0))
    part = noise.of([0, 2])
    assert part.offset == (1.0, 9.0)
    assert noise.put([0, 2], part.times(2)).offset == (2.0, 0.0, 18.0)


def test_given_noise():
    assert given_noise(2, 3.0, None, None).offset == (9.0, 9.0)
    assert given_noise(1, 0.0, None, None).kind == "none"
    assert given_noise(1, None, 2.0, -50.0).kind == "poisson-gaussian"
    with pytest.raises(ValueError, match="neither"):
        given_noise(1, None, 2.0, None)


def test_cosines_are_orthonormal():
    torch.testing.assert_close(cosines(8) @ cosines(8).T, torch.eye(8), atol=1e-6, rtol=0)
