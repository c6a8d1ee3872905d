"""Theory 3.2 (iii): the optimum of RL on N steps of fixed variances, a linear-quadratic regulator."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

import gapbound as gb
from analysis.ledger.claim import (
    Check,
    Evidence,
    Theme,
    Verdict,
    as_printed,
    at_least,
    at_most,
    evidence,
    near,
    sampled,
)
from analysis.ledger.tools import moments, order, vp_at, worst
from gapbound.regulator import RLOptimumDiscrete

THEME = Theme("The RL optimum in N steps")
M, S = 0.4, 0.8  # the reference N(m, v)
LAM, C, BETA = 0.7, 1.1, 1.3  # r = -LAM BETA (x - C)^2
PROCESS, ETA = gb.VE(3.0), 0.8
REFERENCE, QUADRATIC, LINEAR = gb.Gaussian(M, S), gb.Quadratic(LAM * BETA, C), gb.Linear(0.6)
Array = np.ndarray[Any, np.dtype[np.float64]]


class Chain(NamedTuple):
    """Steps z' = A z + b + sqrt(n2) xi of gDDIM on N(m, v), written out; and sigma' k - sigma of each."""

    A: Array
    b: Array
    n2: Array
    per_eps: Array

    @classmethod
    def of(cls, sigmas: Array, eta: float) -> Chain:
        """The chain on these levels."""
        s, s_next = sigmas[:-1], sigmas[1:]
        k = (s_next / s) ** (eta**2)
        A = S / (S + s**2) + s_next * k * s / (S + s**2)
        return cls(A, M * (1 - A), s_next**2 * (1 - k**2), s_next * k - s)


def controls(chain: Chain) -> tuple[Array, Array]:
    """f and K of u* = f - K z by the recursion of theory 3.2, from p = lam, q = lam c."""
    p, q, rows = LAM, LAM * C, []
    for A, b, n2 in zip(chain.A[::-1], chain.b[::-1], chain.n2[::-1], strict=True):
        share = 2 * n2 / (1 + 2 * n2 * p)
        rows.append((share * (q - p * b), share * p * A))
        p, q = A**2 * p / (1 + 2 * n2 * p), A * (q - p * b) / (1 + 2 * n2 * p)
    f, K = np.array(rows[::-1]).T
    return f, K


def value(chain: Chain, f: Array, K: Array) -> float:
    """(E r - beta KL of paths) / beta of the policy with mean A z + b + f - K z, by the moments of z."""
    m, v, kl = 0.0, float(PROCESS.prior_variance), 0.0
    for A, b, n2, f_k, K_k in zip(chain.A, chain.b, chain.n2, f, K, strict=True):
        if n2 > 0:
            kl += ((f_k - K_k * m) ** 2 + K_k**2 * v) / (2 * n2)
        m, v = (A - K_k) * m + b + f_k, (A - K_k) ** 2 * v + n2
    return -LAM * ((m - C) ** 2 + v) - kl


def policy(steps: int, reward: Any = QUADRATIC, eta: float = ETA) -> RLOptimumDiscrete:
    """The library's optimum on uniform steps in t."""
    return gb.rl_optimum_discrete(REFERENCE, reward, BETA, PROCESS, "gddim", eta, steps)


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def fixed_variances_make_a_linear_quadratic_regulator() -> Evidence:
    """u* = 2 n2 (q - p (A z + b))/(1 + 2 n2 p), with A^2 p/(1 + 2 n2 p) and A (q - p b)/(1 + 2 n2 p) the p and q of the
    step before, maximises E r - beta KL over affine policies: the gradient vanishes there and the curvature is negative
    (6 steps). The network predicts eps = (mean - z)/(sigma' k - sigma).
    """
    optimum = policy(6)
    chain = Chain.of(optimum.sigmas, ETA)
    f, K = controls(chain)
    slopes, bends, h = [], [], 1e-3
    for k in np.flatnonzero(chain.n2):
        for which in (0, 1):
            moved = []
            for sign in (1.0, 0.0, -1.0):
                parts = [f.copy(), K.copy()]
                parts[which][k] += sign * h
                moved.append(value(chain, *parts))
            slopes.append((moved[0] - moved[2]) / (2 * h))
            bends.append((moved[0] - 2 * moved[1] + moved[2]) / h**2)
    z = np.array([-1.7, 0.6])
    eps = [-s * optimum.score(z[:, None], s)[:, 0] for s in optimum.sigmas[:-1]]
    mean = (chain.A - K)[:, None] * z + (chain.b + f)[:, None]
    return evidence(
        at_most("largest slope of the objective", np.abs(slopes).max(), 1e-9),
        at_most("largest curvature", max(bends), -0.1),
        at_most("error of the library's eps", worst(eps, (mean - z) / chain.per_eps[:, None]), 1e-12),
        at_most("error of its law's mean", abs(moments(optimum.law)[0] - _ends(chain, f, K)[0]), 1e-12),
    )


def _ends(chain: Chain, f: Array, K: Array) -> tuple[float, float]:
    m, v = 0.0, float(PROCESS.prior_variance)
    for A, b, n2, f_k, K_k in zip(chain.A, chain.b, chain.n2, f, K, strict=True):
        m, v = (A - K_k) * m + b + f_k, (A - K_k) ** 2 * v + n2
    return m, v


def end_given_start(chain: Chain) -> tuple[float, float, float]:
    """F, f, V of the reference's end given its start z, N(F z + f, V)."""
    F, f, V = 1.0, 0.0, 0.0
    for A, b, n2 in zip(chain.A, chain.b, chain.n2, strict=True):
        F, f, V = A * F, A * f + b, A**2 * V + n2
    return F, f, V


def reweighted(chain: Chain, curvature: float, slope: float) -> tuple[float, float]:
    """Reference paths weighted by exp(-curvature x^2/2 + slope x) start by start: the end given the start is tilted."""
    F, f, V = end_given_start(chain)
    keeps = 1 / (1 + curvature * V)
    return keeps * (f + V * slope), keeps * V + float(PROCESS.prior_variance) * (keeps * F) ** 2


@THEME.claim(
    "theory 3.2",
    "numerical",
    Verdict.QUALIFIED,
    condition="linear rewards; under a quadratic one the mean is theirs, the variance larger: steps cannot shrink",
)
def regulator_reweights_paths() -> Evidence:
    """The N-step optimum with fixed variances draws the law of N-step reference paths weighted by exp(r/beta)."""
    quadratic, linear = policy(10), policy(10, LINEAR)
    chain = Chain.of(quadratic.sigmas, ETA)
    curved, straight = reweighted(chain, 2 * LAM, 2 * LAM * C), reweighted(chain, 0.0, 0.6 / BETA)
    mean, variance = moments(quadratic.law)
    return evidence(
        at_most("error of the law, linear", worst(moments(linear.law), straight), 1e-12),
        near("mean, quadratic", mean, curved[0], 1e-12),
        at_least("variance over that of weighted paths, quadratic", variance / curved[1], 1.02),
        outside=near("variance, quadratic", variance, curved[1], 0.005),
    )


@THEME.claim("theory 3.2", "simulation", Verdict.PASS)
def weighted_paths_by_simulation() -> Evidence:
    """100,000 simulated 10-step reference paths, weighted by exp(r/beta) start by start, have the regulator's mean and
    not its variance, which is larger.
    """
    n, optimum = 100_000, policy(10)
    run = gb.simulate(REFERENCE, PROCESS, "gddim", ETA, 10, n, seed=3, trajectory=True)
    assert run.trajectory is not None
    start, end = (z.double().numpy()[:, 0] for z in (run.trajectory[0], run.samples))
    chain = Chain.of(optimum.sigmas, ETA)
    F, f, V = end_given_start(chain)
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    ends = (F * start + f)[:, None] + math.sqrt(V) * nodes
    h = np.exp(QUADRATIC(ends[..., None]) / BETA) @ mass / math.sqrt(2 * math.pi)
    w = np.exp(QUADRATIC(end[:, None]) / BETA) / h
    mean, variance = moments(optimum.law)
    shift, excess = w * (end - mean), w * ((end - mean) ** 2 - variance)
    less = reweighted(chain, 2 * LAM, 2 * LAM * C)[1] - variance
    return evidence(
        sampled("mean less the regulator's", shift.mean(), 0, shift.std() / math.sqrt(n)),
        sampled("variance less the regulator's", excess.mean(), less, excess.std() / math.sqrt(n)),
        at_most("the same in standard errors", excess.mean() / excess.std() * math.sqrt(n), -8),
    )


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def regulator_converges_at_order_1() -> Evidence:
    """As N grows the regulator's SDE law and the law of the ODE that reuses its network tend to those of the continuous
    optimum at order 1 (log-sigma steps).
    """
    steps, checks = (200, 400, 800), []
    for eta in (0.5, 1.0, 1.5):
        limit = gb.rl_optimum(REFERENCE, QUADRATIC, BETA, PROCESS, eta)
        errors: dict[str, list[float]] = {"SDE": [], "ODE": []}
        for n in steps:
            one = gb.rl_optimum_discrete(REFERENCE, QUADRATIC, BETA, PROCESS, "gddim", eta, n, grid="log-sigma")
            for name, own in (("SDE", eta), ("ODE", 0.0)):
                errors[name].append(float(one.sampled(eta=own).w2(gb.terminal_law(limit, PROCESS, own))))
        checks += [
            near(f"order, {name}, eta = {eta:g}", order(steps, found), 1, 0.05) for name, found in errors.items()
        ]
    return evidence(*checks)


@THEME.claim("theory 3.2", "numerical", Verdict.QUALIFIED, condition="the last step starts at sigma = 0.001")
def fifty_steps_end_far_from_the_limit() -> Evidence:
    """50 log-sigma steps at eta = 1 (reference N(0, 1), r = -(x - 1)^2, beta = 2, sigma_T = 1000) end in N(.433, .457),
    where the limit is N(.5, .5).
    """

    def law(last: float) -> list[Check]:
        sigmas = np.append(np.geomspace(1000.0, last, 50), 0.0)
        found = gb.rl_optimum_discrete(
            gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 2.0, vp_at(1000.0), "gddim", 1.0, sigmas=sigmas
        )
        return [
            as_printed(f"{name}, last step from {last:g}", moment, said)
            for name, moment, said in zip(("mean", "variance"), moments(found.law), (".433", ".457"), strict=True)
        ]

    return evidence(*law(0.001), outside=[check for last in (0.002, 0.01) for check in law(last)])
