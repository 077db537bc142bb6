"""Contact sheets: pictures of one scene side by side, each with a detail below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

SIDE, GAP, TEXT, COLUMNS = 230, 10, 38, 5
PAPER, INK, FAINT, MARK = (252, 252, 252), (20, 20, 20), (110, 110, 110), (230, 60, 140)


@dataclass
class Panel:
    """A picture (Y, X) or (Y, X, C) with a title and a line of figures; `hole` is painted over."""

    title: str
    figures: str
    values: Any
    hole: Any = None


def draw_sheet(panels: list[Panel], mask: Any = None) -> Picture.Image:
    """All panels in rows of at most five, stretched alike.

    Parameters
    ----------
    panels : list of Panel
        The first is the input; it and the second decide the contrast.
    mask : ndarray of bool, shape (Y, X), optional
        The detail is cut round its most telling part, deep and amid contrast; else where the input varies most.

    Returns
    -------
    PIL.Image.Image
    """
    low, high = _contrast(panels[0], mask)
    box = _detail(panels[-1].values if mask is None else panels[0].values, mask)
    rows = -(-len(panels) // COLUMNS)
    columns = -(-len(panels) // rows)
    height = TEXT + 2 * SIDE + 3 * GAP
    sheet = Picture.new("RGB", (columns * (SIDE + GAP) + GAP, rows * height + GAP), PAPER)
    pen, font, small = ImageDraw.Draw(sheet), _font(14), _font(12)
    for number, panel in enumerate(panels):
        left = GAP + number % columns * (SIDE + GAP)
        top = GAP + number // columns * height
        pen.text((left, top), _fitting(pen, panel.title, font), fill=INK, font=font)
        pen.text((left, top + 18), _fitting(pen, panel.figures, small), fill=FAINT, font=small)
        whole = _picture(panel, low, high)
        thumb, scale = _fit(whole)
        sheet.paste(thumb, (left, top + TEXT))
        cut = tuple(
            slice(int(s.start * n), max(int(s.start * n) + 1, round(s.stop * n)))
            for s, n in zip(box, panel.values.shape, strict=False)
        )
        corner = [left + cut[1].start * scale, top + TEXT + cut[0].start * scale]
        far = [left + cut[1].stop * scale - 1, top + TEXT + cut[0].stop * scale - 1]
        pen.rectangle([*corner, *far], outline=MARK)
        crop = whole.crop((cut[1].start, cut[0].start, cut[1].stop, cut[0].stop))
        sheet.paste(_fit(crop)[0], (left, top + TEXT + SIDE + GAP))
    return sheet


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError, ImportError):  # Pillow without FreeType
        return ImageFont.load_default()


def _fitting(pen: ImageDraw.ImageDraw, text: str, font: Any) -> str:
    while text and pen.textlength(text, font=font) > SIDE:
        text = text[:-2].rstrip() + "…" if len(text) > 3 else ""
    return text


def _grey(values: np.ndarray) -> np.ndarray:
    return values.mean(-1) if values.ndim == 3 else values


def _contrast(panel: Panel, mask: Any) -> tuple[float, float]:
    """Grey levels shown black and white, from the known pixels of the input."""
    values = np.asarray(panel.values)
    if values.dtype == np.uint8 and values.shape[2:] == (3,):  # a photograph, as it is
        return 0.0, 255.0
    known = values if mask is None else values[~np.asarray(mask)]
    low, high = np.nanpercentile(known.astype(np.float64), (0.5, 99.7))
    return float(low), float(high) if high > low else float(low) + 1


def _detail(values: np.ndarray, mask: Any) -> tuple[slice, slice]:
    """The window shown large, as shares of the sides."""
    shape = values.shape[:2]
    if mask is not None:
        from scipy import ndimage

        parts, count = ndimage.label(mask)
        numbers = range(1, count + 1)
        deep = ndimage.maximum(ndimage.distance_transform_edt(mask), parts, numbers)
        # a hole in the dark shows nothing: what lies round it counts, too
        rim = ndimage.grey_dilation(parts, size=9) * ~np.asarray(mask, bool)
        grey = _grey(np.nan_to_num(values.astype(np.float64)))
        lively = np.nan_to_num(ndimage.standard_deviation(grey, rim, numbers))
        telling = np.asarray(deep) * (lively + 1e-6 * max(float(np.ptp(grey)), 1e-12))
        found = ndimage.find_objects(parts)[int(np.argmax(telling))]
        middle = [(s.start + s.stop) / 2 for s in found]
        reach = max(s.stop - s.start for s in found) / 2 + 12
        reach = min(max(reach, 20), max(shape) / 2)
    else:
        from scipy import ndimage

        reach = max(min(shape) / 6, min(20, min(shape) / 2))
        grey = _grey(np.nan_to_num(values.astype(np.float64)))
        size = max(3, int(2 * reach))
        spread = ndimage.uniform_filter(grey**2, size) - ndimage.uniform_filter(grey, size) ** 2
        inner = tuple(
            slice(int(min(reach, n // 2)), max(int(n - reach), n // 2 + 1)) for n in shape
        )
        at = np.unravel_index(int(np.argmax(spread[inner])), spread[inner].shape)
        middle = [a + s.start for a, s in zip(at, inner, strict=True)]
    box = []
    for m, n in zip(middle, shape, strict=True):
        half = min(reach, n / 2)
        start = min(max(0.0, m - half), n - 2 * half)
        box.append((start / n, (start + 2 * half) / n))
    return _share(*box[0]), _share(*box[1])


def _share(start: float, stop: float) -> Any:
    return slice(start, stop)


def _picture(panel: Panel, low: float, high: float) -> Picture.Image:
    """8-bit RGB; channels beyond three are shown as their mean."""
    values = np.nan_to_num(np.asarray(panel.values).astype(np.float64), nan=low)
    if values.ndim == 3 and values.shape[2] != 3:
        values = values.mean(-1)
    shade: np.ndarray = (255 * np.clip((values - low) / (high - low), 0, 1) + 0.5).astype(np.uint8)
    shade = np.repeat(shade[..., None], 3, -1) if shade.ndim == 2 else shade
    if panel.hole is not None:
        shade = np.where(np.asarray(panel.hole)[..., None], np.array(MARK, np.uint8), shade)
    return Picture.fromarray(shade)


def _fit(picture: Picture.Image) -> tuple[Picture.Image, float]:
    """Scaled to the panel's side, and by how much; small ones by whole pixels' look."""
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(n * scale)) for n in picture.size)
    how = Picture.Resampling.NEAREST if scale > 1 else Picture.Resampling.LANCZOS
    return picture.resize((size[0], size[1]), how), scale
