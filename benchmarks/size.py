"""Does a hole cost the same in a large image as in a small one?

    python benchmarks/size.py --data FOLDER [--sides 512,2048,8192] [--steps 150]

Photographs tiled and mirrored to a square grey image, with 1 % of its area in square holes of 51 pixels a
side: one in 512 x 512, sixteen in 2048 x 2048, 256 in 8192 x 8192. Each size runs in a process of its own, so
that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
from common import RESULTS, add_data_option, data_folder, machine, read_pixels, say, table

SIDE, PERIOD = 51, 512  # of a hole, and of the grid of holes


def large_image(data: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A grey image (side, side) and its mask."""
    tile = read_pixels(data / "set5" / "baby.png").mean(-1).astype(np.uint8)[:PERIOD, :PERIOD]
    tile = np.pad(tile, [(0, PERIOD - n) for n in tile.shape], mode="reflect")
    count = side // PERIOD
    image = np.block(
        [[np.roll(tile, (37 * i, 91 * j), (0, 1)) for j in range(count)] for i in range(count)]
    )
    mask = np.zeros(image.shape, bool)
    for i in range(count):
        for j in range(count):
            y, x = i * PERIOD + 200, j * PERIOD + 220
            mask[y : y + SIDE, x : x + SIDE] = True
    image[mask] = 0
    return image, mask


def peak() -> float:
    """Peak memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(data: Path, side: int, steps: int, answer: multiprocessing.SimpleQueue) -> None:
    """Fill one image; seconds, and MiB beyond the image, its mask and what importing costs."""
    import knitcore

    image, mask = large_image(data, side)
    small, hole = large_image(data, PERIOD)
    knitcore.inpaint(
        small[:256, :256], hole[:256, :256], steps=2
    )  # first use is slow, and takes memory
    before = peak()
    start, spent = time.perf_counter(), time.process_time()
    knitcore.inpaint(image, mask, steps=steps, seed=0)
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    answer.put((int(mask.sum()), seconds, spent, peak() - before, image.nbytes / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--sides", default="512,2048,8192")
    parser.add_argument(
        "--steps", type=int, default=150, help="of the fit; fewer for a quicker study"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "size.md")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "set5/baby.png")
    context = multiprocessing.get_context("spawn")
    lines, first = [], 0.0
    for side in map(int, options.sides.split(",")):
        answer = context.SimpleQueue()
        child = context.Process(
            target=measure, args=(data, side, options.steps, answer), daemon=True
        )
        child.start()
        child.join()
        if child.exitcode:
            say(f"{side}: the process ended with {child.exitcode}")
            continue
        pixels, seconds, spent, memory, own = answer.get()
        rate = 1000 * spent / pixels
        first = first or rate
        lines.append(
            [
                f"{side}×{side}",
                str(pixels // SIDE**2),
                f"{seconds:.1f}",
                f"{spent:.1f}",
                f"{rate:.2f}",
                f"{rate / first:.2f}",
                f"{own:.0f}",
                f"{memory:.0f}",
            ]
        )
        say(" ".join(lines[-1]))
    head = ["image", "holes", "seconds", "processor s", "processor ms a hole pixel"]
    head += ["times the first", "image, MiB", "memory beyond it, MiB"]
    page = f"""# Cost of 1 % holes against the size of the image

Grey 8-bit images, holes of {SIDE}×{SIDE} pixels, `fast` with {options.steps} steps. Memory: peak of the run above what
the process had with the image loaded and a small fit done; it includes the result and its `std`
(float32: four times the image). Made by `benchmarks/size.py`. Machine: {machine()}

{table(head, lines)}"""
    options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
