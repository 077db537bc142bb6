"""A small soak: sixty files, some bad; workers and the run itself are killed on the way."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_each_file_ends_as_it_should_whatever_is_killed(tmp_path):
    words = [
        "--files",
        "60",
        "--every",
        "1",
        "--folder",
        tmp_path / "soak",
        "--out",
        tmp_path / "page.md",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soak.py", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "page.md").read_text()
    assert "**Nothing was wrong.**" in page
    assert "|1|killed|" in page
