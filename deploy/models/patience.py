"""Again while the store is away."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from deploy.models.cache import Deadline
from libs.errors import Unavailable

__all__ = ["patiently"]

_log = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_Result = TypeVar("_Result")


def patiently(work: Callable[[], _Result], deadline: Deadline, stopped: threading.Event | None = None) -> _Result:
    """With longer and longer pauses, until the deadline or until ``stopped``; then the last Unavailable is raised."""
    stopped = stopped or threading.Event()
    for attempt in count():
        try:
            return work()
        except Unavailable as error:
            pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0**attempt) * random.uniform(0.5, 1.0)
            if stopped.is_set() or deadline.left() <= pause:
                raise
            _log.warning("%s; again in %.1f s", error, pause)
            stopped.wait(pause)
    raise AssertionError
