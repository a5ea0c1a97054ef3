"""Muon: momentum whose update is orthogonalised, for the matrices of a transformer's blocks.

Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024), with the scale of Liu et al., "Muon is
scalable for LLM training" (2025). ``torch.optim.Muon`` takes two-dimensional parameters only; here a convolution's
kernel (O, I, ...) is the matrix (O, I * ...), and matrices of one shape are orthogonalised together, which on a CPU
takes half the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonalize"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration, chosen by Jordan for the fastest rise of small singular values."""
UPDATE_RMS = 0.2
"""Root mean square of an update at learning rate 1: like AdamW's, so that both can share a learning rate."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay. Parameters have two dimensions or more."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                velocity = state.setdefault("momentum", torch.zeros_like(parameter))
                velocity.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(velocity, group["momentum"]).flatten(1)
                alike[update.shape[0], update.shape[1]].append((parameter, update))
            for shape, pairs in alike.items():
                updates = orthogonalize(torch.stack([update for _, update in pairs]))
                rate = group["lr"] * UPDATE_RMS * max(shape) ** 0.5
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-rate)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """(B, m, n) -> (B, m, n) with the same singular vectors and all singular values near 1 (0.7 to 1.2)."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT, steps).mT
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x
