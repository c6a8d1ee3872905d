"""Theory 3.3: how the gap moves during training, and two claims of the paper about it, by exact runs."""

# ruff: noqa: D205  (a docstring here is the exact statement of a claim, however long)

from __future__ import annotations

from typing import Any

import gapbound as gb
from analysis.ledger.claim import Check, Evidence, Theme, Verdict, at_least, at_most, evidence
from analysis.ledger.tools import moments, vp_at, worst
from gapbound.training import Phase, Task, phase_diagram, train

THEME = Theme("Training")
REFERENCE, REWARD = gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0)
PROCESS, SHORT = vp_at(5.0), gb.VP(1.6)
ETAS, STEPS, BETAS = (0.5, 1.0, 1.5, 2.0), (10, 25), (0.1, 0.3, 1.0)


def phase(policy: str) -> Phase:
    """200 exact updates of Adam from the reference, sigma_T = 5, uniform in time."""
    return phase_diagram(REFERENCE, REWARD, policy, etas=ETAS, steps=STEPS, sigma_T=(5.0,), betas=BETAS, lengths=(200,))


def where(eta: float, steps: int, beta: float) -> str:
    """A cell in words."""
    return f"eta = {eta:g}, N = {steps}, beta = {beta:g}"


def fixed_points(reward: Any, kl: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Moments of SDE and ODE after 300 updates of 6 free steps at eta = 1.5, and of the linear-quadratic regulator."""
    task = Task(REFERENCE, SHORT, reward, 1.5, 2.0, 6)
    history = train(task, "per-step", 300, 0.05, kl=kl, decay=True).history
    regulator = gb.rl_optimum_discrete(REFERENCE, reward, 2.0, SHORT, "gddim", 1.5, 6)
    found = (history.mean[-1], history.variance[-1], history.ode_mean[-1], history.ode_variance[-1])
    return tuple(map(float, found)), (*moments(regulator.law), *moments(regulator.sampled(eta=0.0)))


@THEME.claim("theory 3.3", "numerical", Verdict.PASS)
def free_steps_train_to_the_regulator() -> Evidence:
    """Exact training of a free affine noise prediction on each of 6 steps ends in the linear-quadratic regulator of
    theory 3.2, in the SDE's law and in the ODE's.
    """
    return evidence(
        at_most("error of the moments, quadratic reward", worst(*fixed_points(REWARD, "path")), 1e-6),
        at_most("error of the moments, linear reward", worst(*fixed_points(gb.Linear(1.0), "path")), 1e-6),
    )


@THEME.claim("project", "numerical", Verdict.QUALIFIED, condition="linear rewards, whose control does not depend on z")
def per_step_kl_has_the_same_fixed_point() -> Evidence:
    """GRPO's KL term, whose gradient takes the visited states as given, trains to the optimum that the KL of paths has
    (6 free steps).
    """
    return evidence(
        at_most("error of the moments, linear reward", worst(*fixed_points(gb.Linear(1.0), "visited")), 1e-6),
        outside=at_most("error of the moments, quadratic reward", worst(*fixed_points(REWARD, "visited")), 0.01),
    )


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="the model stays the score of one law and the KL is weak (beta <= .1), or every step is free and eta = 1",
    slow=True,
)
def reward_gaps_narrow_over_training() -> Evidence:
    """Reward gaps narrow over training: after 200 exact updates |gap| is smaller than the reference's (reference N(0,
    1), r = -(x - 1)^2, sigma_T = 5).
    """
    one, free = phase("consistent"), phase("per-step")

    def narrowed(found: Phase, eta: float, steps: int, beta: float) -> Check:
        n, e, b = STEPS.index(steps), ETAS.index(eta), BETAS.index(beta)
        share = found.gap[n, -1, e, 0, b] / found.reference_gap[n, e, 0, b]
        name = "one law" if found is one else "free steps"
        return at_most(f"|gap| over before, {name}, {where(eta, steps, beta)}", abs(share), 1)

    return evidence(
        *(narrowed(one, eta, steps, 0.1) for steps in STEPS for eta in ETAS),
        *(narrowed(free, 1.0, steps, beta) for steps in STEPS for beta in BETAS),
        outside=[
            *(narrowed(free, eta, 25, 0.1) for eta in (0.5, 2.0)),
            *(narrowed(one, eta, 25, 1.0) for eta in (0.5, 1.0)),
        ],
    )


def rises(values: Any, name: str, *cells: tuple[float, float, int, float]) -> list[Check]:
    """Whether E r under the ODE, (S, 1, E, 1, B), rises from one eta to another in cells (eta, eta, N, beta)."""
    checks = []
    for low, high, steps, beta in cells:
        row = values[STEPS.index(steps), -1, :, 0, BETAS.index(beta)]
        rise = row[ETAS.index(high)] - row[ETAS.index(low)]
        checks.append(at_least(f"{name}, eta {low:g} to {high:g}, N = {steps}, beta = {beta:g}", rise, 0))
    return checks


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="the model stays the score of one law, and eta <= 1, up to where its KL is cheapest",
    slow=True,
)
def more_stochastic_training_improves_the_ode() -> Evidence:
    """Training at a larger eta improves the ODE, at an equal number of updates and equal beta (the same runs, and the
    RL optimum with sigma_T = 1000 and beta = 2).
    """
    one, free, far = phase("consistent").ode, phase("per-step").ode, vp_at(1000.0)
    optimum = []
    for eta in (0.5, 1.0, 2.0):
        m, v = moments(gb.terminal_law(gb.rl_optimum(REFERENCE, REWARD, 2.0, far, eta), far, 0.0))
        optimum.append(-((m - 1) ** 2) - v)
    return evidence(
        *rises(one, "one law", *((0.5, 1.0, steps, beta) for steps in STEPS for beta in BETAS)),
        outside=[
            *rises(one, "one law", (1.0, 1.5, 25, 0.1), (1.0, 2.0, 25, 0.3)),
            *rises(free, "free steps", (0.5, 1.0, 25, 0.1), (1.0, 2.0, 25, 0.1)),
            at_least("RL optimum, eta 0.5 to 1", optimum[1] - optimum[0], 0),
            at_least("RL optimum, eta 1 to 2", optimum[2] - optimum[1], 0),
        ],
    )


@THEME.claim(
    "paper",
    "numerical",
    Verdict.QUALIFIED,
    condition="the model stays the score of one law, where larger eta visits states that charge the same model less",
    slow=True,
)
def more_stochastic_training_improves_the_ode_at_equal_kl() -> Evidence:
    """Training at a larger eta improves the ODE at equal rescaled KL."""
    one, free = phase("consistent"), phase("per-step")
    cells = [(low, high, n, beta) for low, high in ((0.5, 1.0), (1.0, 2.0)) for n in STEPS for beta in BETAS]
    return evidence(
        *rises(one.ode_at_kl, "one law", *cells),
        outside=[
            *rises(free.ode_at_kl, "free steps", (0.5, 1.0, 25, 0.3), (1.0, 2.0, 25, 0.3)),
            *rises(one.ode_at_kl_1, "one law, KL of its sampler at eta = 1", (0.5, 1.0, 10, 0.3), (0.5, 1.0, 25, 0.3)),
        ],
    )


@THEME.claim(
    "project",
    "numerical",
    Verdict.QUALIFIED,
    condition="plain gradient ascent: Adam moves the early steps, which the SDE forgets and the ODE does not, as fast",
)
def training_without_kl_improves_the_ode() -> Evidence:
    """Without KL (beta = 0), 200 exact updates of 25 free steps at eta = 2 improve the ODE as they improve the SDE."""

    def gains(optimizer: str, rate: float) -> tuple[float, float]:
        task = Task(REFERENCE, PROCESS, REWARD, 2.0, 0.0, 25)
        history = train(task, "per-step", 200, rate, optimizer=optimizer).history
        return float(history.sde[-1] - history.sde[0]), float(history.ode[-1] - history.ode[0])

    plain, adam = gains("sgd", 0.05), gains("adam", 0.02)
    return evidence(
        at_least("gain of the SDE, plain ascent", plain[0], 1),
        at_least("gain of the ODE, plain ascent", plain[1], 1),
        at_least("gain of the SDE, Adam", adam[0], 1),
        outside=at_least("gain of the ODE, Adam", adam[1], 1),
    )
