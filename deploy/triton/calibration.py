"""What comes into the chosen layers of a model's transformers, seen in videos that the model makes here, in torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy.triton.engine import EngineError, Quantisation
from deploy.triton.float8 import chosen_layers, quantised
from deploy.triton.onnx_export import Exportable
from libs.catalog import ModelCard
from libs.families import load_denoise, load_encode, load_remote_transformers
from libs.families.networks import Network, network_named
from libs.families.served import ServedNetwork
from libs.families.table import family_named

__all__ = ["Calibration", "calibrate", "example_image"]

PROMPTS = (
    "waves on a beach at sunset",
    "a red balloon rises over a city, the camera follows it",
    "close-up of a woman laughing in the rain at night, neon lights behind her",
    "snow falls on dark pine trees, slow pan to the left",
)
"""Their videos, with guidance, at the smallest size, of the shortest length and in the fewest steps that the model
offers: ranges depend on what is shown and on how much noise is left, little on how many tokens there are."""
HELD_OUT = "a candle flickers beside an open book"
"""Its video takes no part in the ranges: it is what errors are told from."""

Inputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Calibration:
    ranges: dict[str, dict[str, float]]
    """Transformer -> layer -> largest absolute value that came in."""
    calls: dict[str, list[Inputs]]
    """Transformer -> inputs of its calls for the video that takes no part."""

    def quantisation(self, card: ModelCard, name: str, onnx_error: float) -> Quantisation:
        """Errors are computed in torch, each time from the model's own weights."""
        network, ranges = network_named(card.family, name), self.ranges[name]

        def outputs(module: nn.Module, dtype: torch.dtype) -> Tensor:
            return _outputs(network, module, self.calls[name], dtype)

        gc.collect()  # the networks that made the videos: one in float32 may take the memory of all
        exact = outputs(network.load(card.path), torch.float32)
        bfloat16 = outputs(network.load(card.path), torch.bfloat16)
        float8 = outputs(quantised(network.load(card.path), ranges), torch.bfloat16)
        torch.cuda.empty_cache()  # TensorRT builds beside torch
        errors = [float((made - exact).square().mean().sqrt() / exact.std()) for made in (bfloat16, float8)]
        return Quantisation(ranges, onnx_error, *errors)


def calibrate(card: ModelCard, prompts: Sequence[str] = PROMPTS) -> Calibration:
    """On this machine's GPU in bfloat16, where there is one, otherwise on the CPU in float32.

    All transformers of the model are held at once, and its text encoder runs. Raises EngineError when a chosen layer
    was never called.
    """
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    served = {
        name: ServedNetwork(card.path, card.family, name, device=device, dtype=dtype)
        for name in family_named(card.family).transformers
    }
    found = Calibration({name: {} for name in served}, {name: [] for name in served})
    hold = False

    def infer(name: str, inputs: Inputs, _outputs: object) -> dict[str, NDArray[Any]]:
        transformer = name.removeprefix(f"{card.path.name}_")
        if hold:
            found.calls[transformer].append(inputs)
        outputs = served[transformer]({key: torch.from_numpy(array) for key, array in inputs.items()})
        return {key: tensor.numpy() for key, tensor in outputs.items()}

    make = _maker(card, infer)
    with _watched({name: one.module for name, one in served.items()}, found.ranges):
        for index, prompt in enumerate(prompts):
            make(prompt, index)
    _expect_all(served, found.ranges)
    hold = True
    make(HELD_OUT, len(prompts))
    return found


def _maker(card: ModelCard, infer: Any) -> Callable[[str, int], object]:  # noqa: ANN401  # `Infer`
    """Denoises the video of (prompt, seed), its first frame given where the model needs one, or every other time."""
    encode = load_encode(card.path, card.family)
    denoise = load_denoise(card.path, card.family, load_remote_transformers(card.path, card.family, infer))
    defaults, limits = card.defaults, card.limits
    width, height = min(limits.sizes, key=lambda size: size[0] * size[1])
    frames, fps = round(limits.min_duration_seconds * min(limits.fps)), min(limits.fps)

    def make(prompt: str, seed: int) -> object:
        with_image = card.image_required or (card.image_to_video and seed % 2 == 1)
        image = example_image(width, height, seed) if with_image else None
        return denoise(
            encode(prompt, "", image, width, height, frames),
            width=width,
            height=height,
            num_frames=frames,
            fps=fps,
            num_inference_steps=defaults.fast_num_inference_steps,
            guidance_scale=defaults.guidance_scale,
            seed=seed,
            preview_every_steps=0,
            on_step=lambda _step: None,
        )

    return make


def example_image(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Soft clouds of colour, (height, width, 3)."""
    clouds = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    image = nn.functional.interpolate(clouds, (height, width), mode="bilinear", align_corners=True)
    return image[0].permute(1, 2, 0).to(torch.uint8).numpy()


def _expect_all(served: Mapping[str, ServedNetwork], ranges: Mapping[str, Mapping[str, float]]) -> None:
    for network, one in served.items():
        unseen = chosen_layers(one.module).keys() - ranges[network].keys()
        if unseen:
            raise EngineError(
                f"no video that calibration made called {sorted(unseen)[0]} of {network}, nor {len(unseen) - 1} others"
            )


@contextmanager
def _watched(networks: Mapping[str, nn.Module], ranges: Mapping[str, dict[str, float]]) -> Iterator[None]:
    """Meanwhile ``ranges`` of a network grow with what comes into its chosen layers."""
    hooks = []
    for network, module in networks.items():
        for name, layer in chosen_layers(module).items():

            def see(_layer: nn.Module, given: tuple[Tensor, ...], name: str = name, network: str = network) -> None:
                largest = float(given[0].abs().max())
                ranges[network][name] = max(ranges[network].get(name, 0.0), largest)

            hooks.append(layer.register_forward_pre_hook(see))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def _outputs(network: Network, module: nn.Module, calls: list[Inputs], dtype: torch.dtype) -> Tensor:
    """All numbers of all calls, float32, in a row."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    exportable = Exportable(network, module, dtype).eval().to(device)
    made = []
    for call in calls:
        outputs = exportable(*(torch.from_numpy(call[spec.name]).to(device) for spec in network.inputs))
        made += [output.flatten().cpu() for output in outputs]
    return torch.cat(made)
