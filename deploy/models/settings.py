"""Where the store is: environment variables `SOUNDSTAGE_MODELS_<FIELD>`. Buckets are in the models' URIs."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from libs.artifacts import S3Address, S3Store

__all__ = ["ModelStoreSettings"]


class ModelStoreSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SOUNDSTAGE_MODELS_", frozen=True, extra="forbid")

    s3_endpoint: str = "s3.amazonaws.com"
    """host:port of the S3 server."""

    s3_secure: bool = True
    """Speak TLS to it."""

    s3_region: str = "us-east-1"
    """Its region, which requests are signed for."""

    s3_access_key: SecretStr = SecretStr("")
    """Access key. Fetching needs to read alone."""

    s3_secret_key: SecretStr = SecretStr("")
    """Secret key."""

    s3_ca: Path | None = None
    """Authority, PEM, of its certificate; the system's without it."""

    def open(self, bucket: str) -> S3Store:
        address = S3Address(bucket, self.s3_endpoint, secure=self.s3_secure, region=self.s3_region)
        keys = self.s3_access_key.get_secret_value(), self.s3_secret_key.get_secret_value()
        return S3Store(address, access_key=keys[0], secret_key=keys[1], ca=self.s3_ca)
