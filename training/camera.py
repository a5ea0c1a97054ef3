"""Trains the part of Diorama that reads from a prompt how the camera moves: two minutes on one core.

    python -m training.camera

It learns from captions of the grammar: which move one mentions, or none, which is still. As they are learnt elsewhere
with noise on the text encoder's states (`training/text.py`), but with all of their words: a pan needs its "left".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from libs.families.diorama.camera import CAMERAS, CameraReader
from training.mentions import mentions, said, values_of
from training.reading import Embeds
from training.scenes import FAMILIES, sample_spec
from training.text import embed_captions, noised, pad
from training.transformer import MODEL

__all__ = ["accuracy", "draw", "train"]

CAPTIONS, HELD_OUT, STEPS, BATCH = 8000, 500, 1500, 128
RATE = 3e-3
SEED = 36
MOVING_SHARE = 0.6
"""Of a batch: captions with a move, which are a fifth of all."""


def draw(count: int, embed: Embeds = embed_captions) -> tuple[list[np.ndarray], Tensor]:
    """States of so many captions, each (L, 384), and the numbers of their moves."""
    rng, families = np.random.default_rng(SEED), list(FAMILIES)
    specs = [sample_spec(rng, families[k % len(families)]) for k in range(count)]
    values = values_of(specs)
    texts = [said(spec, (SEED, k)) for k, spec in enumerate(specs)]
    moves = [
        spec.camera if spec.camera != "still" and "camera" in mentions(spec, (SEED, k), values) else "still"
        for k, spec in enumerate(specs)
    ]
    states = embed(set(texts))
    return [states[text] for text in texts], torch.tensor([CAMERAS.index(move) for move in moves])


def train(states: list[np.ndarray], moves: Tensor, steps: int = STEPS) -> CameraReader:
    """Cross entropy, AdamW at a rate that falls to zero."""
    torch.manual_seed(SEED)
    reader, rng = CameraReader(), np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    moving, still = (np.flatnonzero((moves.numpy() > 0) == of) for of in (True, False))
    count = round(MOVING_SHARE * BATCH)
    for _ in range(steps):
        chosen = np.concatenate([rng.choice(moving, count), rng.choice(still, BATCH - count)])
        embeds, mask = pad([states[k] for k in chosen])
        loss = F.cross_entropy(reader(noised(embeds, rng), mask), moves[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
    return reader.eval()


@torch.no_grad()
def accuracy(reader: CameraReader, states: list[np.ndarray], moves: Tensor) -> float:
    told = [int(reader(*pad([one])).argmax()) for one in states]
    return float((torch.tensor(told) == moves).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--out", type=Path, default=MODEL / "camera")
    arguments = parser.parse_args()
    states, moves = draw(arguments.captions)
    held = max(1, min(HELD_OUT, arguments.captions // 5))
    reader = train(states[held:], moves[held:])
    print(f"moves read from captions kept aside: {accuracy(reader, states[:held], moves[:held]):.1%}", flush=True)
    reader.half().save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
