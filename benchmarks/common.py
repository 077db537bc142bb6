"""What the benchmarks share: data folder, machine, CSV files, tables."""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``, by default the environment variable KNIT_DATA."""
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("KNIT_DATA"),
        help="folder of image sets, laid out as benchmarks/README.md says (default: $KNIT_DATA)",
    )


def data_folder(parser: argparse.ArgumentParser, data: Path | str | None, needs: str) -> Path:
    """Return the data folder, or end with a message if it lacks the file `needs`."""
    if data is None:
        parser.error("say where the image sets are: --data FOLDER, or the variable KNIT_DATA")
    if not (Path(data) / needs).is_file():
        parser.error(f"{data}: holds no {needs}; benchmarks/README.md says how it is laid out")
    return Path(data)


def machine() -> str:
    """Describe processor, system, versions and date, in a line or two of Markdown."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ("torch", "numpy", "scipy", "scikit-image", "opencv-python-headless")
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return (
        f"{model}, {cores} cores, {platform.system()}, Python {platform.python_version()}, "
        f"{', '.join(versions)}; {datetime.date.today().isoformat()}."
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file as a list of dicts; empty if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # a run killed while writing leaves a short last line
        return [row for row in csv.DictReader(file) if None not in row.values()]


def write_rows(path: Path, rows: Iterable[dict[str, Any]], fields: Sequence[str]) -> None:
    """Write a CSV file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def append_row(path: Path, row: dict[str, Any], fields: Sequence[str]) -> None:
    """Append one row, so that a killed run keeps what it had measured."""
    if not path.exists():
        write_rows(path, [], fields)
    with path.open("a", newline="") as file:
        csv.DictWriter(file, fields, lineterminator="\n").writerow(row)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = ["|".join(("", *head, "")), "|" + "-|" * len(head)]
    lines += ["|".join(("", *row, "")) for row in rows]
    return "\n".join(lines) + "\n"


def crop_round(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Box round the True pixels of a mask, widened by `margin` and cut at the borders."""
    box = []
    for axis, size in enumerate(mask.shape):
        other = tuple(i for i in range(mask.ndim) if i != axis)
        where = np.flatnonzero(mask.any(axis=other))
        box.append(slice(max(0, where[0] - margin), min(size, where[-1] + 1 + margin)))
    return tuple(box)


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)
