"""Each alert as Prometheus evaluates it, by `promtool test rules`: raised after its time, silent where it should be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_monitoring import RULES, SCOPE, alerts
from tools.promtool import promtool

PROMTOOL_SECONDS = 120
Labels = dict[str, str]
ENDED = "soundstage_gateway_videos_ended_total"
CALLS = (
    'grpc_server_handled_total{grpc_service="soundstage.video.v1.VideoService",grpc_method="GetVideo",grpc_code="%s"}'
)
OLDEST = 'soundstage_gateway_oldest_queued_seconds{model="diorama",priority="%s",pod="%s"}'
ADMITTED = "soundstage_gateway_admitted_videos_total"
READ = 'soundstage_gateway_queue_read_timestamp_seconds{pod="%s"}'
ATTEMPTS = 'soundstage_gateway_stage_attempts_total{stage="%s",outcome="%s"}'
GATE = 'soundstage_muxer_gate_failures_total{check="%s"}'
SCALER = 'keda_scaler_detail_errors_total{scaledObject="%s",metric="s0-postgresql"}'
CHECKPOINT = 'soundstage_denoiser_oldest_checkpoint_seconds{pod="%s"}'
WINDOWS = ("1h", "6h", "1d", "3d")
NAMESPACE = "video"


@dataclass(frozen=True)
class Raised:
    """One alert at one moment: what its labels and its description are, apart from what the rule says itself."""

    labels: Labels
    says: str


@dataclass(frozen=True)
class Case:
    """`series`: samples a minute, in promtool's notation, of our namespace where they name none.

    `raised`: what there is at each moment, and nothing else.
    """

    alert: str
    what: str
    series: Mapping[str, str]
    raised: Mapping[str, Sequence[Raised]]

    def __str__(self) -> str:
        return f"{self.alert}: {self.what}"


BUDGETS = {
    "SoundstageVideosFail": "the budget of 30 days (99 % of the videos that are not cancelled succeed)",
    "SoundstageCallsFail": "the budget of 30 days (99.9 % of the calls are answered)",
}
FACTORS = dict(zip(WINDOWS, ("14.4", "6", "3", "1"), strict=True))
QUIET: dict[str, list[Raised]] = {moment: [] for moment in ("10m", "40m", "62m", "120m", "185m")}
"""After the time of each window."""


def burning(alert: str, share: str, *windows: str) -> list[Raised]:
    spent = "{share} over {window}: {budget} is spent {factor} times as fast as it lasts."
    return [
        Raised(
            {"window": window}, spent.format(share=share, window=window, budget=BUDGETS[alert], factor=FACTORS[window])
        )
        for window in windows
    ]


def burn_rates(alert: str, bad: str, good: str, shares: Sequence[float], enough: int) -> Iterator[Case]:
    """`shares`, in percent: one at which every window burns, then each time one window less, at last none."""

    def case(what: str, failed: str, well: str, raised: Mapping[str, Sequence[Raised]]) -> Case:
        return Case(alert, what, {bad: failed, good: well}, raised)

    def steadily(share: float) -> tuple[str, str]:
        failed = round(share * 100)
        return f"0+{failed}x300", f"0+{10_000 - failed}x300"

    def at(*windows: str) -> list[Raised]:
        return burning(alert, f"{shares[0]:g}%", *windows)

    # There are rates from the second sample on, at 1m. Each window is raised when its `for` is over, and not before.
    begins = {
        "2m": at(),
        "3m": at("1h"),
        "15m": at("1h"),
        "16m": at("1h", "6h"),
        "60m": at("1h", "6h"),
        "61m": at("1h", "6h", "1d"),
        "180m": at("1h", "6h", "1d"),
        "181m": at(*WINDOWS),
    }
    yield case("each window after its time", *steadily(shares[0]), begins)
    for index, share in enumerate(shares[1:], start=1):
        yield case(f"{share:g} %", *steadily(share), {"185m": burning(alert, f"{share:g}%", *WINDOWS[index:])})
    failed = round(shares[0] * 100)
    # The long windows still see it at 20m and 45m: the short ones of 5 and 30 minutes say that it is over.
    over = {"10m": at("1h"), "45m": [], "59m": []}
    yield case(
        "over after 12 minutes",
        f"0+{failed}x12 {failed * 12}+0x288",
        f"0+{10_000 - failed}x12 {120_000}+10000x288",
        over,
    )
    yield case("too few, although they are all", f"0x5 {enough - 1}x295", "0x300", QUIET)
    yield case("just enough", f"0x5 {enough}x295", "0x300", {"7m": [], "8m": burning(alert, "100%", "1h"), "12m": []})
    yield case("all is well", "0x300", "0+100x300", QUIET)
    yield case("nobody is there", "0x300", "0x300", QUIET)


def queue(priority: str, *pods: str) -> dict[str, str]:
    """What each pod says of the longest wait."""
    return {OLDEST % (priority, f"worker-{index}"): samples for index, samples in enumerate(pods)}


def stalled(age: str) -> Raised:
    says = f"A video of diorama, STANDARD, has waited for {age}, and none was given a place for 10 minutes."
    return Raised({"model": "diorama", "priority": "STANDARD"}, says)


GROWN_OLD = Raised(
    {"model": "diorama", "priority": "STANDARD"},
    "A video of diorama, STANDARD, has waited for 46m 0s: there is more work than the largest fleet does, or the fleet "
    "does not grow.",
)
NO_WORKERS = Raised(
    {},
    "Nobody runs videos, Prometheus reaches no worker, or the database is away. The queue is not seen, so that an HPA "
    "does not scale either.",
)
STAGE_FAILS = Raised(
    {"stage": "denoise"}, "30% of the attempts of denoise did not succeed. Videos are tried again, and take longer."
)
BAD_FILES = Raised({"check": "duration"}, "4 files failed the check duration within an hour.")
STALE = Raised(
    {"pod": "denoiser-0"},
    "The newest checkpoint of a video at work on denoiser-0 is 16m 0s old: so much work would be lost with the pod.",
)
NO_SCALING = Raised({"scaledObject": "soundstage-denoiser"}, "soundstage-denoiser stays at the replicas that it has.")


def attempts(outcome: str, failed: str, finished: str) -> dict[str, str]:
    return {ATTEMPTS % ("denoise", outcome): failed, ATTEMPTS % ("denoise", "FINISHED"): finished}


CASES = [
    *burn_rates(
        "SoundstageVideosFail", f'{ENDED}{{state="FAILED"}}', f'{ENDED}{{state="SUCCEEDED"}}', (20, 8, 4, 2, 0.5), 3
    ),
    Case(
        "SoundstageVideosFail",
        "cancelled ones do not count",
        {f'{ENDED}{{state="CANCELLED"}}': "0+100x300", f'{ENDED}{{state="SUCCEEDED"}}': "0+1x300"},
        QUIET,
    ),
    Case("SoundstageVideosFail", "of others", {f'{ENDED}{{namespace="other",state="FAILED"}}': "0+9x300"}, QUIET),
    *burn_rates("SoundstageCallsFail", CALLS % "INTERNAL", CALLS % "OK", (2, 1, 0.4, 0.2, 0.05), 5),
    Case("SoundstageCallsFail", "the callers' own", {CALLS % "NOT_FOUND": "0+9x300", CALLS % "OK": "0+1x300"}, QUIET),
    Case(
        "SoundstageCallsFail",
        "watches whose callers look no longer",
        {(CALLS % "DEADLINE_EXCEEDED").replace("GetVideo", "WatchVideo"): "0+9x300", CALLS % "OK": "0+1x300"},
        QUIET,
    ),
    Case(
        "SoundstageQueueStalls",
        "another release begins",
        {**queue("STANDARD", "0+60x40"), ADMITTED: "5x40", f'{ADMITTED}{{namespace="other"}}': "0+1x40"},
        {"20m": [], "21m": [stalled("21m 0s")]},
    ),
    Case(
        "SoundstageQueueStalls",
        "nobody begins",
        {**queue("STANDARD", "0+60x40", "0+30x40"), ADMITTED: "5x40"},
        {"20m": [], "21m": [stalled("21m 0s")]},
    ),
    Case(
        "SoundstageQueueStalls",
        "one began",
        {**queue("STANDARD", "0+60x40"), ADMITTED: "5x20 6x20"},
        {"21m": [], "29m": [], "36m": [stalled("36m 0s")]},
    ),
    Case("SoundstageQueueStalls", "only BATCH", {**queue("BATCH", "0+60x40"), ADMITTED: "5x40"}, {"40m": []}),
    Case("SoundstageQueueStalls", "nobody waits", {**queue("STANDARD", "0x40"), ADMITTED: "5x40"}, {"40m": []}),
    Case("SoundstageQueueGrowsOld", "ever older", queue("STANDARD", "0+60x60"), {"45m": [], "46m": [GROWN_OLD]}),
    Case("SoundstageQueueGrowsOld", "it began", queue("STANDARD", "0+60x40 0x60"), {"46m": [], "99m": []}),
    Case("SoundstageQueueGrowsOld", "only BATCH", queue("BATCH", "0+60x60"), {"60m": []}),
    Case(
        "SoundstageNoWorkers",
        "it does not read any more",
        {READ % "worker": "0+60x10 600x30", READ % "api": "0x40"},
        {"17m": [], "18m": [NO_WORKERS]},
    ),
    Case("SoundstageNoWorkers", "none was ever seen", {}, {"4m": [], "5m": [NO_WORKERS]}),
    Case(
        "SoundstageNoWorkers",
        "another one reads",
        {READ % "worker": "0+60x10 600x30", READ % "other": "0+60x40"},
        {"18m": [], "40m": []},
    ),
    Case(
        "SoundstageNoWorkers",
        "another release's reads",
        {READ % "worker": "0+60x10 600x30", READ.replace("{", '{namespace="other",') % "worker": "0+60x40"},
        {"17m": [], "18m": [NO_WORKERS]},
    ),
    Case("SoundstageNoWorkers", "nothing is queued", {READ % "worker": "0+60x40"}, {"6m": [], "40m": []}),
    Case(
        "SoundstageNoWorkers",
        "it is back",
        {READ % "worker": "0+60x10 600x6 1020+60x20"},
        {"16m": [], "18m": [], "30m": []},
    ),
    Case(
        "SoundstageStageFails",
        "three of ten",
        attempts("INTERNAL", "0+3x60", "0+7x60"),
        {"15m": [], "16m": [STAGE_FAILS]},
    ),
    Case("SoundstageStageFails", "one of ten", attempts("INTERNAL", "0+1x60", "0+9x60"), {"60m": []}),
    Case("SoundstageStageFails", "nobody's fault", attempts("SUPERSEDED", "0+9x60", "0+1x60"), {"60m": []}),
    Case(
        "SoundstageStageFails",
        "the only attempt",
        attempts("INTERNAL", "0x10 1x50", "0x60"),
        {"24m": [], "25m": [], "26m": [], "40m": []},
    ),
    Case(
        "SoundstageFilesFailTheGate",
        "the fourth, for as long as an hour",
        {GATE % "duration": "0 1 2 3 4x120"},
        {"3m": [], "4m": [BAD_FILES], "65m": []},
    ),
    Case("SoundstageFilesFailTheGate", "three", {GATE % "duration": "0 1 2 3x120"}, {"10m": [], "60m": []}),
    Case(
        "SoundstageCheckpointsStale",
        "none for a quarter of an hour, on one of two",
        {CHECKPOINT % "denoiser-0": "0+60x30", CHECKPOINT % "denoiser-1": "5x30"},
        {"10m": [], "15m": [], "16m": [STALE]},
    ),
    Case(
        "SoundstageCheckpointsStale",
        "one came in time",
        {CHECKPOINT % "denoiser-0": "0+60x14 0+60x12"},
        {"14m": [], "16m": [], "26m": []},
    ),
    Case("SoundstageCheckpointsStale", "nothing steps", {CHECKPOINT % "denoiser-0": "0x60"}, {"60m": []}),
    Case(
        "SoundstageScalerFails",
        "error after error",
        {SCALER % "soundstage-denoiser": "0+1x30"},
        {"10m": [], "11m": [NO_SCALING]},
    ),
    Case("SoundstageScalerFails", "one error", {SCALER % "soundstage-denoiser": "0 1x30"}, {"10m": [], "11m": []}),
    Case("SoundstageScalerFails", "of another release", {SCALER % "video2-denoiser": "0+1x30"}, {"30m": []}),
    Case("SoundstageScalerFails", "of somebody else", {SCALER % "a-shop": "0+1x30"}, {"30m": []}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_raised_and_when(case: Case, tmp_path: Path) -> None:
    said = asked(case, tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_is_seen_to_begin_and_to_stay_silent() -> None:
    """Those of one name are told apart by their window."""
    rules = {(alert["alert"], alert["labels"].get("window", "")) for alert in alerts()}
    begin, silent = set(), set()
    for case in CASES:
        moments = [
            {(case.alert, raised.labels.get("window", "")) for raised in found} for found in case.raised.values()
        ]
        begin |= {one for before, after in pairwise(moments) for one in after - before}
        silent |= {one for one in rules if one[0] == case.alert and one not in set().union(*moments)}
    assert rules - begin == set()
    assert rules - silent == set()


def test_promtool_sees_mistakes(tmp_path: Path) -> None:
    (case, *_) = (one for one in CASES if one.alert == "SoundstageScalerFails")
    late = replace(case, raised={"10m": [NO_SCALING]})
    other_words = replace(case, raised={"11m": [replace(NO_SCALING, says="something else")]})
    assert [asked(one, tmp_path).returncode for one in (late, other_words)] == [1, 1]


def scoped(series: str) -> str:
    name, _, labels = series.partition("{")
    return series if "namespace=" in labels else f'{name}{{namespace="{NAMESPACE}"' + (f",{labels}" if labels else "}")


def asked(case: Case, folder: Path) -> subprocess.CompletedProcess[str]:
    rules = folder / "rules.yaml"
    rules.write_text(RULES.read_text().replace("NAMESPACE", NAMESPACE).replace("FULLNAME", "soundstage"))
    groups = [group["name"] for group in yaml.safe_load(RULES.read_text())["groups"]]
    tested = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "group_eval_order": groups,
        "tests": [
            {
                "name": str(case),
                "interval": "1m",
                "input_series": [{"series": scoped(one), "values": values} for one, values in case.series.items()],
                "alert_rule_test": [
                    {
                        "eval_time": moment,
                        "alertname": case.alert,
                        "exp_alerts": [expected(case.alert, one) for one in raised],
                    }
                    for moment, raised in case.raised.items()
                ],
            }
        ],
    }
    file = folder / "test.yaml"
    file.write_text(json.dumps(tested))  # which is YAML, too
    command = [str(promtool()), "test", "rules", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PROMTOOL_SECONDS)


def expected(alert: str, raised: Raised) -> dict[str, Any]:
    window = raised.labels.get("window")
    (rule,) = (one for one in alerts() if one["alert"] == alert and one["labels"].get("window") == window)
    ours = {"namespace": NAMESPACE} if SCOPE in rule["expr"] else {}
    return {
        "exp_labels": rule["labels"] | raised.labels | ours,
        "exp_annotations": rule["annotations"] | {"description": raised.says},
    }
