"""Recipes: every setting of a task as a named, validated field."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from knitcore.errors import RecipeError

RECIPE_VERSION = 1
MAX_RECIPE_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_TOLD = 20  # lines of a message about a recipe's fields
RUN_SECTIONS = ("source", "target", "executor")  # of a run file, beside its recipe
MAX_RECORD_BYTES = 4 * 1024 * 1024  # records carry more than the recipe, such as long notes

PositiveFloat = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

# The article's networks, losses and optimiser, alike for its three tasks.
_ARTICLE: dict[str, Any] = {
    "coordinates": "unit",
    "fourier_scales": (10.0,),
    "frequencies": 256,
    "width": 256,
    "depth": 4,
    "scales": (1, 2, 4),
    "reconstructor": "plain",
    "reconstructor_depth": 2,
    "network_output": "sigmoid",
    "ensemble": 1,
    "steps": 4000,
    "tile": 48,
    "tiles": 0,
    "rate": 1e-3,
    "adam_beta2": 0.999,
    "rate_schedule": "constant",
    "average": 0.0,
    "pixel_loss": "l1",
    "alpha_start": 1e-5,
    "alpha": 500.0,
    "alpha_ramp": "logistic",
    "beta": 1.0,
    "gamma": 1e-4,
    "discriminator": True,
}

# Only this module reads `preset`: afterwards each field is concrete, so that a record replays
# under a later version whose presets changed.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "inpaint": {
        "fast": {},  # the fields' own defaults
        "quality": {"ensemble": 8, "steps": 300, "look_alikes": True},
        "paper": {
            **_ARTICLE,
            "region": "image",
            "start": "none",
            "start_weight": 0.0,
            "knit_depth": 0.0,
            "directed": False,
        },
    },
    "denoise": {
        "fast": {},
        "quality": {
            "steps": 2400,
            "rate": 4e-3,
            "mirrored": True,
            "turned": True,
            "colour_patches": (5, 7, 9),
        },
        "paper": {**_ARTICLE, "method": "knitwork"},
    },
    "super-resolve": {
        "fast": {},
        "quality": {"passes": 20},
        "paper": {**_ARTICLE, "method": "knitwork", "gamma": 1e-2, "tile": 64},
    },
}


class Recipe(BaseModel):
    """What the recipes of all tasks have: the knitwork and how it is fitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: str
    preset: Literal["fast", "quality", "paper"] = Field(
        "fast", description="A set of values for the fields."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Start of all random numbers.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Where the fit runs: auto, cpu, cuda, cuda:1 or mps.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Numbers that the networks' hidden layers are computed with; bfloat16 is quicker on "
        "GPUs and processors with units for it, and is not used on others.",
    )
    ensemble: int = Field(4, ge=1, le=64, description="Networks fitted side by side and averaged.")
    steps: int = Field(150, ge=1, le=1_000_000, description="Optimiser steps of each fit.")
    planes: str = Field(
        "auto",
        pattern=r"^(auto|none|[A-Z]+)$",
        description="Axes fitted plane by plane (e.g. T or TZ); 'auto': every axis but C, Y, X and Z; "
        "'none': no axis.",
    )

    # networks
    scales: tuple[int, ...] = Field(
        (1, 2, 4), min_length=1, max_length=8, description="Spacings of the 3x3 patches, in pixels."
    )
    patch_size: Literal[1, 3] = Field(
        3, description="Pixels along a side of a patch; 1: the network predicts single pixels."
    )
    coordinates: Literal["pixel", "unit"] = Field(
        "pixel", description="Fourier scale counts cycles per pixel, or per image side."
    )
    fourier_scales: tuple[PositiveFloat, ...] = Field(
        (0.004, 0.006, 0.008, 0.012),
        min_length=1,
        max_length=64,
        description="Fourier scale of each member, repeated.",
    )
    frequencies: int = Field(64, ge=1, le=4096, description="Random Fourier frequencies.")
    width: int = Field(64, ge=4, le=4096, description="Units in a hidden layer of the patch MLP.")
    depth: int = Field(3, ge=1, le=16, description="Hidden layers of the patch MLP.")

    reconstructor: Literal["residual", "plain", "none"] = Field(
        "residual",
        description="'residual' corrects the patch's own centre, 'plain' makes the pixel anew, "
        "'none' takes the centre as it is.",
    )
    reconstructor_depth: int = Field(
        1, ge=1, le=8, description="Hidden layers of the reconstructor."
    )
    network_output: Literal["linear", "sigmoid"] = Field(
        "linear", description="Networks' output: standardised values, or values squeezed into 0..1."
    )

    # losses, equation (4): L_G = L_recon + alpha L_xpatch + beta L_pixel + gamma L_GAN
    alpha_start: float = Field(0.1, ge=0, le=1e6, description="Consistency weight at the start.")
    alpha: float = Field(
        2.0, ge=0, le=1e6, description="Consistency weight at the end of the ramp."
    )
    alpha_ramp: Literal["exponential", "logistic", "none"] = Field(
        "exponential", description="How the consistency weight grows."
    )
    beta: float = Field(1.0, ge=0, le=1e6, description="Pixel loss weight.")
    pixel_loss: Literal["l1", "l2"] = Field("l2", description="Norm of the pixel loss.")
    gamma: float = Field(0.0, ge=0, le=1e6, description="Adversarial loss weight.")
    discriminator: bool = Field(False, description="Train the patch discriminator.")
    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, description="One-sided smoothing of the discriminator's real labels."
    )

    # optimiser
    rate: PositiveFloat = Field(8e-3, le=1.0, description="Adam's (highest) learning rate.")
    adam_beta2: float = Field(0.99, ge=0, lt=1, description="Adam's second decay rate.")
    rate_schedule: Literal["one-cycle", "constant"] = Field(
        "one-cycle", description="How the learning rate changes over the steps."
    )
    average: float = Field(
        0.98,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights over the last 40 % of the steps; 0: off.",
    )
    tile: int = Field(
        12, ge=6, le=512, description="Side of the square tiles coordinates are drawn in."
    )
    tiles: int = Field(4, ge=0, le=4096, description="Tiles drawn a step; 0: all of the region.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        # a switch is no number: pydantic would take `steps: true` as 1, and `directed: 1` as true
        switch = cls.model_fields[info.field_name or ""].annotation is bool
        values = value if isinstance(value, (list, tuple)) else [value]
        if not switch and any(isinstance(item, bool) for item in values):
            raise ValueError("must not be true or false")
        if switch and not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    @field_validator("fourier_scales", "scales", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (
            (value,) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        )

    @field_validator("scales")
    @classmethod
    def _rising_scales(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(s < 1 or s > 64 for s in value) or list(value) != sorted(set(value)):
            raise ValueError("must be rising whole numbers from 1 to 64, such as 1, 2, 4")
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = str(values.get("preset", "fast"))
        known = PRESETS[cls.model_fields["task"].default].get(preset, {})
        return {**known, **values}

    @model_validator(mode="after")
    def _tile_holds_patches(self) -> Recipe:
        if self.tile <= 2 * max(self.scales):
            raise ValueError(
                f"tile ({self.tile}) must be larger than twice the largest scale ({max(self.scales)})"
            )
        return self


class Inpaint(Recipe):
    """Settings of `knitcore.inpaint`; fields left out take the preset's values."""

    task: Literal["inpaint"] = Field("inpaint", description="The task this recipe is for.")
    preset: Literal["fast", "quality", "paper"] = Field(
        "fast",
        description="'fast' fits the region round each hole; 'quality' asks look-alike patches, too, which helps "
        "where the image repeats, and takes ten times as long; 'paper' follows the article "
        "equation by equation on the whole image (hours on a CPU).",
    )

    # mask
    mask_label: int | None = Field(
        None, ge=1, description="Fill only this label of the mask (default: every non-zero value)."
    )
    invert_mask: bool = Field(False, description="Fill where the mask is zero.")
    alpha_channel: Literal["keep", "mask"] = Field(
        "keep",
        description="'keep' copies alpha to the output; 'mask' also fills fully transparent pixels.",
    )
    saturated_as_hole: bool = Field(
        False, description="Fill pixels at the highest value of an integer type."
    )

    validation: bool = Field(
        False,
        description="Tell the expected error of this fill: holes of the same shapes are held out where "
        "all is known, filled alike, and compared with the truth. Changes no pixel.",
    )

    fill: Literal["mean", "texture"] = Field(
        "mean",
        description="'mean' is the best guess of each pixel; 'texture' weaves the surroundings' texture "
        "into deep holes: for the eye, not for measurement.",
    )

    # what is fitted
    region: Literal["hole", "image"] = Field(
        "hole", description="Fit only the region round each hole, or the whole image."
    )
    margin: float = Field(
        24.0,
        ge=2,
        le=4096,
        description="Least width of known pixels fitted round a hole, in pixels.",
    )
    margin_factor: float = Field(
        1.5,
        ge=0,
        le=16,
        description="Width of that margin in units of the hole's depth, if larger.",
    )
    max_region: int = Field(
        65536,
        ge=1024,
        le=2**24,
        description="Most coordinates that near holes are joined to one region with.",
    )
    start: Literal["kriging", "harmonic", "none"] = Field(
        "kriging", description="Smooth fill the knitwork falls back on."
    )
    start_weight: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Share of that smooth fill in the result even if all members agree.",
    )
    agreement: PositiveFloat = Field(
        0.1,
        le=100,
        description="Scatter of the members, in units of the kriged start's expected error, at which "
        "the knitwork's share of the result is halved.",
    )
    knit_depth: float = Field(
        6.0,
        ge=0,
        le=4096,
        description="Holes nowhere deeper than this (pixels) are filled by the start alone.",
    )
    directed: bool = Field(
        True,
        description="Draw Fourier frequencies along the directions of the known pixels' variogram.",
    )
    look_alikes: bool = Field(
        False,
        description="Mix look-alike patches of the surroundings into the mean fill, by as much as "
        "would have been best at held-out holes.",
    )
    batch: int = Field(
        0,
        ge=0,
        le=4096,
        description="Holes fitted side by side, those of several planes and files, too; 0 chooses by "
        "the device.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Inpaint:
        if self.start == "none" and self.start_weight > 0:
            raise ValueError("start_weight must be 0 when start is none")
        return self


class Denoise(Recipe):
    """Settings of `knitcore.denoise`; fields left out take the preset's values."""

    task: Literal["denoise"] = Field("denoise", description="The task this recipe is for.")
    preset: Literal["fast", "quality", "paper"] = Field(
        "fast",
        description="'fast' fits a blind-spot patch network and refines it by patch posteriors; "
        "'quality' fits for longer, mirrored as well, looks for similar patches turned and mirrored, and "
        "refines colours further, for three to seven times the time; "
        "'paper' follows the article equation by equation on the whole image (hours on a CPU).",
    )

    # noise
    noise: Literal["auto", "gaussian", "poisson-gaussian"] = Field(
        "auto",
        description="Kind of noise: of one strength (gaussian), or of variance gain * value + offset "
        "(poisson-gaussian); 'auto' decides by the image and says which.",
    )
    sigma: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Noise's standard deviation in grey levels (default: estimated).",
    )
    gain: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Noise variance per grey level, for poisson-gaussian (default: estimated).",
    )
    offset: float | None = Field(
        None,
        ge=-1e18,
        le=1e18,
        description="Noise variance at grey level 0, may be negative, for poisson-gaussian "
        "(default: estimated).",
    )
    blind_spot: str = Field(
        "auto",
        description="Pixels hidden from the prediction of a pixel: itself (0), a square reaching N "
        "pixels to each side, or a line along x or y, for noise that is correlated there; "
        "'auto' looks for such noise.",
    )
    hot_pixels: Literal["replace", "keep"] = Field(
        "replace",
        description="Pixels far outside the noise of their neighbours, hot or dead: replace them by "
        "the median of these, or keep them, where a bright pixel may be real.",
    )
    nan_as_hole: bool = Field(
        False, description="Fill NaN and infinite pixels instead of refusing them."
    )
    channels: Literal["auto", "joint", "separate"] = Field(
        "auto",
        description="Work on all channels together, or on each by itself; 'auto': colours together, "
        "the channels of a C axis each by itself.",
    )

    # what is fitted
    steps: int = Field(
        150,
        ge=1,
        le=1_000_000,
        description="Optimiser steps of the fit; where noise is weak the blind-spot network takes twice "
        "as many, and unless `mirrored` up to four times as many for more than 256 x 256 pixels.",
    )
    method: Literal["blind-spot", "knitwork"] = Field(
        "blind-spot",
        description="A blind-spot network with patch posteriors, or the article's knitwork.",
    )
    batch: int = Field(
        1024, ge=16, le=2**20, description="Pixels a step of the blind-spot fit sees."
    )
    width: int = Field(128, ge=4, le=4096, description="Units in a hidden layer of the networks.")
    rate: PositiveFloat = Field(8e-3, le=1.0, description="Highest learning rate of the fit.")
    mirrored: bool = Field(
        False,
        description="Let the blind-spot network learn from mirrored surroundings as well, four times as "
        "much, and take the mean of what it predicts from each; where noise is weak with twice the units.",
    )
    patch: int | None = Field(
        None,
        ge=3,
        le=15,
        description="Side of the patches of the posterior, in pixels, odd (default: 7 for a single "
        "channel, 5 for several).",
    )
    window: int = Field(
        10, ge=1, le=64, description="How far similar patches are looked for, in pixels."
    )
    group: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="Similar patches that share a prior (default: 48); two thirds of them in later "
        "passes. Of colours in weak noise half as many again where they hardly vary, or by more than the "
        "noise.",
    )
    turned: bool = Field(
        False, description="Look for similar patches turned and mirrored as well: takes longer."
    )
    stride: int = Field(
        3, ge=1, le=8, description="Step between the patches a group is looked for."
    )
    passes: int | None = Field(
        None,
        ge=0,
        le=8,
        description="Patch posteriors, each on the result of the one before (default: 2; in strong "
        "noise a third at edges, and one with larger patches elsewhere).",
    )
    coarse: tuple[float, ...] = Field(
        (1.5, 2.0, 3.0, 4.0),
        max_length=8,
        description="Where noise is strong the image is also denoised with its sides divided by these "
        "numbers, and the low frequencies mixed in.",
    )
    coarse_weight: float = Field(
        0.4,
        ge=0,
        le=0.5,
        description="Share of the finest of these in the mixture; the next has half of it, and so on. "
        "0: none of them is made.",
    )
    colour_patches: tuple[int, ...] = Field(
        (),
        max_length=8,
        description="Sides of the patches of further passes on the differences of the colours, which "
        "are averaged; odd. For channels worked on together whose noise does not grow with the signal.",
    )
    block: int = Field(
        256,
        ge=32,
        le=8192,
        description="Side of the pieces a large image is worked on in, in pixels.",
    )

    @field_validator("coarse", "colour_patches", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (int, float)) else value

    @field_validator("coarse")
    @classmethod
    def _sensible_coarse(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 1.1 <= factor <= 8 for factor in value) or list(value) != sorted(set(value)):
            raise ValueError("must be rising numbers from 1.1 to 8, such as 1.5, 2")
        return value

    @field_validator("colour_patches")
    @classmethod
    def _odd_patches(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(side % 2 == 0 or not 3 <= side <= 15 for side in value):
            raise ValueError("must be odd numbers from 3 to 15, such as 5, 7")
        return value

    @field_validator("blind_spot")
    @classmethod
    def _known_blind_spot(cls, value: str) -> str:
        if not re.fullmatch("auto|x|y|[0-9]", value):
            raise ValueError("must be auto, x, y or a number from 0 to 9")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Denoise:
        if self.method == "knitwork":
            for name in ("sigma", "gain", "offset", "passes"):
                if getattr(self, name) is not None:
                    raise ValueError(f"the knitwork (preset paper) has no use for {name}")
            if self.blind_spot != "auto":
                raise ValueError("the knitwork (preset paper) has no blind spot")
        if self.patch is not None and self.patch % 2 == 0:
            raise ValueError("patch must be odd")
        if self.sigma is not None and (self.gain is not None or self.offset is not None):
            raise ValueError("give sigma, or gain and offset, not both")
        if self.noise == "gaussian" and (self.gain is not None or self.offset is not None):
            raise ValueError("gain and offset belong to poisson-gaussian noise")
        if self.noise == "poisson-gaussian" and self.sigma is not None:
            raise ValueError("sigma belongs to gaussian noise; give gain and offset")
        if (self.gain is None) != (self.offset is None):
            raise ValueError("give gain and offset together")
        return self


class SuperResolve(Recipe):
    """Settings of `knitcore.super_resolve`; fields left out take the preset's values."""

    task: Literal["super-resolve"] = Field(
        "super-resolve", description="The task this recipe is for."
    )
    preset: Literal["fast", "quality", "paper"] = Field(
        "fast",
        description="'fast' estimates the kernel from the image's spectrum and solves with patch "
        "posteriors; 'quality' takes more rounds and twice the time; 'paper' follows the article "
        "equation by equation (hours on a CPU).",
    )

    scale: str = Field(
        "2",
        description="Factor from 1 to 8, such as 2 or 1.5 (rows and columns), or one for each of the "
        "last axes, such as 1x2x2.",
    )
    kernel: str = Field(
        "estimate",
        min_length=1,
        max_length=1024,
        description="How the image lost its resolution: estimate, delta, gaussian:S (standard "
        "deviation in output pixels; gaussian:SY,SX,ANGLE), or an image file with the kernel.",
    )
    anchor: Literal["centre", "corner"] = Field(
        "centre",
        description="Where an input pixel lies: in the centre of its output pixels, so that both "
        "images cover the same place, or on the first of them, for an image that is every n-th pixel "
        "of a finer one.",
    )
    sigma: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="Standard deviation of the input's noise in grey levels (default: estimated); more "
        "makes a smoother result.",
    )
    nan_as_hole: bool = Field(
        False, description="Fill NaN and infinite pixels instead of refusing them."
    )
    channels: Literal["auto", "joint", "separate"] = Field(
        "auto",
        description="Work on all channels together, or on each by itself; 'auto': colours together, "
        "the channels of a C axis each by itself.",
    )

    # what is fitted
    method: Literal["posterior", "knitwork"] = Field(
        "posterior", description="Patch posteriors with data steps, or the article's knitwork."
    )
    patch: int = Field(
        5, ge=2, le=15, description="Side of the patches of the posterior, in pixels."
    )
    window: int = Field(
        8, ge=1, le=64, description="How far similar patches are looked for, in pixels."
    )
    group: int = Field(32, ge=4, le=1024, description="Similar patches that share a prior.")
    stride: int = Field(
        4, ge=1, le=8, description="Step between the patches a group is looked for."
    )
    passes: int = Field(8, ge=0, le=32, description="Rounds of data step and patch posterior.")
    block: int = Field(
        256,
        ge=32,
        le=8192,
        description="Side of the pieces a large image is worked on in, in pixels.",
    )

    # the article's degradation kernel, a deep linear network
    kernel_layers: int = Field(3, ge=1, le=8, description="Layers of the linear kernel network.")
    kernel_width: int = Field(8, ge=1, le=256, description="Channels between these layers.")
    kernel_weight: float = Field(
        1.0, ge=0, le=1e6, description="Weight of |1 - sum of the kernel| in the loss."
    )

    @field_validator("scale", mode="before")
    @classmethod
    def _plain_scale(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return f"{value:g}"
        if isinstance(value, (list, tuple)) and value:
            return "x".join(f"{factor:g}" for factor in value)
        return value

    @field_validator("scale")
    @classmethod
    def _readable_scale(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(x[0-9]+(\.[0-9]+)?){0,2}", value):
            raise ValueError("must be a factor such as 2 or 1.5, or one an axis such as 1x2x2")
        if not all(1 <= float(factor) <= 8 for factor in value.split("x")):
            raise ValueError("factors must lie between 1 and 8")
        return value

    @field_validator("kernel")
    @classmethod
    def _readable_kernel(cls, value: str) -> str:
        if value.startswith("gaussian:"):
            parts = value.removeprefix("gaussian:").split(",")
            try:
                numbers = [float(part) for part in parts]
            except ValueError:
                numbers = []
            if len(numbers) not in (1, 2, 3) or not all(0 <= n <= 100 for n in numbers[:2]):
                raise ValueError("must be gaussian:S, gaussian:SY,SX or gaussian:SY,SX,ANGLE")
        return value

    @field_validator("planes")
    @classmethod
    def _planes_follow_from_scale(cls, value: str) -> str:
        if value != "auto":
            raise ValueError("follows from scale here: an axis of factor 1 is looped over")
        return value

    @property
    def kernel_is_file(self) -> bool:
        """Whether `kernel` names a file (or an array that was given) rather than a form."""
        word = self.kernel in ("estimate", "delta") or self.kernel.startswith("gaussian:")
        return not word

    @property
    def factors(self) -> tuple[float, ...]:
        """Factors along the last axes; a single one is meant for Y and X."""
        return tuple(float(factor) for factor in self.scale.split("x"))


RECIPES: dict[str, type[Recipe]] = {
    "inpaint": Inpaint,
    "denoise": Denoise,
    "super-resolve": SuperResolve,
}


@overload
def make_recipe(task: Literal["inpaint"] = "inpaint", **fields: Any) -> Inpaint: ...
@overload
def make_recipe(task: Literal["denoise"], **fields: Any) -> Denoise: ...
@overload
def make_recipe(task: Literal["super-resolve"], **fields: Any) -> SuperResolve: ...
@overload
def make_recipe(task: str, **fields: Any) -> Recipe: ...
def make_recipe(task: str = "inpaint", **fields: Any) -> Recipe:
    """Check settings and fill in the rest from the preset.

    Parameters
    ----------
    task : str
        "inpaint", "denoise" or "super-resolve".
    **fields
        Fields of the task's recipe.

    Returns
    -------
    Inpaint, Denoise or SuperResolve

    Raises
    ------
    RecipeError
        One line a field: which, what was wrong, what is allowed.
    """
    model = RECIPES.get(task)
    if model is None:
        raise RecipeError(f"unknown task {task!r}; this version knows: {', '.join(RECIPES)}")
    try:
        return model(**fields)
    except ValidationError as error:
        raise RecipeError(_explain(error, model)) from None


R = TypeVar("R", bound=Recipe)


def with_fields(recipe: R, fields: dict[str, Any]) -> R:
    """A recipe with some of its fields replaced, checked anew.

    Parameters
    ----------
    recipe : Recipe
    fields : dict
        Not the preset: every field of a recipe has its value already.

    Returns
    -------
    Recipe
        Of the same task.

    Raises
    ------
    RecipeError
        As `make_recipe`.
    """
    if not fields:
        return recipe
    if fields.get("preset", recipe.preset) != recipe.preset:
        raise RecipeError(
            f"`preset`: the recipe gives every field by itself, so preset {fields['preset']!r} would "
            "change nothing; make a new recipe of that preset"
        )
    return make_recipe(**{**recipe.model_dump(), **fields})  # type: ignore[return-value]


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    found = error.errors()
    # looking for near names takes its time, and nobody reads a thousand lines
    for item in found[:MAX_TOLD]:
        name = ".".join(str(part)[:80] for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, model.model_fields, n=1)
            lines.append(f"unknown key `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
        elif item["type"] in ("model_type", "dict_type"):
            lines.append((f"`{name}`: " if name else "") + "must hold `name: value` lines")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            # what is wrong with several fields together names them itself
            got = f" (got {item['input']!r:.60})" if name else ""
            lines.append(f"`{name}`: {message}{got}" if name else message)
    if len(found) > MAX_TOLD:
        lines.append(f"and {len(found) - MAX_TOLD:,} more")
    return "\n".join(lines)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases, merges, duplicate keys, octal or sexagesimal numbers."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.check_event(yaml.events.AliasEvent) or event.anchor:
            raise _refused("anchors and aliases (&name, *name) are not allowed", event)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                raise _refused("a key must be a single word", key)
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refused("merging (<<) is not allowed", key)
            if key.value in seen:
                raise _refused(f"key `{key.value}` is given twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refused(text: str, place: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, place.start_mark)


def _plain_integer(loader: Any, node: Any) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if not text.lstrip("+-").isdigit() or (
        len(text.lstrip("+-")) > 1 and text.lstrip("+-")[0] == "0"
    ):
        raise _refused(f"{text:.40} is not a plain whole number", node)
    return int(text)


def _plain_float(loader: Any, node: Any) -> float:
    if ":" in str(node.value):
        raise _refused(f"{node.value:.40} is not a plain number", node)
    return loader.construct_yaml_float(node)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _plain_integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _plain_float)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from YAML or JSON, or from a record (``*.knit.json``).

    Parameters
    ----------
    path : path-like
        A recipe file, or the record written beside a result.

    Returns
    -------
    Inpaint, Denoise or SuperResolve

    Raises
    ------
    RecipeError
        Unreadable, not a recipe, or with wrong fields; the message names the file.
    """
    return override_recipe(path)


def override_recipe(path: str | Path, task: str | None = None, **fields: Any) -> Recipe:
    """Read a recipe and replace some of its fields before the preset fills in the others.

    Parameters
    ----------
    path : path-like
        As for `load_recipe`.
    task : str, optional
        The only task the recipe may be for. (A file that names none is taken to be for it.)
    **fields
        Fields that take precedence over the file's.

    Returns
    -------
    Inpaint, Denoise or SuperResolve

    Raises
    ------
    RecipeError
        As `load_recipe`; also when it is for another task, or when a preset is asked for that the
        file's own fields would undo.
    """
    path = Path(path)
    text, values = _recipe_text(path)
    values = {key: value for key, value in values.items() if key not in RUN_SECTIONS}
    version = values.pop("recipe_version", RECIPE_VERSION)
    if version != RECIPE_VERSION or isinstance(version, bool):
        raise RecipeError(
            f"{path}: written for recipe version {version}; this program reads version "
            f"{RECIPE_VERSION}. Update napari-knitworks, or remove the line and check the fields."
        )
    values = {str(key): value for key, value in values.items()}
    own = values.pop("task", task or "inpaint")
    if task not in (None, own):
        raise RecipeError(f"{path}: is for the task {own!r}, not {task!r}")
    if str(own) not in RECIPES:
        known = ", ".join(RECIPES)
        raise RecipeError(
            f"{path}{_line(text, '`task`')}: unknown task {own!r}; this version knows: {known}"
        )
    preset, given = fields.get("preset"), values.get("preset", "fast")
    if preset not in (None, given) and set(values) >= set(RECIPES[own].model_fields) - {
        "task",
        "preset",
    }:
        raise RecipeError(
            f"{path}: gives every field by itself (preset {given!r}), so preset {preset!r} would "
            "change nothing; leave out one of the two"
        )
    try:
        return make_recipe(own, **{**values, **fields})
    except RecipeError as error:
        lines = str(error).splitlines()
        raise RecipeError("\n".join(f"{path}{_line(text, ln)}: {ln}" for ln in lines)) from None


def run_sections(path: str | Path) -> tuple[dict[str, Any], str]:
    """The sections of a run file that are not its recipe, as they stand there.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    sections : dict
        Of `RUN_SECTIONS`, those that the file has.
    text : str
        All of the file.

    Raises
    ------
    RecipeError
        As `load_recipe`.
    """
    text, values = _recipe_text(Path(path))
    return {name: values[name] for name in RUN_SECTIONS if values.get(name) is not None}, text


def section_errors(
    error: ValidationError, model: type[BaseModel], section: str, path: Path, text: str
) -> str:
    """What is wrong in a section of a run file, one line a key.

    Parameters
    ----------
    error : ValidationError
    model : type
        Of the section.
    section : str
    path : Path
    text : str
        Of the file.

    Returns
    -------
    str
    """
    lines = []
    for line in _explain(error, model).splitlines():
        place = _line(text, line) or _line(text, f"`{section}`")
        lines.append(f"{path}{place}: in `{section}`: {line}")
    return "\n".join(lines)


def _recipe_text(path: Path) -> tuple[str, dict[Any, Any]]:
    is_json = path.suffix == ".json"
    most = MAX_RECORD_BYTES if is_json else MAX_RECIPE_BYTES
    try:
        if os.path.exists(path) and not path.is_file():  # a pipe may never end, a device has no end
            raise RecipeError(f"{path}: cannot read the recipe: not a file")
        with path.open("rb") as handle:
            raw = handle.read(most + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from None
    if len(raw) > most:
        raise RecipeError(f"{path}: too large for a recipe (over {most} bytes)")
    try:
        text = raw.decode("utf-8-sig")
        if is_json:
            values = json.loads(text, object_pairs_hook=_unique_keys)
        else:
            values = yaml.load(text, _StrictLoader)
    except (UnicodeDecodeError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise RecipeError(f"{path}: not a readable recipe: {reason}") from None
    try:
        json.dumps(values, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RecipeError(f"{path}: not a readable recipe: holds half a character") from None
    if isinstance(values, dict) and "record_version" in values:
        values = values.get("recipe")  # a record holds its recipe under this key
    if not isinstance(values, dict) or not values:
        raise RecipeError(f"{path}: empty, or not a list of `name: value` lines")
    return text, values


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key `{key}` is given twice")
        found[key] = value
    return found


def _line(text: str, message: str) -> str:
    """Where in a recipe the key stands that a message is about."""
    key = re.match(r"(?:unknown key )?`([^`.]+)", message)
    found = key and re.search(rf"^[ \t]*[\"']?{re.escape(key[1])}[\"']?[ \t]*:", text, re.MULTILINE)
    return f", line {text.count(chr(10), 0, found.end()) + 1}" if found else ""


def recipe_fields(recipe: Recipe) -> dict[str, Any]:
    """Every field of a recipe as plain JSON types, with the recipe version.

    Parameters
    ----------
    recipe : Recipe

    Returns
    -------
    dict
    """
    return {"recipe_version": RECIPE_VERSION, **recipe.model_dump(mode="json")}


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe as YAML (or JSON for ``.json``), every field concrete.

    Parameters
    ----------
    recipe : Recipe
    path : path-like
        Overwritten if present.
    """
    fields, path = recipe_fields(recipe), Path(path)
    if path.suffix == ".json":
        text = json.dumps(fields, indent=2) + "\n"
    else:
        text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def consistency_weight(recipe: Recipe, done: float) -> float:
    """Weight alpha of the cross-patch consistency when a share `done` of the steps is over.

    Parameters
    ----------
    recipe : Recipe
    done : float
        0 to 1. The exponential ramp ends at 0.7; the logistic one is centred at one half.

    Returns
    -------
    float
        Between `alpha_start` and `alpha`.
    """
    low, high = recipe.alpha_start, recipe.alpha
    if recipe.alpha_ramp == "none":
        return high
    if recipe.alpha_ramp == "logistic":
        return low + (high - low) / (1 + math.exp(-12 * (done - 0.5)))
    return max(low, 1e-12) * (high / max(low, 1e-12)) ** min(1.0, done / 0.7)
