"""What each kept technique of `fast` gives: the recipe with one thing after the other taken out.

    python benchmarks/ablation.py --data FOLDER [--quick] [--jobs 2] [--tasks inpaint,denoise,super-resolve]

Every line is a plain recipe. Inpainting: the first replicate of the 1, 2 and 4 % holes. Denoising: noise of 10,
20 and 40, not told. Super-resolution: x2, the three kernels, not told. One CSV row a case; a killed run
goes on where it was.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    code_key,
    data_folder,
    figures,
    machine,
    mean_of,
    read_pixels,
    run_cases,
    set_images,
    table,
    threads_line,
    timed,
)
from denoising import add_noise
from inpainting import scores
from super_resolution import degrade, read_fine, true_kernel
from table1_inpainting import hole_mask

FAR = 10**9  # pixels: what is nearer counts fully
GREY = {"POWERS": (1.0,)}  # of the values, not of a power of them
NEAR = {**GREY, "WIDE": FAR, "EVIDENCE_POINTS": FAR}
WHOLE = {**NEAR, "NEAR": FAR}
# what a line is called, and its fields beside the task's own defaults; `kriging` are constants of that module
LINES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "inpaint": {
        "bare": (
            "knitworks alone, no start",
            {"start": "none", "start_weight": 0.0, "knit_depth": 0.0},
        ),
        "harmonic": ("harmonic start alone", {"start": "harmonic", "start_weight": 1.0}),
        "whole": (
            "kriging start alone, one variogram of the whole region",
            {"start_weight": 1.0, "kriging": WHOLE},
        ),
        "near": (
            "one variogram of what is near the hole",
            {"start_weight": 1.0, "kriging": NEAR},
        ),
        "corners": ("a variogram for each of its corners", {"start_weight": 1.0, "kriging": GREY}),
        "kriging": ("of a power of the values where likelier", {"start_weight": 1.0}),
        "one": ("kriging and one knitwork", {"ensemble": 1}),
        "round": ("kriging and four, frequencies in all directions alike", {"directed": False}),
        "fast": ("kriging and four, directed: **`fast`**", {}),
    },
    "denoise": {
        "pilot": ("blind-spot network alone", {"passes": 0}),
        "one": ("one patch posterior", {"passes": 1, "coarse_weight": 0.0}),
        "two": ("two", {"passes": 2, "coarse_weight": 0.0}),
        "coarse": ("two, and coarse scales", {"passes": 2}),
        "fast": ("and edges apart from texture: **`fast`**", {}),
        "turned": ("and patches turned and mirrored", {"turned": True}),
        "colours": (
            "and colours further",
            {"turned": True, "colour_patches": (5, 7, 9)},
        ),
        "quality": (
            "and a network that learns for longer, mirrored, too: **`quality`**",
            {"preset": "quality"},
        ),
    },
    "super-resolve": {
        "none": ("data steps alone, no patch posterior", {"passes": 0}),
        "one": ("one round of patch posterior and data step", {"passes": 1}),
        "four": ("four rounds", {"passes": 4}),
        "fast": ("eight rounds: **`fast`**", {}),
        "quality": ("twenty: **`quality`**", {"preset": "quality"}),
        "known": ("`fast` that is told the kernel", {"told": True}),
    },
}
COLUMNS = {
    "inpaint": ("1", "2", "4"),
    "denoise": ("10", "20", "40"),
    "super-resolve": ("delta", "diagonal", "round"),
}
HEADS = {
    "inpaint": "{} % hole",
    "denoise": "σ {}",
    "super-resolve": "{}",
}
QUICK = ("set5/butterfly.png",)
FIELDS = ["task", "image", "column", "method", "recipe", "psnr", "seconds", "cpu_seconds"]


@cache
def warm_up() -> None:
    """Pay for imports and first use once a process, outside the seconds measured."""
    import knitcore

    image = np.random.default_rng(0).integers(0, 255, (48, 48)).astype(np.uint8)
    knitcore.inpaint(image, image > 200, steps=2)


def measure(case: dict[str, Any], data: Path) -> dict[str, Any]:
    """One image by one line's recipe; a row of the CSV file."""
    import knitcore
    from knitcore import kriging

    warm_up()
    task, column = case["task"], case["column"]
    fields = dict(LINES[task][case["method"].partition(" ")[2]][1])
    image = read_pixels(data / case["image"])
    axes = "YXS"[: image.ndim]
    if task == "inpaint":
        mask = hole_mask(data, case["image"], column, image.shape)
        damaged = image.copy()
        damaged[mask] = 0
        constants = fields.pop("kriging", None)
        with patch.multiple(kriging, **constants) if constants else nullcontext():
            result, seconds = timed(partial(knitcore.inpaint, axes=axes, **fields), damaged, mask)
        return {"psnr": scores(image / 255, result.image / 255, mask)["psnr"]} | seconds
    if task == "denoise":
        number = set_images(data, case["image"].split("/")[0]).index(case["image"])
        noisy = add_noise(image, int(column), number)
        result, seconds = timed(partial(knitcore.denoise, axes=axes, **fields), noisy)
    else:
        image = read_fine(data / case["image"], 2)
        kernel = true_kernel(column, 2)
        told = kernel if fields.pop("told", False) else "estimate"
        run = partial(knitcore.super_resolve, axes=axes, anchor="corner", **fields)
        result, seconds = timed(run, degrade(image, kernel, 2), 2, told)
    found = np.clip(result.image.astype(np.float64), 0, 255)
    return {"psnr": knitcore.psnr(found, image, data_range=255)} | seconds


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page of a set of rows."""
    page = f"""# What each technique gives

`fast` with one thing after the other taken out; PSNR in dB (inpainting: inside the hole), and the processor
seconds of an image (last column). Whole images. Made by `benchmarks/ablation.py`; every
case is in the CSV file beside this page. {threads}
Machine: {machine()}

"""
    for task, lines in LINES.items():
        own = [row for row in rows if row["task"] == task]
        if not own:
            continue
        sets = sorted({row["image"].split("/")[0] for row in own}, key=lambda s: (len(s), s))
        cells = [(s, c) for s in sets for c in COLUMNS[task]]
        counts = ", ".join(
            f"{s.replace('set', 'Set')}: {len({r['image'] for r in own if r['image'].startswith(s)})}"
            for s in sets
        )
        head = ["", *(f"{s.replace('set', 'Set')} {HEADS[task].format(c)}" for s, c in cells)]
        out = []
        for name, (title, _) in lines.items():
            mine = [row for row in own if row["method"] == f"{task} {name}"]
            if not mine:
                continue
            numbers = [
                mean_of([r for r in mine if r["image"].startswith(s) and r["column"] == c], "psnr")
                for s, c in cells
            ]
            out.append([*figures(title, numbers), f"{mean_of(mine, 'cpu_seconds'):.1f}"])
        page += f"## `knit {task}`\n\nImages: {counts}.\n\n{table([*head, 'mean', 's'], out)}\n"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--tasks", default=",".join(LINES))
    parser.add_argument("--sets", default="set5")
    parser.add_argument("--quick", action="store_true", help="one image")
    methods = [f"{task} {name}" for task, lines in LINES.items() for name in lines]
    add_run_options(parser, methods, RESULTS / "ablation.csv")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "masks/holes.json")
    out = options.out
    if options.quick and out == RESULTS / "ablation.csv":
        out = out.with_name("ablation-quick.csv")
    images = QUICK if options.quick else set_images(data, *options.sets.split(","))
    chosen = options.methods.split(",")
    cases = [
        {"task": task, "image": image, "column": column, "method": f"{task} {name}"}
        for task in options.tasks.split(",")
        for image in images
        for column in COLUMNS[task]
        for name in LINES[task]
        if f"{task} {name}" in chosen
    ]
    keys = {
        f"{task} {name}": code_key(
            task, **{k: v for k, v in fields.items() if k not in ("told", "kriging")}
        )
        for task, lines in LINES.items()
        for name, (_, fields) in lines.items()
    }
    rows = run_cases(
        partial(measure, data=data), cases, out, FIELDS, keys, options.jobs, options.fresh
    )
    page = summary(rows, threads_line(options.jobs))
    out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
