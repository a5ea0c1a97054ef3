"""One tenant has 500 videos in the line; others come with one, or with fifty, and get what is theirs.

Real api and worker processes with one place, so that who follows whom is plain; the stages are light.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from bench.light_gateway import (
    CALLERS,
    DEADLINE_SECONDS,
    Process,
    Scene,
    create,
    made,
    many_calls,
    open_scene,
    waited_seconds,
)
from bench.options import Options
from bench.results import Figure, Results
from libs.artifacts import FolderStore
from services.gateway.database import Database
from services.gateway.keys import ApiKeys
from services.gateway.tenants import Allowance, Tenants
from tests.support.postgres import serving_postgres
from tests.support.stages import Script, StageServers, serving_stages
from tests.support.temporal import serving_temporal

QUEUED = 500
SINGLES, BETWEEN = 5, 4
"""Videos of tenants with one video each, and how many of the many begin before the next of them comes."""
FIFTY, COUNTED_TURNS = 50, 40
STAGE_SECONDS = 0.1
WEIGHTS = {"many": 1.0, "fifty": 1.0, "heavy": 2.0}


def run(_options: Options) -> Results:
    with tempfile.TemporaryDirectory(prefix="soundstage-bench-") as folder:
        return asyncio.run(_run(Path(folder)))


async def _run(folder: Path) -> Results:
    figures: list[Figure] = []
    with serving_temporal(folder) as temporal, serving_postgres() as postgres:
        async with serving_stages(FolderStore(folder / "artifacts")) as stages:
            urls = {"sqlite": f"sqlite:///{folder / 'gateway.db'}", "postgresql": postgres.create("bench")}
            for name, url in urls.items():
                here = folder / f"{name}-{uuid.uuid4().hex[:8]}"
                here.mkdir()
                async with open_scene(here, temporal, stages, url) as scene:
                    figures += await _of_database(scene, name)
    return Results(figures, {"queued": QUEUED, "load_average_at_end": round(os.getloadavg()[0], 2)})


async def _of_database(scene: Scene, name: str) -> list[Figure]:
    api = await scene.start("api", api_keys=True, charge_credits=False, requests_per_second=1_000_000)
    database = Database(scene.database_url)
    try:
        return await _of_api(scene, name, api, database)
    finally:
        await database.close()


async def _of_api(scene: Scene, name: str, api: Process, database: Database) -> list[Figure]:
    tenants = Tenants(database, Allowance())
    keys = ApiKeys(database, tenants)

    async def caller(tenant: str) -> Process:
        return replace(api, metadata=(("authorization", f"Bearer {await keys.make(tenant, 'bench', None)}"),))

    many = await caller("many")
    await many_calls(CALLERS, lambda: create(many))
    await many_calls(QUEUED - CALLERS, lambda: create(many))
    for script in _scripts(scene.stages):
        script.step_seconds = STAGE_SECONDS
    await scene.start("worker", max_concurrent_stages=1)
    figures = await _singles(scene, name, [await caller(f"single-{number}") for number in range(SINGLES)])
    await tenants.set("heavy", weight=WEIGHTS["heavy"])
    return figures + await _shares(scene, name, [await caller("fifty"), await caller("heavy")])


async def _singles(scene: Scene, name: str, callers: Sequence[Process]) -> list[Figure]:
    """Each of a tenant that never had anything: how many began before it, and how long it waited."""
    passed, waits, lengths = [], [], []
    for number, api in enumerate(callers):
        await _until_begun(scene, len(_begun(scene)) + BETWEEN)
        before = len(_begun(scene))
        video = await made(api, await create(api))
        passed.append(_begun(scene).index(f"single-{number}") - before)
        waits.append(waited_seconds(video))
        lengths.append((video.end_time.ToNanoseconds() - video.start_time.ToNanoseconds()) / 1e9)
    return [
        Figure(f"begun_before_a_single.{name}.most", max(passed), "count", "≤ 1"),
        Figure(f"wait_of_a_single.{name}.median", median(waits), "s"),
        Figure(f"wait_of_a_single.{name}.longest", max(waits), "s"),
        Figure(f"wait_over_one_videos_time.{name}.longest", max(waits) / median(lengths), "ratio"),
        Figure(f"one_videos_time.{name}.median", median(lengths), "s"),
    ]


async def _shares(scene: Scene, name: str, callers: Sequence[Process]) -> list[Figure]:
    """Who has the next turns when three tenants have more than enough to do, two of weight 1 and one of weight 2."""
    await asyncio.gather(*(many_calls(FIFTY, partial(create, api)) for api in callers))
    await _until_begun(scene, (start := len(_begun(scene))) + COUNTED_TURNS)
    turns = Counter(_begun(scene)[start : start + COUNTED_TURNS])
    due = {tenant: COUNTED_TURNS * weight / sum(WEIGHTS.values()) for tenant, weight in WEIGHTS.items()}
    return [Figure(f"turns_of_{tenant}.{name}", turns[tenant], "count", f"{due[tenant]:g}") for tenant in due]


def _begun(scene: Scene) -> list[str]:
    """Tenants of the videos that have begun, in order."""
    return [request.attempt.tenant for request in scene.stages.encode.requests]


async def _until_begun(scene: Scene, count: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(_begun(scene)) < count:  # noqa: ASYNC110 - another process fills it
            await asyncio.sleep(0.05)


def _scripts(stages: StageServers) -> list[Script]:
    return [stages.encode, stages.denoise, stages.render, stages.synthesize, stages.mux]
