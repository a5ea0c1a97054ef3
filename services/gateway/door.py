"""The public door: whose a call is, by its API key or JWT, and whether its tenant may call so often."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from libs.errors import ResourceExhausted, Unauthenticated
from services.gateway.keys import PREFIX, ApiKeys
from services.gateway.tenants import Tenants
from services.gateway.tokens import Tokens

MAX_BUCKETS = 10_000
ALLOWANCE_SECONDS = 10.0
"""How long a tenant's rate is used before the database is asked again."""


class Door(Protocol):
    async def admit(self, metadata: Mapping[str, str]) -> str:
        """The tenant that calls. Raises Unauthenticated, ResourceExhausted, Unavailable."""


@dataclass(frozen=True)
class OpenDoor:
    """Everybody who reaches it is the one tenant. Only for loopback, which the settings see to."""

    tenant: str

    async def admit(self, metadata: Mapping[str, str]) -> str:  # noqa: ARG002 - nobody is told apart
        return self.tenant


class GuardedDoor:
    """`keys`, `tokens`: None where that kind of credentials is not accepted."""

    def __init__(self, keys: ApiKeys | None, tokens: Tokens | None, tenants: Tenants) -> None:
        self._keys, self._tokens, self._pace = keys, tokens, Pace(tenants)

    async def admit(self, metadata: Mapping[str, str]) -> str:
        tenant = await self._tenant_of(_bearer(metadata))
        await self._pace.take(tenant)
        return tenant

    async def _tenant_of(self, credential: str) -> str:
        if credential.startswith(PREFIX):
            if self._keys is not None:
                return await self._keys.tenant_of(credential)
        elif self._tokens is not None:
            return await self._tokens.tenant_of(credential)
        accepted = "an API key" if self._tokens is None else "a JWT"
        raise Unauthenticated(f"this server accepts {accepted}", reason="CREDENTIALS_NOT_ACCEPTED")


def _bearer(metadata: Mapping[str, str]) -> str:
    scheme, _, credential = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthenticated(
            "say who you are: send metadata `authorization: Bearer <API key or token>`",
            reason="CREDENTIALS_MISSING",
        )
    return credential.strip()


@dataclass
class _Bucket:
    per_second: float
    tokens: float
    filled: float
    asked: float


class Pace:
    """A token bucket a tenant, of this process: it holds a second's requests, and always at least one."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def take(self, tenant: str) -> None:
        """Raises ResourceExhausted, reason TOO_MANY_REQUESTS, with the seconds until there is a token again."""
        bucket = await self._bucket(tenant)
        now = time.monotonic()
        room = max(bucket.per_second, 1.0)
        bucket.tokens = min(room, bucket.tokens + (now - bucket.filled) * bucket.per_second)
        bucket.filled = now
        if bucket.tokens < 1.0:
            raise ResourceExhausted(
                f"{bucket.per_second:g} requests a second are allowed; ask more slowly",
                reason="TOO_MANY_REQUESTS",
                subject=f"tenant:{tenant}",
                retry_seconds=(1.0 - bucket.tokens) / bucket.per_second,
                requests_per_second=f"{bucket.per_second:g}",
            )
        bucket.tokens -= 1.0

    async def _bucket(self, tenant: str) -> _Bucket:
        bucket = self._buckets.get(tenant)
        if bucket is None or time.monotonic() - bucket.asked > ALLOWANCE_SECONDS:
            rate = (await self._tenants.allowance(tenant)).requests_per_second
            now = time.monotonic()
            # A new tenant begins with a full bucket; another call may have made it meanwhile.
            bucket = self._buckets.setdefault(tenant, _Bucket(rate, max(rate, 1.0), now, now))
            bucket.per_second, bucket.asked = rate, now
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket
