"""From a recipe to its task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from knitcore.denoising import denoise_steps
from knitcore.errors import DeviceError, InputError
from knitcore.events import CancelToken, Event, Note, drain
from knitcore.inpainting import inpaint_steps
from knitcore.recipe import Denoise, Inpaint, Recipe, SuperResolve, with_fields
from knitcore.result import Result
from knitcore.side_by_side import SharedFits
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
    shared: SharedFits | None = None,
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
    axes, cancel, previews, shared
        As for `knitcore.inpaint_steps`; other tasks share nothing.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        A mask or kernel that the task has no use for; else as the task.
    DeviceError
        The device asked for is absent, or has not enough memory. The device "auto" falls back on the
        CPU then, with a note.
    """
    told: dict[str, Any] = {"axes": axes, "cancel": cancel, "previews": previews}
    if mask is not None and not isinstance(recipe, Inpaint):
        raise InputError(f"the task {recipe.task!r} takes no mask")
    if kernel is not None and not isinstance(recipe, SuperResolve):
        raise InputError(f"the task {recipe.task!r} takes no kernel")
    if not isinstance(recipe, (Inpaint, Denoise, SuperResolve)):
        raise InputError(f"not a recipe of a task: {recipe!r:.60}")

    def start(recipe: Recipe) -> Generator[Event, None, Result]:
        if isinstance(recipe, Inpaint):
            return inpaint_steps(image, mask, recipe, shared=shared, **told)
        if isinstance(recipe, Denoise):
            return denoise_steps(image, None, recipe, **told)
        assert isinstance(recipe, SuperResolve)
        return super_resolve_steps(image, None, kernel, recipe, **told)

    return _elsewhere_if_full(start, recipe)


def _elsewhere_if_full(
    start: Callable[[Recipe], Generator[Event, None, Result]], recipe: Recipe
) -> Generator[Event, None, Result]:
    """Run a task; on the CPU if it does not fit a GPU that was not asked for by name."""
    try:
        return (yield from start(recipe))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which may not be loaded
            raise
    # out of the handler, whose error holds on to the tensors
    import torch

    torch.cuda.empty_cache()
    if recipe.device != "auto":
        raise DeviceError(
            f"not enough memory on the device {recipe.device}. Set device to cpu or auto "
            "(--device cpu), take a smaller image, or end what else uses the device."
        )
    note = Note("not enough memory on the GPU; done on the CPU, which takes longer", "warning")
    yield note
    result = yield from start(with_fields(recipe, {"device": "cpu"}))
    result.record["notes"].insert(0, {"level": note.level, "text": note.text})
    return result


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
