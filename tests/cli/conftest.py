"""A folder with an image and its mask, and a shell to run `knit` in."""

import json
import signal

import numpy as np
import PIL.Image
import pytest
import tifffile
from click.testing import CliRunner

from knit_cli.main import cli

QUICK = {
    "inpaint": ("--steps", "3", "--ensemble", "1", "--frequencies", "8", "--width", "8"),
    "denoise": ("--steps", "10", "--width", "8", "--passes", "1"),
    "super-resolve": ("--passes", "1"),
}


@pytest.fixture(scope="session", autouse=True)
def usual_ctrl_c():
    """Tests in the background of a shell ignore Ctrl-C; the processes they send one must not inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder: cells.tif (ImageJ, 0.5 micron), dust.png, and a record of neither."""
    ramp = np.add.outer(np.arange(32), np.arange(40)) * 100
    ramp = np.uint16(ramp + np.random.default_rng(0).integers(0, 300, ramp.shape))
    ramp[0, 0] = 0
    tifffile.imwrite(
        tmp_path / "cells.tif", ramp, imagej=True, resolution=(2, 2), metadata={"unit": "um"}
    )
    hole = np.zeros(ramp.shape, np.uint8)
    hole[10:18, 12:20] = 255
    PIL.Image.fromarray(hole).save(tmp_path / "dust.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def knit():
    """Run `knit` in this process; its tasks with few steps."""

    def run(*words, code=0):
        words = [str(word) for word in words]
        if "--recipe" not in words:
            words[1:1] = QUICK.get(words[0], ())
        result = CliRunner().invoke(cli, words, prog_name="knit", catch_exceptions=False)
        assert result.exit_code == code, result.stderr + result.stdout
        return result

    return run


@pytest.fixture
def record(folder):
    """Read a record of the working folder."""
    return lambda name: json.loads((folder / f"{name}.knit.json").read_text())
