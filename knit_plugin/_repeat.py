"""What was clicked, as a command for a shell and as lines of Python that give the same pixels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from knitcore import Image, KnitError, read_image
from knitcore.files import write_image
from knitcore.recipe import Recipe, make_recipe
from knitcore.result import array_hash

FLAGS = {"validation": "validate"}  # options of `knit` that are not called like their field
FUNCTIONS = {"inpaint": "inpaint", "denoise": "denoise", "super-resolve": "super_resolve"}


def changed_fields(recipe: Recipe) -> dict[str, Any]:
    """Fields that differ from what the preset has anyway.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    dict
    """
    usual = make_recipe(recipe.task, preset=recipe.preset)
    fields = {} if recipe.preset == "fast" else {"preset": recipe.preset}
    for name in type(recipe).model_fields:
        value = getattr(recipe, name)
        if name not in ("task", "preset") and value != getattr(usual, name):
            fields[name] = value
    return fields


def as_command(recipe: Recipe, image: Path, mask: Path | None, out: Path) -> str:
    """A line for a shell.

    Parameters
    ----------
    recipe : Recipe
    image, out : Path
    mask : Path or None

    Returns
    -------
    str
        Quoted for POSIX shells.
    """
    words = ["knit", recipe.task, str(image)]
    if mask is not None:
        words += ["--mask", str(mask)]
    for name, value in changed_fields(recipe).items():
        flag = "--" + FLAGS.get(name, name).replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            several = isinstance(value, tuple)
            text = ",".join(map(repr, value)) if several else str(value)
            words.append(f"{flag}={text}")
    return shlex.join([*words, "-o", str(out)])


def as_python(recipe: Recipe, image: Path, mask: Path | None, out: Path) -> str:
    """Lines of Python.

    Parameters
    ----------
    recipe, image, mask, out
        As for `as_command`.

    Returns
    -------
    str
    """
    lines = ["import knitcore as knit", "", f"image = knit.read_image({str(image)!r})"]
    told = ["image"]
    if mask is not None:
        lines.append(f"mask = knit.read_mask({str(mask)!r})")
        told.append("mask")
    told += [f"{name}={value!r}" for name, value in changed_fields(recipe).items()]
    lines.append(f"result = knit.{FUNCTIONS[recipe.task]}({', '.join(told)})")
    lines.append(f"knit.write_result(result, {str(out)!r})")
    return "\n".join(lines) + "\n"


def same_in_file(image: Image, path: str | None) -> bool:
    """Whether a file holds exactly this image: its pixels, axes and pixel size.

    Parameters
    ----------
    image : Image
    path : str or None

    Returns
    -------
    bool
    """
    if not path or not Path(path).is_file():
        return False
    try:
        found = read_image(path)
    except KnitError:
        return False
    return (
        found.axes == image.axes
        and found.pixel_size == image.pixel_size
        and found.dtype == image.dtype
        and array_hash(found.data) == array_hash(image.data)
    )


def save_input(image: Image, folder: Path, stem: str) -> Path:
    """Write an input where a command can read it, under a name that is free.

    Parameters
    ----------
    image : Image
    folder : Path
    stem : str
        Of a layer's name; what a file cannot be called is replaced.

    Returns
    -------
    Path
    """
    clean = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem).strip(".") or "image"
    for number in range(1, 10_000):
        path = folder / (f"{clean}.tif" if number == 1 else f"{clean}_{number}.tif")
        if same_in_file(image, str(path)):
            return path
        if not path.exists():
            return write_image(image, path)
    raise KnitError(f"{folder}: no free name for {clean}.tif")
