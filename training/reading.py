"""Teaches a transformer's caption projection to tell captions' attributes apart, before the training goes on.

In the text encoder's states, and more so behind a projection that nothing asked for it, two captions that differ in
"left" and "right" are all but equal; from pure noise the transformer then makes the same picture of both, and its loss
there hardly says so. Here probes read attributes from the projected tokens, as cross attention would, and projection
and probes are trained together. The probes are then thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_sana_video import SanaVideoTransformer3DModel
from torch import Tensor, nn

from training.mentions import ATTRIBUTES, mentions, said, values_of
from training.scenes import FAMILIES, sample_spec
from training.text import embed_captions, loosen, pad

__all__ = ["teach"]

CAPTIONS = 3000
STEPS = 500
BATCH = 128
RATE, PROBE_RATE = 1e-3, 1e-2
"""Learning rates at first, which fall to zero: of the projection, of the probes."""
KEEP = 0.3
"""Weight of the change of the projection's outputs, as a share of their power: the blocks have learnt to read them."""
SEED = 30
NOTHING = -100
"""Label of what a caption does not mention."""

Embeds = Callable[[set[str]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Lessons:
    rows: list[np.ndarray]
    """Each (L, 384), of one caption."""
    labels: dict[str, Tensor]
    """By attribute, (captions,): the number of its value, or NOTHING."""

    def batch(self, index: Iterable[int]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        chosen = [int(i) for i in index]
        embeds, mask = pad([self.rows[i] for i in chosen])
        return embeds, mask, {name: labels[chosen] for name, labels in self.labels.items()}


def draw_lessons(count: int, embed: Embeds = embed_captions) -> Lessons:
    """Captions of the grammar, with the family of the scene and those of its attributes that they mention."""
    rng, families = np.random.default_rng(SEED), list(FAMILIES)
    specs = [sample_spec(rng, families[k % len(families)]) for k in range(count)]
    values = values_of(specs)
    texts = [said(spec, (SEED, k)) for k, spec in enumerate(specs)]
    told = [{"family"} | mentions(spec, (SEED, k), values) for k, spec in enumerate(specs)]
    embeds = embed(set(texts))
    labels = {}
    for name in ("family", *ATTRIBUTES):
        meant = [getattr(spec, name) if name in names else None for spec, names in zip(specs, told, strict=True)]
        number = {value: k for k, value in enumerate(sorted({value for value in meant if value is not None}))}
        labels[name] = torch.tensor([NOTHING if value is None else number[value] for value in meant])
    return Lessons([embeds[text] for text in texts], labels)


class Probe(nn.Module):
    """Pools tokens by attention with one query, and compares with one direction a value.

    Its directions have length 1: it cannot make much of a small difference, so the projection has to.
    """

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.directions = nn.Parameter(torch.randn(values, width) / width**0.5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, L, width) of mean square 1 and (B, L) -> logits (B, values)."""
        scores = (tokens @ self.query / tokens.shape[-1] ** 0.5).masked_fill(mask == 0, -torch.inf)
        pooled = torch.einsum("bl,blw->bw", scores.softmax(dim=1), tokens)
        return pooled @ F.normalize(self.directions, dim=1).T


def teach(
    model: SanaVideoTransformer3DModel, lessons: Lessons | None = None, steps: int = STEPS
) -> tuple[dict[str, float], dict[str, float]]:
    """Trains the model's caption projection, in place; prints and returns how well each attribute is read before and
    after.

    Both are shares of right answers on captions that were kept aside; before: by probes that were trained for a third
    of the steps with the projection as it was.
    """
    lessons = lessons or draw_lessons(CAPTIONS)
    order = np.random.default_rng(SEED).permutation(len(lessons.rows))
    held, taught = order[: len(order) // 5], order[len(order) // 5 :]
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        width = model.caption_projection.linear_2.out_features
        counts = {name: int(labels.max()) + 1 for name, labels in lessons.labels.items()}
        probes = nn.ModuleDict({name: Probe(width, count) for name, count in counts.items() if count > 1})
    _fit(model, probes, lessons, taught, steps // 3, teaching=False)
    before = _accuracy(model, probes, lessons, held)
    _fit(model, probes, lessons, taught, steps, teaching=True)
    after = _accuracy(model, probes, lessons, held)
    told = ", ".join(f"{name} {before[name]:.0%} -> {after[name]:.0%}" for name in after)
    print(f"reading captions: {told}", flush=True)
    return before, after


def _fit(
    model: SanaVideoTransformer3DModel,
    probes: nn.ModuleDict,
    lessons: Lessons,
    taught: np.ndarray,
    steps: int,
    *,
    teaching: bool,
) -> None:
    """Trains the probes, and if ``teaching`` the projection, which is drawn towards what it was."""
    rng = np.random.default_rng([SEED, teaching])
    projection = model.caption_projection
    old = {name: weight.detach().clone() for name, weight in projection.named_parameters()}
    groups = [{"params": list(probes.parameters()), "lr": PROBE_RATE}]
    groups += [{"params": list(projection.parameters()), "lr": RATE}] if teaching else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        embeds, mask, labels = lessons.batch(rng.choice(taught, size=min(BATCH, len(taught)), replace=False))
        embeds, mask = loosen(embeds, mask, rng)
        projected = projection(embeds)
        loss = _loss(probes, _normed(model, projected), mask, labels)
        if teaching:
            with torch.no_grad():
                target = torch.func.functional_call(projection, old, embeds)
            loss = loss + KEEP * _change(projected, target, mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        falling.step()
    model.zero_grad(set_to_none=True)


def _normed(model: SanaVideoTransformer3DModel, projected: Tensor) -> Tensor:
    """As the blocks read it, but with mean square 1."""
    return F.rms_norm(model.caption_norm(projected), projected.shape[-1:])


def _loss(probes: nn.ModuleDict, tokens: Tensor, mask: Tensor, labels: dict[str, Tensor]) -> Tensor:
    losses = []
    for name, probe in probes.items():
        if (labels[name] != NOTHING).any():
            losses.append(F.cross_entropy(probe(tokens, mask), labels[name], ignore_index=NOTHING))
    return torch.stack(losses).sum()


def _change(projected: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean square of the change over that of the old outputs, of tokens that are there."""
    there = mask.bool()
    return (projected - target)[there].square().mean() / target[there].square().mean()


@torch.no_grad()
def _accuracy(
    model: SanaVideoTransformer3DModel, probes: nn.ModuleDict, lessons: Lessons, held: np.ndarray
) -> dict[str, float]:
    embeds, mask, labels = lessons.batch(held)
    tokens = _normed(model, model.caption_projection(embeds))
    shares = {}
    for name, probe in probes.items():
        asked = labels[name] != NOTHING
        if asked.any():
            right = probe(tokens, mask).argmax(dim=1) == labels[name]
            shares[name] = float(right[asked].float().mean())
    return shares
