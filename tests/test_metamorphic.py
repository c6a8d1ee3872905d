"""Relations that must hold between answers: rotation, scaling, splitting of windows and components, batch and loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import etas, powers, processes, signed, windows

import gapbound as gb

FEW = settings(max_examples=30)


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@FEW
@given(st.floats(0, 6.3), signed(3.0), signed(3.0), powers(-1, 1), powers(-1, 1), processes(-1, 2), etas(3.0))
def test_the_gap_does_not_turn_with_the_axes(angle, m1, m2, v1, v2, process, eta):
    Q, mean, cov = rotation(angle), np.array([m1, m2]), np.diag([v1, v2])
    A, c, b = np.array([[1.0, 0.3], [0.3, 0.5]]), np.array([0.2, -0.4]), np.array([0.1, 0.7])
    plain = gb.reward_gap(gb.Gaussian(mean, cov), process, gb.Quadratic(A, c, b), eta)
    turned = gb.reward_gap(gb.Gaussian(Q @ mean, Q @ cov @ Q.T), process, gb.Quadratic(Q @ A @ Q.T, Q @ c, Q @ b), eta)
    assert turned == pytest.approx(plain, rel=1e-8, abs=1e-10 * (1 + float(process.prior_excess)))


@FEW
@given(powers(-2, 2), signed(3.0), powers(-1, 1), powers(-0.5, 1), etas(3.0))
def test_data_in_other_units_give_the_same_gap(unit, m, v, T, eta):
    for reward, scaled in (
        (gb.Quadratic(1.0, 0.3, 0.2), gb.Quadratic(unit**-2, 0.3 * unit, 0.2 / unit)),
        (gb.HalfSpace(1.0, 0.3), gb.HalfSpace(1.0, 0.3 * unit)),
        (gb.Bump(0.3, 0.7), gb.Bump(0.3 * unit, 0.7 * unit)),
        (gb.Cosine(2.0, 0.3), gb.Cosine(2.0 / unit, 0.3)),
    ):
        plain = gb.reward_gap(gb.Gaussian(m, v), gb.VE(T), reward, eta)
        other = gb.reward_gap(gb.Gaussian(m * unit, v * unit**2), gb.VE(T * unit), scaled, eta)
        assert other == pytest.approx(plain, rel=1e-9, abs=1e-11)


@FEW
@given(signed(3.0), powers(-1, 1), processes(-1, 2), windows(-2, 2, 3.0))
def test_splitting_a_window_changes_nothing(m, v, process, own):
    halves = [(a, (a + b) / 2, eta) for a, b, eta in own.windows] + [((a + b) / 2, b, eta) for a, b, eta in own.windows]
    target, reward = gb.Gaussian(m, v), gb.Quadratic(1.0, 0.2)
    whole, cut = (gb.reward_gap(target, process, reward, eta) for eta in (own, gb.Windows(halves)))
    assert cut == pytest.approx(whole, rel=1e-9, abs=1e-10 * (1 + float(process.prior_excess)))


@pytest.mark.parametrize("reward", [gb.HalfSpace(1.0, 0.3), gb.Quadratic(1.0, 0.2), gb.Cosine(1.5, 0.1)])
def test_a_component_cut_in_two_is_the_same_component(reward):
    law = gb.GaussianMixture([0.3, 0.7], [-1.0, 1.5], [0.4, 0.6])
    cut = gb.GaussianMixture([0.3, 0.2, 0.5], [-1.0, 1.5, 1.5], [0.4, 0.6, 0.6])
    x = np.linspace(-4, 4, 9)[:, None]
    np.testing.assert_allclose(cut.log_prob(x), law.log_prob(x), rtol=1e-13)
    np.testing.assert_allclose(cut.score(x, 0.7), law.score(x, 0.7), rtol=1e-12, atol=1e-13)
    assert reward.expectation(cut) == pytest.approx(float(reward.expectation(law)), rel=1e-13)
    one, other = (gb.reward_gap(target, gb.VE(4.0), reward, 0.8) for target in (law, cut))
    assert other.value == pytest.approx(one.value, abs=one.error + other.error + 1e-9)


@pytest.mark.parametrize("reward", [gb.HalfSpace(1.0, 0.3), gb.Linear(1.0), gb.Bump(0.1, 0.8)])
def test_a_mixture_of_one_component_is_a_gaussian(reward):
    gaussian, mixture = gb.Gaussian(0.7, 0.5), gb.GaussianMixture([1.0], [0.7], [0.5])
    exact = float(gb.reward_gap(gaussian, gb.VE(3.0), reward, 1.3))
    found = gb.reward_gap(mixture, gb.VE(3.0), reward, 1.3)
    assert found.value == pytest.approx(exact, abs=found.error + 1e-9)


@FEW
@given(signed(5.0), signed(3.0))
def test_a_translation_of_data_reward_and_points_changes_no_reward(shift, m):
    for reward, moved in (
        (gb.Bump(0.3, 0.7), gb.Bump(0.3 + shift, 0.7)),
        (gb.HalfSpace(2.0, 0.4), gb.HalfSpace(2.0, 0.4 + 2.0 * shift)),
        (gb.AbsoluteDeviation(0.3), gb.AbsoluteDeviation(0.3 + shift)),
        (gb.Quadratic(1.5, 0.3), gb.Quadratic(1.5, 0.3 + shift)),
    ):
        here, there = reward.expectation(gb.Gaussian(m, 0.8)), moved.expectation(gb.Gaussian(m + shift, 0.8))
        assert there == pytest.approx(here, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(
    "reward", [gb.Quadratic(1.0, 0.2, 0.4), gb.HalfSpace(1.0, 0.3), gb.Bump(0.1, 0.8), gb.AbsoluteDeviation(0.2)]
)
def test_a_batch_is_a_loop(reward):
    means, variances, T, eta = (
        np.array([[-1.0], [0.2], [2.0]]),
        np.array([[0.5], [1.0], [2.0]]),
        [2.0, 3.0, 5.0],
        [0.3, 1.0, 1.7],
    )
    law = gb.Gaussian(means, variances)
    together = gb.reward_gap(law, gb.VE(T), reward, eta)
    alone = [gb.reward_gap(gb.Gaussian(means[i], variances[i]), gb.VE(T[i]), reward, eta[i]) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-13)
    chains = gb.discrete_law(law, gb.VE(T), "gddim", eta, 7)
    for i in range(3):
        one = gb.discrete_law(gb.Gaussian(means[i], variances[i]), gb.VE(T[i]), "gddim", eta[i], 7)
        np.testing.assert_allclose([chains.mean[i], chains.cov[i]], [one.mean, one.cov], rtol=1e-13)
    x = np.linspace(-1, 1, 3)[:, None]
    np.testing.assert_allclose(law.log_prob(x), [gb.Gaussian(means[i], variances[i]).log_prob(x[i]) for i in range(3)])


def test_the_gap_of_a_sum_of_rewards_is_the_sum_of_the_gaps():
    target, process = gb.Gaussian([0.4, -1.0], [[1.0, 0.3], [0.3, 0.8]]), gb.VP(1.2)
    A, b = np.array([[1.0, 0.2], [0.2, 0.4]]), np.array([0.3, -0.7])
    whole = gb.reward_gap(target, process, gb.Quadratic(A, 0.0, b), 0.6)
    parts = [gb.reward_gap(target, process, r, 0.6) for r in (gb.Quadratic(A, 0.0), gb.Linear(b))]
    assert whole == pytest.approx(sum(parts), rel=1e-12)


def test_swapping_the_samplers_turns_the_sign():
    target, process = gb.Gaussian(0.4, 1.3), gb.VE(3.0)
    for reward in (gb.Quadratic(1.0, 0.2), gb.HalfSpace(1.0, 0.1)):
        there, back = gb.reward_gap(target, process, reward, 0.6, 1.4), gb.reward_gap(target, process, reward, 1.4, 0.6)
        assert there == pytest.approx(-back, rel=1e-13)
