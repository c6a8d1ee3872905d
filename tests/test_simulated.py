"""Simulated gaps of mixtures in d > 1 against exact ones, in standard errors."""

import math

import numpy as np
import pytest

import gapbound as gb
from gapbound.monotone import mixture_gap
from gapbound.simulated import PAIRS, _levels, simulated_gap

LINE = gb.GaussianMixture([0.4, 0.6], [-1.0, 1.0], [0.3, 0.1])
# a product: the second coordinate is N(0.4, 0.3) whatever the first does, and the rewards do not see it
# (reward_gap would reduce it to the first, so that these tests call the simulation itself)
PLANE = gb.GaussianMixture([0.4, 0.6], [[-1.0, 0.4], [1.0, 0.4]], [[0.3, 0.3], [0.1, 0.3]])
WINDOWS = gb.Windows([(0.2, 1.0, 1.5)])


@pytest.mark.parametrize("process", [gb.VE(2.0), gb.FlowMatching(0.8)], ids=repr)
@pytest.mark.parametrize("eta", [0.5, 1.2, WINDOWS])
def test_a_product_has_the_gap_of_its_factor(process, eta):
    exact = mixture_gap(LINE, process, gb.Linear(1.0), eta)
    found = simulated_gap(PLANE, process, gb.Linear([1.0, 0.0]), eta)
    assert found.method == "monte carlo"
    assert found.n == PAIRS
    assert abs(found.value - exact.value) < 4 * found.error
    assert 0 < found.error < 0.02


def test_a_wrong_eta_is_seen():
    exact = mixture_gap(LINE, gb.VE(2.0), gb.Linear(1.0), 1.2)
    found = simulated_gap(PLANE, gb.VE(2.0), gb.Linear([1.0, 0.0]), 0.5)
    assert abs(found.value - exact.value) > 8 * found.error


def test_steps_are_fine_enough_where_eta_is_large():
    # exact laws of the very chain on one Gaussian: what the integrator alone does to the mean and the variance
    target, process, eta = gb.Gaussian(0.7, 0.1), gb.VE(20.0), 2.5
    sigmas = _levels(0.1, 20.0, [np.asarray(eta), np.asarray(0.0)])
    for value in (0.0, eta):
        steps = gb.discrete_law(target, process, "stochastic-heun", value, sigmas=sigmas)
        exact = gb.terminal_law(target, process, value)
        assert float(steps.mean[0]) == pytest.approx(float(exact.mean[0]), abs=1e-3 * math.sqrt(0.1))
        assert float(steps.variances[0]) == pytest.approx(float(exact.variances[0]), rel=2e-3)


def test_levels_fall_through_the_edges_of_the_windows():
    levels = _levels(0.1, 3.0, [WINDOWS, np.asarray(0.0)])
    fine = _levels(0.1, 3.0, [gb.Windows([(0.2, 1.0, 4.0)]), np.asarray(0.0)])
    assert (np.diff(levels) < 0).all()
    assert levels[0] == 3.0
    assert levels[-1] == 0.0
    assert {0.2, 1.0} <= set(levels.tolist())
    assert len(fine) > 2 * len(levels)
    assert np.abs(np.diff(np.log1p(levels**2 / 0.1))).max() < 0.1


def test_nothing_is_left_of_a_start_at_infinity():
    found = simulated_gap(PLANE, gb.FlowMatching(1.0), gb.Linear([1.0, 0.0]), 0.5)
    assert (found.value, found.error) == (0.0, 0.0)


def test_wrong_questions_are_refused():
    reward = gb.Linear([1.0, 0.0])
    with pytest.raises(ValueError, match=r"one at a time, got T \(2,\), eta \(3,\); loop"):
        simulated_gap(PLANE, gb.VE([1.0, 2.0]), reward, np.ones(3))
    with pytest.raises(ValueError, match=r"at most 1e\+06 or inf to simulate, got 1e\+08; use a smaller T"):
        simulated_gap(PLANE, gb.VE(1e8), reward)
    with pytest.raises(ValueError, match="eta_ref must be 0 or more"):
        simulated_gap(PLANE, gb.VE(2.0), reward, 1.0, -1.0)
    with pytest.raises(ValueError, match="dimension"):
        gb.reward_gap(PLANE, gb.VE(2.0), gb.Linear([1.0, 0.0, 2.0]))
