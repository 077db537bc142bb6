"""Files of a folder side by side: their holes in one fit, each with the result it has alone."""

import contextlib
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from rich.console import Console

from knit_cli import batch, work
from knit_cli.executors import Together
from knit_cli.jobs import Job
from knit_cli.render import Board, Terminal
from knitcore import fit
from knitcore.errors import FileError
from knitcore.recipe import make_recipe

ROOT = Path(__file__).resolve().parents[2]
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
    "OMP_NUM_THREADS": "1",
}
SMALL = {
    "steps": 12,
    "ensemble": 2,
    "tiles": 2,
    "width": 16,
    "frequencies": 8,
    "margin": 12,
    "margin_factor": 0.5,
    "device": "cpu",
}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
WORDS = ["inpaint", "in", "--mask", "masks", *OPTIONS]
COUNT = 4
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Four images with a hole each, two with a second one, and their masks in another folder."""
    y, x = np.indices((70, 120))
    for number in range(COUNT):
        rng = np.random.default_rng(number)
        values = 128 + 50 * np.sin(y / 6 + x / 9 + number) + rng.normal(0, 4, y.shape)
        mask = np.zeros(y.shape, np.uint8)
        mask[20:36, 20:38] = 255
        if number % 2:
            mask[20:36, 80:98] = 255
        for folder, array in (("in", values.clip(0, 255).astype(np.uint8)), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{number}.tif", array)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def knit(*words, code=0):
    command = [sys.executable, "-m", "knit_cli", *map(str, words)]
    said = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert said.returncode == code, said.stderr + said.stdout
    assert "Traceback" not in said.stderr
    return said


def events(said):
    return [json.loads(line) for line in said.stdout.splitlines()]


def stays_of(told):
    """Places of the first and the last line about each file."""
    lines = [line.get("file") for line in told]
    return {name: (lines.index(name), len(lines) - lines[::-1].index(name)) for name in lines}


def read(folder, number):
    path = folder / f"{number}_inpainted.tif"
    return tifffile.imread(path), json.loads(Path(f"{path}.knit.json").read_text())


def assert_same(one, other):
    (pixels, record), (others, expected) = one, other
    np.testing.assert_allclose(pixels.astype(int), others, atol=1)
    assert (pixels == others).mean() > 0.999
    assert record.keys() == expected.keys()
    for fact in ("files", "image", "mask", "regions", "restarts", "parameters", "device", "notes"):
        assert record[fact] == expected[fact]
    assert {**record["recipe"], "batch": 0} == {**expected["recipe"], "batch": 0}


def test_a_folder_side_by_side_gives_what_it_gives_file_by_file(scans):
    alone = events(knit(*WORDS, "-o", "alone", "--events", "json"))
    both = events(knit(*WORDS, "-o", "both", "--events", "json", "--batch", 4))
    for number in range(COUNT):
        assert_same(read(scans / "both", number), read(scans / "alone", number))

    # without `batch` on the CPU one file ends before the next begins
    stays = sorted(stays_of([line for line in alone if "file" in line]).values())
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(stays))
    stays = sorted(stays_of([line for line in both if "file" in line]).values())
    assert any(a[1] > b[0] for a, b in itertools.pairwise(stays))
    for told in (alone, both):
        assert told[0] == {"event": "start", "task": "inpaint", "files": COUNT}
        assert (told[-1]["done"], told[-1]["failed"]) == (COUNT, 0)
        done = {line["file"]: line for line in told if line["event"] == "file"}
        assert len(done) == COUNT
        assert all(line["peak_memory"] > 0 < line["seconds"] for line in done.values())
    keys = [key for key in alone[-2] if key != "time"]
    assert [key for key in both[-2] if key != "time"] == keys
    progress = {frozenset(line) for told in (alone, both) for line in told if "progress" in line}
    assert len(progress) == 1

    # each record repeats its file by itself, and a second start has nothing to do
    knit("inpaint", "in/1.tif", "--mask", "masks/1.tif", "-o", "again_inpainted.tif", "--recipe",
         "both/1_inpainted.tif.knit.json")  # fmt: skip
    again = tifffile.imread("again_inpainted.tif")
    np.testing.assert_allclose(again.astype(int), read(scans / "both", 1)[0], atol=1)
    assert f"done 0 · skipped {COUNT}" in knit(*WORDS, "-o", "both", "--batch", 4).stderr


def test_a_broken_file_among_them_is_reported_and_the_rest_is_done(scans):
    (scans / "in" / "1.tif").write_bytes(b"")
    tifffile.imwrite("masks/2.tif", np.ones((70, 120), np.uint8))
    words = (*WORDS, "-o", "out", "--batch", 8)
    said = knit(*words, code=1)
    assert "done 2 · skipped 0 · failed 2 · not started 0" in said.stderr
    assert "in/1.tif: file is empty (0 bytes)" in said.stderr
    assert "in/2.tif: no known pixel left" in said.stderr
    knit(*WORDS, "-o", "alone", code=1)
    for number in (0, 3):
        assert_same(read(scans / "out", number), read(scans / "alone", number))
    (scans / "in" / "1.tif").write_bytes((scans / "in" / "0.tif").read_bytes())
    said = knit(*words, "--retry-failed", code=1)
    assert "done 1 · skipped 0 · failed 1 · not started 2" in said.stderr


def tasks(folder):
    fields = work.plain_fields(make_recipe("inpaint", batch=3, **SMALL))
    for number in range(COUNT):
        image, mask = (folder / place / f"{number}.tif" for place in ("in", "masks"))
        job = Job(image, folder / f"{number}_inpainted.tif", mask)
        yield work.FileTask(job, image.name, {**fields, "seed": number})


@pytest.fixture
def seeds(monkeypatch):
    """The seeds of each fit's holes."""
    found = []
    inner = fit.fit_regions

    def counted(targets, *rest, **more):
        found.append([target.seed for target in targets])
        return inner(targets, *rest, **more)

    monkeypatch.setattr(fit, "fit_regions", counted)
    return found


def test_one_fit_holds_the_holes_of_several_files(scans, seeds):
    told = []
    end = work.work_on(Together(tuple(tasks(scans))), told.append, threading.Event())
    assert end == {"status": "over"}
    # 1 + 2 holes of two files, twice
    assert [(len(each), len(set(each))) for each in seeds] == [(3, 2), (3, 2)]
    outcomes = {event["file"]: event["outcome"] for event in told if "outcome" in event}
    assert [outcomes[number]["status"] for number in range(COUNT)] == ["done"] * COUNT
    for number in range(COUNT):
        assert read(scans, number)[1]["recipe"]["seed"] == number


def test_on_the_cpu_without_batch_each_file_has_its_own_fit(scans, seeds):
    """As where the driver of a GPU is there, but torch cannot use it."""
    one_by_one = [work.replace(task, recipe={**task.recipe, "batch": 0}) for task in tasks(scans)]
    work.work_on(Together(tuple(one_by_one)), lambda event: None, threading.Event())
    assert [set(each) for each in seeds] == [{None}] * COUNT


def test_a_full_disk_ends_all_at_once(scans, monkeypatch):
    def full(*_):
        error = FileError("disk full")
        error.errno = errno.ENOSPC
        raise error

    told = []
    monkeypatch.setattr(work, "_write", full)
    end = work.work_on(Together(tuple(tasks(scans))), told.append, threading.Event())
    assert end == {"status": "stopped"}
    assert [event["outcome"]["abort"] for event in told if "outcome" in event] == [True]


def started(steps, **how):
    """A run of all files in one fit that long."""
    words = [*WORDS, "--steps", str(steps), "-o", "out", "--batch", "6", "--events", "json"]
    command = [sys.executable, "-m", "knit_cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=ENV, stdout=pipe, stderr=pipe, **how)


@posix
def test_a_killed_worker_costs_none_of_its_files(scans):
    with started(300) as process:
        next(line for line in process.stdout if b": fit" in line)
        for child in psutil.Process(process.pid).children():
            if any("spawn_main" in word for word in child.cmdline()):
                child.kill()
        said, shown = (text.decode() for text in process.communicate(timeout=120))
    assert process.returncode == 0, shown
    assert f"killed (signal 9; out of memory?); trying its {COUNT} files one by one" in shown
    assert f"done {COUNT} · skipped 0 · failed 0" in shown
    done = [line for line in map(json.loads, said.splitlines()) if line["event"] == "file"]
    assert sorted(line["file"] for line in done) == [f"{number}.tif" for number in range(COUNT)]


@posix
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_mid_fit_leaves_nothing_behind(scans, times):
    with started(1000000, start_new_session=True) as process:
        under_way = set()
        for line in process.stdout:
            told = json.loads(line)
            if ": fit" in told.get("stage", ""):
                under_way.add(told["file"])
            if len(under_way) == COUNT:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        note = next(line for line in process.stderr if line.startswith(b"Note"))
        assert f"stopping: {COUNT} running images" in note.decode()
        if times == 2:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        end = json.loads(process.stdout.read().splitlines()[-1])
        shown = process.stderr.read().decode()
    assert (end["exit"], end["done"], end["failed"], end["not started"]) == (130, 0, 0, COUNT)
    assert "Traceback" not in shown
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert not [path for path in (scans / "out").glob("*") if "inpainted" in path.name]


def test_the_board_has_a_line_for_each_worker(capsys):
    board = Board(Terminal(quiet=False, verbose=False, log=None), 9, 2)
    for worker, name in ((0, "a.tif"), (0, "b.tif"), (0, "c.tif"), (1, "d.tif")):
        board.at_work(worker, name, 0.5, "fit")

    def shown():
        Console(width=100).print(board._table())
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    assert shown() == [
        "0 of 9 files · done 0 · skipped 0 · failed 0 · running 4",
        "worker 1 a.tif and 2 more 50 % 0 s fit",
        "worker 2 d.tif 50 % 0 s fit",
    ]
    board.ended(0, "a.tif", "done")
    board.gone(1)
    assert shown()[1:] == ["worker 1 b.tif and 1 more 50 % 0 s fit"]
    board.close()


def test_how_many_files_a_worker_gets_at_a_time(monkeypatch):
    def size(files=100, workers=1, **fields):
        return batch.files_at_a_time(make_recipe("inpaint", **fields), files, workers)

    monkeypatch.setattr(batch, "visible_gpus", lambda: [])
    assert size() == size(device="cpu") == 1
    assert size(batch=8) == 8
    assert size(batch=8, files=6, workers=2) == 3  # every worker has something to do
    assert size(batch=8, preset="paper") == 1  # goes through all of an image in each step
    assert batch.files_at_a_time(make_recipe("denoise"), 100, 1) == 1
    monkeypatch.setattr(batch, "visible_gpus", lambda: ["0"])
    assert size() == size(device="cuda:1") == 64
    assert size(device="cpu") == size(batch=1) == 1


def test_the_few_files_left_of_a_run_are_for_all_workers():
    assert batch.portions(list("abcdef"), workers=2) == [["a", "b", "c"], ["d", "e", "f"]]
    assert batch.portions(list("abc"), workers=2) == [["a", "b"], ["c"]]
    assert batch.portions(["a"], workers=4) == [["a"]]
    assert batch.portions([], workers=4) == []
