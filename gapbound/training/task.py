r"""What is trained, and the walk of a sampler down its noise levels as torch tensors.

Everything is one-dimensional: a rotation-invariant problem falls apart into its coordinates. Leading axes are a batch
of independent runs: the shapes of eta, beta and T broadcast to ``Task.batch_shape``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapbound._validate import Array, broadcastable, count, finite, non_negative, shown
from gapbound.eta import Windows, checked
from gapbound.gaussian import Gaussian
from gapbound.grid import grid as make_grid
from gapbound.kernel import step
from gapbound.mixture import GaussianMixture
from gapbound.process import Process, checked_process
from gapbound.reward import Linear, Quadratic, Reward


@dataclass(frozen=True)
class Walk:
    r"""gDDIM on a grid: ``z' = z - drop eps + std xi``, drop = sigma - carry. Shapes (N, \*batch), float64.

    Attributes:
        sigma: noise level at the start of each step.
        drop: how far a unit of eps moves the step's mean, downwards.
        std: of the step's noise; 0 where it is deterministic.
        kl_weight: drop^2 / (2 std^2), the step's KL per squared change of eps; 0 where it is deterministic.
        unit_kl_weight: the same at eta = 1, which rescaled KL uses; 0 where this walk is deterministic.
        start: variance of the prior in z, shape \*batch.
    """

    sigma: Tensor
    drop: Tensor
    std: Tensor
    kl_weight: Tensor
    unit_kl_weight: Tensor
    start: Tensor

    @property
    def stochastic(self) -> Tensor:
        """Which steps have a density."""
        return self.std > 0


@dataclass(frozen=True)
class Task:
    r"""KL-regularised fine-tuning: maximise E r(Y_0) - beta KL(paths of the policy || paths of the reference).

    Paths are those of N steps of gDDIM at stochasticity eta. The KL sums the steps that have a density; a deterministic
    last step to sigma = 0 is not charged (no finite number could be).

    Args:
        reference: Gaussian or mixture with d = 1, not batched: the pre-trained model, whose exact score is known.
        process: where sigma_T, the grid and the prior come from; T broadcasts with eta and beta.
        reward: exact training needs ``Linear`` or ``Quadratic``; sampled training takes any ``Reward``.
        eta: stochasticity in training, positive numbers, or ``Windows``.
        beta: weight of the KL, 0 or more, in units of the reward.
        steps: N.
        grid: see ``gapbound.grid``.

    Raises:
        ValueError: eta is 0 everywhere (the ODE has no policy gradient), sigma_T is infinite, d is not 1, shapes that
            do not broadcast.
        TypeError: arguments of the wrong kind.
    """

    reference: Gaussian | GaussianMixture
    process: Process
    reward: Reward
    eta: Any = 1.0
    beta: Any = 0.0
    steps: int = 10
    grid: str = "time"

    def __post_init__(self) -> None:
        """Validate everything."""
        if not isinstance(self.reference, Gaussian | GaussianMixture):
            raise TypeError(f"reference must be a Gaussian or a GaussianMixture, got {self.reference!r}")
        if self.reference.dim != 1 or self.reference.batch_shape:
            raise ValueError(
                f"reference must have d = 1 and no batch, got d = {self.reference.dim} and batch "
                f"{self.reference.batch_shape}; train coordinate by coordinate"
            )
        if not isinstance(self.reward, Reward):
            raise TypeError(f"reward must be a Reward, got {self.reward!r}")
        object.__setattr__(self, "eta", checked(self.eta))
        object.__setattr__(self, "beta", non_negative("beta", self.beta))
        object.__setattr__(self, "steps", count("steps", self.steps))
        if not np.isfinite(checked_process(self.process).sigma_T).all():
            raise ValueError("training needs a finite sigma_T; start flow matching at t_max < 1")
        _ = self.batch_shape
        if not bool(self.walk().stochastic.any(0).all()):
            raise ValueError(f"a sampler without noise has no policy gradient, got eta={self.eta}; use eta > 0")

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of eta, beta and T."""
        eta = () if isinstance(self.eta, Windows) else self.eta.shape
        return broadcastable("eta, beta and T", eta, self.beta.shape, np.shape(self.process.T))

    @property
    def sigmas(self) -> Array:
        r"""The noise levels, shape (N + 1, \*batch)."""
        return self.levels(self.steps)

    def levels(self, steps: int) -> Array:
        r"""The noise levels of another number of steps, shape (steps + 1, \*batch)."""
        levels, batch = make_grid(self.process, steps, self.grid), self.batch_shape
        aligned = levels.reshape(steps + 1, *[1] * (len(batch) + 1 - levels.ndim), *levels.shape[1:])
        return np.broadcast_to(aligned, (steps + 1, *batch))

    def walk(self, eta: Any = None, steps: int | None = None) -> Walk:
        """The training sampler; or that of another ``eta`` (0 the ODE) or another number of ``steps``."""
        sigmas = self.levels(self.steps if steps is None else steps)
        start = np.broadcast_to(self.process.prior_variance, self.batch_shape)
        return _walk(sigmas, self.eta if eta is None else checked(eta), start)

    def quadratic_form(self) -> tuple[float, float, float, float]:
        """The reward as ``-a (x - c)^2 + b x + const``: numbers (a, c, b, const).

        Raises:
            TypeError: it is neither ``Linear`` nor ``Quadratic``.
        """
        if not isinstance(self.reward, Linear | Quadratic):
            raise TypeError(f"exact training needs a Linear or Quadratic reward, got {self.reward!r}; sample instead")
        A, c, b, const = self.reward.quadratic_form(1)
        return float(np.asarray(A).reshape(-1)[0]), float(c[0]), float(b[0]), float(const)

    def gaussian(self) -> Gaussian:
        """The reference, if it is one Gaussian.

        Raises:
            TypeError: it is a mixture.
        """
        if not isinstance(self.reference, Gaussian):
            raise TypeError(f"closed forms need a Gaussian reference, got {self.reference!r}; use Network")
        return self.reference


def checked_task(task: Any) -> Task:
    """``task`` if it is one; ``TypeError`` otherwise."""
    if not isinstance(task, Task):
        raise TypeError(f"task must be a gapbound.training.Task, got {shown(task)}")
    return task


def tensor(values: Any) -> Tensor:
    """``values`` as a float64 tensor of its own."""
    return torch.tensor(np.array(finite("values", values)), dtype=torch.float64)


def _walk(sigmas: Array, eta: Array | Windows, start: Array) -> Walk:
    sigma, below = sigmas[:-1], sigmas[1:]
    kernel, unit = step("gddim", sigma, below, eta), step("gddim", sigma, below, np.ones(()))
    drop, std = np.broadcast_to(sigma - kernel.carry, sigma.shape), np.broadcast_to(kernel.std, sigma.shape)
    has = std > 0
    with np.errstate(all="ignore"):  # ``tensor`` refuses what is not finite
        weight = np.where(has, (drop / np.where(has, std, 1.0)) ** 2 / 2, 0.0)
        unit_weight = np.where(has, ((sigma - unit.carry) / np.where(has, unit.std, 1.0)) ** 2 / 2, 0.0)
    return Walk(*(tensor(part) for part in (sigma, drop, std, weight, unit_weight, start)))
