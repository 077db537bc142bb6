"""Repair the damaged micrographs of defects/defects.json through files, and draw a contact sheet.

    python benchmarks/defects.py --data FOLDER [--only NAME,NAME]

Each image is damaged, written, read, repaired, written and read back; shape, dtype, axes, pixel
size, unit and the known pixels must survive. The table is written to results/, the sheet of the
images to docs/images/defects.png.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, add_data_option, crop_round, data_folder, machine, say, table
from PIL import Image as Picture
from PIL import ImageDraw

import knitcore
from knitcore.files import write_image

SHEET = Path(__file__).resolve().parents[1] / "docs" / "images" / "defects.png"
PANEL = 220  # side of a panel of the contact sheet, in pixels
BIHARMONIC_LIMIT = 9000


def round_trip(folder: Path, source: knitcore.Image, mask: np.ndarray, mask_path: Path, fill: Any):
    """Damage, write, read, repair, write, read back.

    Returns
    -------
    damaged : ndarray
    repaired : Image
        As read back from the file.
    std : ndarray
    seconds : float
    kept : bool
        Whether shape, dtype, axes, pixel size, unit and known pixels are the source's.
    """
    suffix = ".png" if "S" in source.axes else ".ome.tif" if ".ome." in source.name else ".tif"
    damaged = np.asarray(source.data).copy()
    if fill is not None:
        damaged[mask] = fill
    broken, repaired_path = folder / f"damaged{suffix}", folder / f"repaired{suffix}"
    write_image(replace(source, data=damaged), broken)
    image = knitcore.read_image(broken)
    start = time.perf_counter()
    result = knitcore.inpaint(image, knitcore.read_mask(mask_path), seed=0)
    seconds = time.perf_counter() - start
    knitcore.write_result(result, repaired_path)
    back = knitcore.read_image(repaired_path)
    pixels = np.asarray(back.data)
    kept = (
        back.shape == source.shape
        and back.dtype == source.dtype.newbyteorder("=")
        and back.axes == source.axes
        and back.unit == source.unit
        and back.pixel_size.keys() == source.pixel_size.keys()
        and all(np.isclose(back.pixel_size[a], s, rtol=1e-4) for a, s in source.pixel_size.items())
        and np.array_equal(pixels[~mask], damaged[~mask])
    )
    return damaged, back, result.std, seconds, kept


def full_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Spread a 2-D mask over the samples of an RGB image."""
    mask = mask != 0
    return mask if mask.shape == shape else np.broadcast_to(mask[..., None], shape).copy()


def planes(axes: str, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Index of each part that a classical method fills by itself: C, T and S are looped over."""
    loops = [range(n) if a in "CTS" else [slice(None)] for a, n in zip(axes, shape, strict=True)]
    grid = [()]
    for loop in loops:
        grid = [(*index, value) for index in grid for value in loop]
    return grid


def classical(method: str, image: np.ndarray, axes: str, mask: np.ndarray) -> np.ndarray | None:
    """Harmonic or biharmonic fill, or None where it has no answer or takes too long."""
    from skimage.restoration import inpaint_biharmonic

    from knitcore.harmonic import harmonic_fill

    filled = image.astype(float)
    for part in planes(axes, image.shape):
        hole = mask[part]
        if not hole.any():
            continue
        if hole.all() or (method == "biharmonic" and hole.sum() > BIHARMONIC_LIMIT):
            return None
        if method == "harmonic":
            filled[part] = harmonic_fill(filled[part][None], ~hole[None], hole)[0]
        else:
            box = crop_round(hole, 8)
            values = filled[part]
            scale = max(float(values.max()), 1.0)
            values[box] = inpaint_biharmonic(values[box] / scale, hole[box]) * scale
    return filled


def scores(truth: np.ndarray, filled: np.ndarray | None, mask: np.ndarray) -> tuple[str, str]:
    """PSNR and NRMSE inside the mask, as text.

    The peak of the PSNR is the range of the truth between its 0.1 and 99.9 percentiles; the NRMSE
    is in units of the truth's standard deviation inside the mask (1: no better than its mean).
    """
    if filled is None:
        return "–", "–"
    error = np.sqrt(np.mean((truth[mask].astype(float) - filled[mask].astype(float)) ** 2))
    low, high = np.percentile(truth, [0.1, 99.9])
    return f"{20 * np.log10((high - low) / error):.2f}", f"{error / truth[mask].std():.3f}"


def view(image: np.ndarray, axes: str, mask: np.ndarray) -> tuple[Any, ...]:
    """The 2-D (or RGB) part of an n-D image that shows most of a partial loss."""
    if axes in ("YX", "YXS"):
        return (...,)
    lost = mask.reshape(mask.shape[0], -1).mean(1)
    return (int(np.argmax(np.where(lost < 0.9, lost, 0))),)


def panel(values: np.ndarray, low: float, high: float, box: tuple[slice, ...]) -> Picture.Image:
    """A square, cropped, contrast-stretched picture."""
    values = np.clip((values[box].astype(float) - low) / max(high - low, 1e-9), 0, 1)
    picture = Picture.fromarray(np.uint8(255 * values + 0.5)).convert("RGB")
    return picture.resize((PANEL, PANEL), Picture.Resampling.LANCZOS)


def square_round(mask: np.ndarray, most: int = 256) -> tuple[slice, ...]:
    """A square crop, at most `most` wide, with as much of the mask as a coarse search finds."""
    height, width = mask.shape
    side = min(most, height, width)
    best, corner = -1, (0, 0)
    for y in {*range(0, height - side, 16), height - side}:
        for x in {*range(0, width - side, 16), width - side}:
            count = int(mask[y : y + side, x : x + side].sum())
            if count > best:
                best, corner = count, (y, x)
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def sheet(rows: list[tuple[str, list[Picture.Image]]]) -> Picture.Image:
    """Panels under their headings, one defect a row."""
    gap, line = 6, 16
    titles = ("damaged", "repaired", "std", "truth")
    height = line + len(rows) * (PANEL + line + gap)
    picture = Picture.new("RGB", (len(titles) * (PANEL + gap) - gap, height), "white")
    draw = ImageDraw.Draw(picture)
    for i, title in enumerate(titles):
        draw.text((i * (PANEL + gap) + 2, 2), title, fill="black")
    for j, (name, panels) in enumerate(rows):
        top = line + j * (PANEL + line + gap)
        draw.text((2, top + 2), name, fill="black")
        for i, one in enumerate(panels):
            picture.paste(one, (i * (PANEL + gap), top + line))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--only", help="names of masks, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS / "defects.md")
    parser.add_argument("--sheet", type=Path, default=SHEET)
    options = parser.parse_args()
    data = data_folder(parser, options.data, "defects/defects.json")
    rows, pictures = [], []
    for entry in json.loads((data / "defects" / "defects.json").read_text()):
        name = Path(entry["mask"]).stem
        if options.only and name not in options.only.split(","):
            continue
        source = knitcore.read_image(data / entry["image"])
        truth = np.asarray(source.data)
        mask = full_mask(np.asarray(knitcore.read_mask(data / entry["mask"]).data), source.shape)
        with tempfile.TemporaryDirectory() as folder:
            try:
                damaged, back, std, seconds, kept = round_trip(
                    Path(folder), source, mask, data / entry["mask"], entry["fill"]
                )
            except knitcore.KnitError as error:
                say(f"{name}: {error}")
                rows.append([name, f"{100 * mask.mean():.2f}", f"failed: {error}", *"–––––"])
                continue
        repaired = np.asarray(back.data)
        cells = ["–"] * 3
        if entry["fill"] is not None:
            fills = [repaired]
            fills += [classical(m, damaged, source.axes, mask) for m in ("harmonic", "biharmonic")]
            cells = [" / ".join(scores(truth, filled, mask)) for filled in fills]
        rows.append(
            [
                f"`{name}`",
                f"{source.axes} {'×'.join(map(str, source.shape))} {source.dtype.name}",
                f"{100 * mask.mean():.2f}",
                *cells,
                f"{seconds:.1f}",
                "yes" if kept else "**no**",
            ]
        )
        say(" | ".join(rows[-1]))
        part = view(truth, source.axes, mask)
        flat = mask[part] if mask[part].ndim == 2 else mask[part].any(-1)
        box = square_round(flat)
        low, high = np.percentile(truth[part], [0.5, 99.7])
        low, high = (0, 255) if source.dtype == np.uint8 else (low, high)
        spread = std[part] if std[part].ndim == 2 else std[part].mean(-1)
        pictures.append(
            (
                f"{name}: {entry['kind']}",
                [
                    panel(damaged[part], low, high, box),
                    panel(repaired[part], low, high, box),
                    panel(spread, 0, float(spread.max()), box),
                    panel(truth[part], low, high, box),
                ],
            )
        )
    head = [
        "mask",
        "image",
        "lost %",
        "`fast`",
        "harmonic",
        "biharmonic",
        "seconds",
        "all kept",
    ]
    text = f"""# Damaged micrographs repaired through files

PSNR in dB / NRMSE, inside the mask. Peak of the PSNR: range of the truth between its 0.1 and 99.9
percentiles. NRMSE in units of the truth's standard deviation inside the mask (1: no better than its
mean). "All kept": shape, dtype, axes, pixel size, unit and every known pixel, after writing and
reading back. Harmonic and biharmonic run channel by channel and frame by frame, in 3-D over Z; "–"
where a whole frame is lost or a plane has over {BIHARMONIC_LIMIT} hole pixels, or where the damage
is real and the truth unknown. Made by `benchmarks/defects.py`. Machine: {machine()}

{table(head, rows)}"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures).save(options.sheet, optimize=True)
    print(text)


if __name__ == "__main__":
    main()
