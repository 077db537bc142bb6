"""What a run needs of the machine, and what it does not."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from knit_cli import work
from knit_cli.jobs import Job
from knitcore.errors import FileError

ROOT = Path(__file__).resolve().parents[2]


def test_no_network(folder, knit, monkeypatch):
    def refuse(self, *_):
        raise AssertionError("the network was asked for")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    knit("inpaint", "cells.tif", "--mask", "dust.png")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_no_home_and_few_files_open(folder):
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        f"ulimit -n 64; {sys.executable} -m knit_cli inpaint cells.tif --mask dust.png -o out/ "
        "--start harmonic --knit-depth 99 && "
        f"{sys.executable} -m knit_cli denoise . -o more --include 'cells*' --steps 5 --jobs 2",
        shell=True,
        executable="/bin/bash",
        env={
            **kept,
            "HOME": "/nonexistent",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert socket.gethostname() not in (folder / "more" / "knit-report.jsonl").read_text()
    assert (
        socket.gethostname() not in (folder / "more" / "cells_denoised.tif.knit.json").read_text()
    )


@pytest.mark.parametrize(("failures", "written"), [(2, True), (9, False)])
def test_a_disk_that_drops_out_is_tried_three_times_more(failures, written, monkeypatch):
    tries = []

    def write(job, result, overwrite):
        tries.append(job)
        if len(tries) <= failures:
            error = FileError("x.tif: cannot write: input/output error")
            error.errno = errno.EIO
            raise error

    monkeypatch.setattr("knit_cli.outputs.write_outputs", write)
    monkeypatch.setattr(work, "PAUSES", (0, 0, 0))
    task = work.FileTask(Job(Path("a.tif"), Path("x.tif")), "a.tif", {})
    if written:
        work._write(task, None)
        assert len(tries) == 3
    else:
        with pytest.raises(FileError):
            work._write(task, None)
        assert len(tries) == 4


def test_a_local_cluster_listens_on_this_machine_only(folder):
    """Whoever reaches a dask scheduler can run code."""
    pytest.importorskip("distributed")
    words = ["denoise", "cells.tif", "-o", "out/", "--method", "knitwork", "--steps", "1000000"]
    with subprocess.Popen(
        [sys.executable, "-m", "knit_cli", *words, "--dask-local", "1", "--events", "json"],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            next(line for line in process.stdout if b'"progress"' in line)
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
            listening = {
                one.laddr.ip
                for member in family
                for one in member.net_connections("inet")
                if one.status == psutil.CONN_LISTEN
            }
        finally:
            process.terminate()
            process.wait(60)
    assert listening == {"127.0.0.1"}
