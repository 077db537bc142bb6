"""Unusual content of images, and what is done about it: one test a fault, for all three tasks."""

import ast
import io
import json
import logging
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import tifffile

import knitcore
from knitcore.errors import FileError, FitError, InputError, RecipeError
from knitcore.files import read_image, read_mask, write_image, write_result
from knitcore.recipe import load_recipe

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
TASKS = ("inpaint", "denoise", "super-resolve")


def run(task, image, **fields):
    """A short run of a task; inpainting fills a corner."""
    if task == "inpaint":
        hole = np.zeros(np.shape(image), bool)
        hole[..., :2, :1] = True
        return knitcore.inpaint(image, fields.pop("mask", hole), steps=3, **fields)
    if task == "denoise":
        return knitcore.denoise(image, steps=3, **fields)
    return knitcore.super_resolve(image, scale=2, kernel="delta", passes=1, **fields)


def texts(result):
    return " | ".join(note["text"] for note in result.record["notes"])


@pytest.fixture
def neuron():
    return read_image(DATA / "fluo_neuron_16bit.tif").data[100:132, 100:140]


# 13. Tiny images


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (5, 40)])
def test_tiny_images_work_or_are_refused_in_words(task, shape):
    image = np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)
    try:
        result = run(task, image)
    except InputError as error:
        told = str(error)
        assert "too small for" in told or "no known pixel left" in told
    else:
        factor = 2 if task == "super-resolve" else 1
        assert result.image.shape == tuple(factor * side for side in shape)


# 14. Constant images


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_constant_image_stays_constant(task, dtype):
    result = run(task, np.full((32, 40), 7, dtype))
    assert (result.image == 7).all()
    assert result.image.dtype == dtype


# 15. NaN and infinity


@pytest.mark.parametrize("task", TASKS)
def test_nan_never_comes_out(task, neuron):
    image = neuron.astype(np.float32)
    image[3, 4], image[20, 20] = np.nan, -np.inf
    if task == "inpaint":
        result = run(task, image)
        assert "2 NaN or infinite pixels" in texts(result)
    else:
        with pytest.raises(InputError, match=r"2 values are NaN or infinite.*--nan-as-hole"):
            run(task, image)
        result = run(task, image, nan_as_hole=True)
    assert np.isfinite(result.image).all()


# 16. Saturated pixels


@pytest.mark.parametrize("task", TASKS)
def test_saturated_pixels_are_kept_and_told_of(task, neuron):
    image = neuron.copy()
    image[10:14, 10:20] = 65535
    result = run(task, image)
    assert "3 % of the values are at 65535" in texts(result)
    if task != "super-resolve":
        assert (result.image[11:13, 11:19] > 60_000).all()


def test_a_single_saturated_pixel_is_not_worth_a_note(neuron):
    image = neuron.copy()
    image[10, 10] = 65535
    assert "65535" not in texts(run("denoise", image))


def test_saturated_pixels_that_are_filled_do_not_count_as_measured(neuron):
    image = neuron.copy()
    image[10:14, 10:20] = 65535
    assert "count as measured" not in texts(run("inpaint", image, mask="saturated"))


# 17. Types


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", "u8", "i8"]
)
def test_the_type_that_goes_in_comes_out(task, dtype, neuron):
    image = (neuron // 64).clip(0, 120).astype(dtype)
    assert run(task, image).image.dtype == image.dtype


@pytest.mark.parametrize("task", TASKS)
def test_beyond_24_bits_there_is_a_warning(task, neuron):
    image = neuron.astype(np.uint32) + 2**30
    result = run(task, image)
    assert "are computed with 24 bits" in texts(result)
    if task == "inpaint":
        assert (result.image[2:] == image[2:]).all()


@pytest.mark.parametrize("task", TASKS)
def test_complex_numbers_are_refused(task, neuron):
    with pytest.raises(InputError, match="take the real part, the imaginary part or the magnitude"):
        run(task, neuron + 1j)


@pytest.mark.parametrize("task", TASKS)
def test_two_values_only(task, neuron):
    if task == "inpaint":
        assert run(task, neuron > 300).image.dtype == bool
        return
    with pytest.raises(InputError, match="two values only"):
        run(task, neuron > 300)


# 18. Byte order


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_big_endian_in_little_endian_out_and_noted(tmp_path, suffix, neuron):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, neuron.astype(">u2"))
    else:
        tifffile.imwrite(path, neuron, byteorder=">")
    notes = []
    image = read_image(path, on_note=notes.append)
    assert (image.data == neuron).all()
    assert "big-endian; the output will be little-endian" in notes[0].text
    out = write_image(image, tmp_path / f"b{suffix}")
    head = out.read_bytes()[:128]
    assert head.startswith(b"II") if suffix == ".tif" else b"'<u2'" in head


# 19. Colours


@pytest.mark.parametrize("task", TASKS)
def test_alpha_is_never_fitted(task):
    colours = read_image(DATA / "rgb_ihc_crop.png").data[:24, :32, :3]
    alpha = np.full((24, 32, 1), 255, np.uint8)
    alpha[4:8, 4:8] = 0
    image = np.concatenate([colours, alpha], -1)
    fields = {"mask": np.arange(24 * 32).reshape(24, 32) == 400} if task == "inpaint" else {}
    out = run(task, image, **fields).image
    if task != "super-resolve":
        assert (out[..., 3:] == alpha).all()


def test_colours_of_other_kinds_of_tiff_are_refused(tmp_path):
    data = np.zeros((8, 8, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="separated")
    with pytest.raises(FileError, match="CMYK colours; convert the image to RGB"):
        read_image(tmp_path / "a.tif")


def test_sixteen_bits_of_a_grey_png_stay(tmp_path, neuron):
    PIL.Image.fromarray(neuron).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint16
    write_image(image, tmp_path / "b.png")
    with PIL.Image.open(tmp_path / "b.png") as picture:
        assert picture.mode.startswith("I;16")
        assert (np.asarray(picture) == neuron).all()


# 20. Several images in a file


def test_one_of_several_images_is_chosen_by_number(tmp_path, neuron):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for page in (neuron, neuron, neuron[:8, :8]):
            tif.write(page, metadata=None, photometric="minisblack")
    with pytest.raises(
        FileError, match=r"2 of 32 x 40, 1 of 8 x 8 .* \(--series\): 0: 2 x 32 x 40"
    ):
        read_image(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", series=0).shape == (2, 32, 40)
    assert (read_image(tmp_path / "a.tif", series=1).data == neuron[:8, :8]).all()
    with pytest.raises(FileError, match=r"holds 2 image\(s\), no number 2"):
        read_image(tmp_path / "a.tif", series=2)


def test_each_image_of_an_ome_tiff_has_its_own_pixel_size(tmp_path, neuron):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        for size in (0.5, 2.0):
            tif.write(neuron, metadata={"PhysicalSizeX": size, "PhysicalSizeY": size})
    with pytest.raises(FileError, match=r"holds 2 images .*--series"):
        read_image(tmp_path / "a.ome.tif")
    assert read_image(tmp_path / "a.ome.tif", series=1).pixel_size == {"Y": 2.0, "X": 2.0}


def test_the_full_resolution_of_a_pyramid(tmp_path, neuron):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(neuron, subifds=1, tile=(16, 16))
        tif.write(neuron[::2, ::2], subfiletype=1, tile=(16, 16))
    notes = []
    image = read_image(tmp_path / "a.ome.tif", on_note=notes.append)
    assert (image.data == neuron).all()
    assert "a pyramid; the full resolution is used" in notes[0].text
    assert (read_image(write_image(image, tmp_path / "b.ome.tif")).data == neuron).all()


# 21. Ways to store pixels


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd", "tile": (16, 16)},
        {"compression": "jpeg2000"},
        {"compression": "packbits"},
        {"compression": "lzma"},
        {"bigtiff": True, "tile": (16, 16)},
        {"rowsperstrip": 5},
    ],
    ids=str,
)
def test_ways_to_store_pixels(tmp_path, neuron, options):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", neuron, **options)
    assert (read_image(tmp_path / "a.tif").data == neuron).all()


@pytest.mark.parametrize("options", [{"imagej": True}, {"compression": "zlib"}, {"ome": True}])
def test_an_output_beyond_the_reach_of_tiff_becomes_bigtiff(tmp_path, neuron, monkeypatch, options):
    stack = np.stack([neuron, neuron + 1])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options)
    image = read_image(tmp_path / "a.tif")
    monkeypatch.setattr("knitcore.tiff.CLASSIC_LIMIT", 4000)  # in truth 4 GB
    write_image(image, tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        assert tif.is_bigtiff
    again = read_image(tmp_path / "b.tif")
    assert (again.data == stack).all()
    assert again.axes == image.axes


def test_half_precision_with_a_predictor(tmp_path, neuron):
    pytest.importorskip("imagecodecs")
    half = neuron.astype(np.float16)
    tifffile.imwrite(tmp_path / "a.tif", half, compression="zlib", predictor=True)
    image = read_image(tmp_path / "a.tif")
    assert image.dtype == np.float16
    assert (image.data == half).all()


def test_a_jpeg_inside_a_tiff_is_told_of(tmp_path):
    pytest.importorskip("imagecodecs")
    colours = read_image(DATA / "rgb_ihc_crop.png").data[:32, :32, :3]
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="ycbcr", compression="jpeg")
    notes = []
    assert read_image(tmp_path / "a.tif", on_note=notes.append).axes == "YXS"
    assert "JPEG-compressed, so its artefacts count as image" in notes[0].text


def test_a_codec_that_is_not_installed_is_named(tmp_path, neuron, monkeypatch):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", neuron, compression="lzw")
    error = ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")
    monkeypatch.setattr("tifffile.TiffPageSeries.asarray", lambda *_, **__: _raise(error))
    with pytest.raises(FileError, match="its compression needs imagecodecs: pip install"):
        read_image(tmp_path / "a.tif")


def _raise(error):
    raise error


# 22. Parts of an image that are elsewhere


def test_a_missing_part_of_a_multi_file_ome_tiff_is_named(tmp_path, neuron):
    planes = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="part{i}.ome.tif">urn:uuid:{i:032x}</UUID></TiffData>'
        for i in range(2)
    )
    pixels = (
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="40" SizeY="32" SizeC="2" '
        f'SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>{planes}</Pixels>'
    )
    for i in range(2):
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{i:032x}"><Image ID="Image:0">{pixels}</Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"part{i}.ome.tif", neuron + i, description=xml, metadata=None)
    assert (read_image(tmp_path / "part0.ome.tif").data == np.stack([neuron, neuron + 1])).all()
    (tmp_path / "part1.ome.tif").unlink()
    logging.getLogger("tifffile").setLevel(logging.WARNING)
    with pytest.raises(FileError, match=r"part1\.ome\.tif"):
        read_image(tmp_path / "part0.ome.tif")


# 25. Larger than memory


def test_larger_than_memory_is_refused_before_reading_with_both_figures(
    tmp_path, neuron, monkeypatch
):
    np.save(tmp_path / "a.npy", np.zeros((1000, 1000), np.float32))
    monkeypatch.setattr("knitcore.files._free_memory", lambda: 4_000_000)
    with pytest.raises(FileError, match=r"\(0\.004 GB\).*only 0\.004 GB of memory are free"):
        read_image(tmp_path / "a.npy")


# 6 and 37. Nothing that can run code


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_is_refused_by_its_first_bytes(tmp_path, protocol):
    import pickle

    for name in ("weights.pt", "a.tif", "a.npy", "run.yaml"):
        (tmp_path / name).write_bytes(pickle.dumps({"seed": 1}, protocol))
        with pytest.raises(FileError, match="a Python pickle, which can run code"):
            read_image(tmp_path / name)
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "run.yaml")


def test_a_checkpoint_of_torch_is_refused(tmp_path):
    import torch

    torch.save({"a": torch.zeros(3)}, tmp_path / "a.tif")
    with pytest.raises(FileError, match=r"a ZIP archive.*PyTorch.*can run code"):
        read_image(tmp_path / "a.tif")


def test_no_code_unpickles():
    """torch.load, pickle.load(s), np.load(allow_pickle=True) and yaml.load(Loader) are called nowhere."""
    found = []
    for path in [*ROOT.glob("knit*/**/*.py"), *ROOT.glob("cli/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            unsafe = called in ("torch.load", "pickle.load", "pickle.loads", "dill.loads")
            unsafe |= called.endswith("np.load") and options.get("allow_pickle") != "False"
            unsafe |= called in (
                "yaml.unsafe_load",
                "yaml.full_load",
                "joblib.load",
                "eval",
                "exec",
            )
            unsafe |= called == "yaml.load" and "_StrictLoader" not in ast.unparse(node)
            if unsafe:
                found.append(f"{path}:{node.lineno}: {called}")
    assert not found


# 72. What a file tells of people stays behind


def test_people_are_not_copied_from_the_input(tmp_path, neuron):
    secret = "Erika Mustermann"
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Experimenter ID="Experimenter:0" LastName="{secret}"/>'
        f'<Image ID="Image:0" Name="{secret}"><Description>{secret}</Description>'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="40" SizeY="32" SizeC="1" '
        'SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0:0"/>'
        "<TiffData/></Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", neuron, description=xml, metadata=None)
    info = {"Info": f"Patient: {secret}", "unit": "um"}
    extra = [(315, "s", 0, secret, True)]
    tifffile.imwrite(
        tmp_path / "b.tif", neuron, imagej=True, metadata=info, resolution=(2, 2), extratags=extra
    )
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Author", secret)
    PIL.Image.fromarray(neuron).save(tmp_path / "c.png", pnginfo=text)
    exif = PIL.Image.Exif()
    exif[315] = secret
    PIL.Image.fromarray((neuron >> 8).astype(np.uint8)).save(tmp_path / "d.jpg", exif=exif)
    for name in ("a.ome.tif", "b.tif", "c.png", "d.jpg"):
        assert secret.encode() in (tmp_path / name).read_bytes()
        image = read_image(tmp_path / name)
        result = run("inpaint", image)
        for ending in (".tif", ".ome.tif", ".png", ".npy"):
            out = write_result(result, tmp_path / f"{name[0]}_out{ending}")
            assert secret.encode() not in out.read_bytes()
            record = out.with_name(out.name + ".knit.json").read_text()
            assert secret not in record
            assert str(tmp_path) not in record
    assert read_image(tmp_path / "a_out.tif").pixel_size == {"Y": 0.5, "X": 0.5}


# C. Masks in files


def test_a_mask_cut_short_or_empty_is_refused_like_an_image(tmp_path, neuron):
    content = io.BytesIO()
    PIL.Image.fromarray((neuron > 300).astype(np.uint8) * 255).save(content, format="PNG")
    (tmp_path / "mask.png").write_bytes(content.getvalue()[:60])
    with pytest.raises(FileError, match=r"mask\.png: the file is cut short"):
        read_mask(tmp_path / "mask.png")
    (tmp_path / "mask.png").write_bytes(b"")
    with pytest.raises(FileError, match="file is empty"):
        read_mask(tmp_path / "mask.png")


def test_records_hold_no_numbers_that_json_lacks(tmp_path, neuron):
    image = neuron.astype(np.float32)
    image[0, 0] = np.nan
    out = write_result(run("inpaint", image), tmp_path / "a.tif")

    def refuse(text):
        raise AssertionError(text)

    text = out.with_name("a.tif.knit.json").read_text()
    json.loads(text, parse_constant=refuse)


SECRET = "Erika Mustermann"


def told_of(path):
    """Every text that can be read from a file, by other programs' means."""
    if path.is_dir():
        return (path / "zarr.json").read_text()
    if path.suffix == ".png":
        with PIL.Image.open(path) as picture:
            return str(picture.text)
    with tifffile.TiffFile(path) as tif:
        return f"{tif.pages.first.description} {tif.imagej_metadata}"


@pytest.mark.parametrize("ending", [".tif", ".ome.tif", ".png", ".ome.zarr", ".npy"])
def test_all_texts_are_kept_if_asked_for(tmp_path, neuron, ending):
    from click.testing import CliRunner

    from knit_cli.main import cli

    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Experimenter ID="Experimenter:0" LastName="{SECRET}"/>'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="40" '
        'SizeY="32" SizeC="1" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/><TiffData/></Pixels>'
        "</Image></OME>"
    )
    tifffile.imwrite(tmp_path / "ome.ome.tif", neuron, description=xml, metadata=None)
    tifffile.imwrite(tmp_path / "ij.tif", neuron, imagej=True, metadata={"Info": f"by {SECRET}"})
    plain = [(315, "s", 0, SECRET, True)]
    tifffile.imwrite(tmp_path / "plain.tif", neuron, metadata=None, extratags=plain)
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET)
    PIL.Image.fromarray(neuron).save(tmp_path / "png.png", pnginfo=text)
    exif = PIL.Image.Exif()
    exif[315] = SECRET
    PIL.Image.fromarray((neuron >> 8).astype(np.uint8)).save(tmp_path / "jpeg.jpg", exif=exif)
    for name in ("ome.ome.tif", "ij.tif", "plain.tif", "png.png", "jpeg.jpg"):
        words = ["inpaint", str(tmp_path / name), "--mask", "below=0", "--format", ending[1:]]
        for keep, wanted in (("usual", False), ("all", True)):
            out = tmp_path / f"{name}.{keep}{ending}"
            done = CliRunner().invoke(cli, [*words, "-o", str(out), "--keep-metadata", keep])
            assert done.exit_code == 0, done.output
            assert (SECRET in told_of(out) if ending != ".npy" else wanted) == wanted, name
            record = json.loads(out.with_name(out.name + ".knit.json").read_text())
            assert (SECRET in json.dumps(record)) == wanted
            assert (read_image(out).data == read_image(tmp_path / name).data).all()


# 54, 56. What goes wrong in the fit


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_too_little_memory_on_a_gpu(monkeypatch, neuron, device):
    """A full GPU is played, since few who test have one: the fit itself is real, on the CPU."""
    import torch

    import knitcore.tasks

    real = knitcore.tasks.denoise_steps

    def full(image, sigma, recipe, **more):
        if recipe.device != "cpu":
            yield knitcore.Progress(0.1, "fit")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return (yield from real(image, sigma, recipe, **more))

    monkeypatch.setattr(knitcore.tasks, "denoise_steps", full)
    recipe = knitcore.Denoise(steps=3, device=device)
    if device == "auto":
        result = knitcore.run(recipe, neuron)
        assert "not enough memory on the GPU; done on the CPU" in texts(result)
        assert (result.record["device"], result.record["recipe"]["device"]) == ("cpu", "cpu")
    else:
        with pytest.raises(knitcore.DeviceError, match="not enough memory on the device cuda"):
            knitcore.run(recipe, neuron)


def test_a_fit_that_leaves_all_numbers_behind_is_begun_anew_and_then_given_up(monkeypatch, neuron):
    """With half the learning rate each time; what is not finite never comes out."""
    import knitcore.fit

    rates = []
    real = knitcore.fit.learning_rate

    def explosive(recipe, rate, step):
        if step == 0:
            rates.append(rate)
        return real(recipe, rate, step) * (float("inf") if len(rates) <= failing else 1)

    monkeypatch.setattr(knitcore.fit, "learning_rate", explosive)
    fields = {"knit_depth": 0, "ensemble": 1, "width": 8, "frequencies": 8}
    hole = np.zeros(neuron.shape, bool)
    hole[4:12, 4:12] = True
    failing = 1
    result = knitcore.inpaint(neuron, hole, steps=3, **fields)
    assert result.record["restarts"] == 1
    assert rates[1] == rates[0] / 2
    failing = 99
    with pytest.raises(FitError, match=r"diverged at step \d+ of 3, 3 times; lower `rate`"):
        knitcore.inpaint(neuron, hole, steps=3, **fields)
