"""What an end-to-end gap is made of: integrators, fine-tuning, guidance and the start, in that order."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from functools import cache
from typing import Any

import gapbound as gb
from analysis.ledger.claim import Check, Evidence, Theme, Verdict, at_least, evidence, near, perturbed, sampled
from analysis.ledger.tools import over

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


@cache
def budget(scale: float, steps: int) -> gb.GapBudget:
    """The budget of such a pair of runs."""
    model, process, how = setting(scale, steps)
    return gb.gap_budget(model, process, REWARD, **how)


@THEME.claim(
    "project",
    "simulation",
    Verdict.PASS,
    refuted_by=(
        perturbed("The terms add up without that of the start.", without=("initial_mismatch",)),
        perturbed("The pairs show the gap against 12 SDE steps.", steps=12),
    ),
)
def budget_adds_up_to_the_gap(without: tuple[str, ...] = (), steps: int = 10) -> Evidence:
    """The five terms of the budget add up to the gap end to end, and that is what 100,000 simulated pairs show (w = 3,
    50 ODE steps against 10 SDE steps).
    """
    found, n = budget(3.0, steps), 100_000
    model, process, how = setting(3.0, 10)
    ends = [
        gb.simulate(model, at, name, eta, steps, n, 4, grid="leading").samples
        for at, name, eta, steps in ((process, "ddim", 0.0, 50), (how["sde_process"], "gddim", 1.0, 10))
    ]
    difference = (REWARD(ends[0]) - REWARD(ends[1])).double().numpy()
    error = difference.std(ddof=1) / math.sqrt(n)
    far = gb.discrete_law(model, process, "stochastic-heun", 0.0, 4000)
    limit = float(REWARD.expectation(far))
    total = sum(float(value) for name, value in found.terms.items() if name not in without)
    return evidence(
        near("sum of the terms less the total", total - found.total, 0, 1e-12),
        sampled("gap", difference.mean(), found.total, error),
        near("ODE's integrator, its limit by 4000 steps of Heun", found.ode - limit, found.ode_integrator, 2e-3),
    )


GRID = {"scale": (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.5), "steps": (5, 10, 20, 40)}


def lead(name: str, scale: float, steps: int) -> Check:
    """Whether a term is the largest."""
    terms = {term: abs(float(value)) for term, value in budget(scale, steps).terms.items()}
    own = terms.pop(name)
    return at_least(f"w = {scale:g}, {steps} SDE steps: |{name}| over the next largest", own / max(terms.values()), 1)


@THEME.claim(
    "theory 7",
    "numerical",
    Verdict.QUALIFIED,
    condition="guidance of 3 or more, and 10 SDE steps or more",
    refuted_by=(
        perturbed("Guidance of 1.5 is enough.", least=1.5),
        perturbed("5 SDE steps are enough.", fewest=5),
    ),
)
def guidance_is_the_largest_part(least: float = 3.0, fewest: int = 10) -> Evidence:
    """Guidance is the largest part of the gap on Stable Diffusion's schedule (Gaussian stand-ins, eta = 1, 50 ODE
    steps).
    """
    return over(
        GRID,
        lambda scale, steps: lead("guidance", scale, steps),
        lambda scale, steps: scale >= least and steps >= fewest,
    )


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="20 SDE steps or fewer, guidance of 1.5 or less",
    refuted_by=(
        perturbed("40 SDE steps are few enough.", most=40),
        perturbed("Guidance of 2 is little enough.", weakest=2.0),
    ),
)
def discretisation_dominates_the_gap(most: int = 20, weakest: float = 1.5) -> Evidence:
    """At RL's step counts the SDE's discretisation makes the largest part of the gap (SD 1.5's schedule, 50 ODE
    steps).
    """
    return over(
        GRID,
        lambda scale, steps: lead("sde_integrator", scale, steps),
        lambda scale, steps: scale <= weakest and steps <= most,
    )


@THEME.claim(
    "project",
    "numerical",
    Verdict.QUALIFIED,
    condition="no guidance",
    refuted_by=perturbed("Little guidance (w = 1.2) does no harm.", weakest=1.2),
)
def terms_do_not_depend_on_their_order(weakest: float = 1.0) -> Evidence:
    """Fine-tuning makes the same part of the gap with guidance as without: the order of splitting does not matter."""
    process = gb.VP.stable_diffusion(50, "leading")

    def part(*models: Any) -> float:
        tuned, reference = (float(gb.reward_gap(one, process, REWARD, 1.0)) for one in models)
        return tuned - reference

    def check(scale: float) -> Check:
        guided = part(*(gb.guided(UNCONDITIONAL, one, scale) for one in (TUNED, CONDITIONAL)))
        return near(f"w = {scale:g}: fine-tuning guided and unguided", guided, part(TUNED, CONDITIONAL), 1e-6)

    return over({"scale": GRID["scale"]}, check, lambda scale: scale <= weakest)
