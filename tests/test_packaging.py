"""What ends up in the wheel, and that the installed copies are the repository's."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "knitcore" / "samples"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def installed():
    try:
        return metadata.distribution("napari-knitworks")
    except metadata.PackageNotFoundError:
        pytest.skip("the package itself is not installed: pip install -e .")


def test_installed_manifest_is_the_one_at_the_top(installed):
    from npe2 import PluginManifest

    copy = PluginManifest.from_distribution("napari-knitworks")
    ours = PluginManifest.from_file(ROOT / "napari.yaml")
    without = {"package_metadata"}
    assert copy.model_dump(exclude=without) == ours.model_dump(exclude=without), (
        "napari.yaml has changed since: pip install -e . again"
    )


def test_version_is_the_same_everywhere(installed):
    import knitcore

    assert installed.version == PROJECT["version"] == knitcore.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{PROJECT['version']}]" in changes or "## [Unreleased]" in changes


def test_requirements_have_no_upper_bounds():
    requirements = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        requirements += extra
    assert not [r for r in requirements if "<" in r or "==" in r or "~=" in r]


def test_base_install_has_no_windows():
    names = " ".join(PROJECT["dependencies"]).lower()
    assert "napari" not in names
    assert "qt" not in names


def test_wheel_holds_packages_samples_and_manifest(tmp_path):
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "knitcore/inpainting.py",
        "knitcore/samples/damaged_micrograph.tif",
        "knitcore/samples/damaged_micrograph_mask.png",
        "knitcore/samples/CREDITS.md",
        "knit_cli/main.py",
        "knit_plugin/inpaint_widget.py",
        "napari_knitworks/napari.yaml",
    } <= names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "knitcore",
        "knit_cli",
        "knit_plugin",
        "napari_knitworks",
    }


def test_sample_is_damaged_where_its_mask_says_and_nowhere_else():
    damaged = tifffile.imread(SAMPLES / "damaged_micrograph.tif")
    mask = np.asarray(Image.open(SAMPLES / "damaged_micrograph_mask.png"))
    truth = tifffile.imread(ROOT / "tests" / "data" / "micrograph_truth.tif")
    assert damaged.dtype == truth.dtype == np.uint16
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(damaged[mask == 0], truth[mask == 0])
    assert (damaged[mask != 0] != truth[mask != 0]).mean() > 0.99


def test_test_images_stay_small_and_are_credited():
    folder = ROOT / "tests" / "data"
    files = [p for p in folder.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 4_000_000
    credits = (folder / "CREDITS.md").read_text()
    masks = (folder / "defects.json").read_text()
    for path in files:
        if path.suffix in (".tif", ".png"):
            assert path.name in credits + masks, f"{path.name}: no credit"
