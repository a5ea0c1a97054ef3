"""What different metrics make of a fleet of GPUs: waiting times and GPU-hours, simulated; up to 10,000 GPUs.

Fleet, cold starts and autoscaler are in bench/fleet. All metrics have the same behaviour, bounds and videos.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.fleet.autoscaler import Autoscaler, Behaviour, of_pods, of_total
from bench.fleet.fleet import Fleet, Outcome
from bench.fleet.traces import HOUR, TRACES, make, mean_seconds
from bench.options import Options
from bench.results import Figure, Results

DOCS = Path(__file__).resolve().parent.parent / "docs"
FLEETS = {10: (8 * HOUR, 1.0), 100: (8 * HOUR, 1.0), 10_000: (2 * HOUR, 10.0)}
"""GPUs at most -> how long, and how much longer each video takes. The largest fleet runs larger models."""
SWEPT_FLEET, SWEPT_TRACES = 100, ("daily", "spiky")
LEAST_SHARE = 0.02
CLEAR_SECONDS, HEADROOM = 60.0, 0.1
BUSY_CPU, IDLE_CPU, CPU_TARGET = 0.30, 0.03, 0.70
BUSY_GPU, IDLE_GPU, GPU_TARGET = 0.95, 0.0, 0.80
PENDING_TARGET = 0.5


@dataclass(frozen=True)
class Case:
    fleet: int
    trace: str
    metric: str
    clear_seconds: float = CLEAR_SECONDS
    headroom: float = HEADROOM
    behaviour: Behaviour = field(default_factory=Behaviour)
    seed: int = 0


def should_be_at_work(fleet: Fleet, case: Case) -> int:
    """Ours (docs/decisions/0018)."""
    return of_total(len(fleet.busy) + fleet.queued_share, 1 / (1 + case.headroom), fleet.replicas)


def seconds_of_work(fleet: Fleet, case: Case) -> int:
    """Estimated seconds, queued and running, one mean video for each replica."""
    scale = FLEETS[case.fleet][1]
    return of_total(fleet.queued_estimate + fleet.running_estimate, mean_seconds(scale), fleet.replicas)


def queue_length(fleet: Fleet, _: Case) -> int:
    return of_total(len(fleet.queue), 1.0, fleet.replicas)


def queued_and_running(fleet: Fleet, _: Case) -> int:
    return of_total(len(fleet.queue) + len(fleet.busy), 1.0, fleet.replicas)


def triton_pending(fleet: Fleet, _: Case) -> int:
    """Two videos are let in for each pod that is ready, so that at most one waits in Triton for it."""
    return of_pods(min(len(fleet.queue), fleet.ready), PENDING_TARGET, fleet.ready, len(fleet.starting))


def cpu(fleet: Fleet, _: Case) -> int:
    return of_pods(_used(fleet, BUSY_CPU, IDLE_CPU), CPU_TARGET, fleet.ready, len(fleet.starting))


def gpu(fleet: Fleet, _: Case) -> int:
    return of_pods(_used(fleet, BUSY_GPU, IDLE_GPU), GPU_TARGET, fleet.ready, len(fleet.starting))


def _used(fleet: Fleet, busy: float, idle: float) -> float:
    at_work = min(len(fleet.busy), fleet.ready)
    return at_work * busy + (fleet.ready - at_work) * idle


METRICS: dict[str, Callable[[Fleet, Case], int]] = {
    "should be at work": should_be_at_work,
    "seconds of work": seconds_of_work,
    "queued and running": queued_and_running,
    "queue length": queue_length,
    "Triton pending": triton_pending,
    "GPU utilisation": gpu,
    "CPU utilisation": cpu,
}
SWEEP: dict[str, dict[str, Any]] = {
    **{f"clearSeconds {value:g}": {"clear_seconds": value} for value in (15.0, 30.0, 60.0, 120.0, 300.0)},
    **{f"headroomPercent {value * 100:g}": {"headroom": value} for value in (0.0, 0.1, 0.25)},
    **{
        f"scaleDown.stabilizationSeconds {value:g}": {"behaviour": Behaviour(down_window=value)}
        for value in (60.0, 300.0, 900.0)
    },
}


def simulate(case: Case) -> Outcome:
    duration, scale = FLEETS[case.fleet]
    random = np.random.default_rng(case.seed)
    trace = make(case.trace, case.fleet, duration, scale, random)
    least = max(1, math.ceil(case.fleet * LEAST_SHARE))
    behaviour = replace(case.behaviour, up_pods=max(case.behaviour.up_pods, case.fleet // 100))
    metric = METRICS[case.metric]
    autoscaler = Autoscaler(least, case.fleet, behaviour)
    return Fleet(trace, autoscaler, lambda fleet: metric(fleet, case), case.clear_seconds, random).run()


def run(options: Options) -> Results:
    choices = itertools.product(FLEETS, TRACES, METRICS)
    compared = [Case(fleet, trace, metric, seed=options.seed) for fleet, trace, metric in choices]
    swept = {
        (name, trace): Case(SWEPT_FLEET, trace, "should be at work", seed=options.seed, **changes)
        for name, changes in SWEEP.items()
        for trace in SWEPT_TRACES
    }
    outcomes = simulate_all([*compared, *swept.values()])
    comparison = list(zip(compared, outcomes[: len(compared)], strict=True))
    sweep = list(zip(swept, outcomes[len(compared) :], strict=True))
    rows = [{"fleet": c.fleet, "trace": c.trace, "metric": c.metric, **asdict(outcome)} for c, outcome in comparison]
    swept_rows = [{"setting": name, "trace": trace, **asdict(outcome)} for (name, trace), outcome in sweep]
    return Results(figures(rows), {"comparison": rows, "sweep": swept_rows})


def simulate_all(cases: Sequence[Case]) -> list[Outcome]:
    """In as many processes as there are cores; the largest first, so that none is left alone at the end."""
    order = sorted(range(len(cases)), key=lambda index: -cases[index].fleet)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        done = dict(zip(order, pool.map(simulate, [cases[index] for index in order]), strict=True))
    return [done[index] for index in range(len(cases))]


def figures(rows: Sequence[dict[str, Any]]) -> list[Figure]:
    return [
        figure
        for row in rows
        if row["fleet"] == max(FLEETS)
        for figure in (
            Figure(f"{row['trace']}, {row['metric']}: wait p95", row["wait_p95"], "s"),
            Figure(f"{row['trace']}, {row['metric']}: GPU-hours", row["gpu_hours"], "GPU-h"),
        )
    ]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Waiting against GPU-hours, one picture a trace, for the largest fleet. Left and low is good."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    largest = max(row["fleet"] for row in rows)
    figure, axes = plt.subplots(1, len(TRACES), figsize=(4 * len(TRACES), 4.2), sharey=True, layout="constrained")
    for axis, trace in zip(axes, TRACES, strict=True):
        for metric in METRICS:
            (row,) = (one for one in rows if (one["fleet"], one["trace"], one["metric"]) == (largest, trace, metric))
            axis.scatter(row["gpu_hours"] / 1000, max(row["wait_p95"], 1), label=metric, s=60)
        axis.set(title=trace, xlabel="thousand GPU-hours", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("waiting, 95th percentile, seconds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METRICS), frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def table(rows: Sequence[dict[str, Any]], fleet: int) -> str:
    """Markdown: each trace's p50 / p95 / p99 of waiting in seconds, and GPU-hours, by metric."""
    lines = ["| | " + " | ".join(TRACES) + " |", "|---" * (len(TRACES) + 1) + "|"]
    for metric in METRICS:
        mine = {row["trace"]: row for row in rows if (row["fleet"], row["metric"]) == (fleet, metric)}
        cells = [
            f"{row['wait_p50']:,.0f} / {row['wait_p95']:,.0f} / {row['wait_p99']:,.0f} s; {row['gpu_hours']:,.0f}"
            for row in (mine[trace] for trace in TRACES)
        ]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| | " + " | ".join(SWEPT_TRACES) + " |", "|---" * (len(SWEPT_TRACES) + 1) + "|"]
    for setting in SWEEP:
        mine = {row["trace"]: row for row in rows if row["setting"] == setting}
        cells = [
            f"{row['wait_p95']:,.0f} s; {row['gpu_hours']:,.0f}; {row['interrupted']}"
            for row in (mine[trace] for trace in SWEPT_TRACES)
        ]
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    results = json.loads((DOCS.parent / "bench/results/autoscaling.json").read_text(encoding="utf-8"))["details"]
    draw(results["comparison"], DOCS / "autoscaling.png")
    for size in FLEETS:
        print(f"\n{size} GPUs\n\n{table(results['comparison'], size)}")
    print(f"\n{sweep_table(results['sweep'])}")
