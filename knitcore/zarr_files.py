"""OME-Zarr 0.4 and 0.5, and plain Zarr arrays of format 2 and 3: folders of chunks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from knitcore.axes import Image, as_image, to_dtype
from knitcore.errors import FileError
from knitcore.events import Note
from knitcore.tiff import unit_name

SUFFIXES = (".zarr",)
NEW_VERSION = "0.5"  # of OME-Zarr, for an image that was not read from one
NEW_CHUNK = 1024  # side of its chunks along Y and X
MAX_JSON = 2**20
_NAMES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_KINDS = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}

# Codecs that only compress. Zarr would look up any other by its name, "pickle" among them,
# which runs code found in a chunk.
_CODECS = {
    *("blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "crc32c", "crc32", "adler32"),
    *("shuffle", "bitround", "delta", "fixedscaleoffset", "packbits", "fletcher32"),
    *("bytes", "transpose", "sharding_indexed"),
}

Guard = Callable[..., None]


def is_zarr(path: str | Path) -> bool:
    """Whether a folder is a Zarr array or group, which counts as one file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
        By what lies in it, not by its name.
    """
    return any(os.path.isfile(os.path.join(path, name)) for name in _NAMES)


def has_zarr() -> bool:
    """Whether the zarr package is there.

    Returns
    -------
    bool
    """
    return find_spec("zarr") is not None


def read_zarr(
    path: Path,
    *,
    guard: Guard,
    note: Callable[[Note], Any],
    series: int | None = None,
    missing_as_hole: bool = False,
    lazy: bool = False,
    is_mask: bool = False,
) -> Image:
    """Read an OME-Zarr image (or label image), or a plain Zarr array.

    Parameters
    ----------
    path : Path
        The folder.
    guard : callable
        Called with shape, dtype and size on disk before chunks are decoded; raises to refuse.
    note : callable
        Receives notes.
    series : int, optional
        Which image of a folder that holds several (bioformats2raw's layout).
    missing_as_hole : bool
        List the boxes of missing chunks in `extra["holes"]`, so that a mask takes them in.
    lazy : bool
        Leave the pixels on disk until they are asked for.
    is_mask : bool
        A mask without any chunk is an empty one; an image without any is refused.

    Returns
    -------
    Image
        Full resolution. `extra["zarr"]` holds what `write_zarr` needs.

    Raises
    ------
    FileError
        Damaged, of a kind that is not read, or the zarr package is not there.
    """
    if not has_zarr():
        raise FileError(f"{path}: Zarr needs another package: pip install 'napari-knitworks[zarr]'")
    try:
        return _read(path, guard, note, series, missing_as_hole, lazy, is_mask)
    except (FileError, MemoryError):
        raise
    except Exception as error:  # metadata of the wrong shape raise anything
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> FileError:
    told = " ".join(str(error).split()) or type(error).__name__
    return FileError(f"{path}: the Zarr folder is damaged ({type(error).__name__}: {told:.300})")


def _read(
    path: Path,
    guard: Guard,
    note: Callable[[Note], Any],
    series: int | None,
    missing_as_hole: bool,
    lazy: bool,
    is_mask: bool,
) -> Image:
    fields, version = _multiscale(path, series)
    extra: dict[str, Any] = {"version": version}
    inner = path
    if fields is not None:
        place = str(fields["datasets"][0]["path"])
        inner = path / fields.pop("inner", "") / place
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise FileError(f"{path}: its metadata points outside of it ({place})")
        if not inner.is_dir():
            raise FileError(f"{path}: the array {place} that its metadata names is missing")
    pixels = _open(inner, path)
    absent, chunks = _count(pixels, inner, guard, lazy)
    extra |= {"format": pixels.format, "chunks": pixels.chunks, "shards": pixels.shards}
    if fields is None:
        image = _plain(pixels, path, extra)
    else:
        image = _described(fields, pixels, path, note, extra)
    if pixels.big_endian:
        note(Note(f"{path.name}: big-endian; the output will be little-endian"))
    places: dict[str, Any] = {}
    if len(absent) == chunks and not is_mask:
        raise FileError(
            f"{path}: none of its {chunks:,} chunks is there: the folder is incomplete, or holds nothing "
            f"but the value {pixels.stored.fill_value}"
        )
    if absent and not is_mask:
        share = f"{len(absent):,} of {chunks:,} chunks are missing"
        if missing_as_hole:
            places["holes"] = [_box(number, pixels) for number in absent]
            note(Note(f"{path.name}: {share}; their pixels are filled", "warning"))
        else:
            filler = f"{pixels.stored.fill_value}"
            hint = "a program leaves out empty chunks, or the folder is incomplete"
            note(
                Note(
                    f"{path.name}: {share} and read as {filler} ({hint}) "
                    "(--missing-as-hole fills them)",
                    "warning",
                )
            )
    if not lazy:
        image = replace(image, data=np.asarray(pixels))
    extra_all = {"path": str(path), "format": "zarr", "zarr": extra, **places}
    return replace(image, name=path.name, extra=extra_all)


def _json(path: Path) -> dict[str, Any]:
    """A metadata file, empty if there is none."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise FileError(f"{path}: too large for metadata of Zarr")
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise FileError(f"{path}: cannot read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: damaged metadata ({str(error)[:200]})") from None
    if not isinstance(found, dict):
        raise FileError(f"{path}: damaged metadata (not a JSON object)")
    return found


def _attributes(path: Path) -> dict[str, Any]:
    attributes = _json(path / "zarr.json").get("attributes") or _json(path / ".zattrs")
    return dict(attributes.get("ome") or {}) | {k: v for k, v in attributes.items() if k != "ome"}


def _multiscale(path: Path, series: int | None) -> tuple[dict[str, Any] | None, str | None]:
    """OME metadata of the one image in a folder, and their version; None for a plain array."""
    if (path / ".zarray").is_file() or _json(path / "zarr.json").get("node_type") == "array":
        return None, None
    found = _attributes(path)
    inner = ""
    if "plate" in found or "well" in found:
        raise FileError(f"{path}: holds a plate; name one image in it, such as {path.name}/A/1/0")
    if "bioformats2raw.layout" in found and "multiscales" not in found:
        names = sorted((item.name for item in path.iterdir() if item.name.isdigit()), key=int)
        if series is None and len(names) != 1:
            raise FileError(
                f"{path}: holds {len(names)} images ({', '.join(names[:8])}); choose one (--series)"
            )
        inner = str(series) if series is not None else names[0]
        if inner not in names:
            raise FileError(f"{path}: holds no image {inner}; there are {', '.join(names[:8])}")
        found = _attributes(path / inner)
    if not found.get("multiscales"):
        kinds = [item.name for item in sorted(path.iterdir()) if is_zarr(item)]
        held = f"; name one of its parts: {', '.join(kinds[:6])}" if kinds else ""
        raise FileError(f"{path}: a Zarr group, not an image{held}")
    several = found["multiscales"]
    number = 0 if inner or series is None else series
    if len(several) > 1 and series is None:
        raise FileError(f"{path}: holds {len(several)} images; choose one (--series)")
    if not 0 <= number < len(several):
        raise FileError(f"{path}: holds {len(several)} images, no number {number}")
    fields = dict(several[number])
    fields |= {"inner": inner, "omero": found.get("omero")}
    return fields, str(found.get("version") or fields.get("version") or "0.4")


def _open(inner: Path, path: Path) -> _Pixels:
    import zarr

    v3, v2 = _json(inner / "zarr.json"), _json(inner / ".zarray")
    meta = v3 if v3.get("node_type") == "array" else v2
    if not meta:
        raise FileError(f"{path}: holds no array where its metadata says ({inner.name})")
    _check_codecs(meta, path)
    array = zarr.open_array(store=str(inner), mode="r", zarr_format=3 if meta is v3 else 2)
    if array.dtype.kind not in "biufc":
        raise FileError(f"{path}: holds {array.dtype}, not numbers")
    if not array.ndim or 0 in array.shape:
        raise FileError(f"{path}: holds no pixel (shape {array.shape})")
    return _Pixels(array, path)


def _check_codecs(meta: dict[str, Any], path: Path) -> None:
    """Refuse codecs that are not known to only compress, before any is looked up."""
    todo = [meta.get("compressor"), *(meta.get("filters") or ()), *(meta.get("codecs") or ())]
    while todo:
        codec = todo.pop()
        if codec is None:
            continue
        kind = codec if isinstance(codec, str) else codec.get("id") or codec.get("name")
        kind = str(kind).removeprefix("numcodecs.")
        if kind not in _CODECS:
            why = "which can run code; save it again" if kind == "pickle" else "not a known codec"
            raise FileError(f"{path}: its chunks are stored with {kind!r}, {why}")
        settings = {} if isinstance(codec, str) else codec.get("configuration") or {}
        todo += [*(settings.get("codecs") or ()), *(settings.get("index_codecs") or ())]


class _Pixels:
    """Pixels on disk that read by boxes, in native byte order, their faults told in words."""

    def __init__(self, stored: Any, path: Path) -> None:
        self.stored, self.path = stored, path
        self.shape, self.ndim = tuple(stored.shape), stored.ndim
        self.dtype = stored.dtype.newbyteorder("=")
        self.format = stored.metadata.zarr_format
        self.chunks = tuple(stored.chunks)
        self.shards = tuple(stored.shards) if stored.shards else None
        codecs = [repr(codec) for codec in getattr(stored.metadata, "codecs", ())]
        self.big_endian = stored.dtype.byteorder == ">" or any("Endian.big" in c for c in codecs)

    def __getitem__(self, index: Any) -> np.ndarray:
        try:
            return np.asarray(self.stored[index]).astype(self.dtype, copy=False)
        except (MemoryError, IndexError):
            raise
        except Exception as error:  # codecs raise anything
            raise _damaged(self.path, error) from None

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    @property
    def blocks(self) -> tuple[int, ...]:
        """What one file holds: a shard, or a chunk."""
        return self.shards or self.chunks


def _count(
    pixels: _Pixels, inner: Path, guard: Guard, lazy: bool
) -> tuple[list[tuple[int, ...]], int]:
    """Which chunks are missing, of how many; refuses what is larger than it can be."""
    sizes: dict[str, int] = {}
    for folder, _, names in os.walk(inner):
        for name in names:
            full = os.path.join(folder, name)
            sizes[os.path.relpath(full, inner)] = os.stat(full).st_size
    blocks = pixels.blocks
    grid = [-(-size // max(1, block)) for size, block in zip(pixels.shape, blocks, strict=True)]
    count, present = math.prod(grid), 0
    absent: list[tuple[int, ...]] = []
    if count > 10 * len(sizes) + 100_000:  # looking for each would take longer than anybody waits
        guard(pixels.shape, pixels.dtype, sum(sizes.values()), 0, lazy)
        raise FileError(f"{pixels.path}: {count:,} chunks declared, {len(sizes):,} files there")
    encode = pixels.stored.metadata.encode_chunk_key
    for number in product(*map(range, grid)):
        if encode(number) in sizes:
            present += 1
        else:
            absent.append(number)
    decoded = max(present, 1) * math.prod(blocks) * pixels.dtype.itemsize
    # missing chunks cost no bytes on disk, and are no trap
    guard(pixels.shape, pixels.dtype, sum(sizes.values()), decoded, lazy)
    return absent, count


def _box(number: tuple[int, ...], pixels: _Pixels) -> tuple[slice, ...]:
    return tuple(
        slice(i * block, min((i + 1) * block, size))
        for i, block, size in zip(number, pixels.blocks, pixels.shape, strict=True)
    )


def _plain(pixels: _Pixels, path: Path, extra: dict[str, Any]) -> Image:
    names = getattr(pixels.stored.metadata, "dimension_names", None) or ()
    letters = "".join(str(name or "?").upper() for name in names)
    usable = len(letters) == pixels.ndim == len(set(letters)) and letters.isalpha()
    return as_image(pixels, letters if usable and {"Y", "X"} <= set(letters) else None)


def _described(
    fields: dict[str, Any],
    pixels: _Pixels,
    path: Path,
    note: Callable[[Note], Any],
    extra: dict[str, Any],
) -> Image:
    axes = fields.get("axes") or [{"name": name} for name in "tczyx"[-pixels.ndim :]]
    axes = [{"name": axis} if isinstance(axis, str) else dict(axis) for axis in axes]
    letters = _letters(axes)
    if len(letters) != pixels.ndim:
        raise FileError(f"{path}: {len(letters)} axes named, the array has {pixels.ndim}")
    scale, shift = _placed(fields, pixels.ndim)
    size, unit = {}, {}
    for letter, axis, step in zip(letters, axes, scale, strict=True):
        known = unit_name(axis.get("unit"))
        # a scale of 1 without a unit is what writers put where they know nothing
        if letter == "C" or (step == 1 and not known):
            continue
        if not 1e-9 < abs(step) < 1e9:
            text = f"{path.name}: absurd pixel size {step:g} along {letter} ignored"
            note(Note(text, "warning"))
            continue
        size[letter] = abs(step)
        if known:
            unit[letter] = known
    channels = (fields.get("omero") or {}).get("channels") or []
    names = tuple(str(one.get("label") or "") for one in channels)
    if "C" not in letters or len(names) != pixels.shape[letters.index("C")] or not any(names):
        names = ()
    levels = len(fields["datasets"])
    if levels > 1:
        note(
            Note(f"{path.name}: a pyramid; the full resolution is used, its lower levels made anew")
        )
    extra |= {"axes": axes, "shift": shift, "letters": letters, "levels": levels}
    shown = ("color", "window", "active", "label", "coefficient", "family", "inverted")
    extra["channels"] = [{key: one[key] for key in shown if key in one} for one in channels]
    return Image(pixels, letters, pixel_size=size, unit=unit, channel_names=names)


def _letters(axes: list[dict[str, Any]]) -> str:
    """One letter an axis: by its kind, else by its name, else a spare one."""
    usual = {"time": "T", "channel": "C"}
    wanted = [usual.get(str(a.get("type"))) or str(a["name"])[:1].upper() or "Q" for a in axes]
    spatial = [i for i, axis in enumerate(axes) if axis.get("type") == "space"]
    if not {"Y", "X"} <= set(wanted) and 2 <= len(spatial) <= 3:
        for place, letter in zip(spatial, "ZYX"[-len(spatial) :], strict=True):
            wanted[place] = letter
    spare = iter(letter for letter in "QRUVWABDEFGHIJKLMNOP" if letter not in wanted)
    letters: list[str] = []
    for letter in wanted:
        usable = letter.isascii() and letter.isalpha() and letter != "S"
        letters.append(letter if usable and letter not in letters else next(spare))
    return "".join(letters)


def _placed(fields: dict[str, Any], ndim: int) -> tuple[list[float], list[float]]:
    """Scale and translation of the full resolution, by axis."""
    scale, shift = [1.0] * ndim, [0.0] * ndim
    own = fields["datasets"][0].get("coordinateTransformations") or []
    for step in [*own, *(fields.get("coordinateTransformations") or [])]:
        values = [float(value) for value in step.get(step.get("type"), [])]
        if len(values) != ndim or not all(map(math.isfinite, values)):
            continue
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
            shift = [a * b for a, b in zip(shift, values, strict=True)]
        elif step["type"] == "translation":
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale, shift


def check_zarr(image: Image, path: Path) -> None:
    """Refuse an image that OME-Zarr cannot hold.

    Parameters
    ----------
    image : Image
    path : Path
        For the message.

    Raises
    ------
    FileError
        Also if the zarr package is not there.
    """
    if not has_zarr():
        raise FileError(f"{path}: Zarr needs another package: pip install 'napari-knitworks[zarr]'")
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8:
        raise FileError(f"{path}: Zarr cannot hold {image.dtype}; choose .npy")
    others = [a for a in image.axes.replace("S", "C") if a not in "TZYX"]
    if _version(image, path) is not None and len(others) > 1:
        raise FileError(
            f"{path}: OME-Zarr holds at most one axis besides T, Z, Y and X, not {image.axes}; "
            "choose .tif or .npy"
        )


def _version(image: Image, path: Path) -> str | None:
    """Version of OME-Zarr to write; None for a plain array."""
    source = image.extra.get("zarr")
    if source is None or (source["version"] is None and path.stem.lower().endswith(".ome")):
        return "0.4" if source and source["format"] == 2 else NEW_VERSION
    if source["version"] is None:
        return None
    return "0.4" if source["format"] == 2 else NEW_VERSION


def _order(image: Image, version: str | None) -> list[int]:
    """The axes as OME-Zarr wants them: time, channel or other, space."""
    if version is None:
        return list(range(len(image.axes)))
    rank = {"T": 0, "Z": 2, "Y": 3, "X": 4}
    return sorted(range(len(image.axes)), key=lambda i: rank.get(image.axes[i], 1))


def write_zarr(folder: Path, image: Image, path: Path) -> None:
    """Fill an empty folder with an image as OME-Zarr, of the version it was read from.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    image : Image
    path : Path
        What the folder will be called.
    """
    levels = create_zarr(folder, image, path)
    data = np.asarray(image.data).transpose(_order(image, _version(image, path)))
    for i, array in enumerate(levels):
        if i:
            data = _halved(data)
        rows = (array.shards or array.chunks)[0]
        # a row of blocks at a time: no second copy of a large image
        for start in range(0, data.shape[0], rows):
            array[start : start + rows] = data[start : start + rows]


def _halved(data: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; of two values only, the first of them."""
    height, width = data.shape[-2] // 2, data.shape[-1] // 2
    out = np.empty((*data.shape[:-2], height, width), data.dtype)
    for plane in np.ndindex(data.shape[:-2]):
        four = data[plane][: 2 * height, : 2 * width].reshape(height, 2, width, 2)
        small = four[:, 0, :, 0] if data.dtype == bool else four.mean((1, 3), dtype=np.float64)
        out[plane] = to_dtype(small, data.dtype)
    return out


def create_zarr(folder: Path, image: Image, path: Path) -> list[Any]:
    """Lay out an OME-Zarr folder for an image without writing pixels.

    Parameters
    ----------
    folder : Path
        Exists and is empty.
    image : Image
        Its pixels are not looked at.
    path : Path
        What the folder will be called.

    Returns
    -------
    list of zarr.Array
        Full resolution first, then the lower levels of a pyramid if the image came with them. Axes as
        OME-Zarr wants them (T, C, Z, Y, X); every block (shard, or else chunk) is a file, so that
        several processes may write different blocks.
    """
    import zarr

    source, version = image.extra.get("zarr") or {}, _version(image, path)
    order = _order(image, version)
    letters = "".join(image.axes[i] for i in order)
    shape = tuple(image.shape[i] for i in order)
    zarr_format: Any = source.get("format") or (2 if version == "0.4" else 3)
    kept = source.get("letters", letters) == letters and len(source.get("chunks", ())) == len(shape)
    chunks = source["chunks"] if kept else _chunks(letters, shape)
    shards = source.get("shards") if kept else None
    options: dict[str, Any] = {
        "dtype": image.dtype.newbyteorder("<"),
        "shards": shards,
        # a chunk that is not there can then only mean a folder that is not whole
        "config": {"write_empty_chunks": True},
    }
    if zarr_format == 2:
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        options["dimension_names"] = [a["name"] for a in _axes(image, letters, source)]

    def laid_out(shape: tuple[int, ...]) -> dict[str, Any]:
        fitting = tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
        return {"shape": shape, "chunks": chunks if shards else fitting, **options}

    if version is None:
        return [zarr.create_array(store=str(folder), zarr_format=zarr_format, **laid_out(shape))]
    levels = (
        1 if letters[-2:] != "YX" else min(source.get("levels", 1), min(shape[-2:]).bit_length())
    )
    group = zarr.create_group(store=str(folder), zarr_format=zarr_format)
    group.attrs.update(_metadata(image, letters, source, version, path, levels))
    if texts := image.extra.get("metadata"):
        group.attrs["source_metadata"] = texts
    arrays = []
    for level in range(levels):
        small = (*shape[:-2], shape[-2] >> level, shape[-1] >> level)
        arrays.append(group.create_array(str(level), **laid_out(small)))
    return arrays


def split_zarr(image: Image, path: Path, levels: list[Any], axes: str) -> tuple[str, int]:
    """Where an array may be split so that two parts never share a block.

    Parameters
    ----------
    image : Image
        As for `create_zarr`.
    path : Path
    levels : list of zarr.Array
        As `create_zarr` made them.
    axes : str
        Letters of the image along which it may be split.

    Returns
    -------
    axis : str
        The one with the most blocks; empty if there is but one along each.
    length : int
        Of a block along it, in pixels.
    """
    letters = [image.axes[i] for i in _order(image, _version(image, path))]
    array, most, found = levels[0], 1, ("", 0)
    for letter, size, block in zip(letters, array.shape, array.shards or array.chunks, strict=True):
        count = -(-size // block)
        if letter in axes and count > most:
            most, found = count, (letter, block)
    return found


def write_zarr_part(
    folder: Path, image: Image, path: Path, axis: str, start: int, data: np.ndarray
) -> bool:
    """Write a part of an image into a folder that `create_zarr` laid out, and read it back.

    Parameters
    ----------
    folder : Path
    image : Image
        As for `create_zarr`.
    path : Path
    axis : str
        Along which the image is split, as `split_zarr` says.
    start : int
        Where the part begins along it: the first pixel of a block.
    data : ndarray
        The part, in the image's axes; all of them but `axis` in full length.

    Returns
    -------
    bool
        Whether the same was read again.
    """
    import zarr

    version = _version(image, path)
    order = _order(image, version)
    place = order.index(image.axes.index(axis))
    data = data.transpose(order)
    found: Any = zarr.open(store=str(folder), mode="r+")
    arrays = [found] if version is None else [found[name] for name in sorted(found, key=int)]
    index = tuple(
        slice(start, start + data.shape[i]) if i == place else slice(None) for i in range(data.ndim)
    )
    same = True
    for level, array in enumerate(arrays):
        if level:
            data = _halved(data)
        array[index] = data
        same &= np.array_equal(array[index], data, equal_nan=data.dtype.kind == "f")
    return same


def _chunks(letters: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(NEW_CHUNK, n) if a in "YX" else 1 for a, n in zip(letters, shape, strict=True))


def _axes(image: Image, letters: str, source: dict[str, Any]) -> list[dict[str, Any]]:
    known = dict(zip(source.get("letters", ""), source.get("axes", ()), strict=False))
    axes = []
    for letter in letters:
        own, name = known.get(letter, {}), "c" if letter == "S" else letter.lower()
        axis = {"name": own.get("name", name)}
        if kind := own.get("type", _KINDS.get(letter.replace("S", "C"))):
            axis["type"] = kind
        unit = image.unit.get(letter)
        if unit and letter in image.pixel_size:
            same = own.get("unit") and unit_name(own["unit"]) == unit
            axis["unit"] = own["unit"] if same else unit
        axes.append(axis)
    return axes


def _metadata(
    image: Image,
    letters: str,
    source: dict[str, Any],
    version: str,
    path: Path,
    levels: int,
) -> dict[str, Any]:
    scale = [float(image.pixel_size.get(letter, 1.0)) for letter in letters]
    shift = source["shift"] if source.get("letters") == letters else [0.0] * len(letters)
    datasets = []
    for level in range(levels):
        grown = [2**level if letter in "YX" else 1 for letter in letters]
        step = [a * b for a, b in zip(scale, grown, strict=True)]
        place = [a + (b - c) / 2 for a, b, c in zip(shift, step, scale, strict=True)]
        told: list[dict[str, Any]] = [{"type": "scale", "scale": step}]
        if any(place):
            told.append({"type": "translation", "translation": place})
        datasets.append({"path": str(level), "coordinateTransformations": told})
    name = path.name
    for suffix in (".zarr", ".ome"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    fields: dict[str, Any] = {
        "name": name,
        "axes": _axes(image, letters, source),
        "datasets": datasets,
    }
    found: dict[str, Any] = {"multiscales": [fields]}
    channels = source.get("channels") or _new_channels(image)
    if channels and "C" in letters and len(channels) == image.shape[image.axes.index("C")]:
        found["omero"] = {"channels": channels}
    if version == "0.4":
        fields["version"] = version
        return found
    return {"ome": {"version": version, **found}}


def _new_channels(image: Image) -> list[dict[str, Any]]:
    """Names of channels, with the display settings that the specification asks for beside them."""
    if not image.channel_names or "C" not in image.axes:
        return []
    limits: Any = np.iinfo(image.dtype) if image.dtype.kind in "iu" else None
    lowest, highest = (limits.min, limits.max) if limits else (0, 1)
    channels = []
    for i, name in enumerate(image.channel_names):
        low, high = lowest, highest
        if isinstance(image.data, np.ndarray):
            one = image.data.take(i, image.axes.index("C"))
            known = one[np.isfinite(one)]
            low, high = (known.min().item(), known.max().item()) if known.size else (low, high)
        window = {"min": lowest, "max": highest, "start": low, "end": high}
        channels.append({"label": name, "color": "FFFFFF", "active": True, "window": window})
    return channels


def holds_zarr(folder: Path, image: Image, path: Path) -> bool:
    """Whether a folder holds an image, block by block.

    Parameters
    ----------
    folder : Path
    image : Image
    path : Path
        What the folder will be called.

    Returns
    -------
    bool
    """
    import zarr

    version = _version(image, path)
    data = np.asarray(image.data).transpose(_order(image, version))
    array: Any = zarr.open_array(store=str(folder / "0" if version else folder), mode="r")
    rows = (array.shards or array.chunks)[0]
    return array.shape == data.shape and all(
        np.array_equal(array[i : i + rows], data[i : i + rows], equal_nan=data.dtype.kind == "f")
        for i in range(0, data.shape[0], rows)
    )


def files_below(folder: Path) -> Iterator[Path]:
    """Every file in a folder and the folders in it, in a fixed order.

    Parameters
    ----------
    folder : Path

    Yields
    ------
    Path
    """
    for here, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(here) / name for name in sorted(names))
