"""Files of microscope makers, read only, through bioio and its plug-ins (extra "vendor")."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from knitcore.axes import Image
from knitcore.errors import FileError
from knitcore.events import Note
from knitcore.tiff import unit_name

# first bytes, name for people, plug-in of bioio
MAGIC = (
    (b"ZISRAWFILE", "Zeiss CZI", "bioio-czi"),
    (b"\xda\xce\xbe\x0a", "Nikon ND2", "bioio-nd2"),
    (b"p\0\0\0", "Leica LIF", "bioio-lif"),
    (b"\xd0\xcf\x11\xe0", "Olympus OIB or Zeiss ZVI", "bioio-bioformats"),
    (b"\x89HDF", "HDF5, such as Imaris", "bioio-imaris"),
)


def vendor_kind(head: bytes) -> tuple[str, str] | None:
    """Name of a vendor's format, and of the plug-in that reads it, by a file's first bytes.

    Parameters
    ----------
    head : bytes

    Returns
    -------
    tuple of str, or None
        None: not such a file.
    """
    return next(((name, plugin) for magic, name, plugin in MAGIC if head.startswith(magic)), None)


def read_vendor(
    path: Path,
    kind: tuple[str, str],
    *,
    guard: Callable[..., None],
    note: Callable[[Note], Any],
    series: int | None = None,
) -> Image:
    """Read an image of a vendor's file.

    Parameters
    ----------
    path : Path
    kind : tuple of str
        As `vendor_kind` gives it.
    guard : callable
        Called with shape and dtype before pixels are decoded; raises to refuse.
    note : callable
        Receives notes.
    series : int, optional
        Which scene of a file that holds several, from 0 on.

    Returns
    -------
    Image
        Axes of length one are left out, but for Y and X.

    Raises
    ------
    FileError
        bioio or its plug-in is not there, or cannot read the file.
    """
    name, plugin = kind
    if find_spec("bioio") is None or find_spec(plugin.replace("-", "_")) is None:
        raise FileError(
            f"{path}: is a {name} file; to read it: pip install 'napari-knitworks[vendor]' {plugin}, "
            "or export OME-TIFF from the program that wrote it"
        )
    try:
        # plug-ins talk on the terminal
        with _silence():
            return _read(path, guard, note, series)
    except (FileError, MemoryError):
        raise
    except Exception as error:  # each plug-in has errors of its own
        text = " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"{path}: {plugin} cannot read it ({text:.300})") from None


@contextlib.contextmanager
def _silence() -> Any:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _read(
    path: Path, guard: Callable[..., None], note: Callable[[Note], Any], series: int | None
) -> Image:
    from bioio import BioImage

    image = BioImage(path)
    scenes = list(image.scenes)
    if series is None and len(scenes) > 1:
        some = ", ".join(f"{i}: {scene}" for i, scene in enumerate(scenes[:6]))
        raise FileError(f"{path}: holds {len(scenes)} images ({some}); choose one (--series)")
    if series is not None:
        if not 0 <= series < len(scenes):
            raise FileError(f"{path}: holds {len(scenes)} image(s), no number {series}")
        image.set_scene(scenes[series])
    guard(image.shape, image.dtype)
    data = np.asarray(image.data)
    order = image.dims.order
    kept = [i for i, a in enumerate(order) if data.shape[i] > 1 or a in "YX"]
    data = data.reshape([data.shape[i] for i in kept])
    axes = "".join(order[i] for i in kept)
    size, unit = {}, {}
    known = getattr(image, "dimension_properties", None)
    for axis in "ZYX":
        step = getattr(image.physical_pixel_sizes, axis)
        if axis in axes and step and 1e-9 < abs(step) < 1e9:
            size[axis] = abs(float(step))
            # bioio gives micrometers where it does not say otherwise
            told = getattr(getattr(known, axis, None), "unit", None)
            unit[axis] = unit_name(str(told) if told else "") or "micrometer"
    names = tuple(str(one) for one in image.channel_names or ()) if "C" in axes else ()
    note(Note(f"{path.name}: read through bioio; written in another format"))
    return Image(
        data.astype(data.dtype.newbyteorder("="), copy=False),
        axes,
        size,
        unit,
        names,
        alpha=axes.endswith("S") and data.shape[-1] in (2, 4),
        name=path.name,
        extra={"path": str(path), "format": "vendor"},
    )
