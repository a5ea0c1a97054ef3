"""Watching: what many watchers cost, going on at another replica; where a video stands and when it will be ready."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from libs.errors import NotFound
from libs.serving import open_channel
from services.gateway.admission import Queue
from services.gateway.changes import Changes
from services.gateway.database import Database
from services.gateway.ledger import Ledger
from services.gateway.order import Waiting
from services.gateway.records import Event, Records
from services.gateway.settings import GatewaySettings
from services.gateway.standing import forecast
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import AudioIntent, Preset, Priority, Shape, Spec, State, Status, Video, VideoKey
from services.gateway.watches import KEPT_EVENTS, Watches
from tests.services.gateway.conftest import TERMINAL, Scene, gateway_process, working
from tests.support.stages import StageServers
from tests.support.waiting import until

SPEC = Spec("diorama", "a campfire", "", 1.0, 12, 256, 256, 12.0, 4, 5.0, 1, Preset.FAST, AudioIntent.FULL)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class CountingRecords(Records):
    def __init__(self, database: Database) -> None:
        allowance = Allowance(max_queued_videos=1000)
        super().__init__(database, Changes(), Tenants(database, allowance), Ledger(200))
        self.asked: Counter[str] = Counter()

    async def get(self, key: VideoKey) -> Video:
        self.asked["get"] += 1
        return await super().get(key)

    async def events(self, key: VideoKey, after_sequence: int, limit: int) -> Sequence[Event]:
        self.asked["events"] += 1
        return await super().events(key, after_sequence, limit)

    async def sequences(self, video_ids: Collection[str]) -> dict[str, int]:
        self.asked["sequences"] += 1
        self.asked["ids"] = max(self.asked["ids"], len(video_ids))
        return await super().sequences(video_ids)


@contextmanager
def two_processes(tmp_path: Path) -> Iterator[tuple[CountingRecords, CountingRecords]]:
    """As far as records go: what one changes, the other finds by polling."""
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    yield CountingRecords(Database(url)), CountingRecords(Database(url))


async def accepted(records: Records) -> VideoKey:
    video = Video(VideoKey("local", str(uuid.uuid4())), SPEC, None, Priority.STANDARD, None, "", "0" * 64, NOW)
    await records.accept(video)
    return video.key


def watches_of(records: Records, silence_seconds: float = 30.0) -> Watches[int]:
    async def show(_video: Video, event: Event) -> int:
        return event.sequence

    async def repeat(video: Video) -> int:
        return -video.sequence

    return Watches(records, show, repeat, silence_seconds)


def step(number: int) -> Callable[[Status], Status]:
    return lambda status: replace(status, state=State.RUNNING, step=number, total_steps=1000)


def ended(status: Status) -> Status:
    return replace(status, state=State.FAILED)


async def kill_at_step(number: int, process: Any, call: Any, events: list[pb.WatchVideoResponse]) -> None:
    async for event in call:
        events.append(event)
        if event.video.progress.step == number and event.video.progress.stage == pb.STAGE_DENOISE:
            process.kill()


async def seen(watches: Watches[int], key: VideoKey, after: int = 0) -> list[int]:
    return [number async for number in watches.watch(key, after)]


async def test_a_hundred_watchers_of_one_video_cost_one_read_a_change(tmp_path: Path) -> None:
    with two_processes(tmp_path) as (here, there):
        await here._database.migrate()
        key = await accepted(here)
        watches = watches_of(here)
        watchers = [asyncio.create_task(seen(watches, key)) for _ in range(100)]
        await until(lambda: here.asked["get"] >= 101)  # each once, for itself, and once for all
        for number in range(1, 6):
            await there.change(key, step(number))
        await there.change(key, ended)
        assert await asyncio.gather(*watchers) == [list(range(1, 8))] * 100
        assert here.asked["events"] <= 7
        assert here.asked["get"] <= 100 + 7
        await asyncio.gather(here._database.close(), there._database.close())


async def test_watchers_of_many_videos_share_one_poll(tmp_path: Path) -> None:
    with two_processes(tmp_path) as (here, there):
        await here._database.migrate()
        keys = [await accepted(here) for _ in range(60)]
        watches = watches_of(here)
        watchers = [asyncio.create_task(seen(watches, key, 1)) for key in keys]
        await until(lambda: here.asked["ids"] == 60)
        polls = here.asked["sequences"]
        await until(lambda: here.asked["sequences"] >= polls + 4)
        assert here.asked["events"] == 0, "nothing changed, so nothing is read"
        assert here.asked["get"] == 60
        for key in keys:
            await there.change(key, ended)
        assert await asyncio.gather(*watchers) == [[2]] * 60
        assert watches._polling is None
        await asyncio.gather(here._database.close(), there._database.close())


async def test_one_that_comes_from_far_back_sees_everything_once_and_in_order(tmp_path: Path) -> None:
    with two_processes(tmp_path) as (here, there):
        await here._database.migrate()
        key = await accepted(here)
        many = 3 * KEPT_EVENTS
        for number in range(1, many):
            await here.change(key, step(number))
        watches = watches_of(here)
        late = asyncio.create_task(seen(watches, key, many - 1))
        early = asyncio.create_task(seen(watches, key))
        await there.change(key, step(many))
        await there.change(key, ended)
        assert await early == list(range(1, many + 3))
        assert await late == list(range(many, many + 3))
        assert await seen(watches, key, many + 2) == []
        await asyncio.gather(here._database.close(), there._database.close())


async def test_a_poll_that_fails_in_an_unforeseen_way_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sequences = [RuntimeError("nobody thought of this")], CountingRecords.sequences

    async def sequences_once_broken(self: CountingRecords, video_ids: Collection[str]) -> dict[str, int]:
        if broken:
            raise broken.pop()
        return await sequences(self, video_ids)

    monkeypatch.setattr(CountingRecords, "sequences", sequences_once_broken)
    with two_processes(tmp_path) as (here, there):
        await here._database.migrate()
        key = await accepted(here)
        watcher = asyncio.create_task(seen(watches_of(here), key))
        await until(lambda: not broken)
        await there.change(key, ended)
        async with asyncio.timeout(60):
            assert await watcher == [1, 2]
        await asyncio.gather(here._database.close(), there._database.close())
    assert "nobody thought of this" in caplog.text


async def test_a_strangers_call_takes_nothing_from_the_owners_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_on, get = asyncio.Event(), CountingRecords.get

    async def get_slowly_for_a_stranger(self: CountingRecords, key: VideoKey) -> Video:
        if key.tenant == "stranger":
            await let_on.wait()
        return await get(self, key)

    monkeypatch.setattr(CountingRecords, "get", get_slowly_for_a_stranger)
    with two_processes(tmp_path) as (here, there):
        await here._database.migrate()
        key = await accepted(here)
        watches = watches_of(here)
        stranger = asyncio.create_task(seen(watches, VideoKey("stranger", key.video_id)))
        await asyncio.sleep(0.05)
        owner = asyncio.create_task(seen(watches, key))
        await here.change(key, ended)
        async with asyncio.timeout(30):
            assert await owner == [1, 2]
        let_on.set()
        with pytest.raises(NotFound):
            await stranger
        await asyncio.gather(here._database.close(), there._database.close())


async def test_silence_is_broken_and_a_deleted_video_ends_its_watch(tmp_path: Path) -> None:
    with two_processes(tmp_path) as (here, there):
        await here._database.migrate()
        key = await accepted(here)
        async with aclosing(watches_of(here, silence_seconds=0.05).watch(key, 0)) as events:
            assert [await anext(events), await anext(events)] == [1, -1]
            await there.delete(key)
            with pytest.raises(NotFound):
                assert {number async for number in events} == {-1}
        await asyncio.gather(here._database.close(), there._database.close())


def shape(frames: int) -> Shape:
    return Shape("diorama", frames, 256, 256, 4)


def line_of(places: int, *frames: int) -> Queue:
    """One video for each number of frames: a, b, c, …"""
    names = "abcdef"[: len(frames)]
    due = NOW + timedelta(hours=1)
    waiting = [Waiting(name, "a", Priority.STANDARD, NOW, due, 1.0) for name in names]
    return Queue(waiting, places, {name: shape(count) for name, count in zip(names, frames, strict=True)})


def test_the_forecast_plays_the_places_through() -> None:
    """A video takes a second a frame here; of those with 7 nothing is known, so that they count as the mean."""
    seconds = {shape(10): 10.0, shape(20): 20.0, shape(30): 30.0, shape(7): 0.0}
    told = forecast(line_of(2, 10, 20, 30, 7), seconds, [5.0, 8.0], NOW)
    assert told.begins == {"a": (2, 5.0), "b": (3, 8.0), "c": (4, 15.0), "d": (5, 28.0)}
    assert (told.ahead_of_new, told.new_begins) == (6, 45.0)


def test_the_forecast_knows_what_it_does_not_know() -> None:
    unknown = {shape(10): 0.0}
    nobody_works = forecast(line_of(0, 10, 10), unknown, [], NOW)
    assert nobody_works.begins == {"a": (0, None), "b": (1, None)}
    nothing_measured = forecast(line_of(1, 10, 10), unknown, [], NOW)
    assert nothing_measured.begins == {"a": (0, 0.0), "b": (1, None)}
    a_worker_died = forecast(line_of(1, 10), {shape(10): 1.0}, [3.0, 7.0], NOW)
    assert a_worker_died.begins == {"a": (2, 7.0)}


async def test_a_cut_watch_goes_on_at_another_replica(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    """Two api processes and a worker; the one that is watched is killed in the middle of a stage."""
    stages.denoise.steps, stages.denoise.step_seconds = 12, 0.5
    settings = settings_of(stages, role="worker", max_concurrent_stages=1)
    api = settings.model_copy(update={"role": "api"})
    with gateway_process(api, tmp_path) as (first, address), gateway_process(api, tmp_path) as (_, other):
        async with working(settings), open_channel(address) as channel, open_channel(other) as other_channel:
            stub, other_stub = rpc.VideoServiceStub(channel), rpc.VideoServiceStub(other_channel)
            await asyncio.gather(channel.channel_ready(), other_channel.channel_ready())
            scene = Scene(stub, stages, settings, tmp_path / "artifacts")
            name = (await scene.create()).name
            events: list[pb.WatchVideoResponse] = []
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await kill_at_step(2, first, stub.WatchVideo(pb.WatchVideoRequest(name=name), timeout=60), events)
            assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
            rest = pb.WatchVideoRequest(name=name, after_sequence=events[-1].sequence)
            events += [event async for event in other_stub.WatchVideo(rest, timeout=60)]
    assert [event.sequence for event in events] == list(range(1, events[-1].sequence + 1))
    assert events[-1].video.state == pb.STATE_SUCCEEDED
    assert all(event.video.state not in TERMINAL for event in events[:-1])
