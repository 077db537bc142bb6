"""The blind-spot prediction: blind indeed, better than its input, the same for the same seed."""

import math

import numpy as np
import pytest
import torch

from knitcore.blind_spot import (
    MIRRORED,
    decorrelation,
    hidden_pixels,
    mirrored,
    pilot_steps,
    predicted_share,
    surround,
)
from knitcore.events import drain
from knitcore.fit import random_source
from knitcore.noise_model import Noise
from knitcore.recipe import Denoise

ONE = Noise("gaussian", (0.0,), (1.0,), (1.0,))


def waves(*shape):
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    return np.broadcast_to(6 * np.sin(x / 5) + 4 * np.cos(y / 7), shape).astype(np.float32)


def pilot(values, hidden=None, noise=ONE, check=False, **fields):
    recipe = Denoise(**{"steps": 60, "batch": 512, "width": 48, **fields})
    tensor = torch.tensor(values)
    return drain(pilot_steps(surround(tensor, hidden or {(0, 0)}), noise, recipe, "test", check))


@pytest.mark.parametrize("hidden", ["0", "2", "5", "x", "y"])
@pytest.mark.parametrize("shape", [(2, 1, 40, 44), (1, 3, 36, 40)])
def test_features_do_not_see_what_is_hidden(hidden, shape, monkeypatch):
    # the rotation of the channels is one of the whole image, a pixel's share in it is small
    monkeypatch.setattr("knitcore.blind_spot.decorrelation", lambda values: torch.eye(len(values)))
    offsets, _ = hidden_pixels(hidden, ONE)
    values = torch.randn(*shape, generator=random_source(0))
    z, y, x = shape[1] // 2, 20, 21
    pixel = torch.tensor([(z * shape[2] + y) * shape[3] + x])
    before = surround(values, offsets).look(pixel)
    changed = values.clone()
    for dy, dx in offsets:
        changed[:, z, y + dy, x + dx] += 100
    after = surround(changed, offsets).look(pixel)
    torch.testing.assert_close(after[0], before[0])  # features
    torch.testing.assert_close(after[1], before[1])  # local mean
    assert (after[2] - before[2]).min() > 99  # the pixel itself
    changed[:, z, y + 6, x + 6] += 100
    assert not torch.equal(surround(changed, offsets).look(pixel)[0], before[0])


@pytest.mark.parametrize("hidden", ["0", "1", "x", "y"])
@pytest.mark.parametrize("way", range(len(MIRRORED)))
def test_each_way_sees_what_is_seen_in_the_mirrored_image(hidden, way):
    offsets, _ = hidden_pixels(hidden, ONE)
    values = torch.randn(1, 3, 30, 34, generator=random_source(0))
    axes = [axis for axis, sign in zip((2, 3), MIRRORED[way], strict=True) if sign < 0]
    place = torch.arange(3 * 30 * 34).view(3, 30, 34)
    moved = place.flip([axis - 1 for axis in axes])  # where a pixel of `values` is in the mirror
    here = surround(values, offsets).look(place.flatten(), way)
    there = surround(values.flip(axes), offsets).look(moved.flatten())
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other)


def test_the_blind_spot_follows_the_noise():
    lined = Noise("gaussian", (0.0,), (1.0,), (1.0,), along_x=(1.0, 0.6, 0.2))
    assert hidden_pixels("auto", ONE) == ({(0, 0)}, "pixel")
    assert hidden_pixels("auto", lined) == ({(0, k) for k in range(-2, 3)}, "x 2")
    assert len(hidden_pixels("1", ONE)[0]) == 9
    assert hidden_pixels("y", ONE)[1] == "y 3"


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_mirrored_axes_of_any_size(size):
    expected = np.pad(np.arange(size), 7, mode="reflect") if size > 1 else np.zeros(15)
    np.testing.assert_array_equal(mirrored(size, 7).numpy(), expected)


def test_the_pilot_is_much_nearer_to_the_truth_than_the_input():
    clean = waves(1, 1, 96, 96)
    noisy = clean + np.random.default_rng(0).normal(size=clean.shape).astype(np.float32)
    found, _ = pilot(noisy)
    assert float(((found.numpy() - clean) ** 2).mean()) < 0.2
    again, _ = pilot(noisy)
    assert torch.equal(found, again)
    assert not torch.equal(found, pilot(noisy, seed=1)[0])


@pytest.mark.parametrize(("side", "gain"), [(64, 1.1), (128, 1.0), (192, 0.9)])
def test_mirrored_surroundings_bear_more_steps(side, gain):
    rings = np.hypot(*(np.indices((side, side)) - side / 2)).astype(int) % 17 < 6
    clean = waves(1, 1, side, side) + 3 * rings
    noisy = (clean + 2 * np.random.default_rng(4).normal(size=clean.shape)).astype(np.float32)
    noise = Noise("gaussian", (0.0,), (4.0,), (4.0,))

    def error(**fields):
        found, _ = pilot(noisy, noise=noise, steps=2400, batch=1024, width=128, **fields)
        return float(((found.numpy() - clean) ** 2).mean())

    assert error(mirrored=True) < gain * error()


@pytest.mark.parametrize(
    ("side", "fields", "expected"),
    [
        (64, {}, 20),  # each pixel is learnt from seven times
        (256, {}, 30),
        (384, {}, 68),  # as many more as there are pixels
        (768, {}, 120),  # up to four times
        (768, {"mirrored": True}, 30),
        (256, {"weak": True}, 60),
        (512, {"weak": True}, 240),
    ],
)
def test_steps_grow_with_the_image(side, fields, expected, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "knitcore.blind_spot.Adam.step", lambda self, rate: taken.append(self.parameters)
    )
    weak = fields.pop("weak", False)
    recipe = Denoise(steps=30, width=4, batch=1434, **fields)
    around = surround(torch.randn(1, 1, side, side, generator=random_source(0)), {(0, 0)})
    drain(pilot_steps(around, ONE, recipe, "test", False, weak=weak))
    assert len(taken) == expected


def test_a_volume_uses_its_neighbouring_planes():
    rng = np.random.default_rng(1)
    rough = rng.normal(0, 3, (1, 1, 48, 48)).astype(np.float32)  # the same on every plane
    noisy = np.repeat(rough, 6, 1) + rng.normal(size=(1, 6, 48, 48)).astype(np.float32)
    found, _ = pilot(noisy)
    alone, _ = pilot(noisy[:, :1])
    error = ((found[:, 2:4].numpy() - rough) ** 2).mean()
    assert error < 0.85 * ((alone.numpy() - rough) ** 2).mean()


def test_a_pattern_that_repeats_itself_is_not_noise():
    draw = random_source(0, "share")
    board = torch.from_numpy(np.indices((64, 64)).sum(0)[None, None] % 2 * 2.0).float()
    assert predicted_share(surround(board, {(0, 0)}), ONE, draw) < 1e-6
    noise = torch.randn(1, 1, 64, 64, generator=random_source(1))
    assert predicted_share(surround(noise, {(0, 0)}), ONE, draw) > 0.9
    assert predicted_share(surround(noise[..., :9, :9], {(0, 0)}), ONE, draw) == math.inf


@pytest.mark.parametrize("high", [4, 5, 6, 8, 16])
def test_noise_of_a_thin_strip_is_not_predicted_from_its_mirror_image(high):
    strip = torch.randn(1, 1, high, 400, generator=random_source(2))
    assert predicted_share(surround(strip, {(0, 0)}), ONE, random_source(0)) > 0.9


def test_noise_taken_too_large_is_lowered():
    clean = waves(1, 1, 128, 128)
    noisy = clean + 0.5 * np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    _, noise = pilot(noisy, check=True, steps=70, batch=1024, width=64)
    assert 0.2 < noise.offset[0] < 0.55
    # each pixel is learnt from so often that only those kept apart can tell
    _, noise = pilot(noisy, check=True, steps=200, batch=1024, width=64, mirrored=True)
    assert noise.offset[0] == 1.0  # too few of them
    large = np.tile(noisy, (1, 1, 2, 2)) + 0.1 * np.random.default_rng(3).normal(size=(256, 256))
    _, noise = pilot(
        large.astype(np.float32), check=True, steps=400, batch=1024, width=64, mirrored=True
    )
    assert 0.2 < noise.offset[0] < 0.55


def test_noise_taken_right_is_not_lowered_by_what_is_kept_apart():
    clean = waves(1, 1, 256, 256)
    noisy = clean + np.random.default_rng(2).normal(size=clean.shape).astype(np.float32)
    _, noise = pilot(noisy, check=True, steps=400, batch=1024, width=64, mirrored=True)
    assert noise.offset[0] == 1.0


def test_decorrelation_is_a_rotation_to_the_principal_axes():
    draw = random_source(3)
    common = torch.randn(1, 1, 50, 50, generator=draw)
    values = common + 0.1 * torch.randn(3, 1, 50, 50, generator=draw)
    axes = decorrelation(values)
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(axes[0], torch.full((3,), 3**-0.5), atol=0.02, rtol=0)
    assert decorrelation(values[:1]).tolist() == [[1.0]]
