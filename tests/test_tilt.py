"""The KL-regularised target: pointwise density ratios, quadrature, the variational principle; bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture
from gapbound.reward import Bump, Linear, Quadratic
from gapbound.tilt import tilt

RNG = np.random.default_rng(4)
ROOT = RNG.standard_normal((3, 3))
SPD = ROOT @ ROOT.T + 0.5 * np.eye(3)
LAWS = {
    "d=1": Gaussian(0.4, 0.7),
    "diagonal": Gaussian([0.4, -1.0, 0.2], [0.7, 1.3, 0.2]),
    "full": Gaussian([0.4, -1.0, 0.2], SPD),
    "mixture d=1": GaussianMixture([0.3, 0.7], [-1.0, 2.0], [0.2, 0.5]),
    "mixture diagonal": GaussianMixture([0.3, 0.7], [[0.4, -1.0, 0.2], [2.0, 0.0, 1.0]], 0.6),
    "mixture full": GaussianMixture([0.3, 0.7], [[0.4, -1.0, 0.2], [2.0, 0.0, 1.0]], [SPD, 0.3 * SPD]),
}
C, B = np.array([0.3, -0.2, 0.9]), np.array([0.5, -0.4, 0.1])
SKEW = np.array([[1.0, 0.3, -0.2], [0.3, -0.1, 0.4], [-0.2, 0.4, 0.6]])  # indefinite
REWARDS = {
    "number": Quadratic(0.8, 0.3, -0.4, 1.7),
    "negative": Quadratic(-0.02, 0.3, 0.5),
    "linear": Linear(-0.6, 0.2),
    "diagonal": Quadratic(np.diag([1.0, 0.2, 0.0]), C, B),
    "matrix": Quadratic(SKEW, C, B, -2.0),
    "vector": Linear(B),
}
CASES = [
    pytest.param(law, reward, id=f"{name}, {kind}")
    for name, law in LAWS.items()
    for kind, reward in REWARDS.items()
    if reward.dim in (None, law.dim)
]


@pytest.mark.parametrize(("law", "reward"), CASES)
def test_density_ratio_is_exp_of_the_reward_up_to_a_constant(law, reward):
    beta = 4.0
    tilted = tilt(law, reward, beta)
    assert type(tilted) is type(law)
    x = RNG.standard_normal((50, law.dim)) * 2
    constant = tilted.log_prob(x) - law.log_prob(x) - reward(x) / beta
    np.testing.assert_allclose(constant, constant[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("law", "reward"), [case for case in CASES if isinstance(case.values[0], Gaussian)])
def test_the_constant_is_minus_the_log_of_the_mean_exponential_and_solves_the_kl_problem(law, reward):
    """log E[exp(r/beta)] = E* r / beta - KL(p* || p), both sides from the tilted law alone."""
    beta = 4.0
    tilted = tilt(law, reward, beta)
    log_mass = -(tilted.log_prob(law.mean) - law.log_prob(law.mean) - reward(law.mean) / beta)
    assert reward.expectation(tilted) / beta - tilted.kl(law) == pytest.approx(float(log_mass), rel=1e-10)
    other = tilt(law, reward, 3.8)
    assert reward.expectation(other) - beta * other.kl(law) < reward.expectation(tilted) - beta * tilted.kl(law)


@pytest.mark.parametrize("name", ["d=1", "mixture d=1"])
@pytest.mark.parametrize("kind", ["number", "negative", "linear"])
def test_expectations_under_the_tilt_equal_quadrature(name, kind):
    law, reward, beta = LAWS[name], REWARDS[kind], 0.9

    def weighted(f):
        def integrand(x):
            return f(x) * math.exp(float(law.log_prob(np.array([x]))) + float(reward(np.array([x]))) / beta)

        return sum(quad(integrand, a, a + 2, epsabs=1e-14)[0] for a in range(-20, 20, 2))

    mass = weighted(lambda x: 1.0)
    tilted = tilt(law, reward, beta)
    for other, f in [(Linear(1.0), lambda x: x), (Bump(0.3, 0.4), lambda x: math.exp(-(((x - 0.3) / 0.4) ** 2) / 2))]:
        assert other.expectation(tilted) == pytest.approx(weighted(f) / mass, rel=1e-9)


@pytest.mark.parametrize("kind", ["number", "diagonal", "linear", "vector"])
def test_a_diagonal_law_stays_diagonal_and_equals_the_full_route(kind):
    law, reward = LAWS["diagonal"], REWARDS[kind]
    tilted = tilt(law, reward, 0.7)
    assert tilted.is_diagonal
    full = tilt(Gaussian(law.mean, law.matrix), reward, 0.7)
    assert not full.is_diagonal
    np.testing.assert_allclose(full.mean, tilted.mean, rtol=1e-12)
    np.testing.assert_allclose(full.cov, tilted.matrix, rtol=1e-12, atol=1e-15)
    assert tilt(LAWS["mixture diagonal"], reward, 0.7).components.is_diagonal
    assert not tilt(law, REWARDS["matrix"], 4.0).is_diagonal


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_beta_and_the_batch_broadcast(law):
    betas = np.array([0.5, 1.0, 8.0])
    reward = REWARDS["number"]
    batch = tilt(law, reward, betas)
    assert batch.batch_shape == (3,)
    for k, beta in enumerate(betas):
        one = tilt(law, reward, beta)
        np.testing.assert_allclose(batch.mean[k], one.mean, rtol=1e-13)
        np.testing.assert_allclose(batch.moments().cov[k] if hasattr(batch, "moments") else batch.cov[k], one.cov)
    many = Gaussian(np.zeros((2, 1, 4)), 1.0)
    assert tilt(many, reward, betas).batch_shape == (2, 3)


def test_mixture_weights_stay_finite_where_the_mean_exponentials_overflow():
    tilted = tilt(GaussianMixture([0.5, 0.5], [0.0, 1e4], 1.0), Linear(1.0), 1e-3)
    np.testing.assert_array_equal(tilted.weights, [0.0, 1.0])
    np.testing.assert_allclose(tilted.mean, [1e4 + 1e3])
    winner = Gaussian(1e4 + 1e3, 1.0)  # a weight that underflows is a component that is not there
    for x in (np.array([[1e4]]), torch.tensor([[1e4]], dtype=torch.float64)):
        np.testing.assert_allclose(np.asarray(tilted.score(x)), winner.score(np.array([[1e4]])))
        np.testing.assert_allclose(np.asarray(tilted.log_prob(x)), winner.log_prob(np.array([[1e4]])))
    tilted = tilt(GaussianMixture([0.25, 0.75], [-1.0, 1.0], 1.0), Quadratic(1e5, 0.0), 1.0)
    np.testing.assert_allclose(tilted.weights, [0.25, 0.75], rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50), st.floats(1e-4, 1e4), st.floats(0, 1e3), st.floats(-50, 50), st.floats(1e-2, 1e3))
def test_one_dimension_is_precision_plus_twice_the_curvature(m, v, a, c, beta):
    tilted = tilt(Gaussian(m, v), Quadratic(a, c), beta)
    precision = 1 / v + 2 * a / beta
    assert tilted.cov[0] == pytest.approx(1 / precision, rel=1e-12)
    assert tilted.mean[0] == pytest.approx((m / v + 2 * a * c / beta) / precision, rel=1e-9, abs=1e-9)


def test_tilting_twice_is_tilting_by_the_sum():
    law = LAWS["mixture full"]
    twice = tilt(tilt(law, REWARDS["matrix"], 8.0), REWARDS["matrix"], 8.0)
    once = tilt(law, REWARDS["matrix"], 4.0)
    np.testing.assert_allclose(twice.weights, once.weights, rtol=1e-11)
    np.testing.assert_allclose(twice.components.mean, once.components.mean, rtol=1e-11)
    np.testing.assert_allclose(twice.components.cov, once.components.cov, rtol=1e-11, atol=1e-13)


def test_a_tilt_that_cannot_be_normalised_names_the_eigenvalue_and_the_least_beta():
    # cov A = -3: 1/v + 2A/beta = (1 - 6/beta)/v is positive above beta = 6
    law, reward = Gaussian(0.0, 1.5), Quadratic(-2.0, 0.0)
    with pytest.raises(ValueError, match=r"eigenvalue -3, .* beta must be above 6, got 5"):
        tilt(law, reward, 5.0)
    with pytest.raises(ValueError, match=r"beta must be above 6, got 6"):
        tilt(law, reward, 6.0)
    assert tilt(law, reward, 6.0001).cov[0] > 0
    with pytest.raises(ValueError, match=r"eigenvalue -3, .* beta must be above 6, got 4"):
        tilt(Gaussian([0.0, 0.0], [[1.0, 0.5], [0.5, 2.0]]), Quadratic(np.diag([-3.0, 0.0]), 0.0), 4.0)
    with pytest.raises(ValueError, match=r"eigenvalue -3, .* beta must be above 6, got 5"):
        tilt(GaussianMixture([0.5, 0.5], [0.0, 1.0], [0.1, 1.5]), reward, [9.0, 5.0])
    # of a batch only what is at fault is named: the second law's -3 is fine at beta = 100
    with pytest.raises(ValueError, match=r"eigenvalue -0\.2, .* beta must be above 0\.4, got 0\.1"):
        tilt(Gaussian([[0.0], [0.0]], [[0.1], [1.5]]), reward, [0.1, 100.0])


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: tilt(LAWS["d=1"], Linear(1.0), 0.0), ValueError, "beta must be positive, got 0"),
        (lambda: tilt(LAWS["d=1"], Linear(1.0), math.inf), ValueError, "beta must be finite, got inf"),
        (lambda: tilt(LAWS["d=1"], Bump(0.0, 1.0), 1.0), TypeError, "only Quadratic and Linear .* got Bump"),
        (lambda: tilt(LAWS["d=1"], abs, 1.0), TypeError, "only Quadratic and Linear rewards"),
        (lambda: tilt(3.0, Linear(1.0), 1.0), TypeError, "reference must be a Gaussian or a GaussianMixture, got 3.0"),
        (lambda: tilt(LAWS["d=1"], Linear(B), 1.0), ValueError, r"b has shape \(3,\), .* dimension 1"),
        (
            lambda: tilt(Gaussian(np.zeros((2, 1)), 1.0), Linear(1.0), np.ones(3)),
            ValueError,
            r"do not broadcast: shapes \(2,\) and \(3,\)",
        ),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
