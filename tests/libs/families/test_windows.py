"""Decoders in windows: margins seen by gradients, windows that cover a video, pictures equal to the whole's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTX2Video, AutoencoderKLLTXVideo, AutoencoderKLWan
from torch import Tensor, nn

from libs.families.diorama.autoencoder import AutoencoderDiorama
from libs.families.ltx2_networks import LTX2Decoder
from libs.families.ltx_networks import LTXDecoder
from libs.families.networks import NETWORKS, Linear
from libs.families.wan_networks import WanDecoder
from libs.families.windows import Margin, windows

pytestmark = pytest.mark.usefixtures("one_thread")

LTX = {
    "decoder_block_out_channels": (4, 8, 8, 8),
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (2, 1, 1, 2, 1),
    "latent_channels": 4,
}
LTX_095 = LTX | {
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 2, 1, 2),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False, False, False, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
LTX2 = {
    "latent_channels": 4,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (2, 1, 1, 1),
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
WAN = {"base_dim": 4, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
WAN_5B = {"in_channels": 12, "out_channels": 12, "patch_size": 2, "is_residual": True, "decoder_base_dim": 4}
DECODERS: dict[str, tuple[str, Any, dict[str, Any], Margin]] = {
    "diorama": ("diorama", AutoencoderDiorama, {"latent_channels": 4, "latent_width": 4, "detail_width": 4}, (5, 5)),
    "ltx": ("ltx", AutoencoderKLLTXVideo, LTX, (12, 12)),
    "ltx-causal": ("ltx", AutoencoderKLLTXVideo, LTX | {"decoder_causal": True}, (23, 0)),
    "ltx-0.9.5": ("ltx", AutoencoderKLLTXVideo, LTX_095, (10, 10)),
    "ltx2": ("ltx2", AutoencoderKLLTX2Video, LTX2 | {"decoder_causal": False}, (7, 7)),
    "ltx2-causal": ("ltx2", AutoencoderKLLTX2Video, LTX2, (14, 0)),
    "wan22": ("wan22", AutoencoderKLWan, WAN, (38, 0)),
    "wan22-5b": ("wan22-5b", AutoencoderKLWan, WAN | WAN_5B, (38, 0)),
}
"""Few channels and layers, Wan's and Diorama's as many as the real ones; what the margins are."""
WRAPPED: dict[Any, Any] = {
    AutoencoderKLWan: WanDecoder,
    AutoencoderKLLTXVideo: LTXDecoder,
    AutoencoderKLLTX2Video: LTX2Decoder,
}


def decoder(kind: Any, config: Mapping[str, Any]) -> nn.Module:
    """In float64, weights off their initial values, so that nothing is multiplied by 0."""
    torch.manual_seed(0)
    vae = kind(**config).double().eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    if kind is AutoencoderDiorama:
        vae.basis.normal_()
    return WRAPPED[kind](vae) if kind in WRAPPED else vae


def decode(module: nn.Module, latents: Tensor) -> Tensor:
    match module:
        case AutoencoderDiorama():
            return module.decode(latents)
        case LTXDecoder():
            made: Tensor = module(latents, torch.zeros_like(latents))
        case _:
            made = module(latents)
    return made


@pytest.mark.parametrize("name", DECODERS)
def test_margins_are_as_far_as_gradients_reach(name: str) -> None:
    family, kind, config, expected = DECODERS[name]
    network = NETWORKS[family]["vae_decoder"]
    before, after = margin = network.margin(config | {"depth": 3})
    assert margin == expected
    held = network.outputs[0].dims[1]
    assert isinstance(held, Linear)
    begin, total = before + 2, before + after + 5
    side = 2 if family == "ltx2" else 1  # it reflects at borders
    latents = torch.randn(1, 4, total, side, side, dtype=torch.float64, requires_grad=True)
    video = decode(decoder(kind, config), latents)
    seen = video[:, :, held.times * begin + held.plus : held.times * (begin + 1) + held.plus]
    assert seen.shape[2] == held.times
    (gradient,) = torch.autograd.grad(seen.pow(2).sum(), latents)
    reached = gradient.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()
    assert (reached[0], reached[-1]) == (begin - before, begin + after), "exact: a longer margin costs work"


def test_a_decoder_that_draws_noise_has_no_windows() -> None:
    noisy = {"decoder_inject_noise": (True, False, False, False, False)}
    assert NETWORKS["ltx"]["vae_decoder"].margin(noisy) is None


@pytest.mark.parametrize("margin", [(0, 0), (5, 5), (38, 0), (2, 7)])
@pytest.mark.parametrize("total", [1, 7, 60, 200])
def test_windows_cover_a_video_once_with_their_margins(margin: Margin, total: int) -> None:
    before, after = margin
    calls = list(windows(total, 16, margin))
    assert [frame for _, begin, end, _ in calls for frame in range(begin, end)] == list(range(total))
    for first, begin, end, last in calls:
        assert (first, last) == (max(begin - before, 0), min(end + after, total))
        assert last - first <= 16 + before + after
    if total <= 16 + before + after:
        assert len(calls) == 1
