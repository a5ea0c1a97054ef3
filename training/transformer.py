"""Trains Diorama's two transformers by flow matching on cached latents.

    python -m training.transformer train --minutes 80
    python -m training.transformer train --expert transformer_2 --minutes 80

As in Wan 2.2, one expert makes the layout while there is much noise, another the detail when little is left.

Resumable: the checkpoint holds model, average, optimiser and the seconds already spent, and the learning rate follows
the share of ``--minutes`` that is spent. Batches hold the same number of latent frames whatever their length: many
short windows teach the picture, few long ones teach its motion, so training goes from the ones to the others. What
stands in a batch, and how it teaches left and right: `training/batches.py`; what comes before the first step:
`training/reading.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers.models.transformers.transformer_sana_video import SanaVideoTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from libs.families.diorama.attention import use_quick_attention
from libs.families.diorama.feed_forward import use_quick_feed_forward
from libs.families.diorama.positions import POSITION_CHANNELS, position_channels
from libs.families.precision import mixed_precision
from training.autoencoder import LATENT_CHANNELS
from training.averages import decay
from training.batches import Batch, Contrasts, draw_batch, draw_length
from training.clips import load_clips
from training.muon import Muon
from training.reading import CAPTIONS as MOST_LESSONS
from training.reading import STEPS as MOST_TEACHING
from training.reading import draw_lessons, teach
from training.render import CLIPS

MODEL = Path("models/diorama")
CACHE = Path("training/cache")
CHANNELS = LATENT_CHANNELS
FIRST_FRAME_SHARE = 0.25
SIDES_SHARE = 0.13
"""Of batches: pairs that their captions' left and right tell apart (`training/batches.py`)."""
CONTRASTS_SHARE = 0.1
"""The same for distance and colour together."""
CONTRAST_RANGE = 0.1
"""How far at most sigma of those batches is below the expert's own most: with less noise the clip shows what the
caption says."""
SIGMA_FLOOR = 0.3
OBJECT_WEIGHT = 4.0
HIGH_SIGMA = 0.85
RATES = (2.5, 1.0)
"""Learning rates of Muon and of AdamW, as multiples of the given one."""
HIDDEN_SIDE = 16
"""Muon takes matrices with at least so many rows and columns: not the depthwise kernels, not the modulation tables."""
FULLY_TAUGHT_MINUTES = 10.0
"""A shorter training, which is to see whether all works, gets as much less of the teaching that comes before it."""
SHIFT = 3.0
"""Of the timesteps in use, towards noise (Esser et al. 2024): what stands where is decided at sigma 0.8 and above, and
of 25 evenly spaced ones only six lie there, of these eleven."""
MODEL_INDEX = {
    "_class_name": "DioramaPipeline",
    "_diffusers_version": "0.42.1",
    "camera": ["libs.families.diorama.camera", "CameraReader"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "sound": ["libs.families.diorama.sound", "DioramaSound"],
    "transformer": ["diffusers", "SanaVideoTransformer3DModel"],
    "transformer_2": ["diffusers", "SanaVideoTransformer3DModel"],
    "vae": ["libs.families.diorama.autoencoder", "AutoencoderDiorama"],
}
"""diffusers' table of a model folder's parts."""


@dataclass(frozen=True)
class Expert:
    """One of the two networks, and what it is trained on."""

    heads: int
    """Of 32 channels each."""
    layers: int
    patch: int
    """Sides of a token, in latent pixels."""
    frames_a_batch: int
    """Latent frames."""
    predicts: Literal["clean", "velocity"]
    """The layout expert the clean latents: a token of four pixels holds 64 values, and noise that a narrow network had
    to repeat would fill it ("Back to Basics: Let Denoising Generative Models Denoise", Li and He 2025). The detail
    expert, whose tokens hold 16, the velocity: what is already clean need not be repeated then."""
    centre: float
    spread: float
    """Of the logit of sigma."""
    high_share: float
    """Of samples at sigma above HIGH_SIGMA, where a prompt becomes a layout."""
    moving: bool
    """Whether it learns from clips whose camera moves, too: a layout stands still, and is moved afterwards
    (`CameraMoves` in libs/families/diorama)."""
    least: float
    most: float
    """Sigma stays between: where the expert serves (`BOUNDARY` in libs/families/diorama), and a little beyond."""


EXPERTS = {
    "transformer": Expert(7, 8, 2, 32, "clean", 0.0, 1.2, high_share=0.35, moving=False, least=0.8, most=1.0),
    "transformer_2": Expert(4, 6, 1, 16, "velocity", 1.0, 1.2, high_share=0.0, moving=True, least=0.0, most=0.95),
}
"""By subfolder of the model."""


def checkpoint(name: str) -> Path:
    return CACHE / f"{name}.pt"


def newest_checkpoints() -> dict[str, Path]:
    return {name: checkpoint(name) for name in EXPERTS if checkpoint(name).exists()}


def build(expert: Expert) -> SanaVideoTransformer3DModel:
    width = 32 * expert.heads
    model = SanaVideoTransformer3DModel(
        in_channels=2 * CHANNELS + 1 + POSITION_CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=expert.heads,
        attention_head_dim=32,
        num_layers=expert.layers,
        num_cross_attention_heads=expert.heads,
        cross_attention_head_dim=32,
        cross_attention_dim=width,
        caption_channels=384,
        mlp_ratio=2.5,
        patch_size=(1, expert.patch, expert.patch),
        rope_max_seq_len=64,
    )
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    return model


def flow_loss(expert: Expert, model: torch.nn.Module, drawn: Batch, generator: torch.Generator) -> Tensor:
    """Flow matching (Lipman et al. 2022), sigma from `draw_sigma`; both samples of a pair are given the same noise.

    The loss is the velocity's. Of predicted clean latents that is v = (x_t - x_0) / sigma, with sigma at least
    SIGMA_FLOOR, or rare nearly clean samples would drown the rest of a small batch.
    """
    latents = drawn.latents
    batch, _, frames, height, width = latents.shape
    noise = torch.randn((batch + 1) // 2, *latents.shape[1:], generator=generator).repeat_interleave(2, 0)[:batch]
    sigma = draw_contrast_sigma(expert, batch, generator) if drawn.contrast else draw_sigma(expert, batch, generator)
    noisy = torch.lerp(latents, noise, sigma[:, None, None, None, None])
    condition = torch.zeros(batch, 1 + CHANNELS, frames, height, width)
    given = (torch.rand(batch, generator=generator) < FIRST_FRAME_SHARE) & (frames > 1)
    given &= not drawn.contrast
    condition[given, 0, 0] = 1.0
    condition[given, 1:, 0] = latents[given, :, 0]
    place = position_channels(frames, height, width).expand(batch, -1, -1, -1, -1)
    predicted = model(
        torch.cat([noisy, condition, place], dim=1),
        encoder_hidden_states=drawn.embeds,
        timestep=sigma * 1000,
        encoder_attention_mask=drawn.mask,
        return_dict=False,
    )[0].float()
    if expert.predicts == "velocity":
        return (predicted - (noise - latents)).square().mean()
    error = ((predicted - latents).square().mean(dim=1, keepdim=True) * standing_out(latents)).mean(dim=(1, 2, 3, 4))
    return (error / sigma.clamp(min=SIGMA_FLOOR).square()).mean()


def standing_out(latents: Tensor) -> Tensor:
    """Weights (B, 1, F, H, W) of mean 1: up to OBJECT_WEIGHT times as much where a picture differs from its rows.

    Skies, seas and meadows lie in rows; what stands before them is small, and for a plain mean of squares leaving it
    out is a small mistake, which a short training makes.
    """
    away = (latents - latents.median(dim=-1, keepdim=True).values).square().mean(dim=1, keepdim=True).sqrt()
    weight = (away / (away.mean(dim=(1, 2, 3, 4), keepdim=True) + 1e-6)).clamp(1.0, OBJECT_WEIGHT)
    return weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)


def draw_sigma(expert: Expert, batch: int, generator: torch.Generator) -> Tensor:
    """(batch,) between the expert's least and most: logit-normal there, and a share near pure noise."""
    place = torch.sigmoid(torch.randn(batch, generator=generator) * expert.spread + expert.centre)
    usual = torch.lerp(torch.tensor(expert.least), torch.tensor(expert.most), place)
    high = 1 - (1 - HIGH_SIGMA) * torch.rand(batch, generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < expert.high_share, high, usual)


def draw_contrast_sigma(expert: Expert, batch: int, generator: torch.Generator) -> Tensor:
    """(batch,) within CONTRAST_RANGE below the expert's most; the samples of a pair have one in common."""
    sigma = expert.most - CONTRAST_RANGE * torch.rand((batch + 1) // 2, generator=generator)
    return sigma.repeat_interleave(2)[:batch]


def learning_rate(peak: float, step: int, spent: float) -> float:
    """Warm-up over 100 steps, flat, then linear to zero over the last 60 % of the time."""
    return peak * min(1.0, (step + 1) / 100) * min(1.0, max(0.01, (1 - spent) / 0.6))


def _optimizers(model: torch.nn.Module, peak: float) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the matrices within the blocks, AdamW for everything else."""
    named = dict(model.named_parameters())
    hidden = [n for n, p in named.items() if "blocks." in n and p.ndim > 1 and min(p.flatten(1).shape) >= HIDDEN_SIDE]
    rest = [p for n, p in named.items() if n not in hidden]
    return Muon([named[n] for n in hidden], lr=peak), torch.optim.AdamW(rest, peak, (0.9, 0.98), weight_decay=0.0)


def train(
    name: str,
    minutes: float,
    peak: float,
    limit: float,
    *,
    further: bool = False,
    sides: float = SIDES_SHARE,
    contrasts: float = CONTRASTS_SHARE,
) -> None:
    """Trains until ``minutes`` of work are done in all, or ``limit`` minutes of this run.

    ``further``: where there is no checkpoint, from the model folder's weights and not from nothing. ``sides`` and
    ``contrasts``: shares of contrast batches.
    """
    expert = EXPERTS[name]
    model, average = build(expert), build(expert)
    if further:
        model.load_state_dict(SanaVideoTransformer3DModel.from_pretrained(MODEL / name).state_dict())
    if not checkpoint(name).exists():
        share = max(0.02, min(1.0, minutes / FULLY_TAUGHT_MINUTES))
        teach(model, draw_lessons(round(share * MOST_LESSONS)), round(share * MOST_TEACHING))
    use_quick_attention(model)
    use_quick_feed_forward(model)
    average.load_state_dict(model.state_dict())
    optimizers = _optimizers(model, peak)
    step, seconds = _resume(checkpoint(name), model, average, optimizers)
    clips = load_clips(CLIPS, MODEL / "vae", moving=expert.moving)
    contrasted = Contrasts(clips, sides, contrasts)
    rng, generator = np.random.default_rng([step, 11]), torch.Generator().manual_seed(step + 1)
    print(f"{name}: {len(clips.described)} clips, from step {step}, {seconds / 60:.1f} min spent", flush=True)
    begun, first = time.monotonic(), step
    last = saved = begun
    losses: list[float] = []
    while seconds < minutes * 60 and time.monotonic() - begun < limit * 60:
        spent = seconds / (minutes * 60)
        rate = learning_rate(peak, step, spent)
        if attribute := contrasted.choose(rng):
            batch = contrasted.draw(rng, attribute, expert.frames_a_batch)
        else:
            batch = draw_batch(clips, rng, draw_length(rng, spent), expert.frames_a_batch)
        with mixed_precision():
            loss = flow_loss(expert, model, batch, generator)
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        for optimizer, share in zip(optimizers, RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay(step + 1))
        step, losses = step + 1, [*losses[-199:], float(loss.detach())]
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        if step % 50 == 0:
            pace = (now - begun) / (step - first)
            progress = f"step {step} {seconds / 60:.1f} min loss {np.mean(losses):.4f} lr {rate:.1e}"
            print(f"{progress} gradient {norm:.2f} {pace:.2f} s a step", flush=True)
        if now - saved > 150:
            saved = now
            _save(checkpoint(name), model, average, optimizers, step, seconds)
    _save(checkpoint(name), model, average, optimizers, step, seconds)


def export() -> None:
    """Writes the averages of the newest checkpoints into the model folder; an expert without one stays as it is."""
    for name in newest_checkpoints():
        load_average(name).bfloat16().save_pretrained(MODEL / name)
    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT).save_pretrained(MODEL / "scheduler")
    (MODEL / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def load_average(name: str, path: Path | None = None) -> SanaVideoTransformer3DModel:
    """The averaged weights of a checkpoint, by default the newest; the rest of the file is not read."""
    model = build(EXPERTS[name])
    model.load_state_dict(torch.load(path or checkpoint(name), weights_only=True, mmap=True)["average"])
    return model.eval()


def _resume(
    path: Path, model: torch.nn.Module, average: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    return state["step"], state["seconds"]


def _save(
    path: Path,
    model: torch.nn.Module,
    average: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    models = {"model": model.state_dict(), "average": average.state_dict()}
    kept = [optimizer.state_dict() for optimizer in optimizers]
    torch.save(models | {"optimizers": kept, "step": step, "seconds": seconds}, partial)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["train", "export"])
    parser.add_argument("--expert", choices=EXPERTS, default="transformer")
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--limit", type=float, default=1e9, help="minutes of this run")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--further", action="store_true", help="begin with the weights of models/diorama")
    parser.add_argument("--sides", type=float, default=SIDES_SHARE, help="share of batches for left and right")
    parser.add_argument(
        "--contrasts", type=float, default=CONTRASTS_SHARE, help="share of those for distance and colour"
    )
    arguments = parser.parse_args()
    if arguments.part == "export":
        export()
    else:
        train(
            arguments.expert,
            arguments.minutes,
            arguments.rate,
            arguments.limit,
            further=arguments.further,
            sides=arguments.sides,
            contrasts=arguments.contrasts,
        )


if __name__ == "__main__":
    main()
