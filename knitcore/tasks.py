"""From a recipe to its task."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from knitcore.events import CancelToken, Event, drain
from knitcore.inpainting import inpaint_steps
from knitcore.recipe import Inpaint
from knitcore.result import Result


def run_steps(
    recipe: Inpaint,
    image: Any,
    mask: Any = None,
    *,
    axes: str | None = None,
    cancel: CancelToken | None = None,
    previews: bool = False,
) -> Generator[Event, None, Result]:
    """Run a recipe's task as a generator of events.

    Parameters
    ----------
    recipe : Inpaint
    image, mask, axes, cancel, previews
        As for `knitcore.inpaint_steps`.

    Returns
    -------
    Result
    """
    return inpaint_steps(image, mask, recipe, axes=axes, cancel=cancel, previews=previews)


def run(
    recipe: Inpaint,
    image: Any,
    mask: Any = None,
    *,
    axes: str | None = None,
    on_event: Callable[[Event], Any] | None = None,
    cancel: CancelToken | None = None,
) -> Result:
    """Run a recipe's task to its end.

    Parameters
    ----------
    recipe : Inpaint
    image, mask, axes, on_event, cancel
        As for `knitcore.inpaint`.

    Returns
    -------
    Result
    """
    return drain(run_steps(recipe, image, mask, axes=axes, cancel=cancel), on_event)
