"""All three tasks on the middle of any pictures, such as nobody has chosen a setting by.

    python benchmarks/unseen.py FOLDER ... [--each 8] [--tasks inpaint,denoise,super-resolve] [--jobs 2]

Of each folder so many pictures, evenly spread over its names, are cut to their middle 256 x 256 pixels,
8-bit. Holes of 1, 2 and 4 % lie at random, two each; noise of 10, 20 and 40 is added and not clipped;
kernels are those of super_resolution.py. One CSV row a case; a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import zlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import denoising
import inpainting
import numpy as np
import super_resolution
from common import (
    RESULTS,
    add_run_options,
    code_key,
    figures,
    machine,
    mean_of,
    run_cases,
    say,
    table,
    threads_line,
    timed,
)
from PIL import Image

SIDE = 256
# of each task the first is ours
METHODS = {
    "inpaint": ("inpaint", "kriging", "harmonic", "biharmonic", "telea", "navier-stokes"),
    "denoise": ("denoise", "bm3d"),
    "super-resolve": ("super-resolve", "bicubic", "tv"),
}
BENCHMARKS = {"inpaint": inpainting, "denoise": denoising, "super-resolve": super_resolution}
THEIR_NAME = {"inpaint": "fast", "denoise": "blind", "super-resolve": "blind"}  # of ours, there
RIVAL = {"inpaint": "harmonic", "denoise": "bm3d", "super-resolve": "tv"}
SETTINGS = {
    "inpaint": ("1 %", "2 %", "4 %"),
    "denoise": ("σ 10", "σ 20", "σ 40"),
    "super-resolve": tuple(
        f"×{factor} {kernel}"
        for factor in super_resolution.FACTORS
        for kernel in super_resolution.KERNELS
    ),
}
TITLES = {"inpaint": "Inpainting", "denoise": "Denoising", "super-resolve": "Super-resolution"}
FIELDS = ["task", "image", "setting", "method", "recipe", "psnr", "seconds", "found"]
FIELDS += ["within_2std", "spearman"]
ENDINGS = {".png", ".tif", ".tiff", ".jpg", ".bmp"}


def middle(path: Path) -> np.ndarray:
    """The middle of a picture, uint8, (Y, X) or (Y, X, 3); even sides of at most `SIDE`."""
    with Image.open(path) as picture:
        image = np.asarray(picture.convert("L" if picture.mode in ("L", "1", "P") else "RGB"))
    height, width = (min(SIDE, n // 4 * 4) for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def draw(*about: str | int) -> np.random.Generator:
    """Random numbers that depend on what they are for alone."""
    return np.random.default_rng(zlib.crc32(" ".join(map(str, about)).encode()))


def random_hole(shape: tuple[int, ...], percent: int, name: str, number: int) -> np.ndarray:
    """A rectangle of so many percent of the area, its sides at most 2 to 1."""
    rng = draw(name, percent, number)
    area, ratio = percent / 100 * shape[0] * shape[1], 2 ** rng.uniform(-1, 1)
    height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    y, x = rng.integers(4, shape[0] - height - 4), rng.integers(4, shape[1] - width - 4)
    mask = np.zeros(shape[:2], bool)
    mask[y : y + height, x : x + width] = True
    return mask


def measure(case: dict[str, Any], folders: dict[str, Path]) -> dict[str, Any]:
    """One method on one picture; a row of the CSV file."""
    folder, name = case["image"].split("/")
    clean, setting = middle(folders[folder] / name), case["setting"]
    method = THEIR_NAME.get(case["method"], case["method"])
    if case["task"] == "inpaint":
        return _inpaint(clean, method, int(setting.split()[0]), name)
    from knitcore import psnr

    row: dict[str, Any] = {}
    if case["task"] == "denoise":
        sigma = int(setting.split()[1])
        noise = draw(name, sigma).normal(0, sigma, clean.shape)
        denoising.warm_up(method)
        noisy = (clean + noise).astype(np.float32)
        result, seconds = timed(denoising.DENOISERS[method], noisy, float(sigma))
        if isinstance(result, tuple):
            result, row["found"] = result
    else:
        factor, kernel = int(setting[1]), setting.split()[1]
        coarse = super_resolution.degrade(
            clean, super_resolution.true_kernel(kernel, factor), factor
        )
        super_resolution.warm_up(method)
        result, seconds = timed(super_resolution.ENLARGERS[method], coarse, factor, kernel)
        result = getattr(result, "image", result)
    row["psnr"] = psnr(np.clip(result, 0, 255), clean, data_range=255)
    return row | {"seconds": seconds["seconds"]}


def _inpaint(clean: np.ndarray, method: str, percent: int, name: str) -> dict[str, Any]:
    """Means over two holes."""
    rows = []
    inpainting.warm_up(method)
    for number in range(2):
        mask = random_hole(clean.shape, percent, name, number)
        damaged = clean.copy()
        damaged[mask] = 0
        (filled, std), clock = timed(inpainting.FILLS[method], damaged, mask)
        row = {"seconds": clock["seconds"]}
        row["psnr"] = inpainting.scores(clean / 255, filled, mask)["psnr"]
        if std is not None:
            told = inpainting.calibration((filled - clean / 255)[mask], std[mask])
            row |= {key: told[key] for key in ("within_2std", "spearman")}
        rows.append(row)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page."""
    folders = list(dict.fromkeys(row["image"].split("/")[0] for row in rows))
    parts = []
    for task, methods in METHODS.items():
        mine = [row for row in rows if row["task"] == task]
        if mine:
            parts.append(_task_part(task, methods, mine, folders))
    counts = ", ".join(
        f"{folder} ({len({r['image'] for r in rows if r['image'].split('/')[0] == folder})})"
        for folder in folders
    )
    return f"""# Pictures nobody has chosen a setting by

The middle {SIDE} × {SIDE} pixels, 8-bit, of {counts}. Inpainting: two random holes a picture and size,
PSNR inside the hole. Denoising: Gaussian noise, not clipped; BM3D is told σ, ours is not.
Super-resolution: kernels as in [super_resolution.md](super_resolution.md); TV is told the kernel. Made
by `benchmarks/unseen.py`; every case is in the CSV file beside this page. {threads}
Machine: {machine("opencv-python-headless", "bm3d")}

{"".join(parts)}"""


def _task_part(
    task: str, methods: tuple[str, ...], rows: list[dict[str, str]], folders: list[str]
) -> str:
    present = [m for m in methods if any(row["method"] == m for row in rows)]
    measured = [{(r["image"], r["setting"]) for r in rows if r["method"] == m} for m in present]
    rows = [r for r in rows if (r["image"], r["setting"]) in set.intersection(*measured)]
    cells = [(f, s) for f in folders for s in SETTINGS[task]]

    def of(method: str, cell: tuple[str, str]) -> list[dict[str, str]]:
        return [
            row
            for row in rows
            if (row["method"], row["image"].split("/")[0], row["setting"]) == (method, *cell)
        ]

    cells = [cell for cell in cells if of(task, cell)]
    psnr = {m: np.array([mean_of(of(m, cell), "psnr") for cell in cells]) for m in present}
    ours, others = psnr[task], present[1:]
    names = {m: BENCHMARKS[task].NAMES[THEIR_NAME.get(m, m)] for m in present}
    head = ["", *(f"{folder} {setting}" for folder, setting in cells), "mean"]
    lines = [figures(names[m], psnr[m]) for m in present]
    lines += [figures(f"ours − {names[m]}", ours - psnr[m], 2, "+") for m in others]
    if task == "inpaint":
        for title, name in (
            ("errors within 2 std", "within_2std"),
            ("rank correlation", "spearman"),
        ):
            lines.append(figures(title, [mean_of(of(task, cell), name) for cell in cells]))
    text = f"## {TITLES[task]}\n\nPSNR (dB).\n\n{table(head, lines)}\n"
    rival = RIVAL[task]
    if rival not in present:
        return text
    value = {(r["method"], r["image"], r["setting"]): float(r["psnr"]) for r in rows}
    gains = sorted(
        (v - value[rival, image, setting], image, setting)
        for (method, image, setting), v in value.items()
        if method == task and (rival, image, setting) in value
    )
    worst = "; ".join(f"{i} {s} {g:+.2f}" for g, i, s in gains[:5])
    behind = sum(g < 0 for g, _, _ in gains)
    return text + (
        f"Behind {names[rival]} in {behind} of {len(gains)} cases; the worst: {worst}.\n\n"
    )


def pictures(folder: Path, each: int) -> list[Path]:
    """So many pictures of a folder, evenly spread over its names."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)
    step = max(1, len(found) // each) if each else 1
    return found[::step][: each or None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--each", type=int, default=8, help="pictures of a folder; 0: all")
    parser.add_argument("--tasks", default=",".join(METHODS))
    every = dict.fromkeys(name for names in METHODS.values() for name in names)
    add_run_options(parser, tuple(every), RESULTS / "unseen.csv")
    options = parser.parse_args()
    methods = options.methods.split(",")
    if find_spec("bm3d") is None and "bm3d" in methods:
        say("bm3d is not installed: its column stays as it was")
        methods.remove("bm3d")
    cases = [
        {"task": task, "image": f"{folder.name}/{path.name}", "setting": setting, "method": method}
        for folder in options.folders
        for path in pictures(folder, options.each)
        for task in options.tasks.split(",")
        for setting in SETTINGS[task]
        for method in METHODS[task]
        if method in methods
    ]
    keys = {task: code_key(task) for task in METHODS}
    folders = {folder.name: folder for folder in options.folders}
    rows = run_cases(
        partial(measure, folders=folders),
        cases,
        options.out,
        FIELDS,
        keys,
        options.jobs,
        options.fresh,
    )
    page = summary(rows, threads_line(options.jobs))
    options.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
