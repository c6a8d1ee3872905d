"""How some paths advance by one step of a sampler: the models' scores meet the kernels' coefficients here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gapbound._validate import Array, count
from gapbound.affine import AffineScore
from gapbound.chain import affine_steps, diagonalised, initial_std
from gapbound.eta import Windows
from gapbound.gaussian import Gaussian, rotate
from gapbound.kernel import Step, check, step
from gapbound.mixture import GaussianMixture
from gapbound.process import Process

Score = Callable[[Tensor, float], Tensor]
Model = Gaussian | GaussianMixture | AffineScore | Score


class Stepper(Protocol):
    """Advances some paths; its state may live in coordinates of its own until ``read``."""

    dim: int
    std: list[float | Tensor]  # of each step; a number, or one per coordinate

    def start(self, x_T: Tensor) -> Tensor:
        """The state that the unit noise ``x_T`` of shape (paths, d) stands for."""

    def step(self, k: int, state: Tensor, xi: Tensor | None) -> Tensor:
        """The state after step ``k``; may overwrite ``state``, never ``xi``, which is None on a deterministic tail."""

    def read(self, k: int, state: Tensor) -> Tensor:
        """z of a state that has made ``k`` steps."""


class AffineStepper:
    """Exact scores of Gaussians and affine models: y = z - (mean path), in the eigenbasis, so y' = A y + S xi."""

    def __init__(
        self,
        diagonal: Gaussian | AffineScore,
        basis: Array | None,
        process: Process,
        sampler: str,
        sigmas: Array,
        eta: Array | Windows,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Compose the chain once, in float64."""
        self.dim = diagonal.dim
        self.std: list[float | Tensor] = []
        self._start = float(initial_std(process))
        self._basis = None if basis is None else torch.tensor(basis, dtype=dtype, device=device)
        self._factors: list[float | Tensor] = []
        centre = np.zeros(self.dim)
        centres = [centre]
        for affine in affine_steps(diagonal, sampler, sigmas, eta):
            centre = affine.A * centre + affine.b
            centres.append(centre)
            self._factors.append(_collapse(affine.A, self.dim, dtype, device))
            self.std.append(_collapse(affine.S, self.dim, dtype, device))
        self._centres = [torch.tensor(rotate(basis, c), dtype=dtype, device=device) for c in centres]

    def start(self, x_T: Tensor) -> Tensor:
        """See ``Stepper``."""
        return self._inward(x_T) * self._start

    def step(self, k: int, state: Tensor, xi: Tensor | None) -> Tensor:
        """See ``Stepper``."""
        state.mul_(self._factors[k])
        if xi is None:
            return state
        std = self.std[k]
        xi = self._inward(xi)
        return state.addcmul_(xi, std) if isinstance(std, Tensor) else state.add_(xi, alpha=std)

    def read(self, k: int, state: Tensor) -> Tensor:
        """See ``Stepper``."""
        return (state if self._basis is None else state @ self._basis.T) + self._centres[k]

    def _inward(self, noise: Tensor) -> Tensor:
        return noise if self._basis is None else noise @ self._basis


class ScoreStepper:
    """Any score: the coefficients of the kernel on eps = -sigma score(z, sigma)."""

    def __init__(
        self,
        score: Score,
        dim: int,
        pure_noise_mean: Array | None,
        process: Process,
        kernels: list[Step],
        sigmas: Array,
    ) -> None:
        """Keep the score and the coefficients of every step."""
        self.dim = dim
        self._stds = [float(kernel.std) for kernel in kernels]
        self.std: list[float | Tensor] = list(self._stds)
        self._score, self._kernels, self._sigmas = score, kernels, sigmas
        self._start, self._pure_noise_mean = float(initial_std(process)), pure_noise_mean

    def start(self, x_T: Tensor) -> Tensor:
        """See ``Stepper``."""
        return x_T * self._start

    def step(self, k: int, state: Tensor, xi: Tensor | None) -> Tensor:
        """See ``Stepper``."""
        kernel, sigma, std = self._kernels[k], float(self._sigmas[k]), self._stds[k]
        if math.isinf(sigma):
            mean = torch.as_tensor(self._pure_noise_mean, dtype=state.dtype, device=state.device)
            first = mean + float(kernel.carry) * state
            return first if xi is None else first.add_(xi, alpha=std)
        eps = self._eps(k, state, sigma)
        first = state + (float(kernel.carry) - sigma) * eps
        if xi is not None:
            first.add_(xi, alpha=std)
        if kernel.again is None or kernel.carry_2 is None:
            return first
        again = self._eps(k, first, float(self._sigmas[k + 1]))
        second = state.add_(eps, alpha=float(kernel.carry_2) - sigma).add_(again, alpha=float(kernel.again))
        return second if xi is None else second.add_(xi, alpha=std)

    def read(self, k: int, state: Tensor) -> Tensor:
        """See ``Stepper``."""
        return state

    def _eps(self, k: int, z: Tensor, sigma: float) -> Tensor:
        return self._score(z, sigma) * -sigma


class CallableStepper(ScoreStepper):
    """A score from outside: its output is checked."""

    def _eps(self, k: int, z: Tensor, sigma: float) -> Tensor:
        score = self._score(z, sigma)
        if not isinstance(score, Tensor) or score.shape != z.shape:
            shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"the score must return a tensor of z's shape {tuple(z.shape)}, got {shape}")
        if not torch.isfinite(score).all():
            row = int((~torch.isfinite(score)).any(-1).nonzero()[0])
            raise ValueError(f"the score is not finite at step {k} (sigma={sigma:g}), at z={z[row].tolist()}")
        return score * -sigma


def make_stepper(
    model: Model,
    process: Process,
    sampler: str,
    sigmas: Array,
    eta: Array | Windows,
    dim: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> AffineStepper | ScoreStepper:
    """The stepper of ``model``: affine scores by their chain, all others by their score.

    Raises:
        ValueError: a batched model, a callable without ``dim`` or from sigma = inf, what ``kernel.check`` refuses.
        TypeError: a model of no known kind.
    """
    if not isinstance(model, Gaussian | AffineScore | GaussianMixture):
        if not callable(model):
            raise TypeError(f"model must be a Gaussian, a mixture, an affine score or a callable, got {model!r}")
        if dim is None:
            raise ValueError("a callable score needs its dimension: dim=...")
        if np.isinf(sigmas[0]):
            raise ValueError("a callable score cannot be asked at sigma = inf; start flow matching at t_max < 1")
        kernels = _kernels(sampler, sigmas, eta)
        return CallableStepper(model, count("dim", dim), None, process, kernels, sigmas)
    if model.batch_shape:
        raise ValueError(f"simulate takes one model at a time, got batch shape {model.batch_shape}")
    if not isinstance(model, GaussianMixture):
        diagonal, basis = diagonalised(model)
        if diagonal.is_diagonal:
            return AffineStepper(diagonal, basis, process, sampler, sigmas, eta, dtype, device)
    return ScoreStepper(model.score, model.dim, model.pure_noise_mean, process, _kernels(sampler, sigmas, eta), sigmas)


def _kernels(sampler: str, sigmas: Array, eta: Array | Windows) -> list[Step]:
    check(sampler, sigmas, eta, None)
    return [step(sampler, sigma, sigma_next, eta) for sigma, sigma_next in itertools.pairwise(sigmas)]


def _collapse(values: Array, dim: int, dtype: torch.dtype, device: torch.device) -> float | Tensor:
    """One number where all coordinates agree, which torch applies faster than a vector."""
    values = np.broadcast_to(values, (dim,))
    return float(values[0]) if (values == values[0]).all() else torch.tensor(values, dtype=dtype, device=device)
