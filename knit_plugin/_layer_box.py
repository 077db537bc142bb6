"""A drop-down list of the viewer's layers of some kinds."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox


class LayerBox(QComboBox):
    """Choose a layer; follows the viewer as layers come, go, move and change names.

    Parameters
    ----------
    viewer : napari viewer
    kinds : tuple of type
        Layer classes offered, in this order.
    nothing : str
        Shown while there is none.

    Attributes
    ----------
    release : callable
        Stops following the viewer.
    """

    layer_changed = Signal()

    def __init__(self, viewer: Any, kinds: tuple[type, ...], nothing: str) -> None:
        super().__init__()
        self._viewer = viewer
        self._kinds = kinds
        self._layers: list[Any] = []
        self.setPlaceholderText(nothing)
        # long names must not make the dock wider
        policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.setSizeAdjustPolicy(policy)
        self.setMinimumContentsLength(12)
        self.currentIndexChanged.connect(lambda _: self.layer_changed.emit())
        events = [
            getattr(viewer.layers.events, name)
            for name in ("inserted", "removed", "reordered", "renamed")
        ]

        def follow(event: Any = None) -> None:
            self.refresh()

        def release() -> None:
            for event in events:
                event.disconnect(follow)
            events.clear()

        for event in events:
            event.connect(follow)
        # A function, not a method: a widget that is being destroyed no longer has methods, but the
        # viewer's layers may outlive its window and still send events.
        self.release = release
        self.destroyed.connect(release)
        self.refresh()

    @property
    def layer(self) -> Any:
        """The chosen layer, or None."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    @layer.setter
    def layer(self, layer: Any) -> None:
        self.setCurrentIndex(self._layers.index(layer))

    @property
    def layers(self) -> list[Any]:
        """All that can be chosen."""
        return list(self._layers)

    def refresh(self) -> None:
        """Offer the viewer's layers, topmost first; the chosen one stays chosen."""
        chosen = self.layer
        layers = list(self._viewer.layers)[::-1]
        self._layers = [
            layer for kind in self._kinds for layer in layers if isinstance(layer, kind)
        ]
        self.blockSignals(True)
        self.clear()
        for i, layer in enumerate(self._layers):
            self.addItem(layer.name)
            self.setItemData(i, layer.name, Qt.ItemDataRole.ToolTipRole)
        if chosen in self._layers:
            self.setCurrentIndex(self._layers.index(chosen))
        else:
            # the user's own layers rather than what a run has made of them
            own = [
                i
                for i, layer in enumerate(self._layers)
                if not any(str(key).startswith("knitworks") for key in layer.metadata)
            ]
            self.setCurrentIndex((own or [0])[0] if self._layers else -1)
        self.blockSignals(False)
        self.layer_changed.emit()
