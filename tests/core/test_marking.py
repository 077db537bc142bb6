"""Masks by what the pixels hold, and masks that grow: `mask_from` and `grow_mask`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knitcore import Image, InputError, as_image, grow_mask, mask_from, read_image, resolve_mask
from knitcore.recipe import Inpaint


def marked(array: object, word: str, axes: str | None = None) -> list[object]:
    return np.argwhere(mask_from(as_image(np.asarray(array), axes), word)[0]).tolist()


GREYS = np.array([[0, 3, 255], [9, 7, 0]], np.uint8)


@pytest.mark.parametrize(
    ("word", "places"),
    [
        ("saturated", [[0, 2]]),
        ("value=0", [[0, 0], [1, 2]]),
        ("above=7", [[0, 2], [1, 0]]),
        ("below=7", [[0, 0], [0, 1], [1, 2]]),
        ("above=-3.5", [[i, j] for i in range(2) for j in range(3)]),
        ("below=1e9", [[i, j] for i in range(2) for j in range(3)]),
    ],
)
def test_pixels_are_marked_by_their_grey_level(word: str, places: list[list[int]]) -> None:
    assert marked(GREYS, word) == places


def test_nan_and_infinite_pixels_are_marked_and_counted() -> None:
    array = np.ones((3, 3), np.float32)
    array[0, 1], array[2, 2] = np.nan, -np.inf
    found, notes = mask_from(as_image(array), "nan")
    assert np.argwhere(found).tolist() == [[0, 1], [2, 2]]
    assert notes[0].text == "image: 2 pixels NaN or infinite"


def test_a_colour_pixel_is_marked_once_and_alpha_is_no_colour() -> None:
    colours = np.zeros((4, 5, 4), np.uint8)
    colours[..., 3] = 255
    colours[1, 2, 1] = 200
    image = Image(colours, "YXS", alpha=True)
    assert np.argwhere(mask_from(image, "above=100")[0]).tolist() == [[1, 2]]


@pytest.mark.parametrize("word", ["above=", "below=much", "above=nan", "bright"])
def test_what_is_no_word_is_told(word: str) -> None:
    with pytest.raises(InputError):
        mask_from(as_image(GREYS), word)


def test_the_real_hot_pixel_is_found_in_both_channels_and_nothing_else(data: Path) -> None:
    image = read_image(data / "twochannel_hotpixel_crop.tif")
    assert np.argwhere(mask_from(image, "hot")[0]).tolist() == [[0, 80, 82], [1, 80, 82]]


@pytest.mark.parametrize(
    "name",
    [
        "fluo_neuron_16bit.tif",
        "em_mitochondria_er_8bit.tif",
        "multichannel_dna_mt_actin_16bit.ome.tif",
        "zstack_nucleus_crop.tif",
        "rgb_ihc_crop.png",
    ],
)
def test_no_hot_pixel_is_seen_in_sound_micrographs(data: Path, name: str) -> None:
    assert not mask_from(read_image(data / name), "hot")[0].any()


def test_hot_and_dead_pixels_are_found_whatever_the_noise_there(rng: np.random.Generator) -> None:
    light = np.linspace(2, 400, 200 * 200).reshape(200, 200)
    image = rng.poisson(light).astype(np.uint16)
    assert marked(image, "hot") == []
    image[10, 10], image[10, 11], image[120, 150], image[190, 5] = 300, 280, 0, 4000
    assert marked(image, "hot") == [[10, 10], [10, 11], [120, 150], [190, 5]]


def test_a_point_of_light_is_no_hot_pixel() -> None:
    y, x = np.mgrid[-20:21, -20:21]
    spot = 1000 * np.exp(-(y**2 + x**2) / 2)
    assert marked((100 + spot).astype(np.float32), "hot") == []


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 3), (2, 2, 5, 5)])
def test_hot_pixels_of_tiny_and_flat_images(shape: tuple[int, ...]) -> None:
    assert marked(np.ones(shape, np.float32), "hot") == []


def test_the_words_serve_as_masks_of_a_run() -> None:
    image = as_image(np.where(np.eye(30), 5000, 100 * np.ones((30, 30))).astype(np.uint16))
    fill, _ = resolve_mask(image, "above=4000", Inpaint())
    np.testing.assert_array_equal(fill, np.eye(30) > 0)


masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((2, 17, 23)) < share,
    st.integers(0, 10**6),
    st.floats(0, 1),
)


@given(masks, st.integers(0, 6))
def test_a_mask_that_grows_holds_all_it_held_and_shrinks_within_itself(
    mask: np.ndarray, pixels: int
) -> None:
    wide, narrow = grow_mask(mask, pixels), grow_mask(mask, -pixels)
    assert (wide | mask == wide).all()
    assert (narrow & mask == narrow).all()
    if mask.any(axis=(1, 2)).all() and not mask.all(axis=(1, 2)).any():
        # to shrink is to let the others grow
        np.testing.assert_array_equal(narrow, ~grow_mask(~mask, pixels))


def test_a_mask_grows_in_its_own_plane_only() -> None:
    mask = np.zeros((3, 9, 9), bool)
    mask[1, 4, 4] = True
    grown = grow_mask(mask, 2)
    assert grown.sum(axis=(1, 2)).tolist() == [0, 13, 0]
    np.testing.assert_array_equal(grow_mask(grown, -2), mask)


@pytest.mark.parametrize("word", ["hot", "above=4000", "below=-3", "nan", "value=0"])
def test_the_words_of_a_run_file_are_no_paths(tmp_path: Path, word: str) -> None:
    from knitcore.run_file import RunFile, Source, load_run, save_run

    file = tmp_path / "night.yaml"
    save_run(RunFile(recipe=Inpaint(), source=Source(images=["scans"], mask=word)), file)
    assert load_run(file).source.mask == word
    assert load_run(file).source.images == [str(tmp_path / "scans")]
