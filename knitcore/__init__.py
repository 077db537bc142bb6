"""Neural Knitworks: restore one image with a small network trained on it, there and then."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knitcore.axes import Image, as_image
    from knitcore.denoising import denoise, denoise_steps
    from knitcore.errors import (
        Cancelled,
        DeviceError,
        FileError,
        FitError,
        InputError,
        KnitError,
        RecipeError,
    )
    from knitcore.events import Note, Preview, Progress, drain
    from knitcore.files import read_image, read_mask, write_result
    from knitcore.inpainting import inpaint, inpaint_many, inpaint_steps
    from knitcore.masks import grow_mask, mask_from, resolve_mask
    from knitcore.metrics import psnr, ssim
    from knitcore.recipe import Denoise, Inpaint, SuperResolve, load_recipe, save_recipe
    from knitcore.result import Result
    from knitcore.super_resolution import super_resolve, super_resolve_steps
    from knitcore.tasks import run, run_steps

_HOMES = {
    "axes": ("Image", "as_image"),
    "denoising": ("denoise", "denoise_steps"),
    "errors": (
        "Cancelled",
        "DeviceError",
        "FileError",
        "FitError",
        "InputError",
        "KnitError",
        "RecipeError",
    ),
    "events": ("Note", "Preview", "Progress", "drain"),
    "files": ("read_image", "read_mask", "write_result"),
    "inpainting": ("inpaint", "inpaint_many", "inpaint_steps"),
    "masks": ("grow_mask", "mask_from", "resolve_mask"),
    "metrics": ("psnr", "ssim"),
    "recipe": ("Denoise", "Inpaint", "SuperResolve", "load_recipe", "save_recipe"),
    "result": ("Result",),
    "super_resolution": ("super_resolve", "super_resolve_steps"),
    "tasks": ("run", "run_steps"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Cancelled",
    "Denoise",
    "DeviceError",
    "FileError",
    "FitError",
    "Image",
    "Inpaint",
    "InputError",
    "KnitError",
    "Note",
    "Preview",
    "Progress",
    "RecipeError",
    "Result",
    "SuperResolve",
    "as_image",
    "denoise",
    "denoise_steps",
    "drain",
    "grow_mask",
    "inpaint",
    "inpaint_many",
    "inpaint_steps",
    "load_recipe",
    "mask_from",
    "psnr",
    "read_image",
    "read_mask",
    "resolve_mask",
    "run",
    "run_steps",
    "save_recipe",
    "ssim",
    "super_resolve",
    "super_resolve_steps",
    "write_result",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import knitcore` does not import torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-knitworks")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'knitcore' has no attribute {name!r}")
    value = getattr(import_module(f"knitcore.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
