"""Picture and prompt in, sound out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from libs.artifacts import AttemptPrefix, Ref, Store, get_tensors
from libs.catalog import Catalog
from libs.errors import FailedPrecondition, Internal
from libs.families import PipelineCache
from libs.families.sounding import Intent, JointSound, SoundPipeline
from libs.serving import Stage, span
from services.audio.flac import SAMPLE_RATE, write_flac
from services.audio.measure import Measures, check, limit, measure
from services.audio.metrics import AudioMetrics
from services.audio.picture import Picture, read_picture

__all__ = ["Intent", "SynthesizeJob", "Synthesized", "Synthesizer"]

_STEPS = 3
_Make: TypeAlias = Callable[[Picture], NDArray[np.float32]]


@dataclass(frozen=True)
class SynthesizeJob:
    prefix: AttemptPrefix
    model: str
    picture: Ref
    prompt: str
    intent: Intent
    seed: int
    latents: Ref | None


@dataclass(frozen=True)
class Synthesized:
    sound: Ref
    measures: Measures
    load_seconds: float
    gpu_seconds: float


class Synthesizer:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        pipelines: PipelineCache[SoundPipeline | JointSound],
        metrics: AudioMetrics,
        *,
        max_picture_bytes: int,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._pipelines = pipelines
        self._metrics = metrics
        self._max_picture_bytes = max_picture_bytes

    def warm(self, models: Iterable[str]) -> None:
        """Load these models, so that no call waits for it."""
        for model in models:
            self._load(model)

    def synthesize(self, job: SynthesizeJob, stage: Stage) -> Synthesized:
        """Steps: picture read, sound made and checked, sound written.

        Raises NotFound MODEL_UNKNOWN, FailedPrecondition for a picture that is missing, altered, unreadable or too
        large, for latents of a model that is not joint (JOINT_AUDIO_UNSUPPORTED) and for one that is without them
        (LATENTS_MISSING) or with others (LATENTS_UNFIT), and Internal SOUND_GATE_FAILED.
        """
        pipeline, load_seconds = self._load(job.model)
        make = self._maker(pipeline, job)
        with tempfile.TemporaryDirectory(prefix="soundstage-audio-") as name:
            folder = Path(name)
            picture = self._read(job.picture, folder / "picture.mp4", stage)
            stage.progress(1, _STEPS)
            sound, gpu_seconds = self._sound(make, picture, job)
            stage.progress(2, _STEPS)
            write_flac(folder / "sound.flac", sound)
            ref = self._store.put_file(job.prefix.key("sound.flac"), folder / "sound.flac", "audio/flac")
            stage.progress(3, _STEPS)
        return Synthesized(ref, measure(sound, SAMPLE_RATE), load_seconds, gpu_seconds)

    def _load(self, model: str) -> tuple[SoundPipeline | JointSound, float]:
        with span("load", model=model):
            pipeline, seconds = self._pipelines.get(self._catalog.get(model))
        if seconds > 0:
            self._metrics.loaded(model, seconds)
        return pipeline, seconds

    def _read(self, ref: Ref, path: Path, stage: Stage) -> Picture:
        self._store.get_file(ref, path)
        with span("read picture"):
            return read_picture(path, max_bytes=self._max_picture_bytes, raise_if_cancelled=stage.raise_if_cancelled)

    def _maker(self, pipeline: SoundPipeline | JointSound, job: SynthesizeJob) -> _Make:
        if isinstance(pipeline, JointSound):
            if job.latents is None:
                raise _latents_missing(job)
            latents = get_tensors(self._store, job.latents)
            return partial(_decoded, pipeline, latents, job.intent)
        _refuse_latents(job)
        return lambda picture: pipeline(picture.frames, float(picture.fps), job.prompt, job.intent, job.seed)

    def _sound(self, make: _Make, picture: Picture, job: SynthesizeJob) -> tuple[NDArray[np.float32], float]:
        """And the seconds that making it took."""
        began = time.perf_counter()
        with span("synthesize", model=job.model, frames=len(picture.frames)):
            sound = make(picture)
        seconds = time.perf_counter() - began
        self._metrics.synthesized(job.model, seconds)
        try:
            check(sound, picture.num_samples, silent=job.intent == "silent")
        except Internal as error:
            self._metrics.refused(error.metadata["check"])
            raise
        limited, gain_db = limit(sound)
        self._metrics.checked(turned_down=gain_db < 0, silent=not limited.any())
        return limited, seconds


def _decoded(
    pipeline: JointSound, latents: Mapping[str, NDArray[Any]], intent: Intent, picture: Picture
) -> NDArray[np.float32]:
    """A joint model's sound is one: ambience cannot be told from effects, and is kept with them."""
    if intent == "silent":
        return np.zeros((2, picture.num_samples), np.float32)
    return pipeline.decode(latents, picture.num_samples)


def _latents_missing(job: SynthesizeJob) -> FailedPrecondition:
    return FailedPrecondition(
        f"model {job.model!r} makes its sound together with the picture: pass the latents that Denoise returned",
        reason="LATENTS_MISSING",
        model=job.model,
    )


def _refuse_latents(job: SynthesizeJob) -> None:
    if job.latents is not None:
        raise FailedPrecondition(
            f"model {job.model!r} makes no sound latents, its sound is made from the picture; leave `latents` out",
            reason="JOINT_AUDIO_UNSUPPORTED",
            model=job.model,
        )
