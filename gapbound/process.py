r"""Forward processes in one coordinate: x_t = s(t) (x_0 + sigma(t) eps), eps ~ N(0, I).

s is the ``scale`` and sigma the noise-to-signal ratio. In z = x / s and tau = sigma^2 every model is the same heat
flow, q_tau = p * N(0, tau I); only the prior's variance differs. Whatever is computed anywhere in the library is
computed in z from sigma alone, so that no formula is written once for VE and again for VP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, choice, dimension, positive, shown, within
from gapbound.gaussian import Gaussian
from gapbound.schedule import RATES, SPACINGS, STABLE_DIFFUSION, DiscreteRate, Schedule, from_diffusers


class Process(ABC):
    """What the library asks of a forward process; times run from 0 (data) to ``T`` (noise) and broadcast."""

    T: Any

    @abstractmethod
    def scale(self, t: Any) -> Array:
        """s(t), the factor of the signal in x_t."""

    @abstractmethod
    def sigma(self, t: Any) -> Array:
        """The noise-to-signal ratio sigma(t): increasing, 0 at t = 0, possibly inf at t = T."""

    @property
    @abstractmethod
    def prior_excess(self) -> Array:
        """Variance of the prior in z, less sigma_T^2; kept apart because the difference loses all digits at large T."""

    @door()
    def alpha_bar(self, t: Any) -> Array:
        """``1 / (1 + sigma^2)``, for every model: s^2 for VP, formal for the others."""
        with np.errstate(over="ignore"):
            return 1 / (1 + self.sigma(t) ** 2)

    @door(infinite=True)
    def snr(self, t: Any) -> Array:
        """``alpha_bar / (1 - alpha_bar) = 1 / sigma^2``: signal-to-noise ratio of variances; inf at t = 0."""
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(self.sigma(t)) ** -2.0

    @property
    @door(infinite=True)
    def sigma_T(self) -> Array:
        """sigma(T), the noise level at which sampling starts."""
        return self.sigma(self.T)

    @property
    @door(infinite=True)
    def prior_variance(self) -> Array:
        """Variance per coordinate of the prior in z: ``sigma_T^2 + prior_excess``; inf where sigma_T^2 is."""
        with np.errstate(over="ignore"):
            return self.sigma_T**2 + self.prior_excess

    @abstractmethod
    def prior(self, dim: int = 1) -> Gaussian:
        """The law N(0, variance I) in x that sampling starts from, in ``dim`` dimensions."""

    def _time(self, t: Any) -> Array:
        """``t`` validated to lie in [0, T]."""
        return within("t", t, 0.0, float(np.max(self.T)))


@dataclass(frozen=True)
class VE(Process):
    r"""Variance exploding, ``dX = g dB`` with ``g^2 = 2t``: s = 1, sigma = t, prior N(0, T^2 I).

    Reference: Score-Based Generative Modeling through SDEs (Song et al., 2021), https://arxiv.org/abs/2011.13456

    Args:
        T: final time = sigma_T, positive; an array broadcasts.

    Raises:
        ValueError: T is not positive and finite.
    """

    T: Any

    @door()
    def __post_init__(self) -> None:
        """Validate T."""
        object.__setattr__(self, "T", positive("T", self.T))

    @door()
    def scale(self, t: Any) -> Array:
        """1."""
        return np.ones_like(self._time(t))

    @door(infinite=True)
    def sigma(self, t: Any) -> Array:
        """Sigma is the time itself."""
        return self._time(t)

    @property
    @door(infinite=True)
    def prior_excess(self) -> Array:
        """0: the prior has variance sigma_T^2 exactly."""
        return np.zeros_like(self.T)

    @door(dim=dimension)
    def prior(self, dim: int = 1) -> Gaussian:
        """N(0, T^2 I)."""
        return _centred(self.prior_variance, dim)


@dataclass(frozen=True)
class VP(Process):
    r"""Variance preserving, ``dX = -beta/2 X dt + sqrt(beta) dB``: s = sqrt(alpha_bar), prior N(0, I).

    .. math:: \bar\alpha_t = e^{-B(t)}, \quad B(t) = \int_0^t \beta, \quad \sigma^2 = 1/\bar\alpha - 1 = e^B - 1

    Args:
        T: final time, positive; an array broadcasts.
        beta: "2t" (alpha_bar_T = exp(-T^2)), "constant" (beta = 1, exp(-T)), "linear" (DDPM's, from 0.1 to 20 stretched
            over [0, T], exp(-10.05 T)), "cosine" (clipped as usual: see ``gapbound.schedule.CosineRate``), or a
            ``gapbound.schedule.Schedule``.

    Raises:
        ValueError: T is not positive and finite, beta is unknown, or T runs past the end of a discrete schedule.
    """

    T: Any
    beta: str | Schedule = "2t"

    @door()
    def __post_init__(self) -> None:
        """Validate T and beta."""
        object.__setattr__(self, "T", positive("T", self.T))
        if not isinstance(self.beta, Schedule):
            choice("beta", self.beta, RATES)
        elif isinstance(self.beta, DiscreteRate):
            within("T", self.T, 0, self.beta.alphas_cumprod.size)

    @classmethod
    @door()
    def from_alphas_cumprod(cls, alphas_cumprod: Any, T: Any = None) -> VP:
        """A discrete schedule, ``alphas_cumprod`` of shape (K,), falling in (0, 1); time in training steps, T = K.

        diffusers' timestep k is t = k + 1: alpha_bar(k + 1) = alphas_cumprod[k], and t = 0 is clean data. Between the
        steps beta is constant. A smaller ``T`` starts below the schedule's end, as "leading" spacing does.
        """
        schedule = DiscreteRate(alphas_cumprod)
        return cls(schedule.alphas_cumprod.size if T is None else T, schedule)

    @classmethod
    @door()
    def from_diffusers(cls, config: Mapping[str, Any], steps: int | None = None, spacing: str | None = None) -> VP:
        """The process of a diffusers scheduler's ``config``, started where ``steps`` steps of ``spacing`` start.

        A pipeline's process depends on both: "leading" spacing starts below the schedule's end. Without ``steps`` the
        whole schedule; without ``spacing`` the config's own "timestep_spacing".

        Raises:
            ValueError: see ``gapbound.schedule.from_diffusers`` and ``DiscreteRate.times``.
        """
        schedule = from_diffusers(config)
        given = config.get("timestep_spacing", "leading") if spacing is None else spacing
        name = choice("spacing", given, SPACINGS)
        if steps is None:
            return cls(schedule.alphas_cumprod.size, schedule)
        return cls(schedule.times(steps, name)[0], schedule)

    @classmethod
    @door()
    def stable_diffusion(cls, steps: int | None = None, spacing: str = "leading") -> VP:
        """Stable Diffusion 1.5: scaled-linear beta from .00085 to .012 in 1000 steps, steps_offset 1.

        sigma_T = 14.61 on the whole schedule; 8.39 at 10 steps and 13.12 at 50 with its own "leading" spacing, whose
        last step ends at sigma = .0292 (set_alpha_to_one is False).
        """
        return cls.from_diffusers(STABLE_DIFFUSION, steps, spacing)

    @door()
    def integrated_beta(self, t: Any) -> Array:
        """``B(t) = int_0^t beta = -log alpha_bar``."""
        schedule = self.beta if isinstance(self.beta, Schedule) else RATES[self.beta]
        return schedule.integral(self._time(t), self.T)

    @door()
    def scale(self, t: Any) -> Array:
        """sqrt(alpha_bar) = exp(-B/2)."""
        return np.exp(-self.integrated_beta(t) / 2)

    @door(infinite=True)
    def sigma(self, t: Any) -> Array:
        """sqrt(exp(B) - 1), written so that it neither cancels at small B nor overflows before sigma itself does."""
        B = self.integrated_beta(t)
        with np.errstate(over="ignore"):
            return np.exp(B / 2) * np.sqrt(-np.expm1(-B))

    @door()
    def alpha_bar(self, t: Any) -> Array:
        """exp(-B)."""
        return np.exp(-self.integrated_beta(t))

    @property
    @door(infinite=True)
    def prior_excess(self) -> Array:
        """1: N(0, I) in x is N(0, (1 + sigma_T^2) I) in z."""
        return np.ones_like(self.T)

    @door(dim=dimension)
    def prior(self, dim: int = 1) -> Gaussian:
        """N(0, I)."""
        return _centred(np.ones_like(self.T), dim)


@dataclass(frozen=True)
class FlowMatching(Process):
    r"""Flow matching (rectified flow), ``X_t = (1 - t) X_0 + t eps``: s = 1 - t, sigma = t / (1 - t), prior N(0, I).

    Started at t_max = 1 there is no initial mismatch (sigma_T = inf) and the gap in continuous time is 0; started
    below, from N(0, I) as pipelines do, even the centred gap is of order 1/sigma_T.

    Reference: Flow Matching for Generative Modeling (Lipman et al., 2023), https://arxiv.org/abs/2210.02747

    Args:
        t_max: starting time in (0, 1]; an array broadcasts. ``T`` is another name for it.

    Raises:
        ValueError: t_max is outside (0, 1].
    """

    t_max: Any = 1.0

    @door()
    def __post_init__(self) -> None:
        """Validate t_max."""
        object.__setattr__(self, "t_max", within("t_max", positive("t_max", self.t_max), 0.0, 1.0))

    @property
    def T(self) -> Array:
        """t_max, the time at which sampling starts."""
        return self.t_max

    @door()
    def scale(self, t: Any) -> Array:
        """1 - t."""
        return 1 - self._time(t)

    @door(infinite=True)
    def sigma(self, t: Any) -> Array:
        """Sigma = t / (1 - t); inf at t = 1."""
        t = self._time(t)
        with np.errstate(divide="ignore"):
            return t / (1 - t)

    @property
    @door(infinite=True)
    def prior_excess(self) -> Array:
        """1 + 2 sigma_T: N(0, I) in x is N(0, (1 + sigma_T)^2 I) in z."""
        return 1 + 2 * self.sigma_T

    @door(dim=dimension)
    def prior(self, dim: int = 1) -> Gaussian:
        """N(0, I)."""
        return _centred(np.ones_like(self.t_max), dim)


def checked_process(process: Any) -> Process:
    """``process`` itself.

    Raises:
        TypeError: it is not a Process (a class in place of an instance, say).
    """
    if not isinstance(process, Process):
        raise TypeError(f"process must be an instance of VE, VP or FlowMatching, got {shown(process)}")
    return process


def _centred(variance: Array, dim: int) -> Gaussian:
    shape = (*np.shape(variance), dim)
    return Gaussian(np.zeros(shape), np.broadcast_to(np.asarray(variance)[..., None], shape))
