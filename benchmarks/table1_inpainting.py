"""Table 1 of the article: inpainting of 1, 2 and 4 % of Set5 and Set14, every system side by side.

    python benchmarks/table1_inpainting.py --data FOLDER [--quick] [--jobs 2] [--images 5]

Rectangles of masks/holes.json, replicate 0, scaled to the reduced images of settings.py. One CSV row a
case; a killed run goes on where it was.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, timed
from inpainting import FILLS, as_rgb, scores
from settings import ARTICLE_INPAINTING, TILE
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
    "harmonic",
    "biharmonic",
    "telea",
    "navier-stokes",
    "mlp",
    "dip",
    "singan",
    "paper",
)
PERCENTS = ("1", "2", "4")


@cache
def holes(data: Path) -> dict[str, Any]:
    return json.loads((data / "masks" / "holes.json").read_text())["images"]


def hole_mask(data: Path, name: str, percent: str, shape: tuple[int, ...]) -> np.ndarray:
    """The hole of the full-size image, scaled to an image of `shape`; True is to be filled."""
    entry = holes(data)[name]
    y, x, height, width = entry["holes"][percent][0]
    share_y, share_x = (n / full for n, full in zip(shape, entry["shape"], strict=False))
    top, left = round(y * share_y), round(x * share_x)
    mask = np.zeros(shape[:2], bool)
    mask[
        top : top + max(1, round(height * share_y)), left : left + max(1, round(width * share_x))
    ] = True
    return mask


def fill(
    method: str, image: np.ndarray, mask: np.ndarray, steps: int, device: str = "auto"
) -> np.ndarray:
    """The picture as a method has it, in [0, 1]."""
    if method in MODULES:
        told = {"device": device, "precision": quick_precision()}
        return run_peer(method, "inpaint", steps, image, mask, **told) / 255
    if method == "paper":
        import knitcore

        axes = "YXS"[: image.ndim]
        made = knitcore.inpaint(
            image, mask, axes=axes, preset="paper", steps=steps, tile=TILE, device=device, seed=0
        )
        return made.image / 255
    return FILLS[method](image, mask)[0]


@cache
def warm_up(method: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    mask = np.zeros((48, 48), bool)
    mask[20:28, 20:28] = True
    fill(method, image, mask, 2)


def measure(
    case: dict[str, Any], data: Path, side: int, length: str, device: str
) -> dict[str, Any]:
    """Fill one hole by one method; a row of the CSV file."""
    from knitcore import psnr, ssim

    method = case["method"]
    choose_precision(method)
    image = reduced(data / case["image"], side)
    mask = hole_mask(data, case["image"], case["column"], image.shape)
    damaged = image.copy()
    damaged[mask] = 0  # no method may see what it is to find
    warm_up(method)
    steps = steps_of(method, "inpaint", length)
    filled, seconds = timed(fill, method, damaged, mask, steps, device)
    truth = image / 255
    whole, true = np.clip(as_rgb(filled), 0, 1), as_rgb(truth)
    return (
        {"side": side, "steps": steps, "pixels": int(mask.sum())}
        | scores(truth, filled, mask)
        | {
            "psnr_whole": psnr(whole, true, data_range=1.0),
            "ssim_whole": ssim(whole, true, data_range=1.0, channel_axis=-1),
        }
        | seconds
    )


def summary(rows: list[dict[str, str]], methods: list[str], threads: str) -> str:
    """The Markdown page."""
    cells = Cells(rows, methods, PERCENTS)

    def name(column: str) -> str:
        return f"{column} %"

    def block(field: str, digits: int, where: str, part: int) -> str:
        return cells.block(field, digits, name, ARTICLE_INPAINTING[where], part, PERCENTS)

    return f"""# Table 1: inpainting, every system side by side

{cells.steps_line()} One rectangle an image, of 1, 2 and 4 % of its area; in brackets the number of
images, which are the same for all methods. The article's rows are its own, on full-size images and other
holes. Known pixels are kept by `fast`, `paper` and the classical methods, so that "whole image" tells only
how well a network repeats what it was shown. Made by `benchmarks/table1_inpainting.py`; every case is in the CSV
file beside this page. {threads} {machine_line()}

## PSNR inside the hole (dB)

{block("psnr", 2, "hole", 0)}
## SSIM inside the hole

{block("ssim", 3, "hole", 1)}
## PSNR of the whole image (dB)

{block("psnr_whole", 2, "whole", 0)}
## SSIM of the whole image

{block("ssim_whole", 3, "whole", 1)}
## Processor seconds a hole

{seconds_table(cells, name)}"""


if __name__ == "__main__":
    run_table(
        "inpaint", METHODS, PERCENTS, ("2",), measure, summary, RESULTS / "table1_inpainting.csv"
    )
