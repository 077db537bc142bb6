"""The widget "Super-resolve (Knitworks)"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QCheckBox, QFormLayout, QWidget

from knit_plugin._layers import Taken, core_image
from knit_plugin._results import Ready, ResultLayers
from knit_plugin._run_panel import duration
from knit_plugin._task_widget import TaskWidget
from knitcore import Result

BASIC = ("preset", "scale", "kernel", "seed", "device")
ADVANCED = (
    "sigma",
    "anchor",
    "channels",
    "nan_as_hole",
    "passes",
    "patch",
    "window",
    "group",
    "block",
)
PICTURE = 96  # pixels on the screen


class SuperResolveWidget(TaskWidget):
    """Enlarge an image layer, and find the kernel by which it lost its resolution.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
    """

    task = "super-resolve"
    verb = "Super-resolve"
    image_tip = "The image layer to enlarge; it is not changed."
    basic = BASIC
    advanced = ADVANCED
    preview_side = 128
    in_planes = False

    def add_inputs(self, layers: QFormLayout) -> list[QWidget]:
        """Whether the kernel is wanted as a layer."""
        self.kernel_box = QCheckBox()
        tip = (
            "Add the kernel as a hidden layer, in the middle of the image, on the result's pixels."
        )
        self.form.add_basic_row("Kernel layer", self.kernel_box, tip)
        self.form.inputs["scale"].changed.connect(lambda _: self.check())
        return []

    @staticmethod
    def rehearse() -> None:
        """A slope, one pass."""
        import knitcore

        slope = np.add.outer(np.arange(24.0), np.sin(np.arange(24.0)))
        knitcore.super_resolve(slope, 2, passes=1, device="cpu")

    def factors(self, image: Taken, recipe: Any) -> tuple[float, ...]:
        """By how much each axis of the layer grows; InputError when it cannot."""
        from knitcore.super_resolution import enlargement

        layout, factors = enlargement(core_image(image, image.data), recipe.factors)
        grown = dict(zip(layout.spatial, factors, strict=True))
        return tuple(grown.get(axis, 1.0) for axis in range(image.ndim))

    def done(self, recipe: Any) -> str:
        """For the result layer's name."""
        return recipe.scale if "x" in recipe.scale else f"x{recipe.scale}"

    def more_layers(
        self, layers: ResultLayers, result: Result, ready: Ready
    ) -> list[Callable[[], None]]:
        """The kernel, when it is wanted."""
        if not self.kernel_box.isChecked() or result.kernel is None:
            return []
        axes = tuple(result.source.axes.index(letter) for letter in result.factors)
        return [lambda: layers.add_kernel(result, axes)]

    def summary(self, result: Result) -> str:
        """From which size to which, how fast, by which kernel, and what that leaves."""
        record = result.record
        colours = result.source.axes.endswith("S")
        before, after = (
            " × ".join(map(str, array.shape[: array.ndim - colours]))
            for array in (result.source.data, result.image)
        )
        parts = [f"Enlarged {before} to {after} in {duration(record['seconds']['total'])}"]
        kernel = kernel_in_words(record.get("kernel", {}))
        if kernel:
            parts.append(f"kernel {kernel}")
        left = [rms for one in record.get("residual", []) for rms in np.atleast_1d(one["rms"])]
        if left:
            rms = float(np.sqrt(np.mean(np.square(left))))
            noise = max(float(one.get("noise", 0)) for one in record["residual"])
            beside = f" (its noise: {noise:.2g})" if noise else ""
            parts.append(f"degrading it again leaves {rms:.2g} grey levels{beside}")
        return "; ".join(parts) + "."

    def picture(self, result: Result) -> tuple[QPixmap, str] | tuple[()]:
        """The kernel."""
        if result.kernel is None:
            return ()
        sides = " × ".join(map(str, result.kernel.shape))
        tip = f"The kernel, {sides} pixels of the result; white is its highest value."
        if result.kernel.ndim > 2:
            tip += " Its middle plane is shown."
        return kernel_picture(result.kernel), tip


def kernel_in_words(kernel: dict[str, Any]) -> str:
    """What a record tells of a kernel.

    Parameters
    ----------
    kernel : dict
        ``family``, ``sigmas_output_pixels`` and ``angle`` (degrees), as far as known.

    Returns
    -------
    str

    Examples
    --------
    >>> kernel_in_words({"family": "round", "sigmas_output_pixels": [1.61, 1.61], "angle": 0.0})
    'gaussian 1.6 × 1.6 px'
    >>> kernel_in_words({"family": "given"})
    'as given'
    """
    sigmas = kernel.get("sigmas_output_pixels") or []
    if not any(sigmas):
        family = kernel.get("family") or ""
        return (
            "as given"
            if family == "given" and not sigmas
            else f"{family}".replace("given", "delta")
        )
    angle = kernel.get("angle")
    turned = f" at {angle:.0f}°" if angle else ""
    return f"gaussian {' × '.join(f'{sigma:.2g}' for sigma in sigmas)} px{turned}"


def kernel_picture(kernel: np.ndarray) -> QPixmap:
    """A kernel in grey, each value a square of pixels.

    Parameters
    ----------
    kernel : ndarray, shape (..., Y, X)

    Returns
    -------
    QPixmap
        About 96 pixels wide and high.
    """
    plane = kernel[tuple(n // 2 for n in kernel.shape[:-2])]
    grey = np.clip(plane / max(float(plane.max()), 1e-12), 0, 1)
    step = max(1, PICTURE // max(plane.shape))
    squares = np.kron(255 * grey, np.ones((step, step))).round().astype(np.uint8)
    height, width = squares.shape
    kind = QImage.Format.Format_Grayscale8
    return QPixmap.fromImage(QImage(squares.tobytes(), width, height, width, kind).copy())
