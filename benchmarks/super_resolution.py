"""Blind super-resolution of Set5 and Set14: ours beside bicubic, TV deconvolution and a coordinate MLP.

    python benchmarks/super_resolution.py --data FOLDER [--quick] [--jobs 2]

Images are cropped to a multiple of the factor, blurred with one of three kernels, every second or
fourth pixel is kept and rounded to 8 bits. One CSV row a case; a killed run goes on where it was. At
the end the CSV is summed up as a Markdown table, and the kernels are drawn.
"""

from __future__ import annotations

import argparse
import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    RESULTS,
    add_data_option,
    add_run_options,
    code_key,
    data_folder,
    figures,
    machine,
    mean_of,
    read_pixels,
    run_cases,
    set_images,
    table,
    threads_line,
    timed,
)
from PIL import Image, ImageDraw
from scipy import ndimage

NAMES = {
    "bicubic": "bicubic",
    "tv": "TV deconvolution, kernel known",
    "mlp": "coordinate MLP",
    "blind": "**`fast`**, blind",
    "quality": "**`quality`**, blind",
    "known": "`fast`, kernel known",
}
OURS = ("blind", "quality", "known")
FACTORS = (2, 4)
KERNELS = ("delta", "diagonal", "round")
CELLS = [(s, f, k) for s in ("set5", "set14") for f in FACTORS for k in KERNELS]
QUICK = ("set5/butterfly.png",)
# Czerkawski et al. 2021, table 2 (PSNR / SSIM)
ARTICLE = {
    "article: Knitwork": """27.39/0.88 24.62/0.82 25.48/0.84 23.81/0.81 24.22/0.82 25.36/0.84
        24.31/0.82 22.08/0.74 22.35/0.75 21.72/0.75 22.05/0.73 21.56/0.71""",
    "article: MLP": """31.58/0.95 23.78/0.83 24.95/0.86 25.38/0.85 23.47/0.81 24.61/0.84
        27.22/0.89 22.09/0.75 22.96/0.78 22.45/0.76 21.90/0.73 22.52/0.76""",
    "article: SinGAN": """19.22/0.65 19.95/0.72 21.59/0.75 17.16/0.53 19.15/0.66 20.75/0.72
        14.21/0.41 16.96/0.56 17.21/0.57 14.32/0.33 17.75/0.56 18.65/0.62""",
}
# sought on butterfly and head for the best mean PSNR; the delta does best when stopped early
TV_WEIGHT = {(2, "delta"): 0.01, (4, "delta"): 0.02} | {
    (f, k): 0.01 for f in FACTORS for k in ("diagonal", "round")
}
TV_STEPS = {"delta": 100, "diagonal": 300, "round": 300}
TV_INNER = 5
MLP_SCALE = {2: 10.0, 4: 5.0}  # sought on butterfly and head, of 4, 7, 10, 15 and 5, 8
MLP_STEPS, MLP_BATCH = 400, 2048
FIELDS = ["image", "factor", "kernel", "method", "recipe", "pixels", "psnr", "ssim"]
FIELDS += ["seconds", "cpu_seconds", "off", "wide", "narrow", "angle", "residual"]
PICTURE = RESULTS / "super_resolution_kernels.png"
SAVED = RESULTS / "kernels"  # of ours, to be drawn; not for the repository


def true_kernel(name: str, factor: int) -> np.ndarray:
    """Weights of the fine pixels round a coarse one; odd sides, sum 1.

    "delta" is one pixel; "diagonal" a Gaussian of standard deviation 1.2 factors along the diagonal
    on which x and y grow together, 0.35 across it; "round" one of 0.8 factors. Cut at 4 standard
    deviations along each axis.
    """
    along, across = {"delta": (0, 0), "diagonal": (1.2, 0.35), "round": (0.8, 0.8)}[name]
    if not along:
        return np.ones((1, 1))
    reach = math.ceil(4 * factor * math.sqrt((along**2 + across**2) / 2))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] / (factor * math.sqrt(2))
    kernel = np.exp(-0.5 * (((x + y) / along) ** 2 + ((x - y) / across) ** 2))
    return kernel / kernel.sum()


def degrade(fine: np.ndarray, kernel: np.ndarray, factor: int) -> np.ndarray:
    """Blur (edges mirrored, the edge pixel repeated), keep every factor-th pixel, round to 8 bits."""
    planes = np.moveaxis(np.atleast_3d(fine).astype(np.float64), -1, 0)
    blurred = np.stack([ndimage.convolve(plane, kernel, mode="reflect") for plane in planes], -1)
    coarse = np.uint8(np.clip(blurred[::factor, ::factor], 0, 255) + 0.5)
    return coarse.reshape(*coarse.shape[:2], *fine.shape[2:])


def to_planes(image: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float32))


def from_planes(planes: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return planes.movedim(0, -1).numpy().reshape(shape)


def fine_shape(coarse: np.ndarray, factor: int) -> tuple[int, ...]:
    return coarse.shape[0] * factor, coarse.shape[1] * factor, *coarse.shape[2:]


def cubic_rows(count: int, factor: int) -> torch.Tensor:
    """Keys' cubic (a = -1/2) at fine pixel X, that is at X / factor; the edge pixel repeated."""
    rows = np.zeros((count * factor, count))
    for fine in range(count * factor):
        below = fine // factor
        for at in range(below - 1, below + 3):
            d = abs(fine / factor - at)
            weight = 1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            rows[fine, min(max(at, 0), count - 1)] += weight
    return torch.tensor(rows, dtype=torch.float32)


def bicubic_planes(coarse: np.ndarray, factor: int) -> torch.Tensor:
    rows, columns = (cubic_rows(n, factor) for n in coarse.shape[:2])
    return rows @ to_planes(coarse) @ columns.T


def enlarge_bicubic(coarse: np.ndarray, factor: int, name: str) -> np.ndarray:
    return from_planes(bicubic_planes(coarse, factor), fine_shape(coarse, factor))


class Blur:
    """`degrade` without the rounding, and its transpose, for planes (C, Y, X)."""

    def __init__(self, kernel: np.ndarray, shape: tuple[int, ...], factor: int) -> None:
        self.kernel = torch.tensor(kernel[None, None], dtype=torch.float32)
        self.factor, self.shape, self.mirror = factor, shape, []
        # the transpose as one convolution that gives all factor^2 phases, much faster than torch's
        short = -len(kernel) % factor
        whole = F.pad(self.kernel, (0, short, 0, short))
        self.phases = F.pixel_unshuffle(whole, factor).flip(2, 3).movedim(1, 0)
        reach = len(kernel) // 2
        for size in shape:  # up to the last window; mirrored as often as the reach asks for
            index = np.arange(-reach, (size - 1) // factor * factor + reach + 1) % (2 * size)
            self.mirror.append(torch.tensor(np.where(index < size, index, 2 * size - 1 - index)))

    def __call__(self, fine: torch.Tensor) -> torch.Tensor:
        padded = fine[:, self.mirror[0]][:, :, self.mirror[1]]
        return F.conv2d(padded[:, None], self.kernel, stride=self.factor)[:, 0]

    def transpose(self, coarse: torch.Tensor) -> torch.Tensor:
        reach = self.phases.shape[-1] - 1
        wide = F.conv2d(coarse[:, None], self.phases, padding=reach)
        wide = F.pixel_shuffle(wide, self.factor)[:, 0]
        wide = wide[:, : len(self.mirror[0]), : len(self.mirror[1])]
        for axis, index in enumerate(self.mirror, 1):
            shape = [*wide.shape]
            shape[axis] = self.shape[axis - 1]
            wide = wide.new_zeros(shape).index_add_(axis, index, wide)
        return wide


def differences(image: torch.Tensor) -> torch.Tensor:
    """Forward differences (2, C, Y, X), 0 at the far edge."""
    down = F.pad(image[:, 1:] - image[:, :-1], (0, 0, 0, 1))
    right = F.pad(image[:, :, 1:] - image[:, :, :-1], (0, 1))
    return torch.stack([down, right])


def differences_back(field: torch.Tensor) -> torch.Tensor:
    """Transpose of `differences`."""
    down, right = field[0, :, :-1], field[1, :, :, :-1]
    down = F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
    right = F.pad(right, (1, 0)) - F.pad(right, (0, 1))
    return down + right


def enlarge_tv(
    coarse: np.ndarray, factor: int, name: str, weight: float | None = None
) -> np.ndarray:
    """Least of ||A x - y||^2 / 2 + weight TV(x), TV of all colours jointly, kernel known.

    FISTA from the bicubic image; its proximal step by fast gradient projection (Beck and Teboulle
    2009), the dual field kept from step to step. A's norm is at most 1.
    """
    weight = TV_WEIGHT[factor, name] if weight is None else weight
    shape = fine_shape(coarse, factor)
    blur, data = Blur(true_kernel(name, factor), shape[:2], factor), to_planes(coarse)
    image = moved = bicubic_planes(coarse, factor)
    dual = torch.zeros((2, *image.shape))
    speed = 1.0
    for _ in range(TV_STEPS[name]):
        target = moved - blur.transpose(blur(moved) - data)
        ahead, pace = dual, 1.0
        for _ in range(TV_INNER):
            clean = target - weight * differences_back(ahead)
            new = ahead + differences(clean) / (8 * weight)
            new = new / new.square().sum((0, 1), keepdim=True).sqrt().clamp_min(1)
            faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
            ahead = new + (pace - 1) / faster * (new - dual)
            dual, pace = new, faster
        new_image = target - weight * differences_back(dual)
        faster = (1 + math.sqrt(1 + 4 * speed**2)) / 2
        moved = new_image + (speed - 1) / faster * (new_image - image)
        image, speed = new_image, faster
    return from_planes(image, shape)


def enlarge_mlp(
    coarse: np.ndarray, factor: int, name: str, scale: float | None = None
) -> np.ndarray:
    """Fourier features of 256 frequencies, three hidden layers of 256: 263,683 parameters (RGB).

    Tancik et al. (2020), fitted to the coarse pixels by Adam in batches, rendered at the fine ones;
    coordinates count image sides.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    data = to_planes(coarse).flatten(1).T / 255
    height, width = coarse.shape[:2]
    frequencies = torch.randn((2, 256), generator=generator)
    frequencies *= 2 * math.pi * (MLP_SCALE[factor] if scale is None else scale)
    layers: list[torch.nn.Module] = []
    for inputs in (512, 256, 256):
        layers += [torch.nn.Linear(inputs, 256), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(256, data.shape[1]), torch.nn.Sigmoid())

    def places(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        turns = torch.stack([rows / height, columns / width], -1).float() @ frequencies
        return torch.cat([turns.sin(), turns.cos()], -1)

    adam = torch.optim.Adam(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 4e-3, total_steps=MLP_STEPS, pct_start=0.1)
    for _ in range(MLP_STEPS):
        pick = torch.randint(len(data), (MLP_BATCH,), generator=generator)
        loss = (net(places(pick // width, pick % width)) - data[pick]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    shape = fine_shape(coarse, factor)
    with torch.no_grad():
        index = torch.arange(shape[0] * shape[1])
        parts = [
            net(places(part // shape[1] / factor, part % shape[1] / factor))
            for part in index.split(8192)
        ]
    return 255 * torch.cat(parts).numpy().reshape(shape)


def enlarge_ours(
    coarse: np.ndarray, factor: int, name: str, known: bool = False, preset: str = "fast"
) -> Any:
    import knitcore

    kernel = true_kernel(name, factor) if known else "estimate"
    # the one thing told: coarse pixel i lies on fine pixel i * factor
    return knitcore.super_resolve(
        coarse, factor, kernel, axes="YXS"[: coarse.ndim], anchor="corner", preset=preset
    )


ENLARGERS = {
    "bicubic": enlarge_bicubic,
    "tv": enlarge_tv,
    "mlp": enlarge_mlp,
    "blind": enlarge_ours,
    "quality": partial(enlarge_ours, preset="quality"),
    "known": partial(enlarge_ours, known=True),
}


def kernel_shape(kernel: np.ndarray) -> dict[str, float]:
    """Of a kernel taken as a density, in fine pixels: how far its centre is off, its widths, angle.

    The angle is that of the wide direction, in degrees from the x axis towards growing y.
    """
    weight = kernel / kernel.sum()
    y, x = (g - (n - 1) / 2 for g, n in zip(np.indices(kernel.shape), kernel.shape, strict=True))
    cy, cx = float((weight * y).sum()), float((weight * x).sum())
    y, x = y - cy, x - cx
    yy, xx, xy = (float((weight * part).sum()) for part in (y * y, x * x, x * y))
    narrow, wide = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    return {
        "off": math.hypot(cy, cx),
        "wide": math.sqrt(max(wide, 0)),
        "narrow": math.sqrt(max(narrow, 0)),
        "angle": math.degrees(0.5 * math.atan2(2 * xy, xx - yy)),
    }


@cache
def warm_up(method: str) -> None:
    """Pay for imports and first use once a process, outside the seconds measured."""
    noise = np.random.default_rng(0).normal(128, 20, (40, 40, 3))
    coarse = np.uint8(np.clip(ndimage.gaussian_filter(noise, (1, 1, 0)), 0, 255))
    ENLARGERS[method](coarse, 2, "round")


def read_fine(path: Path, factor: int) -> np.ndarray:
    """An image cropped, at bottom and right, to a multiple of the factor."""
    image = read_pixels(path)
    height, width = (n // factor * factor for n in image.shape[:2])
    return image[:height, :width]


def saved_kernel(image: str, factor: int, name: str) -> Path:
    return SAVED / f"{image.replace('/', '-').removesuffix('.png')}_{factor}_{name}.npy"


def measure(case: dict[str, Any], data: Path) -> dict[str, Any]:
    """Enlarge one image by one method; a row of the CSV file."""
    from knitcore import psnr, ssim

    factor, name, method = case["factor"], case["kernel"], case["method"]
    fine = read_fine(data / case["image"], factor)
    coarse = degrade(fine, true_kernel(name, factor), factor)
    warm_up(method)
    result, row = timed(ENLARGERS[method], coarse, factor, name)
    if method in OURS:
        row |= kernel_shape(result.kernel)
        row["residual"] = float(np.sqrt(np.mean(np.square(result.record["residual"][0]["rms"]))))
        if method == "blind":
            SAVED.mkdir(parents=True, exist_ok=True)
            np.save(saved_kernel(case["image"], factor, name), result.kernel)
        result = result.image
    result = np.clip(result, 0, 255)
    return row | {
        "pixels": fine.shape[0] * fine.shape[1],
        "psnr": psnr(result, fine, data_range=255),
        "ssim": ssim(result, fine, data_range=255, channel_axis=-1 if fine.ndim == 3 else None),
    }


def cell_name(cell: tuple[str, int, str]) -> str:
    return f"{cell[0].replace('set', 'Set')} ×{cell[1]} {cell[2]}"


def summary(rows: list[dict[str, str]], threads: str) -> str:
    """The Markdown page of a set of rows."""
    values: dict[tuple[str, tuple[str, int, str]], list[dict[str, str]]] = {}
    for row in rows:
        cell = (row["image"].split("/")[0], int(row["factor"]), row["kernel"])
        values.setdefault((row["method"], cell), []).append(row)
    present = [m for m in NAMES if any(key[0] == m for key in values)]
    cells = [c for c in CELLS if any(key[1] == c for key in values)]
    head = ["", *(cell_name(c) for c in cells), "mean"]

    def mean(name: str, method: str) -> np.ndarray:
        return np.array([mean_of(values.get((method, c), []), name) for c in cells])

    def article(which: int) -> dict[str, np.ndarray]:
        each = {
            name: dict(zip(CELLS, (float(p.split("/")[which]) for p in line.split()), strict=True))
            for name, line in ARTICLE.items()
        }
        return {name: np.array([cell[c] for c in cells]) for name, cell in each.items()}

    def block(name: str, digits: int, which: int) -> str:
        lines = [figures(NAMES[m], mean(name, m), digits) for m in present]
        lines += [figures(title, numbers, digits) for title, numbers in article(which).items()]
        return table(head, lines)

    def differences_block() -> str:
        best = np.max(list(article(0).values()), axis=0)
        lines = [
            figures(f"{NAMES[m]} − bicubic", mean("psnr", m) - mean("psnr", "bicubic"), 2, "+")
            for m in present[1:]
        ]
        if "blind" in present:
            numbers = mean("psnr", "blind") - best
            lines.append(figures(f"{NAMES['blind']} − best of the article", numbers, 2, "+"))
        return table(head, lines)

    def seconds() -> str:
        lines = [figures(NAMES[m], mean("cpu_seconds", m), 1) for m in present[1:]]
        return table(head, lines)

    def kernels() -> str:
        if "blind" not in present:
            return ""
        lines = []
        for c in cells:
            mine = values.get(("blind", c), [])
            if not mine:
                continue
            true = kernel_shape(true_kernel(c[2], c[1]))
            line = [cell_name(c)]
            for name in ("wide", "narrow"):
                found = np.array([float(row[name]) for row in mine])
                worst = np.abs(found - true[name]).max()
                line.append(f"{true[name]:.2f} | {found.mean():.2f} | {worst:.2f}")
            turns = [(float(row["angle"]) - true["angle"] + 90) % 180 - 90 for row in mine]
            line.append(f"{np.abs(turns).max():.1f}" if c[2] == "diagonal" else "–")
            line.append(f"{max(float(row['off']) for row in mine):.3f}")
            numbers = [float(row["residual"]) for row in mine]
            line.append(f"{np.mean(numbers):.2f} | {max(numbers):.2f}")
            lines.append(line)
        columns = ["", "wide: true", "found", "worst error", "narrow: true", "found", "worst error"]
        columns += ["angle: worst error", "centre: worst", "residual", "worst"]
        return f"""
## The kernels found

Standard deviations along the wide and the narrow direction in fine pixels, mean over the images and
the greatest error; the angle in degrees; how far the centre of mass is off. The residual is the root
mean square of input minus degraded result, in grey levels. True ones and those found
for Set5, shown by the square root of their weights:

![Kernels]({PICTURE.name})

{table(columns, [" | ".join(line).split(" | ") for line in lines])}"""

    counts = {s: len({r["image"] for r in rows if r["image"].startswith(s)}) for s, *_ in cells}
    sets = " and ".join(f"{s.replace('set', 'Set')} ({n} images)" for s, n in counts.items())
    weights = "; ".join(
        f"{k} {' and '.join(f'{TV_WEIGHT[f, k]:g}' for f in FACTORS)}, {TV_STEPS[k]} steps"
        for k in KERNELS
    )
    scales = ", ".join(f"×{f} {v:g}" for f, v in MLP_SCALE.items())
    return f"""# Super-resolution

{sets}, RGB (`bridge` grey), 8-bit, cropped to a multiple of the factor s. Kernels, in fine pixels:
delta (one pixel), diagonal (Gaussian of standard deviation 1.2 s along the diagonal on which x and y
grow together, 0.35 s across it), round (Gaussian of 0.8 s); cut at 4 standard deviations along each
axis. Edges are mirrored, the edge pixel repeated; every s-th pixel is kept, from the first, and rounded
to 8 bits. All methods know that coarse pixel i lies on fine pixel i s. Results are clipped to 0–255 to
be scored; all pixels count, no border is left out (the last s − 1 rows and columns are extrapolated by
everybody). Mean over the images of each cell, the last column the mean over the cells. The article's
figures are from its own kernels of these names. Made by `benchmarks/super_resolution.py`; every case is
in the CSV file beside this page. {threads}
Machine: {machine()}

Bicubic: Keys' cubic (a = −1/2), the edge pixel repeated. TV: told the kernel; FISTA from bicubic, TV
of all colours jointly, weights and steps sought on two images (×2 and ×4: {weights}).
MLP: 256 Fourier frequencies ({scales} cycles an image side, sought likewise), three hidden layers of
256, 263,683 parameters, {MLP_STEPS} steps of {MLP_BATCH} pixels.

## PSNR (dB)

{block("psnr", 2, 0)}
## Differences of PSNR (dB)

{differences_block()}
## SSIM

{block("ssim", 3, 1)}
## Processor seconds an image

{seconds()}{kernels()}"""


def draw_kernels(rows: list[dict[str, str]]) -> Image.Image | None:
    """True kernels and those found for Set5, one cell a row; none if none are saved."""
    images = sorted({row["image"] for row in rows if row["image"].startswith("set5")})
    side, gap, left, line = 84, 4, 90, 16
    sheet = Image.new(
        "RGB", (left + (len(images) + 1) * (side + gap), line + 6 * (side + gap)), "white"
    )
    draw, found = ImageDraw.Draw(sheet), False
    for column, title in enumerate(["truth", *(Path(image).stem for image in images)]):
        draw.text((left + column * (side + gap), 2), title, fill="black")
    for row, (_, factor, name) in enumerate(CELLS[:6]):
        top = line + row * (side + gap)
        draw.text((2, top + side // 2 - 6), f"x{factor} {name}", fill="black")
        reach = 4 * factor
        kernels = [true_kernel(name, factor)]
        for image in images:
            path = saved_kernel(image, factor, name)
            kernels.append(np.load(path) if path.exists() else None)
            found = found or path.exists()
        for column, kernel in enumerate(kernels):
            if kernel is None:
                continue
            # kernels of the anchor "corner" have odd sides: a window of 2 * reach + 1 pixels
            window = np.pad(kernel, reach)
            cut = tuple(slice(n // 2 - reach, n // 2 + reach + 1) for n in window.shape)
            values = np.clip(window[cut], 0, None)
            picture = Image.fromarray(np.uint8(255 * (values / values.max()) ** 0.5 + 0.5))
            picture = picture.resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture.convert("RGB"), (left + column * (side + gap), top))
    return sheet if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_option(parser)
    add_run_options(parser, [m for m in NAMES if m != "known"], RESULTS / "super_resolution.csv")
    parser.add_argument("--sets", default="set5,set14", help="set5, set14 or both")
    parser.add_argument("--quick", action="store_true", help="one small image, factor 2")
    options = parser.parse_args()
    data = data_folder(parser, options.data, "set5/bird.png")
    out = options.out
    if options.quick and out == RESULTS / "super_resolution.csv":
        out = out.with_name("super_resolution-quick.csv")
    cases = [
        {"image": image, "factor": factor, "kernel": kernel, "method": method}
        for method in options.methods.split(",")
        for image in (QUICK if options.quick else set_images(data, *options.sets.split(",")))
        for factor in ((2,) if options.quick else FACTORS)
        for kernel in KERNELS
    ]
    keys = dict.fromkeys(OURS, code_key("super-resolve"))
    keys["quality"] = code_key("super-resolve", preset="quality")
    rows = run_cases(
        partial(measure, data=data), cases, out, FIELDS, keys, options.jobs, options.fresh
    )
    page = summary(rows, threads_line(options.jobs))
    out.with_suffix(".md").write_text(page)
    picture = draw_kernels(rows)
    if picture is not None:
        picture.save(PICTURE if out.parent == RESULTS else out.with_suffix(".png"), optimize=True)
    print(page)


if __name__ == "__main__":
    main()
