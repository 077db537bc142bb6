"""TIFF in its dialects (ImageJ, OME, tifffile's own, plain): axes, pixel size and unit kept."""

from __future__ import annotations

import json
import logging
import math
import re
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np

from knitcore.axes import Image
from knitcore.errors import FileError
from knitcore.events import Note

# canonical name: (OME symbol, the name ImageJ users expect, other spellings)
UNITS = {
    "angstrom": ("Å", "angstrom", ("a", "ångström")),
    "picometer": ("pm", "pm", ("picometre",)),
    "nanometer": ("nm", "nm", ("nanometre", "nanometers")),
    "micrometer": ("µm", "micron", ("um", "μm", "microns", "micrometre", "micrometers")),
    "millimeter": ("mm", "mm", ("millimetre",)),
    "centimeter": ("cm", "cm", ("centimetre",)),
    "meter": ("m", "m", ("metre",)),
    "inch": ("in", "inch", ("inches",)),
    "microsecond": ("µs", "usec", ("us", "μs")),
    "millisecond": ("ms", "msec", ()),
    "second": ("s", "sec", ("seconds",)),
    "minute": ("min", "min", ("minutes",)),
    "hour": ("h", "hour", ("hours", "hr")),
}
_SPELLINGS = {
    text.lower(): name
    for name, (symbol, plain, others) in UNITS.items()
    for text in (name, symbol, plain, *others)
}
_NO_UNIT = {"", "pixel", "pixels", "pix", "px", "voxel", "voxels", "reference frame", "none"}

CLASSIC_LIMIT = 2**32 - 2**25  # bytes that 32-bit offsets reach, with room for the tags
_DISPLAY = ("mode", "min", "max", "LUTs", "Ranges")  # ImageJ's display settings, passed on
_FAULT = re.compile(r"page|series|OME|file|offset|corrupt|trunc|segment|strip|tile|decode", re.I)
_JPEG = {6, 7, 33007, 34892}


def unit_name(text: str | None) -> str | None:
    """Canonical name of a unit as found in files.

    Parameters
    ----------
    text : str or None
        Such as "um", "micron", "µm" or ImageJ's escape for it.

    Returns
    -------
    str or None
        "micrometer" and the like; an unknown unit as it is; None for none and for pixels.
    """
    text = (text or "").strip().strip("\0")
    # ImageJ writes the micro sign as a backslash escape of six characters
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
    if text.lower() in _NO_UNIT:
        return None
    if text == "M":
        return text
    return _SPELLINGS.get(text.lower(), text)


def read_tiff(
    path: Path,
    *,
    guard: Callable[[tuple[int, ...], np.dtype], None],
    note: Callable[[Note], Any],
    allow_damaged: bool = False,
    indices: bool = False,
    series: int | None = None,
) -> Image:
    """Read the one image of a TIFF file.

    Parameters
    ----------
    path : Path
    guard : callable
        Called with shape and dtype before pixels are decoded; raises to refuse.
    note : callable
        Receives notes.
    allow_damaged : bool
        Read what is there of a damaged file, with a warning.
    indices : bool
        Keep the indices of a palette image (labels of a mask) instead of its colours.
    series : int, optional
        Which image of a file that holds several, from 0 on.

    Returns
    -------
    Image
        Axes by the file's own metadata; `extra["tiff"]` holds what `write_tiff` needs.

    Raises
    ------
    FileError
        Damaged, cut short, or of a kind that is not read.
    """
    import tifffile

    with _warnings_of_tifffile() as messages:
        try:
            with tifffile.TiffFile(path) as tif:
                _refuse_loops(tif, path)
                found = _one_series(tif, path, messages, allow_damaged, series)
                guard(found.shape, found.dtype)
                data = found.asarray()
                image = _described(tif, found, data, path, note, indices)
        except (FileError, MemoryError):
            raise
        except Exception as error:  # codecs and damaged structures raise anything
            raise FileError(_reason(path, error, messages)) from None
    faults = [text for text in messages if _FAULT.search(text)]
    if faults and not allow_damaged:
        raise FileError(_reason(path, None, faults))
    for text in messages:
        note(Note(f"{path.name}: {text}", "warning"))
    return image


class _Collector(logging.Handler):
    """Keeps the messages of one thread."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages, self.thread = messages, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.messages.append(" ".join(record.getMessage().split()))

    def mine(self, record: logging.LogRecord) -> bool:
        return record.thread != self.thread


@contextmanager
def _warnings_of_tifffile() -> Iterator[list[str]]:
    # A cut-short file is read as fewer planes, told only to this logger.
    messages: list[str] = []
    handler, logger = _Collector(messages), logging.getLogger("tifffile")
    logger.addHandler(handler)
    others = [other for other in logger.handlers if other is not handler]
    for other in others:
        other.addFilter(handler.mine)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield messages
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        for other in others:
            other.removeFilter(handler.mine)


def _reason(path: Path, error: Exception | None, messages: list[str]) -> str:
    text = " ".join(str(error).split()) if error else ""
    if "imagecodecs" in text:
        return f"{path}: its compression needs imagecodecs: pip install imagecodecs ({text})"
    told = "; ".join([text or type(error).__name__] * bool(error) + messages[:2])
    return (
        f"{path}: the file is cut short or damaged ({told[:300]}). Copy it again, or take "
        "what is readable (--allow-damaged)"
    )


def _refuse_loops(tif: Any, path: Path) -> None:
    """Refuse a chain of pages that leads back to an earlier one: tifffile would follow it for ever."""
    handle, form = tif.filehandle, tif.tiff
    seen: set[int] = set()
    start = 8 if form.is_bigtiff else 4
    try:
        handle.seek(start)
        offset = struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0]
        while offset and offset not in seen:
            seen.add(offset)
            handle.seek(offset)
            tags = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
            handle.seek(offset + form.tagnosize + tags * form.tagsize)
            offset = struct.unpack(form.offsetformat, handle.read(form.offsetsize))[0]
    except (struct.error, OSError, ValueError):
        return  # cut short, which the reader itself tells
    if offset:
        raise FileError(
            f"{path}: the file is damaged: after {len(seen)} pages it leads back to an earlier one"
        )


def _one_series(
    tif: Any, path: Path, messages: list[str], allow_damaged: bool, chosen: int | None
) -> Any:
    if not tif.series:
        raise FileError(f"{path}: holds no image")
    if chosen is not None and not 0 <= chosen < len(tif.series):
        raise FileError(f"{path}: holds {len(tif.series)} image(s), no number {chosen}")
    series = tif.series[chosen or 0]
    if len(tif.series) > 1 and chosen is None and not (allow_damaged and messages):
        sizes = Counter(_size(page.shape) for page in tif.pages)
        if tif.is_ome or len(sizes) == 1:
            raise FileError(
                f"{path}: holds {len(tif.series)} images ("
                + ", ".join(f"{i}: {_size(one.shape)}" for i, one in enumerate(tif.series[:4]))
                + "); choose one (--series)"
            )
        raise FileError(
            f"{path}: pages differ: "
            + ", ".join(f"{count} of {size}" for size, count in sizes.most_common(4))
            + " (a thumbnail?); choose one (--series): "
            + ", ".join(f"{i}: {_size(one.shape)}" for i, one in enumerate(tif.series[:4]))
        )
    if allow_damaged:
        return series
    missing = sum(page is None for page in series.pages)
    if missing:
        parts = _absent_parts(tif, path)
        why = f"not beside it: {', '.join(parts[:6])}" if parts else "the file is cut short"
        raise FileError(f"{path}: {missing} of {len(series.pages)} planes are missing; {why}")
    declared = (tif.imagej_metadata or {}).get("images", 1) if tif.is_imagej else 1
    planes = len(series.pages)
    if declared > planes and declared > math.prod(series.shape[:-2]):
        raise FileError(f"{path}: {declared} planes declared, {planes} readable: cut short")
    end = tif.filehandle.size
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > end:
            raise FileError(f"{path}: the file is cut short: pixels end after byte {end:,}")
        return series
    for page in series.pages:
        spans = zip(page.dataoffsets, page.databytecounts, strict=False)
        if page.parent is tif and any(start + count > end for start, count in spans):
            raise FileError(f"{path}: the file is cut short: pixels end after byte {end:,}")
    return series


def _absent_parts(tif: Any, path: Path) -> list[str]:
    """Names of the files of a multi-file OME-TIFF that are not beside it."""
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return []
    named = {item.get("FileName") for item in root.iter() if item.tag.endswith("}UUID")}
    return sorted(name for name in named if name and not (path.parent / name).is_file())


def _described(
    tif: Any, series: Any, data: np.ndarray, path: Path, note: Callable, indices: bool
) -> Image:
    page = series.keyframe
    axes, data = _letters(series.axes), np.asarray(data)
    extra: dict[str, Any] = {
        "kind": series.kind if series.kind in ("imagej", "ome", "shaped") else "generic",
        "bigtiff": bool(tif.is_bigtiff),
        "compressed": int(page.compression) != 1,
        "photometric": int(page.photometric),
    }
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    if tif.byteorder == ">" and data.dtype.itemsize > 1:
        note(Note(f"{path.name}: big-endian; the output will be little-endian"))
    if int(page.compression) in _JPEG:
        note(Note(f"{path.name}: JPEG-compressed, so its artefacts count as image", "warning"))
    if len(getattr(series, "levels", ())) > 1:
        note(
            Note(f"{path.name}: a pyramid; the full resolution is used, the output has no pyramid")
        )
    data, axes, alpha = _samples(page, data, axes, path, note, extra, indices)
    sizes, names = _calibration(tif, series, page, path, note, extra)
    extra["more_sizes"] = {a: size for a, size in sizes.items() if a not in axes}
    sizes = {a: size for a, size in sizes.items() if a in axes}
    return Image(
        data,
        axes,
        pixel_size={a: size for a, (size, _) in sizes.items()},
        unit={a: unit for a, (_, unit) in sizes.items() if unit},
        channel_names=names,
        alpha=alpha,
        name=path.name,
        extra={"path": str(path), "format": "tiff", "tiff": extra},
    )


def _letters(axes: str) -> str:
    """Axis letters, each once: tifffile calls several unknown axes Q."""
    spare = iter(letter for letter in "QRUVWABDEFGHJKLMNOP" if letter not in axes)
    seen: list[str] = []
    for letter in axes.upper():
        seen.append(letter if letter not in seen else next(spare))
    return "".join(seen)


def _samples(
    page: Any,
    data: np.ndarray,
    axes: str,
    path: Path,
    note: Callable,
    extra: dict[str, Any],
    indices: bool,
) -> tuple[np.ndarray, str, bool]:
    """Colours: samples last, palettes resolved, alpha told from other extra samples."""
    kind = int(page.photometric)
    if kind == 3 and not indices:
        table = np.asarray(page.colormap)
        if extra["kind"] == "imagej":
            # ImageJ stores a grey image with a false-colour display as a palette image
            extra["colormap"] = table
            note(Note(f"{path.name}: grey values with a colour table for display; kept as such"))
        else:
            data = np.moveaxis((table >> 8).astype(np.uint8)[:, data], 0, -1)
            extra["photometric"] = 2
            note(Note(f"{path.name}: a palette image; converted to RGB"))
            return data, axes + "S", False
    elif kind == 6 and int(page.compression) not in _JPEG:
        raise FileError(f"{path}: YCbCr colours; convert the image to RGB")
    elif kind == 6:
        extra["photometric"] = 2
    elif kind not in (0, 1, 2, 3):
        name = {5: "CMYK", 8: "CIE Lab", 9: "CIE Lab", 32803: "raw sensor"}.get(kind, "unusual")
        raise FileError(f"{path}: {name} colours; convert the image to RGB")
    if "S" not in axes:
        return data, axes, False
    colours = 3 if extra["photometric"] == 2 else 1
    samples = data.shape[axes.index("S")]
    kinds = [int(value) for value in page.extrasamples or ()]
    extra["extrasamples"] = kinds
    alpha = samples == colours + 1 and kinds[-1:] in ([1], [2])
    if samples == colours or alpha:
        place = axes.index("S")
        return np.moveaxis(data, place, -1), axes.replace("S", "") + "S", alpha
    if "C" in axes:
        raise FileError(f"{path}: {samples} samples a pixel besides channels; split them first")
    extra["photometric"] = 1
    return data, axes.replace("S", "C"), False


def _calibration(
    tif: Any, series: Any, page: Any, path: Path, note: Callable, extra: dict[str, Any]
) -> tuple[dict[str, tuple[float, str | None]], tuple[str, ...]]:
    """Pixel size and unit by axis, and channel names; nothing is invented."""
    found: dict[str, tuple[float, str | None]] = {}
    names: tuple[str, ...] = ()
    kind = extra["kind"]
    resolution, print_unit = _resolution(page)
    if resolution:
        extra["resolution"] = (*resolution, print_unit)
    if kind == "ome":
        found, names = _from_ome(tif.ome_metadata, tif.series.index(series))
    elif kind == "imagej" or (series.kind == "shaped" and (tif.shaped_metadata or [{}])[0]):
        meta = dict((tif.imagej_metadata if kind == "imagej" else tif.shaped_metadata[0]) or {})
        extra["display"] = {key: meta[key] for key in _DISPLAY if key in meta}
        unit = unit_name(str(meta.get("unit") or ""))
        if unit:
            extra["unit_text"] = str(meta["unit"])
            for axis, per in zip("XY", resolution or (), strict=False):
                own = unit_name(str(meta.get(f"{axis.lower()}unit") or ""))
                found[axis] = (per[1] / per[0] if per[0] else 0.0, own or unit)
            if meta.get("spacing"):
                own = unit_name(str(meta.get("zunit") or ""))
                found["Z"] = (float(meta["spacing"]), own or unit)
        if meta.get("finterval"):
            found["T"] = (float(meta["finterval"]), unit_name(str(meta.get("tunit") or "sec")))
        labels = meta.get("Labels")
        if isinstance(labels, list) and series.axes.strip("YXS") == "C":
            names = tuple(str(label) for label in labels)
    if print_unit == 3 and resolution and kind in ("generic", "shaped"):
        # centimetres are what microscopes write; inches are a hint for printers
        for axis, per in zip("XY", resolution, strict=True):
            found[axis] = (1e4 * per[1] / per[0] if per[0] else 0.0, "micrometer")
    for axis, (size, unit) in list(found.items()):
        if not 1e-9 < abs(size) < 1e9:
            note(Note(f"{path.name}: absurd pixel size {size:g} along {axis} ignored", "warning"))
            del found[axis]
        elif size < 0:
            found[axis] = (-size, unit)
    return found, names


def _resolution(page: Any) -> tuple[tuple[tuple[int, int], ...] | None, int]:
    tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    unit = page.tags.get("ResolutionUnit")
    code = int(unit.value) if unit is not None else 1
    values = [tuple(tag.value) for tag in tags if tag is not None and len(tag.value) == 2]
    if len(values) != 2 or any(0 in value for value in values):
        return None, code
    return tuple(values), code


def _from_ome(
    text: str, number: int
) -> tuple[dict[str, tuple[float, str | None]], tuple[str, ...]]:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}, ()
    every = [item for item in root.iter() if item.tag.endswith("}Pixels")]
    if number >= len(every):
        return {}, ()
    pixels = every[number]
    found: dict[str, tuple[float, str | None]] = {}
    for axis in "XYZ":
        if size := pixels.get(f"PhysicalSize{axis}"):
            unit = unit_name(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
            if unit:  # a size in pixels is no size
                found[axis] = (float(size), unit)
    if size := pixels.get("TimeIncrement"):
        found["T"] = (float(size), unit_name(pixels.get("TimeIncrementUnit", "s")))
    names = [item.get("Name") for item in pixels if item.tag.endswith("}Channel")]
    return found, tuple(name or "" for name in names) if any(names) else ()


def write_tiff(handle: BinaryIO, image: Image, *, ome: bool = False) -> None:
    """Write an image as TIFF, in the dialect it was read from where that can hold it.

    Parameters
    ----------
    handle : binary file
        Open for writing and reading.
    image : Image
    ome : bool
        Write OME-TIFF whatever the source was.
    """
    import tifffile

    data = np.ascontiguousarray(image.data)
    source = image.extra.get("tiff", {})
    kind = _dialect(image, "ome" if ome else source.get("kind"))
    options: dict[str, Any] = {"photometric": _photometric(image, source), "software": False}
    # the writer itself would count on compression to save the offsets
    if (source.get("bigtiff") and kind != "imagej") or data.nbytes > CLASSIC_LIMIT:
        options["bigtiff"] = True
    if source.get("compressed") and kind != "imagej":
        options["compression"] = "zlib"
    if image.axes.endswith(("S", "C")):
        options["planarconfig"] = "contig"
        colours = 3 if options["photometric"] == "rgb" else 1
        extra = data.shape[-1] - colours
        if extra:
            kinds = source.get("extrasamples") or []
            usual = [2] if image.alpha else [0] * extra
            options["extrasamples"] = kinds if len(kinds) == extra else usual
    if "colormap" in source and data.dtype == np.uint8 and kind == "imagej":
        options["colormap"] = source["colormap"]
    options |= {"imagej": _imagej, "ome": _ome, "shaped": _shaped, "generic": _generic}[kind](
        image, source
    )
    tifffile.imwrite(handle, data, **options)


def _dialect(image: Image, wanted: str | None) -> str:
    letters, kind = image.axes, image.dtype.str[1:]
    rgb = letters.endswith("S") and image.shape[-1] == 3
    order = [("TZCYXS" * (set(letters) <= set("TZCYXS"))).find(a) for a in letters]
    fits = {
        "imagej": -1 not in order
        and math.prod(image.shape) * image.dtype.itemsize <= CLASSIC_LIMIT
        and order == sorted(order)
        and ((kind in ("u1", "u2", "f4") and "S" not in letters) or (rgb and kind == "u1")),
        "ome": set(letters) <= set("TCZYXS")
        and letters.removesuffix("S").endswith("YX")
        and kind in ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
        and not (letters.endswith("S") and image.shape[-1] == 2),
        "generic": len(letters.removesuffix("S")) <= 3,
        "shaped": not letters.endswith("C"),
    }
    if wanted is None:
        named = set(letters) - set("YXS") or image.pixel_size
        tries = ["imagej", "ome", "shaped"] if named else ["shaped"]
    else:
        tries = [wanted, "ome", "shaped"] if image.pixel_size else [wanted, "shaped"]
    return next((one for one in tries if fits[one]), "generic")


def _photometric(image: Image, source: dict[str, Any]) -> str:
    if image.axes.endswith("S") and image.shape[-1] - image.alpha == 3:
        return "rgb"
    if "colormap" in source and image.dtype == np.uint8:
        return "palette"
    return "miniswhite" if source.get("photometric") == 0 else "minisblack"


def _sizes(image: Image, source: dict[str, Any]) -> dict[str, tuple[float, str | None]]:
    sizes = dict(source.get("more_sizes", {}))
    sizes |= {a: (size, image.unit.get(a)) for a, size in image.pixel_size.items()}
    return sizes


def _kept_resolution(image: Image, source: dict[str, Any]) -> dict[str, Any]:
    """Resolution tags: the source's own fractions while the pixel size is still theirs."""
    kept = source.get("resolution")
    if kept:
        x, y, code = kept
        scale = 1e4 if code == 3 else 1.0
        same = all(
            math.isclose(image.pixel_size.get(axis, 0), scale * per[1] / per[0], rel_tol=1e-12)
            for axis, per in (("X", x), ("Y", y))
        )
        if same or not {"X", "Y"} & set(image.pixel_size):
            return {"resolution": (x, y), "resolutionunit": code}
    sizes = [image.pixel_size.get("X"), image.pixel_size.get("Y")]
    if not any(sizes):
        return {}
    x_size, y_size = (sizes[0] or sizes[1] or 1.0), (sizes[1] or sizes[0] or 1.0)
    return {"resolution": (1 / x_size, 1 / y_size), "resolutionunit": "NONE"}


def _imagej(image: Image, source: dict[str, Any]) -> dict[str, Any]:
    meta = _spoken(image, source)
    meta |= source.get("display", {})
    if image.channel_names and image.axes.strip("YXS") == "C":
        meta["Labels"] = list(image.channel_names)
    if texts := image.extra.get("metadata"):
        meta["Info"] = "\n".join(f"{key}: {text}" for key, text in texts.items())
    return {"imagej": True, "metadata": meta, **_kept_resolution(image, source)}


def _spoken(image: Image, source: dict[str, Any]) -> dict[str, Any]:
    """Axes and calibration in ImageJ's words."""
    meta: dict[str, Any] = {"axes": image.axes}
    sizes = _sizes(image, source)
    unit = next((sizes[a][1] for a in "XYZ" if a in sizes and sizes[a][1]), None)
    if unit:
        text = source.get("unit_text", "")
        if unit_name(text) != unit or not text.isascii():
            text = UNITS[unit][1] if unit in UNITS else unit
        meta["unit"] = text.encode("ascii", "backslashreplace").decode()
    for axis in "YZ":
        if axis in sizes and sizes[axis][1] not in (None, unit):
            meta[f"{axis.lower()}unit"] = UNITS.get(str(sizes[axis][1]), ("", sizes[axis][1]))[1]
    if "Z" in sizes:
        meta["spacing"] = sizes["Z"][0]
    if "T" in sizes:
        meta["finterval"] = sizes["T"][0]
        if sizes["T"][1] not in (None, "second"):
            meta["tunit"] = UNITS.get(str(sizes["T"][1]), ("", sizes["T"][1]))[1]
    return meta


def _ome(image: Image, source: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = {"axes": image.axes}
    for axis, (size, unit) in _sizes(image, source).items():
        key = {"T": "TimeIncrement"}.get(axis, f"PhysicalSize{axis}")
        if axis in "XYZT" and unit:  # without a unit OME would mean micrometers
            meta[key] = size
            meta[f"{key}Unit"] = UNITS[unit][0] if unit in UNITS else unit
    if image.channel_names:
        meta["Channel"] = {"Name": list(image.channel_names)}
    if texts := image.extra.get("metadata"):
        meta["MapAnnotation"] = {"Namespace": "source metadata", **texts}
    return {"ome": True, "metadata": meta, **_print_resolution(source)}


def _shaped(image: Image, source: dict[str, Any]) -> dict[str, Any]:
    meta = _spoken(image, source)
    if texts := image.extra.get("metadata"):
        meta["source_metadata"] = texts
    return {"metadata": meta, **_kept_resolution(image, source)}


def _generic(image: Image, source: dict[str, Any]) -> dict[str, Any]:
    texts = image.extra.get("metadata")
    told = {"description": json.dumps({"source_metadata": texts})} if texts else {}
    return {"metadata": None, **told, **_kept_resolution(image, source)}


def _print_resolution(source: dict[str, Any]) -> dict[str, Any]:
    kept = source.get("resolution")
    return {"resolution": kept[:2], "resolutionunit": kept[2]} if kept else {}


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
