"""Bounds at their edges: far rewards, tiny weights and variances, wide distances; logarithms against many digits."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr, logsumexp, ndtri

import gapbound as gb
from analysis.cases import case
from analysis.measured import measure
from gapbound import bounds
from gapbound.bounds import mismatch
from gapbound.bounds.constants import Decay, poincare
from gapbound.bounds.line import Line
from gapbound.bounds.lipschitz import profile
from gapbound.bounds.problem import problem
from gapbound.bounds.spread import ROUNDING, gradient_energy, rounding, variance
from gapbound.bounds.value import Bound, Constant, product, settled
from gapbound.reward import CallableReward

FAR = gb.Gaussian(-300.0, 100.0)
FAR_MIXTURE = gb.GaussianMixture([0.4, 0.6], [-113.0, -116.0], [60.0, 40.0])


def assert_sound(found, exact):
    for name, bound in found.bounds.items():
        for part in (bound.ode, bound.sde, bound.gap):
            assert part is None or (part > 0 and not math.isnan(part)), name
        assert bound.gap >= abs(exact) * (1 - 1e-9), f"{name}: {exact} against {bound}"
    assert found.gap >= abs(exact) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("target", "process", "reward", "gap"),
    [
        (FAR, gb.VP(0.84), gb.Bump(0.0, 1.2), 0.2606),
        (FAR, gb.VP(0.84), gb.HalfSpace(1.0), 0.101),
        (gb.Gaussian(-35.0, 1.0), gb.VP(0.84), gb.HalfSpace(1.0), 1.18e-25),
        (gb.Gaussian(-45.0, 1.0), gb.VP(0.84), gb.Bump(0.0, 1.2), 9.1e-17),
        (gb.Gaussian(-3e5, 1.0), gb.VE(1e-5), gb.HalfSpace(1.0), 0.0499),
    ],
    ids=["bump", "half-space", "narrow", "NaN", "exp(4.5e10)"],
)
def test_constants_that_underflow_and_overflow_make_no_bound_0_or_nan(target, process, reward, gap):
    exact = float(gb.reward_gap(target, process, reward, 1.0))
    assert exact == pytest.approx(gap, rel=5e-3)
    assert_sound(bounds.best(target, process, reward, 1.0), exact)


def test_bounds_beside_chi_square_of_exp_of_4e10_are_still_close():
    question = gb.Gaussian(-3e5, 1.0), gb.VE(1e-5), gb.HalfSpace(1.0), 1.0
    assert bounds.duhamel(*question).gap < 2 * float(gb.reward_gap(*question))
    assert "exp(-4.5e+10)" in str(bounds.chi_square(*question))


@pytest.mark.parametrize(("h", "gap"), [(13.6, 0.23333), (3.0, 0.01989)])
def test_the_residual_of_a_mixture_sees_a_reward_far_from_it(h, gap):
    question = FAR_MIXTURE, gb.FlowMatching(0.81), gb.Bump(0.0, h), 0.7
    exact = gb.reward_gap(*question)
    assert exact.value == pytest.approx(gap, abs=5e-6)
    found = bounds.residual(*question)
    assert abs(exact.value) - exact.error <= found.gap < 1.001 * exact.value


@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_no_bound_on_a_hard_case_is_below_the_gap_or_nan(index):
    check_hard(index)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.integers(0, 10**6))
def test_no_bound_on_many_hard_cases_is_below_the_gap_or_nan(index):
    check_hard(index)


def check_hard(index):
    found = measure(case(index, "hard"))
    assert [part for name in found.limits for part in found.violated(name) + found.undefined(name)] == []


REWARDS = [
    gb.Bump(0.0, 1.2),
    gb.Bump(0.3, 1e6),
    gb.HalfSpace(1.0, 0.2),
    gb.AbsoluteDeviation(0.4),
    gb.Cosine(1.3, 0.2),
    gb.Cosine(1e-7, 0.0),
    gb.Quadratic(0.7, 0.3, 0.2, 1e9),
    gb.Linear(-1.3),
]


def number(entry):
    """A parameter in d = 1, as an mpf."""
    return mp.mpf(float(np.asarray(entry).item()))


def mean_and_square(reward, m, v):
    """E r and E r^2 under N(m, v), in mpmath."""
    if isinstance(reward, gb.Bump):
        c, h2 = number(reward.c), mp.mpf(reward.h) ** 2
        powers = [mp.sqrt(h2 / p / (v + h2 / p)) * mp.e ** (-((m - c) ** 2) / 2 / (v + h2 / p)) for p in (1, 2)]
        return powers[0], powers[1]
    if isinstance(reward, gb.HalfSpace):
        p = mp.ncdf((m * number(reward.w) - mp.mpf(reward.threshold)) / mp.sqrt(v))
        return p, p
    if isinstance(reward, gb.AbsoluteDeviation):
        away = m - number(reward.c)
        folded = mp.sqrt(2 * v / mp.pi) * mp.e ** (-(away**2) / (2 * v)) + away * mp.erf(away / mp.sqrt(2 * v))
        return folded, away**2 + v
    if isinstance(reward, gb.Cosine):
        omega, phase = number(reward.omega), mp.mpf(reward.phase)
        once, twice = (mp.cos(k * (omega * m + phase)) * mp.e ** (-((k * omega) ** 2) * v / 2) for k in (1, 2))
        return once, (1 + twice) / 2
    A, c, b, _ = reward.quadratic_form(1)  # about the mean: r = r(m) + g y - A y^2, without the constant
    A, c, b = number(A), number(c), number(b)
    value, slope = -A * (m - c) ** 2 + b * m, b - 2 * A * (m - c)
    return value - A * v, (value - A * v) ** 2 + slope**2 * v + 2 * A**2 * v**2


def exact_variance(reward, weights, means, variances):
    """Var r of a mixture with 1000 digits, by E r^2 - (E r)^2."""
    with mp.workdps(1000):
        parts = [
            (mp.mpf(w), *mean_and_square(reward, mp.mpf(m), mp.mpf(v)))
            for w, m, v in zip(weights, means, variances, strict=True)
        ]
        total = sum(w for w, _, _ in parts)
        return sum(w * square for w, _, square in parts) / total - (sum(w * mean for w, mean, _ in parts) / total) ** 2


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
@pytest.mark.parametrize(
    "mixture",
    [
        ([1.0], [0.7], [0.5]),
        ([1.0], [-60.0], [0.7]),
        ([0.3, 0.7], [-2.0, 1.5], [0.4, 0.2]),
        ([1e-6, 1 - 1e-6], [-40.0, -41.0], [1e-2, 1e2]),
        ([0.5, 0.5], [0.3, 0.3 + 1e-9], [0.4, 0.4]),
    ],
    ids=["near", "far", "modes", "unequal", "twins"],
)
def test_the_variance_of_a_reward_is_not_below_that_of_many_digits_and_close_to_it(reward, mixture):
    weights, means, variances = mixture
    law = gb.GaussianMixture(*mixture) if len(weights) > 1 else gb.Gaussian(means[0], variances[0])
    exact = exact_variance(reward, *mixture)
    found = variance(reward, law).logarithm
    log = float(mp.log(exact))
    assert found >= log - 1e-13 * (1 + abs(log))
    assert found <= log + 1e-6 or found < math.log(1e-22)  # below that the rounding of E r itself is what is left


def test_the_energy_of_a_bumps_gradient_is_that_of_many_digits_far_away():
    law, h = gb.Gaussian(-60.0, 0.7), 1.2
    with mp.workdps(60):
        density = lambda x: mp.npdf(x, -60, mp.sqrt(mp.mpf(0.7)))  # noqa: E731
        slope2 = lambda x: (x / mp.mpf(h) ** 2) ** 2 * mp.e ** (-(x**2) / mp.mpf(h) ** 2)  # noqa: E731
        exact = mp.log(mp.quad(lambda x: density(x) * slope2(x), mp.linspace(-40, -20, 201)))
    assert gradient_energy(gb.Bump(0.0, h), law).logarithm == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("distance", [3.0, 30.0, 90.0])
def test_chi_square_of_a_prior_between_two_far_modes_is_that_of_a_dense_grid(distance):
    # prior^2 / q has its mass where the components cross, far from the place of every Gaussian piece
    line = Line(np.array([0.3, 0.7]), np.array([-distance, distance]), np.array([0.2, 0.0]))
    x = np.linspace(-3 * distance - 15, 3 * distance + 15, 3_000_001)
    log_prior = -(x**2) / 2 - math.log(2 * math.pi) / 2
    log_q = (
        np.logaddexp(
            *(
                math.log(w / sd) - ((x - m) / sd) ** 2 / 2
                for w, m, sd in ((0.3, -distance, 1.2**0.5), (0.7, distance, 1.0))
            )
        )
        - math.log(2 * math.pi) / 2
    )
    exact = logsumexp(2 * log_prior - log_q) + math.log(x[1] - x[0])  # of 1 + chi^2
    found = mismatch.mismatch(line).log_chi2
    assert exact - 1e-9 <= np.logaddexp(found, 0.0) <= exact + 1e-6 * (1 + abs(exact))


def test_a_cut_of_the_integral_is_added_to_it(monkeypatch):
    line = Line(np.array([0.5, 0.5]), np.array([-3.0, 3.0]), np.array([0.0, 0.3]))
    whole = mismatch.mismatch(line).log_chi2
    monkeypatch.setattr("gapbound.bounds.line.REACH", 1.5)
    assert mismatch.mismatch(line).log_chi2 >= whole  # a seventh of a Gaussian lies beyond 1.5 standard deviations


def test_tails_of_two_far_and_unequal_modes_do_not_bring_the_distance_below_the_truth():
    process, weights = gb.VE(1.0), [1e-6, 1 - 1e-6]
    target = gb.GaussianMixture(weights, [-30.0, 20.0], [1e-2, 1e2])
    found = mismatch.wasserstein(problem(target, process, gb.Linear(1.0), 0.0)).value
    u = np.linspace(1e-7, 1 - 1e-7, 40_001)  # quantiles of both by bisection
    low, high = np.full(u.shape, -80.0), np.full(u.shape, 90.0)
    sds = np.sqrt(np.array([1e-2, 1e2]) + 1)
    for _ in range(45):
        middle = (low + high) / 2
        mass = sum(
            w * np.exp(log_ndtr((middle - m) / sd)) for w, m, sd in zip(weights, (-30.0, 20.0), sds, strict=True)
        )
        low, high = np.where(mass < u, middle, low), np.where(mass < u, high, middle)
    exact = math.sqrt(np.trapezoid((low - ndtri(u)) ** 2, u))
    assert found == pytest.approx(exact, rel=1e-3)


def curvature(question, z, tau):
    """-(log q_tau)'' at points z."""
    mean, v = question.components.mean[:, 0], question.components.variances[:, 0] + tau
    joint = np.log(question.weights) - np.log(v) / 2 - (z[:, None] - mean) ** 2 / (2 * v)
    posterior = np.exp(joint - logsumexp(joint, axis=-1, keepdims=True))
    pull = (mean - z[:, None]) / v
    return (posterior / v).sum(-1) - (posterior * (pull - (posterior * pull).sum(-1, keepdims=True)) ** 2).sum(-1)


@pytest.mark.parametrize("index", [11])
def test_kappa_is_not_above_the_curvature_anywhere_where_several_dips_are_nearly_equal(index):
    hard = case(index, "hard")
    question = problem(hard.target, hard.process, hard.reward, 1.0)
    mean, variances = question.components.mean[:, 0], question.components.variances[:, 0]
    for share in np.linspace(0, 1, 61):
        tau = variances.min() * np.expm1(share * math.log1p(question.sigma_T**2 / variances.min()))
        sd = np.sqrt(variances + tau)
        z = np.unique(np.concatenate(
            [np.linspace((mean - 8 * sd).min(), (mean + 8 * sd).max(), 4001)]
            + [m + s * np.linspace(-8, 8, 1001) for m, s in zip(mean, sd, strict=True)]
        ))  # fmt: skip
        at = int(curvature(question, z, tau).argmin())
        lowest = curvature(question, np.linspace(z[max(at - 1, 0)], z[min(at + 1, z.size - 1)], 401), tau).min()
        assert float(profile(question).kappa(np.array([tau]))[0]) <= lowest + 1e-9 * abs(lowest)


def test_products_of_logarithms_keep_what_either_factor_loses():
    assert product(-5000.0, 5000.0) == pytest.approx(1.0, rel=1e-10)
    assert product(-5000.0, 5000.0) >= 1.0
    assert product(-math.inf, math.inf) == 0.0
    assert product(-5000.0, 100.0) == 5e-324
    assert product(5000.0) == math.inf


def test_a_number_that_cannot_be_had_is_replaced_by_the_trivial_bound_with_the_reason():
    found = settled("b", math.nan, 0.2, math.inf, (), (), 1.0, "too wide")
    assert (found.ode, found.sde, found.gap, found.reason) == (1.0, 0.2, 1.0, "too wide")
    assert found.vacuous
    assert "replaced by the trivial bound: too wide" in str(found)
    assert settled("b", 0.1, 0.2, 0.3, (), (), 1.0).reason == ""
    assert settled("b", None, None, math.inf, (), (), math.inf).vacuous
    assert not Bound("b", None, None, 0.0, (), (), 0.0).vacuous


def test_waves_that_cannot_be_resolved_are_refused_by_name():
    target = gb.GaussianMixture([0.4, 0.6], [-1.0, 1.0], [1.0, 1e4])
    found = bounds.residual(target, gb.VE(1.0), gb.Cosine(1e5), 1e-6)
    assert "panels would be needed to resolve the waves" in found.reason
    assert (found.sde, found.gap) == (2.0, 2.0)


def test_a_callable_is_not_trusted_where_nobody_looked():
    def bump(x):
        return np.exp(-(x[..., 0] ** 2) / 2)

    exact = float(gb.reward_gap(FAR, gb.VP(0.84), gb.Bump(0.0, 1.0), 1.0))
    for name in ("chi_square", "duhamel"):
        blind = getattr(bounds, name)(FAR, gb.VP(0.84), bump, 1.0)
        assert math.isinf(blind.gap)
        assert "nothing is known of this callable beyond 12 standard deviations" in blind.reason
        bounded = getattr(bounds, name)(FAR, gb.VP(0.84), CallableReward(bump, range=(0.0, 1.0)), 1.0)
        assert bounded.gap >= exact


def test_one_gaussian_adds_what_the_difference_of_two_expectations_loses():
    # r is 1 - x^2 / (2 h^2) there, so that the gap is known: 1e-20, where expectations round to 1e-16
    target, process, h = gb.Gaussian(0.0, 1.0), gb.VE(2.0), 1e9
    exact = abs(float(gb.reward_gap(target, process, gb.Quadratic(1 / (2 * h**2), 0.0), 0.5)))
    assert float(gb.reward_gap(target, process, gb.Bump(0.0, h), 0.5)) == 0.0
    found = bounds.best(target, process, gb.Bump(0.0, h), 0.5)
    assert all(bound.gap >= exact for bound in found.bounds.values())
    assert found.bounds["residual"].gap >= ROUNDING
    assert found.gap < 3 * exact


def test_the_rounding_of_an_expectation_covers_its_error_in_60_digits():
    law = gb.Gaussian(-40.3, 0.7)
    with mp.workdps(60):
        total = mp.mpf(0.7) + mp.mpf(1.1) ** 2
        exact = mp.sqrt(mp.mpf(1.1) ** 2 / total) * mp.e ** (-((mp.mpf(-40.3) - mp.mpf(0.2)) ** 2) / (2 * total))
        error = abs(float(mp.mpf(float(gb.Bump(0.2, 1.1).expectation(law))) - exact))
    assert error <= rounding(gb.Bump(0.2, 1.1), law) < 1e-11 * float(exact)


def test_exponents_of_several_noise_levels_are_those_of_each():
    question = problem(FAR_MIXTURE, gb.VE(20.0), gb.Linear(1.0), gb.Windows([(0.1, 2.0, 0.7), (2.0, 30.0, 1.4)]))
    decay, sigma = poincare(question)[1], np.array([0.0, 0.05, 1.0, 7.0, 20.0, 40.0])
    together = decay.exponents(question.eta, sigma)
    np.testing.assert_allclose(together, [decay.exponent(question.eta, float(s)) for s in sigma], rtol=1e-14)
    tau = np.linspace(1e-4, 400.0, 400_001)
    eta2 = question.eta(np.sqrt(tau)) ** 2
    known = np.searchsorted(decay.knots, np.sqrt(tau), side="right") - 1
    integral = np.trapezoid(eta2 / (np.array(decay.offsets)[known] + tau), tau)
    assert together[4] == pytest.approx(integral, rel=1e-3)
    assert Decay((0.0,), (math.inf,)).exponent(np.asarray(1.0), 5.0) == 0.0


def test_constants_print_what_their_value_has_lost():
    text = str(Constant.from_log("V", -3200.0, "closed form", "a formula"))
    assert text == "V = exp(-3200) (closed form): a formula"
    assert Constant.from_log("V", math.log(2.0), "closed form", "a formula").value == pytest.approx(2.0)
    assert Constant("V", 0.0, "closed form", "a formula").logarithm == -math.inf


def test_pure_noise_says_what_its_0_rests_on():
    found = bounds.best(FAR_MIXTURE, gb.FlowMatching(1.0), gb.Linear(1.0), 0.5)
    assert found.gap == 0
    assert all(
        "chi^2(prior || q_T) and with it B1 tend to 0" in bound.assumptions[-1] for bound in found.bounds.values()
    )
    ends = [
        bounds.chi_square(FAR_MIXTURE, gb.FlowMatching(t), gb.Linear(1.0), 0.5).gap for t in (0.999, 0.9999, 0.99999)
    ]
    assert np.diff(np.log(ends)) == pytest.approx(np.full(2, math.log(0.1)), abs=0.2)


def test_no_two_mixtures_in_the_plane_have_a_divergence_of_0():
    # at sigma_T = 1e9 chi^2 is 1e-18 and 1 / sum - 1 rounds to 0
    target = gb.GaussianMixture([0.4, 0.6], [[-1.0, 0.4], [1.0, 0.4]], 0.3)
    question = target, gb.VE(1e9), gb.Linear([1.0, 0.0]), 0.7
    found = bounds.best(*question)
    exact = abs(float(gb.reward_gap(gb.Gaussian(0.2, 1.26), gb.VE(1e9), gb.Linear(1.0), 0.7)))
    assert found.bounds["chi_square"].gap > exact / 3
    assert all(bound.gap > 0 for bound in found.bounds.values())
