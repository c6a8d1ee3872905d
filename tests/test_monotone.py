"""Exact one-dimensional gaps: closed forms, the quantile map, simulation, order, invariances, extremes, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

import gapbound as gb
from gapbound import cells, monotone
from gapbound.gap import sampler_error
from gapbound.monotone import mixture_gap, sampler_errors

ONE = gb.Gaussian(0.7, 0.5)
TWO = gb.GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.05, 0.2])
THREE = gb.GaussianMixture([0.3, 0.5, 0.2], [-2.0, 1.5, 4.0], [0.05, 0.2, 0.3])
WINDOWS = gb.Windows([(0.3, 0.9, 1.3), (1.1, 2.5, 0.4), (40.0, 60.0, 1.0)])
REWARDS = {
    "quadratic": gb.Quadratic(1.234, 0.3, -0.7, 0.11),
    "linear": gb.Linear(-1.7, 0.4),
    "half-space": gb.HalfSpace(-1.3, -0.37),
    "deviation": gb.AbsoluteDeviation(0.4, -1.2),
    "bump": gb.Bump(0.6, 0.45),
    "narrow bump": gb.Bump(0.6, 0.02),
    "cosine": gb.Cosine(2.1, 0.3),
}
PROCESSES = {
    "VE": gb.VE(5.0),
    "VE, low": gb.VE(0.3),
    "VE, high": gb.VE(1e3),
    "VP": gb.VP(1.4),
    "flow": gb.FlowMatching(0.85),
}


def errors(estimates):
    return np.array([estimate.value for estimate in estimates])


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
def test_gap_of_one_gaussian_is_the_closed_form_to_1e_6(reward, process):
    others = [(WINDOWS, 0.0), (0.6, 2.0)] if isinstance(reward, gb.Quadratic | gb.HalfSpace) else []
    for eta, eta_ref in [(1.0, 0.0), *others]:
        exact = float(gb.reward_gap(ONE, process, reward, eta, eta_ref))
        estimate = mixture_gap(ONE, process, reward, eta, eta_ref)
        assert estimate.method == "quadrature"
        assert estimate.n > 50
        # closed forms other than quadratic are differences of expectations, good to 1e-14 of the rewards
        assert estimate.value == pytest.approx(exact, rel=1e-6, abs=1e-14)
        assert abs(estimate.value - exact) <= estimate.error + 1e-14
        assert estimate.error <= 1e-6 * abs(exact) + 1e-12


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_errors_of_one_gaussian_are_the_closed_form_at_any_eta(process):
    etas = [0.0, 0.3, 1.3, WINDOWS]
    reward = gb.Quadratic(1.234, 0.3, -0.7)
    for eta, estimate in zip(etas, sampler_errors(ONE, process, reward, etas), strict=True):
        exact = float(sampler_error(ONE, process, reward, eta))
        # an error of 1e-40 beside rewards of 1 is met to the rounding of the reward times the start's error
        assert abs(estimate.value - exact) <= min(estimate.error, 1e-6 * abs(exact) + 1e-15)


def test_small_eta_and_large_T_cost_no_digits():
    for process, eta in [(gb.VE(1e8), 1.0), (gb.VE(1e8), 1e-3), (gb.VP(6.0), 0.01), (gb.VE(3.0), 1e-3)]:
        exact = float(gb.reward_gap(ONE, process, gb.Quadratic(1.0, 0.2), eta))
        assert mixture_gap(ONE, process, gb.Quadratic(1.0, 0.2), eta).value == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("law", [TWO, THREE, ONE], ids=["two", "three", "one"])
@pytest.mark.parametrize("reward", [REWARDS["quadratic"], REWARDS["half-space"]], ids=["quadratic", "half-space"])
def test_raw_scheme_is_of_second_order_in_even_powers(law, reward):
    profiles = [0.7, 1.2] if isinstance(reward, gb.HalfSpace) else [0.0, 1.2]  # the ODE's jump is exact at once
    problem = monotone.line_problem(law, gb.VE(3.0), reward, profiles)
    values = []
    for level in (1, 2, 4, 8):
        start, changes, mismatch, _ = problem.solve(level)
        values.append((np.diff(start + changes) * mismatch).sum(-1))
    first = np.diff(values, axis=0)
    assert first[1] / first[2] == pytest.approx(4.0, rel=0.05)
    second = np.diff(np.array(values[1:]) + first / 3, axis=0)  # the h^2 term removed: h^4 is next, not h^3
    big = np.abs(second[0]) > 1e-8
    assert (second[0] / second[1])[big] == pytest.approx(16.0, rel=0.5)
    assert big.any()


def test_extrapolation_of_four_coarse_grids_has_ten_digits():
    for reward in (gb.Quadratic(1.234, 0.3, -0.7), gb.Linear(-1.7)):
        estimate = mixture_gap(ONE, gb.VE(5.0), reward)
        assert estimate.n < 300
        assert estimate.value == pytest.approx(float(gb.reward_gap(ONE, gb.VE(5.0), reward)), rel=5e-11)


def below(law, x, tau):
    sd = np.sqrt(law.components.variances[:, 0] + tau)
    return float((law.weights * norm.cdf(x, law.components.mean[:, 0], sd)).sum())


def ode_by_quadrature(law, process, slope):
    """int r'(y) (F_0(y) - Law(ODE)(y)) dy, with Law(ODE)(y) = Pi(F_T^-1(F_0(y))): quantiles by bisection."""
    tau, spread = float(process.sigma_T) ** 2, math.sqrt(process.prior_variance)

    def integrand(y):
        level = below(law, y, 0.0)
        if not 1e-13 < level < 1 - 1e-13:
            return 0.0
        z = brentq(lambda z: below(law, z, tau) - level, -60 * spread, 60 * spread, xtol=1e-13)
        return slope(y) * (level - norm.cdf(z, 0, spread))

    points = [-2.0, -0.5, 1.5]
    return quad(integrand, -3.8, 4.6, points=points, epsabs=1e-10, epsrel=1e-9, limit=200)[0]


@pytest.mark.parametrize("process", [gb.VE(3.0), gb.VP(1.3), gb.FlowMatching(0.8)], ids=repr)
def test_ode_error_is_the_quadrature_of_the_quantile_map(process):
    (ode,) = sampler_errors(TWO, process, gb.Quadratic(1.0, 0.4), [0.0])
    assert ode.value == pytest.approx(ode_by_quadrature(TWO, process, lambda y: -2 * (y - 0.4)), rel=1e-6, abs=1e-8)


CASES = [
    (TWO, gb.VE(3.0), gb.Quadratic(1.0, 0.4)),
    (THREE, gb.VP(1.2), gb.Cosine(1.1, 0.4)),
    (TWO, gb.FlowMatching(0.7), gb.HalfSpace(1.0, 0.0)),
]


@pytest.mark.parametrize(("law", "process", "reward"), CASES, ids=["VE", "VP", "flow"])
def test_gap_agrees_with_simulation_and_a_wrong_one_does_not(law, process, reward):
    etas = [1.0, gb.Windows([(0.2, 1.0, 1.5)])]
    sigmas = np.append(np.geomspace(float(process.sigma_T), 0.01, 100), 0.0)
    simulated = gb.estimate_gap(
        law, process, reward, etas, n=40_000, seed=3, sampler="stochastic-heun", sigmas=sigmas, dtype=torch.float64
    )
    exact = np.array([mixture_gap(law, process, reward, eta).value for eta in etas])
    assert np.abs((simulated.gap - exact) / simulated.standard_error).max() < 3.5
    wrong = np.array([mixture_gap(law, process, reward, eta).value for eta in (0.4, gb.Windows([(0.2, 0.6, 1.5)]))])
    assert np.abs((simulated.gap - wrong) / simulated.standard_error).max() > 5.5


def test_every_sampler_keeps_the_target_when_the_start_has_no_error():
    # prior N(0, sigma^2 + excess) = q_T for N(0, 1) under VP: nothing is left to contract, whatever the reward
    for reward in REWARDS.values():
        for estimate in sampler_errors(gb.Gaussian(0.0, 1.0), gb.VP(1.1), reward, [0.0, 0.5, 1.0, WINDOWS]):
            assert abs(estimate.value) < 1e-15
            assert estimate.error < 1e-13


def test_reward_cells_carry_the_exact_expectation_and_steps_conserve_it():
    for reward in REWARDS.values():
        law = THREE
        problem = monotone.line_problem(law, gb.VE(4.0), reward, [1.0, 3.0])
        edges = cells.cell_edges(problem.panels, problem.breaks, 4)
        mass = np.exp(problem.line.log_masses(edges))
        raw = cells.cell_means(problem.line, problem.reward, edges)
        assert mass.sum() == pytest.approx(1, abs=1e-13)
        assert mass @ raw == pytest.approx(float(reward.expectation(law)), rel=1e-9, abs=1e-12)
        _, changes, _, _ = problem.solve(4)
        assert changes @ mass == pytest.approx(0.0, abs=1e-12 * np.abs(raw).max())


@pytest.mark.parametrize("reward", [gb.Quadratic(1.0, 0.3), gb.HalfSpace(1.0, 0.2), gb.Bump(-0.4, 0.3)], ids=repr)
def test_reflecting_target_and_reward_changes_nothing(reward):
    mirrored = gb.GaussianMixture(TWO.weights, -TWO.components.mean, TWO.components.cov)
    etas = [0.0, 1.0, WINDOWS]
    here = errors(sampler_errors(TWO, gb.VE(3.0), reward, etas))
    there = errors(sampler_errors(mirrored, gb.VE(3.0), lambda x: reward(-x), etas))
    assert there == pytest.approx(here, rel=2e-6)


def test_symmetric_targets_have_no_odd_error():
    law = gb.GaussianMixture([0.5, 0.5], [-1.3, 1.3], 0.1)
    for estimate in sampler_errors(law, gb.VE(2.0), gb.Linear(1.0), [0.0, 1.0]):
        assert abs(estimate.value) <= estimate.error < 1e-9


def test_splitting_a_component_or_a_window_changes_nothing():
    split = gb.GaussianMixture([0.3, 0.2, 0.5], [-2.0, 1.5, 1.5], [0.05, 0.2, 0.2])
    whole, parts = gb.Windows([(0.2, 2.0, 0.8)]), gb.Windows([(0.2, 0.7, 0.8), (0.7, 2.0, 0.8)])
    reward = gb.Cosine(1.1, 0.4)
    expected = errors(sampler_errors(TWO, gb.VE(3.0), reward, [0.0, 1.0, whole]))
    assert errors(sampler_errors(split, gb.VE(3.0), reward, [0.0, 1.0, whole])) == pytest.approx(expected, rel=2e-6)
    assert errors(sampler_errors(TWO, gb.VE(3.0), reward, [0.0, 1.0, parts])) == pytest.approx(expected, rel=2e-6)
    everywhere = gb.Windows([(0.0, math.inf, 1.0)])
    assert sampler_errors(TWO, gb.VE(3.0), reward, [everywhere])[0].value == pytest.approx(expected[1], rel=2e-6)


def test_gap_is_the_difference_of_two_errors():
    ode, half, sde = sampler_errors(THREE, gb.VP(1.2), gb.Quadratic(1.0, 0.3), [0.0, 0.5, 1.0])
    assert mixture_gap(THREE, gb.VP(1.2), gb.Quadratic(1.0, 0.3)).value == pytest.approx(
        ode.value - sde.value, rel=1e-6
    )
    gap = mixture_gap(THREE, gb.VP(1.2), gb.Quadratic(1.0, 0.3), 1.0, 0.5)
    assert gap.value == pytest.approx(half.value - sde.value, rel=1e-6)
    assert mixture_gap(THREE, gb.VP(1.2), gb.Quadratic(1.0, 0.3), 1.0, 1.0).value == 0.0


def test_ode_error_falls_like_1_over_T_and_the_sde_s_like_T_to_the_minus_1_minus_eta_squared():
    T = np.array([500.0, 1000.0])
    for law in (TWO, THREE):
        etas = [0.0, 0.5, 1.0]
        table = np.array([errors(sampler_errors(law, gb.VE(t), gb.Quadratic(1.0, -1.0), etas)) for t in T])
        slopes = np.log(np.abs(table[1] / table[0])) / np.log(T[1] / T[0])
        assert slopes == pytest.approx([-1.0, -1.25, -2.0], abs=0.02)


FORMS = {
    "jump": (lambda x: np.where(x[:, 0] > 0.3, 2.0, -1.0), lambda e: 3 * e, gb.HalfSpace(1.0, 0.3)),
    "kink": (lambda x: -1.2 * abs(x[:, 0] - 0.4), lambda e: e, gb.AbsoluteDeviation(0.4, -1.2)),
    "smooth": (lambda x: np.cos(2.1 * x[:, 0] + 0.3), lambda e: e, gb.Cosine(2.1, 0.3)),
}


@pytest.mark.parametrize(("function", "scale", "reward"), FORMS.values(), ids=FORMS)
def test_jumps_and_kinks_of_a_callable_are_found(function, scale, reward):
    expected = scale(errors(sampler_errors(TWO, gb.VE(3.0), reward, [0.0, 1.0])))
    found = sampler_errors(TWO, gb.VE(3.0), function, [0.0, 1.0])
    assert errors(found) == pytest.approx(expected, rel=2e-6)
    breaks = monotone.line_problem(TWO, gb.VE(3.0), function, []).breaks
    assert breaks == pytest.approx([] if isinstance(reward, gb.Cosine) else [0.3 if "Half" in repr(reward) else 0.4])


@pytest.mark.parametrize("steepness", [1.0, 8.0, 30.0, 200.0, 3000.0])
def test_no_break_is_seen_in_a_steep_but_smooth_reward(steepness):
    problem = monotone.line_problem(TWO, gb.VE(3.0), lambda x: np.tanh(steepness * (x[:, 0] - 1.37)), [])
    assert problem.breaks.size == 0


def test_without_edges_on_the_jump_the_extrapolation_would_fail(monkeypatch):
    process, reward = gb.VE(5.0), gb.HalfSpace(1.0, 0.3)
    exact = float(gb.reward_gap(ONE, process, reward))
    assert mixture_gap(ONE, process, reward).value == pytest.approx(exact, rel=1e-6)
    monkeypatch.setattr(monotone, "breaks_of", lambda reward, panels: np.empty(0))
    missed = mixture_gap(ONE, process, reward)
    assert abs(missed.value - exact) > 1e-5 * abs(exact)
    assert abs(missed.value - exact) <= missed.error  # and says so


FAR = gb.GaussianMixture([0.4, 0.6], [-20.0, 20.0], [0.04, 0.04])
EXTREMES = {
    "separated": (FAR, gb.VE(5.0)),
    "separated, from far": (FAR, gb.VE(1e4)),
    "widths": (gb.GaussianMixture([0.5, 0.5], [0.0, 1.0], [1e-4, 100.0]), gb.VE(10.0)),
    "widths, same mean": (gb.GaussianMixture([0.5, 0.5], [0.0, 0.0], [1e-4, 100.0]), gb.VP(1.0)),
    "light": (gb.GaussianMixture([1e-6, 1 - 1e-6], [-20.0, 1.0], [0.04, 1.0]), gb.VE(3.0)),
    "wide prior": (gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.04, 0.04]), gb.FlowMatching(0.1)),
    "chi-square infinite": (gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.04, 0.04]), gb.VP(0.3)),
}


@pytest.mark.parametrize(("law", "process"), EXTREMES.values(), ids=EXTREMES)
def test_extreme_cases_reach_the_tolerance_and_agree_with_finer_grids(law, process, monkeypatch):
    etas = [0.0, 1.0]
    coarse = sampler_errors(law, process, gb.Quadratic(0.7, 0.3), etas)
    monkeypatch.setattr(cells, "CELL", 0.17)
    monkeypatch.setattr(monotone, "STEP", 0.17)
    monkeypatch.setattr(cells, "REACH", 10.1)
    fine = sampler_errors(law, process, gb.Quadratic(0.7, 0.3), etas)
    for a, b in zip(coarse, fine, strict=True):
        assert a.error <= 1e-6 * abs(a.value)
        assert abs(a.value - b.value) <= a.error + b.error


def test_prior_between_far_modes_goes_to_the_nearer_one():
    # sigma_T = .3 and modes at -+20, sd .2: each side of the watershed is a Gaussian whose prior is cut there
    T2, rho = 0.09, 0.04 / 0.13
    watershed = -math.log(1.5) * 0.13 / 40

    def side(m, low, high, eta):
        kept, noise = rho ** ((1 + eta**2) / 2), 0.04 * (1 - rho ** (eta**2))
        return quad(lambda z: -((m + (z - m) * kept) ** 2 + noise) * norm.pdf(z, 0, 0.3), low, high, epsabs=1e-11)[0]

    estimates = sampler_errors(FAR, gb.VE(math.sqrt(T2)), gb.Quadratic(1.0, 0.0), [0.0, 1.0])
    for eta, estimate in zip([0.0, 1.0], estimates, strict=True):
        exact = side(-20, -3, watershed, eta) + side(20, watershed, 3, eta) + 400.04
        assert estimate.value == pytest.approx(exact, rel=2e-4)  # paths that cross the watershed are what is left out


def test_prior_a_hundred_standard_deviations_away_is_no_difficulty():
    law, process = gb.Gaussian(1000.0, 1.0), gb.VE(10.0)
    exact = float(gb.reward_gap(law, process, gb.Linear(1.0), 0.5))
    estimate = mixture_gap(law, process, gb.Linear(1.0), 0.5)
    assert abs(estimate.value - exact) <= estimate.error < 2e-6 * abs(exact)


laws = st.integers(1, 3).flatmap(
    lambda K: st.builds(
        lambda w, m, v: gb.GaussianMixture(np.array(w) / sum(w), m, v),
        st.lists(st.floats(0.01, 1.0), min_size=K, max_size=K),
        st.lists(st.floats(-4, 4), min_size=K, max_size=K),
        st.lists(st.floats(0.02, 2.0), min_size=K, max_size=K),
    )
)
processes = st.one_of(
    st.floats(0.3, 50.0).map(gb.VE), st.floats(0.4, 2.0).map(gb.VP), st.floats(0.3, 1.0).map(gb.FlowMatching)
)
rewards = st.sampled_from(list(REWARDS.values()))


@settings(max_examples=9)
@given(law=laws, process=processes, reward=rewards, eta=st.one_of(st.floats(0, 3), st.just(WINDOWS)))
@example(law=TWO, process=gb.FlowMatching(1.0), reward=gb.Linear(1.0), eta=1.0)
def test_stated_errors_cover_the_change_to_a_tighter_tolerance(law, process, reward, eta):
    loose = sampler_errors(law, process, reward, [0.0, eta], rtol=1e-2)
    tight = sampler_errors(law, process, reward, [0.0, eta], rtol=1e-7)
    for a, b in zip(loose, tight, strict=True):
        assert np.isfinite([a.value, a.error, b.value, b.error]).all()
        assert abs(a.value - b.value) <= a.error + b.error


@settings(max_examples=5)
@given(law=laws, process=processes, shift=st.floats(-5, 5), factor=st.floats(-3, 3))
def test_errors_are_linear_in_the_reward(law, process, shift, factor):
    etas = [0.0, 0.8]
    own = sampler_errors(law, process, gb.Cosine(1.3, 0.4), etas)
    scaled = sampler_errors(law, process, lambda x: shift + factor * np.cos(1.3 * x[:, 0] + 0.4), etas)
    for a, b in zip(own, scaled, strict=True):
        assert abs(b.value - factor * a.value) <= b.error + abs(factor) * a.error + 1e-13


def test_infinite_sigma_T_leaves_no_error():
    assert errors(sampler_errors(TWO, gb.FlowMatching(1.0), gb.Linear(1.0), [0.0, 1.0])) == pytest.approx([0, 0], abs=0)
    assert float(mixture_gap(TWO, gb.FlowMatching(1.0), gb.Linear(1.0))) == 0.0


def test_no_eta_gives_no_estimate_and_a_constant_reward_no_error():
    assert sampler_errors(TWO, gb.VE(3.0), gb.Linear(1.0), []) == []
    (estimate,) = sampler_errors(TWO, gb.VE(3.0), gb.Linear(0.0, 2.0), [1.0])
    assert abs(estimate.value) < 1e-14


WRONG = [
    (ValueError, "one law in d = 1, got dimension 2", dict(target=gb.Gaussian([0.0, 1.0], 1.0))),
    (ValueError, "batch shape \\(3,\\)", dict(target=gb.Gaussian(np.zeros((3, 1)), 1.0))),
    (TypeError, "estimate_gap takes any model", dict(target=lambda z, sigma: -z)),
    (ValueError, "T must be one number", dict(process=gb.VE([1.0, 2.0]))),
    (ValueError, "start at a smaller T", dict(process=gb.VP(30.0))),
    (TypeError, "process must be an instance", dict(process=gb.VE)),
    (ValueError, "does not fit the dimension 1", dict(reward=gb.Linear([1.0, 2.0]))),
    (TypeError, "a reward is an object", dict(reward=3.0)),
    (ValueError, "a reward must return shape", dict(reward=lambda x: x)),
    (ValueError, "must be finite everywhere", dict(reward=lambda x: np.full(len(x), np.nan))),
    (ValueError, "eta must be 0 or more", dict(etas=[-1.0])),
    (ValueError, "each eta must be one number or Windows", dict(etas=[np.ones(2)])),
    (TypeError, "write \\[1.0\\]", dict(etas=1.0)),
    (ValueError, "rtol must lie in", dict(rtol=0.0)),
]


@pytest.mark.parametrize(("kind", "message", "change"), WRONG, ids=[message for _, message, _ in WRONG])
def test_wrong_input_is_named_with_a_remedy(kind, message, change):
    call = dict(target=TWO, process=gb.VE(3.0), reward=gb.Quadratic(1.0, 0.0), etas=[0.0, 1.0], rtol=1e-6) | change
    rtol = call.pop("rtol")
    with pytest.raises(kind, match=message):
        sampler_errors(**call, rtol=rtol)
