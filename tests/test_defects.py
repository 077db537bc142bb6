"""Damaged micrographs through files: what must survive, and what the fill must achieve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import knitcore as knit
from knitcore.files import read_record, record_path, write_image
from knitcore.harmonic import harmonic_fill

DATA = Path(__file__).parent / "data"
DEFECTS = {Path(e["mask"]).stem: e for e in json.loads((DATA / "defects.json").read_text())}
QUICK = {"steps": 30, "ensemble": 2}


def repair(name, folder, suffix=".tif"):
    """Damage, write, read, repair, write, read back."""
    entry = DEFECTS[name]
    source = knit.read_image(DATA / entry["image"])
    mask = knit.read_mask(DATA / entry["mask"])
    lost = np.broadcast_to(
        (np.asarray(mask.data) != 0).reshape(mask.shape + (1,) * ("S" in source.axes)), source.shape
    )
    pixels = np.asarray(source.data).copy()
    if entry["fill"] is not None:
        pixels[lost] = entry["fill"]
    write_image(replace(source, data=pixels), folder / f"damaged{suffix}")
    result = knit.inpaint(
        knit.read_image(folder / f"damaged{suffix}"), knit.read_mask(DATA / entry["mask"]), **QUICK
    )
    knit.write_result(result, folder / f"repaired{suffix}")
    return source, lost, pixels, result, knit.read_image(folder / f"repaired{suffix}")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("bacteria_dust", ".tif"),  # 16 bit, ImageJ, micrometres
        ("em_scratches_dirt", ".tif"),  # 8 bit, big-endian, nanometres, odd sides
        ("multichannel_dust_hot", ".ome.tif"),  # OME, three named channels, a mask for each
        ("zstack_plane_lines_bubble", ".tif"),  # a whole plane lost; Z spacing of its own
        ("timeseries_frame_lines_cosmic", ".tif"),  # float32, a whole frame lost
        ("ihc_hair_dust", ".png"),  # RGB
    ],
)
def test_repair_keeps_all_but_the_lost_pixels(name, suffix, tmp_path):
    source, lost, damaged, result, back = repair(name, tmp_path, suffix)
    assert back.shape == source.shape
    assert back.dtype == source.dtype.newbyteorder("=")
    assert back.axes == source.axes
    assert back.unit == source.unit
    assert back.channel_names == source.channel_names
    assert back.pixel_size == pytest.approx(source.pixel_size, rel=1e-4)
    pixels = np.asarray(back.data)
    np.testing.assert_array_equal(pixels[~lost], damaged[~lost])
    np.testing.assert_array_equal(pixels, result.image)
    np.testing.assert_array_equal(result.synthesised, lost)
    assert np.isfinite(pixels[lost].astype(float)).all()
    assert (result.std[~lost] == 0).all()
    pixels_lost = lost[..., 0] if "S" in source.axes else lost
    record = read_record(record_path(tmp_path / f"repaired{suffix}"))
    assert record["mask"]["filled"] == pixels_lost.sum()


def test_lost_plane_comes_back_from_its_neighbours(tmp_path):
    source, lost, _, _, back = repair("zstack_plane_lines_bubble", tmp_path)
    truth, pixels = (np.asarray(a.data).astype(float) for a in (source, back))
    (plane,) = np.flatnonzero(lost.all(axis=(1, 2)))
    between = (truth[plane - 1] + truth[plane + 1]) / 2
    error = np.sqrt(np.mean((pixels[plane] - truth[plane]) ** 2))
    assert error < 1.1 * np.sqrt(np.mean((between - truth[plane]) ** 2))
    assert error < 0.5 * truth[plane].std()


def test_scan_lines_are_filled_better_than_by_the_harmonic_surface(tmp_path):
    source, lost, damaged, _, back = repair("nuclear_missing_lines", tmp_path)
    truth = np.asarray(source.data).astype(float)
    smooth = harmonic_fill(damaged[None].astype(float), ~lost[None], lost)[0]

    def error(filled):
        return np.sqrt(np.mean((np.asarray(filled, float)[lost] - truth[lost]) ** 2))

    assert error(back.data) < 0.8 * error(smooth)


def test_real_hot_pixel_leaves_no_trace(tmp_path):
    source, lost, _, _, back = repair("twochannel_hotpixel_real", tmp_path)
    before, after = np.asarray(source.data), np.asarray(back.data)
    for channel in range(2):
        y, x = np.argwhere(lost[channel])[0]
        around = before[channel, y - 2 : y + 3, x - 2 : x + 3][
            ~lost[channel, y - 2 : y + 3, x - 2 : x + 3]
        ]
        assert before[channel, y, x] > 100 * around.max()
        assert around.min() <= after[channel, y, x] <= around.max()
