"""How much does a device gain from many holes fitted side by side?

    python benchmarks/batches.py --data FOLDER [--device cuda] [--batches 1,8,64,512]

Holes of 51x51 pixels amid 127x127 of a photograph, each another one, by `knitcore.fit.fit_regions`: fits a
second, and operations a second against what a large product of matrices reaches on the same device. Then
one denoising of 2048x2048.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import RESULTS, add_data_option, data_folder, machine, read_pixels, say, table

IMAGE = "set5/baby.png"
SIDE, HOLE = 127, 51
NOISE = 20


def best(function: Callable[[], object], repeats: int, wait: Callable[[], None]) -> float:
    """Least seconds of some calls, each until the device is done."""
    seconds = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        function()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batches", default="1,8,64,512")
    parser.add_argument("--precisions", default="float32", help="such as float32,bfloat16")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3, help="the quickest counts")
    parser.add_argument("--no-denoise", action="store_true", help="leave the 2048x2048 out")
    parser.add_argument("--out", type=Path, default=RESULTS / "batches.md")
    options = parser.parse_args()
    data = data_folder(parser, options.data, IMAGE)

    import torch

    import knitcore
    from knitcore.device import choose_device, device_name, fit_threads
    from knitcore.fit import Target, build_networks, fit_regions
    from knitcore.networks import EnsembleLinear
    from knitcore.tiles import tile_shape

    device = choose_device(options.device)
    cuda = device.type == "cuda"
    torch.set_num_threads(fit_threads())
    picture = read_pixels(data / IMAGE).mean(-1)[:512, :512]
    want = np.zeros((SIDE, SIDE), bool)
    low = (SIDE - HOLE) // 2
    want[low : low + HOLE, low : low + HOLE] = True

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize(device)

    def target(number: int) -> Target:
        values = np.roll(picture, (37 * number, 91 * number), (0, 1))[:SIDE, :SIDE]
        values = (values - values.mean()) / max(values.std(), 1.0)
        weight = (~want[None]).astype(np.float32)
        return Target(values[None].astype(np.float32), weight, want, (1.0, 1.0), str(number))

    def peak(dtype: torch.dtype, tf32: bool) -> float:
        """TFLOP/s of a large product."""
        torch.backends.cuda.matmul.allow_tf32 = tf32
        n = 8192 if cuda else 2048
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        torch.matmul(a, b)
        seconds = best(lambda: torch.matmul(a, b), 10, wait)
        torch.backends.cuda.matmul.allow_tf32 = False
        return 2 * n**3 / seconds / 1e12

    kinds = {"float32": (torch.float32, False)}
    if cuda:
        kinds |= {"tf32": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}
    peaks = {name: peak(*kind) for name, kind in kinds.items()}
    say(f"peaks, TFLOP/s: {peaks}")

    rows = []
    for precision in options.precisions.split(","):
        recipe = knitcore.Inpaint(steps=options.steps, precision=precision)
        networks, _ = build_networks(recipe, len(recipe.scales), [target(0)], 0, device)
        layers = [m for n in networks for m in n.modules() if isinstance(m, EnsembleLinear)]
        sample = recipe.tiles * math.prod(tile_shape(recipe, want.shape))
        # a product is taken forwards, and twice backwards: for the weights and for what came in
        work = 3 * 2 * sample * sum(layer.weight.numel() for layer in layers) * recipe.steps

        def fit(count: int, steps: int = recipe.steps, recipe: knitcore.Inpaint = recipe) -> None:
            short = recipe.model_copy(update={"steps": steps})
            for _ in fit_regions([target(n) for n in range(count)], short, device):
                pass

        for count in map(int, options.batches.split(",")):
            fit(count, steps=3)  # first use is slow
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
            seconds = best(lambda count=count: fit(count), options.repeats, wait)
            rate = work * count / seconds / 1e12
            rows.append(
                [
                    precision,
                    str(count),
                    f"{seconds:.2f}",
                    f"{count / seconds:.2f}",
                    f"{1000 * seconds / count:.1f}",
                    f"{rate:.4g}",
                    f"{100 * rate / peaks.get(precision, peaks['float32']):.1f}",
                    f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f}" if cuda else "–",
                ]
            )
            say(" ".join(rows[-1]))
    head = ["precision", "holes side by side", "seconds", "fits a second", "ms a hole"]
    head += ["TFLOP/s", "% of the peak", "GPU memory, GiB"]
    told = ", ".join(f"{name} {value:.3g} TFLOP/s" for name, value in peaks.items())
    threads = "" if cuda else f", {torch.get_num_threads()} torch threads"
    page = f"""# Many holes side by side

Holes of {HOLE}×{HOLE} pixels amid {SIDE}×{SIDE}, grey, `fast` with {options.steps} steps, without kriging; the quickest of
{options.repeats}. Device: {device_name(device)}{threads}. A fit takes {work / 1e9:.1f} GFLOP in its layers' products, forwards and backwards.
Peak, as measured by a large product of matrices: {told}. Made by `benchmarks/batches.py`.
Machine: {machine()}

{table(head, rows)}"""
    if not options.no_denoise:
        tile = np.pad(picture, [(0, 512 - n) for n in picture.shape], mode="reflect")
        large = np.tile(tile, (4, 4)) + np.random.default_rng(0).normal(0, NOISE, (2048, 2048))
        noisy = large.clip(0, 255).astype(np.uint8)
        knitcore.denoise(noisy[:256, :256], device=str(device))
        seconds = best(lambda: knitcore.denoise(noisy, device=str(device)), 1, wait)
        page += f"\n`denoise` of 2048×2048 pixels, noise of {NOISE}: {seconds:.1f} s.\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
