"""Settings of the muxer: environment variables `SOUNDSTAGE_MUXER_<FIELD>`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings

__all__ = ["MuxerSettings"]


class MuxerSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_MUXER_", frozen=True, extra="forbid")

    max_concurrent_calls: int = Field(default=64, ge=1)
    """Calls at work at the same time, health checks included; one more is refused with RESOURCE_EXHAUSTED."""

    encoder_threads: int = Field(default=2, ge=1, le=64)
    """Threads of one H.264 encode. The bytes of a picture depend on it, so give every replica the same number."""

    media_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long the media process may take for one frame to accept, or for its last answer."""

    warm_models: tuple[str, ...] = ()
    """Models to load before health says SERVING, as a JSON list; others load when first asked for."""

    torch_threads: int = Field(default=0, ge=0)
    """CPU threads for decoding latents; 0 is all cores the process may use."""
