"""Who goes first."""

from __future__ import annotations

import threading
import time
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.denoiser.line import Line, Place, Urgency
from tests.support.waiting import wait_until

INTERACTIVE, STANDARD, BATCH = 1, 2, 3


def never() -> None:
    pass


class Entrant(threading.Thread):
    """Enters, notes that, stays in until told, and leaves."""

    def __init__(self, line: Line, urgency: Urgency, order: list[Urgency]) -> None:
        super().__init__(daemon=True)
        self._line, self._urgency, self._order = line, urgency, order
        self.told: list[int] = []
        self.go = threading.Event()

    def run(self) -> None:
        with Place(self._line, self._urgency, never, self.told.append):
            self._order.append(self._urgency)
            self.go.wait(60)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([5.0, 9.0, inf])), min_size=1, max_size=6))
def test_by_class_then_deadline_then_age(wanted: list[tuple[int, float]]) -> None:
    line, order = Line(1), list[Urgency]()
    with Place(line, Urgency(INTERACTIVE, 0.0), never):
        urgencies = [Urgency(priority, deadline) for priority, deadline in wanted]
        entrants = [Entrant(line, urgency, order) for urgency in urgencies]
        for entrant in entrants:
            entrant.go.set()
            entrant.start()
        wait_until(lambda: len(line) == len(entrants))
    for entrant in entrants:
        entrant.join(10)
    assert order == sorted(urgencies)
    assert [(urgency.priority, urgency.deadline) for urgency in order] == sorted(wanted)


def test_as_many_are_in_as_there_are_places_and_the_others_know_who_is_before() -> None:
    line, order = Line(2), list[Urgency]()
    entrants = [Entrant(line, Urgency(STANDARD, inf), order) for _ in range(4)]
    for count, entrant in enumerate(entrants, 1):
        entrant.start()
        wait_until(lambda count=count: len(order) + len(line) == count)
    wait_until(lambda: entrants[3].told == [1])
    assert (len(order), len(line)) == (2, 2)
    entrants[0].go.set()
    wait_until(lambda: len(order) == 3)
    for entrant in entrants:
        entrant.go.set()
        entrant.join(10)
    assert len(line) == 0


def test_a_line_is_full_when_who_comes_has_to_wait() -> None:
    line = Line(1)
    assert not line.full
    with Place(line, Urgency(STANDARD, inf), never):
        assert line.full
    assert not line.full


def test_a_less_urgent_one_waits_for_one_that_comes_back_at_once() -> None:
    line, order = Line(1), list[Urgency]()
    batch = Entrant(line, Urgency(BATCH, inf), order)
    with Place(line, Urgency(INTERACTIVE, inf), never) as place:
        batch.start()
        wait_until(lambda: len(line) == 1)
        for _ in range(3):
            place.give()
            time.sleep(0.02)
            place.take()
        assert order == []
    wait_until(lambda: len(order) == 1)
    batch.go.set()
    batch.join(10)


def test_one_that_does_not_come_back_keeps_nobody_waiting_for_long() -> None:
    line, order = Line(1), list[Urgency]()
    batch = Entrant(line, Urgency(BATCH, inf), order)
    batch.go.set()
    with Place(line, Urgency(INTERACTIVE, inf), never) as place:
        batch.start()
        wait_until(lambda: len(line) == 1)
        place.give()
        wait_until(lambda: len(order) == 1)
        place.take()


def test_one_that_is_cancelled_is_out_of_the_line() -> None:
    class CancelledError(Exception):
        pass

    def cancelled() -> None:
        raise CancelledError

    line = Line(1)
    with Place(line, Urgency(BATCH, inf), never):
        with pytest.raises(CancelledError):
            Place(line, Urgency(INTERACTIVE, inf), cancelled).take()
        assert len(line) == 0
    with Place(line, Urgency(BATCH, inf), never):
        pass
