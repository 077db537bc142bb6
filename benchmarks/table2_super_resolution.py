"""Table 2 of the article: blind super-resolution of Set5 and Set14, every system side by side.

    python benchmarks/table2_super_resolution.py --data FOLDER [--quick] [--jobs 2] [--images 5]

The reduced images of settings.py are blurred by one of three kernels, every second or fourth pixel is
kept and rounded to 8 bits. One CSV row a case; a killed run goes on where it was.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, timed
from settings import ARTICLE_SUPER_RESOLUTION
from super_resolution import ENLARGERS, FACTORS, KERNELS, degrade, true_kernel
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

METHODS = ("fast", "bicubic", "tv-known", "mlp", "dip", "singan", "paper")
COLUMNS = tuple(f"x{factor} {kernel}" for factor in FACTORS for kernel in KERNELS)


def enlarge(
    method: str, coarse: np.ndarray, factor: int, kernel: str, steps: int, device: str = "auto"
) -> np.ndarray:
    """The enlarged picture as a method has it; all know that coarse pixel i is fine pixel i factor."""
    if method in MODULES:
        told = {"device": device, "anchor": "corner", "precision": quick_precision()}
        return run_peer(method, "super-resolve", steps, coarse, factor, **told)
    if method == "paper":
        import knitcore

        return knitcore.super_resolve(
            coarse,
            factor,
            axes="YXS"[: coarse.ndim],
            anchor="corner",
            preset="paper",
            steps=steps,
            device=device,
            seed=0,
        ).image
    name = {"fast": "blind", "tv-known": "tv"}.get(method, method)
    result = ENLARGERS[name](coarse, factor, kernel)
    return result.image if method == "fast" else result


@cache
def warm_up(method: str) -> None:
    noise = np.random.default_rng(0).normal(128, 20, (24, 24, 3))
    enlarge(method, np.uint8(np.clip(noise, 0, 255)), 2, "round", 2)


def measure(
    case: dict[str, Any], data: Path, side: int, length: str, device: str
) -> dict[str, Any]:
    """Enlarge one image by one method; a row of the CSV file."""
    from knitcore import psnr, ssim

    method = case["method"]
    choose_precision(method)
    factor, kernel = int(case["column"][1]), case["column"][3:]
    fine = reduced(data / case["image"], side, max(FACTORS))
    coarse = degrade(fine, true_kernel(kernel, factor), factor)
    warm_up(method)
    steps = steps_of(method, "super-resolve", length)
    result, seconds = timed(enlarge, method, coarse, factor, kernel, steps, device)
    result = np.clip(result, 0, 255)
    channels = -1 if fine.ndim == 3 else None
    return {
        "side": side,
        "steps": steps,
        "pixels": fine.shape[0] * fine.shape[1],
        "psnr": psnr(result, fine, data_range=255),
        "ssim": ssim(result, fine, data_range=255, channel_axis=channels),
        **seconds,
    }


def summary(rows: list[dict[str, str]], methods: list[str], threads: str) -> str:
    """The Markdown page."""
    cells = Cells(rows, methods, COLUMNS)

    def name(column: str) -> str:
        return column.replace("x", "×", 1)

    def block(field: str, digits: int, part: int) -> str:
        return cells.block(field, digits, name, ARTICLE_SUPER_RESOLUTION, part, COLUMNS)

    return f"""# Table 2: blind super-resolution, every system side by side

{cells.steps_line()} Kernels as in [super_resolution.md](super_resolution.md); in brackets the number of
images, which are the same for all methods. Nobody is told the kernel but TV; deep image prior takes the box of
the factor's width, having none of its own to learn. The article's rows are its own, on full-size images.
Made by `benchmarks/table2_super_resolution.py`; every case is in the CSV file beside this page. {threads} {machine_line()}

## PSNR (dB)

{block("psnr", 2, 0)}
## SSIM

{block("ssim", 3, 1)}
## Processor seconds an image

{seconds_table(cells, name)}"""


if __name__ == "__main__":
    run_table(
        "super-resolve",
        METHODS,
        COLUMNS,
        ("x2 round",),
        measure,
        summary,
        RESULTS / "table2_super_resolution.csv",
    )
