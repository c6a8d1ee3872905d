r"""How many samples a wanted half-width takes, fixed by a pilot before the measurement begins.

With P prompts, S samples of each and draws of variance w within a prompt around prompt means of variance b,

.. math:: \mathrm{Var}(\hat g) = \frac1P \Big(b + \frac wS\Big), \qquad h = t_{P-1} \sqrt{\mathrm{Var}(\hat g)}

The pilot estimates b and w on draws of its own, which the measurement does not reuse; S is fixed from them and nothing
is looked at in between, so the interval keeps its coverage, which stopping once it looks narrow would not.
More samples cannot go below t sqrt(b / P): beyond that it takes more prompts, and how many is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from gapbound._validate import Array, confidence, count, finite, positive

LARGEST = 256  # samples per prompt; beyond that, more prompts are the better use of them


@dataclass(frozen=True)
class Spread:
    """Variance components of a paired difference.

    Attributes:
        between: variance of the prompts' true means, at least 0.
        within: variance of the samples of a prompt.
    """

    between: float
    within: float


def spread(pilot: Array) -> Spread:
    """The components by analysis of variance; shape (prompts, samples), at least two of each.

    Raises:
        ValueError: fewer.
    """
    array = finite("pilot", pilot)
    if array.ndim != 2 or min(array.shape) < 2:
        raise ValueError(f"a pilot needs at least two prompts and two samples of each, got shape {array.shape}")
    within = float(array.var(1, ddof=1).mean())
    return Spread(max(0.0, float(array.mean(1).var(ddof=1)) - within / array.shape[1]), within)


def samples_for(half_width: float, components: Spread, prompts: int, level: float = 0.95) -> int:
    """Samples per prompt for an interval of +- ``half_width``.

    Raises:
        ValueError: it takes more than ``LARGEST``: says how many prompts would do with these.
    """
    target = float(positive("half_width", half_width))
    allowed = prompts * (target / _quantile(prompts, level)) ** 2
    left = allowed - components.between
    if components.within > LARGEST * left:
        few = prompts_for(half_width, components, LARGEST, level)
        raise ValueError(
            f"{LARGEST} samples of each of {prompts} prompts do not reach a half-width of {target:g}: their gaps "
            f"differ by a standard deviation of {components.between**0.5:.3g} among themselves; it takes about {few} "
            "prompts"
        )
    return max(1, math.ceil(components.within / left)) if left > 0 else 1


def prompts_for(half_width: float, components: Spread, samples: int, level: float = 0.95) -> int:
    """The least number of prompts, at least 2, for an interval of +- ``half_width`` at ``samples`` of each."""
    target = float(positive("half_width", half_width))
    variance = components.between + components.within / count("samples", samples)

    def reached(prompts: int) -> bool:
        return _quantile(prompts, level) * (variance / prompts) ** 0.5 <= target

    high = 2
    while not reached(high):
        high *= 2
    low = max(2, high // 2)
    while low < high:  # the half-width falls with the number of prompts
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle + 1, high)
    return high


def _quantile(prompts: int, level: float) -> float:
    return float(student_t.ppf((1 + confidence(level)) / 2, count("prompts", prompts, 2) - 1))


def half_width_of(components: Spread, prompts: int, samples: int, level: float = 0.95) -> float:
    """The half-width to expect."""
    return _quantile(prompts, level) * float(np.sqrt((components.between + components.within / samples) / prompts))
