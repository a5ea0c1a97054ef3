"""API keys: made, listed and revoked by the admin command, and looked up at the door. Only their hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from libs.errors import NotFound, Unauthenticated
from services.gateway.database import Database
from services.gateway.tables import ApiKeyRow
from services.gateway.tenants import Tenants

PREFIX = "ssk_"
"""What every key begins with, so that the door tells it from a JWT, and a scanner of repositories finds it."""

TRUSTED_SECONDS = 10.0
"""How long a key that was looked up is not looked up again: so long, at most, a revoked one still works."""

MAX_TRUSTED = 10_000


@dataclass(frozen=True)
class ApiKey:
    """What may be shown of a key. `label` is for people."""

    key_id: str
    tenant: str
    label: str
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None


class ApiKeys:
    def __init__(self, database: Database, tenants: Tenants) -> None:
        self._database, self._tenants = database, tenants
        self._trusted: dict[str, tuple[str, float]] = {}

    async def make(self, tenant: str, label: str, expire_time: datetime | None) -> str:
        """The key itself, which nobody can read again."""
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        await self._tenants.set(tenant)
        row = ApiKeyRow(
            key_id=key_id,
            tenant=tenant,
            label=label,
            secret_hash=_hashed(secret),
            create_time=datetime.now(UTC),
            expire_time=expire_time,
            revoke_time=None,
        )
        async with self._database.write() as session:
            session.add(row)
        return f"{PREFIX}{key_id}_{secret}"

    async def all(self) -> list[ApiKey]:
        """By tenant, oldest first."""
        async with self._database.read() as session:
            rows = await session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.tenant, ApiKeyRow.create_time))
            return [_shown(row) for row in rows]

    async def revoke(self, key_id: str) -> ApiKey:
        """From now on (see TRUSTED_SECONDS) it opens nothing. Raises NotFound."""
        async with self._database.write() as session:
            row = await session.get(ApiKeyRow, key_id)
            if row is None:
                raise NotFound(f"there is no key {key_id}; `keys list` shows them", reason="API_KEY_UNKNOWN")
            row.revoke_time = row.revoke_time or datetime.now(UTC)
            return _shown(row)

    async def tenant_of(self, key: str) -> str:
        """Raises Unauthenticated, the same for a key that is unknown, wrong, revoked or expired."""
        hashed = _hashed(key)
        tenant, until = self._trusted.get(hashed, ("", 0.0))
        if time.monotonic() >= until:
            tenant = await self._look_up(key)
            if len(self._trusted) >= MAX_TRUSTED:
                self._trusted.clear()
            self._trusted[hashed] = (tenant, time.monotonic() + TRUSTED_SECONDS)
        return tenant

    async def _look_up(self, key: str) -> str:
        key_id, _, secret = key.removeprefix(PREFIX).partition("_")
        async with self._database.read() as session:
            row = await session.get(ApiKeyRow, key_id)
        if row is None or not hmac.compare_digest(row.secret_hash, _hashed(secret)) or not _is_valid(row):
            raise Unauthenticated(
                "this API key opens nothing: it is wrong, revoked or expired; ask for another", reason="API_KEY_INVALID"
            )
        return row.tenant


def _is_valid(row: ApiKeyRow) -> bool:
    return row.revoke_time is None and (row.expire_time is None or row.expire_time > datetime.now(UTC))


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _shown(row: ApiKeyRow) -> ApiKey:
    return ApiKey(row.key_id, row.tenant, row.label, row.create_time, row.expire_time, row.revoke_time)
