from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from libs.errors import FailedPrecondition, Internal, Unavailable
from libs.serving import Cancelled
from services.muxer import child
from services.muxer.child import MediaChild

_CHILD = """
import os, sys, time
from libs.errors import FailedPrecondition
from services.muxer.child import answer

def work(job, stdin):
    if job["do"] == "count":
        return {"bytes": len(stdin.read())}
    if job["do"] == "refuse":
        raise FailedPrecondition("not so", reason="NOT_SO", why="because")
    if job["do"] == "crash":
        print("dying", file=sys.stderr, flush=True)
        os.abort()
    time.sleep(60)

answer(work)
"""


def _never() -> None:
    return None


class _Stop:
    """Raises Cancelled once ``seconds`` have gone."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def __call__(self) -> None:
        if time.monotonic() > self._at:
            raise Cancelled


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A child of our own beside the repository's packages."""
    (tmp_path / "odd_child.py").write_text(textwrap.dedent(_CHILD))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "odd_child"


def test_bytes_arrive_and_the_result_comes_back(module: str) -> None:
    with MediaChild(module, {"do": "count"}, timeout_seconds=20, raise_if_cancelled=_never) as process:
        for _ in range(3):
            process.write(memoryview(bytes(300_000)))
        assert process.result() == {"bytes": 900_000}


def test_an_error_of_the_tree_crosses_the_process(module: str) -> None:
    with (
        MediaChild(module, {"do": "refuse"}, timeout_seconds=20, raise_if_cancelled=_never) as process,
        pytest.raises(FailedPrecondition, match="not so") as caught,
    ):
        process.result()
    assert (caught.value.reason, caught.value.metadata) == ("NOT_SO", {"why": "because"})


def test_a_crash_is_internal_and_logged(module: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        MediaChild(module, {"do": "crash"}, timeout_seconds=20, raise_if_cancelled=_never) as process,
        pytest.raises(Internal, match="status -6") as caught,
    ):
        process.write(memoryview(bytes(10_000_000)))
    assert caught.value.reason == "MEDIA_PROCESS_FAILED"
    assert "dying" in caplog.records[-1].__dict__["stderr"]


def _feed_and_wait(process: MediaChild, size: int) -> None:
    process.write(memoryview(bytes(size)))
    process.result()


@pytest.mark.parametrize("size", [0, 10_000_000])
def test_cancelling_kills_it_at_once(module: str, size: int) -> None:
    began = time.monotonic()
    with (
        pytest.raises(Cancelled),
        MediaChild(module, {"do": "hang"}, timeout_seconds=60, raise_if_cancelled=_Stop(0.5)) as process,
    ):
        _feed_and_wait(process, size)
    assert time.monotonic() - began < 2
    assert process._process.returncode == -9


def test_a_child_that_hangs_is_given_up(module: str) -> None:
    with (
        pytest.raises(Unavailable) as caught,
        MediaChild(module, {"do": "hang"}, timeout_seconds=0.5, raise_if_cancelled=_never) as process,
    ):
        process.result()
    assert caught.value.reason == "MEDIA_TIMEOUT"


def test_real_children_know_the_job_protocol() -> None:
    """Both modules start, read a job, and answer in the protocol even for a job that makes no sense."""
    for module in ("services.muxer.encode", "services.muxer.assemble"):
        done = subprocess.run(
            [sys.executable, "-m", module], input=b"{}\n", capture_output=True, timeout=30, cwd=child._ROOT, check=False
        )
        assert b"KeyError" in done.stderr
