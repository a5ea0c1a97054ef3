"""What a person types: `make video` and `python -m deploy.local`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from soundstage.video.v1 import video_pb2 as pb

from client.progress import ProgressDisplay
from deploy.local import video as video_module
from deploy.local.__main__ import main
from deploy.local.plan import REPOSITORY
from tests.client.server import FakeVideos, serving_in_thread

HARD_PROMPT = """a "fire" for $5 in $HOME, `x` $(shell touch hacked) it's # 100 % 'wild'"""
FAKE_PYTHON = """#!/bin/sh
exec python3.11 -c 'import json, os; print(json.dumps(dict(os.environ)))'
"""


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def fake_bin(tmp_path: Path) -> Path:
    """A folder whose python says what it was given."""
    (tmp_path / "python").write_text(FAKE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("from_environment", [False, True])
def test_make_passes_a_prompt_as_it_was_typed(fake_bin: Path, from_environment: bool) -> None:
    fixed = [f"BIN={fake_bin}", f"READY={fake_bin}/python", "OUT=my film.mp4", "DURATION=2.5"]
    if from_environment:
        result = make("video", *fixed, PROMPT=HARD_PROMPT)
    else:
        result = make("video", *fixed, f"PROMPT={HARD_PROMPT}")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["SOUNDSTAGE_VIDEO_PROMPT"] == HARD_PROMPT
    assert told["SOUNDSTAGE_VIDEO_OUT"] == "my film.mp4"
    assert told["SOUNDSTAGE_VIDEO_DURATION"] == "2.5"
    assert told["SOUNDSTAGE_VIDEO_SEED"] == ""
    assert not (REPOSITORY / "hacked").exists()


@pytest.mark.parametrize(("given", "flag"), [({"TRITON": "1"}, True), ({}, False)])
def test_make_asks_for_triton_only_when_told(given: dict[str, str], flag: bool) -> None:
    said = make("-n", "up", "READY=README.md", **given).stdout
    assert ("--triton" in said) == flag


def test_every_make_target_is_explained() -> None:
    lines = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ").splitlines()
    targets = next(line for line in lines if line.startswith(".PHONY:")).removeprefix(".PHONY:").split()
    shown = make("help").stdout
    assert [name for name in targets if f"make {name} " not in shown] == []


class FakeStack:
    """Stands where the processes would: says what was started and stopped."""

    def __init__(self, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.up = False
        self.address = address
        monkeypatch.setattr(video_module, "is_up", lambda _: self.up)
        monkeypatch.setattr(video_module, "start_stack", self._start)
        monkeypatch.setattr(video_module, "stop_stack", lambda _: self.events.append("stop"))

    def _start(self, *_: object, **__: object) -> str:
        self.events.append("start")
        return self.address


@pytest.fixture
def videos(tmp_path: Path) -> FakeVideos:
    (tmp_path / "made").write_bytes(b"film")
    url = (tmp_path / "made").as_uri()
    videos = FakeVideos()
    videos.result = pb.VideoResult(video_url=url, poster_url=url, size_bytes=4)
    return videos


@pytest.fixture
def fake_stack(videos: FakeVideos, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStack]:
    with serving_in_thread(videos) as address:
        yield FakeStack(address, monkeypatch)


def run(folder: Path, *arguments: str, **environment: str) -> Result:
    named = {f"SOUNDSTAGE_VIDEO_{name}": value for name, value in environment.items()}
    return CliRunner().invoke(main, ["--state", str(folder / ".state"), *arguments], env=named)


def test_video_starts_makes_and_stops(tmp_path: Path, videos: FakeVideos, fake_stack: FakeStack) -> None:
    out = tmp_path / "fire.mp4"
    result = run(tmp_path, "video", PROMPT="a fire", OUT=str(out), SEED="", STEPS="7", DURATION="2", PRESET="fast")
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == b"film"
    assert (tmp_path / "fire.jpg").read_bytes() == b"film"
    assert fake_stack.events == ["start", "stop"]
    assert "12.3" in result.stderr
    spec = videos.requests[0].spec
    assert (spec.num_inference_steps, spec.HasField("seed"), spec.preset) == (7, False, pb.PRESET_FAST)


def test_video_leaves_a_running_stack_alone(tmp_path: Path, fake_stack: FakeStack) -> None:
    fake_stack.up = True
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state" / "address").write_text(fake_stack.address)
    assert run(tmp_path, "video", PROMPT="a fire", OUT=str(tmp_path / "f.mp4")).exit_code == 0
    assert fake_stack.events == []


def test_video_stops_what_it_started_after_an_error(tmp_path: Path, videos: FakeVideos, fake_stack: FakeStack) -> None:
    videos.final_state = pb.STATE_FAILED
    result = run(tmp_path, "video", PROMPT="a fire", OUT=str(tmp_path / "f.mp4"))
    assert result.exit_code == 1
    assert "out of memory" in result.stderr
    result = run(tmp_path, "video", PROMPT="a fire", DURATION="1000")
    assert result.exit_code == 1
    assert "DURATION: diorama makes 1 to 8 s" in result.stderr
    result = run(tmp_path, "video", PROMPT="a fire", STEPS="3000000000")
    assert result.exit_code == 1
    assert "STEPS: 3000000000 does not fit into a request" in result.stderr
    assert fake_stack.events == ["start", "stop"] * 3


def test_ctrl_c_cancels_the_video_and_stops(
    tmp_path: Path, videos: FakeVideos, fake_stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_at_first(self: ProgressDisplay, video: pb.Video) -> None:
        signal.raise_signal(signal.SIGINT)

    videos.breaks = [("silent", 2)]
    monkeypatch.setattr(ProgressDisplay, "update", interrupted_at_first)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        result = run(tmp_path, "video", PROMPT="a fire", OUT=str(tmp_path / "f.mp4"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130
    assert any(isinstance(request, pb.CancelVideoRequest) for request in videos.requests)
    assert fake_stack.events == ["start", "stop"]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, 'make video PROMPT="'),
        ({"PROMPT": " "}, 'make video PROMPT="'),
        ({"PROMPT": "a", "OUT": "film.avi"}, "ends with .mp4"),
        ({"PROMPT": "a", "SEED": "many"}, "many"),
        ({"PROMPT": "a", "IMAGE": "/missing.png"}, "does not exist"),
        ({"PROMPT": "a", "PRESET": "quick"}, "standard"),
    ],
)
def test_a_wrong_order_is_refused_before_anything_starts(
    tmp_path: Path, fake_stack: FakeStack, environment: dict[str, str], text: str
) -> None:
    result = run(tmp_path, "video", **environment)
    assert result.exit_code == 2
    assert text in result.stderr
    assert fake_stack.events == []


def test_status_without_a_stack(tmp_path: Path) -> None:
    result = run(tmp_path, "status")
    assert result.exit_code == 3
    assert "make up" in result.stdout


def test_down_without_a_stack_is_quiet(tmp_path: Path) -> None:
    result = run(tmp_path, "down")
    assert (result.exit_code, result.output) == (0, "")
