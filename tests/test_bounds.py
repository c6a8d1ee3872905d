"""The four bounds: never below the exact errors, attained where theory says, false once an assumption is dropped."""

import importlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from strategies import FAMILIES

import gapbound as gb
from gapbound import bounds
from gapbound.bounds.best import THEOREMS, combined
from gapbound.bounds.constants import Decay, poincare
from gapbound.bounds.problem import problem, unreduced
from gapbound.gap import sampler_error
from gapbound.monotone import mixture_gap, sampler_errors
from gapbound.reward import CallableReward

TWO_MODES = gb.GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.05, 0.2])
CHI_SQUARE = importlib.import_module("gapbound.bounds.chi_square")  # the package's attribute is the function
ROUNDING = 1e-9


def numbers(low, high):
    return st.floats(low, high).map(lambda x: round(x, 3))


@st.composite
def processes(draw, low=-0.2, high=2.0):
    return FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))](10 ** draw(numbers(low, high)))


@st.composite
def rewards(draw, dim=1):
    vector = st.lists(numbers(-2, 2), min_size=dim, max_size=dim).map(np.array)
    kind = draw(st.sampled_from(["linear", "quadratic", "half-space", "absolute", "bump", "cosine"]))
    c = draw(vector)
    if kind == "linear":
        return gb.Linear(c + 0.1)
    if kind == "quadratic":
        return gb.Quadratic(draw(numbers(-1, 1)) * np.eye(dim) + 0.1, c, draw(vector))
    if kind == "half-space":
        return gb.HalfSpace(np.where(c == 0, 1.0, c), draw(numbers(-1, 1)))
    if kind == "absolute":
        return gb.AbsoluteDeviation(c, draw(numbers(0.1, 2)))
    if kind == "bump":
        return gb.Bump(c, draw(numbers(0.3, 2)))
    return gb.Cosine(c + 0.1, draw(numbers(0, 3)))


@st.composite
def gaussians(draw):
    d = draw(st.integers(1, 3))
    mean = [draw(numbers(-2, 2)) for _ in range(d)]
    root = np.array([[draw(numbers(-1, 1)) for _ in range(d)] for _ in range(d)])
    return gb.Gaussian(mean, root @ root.T + draw(numbers(0.05, 0.5)) * np.eye(d))


@st.composite
def mixtures(draw):
    K = draw(st.integers(1, 4))
    weights = np.array([draw(numbers(0.1, 1)) for _ in range(K)])
    means = [draw(numbers(-3, 3)) for _ in range(K)]
    return gb.GaussianMixture(weights / weights.sum(), means, [10 ** draw(numbers(-1.3, 0.2)) for _ in range(K)])


@st.composite
def etas(draw):
    if draw(st.booleans()):
        return draw(st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.5]), numbers(0, 3)))
    low, width, gap = draw(numbers(0, 1)), draw(numbers(0.1, 3)), draw(numbers(0, 1))
    second = (low + width + gap, math.inf, draw(numbers(0, 3)))
    return gb.Windows([(low, low + width, draw(numbers(0, 3))), second])


def assert_holds(found, ode, sde, gap, error):
    for name, bound in found.bounds.items():
        for exact, limit in ((ode, bound.ode), (sde, bound.sde), (gap, bound.gap)):
            if limit is not None:
                assert abs(exact) <= limit * (1 + ROUNDING) + error, f"{name}: {exact} against {bound}"
    assert abs(gap) <= found.gap * (1 + ROUNDING) + error


@settings(max_examples=150)
@given(st.data())
def test_no_bound_is_below_the_exact_errors_of_a_gaussian_in_one_to_three_dimensions(data):
    target, process, eta = data.draw(gaussians()), data.draw(processes(high=4)), data.draw(etas())
    reward = data.draw(rewards(target.dim))
    found = bounds.best(target, process, reward, eta)
    ode, sde = (float(sampler_error(target, process, reward, value)) for value in (0.0, eta))
    gap = float(gb.reward_gap(target, process, reward, eta))
    spread = np.sqrt(float(target.variances.sum())) + 1
    assert_holds(found, ode, sde, gap, 1e-13 * spread**2)


@settings(max_examples=10)
@given(mixtures(), processes(high=1.5), rewards(), etas())
def test_no_bound_is_below_the_exact_errors_of_a_mixture(target, process, reward, eta):
    found = bounds.best(target, process, reward, eta)
    ode, sde = sampler_errors(target, process, reward, [0.0, eta])
    assert_holds(found, ode.value, sde.value, ode.value - sde.value, 2 * (ode.error + sde.error) + 1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_no_bound_is_below_the_exact_gap_of_a_mixture_in_two_dimensions(eta):
    # a product: the second coordinate is N(0.4, 0.3) whatever the first does, and the reward does not see it
    line = gb.GaussianMixture([0.4, 0.6], [-1.0, 1.0], [0.3, 0.3])
    plane = gb.GaussianMixture([0.4, 0.6], [[-1.0, 0.4], [1.0, 0.4]], 0.3)
    for family in FAMILIES.values():
        process = family(6.0)
        exact = mixture_gap(line, process, gb.Linear(1.0), eta)
        question = unreduced(plane, process, gb.Linear([1.0, 0.0]), eta)  # best would solve it on the line
        found = combined(
            {name: THEOREMS[name](question) for name in ("chi_square", "wasserstein", "duhamel")}, {}, question.trivial
        )
        assert_holds(found, 0.0, 0.0, exact.value, exact.error)
        on_the_line = bounds.best(line, process, gb.Linear(1.0), eta)
        assert found.gap >= on_the_line.gap * (1 - 1e-3)


@pytest.mark.parametrize("eta", [0.2, 1.0, 2.0])
def test_chi_square_is_attained_to_first_order_by_a_linear_reward(eta):
    ratios = []
    for m in (0.1, 0.01):
        target, process, reward = gb.Gaussian(m, 1.0), FAMILIES["VP"](3.0), gb.Linear(1.0)
        bound = bounds.chi_square(target, process, reward, eta)
        ode, sde = (abs(float(sampler_error(target, process, reward, value))) for value in (0.0, eta))
        ratios.append((bound.ode / ode - 1, bound.sde / sde - 1))
    assert np.all(np.array(ratios) > -1e-9)
    np.testing.assert_allclose(ratios[1], 0, atol=1e-4)


@pytest.mark.parametrize("eta", [0.01, 0.3, 1.0, 2.0, gb.Windows([(0.5, 2.0, 1.3)])])
def test_duhamel_is_attained_to_first_order_by_a_linear_reward_at_every_eta(eta):
    ratios = []
    for m in (0.1, 0.01):
        question = gb.Gaussian(m, 1.0), FAMILIES["VP"](3.0), gb.Linear(1.0), eta
        ratios.append(bounds.duhamel(*question).gap / abs(float(gb.reward_gap(*question))) - 1)
    assert min(ratios) > -1e-9
    assert ratios[1] < 1e-4


NEAR_MODES = gb.GaussianMixture([0.3, 0.7], [-0.4, 0.6], [0.2, 0.4])


@pytest.mark.parametrize("target", [gb.Gaussian(0.7, 0.5), NEAR_MODES], ids=["Gaussian", "mixture"])
def test_duhamel_vanishes_like_eta_squared_for_a_reward_with_a_gradient_and_like_eta_for_a_jump(target):
    process = gb.VE(5.0)
    for reward, order in ((gb.Quadratic(1.0, 0.3), 2), (gb.HalfSpace(1.0), 1)):
        small, half = (bounds.duhamel(target, process, reward, eta).gap for eta in (2e-5, 1e-5))
        assert math.log2(small / half) == pytest.approx(order, abs=0.01)
    assert bounds.duhamel(target, process, gb.Linear(1.0), 0.0).gap == 0.0


def test_duhamel_for_a_jump_is_cauchy_schwarz_at_small_eta_with_the_smallest_variance():
    target, sigma_T, eta = gb.GaussianMixture([0.3, 0.7], [-0.4, 0.6], [0.02, 0.9]), 5.0, 1e-3
    found = bounds.duhamel(target, gb.VE(sigma_T), gb.HalfSpace(1.0), eta)
    constants = {constant.name: constant.value for constant in found.constants}
    clock = math.log((0.02 + sigma_T**2) / 0.02) * eta**2 * (0.02 + sigma_T**2) / sigma_T**2
    exact = math.sqrt(constants["Var_p*(r)"] * constants["s^2 I_T"] * clock) / 2
    assert found.gap == pytest.approx(exact, rel=1e-4)
    assert found.gap <= exact * (1 + 1e-12)


def test_total_variation_is_attained_by_the_half_space_where_the_densities_cross():
    m, sigma = 0.8, 2.0
    target, process = gb.Gaussian(m, 1.0), FAMILIES["VP"](sigma)  # equal variances: they cross half way
    law = gb.terminal_law(target, process, 0.0)
    reward = gb.HalfSpace(1.0, float(m + law.mean[0]) / 2)
    error = abs(float(sampler_error(target, process, reward, 0.0)))
    assert bounds.total_variation(target, process, reward).ode == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_wasserstein_is_attained_by_a_shift(eta):
    target, process, reward = gb.Gaussian([0.8, -0.3], 1.0), FAMILIES["VP"](2.0), gb.Linear([0.8, -0.3])
    bound = bounds.wasserstein(target, process, reward, eta)
    assert bound.sde == pytest.approx(abs(float(sampler_error(target, process, reward, eta))), rel=1e-12)


def test_chi_square_fails_with_a_poincare_constant_that_is_too_small(monkeypatch):
    question = problem(gb.Gaussian(0.01, 1.0), FAMILIES["VP"](3.0), gb.Linear(1.0), 1.0)
    exact = abs(float(sampler_error(question.target, FAMILIES["VP"](3.0), gb.Linear(1.0), 1.0)))
    assert CHI_SQUARE.of(question).sde >= exact
    constant, _ = poincare(question)
    monkeypatch.setattr(CHI_SQUARE, "poincare", lambda _: (constant, Decay((0.0,), (0.9,))))
    assert CHI_SQUARE.of(question).sde < 0.98 * exact


def test_chi_square_fails_with_the_variance_of_one_mode_in_place_of_the_poincare_constant(monkeypatch):
    target = gb.GaussianMixture([0.5, 0.5], [-2.0, 2.0], [0.1, 0.1])
    # the prior's mean is 0, so that a shifted target makes one mode too heavy
    target = gb.GaussianMixture(target.weights, target.components.mean[:, 0] + 1.0, [0.1, 0.1])
    process, reward = gb.VE(4.0), gb.Linear(1.0)
    exact = abs(sampler_errors(target, process, reward, [3.0])[0].value)
    question = problem(target, process, reward, 3.0)
    assert CHI_SQUARE.of(question).sde >= exact
    constant, _ = poincare(question)
    monkeypatch.setattr(CHI_SQUARE, "poincare", lambda _: (constant, Decay((0.0,), (0.1,))))
    assert CHI_SQUARE.of(question).sde < exact


def misspecified(rng):
    """W2 of an eta = 0 sampler with the score of N(mu, u) to N(m, v), and theory B3 with two different kappa."""
    m, mu, (v, u) = rng.normal(), rng.normal(), np.exp(rng.normal(0, 1, 2))
    top = float(np.exp(rng.uniform(0, 3)))
    end = gb.terminal_law(gb.Gaussian(mu, u), gb.VE(math.sqrt(top)), 0.0)
    start = float(gb.Gaussian(0.0, top).w2(gb.Gaussian(m, v + top)))
    exact = float(end.w2(gb.Gaussian(m, v)))

    def score_error(tau):
        slope = 1 / (u + tau) - 1 / (v + tau)
        return math.sqrt(slope**2 * (v + tau) + ((m - mu) / (u + tau)) ** 2)

    def with_kappa_of(w):
        integral = quad(lambda tau: math.sqrt(w / (w + tau)) * score_error(tau), 0, top)[0]
        return math.sqrt(w / (w + top)) * start + integral / 2

    return exact, with_kappa_of(u), with_kappa_of(v)


def test_wasserstein_with_a_learned_score_needs_the_kappa_of_that_score():
    rng = np.random.default_rng(0)
    cases = np.array([misspecified(rng) for _ in range(200)])
    exact, own, true = cases.T
    assert (exact <= own * (1 + 1e-9)).all()
    assert (exact > true * (1 + 1e-3)).mean() > 0.2


def test_chi_square_needs_one_wide_component_only():
    process = FAMILIES["VP"](0.6)  # prior variance 1.36
    with pytest.raises(ValueError, match=r"chi\^2\(prior \|\| q_T\) is infinite: .* 2.429 times .* below 2 times"):
        bounds.chi_square(gb.Gaussian(0.0, 0.2), process, gb.Linear(1.0))
    with pytest.raises(ValueError, match="infinite"):
        bounds.duhamel(gb.GaussianMixture([0.5, 0.5], [0.0, 1.0], [0.2, 0.2]), process, gb.Linear(1.0))
    target = gb.GaussianMixture([0.5, 0.5], [0.0, 1.0], [0.2, 1.0])
    bound = bounds.chi_square(target, process, gb.Linear(1.0), 0.7)
    ode, sde = sampler_errors(target, process, gb.Linear(1.0), [0.0, 0.7])
    assert abs(ode.value) <= bound.ode
    assert abs(sde.value) <= bound.sde


@pytest.mark.parametrize("reward", [gb.Linear(1.0), gb.HalfSpace(1.0), gb.Quadratic(1.0, 0.0)])
def test_every_bound_is_0_where_the_prior_is_pure_noise(reward):
    found = bounds.best(TWO_MODES, gb.FlowMatching(1.0), reward, 0.5)
    assert (found.ode, found.sde, found.gap) == (0.0, 0.0, 0.0)
    assert all(bound.gap == 0 for bound in found.bounds.values())


def test_bounds_keep_their_accuracy_at_any_sigma_T():
    target, reward = gb.Gaussian(0.7, 0.5), gb.Linear(1.0)
    for sigma_T in (1e4, 1e8, 1e30):
        exact = abs(float(gb.reward_gap(target, gb.VE(sigma_T), reward, 0.5)))
        for mixture in (target, gb.GaussianMixture([0.5, 0.5], [0.7, 0.7], 0.5)):
            bound = bounds.duhamel(mixture, gb.VE(sigma_T), reward, 0.5)
            assert 1 - 1e-6 <= bound.gap / exact < 1.01


def test_windows_that_cover_everything_are_a_number_and_one_component_is_a_gaussian():
    process, reward = gb.VE(5.0), gb.Bump(0.5, 1.0)
    for target in (TWO_MODES, gb.Gaussian(0.7, 0.5)):
        by_number = bounds.best(target, process, reward, 0.8)
        for windows in ([(0.0, math.inf, 0.8)], [(0.0, 1.0, 0.8), (1.0, 9.0, 0.8)]):
            by_windows = bounds.best(target, process, reward, gb.Windows(windows))
            for name, bound in by_number.bounds.items():
                assert by_windows.bounds[name].gap == pytest.approx(bound.gap, rel=1e-3)
    one = bounds.best(gb.GaussianMixture([1.0], [0.7], [0.5]), process, reward, 0.8)
    assert one.gap == bounds.best(gb.Gaussian(0.7, 0.5), process, reward, 0.8).gap


def test_more_noise_never_worsens_the_bound_on_the_sde():
    for name in ("chi_square", "total_variation"):
        sde = [getattr(bounds, name)(TWO_MODES, gb.VE(5.0), gb.Bump(0.0, 1.0), eta).sde for eta in (0.0, 0.5, 1.0, 2.0)]
        assert sde[0] == pytest.approx(getattr(bounds, name)(TWO_MODES, gb.VE(5.0), gb.Bump(0.0, 1.0)).ode)
        assert sde == sorted(sde, reverse=True)
        assert sde[-1] < 0.9 * sde[0]


def test_best_is_the_smallest_and_says_why_others_do_not_apply():
    found = bounds.best(TWO_MODES, gb.VE(5.0), gb.HalfSpace(1.0), 0.5)
    assert set(found.bounds) == {"chi_square", "total_variation", "duhamel", "residual"}
    assert found.gap == min(bound.gap for bound in found.bounds.values())
    assert found.winner == "duhamel"
    assert "HalfSpace has no Lipschitz constant" in found.refused["wasserstein"]
    assert "wasserstein: does not apply, because" in str(found)
    assert "total_variation: |gap| <=" in str(found)
    assert "osc(r) = 1 (closed form): sup r - inf r" in str(found)
    linear = bounds.best(TWO_MODES, gb.VE(5.0), gb.Linear(1.0), 0.5)
    assert "needs a bounded reward" in linear.refused["total_variation"]
    assert math.isinf(linear.trivial)
    assert not linear.vacuous


def test_a_bound_above_the_range_of_the_reward_is_vacuous():
    target, process, reward = gb.Gaussian(np.full(400, 0.5), 0.25), gb.VE(5.0), gb.HalfSpace(np.ones(400), 200.0)
    question = unreduced(target, process, reward, 1.0)
    bound = THEOREMS["chi_square"](question)
    assert bound.vacuous
    assert "vacuous: the reward's range is 1" in str(bound)
    assert THEOREMS["total_variation"](question).gap == 1.0
    with pytest.raises(ValueError, match="HalfSpace has no Lipschitz constant"):
        bounds.wasserstein(target, process, reward)
    assert not bounds.best(target, process, reward).vacuous  # one Gaussian's gap is known


def test_a_callable_states_what_its_author_knows():
    squash = CallableReward(lambda x: np.tanh(x[..., 0]), lipschitz=1.0, range=(-1.0, 1.0))
    found = bounds.best(TWO_MODES, gb.VE(5.0), squash, 0.5)
    assert set(found.bounds) == {"chi_square", "total_variation", "wasserstein", "duhamel"}
    exact = mixture_gap(TWO_MODES, gb.VE(5.0), squash, 0.5)
    assert all(bound.gap >= abs(exact.value) for bound in found.bounds.values())
    unknown = bounds.best(TWO_MODES, gb.VE(5.0), lambda x: np.tanh(x[..., 0]), 0.5)
    assert set(unknown.refused) == {"total_variation", "wasserstein", "residual"}


def test_different_covariances_in_the_plane_have_no_profile():
    target = gb.GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="need not be one-sided Lipschitz; use one common covariance"):
        bounds.wasserstein(target, gb.VE(5.0), gb.Linear([1.0, 0.0]))
    assert bounds.duhamel(target, gb.VE(5.0), gb.Linear([1.0, 0.0])).gap > 0


def test_a_barrier_makes_wasserstein_infinite_and_never_nan():
    target = gb.GaussianMixture([0.5, 0.5], [-20.0, 20.0], 0.05)
    assert bounds.wasserstein(target, gb.VE(5.0), gb.Linear(1.0)).gap == math.inf
    assert bounds.wasserstein(target, gb.VE(5.0), gb.Quadratic(1.0, 0.0)).gap == math.inf
    assert bounds.wasserstein(target, gb.VE(5.0), gb.Linear(0.0)).gap == 0.0
    found = bounds.best(target, gb.VE(40.0), gb.Linear(1.0), 0.5)
    assert math.isfinite(found.gap)


def test_components_whose_weight_underflowed_do_not_matter():
    tilted = gb.GaussianMixture([0.3, 0.7, 1e-300], [-2.0, 1.5, 900.0], [0.05, 0.2, 0.1])
    object.__setattr__(tilted, "weights", np.array([0.3, 0.7, 0.0]))  # what a steep tilt leaves
    found = bounds.best(tilted, gb.VE(5.0), gb.Linear(1.0), 0.5)
    assert found.gap == pytest.approx(bounds.best(TWO_MODES, gb.VE(5.0), gb.Linear(1.0), 0.5).gap, rel=1e-9)


def test_wrong_questions_are_refused():
    process, reward = gb.VE(5.0), gb.Linear(1.0)
    with pytest.raises(TypeError, match="whose score is exact, got Guided"):
        bounds.best(gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 2.0), process, reward)
    with pytest.raises(ValueError, match=r"one problem at a time, got batches of shapes T \(2,\); loop"):
        bounds.best(TWO_MODES, gb.VE([1.0, 2.0]), reward)
    with pytest.raises(ValueError, match=r"eta \(3,\)"):
        bounds.chi_square(TWO_MODES, process, reward, np.ones(3))
    with pytest.raises(ValueError, match="eta must be 0 or more"):
        bounds.duhamel(TWO_MODES, process, reward, -1.0)
    with pytest.raises(ValueError, match=r"sigma_T must stay below 1e\+100 \(or be inf\), got 1e\+120"):
        bounds.wasserstein(TWO_MODES, gb.VE(1e120), reward)
    with pytest.raises(ValueError, match=r"needs a bounded reward, got one with range \(-inf, inf\)"):
        bounds.total_variation(TWO_MODES, process, reward)
