"""The optimiser: orthogonal steps for matrices, AdamW's for the rest."""

import copy

import pytest
import torch
from torch import nn

from empirical.shapes.muon import Muon, orthogonal


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(20, 80), (80, 20), (3, 16, 144), (32, 32)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrix = torch.randn(shape, generator=generator())
    made = orthogonal(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.4  # square random matrices have singular values near 0, which five rounds lift only so far
    assert values.max() < 1.4
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ made @ vh.mT
    off = inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 0.1  # bfloat16
    assert (torch.linalg.svdvals(matrix)[..., 0] > 1.4).all()


def test_the_scale_of_a_matrix_does_not_matter():
    matrix = torch.randn(8, 24, generator=generator())
    torch.testing.assert_close(orthogonal(1e-6 * matrix), orthogonal(matrix), atol=0.02, rtol=0)
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_the_others_move_as_with_adamw():
    mine = nn.Linear(5, 3)
    theirs = copy.deepcopy(mine)
    ours = Muon([], mine.parameters(), lr=0.5, spectral=1.0, adam=0.02)
    adam = torch.optim.AdamW(theirs.parameters(), 0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(5):
        data = torch.randn(7, 5, generator=generator(step))
        for network, optimizer in ((mine, ours), (theirs, adam)):
            optimizer.zero_grad()
            network(data).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("outputs", "factor"), [(16, 1.0), (144, 2.0)])
def test_a_convolution_moves_by_its_rate_in_the_spectral_norm(outputs, factor):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, outputs, 3)  # a matrix with 36 columns: sqrt(144 / 36) = 2
    before = [part.detach().clone() for part in layer.parameters()]
    optimizer = Muon([layer.weight], [layer.bias], lr=1.0, spectral=0.1, adam=0.0)
    layer(torch.randn(40, 4, 8, 8, generator=generator())).square().sum().backward()
    optimizer.step()
    values = torch.linalg.svdvals((layer.weight.detach() - before[0]).flatten(1)) / (0.1 * factor)
    assert values.max() < 1.4
    assert values.mean() > 0.6
    assert torch.equal(layer.bias, before[1])


def test_it_minimises():
    weight, wanted = nn.Parameter(torch.zeros(6, 10)), torch.randn(6, 10, generator=generator())
    optimizer = Muon([weight], [], lr=1.0, spectral=0.05, adam=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        (weight - wanted).square().sum().backward()
        optimizer.step()
    assert (weight - wanted).norm() < 0.1 * wanted.norm()
