"""Theory 6: one-step kernels, their orders, what they admit and what they do to marginals at few steps."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import gapbound as gb
from analysis.ledger.claim import (
    Check,
    Evidence,
    Theme,
    Verdict,
    as_printed,
    at_least,
    at_most,
    evidence,
    near,
    refused,
    sampled,
    true,
)  # fmt: skip
from analysis.ledger.tools import moments, order, vp_at, worst
from gapbound.kernel import SAMPLERS, step

THEME = Theme("Samplers")
TARGET, PROCESS = gb.Gaussian(0.7, 0.5), vp_at(5.0)
PAIRS = [(14.61, 8.0), (3.0, 2.9), (1.0, 0.2), (0.5, 0.01)]  # steps sigma -> sigma'


def difference(one: tuple[str, float], other: tuple[str, float]) -> float:
    """Largest difference of two kernels' coefficients over ``PAIRS``, each a sampler and an eta."""
    found = []
    for sigma, sigma_next in PAIRS:
        a, b = (step(name, sigma, sigma_next, np.asarray(eta), np.zeros(1)) for name, eta in (one, other))
        found.append(max(worst(a.carry, b.carry), worst(a.std, b.std)))
    return max(found)


@THEME.claim("theory 6", "numerical", Verdict.QUALIFIED, condition="eta is 0 or 1")
def gddim_is_ddim() -> Evidence:
    """gDDIM and DDIM take the same step."""
    return evidence(
        at_most("eta = 0", difference(("gddim", 0.0), ("ddim", 0.0)), 1e-14),
        at_most("eta = 1", difference(("gddim", 1.0), ("ddim", 1.0)), 1e-14),
        outside=at_most("eta = 0.5", difference(("gddim", 0.5), ("ddim", 0.5)), 1e-14),
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def gddim_is_the_exact_kernel_of_a_point() -> Evidence:
    """gDDIM is the exact-marginal kernel at v = 0: at v = 1e-14 their coefficients agree."""
    found = []
    for eta in (0.5, 1.0, 2.0):
        for sigma, sigma_next in PAIRS:
            a = step("gddim", sigma, sigma_next, np.asarray(eta))
            b = step("exact", sigma, sigma_next, np.asarray(eta), np.full(1, 1e-14))
            found.append(max(worst(a.carry, b.carry), worst(a.std, b.std)))
    return evidence(at_most("largest difference", max(found), 1e-9))


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def gddim_renoises_at_large_eta() -> Evidence:
    """As eta -> inf gDDIM re-noises completely: z' = D + sigma' xi."""
    kernel = step("gddim", 1.0, 0.2, np.asarray(100.0))
    return evidence(near("carry", kernel.carry, 0, 1e-12), near("std", kernel.std, 0.2, 1e-12))


def noise_left(name: str, eta: float) -> float:
    """Largest relative error of the variance after one step from N(m, sigma^2): the law of a point, noised."""
    found = []
    for sigma, sigma_next in PAIRS:
        kernel = step(name, sigma, sigma_next, np.asarray(eta))
        found.append(abs(float((kernel.carry**2 + kernel.std**2) / sigma_next**2) - 1))
    return max(found)


@THEME.claim("theory 6", "numerical", Verdict.QUALIFIED, condition="point targets (v = 0), DDIM or gDDIM")
def marginals_are_preserved() -> Evidence:
    """A sampler started from q_T keeps the marginals at any step count."""
    wide = gb.Gaussian(0.0, 1.0)  # the VP prior is its q_T
    left = abs(float(gb.discrete_law(wide, PROCESS, "gddim", 1.0, 10).cov[0]) - 1)
    return evidence(
        at_most("gDDIM, eta = 1.5", noise_left("gddim", 1.5), 1e-12),
        at_most("DDIM, eta = 0.7", noise_left("ddim", 0.7), 1e-12),
        outside=[
            at_most("Euler-Maruyama, eta = 1", noise_left("euler-maruyama", 1.0), 1e-12),
            at_most("gDDIM on N(0, 1), 10 steps", left, 1e-12),
        ],
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def marginals_are_preserved_to_first_order() -> Evidence:
    """Off point targets gDDIM keeps marginals to first order in the step: on N(0, 1) the variance's error falls like
    1/N.
    """
    steps, wide, t_min = (400, 800, 1600), gb.Gaussian(0.0, 1.0), 0.1
    exact = 1 + float(PROCESS.sigma(t_min)) ** 2
    checks = []
    for eta in (0.0, 1.0, 1.5):
        laws = [gb.discrete_law(wide, PROCESS, "gddim", eta, n, grid="log-sigma", t_min=t_min) for n in steps]
        errors = [float(law.cov[0]) - exact for law in laws]
        checks.append(near(f"order, eta = {eta:g}", order(steps, errors), 1, 0.02))
    return evidence(*checks)


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def exact_kernel_has_no_error() -> Evidence:
    """The exact-marginal kernel ends in the continuous-time law at any step count, for every eta."""
    return evidence(
        *(
            at_most(
                f"{n} steps, eta = {eta:g}",
                worst(
                    moments(gb.discrete_law(TARGET, PROCESS, "exact", eta, n)),
                    moments(gb.terminal_law(TARGET, PROCESS, eta)),
                ),
                1e-13,
            )
            for n in (1, 3, 10)
            for eta in (0.0, 0.5, 2.0)
        )
    )


ORDERS = {"ddim": 1, "gddim": 1, "euler-maruyama": 1, "flow-grpo": 1, "heun": 2, "stochastic-heun": 2}


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def weak_orders() -> Evidence:
    """DDIM, gDDIM, Euler-Maruyama and Flow-GRPO's step have weak order 1, Heun and stochastic Heun 2 (exact chains,
    log-sigma steps).
    """
    steps = (400, 800, 1600)
    process = gb.VE(5.0)
    checks = []
    for name, declared in ORDERS.items():
        for eta in (0.0,) if name == "heun" else (0.5, 1.0):
            exact = moments(gb.terminal_law(TARGET, process, eta, 0.3))
            errors = [
                moments(gb.discrete_law(TARGET, process, name, eta, n, grid="log-sigma", t_min=0.3))[1] - exact[1]
                for n in steps
            ]
            checks.append(near(f"{name}, eta = {eta:g}", order(steps, errors), declared, 0.03))
    return evidence(*checks)


@THEME.claim(
    "theory 6", "numerical", Verdict.QUALIFIED, condition="marginals, of a chain that starts in q_T; or the ODE"
)
def edm_has_order_2() -> Evidence:
    """EDM's stochastic sampler (churn, then Heun) has weak order 2."""
    steps, process, wide = (200, 400, 800), gb.VE(5.0), gb.Gaussian(0.0, 1.0)

    def errors(target: gb.Gaussian, at: gb.Process, eta: float, which: int) -> list[float]:
        exact = moments(gb.terminal_law(target, at, eta, 0.3))[which]
        chains = (gb.discrete_law(target, at, "edm", eta, n, grid="log-sigma", t_min=0.3) for n in steps)
        return [moments(chain)[which] - exact for chain in chains]

    marginal = errors(wide, PROCESS, 0.9, 1)  # the VP prior is the q_T of N(0, 1)
    return evidence(
        near("order, variance from q_T", order(steps, marginal), 2, 0.05),
        near("order, the ODE's mean", order(steps, errors(TARGET, process, 0.0, 0)), 2, 0.05),
        outside=near("order, the start's mean", order(steps, errors(TARGET, process, 0.9, 0)), 2, 0.05),
    )


def dance_limit(e: float, start: float, end: float) -> tuple[float, float]:
    """Mean and variance at ``end`` in continuous time with eta^2 = e^2/(2 sigma) (VE), by the moment equations."""
    m, v = moments(TARGET)

    def change(s: float, x: Any) -> list[float]:
        sigma = math.exp(s)
        square, per = e**2 / (2 * sigma), 2 * sigma**2  # dtau = per ds
        c = (1 + square) / 2
        return [per * c * (x[0] - m) / (v + sigma**2), per * (2 * c * x[1] / (v + sigma**2) - square)]

    found = solve_ivp(change, (math.log(start), math.log(end)), [0.0, start**2], method="DOP853", rtol=1e-11)
    return float(found.y[0, -1]), float(found.y[1, -1])


@THEME.claim("theory 6", "numerical", Verdict.QUALIFIED, condition="every sampler but CPS")
def samplers_converge() -> Evidence:
    """Every sampler of the library tends to its law in continuous time as N grows, its noise level held (1600 steps: to
    1 % of the variance).
    """
    process, own = gb.VE(5.0), {"dance-grpo": 0.7, "cps": 0.5, "heun": 0.0}
    checks = []
    for name in SAMPLERS:
        eta = own.get(name, 0.9)
        limit = (
            dance_limit(eta, 5.0, 0.3) if name == "dance-grpo" else moments(gb.terminal_law(TARGET, process, eta, 0.3))
        )
        if name == "cps":
            limit = 0.7, 0.5 + 0.3**2  # of any eta that grows without bound
        chain = gb.discrete_law(TARGET, process, name, eta, 1600, grid="log-sigma", t_min=0.3)
        checks.append(at_most(f"{name}, largest error of a moment over v", worst(moments(chain), limit) / 0.5, 0.01))
    *inside, cps = sorted(checks, key=lambda check: check.what.startswith("cps"))
    return evidence(*inside, outside=cps)


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def gddim_in_the_form_of_alpha_bar() -> Evidence:
    """In x, gDDIM's variance is (1 - ab')[1 - ((1 - ab')/(1 - ab))^(eta^2) (ab/ab')^(eta^2)], ab = alpha_bar."""
    worst_found = 0.0
    for (sigma, sigma_next), eta in itertools.product(PAIRS, (0.5, 1.0, 1.5)):
        ab, ab_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        said = (1 - ab_next) * (1 - ((1 - ab_next) / (1 - ab)) ** (eta**2) * (ab / ab_next) ** (eta**2))
        std = float(step("gddim", sigma, sigma_next, np.asarray(eta)).std)
        worst_found = max(worst_found, abs(ab_next * std**2 - said))
    return evidence(at_most("largest difference", worst_found, 1e-14))


def largest_eta(steps: int) -> float:
    """What the widest noisy step of "leading" spacing on SD 1.5 admits: eta^2 (1 - sigma'^2/sigma^2) <= 1."""
    sigma = gb.grid(gb.VP.stable_diffusion(steps), steps, "leading")
    share = 1 - (sigma[1:] / sigma[:-1]) ** 2
    return float(1 / np.sqrt(share[sigma[1:] > 0].max()))


ADMITTED = {10: "1.007", 20: "1.017", 50: "1.046", 100: "1.092", 250: "1.22", 500: "1.41", 999: "1.41"}


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def admissible_eta_of_ddim() -> Evidence:
    """On SD 1.5 ("leading", offset 1) DDIM admits at most eta = 1.007, 1.017, 1.046, 1.092, 1.22, 1.41, 1.41 at 10, 20,
    50, 100, 250, 500, 999 steps; beyond, the library refuses and names gDDIM.
    """

    def run(steps: int, eta: float) -> Any:
        return gb.discrete_law(TARGET, gb.VP.stable_diffusion(steps), "ddim", eta, steps, grid="leading")

    checks = []
    for steps, said in ADMITTED.items():
        limit = largest_eta(steps)
        checks.append(as_printed(f"{steps} steps", limit, said))
        run(steps, limit * (1 - 1e-6))
        beyond = partial(run, steps, limit * (1 + 1e-6))
        checks.append(refused(f"{steps} steps, a millionth more", beyond, "use sampler='gddim'"))
    return evidence(*checks)


@THEME.claim("paper", "numerical", Verdict.QUALIFIED, condition="250 steps or more for 1.2, and no step count for 1.5")
def ddim_serves_the_etas_of_the_paper() -> Evidence:
    """DDIM's variance exists at the eta > 1 used (1.2) on SD 1.5's schedule: otherwise gDDIM is required."""
    return evidence(
        at_least("admitted, 250 steps", largest_eta(250), 1.2),
        outside=[
            at_least("admitted, 50 steps", largest_eta(50), 1.2),
            at_least("admitted for 1.5, 999 steps", largest_eta(999), 1.5),
        ],
    )


@THEME.claim("theory 6", "numerical", Verdict.QUALIFIED, condition="eta = 1")
def gddim_carries_the_mean() -> Evidence:
    """gDDIM ends in the mean of continuous time for any number of steps."""

    def error(eta: float, steps: int) -> float:
        chain = gb.discrete_law(TARGET, PROCESS, "gddim", eta, steps, grid="sigma")
        return abs(float(chain.mean[0] - gb.terminal_law(TARGET, PROCESS, eta).mean[0]))

    return evidence(
        *(at_most(f"{n} steps", error(1.0, n), 1e-14) for n in (1, 3, 10, 100)),
        outside=[at_most("eta = 0.5, 10 steps", error(0.5, 10), 1e-14), at_most("the ODE", error(0.0, 10), 1e-14)],
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def few_steps_lose_variance() -> Evidence:
    """At 10 steps uniform in sigma (m = .7, v = .5, sigma_T = 5, VP) the variances are .288/.232/.197 at eta = 0/1/1.5,
    where continuous time has .510/.500/.500: discretisation dominates the gap.
    """
    said = {0.0: ("0.288", "0.510"), 1.0: ("0.232", "0.500"), 1.5: ("0.197", "0.500")}
    checks: list[Check] = []
    for eta, (few, exact) in said.items():
        chain = gb.discrete_law(TARGET, PROCESS, "gddim", eta, 10, grid="sigma")
        checks.append(as_printed(f"10 steps, eta = {eta:g}", chain.cov[0], few))
        checks.append(as_printed(f"continuous, eta = {eta:g}", gb.terminal_law(TARGET, PROCESS, eta).cov[0], exact))
    lost = 0.5 - float(gb.discrete_law(TARGET, PROCESS, "gddim", 1.0, 10, grid="sigma").cov[0])
    left = float(gb.terminal_law(TARGET, PROCESS, 0.0).cov[0] - gb.terminal_law(TARGET, PROCESS, 1.0).cov[0])
    return evidence(*checks, at_least("variance lost over the continuous-time difference", lost / left, 20))


@THEME.claim("theory 6", "simulation", Verdict.PASS)
def deterministic_steps_have_no_density() -> Evidence:
    """A step to sigma' = 0 and every eta = 0 step has no log-probability; any other has that of its Gaussian."""
    run = gb.simulate(TARGET, PROCESS, "gddim", 1.0, 4, 2000, 3, trajectory=True, log_prob=True)
    ode = gb.simulate(TARGET, PROCESS, "gddim", 0.0, 4, 10, 3, log_prob=True)
    assert run.log_prob is not None
    assert ode.log_prob is not None
    density = run.log_prob[0]
    assert density is not None
    std = float(step("gddim", run.sigmas[0], run.sigmas[1], np.asarray(1.0)).std)
    entropy = math.log(std) + (1 + math.log(2 * math.pi)) / 2
    return evidence(
        near("densities of 4 SDE steps", sum(p is not None for p in run.log_prob), 3, 0),
        near("densities of 4 ODE steps", sum(p is not None for p in ode.log_prob), 0, 0),
        true("the step to 0 has none", run.log_prob[-1] is None),
        sampled("mean log-density of the first step", density.mean(), -entropy, math.sqrt(0.5 / 2000)),
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def last_step_of_stable_diffusion_has_a_density() -> Evidence:
    """SD 1.5's last step, to sigma = .0292, does have a log-probability: its noise has std about .02 eta."""
    levels = gb.grid(gb.VP.stable_diffusion(50), 50, "leading")
    return evidence(
        *(
            near(f"std / eta, eta = {eta:g}", step("gddim", *levels[-2:], np.asarray(eta)).std / eta, 0.02, 0.005)
            for eta in (0.5, 1.0, 1.5)
        )
    )
