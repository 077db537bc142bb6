"""Which methods there are for which task, ours and the peers, and one way to run any of them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from knitcore.errors import InputError, KnitError
from knitcore.events import Event, Progress


@dataclass(frozen=True)
class Method:
    """One entry of `METHODS`.

    Attributes
    ----------
    title : str
        What it is, in a few words.
    module, function : str
        Where its plain function is; with "_steps" appended a generator, if it is learned. Empty for
        our own presets.
    steps : int
        Steps that `knit compare` gives a learned method; 0 if it takes none.
    needs : str
        Package that must be installed, or "".
    quick : bool
        Part of the default comparison.
    """

    title: str
    module: str = ""
    function: str = ""
    steps: int = 0
    needs: str = ""
    quick: bool = False

    @property
    def seeded(self) -> bool:
        """Whether it draws random numbers."""
        return bool(self.steps) or not self.module

    @property
    def told_sigma(self) -> bool:
        """Whether, to denoise, it makes use of a known noise: learned peers do not."""
        return not self.steps or not self.module


_CLASSICAL = "classical"
METHODS: dict[str, dict[str, Method]] = {
    "inpaint": {
        "fast": Method("Knitworks, preset fast", quick=True),
        "quality": Method("Knitworks, preset quality"),
        "paper": Method("Neural Knitwork as in the article", steps=600),
        "harmonic": Method("harmonic (Laplace)", _CLASSICAL, "inpaint_harmonic", quick=True),
        "biharmonic": Method(
            "biharmonic (scikit-image)", _CLASSICAL, "inpaint_biharmonic", quick=True
        ),
        "telea": Method("Telea (OpenCV)", _CLASSICAL, "inpaint_telea", needs="cv2", quick=True),
        "navier-stokes": Method(
            "Navier-Stokes (OpenCV)", _CLASSICAL, "inpaint_navier_stokes", needs="cv2", quick=True
        ),
        "mlp": Method("coordinate MLP", "coordinate_mlp", "inpaint_coordinate_mlp", 500),
        "dip": Method("deep image prior", "deep_image_prior", "inpaint_deep_image_prior", 1000),
        "singan": Method("SinGAN", "singan", "inpaint_singan", 100),
    },
    "denoise": {
        "fast": Method("Knitworks, preset fast", quick=True),
        "paper": Method("Neural Knitwork as in the article", steps=600),
        "nlm": Method("non-local means (scikit-image)", _CLASSICAL, "denoise_nlm", quick=True),
        "wavelet": Method(
            "wavelets (scikit-image)", _CLASSICAL, "denoise_wavelet", needs="pywt", quick=True
        ),
        "tv": Method("total variation (scikit-image)", _CLASSICAL, "denoise_tv", quick=True),
        "bm3d": Method("BM3D", _CLASSICAL, "denoise_bm3d", needs="bm3d", quick=True),
        "mlp": Method("coordinate MLP", "coordinate_mlp", "denoise_coordinate_mlp", 500),
        "dip": Method("deep image prior", "deep_image_prior", "denoise_deep_image_prior", 1000),
        "zs-n2n": Method("ZS-N2N", "zs_n2n", "denoise_zs_n2n", 2000),
        "noise2fast": Method("Noise2Fast", "noise2fast", "denoise_noise2fast", 3000),
    },
    "super-resolve": {
        "fast": Method("Knitworks, preset fast", quick=True),
        "paper": Method("Neural Knitwork as in the article", steps=300),
        "bicubic": Method("bicubic", _CLASSICAL, "super_resolve_bicubic", quick=True),
        "tv-known": Method("total variation, kernel given", _CLASSICAL, "super_resolve_tv"),
        "mlp": Method("coordinate MLP", "coordinate_mlp", "super_resolve_coordinate_mlp", 500),
        "dip": Method(
            "deep image prior", "deep_image_prior", "super_resolve_deep_image_prior", 1000
        ),
        "singan": Method("SinGAN", "singan", "super_resolve_singan", 200),
    },
}


def choose_methods(task: str, names: str) -> list[str]:
    """Names of methods from a list with commas; "quick" and "all" are sets.

    Parameters
    ----------
    task : str
        "inpaint", "denoise" or "super-resolve".
    names : str

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        A name that the task does not have.
    """
    chosen: list[str] = []
    for name in (part.strip() for part in names.split(",")):
        if name == "all":
            chosen += [n for n in METHODS[task] if n != "tv-known"]
        elif name == "quick":
            chosen += [n for n, method in METHODS[task].items() if method.quick]
        elif name in METHODS[task]:
            chosen.append(name)
        else:
            known = ", ".join(METHODS[task])
            raise InputError(f"no method {name!r} for {task}; there are {known}, and quick and all")
    return list(dict.fromkeys(chosen))


def run_method_steps(
    task: str,
    name: str,
    image: Any,
    *,
    mask: Any = None,
    scale: float | tuple[float, float] = 2.0,
    kernel: Any = None,
    sigma: float | None = None,
    anchor: str = "centre",
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    previews: bool = False,
) -> Generator[Event, None, np.ndarray]:
    """Run one method on one picture; a generator of events.

    Parameters
    ----------
    task : str
        "inpaint", "denoise" or "super-resolve".
    name : str
        A key of ``METHODS[task]``.
    image : array-like, shape (Y, X) or (Y, X, C), real
    mask : array-like of bool, shape (Y, X)
        For inpainting: True where pixels are missing.
    scale, kernel, anchor
        For super-resolution; `kernel`, shape (Ky, Kx), is for methods that must be told. Two factors,
        for rows and columns, are for bicubic and our own presets.
    sigma : float, optional
        For denoising, in grey levels: told to the methods that can be; else they estimate it.
    steps : int, optional
        Of a learned method (default: ``Method.steps``).
    seed : int
    device : str
        For learned methods.
    previews : bool
        Yield pictures on the way.

    Yields
    ------
    Progress, Preview or Note

    Returns
    -------
    ndarray
        Float32, or the input's dtype from our own presets; in grey levels. Inpainting keeps known
        pixels.

    Raises
    ------
    InputError
        Something the method needs is missing.
    KnitError
        A package is not installed, or as the method.
    """
    method = METHODS[task][name]
    image = np.asarray(image)
    if method.needs and find_spec(method.needs) is None:
        raise KnitError(f"{name}: the package {method.needs} is not installed")
    if task == "inpaint" and mask is None:
        raise InputError("inpainting needs a mask")
    if name == "tv-known" and kernel is None:
        raise InputError("tv-known must be told the kernel: --kernel FILE")
    if isinstance(scale, tuple):
        if scale[0] == scale[1]:
            scale = scale[0]
        elif method.module and name != "bicubic":
            raise InputError(f"{name}: takes one factor for rows and columns, not {scale}")
    steps = method.steps if steps is None else steps
    yield Progress(0.0, method.title)
    if not method.module:
        fields: dict[str, Any] = {"preset": name, "seed": seed, "device": device}
        fields["steps"] = steps or None
        if task == "super-resolve":
            factors = "x".join(map(repr, scale)) if isinstance(scale, tuple) else scale
            fields |= {"scale": factors, "anchor": anchor}
        elif task == "denoise":
            fields["sigma"] = sigma
        picture = yield from _ours(task, image, mask, kernel, previews, fields)
    else:
        told: list[Any] = [image]
        options: dict[str, Any] = {}
        if task == "inpaint":
            told.append(np.asarray(mask, dtype=bool))
        elif task == "super-resolve":
            told.append(scale)
            options["anchor"] = anchor
            if name == "tv-known" or (name == "dip" and kernel is not None):
                options["kernel"] = kernel
        elif method.told_sigma:
            options["sigma"] = sigma
        module = import_module(f"knitcore.baselines.{method.module}")
        if method.steps:
            options |= {"steps": steps, "seed": seed, "device": device}
            # often enough for a time limit, seldom enough to cost little
            options["preview_every"] = max(1, min(20, steps // 40)) if previews else 0
            work = getattr(module, method.function + "_steps")(*told, **options)
            picture = yield from work
        else:
            picture = getattr(module, method.function)(*told, **options)
    if task == "inpaint":
        hole = np.asarray(mask, dtype=bool).reshape(np.shape(mask) + (1,) * (image.ndim - 2))
        picture = np.where(hole, picture, image)
    yield Progress(1.0, method.title)
    return picture


def _ours(
    task: str, image: np.ndarray, mask: Any, kernel: Any, previews: bool, fields: dict[str, Any]
) -> Generator[Event, None, np.ndarray]:
    """Our own presets, through `knitcore.run_steps`; `fields` are of the recipe, None left out."""
    from knitcore.recipe import make_recipe
    from knitcore.tasks import run_steps

    # the picture in one piece is the same fit, and quicker
    if fields["preset"] == "paper" and task != "super-resolve":
        fields["tile"] = min(128, max(16, *image.shape[:2]))
    # colours are samples of one picture; more channels are stains, each by itself
    axes = "YX" if image.ndim == 2 else "YXS" if image.shape[2] == 3 else "YXC"
    hole = np.asarray(mask, dtype=bool) if task == "inpaint" else None
    told = {"kernel": kernel} if task == "super-resolve" and kernel is not None else {}
    recipe = make_recipe(task, **{k: v for k, v in fields.items() if v is not None})
    result = yield from run_steps(recipe, image, hole, axes=axes, previews=previews, **told)
    return result.image
