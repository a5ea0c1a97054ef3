"""A part of the crash matrix that fits into `make test`, on both databases; and that the matrix sees faults."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.crash.cases import STAGES, every_case
from bench.crash.facts import Facts
from bench.crash.journal import Journal
from bench.crash.stack import SERVICES, Plan, Stack, running_stack
from bench.crash_matrix import PLANS, Outcome, merged, results_of, strike, told_of
from bench.results import write

CASES = {case.name: case for case in every_case(seed=1)}
QUICK = {
    "postgresql": (
        "api killed between record and workflow",
        "denoiser killed in the middle of denoise",
        "one of two workers killed in render",
        "temporal killed at the end of encode",
    ),
    "sqlite": ("worker killed in the middle of denoise", "everything killed at once"),
}
WORKERS = {"postgresql": 2, "sqlite": 1}


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    plan = Plan(request.param, workers=WORKERS[request.param])
    with running_stack(plan, tmp_path_factory.mktemp("crash")) as running:
        yield running


@pytest.mark.parametrize(
    ("stack", "name"),
    [(database, name) for database, names in QUICK.items() for name in names],
    indirect=["stack"],
    scope="module",
)
def test_no_video_is_lost(name: str, stack: Stack) -> None:
    outcome = strike(CASES[name], "postgresql" if stack.postgres else "sqlite", stack)
    assert outcome.kept, outcome
    assert outcome.videos > 0


def test_every_process_is_killed_in_and_after_every_stage() -> None:
    for process in ("api", "worker", "temporal", *SERVICES):
        assert f"{process} killed when a video was accepted" in CASES
        for stage in STAGES:
            assert f"{process} killed in the middle of {stage}" in CASES
            assert f"{process} killed at the end of {stage}" in CASES
    assert {case.needs for case in CASES.values()} == set(PLANS)


def test_an_attempt_that_goes_on_is_seen(tmp_path: Path) -> None:
    """One that ended, one whose process is gone, and one that is at work."""
    lines = [("a", "begin", 1), ("b", "begin", 2), ("c", "begin", 1), ("a", "finish", 1)]
    entries = [
        {"video_id": "v", "stage": "mux", "attempt": attempt, "point": point, "pid": pid, "time": float(n)}
        for n, (attempt, point, pid) in enumerate(lines)
    ]
    journal = Journal(tmp_path)
    journal.path("muxer").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"half a li')
    assert [entry.attempt for entry in journal.at_work(frozenset({1, os.getpid()}))] == ["c"]


@pytest.mark.parametrize("fault", ["lost", "unexpected", "repeated", "orphans", "unsettled"])
def test_a_broken_promise_is_told(fault: str) -> None:
    broken = Outcome("x", "sqlite", facts=Facts(**{fault: ["v"]}))
    assert not broken.kept
    told = [told_of(broken), told_of(Outcome("y", "sqlite"))]
    figures = {figure.name: figure.value for figure in results_of(told).figures}
    assert (figures["cases"], figures["cases_that_broke_a_promise"]) == (2, 1)


def test_a_case_that_is_run_again_replaces_what_was_said_of_it(tmp_path: Path) -> None:
    first = [told_of(Outcome(name, "sqlite", broken="not ready")) for name in ("x", "y")]
    path = write("crash_matrix", results_of(first), tmp_path)
    again = merged(path, [told_of(Outcome("x", "sqlite")), told_of(Outcome("x", "postgresql"))])
    assert [(case["case"], case["database"], case["kept"]) for case in again] == [
        ("x", "sqlite", True),
        ("y", "sqlite", False),
        ("x", "postgresql", True),
    ]


def test_a_case_that_did_not_come_about_is_no_success() -> None:
    assert not Outcome("x", "sqlite", broken="TimeoutError").kept
