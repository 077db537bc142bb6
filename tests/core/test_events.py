"""Generators that are worked through: passed on, and beside each other."""

from __future__ import annotations

import threading
import time

import pytest

from knitcore.events import Alongside, both_halves, drain


def counting(last: int, seconds: float = 0.0):
    for number in range(last):
        time.sleep(seconds)
        yield number
    return "counted"


def endless(ended: threading.Event):
    try:
        while True:
            time.sleep(0.01)
            yield
    finally:
        ended.set()


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
    begun = Alongside(endless(ended))
    waiting = begun.wait()
    next(waiting)
    waiting.close()  # as a cancelled run does
    assert ended.is_set()
    begun.close()  # once more does no harm


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("many", [1, 2])
def test_halves_give_the_same_at_once_and_one_after_the_other(many: int, beside: bool) -> None:
    def quiet(last: int):
        yield from (None for _ in range(last))
        return last

    halves = [quiet(last) for last in (3, 5)[:many]]
    assert drain(both_halves(halves, beside)) == [3, 5][:many]


def test_a_half_under_way_ends_with_the_other() -> None:
    ended = threading.Event()

    def failing():
        yield
        raise ValueError("out of paper")

    with pytest.raises(ValueError, match="out of paper"):
        drain(both_halves([failing(), endless(ended)], beside=True))
    assert ended.is_set()
