"""Signal and noise of the policy gradient: exact moments against autograd and sampled gradients, and the theory."""

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

import gapbound as gb
from gapbound.chain import affine_steps
from gapbound.training import (
    Consistent,
    PerStep,
    Task,
    best_eta,
    fisher_information,
    fisher_limit,
    gradient_moments,
    mean_signal,
    signal_share,
)
from gapbound.training.path import expected_reward, path
from gapbound.training.policy import Affine

REFERENCE = gb.Gaussian(0.2, 0.8)
REWARDS = [gb.Quadratic(1.1, 0.9, 0.3), gb.Linear(0.8)]
PROCESS = gb.VP(1.6)


def task(eta, reward, steps=6):
    return Task(REFERENCE, PROCESS, reward, eta, 0.0, steps)


def moved(one, seed=1):
    policy, generator = PerStep.of(one), torch.Generator().manual_seed(seed)
    return policy.with_parameters(
        tuple(p + 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in policy.parameters)
    )


def sampled_gradients(one, policy, n, seed=0):
    """One path's score-function gradients for offset and gain, shapes (2, N, n), written in NumPy."""
    walk, rng = one.walk(), np.random.default_rng(seed)
    model = policy.affine(walk.sigma)
    baseline = float(expected_reward(one, *(x[-1] for x in path(walk, model))))
    z, scores = float(walk.start) ** 0.5 * rng.standard_normal(n), []
    for gain, offset, drop, std in zip(*(x.tolist() for x in (*model, walk.drop, walk.std)), strict=True):
        xi = rng.standard_normal(n)
        scores.append(np.stack([-drop / std * xi, -drop / std * xi * z]) if std else np.zeros((2, n)))
        z = z - drop * (gain * z + offset) + std * xi
    return np.stack(scores, axis=1) * (one.reward(z[:, None]) - baseline)


@pytest.mark.parametrize("reward", REWARDS, ids=["quadratic", "linear"])
@pytest.mark.parametrize("eta", [0.5, 1.0, 1.7])
def test_the_mean_of_the_policy_gradient_is_the_exact_gradient(eta, reward):
    one = task(eta, reward)
    walk, model = one.walk(), moved(one).affine(one.walk().sigma)
    leaves = Affine(model.gain.clone().requires_grad_(), model.offset.clone().requires_grad_())
    law = path(walk, leaves)
    expected_reward(one, law.mean[-1], law.variance[-1]).backward()
    moments, has = gradient_moments(one, moved(one)), walk.stochastic.numpy()
    np.testing.assert_allclose(moments.offset_mean[has], leaves.offset.grad.numpy()[has], rtol=1e-10)
    np.testing.assert_allclose(moments.gain_mean[has], leaves.gain.grad.numpy()[has], rtol=1e-10, atol=1e-14)
    assert moments.offset_mean[~has] == 0  # the deterministic last step carries no policy gradient
    assert abs(leaves.offset.grad.numpy()[~has]) > 0.01


@pytest.mark.parametrize("reward", REWARDS, ids=["quadratic", "linear"])
@pytest.mark.parametrize("eta", [0.5, 1.7])
def test_moments_agree_with_sampled_gradients_in_standard_errors(eta, reward):
    one, n = task(eta, reward), 400_000
    found, moments = sampled_gradients(one, moved(one), n), gradient_moments(one, moved(one))
    has = one.walk().stochastic.numpy()
    for row, (mean, variance) in enumerate(
        [(moments.offset_mean, moments.offset_variance), (moments.gain_mean, moments.gain_variance)]
    ):
        g, mean, variance = found[row][has], mean[has], variance[has]
        z_mean = (g.mean(1) - mean) / np.sqrt(variance / n)
        squares = (g - mean[:, None]) ** 2
        z_variance = (squares.mean(1) - variance) / (squares.std(1) / n**0.5)
        assert np.abs(z_mean).max() < 4
        assert np.abs(z_variance).max() < 4
        assert np.abs((squares.mean(1) - 1.1 * variance) / (squares.std(1) / n**0.5)).max() > 4  # power


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.7])
def test_offset_moments_are_the_closed_form_of_hermite_polynomials(eta):
    one = task(eta, REWARDS[0])
    policy, walk = moved(one), one.walk()
    moments, law = gradient_moments(one, policy), path(walk, policy.affine(walk.sigma))
    s2, c, (a, centre, b, _) = float(law.variance[-1]), moments.correlation[:-1], one.quadratic_form()
    slope = b - 2 * a * (float(law.mean[-1]) - centre)
    w2 = (walk.drop / walk.std).numpy()[:-1] ** 2
    square = w2 * (slope**2 * s2 * (1 + 2 * c**2) + a**2 * s2**2 * (2 + 8 * c**2))
    np.testing.assert_allclose(moments.offset_variance[:-1] + moments.offset_mean[:-1] ** 2, square, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.4, 1.0, 2.0])
def test_signal_shares_are_those_of_the_exact_chain_and_telescope(eta):
    v, sigmas = 0.8, gb.grid(PROCESS, 7)
    shares = [float(signal_share(v, s, t, eta)) for s, t in itertools.pairwise(sigmas)]
    chain = list(affine_steps(gb.Gaussian(0.3, v), "exact", sigmas, np.asarray(eta)))
    for k, step in enumerate(chain):
        left = np.prod([later.A[0] for later in chain[k + 1 :]])
        assert shares[k] == pytest.approx(float(step.S[0] * left) ** 2 / v, rel=1e-10)
    rho = v / (v + float(sigmas[0]) ** 2)
    assert sum(shares) == pytest.approx(1 - rho ** (eta**2), rel=1e-12)


def test_for_a_linear_reward_one_paths_signal_is_the_share_over_one_plus_the_share():
    errors = {}
    for eta, steps in itertools.product((0.5, 1.7), (200, 2000)):
        one = Task(gb.Gaussian(0.0, 1.0), PROCESS, REWARDS[1], eta, 0.0, steps)  # its noised law is the prior
        moments, share = gradient_moments(one, Consistent.of(one)), signal_share(1.0, *_pairs(one), eta)
        c2 = moments.correlation[:-1] ** 2
        np.testing.assert_allclose(moments.offset_signal[:-1], c2 / (1 + c2), rtol=1e-10)
        errors[eta, steps] = np.abs(c2 - share).max() / share.max()
    for eta in (0.5, 1.7):  # gDDIM tends to the exact-marginal kernel of the formula, at first order
        assert errors[eta, 2000] < 0.02
        assert errors[eta, 200] / errors[eta, 2000] > 5


def _pairs(one):
    return one.sigmas[:-2], one.sigmas[1:-1]


def test_early_steps_have_an_interior_best_eta_and_the_sum_has_none():
    v = 0.8
    for sigma, low in ((5.0, 4.0), (2.0, 1.2), (0.5, 0.3)):
        found = minimize_scalar(lambda x, s=sigma, t=low: -signal_share(v, s, t, x), bounds=(0.05, 6), method="bounded")
        assert float(best_eta(v, sigma, low)) == pytest.approx(found.x, rel=1e-4)
    sigmas, etas = gb.grid(PROCESS, 7), np.linspace(0.1, 3, 30)
    total = sum(signal_share(v, s, t, etas) for s, t in itertools.pairwise(sigmas))
    assert (np.diff(total) > 0).all()
    assert (np.diff(signal_share(v, 0.5, 0.0, etas)) > 0).all()
    with pytest.raises(ValueError, match="a last step to sigma = 0 has no best eta"):
        best_eta(v, 0.5, 0.0)
    with pytest.raises(ValueError, match="noise levels must fall"):
        signal_share(v, 0.5, 0.6, 1.0)


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_fisher_information_tends_to_its_limit_which_is_the_integral(eta):
    v, sigma_T = 0.8, float(PROCESS.sigma_T)
    integral, _ = quad(lambda tau: (1 + eta**2) ** 2 / (4 * eta**2) / (v + tau) ** 2, 0, sigma_T**2)
    limit = float(fisher_limit(v, sigma_T, eta))
    assert limit == pytest.approx(integral, rel=1e-9)
    errors = [abs(float(fisher_information(task(eta, REWARDS[1], n))) - limit) for n in (1000, 4000)]
    assert errors[1] < 0.35 * errors[0] < 0.02 * limit


def test_fisher_information_of_a_shared_mean_is_smallest_at_eta_1():
    etas = np.linspace(0.3, 3, 28)
    one = task(etas, REWARDS[1], 50)
    assert etas[fisher_information(one).argmin()] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="eta must be positive"):
        fisher_limit(1.0, 1.0, 0.0)


@pytest.mark.parametrize("reward", REWARDS, ids=["quadratic", "linear"])
def test_the_shared_means_gradient_agrees_with_sampled_ones(reward):
    one, n = task(1.3, reward), 400_000
    policy = Consistent.of(one)
    gain = policy.affine(one.walk().sigma).gain.numpy()
    g = (sampled_gradients(one, policy, n)[0] * -gain[:, None]).sum(0)  # d offset / d mean = -gain
    mean, variance = mean_signal(one)
    assert abs(g.mean() - mean) < 4 * np.sqrt(variance / n)
    squares = (g - mean) ** 2
    assert abs(squares.mean() - variance) < 4 * squares.std() / n**0.5
    # what the deterministic last step passes on directly is missing from it
    leaf = policy.mean.clone().requires_grad_()
    law = path(one.walk(), policy.with_parameters((leaf, policy.log_variance)).affine(one.walk().sigma))
    expected_reward(one, law.mean[-1], law.variance[-1]).backward()
    assert abs(g.mean() - float(leaf.grad)) > 4 * np.sqrt(variance / n)
