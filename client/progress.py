"""Shows on a terminal how far a video has come: stage, step n/N and the time that is left.

Where the output is not a terminal (a log, a pipe) there is one line a stage instead of a bar.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from soundstage.video.v1 import video_pb2 as pb

__all__ = ["ProgressDisplay", "eta_text", "stage_name", "stage_table", "state_name", "step_text"]

STAGE_NAMES = {
    pb.STAGE_UNSPECIFIED: "waiting",
    pb.STAGE_ENCODE: "reading the prompt",
    pb.STAGE_DENOISE: "making the picture",
    pb.STAGE_RENDER: "rendering frames",
    pb.STAGE_SYNTHESIZE: "making the sound",
    pb.STAGE_MUX: "writing the file",
}


class ProgressDisplay:
    """A ``with`` around the waiting; call ``update`` with every video that comes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: int | None = None
        self._eta = ""
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.fields[stage]:<18}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[step]:<12}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, stage="waiting", step="", eta="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, video: pb.Video) -> None:
        if self._bar.disable:
            self._print_stage(video)
            return
        done = video.state == pb.STATE_SUCCEEDED
        self._bar.update(
            self._task,
            completed=1.0 if done else video.progress.fraction,
            stage="ready" if done else stage_name(video),
            step="" if done else step_text(video),
            eta="" if done else eta_text(video),
        )

    def _print_stage(self, video: pb.Video) -> None:
        if video.progress.stage == self._stage or video.state != pb.STATE_RUNNING:
            return
        self._stage = video.progress.stage
        seconds = time.monotonic() - self._began
        self._console.print(f"{seconds:7.1f} s  {stage_name(video)}", highlight=False)


def state_name(video: pb.Video) -> str:
    return pb.State.Name(video.state).removeprefix("STATE_").lower()


def stage_name(video: pb.Video) -> str:
    if video.state == pb.STATE_RUNNING:
        return STAGE_NAMES.get(video.progress.stage, "at work")
    return state_name(video)


def step_text(video: pb.Video) -> str:
    progress = video.progress
    if video.state == pb.STATE_QUEUED and progress.queue_position:
        return f"{progress.queue_position} before"
    return f"step {progress.step}/{progress.total_steps}" if progress.total_steps else ""


def eta_text(video: pb.Video) -> str:
    if not video.progress.HasField("eta"):
        return ""
    seconds = round(video.progress.eta.ToTimedelta().total_seconds())
    return f"about {seconds} s left" if seconds < 100 else f"about {round(seconds / 60)} min left"


def stage_table(video: pb.Video) -> Table:
    """Seconds a stage, and how many of them went into loading models."""
    table = Table("stage", "seconds", "of it loading", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    work = load = 0.0
    for timing in video.stage_timings:
        seconds = timing.duration.ToTimedelta().total_seconds()
        loading = timing.load_duration.ToTimedelta().total_seconds()
        work, load = work + seconds, load + loading
        name = pb.Stage.Name(timing.stage).removeprefix("STAGE_").lower()
        table.add_row(name, f"{seconds:.1f}", f"{loading:.1f}")
    table.add_row("together", f"{work:.1f}", f"{load:.1f}")
    return table
