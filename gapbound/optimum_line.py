r"""The RL optimum of a one-dimensional mixture, by the backward equation along its quantiles; no sampling.

On cells that move with the quantiles (see ``gapbound.monotone``) h(z, tau) = E[exp(r(Y_0) / beta) | Y_tau = z]
diffuses, and so does E[f(Y_0) exp(r(Y_0) / beta) | Y_tau = z] for whatever f is asked for. RL leaves the prior as it
is, so paths are reweighted start by start,

.. math:: E^* f(Y_0) = \int \text{prior}(z) \, \frac{E[f e^{r/\beta} | Y_T = z]}{h(z, \sigma_T^2)} \, dz,

which is not E[f e^{r/beta}] / E[e^{r/beta}] unless the end forgets its start. The ODE that reuses the optimal score,

.. math:: \frac{dz}{d\tau} = -\frac12 \nabla \log q_\tau - \frac{\eta^2}{1 + \eta^2} \, w(\sigma) \, \nabla \log h,

is followed upwards from the edges of the cells: in d = 1 the law below an edge is the prior's below where it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from gapbound._door import door
from gapbound._validate import Array, finite, positive, shown
from gapbound.cells import Panel, breaks_of, cell_edges, cell_means, panels_of
from gapbound.estimate_value import Estimate
from gapbound.eta import Eta, log_variance_ratio, segments
from gapbound.expectation import CallableReward, evaluate
from gapbound.gaussian import Gaussian
from gapbound.march import STEP, exchange_rates, implicit_step, steps_of
from gapbound.mixture import GaussianMixture
from gapbound.monotone import LineProblem, line_problem
from gapbound.process import Process
from gapbound.quantiles import Points, between, labels_of, locate
from gapbound.reward import Bump, Quadratic, Reward, as_reward

LEVELS = (3, 4, 6, 8)  # resolutions, multiples of the coarsest of ``gapbound.cells``
OUTSIDE = 1e-9  # share of the tilted law that may lie where there are no cells
PER_STEP, PER_CELL = 1e-3, 2.2e-7  # seconds, as in ``gapbound.monotone``; the second for every weight
NEWTON = 5  # steps for the implicit midpoint of the ODE

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class LineOptimum:
    """Expectations under the optimum of a one-dimensional mixture; see ``line_optimum``.

    Attributes:
        sde: E f for every f, of the sampler that was trained.
        ode: the same of the ODE that reuses the score, one tuple for every weight.
    """

    sde: tuple[Estimate, ...]
    ode: tuple[tuple[Estimate, ...], ...]

    @property
    @door()
    def gap(self) -> Estimate:
        """The first E f of the ODE with the first weight, less that of the SDE."""
        ode, sde = self.ode[0][0], self.sde[0]
        return Estimate(ode.value - sde.value, math.hypot(ode.error, sde.error), "quadrature", sde.n)


@door()
def line_optimum(
    reference: Gaussian | GaussianMixture,
    reward: Reward | Callable[[Any], Any],
    beta: float,
    process: Process,
    eta: Eta = 1.0,
    of: Iterable[Reward | Callable[[Any], Any]] | None = None,
    weights: Sequence[Weight] = (1.0,),
) -> LineOptimum:
    r"""What KL-regularised RL on the eta-sampler draws from a mixture in d = 1, and what an ODE makes of its score.

    Second order in cells and steps, extrapolated; about 1e-6 of the spread of f for modes that touch. A second or two.

    Args:
        reference: one Gaussian or mixture, d = 1.
        reward: any reward; exp(r / beta) must be integrable under the reference.
        beta: temperature, one positive number.
        process: VE, VP or FlowMatching with one finite sigma_T.
        eta: stochasticity of training, a number or ``Windows``.
        of: the f, rewards or callables on arrays (n, 1) -> (n,); the reward itself if None.
        weights: what the ODE multiplies the learnt part of the score by: numbers, or functions of sigma (see
            ``gapbound.transfer``); 1 is the plain reuse. Where eta = 0 there is no such part.

    Raises:
        ValueError: as ``reward_gap`` of a mixture; sigma_T = inf, beta not one positive number, a weight that is not
            finite, a reward so strong that its tilt leaves the cells (9.5 standard deviations) or loses positivity, an
            eta so large that it would take more than ten seconds (says how long).
        TypeError: another reference; weights or ``of`` that are no lists.
    """
    problem = line_problem(reference, process, reward, [eta])
    temperature = positive("beta", beta)
    if temperature.ndim:
        raise ValueError(f"beta must be one number, got shape {temperature.shape}; call once per beta")
    if math.isinf(problem.sigma_T):
        raise ValueError("line_optimum needs a finite sigma_T; start flow matching at t_max < 1")
    if not isinstance(weights, list | tuple):
        raise TypeError(f"weights must be a list of numbers or functions of sigma, got {shown(weights)}")
    if of is not None and not isinstance(of, Iterable):
        raise TypeError(f"of must be a list of rewards or functions, got {shown(of)}; write [{shown(of)}]")
    functions = [problem.reward] if of is None else [as_reward(f).in_dim(1) for f in of]
    problem.check_cost(LEVELS, PER_STEP, PER_CELL * max(1, len(weights)))
    task = _Task(problem, float(temperature), functions, list(weights))
    found, cells = [], 0
    for level in LEVELS:
        values, cells = task.solve(level)
        found.append(values)
    value, error = _extrapolated(found)
    rows = [
        tuple(Estimate(float(v), float(e), "quadrature", cells) for v, e in zip(row, errors, strict=True))
        for row, errors in zip(value, error, strict=True)
    ]
    return LineOptimum(rows[0], tuple(rows[1:]))


class _Task:
    """What stays the same at every resolution."""

    def __init__(self, problem: LineProblem, beta: float, functions: list[Reward], weights: list[Weight]) -> None:
        """Place panels and breaks, and fix the unit of exp(r / beta)."""
        self.line, self.problem, self.functions, self.weights = problem.line, problem, functions, weights
        self.eta = problem.profiles[0]
        self.spread = math.sqrt(problem.sigma_T**2 + problem.excess)
        self.panels = panels_of(self.line, problem.sigma_T, problem.excess, _narrow(problem.reward, beta))
        self.breaks = _all_breaks([problem.reward, *functions], self.panels)
        edges = cell_edges(self.panels, self.breaks, 1)
        log_h = evaluate(problem.reward, edges[:, None]) / beta
        # the unit is where the tilted law is, not where r is largest
        top = float(log_h[(log_h + self.line.log_density(edges, 0.0)[0]).argmax()])
        self.tilt = CallableReward(lambda x: _exp(evaluate(problem.reward, x) / beta - top))

    def solve(self, level: int) -> tuple[Array, int]:
        """E f, shape (1 + weights, functions), SDE first; and the number of cells."""
        line, sigma_T = self.line, self.problem.sigma_T
        edges = cell_edges(self.panels, self.breaks, level)
        log_mass = line.log_masses(edges)
        u = np.stack([cell_means(line, self.tilt, edges), *(self._weighted(f, edges) for f in self.functions)])
        share = np.exp(log_mass) * u[0]
        if not share[:3].sum() + share[-3:].sum() <= OUTSIDE * share.sum():
            raise ValueError(
                "the tilted law leaves the cells, 9.5 standard deviations around the modes; use a larger beta"
            )
        points = Points(line, edges)
        moving = np.tile(edges, (len(self.weights), 1))
        for low, high, (eta,) in segments(self.eta):
            if low < min(high, sigma_T):
                u, moving = self._segment(points, log_mass, u, moving, (low, min(high, sigma_T)), float(eta), level)
        at_T = locate(line, labels_of(line, edges, 0.0), sigma_T**2, edges)
        prior = self._masses(at_T)
        plain = np.stack([cell_means(line, f, edges) for f in self.functions])
        return np.stack([u[1:] / u[0] @ prior, *(plain @ self._masses(z) for z in moving)]), u.shape[-1]

    def _weighted(self, f: Reward, edges: Array) -> Array:
        return cell_means(self.line, CallableReward(lambda x: evaluate(f, x) * self.tilt(x)), edges)

    def _masses(self, edges: Array) -> Array:
        """Prior masses of the cells between edges in z at sigma_T."""
        a = edges / self.spread
        return np.concatenate([[ndtr(a[0])], between(a[:-1], a[1:]), [ndtr(-a[-1])]])

    def _segment(
        self, points: Points, log_mass: Array, u: Array, moving: Array, span: tuple[float, float], eta: float,
        level: int,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Carry the expectations and the ODE's edges through one segment of constant eta."""
        low, high = span
        if eta == 0:  # the expectations stand still and the ODE keeps its quantiles
            flat = moving.ravel()
            return u, locate(self.line, labels_of(self.line, flat, low**2), high**2, flat).reshape(moving.shape)
        base = self.line.floor + low**2
        length = float(log_variance_ratio(self.line.floor, low, high))
        count = level * steps_of(length, eta**2, STEP)
        step = length / count
        half = u
        for k in range(count + 1):
            tau = low**2 + base * math.expm1((k + 0.5) * step)
            if k:
                points.advance(tau, step)
            else:
                points.jump(tau)
            down, up = exchange_rates(points, log_mass, base * math.exp(k * step) * math.expm1(step) / 4)
            before, half = half, implicit_step(np.ones_like(u), eta**2 * down, eta**2 * up, u)
            if k < count:
                moving = self._followed(moving, points.z, half[0], tau, step, eta)
                u = 2 * half - u
        # a step beyond the end, averaged: what alternates from step to step in nearly empty cells drops out
        u = (before + half) / 2
        if not (u[0] > 0).all():
            raise ValueError("h loses its sign on this grid: exp(r / beta) falls too steeply; use a larger beta")
        return u, moving

    def _followed(self, z: Array, edges: Array, h: Array, tau: float, step: float, eta: float) -> Array:
        """One implicit midpoint step of the ODE in log(v + tau), for every weight; h in the cells between edges."""
        centres = (edges[1:] + edges[:-1]) / 2
        between_centres = (centres[1:] + centres[:-1]) / 2
        log_h = np.log(h[1:-1])  # the two outermost cells have no width
        slope = np.diff(log_h) / np.diff(centres)
        speed = eta**2 / (1 + eta**2)
        share = np.array([[_at(weight, math.sqrt(tau)) * speed] for weight in self.weights])

        def velocity(at: Array) -> Array:
            score = self.line.log_density(at.ravel(), tau)[1].reshape(at.shape)
            return -(self.line.floor + tau) * (score / 2 + share * np.interp(at, between_centres, slope))

        middle = z
        small = 1e-6 * math.sqrt(self.line.floor + tau)
        for _ in range(NEWTON):
            moved = velocity(middle)
            change = (velocity(middle + small) - moved) / small
            residual = z + step / 2 * moved - middle
            middle = middle + residual / np.maximum(1 - step / 2 * change, 0.25)
        return np.maximum.accumulate(2 * middle - z, axis=-1)


def _narrow(reward: Reward, beta: float) -> Reward:
    """Where cells must be fine: a quadratic's exp(r / beta) is a bump."""
    if isinstance(reward, Quadratic):
        A = float(reward.A.item()) if np.ndim(reward.A) else float(reward.A)
        if A > 0:
            return Bump(reward.c + reward.b / (2 * A), math.sqrt(beta / (2 * A)))
    return reward


def _all_breaks(rewards: list[Reward], panels: list[Panel]) -> Array:
    """Jumps and kinks of all of them."""
    breaks = np.unique(np.concatenate([breaks_of(reward, panels) for reward in rewards]))
    width = panels[-1].high - panels[0].low
    return breaks[np.diff(breaks, prepend=-np.inf) > 1e-9 * width]


def _exp(exponent: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(np.minimum(exponent, 700.0).clip(-700.0))


def _at(weight: Weight, sigma: float) -> float:
    value = finite("a weight", weight(sigma) if callable(weight) else weight)
    if value.size != 1:
        raise ValueError(f"a weight must be one number at each sigma, got shape {value.shape}")
    return float(value.item())


def _extrapolated(found: list[Array]) -> tuple[Array, Array]:
    """Neville's scheme in 1 / level^2: the value, and the larger of its last two changes as the error."""
    rows: list[list[Array]] = []
    for i, first in enumerate(found):
        row = [first]
        for back in range(i):
            row.append(row[-1] + (row[-1] - rows[-1][back]) / ((LEVELS[i] / LEVELS[i - 1 - back]) ** 2 - 1))
        rows.append(row)
    last = rows[-1]
    return last[-1], np.maximum(np.abs(last[-1] - last[-2]), np.abs(last[-1] - rows[-2][-1]))
