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
