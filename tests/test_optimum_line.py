"""The optimum of mixtures on the line: one component, eta = 1, a PDE in z with its flow, and weighted nested paths."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import solve_banded
from scipy.special import ndtri
from strategies import flow, ve, vp

import gapbound as gb
from gapbound.monotone import sampler_errors
from gapbound.optimum import optimum_law, rl_optimum
from gapbound.optimum_line import line_optimum
from gapbound.transfer import transfer_weight

MEAN, SQUARE, HALF = gb.Linear(1.0), gb.Quadratic(-1.0, 0.0), gb.HalfSpace(1.0, 0.2)
ONE = gb.Gaussian(0.3, 0.8)
TOUCHING = gb.GaussianMixture([0.4, 0.6], [-1.5, 1.5], [0.3, 0.5])
FAR = gb.GaussianMixture([0.5, 0.5], [-5.0, 5.0], [0.3, 0.5])
WINDOW = gb.Windows([(0.5, 2.0, 1.3)])


def close(estimate, value, tolerance):
    assert estimate.value == pytest.approx(value, abs=tolerance)
    assert abs(estimate.value - value) <= 10 * estimate.error + 1e-12  # the stated error means something


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0, WINDOW], ids=str)
@pytest.mark.parametrize("reward", [gb.Quadratic(1.0, 1.0), gb.Linear(-0.8), gb.Quadratic(-0.1, 0.0)], ids=str)
def test_one_component_gives_the_laws_of_the_affine_optimum(eta, reward):
    for process in (vp(30.0),) if eta == 0.5 else (ve(3.0),):
        found = line_optimum(ONE, reward, 2.0, process, eta, [MEAN, SQUARE, HALF])
        optimum = rl_optimum(ONE, reward, 2.0, process, eta)
        laws = optimum_law(ONE, reward, 2.0, process, eta), gb.terminal_law(optimum, process, 0.0)
        for estimates, law in zip((found.sde, found.ode[0]), laws, strict=True):
            for estimate, f in zip(estimates, (MEAN, SQUARE, HALF), strict=True):
                close(estimate, float(f.expectation(law)), 1e-6)


@pytest.mark.parametrize("mixture", [TOUCHING, FAR], ids=["touching", "far"])
@pytest.mark.parametrize("reward", [gb.Quadratic(0.5, 1.0), gb.Linear(0.8)], ids=str)
def test_at_eta_1_it_is_the_sampler_of_the_tilted_mixture(mixture, reward):
    tilted = gb.tilt(mixture, reward, 1.5)
    for process in (vp(12.0), flow(3.0)):
        found = line_optimum(mixture, reward, 1.5, process, 1.0, [MEAN, HALF])
        for sde, ode, f in zip(found.sde, found.ode[0], (MEAN, HALF), strict=True):
            exact = float(f.expectation(tilted))
            errors = sampler_errors(tilted, process, f, [1.0, 0.0])
            assert sde.value == pytest.approx(exact + errors[0].value, abs=1e-7)
            assert ode.value == pytest.approx(exact + errors[1].value, abs=2e-5)


def by_the_equation_in_z(mixture, reward, beta, process, eta, points=2400, steps=1200):
    """E x of both: u_tau = c score u_z + eta^2/2 u_zz, by Crank-Nicolson in y = z / sqrt(1 + tau), and flows."""
    y = np.linspace(-9.0, 9.0, points)
    dy, top = y[1] - y[0], math.log1p(float(process.sigma_T) ** 2)
    ds = top / steps
    weight = np.exp(reward(y[:, None]) / beta)
    u, slopes = np.stack([weight, y * weight], -1), []
    for k in range(steps):
        tau = math.expm1((k + 0.5) * ds)
        scale = math.sqrt(1 + tau)
        # d/ds at fixed y: (1 + tau) u_tau + y/2 u_y
        advect = (1 + eta**2) / 2 * scale * mixture.score((y * scale)[:, None], math.sqrt(tau))[:, 0] + y / 2
        low, high = eta**2 / 2 / dy**2 - advect / (2 * dy), eta**2 / 2 / dy**2 + advect / (2 * dy)
        low[-1], high[0] = -advect[-1] / dy, advect[0] / dy  # one-sided at the ends, no diffusion there
        main = -low - high
        main[0], main[-1] = -high[0], -low[-1]
        low[0] = high[-1] = 0.0
        change = main[:, None] * u
        change[1:] += low[1:, None] * u[:-1]
        change[:-1] += high[:-1, None] * u[1:]
        bands = np.zeros((3, points))
        bands[0, 1:], bands[1], bands[2, :-1] = -ds / 2 * high[:-1], 1 - ds / 2 * main, -ds / 2 * low[1:]
        new = solve_banded((1, 1), bands, u + ds / 2 * change)
        slopes.append((scale, np.gradient(np.log((u[:, 0] + new[:, 0]) / 2), dy)))
        u = new
    spread = math.sqrt(float(process.prior_variance))
    starts = spread * ndtri((np.arange(4000) + 0.5) / 4000)
    at = starts / math.exp(top / 2)
    sde = float(np.mean(np.interp(at, y, u[:, 1] / u[:, 0])))

    def velocity(s, z):
        tau = math.expm1(s)
        scale, slope = slopes[min(int(s / ds), steps - 1)]
        control = np.interp(z / math.sqrt(1 + tau), y, slope) / scale
        score = mixture.score(z[:, None], math.sqrt(tau))[:, 0]
        return -(1 + tau) * (score / 2 + eta**2 / (1 + eta**2) * control)

    ends = solve_ivp(velocity, (top, 0.0), starts, rtol=1e-5, atol=1e-6, max_step=top / 150).y[:, -1]
    return sde, float(ends.mean())


@pytest.mark.parametrize("eta", [0.6, 1.4])
def test_it_agrees_with_a_finite_difference_march_in_z_and_flows_of_the_prior(eta):
    reward, process = gb.Quadratic(0.4, 0.8), vp(6.0)
    sde, ode = by_the_equation_in_z(TOUCHING, reward, 1.3, process, eta)
    found = line_optimum(TOUCHING, reward, 1.3, process, eta, [MEAN])
    assert found.sde[0].value == pytest.approx(sde, abs=2e-3)
    assert found.ode[0][0].value == pytest.approx(ode, abs=2e-3)
    assert abs(sde - ode) > 0.03  # fifteen times what is allowed


def test_weighting_nested_reference_paths_start_by_start_has_its_mean_and_all_together_has_not():
    starts, inner, eta, process, reward, beta = 600, 300, 0.5, ve(2.0), gb.Linear(1.0), 1.5
    rng = torch.Generator().manual_seed(3)
    x_T = torch.randn(starts, 1, generator=rng, dtype=torch.float64).repeat_interleave(inner, 0)
    steps = 60
    xi = torch.randn(steps, starts * inner, 1, generator=rng, dtype=torch.float64)
    sigmas = 0.05 * np.sinh(np.linspace(math.asinh(2.0 / 0.05), 0, steps + 1))
    sigmas[0], sigmas[-1] = 2.0, 0.0
    run = gb.simulate(
        TOUCHING, process, "stochastic-heun", eta, sigmas=sigmas, n=starts * inner, noise=(x_T, xi), dtype=torch.float64
    )
    x = run.samples.numpy().reshape(starts, inner)
    weight = np.exp(reward(x[..., None]) / beta)
    own = (weight * x).mean(1) / weight.mean(1)
    # a ratio of means is biased by -cov(w (x - own), w) / (n mean(w)^2)
    bias = -(weight**2 * (x - own[:, None])).mean(1) / weight.mean(1) ** 2 / inner
    means = own - bias
    error = means.std() / math.sqrt(starts)
    found = line_optimum(TOUCHING, reward, beta, process, eta, [MEAN])
    assert abs(means.mean() - found.sde[0].value) < 4 * error
    together = (weight * x).sum() / weight.sum()
    tilted = float(gb.tilt(TOUCHING, reward, beta).mean[0])
    assert abs(together - found.sde[0].value) > 8 * error
    assert abs(tilted - found.sde[0].value) > 8 * error


def test_rewards_may_be_any_and_functions_too():
    process = vp(10.0)
    bump = gb.Bump(1.0, 0.6)
    plain = line_optimum(TOUCHING, bump, 0.5, process, 0.8, [MEAN, bump])
    wrapped = line_optimum(
        TOUCHING, lambda x: np.exp(-(((x[:, 0] - 1.0) / 0.6) ** 2) / 2), 0.5, process, 0.8, [lambda x: x[:, 0]]
    )
    assert wrapped.sde[0].value == pytest.approx(plain.sde[0].value, abs=1e-6)
    assert wrapped.ode[0][0].value == pytest.approx(plain.ode[0][0].value, abs=1e-5)
    own = line_optimum(TOUCHING, bump, 0.5, process, 0.8)
    assert own.sde[0].value == pytest.approx(plain.sde[1].value, abs=1e-9)
    assert own.gap.value == pytest.approx(own.ode[0][0].value - own.sde[0].value)
    assert own.gap.error >= own.sde[0].error
    jump = line_optimum(TOUCHING, HALF, 0.5, process, 1.0, [MEAN])
    # an indicator's tilt is a mixture of two truncated laws: E x = (E x + (e^2 - 1) E x 1) / (1 + (e^2 - 1) P)
    share, more = float(HALF.expectation(TOUCHING)), math.expm1(2.0)
    x = np.linspace(0.2, 12, 200_001)
    part = np.trapezoid(x * np.exp(TOUCHING.log_prob(x[:, None])), x)
    aim = (float(TOUCHING.mean[0]) + more * part) / (1 + more * share)
    far = line_optimum(TOUCHING, HALF, 0.5, vp(300.0), 1.0, [MEAN])
    assert far.sde[0].value == pytest.approx(aim, abs=1e-4)
    assert abs(jump.sde[0].value - aim) < 0.05


def test_the_gap_of_mixtures_stays_for_eta_other_than_1():
    reward = gb.Quadratic(0.5, 1.0)
    gaps = {eta: line_optimum(TOUCHING, reward, 1.0, vp(1e3), eta).gap.value for eta in (0.7, 1.0, 1.4)}
    assert abs(gaps[1.0]) < 1e-3
    assert gaps[0.7] > 0.05
    assert gaps[1.4] < -0.05


def test_gaussian_weights_close_the_gap_of_one_component_and_weight_1_is_the_default():
    process, reward, eta, v = vp(30.0), gb.Linear(0.9), 1.6, 0.8
    weights = [1.0, lambda sigma: float(transfer_weight(v, sigma, eta)), 0.0]
    found = line_optimum(ONE, reward, 1.0, process, eta, [MEAN], weights)
    exact = gb.terminal_law(gb.tilt(ONE, reward, 1.0), process, 0.0)
    assert found.ode[1][0].value == pytest.approx(exact.mean[0], abs=1e-6)
    assert found.ode[2][0].value == pytest.approx(gb.terminal_law(ONE, process, 0.0).mean[0], abs=1e-6)
    assert found.ode[0][0].value == line_optimum(ONE, reward, 1.0, process, eta, [MEAN]).ode[0][0].value


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0.5, MEAN, 1.0, ve(1.0)), {}, TypeError, "target must be a Gaussian or a GaussianMixture"),
        ((gb.Gaussian([0.0, 1.0], 1.0), MEAN, 1.0, ve(1.0)), {}, ValueError, "one law in d = 1"),
        ((ONE, MEAN, 0.0, ve(1.0)), {}, ValueError, "beta must be positive, got 0.0"),
        ((ONE, MEAN, [1.0, 2.0], ve(1.0)), {}, ValueError, "beta must be one number"),
        ((ONE, MEAN, 1.0, gb.FlowMatching(1.0)), {}, ValueError, "needs a finite sigma_T"),
        ((ONE, MEAN, 1.0, gb.VE([1.0, 2.0])), {}, ValueError, "T must be one number"),
        ((ONE, MEAN, 1.0, ve(1.0), [1.0, 2.0]), {}, ValueError, "each eta must be one number or Windows"),
        ((ONE, MEAN, 1.0, ve(1.0)), {"weights": 2.0}, TypeError, "weights must be a list"),
        ((ONE, MEAN, 1.0, ve(1.0)), {"weights": [math.inf]}, ValueError, "a weight must be finite, got inf"),
        ((ONE, MEAN, 1.0, ve(1.0)), {"weights": [lambda s: [1.0, 2.0]]}, ValueError, "a weight must be one number at"),
        ((ONE, MEAN, 1.0, ve(1.0)), {"of": 3}, TypeError, "of must be a list"),
        ((ONE, MEAN, 0.05, ve(1.0)), {}, ValueError, "the tilted law leaves the cells"),
        ((ONE, gb.Linear(np.ones(2)), 1.0, ve(1.0)), {}, ValueError, "dimension"),
    ],
)
def test_bad_input_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        line_optimum(*arguments, **options)
