"""Figure 3 of the article: does each step from coordinate MLP to Neural Knitwork help?

    python benchmarks/figure3_ablation.py --data FOLDER [--quick] [--jobs 2] [--images 3]

The 2 % holes of the reduced images of settings.py, filled by `knitcore.inpaint` with the preset `paper`
in which one thing after the other is switched on; each rung is a plain recipe. One CSV row a case; a killed
run goes on where it was. A picture shows the fills side by side.
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
    crop_round,
    data_folder,
    mean_of,
    run_cases,
    table,
    threads_line,
    timed,
)
from inpainting import scores
from PIL import Image, ImageDraw
from settings import ORDER, QUICK, SIDE, STEPS, TILE
from table1_inpainting import hole_mask
from tables import choose_precision, machine_line, reduced, steps_of

OFF: dict[str, Any] = {"alpha": 0.0, "alpha_start": 0.0, "discriminator": False, "gamma": 0.0}
RUNGS: dict[str, dict[str, Any]] = {
    "mlp": {**OFF, "patch_size": 1, "scales": (1,), "reconstructor": "none", "depth": 3},
    "patches": OFF,
    "consistency": {"discriminator": False, "gamma": 0.0},
    "discriminator": {},
}
TITLES = {
    "mlp": "coordinate MLP",
    "patches": "+ patches, reconstructor",
    "consistency": "+ cross-patch consistency",
    "discriminator": "+ discriminator: `paper`",
}
FIELDS = ["image", "method", "recipe", "side", "steps", "parameters", "pixels"]
FIELDS += ["psnr", "ssim", "seconds", "cpu_seconds"]
PICTURE = RESULTS / "figure3_ablation.png"
SAVED = RESULTS / "kernels"  # fills to be drawn; not for the repository


def saved_fill(image: str, rung: str) -> Path:
    return SAVED / f"ablation_{image.replace('/', '-').removesuffix('.png')}_{rung}.npy"


def measure(case: dict[str, Any], data: Path, side: int, length: str) -> dict[str, Any]:
    """Fill one hole by one rung; a row of the CSV file."""
    import knitcore

    choose_precision("paper")
    image = reduced(data / case["image"], side)
    mask = hole_mask(data, case["image"], "2", image.shape)
    damaged = image.copy()
    damaged[mask] = 0
    steps = steps_of("paper", "inpaint", length)
    run = partial(
        knitcore.inpaint,
        axes="YXS"[: image.ndim],
        preset="paper",
        steps=steps,
        tile=TILE,
        seed=0,
        **RUNGS[case["method"]],
    )
    result, seconds = timed(run, damaged, mask)
    SAVED.mkdir(parents=True, exist_ok=True)
    np.save(saved_fill(case["image"], case["method"]), result.image)
    return {
        "side": side,
        "steps": steps,
        "parameters": result.record["parameters"],
        "pixels": int(mask.sum()),
        **scores(image / 255, result.image / 255, mask),
        **seconds,
    }


def draw(images: list[str], data: Path, side: int) -> Image.Image:
    """Truth, hole and the four fills, an image a row, round the hole."""
    size, gap, top = 150, 6, 18
    titles = ["truth", "hole", *(t.split(":")[0] for t in TITLES.values())]
    sheet = Image.new(
        "RGB", (len(titles) * (size + gap), top + len(images) * (size + gap)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((column * (size + gap) + 2, 3), title, fill="black")
    for row, name in enumerate(images):
        truth = reduced(data / name, side)
        mask = hole_mask(data, name, "2", truth.shape)
        box = crop_round(mask, 14)
        hole = truth.copy()
        hole[mask] = 255
        fills = [np.load(saved_fill(name, rung)) for rung in TITLES]
        for column, picture in enumerate([truth, hole, *fills]):
            tile = Image.fromarray(picture[box]).convert("RGB")
            tile = tile.resize((size, size), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * (size + gap), top + row * (size + gap)))
    return sheet


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page."""
    images = sorted({row["image"] for row in rows})
    images = [i for i in ORDER if i in images]
    images = [i for i in images if {r["method"] for r in rows if r["image"] == i} >= set(RUNGS)]

    def block(field: str, digits: int) -> str:
        lines = []
        for rung, title in TITLES.items():
            mine = [r for r in rows if r["method"] == rung]
            each = [mean_of([r for r in mine if r["image"] == i], field) for i in images]
            lines.append([title, *(f"{v:.{digits}f}" for v in [*each, float(np.mean(each))])])
        return table(["", *(Path(i).stem for i in images), "mean"], lines)

    counts = {r["method"]: r["parameters"] for r in rows}
    numbers = ", ".join(f"{TITLES[m]} {int(counts[m]):,}" for m in RUNGS if m in counts)
    return f"""# Figure 3: the article's ablation

2 % holes, images of at most {rows[0]["side"]} px on the long side, {rows[0]["steps"]} steps, one seed. Each rung is
`knit inpaint --preset paper` with other recipe fields (benchmarks/figure3_ablation.py). Trained numbers: {numbers}.
{threads} {machine_line()}

![The fills]({PICTURE.name})

## PSNR inside the hole (dB)

{block("psnr", 2)}
## SSIM inside the hole

{block("ssim", 3)}
## Processor seconds a hole

{block("cpu_seconds", 1)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    add_run_options(parser, tuple(RUNGS), RESULTS / "figure3_ablation.csv")
    parser.add_argument("--images", type=int, default=3, help="how many, in the order set")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--quick", action="store_true", help="one image, few steps")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "masks/holes.json")
    out = options.out
    if options.quick and out == RESULTS / "figure3_ablation.csv":
        out = out.with_name("figure3_ablation-quick.csv")
    length = "quick" if options.quick else "table"
    names = QUICK if options.quick else ORDER[: options.images]
    cases = [
        {"image": image, "method": rung} for image in names for rung in options.methods.split(",")
    ]
    key = f"{options.side} {steps_of('paper', 'inpaint', length)} {STEPS['paper']['inpaint']}"
    run = partial(measure, data=data, side=options.side, length=length)
    rows = run_cases(
        run, cases, out, FIELDS, dict.fromkeys(RUNGS, key), options.jobs, options.fresh
    )
    page = summary(rows, threads_line(options.jobs))
    out.with_suffix(".md").write_text(page)
    done = [i for i in ORDER if all(saved_fill(i, rung).exists() for rung in RUNGS)]
    if done:
        sheet = draw(done[: options.images], data, options.side)
        sheet.save(
            PICTURE if out.parent == RESULTS and not options.quick else out.with_suffix(".png")
        )
    print(page)


if __name__ == "__main__":
    main()
