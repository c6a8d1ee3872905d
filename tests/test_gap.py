"""Reward gaps: 420-digit arithmetic, differences of expectations, the rates' constants, invariances, bad input."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import ortho_group
from strategies import DIGITS, FAMILIES, etas, exact_gap, exact_law, powers, processes, signed, windows

import gapbound as gb
from gapbound.gap import sampler_error
from gapbound.process import Process

REWARDS = [
    gb.Quadratic(1.234, 0.3, -0.7, 0.11),
    gb.Linear(-1.7, 0.4),
    gb.HalfSpace(-1.3, 0.37),
    gb.AbsoluteDeviation(0.4, -1.2),
    gb.Bump(0.6, 0.45),
    gb.Cosine(2.1, 0.3),
]


def nearly(eta, ulps):
    """``eta`` and a neighbour of it."""
    return eta, eta * (1 + ulps * 2.0**-52)


etas_apart = st.tuples(etas(), etas())
etas_close = st.builds(nearly, st.floats(0.01, 19.9), st.sampled_from([0, 1, 3, 1000, 10**9, 10**13]))
profiles = st.tuples(st.one_of(etas(), windows()), st.just(0.0))


def vectors(d, entries):
    return st.lists(entries, min_size=d, max_size=d).map(np.array)


def symmetric(entries, d):
    A = np.array(entries).reshape(d, d)
    return (A + A.T) / 2


def assert_accurate(m, v, process, reward, eta, eta_ref, tolerance=1e-10, measured=None):
    """The error is at most ``tolerance`` of the sum of the absolute terms; below 1e-290 floating point itself ends."""
    d = len(m)
    A, c, b, _ = reward.quadratic_form(d)
    matrix = np.asarray(A) if np.ndim(A) else A * np.eye(d)
    gap = gb.reward_gap(gb.Gaussian(m, v), process, reward, eta, eta_ref)
    exact, terms = exact_gap(m, v, process, matrix, c, b, eta, eta_ref)
    error = abs(mp.mpf(float(gap)) - exact)
    assert error <= tolerance * terms + mp.mpf(10) ** -300, (float(gap), exact, terms)
    if measured is not None and terms > mp.mpf(10) ** -290:
        measured.append(float(error / terms))


@pytest.mark.parametrize("d", [1, 3])
@settings(max_examples=120)
@given(data=st.data())
def test_quadratic_gap_is_accurate_to_1e_10_of_its_terms(d, data):
    m, c, b = (data.draw(vectors(d, signed(1e6))) for _ in range(3))
    v = data.draw(vectors(d, powers(-12, 12)))
    A = data.draw(st.one_of(signed(10.0), vectors(d * d, signed(10.0)).map(lambda a: symmetric(a, d))))
    eta, eta_ref = data.draw(st.one_of(etas_apart, etas_close, profiles))
    assert_accurate(m, v, data.draw(processes()), gb.Quadratic(A, c, b), eta, eta_ref)


@settings(max_examples=80)
@given(
    m=vectors(3, signed(1e6)),
    v=vectors(3, powers(-12, 12)),
    b=vectors(3, signed(1e3)),
    process=processes(),
    pair=st.one_of(etas_apart, etas_close, profiles),
)
def test_linear_gap_is_accurate_to_1e_10_of_its_terms(m, v, b, process, pair):
    assert_accurate(m, v, process, gb.Linear(b), *pair)


def random_case(rng, d):
    def logs(low, high, size=None):
        return 10 ** rng.uniform(low, high, size)

    m, c, b = (rng.choice([-1, 0, 1], d, p=[0.45, 0.1, 0.45]) * logs(-6, 6, d) for _ in range(3))
    v, A = logs(-12, 12, d), symmetric(rng.normal(size=d * d) * logs(-3, 1), d)
    process = list(FAMILIES.values())[rng.integers(3)](logs(-3, 12))
    match rng.integers(3):
        case 0:
            eta, eta_ref = rng.uniform(0, 20, 2)
        case 1:
            eta, eta_ref = nearly(rng.uniform(0.01, 19.9), int(10 ** rng.uniform(0, 14)))
        case _:
            edges = np.sort(logs(-4, 13, 4))
            eta_ref, eta = 0.0, gb.Windows([(*edges[:2], rng.uniform(0, 20)), (*edges[2:], rng.uniform(0, 20))])
    reward = gb.Linear(b) if rng.random() < 0.25 else gb.Quadratic(A, c, b * (rng.random() < 0.5))
    return m, v, process, reward, eta, eta_ref


@pytest.mark.slow
def test_worst_error_of_20000_gaps_is_far_below_1e_10_of_the_terms():
    rng, measured = np.random.default_rng(0), []
    for _ in range(20_000):
        assert_accurate(*random_case(rng, int(rng.choice([1, 3]))), measured=measured)
    assert len(measured) > 10_000
    assert max(measured) < 2e-12
    print(f"worst error / terms over {len(measured)} gaps above 1e-290: {max(measured):.1e}")


@pytest.mark.parametrize("size", [100, 180, 290])
@pytest.mark.parametrize("family", FAMILIES)
def test_gaps_down_to_1e_290_keep_their_digits(family, size):
    v, sigma_T = 1e-12, 1e12
    eta_ref = math.sqrt(2 * size / 36 - 1)  # Phi_ref = (v / sigma_T^2)^(size / 36) = 10^-size
    process, target = FAMILIES[family](sigma_T), gb.Gaussian(1.234, v)
    reward = gb.Quadratic(0.7, 0.4, 0.1)
    gap = float(gb.reward_gap(target, process, reward, eta_ref + 1, eta_ref))
    exact, terms = exact_gap([1.234], [v], process, [[0.7]], [0.4], [0.1], eta_ref + 1, eta_ref)
    assert 10.0 ** -(size + 3) < abs(gap) < 10.0 ** -(size - 3)
    assert abs(mp.mpf(gap) - exact) < 1e-12 * terms


def test_gap_of_eta_4_against_3_is_1e_100():
    gap = gb.reward_gap(gb.Gaussian(1.5, 1.0), gb.VE(1e10), gb.Linear(2.0), eta=4.0, eta_ref=3.0)
    assert gap == pytest.approx(-1.5 * 2.0 * 1e-100, rel=1e-12)


def full_case(rng, d, log_condition):
    v = 10 ** np.concatenate([[0.0, log_condition], rng.uniform(0, log_condition, d - 2)])
    Q = ortho_group.rvs(d, random_state=rng) if d > 1 else np.eye(1)
    cov = (Q * v) @ Q.T
    return rng.normal(size=d), (cov + cov.T) / 2


@pytest.mark.parametrize("log_condition", [0.0, 2.0, 5.0, 8.0])
def test_full_covariance_gap_is_accurate_to_1e_10_times_the_condition_number(log_condition):
    rng = np.random.default_rng(int(log_condition))
    for d in (2, 3, 3):
        m, cov = full_case(rng, d, log_condition)
        c, b, A = rng.normal(size=d), rng.normal(size=d), symmetric(rng.normal(size=d * d), d)
        process = list(FAMILIES.values())[rng.integers(3)](10 ** rng.uniform(-1, 6))
        eta, eta_ref = rng.uniform(0, 4, 2)
        gap = float(gb.reward_gap(gb.Gaussian(m, cov), process, gb.Quadratic(A, c, b), eta, eta_ref))
        with mp.workdps(DIGITS):
            values, Q = mp.eigsy(mp.matrix(cov.tolist()))
            turned = [list(Q.T * mp.matrix(x.tolist())) for x in (m, c, b)]
            matrix = (Q.T * mp.matrix(A.tolist()) * Q).tolist()
        exact, terms = exact_gap(turned[0], list(values), process, matrix, turned[1], turned[2], eta, eta_ref)
        assert abs(mp.mpf(gap) - exact) <= 1e-10 * 10**log_condition * terms


def exact_expectation(reward, mean, var):
    """E r under N(mean, var) in many digits, for the rewards with a finite range."""
    sd = mp.sqrt(var)
    match reward:
        case gb.HalfSpace():
            w = mp.mpf(float(reward.w))
            return mp.ncdf((w * mean - mp.mpf(reward.threshold)) / (abs(w) * sd))
        case gb.Bump():
            h2 = mp.mpf(reward.h) ** 2
            return mp.sqrt(h2 / (h2 + var)) * mp.exp(-((mean - mp.mpf(float(reward.c))) ** 2) / (2 * (h2 + var)))
        case gb.Cosine():
            w = mp.mpf(float(reward.omega))
            return mp.cos(w * mean + mp.mpf(reward.phase)) * mp.exp(-(w**2) * var / 2)


@pytest.mark.parametrize("reward", [r for r in REWARDS if np.isfinite(r.range).all()], ids=repr)
@settings(max_examples=40)
@given(m=st.floats(-10, 10), v=powers(-2, 2), process=processes(), pair=st.one_of(etas_apart, etas_close, profiles))
def test_bounded_rewards_are_accurate_to_1e_12_of_their_range(reward, m, v, process, pair):
    # conditioning: |m| <= 10 and sd >= 0.1, on rewards that vary over about 1
    gap = float(gb.reward_gap(gb.Gaussian(m, v), process, reward, *pair))
    with mp.workdps(60):
        laws = [exact_law(m, v, 0, float(process.sigma_T), float(process.prior_excess), eta) for eta in pair]
        own, ref = (exact_expectation(reward, *law) for law in laws)
        assert abs(mp.mpf(gap) - (ref - own)) <= 1e-12 * (reward.range[1] - reward.range[0])


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_gap_is_the_difference_of_expectations_under_the_terminal_laws(family, reward):
    process, target, window = FAMILIES[family](2.5), gb.Gaussian(0.7, 0.6), gb.Windows([(0.3, 1.0, 1.4)])
    for eta, eta_ref in [(1.0, 0.0), (0.3, 1.7), (window, 0.0), (1.0, window)]:
        ref, own = (gb.terminal_law(target, process, value) for value in (eta_ref, eta))
        plain = reward.expectation(ref) - reward.expectation(own)
        np.testing.assert_allclose(gb.reward_gap(target, process, reward, eta, eta_ref), plain, rtol=1e-12, atol=2e-15)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_gap_is_the_integral_of_the_reward_against_both_densities(reward):
    process, target = gb.VE(2.0), gb.Gaussian(0.7, 0.6)

    def expectation(law):
        m, sd = float(law.mean[0]), math.sqrt(float(law.cov[0]))
        points = [0.37 / -1.3] if isinstance(reward, gb.HalfSpace) else [0.4]
        return quad(
            lambda x: float(reward(x)) * math.exp(-(((x - m) / sd) ** 2) / 2) / sd / math.sqrt(2 * math.pi),
            m - 9 * sd, m + 9 * sd, points=points, epsabs=1e-12, limit=200,
        )[0]  # fmt: skip

    laws = [gb.terminal_law(target, process, eta) for eta in (0.0, 1.2)]
    assert gb.reward_gap(target, process, reward, 1.2) == pytest.approx(
        expectation(laws[0]) - expectation(laws[1]), abs=1e-10
    )


def test_a_callable_reward_gives_an_estimate_of_the_same_gap():
    process, target = gb.VE(3.0), gb.Gaussian(0.7, 0.6)
    estimate = gb.reward_gap(target, process, lambda x: -((x[..., 0] - 0.2) ** 2))
    exact = gb.reward_gap(target, process, gb.Quadratic(1.0, 0.2))
    assert isinstance(estimate, gb.Estimate)
    assert estimate.method == "quadrature"
    np.testing.assert_allclose(estimate.value, exact, rtol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_gap_is_antisymmetric_additive_and_zero_against_itself(family):
    process, target = FAMILIES[family](3.0), gb.Gaussian([0.7, -0.2], [0.6, 2.0])
    reward, window = gb.Quadratic([[1.0, 0.4], [0.4, 2.0]], [0.2, 0.5]), gb.Windows([(0.5, 1.0, 2.0)])

    def gap(eta, eta_ref):
        return gb.reward_gap(target, process, reward, eta, eta_ref)

    for one, other in [(0.4, 1.3), (0.0, window), (1.0, window)]:
        assert gap(one, other) == -gap(other, one)
        assert gap(one, one) == 0
    assert gap(1.5, 0.0) == pytest.approx(gap(1.5, 0.8) + gap(0.8, 0.0), rel=1e-13)


def test_windows_split_anywhere_leave_the_gap_unchanged():
    process, target, reward = gb.VP(2.0), gb.Gaussian([0.7, -0.2], [0.6, 2.0]), gb.Quadratic(1.0, 0.1)
    whole = gb.reward_gap(target, process, reward, gb.Windows([(0.2, 3.0, 1.3)]))
    split = gb.reward_gap(target, process, reward, gb.Windows([(1.1, 3.0, 1.3), (0.2, 1.1, 1.3)]))
    assert split == pytest.approx(whole, rel=1e-14)
    everywhere = gb.reward_gap(target, process, reward, gb.Windows([(0, math.inf, 1.3)]))
    assert everywhere == gb.reward_gap(target, process, reward, 1.3)


def test_a_window_of_zero_eta_or_outside_the_noise_range_makes_no_gap():
    target, process, reward = gb.Gaussian(0.7, 0.6), gb.VE(3.0), gb.Quadratic(1.0, 0.1)
    for window in [(0.1, 0.5, 0.0), (3.0, 5.0, 2.0)]:
        assert gb.reward_gap(target, process, reward, gb.Windows([window])) == 0
    assert gb.reward_gap(target, process, reward, gb.Windows([])) == 0


def rotated(rng, m, v):
    Q = ortho_group.rvs(len(m), random_state=rng)
    cov = (Q * v) @ Q.T
    return Q, gb.Gaussian(Q @ m, (cov + cov.T) / 2)


@pytest.mark.parametrize("eta", [1.0, 0.4, gb.Windows([(0.3, 1.1, 1.7)])], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_full_covariance_is_the_rotation_of_the_diagonal_case(family, eta):
    rng, d = np.random.default_rng(3), 4
    m, v, c, b = rng.normal(size=d), 10 ** rng.uniform(-1, 1, d), rng.normal(size=d), rng.normal(size=d)
    A, process = symmetric(rng.normal(size=d * d), d), FAMILIES[family](4.0)
    Q, full = rotated(rng, m, v)
    diagonal = gb.reward_gap(gb.Gaussian(m, v), process, gb.Quadratic(A, c, b), eta)
    turned = gb.reward_gap(full, process, gb.Quadratic(Q @ A @ Q.T, Q @ c, Q @ b), eta)
    assert turned == pytest.approx(diagonal, rel=1e-12)
    assert gb.reward_gap(full, process, gb.Linear(Q @ b), eta) == pytest.approx(
        gb.reward_gap(gb.Gaussian(m, v), process, gb.Linear(b), eta), rel=1e-12
    )


def test_a_diagonal_written_as_a_full_matrix_gives_the_same_gap():
    m, v, process, reward = [0.7, -0.2], [0.6, 2.0], gb.VP(1.5), gb.Quadratic([[1.0, 0.4], [0.4, 2.0]], 0.3)
    full = gb.reward_gap(gb.Gaussian(m, np.diag(v)), process, reward)
    assert full == pytest.approx(gb.reward_gap(gb.Gaussian(m, v), process, reward), rel=1e-14)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_arrays_of_T_eta_and_target_broadcast_to_the_gaps_of_each(reward):
    T, eta, m = np.array([1.0, 2.0, 3.0]), np.array([[0.5], [1.5]]), np.array([0.1, -0.4, 0.8])
    gaps = gb.reward_gap(gb.Gaussian(m[:, None], 0.5), gb.VE(T), reward, eta)
    assert gaps.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        single = gb.reward_gap(gb.Gaussian(m[j], 0.5), gb.VE(T[j]), reward, eta[i, 0])
        assert gaps[i, j] == pytest.approx(single, rel=1e-14)


def test_batches_of_full_covariances_broadcast():
    rng = np.random.default_rng(5)
    L = rng.normal(size=(3, 2, 2))
    cov, means, T = L @ L.swapaxes(-1, -2) + 0.3 * np.eye(2), rng.normal(size=(3, 2)), np.array([1.0, 2.0, 5.0])
    reward = gb.Quadratic([[1.0, 0.4], [0.4, 2.0]], [0.3, -0.1], [0.2, 0.5])
    gaps = gb.reward_gap(gb.Gaussian(means, cov), gb.VE(T), reward, np.array([[0.5], [1.0]]))
    assert gaps.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        single = gb.reward_gap(gb.Gaussian(means[j], cov[j]), gb.VE(T[j]), reward, [0.5, 1.0][i])
        assert gaps[i, j] == pytest.approx(single, rel=1e-12)


@pytest.mark.parametrize("eta_shape", [(), (3,)])
@pytest.mark.parametrize("T_shape", [(), (3,)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_gap_has_the_common_batch_shape(batch, T_shape, eta_shape):
    target, process = gb.Gaussian(np.full((*batch, 2), 0.3), 0.5), gb.VP(np.full(T_shape, 1.2))
    for reward in [gb.Quadratic(1.0, 0.0), gb.Bump(0.1, 1.0)]:
        gap = gb.reward_gap(target, process, reward, np.full(eta_shape, 1.1), np.full(eta_shape, 0.2))
        assert np.shape(gap) == np.broadcast_shapes(batch, T_shape, eta_shape)


class Bare(Process):
    """A process known by sigma_T and the prior's excess in z alone; anything else asked of it is an error."""

    T, sigma, prior_excess, scale, prior = None, None, None, None, None


def bare(sigma_T, excess):
    process = Bare()
    process.T, process.sigma, process.prior_excess = np.float64(sigma_T), np.float64, excess
    return process


@pytest.mark.parametrize("family", FAMILIES)
def test_one_formula_serves_every_process(family):
    process, target, reward = FAMILIES[family](2.345), gb.Gaussian([0.7, -0.2], [0.6, 2.0]), gb.Quadratic(1.0, 0.1)
    double = bare(process.sigma_T, process.prior_excess)
    for eta in (1.3, gb.Windows([(0.5, 1.0, 2.0)])):
        assert gb.reward_gap(target, double, reward, eta) == gb.reward_gap(target, process, reward, eta)


def test_vp_gap_depends_on_alpha_bar_alone():
    target, reward = gb.Gaussian(0.7, 0.6), gb.Quadratic(1.0, 0.1)
    gaps = [
        gb.reward_gap(target, gb.VP(T, beta), reward)
        for T, beta in [(1.5, "2t"), (2.25, "constant"), (2.25 / 10.05, "linear")]
    ]
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-14)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
@pytest.mark.parametrize("eta", [0.5, 1.0, 20.0, gb.Windows([(1.0, math.inf, 1.0)])], ids=str)
def test_flow_from_t_1_has_no_gap(reward, eta):
    assert abs(gb.reward_gap(gb.Gaussian(1.3, 0.6), gb.FlowMatching(), reward, eta)) < 1e-15
    mixed = gb.reward_gap(gb.Gaussian(1.3, 0.6), gb.FlowMatching([0.6, 1.0]), reward, eta)
    assert abs(mixed[0]) > 1e-4
    assert abs(mixed[1]) < 1e-15


@pytest.mark.parametrize("eta_ref", [0.0, 1.0])
def test_flow_from_t_1_and_a_window_that_ends_below_it_has_no_gap(eta_ref):
    assert (
        gb.reward_gap(gb.Gaussian(1.3, 0.6), gb.FlowMatching(), gb.Linear(1.0), gb.Windows([(0.1, 2, 1.0)]), eta_ref)
        == 0
    )


@pytest.mark.parametrize(
    ("process", "m", "c", "v", "constant"),
    [
        (gb.VE(1e7), 0.7, -0.4, 0.6, lambda a, m, c, v: 2 * a * (m - c) * m * math.sqrt(v) / 1e7),
        (gb.VE(1e7), 0.0, -0.4, 0.6, lambda a, m, c, v: a * v**2 / 1e14),
        (gb.VE(1e7), 0.7, 0.7, 0.6, lambda a, m, c, v: a * v * (v - m**2) / 1e14),
        (gb.VP(35.0, "constant"), 0.0, -0.4, 0.6, lambda a, m, c, v: a * v * (v - 1) * math.exp(-35)),
        (gb.VP(35.0, "constant"), 0.7, 0.7, 0.6, lambda a, m, c, v: a * v * (v - 1 - m**2) * math.exp(-35)),
        (gb.VP(5.5), 0.7, 0.7, 0.6, lambda a, m, c, v: a * v * (v - 1 - m**2) * math.exp(-(5.5**2))),
        (gb.VP(70.0, "constant"), 0.7, -0.4, 0.6, lambda a, m, c, v: 2 * a * (m - c) * m * v**0.5 * math.exp(-35)),
        (gb.FlowMatching(1 - 1e-7), 0.0, 0.4, 0.6, lambda a, m, c, v: -2 * a * v * 1e-7),
    ],
    ids=["VE", "VE, m = m_pi", "VE, m = c", "VP, m = 0", "VP, m = c", "VP 2t, m = c", "VP", "flow, m = 0"],
)  # fmt: skip
def test_leading_constants_are_those_of_the_theory(process, m, c, v, constant):
    gap = gb.reward_gap(gb.Gaussian(m, v), process, gb.Quadratic(0.8, c), eta=1.5)
    assert gap == pytest.approx(constant(0.8, m, c, v), rel=1e-5)


def test_vp_started_from_its_own_law_has_no_gap():
    for eta in (0.5, 1.0, 3.0):
        assert gb.reward_gap(gb.Gaussian(0.0, 1.0), gb.VP(0.3), gb.Quadratic(1.0, 0.7), eta) == 0


def test_local_slopes_at_small_eta_approach_minus_1_slowly():
    T = np.array([10, 30, 100, 1e3, 1e4, 1e5])
    up, down = (
        gb.reward_gap(gb.Gaussian(1.0, 0.5), gb.VE(T * factor), gb.Linear(1.0), eta=0.5)
        for factor in (1 + 1e-4, 1 - 1e-4)
    )
    slopes = np.log(up / down) / math.log((1 + 1e-4) / (1 - 1e-4))
    np.testing.assert_allclose(slopes, [-0.73, -0.84, -0.90, -0.951, -0.975, -0.986], atol=0.005)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.2, 1.5, 2.0])
def test_exponents_at_large_T_are_those_of_the_theory(eta):
    T = np.array([1e8, 1e9])
    target, off, centred = gb.Gaussian(1.0, 0.5), gb.Quadratic(1.0, 0.2), gb.Quadratic(1.0, 1.0)

    def slope(values):
        return float(np.diff(np.log(np.abs(values)))[0] / np.diff(np.log(T))[0])

    assert slope(gb.reward_gap(target, gb.VE(T), off, eta)) == pytest.approx(-1, abs=0.02)
    assert slope(gb.reward_gap(target, gb.VE(T), centred, eta)) == pytest.approx(-2, abs=0.02)
    assert slope(sampler_error(target, gb.VE(T), off, eta)) == pytest.approx(-(1 + eta**2), abs=0.02)
    assert slope(sampler_error(target, gb.VE(T), centred, eta)) == pytest.approx(-2 * (1 + eta**2), abs=0.02)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_gap_is_the_difference_of_two_sampler_errors(reward):
    target, process = gb.Gaussian([0.7, -0.2], [0.6, 2.0]), gb.VP(np.array([0.8, 1.5]))
    for eta in (0.5, gb.Windows([(0.2, 1.0, 1.5)])):
        errors = [sampler_error(target, process, reward, value) for value in (0.0, eta)]
        gap = gb.reward_gap(target, process, reward, eta)
        assert gap.shape == (2,)
        np.testing.assert_allclose(errors[0] - errors[1], gap, rtol=1e-11, atol=1e-15)


@settings(max_examples=60)
@given(m=signed(1e6), v=powers(-12, 12), process=processes(), eta=st.one_of(etas(), windows()), c=signed(1e3))
def test_sampler_error_is_accurate_to_1e_10_of_its_terms(m, v, process, eta, c):
    error = float(sampler_error(gb.Gaussian(m, v), process, gb.Quadratic(1.3, c, 0.2), eta))
    sigma_T, excess = float(process.sigma_T), float(process.prior_excess)
    with mp.workdps(DIGITS):
        m, v, c, A, b = (mp.mpf(x) for x in (m, v, c, 1.3, 0.2))
        mean, var = exact_law(m, v, 0, sigma_T, excess, eta)
        exact = -A * ((mean - c) ** 2 - (m - c) ** 2 + var - v) + b * (mean - m)
        phi = abs((mean - m) / m) if m else mp.sqrt(abs((var - v) / (excess - v))) if excess != v else mp.mpf(0)
        bracket = A * abs(m) * (2 * abs(m - c) + abs(m) * phi) + A * abs(excess - v) * phi + b * abs(m)
        assert abs(mp.mpf(error) - exact) <= 1e-10 * phi * bracket + mp.mpf(10) ** -300


@settings(max_examples=150)
@given(
    m=signed(1e6),
    v=powers(-12, 12),
    process=processes(),
    pair=st.one_of(etas_apart, profiles, st.tuples(st.sampled_from([1e3, 1e50, 1e100]), etas())),
    reward=st.sampled_from(REWARDS),
)
def test_finite_input_never_gives_nan(m, v, process, pair, reward):
    assert np.isfinite(gb.reward_gap(gb.Gaussian(m, v), process, reward, *pair))


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_guidance_0_and_1_have_the_gap_of_the_unconditional_and_the_conditional_law(scale):
    laws = gb.Gaussian(0.2, 1.0), gb.Gaussian(1.0, 0.5)
    for reward in REWARDS:
        gap = gb.reward_gap(gb.guided(*laws, scale), gb.VP(1.2), reward, 1.3)
        np.testing.assert_allclose(gap, gb.reward_gap(laws[int(scale)], gb.VP(1.2), reward, 1.3), atol=1e-13)


def test_guidance_makes_a_gap_that_does_not_vanish_with_T():
    model = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 3.0)
    gaps = gb.reward_gap(model, gb.VP(np.array([10.0, 40.0, 120.0]), "constant"), gb.Linear(1.0))
    np.testing.assert_allclose(gaps[1:], 0.25, atol=1e-6)  # means 2.00 and 1.75
    assert gb.reward_gap(model, gb.FlowMatching(), gb.Linear(1.0)) == pytest.approx(0.25, abs=1e-12)


MIXTURE = gb.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.1], [0.1]])


@pytest.mark.parametrize("gap", [gb.reward_gap, sampler_error])
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"eta": -0.5}, ValueError, r"eta must be 0 or more, got -0\.5"),
        ({"eta": math.nan}, ValueError, "eta must be finite, got nan"),
        ({"eta": math.inf}, ValueError, "eta must be finite, got inf"),
        ({"eta": 1e200}, ValueError, r"eta must lie in \[0, 1e\+100\], got 1e\+200"),
        ({"eta": "ode"}, TypeError, "eta must be a real number or an array of them, got 'ode'"),
        (
            {"eta": [0.5, 1.0, 1.5]},
            ValueError,
            r"target, T and eta do not broadcast: shapes \(2,\) and \(\) and \(3,\)",
        ),
        ({"process": gb.VE([1.0, 2.0, 3.0])}, ValueError, r"do not broadcast: shapes \(2,\) and \(3,\)"),
        ({"process": gb.VE}, TypeError, "process must be an instance of VE, VP or FlowMatching"),
        ({"reward": gb.Quadratic}, TypeError, r"a reward is an object such as Quadratic\(1\.0, 0\.0\)"),
        (
            {"reward": gb.Quadratic(1.0, [0.0, 1.0, 2.0])},
            ValueError,
            r"c has shape \(3,\), which does not fit the dimension 2",
        ),
        ({"reward": gb.Quadratic(np.eye(3), 0.0)}, ValueError, r"A has shape \(3, 3\), which does not fit .* 2"),
    ],
)
def test_bad_input_is_refused_with_the_value_met(gap, change, error, match):
    call = {"target": gb.Gaussian(np.zeros((2, 2)), 1.0), "process": gb.VE(2.0), "reward": gb.Quadratic(1.0, 0.0)}
    with pytest.raises(error, match=match):
        gap(**(call | change))


def test_bad_eta_ref_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"eta_ref must be 0 or more, got -1\.0"):
        gb.reward_gap(gb.Gaussian(0.0, 1.0), gb.VE(2.0), gb.Linear(1.0), 1.0, -1.0)
    with pytest.raises(ValueError, match=r"eta_ref must be 0 or more, got -1\.0"):
        gb.reward_gap(gb.Gaussian(0.0, 1.0), gb.VE(2.0), gb.Bump(0.0, 1.0), 1.0, -1.0)


@pytest.mark.parametrize("reward", [gb.Quadratic(1.0, 0.0), gb.Bump(0.0, 1.0)])
def test_a_mixture_of_one_component_has_the_gap_of_that_gaussian(reward):
    single = gb.reward_gap(gb.GaussianMixture([1.0], [0.7], [0.5]), gb.VE(2.0), reward, 0.8)
    assert float(single) == pytest.approx(gb.reward_gap(gb.Gaussian(0.7, 0.5), gb.VE(2.0), reward, 0.8), rel=2e-6)


@pytest.mark.parametrize("reward", [gb.Quadratic(1.0, 0.0), gb.Bump(0.0, 1.0)])
def test_targets_without_closed_form_are_refused(reward):
    with pytest.raises(TypeError, match="needs a Gaussian or an affine score, got function; simulate and estimate"):
        gb.reward_gap(lambda z, sigma: -z, gb.VE(2.0), reward)
    with pytest.raises(TypeError, match="sampler_error needs a Gaussian target, got GaussianMixture"):
        sampler_error(MIXTURE, gb.VE(2.0), reward)
