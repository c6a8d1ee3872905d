"""What an end-to-end gap is made of: integrators, fine-tuning, guidance and the start, in that order."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from typing import Any

import gapbound as gb
from analysis.ledger.claim import Check, Evidence, Theme, Verdict, at_least, evidence, near, sampled

THEME = Theme("What a gap is made of")
UNCONDITIONAL, CONDITIONAL = gb.Gaussian(0.0, 1.0), gb.Gaussian(0.7, 0.5)
REWARD = gb.Quadratic(1.0, 1.4)
TUNED = gb.tilt(CONDITIONAL, REWARD, 2.0)


def setting(scale: float, steps: int) -> tuple[Any, gb.Process, dict[str, Any]]:
    """A tuned model under guidance on SD 1.5's schedule: 50 ODE steps against so many at eta = 1, "leading" spacing."""
    model, reference = (gb.guided(UNCONDITIONAL, one, scale) for one in (TUNED, CONDITIONAL))
    how = {
        "reference": reference,
        "ode_steps": 50,
        "sde_steps": steps,
        "sde_process": gb.VP.stable_diffusion(steps, "leading"),
        "grid": "leading",
    }
    return model, gb.VP.stable_diffusion(50, "leading"), how


def budget(scale: float, steps: int) -> gb.GapBudget:
    """The budget of such a pair of runs."""
    model, process, how = setting(scale, steps)
    return gb.gap_budget(model, process, REWARD, **how)


@THEME.claim("project", "simulation", Verdict.PASS)
def budget_adds_up_to_the_gap() -> Evidence:
    """The five terms of the budget add up to the gap end to end, and that is what 100,000 simulated pairs show (w = 3,
    50 ODE steps against 10 SDE steps).
    """
    found, n = budget(3.0, 10), 100_000
    model, process, how = setting(3.0, 10)
    ends = [
        gb.simulate(model, at, name, eta, steps, n, 4, grid="leading").samples
        for at, name, eta, steps in ((process, "ddim", 0.0, 50), (how["sde_process"], "gddim", 1.0, 10))
    ]
    difference = (REWARD(ends[0]) - REWARD(ends[1])).double().numpy()
    error = difference.std(ddof=1) / math.sqrt(n)
    far = gb.discrete_law(model, process, "stochastic-heun", 0.0, 4000)
    limit = float(REWARD.expectation(far))
    return evidence(
        near("sum of the terms less the total", sum(found.terms.values()) - found.total, 0, 1e-12),
        sampled("gap", difference.mean(), found.total, error),
        near("ODE's integrator, its limit by 4000 steps of Heun", found.ode - limit, found.ode_integrator, 2e-3),
    )


@THEME.claim("theory 7", "numerical", Verdict.QUALIFIED, condition="guidance of 3 or more")
def guidance_is_the_largest_part() -> Evidence:
    """Guidance is the largest part of the gap on Stable Diffusion's schedule (Gaussian stand-ins, eta = 1)."""

    def lead(scale: float, steps: int) -> Check:
        terms = {name: abs(float(value)) for name, value in budget(scale, steps).terms.items()}
        own = terms.pop("guidance")
        label = f"w = {scale:g}, {steps} SDE steps: |guidance| over the next largest"
        return at_least(label, own / max(terms.values()), 1)

    return evidence(lead(3.0, 50), lead(3.0, 10), lead(7.5, 50), outside=[lead(1.0, 50), lead(1.2, 10)])


@THEME.claim("theory 6", "numerical", Verdict.QUALIFIED, condition="20 SDE steps or fewer, no guidance")
def discretisation_dominates_the_gap() -> Evidence:
    """At RL's step counts discretisation makes the largest part of the gap (SD 1.5's schedule, 50 ODE steps)."""

    def share(scale: float, steps: int) -> Check:
        terms = {name: abs(float(value)) for name, value in budget(scale, steps).terms.items()}
        label = f"w = {scale:g}, {steps} SDE steps: |SDE integrator| over the next largest"
        return at_least(label, terms.pop("sde_integrator") / max(terms.values()), 1)

    return evidence(share(1.0, 10), share(1.0, 20), outside=[share(3.0, 10), share(3.0, 50)])


@THEME.claim("project", "numerical", Verdict.QUALIFIED, condition="no guidance")
def terms_do_not_depend_on_their_order() -> Evidence:
    """Fine-tuning makes the same part of the gap with guidance as without: the order of splitting does not matter."""

    def check(scale: float) -> Check:
        process = gb.VP.stable_diffusion(50, "leading")
        gaps = [float(gb.reward_gap(one, process, REWARD, 1.0)) for one in (TUNED, CONDITIONAL)]
        guided = [
            float(gb.reward_gap(gb.guided(UNCONDITIONAL, one, scale), process, REWARD, 1.0))
            for one in (TUNED, CONDITIONAL)
        ]
        return near(f"w = {scale:g}: fine-tuning guided less unguided", guided[0] - guided[1], gaps[0] - gaps[1], 1e-6)

    return evidence(check(1.0), outside=check(3.0))
