"""Batches of pairs: samples 2k and 2k + 1 are two clips that are given the same noise, so that only the caption tells
which of the two is to come out of it.

In usual batches the pair is a clip and its mirrored twin. In contrast batches the two differ in one attribute, both
captions mention it, and there is next to nothing but noise, where a picture's layout is decided.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.clips import Clips, Description
from training.text import loosen, pad

__all__ = ["Batch", "Contrasts", "draw_batch", "draw_caption", "draw_length"]

WINDOWS = ((1, 0.55, 0.15), (4, 0.25, 0.2), (8, 0.12, 0.3), (16, 0.08, 0.35))
"""(latent frames, share of batches at the beginning, at the end). One latent frame is a still picture."""
CAPTION_DROPOUT = 0.1
SIDE = "side"
SAYS_SIDE = 0.75
"""How often a caption that says nothing of a side is passed over for one that does, unless the thing is in the middle:
so a prompt that names no side means the middle, and not a little of everywhere."""
OTHERS = {"distance": 1.0, "colour": 2.0}
"""Attributes besides the side that a model which only sees usual batches obeys too seldom, and their shares of the
contrast batches that are not for the side, in proportion."""
CONTRAST_FRAMES = (1, 4)
"""Latent frames of a contrast batch's windows."""


@dataclass(frozen=True)
class Batch:
    latents: Tensor
    """(B, C, frames, 16, 16)"""
    embeds: Tensor
    """(B, L, 384)"""
    mask: Tensor
    """(B, L)"""
    place: Tensor
    """(B, 13, frames, 16, 16): where in the scene the latents lie."""
    contrast: bool = False
    """Whether the captions alone shall tell the pairs apart: at high sigma, without a first frame."""


@dataclass(frozen=True)
class _Sample:
    index: int
    twin: bool
    """Whether it is the mirrored one."""
    caption: int | None
    """Number of the caption; none was said where it was dropped."""


def draw_length(rng: np.random.Generator, spent: float) -> int:
    """Latent frames of the next batch's windows; ``spent``: share of the training that is done, 0 to 1."""
    shares = [begin + spent * (end - begin) for _, begin, end in WINDOWS]
    return int(rng.choice([frames for frames, _, _ in WINDOWS], p=np.array(shares) / sum(shares)))


def draw_batch(clips: Clips, rng: np.random.Generator, frames: int, most: int) -> Batch:
    """Clips beside their twins, of ``most`` latent frames together. Where one clip fills it, it or its twin."""
    samples = []
    size = max(1, most // frames)
    for index in rng.integers(len(clips.described), size=(size + 1) // 2):
        for twin in rng.permutation(2):
            number = None if rng.random() < CAPTION_DROPOUT else draw_caption(rng, clips.described[index])
            samples.append(_Sample(int(index), bool(twin), number))
    drawn = _batch(clips, rng, samples[:size], frames)
    embeds, mask = loosen(drawn.embeds, drawn.mask, rng)
    return Batch(drawn.latents, embeds, mask, drawn.place)


def draw_caption(rng: np.random.Generator, described: Description) -> int:
    """Number of one of the captions, see `SAYS_SIDE`."""
    number = int(rng.integers(len(described.captions)))
    saying = described.mentioning.get(SIDE, [])
    if _has_side(described.spec.side, described.mentioning) and number not in saying and rng.random() < SAYS_SIDE:
        return int(rng.choice(saying))
    return number


class Contrasts:
    """Draws contrast batches, of what the clips hold pairs of."""

    def __init__(self, clips: Clips, sides: float, others: float) -> None:
        """``sides``: share of batches that contrast left and right; ``others``: of those for ``OTHERS`` together."""
        self._clips = clips
        self._sided = [i for i, one in enumerate(clips.described) if _has_side(one.spec.side, one.mentioning)]
        self._groups = {attribute: _groups(clips, attribute) for attribute in OTHERS}
        found = [attribute for attribute in OTHERS if self._groups[attribute]]
        self.shares = {SIDE: sides} if self._sided else {}
        """By attribute."""
        self.shares |= {
            attribute: others * OTHERS[attribute] / sum(OTHERS[one] for one in found) for attribute in found
        }

    def choose(self, rng: np.random.Generator) -> str | None:
        """The attribute that the next batch contrasts; none if it is to be a usual one."""
        place = rng.random()
        for attribute, share in self.shares.items():
            place -= share
            if place < 0:
                return attribute
        return None

    def draw(self, rng: np.random.Generator, attribute: str, most: int) -> Batch:
        """Pairs that differ in ``attribute``, of ``most`` latent frames together, but one pair at least."""
        frames = int(rng.choice(CONTRAST_FRAMES))
        pairs = [self._pair(rng, attribute) for _ in range(max(1, most // frames // 2))]
        return _batch(self._clips, rng, [one for pair in pairs for one in pair], frames, contrast=True)

    def _pair(self, rng: np.random.Generator, attribute: str) -> tuple[_Sample, _Sample]:
        if attribute == SIDE:
            index = int(rng.choice(self._sided))
            number = self._caption(rng, index, attribute)
            return _Sample(index, False, number), _Sample(index, True, number)
        group = self._groups[attribute][int(rng.integers(len(self._groups[attribute])))]
        one, other = (int(rng.choice(group[value])) for value in rng.choice(len(group), 2, replace=False))
        twin = bool(rng.integers(2))
        return (
            _Sample(one, twin, self._caption(rng, one, attribute)),
            _Sample(other, twin, self._caption(rng, other, attribute)),
        )

    def _caption(self, rng: np.random.Generator, index: int, attribute: str) -> int:
        """Of those that mention it; a twin's captions mention the same."""
        return int(rng.choice(self._clips.described[index].mentioning[attribute]))


def _has_side(side: str, mentioning: dict[str, list[int]]) -> bool:
    return side in ("left", "right") and SIDE in mentioning


def _groups(clips: Clips, attribute: str) -> list[list[list[int]]]:
    """Of each family with clips of several values: the clips of each value that have captions to mention it."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, one in enumerate(clips.described):
        if attribute in one.mentioning:
            found[one.spec.family][getattr(one.spec, attribute)].append(index)
    return [list(values.values()) for values in found.values() if len(values) > 1]


def _batch(
    clips: Clips, rng: np.random.Generator, samples: list[_Sample], frames: int, *, contrast: bool = False
) -> Batch:
    """Both of a pair begin at the same place in their clips."""
    starts = np.repeat(rng.integers(clips.latents.shape[2] - frames + 1, size=(len(samples) + 1) // 2), 2)
    windows, texts, places = [], [], []
    for one, start in zip(samples, starts, strict=False):
        windows.append(clips.window(one.index, int(start), frames, twin=one.twin))
        places.append(clips.place(one.index, int(start), frames, twin=one.twin))
        captions = (clips.twins if one.twin else clips.described)[one.index].captions
        texts.append(clips.embeds["" if one.caption is None else captions[one.caption]])
    return Batch(torch.stack(windows), *pad(texts), torch.stack(places), contrast)
