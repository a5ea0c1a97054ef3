"""What a benchmark may be told; the defaults are what the written figures are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """``None``: the benchmark's or the model's own default."""

    steps: int | None = None
    frames: int = 61
    """Of each clip of `scenes`; 1 + 4 k."""
    prompts: int = 42
    """Grammar prompts of `scenes`; they take the families in turn: two of each."""
    holdout: int = 32
    """Of the prompts outside the grammar, how many to take in `scenes`: all, as they stand family by family."""
    rounds: int = 3
    duration: float | None = None
    """Seconds, of the video of `stages`."""
    videos: int = 10_000
    """Accepted by one process of `gateway` before its memory is looked at."""
    trained: bool = False
    """Take the averaged weights of the newest training checkpoints instead of the model folder's, in `scenes`."""
    models: Path = Path("models")
    seed: int = 7
    threads: int = 0
    """Of torch in `denoise` and `scenes`; 0: every core that the process may use."""
    out: Path = Path("bench/results")
