"""What is asked of the environment: the gateway's own settings, under their own names."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["DoctorSettings", "variable"]

PREFIX = "SOUNDSTAGE_GATEWAY_"


class DoctorSettings(BaseSettings):
    """A part of GatewaySettings, which itself would bring the gateway's packages. What is empty was not said."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    database_url: SecretStr = SecretStr("")
    """The gateway's database."""

    artifacts_url: str = ""
    """The artifact store."""

    s3_access_key: SecretStr = SecretStr("")
    """Access key of an S3 store."""

    s3_secret_key: SecretStr = SecretStr("")
    """Secret key of an S3 store."""

    s3_ca: Path | None = None
    """Authority, PEM, of the S3 server's certificate."""

    s3_public_endpoint: str = ""
    """Where callers reach the S3 store."""

    temporal_address: str = ""
    """host:port of Temporal's frontend."""

    temporal_namespace: str = ""
    """Temporal namespace."""

    temporal_tls: bool = False
    """Encrypt the connection to Temporal; implied by the next three."""

    temporal_ca: Path | None = None
    """Authority, PEM, of Temporal's certificate."""

    temporal_cert: Path | None = None
    """Certificate, PEM, to show to Temporal."""

    temporal_key: Path | None = None
    """Key of `temporal_cert`, PEM."""

    encoder_address: str = ""
    """host:port of the encoder; only its name is looked up, as of the next three."""

    denoiser_address: str = ""
    """host:port of the denoiser."""

    audio_address: str = ""
    """host:port of the audio service."""

    muxer_address: str = ""
    """host:port of the muxer."""

    oidc_issuer: str = ""
    """URL of the OIDC issuer; only its name is looked up."""


def variable(field: str) -> str:
    return PREFIX + field.upper()
