"""Named axes, the fit's layout and the way back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knitcore.axes import (
    Image,
    as_image,
    box_index,
    choose_layout,
    from_canvas,
    plane_numbers,
    to_canvas,
    to_dtype,
)
from knitcore.errors import InputError


@pytest.mark.parametrize(
    ("shape", "axes", "alpha"),
    [
        ((20, 30), "YX", False),
        ((20, 30, 3), "YXS", False),
        ((20, 30, 4), "YXS", True),
        ((20, 30, 2), "YXS", True),
        ((7, 20, 30), "QYX", False),
        ((7, 20, 30, 3), "QYXS", False),
        ((2, 7, 20, 30), "QRYX", False),
    ],
)
def test_guessed_axes(shape, axes, alpha):
    image = as_image(np.zeros(shape))
    assert (image.axes, image.alpha) == (axes, alpha)


@pytest.mark.parametrize("axes", ["YY", "ZY", "YXC", "Y1"])
def test_wrong_axes_are_refused_with_the_image_named(axes):
    with pytest.raises(InputError, match="cells"):
        as_image(np.zeros((5, 5)), axes, name="cells")


def test_one_dimensional_data_is_not_an_image():
    with pytest.raises(InputError, match="at least two"):
        as_image(np.zeros(5))


def layout_of(shape, axes, hole=None, planes="auto", **sizes):
    image = Image(np.zeros(shape), axes, pixel_size=sizes)
    return image, choose_layout(image, np.zeros(shape, bool) if hole is None else hole, planes)


def test_z_is_spatial_time_is_looped_and_channels_are_joint():
    image, layout = layout_of((3, 2, 4, 8, 9), "TCZYX", Z=0.5, Y=0.1, X=0.1)
    assert (layout.planes, layout.channels, layout.spatial) == ((0,), (1,), (2, 3, 4))
    assert layout.step == pytest.approx((5, 1, 1))
    assert len(list(plane_numbers(image, layout))) == 3


def test_a_lost_frame_makes_time_spatial():
    hole = np.zeros((5, 8, 9), bool)
    hole[2] = True
    _, layout = layout_of(hole.shape, "TYX", hole)
    assert layout.spatial == (0, 1, 2)
    assert layout.planes == ()


def test_four_spatial_axes_are_refused_with_a_way_out():
    with pytest.raises(InputError, match="planes='T'"):
        layout_of((3, 4, 8, 9), "TZYX", planes="none")


def test_planes_must_exist():
    with pytest.raises(InputError, match="planes='Q'"):
        layout_of((4, 8, 9), "ZYX", planes="Q")


@given(
    axes=st.permutations("TCZYX").map("".join),
    planes=st.sampled_from(["auto", "TZ", "T"]),
)
def test_canvas_and_back_is_the_identity(axes, planes):
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}
    shape = tuple(sizes[a] for a in axes)
    data = np.arange(np.prod(shape)).reshape(shape)
    image = Image(data, axes)
    layout = choose_layout(image, np.zeros(shape, bool), planes)
    rebuilt = np.zeros_like(data)
    for plane in plane_numbers(image, layout):
        box = tuple(slice(0, shape[a]) for a in layout.spatial)
        index = box_index(image, layout, plane, box)
        canvas = to_canvas(data[index], layout)
        assert canvas.shape[0] == 3
        rebuilt[index] = from_canvas(canvas, data[index].shape, layout)
    np.testing.assert_array_equal(rebuilt, data)


def test_alpha_is_not_a_channel_of_the_fit():
    data = np.zeros((5, 6, 4), np.uint8)
    image = as_image(data)
    layout = choose_layout(image, np.zeros(data.shape, bool), "auto")
    index = box_index(image, layout, (), (slice(0, 5), slice(0, 6)))
    assert to_canvas(data[index], layout).shape == (3, 5, 6)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64"])
def test_integers_are_rounded_and_clipped(dtype):
    limits = np.iinfo(dtype)
    values = np.array([-1e30, 0.4, 0.6, 1e30])
    found = to_dtype(values, np.dtype(dtype))
    assert found.tolist()[1:3] == [0, 1]
    assert found[0] == limits.min
    assert found[3] > limits.max * 0.999
    assert found.dtype == dtype


def test_half_precision_does_not_overflow():
    assert np.isfinite(to_dtype(np.array([1e9]), np.dtype("float16"))).all()
