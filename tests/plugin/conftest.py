"""A viewer with the widget docked, and short ways to wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knit_plugin import _cache, _settings

ROOT = Path(__file__).parents[2]
WAIT = 120_000  # ms; only a guard against waiting for ever


@pytest.fixture
def plugin() -> str:
    """The plugin's name, known to napari even where the package is not installed."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    manager.discover()
    if "napari-knitworks" not in manager:
        manager.register(PluginManifest.from_file(ROOT / "napari.yaml"))
    return "napari-knitworks"


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of settings for each test, so that the user's own are neither read nor written."""
    import napari.settings as settings

    folder = tmp_path / "settings"
    monkeypatch.setattr(settings, "_CFG_PATH", str(folder / "settings.yaml"), raising=False)
    clear = getattr(settings, "_clear_plugin_settings_cache", lambda: None)
    clear()
    _settings._kept.clear()
    _cache._results.clear()
    yield folder
    clear()
    _settings._kept.clear()
    _cache._results.clear()


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What napari shows as notifications, as "severity: text"."""
    from napari.utils.notifications import notification_manager

    shown: list[str] = []

    def keep(notification: Any) -> None:
        shown.append(f"{notification.severity}: {notification.message}")

    notification_manager.notification_ready.connect(keep)
    yield shown
    notification_manager.notification_ready.disconnect(keep)


@pytest.fixture
def slope() -> np.ndarray:
    """A 40×48 image with gentle structure, uint16."""
    y, x = np.mgrid[:40, :48]
    return (1000 + 10 * y + 5 * x + 200 * np.sin(x / 5)).astype(np.uint16)


@pytest.fixture
def hole() -> np.ndarray:
    """Labels of the same shape: 1 in a square of 8×8, 2 in a line of two rows."""
    labels = np.zeros((40, 48), np.uint8)
    labels[12:20, 14:22] = 1
    labels[30:32, 5:40] = 2
    return labels


@pytest.fixture
def dock_task(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Callable[..., Any]:
    """Dock a task's widget in a viewer."""

    def open_widget(kind: Any, viewer: Any = None, *, show: bool = False) -> tuple[Any, Any]:
        viewer = viewer or make_napari_viewer(show=show)
        widget = kind(viewer)
        viewer.window.add_dock_widget(widget, name=f"{kind.verb} (Knitworks)", area="right")
        return viewer, widget

    return open_widget


@pytest.fixture
def dock(dock_task: Callable[..., Any]) -> Callable[..., Any]:
    """Dock the inpainting widget in a viewer, set to a fit of about a second."""

    def open_widget(viewer: Any = None, *, steps: int = 30, show: bool = False) -> tuple[Any, Any]:
        from knit_plugin.inpaint_widget import InpaintWidget

        viewer, widget = dock_task(InpaintWidget, viewer, show=show)
        widget.form.inputs["steps"].value = steps
        widget.form.inputs["ensemble"].value = 1
        widget.form.inputs["knit_depth"].value = 0  # small holes get a fit, too
        return viewer, widget

    return open_widget


@pytest.fixture
def open_from_menu(plugin: str) -> Callable[[Any, str], Any]:
    """Open a widget by its line in the Plugins menu."""

    def open_widget(viewer: Any, title: str) -> Any:
        menu = viewer.window.plugins_menu
        for text in ("Knitworks", title):
            (action,) = [a for a in menu.actions() if a.text() == text]
            menu = action.menu()
        action.trigger()
        return viewer.window.dock_widgets[title]

    return open_widget


@pytest.fixture
def finish(qtbot: Any) -> Callable[[Any], None]:
    """Wait until a widget's run is over."""

    def wait(widget: Any) -> None:
        qtbot.waitUntil(lambda: not widget.busy, timeout=WAIT)

    return wait


@pytest.fixture
def fitting(qtbot: Any) -> Callable[[Any], None]:
    """Wait until a widget's run is in the middle of the fit."""

    def wait(widget: Any) -> None:
        qtbot.waitUntil(lambda: widget.panel.losses.text() != "", timeout=WAIT)
        assert widget.job is not None

    return wait
