"""The random questions that bounds are judged by: two fixed distributions, one case per index.

Nothing here depends on what any bound says of a case. Case i is drawn from its own generator, so that any subset can be
computed in any order, and 10,000 cases are the first 10,000. The distribution ``ordinary`` holds questions of everyday
size. The distribution ``hard`` holds what bounds break at: rewards up to 80 standard deviations away, weights down to
1e-6, variances a factor 1e-4 to 1e4 apart, far modes, priors that hardly overlap with q_T, eta from 1e-3 to 5, windows
of 1 % and staircases of many windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
HARD_SIGMA_T = (0.3, 300.0)  # log-uniform
HARD_WEIGHT = (1e-6, 1.0)  # log-uniform, before the weights are divided by their sum
HARD_SCALE = (1e-2, 1e2)  # of a target's variances, log-uniform; each variance differs from it by as much again
HARD_SPREAD = (0.3, 30.0)  # standard deviation of the means, in that of the target's scale
HARD_ETA = (1e-3, 5.0)  # log-uniform
HARD_WIDTH = (0.1, 10.0)  # of a bump or a wave, in standard deviations of a component, log-uniform
FAR = (3.0, 80.0)  # standard deviations between the target and half of the hard rewards
THIN = 1.01  # upper over lower edge of a thin window
STEPS = (5, 20)  # windows of a staircase
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


def case(index: int, distribution: str = "ordinary") -> Case:
    """The case of this index, the same on every machine.

    Raises:
        ValueError: no such distribution.
    """
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}")
    seed, draw = DISTRIBUTIONS[distribution]
    return Case(index, *draw(np.random.default_rng([*seed, index])))


Question = tuple[gb.Gaussian | gb.GaussianMixture, gb.Process, gb.Reward, float | gb.Windows]


def _ordinary(rng: np.random.Generator) -> Question:
    target = _target(rng)
    return target, _process(rng, SIGMA_T), _reward(rng, target), _eta(rng)


def _hard(rng: np.random.Generator) -> Question:
    target = _hard_target(rng)
    process = _process(rng, HARD_SIGMA_T)
    return target, process, _hard_reward(rng, target), _hard_eta(rng, float(process.sigma_T))


DISTRIBUTIONS: dict[str, tuple[tuple[int, ...], Callable[[np.random.Generator], Question]]] = {
    "ordinary": ((SEED,), _ordinary),
    "hard": ((SEED, 1), _hard),
}


def _target(rng: np.random.Generator) -> gb.Gaussian | gb.GaussianMixture:
    """One Gaussian in one to five dimensions, or a mixture of two to four on the line."""
    modes = int(rng.choice(MODES))
    if modes == 1:
        d = int(rng.choice(DIMENSIONS))
        basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
        return gb.Gaussian(rng.normal(0, SPREAD, d), (basis * _log_uniform(rng, *VARIANCE, d)) @ basis.T)
    weights = rng.dirichlet(np.full(modes, 2.0))
    return gb.GaussianMixture(weights, rng.normal(0, SPREAD, modes), _log_uniform(rng, *VARIANCE, modes))


def _process(rng: np.random.Generator, span: tuple[float, float]) -> gb.Process:
    """VE, VP or flow matching, started at a noise-to-signal ratio that is drawn."""
    sigma_T = float(_log_uniform(rng, *span, 1)[0])
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
    return _of_kind(kind, direction, centre, scale, float(rng.uniform(0, 2 * math.pi)) if kind == "cosine" else 0.0)


def _of_kind(kind: str, direction: np.ndarray, centre: np.ndarray, scale: float, phase: float) -> gb.Reward:
    """A linear reward has a direction only; a bump has width ``scale``, a wave has that frequency."""
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
    return gb.Cosine(scale * direction, phase)


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


def _hard_target(rng: np.random.Generator) -> gb.Gaussian | gb.GaussianMixture:
    """As ``_target``, with weights, variances and means of very different size."""
    modes, scale = int(rng.choice(MODES)), float(_log_uniform(rng, *HARD_SCALE, 1)[0])
    spread = math.sqrt(scale) * float(_log_uniform(rng, *HARD_SPREAD, 1)[0])
    if modes == 1:
        d = int(rng.choice(DIMENSIONS))
        basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
        return gb.Gaussian(rng.normal(0, spread, d), (basis * (scale * _log_uniform(rng, *HARD_SCALE, d))) @ basis.T)
    weights = _log_uniform(rng, *HARD_WEIGHT, modes)
    variances = scale * _log_uniform(rng, *HARD_SCALE, modes)
    return gb.GaussianMixture(weights / weights.sum(), rng.normal(0, spread, modes), variances)


def _hard_reward(rng: np.random.Generator, target: gb.Gaussian | gb.GaussianMixture) -> gb.Reward:
    """Half lie near a component, half 3 to 80 standard deviations away from one component or from the whole target."""
    d, kind = target.dim, str(rng.choice(REWARDS))
    direction = rng.normal(size=d)
    direction /= np.linalg.norm(direction)
    several = isinstance(target, gb.GaussianMixture)
    chosen = int(rng.integers(len(target.weights))) if several else 0
    mean = target.components.mean[chosen] if several else target.mean
    covariance = target.components.matrix[chosen] if several else target.matrix
    sd = math.sqrt(float(direction @ covariance @ direction))
    far, whole = bool(rng.integers(2)), bool(rng.integers(2))
    distance = float(rng.uniform(*FAR)) if far else float(rng.normal())
    centre = mean + direction * distance * (_sd(target) if far and whole else sd)
    width = float(_log_uniform(rng, *HARD_WIDTH, 1)[0])
    scale = width * sd if kind == "bump" else 1 / (width * sd)
    return _of_kind(kind, direction, centre, scale, float(rng.uniform(0, 2 * math.pi)))


def _sd(target: gb.Gaussian | gb.GaussianMixture) -> float:
    """Standard deviation of the whole target, per coordinate."""
    if isinstance(target, gb.Gaussian):
        return math.sqrt(float(target.variances.mean()))
    w, law = target.weights, target.components
    mean = w @ law.mean
    return math.sqrt(float((w[:, None] * (law.variances + (law.mean - mean) ** 2)).sum(0).mean()))


def _hard_eta(rng: np.random.Generator, sigma_T: float) -> float | gb.Windows:
    """Half: a number; a quarter: one window of 1 %; a quarter: a staircase of 5 to 20 windows."""
    kind = int(rng.integers(4))
    if kind < 2:
        return float(_log_uniform(rng, *HARD_ETA, 1)[0])
    if kind == 2:
        low = float(_log_uniform(rng, 1e-2, sigma_T, 1)[0])
        return gb.Windows([(low, THIN * low, float(_log_uniform(rng, *HARD_ETA, 1)[0]))])
    steps = int(rng.integers(STEPS[0], STEPS[1] + 1))
    edges = np.sort(_log_uniform(rng, 1e-2, 2 * sigma_T, steps + 1))
    return gb.Windows(list(zip(edges[:-1], edges[1:], _log_uniform(rng, *HARD_ETA, steps), strict=True)))


def _log_uniform(rng: np.random.Generator, low: float, high: float, size: int) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), size))
