"""What a video costs, from its spec and its model's card alone: known before it is submitted."""

from __future__ import annotations

import math

from libs.catalog import ModelCard
from services.gateway.video import Spec

MILLI = 1000
"""Credits are kept in thousandths, in whole numbers, so that sums are exact."""


def price_millicredits(spec: Spec, card: ModelCard) -> int:
    """The card's price of the default video, in proportion to the picture elements and, for its share, to the steps."""
    usual = card.defaults
    frames = usual.duration_seconds * usual.fps
    elements = spec.num_frames * spec.width * spec.height / (frames * usual.width * usual.height)
    steps = spec.num_inference_steps / usual.num_inference_steps
    share = card.cost.steps_share
    price = card.cost.credits * elements * (1 - share + share * steps)
    return math.ceil(round(price * MILLI, 3))
