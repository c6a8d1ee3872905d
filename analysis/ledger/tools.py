"""What several claims compute: slopes of exact curves, the worst of many errors, a law in one number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import gapbound as gb
from analysis.ledger.claim import Check, Evidence

ETAS = (0.5, 1.0, 1.2, 1.5, 2.0)
FAR = (1e6, 1e7)  # where leading terms are all one sees, at eta of 0.5 too (to about 0.006)
STEP = 1e-4  # of the logarithm, for local slopes


def over(axes: Mapping[str, Sequence[Any]], check: Callable[..., Check], where: Callable[..., bool]) -> Evidence:
    """One check at every cell of the grid of ``axes``: inside where the condition holds, outside everywhere else."""
    inside, outside = [], []
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        (inside if where(**cell) else outside).append(check(**cell))
    return Evidence(tuple(inside), tuple(outside))


def slope(of: Callable[[Any], Any], low: float = FAR[0], high: float = FAR[1]) -> float:
    """Slope of log |of| against the logarithm of its argument, between ``low`` and ``high``."""
    ends = [float(np.abs(of(x))) for x in (low, high)]
    return float(np.log(ends[1] / ends[0]) / np.log(high / low))


def local_slope(of: Callable[[Any], Any], x: float) -> float:
    """The same at one point, by a central difference."""
    return slope(of, x * np.exp(-STEP), x * np.exp(STEP))


def order(steps: tuple[int, ...], errors: Any) -> float:
    """Order of convergence: minus the slope of log error against log steps between the two finest."""
    e = np.abs(np.asarray(errors, dtype=float))
    return float(-np.log(e[-1] / e[-2]) / np.log(steps[-1] / steps[-2]))


def worst(found: Any, expected: Any) -> float:
    """Largest absolute difference."""
    return float(np.max(np.abs(np.asarray(found, dtype=float) - np.asarray(expected, dtype=float))))


def worst_relative(found: Any, expected: Any) -> float:
    """Largest difference as a share of what is expected."""
    expected = np.asarray(expected, dtype=float)
    return float(np.max(np.abs(np.asarray(found, dtype=float) / expected - 1)))


def moments(law: gb.Gaussian) -> tuple[float, float]:
    """Mean and variance of a law in d = 1."""
    return float(law.mean[..., 0]), float(law.variances[..., 0])


def vp_at(sigma_T: Any) -> gb.VP:
    """The VP process, beta = 1, that starts at ``sigma_T``."""
    return gb.VP(np.log1p(np.asarray(sigma_T, dtype=float) ** 2), beta="constant")


def flow_at(sigma_T: Any) -> gb.FlowMatching:
    """Flow matching started at ``sigma_T``."""
    sigma_T = np.asarray(sigma_T, dtype=float)
    return gb.FlowMatching(sigma_T / (1 + sigma_T))
