"""Gaussian mixtures: density and score against scipy, autograd and 50-digit arithmetic; draws; bad input."""

import copy
import math
import pickle

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from gapbound import mixture
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture

RNG = np.random.default_rng(7)
ROOTS = 0.3 * RNG.standard_normal((3, 2, 2))
WEIGHTS = [0.2, 0.5, 0.3]
MEANS = [[0.1, -1.0], [2.0, 0.7], [-1.5, 0.3]]
FULL = GaussianMixture(WEIGHTS, MEANS, ROOTS @ ROOTS.swapaxes(-1, -2) + 0.2 * np.eye(2))
DIAGONAL = GaussianMixture(WEIGHTS, MEANS, [[0.3, 0.8], [1.1, 0.2], [0.05, 0.4]])
SHARED = GaussianMixture(WEIGHTS, MEANS, 0.37)
LINE = GaussianMixture(WEIGHTS, [-2.0, 0.3, 1.7], [0.1, 0.7, 0.02])
MIXTURES = {"full": FULL, "diagonal": DIAGONAL, "shared": SHARED, "d=1": LINE}

both = pytest.mark.parametrize("law", MIXTURES.values(), ids=MIXTURES.keys())
levels = pytest.mark.parametrize("sigma", [0.0, 0.3, 5.0])


def dense(law, sigma, x):
    """log q_tau(x), by scipy, one component at a time."""
    parts = [
        w * multivariate_normal(m, S + sigma**2 * np.eye(law.dim)).pdf(x)
        for w, m, S in zip(law.weights, law.components.mean, law.components.matrix, strict=True)
    ]
    return np.log(np.sum(parts, axis=0))


def points_near(law, n=40, sigma=0.0):
    return law.noised(sigma).sample(n, seed=2)


@both
@levels
def test_log_prob_of_the_noised_law_equals_scipy(law, sigma):
    x = points_near(law, sigma=sigma)
    np.testing.assert_allclose(law.noised(sigma).log_prob(x), dense(law, sigma, x), rtol=1e-11, atol=1e-12)


@both
@levels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_score_of_array_and_tensor_equals_the_gradient_of_the_noised_log_prob(law, sigma, dtype):
    x = points_near(law, sigma=sigma).reshape(5, 8, law.dim)
    z = torch.tensor(x, requires_grad=True)
    (gradient,) = torch.autograd.grad(law.noised(sigma).log_prob(z).sum(), z)
    np.testing.assert_allclose(law.score(x, sigma), gradient.numpy(), rtol=1e-10, atol=1e-12)
    score = law.score(torch.tensor(x, dtype=dtype), sigma)
    assert score.dtype == dtype
    tolerance = 1e-10 if dtype is torch.float64 else 1e-4
    np.testing.assert_allclose(score.numpy(), gradient.numpy(), rtol=tolerance, atol=tolerance)


@both
def test_score_of_a_tensor_can_be_differentiated(law):
    z = torch.tensor(points_near(law, 3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: law.score(z, 0.2), z)


@both
@levels
def test_tensors_give_the_log_prob_of_arrays(law, sigma):
    x = points_near(law, sigma=sigma)
    noised = law.noised(sigma)
    np.testing.assert_allclose(noised.log_prob(torch.tensor(x)).numpy(), noised.log_prob(x), rtol=1e-12)
    single = noised.log_prob(torch.tensor(x, dtype=torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), noised.log_prob(x), rtol=1e-4, atol=1e-4)


def exact_score(weights, means, variances, z):
    with mp.workdps(50):
        z = mp.mpf(float(z))
        parts = [
            (mp.mpf(float(w)) * mp.npdf(z, mp.mpf(float(m)), mp.sqrt(mp.mpf(float(v)))), (m - z) / mp.mpf(float(v)))
            for w, m, v in zip(weights, means, variances, strict=True)
        ]
        return float(sum(p * s for p, s in parts) / sum(p for p, _ in parts))


@pytest.mark.parametrize("cancels", [True, False], ids=["direct", "expanded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-3)])
def test_score_is_accurate_between_and_around_separated_modes(cancels, dtype, tolerance):
    # modes up to 50 standard deviations from 0: inside the range where the squares are expanded in either dtype
    means, variances = np.array([-50.0, -3.0, 0.0, 10.0]), np.array([1.5, 0.5, 0.4, 1.0])
    if cancels:
        means = 8 * means
    law = GaussianMixture([0.1, 0.2, 0.3, 0.4], means, variances)
    z = torch.tensor(np.concatenate([means - 1.25, means + 0.5, (means[1:] + means[:-1]) / 2]), dtype=dtype)
    exact = np.array([exact_score(law.weights, means, variances, x) for x in z])
    score = law.score(z[:, None], 0.0)[:, 0].numpy()
    constants = law._score_constants(0.0, dtype, z.device)
    assert constants.squares_cancel == (cancels and dtype is torch.float32)
    np.testing.assert_allclose(score, exact, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(law.score(z.double().numpy()[:, None])[:, 0], exact, rtol=1e-11, atol=1e-11)


def test_overlapping_components_far_from_the_origin_keep_their_posterior_in_float32():
    far = GaussianMixture([0.5, 0.5], [4096.0, 4097.0], [0.25, 0.5])
    near = GaussianMixture([0.5, 0.5], [0.0, 1.0], [0.25, 0.5])
    z = torch.linspace(-1, 2, 13)[:, None]
    np.testing.assert_allclose(far.score(4096 + z).numpy(), near.score(z).numpy(), atol=4e-3)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_score_is_finite_and_right_a_million_standard_deviations_away(law, dtype):
    for sigma in (0.0, 1e-6, 100.0):
        z = torch.full((2, law.dim), 1e6 * math.sqrt(law.components.variances.max()) + 1e6 * sigma, dtype=dtype)
        score = law.score(z, sigma)
        assert torch.isfinite(score).all()
        assert (score < 0).all()
        assert np.isfinite(law.score(z.double().numpy(), sigma)).all()
        assert np.isfinite(law.log_prob(z.double().numpy())).all()
        if law is not FULL:  # the widest component pulls
            pull = z[0, 0].item() / (law.components.variances.max() + sigma**2)
            assert -score[0, -1 if law is not DIAGONAL else 0].item() <= pull * 40
            if law in (SHARED, LINE):
                np.testing.assert_allclose(-score.numpy(), pull, rtol=1e-5)


def test_score_is_finite_for_tiny_variances_and_says_when_float32_cannot_hold_them():
    law = GaussianMixture([0.5, 0.5], [0.0, 1.0], 1e-30)
    z = torch.tensor([[0.0], [0.5], [1.0]])
    assert torch.isfinite(law.score(z)).all()
    assert torch.isfinite(law.score(z.double(), 1e-15)).all()
    with pytest.raises(ValueError, match=r"a variance of 1e-60 is too small for torch\.float32; use torch\.float64"):
        GaussianMixture([0.5, 0.5], [0.0, 1.0], 1e-60).score(z)


@both
def test_one_component_is_a_gaussian(law):
    alone = GaussianMixture([1.0], law.components.mean[:1], law.components.cov[:1])
    gaussian = Gaussian(law.components.mean[0], law.components.cov[0])
    x = points_near(law)
    np.testing.assert_allclose(alone.score(x, 0.4), gaussian.score(x, 0.4), rtol=1e-12)
    np.testing.assert_allclose(alone.score(torch.tensor(x), 0.4), gaussian.score(torch.tensor(x), 0.4), rtol=1e-12)
    np.testing.assert_allclose(alone.log_prob(x), gaussian.log_prob(x), rtol=1e-12)


@both
def test_draws_have_the_mixture_s_moments_and_the_score_s_mean_is_zero(law):
    n = 200_000
    x = law.sample(n, seed=11)
    assert x.shape == (n, law.dim)
    error = x.std(0) / math.sqrt(n)
    assert (np.abs(x.mean(0) - law.mean) < 4 * error).all()
    centred = x - law.mean
    products = centred[:, :, None] * centred[:, None, :]
    full = law.cov[:, None] if law.dim == 1 else law.cov
    assert (np.abs(products.mean(0) - full) < 4 * products.std(0) / math.sqrt(n)).all()
    assert not (np.abs(products.mean(0) - 1.02 * full) < 4 * products.std(0) / math.sqrt(n)).all()
    score = law.score(x)
    assert (np.abs(score.mean(0)) < 4 * score.std(0) / math.sqrt(n)).all()
    stein = (score * x).mean(0)  # E[x score'] = -I
    np.testing.assert_allclose(stein, -1, atol=4 * (score * x).std(0).max() / math.sqrt(n))
    np.testing.assert_array_equal(law.sample(5, seed=1), law.sample(5, seed=1))
    assert (law.sample(5, seed=1) != law.sample(5, seed=2)).any()


def test_components_are_drawn_as_often_as_their_weights_say():
    law = GaussianMixture([0.2, 0.5, 0.3], [0.0, 100.0, 200.0], 1.0)
    n = 100_000
    share = np.bincount(np.round(law.sample(n)[:, 0] / 100).astype(int)) / n
    assert (np.abs(share - law.weights) < 4 * np.sqrt(law.weights * (1 - law.weights) / n)).all()


@both
def test_moments_are_the_gaussian_of_the_same_mean_and_covariance(law):
    gaussian = law.moments()
    assert (gaussian.batch_shape, gaussian.dim) == (law.batch_shape, law.dim)
    again = Gaussian(law.mean, law.cov)
    np.testing.assert_array_equal(gaussian.mean, again.mean)
    np.testing.assert_allclose(gaussian.cov, again.cov, rtol=1e-15)
    np.testing.assert_array_equal(law.pure_noise_mean, law.mean)
    noised = law.noised(1.5)
    grown = law.cov + 2.25 * (np.eye(law.dim) if law.dim > 1 else 1)
    np.testing.assert_allclose(noised.cov, grown, rtol=1e-12)
    np.testing.assert_allclose(noised.mean, law.mean, rtol=1e-13)


def test_a_batch_is_its_members():
    weights = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    means = RNG.standard_normal((3, 2, 4))
    variances = RNG.uniform(0.5, 2, (3, 2, 4))
    batch = GaussianMixture(weights, means, variances)
    full = GaussianMixture(weights, means, variances[..., None] * np.eye(4))
    each = [GaussianMixture(*parts) for parts in zip(weights, means, variances, strict=True)]
    assert (batch.batch_shape, batch.dim, batch.sample(6).shape) == ((3,), 4, (6, 3, 4))
    assert full.cov.shape == batch.cov.shape == (3, 4, 4)
    x = RNG.standard_normal((7, 3, 4))
    sigma = np.array([0.0, 0.5, 2.0])
    np.testing.assert_allclose(full.score(x, sigma), batch.score(x, sigma), rtol=1e-10, atol=1e-12)
    for k, law in enumerate(each):
        np.testing.assert_allclose(batch.score(x, sigma)[:, k], law.score(x[:, k], sigma[k]), rtol=1e-12)
        np.testing.assert_allclose(
            batch.noised(sigma).log_prob(torch.tensor(x))[:, k].numpy(), law.noised(sigma[k]).log_prob(x[:, k])
        )
        np.testing.assert_allclose(batch.cov[k], law.cov)


@pytest.mark.parametrize(
    ("weights", "means", "covs", "batch", "dim", "diagonal"),
    [
        ((2,), (2,), (), (), 1, True),
        ((2,), (2,), (2,), (), 1, True),
        ((2,), (2, 1), (2,), (), 1, True),
        ((2,), (2, 1), (2, 1), (), 1, True),
        ((2,), (2, 3), (), (), 3, True),
        ((2,), (2, 3), (2, 3), (), 3, True),
        ((2,), (2, 2), (2, 2, 2), (), 2, False),
        ((5, 2), (5, 2), (5, 2), (5,), 1, True),
        ((5, 2), (5, 2, 3), (5, 2, 3, 3), (5,), 3, False),
        ((1, 2), (5, 2, 3), (), (5,), 3, True),
        ((5, 2), (1, 2, 3), (1, 2, 3), (5,), 3, True),
        ((1, 2), (1, 2, 3), (5, 2, 3), (5,), 3, True),
    ],
)
def test_the_rule_of_shapes(weights, means, covs, batch, dim, diagonal):
    cov = np.broadcast_to(np.eye(dim), covs) if not diagonal else np.ones(covs)
    law = GaussianMixture(np.full(weights, 0.5), np.zeros(means), cov)
    assert (law.batch_shape, law.dim, law.components.is_diagonal) == (batch, dim, diagonal)
    assert law.weights.shape == law.components.batch_shape == (*batch, 2)
    assert law.mean.shape == (*batch, dim)
    assert law.score(np.zeros((4, *batch, dim))).shape == (4, *batch, dim)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.floats(-30, 30), st.floats(1e-3, 30)), min_size=1, max_size=5),
    st.floats(0, 30),
    st.floats(-100, 100),
)
def test_score_lies_between_the_component_scores(parts, sigma, x):
    weights, means, variances = (np.array(column) for column in zip(*parts, strict=True))
    law = GaussianMixture(weights / weights.sum(), means, variances)
    pulls = (means - x) / (variances + sigma**2)
    slack = 1e-12 * ((np.abs(means) + abs(x)) / (variances + sigma**2)).max()  # what rounding z costs the score
    for score in (law.score(np.array([x]), sigma), law.score(torch.tensor([x], dtype=torch.float64), sigma)):
        assert pulls.min() - slack <= float(score[0]) <= pulls.max() + slack


def test_constants_are_kept_for_a_bounded_number_of_levels_and_survive_copies(monkeypatch):
    monkeypatch.setattr(mixture, "MAX_KNOWN", 3)
    law = GaussianMixture(WEIGHTS, MEANS, 0.37)
    z = torch.zeros(2, 2)
    first = [law.score(z, sigma) for sigma in range(8)]
    assert len(law._known_constants) <= 3
    again = [pickle.loads(pickle.dumps(copy.deepcopy(law))).score(z, sigma) for sigma in range(8)]
    torch.testing.assert_close(first, again, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: GaussianMixture([0.5, 0.4], [0.0, 1.0], 1.0), ValueError, r"must sum to 1, got a sum of 0\.9"),
        (lambda: GaussianMixture([1.5, -0.5], [0.0, 1.0], 1.0), ValueError, r"weights must be positive, got -0\.5"),
        (lambda: GaussianMixture(1.0, [0.0], 1.0), ValueError, r"weights must have shape \(\*batch, K\)"),
        (lambda: GaussianMixture([0.5, 0.5], [0.0], 1.0), ValueError, r"means must have shape .* got \(1, 1\)"),
        (lambda: GaussianMixture([0.5, 0.5], 0.0, 1.0), ValueError, r"means must have shape .* got \(\)"),
        (lambda: GaussianMixture([0.5, 0.5], [0.0, math.nan], 1.0), ValueError, "means must be finite, got nan"),
        (lambda: GaussianMixture([0.5, 0.5], MEANS[:2], [1.0, 2.0]), ValueError, r"\(\*batch, 2, 2\) for diagonals"),
        (lambda: GaussianMixture([0.5, 0.5], [0.0, 1.0], [1.0]), ValueError, r"or \(\*batch, 2\), got shape \(1, 1\)"),
        (lambda: GaussianMixture([0.5, 0.5], [0.0, 1.0], [1.0, -1.0]), ValueError, "cov must be positive, got -1"),
        (
            lambda: GaussianMixture([1.0], MEANS[:1], [[[1.0, 2.0], [2.0, 1.0]]]),
            ValueError,
            "positive definite, got smallest eigenvalue -1",
        ),
        (lambda: GaussianMixture(["a"], [0.0], 1.0), TypeError, "weights must be a real number"),
        (lambda: LINE.score(torch.zeros(3, 1), -1.0), ValueError, r"sigma must be 0 or more, got -1\.0"),
        (lambda: LINE.score(np.zeros((3, 1)), math.nan), ValueError, "sigma must be finite, got nan"),
        (lambda: LINE.noised(-1.0), ValueError, r"sigma must be 0 or more, got -1\.0"),
        (lambda: SHARED.score(torch.zeros(3, 1)), ValueError, r"the last axis of z must have 2 .*\(3, 1\)"),
        (lambda: SHARED.log_prob(np.zeros(3)), ValueError, r"the last axis of x must have 2 .*\(3,\)"),
        (lambda: LINE.sample(0), ValueError, "n must be at least 1, got 0"),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
