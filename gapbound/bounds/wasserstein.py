r"""B3: Wasserstein, for an exact score. Lipschitz or quadratic rewards, any eta.

.. math:: W_2(Y^\eta, p^*) \le \exp\Big(-\int_0^{\sigma_T^2} \frac{1 + \eta^2}{2} \kappa \, d\tau\Big) W_2(\pi, q_T)

with kappa the one-sided Lipschitz profile of the score *that drives the sampler*. Proof: couple the prior with q_T
optimally and run both through the sampler with the same noise; their distance contracts at rate (1 + eta^2) kappa / 2,
and q_T arrives at p*. Then |E r(Y) - E_p* r| is at most Lip(r) W_2, and for a quadratic reward with matrix A,

.. math:: \sqrt{E_{p^*} |\nabla r|^2} \; W_2 + \|A\| \, W_2^2,

because r(y) - r(x) = grad r(x)'(y - x) - (y - x)'A(y - x). (Theory 5 bounds the root by 2 ||A|| |X - c|_2 + |b|.)

A mis-specified score adds int (1 + eta^2)/2 exp(-...) e(tau) dtau with its own kappa, never with the true score's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound.bounds.lipschitz import profile
from gapbound.bounds.mismatch import wasserstein as distance_of
from gapbound.bounds.problem import AnyReward, Problem, Target, answered, problem
from gapbound.bounds.spread import gradient_energy
from gapbound.bounds.value import Bound, Constant, nothing_left, product, settled
from gapbound.process import Process
from gapbound.reward import Quadratic

NAME = "wasserstein"
ASSUMPTIONS = ("exact score", "one-sided Lipschitz score", "Lipschitz or quadratic reward")


@door(infinite=True)
def wasserstein(target: Target, process: Process, reward: AnyReward, eta: Any = 1.0) -> Bound:
    """Bound B3 on the two errors and, by their sum, on the gap.

    Args:
        target: Gaussian, or GaussianMixture with d = 1 or with one covariance for all components; no batch axes.
        process: VE, VP or FlowMatching, of one T.
        reward: a Lipschitz or quadratic gapbound reward, or a ``CallableReward`` that states its Lipschitz constant.
        eta: stochasticity, a number or ``Windows``.

    Raises:
        ValueError: a reward that is neither Lipschitz nor quadratic; different covariances in d > 1; batches; negative
            eta.
        TypeError: a target whose score is not exact.
    """
    return answered(of, problem(target, process, reward, eta))


def of(question: Problem) -> Bound:
    """The bound for a checked question."""
    slope, curvature = slope_of(question)
    if question.forgotten:
        return nothing_left(NAME, ASSUMPTIONS, question.trivial)
    start, score = distance_of(question), profile(question)
    tau = np.asarray(question.sigma_T**2)
    exponents = [float(score.contraction(eta, tau)) for eta in (np.asarray(0.0), question.eta)]
    ends = [product(start.logarithm, -exponent) for exponent in exponents]
    ode, sde = (change(slope.value, curvature, end) for end in ends)
    factors = tuple(
        Constant.from_log(f"W2 factor, {who}", -exponent, score.kind, score.source)
        for who, exponent in zip(("ODE", "SDE"), exponents, strict=True)
    )
    return settled(NAME, ode, sde, ode + sde, (slope, start, *factors), ASSUMPTIONS, question.trivial)


def slope_of(question: Problem) -> tuple[Constant, float]:
    """The factor of W2, and that of its square."""
    reward = question.reward
    if isinstance(reward, Quadratic) and not math.isfinite(reward.lipschitz):
        energy = gradient_energy(reward, question.target)
        assert energy is not None  # a quadratic has one
        A = reward.quadratic_form(question.dim)[0]
        size = abs(A) if np.ndim(A) == 0 else float(np.abs(np.linalg.eigvalsh(A)).max())
        return Constant.from_log("sqrt(E_p*|grad r|^2)", energy.logarithm / 2, energy.kind, energy.source), size
    if not math.isfinite(reward.lipschitz):
        raise ValueError(
            f"wasserstein needs a Lipschitz or quadratic reward; {type(reward).__name__} has no Lipschitz constant: "
            "use chi_square or total_variation, or wrap a callable as CallableReward(f, lipschitz=...)"
        )
    return Constant("Lip(r)", reward.lipschitz, "closed form", type(reward).__name__), 0.0


def change(slope: float, curvature: float, length: float) -> float:
    """slope length + curvature length^2, where 0 times infinity is 0."""
    return sum(factor * power for factor, power in ((slope, length), (curvature, length * length)) if factor)
