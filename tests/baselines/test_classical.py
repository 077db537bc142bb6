"""Classical peers, and the one way to run any method."""

from importlib.util import find_spec

import numpy as np
import pytest

from knitcore import InputError, KnitError, psnr
from knitcore.baselines import classical
from knitcore.baselines.methods import METHODS, choose_methods, run_method_steps
from knitcore.events import drain

CV2 = pytest.mark.skipif(find_spec("cv2") is None, reason="OpenCV is an extra")
PYWT = pytest.mark.skipif(find_spec("pywt") is None, reason="PyWavelets is an extra")
FILLS = [
    classical.inpaint_harmonic,
    classical.inpaint_biharmonic,
    pytest.param(classical.inpaint_telea, marks=CV2),
    pytest.param(classical.inpaint_navier_stokes, marks=CV2),
]
CLEANERS = [
    classical.denoise_nlm,
    classical.denoise_tv,
    pytest.param(classical.denoise_wavelet, marks=PYWT),
]


@pytest.fixture
def slope():
    """A plane, uint16: every fill should continue it."""
    y, x = np.mgrid[:40, :44]
    return np.uint16(5000 + 300 * x + 150 * y)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_slope_is_continued_whatever_the_type(fill, dtype, slope):
    image = (slope // 100).astype(dtype) if dtype == "uint8" else slope.astype(dtype)
    mask = np.zeros(image.shape, bool)
    mask[16:22, 15:21] = True
    damaged = image.copy()
    damaged[mask] = 0
    filled = fill(damaged, mask)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled[~mask], image[~mask], rtol=2e-5)
    worst = np.abs(filled[mask] - image[mask]).max()
    assert worst < 0.12 * float(np.ptp(image))


@pytest.mark.parametrize("clean_up", CLEANERS)
@pytest.mark.parametrize("given", [None, 900.0])
def test_noise_becomes_less_whether_sigma_is_told_or_not(clean_up, given, slope):
    noise = np.random.default_rng(0).normal(0, 900, (*slope.shape, 3))
    clean = np.repeat(slope[..., None], 3, -1).astype(np.float32)
    noisy = (clean + noise).astype(np.float32)
    result = clean_up(noisy, given)
    assert psnr(result, clean, data_range=20000) > psnr(noisy, clean, data_range=20000) + 2


def test_bicubic_passes_through_the_coarse_pixels_and_keeps_their_place(slope):
    large = classical.super_resolve_bicubic(slope, 2, anchor="corner")
    np.testing.assert_allclose(large[::2, ::2], slope, rtol=1e-5)
    centred = classical.super_resolve_bicubic(slope, 2)
    # fine pixels 0 and 1 lie a quarter before and behind the middle of coarse pixel 0
    inner = centred[8:-8, 8:-8]
    expected = slope[4:-4, 4:-4].repeat(2, 0).repeat(2, 1).astype(float)
    shift = np.array([-0.25, 0.25])
    expected += 300 * np.tile(shift, inner.shape[1] // 2)[None]
    expected += 150 * np.tile(shift, inner.shape[0] // 2)[:, None]
    np.testing.assert_allclose(inner, expected, rtol=1e-4)


def test_tv_with_the_kernel_known_undoes_a_blur_better_than_bicubic():
    from scipy.ndimage import convolve

    rng = np.random.default_rng(1)
    fine = np.kron(rng.integers(20, 230, (8, 8)), np.ones((8, 8)))
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    coarse = convolve(fine, kernel, mode="reflect")[::2, ::2].astype(np.float32)
    sharp = classical.super_resolve_tv(coarse, 2, kernel, anchor="corner")
    plain = classical.super_resolve_bicubic(coarse, 2, anchor="corner")
    assert psnr(sharp, fine, data_range=255) > psnr(plain, fine, data_range=255) + 3


@pytest.mark.parametrize("task", METHODS)
def test_every_function_in_the_table_exists(task):
    from importlib import import_module

    for name, method in METHODS[task].items():
        if method.module:
            module = import_module(f"knitcore.baselines.{method.module}")
            assert callable(getattr(module, method.function)), name
            assert not method.steps or callable(getattr(module, method.function + "_steps"))


@pytest.mark.parametrize("name", ["fast", "harmonic", "mlp", "dip", "singan", "paper"])
def test_any_method_keeps_the_known_pixels_of_a_fill(name, slope):
    image = np.uint8(slope[:32, :32] // 100)
    mask = np.zeros(image.shape, bool)
    mask[12:18, 12:18] = True
    steps = {"mlp": 3, "dip": 2, "singan": 1, "paper": 2}.get(name)
    filled = drain(run_method_steps("inpaint", name, image, mask=mask, steps=steps))
    np.testing.assert_array_equal(filled[~mask], image[~mask])
    assert np.isfinite(filled).all()


def test_methods_are_chosen_by_name_and_in_sets():
    assert choose_methods("denoise", "dip,fast,dip") == ["dip", "fast"]
    assert "dip" not in choose_methods("denoise", "quick")
    assert set(choose_methods("denoise", "all")) == set(METHODS["denoise"])
    with pytest.raises(InputError, match="no method 'magic'"):
        choose_methods("denoise", "magic")


def test_what_a_method_lacks_is_said(slope, monkeypatch):
    with pytest.raises(InputError, match="needs a mask"):
        drain(run_method_steps("inpaint", "harmonic", slope))
    with pytest.raises(InputError, match="must be told the kernel"):
        drain(run_method_steps("super-resolve", "tv-known", slope))
    monkeypatch.setattr("knitcore.baselines.methods.find_spec", lambda name: None)
    with pytest.raises(KnitError, match="bm3d is not installed"):
        drain(run_method_steps("denoise", "bm3d", slope))
