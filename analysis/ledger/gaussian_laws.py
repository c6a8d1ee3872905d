"""Theory 2: exact laws of the sampler on Gaussian targets, windows of eta, and exact expectations of rewards."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm

import gapbound as gb
from analysis.ledger.claim import Evidence, Theme, Verdict, at_least, at_most, evidence, near, sampled, true
from analysis.ledger.tools import ETAS, flow_at, moments, vp_at, worst, worst_relative
from gapbound import symbolic as s

THEME = Theme("Exact laws on Gaussian targets")
TARGET = gb.Gaussian(0.7, 0.5)
PROCESSES = {"VE": gb.VE(3.0), "VP": vp_at(3.0), "flow": flow_at(3.0)}


def integrated(process: gb.Process, eta: Any) -> tuple[float, float]:
    """Mean and variance at tau = 0 from the moment equations of dz = -(1 + eta^2)/2 score dtau + eta dW, by ODE solver.

    ``eta`` is a function of sigma.
    """
    m, v = moments(TARGET)
    start = float(process.sigma_T) ** 2

    def change(u: float, state: Any) -> list[float]:
        tau = start - u
        squared = float(eta(np.sqrt(max(tau, 0.0)))) ** 2
        pull = (1 + squared) / (v + tau)
        return [pull / 2 * (m - state[0]), squared - pull * state[1]]

    first = [0.0, float(process.prior_variance)]
    end = solve_ivp(change, (0, start), first, rtol=1e-10, atol=1e-12, max_step=start / 2000).y[:, -1]
    return end[0], end[1]


def constant(eta: float) -> Callable[[float], float]:
    """Eta as a function of sigma."""
    return lambda sigma: eta


@THEME.claim("theory 2", "symbolic", Verdict.PASS)
def terminal_law_formula() -> Evidence:
    """The sampler ends in mean m + (m_pi - m) rho^((1 + eta^2)/2) and variance v + sigma_0^2 + (v_pi - v - sigma_T^2)
    rho^(1 + eta^2), rho = (v + sigma_0^2)/(v + sigma_T^2).
    """
    mean, variance = s.terminal_moments()
    said = s.m + (s.m_pi - s.m) * s.rho**s.HALF_POWER
    said_variance = s.v + s.sigma_0**2 + (s.v_pi - s.v - s.sigma_T**2) * s.rho ** (1 + s.eta**2)
    return evidence(
        true("derived mean is as stated", sp.simplify(mean - said) == 0),
        true("derived variance is as stated", sp.simplify(variance - said_variance) == 0),
    )


@THEME.claim("paper", "numerical", Verdict.PASS)
def terminal_law_of_ode_and_sde() -> Evidence:
    """For eta = 0 and 1 the law of the sampler's end is Gaussian, with the closed mean and variance of theory 2."""
    return evidence(
        *(
            at_most(
                f"{name}, eta = {eta:g}: error",
                worst(moments(gb.terminal_law(TARGET, p, eta)), integrated(p, constant(eta))),
                1e-8,
            )
            for name, p in PROCESSES.items()
            for eta in (0.0, 1.0)
        )
    )


@THEME.claim("theory 2", "numerical", Verdict.PASS)
def terminal_law_for_every_eta() -> Evidence:
    """The closed law of the sampler's end holds for every eta >= 0, and where sampling stops at sigma_0 > 0."""
    checks = [
        at_most(
            f"VP, eta = {eta:g}: error",
            worst(moments(gb.terminal_law(TARGET, PROCESSES["VP"], eta)), integrated(PROCESSES["VP"], constant(eta))),
            1e-8,
        )
        for eta in ETAS
    ]
    process, t = gb.VE(3.0), 0.5
    rho, eta = (0.5 + t**2) / (0.5 + 9.0), 1.5
    said = (0.7 * (1 - rho ** ((1 + eta**2) / 2)), 0.5 + t**2 - 0.5 * rho ** (1 + eta**2))
    stopped = worst(moments(gb.terminal_law(TARGET, process, eta, t)), said)
    return evidence(*checks, at_most("VE stopped at 0.5, eta = 1.5: error", stopped, 1e-14))


@THEME.claim("theory 2", "simulation", Verdict.PASS)
def simulated_law_is_the_exact_law() -> Evidence:
    """A simulation of 50,000 paths ends in the exact mean and variance, within 4 standard errors."""
    n, eta = 50_000, 1.5
    law = moments(gb.terminal_law(TARGET, PROCESSES["VP"], eta))
    x = gb.simulate(TARGET, PROCESSES["VP"], "exact", eta, 4, n, seed=1).samples.double().numpy()[:, 0]
    return evidence(
        sampled("mean", x.mean(), law[0], np.sqrt(law[1] / n)),
        sampled("variance", x.var(), law[1], law[1] * np.sqrt(2 / n)),
    )


WINDOWS = gb.Windows([(0.2, 0.6, 2.0), (1.0, 1.5, 0.7)])


@THEME.claim("theory 2", "numerical", Verdict.PASS)
def windows_multiply_the_surviving_fraction() -> Evidence:
    """A window of eta between sigma_a and sigma_b multiplies Phi by ((v + sigma_a^2)/(v + sigma_b^2))^(eta^2/2)."""
    process = gb.VE(3.0)
    surviving = np.sqrt(0.5 / 9.5)
    for low, high, eta in WINDOWS.windows:
        surviving *= ((0.5 + low**2) / (0.5 + high**2)) ** (eta**2 / 2)
    law = moments(gb.terminal_law(TARGET, process, WINDOWS))
    said = (0.7 * (1 - surviving), 0.5 * (1 - surviving**2))
    return evidence(
        at_most("against the stated factor", worst(law, said), 1e-14),
        at_most("against the moment equations", worst(law, integrated(process, WINDOWS)), 1e-4),
    )


@THEME.claim(
    "theory 2", "numerical", Verdict.QUALIFIED, condition="sigma_T -> inf, under whichever of the three priors"
)
def far_starts_are_forgotten() -> Evidence:
    """The laws of the ODE and of the SDE are both the target's."""
    checks = []
    for name, at in (("VE", gb.VE), ("VP", vp_at), ("flow", flow_at)):
        for eta in (0.0, 1.0):
            law = gb.terminal_law(TARGET, at(1e9), eta)
            checks.append(at_most(f"W2 to the target, {name}, eta = {eta:g}", law.w2(TARGET), 1e-8))
    near_by = gb.terminal_law(TARGET, vp_at(3.0), 0.0)
    return evidence(*checks, outside=at_most("W2, sigma_T = 3", near_by.w2(TARGET), 1e-8))


REWARDS: dict[str, gb.Reward] = {
    "quadratic": gb.Quadratic(0.8, 0.3, 0.5),
    "linear": gb.Linear(1.3, 0.2),
    "half-space": gb.HalfSpace(1.0, 0.4),
    "absolute deviation": gb.AbsoluteDeviation(0.3),
    "bump": gb.Bump(0.2, 0.6),
    "cosine": gb.Cosine(2.0, 0.3),
}


@THEME.claim("theory 2", "numerical", Verdict.PASS)
def rewards_have_closed_expectations() -> Evidence:
    """Quadratic, linear, half-space, absolute-deviation, bump and cosine rewards have exact Gaussian expectations."""

    def by_quadrature(reward: gb.Reward) -> float:
        sd = 0.5**0.5
        return quad(
            lambda x: float(reward(np.array([x]))) * norm.pdf(x, 0.7, sd), 0.7 - 12 * sd, 0.7 + 12 * sd,
            points=[0.3, 0.4], epsabs=1e-13, limit=400,
        )[0]  # fmt: skip

    return evidence(
        *(near(name, reward.expectation(TARGET), by_quadrature(reward), 1e-10) for name, reward in REWARDS.items())
    )


@THEME.claim("theory 2", "numerical", Verdict.PASS)
def gap_depends_on_means_and_covariances_alone() -> Evidence:
    """For a quadratic reward in 3 dimensions with a full covariance the gap is the difference of -tr A (S + (m - c)(m -
    c)') + b'm of the two exact laws, and a rotation of the coordinates leaves it alone.
    """
    rng = np.random.default_rng(7)
    root, A = rng.normal(size=(3, 3)), np.diag([0.3, 1.0, 2.0])
    mean, c, b = rng.normal(size=(3, 3))
    target, reward = gb.Gaussian(mean, root @ root.T + 0.2 * np.eye(3)), gb.Quadratic(A, c, b)
    gap = gb.reward_gap(target, vp_at(3.0), reward, 1.5)

    def expected(law: gb.Gaussian) -> float:
        away = law.mean - c
        return float(b @ law.mean - np.trace(A @ (law.matrix + np.outer(away, away))))

    laws = [gb.terminal_law(target, vp_at(3.0), eta) for eta in (0.0, 1.5)]
    Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = gb.reward_gap(
        gb.Gaussian(Q @ mean, Q @ target.matrix @ Q.T), vp_at(3.0), gb.Quadratic(Q @ A @ Q.T, Q @ c, Q @ b), 1.5
    )
    return evidence(
        near("gap", gap, expected(laws[0]) - expected(laws[1]), 1e-12), near("turned", turned, gap, 1e-12),
        at_least("|gap|", abs(gap), 0.01),
    )  # fmt: skip


@THEME.claim("project", "symbolic", Verdict.PASS)
def gap_factors_without_cancellation() -> Evidence:
    """The gap is (Phi_ref - Phi) times a bracket, identically; so a gap of 1e-200 keeps its digits."""
    identical = sp.expand(s.gap() - s.gap_as_difference()) == 0
    sigma, eta = 1e100, 0.5
    tiny = gb.reward_gap(TARGET, gb.VE(sigma), gb.Quadratic(1.0, 0.7), eta)
    leading = 0.5 * (0.5 - 0.49) * sigma**-2
    return evidence(
        true("the factored form is the difference", identical),
        at_most("relative error against the leading term at T = 1e100", worst_relative(tiny, leading), 1e-12),
    )
