"""The random questions that bounds are judged by: a fixed distribution, one case per index.

Nothing here depends on what any bound says of a case. Case i is drawn from its own generator, so that any subset can be
computed in any order, and 10,000 cases are the first 10,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

import gapbound as gb

SEED = 20261123
MODES = (1, 2, 3, 4)
DIMENSIONS = (1, 1, 1, 2, 3, 5)  # of a single Gaussian; mixtures have exact gaps in d = 1 alone
SIGMA_T = (1.5, 30.0)  # log-uniform
VARIANCE = (0.05, 2.0)  # of a component, log-uniform
SPREAD = 2.0  # standard deviation of the components' means
ETA_MAX = 3.0
USUAL = (0.3, 0.5, 1.0, 1.2, 1.5, 2.0)
REWARDS = ("linear", "quadratic", "half-space", "absolute", "bump", "cosine")


@dataclass(frozen=True)
class Case:
    """One question: ``regime`` is "eta < 1", "eta >= 1" or "windows"."""

    index: int
    target: gb.Gaussian | gb.GaussianMixture
    process: gb.Process
    reward: gb.Reward
    eta: float | gb.Windows

    @property
    def regime(self) -> str:
        """Which group the case is counted in."""
        if isinstance(self.eta, gb.Windows):
            return "windows"
        return "eta < 1" if self.eta < 1 else "eta >= 1"


def case(index: int) -> Case:
    """The case of this index, the same on every machine."""
    rng = np.random.default_rng([SEED, index])
    target = _target(rng)
    return Case(index, target, _process(rng), _reward(rng, target), _eta(rng))


def _target(rng: np.random.Generator) -> gb.Gaussian | gb.GaussianMixture:
    """One Gaussian in one to five dimensions, or a mixture of two to four on the line."""
    modes = int(rng.choice(MODES))
    if modes == 1:
        d = int(rng.choice(DIMENSIONS))
        basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
        return gb.Gaussian(rng.normal(0, SPREAD, d), (basis * _log_uniform(rng, *VARIANCE, d)) @ basis.T)
    weights = rng.dirichlet(np.full(modes, 2.0))
    return gb.GaussianMixture(weights, rng.normal(0, SPREAD, modes), _log_uniform(rng, *VARIANCE, modes))


def _process(rng: np.random.Generator) -> gb.Process:
    """VE, VP or flow matching, started at a noise-to-signal ratio that is drawn."""
    sigma_T = float(_log_uniform(rng, *SIGMA_T, 1)[0])
    family = int(rng.integers(3))
    if family == 0:
        return gb.VE(sigma_T)
    if family == 1:
        return gb.VP(math.log1p(sigma_T**2), beta="constant")
    return gb.FlowMatching(sigma_T / (1 + sigma_T))


def _reward(rng: np.random.Generator, target: gb.Gaussian | gb.GaussianMixture) -> gb.Reward:
    """A reward whose centre, edge or wave lies where the target does."""
    d, kind = target.dim, str(rng.choice(REWARDS))
    direction = rng.normal(size=d)
    direction /= np.linalg.norm(direction)
    centre = target.sample(1, seed=int(rng.integers(2**32)))[0] + rng.normal(size=d)
    scale = float(rng.uniform(0.3, 2.0))
    if kind == "linear":
        return gb.Linear(direction)
    if kind == "quadratic":
        return gb.Quadratic(1.0, centre)
    if kind == "half-space":
        return gb.HalfSpace(direction, float(direction @ centre))
    if kind == "absolute":
        return gb.AbsoluteDeviation(centre)
    if kind == "bump":
        return gb.Bump(centre, scale)
    return gb.Cosine(scale * direction, float(rng.uniform(0, 2 * math.pi)))


def _eta(rng: np.random.Generator) -> float | gb.Windows:
    """Half: anything up to 3; a quarter: the usual values; a quarter: one or two windows."""
    kind = rng.choice(4)
    if kind < 2:
        return float(rng.uniform(0, ETA_MAX))
    if kind == 2:
        return float(rng.choice(USUAL))
    edges = np.sort(_log_uniform(rng, 0.05, SIGMA_T[1], 4))
    values = rng.uniform(0, ETA_MAX, 2)
    windows = [(edges[0], edges[1], values[0]), (edges[2], edges[3], values[1])]
    return gb.Windows(windows[: int(rng.integers(1, 3))])


def _log_uniform(rng: np.random.Generator, low: float, high: float, size: int) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), size))
