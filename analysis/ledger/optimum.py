"""Theory 3.2: what KL-regularised RL on an eta-sampler converges to, and what an ODE makes of its score."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math
from typing import Any

import numpy as np

import gapbound as gb
from analysis.ledger.claim import (
    Check,
    Evidence,
    Theme,
    Verdict,
    as_printed,
    at_least,
    at_most,
    close,
    evidence,
    near,
    sampled,
)
from analysis.ledger.equations import Profile, optimum_moments
from analysis.ledger.mixtures import marched, ode_by_trapezoid, over_the_prior
from analysis.ledger.tools import moments, vp_at, worst

THEME = Theme("The RL optimum")
REFERENCE, REWARD, BETA = gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 2.0  # p* = N(.5, .5)
ELSEWHERE, WISH = gb.Gaussian(0.4, 0.8), gb.Quadratic(0.7, -0.3, 0.2)
MIXGRPO = gb.Windows([(0.5, 2.0, 1.3)])
MODES = gb.GaussianMixture([0.4, 0.6], [-1.5, 1.5], [0.3, 0.5])
UNLIMITED = gb.FlowMatching(1.0)  # sigma_T = inf
V, SLOPE, TEMPERATURE = 0.6, 0.7, 1.3  # N(0, v) and r = b x at beta


def laws(
    reference: gb.Gaussian, reward: Any, beta: float, process: gb.Process, eta: Profile
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and variance of the SDE that was trained, and of the ODE that reuses its score."""
    optimum = gb.rl_optimum(reference, reward, beta, process, eta)
    sde, ode = (moments(gb.terminal_law(optimum, process, own)) for own in (eta, 0.0))
    return sde, ode


def shifts(eta: Profile, process: gb.Process) -> tuple[float, float]:
    """Mean shifts of SDE and ODE for the linear reward."""
    sde, ode = laws(gb.Gaussian(0.0, V), gb.Linear(SLOPE), TEMPERATURE, process, eta)
    return sde[0], ode[0]


@THEME.claim(
    "theory 3.2",
    "simulation",
    Verdict.QUALIFIED,
    condition="the weights are normalised start by start, because RL cannot choose the start",
)
def rl_weights_paths_by_exp_of_the_reward() -> Evidence:
    """RL regularised by the KL of paths draws reference paths weighted by exp(r/beta) (100,000 paths from sigma_T = 2,
    eta = 0.8).
    """
    process, eta, beta, n = gb.VE(2.0), 0.8, 1.5, 100_000
    run = gb.simulate(ELSEWHERE, process, "exact", eta, 3, n, seed=5, trajectory=True)
    assert run.trajectory is not None
    start, end = (z.double().numpy()[:, 0] for z in (run.trajectory[0], run.samples))
    m, v = moments(ELSEWHERE)
    rho = v / (v + 4.0)
    nodes, mass = np.polynomial.hermite_e.hermegauss(40)
    ends = (m + rho ** ((1 + eta**2) / 2) * (start - m))[:, None] + math.sqrt(v * (1 - rho ** (eta**2))) * nodes
    h = np.exp(WISH(ends[..., None]) / beta) @ mass / math.sqrt(2 * math.pi)
    weights = np.exp(WISH(end[:, None]) / beta)
    (mean, variance), _ = laws(ELSEWHERE, WISH, beta, process, eta)

    def checks(name: str, w: np.ndarray) -> list[Check]:
        terms = {"mean": w * (end - mean), "variance": w * ((end - mean) ** 2 - variance)}
        return [sampled(f"{name}: error of the {k}", x.mean(), 0, x.std() / math.sqrt(n)) for k, x in terms.items()]

    return evidence(*checks("start by start", weights / h), outside=checks("all together", weights / weights.mean()))


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def optimum_solves_its_equations() -> Evidence:
    """s* = grad log q_tau + 2 eta^2/(1 + eta^2) grad log h with the affine grad log h of theory 3.2: the SDE's and the
    ODE's law are those of the backward equation of h and of the moment equations, windows included.
    """
    checks = []
    for eta in (0.5, 2.0, MIXGRPO):
        for process in (gb.VE(3.0), vp_at(1000.0)):
            for name, own, law in zip(
                ("SDE", "ODE"), (eta, 0.0), laws(ELSEWHERE, WISH, 1.1, process, eta), strict=True
            ):
                found = optimum_moments(ELSEWHERE, WISH, 1.1, process, eta, own)
                label = "windows" if eta is MIXGRPO else f"eta = {eta:g}"
                checks.append(at_most(f"{name}, {type(process).__name__}, {label}: error", worst(law, found), 1e-8))
    return evidence(*checks)


@THEME.claim("theory 3.2", "numerical", Verdict.QUALIFIED, condition="the prior's mean is that of q_T, or eta <= 1")
def bias_of_the_start() -> Evidence:
    """The eta-SDE's law tends to p* as sigma_T -> inf, with a bias in the mean of order rho^(eta^2), rho = S/(S +
    sigma_T^2).
    """

    def exponent(mean: float, eta: float, low: float, high: float) -> float:
        reference = gb.Gaussian(mean, 1.3)
        aim = float(gb.tilt(reference, REWARD, BETA).mean[0])
        bias = [abs(laws(reference, REWARD, BETA, gb.VE(s), eta)[0][0] - aim) for s in (low, high)]
        return math.log(bias[1] / bias[0]) / math.log((1.3 + low**2) / (1.3 + high**2))

    (mean, variance), _ = laws(REFERENCE, REWARD, BETA, vp_at(1000.0), 0.5)
    return evidence(
        *(
            near(f"exponent of rho, eta = {eta:g}", exponent(0.0, eta, low, high), eta**2, 0.02 * eta**2)
            for eta, low, high in ((0.5, 1e5, 1e8), (1.0, 1e2, 1e4), (1.2, 1e2, 1e3))
        ),
        near("exponent of rho, eta = 0.5, mu = 0.9", exponent(0.9, 0.5, 1e5, 1e8), 0.25, 0.005),
        near("bias of the mean, eta = 0.5, sigma_T = 1000", mean - 0.5, -8.0e-3, 0.05e-3),
        as_printed("its mean", mean, ".492"),
        as_printed("its variance", variance, ".500"),
        outside=near("exponent of rho, eta = 1.4, mu = 0.9", exponent(0.9, 1.4, 1e2, 1e3), 1.96, 0.04),
    )


SAID = {
    1.0: ("0.500", "0.500", "0.500", "0.500", "-0.0004"),
    2.0: ("0.500", "0.500", "0.228", "0.758", "-0.604"),
    0.5: ("0.492", "0.500", "0.622", "0.338", "0.277"),
}


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def example_of_a_reused_score() -> Evidence:
    """Reference N(0, 1), r = -(x - 1)^2, beta = 2, VP, sigma_T = 1000. eta = 1: gap -0.0004; eta = 2: SDE N(.500,
    .500), ODE N(.228, .758), gap -0.604; eta = 0.5: SDE N(.492, .500), ODE N(.622, .338), gap 0.277.
    """
    process, checks = vp_at(1000.0), []
    for eta, printed in SAID.items():
        optimum = gb.rl_optimum(REFERENCE, REWARD, BETA, process, eta)
        (sde, ode), gap = laws(REFERENCE, REWARD, BETA, process, eta), gb.reward_gap(optimum, process, REWARD, eta)
        names = ("SDE's mean", "SDE's variance", "ODE's mean", "ODE's variance", "gap")
        for name, value, said in zip(names, (*sde, *ode, gap), printed, strict=True):
            checks.append(as_printed(f"{name}, eta = {eta:g}", value, said))
        (m_sde, v_sde), (m_ode, v_ode) = (optimum_moments(REFERENCE, REWARD, BETA, process, eta, e) for e in (eta, 0.0))
        by_moments = (m_sde - 1) ** 2 + v_sde - (m_ode - 1) ** 2 - v_ode
        checks.append(near(f"gap less that of the moment equations, eta = {eta:g}", float(gap) - by_moments, 0, 1e-8))
    return evidence(*checks)


@THEME.claim("theory 3.2", "numerical", Verdict.QUALIFIED, condition="eta = 1")
def reused_score_leaves_no_gap() -> Evidence:
    """As sigma_T -> inf the ODE that reuses s* agrees with the SDE that was trained."""

    def gap(eta: float) -> Check:
        optimum = gb.rl_optimum(REFERENCE, REWARD, BETA, UNLIMITED, eta)
        return near(f"gap, eta = {eta:g}", gb.reward_gap(optimum, UNLIMITED, REWARD, eta), 0, 1e-6)

    return evidence(gap(1.0), outside=[gap(eta) for eta in (0.5, 0.8, 1.2, 1.5, 2.0)])


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def shifts_of_a_linear_reward() -> Evidence:
    """For r = b x and N(m, v) the SDE's mean moves by (b v/beta)(1 - r^(2 eta^2)) and the ODE's by (b v/beta) 2 (1 -
    r^(eta^2))/(1 + eta^2), r = sqrt(rho): ODE/SDE = 2/((1 + eta^2)(1 + r^(eta^2))).
    """
    checks, aim = [], SLOPE * V / TEMPERATURE
    for eta in (0.5, 1.0, 2.0):
        for sigma_T in (3.0, 40.0):
            process, r = gb.VE(sigma_T), math.sqrt(V / (V + sigma_T**2))
            said = aim * (1 - r ** (2 * eta**2)), aim * 2 * (1 - r ** (eta**2)) / (1 + eta**2)
            setting = gb.Gaussian(0.0, V), gb.Linear(SLOPE), TEMPERATURE, process, eta
            integrated = [optimum_moments(*setting, own)[0] for own in (eta, 0.0)]
            label = f"eta = {eta:g}, sigma_T = {sigma_T:g}"
            checks += [
                at_most(f"error against the moment equations, {label}", worst(said, integrated), 1e-8),
                at_most(f"error of the library, {label}", worst(shifts(eta, process), said), 1e-12),
                near(f"ratio, {label}", said[1] / said[0], 2 / ((1 + eta**2) * (1 + r ** (eta**2))), 1e-12),
            ]
    return evidence(*checks)


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def memoryless_ratios() -> Evidence:
    """For a linear reward ODE/SDE is 1.6, 1, 0.82, 0.615, 0.4 at eta = 0.5, 1, 1.2, 1.5, 2 in the memoryless limit; at
    sigma_T = 3 and eta = 1 it is still 0.76 (v = 1).
    """
    checks = []
    for eta, said in ((0.5, "1.6"), (1.0, "1"), (1.2, "0.82"), (1.5, "0.615"), (2.0, "0.4")):
        sde, ode = shifts(eta, UNLIMITED)
        checks.append(as_printed(f"eta = {eta:g}", ode / sde, said))
    sde, ode = (moment[0] for moment in laws(REFERENCE, gb.Linear(1.0), 1.0, gb.VE(3.0), 1.0))
    return evidence(*checks, as_printed("eta = 1, sigma_T = 3", ode / sde, "0.76"))


@THEME.claim(
    "theory 3.2",
    "numerical",
    Verdict.QUALIFIED,
    condition="where eta < 1 the start is nearly forgotten: r^(eta^2) < (1 - eta^2)/(1 + eta^2), r < .13 at eta = .5",
)
def ode_over_tilts_below_eta_1_and_under_tilts_above() -> Evidence:
    """The ODE that reuses s* over-tilts for eta < 1 and under-tilts for eta > 1: its mean moves further than the SDE's,
    or less far.
    """

    def ratio(eta: float, sigma_T: float) -> float:
        sde, ode = shifts(eta, gb.VE(sigma_T))
        return ode / sde

    edge = math.sqrt(V * (0.6**-8 - 1))  # r = .6^4
    return evidence(
        *(at_least(f"eta = {eta:g}, sigma_T = 1e4", ratio(eta, 1e4), 1) for eta in (0.5, 0.8)),
        *(at_most(f"eta = {eta:g}, sigma_T = {s:g}", ratio(eta, s), 1) for eta in (1.2, 2.0) for s in (1.0, 1e4)),
        near("eta = 0.5 where r^(1/4) = .6", ratio(0.5, edge), 1, 1e-9),
        outside=[at_least(f"eta = {eta:g}, sigma_T = 3", ratio(eta, 3.0), 1) for eta in (0.5, 0.8)],
    )


@THEME.claim("theory 3.2", "numerical", Verdict.PASS)
def windowed_optimum_never_reaches_the_target() -> Evidence:
    """With an SDE window [sigma_a, sigma_b] and ODE elsewhere the optimum never reaches p*: for a linear reward it
    misses the share ((v + sigma_a^2)/(v + sigma_b^2))^(eta^2) of the shift, at least (sigma_a/sigma_b)^(2 eta^2).
    """
    process, eta, aim, checks, missing = vp_at(1000.0), 1.2, SLOPE * V / TEMPERATURE, [], []
    for low in (0.05, 0.4, 3.0, 30.0):
        window = gb.Windows([(low, 2 * low, eta)])
        said = ((V + low**2) / (V + 4 * low**2)) ** (eta**2)
        setting = gb.Gaussian(0.0, V), gb.Linear(SLOPE), TEMPERATURE, process, window
        found = 1 - optimum_moments(*setting, window)[0] / aim
        checks.append(near(f"share missed, window from {low:g}: moment equations", found, said, 1e-8))
        missing.append(1 - shifts(window, process)[0] / aim)
        checks.append(near(f"share missed, window from {low:g}", missing[-1], said, 1e-10))
    sde, _ = laws(REFERENCE, REWARD, BETA, process, MIXGRPO)
    return evidence(
        *checks,
        at_least("smallest share missed", min(missing), 0.25 ** (eta**2)),
        close("share missed from 30 over that limit", missing[-1], 0.25 ** (eta**2), 2e-3),
        at_most("steps in the share as the window rises", np.max(np.diff(missing)), 0),
        at_least("distance of the mean from p*, quadratic reward", abs(sde[0] - 0.5), 0.02),
    )


@THEME.claim("project", "numerical", Verdict.PASS, slow=True)
def optimum_of_a_mixture() -> Evidence:
    """On two modes the trained SDE's reward is E over the prior of E[r exp(r/beta) | z]/h(z), both from the backward
    equation, and at eta = 1 the ODE is that of p* (sigma_T = 4).
    """
    process, reward, checks = vp_at(4.0), gb.Quadratic(0.5, 1.0), []
    tilted = gb.tilt(MODES, reward, 1.0)
    for eta in (0.5, 1.0):
        found, levels = gb.line_optimum(MODES, reward, 1.0, process, eta), []
        for level in (8, 16):
            y, h = marched(MODES, 4.0, eta, level, lambda y: np.exp(reward(y[:, None])))
            _, u = marched(MODES, 4.0, eta, level, lambda y: reward(y[:, None]) * np.exp(reward(y[:, None])))
            levels.append(over_the_prior(process, y, u / h))
        by_equation = (4 * levels[1] - levels[0]) / 3
        checks.append(near(f"E r of the SDE, eta = {eta:g}", found.sde[0].value, by_equation, 2e-7))
    own = float(reward.expectation(tilted)) + ode_by_trapezoid(tilted, process, reward)
    return evidence(*checks, near("E r of the ODE, eta = 1", found.ode[0][0].value, own, 2e-6))


@THEME.claim("project", "numerical", Verdict.QUALIFIED, condition="eta = 1", slow=True)
def reused_score_leaves_no_gap_on_a_mixture() -> Evidence:
    """On two modes too the ODE that reuses s* earns what the trained SDE earns, to 0.005 (sigma_T = 100)."""
    reward = gb.Quadratic(0.5, 1.0)

    def gap(eta: float) -> Check:
        return near(f"gap, eta = {eta:g}", gb.line_optimum(MODES, reward, 1.0, vp_at(100.0), eta).gap.value, 0, 0.005)

    return evidence(gap(1.0), outside=[gap(0.5), gap(2.0)])
