"""Denoising: what a patch's surroundings predict of it, or the article's knitwork on all coordinates."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from knitcore.axes import Image, as_image, check_kind, choose_layout
from knitcore.events import CancelToken, Event, Stage, drain, until_cancelled
from knitcore.recipe import Denoise, make_recipe, with_fields
from knitcore.result import Result
from knitcore.running import (
    Canvas,
    Run,
    channels_together,
    refuse_unfit,
    saturation,
    with_rounding,
    work_through,
)

if TYPE_CHECKING:
    from knitcore.noise_model import Denoised


def denoise(
    image: Any,
    sigma: float | None = None,
    recipe: Denoise | None = None,
    *,
    axes: str | None = None,
    on_event: Callable[[Event], Any] | None = None,
    cancel: CancelToken | None = None,
    **fields: Any,
) -> Result:
    """Take the noise out of one image, without a clean image or a data set.

    Parameters
    ----------
    image : Image or array-like, shape (..., Y, X[, S])
        Any integer or float type but bool.
    sigma : float, optional
        Standard deviation of the noise in grey levels; estimated if left out.
    recipe : Denoise, optional
        All settings; `fields` override single ones.
    axes : str, optional
        One letter an axis, such as "ZYX" or "YXS"; see `knitcore.as_image`. Z is a spatial axis,
        T and unknown axes are worked through plane by plane.
    on_event : callable, optional
        Called with each `Progress` and `Note`.
    cancel : object with ``is_set()``, optional
        Such as `threading.Event`; looked at about ten times a second.
    **fields
        Fields of the recipe: ``noise="poisson-gaussian"``, ``blind_spot="x"``, ``seed=1``, ...

    Returns
    -------
    Result
        `image` in the input's dtype, `std` the posterior error, `residual` what was taken away;
        ``record["noise"]`` says which noise was found.

    Raises
    ------
    InputError
        The image cannot be used.
    RecipeError
        A field is unknown or out of bounds.
    DeviceError
        The device asked for is absent.
    FitError
        The fit did not stay finite.
    Cancelled
        The cancel token was set.

    Examples
    --------
    >>> import numpy as np
    >>> import knitcore as knit
    >>> rng = np.random.default_rng(0)
    >>> clean = np.outer(np.hanning(48), np.hanning(48)) * 1000
    >>> noisy = clean + rng.normal(0, 50, clean.shape)
    >>> result = knit.denoise(noisy.astype(np.float32), seed=0)
    >>> bool(abs(result.image - clean).mean() < abs(noisy - clean).mean() / 2)
    True
    """
    steps = denoise_steps(image, sigma, recipe, axes=axes, cancel=cancel, **fields)
    return drain(steps, on_event)


def denoise_steps(
    image: Any,
    sigma: float | None = None,
    recipe: Denoise | None = None,
    *,
    axes: str | None = None,
    cancel: CancelToken | None = None,
    previews: bool = False,
    **fields: Any,
) -> Generator[Event, None, Result]:
    """`denoise` as a generator of events, for those who render progress themselves.

    Parameters
    ----------
    image, sigma, recipe, axes, cancel, **fields
        As for `denoise`.
    previews : bool
        Also yield a `Preview` whenever there is a better picture to show.

    Yields
    ------
    Progress, Preview or Note

    Returns
    -------
    Result
    """
    if sigma is not None:
        fields = {**fields, "sigma": sigma}
    recipe = with_fields(recipe, fields) if recipe else make_recipe("denoise", **fields)
    return (yield from until_cancelled(_denoise(as_image(image, axes), recipe, previews), cancel))


def _denoise(source: Image, recipe: Denoise, previews: bool) -> Generator[Event, None, Result]:
    check_kind(source)
    layout = choose_layout(source, None, recipe.planes)
    refuse_unfit(source, layout, "denoising")
    run = Run(
        image=source,
        recipe=recipe,
        layout=layout,
        out=np.array(source.data, dtype=source.dtype.newbyteorder("=")),
        std=np.zeros(source.shape, np.float32),
    )
    if text := saturation(source):
        yield run.note(text)
    device = yield from run.choose_device()
    joint = channels_together(source, recipe)
    colours = source.axes.endswith("S")
    found: list[dict[str, Any]] = []
    synthesised = np.zeros(source.shape, bool)
    if source.dtype.kind == "f":
        synthesised |= ~np.isfinite(run.out)
        if source.alpha:
            synthesised[..., -1] = False

    def work(canvas: Canvas) -> Generator[Stage, None, Denoised]:
        if recipe.method == "knitwork":
            from knitcore.knitting import knit_denoised

            return knit_denoised(canvas, run, device, colours, previews)
        from knitcore.fast_denoising import denoise_steps_on_canvas

        return denoise_steps_on_canvas(
            canvas.values, layout.step, recipe, device, canvas.key, joint, run.cores
        )

    def paste(canvas: Canvas, done: Denoised) -> tuple[np.ndarray, np.ndarray]:
        run.pass_on(done.notes, canvas)
        found.append({**canvas.where, **done.noise.facts(), "blind_spot": done.blind_spot})
        if done.noise.kind == "none" and canvas.filled is None:
            # as it came, to the last bit, which single precision may not hold
            return canvas.raw.astype(run.out.dtype), done.std
        std = with_rounding(done.std, source.dtype)
        if canvas.filled is not None:  # what was invented may be as far off as pixels differ
            std = np.where(canvas.filled, canvas.values[~canvas.filled].std(), std)
        if recipe.sigma and recipe.sigma > 2 * canvas.values.std():
            text = f"sigma {recipe.sigma:g} is far above the spread of the image"
            run.note(
                f"{text} ({canvas.values.std():.3g}): next to nothing is left of it", "warning"
            )
        return done.clean, std

    yield from work_through(
        run, work, paste, joint=joint, fill=recipe.nan_as_hole, previews=previews
    )
    still = sum(one["kind"] == "none" for one in found)
    if still:
        where = f" in {still} of {len(found)} planes or channels" if len(found) > 1 else ""
        yield run.note(f"no noise was found{where}: returned as it was")
    record = run.record(device, noise=found, filled=int(np.count_nonzero(synthesised)))
    return Result(run.out, synthesised, run.std, record, source)
