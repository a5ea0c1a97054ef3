from __future__ import annotations

import numpy as np

from services.muxer.poster import detail


def test_detail_orders_frames_by_what_they_show() -> None:
    rng = np.random.default_rng(0)
    black = np.full((64, 64), 16, np.uint8)
    white = np.full((64, 64), 235, np.uint8)
    ramp = np.tile(np.linspace(16, 235, 64).astype(np.uint8), (64, 1))
    blocks = np.kron(rng.integers(16, 235, (16, 16)), np.ones((4, 4))).astype(np.uint8)
    assert detail(black) == detail(white) == 0
    assert detail(black) < detail(ramp) < detail(blocks)


def test_grain_counts_less_than_shapes() -> None:
    rng = np.random.default_rng(0)
    grain = (128 + rng.normal(0, 10, (64, 64))).astype(np.uint8)
    shapes = np.kron(rng.integers(98, 158, (16, 16)), np.ones((4, 4))).astype(np.uint8)
    assert detail(grain) < detail(shapes)
