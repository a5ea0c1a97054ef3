"""The simulated autoscaler does what Kubernetes' documentation says; a fleet loses no video."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from bench import autoscaling
from bench.autoscaling import (
    CLEAR_SECONDS,
    DOCS,
    FLEETS,
    HEADROOM,
    METRICS,
    Case,
    simulate,
    sweep_table,
    table,
)
from bench.fleet.autoscaler import Autoscaler, Behaviour, of_pods, of_total
from bench.fleet.fleet import COLD_STARTS, Fleet
from bench.fleet.traces import HOUR, TRACES, Trace, make, mean_seconds


def test_an_average_value_is_the_total_over_the_target() -> None:
    assert of_total(10, 2, current=3) == 5
    assert of_total(10.5, 2, current=5) == 5, "within the tolerance of 10 %"
    assert of_total(12, 2, current=5) == 6
    assert of_total(0, 2, current=5) == 0


def test_utilisation_is_averaged_and_what_starts_is_idle() -> None:
    assert of_pods(used=4 * 0.9, target=0.6, ready=4, starting=0) == 6
    assert of_pods(used=4 * 0.9, target=0.6, ready=4, starting=2) == 6
    assert of_pods(used=4 * 0.3, target=0.6, ready=4, starting=0) == 2
    assert of_pods(used=0, target=0.6, ready=0, starting=3) == 3


def test_scaling_out_is_limited_by_the_larger_policy() -> None:
    scaler = Autoscaler(1, 1000, Behaviour(up_pods=4, up_percent=100, up_period=30))
    assert scaler.replicas(0, 1, 500) == 5
    assert scaler.replicas(15, 5, 500) == 5, "the period is not over"
    assert scaler.replicas(31, 5, 500) == 10
    assert scaler.replicas(62, 10, 500) == 20


def test_scaling_in_waits_and_goes_step_by_step() -> None:
    scaler = Autoscaler(1, 1000, Behaviour(down_window=300, down_percent=20, down_period=60))
    assert scaler.replicas(0, 100, 100) == 100
    assert scaler.replicas(15, 100, 10) == 100
    assert scaler.replicas(301, 100, 10) == 80
    assert scaler.replicas(316, 80, 10) == 80
    assert scaler.replicas(362, 80, 10) == 64


def test_bounds_hold() -> None:
    scaler = Autoscaler(2, 5, Behaviour())
    assert scaler.replicas(0, 4, 50) == 5
    assert scaler.replicas(1000, 2, 0) == 2


@pytest.mark.parametrize("name", TRACES)
def test_traces_have_the_load_that_they_say(name: str) -> None:
    trace = make(name, 100, 8 * HOUR, 1.0, np.random.default_rng(1))
    times = np.linspace(0, trace.duration, 100_000)
    expected = TRACES[name](times, trace.duration).mean() * 100 / mean_seconds(1.0) * trace.duration
    assert len(trace.arrivals) == pytest.approx(expected, rel=0.1)
    assert (np.diff(trace.arrivals) >= 0).all()
    assert (trace.seconds > 0).all()


def test_the_first_video_on_an_empty_fleet_waits_for_a_cold_start() -> None:
    trace = Trace(np.array([0.0]), np.array([30.0]), np.array([30.0]), 600.0)
    fleet = Fleet(trace, Autoscaler(1, 1, Behaviour()), lambda _: 1, 60.0, np.random.default_rng(0))
    outcome = fleet.run()
    assert sum(low for low, _ in COLD_STARTS) <= outcome.wait_p50 <= sum(high for _, high in COLD_STARTS)
    assert outcome.gpu_hours == pytest.approx(600 / 3600, rel=0.01)


def test_videos_go_on_when_their_pods_are_taken_away() -> None:
    """Ten long videos on ten pods, nine of which are told to go at once: all end, nine after an interruption."""
    trace = Trace(np.full(10, 300.0), np.full(10, 1000.0), np.full(10, 1000.0), 900.0)
    behaviour = Behaviour(up_pods=10, down_percent=100, down_window=0)
    wanted = lambda fleet: 10 if fleet.environment.now < 450 else 1  # noqa: E731
    fleet = Fleet(trace, Autoscaler(1, 10, behaviour), wanted, 60.0, np.random.default_rng(0))
    outcome = fleet.run()
    assert outcome.interrupted >= 9
    assert not np.isnan(fleet.started).any()
    assert sorted(fleet.remaining)[8] < 1000
    assert not fleet.busy
    assert not fleet.queue
    assert outcome.busy_share <= 1


def test_ours_waits_less_than_the_queues_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(autoscaling.FLEETS, 10, (2 * HOUR, 1.0))
    ours, other = (simulate(Case(10, "spiky", metric)) for metric in ("should be at work", "queue length"))
    assert ours.videos == other.videos
    assert ours.wait_p50 < other.wait_p50
    assert set(METRICS) >= {"should be at work", "queue length"}


def test_the_chart_ships_what_was_simulated() -> None:
    queue = yaml.safe_load((DOCS.parent / "deploy/helm/soundstage/values.yaml").read_text())["autoscaling"]["queue"]
    simulated, up, down = Behaviour(), queue["scaleUp"], queue["scaleDown"]
    assert (queue["clearSeconds"], queue["headroomPercent"]) == (CLEAR_SECONDS, 100 * HEADROOM)
    assert (up["pods"], up["percent"], up["periodSeconds"]) == (
        simulated.up_pods,
        simulated.up_percent,
        simulated.up_period,
    )
    assert up["stabilizationSeconds"] == 0
    assert (down["percent"], down["periodSeconds"], down["stabilizationSeconds"]) == (
        simulated.down_percent,
        simulated.down_period,
        simulated.down_window,
    )


def test_the_tables_of_the_docs_are_the_recorded_results() -> None:
    details = json.loads((DOCS.parent / "bench/results/autoscaling.json").read_text())["details"]
    page = (DOCS / "autoscaling.md").read_text()
    assert [size for size in FLEETS if table(details["comparison"], size) not in page] == []
    assert sweep_table(details["sweep"]) in page
