"""Pictures and arrays: PNG, JPEG and .npy, never losing bits in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from knitcore.axes import Image, as_image
from knitcore.errors import FileError
from knitcore.events import Note

Guard = Callable[..., None]  # of shape and dtype


def read_npy(path: Path, guard: Guard, note: Callable[[Note], Any]) -> Image:
    """Read a .npy file of plain numbers.

    Parameters
    ----------
    path : Path
    guard : callable
        Called with shape and dtype before anything is loaded; raises to refuse.
    note : callable
        Receives notes.

    Returns
    -------
    Image
        Axes guessed by `as_image`; native byte order.

    Raises
    ------
    FileError
        Damaged, or of Python objects.
    """
    try:
        with path.open("rb") as handle:
            major = np.lib.format.read_magic(handle)[0]
            header = np.lib.format.read_array_header_1_0
            if major > 1:
                header = np.lib.format.read_array_header_2_0
            shape, _, dtype = header(handle)
        if dtype.hasobject:
            raise FileError(f"{path}: holds Python objects, not numbers; save plain numbers")
        guard(shape, dtype)
        data = np.load(path, allow_pickle=False)
    except (FileError, MemoryError):
        raise
    except Exception as error:
        raise FileError(f"{path}: the file is cut short or damaged ({error})") from None
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
        note(Note(f"{path.name}: big-endian; the output will be little-endian"))
    image = as_image(data, name=path.name)
    return replace(image, extra={"path": str(path), "format": "npy"})


def read_picture(
    path: Path, kind: str, guard: Guard, note: Callable[[Note], Any], indices: bool
) -> Image:
    """Read a PNG or JPEG file.

    Parameters
    ----------
    path : Path
    kind : str
        "png" or "jpeg".
    guard : callable
        Called with shape and dtype before pixels are decoded; raises to refuse.
    note : callable
        Receives notes.
    indices : bool
        Keep palette indices and small label values, as masks need.

    Returns
    -------
    Image
        Axes YX or YXS; uint8, uint16 or bool.

    Raises
    ------
    FileError
        Damaged, or of a kind that is not read.
    """
    import PIL.Image
    import PIL.ImageOps

    depth, colour = _png_header(path) if kind == "png" else (8, None)
    extra: dict[str, Any] = {"path": str(path), "format": kind}
    # our own guard, with its option, stands in for Pillow's fixed limit
    limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
    try:
        with PIL.Image.open(path, formats=["PNG" if kind == "png" else "JPEG"]) as picture:
            deep = kind == "png" and depth == 16
            dtype = np.dtype(np.uint16 if deep else np.uint8)
            guard((picture.height, picture.width, len(picture.getbands())), dtype)
            if getattr(picture, "n_frames", 1) > 1 and kind == "png":
                raise FileError(f"{path}: an animated PNG; save one frame on its own")
            for key in ("dpi", "icc_profile"):
                if picture.info.get(key):
                    extra[key] = picture.info[key]
            if deep and colour != 0:
                data = _deep_png(path)
            elif picture.mode == "CMYK":
                raise FileError(f"{path}: CMYK colours; convert the image to RGB")
            elif picture.mode == "P" and not indices:
                clear = "transparency" in picture.info
                note(Note(f"{path.name}: a palette image; converted to RGB"))
                data = np.asarray(picture.convert("RGBA" if clear else "RGB"))
            else:
                if kind == "jpeg" and picture.getexif().get(0x0112, 1) != 1:
                    note(Note(f"{path.name}: turned upright, as its EXIF orientation says"))
                    data = np.asarray(PIL.ImageOps.exif_transpose(picture))
                else:
                    data = np.asarray(picture)
                if "transparency" in picture.info:
                    note(Note(f"{path.name}: its transparent colour is not kept", "warning"))
    except (FileError, MemoryError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib.error
        raise FileError(f"{path}: the file is cut short or damaged ({error})") from None
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit
    if deep:
        data = data.astype(np.uint16, copy=False)  # Pillow may give I;16 as int32
    if indices and colour == 0 and depth in (2, 4):
        data = data // (255 // (2**depth - 1))  # labels, not greys
    if kind == "jpeg":
        note(Note(f"{path.name}: JPEG is lossy, so its artefacts count as image"))
    axes = "YXS" if data.ndim == 3 else "YX"
    alpha = data.ndim == 3 and data.shape[-1] in (2, 4)
    return Image(np.asarray(data), axes, alpha=alpha, name=path.name, extra=extra)


def _png_header(path: Path) -> tuple[int, int]:
    """Bit depth and colour type."""
    with path.open("rb") as handle:
        head = handle.read(26)
    if len(head) < 26:
        raise FileError(f"{path}: the file is cut short or damaged (no PNG header)")
    return head[24], head[25]


def _deep_png(path: Path) -> np.ndarray:
    # Pillow would silently halve 16 bits a sample to 8
    try:
        from imagecodecs import png_decode
    except ImportError:
        raise FileError(
            f"{path}: 16-bit colour PNG needs imagecodecs: pip install imagecodecs, "
            "or save the image as TIFF"
        ) from None
    return np.asarray(png_decode(path.read_bytes()))


def write_png(handle: BinaryIO, image: Image) -> None:
    """Write a PNG of 1, 8 or 16 bits.

    Parameters
    ----------
    handle : binary file
    image : Image
        Axes YX or YXS; 16-bit colour needs imagecodecs.
    """
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    data = np.ascontiguousarray(image.data)
    if data.dtype == np.uint16 and data.ndim == 3:
        from imagecodecs import png_encode

        handle.write(png_encode(data))
        return
    kept: dict[str, Any] = {
        key: image.extra[key] for key in ("dpi", "icc_profile") if key in image.extra
    }
    if texts := image.extra.get("metadata"):
        kept["pnginfo"] = PngInfo()
        for key, text in texts.items():
            # keys of PNG are short and Latin-1; the record has them whole
            kept["pnginfo"].add_itxt(key.encode("latin-1", "replace").decode("latin-1")[:79], text)
    PIL.Image.fromarray(data).save(handle, format="PNG", **kept)


def has_imagecodecs() -> bool:
    """Whether imagecodecs is there, which 16-bit colour PNG needs.

    Returns
    -------
    bool
    """
    return find_spec("imagecodecs") is not None
