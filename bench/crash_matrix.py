"""python -m bench.crash_matrix: kills what makes videos, in every place, and writes what came of the videos.

Writes bench/results/crash_matrix.json; the exit status is 1 when a promise was broken: an accepted video that did not
end, or ended otherwise than it must, a finished stage that was repeated, an attempt that went on without its video,
credits that do not add up.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.crash.cases import Case, every_case
from bench.crash.facts import Facts, facts_of
from bench.crash.stack import Plan, Stack, running_stack
from bench.results import Figure, Results, commit, write

DATABASES = ("sqlite", "postgresql")
PLANS: dict[str, Plan] = {
    "disk for good": Plan("", small_disk=True, settings={"STAGE_AWAY_ATTEMPTS": "4"}),
    "disk": Plan("", small_disk=True, records_on_it=True),
    "s3": Plan("", store="s3"),
    "postgresql": Plan(""),
    "pair": Plan("", workers=2),
    "plain": Plan(""),
}
"""The smallest first, so that a run whose time is short has some of each."""


@dataclass
class Outcome:
    """`broken`: the case itself did not come about, for example because a stage never got to where it was to be hit."""

    case: str
    database: str
    seconds: float = 0.0
    videos: int = 0
    facts: Facts = field(default_factory=Facts)
    broken: str = ""

    @property
    def kept(self) -> bool:
        return self.facts.kept and not self.broken


def run(cases: list[Case], database: str, keep: bool = False, until: float = math.inf) -> Iterator[Outcome]:
    """One stack for all cases that need the same. None begins after `until`, in time.monotonic()'s seconds."""
    for needs, plan in PLANS.items():
        own = [case for case in cases if case.needs == needs]
        if not own or time.monotonic() >= until or not _fits(own[0], database):
            continue
        folder = Path(tempfile.mkdtemp(prefix="soundstage-crash-"))
        try:
            with running_stack(replace(plan, database=database), folder) as stack:
                for case in own:
                    if time.monotonic() < until:
                        yield strike(case, database, stack)
        except PermissionError as error:
            yield from (Outcome(case.name, database, broken=str(error)) for case in own)
        finally:
            if keep:
                print(f"logs and journals: {folder}", flush=True)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _fits(case: Case, database: str) -> bool:
    return case.needs != "postgresql" or database == "postgresql"


def strike(case: Case, database: str, stack: Stack) -> Outcome:
    outcome, began = Outcome(case.name, database), time.monotonic()
    try:
        video_ids = case.strike(stack)
        outcome.videos = len(video_ids)
        outcome.facts = facts_of(stack, video_ids, case.expected)
    except (AssertionError, OSError, RuntimeError, ValueError) as error:  # TimeoutError is an OSError
        outcome.broken = f"{type(error).__name__}: {error}"
    finally:
        stack.repair()
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def results_of(told: list[dict[str, Any]], left_out: Sequence[str] = ()) -> Results:
    def all_of(name: str) -> int:
        return sum(len(case.get(name, [])) for case in told)

    figures = [
        Figure("cases", len(told), "count"),
        *(Figure(f"cases_{one}", sum(case["database"] == one for case in told), "count") for one in DATABASES),
        Figure("cases_that_broke_a_promise", sum(not case["kept"] for case in told), "count", "0"),
        Figure("cases_not_brought_about", sum("broken" in case for case in told), "count", "0"),
        Figure("videos_accepted", sum(case.get("videos", 0) for case in told), "count"),
        Figure("videos_lost", all_of("lost"), "count", "0"),
        Figure("videos_that_ended_otherwise", all_of("unexpected"), "count", "0"),
        Figure("finished_stages_repeated", all_of("repeated"), "count", "0"),
        Figure("orphans", all_of("orphans"), "count", "0"),
        Figure("credits_that_do_not_add_up", all_of("unsettled"), "count", "0"),
        Figure("stages_finished_but_not_recorded", all_of("unrecorded"), "count"),
    ]
    return Results(figures, {"cases": told, **({"left_out": sorted(left_out)} if left_out else {})})


def told_of(outcome: Outcome) -> dict[str, Any]:
    """What is empty is left out."""
    told = {**asdict(outcome), **asdict(outcome.facts), "kept": outcome.kept, "commit": commit()}
    del told["facts"]
    return {name: value for name, value in told.items() if value not in ("", [], {})}


def merged(path: Path, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `path` holds of other cases, and `told`: a case that was run again replaces what it said before."""
    before = json.loads(path.read_text())
    kept = {
        (case["case"], case["database"]): {"commit": before["commit"], **case} for case in before["details"]["cases"]
    }
    return list({**kept, **{(case["case"], case["database"]): case for case in told}}.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.crash_matrix", description=__doc__.split("\n")[0])
    parser.add_argument("--database", choices=DATABASES, help="one of the two; without it, both")
    parser.add_argument("--only", default="", help="cases whose name holds this; they replace what was written of them")
    parser.add_argument("--seed", type=int, default=7, help="of the moments at which boundaries are hit")
    parser.add_argument("--keep", action="store_true", help="keep the logs and journals")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no case after this time")
    arguments = parser.parse_args()
    cases = [case for case in every_case(arguments.seed) if arguments.only in case.name]
    if arguments.minutes < math.inf:  # what is left out should not be the last stages
        random.Random(arguments.seed).shuffle(cases)
    began = time.monotonic()
    until = began + 60 * arguments.minutes
    databases = [arguments.database] if arguments.database else DATABASES
    with ThreadPoolExecutor(len(databases)) as pool:  # most of the time is waiting
        outcomes = [
            one for some in pool.map(lambda d: _run_all(cases, d, arguments.keep, until), databases) for one in some
        ]
    told, path = [told_of(outcome) for outcome in outcomes], arguments.out / "crash_matrix.json"
    if (arguments.only or arguments.database) and path.exists():
        told = merged(path, told)
    ran = {(outcome.case, outcome.database) for outcome in outcomes}
    left_out = [
        f"{case.name}, {d}" for d in databases for case in cases if _fits(case, d) and (case.name, d) not in ran
    ]
    written = write("crash_matrix", results_of(told, left_out), arguments.out)
    print(f"{time.monotonic() - began:.0f} s, {len(left_out)} cases left out; written to {written}")
    sys.exit(0 if all(outcome.kept for outcome in outcomes) else 1)


def _run_all(cases: list[Case], database: str, keep: bool, until: float) -> list[Outcome]:
    outcomes = []
    for outcome in run(cases, database, keep, until):
        outcomes.append(outcome)
        print(f"{'kept  ' if outcome.kept else 'BROKEN'} {outcome.seconds:5.1f} s  {_line(outcome)}", flush=True)
    return outcomes


def _line(outcome: Outcome) -> str:
    plain = ("case", "database", "seconds", "kept", "videos", "commit")
    told = {name: value for name, value in told_of(outcome).items() if name not in plain}
    return f"{outcome.database:10} {outcome.case}  {told}"


if __name__ == "__main__":
    main()
