r"""Policies: noise predictions eps(z) on the levels of a walk, as immutable values of their parameters.

Sampling at step k draws z' ~ N(z - drop_k eps_k(z), std_k^2); every policy starts as the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from gapbound.training.task import Task, checked_task, tensor


class Affine(NamedTuple):
    r"""``eps_k(z) = gain_k z + offset_k``, shapes (N, \*batch)."""

    gain: Tensor
    offset: Tensor

    def eps(self, z: Tensor, steps: slice = slice(None)) -> Tensor:
        """Predictions at z of shape (steps, n) of a single run (no batch)."""
        return self.gain[steps, None] * z + self.offset[steps, None]


class Policy(Protocol):
    """What training asks of a model."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What is trained."""

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> Self:
        """The same policy with other parameters."""

    def eps(self, z: Tensor, sigma: Tensor, steps: slice = slice(None)) -> Tensor:
        """Noise predictions at z of shape (steps, n) and levels ``sigma`` (steps,), which are ``steps`` of the grid."""


class AffinePolicy(Policy, Protocol):
    """A policy that is affine in z."""

    def affine(self, sigma: Tensor) -> Affine:
        r"""Its gains and offsets at levels (N, \*batch)."""


@dataclass(frozen=True)
class Consistent:
    r"""The exact noise prediction of one law N(m, v) at every level: SDE and ODE agree as N and sigma_T grow.

    .. math:: \epsilon(z) = \sigma \, (z - m) / (v + \sigma^2)

    Attributes:
        mean: m, shape \*batch.
        log_variance: log v, shape \*batch.
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def of(cls, task: Task) -> Self:
        """The reference of ``task``, for each of its runs."""
        law, batch = checked_task(task).gaussian(), task.batch_shape
        return cls(*(tensor(value).expand(batch).clone() for value in (law.mean[0], torch.tensor(law.cov[0]).log())))

    @property
    def variance(self) -> Tensor:
        """The variance v."""
        return self.log_variance.exp()

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mean and log-variance."""
        return self.mean, self.log_variance

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> Self:
        """See ``Policy``."""
        return replace(self, mean=parameters[0], log_variance=parameters[1])

    def affine(self, sigma: Tensor) -> Affine:
        """See ``AffinePolicy``."""
        gain = sigma / (self.variance + sigma**2)
        return Affine(gain, -gain * self.mean)

    def eps(self, z: Tensor, sigma: Tensor, steps: slice = slice(None)) -> Tensor:
        """See ``Policy``."""
        return self.affine(sigma).eps(z)


@dataclass(frozen=True)
class PerStep:
    r"""Independent affine predictions at the N levels of one grid: all that a Gaussian policy with fixed stds can do.

    .. math:: \epsilon_k(z) = \epsilon_k^{ref}(z) + slope_k \frac{z - m}{\sqrt{v + \sigma_k^2}} + shift_k

    In these units a change of slope or shift by 1 changes eps by its own size at every level. Steps without a density
    keep the reference: no policy gradient reaches them.

    Attributes:
        slope: shape (N, \*batch).
        shift: shape (N, \*batch).
        reference: gains and offsets of the reference.
        centre: m.
        scale: sqrt(v + sigma^2), shape (N, \*batch).
        trained: which steps are, shape (N, \*batch).
    """

    slope: Tensor
    shift: Tensor
    reference: Affine
    centre: float
    scale: Tensor
    trained: Tensor

    @classmethod
    def of(cls, task: Task) -> Self:
        """The reference of ``task``, for each of its runs."""
        law, walk = checked_task(task).gaussian(), task.walk()
        base = Consistent.of(task).affine(walk.sigma)
        scale = (walk.sigma**2 + float(law.cov[0])).sqrt()
        zeros = torch.zeros_like(scale)
        return cls(zeros, zeros.clone(), base, float(law.mean[0]), scale, walk.stochastic)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Slopes and shifts."""
        return self.slope, self.shift

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> Self:
        """See ``Policy``."""
        return replace(self, slope=parameters[0], shift=parameters[1])

    def affine(self, sigma: Tensor) -> Affine:
        """See ``AffinePolicy``.

        Raises:
            ValueError: ``sigma`` has another number of levels than the grid the policy was made for.
        """
        if sigma.shape[0] != self.slope.shape[0]:
            raise ValueError(
                f"a per-step policy is defined on its {self.slope.shape[0]} levels alone, got {sigma.shape[0]}"
            )
        return self._on_the_grid()

    def eps(self, z: Tensor, sigma: Tensor, steps: slice = slice(None)) -> Tensor:
        """See ``Policy``."""
        return self._on_the_grid().eps(z, steps)

    def _on_the_grid(self) -> Affine:
        slope = torch.where(self.trained, self.slope / self.scale, 0.0)
        shift = torch.where(self.trained, self.shift, 0.0)
        return Affine(self.reference.gain + slope, self.reference.offset + shift - slope * self.centre)
