"""A joint model's sound while it is made: a short WAV in the store, where the model's sound decoder is here."""

from __future__ import annotations

import io
import logging
import wave

import numpy as np
from numpy.typing import NDArray

from libs.artifacts import AttemptPrefix, Ref, Store
from libs.catalog import ModelCard
from libs.errors import SoundstageError
from libs.families import JointSound, PipelineCache, Step, load_sound

__all__ = ["MOST_BYTES", "SoundPreviews", "to_wav"]

_log = logging.getLogger(__name__)

SAMPLE_RATE, RATE = 48_000, 24_000
"""Of the decoder, and of the WAV: half of it, one channel."""
MOST_SECONDS = 20.0
MOST_BYTES = 44 + 2 * int(RATE * MOST_SECONDS)
"""Header and samples: less than a megabyte."""
EVERY = 2
"""Previews of the picture to one of the sound, whose decoding takes longer; the first has one."""


class SoundPreviews:
    """Thread-safe. What it raises is nothing: a video goes on without."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decoders = PipelineCache(load_sound)
        self._without: set[str] = set()

    def put(self, step: Step, every_steps: int, card: ModelCard, prefix: AttemptPrefix, seconds: float) -> Ref | None:
        """``preview-{step}.wav`` of a video of so many ``seconds``; None: none is due, or none can be made."""
        if step.sound is None or card.name in self._without or (step.index // every_steps) % EVERY != 1:
            return None
        try:
            decoder, _ = self._decoders.get(card)
            if not isinstance(decoder, JointSound):
                return None
            sound = decoder.decode(step.sound, round(min(seconds, MOST_SECONDS) * SAMPLE_RATE))
            return self._store.put(prefix.key(f"preview-{step.index:05d}.wav"), to_wav(sound), "audio/wav")
        except (OSError, RuntimeError) as error:  # torch's, where memory or a shape does not do
            self._leave_out(card, error)
        except SoundstageError as error:
            if error.reason == "MODEL_INCOMPLETE":
                self._leave_out(card, error)
            _log.warning("no preview of the sound", extra={"step": step.index, "cause": str(error)})
        return None

    def _leave_out(self, card: ModelCard, error: Exception) -> None:
        self._without.add(card.name)
        _log.warning("%s: its sound cannot be decoded here, previews have none: %s", card.name, error)


def to_wav(sound: NDArray[np.float32]) -> bytes:
    """48 kHz (2, n) in [-1, 1] -> PCM16, 24 kHz, one channel: pairs of samples are averaged."""
    mono = sound.mean(axis=0)[: sound.shape[1] // 2 * 2].reshape(-1, 2).mean(axis=1)
    samples = (mono.clip(-1.0, 1.0) * 32767).round().astype("<i2")[: int(RATE * MOST_SECONDS)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()
