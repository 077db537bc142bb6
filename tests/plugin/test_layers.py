"""From napari layers to the core: axes, world coordinates, and what is refused."""

from __future__ import annotations

import threading
from dataclasses import replace

import dask.array
import napari.layers as nl
import numpy as np
import pytest

from knit_plugin._layers import (
    axis_letters,
    core_image,
    core_mask,
    labels_on_grid,
    memory_needed,
    points_on_grid,
    read,
    refuse_unfit,
    shapes_on_grid,
    take,
)
from knitcore import Cancelled, InputError, Note, Progress, drain, resolve_mask
from knitcore.errors import FileError
from knitcore.recipe import Inpaint


def image_layer(shape: tuple[int, ...] = (4, 5), **options: object) -> nl.Image:
    return nl.Image(np.zeros(shape, np.uint8), name="cells", **options)


def on_grid(mask: nl.Labels, image: nl.Image) -> np.ndarray:
    taken = take(mask)
    return labels_on_grid(taken, take(image), taken.data)[0]


# axes, pixel size and unit


@pytest.mark.parametrize(
    ("labels", "letters"),
    [
        (("-2", "-1"), "YX"),
        (("-3", "-2", "-1"), "QYX"),
        (("z", "y", "x"), "ZYX"),
        (("Time", "Z", "Y", "X"), "TZYX"),
        (("channel", "row", "column"), "CYX"),
        (("y", "x", "z"), "YXZ"),
        (("a", "b", "y", "x"), "QRYX"),
        (("z", "z", "y", "x"), "ZQYX"),
        (("x", "a", "b"), "QYX"),
    ],
)
def test_axis_labels_become_the_cores_letters(labels: tuple[str, ...], letters: str) -> None:
    assert axis_letters(labels) == letters


def test_scale_and_units_become_the_pixel_size() -> None:
    layer = image_layer(
        (3, 4, 5), scale=(2, 0.5, 0.25), units=("s", "um", "um"), axis_labels=("t", "y", "x")
    )
    taken = take(layer)
    image = core_image(taken, taken.data)
    assert image.axes == "TYX"
    assert image.pixel_size == {"T": 2.0, "Y": 0.5, "X": 0.25}
    assert image.unit == {"T": "second", "Y": "micrometer", "X": "micrometer"}
    assert image.name == "cells"


def test_a_layer_without_scale_has_no_pixel_size() -> None:
    taken = take(image_layer())
    image = core_image(taken, taken.data)
    assert image.pixel_size == {}
    assert image.unit == {}


def test_an_rgb_layer_gets_a_samples_axis_and_rgba_its_alpha() -> None:
    for samples, alpha in [(3, False), (4, True)]:
        taken = take(nl.Image(np.zeros((6, 7, samples), np.uint8), rgb=True))
        image = core_image(taken, taken.data)
        assert image.axes == "YXS"
        assert image.alpha is alpha


# reading


def test_the_run_works_on_its_own_copy() -> None:
    layer = image_layer()
    taken = take(layer)
    layer.data[:] = 9
    assert not drain(read(taken)).any()


def test_a_lazy_layer_is_computed_piece_by_piece_and_can_be_cancelled() -> None:
    array = np.arange(64 * 600 * 600, dtype=np.uint16).reshape(64, 600, 600)
    taken = take(nl.Image(dask.array.from_array(array, chunks=(10, 600, 600))))
    events: list[object] = []
    np.testing.assert_array_equal(drain(read(taken), events.append), array)
    assert len(events) > 1
    assert all(isinstance(event, Progress) for event in events)

    stop = threading.Event()
    with pytest.raises(Cancelled):
        drain(read(taken, stop), lambda event: stop.set())


def test_a_lazy_layer_that_cannot_be_read_is_named() -> None:
    def vanish(block: np.ndarray) -> np.ndarray:
        if block.size:
            raise FileNotFoundError("scan_007.tif is gone")
        return block

    broken = dask.array.zeros((4, 5), dtype=np.uint8).map_blocks(vanish, dtype=np.uint8)
    taken = replace(take(image_layer()), data=broken)
    with pytest.raises(FileError, match=r"layer 'cells'.*scan_007\.tif is gone"):
        drain(read(taken))


def test_of_a_multiscale_layer_level_0_counts() -> None:
    levels = [np.ones((8, 10), np.uint8), np.ones((4, 5), np.uint8)]
    taken = take(nl.Image(levels, multiscale=True, scale=(0.5, 0.5)))
    assert drain(read(taken)).shape == taken.shape == (8, 10)
    np.testing.assert_allclose(np.diag(taken.matrix), (0.5, 0.5, 1))


def test_memory_is_told_in_bytes() -> None:
    assert memory_needed(take(image_layer((10, 10)))) == 100 * (3 + 4 + 1)


# the mask in world coordinates


def test_a_mask_on_the_same_grid_is_taken_as_it_is() -> None:
    labels = np.zeros((4, 5), np.int32)
    labels[1, 2] = 3
    place = {"scale": (0.5, 0.5), "translate": (7, -3), "rotate": 30}
    np.testing.assert_array_equal(on_grid(nl.Labels(labels, **place), image_layer(**place)), labels)


def test_a_shifted_mask_is_moved_and_what_lies_outside_is_told() -> None:
    labels = np.zeros((4, 5), np.int32)
    labels[0, 0] = labels[3, 4] = 1
    mask, image = take(nl.Labels(labels, name="dust", translate=(1, 0))), take(image_layer())
    moved, notes = labels_on_grid(mask, image, labels)
    assert list(zip(*np.nonzero(moved), strict=True)) == [(1, 0)]
    assert notes == [
        Note(
            "50 % of mask layer 'dust' lies outside the image and is ignored; if that is wrong, "
            "give both layers the same scale and translate",
            "warning",
        )
    ]


def test_a_coarser_mask_covers_whole_blocks_of_pixels() -> None:
    # one mask pixel reaches from world -0.5 to 1.5: image rows 0 and 1
    labels = np.array([[1, 0], [0, 2]], np.int32)
    mask = nl.Labels(labels, scale=(2, 2), translate=(0.5, 0.5))
    np.testing.assert_array_equal(
        on_grid(mask, image_layer((4, 4))), np.kron(labels, np.ones((2, 2)))
    )


def test_a_flipped_mask_is_flipped_back() -> None:
    labels = np.arange(20, dtype=np.int32).reshape(4, 5)
    mask = nl.Labels(labels, scale=(-1, 1), translate=(3, 0))
    np.testing.assert_array_equal(on_grid(mask, image_layer()), labels[::-1])


def test_units_that_can_be_converted_are() -> None:
    labels = np.arange(20, dtype=np.int32).reshape(4, 5)
    mask = nl.Labels(labels, scale=(160, 160), units=("nm", "nm"))
    image = image_layer(scale=(0.16, 0.16), units=("um", "um"))
    np.testing.assert_array_equal(on_grid(mask, image), labels)


@pytest.mark.parametrize(
    "turn", [{"rotate": 10}, {"shear": [0.3]}, {"affine": [[0, 1, 0], [1, 0, 0], [0, 0, 1]]}]
)
def test_labels_rotated_against_the_image_are_refused(turn: dict[str, object]) -> None:
    mask = nl.Labels(np.ones((40, 50), np.int32), name="dust", **turn)
    with pytest.raises(InputError, match=r"'dust' is rotated or sheared against .* 'cells'"):
        refuse_unfit(take(mask), take(image_layer((40, 50))))


def test_a_plane_serves_a_whole_stack_and_a_painted_plane_is_told() -> None:
    stack = image_layer((3, 4, 5))
    taken = take(stack)
    plane = np.zeros((4, 5), np.int32)
    plane[1, 1] = 1
    fill, _ = resolve_mask(
        core_image(taken, taken.data), drain(core_mask(take(nl.Labels(plane)), taken)), Inpaint()
    )
    assert fill.sum(axis=(1, 2)).tolist() == [1, 1, 1]

    one_of_three = np.stack([0 * plane, plane, 0 * plane])
    notes: list[object] = []
    mask = drain(core_mask(take(nl.Labels(one_of_three)), taken), notes.append)
    assert notes == [Note("the mask covers 1 of 3 planes; the others stay as they are")]
    fill, _ = resolve_mask(core_image(taken, taken.data), mask, Inpaint())
    assert fill.sum(axis=(1, 2)).tolist() == [0, 1, 0]


def test_a_mask_with_more_dimensions_is_refused() -> None:
    with pytest.raises(InputError, match="3 dimensions, image layer 'cells' has 2"):
        refuse_unfit(take(nl.Labels(np.ones((3, 4, 5), np.int32))), take(image_layer()))


def test_vectors_are_refused_with_what_to_use() -> None:
    with pytest.raises(
        InputError, match=r"'flow' is a Vectors layer.*use Labels, Shapes or Points"
    ):
        refuse_unfit(take(nl.Vectors(np.ones((1, 2, 2)), name="flow")), take(image_layer()))


# shapes


def test_shapes_are_drawn_as_napari_draws_them() -> None:
    layer = nl.Shapes(
        [[[1, 1], [1, 4], [3, 4], [3, 1]], [[6, 6], [6, 14], [12, 14], [12, 6]]],
        shape_type=["rectangle", "ellipse"],
    )
    drawn = shapes_on_grid(take(layer), take(image_layer((16, 16))))
    np.testing.assert_array_equal(drawn, layer.to_labels((16, 16)))
    assert set(np.unique(drawn)) == {0, 1, 2}


def test_shapes_lie_where_they_are_seen() -> None:
    corners = np.array([[1, 1], [1, 4], [3, 4], [3, 1]])
    plain = shapes_on_grid(
        take(nl.Shapes([corners], shape_type="polygon")), take(image_layer((10, 12)))
    )
    # the same polygon drawn in µm over a calibrated, turned image
    place = {"scale": (0.2, 0.2), "rotate": 35, "translate": (3, 4), "units": ("um", "um")}
    image = image_layer((10, 12), **place)
    world = np.array([image.data_to_world(corner) for corner in corners])
    seen = nl.Shapes([world], shape_type="polygon", units=("um", "um"))
    np.testing.assert_array_equal(shapes_on_grid(take(seen), take(image)), plain)


def test_a_path_is_as_wide_as_its_edge() -> None:
    path = nl.Shapes([[[10, 2], [10, 17]]], shape_type="line", edge_width=5)
    drawn = shapes_on_grid(take(path), take(image_layer((20, 20)))) > 0
    assert drawn[:, 10].sum() == 5
    # in an image of half the pixel size it covers twice as many
    fine = shapes_on_grid(take(path), take(image_layer((40, 40), scale=(0.5, 0.5)))) > 0
    assert fine[:, 20].sum() in (9, 10, 11)


def test_shapes_of_a_stack_stay_in_their_planes() -> None:
    square = [[2, 1, 1], [2, 1, 3], [2, 3, 3], [2, 3, 1]]
    drawn = shapes_on_grid(
        take(nl.Shapes([square], shape_type="polygon")), take(image_layer((4, 6, 6)))
    )
    assert [bool(plane.any()) for plane in drawn] == [False, False, True, False]


def test_shapes_outside_the_image_draw_nothing() -> None:
    layer = nl.Shapes([[[90, 90], [90, 95], [95, 95], [95, 90]]], shape_type="rectangle")
    assert not shapes_on_grid(take(layer), take(image_layer())).any()


# points


def test_points_are_discs_of_their_size_and_one_pixel_at_least() -> None:
    points = nl.Points([[10, 10], [3, 15]], size=[7, 0.1])
    drawn = points_on_grid(take(points), take(image_layer((20, 20))))
    y, x = np.mgrid[:20, :20]
    np.testing.assert_array_equal(drawn == 1, np.hypot(y - 10, x - 10) <= 3.5)
    assert np.argwhere(drawn == 2).tolist() == [[3, 15]]


def test_points_lie_where_they_are_seen() -> None:
    plain = points_on_grid(take(nl.Points([[6, 5]], size=4)), take(image_layer((16, 12))))
    place = {"scale": (0.2, 0.2), "rotate": 35, "translate": (3, 4), "units": ("um", "um")}
    image = image_layer((16, 12), **place)
    seen = nl.Points([image.data_to_world((6, 5))], size=0.8, units=("um", "um"))
    np.testing.assert_array_equal(points_on_grid(take(seen), take(image)), plain)
    # anisotropic pixels: a disc in the world is an ellipse of pixels
    wide = image_layer((16, 12), scale=(1, 2))
    ellipse = points_on_grid(take(nl.Points([[8, 12]], size=8)), take(wide)) > 0
    assert ellipse[:, 6].sum() == 9
    assert ellipse[8].sum() == 5


def test_points_of_a_stack_stay_in_their_planes_and_in_the_image() -> None:
    points = nl.Points([[2, 3, 3], [9, 3, 3], [0, -50, 3], [1, 5, 8]], size=3)
    drawn = points_on_grid(take(points), take(image_layer((4, 6, 6))))
    assert [sorted(np.unique(plane)) for plane in drawn] == [[0], [0], [0, 1], [0]]
    touching = points_on_grid(take(nl.Points([[-1, 2]], size=4)), take(image_layer((6, 6))))
    assert touching[0].any()
    assert not touching[2].any()
