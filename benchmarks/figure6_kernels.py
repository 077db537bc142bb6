"""Figure 6 of the article: kernels found blindly, beside the true ones.

    python benchmarks/figure6_kernels.py --data FOLDER [--methods fast,paper] [--images 1] [--steps 300]

The reduced images of settings.py are blurred by one of three kernels at two factors and sampled; `fast`
estimates the kernel from the spectrum, `paper` fits the article's deep linear network with the knitwork. One
CSV row a case; a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    data_folder,
    run_cases,
    say,
    table,
    threads_line,
    timed,
)
from PIL import Image, ImageDraw
from settings import ORDER, SIDE, STEPS, TILE
from super_resolution import FACTORS, KERNELS, degrade, kernel_shape, true_kernel
from tables import choose_precision, machine_line, reduced

METHODS = ("fast", "paper")
FIELDS = ["image", "factor", "kernel", "method", "recipe", "psnr", "off", "wide", "narrow"]
FIELDS += ["angle", "seconds", "cpu_seconds"]
PICTURE = RESULTS / "figure6_kernels.png"
SAVED = RESULTS / "kernels"  # to be drawn; not for the repository


def saved_kernel(case: dict[str, Any], out: Path) -> Path:
    image = case["image"].replace("/", "-").removesuffix(".png")
    parts = (out.stem, image, case["factor"], case["kernel"], case["method"])
    return SAVED / f"{'_'.join(map(str, parts))}.npy"


def measure(case: dict[str, Any], data: Path, side: int, steps: int, out: Path) -> dict[str, Any]:
    """Find one kernel by one method; a row of the CSV file."""
    import knitcore

    factor, method = case["factor"], case["method"]
    choose_precision(method)
    fine = reduced(data / case["image"], side, max(FACTORS))
    coarse = degrade(fine, true_kernel(case["kernel"], factor), factor)
    more = {"preset": "paper", "steps": steps, "tile": TILE, "seed": 0} if method == "paper" else {}
    # the one thing told: coarse pixel i lies on fine pixel i * factor
    axes = "YXS"[: fine.ndim]
    run = partial(knitcore.super_resolve, axes=axes, anchor="corner", **more)
    result, seconds = timed(run, coarse, factor)
    SAVED.mkdir(parents=True, exist_ok=True)
    np.save(saved_kernel(case, out), result.kernel)
    score = knitcore.psnr(result.image, fine, data_range=255)
    return {"psnr": score, **kernel_shape(result.kernel), **seconds}


def draw(rows: list[dict[str, str]], out: Path) -> Image.Image:
    """The true kernel and those found, one image and method a column, by the root of their weights."""
    size, gap, left, top = 96, 4, 84, 30
    columns = sorted({(row["image"], row["method"]) for row in rows})
    cells = [(factor, kernel) for factor in FACTORS for kernel in KERNELS]
    width = left + (len(columns) + 1) * (size + gap)
    sheet = Image.new("RGB", (width, top + len(cells) * (size + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((left + 2, 2), "truth", fill="black")
    for number, (image, method) in enumerate(columns, 1):
        title = f"{Path(image).stem}\n{method}"
        pen.text((left + number * (size + gap) + 2, 2), title, fill="black")
    for line, (factor, name) in enumerate(cells):
        y = top + line * (size + gap)
        pen.text((2, y + size // 2), f"x{factor} {name}", fill="black")
        kernels: list[np.ndarray | None] = [true_kernel(name, factor)]
        for image, method in columns:
            case = {"image": image, "factor": factor, "kernel": name, "method": method}
            path = saved_kernel(case, out)
            kernels.append(np.load(path) if path.exists() else None)
        for column, kernel in enumerate(kernels):
            if kernel is None:
                continue
            reach = 4 * factor
            window = np.pad(np.clip(kernel, 0, None), reach)
            cut = tuple(slice(n // 2 - reach, n // 2 + reach + 1) for n in window.shape)
            shown = np.sqrt(window[cut] / max(window[cut].max(), 1e-9))
            tile = Image.fromarray(np.uint8(255 * shown + 0.5))
            tile = tile.resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(tile.convert("RGB"), (left + column * (size + gap), y))
    return sheet


def summary(rows: list[dict[str, str]], side: int, steps: int, threads: str) -> str:
    """The Markdown page."""
    lines = []
    for factor in FACTORS:
        for name in KERNELS:
            true = kernel_shape(true_kernel(name, factor))
            for method in METHODS:
                mine = [
                    row
                    for row in rows
                    if (row["factor"], row["kernel"], row["method"]) == (str(factor), name, method)
                ]
                if not mine:
                    continue
                line = [f"×{factor} {name}", f"`{method}`", str(len(mine))]
                for part in ("wide", "narrow"):
                    found = np.array([float(row[part]) for row in mine])
                    error = np.abs(found - true[part]).mean()
                    line += [f"{true[part]:.2f}", f"{found.mean():.2f}", f"{error:.2f}"]
                turns = [(float(row["angle"]) - true["angle"] + 90) % 180 - 90 for row in mine]
                line.append(f"{np.abs(turns).mean():.1f}" if name == "diagonal" else "–")
                for part, digits in (("off", 3), ("psnr", 2), ("cpu_seconds", 1)):
                    line.append(f"{np.mean([float(row[part]) for row in mine]):.{digits}f}")
                lines.append(line)
    paper = any(row["method"] == "paper" for row in rows)
    told = f"; `paper` {steps} steps" if paper else "; `paper` is not measured yet"
    head = ["kernel", "method", "images", "wide: true", "found", "error", "narrow: true", "found"]
    head += ["error", "angle: error", "centre off", "PSNR (dB)", "processor seconds"]
    return f"""# Figure 6: kernels found, beside the true ones

Images of at most {side} px on the long side{told}. Kernels as in
[super_resolution.md](super_resolution.md), which has `fast` on the images at full size. Standard deviations along the
wide and the narrow direction and centres in fine pixels, angles in degrees; errors are means of absolute
values over the images. Small images tell little of their kernel: no figure here holds for full size.
Made by `benchmarks/figure6_kernels.py`; every case is in the CSV file beside this page. {threads} {machine_line()}

![True kernels and those found]({PICTURE.name})

{table(head, lines)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add_data_option(parser)
    add_run_options(parser, METHODS, RESULTS / "figure6_kernels.csv")
    parser.add_argument("--images", type=int, default=1, help="how many, in the order set")
    parser.add_argument("--side", type=int, default=SIDE, help="long side; 0: full size")
    steps = STEPS["paper"]["super-resolve"]
    parser.add_argument("--steps", type=int, default=steps, help="of the preset paper")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "set5/bird.png")
    cases = [
        {"image": image, "factor": factor, "kernel": kernel, "method": method}
        for image in ORDER[: options.images]
        for method in options.methods.split(",")
        for factor in FACTORS
        for kernel in KERNELS
    ]
    keys = {"fast": str(options.side), "paper": f"{options.side} {options.steps}"}
    told = {"data": data, "side": options.side, "steps": options.steps, "out": options.out}
    rows = run_cases(
        partial(measure, **told), cases, options.out, FIELDS, keys, options.jobs, options.fresh
    )
    page = summary(rows, options.side, options.steps, threads_line(options.jobs))
    options.out.with_suffix(".md").write_text(page)
    picture = PICTURE if options.out.parent == RESULTS else options.out.with_suffix(".png")
    lost = [row for row in rows if not saved_kernel(row, options.out).exists()]
    if lost and picture.exists():
        say(f"{len(lost)} of {len(rows)} kernels were found elsewhere: the picture stays as it is")
    else:
        draw(rows, options.out).save(picture, optimize=True)
    print(page)


if __name__ == "__main__":
    main()
