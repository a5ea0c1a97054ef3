"""Trains Diorama from nothing, stage by stage, each in a process of its own.

    python -m training                  about five and a half hours on two cores that do nothing else
    python -m training --hours 1        the same with less training: worse pictures
    python -m training --clips 63 --hours 0.1    every stage with next to no training, to see that it works
    python -m training --dry-run        says what would be done

Stopped at any point, the same command goes on from there: rendered clips stay, training stages go on from their
checkpoints, and what was finished is noted in ``training/cache/done.json``. Remove ``training/cache`` to begin anew.
Ctrl-C and SIGTERM end the stage too, and no second training begins beside one that is at work.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.scenes import FAMILIES

CACHE = Path("training/cache")
CLIPS = 2400
FIT_CLIPS, DECODER_CLIPS = 10, 280
"""Clips that the linear map is fitted on, of each family, and that the decoder is trained on: fewer where fewer are
rendered for the rest."""
MINUTES = {"transformer": 90.0, "transformer_2": 150.0, "decoder": 30.0, "sound": 30.0}
"""What each trained part takes by default."""
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    "MALLOC_ARENA_MAX": "1",
}
"""Freed memory stays with the process. Otherwise each large temporary array is fetched from the system page by page and
given back, and rendering takes twice as long."""


@dataclass(frozen=True)
class Plan:
    """How much is done: rendered clips, rendering processes, minutes of each trained part."""

    clips: int
    processes: int
    minutes: dict[str, float]


@dataclass(frozen=True)
class Stage:
    """One command; it need not be run again once it was done with an ``amount`` (clips, minutes) as large."""

    name: str
    command: tuple[str, ...]
    amount: float
    outdates: tuple[str, ...] = ()
    """Stages that are to be done again after it."""


def stages(plan: Plan) -> list[Stage]:
    """In the order of their needs: what is rendered is encoded with the fitted map, the rest reads the rendered clips.

    The residual decoder may come after the transformer: it changes how latents look, not what they are.
    """
    layout, detail, decoder, sound = (plan.minutes[name] for name in MINUTES)
    clips, processes = str(plan.clips), str(plan.processes)
    of_each, of_decoder = min(FIT_CLIPS, plan.clips // len(FAMILIES)), min(DECODER_CLIPS, plan.clips)
    return [
        Stage("fit", ("training.autoencoder", "fit", "--clips", str(of_each)), 1),
        Stage("render", ("training.render", "--clips", clips, "--processes", processes), plan.clips),
        Stage("camera", ("training.camera",), 1),
        Stage("transformer", ("training.transformer", "train", "--minutes", str(layout)), layout, ("export",)),
        Stage(
            "transformer_2",
            ("training.transformer", "train", "--expert", "transformer_2", "--minutes", str(detail)),
            detail,
            ("export",),
        ),
        Stage(
            "decoder", ("training.autoencoder", "train", "--minutes", str(decoder), "--clips", str(of_decoder)), decoder
        ),
        Stage("sound", ("training.sound", "--minutes", str(sound), "--clips", clips, "--resume"), sound),
        Stage("export", ("training.transformer", "export"), 1),
    ]


class Done:
    """What was finished, by stage, with the amount; kept in a file."""

    def __init__(self, cache: Path) -> None:
        self._path = cache / "done.json"
        self._clips = cache / "clips"

    def covers(self, stage: Stage) -> bool:
        # Clips hold latents of the map they were encoded with: another fit beside them would spoil the training.
        if stage.name == "fit" and any(self._clips.glob("*.npz")):
            return True
        return self._read().get(stage.name, 0.0) >= stage.amount

    def note(self, stage: Stage) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".tmp")
        kept = {name: amount for name, amount in self._read().items() if name not in stage.outdates}
        partial.write_text(json.dumps(kept | {stage.name: stage.amount}, indent=2) + "\n")
        partial.replace(self._path)

    def _read(self) -> dict[str, float]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}


def call(command: Sequence[str]) -> int:
    """Runs a stage in a process group of its own, so that whatever ends this process early ends all of the stage.

    It inherits the lock, and holds it as long as it lives. Returns its exit status.
    """
    with (
        alone(CACHE) as lock,
        subprocess.Popen(command, env=os.environ | ALLOCATOR, process_group=0, pass_fds=(lock,)) as stage,
    ):
        try:
            return stage.wait()
        except KeyboardInterrupt:
            os.killpg(stage.pid, signal.SIGTERM)
            raise


@contextmanager
def alone(cache: Path) -> Iterator[int]:
    """The descriptor of a lock on the cache. Ends the program where another training holds it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another training is at work in {cache}") from None
        yield file.fileno()


def run(plan: Plan, done: Done, *, dry_run: bool = False) -> int:
    """Runs what is not done yet. Returns the exit status of the first stage that fails, or 0."""
    for stage in stages(plan):
        command = (sys.executable, "-u", "-m", *stage.command)
        if done.covers(stage):
            print(f"{stage.name}: done before", flush=True)
            continue
        print(f"{stage.name}: python -m {' '.join(stage.command)}", flush=True)
        if dry_run:
            continue
        status = call(command)
        if status:
            print(f"{stage.name} failed, see above; the same command goes on from here", file=sys.stderr)
            return status
        done.note(stage)
    return 0


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, help="of the four trained parts together, shared out as by default")
    for name, minutes in MINUTES.items():
        parser.add_argument(f"--{name}-minutes", type=float, help=f"default {minutes:g}, or its share of --hours")
    parser.add_argument("--clips", type=int, default=CLIPS, help=f"clips to render; default {CLIPS}")
    parser.add_argument("--processes", type=int, default=2, help="that render; default 2")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")
    arguments = parser.parse_args(given)
    plan = Plan(arguments.clips, arguments.processes, _minutes(arguments))
    if min(plan.clips, plan.processes, *plan.minutes.values()) <= 0:
        parser.error("give more than 0 of each: hours, minutes, clips and processes")
    if plan.clips <= len(FAMILIES):
        parser.error(f"give more than {len(FAMILIES)} clips: the sound model keeps the first of each family aside")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(ending, signal.default_int_handler)
    try:
        return run(plan, Done(CACHE), dry_run=arguments.dry_run)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _minutes(arguments: argparse.Namespace) -> dict[str, float]:
    scale = 1.0 if arguments.hours is None else 60 * arguments.hours / sum(MINUTES.values())
    own = {name: getattr(arguments, f"{name}_minutes") for name in MINUTES}
    return {name: round(scale * minutes, 2) if own[name] is None else own[name] for name, minutes in MINUTES.items()}


if __name__ == "__main__":
    raise SystemExit(main())
