"""How long the stages of a video should take, from the model's last videos.

For a stage the seconds for a unit of its work, for the way between two stages (records, workflow, queues) the seconds
as they are. Both are weighted medians: new measurements count more than old ones, so that a machine that becomes busier
or quieter is followed within a few videos, and those of videos alike in size more than others, since no stage's cost is
quite proportional to its work. One that stalled changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.gateway.progress import work_units
from services.gateway.video import Shape, Stage

HALF_LIFE_VIDEOS = 3.0
"""A measurement counts half as much as one that is this many videos newer."""
LIKENESS_POWER = 2.0
"""One of half or twice the work counts a quarter."""


@dataclass(frozen=True)
class Sample:
    """One finished video: each stage's work units and seconds without loading, and seconds between two of them."""

    stages: Mapping[Stage, tuple[float, float]]
    between_seconds: float


class Speeds:
    """`samples`: newest first; none for a model of which nothing is known."""

    def __init__(self, samples: Sequence[Sample] = ()) -> None:
        self._samples = samples
        self._known: dict[Shape, dict[Stage, float]] = {}

    @property
    def known(self) -> bool:
        return bool(self._samples)

    def expected(self, shape: Shape) -> dict[Stage, float]:
        """Seconds by stage, each with the way to it, the last also with that to the end; empty if nothing is known."""
        if self._samples and shape not in self._known:
            between = _median((sample.between_seconds, _newness(age)) for age, sample in enumerate(self._samples))
            expected = {stage: between + self._stage_seconds(stage, shape) for stage in Stage}
            self._known[shape] = {**expected, Stage.MUX: expected[Stage.MUX] + between}
        return self._known.get(shape, {})

    def _stage_seconds(self, stage: Stage, shape: Shape) -> float:
        wanted, told = work_units(stage, shape), []
        for age, sample in enumerate(self._samples):
            units, seconds = sample.stages[stage]
            likeness = min(units, wanted) / max(units, wanted)
            told.append((seconds / units, _newness(age) * likeness**LIKENESS_POWER))
        return _median(told) * wanted


@dataclass
class Measured:
    """Attempts of one video that won, put together to a `Sample`."""

    stages: dict[Stage, tuple[float, float]] = field(default_factory=dict)
    start: float = float("inf")
    end: float = 0.0
    at_work_seconds: float = 0.0

    def add(self, stage: Stage, units: float, span: tuple[float, float], seconds: float, load_seconds: float) -> None:
        """`span`: when the attempt began and when its output was recorded, in seconds since the epoch."""
        self.stages[stage] = units, max(seconds - load_seconds, 0.0)
        self.start, self.end = min(self.start, span[0]), max(self.end, span[1])
        self.at_work_seconds += seconds

    def sample(self) -> Sample | None:
        """None unless all stages were measured."""
        if len(self.stages) < len(Stage):
            return None
        away_seconds = max(self.end - self.start - self.at_work_seconds, 0.0)
        return Sample(self.stages, away_seconds / (len(Stage) - 1))


def _newness(age: int) -> float:
    return float(0.5 ** (age / HALF_LIFE_VIDEOS))


def _median(weighted: Iterable[tuple[float, float]]) -> float:
    """Of (value, weight): the value with half of the weight on either side."""
    ordered = sorted(weighted)
    half, seen = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= half:
            return value
    raise ValueError("a median of nothing")
