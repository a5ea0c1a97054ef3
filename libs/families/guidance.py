"""Classifier-free guidance in one transformer call, for any denoiser block of diffusers.

Those blocks ask the guider for its batches and call the transformer once for each. Here the guider gives one batch,
with the negative prompt's row above the prompt's, and the transformer repeats for both rows what the block says once.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from libs.families.modular import BlockState, ClassifierFreeGuidance

__all__ = ["BatchedGuidance", "RowsTransformer"]


class BatchedGuidance(ClassifierFreeGuidance):
    def prepare_inputs(self, data: dict[str, Any]) -> list[BlockState]:
        return _one(super().prepare_inputs(data), data)

    def prepare_inputs_from_block_state(self, data: BlockState, input_fields: dict[str, Any]) -> list[BlockState]:
        return _one(super().prepare_inputs_from_block_state(data, input_fields), input_fields)

    def __call__(self, data: list[BlockState]) -> Any:  # noqa: ANN401  # diffusers' output
        predicted: Tensor = data[0].noise_pred
        if self.num_conditions == 1:
            return self.forward(pred_cond=predicted)
        negative, prompt = predicted.chunk(2)
        return self.forward(pred_cond=prompt, pred_uncond=negative)


class RowsTransformer(nn.Module):
    """A transformer as diffusers' denoiser blocks call it: with ``inner``'s call, config and type."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.config: Any = inner.config
        self.dtype: torch.dtype = getattr(inner, "dtype", torch.float32)
        self.device = torch.device("cpu")  # where the loop's tensors are; the model may move them
        self.inner = inner

    def cache_context(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002  # diffusers' caches are not used
        return nullcontext()

    def forward(self, **inputs: Any) -> Any:  # noqa: ANN401  # as the family's transformer
        rows = len(inputs["encoder_hidden_states"])
        return self.inner(**{name: _repeated(value, rows) for name, value in inputs.items()})


def _one(batches: list[BlockState], names: Iterable[str]) -> list[BlockState]:
    if len(batches) == 1:
        return batches
    prompt, negative = batches
    for name in names:
        setattr(prompt, name, _above(getattr(negative, name, None), getattr(prompt, name, None)))
    return [prompt]


def _above(negative: Any, prompt: Any) -> Any:  # noqa: ANN401  # tensors, or None where the model has no such input
    return prompt if prompt is None or negative is None else torch.cat([negative, prompt])


def _repeated(value: Any, rows: int) -> Any:  # noqa: ANN401  # tensors are repeated, the rest is passed on
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == rows:
        return value
    return value.expand(rows, *value.shape[1:])
