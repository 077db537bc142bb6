"""Read and write image files; write beside, check, then replace."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from knitcore.axes import Image
from knitcore.errors import FileError
from knitcore.events import Note
from knitcore.pictures import has_imagecodecs, read_npy, read_picture, write_png
from knitcore.result import Result
from knitcore.tiff import read_tiff, write_tiff
from knitcore.vendor import read_vendor, vendor_kind
from knitcore.zarr_files import (
    check_zarr,
    files_below,
    holds_zarr,
    is_zarr,
    read_zarr,
    write_zarr,
)

MAX_PIXELS = 2**31
WRITABLE = ".tif, .tiff, .ome.tif, .png, .npy, .ome.zarr"
LARGE = 64 * 2**20  # bytes from which a tiny file declaring them is looked at
MAX_EXPANSION = 10_000
SURROUNDINGS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
)

_MAGIC = (
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x93NUMPY", "npy"),
)
_STRANGERS = (
    (b"\x80", "a Python pickle, which can run code: save the array with numpy.save"),
    (b"PK\3\4", "a ZIP archive (.npz, or of PyTorch, which can run code): unpack it first"),
    (b"GIF8", "a GIF: save it as PNG or TIFF"),
    (b"BM", "a BMP: save it as PNG or TIFF"),
    (b"RIFF", "a WebP or RIFF file: save it as PNG or TIFF"),
    (b"%PDF", "a PDF: export PNG or TIFF"),
)
_SUFFIXES = {
    "tiff": (".tif", ".tiff"),
    "png": (".png",),
    "jpeg": (".jpg", ".jpeg"),
    "npy": (".npy",),
    "zarr": (".zarr",),
    "vendor": (".czi", ".nd2", ".lif", ".oib", ".zvi", ".ims"),
}


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder of files, rather than a Zarr folder, which counts as a file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
    """
    return os.path.isdir(path) and not is_zarr(path)


def split_suffix(path: str | Path) -> tuple[str, str]:
    """Split a file name into stem and suffix, with ".ome.tif" and ".ome.zarr" as one suffix.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    stem, suffix : str
        The suffix keeps its case and starts with a dot, or is empty.
    """
    name = Path(path).name
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in (".tif", ".tiff", ".zarr") and stem.lower().endswith(".ome"):
        stem, suffix = stem[:-4], stem[-4:] + suffix
    return stem, suffix


def read_image(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    allow_damaged: bool = False,
    series: int | None = None,
    missing_as_hole: bool = False,
    lazy: bool = False,
    on_note: Callable[[Note], Any] | None = None,
) -> Image:
    """Read a TIFF, OME-Zarr, PNG, JPEG or .npy file; the kind is told by its first bytes.

    Parameters
    ----------
    path : path-like
    max_pixels : int
        Most values (pixels times samples) the file may declare.
    allow_damaged : bool
        Take the readable planes of a damaged TIFF, with a warning.
    series : int, optional
        Which image of a file that holds several, from 0 on. Without it such a file is refused.
    missing_as_hole : bool
        The pixels of missing Zarr chunks join the mask of `inpaint`, instead of a warning.
    lazy : bool
        Leave the pixels of a Zarr folder on disk until they are asked for, box by box.
    on_note : callable, optional
        Called with a `Note` for whatever was decided on the user's behalf.

    Returns
    -------
    Image
        2-D or more, native byte order; no pixel size where the file tells none.

    Raises
    ------
    FileError
        Unreadable, damaged, too large, or not an image; the message names the file.
    """
    options = {"series": series, "missing_as_hole": missing_as_hole, "lazy": lazy}
    note = on_note or (lambda note: None)
    return _read(Path(path), max_pixels, allow_damaged, note, False, options)


def read_mask(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    allow_damaged: bool = False,
    series: int | None = None,
    lazy: bool = False,
    on_note: Callable[[Note], Any] | None = None,
) -> Image:
    """Read a mask: as `read_image`, but palette images give their indices (labels).

    Parameters
    ----------
    path : path-like
    max_pixels, allow_damaged, series, lazy, on_note
        As for `read_image`.

    Returns
    -------
    Image

    Raises
    ------
    FileError
        As `read_image`, and for a JPEG with greys: its compression blurred the edges.
    """
    path = Path(path)
    note = on_note or (lambda note: None)
    mask = _read(path, max_pixels, allow_damaged, note, True, {"series": series, "lazy": lazy})
    if mask.extra.get("format") == "jpeg" and len(np.unique(mask.data)) > 2:
        raise FileError(
            f"{path}: a lossy mask: JPEG has blurred its edges to greys; save it as PNG or TIFF"
        )
    return mask


def _read(
    path: Path,
    max_pixels: int,
    allow_damaged: bool,
    note: Callable[[Note], Any],
    indices: bool,
    options: dict[str, Any],
) -> Image:
    kind, size = _kind(path)
    suffix, usual = path.suffix.lower(), _SUFFIXES[kind]
    others = [one for name, own in _SUFFIXES.items() if name != kind for one in own]
    # vendors' suffixes often hide a TIFF, and folders are called as their makers like
    if suffix in others or (suffix not in usual and kind not in ("tiff", "zarr")):
        note(Note(f"{path.name}: is a {kind.upper()} file whatever its name says", "warning"))

    def guard(shape: tuple[int, ...], dtype: np.dtype, *stored: Any) -> None:
        _refuse_bombs(path, size, shape, dtype, max_pixels, *stored)

    try:
        image = _decode(path, kind, guard, note, allow_damaged, indices, options)
    except MemoryError:
        raise FileError(
            f"{path}: its content needs more memory than there is, or it is damaged"
        ) from None
    if 0 in image.shape:
        raise FileError(f"{path}: holds no pixel (shape {image.shape})")
    if len(image.axes) != len(image.shape) or not {"Y", "X"} <= set(image.axes):
        raise FileError(f"{path}: has axes {image.axes or 'none'}; an image needs Y and X")
    return image


def _decode(
    path: Path,
    kind: str,
    guard: Callable[..., None],
    note: Callable[[Note], Any],
    allow_damaged: bool,
    indices: bool,
    options: dict[str, Any],
) -> Image:
    series = options["series"]
    if kind == "zarr":
        return read_zarr(path, guard=guard, note=note, is_mask=indices, **options)
    if kind == "tiff":
        return read_tiff(
            path,
            guard=guard,
            note=note,
            allow_damaged=allow_damaged,
            indices=indices,
            series=series,
        )
    if kind == "vendor":
        with path.open("rb") as handle:
            named = vendor_kind(handle.read(64))
        assert named is not None
        return read_vendor(path, named, guard=guard, note=note, series=series)
    if series:
        raise FileError(f"{path}: holds one image, no number {series}")
    if kind == "npy":
        return read_npy(path, guard, note)
    return read_picture(path, kind, guard, note, indices)


def _kind(path: Path) -> tuple[str, int]:
    """Kind of file by its first bytes, and its size in bytes."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode) and is_zarr(path):
            return "zarr", 0
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"{path}: is a folder, not an image")
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{path}: is not a regular file")
        with path.open("rb") as handle:
            head = handle.read(64)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: cannot read: {reason.lower()}") from None
    if not head:
        raise FileError(f"{path}: file is empty (0 bytes)")
    if vendor_kind(head):
        return "vendor", status.st_size
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind, status.st_size
    looks = next((text for magic, text in _STRANGERS if head.startswith(magic)), None)
    if looks is None:
        text = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
        looks = "text" if text else f"unknown (it starts with {head[:4].hex(' ')})"
    raise FileError(f"{path}: not an image this program reads; its content looks like {looks}")


def _refuse_bombs(
    path: Path,
    size: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    max_pixels: int,
    stored: int | None = None,
    decoded: int | None = None,
    lazy: bool = False,
) -> None:
    """Refuse what declares more than it can hold, before a byte of it is decoded.

    Zarr says itself what its chunks take (`stored`) and become (`decoded`): those that are missing
    are no trap.
    """
    values = math.prod(shape)
    amount = values * np.dtype(dtype).itemsize
    size = stored if stored is not None else size
    told = (
        f"{path}: declares {' x '.join(map(str, shape))} ({amount / 1e9:.2g} GB) "
        f"in {size / 1e6:.2g} MB"
    )
    if values > max_pixels:
        raise FileError(
            f"{told}; if that is real, raise the limit (--max-pixels, now {max_pixels:,})"
        )
    expanded = amount if decoded is None else decoded
    if expanded > LARGE and expanded > MAX_EXPANSION * size:
        raise FileError(f"{told}: over {MAX_EXPANSION:,} times its size, taken for a trap")
    free = _free_memory()
    if free and amount > 0.8 * free and not lazy:
        raise FileError(f"{told}; only {free / 1e9:.2g} GB of memory are free")


def _free_memory() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes; of a Zarr folder, of the names and bytes of all files in it.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    OSError
        Unreadable.
    """
    path = Path(path)
    digest = hashlib.sha256()
    inside = path.is_dir()
    for one in files_below(path) if inside else [path]:
        own = digest
        if inside:
            digest.update(os.fsencode(one.relative_to(path)) + b"\0")
            own = hashlib.sha256()
        with one.open("rb") as handle:
            while part := handle.read(2**20):
                own.update(part)
        if inside:
            digest.update(own.digest())
    return digest.hexdigest()


def record_path(path: str | Path) -> Path:
    """Where the record of an output lies.

    Parameters
    ----------
    path : path-like
        The output image.

    Returns
    -------
    Path
        The output's name with ".knit.json" added, in the same folder.
    """
    path = Path(path)
    return path.with_name(path.name + ".knit.json")


def write_image(image: Image, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an image; the suffix chooses the format.

    Parameters
    ----------
    image : Image
        Its axes, pixel size, unit and channel names are written where the format has a place
        for them. An image read from an ImageJ or OME TIFF is written as that again.
    path : path-like
        Ends in .tif, .tiff, .ome.tif, .png, .npy, .zarr or .ome.zarr.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileError
        It exists, is the file the image was read from, cannot be written, or the format cannot
        hold the image. Nothing is left behind then.
    """
    path = Path(path)
    check_writable(image, path, overwrite=overwrite)
    _publish([(path, _writer(image, path), _checker(image, path))], overwrite)
    return path


def write_result(
    result: Result,
    path: str | Path,
    *,
    overwrite: bool = False,
    beside: Sequence[tuple[Image, Path]] = (),
) -> Path:
    """Write a result with its source's axes, pixel size and unit, and the record beside it.

    Parameters
    ----------
    result : Result
    path : path-like
        As for `write_image`; the record goes to `record_path(path)`.
    overwrite : bool
        Replace existing files.
    beside : sequence of (Image, Path)
        More images of this result, in the same folder. All are written before the first of them is
        put in place; the record comes last.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileError
        As `write_image`.
    """
    path = Path(path)
    image = result.as_image()
    check_writable(image, path, overwrite=overwrite)
    for other, place in beside:
        check_writable(other, place, overwrite=overwrite)
    record = result.record
    _publish(
        [
            *(
                (place, _writer(other, place), _sealing(record, place, _checker(other, place)))
                for other, place in beside
            ),
            (path, _writer(image, path), _sealing(record, path, _checker(image, path))),
            (record_path(path), _json_writer(record), None),
        ],
        overwrite,
    )
    return path


def adopt_folder(
    folder: Path, record: dict[str, Any], path: Path, *, overwrite: bool = False
) -> Path:
    """Put a Zarr folder that was filled elsewhere, on the same disk, in its place with its record.

    Parameters
    ----------
    folder : Path
        Whole and checked; it is moved.
    record : dict
        Gets the folder's size and hash.
    path : Path
    overwrite : bool
        Replace an existing output.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileError
        As `write_image`. The folder then stays where it is.
    """
    _check_place(path, overwrite)
    place = record_path(path)
    part = place.with_name(f".{_short(place)}.{secrets.token_hex(4)}.part")
    try:
        _sync_files(folder)
        record.setdefault("written", {})[path.name] = written_facts(folder)
        # the record lies ready before the folder moves: whoever dies between leaves both
        _write_part(part, _json_writer(record), is_folder=False)
        aside = path.with_name(f".{_short(path)}.{secrets.token_hex(4)}.old.part")
        if path.is_dir():
            os.rename(path, aside)
        try:
            os.rename(folder, path)
        except OSError:
            if aside.is_dir():
                os.rename(aside, path)
            raise
        os.replace(part, place)
        _sync_folder(path.parent)
        _remove(aside)
    except OSError as error:
        raise _write_error(path, error) from None
    finally:
        _remove(part)
    return path


def _short(path: Path) -> str:
    """Its name, with room for a random part within the 255 bytes of a name."""
    return os.fsdecode(os.fsencode(path.name)[:220])


def _sealing(record: dict[str, Any], path: Path, check: Checker) -> Checker:
    """The check, which also notes size and hash of what was written in the record."""

    def sealed(part: Path) -> bool:
        record.setdefault("written", {})[path.name] = written_facts(part)
        return check(part)

    return sealed


def written_facts(path: str | Path) -> dict[str, Any]:
    """Byte count and hash of a written file (of a folder: of all files below it).

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        `bytes` and `sha256`.
    """
    path = Path(path)
    return {"bytes": bytes_below(path), "sha256": file_hash(path)}


def bytes_below(path: str | Path) -> int:
    """Bytes of a file, or of all files below a folder.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    int
    """
    path = Path(path)
    if not path.is_dir():
        return path.stat().st_size
    return sum(one.stat().st_size for one in files_below(path))


def write_record(record: dict[str, Any], path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a record as JSON.

    Parameters
    ----------
    record : dict
        JSON-ready.
    path : path-like
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    FileError
        It exists or cannot be written.
    """
    path = Path(path)
    _publish([(path, _json_writer(record), None)], overwrite)
    return path


def read_record(path: str | Path) -> dict[str, Any]:
    """Read the record written beside a result.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict

    Raises
    ------
    FileError
        Unreadable, or not a record.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise FileError(f"{path}: not a record ({error})") from None
    if not isinstance(record, dict) or "record_version" not in record:
        raise FileError(f"{path}: not a record of this program")
    return record


def check_writable(image: Image, path: Path, *, overwrite: bool = False) -> None:
    """Find out before a fit whether its result could be written.

    Parameters
    ----------
    image : Image
        The input; a result has its shape and dtype.
    path : Path
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileError
        What stands against it.
    """
    _check_place(path, overwrite)
    source = image.extra.get("path")
    if source and path.exists() and os.path.samefile(source, path):
        raise FileError(f"{path}: is the input itself; choose another output")
    suffix = path.suffix.lower()
    planes = [a for a in image.axes.removesuffix("S") if a not in "YX"]
    if suffix in (".tif", ".tiff"):
        if image.dtype.itemsize > 8 or image.dtype.kind not in "biuf":
            raise FileError(f"{path}: TIFF cannot hold {image.dtype}; choose .npy")
    elif suffix == ".png":
        fits = image.dtype in (np.uint8, np.uint16) or (image.dtype == bool and image.axes == "YX")
        if not fits:
            raise FileError(f"{path}: PNG cannot hold {image.dtype}; choose .tif or .npy")
        if planes or (image.axes.endswith("S") and image.shape[-1] > 4):
            raise FileError(f"{path}: PNG holds one plane, not axes {image.axes}; choose .tif")
        if image.axes.endswith("S") and image.dtype == np.uint16 and not has_imagecodecs():
            raise FileError(
                f"{path}: 16-bit colour PNG needs imagecodecs: pip install imagecodecs, "
                "or choose .tif"
            )
    elif suffix == ".zarr":
        check_zarr(image, path)
    elif suffix in (".jpg", ".jpeg"):
        raise FileError(f"{path}: JPEG would change the pixels; choose .png or .tif")
    elif suffix != ".npy":
        raise FileError(f"{path}: cannot write {suffix or 'a file without suffix'}; use {WRITABLE}")


def _check_place(path: Path, overwrite: bool) -> None:
    if len(os.fsencode(path.name)) > 255:
        raise FileError(f"{path}: the file name is longer than 255 bytes; choose a shorter one")
    # of folders only those of Zarr may be replaced, and only by such a one
    if path.is_dir() and not (path.suffix.lower() == ".zarr" and is_zarr(path)):
        raise FileError(f"{path}: is a folder; give a file name")
    if not path.parent.is_dir():
        raise FileError(f"{path}: the folder {path.parent} does not exist")
    if not overwrite and os.path.lexists(path):
        raise FileError(f"{path}: exists: choose another name (--overwrite replaces it)")


Writer = Callable[[Any], None]  # of an open file, or of the path of an empty folder
Checker = Callable[[Path], bool]


def _publish(files: list[tuple[Path, Writer, Checker | None]], overwrite: bool) -> None:
    """Write all files under temporary names, check them, then put all in place."""
    waiting: list[tuple[Path, Path]] = []
    try:
        for path, write, check in files:
            _check_place(path, overwrite)
            part = path.with_name(f".{_short(path)}.{secrets.token_hex(4)}.part")
            waiting.append((part, path))
            _write_part(part, write, is_folder=path.suffix.lower() == ".zarr")
            if check is not None and not check(part):
                # NumPy drops some errors of writing, such as the last block on a full disk
                raise OSError(errno.EIO, "what was written does not read back (disk full?)")
        for part, path in waiting:
            _check_place(path, overwrite)
            _replace(part, path)
        _sync_folder(files[0][0].parent)
    except FileError:
        raise
    except OSError as error:
        raise _write_error(files[0][0], error) from None
    finally:
        for part, _ in waiting:
            _remove(part)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _replace(part: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(part, path)
        return
    # a folder cannot be replaced in one step: the old one steps aside, and back if that fails
    aside = part.with_name(part.name.removesuffix(".part") + ".old.part")
    os.rename(path, aside)
    try:
        os.rename(part, path)
    except OSError:
        os.rename(aside, path)
        raise
    _remove(aside)


def _write_part(part: Path, write: Writer, *, is_folder: bool) -> None:
    if is_folder:
        part.mkdir()
        try:
            write(part)
        except ExceptionGroup as error:  # zarr writes chunks side by side
            found = error.subgroup(OSError)
            raise found.exceptions[0] if found else error from None
        _sync_files(part)
        return
    # Plain open, not mkstemp, so that the umask decides the permissions as for any new file.
    with part.open("x+b") as handle:
        write(handle)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_files(folder: Path) -> None:
    for path in files_below(folder):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _write_error(path: Path, error: OSError) -> FileError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"{path}: disk full; free some space and run again"
    else:
        text = f"{path}: cannot write: {(error.strerror or str(error)).lower()}"
    told = FileError(text)
    told.errno = error.errno  # lets the command tell full disks from bad files
    return told


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not possible on every system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _json_writer(record: dict[str, Any]) -> Writer:
    # turned to text when written: by then the sizes of the files before it are known
    def write(handle: BinaryIO) -> None:
        text = json.dumps(record, indent=2, allow_nan=False, default=_plain) + "\n"
        _write_all(handle, text.encode())

    return write


def _write_all(handle: BinaryIO, content: bytes) -> None:
    handle.write(content)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in a record")


def _writer(image: Image, path: Path) -> Writer:
    # The format is given by hand: writers would go by the temporary name.
    suffix = split_suffix(path)[1]
    if suffix.lower().endswith(".zarr"):
        return lambda folder: write_zarr(folder, image, path)
    if suffix.lower() == ".npy":
        return lambda handle: np.save(handle, np.asarray(image.data), allow_pickle=False)
    if suffix.lower() == ".png":
        return lambda handle: write_png(handle, image)
    return lambda handle: write_tiff(handle, image, ome=suffix.lower().startswith(".ome"))


def _checker(image: Image, path: Path) -> Checker:
    """A test whether a file holds the image."""
    data, suffix = np.asarray(image.data), path.suffix.lower()

    def same(again: np.ndarray, values: np.ndarray) -> bool:
        return again.dtype == values.dtype and np.array_equal(
            again.ravel(), values.ravel(), equal_nan=values.dtype.kind == "f"
        )

    def check(part: Path) -> bool:
        try:
            if suffix == ".zarr":
                return holds_zarr(part, image, path)
            if suffix == ".npy":
                return same(np.load(part, mmap_mode="r", allow_pickle=False), data)
            if suffix == ".png":
                picture = read_picture(part, "png", lambda *_: None, lambda _: None, False)
                return same(picture.data, data)
            from tifffile import TiffFile

            with TiffFile(part) as tif:
                pages = tif.pages
                if len(pages) * pages[0].size != data.size:  # ImageJ over 4 GB
                    return same(tif.series[0].asarray(), data)
                planes = data.reshape(len(pages), -1)
                return all(same(page.asarray(), planes[i]) for i, page in enumerate(pages))
        except Exception:  # whatever a reader says of a damaged file
            return False

    return check
