"""The autoencoder's two parts: `fit` finds the linear map in closed form, `train` teaches the residual decoder.

python -m training.autoencoder fit
python -m training.autoencoder train --minutes 15
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from libs.families.diorama.autoencoder import FRAMES, AutoencoderDiorama, patchify
from libs.families.precision import mixed_precision
from training.scenes import FAMILIES, render, sample_spec

MODEL = Path("models/diorama/vae")
CACHE = Path("training/cache")
LATENT_CHANNELS = 16
"""Of 3,072 values. More show finer detail, which a small transformer then does not learn to make."""
LATENT_NOISE, CLEAN_SHARE = 0.3, 0.5
"""Most noise on the latents that the decoder is trained on, where the strongest component has deviation 1; and the
share of clips without any. With noise on all of them it draws given first frames pale."""


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

    The same for the same ``seed``, the untrained residual decoder too. ``size``: of the rendered clips, in pixels.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    rows = []
    for family in families:
        for _ in range(clips_per_family):
            video = to_tensor(render(sample_spec(rng, family), num_frames=17, size=size).frames)
            still = video[:, :, :1].expand(-1, -1, FRAMES, -1, -1)
            moving = patchify(video[:, :, 1:]).flatten(0, 3)
            still = patchify(still).flatten(0, 3)
            rows.append(moving[torch.randperm(len(moving), generator=generator)[:patches_per_clip]])
            rows.append(still[torch.randperm(len(still), generator=generator)[: patches_per_clip // 7]])
        print(f"fit: {family}", flush=True)
    mean, values, vectors, total = _principal(rows)
    deviation = values.sqrt()
    kept = float(values.sum() / total)
    print(f"fit: {LATENT_CHANNELS} of {len(mean)} components keep {kept:.2%} of the variance")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder = AutoencoderDiorama(latent_channels=LATENT_CHANNELS)
    autoencoder.mean.copy_(mean)
    autoencoder.basis.copy_(vectors.T)
    autoencoder.scale.copy_((deviation[0] * deviation).sqrt())
    return autoencoder


def _principal(rows: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all rows together: mean (values,), variances (C,), largest first, their directions (values, C), and the sum
    of all variances. In double precision, which only some rows at a time are put into: all take gigabytes as they are.
    """
    count, values = sum(len(part) for part in rows), rows[0].shape[1]
    mean = torch.stack([part.sum(dim=0, dtype=torch.float64) for part in rows]).sum(dim=0) / count
    if count < values:
        _, singular, directions = torch.linalg.svd(torch.cat(rows) - mean, full_matrices=False)
        variances = singular.square() / (count - 1)
        return mean, variances[:LATENT_CHANNELS], directions[:LATENT_CHANNELS].T, variances.sum()
    covariance = torch.zeros(values, values, dtype=torch.float64)
    for part in rows:
        centred = part - mean
        covariance.addmm_(centred.T, centred, alpha=1 / (count - 1))
    variances, directions = torch.linalg.eigh(covariance)
    return (
        mean,
        variances.flip(0)[:LATENT_CHANNELS],
        directions.flip(1)[:, :LATENT_CHANNELS],
        covariance.trace(),
    )


def train(
    minutes: float,
    num_clips: int = 280,
    crop: int = 128,
    batch: int = 6,
    learning_rate: float = 2e-3,
    *,
    most_steps: int = sys.maxsize,
    size: int = 256,
    model: Path = MODEL,
    cache: Path = CACHE,
) -> list[float]:
    """L1 on random crops of rendered clips, with a term on differences in space and time, against flicker and blocks.

    The latents it sees are a little noisy, as the transformer's are: what a generated clip gets wrong in one place, the
    decoder then mends from its neighbours.

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
    rng, generator = np.random.default_rng(step + 7), torch.Generator().manual_seed(step + 7)
    clips = _crops_cache(cache / "decoder_clips.npy", num_clips, size)
    started = saved = time.monotonic()
    losses: list[float] = []
    while (elapsed := spent + time.monotonic() - started) < minutes * 60 and len(losses) < most_steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, step / 50 + 0.02) * max(0.05, 1 - elapsed / (minutes * 60))
        video = _random_crops(clips, rng, batch, crop)
        latents = autoencoder.encode(video)
        level, chance = (torch.rand(batch, 1, 1, 1, 1, generator=generator) for _ in range(2))
        level = LATENT_NOISE * level * (chance >= CLEAN_SHARE)
        noise = level * torch.randn(latents.shape, generator=generator)
        with mixed_precision():
            decoded = autoencoder.decode(latents + noise)
        loss = reconstruction_loss(decoded.float(), video)
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
    """Charbonnier on values, and on differences to the neighbour in x, y and t; once more on those in t from one latent
    frame to the next, where noise shows as a jerk."""
    loss = _charbonnier(decoded - video)
    for dim in (2, 3, 4):
        loss = loss + 0.5 * _charbonnier(decoded.diff(dim=dim) - video.diff(dim=dim))
    return loss + 0.5 * _charbonnier((decoded.diff(dim=2) - video.diff(dim=2))[:, :, ::FRAMES])


def _charbonnier(error: Tensor) -> Tensor:
    return (error.square() + 1e-4).sqrt().mean()


def _save(
    checkpoint: Path, autoencoder: AutoencoderDiorama, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    partial = checkpoint.with_suffix(".tmp")
    state = {"residual": autoencoder.residual.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "seconds": seconds}, partial)
    partial.replace(checkpoint)


def _crops_cache(path: Path, num_clips: int, size: int) -> np.ndarray:
    """Rendered frames, uint8 (clips, 13, size, size, 3), kept in ``path``."""
    if not path.exists():
        rng = np.random.default_rng(99)
        families = list(FAMILIES)
        clips = [
            (render(sample_spec(rng, families[i % len(families)]), 13, size=size).frames * 255).round().astype(np.uint8)
            for i in range(num_clips)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp.npy")
        np.save(partial, np.stack(clips))
        partial.replace(path)
    return np.load(path, mmap_mode="r")


def _random_crops(clips: np.ndarray, rng: np.random.Generator, batch: int, crop: int) -> Tensor:
    """Crops aligned to the patch grid, (B, 3, 13, crop, crop)."""
    crops = []
    for index in rng.integers(len(clips), size=batch):
        y, x = rng.integers((clips.shape[2] - crop) // 16 + 1, size=2) * 16
        crops.append(to_tensor(np.array(clips[index, :, y : y + crop, x : x + crop])))
    return torch.cat(crops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["fit", "train"])
    parser.add_argument("--minutes", type=float, default=15.0, help="of train")
    parser.add_argument("--clips", type=int, help="of each family for fit (default 10), of all for train (default 280)")
    arguments = parser.parse_args()
    if arguments.part == "fit":
        fit(arguments.clips or 10).to(torch.float16).save_pretrained(MODEL)
    else:
        train(arguments.minutes, arguments.clips or 280)


if __name__ == "__main__":
    main()
