"""Does `--validate` foretell the error? Expected and true RMSE of the 2 % holes of Set5 and Set14.

    python benchmarks/validation.py --data FOLDER [--quick] [--jobs 2]

One CSV row a hole; a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    code_key,
    data_folder,
    machine,
    read_pixels,
    run_cases,
    table,
)
from inpainting import QUICK

FIELDS = ["image", "method", "recipe", "true", "expected", "holes", "within_2_std"]
FIELDS += ["psnr", "seconds", "validation_seconds"]


def measure(case: dict[str, Any], data: Path, holes: dict[str, Any]) -> dict[str, Any]:
    """Fill one hole with validation; expected and true RMSE in grey levels."""
    import knitcore

    image = read_pixels(data / case["image"])
    y, x, height, width = holes[case["image"]]["holes"]["2"][0]
    mask = np.zeros(image.shape[:2], bool)
    mask[y : y + height, x : x + width] = True
    start = time.perf_counter()
    damaged = np.where(mask[..., None] if image.ndim == 3 else mask, 0, image).astype(np.uint8)
    result = knitcore.inpaint(damaged, mask, axes="YXS"[: image.ndim], validation=True)
    error = (result.image.astype(float) - image)[mask]
    told = result.record["validation"] or {}
    return {
        "true": float(np.sqrt(np.mean(error**2))),
        "expected": told.get("rmse", ""),
        "holes": told.get("holes", 0),
        "within_2_std": told.get("within_2_std", ""),
        "psnr": told.get("psnr", ""),
        "seconds": time.perf_counter() - start,
        "validation_seconds": result.record["seconds"].get("validation", 0.0),
    }


def summary(rows: list[dict[str, str]]) -> str:
    """The Markdown page of a set of rows."""
    from scipy.stats import spearmanr

    lines = []
    for title, start in (("Set5", "set5"), ("Set14", "set14"), ("both", "")):
        own = [r for r in rows if r["image"].startswith(start) and r["expected"]]
        if len(own) < 3:
            continue
        true, expected = (np.array([float(r[n]) for r in own]) for n in ("true", "expected"))
        ratio = expected / true
        cost = np.median(
            [
                float(r["validation_seconds"])
                / (float(r["seconds"]) - float(r["validation_seconds"]))
                for r in own
            ]
        )
        lines.append(
            [
                f"{title} ({len(own)})",
                f"{np.mean((ratio > 0.5) & (ratio < 2)):.2f}",
                f"{np.corrcoef(np.log(true), np.log(expected))[0, 1]:.2f}",
                f"{spearmanr(true, expected).statistic:.2f}",
                f"{np.median(ratio):.2f}",
                f"{cost:.1f}",
            ]
        )
    head = ["", "within a factor of 2", "correlation of logarithms", "rank correlation"]
    head += ["median expected / true", "seconds in units of the fill's"]
    cases = [
        [r["image"], f"{float(r['true']):.1f}", f"{float(r['expected']):.1f}", r["holes"]]
        for r in rows
        if r["expected"]
    ]
    return f"""# Expected and true error of a fill

2 % holes, replicate 0, `knit inpaint --validate`: RMSE in grey levels of 255 over the held-out holes of
the same shape, and the true one. Made by `benchmarks/validation.py`. {machine()}

{table(head, lines)}
{table(["hole in", "true", "expected", "held-out holes"], cases)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--quick", action="store_true", help="four small images")
    add_run_options(parser, ("fast",), RESULTS / "validation.csv")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "masks/holes.json")
    holes = json.loads((data / "masks" / "holes.json").read_text())["images"]
    rows = run_cases(
        partial(measure, data=data, holes=holes),
        [{"image": image, "method": "fast"} for image in (QUICK if options.quick else holes)],
        options.out,
        FIELDS,
        {"fast": code_key("inpaint", validation=True)},
        options.jobs,
        options.fresh,
    )
    page = summary(rows)
    options.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
