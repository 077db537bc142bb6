"""Denoise and enlarge micrographs by the command `knit`, check what became of them, draw two sheets.

    python benchmarks/contact_sheets.py --data FOLDER [--only NAME,NAME]

Shape, dtype, axes, unit and pixel size of the outputs are read back from the files. The table is
written to results/, the sheets to docs/images/denoising.png and super_resolution.png; they show only
images that may be redistributed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    data_folder,
    machine,
    noise_found,
    noise_text,
    panel,
    say,
    table,
)
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

import knitcore
from knitcore.files import record_path, write_image

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
TESTS = ROOT / "tests" / "data"
SHEETS = "../../docs/images"  # as seen from results/
SIDE = 192  # of a panel of the sheets, in pixels
DENOISE = (
    "microscopy/pairs/synth_bacteria_lowlight_noisy.tif",
    "microscopy/pairs/synth_nuclear_protein_noisy.tif",
    "microscopy/pairs/fmd_bpae_actin_noisy.tif",
    "microscopy/pairs/fmd_mouse_brain_noisy.tif",
    "microscopy/pairs/nuclei_exposure_16bit_noisy.tif",
    "microscopy/fluo_eres_noisy_16bit.tif",
    "microscopy/fluo_nuclear_protein_16bit.tif",
    "fluo_neuron_16bit.tif",
    "fluo_bacteria_crop.tif",
    "em_mitochondria_er_8bit.tif",
    "multichannel_dna_mt_actin_16bit.ome.tif",
    "twochannel_hotpixel_crop.tif",
    "zstack_nucleus_crop.tif",
    "timeseries_golgi_crop.tif",
    "rgb_ihc_crop.png",
)
# image, scale, and the blur (standard deviations along and across the diagonal, input pixels) by
# which it is made coarse first; none: enlarged as it is
ENLARGE: tuple[tuple[str, str, tuple[float, float] | None], ...] = (
    ("rgb_ihc_crop.png", "2", (1.6, 1.6)),
    ("em_mitochondria_er_8bit.tif", "2", (2.0, 0.8)),
    ("micrograph_truth.tif", "2", (1.6, 1.6)),
    ("fluo_bacteria_crop.tif", "2", None),
    ("fluo_nuclear_protein_crop.tif", "1.5", None),
    ("multichannel_dna_mt_actin_16bit.ome.tif", "2", (1.6, 1.6)),
    ("zstack_nucleus_crop.tif", "1x2x2", None),
    ("timeseries_golgi_crop.tif", "2", None),
)
# what the sheets show: image, name, plane, and the upper left corner and side of the crop
DENOISED_ROWS = (
    (DENOISE[0], "bacteria, simulated low light", (), (110, 130, 96)),
    (DENOISE[1], "nuclei, simulated", (), (156, 226, 96)),
    (DENOISE[5], "ER exit sites, as recorded", (), (61, 10, 96)),
    ("fluo_neuron_16bit.tif", "neuron, as recorded", (), (152, 150, 96)),
    ("multichannel_dna_mt_actin_16bit.ome.tif", "microtubules, as recorded", (1,), (120, 160, 96)),
)
ENLARGED_ROWS = (
    ("rgb_ihc_crop.png", "stained tissue, blurred round", (), (16, 16, 96)),
    ("em_mitochondria_er_8bit.tif", "membranes, blurred diagonally", (), (70, 60, 96)),
    ("micrograph_truth.tif", "neuron, blurred round", (), (16, 16, 96)),
    ("fluo_bacteria_crop.tif", "bacteria, as recorded", (), (80, 80, 96)),
)


@dataclass
class Done:
    """One file after `knit`: arrays, record and whether all is as it should be."""

    source: np.ndarray
    output: np.ndarray
    beside: np.ndarray  # residual or kernel
    record: dict[str, Any]
    clean: np.ndarray | None
    row: list[str]


def find(data: Path, name: str) -> Path:
    return data / name if "/" in name else TESTS / name


def knit(*arguments: str | Path) -> None:
    """Run the command that is installed beside this Python."""
    command = [str(Path(sys.executable).with_name("knit")), *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def sizes(image: knitcore.Image) -> str:
    """Pixel size in space and its unit, in a few words."""
    letters = [a for a in image.axes if a in "ZYX" and a in image.pixel_size]
    if not letters:
        return "none"
    each = " × ".join(f"{image.pixel_size[a]:.4g}" for a in letters)
    return f"{each} {image.unit.get(letters[-1], '')}".strip()


def kept(source: knitcore.Image, back: knitcore.Image, factors: dict[str, float]) -> list[str]:
    """What is not as it should be in an output that was read back."""
    faults = []
    shape = tuple(
        round(n * factors.get(a, 1)) for a, n in zip(source.axes, source.shape, strict=True)
    )
    if back.shape != shape:
        faults.append(f"shape {back.shape}")
    if back.dtype != source.dtype.newbyteorder("="):
        faults.append(f"dtype {back.dtype}")
    if (back.axes, back.unit, back.channel_names) != (
        source.axes,
        source.unit,
        source.channel_names,
    ):
        faults.append("axes, unit or channel names")
    if back.pixel_size.keys() != source.pixel_size.keys() or not all(
        np.isclose(back.pixel_size[a], s / factors.get(a, 1), rtol=1e-4)
        for a, s in source.pixel_size.items()
    ):
        faults.append(f"pixel size {back.pixel_size}")
    return faults


def run(
    folder: Path, path: Path, source: knitcore.Image, task: str, clean: Any, *options: str
) -> Done:
    """Put one file through `knit TASK`, read everything back, and make its line of the table."""
    output = folder / f"out{''.join(path.suffixes[-2:]) if '.ome.' in path.name else path.suffix}"
    save = "residual" if task == "denoise" else "kernel"
    knit(task, path, "-o", output, f"--save-{save}", *options)
    back = knitcore.read_image(output)
    record = json.loads(record_path(output).read_text())
    stem = output.name.partition(".")[0]
    beside = np.asarray(knitcore.read_image(output.with_name(f"{stem}_{save}.tif")).data)
    factors: dict[str, float] = {}
    if task == "denoise":
        facts = noise_text(*noise_found(record))
        taken = np.asarray(source.data).astype(np.float64) - np.asarray(back.data)
        if "S" in source.axes:  # colours are written as channels
            taken = np.moveaxis(taken, -1, 0)
        faults = [] if np.allclose(taken, beside, atol=0.51) else ["residual"]
        title = "denoise"
    else:
        scale = options[options.index("--scale") + 1].split("x")
        letters = [a for a in source.axes if a in "ZYX"][-max(len(scale), 2) :]
        factors = dict(zip(letters, map(float, scale * (2 if len(scale) == 1 else 1)), strict=True))
        residual = np.sqrt(np.mean(np.square(record["residual"][0]["rms"])))
        facts = f"residual {residual:.3g}"
        faults = [] if abs(beside.sum() - 1) < 1e-3 else [f"kernel sums to {beside.sum():.4f}"]
        title = f"super-resolve {'×'.join(scale)}"
    faults += kept(source, back, factors)
    shape = f"{source.axes} {'×'.join(map(str, source.shape))} {source.dtype.name}"
    row = [
        f"`{path.name}`",
        title,
        shape,
        "×".join(map(str, back.shape)),
        sizes(source),
        sizes(back),
        f"{record['seconds']['total']:.1f}",
        facts,
        "yes" if not faults else f"**no: {', '.join(faults)}**",
    ]
    say(" | ".join(row))
    return Done(np.asarray(source.data), np.asarray(back.data), beside, record, clean, row)


def coarsen(image: knitcore.Image, widths: tuple[float, float]) -> knitcore.Image:
    """Blur with a diagonal Gaussian and take every second pixel, areas coinciding."""
    along, across = widths
    reach = int(np.ceil(4 * max(widths)))
    offsets = np.arange(-reach, reach) + 0.5  # coarse pixels lie between two fine ones
    y, x = np.meshgrid(offsets, offsets, indexing="ij")
    kernel = np.exp(-0.25 * (((x + y) / along) ** 2 + ((x - y) / across) ** 2))
    kernel /= kernel.sum()
    data = np.asarray(image.data).astype(np.float64)
    rows, columns = image.axes.index("Y"), image.axes.index("X")
    data = np.moveaxis(data, (rows, columns), (0, 1))
    height, width = (n // 2 * 2 for n in data.shape[:2])
    pad = [(reach - 1, reach)] * 2 + [(0, 0)] * (data.ndim - 2)
    padded = np.pad(data[:height, :width], pad, mode="symmetric")
    coarse = sum(
        kernel[i, j] * padded[i : i + height : 2, j : j + width : 2]
        for i in range(len(kernel))
        for j in range(len(kernel))
    )
    coarse = np.moveaxis(np.asarray(coarse), (0, 1), (rows, columns))
    size = {a: s * 2 if a in "YX" else s for a, s in image.pixel_size.items()}
    return replace(image, data=np.rint(coarse).astype(image.dtype), pixel_size=size)


def sheet(
    titles: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture.Image | None]]]
) -> Picture.Image:
    """Panels in columns, a heading over each row; eight-bit palette where there is no colour."""
    gap, line = 6, 20
    font = ImageFont.load_default(size=14)
    width = len(titles) * (SIDE + gap) - gap
    height = line + len(rows) * (line + SIDE + gap)
    picture = Picture.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(titles):
        draw.text((column * (SIDE + gap), 1), title, fill="black", font=font)
    for number, (name, pictures) in enumerate(rows):
        top = line + number * (line + SIDE + gap)
        draw.text((0, top + 1), name, fill=(90, 90, 90), font=font)
        for column, one in enumerate(pictures):
            if one is not None:
                picture.paste(one, (column * (SIDE + gap), top + line))
    grey = picture.convert("L")
    pixels = np.asarray(picture).astype(int)
    return grey if np.ptp(pixels, axis=-1).max() == 0 else picture


def stretch(values: np.ndarray) -> tuple[float, float, float]:
    """Lowest and highest grey level and the gamma that an image is shown with."""
    if values.dtype == np.uint8:
        return 0.0, 255.0, 1.0
    low, high = np.percentile(values, [0.5, 99.8])
    return float(low), float(high), 0.7


def cut(values: np.ndarray, corner: tuple[int, int, int], factor: float = 1) -> np.ndarray:
    y, x, side = (round(v * factor) for v in corner)
    return values[y : y + side, x : x + side]


def denoised_row(done: Done, plane: tuple[int, ...], corner: tuple[int, int, int]) -> list[Any]:
    noisy, result, residual = (
        cut(a[plane], corner) for a in (done.source, done.output, done.beside)
    )
    reach = 3 * float(residual.std())
    how = stretch(result if done.clean is None else cut(done.clean[plane], corner))
    return [
        panel(noisy, *how, SIDE),
        panel(result, *how, SIDE),
        panel(residual, -reach, reach, 1.0, SIDE),
        None if done.clean is None else panel(cut(done.clean[plane], corner), *how, SIDE),
    ]


def enlarged_row(done: Done, plane: tuple[int, ...], corner: tuple[int, int, int]) -> list[Any]:
    coarse, fine = cut(done.source[plane], corner), cut(done.output[plane], corner, 2)
    how = stretch(fine if done.clean is None else cut(done.clean[plane], corner, 2))
    reach = 8  # of the kernel shown, to each side
    middle = [n / 2 for n in done.beside.shape]
    kernel = np.pad(done.beside, reach)
    window = tuple(slice(round(m), round(m) + 2 * reach) for m in middle)
    weights = np.clip(kernel[window], 0, None)
    return [
        panel(np.kron(coarse, np.ones((2, 2) + (1,) * (coarse.ndim - 2))), *how, SIDE),
        panel(fine, *how, SIDE),
        None if done.clean is None else panel(cut(done.clean[plane], corner, 2), *how, SIDE),
        panel(weights, 0, float(weights.max()), 0.5, SIDE),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--only", help="parts of file names, separated by commas")
    parser.add_argument("--out", type=Path, default=RESULTS / "microscopy_files.md")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the two sheets")
    options = parser.parse_args()
    data = data_folder(parser, options.data, DENOISE[0])
    only = options.only.split(",") if options.only else [""]
    denoised: dict[str, Done] = {}
    enlarged: dict[str, Done] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, name in enumerate(DENOISE):
            if not any(part in name for part in only):
                continue
            path = find(data, name)
            partner = path.with_name(path.name.replace("_noisy", "_clean"))
            clean = (
                np.asarray(knitcore.read_image(partner).data)
                if "/pairs/" in name and partner.exists()
                else None
            )
            place = folder / f"denoise{number}"
            place.mkdir()
            source = knitcore.read_image(path)
            denoised[name] = run(place, path, source, "denoise", clean)
        for number, (name, scale, blur) in enumerate(ENLARGE):
            if not any(part in name for part in only):
                continue
            path, clean = find(data, name), None
            place = folder / f"enlarge{number}"
            place.mkdir()
            if blur:
                fine = knitcore.read_image(path)
                clean = np.asarray(fine.data)
                path = place / path.name
                write_image(coarsen(fine, blur), path)
            source = knitcore.read_image(path)
            enlarged[name] = run(place, path, source, "super-resolve", clean, "--scale", scale)
    head = [
        "file",
        "task",
        "input",
        "output",
        "pixel size",
        "after",
        "seconds",
        "found",
        "all kept",
    ]
    text = f"""# Micrographs through the command `knit`

Nothing is given but the scale. "Found": the noise's standard deviation, or its variance as a function
of the grey level x (first plane, mean of the channels); for super-resolution the root mean square of
input minus degraded result, in grey levels. "All kept": shape (times the scale), dtype, axes, units,
channel names and pixel size (over the scale), read back from the written files; the residual is input
minus output, the kernel's sum is 1. Made by `benchmarks/contact_sheets.py`. Machine: {machine()}

{table(head, [one.row for one in (*denoised.values(), *enlarged.values())])}
![Noisy, result, residual and clean]({SHEETS}/denoising.png)

![Low resolution, result, truth and kernel]({SHEETS}/super_resolution.png)

Crops; the residual is shown between −3 and +3 of its standard deviations, the kernel by the square root
of its weights. Images: copyright NEUBIAS, Bioimage Analysis Training Resources, CC BY 4.0 (neuron by
courtesy of John Alexander; the bacteria in low light and the simulated nuclei are derived from them);
stained tissue: scikit-image, no known copyright restrictions.
"""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    print(text)
    options.images.mkdir(parents=True, exist_ok=True)
    rows = [(t, denoised_row(denoised[n], p, c)) for n, t, p, c in DENOISED_ROWS if n in denoised]
    if rows:
        titles = ("noisy", "result", "residual, ±3 sd", "clean")
        sheet(titles, rows).save(options.images / "denoising.png", optimize=True)
    rows = [(t, enlarged_row(enlarged[n], p, c)) for n, t, p, c in ENLARGED_ROWS if n in enlarged]
    if rows:
        titles = ("low resolution", "result, x2", "truth", "kernel found")
        sheet(titles, rows).save(options.images / "super_resolution.png", optimize=True)


if __name__ == "__main__":
    main()
