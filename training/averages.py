"""The power-function average of weights (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models", EDM2).

Its memory is a share of the training so far and not a number of steps, so that a short training is not an average with
its beginning, and a long one is smoothed as much.
"""

from __future__ import annotations

import numpy as np

__all__ = ["RELATIVE_WIDTH", "decay", "exponent"]

RELATIVE_WIDTH = 0.10
"""Standard deviation of the average's profile in time, as a share of the training so far (sigma_rel)."""


def exponent(relative_width: float) -> float:
    """gamma of the profile t ** gamma that is so wide: the root of (g + 1) / ((g + 2)^2 (g + 3)) = width^2.

    Widths are above 0 and at most 0.28, where gamma is 0 and every step counts alike.
    """
    width = relative_width**-2
    return float(np.roots([1, 7, 16 - width, 12 - width]).real.max())


def decay(step: int, gamma: float = exponent(RELATIVE_WIDTH)) -> float:
    """What the average keeps of itself at this step, counted from 1: nothing at the first."""
    return (1 - 1 / step) ** (gamma + 1)
