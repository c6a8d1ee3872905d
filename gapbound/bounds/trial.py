r"""The guess of a mixture's value function that bound B5 is built on, d = 1: w = sum_k gamma_k u_k and its residual J.

For component k, N(m, v), and the eta-sampler of its own score (theory 3.2), Y_0 given Y_tau = z is
N(m + phi (z - m), C) with phi = (v / (v + tau))^(1/2) exp(-I/2), C = v (1 - exp(-I)) and I = int_0^tau eta^2 dt /
(v + t); u_k is E r under it.

Fields are sampled at points that keep their quantile, z = Q_tau(Q_0^{-1}(x)) with x fixed, so that E_q of a field is a
sum over x with the target's own mass, and grad u^0 = r'(x) q_tau(z) / p(x), however steep, is resolved where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gapbound._validate import Array
from gapbound.bounds.constants import resolving_grid
from gapbound.bounds.line import PIECES, signed_measure
from gapbound.bounds.mismatch import as_line
from gapbound.bounds.problem import Problem
from gapbound.eta import segments, squared_integral
from gapbound.gaussian import trusted
from gapbound.quantiles import Line, labels_of, locate

POINTS = 450  # x, per level
NODES = 3  # of tau in every panel
STEP = 1e-5  # of the difference quotient of r, in the smallest standard deviation
EXPONENTS = np.geomspace(1e-2, 20.0, 12)  # theta of Donsker and Varadhan, times the largest |V|^2


@dataclass(frozen=True)
class Guess:
    """J and grad u^0 at noise levels tau (n,) and points (n, x), with the dtau, eta^2 and the mass of the points."""

    taus: Array
    clock: Array
    eta2: Array
    mass: Array
    J: Array
    slope: Array | None  # None where r has no gradient

    def square_norms(self, mixing: Array) -> Array:
        """E_q V^2 for every lam in ``mixing``, shape (lam, n)."""
        return np.stack([(self.mass * self.field(lam) ** 2).sum(-1) for lam in mixing])

    def moments(self, mixing: Array, left: Array) -> Array:
        """Bounds on E_law V^2 by the KL that is ``left`` (n,), for every lam, shape (lam, n)."""
        return np.stack([self._moment(self.field(lam) ** 2, left) for lam in mixing])

    def field(self, lam: float) -> Array:
        """V = lam (1 - eta^2) J - (1 - lam) eta^2 grad u^0."""
        own = lam * (1 - self.eta2[:, None]) * self.J
        return own if self.slope is None or lam == 1 else own - (1 - lam) * self.eta2[:, None] * self.slope

    def _moment(self, squares: Array, left: Array) -> Array:
        top = squares.max(-1)
        unit = squares / np.where(top > 0, top, 1.0)[:, None]
        logs = [np.log1p((self.mass * np.expm1(theta * unit)).sum(-1)) for theta in EXPONENTS]
        return top * np.min([(left + log) / theta for theta, log in zip(EXPONENTS, logs, strict=True)], axis=0)


def guess(question: Problem, level: int, smooth: bool) -> Guess:
    """The fields at resolution ``level``; ``smooth`` says that r has a gradient."""
    mean, variance = question.components.mean[:, 0], question.components.variances[:, 0]
    x = resolving_grid(mean, np.sqrt(variance)[None], POINTS * level)[0]
    line = Line.of(question.target)
    log_p, _ = line.log_density(x, 0.0)
    width = np.diff(x)
    mass = np.exp(log_p) * (np.pad(width, (0, 1)) + np.pad(width, (1, 0))) / 2
    taus, clock, eta2 = _nodes(question, level)
    z, log_q = _moved(line, x, taus)
    posterior, scores = _posterior(question, z, taus)
    average = (posterior * scores).sum(-1, keepdims=True)
    J = (posterior * (scores - average) * component_values(question, z, taus)).sum(-1)
    slope = _derivative(question, x) * np.exp(np.minimum(log_q - log_p, 300.0)) if smooth else None
    return Guess(taus, clock, eta2, mass, J, slope)


def guessed_error(question: Problem, level: int) -> float:
    """Int w (prior - q_T): the SDE's error if the guess were right."""
    x, measure = signed_measure(as_line(question), PIECES[level - 1])
    z, tau = question.prior_sd * x[None], np.array([question.sigma_T**2])
    w = (_posterior(question, z, tau)[0] * component_values(question, z, tau)).sum(-1)[0]
    centre = float(question.reward.expectation(question.target))
    return float(((w - centre) * measure).sum())


def component_values(question: Problem, z: Array, taus: Array) -> Array:
    """u_k at points (n, x) of noise levels (n,), shape (n, x, K)."""
    mean, v = question.components.mean[:, 0], question.components.variances[:, 0]
    decorrelated = squared_integral(question.eta, 0.0, np.sqrt(taus)[:, None], v)  # (n, K)
    phi = np.sqrt(v / (v + taus[:, None])) * np.exp(-decorrelated / 2)
    centre = mean + phi[:, None] * (z[..., None] - mean)
    spread = np.broadcast_to((-v * np.expm1(-decorrelated))[:, None], centre.shape)
    values = np.empty(centre.shape)
    random = decorrelated.min(-1) > 0  # none or all of the components: below every window nothing is random
    if random.any():
        law = trusted(centre[random][..., None], spread[random][..., None], 1)
        values[random] = question.reward.expectation(law)
    values[~random] = question.reward(centre[~random][..., None])
    return values


def _posterior(question: Problem, z: Array, taus: Array) -> tuple[Array, Array]:
    """gamma_k and the components' scores, each (n, x, K)."""
    mean, v = question.components.mean[:, 0], question.components.variances[:, 0] + taus[:, None, None]
    away = z[..., None] - mean
    joint = np.log(question.weights) - np.log(v) / 2 - away**2 / (2 * v)
    share = np.exp(joint - joint.max(-1, keepdims=True))
    return share / share.sum(-1, keepdims=True), -away / v


def _nodes(question: Problem, level: int) -> tuple[Array, Array, Array]:
    """Noise levels, their dtau and eta^2: Gauss-Legendre in log(1 + tau/v), in panels cut where eta jumps.

    A large eta forgets within 1/eta^2 of that clock, at either end: panels are that short there, and double inwards.
    """
    floor, top = question.variance_range[0], question.sigma_T
    node, weight = np.polynomial.legendre.leggauss(NODES)
    taus, clock, eta2 = [], [], []
    for low, high, (value,) in segments(question.eta):
        high = min(high, top)
        if low >= high:
            continue
        ends = math.log1p(low**2 / floor), math.log1p(high**2 / floor)
        edges = _graded(*ends, 1 / max(1.0, float(value) ** 2), level)
        half = np.diff(edges)[:, None] / 2
        theta = (edges[:-1, None] + half * (1 + node)).ravel()
        taus.append(floor * np.expm1(theta))
        clock.append((half * weight).ravel() * floor * np.exp(theta))
        eta2.append(np.full(theta.size, float(value) ** 2))
    return np.concatenate(taus), np.concatenate(clock), np.concatenate(eta2)


def _graded(low: float, high: float, finest: float, level: int) -> Array:
    """Panel edges from low to high: ``finest`` wide at both ends, doubling up to 1, each cut into ``level``."""
    middle, offsets, width = (high - low) / 2, [0.0], finest
    while offsets[-1] + width < middle:
        offsets.append(offsets[-1] + width)
        width = min(2 * width, 1.0)
    rising = np.array(offsets)
    edges = np.concatenate([low + rising, [low + middle], (high - rising)[::-1]])
    return np.interp(np.arange(level * (edges.size - 1) + 1) / level, np.arange(edges.size), edges)


def _moved(line: Line, x: Array, taus: Array) -> tuple[Array, Array]:
    """Where the points x are at every tau, and log q_tau there, each (n, x)."""
    labels, z, rows = labels_of(line, x, 0.0), x, []
    for tau in taus:
        z = locate(line, labels, float(tau), z)
        rows.append((z, line.log_density(z, float(tau))[0]))
    return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def _derivative(question: Problem, x: Array) -> Array:
    h = STEP * math.sqrt(question.variance_range[0])
    ahead, behind = (question.reward((x + side)[:, None]) for side in (h, -h))
    return (ahead - behind) / (2 * h)
