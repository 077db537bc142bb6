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


@dataclass(frozen=True)
class PowerTransform:
    """A power of the values above a dark level, channel by channel.

    Attributes
    ----------
    power : float
        1: the values as they are; 1/2; 0: their logarithm.
    dark, offset, top : ndarray, shape (C,)
        The power is that of a value less `dark`, not below 0, plus `offset`; `top` is the highest value.
    """

    power: float
    dark: np.ndarray
    offset: np.ndarray
    top: np.ndarray

    def of(self, channels: np.ndarray) -> PowerTransform:
        """The transform of some of the channels."""
        parts = {name: getattr(self, name)[channels] for name in ("dark", "offset", "top")}
        return replace(self, **parts)

    def _lifted(self, values: np.ndarray) -> np.ndarray:
        shape = (-1,) + (1,) * (values.ndim - 1)
        above = np.maximum(values - self.dark.reshape(shape), 0.0)
        return above + self.offset.reshape(shape)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Transform values of shape (C, ...)."""
        if self.power == 1:
            return values
        lifted = self._lifted(values)
        return lifted**self.power if self.power else np.log(lifted)

    def log_slope(self, values: np.ndarray) -> np.ndarray:
        """Logarithm of the derivative of `forward`: what a likelihood of transformed values lacks."""
        if self.power == 1:
            return np.zeros(values.shape)
        return (self.power - 1) * np.log(self._lifted(values)) + np.log(self.power or 1.0)

    def back(self, values: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transformed guesses (C, ...) and their deviations as grey levels, neither above `top`.

        A guess becomes the median of what may be there, which is skewed; the deviation is the root mean
        square of the distance from it.
        """
        if self.power == 1:
            return values, sd
        shape = (-1,) + (1,) * (values.ndim - 1)
        dark, offset, top = (v.reshape(shape) for v in (self.dark, self.offset, self.top))
        most = np.broadcast_to(self.forward(np.broadcast_to(top, values.shape)), values.shape)
        values = np.minimum(values, most)
        if self.power == 0:
            lifted = np.exp(values)
            s2 = np.minimum(sd, 3.0) ** 2
            square = lifted**2 * (np.expm1(2 * s2) - 2 * np.expm1(s2 / 2))
        else:
            root = np.maximum(values, 0.0)
            lifted = root**2
            square = sd**2 * (4 * lifted + 3 * sd**2)
        return lifted - offset + dark, np.minimum(np.sqrt(square), top - dark + offset)


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
    dark, offset, top = np.zeros((3, len(values)))
    for c, mask in enumerate(known):
        seen = values[c][mask]
        if power == 1 or not seen.size:
            continue
        dark[c], middle = np.percentile(seen, (LOW, 50))
        top[c] = seen.max()
        unit = max(middle - dark[c], LEAST_OFFSET * (top[c] - seen.min()))
        offset[c] = OFFSET[power] * unit or 1.0  # of a channel without any range
    return PowerTransform(power, dark, offset, top)
