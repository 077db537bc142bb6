"""Rebuild tests/data and knitcore/samples from the image sets of the benchmarks.

    python tests/data/make_test_data.py --data FOLDER

FOLDER is laid out as benchmarks/README.md says. Only images that may be redistributed are read
(CREDITS.md); larger ones are cropped so that the whole folder stays small. The damage of the
sample is drawn here, with a fixed seed, so that the undamaged truth is known.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1] / "knitcore" / "samples"

WHOLE = (
    "fluo_neuron_16bit.tif",
    "em_mitochondria_er_8bit.tif",
    "multichannel_dna_mt_actin_16bit.ome.tif",
)
# name here: source, box, ImageJ axes, micrometres a pixel, further ImageJ metadata
CROPS = {
    "fluo_nuclear_protein_crop.tif": (
        "fluo_nuclear_protein_16bit.tif",
        np.s_[128:384, 64:320],
        "YX",
        500000 / 4416413,
        {},
    ),
    "fluo_bacteria_crop.tif": (
        "fluo_bacteria_16bit.tif",
        np.s_[64:320, 144:400],
        "YX",
        1000000 / 1591923,
        {},
    ),
    "twochannel_hotpixel_crop.tif": (
        "twochannel_hotpixel_16bit.tif",
        np.s_[:, 0:176, 200:376],
        "CYX",
        None,
        {},
    ),
    "zstack_nucleus_crop.tif": (
        "zstack_nucleus_16bit.tif",
        np.s_[8:24, 32:96, 16:80],
        "ZYX",
        0.51188,
        {"spacing": 0.49939},
    ),
    "timeseries_golgi_crop.tif": (
        "timeseries_golgi_float32.tif",
        np.s_[3:9, 24:120, 24:120],
        "TYX",
        0.35138,
        {"finterval": 59.86},
    ),
    "rgb_ihc_crop.png": ("rgb_ihc.png", np.s_[128:384, 128:384], "YXS", None, {}),
}
SAMPLE_BOX = np.s_[96:352, 78:334]  # of the neuron: the cell body and seven branches
NOISY_BOX = np.s_[256:512, 60:316]  # of the exit sites: one cell whole, two in part
STACK_BOX = np.s_[14:24, 32:96, 16:80]  # of the nucleus: its brightest planes


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) if path.suffix == ".png" else tifffile.imread(path)


def write_imagej(path: Path, data: np.ndarray, axes: str, size: float | None, more: dict) -> None:
    """Write an ImageJ TIFF; `size` in micrometres, or None for an uncalibrated one."""
    metadata = {"axes": axes, **more}
    resolution = None
    if size is not None:
        metadata["unit"] = "micron"
        resolution = (1 / size, 1 / size)
    tifffile.imwrite(
        path,
        data.astype(data.dtype.newbyteorder("=")),
        imagej=True,
        resolution=resolution,
        metadata=metadata,
    )


def draw_damage(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scratch, four dust grains, a block that was not transmitted and a dead row.

    Returns the damaged image and the mask, 255 where pixels were lost.
    """
    rng = np.random.default_rng(20261)
    height, width = truth.shape

    def layer() -> tuple[Image.Image, ImageDraw.ImageDraw]:
        picture = Image.new("L", (width, height), 0)
        return picture, ImageDraw.Draw(picture)

    scratch, draw = layer()
    path = [(22, 250), (70, 196), (112, 140), (168, 88), (232, 14)]
    for (x0, y0), (x1, y1) in itertools.pairwise(path):
        draw.line([(x0, y0), (x1, y1)], fill=255, width=int(rng.integers(2, 5)))
    dust, draw = layer()
    for x, y, radius in ((46, 66, 8), (206, 196, 10), (152, 36, 5), (98, 228, 4)):
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        outline = radius * (1 + 0.22 * np.cos(2 * angles + x) + 0.13 * np.cos(3 * angles + y))
        draw.polygon(
            [(x + r * np.cos(a), y + r * np.sin(a)) for r, a in zip(outline, angles, strict=True)],
            fill=255,
        )
    mask = np.zeros(truth.shape, np.uint8)
    damaged = truth.copy()
    noise = rng.normal(0, 1, truth.shape)
    for part, level, spread in ((np.array(scratch), 3600, 220), (np.array(dust), 540, 6)):
        damaged = np.where(part > 0, np.rint(level + spread * noise), damaged)
        mask |= part
    block, row = np.s_[172:196, 24:56], np.s_[84, :]
    for part in (block, row):
        damaged[part] = 0
        mask[part] = 255
    return damaged.astype(truth.dtype), mask


def damage_stack(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Line dropouts in two planes and a bubble through three. Returns damaged stack and mask (255)."""
    z, y, x = np.mgrid[: truth.shape[0], : truth.shape[1], : truth.shape[2]]
    mask = ((z - 6) / 1.6) ** 2 + ((y - 31) / 6) ** 2 + ((x - 44) / 6) ** 2 < 1
    for plane, rows in ((2, np.s_[30:33]), (2, np.s_[39]), (3, np.s_[26:28])):
        mask[plane, rows] = True
    return np.where(mask, 0, truth).astype(truth.dtype), mask.astype(np.uint8) * 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    for name in WHOLE:
        shutil.copyfile(data / "microscopy" / name, HERE / name)
    for name, (source, box, axes, size, more) in CROPS.items():
        pixels = read(data / "microscopy" / source)[box]
        if name.endswith(".png"):
            Image.fromarray(pixels).save(HERE / name, optimize=True)
        else:
            write_imagej(HERE / name, pixels, axes, size, more)

    boxes = {source: (name, box) for name, (source, box, *_) in CROPS.items()}
    entries = []
    for entry in json.loads((data / "defects" / "defects.json").read_text()):
        source = Path(entry["image"]).name
        mask_name = Path(entry["mask"]).name
        mask = read(data / entry["mask"])
        name, box = boxes.get(source, (source, ...))
        if name.endswith(".png"):
            box = box[:2]
        mask = np.ascontiguousarray(mask[box])
        if mask_name.endswith(".png"):
            Image.fromarray(mask).save(HERE / mask_name, optimize=True)
        else:
            axes = {"zst": "ZYX", "tim": "TYX"}.get(mask_name[:3], "CYX")
            tifffile.imwrite(
                HERE / mask_name,
                mask,
                photometric="minisblack",
                compression="zlib",
                metadata={"axes": axes},
            )
        entries.append(
            {
                "image": name,
                "mask": mask_name,
                "kind": entry["kind"] + " (crop)" * (name != source),
                "lost_percent": round(100 * float((mask > 0).mean()), 3),
                "fill": entry["fill"],
            }
        )
    text = ",\n".join(json.dumps(entry) for entry in entries)
    (HERE / "defects.json").write_text(f"[\n{text}\n]\n")

    truth = read(data / "microscopy" / "fluo_neuron_16bit.tif")[SAMPLE_BOX]
    truth = truth.astype(np.uint16)
    damaged, mask = draw_damage(truth)
    write_imagej(HERE / "micrograph_truth.tif", truth, "YX", 0.16, {})
    write_imagej(SAMPLES / "damaged_micrograph.tif", damaged, "YX", 0.16, {})
    Image.fromarray(mask).save(SAMPLES / "damaged_micrograph_mask.png", optimize=True)

    noisy = read(data / "microscopy" / "fluo_eres_noisy_16bit.tif")[NOISY_BOX]
    write_imagej(SAMPLES / "noisy_micrograph.tif", noisy, "YX", 1000000 / 4354004, {})
    stack, mask = damage_stack(read(data / "microscopy" / "zstack_nucleus_16bit.tif")[STACK_BOX])
    write_imagej(SAMPLES / "damaged_stack.tif", stack, "ZYX", 0.51188, {"spacing": 0.49939})
    tifffile.imwrite(
        SAMPLES / "damaged_stack_mask.tif",
        mask,
        photometric="minisblack",
        metadata={"axes": "ZYX"},
    )


if __name__ == "__main__":
    main()
