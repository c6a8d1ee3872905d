"""Theory 8: paired estimates of the gap, what sharing the initial noise is worth, and intervals that cover."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import math

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
    evidence,
    near,
    sampled,
)
from analysis.ledger.tools import vp_at

THEME = Theme("Estimation")
TARGET = gb.Gaussian(0.7, 0.5)
PROCESS = gb.VP.stable_diffusion()
EXACT = {"sampler": "exact", "steps": 1}  # no integrator error at any number of steps
RUNS = 300  # of a coverage measurement


def correlation(target: gb.Gaussian, sigma_T: float, eta: float) -> Check:
    """Of the ends of 200,000 pairs of an ODE and an SDE run that share x_T (VP), against rho^(eta^2/2)."""
    n, v = 200_000, float(target.cov[0])
    runs = [gb.simulate(target, vp_at(sigma_T), "exact", e, 1, n, seed=5).samples[:, 0].double() for e in (0.0, eta)]
    found = np.corrcoef(*(run.numpy() for run in runs))[0, 1]
    said = (v / (v + sigma_T**2)) ** (eta**2 / 2)
    label = f"arctanh of it, v = {v:g}, sigma_T = {sigma_T:g}, eta = {eta:g}"
    return sampled(label, np.arctanh(found), np.arctanh(said), n**-0.5)


@THEME.claim(
    "theory 8",
    "simulation",
    Verdict.QUALIFIED,
    condition="the prior's variance is that of q_T, or nearly: large sigma_T",
)
def correlation_of_ode_and_sde() -> Evidence:
    """For exact Gaussians that share x_T, corr(Y_ODE, Y_SDE) = rho^(eta^2/2), rho = v/(v + sigma_T^2)."""
    matched = gb.Gaussian(0.7, 1.0)  # the VP prior's variance is 1 + sigma_T^2
    return evidence(
        *(correlation(matched, 3.0, eta) for eta in (0.5, 1.0, 1.5)),
        *(correlation(TARGET, 14.61, eta) for eta in (0.5, 1.0, 1.5)),
        outside=correlation(TARGET, 3.0, 0.5),
    )


@THEME.claim("theory 8", "simulation", Verdict.PASS)
def variance_reduction() -> Evidence:
    """At SD 1.5's sigma_T with v = .5, sharing x_T reduces the variance by 1.88, 1.05, 1.00 at eta = .5, 1, 1.5, as
    predicted and as measured.
    """
    found = gb.estimate_gap(TARGET, PROCESS, gb.Linear(1.0), [0.5, 1.0, 1.5], n=20_000, seed=6, **EXACT)
    checks = []
    assert found.predicted_reduction is not None
    for predicted, measured, said in zip(
        found.predicted_reduction, found.variance_reduction, ("1.88", "1.05", "1.00"), strict=True
    ):
        checks.append(as_printed("predicted", predicted, said))
        # 1 - 1/reduction is twice the correlation's share: its error is that of a correlation
        checks.append(sampled("measured, as 1 - 1/reduction", 1 - 1 / measured, 1 - 1 / predicted, 20_000**-0.5))
    return evidence(*checks)


@THEME.claim("theory 8", "numerical", Verdict.QUALIFIED, condition="eta < 1, and a start at finite sigma_T")
def sharing_x_t_alone_pays() -> Evidence:
    """Sharing x_T between ODE and SDE runs reduces the variance of the gap by more than a tenth (v = .5, SD 1.5 or
    flow).
    """

    def reduction(process: gb.Process, eta: float) -> float:
        predicted = gb.estimate_gap(TARGET, process, gb.Linear(1.0), eta, n=2, seed=0, **EXACT).predicted_reduction
        return float(predicted) if predicted is not None else math.nan

    return evidence(
        at_least("SD 1.5, eta = 0.5", reduction(PROCESS, 0.5), 1.1),
        outside=[
            at_least("SD 1.5, eta = 1", reduction(PROCESS, 1.0), 1.1),
            at_least("flow from t = 1, eta = 0.5", reduction(gb.FlowMatching(1.0), 0.5), 1.1),
        ],
    )


@THEME.claim("theory 8", "simulation", Verdict.PASS)
def sharing_increments_between_sde_runs_pays() -> Evidence:
    """SDE runs of eta = 1 and 1.5 that share their increments differ with a variance at least 3 times below that of
    runs that do not (8 exact steps, 20,000 pairs).
    """

    def spread(draw: int) -> float:
        runs = [
            gb.simulate(TARGET, PROCESS, "exact", eta, 8, 20_000, 7, draw=d, grid="log-sigma").samples.double()
            for eta, d in ((1.0, 0), (1.5, draw))
        ]
        return float((runs[0] - runs[1]).var())

    return evidence(at_least("variance without over with shared increments", spread(1) / spread(0), 3))


@THEME.claim("theory 8", "simulation", Verdict.PASS)
def draws_share_one_ode_run() -> Evidence:
    """Several SDE draws per ODE run shrink the standard error as predicted from the exact laws (eta = 0.5, 4 draws)."""
    found = gb.estimate_gap(TARGET, PROCESS, gb.Linear(1.0), 0.5, n=20_000, draws=4, seed=8, **EXACT)
    assert found.predicted_reduction is not None
    share = 1 - 1 / float(found.variance_reduction)
    return evidence(sampled("1 - 1/reduction", share, 1 - 1 / float(found.predicted_reduction), 20_000**-0.5))


def coverage(level: float, shift: float = 0.0) -> float:
    """Share of ``RUNS`` intervals that hold the exact gap moved by ``shift`` standard errors."""
    reward = gb.Quadratic(1.0, -0.7)
    exact = float(gb.reward_gap(TARGET, vp_at(3.0), reward, 1.0))
    held = 0
    for seed in range(RUNS):
        found = gb.estimate_gap(TARGET, vp_at(3.0), reward, 1.0, n=500, seed=1000 + seed, level=level, **EXACT)
        low, high = found.interval
        held += bool(low <= exact + shift * float(found.standard_error) <= high)
    return held / RUNS


@THEME.claim("theory 8", "simulation", Verdict.PASS, slow=True)
def intervals_of_the_gap_cover() -> Evidence:
    """The 95 % and the 80 % interval of a paired estimate hold the exact gap that often (300 runs of 500 pairs), and a
    gap that is 2 standard errors off less than 60 % of the time.
    """
    return evidence(
        *(
            sampled(f"coverage at {level:g}", coverage(level), level, math.sqrt(level * (1 - level) / RUNS))
            for level in (0.95, 0.8)
        ),
        at_most("coverage of a wrong gap", coverage(0.95, 2.0), 0.6),
    )


@THEME.claim("theory 8", "simulation", Verdict.PASS)
def intervals_of_slopes_cover() -> Evidence:
    """``fit_rate``'s 95 % interval covers the slope of known gaps T^-1 with noise, over the range above 3 standard
    errors (2000 fits), and leaves the points below out.
    """
    rng, T = np.random.default_rng(9), np.geomspace(1, 300, 8)
    error = np.full(T.size, 0.01)
    held = used = 0
    for _ in range(2000):
        fit = gb.fit_rate(T, 1 / T + error * rng.normal(size=T.size), error)
        held += fit.interval[0] <= -1 <= fit.interval[1]
        used += bool(fit.used[-1])
    return evidence(
        sampled("coverage", held / 2000, 0.95, math.sqrt(0.95 * 0.05 / 2000)),
        near("fits that use T = 300, a third of a standard error", used, 0, 0),
    )
