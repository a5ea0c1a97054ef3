"""LoRAs: the latents are those of weights that were changed by hand, and the model itself stays as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from libs.errors import FailedPrecondition
from libs.families import load_denoise, load_encode
from libs.families.pipelines import DenoisePipeline
from libs.families.table import FAMILIES
from tests.support.loras import RANK, factors, fuse_by_hand, lora_file
from tests.support.tiny_diorama import write_tiny_diorama
from tests.support.tiny_families import TINY, write_tiny

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {
    "ltx": ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2"),
    "ltx2": ("transformer_blocks.0.attn1.to_out.0", "transformer_blocks.0.audio_attn1.to_v", "proj_in"),
    "wan22-t2v": ("blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj", "patch_embedding"),
    "wan22-5b": ("blocks.0.attn2.to_k", "condition_embedder.time_proj"),
    "hunyuan15-t2v": ("transformer_blocks.0.attn.to_q", "x_embedder.proj"),
    "diorama": ("transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.conv_inverted"),
}
FRAMES = {"ltx": 9, "ltx2": 9}


def folder_of(models: Path, name: str) -> Path:
    if (models / name).exists():
        return models / name
    return write_tiny_diorama(models) if name == "diorama" else write_tiny(models, name)


def family_of(name: str) -> str:
    return name if name == "diorama" else TINY[name][0]


def conditioning_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    if name == "diorama":
        from tests.libs.families.test_denoise import conditioning

        return conditioning()
    width, height = TINY[name][1]
    encode = load_encode(folder, family_of(name))
    return encode("a red ball", "blur", None, width, height, FRAMES.get(name, 5))


def latents(denoise: DenoisePipeline, given: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    width, height = (32, 32) if name == "diorama" else TINY[name][1]
    made = denoise(
        given,
        width=width,
        height=height,
        num_frames=FRAMES.get(name, 5),
        fps=12.0,
        num_inference_steps=2,
        guidance_scale=3.0,
        seed=7,
        preview_every_steps=0,
        on_step=lambda _: None,
    )
    return made["latents"]


def loaded(folder: Path, name: str) -> dict[str, nn.Module]:
    """The transformers, with weights of their own."""
    modules = {part: load(folder) for part, load in FAMILIES[family_of(name)].transformers.items()}
    return {part: module.load() if hasattr(module, "load") else module for part, module in modules.items()}


@pytest.mark.parametrize("name", LAYERS)
def test_latents_are_those_of_weights_fused_by_hand_and_the_model_stays(models: Path, name: str) -> None:
    folder = folder_of(models, name)
    given, denoise = conditioning_of(folder, name), load_denoise(folder, family_of(name))
    plain = latents(denoise, given, name)
    transformers = loaded(folder, name)
    made = {part: factors(module, *LAYERS[name], seed=i) for i, (part, module) in enumerate(transformers.items())}

    twin = denoise.with_lora(lora_file(made), 0.5)
    changed = latents(twin, given, name)

    by_hand = {part: fuse_by_hand(module, made[part], 0.5) for part, module in transformers.items()}
    np.testing.assert_array_equal(changed, latents(load_denoise(folder, family_of(name), by_hand), given, name))
    assert np.abs(changed - plain).max() > 1e-3
    np.testing.assert_array_equal(latents(denoise, given, name), plain)


def test_what_a_lora_does_not_change_is_the_same_memory(models: Path) -> None:
    folder = folder_of(models, "wan22-t2v")
    base = load_denoise(folder, "wan22")
    model = base.transformer("transformer_2")
    twin = base.with_lora(lora_file({"transformer_2": factors(model, "blocks.0.attn1.to_q")}), 1.0)
    assert twin.transformer("transformer") is base.transformer("transformer")
    ours, theirs = dict(twin.transformer("transformer_2").named_parameters()), dict(model.named_parameters())
    assert [name for name in theirs if ours[name] is not theirs[name]] == ["blocks.0.attn1.to_q.weight"]


def fuse(models: Path, name: str, data: bytes, layer: str) -> Tensor:
    """How much a LoRA moves one layer's weight."""
    base = load_denoise(folder_of(models, name), family_of(name))
    twin = base.with_lora(data, 1.0)
    weights = [one.transformer("transformer").get_submodule(layer).weight for one in (twin, base)]
    return weights[0] - weights[1]


QKVO = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "o"))
A_B, DOWN_UP = ("lora_A", "lora_B"), ("lora_down", "lora_up")


@pytest.mark.parametrize(
    ("name", "file", "layer", "parts"),
    [
        ("wan22-5b", "diffusion_model.blocks.0.self_attn.q", "blocks.0.attn1.to_q", A_B),
        ("wan22-5b", "diffusion_model.blocks.1.ffn.0", "blocks.1.ffn.net.0.proj", DOWN_UP),
        ("ltx", "diffusion_model.transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_q", A_B),
        ("ltx2", "diffusion_model.patchify_proj", "proj_in", A_B),
        ("diorama", "transformer.transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_q", DOWN_UP),
    ],
)
def test_names_of_other_tools_and_an_alpha_of_its_own(
    models: Path, name: str, file: str, layer: str, parts: tuple[str, str]
) -> None:
    model = loaded(folder_of(models, name), name)["transformer"]
    down, up = factors(model, layer)[layer]
    tensors = {f"{file}.{parts[0]}.weight": down, f"{file}.{parts[1]}.weight": up}
    tensors[f"{file}.alpha"] = torch.tensor(1.0)
    torch.testing.assert_close(fuse(models, name, save(tensors), layer), up @ down / RANK, rtol=1e-4, atol=1e-5)


def test_musubi_tuner_writes_wan_s_names_with_underscores(models: Path) -> None:
    model = loaded(folder_of(models, "wan22-5b"), "wan22-5b")["transformer"]
    names = {
        f"attn{n}.{ours}": f"{kind}_attn_{theirs}" for n, kind in ((1, "self"), (2, "cross")) for ours, theirs in QKVO
    }
    names |= {"ffn.net.0.proj": "ffn_0", "ffn.net.2": "ffn_2"}
    made = factors(model, *(f"blocks.{block}.{ours}" for block in range(2) for ours in names))
    tensors = {}
    for layer, (down, up) in made.items():
        _, block, ours = layer.split(".", 2)
        base = f"lora_unet_blocks_{block}_{names[ours]}"
        parts = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}
        tensors |= {f"{base}.{part}": tensor for part, tensor in parts.items()}
    down, up = made["blocks.1.attn2.to_out.0"]
    moved = fuse(models, "wan22-5b", save(tensors), "blocks.1.attn2.to_out.0")
    torch.testing.assert_close(moved, up @ down / RANK, rtol=1e-4, atol=1e-5)


def test_what_peft_was_told_in_the_header_counts(models: Path) -> None:
    layers = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn1.to_q")
    made = factors(loaded(folder_of(models, "ltx"), "ltx")["transformer"], *layers)
    told = {"transformer.r": RANK, "transformer.lora_alpha": 8, "transformer.alpha_pattern": {"1.attn1.to_q": 1}}
    for settings, scales in (
        (told, (8 / RANK, 1 / RANK)),
        ({"transformer.lora_alpha": 8, "transformer.use_rslora": True}, (8 / RANK**0.5, 8 / RANK**0.5)),
    ):
        for layer, scale in zip(layers, scales, strict=True):
            down, up = made[layer]
            moved = fuse(models, "ltx", lora_file({"transformer": made}, settings), layer)
            torch.testing.assert_close(moved, scale * (up @ down), rtol=1e-4, atol=1e-4)


def _renamed(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[bytes], bytes]:
    def renamed(data: bytes) -> bytes:
        tensors = load(data)
        change(tensors)
        return save(tensors)

    return renamed


ONES = {"x": (torch.ones(1, 1), torch.ones(1, 1))}
Y, SLOW = {"y": torch.ones(1)}, {"transformer.alpha_pattern": {"(a+)+": 1}}
NAN = {"transformer.lora_alpha": float("nan")}
FIRST = "transformer.transformer_blocks.0.attn1.to_q"
DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "pickle": (lambda _: pickle.dumps({"a": 1}), "LORA_UNUSABLE", "pickled ones"),
    "cut": (lambda data: data[:-8], "LORA_UNUSABLE", "no safetensors file"),
    "nothing": (lambda _: b"", "LORA_UNUSABLE", "no safetensors file"),
    "no tensors": (lambda _: save({}), "LORA_UNUSABLE", "no layers"),
    "a model": (lambda _: save({"proj_in.weight": torch.zeros(2, 2)}), "LORA_UNUSABLE", "belongs to no LoRA"),
    "half": (_renamed(lambda t: t.pop(f"{FIRST}.lora_B.weight")), "LORA_UNUSABLE", "both factors"),
    "DoRA": (_renamed(lambda t: t.update({f"{FIRST}.dora_scale": torch.ones(1)})), "LORA_UNUSABLE", "DoRA"),
    "numbers": (_renamed(lambda t: t[f"{FIRST}.lora_B.weight"].fill_(torch.inf)), "LORA_UNUSABLE", "not finite"),
    "vectors": (
        _renamed(lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(RANK)})),
        "LORA_UNUSABLE",
        "matrices",
    ),
    "two alphas": (_renamed(lambda t: t.update({f"{FIRST}.alpha": torch.ones(2)})), "LORA_UNUSABLE", "alpha"),
    "no alpha": (lambda _: lora_file({"transformer": ONES}, NAN), "LORA_UNUSABLE", "alpha"),
    "nesting": (lambda _: lora_file({"transformer": ONES}, "[" * 100_000), "LORA_UNUSABLE", "no safetensors file"),
    "too much": (_renamed(lambda t: t[f"{FIRST}.lora_B.weight"].fill_(3e38)), "LORA_UNFITTING", "infinite"),
    "mixed names": (
        lambda _: save({"diffusion_model.x.lora_A.weight": torch.ones(2, 2), **Y}),
        "LORA_UNUSABLE",
        "names",
    ),
    "pattern": (lambda _: lora_file({"transformer": ONES}, SLOW), "LORA_UNUSABLE", "alpha_pattern"),
    "text encoder": (lambda _: lora_file({"text_encoder": ONES}), "LORA_UNFITTING", "transformer."),
    "other layer": (lambda _: lora_file({"transformer": ONES}), "LORA_UNFITTING", "no layer"),
    "other shape": (
        _renamed(lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(RANK, 3)})),
        "LORA_UNFITTING",
        "factors",
    ),
}


@pytest.mark.parametrize(("damage", "reason", "says"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_lora_for_the_model_is_refused(
    models: Path, damage: Callable[[bytes], bytes], reason: str, says: str
) -> None:
    denoise = load_denoise(folder_of(models, "ltx"), "ltx")
    good = lora_file({"transformer": factors(denoise.transformer("transformer"), *LAYERS["ltx"])})
    denoise.with_lora(good, 1.0)
    with pytest.raises(FailedPrecondition, match=says) as refused:
        denoise.with_lora(damage(good), 1.0)
    assert refused.value.reason == reason
    assert "give" in str(refused.value)


def test_biases_of_a_lora_are_added(models: Path) -> None:
    base, layer = load_denoise(folder_of(models, "ltx"), "ltx"), "transformer_blocks.0.attn1.to_q"
    down, up = factors(base.transformer("transformer"), layer)[layer]
    parts = {"lora_A.weight": down, "lora_B.weight": up, "lora_B.bias": torch.ones(len(up))}
    twin = base.with_lora(save({f"transformer.{layer}.{part}": tensor for part, tensor in parts.items()}), 0.5)
    biases = [one.transformer("transformer").get_submodule(layer).bias for one in (twin, base)]
    torch.testing.assert_close(biases[0], biases[1] + 0.5)
