"""Picture and sound in, the delivered file and its poster out."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from libs.artifacts import AttemptPrefix, Ref, Store
from libs.serving import Stage, span
from services.muxer.child import MediaChild
from services.muxer.metrics import MuxerMetrics

__all__ = ["MuxJob", "Muxed", "Muxer"]

_STEPS = 3


@dataclass(frozen=True)
class MuxJob:
    prefix: AttemptPrefix
    picture: Ref
    sound: Ref
    title: str


@dataclass(frozen=True)
class Muxed:
    video: Ref
    poster: Ref
    duration_seconds: float


class Muxer:
    def __init__(self, store: Store, metrics: MuxerMetrics, *, timeout_seconds: float) -> None:
        self._store = store
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds

    def mux(self, job: MuxJob, stage: Stage) -> Muxed:
        """Steps: inputs read, file assembled and checked, outputs written.

        Raises FailedPrecondition ARTIFACT_MISSING, ARTIFACT_ALTERED, PICTURE_UNREADABLE, SOUND_UNREADABLE or
        SOUND_LENGTH, and Internal FILE_GATE_FAILED.
        """
        with tempfile.TemporaryDirectory(prefix="soundstage-mux-") as name:
            folder = Path(name)
            self._store.get_file(job.picture, folder / "picture.mp4")
            self._store.get_file(job.sound, folder / "sound.flac")
            stage.progress(1, _STEPS)
            duration_seconds = self._assemble(folder, job.title, stage)
            stage.progress(2, _STEPS)
            video = self._store.put_file(job.prefix.key("video.mp4"), folder / "video.mp4", "video/mp4")
            poster = self._store.put_file(job.prefix.key("poster.jpg"), folder / "poster.jpg", "image/jpeg")
            stage.progress(3, _STEPS)
        return Muxed(video, poster, duration_seconds)

    def _assemble(self, folder: Path, title: str, stage: Stage) -> float:
        files = {"picture": "picture.mp4", "sound": "sound.flac", "video": "video.mp4", "poster": "poster.jpg"}
        began = time.perf_counter()
        with (
            MediaChild(
                "services.muxer.assemble",
                {"title": _one_line(title)} | {what: str(folder / file) for what, file in files.items()},
                timeout_seconds=self._timeout_seconds,
                raise_if_cancelled=stage.raise_if_cancelled,
            ) as child,
            self._metrics.gate(),
            span("assemble"),
        ):
            result = child.result()
        self._metrics.muxed(time.perf_counter() - began)
        return float(result["duration_seconds"])


def _one_line(title: str) -> str:
    """MP4 players show one line, and a NUL would end the title: control characters become spaces."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in title).split())
