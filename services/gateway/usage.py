"""What each tenant has queued, at work and done, as figures for a dashboard; read by each worker every so often.

Tenants come with keys and tokens, without bound, and a series for each would be more than Prometheus takes: those with
the most videos have their own, the others share one.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from prometheus_client import Gauge
from sqlalchemy import ColumnElement, case, func, select

from services.gateway import metrics
from services.gateway.database import Database
from services.gateway.price import MILLI
from services.gateway.states import TERMINAL
from services.gateway.tables import AttemptRow, QueueRow, VideoRow

NAMED_TENANTS = 20
OTHERS = "(others)"
"""No tenant can be called so."""
ENDED_WITHIN = timedelta(hours=1)
Figures = defaultdict[tuple[str, ...], float]
"""Labels, the tenant first -> figure."""


class Usage:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._shown: dict[Gauge, set[tuple[str, ...]]] = {}

    async def show(self) -> None:
        queued, at_work = await self._waiting()
        ended, spent = await self._ended()
        videos = defaultdict[str, float](float)
        for figures in (queued, at_work, ended):
            for (tenant, *_), count in figures.items():
                videos[tenant] += count
        named = set(heapq.nlargest(NAMED_TENANTS, videos, key=videos.__getitem__))
        self._set(metrics.TENANT_QUEUED, _among(named, queued))
        self._set(metrics.TENANT_AT_WORK, _among(named, at_work))
        self._set(metrics.TENANT_ENDED, _among(named, ended))
        credits_spent = {labels: amount / MILLI for labels, amount in _among(named, spent).items()}
        self._set(metrics.TENANT_CREDITS, credits_spent)
        self._set(metrics.TENANT_GPU_SECONDS, _among(named, await self._gpu_seconds()))

    async def _waiting(self) -> tuple[Figures, Figures]:
        waits = QueueRow.admit_time.is_(None)
        query = select(
            QueueRow.tenant, func.sum(case((waits, 1), else_=0)), func.sum(case((waits, 0), else_=1))
        ).group_by(QueueRow.tenant)
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        queued, at_work = Figures(float), Figures(float)
        for tenant, waiting, working in rows:
            queued[(tenant,)], at_work[(tenant,)] = int(waiting), int(working)
        return queued, at_work

    async def _ended(self) -> tuple[Figures, Figures]:
        """Videos by tenant and state, and millicredits by tenant."""
        query = (
            select(VideoRow.tenant, VideoRow.state, func.count(), func.sum(VideoRow.cost_millicredits))
            .where(*_ended_lately())
            .group_by(VideoRow.tenant, VideoRow.state)
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        ended, spent = Figures(float), Figures(float)
        for tenant, state, count, millicredits in rows:
            ended[tenant, state] = count
            spent[(tenant,)] += int(millicredits)  # PostgreSQL sums them as a Decimal
        return ended, spent

    async def _gpu_seconds(self) -> Figures:
        query = (
            select(VideoRow.tenant, func.sum(AttemptRow.gpu_seconds))
            .join(AttemptRow, AttemptRow.video_id == VideoRow.video_id)
            .where(*_ended_lately())
            .group_by(VideoRow.tenant)
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        return Figures(float, {(tenant,): seconds for tenant, seconds in rows})

    def _set(self, gauge: Gauge, figures: Mapping[tuple[str, ...], float]) -> None:
        """A tenant that is no longer among the figures loses its series: else they would become ever more."""
        for gone in self._shown.get(gauge, set()) - set(figures):
            gauge.remove(*gone)
        for labels, figure in figures.items():
            gauge.labels(*labels).set(figure)
        self._shown[gauge] = set(figures)


def _ended_lately() -> tuple[ColumnElement[bool], ...]:
    since = datetime.now(UTC) - ENDED_WITHIN
    return VideoRow.state.in_([state.value for state in TERMINAL]), VideoRow.update_time >= since


def _among(named: set[str], figures: Figures) -> Figures:
    found = Figures(float)
    for (tenant, *rest), figure in figures.items():
        found[(tenant if tenant in named else OTHERS, *rest)] += figure
    return found
