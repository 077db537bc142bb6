"""Generators that are worked through: passed on, and beside each other."""

from __future__ import annotations

import threading
import time

import pytest

from knitcore.events import Alongside, both_halves, drain, two_at_once


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


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("many", [0, 1, 4, 5])
def test_results_of_two_at_once_come_in_order(many: int, beside: bool) -> None:
    def slower_the_earlier(number: int) -> int:
        time.sleep(0.02 * (many - number))
        return number**2

    assert list(two_at_once(slower_the_earlier, range(many), beside)) == [n**2 for n in range(many)]


def test_every_second_one_is_worked_on_beside_the_first() -> None:
    both = threading.Barrier(2, timeout=5)
    places = list(two_at_once(lambda _: both.wait(), range(4), beside=True))
    assert sorted(places) == [0, 0, 1, 1]


def test_what_fails_beside_fails_where_results_are_taken() -> None:
    def fragile(number: int) -> int:
        if number == 1:
            raise ValueError("out of ink")
        return number

    results = two_at_once(fragile, range(4), beside=True)
    assert next(results) == 0
    with pytest.raises(ValueError, match="out of ink"):
        next(results)


def test_who_stops_taking_results_waits_for_none_but_the_one_under_way() -> None:
    begun: list[int] = []
    results = two_at_once(begun.append, range(100), beside=True)
    next(results)
    results.close()
    assert sorted(begun) == [0, 1]
