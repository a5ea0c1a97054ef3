"""The autoencoder's two parts: `fit` finds the linear map in closed form, `train` teaches the residual decoder.

    python -m training.autoencoder fit
    python -m training.autoencoder train --minutes 15

The decoder is trained last: half of what it sees are latents as the trained transformer makes them (`training.redraw`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from libs.families.diorama.autoencoder import FRAMES, AutoencoderDiorama, patchify
from libs.families.diorama.patches import PIXELS
from training.precision import mixed_precision
from training.scenes import FAMILIES, render, sample_spec
from training.scenes.base import SceneSpec

MODEL = Path("models/diorama/vae")
CACHE = Path("training/cache")
LATENT_CHANNELS = 16
"""Of 3,072 values. More show finer detail, which a small transformer then does not learn to make."""
LATENT_NOISE = 0.08
"""Most noise on the latents that the decoder is trained on, where the strongest component has deviation 1."""
REDRAWN_SHARE = 0.6
"""Of the crops whose latents the transformer has drawn again."""
TEXTURE_WEIGHT = 0.5
NUM_CLIPS, CLIP_FRAMES, CLIP_SEED = 280, 13, 99
"""Of the clips that are rendered for the decoder."""
TEXTURE_SCALES = 3
_ACROSS = torch.tensor([[-1.0, 2.0, -1.0]] * 3) / 6
_DIAGONAL = torch.tensor([[-1.0, -1.0, 2.0], [-1.0, 2.0, -1.0], [2.0, -1.0, -1.0]]) / 6
_BANDS = torch.stack([_ACROSS, _ACROSS.T, _DIAGONAL, _DIAGONAL.flip(1)])[:, None]
"""Second differences along four directions, (4, 1, 3, 3)."""


def to_tensor(frames: np.ndarray) -> Tensor:
    """(T, H, W, 3) float in [0, 1] or uint8 -> (1, 3, T, H, W) float32 in [-1, 1]."""
    video = torch.from_numpy(np.ascontiguousarray(frames)).float()
    video = video / 255.0 if frames.dtype == np.uint8 else video
    return (video * 2 - 1).permute(3, 0, 1, 2)[None]


def fit(
    clips_per_family: int = 10,
    patches_per_clip: int = 900,
    seed: int = 1,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    size: int = 256,
) -> AutoencoderDiorama:
    """Principal components of patches from every family, half whitened; one in eight patches is a still one (frame 0).

    ``size``: of the rendered clips, in pixels.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for family in families:
        for _ in range(clips_per_family):
            video = to_tensor(render(sample_spec(rng, family), num_frames=17, size=size).frames)
            still = video[:, :, :1].expand(-1, -1, FRAMES, -1, -1)
            moving = patchify(video[:, :, 1:]).flatten(0, 3)
            still = patchify(still).flatten(0, 3)
            rows.append(moving[torch.randperm(len(moving))[:patches_per_clip]])
            rows.append(still[torch.randperm(len(still))[: patches_per_clip // 7]])
        print(f"fit: {family}", flush=True)
    patches = torch.cat(rows).double()
    mean = patches.mean(dim=0)
    values, vectors = _principal(patches - mean)
    deviation = values.sqrt()
    kept = float(values.sum() / patches.var(dim=0).sum())
    print(f"fit: {LATENT_CHANNELS} of {len(mean)} components keep {kept:.2%} of the variance")
    autoencoder = AutoencoderDiorama(latent_channels=LATENT_CHANNELS)
    autoencoder.mean.copy_(mean)
    autoencoder.basis.copy_(vectors.T)
    autoencoder.scale.copy_((deviation[0] * deviation).sqrt())
    return autoencoder


def _principal(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (C,), largest first, and directions (values, C) of rows around their mean."""
    if len(centred) < centred.shape[1]:
        _, singular, rows = torch.linalg.svd(centred, full_matrices=False)
        return singular[:LATENT_CHANNELS].square() / (len(centred) - 1), rows[:LATENT_CHANNELS].T
    values, vectors = torch.linalg.eigh(torch.cov(centred.T))
    return values.flip(0)[:LATENT_CHANNELS], vectors.flip(1)[:, :LATENT_CHANNELS]


def train(
    minutes: float,
    num_clips: int = NUM_CLIPS,
    crop: int = 128,
    batch: int = 6,
    learning_rate: float = 2e-3,
    *,
    most_steps: int = sys.maxsize,
    size: int = 256,
    model: Path = MODEL,
    cache: Path = CACHE,
) -> list[float]:
    """On random crops of rendered clips: L1 of values and differences, against flicker and blocks, and of texture.

    The latents it sees are a little noisy, or drawn again by the transformer (``drawn_again.npy`` in the cache, if it
    is there): what a generated clip gets wrong in one place, the decoder then mends from its neighbours.

    Trains until ``minutes`` of work, of every run together, are done, or ``most_steps`` of this run. Returns the loss
    of each step of this run.
    """
    checkpoint = cache / "decoder.pt"
    autoencoder = AutoencoderDiorama.from_pretrained(model, low_cpu_mem_usage=False)
    parameters = list(autoencoder.residual.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4)
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        autoencoder.residual.load_state_dict(state["residual"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    rng = np.random.default_rng(step + 7)
    clips = decoder_clips(cache, num_clips, size)
    redrawn = np.load(cache / "drawn_again.npy", mmap_mode="r") if (cache / "drawn_again.npy").exists() else None
    started = saved = time.monotonic()
    losses: list[float] = []
    while (elapsed := spent + time.monotonic() - started) < minutes * 60 and len(losses) < most_steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, step / 50 + 0.02) * max(0.05, 1 - elapsed / (minutes * 60))
        video, latents = _random_crops(clips, redrawn, autoencoder, rng, batch, crop)
        with mixed_precision():
            decoded = autoencoder.decode(latents)
        loss = reconstruction_loss(decoded.float(), video) + TEXTURE_WEIGHT * texture_loss(decoded.float(), video)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if step % 50 == 0:
            base = float(reconstruction_loss(autoencoder.decode_linear(latents), video))
            print(f"decoder step {step} loss {np.mean(losses[-50:]):.4f} (linear alone {base:.4f})", flush=True)
        if time.monotonic() - saved > 120:
            saved = time.monotonic()
            _save(checkpoint, autoencoder, optimizer, step, elapsed)
    _save(checkpoint, autoencoder, optimizer, step, elapsed)
    autoencoder.to(torch.float16).save_pretrained(model)
    return losses


def reconstruction_loss(decoded: Tensor, video: Tensor) -> Tensor:
    """Charbonnier on values, and on differences to the neighbour in x, y and t."""
    loss = _charbonnier(decoded - video)
    for dim in (2, 3, 4):
        loss = loss + 0.5 * _charbonnier(decoded.diff(dim=dim) - video.diff(dim=dim))
    return loss


def texture_loss(decoded: Tensor, video: Tensor) -> Tensor:
    """L1 between local energies of brightness in oriented bands, (B, 3, T, H, W) both.

    What cannot be known from the latents, as where each raindrop is, the plain loss answers with blur. Energies of
    band-passed pictures over a neighbourhood (Heeger and Bergen 1995) ask for as much, as fine, in the same direction.
    """
    loss = decoded.new_zeros(())
    made, real = (clip.mean(dim=1).flatten(0, 1)[:, None] for clip in (decoded, video))
    for _ in range(TEXTURE_SCALES):
        loss = loss + (_energies(made) - _energies(real)).abs().mean()
        made, real = F.avg_pool2d(made, 2), F.avg_pool2d(real, 2)
    return loss


def _energies(pictures: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 4, h, w): across, down and both diagonals, root mean square over 16 x 16, each 8 pixels."""
    bands = F.conv2d(pictures, _BANDS.to(pictures.dtype))
    return (F.avg_pool2d(bands.square(), min(16, *bands.shape[2:]), stride=8) + 1e-5).sqrt()


def _charbonnier(error: Tensor) -> Tensor:
    return (error.square() + 1e-4).sqrt().mean()


def _save(
    checkpoint: Path, autoencoder: AutoencoderDiorama, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    partial = checkpoint.with_suffix(".tmp")
    state = {"residual": autoencoder.residual.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "seconds": seconds}, partial)
    partial.replace(checkpoint)


def decoder_specs(num_clips: int) -> list[SceneSpec]:
    """What is on the clips that the decoder is trained on."""
    rng, families = np.random.default_rng(CLIP_SEED), list(FAMILIES)
    return [sample_spec(rng, families[i % len(families)]) for i in range(num_clips)]


def decoder_clips(cache: Path, num_clips: int = NUM_CLIPS, size: int = 256) -> np.ndarray:
    """Rendered frames, uint8 (clips, 13, size, size, 3), kept in ``cache``."""
    path = cache / "decoder_clips.npy"
    if not path.exists():
        clips = [
            (render(spec, CLIP_FRAMES, size=size).frames * 255).round().astype(np.uint8)
            for spec in decoder_specs(num_clips)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack(clips))
    return np.load(path, mmap_mode="r")


def _random_crops(
    clips: np.ndarray,
    redrawn: np.ndarray | None,
    autoencoder: AutoencoderDiorama,
    rng: np.random.Generator,
    batch: int,
    crop: int,
) -> tuple[Tensor, Tensor]:
    """Crops aligned to the patch grid, (B, 3, 13, crop, crop), and latents to decode them from."""
    videos, latents = [], []
    for index in rng.integers(len(clips), size=batch):
        y, x = rng.integers((clips.shape[2] - crop) // PIXELS + 1, size=2)
        rows, columns = slice(y * PIXELS, y * PIXELS + crop), slice(x * PIXELS, x * PIXELS + crop)
        video = to_tensor(np.array(clips[index, :, rows, columns]))
        if redrawn is not None and rng.random() < REDRAWN_SHARE:
            variant, side = rng.integers(redrawn.shape[1]), crop // PIXELS
            drawn = redrawn[index, variant, :, :, y : y + side, x : x + side]
            latent = torch.from_numpy(np.array(drawn)).float()[None]
        else:
            latent = autoencoder.encode(video)
            latent = latent + LATENT_NOISE * rng.random() * torch.randn(latent.shape)
        videos.append(video)
        latents.append(latent)
    return torch.cat(videos), torch.cat(latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["fit", "train"])
    parser.add_argument("--minutes", type=float, default=15.0)
    arguments = parser.parse_args()
    if arguments.part == "fit":
        fit().to(torch.float16).save_pretrained(MODEL)
    else:
        train(arguments.minutes)


if __name__ == "__main__":
    main()
