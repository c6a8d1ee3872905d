"""Theory 1: one coordinate z = x / s and one clock tau = sigma^2 for VE, VP and flow matching."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import gapbound as gb
from analysis.ledger.claim import Evidence, Theme, Verdict, at_most, close, evidence, near, perturbed
from analysis.ledger.tools import moments, over, worst, worst_relative

THEME = Theme("One coordinate for all models")
TARGET = gb.Gaussian(0.7, 0.5)
Rate = Callable[[float, float], float]
RATES: dict[str, Rate] = {
    "2t": lambda t, T: 2 * t,
    "constant": lambda t, T: 1.0,
    "linear": lambda t, T: 0.1 + 19.9 * t / T,
}
TIGHT: dict[str, Any] = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-13}


def noised(drift: Callable[[float], float], square: Callable[[float], float], T: float) -> tuple[float, float]:
    """M and V of X_T ~ N(M x_0, V) under dX = drift(t) X dt + g dB from x_0, g^2 = square(t), by integration in x."""

    def change(t: float, state: Any) -> list[float]:
        return [drift(t) * state[0], 2 * drift(t) * state[1] + square(t)]

    return tuple(solve_ivp(change, (0, T), [1.0, 0.0], **TIGHT).y[:, -1])


def noised_by_vp(name: str, T: float, t: float | None = None) -> tuple[float, float]:
    """The same for VP with a named beta that ends at T, at t or at T."""
    beta = RATES[name]
    return noised(lambda u: -beta(u, T) / 2, lambda u: beta(u, T), T if t is None else t)


def noised_by_ve(t: float) -> tuple[float, float]:
    """The same for dX = g dB with g^2 = 2t."""
    return noised(lambda u: 0.0, lambda u: 2 * u, t)


def noised_by_flow(t: float) -> tuple[float, float]:
    """The same for the SDE whose laws are those of (1 - t) X_0 + t eps."""
    return noised(lambda u: -1 / (1 - u), lambda u: 2 * u / (1 - u), t)


def noised_by_sub_vp(t: float) -> tuple[float, float]:
    """The same for dX = -X/2 dt + g dB with g^2 = 1 - exp(-2t), whose noise is less than VP's."""
    return noised(lambda u: -0.5, lambda u: -math.expm1(-2 * u), t)


def reverse_moments(
    beta: Rate, T: float, eta: float, target: gb.Gaussian, strength: Callable[[float], float]
) -> tuple[float, float]:
    """Mean and variance at t = 0 of the reverse VP process in x, started from N(0, 1), by integration in x and t.

    dX = [-beta/2 X - c beta score] dt + eta sqrt(beta) dW with t falling, c = strength(eta), score = (M_t - x)/V_t.
    """
    m, v = moments(target)

    def change(u: float, state: Any) -> list[float]:
        t = T - u
        mean, variance, keep = state[0], state[1], state[2]  # keep = s(t)^2, carried along
        b, c = beta(t, T), strength(eta)
        M, V = np.sqrt(keep) * m, keep * v + 1 - keep
        return [b / 2 * mean + c * b * (M - mean) / V, b * variance - 2 * c * b * variance / V + eta**2 * b, b * keep]

    kept, _ = noised(lambda u: -beta(u, T) / 2, lambda u: beta(u, T), T)
    end = solve_ivp(change, (0, T), [0.0, 1.0, kept**2], **TIGHT).y[:, -1]
    return end[0], end[1]


def drift_share(eta: float) -> float:
    """The factor of beta score in the reverse process's drift."""
    return (1 + eta**2) / 2


Stated = Callable[[float], tuple[float, float]]


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("For VP sigma^2 is 1 - alpha_bar, the noise's own variance.", vp=lambda a: (a**0.5, (1 - a) ** 0.5)),
        perturbed("For VE with g^2 = 2t, sigma^2 = t.", ve=lambda t: (1.0, t**0.5)),
        perturbed("For flow matching sigma is t.", flow=lambda t: (1 - t, t)),
    ),
)
def forward_laws_are_scaled_heat_flow(
    vp: Stated = lambda a: (a**0.5, ((1 - a) / a) ** 0.5),
    ve: Stated = lambda t: (1.0, t),
    flow: Stated = lambda t: (1 - t, t / (1 - t)),
) -> Evidence:
    """X_t = s(t) (X_0 + sigma(t) eps) with s = sqrt(alpha_bar), sigma^2 = (1 - alpha_bar)/alpha_bar for VP; s = 1,
    sigma = t for VE with g^2 = 2t; s = 1 - t, sigma = t/(1 - t) for X_t = (1 - t) X_0 + t eps.
    """
    cases = [(f"VP {n}", gb.VP(T, n), T, vp(float(gb.VP(T, n).alpha_bar(T))), noised_by_vp(n, T))
             for n, T in (("2t", 1.5), ("constant", 2.0), ("linear", 0.5))]  # fmt: skip
    cases += [(f"VE, t = {t:g}", gb.VE(3.0), t, ve(t), noised_by_ve(t)) for t in (0.4, 3.0)]
    cases += [(f"flow, t = {t:g}", gb.FlowMatching(0.95), t, flow(t), noised_by_flow(t)) for t in (0.1, 0.5, 0.9)]
    checks = []
    for name, process, t, (s, sigma), (M, V) in cases:
        library = float(process.scale(t)), float(process.sigma(t))
        checks += [
            at_most(f"{name}: error of s and s^2 sigma^2, integrated in x", worst([s, s**2 * sigma**2], [M, V]), 1e-9),
            at_most(f"{name}: error of the library", worst_relative(library, [M, V**0.5 / M]), 1e-9),
        ]
    return evidence(*checks)


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("alpha_bar_T is exp(-T^2/2) for beta = 2t.", rising=lambda T: T**2 / 2),
        perturbed("alpha_bar_T is exp(-T/2) for beta = 1.", constant=lambda T: T / 2),
        perturbed("alpha_bar_T is exp(-10 T) for DDPM's beta: 0.1 is forgotten.", linear=lambda T: 10 * T),
    ),
)
def alpha_bar_of_the_named_schedules(
    rising: Callable[[float], float] = lambda T: T**2,
    constant: Callable[[float], float] = lambda T: T,
    linear: Callable[[float], float] = lambda T: 10.05 * T,
) -> Evidence:
    """alpha_bar_T, the squared share of X_0 in X_T, is exp(-T^2) for beta = 2t, exp(-T) for beta = 1 and exp(-10.05 T)
    for DDPM's beta from 0.1 to 20: the same as the product of DDPM's thousand steps to 1 % of its logarithm at T = 1.
    """
    checks = []
    for name, exponent in (("2t", rising), ("constant", constant), ("linear", linear)):
        for T in (0.5, 1.0, 2.0):
            by_moments, _ = noised_by_vp(name, T)
            found = float(np.log(gb.VP(T, name).alpha_bar(T)))
            checks += [
                close(
                    f"log alpha_bar_T integrated in x, {name}, T = {T:g}", 2 * math.log(by_moments), -exponent(T), 1e-9
                ),
                near(f"less the library's, {name}, T = {T:g}", 2 * math.log(by_moments) - found, 0, 1e-8),
            ]
    product = np.log1p(-np.linspace(1e-4, 0.02, 1000)).sum()
    return evidence(*checks, close("log of the product of DDPM's 1 - beta", product, -linear(1.0), 0.01))


MODELS = {
    "VP 2t": lambda t: noised_by_vp("2t", 1.0, t),
    "VP constant": lambda t: noised_by_vp("constant", 1.0, t),
    "VP linear": lambda t: noised_by_vp("linear", 1.0, t),
    "flow": noised_by_flow,
    "VE": noised_by_ve,
    "sub-VP": noised_by_sub_vp,
}


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.QUALIFIED,
    condition="the process is VP",
    refuted_by=perturbed("alpha_bar = 1/(1 + sigma^2) is s, not its square.", power=1.0),
)
def alpha_bar_is_the_square_of_the_scale(power: float = 2.0) -> Evidence:
    """alpha_bar = 1/(1 + sigma^2), the signal's share of the variance where X_0 has variance 1, is s^2 (by integration
    of dX in x: VP with three beta, flow, VE and sub-VP at t = 0.1, 0.5 and 0.9).
    """
    times = (0.1, 0.5, 0.9)

    def error(model: str, t: float) -> Any:
        M, V = MODELS[model](t)
        return near(f"1/(1 + sigma^2) less s^2, {model}, t = {t:g}", M**2 / (M**2 + V) - M**power, 0, 1e-9)

    found = over({"model": tuple(MODELS), "t": times}, error, where=lambda model, t: model.startswith("VP"))
    library = [
        at_most(
            f"error of the library's alpha_bar, {name}",
            worst(process.alpha_bar(t), [M**2 / (M**2 + V) for M, V in map(MODELS[name], times)]),
            1e-9,
        )
        for name, process, t in (
            ("VP linear", gb.VP(1.0, "linear"), np.array(times)), ("flow", gb.FlowMatching(0.95), np.array(times)),
            ("VE", gb.VE(1.0), np.array(times)),
        )
    ]  # fmt: skip
    return evidence(*found.inside, *library, outside=found.outside)


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("Under VP the prior's variance in z is sigma_T^2.", vp=lambda sigma: sigma**2),
        perturbed("Under flow it is 1 + sigma_T^2, like VP's.", flow=lambda sigma: 1 + sigma**2),
    ),
)
def prior_variance_in_z(
    ve: Callable[[float], float] = lambda sigma: sigma**2,
    vp: Callable[[float], float] = lambda sigma: 1 + sigma**2,
    flow: Callable[[float], float] = lambda sigma: (1 + sigma) ** 2,
) -> Evidence:
    """In z the prior's variance Var(X_T)/s_T^2 is sigma_T^2 (VE), 1 + sigma_T^2 (VP) and (1 + sigma_T)^2 (flow), for
    the priors N(0, sigma_T^2), N(0, 1) and N(0, 1) in x.
    """
    checks = []
    for name, process, (M, V), said, in_x in (
        ("VE", gb.VE(3.0), noised_by_ve(3.0), ve, 9.0),
        ("VP", gb.VP(1.2, "2t"), noised_by_vp("2t", 1.2), vp, 1.0),
        ("flow", gb.FlowMatching(0.9), noised_by_flow(0.9), flow, 1.0),
    ):
        checks += [
            close(f"prior's variance over s_T^2, both integrated in x, {name}", in_x / M**2, said(V**0.5 / M), 1e-9),
            close(f"the library's, {name}", process.prior_variance, in_x / M**2, 1e-9),
        ]
    return evidence(*checks)


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("The drift's factor is (1 + eta)/2.", strength=lambda eta: (1 + eta) / 2),
)
def reverse_process_in_x_is_the_reverse_process_in_z(strength: Callable[[float], float] = drift_share) -> Evidence:
    """The reverse VP process with drift -beta/2 x - (1 + eta^2)/2 beta score, integrated in x and t for every beta,
    ends in the law that the one formula in z gives.
    """
    checks = []
    for name, T in (("2t", 1.2), ("constant", 1.5), ("linear", 0.3)):
        for eta in (0.0, 0.5, 1.0, 2.0):
            exact = moments(gb.terminal_law(TARGET, gb.VP(T, name), eta))
            found = reverse_moments(RATES[name], T, eta, TARGET, strength)
            checks.append(at_most(f"{name}, eta = {eta:g}: error", worst(found, exact), 1e-8))
    return evidence(*checks)


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("They differ by the excess times Phi.", power=1.0),
        perturbed("The excess of flow is 2 sigma_T.", flow_excess=lambda sigma: 2 * sigma),
    ),
)
def only_the_prior_tells_the_models_apart(
    power: float = 2.0, flow_excess: Callable[[float], float] = lambda sigma: 1 + 2 * sigma
) -> Evidence:
    """At one sigma_T the laws under VE, VP and flow differ by the prior's excess variance, 0, 1 and 1 + 2 sigma_T,
    times Phi^2 alone.
    """
    sigma, eta = 3.0, 0.5
    ve, vp, flow = gb.VE(sigma), gb.VP(np.sqrt(np.log1p(sigma**2))), gb.FlowMatching(sigma / (1 + sigma))
    laws = {name: moments(gb.terminal_law(TARGET, p, eta)) for name, p in (("VE", ve), ("VP", vp), ("flow", flow))}
    factor = ((0.5 / (0.5 + sigma**2)) ** ((1 + eta**2) / 2)) ** power
    return evidence(
        at_most("spread of the means", max(m for m, _ in laws.values()) - min(m for m, _ in laws.values()), 1e-14),
        near("VP less VE, variance", laws["VP"][1] - laws["VE"][1], factor, 1e-14),
        near("flow less VE, variance", laws["flow"][1] - laws["VE"][1], flow_excess(sigma) * factor, 1e-14),
    )


def flow_steps(t_max: float, eta: float, steps: int) -> tuple[float, float]:
    """Mean and variance after gDDIM steps from N(0, 1) at t_max to 0, written out in x, where t = 1 is regular.

    x' = (1 - t') D + t' (k eps + sqrt(1 - k^2) xi), D and eps the best guesses of X_0 and of the noise at x.
    """
    m, v = moments(TARGET)
    mean, variance = 0.0, 1.0
    times = np.linspace(t_max, 0.0, steps + 1)
    for t, after in itertools.pairwise(times):
        k = (after * (1 - t) / ((1 - after) * t)) ** (eta**2)
        total = (1 - t) ** 2 * v + t**2
        gain = ((1 - after) * (1 - t) * v + after * k * t) / total
        mean = (1 - after) * m + gain * (mean - (1 - t) * m)
        variance = gain**2 * variance + after**2 * (1 - k**2)
    return mean, variance


def flow_limit(t_max: float, eta: float) -> float:
    """The gap of r = -x^2 between ODE and SDE for infinitely many steps, extrapolated from 500, 1000 and 2000."""

    def gap(steps: int) -> float:
        (m_ode, v_ode), (m_sde, v_sde) = (flow_steps(t_max, e, steps) for e in (0.0, eta))
        return m_sde**2 + v_sde - m_ode**2 - v_ode

    coarse, middle, fine = map(gap, (500, 1000, 2000))
    return (4 * (2 * fine - middle) - (2 * middle - coarse)) / 3


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.QUALIFIED,
    condition="started at t = 1",
    refuted_by=perturbed("Its continuous-time gap is that of a start at t = .999.", claimed=-0.0003),
)
def flow_has_no_gap(claimed: float = 0.0) -> Evidence:
    """Flow matching has no initial mismatch: its continuous-time gap is 0 (the limit of N steps from t_max = 0.5, 0.8,
    0.9, 0.98, 0.999, 1 for eta = 0.5, 1, 2 and r = -x^2, to 1e-4).
    """
    axes = {"t_max": (0.5, 0.8, 0.9, 0.98, 0.999, 1.0), "eta": (0.5, 1.0, 2.0)}
    limits = {(t, eta): flow_limit(t, eta) for t in axes["t_max"] for eta in axes["eta"]}

    def cell(t_max: float, eta: float) -> Any:
        return near(f"limit of the gap, t_max = {t_max:g}, eta = {eta:g}", limits[t_max, eta], claimed, 1e-4)

    def library(t_max: float, eta: float) -> float:
        return float(gb.reward_gap(TARGET, gb.FlowMatching(t_max), gb.Quadratic(1.0, 0.0), eta))

    found = over(axes, cell, where=lambda t_max, eta: t_max == 1)
    errors = [abs(limit - library(*cell)) for cell, limit in limits.items()]
    return evidence(*found.inside, at_most("error of the library's gap", max(errors), 1e-4), outside=found.outside)


@THEME.claim(
    "theory 1",
    "numerical",
    Verdict.QUALIFIED,
    condition="the prior is q_T: v_pi = v + sigma_T^2 and m_pi = m",
    refuted_by=(
        perturbed("The prior's mean need not be that of q_T.", where=lambda m, v, **_: v == 1),
        perturbed("The prior's variance need not be that of q_T.", where=lambda m, v, **_: m == 0),
    ),
)
def exact_start_leaves_no_gap(where: Callable[..., bool] = lambda m, v, **_: m == 0 and v == 1) -> Evidence:
    """The gap is 0 for every eta and sigma_T (VP prior, r = -(x - 1)^2; m = 0, 0.5, v = 0.5, 1, 2, T = 0.3, 1, 2, eta =
    0.5, 1, 2, the reverse process integrated in x).
    """

    def cell(m: float, v: float, T: float, eta: float) -> Any:
        (m_ode, v_ode), (m_sde, v_sde) = (
            reverse_moments(RATES["constant"], T, e, gb.Gaussian(m, v), drift_share) for e in (0.0, eta)
        )
        gap = (m_sde - 1) ** 2 + v_sde - (m_ode - 1) ** 2 - v_ode
        return near(f"gap, N({m:g}, {v:g}), T = {T:g}, eta = {eta:g}", gap, 0, 1e-9)

    axes = {"m": (0.0, 0.5), "v": (0.5, 1.0, 2.0), "T": (0.3, 1.0, 2.0), "eta": (0.5, 1.0, 2.0)}
    found = over(axes, cell, where)
    exact = gb.reward_gap(gb.Gaussian(0.0, 1.0), gb.VP(2.0, "constant"), gb.Quadratic(1.0, 1.0), 0.5)
    return evidence(*found.inside, near("the library's", exact, 0, 1e-15), outside=found.outside)


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("The betas grow linearly, not their roots.", power=1.0),
        perturbed("sigma_T = 14.65.", sigma_T=14.65),
        perturbed("6.8 % of the variance survives.", survives=lambda alpha_bar: alpha_bar),
    ),
)
def stable_diffusion_schedule(
    power: float = 0.5,
    sigma_T: float = 14.61,
    survives: Callable[[float], float] = lambda alpha_bar: alpha_bar**0.5,
) -> Evidence:
    """SD 1.5's schedule, whose roots of beta grow linearly from .00085 to .012 in 1000 steps, has alpha_bar_T = .00466
    and sigma_T = 14.61: 6.8 % of the mean survives at T.
    """
    process = gb.VP.stable_diffusion()
    betas = np.linspace(0.00085**power, 0.012**power, 1000) ** (1 / power)
    product = float(np.prod(1 - betas))
    return evidence(
        near("product of 1 - beta", product, 0.00466, 5e-6),
        near("sigma_T by it", (1 / product - 1) ** 0.5, sigma_T, 0.005),
        near("percent that survives", 100 * survives(product), 6.8, 0.05),
        at_most("error of the library's alpha_bar_T", worst_relative(process.alpha_bar(1000.0), product), 1e-12),
        at_most("error of its sigma_T", worst_relative(process.sigma_T, (1 / product - 1) ** 0.5), 1e-12),
    )


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("Steps are counted from 0, without the offset of 1.", offset=0),
        perturbed("The last step goes to sigma = .03.", last=0.03),
    ),
)
def leading_spacing_starts_below_the_end(offset: int = 1, last: float = 0.0292) -> Evidence:
    """With "leading" spacing, timesteps k (1000/N) + 1, SD 1.5 starts at sigma = 8.39 in 10 steps (11.8 % of the mean
    left) and 13.12 in 50 (7.6 %), and its last step goes to sigma = .0292, not 0.
    """
    alphas_cumprod = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    checks = []
    for steps, sigma, left in ((10, 8.39, 11.8), (50, 13.12, 7.6)):
        first = float(alphas_cumprod[(steps - 1) * (1000 // steps) + offset])
        library = gb.grid(gb.VP.stable_diffusion(steps), steps, "leading")
        checks += [
            near(f"sigma at the first of {steps} steps", (1 / first - 1) ** 0.5, sigma, 0.005),
            near(f"percent of the mean, {steps} steps", 100 * first**0.5, left, 0.05),
            at_most(f"error of the library, {steps} steps", worst_relative(library[0], (1 / first - 1) ** 0.5), 1e-9),
        ]
    return evidence(*checks, near("last sigma", library[-1], last, 5e-5))
