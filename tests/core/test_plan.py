"""Which pixels are filled together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from knitcore.plan import make_regions
from knitcore.recipe import make_recipe

FAST = make_recipe()


def hole_of(shape, *boxes):
    hole = np.zeros(shape, bool)
    for box in boxes:
        hole[box] = True
    return hole


def test_a_square_hole_is_one_deep_region_with_its_margin():
    hole = hole_of((200, 200), (slice(80, 120), slice(90, 130)))
    (region,), deep = make_regions(hole, FAST)
    assert region.deep
    assert region.inner == (slice(80, 120), slice(90, 130))
    margin = max(FAST.margin, FAST.margin_factor * region.depth)
    assert region.box == tuple(
        slice(int(s.start - margin), int(s.stop + margin)) for s in region.inner
    )
    assert (deep == hole).all()


def test_thin_scratches_and_dead_pixels_are_shallow():
    hole = hole_of((100, 300), (50, slice(None)), (slice(None), 17), (10, 10))
    regions, deep = make_regions(hole, FAST)
    assert not deep.any()
    assert not any(r.deep for r in regions)


def test_the_image_border_does_not_end_a_hole():
    hole = hole_of((60, 60), (slice(0, 8), slice(0, 8)))
    (region,), _ = make_regions(hole, FAST)
    assert region.depth > 7
    assert region.box[0].start == 0


def test_near_holes_are_fitted_together_and_far_ones_apart():
    near = hole_of((400, 400), (slice(50, 70), slice(50, 70)), (slice(50, 70), slice(75, 95)))
    assert len(make_regions(near, FAST)[0]) == 1
    far = hole_of((400, 400), (slice(50, 70), slice(50, 70)), (slice(300, 320), slice(300, 320)))
    assert len(make_regions(far, FAST)[0]) == 2


def test_a_lost_tile_is_not_cut_along_the_seams_it_hangs_on():
    """Mosaic tile 96x128 with 3-pixel seams through the whole image: one piece, and lines."""
    tile = (slice(180, 276), slice(150, 278))
    seams = ((slice(180, 183), slice(0, 512)), (slice(0, 512), slice(150, 153)))
    hole = hole_of((512, 512), tile, *seams)
    regions, deep = make_regions(hole, FAST)
    (region,) = [r for r in regions if r.deep]
    assert (hole & ~deep)[tile].sum() < 0.02 * 96 * 128
    assert region.inner[0].stop - region.inner[0].start < 96 + 2 * 14
    assert not deep[180:183, 300:].any()


def test_a_long_deep_scratch_is_cut_into_pieces():
    hole = hole_of((64, 1000), (slice(20, 36), slice(0, 1000)))
    regions, _ = make_regions(hole, FAST)
    assert len(regions) > 3
    assert max(r.inner[1].stop - r.inner[1].start for r in regions) <= 300


def test_paper_preset_takes_the_whole_image():
    hole = hole_of((40, 50), (3, 3))
    (region,), deep = make_regions(hole, make_recipe(preset="paper"))
    assert region.box == (slice(0, 40), slice(0, 50))
    assert (deep == hole).all()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 0.6),
    shape=st.sampled_from([(40, 50), (1, 30), (130, 70), (6, 20, 20)]),
)
def test_every_unknown_pixel_is_some_regions_business(seed, share, shape):
    rng = np.random.default_rng(seed)
    hole = rng.random(shape) < share
    hole[tuple(slice(n // 4, n // 2 + 1) for n in shape)] = True
    regions, deep = make_regions(hole, FAST)
    covered = np.zeros_like(hole)
    for region in regions:
        covered[region.inner] |= deep[region.inner] == region.deep
    assert covered[hole].all()
    assert not deep[~hole].any()


def test_without_a_start_even_a_single_pixel_is_fitted():
    hole = hole_of((60, 60), (30, 30))
    (region,), deep = make_regions(hole, make_recipe(start="none", start_weight=0))
    assert region.deep
    assert deep[30, 30]
