"""A running stack as the tests use it: makes short videos through the public API and keeps what was said meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.video.v1 import video_pb2 as pb

from client import SoundstageClient
from deploy.local.state import State

__all__ = ["PROMPT", "SEED", "SERVICES", "STEPS", "Made", "Studio"]

SERVICES = ("gateway", "encoder", "denoiser", "audio", "muxer")
PROMPT = "a campfire on a beach at night, waves in the background"
SEED = 7
STEPS = 5
"""So few that a video takes seconds, enough for one preview: they come every five steps."""
SECONDS = 1.0
WAIT_SECONDS = 240.0


@dataclass(frozen=True)
class Made:
    video: pb.Video
    events: list[pb.WatchVideoResponse]
    path: Path
    poster: Path


@dataclass(frozen=True)
class Studio:
    state: State
    client: SoundstageClient
    model: pb.Model
    folder: Path
    """For what is downloaded."""

    def order(self, prompt: str = PROMPT, **fields: Any) -> pb.Video:
        """Asks for a video of one second; ``fields`` as the client's ``create`` takes them."""
        return self.client.create(prompt, **{"seed": SEED, "num_inference_steps": STEPS, "duration": SECONDS, **fields})

    def make(self, prompt: str = PROMPT, **fields: Any) -> Made:
        """Makes a video and brings it here; fails when it does not succeed."""
        ordered = self.order(prompt, **fields)
        events: list[pb.WatchVideoResponse] = []
        video = self.client.wait(ordered, timeout_seconds=WAIT_SECONDS, on_event=events.append)
        assert video.state == pb.STATE_SUCCEEDED, video
        path = self.folder / f"{video.name.removeprefix('videos/')}.mp4"
        poster = path.with_suffix(".jpg")
        self.client.download(video, path, poster=poster)
        return Made(video, events, path, poster)

    def stored(self, video: pb.Video | None = None) -> set[str]:
        """Paths of the artifacts there are, of one video or of all, from the store's root on."""
        tenant_and_id = f"local/{video.name.removeprefix('videos/')}" if video else ""
        root = self.state.artifacts
        return {str(file.relative_to(root)) for file in (root / tenant_and_id).rglob("*") if file.is_file()}
