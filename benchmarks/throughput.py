"""Images an hour by number of workers, what a file costs beyond its fit, and memory by image size.

    python benchmarks/throughput.py --folder SCRATCH [--part speed|memory]

Everything goes through `knit` as a process of its own. Images are pieces of tests/data, mirrored where
they are too small. Each part is measured anew; the page keeps the other part as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
from common import RESULTS, machine, say, table

ROOT = Path(__file__).resolve().parents[1]
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
    "OMP_NUM_THREADS": "1",
}
MANY = 400
# name, task and options, side of the images, how many of them
LOADS = (
    ("inpaint 32², hole of 12 pixels", ("inpaint", "--mask", "value=0"), 32, MANY),
    ("inpaint 256², hole of 36×36", ("inpaint", "--mask", "value=0"), 256, 6),
    ("denoise 256²", ("denoise",), 256, 6),
)
WAYS = (("--jobs", "1"), ("--jobs", "2"), ("--dask-local", "1"), ("--dask-local", "2"))
SIDES = (256, 512, 1024, 2048, 4096)
# one pass shows the memory of all, in a part of the time
MEMORY = (
    ("inpaint", ("inpaint", "--mask", "value=0")),
    ("denoise", ("denoise", "--passes", "1")),
    ("super-resolve ×2", ("super-resolve", "--passes", "1")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch")
    parser.add_argument("--part", choices=["speed", "memory"], help="measure only this")
    parser.add_argument("--largest", type=int, default=4096, help="side of the largest image")
    parser.add_argument("--quick", action="store_true", help="a few files only")
    parser.add_argument("--out", type=Path, default=RESULTS / "throughput.md")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    sections = sections_of(options.out)
    if options.part != "memory":
        sections["speed"] = speed(options.folder, options.quick)
        write(options.out, sections)
    if options.part != "speed":
        sections["memory"] = memory(options.folder, options.largest)
        write(options.out, sections)


def image(side: int, number: int) -> np.ndarray:
    """A piece of a micrograph, uint16 (Y, X), with a square of zeros to fill.

    Parameters
    ----------
    side, number : int

    Returns
    -------
    ndarray
    """
    values = tifffile.imread(ROOT / "tests" / "data" / "fluo_neuron_16bit.tif")
    values = np.roll(np.maximum(values, 1), (37 * number, 53 * number), (0, 1))
    grown = -(-side // min(values.shape))
    values = np.pad(values, [(0, (grown - 1) * one) for one in values.shape], mode="symmetric")
    values = values[:side, :side].copy()
    high, wide = (3, 4) if side < 64 else (36, 36)
    values[side // 3 : side // 3 + high, side // 2 : side // 2 + wide] = 0
    return values


def make(folder: Path, side: int, count: int) -> None:
    """Images of a size, in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        tifffile.imwrite(folder / f"{number:04}.tif", image(side, number))


def batch(folder: Path, words: tuple[str, ...], *more: str) -> Iterator[tuple[float, dict]]:
    """Run `knit` over the images of a folder: its events, and when each was read."""
    out = folder.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "knit_cli", words[0], str(folder), *words[1:], "-o", str(out)]
    with subprocess.Popen(
        [*command, "--events", "json", "--quiet", *more],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        parent = psutil.Process(process.pid)
        for line in process.stdout or ():
            when, event = time.perf_counter(), json.loads(line)
            if event["event"] == "file":
                spent = parent.cpu_times()
                event["parent"] = spent.user + spent.system
            yield when, event
        errors = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(
            f"{' '.join(command)} {' '.join(more)} ended with {process.returncode}\n{errors}"
        )


def speed(folder: Path, quick: bool) -> str:
    """Measure images an hour; the section of the page."""
    rows = []
    told = subprocess.run(
        [sys.executable, "-m", "knit_cli", "denoise", "--help"], env=ENV, capture_output=True
    )
    for name, words, side, count in LOADS:
        make(folder / "in", side, min(count, 6) if quick else count)
        base = None
        for way in WAYS:
            if way[0].encode() not in told.stdout:
                continue
            found = _throughput(folder / "in", words, way)
            base = base or found["rate"]
            rows.append(
                [
                    name,
                    " ".join(way),
                    f"{found['rate']:,.0f}",
                    f"{found['rate'] / base:.2f}",
                    f"{found['first']:.1f}",
                    f"{1000 * found['fit']:,.0f}",
                    f"{1000 * found['inside']:.0f}",
                    f"{1000 * found['outside']:.0f}",
                    f"{1000 * found['parent']:.1f}",
                ]
            )
            say(" | ".join(rows[-1]))
    head = ["load", "way", "images an hour", "× one", "s to the first result"]
    head += ["fit, ms", "beyond it in the worker, ms", "outside, ms", "processor of the run, ms"]
    return f"""{table(head, rows)}
Counted from the first result after every worker has begun (of many small files, at the latest from a quarter of them on), so that the start of processes is in its own
column only. All figures but the first three are for a file.
*Fit* is the median of the records' `seconds.total`, which is the task itself. *Beyond it in the worker*:
reading, hashing, checking the disk, writing and reading back, the record, `fsync`. *Outside*: what the
time between results leaves over, that is handing out, the report, waiting for each other; of that, the last column is the processor time
of the command that hands out. {machine()}
"""


def _throughput(folder: Path, words: tuple[str, ...], way: tuple[str, str]) -> dict[str, float]:
    began = time.perf_counter()
    workers, times, files, busy = int(way[1]), [], [], set()
    first, processor = 0, 0.0
    for when, event in batch(folder, words, *way):
        if event["event"] == "progress":
            busy.add(event["worker"])
        elif event["event"] == "file":
            assert event["state"] == "done", event
            times.append(when)
            files.append(event)
            # counted from the first result after every worker has begun; one whose files are too quick
            # to tell of progress is sure to have begun after a quarter of many
            if not first and (len(busy) == workers or len(times) == MANY // 4):
                first, processor = len(times), event["parent"]
    count = len(times) - first
    wall = (times[-1] - times[first - 1]) / count
    late = files[first:]
    records = [folder.with_name("out") / f"{one['output']}.knit.json" for one in late]
    fits = [json.loads(path.read_text())["seconds"]["total"] for path in records]
    inside = [one["seconds"] - fit for one, fit in zip(late, fits, strict=True)]
    return {
        "rate": 3600 / wall,
        "first": times[0] - began,
        "fit": statistics.median(fits),
        "inside": statistics.median(inside),
        "outside": max(0.0, wall * workers - statistics.fmean(one["seconds"] for one in late)),
        "parent": (files[-1]["parent"] - processor) / count,
    }


def memory(folder: Path, largest: int) -> str:
    """Measure the highest memory of a worker by image size; the section of the page."""
    rows = []
    for side in (side for side in SIDES if side <= largest):
        make(folder / "in", side, 1)
        row = [f"{side}²", f"{side * side * 2 / 1e6:.1f}"]
        for name, words in MEMORY:
            if name.startswith("super") and side > largest / 2:
                row.append("")
                continue
            began = time.perf_counter()
            events = [event for _, event in batch(folder / "in", words)]
            peak = next(one["peak_memory"] for one in events if one["event"] == "file")
            row.append(f"{peak / 1e6:,.0f}")
            say(f"{name} {side}: {row[-1]} MB, {time.perf_counter() - began:.0f} s")
        rows.append(row)
    head = ["uint16 image", "its MB", *(f"{name}, MB" for name, _ in MEMORY)]
    return f"""{table(head, rows)}
Highest resident memory of the worker (`peak_memory` in the report), torch and all, which alone takes
about 300 MB. One thread, `fast` with one pass. Inpainting has one hole of 36×36.
Empty: not measured, for it would make more than the largest image. {machine()}
"""


TITLES = {"speed": "Images an hour", "memory": "Memory of a worker"}


def sections_of(path: Path) -> dict[str, str]:
    """The sections of the page as it is."""
    text = path.read_text() if path.exists() else ""
    found = re.split(r"^## (.*)\n\n", text, flags=re.MULTILINE)[1:]
    names = {title: name for name, title in TITLES.items()}
    pairs: Any = zip(found[::2], found[1::2], strict=True)
    return {names[title]: body for title, body in pairs}


def write(path: Path, sections: dict[str, str]) -> None:
    """Write the page."""
    parts = [
        f"## {title}\n\n{sections[name]}" for name, title in TITLES.items() if name in sections
    ]
    text = "# Throughput of batches\n\nRepeat with `python benchmarks/throughput.py --folder SCRATCH`.\n\n"
    path.write_text(text + "\n".join(part.strip() + "\n" for part in parts))


if __name__ == "__main__":
    main()
