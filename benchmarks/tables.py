"""What the scripts of the article's tables share: reduced images, the systems, the summary."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    add_data_option,
    add_run_options,
    code_key,
    data_folder,
    machine,
    mean_of,
    read_pixels,
    run_cases,
    say,
    table,
    threads_line,
)
from PIL import Image
from settings import FULL_STEPS, ORDER, QUICK, QUICK_SHARE, SIDE, STEPS, TITLES

MODULES = {
    "mlp": "coordinate_mlp",
    "dip": "deep_image_prior",
    "singan": "singan",
    "zs-n2n": "zs_n2n",
    "noise2fast": "noise2fast",
}
LEARNED = (*MODULES, "paper")
# one small network leaves most of a GPU idle: so many images are fitted on it side by side
GPU_JOBS = 8
FIELDS = ["image", "column", "method", "recipe", "side", "steps", "pixels"]
FIELDS += ["psnr", "ssim", "psnr_whole", "ssim_whole", "seconds", "cpu_seconds"]


def reduced(path: Path, side: int, multiple: int = 1) -> np.ndarray:
    """A picture reduced to at most `side` pixels on its long side (0: as it is), uint8.

    Lanczos with anti-aliasing; cut at bottom and right to a multiple of `multiple`.
    """
    pixels = read_pixels(path)
    if side and max(pixels.shape[:2]) > side:
        share = side / max(pixels.shape[:2])
        height, width = (max(1, round(n * share)) for n in pixels.shape[:2])
        pixels = np.asarray(
            Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
        )
    height, width = (n // multiple * multiple for n in pixels.shape[:2])
    return pixels[:height, :width]


def steps_of(method: str, task: str, length: str) -> int:
    """Steps of a learned method; `length` is "table", "quick" or "full"."""
    if method not in STEPS:
        return 0
    steps = (FULL_STEPS if length == "full" else STEPS)[method][task]
    return max(1, round(steps * QUICK_SHARE)) if length == "quick" and steps else steps


def peer(method: str, task: str) -> Callable[..., Any]:
    """A learned peer's function for a task."""
    module = MODULES[method]
    name = {"inpaint": "inpaint", "denoise": "denoise", "super-resolve": "super_resolve"}[task]
    return getattr(import_module(f"knitcore.baselines.{module}"), f"{name}_{module}")


def run_peer(method: str, task: str, steps: int, *told: Any, **options: Any) -> np.ndarray:
    """Run a learned peer; with 0 steps it decides itself."""
    if steps:
        options["steps"] = steps
    if method not in ("mlp", "dip"):
        options.pop("precision", None)
    return peer(method, task)(*told, seed=0, **options)


def method_key(method: str, task: str, side: int, length: str) -> str:
    """What a row must have been measured with to count.

    `fast` by its code, too; the learned systems, which cost hours, by their settings alone: after a
    change of one of them measure it again with --fresh --methods NAME.
    """
    if method == "fast":
        return f"{side} {code_key(task)}"
    return f"{side} {steps_of(method, task, length)}"


def quick_precision() -> str:
    """bfloat16 if the processor has units for it: without, torch only acts as if, and takes longer."""
    import torch

    can = torch.cpu.get_capabilities()
    lean = can.get("amx_bf16") or can.get("avx512_bf16") or torch.cuda.is_available()
    return "bfloat16" if lean else "float32"


def choose_precision(method: str) -> None:
    """Let torch multiply a learned system's matrices in bfloat16, if the processor can.

    Sums and weights stay float32; `fast` stays as the product has it. It makes a step two to four
    times quicker, and is told in the tables' heads.
    """
    import torch

    lean = method in LEARNED and quick_precision() == "bfloat16"
    precision = "bf16" if lean else "none"
    torch.backends.mkldnn.matmul.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.mkldnn.conv.fp32_precision = precision  # type: ignore[attr-defined]


def run_table(
    task: str,
    methods: Sequence[str],
    columns: Sequence[str],
    quick_columns: Sequence[str],
    measure: Callable[..., dict[str, Any]],
    summarise: Callable[[list[dict[str, str]], list[str], str], str],
    out: Path,
) -> None:
    """Command line of a table's script: measure what is missing, write CSV and Markdown.

    `measure` is a module's function; it gets a case and the keywords data, side and length.
    """
    parser = argparse.ArgumentParser(description=str(sys.modules[measure.__module__].__doc__))
    add_data_option(parser)
    add_run_options(parser, methods, out)
    parser.set_defaults(jobs=None)
    parser.add_argument("--images", type=int, default=len(ORDER), help="how many, in the order set")
    parser.add_argument("--side", type=int, default=SIDE, help="long side; 0: full size")
    parser.add_argument("--full", action="store_true", help="the articles' numbers of steps")
    parser.add_argument(
        "--quick", action="store_true", help="one image, few steps: see settings.py"
    )
    parser.add_argument("--device", default="auto", help="for the learned systems")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "set5/bird.png")
    length = "quick" if options.quick else "full" if options.full else "table"
    if options.quick and options.out == out:
        options.out = out.with_name(f"{out.stem}-quick.csv")
    asked = options.methods.split(",")
    if "bm3d" in asked and find_spec("bm3d") is None:
        say("bm3d is not installed: its rows stay as they are")
        asked.remove("bm3d")
    if options.jobs is None:
        on_gpu = options.device.startswith("cuda")
        options.jobs = min(GPU_JOBS, os.cpu_count() or 1) if on_gpu else 1
    cases = [
        {"image": image, "column": column, "method": method}
        for image in (QUICK if options.quick else ORDER[: options.images])
        for column in (quick_columns if options.quick else columns)
        for method in asked
    ]
    keys = {m: method_key(m, task, options.side, length) for m in methods}
    told = {"data": data, "side": options.side, "length": length, "device": options.device}
    rows = run_cases(
        partial(measure, **told), cases, options.out, FIELDS, keys, options.jobs, options.fresh
    )
    present = [m for m in methods if any(row["method"] == m for row in rows)]
    page = summarise(rows, present, threads_line(options.jobs))
    options.out.with_suffix(".md").write_text(page)
    print(page)


def complete_images(rows: list[dict[str, str]], methods: Sequence[str], column: str) -> list[str]:
    """Images that every method has been measured on in this column: only these are averaged."""
    seen = [
        {r["image"] for r in rows if r["method"] == m and r["column"] == column} for m in methods
    ]
    return sorted(set.intersection(*seen)) if seen else []


class Cells:
    """Means over the complete images of each set and column."""

    def __init__(
        self, rows: list[dict[str, str]], methods: Sequence[str], columns: Sequence[str]
    ) -> None:
        self.rows, self.methods = rows, methods
        self.cells = [(s, c) for s in ("set5", "set14") for c in columns]
        self.images = {
            (s, c): [i for i in complete_images(rows, methods, c) if i.startswith(s)]
            for s, c in self.cells
        }
        self.cells = [cell for cell in self.cells if self.images[cell]]

    def head(self, name: Callable[[str], str]) -> list[str]:
        """Titles of the columns, with the number of images."""
        return [
            f"{s.replace('set', 'Set')} {name(c)} ({len(self.images[s, c])})" for s, c in self.cells
        ]

    def means(self, method: str, field: str) -> list[float]:
        """A method's means."""
        return [
            mean_of(
                [
                    row
                    for row in self.rows
                    if row["method"] == method
                    and row["column"] == c
                    and row["image"] in self.images[s, c]
                ],
                field,
            )
            for s, c in self.cells
        ]

    def block(
        self,
        field: str,
        digits: int,
        name: Callable[[str], str],
        article: dict[str, str] | None = None,
        part: int = 0,
        columns: Sequence[str] = (),
    ) -> str:
        """A table of one figure: a row a method, the article's own below it."""
        lines = []
        every = [(s, c) for s in ("set5", "set14") for c in columns]
        for method in self.methods:
            numbers = self.means(method, field)
            lines.append(
                [TITLES[method], *("–" if np.isnan(v) else f"{v:.{digits}f}" for v in numbers)]
            )
            if article and method in article:
                own = dict(zip(every, article[method].split(), strict=True))
                theirs = [own[cell].split("/")[part] for cell in self.cells]
                lines.append([f"*the article's {TITLES[method].split(',')[0]}*", *theirs])
        return table(["", *self.head(name)], lines)

    def steps_line(self) -> str:
        """Steps and size that the rows were measured with, in a sentence."""
        used: dict[str, set[str]] = {}
        for row in self.rows:
            if row["steps"] not in ("", "0"):
                used.setdefault(row["method"], set()).add(row["steps"])
        each = ", ".join(
            f"{TITLES[m]} {'/'.join(sorted(s, key=int))}{' a scale' if m == 'singan' else ''}"
            for m, s in used.items()
        )
        sides = sorted({row["side"] for row in self.rows})
        size = " and ".join("full size" if s == "0" else f"at most {s} px" for s in sides)
        return f"Images of {size} on the long side, all methods alike. Steps: {each}."


def seconds_table(cells: Cells, name: Callable[[str], str]) -> str:
    """Processor seconds an image."""
    return cells.block("cpu_seconds", 2, name)


def machine_line() -> str:
    """The machine, and that the learned systems multiplied in bfloat16."""
    return (
        "Learned peers and `paper` multiply matrices in bfloat16 where the processor has units for it (sums and "
        f"weights in float32), `fast` and the classical methods do not. Machine: {machine()}"
    )
