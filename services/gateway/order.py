"""Whose video begins next: the rule by itself, without database or clock.

Between tenants: start-time fair queueing. Each tenant has an account in virtual time; a video that begins moves it on
by its cost, divided by the tenant's weight and by `CLASS_SHARE` of its priority, and the tenant whose account is least
far begins next. A tenant with nothing to do saves nothing up: it comes back at the virtual time of whoever began last.
So a tenant's only video waits for at most one video of each other tenant, however many those have queued.

Within a tenant: by class, INTERACTIVE first; within a class by due time. A class that waits while none of its videos
begins moves up one class every `ageing` (again and again), so BATCH always gets its turn; one turn, since the next wait
is counted anew. The whole queue does not become urgent because it is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.gateway.video import Priority

CLASS = {Priority.INTERACTIVE: 0, Priority.STANDARD: 1, Priority.BATCH: 2}
CLASS_SHARE = {Priority.INTERACTIVE: 16.0, Priority.STANDARD: 4.0, Priority.BATCH: 1.0}
"""Of two tenants of one weight, the one with INTERACTIVE videos gets 16 times what one with only BATCH gets, if it can
use it. A share and not an order: else one tenant could keep out all others by calling everything INTERACTIVE."""

USUAL_WAIT = timedelta(hours=1)
"""A video without a deadline is due this long after its creation, and none is due later: a deadline only moves forward,
and no stream of deadlines keeps those out that have none."""


@dataclass(frozen=True)
class Waiting:
    """A video that has not begun. `cost`: what it takes, in any unit that is the same for all."""

    video_id: str
    tenant: str
    priority: Priority
    create_time: datetime
    due_time: datetime
    cost: float


@dataclass(frozen=True)
class Share:
    """What a tenant is entitled to. `max_at_work` is None for as many as there are places."""

    weight: float = 1.0
    max_at_work: int | None = None


@dataclass(frozen=True)
class Account:
    """What a tenant has had: virtual times at which its last video began and ended, when each class last had a turn."""

    start: float = 0.0
    finish: float = 0.0
    last_turns: Mapping[Priority, datetime] = field(default_factory=dict)
    at_work: int = 0


def due_time(create_time: datetime, deadline: datetime | None) -> datetime:
    usual = create_time + USUAL_WAIT
    return usual if deadline is None else min(deadline, usual)


class Line:
    """All that wait, and the accounts; `next` takes out one after the other."""

    def __init__(
        self,
        waiting: Iterable[Waiting],
        accounts: Mapping[str, Account],
        shares: Callable[[str], Share],
        *,
        virtual_time: float,
        now: datetime,
        ageing: timedelta,
    ) -> None:
        self._now, self._ageing, self._virtual_time = now, ageing, virtual_time
        self._lanes: dict[str, dict[Priority, list[Waiting]]] = {}
        self._oldest: dict[tuple[str, Priority], datetime] = {}
        for video in sorted(waiting, key=_within_class, reverse=True):
            self._lanes.setdefault(video.tenant, {}).setdefault(video.priority, []).append(video)
            lane = video.tenant, video.priority
            self._oldest[lane] = min(self._oldest.get(lane, video.create_time), video.create_time)
        self._shares = {tenant: shares(tenant) for tenant in self._lanes}
        self._accounts = {tenant: accounts.get(tenant, Account()) for tenant in self._lanes}
        self._heads = {tenant: self._head(tenant) for tenant in self._lanes}

    def next(self) -> tuple[Waiting, Account] | None:
        """The video that begins now, and its tenant's account afterwards; None when nobody may begin."""
        ready = [tenant for tenant in self._heads if self._may(tenant)]
        if not ready:
            return None
        tenant = min(ready, key=lambda tenant: (self._start(tenant), *self._heads[tenant]))
        video = self._heads[tenant][-1]
        self._lanes[tenant][video.priority].pop()
        self._accounts[tenant] = account = self._charged(tenant, video)
        self._virtual_time = account.start
        if any(self._lanes[tenant].values()):
            self._heads[tenant] = self._head(tenant)
        else:
            del self._heads[tenant]
        return video, account

    def __iter__(self) -> Iterator[Waiting]:
        while (taken := self.next()) is not None:
            yield taken[0]

    def _may(self, tenant: str) -> bool:
        most = self._shares[tenant].max_at_work
        return most is None or self._accounts[tenant].at_work < most

    def _start(self, tenant: str) -> float:
        return max(self._accounts[tenant].finish, self._virtual_time)

    def _charged(self, tenant: str, video: Waiting) -> Account:
        before, start = self._accounts[tenant], self._start(tenant)
        advance = video.cost / (self._shares[tenant].weight * CLASS_SHARE[video.priority])
        self._oldest[tenant, video.priority] = self._now
        return Account(
            start=start,
            finish=start + advance,
            last_turns={**before.last_turns, video.priority: self._now},
            at_work=before.at_work + 1,
        )

    def _head(self, tenant: str) -> tuple[int, datetime, datetime, str, Waiting]:
        """Of the tenant's classes the one whose turn it is, as a key that sorts; its first video at the end."""
        heads = (self._ranked(tenant, videos[-1]) for videos in self._lanes[tenant].values() if videos)
        return min(heads, key=lambda head: head[:-1])

    def _ranked(self, tenant: str, first: Waiting) -> tuple[int, datetime, datetime, str, Waiting]:
        last_turn = self._accounts[tenant].last_turns.get(first.priority, _NEVER)
        waited = self._now - max(self._oldest[tenant, first.priority], last_turn)
        return CLASS[first.priority] - max(waited // self._ageing, 0), *_within_class(first), first


_NEVER = datetime.min.replace(tzinfo=UTC)


def _within_class(video: Waiting) -> tuple[datetime, datetime, str]:
    return video.due_time, video.create_time, video.video_id
