"""Textured fills beside mean fills: how far from the truth, and how alike in texture.

    python benchmarks/texture.py --data FOLDER [--percents 1,2,4] [--jobs 2]

The holes of masks/holes.json, replicate 0, filled with `fill` mean and texture. One CSV row a case; a
killed run goes on where it was. A picture shows four of them.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
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
    mean_of,
    read_pixels,
    run_cases,
    table,
    threads_line,
    timed,
)
from PIL import Image, ImageDraw

METHODS = ("mean", "texture")
SHOWN = ("set5/butterfly.png", "set14/barbara.png", "set5/bird.png", "set14/baboon.png")
FIELDS = ["image", "percent", "method", "recipe", "pixels", "psnr", "distance", "liveliness"]
FIELDS += ["seconds", "cpu_seconds"]
WIDTH, GAP = 210, 6


def hole_of(data: Path, name: str, percent: str, shape: tuple[int, ...]) -> np.ndarray:
    """Replicate 0 of an image's holes; True is to be filled."""
    holes = json.loads((data / "masks" / "holes.json").read_text())["images"]
    y, x, height, width = holes[name]["holes"][percent][0]
    mask = np.zeros(shape[:2], bool)
    mask[y : y + height, x : x + width] = True
    return mask


def fill(image: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    import knitcore

    damaged = image.copy()
    damaged[mask] = 0
    return knitcore.inpaint(damaged, mask, axes="YXS"[: image.ndim], fill=method, seed=0).image


def measure(case: dict[str, Any], data: Path) -> dict[str, Any]:
    """Fill one hole in one way; a row of the CSV file."""
    from knitcore import psnr
    from knitcore.texture import gradient_ratio, patch_distance

    image = read_pixels(data / case["image"])
    mask = hole_of(data, case["image"], case["percent"], image.shape)
    filled, seconds = timed(fill, image, mask, case["method"])
    return {
        "pixels": int(mask.sum()),
        "psnr": psnr(filled, image, mask, data_range=255),
        "distance": patch_distance(filled, image, mask),
        "liveliness": gradient_ratio(filled, image, mask),
    } | seconds


def draw(data: Path, path: Path) -> None:
    """Hole, mean fill, textured fill and truth, side by side."""
    rows = []
    for name in SHOWN:
        image = read_pixels(data / name)
        mask = hole_of(data, name, "2", image.shape)
        damaged = image.copy()
        damaged[mask] = 0
        box = crop_round(mask, 50)
        tiles = [damaged, *(fill(image, mask, method) for method in METHODS), image]
        rows.append([Image.fromarray(tile[box]) for tile in tiles])
    heights = [round(row[0].height * WIDTH / row[0].width) for row in rows]
    sheet = Image.new("RGB", (4 * (WIDTH + GAP) - GAP, 20 + sum(h + GAP for h in heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 20
    for column, title in enumerate(("hole", "mean fill", "textured fill", "truth")):
        pen.text((column * (WIDTH + GAP) + 2, 4), title, fill="black")
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            tile = tile.resize((WIDTH, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (WIDTH + GAP), top))
        top += height + GAP
    sheet.save(path)


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page."""
    lines = []
    for group in ("set5", "set14"):
        for percent in sorted({row["percent"] for row in rows}):
            own = [r for r in rows if r["image"].startswith(group) and r["percent"] == percent]
            cells = [f"{group.replace('set', 'Set')} {percent} %"]
            cells.append(str(len({row["image"] for row in own})))
            for field, digits in (("psnr", 2), ("distance", 1), ("liveliness", 2), ("seconds", 1)):
                for method in METHODS:
                    mine = [row for row in own if row["method"] == method]
                    cells.append(f"{mean_of(mine, field):.{digits}f}")
            if own:
                lines.append(cells)
    head = ["", "images"]
    for what in ("PSNR, dB", "patch distance", "gradient energy", "seconds"):
        head += [f"{what}: mean", "texture"]
    return f"""# Textured fills

Inside the holes of `masks/holes.json`, replicate 0; the mean over the images. Patch distance: sliced
Wasserstein distance between the 5×5 patches of the fill and of the truth, 0 for the truth. Gradient
energy: that of the fill over the truth's, 1 for a fill as lively as the truth. Made by
`benchmarks/texture.py`; every case is in the CSV file beside this page. {threads} Machine: {machine()}

{table(head, lines)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    add_run_options(parser, METHODS, RESULTS / "texture.csv")
    parser.add_argument("--percents", default="2", help="holes of which share of the area")
    parser.add_argument("--picture", type=Path, help="write the sheet of four holes here, too")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "masks/holes.json")
    if options.picture:
        draw(data, options.picture)
    names = json.loads((data / "masks" / "holes.json").read_text())["images"]
    cases = [
        {"image": name, "percent": percent, "method": method}
        for name in names
        for percent in options.percents.split(",")
        for method in options.methods.split(",")
    ]
    keys = dict.fromkeys(METHODS, code_key("inpaint"))
    rows = run_cases(
        partial(measure, data=data), cases, options.out, FIELDS, keys, options.jobs, options.fresh
    )
    page = summary(rows, threads_line(options.jobs))
    options.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
