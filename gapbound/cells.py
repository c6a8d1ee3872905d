"""Cells for a one-dimensional mixture: even over its components and the prior, cut where the reward bends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gapbound._validate import Array
from gapbound.expectation import evaluate
from gapbound.quantiles import Line, between, labels_of, locate
from gapbound.reward import AbsoluteDeviation, Bump, Cosine, HalfSpace, Linear, Quadratic, Reward

CELL = 0.25  # coarsest cells, in standard deviations of a component
GRADING = 6.0  # of a component's standard deviations; further away, cells grow in proportion to the distance
REACH = 9.5  # cells cover each component, and the prior, to this many standard deviations
MAX_CELLS = 8000  # of the coarsest resolution
MAX_BREAKS = 200  # jumps and kinks searched for in a callable
EMPTY = 1e-14  # mass of the prior that may be left between components without cells of its own


@dataclass(frozen=True)
class Panel:
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


def cell_edges(panels: list[Panel], breaks: Array, level: int) -> Array:
    """Cell edges at tau = 0."""
    sizes = [np.diff(panel.coordinate(np.array([panel.low, panel.high]))[0])[0] for panel in panels if not panel.empty]
    size = max(CELL, sum(sizes) / MAX_CELLS)
    return np.concatenate([[panels[0].low], *(panel.edges(breaks, size, level) for panel in panels)])


def panels_of(line: Line, sigma_T: float, excess: float, reward: Reward) -> list[Panel]:
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
    bottom, top = map(float, locate(line, labels_of(line, reach, sigma_T**2), 0.0, reach))
    panels: list[Panel] = []
    last = -1  # the component that ends the panels so far
    for k in map(int, np.argsort(low[:, 0])):
        a, b, law = float(low[k, 0]), float(high[k, 0]), (float(line.means[k, 0]), float(sd[k, 0]))
        if last < 0:
            panels += [Panel(bottom, a, far=law, **away)] if bottom < a else []
        elif a <= panels[-1].high:
            panels[-1] = replace(panels[-1], high=max(b, panels[-1].high))
            last = k if b == panels[-1].high else last
            continue
        else:
            other = (float(line.means[last, 0]), float(sd[last, 0]))
            panels += _gap(line, panels[-1].high, a, other, law, sigma_T, spread, away)
        panels.append(Panel(a, b, **near))
        last = k
    if top > panels[-1].high:
        panels.append(Panel(panels[-1].high, top, far=(float(line.means[last, 0]), float(sd[last, 0])), **away))
    return panels


def _gap(
    line: Line, low: float, high: float, below: tuple[float, float], above: tuple[float, float], sigma_T: float,
    spread: float, away: dict[str, Any],
) -> list[Panel]:  # fmt: skip
    """Panels between two components (mean, sd) that are far apart."""
    ends = np.array([low, high])
    if between(*locate(line, labels_of(line, ends, 0.0), sigma_T**2, ends) / spread) < EMPTY:
        return [Panel(low, high, empty=True)]
    middle = (below[0] * above[1] + above[0] * below[1]) / (below[1] + above[1])
    return [Panel(low, middle, far=below, **away), Panel(middle, high, far=above, **away)]


def breaks_of(reward: Reward, panels: list[Panel]) -> Array:
    """Where the reward jumps or has a kink: known for gapbound's rewards, searched for in others."""
    if isinstance(reward, HalfSpace):
        return np.array([reward.threshold / reward.w.item()])
    if isinstance(reward, AbsoluteDeviation):
        return np.array([reward.c.item()])
    if isinstance(reward, Quadratic | Linear | Bump | Cosine):
        return np.empty(0)
    x = cell_edges(panels, np.empty(0), 4)
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


def cell_means(line: Line, reward: Reward, edges: Array) -> Array:
    """Means of the reward under p* in the n + 1 cells; in the two outermost, which have no mass, near their edge."""
    ends = np.concatenate([[2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]])
    node, weight = np.polynomial.legendre.leggauss(6)
    x = ends[:-1] + np.diff(ends) * (1 + node[:, None]) / 2
    log_p = line.log_density(x.ravel(), 0.0)[0].reshape(x.shape)
    share = weight[:, None] * np.exp(log_p - log_p.max(0))
    return (share * evaluate(reward, x[..., None])).sum(0) / share.sum(0)
