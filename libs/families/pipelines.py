"""The stages as callables: one thin shell over a family's Modular Diffusers blocks each.

All run under ``torch.inference_mode`` and may be called from several threads at once: a call builds its own diffusers
pipeline around the shared weights (milliseconds), because schedulers keep the state of one run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.families.colours import Colours
from libs.families.diorama.denoising import to_uint8
from libs.families.guidance import BatchedGuidance, RowsTransformer
from libs.families.loading import Lazy, LazyModel
from libs.families.lora import fused
from libs.families.lora_inputs import LoraName, NamedLora
from libs.families.modular import (
    Components,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    Module,
    SchedulerMixin,
)
from libs.families.networks import lora_layers, network_named, rounded, zeros
from libs.families.remote import RemoteTransformer
from libs.families.step import LoopState, OnStep
from libs.families.step_cache import StepCache
from libs.families.stopping import LoopStopped
from libs.families.table import StageBlocks, family_named

__all__ = ["DecodePipeline", "DenoisePipeline", "EncodePipeline"]


class EncodePipeline:
    def __init__(self, model_dir: Path, family: str) -> None:
        self._family = family_named(family)
        self._components = self._family.encode.load(model_dir)

    @torch.inference_mode()
    def __call__(
        self,
        prompt: str,
        negative_prompt: str,
        image: NDArray[np.uint8] | None,
        width: int,
        height: int,
        num_frames: int,
    ) -> dict[str, NDArray[Any]]:
        """Conditioning tensors by name. ``image`` is (H, W, 3) of any size; it is cropped and scaled."""
        inputs: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
        }
        if image is not None:
            inputs["image"] = image
        frames = self._family.frames_made(num_frames)
        return _to_numpy(_run(self._family.encode, self._components, {**inputs, "num_frames": frames}))


class DenoisePipeline:
    """Transformers are the pluggable components: ``transformers`` by name replace the model folder's.

    Any module does that is called like the family's own and has its config. ``cache_threshold``: see `StepCache`; 0
    makes every call.
    """

    def __init__(
        self,
        model_dir: Path,
        family: str,
        transformers: Mapping[str, nn.Module] = MappingProxyType({}),
        cache_threshold: float = 0.0,
    ) -> None:
        self._family, self._family_name = family_named(family), family
        self.cache_threshold = cache_threshold
        self._components = self._family.denoise.load(model_dir)
        self._components |= {
            name: RowsTransformer(transformers[name] if name in transformers else load(model_dir))
            for name, load in self._family.transformers.items()
        }
        self.colours = self._draws(model_dir, family)

    @torch.inference_mode()
    def __call__(
        self,
        conditioning: Mapping[str, NDArray[Any]],
        *,
        width: int,
        height: int,
        num_frames: int,
        fps: float,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        preview_every_steps: int,
        on_step: OnStep,
        resume: LoopState | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Denoise one video: {"latents": (1, C, F, h, w) float32}; the same arguments give the same bits.

        ``resume``: the state after a step of an earlier run with the same arguments, to go on from; the bits are the
        same again. ``on_step`` is called after each step; what it raises ends the loop and is raised here. Raises
        FailedPrecondition when ``conditioning`` does not fit.
        """
        self._family.check_conditioning(conditioning, self._components, width, height)
        tensors = {name: self._typed(name, torch.from_numpy(tensor)) for name, tensor in conditioning.items()}
        if preview_every_steps and self.colours is not None:
            self.colours.begin()
        guiders = {name: BatchedGuidance(guidance_scale) for name in ("guider", "guider_2")}
        components = {**self._components, **guiders, **self._caches(), "colours": self.colours}
        inputs = {
            "width": width,
            "height": height,
            "num_frames": self._family.frames_made(num_frames),
            "frame_rate": fps,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "preview_every_steps": preview_every_steps,
            "on_step": on_step,
            "resume": resume,
        }
        try:
            outputs = _run(self._family.denoise, components, tensors | inputs)
        except LoopStopped as stopped:
            raise stopped.cause from None
        return _to_numpy(outputs)

    @property
    def has_weights(self) -> bool:
        """Whether the transformers are in this process, so that there can be twins of them."""
        return not any(
            isinstance(self._components[name].inner, RemoteTransformer) for name in self._family.transformers
        )

    def with_lora(self, data: bytes, scale: float) -> DenoisePipeline:
        """A twin whose transformers have the LoRA in the safetensors file ``data`` in their weights, 0 to 2 times.

        What the LoRA does not change is shared. Raises FailedPrecondition LORA_UNUSABLE or LORA_UNFITTING.
        """
        twin = copy.copy(self)
        twin._components = dict(self._components)
        for name, layers in lora_layers(self._family_name, data).items():
            twin._components[name] = RowsTransformer(fused(self.transformer(name), layers, scale))
            twin._components[name].dtype = self._components[name].dtype
        return twin

    def naming_lora(self, sha256: str, scale: float, size_bytes: int, read: Callable[[], bytes]) -> DenoisePipeline:
        """The same for transformers elsewhere: calls name the LoRA, and raise what is wrong with it.

        ``read`` gives the file; called, from any thread, whenever one of those that run them does not know it.
        """
        lora = NamedLora(LoraName(sha256, scale, size_bytes), read)
        twin = copy.copy(self)
        twin._components = dict(self._components)
        for name in self._family.transformers:
            twin._components[name] = RowsTransformer(self._components[name].inner.with_lora(lora))
        return twin

    def transformer(self, name: str) -> nn.Module:
        """The model itself, loaded."""
        inner: nn.Module = self._components[name].inner
        return inner.load() if isinstance(inner, LazyModel) else inner

    @torch.inference_mode()
    def probe(self, width: int, height: int, num_frames: int) -> None:
        """One transformer call as a step with guidance makes it, of zeros: how long it takes is all it tells.

        Raises FailedPrecondition NETWORK_UNKNOWN for a family without a row in the table of networks.
        """
        name = next(iter(self._family.transformers))
        transformer = self._components[name].inner
        network = network_named(self._family_name, name)
        usual = {text: points[1] for text, points in network.texts.items()}
        names = {**network.sizes(width, height, num_frames), **usual}
        given = zeros(network, transformer.config, names, rows=2)
        if isinstance(transformer, RemoteTransformer):
            transformer.remote(given)
        else:
            dtype = getattr(transformer, "dtype", torch.float32)
            network.forward(transformer, {spec.name: rounded(given[spec.name], spec, dtype) for spec in network.inputs})

    def _draws(self, model_dir: Path, family: str) -> Colours | None:
        """What draws the previews, from the first run on that asks for them; None: the family's own blocks do."""
        channels, vae = self._family.latent_channels, self._components["vae"]
        if channels is None:
            return None
        # Frames that the latent frame after the first holds.
        ratio = self._family.frames_made(2) - 1
        return Colours(vae.config[channels], ratio, lambda: DecodePipeline(model_dir, family).loaded())

    def _caches(self) -> dict[str, StepCache]:
        """Of one run: what they remember is its own."""
        if not self.cache_threshold:
            return {}
        return {name: StepCache(self._components[name], self.cache_threshold) for name in self._family.transformers}

    def _typed(self, name: str, tensor: Tensor) -> Tensor:
        """Text in the transformer's type, from which diffusers' blocks take that of every call."""
        is_text = "prompt_embeds" in name and tensor.is_floating_point()
        return tensor.to(self._components["transformer"].dtype) if is_text else tensor


class DecodePipeline:
    def __init__(self, model_dir: Path, family: str, decoder: nn.Module | None = None) -> None:
        self._family = family_named(family)
        self._components = self._family.decode.load(model_dir) if decoder is None else {"vae": decoder}
        self._decoder: Module = decoder

    def loaded(self) -> DecodePipeline:
        """Itself, with weights that the first call would else load."""
        for part in self._components.values():
            _own(part)
        return self

    def __call__(self, latents: Mapping[str, NDArray[Any]], num_frames: int) -> Iterator[NDArray[np.uint8]]:
        """Frames in order, in chunks (t, H, W, 3) uint8, ``num_frames`` in all.

        Each chunk is made when it is asked for, so that whoever reads them can tell of progress or stop in between.
        Raises FailedPrecondition LATENTS_UNFIT, at once, when ``latents`` do not fit.
        """
        self._family.check_latents(latents, self._components, num_frames)
        return self._frames({name: torch.from_numpy(tensor) for name, tensor in latents.items()}, num_frames)

    def _frames(self, latents: Mapping[str, Tensor], num_frames: int) -> Iterator[NDArray[np.uint8]]:
        left = num_frames
        for chunk in self._chunks(latents):
            frames = to_uint8(chunk[0, :, :left].float())
            left -= len(frames)
            yield frames
            if not left:
                return

    def _chunks(self, latents: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """A decoder from elsewhere does all that the family's blocks do around theirs."""
        if self._decoder is not None:
            return iter(self._decoder.decode_chunks(**latents))
        return iter(_run(self._family.decode, self._components, latents)[self._family.decode.gives[0]])


def _run(stage: StageBlocks, components: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage gives. Only those components are loaded whose blocks these ``inputs`` choose."""
    blocks = stage.blocks()
    known = {given.name for given in blocks.inputs}
    inputs = {name: value for name, value in inputs.items() if name in known}
    chosen = blocks.get_execution_blocks(**inputs)
    needed = {spec.name for spec in (*chosen.expected_components, *chosen.expected_configs)}
    _without_bars(blocks)
    pipeline: Components = blocks.init_pipeline()
    pipeline.update_components(**{name: _own(part) for name, part in components.items() if name in needed})
    outputs: dict[str, Any] = pipeline(**inputs, output=list(stage.gives))
    return outputs


def _without_bars(blocks: ModularPipelineBlocks) -> None:
    """No progress bars on stderr. A pipeline's own `set_progress_bar_config` reaches the outermost blocks only."""
    for block in blocks.sub_blocks.values():
        if isinstance(block, LoopSequentialPipelineBlocks):
            block.set_progress_bar_config(disable=True)
        else:
            _without_bars(block)


def _own(part: Module) -> Module:
    """One run's own: loaded, and if it keeps the state of a run, a copy."""
    if isinstance(part, Lazy):
        return part.get()
    return copy.deepcopy(part) if isinstance(part, SchedulerMixin) else part


def _to_numpy(outputs: Mapping[str, Tensor | None]) -> dict[str, NDArray[Any]]:
    """numpy has no bfloat16: such tensors become float32, which holds all their values."""
    present = {name: tensor.contiguous() for name, tensor in outputs.items() if tensor is not None}
    return {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for name, tensor in present.items()
    }
