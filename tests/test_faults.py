"""The pages that lead from faults to tests name tests that are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("page", "folder", "least"),
    [("FAULTS_batch.md", "cli", 30), ("FAULTS_napari.md", "plugin", 20)],
)
def test_each_test_named_exists(page, folder, least):
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (TESTS / page).read_text())
    assert len(named) > least
    for file, name in named:
        text = (TESTS / folder / file).read_text()
        assert f"def {name}(" in text, f"{file}: no {name}"


def test_every_fault_has_a_row():
    """Of the 73 faults that were thought of beforehand."""
    pages = "".join(path.read_text() for path in TESTS.glob("FAULTS_*.md"))
    numbers = {int(n) for n in re.findall(r"^\| [A-H](\d+) \|", pages, flags=re.MULTILINE)}
    assert numbers == set(range(1, 74))


def test_each_test_named_in_words_exists():
    page = (TESTS / "FAULTS_formats.md").read_text()
    rows = re.findall(r"^\| [A-H]\d+ \|[^|]*\|([^|]*)\|", page, flags=re.MULTILINE)
    names = {n for row in rows for n in re.findall(r"\b[a-z\d]+(?:_[a-z\d]+){2,}\b", row)}
    names = {name for name in names if not name.startswith("test_")}
    assert len(names) > 60
    sources = "".join(path.read_text() for path in TESTS.glob("*/test_*.py"))
    assert {name for name in names if f"def test_{name}(" not in sources} == set()
