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

from gapbound._validate import Array, shown
from gapbound.bounds.line import PIECES, signed_measure
from gapbound.bounds.mismatch import as_line
from gapbound.bounds.problem import Problem
from gapbound.eta import segments, squared_integral
from gapbound.gaussian import trusted
from gapbound.quantiles import Line, labels_of, locate
from gapbound.reward import AbsoluteDeviation, Bump, Cosine, HalfSpace, Linear, Quadratic, Reward

POINTS = 450  # x, per level
NODES = 3  # of tau in every panel
MOST = 12_000  # points or panels, per level
REACH = 10.0  # standard deviations of every component
PRIOR_REACH = 9.5  # of the prior
UNSEEN = 1e-20  # more than the prior's mass beyond
GRADING = 0.2  # distance to a narrow bump over which the points around it grow sparse
STEEPEST = 150.0  # logarithm of dx/dz
ROUNDING = 1e-15
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
        return np.stack([_weighted(self.mass, self.field(lam) ** 2) for lam in mixing])

    def moments(self, mixing: Array, left: Array) -> Array:
        """Bounds on E_law V^2 by the KL that is ``left`` (n,), for every lam, shape (lam, n)."""
        return np.stack([self._moment(self.field(lam) ** 2, left) for lam in mixing])

    def field(self, lam: float) -> Array:
        """V = lam (1 - eta^2) J - (1 - lam) eta^2 grad u^0."""
        own = lam * (1 - self.eta2[:, None]) * self.J
        if self.slope is None or lam == 1:
            return own
        eta2 = self.eta2[:, None]
        return own - (1 - lam) * np.where(eta2 > 0, eta2 * np.where(eta2 > 0, self.slope, 0.0), 0.0)

    def _moment(self, squares: Array, left: Array) -> Array:
        top = squares.max(-1)
        scale = np.where((top > 0) & np.isfinite(top), top, 1.0)[:, None]
        unit = np.where(np.isfinite(top)[:, None], squares, 0.0) / scale  # an infinite top makes the product infinite
        logs = [np.log1p((self.mass * np.expm1(theta * unit)).sum(-1)) for theta in EXPONENTS]
        return top * np.min([(left + log) / theta for theta, log in zip(EXPONENTS, logs, strict=True)], axis=0)


def _weighted(mass: Array, squares: Array) -> Array:
    """Sums over x; infinite where a square is, whatever its mass."""
    endless = np.isinf(squares)
    return np.where(endless.any(-1), np.inf, (mass * np.where(endless, 0.0, squares)).sum(-1))


def guess(question: Problem, level: int, smooth: bool, reach: float = REACH) -> Guess:
    """The fields at resolution ``level``; ``smooth`` says that r has a gradient.

    The points cover every component to ``reach`` standard deviations, and what the ODE makes of the prior's. Where
    grad u^0 would exceed exp(150), between far modes, it is infinite: a guess that takes it is then of no use.
    """
    line = Line.of(question.target)
    x = field_points(question, line, level, reach)
    log_p, _ = line.log_density(x, 0.0)
    width = np.diff(x)
    mass = np.exp(log_p) * (np.pad(width, (0, 1)) + np.pad(width, (1, 0))) / 2
    taus, clock, eta2 = _nodes(question, level)
    z, log_q = _moved(line, x, taus)
    posterior, scores = _posterior(question, z, taus)
    average = (posterior * scores).sum(-1, keepdims=True)
    J = (posterior * (scores - average) * component_values(question, z, taus)).sum(-1)
    if not smooth:
        return Guess(taus, clock, eta2, mass, J, None)
    steepness = log_q - log_p
    slope = _derivative(question.reward, x) * np.exp(np.minimum(steepness, STEEPEST))
    return Guess(taus, clock, eta2, mass, J, np.where(steepness > STEEPEST, np.inf, slope))


def field_points(question: Problem, line: Line, level: int, reach: float) -> Array:
    """Points (n,) as dense as the components are narrow, and graded towards a bump that is narrower.

    They reach as far as the target, to ``reach`` standard deviations, and as the ODE carries the prior's mass.

    Raises:
        ValueError: there would be more than ``MOST`` points.
    """
    mean, sd = question.components.mean[:, 0], np.sqrt(question.components.variances[:, 0])
    ends = np.array([-PRIOR_REACH, PRIOR_REACH]) * question.prior_sd
    bottom, top = map(float, locate(line, labels_of(line, ends, question.sigma_T**2), 0.0, ends))
    low, high = min(bottom, float((mean - reach * sd).min())), max(top, float((mean + reach * sd).max()))
    fine = [np.linspace(low, high, 400), (mean + sd * np.linspace(-reach, reach, 400)[:, None]).ravel()]
    c, h = _bump(question.reward)
    if h < sd.max():
        fine.append(c + h * np.sinh(np.linspace(-16, 16, 400)))
    at = np.unique(np.concatenate(fine).clip(low, high))
    away = np.abs(at[:, None] - mean) / sd
    core = (np.exp(-((away / REACH) ** 8)) / sd).max(-1) + 40 / (high - low)
    graded = (1 / (sd * (1 + away))).max(-1) + (1 / (h + GRADING * np.abs(at - c)) if h < sd.max() else 0.0)
    tables = [np.concatenate([[0.0], np.cumsum((d[1:] + d[:-1]) / 2 * np.diff(at))]) for d in (core, core + graded)]
    points = math.ceil(POINTS * level * tables[1][-1] / tables[0][-1])
    if points > MOST * level:
        raise ValueError(f"{points} points would be needed to resolve the fields of the guess")
    return np.interp(np.linspace(0, tables[1][-1], points), tables[1], at)


def _bump(reward: Reward) -> tuple[float, float]:
    """Centre and width of what is narrow in a reward; an infinite width where nothing is."""
    return (float(reward.c.item()), float(reward.h)) if isinstance(reward, Bump) else (0.0, math.inf)


def guessed_error(question: Problem, level: int) -> tuple[float, float]:
    """Int w (prior - q_T), the SDE's error if the guess were right; and what rounding may add.

    Raises:
        ValueError: a wave is too short to be resolved.
    """
    x, measure = signed_measure(as_line(question), PIECES[level - 1], _cuts(question, level))
    z, tau = question.prior_sd * x[None], np.array([question.sigma_T**2])
    w = (_posterior(question, z, tau)[0] * component_values(question, z, tau)).sum(-1)[0]
    centre = float(question.reward.expectation(question.target))
    terms = (w - centre) * measure
    size = np.abs(w) + abs(centre)
    rounding = ROUNDING * float((size * np.abs(measure)).sum()) + UNSEEN * float(size.max())
    return float(terms.sum()), rounding


def _cuts(question: Problem, level: int) -> Array:
    """Where u_k bends at sigma_T, in units of the prior: around the reward's own place, and along its waves."""
    reward, s = question.reward, question.prior_sd
    mean, v = question.components.mean[:, 0], question.components.variances[:, 0]
    decorrelated = squared_integral(question.eta, 0.0, question.sigma_T, v)
    phi = np.sqrt(v / (v + question.sigma_T**2)) * np.exp(-decorrelated / 2)
    spread = -v * np.expm1(-decorrelated)
    if isinstance(reward, Cosine):
        return _wave_cuts(question, float(abs(reward.omega.item())), phi, spread, level)
    if isinstance(reward, Bump):
        place, width = float(reward.c.item()), np.sqrt(reward.h**2 + spread)
    elif isinstance(reward, AbsoluteDeviation):
        place, width = float(reward.c.item()), np.sqrt(spread)
    elif isinstance(reward, HalfSpace):
        place, width = reward.threshold / float(reward.w.item()), np.sqrt(spread)
    else:
        return np.empty(0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        cuts = (mean + (place - mean + width * np.linspace(-8, 8, 16 * level + 1)[:, None]) / phi) / s
    return cuts[np.isfinite(cuts)]


def _wave_cuts(question: Problem, omega: float, phi: Array, spread: Array, level: int) -> Array:
    """Panels of at most one wave where the prior or a component has mass, for components whose wave is not damped."""
    alive = omega**2 * spread < 80
    if not alive.any():
        return np.empty(0)
    rate, line = float((omega * phi[alive]).max()) * question.prior_sd, as_line(question)
    centres, sds = np.append(line.mu, 0.0), np.append(np.sqrt(1 + line.e), 1.0)
    counts = np.ceil(level * 2 * PRIOR_REACH * rate * sds / (2 * math.pi)).astype(int) + 1
    if counts.sum() > MOST * level:
        raise ValueError(f"{counts.sum()} panels would be needed to resolve the waves of the reward")
    return np.concatenate(
        [c + sd * np.linspace(-PRIOR_REACH, PRIOR_REACH, n + 1) for c, sd, n in zip(centres, sds, counts, strict=True)]
    )


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


def _derivative(reward: Reward, x: Array) -> Array:
    """r'(x) of a reward with a gradient, shape (n,)."""
    if isinstance(reward, Linear):
        return np.full(x.shape, float(reward.b.item()))
    if isinstance(reward, Quadratic):
        A, c, b, _ = reward.quadratic_form(1)
        return float(b.item()) - 2 * float(np.asarray(A).item()) * (x - float(c.item()))
    if isinstance(reward, AbsoluteDeviation):
        return reward.weight * np.sign(x - reward.c.item())
    if isinstance(reward, Bump):
        u = (x - reward.c.item()) / reward.h
        return -u / reward.h * np.exp(-(u**2) / 2)
    if isinstance(reward, Cosine):
        omega = float(reward.omega.item())
        return -omega * np.sin(omega * x + reward.phase)
    raise TypeError(f"no gradient is known for {shown(reward)}")
