"""How long stages should take, from videos that were made."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from services.gateway.progress import eta_seconds, work_units
from services.gateway.speeds import Measured, Sample, Speeds
from services.gateway.video import Shape, Stage, StageTiming, State, Status, status_from_json, status_to_json
from tests.services.gateway.test_watches import NOW

SHORT, LONG = Shape("diorama", 24, 256, 256, 10), Shape("diorama", 60, 256, 256, 25)


def sample(shape: Shape, denoise_seconds: float, between_seconds: float = 0.5) -> Sample:
    """Every other stage takes a second."""
    seconds = {stage: denoise_seconds if stage is Stage.DENOISE else 1.0 for stage in Stage}
    return Sample({stage: (work_units(stage, shape), seconds[stage]) for stage in Stage}, between_seconds)


def test_nothing_is_known_without_videos() -> None:
    assert Speeds().expected(SHORT) == {}
    assert not Speeds().known


def test_the_ways_between_stages_count() -> None:
    expected = Speeds([sample(SHORT, 3.0)]).expected(SHORT)
    assert expected[Stage.DENOISE] == pytest.approx(3.5)
    assert sum(expected.values()) == pytest.approx(7.0 + 6 * 0.5)


def test_another_speed_is_followed_within_a_few_videos() -> None:
    """Of eight that took a second, three seconds count after three videos."""
    speeds = Speeds([sample(SHORT, 3.0)] * 3 + [sample(SHORT, 1.0)] * 8)
    assert speeds.expected(SHORT)[Stage.DENOISE] == pytest.approx(3.5)


def test_one_that_stalled_changes_nothing() -> None:
    speeds = Speeds([sample(SHORT, 300.0, 60.0)] + [sample(SHORT, 3.0)] * 5)
    assert speeds.expected(SHORT)[Stage.DENOISE] == pytest.approx(3.5)


def test_a_video_is_measured_by_those_of_its_size_and_by_others_in_proportion() -> None:
    both = Speeds([sample(LONG, 12.0), sample(SHORT, 3.0)] * 4)
    assert both.expected(SHORT)[Stage.DENOISE] == pytest.approx(3.5)
    assert both.expected(LONG)[Stage.DENOISE] == pytest.approx(12.5)
    times = work_units(Stage.DENOISE, LONG) / work_units(Stage.DENOISE, SHORT)
    assert Speeds([sample(SHORT, 3.0)]).expected(LONG)[Stage.DENOISE] == pytest.approx(3.0 * times + 0.5)


def test_a_sample_leaves_loading_out_and_counts_what_lies_between() -> None:
    measured = Measured()
    for index, stage in enumerate(Stage):
        measured.add(stage, 1.0, (index * 3.0, index * 3.0 + 2.0), 2.0, 1.5)
    made = measured.sample()
    assert made is not None
    assert made.stages[Stage.MUX] == (1.0, 0.5)
    assert made.between_seconds == pytest.approx(1.0)
    del measured.stages[Stage.MUX]
    assert measured.sample() is None


def test_a_stage_that_loads_first_does_not_look_slow_for_long() -> None:
    """A step takes 1 s and loading took 10: the estimate after the first step is half of what the step alone says."""
    expected = dict.fromkeys(Stage, 0.0) | {Stage.DENOISE: 20.0}

    def left(step: int, elapsed_seconds: float) -> float:
        begun = NOW.fromtimestamp(NOW.timestamp() - elapsed_seconds, NOW.tzinfo)
        status = Status(state=State.RUNNING, stage=Stage.DENOISE, stage_start_time=begun, step=step, total_steps=20)
        told = eta_seconds(status, expected, NOW)
        assert told is not None
        return told

    assert left(0, 5.0) == pytest.approx(15.0)
    assert 19.0 < left(1, 11.0) < 0.3 * 11.0 * 19
    assert left(10, 10.0) == pytest.approx(10.0)
    assert left(20, 20.0) == 0.0


@pytest.mark.parametrize("known", [True, False], ids=["measured", "first video"])
def test_steps_of_a_checkpoint_do_not_make_a_resumed_video_look_fast(known: bool) -> None:
    """A step takes 1 s, of 20 the checkpoint holds 15: denoising would have taken 20 s, the sound a seventh of that."""
    expected = {Stage.DENOISE: 20.0, Stage.SYNTHESIZE: 20.0 / 7} if known else {}
    begun = Status(
        State.RUNNING, Stage.DENOISE, 15, 20, stage_start_time=NOW - timedelta(seconds=2), denoise_done_before=0.75
    )
    running = status_from_json(status_to_json(begun.with_progress(17, 20)))
    done = StageTiming(Stage.DENOISE, NOW, seconds=5.0, load_seconds=0.0, gpu_seconds=0.0, attempts=2)
    sounding = replace(running, stage=Stage.SYNTHESIZE, timings=(done,), stage_start_time=NOW).with_progress(0, 0)

    left, later = eta_seconds(running, expected, NOW), eta_seconds(sounding, expected, NOW)
    if known:
        assert eta_seconds(begun, expected, NOW) == pytest.approx(5.0 - 2.0 + 20 / 7)
        assert left == pytest.approx(3.0 + 20 / 7)
        assert later == pytest.approx(20 / 7)
    else:
        assert left == pytest.approx(3.0 + 20 * 0.3 / 0.7)
        assert later == pytest.approx(20 * 0.3 / 0.7)
