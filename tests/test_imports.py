"""Which module may import which, and what a light start must not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = {"napari", "qtpy", "superqt", "magicgui", "PyQt6", "PySide6"}
TERMINAL = {"click", "rich", "tqdm"}
HEAVY = {"torch", "scipy", "skimage", "napari", "qtpy", "vispy"}

FORBIDDEN = {
    "knitcore": WINDOWS | TERMINAL | {"dask", "knit_cli", "knit_plugin"},
    "cli/knit_cli": WINDOWS | {"knit_plugin"},
    "knit_plugin": {"click", "knit_cli"},
}

# A module of the core imports only from those above it, inside functions too.
ORDER = (
    "errors",
    "events",
    "recipe",
    "axes",
    "overlay",
    "plan",
    "masks",
    "run_file",
    "device",
    "power_transform",
    "kriging",
    "texture",
    "harmonic",
    "patches",
    "tiles",
    "noise_model",
    "noise_levels",
    "noise",
    "sampling",
    "spectrum",
    "degradation",
    "networks",
    "losses",
    "result",
    "running",
    "filling",
    "adam",
    "fit",
    "side_by_side",
    "coarse_scales",
    "edges",
    "blind_spot",
    "posterior",
    "fast_denoising",
    "cross_scale",
    "upscaling",
    "knitting",
    "metadata",
    "tiff",
    "pictures",
    "zarr_files",
    "vendor",
    "files",
    "metrics",
    "validation",
    "look_alikes",
    "inpainting",
    "denoising",
    "super_resolution",
    "tasks",
)


def imports(path: Path) -> Iterator[str]:
    """Dotted names a file imports, wherever in the file, but for ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide what is imported"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_stays_in_its_layer(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        found = {name.split(".")[0] for name in imports(path)} & FORBIDDEN[package]
        assert not found, f"{path.relative_to(ROOT)} imports {', '.join(found)}"


def test_modules_of_the_core_import_only_from_those_above():
    modules = {path.stem: path for path in (ROOT / "knitcore").glob("*.py")}
    del modules["__init__"]
    assert set(modules) <= set(ORDER), "a new module: give it its place in ORDER"
    for name, path in modules.items():
        inner = {n.split(".")[1] for n in imports(path) if n.startswith("knitcore.")}
        later = inner & set(ORDER[ORDER.index(name) :])
        assert not later, f"knitcore/{name}.py imports {', '.join(later)}, which come later"


def test_only_comparisons_import_the_peers():
    # the product must not come to lean on what it is measured against
    users = {
        path.relative_to(ROOT).as_posix()
        for package in FORBIDDEN
        for path in (ROOT / package).rglob("*.py")
        if any((name + ".").startswith("knitcore.baselines.") for name in imports(path))
    }
    outside = {path for path in users if not path.startswith("knitcore/baselines/")}
    assert outside == {"cli/knit_cli/compare.py", "knit_plugin/_task_widget.py"}


def test_no_module_is_called_like_a_public_function():
    # the import system would put the module in the function's place
    import knitcore

    assert not set(knitcore.__all__) & {p.stem for p in (ROOT / "knitcore").glob("*.py")}


def loaded_after(code: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    script = (
        f"import sys; sys.argv = {['knit', *arguments]!r}\n"
        "try:\n"
        f"    {code}\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_the_core_is_light():
    assert not loaded_after("import knitcore") & HEAVY


@pytest.mark.parametrize("module", ["errors", "events", "recipe", "axes", "result", "files"])
def test_these_modules_do_without_torch(module):
    assert "torch" not in loaded_after(f"import knitcore.{module}")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_asking_knit_what_it_is_is_light(option):
    assert not loaded_after("from knit_cli.main import main; main()", option) & HEAVY


def test_help_of_a_command_is_light():
    assert not loaded_after("from knit_cli.main import main; main()", "inpaint", "--help") & HEAVY


def test_every_public_name_is_there():
    import knitcore

    for name in knitcore.__all__:
        assert getattr(knitcore, name) is not None
