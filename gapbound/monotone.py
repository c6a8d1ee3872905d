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
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr

from gapbound._validate import Array, within
from gapbound.estimate_value import Estimate
from gapbound.eta import Eta, Windows, checked, log_variance_ratio, segments
from gapbound.expectation import evaluate
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture
from gapbound.process import Process, checked_process
from gapbound.reward import AbsoluteDeviation, Bump, Cosine, HalfSpace, Linear, Quadratic, Reward, as_reward

LEVELS = (1, 2, 3, 4, 6, 8, 12, 16)  # resolutions, multiples of the coarsest
CELL = 0.25  # coarsest cells, in standard deviations of a component
STEP = 0.25  # coarsest steps in log(v + tau)
GRADING = 6.0  # of a component's standard deviations; further away, cells grow in proportion to the distance
REACH = 9.5  # cells cover each component, and the prior, to this many standard deviations
MAX_CELLS = 8000  # of the coarsest resolution
MAX_WORK = 3_000_000  # cells times steps of one resolution, once there are three
MAX_BREAKS = 200  # jumps and kinks searched for in a callable
ADAMS_BASHFORTH = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12)}
ORDER = 4  # extrapolations in a row
LARGEST = 1e100  # sigma_T whose square is finite
EMPTY = 1e-14  # mass of the prior that may be left between components without cells of its own
ACCEPTED = 1e-6  # residual, relative to the tail, after which one more Newton step leaves rounding only


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
            sigma_T finite but above 1e100, a reward of another dimension or not finite.
        TypeError: another kind of target (``estimate_gap`` takes any model).
    """
    return _estimates(_problem(target, process, reward, etas), False, rtol)


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
    return _estimates(_problem(target, process, reward, [eta_ref, eta]), True, rtol)[0]


def _problem(target: Any, process: Any, reward: Any, etas: Any) -> _Problem:
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
        raise TypeError(f"etas must be a list of numbers or Windows, got {etas!r}; write [{etas!r}]")
    profiles = tuple(checked(eta) for eta in etas)
    for eta in profiles:
        if not isinstance(eta, Windows) and eta.ndim:
            raise ValueError(f"each eta must be one number or Windows, got an array of shape {eta.shape}")
    weights, law = (
        (target.weights, target.components)
        if isinstance(target, GaussianMixture)
        else (np.ones(1), Gaussian(target.mean[None], target.variances[None]))
    )
    order = np.argsort(law.mean[:, 0])
    order = order[weights[order] > 0][:, None]
    line = _Line(np.log(weights[order]), law.mean[order, 0], law.variances[order, 0])
    excess = float(process.prior_excess)
    return _Problem(line, as_reward(reward).in_dim(1), float(sigma_T), excess, profiles)


def _estimates(problem: _Problem, gap: bool, rtol: float) -> list[Estimate]:
    """Of every profile, or of the gap; nothing is left of the start at sigma_T = inf."""
    rtol = float(within("rtol", rtol, 1e-12, 1.0))
    if math.isinf(problem.sigma_T) or not problem.profiles:
        return [Estimate(0.0, 0.0, "quadrature") for _ in range(1 if gap else len(problem.profiles))]
    return _extrapolated(problem, gap, rtol)


@dataclass(frozen=True)
class _Line:
    """The mixture on the line, at any noise level: log-weights, means, variances of shape (K, 1), sorted by mean."""

    log_weights: Array
    means: Array
    variances: Array

    @property
    def floor(self) -> float:
        return float(self.variances.min())

    def standard(self, z: Array, tau: float) -> tuple[Array, Array]:
        """Standardised positions, shape (K, n), and standard deviations (K, 1)."""
        sd = np.sqrt(self.variances + tau)
        return (z - self.means) / sd, sd

    def log_density(self, z: Array, tau: float) -> tuple[Array, Array]:
        """log q_tau and its derivative, the score."""
        u, sd = self.standard(z, tau)
        terms = self.log_weights - np.log(sd) - u**2 / 2
        highest = terms.max(0)
        parts = np.exp(terms - highest)
        total = parts.sum(0)
        return highest + np.log(total) - math.log(2 * math.pi) / 2, -(parts * u / sd).sum(0) / total

    def log_tails(self, z: Array, tau: float) -> tuple[Array, Array]:
        """Logs of every component's mass below and above z, shape (K, n)."""
        u, _ = self.standard(z, tau)
        return self.log_weights + log_ndtr(u), self.log_weights + log_ndtr(-u)

    def log_masses(self, edges: Array) -> Array:
        """Logs of the masses at tau = 0 of the n + 1 cells between n edges: positive terms only."""
        u, _ = self.standard(edges, 0.0)
        ends = np.pad(u, ((0, 0), (1, 1)), constant_values=((0, 0), (-np.inf, np.inf)))
        a, b = ends[:, :-1], ends[:, 1:]
        upper = a + b > 0
        a, b = np.where(upper, -b, a), np.where(upper, -a, b)
        log_b = log_ndtr(b)
        terms = self.log_weights + log_b + np.log(-np.expm1(log_ndtr(a) - log_b))
        return _logsumexp(terms)


def _logsumexp(terms: Array) -> Array:
    """log(sum(exp)) over the first axis; -inf where all terms are."""
    highest = terms.max(0)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return shift + np.log(np.exp(terms - shift).sum(0))


@dataclass(frozen=True)
class _Labels:
    """What stays with a point that the ODE moves: the mass below it less that of the k lowest components.

    With k the number of components that lie (mostly) below, that is a difference of tails only, so that points deep
    between two modes keep their identity: sum_{i >= k} w_i Phi(u_i) - sum_{i < k} w_i Phi(-u_i) = value.
    """

    signs: Array  # (K, n): 1 for a component counted by its mass below, -1 above
    value: Array  # (n,), 0 where it underflows
    sign: Array
    log_size: Array

    def __getitem__(self, index: Any) -> _Labels:
        return _Labels(self.signs[:, index], self.value[index], self.sign[index], self.log_size[index])


def _labels(line: _Line, z: Array, tau: float) -> _Labels:
    below, above = line.log_tails(z, tau)
    K = len(below)
    nothing = np.full((1, z.size), -np.inf)
    up = np.vstack([nothing, np.logaddexp.accumulate(above)])
    down = np.vstack([np.logaddexp.accumulate(below[::-1])[::-1], nothing])
    k = np.logaddexp(up, down).argmin(0)
    signs = np.where(np.arange(K)[:, None] < k, -1.0, 1.0)
    sign, log_size, _, _ = _signed_tail(line, signs, z, tau)
    return _Labels(signs, sign * np.exp(log_size), sign, log_size)


def _signed_tail(line: _Line, signs: Array, z: Array, tau: float) -> tuple[Array, Array, Array, Array]:
    """The value of a label at z: its sign, the log of its size, and the log of its two terms' ratio with its slope."""
    u, sd = line.standard(z, tau)
    masses = line.log_weights + log_ndtr(signs * u)
    densities = line.log_weights - np.log(sd) - u**2 / 2 - math.log(2 * math.pi) / 2
    below, q_below = (_logsumexp(np.where(signs > 0, terms, -np.inf)) for terms in (masses, densities))
    above, q_above = (_logsumexp(np.where(signs < 0, terms, -np.inf)) for terms in (masses, densities))
    ratio = below - above
    with np.errstate(divide="ignore", invalid="ignore"):
        log_size = np.maximum(below, above) + np.log(-np.expm1(-np.abs(ratio)))
        return np.sign(ratio), log_size, ratio, np.exp(q_below - below) + np.exp(q_above - above)


def _locate(line: _Line, labels: _Labels, tau: float, guess: Array, tolerance: float = 1e-14) -> Array:
    """Where the labelled points are at tau: Newton's method on the log of the tail, bracketed; any guess will do."""
    sd = math.sqrt(line.variances.max() + tau)
    lowest = labels.log_size[np.isfinite(labels.log_size)].min(initial=0.0)
    width = sd * (10 + math.sqrt(2 * abs(lowest)))
    low, high = np.full(guess.shape, line.means[0, 0] - width), np.full(guess.shape, line.means[-1, 0] + width)
    z, open_ = np.clip(guess, low, high), np.arange(guess.size)
    for _ in range(200):
        goal, at = labels[open_], z[open_]
        sign, log_size, ratio, slope = _signed_tail(line, goal.signs, at, tau)
        log_q, _ = line.log_density(at, tau)
        same = (sign == goal.sign) & (sign != 0)
        with np.errstate(over="ignore", invalid="ignore"):
            linear = goal.sign * np.exp(goal.log_size - log_q) - sign * np.exp(log_size - log_q)
            rising = np.where(same, sign * (goal.log_size - log_size), goal.sign - sign)
            in_log = rising * np.exp(log_size - log_q)
            # on the wrong side of where the two terms are equal, go there
            step = np.where(np.abs(ratio) < 1, linear, np.where(same, in_log, -ratio / slope))
        low[open_] = np.where(rising > 0, at, low[open_])
        high[open_] = np.where(rising < 0, at, high[open_])
        moved = at + step
        done = (rising == 0) | (np.abs(step) <= 4e-16 * np.abs(at) + tolerance * sd)
        inside = (moved > low[open_]) & (moved < high[open_])
        z[open_] = np.where(rising == 0, at, np.where(done | inside, moved, (low[open_] + high[open_]) / 2))
        open_ = open_[~done]
        if not open_.size:
            break
    return z


class _Points:
    """Edges that move with the quantiles: predicted along the ODE, corrected by one Newton step."""

    def __init__(self, line: _Line, edges: Array) -> None:
        self.line, self.labels, self.z = line, _labels(line, edges, 0.0), edges
        self.log_q = line.log_density(edges, 0.0)[0]
        self.weights = np.exp(line.log_weights) * self.labels.signs
        self.tail = np.abs(self.labels.value)  # what the label's value is a difference of; 0 where that underflows
        self._velocities: list[Array] = []

    def jump(self, tau: float) -> None:
        """Move to any tau."""
        self.z = _locate(self.line, self.labels, tau, self.z)
        self.log_q, score = self.line.log_density(self.z, tau)
        self.tail = self._tails(self.z, tau)[1]
        self._velocities = [-(self.line.floor + tau) * score / 2]

    def advance(self, tau: float, step: float) -> None:
        """Move by ``step`` in log(floor + tau), to tau."""
        past = self._velocities
        z = self.z + step * sum(share * v for share, v in zip(ADAMS_BASHFORTH[len(past)], past, strict=True))
        ready = np.zeros(z.shape, bool)
        for _ in range(2):
            value, size = self._tails(z, tau)
            residual = self.labels.value - value
            log_q, score = self.line.log_density(z, tau)
            deep = log_q < -600
            shift = np.where(deep, 0.0, residual / np.exp(np.maximum(log_q, -600)))
            known = ~deep & (np.abs(residual) < 0.3 * size) & (size > 1e-280)
            z = np.where(known, z + shift, z)
            ready = known & (np.abs(residual) <= ACCEPTED * size)
            if ready.all():
                break
        self.log_q = log_q + np.where(ready, score * shift, 0.0)
        if not ready.all():
            late = np.flatnonzero(~ready)
            z[late] = _locate(self.line, self.labels[late], tau, z[late], 1e-12)
            self.log_q[late], score[late] = self.line.log_density(z[late], tau)
            size = self._tails(z, tau)[1]
        self.z, self.tail = z, size
        self._velocities = [-(self.line.floor + tau) * score / 2, *past[:2]]

    def _tails(self, z: Array, tau: float) -> tuple[Array, Array]:
        """Values of the labels at z, and the sums of their terms' sizes."""
        u, _ = self.line.standard(z, tau)
        terms = self.weights * ndtr(self.labels.signs * u)
        return terms.sum(0), np.abs(terms).sum(0)


@dataclass(frozen=True)
class _Panel:
    """A stretch of the line at tau = 0, with the inner coordinate in which its cells are evenly spaced.

    Near components that is the number of their standard deviations passed, less and less densely further away; ``far``
    of all of them, where the prior has mass but p* has none, it is half the square of that number.
    """

    low: float
    high: float
    centres: Array = field(default_factory=lambda: np.empty((0, 1)))
    widths: Array = field(default_factory=lambda: np.empty((0, 1)))
    far: tuple[float, float] | None = None  # mean and standard deviation to be far from
    empty: bool = False  # no cells at all: one edge is enough

    def coordinate(self, y: Array) -> tuple[Array, Array]:
        """The inner coordinate, and its derivative."""
        u = (y - self.centres) / (GRADING * self.widths)
        value, slope = GRADING * np.arcsinh(u).sum(0), (1 / (self.widths * np.hypot(1, u))).sum(0)
        if self.far:
            u = (y - self.far[0]) / self.far[1]
            value, slope = value + u * np.abs(u) / (2 * REACH), slope + np.abs(u) / (REACH * self.far[1])
        return value, slope

    def edges(self, breaks: Array, size: float, level: int) -> Array:
        """Edges up to and with ``high``: every level cuts cells of ``size`` into equal numbers."""
        inside = breaks[(breaks > self.low) & (breaks < self.high)]
        if self.empty:
            return np.array([inside[0] if inside.size else (self.low + self.high) / 2, self.high])
        nodes = np.linspace(self.low, self.high, 65)
        if self.centres.size:
            nodes = np.append(nodes, self.centres + self.widths * np.sinh(np.linspace(-20, 20, 2001)))
        nodes = np.unique(nodes.clip(self.low, self.high))
        table = self.coordinate(nodes)[0]
        ends = [self.low, *inside, self.high]
        cuts, parts = self.coordinate(np.array(ends))[0], []
        for begin, end, last in zip(cuts[:-1], cuts[1:], ends[1:], strict=True):
            cells = level * max(1, math.ceil((end - begin) / size))
            goal = np.linspace(begin, end, cells + 1)[1:]
            y = np.interp(goal, table, nodes)
            for _ in range(3):  # the table's own kinks would spoil the extrapolation
                value, slope = self.coordinate(y)
                y = y + (goal - value) / slope
            y[-1] = last
            parts.append(y)
        return np.concatenate(parts)


def _edges(panels: list[_Panel], breaks: Array, level: int) -> Array:
    """Cell edges at tau = 0."""
    sizes = [np.diff(panel.coordinate(np.array([panel.low, panel.high]))[0])[0] for panel in panels if not panel.empty]
    size = max(CELL, sum(sizes) / MAX_CELLS)
    return np.concatenate([[panels[0].low], *(panel.edges(breaks, size, level) for panel in panels)])


def _panels(line: _Line, sigma_T: float, excess: float, reward: Reward) -> list[_Panel]:
    """Cells cover every component, and, between and outside them, whatever the prior sends mass to."""
    sd = np.sqrt(line.variances)
    low, high = line.means - REACH * sd, line.means + REACH * sd
    centres, widths = np.empty((0, 1)), np.empty((0, 1))
    if isinstance(reward, Bump):
        centres, widths = np.full((1, 1), reward.c.item()), np.full((1, 1), float(reward.h))
    near: dict[str, Any] = {"centres": np.vstack([line.means, centres]), "widths": np.vstack([sd, widths])}
    away: dict[str, Any] = {"centres": centres, "widths": widths}
    spread = math.sqrt(sigma_T**2 + excess)
    reach = np.array([-REACH, REACH]) * spread
    bottom, top = map(float, _locate(line, _labels(line, reach, sigma_T**2), 0.0, reach))
    panels: list[_Panel] = []
    last = -1  # the component that ends the panels so far
    for k in map(int, np.argsort(low[:, 0])):
        a, b, law = float(low[k, 0]), float(high[k, 0]), (float(line.means[k, 0]), float(sd[k, 0]))
        if last < 0:
            panels += [_Panel(bottom, a, far=law, **away)] if bottom < a else []
        elif a <= panels[-1].high:
            panels[-1] = replace(panels[-1], high=max(b, panels[-1].high))
            last = k if b == panels[-1].high else last
            continue
        else:
            other = (float(line.means[last, 0]), float(sd[last, 0]))
            panels += _gap(line, panels[-1].high, a, other, law, sigma_T, spread, away)
        panels.append(_Panel(a, b, **near))
        last = k
    if top > panels[-1].high:
        panels.append(_Panel(panels[-1].high, top, far=(float(line.means[last, 0]), float(sd[last, 0])), **away))
    return panels


def _gap(
    line: _Line, low: float, high: float, below: tuple[float, float], above: tuple[float, float], sigma_T: float,
    spread: float, away: dict[str, Any],
) -> list[_Panel]:  # fmt: skip
    """Panels between two components (mean, sd) that are far apart."""
    ends = np.array([low, high])
    if _between(*_locate(line, _labels(line, ends, 0.0), sigma_T**2, ends) / spread) < EMPTY:
        return [_Panel(low, high, empty=True)]
    middle = (below[0] * above[1] + above[0] * below[1]) / (below[1] + above[1])
    return [_Panel(low, middle, far=below, **away), _Panel(middle, high, far=above, **away)]


def _breaks(reward: Reward, panels: list[_Panel]) -> Array:
    """Where the reward jumps or has a kink: known for gapbound's rewards, searched for in others."""
    if isinstance(reward, HalfSpace):
        return np.array([reward.threshold / reward.w.item()])
    if isinstance(reward, AbsoluteDeviation):
        return np.array([reward.c.item()])
    if isinstance(reward, Quadratic | Linear | Bump | Cosine):
        return np.empty(0)
    x = _edges(panels, np.empty(0), 4)
    value = evaluate(reward, x[:, None])
    bend = np.abs(_bends(x, value))
    around = np.stack([np.roll(bend, shift) for shift in (-4, -3, -2, 2, 3, 4)])
    suspect = np.flatnonzero((bend > 4 * np.median(around, 0)) & (bend > 1e-12 * np.abs(value).max()))
    strongest = suspect[np.argsort(-bend[suspect])][:MAX_BREAKS]
    found = [_break(reward, x[i], x[i + 2], bend[i]) for i in strongest]
    breaks = np.sort(np.array([at for at in found if at is not None]))
    return breaks[np.diff(breaks, prepend=-np.inf) > 1e-9 * (x[-1] - x[0])]


def _bends(x: Array, value: Array) -> Array:
    """Values at the inner points less those of the chord between their neighbours."""
    share = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    return value[1:-1] - (1 - share) * value[:-2] - share * value[2:]


def _break(reward: Reward, low: float, high: float, bend: float) -> float | None:
    """The jump or kink in (low, high), by zooming in four times at a time; None where the reward is smooth.

    The bend of a jump then stays, that of a kink falls 4 times, that of a smooth function 16 times.
    """
    smooth = 0
    for _ in range(26):
        x = np.linspace(low, high, 9)
        value = evaluate(reward, x[:, None])
        bends = np.abs(_bends(x, value))
        k = int(bends.argmax())
        if bends[k] <= 1e-13 * np.abs(value).max() or high - low < 1e-14 * max(abs(low), abs(high)):
            break
        smooth = smooth + 1 if bends[k] < bend / 9 else 0
        if smooth == 2:
            return None
        low, high, bend = x[k], x[k + 2], bends[k]
    return float((low + high) / 2)


def _between(low: Any, high: Any) -> Any:
    """Phi(high) - Phi(low) for low < high, from the smaller tails."""
    upper = low + high > 0
    return np.where(upper, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))


def _mismatch(line: _Line, z: Array, sigma_T: float, excess: float) -> Array:
    """F_T - Pi at z: mean of the normal density between the two standardised positions, times their distance."""
    b, sd = line.standard(z, sigma_T**2)
    spread = math.sqrt(sigma_T**2 + excess)
    a = z / spread
    apart = z * ((excess - line.variances) / (spread * sd * (spread + sd))) - line.means / sd
    node, weight = np.polynomial.legendre.leggauss(16)
    along = a + apart * (1 + node[:, None, None]) / 2
    near = apart * (weight[:, None, None] * np.exp(-(along**2) / 2)).sum(0) / math.sqrt(8 * math.pi)
    far = np.where(a + b > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
    return (np.exp(line.log_weights) * np.where(np.abs(apart) < 0.5, near, far)).sum(0)


def _cell_means(line: _Line, reward: Reward, edges: Array) -> Array:
    """Means of the reward under p* in the n + 1 cells; in the two outermost, which have no mass, near their edge."""
    ends = np.concatenate([[2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]])
    node, weight = np.polynomial.legendre.leggauss(6)
    x = ends[:-1] + np.diff(ends) * (1 + node[:, None]) / 2
    log_p = line.log_density(x.ravel(), 0.0)[0].reshape(x.shape)
    share = weight[:, None] * np.exp(log_p - log_p.max(0))
    return (share * evaluate(reward, x[..., None])).sum(0) / share.sum(0)


@dataclass(frozen=True)
class _Problem:
    """What stays the same at every resolution."""

    line: _Line
    reward: Reward
    sigma_T: float
    excess: float
    profiles: tuple[Array | Windows, ...]

    @cached_property
    def panels(self) -> list[_Panel]:
        """Where cells are."""
        return _panels(self.line, self.sigma_T, self.excess, self.reward)

    @cached_property
    def breaks(self) -> Array:
        """Where edges must be."""
        return _breaks(self.reward, self.panels)

    @property
    def step(self) -> float:
        """Coarsest step; shorter where prior mass lies between far modes, whose cells come into contact suddenly."""
        return STEP / 2 if any(panel.far for panel in self.panels[1:-1]) else STEP

    def solve(self, level: int) -> tuple[Array, Array, Array, int]:
        """r in the cells, its change under each eta up to sigma_T, F_T - prior at the edges; and cells times steps."""
        edges = _edges(self.panels, self.breaks, level)
        at_T = _locate(self.line, _labels(self.line, edges, 0.0), self.sigma_T**2, edges)
        points, log_mass = _Points(self.line, edges), self.line.log_masses(edges)
        mass = np.exp(log_mass)
        start = _cell_means(self.line, self.reward, edges)
        start = start - (mass * start).sum() / mass.sum()
        changes = np.zeros((len(self.profiles), start.size))
        steps = 0
        for low, high, etas in segments(*self.profiles):
            high = min(high, self.sigma_T)
            squares = [float(eta) ** 2 for eta in etas]
            if low < high and any(squares):
                steps += self._march(points, log_mass, start, changes, low, high, squares, level)
        return start, changes, _mismatch(self.line, at_T, self.sigma_T, self.excess), start.size * (steps + 1)

    def _march(
        self, points: _Points, log_mass: Array, start: Array, changes: Array, low: float, high: float,
        squares: list[float], level: int,
    ) -> int:  # fmt: skip
        """Diffuse through one segment of constant eta, adding to ``changes``; returns the number of steps."""
        base = self.line.floor + low**2
        span = float(log_variance_ratio(self.line.floor, low, high))
        count = level * max(4, math.ceil(span * _stiffness(max(squares)) / self.step))
        h = span / count
        active = np.flatnonzero(squares)
        square = np.array(squares)[active, None]
        for k in range(count):
            tau = low**2 + base * math.expm1((k + 0.5) * h)
            if k:
                points.advance(tau, h)
            else:
                points.jump(tau)
            down, up = _rates(points, log_mass, base * math.exp(k * h) * math.expm1(h) / 4)
            u = start + changes[active]
            # Crank-Nicolson as twice an implicit half-step: no huge rate ever multiplies a rounded difference
            changes[active] += 2 * (_implicit(np.ones_like(u), square * down, square * up, u) - u)
        return count


def _stiffness(square: float) -> float:
    """How many more steps an eta beyond sqrt(2) takes."""
    return max(1.0, min(square / 2, 1.5 * math.sqrt(square)))


def _rates(points: _Points, log_mass: Array, quarter: float) -> tuple[Array, Array]:
    """Rates of exchange of every cell with the one below and the one above, times ``quarter``; 0 at the ends."""
    z, log_q = points.z, points.log_q
    width = np.diff(z)
    with np.errstate(divide="ignore"):
        rounding = (log_mass[1:-1] < np.log(1e-9 * points.tail[1:])) | (width < 1e-9 * (z[-1] - z[0]))
    by_mass = np.exp(np.minimum(log_mass[1:-1] - np.logaddexp(log_q[1:], log_q[:-1]) + math.log(2), 300.0).clip(-600.0))
    width = np.where(rounding, by_mass, width)
    width = np.concatenate([width[:1], width, width[-1:]])
    log_conductance = log_q - np.log((width[1:] + width[:-1]) / 2) + math.log(quarter)
    # above e^300 a cell only copies its neighbour
    down, up = (np.exp(np.minimum(log_conductance - m, 300.0)) for m in (log_mass[1:], log_mass[:-1]))
    return np.concatenate([[0.0], down]), np.concatenate([up, [0.0]])


def _implicit(excess: Array, down: Array, up: Array, right: Array) -> Array:
    """Solve (excess + down + up) x - down x[below] - up x[above] = right, by cyclic reduction along the last axis.

    All is positive and the diagonal is never formed, hence nothing is subtracted: every unknown is a mean of the right
    side to full accuracy, even between cells that exchange at 1e100 times the rate of their neighbours.
    """
    n = right.shape[-1]
    if n == 1:
        return right / excess
    odd, even = slice(1, None, 2), slice(0, None, 2)
    inverse = 1 / (excess[..., odd] + down[..., odd] + up[..., odd])
    pairs = (n - 1) // 2  # of an odd cell with the even one above it
    from_below = down[..., 2::2] * inverse[..., :pairs]
    from_above = up[..., even][..., : n // 2] * inverse
    reduced = []
    for part in (excess, right):
        kept = part[..., even].copy()
        kept[..., 1:] += from_below * part[..., odd][..., :pairs]
        kept[..., : n // 2] += from_above * part[..., odd]
        reduced.append(kept)
    coarse_down, coarse_up = np.zeros_like(reduced[0]), np.zeros_like(reduced[0])
    coarse_down[..., 1:] = from_below * down[..., odd][..., :pairs]
    coarse_up[..., : n // 2] = from_above * up[..., odd]
    x = np.empty_like(right)
    x[..., even] = _implicit(reduced[0], coarse_down, coarse_up, reduced[1])
    inner = right[..., odd] + down[..., odd] * x[..., even][..., : n // 2]
    inner[..., :pairs] += up[..., odd][..., :pairs] * x[..., 2::2]
    x[..., odd] = inner * inverse
    return x


def _extrapolated(problem: _Problem, gap: bool, rtol: float) -> list[Estimate]:
    """The errors of all profiles, or the gap between the first and the second, from more and more resolutions.

    Row i of the scheme of Richardson, Aitken and Neville starts with the value at level i and goes on with polynomials
    in 1/level^2 through more and more of the rows before. A row's correction is the larger change in either direction;
    the stated error is the geometric mean of the last two rows' corrections, as a single one can be small by chance,
    and at least the last; a little rounding is added.
    """
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
