"""Settings of the muxer: environment variables `SOUNDSTAGE_MUXER_<FIELD>`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings
from libs.triton import TritonSettings

__all__ = ["MuxerSettings"]


class MuxerSettings(TritonSettings, ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_MUXER_", frozen=True, extra="forbid")

    max_concurrent_calls: int = Field(default=64, ge=1)
    """Calls at work at the same time, health checks included; one more is refused with RESOURCE_EXHAUSTED."""

    encoder_threads: int = Field(default=2, ge=1, le=64)
    """Threads of one H.264 encode. The bytes of a picture depend on it, so give every replica the same number."""

    media_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long the media process may take to accept one chunk of frames, or to give its last answer."""

    torch_threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 is every core the process may use."""

    warm_models: tuple[str, ...] | None = None
    """Models to load before health says SERVING, as a JSON list; unset: all there are. Others load on first use."""

    heartbeat_seconds: float = Field(default=5.0, gt=0, le=5)
    """Longest silence of a stream. Callers take a longer one for a dead stage."""
