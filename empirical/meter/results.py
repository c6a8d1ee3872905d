"""The finished pairs of a measurement as arrays, one set for each cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from empirical.meter.diversity import CELLS, diversity, read
from empirical.meter.plan import Cell, Plan
from empirical.meter.statistics import differences
from empirical.meter.store import PairRecord
from gapbound._validate import Array


@dataclass(frozen=True)
class Rewards:
    """Rewards of a cell.

    Attributes:
        ode: shape (rewards, prompts, samples).
        sde: shape (rewards, etas, prompts, samples, draws).
        ode_diversity: by prompt, shape (prompts,); NaN with one sample.
        sde_diversity: of the first draw, shape (etas, prompts).
        sigmas: noise-to-signal ratios at the first step and after the last.
        last_std: noise of the last SDE step, by eta.
    """

    ode: Array
    sde: Array
    ode_diversity: Array
    sde_diversity: Array
    sigmas: tuple[float, float]
    last_std: Sequence[float]


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Args:
        plan: what was asked.
        rewards: names, in order.
        cells: by cell, all of the plan's.
    """

    plan: Plan
    rewards: tuple[str, ...]
    cells: Mapping[Cell, Rewards]

    def gap(self, reward: str, cell: Cell, eta: float) -> Array:
        """ODE minus SDE of each pair, shape (prompts, samples)."""
        found, r = self.cells[cell], self.rewards.index(reward)
        return differences(found.ode[r], found.sde[r, self.plan.etas.index(eta)])


def collect(plan: Plan, rewards: Sequence[str], records: Iterable[PairRecord]) -> Results:
    """Read the records of a finished measurement, one by one.

    Raises:
        ValueError: a pair is missing.
    """
    shape, E = (len(plan.prompts), plan.samples), len(plan.etas)
    ode = {cell: np.full((len(rewards), *shape), np.nan) for cell in plan.cells}
    sde = {cell: np.full((len(rewards), E, *shape, plan.draws), np.nan) for cell in plan.cells}
    colours = {cell: np.zeros((1 + E, *shape, 3, CELLS, CELLS), np.float32) for cell in plan.cells}
    ends: dict[Cell, tuple[tuple[float, float], list[float]]] = {}
    for record in records:
        cell, p, s = record.key
        ode[cell][:, p, s] = record.ode
        sde[cell][:, :, p, s] = np.moveaxis(np.array(record.sde), -1, 0)
        first_draws = [record.cells[0], *record.cells[1 :: plan.draws]]
        colours[cell][:, p, s] = [read(text) for text in first_draws]
        first, last = (math.inf if sigma is None else sigma for sigma in record.sigmas)
        ends[cell] = (first, last), record.last_std
    for cell in plan.cells:
        if not np.isfinite(ode[cell]).all():
            p, s = (int(i) for i in np.argwhere(~np.isfinite(ode[cell]))[0][1:])
            raise ValueError(
                f"the measurement is not finished: {cell} lacks sample {s} of prompt {plan.prompts[p]!r}; run it again "
                "to go on"
            )
    spread = {
        cell: np.stack([diversity(kind) for kind in cells]) if plan.samples > 1 else np.full((1 + E, shape[0]), np.nan)
        for cell, cells in colours.items()
    }
    return Results(
        plan,
        tuple(rewards),
        {c: Rewards(ode[c], sde[c], spread[c][0], spread[c][1:], *ends[c]) for c in plan.cells},
    )
