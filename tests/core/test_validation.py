"""Held-out holes tell the error of a fill, and never make one up."""

import json
import threading

import numpy as np
import pytest

import knitcore as knit

QUICK = {"steps": 30, "ensemble": 2}


def bacteria(request):
    path = request.config.rootpath / "tests/data/fluo_bacteria_crop.tif"
    return np.asarray(knit.read_image(path).data)


@pytest.fixture(scope="module")
def truth(request):
    return bacteria(request)[:160, :160]


def discs(shape, *centres, radius=9):
    y, x = np.indices(shape)
    return np.any([(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres], axis=0)


def test_the_figures_are_there_and_no_pixel_changes(truth):
    mask = discs(truth.shape, (70, 70))
    plain = knit.inpaint(np.where(mask, 0, truth), mask, **QUICK)
    result = knit.inpaint(np.where(mask, 0, truth), mask, validation=True, **QUICK)
    np.testing.assert_array_equal(plain.image, result.image)
    np.testing.assert_array_equal(plain.std, result.std)
    assert "validation" not in plain.record
    told = result.record["validation"]
    assert 1 <= told["holes"] <= 6
    assert len(told["rmse_of_holes"]) == told["holes"]
    assert 0 < told["mae"] <= told["rmse"]
    assert 0 <= told["within_2_std"] <= 1
    json.dumps(result.record, allow_nan=False)
    again = knit.inpaint(np.where(mask, 0, truth), mask, validation=True, **QUICK)
    assert again.record["validation"] == told


def test_what_lies_under_the_mask_is_never_looked_at(truth):
    """Truth or nonsense in the hole: the same places, the same figures."""
    mask = discs(truth.shape, (70, 70))
    one = knit.inpaint(truth, mask, validation=True, **QUICK)
    other = knit.inpaint(np.where(mask, 60000, truth), mask, validation=True, **QUICK)
    assert one.record["validation"] == other.record["validation"]


@pytest.mark.parametrize(
    "name", ["ihc_hair_dust", "nuclear_dead_pixels", "zstack_plane_lines_bubble"]
)
def test_the_expected_error_is_near_the_true_one(name, request):
    data = request.config.rootpath / "tests/data"
    entry = next(
        e for e in json.loads((data / "defects.json").read_text()) if e["mask"].startswith(name)
    )
    image = knit.read_image(data / entry["image"])
    result = knit.inpaint(image, knit.read_mask(data / entry["mask"]), validation=True, **QUICK)
    error = result.image.astype(float) - np.asarray(image.data).astype(float)
    true = np.sqrt(np.mean(error[result.synthesised] ** 2))
    assert true / 2 < result.record["validation"]["rmse"] < true * 2


@pytest.mark.parametrize(
    ("axes", "dtype"), [("CYX", "uint16"), ("YXS", "uint8"), ("TYX", "float32")]
)
def test_channels_colours_and_frames(truth, axes, dtype):
    scaled = truth / truth.max() * 250
    image = np.stack([scaled, scaled[::-1], scaled.T], -1 if axes == "YXS" else 0).astype(dtype)
    mask = discs(truth.shape, (60, 60), (110, 100), radius=4)
    told = knit.inpaint(image, mask, axes=axes, validation=True, **QUICK).record["validation"]
    assert 0 < told["rmse"] < 120
    assert len(told.get("rmse_of_channels", [])) == (0 if axes == "TYX" else 3)


def test_no_place_no_figure(truth):
    mask = np.zeros(truth.shape, bool)
    mask[20:140, 20:140] = True
    result = knit.inpaint(truth, mask, validation=True, **QUICK)
    assert result.record["validation"] is None
    assert any("no figure" in note["text"] for note in result.record["notes"])


def test_a_dead_row_is_moved_along_the_image(truth):
    mask = np.zeros(truth.shape, bool)
    mask[80:82] = True
    assert knit.inpaint(truth, mask, validation=True).record["validation"]["holes"] > 3


def test_cancelling_among_the_held_out_holes(truth):
    stop = threading.Event()

    def on_event(event):
        if getattr(event, "stage", "").startswith("held-out hole 2"):
            stop.set()

    with pytest.raises(knit.Cancelled):
        knit.inpaint(
            truth,
            discs(truth.shape, (70, 70)),
            validation=True,
            on_event=on_event,
            cancel=stop,
            **QUICK,
        )


def test_progress_never_falls(truth):
    seen = []
    knit.inpaint(
        truth,
        discs(truth.shape, (70, 70)),
        validation=True,
        on_event=lambda event: seen.append(getattr(event, "fraction", seen[-1] if seen else 0)),
        **QUICK,
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1
