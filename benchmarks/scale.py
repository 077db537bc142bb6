"""A million files through listing, plan, resume check, window and report; and a real dask cluster.

    python benchmarks/scale.py [--files 1000000] [--dask-files 100000] [--dask-seconds 1200]

Three parts, each in a process of its own whose memory is watched from outside:

plan     `knit denoise FOLDER -o OUT -r` on so many real (hard-linked) files, the cluster replaced by one
         that says "done" at once: all that the client does for a file, but no fit and no network.
resume   The same command again over outputs and records that do exist, for a part of the files.
dask     A real scheduler and real workers in processes of their own, which hand an empty task to their
         child process: what the window, the scheduler and the processes cost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import RESULTS, machine, say, table

FOLDER = 1000  # files in a folder
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--resume-files", type=int, default=20_000)
    parser.add_argument("--dask-files", type=int, default=100_000)
    parser.add_argument("--dask-seconds", type=float, default=1200, help="stop reading files then")
    parser.add_argument("--only", choices=["plan", "resume", "dask"])
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    parts = {"plan": plan_part, "resume": resume_part, "dask": dask_part}
    kept = options.out.with_suffix(".json")
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for name, part in parts.items():
        if options.only in (None, name):
            found[name] = part(options) | {"machine": machine()}
            kept.write_text(json.dumps(found) + "\n")
    options.out.write_text(page(found))
    say(f"wrote {options.out}")


# What is measured, from outside.


def plan_part(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder, "in"), options.files)
        return watched({"kind": "plan", "folder": folder}) | {"files": files}


def resume_part(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder, "in"), options.resume_files)
        watched({"kind": "plan", "folder": folder, "write": True})
        return watched({"kind": "plan", "folder": folder}) | {"files": files}


def dask_part(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        told = Path(folder, "scheduler.json")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        dask = [sys.executable, "-m", "dask"]
        where = ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(told)]
        # what a cluster that knit starts is told, too: else its logs grow for a while
        env = {**os.environ, "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100"}
        env["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "0"
        env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parent), *sys.path])
        scheduler = subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *where],
            env=env,
            **quiet,
        )
        ending.callback(scheduler.kill)
        while not told.exists():
            time.sleep(0.1)
        for _ in range(THREADS):
            worker = subprocess.Popen(
                [*dask, "worker", "--nthreads", "1", "--memory-limit", "0", *where],
                env=env,
                **quiet,
            )
            ending.callback(worker.terminate)
        address = json.loads(told.read_text())["address"]
        content = {"kind": "dask", "folder": folder, "address": address}
        content |= {"files": options.dask_files, "seconds": options.dask_seconds}
        return watched(content, {"scheduler": scheduler.pid})


def make_files(folder: Path, count: int) -> int:
    """Small images: one in each folder, the others links to it."""
    say(f"making {count:,} files")
    for start in range(0, count, FOLDER):
        below = folder / f"{start // FOLDER:04d}"
        below.mkdir(parents=True)
        first = below / "0000.npy"
        np.save(first, np.full((8, 8), start // FOLDER, np.uint16))
        for number in range(1, min(FOLDER, count - start)):
            os.link(first, below / f"{number:04d}.npy")
    return count


def watched(content: dict[str, Any], others: dict[str, int] | None = None) -> dict[str, Any]:
    """Run a part in a process of its own; memory and processor time of it and of others."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(content)]
    began = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    seen = {"client": psutil.Process(run.pid)}
    seen |= {name: psutil.Process(pid) for name, pid in (others or {}).items()}
    before = {name: sum(process.cpu_times()[:2]) for name, process in seen.items()}
    rows: list[dict[str, float]] = []
    lines: list[dict[str, Any]] = []

    def listen() -> None:
        assert run.stdout is not None
        lines.extend(json.loads(line) for line in run.stdout if line.startswith('{"at'))

    reader = threading.Thread(target=listen)
    reader.start()
    spent = dict(before)
    while run.poll() is None:
        with contextlib.suppress(psutil.Error):
            row: dict[str, float] = {"seconds": time.monotonic() - began}
            for name, process in seen.items():
                row[name] = process.memory_info().rss / 2**20
                spent[name] = sum(process.cpu_times()[:2])
            rows.append(row)
        time.sleep(0.5)
    reader.join()
    if run.returncode:
        sys.exit(f"{content['kind']} ended with {run.returncode}")
    cpu = {name: spent[name] - before[name] for name in seen}
    return {"rows": rows, "lines": lines, "cpu": cpu, "seconds": time.monotonic() - began}


# What is run, inside.


def child(content: dict[str, Any]) -> None:
    began = time.monotonic()

    def mark(over: int, what: str = "") -> None:
        line = {"at": over, "seconds": time.monotonic() - began, "what": what}
        os.write(OUT, (json.dumps(line) + "\n").encode())

    global OUT
    OUT = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a line a file would be a million lines
    mark(0, "start")
    (plan_child if content["kind"] == "plan" else dask_child)(content, mark)
    mark(-1, "end")


OUT = 1


class _Done:
    """A future that is over when it is made."""

    status = "finished"

    def __init__(self, outcome: dict[str, Any]) -> None:
        self.outcome = outcome

    def add_done_callback(self, call: Any) -> None:
        call(self)

    def result(self, timeout: float) -> dict[str, Any]:
        return self.outcome

    def release(self) -> None:
        pass


class _Client:
    """In place of dask's: every file is done at once; written only if wanted."""

    status = "running"

    def __init__(self, mark: Any, write: bool) -> None:
        self.mark, self.write, self.over = mark, write, 0

    def submit(self, do: Any, *told: Any, **_: Any) -> _Done:
        from knit_cli.work import input_hashes, job_key

        if not self.over:
            self.mark(0, "first file")
        self.over += 1
        if self.over % 1000 == 0:
            self.mark(self.over)
        task = told[-1]
        job = task.job
        outcome = {"status": "done", "task": "denoise", "input": str(job.image), "noise": []}
        outcome |= {"output": str(job.output), "record": "", "sides": {}, "seconds": 0.1}
        outcome["hashes"] = {"input": "0" * 64, "mask": None}
        written = {"bytes": 0, "sha256": "0" * 64}
        if self.write:
            shutil.copy(job.image, job.output)
            written["bytes"] = job.output.stat().st_size
            record = {"record_version": 1, "key": job_key(task, *input_hashes(job))}
            record["written"] = {job.output.name: written}
            Path(f"{job.output}.knit.json").write_text(json.dumps(record))
        return _Done(outcome | {"written": {job.output.name: written}, "key": "0" * 64})

    def nthreads(self) -> dict[str, int]:
        return {"here": THREADS}

    def subscribe_topic(self, *_: Any) -> None:
        pass

    cancel = run = close = lambda self, *_, **__: None


def plan_child(content: dict[str, Any], mark: Any) -> None:
    import knit_cli.batch
    from knit_cli.cluster import DaskWorkers
    from knit_cli.main import cli
    from knitcore.run_file import Executor

    client = _Client(mark, content.get("write", False))

    def cluster(values: dict[str, Any]) -> DaskWorkers:
        mark(0, "planned")
        workers = DaskWorkers(None, Executor(kind="dask", address="none"))
        workers._client = client
        return workers

    knit_cli.batch._cluster = cluster
    os.chdir(content["folder"])
    words = ["denoise", "in", "-o", "out", "-r", "--events", "json", "--quiet", "--yes"]
    code = cli.main([*words, "--steps", "10"], standalone_mode=False)
    if code not in (0, None):
        sys.exit(int(code))


def nothing(task: int, emit: Any, cancel: Any) -> dict[str, Any]:
    """What the workers' processes do with a file here."""
    return {"status": "done", "task": task}


def dask_child(content: dict[str, Any], mark: Any) -> None:
    import scale  # by name, as the workers find it

    from knit_cli.cluster import DaskWorkers
    from knitcore.run_file import Executor

    end = time.monotonic() + content["seconds"]

    def tasks() -> Any:
        for number in range(content["files"]):
            if time.monotonic() > end:
                return
            yield number

    told = Executor(kind="dask", address=content["address"])
    workers = DaskWorkers(scale.nothing, told, Path(content["folder"]), device="cpu")
    over = 0
    for over, (_, outcome) in enumerate(workers.run(tasks()), 1):
        if outcome["status"] != "done":
            sys.exit(str(outcome))
        if over == 1:
            mark(1, "first file")
        if over % 1000 == 0:
            mark(over)
    mark(over, "last file")


# What is told.


def page(found: dict[str, Any]) -> str:
    """The results page."""
    lines = [
        "# A million files",
        "",
        "What the client and the scheduler cost, made by `benchmarks/scale.py`; no image is fitted. RSS in",
        "MiB, watched from outside. The machine is shared: times are upper bounds.",
        "",
    ]
    if "plan" in found:
        lines += _plan_text(found["plan"])
    if "resume" in found:
        one = found["resume"]
        spans = _spans(one)
        lines += [
            f"## {one['files']:,} files again, all of them done",
            "",
            "Outputs and records exist. Each file's input is hashed, its record read, its output's size "
            "compared:",
            f"{spans['all']:.0f} s from start to end, of which {spans['planned']:.0f} s listing and plan: "
            f"**{1000 * (spans['all'] - spans['planned']) / one['files']:.1f} ms a file**.",
            f"Client: {max(row['client'] for row in one['rows']):.0f} MiB. {one['machine']}",
            "",
        ]
    if "dask" in found:
        lines += _dask_text(found["dask"])
    return "\n".join(lines)


def _spans(one: dict[str, Any]) -> dict[str, float]:
    spans = {line["what"]: line["seconds"] for line in one["lines"] if line["what"]}
    return {**spans, "all": spans["end"]}


def _memory(one: dict[str, Any], name: str, seconds: float) -> float:
    row = min(one["rows"], key=lambda row: abs(row["seconds"] - seconds))
    return row[name]


def _plan_text(one: dict[str, Any]) -> list[str]:
    spans, files = _spans(one), one["files"]
    marks = [line for line in one["lines"] if line["at"] > 0]
    shown = [marks[int(i)] for i in np.linspace(0, len(marks) - 1, 6)]
    rows = [
        [f"{m['at']:,}", f"{m['seconds']:.0f}", f"{_memory(one, 'client', m['seconds']):.0f}"]
        for m in shown
    ]
    loop = spans["end"] - spans["first file"]
    return [
        f"## {files:,} files, done at once",
        "",
        '`knit denoise in -o out -r` on real files; in the cluster\'s place stands one that says "done" '
        "at once,",
        "so that listing, plan, lock, resume check, submission window, report (a line a file) and events "
        "are all there.",
        "",
        f"- Listing and plan: {spans['planned']:.0f} s, "
        f"{1e6 * spans['planned'] / files:.0f} µs a file; {_memory(one, 'client', spans['planned']):.0f} MiB, "
        f"{2**20 * _memory(one, 'client', spans['planned']) / files:.0f} bytes a file.",
        f"- Window, resume check and report: {loop:.0f} s, **{1e6 * loop / files:.0f} µs a file**.",
        "",
        *table(["files done", "seconds", "client, MiB"], rows).splitlines(),
        "",
        f"The list of files is what takes the memory; it does not grow with what is done. {one['machine']}",
        "",
    ]


def _dask_text(one: dict[str, Any]) -> list[str]:
    marks = [line for line in one["lines"] if line["at"] > 0 and line["what"] != "first file"]
    first = next(line for line in one["lines"] if line["what"] == "first file")
    over, span = marks[-1]["at"], marks[-1]["seconds"] - first["seconds"]
    shown = [marks[int(i)] for i in np.linspace(0, len(marks) - 1, 7)]
    rows = [
        [f"{m['at']:,}", f"{m['seconds']:.0f}"]
        + [f"{_memory(one, name, m['seconds']):.0f}" for name in ("client", "scheduler")]
        for m in shown
    ]
    early, late = shown[1], shown[-1]
    growth = {
        name: 2**20
        * (_memory(one, name, late["seconds"]) - _memory(one, name, early["seconds"]))
        / max(1, late["at"] - early["at"])
        for name in ("client", "scheduler")
    }
    rate = over / span
    return [
        f"## {over:,} empty tasks through a real scheduler",
        "",
        f"`dask scheduler`, {THREADS} `dask worker` of one thread, each with its child process; window of "
        f"{2 * THREADS} files.",
        f"**{rate:.0f} files/s** ({1000 / rate:.1f} ms a file with {THREADS} workers and everything on the "
        "same cores);",
        f"processor time a file: client {1000 * one['cpu']['client'] / over:.2f} ms, scheduler "
        f"{1000 * one['cpu']['scheduler'] / over:.2f} ms.",
        "",
        *table(["files done", "seconds", "client, MiB", "scheduler, MiB"], rows).splitlines(),
        "",
        f"Growth from {early['at']:,} to {late['at']:,} files: client {growth['client']:.0f} bytes a file, "
        f"scheduler {growth['scheduler']:.0f} bytes a file.",
        f"Extrapolated, not run: 1,000,000 files would take {1e6 / rate / 3600:.1f} h of such traffic, and add "
        f"{max(0, growth['client']) * 1e6 / 2**20:.0f} MiB to the client and "
        f"{max(0, growth['scheduler']) * 1e6 / 2**20:.0f} MiB to the scheduler. By its own processor time, one "
        f"scheduler keeps up with about {over / one['cpu']['scheduler']:.0f} files/s: "
        f"{3 * over / one['cpu']['scheduler']:.0f} workers at 3 s a file. {one['machine']}",
        "",
    ]


if __name__ == "__main__":
    main()
