"""One network in a process of its own: what Triton's `python` backend runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from libs.errors import FailedPrecondition
from libs.families.lora_inputs import file_of, name_of
from libs.families.networks import TensorSpec, cast, network_named, rounded
from libs.families.served_loras import ServedLoras

__all__ = ["Answer", "ServedNetwork"]

Inputs: TypeAlias = Mapping[str, Tensor]
"""By name, rows first."""
Answer: TypeAlias = dict[str, Tensor] | FailedPrecondition
"""Outputs by name, on the CPU, of the types on the wire; or why there are none."""


class ServedNetwork:
    """``device`` as torch names it. ``dtype`` is what it works in: "float32", "bfloat16" or "float16".

    ``compiled``: by `torch.compile`, with the first calls. ``loras_kept``: how many twins with a LoRA are in memory.
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
        loras_kept: int = 2,
    ) -> None:
        self._network = network_named(family, name)
        self._device = torch.device(device)
        self._dtype: torch.dtype = torch.float32 if self._network.keeps_float32 else getattr(torch, dtype)
        module = cast(self._network.load(model_dir), self._dtype).to(self._device)

        def finish(network: nn.Module) -> nn.Module:
            return torch.compile(network) if compiled else network  # type: ignore[return-value]

        self.module = finish(module)
        self._loras = ServedLoras(module, family, name, loras_kept, finish)

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """Raises FailedPrecondition, as `ServedLoras.twin` does."""
        return self._run(self._module_for([inputs]), inputs)

    def answers(self, calls: Sequence[Inputs], *, merge: bool) -> list[Answer]:
        """One a call, in order. With ``merge`` those with the same LoRA, or with none, are one batch."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for index, call in enumerate(calls):
            groups[name_of(call) if merge else index].append(index)
        answers: dict[int, Answer] = {}
        for indices in groups.values():
            answers |= zip(indices, self._together([calls[index] for index in indices]), strict=True)
        return [answers[index] for index in range(len(calls))]

    def _together(self, calls: Sequence[Inputs]) -> list[Answer]:
        try:
            module = self._module_for(calls)
        except FailedPrecondition as error:
            return [error] * len(calls)
        names = [spec.name for spec in self._network.inputs]
        rows = [len(call[names[0]]) for call in calls]
        outputs = self._run(module, {name: torch.cat([call[name] for call in calls]) for name in names})
        parts = {name: torch.split(output, rows) for name, output in outputs.items()}
        return [{name: part[index] for name, part in parts.items()} for index in range(len(calls))]

    def _module_for(self, calls: Sequence[Inputs]) -> nn.Module:
        """That of all ``calls``, which name the same LoRA or none."""
        name = name_of(calls[0])
        if name is None:
            return self.module
        files = (file_of(call, name) for call in calls)
        return self._loras.twin(name, [file for file in files if file is not None])

    @torch.inference_mode()
    def _run(self, module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        given = {spec.name: self._own(inputs, spec) for spec in self._network.inputs}
        outputs = self._network.forward(module, given)
        return {
            spec.name: output.to("cpu", getattr(torch, spec.dtype)).contiguous()
            for spec, output in zip(self._network.outputs, outputs, strict=True)
        }

    def _own(self, inputs: Inputs, spec: TensorSpec) -> Tensor:
        """In memory of torch's own: the last bits of a matrix product may depend on how an operand is aligned."""
        return rounded(inputs[spec.name].to(self._device, copy=True), spec, self._dtype)
