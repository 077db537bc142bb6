"""Skewed images are kriged by a power of their values, where they are likelier in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import knitcore as knit
from knitcore.events import drain
from knitcore.harmonic import harmonic_fill
from knitcore.kriging import choose_power, choose_variogram, kriging_fill
from knitcore.power_transform import POWERS, power_transform


def texture(rng, side=96):
    """A random image with structures of all sizes."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    image = np.fft.irfft2(spectrum / np.maximum(np.hypot(fy, fx), 0.01) ** 1.5)
    return image[None] / image.std()


def fill_and_plain(image, known, monkeypatch):
    """Fill and deviation with powers and without."""
    found = []
    for powers in (POWERS, (1.0,)):
        with monkeypatch.context() as patch:
            patch.setattr("knitcore.kriging.POWERS", powers)
            found.append(kriging_fill(image * known, known, ~known[0], (1.0, 1.0)))
    return found


@given(st.sampled_from(POWERS), st.integers(0, 99), st.sampled_from([1e-6, 1.0, 1e6]))
def test_back_undoes_forward(power, seed, unit):
    values = np.random.default_rng(seed).gamma(2.0, unit, size=(2, 9, 9)) - 3 * unit
    transform = power_transform(values, np.ones(values.shape, bool), power)
    sd = np.ones(values.shape)
    grey, _ = transform.back(transform.forward(values), sd, np.zeros(2))
    np.testing.assert_allclose(grey, values, rtol=1e-6, atol=1e-6 * unit)
    assert np.array_equal(transform.back(values, sd, np.ones(2))[0], values) or power < 1


@pytest.mark.parametrize("power", POWERS)
def test_the_slope_is_the_derivative(power):
    values = np.linspace(-5, 50, 12)[None]  # the first below the dark level
    transform = power_transform(np.linspace(0, 60, 500)[None], np.ones((1, 500), bool), power)
    rise = transform.forward(values + 1e-4) - transform.forward(values - 1e-4)
    np.testing.assert_allclose(np.exp(transform.log_slope(values)), rise / 2e-4, rtol=1e-5)


@pytest.mark.parametrize("power", POWERS)
def test_the_deviation_is_that_of_drawn_values_from_the_guess(power, rng):
    known = rng.gamma(3.0, 2000.0, size=(1, 5000))
    transform = power_transform(known, np.ones(known.shape, bool), power)
    centre = transform.forward(np.array([[4000.0]]))
    width = np.abs(centre) * 0.03
    drawn = rng.normal(centre, width, size=(1, 200_000))
    grey, sd = transform.back(centre, width, np.zeros(1))
    np.testing.assert_allclose(grey, 4000)
    found, _ = transform.back(drawn, np.ones_like(drawn), np.zeros(1))
    assert sd[0, 0] == pytest.approx(np.sqrt(np.mean((found - grey) ** 2)), rel=0.02)


def test_no_guess_is_brighter_than_what_is_known_and_a_flat_channel_is_borne():
    values = np.stack([np.arange(100.0), np.full(100, 7.0)]).reshape(2, 10, 10)
    for power in (0.5, 0.0):
        transform = power_transform(values, np.ones(values.shape, bool), power)
        grey, sd = transform.back(np.full((2, 3), 1e3), np.ones((2, 3)), np.ones(2))
        np.testing.assert_allclose(grey, [[99] * 3, [7] * 3])
        assert np.isfinite(sd).all()


@pytest.mark.parametrize(
    ("picture", "power"),
    [(lambda z: z, 1.0), (lambda z: (z + 3.3) ** 2, 0.5), (lambda z: np.exp(2 * z), 0.0)],
)
def test_the_likelihood_finds_the_power(rng, picture, power):
    """Of a Gaussian image as it is, squared, and of its exponential: in whatever units, too."""
    image = texture(rng)
    known = np.ones(image.shape, bool)
    known[0, 40:56, 40:56] = False
    for unit in (1.0, 3000.0):
        values = unit * picture(image) + unit
        place = np.array([48.0, 48.0])
        chosen = drain(choose_power(values * known, known, ~known[0], (1.0, 1.0), place))
        assert chosen.transform.power == power
        by_hand = choose_variogram(
            values * known, known, ~known[0], (1.0, 1.0), place, power, (chosen.share,)
        )
        assert chosen.likelihood == by_hand.likelihood


def test_sparse_light_is_filled_better_than_by_a_variogram_of_its_grey_levels(monkeypatch):
    """Beside something bright the plain fill falls far below the background, or stays far above it."""
    errors = []
    for seed in range(4):
        z = texture(np.random.default_rng(seed))
        image = 100 + 30 * np.exp(1.5 * z)
        known = np.ones(image.shape, bool)
        known[0, 36:60, 36:60] = False
        (fill, sd), (plain, _) = fill_and_plain(image, known, monkeypatch)
        others = (plain, harmonic_fill(image * known, known, ~known[0]))
        errors.append([np.mean((f - image)[~known] ** 2) for f in (fill, *others)])
        assert (np.abs(fill - image)[~known] <= 2 * sd[~known]).mean() > 0.85
    gains = 10 * np.log10(np.array(errors)[:, 1:] / np.array(errors)[:, :1]).mean(0)
    assert (gains > 0.3).all()


@pytest.mark.parametrize("noisy", ["shot noise", "speckle"])
def test_noise_does_not_make_a_fill_too_dark(noisy, monkeypatch):
    """The mean of noisy pixels is the truth; their median, or a root's mean squared, is less."""
    off, errors = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = 4 * np.exp(0.2 * texture(rng))
        if noisy == "shot noise":
            image = rng.poisson(truth) + rng.normal(0, 0.1, truth.shape)  # a camera's, read out
        else:
            image = truth * rng.exponential(size=truth.shape)
        known = np.ones(image.shape, bool)
        known[0, 40:54, 40:54] = False
        (fill, _), (plain, _) = fill_and_plain(image, known, monkeypatch)
        off.append((fill - plain)[~known].mean() / image.std())
        errors.append([np.mean((f - truth)[~known] ** 2) for f in (fill, plain)])
    assert abs(np.mean(off)) < 0.06
    assert np.mean(errors, 0)[0] < 1.1 * np.mean(errors, 0)[1]


def test_steps_have_no_density():
    """Of two values no power is likelier than another, whatever the slope of the power says."""
    y, x = np.indices((96, 96))
    image = (((y - 48) ** 2 + (x - 20) ** 2) < 27**2).astype(float)[None]
    known = np.ones(image.shape, bool)
    known[0, 42:52, 42:52] = False
    chosen = drain(choose_power(image * known, known, ~known[0], (1.0, 1.0), np.full(2, 47.0)))
    assert chosen.transform.power == 1


def test_a_channel_that_is_flat_near_the_hole_has_no_say(rng):
    known = np.ones((2, 64, 64), bool)
    known[:, 28:38, 28:38] = False
    for bright in (0.01, 1.0, 100.0):
        image = np.concatenate([texture(rng, 64), np.zeros((1, 64, 64))])
        image[1, :3, :3] = bright
        place = np.full(2, 32.5)
        chosen = drain(choose_power(image * known, known, ~known[0], (1.0, 1.0), place))
        assert chosen.transform.power == 1


def test_dead_pixels_do_not_make_a_picture_skewed(rng):
    image = texture(rng)
    image[0, 30:60:7, 30:60:11] = -30
    known = np.ones(image.shape, bool)
    known[0, 40:54, 40:54] = False
    chosen = drain(choose_power(image * known, known, ~known[0], (1.0, 1.0), np.full(2, 47.0)))
    assert chosen.transform.power == 1


def test_a_channel_of_which_nothing_is_known_is_borne(rng):
    skewed = np.exp(2 * texture(rng))
    image = np.concatenate([skewed, skewed])
    known = np.ones(image.shape, bool)
    known[0, 40:54, 40:54] = False
    known[1] = False
    fill, sd = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
    assert np.isfinite(fill).all()
    assert np.isfinite(sd).all()
    assert (fill[1] == 0).all()


def camera(seed, side=96):
    """Sparse light on a camera with an offset: shot noise and a read-out noise of two."""
    rng = np.random.default_rng(seed)
    light = 30 * np.exp(texture(rng, side)[0])
    return (100 + rng.poisson(light) + rng.normal(0, 2, light.shape)).clip(0).astype(np.uint16)


def test_std_of_lone_pixels_in_sparse_light():
    """An error that follows the level once must not be spread by the level a second time."""
    within = []
    for seed in range(5):
        image = camera(seed)
        mask = np.zeros(image.shape, bool)
        places = np.random.default_rng(seed).integers(2, 94, size=(2, 40))
        mask[tuple(places)] = True
        result = knit.inpaint(np.where(mask, 0, image).astype(np.uint16), mask, start_weight=1)
        off = np.abs(result.image.astype(float) - image)[mask]
        within.append((off <= 2 * result.std[mask]).mean())
    assert np.mean(within) > 0.8


def test_std_is_no_larger_than_the_range():
    """Flat regions of a few grey levels: between them a logarithm may mean anything."""
    rng = np.random.default_rng(5)
    z = gaussian_filter(rng.normal(size=(96, 96)), 5)
    levels = rng.permutation(np.array([0, 1, 2, 5, 20, 60, 200], np.uint8))
    image = levels[np.digitize(z / z.std(), [-1.5, -0.8, -0.2, 0.3, 0.8, 1.5])]
    mask = np.zeros(image.shape, bool)
    mask[40:56, 40:56] = True
    result = knit.inpaint(np.where(mask, 0, image).astype(np.uint8), mask, start_weight=1)
    assert result.std.max() <= 200
