"""Which failed attempts are followed by another, and when."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from libs.errors import FailedPrecondition, Internal, ResourceExhausted, SoundstageError, Unavailable
from services.gateway.retries import DEADLY_ATTEMPTS, FAULTY_ATTEMPTS, Retries, too_deadly
from services.gateway.video import AttemptError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETRIES = Retries(away_attempts=20, first_seconds=1.0)


def attempts(*reasons: str) -> list[AttemptError]:
    return [AttemptError(number, reason, "", NOW) for number, reason in enumerate(reasons, 1)]


@pytest.mark.parametrize(
    ("error", "most"),
    [
        (FailedPrecondition("x", reason="ARTIFACT_ALTERED"), 1),
        (Internal("x", reason="GATE_FAILED"), FAULTY_ATTEMPTS),
        (Unavailable("x", reason="STAGE_LOST"), DEADLY_ATTEMPTS),
        (Unavailable("x", reason="STAGE_SILENT"), DEADLY_ATTEMPTS),
        (Unavailable("x", reason="STAGE_AWAY"), 20),
        (ResourceExhausted("x", reason="BUSY"), 20),
    ],
)
def test_each_cause_has_its_bound(error: SoundstageError, most: int) -> None:
    earlier: list[AttemptError] = []
    while RETRIES.may_follow(error, earlier):
        earlier = attempts(*([error.reason] * (len(earlier) + 1)))
        assert len(earlier) < 100
    assert len(earlier) + 1 == most


def test_an_outage_does_not_count_against_a_video_that_then_fails() -> None:
    away = attempts(*(["STAGE_AWAY"] * 15))
    assert RETRIES.may_follow(Internal("x", reason="GATE_FAILED"), away)
    assert RETRIES.may_follow(Unavailable("x", reason="STAGE_LOST"), away)


def test_workers_that_died_are_counted() -> None:
    assert not too_deadly(attempts(*(["WORKER_LOST"] * (DEADLY_ATTEMPTS - 1)), "STAGE_AWAY"))
    assert too_deadly(attempts(*(["WORKER_LOST"] * DEADLY_ATTEMPTS)))


def test_waits_double_to_a_bound_and_differ() -> None:
    error = Unavailable("x", reason="STAGE_AWAY")
    waits = [[RETRIES.wait(number, error).total_seconds() for _ in range(50)] for number in (1, 2, 3, 20, 1000)]
    middles = [1, 2, 4, 30, 30]
    for seconds, middle in zip(waits, middles, strict=True):
        assert all(0.75 * middle <= one <= 1.25 * middle for one in seconds)
        assert len(set(seconds)) > 10


@pytest.mark.parametrize(
    ("error", "number", "least", "most"),
    [
        (ResourceExhausted("x", reason="BUSY", retry_seconds=7.0), 1, 7.0, 8.75),
        (Unavailable("x", reason="STOPPING", retry_seconds=7.0), 1, 7.0, 8.75),
        (Unavailable("x", reason="STOPPING", retry_seconds=7.0), 20, 22.5, 37.5),
        (ResourceExhausted("x", reason="BUSY", retry_seconds=86_400.0), 1, 600.0, 750.0),
    ],
)
def test_a_service_that_says_when_to_ask_again_is_not_asked_before(
    error: SoundstageError, number: int, least: float, most: float
) -> None:
    waits = [RETRIES.wait(number, error).total_seconds() for _ in range(50)]
    assert all(least <= one <= most for one in waits)
    assert len(set(waits)) > 10
