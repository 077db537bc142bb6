"""Kriging and harmonic fill: exact where the answer is known, calibrated where it is not."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data as pictures

import knitcore as knit
from knitcore import kriging
from knitcore.harmonic import harmonic_fill
from knitcore.kriging import (
    Variogram,
    choose_points,
    choose_variogram,
    corners,
    empirical_variogram,
    fit_variograms,
    krige,
    kriging_fill,
)


def hole_in(shape, *box):
    known = np.ones(shape, bool)
    known[(slice(None), *box)] = False
    return known


def test_empirical_variogram_of_a_ramp_is_half_the_squared_lag():
    ramp = np.broadcast_to(np.arange(30.0), (1, 30, 30))
    lags, gamma, pairs = empirical_variogram(ramp, np.ones(ramp.shape, bool), reach=5)
    np.testing.assert_allclose(gamma[0], lags[:, 1] ** 2 / 2, atol=1e-9)
    assert pairs.max() <= 30 * 30


def test_empirical_variogram_leaves_out_unknown_pixels():
    values = np.random.default_rng(0).normal(size=(1, 40, 40))
    known = hole_in(values.shape, slice(10, 20), slice(5, 30))
    spoiled = np.where(known, values, 1e9)
    for a, b in zip(
        empirical_variogram(values, known), empirical_variogram(spoiled, known), strict=True
    ):
        np.testing.assert_allclose(a, b)


def test_kriging_returns_a_known_point_exactly():
    model = Variogram(0.0, ((np.eye(2), (1.0, 0.0), 1.0),), np.ones(1))
    points = np.array([[0, 0], [0, 4], [3, 1]])
    mean, sd = krige(np.array([[1.0, 2.0, 5.0]]), points, points, model)
    np.testing.assert_allclose(mean[0], [1, 2, 5], atol=1e-4)
    assert sd.max() < 1e-2


def test_the_variance_about_a_single_point_is_twice_the_variogram():
    model = Variogram(0.0, ((np.eye(2), (1.5, 0.0), 1.0),), np.ones(1))
    targets = np.array([[0, 60], [0, 61], [80, 0]])
    mean, sd = krige(np.array([[4.0]]), np.array([[0, 0]]), targets, model)
    np.testing.assert_allclose(mean[0], 4)
    np.testing.assert_allclose(sd[0] ** 2, 2 * np.array([60.0, 61.0, 80.0]) ** 1.5, rtol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("radius", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("step", [0.05, 0.3, 1.0])
def test_a_quick_solve_is_that_of_the_bordered_system(power, radius, step):
    """Pixels close together under a smooth variogram, too, for which no sill is high enough."""
    metric = np.diag([step, 1.0])
    model = Variogram(0.0, ((metric, (power, radius), 1.0),), np.ones(1))
    rng = np.random.default_rng(0)
    for points in (
        np.array([[y, 0] for y in range(9)]),
        np.argwhere(hole_in((1, 24, 24), slice(6, 18), slice(6, 18))[0]),
    ):
        targets = np.array([[9, 9], [11, 8], [3, 30]])
        values = rng.normal(size=(2, len(points))).cumsum(1) / 3
        gamma = kriging.lag_table(points, targets, model)
        slow = kriging._solve_bordered(gamma(points, points), gamma(points, targets), values)
        mean, sd = krige(values, points, targets, replace(model, channel_scale=np.ones(2)))
        np.testing.assert_allclose(
            mean, (slow[1] + gamma(targets, points) @ slow[0]).T, rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(sd[0] ** 2, slow[2].clip(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", [10, 22, 31])
def test_a_few_known_pixels_close_together_do_for_a_fill(seed):
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=(40, 40)), (8, 2)).astype(np.float32)
    mask = np.ones(image.shape, bool)
    mask[12:20, 17] = False
    close = knit.Image(image, "YX", pixel_size={"Y": 0.05, "X": 1.0})
    filled = knit.inpaint(close, mask, start_weight=1.0)
    assert np.isfinite(filled.image).all()
    assert np.isfinite(filled.std).all()


def test_kriging_between_two_points_on_a_line_is_linear():
    """For the variogram |h| in one dimension the best linear guess is linear interpolation."""
    model = Variogram(0.0, ((np.eye(2), (1.0, 0.0), 1.0),), np.ones(1))
    mean, sd = krige(
        np.array([[0.0, 8.0]]), np.array([[0, 0], [0, 8]]), np.array([[0, 2], [0, 4]]), model
    )
    np.testing.assert_allclose(mean[0], [2, 4], atol=1e-4)
    assert sd[0, 1] > sd[0, 0]


def test_stripes_are_continued_along_their_direction():
    y, x = np.indices((64, 64))
    stripes = np.sin((x + y) / 2.0)[None]
    known = hole_in(stripes.shape, slice(26, 38), slice(26, 38))
    fill, _ = kriging_fill(stripes * known, known, ~known[0], (1.0, 1.0))
    smooth = harmonic_fill(stripes * known, known, ~known[0])
    error = np.abs(fill - stripes)[~known].mean()
    assert error < 0.5 * np.abs(smooth - stripes)[~known].mean()


def test_the_kriging_error_is_the_size_of_the_true_error():
    rng = np.random.default_rng(3)
    spectrum = np.fft.rfft2(rng.normal(size=(160, 160)))
    fy, fx = np.fft.fftfreq(160)[:, None], np.fft.rfftfreq(160)[None]
    image = np.fft.irfft2(spectrum / np.maximum(np.hypot(fy, fx), 0.01) ** 1.5)[None]
    image /= image.std()
    ratios = []
    for corner in ((20, 20), (90, 30), (40, 100), (110, 110)):
        known = hole_in(image.shape, *(slice(c, c + 20) for c in corner))
        fill, sd = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
        ratios.append(np.abs(fill - image)[~known].mean() / sd[~known].mean())
    assert 0.4 < np.mean(ratios) < 1.6


def test_constant_surroundings_give_a_constant():
    known = hole_in((1, 20, 20), slice(5, 9), slice(5, 9))
    fill, sd = kriging_fill(np.where(known, 7.0, 0.0), known, ~known[0], (1.0, 1.0))
    np.testing.assert_allclose(fill, 7)
    assert sd.max() == 0


def test_channels_may_miss_different_pixels():
    y, x = np.indices((32, 32))
    values = np.stack([np.sin(x / 5), np.cos(y / 7)])
    known = np.ones(values.shape, bool)
    known[0, 10:14, 10:14] = False
    known[1, 20:22, 3:9] = False
    fill, sd = kriging_fill(values * known, known, ~known.all(0), (1.0, 1.0))
    np.testing.assert_array_equal(fill[known], values[known])
    assert np.abs(fill - values)[~known].max() < 0.3
    assert (sd[known] == 0).all()


def test_a_lost_plane_of_a_stack_is_filled_from_its_neighbours():
    z, y, x = np.indices((9, 24, 24))
    volume = (np.sin((x + z) / 6) + np.cos(y / 5))[None]
    known = np.ones(volume.shape, bool)
    known[0, 4] = False
    fill, _ = kriging_fill(volume * known, known, ~known[0], (1.0, 1.0, 1.0))
    assert np.abs(fill - volume)[~known].mean() < 0.05


def test_a_ring_of_too_many_points_is_solved_in_pieces_alike():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 100, 100)).cumsum(1).cumsum(2) / 100
    known = hole_in(image.shape, slice(30, 34), slice(10, 90))
    whole, _ = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
    pieces, _ = kriging_fill(image * known, known, ~known[0], (1.0, 1.0), limit=120)
    assert np.abs(whole - pieces)[~known].max() < 0.2 * image.std()


def test_pure_noise_is_filled_with_its_mean():
    noise = np.random.default_rng(1).normal(size=(1, 64, 64))
    known = hole_in(noise.shape, slice(20, 40), slice(20, 40))
    fill, sd = kriging_fill(noise * known, known, ~known[0], (1.0, 1.0))
    assert np.abs(fill[~known]).mean() < 0.25
    assert 0.8 < sd[~known].mean() < 1.3


def test_a_constant_has_no_variogram():
    assert fit_variograms(np.ones((1, 20, 20)), np.ones((1, 20, 20), bool), (1.0, 1.0)) == []


@pytest.mark.parametrize("shape", [(5, 5), (1, 12), (6, 6, 6)])
def test_harmonic_fill_keeps_a_linear_ramp(shape):
    """A linear function is harmonic; a hole inside it comes back exactly."""
    ramp = np.indices(shape).sum(0, dtype=float)[None]
    known = np.ones(ramp.shape, bool)
    known[(0, *(n // 2 for n in shape))] = False
    fill = harmonic_fill(np.where(known, ramp, 0), known, ~known[0])
    np.testing.assert_allclose(fill, ramp, atol=1e-9)


def test_harmonic_fill_stays_between_its_boundary_values():
    rng = np.random.default_rng(0)
    image = rng.random((2, 30, 30))
    known = hole_in(image.shape, slice(0, 12), slice(4, 20))
    fill = harmonic_fill(image, known, ~known[0])
    assert fill.min() >= image.min()
    assert fill.max() <= image.max()


def texture(rng, stretch):
    """A random image whose structures are `stretch` times longer along x."""
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None]
    spectrum = np.fft.rfft2(rng.normal(size=(128, 128)))
    image = np.fft.irfft2(spectrum / np.maximum(np.hypot(fy, fx * stretch), 0.01) ** 1.5)
    return image[None] / image.std()


def test_the_evidence_tells_round_from_directed_structure(rng):
    known = hole_in((1, 128, 128), slice(50, 70), slice(50, 70))
    y, x = np.array([[6, 0]]), np.array([[0, 6]])
    round_model = choose_variogram(texture(rng, 1), known, ~known[0], (1.0, 1.0)).model
    directed = choose_variogram(texture(rng, 6), known, ~known[0], (1.0, 1.0)).model
    assert round_model(y)[0] / round_model(x)[0] == pytest.approx(1, abs=0.4)
    assert directed(y)[0] / directed(x)[0] > 1.6


def test_a_far_part_of_the_image_does_not_count():
    """Fine stripes elsewhere would make the fill of a smooth part rough."""
    y, x = np.indices((96, 96))
    smooth = np.hypot(y - 20, x - 20) / 20
    image = np.where(x < 60, smooth, np.sin(2.0 * x))[None]
    known = hole_in(image.shape, slice(30, 50), slice(15, 35))
    fill, _ = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
    alone, _ = kriging_fill(
        (image * known)[..., :56], known[..., :56], ~known[0][..., :56], (1.0, 1.0)
    )
    error, own = (np.abs(f[..., :56] - image[..., :56]).max() for f in (fill, alone))
    assert error < 2 * own + 0.01


def test_a_variogram_for_each_corner_is_nearer_than_one_for_all():
    """In pictures, structures run another way at each corner of a hole."""
    picture = pictures.astronaut()[:, :, 1] / 255
    gains = []
    for y in range(60, 440, 95):
        for x in range(60, 440, 95):
            image = picture[None, y - 32 : y + 60, x - 32 : x + 60]
            known = hole_in(image.shape, slice(32, 60), slice(32, 60))
            fill, _ = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
            model = choose_variogram(image * known, known, ~known[0], (1.0, 1.0)).model
            points = choose_points(known[0], ~known[0])
            one, _ = krige(image[(slice(None), *points.T)], points, np.argwhere(~known[0]), model)
            errors = [np.mean((guess - image[~known]) ** 2) for guess in (one[0], fill[~known])]
            gains.append(10 * np.log10(errors[0] / errors[1]))
    assert np.mean(gains) > 0.1


def test_a_hole_that_is_narrow_has_a_variogram_at_either_end():
    mask = np.zeros((60, 60), bool)
    mask[10:15, 5:50] = True
    places, lengths = corners(mask)
    np.testing.assert_array_equal(places, [[12, 5], [12, 49]])
    np.testing.assert_array_equal(lengths, [16, 45])


def test_a_scratch_has_one_variogram():
    mask = np.zeros((60, 60), bool)
    mask[10:13, 5:50] = True
    mask[30, 30] = True
    places, lengths = corners(mask)
    np.testing.assert_array_equal(places, [[20, 27]])
    np.testing.assert_array_equal(lengths, [21, 45])


def test_a_volume_has_variograms_at_the_corners_of_its_planes():
    mask = np.zeros((40, 60, 60), bool)
    mask[5:36, 10:50, 20:25] = True
    places, lengths = corners(mask)
    np.testing.assert_array_equal(places, [[20, 10, 22], [20, 49, 22]])
    np.testing.assert_array_equal(lengths, [31, 40, 16])


def test_kriging_of_nothing_is_what_was_there():
    image = np.ones((1, 8, 8))
    fill, sd = kriging_fill(image, np.ones(image.shape, bool), np.zeros((8, 8), bool), (1.0, 1.0))
    assert (fill == image).all()
    assert not sd.any()


def test_a_channel_of_which_little_is_known_has_an_error_of_its_own(rng):
    known = hole_in((2, 128, 128), slice(50, 70), slice(50, 70))
    known[1] = False
    known[1, 40:104, 64] = True
    image = np.concatenate([texture(rng, 1), texture(rng, 1)])
    target = np.zeros((128, 128), bool)
    target[50:70, 50:70] = True
    _, sd = kriging_fill(image * known, known, target, (1.0, 1.0))
    assert sd[1][target & ~known[1]].min() > 0.1
