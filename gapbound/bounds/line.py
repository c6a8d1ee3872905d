r"""The prior against q_T on the line (d = 1), by quadrature: chi^2, KL, TV, Fisher information and W2.

With x = z / s the prior is N(0, 1), and everything follows from the log-ratio of q_T to it,

.. math:: L(x) = \log \sum_k w_k e^{l_k(x)}, \qquad
   l_k = -\tfrac12 \log(1 + e_k) + \frac{e_k x^2 / 2 + \mu_k x - \mu_k^2 / 2}{1 + e_k},
   \quad e_k = \frac{v_k - \text{excess}}{s^2}, \; \mu_k = m_k / s,

which is small where the two laws are close, and known to full relative accuracy there:

.. math:: \chi^2(\pi \| q) = E_\pi[4 \sinh^2(L/2)], \quad KL(\pi \| q) = E_\pi[e^L - 1 - L], \quad
   TV = \tfrac12 E_\pi |e^L - 1|, \quad E_q |\partial_z (\pi/q)|^2 = E_\pi[e^{-L} L'^2] / s^2, \quad
   E_\pi |\partial_z \log(\pi/q)|^2 = E_\pi[L'^2] / s^2.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from gapbound._validate import Array
from gapbound.bounds.value import SMALLEST

NODES = 16  # Gauss-Legendre nodes of a panel
REACH = 13.0  # in standard deviations of every Gaussian piece of the integrands
PIECES = (26, 52)  # panels across a piece: coarse, and fine
GRADED = np.concatenate([-(2.0 ** np.arange(40)), [0.0], 2.0 ** np.arange(40)])  # of what log q bends over
SMALL = 1e-3  # |L| where sinh(L / 2) is L / 2
ROUNDING = 1e-15
LOG_2_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Line:
    """The components in units of the prior: weights w, means mu and excesses e, each of shape (K,)."""

    weights: Array
    mu: Array
    e: Array

    def log_ratio(self, x: Array) -> tuple[Array, Array]:
        """L and L' at ``x``, shape (n,)."""
        x = x[:, None]
        grown = 1 + self.e
        each = -np.log1p(self.e) / 2 + (self.e * x**2 / 2 + self.mu * x - self.mu**2 / 2) / grown
        slope = (self.e * x + self.mu) / grown
        highest = each.max(-1)
        centred = each - highest[:, None]
        share = self.weights * np.exp(centred)
        change = (self.weights * np.expm1(np.minimum(each, 1.0))).sum(-1)
        near = (np.abs(highest) < 0.5) & (change > -0.5)
        total = np.where(near, np.log1p(np.where(near, change, 0.0)), highest + np.log(share.sum(-1)))
        return total, (share * slope).sum(-1) / share.sum(-1)

    def log_q(self, x: Array) -> Array:
        """The log-density of q_T at ``x``, where it is far from the prior's: L would lose its digits there."""
        u = (x[:, None] - self.mu) / np.sqrt(1 + self.e)
        return logsumexp(np.log(self.weights) - np.log1p(self.e) / 2 - u**2 / 2, axis=-1) - LOG_2_PI / 2

    @property
    def tail_is_light(self) -> bool:
        """Whether pi^2 / q is integrable: q's widest component decides."""
        return bool(2 - 1 / (1 + self.e.max()) > 0)

    @property
    def pieces(self) -> tuple[Array, Array, Array]:
        """Means, variances and logs of the masses of prior^2 / (w_k N_k), each above prior^2 / q, where integrable."""
        precision = 2 - 1 / (1 + self.e)
        light = precision > 0
        grown, precision, mu = 1 + self.e[light], precision[light], self.mu[light]
        centre = -mu / (grown * precision)
        log_mass = np.log(grown / precision) / 2 + mu**2 / (2 * grown) + centre**2 * precision / 2
        return centre, 1 / precision, log_mass - np.log(self.weights[light])

    def breaks(self, panels: int) -> Array:
        """Panel edges that resolve the prior, every component, prior^2 / component and where components cross."""
        centre, variance, _ = self.pieces
        centres = np.concatenate([[0.0], self.mu, centre])
        sds = np.sqrt(np.concatenate([[1.0], 1 + self.e, variance]))
        edges = (centres + sds * np.linspace(-REACH, REACH, panels + 1)[:, None]).ravel()
        crossings = self.hand_overs()
        inside = (crossings > edges.min()) & (crossings < edges.max())
        return np.unique(np.concatenate([edges, crossings[inside]]))

    def hand_overs(self) -> Array:
        """Points around every place where two components are equally likely, graded from where log q bends there."""
        found = [np.empty(0)]
        for j, k in itertools.combinations(range(len(self.mu)), 2):
            p, q = 1 / (1 + self.e[j]), 1 / (1 + self.e[k])
            a, b = (q - p) / 2, self.mu[j] * p - self.mu[k] * q  # log of the ratio: a x^2 + b x + c
            c = (
                math.log(self.weights[j] / self.weights[k])
                + (math.log(p / q) - self.mu[j] ** 2 * p + self.mu[k] ** 2 * q) / 2
            )
            steepness = math.sqrt(max(b * b - 4 * a * c, 0.0))
            larger = -(b + math.copysign(steepness, b)) / 2
            roots = np.array([larger / a if a else math.nan, c / larger if larger else math.nan])
            roots = roots[np.isfinite(roots)]
            if steepness > 0 and roots.size:
                found.append((roots[:, None] + GRADED / steepness).ravel())
        return np.concatenate(found)


@dataclass(frozen=True)
class Mismatch:
    """Divergences with their errors added; the first two are logarithms, inf where the integral diverges.

    ``error`` holds what was added: the last correction of the quadrature, and what lies beyond its ends.
    """

    log_chi2: float
    log_fisher: float  # per unit of x: divide the information by s^2
    kl: float
    tv: float
    information: float  # per unit of x
    error: dict[str, float]


def mismatch(line: Line) -> Mismatch:
    """All of them, each with the change from the coarse to the fine quadrature added as its error."""
    coarse, fine = (_integrals(line, panels) for panels in PIECES)
    error = {name: float(abs(fine[name] - coarse[name])) for name in ("kl", "tv", "information")}
    safe = {name: fine[name] + error[name] for name in error}
    logs = {}
    for name, beyond in _beyond(line, line.breaks(PIECES[1])).items():
        change = math.inf if math.isinf(fine[name]) else _log_apart(fine[name], coarse[name])
        added = float(np.logaddexp(change, beyond))
        error[name] = math.exp(min(added - fine[name], 0.0)) if math.isfinite(fine[name]) else 0.0  # relative
        logs[name] = float(np.logaddexp(fine[name], added)) if math.isfinite(fine[name]) else fine[name]
    return Mismatch(logs["chi2"], logs["fisher"], safe["kl"], min(1.0, safe["tv"]), safe["information"], error)


def _log_apart(a: float, b: float) -> float:
    """log |exp(a) - exp(b)|; -inf where they are equal."""
    return -math.inf if a == b else max(a, b) + math.log(-math.expm1(-abs(a - b)))


def _beyond(line: Line, breaks: Array) -> dict[str, float]:
    """Logs of what the integrals of prior^2 / q - 2 prior + q and of prior^2 / q L'^2 may hold beyond the outer edges.

    There prior^2 / q is below each of its pieces, whose tails are known, q is a sum of tails, and L' is a mean of the
    components' slopes. Where L is small, the first integrand is prior L^2, and L grows like x^2 at most.
    """
    centre, variance, log_mass = line.pieces
    if not centre.size:
        return {"chi2": math.inf, "fisher": math.inf}
    chi2, fisher = [], []
    for end, side in ((breaks[0], -1.0), (breaks[-1], 1.0)):
        sd, grown = np.sqrt(variance), np.sqrt(1 + line.e)
        squared = float((log_mass + log_ndtr(-side * (end - centre) / sd)).min())
        own = float(logsumexp(np.log(line.weights) + log_ndtr(-side * (end - line.mu) / grown)))
        outer = end + side * (1 + float(sd.max()))
        slope = math.log(float(np.abs((line.e * outer + line.mu) / (1 + line.e)).max() ** 2) + SMALLEST)
        edge = float(np.abs(line.log_ratio(np.array([end]))[0][0]))
        chi2.append(float(np.logaddexp(squared, own)))
        if edge < SMALL:
            chi2[-1] = min(chi2[-1], float(log_ndtr(-side * end)) + 2 * math.log(edge + SMALLEST) + math.log(8))
        fisher.append(squared + slope)
    return {"chi2": float(logsumexp(chi2)), "fisher": float(logsumexp(fisher))}


def _integrals(line: Line, panels: int) -> dict[str, float]:
    """KL, TV and the information themselves, chi^2 and the Fisher information as logarithms."""
    breaks = line.breaks(panels)
    x, weight = _nodes(np.union1d(breaks, _crossings(line, breaks)))
    L, slope = line.log_ratio(x)
    log_prior, log_q = -(x**2) / 2 - LOG_2_PI / 2, line.log_q(x)
    near = np.abs(L) < 1
    L = np.where(near, L, log_q - log_prior)
    small = np.clip(L, -1, 1)
    prior, q = np.exp(log_prior), np.exp(np.where(near, log_prior + L, log_q))
    series = L**2 / 2 * (1 + small / 3 * (1 + small / 4 * (1 + small / 5 * (1 + small / 6))))
    kl = np.where(np.abs(L) < 1e-2, prior * series, q - prior - prior * L)
    tv = np.where(near, prior * np.abs(np.expm1(small)), np.abs(q - prior)) / 2
    result = {
        "kl": _total(weight * kl), "tv": _total(weight * tv), "information": _total(weight * prior * slope**2)
    }  # fmt: skip
    if not line.tail_is_light:
        return result | {"chi2": math.inf, "fisher": math.inf}
    with np.errstate(divide="ignore"):
        log_weight, log_ratio = np.log(weight), np.where(near, log_prior - L, 2 * log_prior - log_q)
        # prior (prior/q - 2 + q/prior) = prior 4 sinh(L / 2)^2
        larger = np.where(L < 0, log_ratio, np.where(near, log_prior + L, log_q))
        chi2 = logsumexp(log_weight + larger + 2 * np.log(-np.expm1(-np.abs(L))))
        fisher = logsumexp(log_weight + log_ratio + 2 * np.log(np.abs(slope)))
    return result | {"chi2": float(chi2), "fisher": float(fisher)}


def signed_measure(line: Line, panels: int, cuts: Array | None = None) -> tuple[Array, Array]:
    """Nodes x and the weights of prior - q_T there, without a difference of nearly equal numbers.

    Panels meet at ``cuts`` too, where the function to be integrated bends.
    """
    breaks = line.breaks(panels)
    if cuts is not None:
        breaks = np.union1d(breaks, cuts[(cuts > breaks[0]) & (cuts < breaks[-1])])
    x, weight = _nodes(breaks)
    L, _ = line.log_ratio(x)
    prior, near = np.exp(-(x**2) / 2 - LOG_2_PI / 2), np.abs(L) < 1
    return x, weight * np.where(near, -prior * np.expm1(np.clip(L, -1, 1)), prior - np.exp(line.log_q(x)))


def _crossings(line: Line, breaks: Array) -> Array:
    """Where the two densities cross, so that no panel holds a kink of their absolute difference."""
    x = np.union1d(breaks, (breaks[1:] + breaks[:-1]) / 2)
    sign = np.sign(line.log_ratio(x)[0])
    at = np.nonzero(sign[1:] * sign[:-1] < 0)[0]
    low, high, positive = x[at], x[at + 1], sign[at] > 0
    for _ in range(60):
        middle = (low + high) / 2
        same = (line.log_ratio(middle)[0] > 0) == positive
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.concatenate([(low + high) / 2, x[sign == 0]])


def _nodes(breaks: Array) -> tuple[Array, Array]:
    node, weight = np.polynomial.legendre.leggauss(NODES)
    half = np.diff(breaks)[:, None] / 2
    return (breaks[:-1, None] + half * (1 + node)).ravel(), (half * weight).ravel()


def _total(terms: Array) -> float:
    return float(terms.sum())


def w2(line: Line) -> tuple[float, float]:
    r"""Wasserstein-2 distance in units of s with its error, by the monotone map that carries q_T to the prior.

    .. math:: W_2^2 = \int (y - \Phi^{-1}(F_q(y)))^2 q(y) \, dy

    is smooth on the scale of the components, and q carries less than 1e-38 of its mass beyond the ends.
    """
    values = []
    for panels in PIECES:
        y, weight = _nodes(line.breaks(panels))
        log_q = line.log_q(y)
        u = (y[:, None] - line.mu) / np.sqrt(1 + line.e)
        below, above = (logsumexp(np.log(line.weights) + log_ndtr(side * u), axis=-1) for side in (1, -1))
        at = np.where(below < above, ndtri_exp(np.minimum(below, -0.1)), -ndtri_exp(np.minimum(above, -0.1)))
        values.append(math.sqrt(_total(weight * np.exp(log_q) * (y - at) ** 2)))
    error = abs(values[1] - values[0]) + 10 * ROUNDING * (1 + float(np.abs(line.mu).max() + np.sqrt(1 + line.e).max()))
    return values[1] + error, error
