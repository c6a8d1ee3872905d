"""What the results say, as plain data: gaps and their parts, rewards beside each other, diversity, extreme prompts.

- the **gap** of the model, at each guidance, step count and eta: ODE minus SDE, paired;
- the **reference gap**, the same of the reference model: initial mismatch, guidance, score error and integrator
  together; the **induced gap** is the first less the second at the same step count: what training added;
- **guidance's part**: the gap at the guidance in use less that at guidance 1;
- the **limit** of many steps, and the **integrator's part** at each step count: the gap less its limit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from empirical.meter.ladder import extrapolate
from empirical.meter.plan import MODEL, REFERENCE, Cell
from empirical.meter.results import Results
from empirical.meter.statistics import Mean, mean, together, variance_reduction
from gapbound._validate import Array

Predict = Callable[[int, float], float | None]
EXTREMES = 6  # prompts that the report shows


def summarise(results: Results, level: float = 0.95, predict: Predict = lambda steps, eta: None) -> dict[str, Any]:
    """All tables of the report.

    Args:
        results: of a finished measurement.
        level: of every interval.
        predict: (steps, eta) -> the variance reduction by sharing x_T that theory expects, None where it says nothing.
    """
    return {
        "level": level,
        "gaps": gap_rows(results, level, predict),
        "induced": induced_rows(results, level),
        "guidance": guidance_rows(results, level),
        "limits": limit_rows(results, level),
        "rewards": reward_rows(results, level),
        "diversity": diversity_rows(results, level),
        "verdicts": verdict_rows(results, level),
        "extremes": extremes(results),
    }


def record(estimate: Mean) -> dict[str, Any]:
    """A mean as JSON holds it."""
    return {
        "value": estimate.value,
        "standard_error": estimate.standard_error,
        "interval": estimate.interval,
        "units": estimate.units,
        "over": estimate.over,
    }


def gap_rows(results: Results, level: float, predict: Predict) -> list[dict[str, Any]]:
    """One row for each reward, role, guidance, step count and eta, in the order of the plan.

    The joint interval holds for all of the model's rows at once.
    """
    plan, keys = results.plan, []
    for reward in results.rewards:
        keys += [(reward, cell, eta) for cell in plan.cells for eta in plan.etas]
    own = [key for key in keys if key[1].role == MODEL]
    joint = dict(zip(own, together([results.gap(*key) for key in own], level), strict=True))
    rows = []
    for reward, cell, eta in keys:
        gap, found, r = results.gap(reward, cell, eta), results.cells[cell], results.rewards.index(reward)
        reduction = variance_reduction(found.ode[r], found.sde[r, plan.etas.index(eta)])
        rows.append(
            _where(reward, cell, eta)
            | record(mean(gap, level))
            | {
                "joint_interval": joint[reward, cell, eta].interval if cell.role == MODEL else None,
                "ode": float(found.ode[r].mean()),
                "sde": float(found.sde[r, plan.etas.index(eta)].mean()),
                "reduction_x_T": reduction.x_T,
                "reduction_prompts": reduction.prompts,
                "reduction_predicted": predict(cell.steps, eta),
            }
        )
    return rows


def induced_rows(results: Results, level: float) -> list[dict[str, Any]]:
    """The gap less the reference's, pair by pair; none without a reference."""
    if REFERENCE not in results.plan.roles:
        return []
    return _rows(results, level, lambda reward, cell, eta: induced(results, reward, cell, eta))


def induced(results: Results, reward: str, cell: Cell, eta: float) -> Array:
    """Gap of the model less that of the reference, shape (prompts, samples)."""
    return results.gap(reward, cell, eta) - results.gap(reward, cell._replace(role=REFERENCE), eta)


def guidance_rows(results: Results, level: float) -> list[dict[str, Any]]:
    """The gap at the guidance in use less that at 1; none if that is 1."""
    if results.plan.guidance == 1:
        return []

    def difference(reward: str, cell: Cell, eta: float) -> Array:
        return results.gap(reward, cell, eta) - results.gap(reward, cell._replace(guidance=1.0), eta)

    return [row for row in _rows(results, level, difference) if row["guidance"] != 1]


def limit_rows(results: Results, level: float) -> list[dict[str, Any]]:
    """Limits of the gap, of the reference's, and of the induced one; none with a single step count."""
    plan = results.plan
    if len(plan.steps) < 2:
        return []
    kinds: dict[str, Callable[[str, Cell, float], Array]] = {role: results.gap for role in plan.roles}
    if REFERENCE in plan.roles:
        kinds["induced"] = lambda reward, cell, eta: induced(results, reward, cell, eta)
    rows = []
    for reward in results.rewards:
        for kind, gap in kinds.items():
            for guidance in plan.guidances:
                role = MODEL if kind == "induced" else kind
                for eta in plan.etas:
                    ladder = {n: gap(reward, Cell(role, guidance, n), eta) for n in plan.steps}
                    found = extrapolate(ladder, level)
                    rows.append(
                        {"reward": reward, "of": kind, "guidance": guidance, "eta": eta}
                        | record(found.limit)
                        | {
                            "integrator": {str(n): record(part) for n, part in found.integrator.items()},
                            "truncation": record(found.truncation),
                            "trusted": found.trusted,
                        }
                    )
    return rows


def reward_rows(results: Results, level: float) -> list[dict[str, Any]]:
    """Mean rewards of every run: eta 0 is the ODE."""
    rows = []
    for r, reward in enumerate(results.rewards):
        for cell, found in results.cells.items():
            by_eta = {0.0: found.ode[r]} | {eta: found.sde[r, e].mean(-1) for e, eta in enumerate(results.plan.etas)}
            rows += [_where(reward, cell, eta) | record(mean(values, level)) for eta, values in by_eta.items()]
    return rows


def diversity_rows(results: Results, level: float) -> list[dict[str, Any]]:
    """Diversity of every run, and ODE minus SDE by prompt; none with one sample a prompt."""
    if results.plan.samples < 2:
        return []
    rows = []
    for cell, found in results.cells.items():
        for eta, values in zip((0.0, *results.plan.etas), (found.ode_diversity, *found.sde_diversity), strict=True):
            difference = record(mean(found.ode_diversity - values, level)) if eta else None
            rows.append(_where(None, cell, eta) | record(mean(values, level)) | {"ode_minus_sde": difference})
    return rows


def verdict_rows(results: Results, level: float) -> list[dict[str, Any]]:
    """Whether the gap shrank against the reference's, and whether both rewards rose; none without a reference."""
    if REFERENCE not in results.plan.roles:
        return []

    def change(reward: str, cell: Cell, eta: float | None) -> Mean:
        r, e = results.rewards.index(reward), None if eta is None else results.plan.etas.index(eta)
        own, other = (results.cells[c] for c in (cell, cell._replace(role=REFERENCE)))
        return mean(own.ode[r] - other.ode[r] if e is None else (own.sde[r, e] - other.sde[r, e]).mean(-1), level)

    rows = []
    for reward in results.rewards:
        for cell in results.plan.cells:
            for eta in results.plan.etas if cell.role == MODEL else ():
                ode, sde = change(reward, cell, None), change(reward, cell, eta)
                reference = mean(results.gap(reward, cell._replace(role=REFERENCE), eta), level)
                size = shrinkage(results.gap(reward, cell, eta), induced(results, reward, cell, eta), reference, level)
                row = {"ode_change": record(ode), "sde_change": record(sde), "gap": size}
                rows.append(_where(reward, cell, eta) | row | {"rewards": f"ODE {_moved(ode)}, SDE {_moved(sde)}"})
    return rows


def shrinkage(gap: Array, difference: Array, reference: Mean, level: float) -> str:
    """Where the gap went from the reference's, in a word, as far as the intervals settle it."""
    own, change = mean(gap, level), mean(difference, level)
    if not change.excludes_zero:
        return _moved(change)
    if not reference.excludes_zero:
        return "appeared"
    if change.value * reference.value > 0:
        return "grew"
    return "turned around" if own.excludes_zero and own.value * reference.value < 0 else "shrank"


def extremes(results: Results, count: int = EXTREMES) -> list[dict[str, Any]]:
    """The prompts whose gaps are largest in size: first reward, guidance in use, most steps, largest eta."""
    plan, reward = results.plan, results.rewards[0]
    cell, eta = Cell(MODEL, plan.guidance, plan.steps[-1]), plan.etas[-1]
    pairs = results.gap(reward, cell, eta)
    gaps = pairs.mean(1)
    found = results.cells[cell]
    rows = []
    for p in np.argsort(-np.abs(gaps), kind="stable")[:count]:
        sample = int(np.argmax(pairs[p] * np.sign(gaps[p])))
        rows.append(
            {"prompt": int(p), "text": plan.prompts[p], "gap": float(gaps[p]), "sample": sample}
            | {"reward": reward, "guidance": cell.guidance, "steps": cell.steps, "of_eta": eta}
            | {"ode": found.ode[:, p, sample].tolist(), "sde": found.sde[:, :, p, sample, 0].T.tolist()}
        )
    return rows


def _rows(results: Results, level: float, values: Callable[[str, Cell, float], Array]) -> list[dict[str, Any]]:
    """One row of ``values`` for each reward, cell of the model, and eta."""
    return [
        _where(reward, cell, eta) | record(mean(values(reward, cell, eta), level))
        for reward in results.rewards
        for cell in results.plan.cells
        if cell.role == MODEL
        for eta in results.plan.etas
    ]


def _where(reward: str | None, cell: Cell, eta: float) -> dict[str, Any]:
    place = {"reward": reward, "role": cell.role, "guidance": cell.guidance, "steps": cell.steps, "eta": eta}
    return place if reward else {key: value for key, value in place.items() if key != "reward"}


def _moved(change: Mean) -> str:
    if change.interval is None:
        return "not known from one pair"
    if not change.excludes_zero:
        return "unchanged within its interval"
    return "up" if change.value > 0 else "down"


def select(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]
