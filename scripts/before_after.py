"""Put a damaged and a repaired image side by side as a PNG for looking at.

python scripts/before_after.py BEFORE.tif AFTER.tif OUT.png
"""

from __future__ import annotations

import sys

import numpy as np
import tifffile
from PIL import Image


def main(before: str, after: str, out: str) -> None:
    """Write both with the contrast of the repaired one, twice enlarged."""
    repaired = tifffile.imread(after).astype(float)
    low, high = np.percentile(repaired, [0.5, 99.5])
    panels = [
        np.uint8(255 * np.clip((tifffile.imread(path) - low) / (high - low), 0, 1) ** 0.7 + 0.5)
        for path in (before, after)
    ]
    gap = np.full((panels[0].shape[0], 6), 255, np.uint8)
    sheet = np.hstack([panels[0], gap, panels[1]]).repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(sheet).save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
