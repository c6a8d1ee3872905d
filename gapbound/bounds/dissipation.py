r"""How much of the initial mismatch can show up in an integral along the sampler: the remainder of bound B5.

Let f_tau = dLaw(Y_tau)/dq_tau for the eta-sampler started from the prior, and let V be any field. To bound

.. math:: \tfrac12 \int_0^{\sigma_T^2} \Big| \int q_\tau \nabla f_\tau \cdot V \Big| d\tau
    \le \tfrac12 \int_0^{\sigma_T^2} n \sqrt g \, d\tau

there are two ways of Cauchy-Schwarz, each with its divergence D = chi^2 or KL of law to q_tau:

| | g | n^2 |
|---|---|---|
| chi^2 | E_q\|grad f\|^2 | E_q\|V\|^2 |
| KL | E_q\|grad f\|^2 / f | E_law\|V\|^2 <= (KL_tau + log E_q exp(theta\|V\|^2)) / theta for any theta > 0 |

(the last by Donsker and Varadhan's formula). Either way three things limit g:

1. int_0^tau eta^2 g <= c D_tau with c = 1 for chi^2 and c = 2 for KL, as D falls along the sampler at that rate;
2. D_tau <= D_T exp(-Delta(tau)), Delta = int_tau^sigma_T^2 eta^2 / C, C a Poincare constant (chi^2) or a log-Sobolev
   constant (KL) of q;
3. g <= g_T exp(int_tau^sigma_T^2 (1 - eta^2)_+ / (v + t) - (eta^2 - 1)_+ kappa dt), v the smallest variance and kappa
   the one-sided Lipschitz profile of the score. For f_tau = E[f_T(Z_T) | Z_tau = z] along dZ = (eta^2 - 1)/2 s dtau +
   eta dW, whose Jacobian grows at most at half that rate because -kappa >= Hess log q >= -1/(v + tau).

With the weight omega = exp(theta Delta) in (1) and a multiplier mu > 0, weak duality gives

.. math:: \tfrac12 \int n \sqrt g \le \tfrac12 \int \big( n \sqrt h - \mu \, \omega \eta^2 h \big)
    + \frac{\mu c D_T}{2} \Big( 1 + \frac{\theta}{1 - \theta} \big(1 - e^{-(1 - \theta) \Delta(0)}\big) \Big),
    \qquad \sqrt h = \min\Big( \sqrt{g_{max}}, \frac{n}{2 \mu \omega \eta^2} \Big).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gapbound._validate import Array
from gapbound.bounds.constants import Decay, poincare
from gapbound.bounds.lipschitz import log_sobolev, profile
from gapbound.bounds.mismatch import chi2, fisher, information, kl
from gapbound.bounds.problem import Problem
from gapbound.eta import log_variance_ratio, segments

WEIGHTS = (0.0, 0.5, 0.8)  # theta of omega
LARGEST_LOG = 200.0  # of chi^2
LARGEST = 500.0  # exponent of a weight: a smaller omega obeys the same inequality
MULTIPLIERS = np.geomspace(1e-3, 1.0, 24)  # of mu, relative to what is best where g_max does not bind


@dataclass(frozen=True)
class Levels:
    """A budget at noise levels tau: the largest g, the divergence left, and Delta there and at 0."""

    largest: Array
    left: Array
    delta: Array
    whole: float
    total: float


@dataclass(frozen=True)
class Budget:
    """One divergence: c D_T, g_T in units of z, and the constant that D decays with (None: it need not decay)."""

    question: Problem
    divergence: float
    factor: float
    information: float
    decay: Decay | None

    def at(self, taus: Array) -> Levels:
        """The three limits at ``taus``, shape (n,)."""
        question = self.question
        exponents = np.zeros(taus.size + 1)
        if self.decay is not None:
            exponents = self.decay.exponents(question.eta, np.append(np.sqrt(taus), question.sigma_T))
        delta, whole = exponents[-1] - exponents[:-1], float(exponents[-1])
        left = self.divergence * np.exp(-delta)
        with np.errstate(over="ignore"):
            largest = self.information * np.exp(growth(question, taus))
        return Levels(largest, left, delta, whole, self.factor * self.divergence)


def chi_square_budget(question: Problem) -> Budget | None:
    """The budget of chi^2; None where that is infinite, or so large that masses beside it would underflow."""
    try:
        start, slope = chi2(question), fisher(question)
    except ValueError:
        return None
    if start.logarithm > LARGEST_LOG:
        return None
    return Budget(question, start.value, 1.0, slope.value / question.prior_sd**2, poincare(question)[1])


def kl_budget(question: Problem) -> Budget:
    """The budget of KL."""
    known = log_sobolev(question)
    slope = information(question).value / question.prior_sd**2
    return Budget(question, kl(question).value, 2.0, slope, None if known is None else known[1])


def growth(question: Problem, taus: Array) -> Array:
    """Exponent of limit 3: int_tau^sigma_T^2 (1 - eta^2)_+ / (v + t) - (eta^2 - 1)_+ kappa."""
    floor, kappa = question.variance_range[0], profile(question).integral
    total = np.zeros(taus.shape)
    for low, high, (value,) in segments(question.eta):
        start, end = np.maximum(np.sqrt(taus), low), min(high, question.sigma_T)
        excess = 1 - float(value) ** 2
        if excess > 0:
            total += excess * log_variance_ratio(floor, start, end)
        elif excess < 0:
            total += excess * np.where(start < end, kappa(np.asarray(end**2)) - kappa(start**2), 0.0)
    return total


def smallest(norm: Array, clock: Array, eta2: Array, levels: Levels) -> Array:
    """The smallest bound on half of int n sqrt(g) for every row of ``norm`` (rows, n); ``clock`` holds the dtau."""
    active = norm > 0
    cap = np.where(active, np.sqrt(levels.largest), 0.0)
    with np.errstate(invalid="ignore"):
        best = (norm * cap * clock).sum(-1) / 2
    for theta in WEIGHTS:
        total = levels.total * (1 - theta / (1 - theta) * math.expm1(-(1 - theta) * levels.whole))
        rate = eta2 * np.exp(np.minimum(theta * levels.delta, LARGEST))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            free = np.where((rate > 0) & active, norm**2 / rate, 0.0)
            unbound = np.sqrt((free * clock).sum(-1) / total) / 2
            for mu in unbound[:, None] * MULTIPLIERS[:, None, None]:
                root = np.where(active, np.minimum(cap, norm / (2 * mu * rate)), 0.0)
                value = ((norm * root - mu * rate * root**2) * clock).sum(-1) / 2 + mu[:, 0] * total / 2
                best = np.fmin(best, value)
    return np.where(np.isnan(best), np.inf, best)  # infinity times 0 where nothing is known
