"""One implicit step of diffusion between cells, against dense linear algebra and at huge rates."""

import numpy as np
import pytest

from gapbound.march import exchange_rates, implicit_step, stiffness
from gapbound.mixture import GaussianMixture
from gapbound.quantiles import Line, Points


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 33])
def test_the_step_solves_its_linear_system(n):
    draw = np.random.default_rng(n)
    excess, right = draw.uniform(0.5, 2, (2, n)), draw.standard_normal((2, n))
    down, up = draw.uniform(0, 3, (2, 2, n))
    down[:, 0], up[:, -1] = 0, 0
    x = implicit_step(excess, down, up, right)
    for k in range(2):
        system = np.diag(excess[k] + down[k] + up[k]) - np.diag(down[k, 1:], -1) - np.diag(up[k, :-1], 1)
        np.testing.assert_allclose(x[k], np.linalg.solve(system, right[k]), rtol=1e-12)


def test_cells_that_exchange_at_any_rate_share_their_mean_and_lose_no_digits():
    down, up = np.array([0.0, 1e200, 1e-3, 1e200]), np.array([1e200, 1e-3, 1e200, 0.0])
    x = implicit_step(np.ones(4), down, up, np.array([1.0, 3.0, -2.0, 0.0]))
    np.testing.assert_allclose(x[[0, 2]], x[[1, 3]], rtol=1e-14)
    slow = 1e-3 / 2  # the two pairs as two cells of twice the mass
    pair = np.linalg.solve([[1 + slow, -slow], [-slow, 1 + slow]], [2.0, -1.0])
    np.testing.assert_allclose(x[[0, 2]], pair, rtol=1e-12)


def test_rates_balance_in_every_pair_of_cells_and_vanish_at_the_ends():
    line = Line.of(GaussianMixture([0.4, 0.6], [-1.0, 1.0], [0.3, 0.5]))
    edges = np.linspace(-4, 4, 41)
    points, log_mass = Points(line, edges), line.log_masses(edges)
    points.jump(0.5)
    down, up = exchange_rates(points, log_mass, 0.1)
    assert down[0] == up[-1] == 0
    mass = np.exp(log_mass)
    np.testing.assert_allclose(mass[1:] * down[1:], mass[:-1] * up[:-1], rtol=1e-12)
    assert (down[1:] > 0).all()
    np.testing.assert_allclose(exchange_rates(points, log_mass, 0.2)[0], 2 * down, rtol=1e-12)


def test_more_noise_takes_more_steps_beyond_an_eta_of_the_square_root_of_2():
    assert [stiffness(square) for square in (0.0, 1.0, 2.0)] == [1, 1, 1]
    assert stiffness(8.0) == 4.0
    assert stiffness(100.0) == 15.0
