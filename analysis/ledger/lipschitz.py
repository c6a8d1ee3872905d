"""Theory 5: one-sided Lipschitz scores, which B3 needs, and B3 for scores that are not the target's."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import quad

import gapbound as gb
from analysis.ledger.assumptions import random_gaussians
from analysis.ledger.claim import (
    Check,
    Evidence,
    Theme,
    Verdict,
    at_least,
    at_most,
    close,
    evidence,
    near,
    none_of,
    perturbed,
    refused,
)  # fmt: skip
from analysis.ledger.tools import over
from gapbound.bounds.lipschitz import profile
from gapbound.bounds.problem import problem

THEME = Theme("Bounds: one-sided Lipschitz scores")
Array = np.ndarray[Any, np.dtype[np.float64]]
RANDOM = 3000  # mis-specified Gaussians
SEED = 12
BALLS = {  # weights and means in [-1, 1], or [-3, 3]
    "two modes, even": ((0.5, 0.5), (-1.0, 1.0)),
    "two modes, .2 and .8": ((0.2, 0.8), (-1.0, 1.0)),
    "two modes at -+ 3": ((0.5, 0.5), (-3.0, 3.0)),
    "three modes": ((0.3, 0.4, 0.3), (-1.0, 0.0, 1.0)),
    "three modes, .4, .2, .4": ((0.4, 0.2, 0.4), (-1.0, 0.0, 1.0)),
    "three modes, uneven": ((0.2, 0.2, 0.6), (-1.0, -0.5, 1.0)),
}


def infimum_of_curvature(ball: str, v: float, tau: float) -> float:
    """Infimum over z of -(log q_tau)'' for components N(mean, v), by differences of the score 0.001 apart."""
    weights, means = BALLS[ball]
    z = np.linspace(-20, 20, 40_001)
    score = gb.GaussianMixture(weights, means, v).score(z[:, None], math.sqrt(tau))[:, 0]
    return float((-(score[2:] - score[:-2]) / (z[2:] - z[:-2])).min())


def kappa_of_a_ball(ball: str, v: float, tau: float, times: float = 1.0) -> float:
    """1/(v + tau) - R^2/(v + tau)^2, the second term as many times."""
    radius = max(map(abs, BALLS[ball][1]))
    return 1 / (v + tau) - times * radius**2 / (v + tau) ** 2


LEVELS = {"ball": tuple(BALLS), "v": (0.3, 1.0), "tau": (0.0, 0.2, 2.0)}


@THEME.claim(
    "theory 5",
    "numerical",
    Verdict.QUALIFIED,
    condition="two modes",
    refuted_by=(
        perturbed("It is 1/(v + tau) - .98 R^2/(v + tau)^2.", times=0.98),
        perturbed("Three even modes attain it.", kept="three modes"),
    ),
)
def kappa_of_a_ball_of_means_is_attained(times: float = 1.0, kept: str = "two modes") -> Evidence:
    """kappa = 1/(v + tau) - R^2/(v + tau)^2, for means in a ball of radius R convolved with N(0, v), is the true
    infimum of -Hess log q_tau (d = 1).
    """

    def check(ball: str, v: float, tau: float) -> Check:
        scale = 1 / (v + tau) + 1 / (v + tau) ** 2  # kappa itself may be 0
        miss = (infimum_of_curvature(ball, v, tau) - kappa_of_a_ball(ball, v, tau, times)) / scale
        return near(f"(infimum - kappa) / scale, {ball}, v = {v:g}, tau = {tau:g}", miss, 0, 1e-3)

    return over(LEVELS, check, lambda ball, v, tau: ball.startswith(kept))


@THEME.claim(
    "theory 5",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("The exponent is .98 c R^2 (1/v - 1/(v + sigma_T^2)).", times=0.98),
        perturbed("The power is 1.02 c.", power=1.02),
    ),
)
def contraction_of_a_ball_of_means(times: float = 1.0, power: float = 1.0) -> Evidence:
    """For that kappa exp(-c K), K its integral, is (v/(v + sigma_T^2))^c exp(c R^2 (1/v - 1/(v + sigma_T^2))), c = (1 +
    eta^2)/2. On two even modes at -+ R it is the W2 factor that B3 uses, and the ODE attains it between them: its map
    has the slope q_T(0)/q_0(0) there.
    """
    checks = []
    for R, v, sigma_T in ((0.5, 0.3, 3.0), (1.0, 0.1, 14.6), (2.0, 0.4, 5.0)):
        modes, top = gb.GaussianMixture([0.5, 0.5], [-R, R], [v, v]), sigma_T**2

        def kappa(u: float, R: float = R, v: float = v) -> float:
            tau = v * math.expm1(u)  # integrated in u = log(1 + tau/v)
            return (1 / (v + tau) - R**2 / (v + tau) ** 2) * v * math.exp(u)

        K = quad(kappa, 0, math.log1p(top / v), epsabs=1e-12, epsrel=1e-12)[0]
        bound = gb.bounds.wasserstein(modes, gb.VE(sigma_T), gb.Linear(1.0), 1.0)
        for name, c in (("ODE", 0.5), ("SDE", 1.0)):
            said = power * c * math.log(v / (v + top)) + times * c * R**2 * (1 / v - 1 / (v + top))
            used = next(x.value for x in bound.constants if x.name == f"W2 factor, {name}")
            checks += [
                near(f"-c K, {name}, R = {R:g}, v = {v:g}", -c * K, said, 1e-9 * (1 + abs(said))),
                near(f"log of B3's factor, {name}, R = {R:g}, v = {v:g}", math.log(used), said, 1e-3 * (1 + abs(said))),
            ]
        stretch = modes.noised(sigma_T).log_prob([0.0]) - modes.log_prob([0.0])
        said = power / 2 * math.log(v / (v + top)) + times / 2 * R**2 * (1 / v - 1 / (v + top))
        checks.append(near(f"log of the map's slope at 0, R = {R:g}, v = {v:g}", stretch, said, 1e-9 * (1 + abs(said))))
    return evidence(*checks)


@THEME.claim(
    "project",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("It is at most .98 R^2/(v + tau)^2 - 1/(v + tau).", times=0.98),
)
def scores_of_one_covariance_are_one_sided_lipschitz(times: float = 1.0) -> Evidence:
    """For means in a ball of radius R and one covariance v I the score is one-sided Lipschitz: (log q_tau)'' is at most
    R^2/(v + tau)^2 - 1/(v + tau) everywhere (8 for means -+ 3, v = 1, tau = 0).
    """
    grid = over(
        LEVELS,
        lambda ball, v, tau: at_most(
            f"largest bend less the bound, {ball}, v = {v:g}, tau = {tau:g}",
            -infimum_of_curvature(ball, v, tau) + kappa_of_a_ball(ball, v, tau, times),
            0,
            1e-7,
        ),
        lambda ball, v, tau: True,
    )
    return evidence(
        *grid.inside, close("at -+ 3, v = 1", -infimum_of_curvature("two modes at -+ 3", 1.0, 0.0), 8, 1e-4)
    )


LAWS = {  # mixtures, and whether they are on the line or have one covariance
    "means -+ 3, v = 1": gb.GaussianMixture([0.5, 0.5], [-3.0, 3.0], [1.0, 1.0]),
    "weights .01 and .99, v = .2 and 1": gb.GaussianMixture([0.01, 0.99], [-3.0, 3.0], [0.2, 1.0]),
    "means -+ 3, v = 1 and 2": gb.GaussianMixture([0.5, 0.5], [-3.0, 3.0], [1.0, 2.0]),
    "v = .01 within v = 1": gb.GaussianMixture([0.5, 0.5], [0.0, 0.0], [0.01, 1.0]),
    "three modes": gb.GaussianMixture([0.2, 0.5, 0.3], [-2.0, 0.5, 1.5], [0.05, 0.3, 0.1]),
    "d = 2, diag(1, 2) at -+ 3": gb.GaussianMixture([0.5, 0.5], [[-3.0, 0.0], [3.0, 0.0]], [[1.0, 2.0], [1.0, 2.0]]),
    "d = 2, diag(1, 2) and diag(2, 1)": gb.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), [[1.0, 2.0], [2.0, 1.0]]),
    "d = 2, diag(1, 4) and diag(4, 1)": gb.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), [[1.0, 4.0], [4.0, 1.0]]),
    "d = 2, I and 2 I": gb.GaussianMixture([0.5, 0.5], np.zeros((2, 2)), [[1.0, 1.0], [2.0, 2.0]]),
}


@cache
def sharpest_bend(law: str, tau: float, reach: float) -> float:
    """Largest eigenvalue of Hess log q_tau out to ``reach``, by differences of the score: on the line, or in a strip
    along the diagonal of the plane.
    """
    target, sigma, h = LAWS[law], math.sqrt(tau), 1e-4
    along = np.linspace(-reach, reach, int(400 * reach) + 1)
    if target.dim == 1:
        z = along[:, None]
    else:
        along = np.linspace(-reach, reach, int(10 * reach) + 1)
        z = along[:, None, None] + np.linspace(-4, 4, 41)[:, None] * np.array([1.0, 0.0])
        z = z.reshape(-1, 2)
    slopes = [(target.score(z + h * e, sigma) - target.score(z - h * e, sigma)) / (2 * h) for e in np.eye(target.dim)]
    hessian = np.stack(slopes, axis=-1)
    return float(np.linalg.eigvalsh((hessian + np.swapaxes(hessian, -1, -2)) / 2).max())


@THEME.claim(
    "project",
    "numerical",
    Verdict.QUALIFIED,
    condition="d = 1, or one common covariance",
    refuted_by=(
        perturbed("diag(1, 2) and diag(2, 1) do no harm.", harmless=("diag(1, 2) and diag(2, 1)",)),
        perturbed("The bound on the line is .98 of the library's.", factor=0.98),
    ),
)
def scores_of_mixtures_are_one_sided_lipschitz(harmless: tuple[str, ...] = (), factor: float = 1.0) -> Evidence:
    """The score of a Gaussian mixture is one-sided Lipschitz: the largest eigenvalue of Hess log q_tau is the same out
    to |z| = 40 and 80, and on the line it is what B3 takes. B3 refuses different covariances in d > 1.
    """

    def check(law: str, tau: float) -> Check:
        far, near_by = (sharpest_bend(law, tau, reach) for reach in (80.0, 40.0))
        return near(f"largest bend to 80 less that to 40, {law}, tau = {tau:g}", far - near_by, 0, 1e-6)

    def holds(law: str, tau: float) -> bool:
        return LAWS[law].dim == 1 or law.endswith("at -+ 3") or any(law.endswith(one) for one in harmless)

    grid = over({"law": tuple(LAWS), "tau": (0.0, 1.0)}, check, holds)
    inside = list(grid.inside)
    for law in (name for name, one in LAWS.items() if one.dim == 1):
        asked = problem(LAWS[law], gb.VE(3.0), gb.Linear(1.0), 1.0)
        for tau in (0.0, 1.0):
            used, bend = -float(profile(asked).kappa(np.array(tau))), sharpest_bend(law, tau, 80.0)
            inside.append(
                at_least(f"factor of B3 less the largest bend, {law}", factor * used - bend, 0, 1e-3 * abs(bend))
            )
            inside.append(at_most(f"the same from above, {law}, tau = {tau:g}", used - bend, 0, 0.01 * abs(bend)))
    outside = "d = 2, diag(1, 2) and diag(2, 1)"
    refusal = refused("B3", lambda: gb.bounds.wasserstein(LAWS[outside], gb.VE(3.0), gb.Linear([1.0, 0.0])), "need")
    return evidence(*inside, refusal, outside=grid.outside)


class Misspecified(NamedTuple):
    """Bounds and the truth for random models N(m', v') of targets N(m, v), shape (n,)."""

    own: Array  # kappa of the model
    true: Array  # kappa of the true score
    true_on_sampler: Array  # kappa of the true score, e in L^2 of the sampler's own law
    distance: Array  # W2(Y, p*)


@cache
def misspecified() -> Misspecified:
    """B3 in three versions, by Gauss-Legendre in log(1 + tau/v), next to the exact distance."""
    target, process, eta = random_gaussians(RANDOM)
    rng = np.random.default_rng(SEED)
    m, v = target.mean[:, 0], target.cov[:, 0]
    m_model, v_model = m + rng.normal(0, 0.3, RANDOM), v * np.exp(rng.normal(0, 0.3, RANDOM))
    model = gb.Gaussian(m_model[:, None], v_model[:, None])
    top, c = process.sigma_T**2, (1 + eta**2) / 2
    node, weight = np.polynomial.legendre.leggauss(200)
    length = np.log1p(top / v)
    u = length * (1 + node[:, None]) / 2
    tau, dtau = v * np.expm1(u), v * np.exp(u) * length * weight[:, None] / 2
    rho = (v_model + tau) / (v_model + top)
    mean_on = m_model - m_model * rho**c  # the sampler's own law at tau
    var_on = v_model + tau + (1 - v_model) * rho ** (2 * c)

    def error(mean: Array, variance: Array) -> Array:
        """L^2 norm of s_model - s under N(mean, variance)."""
        slope = 1 / (v + tau) - 1 / (v_model + tau)
        at_mean = (m_model - mean) / (v_model + tau) - (m - mean) / (v + tau)
        return np.sqrt(slope**2 * variance + at_mean**2)

    start = np.sqrt(m**2 + (np.sqrt(process.prior_variance) - np.sqrt(v + top)) ** 2)

    def bound(kappa_variance: Array, e: Array) -> Array:
        shrunk = (kappa_variance / (kappa_variance + tau)) ** c
        return (kappa_variance / (kappa_variance + top)) ** c * start + c * (shrunk * e * dtau).sum(0)

    on_q, on_sampler = error(m, v + tau), error(mean_on, var_on)
    distance = gb.terminal_law(model, process, eta).w2(target)
    return Misspecified(bound(v_model, on_q), bound(v, on_q), bound(v, on_sampler), distance)


def exceeding(bound: Array) -> int:
    """How many exact distances are above their bound."""
    return int((misspecified().distance > bound * (1 + 1e-9)).sum())


@THEME.claim(
    "theory 5",
    "property",
    Verdict.PASS,
    refuted_by=(
        perturbed("The bound is 99 % of that.", factor=0.99),
        perturbed("The median is at most 1.05.", median=1.05),
    ),
)
def wasserstein_bound_holds_for_learned_scores(factor: float = 1.0, median: float = 1.25) -> Evidence:
    """B3 with the learned score's own kappa: W2(Y, p*) <= exp(-c K) W2(pi, q_T) + c int exp(-c K) e dtau (3000 random
    mis-specified Gaussians); the median of bound over truth is below 1.25 (theory: 1.03 on its own cases).
    """
    found = misspecified()
    return evidence(
        none_of("violations of 3000", exceeding(factor * found.own)),
        at_most("median of bound over truth", float(np.median(found.own / found.distance)), median),
    )


@THEME.claim(
    "theory 5",
    "property",
    Verdict.FAIL,
    refuted_by=perturbed("It holds with the kappa of the learned score.", kappa_of="own"),
)
def wasserstein_bound_holds_with_the_true_kappa(kappa_of: str = "true") -> Evidence:
    """B3 holds with the kappa of the true score and e in L^2(q_tau) (theory: violated by 1264 of its 3000 cases)."""
    return evidence(none_of("violations of 3000", exceeding(getattr(misspecified(), kappa_of))))


@THEME.claim(
    "theory 5",
    "property",
    Verdict.PASS,
    refuted_by=(
        perturbed("The bound is 99 % of that.", factor=0.99),
        perturbed("e may be taken in L^2(q_tau).", law="true"),
    ),
)
def true_kappa_needs_the_law_of_the_sampler(factor: float = 1.0, law: str = "true_on_sampler") -> Evidence:
    """With the true score's kappa B3 holds if e is taken in L^2 of the model sampler's own law (3000 Gaussians)."""
    return evidence(none_of("violations of 3000", exceeding(factor * getattr(misspecified(), law))))
