r"""What a gap tends to as the number of steps grows, from a few step counts: only this isolates the integrator.

Per prompt, the gaps at N = N_1 < ... < N_k are fitted by least squares,

.. math:: d_p(N) = a_p + b_p / N + c_p / N^2

without the last term where k = 2, which is Richardson's extrapolation of a method of order one. a_p is a fixed
combination of the d_p(N), so its mean has the interval of any mean over prompts: runs share x_T at every N, and the
interval knows what that is worth.

**Condition.** The smallest N must be large enough for the expansion in 1/N. What the next lower degree gives at the
largest step counts differs from the limit by the **truncation**, an estimate of what the expansion leaves out; a limit
whose truncation exceeds its sampling error is not to be trusted, but too small an N can also hide from it. On
Gaussians of variance 0.5 to 1, reward -z^2 and Stable Diffusion's schedule, 20, 50 and 100 steps leave 3 to 28 % of
the integrator's error at 100 steps (more for larger eta), 10, 20 and 50 leave 18 to 52 % of that at 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from empirical.meter.statistics import Mean, mean
from gapbound._validate import Array


@dataclass(frozen=True)
class Limit:
    """The extrapolation of a gap.

    Attributes:
        steps: the step counts it rests on.
        limit: the gap at N = inf, with the sampling error.
        integrator: gap(N) minus the limit, by N: what the finite step does to it.
        truncation: what the limit would change by with one term less, on the largest step counts.
        trusted: whether the truncation is below the sampling error; None where that is not known.
    """

    steps: tuple[int, ...]
    limit: Mean
    integrator: Mapping[int, Mean]
    truncation: Mean
    trusted: bool | None


def extrapolate(gaps: Mapping[int, Array], level: float = 0.95) -> Limit:
    """The limit of gaps by step count, each of shape (prompts, samples), of the same pairs.

    Raises:
        ValueError: fewer than two step counts, or arrays of several shapes.
    """
    steps = tuple(sorted(gaps))
    if len(steps) < 2:
        raise ValueError(f"a limit needs at least two step counts, got {list(steps)}; add one to steps")
    if len({np.shape(gaps[n]) for n in steps}) > 1:
        raise ValueError(f"the gaps must be of the same pairs, got shapes {[np.shape(gaps[n]) for n in steps]}")
    stacked = np.stack([np.asarray(gaps[n], float) for n in steps], axis=-1)
    degree = min(2, len(steps) - 1)
    limits = stacked @ _weights(steps, degree)
    coarser = stacked[..., -degree:] @ _weights(steps[-degree:], degree - 1)
    limit, truncation = mean(limits, level), mean(coarser - limits, level)
    half_width = None if limit.interval is None else (limit.interval[1] - limit.interval[0]) / 2
    return Limit(
        steps,
        limit,
        {n: mean(stacked[..., k] - limits, level) for k, n in enumerate(steps)},
        truncation,
        None if half_width is None else abs(truncation.value) <= half_width,
    )


def _weights(steps: tuple[int, ...], degree: int) -> Array:
    """How the values at ``steps`` combine to the constant of a least-squares polynomial in 1/N."""
    x = min(steps) / np.array(steps, float)
    return np.linalg.pinv(np.vander(x, degree + 1, increasing=True))[0]
