"""Muon: what it makes of a matrix, of which shape whatever; and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_singular_values_become_alike_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalize(matrices, steps=10)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    along = (u.mT @ made @ vh.mT).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(along, torch.ones_like(along), atol=0.4, rtol=0)


def test_an_update_has_the_size_that_the_rate_says() -> None:
    """For kernels of convolutions, too: (O, I, 1, 1) is the matrix (O, I)."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(32, 48, 1, 1, generator=generator))
    before = parameter.detach().clone()
    optimizer = Muon([parameter], lr=0.01, weight_decay=0.0)
    parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    step = (parameter.detach() - before).square().mean().sqrt()
    assert 0.7 < float(step) / (0.01 * 0.2) < 1.3


def test_weights_shrink_and_a_parameter_without_gradient_stays() -> None:
    moved, still = nn.Parameter(torch.ones(16, 16)), nn.Parameter(torch.ones(16, 16))
    moved.grad = torch.zeros(16, 16)
    Muon([moved, still], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(moved.detach(), torch.full((16, 16), 0.95))
    torch.testing.assert_close(still.detach(), torch.ones(16, 16))


def test_it_fits_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(1)
    wanted, inputs = torch.randn(16, 16, generator=generator), torch.randn(64, 16, generator=generator)
    layer = nn.Linear(16, 16, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.1, weight_decay=0.0)
    losses = []
    for _ in range(80):
        loss = (layer(inputs) - inputs @ wanted.T).square().mean()
        layer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
