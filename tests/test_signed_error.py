"""The signed first-order error of scores and of steps, against exact laws, finite differences and simulation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gapbound as gb
from analysis.score_network import TARGETS, load
from tests.strategies import powers, processes

TARGET, REWARD = gb.Gaussian(0.7, 0.5), gb.Quadratic(0.8, 0.3, 0.2)
WINDOW = gb.Windows([(0.3, 2.0, 1.3)])
SPACE = (
    gb.Gaussian([1.0, -0.5, 0.2], [[0.9, 0.2, 0.1], [0.2, 0.5, -0.1], [0.1, -0.1, 0.4]]),
    gb.Gaussian([0.0, 0.3, 0.1], [[1.1, -0.3, 0.0], [-0.3, 0.8, 0.2], [0.0, 0.2, 0.6]]),
    gb.Quadratic([[0.5, 0.2, 0.0], [0.2, -0.3, 0.1], [0.0, 0.1, 0.4]], [0.2, 0.1, -0.4], 0.3),
)


def reached(reward, law):
    return float(reward.expectation(law))


def derivative(conditional, unconditional, process, reward, eta, h=2e-3):
    """d/dw E r of guidance at w = 1, by central differences of exact laws with one Richardson step."""

    def central(step):
        laws = (
            gb.terminal_law(gb.guided(unconditional, conditional, 1 + sign * step), process, eta) for sign in (1, -1)
        )
        above, below = (reached(reward, law) for law in laws)
        return (above - below) / (2 * step)

    return (4 * central(h / 2) - central(h)) / 3


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 2.5, 30.0, WINDOW], ids=str)
@pytest.mark.parametrize("process", [gb.VE(3.0), gb.VP(1.4), gb.FlowMatching(1.0)], ids=["VE", "VP", "endless"])
def test_it_is_the_derivative_of_guidance(process, eta):
    conditional, unconditional = gb.Gaussian(1.0, 0.5), gb.Gaussian(0.0, 1.0)
    for reward in (gb.Linear(0.7), REWARD):
        found = float(
            gb.signed_score_error(conditional, process, reward, gb.guided(unconditional, conditional, 2), eta)
        )
        assert found == pytest.approx(derivative(conditional, unconditional, process, reward, eta), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_it_is_the_derivative_for_axes_that_do_not_agree(eta):
    conditional, unconditional, reward = SPACE
    found = float(gb.signed_score_error(conditional, gb.VP(1.4), reward, gb.guided(unconditional, conditional, 2), eta))
    assert found == pytest.approx(derivative(conditional, unconditional, gb.VP(1.4), reward, eta), rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(powers(-2, 2), st.floats(-3, 3), st.floats(-2, 2), processes(-1, 6), st.floats(0, 4))
def test_a_moved_mean_is_exact_under_a_linear_reward(v, mean, moved, process, eta):
    """The score changes by delta/(v + tau), E r by b delta (1 - Phi): to first order, and exactly."""
    target, other, reward = gb.Gaussian(mean, v), gb.Gaussian(mean + moved, v), gb.Linear(0.6)
    phi = (v / (v + float(process.sigma_T) ** 2)) ** ((1 + eta**2) / 2)
    found = float(gb.signed_score_error(target, process, reward, other, eta))
    assert found == pytest.approx(0.6 * moved * (1 - phi), rel=1e-11, abs=1e-13)


def test_the_remainder_is_of_second_order():
    """E r of the perturbed sampler less E r of the exact one less the signed error, quartered when w - 1 is halved."""
    conditional, unconditional, reward = SPACE
    process, rest = gb.VP(1.4), []
    base = reached(reward, gb.terminal_law(conditional, process, 0.7))
    for w in (1.2, 1.1, 1.05):
        model = gb.guided(unconditional, conditional, w)
        exact = reached(reward, gb.terminal_law(model, process, 0.7)) - base
        rest.append(exact - float(gb.signed_score_error(conditional, process, reward, model, 0.7)))
    np.testing.assert_allclose(np.log2(np.array(rest[:-1]) / rest[1:]), 2, atol=0.15)


def test_it_is_linear_in_the_difference_and_batched_over_models():
    conditional, unconditional = gb.Gaussian([1.0, -0.5], [0.5, 0.7]), gb.Gaussian([0.0, 0.2], [1.0, 0.4])
    reward = gb.Quadratic([[1.0, 0.2], [0.2, 0.5]], 0.1)
    several = gb.signed_score_error(conditional, gb.VP(1.4), reward, gb.guided(unconditional, conditional, [1, 2, -1]))
    assert several[0] == pytest.approx(0, abs=1e-14)
    assert several[2] == pytest.approx(-2 * several[1], rel=1e-12)


def test_the_law_is_the_samplers_own_and_not_q():
    """With the start's mismatch the derivative of the ODE is not what q_tau would give."""
    conditional, unconditional, process = gb.Gaussian(1.0, 0.5), gb.Gaussian(0.0, 1.0), gb.VE(1.0)
    model = gb.guided(unconditional, conditional, 2.0)
    found = float(gb.signed_score_error(conditional, process, gb.Linear(1.0), model, 0.0))
    tau = np.linspace(0, 1, 20001)
    integrand = np.sqrt(0.5 / (0.5 + tau)) / (1 + tau) / 2  # of s_theta - s under q_tau, times the ODE's decay
    under_q = np.trapezoid(integrand, tau)
    assert abs(found - under_q) > 0.05 * abs(found)
    assert found == pytest.approx(derivative(conditional, unconditional, process, gb.Linear(1.0), 0.0), rel=1e-8)


@pytest.mark.parametrize(
    ("sampler", "eta"),
    [("gddim", 0.0), ("gddim", 1.0), ("gddim", 1.5), ("ddim", 0.8), ("euler-maruyama", 0.0), ("euler-maruyama", 1.2)],
)
def test_the_sum_over_steps_is_the_order_1_error(sampler, eta):
    """N (E_N - E_inf) and N times the sum agree up to O(1/N), and tend to a constant that is not 0."""
    process, rest, scaled = gb.VP(1.4), [], []
    limit = reached(REWARD, gb.terminal_law(TARGET, process, eta))
    for steps in (100, 200, 400):
        exact = reached(REWARD, gb.discrete_law(TARGET, process, sampler, eta, steps)) - limit
        found = float(gb.signed_step_errors(TARGET, process, REWARD, sampler, eta, steps).sum())
        rest.append(abs(found - exact) / abs(exact))
        scaled.append(steps * found)
    assert rest[-1] < 0.01
    assert rest[-1] < 0.6 * rest[-2] or rest[-1] < 1e-12
    assert abs(scaled[-1]) > 0.5
    assert abs(scaled[-1] / scaled[-2] - 1) < 0.08


def test_steps_of_second_order_and_exact_steps_have_no_constant():
    process = gb.VP(1.4)
    sums = [100 * 2**k * gb.signed_step_errors(TARGET, process, REWARD, "heun", 0.0, 100 * 2**k).sum() for k in (0, 1)]
    assert abs(sums[1]) < 0.55 * abs(sums[0])
    exact = gb.signed_step_errors(TARGET, process, REWARD, "exact", 1.3, 10)
    np.testing.assert_allclose(exact, 0, atol=1e-15)


def test_steps_in_space_are_those_of_its_axes():
    target, _, reward = SPACE
    process, steps = gb.FlowMatching(0.9), 200
    exact = reached(reward, gb.discrete_law(target, process, "gddim", 0.7, steps))
    exact -= reached(reward, gb.terminal_law(target, process, 0.7))
    assert gb.signed_step_errors(target, process, reward, "gddim", 0.7, steps).sum() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("eta", [0.0, 1.2])
def test_the_estimate_is_the_derivative_of_the_n_step_law(eta):
    conditional, unconditional, n = gb.Gaussian(1.0, 0.5), gb.Gaussian(0.0, 1.0), 20_000
    process, reward, h, steps = gb.VE(3.0), gb.Quadratic(0.8, 0.3), 1e-4, 20
    model = gb.guided(unconditional, conditional, 2.0)
    found = gb.estimate_signed_error(conditional, process, reward, model.score, "gddim", eta, steps, n, seed=4)
    above, below = (
        reached(reward, gb.discrete_law(gb.guided(unconditional, conditional, w), process, "gddim", eta, steps))
        for w in (1 + h, 1 - h)
    )
    assert abs(found.value - (above - below) / (2 * h)) < 4 * found.error
    assert found.error < 0.02 * abs(found.value)
    other = gb.estimate_signed_error(conditional, process, reward, model.score, "gddim", eta, steps, n, seed=4)
    assert other.value == found.value


def test_it_predicts_what_a_trained_network_costs_with_its_sign():
    """Against paired simulation of the network and the exact score; the negative of it is far off."""
    target, network, process = TARGETS[1], load(1), gb.VE(4.0)
    reward, n, sigmas = gb.Cosine(1.0, -np.pi / 2), 4000, np.geomspace(4.0, 0.05, 31)

    def learned(z, sigma):
        return network(z.float(), sigma).double()

    found = gb.estimate_signed_error(target, process, reward, learned, "gddim", 0.0, n=n, seed=1, sigmas=sigmas)
    ends = [
        gb.simulate(
            model, process, "gddim", 0.0, n=n, seed=2, sigmas=sigmas, dtype=torch.float64, dim=1 if dim else None
        ).samples
        for model, dim in ((learned, 1), (target, None))
    ]
    change = reward(ends[0]) - reward(ends[1])
    error = np.hypot(found.error, float(change.std()) / np.sqrt(n))
    assert abs(float(change.mean()) - found.value) < 4 * error
    assert abs(float(change.mean()) + found.value) > 8 * error


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gb.signed_score_error(TARGETS[1], gb.VE(2.0), REWARD, TARGET), TypeError, "must be a Gaussian"),
        (lambda: gb.signed_score_error(TARGET, gb.VE(2.0), gb.HalfSpace(1.0), TARGET), TypeError, "Quadratic and Lin"),
        (lambda: gb.signed_score_error(TARGET, gb.VE(2.0), REWARD, TARGETS[1]), TypeError, "affine score or a Gau"),
        (lambda: gb.signed_score_error(TARGET, gb.VE(2.0), REWARD, SPACE[0]), ValueError, "dimension 1, got 3"),
        (lambda: gb.signed_score_error(TARGET, gb.VE([2.0, 3.0]), REWARD, TARGET), ValueError, "one T and one eta"),
        (lambda: gb.signed_score_error(TARGET, gb.VE(2.0), REWARD, TARGET, -1.0), ValueError, "0 or more"),
        (
            lambda: gb.signed_score_error(gb.Gaussian([[0.0], [1.0]], 1.0), gb.VE(2.0), REWARD, TARGET),
            ValueError,
            "batch",
        ),
        (lambda: gb.signed_step_errors(TARGET, gb.FlowMatching(1.0), REWARD), ValueError, "no defect"),
        (lambda: gb.signed_step_errors(TARGET, gb.VE(2.0), REWARD, "ddim", 3.0), ValueError, "gddim"),
        (
            lambda: gb.estimate_signed_error(TARGET, gb.VE(2.0), gb.HalfSpace(1.0), TARGET.score, n=10),
            ValueError,
            "reward with a gradient",
        ),
        (lambda: gb.estimate_signed_error(TARGET, gb.VE(2.0), REWARD, 3.0), TypeError, "callable"),
        (lambda: gb.estimate_signed_error(TARGET, gb.VE(2.0), REWARD, TARGET.score, n=10**8), ValueError, "smaller n"),
        (lambda: gb.estimate_signed_error(TARGET, gb.VE(2.0), REWARD, TARGET.score, "heun"), ValueError, "sampler"),
        (
            lambda: gb.estimate_signed_error(TARGET, gb.VE(2.0), REWARD, lambda z, s: z[:1], n=10),
            ValueError,
            "z's shape",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
