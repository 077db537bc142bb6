"""From a recipe to its task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from knitcore.denoising import denoise_steps
from knitcore.errors import InputError
from knitcore.events import CancelToken, Event, drain
from knitcore.inpainting import inpaint_steps
from knitcore.recipe import Denoise, Inpaint, Recipe, SuperResolve
from knitcore.result import Result
from knitcore.super_resolution import super_resolve_steps


def run_steps(
    recipe: Recipe,
    image: Any,
    mask: Any = None,
    *,
    kernel: Any = None,
    axes: str | None = None,
    cancel: CancelToken | None = None,
    previews: bool = False,
) -> Generator[Event, None, Result]:
    """Run a recipe's task as a generator of events.

    Parameters
    ----------
    recipe : Inpaint, Denoise or SuperResolve
    image : Image or array-like
    mask : array-like, Image or str, optional
        For inpainting only.
    kernel : array-like, optional
        For super-resolution only, in place of the recipe's.
    axes, cancel, previews
        As for `knitcore.inpaint_steps`.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        A mask or kernel that the task has no use for; else as the task.
    """
    told: dict[str, Any] = {"axes": axes, "cancel": cancel, "previews": previews}
    if mask is not None and not isinstance(recipe, Inpaint):
        raise InputError(f"the task {recipe.task!r} takes no mask")
    if kernel is not None and not isinstance(recipe, SuperResolve):
        raise InputError(f"the task {recipe.task!r} takes no kernel")
    if isinstance(recipe, Inpaint):
        return inpaint_steps(image, mask, recipe, **told)
    if isinstance(recipe, Denoise):
        return denoise_steps(image, None, recipe, **told)
    if isinstance(recipe, SuperResolve):
        return super_resolve_steps(image, None, kernel, recipe, **told)
    raise InputError(f"not a recipe of a task: {recipe!r:.60}")


def run(
    recipe: Recipe,
    image: Any,
    mask: Any = None,
    *,
    kernel: Any = None,
    axes: str | None = None,
    on_event: Callable[[Event], Any] | None = None,
    cancel: CancelToken | None = None,
) -> Result:
    """Run a recipe's task to its end.

    Parameters
    ----------
    recipe : Inpaint, Denoise or SuperResolve
    image, mask, kernel, axes, cancel
        As for `run_steps`.
    on_event : callable, optional
        Called with each event.

    Returns
    -------
    Result
    """
    return drain(run_steps(recipe, image, mask, kernel=kernel, axes=axes, cancel=cancel), on_event)
