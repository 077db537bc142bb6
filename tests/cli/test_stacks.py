"""A stack in OME-Zarr is split over the workers, and comes out as from a run in one piece."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("zarr")

import psutil

from knitcore.axes import Image
from knitcore.files import read_image, read_record, write_image

PLANES = 6


def make_stack(name, pixels, axes="TYX", version="0.5", chunks=None, **more):
    """Write a stack with two planes a block, and a level of half the size."""
    zarr_format = 2 if version == "0.4" else 3
    block = tuple(
        2 if a == "T" else 16 if a == "Y" else n for a, n in zip(axes, pixels.shape, strict=True)
    )
    kinds = {"T": "time", "C": "channel"}
    extra = {
        "version": version,
        "format": zarr_format,
        "chunks": chunks or block,
        "letters": axes,
        "axes": [{"name": a.lower(), "type": kinds.get(a, "space")} for a in axes],
        "shift": [0.0] * len(axes),
        "levels": 2,
        **more,
    }
    size = dict.fromkeys("YX", 0.5)
    unit = dict.fromkeys("YX", "micrometer")
    write_image(Image(pixels, axes, size, unit, extra={"zarr": extra}), name)


@pytest.fixture
def stack(tmp_path, monkeypatch):
    """The working folder: stack.ome.zarr, six noisy planes, and holes.ome.zarr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # one thread in one piece, too: else sums differ
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(32), np.arange(40)) * 100
    pixels = np.uint16(ramp + rng.normal(300, 90, (PLANES, *ramp.shape)))
    make_stack("stack.ome.zarr", pixels, shards=(2, 32, 40), chunks=(1, 16, 40))
    holes = np.zeros(pixels.shape, np.uint8)
    for number, plane in enumerate(holes):
        plane[8 + number : 14 + number, 10:16] = number != 2  # one plane has none
    make_stack("holes.ome.zarr", holes)
    for folder in ("whole", "split"):
        Path(folder).mkdir()
    return pixels, holes


def files(folder):
    """Contents of all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def both(knit, *words):
    """The same command in one piece and by two workers; the records of both."""
    out = "out.ome.zarr"
    knit(*words, "-o", f"whole/{out}")
    knit(*words, "-o", f"split/{out}", "--jobs", 2)
    assert files(f"whole/{out}") == files(f"split/{out}")
    assert not list(Path("split").glob(".*.grow"))
    return [read_record(f"{folder}/{out}.knit.json") for folder in ("whole", "split")]


def alike(one, other, *names):
    return all(one[name] == other[name] for name in names)


def test_denoised_over_workers_as_in_one_piece(stack, knit):
    whole, split = both(knit, "denoise", "stack.ome.zarr")
    assert split["parts"] == 3
    assert alike(whole, split, "image", "noise", "key", "recipe", "written", "parameters")
    again = knit("denoise", "stack.ome.zarr", "-o", "split/out.ome.zarr", "--jobs", 2)
    assert "skipped 1" in again.stderr


def test_filled_over_workers_as_in_one_piece(stack, knit):
    pixels, holes = stack
    whole, split = both(knit, "inpaint", "stack.ome.zarr", "--mask", "holes.ome.zarr")
    assert alike(whole, split, "image", "regions", "written")
    assert whole["mask"]["filled"] == split["mask"]["filled"] == np.count_nonzero(holes)
    assert (read_image("split/out.ome.zarr").data[holes == 0] == pixels[holes == 0]).all()


def test_a_lost_frame_is_filled_from_its_neighbours_all_the_same(stack, knit):
    _, holes = stack
    holes[3] = 1
    shutil.rmtree("holes.ome.zarr")
    make_stack("holes.ome.zarr", holes)
    _, split = both(knit, "inpaint", "stack.ome.zarr", "--mask", "holes.ome.zarr")
    assert "parts" not in split  # it took the whole stack


def test_enlarged_over_workers_as_in_one_piece(stack, knit):
    whole, split = both(
        knit, "super-resolve", "stack.ome.zarr", "--scale", "2", "--kernel", "gaussian:1.2"
    )
    assert split["parts"] == 3
    assert alike(whole, split, "output", "kernel", "residual")


def test_a_flat_mask_serves_every_plane_and_channels_stay_together(stack, knit):
    pixels, holes = stack
    two = np.stack([pixels, pixels[::-1]], axis=1)
    shutil.rmtree("stack.ome.zarr")
    make_stack("stack.ome.zarr", two, "TCYX", "0.4", chunks=(2, 1, 16, 40))
    make_stack("flat.ome.zarr", holes[0], "YX")
    _, split = both(knit, "inpaint", "stack.ome.zarr", "--mask", "flat.ome.zarr")
    assert split["parts"] == 3


def test_one_block_of_all_planes_is_not_split(stack, knit):
    pixels, _ = stack
    shutil.rmtree("stack.ome.zarr")
    make_stack("stack.ome.zarr", pixels, chunks=(PLANES, 32, 40))
    _, split = both(knit, "denoise", "stack.ome.zarr")
    assert "parts" not in split


def test_killed_and_started_again_it_goes_on_with_the_parts_that_lack(stack, knit):
    whole = ("denoise", "stack.ome.zarr", "--overwrite", "-o")
    knit(*whole, "whole/out.ome.zarr")
    command = [sys.executable, "-m", "knit_cli", *whole, "split/out.ome.zarr", "--jobs", "2"]
    command += ["--steps", "10", "--width", "8", "--passes", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        until(lambda: parts_done() >= 1 and workers(run))
        workers(run)[0].kill()  # its part is done again by another
        until(lambda: parts_done() >= 2)
        run.send_signal(signal.SIGKILL)
    assert not Path("split/out.ome.zarr").exists()
    kept = sorted(Path("split").glob(".*.grow/done/?.json"))
    for number, path in enumerate(kept):
        told = json.loads(path.read_text())
        told["notes"] = [{"level": "info", "text": f"kept {number}"}]
        path.write_text(json.dumps(told))
    knit(*whole, "split/out.ome.zarr", "--jobs", 2)
    record = read_record("split/out.ome.zarr.knit.json")
    told = [note["text"] for note in record["notes"]]
    assert [text for text in told if text.startswith("kept")] == [
        f"kept {number}" for number in range(len(kept))
    ]
    assert files("whole/out.ome.zarr") == files("split/out.ome.zarr")
    assert not list(Path("split").glob(".*.grow"))


def parts_done():
    return len(list(Path("split").glob(".*.grow/done/?.json")))


def workers(run):
    found = psutil.Process(run.pid).children()
    return [one for one in found if "spawn_main" in " ".join(one.cmdline())]


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_damaged_part_costs_the_stack_once_and_nothing_is_in_its_place(stack, knit):
    block = Path("stack.ome.zarr/0/c/1/0/0")
    good = block.read_bytes()
    block.write_bytes(good[: len(good) // 2])
    command = ("denoise", "stack.ome.zarr", "-o", "split/out.ome.zarr", "--jobs", 2)
    said = knit(*command, code=1)
    assert "failed 1" in said.stderr
    assert said.stderr.count("the Zarr folder is damaged") == 2  # as it happened, and in the table
    assert not Path("split/out.ome.zarr").exists()
    block.write_bytes(good)
    knit(*command)
    knit("denoise", "stack.ome.zarr", "-o", "whole/out.ome.zarr")
    assert files("whole/out.ome.zarr") == files("split/out.ome.zarr")
    assert not list(Path("split").glob(".*.grow"))
