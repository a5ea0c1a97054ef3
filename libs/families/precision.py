"""In what precision a processor works best."""

from __future__ import annotations

import torch

__all__ = ["is_bfloat16_fast", "mixed_precision"]


def is_bfloat16_fast() -> bool:
    """Whether the processor has instructions for products in bfloat16 (AVX512-BF16).

    Without them each value is converted one by one: on a Zen 3 core a product of matrices is a hundred times slower in
    bfloat16 than in float32.
    """
    return bool(torch.cpu._is_avx512_bf16_supported())


def mixed_precision() -> torch.autocast:
    """A context in which products are taken in bfloat16 where that is fast, and everything else stays in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16_fast())
