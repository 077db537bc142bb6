"""From the core to napari layers: the preview that refines, and what stands at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from knit_plugin._layers import Taken
from knitcore import Result

# Where a layer lies, and how an image looks: copied from the source to what is made from it.
_PLACE = ("affine", "axis_labels", "rotate", "scale", "shear", "translate", "units")
_LOOK = (
    "attenuation",
    "blending",
    "colormap",
    "contrast_limits",
    "depiction",
    "gamma",
    "interpolation2d",
    "interpolation3d",
    "iso_threshold",
    "opacity",
    "plane",
    "projection_mode",
    "rendering",
    "rgb",
)


@dataclass(frozen=True)
class Canvas:
    """What the result looks like so far.

    Attributes
    ----------
    data : ndarray
        One array for the whole run, shape and dtype of the image; the worker writes to it.
    """

    data: np.ndarray


def place_of(source: Taken) -> dict[str, Any]:
    """Where a layer lies in the world, as keyword arguments for another one.

    Parameters
    ----------
    source : Taken

    Returns
    -------
    dict
        Scale, translate, rotate, shear, affine, units and axis labels.
    """
    return {key: source.state[key] for key in _PLACE}


def look_of(source: Taken) -> dict[str, Any]:
    """How an image layer looks, as keyword arguments for another one.

    Parameters
    ----------
    source : Taken

    Returns
    -------
    dict
        Contrast limits, colormap, gamma, blending, RGB and rendering.
    """
    return {key: source.state[key] for key in _LOOK if key in source.state}


class ResultLayers:
    """The layers one run puts into a viewer.

    Whatever the user does to them meanwhile counts: a result layer that was deleted is not made
    again before the end.

    Parameters
    ----------
    viewer : napari viewer
    source : Taken
        The image layer the run works on.
    done : str
        What was done to it, for the layer's name: "inpainted".
    """

    def __init__(self, viewer: Any, source: Taken, done: str) -> None:
        self.viewer = viewer
        self.source = source
        self.done = done
        self.layer: Any = None
        self._shown: Any = None  # the array we gave the layer last

    def open(self) -> None:
        """Add the result layer, looking like the source as yet.

        To be called before the fit, for adding a layer takes napari 0.1 to 0.2 s. A lazy or huge
        source is left for the first `show`: nothing of it is in memory.
        """
        data = self.source.data
        if isinstance(data, np.ndarray):
            self.layer = self._add_image(data)

    def show(self, canvas: Canvas) -> None:
        """Bring the result layer up to date."""
        if self.layer is None:
            self.layer = self._add_image(canvas.data)
        elif not self._is_ours():
            return
        elif self._shown is not canvas.data:
            self.layer.data = self._shown = canvas.data
        else:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _is_ours(self) -> bool:
        # gone, or given other data by the user: theirs now
        return (
            self.layer is not None
            and self.layer in self.viewer.layers
            and self.layer.data is self._shown
        )

    def _add_image(self, data: np.ndarray) -> Any:
        from napari.layers import Image

        layer = Image(
            data,
            name=f"{self.source.name} ({self.done})",
            **place_of(self.source),
            **look_of(self.source),
        )
        self._add(layer, select=True)
        self._shown = data
        return layer

    def _add(self, layer: Any, *, select: bool) -> None:
        layers = self.viewer.layers
        selected, active = set(layers.selection), layers.selection.active
        self.viewer.add_layer(layer)
        if not select:  # napari selects what it adds, and the user may be painting
            layers.selection.clear()
            layers.selection.update(selected)
            layers.selection.active = active

    def discard(self) -> None:
        """Take the result layer away, unless the user has made it theirs."""
        if self._is_ours():
            self.viewer.layers.remove(self.layer)

    def keep_preview(self) -> None:
        """Leave the result layer, under a name that says that it is not the end."""
        if self._is_ours():
            self.layer.name = f"{self.source.name} ({self.done}, stopped early)"

    def finish(self, result: Result) -> list[Callable[[], None]]:
        """Put the final layers into the viewer.

        Parameters
        ----------
        result : Result

        Returns
        -------
        list of callable
            One a layer. Each takes some tens of milliseconds, so the caller lets the event loop
            turn between them.
        """
        return [
            lambda: self._finish_image(result),
            lambda: self._finish_std(result),
            lambda: self._finish_synthesised(result),
        ]

    def _finish_image(self, result: Result) -> None:
        if self._is_ours():
            self.layer.data = result.image
        else:
            self.layer = self._add_image(result.image)
        self.layer.metadata = {**self.layer.metadata, "knitworks": result.record}

    def _finish_std(self, result: Result) -> None:
        from napari.layers import Image

        std = result.std
        if self.source.rgb:  # one figure a pixel; alpha is not fitted
            std = std[..., :3].mean(axis=-1)
        highest = float(std.max(initial=0))
        layer = Image(
            std,
            name=f"{self.source.name} (std)",
            rgb=False,
            colormap="magma",
            contrast_limits=(0, highest or 1.0),
            visible=False,
            metadata={"knitworks": result.record},
            **place_of(self.source),
        )
        self._add(layer, select=False)

    def _finish_synthesised(self, result: Result) -> None:
        from napari.layers import Labels

        synthesised = result.synthesised.astype(np.uint8)
        if self.source.rgb:
            synthesised = synthesised.max(axis=-1)
        layer = Labels(
            synthesised,
            name=f"{self.source.name} (synthesised)",
            visible=False,
            metadata={"knitworks": result.record},
            **place_of(self.source),
        )
        self._add(layer, select=False)
