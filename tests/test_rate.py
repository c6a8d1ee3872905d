"""``rate`` against exact gaps in many-digit arithmetic, computed here by another route than the library's."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapbound import VE, VP, Bump, FlowMatching, Gaussian, GaussianMixture, Linear, Quadratic, Windows, reward_gap
from gapbound import symbolic as s
from gapbound.rate import Rate, rate

ETAS = [0.5, 1.0, 1.2, 1.5, 2.0]
PROCESSES = {"VE": VE, "VP": VP, "flow": FlowMatching}
EXCESS = {"VE": lambda sigma: 0, "VP": lambda sigma: 1, "flow": lambda sigma: 1 + 2 * sigma}
DIGITS = 320  # the differences are subtracted as they stand

V3 = np.array([[0.8, 0.3, -0.1], [0.3, 1.4, 0.2], [-0.1, 0.2, 0.5]])
A3 = np.array([[1.1, -0.4, 0.2], [-0.4, 0.7, 0.1], [0.2, 0.1, -0.3]])
M3, C3, B3 = np.array([1.234, -0.5, 0.3]), np.array([0.2, 0.4, -0.9]), np.array([0.1, -0.7, 0.6])


def matrix(x):
    return mp.matrix(np.atleast_1d(x).tolist())


def variable(kind, sigma):
    return 1 / (1 + sigma**2) if kind == "VP" else sigma


def exact_error(kind, target, reward, eta, sigma):
    """E r(Y^eta) - E_target r at sigma_T = sigma: the law's mean and covariance, and traces, nothing rearranged."""
    d = target.dim
    A, c, b, _ = reward.quadratic_form(d)
    A = matrix(np.asarray(A)) if np.ndim(A) else mp.mpf(A) * mp.eye(d)
    c, b, m = matrix(c), matrix(b), matrix(target.mean)
    values, Q = mp.eigsy(matrix(target.matrix))
    survive = Q * mp.diag([survival(v, eta, sigma) for v in values]) * Q.T
    mean = m - survive * m
    cov = matrix(target.matrix) + survive * (EXCESS[kind](sigma) * mp.eye(d) - matrix(target.matrix)) * survive

    def expected(mu, S):
        product = A * S
        curved = ((mu - c).T * A * (mu - c))[0] + mp.fsum(product[i, i] for i in range(d))
        return (b.T * mu)[0] - curved

    return expected(mean, cov) - expected(m, matrix(target.matrix))


def survival(v, eta, sigma):
    """exp(-1/2 int (1 + eta^2) dtau/(v + tau)), window by window."""
    windows = eta.windows if isinstance(eta, Windows) else [(0.0, math.inf, eta)]
    exponent = mp.log((v + sigma**2) / v)
    for low, high, value in windows:
        high = min(sigma, high)
        exponent += mp.mpf(value) ** 2 * mp.log((v + high**2) / (v + mp.mpf(low) ** 2))
    return mp.exp(-exponent / 2)


def exact_gap(kind, target, reward, eta, sigma, eta_ref=0.0):
    return exact_error(kind, target, reward, eta_ref, sigma) - exact_error(kind, target, reward, eta, sigma)


def assert_leads(found, exact, kind, sigmas=("1e6", "1e9", "1e12")):
    """exact / leading term -> 1 as fast as ``next_exponent`` says, and both exponents are right."""
    assert found.constant != 0
    gain = abs(found.next_exponent - found.exponent) if found.next_exponent is not None else 4.0
    distances = []
    with mp.workdps(DIGITS):
        for sigma in map(mp.mpf, sigmas):
            x = variable(kind, sigma)
            distances.append(abs(exact(sigma) / (mp.mpf(found.constant) * x ** mp.mpf(found.exponent)) - 1))
            step = x if kind == "VP" else 1 / x
            assert distances[-1] < 30 * step**gain + mp.mpf("1e-12")
        far = mp.mpf("1e24"), mp.mpf("1e26")
        slope = mp.log(exact(far[0]) / exact(far[1])) / mp.log(variable(kind, far[0]) / variable(kind, far[1]))
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(distances))
    assert float(slope) == pytest.approx(found.exponent, abs=1e-3)


CASES = {"uncentred": (1.234, -0.4), "at the prior": (0.0, -0.4), "at the optimum": (1.234, 1.234)}


@pytest.mark.parametrize("eta_ref", [0.0, 0.3])
@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", PROCESSES)
def test_gap_over_its_leading_term_tends_to_one(kind, case, eta, eta_ref):
    mean, c = CASES[case]
    target, reward = Gaussian(mean, 0.567), Quadratic(0.89, c)
    found = rate(target, PROCESSES[kind], reward, eta, eta_ref)
    assert_leads(found, lambda sigma: exact_gap(kind, target, reward, eta, sigma, eta_ref), kind)


@pytest.mark.parametrize("eta", [0.0, *ETAS])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", PROCESSES)
def test_error_over_its_leading_term_tends_to_one(kind, case, eta):
    mean, c = CASES[case]
    target, reward = Gaussian(mean, 0.567), Quadratic(0.89, c)
    found = rate(target, PROCESSES[kind], reward, eta, of="error")
    assert_leads(found, lambda sigma: exact_error(kind, target, reward, eta, sigma), kind)


@pytest.mark.parametrize("of", ["gap", "error"])
@pytest.mark.parametrize("eta", [0.5, 1.5])
@pytest.mark.parametrize("kind", PROCESSES)
def test_full_covariance_in_three_dimensions(kind, eta, of):
    target, reward = Gaussian(M3, V3), Quadratic(A3, C3, B3)
    found = rate(target, PROCESSES[kind], reward, eta, of=of)
    exact = exact_gap if of == "gap" else exact_error
    assert_leads(found, lambda sigma: exact(kind, target, reward, eta, sigma), kind)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("case", "exponent"), [("uncentred", -1), ("at the prior", -2), ("at the optimum", -2)])
def test_local_exponent_of_reward_gap_beyond_a_million_is_the_rate(case, exponent, eta):
    mean, c = CASES[case]
    T = np.array([1e6, 3e6])
    gap = reward_gap(Gaussian(mean, 0.567), VE(T), Quadratic(0.89, c), eta)
    slope = np.diff(np.log(np.abs(gap))) / np.diff(np.log(T))
    found = rate(Gaussian(mean, 0.567), VE, Quadratic(0.89, c), eta)
    assert found.exponent == exponent
    assert slope[0] == pytest.approx(exponent, abs=0.02)


@pytest.mark.parametrize("process", [VE(1e7), VP(17.0), FlowMatching(1 - 1e-7)])
def test_rate_equals_reward_gap_far_out(process):
    target, reward = Gaussian(M3, V3), Quadratic(A3, C3, B3)
    found = rate(target, process, reward, 1.5)
    x = process.alpha_bar(process.T) if found.variable == "alpha_bar_T" else process.sigma_T
    assert float(found(x)) == pytest.approx(float(reward_gap(target, process, reward, 1.5)), rel=1e-6)


@pytest.mark.parametrize(
    ("mean", "reward"),
    [
        (1.0, Linear(1.0)),
        (-2.3, Linear(0.7)),
        (math.sqrt(0.5), Quadratic(1.0, 0.0)),
        (math.sqrt(0.5), Quadratic(1.0, -3.0)),
    ],
)
def test_local_slope_of_the_ve_gap_at_eta_one_half_is_as_slow_as_the_theory_says(mean, reward):
    """For v = 0.5 and a reward without a curvature term: linear, or quadratic where m^2 = v."""
    said = {10: -0.73, 30: -0.84, 100: -0.90, 1e3: -0.951, 1e4: -0.975, 1e5: -0.986}
    for T, slope in said.items():
        around = T * np.array([0.9999, 1.0001])
        gap = np.abs(reward_gap(Gaussian(mean, 0.5), VE(around), reward, 0.5))
        half_a_digit = 0.005 if T <= 100 else 0.0005
        assert np.diff(np.log(gap))[0] / np.diff(np.log(around))[0] == pytest.approx(slope, abs=half_a_digit)


def test_a_curvature_term_makes_the_local_slope_slower_still_at_small_T():
    around = np.array([9.999, 10.001])
    gap = reward_gap(Gaussian(1.0, 0.5), VE(around), Quadratic(1.0, 0.0), 0.5)
    assert np.diff(np.log(gap))[0] / np.diff(np.log(around))[0] == pytest.approx(-0.701, abs=0.0005)


@pytest.mark.parametrize("row", s.rate_table(), ids=lambda row: f"{row.kind} {row.of} {row.case}")
def test_rate_agrees_with_the_symbolic_table(row):
    mean, c = {"uncentred": (1.234, -0.4), "m = m_pi": (0.0, -0.4), "m = c": (1.234, 1.234)}[row.case]
    values = {s.m: mean, s.m_pi: 0, s.c: c, s.v: 0.567, s.a: 0.89, s.eta: 1.3}
    found = rate(Gaussian(mean, 0.567), PROCESSES[row.kind], Quadratic(0.89, c), 1.3, of=row.of)
    assert (found.variable, found.of) == (row.variable, row.of)
    assert found.exponent == pytest.approx(float(row.exponent.subs(values)), rel=1e-14)
    assert found.constant == pytest.approx(float(row.constant.subs(values)), rel=1e-12)


WINDOWS = {
    "two windows": Windows([(0.1, 0.7, 1.5), (1.0, 4.0, 0.6)]),
    "down to 0": Windows([(0.0, 2.0, 1.0)]),
    "up to infinity": Windows([(0.5, math.inf, 1.2)]),
    "mixed": Windows([(0.2, 0.5, 2.0), (0.5, math.inf, 0.8)]),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("kind", PROCESSES)
def test_windows_multiply_the_constant(kind, name):
    target, reward = Gaussian(M3[:2], V3[:2, :2]), Quadratic(A3[:2, :2], C3[:2])
    found = rate(target, PROCESSES[kind], reward, WINDOWS[name])
    assert_leads(found, lambda sigma: exact_gap(kind, target, reward, WINDOWS[name], sigma), kind)
    own = rate(target, PROCESSES[kind], reward, WINDOWS[name], of="error")
    assert_leads(own, lambda sigma: exact_error(kind, target, reward, WINDOWS[name], sigma), kind)


def test_a_finite_window_scales_the_gap_of_a_linear_reward_by_one_less_its_factor():
    v, low, high, eta = 0.5, 0.3, 2.0, 1.2
    whole = rate(Gaussian(1.0, v), VE, Linear(1.0), eta)
    window = rate(Gaussian(1.0, v), VE, Linear(1.0), Windows([(low, high, eta)]))
    factor = ((v + low**2) / (v + high**2)) ** (eta**2 / 2)
    assert window.exponent == whole.exponent == -1
    assert window.constant == pytest.approx(whole.constant * (1 - factor), rel=1e-13)


def test_windows_that_cover_everything_equal_the_number():
    target, reward = Gaussian(M3, V3), Quadratic(A3, C3)
    everywhere = Windows([(0.0, 1.0, 1.3), (1.0, math.inf, 1.3)])
    for of in ("gap", "error"):
        assert rate(target, VP, reward, everywhere, of=of) == rate(target, VP, reward, 1.3, of=of)


IDENTICALLY_ZERO = {
    "VP from its own prior": (Gaussian(0.0, 1.0), VP, Quadratic(1.0, 0.3), 1.0, 0.0),
    "equal samplers": (Gaussian(1.0, 0.5), VE, Quadratic(1.0, 0.3), 0.7, 0.7),
    "equal samplers, one of them by windows": (
        Gaussian(1.0, 0.5),
        FlowMatching,
        Quadratic(1.0, 0.3),
        Windows([(0.0, math.inf, 0.7)]),
        0.7,
    ),
    "VE bracket": (Gaussian(1.1, 1.1**2), VE, Quadratic(1.0, 1.1), 1.0, 0.0),
    "VP bracket": (Gaussian(1.1, 1 + 1.1**2), VP, Quadratic(1.0, 1.1), 1.5, 0.0),
    "centre equal to the mean up to rounding": (Gaussian(0.3, 0.3**2), VE, Quadratic(1.0, 0.1 + 0.2), 1.0, 0.0),
    "equal samplers up to rounding": (Gaussian(1.0, 0.5), VE, Quadratic(1.0, 0.3), 2.0, 2.0 + 2e-15),
    "linear reward across the mean": (Gaussian([1.0, 1.0], 0.5), VE, Linear([2.0, -2.0]), 0.5, 0.0),
    "linear reward across the mean, full": (
        Gaussian(np.array([1.0, 2.0]), np.array([[0.6, 0.2], [0.2, 0.9]])),  # the mean is an eigenvector
        VE,
        Linear([2.0, -1.0]),
        0.5,
        0.0,
    ),
    "constant reward": (Gaussian(M3, V3), FlowMatching, Linear(0.0, 3.0), 1.0, 0.0),
}


@pytest.mark.parametrize("name", IDENTICALLY_ZERO)
def test_a_gap_that_vanishes_for_every_sigma_has_no_exponent(name):
    target, process, reward, eta, eta_ref = IDENTICALLY_ZERO[name]
    found = rate(target, process, reward, eta, eta_ref)
    assert (found.exponent, found.constant, found.next_exponent) == (None, 0.0, None)
    assert str(found) == f"gap = 0 for every {found.variable}"
    assert found([10.0, 1e3]).tolist() == [0.0, 0.0]
    kind = next(kind for kind, known in PROCESSES.items() if process is known)
    with mp.workdps(50):
        assert abs(exact_gap(kind, target, reward, eta, mp.mpf(7), eta_ref)) < 1e-15


def test_next_to_a_vanishing_gap_there_is_a_rate():
    assert rate(Gaussian(0.0, 1 + 1e-9), VP, Quadratic(1.0, 0.3)).exponent == 1
    assert rate(Gaussian(1.0, 0.5), VE, Quadratic(1.0, 0.3), 0.7, 0.7 + 1e-9).constant != 0


def cancelling(eta_ref=0.0):
    """Two directions whose leading slopes cancel at eta_ref: g' Sigma^((1 + eta_ref^2)/2) m = 0, each term not 0."""
    v = np.array([0.5, 2.0])
    return Gaussian([1.0, 1.0], v), np.array([1.0, -1.0]) * v ** (-(1 + eta_ref**2) / 2)


@pytest.mark.parametrize(("eta", "exponent"), [(0.5, -1.25), (0.9, -1.81), (1.5, -2.0)])
def test_centred_in_two_dimensions_the_exponent_depends_on_eta(eta, exponent):
    """What is left is the SDE's own T^-(1 + eta^2) for eta < 1, not T^-2."""
    target, slope = cancelling()
    reward = Quadratic(0.7, target.mean, slope)
    found = rate(target, VE, reward, eta)
    assert found.exponent == pytest.approx(exponent, abs=1e-14)
    assert_leads(found, lambda sigma: exact_gap("VE", target, reward, eta, sigma), "VE", ("1e3", "1e5"))


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_cancelled_sum_falls_to_the_next_order(kind):
    """Linear reward, eta_ref = 0, eta = 2: first slopes cancel, then 3 (VE, flow) or 3/2 (VP) leads."""
    target, slope = cancelling()
    found = rate(target, PROCESSES[kind], Linear(slope), 2.0)
    assert found.exponent == {"VE": -3, "VP": 1.5, "flow": -3}[kind]
    assert_leads(found, lambda sigma: exact_gap(kind, target, Linear(slope), 2.0, sigma), kind, ("1e3", "1e5"))


def test_cancellation_survives_a_rotation():
    target, slope = cancelling()
    turn = np.array([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]])
    turned = Gaussian(turn @ target.mean, turn @ np.diag(target.cov) @ turn.T)
    straight, rotated = rate(target, VE, Linear(slope), 2.0), rate(turned, VE, Linear(turn @ slope), 2.0)
    assert rotated.exponent == straight.exponent == -3
    assert rotated.constant == pytest.approx(straight.constant, rel=1e-12)


def test_a_cancelled_sum_over_pairs_falls_to_the_next_order():
    """At m = c and eta = 1, with v_1 a_11 (m_1^2 - v_1) + 2 v_2 a_12 m_1 m_2 = 0, the error is T^-6, not T^-4."""
    target = Gaussian([1.0, 1.0], [0.5, 2.0])
    reward = Quadratic(np.array([[1.0, -1 / 16], [-1 / 16, 0.0]]), target.mean)
    found = rate(target, VE, reward, 1.0, of="error")
    assert found.exponent == -6
    assert_leads(found, lambda sigma: exact_error("VE", target, reward, 1.0, sigma), "VE", ("1e3", "1e5"))


def test_exponents_equal_up_to_rounding_are_added():
    """Eta = sqrt(2): the SDE's slope, 1 + 2.0000000000000004, meets the ODE's second order, 3."""
    target, slope = cancelling()
    found = rate(target, VE, Linear(slope), math.sqrt(2))
    assert found.exponent == pytest.approx(-3, abs=1e-15)
    with mp.workdps(50):
        exact = exact_gap("VE", target, Linear(slope), math.sqrt(2), mp.mpf(10) ** 6)
    assert found.constant == pytest.approx(float(exact * 10**18), rel=1e-6)


def test_directions_that_only_a_rotation_mixes_are_not_taken_for_a_cancellation():
    target, reward = Gaussian(np.array([1.0, 0.0]), np.array([[1.0, 0.5], [0.5, 1.0]])), Linear([0.0, 1.0])
    found = rate(target, VE, reward, 0.5)
    assert_leads(found, lambda sigma: exact_gap("VE", target, reward, 0.5, sigma), "VE")


def test_a_centred_direction_does_not_hide_a_faint_one():
    target = Gaussian([0.3, 1.0], [0.5, 0.7])
    reward = Quadratic(np.diag([1.0, 1e-14]), [0.1 + 0.2, 0.0])  # the first is centred up to rounding
    found = rate(target, VE, reward, 1.5)
    assert (found.exponent, found.constant) == (-1, pytest.approx(2e-14 * math.sqrt(0.7), rel=1e-12))


def test_flow_adds_slope_and_excess_at_order_one():
    """Uncentred and deterministic, mean and variance errors are both 1/sigma_T; they can cancel, and the SDE leads."""
    target, eta = Gaussian(0.5, 0.25), 0.5
    reward = Quadratic(1.0, -0.5)  # (m - c) m sqrt(v) = v
    found = rate(target, FlowMatching, reward, eta)
    assert found.exponent == pytest.approx(-1.25)
    assert_leads(found, lambda sigma: exact_gap("flow", target, reward, eta, sigma), "flow")


def test_equal_exponents_of_reference_and_sampler_are_added():
    """Eta = 1: the SDE's slope and the ODE's curvature are both T^-2; here the ODE's slope cancels."""
    target, slope = cancelling()
    reward = Quadratic(0.7, target.mean, slope)
    found = rate(target, VE, reward, 1.0)
    assert found.exponent == -2
    assert_leads(found, lambda sigma: exact_gap("VE", target, reward, 1.0, sigma), "VE", ("1e3", "1e5"))


def test_directions_of_equal_variance_count_as_one():
    alone = rate(Gaussian([1.0, 1.0], [0.5, 0.5]), VE, Linear([1.0, 2.0]), 0.5)
    assert alone == rate(Gaussian([1.0, 1.0], 0.5), VE, Linear([1.0, 2.0]), 0.5)
    assert alone.constant == pytest.approx(-3 * math.sqrt(0.5), rel=1e-14)


@given(
    mean=st.floats(0.1, 3),
    v=st.floats(0.05, 20),
    c=st.floats(-3, 0),
    scale=st.floats(0.1, 10),
    eta=st.floats(0.3, 2.5),
    kind=st.sampled_from(["VE", "VP", "flow"]),
)
@settings(max_examples=25, deadline=None)
def test_exchanging_the_samplers_and_scaling_the_reward(mean, v, c, scale, eta, kind):
    target, process = Gaussian(mean, v), PROCESSES[kind]
    one = rate(target, process, Quadratic(1.0, c), eta, 0.1)
    assert rate(target, process, Quadratic(scale, c), eta, 0.1).constant == pytest.approx(
        scale * one.constant, rel=1e-12
    )
    back = rate(target, process, Quadratic(1.0, c), 0.1, eta)
    assert (back.exponent, back.constant) == (one.exponent, pytest.approx(-one.constant, rel=1e-14))


@given(mean=st.floats(0.1, 3), v=st.floats(0.05, 20), c=st.floats(-3, 0), unit=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_ve_constant_has_the_units_of_reward_times_a_power_of_length(mean, v, c, unit):
    one = rate(Gaussian(mean, v), VE, Quadratic(1.0, c), 1.4)
    other = rate(Gaussian(unit * mean, unit**2 * v), VE, Quadratic(1.0, unit * c), 1.4)
    assert other.exponent == one.exponent
    assert other.constant == pytest.approx(unit ** (2 - one.exponent) * one.constant, rel=1e-12)


def test_only_the_kind_of_the_process_matters():
    target, reward = Gaussian(1.0, 0.5), Quadratic(1.0, 0.3)
    assert rate(target, VE, reward) == rate(target, VE(3.0), reward) == rate(target, VE([1.0, 2.0]), reward)
    assert rate(target, VP, reward) == rate(target, VP(3.0, "linear"), reward)
    assert rate(target, FlowMatching, reward) == rate(target, FlowMatching(), reward)


def test_printed_form_and_value():
    found = rate(Gaussian(1.0, 0.5), VE, Quadratic(0.5, 0.3))
    assert str(found) == "gap ~ 0.495 T^-1"
    assert found([10.0, 100.0]) == pytest.approx(found.constant * np.array([0.1, 0.01]))
    assert str(rate(Gaussian(1.0, 0.5), VE, Quadratic(0.5, 0.3), 0.5, of="error")) == "error ~ 0.454 T^-1.25"
    assert str(rate(Gaussian(1.0, 0.5), VP, Quadratic(0.5, 0.3))) == "gap ~ 0.495 alpha_bar_T^0.5"
    assert isinstance(found, Rate)
    with pytest.raises(AttributeError):
        found.constant = 1.0


def test_large_dimension():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((200, 200))
    target = Gaussian(rng.standard_normal(200), root @ root.T / 200 + 0.1 * np.eye(200))
    reward = Quadratic(0.3, 0.1)
    found = rate(target, VE, reward, 2.0)
    assert float(found(1e8)) == pytest.approx(float(reward_gap(target, VE(1e8), reward, 2.0)), rel=1e-5)


G1, R1 = Gaussian(1.0, 0.5), Quadratic(1.0, 0.3)
MIXTURE = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.1], [0.1]])


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (TypeError, "Gaussian target, got GaussianMixture; fit_rate", lambda: rate(MIXTURE, VE, R1)),
        (TypeError, "process must be VE, VP or FlowMatching, the class or an instance", lambda: rate(G1, "VE", R1)),
        (TypeError, "Quadratic or Linear reward, got Bump", lambda: rate(G1, VE, Bump(0.0, 1.0))),
        (TypeError, "Quadratic or Linear reward", lambda: rate(G1, VE, np.sin)),
        (ValueError, r"one target, got batch shape \(3,\)", lambda: rate(Gaussian(np.ones((3, 1)), 0.5), VE, R1)),
        (ValueError, r"one eta, got an array of shape \(2,\)", lambda: rate(G1, VE, R1, [0.5, 1.0])),
        (ValueError, r"one eta_ref, got an array of shape \(2,\)", lambda: rate(G1, VE, R1, 1.0, [0.5, 1.0])),
        (ValueError, "eta must be 0 or more, got -1", lambda: rate(G1, VE, R1, -1.0)),
        (ValueError, "eta_ref must be 0 or more, got -1", lambda: rate(G1, VE, R1, 1.0, -1.0)),
        (TypeError, "eta must be a real number", lambda: rate(G1, VE, R1, "1")),
        (ValueError, "unknown of 'bias'; known: gap, error", lambda: rate(G1, VE, R1, of="bias")),
        (ValueError, "does not fit the dimension 1", lambda: rate(G1, VE, Linear([1.0, 2.0]))),
        (
            ValueError,
            r"constant of T\^-401 leaves the range of floats, at variances from 0.001 to 0.001; rescale",
            lambda: rate(Gaussian(1.0, 1e-3), VE, R1, 20.0, of="error"),
        ),
        (
            ValueError,
            "constant of T.* leaves the range of floats",
            lambda: rate(Gaussian(1.0, 1e3), VE, R1, 20.0, of="error"),
        ),
        (
            ValueError,
            "first 8 orders of the gap cancel to 1e-12",
            lambda: rate(Gaussian(np.ones(3), 1 + 1e-8 * np.arange(3)), VE, Linear([1.0, -2.0, 1.0])),
        ),
    ],
)
def test_bad_input_is_refused(error, match, call):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("eta", [0.5, 1.2])
@pytest.mark.parametrize("kind", PROCESSES)
def test_what_the_leading_term_leaves_has_the_next_exponent(kind, eta):
    target, reward = Gaussian(1.234, 0.567), Quadratic(0.89, -0.4)
    found = rate(target, PROCESSES[kind], reward, eta)
    with mp.workdps(50):
        root = mp.sqrt(0.567)
        mean, c, a = mp.mpf(1.234), mp.mpf(-0.4), mp.mpf(0.89)
        # the constant again, to 50 digits, so that what is left is not its rounding
        constant = 2 * a * (mean - c) * mean * root - (2 * a * root**2 if kind == "flow" else 0)
        assert found.constant == pytest.approx(float(constant), rel=1e-14)
        power = mp.mpf(found.exponent)
        left, x = [], [variable(kind, mp.mpf(sigma)) for sigma in ("1e14", "1e15")]
        for at in ("1e14", "1e15"):
            sigma = mp.mpf(at)
            left.append(exact_gap(kind, target, reward, eta, sigma) - constant * variable(kind, sigma) ** power)
        slope = mp.log(left[0] / left[1]) / mp.log(x[0] / x[1])
    assert float(slope) == pytest.approx(found.next_exponent, abs=0.02)
