"""Pipelines that are loaded: each model once, on first use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

__all__ = ["Card", "PipelineCache"]

P = TypeVar("P")


class Card(Protocol):
    """What loading needs of a model's card."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def path(self) -> Path: ...


class PipelineCache(Generic[P]):
    """Thread-safe. Two callers that want the same model at once load it once; the second waits."""

    def __init__(self, load: Callable[[Path, str], P]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._pipelines: dict[str, P] = {}

    def get(self, card: Card) -> tuple[P, float]:
        """The pipeline, and the seconds this call spent loading it or waiting for another that did; 0 once loaded."""
        loaded = self._pipelines.get(card.name)
        if loaded is not None:
            return loaded, 0.0
        began = time.perf_counter()
        with self._lock:
            if card.name not in self._pipelines:
                self._pipelines[card.name] = self._load(card.path, card.family)
            return self._pipelines[card.name], time.perf_counter() - began
