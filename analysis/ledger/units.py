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
from analysis.ledger.claim import Check, Evidence, Theme, Verdict, at_least, at_most, evidence, near, perturbed, true
from analysis.ledger.tools import order, over, worst
from gapbound.kernel import step

THEME = Theme("Units of other libraries")
t, eta, a, e = sp.symbols("t eta a e", positive=True)
high, low = 2.0, 1.9  # one step sigma -> sigma'


def own_noise(value: Any) -> float:
    """Variance of gDDIM's noise in that step, over sigma'^2."""
    return float(step("gddim", high, low, np.asarray(value)).std) ** 2 / low**2


def in_flow_coordinates() -> Any:
    """d tau / dt over the square of the scale's inverse: eta^2 dtau in z is this times eta^2 dt in x = (1 - t) z."""
    return sp.simplify(sp.diff((t / (1 - t)) ** 2, t) * (1 - t) ** 2)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="eta is 0 or 1",
    refuted_by=(
        perturbed("It is ours at eta = .9 too.", same=(0.0, 0.9, 1.0)),
        perturbed("DDIM's noise is eta_D^2 (1 - (sigma'/sigma)^1.98).", power=1.98),
    ),
)
def ddim_eta_is_ours(same: tuple[float, ...] = (0.0, 1.0), power: float = 2) -> Evidence:
    """DDIM's eta_D, 1 - k^2 = eta_D^2 (1 - (sigma'/sigma)^2), is our eta; for one step it can be converted."""

    def gap(theirs: float, ours: Any) -> float:
        return abs(theirs**2 * (1 - (low / high) ** power) - own_noise(ours))

    def check(eta: float) -> Check:
        return at_most(f"difference of the noise, eta = {eta:g}", gap(eta, eta), 1e-14)

    grid = over({"eta": (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.2)}, check, lambda eta: eta in same)
    converted = [
        at_most(f"eta_D = {e:g}, converted for the step", gap(e, gb.units.from_ddim(e, high, low)), 1e-14)
        for e in (0.5, 1.2)
    ]
    return evidence(*grid.inside, *converted, outside=grid.outside)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("k-diffusion's eta is our eta^1.9.", power=1.9),
        perturbed("SA-Solver's noise has exp(-1.9 tau^2 h).", rate=1.9),
    ),
)
def k_diffusion_eta_is_the_square_of_ours(power: float = 2, rate: float = 2) -> Evidence:
    """The eta of k-diffusion's dpmpp_2m_sde, whose noise is sigma' sqrt(1 - exp(-2 eta_k h)) with h =
    log(sigma/sigma'), is our eta^2; SA-Solver's tau, with noise sigma' sqrt(1 - exp(-2 tau^2 h)), is our eta.
    """
    h, value = math.log(high / low), 1.3
    k_noise, sa_noise = -math.expm1(-2 * value * h), -math.expm1(-rate * value**2 * h)
    return evidence(
        near("noise at our eta = eta_k^(1/2)", own_noise(value ** (1 / power)), k_noise, 1e-14),
        near("noise of k-diffusion, converted", own_noise(gb.units.from_k_diffusion(value)), k_noise, 1e-14),
        near("noise of SA-Solver, converted", own_noise(gb.units.from_sa_solver(value)), sa_noise, 1e-14),
        at_least("miss at eta = eta_k", abs(k_noise - own_noise(value)), 0.01),
    )


@THEME.claim(
    "theory 6", "symbolic", Verdict.PASS, refuted_by=perturbed("It is sqrt(1.9) eta.", square=sp.Rational(19, 10))
)
def flow_grpo_level_is_root_two_eta(square: Any = 2) -> Evidence:
    """Flow-GRPO's noise level a, sigma_t = a sqrt(t/(1 - t)) in dx = ... + sigma_t dW, is sqrt(2) eta."""
    found = sp.simplify(a**2 * t / (1 - t) - in_flow_coordinates() * eta**2).subs(a, sp.sqrt(square) * eta)
    return evidence(
        true("noise variances are equal", sp.simplify(found) == 0),
        near("the library's eta of a = 0.7", gb.units.from_flow_grpo(0.7), 0.7 / math.sqrt(square), 1e-15),
    )


@THEME.claim(
    "theory 6",
    "symbolic",
    Verdict.PASS,
    refuted_by=perturbed("It is e^2 (1 - t)/(1.9 t).", divisor=sp.Rational(19, 10)),
)
def dance_grpo_constant(divisor: Any = 2) -> Evidence:
    """DanceGRPO's constant noise e dW in x is eta(t)^2 = e^2 (1 - t)/(2t)."""
    said = e**2 * (1 - t) / (divisor * t)
    solved = sp.solve(sp.Eq(e**2, in_flow_coordinates() * eta**2), eta**2)[0]
    at = {e: sp.Rational(3, 10), t: sp.Rational(2, 5)}
    found = gb.units.from_dance_grpo(0.3, 0.4 / 0.6) ** 2
    return evidence(
        true("derived eta^2 is as stated", sp.simplify(solved - said) == 0),
        near("the library's eta^2 of e = .3 at t = .4", found, float(said.subs(at)), 1e-14),
    )


def euler_in_flow_time(time: float, time_next: float, square: float) -> tuple[float, float]:
    """Factors of eps and xi in z of x' = x - (t - t')(u + square eps/(2t)) + sqrt(square (t - t')) xi; u = eps - D."""
    span = time - time_next
    return (time - span * (1 + square / (2 * time))) / (1 - time_next), math.sqrt(square * span) / (1 - time_next)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("Flow-GRPO's noise is a (t/(1 - t))^.49.", power=0.49),
)
def flow_grpo_and_dance_grpo_take_euler_steps(power: float = 0.5) -> Evidence:
    """Flow-GRPO and DanceGRPO take Euler-Maruyama steps in t with noise a sqrt(t/(1 - t)) and e. Flow-GRPO's first
    step, from t = 1 where that is infinite, has a/sqrt(1 - t') instead; both leave the noise of a last step to t = 0.
    """
    level, constant, found = 0.7, 0.3, []
    for time, time_next in ((0.9, 0.6), (0.5, 0.4), (0.1, 0.0), (1.0, 0.9)):
        sigma = math.inf if time == 1 else time / (1 - time)
        square = level**2 * (1 / (1 - time_next) if time == 1 else time / (1 - time)) ** (2 * power)
        for name, own, noise in (
            ("flow-grpo", gb.units.from_flow_grpo(level), square),
            ("dance-grpo", np.asarray(constant), constant**2),
        ):
            kernel = step(name, sigma, time_next / (1 - time_next), own)
            found.append(worst((kernel.carry, kernel.std), euler_in_flow_time(time, time_next, noise)))
    left = float(step("flow-grpo", 0.1 / 0.9, 0.0, gb.units.from_flow_grpo(level)).std)
    return evidence(
        at_most("largest difference of a coefficient", max(found), 1e-14),
        at_least("noise left by flow-grpo's last step from t = .1", left, 0.07),
        near("noise left by gDDIM's", step("gddim", 0.1 / 0.9, 0.0, np.asarray(1.0)).std, 0, 0),
    )


def end_variance(k: Callable[[float, float], float], steps: int, last: float = 0.02) -> float:
    """Variance at sigma' = last on N(0, 0.5) from q_T, with steps z' = D + sigma' (k eps + sqrt(1 - k^2) xi)."""
    v, sigma = 0.5, np.geomspace(5.0, last, steps + 1)
    variance = v + sigma[0] ** 2
    for s, s_next in itertools.pairwise(sigma):
        share = k(s, s_next)
        variance *= (v / (v + s**2) + s_next * share * s / (v + s**2)) ** 2
        variance += s_next**2 * (1 - share**2)
    return float(variance)


def end_error(name: str, value: float, steps: int) -> float:
    """The same less the data's, by the library's chain (whose start is the prior: another variance, long forgotten)."""
    sigma = np.geomspace(5.0, 0.02, steps + 1)
    return float(gb.discrete_law(gb.Gaussian(0.0, 0.5), gb.VE(5.0), name, value, sigmas=sigma).cov[0]) - 0.5 - 0.02**2


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.QUALIFIED,
    condition="k tends to 1 with the step, as gDDIM's does",
    refuted_by=(
        perturbed("The order is 1.1.", claimed=1.1),
        perturbed("Fixed shares near 1 (CPS at eta_C = .1) converge too.", largest=0.1),
    ),
)
def fixed_shares_converge_to_the_data(claimed: float = 1.0, largest: float = 0.0) -> Evidence:
    """Samplers z' = D + sigma' (k eps + sqrt(1 - k^2) xi) converge to the data law, at order 1 in 1/N; CPS has k =
    cos(pi eta_C/2) in every step.
    """
    steps, exact, inside, outside = (400, 800, 1600), 0.5 + 0.02**2, [], []
    shares: dict[str, Callable[[float], Callable[[float, float], float]]] = {
        "gddim": lambda eta: lambda s, s_next: (s_next / s) ** (eta**2),
        "cps": lambda eta: lambda s, s_next: math.cos(math.pi * eta / 2),
    }
    for name, levels in (("gddim", (1.0, 1.25, 1.5)), ("cps", (0.1, 0.5, 0.9))):
        for level in levels:
            errors = [end_variance(shares[name](level), n) - exact for n in steps]
            cell = near(f"order, {name}, level {level:g}", order(steps, errors), claimed, 0.05)
            (inside if name == "gddim" or level <= largest else outside).append(cell)
            less = abs(errors[-1] - end_error(name, level, 1600))
            inside.append(at_most(f"less the library's, {name}, level {level:g}", less, 1e-3))
    return evidence(*inside, outside=outside)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("It tends to v (1.1 + k)/2.", one=1.1),
        perturbed("Its eta grows with the power .4 of N.", growth=0.4),
    ),
)
def cps_ends_with_too_little_variance(one: float = 1.0, growth: float = 0.5) -> Evidence:
    """On N(m, v) CPS's variance tends to v (1 + k)/2, k = cos(pi eta_C/2), and at a level sigma to (1 + k)(v +
    sigma^2)^2/(2v + (1 + k) sigma^2), at order 1 in 1/N; in our units its eta grows like N^(1/2), without bound.
    """
    v, checks, steps = 0.5, [], (400, 800, 1600)
    for value in (0.3, 0.5, 0.9):
        k = math.cos(math.pi * value / 2)
        limit = (one + k) * (v + 0.25) ** 2 / (2 * v + (one + k) * 0.25)
        found = [end_variance(lambda s, s_next, k=k: k, n, 0.5) - limit for n in steps]
        data = gb.discrete_law(gb.Gaussian(0.7, v), gb.VE(3.0), "cps", value, 10_000)
        checks += [
            near(f"order at sigma = 0.5, eta_C = {value:g}", order(steps, found), 1, 0.05),
            near(f"variance of 10,000 steps over v, eta_C = {value:g}", data.cov[0] / v, (one + k) / 2, 0.01),
            near(f"its mean, eta_C = {value:g}", data.mean[0], 0.7, 1e-10),
        ]
    etas = [float(gb.units.from_cps(0.5, 1.0, 1 - 1 / n)) for n in (100, 400)]
    return evidence(*checks, near("growth of our eta at a quarter of the step", etas[1] / etas[0], 4**growth, 0.02))


@THEME.claim("theory 6", "numerical", Verdict.PASS, refuted_by=perturbed("k is (sigma'/sigma)^(eta^1.9).", power=1.9))
def flow_step_is_the_same_kernel(power: float = 2) -> Evidence:
    """For flow matching x' = (1 - t') D + t' k eps + t' sqrt(1 - k^2) xi with sigma = t/(1 - t) and k =
    (sigma'/sigma)^(eta^2): the gDDIM step times s'.
    """
    flow, times, value = gb.FlowMatching(0.98), (0.8, 0.5), 1.5
    sigma, sigma_next = (float(flow.sigma(x)) for x in times)
    kernel, scale = step("gddim", sigma, sigma_next, np.asarray(value)), float(flow.scale(times[1]))
    k = (sigma_next / sigma) ** (value**power)
    return evidence(
        near("scale of D", scale, 1 - times[1], 1e-15),
        near("factor of eps", scale * kernel.carry, times[1] * k, 1e-14),
        near("factor of xi", scale * kernel.std, times[1] * math.sqrt(1 - k**2), 1e-14),
    )
