"""The RL optimum: theory 3.2 by five routes (closed form, moments, Riccati and moment ODEs, quadrature, sampling)."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from strategies import flow, ve, vp

import gapbound as gb
from gapbound.eta import segments
from gapbound.optimum import optimum_law, rl_optimum

RNG = np.random.default_rng(12)
ROOT, TWIST = RNG.standard_normal((2, 3, 3))
SPD, HILL = ROOT @ ROOT.T + 0.3 * np.eye(3), TWIST @ TWIST.T
MEAN, C, B = np.array([0.3, -1.0, 0.5]), np.array([1.0, 0.0, 0.5]), np.array([0.3, 0.1, -0.2])
REFERENCES = {
    "d=1": gb.Gaussian(0.4, 0.8),
    "diagonal": gb.Gaussian(MEAN, [0.2, 1.0, 3.0]),
    "full": gb.Gaussian(MEAN, SPD),
}
REWARDS = {
    "quadratic": gb.Quadratic(0.7, 0.3, -0.4),
    "convex": gb.Quadratic(-0.02, 0.3, 0.5),
    "linear": gb.Linear(0.6, 2.0),
    "twisted": gb.Quadratic(HILL, C, B),
    "indefinite": gb.Quadratic(0.3 * HILL - 0.2 * np.eye(3), C, B),
}
CASES = [
    pytest.param(reference, reward, id=f"{name}, {kind}")
    for name, reference in REFERENCES.items()
    for kind, reward in REWARDS.items()
    if reward.dim in (None, reference.dim)
]
MIXGRPO = gb.Windows([(0.5, 2.0, 1.3)])
TWO = gb.Windows([(0.0, 0.5, 0.7), (1.0, 2.5, 1.2)])
BETA = 2.3


def agree(law, other, tolerance):
    np.testing.assert_allclose(law.mean, other.mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(law.matrix, other.matrix, rtol=tolerance, atol=tolerance)


def quadratic(reward, reference):
    """H, g of theory 3.2 in the plain coordinates, for beta = 1."""
    A, c, b, _ = reward.quadratic_form(reference.dim)
    A = A * np.eye(reference.dim) if np.ndim(A) == 0 else A
    return 2 * A, b - 2 * (reference.mean - c) @ A


def by_riccati(reference, reward, beta, process, eta, sampled_by):
    """The law from log h = q'y - y'Py/2 solving its own equation, then the moment equations; no phi, no C."""
    d, sigma_T, excess = reference.dim, float(process.sigma_T), float(process.prior_excess)
    H, g = quadratic(reward, reference)
    y = np.concatenate([(H / beta).ravel(), g / beta])
    pieces = []
    for low, high, (trained, own) in segments(np.float64(eta) if np.isscalar(eta) else eta, sampled_by):
        if low < min(high, sigma_T):
            span = (math.log1p(low**2), math.log1p(min(high, sigma_T) ** 2))
            pieces.append((span, float(trained) ** 2, float(own) ** 2))
    solutions = []
    for span, square, _ in pieces:

        def up(s, y, square=square):
            P, q, R = y[: d * d].reshape(d, d), y[d * d :], np.linalg.inv(reference.matrix + math.expm1(s) * np.eye(d))
            c = (1 + square) / 2
            change = -c * (R @ P + P @ R) - square * P @ P, -c * R @ q - square * P @ q
            return np.concatenate([part.ravel() for part in change]) * math.exp(s)

        found = solve_ivp(up, span, y, method="DOP853", rtol=1e-12, atol=1e-14, dense_output=True)
        solutions.append(found.sol)
        y = found.y[:, -1]
    state = np.concatenate([-reference.mean, ((sigma_T**2 + excess) * np.eye(d)).ravel()])
    for (span, square, own), control in zip(pieces[::-1], solutions[::-1], strict=True):

        def down(s, y, square=square, own=own, control=control):
            values, R = control(s), np.linalg.inv(reference.matrix + math.expm1(s) * np.eye(d))
            k = 2 * square / (1 + square)
            G, f = R + k * values[: d * d].reshape(d, d), k * values[d * d :]
            m, V = y[:d], y[d:].reshape(d, d)
            change = (1 + own) / 2 * (G @ m - f), (1 + own) / 2 * (G @ V + V @ G) - own * np.eye(d)
            return np.concatenate([part.ravel() for part in change]) * math.exp(s)

        found = solve_ivp(down, span[::-1], state, method="DOP853", rtol=1e-12, atol=1e-14)
        state = found.y[:, -1]
    return gb.Gaussian(reference.mean + state[:d], (state[d:] if d == 1 else state[d:].reshape(d, d)))


@pytest.mark.parametrize("eta", [0.5, 2.0, TWO], ids=str)
@pytest.mark.parametrize(("reference", "reward"), CASES)
def test_sde_law_and_reused_ode_law_solve_the_riccati_and_moment_equations(reference, reward, eta):
    process = vp(20.0) if eta == 0.5 else ve(3.0)
    optimum = rl_optimum(reference, reward, BETA, process, eta)
    for own in (eta, 0.0):
        own = own if isinstance(own, gb.Windows) else np.float64(own)
        law = gb.terminal_law(optimum, process, own)
        agree(law, by_riccati(reference, reward, BETA, process, eta, own), 1e-10)


@pytest.mark.parametrize("eta", [0.5, 2.0, 4.0, MIXGRPO, TWO, gb.Windows([(1.0, math.inf, 1.2)])], ids=str)
@pytest.mark.parametrize(("reference", "reward"), CASES)
def test_the_closed_form_of_the_trained_law_equals_the_moments_of_its_sampler(reference, reward, eta):
    for process in (flow(9.0), gb.FlowMatching(1.0)):
        optimum = rl_optimum(reference, reward, BETA, process, eta)
        closed = optimum_law(reference, reward, BETA, process, eta)
        agree(closed, gb.terminal_law(optimum, process, eta), 1e-11)


def reused(v, g, h, eta, process, mu=0.0):
    """The ODE under the optimum of d = 1 by one integral, substituting q = exp(-D): an elementary one for h = 0."""
    sigma_T, excess = float(process.sigma_T), float(process.prior_excess)
    q = (v / (v + sigma_T**2)) ** eta**2
    psi = (v / (v + sigma_T**2)) ** 0.5 * (1 + h * v * (1 - q)) ** (-1 / (1 + eta**2))
    power = -(2 + eta**2) / (1 + eta**2)
    integral = quad(lambda y: (1 + h * v * (1 - y * y)) ** power, math.sqrt(q), 1, epsabs=1e-14, epsrel=1e-13)[0]
    return mu - psi * mu + 2 * g * v / (1 + eta**2) * integral, psi**2 * (sigma_T**2 + excess)


@pytest.mark.parametrize("A", [1.0, 100.0, -0.2, -0.49])
@pytest.mark.parametrize("eta", [0.2, 0.5, 1.0, 2.0, 4.0, 10.0])
def test_the_odes_law_keeps_its_digits_at_large_eta_tiny_beta_and_near_the_pole(A, eta):
    m, v, beta = 0.4, 0.8, 0.8
    for process in (ve(3.0), vp(1000.0)):
        optimum = rl_optimum(gb.Gaussian(m, v), gb.Quadratic(A, 1.1), beta, process, eta)
        mean, variance = reused(v, -2 * A * (m - 1.1) / beta, 2 * A / beta, eta, process, m)
        law = gb.terminal_law(optimum, process, 0.0)
        assert law.mean[0] == pytest.approx(mean, rel=1e-11)
        assert law.cov[0] == pytest.approx(variance, rel=1e-11)


@pytest.mark.parametrize("eta", [0.5, 1.6, 2.5])
def test_the_odes_law_keeps_its_digits_where_the_optimum_barely_exists(eta):
    v, c = 0.8, 1.1
    for process in (ve(0.5), ve(3.0)):
        left = v * (1 - (v / (v + float(process.sigma_T) ** 2)) ** eta**2)
        for distance in (1e-2, 1e-4):
            h = -(1 - distance) / left
            optimum = rl_optimum(gb.Gaussian(0.4, v), gb.Quadratic(h / 2, c), 1.0, process, eta)
            mean, variance = reused(v, -h * (0.4 - c), h, eta, process, 0.4)
            law = gb.terminal_law(optimum, process, 0.0)
            assert law.mean[0] == pytest.approx(mean, rel=1e-10)
            assert law.cov[0] == pytest.approx(variance, rel=1e-10)


@pytest.mark.parametrize("eta", [0.5, 1.3, MIXGRPO], ids=str)
def test_control_is_the_gradient_of_log_h_by_quadrature(eta):
    reference, reward, beta = gb.Gaussian(0.4, 0.8), gb.Quadratic(0.7, -0.3, 0.2, 1.0), 1.1
    optimum = rl_optimum(reference, reward, beta, ve(5.0), eta)

    def log_h(z, sigma):
        """The end given z, from the exact sampler of the reference started at the point z."""
        v = 0.8
        d = sum(
            float(e) ** 2 * math.log((v + min(high, sigma) ** 2) / (v + low**2))
            for low, high, (e,) in segments(np.float64(eta) if np.isscalar(eta) else eta)
            if low < sigma
        )
        mean, sd = 0.4 + (z - 0.4) * math.sqrt(v / (v + sigma**2)) * math.exp(-d / 2), math.sqrt(v * -math.expm1(-d))
        integrand = lambda u: math.exp(float(reward(np.array([mean + sd * u]))) / beta - u * u / 2)  # noqa: E731
        return math.log(quad(integrand, -12, 12, epsabs=0, epsrel=1e-13, limit=200)[0])

    for sigma in (0.6, 1.0, 1.9):
        gain, pull = optimum.control(sigma)
        for z in (-2.0, 0.7):
            slope = (log_h(z + 1e-4, sigma) - log_h(z - 1e-4, sigma)) / 2e-4
            assert float(pull[0] - gain[0] * (z - 0.4)) == pytest.approx(slope, rel=1e-6)


def test_the_optimum_of_eta_1_is_the_score_of_the_tilted_law_at_every_noise_level():
    z, sigmas = RNG.standard_normal((20, 3)) * 3, (0.0, 0.3, 2.0, 40.0)
    for name in ("diagonal", "full"):
        reference = REFERENCES[name]
        for reward in REWARDS.values():
            optimum, tilted = rl_optimum(reference, reward, BETA, ve(50.0), 1.0), gb.tilt(reference, reward, BETA)
            for sigma in sigmas:
                np.testing.assert_allclose(optimum.score(z, sigma), tilted.score(z, sigma), rtol=1e-9, atol=1e-11)
            other = rl_optimum(reference, reward, BETA, ve(50.0), 1.1)
            assert np.abs(other.score(z, 2.0) - tilted.score(z, 2.0)).max() > 1e-4


@pytest.mark.parametrize(
    ("eta", "sde", "ode", "gap"),
    [
        (1.0, (0.500, 0.500), (0.500, 0.500), -0.0004),
        (2.0, (0.500, 0.500), (0.228, 0.758), -0.604),
        (0.5, (0.492, 0.500), (0.622, 0.338), 0.277),
    ],
)
def test_the_example_of_the_theory(eta, sde, ode, gap):
    """S = 1, mu = 0, c = 1, lam = 0.5, VP prior, sigma_T = 1000."""
    reward, process = gb.Quadratic(1.0, 1.0), vp(1000.0)
    optimum = rl_optimum(gb.Gaussian(0.0, 1.0), reward, 2.0, process, eta)
    for own, (mean, variance) in ((eta, sde), (0.0, ode)):
        law = gb.terminal_law(optimum, process, own)
        assert law.mean[0] == pytest.approx(mean, abs=5.1e-4)
        assert law.cov[0] == pytest.approx(variance, abs=5.1e-4)
    assert float(gb.reward_gap(optimum, process, reward, eta)) == pytest.approx(gap, abs=6e-4)
    if eta == 0.5:
        assert gb.terminal_law(optimum, process, eta).mean[0] - 0.5 == pytest.approx(-8.0e-3, abs=5e-5)


@pytest.mark.parametrize(
    ("eta", "sigmas"), [(0.5, (1e4, 1e8)), (0.8, (1e3, 1e5)), (1.0, (1e2, 1e4)), (1.2, (1e2, 1e3))]
)
def test_the_initial_value_bias_of_the_mean_is_of_order_rho_to_the_eta_squared(eta, sigmas):
    reference, reward = gb.Gaussian(0.0, 1.3), gb.Quadratic(1.0, 1.0)
    aim = gb.tilt(reference, reward, 2.0).mean[0]
    biases = []
    for sigma in sigmas:
        optimum = rl_optimum(reference, reward, 2.0, ve(sigma), eta)
        biases.append(abs(gb.terminal_law(optimum, ve(sigma), eta).mean[0] - aim))
    rho = [1.3 / (1.3 + sigma**2) for sigma in sigmas]
    slope = math.log(biases[1] / biases[0]) / math.log(rho[1] / rho[0])
    assert slope == pytest.approx(eta**2, rel=0.02)


def test_an_uncentred_prior_adds_a_bias_of_order_phi_which_dominates_above_eta_1():
    aim = gb.tilt(gb.Gaussian(0.9, 1.3), gb.Linear(0.5), 2.0).mean[0]
    biases = [
        abs(optimum_law(gb.Gaussian(0.9, 1.3), gb.Linear(0.5), 2.0, ve(sigma), 1.4).mean[0] - aim)
        for sigma in (1e2, 1e3)
    ]
    assert math.log10(biases[0] / biases[1]) == pytest.approx(1 + 1.4**2, rel=0.02)


def test_the_gap_stays_from_sigma_inf_for_every_eta_but_1():
    reward = gb.Quadratic(1.0, 1.0)
    for reference in (gb.Gaussian(0.0, 1.0), gb.Gaussian(0.5, 0.7)):
        for process in (gb.FlowMatching(1.0), vp(1e12)):
            gaps = {}
            for eta in (0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0):
                optimum = rl_optimum(reference, reward, 2.0, process, eta)
                gaps[eta] = float(gb.reward_gap(optimum, process, reward, eta))
            assert abs(gaps.pop(1.0)) < 1e-9
            assert all((gap > 0.01) == (eta < 1) and abs(gap) > 0.01 for eta, gap in gaps.items())


@pytest.mark.parametrize("sigma_T", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0, 1.2, 1.5, 2.0])
def test_shifts_of_a_linear_reward(eta, sigma_T):
    b, v, beta, process = 0.7, 0.6, 1.3, ve(sigma_T)
    optimum = rl_optimum(gb.Gaussian(0.0, v), gb.Linear(b), beta, process, eta)
    sde, ode = (gb.terminal_law(optimum, process, own) for own in (eta, 0.0))
    r = math.sqrt(v / (v + sigma_T**2))
    assert sde.mean[0] == pytest.approx(b * v / beta * (1 - r ** (2 * eta**2)), rel=1e-12)
    assert ode.mean[0] / sde.mean[0] == pytest.approx(2 / ((1 + eta**2) * (1 + r ** (eta**2))), rel=1e-12)
    plain = gb.terminal_law(gb.Gaussian(0.0, v), process, eta)
    assert sde.cov[0] == pytest.approx(plain.cov[0], rel=1e-12)


def test_the_memoryless_ratios_of_a_linear_reward():
    for eta, ratio in ((0.5, 1.6), (1.0, 1.0), (1.2, 0.82), (1.5, 0.615), (2.0, 0.4)):
        optimum = rl_optimum(gb.Gaussian(0.0, 0.5), gb.Linear(1.0), 1.0, gb.FlowMatching(1.0), eta)
        sde, ode = (gb.terminal_law(optimum, gb.FlowMatching(1.0), own).mean[0] for own in (eta, 0.0))
        assert ode / sde == pytest.approx(2 / (1 + eta**2), rel=1e-9)
        assert ode / sde == pytest.approx(ratio, abs=5e-3)
    optimum = rl_optimum(gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 1.0, ve(3.0), 1.0)
    sde, ode = (gb.terminal_law(optimum, ve(3.0), own).mean[0] for own in (1.0, 0.0))
    assert ode / sde == pytest.approx(0.76, abs=5e-3)


@pytest.mark.parametrize("process", [vp(1e3), vp(1e9), gb.FlowMatching(1.0)], ids=str)
def test_the_windowed_optimum_never_reaches_the_tilted_law_and_its_bias_falls_as_the_window_rises(process):
    b, v, beta, eta = 0.7, 0.6, 1.3, 1.2
    aim, missing = b * v / beta, []
    for low in (0.05, 0.2, 0.8, 3.0, 30.0):
        window = gb.Windows([(low, 2 * low, eta)])
        optimum = rl_optimum(gb.Gaussian(0.0, v), gb.Linear(b), beta, process, window)
        shift = gb.terminal_law(optimum, process, window).mean[0]
        ratio = (v + low**2) / (v + 4 * low**2)
        assert shift == pytest.approx(aim * (1 - ratio**eta**2), rel=1e-11)
        missing.append(1 - shift / aim)
        # the ODE sees the control of the window too: 2 sqrt(v) eta^2 / (1 + eta^2) int phi / sqrt(v + tau) dtau / 2
        phi = lambda tau, low=low: ((v + low**2) / (v + tau)) ** (eta**2 / 2) / (v + tau)  # noqa: E731
        integral = quad(phi, low**2, 4 * low**2, epsabs=0, epsrel=1e-13)[0]
        reused = gb.terminal_law(optimum, process, 0.0).mean[0]
        assert reused == pytest.approx(aim * eta**2 / (1 + eta**2) * integral, rel=1e-11)
    assert (np.diff(missing) < 0).all()
    assert missing[-1] == pytest.approx(0.25**eta**2, rel=2e-3)  # however high the window


def test_noise_at_levels_of_no_stochasticity_teaches_nothing():
    reference, reward = REFERENCES["full"], REWARDS["twisted"]
    z = RNG.standard_normal((5, 3))
    windowed = rl_optimum(reference, reward, BETA, ve(10.0), MIXGRPO)
    for sigma in (0.1, 0.5, 2.0001, 9.0):
        np.testing.assert_array_equal(
            windowed.score(z, sigma), rl_optimum(reference, reward, BETA, ve(10.0), 0.0).score(z, sigma)
        )
        np.testing.assert_allclose(windowed.score(z, sigma), reference.score(z, sigma), rtol=1e-10)
    assert np.abs(windowed.score(z, 2.0) - reference.score(z, 2.0)).max() > 0.01  # a step down from the upper edge


def test_it_exists_below_the_beta_that_the_tilted_law_needs_and_not_below_its_own():
    reference, v, A = gb.Gaussian(0.0, 1.5), 1.5, 0.4
    reward = gb.Quadratic(-A, 0.2)
    for eta in (0.7, MIXGRPO):
        spent = 0.7**2 * math.log1p(9 / v) if eta == 0.7 else 1.3**2 * math.log((v + 4) / (v + 0.25))
        least = 2 * A * v * -math.expm1(-spent)
        assert least < 0.9 * 2 * A * v
        law = optimum_law(reference, reward, least * 1.001, ve(3.0), eta)
        assert law.cov[0] > 100  # near the edge
        agree(gb.terminal_law(rl_optimum(reference, reward, least * 1.05, ve(3.0), eta), ve(3.0), eta),
              optimum_law(reference, reward, least * 1.05, ve(3.0), eta), 1e-8)  # fmt: skip
        with pytest.raises(ValueError, match="cannot be normalised"):
            gb.tilt(reference, reward, least * 1.05)
        with pytest.raises(ValueError, match=f"does not exist.*beta must be above {least:g}, got {least * 0.999:g}"):
            rl_optimum(reference, reward, least * 0.999, ve(3.0), eta)
    twisted, beta = gb.Quadratic(-HILL, C), np.linalg.eigvals(2 * SPD @ HILL).real.max()
    assert rl_optimum(REFERENCES["full"], twisted, beta * 1.001, gb.FlowMatching(1.0)).dim == 3
    with pytest.raises(ValueError, match=f"beta must be above {beta:g}, got"):
        rl_optimum(REFERENCES["full"], twisted, beta * 0.999, gb.FlowMatching(1.0))


def test_an_optimum_refuses_noise_at_which_it_does_not_exist():
    optimum = rl_optimum(gb.Gaussian(0.0, 1.0), gb.Quadratic(-0.45, 0.0), 0.6, ve(1.0))
    optimum.gain(1.0)
    with pytest.raises(ValueError, match="infinite from sigma=5; this optimum exists up to the sigma_T of the process"):
        optimum.gain(5.0)


def test_importance_weighted_reference_paths_have_the_law_of_the_optimum():
    """exp(r / beta) / h(start) over simulated reference paths; h by quadrature over simulated-free conditional laws."""
    n, eta, beta, process = 50_000, 0.8, 1.5, ve(2.0)
    reference, reward = (
        gb.Gaussian([0.3, -0.6], [0.8, 1.4]),
        gb.Quadratic(np.array([[0.6, 0.3], [0.3, 0.4]]), [0.8, 0.2]),
    )
    run = gb.simulate(reference, process, "exact", eta, 3, n, seed=5, dtype=torch.float64, trajectory=True)
    start, end = run.trajectory[0].numpy(), run.samples.numpy()
    # the law of an end given its start, and Gauss-Hermite over it
    phi = np.sqrt(reference.cov / (reference.cov + 4)) ** (1 + eta**2)
    sd = np.sqrt(reference.cov * (1 - (reference.cov / (reference.cov + 4)) ** eta**2))
    node, mass = np.polynomial.hermite_e.hermegauss(14)
    u, w = np.meshgrid(node, node), np.outer(mass, mass).ravel() / (2 * math.pi)
    grid = np.stack([part.ravel() for part in u], -1)
    ends = (reference.mean + phi * (start - reference.mean))[:, None] + sd * grid
    h = np.concatenate([np.exp(reward(part) / beta) @ w for part in np.array_split(ends, 10)])
    weight = np.exp(reward(end) / beta) / h

    def scores(weight, law):
        """z-scores of the mass, the means and the second moments about the law's mean."""
        dev = end - law.mean
        found = [weight - 1, *(weight * dev.T), weight * dev[:, 0] * dev[:, 1] - weight * law.matrix[0, 1]]
        found += [weight * (dev[:, i] ** 2 - law.matrix[i, i]) for i in range(2)]
        return np.array([x.mean() / x.std() * math.sqrt(n) for x in found])

    assert np.abs(scores(weight, optimum_law(reference, reward, beta, process, eta))).max() < 4
    # negative controls: another eta, and paths normalised all together, as if RL could choose the start
    assert np.abs(scores(weight, optimum_law(reference, reward, beta, process, 1.0))).max() > 8
    together = np.exp(reward(end) / beta)
    assert np.abs(scores(together / together.mean(), optimum_law(reference, reward, beta, process, eta))).max() > 8


def test_no_perturbed_drift_does_better():
    """E r - beta KL of paths, exactly, for optima of other rewards and temperatures used as policies."""
    reference, reward, beta, process, eta = gb.Gaussian(0.3, 0.8), gb.Quadratic(0.7, 1.0), 1.3, ve(3.0), 0.7

    def value(policy_reward, policy_beta):
        law = optimum_law(reference, policy_reward, policy_beta, process, eta)
        H, g = (x.ravel()[0] / policy_beta for x in quadratic(policy_reward, reference))
        # KL = E[log dP*/dP] = E[r/beta - log h(start)] under the policy itself, mean over the prior
        phi = (0.8 / 9.8) ** ((1 + eta**2) / 2)
        left = 0.8 * (1 - (0.8 / 9.8) ** eta**2)
        spread, m = phi**2 * 9.0, -0.3 * phi
        tail = 1 + H * left
        log_h = -math.log(tail) / 2 + (g**2 * left / 2 + g * m - H * (m**2 + spread) / 2) / tail
        kl = g * (law.mean[0] - 0.3) - H / 2 * (law.cov[0] + (law.mean[0] - 0.3) ** 2) - log_h
        assert kl > 0
        return float(reward.expectation(law)) - beta * kl

    best = value(reward, beta)
    for other in (
        value(reward, 1.2),
        value(reward, 1.5),
        value(gb.Quadratic(0.7, 1.1), beta),
        value(gb.Linear(0.7), beta),
    ):
        assert other < best


def test_beta_to_infinity_and_eta_0_give_the_reference_back():
    for reference, reward in ((REFERENCES["full"], REWARDS["twisted"]), (REFERENCES["d=1"], REWARDS["linear"])):
        for process in (ve(3.0), vp(50.0)):
            for eta in (0.5, 2.0):
                plain = gb.terminal_law(reference, process, eta)
                agree(gb.terminal_law(rl_optimum(reference, reward, 1e14, process, eta), process, eta), plain, 1e-11)
            plain = gb.terminal_law(reference, process, 1.0)
            agree(gb.terminal_law(rl_optimum(reference, reward, BETA, process, 0.0), process, 1.0), plain, 1e-11)


def test_beta_eta_reference_and_T_broadcast():
    betas, etas = np.array([1.0, 2.0, 5.0]), np.array([0.5, 1.0, 1.5])
    reward = gb.Quadratic(HILL, C, B)
    for reference in (
        gb.Gaussian(MEAN[None], SPD[None]),
        gb.Gaussian(np.stack([MEAN, 2 * MEAN, -MEAN]), [0.4, 1.0, 2.0]),
    ):
        process = gb.VE(np.array([2.0, 3.0, 9.0]))
        optimum = rl_optimum(reference, reward, betas, process, etas)
        assert optimum.batch_shape == (3,)
        trained, closed = gb.terminal_law(optimum, process, etas), optimum_law(reference, reward, betas, process, etas)
        ode = gb.terminal_law(optimum, process, 0.0)
        agree(trained, closed, 1e-11)
        for k in range(3):
            at = min(k, reference.batch_shape[0] - 1)
            one = gb.Gaussian(reference.mean[at], reference.cov[at])
            alone = rl_optimum(one, reward, betas[k], gb.VE(process.T[k]), etas[k])
            for law, own in ((trained, etas[k]), (ode, 0.0)):
                single = gb.terminal_law(alone, gb.VE(process.T[k]), own)
                np.testing.assert_allclose(law.mean[k], single.mean, rtol=1e-11)
                np.testing.assert_allclose(law.matrix[k], single.matrix, rtol=1e-11)


def test_a_common_rotation_of_everything_rotates_the_law():
    turn, _ = np.linalg.qr(TWIST)
    for A in (np.diag([0.5, 0.2, 0.9]), HILL):
        straight = rl_optimum(gb.Gaussian(MEAN, [0.2, 1.0, 3.0]), gb.Quadratic(A, C, B), BETA, ve(3.0), 0.7)
        turned = rl_optimum(
            gb.Gaussian(turn @ MEAN, turn @ np.diag([0.2, 1.0, 3.0]) @ turn.T),
            gb.Quadratic(turn @ A @ turn.T, turn @ C, turn @ B), BETA, ve(3.0), 0.7,
        )  # fmt: skip
        assert turned.exponent.is_diagonal == straight.exponent.is_diagonal
        for own in (0.0, 0.7):
            law, other = (gb.terminal_law(model, ve(3.0), own) for model in (straight, turned))
            np.testing.assert_allclose(other.mean, turn @ law.mean, rtol=1e-10)
            np.testing.assert_allclose(other.matrix, turn @ law.matrix @ turn.T, rtol=1e-10, atol=1e-12)


def test_chains_of_the_optimum_converge_to_its_law_and_simulation_follows_them():
    for reference, reward in ((REFERENCES["full"], REWARDS["twisted"]), (REFERENCES["d=1"], REWARDS["quadratic"])):
        for eta in (0.6, MIXGRPO):
            process = ve(3.0)
            optimum = rl_optimum(reference, reward, BETA, process, eta)
            exact, errors = optimum_law(reference, reward, BETA, process, eta), []
            for steps in (300, 600):
                law = gb.discrete_law(optimum, process, "gddim", eta, steps)
                errors.append(np.abs(law.matrix - exact.matrix).max())
            assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)
    run = gb.simulate(optimum, process, "gddim", eta, 60, n=100_000, seed=1, dtype=torch.float64)
    law = gb.discrete_law(optimum, process, "gddim", eta, 60)
    z = run.samples.numpy()[:, 0]
    assert abs(z.mean() - law.mean[0]) < 4 * math.sqrt(law.cov[0] / z.size)
    assert abs(z.var() / law.cov[0] - 1) < 4 * math.sqrt(2 / z.size)


def test_chains_from_sigma_inf_start_at_the_limit_of_the_denoiser():
    process, reference, reward = gb.FlowMatching(1.0), gb.Gaussian([0.4, -0.3], [0.8, 2.0]), gb.Quadratic(0.7, 1.0)
    tilted = gb.tilt(reference, reward, 1.1)
    for eta, start in ((1.0, tilted.mean), (2.0, reference.mean), (MIXGRPO, reference.mean)):
        optimum = rl_optimum(reference, reward, 1.1, process, eta)
        np.testing.assert_allclose(optimum.pure_noise_mean, start, rtol=1e-12)
        sigma = 1e7
        denoised = sigma**2 * optimum.offset(sigma)
        np.testing.assert_allclose(denoised, start, rtol=1e-5)
        law = gb.discrete_law(optimum, process, "gddim", eta, 1000)
        agree(law, optimum_law(reference, reward, 1.1, process, eta), 0.02)
    half = gb.Windows([(2.0, math.inf, 1.0)])
    optimum = rl_optimum(reference, reward, 1.1, process, half)
    np.testing.assert_allclose(optimum.pure_noise_mean, 1e14 * optimum.offset(1e7), rtol=1e-6)
    with pytest.raises(ValueError, match="gddim diverges in 50 steps of this grid"):
        gb.discrete_law(rl_optimum(reference, reward, 1.1, process, 0.7), process, "gddim", 0.7, 50)
    with pytest.raises(ValueError, match="paths leave the range"):
        gb.simulate(rl_optimum(reference, reward, 1.1, process, 0.7), process, "gddim", 0.7, 50, n=10)
    twisted = rl_optimum(REFERENCES["full"], REWARDS["twisted"], BETA, vp(20.0), 0.7)
    assert gb.simulate(twisted, vp(20.0), "gddim", 0.7, 5, n=10).samples.isfinite().all()


def test_from_sigma_inf_slow_eta_reach_the_limit_or_are_refused():
    reference, reward, process = gb.Gaussian(0.0, 0.7), gb.Linear(1.0), gb.FlowMatching(1.0)
    for eta in (0.34, 0.5):
        optimum = rl_optimum(reference, reward, 1.0, process, eta)
        assert gb.terminal_law(optimum, process, 0.0).mean[0] == pytest.approx(0.7 * 2 / (1 + eta**2), rel=1e-12)
    for eta in (0.2, gb.Windows([(1.0, math.inf, 0.2)])):
        with pytest.raises(ValueError, match=re.escape("at eta=0.2 the bias of the start falls too slowly")):
            rl_optimum(reference, reward, 1.0, process, eta)
    assert rl_optimum(reference, reward, 1.0, process, gb.Windows([(0.0, 5.0, 0.2)])).dim == 1


def test_a_windowed_optimum_has_exact_gaps_and_laws_at_several_T():
    reward = REWARDS["quadratic"]
    optimum = rl_optimum(REFERENCES["d=1"], reward, BETA, ve(10.0), MIXGRPO)
    sigmas = np.array([0.2, 1.0, 3.0, 10.0])  # below the window, in it, above
    together = gb.terminal_law(optimum, ve(sigmas), MIXGRPO), gb.terminal_law(optimum, ve(sigmas), 0.0)
    gaps = gb.reward_gap(optimum, ve(sigmas), reward, MIXGRPO)
    for k, sigma_T in enumerate(sigmas):
        for own, law in zip((MIXGRPO, np.float64(0.0)), together, strict=True):
            alone = by_riccati(REFERENCES["d=1"], reward, BETA, ve(sigma_T), MIXGRPO, own)
            assert law.mean[k] == pytest.approx(alone.mean, rel=1e-9)
            assert law.cov[k] == pytest.approx(alone.cov, rel=1e-9)
        ode, sde = (float(reward.expectation(gb.terminal_law(optimum, ve(sigma_T), own))) for own in (0.0, MIXGRPO))
        assert gaps[k] == pytest.approx(ode - sde, abs=1e-11)
    assert gaps[0] == 0  # where nothing was learnt and nothing is stochastic


def test_a_windowed_optimum_acts_below_the_upper_edge_of_its_window_and_not_below_the_lower_one():
    optimum = rl_optimum(REFERENCES["d=1"], REWARDS["quadratic"], BETA, ve(3.0), MIXGRPO)
    learnt = optimum.learnt(np.array([0.3, 0.5, 0.5 * (1 + 1e-12), 1.0, 2.0, 2.0 * (1 + 1e-12), 2.1]))[0]
    np.testing.assert_array_equal(learnt[:, 0] != 0, [False, False, False, True, True, True, False])
    assert set(MIXGRPO.windows[0][:2]) <= {edge for low, high, _ in optimum.cuts.windows for edge in (low, high)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((gb.GaussianMixture([1.0], [0.0], 1.0), gb.Linear(1.0), 1.0, ve(1.0)), TypeError, "must be a Gaussian"),
        ((gb.Gaussian(0.0, 1.0), gb.Bump(0.0, 1.0), 1.0, ve(1.0)), TypeError, "only Quadratic and Linear rewards"),
        ((gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 0.0, ve(1.0)), ValueError, "beta must be positive, got 0.0"),
        ((gb.Gaussian(0.0, 1.0), gb.Linear(1.0), "hot", ve(1.0)), TypeError, "beta must be a real number"),
        ((gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 1.0, gb.VE), TypeError, "process must be an instance"),
        ((gb.Gaussian(0.0, 1.0), gb.Linear(1.0), 1.0, ve(1.0), -0.5), ValueError, "eta must be 0 or more, got -0.5"),
        ((gb.Gaussian([0.0, 1.0], 1.0), gb.Linear(np.ones(3)), 1.0, ve(1.0)), ValueError, "not fit the dimension 2"),
        ((gb.Gaussian(np.zeros((2, 1)), 1.0), gb.Linear(1.0), np.ones(3), ve(1.0)), ValueError, "do not broadcast"),
        ((gb.Gaussian(0.0, 1.0), gb.Linear(1.0), np.ones(3), gb.VE([1.0, 2.0])), ValueError, "do not broadcast"),
        ((gb.Gaussian(0.0, 1.0), gb.Linear(1.0), np.ones(3), ve(1.0), np.ones(2)), ValueError, "do not broadcast"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments, error, message):
    for function in (rl_optimum, optimum_law):
        with pytest.raises(error, match=message):
            function(*arguments)
