r"""B4: Duhamel. A bound on the gap itself that vanishes with eta^2. Exact score.

With f_tau = dLaw(ODE)/dq_tau (so f_T = prior / q_T) and u(z, tau) = E[r(Y_0^eta) | Y_tau = z],

.. math:: E r(Y^{ODE}) - E r(Y^\eta)
    = \tfrac12 \int_0^{\sigma_T^2} \eta^2 \int q_\tau \nabla f_\tau \cdot \nabla u \, dz \, d\tau.

Proof: int q f u is E r(Y^ODE) at tau = 0 and E r(Y^eta) at sigma_T^2; f is carried along the ODE, df/dtau =
s f'/2 with s = grad log q, and u_tau = (1 + eta^2)/2 s . grad u + eta^2/2 Lap u, so that the derivative of the integral
is eta^2/2 int q f (s . grad u + Lap u) = -eta^2/2 int q grad f . grad u. Write F = E_q|grad f|^2, g = E_q|grad u|^2.

**F.** If p* = nu * N(0, v I) (any mixture, v its smallest eigenvalue), Hess log q_tau >= -1/(v + tau), so the ODE run
upwards stretches by at most sqrt((v + sigma_T^2)/(v + tau)), and F <= a^2 = I_T (v + sigma_T^2)/(v + tau) with
I_T = E_{q_T}|grad(prior/q_T)|^2. Hence |gap| <= (1/2) int eta^2 a sqrt(g) dtau. What is known of g:

1. int_0^sigma_T^2 eta^2 g = Var_p* r - Var_{q_T} u <= Var_p* r, from d/dtau Var_q u = -eta^2 g;
2. from Poincare, Var_{q_tau} u <= V(tau) = Var_p* r exp(-int_0^tau eta^2 / C), so the part of that integral above tau
   is at most V(tau);
3. g <= g_max = E_p*|grad r|^2 exp(-2 int_0^tau (1 + eta^2)/2 kappa) where the score is one-sided Lipschitz: grad u is
   the mean of J' grad r(Y_0) with |J| <= exp(-int), and Y_0 has law p* when Y_tau has law q_tau.

1 alone is Cauchy-Schwarz and O(eta); 3 alone is O(eta^2), and for N(m, v) with a linear reward it is attained to first
order in the mismatch at *every* eta. The largest value that 1, 2 and 3 together allow is bounded by weak duality. Let
A(tau) = int_tau eta^2 a^2, and M the greatest convex minorant of V as a function of A that starts at (0, 0). With the
multiplier t / (2 sqrt M'(A)), whose cost is t/2 int sqrt(M') dA, any t >= 0 gives

.. math:: |gap| \le \tfrac12 \int \eta^2 \Big( a \sqrt h - \frac{t \, h}{2 \sqrt{M'}} \Big) d\tau
    + \tfrac{t}{4} \int \sqrt{M'} \, dA, \qquad h = \min(g_{max}, a^2 M' / t^2):

the optimum of 1 and 2 at t = 1, that of 3 at t = 0. The bound is the smallest over a grid of t.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array
from gapbound.bounds.constants import Decay, poincare
from gapbound.bounds.lipschitz import Profile, profile
from gapbound.bounds.mismatch import chi2, fisher
from gapbound.bounds.problem import AnyReward, Problem, Target, answered, problem
from gapbound.bounds.spread import UNSEEN, gradient_energy, unseen, variance
from gapbound.bounds.value import Bound, exp_above, nothing_left, product, settled
from gapbound.eta import segments
from gapbound.process import Process

NAME = "duhamel"
ASSUMPTIONS = ("exact score", "Var_p*(r) finite", "chi^2(prior || q_T) finite")
CELLS = 48  # of each window, in log(v + tau)
NODES = (4, 8)  # in each cell: what changes is added
MULTIPLIERS = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 25)])


@door(infinite=True)
def duhamel(target: Target, process: Process, reward: AnyReward, eta: Any = 1.0) -> Bound:
    """Bound B4 on the gap alone.

    Args:
        target: Gaussian or GaussianMixture, without batch axes.
        process: VE, VP or FlowMatching, of one T.
        reward: a gapbound reward, or any callable; O(eta^2) where it has a gradient, O(eta) otherwise.
        eta: stochasticity, a number or ``Windows``.

    Raises:
        ValueError: chi^2(prior || q_T) is infinite, or in d > 1 no finite bound on it is known; batches; negative eta.
        TypeError: a target whose score is not exact.
    """
    return answered(of, problem(target, process, reward, eta))


def of(question: Problem) -> Bound:
    """The bound for a checked question."""
    if question.forgotten:
        return nothing_left(NAME, ASSUMPTIONS, question.trivial, sides=False)
    information, spread = fisher(question), variance(question.reward, question.target)
    if unseen(question, chi2(question)):
        return settled(NAME, None, None, math.inf, (spread, information), ASSUMPTIONS, question.trivial, UNSEEN)
    constant, decay = poincare(question)
    constants = [spread, information, constant]
    energy, score = gradient_energy(question.reward, question.target), None
    if energy is not None:
        try:
            score = profile(question)
            constants.append(energy)
        except ValueError:
            energy = None
    floor = question.variance_range[0]
    stretch = math.log1p(floor / question.sigma_T**2) + 2 * math.log(question.sigma_T / question.prior_sd)
    scale = information.logarithm + stretch  # log of a^2 (v + tau)
    relative = None if energy is None else exp_above(energy.logarithm - spread.logarithm)
    share = _largest(question, decay, relative, score)
    with np.errstate(divide="ignore"):
        gap = product(scale / 2, spread.logarithm / 2, float(np.log(share)))
    return settled(NAME, None, None, gap, tuple(constants), ASSUMPTIONS, question.trivial)


def _largest(question: Problem, decay: Decay, energy: float | None, score: Profile | None) -> float:
    """The dual bound for a^2 (v + tau) = 1 and Var_p* r = 1, to whose roots it is proportional."""
    floor = question.variance_range[0]
    ends, dA, eta2 = _cells(question)
    if not len(dA):
        return 0.0
    sigma = np.sqrt(floor * np.expm1(ends[:, 0]))
    slope = _convex_slopes(dA, np.exp(-decay.exponents(question.eta, sigma)))
    cost = float((np.sqrt(slope) * dA).sum()) / 2
    if energy is None or score is None:
        return cost
    known = _Known(ends, eta2, slope, energy, score)
    coarse, fine = (known.costs(question, nodes) + MULTIPLIERS * cost / 2 for nodes in NODES)
    with np.errstate(invalid="ignore"):
        values = fine + np.abs(fine - coarse)  # NaN where g_max overflows, and then another multiplier is smaller
    return min(cost, float(np.fmin.reduce(values)))


@dataclass(frozen=True)
class _Known:
    """What limits g in every cell: the slope of M, E|grad r|^2 over Var r, and the score's profile."""

    ends: Array
    eta2: Array
    slope: Array
    energy: float
    score: Profile

    def costs(self, question: Problem, nodes: int) -> Array:
        """The first integral of the bound for every multiplier, by so many nodes in each cell."""
        floor, slope = question.variance_range[0], self.slope[:, None]
        node, weight = np.polynomial.legendre.leggauss(nodes)
        width = np.diff(self.ends)
        tau = floor * np.expm1(self.ends[:, :1] + width * (1 + node) / 2)
        a2 = 1 / (floor + tau)
        clock = self.eta2[:, None] * (floor + tau) * width * weight / 2  # eta^2 dtau
        values = []
        known = np.where(slope > 0, slope, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            g_max = self.energy * np.exp(-2 * self.score.contraction(question.eta, tau))
            for t in MULTIPLIERS:
                h = np.minimum(g_max, a2 * slope / t**2) if t else g_max
                priced = t * h / (2 * np.sqrt(known)) if t else 0.0
                values.append(float((clock * (np.sqrt(a2 * h) - priced)).sum()) / 2)
        return np.array(values)


def _cells(question: Problem) -> tuple[Array, Array, Array]:
    """Cells of log(1 + tau/v) where eta > 0, upwards: their ends (n, 2), their share of A, and eta^2."""
    floor = question.variance_range[0]
    ends, eta2 = [np.empty((0, 2))], [np.empty(0)]
    for low, high, (value,) in segments(question.eta):
        low, high = min(low, question.sigma_T), min(high, question.sigma_T)
        if low < high and value**2 > 0:  # below that the gap, of order eta^2, underflows too
            edges = np.linspace(math.log1p(low**2 / floor), math.log1p(high**2 / floor), CELLS + 1)
            ends.append(np.stack([edges[:-1], edges[1:]], axis=-1))
            eta2.append(np.full(CELLS, float(value) ** 2))
    cells, squares = np.concatenate(ends), np.concatenate(eta2)
    return cells, squares * np.diff(cells)[:, 0], squares


def _convex_slopes(dA: Array, V: Array) -> Array:
    """Slopes dM/dA in each cell (upwards in tau) of the greatest convex minorant of V(A) that starts at (0, 0).

    V[i] is the value at the lower end of cell i, and A grows downwards.
    """
    A = np.concatenate([[0.0], np.cumsum(dA[::-1])])
    height = np.concatenate([[0.0], V[::-1]])
    hull = [0]
    for i in range(1, len(A)):
        while len(hull) > 1 and _above(A, height, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    slopes = np.empty(len(dA))
    for start, end in itertools.pairwise(hull):
        slopes[start:end] = (height[end] - height[start]) / (A[end] - A[start])
    return slopes[::-1]


def _above(A: Array, height: Array, i: int, j: int, k: int) -> bool:
    """Whether point j lies on or above the chord from i to k."""
    return bool((height[j] - height[i]) * (A[k] - A[i]) >= (height[k] - height[i]) * (A[j] - A[i]))
