"""Theory 3.3: how the gap moves during training, and two claims of the paper about it, by exact runs on whole grids."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

from functools import cache

import numpy as np

import gapbound as gb
from analysis.ledger.claim import Check, Evidence, Theme, Verdict, at_least, at_most, evidence, perturbed
from analysis.ledger.tools import moments, over, vp_at, worst
from gapbound.training import History, Phase, Task, phase_diagram, train

THEME = Theme("Training")
REFERENCE, REWARD = gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0)
REWARDS = {"quadratic": REWARD, "linear": gb.Linear(1.0)}
GRID = {
    "policy": ("consistent", "per-step"),
    "sigma_T": (2.0, 5.0, 15.0),
    "steps": (10, 25),
    "eta": (0.5, 0.75, 1.0, 1.5, 2.0),
    "beta": (0.03, 0.1, 0.3, 1.0, 3.0),
}
PAIRS = tuple(zip(GRID["eta"], GRID["eta"][1:], strict=False))  # an eta of the grid and the next larger one
RISES = {"policy": GRID["policy"], "sigma_T": GRID["sigma_T"], "steps": GRID["steps"], "pair": PAIRS}
NAMES = {"consistent": "one law", "per-step": "free steps"}
FREE = {"eta": (0.5, 1.0, 1.5, 2.0), "beta": (1.0, 2.0, 4.0)}  # of the runs that end in a fixed point
SHORT = gb.VP(1.6)


@cache
def phase(policy: str) -> Phase:
    """200 exact updates of Adam from the reference at every cell of ``GRID``, steps uniform in time."""
    keys = {"etas": "eta", "steps": "steps", "sigma_T": "sigma_T", "betas": "beta"}
    return phase_diagram(REFERENCE, REWARD, policy, lengths=(200,), **{name: GRID[key] for name, key in keys.items()})


def index(**cell: float) -> tuple[int, int, int, int, int]:
    """Where a cell stands in the arrays of a ``Phase``, (steps, length, eta, sigma_T, beta)."""
    return tuple(GRID[name].index(cell[name]) if name else -1 for name in ("steps", "", "eta", "sigma_T", "beta"))


def where(sigma_T: float, steps: int, beta: float) -> str:
    """The rest of a cell in words."""
    return f"sigma_T = {sigma_T:g}, N = {steps}, beta = {beta:g}"


@cache
def free_runs(reward: str, kl: str) -> History:
    """300 updates of 6 free steps at every cell of ``FREE``."""
    eta, beta = np.array(FREE["eta"])[:, None], np.array(FREE["beta"])
    return train(
        Task(REFERENCE, SHORT, REWARDS[reward], eta, beta, 6), "per-step", 300, 0.05, kl=kl, decay=True, every=300
    ).history


def off_the_regulator(reward: str, kl: str, eta: float, beta: float, factor: float) -> Check:
    """Largest error of the trained SDE's and ODE's moments, against the regulator with ``factor`` times this beta."""
    history, cell = free_runs(reward, kl), (-1, FREE["eta"].index(eta), FREE["beta"].index(beta))
    regulator = gb.rl_optimum_discrete(REFERENCE, REWARDS[reward], factor * beta, SHORT, "gddim", eta, 6)
    found = (history.mean[cell], history.variance[cell], history.ode_mean[cell], history.ode_variance[cell])
    error = worst(found, (*moments(regulator.law), *moments(regulator.sampled(eta=0.0))))
    return at_most(f"error of the moments, {reward} reward, eta = {eta:g}, beta = {beta:g}", error, 1e-6)


@THEME.claim(
    "theory 3.3",
    "numerical",
    Verdict.PASS,
    refuted_by=perturbed("It ends in the regulator of a beta that is 1 % larger.", factor=1.01),
)
def free_steps_train_to_the_regulator(factor: float = 1.0) -> Evidence:
    """Exact training of a free affine noise prediction on each of 6 steps ends in the linear-quadratic regulator of
    theory 3.2, in the SDE's law and in the ODE's.
    """
    cells = [(reward, eta, beta) for reward in REWARDS for eta in FREE["eta"] for beta in FREE["beta"]]
    return evidence(*(off_the_regulator(reward, "path", eta, beta, factor) for reward, eta, beta in cells))


@THEME.claim(
    "project",
    "numerical",
    Verdict.QUALIFIED,
    condition="linear rewards, whose control does not depend on z",
    refuted_by=(
        perturbed("It trains to the optimum of a beta that is 1 % larger.", factor=1.01),
        perturbed("It does so for quadratic rewards.", kind="quadratic"),
    ),
)
def per_step_kl_has_the_same_fixed_point(kind: str = "linear", factor: float = 1.0) -> Evidence:
    """GRPO's KL term, whose gradient takes the visited states as given, trains to the optimum that the KL of paths has
    (6 free steps).
    """

    def check(reward: str, eta: float, beta: float) -> Check:
        return off_the_regulator(reward, "visited", eta, beta, factor)

    return over({"reward": tuple(REWARDS), **FREE}, check, lambda reward, eta, beta: reward == kind)


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="beta <= .1, and the model stays the score of one law from sigma_T >= 5, or every step is free and eta "
    "is .75 or 1",
    slow=True,
    refuted_by=(
        perturbed("beta <= .3 is enough.", weakest=0.3),
        perturbed("Any sigma_T is enough.", least=2.0),
        perturbed("Free steps narrow it at eta = .5 too.", free=(0.5, 1.0)),
    ),
)
def reward_gaps_narrow_over_training(
    weakest: float = 0.1, least: float = 5.0, free: tuple[float, float] = (0.75, 1.0)
) -> Evidence:
    """Reward gaps narrow over training: after 200 exact updates |gap| is smaller than the reference's (reference N(0,
    1), r = -(x - 1)^2, Adam at .02).
    """

    def check(policy: str, sigma_T: float, steps: int, eta: float, beta: float) -> Check:
        found, cell = phase(policy), index(steps=steps, eta=eta, sigma_T=sigma_T, beta=beta)
        share = found.gap[cell] / found.reference_gap[cell[0], *cell[2:]]
        name = f"|gap| over before, {NAMES[policy]}, eta = {eta:g}, {where(sigma_T, steps, beta)}"
        return at_most(name, abs(share), 1)

    def holds(policy: str, sigma_T: float, steps: int, eta: float, beta: float) -> bool:
        enough = sigma_T >= least if policy == "consistent" else free[0] <= eta <= free[1]
        return beta <= weakest and enough

    return over(GRID, check, holds)


def rise(values: np.ndarray, policy: str, sigma_T: float, steps: int, pair: tuple[float, float], beta: float) -> Check:
    """Whether E r under the ODE, (S, 1, E, T, B), rises from one eta of training to the next."""
    low, high = (values[index(steps=steps, eta=eta, sigma_T=sigma_T, beta=beta)] for eta in pair)
    name = f"rise, {NAMES[policy]}, eta {pair[0]:g} to {pair[1]:g}, {where(sigma_T, steps, beta)}"
    return at_least(name, high - low, 0)


def optimum_rises() -> list[Check]:
    """The same of the RL optimum from sigma_T = 1000."""
    far, checks = vp_at(1000.0), []
    for beta in (0.5, 1.0, 2.0, 4.0):
        laws = [gb.terminal_law(gb.rl_optimum(REFERENCE, REWARD, beta, far, eta), far, 0.0) for eta in GRID["eta"]]
        rises = np.diff([float(REWARD.expectation(law)) for law in laws])
        checks += [
            at_least(f"RL optimum, eta {low:g} to {high:g}, beta = {beta:g}", found, 0)
            for (low, high), found in zip(PAIRS, rises, strict=True)
        ]
    return checks


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="the model stays the score of one law, eta <= 1 (up to where its KL is cheapest), and beta >= .3",
    slow=True,
    refuted_by=(
        perturbed("It does up to eta = 1.5.", up_to=1.5),
        perturbed("beta >= .1 is enough.", strongest=0.1),
    ),
)
def more_stochastic_training_improves_the_ode(up_to: float = 1.0, strongest: float = 0.3) -> Evidence:
    """Training at a larger eta improves the ODE, at an equal number of updates and equal beta (the same runs, and the
    RL optimum with sigma_T = 1000).
    """

    def check(policy: str, sigma_T: float, steps: int, pair: tuple[float, float], beta: float) -> Check:
        return rise(phase(policy).ode, policy, sigma_T, steps, pair, beta)

    def holds(policy: str, sigma_T: float, steps: int, pair: tuple[float, float], beta: float) -> bool:
        return policy == "consistent" and pair[1] <= up_to and beta >= strongest

    grid = over({**RISES, "beta": GRID["beta"]}, check, holds)
    return evidence(*grid.inside, outside=[*grid.outside, *optimum_rises()])


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="the model stays the score of one law, sigma_T <= 5, and KL is its training sampler's, rescaled",
    slow=True,
    refuted_by=(
        perturbed("It does from any sigma_T.", starts=GRID["sigma_T"]),
        perturbed("It does if KL is what the sampler at eta = 1 would pay.", charged="ode_at_kl_1"),
        perturbed("It does with free steps.", kept="per-step"),
    ),
)
def more_stochastic_training_improves_the_ode_at_equal_kl(
    starts: tuple[float, ...] = (2.0, 5.0), charged: str = "ode_at_kl", kept: str = "consistent"
) -> Evidence:
    """Training at a larger eta improves the ODE at equal KL: rescaled by 4 eta^2/(1 + eta^2)^2, or that of the model's
    sampler at eta = 1 (the same runs).
    """
    names = {"ode_at_kl": "at rescaled KL", "ode_at_kl_1": "at KL of eta = 1"}

    def check(kl: str, policy: str, sigma_T: float, steps: int, pair: tuple[float, float], beta: float) -> Check:
        found = rise(getattr(phase(policy), kl), policy, sigma_T, steps, pair, beta)
        return at_least(f"{names[kl]}: {found.what}", found.found, 0)

    def holds(kl: str, policy: str, sigma_T: float, steps: int, pair: tuple[float, float], beta: float) -> bool:
        return kl == charged and policy == kept and sigma_T in starts

    return over({"kl": tuple(names), **RISES, "beta": GRID["beta"]}, check, holds)


RATES = {"sgd": 0.05, "adam": 0.02}


@cache
def without_kl(optimizer: str, steps: int) -> History:
    """200 updates of free steps without KL at every eta and sigma_T of ``GRID``."""
    process = gb.VP(np.sqrt(np.log1p(np.array(GRID["sigma_T"]) ** 2)))
    task = Task(REFERENCE, process, REWARD, np.array(GRID["eta"])[:, None], 0.0, steps)
    return train(task, "per-step", 200, RATES[optimizer], optimizer=optimizer, every=200).history


@THEME.claim(
    "project",
    "numerical",
    Verdict.QUALIFIED,
    condition="plain gradient ascent, or eta <= .75: Adam moves the early steps, which the SDE forgets and the ODE "
    "does not, as fast as the late ones",
    slow=True,
    refuted_by=(
        perturbed("The ODE gains at least 85 % of what the SDE gains.", share=0.85),
        perturbed("With Adam eta <= 1 is enough.", up_to=1.0),
    ),
)
def training_without_kl_improves_the_ode(share: float = 0.75, up_to: float = 0.75) -> Evidence:
    """Without KL (beta = 0), 200 exact updates of free steps improve the ODE by at least three quarters of what they
    improve the SDE by (plain ascent at .05, Adam at .02).
    """

    def check(optimizer: str, steps: int, sigma_T: float, eta: float) -> Check:
        run, cell = without_kl(optimizer, steps), (GRID["eta"].index(eta), GRID["sigma_T"].index(sigma_T))
        ode, sde = (float((values[-1] - values[0])[cell]) for values in (run.ode, run.sde))
        name = f"ODE's gain over the SDE's, {optimizer}, N = {steps}, sigma_T = {sigma_T:g}, eta = {eta:g}"
        return at_least(name, ode / sde, share)

    axes = {"optimizer": tuple(RATES), **{name: GRID[name] for name in ("steps", "sigma_T", "eta")}}
    return over(axes, check, lambda optimizer, steps, sigma_T, eta: optimizer == "sgd" or eta <= up_to)
