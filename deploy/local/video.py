"""One video from start to end: what `make video` runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from soundstage.video.v1 import video_pb2 as pb

from client import SoundstageClient, SoundstageClientError
from client.progress import ProgressDisplay, stage_table
from client.request import PresetName
from client.text import failure_of
from deploy.local.plan import TRITON
from deploy.local.processes import stop
from deploy.local.stack import GRACE_SECONDS, is_up, start_stack, stop_stack
from deploy.local.state import State

__all__ = ["Order", "VideoFailedError", "make_video", "stop_stale_runs"]

RUN_PREFIX = "video-"
CANCEL_SECONDS = 15.0


class VideoFailedError(Exception):
    """The video ended without a result; the message says why."""


@dataclass(frozen=True)
class Order:
    """What to make and where to put it. ``None`` and empty fields take the model's defaults."""

    prompt: str
    out: Path
    negative: str = ""
    image: Path | None = None
    duration: float | None = None
    seed: int | None = None
    steps: int | None = None
    preset: PresetName | None = None

    @property
    def poster(self) -> Path:
        """Beside the video: campfire.mp4, campfire.jpg."""
        return self.out.with_suffix(".jpg")


def make_video(order: Order, state: State, console: Console, token: str = "", *, triton: bool = False) -> None:
    """Uses the stack of ``state`` if it is up, else one of its own that it stops again. Ctrl-C cancels the video.

    token: an API key or a JWT, for a stack that asks who calls. triton: the stack must have a tritonserver.
    """
    began = time.monotonic()
    with _stack(state, console, triton) as address, SoundstageClient(address, token=token) as client:
        video = _create(order, client)
        console.print(f"{order.prompt!r}, seed {video.spec.seed}", highlight=False, markup=False)
        video = _follow(client, video, console)
        if video.state != pb.STATE_SUCCEEDED:
            raise VideoFailedError(failure_of(video))
        client.download(video, order.out, poster=order.poster)
    console.print(stage_table(video))
    console.print(
        f"{order.out} ({video.result.size_bytes / 1e6:.2f} MB) and {order.poster}, "
        f"{time.monotonic() - began:.0f} s from start to end",
        highlight=False,
        markup=False,
    )


def stop_stale_runs(state: State) -> None:
    """Removes what runs of `make video` left that were killed before they could clean up."""
    for folder in state.folder.glob(f"{RUN_PREFIX}*"):
        if not _is_running(folder):
            stop(State(folder).processes(), grace_seconds=GRACE_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _stack(state: State, console: Console, triton: bool) -> Iterator[str]:
    if is_up(state) and (not triton or any(process.name == TRITON for process in state.processes())):
        yield state.address
        return
    stop_stale_runs(state)
    # A folder of its own: two `make video` at a time do not stop each other's services.
    run = State(state.folder / f"{RUN_PREFIX}{os.getpid()}")
    finished = False
    try:
        with console.status("starting") as status:
            address = start_stack(run, end_with_parent=True, say=lambda text: status.update(text), triton=triton)
        yield address
        finished = True
    finally:
        with _undisturbed(), console.status("stopping"):
            stop_stack(run)
        if finished:
            shutil.rmtree(run.folder, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """An impatient second Ctrl-C must not leave services behind; the stopping takes seconds at most."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _create(order: Order, client: SoundstageClient) -> pb.Video:
    return client.create(
        order.prompt,
        negative_prompt=order.negative,
        image=order.image,
        duration=order.duration,
        seed=order.seed,
        num_inference_steps=order.steps,
        preset=order.preset,
    )


def _follow(client: SoundstageClient, video: pb.Video, console: Console) -> pb.Video:
    try:
        with ProgressDisplay(console) as display:
            return client.wait(video, on_event=lambda event: display.update(event.video))
    except KeyboardInterrupt:
        _cancel(client, video, console)
        raise


def _cancel(client: SoundstageClient, video: pb.Video, console: Console) -> None:
    console.print("cancelling")
    try:
        client.cancel(video, reason="Ctrl-C")
        client.wait(video, timeout_seconds=CANCEL_SECONDS)
    except SoundstageClientError as error:
        console.print(str(error), markup=False)


def _is_running(folder: Path) -> bool:
    """Whether the `make video` that made this folder still lives."""
    try:
        os.kill(int(folder.name.removeprefix(RUN_PREFIX)), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
