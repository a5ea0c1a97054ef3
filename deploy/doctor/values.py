"""The chart's values as helm would see them, and what they ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.doctor.checking import Check, Outcome, fail, ok

__all__ = ["NamedSecret", "Values", "values_checks"]

DEFAULTS = Path(__file__).resolve().parents[1] / "helm/soundstage/values.yaml"
COMPONENTS = {
    "gateway-api": "gatewayApi",
    "gateway-worker": "gatewayWorker",
    "encoder": "encoder",
    "denoiser": "denoiser",
    "audio": "audio",
    "muxer": "muxer",
}
GPU = "nvidia.com/gpu"
TLS_KEYS = ("tls.crt", "tls.key", "ca.crt")
PLACEHOLDER = "change-me"


@dataclass(frozen=True)
class NamedSecret:
    """A secret that the release reads; `path` is the value that names it."""

    path: str
    name: str
    keys: tuple[str, ...]


class Values:
    """`files` over the chart's own values, the last one first."""

    def __init__(self, files: Sequence[Path], defaults: Path = DEFAULTS) -> None:
        self._all: dict[str, Any] = {}
        for file in (defaults, *files):
            try:
                said = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            except yaml.YAMLError as error:  # its text would show some of the file
                raise ValueError(f"{file} is no YAML") from error
            if not isinstance(said, dict):
                raise ValueError(f"{file}: not a map of values")  # noqa: TRY004  a file's content, not a caller's type
            self._all = _merged(self._all, said)

    def at(self, path: str) -> Any:  # noqa: ANN401  YAML
        """What is at `a.b.c`; None where there is nothing."""
        found: Any = self._all
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    @property
    def scales_by_keda(self) -> bool:
        return bool(self.at("autoscaling.mode") == "keda")

    @property
    def uses_cert_manager(self) -> bool:
        inside = self.at("tls.internal.enabled") and self.at("tls.internal.certManager.enabled")
        given = self.at("tls.internal.existingSecrets") or {}
        outside = self.at("tls.public.enabled") and not self.at("tls.public.existingSecret")
        return bool((inside and any(not given.get(name) for name in COMPONENTS)) or outside)

    @property
    def builds_engines(self) -> bool:
        return bool(self.at("triton.enabled") and self.at("triton.engines.enabled"))

    @property
    def claims(self) -> list[str]:
        """Of volumes that the pods mount and the release does not make."""
        names = {self.at("models.existingClaim")}
        if self.at("models.fetch"):
            names.add(self.at("models.fetching.cacheClaim"))
        if self.at("triton.enabled") and not self.builds_engines:
            shared = self.at("triton.repositoryClaim")
            names |= {pool.get("repositoryClaim") or shared for pool in self.at("triton.pools") or []}
        return sorted(str(name) for name in names if name)

    @property
    def artifacts_url(self) -> str:
        """Empty for the store that the release brings itself."""
        bucket, endpoint, region = (self.at(f"s3.{name}") for name in ("bucket", "endpoint", "region"))
        if self.at("bundled.seaweedfs.enabled") or not endpoint:
            return ""
        return f"s3://{bucket}?endpoint={endpoint}&secure={str(bool(self.at('s3.secure'))).lower()}&region={region}"

    @property
    def gpus(self) -> int:
        """As many as the release asks for before anything scales."""
        return sum(int(part.get("replicas", 1)) * _gpus(part) for part in self._pods())

    @property
    def asks_for_gpus(self) -> bool:
        return any(_gpus(part) for part in self._pods())

    @property
    def priority_classes(self) -> list[str]:
        names = {part.get("priorityClassName") for part in self._pods()}
        if self.builds_engines:
            names.add(self.at("triton.engines.priorityClassName"))
        return sorted(str(name) for name in names if name)

    def secrets(self) -> Iterator[NamedSecret]:
        yield self._secret("s3.existingSecret", "accessKeyKey", "secretKeyKey")
        if self.at("s3.caSecret.name"):
            yield self._secret("s3.caSecret", "key")
        yield from self._of_models()
        yield self._secret("postgresql.existingSecret", "key")
        if self.scales_by_keda:
            yield self._secret("autoscaling.keda.existingSecret", "key")
        if self.at("bundled.postgresql.enabled"):
            yield self._secret("bundled.postgresql.existingSecret", "key")
        yield from self._certificates()

    def _secret(self, path: str, *keys: str) -> NamedSecret:
        return NamedSecret(path, self.at(f"{path}.name") or "", tuple(self.at(f"{path}.{key}") or "" for key in keys))

    def _of_models(self) -> Iterator[NamedSecret]:
        """Those with keys of their own for the model store; else the artifact store's open it."""
        keys = tuple(self.at(f"s3.existingSecret.{key}") or "" for key in ("accessKeyKey", "secretKeyKey"))
        for path, is_used in (
            ("models.fetching.existingSecret", bool(self.at("models.fetch"))),
            ("triton.engines.existingSecret", self.builds_engines),
        ):
            if is_used and (name := self.at(path)):
                yield NamedSecret(path, name, keys)

    def _pods(self) -> Iterator[Mapping[str, Any]]:
        if self.at("triton.enabled"):
            yield from self.at("triton.pools") or []
        for key in COMPONENTS.values():
            yield self.at(key) or {}

    def _certificates(self) -> Iterator[NamedSecret]:
        if self.at("tls.internal.enabled"):
            given = self.at("tls.internal.existingSecrets") or {}
            made = self.at("tls.internal.certManager.enabled")
            for component in COMPONENTS:
                if given.get(component) or not made:
                    path = f"tls.internal.existingSecrets.{component}"
                    yield NamedSecret(path, given.get(component, ""), TLS_KEYS)
        if self.at("tls.public.enabled") and (name := self.at("tls.public.existingSecret")):
            yield NamedSecret("tls.public.existingSecret", name, TLS_KEYS[:2])


def values_checks(values: Values) -> list[Check]:
    return [
        Check("values s3.endpoint", lambda: _address(values, "s3.endpoint", "bundled.seaweedfs.enabled")),
        Check("values s3.bucket", lambda: _bucket(str(values.at("s3.bucket") or ""))),
        Check("values temporal.address", lambda: _address(values, "temporal.address", "bundled.temporal.enabled")),
        Check("values auth", lambda: _auth(values)),
        Check("values secrets", lambda: _secrets(list(values.secrets()))),
    ]


def _address(values: Values, path: str, bundled: str) -> Outcome:
    if values.at(bundled):
        return ok(f"brought by the release ({bundled})")
    address = values.at(path)
    return ok(address) if address else fail("empty", f"set {path} to host:port, or {bundled}=true to try things out")


def _bucket(bucket: str) -> Outcome:
    if not bucket or bucket.startswith(PLACEHOLDER):
        return fail(f"{bucket!r} is nobody's bucket", "set s3.bucket to yours")
    return ok(bucket)


def _auth(values: Values) -> Outcome:
    issuer = values.at("auth.oidc.issuer")
    if not values.at("auth.apiKeys") and not issuer:
        return fail("nobody asks callers who they are; the gateway will not start", "set auth.apiKeys or auth.oidc")
    if issuer and not values.at("auth.oidc.audience"):
        return fail("auth.oidc.audience is empty; the gateway will not start", "say whose tokens to take")
    return ok("callers are asked who they are")


def _secrets(secrets: list[NamedSecret]) -> Outcome:
    unnamed = [secret.path for secret in secrets if not secret.name or not all(secret.keys)]
    if unnamed:
        return fail(f"without a name or a key: {', '.join(unnamed)}", "name secrets that are there")
    return ok("named: " + ", ".join(f"{secret.name} ({', '.join(secret.keys)})" for secret in secrets))


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """As helm does: maps are merged, null takes a key away, everything else replaces."""
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def _gpus(part: Mapping[str, Any]) -> int:
    return int(((part.get("resources") or {}).get("limits") or {}).get(GPU, 0))
