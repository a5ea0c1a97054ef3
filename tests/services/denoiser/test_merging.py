"""How many steps at once pay: by a made-up clock, and by the real one with calls that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from libs.artifacts import MemoryStore
from libs.catalog import Catalog, ModelCard
from libs.errors import Unavailable
from libs.families import PipelineCache
from services.denoiser.denoise import Denoiser
from services.denoiser.merging import Curve, fill, steps_that_pay, that_pays
from services.denoiser.metrics import DenoiserMetrics
from services.denoiser.settings import DenoiserSettings
from tests.support.denoising import wired_denoiser


class Device:
    """A clock that only calls move: ``takes`` says how long so many at once take, in seconds."""

    def __init__(self, takes: Callable[[int], float]) -> None:
        self.takes = takes
        self.time = 0.0
        self.calls: list[int] = []

    def probe(self, at_once: int) -> None:
        self.calls.append(at_once)
        self.time += self.takes(at_once)

    def curve(self, most: int = 64, seconds: float = 5.0) -> Curve:
        curve: Curve = {}
        fill(curve, self.probe, most, seconds, lambda: self.time)
        return curve


@pytest.mark.parametrize(
    ("takes", "pays"),
    [
        (lambda n: 0.01 * n, 1),  # no gain: one core
        (lambda n: 0.01 * (1 + 0.85 * (n - 1)), 1),  # 7 % less a video
        (lambda n: 0.01 * (1 + 0.6 * (n - 1)), 4),  # 20 %, 12 %, then 7 %
        (lambda n: 0.01 * max(n / 4, 1), 4),  # four pods
        (lambda _: 0.01, 16),  # a device that hardly notices
    ],
)
def test_the_last_doubling_that_gains_a_tenth_is_taken(takes: Callable[[int], float], pays: int) -> None:
    device = Device(takes)
    assert that_pays(device.curve(most=16)) == pays
    assert max(device.calls) <= 2 * pays


def test_nothing_begins_that_would_take_too_long() -> None:
    slow = Device(lambda _: 1.0)
    assert that_pays(slow.curve(seconds=5.0)) == 1
    assert slow.time <= 5.0
    quick = Device(lambda n: 0.1 * (1 + 0.01 * n))
    assert that_pays(quick.curve(seconds=5.0)) > 2
    assert quick.time <= 5.0


def test_a_hiccup_is_no_gain() -> None:
    """The first call that counts took three times as long as it should."""
    device = Device(lambda n: 0.01 * n * (3 if len(device.calls) == 2 else 1))
    assert that_pays(device.curve()) == 1


def test_what_was_measured_before_a_failure_holds() -> None:
    def fails(_: int) -> float:
        if len(device.calls) == 9:
            raise Unavailable("gone", reason="TRITON_UNAVAILABLE")
        return 0.01

    device, curve = Device(fails), Curve()
    with pytest.raises(Unavailable):
        fill(curve, device.probe, 64, 5.0, lambda: device.time)
    assert that_pays(curve) == 4


class Waiting:
    """A loop whose calls only wait, so that company costs nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.sizes: list[tuple[int, ...]] = []

    def probe(self, *size: int) -> None:
        self.sizes.append(size)
        threading.Event().wait(self.seconds)


def denoiser(models_dir: Path, loop: Waiting, registry: CollectorRegistry, **settings: int) -> Denoiser:
    chosen, metrics, store = DenoiserSettings(**settings), DenoiserMetrics(registry), MemoryStore("merging")
    pipelines: PipelineCache[Any] = PipelineCache(lambda *_: loop)
    return wired_denoiser(store, Catalog.read(models_dir), pipelines, metrics, chosen)


def test_the_denoiser_measures_when_it_warms_up(models_dir: Path) -> None:
    loop, registry = Waiting(0.2), CollectorRegistry()
    denoiser(models_dir, loop, registry, max_active_videos=2).warm(["diorama"])
    assert registry.get_sample_value("soundstage_denoiser_steps_at_once") == 2
    one, two = (
        registry.get_sample_value("soundstage_denoiser_merging_seconds", {"model": "diorama", "at_once": str(count)})
        for count in (1, 2)
    )
    assert one is not None
    assert two is not None
    assert two < one
    card = Catalog.read(models_dir).get("diorama")
    assert loop.sizes[0] == (card.defaults.width, card.defaults.height, 12), "that of the default video"


def test_a_number_that_is_given_is_taken(models_dir: Path) -> None:
    loop, registry = Waiting(0.0), CollectorRegistry()
    denoiser(models_dir, loop, registry, steps_at_once=3).warm(["diorama"])
    assert registry.get_sample_value("soundstage_denoiser_steps_at_once") == 3
    assert loop.sizes == []


def test_a_model_that_fails_steps_one_by_one(models_dir: Path) -> None:
    class Failing:
        def probe(self, *_: int) -> None:
            raise Unavailable("no pod", reason="TRITON_UNAVAILABLE")

    card: ModelCard = Catalog.read(models_dir).get("diorama")
    metrics = DenoiserMetrics(CollectorRegistry())
    assert steps_that_pay([(card, Failing())], 8, metrics) == 1  # type: ignore[list-item]  # as far as it is asked
