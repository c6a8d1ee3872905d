r"""Exact errors and gaps on one-dimensional mixtures, without sampling: the monotone map, and diffusion along it.

In d = 1 the probability-flow ODE carries every quantile of q_tau unchanged down to tau = 0. On cells that move with the
quantiles the ODE is therefore the identity, and u = E[r(Y_0) | Y_tau] obeys pure diffusion: z(Q, tau) the quantile,

.. math:: \partial_\tau u = \frac{\eta(\tau)^2}{2} \, \partial_Q \big( q_\tau(z)^2 \, \partial_Q u \big),
    \qquad u(Q, 0) = r(z(Q, 0)), \qquad
    E r(Y^\eta) - E_{p^*} r = \int \partial_Q u(Q, \sigma_T^2) \, \big( Q - \Pi(z(Q, \sigma_T^2)) \big) \, dQ,

Pi being the prior's distribution function. All eta share one grid, windows cost nothing (u stands still where eta = 0),
and the error is linear in q_T - prior, which is formed without a difference of nearly equal numbers.

The scheme is finite volumes in Q and Crank-Nicolson in log(v + tau): second order in both, with an expansion in even
powers, so that a few resolutions extrapolate to many digits. Cell edges lie on the reward's jumps and kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, shown, within
from gapbound.cells import REACH, Panel, breaks_of, cell_edges, cell_means, panels_of
from gapbound.estimate_value import Estimate
from gapbound.eta import Eta, Windows, checked, log_variance_ratio, segments
from gapbound.gaussian import Gaussian
from gapbound.march import STEP, exchange_rates, implicit_step, steps_of
from gapbound.mixture import GaussianMixture
from gapbound.process import Process, checked_process
from gapbound.quantiles import Line, Points, between, labels_of, locate
from gapbound.reward import Reward, as_reward

LEVELS = (1, 2, 3, 4, 6, 8, 12, 16)  # resolutions, multiples of the coarsest
MAX_WORK = 3_000_000  # cells times steps of one resolution, once there are three
ORDER = 4  # extrapolations in a row
LARGEST = 1e100  # sigma_T whose square is finite
NARROWEST = 1e-10  # of the line; tests measure the error down to it
LONGEST = 10.0  # predicted seconds
PER_STEP, PER_CELL = 4.5e-4, 1e-7  # seconds, on one core of a server of 2024


@door()
def sampler_errors(
    target: Gaussian | GaussianMixture,
    process: Process,
    reward: Reward | Callable[[Any], Any],
    etas: Iterable[Eta],
    *,
    rtol: float = 1e-6,
) -> list[Estimate]:
    r"""E r(Y^eta) - E r(X), X ~ ``target``, for every eta: what each sampler gets wrong on its own.

    Exact but for the discretisation, whose error is estimated; no draws are made. Cost: tenths of a second for a few
    modes, whatever the number of etas. It grows with the distance, in standard deviations, between where the prior ends
    up and where the target is, for one or two seconds at a hundred of them.

    Args:
        target: one Gaussian or mixture, d = 1.
        process: VE, VP or FlowMatching with one T; sigma_T = inf gives 0.
        reward: a gapbound reward, or any callable on arrays (n, 1) -> (n,). Its jumps and kinks are found; features
            narrower than a sixteenth of a component's standard deviation are resolved only in ``Bump``.
        etas: stochasticities, each a number or ``Windows``; 0 is the ODE.
        rtol: resolutions are added until the stated error is below this fraction of the value (or 1e-4 of it below the
            integral of the absolute terms), or too costly: look at the error.

    Returns:
        One ``Estimate`` per eta, method "quadrature"; its n is the number of cells.

    Raises:
        ValueError: a target that is batched or not one-dimensional, T or an eta that is an array, negative eta,
            sigma_T finite but above 1e100, a reward of another dimension or not finite, an eta so large that it would
            take more than ten seconds (says how long).
        TypeError: another kind of target (``estimate_gap`` takes any model).
    """
    return _estimates(line_problem(target, process, reward, etas), False, rtol)


@door()
def mixture_gap(
    target: Gaussian | GaussianMixture,
    process: Process,
    reward: Reward | Callable[[Any], Any],
    eta: Eta = 1.0,
    eta_ref: Eta = 0.0,
    *,
    rtol: float = 1e-6,
) -> Estimate:
    r"""E r under the sampler with ``eta_ref`` minus E r under the one with ``eta``: ODE minus SDE by default.

    The difference of two ``sampler_errors``, formed cell by cell within one grid: its error is relative to itself.

    Args:
        target: one Gaussian or mixture, d = 1.
        process: VE, VP or FlowMatching with one T.
        reward: as in ``sampler_errors``.
        eta: stochasticity of the training sampler, a number or ``Windows``.
        eta_ref: that of the reference sampler; 0 is the ODE.
        rtol: as in ``sampler_errors``, of the gap.

    Raises:
        ValueError: see ``sampler_errors``.
        TypeError: see ``sampler_errors``.
    """
    return _estimates(line_problem(target, process, reward, [eta_ref, eta]), True, rtol)[0]


def line_problem(target: Any, process: Any, reward: Any, etas: Any) -> LineProblem:
    """Everything validated, and in the form the scheme wants."""
    if not isinstance(target, Gaussian | GaussianMixture):
        raise TypeError(
            f"target must be a Gaussian or a GaussianMixture, got {type(target).__name__}; estimate_gap takes any model"
        )
    if target.dim != 1 or target.batch_shape:
        raise ValueError(
            f"target must be one law in d = 1, got dimension {target.dim} and batch shape {target.batch_shape}; "
            "call once per law, and use estimate_gap in more dimensions"
        )
    sigma_T = np.asarray(checked_process(process).sigma_T)
    if sigma_T.ndim:
        raise ValueError(f"T must be one number, got an array of shape {sigma_T.shape}; call once per T")
    if LARGEST < sigma_T < math.inf:
        raise ValueError(f"sigma_T must be at most {LARGEST:g} or inf, got {sigma_T:g}; start at a smaller T")
    if not isinstance(etas, Iterable):
        raise TypeError(f"etas must be a list of numbers or Windows, got {shown(etas)}; write [{shown(etas)}]")
    profiles = tuple(checked(eta) for eta in etas)
    for eta in profiles:
        if not isinstance(eta, Windows) and eta.ndim:
            raise ValueError(f"each eta must be one number or Windows, got an array of shape {eta.shape}")
    excess = float(process.prior_excess)
    _check_resolution(target)
    return LineProblem(Line.of(target), as_reward(reward).in_dim(1), float(sigma_T), excess, profiles)


def _check_resolution(target: Gaussian | GaussianMixture) -> None:
    """Cells of a component must be wide beside the rounding of their edges, and their masses must be numbers."""
    law = target.components if isinstance(target, GaussianMixture) else target
    sd, reach = np.sqrt(law.variances), np.abs(law.mean).max() + REACH * np.sqrt(law.variances.max())
    if not float(sd.min()) > NARROWEST * float(reach):
        raise ValueError(
            f"a standard deviation of {float(sd.min()):.3g} on a line of length {float(reach):.3g} is too narrow for "
            f"its cells to be told apart: the ratio must be above {NARROWEST:g}; widen it, or use estimate_gap"
        )


def _estimates(problem: LineProblem, gap: bool, rtol: float) -> list[Estimate]:
    """Of every profile, or of the gap; nothing is left of the start at sigma_T = inf."""
    rtol = float(within("rtol", rtol, 1e-12, 1.0))
    if math.isinf(problem.sigma_T) or not problem.profiles:
        return [Estimate(0.0, 0.0, "quadrature") for _ in range(1 if gap else len(problem.profiles))]
    return _extrapolated(problem, gap, rtol)


def mismatch_with_prior(line: Line, z: Array, sigma_T: float, excess: float) -> Array:
    """F_T - Pi at z: mean of the normal density between the two standardised positions, times their distance."""
    b, sd = line.standard(z, sigma_T**2)
    spread = math.sqrt(sigma_T**2 + excess)
    a = z / spread
    apart = z * ((excess - line.variances) / (spread * sd * (spread + sd))) - line.means / sd
    node, weight = np.polynomial.legendre.leggauss(16)
    along = a + apart * (1 + node[:, None, None]) / 2
    near = apart * (weight[:, None, None] * np.exp(-(along**2) / 2)).sum(0) / math.sqrt(8 * math.pi)
    return (np.exp(line.log_weights) * np.where(np.abs(apart) < 0.5, near, between(a, b))).sum(0)


@dataclass(frozen=True)
class LineProblem:
    """What stays the same at every resolution."""

    line: Line
    reward: Reward
    sigma_T: float
    excess: float
    profiles: tuple[Array | Windows, ...]

    @cached_property
    def panels(self) -> list[Panel]:
        """Where cells are."""
        return panels_of(self.line, self.sigma_T, self.excess, self.reward)

    @cached_property
    def breaks(self) -> Array:
        """Where edges must be."""
        return breaks_of(self.reward, self.panels)

    @property
    def step(self) -> float:
        """Coarsest step; shorter where prior mass lies between far modes, whose cells come into contact suddenly."""
        return STEP / 2 if any(panel.far for panel in self.panels[1:-1]) else STEP

    @property
    def steps(self) -> int:
        """How many of them the coarsest resolution takes."""
        total = 0
        for low, high, etas in segments(*self.profiles):
            high, square = min(high, self.sigma_T), max(float(eta) ** 2 for eta in etas)
            if low < high and square:
                total += steps_of(float(log_variance_ratio(self.line.floor, low, high)), square, self.step)
        return total

    def check_cost(self, levels: tuple[int, ...], per_step: float, per_cell: float) -> None:
        """Refuse, before any work, what would take these resolutions more than ten seconds.

        Raises:
            ValueError: says how long it would take, and about which eta would do.
        """
        steps, cells = self.steps, cell_edges(self.panels, self.breaks, 1).size * len(self.line.means)
        seconds = sum(level * steps * (per_step + per_cell * level * cells) for level in levels)
        if seconds > LONGEST:
            largest = max(float(np.max(eta)) for _, _, etas in segments(*self.profiles) for eta in etas)
            raise ValueError(
                f"this would take about {seconds:.2g} seconds ({steps:.3g} steps of {cells:.3g} cells at the coarsest "
                f"of {len(levels)} resolutions), and {LONGEST:g} seconds is the most allowed; use eta up to about "
                f"{max(1.0, largest * LONGEST / seconds):.2g} (got {largest:g}), a smaller sigma_T, or fewer components"
            )

    def solve(self, level: int) -> tuple[Array, Array, Array, int]:
        """r in the cells, its change under each eta up to sigma_T, F_T - prior at the edges; and cells times steps."""
        edges = cell_edges(self.panels, self.breaks, level)
        at_T = locate(self.line, labels_of(self.line, edges, 0.0), self.sigma_T**2, edges)
        points, log_mass = Points(self.line, edges), self.line.log_masses(edges)
        mass = np.exp(log_mass)
        start = cell_means(self.line, self.reward, edges)
        start = start - (mass * start).sum() / mass.sum()
        changes = np.zeros((len(self.profiles), start.size))
        steps = 0
        for low, high, etas in segments(*self.profiles):
            high = min(high, self.sigma_T)
            squares = [float(eta) ** 2 for eta in etas]
            if low < high and any(squares):
                steps += self._march(points, log_mass, start, changes, low, high, squares, level)
        return start, changes, mismatch_with_prior(self.line, at_T, self.sigma_T, self.excess), start.size * (steps + 1)

    def _march(
        self, points: Points, log_mass: Array, start: Array, changes: Array, low: float, high: float,
        squares: list[float], level: int,
    ) -> int:  # fmt: skip
        """Diffuse through one segment of constant eta, adding to ``changes``; returns the number of steps."""
        base = self.line.floor + low**2
        span = float(log_variance_ratio(self.line.floor, low, high))
        count = level * steps_of(span, max(squares), self.step)
        h = span / count
        active = np.flatnonzero(squares)
        square = np.array(squares)[active, None]
        for k in range(count):
            tau = low**2 + base * math.expm1((k + 0.5) * h)
            if k:
                points.advance(tau, h)
            else:
                points.jump(tau)
            down, up = exchange_rates(points, log_mass, base * math.exp(k * h) * math.expm1(h) / 4)
            u = start + changes[active]
            # Crank-Nicolson as twice an implicit half-step: no huge rate ever multiplies a rounded difference
            changes[active] += 2 * (implicit_step(np.ones_like(u), square * down, square * up, u) - u)
        return count


def _extrapolated(problem: LineProblem, gap: bool, rtol: float) -> list[Estimate]:
    """The errors of all profiles, or the gap between the first and the second, from more and more resolutions.

    Row i of the scheme of Richardson, Aitken and Neville starts with the value at level i and goes on with polynomials
    in 1/level^2 through more and more of the rows before. A row's correction is the larger change in either direction;
    the stated error is the geometric mean of the last two rows' corrections, as a single one can be small by chance,
    and at least the last; a little rounding is added.
    """
    problem.check_cost(LEVELS[:3], PER_STEP, PER_CELL)
    rows: list[list[Array]] = []
    corrections: list[Array] = []
    error: Array = np.full(1, np.inf)
    work = 0
    for i, level in enumerate(LEVELS):
        if i >= 3 and work * (level / LEVELS[i - 1]) ** 2 > MAX_WORK:
            break
        start, changes, mismatch, work = problem.solve(level)
        u = changes[:1] - changes[1:2] if gap else start + changes
        terms = np.diff(u) * mismatch
        row, size = [terms.sum(-1)], np.abs(terms).sum(-1)
        for back in range(min(i, ORDER)):
            row.append(row[-1] + (row[-1] - rows[-1][back]) / ((level / LEVELS[i - 1 - back]) ** 2 - 1))
        rows.append(row)
        if i == 0:
            continue
        corrections.append(np.maximum(np.abs(row[-1] - row[-2]), np.abs(row[-1] - rows[-2][-1])))
        rounding = np.where(size > 0, 1e-14 * size + 1e-15 * (np.abs(start[1:]) * np.abs(mismatch)).sum(), 0.0)
        if i == 1:
            continue
        error = np.maximum(corrections[-1], np.sqrt(corrections[-1] * corrections[-2])) + rounding
        if (error <= np.maximum(rtol * np.maximum(np.abs(row[-1]), 1e-4 * size), 3 * rounding)).all():
            break
    return [Estimate(float(v), float(e), "quadrature", start.size) for v, e in zip(row[-1], error, strict=True)]
