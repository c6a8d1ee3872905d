"""Theory 3.3: the signal, the noise and the price of policy gradients, against stochasticity."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize_scalar

import gapbound as gb
from analysis.ledger.claim import (
    Check,
    Evidence,
    Theme,
    Verdict,
    at_least,
    at_most,
    close,
    evidence,
    near,
    perturbed,
    sampled,
)
from analysis.ledger.tools import over, vp_at, worst
from gapbound.training import (
    Consistent,
    Task,
    best_eta,
    fisher_information,
    fisher_limit,
    gradient_moments,
    signal_share,
)
from gapbound.training.history import Samplers, exact_record

THEME = Theme("Policy gradients")
V, SIGMAS = 0.8, np.array([3.0, 1.2, 0.4, 0.0])
REFERENCE, PROCESS = gb.Gaussian(0.0, 1.0), vp_at(5.0)
ETAS = (0.5, 1.0, 2.0)
BATCHES, SIZE = 100, 4000
Array = np.ndarray[Any, np.dtype[np.float64]]


def exact_paths(eta: float, seed: int) -> tuple[Array, Array]:
    """Ends Y_0 and noises xi (3, n) of three exact-marginal steps on N(0, V), from q_T."""
    rng, n = np.random.default_rng(seed), BATCHES * SIZE
    z, noises = math.sqrt(V + SIGMAS[0] ** 2) * rng.standard_normal(n), rng.standard_normal((3, n))
    for high, low, xi in zip(SIGMAS[:-1], SIGMAS[1:], noises, strict=True):
        ratio = (V + low**2) / (V + high**2)
        R = ratio ** (eta**2 / 2)
        z = math.sqrt(ratio) * R * z + math.sqrt((V + low**2) * (1 - R**2)) * xi
    return z, noises


def signals(eta: float) -> list[tuple[float, float]]:
    """Squared signal-to-noise of (r - E r) grad log p of each step, r = x, with its standard error."""
    ends, noises = exact_paths(eta, 11)
    found = []
    for xi in noises:
        g = (ends * xi).reshape(BATCHES, SIZE)
        ratio = g.mean(1) ** 2 / g.var(1) - 1 / SIZE  # the square of a mean is too large by its variance
        found.append((ratio.mean(), ratio.std(ddof=1) / math.sqrt(BATCHES)))
    return found


def shares(eta: Any, sigmas: Array = SIGMAS) -> list[Array]:
    """The library's a^x (1 - q^x) of each step."""
    return [signal_share(V, high, low, eta) for high, low in itertools.pairwise(sigmas)]


@THEME.claim(
    "theory 3.3",
    "simulation",
    Verdict.FAIL,
    refuted_by=perturbed("It is c^2/(1 + c^2), c^2 = a^x (1 - q^x).", signal=lambda c2: c2 / (1 + c2)),
)
def signal_to_noise_is_the_share(signal: Callable[[Any], Any] = lambda c2: c2) -> Evidence:
    """For a linear reward and exact-marginal kernels one step's squared signal-to-noise is a^x (1 - q^x), x = eta^2, a
    = v/v_s, q = v_s/v_t (400,000 paths of 3 steps).
    """
    checks = []
    for eta in ETAS:
        for k, ((found, error), share) in enumerate(zip(signals(eta), shares(eta), strict=True)):
            checks.append(sampled(f"step {k}, eta = {eta:g}", found, signal(share), error))
    return evidence(*checks)


@THEME.claim(
    "theory 3.3",
    "simulation",
    Verdict.PASS,
    refuted_by=(
        perturbed("The signal is c^2/(1 + 1.2 c^2).", signal=lambda c2: c2 / (1 + 1.2 * c2)),
        perturbed("c^2 = a^x (1 - q^x) with x = eta^1.9.", exponent=1.9),
    ),
)
def signal_to_noise_is_share_over_one_plus_share(
    exponent: float = 2, signal: Callable[[Any], Any] = lambda c2: c2 / (1 + c2)
) -> Evidence:
    """a^x (1 - q^x) is c^2, the squared correlation of Y_0 with the step's noise: the part of Var r that it explains.
    For a linear reward one path's squared signal-to-noise is c^2/(1 + c^2).
    """
    checks: list[Check] = []
    for eta in ETAS:
        ends, noises = exact_paths(eta, 12)
        found = signals(eta)
        for k, share in enumerate(shares(eta ** (exponent / 2))):
            c = np.corrcoef(ends, noises[k])[0, 1]
            said = np.arctanh(np.sqrt(share))
            checks += [
                sampled(f"arctanh c, step {k}, eta = {eta:g}", np.arctanh(c), said, len(ends) ** -0.5),
                sampled(f"signal, step {k}, eta = {eta:g}", found[k][0], signal(share), found[k][1]),
            ]
        task = Task(REFERENCE, PROCESS, gb.Linear(0.8), eta, 0.0, 20)
        exact = gradient_moments(task, Consistent.of(task))
        has = exact.offset_variance > 0
        error = worst(exact.offset_signal[has], signal(exact.correlation**2)[has])
        checks.append(at_most(f"its error on gDDIM, eta = {eta:g}", error, 1e-10))
    return evidence(*checks)


@THEME.claim(
    "theory 3.3",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("They add up to 1 - rho^(eta^1.9).", exponent=1.9),
)
def shares_telescope(exponent: float = 2) -> Evidence:
    """The shares of all steps add up to 1 - rho^(eta^2), rho = v/(v + sigma_T^2): all of Var Y_0 but what comes from
    the start.
    """
    sigmas, checks = gb.grid(PROCESS, 7), []
    for eta in ETAS:
        carried, total = 1.0, 0.0  # from the end upwards: what a unit after the step is at the end
        for high, low in zip(sigmas[-2::-1], sigmas[:0:-1], strict=True):
            ratio = (V + low**2) / (V + high**2)
            total += carried**2 * (V + low**2) * (1 - ratio ** (eta**2)) / V
            carried *= ratio ** ((1 + eta**2) / 2)
        said = 1 - (V / (V + sigmas[0] ** 2)) ** (eta**exponent)
        checks += [
            near(f"sum by the chain, eta = {eta:g}", total, said, 1e-12),
            near(f"sum of the library's, eta = {eta:g}", sum(shares(eta, sigmas)), said, 1e-12),
        ]
    return evidence(*checks)


@THEME.claim(
    "theory 3.3",
    "numerical",
    Verdict.QUALIFIED,
    condition="the last m steps together, however many; every other single step has a best eta",
    refuted_by=(
        perturbed("The condition is: steps together, all but the last.", leave_out=1),
        perturbed("A step's best eta^2 is log(log(a q)/log a)/(-0.9 log q).", factor=0.9),
    ),
)
def more_stochasticity_gives_more_signal(leave_out: int = 0, factor: float = 1.0) -> Evidence:
    """The larger eta, the larger the share of Var r that the noise explains (linear reward, 7 steps, eta from .1 to 3).
    A step from sigma to sigma' > 0 explains most at eta^2 = log(log(a q)/log a)/(-log q).
    """
    sigmas, etas = gb.grid(PROCESS, 7), np.linspace(0.1, 3.0, 59)
    each = np.array(shares(etas, sigmas))
    end = len(each) - leave_out
    inside = [
        at_least(f"smallest rise, steps {first} to {end - 1} together", np.diff(each[first:end].sum(0)).min(), 0)
        for first in range(end)
    ]
    outside = [at_least(f"smallest rise, step {k} alone", np.diff(each[k]).min(), 0) for k in range(len(each) - 1)]
    for k, (high, low) in enumerate(itertools.pairwise(sigmas[:-1])):
        log_a, log_q = math.log(V / (V + low**2)), math.log((V + low**2) / (V + high**2))
        said = math.sqrt(math.log1p(log_q / log_a) / (-factor * log_q))

        def lost(x: float, high: float = high, low: float = low) -> float:
            return -float(signal_share(V, high, low, x))

        found = minimize_scalar(lost, bounds=(0.05, 6.0), method="bounded", options={"xatol": 1e-9}).x
        inside += [
            near(f"best eta of step {k}", found, said, 1e-5),
            near(f"the library's, step {k}", best_eta(V, high, low), said, 1e-12),
        ]
    return evidence(*inside, outside=outside)


def path_kl_of_a_shift(eta: float, steps: int, shift: float) -> float:
    """KL of N-step gDDIM paths on N(shift, 1) to those on N(0, 1): every step's mean moves, whatever z."""
    sigmas = gb.grid(PROCESS, steps)[:-1]  # the last step has no density
    high, low = sigmas[:-1], sigmas[1:]
    k = (low / high) ** (eta**2)
    moved = (high - low * k) * high / (1 + high**2) * shift
    return float((moved**2 / (2 * low**2 * (1 - k**2))).sum())


@THEME.claim(
    "theory 3.3",
    "numerical",
    Verdict.PASS,
    refuted_by=(
        perturbed("The factor is (1 + eta^2)^2/(3.9 eta^2).", divisor=3.9),
        perturbed("It is smallest at eta = 1.05.", smallest=1.05),
    ),
)
def fisher_information_of_a_shared_mean(divisor: float = 4, smallest: float = 1) -> Evidence:
    """The Fisher information of a path about the mean of N(m, v) tends to (1 + eta^2)^2/(4 eta^2) (1/v - 1/(v +
    sigma_T^2)), smallest at eta = 1.
    """
    checks, top = [], float(PROCESS.sigma_T) ** 2

    def limit(eta: float) -> float:
        return (1 + eta**2) ** 2 / (divisor * eta**2) * (1 - 1 / (1 + top))

    for eta in ETAS:
        by_girsanov = quad(lambda tau, e=eta: ((1 + e**2) / (2 * e) / (1 + tau)) ** 2, 0, top)[0]
        task = Task(REFERENCE, PROCESS, gb.Linear(1.0), eta, 0.0, 4000)
        by_kl = 2 * path_kl_of_a_shift(eta, 4000, 0.3) / 0.09
        checks += [
            close(f"by Girsanov's formula, eta = {eta:g}", by_girsanov, limit(eta), 1e-8),
            close(f"the library's limit, eta = {eta:g}", fisher_limit(1.0, math.sqrt(top), eta), limit(eta), 1e-8),
            close(f"4000 steps, eta = {eta:g}", fisher_information(task), limit(eta), 0.01),
            close(f"the same by the KL of a shift, eta = {eta:g}", fisher_information(task), by_kl, 1e-9),
        ]
    found = minimize_scalar(lambda x: float(fisher_limit(1.0, 5.0, x)), bounds=(0.3, 3.0), method="bounded").x
    return evidence(*checks, near("eta where it is smallest", found, smallest, 1e-4))


def record(eta: float, steps: int, mean: float, variance: float) -> dict[str, Any]:
    """KLs of the law N(mean, variance) as a policy, against N(0, 1)."""
    task = Task(REFERENCE, PROCESS, gb.Linear(1.0), eta, 0.0, steps)
    values = (torch.tensor(value, dtype=torch.float64) for value in (mean, math.log(variance)))
    return exact_record(Samplers.of(task), Consistent(*values))


@THEME.claim(
    "theory 3.3",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("It costs (1 + eta^2)^2/(7.6 eta^2) int E|ds|^2 dtau.", divisor=7.6),
)
def path_kl_of_a_score_change(divisor: float = 8) -> Evidence:
    """A score change ds costs the path KL (1 + eta^2)^2/(8 eta^2) int E|ds|^2 dtau, over the states that the changed
    sampler visits (here N(0, 1) becomes N(.7, .3); 4000 steps against the integral).
    """
    m, v, top, checks = 0.7, 0.3, float(PROCESS.sigma_T) ** 2, []
    for eta in ETAS:
        c = (1 + eta**2) / 2

        def change(s: float, x: Array, c: float = c, square: float = eta**2) -> list[float]:
            tau = math.expm1(s)
            gain, offset = 1 / (v + tau) - 1 / (1 + tau), m / (v + tau)  # of ds = offset - gain z
            size = (offset - gain * x[0]) ** 2 + gain**2 * x[1]
            moved = c * (x[0] - m) / (v + tau), 2 * c * x[1] / (v + tau) - square
            return [(1 + tau) * moved[0], (1 + tau) * moved[1], -(1 + tau) * size]

        start = [0.0, float(PROCESS.prior_variance), 0.0]
        end = solve_ivp(change, (math.log1p(top), 0.0), start, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
        said = (1 + eta**2) ** 2 / (divisor * eta**2) * end[2]
        checks.append(close(f"KL of 4000 steps, eta = {eta:g}", record(eta, 4000, m, v)["kl"], said, 0.02))
    return evidence(*checks)


def rescaling(eta: float) -> float:
    """What makes the KL of a shift comparable across eta."""
    return 4 * eta**2 / (1 + eta**2) ** 2


@THEME.claim(
    "theory 3.3",
    "numerical",
    Verdict.QUALIFIED,
    condition="KL rescaled by 4 eta^2/(1 + eta^2)^2, and a change of the score that does not depend on z",
    refuted_by=(
        perturbed("The factor is 4 eta^2/(1 + eta^2)^1.9.", factor=lambda eta: 4 * eta**2 / (1 + eta**2) ** 1.9),
        perturbed("The change may depend on z a little: v becomes .9.", kept=0.9),
    ),
)
def kl_compares_across_eta(factor: Callable[[float], float] = rescaling, kept: float = 1.0) -> Evidence:
    """One and the same change of the model, from N(0, 1) to N(.7, v), costs the same KL at every eta as at eta = 1, so
    that beta and KL mean the same (400 steps, to 0.3 %).
    """
    axes = {"v": (0.3, 0.9, 1.0, 1.5), "rescaled": (False, True), "eta": (0.5, 0.75, 1.5, 2.0)}
    kl = {(v, eta): record(eta, 400, 0.7, v)["kl"] for v in axes["v"] for eta in (1.0, *axes["eta"])}

    def check(v: float, rescaled: bool, eta: float) -> Check:
        ratio = kl[v, eta] / kl[v, 1.0] * (factor(eta) if rescaled else 1)
        name = "rescaled KL" if rescaled else "KL"
        return near(f"{name} of N(.7, {v:g}), eta = {eta:g} over eta = 1", ratio, 1, 0.003)

    grid = over(axes, check, lambda v, rescaled, eta: rescaled and v == kept)
    own = [record(eta, 50, 0.7, 1.0)["rescaled_kl"] for eta in (1.0, 0.5, 2.0)]
    return evidence(
        *grid.inside,
        *(near("the library's for finite steps, over eta = 1", x / own[0], 1, 1e-9) for x in own[1:]),
        outside=grid.outside,
    )
