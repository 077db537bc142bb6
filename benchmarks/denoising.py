"""Denoising of Set5 and Set14 with Gaussian noise: ours beside NLM, TV, wavelets and BM3D.

    python benchmarks/denoising.py --data FOLDER [--quick] [--jobs 2]

Noise of 10, 20 and 40 grey levels is added to the whole 8-bit images and not clipped. One CSV row a
case; a killed run goes on where it was. At the end the CSV is summed up as a Markdown table.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    code_key,
    data_folder,
    figures,
    machine,
    mean_of,
    noise_found,
    read_pixels,
    run_cases,
    say,
    set_images,
    table,
    threads_line,
    timed,
)

NAMES = {
    "noisy": "noisy",
    "tv": "TV, Chambolle (scikit-image)",
    "wavelet": "wavelets, BayesShrink (scikit-image)",
    "nlm": "NLM (scikit-image)",
    "bm3d": "BM3D",
    "blind": "**`fast`**, sigma not given",
    "given": "**`fast`**, sigma given",
    "quality": "**`quality`**, sigma not given",
}
OURS = ("blind", "given", "quality")
SIGMAS = (10, 20, 40)
CELLS = [(s, sigma) for s in ("set5", "set14") for sigma in SIGMAS]
QUICK = ("set5/butterfly.png", "set14/face.png")
# Czerkawski et al. 2021, table 3 (PSNR / SSIM), on noise of their own
ARTICLE = {
    "article: Knitwork": ("26.69/0.83 21.69/0.63 15.91/0.37", "26.15/0.85 23.08/0.73 18.75/0.56"),
    "article: DIP": ("27.56/0.85 19.15/0.49 11.60/0.15", "26.95/0.84 19.70/0.53 12.62/0.19"),
    "article: MLP": ("23.58/0.70 17.76/0.42 12.43/0.19", "24.94/0.77 19.56/0.55 14.55/0.30"),
}
# sought on butterfly and head for the best mean PSNR, of 0.6, 0.7, 0.8, 1, 1.2 and 1.5 sigma
TV_WEIGHT = {10: 0.6, 20: 0.8, 40: 0.8}
FIELDS = ["image", "sigma", "method", "recipe", "pixels", "psnr", "ssim"]
FIELDS += ["seconds", "cpu_seconds", "found"]


def channels(image: np.ndarray) -> int | None:
    return -1 if image.ndim == 3 else None


def denoise_tv(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(
        noisy / 255,
        weight=TV_WEIGHT.get(round(sigma), 0.8) * sigma / 255,
        eps=1e-5,
        max_num_iter=300,
        channel_axis=channels(noisy),
    ) * np.float32(255)


def denoise_wavelet(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.restoration import denoise_wavelet

    return 255 * denoise_wavelet(
        noisy / 255,
        sigma=sigma / 255,
        wavelet="db2",  # the best of db1, db2, sym4
        method="BayesShrink",
        convert2ycbcr=noisy.ndim == 3,
        rescale_sigma=True,
        channel_axis=channels(noisy),
    )


def denoise_nlm(noisy: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.restoration import denoise_nl_means

    return 255 * denoise_nl_means(
        noisy / 255,
        patch_size=5,  # the best of 5, 7; distance of 6, 10; h of 0.4, 0.6, 0.8, 1
        patch_distance=6,
        h=0.6 * sigma / 255,
        sigma=sigma / 255,
        fast_mode=True,
        channel_axis=channels(noisy),
    )


def denoise_bm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
    import bm3d

    profile = bm3d.BM3DProfile()
    profile.num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # 0: all cores
    run = bm3d.bm3d_rgb if noisy.ndim == 3 else bm3d.bm3d
    return 255 * run(noisy.astype(np.float64) / 255, sigma / 255, profile).reshape(noisy.shape)


def denoise_ours(
    noisy: np.ndarray, sigma: float, given: bool, preset: str = "fast"
) -> tuple[np.ndarray, float]:
    import knitcore

    axes = "YXS"[: noisy.ndim]
    result = knitcore.denoise(noisy, sigma if given else None, axes=axes, preset=preset)
    gain, offset = noise_found(result.record)
    return result.image, max(gain * float(noisy.mean()) + offset, 0) ** 0.5


DENOISERS: dict[str, Callable[[np.ndarray, float], Any]] = {
    "noisy": lambda noisy, sigma: noisy,
    "tv": denoise_tv,
    "wavelet": denoise_wavelet,
    "nlm": denoise_nlm,
    "bm3d": denoise_bm3d,
    "blind": partial(denoise_ours, given=False),
    "given": partial(denoise_ours, given=True),
    "quality": partial(denoise_ours, given=False, preset="quality"),
}


@cache
def warm_up(method: str) -> None:
    """Pay for imports and first use once a process, outside the seconds measured."""
    noise = np.random.default_rng(0).normal(128, 20, (64, 64, 3))
    DENOISERS[method](noise.astype(np.float32), 20.0)


def add_noise(clean: np.ndarray, sigma: int, number: int) -> np.ndarray:
    """The noisy image, float32 and not clipped; `number` counts the images of a set."""
    noise = np.random.default_rng([sigma, number]).normal(0, sigma, clean.shape)
    return (clean + noise).astype(np.float32)


def measure(case: dict[str, Any], data: Path) -> dict[str, Any]:
    """Denoise one image by one method; a row of the CSV file."""
    from knitcore import psnr, ssim

    clean = read_pixels(data / case["image"])
    number = set_images(data, case["image"].split("/")[0]).index(case["image"])
    noisy = add_noise(clean, case["sigma"], number)
    warm_up(case["method"])
    result, seconds = timed(DENOISERS[case["method"]], noisy, float(case["sigma"]))
    result, found = result if isinstance(result, tuple) else (result, "")
    result = np.clip(result, 0, 255)
    return {
        "pixels": clean.shape[0] * clean.shape[1],
        "psnr": psnr(result, clean, data_range=255),
        "ssim": ssim(result, clean, data_range=255, channel_axis=channels(clean)),
        "found": found,
        **seconds,
    }


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page of a set of rows."""
    values: dict[tuple[str, str, int], list[dict[str, str]]] = {}
    for row in rows:
        key = (row["method"], row["image"].split("/")[0], int(row["sigma"]))
        values.setdefault(key, []).append(row)
    present = [m for m in NAMES if any(key[0] == m for key in values)]
    cells = [c for c in CELLS if any(key[1:] == c for key in values)]
    head = ["", *(f"{s.replace('set', 'Set')} σ {sigma}" for s, sigma in cells), "mean"]

    def mean(name: str, method: str) -> np.ndarray:
        return np.array([mean_of(values.get((method, *c), []), name) for c in cells])

    def article(which: int) -> dict[str, np.ndarray]:
        each = {
            name: {
                (s, sigma): float(pair.split("/")[which])
                for s, line in zip(("set5", "set14"), lines, strict=True)
                for sigma, pair in zip(SIGMAS, line.split(), strict=True)
            }
            for name, lines in ARTICLE.items()
        }
        return {name: np.array([cell[c] for c in cells]) for name, cell in each.items()}

    def block(name: str, digits: int, which: int) -> str:
        lines = [figures(NAMES[m], mean(name, m), digits) for m in present]
        lines += [figures(title, numbers, digits) for title, numbers in article(which).items()]
        return table(head, lines)

    def differences() -> str:
        others = {NAMES[m]: mean("psnr", m) for m in ("bm3d", "nlm") if m in present}
        others["best of the article"] = np.max(list(article(0).values()), axis=0)
        lines = [
            figures(f"{NAMES[m]} − {title}", mean("psnr", m) - numbers, 2, "+")
            for m in OURS
            if m in present
            for title, numbers in others.items()
        ]
        return f"## Differences of PSNR (dB)\n\n{table(head, lines)}\n" if lines else ""

    def seconds() -> str:
        lines = []
        for method in present[1:]:
            mine = [row for key, group in values.items() if key[0] == method for row in group]
            total, pixels = (sum(float(row[n]) for row in mine) for n in ("cpu_seconds", "pixels"))
            each = mean("cpu_seconds", method)
            lines.append([*figures(NAMES[method], each), f"{total * 256**2 / pixels:.2f}"])
        return table([*head, "256×256"], lines)

    def found() -> str:
        if "blind" not in present:
            return ""
        lines = []
        for c in cells:
            numbers = [float(row["found"]) for row in values.get(("blind", *c), [])]
            if numbers:
                title = f"{c[0].replace('set', 'Set')} σ {c[1]}"
                spread = [np.mean(numbers), min(numbers), max(numbers)]
                lines.append([title, *(f"{v:.2f}" for v in spread)])
        return f"\n## Sigma found, not given\n\nAt the mean grey level, if signal-dependent.\n\n{table(['', 'mean', 'lowest', 'highest'], lines)}"

    counts = {s: len({r["image"] for r in rows if r["image"].startswith(s)}) for s, _ in cells}
    sets = " and ".join(f"{s.replace('set', 'Set')} ({n} images)" for s, n in counts.items())
    missing = "" if "bm3d" in present else " BM3D: not installed."
    return f"""# Denoising: Gaussian noise

{sets}, whole, RGB (`bridge` grey), 8-bit, with Gaussian noise of σ grey levels added and not clipped;
the noise is the same for all methods. Results are clipped to 0–255 to be scored, but not rounded.
Mean over the images of each cell, the last column the mean over the cells. The others are told σ. The
article's figures are from noise of its own. Made by `benchmarks/denoising.py`; every case is in the
CSV file beside this page. {threads}{missing}
Machine: {machine("PyWavelets", "bm3d")}

NLM: patches 5×5, distance 6, h = 0.6 σ; TV: weights {", ".join(f"{w} σ" for w in TV_WEIGHT.values())} (both
sought on two images for the best PSNR); wavelets: db2 in YCbCr; BM3D: its standard profile, in opponent
colours.

## PSNR (dB)

{block("psnr", 2, 0)}
{differences()}## SSIM

{block("ssim", 3, 1)}
## Processor seconds an image, and per 256×256 pixels

Seconds of different methods may be of different days and machines; side by side, in one run:
[speed_denoise_sr.md](speed_denoise_sr.md).

{seconds()}{found()}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    add_run_options(parser, tuple(NAMES), RESULTS / "denoising.csv")
    parser.add_argument("--sets", default="set5,set14", help="set5, set14 or both")
    parser.add_argument("--quick", action="store_true", help="two small images, sigma 20")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "set5/bird.png")
    out = options.out
    if options.quick and out == RESULTS / "denoising.csv":
        out = out.with_name("denoising-quick.csv")
    methods = options.methods.split(",")
    if "bm3d" in methods and find_spec("bm3d") is None:
        say("bm3d is not installed: its column stays as it was")
        methods.remove("bm3d")
    cases = [
        {"image": image, "sigma": sigma, "method": method}
        for method in methods
        for image in (QUICK if options.quick else set_images(data, *options.sets.split(",")))
        for sigma in ((20,) if options.quick else SIGMAS)
    ]
    keys = dict.fromkeys(OURS, code_key("denoise")) | {
        "quality": code_key("denoise", preset="quality")
    }
    rows = run_cases(
        partial(measure, data=data), cases, out, FIELDS, keys, options.jobs, options.fresh
    )
    page = summary(rows, threads_line(options.jobs))
    out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
