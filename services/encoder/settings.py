"""Settings of the encoder: environment variables `SOUNDSTAGE_ENCODER_<FIELD>`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings

__all__ = ["EncoderSettings"]


class EncoderSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_ENCODER_", frozen=True, extra="forbid")

    torch_threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 is every core the process may use."""

    warm_models: tuple[str, ...] | None = None
    """Models to load before health says SERVING, as a JSON list; unset: all there are. Others load on first use."""

    heartbeat_seconds: float = Field(default=5.0, gt=0, le=5)
    """Longest silence of a stream. Callers take a longer one for a dead stage."""

    max_image_mib: int = Field(default=32, ge=1, le=256)
    """Largest first-frame file, in MiB."""

    max_image_megapixels: int = Field(default=50, ge=1, le=80)
    """Largest first frame once decompressed, in millions of pixels (4 bytes each at work)."""
