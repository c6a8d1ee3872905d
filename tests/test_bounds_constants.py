"""The constants behind the bounds by a second route: quadrature, an eigenvalue solver, closed forms, simulation."""

import math

import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import eigh_tridiagonal
from scipy.special import ndtr
from scipy.stats import norm
from strategies import FAMILIES

import gapbound as gb
from gapbound.bounds import constants
from gapbound.bounds import mismatch as divergences
from gapbound.bounds.constants import Decay, poincare
from gapbound.bounds.line import Line, mismatch, signed_measure, w2
from gapbound.bounds.lipschitz import enclosing_radius, log_sobolev, profile
from gapbound.bounds.problem import problem
from gapbound.bounds.spread import gradient_energy, variance
from gapbound.bounds.value import Constant
from gapbound.reward import CallableReward

THREE_MODES = gb.GaussianMixture([0.2, 0.5, 0.3], [-1.5, 0.3, 2.0], [0.1, 0.3, 0.2])


def ask(target, process=None, eta=1.0):
    return problem(target, gb.VE(5.0) if process is None else process, gb.Linear(1.0), eta)


def density(target, sigma):
    law = target.noised(sigma)
    return lambda z: math.exp(float(law.log_prob(np.array([z]))))


FAINT = gb.GaussianMixture([0.03, 0.57, 0.4], [2.8, -0.7, -2.0], [0.2, 0.1, 1.9])  # one component carries little


@pytest.mark.parametrize("target", [THREE_MODES, FAINT], ids=["three modes", "a faint one"])
@pytest.mark.parametrize("family", FAMILIES)
def test_divergences_on_the_line_equal_plain_quadrature(family, target):
    process = FAMILIES[family](4.0)
    question = ask(target, process)
    q, s = density(target, 4.0), question.prior_sd
    pi = norm(0, s).pdf
    span = {"limit": 400, "epsabs": 1e-12}
    chi2 = quad(lambda z: (pi(z) - q(z)) ** 2 / q(z), -9 * s, 9 * s, **span)[0]
    kl = quad(lambda z: pi(z) * math.log(pi(z) / q(z)), -9 * s, 9 * s, **span)[0]
    tv = quad(lambda z: abs(pi(z) - q(z)) / 2, -9 * s, 9 * s, **span)[0]
    assert divergences.chi2(question).value == pytest.approx(chi2, rel=1e-8)
    assert divergences.kl(question).value == pytest.approx(kl, rel=1e-8)
    assert divergences.tv(question).value == pytest.approx(tv, rel=1e-6)

    def slope(z, h=1e-4):
        return (pi(z + h) / q(z + h) - pi(z - h) / q(z - h)) / (2 * h)

    information = quad(lambda z: q(z) * slope(z) ** 2, -11 * s, 11 * s, **span)[0]
    assert divergences.fisher(question).value == pytest.approx(s**2 * information, rel=1e-5)
    points, weights = signed_measure(divergences.as_line(question), 26)
    assert weights.sum() == pytest.approx(0, abs=1e-13)
    mean = float(target.weights @ target.components.mean[:, 0])
    assert s * (weights * points).sum() == pytest.approx(-mean, abs=1e-12)


@pytest.mark.parametrize("sigma_T", [0.9, 3.0, 1e3, 1e9])
def test_divergences_on_the_line_equal_the_closed_forms_for_one_gaussian(sigma_T):
    question = ask(gb.Gaussian(0.7, 0.5), FAMILIES["VP"](sigma_T))
    line = Line(np.array([0.4, 0.6]), np.full(2, 0.7) / question.prior_sd, np.full(2, -0.5 / question.prior_sd**2))
    found = mismatch(line)
    assert math.exp(found.log_chi2) == pytest.approx(divergences.chi2(question).value, rel=1e-9)
    assert found.kl == pytest.approx(divergences.kl(question).value, rel=1e-9)
    assert math.exp(found.log_fisher) == pytest.approx(divergences.fisher(question).value, rel=1e-9)
    if sigma_T < 1e4:
        assert w2(line)[0] * question.prior_sd == pytest.approx(divergences.wasserstein(question).value, rel=1e-4)


def test_closed_forms_equal_those_of_the_gaussian_itself():
    target = gb.Gaussian([0.7, -0.4], [[0.5, 0.2], [0.2, 1.1]])
    question = problem(target, FAMILIES["VP"](2.0), gb.Linear([1.0, 0.0]), 1.0)
    prior, q = gb.Gaussian([0.0, 0.0], question.prior_sd**2), target.noised(2.0)
    assert divergences.chi2(question).value == pytest.approx(float(prior.chi2(q)), rel=1e-12)
    assert divergences.kl(question).value == pytest.approx(float(prior.kl(q)), rel=1e-12)
    assert divergences.wasserstein(question).value == pytest.approx(float(prior.w2(q)), rel=1e-12)


def test_fisher_information_equals_simulation_in_the_plane():
    target = gb.Gaussian([0.7, -0.4], [[0.5, 0.2], [0.2, 1.1]])
    question = problem(target, FAMILIES["VP"](2.0), gb.Linear([1.0, 0.0]), 1.0)
    prior, q = gb.Gaussian([0.0, 0.0], question.prior_sd**2), target.noised(2.0)
    z = q.sample(400_000, seed=1)
    ratio = np.exp(prior.log_prob(z) - q.log_prob(z))
    draws = ratio**2 * ((prior.score(z) - q.score(z)) ** 2).sum(-1) * question.prior_sd**2
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - divergences.fisher(question).value) < 4 * error


def test_total_variation_between_gaussians_on_the_line_comes_from_the_crossing_points():
    question = ask(gb.Gaussian(0.7, 0.5), gb.VE(1.2))
    a, b, m = 1.2, math.sqrt(0.5 + 1.44), 0.7
    low, high = np.sort(np.roots([1 / b**2 - 1 / a**2, -2 * m / b**2, m**2 / b**2 + 2 * math.log(b / a)]).real)
    exact = (ndtr(high / a) - ndtr(low / a)) - (ndtr((high - m) / b) - ndtr((low - m) / b))
    assert divergences.tv(question).value == pytest.approx(exact, rel=1e-10)


def test_chi_square_of_a_mixture_keeps_its_digits_at_large_sigma_T():
    question = ask(THREE_MODES, gb.VE(1e7))
    with mp.workdps(60):
        w, m, v = (
            [mp.mpf(float(x)) for x in part] for part in (THREE_MODES.weights, [-1.5, 0.3, 2.0], [0.1, 0.3, 0.2])
        )
        s = mp.mpf(10) ** 7

        def ratio(x):  # q / pi at z = s x
            return mp.fsum(
                wk * mp.exp(x**2 / 2 - (x - mk / s) ** 2 / (2 * (1 + vk / s**2))) / mp.sqrt(1 + vk / s**2)
                for wk, mk, vk in zip(w, m, v, strict=True)
            )

        exact = mp.quad(lambda x: mp.npdf(x) * (ratio(x) - 1) ** 2 / ratio(x), mp.linspace(-14, 14, 15))
    assert divergences.chi2(question).value == pytest.approx(float(exact), rel=1e-8)


@pytest.mark.parametrize("sigma_T", [2.0, 5.0, 50.0])
def test_certified_divergences_in_the_plane_are_above_the_exact_ones_and_close_at_large_sigma_T(sigma_T):
    # a product of THREE_MODES-like modes of one variance and N(0.4, 0.3): divergences of products are known
    line = gb.GaussianMixture([0.2, 0.5, 0.3], [-1.5, 0.3, 2.0], 0.3)
    means = np.stack([[-1.5, 0.3, 2.0], np.full(3, 0.4)], axis=-1)
    plane = gb.GaussianMixture([0.2, 0.5, 0.3], means, 0.3)
    process = FAMILIES["VP"](sigma_T)
    first, second = ask(line, process), ask(gb.Gaussian(0.4, 0.3), process)
    both = problem(plane, process, gb.Bump([0.0, 0.0], 1.0), 1.0)  # reads every coordinate: nothing is reduced
    chi2 = (1 + divergences.chi2(first).value) * (1 + divergences.chi2(second).value) - 1
    kl = divergences.kl(first).value + divergences.kl(second).value
    length = math.hypot(divergences.wasserstein(first).value, divergences.wasserstein(second).value)
    pairs = [(divergences.chi2, chi2), (divergences.kl, kl), (divergences.wasserstein, length)]
    for function, exact in pairs:
        ratio = function(both).value / exact
        assert ratio >= 1 - 1e-6
        at_large = 2.01 if function is divergences.kl else 1.2  # KL through chi^2, of which it is half
        assert ratio < (at_large if sigma_T == 50 else 12)
    fisher = [divergences.fisher(q).value for q in (first, second)]
    others = [1 + divergences.chi2(q).value for q in (second, first)]
    assert divergences.fisher(both).value >= fisher[0] * others[0] + fisher[1] * others[1]
    assert divergences.tv(both).value >= divergences.tv(first).value
    assert divergences.tv(both).kind == "cited upper bound"


def eigenvalue(target, points=4000):
    """Poincare constant in d = 1 by finite volumes and LAPACK: a route with its own error, second order in cells."""
    means, sd = target.components.mean[:, 0], np.sqrt(target.components.variances[:, 0])
    x = np.linspace((means - 7.5 * sd).min(), (means + 7.5 * sd).max(), points)
    p = np.exp(target.log_prob(x[:, None]))
    between = np.exp(target.log_prob((x[1:, None] + x[:-1, None]) / 2))
    h = x[1] - x[0]
    diagonal = (np.append(between, 0) + np.append(0, between)) / p / h**2
    off = -between / np.sqrt(p[1:] * p[:-1]) / h**2
    return 1 / eigh_tridiagonal(diagonal, off, select="i", select_range=(1, 1), eigvals_only=True)[0]


@pytest.mark.parametrize(
    "target",
    [
        THREE_MODES,
        gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.2),
        gb.GaussianMixture([0.1, 0.9], [0.0, 0.5], [1.0, 0.05]),
    ],
    ids=["three modes", "symmetric", "scales"],
)
def test_the_poincare_constant_on_the_line_is_the_reciprocal_of_the_spectral_gap(target):
    constant, _ = poincare(ask(target))
    assert constant.value == pytest.approx(eigenvalue(target), rel=2e-3)
    assert constant.value >= eigenvalue(target) * (1 - 1e-4)
    assert constant.kind == "numerical"


@pytest.mark.parametrize("reach", [1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    "target",
    [THREE_MODES, gb.GaussianMixture([0.1, 0.9], [0.0, 0.5], [1.0, 0.05])],
    ids=["three modes", "scales"],
)
def test_the_supremum_beyond_the_grid_is_bounded_however_early_the_grid_ends(target, reach, monkeypatch):
    monkeypatch.setattr(constants, "REACH", reach)
    question, exact = ask(target), eigenvalue(target)
    upper, _ = constants.poincare_on_the_line(question, np.zeros(1))
    assert exact * (1 - 1e-4) <= upper[0]
    # what the grid alone shows is not a bound
    monkeypatch.setattr(constants, "_continued", lambda below, above, *rest: (below, above, -np.inf))
    upper, _ = constants.poincare_on_the_line(question, np.zeros(1))
    assert target is THREE_MODES or reach > 2 or upper[0] < 0.97 * exact


@pytest.mark.parametrize("p", [1.0, 1.25, 2.0, math.inf])
def test_beyond_the_grid_the_quotient_of_a_continued_function_is_below_its_bound(p):
    w, m, v = np.array([0.3, 0.7]), np.array([-0.5, 1.0]), np.array([2.0, 0.3])
    b, length, theta = 6.0, 9.0, 1 / 8.5  # any ell, and theta of at least 1 / ell
    sd = np.sqrt(v)
    end = constants._End.of(np.log(w), sd[None], ((b - m) / sd)[None])

    def g(x):
        slope = theta * (x - b)
        return math.exp(slope) if p == math.inf else (1 + slope / p) ** (p - 1)

    def quotient(x):
        density = (w * norm.pdf(x, m, sd)).sum()
        above = quad(lambda y: (w * norm.sf(y, m, sd)).sum() * g(y), x, x + 12, epsabs=0, epsrel=1e-10)[0]
        return ((w * norm.sf(x, m, sd)).sum() * (length + quad(g, b, x)[0]) + above) / density / g(x)

    found = max(quotient(x) for x in np.linspace(b, b + 12, 25))
    inverse_power = {1.0: 1.0, 1.25: 0.8, 2.0: 0.5, math.inf: 0.0}[p]
    room = b - m - v * theta * (1 - inverse_power)
    bound = np.maximum(v * length / room, v * length * theta * inverse_power).max()
    assert found <= bound
    assert math.exp(end.quotient(np.log([[length]]), np.array([[theta]]))[0]) <= bound * (1 + 1e-12)
    if p == 1:  # the weighted mean, over intervals up to infinity
        constant = np.exp(end.quotient(np.log([[length]]), np.zeros((1, 1)))[0])
        assert found <= constant <= (v + end.mills[0, :, 0] * np.maximum(length - (b - m), 0)).max() * (1 + 1e-12)
        assert constant < bound


def test_the_poincare_constant_is_resolved_behind_barriers_that_rounding_hides():
    for distance in (10.0, 30.0):
        target = gb.GaussianMixture([0.5, 0.5], [0.0, distance], 1.0)
        x = np.linspace(distance / 2, distance + 9, 200_001)
        # Muckenhoupt: B <= C <= 4 B, B = sup_x S(x) int_median^x 1/p
        log_p = target.log_prob(x[:, None])
        step = x[1] - x[0]
        log_inverse = np.logaddexp.accumulate(-log_p) + math.log(step)
        log_tail = np.logaddexp.accumulate(log_p[::-1])[::-1] + math.log(step)
        log_B = (log_inverse + log_tail).max()
        log_C = math.log(poincare(ask(target))[0].value)
        assert log_B - 1e-3 <= log_C <= log_B + math.log(4)


def test_noise_improves_the_poincare_constant_and_the_decay_uses_it():
    question = ask(gb.GaussianMixture([0.5, 0.5], [-2.0, 2.0], 0.1))
    constant, decay = poincare(question)
    assert decay.offsets[0] == pytest.approx(constant.value)
    assert list(decay.offsets) == sorted(decay.offsets, reverse=True)
    assert decay.offsets[-1] >= float(question.target.cov[0]) * (1 - 1e-6)
    for knot, offset in list(zip(decay.knots, decay.offsets, strict=True))[1::3]:
        noised = question.target.noised(knot)
        assert offset + knot**2 == pytest.approx(poincare(ask(noised))[0].value, rel=1e-2)
    at_once = Decay((0.0,), (constant.value,))
    assert decay.exponent(np.asarray(1.0), 5.0) > 1.2 * at_once.exponent(np.asarray(1.0), 5.0)
    exact = quad(lambda tau: 1 / (constant.value + tau), 0, 25)[0]
    assert at_once.exponent(np.asarray(1.0), 5.0) == pytest.approx(exact)


def test_the_poincare_bound_in_the_plane_is_above_the_exact_constant_and_below_that_of_bardet_et_al():
    for distance in (0.5, 2.0, 4.0):
        line = gb.GaussianMixture([0.4, 0.6], [0.0, distance], 0.5)
        plane = gb.GaussianMixture([0.4, 0.6], [[0.0, 0.4], [distance, 0.4]], 0.5)
        exact = poincare(ask(line))[0].value  # of the product: the larger factor's
        found = poincare(problem(plane, gb.VE(5.0), gb.Bump([0.0, 0.0], 1.0), 1.0))[0]  # nothing is reduced
        assert exact * (1 - 1e-3) <= found.value <= 0.5 * math.exp(4 * (distance / 2) ** 2 / 0.5)
        assert found.value < 12 * exact
        assert found.kind == "cited upper bound"
    different = gb.GaussianMixture([0.4, 0.6], [[0.0, 0.4], [1.0, 0.4]], [[0.5, 0.5], [0.4, 0.6]])
    value = poincare(problem(different, gb.VE(5.0), gb.Linear([1.0, 0.0]), 1.0))[0].value
    assert value >= float(np.linalg.eigvalsh(different.cov).max())


def test_kappa_of_two_symmetric_modes_has_its_closed_form_and_bounds_any_curvature():
    v, R = 0.3, 1.2
    question = ask(gb.GaussianMixture([0.5, 0.5], [-R, R], v))
    found = profile(question)
    tau = np.array([0.0, 0.1, 1.0, 20.0])
    np.testing.assert_allclose(found.kappa(tau), 1 / (v + tau) - R**2 / (v + tau) ** 2, rtol=1e-3)
    K = np.log1p(tau / v) - R**2 * (1 / v - 1 / (v + tau))
    np.testing.assert_allclose(found.integral(tau), K, rtol=1e-3, atol=1e-9)
    assert (found.integral(tau) <= K + 1e-9).all()


def test_kappa_on_the_line_is_below_every_curvature():
    found = profile(ask(THREE_MODES))
    for tau in (0.0, 0.2, 3.0):
        z = np.linspace(-6, 6, 20_001)[:, None]
        h = 1e-4
        curvature = (THREE_MODES.score(z - h, math.sqrt(tau)) - THREE_MODES.score(z + h, math.sqrt(tau))) / (2 * h)
        kappa = float(found.kappa(np.array([tau]))[0])
        assert kappa <= curvature.min() + 1e-6
        assert kappa == pytest.approx(curvature.min(), rel=2e-3)


def test_kappa_in_the_plane_is_below_every_curvature():
    cov = np.array([[0.5, 0.2], [0.2, 0.4]])
    target = gb.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [0.5, 0.5]], np.stack([cov, cov]))
    found = profile(problem(target, gb.VE(5.0), gb.Linear([1.0, 0.0]), 1.0))
    z = target.sample(500, seed=2)
    h = 1e-4
    for tau in (0.0, 0.5, 5.0):
        score = [[target.score(z + sign * h * e, math.sqrt(tau)) for sign in (1, -1)] for e in np.eye(2)]
        jacobian = np.stack([(up - down) / (2 * h) for up, down in score], axis=-1)
        curvature = np.linalg.eigvalsh(-(jacobian + jacobian.swapaxes(-1, -2)) / 2)
        assert float(found.kappa(np.array([tau]))[0]) <= curvature.min() + 1e-6


def test_log_sobolev_holds_where_the_noised_law_is_log_concave():
    constant, decay = log_sobolev(ask(gb.Gaussian(0.7, 0.5)))
    assert constant.value == 0.5
    assert decay.offsets == (0.5,)
    constant, decay = log_sobolev(ask(gb.GaussianMixture([0.5, 0.5], [-2.0, 2.0], 0.1)))
    assert math.isinf(decay.offsets[0])
    assert "at tau" in constant.name
    assert 0 < decay.exponent(np.asarray(1.0), 5.0) < quad(lambda tau: 1 / (4.1 + tau), 0, 25)[0]
    assert log_sobolev(ask(gb.GaussianMixture([0.5, 0.5], [-2.0, 2.0], 0.1), gb.VE(0.5))) is None


def test_the_enclosing_ball_holds_all_points():
    assert enclosing_radius(np.array([[-1.0, 0.0], [1.0, 0.0]])) == pytest.approx(1.0)
    triangle = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    assert 1 / math.sqrt(3) - 1e-12 <= enclosing_radius(triangle) < 1.03 / math.sqrt(3)


SMOOTH = [gb.Linear(1.3), gb.Quadratic(0.7, 0.4, 0.2, 1.0), gb.Bump(0.5, 0.8), gb.Cosine(1.1, 0.4)]
KINKED = [gb.AbsoluteDeviation(0.3, 1.5), gb.HalfSpace(1.0, 0.6)]


@pytest.mark.parametrize("reward", SMOOTH + KINKED, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("target", [gb.Gaussian(0.7, 0.5), THREE_MODES], ids=["Gaussian", "mixture"])
def test_the_variance_of_a_reward_equals_quadrature(reward, target):
    p = density(target, 0.0)
    breaks = [0.3, 0.6]
    mean = quad(lambda x: float(reward(np.array([x]))) * p(x), -7, 7, points=breaks, limit=300)[0]
    exact = quad(lambda x: (float(reward(np.array([x]))) - mean) ** 2 * p(x), -7, 7, points=breaks, limit=300)[0]
    assert variance(reward.in_dim(1), target).value == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("reward", [*SMOOTH, KINKED[0]], ids=lambda r: type(r).__name__)
def test_the_energy_of_a_gradient_equals_quadrature(reward):
    p, h = density(THREE_MODES, 0.0), 1e-5

    def slope(x):
        return (float(reward(np.array([x + h]))) - float(reward(np.array([x - h])))) / (2 * h)

    exact = quad(lambda x: slope(x) ** 2 * p(x), -7, 7, points=[0.3], limit=300)[0]
    assert gradient_energy(reward.in_dim(1), THREE_MODES).value == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(
    "reward",
    [
        gb.Linear([1.0, -0.5]),
        gb.Quadratic([[0.7, 0.2], [0.2, -0.3]], [0.4, 0.1], [0.2, 0.0]),
        gb.Bump([0.5, 0.0], 0.8),
        gb.Cosine([1.1, -0.6], 0.4),
        gb.HalfSpace([1.0, 0.5], 0.6),
        gb.AbsoluteDeviation([0.3, 0.1], 1.5),
        CallableReward(lambda x: np.tanh(x[..., 0] - x[..., 1]), lipschitz=math.sqrt(2)),
    ],
    ids=lambda r: type(r).__name__,
)
def test_variance_and_gradient_in_the_plane_agree_with_simulation(reward):
    covs = np.array([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]])
    target = gb.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [0.5, 0.5]], covs)
    x = target.sample(200_000, seed=3)
    values = reward(x)
    found = variance(reward, target)
    squares = (values - values.mean()) ** 2
    error = squares.std() / math.sqrt(len(x))
    upper = isinstance(reward, gb.AbsoluteDeviation | CallableReward)
    assert found.value >= squares.mean() - 4 * error
    assert found.value <= (1.7 if upper else 1) * squares.mean() + 4 * error
    energy = gradient_energy(reward, target)
    if isinstance(reward, gb.HalfSpace):
        assert energy is None
        return
    h = 1e-5
    slopes = sum(((reward(x + h * e) - reward(x - h * e)) / (2 * h)) ** 2 for e in np.eye(2))
    error = slopes.std() / math.sqrt(len(x))
    assert energy.value >= slopes.mean() - 4 * error - 1e-6
    if not isinstance(reward, CallableReward):
        assert energy.value <= slopes.mean() + 4 * error + 1e-6


def test_a_constant_says_where_it_comes_from():
    assert str(Constant("C", 0.5, "closed form", "an eigenvalue")) == "C = 0.5 (closed form): an eigenvalue"
    assert "numerically evaluated, error 1e-09" in str(Constant("C", 0.5, "numerical", "quadrature", 1e-9))
    with pytest.raises(ValueError, match="unknown kind 'guess'"):
        Constant("C", 0.5, "guess", "nowhere")
