"""Table 3 of the article: Gaussian noise on Set5 and Set14, every system side by side.

    python benchmarks/table3_denoising.py --data FOLDER [--quick] [--jobs 2] [--images 5]

Noise of 10, 20 and 40 grey levels, not clipped, on the reduced images of settings.py. One CSV row a
case; a killed run goes on where it was.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, timed
from denoising import DENOISERS, add_noise
from settings import ARTICLE_DENOISING, ORDER, TILE
from tables import (
    MODULES,
    Cells,
    choose_precision,
    machine_line,
    quick_precision,
    reduced,
    run_peer,
    run_table,
    seconds_table,
    steps_of,
)

METHODS = (
    "fast",
    "noisy",
    "nlm",
    "wavelet",
    "tv",
    "bm3d",
    "zs-n2n",
    "noise2fast",
    "mlp",
    "dip",
    "paper",
)
SIGMAS = ("10", "20", "40")


def clean_up(
    method: str, noisy: np.ndarray, sigma: float, steps: int, device: str = "auto"
) -> np.ndarray:
    """The picture as a method has it, in grey levels; σ is told to the classical methods only."""
    if method in MODULES:
        return run_peer(method, "denoise", steps, noisy, device=device, precision=quick_precision())
    if method == "paper":
        import knitcore

        axes = "YXS"[: noisy.ndim]
        return knitcore.denoise(
            noisy, axes=axes, preset="paper", steps=steps, tile=TILE, device=device, seed=0
        ).image
    result = DENOISERS["blind" if method == "fast" else method](noisy, sigma)
    return result[0] if isinstance(result, tuple) else result


@cache
def warm_up(method: str) -> None:
    noise = np.random.default_rng(0).normal(128, 20, (48, 48, 3))
    clean_up(method, noise.astype(np.float32), 20.0, 2)


def measure(
    case: dict[str, Any], data: Path, side: int, length: str, device: str
) -> dict[str, Any]:
    """Denoise one image by one method; a row of the CSV file."""
    from knitcore import psnr, ssim

    method, sigma = case["method"], int(case["column"])
    choose_precision(method)
    clean = reduced(data / case["image"], side)
    noisy = add_noise(clean, sigma, ORDER.index(case["image"]))
    warm_up(method)
    steps = steps_of(method, "denoise", length)
    result, seconds = timed(clean_up, method, noisy, float(sigma), steps, device)
    result = np.clip(result, 0, 255)
    channels = -1 if clean.ndim == 3 else None
    return {
        "side": side,
        "steps": steps,
        "pixels": clean.shape[0] * clean.shape[1],
        "psnr": psnr(result, clean, data_range=255),
        "ssim": ssim(result, clean, data_range=255, channel_axis=channels),
        **seconds,
    }


def summary(rows: list[dict[str, str]], methods: list[str], threads: str) -> str:
    """The Markdown page."""
    cells = Cells(rows, methods, SIGMAS)

    def name(column: str) -> str:
        return f"σ {column}"

    def block(field: str, digits: int, part: int) -> str:
        return cells.block(field, digits, name, ARTICLE_DENOISING, part, SIGMAS)

    return f"""# Table 3: denoising, every system side by side

{cells.steps_line()} Gaussian noise of σ grey levels, not clipped; in brackets the number of images, which
are the same for all methods. The article's rows are its own, on full-size images and noise of its own. Nobody is
told σ but the classical methods. Noise2Fast stops by its own rule. Made by `benchmarks/table3_denoising.py`; every case is in the CSV file
beside this page. {threads} {machine_line()}

## PSNR (dB)

{block("psnr", 2, 0)}
## SSIM

{block("ssim", 3, 1)}
## Processor seconds an image

{seconds_table(cells, name)}"""


if __name__ == "__main__":
    run_table(
        "denoise", METHODS, SIGMAS, ("20",), measure, summary, RESULTS / "table3_denoising.csv"
    )
