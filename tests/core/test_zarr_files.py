"""Zarr: a folder of chunks counts as one file, complete or absent, its version kept."""

import json
import pickle
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from knitcore import denoise, inpaint
from knitcore.axes import Image, as_image, cut
from knitcore.errors import FileError, InputError
from knitcore.files import (
    adopt_folder,
    file_hash,
    read_image,
    read_mask,
    read_record,
    split_suffix,
    write_image,
    write_result,
)
from knitcore.masks import resolve_mask
from knitcore.recipe import make_recipe
from knitcore.result import Result
from knitcore.zarr_files import create_zarr, split_zarr, write_zarr_part

zarr = pytest.importorskip("zarr")
DATA = Path(__file__).parents[1] / "data"
CELLS = DATA / "multichannel_dna_mt_actin_16bit.ome.tif"


@pytest.fixture
def stack():
    return np.random.default_rng(0).integers(1, 60_000, (5, 24, 32), dtype=np.uint16)


def make_ome(path, data, version, axes="zyx", scale=None, chunks=(2, 10, 16), **more):
    """An OME-Zarr image as other programs write it, without this package's writer."""
    group = zarr.create_group(store=str(path), zarr_format=2 if version == "0.4" else 3)
    kinds = {"t": "time", "c": "channel"}
    units = {"t": "second", "z": "micrometer", "y": "nanometer", "x": "nanometer"}
    named = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    for axis in named:
        if axis["name"] in units:
            axis["unit"] = units[axis["name"]]
    steps = [{"type": "scale", "scale": scale or [0.5] * len(axes)}]
    steps += more.pop("steps", [])
    fields = {"axes": named, "datasets": [{"path": "s0", "coordinateTransformations": steps}]}
    content = {"multiscales": [fields], **more.pop("content", {})}
    if version == "0.4":
        fields["version"] = "0.4"
        group.attrs.update(content)
        more = {"chunk_key_encoding": {"name": "v2", "separator": "/"}, **more}
    else:
        group.attrs.update({"ome": {"version": version, **content}})
        more = {"dimension_names": list(axes), **more}
        if not data.dtype.isnative:
            more["serializer"] = zarr.codecs.BytesCodec(endian="big")
    array = group.create_array("s0", shape=data.shape, dtype=data.dtype, chunks=chunks, **more)
    array[...] = data
    return path


def attributes(path):
    found = zarr.open_group(path, mode="r").attrs.asdict()
    return found.get("ome", found)


# Read and write


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_same_version_comes_out_with_axes_sizes_and_units(tmp_path, version, stack):
    data = np.stack([stack, stack[::-1]])
    channels = [{"label": name, "color": "00FF00"} for name in ("DAPI", "µ-tubulin")]
    path = make_ome(
        tmp_path / "in.zarr",
        data,
        version,
        "czyx",
        [1, 2.5, 110, 120],
        (1, 2, 10, 16),
        content={"omero": {"channels": channels}},
        steps=[{"type": "translation", "translation": [0, 0, 40, 50]}],
    )
    image = read_image(path)
    assert image.axes == "CZYX"
    assert image.pixel_size == {"Z": 2.5, "Y": 110, "X": 120}
    assert image.unit == {"Z": "micrometer", "Y": "nanometer", "X": "nanometer"}
    assert image.channel_names == ("DAPI", "µ-tubulin")
    out = write_image(image, tmp_path / "out.zarr")
    again = read_image(out)
    for one in (again, image):
        assert (one.data == data).all()
        assert one.extra["zarr"]["chunks"] == (1, 2, 10, 16)
        assert one.extra["zarr"]["shift"] == [0, 0, 40, 50]
    assert (again.pixel_size, again.unit) == (image.pixel_size, image.unit)
    assert again.channel_names == image.channel_names
    written = attributes(out)
    assert written["omero"]["channels"] == channels
    assert version in (written.get("version"), written["multiscales"][0].get("version"))
    assert zarr.open_group(out, mode="r").metadata.zarr_format == (2 if version == "0.4" else 3)


def test_a_micrograph_to_zarr_and_back(tmp_path):
    image = read_image(CELLS)
    again = read_image(write_image(image, tmp_path / "cells.ome.zarr"))
    back = read_image(write_image(again, tmp_path / "cells.ome.tif"))
    for one in (again, back):
        assert (one.data == image.data).all()
        assert one.axes == image.axes
        assert one.pixel_size == pytest.approx(image.pixel_size)
        assert one.unit == image.unit
        assert one.channel_names == ("DNA", "microtubules", "actin")
    window = attributes(tmp_path / "cells.ome.zarr")["omero"]["channels"][0]["window"]
    assert window["end"] == image.data[0].max()


def test_imagej_order_becomes_that_of_ome(tmp_path):
    data = np.random.default_rng(0).integers(0, 999, (2, 3, 4, 16, 18), dtype=np.uint16)
    write_image(Image(data, "TZCYX", {"T": 2.0}, {"T": "second"}), tmp_path / "a.ome.zarr")
    again = read_image(tmp_path / "a.ome.zarr")
    assert again.axes == "TCZYX"
    assert (again.data == data.transpose(0, 2, 1, 3, 4)).all()
    assert again.pixel_size == {"T": 2.0}


def test_colours_become_channels(tmp_path):
    image = read_image(DATA / "rgb_ihc_crop.png")
    again = read_image(write_image(image, tmp_path / "a.ome.zarr"))
    assert again.axes == "CYX"
    assert (again.data == np.moveaxis(image.data, -1, 0)).all()


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u4", "i8", "f2", "f4", "f8", ">u2", ">f4"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_types_and_byte_orders(tmp_path, dtype, version, stack):
    data = (stack % 2).astype(dtype)
    path = make_ome(tmp_path / "in.zarr", data, version)
    notes = []
    image = read_image(path, on_note=notes.append)
    again = read_image(write_image(image, tmp_path / "out.zarr"))
    assert again.dtype == image.dtype == data.dtype.newbyteorder("=")
    assert (again.data == data).all()
    assert any("big-endian" in note.text for note in notes) == (dtype[0] == ">")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_arrays_stay_plain(tmp_path, stack, zarr_format):
    array = zarr.create_array(store=str(tmp_path / "a.zarr"), data=stack, zarr_format=zarr_format)
    assert array.metadata.zarr_format == zarr_format
    image = read_image(tmp_path / "a.zarr")
    assert image.axes == "QYX"
    assert image.pixel_size == {}
    again = zarr.open_array(write_image(image, tmp_path / "b.zarr"), mode="r")
    assert again.metadata.zarr_format == zarr_format
    assert (again[...] == stack).all()
    write_image(image, tmp_path / "c.ome.zarr")
    assert attributes(tmp_path / "c.ome.zarr")["multiscales"]


def test_shards_stay_shards(tmp_path, stack):
    make_ome(tmp_path / "a.zarr", stack, "0.5", chunks=(1, 8, 8), shards=(2, 16, 16))
    image = read_image(tmp_path / "a.zarr")
    again = read_image(write_image(image, tmp_path / "b.zarr"))
    assert (again.data == stack).all()
    assert again.extra["zarr"]["shards"] == (2, 16, 16)
    assert again.extra["zarr"]["chunks"] == (1, 8, 8)


def test_a_pyramid_comes_back_with_levels_of_its_own(tmp_path, stack):
    stack = stack[:, :21, :]
    path = make_ome(tmp_path / "a.zarr", stack, "0.5", scale=[1, 0.5, 0.5])
    group = zarr.open_group(path)
    found = group.attrs.asdict()["ome"]
    for level in (1, 2):
        group.create_array(f"s{level}", data=stack[:, :: 2**level, :: 2**level])
        found["multiscales"][0]["datasets"].append({"path": f"s{level}"})
    group.attrs["ome"] = found
    notes = []
    image = read_image(path, on_note=notes.append)
    assert (image.data == stack).all()
    assert "a pyramid; the full resolution is used" in notes[0].text
    out = write_image(image, tmp_path / "b.zarr")
    levels = [zarr.open_array(out / str(i), mode="r")[...] for i in range(3)]
    assert [level.shape[1:] for level in levels] == [(21, 32), (10, 16), (5, 8)]
    for fine, coarse in pairwise(levels):
        mean = fine[:, :2, :2].mean((1, 2))
        assert np.abs(coarse[:, 0, 0] - mean).max() <= 0.5
    told = attributes(out)["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert told[0]["scale"] == [1, 1.0, 1.0]
    assert told[1]["translation"] == [0, 0.25, 0.25]
    again = read_image(out)
    assert again.pixel_size == image.pixel_size
    assert (again.data == stack).all()


def test_a_scale_of_one_without_unit_is_no_pixel_size(tmp_path, stack):
    write_image(as_image(stack), tmp_path / "a.ome.zarr")
    assert read_image(tmp_path / "a.ome.zarr").pixel_size == {}


def test_boxes_are_read_when_asked_for(tmp_path, stack):
    path = make_ome(tmp_path / "a.zarr", stack.astype(">u2"), "0.4")
    image = read_image(path, lazy=True)
    assert image.shape == stack.shape
    shutil.rmtree(path / "s0" / "2")
    assert (image.data[0:2, 3:7] == stack[0:2, 3:7]).all()
    assert image.data[0].dtype == np.uint16


def test_an_enlarged_image_covers_the_same_place(tmp_path, stack):
    make_ome(tmp_path / "a.zarr", stack[0], "0.4", "yx", [4.0, 4.0], (10, 16))
    source = read_image(tmp_path / "a.zarr")
    fine = stack[0].repeat(2, 0).repeat(2, 1)
    marks = np.zeros(fine.shape, bool)
    result = Result(
        fine, marks, marks.astype("f4"), {"record_version": 1}, source, None, {"Y": 2.0, "X": 2.0}
    )
    again = read_image(write_result(result, tmp_path / "b.zarr"))
    assert again.pixel_size == {"Y": 2.0, "X": 2.0}
    assert again.extra["zarr"]["shift"] == [-1.0, -1.0]


def test_names():
    assert split_suffix("a.ome.zarr") == ("a", ".ome.zarr")
    assert split_suffix("a.zarr") == ("a", ".zarr")


# Masks


def test_a_label_image_is_a_mask(tmp_path, stack):
    path = make_ome(tmp_path / "a.zarr", stack, "0.4")
    labels = np.zeros(stack.shape, np.int32)
    labels[:, 3:6, 4:9] = 7
    make_ome(path / "labels" / "dust", labels, "0.4")
    mask = read_mask(path / "labels" / "dust")
    fill, _ = resolve_mask(read_image(path), mask, make_recipe("inpaint"))
    assert (fill == (labels > 0)).all()


# Missing and damaged chunks


def test_missing_chunks_are_counted_and_may_join_the_mask(tmp_path, stack):
    path = make_ome(tmp_path / "a.zarr", stack, "0.5")
    (path / "s0" / "c" / "1" / "0" / "1").unlink()
    notes = []
    image = read_image(path, on_note=notes.append)
    assert (image.data[2:4, :10, 16:] == 0).all()
    assert notes[0].level == "warning"
    assert "1 of 18 chunks are missing and read as 0" in notes[0].text
    image = read_image(path, missing_as_hole=True)
    fill, notes = resolve_mask(image, None, make_recipe("inpaint"))
    expected = np.zeros(stack.shape, bool)
    expected[2:4, :10, 16:] = True
    assert (fill == expected).all()
    assert any("1 missing chunk" in note.text for note in notes)


def test_an_image_without_any_chunk_is_refused_but_a_mask_is_empty(tmp_path, stack):
    path = make_ome(tmp_path / "a.zarr", stack, "0.5")
    shutil.rmtree(path / "s0" / "c")
    with pytest.raises(FileError, match="none of its 18 chunks is there"):
        read_image(path)
    assert not read_mask(path).data.any()


def test_nothing_we_write_has_missing_chunks(tmp_path):
    write_image(as_image(np.zeros((3, 40, 40), np.uint8)), tmp_path / "a.ome.zarr")
    notes = []
    read_image(tmp_path / "a.ome.zarr", on_note=notes.append)
    assert not notes


def test_a_damaged_chunk(tmp_path, stack):
    path = make_ome(tmp_path / "a.zarr", stack, "0.5")
    chunk = path / "s0" / "c" / "1" / "0" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(FileError, match=r"a\.zarr: the Zarr folder is damaged"):
        read_image(path)
    with pytest.raises(FileError, match=r"a\.zarr: the Zarr folder is damaged"):
        read_image(path, lazy=True).data[2:4]


# What is refused


def change(path, name, **fields):
    found = json.loads((path / name).read_text())
    found.update(fields)
    (path / name).write_text(json.dumps(found))


def test_pickled_chunks_are_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "a.zarr"
    zarr.create_array(store=str(path), shape=(4, 4), chunks=(4, 4), dtype="u1", zarr_format=2)
    (path / "0.0").write_bytes(pickle.dumps(Trap()))
    change(path, ".zarray", compressor=None, filters=[{"id": "pickle", "protocol": 5}])
    with pytest.raises(FileError, match=r"stored with 'pickle', which can run code"):
        read_image(path)
    assert not (tmp_path / "ran").exists()


def test_python_objects_are_refused(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(store=str(path), shape=(4, 4), chunks=(4, 4), dtype="u1", zarr_format=2)
    change(path, ".zarray", dtype="|O", filters=[{"id": "json2"}])
    with pytest.raises(FileError, match="json2"):
        read_image(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": [100_000, 100_000]}, "declares 100000 x 100000 .* raise the limit"),
        ({"shape": [40_000, 40_000], "chunks": [40_000, 40_000]}, "taken for a trap"),
        ({"chunks": [30_000, 30_000]}, "taken for a trap"),
        ({"shape": [0, 4]}, "holds no pixel"),
        ({"shape": "four"}, "damaged"),
        ({"chunks": [0, 0]}, "damaged"),
    ],
)
def test_what_is_declared_is_looked_at_before_decoding(tmp_path, fields, words):
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        store=str(path), shape=(4, 4), chunks=(4, 4), dtype="u1", zarr_format=2
    )
    array[...] = 1
    change(path, ".zarray", **fields)
    with pytest.raises(FileError, match=words):
        read_image(path)


def test_groups_that_are_no_image_say_what_they_hold(tmp_path, stack):
    make_ome(tmp_path / "set.zarr" / "0", stack, "0.4")
    make_ome(tmp_path / "set.zarr" / "1", stack + 1, "0.4")
    with pytest.raises(FileError, match="is a folder"):
        read_image(tmp_path / "set.zarr")
    group = zarr.open_group(tmp_path / "set.zarr", mode="a", zarr_format=2)
    with pytest.raises(FileError, match="a Zarr group, not an image; name one of its parts: 0, 1"):
        read_image(tmp_path / "set.zarr")
    group.attrs["bioformats2raw.layout"] = 3
    with pytest.raises(FileError, match=r"holds 2 images \(0, 1\); choose one \(--series\)"):
        read_image(tmp_path / "set.zarr")
    assert (read_image(tmp_path / "set.zarr", series=1).data == stack + 1).all()
    group.attrs["plate"] = {}
    with pytest.raises(FileError, match="holds a plate"):
        read_image(tmp_path / "set.zarr")


def test_metadata_may_not_point_outside(tmp_path, stack):
    path = make_ome(tmp_path / "a.zarr", stack, "0.5")
    zarr.create_array(store=str(tmp_path / "secret"), data=stack)
    group = zarr.open_group(path)
    found = group.attrs.asdict()["ome"]
    found["multiscales"][0]["datasets"][0]["path"] = "../secret"
    group.attrs["ome"] = found
    with pytest.raises(FileError, match="points outside of it"):
        read_image(path)


def test_too_many_axes(tmp_path):
    image = Image(np.zeros((2, 2, 4, 5), np.uint8), "QCYX")
    with pytest.raises(FileError, match="at most one axis besides"):
        write_image(image, tmp_path / "a.ome.zarr")


def test_without_the_package_its_name_is_told(tmp_path, stack, monkeypatch):
    make_ome(tmp_path / "a.zarr", stack, "0.5")
    monkeypatch.setattr("knitcore.zarr_files.find_spec", lambda name: None)
    with pytest.raises(FileError, match=r"pip install 'napari-knitworks\[zarr\]'"):
        read_image(tmp_path / "a.zarr")
    with pytest.raises(FileError, match=r"pip install 'napari-knitworks\[zarr\]'"):
        write_image(as_image(stack), tmp_path / "b.zarr")


# Complete or absent


def test_only_a_zarr_folder_may_be_replaced(tmp_path, stack):
    image = as_image(stack)
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("precious")
    with pytest.raises(FileError, match="is a folder"):
        write_image(image, tmp_path / "a.zarr", overwrite=True)
    assert (tmp_path / "a.zarr" / "thesis.txt").read_text() == "precious"
    write_image(image, tmp_path / "b.zarr")
    with pytest.raises(FileError, match="exists: choose another name"):
        write_image(image, tmp_path / "b.zarr")
    write_image(as_image(stack[:2]), tmp_path / "b.zarr", overwrite=True)
    assert read_image(tmp_path / "b.zarr").shape == (2, 24, 32)
    with pytest.raises(FileError, match="is the input itself"):
        write_image(read_image(tmp_path / "b.zarr"), tmp_path / "b.zarr", overwrite=True)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_a_disk_that_fills_up_leaves_the_old_folder_and_no_other(tmp_path, stack):
    resource = pytest.importorskip("resource")
    path = write_image(as_image(stack[:1]), tmp_path / "a.zarr")
    before = file_hash(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        with pytest.raises(FileError, match=r"a\.zarr: cannot write"):
            write_image(as_image(stack), path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [item.name for item in tmp_path.iterdir()] == ["a.zarr"]
    assert file_hash(path) == before


def test_the_hash_of_a_folder_sees_every_byte_and_name(tmp_path, stack):
    path = write_image(as_image(stack), tmp_path / "a.zarr")
    before = file_hash(path)
    shutil.copytree(path, tmp_path / "b.zarr")
    assert file_hash(tmp_path / "b.zarr") == before
    chunk = next(item for item in (path / "0" / "c").rglob("*") if item.is_file())
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    assert file_hash(path) != before
    chunk.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
    assert file_hash(path) == before
    chunk.rename(chunk.with_name("9"))
    assert file_hash(path) != before


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["TCYX", "CTYX", "TZYX"])
def test_parts_make_the_same_folder_as_the_whole_whatever_their_order(tmp_path, version, axes):
    rng = np.random.default_rng(1)
    shape = tuple({"T": 7, "C": 2, "Z": 3, "Y": 20, "X": 30}[a] for a in axes)
    data = rng.integers(0, 60_000, shape, dtype=np.uint16)
    told = {"version": version, "format": 2 if version == "0.4" else 3, "letters": axes}
    told |= {"chunks": tuple(2 if a == "T" else 10 for a in axes), "shift": [0.0] * 4, "levels": 2}
    told["axes"] = [{"name": a.lower()} for a in axes]
    image = Image(data, axes, extra={"zarr": told})
    write_image(image, tmp_path / "a.ome.zarr")
    (tmp_path / "parts").mkdir()
    levels = create_zarr(tmp_path / "parts", image, tmp_path / "a.ome.zarr")
    axis, length = split_zarr(image, tmp_path / "a.ome.zarr", levels, "T")
    assert (axis, length) == (
        "T",
        1 if axes == "CTYX" else 2,
    )  # C first is not kept, nor its chunks
    for start in reversed(range(0, 7, length)):
        part = cut(image, "T", start, min(start + length, 7)).data
        assert write_zarr_part(tmp_path / "parts", image, tmp_path / "a.ome.zarr", "T", start, part)
    assert file_hash(tmp_path / "parts") == file_hash(tmp_path / "a.ome.zarr")
    assert split_zarr(image, tmp_path / "a.ome.zarr", levels, "")[0] == ""
    record = {"record_version": 1}
    adopt_folder(tmp_path / "parts", record, tmp_path / "b.ome.zarr")
    assert record["written"]["b.ome.zarr"]["sha256"] == file_hash(tmp_path / "a.ome.zarr")
    assert read_record(tmp_path / "b.ome.zarr.knit.json") == record
    with pytest.raises(FileError, match="exists"):
        adopt_folder(tmp_path / "a.ome.zarr", record, tmp_path / "b.ome.zarr")
    adopt_folder(tmp_path / "a.ome.zarr", record, tmp_path / "b.ome.zarr", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "b.ome.zarr",
        "b.ome.zarr.knit.json",
    ]


def test_planes_of_a_part_are_those_of_the_whole(stack):
    """The same random numbers, and the same names in messages and records."""
    image = Image(stack // 60 + 500, "TYX")
    fields = {"steps": 10, "width": 8, "passes": 1, "seed": 3}
    whole = denoise(image, **fields)
    part = denoise(cut(image, "T", 2, 4), **fields)
    assert (part.image == whole.image[2:4]).all()
    assert (part.std == whole.std[2:4]).all()
    assert part.record["noise"] == whole.record["noise"][2:4]
    hole = np.zeros(stack.shape, bool)
    hole[:, 8:14, 10:16] = True
    fields = {"steps": 3, "ensemble": 1, "width": 8, "frequencies": 8}
    filled = inpaint(image, hole, **fields)
    some = inpaint(cut(image, "T", 3, 5), hole[3:5], **fields)
    assert (some.image == filled.image[3:5]).all()
    hole[4] = True
    with pytest.raises(InputError, match="plane T=4 has no known pixel"):
        inpaint(cut(image, "T", 3, 5), hole[3:5], planes="T", **fields)
