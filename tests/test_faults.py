"""The page that leads from faults to tests names tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_each_test_named_exists():
    page = (TESTS / "FAULTS_batch.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 30
    for file, name in named:
        text = (TESTS / "cli" / file).read_text()
        assert f"def {name}(" in text, f"{file}: no {name}"
