"""Denoising of real and synthetic micrographs with a clean partner, nothing told to any method.

    python benchmarks/denoising_pairs.py --data FOLDER [--quick]

Scored as the data's README says: least-squares affine fit of the output onto the clean image; the
two BPAE pairs against the clean image moved by their drift, 8 pixels off the border.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    code_key,
    data_folder,
    figures,
    machine,
    noise_found,
    noise_text,
    run_cases,
    say,
    table,
    threads_line,
    timed,
)
from denoising import denoise_bm3d, denoise_nlm
from scipy import ndimage

PAIRS = {
    "fmd_bpae_actin": (-0.75, 0.0),
    "fmd_bpae_mito": (-0.75, 0.0),
    "fmd_mouse_brain": None,
    "nuclei_exposure_16bit": None,
    "synth_bacteria_lowlight": None,
    "synth_nuclear_protein": None,
}  # and the drift of the clean image, pixels along y and x
NAMES = {
    "noisy": "doing nothing",
    "nlm": "NLM (scikit-image)",
    "bm3d": "BM3D with Anscombe transform",
    "ours": "**`fast`**",
    "quality": "**`quality`**",
}
OURS = ("ours", "quality")
# synthetic pairs: gain and offset of the variance, gain^2 (photons + read noise^2)
TRUE_NOISE = {"synth_bacteria_lowlight": (20.0, -3100.0), "synth_nuclear_protein": (4.0, -336.0)}
FIELDS = ["pair", "method", "recipe", "psnr", "gain", "ssim", "seconds", "cpu_seconds", "noise"]
LEAST_Z = 2 * np.sqrt(3 / 8)  # the transform of no photon; below it the inverse explodes


def noise_line(image: np.ndarray, bins: int = 30) -> tuple[float, float]:
    """Poisson-Gaussian noise of one image: a and b of the variance a x + b, b free to be negative.

    Median absolute second differences along both diagonals, in bins of the 3x3 mean, and a robust
    straight line through their squares. Of four such estimators BM3D does best with this one.
    """
    x = image.astype(np.float64)
    corners = x[2:, 2:] + x[:-2, :-2] + x[2:, :-2] + x[:-2, 2:]
    differences = np.abs((corners - 4 * x[1:-1, 1:-1]) / np.sqrt(20)).ravel()
    means = ndimage.uniform_filter(x, 3)[1:-1, 1:-1].ravel()
    parts = np.array_split(np.argsort(means), bins)
    level = np.array([means[part].mean() for part in parts])
    variance = np.array([(np.median(differences[part]) / 0.6745) ** 2 for part in parts])
    least = 1e-3 * variance.max()
    weight = 1 / np.maximum(variance, least)
    for _ in range(10):
        columns = np.stack([level, np.ones(bins)], 1) * weight[:, None]
        a, b = np.linalg.lstsq(columns, variance * weight, rcond=None)[0]
        line = np.maximum(a * level + b, least)
        off = np.abs(variance - line) / line
        limit = 1.5 * 1.4826 * np.median(off) + 1e-9
        weight = np.sqrt(np.minimum(1, limit / np.maximum(off, 1e-9))) / line
    return float(a), float(b)


def anscombe(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """Generalised Anscombe transform of data of variance a x + b: to variance 1."""
    return 2 / a * np.sqrt(np.maximum(a * x + 3 / 8 * a**2 + b, 0))


def anscombe_inverse(z: np.ndarray, a: float, b: float) -> np.ndarray:
    """Its exact unbiased inverse, by the closed form of Mäkitalo and Foi (2013)."""
    z, root = np.maximum(z, LEAST_Z), np.sqrt(1.5)
    photons = z**2 / 4 + root / 4 / z - 11 / 8 / z**2 + 5 / 8 * root / z**3 - 1 / 8
    return a * photons - b / a


def denoise_anscombe(noisy: np.ndarray) -> tuple[np.ndarray, str]:
    a, b = noise_line(noisy)
    if a <= 0:
        sigma = np.sqrt(max(a * float(np.median(noisy)) + b, 1e-12))
        return denoise_bm3d(noisy.astype(np.float64), sigma), f"sigma {sigma:.3g}"
    z = anscombe(noisy.astype(np.float64), a, b)
    low, high = z.min(), z.max()
    unit = 255 / (high - low)
    z = low + denoise_bm3d((z - low) * unit, unit) / unit
    return anscombe_inverse(z, a, b), noise_text(a, b)


def denoise_nlm_blind(noisy: np.ndarray) -> tuple[np.ndarray, str]:
    from skimage.restoration import estimate_sigma

    sigma = float(estimate_sigma(noisy.astype(np.float64)))
    return denoise_nlm(noisy.astype(np.float64), sigma), f"sigma {sigma:.3g}"


def denoise_ours(noisy: np.ndarray, preset: str = "fast") -> tuple[np.ndarray, str]:
    import knitcore

    result = knitcore.denoise(noisy, axes="YX", preset=preset)
    return result.image, noise_text(*noise_found(result.record))


DENOISERS = {
    "noisy": lambda noisy: (noisy, ""),
    "nlm": denoise_nlm_blind,
    "bm3d": denoise_anscombe,
    "ours": denoise_ours,
    "quality": partial(denoise_ours, preset="quality"),
}


@cache
def warm_up(method: str) -> None:
    """Pay for imports and first use once a process, outside the seconds measured."""
    DENOISERS[method](np.random.default_rng(0).poisson(50, (64, 64)).astype(np.uint16))


def read_pair(data: Path, pair: str) -> tuple[np.ndarray, np.ndarray]:
    folder = data / "microscopy" / "pairs"
    return tifffile.imread(folder / f"{pair}_noisy.tif"), tifffile.imread(
        folder / f"{pair}_clean.tif"
    )


def scores(pair: str, image: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM after the least-squares affine map of the image onto the clean one."""
    from knitcore import psnr, ssim
    from knitcore.metrics import grey_range

    peak = grey_range(clean)
    image, clean = image.astype(np.float64), clean.astype(np.float64)
    drift = PAIRS[pair]
    if drift is not None:
        clean = ndimage.shift(clean, drift, order=3, mode="nearest")[8:-8, 8:-8]
        image = image[8:-8, 8:-8]
    slope, offset = np.polyfit(image.ravel(), clean.ravel(), 1)
    fitted = slope * image + offset
    return psnr(fitted, clean, data_range=peak), ssim(fitted, clean, data_range=peak)


def measure(case: dict[str, Any], data: Path) -> dict[str, Any]:
    """Denoise one image by one method; a row of the CSV file."""
    noisy, clean = read_pair(data, case["pair"])
    warm_up(case["method"])
    (result, noise), seconds = timed(DENOISERS[case["method"]], noisy)
    before, _ = scores(case["pair"], noisy, clean)
    after, similar = scores(case["pair"], result, clean)
    return {"psnr": after, "gain": after - before, "ssim": similar, "noise": noise, **seconds}


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page of a set of rows."""
    cell = {(row["method"], row["pair"]): row for row in rows}
    pairs = [p for p in PAIRS if any(row["pair"] == p for row in rows)]
    present = [m for m in NAMES if any(row["method"] == m for row in rows)]
    head = ["", *(f"`{pair}`" for pair in pairs), "mean"]

    def numbers(name: str, method: str) -> np.ndarray:
        return np.array([float(cell.get((method, p), {}).get(name, "nan")) for p in pairs])

    def block(name: str, digits: int, sign: str = "", methods: list[str] = present) -> str:
        return table(head, [figures(NAMES[m], numbers(name, m), digits, sign) for m in methods])

    others = [m for m in present if m not in ("noisy", *OURS)]
    less = [
        figures(f"{NAMES[o]} − {NAMES[m]}", numbers("gain", o) - numbers("gain", m), 2, "+")
        for o in OURS
        if o in present
        for m in others
    ]
    gains = [figures(NAMES[m], numbers("gain", m), 2, "+") for m in present if m != "noisy"]
    found = [
        [NAMES[m], *(cell.get((m, p), {}).get("noise") or "–" for p in pairs)]
        for m in present
        if m != "noisy"
    ]
    true = (TRUE_NOISE.get(p) for p in pairs)
    found.append(["truth", *(noise_text(*t) if t else "–" for t in true)])
    return f"""# Denoising: micrographs with a clean partner

Nothing is told to any method. PSNR after the least-squares affine map of the output onto the clean
image; the peak is 255 for 8-bit files, else the range of the clean image between its 0.1 and 99.9
percentiles. The BPAE pairs are scored against the clean image moved by −0.75 pixels along y, 8 pixels
off the border. `fmd_*` and `nuclei_exposure_16bit` are real, `synth_*` simulated. Made by
`benchmarks/denoising_pairs.py`; every case is in the CSV file beside this page. {threads}
Machine: {machine("bm3d")}

NLM: sigma from `estimate_sigma`, patches 5×5, distance 6, h = 0.6 sigma. BM3D: generalised Anscombe
transform and its exact unbiased inverse, the noise's variance a x + b from second differences along the
diagonals, a robust line through their medians in 30 bins of intensity.

## Gain of PSNR over doing nothing (dB)

{table(head, gains + less)}
## PSNR (dB)

{block("psnr", 2)}
## SSIM, of the same fit

{block("ssim", 3)}
## Processor seconds

{block("cpu_seconds", 2, methods=[m for m in present if m != "noisy"])}
## Noise found

Standard deviation, or variance as a function of the grey level x.

{table(head[:-1], found)}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    add_run_options(parser, tuple(NAMES), RESULTS / "denoising_pairs.csv")
    parser.add_argument("--quick", action="store_true", help="one pair")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "microscopy/pairs/fmd_mouse_brain_noisy.tif")
    out = options.out
    if options.quick and out == RESULTS / "denoising_pairs.csv":
        out = out.with_name("denoising_pairs-quick.csv")
    methods = options.methods.split(",")
    if "bm3d" in methods and find_spec("bm3d") is None:
        say("bm3d is not installed: its column stays as it was")
        methods.remove("bm3d")
    cases = [
        {"pair": pair, "method": method}
        for method in methods
        for pair in (("synth_nuclear_protein",) if options.quick else PAIRS)
    ]
    rows = run_cases(
        partial(measure, data=data),
        cases,
        out,
        FIELDS,
        {"ours": code_key("denoise"), "quality": code_key("denoise", preset="quality")},
        options.jobs,
        options.fresh,
    )
    page = summary(rows, threads_line(options.jobs))
    out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
