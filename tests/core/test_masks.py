"""Masks: what users have, and the pixels it means."""

import numpy as np
import pytest

from knitcore.axes import Image, as_image
from knitcore.errors import InputError
from knitcore.masks import resolve_mask
from knitcore.recipe import Inpaint

DEFAULT = Inpaint()


def texts(notes):
    return " | ".join(note.text for note in notes)


@pytest.fixture
def grey():
    return Image(np.arange(20, dtype=np.uint8).reshape(4, 5), "YX", name="cells.tif")


@pytest.fixture
def hole():
    hole = np.zeros((4, 5), bool)
    hole[1:3, 2] = True
    return hole


@pytest.mark.parametrize("high", [True, 1, 255, 65535, 2.0, -1])
def test_any_non_zero_value_means_fill(grey, hole, high):
    fill, notes = resolve_mask(grey, np.where(hole, high, type(high)(0)), DEFAULT)
    assert fill.dtype == bool
    assert (fill == hole).all()
    assert not notes


def test_several_labels_all_count_and_one_can_be_chosen(grey):
    labels = np.zeros((4, 5), np.uint16)
    labels[0, 0], labels[2, 2], labels[3, 4] = 1, 2, 7
    assert resolve_mask(grey, labels, DEFAULT)[0].sum() == 3
    only = resolve_mask(grey, labels, Inpaint(mask_label=7))[0]
    assert np.argwhere(only).tolist() == [[3, 4]]
    with pytest.raises(InputError, match="no label 3 in the mask; it holds 1, 2, 7"):
        resolve_mask(grey, labels, Inpaint(mask_label=3))


def test_an_inverted_mask(grey, hole):
    fill, _ = resolve_mask(grey, ~hole, Inpaint(invert_mask=True))
    assert (fill == hole).all()


def test_two_values_without_zero_are_ambiguous(grey, hole):
    with pytest.raises(InputError, match="values are 1 and 2 and neither is 0"):
        resolve_mask(grey, np.where(hole, 2, 1), DEFAULT)
    fill, _ = resolve_mask(grey, np.where(hole, 2, 1), Inpaint(mask_label=2))
    assert (fill == hole).all()


def test_soft_masks_are_refused(grey, hole):
    with pytest.raises(InputError, match="between 0 and 1"):
        resolve_mask(grey, np.where(hole, 0.7, 0), DEFAULT)
    with pytest.raises(InputError, match="NaN"):
        resolve_mask(grey, np.where(hole, np.nan, 0), DEFAULT)
    assert (resolve_mask(grey, hole.astype(np.float32), DEFAULT)[0] == hole).all()


def test_an_empty_mask_leaves_an_empty_hole(grey):
    fill, notes = resolve_mask(grey, np.zeros((4, 5)), DEFAULT)
    assert not fill.any()
    assert "nothing to fill" in texts(notes)


def test_a_mask_over_everything_is_refused(grey):
    with pytest.raises(InputError, match="no known pixel left"):
        resolve_mask(grey, np.ones((4, 5)), DEFAULT)


def test_a_mask_over_most_of_the_image_is_warned_of(grey, hole):
    _, notes = resolve_mask(grey, ~hole, DEFAULT)
    assert [note.level for note in notes] == ["warning"]
    assert "90 %" in notes[0].text
    assert "--invert-mask" in notes[0].text


def test_one_whole_plane_or_channel_may_be_lost():
    stack = Image(np.zeros((3, 4, 5), np.uint8), "ZYX")
    lost = np.zeros((3, 4, 5), bool)
    lost[1] = True
    assert (resolve_mask(stack, lost, DEFAULT)[0] == lost).all()


def test_a_mask_of_the_wrong_size_is_refused_with_both_sizes(grey):
    with pytest.raises(InputError, match=r"mask is 6 x 6, the image cells.tif is 4 x 5"):
        resolve_mask(grey, np.ones((6, 6)), DEFAULT)
    with pytest.raises(InputError, match="look swapped"):
        resolve_mask(grey, np.ones((5, 4)), DEFAULT)


# Stacks and channels


def test_a_flat_mask_serves_each_plane_of_a_stack(hole):
    stack = Image(np.zeros((3, 2, 4, 5), np.uint16), "TZYX")
    fill, notes = resolve_mask(stack, hole, DEFAULT)
    assert (fill == hole).all()
    assert "applied to each of 6 planes" in texts(notes)


def test_a_mask_without_channels_serves_all_of_them():
    volume = Image(np.zeros((2, 3, 4, 5), np.uint16), "CZYX")
    hole = np.zeros((3, 4, 5), bool)
    hole[1, 2, 2] = True
    fill, notes = resolve_mask(volume, hole, DEFAULT)
    assert (fill[0] == hole).all()
    assert (fill[1] == hole).all()
    assert "all 2 channels" in texts(notes)


def test_each_channel_may_have_its_own_hole():
    channels = Image(np.zeros((2, 4, 5), np.uint16), "CYX")
    own = np.zeros((2, 4, 5), bool)
    own[0, 1, 1] = own[1, 3, 3] = True
    assert (resolve_mask(channels, own, DEFAULT)[0] == own).all()


def test_a_mask_without_time_is_repeated_over_time():
    movie = Image(np.zeros((7, 3, 4, 5)), "TZYX")
    hole = np.zeros((3, 4, 5), bool)
    hole[2, 1, 1] = True
    fill, _ = resolve_mask(movie, hole, DEFAULT)
    assert all((frame == hole).all() for frame in fill)


def test_named_axes_decide_where_sizes_could_not():
    volume = Image(np.zeros((3, 3, 4, 5)), "TZYX")
    hole = np.zeros((3, 4, 5), bool)
    hole[0, 1, 1] = True
    with pytest.raises(InputError):  # T or Z?
        resolve_mask(volume, hole, DEFAULT)
    by_time, _ = resolve_mask(volume, Image(hole, "TYX"), DEFAULT)
    assert np.argwhere(by_time)[:, 0].tolist() == [0, 0, 0]
    by_depth, _ = resolve_mask(volume, Image(hole, "ZYX"), DEFAULT)
    assert np.argwhere(by_depth)[:, 1].tolist() == [0, 0, 0]


def test_axes_in_another_order_are_turned(hole):
    turned = Image(np.zeros((5, 4)), "XY")
    fill, _ = resolve_mask(turned, Image(hole, "YX"), DEFAULT)
    assert (fill == hole.T).all()


def test_axes_of_length_one_do_not_matter(grey, hole):
    assert (resolve_mask(grey, hole[None], DEFAULT)[0] == hole).all()
    assert (resolve_mask(grey, Image(hole[None], "QYX"), DEFAULT)[0] == hole).all()


# Colour


@pytest.fixture
def rgba():
    pixels = np.full((4, 5, 4), 9, np.uint8)
    pixels[0, 0, 3] = 0
    return as_image(pixels, "YXS")


def test_all_colours_share_a_hole_and_alpha_is_never_filled(rgba, hole):
    fill, notes = resolve_mask(rgba, hole, DEFAULT)
    assert (fill[..., :3] == hole[..., None]).all()
    assert not fill[..., 3].any()
    assert not notes


def test_black_and_white_stored_as_colour_is_a_mask(rgba, grey, hole):
    white = np.repeat(np.where(hole, 255, 0)[..., None], 3, axis=-1).astype(np.uint8)
    opaque = np.concatenate([white, np.full((4, 5, 1), 255, np.uint8)], axis=-1)
    for mask in (white, opaque):
        for image in (rgba, grey):
            fill, _ = resolve_mask(image, as_image(mask, "YXS"), DEFAULT)
            assert (fill.reshape(4, 5, -1)[..., 0] == hole).all()


def test_coloured_and_transparent_masks_are_refused(rgba, hole):
    red = np.zeros((4, 5, 3), np.uint8)
    red[hole, 0] = 255
    with pytest.raises(InputError, match="colour mask"):
        resolve_mask(rgba, as_image(red, "YXS"), DEFAULT)
    clear = np.zeros((4, 5, 4), np.uint8)
    clear[hole] = 255
    with pytest.raises(InputError, match="transparency"):
        resolve_mask(rgba, as_image(clear, "YXS"), DEFAULT)


# Words


def test_saturated_pixels(grey):
    pixels = np.array([[255, 1], [2, 3]], np.uint8)
    fill, notes = resolve_mask(as_image(pixels, "YX"), "saturated", DEFAULT)
    assert (fill == (pixels == 255)).all()
    assert "1 pixel saturated (at 255)" in texts(notes)
    fill, notes = resolve_mask(grey, "saturated", DEFAULT)
    assert not fill.any()
    assert "mark that value (--mask value=19)" in texts(notes)
    with pytest.raises(InputError, match="no saturation level"):
        resolve_mask(as_image(np.zeros((4, 5))), "saturated", DEFAULT)


def test_saturated_pixels_can_join_a_mask(hole):
    pixels = np.zeros((4, 5), np.uint16)
    pixels[0, 0] = 65535
    fill, _ = resolve_mask(as_image(pixels), hole, Inpaint(saturated_as_hole=True))
    assert fill.sum() == hole.sum() + 1


@pytest.mark.parametrize(("word", "count"), [("value=0", 1), ("value=7", 1), ("value=-1", 0)])
def test_pixels_of_one_value(grey, word, count):
    assert resolve_mask(grey, word, DEFAULT)[0].sum() == count


def test_a_value_in_colour_means_all_samples(rgba):
    rgba.data[1, 1, :3] = 0
    rgba.data[2, 2, 0] = 0
    fill, _ = resolve_mask(rgba, "value=0", DEFAULT)
    assert np.argwhere(fill[..., 0]).tolist() == [[1, 1]]


def test_transparent_pixels(rgba, grey):
    for fill, _ in (
        resolve_mask(rgba, "alpha", DEFAULT),
        resolve_mask(rgba, None, Inpaint(alpha_channel="mask")),
    ):
        assert np.argwhere(fill).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]
    with pytest.raises(InputError, match="no alpha channel"):
        resolve_mask(grey, "alpha", DEFAULT)


@pytest.mark.parametrize("mask", [None, "nan"])
def test_nan_and_infinity_are_always_filled(mask):
    pixels = np.ones((2, 4, 5), np.float32)
    pixels[0, 1, 1], pixels[1, 2, 2] = np.nan, -np.inf
    fill, notes = resolve_mask(as_image(pixels), mask, DEFAULT)
    assert (fill == ~np.isfinite(pixels)).all()
    assert "2 NaN or infinite pixels are filled" in texts(notes)


def test_nan_joins_any_mask(hole):
    pixels = np.ones((4, 5))
    pixels[0, 0] = np.nan
    fill, notes = resolve_mask(as_image(pixels), hole, DEFAULT)
    assert fill.sum() == hole.sum() + 1
    assert "1 NaN or infinite pixel is filled too" in texts(notes)


def test_words_that_mean_nothing(grey):
    with pytest.raises(InputError, match="unknown mask word 'dark'"):
        resolve_mask(grey, "dark", DEFAULT)
    with pytest.raises(InputError, match="number after the equals sign"):
        resolve_mask(grey, "value=black", DEFAULT)
    with pytest.raises(InputError, match="invert_mask needs a mask image"):
        resolve_mask(grey, "nan", Inpaint(invert_mask=True))


# Images that cannot be filled


@pytest.mark.parametrize("dtype", [np.complex64, object, "datetime64[s]"])
def test_only_real_numbers_are_filled(dtype):
    with pytest.raises(InputError, match=r"complex numbers|not an image"):
        resolve_mask(Image(np.zeros((4, 5), dtype), "YX"), np.eye(4, 5), DEFAULT)
