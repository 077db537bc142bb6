"""Skewed images are kriged by a power of their values, where they are likelier in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knitcore.harmonic import harmonic_fill
from knitcore.kriging import choose_power, choose_variogram, kriging_fill
from knitcore.power_transform import POWERS, power_transform


def there(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def texture(rng, side=96):
    """A random image with structures of all sizes."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    spectrum = np.fft.rfft2(rng.normal(size=(side, side)))
    image = np.fft.irfft2(spectrum / np.maximum(np.hypot(fy, fx), 0.01) ** 1.5)
    return image[None] / image.std()


@given(st.sampled_from(POWERS), st.integers(0, 99), st.sampled_from([1e-6, 1.0, 1e6]))
def test_back_undoes_forward_above_the_dark_level(power, seed, unit):
    values = np.random.default_rng(seed).gamma(2.0, unit, size=(2, 9, 9)) - 3 * unit
    transform = power_transform(values, np.ones(values.shape, bool), power)
    sd = np.ones(values.shape)
    grey, _ = transform.back(transform.forward(values), sd)
    bright = values > np.percentile(values, 2, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(grey[bright], values[bright], rtol=1e-6, atol=1e-6 * unit)
    assert np.array_equal(transform.back(values, sd)[0], values) or power < 1


@pytest.mark.parametrize("power", POWERS)
def test_the_slope_is_the_derivative(power):
    values = np.linspace(5, 50, 10)[None]
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
    grey, sd = transform.back(centre, width)
    np.testing.assert_allclose(grey, 4000)
    found, _ = transform.back(drawn, np.ones_like(drawn))
    assert sd[0, 0] == pytest.approx(np.sqrt(np.mean((found - grey) ** 2)), rel=0.02)


def test_no_guess_is_brighter_than_what_is_known_and_a_flat_channel_is_borne():
    values = np.stack([np.arange(100.0), np.full(100, 7.0)]).reshape(2, 10, 10)
    for power in (0.5, 0.0):
        transform = power_transform(values, np.ones(values.shape, bool), power)
        grey, sd = transform.back(np.full((2, 3), 1e3), np.ones((2, 3)))
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
        chosen = there(choose_power(values * known, known, ~known[0], (1.0, 1.0), place))
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
        fill, sd = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
        with monkeypatch.context() as patch:
            patch.setattr("knitcore.kriging.POWERS", (1.0,))
            plain, _ = kriging_fill(image * known, known, ~known[0], (1.0, 1.0))
        others = (plain, harmonic_fill(image * known, known, ~known[0]))
        errors.append([np.mean((f - image)[~known] ** 2) for f in (fill, *others)])
        assert (np.abs(fill - image)[~known] <= 2 * sd[~known]).mean() > 0.85
    gains = 10 * np.log10(np.array(errors)[:, 1:] / np.array(errors)[:, :1]).mean(0)
    assert (gains > 0.3).all()
