"""How many videos step at the same time: as many as pay, by a curve measured when the denoiser starts.

Calls made at once are merged by Triton's dynamic batcher, or spread over its instances and pods; in this process they
share its cores. Whether a video then takes less time depends on network, device and repository, so it is measured.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from libs.catalog import ModelCard
from libs.errors import SoundstageError, Unavailable
from libs.triton import Call, calling
from services.denoiser.metrics import DenoiserMetrics

if TYPE_CHECKING:
    from libs.families.pipelines import DenoisePipeline

__all__ = ["Curve", "fill", "steps_that_pay", "that_pays"]

SECONDS = 5.0
"""For all models together: readiness waits for it. A call that has begun ends, but for one on Triton."""
PAYS = 0.9
"""Twice as many at once pay when a video then takes at most this share of the time."""
_COUNTED = 2.5
"""A doubling, it again, and what it is compared with."""
_log = logging.getLogger(__name__)

Curve = dict[int, float]
"""Calls at once -> seconds a video."""
Probe = Callable[[int], object]
"""Makes so many calls at once, and waits for all."""
Clock = Callable[[], float]


def steps_that_pay(models: Sequence[tuple[ModelCard, DenoisePipeline]], most: int, metrics: DenoiserMetrics) -> int:
    """1 to ``most``, the smallest of the models': one number holds for all. 1 for one that cannot be measured."""
    return min(_of_model(card, pipeline, most, SECONDS / len(models), metrics) for card, pipeline in models)


def that_pays(curve: Curve) -> int:
    """The largest up to which each doubling paid; 1 for an empty curve."""
    best = 1
    for at_once, seconds in sorted(curve.items()):
        if at_once > 1 and seconds > PAYS * curve[best]:
            break
        best = at_once
    return best


def fill(curve: Curve, probe: Probe, most: int, seconds: float, now: Clock = time.perf_counter) -> None:
    """Doubles the calls as long as that pays, up to ``most``, and as long as ``seconds`` are likely to be enough.

    A doubling that seems to pay is measured once more, and so is what it is compared with: another process that was
    busy for a moment must not look like a gain. A call that takes a good part of ``seconds`` has filled its device.
    """
    ends = now() + seconds
    probe(1)  # not counted: weights are read, memory is taken
    at_once = 1
    while at_once <= most and now() + _COUNTED * at_once * min(curve.values(), default=0.0) < ends:
        _measure(curve, probe, at_once, now)
        if at_once > 1 and that_pays(curve) == at_once:
            _measure(curve, probe, at_once // 2, now)
            _measure(curve, probe, at_once, now)
        if that_pays(curve) != at_once:
            break
        at_once *= 2


def _measure(curve: Curve, probe: Probe, at_once: int, now: Clock) -> None:
    began = now()
    probe(at_once)
    each = (now() - began) / at_once
    curve[at_once] = min(each, curve.get(at_once, each))


def _of_model(card: ModelCard, pipeline: DenoisePipeline, most: int, seconds: float, metrics: DenoiserMetrics) -> int:
    defaults = card.defaults
    size = defaults.width, defaults.height, round(defaults.duration_seconds * defaults.fps)
    call = Call(_raises_after(time.monotonic() + seconds))

    def one(_: int) -> None:
        with calling(call):
            pipeline.probe(*size)

    curve: Curve = {}
    with ThreadPoolExecutor(most, thread_name_prefix="merging") as threads:
        try:
            fill(curve, lambda at_once: deque(threads.map(one, range(at_once)), maxlen=0), most, seconds)
        except SoundstageError as error:  # what was measured until then holds
            _log.warning("steps at once not measured further", extra={"model": card.name, "cause": str(error)})
    for at_once, each in curve.items():
        metrics.merging(card.name, at_once, each)
    steps = that_pays(curve)
    _log.info("steps at once", extra={"model": card.name, "steps_at_once": steps, "seconds_per_video": curve})
    return steps


def _raises_after(ends: float) -> Callable[[], None]:
    def look() -> None:
        if time.monotonic() > ends:
            raise Unavailable(
                f"no answer within the {SECONDS:g} s that measuring may take", reason="TRITON_UNAVAILABLE"
            )

    return look
