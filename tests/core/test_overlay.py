"""An array that is not in memory, with boxes of it replaced: it reads like one that is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

import knitcore
from knitcore.overlay import Overlay

SHAPE = (3, 7, 5)


class Lazy:
    """A stack that notes which of its planes are read."""

    def __init__(self, stack: np.ndarray) -> None:
        self.stack, self.shape, self.dtype = stack, stack.shape, stack.dtype
        self.read: list[Any] = []

    def __getitem__(self, index: Any) -> np.ndarray:
        self.read.append(index)
        return self.stack[index]


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(st.tuples(basic_indices(SHAPE, allow_newaxis=False), st.integers(0, 99))),
    look=basic_indices(SHAPE, allow_newaxis=False),
    inner=st.integers(1, 3),
)
def test_it_reads_and_writes_like_an_array(writes: list[Any], look: Any, inner: int) -> None:
    plain = np.arange(105, dtype=np.int16).reshape(SHAPE)
    source = plain.copy()
    over = Overlay(source, inner)
    for index, value in writes:
        values = value + np.arange(plain[index].size).reshape(plain[index].shape)
        steps = [s for s in (index if isinstance(index, tuple) else (index,))]
        if any(isinstance(s, slice) and s.step not in (None, 1) for s in steps):
            continue  # boxes only
        plain[index] = values
        over[index] = values
    np.testing.assert_array_equal(over[look], plain[look])
    np.testing.assert_array_equal(np.asarray(over), plain)
    np.testing.assert_array_equal(source, np.arange(105).reshape(SHAPE))  # never changed


def stack_and_hole() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:40, :48]
    plane = (1000 + 10 * y + 5 * x + 200 * np.sin(x / 5)).astype(np.uint16)
    stack = np.stack([plane + 9 * i for i in range(6)])
    hole = np.zeros(stack.shape, bool)
    hole[2, 10:20, 10:20] = hole[4, 3:6, 30:40] = True
    return stack, hole


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_a_lazy_stack_is_filled_with_the_same_pixels(axes: str) -> None:
    stack, hole = stack_and_hole()
    told = {"steps": 3, "knit_depth": 0, "margin": 8}
    over = Overlay(Lazy(stack))
    lazy = knitcore.inpaint(knitcore.Image(over, axes), hole, **told)
    plain = knitcore.inpaint(knitcore.Image(stack, axes), hole, **told)
    np.testing.assert_array_equal(np.asarray(lazy.image), plain.image)
    np.testing.assert_array_equal(lazy.std, plain.std)
    assert lazy.record["image"]["sha256"] is None


def test_planes_without_a_hole_are_not_read() -> None:
    stack, hole = stack_and_hole()
    source = Lazy(stack)
    result = knitcore.inpaint(knitcore.Image(Overlay(source), "TYX"), hole, steps=3)
    assert source.read == [(2,), (4,)]
    np.testing.assert_array_equal(result.image[5], stack[5])
    assert source.read[-1] == (5,)  # now it is


def test_a_source_that_has_gone_is_named() -> None:
    class Gone(Lazy):
        def __getitem__(self, index: Any) -> np.ndarray:
            raise OSError("scan_007.tif is gone")

    with pytest.raises(knitcore.FileError, match="the scan: its data cannot be read"):
        Overlay(Gone(np.zeros(SHAPE)), name="the scan")[0]


def test_a_box_that_was_written_is_read_without_the_source() -> None:
    """Regions of several planes are shown in turn: none of these planes is read again for that."""
    over = Overlay(np.zeros((3, 8, 8), np.uint8))
    over[1, 2:5, 2:5] = 7
    over[1, 4:6, 4:6] = 9
    over.source = None
    assert over[1, 2:5, 2:5].tolist() == [[7, 7, 7], [7, 7, 7], [7, 7, 9]]
