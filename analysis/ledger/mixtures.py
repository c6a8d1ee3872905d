"""Theory 4: mixtures in one dimension, by the monotone map (ODE) and the backward equation (SDE)."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import solve_banded
from scipy.special import ndtr

import gapbound as gb
from analysis.ledger.claim import Check, Evidence, Theme, Verdict, at_most, close, evidence, near, perturbed, sampled
from analysis.ledger.tools import flow_at, order, over, slope, vp_at, worst
from gapbound.monotone import sampler_errors

THEME = Theme("Mixtures in one dimension")
MODES = gb.GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.05, 0.2])
SINGLE = gb.Gaussian(0.7, 0.5)
Array = np.ndarray[Any, np.dtype[np.float64]]


def parts(target: Any) -> tuple[Array, Array, Array]:
    """Weights, means and variances of a law in d = 1."""
    if isinstance(target, gb.Gaussian):
        return np.ones(1), target.mean, target.variances
    return target.weights, target.components.mean[:, 0], target.components.variances[:, 0]


def tails(target: Any, tau: float, z: Array, sign: int) -> Array:
    """Mass of q_tau below (sign 1) or above (sign -1) ``z``."""
    w, m, v = parts(target)
    return (w * ndtr(sign * (z[:, None] - m) / np.sqrt(v + tau))).sum(-1)


def transport(target: Any, start: float, end: float, z: Array) -> Array:
    """F_end^-1(F_start(z)) between two noise levels tau, by bisection, through whichever tail is the smaller."""
    masses = [tails(target, start, z, sign) for sign in (1, -1)]
    lower = masses[0] < 0.5
    wanted = np.where(lower, *masses)
    reach = 40.0 * (1 + math.sqrt(end))
    low, high = np.full(z.shape, -reach), np.full(z.shape, reach)
    for _ in range(70):
        middle = (low + high) / 2
        mass = np.where(lower, tails(target, end, middle, 1), tails(target, end, middle, -1))
        above = np.where(lower, mass > wanted, mass < wanted)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2


def ode_by_integration(target: Any, sigma_T: float, z: Array) -> Array:
    """Where the ODE dz/dtau = -score/2 takes ``z``, in y = z/sqrt(1 + tau) against log(1 + tau)."""

    def change(s: float, y: Array) -> Array:
        grown = math.exp(s / 2)
        return -y / 2 - grown / 2 * target.score((y * grown)[:, None], math.sqrt(math.expm1(s)))[:, 0]

    top = math.log1p(sigma_T**2)
    y = z / math.sqrt(1 + sigma_T**2)
    return np.asarray(solve_ivp(change, (top, 0.0), y, method="DOP853", rtol=1e-9, atol=1e-11).y[:, -1])


def ode_by_trapezoid(
    target: Any, process: gb.Process, reward: gb.Reward, points: int = 20_001, level: float = 1.0
) -> float:
    """E r(Y^ODE) - E r(X) as an integral over the prior by the trapezoid rule, densest where the map jumps.

    The map is F_0^-1(F_T), with ``level`` sigma_T in the place of sigma_T.
    """
    tau, sd = (level * float(process.sigma_T)) ** 2, math.sqrt(float(process.prior_variance))
    means = np.sort(parts(target)[1])
    jumps = transport(target, 0.0, tau, (means[1:] + means[:-1]) / 2) / sd
    near_by = np.geomspace(1e-12, 0.1, 2000)
    u = np.unique(np.concatenate([np.linspace(-8.5, 8.5, points), *(j + s * near_by for j in jumps for s in (-1, 1))]))
    density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    moved = transport(target, tau, 0.0, u * sd)
    return float(np.trapezoid(density * reward(moved[:, None]), u)) - float(reward.expectation(target))


def ode_by_gauss_hermite(target: Any, process: gb.Process, reward: gb.Reward, nodes: int) -> float:
    """The same by Gauss-Hermite quadrature with so many nodes."""
    u, weight = np.polynomial.hermite_e.hermegauss(nodes)
    moved = transport(target, float(process.sigma_T) ** 2, 0.0, u * math.sqrt(float(process.prior_variance)))
    return float(weight @ reward(moved[:, None])) / math.sqrt(2 * math.pi) - float(reward.expectation(target))


def marched(
    target: Any, sigma_T: float, eta: float, level: int, values: Callable[[Array], Array], divisor: float = 2
) -> tuple[Array, Array]:
    """y and u(y) at sigma_T from u_tau = (1 + eta^2)/2 score u_z + eta^2/2 u_zz, u = ``values`` at tau = 0.

    In s = log(1 + tau) and y = z / sqrt(1 + tau): u_s = [y/2 + (1 + eta^2)/2 sqrt(1 + tau) score] u_y + eta^2/2
    u_yy, Crank-Nicolson on 100 ``level`` cells and 25 ``level`` steps, u linear at the ends. ``divisor`` is that of
    eta^2 u_zz.
    """
    y = np.linspace(-8.0, 8.0, 100 * level + 1)
    dy, ds = y[1] - y[0], math.log1p(sigma_T**2) / (25 * level)
    u = np.asarray(values(y), dtype=float)
    for k in range(25 * level):
        tau = math.expm1((k + 0.5) * ds)
        grown = math.sqrt(1 + tau)
        drift = y / 2 + (1 + eta**2) / 2 * grown * target.score((y * grown)[:, None], math.sqrt(tau))[:, 0]
        spread = eta**2 / divisor / dy**2
        below, above = spread - drift / (2 * dy), spread + drift / (2 * dy)
        matrix = np.zeros((3, y.size))  # of the generator, by diagonals
        matrix[0, 2:], matrix[1, 1:-1], matrix[2, :-2] = above[1:-1], -2 * spread, below[1:-1]
        matrix[1, 0], matrix[0, 1] = -drift[0] / dy, drift[0] / dy
        matrix[2, -2], matrix[1, -1] = -drift[-1] / dy, drift[-1] / dy
        right = u + ds / 2 * (
            matrix[1] * u + np.append(matrix[0, 1:] * u[1:], 0) + np.append(0, matrix[2, :-1] * u[:-1])
        )
        system = -ds / 2 * matrix
        system[1] += 1
        u = solve_banded((1, 1), system, right)
    return y, u


def over_the_prior(process: gb.Process, y: Array, u: Array) -> float:
    """Expectation of u over the prior, by the trapezoid rule in y."""
    variance = float(process.prior_variance) / (1 + float(process.sigma_T) ** 2)
    density = np.exp(-(y**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    return float(np.trapezoid(density * u, y))


def backward(target: Any, process: gb.Process, reward: gb.Reward, eta: float, level: int, divisor: float = 2) -> float:
    """E r(Y^eta) by ``marched``, over the prior."""
    sigma_T = float(process.sigma_T)
    return over_the_prior(process, *marched(target, sigma_T, eta, level, lambda y: reward(y[:, None]), divisor))


@THEME.claim(
    "theory 4",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("The map is F_0^-1(F_s(z)) with s = 1.01 sigma_T.", level=1.01),
)
def ode_is_the_monotone_map(level: float = 1.0) -> Evidence:
    """In d = 1 the ODE's flow is z -> F_0^-1(F_T(z)), so that E r(Y^ODE) is one integral over the prior."""
    checks = []
    z = np.linspace(-11, 11, 12) + 0.3  # none on the way to the step between the modes
    for sigma_T in (1.0, 4.0):
        by_map = transport(MODES, (level * sigma_T) ** 2, 0.0, z)
        error = worst(ode_by_integration(MODES, sigma_T, z), by_map)
        checks.append(at_most(f"12 paths from sigma_T = {sigma_T:g} less the map", error, 1e-6))
    for name, reward in (("cosine", gb.Cosine(1.0, 0.5)), ("absolute deviation", gb.AbsoluteDeviation(0.3))):
        for at in (gb.VE, vp_at, flow_at):
            (found,) = sampler_errors(MODES, at(4.0), reward, [0.0])
            said = ode_by_trapezoid(MODES, at(4.0), reward, level=level)
            checks.append(near(f"{name}, {type(at(4.0)).__name__}", found.value, said, 2e-6))
    return evidence(*checks)


@THEME.claim(
    "theory 4",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("It is so for two components that are .05 apart.", apart=0.05),
)
def one_component_reduces_to_the_gaussian(apart: float = 0.0) -> Evidence:
    """For one component the gap of a mixture is the closed form of theory 2."""
    two = gb.GaussianMixture([0.4, 0.6], [0.7 - 0.6 * apart, 0.7 + 0.4 * apart], [0.5, 0.5])  # the mean stays
    reward = gb.Quadratic(1.0, -0.7)
    return evidence(
        *(
            close(f"{type(p).__name__}, eta = {eta:g}", gb.reward_gap(two, p, reward, eta).value, float(gap), 1e-6)
            for p in (gb.VE(5.0), vp_at(5.0), flow_at(5.0))
            for eta in (0.5, 1.5)
            for gap in [gb.reward_gap(SINGLE, p, reward, eta)]
        )
    )


@THEME.claim("theory 4", "numerical", Verdict.PASS, refuted_by=perturbed("It converges at order 1.8.", claimed=1.8))
def backward_equation_is_second_order(claimed: float = 2) -> Evidence:
    """Crank-Nicolson on the backward equation in y = z/sqrt(1 + tau) and log(1 + tau) converges at order 2 to the exact
    law of one Gaussian.
    """
    process, reward, levels = vp_at(5.0), gb.Cosine(1.0, 0.5), (2, 4, 8)
    checks = []
    for eta in (0.5, 1.5):
        exact = float(reward.expectation(gb.terminal_law(SINGLE, process, eta)))
        errors = [backward(SINGLE, process, reward, eta, level) - exact for level in levels]
        checks += [
            near(f"order, eta = {eta:g}", order(levels, errors), claimed, 0.1),
            at_most(f"error, eta = {eta:g}", abs(errors[-1]), 1e-4),
        ]
    return evidence(*checks)


@THEME.claim(
    "theory 4",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("The second derivative's factor is eta^2/2.02.", divisor=2.02),
)
def sde_by_the_backward_equation(divisor: float = 2) -> Evidence:
    """u = E[r(Y_0) | Y_tau] solves u_tau = (1 + eta^2)/2 score u_z + eta^2/2 u_zz with mixtures too: it gives what
    diffusion along the quantiles gives.
    """
    process, reward = vp_at(4.0), gb.Cosine(1.0, 0.5)
    own = float(reward.expectation(MODES))
    checks = []
    for eta in (0.5, 1.5):
        coarse, fine = (backward(MODES, process, reward, eta, level, divisor) for level in (8, 16))
        (exact,) = sampler_errors(MODES, process, reward, [eta])
        checks.append(near(f"error of the sampler, eta = {eta:g}", (4 * fine - coarse) / 3 - own, exact.value, 2e-5))
    return evidence(*checks)


@THEME.claim(
    "theory 4",
    "simulation",
    Verdict.PASS,
    refuted_by=perturbed("It finds the mixture's gap at eta = .5.", eta=0.5),
)
def mixture_gap_by_simulation(eta: float = 1.0) -> Evidence:
    """A simulation of 20,000 pairs at eta = 1 finds the exact mixture gap to 4 standard errors (stochastic Heun, 200
    steps).
    """
    process, reward = vp_at(3.0), gb.Cosine(1.0, 0.5)
    found = gb.estimate_gap(
        MODES, process, reward, 1.0, n=20_000, seed=2, sampler="stochastic-heun", steps=200, grid="karras"
    )
    return evidence(sampled("gap", found.gap, gb.reward_gap(MODES, process, reward, eta).value, found.standard_error))


@THEME.claim(
    "theory 4",
    "numerical",
    Verdict.QUALIFIED,
    condition="one mode: between modes the map is a steep step",
    refuted_by=(
        perturbed("It falls like T^-1.1.", exponent=-1.1),
        perturbed("It does with two modes.", kept=2),
    ),
)
def gauss_hermite_shows_the_rate(exponent: float = -1, kept: int = 1) -> Evidence:
    """The ODE's error by Gauss-Hermite quadrature over the prior, with 16 nodes or more, falls like 1/T, as it does in
    truth (T from 10 to 300).
    """
    reward, targets = gb.Linear(1.0), {1: SINGLE, 2: MODES}
    axes = {"modes": tuple(targets), "nodes": (16, 32, 64, 128, 256), "low": (10.0, 30.0, 100.0)}

    def check(modes: int, nodes: int, low: float) -> Check:
        found = slope(lambda T: ode_by_gauss_hermite(targets[modes], gb.VE(T), reward, nodes), low, 3 * low)
        return near(f"exponent, modes: {modes}, {nodes} nodes, T from {low:g} to {3 * low:g}", found, exponent, 0.05)

    grid = over(axes, check, lambda modes, nodes, low: modes == kept)
    truth = slope(lambda T: ode_by_trapezoid(MODES, gb.VE(T), reward), 30.0, 300.0)
    return evidence(
        *grid.inside, near("two modes in truth, by the trapezoid rule", truth, -1, 0.05), outside=grid.outside
    )


@THEME.claim(
    "theory 4",
    "numerical",
    Verdict.PASS,
    slow=True,
    refuted_by=perturbed("The SDE's error is Theta(T^-(1 + eta^1.9)).", power=1.9),
)
def rates_of_mixtures(power: float = 2) -> Evidence:
    """On mixtures the VE ODE's error is Theta(1/T) and the SDE's Theta(T^-(1 + eta^2)), as for one Gaussian."""
    checks = []
    for far, etas in (((1e4, 1e5), (0.0, 0.5)), ((1e2, 1e3), (1.0, 1.2, 1.5)), ((30.0, 100.0), (2.0,))):
        ends = [[e.value for e in sampler_errors(MODES, gb.VE(T), gb.Linear(1.0), etas)] for T in far]
        slopes = np.log(np.abs(np.divide(*ends[::-1]))) / np.log(far[1] / far[0])
        checks += [
            near(f"exponent, eta = {eta:g}", k, -(1 + eta**power), 0.02) for eta, k in zip(etas, slopes, strict=True)
        ]
    return evidence(*checks)
