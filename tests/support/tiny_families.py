"""Writes model folders of diffusers' families: the real classes and layout, saved by diffusers' own pipelines, tiny
random weights. Sizes, frame rates and ratios between pixels and latents are the real models'.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ByT5Tokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2TokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

__all__ = ["TINY", "write_tiny"]

WORDS = ("a", "red", "ball", "rolls", "down", "the", "hill", "at", "night", "no", "blur", "waves", "on", "beach")
PIECES = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz,."]
TEXT = {"vocab_size": len(PIECES), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
GEMMA_PIECES = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<image>", "▁", *"abcdefghijklmnopqrstuvwxyz,.")
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tiny(models_dir: Path, name: str) -> Path:
    """Write ``models_dir/name``, with ``name`` of `TINY`, and return its path."""
    folder = models_dir / name
    family, size, fps, image, make = TINY[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make().save_pretrained(folder, safe_serialization=True)
    (folder / "soundstage.json").write_text(json.dumps(_card(name, family, size, fps, image=image), indent=2))
    return folder


def _ltx(*, timestep_conditioning: bool = False) -> Any:
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        timestep_conditioning=timestep_conditioning,
    )
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=TEXT["d_model"],
    )
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=2.05, base_shift=0.95),
        vae=_moved(vae),
        text_encoder=_moved(T5EncoderModel(T5Config(**TEXT))),
        tokenizer=_t5_tokenizer(),
        transformer=_moved(transformer),
    )


def _hunyuan(kind: Any, task: str, **parts: Any) -> Any:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=16,
        rope_axes_dim=(4, 6, 6),
        target_size=64,
        task_type=task,
    )
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(16, 16, 16, 16, 16), layers_per_block=1)
    text = Qwen2_5_VLTextConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    )
    return kind(
        text_encoder=_moved(Qwen2_5_VLTextModel(text)),
        tokenizer=_qwen_tokenizer(),
        transformer=_moved(transformer),
        vae=_moved(vae),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=_moved(T5EncoderModel(T5Config(**TEXT | {"vocab_size": 384}))),
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
        **parts,
    )


def _hunyuan_image_to_video() -> Any:
    eye = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=27,
        patch_size=1,
    )
    return _hunyuan(
        HunyuanVideo15ImageToVideoPipeline,
        "i2v",
        image_encoder=_moved(SiglipVisionModel(eye)),
        feature_extractor=SiglipImageProcessor(size={"height": 27, "width": 27}),
    )


def _ltx2() -> Any:
    channels = {"block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 16, 32)}
    layers = {"layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1)}
    ratios = {"spatial_compression_ratio": 32, "temporal_compression_ratio": 8}
    vae = AutoencoderKLLTX2Video(latent_channels=8, **channels, **layers, **ratios)
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=8, latent_channels=2, ch_mult=(1, 1, 1), num_res_blocks=1, mel_bins=16
    )
    for autoencoder in (vae, audio_vae):
        autoencoder.latents_mean.normal_()
        autoencoder.latents_std.uniform_(0.5, 2.0)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
        rope_type="split",
    )
    connectors = LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=3,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        rope_double_precision=False,
    )
    vocoder = LTX2Vocoder(
        in_channels=32,
        hidden_channels=32,
        upsample_kernel_sizes=[12, 10, 4, 4],
        upsample_factors=[6, 5, 4, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=2.05, base_shift=0.95),
        vae=_moved(vae),
        audio_vae=_moved(audio_vae),
        text_encoder=_moved(_gemma()),
        tokenizer=GemmaTokenizerFast(vocab={piece: index for index, piece in enumerate(GEMMA_PIECES)}, merges=[]),
        connectors=_moved(connectors),
        transformer=_moved(transformer),
        vocoder=_moved(vocoder),
    )


def _gemma() -> Any:
    text = {
        "vocab_size": len(GEMMA_PIECES),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 2048,
    }
    eye = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=eye, mm_tokens_per_image=4, image_token_index=5)
    )


def _qwen_tokenizer() -> Any:
    """Every byte a token, with Qwen's chat template."""
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {piece: index for index, piece in enumerate([*alphabet, *QWEN_SPECIAL])}
    tokenizer = Qwen2TokenizerFast(vocab=vocab, merges=[], pad_token=QWEN_SPECIAL[0], eos_token=QWEN_SPECIAL[2])
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_SPECIAL[1:])})
    tokenizer.chat_template = QWEN_TEMPLATE
    return tokenizer


def _wan_text_to_video() -> Any:
    return WanPipeline(
        **_wan(_wan_vae()), transformer=_wan_transformer(4), transformer_2=_wan_transformer(4), boundary_ratio=0.875
    )


def _wan_image_to_video() -> Any:
    """The transformers also see four channels of mask and the given frame's latents."""
    return WanImageToVideoPipeline(
        **_wan(_wan_vae()), transformer=_wan_transformer(12), transformer_2=_wan_transformer(12), boundary_ratio=0.9
    )


def _wan_5b() -> Any:
    """Its autoencoder works on patches of 2x2 pixels."""
    vae = _wan_vae(
        in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16, is_residual=True, decoder_base_dim=8
    )
    return WanPipeline(**_wan(vae), transformer=_wan_transformer(4), expand_timesteps=True)


def _wan(vae: AutoencoderKLWan) -> dict[str, Any]:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return {
        "tokenizer": _t5_tokenizer(),
        "text_encoder": _moved(UMT5EncoderModel(UMT5Config(**TEXT))),
        "vae": vae,
        "scheduler": scheduler,
    }


def _wan_vae(**changes: Any) -> AutoencoderKLWan:
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.9, 2.0, 1.5],
        **changes,
    )
    return _moved(vae)


def _wan_transformer(in_channels: int) -> Any:
    return _moved(
        WanTransformer3DModel(
            in_channels=in_channels,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=TEXT["d_model"],
            freq_dim=8,
            ffn_dim=16,
            num_layers=2,
            rope_max_seq_len=32,
        )
    )


def _t5_tokenizer() -> T5TokenizerFast:
    return T5TokenizerFast(vocab=[(piece, -index / 10) for index, piece in enumerate(PIECES)], extra_ids=0)


def _moved(model: Any) -> Any:
    """Every weight off its initial value, so that nothing is multiplied by 0 or left out unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def _card(name: str, family: str, size: tuple[int, int], fps: int, *, image: bool) -> dict[str, object]:
    return {
        "name": name,
        "family": family,
        "description": "Random weights: noise in, noise out.",
        "image_to_video": image,
        "image_required": name.endswith("-i2v"),
        "joint_audio": family == "ltx2",
        "defaults": {
            "duration_seconds": 0.25,
            "width": size[0],
            "height": size[1],
            "fps": fps,
            "num_inference_steps": 4,
            "fast_num_inference_steps": 2,
            "guidance_scale": 3.0,
        },
        "limits": {
            "min_duration_seconds": 0.1,
            "max_duration_seconds": 2.0,
            "sizes": [size],
            "fps": [fps],
            "max_num_inference_steps": 20,
        },
    }


TINY: dict[str, tuple[str, tuple[int, int], int, bool, Callable[[], Any]]] = {
    "hunyuan15-t2v": ("hunyuan15", (64, 64), 24, False, lambda: _hunyuan(HunyuanVideo15Pipeline, "t2v")),
    "hunyuan15-i2v": ("hunyuan15", (64, 64), 24, True, _hunyuan_image_to_video),
    "ltx": ("ltx", (64, 64), 25, True, _ltx),
    "ltx-0.9.5": ("ltx", (64, 64), 25, True, lambda: _ltx(timestep_conditioning=True)),
    "ltx2": ("ltx2", (64, 64), 24, True, _ltx2),
    "wan22-t2v": ("wan22", (32, 32), 16, False, _wan_text_to_video),
    "wan22-i2v": ("wan22", (32, 32), 16, True, _wan_image_to_video),
    "wan22-5b": ("wan22-5b", (64, 64), 24, True, _wan_5b),
}
"""Name -> family, (width, height), frames a second, takes a first frame, the pipeline."""
