"""Power transforms: values whose spread grows with their level are made alike in it before kriging.

Where light is sparse, an image is skewed: dark nearly everywhere, with few bright structures whose
brightness varies by as much as itself. A variogram of its square root or logarithm describes it better
(Box and Cox 1964, doi:10.1111/j.2517-6161.1964.tb00553.x); which, the likelihood says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

POWERS = (1.0, 0.5, 0.0)  # tried in this order, for as long as the next one is likelier
LOW = 0.1  # percentile that counts as dark
OFFSET = {0.5: 0.25, 0.0: 0.5}  # added to what is above it, in units of the median above it
LEAST_OFFSET = 1e-3  # of the range
WIDEST = 3.0  # deviation of a logarithm: beyond, numbers say nothing


@dataclass(frozen=True)
class PowerTransform:
    """A power of the values above a dark level, channel by channel.

    Attributes
    ----------
    power : float
        1: the values as they are; 1/2; 0: their logarithm.
    dark, offset, top : ndarray, shape (C,)
        The power is that of a value less `dark` plus `offset`; `top` is the highest value.
    """

    power: float
    dark: np.ndarray
    offset: np.ndarray
    top: np.ndarray

    def of(self, channels: np.ndarray) -> PowerTransform:
        """The transform of some of the channels."""
        parts = {name: getattr(self, name)[channels] for name in ("dark", "offset", "top")}
        return replace(self, **parts)

    def _as(self, values: np.ndarray, *parts: np.ndarray) -> tuple[np.ndarray, ...]:
        """Parts (C,) in a shape that goes with values (C, ...)."""
        return tuple(part.reshape((-1,) + (1,) * (values.ndim - 1)) for part in parts)

    def _power(self, lifted: np.ndarray) -> np.ndarray:
        return lifted**self.power if self.power else np.log(lifted)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Transform values of shape (C, ...); below the dark level they go on along a line."""
        if self.power == 1:
            return values
        dark, offset = self._as(values, self.dark, self.offset)
        above = np.maximum(values - dark, 0.0)
        below = np.minimum(values - dark, 0.0) * self._slope(offset)
        return self._power(above + offset) + below

    def _slope(self, lifted: np.ndarray) -> np.ndarray:
        return (self.power or 1.0) * lifted ** (self.power - 1)

    def log_slope(self, values: np.ndarray) -> np.ndarray:
        """Logarithm of the derivative of `forward`: what a likelihood of transformed values lacks."""
        if self.power == 1:
            return np.zeros(values.shape)
        dark, offset = self._as(values, self.dark, self.offset)
        return np.log(self._slope(np.maximum(values - dark, 0.0) + offset))

    def back(
        self, values: np.ndarray, sd: np.ndarray, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Transformed guesses as grey levels, none above `top`, and their deviations.

        Parameters
        ----------
        values, sd : ndarray, shape (C, ...)
        noise : ndarray, shape (C,)
            Variance of the transformed values' noise: a guess without noise becomes the mean of what
            would be measured there. Of what else it does not know it is the median, which is nearer.

        Returns
        -------
        grey, sd : ndarray, shape (C, ...)
            The deviation is the root mean square distance from the guess.
        """
        if self.power == 1:
            return values, sd
        dark, offset, top, noise = self._as(values, self.dark, self.offset, self.top, noise)
        most, least = self._power(top - dark + offset), self._power(offset)
        below = np.minimum(values - least, 0.0) / self._slope(offset)
        values = np.clip(values, least, most)
        noise = np.clip(noise, 0.0, (most - least) ** 2)
        if self.power == 0:
            lifted = np.exp(values)
            bias = lifted * np.expm1(np.minimum(noise, WIDEST**2) / 2)
            s2 = np.minimum(sd, WIDEST) ** 2
            square = lifted**2 * (np.expm1(2 * s2) - 2 * np.expm1(s2 / 2))
        else:
            lifted, bias = values**2, noise
            square = sd**2 * (4 * lifted + 3 * sd**2)
        # the deviation's distance is from the median: the mean of noise is no error
        grey = np.minimum(lifted + bias - offset + dark, top) + below
        return grey, np.minimum(np.sqrt(square), top - dark + offset)


def power_transform(values: np.ndarray, known: np.ndarray, power: float) -> PowerTransform:
    """The transform of an image by what is known of it.

    Parameters
    ----------
    values, known : ndarray, shape (C, *spatial)
    power : float

    Returns
    -------
    PowerTransform
    """
    dark, top = np.zeros((2, len(values)))
    offset = np.ones(len(values))  # also of a channel without any range
    for c, mask in enumerate(known):
        seen = values[c][mask]
        if power == 1 or not seen.size:
            continue
        dark[c], middle = np.percentile(seen, (LOW, 50))
        top[c] = seen.max()
        unit = max(middle - dark[c], LEAST_OFFSET * (top[c] - seen.min()))
        if unit > 0:
            offset[c] = OFFSET[power] * unit
    return PowerTransform(power, dark, offset, top)
