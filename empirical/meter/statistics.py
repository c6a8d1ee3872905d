r"""Means over prompts with intervals that respect them: the samples of one prompt are no independent evidence.

A **measurement** of one reward is an array of shape (prompts, samples) for the ODE and (prompts, samples, draws) for
the SDE. With S samples of each of P prompts, whose mean difference in prompt p is d_p,

.. math:: \hat g = \frac1P \sum_p d_p, \qquad \hat g \pm t_{P-1} \, s / \sqrt P, \qquad
    s^2 = \frac{1}{P-1} \sum_p (d_p - \hat g)^2

which is the cluster-robust interval of a balanced design: exact for normal d_p, whatever happens within prompts, and
about the prompts that might have been drawn, not only these. Everything that is compared is such a mean of one number
per prompt: the gap, its difference to a reference's, what guidance adds, the limit of many steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from gapbound._validate import Array, confidence, finite

REPLICATES = 20_000  # for the joint quantile: its level is then known to 0.15 %


@dataclass(frozen=True)
class Mean:
    """A mean over prompts.

    Attributes:
        value: the estimate.
        standard_error: None where there is a single unit.
        interval: (low, high) at ``level``, Student's t; None likewise.
        level: of confidence.
        units: how many independent numbers went in.
        over: "prompts"; or "samples" where there is one prompt only, about which alone the interval then speaks.
    """

    value: float
    standard_error: float | None
    interval: tuple[float, float] | None
    level: float
    units: int
    over: str = "prompts"

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def mean(values: Array, level: float = 0.95) -> Mean:
    """Mean of numbers of shape (prompts, samples), or (prompts,), with the interval of the module's docstring.

    Raises:
        ValueError: no number, one that is not finite, or a level outside (0, 1).
    """
    units, over = independent(values)
    n, level = len(units), confidence(level)
    if n == 1:
        return Mean(float(units[0]), None, None, level, 1, over)
    error = float(units.std(ddof=1)) / n**0.5
    reach = float(student_t.ppf((1 + level) / 2, n - 1)) * error
    value = float(units.mean())
    return Mean(value, error, (value - reach, value + reach), level, n, over)


def independent(values: Array) -> tuple[Array, str]:
    """The numbers that count as independent: means by prompt, or the samples of the only prompt; and what they are."""
    array = finite("values", values)
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"values must have shape (prompts,) or (prompts, samples), got {array.shape}")
    if array.ndim == 2 and len(array) == 1:
        return array[0], "samples"
    return (array if array.ndim == 1 else array.mean(1)), "prompts"


def differences(ode: Array, sde: Array) -> Array:
    """ODE minus the mean of its SDE draws, per pair: (prompts, samples) and (prompts, samples, draws)."""
    ode, sde = finite("ode", ode), finite("sde", sde)
    if sde.ndim != 3 or sde.shape[:2] != ode.shape:
        raise ValueError(
            f"need ode of shape (prompts, samples) and sde (prompts, samples, draws), got {ode.shape} and {sde.shape}"
        )
    return ode - sde.mean(2)


@dataclass(frozen=True)
class Reduction:
    """What pairing was worth: variance of the gap without it over that with it, at equal numbers of runs.

    Attributes:
        x_T: by sharing x_T within a prompt, which theory speaks about; None with one sample a prompt.
        prompts: by giving both samplers the same prompts, on top; None with one prompt.
    """

    x_T: float | None
    prompts: float | None


def variance_reduction(ode: Array, sde: Array) -> Reduction:
    r"""Variance of independent runs over that of the pairs.

    Within prompts, with the K draws of a pair spread over K independent x_T,

    .. math:: \frac{\mathrm{Var}(\text{ode}) + \mathrm{Var}(\text{sde}) / K}{\mathrm{Var}(\text{ode} - \overline{
        \text{sde}})}

    and between prompts that of independent lists of prompts over that of a shared one, both with shared x_T.
    """
    difference, sde = differences(ode, sde), np.asarray(sde, float)
    ode, draws = np.asarray(ode, float), sde.shape[2]
    x_T = prompts = None
    if ode.shape[1] > 1:
        apart = ode.var(1, ddof=1).mean() + sde.var(1, ddof=1).mean() / draws
        x_T = _ratio(apart, difference.var(1, ddof=1).mean())
    if len(ode) > 1:
        apart = ode.mean(1).var(ddof=1) + sde.mean((1, 2)).var(ddof=1)
        prompts = _ratio(apart, difference.mean(1).var(ddof=1))
    return Reduction(x_T, prompts)


def _ratio(apart: float, paired: float) -> float | None:
    """None where the pairs do not vary: then there is nothing to compare with."""
    return float(apart / paired) if paired > 0 else None


def joint_level(columns: Array, level: float = 0.95, seed: int = 0) -> float:
    r"""The level at which single intervals hold all together with ``level``, when their estimates are correlated.

    With R the correlation of the columns over prompts and Z ~ N(0, R), c solves P(max_j \|Z_j\| <= c) = level; the
    single level is P(\|N(0, 1)\| <= c), and Student's t takes it from there. One column, or equal columns, need no
    correction; independent ones get Sidak's; etas that share their ODE run and increments lie between, which is why
    neither Bonferroni nor Holm is used. R is shrunk towards the identity by 1 / (P - 1), as few prompts overstate
    dependence; fewer than ten give Sidak's.

    Args:
        columns: shape (prompts, comparisons), the differences of each comparison.
        level: of all together.
        seed: of the Monte Carlo quantile.
    """
    array, level = finite("columns", columns), confidence(level)
    spread = array.std(0, ddof=1) if len(array) > 1 else np.zeros(array.shape[1])
    array = array[:, spread > 0]  # a comparison that does not vary cannot miss
    prompts, count = array.shape
    if count < 2:
        return level
    sidak = level ** (1 / count)
    if prompts < 10:
        return sidak
    shrink = 1 / (prompts - 1)
    correlation = (1 - shrink) * np.corrcoef(array.T) + shrink * np.eye(count)
    normal = np.random.default_rng(seed).standard_normal((REPLICATES, count)) @ np.linalg.cholesky(correlation).T
    reach = float(np.quantile(np.abs(normal).max(1), level))
    return float(np.clip(2 * norm.cdf(reach) - 1, level, sidak))  # exact bounds; Monte Carlo may cross them by a hair


def together(columns: Sequence[Array], level: float = 0.95) -> list[Mean]:
    """The mean of each column (prompts, samples), with intervals that hold all at once with ``level``."""
    single = joint_level(np.stack([independent(column)[0] for column in columns], axis=1), level)
    return [mean(column, single) for column in columns]
