"""Theory 6: what other libraries call eta, in our units: eta multiplies the standard deviation of dW in z and tau."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

import gapbound as gb
from analysis.ledger.claim import Evidence, Theme, Verdict, at_least, at_most, evidence, near, true
from analysis.ledger.tools import order
from gapbound.kernel import step

THEME = Theme("Units of other libraries")
t, eta, a, e = sp.symbols("t eta a e", positive=True)
high, low = 2.0, 1.9  # one step sigma -> sigma'


def own_noise(value: float) -> float:
    """Variance of gDDIM's noise in that step, over sigma'^2."""
    return float(step("gddim", high, low, np.asarray(value)).std) ** 2 / low**2


def in_flow_coordinates() -> Any:
    """d tau / dt over the square of the scale's inverse: eta^2 dtau in z is this times eta^2 dt in x = (1 - t) z."""
    return sp.simplify(sp.diff((t / (1 - t)) ** 2, t) * (1 - t) ** 2)


@THEME.claim("theory 6", "numerical", Verdict.QUALIFIED, condition="eta is 0 or 1")
def ddim_eta_is_ours() -> Evidence:
    """DDIM's eta_D, 1 - k^2 = eta_D^2 (1 - (sigma'/sigma)^2), is our eta."""

    def gap(value: float) -> float:
        return abs(value**2 * (1 - (low / high) ** 2) - own_noise(value))

    return evidence(
        at_most("difference of the noise, eta = 0", gap(0.0), 1e-14),
        at_most("difference of the noise, eta = 1", gap(1.0), 1e-14),
        outside=[at_most("eta = 0.5", gap(0.5), 1e-14), at_most("eta = 1.2", gap(1.2), 1e-14)],
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def k_diffusion_eta_is_the_square_of_ours() -> Evidence:
    """The eta of k-diffusion's dpmpp_2m_sde, whose noise is sigma' sqrt(1 - exp(-2 eta_k h)) with h =
    log(sigma/sigma'), is our eta^2; SA-Solver's tau, with noise sigma' sqrt(1 - exp(-2 tau^2 h)), is our eta.
    """
    h, value = math.log(high / low), 1.3
    return evidence(
        near("noise at eta_k = eta^2", -math.expm1(-2 * value**2 * h), own_noise(value), 1e-14),
        at_least("miss at eta_k = eta", abs(-math.expm1(-2 * value * h) - own_noise(value)), 0.01),
    )


@THEME.claim("theory 6", "symbolic", Verdict.PASS)
def flow_grpo_level_is_root_two_eta() -> Evidence:
    """Flow-GRPO's noise level a, sigma_t = a sqrt(t/(1 - t)) in dx = ... + sigma_t dW, is sqrt(2) eta."""
    found = sp.simplify(a**2 * t / (1 - t) - in_flow_coordinates() * eta**2).subs(a, sp.sqrt(2) * eta)
    return evidence(true("noise variances are equal", sp.simplify(found) == 0))


@THEME.claim("theory 6", "symbolic", Verdict.PASS)
def dance_grpo_constant() -> Evidence:
    """DanceGRPO's constant noise e dW in x is eta(t)^2 = e^2 (1 - t)/(2t)."""
    solved = sp.solve(sp.Eq(e**2, in_flow_coordinates() * eta**2), eta**2)[0]
    return evidence(true("derived eta^2 is as stated", sp.simplify(solved - e**2 * (1 - t) / (2 * t)) == 0))


def end_variance(k: Callable[[float, float], float], steps: int) -> float:
    """Variance at sigma' = 0.02 on N(0, 0.5) from q_T, with steps z' = D + sigma' (k eps + sqrt(1 - k^2) xi)."""
    v, sigma = 0.5, np.geomspace(5.0, 0.02, steps + 1)
    variance = v + sigma[0] ** 2
    for s, s_next in itertools.pairwise(sigma):
        share = k(s, s_next)
        variance *= (v / (v + s**2) + s_next * share * s / (v + s**2)) ** 2
        variance += s_next**2 * (1 - share**2)
    return float(variance)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="k tends to 1 with the step, as gDDIM's does",
)
def fixed_shares_converge_to_the_data() -> Evidence:
    """Samplers z' = D + sigma' (k eps + sqrt(1 - k^2) xi) converge to the data law, at order 1 in 1/N; CPS has k =
    cos(pi eta_C/2) in every step (here eta_C = 0.5).
    """
    steps, exact = (400, 800, 1600), 0.5 + 0.02**2

    def errors(k: Callable[[float, float], float]) -> list[float]:
        return [end_variance(k, n) - exact for n in steps]

    cps = errors(lambda s, s_next: math.cos(math.pi / 4))
    gddim = errors(lambda s, s_next: s_next / s)
    return evidence(
        near("order, gDDIM at eta = 1", order(steps, gddim), 1, 0.05),
        at_most("relative error at 1600 steps, gDDIM", abs(gddim[-1]) / exact, 0.01),
        outside=[
            near("order, CPS", order(steps, cps), 1, 0.05),
            at_most("relative error at 1600 steps, CPS", abs(cps[-1]) / exact, 0.01),
        ],
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def flow_step_is_the_same_kernel() -> Evidence:
    """For flow matching x' = (1 - t') D + t' k eps + t' sqrt(1 - k^2) xi with sigma = t/(1 - t): the gDDIM step times
    s'.
    """
    flow, times, value = gb.FlowMatching(0.98), (0.8, 0.5), 1.5
    sigma, sigma_next = (float(flow.sigma(x)) for x in times)
    kernel, scale = step("gddim", sigma, sigma_next, np.asarray(value)), float(flow.scale(times[1]))
    k = (sigma_next / sigma) ** (value**2)
    return evidence(
        near("scale of D", scale, 1 - times[1], 1e-15),
        near("factor of eps", scale * kernel.carry, times[1] * k, 1e-14),
        near("factor of xi", scale * kernel.std, times[1] * math.sqrt(1 - k**2), 1e-14),
    )
