"""A mixture on the line at every noise level, and points that keep their quantile as the level changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr

from gapbound._validate import Array
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture

ADAMS_BASHFORTH = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12)}
ACCEPTED = 1e-6  # residual, relative to the tail, after which one more Newton step leaves rounding only


@dataclass(frozen=True)
class Line:
    """The mixture on the line, at any noise level: log-weights, means, variances of shape (K, 1), sorted by mean."""

    log_weights: Array
    means: Array
    variances: Array

    @classmethod
    def of(cls, target: Gaussian | GaussianMixture) -> Line:
        """That of one law in d = 1; components whose weight has underflowed are left out."""
        law = target.components if isinstance(target, GaussianMixture) else target
        weights = target.weights if isinstance(target, GaussianMixture) else np.ones(1)
        mean, variance = law.mean.ravel(), law.variances.ravel()
        order = np.argsort(mean)
        order = order[weights[order] > 0][:, None]
        return cls(np.log(weights[order]), mean[order], variance[order])

    @property
    def floor(self) -> float:
        """The smallest variance."""
        return float(self.variances.min())

    def standard(self, z: Array, tau: float) -> tuple[Array, Array]:
        """Standardised positions, shape (K, n), and standard deviations (K, 1)."""
        sd = np.sqrt(self.variances + tau)
        return (z - self.means) / sd, sd

    def log_density(self, z: Array, tau: float) -> tuple[Array, Array]:
        """log q_tau and its derivative, the score."""
        u, sd = self.standard(z, tau)
        terms = self.log_weights - np.log(sd) - u**2 / 2
        highest = terms.max(0)
        parts = np.exp(terms - highest)
        total = parts.sum(0)
        return highest + np.log(total) - math.log(2 * math.pi) / 2, -(parts * u / sd).sum(0) / total

    def log_tails(self, z: Array, tau: float) -> tuple[Array, Array]:
        """Logs of every component's mass below and above z, shape (K, n)."""
        u, _ = self.standard(z, tau)
        return self.log_weights + log_ndtr(u), self.log_weights + log_ndtr(-u)

    def log_masses(self, edges: Array) -> Array:
        """Logs of the masses at tau = 0 of the n + 1 cells between n edges: positive terms only."""
        u, _ = self.standard(edges, 0.0)
        ends = np.pad(u, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
        a, b = ends[:, :-1], ends[:, 1:]
        upper = a + b > 0
        a, b = np.where(upper, -b, a), np.where(upper, -a, b)
        log_b = log_ndtr(b)
        terms = self.log_weights + log_b + np.log(-np.expm1(log_ndtr(a) - log_b))
        return _logsumexp(terms)


def _logsumexp(terms: Array) -> Array:
    """log(sum(exp)) over the first axis; -inf where all terms are."""
    highest = terms.max(0)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return shift + np.log(np.exp(terms - shift).sum(0))


@dataclass(frozen=True)
class Labels:
    """What stays with a point that the ODE moves: the mass below it less that of the k lowest components.

    With k the number of components that lie (mostly) below, that is a difference of tails only, so that points deep
    between two modes keep their identity: sum_{i >= k} w_i Phi(u_i) - sum_{i < k} w_i Phi(-u_i) = value.
    """

    signs: Array  # (K, n): 1 for a component counted by its mass below, -1 above
    value: Array  # (n,), 0 where it underflows
    sign: Array
    log_size: Array

    def __getitem__(self, index: Any) -> Labels:
        return Labels(self.signs[:, index], self.value[index], self.sign[index], self.log_size[index])


def labels_of(line: Line, z: Array, tau: float) -> Labels:
    """The labels of the points that are at z at noise level tau."""
    below, above = line.log_tails(z, tau)
    K = len(below)
    nothing = np.full((1, z.size), -np.inf)
    up = np.vstack([nothing, np.logaddexp.accumulate(above)])
    down = np.vstack([np.logaddexp.accumulate(below[::-1])[::-1], nothing])
    k = np.logaddexp(up, down).argmin(0)
    signs = np.where(np.arange(K)[:, None] < k, -1.0, 1.0)
    sign, log_size, _, _ = _signed_tail(line, signs, z, tau)
    return Labels(signs, sign * np.exp(log_size), sign, log_size)


def _signed_tail(line: Line, signs: Array, z: Array, tau: float) -> tuple[Array, Array, Array, Array]:
    """The value of a label at z: its sign, the log of its size, and the log of its two terms' ratio with its slope."""
    u, sd = line.standard(z, tau)
    masses = line.log_weights + log_ndtr(signs * u)
    densities = line.log_weights - np.log(sd) - u**2 / 2 - math.log(2 * math.pi) / 2
    below, q_below = (_logsumexp(np.where(signs > 0, terms, -np.inf)) for terms in (masses, densities))
    above, q_above = (_logsumexp(np.where(signs < 0, terms, -np.inf)) for terms in (masses, densities))
    ratio = below - above
    with np.errstate(divide="ignore", invalid="ignore"):
        log_size = np.maximum(below, above) + np.log(-np.expm1(-np.abs(ratio)))
        return np.sign(ratio), log_size, ratio, np.exp(q_below - below) + np.exp(q_above - above)


def locate(line: Line, labels: Labels, tau: float, guess: Array, tolerance: float = 1e-14) -> Array:
    """Where the labelled points are at tau: Newton's method on the log of the tail, bracketed; any guess will do."""
    sd = math.sqrt(line.variances.max() + tau)
    lowest = labels.log_size[np.isfinite(labels.log_size)].min(initial=0.0)
    width = sd * (10 + math.sqrt(2 * abs(lowest)))
    low, high = np.full(guess.shape, line.means[0, 0] - width), np.full(guess.shape, line.means[-1, 0] + width)
    z, open_ = np.clip(guess, low, high), np.arange(guess.size)
    for _ in range(200):
        goal, at = labels[open_], z[open_]
        sign, log_size, ratio, slope = _signed_tail(line, goal.signs, at, tau)
        log_q, _ = line.log_density(at, tau)
        same = (sign == goal.sign) & (sign != 0)
        with np.errstate(over="ignore", invalid="ignore"):
            linear = goal.sign * np.exp(goal.log_size - log_q) - sign * np.exp(log_size - log_q)
            rising = np.where(same, sign * (goal.log_size - log_size), goal.sign - sign)
            in_log = rising * np.exp(log_size - log_q)
            # on the wrong side of where the two terms are equal, go there
            step = np.where(np.abs(ratio) < 1, linear, np.where(same, in_log, -ratio / slope))
        low[open_] = np.where(rising > 0, at, low[open_])
        high[open_] = np.where(rising < 0, at, high[open_])
        moved = at + step
        done = (rising == 0) | (np.abs(step) <= 4e-16 * np.abs(at) + tolerance * sd)
        inside = (moved > low[open_]) & (moved < high[open_])
        z[open_] = np.where(rising == 0, at, np.where(done | inside, moved, (low[open_] + high[open_]) / 2))
        open_ = open_[~done]
        if not open_.size:
            break
    return z


class Points:
    """Edges that move with the quantiles: predicted along the ODE, corrected by one Newton step."""

    def __init__(self, line: Line, edges: Array) -> None:
        """Start from ``edges`` at tau = 0."""
        self.line, self.labels, self.z = line, labels_of(line, edges, 0.0), edges
        self.log_q = line.log_density(edges, 0.0)[0]
        self.weights = np.exp(line.log_weights) * self.labels.signs
        self.tail = np.abs(self.labels.value)  # what the label's value is a difference of; 0 where that underflows
        self._velocities: list[Array] = []

    def jump(self, tau: float) -> None:
        """Move to any tau."""
        self.z = locate(self.line, self.labels, tau, self.z)
        self.log_q, score = self.line.log_density(self.z, tau)
        self.tail = self._tails(self.z, tau)[1]
        self._velocities = [-(self.line.floor + tau) * score / 2]

    def advance(self, tau: float, step: float) -> None:
        """Move by ``step`` in log(floor + tau), to tau."""
        past = self._velocities
        z = self.z + step * sum(share * v for share, v in zip(ADAMS_BASHFORTH[len(past)], past, strict=True))
        ready = np.zeros(z.shape, bool)
        for _ in range(2):
            value, size = self._tails(z, tau)
            residual = self.labels.value - value
            log_q, score = self.line.log_density(z, tau)
            deep = log_q < -600
            shift = np.where(deep, 0.0, residual / np.exp(np.maximum(log_q, -600)))
            known = ~deep & (np.abs(residual) < 0.3 * size) & (size > 1e-280)
            z = np.where(known, z + shift, z)
            ready = known & (np.abs(residual) <= ACCEPTED * size)
            if ready.all():
                break
        self.log_q = log_q + np.where(ready, score * shift, 0.0)
        if not ready.all():
            late = np.flatnonzero(~ready)
            z[late] = locate(self.line, self.labels[late], tau, z[late], 1e-12)
            self.log_q[late], score[late] = self.line.log_density(z[late], tau)
            size = self._tails(z, tau)[1]
        self.z, self.tail = z, size
        self._velocities = [-(self.line.floor + tau) * score / 2, *past[:2]]

    def _tails(self, z: Array, tau: float) -> tuple[Array, Array]:
        """Values of the labels at z, and the sums of their terms' sizes."""
        u, _ = self.line.standard(z, tau)
        terms = self.weights * ndtr(self.labels.signs * u)
        return terms.sum(0), np.abs(terms).sum(0)


def between(low: Any, high: Any) -> Any:
    """Phi(high) - Phi(low), from the smaller tails."""
    upper = low + high > 0
    return np.where(upper, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
