"""Every example of README and docs/ runs, with few steps where the page has many."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
QUICK: dict[str, dict[str, int]] = {
    "inpaint": {"steps": 5, "ensemble": 1},
    "denoise": {"steps": 5, "passes": 1, "window": 3, "group": 8},
    "super-resolve": {"passes": 1, "window": 3, "group": 8},
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of each fenced block of a language."""
    text = page.read_text(encoding="utf-8")
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start(1)) + 1, m[1]) for m in fence.finditer(text)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder that holds the sample and the test images."""
    for source in (ROOT / "knitcore" / "samples", ROOT / "tests" / "data"):
        for path in source.glob("*.*"):
            if path.suffix in (".tif", ".png"):
                shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    from knitcore.recipe import PRESETS

    for task, fields in QUICK.items():
        monkeypatch.setitem(PRESETS[task], "fast", fields)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_blocks_run_in_order(page, folder, quick):
    namespace = {"__name__": "__main__"}
    for line, text in blocks(page, "python"):
        # padded, so that a traceback points into the page
        code = compile("\n" * (line - 1) + text, str(page), "exec")
        exec(code, namespace)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "console")], ids=name)
def test_knit_commands_run(page, folder):
    commands = []
    for _, text in blocks(page, "console"):
        joined = text.replace("\\\n", " ")
        commands += [line[2:] for line in joined.splitlines() if line.startswith("$ knit ")]
    paths = [str(ROOT), str(ROOT / "cli")]
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        if arguments[0] in QUICK and not {"--help", "--recipe"} & set(arguments):
            arguments += [w for k, v in QUICK[arguments[0]].items() for w in (f"--{k}", str(v))]
        done = subprocess.run(
            [sys.executable, "-m", "knit_cli", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_examples_run(example, folder, quick, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_inside_the_repository_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{name(page)}: no {target}"


@pytest.mark.parametrize(
    ("page", "model"),
    [("inpainting", "Inpaint"), ("denoising", "Denoise"), ("super_resolution", "SuperResolve")],
)
def test_defaults_in_the_table_of_settings_are_the_recipe_s(page, model):
    import knitcore

    recipe = getattr(knitcore, model)()
    text = (ROOT / "docs" / f"{page}.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", text, flags=re.MULTILINE)
    told = {f: value.strip("`") for f, value in rows if f in type(recipe).model_fields}
    assert len(told) >= 5
    assert told == {field: str(getattr(recipe, field)) for field in told}
