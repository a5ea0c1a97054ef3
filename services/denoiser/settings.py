"""Settings of the denoiser: environment variables `SOUNDSTAGE_DENOISER_<FIELD>`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings
from libs.triton import TritonSettings
from services.denoiser.checkpoints import CheckpointPolicy
from services.denoiser.denoise import Capacity
from services.denoiser.loras import LoraLimits

__all__ = ["DenoiserSettings"]


class DenoiserSettings(TritonSettings, ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_DENOISER_", frozen=True, extra="forbid")

    torch_threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 is every core the process may use. The bits of the latents may depend on it."""

    warm_models: tuple[str, ...] | None = None
    """Models to load before health says SERVING, as a JSON list; unset: all there are. Others load on first use."""

    pod_name: str = ""
    """Name of this pod in Kubernetes, whose deletion cost then follows its work; empty: nobody is told."""

    heartbeat_seconds: float = Field(default=5.0, gt=0, le=5)
    """Longest silence of a stream. Callers take a longer one for a dead stage."""

    max_active_videos: int = Field(default=16, ge=1, le=1000)
    """Videos at work at the same time, the most urgent one stepping; the others' latents wait in memory."""

    max_waiting_videos: int = Field(default=64, ge=0, le=10_000)
    """Videos that wait for one of those places, the most urgent first; one more is refused with RESOURCE_EXHAUSTED."""

    steps_at_once: int = Field(default=0, ge=0, le=64)
    """Videos that step at the same time. 0: as many as pay, measured in a few seconds at start with the models that are
    loaded then. Where Triton's pods come and go, give the number: what is there at start says little."""

    checkpoint_every_steps: int = Field(default=5, ge=0, le=1000)
    """A checkpoint is due after so many steps; 0: not by steps."""

    checkpoint_every_seconds: float = Field(default=20.0, ge=0)
    """Or after so many seconds; 0: not by time. After SIGTERM every step is kept."""

    checkpoint_most_share: float = Field(default=0.05, gt=0, le=1)
    """Copying and writing checkpoints take at most this share of the time: where they take long, they become rarer."""

    feature_cache_threshold: float = Field(default=0.0, ge=0, le=1)
    """A transformer call is left out when its output would differ from the last one by less than this share, as far as
    can be estimated; 0 leaves none out. At 0.1 Diorama takes 0.6 of the time, at 42 dB to all calls."""

    loras_kept: int = Field(default=2, ge=1, le=100)
    """Models with a LoRA in their weights in memory at most, those at work included; a video that needs one more waits.
    Each may need nearly as much as the model itself, beside the model. Of models on Triton: LoRAs at work at once."""

    lora_most_mib: int = Field(default=1024, ge=1, le=16_384)
    """Largest LoRA file; while it is read it is in memory twice, while it is sent to Triton up to five times."""

    @property
    def capacity(self) -> Capacity:
        return Capacity(self.max_active_videos, self.max_waiting_videos, self.steps_at_once)

    @property
    def lora_limits(self) -> LoraLimits:
        return LoraLimits(self.loras_kept, self.lora_most_mib)

    @property
    def checkpoint_policy(self) -> CheckpointPolicy:
        return CheckpointPolicy(self.checkpoint_every_steps, self.checkpoint_every_seconds, self.checkpoint_most_share)
