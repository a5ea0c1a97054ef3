"""Who may use how much: a tenant's own figures from its row, the settings' figures for what the row leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from services.gateway.database import Database
from services.gateway.tables import TenantRow

_INSERT: Mapping[str, Callable[..., Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


@dataclass(frozen=True)
class Allowance:
    """What a tenant may use. `weight`: its share of the machines beside other tenants', 1 as everybody's."""

    weight: float = 1.0
    max_queued_videos: int = 20
    max_running_videos: int = 20
    requests_per_second: float = 50.0
    daily_credits: float = 100.0


class Tenants:
    """`usual` is the allowance of tenants without figures of their own."""

    def __init__(self, database: Database, usual: Allowance) -> None:
        self._database, self._usual = database, usual

    async def allowance(self, tenant: str) -> Allowance:
        async with self._database.read() as session:
            return self._of(await session.get(TenantRow, tenant))

    async def lock(self, session: AsyncSession, tenant: str) -> Allowance:
        """The allowance; until the transaction ends, nobody else counts or spends for this tenant. Makes its row."""
        locked = select(TenantRow).where(TenantRow.tenant == tenant).with_for_update()
        if (row := await session.scalar(locked)) is None:
            await _ensure(session, tenant)
            row = await session.scalar(locked)
        return self._of(row)

    async def set(self, tenant: str, **figures: float | None) -> Allowance:
        """Gives a tenant figures of its own, by their names in `Allowance`; None puts the default back."""
        if "weight" in figures:
            figures["weight"] = figures["weight"] or 1.0
        async with self._database.write() as session:
            await _ensure(session, tenant)
            if figures:
                await session.execute(update(TenantRow).where(TenantRow.tenant == tenant).values(figures))
        return await self.allowance(tenant)

    async def all(self) -> dict[str, Allowance]:
        async with self._database.read() as session:
            rows = await session.scalars(select(TenantRow).order_by(TenantRow.tenant))
            return {row.tenant: self._of(row) for row in rows}

    def _of(self, row: TenantRow | None) -> Allowance:
        own = {name: getattr(row, name, None) for name in asdict(self._usual)}
        return Allowance(**{**asdict(self._usual), **{name: value for name, value in own.items() if value is not None}})


async def _ensure(session: AsyncSession, tenant: str) -> None:
    insert = _INSERT[session.get_bind().dialect.name]
    row = insert(TenantRow).values(tenant=tenant, create_time=datetime.now(UTC))
    await session.execute(row.on_conflict_do_nothing())
