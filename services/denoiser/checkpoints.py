"""Checkpoints: the loop's state after a step, kept so that another attempt need not begin from noise.

They lie beside what the attempt makes, in ``denoise/{attempt}/checkpoint-{step}-{sha256}.safetensors`` of the video,
and are found there by the next attempt: nobody has to hand them on, so nothing is lost with whoever would. The hash in
the name tells a damaged one, the fingerprint inside one of another request, model or version. Both are passed over.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from libs.artifacts import TENSORS_MEDIA_TYPE, AttemptPrefix, Ref, Store, Stored, get_tensors, to_safetensors
from libs.errors import FailedPrecondition, SoundstageError
from libs.families import LoopState, Step
from services.denoiser.metrics import DenoiserMetrics

if TYPE_CHECKING:
    from services.denoiser.denoise import DenoiseJob

__all__ = ["CheckpointPolicy", "Checkpoints", "Keeper", "Written"]

_log = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-(\d{5})-([0-9a-f]{64})\.safetensors")
_FINGERPRINT = "fingerprint"
_KEPT = 2
"""Of an attempt: should the newest be damaged, there is the one before."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """When one is due: after so many steps or seconds since the last, 0 for never by that; but so seldom that copying
    and writing take at most ``most_share`` of the time."""

    every_steps: int
    every_seconds: float
    most_share: float

    @property
    def keeps_any(self) -> bool:
        return self.every_steps > 0 or self.every_seconds > 0


@dataclass(frozen=True)
class Written:
    """A checkpoint after ``step`` steps is in the store."""

    step: int
    ref: Ref


class Checkpoints:
    """Of all videos of this process. Writes go through one thread: no loop waits for the store."""

    def __init__(self, store: Store, metrics: DenoiserMetrics, policy: CheckpointPolicy) -> None:
        self._store = store
        self._metrics = metrics
        self._policy = policy
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._hurry = threading.Event()

    def hurry(self) -> None:
        """The process is about to end: from now on every step is kept."""
        self._hurry.set()

    def newest(self, job: DenoiseJob, fingerprint: str) -> LoopState | None:
        """The state after the most steps of any attempt at this video; None: begin from noise.

        Raises what the store raises when it cannot be looked through.
        """
        found = _of_video(self._store, job.prefix)
        for _, stored, sha256 in sorted(found, key=lambda one: one[0], reverse=True):
            ref = Ref(self._store.uri_of(stored.key), TENSORS_MEDIA_TYPE, stored.size_bytes, sha256)
            state = self._read(ref, fingerprint)
            if state is not None:
                return state
        return None

    def given(self, ref: Ref, fingerprint: str) -> LoopState:
        """Raises FailedPrecondition ARTIFACT_MISSING, ARTIFACT_ALTERED or CHECKPOINT_UNFIT."""
        state = get_tensors(self._store, ref)
        if _FINGERPRINT not in state or _text(state.pop(_FINGERPRINT)) != fingerprint:
            raise FailedPrecondition(
                "the checkpoint is of another request, model or version: leave it out, and the work begins anew",
                reason="CHECKPOINT_UNFIT",
            )
        self._metrics.checkpoint("read")
        return state

    def keeper(self, job: DenoiseJob, fingerprint: str) -> Keeper:
        return Keeper(self._store, self._metrics, self._policy, self._writer, self._hurry, job.prefix, fingerprint)

    def _read(self, ref: Ref, fingerprint: str) -> LoopState | None:
        try:
            state = get_tensors(self._store, ref)
            fits = _text(state.pop(_FINGERPRINT)) == fingerprint
        except (FailedPrecondition, KeyError) as error:
            self._metrics.checkpoint("damaged")
            _log.warning("checkpoint passed over", extra={"uri": ref.uri, "cause": str(error)})
            return None
        self._metrics.checkpoint("read" if fits else "unfit")
        return state if fits else None


@dataclass
class Keeper:
    """Writes the checkpoints of one attempt. Called from the loop's thread."""

    _store: Store
    _metrics: DenoiserMetrics
    _policy: CheckpointPolicy
    _writer: ThreadPoolExecutor
    _hurry: threading.Event
    _prefix: AttemptPrefix
    _fingerprint: str
    _steps: int = 0
    _seconds: float = field(default_factory=time.monotonic)
    _not_before: float = 0.0
    _newest: float = 0.0
    """When the state was copied that is in the newest checkpoint; before the first, when the loop began."""
    _writing: Future[Written | None] | None = None
    _keys: list[str] = field(default_factory=list)
    _last: int = 0
    """Step of the state that was copied last."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the loop runs: the metrics tell how old its newest checkpoint is, unless none is to be kept."""
        self._newest = time.monotonic()
        if not self._policy.keeps_any:
            yield
            return
        with self._metrics.checkpoint_age(lambda: time.monotonic() - self._newest):
            yield

    def after(self, step: Step) -> Written | None:
        """Begins to write if one is due; returns one that has been written since the last call."""
        written = self._written()
        self._steps += 1
        self._begin(step)
        return written

    def while_waiting(self, step: Step) -> Written | None:
        """As `after` the same step once more: others go first, and meanwhile one may become due, or the process end."""
        written = self._written()
        if step.index != self._last:
            self._begin(step)
        return written

    def _begin(self, step: Step) -> None:
        if self._writing is not None or not self._due(step):
            return
        began = time.monotonic()
        state = dict(step.state())
        self._writing = self._writer.submit(self._write, step.index, state, began)
        self._steps, self._seconds, self._last = 0, began, step.index

    def clear(self) -> None:
        """The latents are written: no attempt needs a checkpoint any more. Does not wait."""
        self._writer.submit(self._delete_all)

    def _due(self, step: Step) -> bool:
        if step.index == step.total:
            return False
        if self._hurry.is_set():
            return True
        now, policy = time.monotonic(), self._policy
        by_steps = 0 < policy.every_steps <= self._steps
        by_seconds = 0 < policy.every_seconds <= now - self._seconds
        return (by_steps or by_seconds) and now >= self._not_before

    def _written(self) -> Written | None:
        if self._writing is None or not self._writing.done():
            return None
        writing, self._writing = self._writing, None
        error = writing.exception()
        if error is not None:  # none that a store raises; a video goes on without a checkpoint all the same
            self._metrics.checkpoint("failed")
            _log.error("no checkpoint written", exc_info=error)
            return None
        return writing.result()

    def _write(self, step: int, state: dict[str, np.ndarray], began: float) -> Written | None:
        data = to_safetensors({**state, _FINGERPRINT: np.frombuffer(self._fingerprint.encode(), np.uint8)})
        name = f"checkpoint-{step:05d}-{hashlib.sha256(data).hexdigest()}.safetensors"
        try:
            ref = self._store.put(self._prefix.key(name), data, TENSORS_MEDIA_TYPE)
            self._keys.append(self._prefix.key(name))
            self._store.delete(self._keys[:-_KEPT])
            self._keys = self._keys[-_KEPT:]
        except SoundstageError as error:  # the video goes on without it
            self._metrics.checkpoint("failed")
            _log.warning("no checkpoint written", extra={"step": step, "cause": str(error)})
            return None
        finally:
            seconds = time.monotonic() - began
            self._not_before = began + seconds + seconds / self._policy.most_share
        self._newest = began
        self._metrics.checkpoint("written", seconds)
        return Written(step, ref)

    def _delete_all(self) -> None:
        try:
            self._store.delete([stored.key for _, stored, _ in _of_video(self._store, self._prefix)])
        except SoundstageError as error:  # the collector comes for what is left
            _log.info("checkpoints not deleted", extra={"cause": str(error)})


def _of_video(store: Store, prefix: AttemptPrefix) -> list[tuple[int, Stored, str]]:
    """Steps, place and SHA-256 of every checkpoint of all attempts."""
    stored = store.walk(f"{prefix.tenant}/{prefix.video_id}/{prefix.stage}")
    matches = ((one, _NAME.fullmatch(one.key.rpartition("/")[2])) for one in stored)
    return [(int(match[1]), one, match[2]) for one, match in matches if match]


def _text(array: np.ndarray) -> str:
    return array.tobytes().decode("ascii", errors="replace")
