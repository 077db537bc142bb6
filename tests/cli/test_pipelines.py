"""`knit` among other commands: the examples of docs/pipelines.md, run by a shell and by Snakemake."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile

from knitcore.files import read_image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples" / "pipelines"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells")


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a command line in a folder of scans, with `knit` and this Python first in the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    # few steps, whatever the example says: what is tested is how things fit together
    (programs / "knit").write_text(
        "#!/bin/sh\n"
        'task=$1; shift; case "$task" in\n'
        'denoise) set -- "$@" --steps 5 --passes 1 --window 3 --group 8;;\n'
        'super-resolve) set -- "$@" --passes 1 --window 3 --group 8;; esac\n'
        f'exec "{sys.executable}" -m knit_cli "$task" "$@"\n'
    )
    (programs / "knit").chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    work = tmp_path / "work"
    (work / "scans").mkdir(parents=True)
    values = tifffile.imread(ROOT / "tests" / "data" / "fluo_bacteria_crop.tif")
    tifffile.imwrite(work / "scans" / "a.tif", values[:32, :32])
    tifffile.imwrite(work / "scans" / "b c.tif", values[40:72, :32])
    monkeypatch.chdir(work)
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
        "OMP_NUM_THREADS": "1",
    }

    def run(*words):
        return subprocess.run(words, env=env, capture_output=True, text=True)

    return run


def test_the_commands_of_the_page(shell):
    page = (ROOT / "docs" / "pipelines.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        done = shell("bash", "-euo", "pipefail", "-c", block)
        assert done.returncode == 0, done.stderr
    assert read_image("a.png").shape == (32, 32)
    assert read_image("clean/b c_denoised.png").shape == (64, 64)
    assert sorted(path.name for path in Path("clean").glob("*.tif")) == [
        "a_denoised.tif", "b c_denoised.tif",
    ]  # fmt: skip


def test_the_script_goes_on_where_a_file_is_bad_and_lists_it(shell):
    Path("scans/a.tif").write_bytes(b"")
    done = shell(EXAMPLES / "restore.sh", "scans", "out")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "a.tif\tfile is empty (0 bytes)"
    assert read_image("out/b c_denoised_x2.png").shape == (64, 64)
    # a wrong option ends it before anything is written
    done = shell(EXAMPLES / "restore.sh", "scans", "other", "--jobz", "2")
    assert done.returncode == 2
    assert not Path("other").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("snakemake") is None, reason="Snakemake is not installed"
)
def test_snakemake(shell):
    shutil.copy(EXAMPLES / "Snakefile", ".")
    words = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "images=scans"]
    done = shell(*words)
    assert done.returncode == 0, done.stderr
    assert tifffile.imread("large/b c.tif").shape == (64, 64)
    rows = Path("noise.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows] == ["image", "a.tif", "b c.tif"]
    assert "Nothing to be done" in shell(*words).stderr
    # an input that changes is done again, over the outputs that stand there
    before = json.loads(Path("clean/a.tif.knit.json").read_text())
    tifffile.imwrite("scans/a.tif", tifffile.imread("scans/a.tif").T)
    done = shell(*words[:-2], "clean/a.tif", *words[-2:])
    assert done.returncode == 0, done.stderr
    after = json.loads(Path("clean/a.tif.knit.json").read_text())
    assert before["image"]["sha256"] != after["image"]["sha256"]
