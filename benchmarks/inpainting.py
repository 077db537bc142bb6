"""Quality of inpainting on Set5 and Set14: `fast` beside four classical methods.

    python benchmarks/inpainting.py --data FOLDER [--quick] [--replicates 0,1] [--jobs 2]

Each hole of masks/holes.json is filled by each method, one CSV row a case; a killed run goes on
where it was. At the end the CSV is summed up as a Markdown table beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    code_key,
    crop_round,
    data_folder,
    machine,
    read_pixels,
    run_cases,
    table,
)

METHODS = ("fast", "quality", "kriging", "harmonic", "biharmonic", "telea", "navier-stokes")
NAMES = {
    "fast": "**`fast`**",
    "quality": "**`quality`**",
    "kriging": "kriging, linear variogram",
    "harmonic": "harmonic",
    "biharmonic": "biharmonic (scikit-image)",
    "telea": "Telea (OpenCV)",
    "navier-stokes": "Navier–Stokes (OpenCV)",
}
PERCENTS = ("1", "2", "4")
QUICK = ("set5/bird.png", "set5/butterfly.png", "set14/face.png", "set14/foreman.png")
FIELDS = [
    "image",
    "percent",
    "replicate",
    "method",
    "recipe",
    "pixels",
    "psnr",
    "ssim",
    "seconds",
    "within_2std",
    "spearman",
    "median_ratio",
]


def fill_ours(
    image: np.ndarray, mask: np.ndarray, preset: str = "fast"
) -> tuple[np.ndarray, np.ndarray | None]:
    import knitcore

    result = knitcore.inpaint(image, mask, axes="YXS"[: image.ndim], preset=preset, seed=0)
    return result.image / 255, result.std / 255


def fill_harmonic(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, None]:
    from knitcore.harmonic import harmonic_fill

    values = np.moveaxis(np.atleast_3d(image), -1, 0) / 255
    filled = harmonic_fill(values, np.broadcast_to(~mask, values.shape), mask)
    return np.moveaxis(filled, 0, -1).reshape(image.shape), None


def fill_kriging(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, None]:
    """Ordinary kriging as a textbook has it: one linear variogram for every image."""
    from knitcore.kriging import Variogram, choose_points, krige

    linear = Variogram(0.0, ((np.eye(2), (1.0, 0.0), 1.0),), np.ones(3))
    box = crop_round(mask, 64)
    values = np.moveaxis(np.atleast_3d(image[box]), -1, 0) / 255
    points, targets = choose_points(~mask[box], mask[box]), np.argwhere(mask[box])
    found, _ = krige(values[(slice(None), *points.T)], points, targets, linear)
    filled = image / 255
    filled[mask] = found.T.reshape(filled[mask].shape)
    return filled, None


def fill_biharmonic(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, None]:
    from skimage.restoration import inpaint_biharmonic

    # its stencil reaches two pixels, so that a crop gives the same values as the whole image, sooner
    box = crop_round(mask, 8)
    filled = image / 255
    filled[box] = inpaint_biharmonic(
        filled[box], mask[box], channel_axis=-1 if image.ndim == 3 else None
    )
    return filled, None


def fill_opencv(image: np.ndarray, mask: np.ndarray, flag: str) -> tuple[np.ndarray, None]:
    import cv2

    return cv2.inpaint(image, mask.astype(np.uint8), 3, getattr(cv2, flag)) / 255, None


FILLS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray | None]]] = {
    "fast": fill_ours,
    "quality": partial(fill_ours, preset="quality"),
    "kriging": fill_kriging,
    "harmonic": fill_harmonic,
    "biharmonic": fill_biharmonic,
    "telea": partial(fill_opencv, flag="INPAINT_TELEA"),
    "navier-stokes": partial(fill_opencv, flag="INPAINT_NS"),
}


def as_rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def scores(truth: np.ndarray, filled: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM inside the hole, of RGB images in [0, 1]."""
    from knitcore import psnr, ssim

    truth, filled = as_rgb(truth), np.clip(as_rgb(filled), 0, 1)
    box = crop_round(mask, 8)  # no further window of the SSIM touches the hole
    return {
        "psnr": psnr(filled, truth, mask, data_range=1.0),
        "ssim": ssim(filled[box], truth[box], mask[box], data_range=1.0, channel_axis=-1),
    }


def calibration(error: np.ndarray, std: np.ndarray) -> dict[str, float]:
    """How well `std` foretells the error inside the hole.

    Share of errors within two std, rank correlation of both, and the median error in units of the
    one that a Gaussian of that std would show (0.6745 std).
    """
    from scipy.stats import spearmanr

    error, std = np.abs(error).ravel(), std.ravel()
    return {
        "within_2std": float(np.mean(error <= 2 * std)),
        "spearman": float(spearmanr(error, std).statistic) if np.ptp(std) and np.ptp(error) else 0,
        "median_ratio": float(np.median(error) / max(0.6745 * np.median(std), 1e-9)),
    }


@cache
def warm_up(method: str) -> None:
    """Pay for imports and first use once a process, outside the seconds measured."""
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)
    mask = np.zeros((48, 48), bool)
    mask[20:28, 20:28] = True
    FILLS[method](image, mask)


def measure(case: dict[str, Any], data: Path, holes: dict[str, Any]) -> dict[str, Any]:
    """Fill one hole by one method; a row of the CSV file."""
    image = read_pixels(data / case["image"])
    y, x, height, width = holes[case["image"]]["holes"][case["percent"]][case["replicate"]]
    mask = np.zeros(image.shape[:2], bool)
    mask[y : y + height, x : x + width] = True
    damaged = image.copy()
    damaged[mask] = 0  # no method may see what it is to find
    warm_up(case["method"])
    start = time.perf_counter()
    filled, std = FILLS[case["method"]](damaged, mask)
    row: dict[str, Any] = {"pixels": int(mask.sum()), "seconds": time.perf_counter() - start}
    truth = image / 255
    row |= scores(truth, filled, mask)
    if std is not None:
        row |= calibration((filled - truth)[mask], std[mask])
    return row


def summary(rows: list[dict[str, str]], replicates: list[int], threads: str) -> str:
    """The Markdown page of a set of rows."""
    sets = [s for s in ("set5", "set14") if any(r["image"].startswith(s) for r in rows)]
    present = [m for m in METHODS if any(r["method"] == m for r in rows)]
    cells = [(s, p) for s in sets for p in PERCENTS]
    cells = [
        c for c in cells if any(r["image"].startswith(c[0]) and r["percent"] == c[1] for r in rows)
    ]
    values: dict[tuple[str, tuple[str, str]], list[dict[str, str]]] = {}
    for row in rows:
        cell = (row["image"].split("/")[0], row["percent"])
        values.setdefault((row["method"], cell), []).append(row)

    def mean(name: str, method: str, cell: tuple[str, str]) -> float:
        numbers = [float(r[name]) for r in values.get((method, cell), []) if r[name] != ""]
        return float(np.mean(numbers)) if numbers else float("nan")

    def line(title: str, numbers: list[float], digits: int, sign: str = "") -> list[str]:
        mean_all = float(np.mean(numbers))
        return [title, *(f"{v:{sign}.{digits}f}" for v in [*numbers, mean_all])]

    def block(name: str, digits: int) -> str:
        out = []
        for method in present:
            out.append(line(NAMES[method], [mean(name, method, c) for c in cells], digits))
        if name == "psnr" and {"fast", "harmonic"} <= set(present):
            gain = [mean(name, "fast", c) - mean(name, "harmonic", c) for c in cells]
            out.append(line("`fast` − harmonic", gain, 2, "+"))
        if name == "psnr" and {"quality", "harmonic"} <= set(present):
            gain = [mean(name, "quality", c) - mean(name, "harmonic", c) for c in cells]
            out.append(line("`quality` − harmonic", gain, 2, "+"))
        return table(head, out)

    head = ["", *(f"{s.replace('set', 'Set')} {p} %" for s, p in cells), "mean"]
    counts = ", ".join(
        f"{s.replace('set', 'Set')} {len({r['image'] for r in rows if r['image'].startswith(s)})} images"
        for s in sets
    )
    extra = ""
    if "fast" in present:
        seconds = np.median([float(r["seconds"]) for r in rows if r["method"] == "fast"])
        within, rank = ([mean(n, "fast", c) for c in cells] for n in ("within_2std", "spearman"))
        ratio = np.median([float(r["median_ratio"]) for r in rows if r["median_ratio"]])
        lines = [
            line("share of errors within 2 std", within, 3),
            line("rank correlation of std and error", rank, 2),
        ]
        extra = f"""Median of `fast` over all holes: {seconds:.1f} s.

## `Result.std` against the error

{table(head, lines)}
Median error over the median that a Gaussian of this std would show: {ratio:.2f} (above 1: the std is
too small in the middle of the distribution).
"""
    return f"""# Inpainting: quality inside the holes

Rectangular holes of 1, 2 and 4 % of the area, replicate {", ".join(map(str, replicates))} ({counts}).
8-bit images; mean over the images of each cell, the last column the mean over the cells. Made by
`benchmarks/inpainting.py`; every case is in the CSV file beside this page. {threads}
Machine: {machine("opencv-python-headless")}

## PSNR inside the hole (dB, all channels, values clipped to the range)

{block("psnr", 2)}
## SSIM inside the hole

{block("ssim", 3)}
## Seconds a hole

{block("seconds", 2)}
{extra}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--replicates", default="0", help="holes of each size: 0, 1 or 0,1")
    parser.add_argument("--quick", action="store_true", help="four small images, 2 %% holes")
    parser.add_argument("--sets", default="set5,set14")
    add_run_options(parser, METHODS, RESULTS / "inpainting.csv")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "masks/holes.json")
    replicates = [int(r) for r in options.replicates.split(",")]
    out = options.out
    if options.quick and out == RESULTS / "inpainting.csv":
        out = out.with_name("inpainting-quick.csv")

    holes = json.loads((data / "masks" / "holes.json").read_text())["images"]
    cases = [
        {"image": image, "percent": percent, "replicate": replicate, "method": method}
        for image in (QUICK if options.quick else holes)
        if image.split("/")[0] in options.sets.split(",")
        for percent in (("2",) if options.quick else PERCENTS)
        for replicate in replicates
        for method in options.methods.split(",")
    ]
    rows = run_cases(
        partial(measure, data=data, holes=holes),
        cases,
        out,
        FIELDS,
        {"fast": code_key("inpaint"), "quality": code_key("inpaint", preset="quality")},
        options.jobs,
        options.fresh,
    )
    rows = [row for row in rows if int(row["replicate"]) in replicates]
    threads = f"{options.jobs} processes at a time, one thread each." if options.jobs > 1 else ""
    page = summary(rows, replicates, threads)
    out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
