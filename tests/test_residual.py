"""Bound B5: the residual of the guessed value function, and the remainder that its identity leaves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import gapbound as gb
from analysis.cases import case
from gapbound import bounds
from gapbound.bounds.dissipation import Levels, chi_square_budget, growth, kl_budget, smallest
from gapbound.bounds.mismatch import information
from gapbound.bounds.problem import problem
from gapbound.bounds.trial import EXPONENTS, Guess, component_values, guess, guessed_error
from gapbound.monotone import sampler_errors
from gapbound.reward import CallableReward

TWO_MODES = gb.GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.4, 0.2])
TWINS = gb.GaussianMixture([0.4, 0.6], [0.7, 0.7], [0.5, 0.5])  # one Gaussian that does not know it
WINDOWS = gb.Windows([(0.3, 1.0, 0.6), (1.0, 2.5, 1.7)])


def fields(question, z, tau):
    """(q, score, w, J) of theory on points z at one tau, written out independently of the module."""
    m, v = question.components.mean[:, 0], question.components.variances[:, 0] + tau
    parts = question.weights * np.exp(-((z[:, None] - m) ** 2) / (2 * v)) / np.sqrt(2 * math.pi * v)
    q = parts.sum(-1)
    scores = -(z[:, None] - m) / v
    score = (parts * scores).sum(-1) / q
    u = component_values(question, z[None], np.array([tau]))[0]
    return q, score, (parts * u).sum(-1) / q, (parts * u * (scores - score[:, None])).sum(-1) / q


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.7])
def test_the_guess_misses_the_backward_equation_by_the_stated_residual(eta):
    question = problem(TWO_MODES, gb.VE(3.0), gb.Bump(0.5, 0.8), eta)
    z, tau, h, k = np.linspace(-4, 4, 81), 1.3, 1e-3, 1e-3
    q, score, w, _ = fields(question, z, tau)
    later, earlier = (fields(question, z, tau + side)[2] for side in (k, -k))
    right, left = (fields(question, z + side, tau) for side in (h, -h))
    w_z, w_zz = (right[2] - left[2]) / (2 * h), (right[2] - 2 * w + left[2]) / h**2
    missed = (later - earlier) / (2 * k) - (1 + eta**2) / 2 * score * w_z - eta**2 / 2 * w_zz
    divergence = (right[0] * right[3] - left[0] * left[3]) / (2 * h) / q
    np.testing.assert_allclose(missed, (1 - eta**2) / 2 * divergence, atol=2e-6)
    assert np.abs(divergence).max() > 0.05
    assert (np.abs(missed).max() < 2e-6) == (eta == 1)


@pytest.mark.parametrize("eta", [0.5, 1.6])
def test_the_identity_holds_with_the_density_ratio_of_the_sampler(eta):
    # f = law / q_tau by the backward equation of dZ = (eta^2 - 1)/2 s dtau + eta dW, by the method of lines
    question = problem(TWO_MODES, gb.VE(2.0), gb.Bump(0.5, 0.8), eta)
    z, top = np.linspace(-9, 9, 361), 4.0
    h = z[1] - z[0]
    q_T = fields(question, z, top)[0]
    start = np.exp(-(z**2) / (2 * top)) / np.sqrt(2 * math.pi * top) / q_T

    def slope(t, f):
        _, score, _, _ = fields(question, z, top - t)
        f_z, f_zz = np.gradient(f, h), np.zeros_like(f)
        f_zz[1:-1] = (f[2:] - 2 * f[1:-1] + f[:-2]) / h**2
        return eta**2 / 2 * f_zz + (eta**2 - 1) / 2 * score * f_z

    times = top - np.linspace(math.sqrt(top), 0, 60) ** 2
    found = solve_ivp(slope, (0, top), start, "LSODA", times, rtol=1e-6, atol=1e-8, lband=1, uband=1)
    inner = []
    for t, f in zip(times, found.y.T, strict=True):
        q, _, _, J = fields(question, z, top - t)
        inner.append((q * np.gradient(f, h) * J).sum() * h)
    correction = (1 - eta**2) / 2 * np.trapezoid(inner, times)
    exact = sampler_errors(TWO_MODES, gb.VE(2.0), question.reward, [eta])[0].value
    main, rounding = guessed_error(question, 2)
    assert rounding < 1e-12
    assert abs(correction) > 2e-3
    assert main + correction == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("reward", [gb.Linear(1.0), gb.HalfSpace(1.0, 0.3), gb.Cosine(1.3, 0.2)])
def test_the_guess_is_the_value_function_at_eta_1(reward):
    ode, sde = (found.value for found in sampler_errors(TWO_MODES, gb.VE(2.0), reward, [0.0, 1.0]))
    bound = bounds.residual(TWO_MODES, gb.VE(2.0), reward, 1.0)
    assert bound.gap == pytest.approx(abs(ode - sde), rel=1e-4)
    assert bound.ode == pytest.approx(abs(ode), rel=1e-4)
    assert bound.sde == pytest.approx(abs(sde), rel=1e-4)
    assert bounds.residual(TWO_MODES, gb.VE(2.0), reward, 1.2).gap > 1.01 * abs(ode - sde) / 1.5


@pytest.mark.parametrize("eta", [0.4, 1.5, WINDOWS])
def test_the_bound_is_the_gap_for_one_gaussian_in_any_dimension(eta):
    target, process = gb.Gaussian([0.5, -1.0], [[0.5, 0.2], [0.2, 1.0]]), gb.VE(3.0)
    reward = gb.Bump([0.0, 0.3], 1.1)
    exact = abs(float(gb.reward_gap(target, process, reward, eta)))
    assert bounds.residual(target, process, reward, eta).gap == pytest.approx(exact, rel=1e-12)
    hidden = bounds.residual(TWINS, process, gb.Cosine(1.0), eta)
    one = bounds.residual(gb.Gaussian(0.7, 0.5), process, gb.Cosine(1.0), eta)
    assert hidden.gap == pytest.approx(one.gap, rel=1e-4)
    assert hidden.sde == pytest.approx(one.sde, rel=1e-4)


def test_the_bound_on_the_gap_vanishes_with_eta_squared():
    gaps = [bounds.residual(TWO_MODES, gb.VE(3.0), gb.Linear(1.0), eta).gap for eta in (0.02, 0.04, 0.08)]
    assert np.diff(np.log2(gaps)) == pytest.approx([2, 2], abs=0.05)


def test_a_prior_too_wide_for_chi_square_leaves_the_entropy():
    narrow = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.05, 0.1])
    question = narrow, gb.VP(math.log(1.36), beta="constant"), gb.Bump(0.0, 1.0), 1.3
    with pytest.raises(ValueError, match="is infinite"):
        bounds.chi_square(*question)
    bound = bounds.residual(*question)
    assert bound.constants[-1].source == "dissipation of KL"
    exact = float(gb.reward_gap(*question).value)
    assert abs(exact) <= bound.gap < 3 * abs(exact)


@pytest.mark.parametrize("first", [0, 15])
def test_no_bound_is_below_the_exact_errors_on_cases_of_the_fixed_distribution(first):
    seen = 0
    for index in range(first, first + 15):
        question = case(index)
        if isinstance(question.target, gb.Gaussian):
            continue
        given_ = question.target, question.process, question.reward
        ode, sde = sampler_errors(*given_, [0.0, question.eta])
        bound = bounds.residual(*given_, question.eta)
        slack = 1e-12 + 2 * (ode.error + sde.error)
        assert abs(ode.value) <= bound.ode + slack
        assert abs(sde.value) <= bound.sde * (1 + 1e-9) + slack
        assert abs(ode.value - sde.value) <= bound.gap * (1 + 1e-9) + slack
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("eta", [5.0, 20.0, 100.0])
def test_a_large_eta_forgets_within_a_layer_that_is_resolved(eta):
    target, process = gb.GaussianMixture([0.45, 0.55], [-0.41, -0.51], [0.057, 0.0039]), gb.VE(0.485)
    ode, sde = (found.value for found in sampler_errors(target, process, gb.Linear(1.0), [0.0, eta]))
    bound = bounds.residual(target, process, gb.Linear(1.0), eta)
    assert abs(ode - sde) <= bound.gap < 1.1 * abs(ode - sde)
    assert bound.constants[-1].error < 1e-4 * bound.gap


def levels(divergence, delta, largest):
    return Levels(largest, divergence * np.exp(-delta), delta, float(delta[0]), divergence)


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_no_admissible_gradient_exceeds_the_dual_bound(seed):
    rng = np.random.default_rng(seed)
    n = 12
    clock, eta2, norm = rng.uniform(0.1, 1, n), rng.uniform(0, 3, n), rng.uniform(0, 2, n)
    delta = np.cumsum((eta2 * clock * rng.uniform(0.1, 1, n))[::-1])[::-1]  # falls upwards
    limit = levels(rng.uniform(0.1, 2), delta, rng.uniform(0.01, 5, n) ** 2)
    bound = smallest(norm[None], clock, eta2, limit)[0]
    for _ in range(20):
        g = np.minimum(rng.uniform(0, 1, n) ** rng.uniform(0.2, 3) * 10, limit.largest)
        spent = np.cumsum(eta2 * g * clock)
        g = g / max(1.0, float((spent / limit.left).max()))
        assert (norm * np.sqrt(g) * clock).sum() / 2 <= bound * (1 + 1e-9)


def test_the_dual_bound_is_cauchy_schwarz_where_nothing_else_binds():
    clock, eta2, norm = np.full(5, 0.2), np.array([0.5, 1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    free = Levels(np.full(5, 1e12), np.full(5, 0.7), np.zeros(5), 0.0, 0.7)
    expected = math.sqrt(0.7 * (norm**2 / eta2 * clock).sum()) / 2
    assert smallest(norm[None], clock, eta2, free)[0] == pytest.approx(expected, rel=1e-9)
    tight = Levels(np.full(5, 1e-12), np.full(5, 0.7), np.zeros(5), 0.0, 0.7)
    assert smallest(norm[None], clock, eta2, tight)[0] == pytest.approx((norm * clock).sum() / 2 * 1e-6, rel=1e-6)
    still = smallest(norm[None], clock, np.zeros(5), Levels(np.full(5, np.inf), np.ones(5), np.zeros(5), 0.0, 1.0))
    assert np.isinf(still[0])  # an ODE dissipates nothing


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_a_moment_under_any_law_is_below_its_bound_by_entropy(seed):
    rng = np.random.default_rng(seed)
    mass, tilt = rng.dirichlet(np.ones(30)), rng.normal(size=30) * rng.uniform(0, 3)
    law = mass * np.exp(tilt)
    law /= law.sum()
    left = np.array([(law * np.log(law / mass)).sum()])
    some = Guess(np.ones(1), np.ones(1), np.zeros(1), mass, rng.standard_t(3, (1, 30)), None)
    moment = some.moments(np.ones(1), left)[0, 0]
    assert (law * some.J[0] ** 2).sum() <= moment * (1 + 1e-12)
    assert moment <= (some.J**2).max() * (1 + left[0] / 20) + 1e-12


def test_the_bound_on_a_moment_is_attained_by_the_law_tilted_along_it():
    rng = np.random.default_rng(2)
    mass, J = rng.dirichlet(np.ones(30)), rng.normal(size=(1, 30))
    for theta in EXPONENTS[[3, 7, 11]] / (J**2).max():
        law = mass * np.exp(theta * J[0] ** 2)
        law /= law.sum()
        left = np.array([(law * np.log(law / mass)).sum()])
        moment = Guess(np.ones(1), np.ones(1), np.zeros(1), mass, J, None).moments(np.ones(1), left)[0, 0]
        assert moment == pytest.approx((law * J[0] ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize("eta", [0.5, 2.0, WINDOWS])
def test_the_gradient_of_the_ratio_grows_as_for_one_gaussian(eta):
    taus = np.array([0.0, 0.4, 3.0])
    exponent = growth(problem(TWINS, gb.VE(2.0), gb.Linear(1.0), eta), taus)
    grid = np.linspace(taus, 4.0, 40_001)
    eta2 = eta(np.sqrt(grid)) ** 2 if isinstance(eta, gb.Windows) else np.full(grid.shape, eta**2)
    np.testing.assert_allclose(exponent, np.trapezoid((1 - eta2) / (0.5 + grid), grid, axis=0), rtol=2e-3, atol=1e-4)


def test_information_is_that_of_two_gaussians():
    question = problem(TWINS, gb.VE(2.0), gb.Linear(1.0), 1.0)
    # E_prior (d/dz log prior/q)^2 with slopes -z/4 and -(z - .7)/4.5
    expected = (1 / 4.5 - 1 / 4) ** 2 * 4 + (0.7 / 4.5) ** 2
    assert information(question).value / 4 == pytest.approx(expected, rel=1e-9)


def test_budgets_start_from_the_divergences():
    question = problem(TWO_MODES, gb.VE(3.0), gb.Linear(1.0), 1.2)
    top = np.array([9.0])
    for budget, name in ((chi_square_budget(question), "chi2"), (kl_budget(question), "kl")):
        at = budget.at(top)
        assert at.left[0] == pytest.approx(budget.divergence)
        assert at.largest[0] == pytest.approx(budget.information)
        assert budget.factor == {"chi2": 1.0, "kl": 2.0}[name]
    few, many = (guess(question, level, True) for level in (1, 2))
    norms = [(found.square_norms(np.array([0.5, 1.0])) * found.clock).sum(-1) for found in (few, many)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


def test_wrong_questions_are_refused():
    plane = gb.GaussianMixture([0.3, 0.3, 0.4], [[0.0, 0.0], [1.0, 0.0], [0.3, 1.2]], 0.5)
    with pytest.raises(ValueError, match="got a mixture with d = 2; use chi_square, total_variation or wasserstein"):
        bounds.residual(plane, gb.VE(5.0), gb.Linear([1.0, 0.0]))
    with pytest.raises(ValueError, match="closed, got a callable; use a gapbound reward, or chi_square"):
        bounds.residual(TWO_MODES, gb.VE(5.0), lambda x: np.tanh(x[..., 0]))
    callable_ = CallableReward(lambda x: np.tanh(x[..., 0]))
    one = bounds.residual(gb.Gaussian(0.7, 0.5), gb.VE(5.0), callable_, 0.5)
    exact = gb.reward_gap(gb.Gaussian(0.7, 0.5), gb.VE(5.0), callable_, 0.5)
    assert one.gap == pytest.approx(abs(float(exact.value)), rel=1e-6)
