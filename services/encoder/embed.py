"""Short texts to directions, for whoever compares what they mean. Apart from the models, and from the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from services.encoder.metrics import EncoderMetrics

__all__ = ["Embedder", "Sentences"]

Sentences = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to (texts, channels), each row of length 1."""


class Embedder:
    """``load`` gives what does it; it is called once, at the latest by the first request."""

    def __init__(self, load: Callable[[], Sentences], metrics: EncoderMetrics) -> None:
        self._load, self._metrics = load, metrics

    def warm(self) -> None:
        """Load it before the first request."""
        _ = self._sentences

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Blocks; a text of a few words takes some milliseconds."""
        sentences = self._sentences
        began = time.perf_counter()
        directions = sentences(texts)
        self._metrics.embedded(len(texts), time.perf_counter() - began)
        return directions

    @cached_property
    def _sentences(self) -> Sentences:
        return self._load()
