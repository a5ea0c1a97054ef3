"""Files whose time is over go, and nothing else does: by policy, by command, by a worker, on a folder and on S3."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from soundstage.video.v1 import video_pb2 as pb

from libs.artifacts import FolderStore, Store, open_store
from libs.errors import FailedPrecondition, NotFound, Unavailable
from services.gateway.changes import Changes
from services.gateway.collectable import Collectable
from services.gateway.collector import FEW_ORPHANS, Collector, Doomed
from services.gateway.database import Database
from services.gateway.ledger import Ledger
from services.gateway.records import Records
from services.gateway.retention import Retention, Why
from services.gateway.settings import GatewaySettings
from services.gateway.tenants import Allowance, Tenants
from services.gateway.video import (
    AudioIntent,
    Preset,
    Priority,
    Spec,
    State,
    Status,
    Video,
    VideoKey,
    VideoResult,
)
from tests.services.gateway.conftest import Scene, refused, serving_gateway, settings_for
from tests.support.forwarder import forwarding
from tests.support.s3 import S3Server
from tests.support.stages import StageServers, serving_stages

NEVER = timedelta(days=365)
KEEP = Retention(intermediates=NEVER, results=NEVER, unfinished=NEVER, orphans=NEVER)
AT_ONCE = Retention(timedelta(0), timedelta(0), timedelta(0), timedelta(hours=1))
RESULT = {"video.mp4", "poster.jpg"}
SPEC = Spec("diorama", "a campfire", "", 1.0, 12, 256, 256, 12.0, 4, 5.0, 1, Preset.FAST, AudioIntent.FULL)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@asynccontextmanager
async def collecting(settings: GatewaySettings, retention: Retention, store: Store) -> AsyncIterator[Collector]:
    database = Database(settings.database_url)
    try:
        yield Collector(Collectable(database), store, retention)
    finally:
        await database.close()


async def collect(scene: Scene, retention: Retention) -> list[Doomed]:
    store = FolderStore(scene.artifacts)
    async with collecting(scene.settings, retention, store) as collector:
        found = [doomed async for doomed in collector.expired()] + [doomed async for doomed in collector.orphans()]
        await collector.collect(collector.expired())
        await collector.collect(collector.orphans())
        assert [doomed async for doomed in collector.expired()] == []
    return found


def names(scene: Scene, video: pb.Video) -> set[str]:
    """Folders may go while they are read: `os.walk` passes over them, `rglob` does not."""
    folder = scene.artifacts / "local" / video.name.removeprefix("videos/")
    return {name for _, _, files in os.walk(folder) for name in files}


async def test_intermediates_go_first_then_the_result_and_the_video_says_so(scene: Scene) -> None:
    scene.preview_sounds()
    video = (await scene.watch((await scene.create(preview_sound=True)).name))[-1].video
    left = video.result.delete_time.ToDatetime() - video.end_time.ToDatetime()
    assert left == timedelta(seconds=scene.settings.keep_results_seconds)
    everything = names(scene, video)
    assert await collect(scene, KEEP) == []
    assert names(scene, video) == everything > RESULT

    found = await collect(scene, Retention(timedelta(0), NEVER, NEVER, NEVER))
    assert [doomed.why for doomed in found] == [Why.INTERMEDIATE]
    assert names(scene, video) == RESULT
    assert not any(event.preview_jpeg or event.preview_sound_url for event in await scene.watch(video.name))
    assert await scene.get(video.name) == video

    [doomed] = await collect(scene, AT_ONCE)
    assert (doomed.why, len(doomed.keys)) == (Why.RESULT, 2)
    assert doomed.size_bytes > video.result.size_bytes
    assert names(scene, video) == set()
    gone = await scene.get(video.name)
    assert gone.state == pb.STATE_SUCCEEDED
    assert gone.result.deleted
    assert (gone.result.video_url, gone.result.poster_url) == ("", "")
    assert (gone.result.sha256, gone.result.delete_time) == (video.result.sha256, video.result.delete_time)
    await scene.stub.DeleteVideo(pb.DeleteVideoRequest(name=video.name))


async def test_files_of_failed_and_cancelled_videos_go_and_those_of_running_ones_stay(scene: Scene) -> None:
    denoise = scene.stages.denoise
    denoise.errors = [FailedPrecondition("bad", reason="CONDITIONING_UNFITTING")]
    failed = (await scene.watch((await scene.create()).name))[-1].video
    assert failed.state == pb.STATE_FAILED

    denoise.began.clear()
    denoise.steps, denoise.step_seconds = 1000, 0.05
    running = await scene.create()
    assert await asyncio.to_thread(denoise.began.wait, 60)
    before = names(scene, running)
    assert before
    for path in scene.files():
        os.utime(path, (0, 0))
    found = await collect(scene, AT_ONCE)
    assert [doomed.why for doomed in found] == [Why.UNFINISHED]
    assert names(scene, failed) == set()
    assert names(scene, running) == before

    await scene.stub.CancelVideo(pb.CancelVideoRequest(name=running.name))
    cancelled = (await scene.watch(running.name))[-1].video
    assert cancelled.state == pb.STATE_CANCELLED
    await collect(scene, AT_ONCE)
    assert scene.files() == []


async def test_orphans_are_old_folders_of_unknown_videos_and_nothing_else(scene: Scene) -> None:
    video = (await scene.watch((await scene.create()).name))[-1].video
    store = FolderStore(scene.artifacts)
    late = f"local/{video.name.removeprefix('videos/')}/mux/lost-attempt/video.mp4"
    mine = names(scene, video)
    old = [f"local/{uuid.uuid4()}/encode/a/x", f"other/{uuid.uuid4()}/input/first/y", "models/diorama/weights"]
    new = f"local/{uuid.uuid4()}/input/first/first-frame.png"
    for key in (*old, new):
        store.put(key, b"12345", "application/test")
    for path in scene.files():
        if path != scene.artifacts / new:
            os.utime(path, (0, 0))
    found = await collect(scene, KEEP)
    assert {doomed.keys for doomed in found} == {(old[0],), (old[1],)}
    assert {(doomed.why, doomed.size_bytes) for doomed in found} == {(Why.ORPHAN, 5)}
    assert {stored.key for stored in store.walk("models")} == {"models/diorama/weights"}
    assert (scene.artifacts / new).exists()
    assert names(scene, video) == mine

    await collect(scene, AT_ONCE)
    store.put(late, b"written by an attempt that nobody waited for", "application/test")
    os.utime(scene.artifacts / late, (0, 0))
    found = await collect(scene, KEEP)
    assert [doomed.keys for doomed in found] == [(late,)]


async def test_a_store_full_of_strangers_is_left_alone(scene: Scene) -> None:
    """As when the database was put back to an older state, or is another one's."""
    await scene.watch((await scene.create()).name)
    store = FolderStore(scene.artifacts)
    for _ in range(FEW_ORPHANS + 1):
        store.put(f"local/{uuid.uuid4()}/mux/a/video.mp4", b"precious", "video/mp4")
    for path in scene.files():
        os.utime(path, (0, 0))
    async with collecting(scene.settings, KEEP, store) as collector:
        with pytest.raises(FailedPrecondition) as caught:
            await collector.collect(collector.orphans())
        assert caught.value.reason == "TOO_MANY_ORPHANS"
        assert len([doomed async for doomed in collector.orphans(however_many=True)]) == FEW_ORPHANS + 1


class Breaking(FolderStore):
    """Deletes the first key, then is away, ``failures`` times."""

    failures = 1

    def delete(self, keys: Iterable[str]) -> int:
        keys = list(keys)
        if self.failures:
            self.failures -= 1
            super().delete(keys[:1])
            raise Unavailable("away", reason="STORE_UNAVAILABLE")
        return super().delete(keys)

    def delete_prefix(self, prefix: str) -> int:
        return self.delete([stored.key for stored in self.walk(prefix)]) and super().delete_prefix(prefix)


async def test_a_collection_that_breaks_off_is_finished_by_the_next(scene: Scene) -> None:
    video = (await scene.watch((await scene.create()).name))[-1].video
    async with collecting(scene.settings, AT_ONCE, Breaking(scene.artifacts)) as collector:
        with pytest.raises(Unavailable):
            await collector.collect(collector.expired())
        assert names(scene, video) != set()
        await collector.collect(collector.expired())
    assert names(scene, video) == set()
    assert (await scene.get(video.name)).result.deleted


async def test_records_go_long_after_their_files_and_only_then(scene: Scene) -> None:
    """Two ended, of which one still has its result; one is at work. What was paid stays in the ledger."""
    kept, gone = await scene.create(), await scene.create()
    for video in (kept, gone):
        await scene.watch(video.name)
    store = FolderStore(scene.artifacts)
    retention = replace(AT_ONCE, records=timedelta(0))
    async with collecting(scene.settings, retention, store) as collector:
        assert await collector.forget() == 0
        async for doomed in collector.expired():
            if doomed.key.video_id in gone.name:
                await collector.delete(doomed)
        scene.stages.encode.steps, scene.stages.encode.step_seconds = 1000, 0.2
        at_work = await scene.create()
        assert [key.video_id for key in await collector.forgettable()] == [gone.name.removeprefix("videos/")]
        assert await collector.forget() == 1
    assert isinstance(await refused(scene.get(gone.name)), NotFound)
    listed = await scene.stub.ListVideos(pb.ListVideosRequest())
    assert {video.name for video in listed.videos} == {kept.name, at_work.name}
    async with collecting(scene.settings, replace(AT_ONCE, records=timedelta(days=1)), store) as collector:
        await collector.collect(collector.expired())
        assert await collector.forget() == 0
    await scene.stub.CancelVideo(pb.CancelVideoRequest(name=at_work.name))
    await scene.watch(at_work.name)


async def test_a_result_in_another_store_keeps_nobody_elses_files(tmp_path: Path) -> None:
    """After a move to another store, videos made before it are left alone, and those after it are collected."""
    settings = GatewaySettings(role="api", database_url=f"sqlite:///{tmp_path / 'gateway.db'}")
    before, store = FolderStore(tmp_path / "before"), FolderStore(tmp_path / "now")
    database = Database(settings.database_url)
    await database.migrate()
    records = Records(database, Changes(), Tenants(database, Allowance()), Ledger(200))
    ref = before.put("local/x/mux/a/video.mp4", b"12345", "video/mp4")
    succeeded = Status(State.SUCCEEDED, result=VideoResult(ref, ref, 1.0))
    for status in (succeeded, Status(State.FAILED)):
        video = Video(VideoKey("local", str(uuid.uuid4())), SPEC, None, Priority.STANDARD, None, "", "0" * 64, NOW)
        await records.accept(video)
        await records.change(video.key, lambda old: replace(old, state=State.RUNNING))
        await records.change(video.key, lambda _, status=status: status)
    key = f"local/{video.key.video_id}/encode/a/conditioning.safetensors"
    half = tmp_path / "now" / Path(key).with_name(".writing-1")
    store.put(key, b"12345", "application/test")
    half.write_bytes(b"123")
    try:
        async with collecting(settings, replace(AT_ONCE, results=NEVER), store) as collector:
            assert [doomed.keys async for doomed in collector.expired()] == [(key,)]
            await collector.collect(collector.expired())
    finally:
        await database.close()
    assert not half.exists(), "what a killed process left half written goes as well"
    assert before.get(ref) == b"12345"


async def test_a_worker_collects_by_itself(
    stages: StageServers, settings_of: Callable[..., GatewaySettings], tmp_path: Path
) -> None:
    settings = settings_of(stages, keep_intermediates_seconds=0, collect_every_seconds=0.3)
    async with serving_gateway(settings, stages, tmp_path / "artifacts") as scene:
        video = (await scene.watch((await scene.create()).name))[-1].video
        for _ in range(600):
            if names(scene, video) == RESULT:
                break
            await asyncio.sleep(0.1)
        assert names(scene, video) == RESULT
        assert (await scene.get(video.name)).result.video_url


async def test_the_command_says_what_would_go_and_then_deletes_it(scene: Scene) -> None:
    video = (await scene.watch((await scene.create()).name))[-1].video
    orphan = f"local/{uuid.uuid4()}/encode/a/x"
    FolderStore(scene.artifacts).put(orphan, b"12345", "application/test")
    os.utime(scene.artifacts / orphan, (0, 0))
    everything = scene.files()
    settings = {
        "DATABASE_URL": scene.settings.database_url,
        "ARTIFACTS_URL": scene.settings.artifacts_url,
        "KEEP_INTERMEDIATES_SECONDS": "0",
    }
    environment = {f"SOUNDSTAGE_GATEWAY_{name}": value for name, value in settings.items()}

    async def command(*words: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "services.gateway.collect", *words],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    planned = await command("--dry-run")
    assert scene.files() == everything
    kept = {path for path in everything if path.name in RESULT}
    size_bytes = sum(path.stat().st_size for path in everything if path not in kept)
    assert f"would delete {len(everything) - 2} files, {size_bytes} bytes" in planned
    assert f"ORPHAN        {orphan}" in planned
    assert "would delete INTERMEDIATE: 4 files of 1 videos" in planned

    done = await command()
    assert done == planned.replace("would delete", "deleted")
    assert set(scene.files()) == kept
    assert names(scene, video) == RESULT
    assert await command() == "deleted 0 files, 0 bytes\ndeleted the records of 0 videos\n"


async def test_on_s3_results_go_out_by_the_public_name_and_deleting_survives_a_cut(
    temporal_address: str, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    keys = {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key}
    direct = open_store(s3_server.url(bucket), **keys)
    with forwarding(s3_server.endpoint) as ingress, forwarding(s3_server.endpoint) as inner:
        behind = S3Server(f"127.0.0.1:{inner.port}", **keys)
        async with serving_stages(direct) as stages:
            settings = settings_for(
                tmp_path,
                temporal_address,
                stages.address,
                temporal_task_queue=f"test-{uuid.uuid4()}",
                artifacts_url=behind.url(bucket),
                s3_access_key=s3_server.access_key,
                s3_secret_key=s3_server.secret_key,
                s3_public_endpoint=f"http://localhost:{ingress.port}",
            )
            async with serving_gateway(settings, stages, tmp_path) as scene:
                video = (await scene.watch((await scene.create()).name))[-1].video
                result = video.result
                below = f"local/{video.name.removeprefix('videos/')}"
                assert result.video_url.startswith(f"http://localhost:{ingress.port}/{bucket}/{below}/mux/")
                assert result.expire_time.ToDatetime(UTC) - datetime.now(UTC) <= timedelta(minutes=15)
                data = await asyncio.to_thread(lambda: urllib.request.urlopen(result.video_url, timeout=30).read())
                assert len(data) == result.size_bytes

                async with collecting(settings, Retention(timedelta(0), NEVER, NEVER, NEVER), direct) as collector:
                    await collector.collect(collector.expired())
                left = [stored.key for stored in direct.walk(below)]
                assert {key.rpartition("/")[2] for key in left} == RESULT

                request = pb.DeleteVideoRequest(name=video.name)
                inner.broken = b"POST"  # the list of files comes through, their deletion does not
                error = await refused(scene.stub.DeleteVideo(request, timeout=120))
                assert isinstance(error, Unavailable)
                assert error.reason == "STORE_UNAVAILABLE"
                assert (await scene.get(video.name)).state == pb.STATE_SUCCEEDED, (
                    "nothing is forgotten while files are there"
                )
                inner.broken = None
                await scene.stub.DeleteVideo(request, timeout=120)
                assert list(direct.walk(below)) == []
                assert isinstance(await refused(scene.stub.GetVideo(pb.GetVideoRequest(name=video.name))), NotFound)


def test_no_url_outlives_the_file() -> None:
    ended = datetime.now(UTC) - timedelta(days=29)
    retention = Retention(results=timedelta(days=30))
    assert retention.delete_time(Status(State.SUCCEEDED, end_time=ended)) == ended + timedelta(days=30)
    assert retention.delete_time(Status(State.FAILED, end_time=ended)) is None
    assert retention.delete_time(Status(State.RUNNING)) is None


def test_every_video_falls_under_one_rule_at_most() -> None:
    now = datetime.now(UTC)
    for retention in (Retention(), Retention(intermediates=timedelta(days=9), results=timedelta(days=1))):
        for age in (timedelta(0), timedelta(hours=7), timedelta(days=2), timedelta(days=10), timedelta(days=40)):
            ended = now - age
            for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
                fitting = [
                    rule
                    for rule in retention.rules(now)
                    if state in rule.states and ended < rule.before and (rule.after is None or ended >= rule.after)
                ]
                assert len(fitting) <= 1
