"""Seconds of `denoise` and `super_resolve`, beside BM3D, the article's settings and deep image prior.

    python benchmarks/speed_denoise_sr.py --data FOLDER [--threads 2]

One 256x256 image (Set5 butterfly): noise of 10, 20 and 40, and factor 2. The learned peers are
timed over a few steps and multiplied.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    data_folder,
    machine,
    read_pixels,
    say,
    seconds_a_step,
    table,
    timed,
)
from denoising import add_noise, denoise_bm3d

IMAGE = "set5/butterfly.png"
SIGMA, OTHERS = 20, (10, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--threads", type=int, help="threads of torch and BM3D (default: theirs)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--paper-steps",
        type=int,
        default=4,
        help="timed steps, of deep image prior ten times as many; 0: none",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "speed_denoise_sr.md")
    options = parser.parse_args()
    data = data_folder(parser, options.data, IMAGE)
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import torch

    import knitcore
    from knitcore.baselines import deep_image_prior as dip
    from knitcore.recipe import make_recipe

    if options.threads:
        torch.set_num_threads(options.threads)
    clean = read_pixels(data / IMAGE)

    def denoise(strength: int = SIGMA, **fields: object) -> float:
        noisy = add_noise(clean, strength, 0)
        return knitcore.denoise(noisy, axes="YXS", **fields).record["seconds"]["total"]

    def given() -> float:
        return denoise(sigma=float(SIGMA))

    def enlarge(**fields: object) -> float:
        return knitcore.super_resolve(clean, 2, axes="YXS", **fields).record["seconds"]["total"]

    def bm3d() -> float:
        return timed(denoise_bm3d, add_noise(clean, SIGMA, 0), SIGMA)[1]["seconds"]

    tasks: dict[str, Callable[[], float]] = {
        "denoise, sigma not given": denoise,
        "denoise, sigma given": given,
        **{f"denoise, noise of {s} grey levels": partial(denoise, s) for s in OTHERS},
        "super-resolve ×2, blind": enlarge,
    }
    if find_spec("bm3d"):
        tasks["BM3D, sigma given"] = bm3d
    measured: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()  # first use is slow
    for _ in range(options.runs):  # side by side, so that all see the same load
        for name, task in tasks.items():
            measured[name].append(task())
            say(f"{name}: {measured[name][-1]:.1f} s")
    median = {name: float(np.median(each)) for name, each in measured.items()}
    rows = []
    for name, each in measured.items():
        ratio = ""
        if name.startswith("denoise") and "BM3D, sigma given" in median:
            ratio = f"{median[name] / median['BM3D, sigma given']:.2f}"
        rows.append([name, f"**{median[name]:.1f}**", f"{min(each):.1f}–{max(each):.1f}", ratio])
    text = f"""# Seconds: denoising and super-resolution

{IMAGE} ({clean.shape[0]}×{clean.shape[1]}, RGB), threads of torch and BM3D: {torch.get_num_threads()}; the tasks in
turn, runs: {options.runs}. Noise of {SIGMA} grey levels if not said; ×2 makes 512×512 pixels. Made by
`benchmarks/speed_denoise_sr.py`. Machine: {machine("bm3d")}

{table(["`fast`", "median", "range", "of BM3D"], rows)}"""
    if options.paper_steps:
        noisy = add_noise(clean, SIGMA, 0)

        runs: dict[tuple[str, str], Callable[[int], float]] = {
            ("denoise", "`paper`"): lambda n: denoise(preset="paper", steps=n),
            ("denoise", "deep image prior"): lambda n: timed(
                partial(dip.denoise_deep_image_prior, noisy, steps=n)
            )[1]["seconds"],
            ("super-resolve", "`paper`"): lambda n: enlarge(preset="paper", steps=n),
            ("super-resolve", "deep image prior"): lambda n: timed(
                partial(dip.super_resolve_deep_image_prior, clean, 2, steps=n)
            )[1]["seconds"],
        }
        fast = {"denoise": "denoise, sigma not given", "super-resolve": "super-resolve ×2, blind"}
        rows = []
        for (task, title), run in runs.items():
            paper = title == "`paper`"
            steps = make_recipe(task, preset="paper").steps if paper else dip.STEPS[task]
            step = seconds_a_step(run, options.paper_steps if paper else 10 * options.paper_steps)
            say(f"{task}, {title}: {step:.2f} s a step")
            whole = step * steps
            ratio = f"**{whole / median[fast[task]]:.0f}**"
            rows.append([task, title, f"{step:.2f}", str(steps), f"{whole / 3600:.1f}", ratio])
        text += f"""
On the same image, timed over a few steps and multiplied by their articles' numbers of steps:

{table(["", "", "seconds a step", "steps", "hours", "times `fast`"], rows)}"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
