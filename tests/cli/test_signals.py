"""Stopping a run from outside: real processes, real signals, a real terminal."""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONG = ("inpaint", "cells.tif", "--mask", "dust.png", "--steps", "1000000", "--ensemble", "1")
LONG += ("--knit-depth", "0")  # a small hole is fitted, too
LONGS = {
    "inpaint": LONG,
    "denoise": ("denoise", "cells.tif", "--method", "knitwork", "--steps", "1000000", "--save-std"),
    "super-resolve": ("super-resolve", "cells.tif", "--method", "knitwork", "--steps", "1000000"),
}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and terminals")


def usual_signals():
    """What a process in the foreground of a shell has; in the background some are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def start(*words, **streams):
    """`knit` as a process of its own, which does not outlive its test."""
    with subprocess.Popen(
        [sys.executable, "-m", "knit_cli", *words],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
            "OMP_NUM_THREADS": "1",
            "TERM": "xterm",
        },
        preexec_fn=usual_signals,
        **streams,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """The screen that stderr of a process is shown on."""

    def __init__(self):
        self.screen, self.side = os.openpty()
        self.seen = b""

    def wait_for(self, text):
        end = time.monotonic() + 60
        while text not in self.seen:
            left = max(0, end - time.monotonic())
            assert select.select([self.screen], [], [], left)[0], f"{text} not in {self.seen}"
            self.seen += os.read(self.screen, 4096)

    def rest(self):
        os.close(self.side)
        try:
            while block := os.read(self.screen, 4096):
                self.seen += block
        except OSError:  # the other side is closed
            pass
        os.close(self.screen)
        return self.seen.decode()


@pytest.mark.parametrize(
    ("task", "number", "code", "word"),
    [
        ("inpaint", signal.SIGINT, 130, "stopped"),
        ("denoise", signal.SIGINT, 130, "stopped"),
        ("super-resolve", signal.SIGINT, 130, "stopped"),
        ("inpaint", signal.SIGTERM, 143, "terminated"),
        ("inpaint", signal.SIGHUP, 143, "terminated"),
    ],
)
def test_a_signal_in_mid_fit_leaves_nothing_behind(folder, task, number, code, word):
    terminal = Terminal()
    before = sorted(os.listdir(folder))
    with start(*LONGS[task], stdout=subprocess.PIPE, stderr=terminal.side) as process:
        terminal.wait_for(b": fit" if task == "inpaint" else b"fit")
        process.send_signal(number)
        assert process.wait(30) == code
        assert process.stdout.read() == b""
    shown = terminal.rest()
    assert word in shown
    assert "Traceback" not in shown
    assert sorted(os.listdir(folder)) == before


def test_a_signal_while_torch_is_loading(folder):
    terminal = Terminal()
    with start(*LONG, stdout=subprocess.DEVNULL, stderr=terminal.side) as process:
        terminal.wait_for(b"load torch")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "Traceback" not in terminal.rest()


def test_files_done_before_the_signal_stay(folder):
    from PIL import Image

    (folder / "masks").mkdir()
    Image.new("L", (40, 32)).save(folder / "masks" / "aaa.png")
    (folder / "aaa.tif").write_bytes((folder / "cells.tif").read_bytes())
    (folder / "dust.png").rename(folder / "masks" / "cells.png")
    terminal = Terminal()
    words = ("inpaint", "aaa.tif", "cells.tif", "--mask", "masks", *LONG[4:])
    with start(*words, stdout=subprocess.PIPE, stderr=terminal.side) as process:
        terminal.wait_for(b"fit")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read().startswith(b"aaa.tif -> aaa_inpainted.tif")
    shown = terminal.rest()
    assert "done 1 · skipped 0 · failed 0 · not started 1" in shown[-900:]
    assert (folder / "aaa_inpainted.tif").exists()
    assert not (folder / "cells_inpainted.tif").exists()


def test_a_reader_that_leaves_early_is_no_error(folder):
    done = subprocess.run(
        f"{sys.executable} -m knit_cli inpaint cells.tif --mask value=0 | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert (folder / "cells_inpainted.tif").exists()


def test_without_a_terminal_there_is_no_bar(folder):
    words = ("inpaint", "cells.tif", "--mask", "value=0")
    with start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.decode().startswith("cells.tif -> cells_inpainted.tif: 1 pixel filled")
    assert err == b""


@pytest.mark.parametrize("option", ["--quiet", None])
def test_the_bar_shows_the_stage_and_the_time_left(folder, option):
    terminal = Terminal()
    words = ("inpaint", "cells.tif", "--mask", "dust.png", "--steps", "60", "--knit-depth", "0")
    words += (option,) if option else ()
    with start(*words, stdout=subprocess.DEVNULL, stderr=terminal.side) as process:
        assert process.wait(60) == 0
    shown = terminal.rest()
    if option:
        assert shown == ""
    else:
        assert "cells.tif" in shown
        assert "region 1 of 1" in shown
        assert " left" in shown
        assert "100%" in shown


def test_an_unwritable_stdout_does_not_hide_the_result(folder):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with (
        open("/dev/full", "w") as full,
        start(
            "inpaint", "cells.tif", "--mask", "value=0", stdout=full, stderr=subprocess.PIPE
        ) as p,
    ):
        _, err = p.communicate(timeout=60)
    assert b"Traceback" not in err
    assert (folder / "cells_inpainted.tif").exists()


def test_faults_of_the_program_are_one_line_unless_debugged(folder):
    code = (
        "import knitcore.files, knit_cli.main\n"
        "knitcore.files.read_image = None\n"
        "knit_cli.main.main()"
    )
    words = ["inpaint", "cells.tif", "--mask", "value=0"]
    for extra in ([], ["--debug"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, *extra],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "Error: cells.tif: unexpected TypeError" in done.stderr
        assert ("Traceback" in done.stderr) == bool(extra)


def test_memory_that_torch_does_not_get_is_no_fault_of_the_program(folder):
    code = (
        "import torch, knitcore.inpainting, knit_cli.main\n"
        "knitcore.inpainting.start_steps = lambda *_: torch.empty(2**55)\n"
        "knit_cli.main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inpaint", "cells.tif", "--mask", "value=0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Error: cells.tif: not enough memory" in done.stderr
    assert "unexpected" not in done.stderr


def test_a_full_disk_ends_the_run_and_leaves_no_part(folder):
    # a limit on the size of files stands in for the disk: 2 KiB, and the result needs 3
    done = subprocess.run(
        f"ulimit -f 2; {sys.executable} -m knit_cli inpaint cells.tif --mask value=0",
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "Error: cells_inpainted.tif: cannot write" in done.stderr
    assert sorted(os.listdir(folder)) == ["cells.tif", "dust.png"]


def test_a_crash_of_a_single_run_tells_the_place_and_leaves_nothing(folder):
    """It happens in the command's own process; with a limit, in a worker, which is survived."""
    crash = "import ctypes; ctypes.string_at(0)"
    code = (
        "import sys, knitcore.tiff\n"
        f"def read_tiff(*_, **__): {crash}\n"
        "knitcore.tiff.read_tiff = read_tiff\n"
        "import knit_cli.main; knit_cli.main.main()"
    )
    (folder / "knit").write_text(code)
    words = [sys.executable, "knit", "inpaint", "cells.tif", "--mask", "value=0"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "read_tiff" in done.stderr
    assert sorted(os.listdir(folder)) == ["cells.tif", "dust.png", "knit"]


def test_limits_hold_for_a_single_file_too(folder):
    words = (*LONG, "--save-std", "-o", "out.tif")
    with start(*words, "--timeout", "4", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert err.startswith(b"Error: cells.tif: no end after 4 s, in ")
    words = ("inpaint", "cells.tif", "--mask", "value=0")
    with start(*words, "--max-memory", "50M", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        _, err = p.communicate(timeout=60)
    assert (p.returncode, err) == (1, b"Error: cells.tif: needed over 0.0488 GiB (--max-memory)\n")
    with start(*words, "--timeout", "60", "--json", stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b'"status": "done"' in out
    assert sorted(os.listdir(folder)) == [
        "cells.tif", "cells_inpainted.tif", "cells_inpainted.tif.knit.json", "dust.png",
    ]  # fmt: skip


def test_ctrl_c_of_a_single_run_with_a_limit(folder):
    terminal = Terminal()
    before = sorted(os.listdir(folder))
    words = (*LONG, "--timeout", "600")
    with start(*words, stdout=subprocess.PIPE, stderr=terminal.side) as process:
        terminal.wait_for(b": fit")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "stopped" in terminal.rest()
    assert sorted(os.listdir(folder)) == before
