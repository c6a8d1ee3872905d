"""Theory 7: classifier-free guidance makes a gap of its own, without training, mismatch or integrator."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp

import gapbound as gb
from analysis.ledger.claim import Evidence, Theme, Verdict, as_printed, at_least, at_most, evidence, near, sampled
from analysis.ledger.tools import moments, vp_at, worst

THEME = Theme("Guidance")
UNCONDITIONAL, CONDITIONAL = gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5)
PROCESS = vp_at(1000.0)
REWARD = gb.Quadratic(1.0, 1.0)


def law(scale: float, eta: float, process: gb.Process = PROCESS) -> tuple[float, float]:
    """Mean and variance that the sampler with guidance ``scale`` ends in."""
    return moments(gb.terminal_law(gb.guided(UNCONDITIONAL, CONDITIONAL, scale), process, eta))


def integrated(scale: float, eta: float) -> tuple[float, float]:
    """The same from the moment equations of the guided score, integrated in log tau from sigma_T = 1000."""
    top = float(PROCESS.sigma_T) ** 2

    def change(u: float, state: np.ndarray) -> list[float]:
        tau = np.exp(-u)
        gain = (1 - scale) / (1 + tau) + scale / (0.5 + tau)
        offset, c = scale / (0.5 + tau), (1 + eta**2) / 2
        return [tau * c * (offset - gain * state[0]), tau * (eta**2 - 2 * c * gain * state[1])]

    span = (-np.log(top), -np.log(1e-9))
    end = solve_ivp(change, span, [0.0, 1 + top], method="LSODA", rtol=1e-11, atol=1e-12).y[:, -1]
    return end[0], end[1]


SAID = {
    3.0: {"ODE": ("2.00", ".125"), "SDE": ("1.75", ".194"), "tilted": ("1.5", ".25")},
    7.5: {"ODE": ("2.40", ".0055"), "SDE": ("1.99", ".071"), "tilted": ("1.76", ".118")},
}


@THEME.claim("theory 7", "numerical", Verdict.PASS)
def table_of_guided_laws() -> Evidence:
    """Unconditional N(0, 1), conditional N(1, .5), sigma_T = 1000. w = 3: ODE N(2.00, .125), SDE(1) N(1.75, .194),
    tilted density N(1.5, .25); w = 7.5: N(2.40, .0055), N(1.99, .071), N(1.76, .118).
    """
    checks = []
    for w, rows in SAID.items():
        precision = (1 - w) / 1.0 + w / 0.5
        found = {"ODE": law(w, 0.0), "SDE": law(w, 1.0), "tilted": (w / 0.5 / precision, 1 / precision)}
        for name, printed in rows.items():
            for what, value, said in zip(("mean", "variance"), found[name], printed, strict=True):
                checks.append(as_printed(f"w = {w:g}, {name}: {what}", value, said))
        for eta in (0.0, 1.0):
            checks.append(
                at_most(f"against the moment equations, {eta:g}", worst(law(w, eta), integrated(w, eta)), 1e-6)
            )
    return evidence(*checks)


@THEME.claim("theory 7", "numerical", Verdict.QUALIFIED, condition="w is 0 or 1")
def guided_samplers_agree_at_large_sigma() -> Evidence:
    """For sigma_T -> inf the ODE and the SDE of a guided model have the same law: no gap is left."""
    far = vp_at(1e9)

    def distance(w: float) -> float:
        return worst(law(w, 0.0, far), law(w, 1.0, far))

    return evidence(
        at_most("w = 1", distance(1.0), 1e-6),
        at_most("w = 0", distance(0.0), 1e-6),
        outside=[at_most("w = 3", distance(3.0), 1e-6), at_most("w = 7.5", distance(7.5), 1e-6)],
    )


@THEME.claim("theory 7", "numerical", Verdict.PASS)
def guidance_gap_is_no_integrator_error() -> Evidence:
    """The gap at w = 3 stays as N -> inf: Heun's chains converge to it, not to 0."""
    model = gb.guided(UNCONDITIONAL, CONDITIONAL, 3.0)
    process = vp_at(100.0)
    exact = float(gb.reward_gap(model, process, REWARD, 1.0))
    gaps = []
    for steps in (200, 400):
        ode, sde = (
            float(REWARD.expectation(gb.discrete_law(model, process, "stochastic-heun", eta, steps, grid="karras")))
            for eta in (0.0, 1.0)
        )
        gaps.append(ode - sde)
    return evidence(
        at_most("|chain - continuous|, 400 steps", abs(gaps[1] - exact), 1e-3),
        at_most("its share of that at 200 steps", abs((gaps[1] - exact) / (gaps[0] - exact)), 0.5),
        at_least("|gap|", abs(exact), 0.1),
    )


@THEME.claim("theory 7", "simulation", Verdict.PASS)
def guidance_gap_by_simulation() -> Evidence:
    """A simulation of 20,000 pairs finds the exact gap of the chain at w = 3 within 4 standard errors."""
    model, process, steps = gb.guided(UNCONDITIONAL, CONDITIONAL, 3.0), vp_at(14.6), 40
    how = {"sampler": "stochastic-heun", "steps": steps, "grid": "karras"}
    found = gb.estimate_gap(model, process, REWARD, 1.0, n=20_000, seed=4, **how)
    ode, sde = (float(REWARD.expectation(gb.discrete_law(model, process, eta=eta, **how))) for eta in (0.0, 1.0))
    return evidence(
        sampled("gap", found.gap, ode - sde, found.standard_error),
        near("reward of w = 1 less that of the data", _far_reward(1.0), float(REWARD.expectation(CONDITIONAL)), 1e-5),
    )


def _far_reward(scale: float) -> float:
    mean, variance = law(scale, 1.0)
    return float(REWARD.expectation(gb.Gaussian(mean, variance)))
