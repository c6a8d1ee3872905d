"""What pairing is worth: the prediction against the joint law of all runs, and against theory 8."""

import itertools

import numpy as np
import pytest

import gapbound as gb
from gapbound.pairing import predicted_reduction

FULL = gb.Gaussian([0.7, -1.3], [[0.8, 0.3], [0.3, 0.5]])
CURVED = gb.Quadratic([[1.0, -0.4], [-0.4, 0.3]], [0.2, 0.1], b=[0.5, -1.0])
SD15 = gb.VP.stable_diffusion()  # sigma_T = 14.61


def joint_reduction(model, process, reward, sampler, sigmas, eta_ref, etas):
    """The same from the joint covariance of the reference and of every draw, with full matrices.

    ``etas`` has one entry per draw. Increments are common to the reference and the first draw alone.
    """
    d, runs = model.dim, 1 + len(etas)
    cov = np.kron(np.ones((runs, runs)), np.eye(d)) * float(process.prior_variance)
    mean = np.zeros(runs * d)
    for s, s_next in itertools.pairwise(sigmas):
        A, S, b = np.zeros((runs * d, runs * d)), np.zeros((runs * d, runs * d)), np.zeros(runs * d)
        for run, eta in enumerate((eta_ref, *etas)):
            own = slice(run * d, (run + 1) * d)
            gain = np.linalg.inv(model.matrix + s**2 * np.eye(d))
            ratio = s_next / s
            if sampler == "gddim":
                carry, std = s_next * ratio ** (eta**2), s_next * np.sqrt(1 - ratio ** (2 * eta**2))
            else:  # Euler-Maruyama
                h = s**2 - s_next**2
                carry, std = s - (1 + eta**2) / 2 * h / s, eta * np.sqrt(h)
            A[own, own] = np.eye(d) - s * (s - carry) * gain
            b[own] = s * (s - carry) * gain @ model.mean
            stream = slice(0, d) if run < 2 else own  # the first draw reuses the reference's increments
            S[own, stream] = std * np.eye(d)
        mean, cov = A @ mean + b, A @ cov @ A.T + S @ S.T
    return variance_ratio(reward, d, mean, cov, len(etas))


def variance_ratio(reward, d, mean, cov, draws):
    """Var of a sum of quadratic forms of one joint Gaussian vector, with and without its cross-covariances."""
    A, c, b, _ = reward.quadratic_form(d)
    A = A * np.eye(d) if np.ndim(A) == 0 else A
    weights = np.array([1.0] + [-1.0 / draws] * draws)

    def variance(cov):
        Q = np.kron(np.diag(weights), -A)
        g = np.concatenate([w * (b - 2 * A @ (m - c)) for w, m in zip(weights, mean.reshape(-1, d), strict=True)])
        return 2 * np.trace(Q @ cov @ Q @ cov) + g @ cov @ g

    blocks = cov.reshape(1 + draws, d, 1 + draws, d).copy()
    for i, j in itertools.permutations(range(1 + draws), 2):
        blocks[i, :, j] = 0.0
    return variance(blocks.reshape(cov.shape)) / variance(cov)


@pytest.mark.parametrize("sampler", ["gddim", "euler-maruyama"])
@pytest.mark.parametrize("eta_ref", [0.0, 0.6])
@pytest.mark.parametrize("draws", [1, 2, 5])
@pytest.mark.parametrize("reward", [CURVED, gb.Quadratic(0.7, [0.1, -0.4]), gb.Linear([1.0, 0.3])], ids=["A", "a", "b"])
def test_prediction_equals_the_joint_law_of_reference_and_draws(sampler, eta_ref, draws, reward):
    process = gb.VE(3.0)
    sigmas = gb.grid(process, 9)
    got = predicted_reduction(FULL, process, reward, sampler, sigmas, eta_ref, 1.1, draws)
    expected = joint_reduction(FULL, process, reward, sampler, sigmas, eta_ref, [1.1] * draws)
    assert got == pytest.approx(expected, rel=1e-10)
    assert got > 1


@pytest.mark.parametrize(("eta", "stated"), [(0.5, 1.88), (1.0, 1.05), (1.5, 1.00)])
def test_exact_sampler_from_sigma_14_61_gains_what_theory_8_states(eta, stated):
    v, rho = 0.5, 0.5 / (0.5 + float(SD15.sigma_T) ** 2)
    target, reward = gb.Gaussian(0.3, v), gb.Linear(2.0)
    sigmas = gb.grid(SD15, 30)
    got = predicted_reduction(target, SD15, reward, "exact", sigmas, 0.0, eta)
    assert got == pytest.approx(stated, abs=0.005)
    ode, sde = (float(gb.terminal_law(target, SD15, value).cov[0]) for value in (0.0, eta))
    # what both ends keep of the start: rho^(1/2) and rho^((1 + eta^2)/2)
    paired = ode + sde - 2 * float(SD15.prior_variance) * rho ** (1 + eta**2 / 2)
    assert (ode + sde) / paired == pytest.approx(got, rel=1e-10)


def test_correlation_with_the_ode_is_rho_to_the_eta_squared_half_where_the_prior_fits():
    """N(0, 1) under VP: all variances are equal, so the reduction is 1 / (1 - rho^(eta^2/2)) for a linear reward."""
    process, target = gb.VP(1.3), gb.Gaussian(0.0, 1.0)
    rho = 1 / (1 + float(process.sigma_T) ** 2)
    for eta in (0.3, 1.0, 1.7):
        got = predicted_reduction(target, process, gb.Linear(1.0), "exact", gb.grid(process, 5), 0.0, eta)
        assert got == pytest.approx(1 / (1 - rho ** (eta**2 / 2)), rel=1e-12)


def test_windows_predict_from_the_integral_over_the_window():
    process, target = gb.VP(1.3), gb.Gaussian(0.0, 1.0)
    sigmas = gb.grid(process, 6)
    low, high = sigmas[4], sigmas[2]
    correlation = ((1 + low**2) / (1 + high**2)) ** (0.8**2 / 2)
    window = gb.Windows([(low, high, 0.8)])
    got = predicted_reduction(target, process, gb.Linear(1.0), "exact", sigmas, 0.0, window)
    assert got == pytest.approx(1 / (1 - correlation), rel=1e-12)


def test_flow_matching_from_t_1_gains_nothing_once_eta_is_positive():
    process, target = gb.FlowMatching(), gb.Gaussian(0.4, 0.5)
    sigmas = gb.grid(process, 8)
    for eta in (0.5, 1.0):
        assert predicted_reduction(target, process, gb.Linear(1.0), "gddim", sigmas, 0.0, eta) == pytest.approx(1.0)


def test_runs_that_coincide_reduce_the_variance_without_bound():
    sigmas = gb.grid(gb.VE(3.0), 5)
    for eta in (0.0, 0.7):
        assert predicted_reduction(FULL, gb.VE(3.0), CURVED, "gddim", sigmas, eta, eta) == np.inf
    with_fresh_draws = predicted_reduction(FULL, gb.VE(3.0), CURVED, "gddim", sigmas, 0.7, 0.7, 2)
    assert np.isfinite(with_fresh_draws)


def test_only_gaussians_with_quadratic_rewards_have_a_prediction():
    sigmas = gb.grid(gb.VE(3.0), 5)
    mixture = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.3)
    guided = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 2.0)
    for model, reward in [
        (mixture, gb.Linear(1.0)),
        (guided, gb.Linear(1.0)),
        (gb.Gaussian(0.0, 1.0), gb.HalfSpace(1.0)),
    ]:
        assert predicted_reduction(model, gb.VE(3.0), reward, "gddim", sigmas, 0.0, 1.0) is None
