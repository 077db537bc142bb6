"""Repair the damaged micrographs of defects/defects.json through files, and draw a contact sheet.

    python benchmarks/defects.py --data FOLDER [--only NAME,NAME]

Each image is damaged, written, read, repaired, written and read back; shape, dtype, axes, pixel
size, unit and the known pixels must survive. The table is written to results/, the sheet of the
images to docs/images/defects.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, add_data_option, crop_round, data_folder, machine, panel, say, table
from PIL import Image as Picture
from PIL import ImageDraw

import knitcore
from knitcore.files import write_image

SHEET = Path(__file__).resolve().parents[1] / "docs" / "images" / "defects.png"
PANEL = 150  # side of a panel of the contact sheet, in pixels


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


def parts(axes: str, mask: np.ndarray) -> list[tuple[Any, ...]]:
    """Index of each part that a classical method fills by itself.

    C, S and T are looped over, but for T where a whole frame is lost: then time is a third axis.
    """
    lost = "T" in axes and mask.all(axis=tuple(i for i, a in enumerate(axes) if a in "YXS")).any()
    looped = "CS" if lost else "CST"
    loops = [
        range(n) if a in looped else [slice(None)] for a, n in zip(axes, mask.shape, strict=True)
    ]
    return list(itertools.product(*loops))


def classical(method: str, image: np.ndarray, axes: str, mask: np.ndarray) -> np.ndarray:
    """Harmonic or biharmonic fill."""
    from skimage.restoration import inpaint_biharmonic

    from knitcore.harmonic import harmonic_fill

    filled = image.astype(float)
    for part in parts(axes, mask):
        hole = mask[part]
        if not hole.any():
            continue
        if method == "harmonic":
            filled[part] = harmonic_fill(filled[part][None], ~hole[None], hole)[0]
        else:
            box = crop_round(hole, 8)
            values = filled[part]
            scale = max(float(values.max()), 1.0)
            values[box] = inpaint_biharmonic(values[box] / scale, hole[box]) * scale
    return filled


def scores(truth: np.ndarray, filled: np.ndarray, mask: np.ndarray) -> str:
    """PSNR and NRMSE inside the mask, as text.

    The peak of the PSNR is the range of the truth between its 0.1 and 99.9 percentiles; the NRMSE
    is in units of the truth's standard deviation inside the mask (1: no better than its mean).
    """
    error = np.sqrt(np.mean((truth[mask].astype(float) - filled[mask].astype(float)) ** 2))
    low, high = np.percentile(truth, [0.1, 99.9])
    return f"{20 * np.log10((high - low) / error):.2f} / {error / truth[mask].std():.3f}"


def view(axes: str, mask: np.ndarray) -> tuple[Any, ...]:
    """The 2-D (or RGB) part of an n-D image where most is lost."""
    if axes in ("YX", "YXS"):
        return (...,)
    return (int(np.argmax(mask.reshape(mask.shape[0], -1).mean(1))),)


def square_round(mask: np.ndarray) -> tuple[slice, ...]:
    """A square crop with as much of the mask as a coarse search finds; a small one for few pixels."""
    height, width = mask.shape
    side = min(256 if mask.sum() > 100 else 32, height, width)
    step = max(1, side // 16)
    corners = [
        (y, x)
        for y in (*range(0, height - side, step), height - side)
        for x in (*range(0, width - side, step), width - side)
    ]
    middle = slice(side // 4, side - side // 4)  # what counts is the middle, then the whole

    def weight(corner: tuple[int, int]) -> tuple[int, int]:
        crop = mask[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        return int(crop.sum()), int(crop[middle, middle].sum())

    y, x = max(corners, key=weight)
    return slice(y, y + side), slice(x, x + side)


def panels(
    damaged: np.ndarray, repaired: np.ndarray, std: np.ndarray, truth: np.ndarray, box: Any
) -> list[Picture.Image]:
    """Four pictures of one 2-D (or RGB) part, all but std with the contrast of the truth."""
    low, high = (0, 255) if truth.dtype == np.uint8 else np.percentile(truth, [0.5, 99.7])
    gamma = 1.0 if truth.dtype == np.uint8 else 0.7
    spread = std if std.ndim == 2 else std.mean(-1)
    return [
        panel(damaged[box], low, high, gamma),
        panel(repaired[box], low, high, gamma),
        panel(spread[box], 0, float(spread.max()), 1.0),
        panel(truth[box], low, high, gamma),
    ]


def sheet(entries: list[tuple[str, list[Picture.Image]]]) -> Picture.Image:
    """Panels under their headings, two defects a row."""
    gap, line = 5, 15
    titles = ("damaged", "repaired", "std", "truth")
    width, height = len(titles) * (PANEL + gap) + 4 * gap, PANEL + 2 * line + gap
    picture = Picture.new("RGB", (2 * width - 5 * gap, (len(entries) + 1) // 2 * height), "white")
    draw = ImageDraw.Draw(picture)
    for number, (name, pictures) in enumerate(entries):
        left, top = number % 2 * width, number // 2 * height
        draw.text((left, top + 1), name, fill="black")
        for i, (title, one) in enumerate(zip(titles, pictures, strict=False)):
            at = left + i * (PANEL + gap)
            draw.text((at, top + line - 1), title, fill="gray")
            picture.paste(one, (at, top + 2 * line))
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
            cells = [scores(truth, filled, mask) for filled in fills]
        shape = f"{source.axes} {'×'.join(map(str, source.shape))} {source.dtype.name}"
        lost = f"{100 * mask.mean():.2f}"
        row = [f"`{name}`", shape, lost, *cells, f"{seconds:.1f}", "yes" if kept else "**no**"]
        rows.append(row)
        say(" | ".join(row))
        part = view(source.axes, mask)
        flat = mask[part] if mask[part].ndim == 2 else mask[part].any(-1)
        drawn = panels(damaged[part], repaired[part], std[part], truth[part], square_round(flat))
        drawn = drawn[:3] if entry["fill"] is None else drawn
        pictures.append((f"{name}: {entry['kind']}", drawn))
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
reading back. Harmonic and biharmonic run channel by channel and frame by frame, in 3-D over Z and
where a whole frame is lost. "–": the damage is real and the truth unknown. Made by `benchmarks/defects.py`. Machine: {machine()}

{table(head, rows)}"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures).save(options.sheet, optimize=True)
    print(text)


if __name__ == "__main__":
    main()
