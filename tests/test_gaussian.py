"""Gaussian laws: density, score, distances and divergences against scipy, 50-digit arithmetic and draws; bad input."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal, norm

from gapbound.gaussian import Gaussian, rotate, trusted

RNG = np.random.default_rng(3)
ROOT = RNG.standard_normal((3, 3))
LAWS = {
    "number": Gaussian(0.4, 0.7),
    "isotropic": Gaussian([0.4, -1.0, 0.2], 0.7),
    "diagonal": Gaussian([0.4, -1.0, 0.2], [0.7, 1.3, 0.2]),
    "full": Gaussian([0.4, -1.0, 0.2], ROOT @ ROOT.T + 0.3 * np.eye(3)),
}
OTHER = Gaussian([1.0, 0.1, -0.7], [[1.1, 0.3, -0.2], [0.3, 0.9, 0.1], [-0.2, 0.1, 1.7]])
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


@pytest.mark.parametrize(
    ("mean", "cov", "batch", "dim", "diagonal"),
    [
        ((), (), (), 1, True),
        ((), (1,), (), 1, True),
        ((), (5, 1), (5,), 1, True),
        ((3,), (), (), 3, True),
        ((3,), (3,), (), 3, True),
        ((3,), (3, 3), (), 3, False),
        ((5, 3), (3,), (5,), 3, True),
        ((5, 3), (5, 3), (5,), 3, True),
        ((1, 3), (5, 3), (5,), 3, True),
        ((5, 3), (1, 3, 3), (5,), 3, False),
        ((1, 3), (5, 3, 3), (5,), 3, False),
        ((2, 1, 3), (5, 3), (2, 5), 3, True),
    ],
)
def test_the_rule_of_shapes(mean, cov, batch, dim, diagonal):
    law = Gaussian(np.zeros(mean), np.ones(cov) if diagonal else np.broadcast_to(np.eye(dim), cov))
    assert (law.batch_shape, law.dim, law.is_diagonal) == (batch, dim, diagonal)
    assert law.mean.shape == law.variances.shape == (*batch, dim)
    assert law.matrix.shape == (*batch, dim, dim)
    assert law.sample(2).shape == law.score(np.zeros((2, *batch, dim))).shape == (2, *batch, dim)
    noised = law.noised(np.ones(batch))
    assert (noised.batch_shape, noised.is_diagonal) == (batch, diagonal)


@laws
@pytest.mark.parametrize("sigma", [0.0, 0.8])
def test_log_prob_and_score_of_the_noised_law_equal_scipy_and_its_gradient(law, sigma):
    noised = law.noised(sigma)
    x = noised.sample(20, seed=1)
    reference = multivariate_normal(law.mean, law.matrix + sigma**2 * np.eye(law.dim)).logpdf(x)
    np.testing.assert_allclose(noised.log_prob(x), reference, rtol=1e-12)
    z = torch.tensor(x, requires_grad=True)
    log_prob = noised.log_prob(z)
    (gradient,) = torch.autograd.grad(log_prob.sum(), z)
    np.testing.assert_allclose(log_prob.detach().numpy(), reference, rtol=1e-12)
    for score in (law.score(x, sigma), law.score(torch.tensor(x), sigma).numpy(), noised.score(x)):
        np.testing.assert_allclose(score, gradient.numpy(), rtol=1e-10, atol=1e-12)
    gain = law.gain(sigma)
    affine = law.offset(sigma) - (gain * x if law.is_diagonal else x @ gain)
    np.testing.assert_allclose(affine, gradient.numpy(), rtol=1e-10, atol=1e-12)
    assert law.score(torch.tensor(x, dtype=torch.float32), sigma).dtype == torch.float32


@laws
def test_draws_have_the_mean_and_the_covariance(law):
    n = 200_000
    x = law.sample(n, seed=5)
    assert (np.abs(x.mean(0) - law.mean) < 4 * x.std(0) / math.sqrt(n)).all()
    centred = x - law.mean
    products = centred[:, :, None] * centred[:, None, :]
    error = 4 * products.std(0) / math.sqrt(n)
    assert (np.abs(products.mean(0) - law.matrix) < error).all()
    assert not (np.abs(products.mean(0) - 1.03 * law.matrix) < error).all()
    np.testing.assert_array_equal(law.sample(3, seed=1), law.sample(3, seed=1))
    assert (law.sample(3, seed=1) != law.sample(3, seed=2)).any()


def test_a_batch_is_its_members_for_diagonal_and_full_covariances():
    mean = RNG.standard_normal((4, 2))
    roots = RNG.standard_normal((4, 2, 2))
    covs = roots @ roots.swapaxes(-1, -2) + 0.1 * np.eye(2)
    x, sigma = RNG.standard_normal((6, 4, 2)), np.array([0.0, 0.3, 1.0, 4.0])
    batch, other = Gaussian(mean, covs), Gaussian([0.1, 0.2], [[1.0, 0.3], [0.3, 9.0]])
    for k in range(4):
        law = Gaussian(mean[k], covs[k])
        np.testing.assert_allclose(batch.noised(sigma).log_prob(x)[:, k], law.noised(sigma[k]).log_prob(x[:, k]))
        np.testing.assert_allclose(batch.score(x, sigma)[:, k], law.score(x[:, k], sigma[k]))
        np.testing.assert_allclose(batch.kl(other)[k], law.kl(other))
        np.testing.assert_allclose(batch.w2(other)[k], law.w2(other))
    diagonal = Gaussian(mean, [0.5, 2.0])
    np.testing.assert_allclose(
        diagonal.score(x, sigma), Gaussian(mean, diagonal.matrix).score(x, sigma), rtol=1e-12, atol=1e-13
    )


def test_one_basis_turns_many_vectors_as_it_turns_each():
    basis, vectors = RNG.standard_normal((3, 3)), RNG.standard_normal((4, 5, 3))
    expected = [[basis @ v for v in row] for row in vectors]
    np.testing.assert_allclose(rotate(basis, vectors), expected)
    np.testing.assert_allclose(rotate(np.broadcast_to(basis, (5, 3, 3)), vectors), expected)
    assert rotate(None, vectors) is vectors


@pytest.mark.parametrize("name", ["isotropic", "diagonal", "full"])
def test_distances_equal_their_textbook_forms(name):
    law = LAWS[name]
    S, R = law.matrix, OTHER.matrix
    shift, inverse = law.mean - OTHER.mean, np.linalg.inv(R)
    root = sqrtm(R)
    bures = np.trace(S + R - 2 * np.real(sqrtm(root @ S @ root)))
    assert law.w2(OTHER) == pytest.approx(math.sqrt(shift @ shift + bures), rel=1e-10)
    assert law.w2(OTHER) == pytest.approx(OTHER.w2(law), rel=1e-12)
    log_ratio = np.linalg.slogdet(R)[1] - np.linalg.slogdet(S)[1]
    kl = (np.trace(inverse @ S) - 3 + shift @ inverse @ shift + log_ratio) / 2
    assert law.kl(OTHER) == pytest.approx(kl, rel=1e-11)
    narrow = Gaussian(law.mean, 0.1 * S)
    x = OTHER.sample(400_000, seed=2)
    ratio = np.exp(narrow.log_prob(x) - OTHER.log_prob(x))
    squares = (ratio - 1) ** 2
    assert abs(squares.mean() - narrow.chi2(OTHER)) < 5 * squares.std() / math.sqrt(squares.size)


@pytest.mark.parametrize(("m", "v", "n", "w"), [(0.0, 1.0, 0.0, 1.0), (0.3, 0.7, -0.2, 1.1), (1.0, 1.9, 0.0, 1.0)])
def test_divergences_equal_quadrature_in_one_dimension(m, v, n, w):
    p, q = norm(m, math.sqrt(v)), norm(n, math.sqrt(w))
    one, other = Gaussian(m, v), Gaussian(n, w)
    kl, _ = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -15, 15, epsabs=1e-13)
    assert one.kl(other) == pytest.approx(kl, abs=1e-11)
    chi2, _ = quad(lambda x: math.exp(2 * p.logpdf(x) - q.logpdf(x)), -60, 60, epsabs=1e-13, limit=400, points=[m])
    assert one.chi2(other) == pytest.approx(chi2 - 1, abs=1e-9)
    assert one.w2(other) == pytest.approx(math.hypot(m - n, math.sqrt(v) - math.sqrt(w)), abs=1e-15)


def test_chi2_between_nearly_equal_laws_keeps_its_relative_accuracy():
    with mp.workdps(50):
        one, other = Gaussian(0.0, 1.0 + 2.0**-30), Gaussian(2.0**-31, 1.0)
        excess, shift = mp.mpf(2) ** -30, mp.mpf(2) ** -31
        exact = mp.exp(shift**2 / (1 - excess)) / mp.sqrt(1 - excess**2) - 1
        assert float(one.chi2(other) / exact - 1) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_distances_are_not_negative_and_zero_between_equal_laws(m, v, n, w):
    one, other = Gaussian([m, n], [v, w]), Gaussian([n, m], [w, v])
    for law in (one, other, Gaussian(one.mean, one.matrix)):
        assert law.kl(law) == law.chi2(law) == 0
        assert law.w2(law) <= 1e-6 * math.sqrt(v + w)
    assert one.kl(other) >= 0
    assert one.w2(other) >= 0


def test_trusted_broadcasts_the_batch_axes():
    law = trusted(np.zeros((5, 1, 2)), np.ones((3, 2)), event=1)
    assert law.mean.shape == law.cov.shape == (5, 3, 2)
    assert trusted(np.zeros((5, 2)), np.eye(2), event=2).cov.shape == (5, 2, 2)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Gaussian(0.0, 0.0), ValueError, "cov must be positive, got 0"),
        (lambda: Gaussian([0.0, 1.0], [1.0, -2.0]), ValueError, "cov must be positive, got -2"),
        (lambda: Gaussian([0.0, 1.0], [1.0, 2.0, 3.0]), ValueError, r"last axis 2 .* got shape \(3,\)"),
        (lambda: Gaussian([], 1.0), ValueError, r"mean must not be empty, got shape \(0,\)"),
        (lambda: Gaussian([0.0, 1.0], np.ones((3, 3))), ValueError, r"must have shape \(\.\.\., 2, 2\)"),
        (lambda: Gaussian([0.0, 1.0], np.ones((5, 2))), ValueError, r"a batch axis too: mean\[None\]"),
        (lambda: Gaussian([0.0, 1.0], [[1.0, 0.5], [0.4, 1.0]]), ValueError, r"symmetric, .* differ by 0\.1"),
        (lambda: Gaussian([0.0, 1.0], [[1.0, 2.0], [2.0, 1.0]]), ValueError, "smallest eigenvalue -1"),
        (lambda: Gaussian(math.nan, 1.0), ValueError, "mean must be finite, got nan"),
        (lambda: Gaussian([0.0, math.inf], 1.0), ValueError, r"mean must be finite, got inf at index \(1,\)"),
        (lambda: Gaussian(0.0, "1"), TypeError, "cov must be a real number"),
        (
            lambda: Gaussian(np.zeros((2, 3)), np.ones((4, 3))),
            ValueError,
            "batch axes of mean and cov do not broadcast",
        ),
        (lambda: LAWS["full"].noised(-1.0), ValueError, r"sigma must be 0 or more, got -1\.0"),
        (lambda: LAWS["full"].score(np.zeros((4, 2))), ValueError, r"last axis of z must have 3 .*\(4, 2\)"),
        (lambda: LAWS["full"].log_prob(np.zeros(2)), ValueError, r"last axis of x must have 3 .*\(2,\)"),
        (lambda: LAWS["full"].sample(0), ValueError, "n must be at least 1, got 0"),
        (lambda: LAWS["full"].kl(LAWS["number"]), ValueError, "same dimension, got 3 and 1"),
        (lambda: LAWS["full"].w2(3.0), TypeError, "must be a Gaussian, got 3.0"),
        (lambda: Gaussian(0.0, 2.0).chi2(Gaussian(0.0, 1.0)), ValueError, r"chi\^2 is infinite: a variance is 2 times"),
        (
            lambda: (
                trusted(np.zeros(2), np.array([[1.0, 1.0], [1.0, 1.0]]) * (1 + 1e-17), event=2).noised(0.0).spectrum
            ),
            ValueError,
            "cov is singular to rounding: eigenvalues from",
        ),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
