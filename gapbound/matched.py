r"""Matched stochasticity: the eta of training at which the ODE that reuses the score earns what the trained SDE earns.

For N(mu, v) with b mu = 0 and a linear reward, from any sigma_T, ODE and SDE of the RL optimum shift the mean by

.. math:: \text{ODE} = \frac{b v}{\beta} \frac{2 (1 - r)}{1 + \eta^2}, \quad \text{SDE} = \frac{b v}{\beta} (1 - r^2),
    \quad r = \rho^{\eta^2/2}, \quad \rho = \frac{v}{v + \sigma_T^2},

and they are equal where (1 - eta^2) / (1 + eta^2) = r, that is

.. math:: \eta^2 = \tanh(\eta^2 L / 4), \qquad L = \log(1/\rho) = \log(1 + \sigma_T^2 / v),

the mean-field magnet's equation: one solution above 0 if L > 4 (sigma_T^2 > (e^4 - 1) v), none otherwise. It is below 1
and tends to 1 as sigma_T grows. What is matched is E r and nothing else: for this linear reward the mean along b, while
the variances still differ by the start's (s^2 - v - sigma_T^2) (rho - rho^(1 + eta^2)), s^2 the prior's variance. For
other rewards, N steps and guided models the matched eta is a root of the exact gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, broadcastable, positive, shown
from gapbound.affine import AffineScore
from gapbound.chain import levels
from gapbound.eta import log_variance_ratio
from gapbound.exponent import Exponent, left_over
from gapbound.gap import reward_gap
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.optimum import SLOWEST, rl_optimum
from gapbound.process import FlowMatching, Process, checked_process
from gapbound.regulator import rl_optimum_discrete
from gapbound.reward import Linear, Quadratic

CRITICAL = 4.0  # L above which a linear reward has a matched eta
LOWEST, HIGHEST = 0.05, 4.0  # eta between which roots of exact gaps are looked for
CONTINUOUS, DISCRETE = 241, 13  # etas at which the sign of the gap is looked at
EXISTS = 1e-3  # distance from the eta at which the optimum of a convex reward stops to exist that roots keep
MANY = 500  # steps, times the elements of the batch, that are matched within about ten seconds

Gap = Callable[[Array], Array]


@door()
def matched_eta(
    target: Gaussian | AffineScore,
    process: Process,
    reward: Quadratic | Linear,
    beta: Any = 1.0,
    *,
    steps: int | None = None,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
    sampler: str = "gddim",
    ode_sampler: str = "ddim",
) -> Array:
    r"""The eta to train at, for which the ODE on the trained score earns what the trained SDE earns.

    Without ``steps`` or ``sigmas``, in continuous time: in closed form for a linear reward along one principal variance
    with b'mu = 0, whatever beta, else the root of the exact gap of ``rl_optimum``. With them the root of the exact gap
    of ``rl_optimum_discrete``, ODE and SDE on the same levels; only then may the model be guided, as the policy that is
    trained, and the gap is guidance's and training's together.

    Roots of exact gaps are looked for in eta from 0.05 to 4 (0.1 with steps), where the gap changes its sign between
    neighbours of a grid; of several the one nearest to 1 (in log eta) is returned, and ``matched_etas`` gives all.
    E r is matched, not the law: see the module.

    Args:
        target: what the reference model samples: a Gaussian, or with steps an affine score (``guided``); any batch.
        process: start and prior; its T broadcasts with the batch (with steps it is one number).
        reward: ``Linear`` or ``Quadratic``.
        beta: temperature, positive; broadcasts with the batch.
        steps: N, number of steps of the named ``grid``.
        sigmas: the levels instead, see ``discrete_law``.
        grid: see ``gapbound.grid``.
        t_min: where the grid stops; the reward is given to z there.
        sampler: the SDE, a policy of ``rl_optimum_discrete``.
        ode_sampler: the ODE.

    Returns:
        eta, shape of the broadcast batch.

    Raises:
        ValueError: there is no matched eta above 0 (says L for a linear reward, or the gap at eta = 1 otherwise, and
            the remedy), beta is not positive, more than 500 steps times elements of the batch, what ``rl_optimum`` or
            ``rl_optimum_discrete`` refuses.
        TypeError: another reward; a target that is not a Gaussian without steps.
    """
    process, beta = checked_process(process), positive("beta", beta)
    _check(target, reward, steps is not None or sigmas is not None)
    shape = broadcastable("the batches of target, T and beta", target.batch_shape, np.shape(process.T), beta.shape)
    if steps is not None or sigmas is not None:
        chain = {"steps": steps, "sigmas": sigmas, "grid": grid, "t_min": t_min}
        return _of_chains(target, process, reward, beta, shape, sampler, ode_sampler, chain)
    if t_min:
        raise ValueError(
            f"t_min is for N steps, got {t_min} without steps; in continuous time rewards are given at t=0"
        )
    assert isinstance(target, Gaussian)
    length = _length(target, process, reward)
    if length is not None:
        return np.broadcast_to(_by_tanh(length), shape)
    found = np.empty(shape)
    for place in np.ndindex(shape):
        found[place] = _matched(*_element(target, process, beta, shape, place), reward)
    return found


@door()
def matched_etas(
    target: Gaussian, process: Process, reward: Quadratic | Linear, beta: float = 1.0
) -> tuple[float, ...]:
    """All eta in [0.05, 4] where the continuous-time gap of the RL optimum changes its sign, ascending, none included.

    Args:
        target: Gaussian without a batch.
        process: start and prior, with one T.
        reward: ``Linear`` or ``Quadratic``.
        beta: temperature, one positive number.

    Raises:
        ValueError: a batch, and see ``matched_eta``.
        TypeError: see ``matched_eta``.
    """
    process, temperature = checked_process(process), positive("beta", beta)
    _check(target, reward, False)
    if target.batch_shape or np.shape(process.T) or temperature.shape:
        raise ValueError("all roots are for one target, T and beta, got a batch; call once for each")
    return _roots(_gap_of(target, process, temperature, reward), _searched(target, process, temperature, reward))


def _check(target: Any, reward: Any, chain: bool) -> None:
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"only Quadratic and Linear rewards have an affine optimum, got {shown(reward)}")
    if not isinstance(target, Gaussian | AffineScore):
        raise TypeError(f"target must be a Gaussian or an affine score, got {type(target).__name__}")
    if not (chain or isinstance(target, Gaussian)):
        raise TypeError(
            f"in continuous time the RL optimum is known on a Gaussian, got {type(target).__name__}; give steps or "
            "sigmas"
        )


# --- closed form ------------------------------------------------------------------------------------------------------


def _length(target: Gaussian, process: Process, reward: Quadratic | Linear) -> Array | None:
    """L where the closed form holds: a linear reward along one principal variance, b'mu = 0; shape of target and T."""
    if not isinstance(reward, Linear):
        return None
    variance, basis = target.spectrum
    pull = rotate(transposed(basis), reward.quadratic_form(target.dim)[2])
    offset = np.abs(pull * rotate(transposed(basis), target.mean)).max(-1)
    pulled = np.abs(pull) > 1e-12 * np.abs(pull).max()
    low = np.where(pulled, variance, np.inf).min(-1)
    high = np.where(pulled, variance, 0.0).max(-1)
    if not pulled.any() or offset.any() or not (high <= low * (1 + 1e-14)).all():
        return None
    return log_variance_ratio(high, 0.0, process.sigma_T)


def _by_tanh(length: Array) -> Array:
    """The root above 0 of eta^2 = tanh(eta^2 L / 4); 1 at L = inf."""
    if not (length > CRITICAL).all():
        lowest = float(np.min(length))
        raise ValueError(
            f"no eta above 0 is matched: L = log(1 + sigma_T^2 / v) must be above 4, got {lowest:.4g}; start from "
            f"sigma_T above 7.321 sqrt(v), here {math.sqrt(math.expm1(CRITICAL) / math.expm1(lowest)):.3g} times "
            "further or more, or train at an eta whose reward_gap on rl_optimum is small enough"
        )
    return np.vectorize(_magnet, otypes=[float])(length)


def _magnet(length: float) -> float:
    """With x = eta^2 L / 4 the equation is tanh(x) / x = 4 / L, whose left side falls from 1 to 0."""
    if length > 150.0:
        return 1.0  # to rounding: 1 - eta is exp(-L / 2)
    excess = length / CRITICAL - 1
    x = _root(lambda x: _less_than_one(x) - excess / (1 + excess), 0.0, length / CRITICAL, xtol=1e-300, rtol=1e-15)
    return math.sqrt(CRITICAL * x / length)


def _less_than_one(x: float) -> float:
    """1 - tanh(x) / x, without cancellation at small x."""
    if x > 0.2:
        return 1 - math.tanh(x) / x
    square = x * x
    terms = (1 / 3, -2 / 15, 17 / 315, -62 / 2835, 1382 / 155925, -21844 / 6081075, 929569 / 638512875)
    return square * sum(term * square**k for k, term in enumerate(terms))


# --- roots of exact gaps ----------------------------------------------------------------------------------------------


def _matched(target: Gaussian, process: Process, beta: Array, reward: Quadratic | Linear) -> float:
    """One element of a batch; at sigma_T = inf the optimum of eta = 1 is an exact score, and its gap 0."""
    if np.isinf(process.sigma_T):
        rl_optimum(target, reward, beta, process, 1.0)  # refuses what has no optimum
        return 1.0
    return _nearest(_gap_of(target, process, beta, reward), _searched(target, process, beta, reward))


def _gap_of(target: Gaussian, process: Process, beta: Array, reward: Quadratic | Linear) -> Gap:
    """E r of the ODE less that of the SDE on the optimum of each eta, over eta^2, and without a batch."""
    if isinstance(reward, Linear):
        return _linear_gap(target, process, reward, float(beta))

    def gap(etas: Array) -> Array:
        optimum = rl_optimum(target, reward, beta, process, etas)
        return np.asarray(reward_gap(optimum, process, reward, etas)) / etas**2

    return gap


def _linear_gap(target: Gaussian, process: Process, reward: Linear, beta: float) -> Gap:
    r"""The same for a linear reward, summed over the principal axes in closed form.

    .. math:: \sum_i (1 - r_i) \Big\{ \frac{b_i^2 v_i}{\beta} \Big(\frac{2}{1 + \eta^2} - 1 - r_i\Big)
        - b_i \mu_i \rho_i^{1/2} \Big\}, \quad r_i = \rho_i^{\eta^2 / 2}.
    """
    variance, basis = target.spectrum
    pull, mean = (rotate(transposed(basis), x) for x in (reward.quadratic_form(target.dim)[2], target.mean))
    length = log_variance_ratio(variance, 0.0, process.sigma_T)
    moved, carried = pull**2 * variance / beta, pull * mean * np.exp(-length / 2)

    def gap(etas: Array) -> Array:
        a = etas[..., None] ** 2
        r = np.exp(-a * length / 2)
        each = -np.expm1(-a * length / 2) / a * (moved * ((1 - a) / (1 + a) - r) - carried)
        return np.asarray(each.sum(-1))

    return gap


def _of_chains(
    target: Gaussian | AffineScore,
    process: Process,
    reward: Quadratic | Linear,
    beta: Array,
    shape: tuple[int, ...],
    sampler: str,
    ode_sampler: str,
    chain: dict[str, Any],
) -> Array:
    """Matched eta of N-step optima; the model's batch is solved at once, one element of it at a time is matched."""
    if np.shape(process.T):
        raise ValueError("with steps the process has one T, got an array; call once for each")

    cost = (len(levels(process, **_levels_of(chain))) - 1) * math.prod(shape)
    if cost > MANY:
        raise ValueError(
            f"{cost} steps times elements of the batch would take about {cost / MANY * 10:.0f} s, and {MANY} are the "
            "most; use fewer steps, call once for each element, or leave steps out for the continuous-time limit"
        )

    @cache
    def gaps(eta: float) -> Array:
        optimum = rl_optimum_discrete(target, reward, beta, process, sampler, eta, **chain)
        ode, sde = (reward.expectation(law) for law in (optimum.sampled(ode_sampler, 0.0), optimum.law))
        return np.broadcast_to((ode - sde) / eta**2, shape)

    def gap_at(place: tuple[int, ...]) -> Gap:
        return lambda etas: np.array([gaps(float(eta))[place] for eta in etas])

    found, etas = np.empty(shape), np.geomspace(2 * LOWEST, HIGHEST, DISCRETE)
    for place in np.ndindex(shape):
        found[place] = _nearest(gap_at(place), etas)
    return found


def _levels_of(chain: dict[str, Any]) -> dict[str, Any]:
    return {("kind" if name == "grid" else name): value for name, value in chain.items()}


def _searched(target: Gaussian, process: Process, beta: Array, reward: Quadratic | Linear) -> Array:
    """Where roots are looked for: where the optimum exists, which convex rewards can end."""
    low = SLOWEST if np.isinf(process.sigma_T) else LOWEST
    etas = np.geomspace(low, HIGHEST, CONTINUOUS)
    exponent = Exponent.of(target, reward, beta)
    lowest = exponent.lowest(left_over(target.spectrum[0], np.asarray(process.sigma_T)[..., None], etas))
    exists = lowest > EXISTS - 1
    return etas[exists] if exists.any() else etas


def _roots(gap: Gap, etas: Array) -> tuple[float, ...]:
    values = gap(etas)
    if not np.abs(values).max() > 0:
        raise ValueError("ODE and SDE earn the same at every eta: this reward moves nothing; take another reward")
    found = [float(eta) for eta in etas[values == 0]]
    for k in np.flatnonzero(values[:-1] * values[1:] < 0):
        found.append(_root(lambda eta: float(gap(np.array([eta]))[0]), etas[k], etas[k + 1], xtol=1e-14))
    return tuple(sorted(found))


def _nearest(gap: Gap, etas: Array) -> float:
    """The root nearest to 1."""
    found = _roots(gap, etas)
    if not found:
        at_one = float(gap(np.ones(1))[0])
        who = "less" if at_one < 0 else "more"
        raise ValueError(
            f"no eta in [{etas[0]:g}, {etas[-1]:g}] is matched: the ODE earns {who} than the SDE at every one of them "
            f"(by {abs(at_one):.3g} at eta = 1); start from a larger sigma_T, use more steps, or train at the eta with "
            "the smallest gap"
        )
    return min(found, key=lambda eta: abs(math.log(eta)))


def _element(
    target: Gaussian, process: Process, beta: Array, shape: tuple[int, ...], place: tuple[int, ...]
) -> tuple[Gaussian, Process, Array]:
    """One element of a batch."""
    event = target.cov.shape[len(target.batch_shape) :]
    mean = np.broadcast_to(target.mean, (*shape, target.dim))[place]
    cov = np.broadcast_to(target.cov, (*shape, *event))[place]
    if np.shape(process.T):
        T = float(np.broadcast_to(process.T, shape)[place])
        process = FlowMatching(T) if isinstance(process, FlowMatching) else replace(process, T=T)  # type: ignore[type-var]
    return trusted(mean, cov, event=len(event)), process, np.asarray(np.broadcast_to(beta, shape)[place])


def _root(function: Callable[[float], float], low: float, high: float, **tolerances: float) -> float:
    """A root between two values at which the function has different signs, by Brent's method."""
    from scipy.optimize import brentq  # a sixth of a second to load

    return float(brentq(function, low, high, **tolerances))
