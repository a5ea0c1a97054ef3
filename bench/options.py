"""What a benchmark may be told; the defaults are what the written figures are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """``None``: the benchmark's or the model's own default."""

    steps: int | None = None
    rounds: int = 3
    duration: float | None = None
    """Seconds, of the video of `stages`."""
    videos: int = 10_000
    """Accepted by one process of `gateway` before its memory is looked at."""
    models: Path = Path("models")
    seed: int = 7
    threads: int = 0
    """Of torch, in this process; 0: every core that it may use."""
    out: Path = Path("bench/results")
