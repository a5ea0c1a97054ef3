"""What every service can be told from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.serving.tls import TlsFiles

__all__ = ["ServiceSettings"]


class ServiceSettings(BaseSettings):
    """Base of each service's settings; a subclass sets ``env_prefix``: SOUNDSTAGE_<SERVICE>_. Fails at start."""

    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_", frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Address to listen on, for gRPC and for metrics. `0.0.0.0` in a container."""

    grpc_port: int = Field(default=0, ge=0, le=65535)
    """Port of the gRPC server; 0 chooses a free one."""

    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of `GET /metrics` for Prometheus; 0 chooses a free one."""

    grace_seconds: float = Field(default=20.0, ge=0)
    """How long calls in flight may go on after SIGTERM; keep it 20 s below the pod's terminationGracePeriodSeconds."""

    max_message_mib: int = Field(default=16, ge=1, le=256)
    """Largest message received or sent, in MiB. Tensors and media never travel in messages."""

    max_concurrent_calls: int = Field(default=1000, ge=1)
    """Calls at work at the same time; one more is refused with RESOURCE_EXHAUSTED."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""

    otlp_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Collector of traces, OTLP over HTTP: `http://collector:4318`. Empty: none are made."""

    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of the traces that are kept; where a caller's own trace goes on, that says whether."""

    artifacts_url: str = Field(default_factory=lambda: Path(".state/artifacts").resolve().as_uri())
    """The artifact store: `file:///folder`, `s3://bucket?endpoint=host:port&secure=false&region=us-east-1` or `memory://name`."""

    s3_access_key: SecretStr = SecretStr("")
    """Access key of an S3 store."""

    s3_secret_key: SecretStr = SecretStr("")
    """Secret key of an S3 store."""

    s3_ca: Path | None = None
    """Authority, PEM, of the S3 server's certificate; the system's without it."""

    s3_public_endpoint: str = ""
    """host:port or URL under which callers reach the S3 store, when it is not the endpoint of `artifacts_url`."""

    tls_cert: Path | None = None
    """Certificate of the gRPC port, PEM, with its chain; plaintext without it. Replaced files are used at once."""

    tls_key: Path | None = None
    """Key of `tls_cert`, PEM."""

    tls_client_ca: Path | None = None
    """Authority, PEM, whose certificate every caller must show; also health checks. Unset: callers need none."""

    tls_client_names: tuple[str, ...] = ()
    """Names (DNS or URI, as in SPIFFE) of which a caller's certificate must hold one, as a JSON list; empty: any."""

    models_dir: Path = Path("models")
    """Folder with one folder a model."""

    @property
    def tls(self) -> TlsFiles | None:
        """None for plaintext."""
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca) if self.tls_cert else None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            raise ValueError("TLS needs both tls_cert and tls_key; tls_client_ca comes with them")
        if self.tls_client_names and not self.tls_client_ca:
            raise ValueError("tls_client_names are looked for in certificates: set tls_client_ca, which asks for them")
        return self
