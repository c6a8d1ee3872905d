"""Rewards: exact expectations against 50-digit arithmetic, quadrature and draws; constants; bad input."""

import math
import warnings

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from gapbound.estimate_value import Estimate
from gapbound.expectation import quadrature
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture
from gapbound.reward import (
    AbsoluteDeviation,
    Bump,
    CallableReward,
    Cosine,
    HalfSpace,
    Linear,
    Quadratic,
    as_reward,
)

A2 = np.array([[1.234, -0.4], [-0.4, 0.7]])
REWARDS = [
    Quadratic(1.234, 0.3, -0.7, 0.11),
    Quadratic(-0.5, 0.3),
    Linear(-1.7, 0.4),
    HalfSpace(-1.3, 0.37),
    AbsoluteDeviation(0.4, -1.2),
    Bump(0.6, 0.45),
    Cosine(2.1, 0.3),
]
REWARDS_2D = [
    Quadratic(A2, [0.1, -0.3], [0.7, -1.1], 2.0),
    Quadratic(0.8, [0.1, -0.3], 0.5),
    Linear([0.7, -1.1]),
    HalfSpace([0.7, -1.1], 0.2),
    AbsoluteDeviation([0.1, -0.3], 1.3),
    Bump([0.1, -0.3], 1.1),
    Cosine([0.7, -1.1], -0.2),
]
FULL = Gaussian([0.5, -0.8], [[1.1, 0.6], [0.6, 0.9]])


def exact(reward, m, s):
    """E r under N(m, s^2) in 50 digits, from textbook formulas other than those of the library where there are any."""
    m, s = mp.mpf(m), mp.mpf(s)
    match reward:
        case Quadratic():
            A, c, b, k = (mp.mpf(float(p)) for p in (reward.A, reward.c, reward.b, reward.const))
            terms = [-A * (m - c) ** 2, -A * s**2, b * m, k]
        case Linear():
            terms = [mp.mpf(float(reward.b)) * m, mp.mpf(reward.const)]
        case HalfSpace():
            w = mp.mpf(float(reward.w))
            return mp.ncdf((w * m - reward.threshold) / (abs(w) * s)), 1
        case AbsoluteDeviation():
            u = (m - mp.mpf(float(reward.c))) / s
            terms = [reward.weight * s * (u * (1 - 2 * mp.ncdf(-u)) + 2 * mp.npdf(u))]
        case Bump():
            h, c = mp.mpf(reward.h), mp.mpf(float(reward.c))
            return h / mp.sqrt(h**2 + s**2) * mp.exp(-((m - c) ** 2) / (h**2 + s**2) / 2), 1
        case Cosine():
            w = mp.mpf(float(reward.omega))
            return mp.re(mp.exp(1j * (w * m + reward.phase) - (w * s) ** 2 / 2)), 1
    return sum(terms), sum(abs(t) for t in terms)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_expectation_equals_quadrature_in_one_dimension(reward):
    m, s = 0.234, 0.9

    def integrand(x):
        return float(reward(np.array([x]))) * math.exp(-(((x - m) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))

    kink = {HalfSpace: -0.37 / 1.3, AbsoluteDeviation: 0.4}.get(type(reward), 0.0)
    by_quad = sum(quad(integrand, *ends, epsabs=1e-13)[0] for ends in [(m - 11 * s, kink), (kink, m + 11 * s)])
    assert reward.expectation(Gaussian(m, s**2)) == pytest.approx(by_quad, abs=1e-11)


@pytest.mark.parametrize("reward", REWARDS_2D, ids=repr)
@pytest.mark.parametrize("law", [FULL, Gaussian([0.5, -0.8], [1.1, 0.3])], ids=["full", "diagonal"])
def test_expectation_equals_the_mean_of_draws_in_two_dimensions(reward, law):
    values = reward(law.sample(400_000, seed=3))
    error = values.std() / math.sqrt(values.size)
    assert abs(values.mean() - reward.expectation(law)) < 4 * error
    wrong = Gaussian(law.mean, 1.05 * law.cov)  # 5 % of variance is seen by every reward that feels variance
    if isinstance(reward, Quadratic | AbsoluteDeviation | Bump):
        assert abs(values.mean() - reward.expectation(wrong)) > 4 * error


@pytest.mark.parametrize("s", [2.0**-20, 2.0**-6, 1.0, 2.0**7, 2.0**20])
@pytest.mark.parametrize("distance", [0.0, 2.0**-18, 0.25, 3.0, 2.0**9 + 0.5, 2.0**20])
def test_expectations_are_accurate_to_1e_12_of_their_range(s, distance):
    # powers of two and their sums: m - c, w'm - threshold and omega'm are exact, so only the formulas are tested
    rewards = [
        Quadratic(0.75, 0.5, -0.25, 2.0),
        Linear(-0.75, 2.0),
        HalfSpace(-2.0, -1.0),
        AbsoluteDeviation(0.5, -1.5),
        *(Bump(0.5, h) for h in (2.0**-10, 0.5, 2.0**10)),
        *(Cosine(w, 0.5) for w in (2.0**-10, 0.5)),
    ]
    with mp.workdps(50):
        for reward in rewards:
            value, scale = exact(reward, 0.5 + distance, s)
            computed = mp.mpf(float(reward.expectation(Gaussian(0.5 + distance, s**2))))
            assert abs(computed - value) <= 1e-12 * scale, reward


def test_small_probabilities_and_absolute_deviations_keep_their_relative_accuracy():
    with mp.workdps(50):
        tail, _ = exact(HalfSpace(1.0, 30.0), 0.0, 1.0)
        assert float(HalfSpace(1.0, 30.0).expectation(Gaussian(0.0, 1.0)) / tail - 1) == pytest.approx(0, abs=1e-12)
        for u in (1e-9, 1e-3, 1.0, 5.0, 40.0, 1e9):
            value, _ = exact(AbsoluteDeviation(0.0), u, 1.0)
            assert float(AbsoluteDeviation(0.0).expectation(Gaussian(u, 1.0)) / value - 1) == pytest.approx(
                0, abs=2e-15
            )


@pytest.mark.parametrize("reward", REWARDS_2D, ids=repr)
def test_expectation_does_not_depend_on_how_a_covariance_is_written(reward):
    variances = np.array([[1.1, 0.3], [0.2, 2.0], [1.0, 1e-6]])
    mean = np.array([[0.5, -0.8], [0.1, 0.2], [3.0, -1.0]])
    diagonal = reward.expectation(Gaussian(mean, variances))
    assert diagonal.shape == (3,)
    np.testing.assert_allclose(
        reward.expectation(Gaussian(mean, variances[..., None] * np.eye(2))), diagonal, rtol=1e-13, atol=1e-15
    )
    each = [reward.expectation(Gaussian(m, v)) for m, v in zip(mean, variances, strict=True)]
    np.testing.assert_allclose(diagonal, each, rtol=1e-14)


@pytest.mark.parametrize("reward", REWARDS_2D, ids=repr)
def test_expectation_under_a_mixture_is_the_weighted_sum(reward):
    weights = np.array([[0.2, 0.8], [0.5, 0.5]])
    means = np.array([[[0.0, 1.0], [2.0, -1.0]], [[3.0, 0.5], [0.0, 0.0]]])
    value = reward.expectation(GaussianMixture(weights, means, 0.7))
    each = [
        sum(w * reward.expectation(Gaussian(m, 0.7)) for w, m in zip(*row, strict=True))
        for row in zip(weights, means, strict=True)
    ]
    np.testing.assert_allclose(value, each, rtol=1e-13)


@pytest.mark.parametrize("reward", REWARDS_2D, ids=repr)
def test_a_tensor_gives_what_an_array_gives_and_keeps_its_dtype(reward):
    x = FULL.sample(50, seed=1).reshape(5, 10, 2)
    values = reward(x)
    assert values.shape == (5, 10)
    np.testing.assert_allclose(reward(torch.tensor(x)).numpy(), values, rtol=1e-13, atol=1e-14)
    single = reward(torch.tensor(x, dtype=torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), values, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_a_reward():
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(Quadratic(A2, [0.1, -0.3], [0.7, -1.1])(x).sum(), x)
    expected = -2 * (x.detach().numpy() - [0.1, -0.3]) @ A2 + [0.7, -1.1]
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("reward", REWARDS + REWARDS_2D, ids=repr)
def test_lipschitz_and_range_are_respected_and_attained(reward):
    dim = reward.dim or 1
    rng = np.random.default_rng(5)
    x = 3 * rng.standard_normal((20_000, dim))
    low, high = reward.range
    values = reward(x)
    assert (values >= low - 1e-12).all()
    assert (values <= high + 1e-12).all()
    if math.isfinite(high) and not isinstance(reward, AbsoluteDeviation):
        assert high - values.max() < 0.02
    step = 1e-6 * rng.standard_normal(x.shape)
    slopes = np.abs(reward(x + step) - values) / np.linalg.norm(step, axis=-1)
    if math.isfinite(reward.lipschitz):
        assert slopes.max() <= reward.lipschitz * (1 + 1e-6)
        assert slopes.max() >= reward.lipschitz * 0.98


def test_numbers_stand_for_every_coordinate_and_in_dim_writes_them_out():
    law = Gaussian(np.array([0.3, -0.2, 1.0]), np.array([0.5, 1.0, 2.0]))
    for reward in REWARDS:
        written = reward.in_dim(3)
        assert (reward.dim, written.dim) == (None, 3)
        assert written.expectation(law) == reward.expectation(law)
    assert Linear(2.0).lipschitz == 2.0
    assert Linear(2.0).in_dim(4).lipschitz == 4.0
    assert AbsoluteDeviation(0.0, -3.0).in_dim(4).lipschitz == 6.0
    assert Cosine(0.5).in_dim(16).lipschitz == pytest.approx(2.0)


def test_range_of_a_quadratic_is_its_vertex():
    b, c = np.array([0.7, -1.1]), np.array([0.1, -0.3])
    peak = c + np.linalg.solve(A2, b) / 2
    assert Quadratic(A2, c, b, 2.0).range == (-math.inf, pytest.approx(Quadratic(A2, c, b, 2.0)(peak)))
    assert Quadratic(-A2, c, -b, 2.0).range == (pytest.approx(4.0 - Quadratic(A2, c, b, 2.0)(peak)), math.inf)
    assert Quadratic(1.0, 0.5, 3.0).in_dim(2).range[1] == pytest.approx(2 * (1.5 + 2.25))
    singular = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert Quadratic(singular, 0.0, [2.0, 2.0]).range == (-math.inf, pytest.approx(1.0))
    assert Quadratic(singular, 0.0, [2.0, -2.0]).range == (-math.inf, math.inf)
    assert Quadratic(np.diag([1.0, -1.0]), 0.0).range == (-math.inf, math.inf)
    assert Quadratic(0.0, 1.0, 0.0, 5.0).range == (5.0, 5.0)
    assert Quadratic(0.0, [1.0, 1.0], [3.0, 4.0]).lipschitz == 5.0
    assert Quadratic(1e-9, 0.0).lipschitz == math.inf
    assert Linear(0.0, 5.0).range == (5.0, 5.0)
    assert Linear(1.0).range == (-math.inf, math.inf)
    assert Cosine(0.0, 1.0).range == (math.cos(1.0), math.cos(1.0))


def test_quadratic_form_writes_every_parameter_in_the_dimension():
    A, c, b, const = Quadratic(2.0, 0.5, [1.0, 2.0], 3.0).quadratic_form(2)
    assert (A, const) == (2.0, 3.0)
    np.testing.assert_array_equal([c, b], [[0.5, 0.5], [1.0, 2.0]])
    A, c, b, const = Linear(2.0, 1.0).quadratic_form(3)
    assert (A, const) == (0.0, 1.0)
    np.testing.assert_array_equal([c, b], [[0.0] * 3, [2.0] * 3])
    with pytest.raises(ValueError, match=r"A has shape \(2, 2\), which does not fit the dimension 3"):
        Quadratic(A2, 0.0).quadratic_form(3)
    with pytest.raises(ValueError, match=r"b has shape \(2,\), which does not fit the dimension 3"):
        Linear([1.0, 2.0]).expectation(Gaussian(np.zeros(3), 1.0))


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_no_reward_warns_or_leaves_its_range(m, s, c, h):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reward in [Quadratic(h, c), HalfSpace(h, c), AbsoluteDeviation(c, h), Bump(c, h), Cosine(h, c)]:
            value = reward.expectation(Gaussian(m, s**2))
            assert reward.range[0] <= value <= reward.range[1]


# --- callables ---


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_a_callable_in_one_dimension_is_integrated_to_its_stated_error(reward):
    law = Gaussian([[0.3], [-1.0], [400.0]], [[0.7], [1e-8], [9.0]])
    estimate = as_reward(lambda x: reward(x)).expectation(law)
    truth = reward.expectation(law)
    assert estimate.method == "quadrature"
    assert estimate.value.shape == estimate.error.shape == (3,)
    assert (np.abs(estimate.value - truth) <= 4 * estimate.error + 1e-13 * (1 + np.abs(truth))).all()
    if not isinstance(reward, HalfSpace | AbsoluteDeviation):
        assert (estimate.error <= 1e-12 * (1 + np.abs(truth))).all()


def test_quadrature_doubles_only_what_has_not_settled():
    calls = []

    def function(x):
        calls.append(x.shape)
        return np.cos(200 * x[:, 0])

    value, error, nodes = quadrature(function, np.array([0.0, 0.0]), np.array([0.001, 1.0]))
    np.testing.assert_allclose(value, np.exp([-0.02, -20_000]), atol=1e-13)
    assert calls[-1][0] == nodes  # one row left
    assert (error < 1e-12).all()


@pytest.mark.parametrize("reward", REWARDS_2D, ids=repr)
def test_monte_carlo_intervals_cover_the_truth(reward):
    laws = [FULL, Gaussian(FULL.mean, FULL.variances), GaussianMixture([0.3, 0.7], [[0.0, 1.0], [2.0, -1.0]], 0.5)]
    misses = 0
    for seed in range(20):
        f = CallableReward(lambda x: reward(x), n=2000, seed=seed)
        for law in laws:
            estimate = f.expectation(law)
            assert (estimate.method, estimate.n) == ("monte carlo", 2000)
            low, high = estimate.interval(0.95)
            truth = reward.expectation(law)
            misses += not low - 1e-9 <= truth <= high + 1e-9
    assert misses <= 10  # 60 intervals, 3 expected


def test_monte_carlo_error_matches_the_spread_over_seeds_also_for_a_mixture_and_a_batch():
    law = GaussianMixture([[0.3, 0.7]] * 2, [[[0.0, 1.0], [2.0, -1.0]], [[0.0, 0.0], [9.0, 1.0]]], 0.5)
    runs = [CallableReward(lambda x: np.exp(x[:, 0] / 4), n=1000, seed=s).expectation(law) for s in range(300)]
    spread = np.std([run.value for run in runs], axis=0)
    stated = np.mean([run.error for run in runs], axis=0)
    assert spread.shape == (2,)
    np.testing.assert_allclose(spread / stated, 1.0, atol=0.17)  # 4 standard errors of a spread over 300 runs


def test_a_large_batch_is_cut_into_chunks_without_changing_the_answer(monkeypatch):
    f = CallableReward(lambda x: np.sin(x).sum(-1), n=4096)
    whole = f.expectation(Gaussian([0.5, 0.2], 1.0))
    monkeypatch.setattr("gapbound.expectation.POINTS", 100)
    cut = f.expectation(Gaussian([0.5, 0.2], 1.0))
    np.testing.assert_allclose([cut.value, cut.error], [whole.value, whole.error], rtol=1e-12)


def test_a_mixture_in_one_dimension_is_integrated_component_by_component():
    law = GaussianMixture([0.25, 0.75], [0.0, 1e5], [1e-6, 2.0])
    estimate = as_reward(lambda x: np.cos(x[:, 0])).expectation(law)
    assert estimate.value == pytest.approx(Cosine(1.0).expectation(law), abs=1e-12)


def test_as_reward_passes_rewards_and_wraps_functions():
    reward = Linear(1.0)
    assert as_reward(reward) is reward
    wrapped = as_reward(torch.sum)
    x = torch.ones(3, 2)
    assert wrapped(x) == 6.0
    assert (wrapped.lipschitz, wrapped.range) == (math.inf, (-math.inf, math.inf))
    assert wrapped.in_dim(3) is wrapped
    with pytest.raises(TypeError, match=r"a reward is an object .* got 3\.0"):
        as_reward(3.0)
    with pytest.raises(TypeError, match="got <class"):
        as_reward(Quadratic)


def test_an_estimate_states_its_interval():
    low, high = Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.2]), "monte carlo", 10).interval(0.95)
    np.testing.assert_allclose(high - low, 2 * 1.959963984540054 * np.array([0.1, 0.2]))
    assert Estimate(1.0, 0.1, "quadrature").interval() == (0.9, 1.1)
    assert float(Estimate(np.array([1.5]), 0.1, "quadrature")) == 1.5
    with pytest.raises(TypeError, match=r"shape \(2,\) is not one number"):
        float(Estimate(np.zeros(2), 0.1, "quadrature"))
    with pytest.raises(ValueError, match="unknown method 'guess'"):
        Estimate(1.0, 0.1, "guess")
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        Estimate(1.0, 0.1, "quadrature").interval(95)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Quadratic([[1.0, 2.0], [0.0, 1.0]], 0.0), ValueError, r"A must be symmetric, .* differ by 2"),
        (lambda: Quadratic([1.0, 2.0], 0.0), ValueError, r"got shape \(2,\); write a diagonal as np.diag"),
        (lambda: Quadratic(np.ones((2, 3)), 0.0), ValueError, r"got shape \(2, 3\)"),
        (lambda: Quadratic(A2, [1.0, 2.0, 3.0]), ValueError, r"one dimension, got shapes A \(2, 2\), c \(3,\)"),
        (lambda: Quadratic(1.0, math.nan), ValueError, "c must be finite, got nan"),
        (lambda: Quadratic("1", 0.0), TypeError, "A must be a real number"),
        (lambda: Linear(np.ones((2, 2))), ValueError, r"b must be a number or an array of shape \(d,\)"),
        (lambda: Linear([]), ValueError, r"got shape \(0,\)"),
        (lambda: Linear(1.0, [1.0, 2.0]), ValueError, r"const must be one number, got shape \(2,\)"),
        (lambda: HalfSpace([0.0, 0.0]), ValueError, "w must not be zero"),
        (lambda: Bump(0.0, 0.0), ValueError, "h must be positive, got 0"),
        (lambda: Bump(0.0, -1.0), ValueError, "h must be positive, got -1"),
        (lambda: Cosine(math.inf), ValueError, "omega must be finite, got inf"),
        (lambda: Linear(1.0).expectation(3.0), TypeError, "needs a Gaussian or a GaussianMixture, got 3.0"),
        (lambda: as_reward(abs).expectation(3.0), TypeError, "needs a Gaussian or a GaussianMixture, got 3.0"),
        (lambda: Linear([1.0, 2.0])(np.zeros((4, 3))), ValueError, r"last axis of x must have 2 .*\(4, 3\)"),
        (lambda: Linear([1.0, 2.0]).in_dim(3), ValueError, r"b has shape \(2,\), which does not fit the dimension 3"),
        (lambda: CallableReward(3.0), TypeError, "function must be callable, got 3.0"),
        (lambda: CallableReward(abs, n=1), ValueError, "n must be at least 4, got 1"),
        (lambda: as_reward(abs).expectation(FULL), ValueError, r"must return shape \(\d+,\) .* got \(\d+, 2\)"),
        (lambda: as_reward(lambda x: 1.0).expectation(FULL), ValueError, r"must return shape .* got \(\)"),
        (
            lambda: as_reward(lambda x: np.where(x[:, 0] > 1, np.nan, 1.0)).expectation(Gaussian(0.0, 1.0)),
            ValueError,
            r"the reward returned nan at x = \[1\.\d+\]",
        ),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
