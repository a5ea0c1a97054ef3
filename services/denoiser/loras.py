"""Models with a LoRA in their weights, for as long as videos use them, and the last few beyond that."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from libs.artifacts import Ref, Store
from libs.catalog import ModelCard
from libs.errors import FailedPrecondition
from services.denoiser.metrics import DenoiserMetrics

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["Lora", "LoraLimits", "Loras"]

_LOOK_SECONDS = 0.05
"""How often one that waits looks whether it was cancelled."""
_MIB = 1024 * 1024
_MOST_ON_TRITON_MIB = 2000
"""gRPC takes messages of less than 2 GiB, with a step's tensors in them."""
_Key: TypeAlias = tuple[str, str, float]
"""Model, SHA-256, scale."""


@dataclass(frozen=True)
class Lora:
    """A safetensors file, and how strongly it changes the weights, 0 to 2."""

    ref: Ref
    scale: float

    @property
    def facts(self) -> tuple[str, float]:
        """Equal for equal weights of the same model."""
        return self.ref.sha256, self.scale


@dataclass(frozen=True)
class LoraLimits:
    """How many models with a LoRA are in memory at most, and how large a file may be."""

    kept: int
    most_mib: int


@dataclass
class _Twin:
    users: int = 0
    pipeline: DenoisePipeline | None = None
    making: threading.Lock = field(default_factory=threading.Lock)


class Loras:
    """Thread-safe. By hash and scale, so that the same LoRA is read once, wherever it lies.

    A twin has its own copy of each weight that its LoRA changes, which may be nearly as much as the model itself: one
    that is in use counts as well, and who needs one more waits until another is free. Those on Triton count while they
    are in use: pods keep as many, and would be told their files again and again if more were.
    """

    def __init__(self, store: Store, limits: LoraLimits, metrics: DenoiserMetrics) -> None:
        self._store, self._limits, self._metrics = store, limits, metrics
        self._twins: OrderedDict[_Key, _Twin] = OrderedDict()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """How many are in memory, or about to be."""
        return len(self._twins)

    @contextmanager
    def on(
        self, card: ModelCard, base: DenoisePipeline, lora: Lora | None, raise_if_cancelled: Callable[[], None]
    ) -> Iterator[tuple[DenoisePipeline, float]]:
        """``base`` with the LoRA in its weights, or as it is without one; and the seconds spent reading it.

        Raises FailedPrecondition LORA_TOO_LARGE, LORA_UNUSABLE, LORA_UNFITTING, ARTIFACT_MISSING or ARTIFACT_ALTERED,
        what ``raise_if_cancelled`` raises while others use all there may be, and what the store does. Where the
        transformers are on Triton, all but the first are raised by the loop's first calls, as LORA_ON_TRITON is.
        """
        if lora is None:
            yield base, 0.0
            return
        self._check(base, lora)
        key = (card.name, *lora.facts)
        twin = self._take(key, raise_if_cancelled)
        try:
            yield self._made(twin, base, lora) if base.has_weights else (self._named(card, base, lora), 0.0)
        finally:
            self._give(key, twin)

    def _check(self, base: DenoisePipeline, lora: Lora) -> None:
        most_mib = self._limits.most_mib if base.has_weights else min(self._limits.most_mib, _MOST_ON_TRITON_MIB)
        if lora.ref.size_bytes > most_mib * _MIB:
            raise FailedPrecondition(
                f"the LoRA has {lora.ref.size_bytes} bytes, this server takes {most_mib} MiB at most: "
                "give one of a lower rank, or in float16",
                reason="LORA_TOO_LARGE",
                most_mib=str(most_mib),
            )

    def _take(self, key: _Key, raise_if_cancelled: Callable[[], None]) -> _Twin:
        with self._changed:
            while not self._has_room(key):
                self._changed.wait(_LOOK_SECONDS)
                raise_if_cancelled()
            twin = self._twins.setdefault(key, _Twin())
            self._twins.move_to_end(key)
            twin.users += 1
            return twin

    def _has_room(self, key: _Key) -> bool:
        """For ``key``, if need be in the place of the one that was not used for longest."""
        if key in self._twins or len(self._twins) < self._limits.kept:
            return True
        unused = next((other for other, twin in self._twins.items() if not twin.users), None)
        if unused is not None:
            del self._twins[unused]
        return unused is not None

    def _made(self, twin: _Twin, base: DenoisePipeline, lora: Lora) -> tuple[DenoisePipeline, float]:
        """Two that want the same at once make it once; the second waits."""
        began = time.perf_counter()
        with twin.making:
            if twin.pipeline is not None:
                return twin.pipeline, 0.0
            twin.pipeline = base.with_lora(self._store.get(lora.ref), lora.scale)
            return twin.pipeline, time.perf_counter() - began

    def _named(self, card: ModelCard, base: DenoisePipeline, lora: Lora) -> DenoisePipeline:
        """The twins are on Triton, whose pods are told the file when they ask for it."""

        def read() -> bytes:
            data = self._store.get(lora.ref)
            self._metrics.lora_sent(card.name)
            return data

        return base.naming_lora(lora.ref.sha256, lora.scale, lora.ref.size_bytes, read)

    def _give(self, key: _Key, twin: _Twin) -> None:
        with self._changed:
            twin.users -= 1
            if twin.pipeline is None and not twin.users:  # it could not be made, or is on Triton
                del self._twins[key]
            self._changed.notify_all()
