"""What the gateway can be told from outside: `SOUNDSTAGE_GATEWAY_<FIELD>`."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from libs.serving import ServiceSettings, TlsFiles
from services.gateway.safety import RULES_FILE

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


class GatewaySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_GATEWAY_", frozen=True, extra="forbid")

    role: Literal["all", "api", "worker"] = "all"
    """`api` answers callers, `worker` runs the videos, `all` does both in one process."""

    database_url: str = Field(default_factory=lambda: f"sqlite:///{Path('.state/gateway.db').resolve()}")
    """`sqlite:////absolute/file.db`, or `postgresql://user:password@host/database`; migrated at start."""

    temporal_address: str = "127.0.0.1:7233"
    """host:port of Temporal's frontend."""

    temporal_namespace: str = "default"
    """Temporal namespace; it must exist."""

    temporal_task_queue: str = "soundstage-videos"
    """Task queue that workers take videos from."""

    temporal_tls: bool = False
    """Encrypt the connection to Temporal; implied by the next three."""

    temporal_ca: Path | None = None
    """Authority, PEM, of Temporal's certificate; the system's when left out."""

    temporal_cert: Path | None = None
    """Certificate, PEM, that the gateway shows to Temporal. Read at start, like the other two."""

    temporal_key: Path | None = None
    """Key of `temporal_cert`, PEM."""

    temporal_connect_seconds: float = Field(default=60.0, gt=0)
    """How long to wait for Temporal at start before giving up."""

    encoder_address: str = ""
    """host:port of the encoder. Needed by a worker, like the next three; an api needs it for AnalyzePrompt."""

    denoiser_address: str = ""
    """host:port of the denoiser."""

    audio_address: str = ""
    """host:port of the audio service."""

    muxer_address: str = ""
    """host:port of the muxer."""

    stages_ca: Path | None = None
    """Authority, PEM, of the stages' certificates: with it, the stages are called over TLS."""

    stages_cert: Path | None = None
    """Certificate, PEM, that the gateway shows to the stages. Replaced files are used with the next call."""

    stages_key: Path | None = None
    """Key of `stages_cert`, PEM."""

    analyze_seconds: float = Field(default=15.0, gt=0, le=120)
    """How long the encoder may take for a part of what AnalyzePrompt asks it. The first time it is asked for most."""

    safety: Literal["rules", "none"] = "rules"
    """Which prompts are refused: those on the list of `safety_rules`, or none."""

    safety_rules: Path = RULES_FILE
    """TOML file with the rules; the one of this repository says how they are written."""

    default_model: str = "diorama"
    """Model of requests that name none; a folder of `models_dir`."""

    tenant: str = Field(default="local", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    """Owner of everything that callers create, as long as neither keys nor tokens tell them apart."""

    api_keys: bool = False
    """Callers say who they are by an API key, made by `python -m services.gateway.admin`."""

    oidc_issuer: str = ""
    """Callers may say who they are by a JWT of this OIDC issuer: its URL, exactly as in the claim `iss`."""

    oidc_audience: str = ""
    """What the claim `aud` of those JWTs must hold. Needed with `oidc_issuer`."""

    oidc_jwks_url: str = ""
    """Where the issuer publishes its keys; empty to find it by OIDC discovery."""

    oidc_algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    """Signatures that are accepted, as a JSON list; asymmetric ones only."""

    oidc_tenant_claim: str = Field(default="tenant", min_length=1)
    """Claim of those JWTs that names the tenant."""

    max_queued_videos: int = Field(default=20, ge=1)
    """Videos of a tenant that may be queued at once. This, the next two and `daily_credits` are for tenants without
    figures of their own."""

    max_running_videos: int = Field(default=1000, ge=1)
    """Videos of a tenant that may be at work at once; more wait in the queue."""

    requests_per_second: float = Field(default=50.0, gt=0)
    """Calls that a tenant may make, to each process of the gateway. Not limited where callers are not told apart."""

    max_watches: int = Field(default=200, ge=1)
    """`WatchVideo` calls that a tenant may have open, to each process; each counts in `max_concurrent_calls`. Not
    limited where callers are not told apart."""

    daily_credits: float = Field(default=100.0, ge=0)
    """Credits that a tenant is given on each day on which it calls, after the first."""

    first_credits: float = Field(default=200.0, ge=0)
    """Credits that a tenant is given with its first call."""

    charge_credits: bool | None = None
    """Whether videos cost credits; unset: where callers are told apart."""

    max_concurrent_stages: int = Field(default=2, ge=1, le=1000)
    """Stages that one worker has at work at once, and so the videos: each has one stage at work."""

    ageing_seconds: float = Field(default=300.0, gt=0)
    """A priority class that waits this long while none of its videos begins moves up one class, for one video."""

    preview_every_steps: int = Field(default=5, ge=0, le=1000)
    """Ask the denoiser for a preview every so many steps; 0 for none."""

    stage_silence_seconds: float = Field(default=20.0, gt=5)
    """A stage that sends nothing for this long is taken for lost. Stages send something every 5 s."""

    worker_silence_seconds: float = Field(default=20.0, ge=2)
    """A worker that is silent for this long is taken for dead; its stages are tried again. Beats come each second."""

    stage_away_attempts: int = Field(default=60, ge=1, le=500)
    """Attempts of a stage while it cannot be reached, or its store or database is away; 60 are about half an hour."""

    retry_first_seconds: float = Field(default=1.0, gt=0, le=30)
    """Wait before the second attempt of a stage; doubles up to 30 s, each with jitter."""

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

    keep_records_seconds: float = Field(default=365 * 86_400.0, ge=0)
    """How long the record of a video stays after its end, with its events; never shorter than its files."""

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

    demand_every_seconds: float = Field(default=15.0, ge=0)
    """How often a worker reads what the queue asks for into its metrics; 0 for never."""

    demand_clear_seconds: float = Field(default=60.0, gt=0)
    """What is queued should have begun within this time: the more of it, the fewer replicas are asked for."""

    demand_seconds_per_unit: float = Field(default=10.0, gt=0)
    """Seconds of denoising for 1e8 picture elements times steps, as long as none were measured on the model."""

    @property
    def tells_callers_apart(self) -> bool:
        return self.api_keys or bool(self.oidc_issuer)

    @property
    def stages_tls(self) -> TlsFiles | None:
        """None for plaintext."""
        return TlsFiles(self.stages_cert, self.stages_key, self.stages_ca) if self.stages_ca else None

    @property
    def temporal_tls_files(self) -> TlsFiles | None:
        """None for plaintext."""
        wanted = self.temporal_tls or self.temporal_ca or self.temporal_cert
        return TlsFiles(self.temporal_cert, self.temporal_key, self.temporal_ca) if wanted else None

    @model_validator(mode="after")
    def _temporal_tls_is_whole(self) -> Self:
        if (self.temporal_cert is None) != (self.temporal_key is None):
            raise ValueError("temporal_cert and temporal_key go together: name both files, or none")
        return self

    @model_validator(mode="after")
    def _stages_tls_is_whole(self) -> Self:
        if (self.stages_cert is None) != (self.stages_key is None) or (self.stages_cert and not self.stages_ca):
            raise ValueError("TLS to the stages needs stages_ca, and stages_cert and stages_key only together")
        return self

    @model_validator(mode="after")
    def _an_open_door_is_on_loopback(self) -> Self:
        if self.role != "worker" and not self.tells_callers_apart and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by others, and nobody asks who they are: set "
                "SOUNDSTAGE_GATEWAY_API_KEYS=true or SOUNDSTAGE_GATEWAY_OIDC_ISSUER, or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _tokens_are_for_us_and_keys_come_safely(self) -> Self:
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError(
                "with SOUNDSTAGE_GATEWAY_OIDC_ISSUER, say whose tokens to take: SOUNDSTAGE_GATEWAY_OIDC_AUDIENCE"
            )
        for url in filter(None, (self.oidc_issuer, self.oidc_jwks_url)):
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
                raise ValueError(f"{url}: whoever can change what it answers makes tokens of his own; use https")
        return self

    @model_validator(mode="after")
    def _worker_knows_the_stages(self) -> Self:
        names = ("encoder_address", "denoiser_address", "audio_address", "muxer_address")
        missing = [f"SOUNDSTAGE_GATEWAY_{name.upper()}" for name in names if not getattr(self, name)]
        if self.role != "api" and missing:
            raise ValueError(f"role {self.role} calls the stages: set {', '.join(missing)}")
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
