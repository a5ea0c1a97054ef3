"""Checks, one after the other: each ends in time, and none stops the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Check", "Checking", "Finding", "Outcome", "fail", "ok", "warn", "why"]

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Outcome:
    level: Level
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Finding:
    """An outcome, and what it is about."""

    check: str
    level: Level
    found: str
    fix: str


@dataclass(frozen=True)
class Check:
    """`run` is not called unless the check named by `needs` was ok: it could only repeat the same failure."""

    name: str
    run: Callable[[], Outcome]
    needs: str = ""


def ok(found: str) -> Outcome:
    return Outcome("ok", found)


def warn(found: str, fix: str) -> Outcome:
    return Outcome("warn", found, fix)


def fail(found: str, fix: str) -> Outcome:
    return Outcome("fail", found, fix)


@dataclass
class Checking:
    seconds: float
    """Deadline of each check."""

    _levels: dict[str, Level] = field(default_factory=dict)

    def run(self, checks: Iterable[Check]) -> Iterator[Finding]:
        for check in checks:
            outcome = self._outcome(check)
            self._levels[check.name] = outcome.level
            yield Finding(check.name, outcome.level, outcome.found, outcome.fix)

    def _outcome(self, check: Check) -> Outcome:
        if check.needs and self._levels.get(check.needs) != "ok":
            return warn("not checked", f"first put {check.needs} right")
        return _in_time(check.run, self.seconds)


def why(error: BaseException) -> str:
    """The system's own words for what ended a connection; of any other error only the kind.

    The text of an error is never shown: urllib3's hold signed URLs, and those about a database's URL its password.
    """
    told = type(error).__name__
    one: BaseException | None = error
    while one is not None:  # the deepest is the system's
        if isinstance(one, TimeoutError):
            told = "no answer in time"
        elif isinstance(one, OSError):
            told = str(getattr(one, "verify_message", "") or one.strerror or told)
        one = one.__cause__ or one.__context__
    return told


def _in_time(run: Callable[[], Outcome], seconds: float) -> Outcome:
    """A daemon thread, since nothing interrupts a resolver or a driver that hangs: it is left behind."""
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(_guarded(run)), daemon=True)
    thread.start()
    thread.join(seconds)
    if outcomes:
        return outcomes[0]
    return fail(f"no answer within {seconds:g} s", "see whether a firewall is in the way, or allow more: --seconds")


def _guarded(run: Callable[[], Outcome]) -> Outcome:
    try:
        return run()
    except Exception as error:  # noqa: BLE001  whatever a check did not foresee is its finding, and the rest goes on
        return fail(f"could not be checked: {why(error)}", "look at the server's own log")
