"""A network that runs elsewhere, in the place of the one of the model folder."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.errors import FailedPrecondition
from libs.families.lora_inputs import NamedLora, file_inputs, name_inputs
from libs.families.networks import Linear, Network, TensorSpec, bind, network_named, shape_of, zeros
from libs.families.windows import windows

__all__ = ["Infer", "RemoteDecoder", "RemoteNetwork", "RemoteTransformer"]

WINDOW = 16
"""Latent frames decoded in one call, margins apart: what bounds the memory of a long video, here and there."""


class Infer(Protocol):
    """Runs a network somewhere; waits for it. Raises SoundstageError, and whatever ends the caller's work."""

    def __call__(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
        more: Callable[[], Mapping[str, NDArray[Any]]] | None = None,
        /,
    ) -> dict[str, NDArray[Any]]:
        """``name``: ``<model>_<network>``. ``outputs``: what will come back, shapes and types.

        ``more``: further inputs, for the case that the network asks for them (`MORE_WANTED`). One that it has not is
        refused, TRITON_INPUT_UNKNOWN.
        """
        ...


class RemoteNetwork:
    """Tensors by name in, tensors by name out, through ``infer``. Holds the network's config, none of its weights."""

    def __init__(self, model_dir: Path, family: str, name: str, infer: Infer) -> None:
        self._network: Network = network_named(family, name)
        self._name = f"{model_dir.name}_{name}"
        self._infer = infer
        self._lora: NamedLora | None = None
        config = json.loads((model_dir / self._network.subfolder / "config.json").read_text())
        self.config: Mapping[str, Any] = FrozenDict({k: v for k, v in config.items() if not k.startswith("_")})  # type: ignore[no-untyped-call]

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Tensor]:
        """Numbers and tensors with one value a row are sent as (rows, 1)."""
        rows = len(given[self._network.inputs[0].name])
        inputs = {spec.name: _to_numpy(given[spec.name], spec, rows) for spec in self._network.inputs}
        names = bind(self._network, {name: array.shape for name, array in inputs.items()})
        expected = {
            spec.name: ((rows, *shape_of(spec, names, self.config)), np.dtype(spec.dtype))
            for spec in self._network.outputs
        }
        outputs = self._outputs(inputs, expected, rows)
        return {name: torch.from_numpy(outputs[name]) for name in expected}

    def with_lora(self, lora: NamedLora) -> RemoteNetwork:
        """The same network. Its calls name the LoRA, and raise what is wrong with it, or LORA_ON_TRITON."""
        twin = copy.copy(self)
        twin._lora = lora
        return twin

    def _outputs(
        self, inputs: Mapping[str, NDArray[Any]], expected: Mapping[str, Any], rows: int
    ) -> dict[str, NDArray[Any]]:
        lora = self._lora
        if lora is None:
            return self._infer(self._name, inputs, expected)
        named = {**inputs, **name_inputs(lora, rows)}
        try:
            return self._infer(self._name, named, expected, lambda: file_inputs(lora, rows))
        except FailedPrecondition as error:
            if error.reason != "TRITON_INPUT_UNKNOWN":
                raise
            raise FailedPrecondition(
                f"{self._name} on Triton takes no LoRA, as no engine of TensorRT does: leave the LoRA out, or write "
                "Triton's repository (anew) with `python -m deploy.triton.build --backend python`",
                reason="LORA_ON_TRITON",
                network=self._name,
            ) from error

    def probe(self, width: int, height: int, num_frames: int) -> None:
        """One real inference, of zeros for a picture of this size: that it can be done is all it tells."""
        least = {name: points[0] for name, points in self._network.texts.items()}
        names = {**self._network.sizes(width, height, num_frames), **least}
        self(zeros(self._network, self.config, names, rows=1))


class RemoteTransformer(nn.Module):
    """Called like the family's own transformer; ``return_dict=False`` gives a tuple."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, model_dir: Path, family: str, name: str, infer: Infer) -> None:
        super().__init__()
        self.remote = RemoteNetwork(model_dir, family, name, infer)
        self.config = self.remote.config
        self._network = network_named(family, name)

    def with_lora(self, lora: NamedLora) -> RemoteTransformer:
        """The same one; its calls name the LoRA."""
        twin = copy.copy(self)
        twin.remote = self.remote.with_lora(lora)
        return twin

    def forward(self, return_dict: bool = True, **inputs: Any) -> Any:  # noqa: ANN401  # diffusers' signature
        outputs = self.remote(self._network.adapt(inputs, self.config))
        return SimpleNamespace(**outputs) if return_dict else tuple(outputs.values())

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:  # noqa: ARG002  # diffusers' signature
        """diffusers' loops name the pass that a cache belongs to; there is no cache here."""
        yield


class RemoteDecoder(nn.Module):
    """In the place of an autoencoder that is only asked to decode, window by window."""

    def __init__(self, model_dir: Path, family: str, infer: Infer) -> None:
        super().__init__()
        self.remote = RemoteNetwork(model_dir, family, "vae_decoder", infer)
        self.config = self.remote.config
        network = network_named(family, "vae_decoder")
        self._margin, self._inputs = network.margin(self.config), network.inputs
        _, frames, height, _ = network.outputs[0].dims
        assert isinstance(frames, Linear)
        assert isinstance(height, Linear)
        self._frames = frames
        self.temporal_compression_ratio, self.spatial_compression_ratio = frames.times, height.times

    def decode_chunks(self, latents: Tensor, latent_frames: int = WINDOW, **others: Tensor) -> Iterator[Tensor]:
        """Latents (1, C, F, h, w) -> (1, 3, t, H, W) in order, each made when it is asked for.

        The picture of a window depends on latents beside it, which go along; what they give is cut off. Where it
        depends on all of them there is one window.
        ``others``: what else the denoise stage handed on; zeros stand for what it did not.
        """
        given = {spec.name: others.get(spec.name, torch.zeros_like(latents)) for spec in self._inputs}
        given["latents"] = latents
        total = latents.shape[2]
        wanted, margin = (total, (0, 0)) if self._margin is None else (latent_frames, self._margin)
        for first, begin, end, last in windows(total, wanted, margin):
            video = self.remote({name: tensor[:, :, first:last] for name, tensor in given.items()})["video"]
            yield video[:, :, self._count(begin - first) : self._count(end - first)]

    def _count(self, latent_frames: int) -> int:
        return self._frames.times * latent_frames + self._frames.plus if latent_frames else 0


def _to_numpy(value: Any, spec: TensorSpec, rows: int) -> NDArray[Any]:  # noqa: ANN401  # a tensor or a number
    tensor = value if isinstance(value, Tensor) else torch.tensor(value)
    if tensor.ndim == 0:
        tensor = tensor.expand(rows)
    if tensor.ndim == 1 and len(spec.dims) == 1 and spec.dims[0] == 1:
        tensor = tensor[:, None]
    array: NDArray[Any] = tensor.to(getattr(torch, spec.dtype)).contiguous().numpy()
    return array
