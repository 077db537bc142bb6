"""What all tests share: where the files are, and when a viewer can be opened at all."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]

# A viewer needs a display, or Xvfb to make one (pytest-xvfb starts it). Without either, Qt would
# abort the whole test process, so its tests are skipped and the others run on Qt's own stand-in.
NO_DISPLAY = (
    sys.platform == "linux"
    and not os.environ.get("DISPLAY")
    and not os.environ.get("WAYLAND_DISPLAY")
    and shutil.which("Xvfb") is None
)
if NO_DISPLAY:
    os.environ["QT_QPA_PLATFORM"] = "offscreen"

# The core and the command are tested without the extra `napari`, too.
collect_ignore = [] if find_spec("napari") else ["plugin"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="needs a display or Xvfb")
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if NO_DISPLAY and any(name.startswith("make_napari_viewer") for name in fixtures):
            item.add_marker(skip)


def pytest_report_header() -> list[str]:
    lines = []
    if NO_DISPLAY:
        lines.append("no display and no Xvfb: tests of the viewer are skipped")
    if collect_ignore:
        lines.append("napari is not installed: tests/plugin is left out")
    return lines


@pytest.fixture
def data() -> Path:
    """Folder of the test images."""
    return ROOT / "tests" / "data"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same each time."""
    return np.random.default_rng(0)
