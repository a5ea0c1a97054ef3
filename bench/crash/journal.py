"""What the light stages did, from the journals that they write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WAIT_SECONDS = 180.0
POLL_SECONDS = 0.005
OVER = frozenset({"finish", "stopped", "failed"})


@dataclass(frozen=True)
class Entry:
    """One point that the work of an attempt passed; see `tests.support.stage_process`."""

    video_id: str
    stage: str
    attempt: str
    point: str
    pid: int
    time: float


class Journal:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, service: str) -> Path:
        return self._folder / f"{service}.journal"

    def entries(self) -> list[Entry]:
        """All, in the order of their times; a line that is just being written is left for the next time."""
        found = []
        for path in self._folder.glob("*.journal"):
            complete = path.read_text().rpartition("\n")[0]
            found += [Entry(**json.loads(line)) for line in complete.splitlines()]
        return sorted(found, key=lambda entry: entry.time)

    def wait(self, what: Callable[[Entry], bool], seconds: float = WAIT_SECONDS) -> Entry:
        """The first entry that fits, as soon as it is there. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while True:
            for entry in self.entries():
                if what(entry):
                    return entry
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the stages did not get there within {seconds:g} s")
            time.sleep(POLL_SECONDS)

    def at_work(self, alive: frozenset[int]) -> list[Entry]:
        """Attempts that have begun in a process that is still there, and are not over."""
        open_attempts: dict[str, Entry] = {}
        for entry in self.entries():
            if entry.point in OVER:
                open_attempts.pop(entry.attempt, None)
            elif entry.pid in alive:
                open_attempts[entry.attempt] = entry
        return list(open_attempts.values())
