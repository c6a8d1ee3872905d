"""Matched eta: the closed form against roots of exact gaps, moments by other routes, many steps, and its borders."""

import itertools
import math
import re

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from strategies import ve, vp

import gapbound as gb
from analysis.ledger.equations import optimum_moments
from gapbound.matched import _less_than_one, matched_eta, matched_etas

SD = gb.VP.stable_diffusion()
ROOT = np.random.default_rng(5).standard_normal((3, 3))
FULL = gb.Gaussian(np.zeros(3), ROOT @ ROOT.T + 0.3 * np.eye(3))


def at_length(length, v=1.0):
    """The VE process from which log(1 + sigma_T^2 / v) is ``length``."""
    return ve(math.sqrt(v * math.expm1(length)))


def gap(target, process, reward, eta, beta=1.0):
    """By the laws of the optimum, eta by eta."""
    return float(gb.reward_gap(gb.rl_optimum(target, reward, beta, process, eta), process, reward, eta))


@pytest.mark.parametrize(("v", "eta", "short"), [(0.1, 0.9740, 0.02), (0.5, 0.9295, 0.05), (1.0, 0.8839, 0.06)])
def test_stable_diffusions_matched_eta_makes_the_means_equal_where_eta_1_does_not(v, eta, short):
    target, reward = gb.Gaussian(0.0, v), gb.Linear(1.0)
    found = float(matched_eta(target, SD, reward))
    assert found == pytest.approx(eta, abs=5e-5)
    optimum = gb.rl_optimum(target, reward, 1.0, SD, found)
    ode, sde = (gb.terminal_law(optimum, SD, own) for own in (0.0, found))
    assert abs(float(ode.mean[0] - sde.mean[0])) < 1e-14
    rho = v / (v + float(SD.sigma_T) ** 2)  # the variances differ, by the start's
    assert float(ode.cov[0] - sde.cov[0]) == pytest.approx((1 - v) * (rho - rho ** (1 + found**2)), abs=1e-12)
    plain = gb.rl_optimum(target, reward, 1.0, SD, 1.0)
    ratio = gb.terminal_law(plain, SD, 0.0).mean[0] / gb.terminal_law(plain, SD, 1.0).mean[0]
    assert 1 - ratio == pytest.approx(short, abs=5e-3)


@given(length=st.floats(4.0001, 140.0), v=st.floats(1e-4, 1e4), beta=st.floats(0.1, 10.0), b=st.floats(-5.0, 5.0))
def test_the_closed_form_solves_the_magnets_equation_whatever_the_reward(length, v, beta, b):
    process, b = at_length(length, v), b if abs(b) > 1e-3 else 1.0
    eta = float(matched_eta(gb.Gaussian(0.0, v), process, gb.Linear(b), beta))
    L = mpmath.log(1 + mpmath.mpf(float(process.sigma_T)) ** 2 / mpmath.mpf(v))
    with mpmath.workdps(40):
        x = mpmath.findroot(
            lambda x: mpmath.tanh(x) / x - 4 / L, (mpmath.sqrt(3 * (L / 4 - 1)), L / 4), solver="anderson"
        )
        exact = mpmath.sqrt(4 * x / L)
    assert eta == pytest.approx(float(exact), rel=1e-10)
    assert 0 < eta <= 1


@settings(max_examples=15)
@given(length=st.floats(4.3, 12.0), v=st.floats(0.05, 5.0))
def test_the_closed_form_is_the_root_of_the_exact_gap(length, v):
    target, process, reward = gb.Gaussian(0.0, v), at_length(length, v), gb.Linear(0.7)
    eta = float(matched_eta(target, process, reward))
    root = brentq(lambda e: gap(target, process, reward, e) / e**2, 0.9 * eta, 1.1 * eta, xtol=1e-12)
    assert eta == pytest.approx(root, rel=1e-7)
    assert matched_etas(target, process, reward) == pytest.approx((eta,), rel=1e-9)


@settings(max_examples=25)
@given(length=st.floats(0.01, 12.0), v=st.floats(0.05, 5.0), mean=st.floats(-3.0, 3.0), beta=st.floats(0.2, 5.0))
def test_every_sign_change_of_the_gap_is_found_and_no_other(length, v, mean, beta):
    """Linear reward, any mean: the formula's roots against signs of the gap of the laws on a coarse grid."""
    target, process, reward = gb.Gaussian(mean, v), at_length(length, v), gb.Linear(1.3)
    found = matched_etas(target, process, reward, beta)
    etas = np.geomspace(0.06, 3.9, 60)
    values = (
        np.array(gb.reward_gap(gb.rl_optimum(target, reward, beta, process, etas), process, reward, etas)) / etas**2
    )
    clear = np.abs(values) > 1e-7 * np.abs(values).max()
    crossings = [sum(low < root < high for root in found) for low, high in itertools.pairwise(etas)]
    for k in np.flatnonzero(clear[:-1] & clear[1:]):
        assert crossings[k] % 2 == (values[k] * values[k + 1] < 0)


def test_a_mean_moves_the_root_and_can_make_two_or_one_where_there_was_none():
    near, reward = at_length(3.0), gb.Linear(1.0)
    assert matched_etas(gb.Gaussian(0.0, 1.0), near, reward) == ()
    assert len(matched_etas(gb.Gaussian(-1.0, 1.0), near, reward)) == 1
    v = 0.5
    found = matched_etas(gb.Gaussian(0.5, v), SD, reward)
    assert len(found) == 2
    assert float(matched_eta(gb.Gaussian(0.5, v), SD, reward)) == found[1]
    assert float(matched_eta(gb.Gaussian(-v, v), SD, reward)) == pytest.approx(1, abs=1e-12)  # p* has mean 0
    for eta in found:
        assert abs(gap(gb.Gaussian(0.5, v), SD, reward, eta)) < 1e-10


def test_in_many_dimensions_the_reward_is_matched_and_along_one_variance_by_the_closed_form():
    values, vectors = np.linalg.eigh(FULL.cov)
    process, slope = vp(40.0), np.array([0.3, 0.1, -0.7])
    along = matched_eta(FULL, process, gb.Linear(2.0 * vectors[:, 1]))
    assert float(along) == pytest.approx(
        float(matched_eta(gb.Gaussian(0.0, values[1]), process, gb.Linear(1.0))), rel=1e-9
    )
    mixed = float(matched_eta(FULL, process, gb.Linear(slope)))
    ends = [float(matched_eta(gb.Gaussian(0.0, v), process, gb.Linear(1.0))) for v in values[[0, -1]]]
    assert min(ends) < mixed < max(ends)
    optimum = gb.rl_optimum(FULL, gb.Linear(slope), 1.0, process, mixed)
    ode, sde = (gb.terminal_law(optimum, process, own) for own in (0.0, mixed))
    assert abs(float((ode.mean - sde.mean) @ slope)) < 1e-10
    assert np.abs(ode.mean - sde.mean).max() > 1e-4  # the means are not equal, what the reward sees of them is


@pytest.mark.parametrize(
    ("target", "reward", "beta"),
    [(gb.Gaussian(0.0, 0.5), gb.Quadratic(1.0, 1.0), 1.0), (gb.Gaussian(0.4, 0.8), gb.Quadratic(-0.1, 0.3, 0.5), 2.0)],
)
def test_quadratic_rewards_are_matched_by_moments_that_scipy_integrates(target, reward, beta):
    eta = float(matched_eta(target, SD, reward, beta))

    def earned(trained, sampled):
        mean, variance = optimum_moments(target, reward, beta, SD, trained, sampled)
        return float(reward.expectation(gb.Gaussian(mean, variance)))

    def off(trained):
        return earned(trained, 0.0) - earned(trained, trained)

    assert abs(off(eta)) < 1e-9
    assert off(eta - 0.01) * off(eta + 0.01) < 0
    ode, sde = (optimum_moments(target, reward, beta, SD, eta, own) for own in (0.0, eta))
    assert abs(ode[0] - sde[0]) > 1e-4  # E r alone is matched


@pytest.mark.parametrize(("eta", "A", "mean"), [(0.5, 0.7, 0.0), (1.0, 0.7, 0.4), (1.7, -0.2, -0.6)])
def test_the_law_that_the_ode_makes_of_a_quadratic_optimum_has_a_closed_form(eta, A, mean):
    """d = 1: the mean is an integral over q, the variance is elementary; the second by quadrature of the library."""
    v, beta, c, a = 0.8, 1.3, 0.5, eta**2
    for process in (ve(4.0), vp(30.0)):
        optimum = gb.rl_optimum(gb.Gaussian(mean, v), gb.Quadratic(A, c), beta, process, eta)
        law = gb.terminal_law(optimum, process, 0.0)
        rho, H, g = v / (v + float(process.sigma_T) ** 2), 2 * A / beta, -2 * A * (mean - c) / beta
        psi = math.sqrt(rho) * (1 + H * v * (1 - rho**a)) ** (-1 / (1 + a))
        assert float(law.cov[0]) == pytest.approx(float(process.prior_variance) * psi**2, rel=1e-10)
        pushed = quad(lambda q, H=H: (1 + H * v * (1 - q * q)) ** (-(2 + a) / (1 + a)), rho ** (a / 2), 1)[0]
        assert float(law.mean[0]) == pytest.approx(mean - mean * psi + 2 * g * v / (1 + a) * pushed, abs=1e-10)


def test_quadratic_rewards_have_no_one_or_two_matched_etas():
    reward = gb.Quadratic(1.0, 0.0)
    assert matched_etas(gb.Gaussian(0.0, 0.2), ve(0.5), reward, 0.5) == ()
    assert len(matched_etas(gb.Gaussian(0.0, 0.5), SD, gb.Quadratic(1.0, 1.0))) == 1
    two = matched_etas(gb.Gaussian(1.0, 0.2), ve(3.0), gb.Quadratic(1.0, 1.0), 0.5)
    assert two == pytest.approx((0.2726, 0.8107), abs=1e-4)


def test_many_steps_tend_to_the_continuous_root_at_order_1():
    for target, reward in ((gb.Gaussian(0.0, 0.5), gb.Linear(1.0)), (gb.Gaussian(0.2, 0.6), gb.Quadratic(0.5, 1.0))):
        process = vp(20.0)
        limit = float(matched_eta(target, process, reward))
        errors = []
        for steps in (30, 60, 120):
            own = float(matched_eta(target, process, reward, steps=steps, grid="log-sigma"))
            errors.append(own - limit)
        assert abs(errors[2]) < 0.05
        assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx(1.0, abs=0.25)


def test_few_steps_and_guidance_are_matched_by_their_own_chains():
    cases = [
        (gb.Gaussian(0.0, 0.5), gb.VP.stable_diffusion(10), {"steps": 10, "grid": "leading"}),
        (gb.Gaussian(0.0, 0.5), gb.FlowMatching(1.0), {"steps": 10}),
        (gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(0.3, 0.6), 1.5), vp(15.0), {"steps": 20, "grid": "log-sigma"}),
    ]
    for target, process, options in cases:
        reward = gb.Linear(1.0)
        eta = float(matched_eta(target, process, reward, 0.7, **options))
        signs = []
        for own in (eta, eta - 0.01, eta + 0.01):
            optimum = gb.rl_optimum_discrete(target, reward, 0.7, process, "gddim", own, **options)
            sde = gb.discrete_law(optimum, process, "gddim", own, sigmas=optimum.sigmas)
            ode = gb.discrete_law(optimum, process, "ddim", 0.0, sigmas=optimum.sigmas)
            signs.append(float(ode.mean[0] - sde.mean[0]))
        assert abs(signs[0]) < 1e-10
        assert signs[1] * signs[2] < 0


def test_at_10_steps_the_matched_eta_lies_above_1_where_continuous_time_has_it_at_or_below():
    target, reward = gb.Gaussian(0.0, 0.5), gb.Linear(1.0)
    flow = [float(matched_eta(target, gb.FlowMatching(1.0), reward, steps=n)) for n in (10, 28, 50)]
    assert float(matched_eta(target, gb.FlowMatching(1.0), reward)) == 1.0
    assert (np.diff(flow) < 0).all()
    assert flow[0] > 1.15
    assert flow[2] > 1.03
    early = gb.VP.stable_diffusion(10)
    assert (
        float(matched_eta(target, early, reward, steps=10, grid="leading"))
        > 1
        > float(matched_eta(target, early, reward))
    )


def test_near_the_critical_length_and_far_away():
    for excess in (1e-3, 1e-6, 1e-9):
        process = at_length(4 * (1 + excess))
        length = math.log1p(float(process.sigma_T) ** 2)
        eta = float(matched_eta(gb.Gaussian(0.0, 1.0), process, gb.Linear(1.0)))
        assert eta**2 == pytest.approx(math.sqrt(3 * (length / 4 - 1)), rel=max(2 * excess, 1e-6))
    assert float(matched_eta(gb.Gaussian(0.0, 1.0), ve(1e150), gb.Linear(1.0))) == 1.0
    assert float(matched_eta(gb.Gaussian(0.3, 1.0), gb.FlowMatching(1.0), gb.Quadratic(1.0, 1.0))) == 1.0
    close = float(matched_eta(gb.Gaussian(0.0, 1.0), at_length(40.0), gb.Linear(1.0)))
    assert 1 - close == pytest.approx(math.exp(-20.0), rel=1e-5)  # 1 - a = 2 exp(-L/2)
    x = np.array([1e-6, 1e-3, 0.1999, 0.2001, 1.0])
    with mpmath.workdps(40):
        exact = [float(1 - mpmath.tanh(mpmath.mpf(one)) / mpmath.mpf(one)) for one in x]
    np.testing.assert_allclose([_less_than_one(one) for one in x], exact, rtol=1e-10)


def test_batches_are_matched_element_by_element():
    v, T = np.array([[0.1], [0.5]]), np.array([20.0, 50.0, 200.0])
    target, process = gb.Gaussian(np.zeros((2, 1, 1)), v[..., None]), gb.VE(T)
    found = matched_eta(target, process, gb.Linear(1.0))
    assert found.shape == (2, 3)
    curved = matched_eta(target, process, gb.Quadratic(0.5, 1.0), np.array([1.0, 2.0, 1.0]))
    assert curved.shape == (2, 3)
    for i, j in ((0, 0), (1, 2), (1, 1)):
        one = gb.Gaussian(0.0, v[i, 0]), gb.VE(T[j])
        assert found[i, j] == float(matched_eta(*one, gb.Linear(1.0)))
        assert curved[i, j] == pytest.approx(float(matched_eta(*one, gb.Quadratic(0.5, 1.0), 2.0 if j == 1 else 1.0)))
    flow = matched_eta(gb.Gaussian(0.1, 0.5), gb.FlowMatching(np.array([0.97, 1.0])), gb.Linear(1.0))
    assert flow[0] < flow[1] == 1.0
    chains = matched_eta(gb.Gaussian(0.0, 0.5), vp(20.0), gb.Linear(1.0), [0.5, 2.0], steps=15)
    assert chains[0] == pytest.approx(chains[1], rel=1e-9)  # beta cancels for a linear reward


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: near_start(gb.Linear(1.0)), ValueError, "must be above 4, got 2.303; start from sigma_T above 7.321"),
        (lambda: near_start(gb.Linear(1.0)), ValueError, "here 2.44 times further"),
        (
            lambda: matched_eta(gb.Gaussian(0.0, 0.2), gb.VE(0.5), gb.Quadratic(1.0, 0.0), 0.5),
            ValueError,
            "is matched: the ODE",
        ),
        (lambda: near_start(gb.Linear(0.0)), ValueError, "this reward moves nothing"),
        (lambda: near_start(gb.Linear(1.0), steps=10, t_min=5.0), ValueError, "t must lie in [0, 3]"),
        (lambda: near_start(gb.Linear(1.0), t_min=0.1), ValueError, "t_min is for N steps"),
        (lambda: near_start(gb.Bump(0.0, 1.0)), TypeError, "only Quadratic and Linear rewards"),
        (lambda: matched_eta(MODEL, vp(15.0), gb.Linear(1.0)), TypeError, "give steps or sigmas"),
        (lambda: matched_eta(3.0, vp(15.0), gb.Linear(1.0)), TypeError, "target must be a Gaussian or an affine score"),
        (lambda: near_start(gb.Linear(1.0), -1.0), ValueError, "beta must be positive"),
        (lambda: near_start(gb.Linear(1.0), steps=501), ValueError, "would take about 10 s, and 500 are the most"),
        (lambda: near_start(gb.Quadratic(-1.0, 0.0), 0.1), ValueError, "beta must be above"),
        (lambda: matched_eta(gb.Gaussian(0.0, 1.0), gb.VE([3.0, 4.0]), gb.Linear(1.0), steps=5), ValueError, "one T"),
        (lambda: matched_etas(gb.Gaussian(0.0, 1.0), gb.VE([3.0, 4.0]), gb.Linear(1.0)), ValueError, "got a batch"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


MODEL = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(0.3, 0.6), 1.5)


def near_start(reward, beta=1.0, **options):
    return matched_eta(gb.Gaussian(0.0, 1.0), gb.VE(3.0), reward, beta, **options)
