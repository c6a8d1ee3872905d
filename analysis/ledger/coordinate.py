"""Theory 1: one coordinate z = x / s and one clock tau = sigma^2 for VE, VP and flow matching."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

import gapbound as gb
from analysis.ledger.claim import Evidence, Theme, Verdict, at_most, close, evidence, near, perturbed
from analysis.ledger.tools import moments, worst, worst_relative

THEME = Theme("One coordinate for all models")
TARGET = gb.Gaussian(0.7, 0.5)
RATES: dict[str, Callable[[float, float], float]] = {
    "2t": lambda t, T: 2 * t,
    "constant": lambda t, T: 1.0,
    "linear": lambda t, T: 0.1 + 19.9 * t / T,
}
TIGHT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}


def forward_moments(beta: Callable[[float, float], float], T: float) -> tuple[float, float]:
    """Mean and variance of X_T under dX = -beta/2 X dt + sqrt(beta) dB from ``TARGET``, by integration in x."""

    def change(t: float, state: Any) -> list[float]:
        return [-beta(t, T) / 2 * state[0], beta(t, T) * (1 - state[1])]

    return tuple(solve_ivp(change, (0, T), moments(TARGET), **TIGHT).y[:, -1])


def reverse_moments(beta: Callable[[float, float], float], T: float, eta: float) -> tuple[float, float]:
    """Mean and variance at t = 0 of the reverse VP process in x, started from N(0, 1), by integration in x and t.

    dX = [-beta/2 X - (1 + eta^2)/2 beta score] dt + eta sqrt(beta) dW with t falling, score = (M_t - x)/V_t.
    """
    m, v = moments(TARGET)

    def change(u: float, state: Any) -> list[float]:
        t = T - u
        mean, variance, keep = state[0], state[1], state[2]  # keep = s(t)^2, carried along
        b, c = beta(t, T), (1 + eta**2) / 2
        M, V = np.sqrt(keep) * m, keep * v + 1 - keep
        return [b / 2 * mean + c * b * (M - mean) / V, b * variance - 2 * c * b * variance / V + eta**2 * b, b * keep]

    start = [0.0, 1.0, float(gb.VP(T, next(k for k in RATES if RATES[k] is beta)).alpha_bar(T))]
    end = solve_ivp(change, (0, T), start, **TIGHT).y[:, -1]
    return end[0], end[1]


@THEME.claim("theory 1", "numerical", Verdict.PASS)
def forward_laws_are_scaled_heat_flow() -> Evidence:
    """X_t = s(t) (X_0 + sigma(t) eps) with s = sqrt(alpha_bar), sigma^2 = (1 - alpha_bar)/alpha_bar for VP; s = 1,
    sigma = t for VE with g^2 = 2t; s = 1 - t, sigma = t/(1 - t) for X_t = (1 - t) X_0 + t eps.
    """
    m, v = moments(TARGET)
    checks = []
    for name, T in (("2t", 1.5), ("constant", 2.0), ("linear", 0.5)):
        process = gb.VP(T, name)
        s, sigma = process.scale(T), process.sigma_T
        checks.append(
            at_most(f"VP {name}: error", worst(forward_moments(RATES[name], T), [s * m, s**2 * (v + sigma**2)]), 1e-9)
        )
    t = np.array([0.1, 0.5, 0.9])
    flow, ve = gb.FlowMatching(0.95), gb.VE(3.0)
    checks.append(at_most("flow: error of the noise's part", worst(flow.scale(t) * flow.sigma(t), t), 1e-15))
    checks.append(at_most("VE: error of int 2t dt", worst(ve.scale(t) ** 2 * ve.sigma(t) ** 2, t**2), 1e-15))
    return evidence(*checks)


@THEME.claim("theory 1", "numerical", Verdict.PASS)
def alpha_bar_of_the_named_schedules() -> Evidence:
    """alpha_bar_T is exp(-T^2) for beta = 2t, exp(-T) for beta = 1 and exp(-10.05 T) for DDPM's beta from 0.1 to 20."""
    T = np.array([0.5, 1.0, 3.0])
    exponents = {"2t": T**2, "constant": T, "linear": 10.05 * T}
    return evidence(
        *(
            at_most(f"error of log alpha_bar_T, {name}", worst(-np.log(gb.VP(T, name).alpha_bar(T)), B), 1e-12)
            for name, B in exponents.items()
        )
    )


@THEME.claim("theory 1", "numerical", Verdict.QUALIFIED, condition="the process is VP")
def alpha_bar_is_the_square_of_the_scale() -> Evidence:
    """alpha_bar = 1/(1 + sigma^2) is s^2, the share of the signal's variance."""

    def error(process: gb.Process) -> float:
        t = np.array([0.1, 0.5, 0.9])
        return worst(process.alpha_bar(t), process.scale(t) ** 2)

    return evidence(
        at_most("|alpha_bar - s^2|, VP", error(gb.VP(1.0)), 1e-15),
        outside=[
            at_most("|alpha_bar - s^2|, flow", error(gb.FlowMatching(0.95)), 1e-15),
            at_most("|alpha_bar - s^2|, VE", error(gb.VE(1.0)), 1e-15),
        ],
    )


@THEME.claim("theory 1", "numerical", Verdict.PASS)
def prior_variance_in_z() -> Evidence:
    """In z the prior's variance Var(X_T)/s_T^2 is sigma_T^2 (VE), 1 + sigma_T^2 (VP) and (1 + sigma_T)^2 (flow)."""

    def in_z(process: gb.Process) -> float:
        return float(process.prior().cov[..., 0] / process.scale(process.T) ** 2)

    ve, vp, flow = gb.VE(3.0), gb.VP(1.2), gb.FlowMatching(0.9)
    return evidence(
        close("VE", in_z(ve), ve.sigma_T**2, 1e-12),
        close("VP", in_z(vp), 1 + vp.sigma_T**2, 1e-12),
        close("flow", in_z(flow), (1 + flow.sigma_T) ** 2, 1e-12),
    )


@THEME.claim("theory 1", "numerical", Verdict.PASS)
def reverse_process_in_x_is_the_reverse_process_in_z() -> Evidence:
    """The reverse VP process, integrated in x and t for every beta, ends in the law that the one formula in z gives."""
    checks = []
    for name, T in (("2t", 1.2), ("constant", 1.5), ("linear", 0.3)):
        for eta in (0.0, 0.5, 1.0, 2.0):
            exact = moments(gb.terminal_law(TARGET, gb.VP(T, name), eta))
            checks.append(
                at_most(f"{name}, eta = {eta:g}: error", worst(reverse_moments(RATES[name], T, eta), exact), 1e-8)
            )
    return evidence(*checks)


@THEME.claim("theory 1", "numerical", Verdict.PASS)
def only_the_prior_tells_the_models_apart() -> Evidence:
    """At one sigma_T the laws under VE, VP and flow differ by the prior's excess variance times Phi^2 alone."""
    sigma, eta = 3.0, 0.5
    ve, vp, flow = gb.VE(sigma), gb.VP(np.sqrt(np.log1p(sigma**2))), gb.FlowMatching(sigma / (1 + sigma))
    laws = {name: moments(gb.terminal_law(TARGET, p, eta)) for name, p in (("VE", ve), ("VP", vp), ("flow", flow))}
    square = (0.5 / (0.5 + sigma**2)) ** (1 + eta**2)
    return evidence(
        at_most("spread of the means", max(m for m, _ in laws.values()) - min(m for m, _ in laws.values()), 1e-14),
        near("VP less VE, variance", laws["VP"][1] - laws["VE"][1], square, 1e-14),
        near("flow less VE, variance", laws["flow"][1] - laws["VE"][1], (1 + 2 * sigma) * square, 1e-14),
    )


@THEME.claim("theory 1", "numerical", Verdict.QUALIFIED, condition="started at t = 1")
def flow_has_no_gap() -> Evidence:
    """Flow matching has no initial mismatch: its continuous-time gap is 0."""

    def gap(t_max: float) -> float:
        return abs(float(gb.reward_gap(TARGET, gb.FlowMatching(t_max), gb.Quadratic(1.0, 0.0), 1.0)))

    return evidence(
        near("|gap|, t_max = 1", gap(1.0), 0, 0),
        outside=near("|gap|, t_max = 0.98", gap(0.98), 0, 0),
    )


@THEME.claim(
    "theory 1", "numerical", Verdict.QUALIFIED, condition="the prior is q_T: v_pi = v + sigma_T^2 and m_pi = m"
)
def exact_start_leaves_no_gap() -> Evidence:
    """The gap is 0 for every eta and sigma_T (VP prior, r = -(x - 1)^2)."""

    def gap(mean: float, variance: float) -> float:
        law, T = gb.Gaussian(mean, variance), np.array([0.1, 1.0, 2.0])[:, None]
        return float(np.abs(gb.reward_gap(law, gb.VP(T), gb.Quadratic(1.0, 1.0), np.array([0.5, 1.0, 2.0]))).max())

    return evidence(
        near("largest |gap|, N(0, 1)", gap(0.0, 1.0), 0, 0),
        outside=[near("largest |gap|, N(0.5, 1)", gap(0.5, 1.0), 0, 0), near("N(0, 0.5)", gap(0.0, 0.5), 0, 0)],
    )


@THEME.claim(
    "theory 6",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("The betas are linear, not their roots.", power=1.0),
)
def stable_diffusion_schedule(power: float = 0.5) -> Evidence:
    """SD 1.5's schedule has alpha_bar_T = .00466 and sigma_T = 14.61: 6.8 % of the mean survives at T."""
    process = gb.VP.stable_diffusion()
    betas = np.linspace(0.00085**power, 0.012**power, 1000) ** (1 / power)
    return evidence(
        near("alpha_bar_T", process.alpha_bar(process.T), 0.00466, 5e-6),
        near("sigma_T", process.sigma_T, 14.61, 0.005),
        near("percent of the mean", 100 * process.scale(process.T), 6.8, 0.05),
        at_most(
            "against the product of 1 - beta", worst_relative(process.alpha_bar(1000.0), np.prod(1 - betas)), 1e-12
        ),
    )


@THEME.claim("theory 6", "numerical", Verdict.PASS)
def leading_spacing_starts_below_the_end() -> Evidence:
    """With "leading" spacing SD 1.5 starts at sigma = 8.39 in 10 steps (11.8 % of the mean left) and 13.12 in 50 (7.6
    %), and its last step goes to sigma = .0292, not 0.
    """
    checks = []
    for steps, sigma, left in ((10, 8.39, 11.8), (50, 13.12, 7.6)):
        process = gb.VP.stable_diffusion(steps)
        checks.append(near(f"sigma at the first of {steps} steps", process.sigma_T, sigma, 0.005))
        checks.append(near(f"percent of the mean, {steps} steps", 100 * process.scale(process.T), left, 0.05))
    last = gb.grid(gb.VP.stable_diffusion(50), 50, "leading")[-1]
    return evidence(*checks, near("last sigma", last, 0.0292, 5e-5))
