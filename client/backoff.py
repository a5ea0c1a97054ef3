"""How long to wait before the next try."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True)
class Backoff:
    """Exponential, capped, with jitter over the upper half so that many clients of one server do not return together.

    attempts: tries without any success in between, after which the error is the caller's.
    """

    attempts: int
    first_seconds: float = 0.25
    longest_seconds: float = 8.0

    def seconds(self, failures: int) -> float:
        """The wait after ``failures`` failures in a row (1 or more)."""
        top: float = min(self.longest_seconds, self.first_seconds * 2 ** (failures - 1))
        return random.uniform(top / 2, top)
