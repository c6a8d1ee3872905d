"""Grids: the falling noise levels sigma_T = sigma[0] > ... > sigma[steps] that a sampler visits."""

from __future__ import annotations

from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, choice, count, fits, positive, shown
from gapbound.process import VP, Process, checked_process
from gapbound.schedule import SPACINGS, DiscreteRate

#: "time", "sigma": uniform in t, in sigma. "log-sigma": geometric. "karras": uniform in sigma^(1/rho). "leading",
#: "trailing", "linspace": diffusers' timestep spacings on a discrete schedule, each step ending where the next begins;
#: DDIMScheduler's own loop does not always do that, and ``pipeline_law`` follows it.
KINDS = ("time", "sigma", "log-sigma", "karras", *SPACINGS)


@door(infinite=True)
def grid(
    process: Process,
    steps: int,
    kind: str = "time",
    t_min: float = 0.0,
    sigma_min: float = 0.002,
    rho: float = 7.0,
) -> Array:
    r"""Noise levels from sigma_T down to sigma(t_min), shape (steps + 1, \*shape of T).

    Args:
        process: where sigma_T and, for "time", sigma(t) come from.
        steps: number of steps, at least 1.
        kind: one of ``KINDS``.
        t_min: where sampling stops; not for the diffusers spacings, which end where their scheduler does.
        sigma_min: for "log-sigma" and "karras" with t_min = 0: the last positive level, before one step to 0.
        rho: exponent of "karras" (Karras et al., 2022, eq. 5, https://arxiv.org/abs/2206.00364).

    Raises:
        ValueError: an unknown kind, a grid that the process does not admit (sigma_T = inf needs "time"; the spacings
            need a discrete schedule started where they start, and no t_min), sigma_min not below sigma_T, t_min not
            below T, rho not positive, levels that overflow or coincide.
        TypeError: t_min is not one number.
    """
    steps = count("steps", steps)
    fits(f"a grid of {shown(steps)} steps", 8 * (steps + 1), "use fewer steps")  # with what it is made from
    if choice("grid", kind, KINDS) in SPACINGS:
        if not (np.ndim(t_min) == 0 and t_min == 0):
            raise ValueError(f"grid {kind!r} ends where its scheduler ends, got t_min={shown(t_min)}; leave t_min out")
        return _spaced(process, steps, kind)
    with np.errstate(over="ignore", invalid="ignore"):
        levels = _spread(process, steps, kind, t_min, sigma_min, rho)
    levels[0], levels[-1] = process.sigma_T, process.sigma(t_min)  # to the last digit
    if not (levels[1:] < levels[:-1]).all():
        raise ValueError(
            f"{steps} steps of grid {kind!r} from sigma_T = {process.sigma_T} do not fall in floating point: sigma "
            "overflows or neighbours coincide; use a smaller T, fewer steps or another grid"
        )
    return levels


def _spread(process: Process, steps: int, kind: str, t_min: float, sigma_min: float, rho: float) -> Array:
    if np.ndim(t_min):
        raise TypeError(f"t_min must be one number, got {shown(t_min)}")
    sigma_0, sigma_T = checked_process(process).sigma(t_min), process.sigma_T
    if not (sigma_0 < sigma_T).all():
        raise ValueError(f"t_min must be below T, got t_min={t_min} and T={process.T}")
    fraction = np.linspace(0, 1, steps + 1).reshape(-1, *[1] * np.ndim(sigma_T))
    if kind == "time":
        return process.sigma(process.T + (t_min - process.T) * fraction)
    if not np.isfinite(sigma_T).all():
        raise ValueError(f"grid {kind!r} cannot start at sigma_T = inf; use grid='time' or t_max < 1")
    if kind == "sigma":
        return sigma_T + (sigma_0 - sigma_T) * fraction
    power = float(positive("rho", rho)) if kind == "karras" else np.inf
    if (sigma_0 > 0).all():
        return _power_law(sigma_T, sigma_0, fraction, power)
    sigma_min = float(positive("sigma_min", sigma_min))
    if not (sigma_min < sigma_T).all():
        raise ValueError(f"sigma_min must be below sigma_T = {np.min(sigma_T):g}, got {sigma_min:g}")
    inner = np.linspace(0, 1, steps).reshape(-1, *[1] * np.ndim(sigma_T)) if steps > 1 else fraction[:1]
    return np.concatenate([_power_law(sigma_T, sigma_min, inner, power), np.zeros((1, *np.shape(sigma_T)))])


def _power_law(high: Any, low: Any, fraction: Array, rho: float) -> Array:
    if np.isinf(rho):
        return np.exp(np.log(high) + (np.log(low) - np.log(high)) * fraction)
    return (high ** (1 / rho) + (low ** (1 / rho) - high ** (1 / rho)) * fraction) ** rho


def _spaced(process: Process, steps: int, spacing: str) -> Array:
    if not isinstance(process, VP) or not isinstance(process.beta, DiscreteRate):
        raise ValueError(
            f"grid {spacing!r} is a diffusers spacing and needs a discrete schedule: VP.stable_diffusion, "
            "VP.from_diffusers or VP.from_alphas_cumprod"
        )
    times = process.beta.times(steps, spacing)
    if times[0] != process.T:
        raise ValueError(
            f"{spacing!r} spacing with {steps} steps starts at t={times[0]:g}, but the process at t={process.T:g}; "
            f"build it for this start: VP.stable_diffusion({steps}, {spacing!r}) or T={times[0]:g}"
        )
    return process.sigma(times)
