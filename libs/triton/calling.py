"""What is known about the work that a call belongs to, handed down around code that has no place for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Call", "calling", "current_call"]


def _never() -> None:
    """Nobody cancels."""


@dataclass(frozen=True)
class Call:
    """``priority``: 1 to 3, the smaller the more urgent; 0 takes the model's default."""

    raise_if_cancelled: Callable[[], None] = _never
    """Looked at while a call is under way, in the caller's thread; what it raises abandons the call."""
    priority: int = 0


_current: ContextVar[Call] = ContextVar("current_call", default=Call())  # noqa: B039  # frozen


@contextmanager
def calling(call: Call) -> Iterator[None]:
    """Calls of this thread, until the `with` ends, belong to ``call``."""
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)


def current_call() -> Call:
    return _current.get()
