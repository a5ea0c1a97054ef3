"""What a watcher sees while a video is made."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from PIL import Image
from soundstage.video.v1 import video_pb2 as pb

from tests.e2e.studio import STEPS, Made, Studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STAGES = [pb.STAGE_ENCODE, pb.STAGE_DENOISE, pb.STAGE_RENDER, pb.STAGE_SYNTHESIZE, pb.STAGE_MUX]


def changes(values: list[int]) -> list[int]:
    return [value for index, value in enumerate(values) if index == 0 or value != values[index - 1]]


def test_events_come_in_order_and_none_is_missing(made: Made) -> None:
    sequences = changes([event.sequence for event in made.events])
    assert sequences == list(range(1, made.video.sequence + 1))


def test_states_and_stages_follow_each_other(made: Made) -> None:
    states = changes([event.video.state for event in made.events])
    assert states == [pb.STATE_QUEUED, pb.STATE_RUNNING, pb.STATE_SUCCEEDED]
    running = [event.video for event in made.events if event.video.state == pb.STATE_RUNNING]
    assert changes([video.progress.stage for video in running]) == STAGES


def test_progress_only_grows(made: Made) -> None:
    fractions = [event.video.progress.fraction for event in made.events]
    assert all(later >= earlier for earlier, later in pairwise(fractions))
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_denoising_tells_its_steps(made: Made) -> None:
    progress = [event.video.progress for event in made.events if event.video.progress.stage == pb.STAGE_DENOISE]
    told = [(part.step, part.total_steps) for part in progress if part.total_steps]
    assert told == sorted(told)
    assert told[-1] == (STEPS, STEPS)
    assert {total for _, total in told} == {STEPS}


def test_a_preview_comes_while_it_denoises(made: Made) -> None:
    previews = [event for event in made.events if event.preview_jpeg]
    assert [event.video.progress.stage for event in previews] == [pb.STAGE_DENOISE]
    picture = Image.open(io.BytesIO(previews[0].preview_jpeg))
    assert picture.format == "JPEG"
    assert picture.width == 3 * picture.height, "begin, middle and end in a row"


def test_a_watcher_can_take_up_where_it_was_cut_off(studio: Studio, made: Made) -> None:
    last = made.video.sequence
    rest = list(studio.client.watch(made.video, after_sequence=last - 3))
    assert [event.sequence for event in rest] == [last - 2, last - 1, last]
    assert rest[-1].video.state == pb.STATE_SUCCEEDED


def test_every_stage_is_timed(made: Made) -> None:
    timings = made.video.stage_timings
    assert [timing.stage for timing in timings] == STAGES
    assert [timing.attempts for timing in timings] == [1] * len(STAGES)
    assert all(timing.duration.ToMilliseconds() > 0 for timing in timings)
    starts = [timing.start_time.ToMilliseconds() for timing in timings]
    assert starts == sorted(starts)


def test_every_artifact_lies_below_its_attempt(studio: Studio, made: Made) -> None:
    parts = [path.split("/") for path in sorted(studio.stored(made.video))]
    assert all(part[:2] == ["local", made.video.name.removeprefix("videos/")] for part in parts)
    assert {(stage, name) for _, _, stage, _, name in parts} == {
        ("encode", "conditioning.safetensors"),
        ("denoise", "latents.safetensors"),
        ("render", "picture.mp4"),
        ("synthesize", "sound.flac"),
        ("mux", "video.mp4"),
        ("mux", "poster.jpg"),
    }
