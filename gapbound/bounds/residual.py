r"""B5: residual. A guess of the value function, and what it leaves unsolved. Exact score, Gaussians and mixtures.

Let p* = sum_k w_k N_k, gamma_k(z, tau) the posterior probability of component k, and u_k(z, tau) = E[r(Y_0)|Y_tau = z]
under the eta-sampler of component k alone, in closed form. The guess w = sum_k gamma_k u_k is r at tau = 0 and misses
the backward equation of the mixture's sampler, w_tau = (1 + eta^2)/2 s . grad w + eta^2/2 Lap w, by

.. math:: \frac{1 - \eta^2}{2 q_\tau} \operatorname{div}(q_\tau J), \qquad J = \sum_k u_k \nabla \gamma_k,

nothing at eta = 1, and nothing for one Gaussian. With f_tau = dLaw(Y^eta_tau)/dq_tau, integrating along the sampler,

.. math:: E r(Y^\eta) - E_{p^*} r = \int w(\cdot, \sigma_T^2) \, (\pi - q_T)
    + \tfrac12 \int_0^{\sigma_T^2} (1 - \eta^2) \int q_\tau \nabla f_\tau \cdot J \, dz \, d\tau .

On the line the ODE's value function u^0 = r(Q_0(Q_tau^{-1}(z))) is a second guess (Q the quantile maps). It misses the
equation by -(eta^2/2q) div(q grad u^0), and gives the ODE's error exactly. Mixing both, lam w + (1 - lam) u^0,

.. math:: \Big| \mathrm{GAP} - \lambda \int (u^0 - w)(\cdot, \sigma_T^2) \, (\pi - q_T) \Big|
    \le \tfrac12 \int_0^{\sigma_T^2} \Big| \int q_\tau \nabla f_\tau \cdot V \, dz \Big| d\tau, \qquad
    V = \lambda (1 - \eta^2) J - (1 - \lambda) \eta^2 \nabla u^0 .

lam = 0 is a Duhamel formula with the roles of B4 exchanged, O(eta^2); lam = 1 is exact at eta = 1. The right side is
bounded twice, by chi^2 and by KL (``gapbound.bounds.dissipation``), the latter finite for any prior; the smallest over
lam is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array
from gapbound.bounds.dissipation import Budget, chi_square_budget, kl_budget, smallest
from gapbound.bounds.problem import AnyReward, Problem, Target, answered, problem
from gapbound.bounds.spread import ERRORS, gradient_energy, rounding
from gapbound.bounds.trial import REACH, Guess, guess, guessed_error
from gapbound.bounds.value import Bound, Constant, nothing_left, settled
from gapbound.estimate_value import Estimate
from gapbound.gap import reward_gap, sampler_error
from gapbound.gaussian import Gaussian
from gapbound.law import terminal_law
from gapbound.monotone import sampler_errors
from gapbound.process import Process
from gapbound.reward import CallableReward, Linear, Quadratic

NAME = "residual"
ASSUMPTIONS = ("exact score", "one Gaussian, or a mixture with d = 1")
MIXING = np.arange(11) / 10  # lam


@door(infinite=True)
def residual(target: Target, process: Process, reward: AnyReward, eta: Any = 1.0) -> Bound:
    """Bound B5 on the two errors and the gap; for one Gaussian the gap itself, in any dimension.

    Args:
        target: Gaussian, or GaussianMixture with d = 1; no batch axes.
        process: VE, VP or FlowMatching, of one T.
        reward: a gapbound reward; a callable for one Gaussian only.
        eta: stochasticity, a number or ``Windows``.

    Raises:
        ValueError: a mixture in d > 1, or a callable reward on a mixture; batches; negative eta.
        TypeError: a target whose score is not exact.
    """
    return answered(of, problem(target, process, reward, eta))


def of(question: Problem) -> Bound:
    """The bound for a checked question."""
    if question.forgotten:
        return nothing_left(NAME, ASSUMPTIONS, question.trivial)
    if question.single:
        return _of_one_gaussian(question)
    if question.dim > 1:
        raise ValueError(
            f"residual needs one Gaussian or a mixture with d = 1, got a mixture with d = {question.dim}; use "
            "chi_square, total_variation or wasserstein"
        )
    if isinstance(question.reward, CallableReward):
        raise ValueError(
            "residual needs a reward whose expectation under Gaussians is closed, got a callable; use a gapbound "
            "reward, or chi_square or total_variation"
        )
    return _of_mixture(question)


def _of_one_gaussian(question: Problem) -> Bound:
    """The remainder is 0: the errors and the gap themselves."""
    target, process, reward, eta = question.target, question.process, question.reward, question.eta
    assert isinstance(target, Gaussian)
    plain = not isinstance(reward, Linear | Quadratic)  # a difference of expectations, which may cancel
    lost = [rounding(reward, terminal_law(target, process, value)) if plain else 0.0 for value in (0.0, eta)]
    own = rounding(reward, target) if plain else 0.0
    ode = _constant("|E r(ODE) - E_p* r|", sampler_error(target, process, reward, 0.0), lost[0] + own)
    sde = _constant("|E r(SDE) - E_p* r|", sampler_error(target, process, reward, eta), lost[1] + own)
    gap = _constant("|gap|", reward_gap(target, process, reward, eta), lost[0] + lost[1])
    return settled(NAME, ode.value, sde.value, gap.value, (ode, sde, gap), ASSUMPTIONS, question.trivial)


def _constant(name: str, found: Any, lost: float) -> Constant:
    """The size of a closed form with what rounding may have ``lost``, or of an estimate with its error."""
    if not isinstance(found, Estimate):
        return Constant(name, abs(float(found)) + lost, "closed form", "the exact laws of one Gaussian")
    error = float(found.error) * (ERRORS if found.method == "monte carlo" else 1.0)
    return Constant(name, abs(float(found.value)) + error, "numerical", found.method, error)


def _of_mixture(question: Problem) -> Bound:
    """The smallest bounds over lam, from two resolutions: what changes is added."""
    (found,) = sampler_errors(question.target, question.process, question.reward, [0.0])
    ode, error = float(found.value), float(found.error)
    size = abs(ode) + error
    own = Constant("|E r(ODE) - E_p* r|", size, "numerical", "monotone map between quantiles", error)
    try:
        coarse, fine = (_found(question, ode, level) for level in (1, 2))
    except ValueError as unresolved:
        return settled(
            NAME, size, math.inf, math.inf, (own,), ASSUMPTIONS, question.trivial, f"not evaluated: {unresolved}"
        )
    change = abs(fine.gap - coarse.gap) + error + fine.rounding
    constants = (
        own,
        Constant(
            "lam", fine.mixing, "closed form", "share of the guess w, of 0, 0.1, ..., 1, that bounds the gap best"
        ),
        Constant("gap of the guess", fine.gap - fine.remainder, "numerical", "lam int (u^0 - w) (prior - q_T)", error),
        Constant("remainder", fine.remainder + change, "numerical", fine.route, change),
    )
    sde = fine.sde + abs(fine.sde - coarse.sde) + error + fine.rounding
    return settled(NAME, size, sde, fine.gap + change, constants, ASSUMPTIONS, question.trivial)


@dataclass(frozen=True)
class _Found:
    """What one resolution gives: bounds on the gap and the SDE's error, how the first came about, and the rounding."""

    gap: float
    sde: float
    mixing: float
    remainder: float
    route: str
    rounding: float


def _found(question: Problem, ode: float, level: int) -> _Found:
    smooth = gradient_energy(question.reward, question.target) is not None
    mixing = MIXING if smooth else MIXING[-1:]
    main, lost = guessed_error(question, level)
    budgets: dict[str, Budget | None] = {"chi^2": chi_square_budget(question), "KL": kl_budget(question)}
    budgets = {name: budget for name, budget in budgets.items() if budget is not None}
    guesses = guess(question, level, smooth, _reach(budgets.get("chi^2")))
    remainders = _remainders(guesses, mixing, budgets)
    rest = np.min(list(remainders.values()), axis=0)
    on_gap = mixing * abs(ode - main) + rest
    on_sde = np.abs(mixing * main + (1 - mixing) * ode) + rest
    best = int(on_gap.argmin())
    route = min(remainders, key=lambda name: float(remainders[name][best]))
    return _Found(float(on_gap[best]), float(on_sde.min()), float(mixing[best]), float(rest[best]), route, lost)


def _reach(budget: Budget | None) -> float:
    """Standard deviations of the components beyond which their mass times chi^2 is below exp(-50)."""
    return REACH if budget is None else max(REACH, math.sqrt(2 * max(0.0, math.log(budget.divergence + 1) + 50)))


def _remainders(guesses: Guess, mixing: Array, budgets: Mapping[str, Budget | None]) -> dict[str, Array]:
    """Bounds on half the integral for every lam, by the name of the divergence used."""
    result = {}
    for name, budget in budgets.items():
        assert budget is not None
        at = budget.at(guesses.taus)
        norms = guesses.square_norms(mixing) if name == "chi^2" else guesses.moments(mixing, at.left)
        result[f"dissipation of {name}"] = smallest(np.sqrt(norms), guesses.clock, guesses.eta2, at)
    return result
