"""Transfers: the weights against quadrature and sympy, what they restore exactly, and where they widen the gap."""

import math
import re
import warnings

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from strategies import ve, vp

import gapbound as gb
from gapbound.optimum import rl_optimum
from gapbound.optimum_line import line_optimum
from gapbound.transfer import transfer_correction, transfer_gap, transfer_pole, transfer_weight, transferred

RNG = np.random.default_rng(12)
ROOT, TWIST = RNG.standard_normal((2, 3, 3))
SPD, HILL = ROOT @ ROOT.T + 0.3 * np.eye(3), TWIST @ TWIST.T
MEAN, C, B = np.array([0.3, -1.0, 0.5]), np.array([1.0, 0.0, 0.5]), np.array([0.3, 0.1, -0.2])
REFERENCES = {
    "d=1": gb.Gaussian(0.4, 0.8),
    "diagonal": gb.Gaussian(MEAN, [0.2, 1.0, 3.0]),
    "full": gb.Gaussian(MEAN, SPD),
}
EVERYWHERE = gb.Windows([(0.0, 0.5, 0.7), (0.5, math.inf, 1.2)])
BETA = 2.3


def same(law, other, tolerance=1e-10):
    np.testing.assert_allclose(law.mean, other.mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(law.matrix, other.matrix, rtol=tolerance, atol=tolerance)


def restored(optimum, **options):
    """For the tilted target's sake, also where the gap to the trained SDE widens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gb.TransferWarning)
        return transferred(optimum, **options)


def drawn(model, process, eta=None):
    """By the ODE on ``model``; cut where windows of its training end."""
    return gb.terminal_law(model, process, 0.0 if eta is None else eta)


def test_the_backward_equation_the_weight_and_the_affine_form_hold_symbolically():
    """d = 1, every eta, S, tau: log h solves its equation; w and (W, o) turn the control of eta into that of 1."""
    v, tau, eta, h, g, y, lam = sp.symbols("v tau eta h g y lambda", positive=True)

    def phi_c(e):
        q = (v / (v + tau)) ** (e**2)
        return sp.sqrt(v / (v + tau)) * sp.sqrt(q), v * (1 - q)

    def log_h(e):
        phi, left = phi_c(e)
        return -sp.log(1 + h * left) / 2 + (g**2 * left / 2 + g * phi * y - h * phi**2 * y**2 / 2) / (1 + h * left)

    V = log_h(eta)
    score = -y / (v + tau)
    equation = sp.diff(V, tau) - (1 + eta**2) / 2 * score * sp.diff(V, y)
    equation -= eta**2 / 2 * (sp.diff(V, y, 2) + sp.diff(V, y) ** 2)
    assert sp.simplify(equation) == 0
    assert sp.simplify(V.subs(tau, 0) - (g * y - h * y**2 / 2)) == 0
    one, own = sp.diff(log_h(1), y), sp.diff(log_h(eta), y)
    k = 2 * eta**2 / (1 + eta**2)
    w = (1 + eta**2) / (2 * eta**2) * ((v + tau) / v) ** ((eta**2 - 1) / 2)
    assert sp.simplify((w * k * own - one).subs(h, 0)) == 0  # linear rewards
    (phi_1, left_1), (phi, left) = phi_c(1), phi_c(eta)
    X = phi_1 / phi
    W = phi_1 / (1 + h * left_1) * X * (1 + h * left) / phi / k
    o = phi_1 / (1 + h * left_1) * (1 - X) * g
    assert sp.simplify(W * k * own + o - one) == 0
    scalar = sp.simplify(one / (k * own))
    assert sp.diff(scalar, y).subs({v: 1, tau: 2, eta: 2, h: 1, g: 1, y: sp.Rational(1, 3)}).evalf() != 0
    pole = g / (h * phi)
    assert sp.simplify(own.subs(y, pole)) == 0
    assert lam.is_positive


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.7, EVERYWHERE], ids=str)
def test_the_weight_is_the_ratio_of_two_gradients_by_quadrature(eta):
    v, b, beta = 0.8, 0.7, 1.1

    def gradient(sigma, profile):
        """d/dz log E exp(b Y / beta) by quadrature over Y_0 given z, whose mean moves as phi z."""
        decay = quad(lambda tau: float(profile(math.sqrt(tau))) ** 2 / (v + tau), 0, sigma**2, epsabs=1e-13, limit=300,
                     points=[0.25] if sigma > 0.5 else None)[0]  # fmt: skip
        phi, sd = math.sqrt(v / (v + sigma**2)) * math.exp(-decay / 2), math.sqrt(v * -math.expm1(-decay))

        def log_h(z):
            f = lambda u: math.exp(b * (phi * z + sd * u) / beta - u * u / 2)  # noqa: E731
            return math.log(quad(f, -12, 12, epsrel=1e-12)[0])

        return (log_h(1e-3) - log_h(-1e-3)) / 2e-3

    profile = eta if isinstance(eta, gb.Windows) else lambda sigma: eta
    for sigma in (0.3, 1.0, 6.0):
        own = float(profile(sigma))
        ratio = gradient(sigma, lambda s: 1.0) / gradient(sigma, profile)
        expected = (1 + own**2) / (2 * own**2) * ratio
        assert transfer_weight(v, sigma, eta) == pytest.approx(expected, rel=1e-6)
        if not isinstance(eta, gb.Windows):
            closed = (1 + eta**2) / (2 * eta**2) * ((v + sigma**2) / v) ** ((eta**2 - 1) / 2)
            assert transfer_weight(v, sigma, eta) == pytest.approx(closed, rel=1e-12)


def test_the_matrix_is_the_formula_of_the_covariance_and_shapes_follow_the_reference():
    eta, sigma = 1.5, 0.9
    matrix = transfer_weight(REFERENCES["full"], sigma, eta)
    inside = (SPD + sigma**2 * np.eye(3)) @ np.linalg.inv(SPD)
    values, vectors = np.linalg.eig(inside)
    power = (vectors * values ** ((eta**2 - 1) / 2)) @ np.linalg.inv(vectors)
    np.testing.assert_allclose(matrix, (1 + eta**2) / (2 * eta**2) * power, rtol=1e-11)
    per_coordinate = transfer_weight(REFERENCES["diagonal"], sigma, eta)
    np.testing.assert_allclose(per_coordinate, transfer_weight(np.array([0.2, 1.0, 3.0]), sigma, eta), rtol=1e-13)
    assert transfer_weight(1.0, np.linspace(0, 3, 7), eta).shape == (7,)
    assert transfer_weight(REFERENCES["full"], np.ones((4, 2)), eta).shape == (4, 2, 3, 3)
    assert transfer_weight(0.5, 1.0, [0.5, 1.0, 2.0]).shape == (3,)
    np.testing.assert_array_equal(transfer_weight(0.5, np.array([0.0, 3.0, 1e90]), 1.0), 1.0)
    np.testing.assert_allclose(transfer_weight(0.5, 0.0, EVERYWHERE), (1 + 0.49) / (2 * 0.49))  # the foot of a window


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.6, 2.0, EVERYWHERE], ids=str)
@pytest.mark.parametrize("name", list(REFERENCES))
def test_for_linear_rewards_the_weight_makes_the_ode_draw_what_it_would_from_the_tilted_law(name, eta):
    reference = REFERENCES[name]
    reward = gb.Linear(B if reference.dim == 3 else 0.7)
    for process in (ve(3.0), vp(50.0)):
        optimum, tilted = rl_optimum(reference, reward, BETA, process, eta), gb.tilt(reference, reward, BETA)
        aim = gb.terminal_law(tilted, process, 0.0)
        same(drawn(restored(optimum), process), aim)
        same(drawn(restored(optimum, affine=True), process), aim)
        correction = transfer_correction(optimum, 1.3)
        assert not correction.offset.any()
        np.testing.assert_allclose(correction.gain, transfer_weight(reference, 1.3, eta), rtol=1e-12, atol=1e-14)
        if not isinstance(eta, gb.Windows) and eta != 1.0:
            assert drawn(optimum, process).w2(aim) > 1e-3


@pytest.mark.parametrize("eta", [0.5, 1.6, 2.0, EVERYWHERE], ids=str)
@pytest.mark.parametrize(
    "reward",
    [
        gb.Quadratic(0.7, 0.3, -0.4),
        gb.Quadratic(-0.08, 0.3),
        gb.Quadratic(HILL + np.eye(3), C, B),
        gb.Quadratic(HILL - np.eye(3) / 4, C),
    ],
    ids=["number", "convex", "twisted", "indefinite"],
)
def test_for_quadratic_rewards_gain_and_offset_do_and_no_weight_does(reward, eta):
    for name, reference in REFERENCES.items():
        if reward.dim in (None, reference.dim):
            for process in (ve(3.0), vp(50.0)):
                optimum, tilted = rl_optimum(reference, reward, BETA, process, eta), gb.tilt(reference, reward, BETA)
                aim = gb.terminal_law(tilted, process, 0.0)
                same(drawn(restored(optimum, affine=True), process), aim, 1e-9)
                assert drawn(restored(optimum), process).w2(aim) > 3e-4, name


def test_singular_rewards_transfer_along_common_axes_and_are_refused_otherwise():
    process, flat = ve(3.0), np.diag([0.6, 0.0, 0.3])
    optimum = rl_optimum(REFERENCES["diagonal"], gb.Quadratic(flat, C, B), BETA, process, 0.6)
    aim = gb.terminal_law(gb.tilt(REFERENCES["diagonal"], gb.Quadratic(flat, C, B), BETA), process, 0.0)
    same(drawn(restored(optimum, affine=True), process), aim)
    optimum = rl_optimum(REFERENCES["full"], gb.Quadratic(flat, C, B), BETA, process, 0.6)
    with pytest.raises(ValueError, match="A is singular and does not share the principal axes"):
        transfer_correction(optimum, 1.0)


def test_a_transfer_to_an_optimum_that_does_not_exist_is_refused():
    optimum = rl_optimum(gb.Gaussian(0.0, 1.5), gb.Quadratic(-0.4, 0.2), 0.9, ve(3.0), 0.5)
    assert transfer_correction(optimum, 1.0).gain > 0
    with pytest.raises(ValueError, match=r"at eta=1 E\[.* is infinite from sigma=3: there is no optimum of eta=1"):
        transfer_correction(optimum, 3.0)


def test_the_correction_makes_the_score_that_of_the_tilted_law_at_every_point():
    z = RNG.standard_normal((20, 3)) * 2
    reward = gb.Quadratic(HILL + np.eye(3), C, B)
    for reference in (REFERENCES["diagonal"], REFERENCES["full"]):
        optimum, tilted = rl_optimum(reference, reward, BETA, ve(9.0), 1.4), gb.tilt(reference, reward, BETA)
        for sigma in (0.2, 1.0, 7.0):
            correction = transfer_correction(optimum, sigma)
            learnt = optimum.score(z, sigma) - reference.score(z, sigma)
            corrected = reference.score(z, sigma) + learnt @ correction.gain.T + correction.offset
            np.testing.assert_allclose(corrected, tilted.score(z, sigma), rtol=1e-8, atol=1e-9)


def test_the_scalar_that_a_quadratic_reward_would_need_has_a_pole_where_the_learnt_part_vanishes():
    reference, reward, sigma = gb.Gaussian(0.4, 0.8), gb.Quadratic(0.7, 1.0), 1.3
    optimum, tilted = rl_optimum(reference, reward, 1.1, ve(5.0), 1.6), gb.tilt(reference, reward, 1.1)
    pole = float(transfer_pole(optimum, sigma))

    def needed(z):
        plain = reference.score(np.array([z]), sigma)
        return float(((tilted.score(np.array([z]), sigma) - plain) / (optimum.score(np.array([z]), sigma) - plain))[0])

    assert abs(float((optimum.score(np.array([pole]), sigma) - reference.score(np.array([pole]), sigma))[0])) < 1e-13
    below, above = [[needed(pole + side * 10.0**-k) for k in (2, 3, 4)] for side in (-1, 1)]
    for values in (below, above):
        assert np.abs(values[1]) == pytest.approx(10 * np.abs(values[0]), rel=0.2)
        assert np.abs(values[2]) == pytest.approx(10 * np.abs(values[1]), rel=0.05)
    assert below[2] * above[2] < 0
    at = transfer_pole(optimum, np.array([0.0, 1.0, 4.0]))
    assert at.shape == (3,)
    assert at[0] == pytest.approx(1.0)  # where r is largest
    assert abs(at[0] - 0.4) < math.sqrt(0.8)  # among the samples
    with pytest.raises(ValueError, match="a pole needs d = 1 and a quadratic reward"):
        transfer_pole(rl_optimum(reference, gb.Linear(1.0), 1.1, ve(5.0), 1.6), 1.0)
    with pytest.raises(ValueError, match="a pole needs d = 1"):
        transfer_pole(rl_optimum(REFERENCES["full"], gb.Quadratic(1.0, 0.0), 1.1, ve(5.0), 1.6), 1.0)


def closed(reference, reward, process, eta, **options):
    """Share of the gap to the trained sampler that a transfer closes, 1 being all of it."""
    found = transfer_gap(rl_optimum(reference, reward, 1.0, process, eta), **options)
    return float(1 - found.after / found.before)


def edges(eta):
    """Between which r = rho^(eta^2 / 2) the weight widens the gap: see ``gapbound.reuse``."""
    n = eta**-2.0
    f = lambda r: (1 - r**n) / (1 - r)  # noqa: E731
    first = brentq(lambda r: f(r) - 2 * n / (n + 1), 1e-300, 1 - 1e-7, xtol=1e-15)
    if not 1 < n < (1 + math.sqrt(17)) / 2:
        return first, 1.0
    return first, brentq(lambda r: f(r) - 2 * r - 2 / (n + 1), 1e-300, 1 - 1e-7, xtol=1e-15)


@given(
    eta=st.floats(0.2, 3.0).filter(lambda eta: abs(eta - 1) > 0.02),
    length=st.floats(0.1, 25.0),
    v=st.floats(0.01, 100.0),
    slope=st.sampled_from([-3.0, 0.2, 40.0]),
)
def test_the_weight_widens_the_gap_exactly_between_two_roots(eta, length, v, slope):
    """Laws by quadrature of the library on one side, roots of two functions of r on the other."""
    process = vp(math.sqrt(v * math.expm1(length)))
    found = transfer_gap(rl_optimum(gb.Gaussian(0.0, v), gb.Linear(slope), 1.7, process, eta))
    low, high = sorted(edges(eta))
    r = math.exp(-(eta**2) * length / 2)
    if min(abs(r - low), abs(r - high), abs(r - 1)) > 1e-5 and r > 1e-6:
        assert bool(found.widens) == (low < r < high)
    unit = slope**2 * v / 1.7
    assert found.before / unit == pytest.approx((1 - r) * (2 / (1 + eta**2) - 1 - r), abs=1e-9)
    assert found.after / unit == pytest.approx(math.exp(-(eta**2) * length) - math.exp(-length / 2), abs=1e-9)
    assert found.after_target / unit == pytest.approx(0, abs=1e-9)


def test_both_references_are_those_of_other_routes_for_quadratic_rewards_too():
    reference, reward = REFERENCES["full"], gb.Quadratic(HILL + np.eye(3), C, B)
    for process, eta in ((ve(3.0), 0.4), (vp(50.0), 1.6), (vp(50.0), EVERYWHERE)):
        optimum = rl_optimum(reference, reward, BETA, process, eta)
        found = transfer_gap(optimum, affine=True)
        trained = float(reward.expectation(gb.terminal_law(optimum, process, eta)))
        plain = float(reward.expectation(gb.terminal_law(optimum, process, 0.0)))
        tilted = float(reward.expectation(gb.terminal_law(gb.tilt(reference, reward, BETA), process, 0.0)))
        assert found.before == pytest.approx(plain - trained, rel=1e-8)
        assert found.after == pytest.approx(tilted - trained, rel=1e-7)
        assert found.before_target == pytest.approx(plain - tilted, rel=1e-8)
        assert found.after_target == pytest.approx(0, abs=1e-8)
        assert found.widens == (abs(tilted - trained) > abs(plain - trained))
    assert transfer_gap(rl_optimum(reference, reward, BETA, ve(3.0), 0.4), affine=True).widens  # and not always
    assert not transfer_gap(rl_optimum(reference, reward, BETA, vp(50.0), 1.6), affine=True).widens


def test_a_warning_says_where_the_gap_widens_and_by_how_much():
    process, reference, reward = gb.VP.stable_diffusion(), gb.Gaussian(0.0, 0.5), gb.Linear(1.0)
    with pytest.warns(gb.TransferWarning, match=r"eta=0\.3 from sigma_T=14\.6146: .*\+0\.008774 without and \+0\.2657"):
        transferred(rl_optimum(reference, reward, 1.0, process, 0.3))
    batch = rl_optimum(reference, reward, 1.0, process, np.array([0.3, 0.5, 0.7, 1.0, 1.5]))
    with pytest.warns(gb.TransferWarning, match=r"eta=0\.3 .*in 2 of 5 cases of the batch, at the worst"):
        transferred(batch)
    with pytest.warns(gb.TransferWarning, match="trained at its windows from sigma_T=3"):
        transferred(rl_optimum(reference, reward, 1.0, ve(3.0), gb.Windows([(0.0, 1.0, 0.3), (1.0, 9.0, 0.4)])))
    found = transfer_gap(batch)
    assert found.widens.tolist() == [True, True, False, False, False]
    assert (found.before.shape, found.target.shape) == ((5,), (5,))
    assert str(found).endswith("the correction widens the gap to the trained SDE")
    for eta in (0.7, 1.0, 1.5):  # elsewhere not a word: warnings are errors here
        transferred(rl_optimum(reference, reward, 1.0, process, eta))
    for eta in (0.4, 1.0, 1.5):  # nor where the start is forgotten
        transferred(rl_optimum(reference, reward, 1.0, gb.FlowMatching(1.0), eta))


def test_many_interacting_dimensions_are_not_checked():
    """There the laws would take longer than the correction; ``transfer_gap`` still computes them when asked to."""
    root = np.random.default_rng(3).standard_normal((33, 33))
    reference = gb.Gaussian(np.zeros(33), root @ root.T / 33 + 0.1 * np.eye(33))
    reward = gb.Quadratic(np.diag(np.linspace(0.1, 1.0, 33)), np.ones(33))
    transferred(rl_optimum(reference, reward, 1.0, ve(2.0), 0.3), affine=True)


def test_without_a_tilted_target_there_is_no_second_reference():
    optimum = rl_optimum(gb.Gaussian(0.0, 1.5), gb.Quadratic(-0.4, 0.2), 0.9, ve(3.0), 0.3)
    with pytest.raises(ValueError, match="the tilted law cannot be normalised"):
        transfer_gap(optimum)


def test_all_of_the_gap_closes_as_sigma_T_grows_and_what_is_left_is_the_start():
    reference, reward = gb.Gaussian(0.0, 0.5), gb.Linear(1.0)
    for eta in (0.5, 1.5, 2.0):
        left = [1 - closed(reference, reward, vp(sigma), eta) for sigma in (10.0, 100.0, 1000.0)]
        assert abs(left[2]) < 0.1 * abs(left[0])
    assert abs(1 - closed(reference, reward, vp(1e6), 1.5)) < 1e-5


MISJUDGED = [(0.5, 2, 0.65), (0.5, 0.5, 1.32), (1.5, 2, 0.41), (1.5, 0.5, 1.96), (2.0, 2, 0.26), (2.0, 0.5, 2.96)]


@pytest.mark.parametrize(("eta", "factor", "share"), MISJUDGED)
def test_a_variance_misjudged_by_a_factor_2_leaves_a_third_to_twice_of_the_gap(eta, factor, share):
    """The ODE's shift by its own integral: int (eta^2 / (1 + eta^2)) w_guess phi Psi dtau, in units of the aim."""
    v, process = 0.5, vp(1e5)
    found = closed(gb.Gaussian(0.0, v), gb.Linear(1.0), process, eta, variance=factor * v)
    top = float(process.sigma_T) ** 2

    def integrand(s):
        tau = math.expm1(s)
        phi = (v / (v + tau)) ** ((1 + eta**2) / 2)
        w = (1 + eta**2) / (2 * eta**2) * (1 + tau / (factor * v)) ** ((eta**2 - 1) / 2)
        return eta**2 / (1 + eta**2) * w * phi * math.sqrt(v / (v + tau)) * (1 + tau)

    ode = quad(integrand, 0, math.log1p(top), epsabs=1e-12, limit=400)[0]
    sde = v * (1 - (v / (v + top)) ** (eta**2))
    plain = v * 2 / (1 + eta**2) * (1 - (v / (v + top)) ** (eta**2 / 2))
    assert found == pytest.approx(1 - (ode - sde) / (plain - sde), abs=1e-6)
    assert found == pytest.approx(share, abs=0.01)


def test_above_eta_1_the_weight_grows_without_bound_and_below_it_vanishes():
    sigmas = np.array([1e2, 1e3])
    for eta in (0.5, 1.5, 2.0):
        weights = transfer_weight(0.5, sigmas, eta)
        assert math.log10(weights[1] / weights[0]) == pytest.approx(eta**2 - 1, abs=1e-3)
    assert transfer_weight(0.5, 1e3, 2.0) > 1e9


def test_a_cap_costs_what_it_cuts_off_and_guards_against_errors_at_high_noise():
    reference, reward, process, eta = gb.Gaussian(0.0, 0.5), gb.Linear(1.0), vp(1e3), 1.5
    caps = (1.0, 2.0, 5.0, 20.0, 1e3, 1e12)
    shares = [closed(reference, reward, process, eta, cap=cap) for cap in caps]
    assert (np.diff(shares) >= 0).all()
    assert shares[0] < 0 < 0.3 < shares[1] < 0.7 < 0.89 < shares[3] < shares[5]
    assert shares[5] == closed(reference, reward, process, eta)
    assert transfer_weight(0.5, 1e3, eta, cap=7.0) == 7.0
    # an error of the learnt score, by which it is off by a thousandth of 1 / sigma at every noise level, is multiplied

    def carried(cap):
        """What that error adds to a sample."""

        def integrand(s):
            sigma = math.sqrt(math.expm1(s))
            w = float(transfer_weight(0.5, sigma, eta, cap))
            return w * 1e-3 / max(sigma, 1e-9) / 2 * math.sqrt(0.5 / (0.5 + sigma**2)) * (1 + sigma**2)

        return quad(integrand, 1e-9, math.log1p(1e6), epsabs=1e-12, limit=400)[0]

    assert carried(None) > 50 * carried(5.0)


MIXED = [(1000.0, gb.Linear(0.8), 1.5, 0.81), (1000.0, gb.Linear(0.8), 0.5, 0.45), (50.0, gb.Linear(0.8), 0.5, -0.73),
         (50.0, gb.Quadratic(0.5, 1.0), 1.5, 0.15)]  # fmt: skip


@pytest.mark.parametrize(("sigma_T", "reward", "eta", "share"), MIXED)
def test_on_a_mixture_the_weight_of_the_total_variance_closes_a_part(sigma_T, reward, eta, share):
    """Most of it for a linear reward from far; little for a quadratic one; and at small eta not the start's bias."""
    mixture = gb.GaussianMixture([0.4, 0.6], [-1.5, 1.5], [0.3, 0.5])
    total, inner = float(mixture.cov[0]), 0.42
    weights = [1.0, *((lambda sigma, v=v: float(transfer_weight(v, sigma, eta))) for v in (total, inner))]
    found = line_optimum(mixture, reward, 1.0, vp(sigma_T), eta, [reward], weights)
    plain, by_total, by_inner = (ode[0].value - found.sde[0].value for ode in found.ode)
    assert 1 - by_total / plain == pytest.approx(share, abs=0.02)
    if share > 0 and isinstance(reward, gb.Linear):
        assert abs(by_inner) > 0.9 * abs(plain)  # the variance of one mode is the wrong scale
    if share < 0:
        short = float(reward.expectation(gb.tilt(mixture, reward, 1.0))) - found.sde[0].value
        assert short > 0.9 * plain  # what was trained is further from its aim than the ODE from it


def test_eta_0_is_refused_wherever_it_is():
    with pytest.raises(ValueError, match="eta is 0 at sigma=1: nothing was learnt there"):
        transfer_weight(1.0, 1.0, 0.0)
    window = gb.Windows([(0.5, 2.0, 1.3)])
    assert transfer_weight(1.0, np.array([0.6, 2.0]), window).shape == (2,)
    for sigma in (0.0, 0.5, 2.01):
        with pytest.raises(ValueError, match=f"eta is 0 at sigma={sigma:g}"):
            transfer_weight(1.0, np.array([1.0, sigma]), window)
    optimum = rl_optimum(gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 1.0, ve(3.0), window)
    with pytest.raises(ValueError, match="eta is 0 at sigma"):
        gb.terminal_law(transferred(optimum), ve(3.0), 0.0)
    for function in (transfer_correction, transfer_pole):
        quadratic = rl_optimum(gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 1.0, ve(3.0), window)
        with pytest.raises(ValueError, match=r"eta is 0 at sigma=2\.5"):
            function(quadratic, 2.5)
    with pytest.raises(ValueError, match="eta is 0 at sigma=0"):
        transferred(rl_optimum(gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 1.0, ve(3.0), 0.0))


def test_simulation_and_chains_take_the_corrected_score():
    process = ve(3.0)
    for reward, affine in ((gb.Linear(B), False), (gb.Quadratic(HILL + np.eye(3), C, B), True)):
        optimum = rl_optimum(REFERENCES["full"], reward, BETA, process, 1.4)
        model = restored(optimum, affine=affine)
        law = gb.discrete_law(model, process, "heun", 0.0, 400)
        aim = gb.terminal_law(gb.tilt(REFERENCES["full"], reward, BETA), process, 0.0)
        assert law.w2(aim) < 1e-3
        run = gb.simulate(model, process, "heun", 0.0, 50, n=20_000, seed=1)
        own = gb.discrete_law(model, process, "heun", 0.0, 50)
        z = run.samples.numpy()
        assert (np.abs(z.mean(0) - own.mean) < 4 * np.sqrt(own.variances / len(z))).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transfer_weight(-1.0, 1.0, 1.0), ValueError, "reference must be positive, got -1.0"),
        (lambda: transfer_weight(1.0, -1.0, 1.0), ValueError, "sigma must lie in [0, 1e+100], got -1"),
        (lambda: transfer_weight(1.0, 1e101, 1.5), ValueError, "sigma must lie in [0, 1e+100]"),
        (lambda: transfer_weight(1.0, math.inf, 1.5), ValueError, "sigma must be finite"),
        (lambda: transfer_weight(1.0, 1e60, 3.0), ValueError, "the weight overflows at sigma=1e+60"),
        (lambda: transfer_weight(1.0, 1.0, 1.0, cap=0.0), ValueError, "cap must be positive, got 0.0"),
        (lambda: transfer_weight(1.0, 1.0, 1.0, cap=[1.0, 2.0]), ValueError, "one number is needed"),
        (lambda: transfer_weight("v", 1.0, 1.0), TypeError, "reference must be a real number"),
        (lambda: transfer_weight([1.0, 2.0], np.ones(3), 1.0), ValueError, "sigma, eta and the variances do not broad"),
        (lambda: transferred(gb.Gaussian(0.0, 1.0)), TypeError, "optimum must come from rl_optimum, got Gaussian"),
        (lambda: transfer_gap(gb.Gaussian(0.0, 1.0)), TypeError, "optimum must come from rl_optimum, got Gaussian"),
        (lambda: transfer_gap(_optimum(), variance=-1.0), ValueError, "variance must be positive"),
        (lambda: transfer_correction(gb.Gaussian(0.0, 1.0), 1.0), TypeError, "optimum must come from rl_optimum"),
        (lambda: transfer_pole(3.0, 1.0), TypeError, "optimum must come from rl_optimum, got float"),
        (lambda: transferred(_optimum(), variance=0.0), ValueError, "variance must be positive"),
        (lambda: transferred(_optimum(), variance=[1.0, 2.0]), ValueError, "one number is needed"),
        (lambda: transferred(_optimum(), cap=1.0, affine=True), ValueError, "affine=True has no guessed variance"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def _optimum():
    return rl_optimum(gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 1.0, ve(3.0), 1.5)
