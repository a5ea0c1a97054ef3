"""Several videos share the processor step by step: one steps at a time, in order of asking."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Turn", "Turns"]

_LOOK_SECONDS = 0.1
"""How often one that waits looks whether it was cancelled."""


class Turns:
    """The queue; whose `Turn` is at its head may step."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Turn] = deque()

    def join(self, turn: Turn, raise_if_cancelled: Callable[[], None]) -> None:
        with self._changed:
            self._queue.append(turn)
            try:
                while self._queue[0] is not turn:
                    self._changed.wait(_LOOK_SECONDS)
                    raise_if_cancelled()
            except BaseException:
                self._remove(turn)
                raise

    def leave(self, turn: Turn) -> None:
        with self._changed:
            self._remove(turn)

    def _remove(self, turn: Turn) -> None:
        if turn in self._queue:
            self._queue.remove(turn)
            self._changed.notify_all()


class Turn:
    """One video's place in the queue; ``with Turn(turns, stage.raise_if_cancelled)`` waits for its first turn."""

    def __init__(self, turns: Turns, raise_if_cancelled: Callable[[], None]) -> None:
        self._turns = turns
        self._raise_if_cancelled = raise_if_cancelled

    def take(self) -> None:
        """Wait at the end of the queue. Raises what ``raise_if_cancelled`` raises, and is then out of the queue."""
        self._turns.join(self, self._raise_if_cancelled)

    def give(self) -> None:
        """Let the next one step."""
        self._turns.leave(self)

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give()
