"""What the gateway can be told from outside: `SOUNDSTAGE_GATEWAY_<FIELD>`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings


class GatewaySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_GATEWAY_", frozen=True, extra="forbid")

    role: Literal["all", "api", "worker"] = "all"
    """`api` answers callers, `worker` runs the videos, `all` does both in one process."""

    database_url: str = Field(default_factory=lambda: f"sqlite+aiosqlite:///{Path('.state/gateway.db').resolve()}")
    """SQLAlchemy URL with an async driver: `sqlite+aiosqlite:////absolute/file.db` or `postgresql+asyncpg://…`."""

    temporal_address: str = "127.0.0.1:7233"
    """host:port of Temporal's frontend."""

    temporal_namespace: str = "default"
    """Temporal namespace; it must exist."""

    temporal_task_queue: str = "soundstage-videos"
    """Task queue that workers take videos from."""

    temporal_connect_seconds: float = Field(default=60.0, gt=0)
    """How long to wait for Temporal at start before giving up."""

    encoder_address: str = ""
    """host:port of the encoder. Needed by a worker, like the next three."""

    denoiser_address: str = ""
    """host:port of the denoiser."""

    audio_address: str = ""
    """host:port of the audio service."""

    muxer_address: str = ""
    """host:port of the muxer."""

    default_model: str = "diorama"
    """Model of requests that name none; a folder of `models_dir`."""

    tenant: str = Field(default="local", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Owner of everything that callers create: one, as long as callers are not told apart."""

    max_active_videos: int = Field(default=20, ge=1)
    """Videos of a tenant that may be queued or running at once."""

    max_concurrent_stages: int = Field(default=2, ge=1, le=1000)
    """Stages that one worker has at work at once, over all videos."""

    preview_every_steps: int = Field(default=5, ge=0, le=1000)
    """Ask the denoiser for a preview every so many steps; 0 for none."""

    stage_silence_seconds: float = Field(default=20.0, gt=5)
    """A stage that sends nothing for this long is taken for lost. Stages send something every 5 s."""

    watch_silence_seconds: float = Field(default=8.0, gt=0, le=10)
    """WatchVideo repeats the last event after this long without a new one."""

    url_seconds: float = Field(default=900.0, ge=60, le=3600)
    """How long presigned URLs of results work; `GetVideo` gives fresh ones."""

    keep_intermediates_seconds: float = Field(default=6 * 3600.0, ge=0)
    """How long the files between the stages stay after a video SUCCEEDED."""

    keep_results_seconds: float = Field(default=30 * 86_400.0, ge=60)
    """How long a result stays after its video SUCCEEDED."""

    keep_unfinished_seconds: float = Field(default=86_400.0, ge=0)
    """How long the files of a video that FAILED or was CANCELLED stay."""

    keep_orphans_seconds: float = Field(default=86_400.0, ge=3600)
    """How long files stay that belong to no video, since they were last written."""

    collect_every_seconds: float = Field(default=600.0, ge=0)
    """How often a worker deletes files whose time is over; 0 for never."""

    collect_orphans_every_seconds: float = Field(default=86_400.0, ge=60)
    """How often it looks through the whole store for files that belong to no video."""

    sweep_every_seconds: float = Field(default=5.0, gt=0)
    """How often a worker looks for videos that a lost process left behind."""

    sweep_quiet_seconds: float = Field(default=10.0, gt=0)
    """Only videos to which nothing happened for this long are looked at."""

    @model_validator(mode="after")
    def _worker_knows_the_stages(self) -> Self:
        names = ("encoder_address", "denoiser_address", "audio_address", "muxer_address")
        missing = [f"SOUNDSTAGE_GATEWAY_{name.upper()}" for name in names if not getattr(self, name)]
        if self.role != "api" and missing:
            raise ValueError(f"role {self.role} calls the stages: set {', '.join(missing)}")
        return self
