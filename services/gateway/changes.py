"""Word of what this process changed. What other processes change is found by polling (`watches.py`)."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int | None], None]
"""Is told a video's id and the number of its newest event; None for one that was deleted."""


class Changes:
    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def tell(self, video_id: str, sequence: int | None) -> None:
        for listener in self._listeners:
            listener(video_id, sequence)
