"""What a file tells in words beside its pixels: who, when, where. Kept only if asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LONGEST = 1 << 20  # characters of one entry
# of TIFF and EXIF; the others describe pixels, and are written anew
TAGS = {
    269: "DocumentName",
    270: "ImageDescription",
    271: "Make",
    272: "Model",
    285: "PageName",
    305: "Software",
    306: "DateTime",
    315: "Artist",
    316: "HostComputer",
    33432: "Copyright",
    36867: "DateTimeOriginal",
}


def read_metadata(path: str | Path) -> dict[str, str]:
    """All texts of an image file, people's names among them.

    Parameters
    ----------
    path : path-like
        A file that `read_image` reads.

    Returns
    -------
    dict of str to str
        Tags of TIFF by their names (OME-XML is the ImageDescription), what ImageJ keeps in "Info" and
        "Labels", texts of PNG, EXIF of JPEG, the attributes of a Zarr folder as JSON. Empty for files
        that hold none, such as .npy, and for makers' formats.
    """
    path = Path(path)
    if path.is_dir():
        found = _zarr(path)
    else:
        with path.open("rb") as handle:
            head = handle.read(4)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            found = _tiff(path)
        elif (
            head in (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1")
            or head[:2] == b"\xff\xd8"
        ):
            found = _picture(path)
        else:
            found = {}
    return {key: text[:LONGEST] for key, text in found.items() if text.strip()}


def _tiff(path: Path) -> dict[str, str]:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        tags = {tag.code: tag.value for tag in tif.pages.first.tags}
        found = {name: _text(tags[code]) for code, name in TAGS.items() if code in tags}
        told: dict[str, Any] = tif.imagej_metadata or {}
        found |= {key: _text(told[key]) for key in ("Info", "Labels", "Properties") if key in told}
    return found


def _picture(path: Path) -> dict[str, str]:
    import PIL.Image

    with PIL.Image.open(path, formats=["PNG", "JPEG"]) as picture:
        exif = picture.getexif()
        found = {name: _text(exif[code]) for code, name in TAGS.items() if code in exif}
        found |= {k: v for k, v in getattr(picture, "text", {}).items() if isinstance(v, str)}
        if isinstance(picture.info.get("comment"), bytes):
            found["Comment"] = _text(picture.info["comment"])
    return found


def _zarr(path: Path) -> dict[str, str]:
    import zarr

    attributes = dict(zarr.open(str(path), mode="r").attrs)
    return {"attributes": json.dumps(attributes, default=str)} if attributes else {}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0")
    if isinstance(value, (list, tuple)):
        return "\n".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)
