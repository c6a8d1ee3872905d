"""The RL optimum in d = 1 by another route: h and a sampler's moments as differential equations, solved by SciPy.

With y = z - mu and log h = const + q y - P y^2 / 2 the backward equation of h is, in the clock tau,

    P' = -2 c P / (v + tau) - eta^2 P^2,   q' = -c q / (v + tau) - eta^2 P q,   c = (1 + eta^2) / 2.

No exponent phi, no left-over variance C and no formula of ``gapbound.optimum`` appears here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import gapbound as gb

Profile = float | gb.Windows
Strength = Callable[[float], float]
EXACT = {"method": "DOP853", "rtol": 1e-12, "atol": 1e-25}


def exponent(reference: gb.Gaussian, reward: gb.Reward, beta: float) -> tuple[float, float]:
    """P and q at tau = 0: r / beta around mu, by differences of the reward (exact for a quadratic)."""
    mu = float(reference.mean[0])
    below, at, above = (float(reward(np.array([mu + step]))) / beta for step in (-1.0, 0.0, 1.0))
    return 2 * at - below - above, (above - below) / 2


def control_strength(eta: float) -> float:
    """What multiplies grad log h in the score of the optimum."""
    return 2 * eta**2 / (1 + eta**2)


def optimum_moments(
    reference: gb.Gaussian,
    reward: gb.Reward,
    beta: float,
    process: gb.Process,
    trained: Profile,
    sampled: Profile,
    weight: Callable[[float], float] = lambda sigma: 1.0,
    strength: Strength = control_strength,
) -> tuple[float, float]:
    """Mean and variance of a sampler at ``sampled`` on score_ref + weight (s* - score_ref), s* trained at ``trained``.

    s* is score_ref + strength(eta) grad log h. The reference is a Gaussian in d = 1; both profiles are numbers or
    ``Windows``.
    """
    mu, v = float(reference.mean[0]), float(reference.variances[0])
    sigma_T = float(process.sigma_T)
    state = np.array(exponent(reference, reward, beta))
    pieces = []
    for low, high in itertools.pairwise(_cuts(sigma_T, trained, sampled)):
        middle = (low + high) / 2
        eta, own = (_at(profile, middle) for profile in (trained, sampled))
        square = eta**2

        def upwards(s: float, x: np.ndarray, square: float = square) -> list[float]:
            tau, c = math.expm1(s), (1 + square) / 2
            P, q = x
            return [
                (1 + tau) * (-2 * c * P / (v + tau) - square * P * P),
                (1 + tau) * (-c * q / (v + tau) - square * P * q),
            ]

        span = (math.log1p(low**2), math.log1p(high**2))
        found = solve_ivp(upwards, span, state, dense_output=True, **EXACT)
        pieces.append((span, strength(eta), own**2, found.sol))
        state = found.y[:, -1]
    moments = np.array([-mu, float(process.prior_variance)])
    for span, share, own, control in reversed(pieces):

        def downwards(
            s: float, x: np.ndarray, own: float = own, share: float = share, control: Any = control
        ) -> list[float]:
            tau = math.expm1(s)
            P, q = share * weight(math.sqrt(tau)) * control(s)
            gain, c = 1 / (v + tau) + P, (1 + own) / 2
            return [(1 + tau) * c * (gain * x[0] - q), (1 + tau) * (2 * c * gain * x[1] - own)]

        moments = solve_ivp(downwards, span[::-1], moments, **EXACT).y[:, -1]
    return mu + float(moments[0]), float(moments[1])


def _cuts(sigma_T: float, *profiles: Profile) -> list[float]:
    edges = {0.0, sigma_T}
    for profile in profiles:
        if isinstance(profile, gb.Windows):
            edges |= {edge for low, high, _ in profile.windows for edge in (low, high) if edge < sigma_T}
    return sorted(edges)


def _at(profile: Profile, sigma: float) -> float:
    return float(profile(sigma)) if isinstance(profile, gb.Windows) else profile
