"""From the core to napari layers: the preview that refines, and what stands at the end."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from knit_plugin._layers import COPY_AT_ONCE, Taken
from knitcore import Result
from knitcore.overlay import Overlay

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


GROW_AT_ONCE = 4 * 2**20  # bytes; larger ones are enlarged in the worker
PREVIEW_GAP, MOST_GAP = 0.5, 10.0  # seconds between two pictures of the result
PREVIEW_SHARE = 0.05  # of the main thread's time, for these pictures


@dataclass(frozen=True)
class Canvas:
    """What the result looks like so far.

    Attributes
    ----------
    data : ndarray
        One array for the whole run, shape of the result, dtype of the image; the worker writes to
        it.
    """

    data: Any


@dataclass(frozen=True)
class Ready:
    """What a result's further layers show, made in the worker: it takes a moment for large images.

    Attributes
    ----------
    image : array-like
        A dask array where the result is lazy.
    std : ndarray of float32
        One a pixel.
    highest : float
        Of `std`.
    synthesised : ndarray of uint8
        One a pixel.
    extra : object
        What the task wants besides.
    """

    image: Any
    std: np.ndarray
    highest: float
    synthesised: np.ndarray
    extra: Any = None


def make_ready(result: Result, rgb: bool, extra: Any = None) -> Ready:
    """Make what the layers of a result show; for a worker thread.

    Parameters
    ----------
    result : Result
    rgb : bool
    extra : object

    Returns
    -------
    Ready
    """
    image: Any = result.image
    if isinstance(image, Overlay):
        import dask.array

        planes = image.ndim - image.inner
        chunks = (1,) * planes + image.shape[planes:]
        image = dask.array.from_array(image, chunks, name=False)  # nothing is hashed
    std = one_a_pixel(result.std, rgb)
    synthesised = result.synthesised.view(np.uint8)  # no copy
    if rgb:
        synthesised = synthesised.max(axis=-1)
    return Ready(image, std, float(std.max(initial=0)), synthesised, extra)


def place_of(
    source: Taken, factors: tuple[float, ...] | None = None, anchor: str = "centre"
) -> dict[str, Any]:
    """Where a layer lies in the world, as keyword arguments for another one.

    Parameters
    ----------
    source : Taken
    factors : tuple of float, optional
        By how much each axis of the other layer is enlarged.
    anchor : str
        "centre": its pixel i lies over this layer's data coordinate (i + 1/2) / factor - 1/2, so
        that both cover the same place; "corner": over i / factor.

    Returns
    -------
    dict
        Scale, translate, rotate, shear, affine, units and axis labels.
    """
    place = {key: source.state[key] for key in _PLACE}
    if factors is None or all(factor == 1 for factor in factors):
        return place
    ndim, grown = source.ndim, np.asarray(factors, float)
    affine = np.asarray(place["affine"], float)[:ndim, :ndim]
    place["scale"] = np.asarray(place["scale"], float) / grown
    if anchor == "centre":
        # half a fine pixel and half a coarse one apart, in the world; translate precedes affine
        shift = np.linalg.solve(affine, source.matrix[:ndim, :ndim] @ (0.5 / grown - 0.5))
        place["translate"] = np.asarray(place["translate"], float) + shift
    return place


def enlarged_shape(source: Taken, factors: tuple[float, ...]) -> tuple[int, ...]:
    """Shape of a result whose axes have grown.

    Parameters
    ----------
    source : Taken
    factors : tuple of float
        One an axis of the layer; colours do not grow.

    Returns
    -------
    tuple of int
    """
    sides = [max(1, round(n * f)) for n, f in zip(source.shape, factors, strict=True)]
    return (*sides, *source.data.shape[source.ndim :])


def nearest(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A copy of another size, each pixel from the one it lies in.

    Parameters
    ----------
    array : ndarray
    shape : tuple of int

    Returns
    -------
    ndarray of that shape
    """
    if array.shape == shape:
        return array.copy()
    for axis, (old, new) in enumerate(zip(array.shape, shape, strict=True)):
        if old != new:
            array = array.take((2 * np.arange(new) + 1) * old // (2 * new), axis)
    return array


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
    factors : tuple of float
        By how much each axis of the layer grows.
    anchor : str
        As for `place_of`.
    told : dict, optional
        What else the layers' metadata say of the run, under ``knitworks_run``.
    """

    def __init__(
        self,
        viewer: Any,
        source: Taken,
        done: str,
        factors: tuple[float, ...],
        anchor: str = "centre",
        told: dict[str, Any] | None = None,
    ) -> None:
        self.viewer = viewer
        self.source = source
        self.done = done
        self.shape = enlarged_shape(source, factors)
        self._factors = factors
        self._told = told or {}
        self._place = place_of(source, factors, anchor)
        self.layer: Any = None
        self.std_layer: Any = None
        self._shown: Any = None  # the array we gave the layer last
        self.has_shown = False  # something of the fit
        self.gap = PREVIEW_GAP

    def open(self) -> None:
        """Add the result layer, looking like the source as yet.

        To be called before the fit, for adding a layer takes napari 0.1 to 0.2 s. A lazy or huge
        source is left for the first `show`: nothing of it is in memory.
        """
        data = self.source.data
        if isinstance(data, np.ndarray):
            grown = data.shape != self.shape
            if not grown or np.prod(self.shape) * data.itemsize <= GROW_AT_ONCE:
                self.layer = self._add_image(nearest(data, self.shape) if grown else data)

    def measure(self, began: float) -> None:
        """Leave more time between pictures where one takes long: a large canvas, a busy machine.

        Parameters
        ----------
        began : float
            `time.monotonic` before the `show` whose picture has been painted now.
        """
        self.gap = max(PREVIEW_GAP, min(MOST_GAP, (time.monotonic() - began) / PREVIEW_SHARE))

    def show(self, canvas: Canvas) -> None:
        """Bring the result layer up to date."""
        self.has_shown = True
        if self.layer is None:
            self.layer = self._add_image(canvas.data, select=False)
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

    def _add_image(self, data: np.ndarray, select: bool = True) -> Any:
        from napari.layers import Image

        look = look_of(self.source)
        if data.shape != self.source.data.shape:
            look.pop("plane", None)  # it is given in pixels
        name, told = f"{self.source.name} ({self.done})", {"knitworks_run": self._told}
        layer = Image(data, name=name, metadata=told, **self._place, **look)
        self._add(layer, select=select)
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

    def hide(self) -> None:
        """Let the result layer be seen no more, which is quick; `discard` may come a little later."""
        if self._is_ours():
            self.layer.visible = False

    def discard(self) -> None:
        """Take the result layer away, unless the user has made it theirs."""
        if self._is_ours():
            small = getattr(self._shown, "nbytes", 0) <= COPY_AT_ONCE
            with without_search() if small else contextlib.nullcontext():
                self.viewer.layers.remove(self.layer)

    def keep_preview(self) -> None:
        """Leave the result layer, under a name that says that it is not the end."""
        if self._is_ours():
            self.layer.name = f"{self.source.name} ({self.done}, stopped early)"

    def finish(self, result: Result, ready: Ready) -> list[Callable[[], None]]:
        """Put the final layers into the viewer.

        Parameters
        ----------
        result : Result
        ready : Ready

        Returns
        -------
        list of callable
            One a layer: image and std. Each takes some tens of milliseconds, so the caller lets the
            event loop turn between them.
        """
        return [lambda: self._finish_image(result, ready), lambda: self.add_std(result, ready)]

    def _finish_image(self, result: Result, ready: Ready) -> None:
        if self._is_ours():
            self.layer.data = ready.image
        else:
            self.layer = self._add_image(ready.image)
        self.layer.metadata = {**self.layer.metadata, **self._metadata(result)}

    def _metadata(self, result: Result) -> dict[str, Any]:
        return {"knitworks": result.record, "knitworks_run": self._told}

    def add_std(self, result: Result, ready: Ready) -> None:
        """Add the expected errors, hidden."""
        limits = (0, ready.highest or 1.0)
        look: dict[str, Any] = {"colormap": "magma", "contrast_limits": limits}
        self.std_layer = self._add_hidden(ready.std, "std", result, None, **look)

    def add_residual(self, residual: np.ndarray, width: float, result: Result) -> None:
        """Add what denoising took away, hidden: grey for nothing.

        Parameters
        ----------
        residual : ndarray of float32
            As made by `one_a_pixel`.
        width : float
            What is white; its negative is black.
        result : Result
        """
        limits = (-width, width)
        self._add_hidden(residual, "residual", result, colormap="gray", contrast_limits=limits)

    def add_synthesised(self, result: Result, ready: Ready) -> None:
        """Add which pixels were invented as labels, hidden."""
        from napari.layers import Labels

        layer = Labels(
            ready.synthesised,
            name=f"{self.source.name} (synthesised)",
            visible=False,
            metadata=self._metadata(result),
            **self._place,
        )
        self._add(layer, select=False)

    def add_kernel(self, result: Result, axes: tuple[int, ...]) -> None:
        """Add the kernel over the image's centre, on the result's pixels; hidden.

        Parameters
        ----------
        result : Result
        axes : tuple of int
            The layer's axes along which the kernel lies.
        """
        kernel, source = result.kernel, self.source
        if kernel is None:
            return
        size, order = len(axes), list(axes)
        matrix = (source.matrix[:-1, :-1] / np.asarray(self._factors))[np.ix_(order, order)]
        middle = (np.asarray(source.shape) - 1) / 2
        centre = (source.matrix @ [*middle, 1.0])[order]
        affine = np.eye(size + 1)
        affine[:size, :size] = matrix
        affine[:size, size] = centre - matrix @ ((np.asarray(kernel.shape) - 1) / 2)
        place = {"affine": affine, "units": [source.units[a] for a in order]}
        place["axis_labels"] = [source.state["axis_labels"][a] for a in order]
        self._add_hidden(kernel.astype(np.float32), "kernel", result, place, colormap="viridis")

    def _add_hidden(
        self,
        data: np.ndarray,
        what: str,
        result: Result,
        place: dict[str, Any] | None = None,
        **look: Any,
    ) -> Any:
        from napari.layers import Image

        layer = Image(
            data,
            name=f"{self.source.name} ({what})",
            rgb=False,
            visible=False,
            metadata=self._metadata(result),
            **(self._place if place is None else place),
            **look,
        )
        self._add(layer, select=False)
        return layer


@contextlib.contextmanager
def without_search() -> Iterator[None]:
    """Keep Python from looking through its whole heap for garbage.

    napari has it do so whenever a layer goes: with all that a viewer loads this takes 0.2 s and more.
    What is frozen meanwhile is looked at the next time.
    """
    ours = gc.get_freeze_count() == 0  # what somebody else has frozen stays frozen
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def residual_width(residual: np.ndarray) -> float:
    """Contrast limit of a residual: three standard deviations.

    Parameters
    ----------
    residual : ndarray of float

    Returns
    -------
    float
    """
    return 3 * float(np.nanstd(residual)) or 1.0


def one_a_pixel(array: np.ndarray, rgb: bool) -> np.ndarray:
    """The mean over the colours of an RGB image's figures; alpha is not fitted.

    Parameters
    ----------
    array : ndarray
    rgb : bool
        Whether the last axis is R, G, B and perhaps A.

    Returns
    -------
    ndarray
    """
    return array[..., :3].mean(axis=-1) if rgb else array
