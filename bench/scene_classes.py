"""Names the scene of a clip: a small classifier trained on rendered clips only.

    python -m bench.scene_classes        trains on training/cache/clips and reports held-out accuracy

It never sees what the video model makes, so it can judge it. Rendered clips are sharper than generated ones, so it is
trained on pictures that are blurred, made blocky, noisy, brighter or darker at random. It looks at a few moments of a
clip, each by one frame and its difference to the next, and averages what it finds.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "classifiers" / "scene.safetensors"
CLIPS = Path("training/cache/clips")
SIDE = 64
MOMENTS = 4
STORED_MOMENTS = 6
"""Kept in memory of each training clip; a batch draws ``MOMENTS`` of them."""
MOTION_GAIN = 4.0
BATCH = 32
RATE = 2e-3
STEPS = 600
"""Less than three minutes on one thread. Counted in steps, so that a busy machine does not make a worse classifier."""


class SceneClassifier(nn.Module):
    """Moments (B, M, 6, 64, 64), a frame in [-1, 1] and its motion -> logits (B, classes)."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        widths = (6, width, 2 * width, 3 * width, 4 * width)
        self.convolutions = nn.Sequential(*(layer for a, b in pairwise(widths) for layer in _halving(a, b)))
        self.head = nn.Linear(2 * 4 * width, classes)

    def forward(self, moments: Tensor) -> Tensor:
        batch, count = moments.shape[:2]
        x = self.convolutions(moments.flatten(0, 1)).unflatten(0, (batch, count))
        pooled = torch.cat([x.mean((1, 3, 4)), x.amax((1, 3, 4))], 1)
        logits: Tensor = self.head(F.dropout(pooled, 0.2, self.training))
        return logits


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.GELU()]


def classify(frames: NDArray[np.uint8]) -> tuple[str, dict[str, float]]:
    """Frames (T, H, W, 3), two or more -> the likeliest family, and the probability of each.

    Raises ``FileNotFoundError`` when the classifier was not trained.
    """
    model, families = _trained()
    with torch.inference_mode():
        shares = model(to_moments(pairs_of(frames, MOMENTS)[None]))[0].softmax(-1).tolist()
    scores = dict(zip(families, shares, strict=True))
    return max(scores, key=lambda family: scores[family]), scores


@torch.inference_mode()
def features(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the classifier sees in each moment of a clip before it names it: (4, 256)."""
    x = _trained()[0].convolutions(to_moments(pairs_of(frames, MOMENTS)[None])[0])
    return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1).numpy()


def pairs_of(frames: NDArray[np.uint8], count: int) -> Tensor:
    """``count`` evenly spaced pairs of neighbouring frames, at 64 x 64: (count, 2, 3, 64, 64) uint8."""
    if len(frames) < 2:
        raise ValueError("a clip of one frame shows no motion: give two frames or more")
    starts = np.linspace(0, len(frames) - 2, count).round().astype(int)
    chosen = torch.from_numpy(frames[np.stack([starts, starts + 1], 1)]).movedim(-1, 2)
    if chosen.shape[-2:] == (SIDE, SIDE):
        return chosen
    small = F.interpolate(chosen.flatten(0, 1).float(), (SIDE, SIDE), mode="area")
    return small.round().to(torch.uint8).unflatten(0, (count, 2))


def to_moments(pairs: Tensor) -> Tensor:
    """(B, M, 2, 3, 64, 64) in 0..255 -> (B, M, 6, 64, 64)."""
    values = pairs.float() / 127.5 - 1
    motion = (values[:, :, 1] - values[:, :, 0]) * MOTION_GAIN
    return torch.cat([values[:, :, 0], motion], 2)


@lru_cache(maxsize=1)
def _trained() -> tuple[SceneClassifier, list[str]]:
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} is missing: run `python -m bench.scene_classes`")
    with safe_open(WEIGHTS, "pt") as file:
        families: list[str] = json.loads(file.metadata()["families"])
        model = SceneClassifier(len(families))
        model.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    return model.eval(), families


# --- training --------------------------------------------------------------------------------------------------------


def train(steps: int = STEPS, weights: Path = WEIGHTS, clips: int = 2400) -> float:
    """Trains on one thread, saves ``weights`` (half precision) and returns the held-out accuracy, 0 to 1."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    families, (pairs, labels), held_out = _data(clips)
    model = SceneClassifier(len(families))
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        rows = torch.randint(len(labels), (BATCH,))
        loss = F.cross_entropy(model(_batch(pairs[rows])), labels[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"{steps} steps of {BATCH} clips; {sum(p.numel() for p in model.parameters())} parameters")
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.half().contiguous() for name, value in model.state_dict().items()},
        weights,
        metadata={"families": json.dumps(families)},
    )
    return _report(model.eval(), families, *held_out)


def _data(count: int) -> tuple[list[str], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(families, (pairs, labels) trained on, the same held out).

    Held out are every twentieth clip, as in training the video model, and every twentieth round of all families: with
    families' number the former alone would never meet half of them.
    """
    paths = [path for path in sorted(CLIPS.glob("[0-9]*.npz")) if path.stem.isdigit()][:count]
    if not paths:
        raise FileNotFoundError(f"no clips in {CLIPS}: run `python -m training.render`")
    names, pairs = [], []
    for path in paths:
        with np.load(path) as clip:
            names.append(json.loads(str(clip["meta"]))["spec"]["family"])
            pairs.append(pairs_of(clip["frames64"], STORED_MOMENTS))
    families = sorted(set(names))
    indices = torch.tensor([int(path.stem) for path in paths])
    held = (indices % 20 == 0) | (indices // len(families) % 20 == 0)
    everything, labels = torch.stack(pairs), torch.tensor([families.index(name) for name in names])
    return families, (everything[~held], labels[~held]), (everything[held], labels[held])


def _batch(pairs: Tensor) -> Tensor:
    """(B, stored, 2, 3, 64, 64) uint8 -> some of the moments, worse to look at: (B, M, 6, 64, 64)."""
    chosen = pairs[:, torch.randperm(STORED_MOMENTS)[:MOMENTS]].float()
    return to_moments(torch.stack([_worse(clip) for clip in chosen]))


def _worse(clip: Tensor) -> Tensor:
    """One clip (M, 2, 3, 64, 64) in 0..255, at random flipped, shifted, softened, blocky, noisy, in another light."""
    x = clip.flatten(0, 1)
    if _chance(0.5):
        x = x.flip(-1)
    if _chance(0.7):
        x = _shifted(x)
    if _chance(0.6):
        x = _softened(x)
    if _chance(0.4):
        x = _blocky(x)
    if _chance(0.6):
        gain, offset = _between(0.75, 1.25), _between(-20, 20)
        x = (x - 128) * gain + 128 + offset + torch.empty(3, 1, 1).uniform_(-10, 10)
    if _chance(0.4):
        x = x + torch.randn_like(x) * _between(1, 8)
    return x.clamp(0, 255).unflatten(0, clip.shape[:2])


def _shifted(x: Tensor) -> Tensor:
    across, down = (int(n) for n in torch.randint(0, 13, (2,)))
    return F.pad(x, (6, 6, 6, 6), mode="replicate")[:, :, down : down + SIDE, across : across + SIDE]


def _softened(x: Tensor) -> Tensor:
    """Reduced to 10 to 48 pixels a side and drawn large again, mixed with what it was."""
    side = int(torch.randint(10, 49, ()))
    soft = F.interpolate(F.interpolate(x, (side, side), mode="area"), (SIDE, SIDE), mode="bilinear")
    return torch.lerp(x, soft, _between(0.5, 1.0))


def _blocky(x: Tensor) -> Tensor:
    """Blocks as large as the autoencoder's patches, flattened in part and each off by a little."""
    flat = F.avg_pool2d(x, 4)
    flat = flat + torch.randn_like(flat) * _between(0, 10)
    return torch.lerp(x, F.interpolate(flat, (SIDE, SIDE), mode="nearest"), _between(0.2, 0.9))


def _chance(probability: float) -> bool:
    return bool(torch.rand(()) < probability)


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


@torch.inference_mode()
def _report(model: SceneClassifier, families: list[str], pairs: Tensor, labels: Tensor) -> float:
    """Prints accuracy, as they are and made worse, and what is mistaken for what."""
    torch.manual_seed(1)
    worse = torch.cat([model(_batch(part)).argmax(1) for part in pairs.split(BATCH)])
    plain = torch.cat([model(to_moments(part[:, :MOMENTS])).argmax(1) for part in pairs.split(BATCH)])
    right = float((plain == labels).float().mean())
    print(f"held out: {right:.1%} of {len(labels)} clips, {(worse == labels).float().mean():.1%} of them made worse")
    mistakes = Counter((families[a], families[b]) for a, b in zip(labels, worse, strict=True) if a != b)
    for (truth, guess), count in mistakes.most_common():
        print(f"  {truth}, made worse, taken for {guess}: {count}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--clips", type=int, default=2400, help="use the first so many")
    arguments = parser.parse_args()
    train(arguments.steps, clips=arguments.clips)


if __name__ == "__main__":
    main()
