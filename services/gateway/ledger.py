"""Credits: granted, reserved by a video when it is accepted, and given back for what was not done.

An append-only list of entries a tenant, in thousandths of a credit. Each holds the balance after it, so that the newest
one is the balance. Everything here runs in the transaction of the change it belongs to, under the tenant's lock: a
crash leaves either both or neither, and of two creates at once the second sees what the first has reserved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from libs.errors import ResourceExhausted
from services.gateway.price import MILLI
from services.gateway.progress import fraction
from services.gateway.tables import LedgerRow
from services.gateway.video import State, Video


class Kind(StrEnum):
    """Why an entry was made; in brackets what its reference is."""

    FIRST = "FIRST"  # once a tenant ("first")
    DAILY = "DAILY"  # on each later day on which the tenant calls (the day)
    GRANTED = "GRANTED"  # by the operator (a random id)
    RESERVED = "RESERVED"  # the price of an accepted video (its id)
    REFUNDED = "REFUNDED"  # what a failed or cancelled video did not use (its id)


@dataclass(frozen=True)
class Entry:
    time: datetime
    kind: Kind
    reference: str
    amount_millicredits: int
    balance_millicredits: int


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    def __init__(self, first_credits: float, now: Callable[[], datetime] = _now) -> None:
        self._first, self._now = round(first_credits * MILLI), now

    async def balance(self, session: AsyncSession, tenant: str, daily_credits: float) -> int:
        """The balance; a tenant's first call, and its first on a later day, adds to it. Needs the tenant's lock."""
        match await self._due(session, tenant):
            case Kind.FIRST:
                return await self._append(session, tenant, Kind.FIRST, "first", self._first)
            case Kind.DAILY:
                day = self._now().date().isoformat()
                return await self._append(session, tenant, Kind.DAILY, day, round(daily_credits * MILLI))
        return await _balance(session, tenant)

    async def balance_if_settled(self, session: AsyncSession, tenant: str) -> int | None:
        """The balance, to read only; None when `balance` would add to it."""
        return None if await self._due(session, tenant) else await _balance(session, tenant)

    async def grant(self, session: AsyncSession, tenant: str, millicredits: int, reference: str) -> int:
        """By the operator; a negative amount takes away, even below nothing. Needs the tenant's lock."""
        return await self._append(session, tenant, Kind.GRANTED, reference, millicredits)

    async def reserve(self, session: AsyncSession, video: Video, daily_credits: float) -> None:
        """Takes the video's cost. Raises ResourceExhausted, reason CREDITS_EXHAUSTED. Needs the tenant's lock."""
        cost, tenant = video.cost_millicredits, video.key.tenant
        if not cost:
            return
        balance = await self.balance(session, tenant, daily_credits)
        if balance < cost:
            raise ResourceExhausted(
                f"the video costs {cost / MILLI:g} credits and {balance / MILLI:g} are left: make it shorter or with "
                "fewer steps, or wait for the next credits",
                reason="CREDITS_EXHAUSTED",
                subject=f"tenant:{tenant}",
                retry_seconds=(self.next_grant() - self._now()).total_seconds(),
                cost_credits=f"{cost / MILLI:g}",
                credits=f"{balance / MILLI:g}",
            )
        await self._append(session, tenant, Kind.RESERVED, video.key.video_id, -cost)

    async def settle(self, session: AsyncSession, video: Video) -> int:
        """Gives back what a video that has ended did not use; returns what it costs in the end. Needs the lock.

        One that did not succeed pays for the fraction of the work that was done, as its progress told all along.
        """
        reserved, status = video.cost_millicredits, video.status
        kept = reserved if status.state is State.SUCCEEDED else round(reserved * fraction(video, status))
        if reserved > kept:
            await self._append(session, video.key.tenant, Kind.REFUNDED, video.key.video_id, reserved - kept)
        return kept

    async def entries(self, session: AsyncSession, tenant: str, limit: int) -> list[Entry]:
        """The newest ones, newest first."""
        query = select(LedgerRow).where(LedgerRow.tenant == tenant).order_by(LedgerRow.number.desc()).limit(limit)
        return [
            Entry(row.time, Kind(row.kind), row.reference, row.amount_millicredits, row.balance_millicredits)
            for row in await session.scalars(query)
        ]

    def next_grant(self) -> datetime:
        """The next midnight, UTC."""
        return datetime.combine(self._now().date() + timedelta(days=1), time(), UTC)

    async def _due(self, session: AsyncSession, tenant: str) -> Kind | None:
        """What is granted with the next call."""
        first = await _entry(session, tenant, Kind.FIRST, "first")
        if first is None:
            return Kind.FIRST
        today = self._now().date()
        if first.time.date() < today and not await _entry(session, tenant, Kind.DAILY, today.isoformat()):
            return Kind.DAILY
        return None

    async def _append(self, session: AsyncSession, tenant: str, kind: Kind, reference: str, amount: int) -> int:
        last = await _last(session, tenant)
        row = LedgerRow(
            tenant=tenant,
            number=last.number + 1 if last else 1,
            time=self._now(),
            kind=kind.value,
            reference=reference,
            amount_millicredits=amount,
            balance_millicredits=(last.balance_millicredits if last else 0) + amount,
        )
        session.add(row)
        await session.flush()
        return row.balance_millicredits


async def _last(session: AsyncSession, tenant: str) -> LedgerRow | None:
    query = select(LedgerRow).where(LedgerRow.tenant == tenant).order_by(LedgerRow.number.desc()).limit(1)
    row: LedgerRow | None = await session.scalar(query)
    return row


async def _balance(session: AsyncSession, tenant: str) -> int:
    last = await _last(session, tenant)
    return last.balance_millicredits if last else 0


async def _entry(session: AsyncSession, tenant: str, kind: Kind, reference: str) -> LedgerRow | None:
    query = select(LedgerRow).where(LedgerRow.tenant == tenant, LedgerRow.kind == kind.value)
    row: LedgerRow | None = await session.scalar(query.where(LedgerRow.reference == reference))
    return row
