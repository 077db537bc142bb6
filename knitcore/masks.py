"""Which pixels are to be filled: any mask a user may have, as one bool array of the image's shape."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np

from knitcore.axes import Image, check_kind
from knitcore.errors import InputError
from knitcore.events import Note
from knitcore.recipe import Inpaint

WORDS = "nan, saturated, hot, alpha, value=NUMBER, above=NUMBER or below=NUMBER"
NUMBERED = ("value=", "above=", "below=")
SUFFIX = "suffix:"  # before the end of the names of masks that lie beside their images
LONE = 5.0  # so many times the spread of its surroundings off them, a pixel is a defect
MOSTLY = 0.6  # a mask over this share is more often inverted than meant


def resolve_mask(image: Image, mask: Any, recipe: Inpaint) -> tuple[np.ndarray, list[Note]]:
    """Turn a mask, or a word for one, into the pixels to fill.

    Parameters
    ----------
    image : Image
        Any axes; a last axis S holds grey + alpha, RGB or RGBA samples.
    mask : Image, array-like, str or None
        Non-zero marks pixels to fill. Its shape is the image's, or the image's without some of
        its axes, over which it is then repeated: a 2-D mask serves each plane of a stack, one
        without C all channels. A word is "nan", "saturated", "hot" (hot and dead pixels), "alpha"
        (fully transparent pixels), "value=0", "above=4000" or "below=10" (any number). None fills
        only NaN and infinite pixels, which join every mask.
    recipe : Inpaint
        Its `mask_label`, `invert_mask`, `alpha_channel` and `saturated_as_hole` are used.

    Returns
    -------
    fill : ndarray of bool
        Shape of `image`; True is to be filled. Alpha samples are never True; the other samples of
        a pixel always agree.
    notes : list of Note
        What was decided on the user's behalf.

    Raises
    ------
    InputError
        The mask does not fit the image, is ambiguous, or leaves no known pixel; or the image is
        not of real numbers.
    """
    check_kind(image)
    notes: list[Note] = []
    if mask is None or isinstance(mask, str):
        for name in ("mask_label", "invert_mask"):
            if getattr(recipe, name):
                raise InputError(
                    f"{image.name}: {name} needs a mask image, not {mask or 'no mask'}"
                )
        fill = _from_word(image, mask, notes) if mask else np.zeros(image.shape, bool)
    else:
        marks, axes, name = _as_labels(mask, image)
        fill = _repeat(_marked(marks, name, recipe), axes, name, image, notes)
    fill = _join(image, fill, mask, recipe, notes)
    _judge(image, fill, notes)
    return fill, notes


def mask_from(image: Image, word: str) -> tuple[np.ndarray, list[Note]]:
    """Mark pixels by what they hold.

    Parameters
    ----------
    image : Image
    word : str
        "nan" (infinite ones as well), "saturated", "hot", "alpha", "value=NUMBER", "above=NUMBER"
        or "below=NUMBER". A colour pixel is marked if any of its colours is; by "value=", if all are.

    Returns
    -------
    marked : ndarray of bool
        Shape of `image` without its S axis.
    notes : list of Note
        How many pixels, and what was decided on the user's behalf.

    Raises
    ------
    InputError
        An unknown word, or one that does not go with the image.

    Examples
    --------
    >>> from knitcore import as_image
    >>> marked, notes = mask_from(as_image([[0, 3], [9, 7]]), "above=5")
    >>> marked.tolist()
    [[False, False], [True, True]]
    """
    check_kind(image)
    notes: list[Note] = []
    if word.strip().lower() == "nan" and image.dtype.kind == "f":
        lost = _pixels(image, lambda plane: ~np.isfinite(plane))
        found = _told(lost, "NaN or infinite", image, notes)
    else:
        found = _from_word(image, word, notes)
    return (found[..., 0] if image.axes.endswith("S") else found), notes


def grow_mask(mask: Any, pixels: float) -> np.ndarray:
    """Let the marked parts grow, or shrink, in each plane.

    Parameters
    ----------
    mask : array-like, shape (..., Y, X)
        Non-zero is marked.
    pixels : float
        Distance by which the border moves outwards; negative: inwards. The image's own border
        takes nothing away from a part that touches it.

    Returns
    -------
    ndarray of bool

    Examples
    --------
    >>> grow_mask([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]], 1).astype(int).tolist()
    [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]
    """
    from scipy.ndimage import distance_transform_edt

    out = np.asarray(mask) != 0
    if not pixels:
        return out
    out = out.copy()
    for index in np.ndindex(out.shape[:-2]):
        plane = out[index]
        if not plane.any() or plane.all():
            continue
        if pixels > 0:
            out[index] = distance_transform_edt(~plane) <= pixels
        else:
            out[index] = distance_transform_edt(plane) > -pixels
    return out


def _colours(image: Image) -> int:
    """Number of samples that are not alpha; 1 without an S axis."""
    return image.shape[-1] - image.alpha if image.axes.endswith("S") else 1


def _pixels(image: Image, test: Any, every: bool = False) -> np.ndarray:
    """Apply a test to colour samples plane by plane; a pixel passes if any (or every) sample does.

    Plane by plane, so that tests of a large stack need no second copy of it.
    """
    samples = image.axes.endswith("S")
    found = np.zeros(image.shape, bool)
    depth = max(0, len(image.shape) - 2 - samples)
    for index in np.ndindex(image.shape[:depth]):
        plane = test(np.asarray(image.data[index]))
        if samples:
            plane = plane[..., : _colours(image)]
            plane = (plane.all(-1) if every else plane.any(-1))[..., None]
        found[index] = plane
    return found


def _from_word(image: Image, word: str, notes: list[Note]) -> np.ndarray:
    kind = word.strip().lower()
    if kind.startswith(NUMBERED):
        value = parse_value(kind)
        side = kind.partition("=")[0]
        if side != "value":
            if math.isnan(value):
                raise InputError(f"{word!r}: no grey level is {side} NaN; give a number")
            above = side == "above"
            found = _pixels(image, lambda plane: plane > value if above else plane < value)
            return _told(found, f"{side} {value:g}", image, notes)
        if math.isnan(value):
            kind = "nan"
        else:
            # comparing with a Python number never wraps round in a small integer type
            found = _pixels(image, lambda plane: plane == value, every=True)
            return _told(found, f"at the value {value:g}", image, notes)
    if kind == "nan":
        if image.dtype.kind != "f":
            text = f"{image.name}: {image.dtype} holds no NaN, so nothing is to fill"
            notes.append(Note(text, "warning"))
        return np.zeros(image.shape, bool)  # NaN always joins, later
    if kind == "saturated":
        if image.dtype.kind not in "iu":
            raise InputError(
                f"{image.name}: {image.dtype} has no saturation level; mark a value instead "
                "(--mask value=NUMBER)"
            )
        top = np.iinfo(image.dtype).max
        found = _pixels(image, lambda plane: plane == top)
        if not found.any():
            brightest = max(int(np.max(np.asarray(part))) for part in image.data)
            text = (
                f"{image.name}: no pixel at {top}; the highest value is {brightest}: if the camera "
            )
            notes.append(Note(f"{text}saturates there, mark that value (--mask value={brightest})"))
        return _told(found, f"saturated (at {top})", image, notes)
    if kind == "hot":
        return _told(_hot(image), "hot or dead", image, notes)
    if kind == "alpha":
        if not image.alpha:
            raise InputError(
                f"{image.name}: has no alpha channel to take as mask; its axes are {image.axes}"
            )
        return _told(_transparent(image), "fully transparent", image, notes)
    raise InputError(f"unknown mask word {word!r}; it can be {WORDS}, or an image")


def _hot(image: Image) -> np.ndarray:
    """Pixels alone, or with one neighbour, far from all that is around them, bright or dark."""
    samples = image.axes.endswith("S")
    found = np.zeros(image.shape, bool)
    for index in np.ndindex(image.shape[: max(0, len(image.shape) - 2 - samples)]):
        plane = np.asarray(image.data[index])
        if not samples:
            found[index] = _lone(plane)
            continue
        for k in range(_colours(image)):
            found[index] |= _lone(plane[..., k])[..., None]
    return found


def _lone(plane: np.ndarray) -> np.ndarray:
    """Pixels that lie `LONE` times further from the local median than all neighbours but one.

    A point of light has lit its neighbours, a line goes on: neither stands out so. What counts is the
    spread close by, so that the noise may grow with the grey level.
    """
    from scipy.ndimage import median_filter

    out = np.zeros(plane.shape, bool)
    if min(plane.shape) < 3:
        return out
    values = plane.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return out
    values[~finite] = np.median(values[finite])
    low, high = np.quantile(values, (0.001, 0.999))
    least = max(1.0 if plane.dtype.kind in "iu" else 0.0, float(high - low) / 1000)
    off = np.abs(values - median_filter(values, 3))
    # the few that may be it; a pixel in fifty is no defect any more
    at = np.argwhere((off > least) & (off >= np.quantile(off, 0.98)) & finite)
    padded = np.pad(values, 2, mode="reflect")
    y, x = (grid.ravel() for grid in np.mgrid[:5, :5])
    centre = len(y) // 2
    for some in np.array_split(at, max(1, len(at) // 20_000)):
        around = padded[some[:, :1] + y, some[:, 1:] + x]
        others = np.delete(around, centre, axis=1)
        middle = np.median(others, axis=1)
        spread = np.partition(np.abs(others - middle[:, None]), -2, axis=1)[:, -2]
        far = np.abs(around[:, centre] - middle) > LONE * np.maximum(spread, least)
        out[tuple(some[far].T)] = True
    return out


def is_mask_word(text: str) -> bool:
    """Whether a mask is told by a word, or by the end of its name, rather than by a path.

    Parameters
    ----------
    text : str

    Returns
    -------
    bool

    Raises
    ------
    InputError
        A word that wants a number, or an end, and has none.
    """
    if text.startswith(SUFFIX):
        if text == SUFFIX or "/" in text:
            raise InputError(f"{SUFFIX} give the end of the masks' names: {SUFFIX}_mask")
        return True
    word = text.lower()
    if word.startswith(NUMBERED):
        parse_value(word)
        return True
    return word in ("nan", "saturated", "hot", "alpha")


def parse_value(word: str) -> float:
    """Number in a mask word such as "value=0".

    Parameters
    ----------
    word : str

    Returns
    -------
    float
        An int for whole numbers, so that 64-bit values stay exact.

    Raises
    ------
    InputError
        No number after the equals sign.
    """
    text = word.partition("=")[2].strip()
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    raise InputError(f"{word!r}: write a number after the equals sign, such as value=0")


def _transparent(image: Image) -> np.ndarray:
    clear = np.asarray(image.data)[..., -1:] == 0
    return np.broadcast_to(clear, image.shape).copy()


def _told(found: np.ndarray, what: str, image: Image, notes: list[Note]) -> np.ndarray:
    count = _count(found, image)
    notes.append(Note(f"{image.name}: {count:,} {_plural(count, 'pixel')} {what}"))
    return found


def _count(fill: np.ndarray, image: Image) -> int:
    """Pixels to fill, the samples of one pixel counted once."""
    return int(np.count_nonzero(fill[..., 0] if image.axes.endswith("S") else fill))


def _as_labels(mask: Any, image: Image) -> tuple[np.ndarray, str | None, str]:
    """Values, axes (None: unknown) and name of a mask, its colour samples reduced to one."""
    axes, name = (mask.axes, mask.name) if isinstance(mask, Image) else (None, "mask")
    marks = np.asarray(mask.data if isinstance(mask, Image) else mask)
    if marks.dtype.kind not in "biuf":
        raise InputError(f"{name}: values of type {marks.dtype} are not a mask")
    if marks.shape == image.shape and sorted(axes or "") != sorted(image.axes):
        axes = image.axes  # the mask's own names, if any, are another program's guess
    if axes is not None and axes.endswith("S"):
        if marks.shape[-1] in (2, 4):
            marks, alpha = marks[..., :-1], marks[..., -1]
            if isinstance(mask, Image) and (alpha != alpha.flat[0]).any():
                raise InputError(
                    f"{name}: a mask with transparency; save it as plain black and white"
                )
        if (marks != marks[..., :1]).any() or len(np.unique(marks)) > 2:
            raise InputError(
                f"{name}: a colour mask; use one channel, or pure black and white (white = fill)"
            )
        marks, axes = marks[..., 0], axes[:-1]
    return marks, axes, name


def _marked(marks: np.ndarray, name: str, recipe: Inpaint) -> np.ndarray:
    """True where the mask asks for a fill."""
    if marks.dtype == bool and recipe.mask_label in (None, 1):
        return ~marks if recipe.invert_mask else marks
    # plane by plane, so that sorting needs no copy of a whole stack
    values = np.unique(np.concatenate([np.unique(plane) for plane in np.atleast_2d(marks)]))
    if marks.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InputError(f"{name}: the mask holds NaN or infinite values; use 0 and 1")
        if ((values > 0) & (values < 1)).any():
            raise InputError(
                f"{name}: a float mask with values between 0 and 1 (such as "
                f"{values[(values > 0) & (values < 1)][0]:.3g}); threshold it first"
            )
    if recipe.mask_label is not None:
        if values.any() and recipe.mask_label not in values:
            raise InputError(
                f"{name}: no label {recipe.mask_label} in the mask; it holds "
                + ", ".join(f"{value:g}" for value in values[values != 0][:8])
                + (" and others" if np.count_nonzero(values) > 8 else "")
            )
        fill = marks == recipe.mask_label
    else:
        if len(values) == 2 and values.all():
            raise InputError(
                f"{name}: ambiguous mask, its values are {values[0]:g} and {values[1]:g} and "
                "neither is 0; choose one as the label to fill (mask_label)"
            )
        fill = marks != 0
    return ~fill if recipe.invert_mask else fill


def _repeat(
    fill: np.ndarray, axes: str | None, name: str, image: Image, notes: list[Note]
) -> np.ndarray:
    """Bring a mask to the image's axes, repeating it along those it lacks."""
    planar = image.axes.removesuffix("S")
    sizes = dict(zip(image.axes, image.shape, strict=True))
    # axes of length 1 say nothing about which axis they are
    kept = [i for i, size in enumerate(fill.shape) if size != 1]
    if axes is not None and len(axes) != fill.ndim:
        axes = None
    used = None
    if axes is not None and all(
        a in planar and sizes[a] == size for a, size in zip(axes, fill.shape, strict=True)
    ):
        order = sorted(range(fill.ndim), key=lambda i: planar.index(axes[i]))
        fill, used = fill.transpose(order), "".join(axes[i] for i in order)
    if used is None:
        used = _match(fill.shape, planar, sizes)
    if used is None and len(kept) < fill.ndim:
        fill = fill.reshape([fill.shape[i] for i in kept])
        used = _match(fill.shape, planar, sizes)
    if used is None:
        raise InputError(_misfit(fill.shape, name, image, planar, sizes))
    full = fill.reshape([sizes[a] if a in used else 1 for a in image.axes])
    repeats = {a: sizes[a] for a in planar if a not in used and sizes[a] > 1}
    if repeats:
        channels = repeats.pop("C", 0)
        over = [f"each of {math.prod(repeats.values())} planes"] if repeats else []
        over += [f"all {channels} channels"] if channels else []
        text = f"the {len(used)}-D mask is applied to {' and '.join(over)}"
        notes.append(Note(f"{name}: {text}"))
    return np.broadcast_to(full, image.shape).copy()


def _match(shape: tuple[int, ...], planar: str, sizes: dict[str, int]) -> str | None:
    """Image axes that a mask without named axes has, in the image's order; None: no such axes."""
    must = {"Y", "X"}
    fitting = []
    for letters in combinations(planar, len(shape)):
        if must <= set(letters) and all(
            sizes[a] == size for a, size in zip(letters, shape, strict=True)
        ):
            fitting.append("".join(letters))
    if len(fitting) > 1:
        # of two readings the one without C is meant: all channels share the hole
        fitting = [used for used in fitting if "C" not in used] or fitting
    return fitting[0] if len(fitting) == 1 else None


def _misfit(
    shape: tuple[int, ...], name: str, image: Image, planar: str, sizes: dict[str, int]
) -> str:
    text = (
        f"{name}: the mask is {_size(shape)}, the image {image.name} is "
        f"{_size(image.shape)} ({image.axes})"
    )
    if shape[-2:] == (sizes["X"], sizes["Y"]):
        return f"{text}; its sides look swapped: transpose the mask"
    return f"{text}; give a mask of {sizes['Y']} x {sizes['X']}, or of the image's shape"


def _join(
    image: Image, fill: np.ndarray, mask: Any, recipe: Inpaint, notes: list[Note]
) -> np.ndarray:
    """Add what the image itself marks as lost; take the alpha samples out."""
    if image.dtype.kind == "f":
        lost = _pixels(image, lambda plane: ~np.isfinite(plane))
        extra = _count(lost & ~fill, image)
        if extra:
            also = "" if mask is None or isinstance(mask, str) else " too"
            what = f"NaN or infinite {_plural(extra, 'pixel')} {'are' if extra > 1 else 'is'}"
            notes.append(Note(f"{image.name}: {extra:,} {what} filled{also}"))
            fill = fill | lost
    holes = image.extra.get("holes", ())
    for box in holes:
        fill[box] = True
    if holes:
        notes.append(Note(f"{image.name}: {len(holes):,} missing chunks are filled too"))
    if recipe.saturated_as_hole and image.dtype.kind in "iu":
        fill = fill | _from_word(image, "saturated", notes)
    if recipe.alpha_channel == "mask" and image.alpha:
        fill = fill | _from_word(image, "alpha", notes)
    if image.alpha:
        fill[..., -1] = False
    return fill


def _judge(image: Image, fill: np.ndarray, notes: list[Note]) -> None:
    total = math.prod(image.shape)
    if image.axes.endswith("S"):
        total //= image.shape[-1]
    count = _count(fill, image)
    if count == total:
        raise InputError(
            f"{image.name}: no known pixel left: the mask covers the whole image. "
            "If it is inverted, set invert_mask (--invert-mask)"
        )
    if count == 0:
        notes.append(Note(f"{image.name}: nothing to fill"))
    elif count > MOSTLY * total:
        notes.append(
            Note(
                f"{image.name}: {100 * count / total:.0f} % of the image is to be filled; if the "
                "mask is inverted, set invert_mask (--invert-mask)",
                "warning",
            )
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else noun + "s"
