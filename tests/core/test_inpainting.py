"""Inpainting as a user calls it: laws that hold for every image, and quality on real ones."""

import json
import threading

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import knitcore as knit
from knitcore.harmonic import harmonic_fill

TINY = {"steps": 12, "ensemble": 2, "tiles": 2, "width": 16, "frequencies": 8}


@pytest.fixture(scope="module")
def bacteria(request):
    path = request.config.rootpath / "tests/data/fluo_bacteria_crop.tif"
    return tifffile.imread(path)


def square(shape, start=30, side=14):
    mask = np.zeros(shape, bool)
    mask[..., start : start + side, start + 5 : start + 5 + side] = True
    return mask


def damage(image, mask):
    return np.where(mask, 0, image).astype(image.dtype)


# laws -------------------------------------------------------------------------------------------

DTYPES = ["uint8", "uint16", "int16", "uint32", "float16", "float32", "float64", "bool", ">u2"]


@settings(deadline=None, max_examples=25)
@given(
    dtype=st.sampled_from(DTYPES),
    shape_axes=st.sampled_from(
        [
            ((40, 50), "YX"),
            ((40, 50, 3), "YXS"),
            ((40, 50, 4), "YXS"),
            ((40, 50, 2), "YXC"),
            ((40, 50, 2), "YXT"),
            ((5, 24, 24), "ZYX"),
            ((7, 1), "YX"),
        ]
    ),
    seed=st.integers(0, 1000),
)
def test_known_pixels_dtype_and_shape_are_kept(dtype, shape_axes, seed):
    shape, axes = shape_axes
    rng = np.random.default_rng(seed)
    image = (rng.random(shape) * 200).astype(dtype)
    mask = rng.random(shape) < 0.1
    if axes.endswith("S"):
        mask = np.broadcast_to(mask[..., :1], shape).copy()
    mask[0] = False  # something is known
    result = knit.inpaint(image, mask, axes=axes, **TINY)
    assert result.image.shape == shape
    assert result.image.dtype == np.dtype(dtype).newbyteorder("=")
    known = ~result.synthesised
    np.testing.assert_array_equal(result.image[known], image[known])
    assert (result.std[known] == 0).all()
    assert np.isfinite(result.image.astype(float)).all()
    assert np.isfinite(result.std).all()


def test_same_seed_same_pixels_other_seed_others(bacteria):
    image = bacteria[:80, :80].astype(
        np.float32
    )  # such tiny networks do not change a whole grey level
    mask = square(image.shape)
    first = knit.inpaint(image, mask, seed=1, **TINY)
    again = knit.inpaint(image, mask, seed=1, **TINY)
    other = knit.inpaint(image, mask, seed=2, **TINY)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.std, again.std)
    assert (first.image != other.image).any()


def test_a_regions_numbers_do_not_depend_on_other_holes(bacteria):
    """Order, number and place of other holes leave a far one's fill as it is."""
    one, two = square(bacteria.shape, 20), square(bacteria.shape, 200)
    alone = knit.inpaint(bacteria, one, **TINY)
    both = knit.inpaint(bacteria, one | two, **TINY)
    np.testing.assert_array_equal(alone.image[one], both.image[one])


def test_the_record_repeats_the_run(bacteria, tmp_path):
    image = bacteria[:80, :80]
    mask = square(image.shape)
    first = knit.inpaint(image, mask, seed=3, margin=20, **TINY)
    path = tmp_path / "run.knit.json"
    path.write_text(json.dumps(first.record))
    again = knit.run(knit.load_recipe(path), image, mask)
    np.testing.assert_array_equal(first.image, again.image)
    assert again.record["image"]["sha256"] == first.record["image"]["sha256"]
    assert again.record["mask"]["sha256"] == first.record["mask"]["sha256"]


def test_the_global_random_state_is_left_alone(bacteria):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    knit.inpaint(bacteria[:70, :70], square((70, 70)), **TINY)
    torch.testing.assert_close(torch.rand(3), expected)


def test_the_input_is_not_changed(bacteria):
    image = damage(bacteria[:70, :70], square((70, 70)))
    before, mask = image.copy(), square(image.shape)
    knit.inpaint(image, mask, **TINY)
    np.testing.assert_array_equal(image, before)


# quality ----------------------------------------------------------------------------------------


def test_a_hole_is_filled_better_than_by_harmonic_interpolation(bacteria):
    mask = square(bacteria.shape, 60, 20) | square(bacteria.shape, 150, 20)
    result = knit.inpaint(damage(bacteria, mask), mask, steps=80, ensemble=2)
    values = damage(bacteria, mask)[None].astype(float)
    smooth = harmonic_fill(values, ~mask[None], mask)[0]
    truth = bacteria[mask].astype(float)
    ours = np.mean((result.image[mask] - truth) ** 2)
    assert ours < np.mean((smooth[mask] - truth) ** 2)
    inside = np.abs(result.image[mask] - truth) <= 2 * result.std[mask]
    assert 0.75 < inside.mean() <= 1


def test_one_hot_pixel_does_not_destroy_the_fill(data):
    """A real hot pixel of 60 000 among signals below 100, left in as known data."""
    image = tifffile.imread(data / "twochannel_hotpixel_crop.tif")
    hot = np.unravel_index(np.argmax(image[0]), image[0].shape)
    mask = np.zeros(image.shape[1:], bool)
    mask[hot[0] + 3 : hot[0] + 15, hot[1] - 6 : hot[1] + 6] = True
    result = knit.inpaint(image, mask, axes="CYX", **TINY)
    filled = result.image[:, mask]
    usual = np.percentile(image[:, ~mask], 99.5)
    assert filled.max() <= 3 * usual
    assert result.image[0][hot] == image[0][hot]


def test_the_hot_pixel_itself_can_be_painted_out(data):
    image = tifffile.imread(data / "twochannel_hotpixel_crop.tif")
    mask = image > 50_000
    result = knit.inpaint(image, mask, axes="CYX")
    assert result.image.max() < 1000


def test_a_lost_plane_of_a_stack(data):
    stack = tifffile.imread(data / "zstack_nucleus_crop.tif")[:, :48, :48]
    mask = np.zeros(stack.shape, bool)
    mask[stack.shape[0] // 2] = True
    result = knit.inpaint(damage(stack, mask), mask, axes="ZYX", **TINY)
    truth = stack[mask].astype(float)
    error = np.abs(result.image[mask] - truth).mean()
    assert error < 0.5 * np.abs(truth - np.median(truth)).mean()


def test_paper_preset_runs_the_article_on_the_whole_image(bacteria):
    image = bacteria[:48, :56]
    mask = square(image.shape, 20, 8)
    result = knit.inpaint(image, mask, preset="paper", steps=3, width=32, frequencies=16)
    np.testing.assert_array_equal(result.image[~mask], image[~mask])
    assert {"recon", "xpatch", "pixel", "gan", "discriminator"} <= set(result.record["losses"])
    assert result.record["recipe"]["region"] == "image"


RUNGS = {
    "mlp": {"patch_size": 1, "scales": 1, "reconstructor": "none", "depth": 3},
    "patches": {},
    "consistency": {"alpha_start": 1e-5, "alpha": 500.0},
    "discriminator": {"alpha_start": 1e-5, "alpha": 500.0, "gamma": 1e-4, "discriminator": True},
}
NONE_OF_IT = {"alpha_start": 0.0, "alpha": 0.0, "gamma": 0.0, "discriminator": False}


@pytest.mark.parametrize("rung", RUNGS)
def test_each_rung_of_the_articles_ablation_is_a_plain_recipe(rung):
    colour = np.random.default_rng(0).integers(0, 255, (14, 16, 3)).astype(np.uint8)
    mask = square(colour.shape[:2], 5, 3)
    fields = {**NONE_OF_IT, **RUNGS[rung]}
    record = knit.inpaint(colour, mask, axes="YXS", preset="paper", steps=2, **fields).record
    losses = record["losses"]
    # patches of one pixel have no neighbours to agree with
    assert (losses["xpatch"] == 0) == (rung == "mlp")
    assert ("gan" in losses) == (rung == "discriminator")
    if rung == "mlp":  # the article's 263 K
        assert record["parameters"] == 263_683
    if rung == "discriminator":
        whole = knit.inpaint(colour, mask, axes="YXS", preset="paper", steps=2).record
        assert losses == whole["losses"]


# events and cancel ------------------------------------------------------------------------------


def test_progress_rises_to_one_and_carries_losses(bacteria):
    events = []
    image = bacteria[:90, :90]
    knit.inpaint(image, square(image.shape), on_event=events.append, **{**TINY, "steps": 60})
    progress = [e for e in events if isinstance(e, knit.Progress)]
    fractions = [e.fraction for e in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert any({"recon", "xpatch", "pixel"} <= set(e.losses) for e in progress)


def test_previews_are_boxes_of_the_result(bacteria):
    image = bacteria[:90, :90]
    mask = square(image.shape)
    steps = knit.inpaint_steps(damage(image, mask), mask, previews=True, **TINY)
    previews = [e for e in steps if isinstance(e, knit.Preview)]
    assert previews
    assert previews[0].values.dtype == image.dtype
    shown = damage(image, mask)
    shown[previews[-1].box] = previews[-1].values
    np.testing.assert_array_equal(shown[~mask], image[~mask])
    assert (shown[mask] > 0).any()


def test_cancel_ends_the_run_at_the_next_event(bacteria):
    stop = threading.Event()
    seen = []

    def on_event(event):
        seen.append(event)
        if isinstance(event, knit.Progress) and event.losses:
            stop.set()

    with pytest.raises(knit.Cancelled):
        knit.inpaint(
            bacteria, square(bacteria.shape, 60, 40), steps=100_000, on_event=on_event, cancel=stop
        )
    assert isinstance(seen[-1], knit.Progress)
    assert seen[-1].fraction < 0.5


# bad input --------------------------------------------------------------------------------------


def test_an_empty_mask_returns_the_input(bacteria):
    result = knit.inpaint(bacteria, np.zeros(bacteria.shape, bool))
    np.testing.assert_array_equal(result.image, bacteria)
    assert "nothing to fill" in str(result.record["notes"])


def test_nan_joins_the_mask_and_never_comes_back(bacteria):
    image = bacteria[:64, :64].astype(np.float32)
    image[20:24, 20:24] = np.nan
    result = knit.inpaint(image, None, **TINY)
    assert np.isfinite(result.image).all()
    assert result.synthesised.sum() == 16


def test_a_plane_without_any_known_pixel_is_refused_by_name():
    stack = np.random.default_rng(0).random((3, 20, 20)).astype(np.float32)
    mask = np.zeros(stack.shape, bool)
    mask[1] = True
    with pytest.raises(knit.InputError, match=r"Z=1.*planes"):
        knit.inpaint(stack, mask, axes="ZYX", planes="Z", **TINY)


def test_a_diverging_fit_restarts_and_then_says_so(bacteria):
    image = bacteria[:70, :70]
    with pytest.raises(knit.FitError, match="rate"):
        knit.inpaint(
            image, square(image.shape), rate=1.0, adam_beta2=0.0, beta=1e6, **TINY | {"steps": 400}
        )


def test_constant_image_is_filled_with_its_value():
    image = np.full((40, 40), 7, np.uint16)
    result = knit.inpaint(
        damage(image, square(image.shape, 10, 9)), square(image.shape, 10, 9), **TINY
    )
    assert (result.image == 7).all()


@pytest.mark.parametrize("shape", [(1, 9), (3, 3), (9, 2), (4, 40)])
def test_tiny_images_work(shape):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    mask = np.zeros(shape, bool)
    mask[0, :2] = True
    assert knit.inpaint(image, mask, **TINY).image.shape == shape


def test_transparent_pixels_are_not_data(bacteria):
    """What lies hidden under full transparency must not leak into a fill."""
    image = np.zeros((60, 60, 4), np.uint8)
    image[..., :3] = 100
    image[..., 3] = 255
    image[30:50, 10:30] = (255, 0, 255, 0)
    mask = np.zeros((60, 60), bool)
    mask[20:29, 12:24] = True
    result = knit.inpaint(image, mask, **TINY)
    assert (result.image[mask][:, :3] == 100).all()
    np.testing.assert_array_equal(result.image[~mask], image[~mask])


def test_filled_transparent_pixels_become_visible_when_alpha_is_the_mask():
    image = np.full((40, 40, 4), 90, np.uint8)
    image[..., 3] = 255
    image[10:14, 10:20] = 0
    for how in ({"mask": "alpha"}, {"alpha_channel": "mask"}):
        result = knit.inpaint(image, **how, **TINY)
        assert (result.image[10:14, 10:20] == (90, 90, 90, 255)).all()
        assert result.synthesised[10:14, 10:20].all()


def test_cancel_is_heard_between_the_solves_of_a_large_start():
    """A stack with a lost plane needs many solves before any fit; none may hold up a cancel."""
    rng = np.random.default_rng(0)
    stack = rng.random((5, 160, 160)).astype(np.float32)
    mask = np.zeros(stack.shape, bool)
    mask[2] = True
    steps = knit.inpaint_steps(stack, mask, axes="ZYX", **TINY)
    stages = [next(steps).stage for _ in range(6)]
    steps.close()
    assert sum("kriging" in stage for stage in stages) >= 3


def test_torchs_number_of_threads_is_given_back(bacteria):
    import torch

    before = torch.get_num_threads()
    steps = knit.inpaint_steps(bacteria[:70, :70], square((70, 70)), **TINY)
    next(event for event in steps if getattr(event, "losses", None))
    steps.close()
    assert torch.get_num_threads() == before


def test_std_is_larger_beside_a_restless_rim():
    rng = np.random.default_rng(0)
    image = np.full((60, 60), 100.0)
    image[:, 30:] += rng.normal(0, 20, (60, 30))
    mask = np.zeros(image.shape, bool)
    mask[20:40, 20:40] = True
    std = knit.inpaint(image.astype(np.float32), mask, **TINY).std
    assert std[30, 38] > 1.2 * std[30, 21]


def test_restlessness_keeps_the_size_of_the_error(bacteria):
    from knitcore.filling import restlessness

    mask = square(bacteria.shape[:2])
    values = bacteria[None].astype(float)
    known = ~mask[None]
    factor = restlessness(np.where(known, values, 0), known, mask, (1.0, 1.0))
    assert np.sqrt((factor**2).mean()) == pytest.approx(1)
    assert factor.max() > 1.1 * factor.min()
    flat = restlessness(np.ones(values.shape), known, mask, (1.0, 1.0))
    np.testing.assert_array_equal(flat, 1)


def test_std_is_larger_where_the_fill_has_a_slope():
    from knitcore.filling import steepness

    mask = np.zeros((40, 40), bool)
    mask[12:28, 12:28] = True
    picture, seen = np.zeros((2, 40, 40)), np.ones((2, 40, 40), bool)
    picture[0, :, 20:] = 1.0  # an edge through the hole, in one channel
    factor = np.ones(picture.shape)
    factor[:, mask] = steepness(picture, seen, mask, (1.0, 1.0))
    np.testing.assert_allclose((factor[:, mask] ** 2).mean(1), 1)
    assert factor[0, 20, 20] > 1.5 * factor[0, 20, 16]
    np.testing.assert_allclose(factor[1, mask], 1)


def test_what_another_region_fills_is_no_slope():
    """A thin scratch is filled in pieces, which know nothing of each other: no ridges between them."""
    image = np.full((96, 220), 50.0, np.float32)
    image[40:60] = 200.0
    image += np.random.default_rng(0).normal(0, 2, image.shape).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[48:52, 4:-4] = True
    std = knit.inpaint(image, mask).std[49:51].mean(0)[8:-8]
    assert std.max() < 1.35 * np.median(std)


def test_a_start_that_is_all_is_not_fitted_on():
    image = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    mask = square(image.shape)
    alone = knit.inpaint(image, mask, start_weight=1.0)
    assert alone.record["seconds"]["fit"] == 0
    np.testing.assert_array_equal(
        alone.image, knit.inpaint(image, mask, start_weight=1.0, knit_depth=99.0).image
    )
