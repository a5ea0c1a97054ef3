"""The blows: every process killed at every stage, and what else goes wrong in a data centre.

A case makes one or more videos, strikes, sets right what a supervisor would (starts the dead anew), and says which
videos were accepted and how they must end.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.crash.journal import Entry
from bench.crash.members import Member
from bench.crash.stack import SERVICES, Stack

STAGES = ("encode", "denoise", "render", "synthesize", "mux")
SERVICE_OF = {"encode": "encoder", "denoise": "denoiser", "render": "muxer", "synthesize": "audio", "mux": "muxer"}
BOUNDARY_SPREAD_SECONDS = 0.15
"""A blow at a boundary falls at a random moment of this length after the stage has finished: into the writing down of
its output, the workflow's next step, or the beginning of the next stage."""
LOAD = 6
"""Videos in the air when a database or store is struck."""
S3_AWAY_SECONDS = 30.0
DATABASE_AWAY_SECONDS = 3.0
FREEZE_AFTER_SECONDS = 0.5
DISK_FULL_SECONDS = 4.0


@dataclass(frozen=True)
class Case:
    """`strike` returns the videos that were accepted. `needs` names the stack's plan in `crash_matrix.PLANS`."""

    name: str
    strike: Callable[[Stack], list[str]]
    expected: str = "SUCCEEDED"
    needs: str = "plain"


def every_case(seed: int) -> list[Case]:
    """Those of one database; `crash_matrix` runs them on each."""
    return [*_kills(seed), *_pairs(), *_others()]


def _kills(seed: int) -> Iterator[Case]:
    """Target after target at each point, so that what was killed has time to come back."""
    chance = random.Random(seed)
    targets = {name.partition("-")[0]: name for name in ("worker-0", "api-0", "temporal", *SERVICES)}
    for name, target in targets.items():
        after = chance.uniform(0, BOUNDARY_SPREAD_SECONDS)
        yield Case(f"{name} killed when a video was accepted", partial(kill_at_boundary, target, "", after))
    for stage in STAGES:
        for name, target in targets.items():
            yield Case(f"{name} killed in the middle of {stage}", partial(kill_in_middle, target, stage))
        for name, target in targets.items():
            after = chance.uniform(0, BOUNDARY_SPREAD_SECONDS)
            yield Case(f"{name} killed at the end of {stage}", partial(kill_at_boundary, target, stage, after))


def _pairs() -> Iterator[Case]:
    for stage in STAGES:
        yield Case(f"one of two workers killed in {stage}", partial(kill_one_of_two, stage), needs="pair")
    yield Case("a worker frozen in denoise comes back to its stage at work", frozen_worker, needs="pair")
    yield Case(
        "a worker frozen in denoise comes back to a finished stage", partial(frozen_worker, late=True), needs="pair"
    )


def _others() -> Iterator[Case]:
    yield Case("api killed between record and workflow", kill_between_record_and_work)
    yield Case("everything killed at once", kill_everything)
    yield Case("a video that kills its stage every time", poison, expected="FAILED")
    yield Case("a cancelled video whose worker is killed", kill_while_cancelling, expected="CANCELLED")
    yield Case("PostgreSQL killed under load", partial(database_away, hard=True), needs="postgresql")
    yield Case("PostgreSQL restarted under load", partial(database_away, hard=False), needs="postgresql")
    yield Case(f"S3 server away for {S3_AWAY_SECONDS:g} s", s3_away, needs="s3")
    yield Case("disk full for a while", disk_full, needs="disk")
    yield Case("disk full for good", disk_full_for_good, expected="FAILED", needs="disk for good")


def kill_in_middle(target: str, stage: str, stack: Stack) -> list[str]:
    stack.members[target].wait()
    stack.holds.put(stage, "middle")
    video_id = stack.create()
    held = stack.journal.wait(_at(video_id, stage, "middle"))
    stack.members[target].kill()
    if target.startswith("worker"):  # its call is cut: the stage must stop by itself, held as it is
        stack.journal.wait(lambda entry: entry.attempt == held.attempt and entry.point == "stopped")
    stack.holds.lift(stage, "middle")
    stack.members[target].launch()
    return [video_id]


def kill_at_boundary(target: str, stage: str, after_seconds: float, stack: Stack) -> list[str]:
    """After `stage` has finished; without one, after the video was accepted."""
    stack.members[target].wait()
    video_id = stack.create()
    if stage:
        stack.journal.wait(_at(video_id, stage, "finish"))
    time.sleep(after_seconds)
    stack.members[target].kill()
    stack.members[target].launch()
    return [video_id]


def kill_one_of_two(stage: str, stack: Stack) -> list[str]:
    """The one that has the stage; it stays dead until the other has brought the video to its end."""
    stack.holds.put(stage, "middle")
    video_id = stack.create()
    held = stack.journal.wait(_at(video_id, stage, "middle"))
    _worker_with(stack, held.attempt).kill()
    stack.holds.lift(stage, "middle")
    stack.wait(video_id, 90.0)
    return [video_id]


def frozen_worker(stack: Stack, *, late: bool = False) -> list[str]:
    """Taken for dead, it comes back when another worker has made its stage: it must change nothing.

    `late`: its own attempt has ended with a result, too, which it then wants to write down. Else its attempt must have
    been stopped without it.
    """
    stack.holds.put("denoise", "middle", "denoise-1-")
    video_id = stack.create()
    held = stack.journal.wait(_at(video_id, "denoise", "middle"))
    worker = _worker_with(stack, held.attempt)
    # Not in the middle of a write: SQLite's one lock would be frozen with it, and nobody could write until it thaws.
    time.sleep(FREEZE_AFTER_SECONDS)
    worker.freeze()
    try:
        if late:
            stack.holds.lift("denoise", "middle")
        stack.journal.wait(
            lambda e: (e.video_id, e.stage, e.point) == (video_id, "denoise", "finish") and e.attempt != held.attempt
        )
        ended = "finish" if late else "stopped"
        stack.journal.wait(lambda e: e.attempt == held.attempt and e.point == ended)
    finally:
        worker.thaw()
    return [video_id]


def kill_between_record_and_work(stack: Stack) -> list[str]:
    """Temporal does not answer, so the api hangs between the two, and dies. The caller's repeat is the same video."""
    request_id, created = str(uuid.uuid4()), []
    stack.members["api-0"].wait()
    stack.members["temporal"].freeze()
    caller = threading.Thread(target=lambda: created.append(stack.try_create("api-0", request_id)))
    caller.start()
    time.sleep(2.0)  # recorded within milliseconds; the start of its work waits 5 s
    stack.members["api-0"].kill()
    caller.join()
    stack.members["temporal"].thaw()
    assert created == [""]
    video_id = stack.create(request_id)
    stack.members["api-0"].launch()
    return [video_id]


def kill_everything(stack: Stack) -> list[str]:
    stack.holds.put("denoise", "middle")
    video_ids = [stack.create() for _ in range(2)]
    stack.journal.wait(_at(video_ids[0], "denoise", "middle"))
    for member in stack.members.values():
        member.kill()
    stack.holds.lift("denoise", "middle")
    if stack.postgres:
        stack.postgres.kill()
        stack.postgres.start()
    stack.start(["temporal", *SERVICES])
    stack.heal()
    return video_ids


def poison(stack: Stack) -> list[str]:
    """Whatever renders it dies. Others are made all the same, and it fails with the cause of every attempt."""
    stack.holds.put("render", "begin", die=True)
    video_id = stack.create()
    deadline = time.monotonic() + 120.0
    while (video := stack.wait(video_id, 0.2)) and not video.HasField("end_time") and time.monotonic() < deadline:
        if not stack.members["muxer"].is_alive():
            stack.members["muxer"].launch()
    stack.holds.lift("render", "begin")
    assert video is not None
    reasons = [attempt.reason for attempt in video.error.attempts]
    assert reasons.count("STAGE_LOST") == 5, reasons
    return [video_id]


def kill_while_cancelling(stack: Stack) -> list[str]:
    stack.holds.put("denoise", "middle")
    video_id = stack.create()
    stack.journal.wait(_at(video_id, "denoise", "middle"))
    stack.cancel(video_id)
    stack.members["worker-0"].kill()
    stack.holds.lift("denoise", "middle")
    stack.start(["worker-0"])
    return [video_id]


def database_away(stack: Stack, *, hard: bool) -> list[str]:
    assert stack.postgres is not None
    video_ids = _load(stack)
    stack.postgres.kill() if hard else stack.postgres.stop()
    time.sleep(DATABASE_AWAY_SECONDS)
    stack.postgres.start()
    return [*video_ids, stack.create()]


def s3_away(stack: Stack) -> list[str]:
    assert stack.s3 is not None
    video_ids = _load(stack)
    stack.s3.kill()
    time.sleep(S3_AWAY_SECONDS)
    stack.s3.start()
    return [*video_ids, stack.create()]


def disk_full(stack: Stack) -> list[str]:
    """Nothing more can be written in the middle of a stage, neither artifacts nor SQLite's records."""
    video_id, filler = _with_a_full_disk(stack)
    time.sleep(DISK_FULL_SECONDS)
    filler.unlink()
    return [video_id, stack.create()]


def disk_full_for_good(stack: Stack) -> list[str]:
    """The records are elsewhere; the stage is given up and every attempt says why."""
    video_id, filler = _with_a_full_disk(stack)
    video = stack.wait(video_id, 60.0)
    filler.unlink()
    assert video is not None
    assert {attempt.reason for attempt in video.error.attempts} == {"STORE_UNAVAILABLE"}, video.error
    return [video_id]


def _with_a_full_disk(stack: Stack) -> tuple[str, Path]:
    assert stack.disk is not None
    stack.holds.put("denoise", "middle")
    video_id = stack.create()
    stack.journal.wait(_at(video_id, "denoise", "middle"))
    filler = stack.disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * 65536)
    stack.holds.lift("denoise", "middle")
    return video_id, filler


def _load(stack: Stack) -> list[str]:
    """Videos in all stages."""
    video_ids = []
    for _ in range(LOAD):
        video_ids.append(stack.create())
        time.sleep(0.1)
    return video_ids


def _at(video_id: str, stage: str, point: str) -> Callable[[Entry], bool]:
    return lambda entry: (entry.video_id, entry.stage, entry.point) == (video_id, stage, point)


def _worker_with(stack: Stack, attempt: str) -> Member:
    (worker,) = (member for member in stack.of_role("worker") if attempt in member.log.read_text())
    return worker
