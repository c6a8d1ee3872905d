"""Theory 3.2 (iii): the optimum of RL on N steps of fixed variances, a linear-quadratic regulator."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import gapbound as gb
from analysis.ledger.claim import (
    Check,
    Evidence,
    Theme,
    Verdict,
    at_least,
    at_most,
    evidence,
    near,
    perturbed,
    sampled,
)
from analysis.ledger.tools import moments, order, over, vp_at, worst
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


Recursion = Callable[[Any, Any], Any]


def push(n2: Any, p: Any) -> Any:
    """What multiplies q - p (A z + b) in u*."""
    return 2 * n2 / (1 + 2 * n2 * p)


def keep(n2: Any, p: Any) -> Any:
    """What multiplies A^2 p in the p of the step before."""
    return 1 / (1 + 2 * n2 * p)


def controls(chain: Chain, gain: Recursion = push, kept: Recursion = keep) -> tuple[Array, Array]:
    """f and K of u* = f - K z by the recursion of theory 3.2, from p = lam, q = lam c."""
    p, q, rows = LAM, LAM * C, []
    for A, b, n2 in zip(chain.A[::-1], chain.b[::-1], chain.n2[::-1], strict=True):
        share = gain(n2, p)
        rows.append((share * (q - p * b), share * p * A))
        p, q = A**2 * p * kept(n2, p), A * (q - p * b) * keep(n2, p)
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


@THEME.claim(
    "theory 3.2",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("u* = 2 n2 (q - p (A z + b))/(1 + n2 p).", gain=lambda n2, p: 2 * n2 / (1 + n2 * p)),
        perturbed("A^2 p/(1 + n2 p) is the p of the step before.", kept=lambda n2, p: 1 / (1 + n2 * p)),
        perturbed("The network predicts (mean - z)/(sigma' - sigma).", per_eps=lambda chain, s: s[1:] - s[:-1]),
    ),
)
def fixed_variances_make_a_linear_quadratic_regulator(
    gain: Recursion = push,
    kept: Recursion = keep,
    per_eps: Callable[[Chain, Array], Array] = lambda chain, sigmas: chain.per_eps,
) -> Evidence:
    """u* = 2 n2 (q - p (A z + b))/(1 + 2 n2 p), with A^2 p/(1 + 2 n2 p) and A (q - p b)/(1 + 2 n2 p) the p and q of the
    step before, maximises E r - beta KL over affine policies: the gradient vanishes there and the curvature is negative
    (6 steps). The network predicts eps = (mean - z)/(sigma' k - sigma).
    """
    optimum = policy(6)
    chain = Chain.of(optimum.sigmas, ETA)
    f, K = controls(chain, gain, kept)
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
        at_most("error of the library's eps", worst(eps, (mean - z) / per_eps(chain, optimum.sigmas)[:, None]), 1e-12),
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
    refuted_by=(
        perturbed("The paths are weighted by exp(r/(1.1 beta)).", beta=1.1 * BETA),
        perturbed("A weakly curved reward will do.", where=lambda a, **_: a <= 0.1),
    ),
)
def regulator_reweights_paths(beta: float = BETA, where: Callable[..., bool] = lambda a, **_: a == 0) -> Evidence:
    """The N-step optimum with fixed variances draws the law of N-step reference paths weighted by exp(r/beta) (r = b x
    - a x^2 with a = 0, 0.1, 0.7, 2 and b = 0.6, -1; eta = 0.5, 0.8, 1.2; 3, 10 and 30 steps).
    """
    axes = {"a": (0.0, 0.1, 0.7, 2.0), "b": (0.6, -1.0), "eta": (0.5, 0.8, 1.2), "steps": (3, 10, 30)}
    means, ratios = [], []

    def cell(a: float, b: float, eta: float, steps: int) -> Check:
        found = policy(steps, gb.Quadratic(a, 0.0, b) if a else gb.Linear(b), eta)
        law = moments(found.law)
        weighted = reweighted(Chain.of(found.sigmas, eta), 2 * a / beta, b / beta)
        means.append(abs(law[0] - weighted[0]))
        if a:
            ratios.append(law[1] / weighted[1])
        what = f"error of the law, a = {a:g}, b = {b:g}, eta = {eta:g}, {steps} steps"
        return at_most(what, worst(law, weighted), 1e-9)

    found = over(axes, cell, where)
    return evidence(
        *found.inside,
        at_most("largest error of the mean, every reward", max(means), 1e-9),
        at_least("smallest variance over that of weighted paths, a > 0", min(ratios), 1 + 1e-6),
        outside=found.outside,
    )


@THEME.claim(
    "theory 3.2",
    "simulation",
    Verdict.PASS,
    refuted_by=perturbed("They have the regulator's variance too.", less=lambda weighted, own: 0.0),
)
def weighted_paths_by_simulation(
    less: Callable[[float, float], float] = lambda weighted, own: weighted - own,
) -> Evidence:
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
    weighted = reweighted(chain, 2 * LAM, 2 * LAM * C)[1]
    return evidence(
        sampled("mean less the regulator's", shift.mean(), 0, shift.std() / math.sqrt(n)),
        sampled("variance less the regulator's", excess.mean(), less(weighted, variance), excess.std() / math.sqrt(n)),
        at_most("the same in standard errors", excess.mean() / excess.std() * math.sqrt(n), -8),
    )


@THEME.claim("theory 3.2", "numerical", Verdict.PASS, refuted_by=perturbed("The order is 1.1.", claimed=1.1))
def regulator_converges_at_order_1(claimed: float = 1) -> Evidence:
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
            near(f"order, {name}, eta = {eta:g}", order(steps, found), claimed, 0.05) for name, found in errors.items()
        ]
    return evidence(*checks)


@THEME.claim(
    "theory 3.2",
    "numerical",
    Verdict.QUALIFIED,
    condition="the last step starts at sigma = 0.001",
    refuted_by=(
        perturbed("The law is N(.433, .460).", variance=0.460),
        perturbed("eta is 0.95.", eta=0.95),
    ),
)
def fifty_steps_end_far_from_the_limit(mean: float = 0.433, variance: float = 0.457, eta: float = 1.0) -> Evidence:
    """50 log-sigma steps at eta = 1 (reference N(0, 1), r = -(x - 1)^2, beta = 2, sigma_T = 1000) end in N(.433, .457),
    where the limit is N(.5, .5) (last steps from sigma = 1e-4 to 0.1).
    """

    def cell(last: float) -> Check:
        sigmas = np.append(np.geomspace(1000.0, last, 50), 0.0)
        found = gb.rl_optimum_discrete(
            gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 2.0, vp_at(1000.0), "gddim", eta, sigmas=sigmas
        )
        return at_most(
            f"error of mean and variance, last step from {last:g}", worst(moments(found.law), [mean, variance]), 5.1e-4
        )

    found = over({"last": (1e-4, 3e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.1)}, cell, where=lambda last: last == 1e-3)
    limit = gb.rl_optimum(gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 2.0, gb.FlowMatching(1.0), 1.0)
    ends = moments(gb.terminal_law(limit, gb.FlowMatching(1.0), 1.0))
    return evidence(*found.inside, at_most("error of the limit", worst(ends, [0.5, 0.5]), 1e-9), outside=found.outside)
