"""Videos from request to result, and back: what the stages see, what watchers see, what is kept."""

from __future__ import annotations

import asyncio
import io
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image
from prometheus_client import REGISTRY
from soundstage.video.v1 import video_pb2 as pb

from libs.errors import FailedPrecondition, NotFound
from tests.services.gateway.conftest import PROMPT, Scene, refused
from tests.support.stages import JPEG


def gpu_seconds_counted(model: str) -> float:
    stages = ("encode", "denoise", "render", "synthesize", "mux")
    labels = ({"stage": stage, "model": model} for stage in stages)
    return sum(REGISTRY.get_sample_value("soundstage_gateway_stage_gpu_seconds_total", one) or 0.0 for one in labels)


async def test_a_video_goes_through_the_five_stages_to_its_result(scene: Scene) -> None:
    counted = gpu_seconds_counted("diorama")
    accepted = await scene.create(seed=7, preset=pb.PRESET_FAST, duration={"seconds": 2})
    assert accepted.state == pb.STATE_QUEUED
    assert accepted.spec.num_inference_steps == 4
    events = await scene.watch(accepted.name)

    video = events[-1].video
    assert video.state == pb.STATE_SUCCEEDED, video
    assert [timing.stage for timing in video.stage_timings] == [1, 2, 3, 4, 5]
    assert all(timing.attempts == 1 for timing in video.stage_timings)
    assert video.progress.fraction == 1.0
    assert video.gpu_seconds == 1.25
    assert gpu_seconds_counted("diorama") - counted == 1.25
    assert video.result.video_url.startswith("file:///")
    assert video.result.video_url.endswith("/video.mp4")
    assert not video.result.HasField("expire_time")
    assert video.result.duration.seconds == 5
    assert video.create_time.ToDatetime() <= video.start_time.ToDatetime() <= video.end_time.ToDatetime()
    assert await scene.get(accepted.name) == video

    denoise = scene.stages.denoise.requests[0]
    assert (denoise.num_frames, denoise.fps, denoise.seed, denoise.num_inference_steps) == (24, 12.0, 7, 4)
    assert denoise.attempt.attempt.startswith("denoise-1-")
    render = scene.stages.render.requests[0]
    assert (render.fps_numerator, render.fps_denominator) == (12, 1)
    assert scene.stages.mux.requests[0].title == PROMPT


async def test_events_come_in_order_and_tell_the_progress(scene: Scene) -> None:
    scene.stages.denoise.steps, scene.stages.denoise.step_seconds = 3, 0.25
    name = (await scene.create()).name
    events = await scene.watch(name)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert all(event.video.sequence == event.sequence for event in events)
    assert events[0].video.state == pb.STATE_QUEUED
    order = [event.video.progress.stage for event in events]
    assert order == sorted(order)
    fractions = [event.video.progress.fraction for event in events]
    assert fractions == sorted(fractions)
    steps = [e.video.progress.step for e in events if e.video.progress.stage == pb.STAGE_DENOISE]
    assert set(steps) == {0, 1, 2, 3}
    assert [e.preview_jpeg for e in events if e.preview_jpeg] == [JPEG] * 3
    estimated = [e for e in events if e.video.progress.step == 2 and e.video.progress.stage == pb.STAGE_DENOISE]
    assert 0 < estimated[0].video.progress.eta.ToTimedelta().total_seconds() < 5


async def test_a_sound_is_previewed_where_it_is_asked_for(scene: Scene) -> None:
    scene.preview_sounds()
    asked = await scene.create(preview_sound=True)
    assert asked.spec.preview_sound
    events = await scene.watch(asked.name)
    [sound] = [event for event in events if event.preview_sound_url]
    assert sound.preview_jpeg == b""
    path = Path(urllib.request.url2pathname(sound.preview_sound_url.removeprefix("file://")))
    assert await asyncio.to_thread(path.read_bytes) == b"RIFF"
    assert len([event for event in events if event.preview_jpeg]) == 2, "the picture's go on as ever"
    other = await scene.create()
    assert not any(event.preview_sound_url for event in await scene.watch(other.name))


async def test_watching_goes_on_where_it_was_cut(scene: Scene) -> None:
    name = (await scene.create()).name
    whole = await scene.watch(name)
    assert await scene.watch(name, after_sequence=whole[3].sequence) == whole[4:]
    assert await scene.watch(name, after_sequence=whole[-1].sequence) == []


async def test_the_second_video_knows_its_eta_from_the_first(scene: Scene) -> None:
    scene.stages.denoise.step_seconds = 0.3
    first = (await scene.watch((await scene.create()).name))[-1].video
    second = await scene.create()
    took_seconds = (first.end_time.ToDatetime() - first.start_time.ToDatetime()).total_seconds()
    assert 0.5 < second.progress.eta.ToTimedelta().total_seconds() < 2 * took_seconds


async def test_a_first_frame_reaches_the_encoder_as_clean_png(scene: Scene) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 90, 30)).save(picture, format="JPEG", comment=b"secret place")
    created = await scene.create(image=picture.getvalue())
    assert created.has_image
    assert created.spec.image == b""
    video = (await scene.watch(created.name))[-1].video
    assert video.state == pb.STATE_SUCCEEDED
    image = scene.stages.encode.requests[0].image
    assert image.media_type == "image/png"
    path = scene.artifacts / "local" / created.name.removeprefix("videos/") / "input" / "first" / "first-frame.png"
    assert image.uri == path.as_uri()
    data = path.read_bytes()
    assert b"secret place" not in data
    assert Image.open(io.BytesIO(data)).size == (64, 48)


async def test_deleting_removes_files_and_record(scene: Scene) -> None:
    scene.stages.encode.step_seconds = 0.3
    created = await scene.create()
    request = pb.DeleteVideoRequest(name=created.name)
    early = await refused(scene.stub.DeleteVideo(request))
    assert isinstance(early, FailedPrecondition)
    assert early.reason == "VIDEO_NOT_FINISHED"
    await scene.watch(created.name)
    assert scene.files()

    await scene.stub.DeleteVideo(request)
    assert scene.files() == []
    for call in (scene.get(created.name), scene.watch(created.name), scene.stub.DeleteVideo(request)):
        gone = await refused(call)
        assert isinstance(gone, NotFound)
        assert gone.reason == "VIDEO_NOT_FOUND"


async def test_lists_are_paged_newest_first_and_filtered(scene: Scene) -> None:
    scene.stages.denoise.errors = [FailedPrecondition("bad", reason="CONDITIONING_UNFITTING")]
    names = []
    for _ in range(3):
        names.append((await scene.create()).name)
        await scene.watch(names[-1])
    first = await scene.stub.ListVideos(pb.ListVideosRequest(page_size=2))
    assert [video.name for video in first.videos] == [names[2], names[1]]
    rest = await scene.stub.ListVideos(pb.ListVideosRequest(page_size=2, page_token=first.next_page_token))
    assert [video.name for video in rest.videos] == [names[0]]
    assert rest.next_page_token == ""
    failed = await scene.stub.ListVideos(pb.ListVideosRequest(states=[pb.STATE_FAILED]))
    assert [video.name for video in failed.videos] == [names[0]]

    times = [(await scene.get(name)).create_time for name in names]
    filters: list[tuple[dict[str, Any], list[int]]] = [
        ({"created_after": times[1]}, [2, 1]),
        ({"created_before": times[1]}, [0]),
        ({"created_after": times[1], "created_before": times[2]}, [1]),
        ({"models": ["diorama", "other"]}, [2, 1, 0]),
        ({"models": ["other"]}, []),
        ({"priorities": [pb.PRIORITY_BATCH]}, []),
        ({"priorities": [pb.PRIORITY_STANDARD], "states": [pb.STATE_FAILED]}, [0]),
    ]
    for given, wanted in filters:
        listed = await scene.stub.ListVideos(pb.ListVideosRequest(**given))
        assert [video.name for video in listed.videos] == [names[index] for index in wanted], given
    backwards = pb.ListVideosRequest(created_after=times[2], created_before=times[0])
    assert (await refused(scene.stub.ListVideos(backwards))).violations[0].field == "created_before"

    other_list = pb.ListVideosRequest(page_token=first.next_page_token, states=[pb.STATE_FAILED])
    later = pb.ListVideosRequest(page_token=first.next_page_token, created_after=times[0])
    for request in (other_list, later, pb.ListVideosRequest(page_token="made up")):
        error = await refused(scene.stub.ListVideos(request))
        assert error.reason == "PAGE_TOKEN_UNKNOWN"
        assert error.violations[0].field == "page_token"
