from __future__ import annotations

import inspect
from collections.abc import AsyncIterator

import grpc
import pytest
from soundstage.video.v1 import video_pb2 as pb

from client import AsyncSoundstageClient, SoundstageClient, SoundstageRpcError, WaitTimeoutError
from client.aio import SERVICE
from client.backoff import Backoff
from tests.client.server import FakeVideos, serving

QUICK = Backoff(attempts=4, first_seconds=0.01, longest_seconds=0.02)


@pytest.fixture
def videos() -> FakeVideos:
    return FakeVideos()


@pytest.fixture
async def client(videos: FakeVideos) -> AsyncIterator[AsyncSoundstageClient]:
    async with (
        serving(videos) as address,
        AsyncSoundstageClient(address, watch_backoff=QUICK, silence_seconds=0.5) as client,
    ):
        yield client


async def test_create_sends_what_was_given_and_leaves_the_rest_unset(
    client: AsyncSoundstageClient, videos: FakeVideos
) -> None:
    await client.create("a fire", duration=2.5, seed=0, preset="fast", audio_intent="ambience", priority="batch")
    (request,) = videos.requests
    assert request.spec.prompt == "a fire"
    assert request.spec.duration.ToTimedelta().total_seconds() == 2.5
    assert request.spec.HasField("seed")
    assert not request.spec.HasField("fps")
    assert not request.HasField("deadline")
    assert (request.spec.preset, request.spec.audio_intent) == (pb.PRESET_FAST, pb.AUDIO_INTENT_AMBIENCE)
    assert request.priority == pb.PRIORITY_BATCH


async def test_create_is_repeated_with_the_same_request_id(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    videos.unavailable_creates = 2
    await client.create("a fire")
    assert len(videos.requests) == 3
    assert len({request.request_id for request in videos.requests}) == 1
    assert len(videos.videos) == 1


async def test_create_refused_names_the_field(client: AsyncSoundstageClient) -> None:
    with pytest.raises(SoundstageRpcError) as caught:
        await client.create("a fire", duration=1000)
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [violation.field for violation in error.violations] == ["spec.duration"]
    assert str(error) == "spec.duration: diorama makes 1 to 8 s; ask for 8 s or less"


@pytest.mark.parametrize("wrong", [{"preset": "quick"}, {"audio_intent": "loud"}, {"duration": float("nan")}])
async def test_create_refuses_an_unknown_word_before_calling(
    client: AsyncSoundstageClient, videos: FakeVideos, wrong: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await client.create("a fire", **wrong)  # type: ignore[arg-type]
    assert videos.requests == []


async def test_list_fetches_every_page(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    names = [(await client.create(f"fire {n}")).name for n in range(5)]
    videos.requests.clear()
    assert [video.name async for video in client.list(page_size=2)] == names
    assert [request.page_token for request in videos.requests] == ["", "2", "4"]


async def test_list_filters_by_state(client: AsyncSoundstageClient) -> None:
    first = await client.create("one")
    await client.create("two")
    await client.wait(first)
    assert [video.name async for video in client.list(states=[pb.STATE_SUCCEEDED])] == [first.name]


@pytest.mark.parametrize("how", ["cut", "end", "silent"])
async def test_watch_is_taken_up_where_it_broke(client: AsyncSoundstageClient, videos: FakeVideos, how: str) -> None:
    video = await client.create("a fire")
    videos.breaks = [(how, 2), (how, 1), (how, 0)]
    videos.requests.clear()
    events = [event async for event in client.watch(video)]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert events[-1].video.state == pb.STATE_SUCCEEDED
    assert [request.after_sequence for request in videos.requests] == [0, 2, 3, 3]


async def test_watch_gives_up_in_the_end(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    video = await client.create("a fire")
    videos.breaks = [("cut", 1)] + [("cut", 0)] * 20
    with pytest.raises(SoundstageRpcError, match="cut"):
        [event async for event in client.watch(video)]
    assert len(videos.breaks) == 21 - QUICK.attempts


async def test_watch_after_the_last_event_is_empty(client: AsyncSoundstageClient) -> None:
    video = await client.wait(await client.create("a fire"))
    assert [event async for event in client.watch(video, after_sequence=5)] == []


async def test_watch_of_nothing_is_not_repeated(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    with pytest.raises(SoundstageRpcError) as caught:
        [event async for event in client.watch("nothing")]
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "VIDEO_NOT_FOUND")
    assert len(videos.requests) == 1


async def test_wait_survives_a_cut_and_returns_the_end(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    videos.breaks = [("cut", 3)]
    videos.final_state = pb.STATE_FAILED
    steps: list[int] = []
    video = await client.wait(await client.create("a fire"), on_event=lambda event: steps.append(event.sequence))
    assert steps == [1, 2, 3, 4, 5]
    assert video.state == pb.STATE_FAILED
    assert video.error.message == "out of memory"


async def test_wait_has_a_deadline(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    video = await client.create("a fire")
    videos.breaks = [("silent", 1)] * 20
    with pytest.raises(WaitTimeoutError, match=video.name):
        await client.wait(video, timeout_seconds=0.3)


async def test_cancel_delete_models_quota_analyze(client: AsyncSoundstageClient, videos: FakeVideos) -> None:
    video = await client.create("a fire")
    assert (await client.cancel(video.name.removeprefix("videos/"), reason="enough")).state == pb.STATE_CANCELLED
    assert videos.requests[-1].reason == "enough"
    await client.delete(video)
    with pytest.raises(SoundstageRpcError, match="there is no"):
        await client.get(video)
    assert [model.name for model in await client.models()] == ["diorama"]
    assert (await client.quota()).max_active_videos == 4
    assert (await client.analyze("a fire")).suggestions == ["a fire at night"]


async def test_no_server_is_unavailable() -> None:
    async with AsyncSoundstageClient("127.0.0.1:9", timeout_seconds=5) as client:
        with pytest.raises(SoundstageRpcError) as caught:
            await client.models()
    assert caught.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert caught.value.reason == ""


def test_every_call_of_the_service_has_a_method() -> None:
    methods = {name for name, _ in inspect.getmembers(AsyncSoundstageClient, callable)}
    for method in SERVICE.methods:
        verb = method.name.removesuffix("Videos").removesuffix("Video").removesuffix("Prompt").lower()
        assert {verb, verb.removeprefix("list"), verb.removeprefix("get")} & methods, method.name


def test_the_blocking_client_has_every_method_with_the_same_signature() -> None:
    for name, method in inspect.getmembers(AsyncSoundstageClient, inspect.isroutine):
        if name.startswith("_") or name == "close":
            continue
        assert inspect.signature(getattr(SoundstageClient, name)) == inspect.signature(method), name
