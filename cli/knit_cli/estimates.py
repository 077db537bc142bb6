"""How long a batch will take: from pixels and holes, and from what was measured before."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from knit_cli.jobs import Job
from knit_cli.runs import Plan
from knitcore.recipe import Recipe

START = 3.0  # seconds until the first worker is ready
LOOKED_AT = 8  # files of a plan that are opened; the others are judged by their bytes

# The model is fitted to processor seconds of one core (Xeon, 2026): micrographs of 32 to 512 pixels a side.
FILE = 0.05  # reading, hashing, writing
DEEP, SHALLOW = 1.75, 0.015  # a hole that is knitted, and one that is only kriged


def guesses(plan: Plan, *, look: bool) -> list[float]:
    """Seconds each file of a plan will take on one core of a machine like ours.

    Parameters
    ----------
    plan : Plan
    look : bool
        Open a few of the files; else go by their bytes only.

    Returns
    -------
    list of float
        0 for files that are not there.
    """
    sizes = [_bytes(job.image) for job in plan.jobs]
    number = len(plan.jobs)
    chosen = sorted({number * i // LOOKED_AT for i in range(LOOKED_AT)}) if look and number else []
    seen = {}
    for i in chosen:
        # whatever is wrong with a file is told when its turn comes
        with contextlib.suppress(Exception):
            seen[i] = _look(plan.jobs[i], plan.recipe)
    known = sum(sizes[i] for i in seen)
    a_byte = sum(pixels for pixels, _ in seen.values()) / known if known else 0.5
    holes = [counts for _, counts in seen.values()] or [(1.0, 0.0)]
    usual = tuple(sum(column) / len(holes) for column in zip(*holes, strict=True))
    told = []
    for i, size in enumerate(sizes):
        pixels, counts = seen.get(i, (size * a_byte, usual))
        told.append(_seconds(plan.recipe, pixels, counts) if size else 0.0)
    return told


def measured(plan: Plan, known: dict[str, dict[str, Any]], told: list[float]) -> float | None:
    """How many times as long as guessed the files took that a report knows as done.

    Parameters
    ----------
    plan : Plan
    known : dict
        The report's last line about each output.
    told : list of float
        As of `guesses`.

    Returns
    -------
    float or None
        None if it knows none.
    """
    guessed = took = 0.0
    home = os.path.abspath(plan.home)
    for job, guess in zip(plan.jobs, told, strict=True):
        output = os.path.relpath(os.path.abspath(job.output), home)
        line = known.get(output.replace(os.sep, "/"), {})
        if line.get("state") == "done" and isinstance(line.get("seconds"), (int, float)):
            guessed += guess
            took += line["seconds"]
    return took / guessed if guessed else None


def _bytes(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _look(job: Job, recipe: Recipe) -> tuple[float, tuple[float, float]]:
    """Pixels of an image, and how many deep and shallow holes its mask has."""
    from knitcore.files import read_image, read_mask
    from knitcore.recipe import Inpaint

    if not isinstance(recipe, Inpaint):
        return float(_pixels(job.image)), (0.0, 0.0)
    import numpy as np
    from scipy import ndimage

    from knitcore.masks import resolve_mask

    image = read_image(job.image, max_pixels=2**26)
    mask = read_mask(job.mask) if isinstance(job.mask, Path) else job.mask
    hole = resolve_mask(image, mask, recipe)[0]
    hole = hole[..., 0] if image.axes.endswith("S") else hole
    # planes one by one: what touches across planes may be one hole, which is near enough
    across = np.zeros((3,) * hole.ndim, bool)
    across[(1,) * (hole.ndim - 2)] = True
    labels, count = ndimage.label(hole, across)
    if not count:
        return float(hole.size), (0.0, 0.0)
    planes = hole.reshape(-1, *hole.shape[-2:])
    depths = np.stack([ndimage.distance_transform_edt(plane) for plane in planes])
    deepest = ndimage.maximum(depths.reshape(hole.shape), labels, range(1, count + 1))
    deep = int((np.asarray(deepest) > recipe.knit_depth).sum())
    return float(hole.size), (float(deep), float(count - deep))


def _pixels(path: Path) -> int:
    """Pixels a file declares, without decoding them."""
    import numpy as np

    head = path.open("rb").read(6)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        import tifffile

        with tifffile.TiffFile(path) as tif:
            series = tif.series[0]
            return math.prod(series.shape) // (3 if series.axes.endswith("S") else 1)
    if head == b"\x93NUMPY":
        return math.prod(np.load(path, mmap_mode="r", allow_pickle=False).shape)
    from PIL import Image

    with Image.open(path) as picture:
        return picture.width * picture.height


def _seconds(recipe: Recipe, pixels: float, holes: tuple[float, ...]) -> float:
    method = getattr(recipe, "method", "")
    mega = pixels / 1e6
    if method == "knitwork" or getattr(recipe, "region", "") == "image":
        # the article's networks, on all of the image in each step or on a few tiles of it
        scale = math.prod(getattr(recipe, "factors", (1.0, 1.0))[-2:])
        a_step = 0.005 if recipe.tiles else 115 * mega * scale * (recipe.width / 256) ** 2
        return FILE + recipe.steps * recipe.ensemble * a_step
    if recipe.task == "inpaint":
        return FILE + DEEP * holes[0] * recipe.steps * recipe.ensemble / 600 + SHALLOW * holes[1]
    if recipe.task == "denoise":
        share = recipe.steps / type(recipe).model_fields["steps"].default
        return FILE + 0.1 + share * min(56 * mega, 2 + 26 * mega)
    scale = math.prod(getattr(recipe, "factors", (2.0, 2.0))[-2:])
    return FILE + 0.5 + 35 * mega * scale
