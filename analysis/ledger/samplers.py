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
    perturbed,
    refused,
    sampled,
    true,
)  # fmt: skip
from analysis.ledger.tools import moments, order, over, vp_at, worst
from gapbound.kernel import SAMPLERS, step

THEME = Theme("Samplers")
TARGET, PROCESS = gb.Gaussian(0.7, 0.5), vp_at(5.0)
PAIRS = [(14.61, 8.0), (3.0, 2.9), (1.0, 0.2), (0.5, 0.01)]  # steps sigma -> sigma'


def difference(one: str, other: str, eta: float, v: float = 0.0) -> float:
    """Largest difference of two samplers' coefficients over ``PAIRS``, on a law of variance v."""
    found = []
    for sigma, sigma_next in PAIRS:
        a, b = (step(name, sigma, sigma_next, np.asarray(eta), np.full(1, v)) for name in (one, other))
        found.append(max(worst(a.carry, b.carry), worst(a.std, b.std)))
    return max(found)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="eta is 0 or 1",
    refuted_by=perturbed("They take the same step at eta = .9 too.", same=(0.0, 0.9, 1.0)),
)
def gddim_is_ddim(same: tuple[float, ...] = (0.0, 1.0)) -> Evidence:
    """gDDIM and DDIM take the same step."""

    def check(eta: float) -> Check:
        return at_most(f"largest difference, eta = {eta:g}", difference("gddim", "ddim", eta), 1e-14)

    return over({"eta": (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)}, check, lambda eta: eta in same)


@THEME.claim(
    "theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("It is that of a narrow law, v = .001.", v=1e-3)
)
def gddim_is_the_exact_kernel_of_a_point(v: float = 1e-14) -> Evidence:
    """gDDIM is the exact-marginal kernel at v = 0: at v = 1e-14 their coefficients agree."""
    found = max(difference("gddim", "exact", eta, v) for eta in (0.5, 1.0, 2.0))
    return evidence(at_most("largest difference", found, 1e-9))


@THEME.claim(
    "theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("It leaves the noise of .99 sigma'.", factor=0.99)
)
def gddim_renoises_at_large_eta(factor: float = 1.0) -> Evidence:
    """As eta -> inf gDDIM re-noises completely: z' = D + sigma' xi (eta = 100)."""
    kernel = step("gddim", 1.0, 0.2, np.asarray(100.0))
    return evidence(near("carry", kernel.carry, 0, 1e-12), near("std", kernel.std, factor * 0.2, 1e-12))


def noise_left(name: str, eta: float, v: float) -> float:
    """Largest relative error of the variance after one step z' = D + carry eps + std xi on N(m, v), from q_sigma."""
    found = []
    for sigma, sigma_next in PAIRS:
        kernel, before = step(name, sigma, sigma_next, np.asarray(eta)), v + sigma**2
        kept = (v + float(kernel.carry) * sigma) / before
        found.append(abs((kept**2 * before + float(kernel.std) ** 2) / (v + sigma_next**2) - 1))
    return max(found)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="point targets (v = 0), DDIM or gDDIM",
    refuted_by=(
        perturbed("Narrow targets (v = .001) are enough.", widest=1e-3),
        perturbed("Euler-Maruyama does it too.", keeping=("gddim", "euler-maruyama")),
    ),
)
def marginals_are_preserved(widest: float = 0.0, keeping: tuple[str, ...] = ("gddim", "ddim")) -> Evidence:
    """A sampler started from q_T keeps the marginals at any step count (variance after single steps of four sizes)."""

    def check(name: str, eta: float, v: float) -> Check:
        return at_most(f"error of the variance, {name}, eta = {eta:g}, v = {v:g}", noise_left(name, eta, v), 1e-12)

    axes = {"name": ("gddim", "ddim", "euler-maruyama"), "eta": (0.0, 0.5, 1.0), "v": (0.0, 1e-3, 0.1, 1.0)}
    return over(axes, check, lambda name, eta, v: name in keeping and v <= widest)


@THEME.claim("theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("It falls like N^-1.1.", claimed=1.1))
def marginals_are_preserved_to_first_order(claimed: float = 1.0) -> Evidence:
    """Off point targets gDDIM keeps marginals to first order in the step: on N(0, 1) the variance's error falls like
    1/N.
    """
    steps, wide, t_min = (400, 800, 1600), gb.Gaussian(0.0, 1.0), 0.1
    exact = 1 + float(PROCESS.sigma(t_min)) ** 2
    checks = []
    for eta in (0.0, 1.0, 1.5):
        laws = [gb.discrete_law(wide, PROCESS, "gddim", eta, n, grid="log-sigma", t_min=t_min) for n in steps]
        errors = [float(law.cov[0]) - exact for law in laws]
        checks.append(near(f"order, eta = {eta:g}", order(steps, errors), claimed, 0.02))
    return evidence(*checks)


@THEME.claim(
    "theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("It ends in the law of 1.01 eta.", factor=1.01)
)
def exact_kernel_has_no_error(factor: float = 1.0) -> Evidence:
    """The exact-marginal kernel ends in the continuous-time law at any step count, for every eta."""
    return evidence(
        *(
            at_most(
                f"{n} steps, eta = {eta:g}",
                worst(
                    moments(gb.discrete_law(TARGET, PROCESS, "exact", eta, n)),
                    moments(gb.terminal_law(TARGET, PROCESS, factor * eta)),
                ),
                1e-13,
            )
            for n in (1, 3, 10)
            for eta in (0.0, 0.5, 2.0)
        )
    )


ORDERS = {"ddim": 1, "gddim": 1, "euler-maruyama": 1, "flow-grpo": 1, "heun": 2, "stochastic-heun": 2}


@THEME.claim("theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("Each order is larger by a tenth.", more=0.1))
def weak_orders(more: float = 0.0) -> Evidence:
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
            checks.append(near(f"{name}, eta = {eta:g}", order(steps, errors), declared + more, 0.03))
    return evidence(*checks)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="marginals, of a chain that starts in q_T; or the ODE",
    refuted_by=(
        perturbed("It has order 1.9.", claimed=1.9),
        perturbed("It has order 2 for small eta (.3) from the prior.", largest=0.3),
    ),
)
def edm_has_order_2(claimed: float = 2.0, largest: float = 0.0) -> Evidence:
    """EDM's stochastic sampler (churn, then Heun) has weak order 2 (mean and variance at sigma = .3)."""
    steps = (200, 400, 800)
    starts = {
        "q_T, variance": (gb.Gaussian(0.0, 1.0), PROCESS, 1),  # the VP prior is the q_T of N(0, 1)
        "VE prior, mean": (TARGET, gb.VE(5.0), 0),
        "VE prior, variance": (TARGET, gb.VE(5.0), 1),
        "VP prior, mean": (TARGET, PROCESS, 0),
        "VP prior, variance": (TARGET, PROCESS, 1),
    }

    def check(start: str, eta: float) -> Check:
        target, at, which = starts[start]
        exact = moments(gb.terminal_law(target, at, eta, 0.3))[which]
        chains = (gb.discrete_law(target, at, "edm", eta, n, grid="log-sigma", t_min=0.3) for n in steps)
        found = order(steps, [moments(chain)[which] - exact for chain in chains])
        return near(f"order, {start}, eta = {eta:g}", found, claimed, 0.05)

    axes = {"start": tuple(starts), "eta": (0.0, 0.3, 0.6, 0.9)}
    return over(axes, check, lambda start, eta: eta <= largest or start == "q_T, variance")


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


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="every sampler but CPS",
    refuted_by=perturbed("It tends to the law of an eta that is 10 % larger.", factor=1.1),
)
def samplers_converge(factor: float = 1.0) -> Evidence:
    """Every sampler of the library tends to its law in continuous time as N grows, its noise level held (1600 steps: to
    1 % of the variance; for CPS that of any eta that grows without bound).
    """
    process, own = gb.VE(5.0), {"dance-grpo": (0.35, 0.7), "cps": (0.3, 0.5, 0.9), "heun": (0.0,)}
    inside, outside = [], []
    for name in SAMPLERS:
        for eta in own.get(name, (0.5, 0.9)):
            if name == "cps":
                limit = 0.7, 0.5 + 0.3**2
            elif name == "dance-grpo":
                limit = dance_limit(factor * eta, 5.0, 0.3)
            else:
                limit = moments(gb.terminal_law(TARGET, process, factor * eta, 0.3))
            chain = gb.discrete_law(TARGET, process, name, eta, 1600, grid="log-sigma", t_min=0.3)
            error = worst(moments(chain), limit) / 0.5
            check = at_most(f"{name}, level {eta:g}, largest error of a moment over v", error, 0.01)
            (outside if name == "cps" else inside).append(check)
    return evidence(*inside, outside=outside)


@THEME.claim("theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("Both exponents are eta^1.9.", exponent=1.9))
def gddim_in_the_form_of_alpha_bar(exponent: float = 2.0) -> Evidence:
    """In x, gDDIM's variance is (1 - ab')[1 - ((1 - ab')/(1 - ab))^(eta^2) (ab/ab')^(eta^2)], ab = alpha_bar."""
    worst_found = 0.0
    for (sigma, sigma_next), eta in itertools.product(PAIRS, (0.5, 1.0, 1.5)):
        ab, ab_next, x = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2), eta**exponent
        said = (1 - ab_next) * (1 - ((1 - ab_next) / (1 - ab)) ** x * (ab / ab_next) ** x)
        std = float(step("gddim", sigma, sigma_next, np.asarray(eta)).std)
        worst_found = max(worst_found, abs(ab_next * std**2 - said))
    return evidence(at_most("largest difference", worst_found, 1e-14))


def largest_eta(steps: int, limit: float = 1.0) -> float:
    """What the widest noisy step of "leading" spacing on SD 1.5 admits: eta^2 (1 - sigma'^2/sigma^2) <= ``limit``."""
    sigma = gb.grid(gb.VP.stable_diffusion(steps), steps, "leading")
    share = 1 - (sigma[1:] / sigma[:-1]) ** 2
    return float(np.sqrt(limit / share[sigma[1:] > 0].max()))


ADMITTED = {10: "1.007", 20: "1.017", 50: "1.046", 100: "1.092", 250: "1.22", 500: "1.41", 999: "1.41"}


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("A step needs eta^2 (1 - sigma'^2/sigma^2) <= .99.", limit=0.99),
)
def admissible_eta_of_ddim(limit: float = 1.0) -> Evidence:
    """On SD 1.5 ("leading", offset 1) DDIM admits at most eta = 1.007, 1.017, 1.046, 1.092, 1.22, 1.41, 1.41 at 10, 20,
    50, 100, 250, 500, 999 steps, where eta^2 (1 - sigma'^2/sigma^2) <= 1 in every step; beyond, the library refuses and
    names gDDIM.
    """

    def run(steps: int, eta: float) -> Any:
        return gb.discrete_law(TARGET, gb.VP.stable_diffusion(steps), "ddim", eta, steps, grid="leading")

    checks = []
    for steps, said in ADMITTED.items():
        largest = largest_eta(steps, limit)
        checks.append(as_printed(f"{steps} steps", largest, said))
        run(steps, largest * (1 - 1e-6))
        beyond = partial(run, steps, largest * (1 + 1e-6))
        checks.append(refused(f"{steps} steps, a millionth more", beyond, "use sampler='gddim'"))
    return evidence(*checks)


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="250 steps or more for 1.2, and no step count for 1.5",
    refuted_by=(
        perturbed("100 steps are enough for 1.2.", fewest=100),
        perturbed("It exists at 1.5 too.", largest=1.5),
    ),
)
def ddim_serves_the_etas_of_the_paper(fewest: int = 250, largest: float = 1.2) -> Evidence:
    """DDIM's variance exists at the eta > 1 used (1.2, 1.5) on SD 1.5's schedule: otherwise gDDIM is required."""

    def check(steps: int, eta: float) -> Check:
        return at_least(f"admitted for {eta:g}, {steps} steps", largest_eta(steps), eta)

    axes = {"steps": tuple(ADMITTED), "eta": (1.2, 1.5)}
    return over(axes, check, lambda steps, eta: steps >= fewest and eta <= largest)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="eta = 1",
    refuted_by=perturbed("It does at eta = 1.02 too.", most=1.02),
)
def gddim_carries_the_mean(most: float = 1.0) -> Evidence:
    """gDDIM ends in the mean of continuous time for any number of steps."""

    def check(eta: float, steps: int) -> Check:
        chain = gb.discrete_law(TARGET, PROCESS, "gddim", eta, steps, grid="sigma")
        error = abs(float(chain.mean[0] - gb.terminal_law(TARGET, PROCESS, eta).mean[0]))
        return at_most(f"error, eta = {eta:g}, {steps} steps", error, 1e-14)

    axes = {"eta": (0.0, 0.5, 0.98, 1.0, 1.02, 1.5, 2.0), "steps": (1, 3, 10, 100)}
    return over(axes, check, lambda eta, steps: 1 <= eta <= most)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("The variances are those of 11 steps.", steps=11),
        perturbed("10 steps lose 30 times the continuous-time difference.", times=30),
    ),
)
def few_steps_lose_variance(steps: int = 10, times: float = 20) -> Evidence:
    """At 10 steps uniform in sigma (m = .7, v = .5, sigma_T = 5, VP) the variances are .288/.232/.197 at eta = 0/1/1.5,
    where continuous time has .510/.500/.500: one step count's loss is over 20 times the continuous-time difference.
    """
    said = {0.0: ("0.288", "0.510"), 1.0: ("0.232", "0.500"), 1.5: ("0.197", "0.500")}
    checks: list[Check] = []
    for eta, (few, exact) in said.items():
        chain = gb.discrete_law(TARGET, PROCESS, "gddim", eta, steps, grid="sigma")
        checks.append(as_printed(f"{steps} steps, eta = {eta:g}", chain.cov[0], few))
        checks.append(as_printed(f"continuous, eta = {eta:g}", gb.terminal_law(TARGET, PROCESS, eta).cov[0], exact))
    lost = 0.5 - float(gb.discrete_law(TARGET, PROCESS, "gddim", 1.0, steps, grid="sigma").cov[0])
    left = float(gb.terminal_law(TARGET, PROCESS, 0.0).cov[0] - gb.terminal_law(TARGET, PROCESS, 1.0).cov[0])
    return evidence(*checks, at_least("variance lost over the continuous-time difference", lost / left, times))


@THEME.claim(
    "theory 6",
    "simulation",
    Verdict.PASS,
    refuted_by=(
        perturbed("The mean log-density has (1.2 + log(2 pi))/2 in the place of (1 + log(2 pi))/2.", constant=1.2),
        perturbed("All steps of the SDE have a density.", without=0),
    ),
)
def deterministic_steps_have_no_density(constant: float = 1.0, without: int = 1) -> Evidence:
    """A step to sigma' = 0 and every eta = 0 step has no log-probability; any other has that of its Gaussian, whose
    mean is -log std - (1 + log(2 pi))/2.
    """
    run = gb.simulate(TARGET, PROCESS, "gddim", 1.0, 4, 2000, 3, trajectory=True, log_prob=True)
    ode = gb.simulate(TARGET, PROCESS, "gddim", 0.0, 4, 10, 3, log_prob=True)
    assert run.log_prob is not None
    assert ode.log_prob is not None
    density = run.log_prob[0]
    assert density is not None
    std = float(step("gddim", run.sigmas[0], run.sigmas[1], np.asarray(1.0)).std)
    entropy = math.log(std) + (constant + math.log(2 * math.pi)) / 2
    return evidence(
        near("densities of 4 SDE steps", sum(p is not None for p in run.log_prob), 4 - without, 0),
        near("densities of 4 ODE steps", sum(p is not None for p in ode.log_prob), 0, 0),
        true("the step to 0 has none", run.log_prob[-1] is None),
        sampled("mean log-density of the first step", density.mean(), -entropy, math.sqrt(0.5 / 2000)),
    )


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("Its noise has std .026 eta.", std=0.026),
)
def last_step_of_stable_diffusion_has_a_density(std: float = 0.02) -> Evidence:
    """SD 1.5's last step, to sigma = .0292, does have a log-probability: its noise has std .017 to .0235 times eta for
    eta from .5 to 1.5 (50 steps, "leading").
    """
    levels = gb.grid(gb.VP.stable_diffusion(50), 50, "leading")
    return evidence(
        as_printed("sigma it goes to", levels[-1], "0.0292"),
        *(
            near(f"std / eta, eta = {eta:g}", step("gddim", *levels[-2:], np.asarray(eta)).std / eta, std, 0.0035)
            for eta in (0.5, 1.0, 1.5)
        ),
    )
