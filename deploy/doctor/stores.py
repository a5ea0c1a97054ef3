"""Which stores the settings, the values and the cluster's secrets name: the settings first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deploy.doctor.checking import Check, Outcome, fail, ok, warn
from deploy.doctor.names import Address
from deploy.doctor.postgresql import PostgresDoctor
from deploy.doctor.s3 import S3Doctor
from deploy.doctor.settings import DoctorSettings, variable
from deploy.doctor.temporal import TemporalDoctor
from deploy.doctor.values import Values
from libs.artifacts import s3_address

__all__ = ["Stores"]

STAGES = ("encoder", "denoiser", "audio", "muxer")
ISSUER = "auth.oidc.issuer"


@dataclass(frozen=True)
class Stores:
    settings: DoctorSettings
    seconds: float
    values: Values | None = None
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """From the path of a value to what the secret that it names holds."""

    def checks(self) -> Iterator[Check]:
        yield from self._artifacts()
        yield from self._database()
        yield from self._temporal()
        for stage in STAGES:
            if address := getattr(self.settings, f"{stage}_address"):
                yield Check(f"{stage} dns", Address(address, variable(f"{stage}_address")).resolve)
        if issuer := self.settings.oidc_issuer or self._value(ISSUER):
            in_values = not self.settings.oidc_issuer
            yield Check("oidc dns", Address(issuer, variable("oidc_issuer"), in_values, ISSUER).resolve)

    def _artifacts(self) -> Iterator[Check]:
        url = self.settings.artifacts_url or (self.values.artifacts_url if self.values else "")
        if not url.startswith("s3:"):
            yield Check("s3", lambda: self._without("artifacts_url", url, "bundled.seaweedfs.enabled"))
            return
        try:
            address = s3_address(url, self.settings.s3_public_endpoint or self._value("s3.publicEndpoint"))
        except ValueError as error:
            found = str(error)
            yield Check("s3", lambda: fail(found, f"set {variable('artifacts_url')}"))
            return
        try:
            ca = self._authority()
        except OSError as error:
            unread = f"{error.filename}: {error.strerror}"
            yield Check("s3", lambda: fail(unread, f"set {variable('s3_ca')} to a PEM file"))
            return
        key = self.settings.s3_access_key.get_secret_value() or self._secret("s3.existingSecret", "accessKeyKey")
        secret = self.settings.s3_secret_key.get_secret_value() or self._secret("s3.existingSecret", "secretKeyKey")
        in_cluster = not self.settings.artifacts_url
        yield from S3Doctor(address, key, secret, self.seconds, for_cluster=in_cluster, ca=ca).checks()

    def _authority(self) -> str:
        """PEM. Raises OSError when the file of the settings cannot be read."""
        file = self.settings.s3_ca
        return file.read_text(encoding="utf-8") if file else self._secret("s3.caSecret", "key")

    def _database(self) -> Iterator[Check]:
        said = self.settings.database_url.get_secret_value()
        url = said or self._secret("postgresql.existingSecret", "key")
        # Whatever does not begin like a file is taken for PostgreSQL, whose first check says how a URL is written.
        if not url or url.startswith("sqlite:"):
            kind = "sqlite, a file" if url else ""
            yield Check("postgresql", lambda: self._without("database_url", kind, "bundled.postgresql.enabled"))
            return
        yield from PostgresDoctor(url, self.seconds, for_cluster=not said).checks()

    def _temporal(self) -> Iterator[Check]:
        bundled = "bundled.temporal.enabled"
        in_values = "" if self._value(bundled) else self._value("temporal.address")
        address = self.settings.temporal_address or in_values
        if not address:
            yield Check("temporal", lambda: self._without("temporal_address", "", bundled))
            return
        said = self.settings
        yield from TemporalDoctor(
            address,
            said.temporal_namespace or self._value("temporal.namespace") or "default",
            self.seconds,
            tls=said.temporal_tls,
            ca=said.temporal_ca,
            cert=said.temporal_cert,
            key=said.temporal_key,
            for_cluster=not said.temporal_address,
        ).checks()

    def _without(self, setting: str, said: str, bundled: str) -> Outcome:
        if said:
            return warn(f"{said}: for one machine alone", f"for more, set {variable(setting)}")
        if self._value(bundled):
            return ok(f"brought by the release ({bundled})")
        return warn("not said, so not checked", f"set {variable(setting)}")

    def _value(self, path: str) -> str:
        return str(self.values.at(path) or "") if self.values else ""

    def _secret(self, path: str, key: str) -> str:
        return self.secrets.get(path, {}).get(self._value(f"{path}.{key}"), "")
