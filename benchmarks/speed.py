"""Seconds a hole for `fast`, and how many times as long `paper` would take.

    python benchmarks/speed.py --data FOLDER [--threads 2]

One 256x256 image (Set5 butterfly), all its holes; `paper` is timed over 20 steps and multiplied.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import RESULTS, add_data_option, data_folder, machine, say, table
from PIL import Image

IMAGE = "set5/butterfly.png"
TIMED_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-paper", action="store_true", help="time `fast` only")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.md")
    options = parser.parse_args()
    data = data_folder(parser, options.data, IMAGE)

    import torch

    import knitcore
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
        steps = make_recipe(preset="paper").steps
        # the difference leaves out start and rendering
        begin = seconds(mask, preset="paper", steps=2)
        step = (seconds(mask, preset="paper", steps=2 + TIMED_STEPS) - begin) / TIMED_STEPS
        say(f"paper: {step:.2f} s a step")
        text += f"""
`paper` on the same image: {step:.2f} s a step over {TIMED_STEPS} steps, {steps} steps: about
{step * steps / 3600:.1f} hours. That is **{step * steps / fast["2", 0]:.0f} times** `fast` on the
same hole (2 %, replicate 0), {step * steps / median:.0f} times the median above.
"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
