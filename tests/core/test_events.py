"""Generators that are worked through: passed on, and beside each other."""

from __future__ import annotations

import threading
import time

import pytest

from knitcore.events import Alongside, drain


def counting(last: int, seconds: float = 0.0):
    for number in range(last):
        time.sleep(seconds)
        yield number
    return "counted"


def test_what_runs_alongside_gives_its_result_and_what_it_told_last() -> None:
    begun = Alongside(counting(4, 0.05))
    told: list[int | None] = []
    assert drain(begun.wait(), told.append) == "counted"
    assert begun.told == 3
    seen = [one for one in told if one is not None]
    assert seen == sorted(seen)


def test_its_error_is_raised_where_it_is_waited_for() -> None:
    def failing():
        yield 1
        raise ValueError("out of paper")

    begun = Alongside(failing())
    with pytest.raises(ValueError, match="out of paper"):
        drain(begun.wait(), None)


def test_closing_ends_it_at_its_next_step_and_runs_its_clean_up() -> None:
    ended = threading.Event()

    def endless():
        try:
            while True:
                time.sleep(0.01)
                yield 0
        finally:
            ended.set()

    begun = Alongside(endless())
    waiting = begun.wait()
    next(waiting)
    waiting.close()  # as a cancelled run does
    assert ended.is_set()
    begun.close()  # once more does no harm
