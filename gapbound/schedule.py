r"""How fast a variance-preserving process forgets: the integrated rate B(t) = int_0^t beta, alpha_bar = exp(-B).

Four rates by name, and the discrete schedules of diffusers as the piecewise-constant rates that they are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, choice, count, finite, flag, within


class Schedule(ABC):
    """The integrated rate of a variance-preserving process on [0, T]."""

    @abstractmethod
    def integral(self, t: Array, T: Array) -> Array:
        """B(t) = int_0^t beta, the same shape as ``t`` and ``T`` broadcast together."""


@dataclass(frozen=True)
class PowerRate(Schedule):
    """``beta(t) = power * t^(power - 1)``: B = t^power. Power 2 is "2t", power 1 "constant"."""

    power: int

    def integral(self, t: Array, T: Array) -> Array:
        """B(t) = t^power; T plays no part."""
        return t**self.power


@dataclass(frozen=True)
class LinearRate(Schedule):
    r"""DDPM's rate, from 0.1 to 20 over [0, T]: ``B = b0 t + (b1 - b0) t^2 / (2 T)``, so B(T) = 10.05 T.

    Reference: Score-Based Generative Modeling through SDEs (Song et al., 2021), https://arxiv.org/abs/2011.13456
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def integral(self, t: Array, T: Array) -> Array:
        """B(t) of the rate stretched over [0, T]."""
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / (2 * T)


@dataclass(frozen=True)
class CosineRate(Schedule):
    r"""``alpha_bar = cos^2((u + s)/(1 + s) pi/2) / cos^2(s/(1 + s) pi/2)``, u = t/T, clipped as usual near u = 1.

    alpha_bar would reach 0 at u = 1. The usual clip (beta at most 0.999 in 1000 steps) acts on the last thousandth of
    [0, T] alone: there alpha_bar falls by the factor 0.001 at a constant rate. At u = k/1000 this equals diffusers'
    "squaredcos_cap_v2". sigma_T is then 20,291 whatever T is: T only sets the unit of time.

    Reference: Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), https://arxiv.org/abs/2102.09672
    """

    offset: float = 0.008
    steps: int = 1000
    beta_max: float = 0.999

    def integral(self, t: Array, T: Array) -> Array:
        """B(t) of the clipped schedule stretched over [0, T]."""
        u = t / T
        clip = 1 - 1 / self.steps
        angle = (np.minimum(u, clip) + self.offset) / (1 + self.offset) * math.pi / 2
        start = self.offset / (1 + self.offset) * math.pi / 2
        smooth = -2 * (np.log(np.cos(angle)) - math.log(math.cos(start)))
        return smooth - math.log1p(-self.beta_max) * self.steps * np.maximum(u - clip, 0)


@dataclass(frozen=True, eq=False)
class DiscreteRate(Schedule):
    """A discrete schedule: alpha_bar(k + 1) = ``alphas_cumprod[k]``, alpha_bar(0) = 1, beta constant in between.

    Time is counted in training steps: diffusers' timestep k is t = k + 1, and clean data is t = 0.

    Args:
        alphas_cumprod: shape (K,), in (0, 1), falling.
        steps_offset: added to the timesteps of "leading" spacing, as in diffusers.
        set_alpha_to_one: whether the last step of a sampler goes to t = 0 or to t = 1, as in diffusers.

    Raises:
        ValueError: the array is empty, not falling, or leaves (0, 1).
    """

    alphas_cumprod: Array = field(repr=False)
    steps_offset: int = 0
    set_alpha_to_one: bool = True

    @door()
    def __post_init__(self) -> None:
        """Validate the fields."""
        count("steps_offset", self.steps_offset, 0)
        flag("set_alpha_to_one", self.set_alpha_to_one)
        alphas = np.atleast_1d(finite("alphas_cumprod", self.alphas_cumprod))
        if alphas.ndim != 1 or not alphas.size:
            raise ValueError(f"alphas_cumprod must have shape (K,), got {alphas.shape}")
        if not ((alphas > 0) & (alphas < 1)).all():
            raise ValueError(
                f"alphas_cumprod must lie in (0, 1), got values from {alphas.min():g} to {alphas.max():g}; a zero-SNR "
                "schedule has no finite sigma_T: leave its last entry out"
            )
        if not (np.diff(alphas) < 0).all():
            k = int(np.argmax(np.diff(alphas) >= 0))
            raise ValueError(f"alphas_cumprod must fall, got {alphas[k]:g} then {alphas[k + 1]:g} at index {k + 1}")
        object.__setattr__(self, "alphas_cumprod", alphas)

    @door(t=finite, T=finite)
    def integral(self, t: Array, T: Array) -> Array:
        """B(t), linear between the knots; T plays no part."""
        knots = np.concatenate([[0.0], -np.log(self.alphas_cumprod)])
        return np.interp(t, np.arange(knots.size), knots)

    @door()
    def times(self, steps: int, spacing: str) -> Array:
        """The falling times that diffusers' DDIMScheduler visits, the final one included: ``steps + 1`` of them.

        Its timesteps for "leading", "trailing" and "linspace", each plus 1 (see the class), then t = 0 or t = 1. One
        fewer where its last step would stand still (steps_offset 0 without set_alpha_to_one). Each of its steps spans
        K // steps training steps; for "linspace", and for "trailing" where ``steps`` does not divide K, that misses its
        own next timestep. These times do not: each step here ends where the next begins, as in the schedulers of
        ``empirical``. ``ddim_loop`` follows DDIMScheduler itself.

        Raises:
            ValueError: more steps than the schedule has, an unknown spacing, no step left.
        """
        K, times = self.alphas_cumprod.size, self._starts(steps, spacing)
        times = times[times >= 1]  # rounding of "trailing" may add one at t = 0, clean data
        # past the schedule's first entry set_alpha_to_one decides; an offset can keep the last step from going there
        last = max(times[-1] - K // steps, 0.0 if self.set_alpha_to_one else 1.0)
        times = np.append(times[times > last], last)
        if times.size < 2:
            raise ValueError(f"{spacing!r} with {steps} step(s) starts at its end, t={last:g}; use more steps")
        return times

    def ddim_loop(self, steps: int, spacing: str) -> tuple[Array, Array]:
        """Where each step of diffusers' DDIMScheduler starts and where it ends, two arrays of falling times.

        A step that starts at t ends at t - K // steps, or past the schedule's first entry at t = 0 or t = 1; the next
        one need not start there.

        Raises:
            ValueError: what ``times`` refuses, or a loop that visits diffusers' timestep -1, the noisiest by mistake.
        """
        K, starts = self.alphas_cumprod.size, self._starts(steps, spacing)
        if starts.size != steps or starts[-1] < 1:
            raise ValueError(
                f"{spacing!r} with {steps} steps visits timestep {starts[-1] - 1:g} in DDIMScheduler, which reads its "
                "noisiest level there; use a number of steps that divides the schedule's, or 'leading'"
            )
        ends = starts - K // steps
        return starts, np.where(ends < 1, 0.0 if self.set_alpha_to_one else 1.0, ends)

    def _starts(self, steps: int, spacing: str) -> Array:
        """The times of diffusers' timesteps, each plus 1."""
        K = self.alphas_cumprod.size
        if count("steps", steps) > K:
            raise ValueError(f"steps must be at most the schedule's {K} training steps, got {steps}")
        choice("spacing", spacing, SPACINGS)
        if spacing == "leading":
            timesteps = np.arange(steps, dtype=float)[::-1] * (K // steps) + self.steps_offset
        elif spacing == "trailing":
            timesteps = np.round(np.arange(K, 0, -K / steps)) - 1
        else:
            timesteps = np.round(np.linspace(0, K - 1, steps))[::-1]
        if timesteps[0] + 1 > K:
            raise ValueError(
                f"{spacing!r} with {steps} steps and steps_offset={self.steps_offset} starts at t={timesteps[0] + 1:g},"
                f" past the schedule's end {K}; use fewer steps"
            )
        return timesteps + 1


SPACINGS = ("leading", "trailing", "linspace")
RATES: dict[str, Schedule] = {
    "2t": PowerRate(2),
    "constant": PowerRate(1),
    "linear": LinearRate(),
    "cosine": CosineRate(),
}

#: The scheduler of Stable Diffusion 1.5, in diffusers' own words.
STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
}


@door()
def from_diffusers(config: Mapping[str, Any]) -> DiscreteRate:
    """The discrete schedule that a diffusers DDIM, DDPM, PNDM or Euler scheduler's ``config`` describes.

    Reads ``trained_betas`` or ``beta_schedule`` ("linear", "scaled_linear", "squaredcos_cap_v2") with ``beta_start``,
    ``beta_end``, ``num_train_timesteps``; ``steps_offset`` and ``set_alpha_to_one``. Defaults are diffusers' own.

    Raises:
        ValueError: an unknown beta_schedule, or rescaled zero-SNR betas, whose sigma_T is infinite.
        TypeError: ``config`` is not a mapping, or a flag in it not True or False.
    """
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping such as scheduler.config, got {type(config).__name__}")
    if flag("rescale_betas_zero_snr", config.get("rescale_betas_zero_snr", False)):
        raise ValueError("rescale_betas_zero_snr=True makes sigma_T infinite; set it to False for a finite start")
    steps = count("num_train_timesteps", config.get("num_train_timesteps", 1000))
    start, end = (
        float(within(key, config.get(key, default), 0.0, 1.0))
        for key, default in (("beta_start", 1e-4), ("beta_end", 0.02))
    )
    name = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = finite("trained_betas", config["trained_betas"])
    elif choice("beta_schedule", name, ("linear", "scaled_linear", "squaredcos_cap_v2")) == "linear":
        betas = np.linspace(start, end, steps)
    elif name == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    else:
        alpha_bar = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return DiscreteRate(
        np.cumprod(1 - betas),
        count("steps_offset", config.get("steps_offset", 0), 0),
        flag("set_alpha_to_one", config.get("set_alpha_to_one", True)),
    )
