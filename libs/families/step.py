"""What the denoise loop tells after each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["STEPS_DONE", "LoopState", "OnStep", "Step", "steps_done"]

LoopState: TypeAlias = Mapping[str, NDArray[Any]]
"""All that a loop carries from one step to the next, by name: latents, scheduler, generator, number of steps done."""
STEPS_DONE = "steps/int"


@dataclass(frozen=True)
class Step:
    """Step ``index`` (from 1) of ``total`` has ended; it took ``seconds``.

    ``preview`` is a strip of three frames side by side (begin, middle, end) of the current estimate of the clean
    picture, (H, 3 W, 3) uint8, or None when none was due.
    """

    index: int
    total: int
    seconds: float
    preview: NDArray[np.uint8] | None
    state: Callable[[], LoopState]
    """Copies the loop's state; to be called before ``on_step`` returns."""
    sound: Mapping[str, NDArray[Any]] | None = None
    """Of a joint model, where a preview was due: the estimate of its clean sound, as `JointSound` decodes it."""
    cached: bool = False
    """The transformer was not called: the feature cache had its output."""


OnStep = Callable[[Step], None]
"""Called between steps, in the thread of the loop. What it raises stops the loop and reaches the loop's caller."""


def steps_done(state: LoopState) -> int:
    return int(state[STEPS_DONE][0])
