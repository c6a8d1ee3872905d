"""Randomness: the same numbers however they are cut; streams of their own for x_T, every draw and every block."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from gapbound.noise import BLOCK_ELEMENTS, GivenNoise, SeededNoise

CPU = torch.device("cpu")


def seeded(seed=0, draw=0, dim=1, dtype=torch.float32):
    return SeededNoise(seed, draw, dim, dtype, CPU)


def increments(noise, start, stop, steps=2):
    source = noise.increments(start, stop)
    return torch.stack([source.next().clone() for _ in range(steps)])


def correlation_z(a, b):
    """Correlation of two samples in standard errors of independent ones."""
    a, b = a.ravel().double(), b.ravel().double()
    return float((a * b).mean() * len(a) ** 0.5)


@pytest.mark.parametrize("dim", [1, 3, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_range_of_whole_blocks_holds_the_numbers_of_the_full_range(dim, dtype):
    noise = seeded(seed=3, dim=dim, dtype=dtype)
    block, n = noise.block, 3 * noise.block + 7
    x_T, xi = noise.initial(0, n), increments(noise, 0, n)
    assert x_T.shape == (n, dim)
    assert xi.shape == (2, n, dim)
    assert x_T.dtype == xi.dtype == dtype
    for start, stop in [(0, 5), (0, block), (block, 2 * block + 1), (block, n), (3 * block, n)]:
        torch.testing.assert_close(noise.initial(start, stop), x_T[start:stop], rtol=0, atol=0)
        torch.testing.assert_close(increments(noise, start, stop), xi[:, start:stop], rtol=0, atol=0)


def test_blocks_fit_the_cache_and_hold_at_least_one_path():
    assert seeded(dim=1).block == BLOCK_ELEMENTS
    assert seeded(dim=64).block * 64 == BLOCK_ELEMENTS
    wide = seeded(dim=BLOCK_ELEMENTS + 1)
    assert wide.block == 1
    assert not torch.equal(wide.initial(0, 2)[0], wide.initial(0, 2)[1])


def test_numbers_are_standard_normal_across_blocks_steps_and_dtypes():
    for dtype in (torch.float32, torch.float64):
        noise = seeded(seed=11, dim=2, dtype=dtype)
        n = 2 * noise.block
        for values in (noise.initial(0, n), increments(noise, 0, n)):
            assert kstest(values.double().numpy().ravel(), "norm").pvalue > 1e-3


def test_seeds_draws_x_T_blocks_and_steps_are_independent_streams():
    block, base = seeded().block, seeded(seed=5)
    reference = increments(base, 0, block, steps=1)[0]
    others = {
        "x_T": base.initial(0, block),
        "next step": increments(base, 0, block)[1],
        "next block": increments(base, block, 2 * block)[0],
        "next draw": increments(seeded(seed=5, draw=1), 0, block)[0],
        "next seed": increments(seeded(seed=6), 0, block)[0],
        "next seed's x_T": seeded(seed=6).initial(0, block),
        "coordinates": increments(seeded(seed=5, draw=2, dim=2), 0, block // 2)[0],
    }
    for name, other in others.items():
        if name == "coordinates":
            assert abs(correlation_z(other[:, 0], other[:, 1])) < 4
        else:
            assert abs(correlation_z(reference, other)) < 4, name
    assert correlation_z(reference, increments(seeded(seed=5), 0, block)[0]) > 100  # power: the same stream shows


def test_draws_share_x_T_and_nothing_else():
    one, other = seeded(seed=2, draw=0), seeded(seed=2, draw=1)
    assert torch.equal(one.initial(0, 100), other.initial(0, 100))
    assert not torch.equal(increments(one, 0, 100), increments(other, 0, 100))


@given(st.integers(0, 2**70), st.integers(0, 10**6))
@settings(max_examples=20)
def test_any_seed_and_draw_give_finite_numbers_that_repeat(seed, draw):
    values = increments(seeded(seed=seed, draw=draw), 0, 50)
    assert torch.isfinite(values).all()
    assert torch.equal(values, increments(seeded(seed=seed, draw=draw), 0, 50))


def test_given_noise_is_read_as_it_is_and_stays_as_it_is():
    rng = np.random.default_rng(0)
    x_T, xi = torch.tensor(rng.standard_normal((9, 2))), torch.tensor(rng.standard_normal((4, 9, 2)))
    noise, kept = GivenNoise(x_T, xi), x_T.clone()
    assert noise.block == BLOCK_ELEMENTS // 2
    assert torch.equal(increments(noise, 3, 8, steps=4), xi[:, 3:8])
    start = noise.initial(3, 8)
    assert torch.equal(start, x_T[3:8])
    start.zero_()
    assert torch.equal(x_T, kept)
