"""PSNR against time: the learned systems while they run, ours and the classical methods as points.

    python benchmarks/curves.py --data FOLDER [--quick] [--image set5/butterfly.png]

One image, reduced as in settings.py: its 2 % hole, noise of 20 grey levels, the round kernel at factor 2.
The learned systems run their articles' full lengths, or with --quick the tables' steps. Seconds are of the processor, on one thread, without
what the scoring costs. One CSV row a point; a killed run goes on with the next method.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    append_row,
    data_folder,
    machine,
    read_rows,
    say,
    table,
    write_rows,
)
from denoising import add_noise
from settings import FULL_STEPS, ORDER, SIDE, STEPS, TILE, TITLES
from super_resolution import degrade, true_kernel
from table1_inpainting import fill, hole_mask
from table2_super_resolution import enlarge
from table3_denoising import clean_up
from tables import MODULES, choose_precision, quick_precision, reduced

TASKS = ("inpaint", "denoise", "super-resolve")
TITLE_OF = {
    "inpaint": "inpainting, 2 % hole: PSNR inside the hole",
    "denoise": "denoising, σ 20: PSNR",
    "super-resolve": "blind super-resolution ×2, round kernel: PSNR",
}
LEARNED = ("mlp", "dip", "paper")
POINTS = {
    "inpaint": ("fast", "harmonic", "biharmonic", "telea"),
    "denoise": ("fast", "nlm", "tv", "wavelet", "bm3d"),
    "super-resolve": ("fast", "bicubic", "tv-known"),
}
FIELDS = ["task", "method", "side", "steps", "seconds", "psnr"]
PICTURES = 60  # scored in a run
FIRST = 0.05  # seconds: a picture before is that of a start, not of a fit


class Case:
    """One task on one image: what a method gets, and how its picture is scored."""

    def __init__(self, task: str, data: Path, image: str, side: int) -> None:
        self.task = task
        clean = reduced(data / image, side, 4)
        self.clean, self.mask, self.told = clean, np.ones(clean.shape[:2], bool), ()
        if task == "inpaint":
            self.mask = hole_mask(data, image, "2", clean.shape)
            damaged = clean.copy()
            damaged[self.mask] = 0
            self.told = (damaged, self.mask)
        elif task == "denoise":
            self.told = (add_noise(clean, 20, ORDER.index(image)),)
        else:
            self.told = (degrade(clean, true_kernel("round", 2), 2), 2)

    def score(self, picture: np.ndarray) -> float:
        """PSNR, dB, inside the hole if there is one."""
        from knitcore import psnr

        mask = None if self.task != "inpaint" else self.mask
        return psnr(np.clip(picture, 0, 255), self.clean, mask, data_range=255)

    def steps(self, method: str, count: int) -> Generator[Any, None, Any]:
        """A learned method's generator of events with pictures on the way."""
        name = {"inpaint": "inpaint", "denoise": "denoise", "super-resolve": "super_resolve"}
        told: dict[str, Any] = {"steps": count, "seed": 0}
        if self.task == "super-resolve":
            told["anchor"] = "corner"
        if method in MODULES:
            module = MODULES[method]
            function = getattr(
                import_module(f"knitcore.baselines.{module}"), f"{name[self.task]}_{module}_steps"
            )
            told |= {"precision": quick_precision(), "preview_every": max(1, count // PICTURES)}
            return function(*self.told, **told)
        import knitcore
        from knitcore.recipe import make_recipe

        tile = {} if self.task == "super-resolve" else {"tile": TILE}
        scale = {"scale": 2} if self.task == "super-resolve" else {}
        recipe = make_recipe(self.task, preset="paper", **told, **tile, **scale)
        mask = self.told[1] if self.task == "inpaint" else None
        axes = "YXS"[: self.clean.ndim]
        return knitcore.run_steps(recipe, self.told[0], mask, axes=axes, previews=True)

    def point(self, method: str) -> np.ndarray:
        """The picture of a method without a curve."""
        if self.task == "inpaint":
            return 255 * fill(method, *self.told, 0)
        if self.task == "denoise":
            return clean_up(method, *self.told, 20.0, 0)
        return enlarge(method, *self.told, "round", 0)


def follow(
    steps: Generator[Any, None, Any], score: Callable[[np.ndarray], float], shape: tuple[int, ...]
) -> list[tuple[float, float]]:
    """Processor seconds and PSNR at each picture of a run and at its end."""
    from knitcore import Preview

    picture, points, seconds, told = np.zeros(shape, np.float32), [], 0.0, -1.0
    while True:
        start = time.process_time()
        try:
            event = next(steps)
        except StopIteration as end:
            seconds += time.process_time() - start
            final = getattr(end.value, "image", end.value)
            return [*points, (seconds, score(final))]
        seconds += time.process_time() - start
        if isinstance(event, Preview):
            picture[event.box] = event.values
            # evenly on the logarithmic axis
            if seconds > FIRST and seconds - told > 0.02 * seconds:
                points.append((seconds, score(picture)))
                told = seconds


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """The picture: one panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    figure, grid = pyplot.subplots(
        1, len(tasks), figsize=(5 * len(tasks), 4.6), constrained_layout=True, squeeze=False
    )
    axes = grid[0]
    colours = {"fast": "#c2185b", "paper": "#1565c0", "dip": "#2e7d32", "mlp": "#8d6e63"}
    for task, panel in zip(tasks, axes, strict=True):
        mine = [row for row in rows if row["task"] == task]
        for method in LEARNED:
            line = [(float(r["seconds"]), float(r["psnr"])) for r in mine if r["method"] == method]
            if line:
                panel.plot(*zip(*line, strict=True), color=colours[method], label=TITLES[method])
        for number, method in enumerate(POINTS[task]):
            point = [r for r in mine if r["method"] == method]
            if point:
                seconds, psnr = float(point[-1]["seconds"]), float(point[-1]["psnr"])
                ours = method == "fast"
                panel.plot(
                    max(seconds, 1e-3),
                    psnr,
                    marker="*" if ours else "osD^v"[number],
                    markersize=16 if ours else 7,
                    linestyle="",
                    color=colours["fast"] if ours else "0.45",
                    label=TITLES[method].replace("*", ""),
                    zorder=3,
                )
        panel.set_xscale("log")
        panel.set_title(TITLE_OF[task], fontsize=10)
        panel.set_xlabel("processor seconds")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    axes[0].set_ylabel("dB")
    figure.savefig(path, dpi=110)


def summary(rows: list[dict[str, str]], image: str, side: int) -> str:
    """The Markdown page."""
    parts = []
    for task in TASKS:
        lines = []
        mine = [row for row in rows if row["task"] == task]
        if not mine:
            continue
        for method in (*POINTS[task], *LEARNED):
            points = [
                (float(r["seconds"]), float(r["psnr"])) for r in mine if r["method"] == method
            ]
            if not points:
                continue
            steps = next(r["steps"] for r in mine if r["method"] == method)
            best = max(points, key=lambda p: p[1])
            lines.append(
                [
                    TITLES[method],
                    steps if steps != "0" else "–",
                    f"{points[-1][1]:.2f}",
                    f"{points[-1][0]:.2f}",
                    f"{best[1]:.2f} at {best[0]:.1f} s" if len(points) > 1 else "–",
                ]
            )
        head = ["", "steps", "PSNR at the end", "processor s", "best on the way"]
        parts.append(f"## {TITLE_OF[task].capitalize()} (dB)\n\n{table(head, lines)}")
    body = "\n".join(parts)
    return f"""# PSNR against time

`{image}` at {side} px on the long side; the learned systems for so many steps as the tables say (their
articles' full lengths, but for `paper` in super-resolution), scored on the way. A method whose best lies before its end would have to know when to stop. Learned peers and `paper`
multiply matrices in bfloat16 where the processor has units for it. One thread. Made by `benchmarks/curves.py`.
Machine: {machine()}

![PSNR against seconds](curves.png)

{body}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--image", default="set5/butterfly.png")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--quick", action="store_true", help="the tables' numbers of steps")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default=None, help="default: all of each task")
    parser.add_argument("--out", type=Path, default=RESULTS / "curves.csv")
    options = parser.parse_args()
    data = data_folder(parser, options.data, options.image)
    if options.quick and options.out == RESULTS / "curves.csv":
        options.out = RESULTS / "curves-quick.csv"
    rows = read_rows(options.out)
    if not rows:
        write_rows(options.out, [], FIELDS)
    for task in options.tasks.split(","):
        case = Case(task, data, options.image, options.side)
        choose_precision("fast")
        case.point("fast")  # first use is slow
        for method in (*POINTS[task], *LEARNED):
            if options.methods and method not in options.methods.split(","):
                continue
            if any(row["task"] == task and row["method"] == method for row in rows):
                continue
            count = 0
            choose_precision(method)
            if method in LEARNED:
                count = (STEPS if options.quick else FULL_STEPS)[method][task]
                points = follow(case.steps(method, count), case.score, case.clean.shape)
            else:
                start = time.process_time()
                picture = case.point(method)
                points = [(time.process_time() - start, case.score(picture))]
            for seconds, psnr in points:
                row = {"task": task, "method": method, "side": options.side, "steps": count}
                append_row(
                    options.out, row | {"seconds": f"{seconds:.4f}", "psnr": f"{psnr:.4f}"}, FIELDS
                )
            say(f"{task} {method}: {points[-1][1]:.2f} dB, {points[-1][0]:.1f} s")
    rows = read_rows(options.out)
    draw(rows, options.out.with_suffix(".png"))
    page = summary(rows, options.image, options.side)
    options.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
