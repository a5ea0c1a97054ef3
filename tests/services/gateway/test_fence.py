"""Two attempts of one stage at once: one tells how it goes, one output counts, and the other stops."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from libs.artifacts import Ref
from services.gateway.activities import VideoActivities
from services.gateway.admission import Admission
from services.gateway.attempts import Attempts
from services.gateway.changes import Changes
from services.gateway.database import Database
from services.gateway.dispatcher import Dispatcher
from services.gateway.ledger import Ledger
from services.gateway.order import Share
from services.gateway.records import Records
from services.gateway.retries import Retries
from services.gateway.runner import TemporalRunner
from services.gateway.stages import Finished, Job, Progressed, StageEvent
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import AudioIntent, Preset, Priority, Spec, Stage, Video, VideoKey
from services.gateway.workflow import StageInput, StageOutput

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = Spec("diorama", "a campfire", "", 1.0, 12, 256, 256, 12.0, 4, 5.0, 1, Preset.FAST, AudioIntent.FULL)
STEPS = 4


@dataclass
class Workbench:
    """A stage whose attempts step when the test says so: `go` by number of the attempt."""

    go: dict[int, asyncio.Semaphore] = field(default_factory=dict)
    stepped: dict[int, asyncio.Event] = field(default_factory=dict)
    stopped: list[int] = field(default_factory=list)
    told_to_stop: list[str] = field(default_factory=list)

    async def run(self, job: Job) -> AsyncGenerator[StageEvent, None]:
        number = int(job.attempt.split("-")[1])
        try:
            for step in range(1, STEPS + 1):
                await self.go[number].acquire()
                self.stepped[number].set()
                yield Progressed(step, STEPS)
            yield Finished({"latents": Ref(f"memory://{number}", "application/test", 1, "0" * 64)}, 0.0, 0.0)
        finally:
            self.stopped.append(number)

    async def stop(self, key: VideoKey, attempt: str) -> None:  # noqa: ARG002 - the port's signature
        self.told_to_stop.append(attempt)


@dataclass
class Bench:
    records: Records
    attempts: Attempts
    activities: VideoActivities
    stage: Workbench
    key: VideoKey

    def begin(self, number: int) -> asyncio.Task[StageOutput]:
        """Attempt `number` of denoise, as a worker of its own would run it."""
        self.stage.go[number], self.stage.stepped[number] = asyncio.Semaphore(0), asyncio.Event()
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, attempt=number)
        return asyncio.ensure_future(environment.run(self.activities.denoise, StageInput(self.key)))

    async def step(self, number: int, steps: int = 1) -> None:
        for _ in range(steps):
            self.stage.go[number].release()
        await asyncio.wait_for(self.stage.stepped[number].wait(), 20)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    await database.migrate()
    records = Records(database, Changes(), Tenants(database, Allowance()), Ledger(200))
    attempts, admission, stage = Attempts(database), Admission(database, 300.0, Share(1.0, 10)), Workbench()
    dispatcher = Dispatcher(admission, TemporalRunner("127.0.0.1:1", "default", "none"), 1, 20.0)
    retries = Retries(away_attempts=3, first_seconds=1.0)
    activities = VideoActivities(records, attempts, admission, dispatcher, {Stage.DENOISE: stage}, retries, 0)
    key = VideoKey("local", str(uuid.uuid4()))
    await records.accept(Video(key, SPEC, None, Priority.STANDARD, None, "", "0" * 64, NOW))
    yield Bench(records, attempts, activities, stage, key)
    await database.close()


async def test_an_attempt_that_was_taken_over_stops_at_its_next_word(bench: Bench) -> None:
    first = bench.begin(1)
    await bench.step(1)
    second = bench.begin(2)
    await bench.step(2, 2)
    await bench.step(1, STEPS - 1)
    with pytest.raises(ApplicationError) as stopped:
        await asyncio.wait_for(first, 60)
    assert stopped.value.type == "SUPERSEDED"
    assert bench.stage.stopped == [1]
    assert [attempt.rpartition("-")[0] for attempt in bench.stage.told_to_stop] == ["denoise-1"]

    bench.stage.go[2].release()
    bench.stage.go[2].release()
    output = await asyncio.wait_for(second, 60)
    assert output.refs["latents"].uri == "memory://2"
    assert (await bench.records.get(bench.key)).status.attempt.startswith("denoise-2-")
    assert await bench.attempts.failed(bench.key, Stage.DENOISE) == []


async def test_an_earlier_attempt_does_not_take_over_from_a_later_one(bench: Bench) -> None:
    second = bench.begin(2)
    await bench.step(2)
    with pytest.raises(ApplicationError) as refused:
        await asyncio.wait_for(bench.begin(1), 20)
    assert refused.value.type == "SUPERSEDED"
    assert not second.done()
    await bench.step(2, STEPS - 1)
    await asyncio.wait_for(second, 60)


async def test_an_attempt_after_the_end_of_the_stage_gives_the_output_that_counts(bench: Bench) -> None:
    first = bench.begin(1)
    await bench.step(1, STEPS)
    earlier = await asyncio.wait_for(first, 60)
    assert await asyncio.wait_for(bench.begin(2), 20) == earlier
    assert 2 not in bench.stage.stopped
