"""Files: what a microscope writes comes back as it was; what is broken is told in words."""

import errno
import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from knitcore.axes import Image, as_image
from knitcore.errors import FileError
from knitcore.files import (
    read_image,
    read_mask,
    read_record,
    record_path,
    split_suffix,
    write_image,
    write_record,
    write_result,
)
from knitcore.result import Result
from knitcore.tiff import unit_name

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def stack():
    return np.random.default_rng(0).integers(0, 60_000, (5, 24, 32), dtype=np.uint16)


def there_and_back(path, folder):
    """Read, write under the same name elsewhere, read again."""
    first = read_image(path)
    second = read_image(write_image(first, folder / Path(path).name))
    assert second.axes == first.axes
    assert second.dtype == first.dtype
    assert np.array_equal(second.data, first.data, equal_nan=first.dtype.kind == "f")
    assert second.pixel_size == first.pixel_size
    assert second.unit == first.unit
    assert second.channel_names == first.channel_names
    assert second.alpha == first.alpha
    kinds = [image.extra.get("tiff", {}).get("kind") for image in (first, second)]
    assert kinds[0] == kinds[1]
    return first


# Real files


@pytest.mark.parametrize(
    ("name", "axes", "size", "unit"),
    [
        ("em_mitochondria_er_8bit.tif", "YX", {"Y": 8.0, "X": 8.0}, "nanometer"),
        ("fluo_neuron_16bit.tif", "YX", {"Y": 0.16, "X": 0.16}, "micrometer"),
        (
            "multichannel_dna_mt_actin_16bit.ome.tif",
            "CYX",
            {"Y": 0.13249, "X": 0.13249},
            "micrometer",
        ),
        ("multichannel_dust_hot.tif", "CYX", {}, None),
    ],
)
def test_micrographs_keep_their_axes_and_pixel_size(tmp_path, name, axes, size, unit):
    image = there_and_back(DATA / name, tmp_path)
    assert image.axes == axes
    assert image.pixel_size == pytest.approx(size, rel=1e-4)
    assert set(image.unit.values()) == ({unit} if unit else set())


def test_channel_names_of_an_ome_tiff(tmp_path):
    image = there_and_back(DATA / "multichannel_dna_mt_actin_16bit.ome.tif", tmp_path)
    assert image.channel_names == ("DNA", "microtubules", "actin")


def test_the_escaped_micro_sign_is_understood_and_written_back(tmp_path):
    path = DATA / "fluo_neuron_16bit.tif"  # from a Java program, with unit=\u00B5m spelled out
    there_and_back(path, tmp_path)
    for where in (path, tmp_path / path.name):
        with tifffile.TiffFile(where) as tif:
            assert tif.imagej_metadata["unit"] == "\\u00B5m"
            assert np.divide(*tif.pages[0].tags["XResolution"].value) == 6.25


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("micron", "micrometer"),
        ("µm", "micrometer"),
        ("μm", "micrometer"),
        ("\\u00B5m", "micrometer"),
        ("um", "micrometer"),
        ("nm", "nanometer"),
        ("sec", "second"),
        ("pixel", None),
        ("", None),
        (None, None),
        ("furlong", "furlong"),
    ],
)
def test_units_by_any_spelling(text, name):
    assert unit_name(text) == name


# TIFF dialects


def test_an_imagej_hyperstack(tmp_path):
    data = np.random.default_rng(0).integers(0, 999, (2, 3, 4, 16, 18), dtype=np.uint16)
    tifffile.imwrite(
        tmp_path / "in.tif",
        data,
        imagej=True,
        resolution=(4.0, 4.0),
        metadata={"axes": "TZCYX", "spacing": 0.5, "unit": "um", "finterval": 3.0, "mode": "color"},
    )
    (tmp_path / "out").mkdir()
    image = there_and_back(tmp_path / "in.tif", tmp_path / "out")
    assert image.axes == "TZCYX"
    assert image.pixel_size == {"X": 0.25, "Y": 0.25, "Z": 0.5, "T": 3.0}
    assert image.unit == dict.fromkeys("XYZ", "micrometer") | {"T": "second"}
    with tifffile.TiffFile(tmp_path / "out" / "in.tif") as tif:
        assert tif.imagej_metadata["mode"] == "color"


def test_an_ome_tiff_with_all_its_axes(tmp_path):
    data = np.random.default_rng(0).random((2, 3, 4, 16, 18)).astype(np.float32)
    tifffile.imwrite(
        tmp_path / "in.ome.tif",
        data,
        compression="zlib",
        photometric="minisblack",
        metadata={
            "axes": "TCZYX",
            "PhysicalSizeX": 110.0,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 120.0,
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 0.3,
            "PhysicalSizeZUnit": "µm",
            "TimeIncrement": 20.0,
            "TimeIncrementUnit": "ms",
            "Channel": {"Name": ["DAPI", "GFP", "µ-tubulin"]},
        },
    )
    (tmp_path / "out").mkdir()
    image = there_and_back(tmp_path / "in.ome.tif", tmp_path / "out")
    assert image.pixel_size == {"X": 110.0, "Y": 120.0, "Z": 0.3, "T": 20.0}
    assert image.unit == {
        "X": "nanometer",
        "Y": "nanometer",
        "Z": "micrometer",
        "T": "millisecond",
    }
    assert image.channel_names == ("DAPI", "GFP", "µ-tubulin")
    with tifffile.TiffFile(tmp_path / "out" / "in.ome.tif") as tif:
        assert tif.pages[0].compression != 1


def test_the_depth_of_a_single_plane_is_not_lost(tmp_path):
    tifffile.imwrite(
        tmp_path / "in.ome.tif",
        np.ones((16, 18), np.uint8),
        metadata={"axes": "YX", "PhysicalSizeX": 1.5, "PhysicalSizeY": 1.5, "PhysicalSizeZ": 4.0},
    )
    write_image(read_image(tmp_path / "in.ome.tif"), tmp_path / "out.ome.tif")
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as tif:
        assert 'PhysicalSizeZ="4.0"' in tif.ome_metadata


OPTIONS = {
    "plain": {"metadata": None},
    "with tifffile's shape": {},
    "zlib": {"compression": "zlib", "predictor": True},
    "lzw": {"compression": "lzw"},
    "zstd": {"compression": "zstd"},
    "tiled": {"tile": (16, 16)},
    "BigTIFF": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "ImageJ": {"imagej": True},
    "OME": {"ome": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_ways_to_store_a_stack(tmp_path, stack, options):
    tifffile.imwrite(tmp_path / "in.tif", stack, photometric="minisblack", **options)
    (tmp_path / "out").mkdir()
    image = there_and_back(tmp_path / "in.tif", tmp_path / "out")
    assert (image.data == stack).all()
    assert image.dtype == np.uint16
    assert image.dtype.isnative
    assert not image.pixel_size


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "?"]
)
def test_types_of_pixels(tmp_path, dtype):
    data = (np.arange(20 * 24).reshape(20, 24) % 2).astype(dtype)
    tifffile.imwrite(tmp_path / "in.tif", data, photometric="minisblack")
    (tmp_path / "out").mkdir()
    assert there_and_back(tmp_path / "in.tif", tmp_path / "out").dtype == data.dtype


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(("samples", "alpha"), [(3, False), (4, True)])
def test_colour_tiffs(tmp_path, samples, alpha, planar):
    shape = (20, 24, samples) if planar == "contig" else (samples, 20, 24)
    data = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    options = {"extrasamples": ["unassalpha"]} if alpha else {}
    tifffile.imwrite(tmp_path / "in.tif", data, photometric="rgb", planarconfig=planar, **options)
    (tmp_path / "out").mkdir()
    image = there_and_back(tmp_path / "in.tif", tmp_path / "out")
    assert image.axes == "YXS"
    assert image.alpha == alpha
    assert (image.data == (data if planar == "contig" else np.moveaxis(data, 0, -1))).all()


def test_samples_that_are_no_colours_are_channels(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (20, 24, 5), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "in.tif", data, photometric="minisblack", planarconfig="contig", metadata=None
    )
    (tmp_path / "out").mkdir()
    assert there_and_back(tmp_path / "in.tif", tmp_path / "out").axes == "YXC"


def test_a_palette_becomes_colour_for_images_and_stays_labels_for_masks(tmp_path):
    table = np.zeros((3, 256), np.uint16)
    table[0, 2] = 65535
    data = np.zeros((20, 24), np.uint8)
    data[5, 5] = 2
    tifffile.imwrite(tmp_path / "in.tif", data, photometric="palette", colormap=table)
    notes = []
    image = read_image(tmp_path / "in.tif", on_note=notes.append)
    assert image.axes == "YXS"
    assert image.data[5, 5].tolist() == [255, 0, 0]
    assert "converted to RGB" in notes[0].text
    assert (read_mask(tmp_path / "in.tif").data == data).all()


def test_resolution_without_a_unit_is_no_pixel_size(tmp_path):
    data = np.ones((20, 24), np.uint8)
    for options in (
        {"resolution": (1, 1)},
        {"resolution": (72, 72), "resolutionunit": "INCH"},
        {"imagej": True, "resolution": (2, 2)},
        {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "pixel"}},
    ):
        tifffile.imwrite(tmp_path / "in.tif", data, **options)
        assert read_image(tmp_path / "in.tif").pixel_size == {}


def test_a_printing_resolution_is_passed_on(tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif", np.ones((20, 24), np.uint8), resolution=(300, 300), resolutionunit=2
    )
    write_image(read_image(tmp_path / "in.tif"), tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        tags = tif.pages[0].tags
        assert tags["XResolution"].value == (300, 1)
        assert tags["ResolutionUnit"].value == 2


def test_pixels_per_centimetre_are_a_pixel_size(tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif",
        np.ones((20, 24), np.uint8),
        resolution=(20_000, 40_000),
        resolutionunit="CENTIMETER",
    )
    (tmp_path / "out").mkdir()
    image = there_and_back(tmp_path / "in.tif", tmp_path / "out")
    assert image.pixel_size == {"X": 0.5, "Y": 0.25}
    assert image.unit == {"X": "micrometer", "Y": "micrometer"}


@pytest.mark.parametrize("spacing", [0.0, 1e12])
def test_absurd_pixel_sizes_are_ignored(tmp_path, spacing):
    tifffile.imwrite(
        tmp_path / "in.ome.tif",
        np.ones((20, 24), np.uint8),
        metadata={"axes": "YX", "PhysicalSizeX": spacing, "PhysicalSizeY": 2.0},
    )
    notes = []
    assert read_image(tmp_path / "in.ome.tif", on_note=notes.append).pixel_size == {"Y": 2.0}
    assert notes[0].level == "warning"


@pytest.mark.parametrize(
    ("axes", "dtype", "kind"),
    [
        ("ZYX", np.uint16, "imagej"),
        ("TZCYX", np.float32, "imagej"),
        ("CTYX", np.uint8, "ome"),
        ("ZYX", np.float64, "ome"),
        ("QYX", np.uint8, "shaped"),
        ("YX", np.int64, "shaped"),
    ],
)
def test_a_fresh_image_gets_the_dialect_that_can_hold_it(tmp_path, axes, dtype, kind):
    data = np.random.default_rng(0).integers(0, 99, (3, 4, 2, 8, 9)[-len(axes) :]).astype(dtype)
    sizes = {axis: 0.5 for axis in axes if axis in "ZYX"}
    image = Image(data, axes, pixel_size=sizes, unit=dict.fromkeys(sizes, "nanometer"))
    again = read_image(write_image(image, tmp_path / "out.tif"))
    assert (again.data == data).all()
    assert again.axes == axes
    assert again.extra["tiff"]["kind"] == kind
    assert again.pixel_size == sizes
    assert again.unit == image.unit


def test_ome_by_name(tmp_path, stack):
    image = Image(
        stack, "ZYX", pixel_size={"X": 0.1, "Y": 0.1}, unit=dict.fromkeys("XY", "micrometer")
    )
    again = read_image(write_image(image, tmp_path / "out.ome.tif"))
    assert again.extra["tiff"]["kind"] == "ome"
    assert again.pixel_size == image.pixel_size


# PNG, JPEG, .npy


@pytest.mark.parametrize(
    ("dtype", "samples"),
    [
        (bool, 1),
        (np.uint8, 1),
        (np.uint16, 1),
        (np.uint8, 2),
        (np.uint8, 3),
        (np.uint8, 4),
        (np.uint16, 3),
        (np.uint16, 4),
    ],
)
def test_png_keeps_every_bit(tmp_path, dtype, samples):
    if dtype == np.uint16 and samples > 1:
        pytest.importorskip("imagecodecs")
    data = np.random.default_rng(0).integers(0, 65536, (20, 24, samples)).astype(dtype)
    image = as_image(data[..., 0] if samples == 1 else data)
    write_image(image, tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    again = there_and_back(tmp_path / "a.png", tmp_path / "out")
    assert (again.data == image.data).all()
    assert again.dtype == dtype
    assert again.alpha == (samples in (2, 4))


def test_deep_colour_png_without_its_reader_is_refused_not_halved(tmp_path, monkeypatch):
    pytest.importorskip("imagecodecs")
    data = np.random.default_rng(0).integers(0, 65536, (20, 24, 3)).astype(np.uint16)
    write_image(as_image(data), tmp_path / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(FileError, match="16-bit colour PNG needs imagecodecs"):
        read_image(tmp_path / "a.png")


def test_a_palette_png(tmp_path):
    picture = PIL.Image.new("P", (24, 20))
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((3, 2), 1)
    picture.save(tmp_path / "a.png")
    notes = []
    image = read_image(tmp_path / "a.png", on_note=notes.append)
    assert image.data[2, 3].tolist() == [255, 0, 0]
    assert "palette" in notes[0].text
    assert np.argwhere(read_mask(tmp_path / "a.png").data == 1).tolist() == [[2, 3]]


def test_a_png_keeps_its_printing_resolution_and_colour_profile(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    PIL.Image.new("RGB", (24, 20)).save(tmp_path / "a.png", dpi=(300, 300), icc_profile=profile)
    write_image(read_image(tmp_path / "a.png"), tmp_path / "b.png")
    with PIL.Image.open(tmp_path / "b.png") as picture:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert picture.info["icc_profile"] == profile


def test_jpeg_is_read_never_written(tmp_path):
    PIL.Image.new("RGB", (24, 20), (10, 200, 30)).save(tmp_path / "a.jpg")
    notes = []
    image = read_image(tmp_path / "a.jpg", on_note=notes.append)
    assert image.axes == "YXS"
    assert "lossy" in notes[0].text
    with pytest.raises(FileError, match="JPEG would change the pixels"):
        write_image(image, tmp_path / "b.jpg")


def test_a_sideways_photo_is_turned_upright(tmp_path):
    picture = PIL.Image.new("L", (24, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    notes = []
    assert read_image(tmp_path / "a.jpg", on_note=notes.append).shape == (24, 20)
    assert "turned upright" in notes[0].text


def test_cmyk_is_refused(tmp_path):
    PIL.Image.new("CMYK", (24, 20)).save(tmp_path / "a.jpg")
    with pytest.raises(FileError, match="CMYK"):
        read_image(tmp_path / "a.jpg")


def test_npy(tmp_path, stack):
    np.save(tmp_path / "a.npy", stack.astype(">f4"))
    (tmp_path / "out").mkdir()
    image = there_and_back(tmp_path / "a.npy", tmp_path / "out")
    assert image.axes == "QYX"
    assert image.dtype == np.dtype("=f4")
    np.save(tmp_path / "b.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(FileError, match="Python objects"):
        read_image(tmp_path / "b.npy")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_png_refuses_what_it_cannot_hold(tmp_path, stack, dtype):
    with pytest.raises(FileError, match=r"PNG cannot hold .*; choose .tif"):
        write_image(as_image(stack[0].astype(dtype)), tmp_path / "a.png")
    with pytest.raises(FileError, match="one plane"):
        write_image(as_image(stack), tmp_path / "a.png")
    assert not any(tmp_path.iterdir())


# Masks


def test_a_jpeg_mask_with_greys_is_refused(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:41, 20:41] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.jpg")
    with pytest.raises(FileError, match="lossy mask"):
        read_mask(tmp_path / "mask.jpg")
    clean = np.zeros((64, 64), np.uint8)
    clean[16:32, 16:32] = 255  # on JPEG's own 8 x 8 grid nothing is blurred
    PIL.Image.fromarray(clean).save(tmp_path / "clean.jpg", quality=100)
    assert (read_mask(tmp_path / "clean.jpg").data == clean).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_in_few_bits(tmp_path, bits):
    # written by hand: Pillow writes no grey PNG of 2 or 4 bits
    rows = bytes([0, 0b0110_0000]) + bytes([0, 0])
    width = 8 // bits

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, 2, bits, 0, 0, 0, 0)
    (tmp_path / "mask.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    expected = {1: [0, 1, 1, 0, 0, 0, 0, 0], 2: [1, 2, 0, 0], 4: [6, 0]}[bits]
    assert read_mask(tmp_path / "mask.png").data[0].tolist() == expected


# Files that are not what they seem


def test_missing_empty_and_folders(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_image(tmp_path / "none.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(FileError, match=r"empty.tif: file is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.tif")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        read_image(tmp_path / "folder.tif")


def test_files_are_told_by_their_content(tmp_path, stack):
    PIL.Image.fromarray(stack[0]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    notes = []
    assert (read_image(tmp_path / "a.tif", on_note=notes.append).data == stack[0]).all()
    assert "is a PNG file whatever its name says" in notes[0].text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x,y\n1,2\n", "looks like text"),
        (b"\x80\x04\x95", "pickle"),
        (b"PK\3\4", "ZIP"),
        (b"\0\1\2\3", r"unknown \(it starts with 00 01 02 03\)"),
    ],
)
def test_strangers_are_named(tmp_path, content, words):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FileError, match=words):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.9])
def test_a_tiff_cut_short_is_never_read_as_less(tmp_path, stack, options, share):
    content = io.BytesIO()
    tifffile.imwrite(content, stack, photometric="minisblack", **options)
    whole = content.getvalue()
    (tmp_path / "cut.tif").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileError, match="cut short"):
        read_image(tmp_path / "cut.tif")


def test_the_readable_planes_of_a_cut_tiff_on_request(tmp_path, stack):
    content = io.BytesIO()
    tifffile.imwrite(content, stack, imagej=True)
    (tmp_path / "cut.tif").write_bytes(content.getvalue()[:-2000])
    notes = []
    image = read_image(tmp_path / "cut.tif", allow_damaged=True, on_note=notes.append)
    assert image.shape[-2:] == (24, 32)
    assert any(note.level == "warning" for note in notes)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".npy"])
def test_other_files_cut_short(tmp_path, stack, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".npy":
        np.save(whole, stack)
    else:
        PIL.Image.fromarray((stack[0] >> 8).astype(np.uint8)).save(whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match=r"cut\.\w+: the file is cut short or damaged"):
        read_image(cut)


def test_damage_inside_a_tiff(tmp_path, stack):
    content = io.BytesIO()
    tifffile.imwrite(content, stack, compression="zlib")
    damaged = bytearray(content.getvalue())
    middle = len(damaged) // 2
    damaged[middle : middle + 64] = bytes(64)
    (tmp_path / "a.tif").write_bytes(damaged)
    with pytest.raises(FileError, match="damaged"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("pages", [1, 3])
def test_pages_that_lead_back_to_an_earlier_one(tmp_path, stack, options, pages):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, **options) as tif:
        for page in stack[:pages]:
            tif.write(page, metadata=None, photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        form = tif.tiff
        first, last = tif.pages[0].offset, tif.pages[-1].offset
        after = last + form.tagnosize + len(tif.pages[-1].tags) * form.tagsize
    content = bytearray(path.read_bytes())
    content[after : after + form.offsetsize] = struct.pack(form.offsetformat, first)
    path.write_bytes(content)
    with pytest.raises(FileError, match=f"after {pages} pages it leads back to an earlier one"):
        read_image(path)


def test_pages_that_differ_are_not_guessed_at(tmp_path, stack):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for page in stack:
            tif.write(page, metadata=None, photometric="minisblack")
        tif.write(stack[0, :8, :8], metadata=None, photometric="minisblack")
    with pytest.raises(FileError, match="pages differ: 5 of 24 x 32, 1 of 8 x 8"):
        read_image(tmp_path / "a.tif")


def test_declared_size_is_looked_at_before_decoding(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((60, 1000, 1000), np.uint8), compression="zlib")
    with pytest.raises(FileError, match=r"declares 60 x 1000 x 1000 .* raise the limit"):
        read_image(tmp_path / "a.tif", max_pixels=10**7)
    PIL.Image.new("1", (5000, 5000)).save(tmp_path / "a.png")
    with pytest.raises(FileError, match="max-pixels"):
        read_image(tmp_path / "a.png", max_pixels=10**7)
    assert read_image(tmp_path / "a.png").shape == (5000, 5000)


def test_a_tiny_file_that_declares_a_huge_image_is_a_trap(tmp_path):
    header = b"\x93NUMPY\x01\x00"
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (40000, 40000)}"
    text += b" " * (63 - (len(header) + 2 + len(text)) % 64) + b"\n"
    (tmp_path / "a.npy").write_bytes(header + struct.pack("<H", len(text)) + text)
    with pytest.raises(FileError, match="taken for a trap"):
        read_image(tmp_path / "a.npy")


# Writing


def test_nothing_is_overwritten_unasked(tmp_path, stack):
    path = tmp_path / "a.tif"
    path.write_text("precious")
    with pytest.raises(FileError, match="exists: choose another name"):
        write_image(as_image(stack), path)
    assert path.read_text() == "precious"
    write_image(as_image(stack), path, overwrite=True)
    assert (read_image(path).data == stack).all()


def test_the_input_is_never_the_output(tmp_path, stack):
    tifffile.imwrite(tmp_path / "a.tif", stack)
    image = read_image(tmp_path / "a.tif")
    os.link(tmp_path / "a.tif", tmp_path / "hard.tif")
    (tmp_path / "soft.tif").symlink_to("a.tif")
    for name in ("a.tif", "hard.tif", "soft.tif"):
        with pytest.raises(FileError, match="is the input itself"):
            write_image(image, tmp_path / name, overwrite=True)


def test_an_output_has_the_permissions_of_any_new_file(tmp_path, stack):
    old = os.umask(0o027)
    try:
        path = write_image(as_image(stack), tmp_path / "a.tif")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_a_disk_that_fills_up_leaves_the_old_file_and_no_other(tmp_path, stack, suffix):
    resource = pytest.importorskip("resource")
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(FileError, match=f"a{suffix}: cannot write") as told:
            write_image(as_image(stack[0]), path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.errno in (errno.EFBIG, errno.EIO)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_places_that_cannot_be_written(tmp_path, stack):
    image = as_image(stack)
    with pytest.raises(FileError, match="does not exist"):
        write_image(image, tmp_path / "none" / "a.tif")
    with pytest.raises(FileError, match=r"cannot write \.xyz; use \.tif"):
        write_image(image, tmp_path / "a.xyz")
    with pytest.raises(FileError, match="longer than 255 bytes"):
        write_image(image, tmp_path / ("a" * 252 + ".tif"))
    write_image(image, tmp_path / ("a" * 251 + ".tif"))
    with pytest.raises(FileError, match="is a folder"):
        write_image(image, tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["with space.tif", "naïve µ.tif", "-dash.tif", "quo'te\".tif"])
def test_names_of_any_kind(tmp_path, stack, name):
    assert read_image(write_image(as_image(stack), tmp_path / name)).name == name


def test_a_result_and_its_record(tmp_path):
    source = read_image(DATA / "em_mitochondria_er_8bit.tif")
    record = {"record_version": 1, "task": "inpaint", "seconds": {"total": np.float32(1.5)}}
    nothing = np.zeros(source.shape, bool)
    result = Result(source.data, nothing, nothing.astype(np.float32), record, source)
    path = write_result(result, tmp_path / "out.tif")
    assert read_image(path).pixel_size == source.pixel_size
    assert record_path(path) == tmp_path / "out.tif.knit.json"
    assert read_record(record_path(path))["seconds"] == {"total": 1.5}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out.tif", "out.tif.knit.json"]
    path.unlink()
    with pytest.raises(FileError, match=r"out\.tif\.knit\.json: exists"):
        write_result(result, path)
    assert not path.exists()


def test_records(tmp_path):
    write_record({"record_version": 1, "name": "caf\udce9.tif"}, tmp_path / "a.knit.json")
    assert read_record(tmp_path / "a.knit.json")["name"] == "caf\udce9.tif"
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(FileError, match="not a record of this program"):
        read_record(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(FileError, match="not a record"):
        read_record(tmp_path / "b.json")
    with pytest.raises(FileError, match="no such file"):
        read_record(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.tif", ("a", ".tif")),
        ("a.ome.tif", ("a", ".ome.tif")),
        ("A.OME.TIFF", ("A", ".OME.TIFF")),
        ("a.b.png", ("a.b", ".png")),
        ("a", ("a", "")),
    ],
)
def test_suffixes(name, parts):
    assert split_suffix(name) == parts


def test_a_codec_that_asks_for_more_memory_than_there_is(tmp_path, stack, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", stack, compression="lzw")

    def greedy(*values, **options):
        raise MemoryError

    # damaged LZW data make its decoder ask for terabytes
    monkeypatch.setattr("tifffile.TiffPageSeries.asarray", greedy)
    with pytest.raises(FileError, match=r"a\.tif: its content needs more memory than there is"):
        read_image(tmp_path / "a.tif")
