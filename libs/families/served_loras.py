"""A served network with LoRAs in its weights: the last few that calls named."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from libs.errors import FailedPrecondition
from libs.errors.carried import MORE_WANTED
from libs.families.lora import Layer, fused
from libs.families.lora_inputs import LoraName
from libs.families.networks import lora_layers

__all__ = ["ServedLoras"]


class ServedLoras:
    """Of one network, for one thread. ``finish``: what is done to a twin before it is used."""

    def __init__(
        self, module: nn.Module, family: str, network: str, kept: int, finish: Callable[[nn.Module], nn.Module]
    ) -> None:
        self._module, self._family, self._network = module, family, network
        self._kept, self._finish = kept, finish
        self._twins: OrderedDict[LoraName, nn.Module] = OrderedDict()

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._twins)

    def twin(self, name: LoraName, files: Sequence[bytes]) -> nn.Module:
        """The network with this LoRA. ``files``: as the calls that name it brought it, if any did.

        Raises FailedPrecondition: MORE_WANTED when it is not in memory and no call has the file, ARTIFACT_ALTERED,
        LORA_UNUSABLE or LORA_UNFITTING.
        """
        if name not in self._twins:
            if not files:
                raise FailedPrecondition("the LoRA is not known here: its file is needed", reason=MORE_WANTED)
            layers = self._layers(name, files[0])
            while len(self._twins) >= self._kept:  # before there is one more: each may be as large as the network
                self._twins.popitem(last=False)
            self._twins[name] = self._finish(fused(self._module, layers, name.scale) if layers else self._module)
        self._twins.move_to_end(name)
        return self._twins[name]

    def _layers(self, name: LoraName, data: bytes) -> dict[str, Layer]:
        if hashlib.sha256(data).hexdigest() != name.sha256:
            raise FailedPrecondition("the LoRA's file was altered on its way", reason="ARTIFACT_ALTERED")
        return lora_layers(self._family, data).get(self._network, {})
