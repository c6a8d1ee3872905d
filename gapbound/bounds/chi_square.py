r"""B1: chi-square. Exact score, any reward of finite variance, any eta.

.. math:: |E r(Y^{ODE}) - E_{p^*} r| \le \mathrm{sd}_{p^*}(r) \sqrt{\chi^2}, \qquad
   |E r(Y^\eta) - E_{p^*} r| \le \mathrm{sd}_{p^*}(r) \sqrt{\chi^2} \,
   \exp\Big(-\tfrac12 \int_0^{\sigma_T^2} \frac{\eta^2}{C(\tau)} d\tau\Big)

with chi^2 = chi^2(prior || q_T) and C(tau) >= C_P(q_tau). Proof: Cauchy-Schwarz in L^2(p*) for r - E r and the density
ratio. The ODE is a bijection that carries (prior, q_T) to (its law, p*), and chi^2 is invariant under bijections. Along
the SDE, f = law / q_tau obeys d chi^2 / d(-tau) = -eta^2 E_q|grad f|^2 <= -eta^2 chi^2 / C_P(q_tau).

Theory 5 takes C(tau) = C_P(p*) + tau. Here C(tau) = min over knots tau_i <= tau of C_P(q_{tau_i}) + tau - tau_i, which
forgets the barrier between modes as soon as the noise does. chi^2 is finite in d = 1 if *one* component of q_T has
more than half the prior's variance: it dominates the tail of q.
"""

from __future__ import annotations

import math
from typing import Any

from gapbound._door import door
from gapbound.bounds.constants import poincare
from gapbound.bounds.mismatch import chi2
from gapbound.bounds.problem import AnyReward, Problem, Target, answered, problem
from gapbound.bounds.spread import UNSEEN, unseen, variance
from gapbound.bounds.value import Bound, nothing_left, product, settled
from gapbound.process import Process

NAME = "chi_square"
ASSUMPTIONS = ("exact score", "Var_p*(r) finite", "chi^2(prior || q_T) finite")


@door(infinite=True)
def chi_square(target: Target, process: Process, reward: AnyReward, eta: Any = 1.0) -> Bound:
    """Bound B1 on the two errors and, by their sum, on the gap.

    Args:
        target: Gaussian or GaussianMixture, without batch axes.
        process: VE, VP or FlowMatching, of one T.
        reward: a gapbound reward, or any callable.
        eta: stochasticity, a number or ``Windows``.

    Raises:
        ValueError: chi^2(prior || q_T) is infinite, or in d > 1 no finite bound on it is known; batches; negative eta.
        TypeError: a target whose score is not exact.
    """
    return answered(of, problem(target, process, reward, eta))


def of(question: Problem) -> Bound:
    """The bound for a checked question."""
    if question.forgotten:
        return nothing_left(NAME, ASSUMPTIONS, question.trivial)
    distance, spread = chi2(question), variance(question.reward, question.target)
    if unseen(question, distance):
        none = (math.inf, math.inf, math.inf)
        return settled(NAME, *none, (spread, distance), ASSUMPTIONS, question.trivial, UNSEEN)
    constant, decay = poincare(question)
    half = (spread.logarithm / 2, distance.logarithm / 2)
    ode = product(*half)
    sde = product(*half, -decay.exponent(question.eta, question.sigma_T) / 2)
    return settled(NAME, ode, sde, ode + sde, (spread, distance, constant), ASSUMPTIONS, question.trivial)
