"""What a result leaves on disk: the files beside the output, it, and its record, put in place together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from knit_cli.jobs import Job
from knitcore.axes import Image
from knitcore.files import write_result
from knitcore.result import Result

PICTURE = 130  # least side of a kernel's picture; larger than any kernel that is read back


def write_outputs(job: Job, result: Result, overwrite: bool) -> None:
    """Write all files of a job.

    Parameters
    ----------
    job : Job
    result : Result
    overwrite : bool

    Raises
    ------
    FileError
        As `knitcore.write_result`.
    """
    beside = [(_MAKERS[name](result), path) for name, path in job.sides.items()]
    write_result(result, job.output, overwrite=overwrite, beside=beside)


def _synthesised(result: Result) -> Image:
    axes = result.source.axes
    colours = axes.endswith("S")
    marks = (result.synthesised.any(-1) if colours else result.synthesised).astype("uint8") * 255
    return _beside(result, marks, axes.removesuffix("S"))


def _kernel(result: Result) -> Image:
    assert result.kernel is not None
    letters = "ZYX"[-result.kernel.ndim :]
    size, unit = result.as_image().pixel_size, result.source.unit
    return Image(
        result.kernel.astype("float32"),
        letters,
        pixel_size={a: size[a] for a in letters if a in size},
        unit={a: unit[a] for a in letters if a in size and a in unit},
        name="kernel",
    )


def _kernel_picture(result: Result) -> Image:
    assert result.kernel is not None
    plane = result.kernel
    while plane.ndim > 2:
        plane = plane[len(plane) // 2]
    grey = np.clip(plane / max(plane.max(), 1e-30), 0, 1) * 255
    side = -(-PICTURE // max(plane.shape))
    return Image(np.kron(np.rint(grey), np.ones((side, side))).astype(np.uint8), "YX")


_MAKERS: dict[str, Callable[[Result], Image]] = {
    "std": lambda result: _values(result, result.std),
    "synthesised": _synthesised,
    "residual": lambda result: _values(result, result.residual),
    "kernel_file": _kernel,
    "kernel_picture": _kernel_picture,
}


def _values(result: Result, values: Any) -> Image:
    """One value a sample; colours as channels, since viewers take S as display colours."""
    axes = result.source.axes
    if axes.endswith("S"):
        values = values[..., : values.shape[-1] - result.source.alpha]
        if values.shape[-1] == 1:
            values, axes = values[..., 0], axes[:-1]
        else:
            place = len(axes) - 3
            values = np.moveaxis(values, -1, place)
            axes = axes[:place] + "C" + axes[place:-1]
    return _beside(result, values, axes)


def _beside(result: Result, data: Any, axes: str) -> Image:
    """An image beside the result: same place in the world, values of another kind."""
    image = result.as_image()
    extra = dict(image.extra)
    tiff = dict(extra.get("tiff", {}))
    for name in ("display", "colormap", "photometric", "extrasamples"):
        tiff.pop(name, None)
    if tiff:
        extra["tiff"] = tiff
    extra.pop("icc_profile", None)
    extra.pop("metadata", None)
    names = image.channel_names if axes == image.axes else ()
    return replace(image, data=data, axes=axes, alpha=False, channel_names=names, extra=extra)
