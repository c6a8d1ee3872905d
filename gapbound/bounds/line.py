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

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from gapbound._validate import Array

NODES = 16  # Gauss-Legendre nodes of a panel
REACH = 13.0  # in standard deviations of every Gaussian piece of the integrands
PIECES = (26, 52)  # panels across a piece: coarse, and fine


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

    @property
    def tail_is_light(self) -> bool:
        """Whether pi^2 / q is integrable: q's widest component decides."""
        return bool(2 - 1 / (1 + self.e.max()) > 0)

    def breaks(self, panels: int) -> Array:
        """Panel edges that resolve the prior, every component, and prior^2 / component where integrable."""
        precision = 2 - 1 / (1 + self.e)
        light = precision > 0
        centres = np.concatenate([[0.0], self.mu, -(self.mu / (1 + self.e))[light] / precision[light]])
        sds = np.concatenate([[1.0], np.sqrt(1 + self.e), 1 / np.sqrt(precision[light])])
        return np.unique((centres + sds * np.linspace(-REACH, REACH, panels + 1)[:, None]).ravel())


@dataclass(frozen=True)
class Mismatch:
    """chi2 and fisher are inf where the integral diverges; ``error`` holds the last corrections."""

    chi2: float
    kl: float
    tv: float
    fisher: float  # per unit of x: divide by s^2
    information: float  # likewise
    error: dict[str, float]


def mismatch(line: Line) -> Mismatch:
    """All of them, each with the change from the coarse to the fine quadrature added as its error."""
    coarse, fine = (_integrals(line, panels) for panels in PIECES)
    error = {name: float(abs(fine[name] - coarse[name])) for name in fine if math.isfinite(fine[name])}
    safe = {name: fine[name] + error.get(name, 0.0) for name in fine}
    return Mismatch(safe["chi2"], safe["kl"], min(1.0, safe["tv"]), safe["fisher"], safe["information"], error)


def _integrals(line: Line, panels: int) -> dict[str, float]:
    breaks = line.breaks(panels)
    x, weight = _nodes(np.union1d(breaks, _crossings(line, breaks)))
    L, slope = line.log_ratio(x)
    log_prior = -(x**2) / 2 - math.log(2 * math.pi) / 2
    near, small = np.abs(L) < 1, np.clip(L, -1, 1)
    prior, q = np.exp(log_prior), np.exp(log_prior + L)
    series = L**2 / 2 * (1 + small / 3 * (1 + small / 4 * (1 + small / 5 * (1 + small / 6))))
    kl = np.where(np.abs(L) < 1e-2, prior * series, q - prior - prior * L)
    tv = np.where(near, prior * np.abs(np.expm1(small)), np.abs(q - prior)) / 2
    result = {
        "kl": _total(weight * kl), "tv": _total(weight * tv), "information": _total(weight * prior * slope**2)
    }  # fmt: skip
    if not line.tail_is_light:
        return result | {"chi2": math.inf, "fisher": math.inf}
    with np.errstate(over="ignore"):
        squared_over_q = np.exp(log_prior - L)
        chi2 = np.where(near, 4 * prior * np.sinh(small / 2) ** 2, q - 2 * prior + squared_over_q)
        return result | {"chi2": _total(weight * chi2), "fisher": _total(weight * squared_over_q * slope**2)}


def signed_measure(line: Line, panels: int) -> tuple[Array, Array]:
    """Nodes x and the weights of prior - q_T there, without a difference of nearly equal numbers."""
    x, weight = _nodes(line.breaks(panels))
    L, _ = line.log_ratio(x)
    log_prior = -(x**2) / 2 - math.log(2 * math.pi) / 2
    prior, near = np.exp(log_prior), np.abs(L) < 1
    return x, weight * np.where(near, -prior * np.expm1(np.clip(L, -1, 1)), prior - np.exp(log_prior + L))


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
    """Wasserstein-2 distance in units of s with its error: the monotone map T carries the prior to q_T."""
    values = []
    for panels in (24, 48):
        x, weight = _nodes(np.linspace(-9.0, 9.0, panels + 1))
        moved = _quantile(line, x) - x
        values.append(math.sqrt(_total(weight * np.exp(-(x**2) / 2) * moved**2) / math.sqrt(2 * math.pi)))
    # the tails beyond 9 sd carry less than 1e-17 of the mean square of anything of the size of |x| + |mu|
    tail = 1e-8 * (1 + float(np.abs(line.mu).max()) + math.sqrt(1 + float(line.e.max())))
    return values[1] + abs(values[1] - values[0]) + tail * 1e-1, abs(values[1] - values[0]) + tail * 1e-1


def _quantile(line: Line, x: Array) -> Array:
    """Where q_T has the tail mass that N(0, 1) has at ``x``: bisection, then Newton steps in the log of the tail."""
    sd, sign = np.sqrt(1 + line.e), np.where(x < 0, 1.0, -1.0)[:, None]
    wanted = log_ndtr(sign[:, 0] * x)
    low = np.full(x.shape, float((line.mu - 12 * sd).min()))
    high = np.full(x.shape, float((line.mu + 12 * sd).max()))
    for _ in range(70):
        middle = (low + high) / 2
        tail = np.logaddexp.reduce(np.log(line.weights) + log_ndtr(sign * (middle[:, None] - line.mu) / sd), axis=-1)
        below = (tail < wanted) == (sign[:, 0] > 0)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
