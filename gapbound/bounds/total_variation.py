r"""B2: total variation. Exact score, bounded reward, any eta.

.. math:: |E r(Y^{ODE}) - E_{p^*} r| \le \mathrm{osc}(r) \, TV, \qquad
   |E r(Y^\eta) - E_{p^*} r| \le \mathrm{osc}(r) \min\Big(TV, \sqrt{KL_0 / 2}\Big), \quad
   KL_0 \le KL \exp\Big(-\int_0^{\sigma_T^2} \frac{\eta^2}{C_{LS}(q_\tau)} d\tau\Big)

with osc = sup - inf, TV and KL between the prior and q_T. Proof: TV is invariant under the ODE's bijection and cannot
grow along the SDE, whose two laws obey one equation; d KL / d(-tau) = -eta^2/2 I <= -eta^2 KL / C_LS, for
KL <= C_LS I / 2. The first form needs no constant at all. The second counts the noise levels at which C_LS is known:
all for a Gaussian, those with a log-concave q_tau for a mixture. (TV <= sqrt(chi^2)/2 would add nothing to B1, because
sd(r) <= osc/2.) The gap is at most the sum, and at most osc.
"""

from __future__ import annotations

import math
from typing import Any

from gapbound._door import door
from gapbound.bounds.lipschitz import log_sobolev
from gapbound.bounds.mismatch import kl, tv, tv_of_kl
from gapbound.bounds.problem import AnyReward, Problem, Target, answered, problem
from gapbound.bounds.value import Bound, Constant, nothing_left, product, settled
from gapbound.process import Process

NAME = "total_variation"
ASSUMPTIONS = ("exact score", "bounded reward")


@door(infinite=True)
def total_variation(target: Target, process: Process, reward: AnyReward, eta: Any = 1.0) -> Bound:
    """Bound B2 on the two errors and, by their sum, on the gap.

    Args:
        target: Gaussian or GaussianMixture, without batch axes.
        process: VE, VP or FlowMatching, of one T.
        reward: a bounded gapbound reward, or a ``CallableReward`` that states its range.
        eta: stochasticity, a number or ``Windows``.

    Raises:
        ValueError: an unbounded reward; batches; negative eta.
        TypeError: a target whose score is not exact.
    """
    return answered(of, problem(target, process, reward, eta))


def of(question: Problem) -> Bound:
    """The bound for a checked question."""
    osc = question.trivial
    if not math.isfinite(osc):
        raise ValueError(
            f"total_variation needs a bounded reward, got one with range {question.reward.range}; use chi_square or "
            "wasserstein, or wrap a callable as CallableReward(f, range=(low, high))"
        )
    if question.forgotten:
        return nothing_left(NAME, ASSUMPTIONS, osc)
    constants: tuple[Constant, ...] = (Constant("osc(r)", osc, "closed form", "sup r - inf r"), tv(question))
    ode = osc * constants[1].value
    sde = ode
    known = log_sobolev(question)
    if known is not None:
        constant, decay = known
        start = kl(question)
        left = product(start.logarithm, -decay.exponent(question.eta, question.sigma_T))
        sde = min(ode, osc * tv_of_kl(left))
        constants = (*constants, start, constant)
    return settled(NAME, ode, sde, min(ode + sde, osc), constants, ASSUMPTIONS, osc)
