"""Who goes first."""

from __future__ import annotations

import threading
import time
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import ResourceExhausted
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
        self.refused: ResourceExhausted | None = None
        self.go = threading.Event()

    def run(self) -> None:
        try:
            with Place(self._line, self._urgency, never, self.told.append):
                self._order.append(self._urgency)
                self.go.wait(60)
        except ResourceExhausted as error:
            self.refused = error


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


def test_no_more_wait_than_may_however_many_come_at_once() -> None:
    line, order = Line(1, most_waiting=2), list[Urgency]()
    entrants = [Entrant(line, Urgency(STANDARD, inf), order) for _ in range(20)]
    for entrant in entrants:
        entrant.start()
    wait_until(lambda: sum(entrant.refused is not None for entrant in entrants) == 17)
    assert (len(order), len(line)) == (1, 2)
    for entrant in entrants:
        entrant.go.set()
        entrant.join(10)
    errors = [entrant.refused for entrant in entrants if entrant.refused]
    assert {error.reason for error in errors} == {"TOO_MANY_ACTIVE_VIDEOS"}
    assert len(order) == 3


def test_one_gives_way_to_a_more_urgent_class_and_to_no_other() -> None:
    line, order = Line(1, most_waiting=1), list[Urgency]()
    waiting = Entrant(line, Urgency(BATCH, 5.0), order)
    with Place(line, Urgency(BATCH, inf), never) as place:
        waiting.start()
        wait_until(lambda: len(line) == 1)
        place.give_way(never)
        assert order == [], "an earlier deadline of the same class waits"
    wait_until(lambda: len(order) == 1)
    waiting.go.set()
    waiting.join(10)

    urgent = Entrant(line, Urgency(INTERACTIVE, inf), order)
    with Place(line, Urgency(BATCH, inf), never) as place:
        urgent.start()
        wait_until(lambda: len(line) == 1)
        place.give_way(urgent.go.set)
        assert [who.priority for who in order] == [BATCH, INTERACTIVE]
        assert len(line) == 0
    urgent.join(10)


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
