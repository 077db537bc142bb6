"""Source and result coincide in the world, whatever the layer's transform, factor and anchor."""

from __future__ import annotations

from typing import Any

import napari.layers as nl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knit_plugin._layers import take
from knit_plugin._results import enlarged_shape, place_of

size = st.floats(0.05, 20).map(lambda value: round(value, 3))
shift = st.floats(-50, 50).map(lambda value: round(value, 3))
angle = st.floats(-180, 180).map(lambda value: round(value, 2))
factor = st.sampled_from([1.0, 1.5, 2.0, 3.0, 5.0, 7.0])


@st.composite
def places(draw: Any) -> dict[str, Any]:
    """Scale, translate, rotate, shear, affine and units of a 2-D or 3-D layer."""
    ndim = draw(st.sampled_from([2, 3]))
    many = {"min_size": ndim, "max_size": ndim}
    place = {
        "scale": draw(st.lists(size, **many)),
        "translate": draw(st.lists(shift, **many)),
        "rotate": draw(angle) if ndim == 2 else draw(st.tuples(angle, angle, angle)),
        "shear": [round(draw(st.floats(-0.5, 0.5)), 3) for _ in range(ndim * (ndim - 1) // 2)],
        "units": ("um",) * ndim,
        "axis_labels": ("z", "y", "x")[-ndim:],
    }
    if draw(st.booleans()):
        affine = np.eye(ndim + 1)
        affine[:ndim, :ndim] += 0.2 * np.random.default_rng(draw(st.integers(0, 99))).normal(
            size=(ndim, ndim)
        )
        affine[:ndim, ndim] = draw(st.lists(shift, **many))
        place["affine"] = affine
    return place


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")  # it is drawn so, and true in the data
@given(places(), st.lists(factor, min_size=3, max_size=3), st.sampled_from(["centre", "corner"]))
@settings(max_examples=40, deadline=None)
def test_source_and_result_coincide(
    place: dict[str, Any], factors: list[float], anchor: str
) -> None:
    ndim = len(place["scale"])
    grown = tuple(factors[:ndim])
    source = nl.Image(np.zeros((5, 6, 7)[:ndim], np.uint8), **place)
    taken = take(source)
    shape = enlarged_shape(taken, grown)
    result = nl.Image(np.zeros(shape, np.uint8), **place_of(taken, grown, anchor))
    for corner in np.ndindex((2,) * ndim):
        pixel = np.array(corner) * (np.array(shape) - 1)
        over = pixel / grown if anchor == "corner" else (pixel + 0.5) / grown - 0.5
        np.testing.assert_allclose(
            result.data_to_world(pixel), source.data_to_world(over), rtol=1e-6, atol=1e-6
        )
    assert result.units == source.units
    assert result.axis_labels == source.axis_labels


@pytest.mark.parametrize("anchor", ["centre", "corner"])
@pytest.mark.parametrize("scale", [2, 3])
def test_a_bright_pixel_stays_where_it_is_after_a_real_run(anchor: str, scale: int) -> None:
    import knitcore

    y, x = np.mgrid[:24, :26]
    spot = (1000 * np.exp(-((y - 9) ** 2 + (x - 15) ** 2) / 6)).astype(np.float32)
    source = nl.Image(spot, scale=(0.5, 0.2), rotate=25, shear=[0.2], translate=(8, -3))
    taken = take(source)
    found = knitcore.super_resolve(spot, scale, anchor=anchor, kernel="delta", passes=1).image
    result = nl.Image(found, **place_of(taken, (scale, scale), anchor))
    weight = np.maximum(found - 20, 0)
    middle = [
        float((weight * grid).sum() / weight.sum())
        for grid in np.mgrid[: found.shape[0], : found.shape[1]]
    ]
    off = np.array(source.world_to_data(result.data_to_world(middle))) - (9, 15)
    assert np.abs(off).max() < 0.15
