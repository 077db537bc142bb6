"""Seconds a hole for `fast`, and how many times as long `paper` and deep image prior would take.

    python benchmarks/speed.py --data FOLDER [--threads 2]

One 256x256 image (Set5 butterfly), all its holes; the others are timed over 20 steps and multiplied.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
from common import RESULTS, add_data_option, data_folder, machine, say, seconds_a_step, table, timed
from PIL import Image

IMAGE = "set5/butterfly.png"
TIMED_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-paper", action="store_true", help="time `fast` alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.md")
    options = parser.parse_args()
    data = data_folder(parser, options.data, IMAGE)

    import torch

    import knitcore
    from knitcore.baselines import deep_image_prior as dip
    from knitcore.recipe import make_recipe

    if options.threads:
        torch.set_num_threads(options.threads)
    image = np.asarray(Image.open(data / IMAGE))
    holes = json.loads((data / "masks" / "holes.json").read_text())["images"][IMAGE]["holes"]

    def seconds(mask: np.ndarray, **fields: object) -> float:
        result = knitcore.inpaint(image, mask, axes="YXS", device=options.device, **fields)
        return result.record["seconds"]["total"]

    rows, fast = [], {}
    for percent, boxes in holes.items():
        for replicate, (y, x, height, width) in enumerate(boxes):
            mask = np.zeros(image.shape[:2], bool)
            mask[y : y + height, x : x + width] = True
            if not fast:
                seconds(mask, steps=2)  # torch's first use is slow
            fast[percent, replicate] = seconds(mask)
            rows.append(
                [
                    f"{percent} %, replicate {replicate}",
                    f"{height}×{width}",
                    f"{fast[percent, replicate]:.1f}",
                ]
            )
            say(" ".join(rows[-1]))
    median = float(np.median(list(fast.values())))
    text = f"""# Seconds a hole

`fast` on {IMAGE} ({image.shape[0]}×{image.shape[1]}, RGB), {torch.get_num_threads()} torch
threads. Made by `benchmarks/speed.py`. Machine: {machine()}

{table(["hole", "pixels", "seconds"], rows)}
Median: **{median:.1f} s**.
"""
    if not options.no_paper:
        y, x, height, width = holes["2"][0]
        mask = np.zeros(image.shape[:2], bool)
        mask[y : y + height, x : x + width] = True

        def paper(steps: int) -> float:
            return seconds(mask, preset="paper", steps=steps)

        def prior(steps: int) -> float:
            fields = {"steps": steps, "device": options.device}
            return timed(partial(dip.inpaint_deep_image_prior, image, mask, **fields))[1]["seconds"]

        rows = []
        for title, run, steps in (
            ("`paper`", paper, make_recipe(preset="paper").steps),
            ("deep image prior", prior, dip.STEPS["inpaint"]),
        ):
            step = seconds_a_step(run, TIMED_STEPS)
            say(f"{title}: {step:.2f} s a step")
            whole = step * steps
            hours, ratio = f"{whole / 3600:.1f}", f"**{whole / fast['2', 0]:.0f}**"
            rows.append([title, f"{step:.2f}", str(steps), hours, ratio, f"{whole / median:.0f}"])
        text += f"""
On the same image with its 2 % hole, replicate 0, timed over {TIMED_STEPS} steps and multiplied by their articles' numbers of steps:

{table(["", "seconds a step", "steps", "hours", "times `fast`, same hole", "times its median"], rows)}"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
