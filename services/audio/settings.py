"""Settings of the audio service: environment variables `SOUNDSTAGE_AUDIO_<FIELD>`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings

__all__ = ["AudioSettings"]


class AudioSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_AUDIO_", frozen=True, extra="forbid")

    max_concurrent_calls: int = Field(default=64, ge=1)
    """Calls at work at the same time, health checks included; one more is refused with RESOURCE_EXHAUSTED."""

    max_picture_mib: int = Field(default=2048, ge=1)
    """Largest picture once decoded, in MiB; all its frames are in memory at once."""

    torch_threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 is every core the process may use."""

    warm_models: tuple[str, ...] | None = None
    """Models to load before health says SERVING, as a JSON list; unset: all there are. Others load on first use."""

    heartbeat_seconds: float = Field(default=5.0, gt=0, le=5)
    """Longest silence of a stream. Callers take a longer one for a dead stage."""
