r"""Poincare constants of the target and of its noised laws q_tau.

**Along the noise.** Both constants obey C(q * N(0, t I)) <= C(q) + t (independent sums: variance and entropy
tensorise). So C(q_tau) - tau never grows, and its values at a few knots bound it everywhere: ``Decay``.

**In d dimensions**, for p = sum_k w_k N_k, S_k the covariances and E_k f the means of f under N_k:

.. math:: \mathrm{Var} f = \sum_k w_k \mathrm{Var}_k f + \sum_{j<k} w_j w_k (E_j f - E_k f)^2 .

(a) By Cauchy-Schwarz, with f_c = f - E_k f,
:math:`(E_j f - E_k f)^2 = (\int f_c (N_j/N_k - 1) dN_k)^2 \le \chi^2(N_j \| N_k) \mathrm{Var}_k f`, likewise with
j and k exchanged, hence also any mean of both. With Var_k f <= lambda_max(S_k) E_k|grad f|^2

.. math:: C_P(p) \le \max_k \lambda_{max}(S_k) \Big(1 + \sum_{j \ne k} w_j \theta_{jk} \chi^2(N_j \| N_k)\Big),
    \qquad \theta_{jk} + \theta_{kj} = 1.

For means in a ball of radius R and S_k = v I this is at most v (1 + exp(4 R^2 / v)) / 2, below the v exp(4 R^2 / v) of
Bardet, Gozlan, Malrieu & Zitt, Functional inequalities for Gaussian convolutions of compactly supported measures,
Bernoulli 24 (2018), whose idea it is.

(b) For one common covariance S, with delta = m_j - m_k and rho = int_0^1 N(m_k + t delta, S) dt,

.. math:: E_j f - E_k f = \int \rho \, \delta' \nabla f, \qquad
    (E_j f - E_k f)^2 \le |\delta|^2 \int \frac{\rho^2}{w_j N_j + w_k N_k} \cdot \int p |\nabla f|^2,

and everything across S^-1 delta integrates out, which leaves a one-dimensional integral in D = |S^-1/2 delta|. It grows
as exp(D^2 / 8), the height of the barrier, where chi^2 grows as exp(D^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from scipy.special import erfcx, log_ndtr, logsumexp, ndtr

from gapbound._validate import Array
from gapbound.bounds.problem import KEPT, Problem
from gapbound.bounds.value import Constant
from gapbound.eta import Windows, squared_integral

KNOTS = 10
GRID = (600, 1200)  # points of the line: coarse, and fine
REACH = 10.0  # standard deviations of the widest component, beyond the outermost means
SWEEPS = 400
LARGEST_EXPONENT = 700.0
CLOSE = 1e-4  # relative width of the enclosure at which the sweeps stop
INVERSE_POWERS = np.linspace(0, 1, 21)[:, None]  # 1 / p
INTERVALS = 64  # from an end of the grid to infinity
LARGEST_LOG = 690.0  # of a length that is squared with variances and still a number


@dataclass(frozen=True)
class Decay:
    r"""C(tau) <= tau + offset_i for tau >= knot_i, the offsets falling: a constant that noise improves."""

    knots: tuple[float, ...]  # noise levels sigma
    offsets: tuple[float, ...]

    def exponent(self, eta: Array | Windows, sigma_T: float) -> float:
        """``int eta^2 dtau / C(tau)`` up to sigma_T, from below."""
        return float(self.exponents(eta, np.asarray(sigma_T)))

    def exponents(self, eta: Array | Windows, sigma: Array) -> Array:
        """The same up to every noise level of ``sigma``."""
        total = np.zeros(np.shape(sigma))
        for low, high, offset in zip(self.knots, (*self.knots[1:], math.inf), self.offsets, strict=True):
            if np.max(sigma) > low:
                total = total + squared_integral(eta, low, np.clip(sigma, low, high), offset)
        return total


def knots(problem: Problem) -> Array:
    """Noise levels tau at which constants are evaluated: 0, then geometric up to where q_tau is one bump."""
    smallest, largest = problem.variance_range
    if problem.single or problem.sigma_T == 0:
        return np.zeros(1)
    spread = ((problem.components.mean - problem.components.mean.mean(0)) ** 2).sum(-1).max()
    top = 4 * (spread + largest)
    taus = smallest * np.expm1(np.linspace(0, math.log1p(top / smallest), KNOTS))
    taus[0] = 0.0
    return taus[taus < problem.sigma_T**2] if problem.sigma_T > 0 else taus[:1]


@lru_cache(maxsize=KEPT)
def poincare(problem: Problem) -> tuple[Constant, Decay]:
    """The Poincare constant of p*, and its bound along the noise."""
    largest = problem.variance_range[1]
    name = "C_P(p*)"
    if problem.single:
        constant = Constant(name, largest, "closed form", "largest eigenvalue of the covariance")
        return constant, Decay((0.0,), (largest,))
    taus = knots(problem)
    if problem.dim == 1:
        upper, error = poincare_on_the_line(problem, taus)
        source = "Sturm-Liouville eigenvalue, its upper enclosure by Chen's dual variational formula"
        constant = Constant(name, float(upper[0]), "numerical", source, float(error[0]))
    else:
        upper = np.array([_poincare_of_mixture(problem, tau) for tau in taus])
        source = (
            "variance decomposition over the components (gapbound.bounds.constants, a and b; after Bardet et al. 2018)"
        )
        constant = Constant(name, float(upper[0]), "cited upper bound", source)
    return constant, _decay(taus, upper)


def _decay(taus: Array, upper: Array) -> Decay:
    offsets = np.minimum.accumulate(upper - taus)
    return Decay(tuple(np.sqrt(taus).tolist()), tuple(offsets.tolist()))


def poincare_on_the_line(problem: Problem, taus: Array) -> tuple[Array, Array]:
    r"""``(upper bound, error)`` of C_P(q_tau) for d = 1, each of the shape of ``taus``.

    The constant is the largest eigenvalue of the positive operator g -> K g / p, K(x, y) = F(min) S(max) with F, S the
    lower and upper tails, because Var f = int int K f' f'. Hence (Collatz-Wielandt; Chen & Wang) for any g > 0

    .. math:: C_P \le \sup_x \frac{1}{p g} \Big( S(x) \int_{-\infty}^x F g + F(x) \int_x^\infty S g \Big).

    Power iteration from g = 1 on a grid over [a, b], in logarithms: every term is positive, so that a constant of
    exp(300), which an eigenvalue solver would lose to rounding, comes out as precisely as any other. Outside of the
    grid g continues as a constant or as a power, whichever is better, and the quotient is bounded in closed form, so
    that the supremum runs over the whole line. With ell = int_{-inf}^b F g / g(b), d_k = b - m_k > 0, Mills' ratio
    M_k = S_k / N_k and any theta >= 1 / ell, p >= 1, for x > b (and likewise below a)

    .. math:: \frac{K g}{p g} \le \sum_k \gamma_k(x) \big[v_k + M_k(x) (\ell - d_k)\big] \text{ for } g = g(b), \\
        \frac{K g}{p g} \le \max_k \max\Big(\frac{v_k \ell \theta}{p}, \frac{v_k \ell}{d_k - v_k \theta (1 - 1/p)}\Big)
        \text{ for } g = g(b) \Big(1 + \frac{\theta (x - b)}{p}\Big)^{p - 1} .

    The first, with the posterior weights gamma_k, is bounded on intervals up to infinity, as M_k falls.
    The error is the change from half the grid, and is added: a numerical value with a stated error, as the integrals
    and the supremum over [a, b] are taken on a grid.
    """
    coarse, fine = (_upper_enclosure(problem, taus, points) for points in GRID)
    finite = np.isfinite(fine) & np.isfinite(coarse)
    error = np.abs(np.where(finite, fine, 0.0) - np.where(finite, coarse, 0.0))
    return fine + error, error


def _upper_enclosure(problem: Problem, taus: Array, points: int) -> Array:
    mean, variance = problem.components.mean[:, 0], problem.components.variances[:, 0]
    sd = np.sqrt(variance + taus[:, None])  # (taus, K)
    x = resolving_grid(mean, sd, points)  # (taus, n)
    u = (x[..., None] - mean) / sd[:, None, :]
    log_w = np.log(problem.weights)
    log_p = logsumexp(log_w - u**2 / 2 - np.log(sd)[:, None, :] - math.log(2 * math.pi) / 2, axis=-1)
    log_F, log_S = logsumexp(log_w + log_ndtr(u), axis=-1), logsumexp(log_w + log_ndtr(-u), axis=-1)
    ends = [_End.of(log_w, sd, beyond) for beyond in (-u[:, 0], u[:, -1])]
    return _enclosed(log_p, log_F, log_S, np.log(np.diff(x) / 2), ends[0], ends[1])


@dataclass(frozen=True)
class _End:
    """One end of the grid, the components beyond it, axis 1 (K), and intervals from there to infinity, axis 2 (J).

    Attributes:
        log_mass: log of w_k S_k at the end, shape (taus, K).
        variance: v_k.
        distance: d_k from m_k to the end, positive.
        mills: M_k where an interval begins, and so at most that inside of it; shape (taus, K, J).
        leader: the component that outweighs the others in the middle of an interval, shape (taus, 1, J).
        odds: the most that w_k N_k can be in it, in units of the leader's and at most 1; the last interval has no
            leader, and 1 everywhere.
    """

    log_mass: Array
    variance: Array
    distance: Array
    mills: Array
    leader: Array
    odds: Array

    @classmethod
    def of(cls, log_w: Array, sd: Array, u: Array) -> _End:
        """The end that lies ``u`` > 0 standard deviations ``sd`` from the components' means, both (taus, K)."""
        distance, precision = sd * u, sd[..., None] ** -2.0
        reach = 2 * distance.max(-1) * (sd.max(-1) / sd.min(-1)) ** 2  # M_k is below any M_n at the end from there on
        beyond = np.geomspace(distance.min(-1) / 100, reach, INTERVALS - 1, axis=-1)
        beyond = np.concatenate([np.zeros_like(beyond[:, :1]), beyond], axis=-1)[:, None]
        at = u[..., None] + beyond / sd[..., None]
        log_p = (log_w - np.log(sd))[..., None] - at**2 / 2
        leader = ((log_p[..., 1:] + log_p[..., :-1]) / 2).argmax(1, keepdims=True)
        starts, ends = (part - np.take_along_axis(part, leader, 1) for part in (log_p[..., :-1], log_p[..., 1:]))
        bend = np.maximum(precision - np.take_along_axis(np.broadcast_to(precision, starts.shape), leader, 1), 0.0)
        odds = np.exp(np.minimum(np.maximum(starts, ends) + bend * np.diff(beyond) ** 2 / 8, 0.0))
        leader, odds = (
            np.pad(leader, ((0, 0), (0, 0), (0, 1))),
            np.pad(odds, ((0, 0), (0, 0), (0, 1)), constant_values=1.0),
        )
        mills = sd[..., None] * math.sqrt(math.pi / 2) * erfcx(at / math.sqrt(2))
        return cls(log_w + log_ndtr(-u), sd**2, distance, mills, leader, odds)

    def slope(self, log_theta: Array) -> Array:
        """The theta that g may rise with beyond the end, shape (taus, 1): 0 where its integral would diverge."""
        theta = np.exp(log_theta)
        return np.where((self.distance > self.variance * theta).all(-1, keepdims=True), theta, 0.0)

    def log_tail(self, theta: Array) -> Array:
        """log of a bound on int S g / g(end) beyond the end for g of log-slope up to ``theta``, shape (taus, 1)."""
        rate = self.distance / self.variance - theta
        return np.asarray(logsumexp(self.log_mass - np.log(rate), axis=-1, keepdims=True))

    def quotient(self, log_length: Array, theta: Array) -> Array:
        """log of a bound on K g / (p g) beyond the end, shape (taus,), from ell and theta, both (taus, 1)."""
        length = np.exp(np.minimum(log_length, LARGEST_LOG))
        each = self.variance[..., None] + self.mills * np.maximum(length - self.distance, 0.0)[..., None]
        leading = np.take_along_axis(each, self.leader, 1)
        mean = (leading[:, 0] + (self.odds * np.maximum(each - leading, 0.0)).sum(1)).clip(max=each.max(1))
        constant = np.where(log_length[:, 0] < LARGEST_LOG, mean.max(-1), np.inf)
        v, distance, theta, length = self.variance[:, None], self.distance[:, None], theta[..., None], length[..., None]
        near = v * length / (distance - v * theta * (1 - INVERSE_POWERS))
        far = v * length * theta * INVERSE_POWERS
        powers = np.where(theta > 0, np.maximum(near, far), np.inf).max(-1).min(-1)
        powers = np.where(log_length[:, 0] < LARGEST_LOG, powers, np.inf)
        return np.asarray(np.log(np.minimum(constant, powers)))

    def rows(self, kept: Array) -> _End:
        """The same for some of the rows."""
        return _End(*(getattr(self, each.name)[kept] for each in fields(self)))


def _enclosed(log_p: Array, log_F: Array, log_S: Array, log_h: Array, low: _End, high: _End) -> Array:
    """Sup of K g / (p g) after sweeps of power iteration, for each row; rows leave once their enclosure is narrow."""
    best, open_ = np.full(len(log_p), np.inf), np.arange(len(log_p))
    log_g = np.zeros_like(log_p)
    for _ in range(SWEEPS):
        below = _log_cumulative(log_F + log_g, log_h)
        above = _log_cumulative((log_S + log_g)[:, ::-1], log_h[:, ::-1])[:, ::-1]
        below, above, outside = _continued(below, above, log_g, low, high)
        image = np.logaddexp(log_S + below, log_F + above) - log_p
        ratio = image - log_g
        best[open_] = np.minimum(best[open_], np.maximum(ratio.max(-1), outside))
        kept = np.ptp(ratio, axis=-1) > CLOSE
        if not kept.any():
            break
        open_, log_g = open_[kept], (image - image.max(-1, keepdims=True))[kept]
        log_p, log_F, log_S, log_h = log_p[kept], log_F[kept], log_S[kept], log_h[kept]
        low, high = low.rows(kept), high.rows(kept)
    with np.errstate(over="ignore"):
        return np.exp(best)  # inf behind a barrier of more than exp(700): true, and harmless


def _continued(below: Array, above: Array, log_g: Array, low: _End, high: _End) -> tuple[Array, Array, Array]:
    """The integrals from below and from above with what lies outside of the grid, and log sup K g / (p g) there."""
    log_a, log_b = log_g[:, :1], log_g[:, -1:]
    with np.errstate(over="ignore"):
        theta_a, theta_b = low.slope(log_a - above[:, :1]), high.slope(log_b - below[:, -1:])  # 1 / ell of the grid
        below = np.logaddexp(below, low.log_tail(theta_a) + log_a)
        above = np.logaddexp(above, high.log_tail(theta_b) + log_b)
        beyond = low.quotient(above[:, :1] - log_a, theta_a), high.quotient(below[:, -1:] - log_b, theta_b)
        return below, above, np.maximum(*beyond)


def _log_cumulative(log_f: Array, log_h: Array) -> Array:
    """log of the running trapezoid integral along the last axis."""
    cells = np.logaddexp(log_f[:, 1:], log_f[:, :-1]) + log_h
    start = np.full((len(log_f), 1), -np.inf)
    return np.concatenate([start, np.logaddexp.accumulate(cells, axis=-1)], axis=-1)


def resolving_grid(mean: Array, sd: Array, points: int) -> Array:
    """Points (taus, n), dense in proportion to 1 / sd of the components that reach there."""
    rows = []
    for row in sd:
        low, high = mean.min() - REACH * row.max(), mean.max() + REACH * row.max()
        fine = np.union1d((mean + row * np.linspace(-REACH, REACH, 200)[:, None]).ravel(), np.linspace(low, high, 400))
        dense = (np.exp(-(((fine[:, None] - mean) / (REACH * row)) ** 8)) / row).max(-1) + 40 / (high - low)
        cumulative = np.concatenate([[0.0], np.cumsum((dense[1:] + dense[:-1]) / 2 * np.diff(fine))])
        rows.append(np.interp(np.linspace(0, cumulative[-1], points), cumulative, fine))
    return np.array(rows)


def _poincare_of_mixture(problem: Problem, tau: float) -> float:
    """The smaller of (a) and (b) at noise level tau, d > 1."""
    by_divergence = _by_divergence(problem, tau)
    if not has_one_covariance(problem):
        return by_divergence
    return min(by_divergence, _by_transport(problem, tau))


def has_one_covariance(problem: Problem) -> bool:
    """Whether all components share one covariance."""
    cov = problem.components.cov
    return bool((cov == cov[:1]).all())


def _by_divergence(problem: Problem, tau: float) -> float:
    law, w = problem.components.noised(math.sqrt(tau)), problem.weights
    largest = law.spectrum[0].max(-1)
    K = len(w)
    chi2 = np.zeros((K, K))  # chi2[j, k] = chi^2(N_j || N_k), inf where it is
    for j in range(K):
        for k in range(K):
            if j != k:
                chi2[j, k] = _chi2(law.mean[j], law.matrix[j], law.mean[k], law.matrix[k])
    # a share theta of each pair for j -> k, so that w_k lambda_k chi2[j, k] and its mirror image balance
    cost = largest * chi2
    total = cost + cost.T
    with np.errstate(invalid="ignore", divide="ignore"):
        theta = np.where(total > 0, np.where(np.isinf(cost.T), np.where(np.isinf(cost), 0.5, 1.0), cost.T / total), 0.5)
        terms = np.where(theta > 0, theta * chi2, 0.0)
    return float((largest * (1 + (w[:, None] * terms).sum(0))).max())


def _chi2(mean: Array, cov: Array, mean_0: Array, cov_0: Array) -> float:
    factor = np.linalg.cholesky(cov_0)
    half = np.linalg.solve(factor, cov)
    variances, basis = np.linalg.eigh(np.linalg.solve(factor, half.T))
    if variances.max() >= 2:
        return math.inf
    shift = basis.T @ np.linalg.solve(factor, mean - mean_0)
    exponent = (shift**2 / (2 - variances) - np.log(variances * (2 - variances)) / 2).sum()
    return math.expm1(exponent) if exponent < 700 else math.inf


def _by_transport(problem: Problem, tau: float) -> float:
    law, w = problem.components.noised(math.sqrt(tau)), problem.weights
    factor = np.linalg.cholesky(law.matrix[0])
    total = float(law.spectrum[0].max())
    for j in range(len(w)):
        for k in range(j):
            delta = law.mean[j] - law.mean[k]
            D = float(np.linalg.norm(np.linalg.solve(factor, delta)))
            if D > 0:
                total += w[j] * w[k] * float(delta @ delta) * _path_cost(D, w[k], w[j])
    return total


def _path_cost(D: float, w_0: float, w_1: float) -> float:
    """Int rho^2 / (w_0 N(0, 1) + w_1 N(D, 1)) with rho the mean of N(t D, 1) over t in [0, 1]."""
    if D**2 / 8 > LARGEST_EXPONENT:
        return math.inf
    x = np.linspace(-12.0, D + 12.0, max(4001, math.ceil(10 * D * (D + 24))))  # p bends over 1 / D between the two
    rho = np.where(x < D / 2, ndtr(x) - ndtr(x - D), ndtr(D - x) - ndtr(-x)) / D
    log_p = np.logaddexp(math.log(w_0) - x**2 / 2, math.log(w_1) - (x - D) ** 2 / 2) - math.log(2 * math.pi) / 2
    with np.errstate(divide="ignore", over="ignore"):
        integrand = np.exp(2 * np.log(rho) - log_p)
    return float(np.trapezoid(integrand, x)) * (1 + 1e-9)  # analytic: the trapezoid rule is exact to rounding here
