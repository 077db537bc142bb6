"""Thousands of small files, some of them bad, while workers and the run itself are being killed.

    python benchmarks/soak.py --folder SCRATCH [--files 2000] [--jobs 2]

The files are made in the folder, and `knit inpaint` works through them as a process of its own. Workers
are killed at random moments; half-way the run itself is killed and then started again, to the end.
Then everything is looked at: each good file has its result, each bad one its reason, nothing else is
there. Killed itself, the same command goes on where it was. The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
from common import RESULTS, machine, say, table
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = 10  # every so many files are done without disturbance, too
# kind of bad file, and what the report must say about it
BAD = {
    "cut short": "cut short",
    "bomb": "declares",
    "wrong mask": "mask",
    "no image": "not an image",
    "empty": "file is empty (0 bytes)",
}
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
    "OMP_NUM_THREADS": "1",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch, about 30 MB")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every", type=float, default=10.0, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.md")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bad = make_files(options.folder, options.files, options.seed)
    say(f"{options.files} files, {len(bad)} of them bad")
    before = hashes(options.folder / "in")
    undisturbed(options.folder, options.jobs)
    starts = disturbed(options, bad)
    wrong = check(options.folder, options.files, bad, before)
    options.out.write_text(page(options, bad, starts, wrong))
    print("\n".join(wrong[:40]) or f"all {options.files} files as they should be: {options.out}")
    return 1 if wrong else 0


def make_files(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Make images and masks, unless they are there; tells which are bad, and how.

    Parameters
    ----------
    folder : Path
    count, seed : int

    Returns
    -------
    dict
        Kind of `BAD`, by name below ``in``.
    """
    manifest = folder / "manifest.json"
    wanted = {"count": count, "seed": seed}
    if manifest.exists():
        told = json.loads(manifest.read_text())
        if told["made"] == wanted:
            return told["bad"]
        raise SystemExit(f"{folder}: made with other options: {told['made']}; use another --folder")
    chance = random.Random(seed)
    numbers = [number for number in range(count) if number % SAMPLE]
    chosen = sorted(chance.sample(numbers, max(len(BAD), count // 20)))
    kinds = dict(zip(chosen, list(BAD) * (len(chosen) // len(BAD) + 1), strict=False))
    bad = {}
    for number in range(count):
        name, mask = _make(folder, number, seed, kinds.get(number, ""))
        if number in kinds:
            bad[name] = kinds[number]
        if kinds.get(number) != "wrong mask":
            assert mask.exists()
    manifest.write_text(json.dumps({"made": wanted, "bad": bad}))
    return bad


def _make(folder: Path, number: int, seed: int, kind: str) -> tuple[str, Path]:
    """One image in one of the formats, and its mask; `kind` tells what is wrong with it."""
    draw = np.random.default_rng([seed, number])
    side = int(draw.integers(24, 33))
    y, x = np.mgrid[:side, :side]
    waves = np.sin(x / draw.uniform(2, 6)) * np.cos(y / draw.uniform(2, 6))
    values = np.clip(120 + 60 * waves + draw.normal(0, 6, (side, side)), 1, 255).astype(np.uint8)
    suffix = (".tif", ".png", ".npy", ".ome.tif")[number % 4] if not kind else ".tif"
    place = Path(f"day {number // 500 + 1}") / f"cell_{number:05}{suffix}"
    path, mask = folder / "in" / place, (folder / "masks" / place).with_name(f"{place.stem}.png")
    if suffix == ".ome.tif":
        mask = mask.with_name(f"cell_{number:05}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.parent.mkdir(parents=True, exist_ok=True)
    hole = np.zeros(values.shape, np.uint8)
    top, left = draw.integers(6, side - 10, 2)
    hole[top : top + 3, left : left + 4] = 255
    if suffix == ".png":
        Image.fromarray(values).save(path)
    elif suffix == ".npy":
        np.save(path, values)
    else:
        tifffile.imwrite(path, np.uint16(values) * 100 if number % 8 == 0 else values)
    if kind == "cut short":
        stack = np.stack([values] * 5)
        tifffile.imwrite(path, stack, compression="zlib", photometric="minisblack")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "bomb":
        path.write_bytes(_bomb())
    elif kind == "wrong mask":
        hole = np.pad(hole, 5)
    elif kind == "no image":
        path.write_text("Dear colleague, here are the images you asked for.\n" * 9)
    elif kind == "empty":
        path.write_bytes(b"")
    Image.fromarray(hole).save(mask)
    return place.as_posix(), mask


@functools.cache
def _bomb() -> bytes:
    """A TIFF of 60 kB that is 60,000 x 60,000 zeros: all its strips are the same few bytes."""
    side, rows = 60_000, 1000
    strip = zlib.compress(bytes(side * rows), 9)
    count = side // rows
    entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8)]
    entries += [(262, 3, 1, 1), (273, 4, count, 122), (277, 3, 1, 1), (278, 4, 1, rows)]
    entries += [(279, 4, count, 122 + 4 * count)]
    data = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    assert len(data) == 122
    data += struct.pack(f"<{count}I", *[122 + 8 * count] * count)
    return data + struct.pack(f"<{count}I", *[len(strip)] * count) + strip


def command(folder: Path, out: str, jobs: int, *more: str) -> list[str]:
    """The run's command line."""
    words = [sys.executable, "-m", "knit_cli", "inpaint", "in", "-r", "--mask", "masks", "-o", out]
    return [*words, "--jobs", str(jobs), "--timeout", "60", "--events", "json", *more]


def undisturbed(folder: Path, jobs: int) -> None:
    """Every tenth file, in peace: what the others are compared with."""
    words = command(folder, "reference", jobs, "--include", "cell_????0.*")
    with open(folder / "reference.log", "w") as log:
        done = subprocess.run(words, cwd=folder, env=ENV, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"the undisturbed run ended with {done.returncode}: see reference.log")


def disturbed(options: argparse.Namespace, bad: dict[str, str]) -> list[dict[str, Any]]:
    """Start the run until nothing is left to do; kill workers, and once the run itself.

    Returns
    -------
    list of dict
        What was seen of each start; kept in the folder, so that it outlives this process, too.
    """
    log = options.folder / "starts.json"
    starts: list[dict[str, Any]] = json.loads(log.read_text()) if log.exists() else []
    chance = random.Random(options.seed + len(starts))
    while not starts or starts[-1]["not started"]:
        if len(starts) > 10:
            raise SystemExit("ten starts did not finish: see run.log")
        first = not any(start["ended"] == "killed" for start in starts)
        starts.append(_start(options, chance, options.files // 2 if first else None))
        log.write_text(json.dumps(starts, indent=1))
        say(f"start {len(starts)}: {starts[-1]}")
    # a good file whose worker was killed twice is given up: the user would ask for it again
    lines = _report(options.folder / "out")
    if any(line["state"] != "done" for name, line in lines.items() if name not in bad):
        starts.append(_start(options, chance, None, "--retry-failed", peaceful=True))
        log.write_text(json.dumps(starts, indent=1))
    return starts


def _report(out: Path) -> dict[str, dict[str, Any]]:
    """The last line about each file."""
    with (out / "knit-report.jsonl").open() as lines:
        return {line["file"]: line for line in map(json.loads, lines)}


def _start(
    options: argparse.Namespace,
    chance: random.Random,
    kill_after: int | None,
    *more: str,
    peaceful: bool = False,
) -> dict[str, Any]:
    """One start of the run: `kill_after` so many files it is killed."""
    out = options.folder / "out"
    began = time.monotonic()
    seen: dict[str, Any] = {"workers killed": 0, "during a write": 0, "memory": []}
    ended = {"done": 0, "skipped": 0, "failed": 0}
    left = options.files
    since_kill = 0
    with (
        open(options.folder / "run.log", "a") as log,
        subprocess.Popen(
            command(options.folder, "out", options.jobs, *more),
            cwd=options.folder,
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        over = threading.Event()

        def disturb() -> None:
            nonlocal since_kill
            parent = psutil.Process(process.pid)
            next_kill = time.monotonic() + chance.expovariate(1 / options.every)
            while not over.wait(0.05):
                try:
                    if len(seen["memory"]) * 0.5 < time.monotonic() - began:
                        seen["memory"].append(parent.memory_info().rss)
                    # three workers in a row that never get to work would end the run, rightly
                    if peaceful or time.monotonic() < next_kill or not since_kill:
                        continue
                    next_kill = time.monotonic() + chance.expovariate(1 / options.every)
                    workers = [
                        child
                        for child in parent.children()
                        if "spawn_main" in " ".join(child.cmdline())
                    ]
                    if workers:
                        chance.choice(workers).kill()
                        since_kill = 0
                        seen["workers killed"] += 1
                        seen["during a write"] += any(out.rglob("*.part"))
                except psutil.Error:
                    continue

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for text in process.stdout or ():
                line = json.loads(text)
                if line["event"] == "file":
                    ended[line["state"]] += 1
                    since_kill += 1
                    if kill_after is not None and sum(ended.values()) >= kill_after:
                        process.send_signal(signal.SIGKILL)
                        break
                elif line["event"] == "end":
                    left = line["not started"]
        finally:
            over.set()
            thread.join()
            if kill_after is None and process.poll() is None:
                process.wait(60)
            process.kill()
    code = process.wait()
    memory = seen.pop("memory")
    return {
        "ended": "killed" if code == -signal.SIGKILL else f"code {code}",
        "seconds": round(time.monotonic() - began, 1),
        **ended,
        "not started": left,
        **seen,
        "parent MB": [round(v / 1e6) for v in _thirds(memory)],
    }


def _thirds(values: list[int]) -> tuple[float, float, float]:
    """Median of the first, the middle and the last tenth, the seconds of start-up left out."""
    values = values[6:] if len(values) > 20 else values
    part = max(1, len(values) // 10)
    middle = len(values) // 2
    return (
        statistics.median(values[:part]),
        statistics.median(values[middle : middle + part]),
        statistics.median(values[-part:]),
    )


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check(folder: Path, count: int, bad: dict[str, str], before: dict[str, str]) -> list[str]:
    """Look at all that a soak has left.

    Parameters
    ----------
    folder : Path
    count : int
        Files.
    bad : dict
        As of `make_files`.
    before : dict
        Hashes of the inputs before the run.

    Returns
    -------
    list of str
        What is wrong.
    """
    wrong, inputs, out = [], folder / "in", folder / "out"
    if hashes(inputs) != before:
        wrong.append("inputs were changed")
    lines = _report(out)
    if len(lines) != count:
        wrong.append(f"the report knows {len(lines)} files of {count}")
    expected = {"knit-report.jsonl"}
    reference = hashes(folder / "reference")
    compared = 0
    for name in before:
        stem = (
            name.removesuffix(".ome.tif") if name.endswith(".ome.tif") else name.rpartition(".")[0]
        )
        output = f"{stem}_inpainted{name[len(stem) :]}"
        line = lines.get(name, {"state": "missing", "reason": ""})
        if name in bad:
            if line["state"] != "failed" or BAD[bad[name]] not in line["reason"]:
                wrong.append(f"{name} ({bad[name]}): {line['state']} {line['reason']}")
            continue
        expected |= {output, f"{output}.knit.json"}
        if line["state"] != "done":
            wrong.append(f"{name}: {line['state']} {line['reason']}")
            continue
        if problem := _wrong_pixels(inputs / name, folder / "masks" / f"{stem}.png", out / output):
            wrong.append(f"{name}: {problem}")
        if output in reference:
            compared += 1
            if hashlib.sha256((out / output).read_bytes()).hexdigest() != reference[output]:
                wrong.append(f"{name}: differs from the undisturbed run")
    if compared != len(range(0, count, SAMPLE)):
        wrong.append(f"only {compared} files were compared with the undisturbed run")
    found = {name for name in hashes(out) if not name.startswith(".knit/")}
    wrong += [f"unexpected file: {name}" for name in sorted(found - expected)]
    wrong += [f"missing file: {name}" for name in sorted(expected - found)]
    return wrong


def _wrong_pixels(image: Path, mask: Path, output: Path) -> str:
    def read(path: Path) -> np.ndarray:
        if path.suffix == ".npy":
            return np.load(path)
        return np.asarray(Image.open(path)) if path.suffix == ".png" else tifffile.imread(path)

    before, hole, after = read(image), read(mask) > 0, read(output)
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return f"{after.dtype} {after.shape} from {before.dtype} {before.shape}"
    if (before[~hole] != after[~hole]).any():
        return "known pixels differ"
    record = json.loads(output.with_name(output.name + ".knit.json").read_text())
    return "" if record["mask"]["filled"] == hole.sum() else "another mask was filled"


def page(
    options: argparse.Namespace,
    bad: dict[str, str],
    starts: list[dict[str, Any]],
    wrong: list[str],
) -> str:
    """The page of results."""
    rows = [
        [
            str(number),
            start["ended"],
            f"{start['seconds']:.0f}",
            *(str(start[name]) for name in ("done", "skipped", "failed")),
            str(start["workers killed"]),
            str(start["during a write"]),
            " · ".join(map(str, start["parent MB"])),
        ]
        for number, start in enumerate(starts, 1)
    ]
    head = ["start", "ended", "seconds", "done", "skipped", "failed", "workers killed"]
    head += ["with a file half written", "parent's memory, MB: start · middle · end"]
    kinds = ", ".join(f"{list(bad.values()).count(kind)} {kind}" for kind in BAD)
    killed = sum(start["workers killed"] for start in starts)
    verdict = (
        "Nothing was wrong." if not wrong else "Wrong:\n\n" + "\n".join(f"- {w}" for w in wrong)
    )
    return f"""# A soak: {options.files:,} files and random deaths

{options.files:,} generated images (24 to 32 pixels a side; TIFF, PNG, .npy, OME-TIFF; in sub-folders), each with
a mask of 12 pixels; {len(bad)} of them bad: {kinds}. `knit inpaint in -r --mask masks -o out --jobs {options.jobs}`
runs while a worker is killed every {options.every:g} s on average ({killed} in all); after half of the files the run
itself is killed (SIGKILL) and started again. If a good file was given up, since its workers were killed
twice, a last start with `--retry-failed` follows in peace.

{table(head, rows)}
Checked at the end: the inputs are unchanged; the report's last line about each good file is `done`, its
output has the input's type and shape, all known pixels are identical, and its record names the mask's
pixels; every {SAMPLE}th output is, byte for byte, that of a run without disturbance; the report gives each bad
file its own reason; there is no file beyond the results, their records and the report.

**{verdict}**

Memory is the resident set of the process that hands out the files, at the first, middle and last tenth of
each start. {machine()} Other work was going on.

Repeat with `python benchmarks/soak.py --folder SCRATCH --files {options.files} --jobs {options.jobs}`.
"""


if __name__ == "__main__":
    raise SystemExit(main())
