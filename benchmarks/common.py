"""What the benchmarks share: data folder, images, machine, resumable CSV files, tables."""

from __future__ import annotations

import argparse
import ast
import csv
import datetime
import hashlib
import json
import multiprocessing
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# modules that do not decide a pixel's value; a change there keeps the rows measured so far
NEUTRAL = {"__init__", "events", "errors", "files", "metrics", "pictures", "recipe", "result"}
NEUTRAL |= {"tasks", "tiff"}


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


def machine(*also: str) -> str:
    """Describe processor, system, versions (of further packages, too) and date, as Markdown."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ("torch", "numpy", "scipy", "scikit-image", *also)
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


def set_images(data: Path, *sets: str) -> list[str]:
    """Names such as "set5/bird.png" of all images of the sets, sorted."""
    return [f"{s}/{path.name}" for s in sets for path in sorted((data / s).glob("*.png"))]


def read_pixels(path: Path) -> np.ndarray:
    """A picture as uint8, (Y, X, 3) or (Y, X)."""
    return np.asarray(Image.open(path))


def code_key(task: str, **fields: Any) -> str:
    """Hash of the recipe and of the code that decides the numbers, so that no old rows are mixed in.

    The code is the module of the task's function with all of `knitcore` that it imports.
    """
    import knitcore
    from knitcore.recipe import make_recipe, recipe_fields

    digest = hashlib.sha256()
    digest.update(json.dumps(recipe_fields(make_recipe(task, **fields)), sort_keys=True).encode())
    folder = Path(knitcore.__file__).parent
    function = getattr(knitcore, task.replace("-", "_"), None)
    waiting, seen = [function.__module__.rpartition(".")[2]] if function else [], set()
    while waiting:
        path = folder / f"{waiting.pop()}.py"
        if path in seen or path.stem in NEUTRAL or not path.exists():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("knitcore"):
                inner = node.module.partition(".")[2]
                waiting += [inner] if inner else [name.name for name in node.names]
    for path in sorted(seen):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def add_run_options(parser: argparse.ArgumentParser, methods: Sequence[str], out: Path) -> None:
    """Add the options of `run_cases` and the choice of methods."""
    parser.add_argument("--methods", default=",".join(methods))
    parser.add_argument("--jobs", type=int, default=1, help="processes, one torch thread each")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--fresh", action="store_true", help="measure everything again")


def run_cases(
    measure: Callable[[dict[str, Any]], dict[str, Any]],
    cases: Iterable[dict[str, Any]],
    out: Path,
    fields: Sequence[str],
    keys: dict[str, str],
    jobs: int = 1,
    fresh: bool = False,
) -> list[dict[str, str]]:
    """Measure the cases that a CSV file lacks, one row each, and go on where a killed run was.

    Parameters
    ----------
    measure : callable
        Case to row; picklable.
    cases : iterable of dict
        With "method" and whatever else tells one case from another.
    out : Path
        The CSV file.
    fields : sequence of str
        Its columns; "method" and "recipe" among them.
    keys : dict of str to str
        What "recipe" must be for a method's rows to count; rows of other keys are dropped.
    jobs : int
        Processes.
    fresh : bool
        Drop all rows first.

    Returns
    -------
    list of dict
        All rows of the file, sorted.
    """
    if jobs > 1:
        # inherited by the workers; one fit alone may use every core
        os.environ["OMP_NUM_THREADS"] = "1"
    cases = list(cases)
    names = list(cases[0]) if cases else []

    def identity(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in names)

    rows = [] if fresh else read_rows(out)
    rows = [row for row in rows if row["recipe"] == keys.get(row["method"], "")]
    write_rows(out, rows, fields)
    done = {identity(row) for row in rows}
    todo = [case for case in cases if identity(case) not in done]
    say(f"{len(done)} cases there, {len(todo)} to measure")
    # spawned, never forked: torch's threads do not survive a fork
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, leave_with_parent, (os.getpid(),)) as pool:
        waiting = {pool.submit(measure, case): case for case in todo}
        for number, future in enumerate(as_completed(waiting), 1):
            case = waiting[future]
            row = case | {"recipe": keys.get(case["method"], "")} | future.result()
            row = {name: f"{v:.4f}" if isinstance(v, float) else v for name, v in row.items()}
            append_row(out, row, fields)
            say(
                f"{number}/{len(todo)} {' '.join(identity(row))}: "
                f"{row['psnr']} dB, {row['seconds']} s"
            )
    return sorted(read_rows(out), key=identity)


def leave_with_parent(parent: int) -> None:
    """End this process soon after its parent, which may be killed: a pool's workers would stay."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, float]]:
    """Call a function; its result, and the seconds it took by the clock and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*args)
    return result, {
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - processor,
    }


def seconds_a_step(run: Callable[[int], float], steps: int, begin: int = 1) -> float:
    """Seconds a step of a fit takes: of two runs the difference, which leaves out start and end.

    `run` makes so many steps and returns how many seconds it took.
    """
    run(begin)  # first use is slow
    first = run(begin)
    return (run(begin + steps) - first) / steps


def mean_of(rows: Iterable[dict[str, str]], name: str) -> float:
    """Mean of a column over the rows that have it; NaN if none."""
    numbers = [float(row[name]) for row in rows if row[name] != ""]
    return float(np.mean(numbers)) if numbers else float("nan")


def figures(title: str, numbers: Sequence[float], digits: int = 2, sign: str = "") -> list[str]:
    """A line of a table: the numbers and their mean, "–" for NaN."""
    numbers = [*numbers, float(np.mean(numbers))]
    return [title, *("–" if np.isnan(v) else f"{v:{sign}.{digits}f}" for v in numbers)]


def threads_line(jobs: int) -> str:
    """Say how many threads a method had."""
    if jobs > 1:
        return f"{jobs} processes at a time, one thread each."
    one = os.environ.get("OMP_NUM_THREADS")
    return f"{one} thread{'s' if one != '1' else ''}." if one else "All cores."


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


def noise_found(record: dict[str, Any]) -> tuple[float, float]:
    """Gain and offset of the noise's variance in a record of `denoise`, mean of the channels."""
    noise = record["noise"][0]
    if "gain" in noise:
        return float(np.mean(noise["gain"])), float(np.mean(noise["offset"]))
    return 0.0, float(np.mean(np.square(noise.get("sigma", 0.0))))


def noise_text(gain: float, offset: float) -> str:
    """Noise in a word: its standard deviation, or its variance as a function of the grey level x."""
    return f"{gain:.3g} x {offset:+.3g}" if gain else f"sigma {max(offset, 0) ** 0.5:.3g}"


def panel(
    values: np.ndarray, low: float, high: float, gamma: float = 1.0, side: int = 150
) -> Image.Image:
    """A square, contrast-stretched picture."""
    values = np.clip((values.astype(float) - low) / max(high - low, 1e-9), 0, 1) ** gamma
    picture = Image.fromarray(np.uint8(255 * values + 0.5)).convert("RGB")
    small = values.shape[0] < side
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return picture.resize((side, side), how)


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)
