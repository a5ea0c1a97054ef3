"""One network in a process of its own: what Triton's `python` backend runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from libs.families.networks import TensorSpec, cast, network_named, rounded

__all__ = ["ServedNetwork"]


class ServedNetwork:
    """``device`` as torch names it. ``dtype`` is what it works in: "float32", "bfloat16" or "float16".

    ``compiled``: by `torch.compile`, with the first calls.
    """

    def __init__(
        self,
        model_dir: Path,
        family: str,
        name: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        compiled: bool = False,
    ) -> None:
        self._network = network_named(family, name)
        self._device = torch.device(device)
        self._dtype: torch.dtype = torch.float32 if self._network.keeps_float32 else getattr(torch, dtype)
        module = cast(self._network.load(model_dir), self._dtype).to(self._device)
        self.module: nn.Module = torch.compile(module) if compiled else module  # type: ignore[assignment]

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by name, rows first -> the outputs by name, on the CPU, of the types on the wire."""
        given = {spec.name: self._own(inputs, spec) for spec in self._network.inputs}
        outputs = self._network.forward(self.module, given)
        return {
            spec.name: output.to("cpu", getattr(torch, spec.dtype)).contiguous()
            for spec, output in zip(self._network.outputs, outputs, strict=True)
        }

    def _own(self, inputs: Mapping[str, Tensor], spec: TensorSpec) -> Tensor:
        """In memory of torch's own: the last bits of a matrix product may depend on how an operand is aligned."""
        return rounded(inputs[spec.name].to(self._device, copy=True), spec, self._dtype)
