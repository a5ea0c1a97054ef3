"""How far a video is and how long it will still take, computed from its status. Nothing here is stored.

What the stages should take is known from the model's last videos (`speeds.py`), where a stage's cost is taken as
proportional to its `work_units`. As long as nothing was measured, a running denoise stage tells the speed of the
machine and `USUAL_SHARE` says what the other stages usually cost beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from services.gateway.video import Shape, Stage, State, Status, Video

USUAL_SHARE: dict[Stage, float] = {
    Stage.ENCODE: 0.03,
    Stage.DENOISE: 0.70,
    Stage.RENDER: 0.12,
    Stage.SYNTHESIZE: 0.10,
    Stage.MUX: 0.05,
}
"""Share of a video's seconds by stage where nothing was measured yet. Adds up to 1."""

STEPS_UNTIL_SPEED_IS_KNOWN = 2
"""The first step includes warming up; after the second one the mean is a fair guess."""

STEPS_OF_EXPERIENCE = 4
"""What earlier videos say of a stage's speed counts as much as this many of its own steps."""


def work_units(stage: Stage, shape: Shape) -> float:
    """Cost of a stage in units that only matter relative to each other: picture elements times steps, or seconds."""
    elements = shape.num_frames * shape.width * shape.height
    match stage:
        case Stage.ENCODE:
            return 1.0
        case Stage.DENOISE:
            return float(elements * shape.num_inference_steps)
        case Stage.RENDER | Stage.SYNTHESIZE | Stage.MUX:
            return float(elements)


def fraction(video: Video, status: Status) -> float:
    """Share of the work that is done, 0 to 1; exactly 1 once SUCCEEDED."""
    if status.state is State.SUCCEEDED:
        return 1.0
    shares = _shares(video)
    done = sum(shares[timing.stage] for timing in status.timings)
    if status.stage and status.stage not in _ended(status) and status.total_steps:
        done += shares[status.stage] * status.step / status.total_steps
    return min(done, 1.0)


def eta_seconds(status: Status, expected: Mapping[Stage, float], now: datetime) -> float | None:
    """Seconds until a video at work is ready: from what its stages should take, or from what its denoising tells.

    None while nothing is known, and for one that is ending or has ended.
    """
    if status.state is not State.RUNNING:
        return None
    expected = expected or _expected_from_denoising(status, now)
    if not expected:
        return None
    ended = _ended(status)
    later = sum(seconds for stage, seconds in expected.items() if stage not in ended and stage != status.stage)
    return later + _rest_of_stage(expected, status, now)


def _rest_of_stage(expected: Mapping[Stage, float], status: Status, now: datetime) -> float:
    """What its own steps tell counts more the more they are: loading makes the first ones look slow."""
    if status.stage is None or status.stage in _ended(status):
        return 0.0
    elapsed, whole = _elapsed(status, now), expected[status.stage]
    made = _steps_made(status)
    if made <= 0:
        return max(whole * (1 - status.step / max(status.total_steps, 1)) - elapsed, 0.0)
    told = elapsed / made * status.total_steps
    mean = (STEPS_OF_EXPERIENCE * whole + made * told) / (STEPS_OF_EXPERIENCE + made)
    return mean * (1 - status.step / status.total_steps)


def _expected_from_denoising(status: Status, now: datetime) -> dict[Stage, float]:
    took = next((timing.seconds for timing in status.timings if timing.stage is Stage.DENOISE), 0.0)
    seconds = took / (1 - status.denoise_done_before)
    made = _steps_made(status)
    if not seconds and status.stage is Stage.DENOISE and made >= STEPS_UNTIL_SPEED_IS_KNOWN:
        seconds = _elapsed(status, now) / made * status.total_steps
    return {stage: seconds / USUAL_SHARE[Stage.DENOISE] * share for stage, share in USUAL_SHARE.items() if seconds}


def _steps_made(status: Status) -> int:
    """By the attempt at work: without the steps of a checkpoint."""
    before = status.denoise_done_before if status.stage is Stage.DENOISE else 0.0
    return status.step - round(before * status.total_steps)


def _shares(video: Video) -> dict[Stage, float]:
    total = sum(video.expected_seconds.values())
    return {s: v / total for s, v in video.expected_seconds.items()} if total > 0 else USUAL_SHARE


def _ended(status: Status) -> frozenset[Stage]:
    return frozenset(timing.stage for timing in status.timings)


def _elapsed(status: Status, now: datetime) -> float:
    return max((now - status.stage_start_time).total_seconds(), 0.0) if status.stage_start_time else 0.0
