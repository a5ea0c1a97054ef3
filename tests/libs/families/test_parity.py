"""Our stages, one after the other with files in between, against diffusers' own pipelines on the same folders."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from libs.artifacts import MemoryStore, get_tensors, put_tensors
from libs.families import Step, load_decode, load_denoise, load_encode, load_sound
from libs.families.first_frame import fit_image
from libs.families.ltx2 import LTX2Sound
from libs.families.table import FAMILIES
from tests.support.tiny_families import TINY, write_tiny

PROMPT, NEGATIVE = 'a red ball rolls down the hill, at night "no"', "blur"
SEED, GUIDANCE = 11, 3.0
BATCHED = 5e-6
"""Of latents up to 4: what batching both passes of guidance may move them, where the pipeline calls twice."""

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {
    "encode": ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae", "image_encoder", "connectors"),
    "denoise": ("transformer", "transformer_2"),
    "decode": ("vae",),
    "sound": ("audio_vae", "vocoder"),
}
"""Whose weights each stage needs; of all other parts there is the configuration alone."""


@dataclass(frozen=True)
class Case:
    model: str
    pipeline: str
    num_frames: int
    calls: int
    """Transformer calls a step of diffusers' pipeline: 1 with both passes of guidance in a batch, or 2."""
    steps: int = 4
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def from_image(self) -> bool:
        return "ImageToVideo" in self.pipeline

    def __str__(self) -> str:
        return f"{self.model}-{'image' if self.from_image else 'text'}"


LTX2 = {"stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0, "audio_guidance_scale": GUIDANCE}
LTX2 |= {"audio_stg_scale": 0.0, "audio_modality_scale": 1.0, "audio_guidance_rescale": 0.0}
"""Guidance by the negative prompt and nothing else."""

CASES = [
    Case("ltx", "LTXPipeline", 9, 1),
    Case("ltx", "LTXImageToVideoPipeline", 9, 1),
    Case("ltx-0.9.5", "LTXPipeline", 9, 1, arguments={"decode_timestep": 0.05, "decode_noise_scale": 0.025}),
    Case("ltx2", "LTX2Pipeline", 9, 1, arguments=LTX2),
    Case("ltx2", "LTX2ImageToVideoPipeline", 9, 1, arguments=LTX2),
    Case("wan22-t2v", "WanPipeline", 5, 2),
    Case("wan22-i2v", "WanImageToVideoPipeline", 5, 2),
    Case("wan22-5b", "WanPipeline", 5, 2),
    Case("wan22-5b", "WanImageToVideoPipeline", 5, 2),
    Case("hunyuan15-t2v", "HunyuanVideo15Pipeline", 5, 2, steps=2),
    Case("hunyuan15-i2v", "HunyuanVideo15ImageToVideoPipeline", 5, 2, steps=2),
]

Tensors = dict[str, np.ndarray]


class RowByRow(nn.Module):
    """The real transformer, called as those pipelines call it: once for each pass of guidance."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.config, self.dtype = inner, inner.config, inner.dtype
        self.calls = 0

    def forward(self, **inputs: Any) -> Any:
        rows = len(inputs["encoder_hidden_states"])
        self.calls += rows
        parts = [
            self.inner(
                **{
                    name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
                    for name, value in inputs.items()
                }
            )
            for row in range(rows)
        ]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def folder_of(models: Path, name: str) -> Path:
    return models / name if (models / name).exists() else write_tiny(models, name)


def with_only(folder: Path, stage: str, into: Path) -> Path:
    """A copy in which nothing has weights but what ``stage`` needs."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors"))
    for part in PARTS[stage]:
        if (folder / part).exists():
            shutil.copytree(folder / part, into / part, dirs_exist_ok=True)
    return into


def through_a_file(tensors: Tensors) -> Tensors:
    store = MemoryStore("parity")
    return get_tensors(store, put_tensors(store, "t/v/stage/a/tensors.safetensors", tensors))


def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def encoded(folder: Path, case: Case) -> Tensors:
    family, (width, height), *_ = TINY[case.model]
    image = picture() if case.from_image else None
    return through_a_file(load_encode(folder, family)(PROMPT, NEGATIVE, image, width, height, case.num_frames))


def denoised(folder: Path, case: Case, conditioning: Tensors, *, row_by_row: bool = False) -> Tensors:
    family, (width, height), fps, *_ = TINY[case.model]
    steps: list[Step] = []
    kinds = FAMILIES[family].transformers
    others = {name: RowByRow(load(folder)) for name, load in kinds.items()} if row_by_row else {}
    made = load_denoise(folder, family, others)(
        conditioning,
        width=width,
        height=height,
        num_frames=case.num_frames,
        fps=float(fps),
        num_inference_steps=case.steps,
        guidance_scale=GUIDANCE,
        seed=SEED,
        preview_every_steps=0,
        on_step=steps.append,
    )
    assert [(step.index, step.total) for step in steps] == [(index, case.steps) for index in range(1, case.steps + 1)]
    assert all(other.calls for other in others.values()), "every expert has its steps"
    return through_a_file(made)


def decoded(folder: Path, case: Case, latents: Tensors) -> np.ndarray:
    return np.concatenate(list(load_decode(folder, TINY[case.model][0])(latents, case.num_frames)))


def theirs(folder: Path, case: Case) -> tuple[np.ndarray, np.ndarray, torch.Tensor | None]:
    """The latents after the last step, the frames and the sound of a joint model, from diffusers' pipeline."""
    _, (width, height), fps, *_ = TINY[case.model]
    pipeline = getattr(diffusers, case.pipeline).from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {
        "width": width,
        "height": height,
        "frame_rate": fps,
        "guidance_scale": GUIDANCE,
        "image": Image.fromarray(fit_image(picture(), width, height)),
        **case.arguments,
    }
    known = inspect.signature(pipeline.__call__).parameters
    final: list[torch.Tensor] = []

    def keep(_pipeline: Any, _index: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        final.append(values["latents"])
        return {}

    if "callback_on_step_end" in known:
        arguments |= {"callback_on_step_end": keep, "callback_on_step_end_tensor_inputs": ["latents"]}
    else:
        step = pipeline.scheduler.step
        pipeline.scheduler.step = lambda *args, **more: final.append((made := step(*args, **more))[0]) or made
    made = pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=case.num_frames,
        num_inference_steps=case.steps,
        generator=torch.Generator("cpu").manual_seed(SEED),
        output_type="np",
        **{name: value for name, value in arguments.items() if name in known},
    )
    return final[-1].numpy(), np.round(made.frames[0] * 255).astype(np.uint8), getattr(made, "audio", None)


def compared(latents: Tensors, case: Case, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ours in the pipeline's form, and the pipeline's."""
    got = latents["latents"]
    if got.ndim != like.ndim:  # LTX's are packed: (1, tokens, channels)
        got = got[0].reshape(got.shape[1], -1).T[None]
    if case.model == "wan22-5b" and case.from_image:  # the given frame is put back after the pipeline's last callback
        return got[:, :, 1:], like[:, :, 1:]
    return got, like


@pytest.mark.parametrize("case", CASES, ids=str)
def test_stages_equal_the_pipeline(case: Case, models: Path, tmp_path: Path) -> None:
    folder = folder_of(models, case.model)
    only = {stage: with_only(folder, stage, tmp_path / stage) for stage in PARTS}
    conditioning = encoded(only["encode"], case)
    expected, expected_frames, expected_sound = theirs(folder, case)
    assert np.abs(expected).max() > 0.5
    assert expected_frames.std() > 1, "a picture that is all of one colour shows nothing"

    exact = denoised(only["denoise"], case, conditioning, row_by_row=case.calls == 2)
    np.testing.assert_array_equal(*compared(exact, case, expected))
    np.testing.assert_array_equal(decoded(only["decode"], case, exact), expected_frames)
    if expected_sound is not None:
        sound = load_sound(only["sound"], TINY[case.model][0])
        assert isinstance(sound, LTX2Sound)
        waveform, rate = sound.waveform(exact)
        assert rate == 24_000
        np.testing.assert_array_equal(waveform, expected_sound[0].numpy())
        assert waveform.std() > 1e-3, "silence shows nothing"
    if case.calls == 2:
        batched = denoised(only["denoise"], case, conditioning)
        np.testing.assert_allclose(*compared(batched, case, expected), atol=BATCHED, rtol=0)
        frames = decoded(only["decode"], case, batched).astype(int)
        assert np.abs(frames - expected_frames).max() <= 1
