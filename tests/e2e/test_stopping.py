"""Cancelling while it denoises, and deleting afterwards."""

from __future__ import annotations

import time

import grpc
import pytest
from soundstage.video.v1 import video_pb2 as pb

from client import SoundstageRpcError
from tests.e2e.studio import WAIT_SECONDS, Made, Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STOP_SECONDS = 30.0
"""Most of it for one step on a busy machine; a hundred steps take much longer."""


@pytest.fixture(scope="module")
def cancelled(studio: Studio) -> tuple[pb.Video, float]:
    """A video of a hundred steps that was cancelled after some, and the seconds from asking to CANCELLED."""
    limits = studio.model.limits
    longest = limits.max_duration.ToTimedelta().total_seconds()
    ordered = studio.order(duration=longest, num_inference_steps=limits.max_num_inference_steps)
    for event in studio.client.watch(ordered):
        progress = event.video.progress
        if progress.stage == pb.STAGE_DENOISE and progress.step >= 1:
            break
    asked = time.monotonic()
    assert studio.client.cancel(ordered, reason="test").state == pb.STATE_CANCELLING
    video = studio.client.wait(ordered, timeout_seconds=WAIT_SECONDS)
    return video, time.monotonic() - asked


def test_a_cancelled_video_stops_soon(cancelled: tuple[pb.Video, float]) -> None:
    video, seconds = cancelled
    assert video.state == pb.STATE_CANCELLED
    assert not video.HasField("result")
    assert 1 <= video.progress.step < video.spec.num_inference_steps
    assert [timing.stage for timing in video.stage_timings] == [pb.STAGE_ENCODE]
    assert seconds < STOP_SECONDS


def test_once_it_says_cancelled_nothing_goes_on(studio: Studio, cancelled: tuple[pb.Video, float]) -> None:
    video, _ = cancelled
    time.sleep(1)
    assert studio.client.get(video).sequence == video.sequence
    assert {path.split("/")[2] for path in studio.stored(video)} == {"encode"}


def test_what_has_ended_cannot_be_cancelled(studio: Studio, made: Made) -> None:
    with pytest.raises(SoundstageRpcError) as refused:
        studio.client.cancel(made.video)
    assert (refused.value.code, refused.value.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "VIDEO_ALREADY_FINISHED",
    )


def test_a_deleted_video_leaves_nothing(studio: Studio, cancelled: tuple[pb.Video, float]) -> None:
    doomed = studio.make(num_inference_steps=1).video
    assert studio.stored(doomed)
    studio.client.delete(doomed)
    assert not studio.stored(doomed)
    with pytest.raises(SoundstageRpcError) as missing:
        studio.client.get(doomed)
    assert missing.value.code is grpc.StatusCode.NOT_FOUND
