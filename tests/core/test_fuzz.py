"""Fuzz: whatever bytes a file holds, reading it ends in an image or in a message.

Small whole files are cut, overwritten and spliced. Each reads, or is refused with one of our own
errors; it is never changed. benchmarks/fuzz.py runs many more in processes of their own.
"""

import io
import json
import warnings
from functools import cache

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knitcore.errors import KnitError
from knitcore.files import read_image, read_mask, read_record, write_image
from knitcore.recipe import Denoise, load_recipe, recipe_fields

FEW = {"deadline": None, "derandomize": True, "database": None}
MOST = 10**6  # values a mutated file may declare here
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@cache
def seeds(kind):
    """Small whole files of a kind."""
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 60_000, (12, 16), dtype=np.uint16)
    colour = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    stack = np.stack([plane, plane[::-1], plane // 2])
    made = []

    def save(write, *values, **options):
        handle = io.BytesIO()
        write(handle, *values, **options)
        made.append(handle.getvalue())

    if kind == "tiff":
        grey = {"photometric": "minisblack"}
        save(tifffile.imwrite, plane, metadata=None)
        save(tifffile.imwrite, stack, imagej=True, metadata={"axes": "ZYX", "unit": "um"})
        save(tifffile.imwrite, stack, ome=True, **grey)
        save(tifffile.imwrite, stack, compression="zlib", predictor=True, **grey)
        save(tifffile.imwrite, stack, compression="lzw", tile=(16, 16), **grey)
        save(tifffile.imwrite, stack, bigtiff=True, byteorder=">", **grey)
        save(tifffile.imwrite, colour, photometric="rgb", planarconfig="contig")
    elif kind == "png":
        save(PIL.Image.fromarray(plane).save, format="PNG")
        save(PIL.Image.fromarray(colour).save, format="PNG", dpi=(300, 300))
        save(PIL.Image.fromarray(colour).convert("P").save, format="PNG")
        save(PIL.Image.fromarray(colour[..., 0] > 99).save, format="PNG")
    elif kind == "jpeg":
        save(PIL.Image.fromarray(colour).save, format="JPEG")
        save(PIL.Image.fromarray(colour[..., 0]).save, format="JPEG", progressive=True)
    elif kind == "npy":
        save(np.save, plane)
        save(np.save, stack.astype(">f4"))
        save(np.save, np.asfortranarray(colour))
    elif kind == "yaml":
        text = "\n".join(f"{k}: {json.dumps(v)}" for k, v in recipe_fields(Denoise()).items())
        made += [text.encode(), b"# a comment\nsteps: 12\nscales: [1, 2]\ndevice: 'cpu'\n"]
        made += [b"a: &x [1, 2]\nb: *x\n", b"? {a: !!int '3'}\n: |\n  text\n<<: {seed: 0x1F}\n"]
    else:
        values = {"record_version": 1, "recipe": recipe_fields(Denoise()), "notes": ["é"]}
        made += [
            json.dumps(values, indent=1).encode(),
            json.dumps(recipe_fields(Denoise())).encode(),
        ]
    return made


# Values that lengths and offsets break at.
WORDS = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\1\0\0\0"]
WORDS += [b"\0", b"\xff", b"[[[[", b"{", b"*x", b"&x", b"'", b": ", b"1e999", b"-1", b"NaN"]


@st.composite
def mutated(draw, kind):
    """A file of a kind with a few changes."""
    content = bytearray(draw(st.sampled_from(seeds(kind))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["byte", "word", "cut", "copy", "drop", "bit"]))
        if how == "byte":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "bit" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "word":
            word = draw(st.sampled_from(WORDS))
            content[place : place + len(word)] = word
        elif how == "cut":
            del content[place:]
        else:
            size = draw(st.integers(1, 64))
            other = draw(st.integers(0, max(0, len(content) - 1)))
            content[place : place + size] = content[other : other + size] if how == "copy" else b""
    return bytes(content)


def check(path, content, read):
    """Reading ends in a value or in words, and the file is as it was."""
    path.write_bytes(content)
    told = path.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a reader's own warning is no traceback
        try:
            read(path)
        except KnitError as error:
            told = str(error)
    assert path.name in told
    assert len(told) < 3000
    assert path.read_bytes() == content


def read_both(path):
    """As image and as mask, damaged or not; what can be read can be written."""
    for read in (read_image, read_mask):
        for damaged in (False, True):
            try:
                image = read(path, max_pixels=MOST, allow_damaged=damaged)
                assert len(image.axes) == np.ndim(image.data)
                assert image.data.dtype.isnative
                out = path.with_name("out.npy")
                write_image(image, out, overwrite=True)
            except KnitError:
                pass
    read_image(path, max_pixels=MOST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("kind", ["tiff", "png", "jpeg", "npy"])
def test_any_bytes_of_an_image(folder, kind):
    @settings(max_examples=400, suppress_health_check=CHECKS, **FEW)
    @given(mutated(kind))
    def run(content):
        check(folder / f"a.{kind}", content, read_both)

    run()


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_any_bytes_of_a_recipe(folder, kind):
    @settings(max_examples=400, suppress_health_check=CHECKS, **FEW)
    @given(mutated(kind))
    def run(content):
        check(folder / f"run.{kind}", content, load_recipe)
        if kind == "json":
            check(folder / "a.knit.json", content, read_record)

    run()


@pytest.mark.parametrize("version", [2, 3])
def test_any_bytes_of_a_zarr_folder(folder, version):
    zarr = pytest.importorskip("zarr")
    path = folder / f"a{version}.zarr"
    data = np.random.default_rng(0).integers(0, 60_000, (3, 12, 16), dtype=np.uint16)
    steps = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    fields = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    group = zarr.create_group(store=str(path), zarr_format=version)
    content = {"multiscales": [fields], "omero": {"channels": [{"label": "a"}]}, "version": "0.4"}
    group.attrs.update(content if version == 2 else {"ome": content})
    group.create_array("0", data=data, chunks=(1, 12, 16))
    files = [item for item in path.rglob("*") if item.is_file() and item.stat().st_size]
    whole = {item: item.read_bytes() for item in files}

    @settings(max_examples=200, suppress_health_check=CHECKS, **FEW)
    @given(st.data())
    def run(draw):
        item = draw.draw(st.sampled_from(sorted(files)))
        changed = bytearray(whole[item])
        for _ in range(draw.draw(st.integers(1, 3))):
            place = draw.draw(st.integers(0, max(0, len(changed) - 1)))
            word = draw.draw(st.sampled_from([*WORDS, b"null", b'"', b"[]", b"99999999"]))
            gone = draw.draw(st.sampled_from([len(word), 0, 1, 10**6]))
            changed[place : place + gone] = word
        item.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_both_zarr(path)
        finally:
            assert item.read_bytes() == changed
            item.write_bytes(whole[item])

    run()


def read_both_zarr(path):
    for options in ({}, {"missing_as_hole": True}, {"lazy": True}):
        told = path.name
        try:
            np.asarray(read_image(path, max_pixels=MOST, **options).data)
        except KnitError as error:
            told = str(error)
        assert path.name in told
