"""In what precision this machine trains best."""

from __future__ import annotations

import torch

__all__ = ["mixed_precision"]


def mixed_precision() -> torch.autocast:
    """A context in which products are taken in bfloat16, if the processor has instructions for it.

    Without them each value is converted one by one: on a Zen 3 core a product of matrices is a hundred times slower in
    bfloat16 than in float32, so there everything stays in float32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())
