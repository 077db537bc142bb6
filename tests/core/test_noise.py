"""Noise estimates: right where the law is known, none where there is no noise."""

import numpy as np
import pytest
import torch

from knitcore.fit import random_source
from knitcore.noise import (
    autocorrelation,
    cosines,
    draw_blocks,
    estimate_noise,
    has_few_counts,
    line_of,
)
from knitcore.noise_model import Noise, given_noise, grey_step, line_covariance


def scene(side=160):
    """A smooth picture with edges, 40 to 210."""
    y, x = np.mgrid[:side, :side] / side
    waves = 125 + 50 * np.sin(7 * x + 3 * y) + 25 * np.cos(11 * y)
    return waves + 10.0 * (np.hypot(x - 0.5, y - 0.4) < 0.2)


def estimate(values, kind="auto", step=0.0, blind_spot="auto"):
    tensor = torch.tensor(np.asarray(values), dtype=torch.float32)
    tensor = tensor.reshape(1, 1, *tensor.shape) if tensor.ndim == 2 else tensor
    return estimate_noise(tensor, step, kind, random_source(0, "test"), blind_spot)


def running_on(shape, correlation, seed=0):
    """Noise of variance 1 whose neighbours along y have this correlation."""
    rows = np.random.default_rng(seed).normal(size=shape)
    for y in range(1, len(rows)):
        rows[y] = correlation * rows[y - 1] + (1 - correlation**2) ** 0.5 * rows[y]
    return rows


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


def textured(colours, seed=4, side=192):
    """Grass, so to speak: fine, unevenly strong, of one colour, (C, 1, Y, X)."""
    rng = np.random.default_rng(seed)
    strength = 6 + 6 * np.kron(rng.random((side // 16, side // 16)), np.ones((16, 16)))
    grass = strength * rng.normal(size=(side, side))
    return scene(side) + np.array(colours)[:, None, None, None] * grass


def test_texture_that_channels_share_is_no_noise():
    image = textured((1.0, 0.9, 1.1))
    noisy = image + np.random.default_rng(5).normal(0, 10, image.shape)
    noise, _ = estimate(noisy)
    assert noise.kind == "gaussian"
    assert len(set(noise.offset)) == 1
    assert noise.offset[0] ** 0.5 == pytest.approx(10, rel=0.04)
    singly, _ = estimate(noisy[1, 0])
    assert singly.offset[0] ** 0.5 > 11.5  # one channel alone cannot tell


def test_photon_noise_of_textured_colours_has_its_gain():
    image = np.clip(textured((0.6, 0.6, 0.6), side=256), 1, None)
    noise, _ = estimate(np.random.default_rng(6).poisson(image).astype(float))
    assert noise.kind == "poisson-gaussian"
    level = torch.full((3, 1), 125.0)
    assert noise.variance(level).numpy() == pytest.approx(125, rel=0.12)


def test_noise_that_channels_share_is_noise_all_the_same():
    rng = np.random.default_rng(7)
    image = np.repeat(scene(192)[None, None], 3, 0)
    noisy = image + rng.normal(0, 7, image.shape) + rng.normal(0, 7, image.shape[1:])
    noise, _ = estimate(noisy)
    assert noise.offset[0] ** 0.5 == pytest.approx(7 * 2**0.5, rel=0.06)


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("side", [64, 160])
def test_white_noise_of_several_channels_is_not_made_less(channels, side):
    """Of all their mixtures the one that holds least does so by chance."""
    image = np.repeat(scene(side)[None, None], channels, 0)
    noise, _ = estimate(image + np.random.default_rng(8).normal(0, 10, image.shape))
    assert noise.offset[0] ** 0.5 == pytest.approx(10, rel=0.04 if side > 100 else 0.1)


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


@pytest.mark.parametrize("padding", [0.0, 130.0, 255.0])
@pytest.mark.parametrize("shape", ["half", "strip", "turned"])
def test_padding_says_nothing_about_the_noise(shape, padding):
    """Its rim was taken for flat blocks of grey levels in between, correlated, as in a drawing."""
    y, x = np.mgrid[:160, :160]
    beyond = {"half": x > 90, "strip": x > 147, "turned": 0.8 * (x - 80) + 0.6 * (y - 80) > 30}
    noisy = scene() + np.random.default_rng(0).normal(0, 8, (160, 160))
    noise, notes = estimate(np.where(beyond[shape], padding, noisy))
    assert noise.kind == "gaussian"
    assert noise.offset[0] ** 0.5 == pytest.approx(8, rel=0.1)
    assert noise.along_y == noise.along_x == (1.0,)
    assert not notes or "end of the range" in notes[0].text


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


@pytest.mark.parametrize("correlation", [0.2, 0.4, 0.8])
def test_lines_that_are_told_of_are_measured_with_their_strength(correlation):
    lined = 15 * running_on((160, 160), correlation)
    noise, _ = estimate(scene() + lined, blind_spot="y")
    assert noise.along_x == (1.0,)
    assert noise.along_y[1] == pytest.approx(correlation, abs=0.1)
    assert noise.offset[0] ** 0.5 == pytest.approx(15, rel=0.2)
    turned, _ = estimate(scene() + lined.T, blind_spot="x")
    assert turned.along_y == (1.0,)
    assert turned.offset[0] ** 0.5 == pytest.approx(15, rel=0.2)


def test_noise_correlated_along_both_axes_is_hinted_at_and_measured_when_told():
    white = np.random.default_rng(5).normal(size=(163, 163))
    row = white[:, :-2] + 2 * white[:, 1:-1] + white[:, 2:]
    both = 15 * (row[:-2] + 2 * row[1:-1] + row[2:])[:160, :160] / 6
    noise, notes = estimate(scene() + both)
    assert noise.along_x == noise.along_y == (1.0,)
    assert "both axes" in notes[0].text
    assert "blind_spot 1" in notes[0].text
    told, notes = estimate(scene() + both, blind_spot="1")
    assert min(len(told.along_x), len(told.along_y)) >= 2
    assert told.offset[0] ** 0.5 == pytest.approx(15, rel=0.25)
    assert not notes


def test_white_noise_stays_white_where_a_blind_spot_is_asked_for():
    noisy = scene() + np.random.default_rng(6).normal(0, 15, (160, 160))
    for blind_spot in ("x", "y", "2"):
        noise, _ = estimate(noisy, blind_spot=blind_spot)
        assert noise.offset[0] ** 0.5 == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_a_texture_that_runs_along_an_axis_is_no_noise(axis, correlation):
    """White noise on a fence or a brick wall was found to be correlated along its lines."""
    wall = 9 * running_on((256, 256), 0.6, seed=5)
    wall[:24] = 0  # the sky
    noisy = 120 + wall + 10 * running_on(wall.shape, correlation)
    found, notes = estimate(noisy if axis == 0 else noisy.T)
    along, across = (found.along_y, found.along_x)[:: 1 if axis == 0 else -1]
    assert across == (1.0,)
    assert (along[1] if correlation else len(along) - 1) == pytest.approx(correlation, abs=0.06)
    assert not notes


def test_few_pixels_show_no_line():
    noise, _ = estimate(np.random.default_rng(0).normal(size=(4, 4)))
    assert noise.along_x == noise.along_y == (1.0,)


@pytest.mark.parametrize("side", [28, 32, 40, 48])
def test_noise_of_a_small_image_is_found(side):
    found = []
    for seed in range(6):
        white = np.random.default_rng(seed).normal(0, 15, (side, side))
        noise, _ = estimate(scene(side) + white)
        found.append(max(noise.offset[0], 0) ** 0.5)
    assert min(found) > 9
    assert np.mean(found) == pytest.approx(15, rel=0.1)


def test_photon_noise_of_a_small_image_has_its_gain_when_told():
    gains = []
    for seed in range(4):
        photons = np.random.default_rng(seed).poisson(scene(48) / 4)
        gains.append(estimate(photons, "poisson-gaussian", step=1.0)[0].gain[0])
    assert np.mean(gains) == pytest.approx(1, rel=0.4)


@pytest.mark.parametrize("mean", [0.03, 0.1])
def test_single_photons_are_told_from_drawings(mean):
    counts = np.random.default_rng(0).poisson(mean, (96, 96))
    noise, notes = estimate(counts, step=1.0)
    assert noise.kind == "none"
    assert "too few counts" in notes[0].text
    drawing = torch.tensor(np.kron(counts[:24, :24], np.ones((4, 4))))[None]
    assert not has_few_counts(drawing, 1.0)


def test_noise_that_is_cut_off_at_the_ends_is_read_elsewhere():
    rng = np.random.default_rng(0)
    noisy = (2 * scene(256) - 120 + rng.normal(0, 20, (256, 256))).round().clip(0, 255)
    noise, notes = estimate(noisy, step=1.0)
    assert "at the end of the range" in notes[0].text
    assert noise.kind == "gaussian"
    assert noise.offset[0] ** 0.5 == pytest.approx(20, rel=0.06)


def test_photon_counts_are_not_cut_off_at_zero():
    for mean in (0.5, 1, 3):
        counts = np.random.default_rng(0).poisson(mean * scene(128) / 125)
        assert not estimate(counts, step=1.0)[1]


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
