"""Who goes first: a queue in which the most urgent video is always the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from types import TracebackType
from typing import Self

from libs.errors import ResourceExhausted

__all__ = ["Line", "Place", "Urgency"]

_LOOK_SECONDS = 0.05
"""How often one that waits looks whether it was cancelled."""
_BACK_SECONDS = 0.25
"""How long the place of one that said it would be back is kept from less urgent ones."""
_AGES = count()


@dataclass(frozen=True, order=True)
class Urgency:
    """Smaller goes first: by class, then deadline, then age."""

    priority: int
    """1 interactive, 2 standard, 3 batch."""
    deadline: float
    """Seconds since the epoch; infinite for none."""
    age: int = field(default_factory=lambda: next(_AGES))
    """Order of arrival in this process."""


class Line:
    """At most ``places`` are in at the same time, ``most_waiting`` others wait; who is in stays in until it leaves."""

    def __init__(self, places: int, most_waiting: float = inf) -> None:
        self._places, self._most_waiting = places, most_waiting
        self._free = places
        self._waiting: set[Urgency] = set()
        self._away: dict[Urgency, float] = {}
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def grow(self, places: int) -> None:
        """There are so many places more."""
        with self._changed:
            self._free += places
            self._changed.notify_all()

    def enter(
        self, who: Urgency, look: Callable[[], object], told: Callable[[int], None], *, is_new: bool = True
    ) -> None:
        """Waits for a place, and calls ``look`` meanwhile. ``told``: how many go before, whenever that changes.

        Raises what either of them raises, and is then out of the line; ResourceExhausted TOO_MANY_ACTIVE_VIDEOS to one
        that ``is_new`` when too many wait.
        """
        with self._changed:
            self._away.pop(who, None)
            if is_new and len(self._waiting) >= self._free + self._most_waiting:
                raise self._crowd()
            self._waiting.add(who)
        last: int | None = None
        try:
            while (before := self._try(who)) is not None:
                if before != last:
                    told(before)
                    last = before
                look()
        except BaseException:
            with self._changed:
                self._waiting.discard(who)
                self._changed.notify_all()
            raise

    def leave(self, back: Urgency | None = None) -> None:
        """``back``: one that will enter again in a moment; less urgent ones wait that moment."""
        with self._changed:
            self._free += 1
            if back is not None:
                self._away[back] = time.monotonic() + _BACK_SECONDS
            self._changed.notify_all()

    def forget(self, who: Urgency) -> None:
        """It will not be back."""
        with self._changed:
            self._away.pop(who, None)
            self._changed.notify_all()

    def is_wanted(self, who: Urgency) -> bool:
        """Whether one of a more urgent class waits for the place of ``who``."""
        with self._changed:
            return sum(other.priority < who.priority for other in self._waiting) > self._free

    def _crowd(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"{self._places} videos are at work and {self._most_waiting} wait, the most this server takes: try again "
            "when one has ended",
            reason="TOO_MANY_ACTIVE_VIDEOS",
            max_active_videos=str(self._places),
            max_waiting_videos=str(self._most_waiting),
        )

    def _try(self, who: Urgency) -> int | None:
        """None: it is in; else, after a moment, how many are before it."""
        with self._changed:
            if self._before(who) >= self._free:
                self._changed.wait(_LOOK_SECONDS)
            before = self._before(who)
            if before >= self._free:
                return before
            self._waiting.discard(who)
            self._free -= 1
            self._changed.notify_all()
            return None

    def _before(self, who: Urgency) -> int:
        now = time.monotonic()
        back = (other for other, until in self._away.items() if now < until)
        return sum(other < who for other in (*self._waiting, *back))


class Place:
    """One video's place in a line; ``with Place(…)`` waits for it, and gives it up however the block ends."""

    def __init__(
        self,
        line: Line,
        urgency: Urgency,
        raise_if_cancelled: Callable[[], None],
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._line, self._urgency = line, urgency
        self._raise_if_cancelled, self._told = raise_if_cancelled, told
        self._inside = self._was_inside = False

    def take(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait among the others, and call ``meanwhile`` again and again. Raises what ``raise_if_cancelled`` raises."""

        def look() -> None:
            self._raise_if_cancelled()
            meanwhile()

        self._line.enter(self._urgency, look, self._told, is_new=not self._was_inside)
        self._inside = self._was_inside = True

    def give(self) -> None:
        """Let a more urgent one go first; to be followed by `take`."""
        self._inside = False
        self._line.leave(self._urgency)

    def give_way(self, meanwhile: Callable[[], object]) -> None:
        """If one of a more urgent class waits for the place, it has it, and this one waits for the next."""
        if self._line.is_wanted(self._urgency):
            self._inside = False
            self._line.leave()
            self.take(meanwhile)

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._inside:
            self._inside = False
            self._line.leave()
        else:
            self._line.forget(self._urgency)
