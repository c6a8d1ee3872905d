"""Theory 3.1: the model fine-tuned by KL-regularised RL as the exact score of the tilted target."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

import gapbound as gb
from analysis.ledger.claim import Evidence, Theme, Verdict, at_most, close, evidence, near, refused, true
from analysis.ledger.tools import ETAS, moments, slope, vp_at, worst, worst_relative

THEME = Theme("Fine-tuned models")
REFERENCE = gb.Gaussian(0.3, 0.8)
REWARD = gb.Quadratic(0.7, 1.4, 0.2)
MIXTURE = gb.GaussianMixture([0.3, 0.7], [-2.0, 1.5], [0.05, 0.2])
BETA = 0.9


def tilted_moments(density: Callable[[float], float], reward: gb.Reward, beta: float) -> tuple[float, float, float]:
    """Mass, mean and variance of density exp(reward / beta), by quadrature."""

    def weighted(f: Callable[[float], float]) -> float:
        return quad(
            lambda x: f(x) * density(x) * float(np.exp(reward(np.array([x])) / beta)),
            -12, 12, points=[-2.0, 0.0, 1.5], epsabs=1e-13, limit=400,
        )[0]  # fmt: skip

    mass = weighted(lambda x: 1.0)
    mean = weighted(lambda x: x) / mass
    return mass, mean, weighted(lambda x: (x - mean) ** 2) / mass


@THEME.claim("paper", "numerical", Verdict.PASS)
def tilted_gaussian() -> Evidence:
    """KL-regularised RL aims at p exp(r/beta): a Gaussian stays one under a quadratic or linear reward, with precision
    S^-1 + 2A/beta.
    """
    checks = []
    for name, reward, curvature in (("quadratic", REWARD, 0.7), ("linear", gb.Linear(1.3), 0.0)):
        law = moments(gb.tilt(REFERENCE, reward, BETA))
        _, mean, variance = tilted_moments(lambda x: norm.pdf(x, 0.3, 0.8**0.5), reward, BETA)
        checks += [
            near(f"{name}: mean", law[0], mean, 1e-9),
            near(f"{name}: variance", law[1], variance, 1e-9),
            near(f"{name}: precision", 1 / law[1], 1 / 0.8 + 2 * curvature / BETA, 1e-12),
        ]
    return evidence(*checks)


@THEME.claim("theory 3.1", "numerical", Verdict.PASS)
def tilted_mixture() -> Evidence:
    """A mixture stays a mixture: every component is tilted, and its weight multiplied by E_k[exp(r/beta)]."""
    tilted = gb.tilt(MIXTURE, REWARD, BETA)
    laws = zip(MIXTURE.weights, MIXTURE.components.mean[:, 0], MIXTURE.components.variances[:, 0], strict=True)
    parts = [tilted_moments(lambda x, w=w, m=m, v=v: w * norm.pdf(x, m, v**0.5), REWARD, BETA) for w, m, v in laws]
    mass, mean, variance = (np.array(column) for column in zip(*parts, strict=True))
    return evidence(
        at_most("error of the weights", worst(tilted.weights, mass / mass.sum()), 1e-9),
        at_most("error of the means", worst(tilted.components.mean[:, 0], mean), 1e-9),
        at_most("error of the variances", worst(tilted.components.variances[:, 0], variance), 1e-9),
    )


@THEME.claim("theory 3.1", "numerical", Verdict.QUALIFIED, condition="S^-1 + 2A/beta is positive definite")
def quadratic_tilts_keep_gaussians_gaussian() -> Evidence:
    """Every quadratic reward turns N(m, S) into a Gaussian; here A = -1, S = 0.8, so that beta must exceed 1.6."""

    def accepted(beta: float) -> float:
        return (
            1 - refused("", lambda: gb.tilt(REFERENCE, gb.Quadratic(-1.0, 0.0), beta), "beta must be above 1.6").found
        )

    return evidence(
        true("beta = 1.61 gives a law", accepted(1.61)),
        near("its precision", 1 / gb.tilt(REFERENCE, gb.Quadratic(-1.0, 0.0), 1.61).cov[0], 1.25 - 2 / 1.61, 1e-12),
        outside=true("beta = 1.59 gives a law", accepted(1.59)),
    )


@THEME.claim("paper", "numerical", Verdict.QUALIFIED, condition="sigma_T = T (VE); c is not the tilted mean")
def gap_of_the_tilted_model() -> Evidence:
    """The fine-tuned model's reward gap is Theta(1/T) for VE and Theta(exp(-T^2/2)) for VP with beta = 2t."""

    def gap(reward: gb.Reward, at: Callable[[Any], gb.Process], eta: float) -> Callable[[Any], Any]:
        tilted = gb.tilt(REFERENCE, REWARD, BETA)
        return lambda sigma: gb.reward_gap(tilted, at(sigma), reward, eta)

    best = gb.Quadratic(1.0, gb.tilt(REFERENCE, REWARD, BETA).mean)
    return evidence(
        *(near(f"VE, eta = {eta:g}", slope(gap(REWARD, gb.VE, eta)), -1, 0.01) for eta in ETAS),
        *(near(f"VP in sigma_T, eta = {eta:g}", slope(gap(REWARD, vp_at, eta)), -1, 0.01) for eta in ETAS),
        outside=[
            near("VE, reward centred at the tilted mean", slope(gap(best, gb.VE, 1.0)), -1, 0.01),
            near("VE, sigma_T^2 = T", slope(lambda T: gap(REWARD, gb.VE, 1.0)(np.sqrt(T)), 1e12, 1e14), -1, 0.01),
        ],
    )


@THEME.claim("theory 3.1", "numerical", Verdict.PASS)
def constant_of_the_tilted_model() -> Evidence:
    """The fine-tuned model's VE constant is that of theory 2 with the tilted mean m* and variance v*: (2a(m* - c) - b)
    m* sqrt(v*).
    """
    tilted = gb.tilt(REFERENCE, REWARD, BETA)
    m, v = moments(tilted)
    said = (2 * 0.7 * (m - 1.4) - 0.2) * m * v**0.5
    return evidence(close("T gap at 1e7", 1e7 * gb.reward_gap(tilted, gb.VE(1e7), REWARD, 1.0), said, 1e-5))


@THEME.claim("theory 3.1", "numerical", Verdict.PASS)
def strong_tilts_and_weak_tilts() -> Evidence:
    """As beta -> inf the tilted law is the reference, and as beta -> 0 it concentrates at the reward's maximum, with
    variance beta/(2a).
    """
    reward = gb.Quadratic(0.7, 1.4)
    weak, strong = moments(gb.tilt(REFERENCE, reward, 1e9)), moments(gb.tilt(REFERENCE, reward, 1e-6))
    return evidence(
        at_most("beta = 1e9: distance to the reference", worst(weak, moments(REFERENCE)), 1e-8),
        near("beta = 1e-6: mean", strong[0], 1.4, 1e-5),
        at_most("beta = 1e-6: relative error of the variance", worst_relative(strong[1], 1e-6 / 1.4), 1e-5),
    )
