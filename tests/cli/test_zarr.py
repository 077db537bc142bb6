"""OME-Zarr through the command: a folder that counts as one file."""

import json
import shutil

import numpy as np
import pytest

from knitcore.axes import Image
from knitcore.files import read_image, write_image

pytest.importorskip("zarr")


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A folder with an OME-Zarr image whose labels hold a mask, and a mask beside it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    data = (1000 + 50 * rng.standard_normal((48, 56))).astype(np.uint16)
    size = {"Y": 0.5, "X": 0.5}
    image = Image(
        data,
        "YX",
        size,
        dict.fromkeys("YX", "micrometer"),
        extra={
            "zarr": {
                "version": "0.4",
                "format": 2,
                "chunks": (24, 28),
                "letters": "YX",
                "shift": [0, 0],
            }
        },
    )
    path = write_image(image, tmp_path / "cells.ome.zarr")
    hole = np.zeros(data.shape, np.uint8)
    hole[10:14, 12:20] = 1
    (path / "labels").mkdir()
    write_image(Image(hole, "YX"), path / "labels" / "dust.zarr")
    write_image(Image(hole, "YX"), tmp_path / "mask.zarr")
    return image, hole > 0


def test_a_zarr_folder_in_and_out(cells, knit):
    image, hole = cells
    knit("inpaint", "cells.ome.zarr", "--mask", "mask.zarr", "-o", "out.ome.zarr")
    again = read_image("out.ome.zarr")
    assert (again.data[~hole] == image.data[~hole]).all()
    assert again.pixel_size == image.pixel_size
    assert again.extra["zarr"]["version"] == "0.4"
    mask = "cells.ome.zarr/labels/dust.zarr"
    said = knit(
        "inpaint", "cells.ome.zarr", "--mask", mask, "-o", "out.ome.zarr", "--seed", 5, code=1
    )
    assert "out.ome.zarr: exists" in said.stderr
    knit("inpaint", "cells.ome.zarr", "--mask", mask, "-o", "out.ome.zarr", "--overwrite")
    assert (read_image("out.ome.zarr").data == again.data).all()


def test_folders_with_zarr_are_resumed(cells, knit, tmp_path):
    image, _ = cells
    (tmp_path / "in").mkdir()
    shutil.move("cells.ome.zarr", "in/cells.ome.zarr")
    write_image(image, tmp_path / "in" / "more.tif")
    command = ("denoise", "in", "-o", "out", "--json")
    first = knit(*command)
    assert {json.loads(line)["status"] for line in first.stdout.splitlines()} == {"done"}
    assert read_image("out/cells_denoised.ome.zarr").shape == image.shape
    again = knit(*command)
    assert "skipped 2" in again.stderr


def test_missing_chunks_are_filled_on_request(cells, knit):
    image, _ = cells
    shutil.rmtree("cells.ome.zarr/0/1")
    (read_image("cells.ome.zarr").data[24:] == 0).all()
    said = knit("inpaint", "cells.ome.zarr", "-o", "out.tif", code=2)
    assert "what is to be filled?" in said.stderr
    knit("inpaint", "cells.ome.zarr", "--missing-as-hole", "-o", "out.tif")
    filled = read_image("out.tif").data
    assert (filled[:24] == image.data[:24]).all()
    assert filled[24:].min() > 500


def test_one_of_several_images(cells, knit, tmp_path):
    import tifffile

    with tifffile.TiffWriter(tmp_path / "two.tif") as tif:
        for page in (np.zeros((8, 8), np.uint8), cells[0].data):
            tif.write(page, metadata=None, photometric="minisblack")
    said = knit("denoise", "two.tif", "-o", "out.tif", code=1)
    assert "--series" in said.stderr
    knit("denoise", "two.tif", "--series", 1, "-o", "out.tif")
    assert read_image("out.tif").shape == (48, 56)
