"""How some paths advance by one step of a sampler: the models' scores meet the kernels' coefficients here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gapbound._validate import Array, count, shown
from gapbound.affine import AffineScore
from gapbound.chain import affine_steps, diagonalised, initial_std
from gapbound.eta import Windows
from gapbound.gaussian import Gaussian, rotate
from gapbound.kernel import Step, check, step
from gapbound.mixture import GaussianMixture
from gapbound.process import Process

Score = Callable[[Tensor, float], Tensor]
Move = Callable[[Tensor, Any], Tensor]
Model = Gaussian | GaussianMixture | AffineScore | Score


class Stepper(Protocol):
    """Advances some paths; its state may live in coordinates of its own until ``read``."""

    dim: int
    std: list[float | Tensor]  # of each step; a number, or one per coordinate

    def start(self, x_T: Tensor) -> Tensor:
        """The state that the unit noise ``x_T`` of shape (paths, d) stands for; may overwrite it."""

    def step(self, k: int, state: Tensor, xi: Tensor | None) -> Tensor:
        """The state after step ``k``; may overwrite ``state``, never ``xi``, which is None on a deterministic tail."""

    def read(self, k: int, state: Tensor) -> Tensor:
        """z of a state that has made ``k`` steps."""


class AffineStepper:
    r"""Exact scores of Gaussians and affine models, z = centre + basis (unit w): a step is one operation on w.

    In the eigenbasis y = z - (mean path) moves as y' = A y + S xi. With y = unit w, and the larger of A unit and S for
    the next unit, one of the two factors of w' = kept w + added xi is 1; a deterministic step changes the unit alone.
    """

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
        self._dtype, self._device = dtype, device
        self._basis = None if basis is None else self._tensor(basis)
        centre, unit = np.zeros(self.dim), np.full(self.dim, initial_std(process))
        centres, units = [centre], [unit]
        self.std: list[float | Tensor] = []
        self._moves: list[Move] = []
        for affine in affine_steps(diagonal, sampler, sigmas, eta):
            centre = affine.A * centre + affine.b
            kept, added = affine.A * unit, np.broadcast_to(_held(affine.S, dtype), unit.shape)
            unit = np.where(np.abs(added) >= np.abs(kept), added, kept)
            scale = np.where(unit == 0, 1.0, unit)
            self._moves.append(_move(self._collapsed(kept / scale), self._collapsed(added / scale)))
            self.std.append(self._collapsed(added))
            centres.append(centre)
            units.append(unit)
        self._centres, self._units = [rotate(basis, c) for c in centres], units

    def start(self, x_T: Tensor) -> Tensor:
        """See ``Stepper``."""
        return x_T if self._basis is None else x_T @ self._basis

    def step(self, k: int, state: Tensor, xi: Tensor | None) -> Tensor:
        """See ``Stepper``."""
        if self._basis is not None and xi is not None:
            xi = xi @ self._basis
        return self._moves[k](state, xi)

    def read(self, k: int, state: Tensor) -> Tensor:
        """See ``Stepper``."""
        unit, centre = self._tensor(self._units[k]), self._tensor(self._centres[k])
        if self._basis is None:
            return torch.addcmul(centre, state, unit)
        return torch.addmm(centre, state * unit, self._basis.T)

    def _tensor(self, values: Array) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device)

    def _collapsed(self, values: Array) -> float | Tensor:
        """One number where all coordinates agree, which torch applies faster than a vector."""
        return float(values[0]) if (values == values[0]).all() else self._tensor(values)


class ScoreStepper:
    """Any score: a kernel's coefficients on eps = -sigma score(z, sigma). What a score has been given never changes."""

    def __init__(
        self,
        score: Score,
        dim: int,
        pure_noise_mean: Array | None,
        process: Process,
        kernels: list[Step],
        sigmas: Array,
        dtype: torch.dtype,
    ) -> None:
        """Keep the score and the coefficients of every step.

        Raises:
            ValueError: the start leaves the range of ``dtype``.
        """
        self.dim = dim
        self._stds = [float(_held(kernel.std, dtype)) for kernel in kernels]
        self.std: list[float | Tensor] = list(self._stds)
        self._score, self._kernels, self._sigmas = score, kernels, [float(sigma) for sigma in sigmas]
        self._start, self._pure_noise_mean = float(initial_std(process)), pure_noise_mean
        if self._start > torch.finfo(dtype).max / 10:
            raise ValueError(
                f"the prior's standard deviation {self._start:g} leaves the range of {dtype}; use dtype=torch.float64 "
                "or start from a smaller T"
            )

    def start(self, x_T: Tensor) -> Tensor:
        """See ``Stepper``."""
        return x_T.mul_(self._start)

    def step(self, k: int, state: Tensor, xi: Tensor | None) -> Tensor:
        """See ``Stepper``."""
        kernel, sigma, std = self._kernels[k], self._sigmas[k], self._stds[k]
        if math.isinf(sigma):
            mean = torch.as_tensor(self._pure_noise_mean, dtype=state.dtype, device=state.device)
            first = mean + float(kernel.carry) * state
            return first if xi is None else first.add_(xi, alpha=std)
        if kernel.raised is not None and xi is not None:
            state, sigma, xi = torch.add(state, xi, alpha=std), float(kernel.raised), None
        eps = self._eps(k, state, sigma)
        first = torch.add(state, eps, alpha=float(kernel.carry) - sigma)
        if xi is not None:
            first.add_(xi, alpha=std)
        if kernel.again is None or kernel.carry_2 is None:
            return first
        again = self._eps(k, first, self._sigmas[k + 1])
        second = torch.add(state, eps, alpha=float(kernel.carry_2) - sigma).add_(again, alpha=float(kernel.again))
        return second if xi is None else second.add_(xi, alpha=std)

    def read(self, k: int, state: Tensor) -> Tensor:
        """See ``Stepper``."""
        return state

    def _eps(self, k: int, z: Tensor, sigma: float) -> Tensor:
        return self._score(z, sigma) * -sigma


class CallableStepper(ScoreStepper):
    """A score from outside: it gets a copy of the state, which it may overwrite, and its output is checked."""

    def _eps(self, k: int, z: Tensor, sigma: float) -> Tensor:
        score = self._score(z.clone(), sigma)
        if not isinstance(score, Tensor) or score.shape != z.shape:
            shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"the score must return a tensor of z's shape {tuple(z.shape)}, got {shape}")
        if score.is_complex():
            raise TypeError(f"the score must be real, got {score.dtype}; return its real part if that is what is meant")
        if not torch.isfinite(score).all():
            row = int((~torch.isfinite(score)).any(-1).nonzero()[0])
            raise ValueError(f"the score is not finite at step {k} (sigma={sigma:g}), at z={z[row].tolist()}")
        return score.to(z.dtype) * -sigma


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
        ValueError: a batched model, another ``dim`` than the model's, a callable without ``dim`` or from sigma = inf,
            what ``kernel.check`` refuses.
        TypeError: a model of no known kind.
    """
    if not isinstance(model, Gaussian | AffineScore | GaussianMixture):
        if not callable(model):
            raise TypeError(f"model must be a Gaussian, a mixture, an affine score or a callable, got {shown(model)}")
        if dim is None:
            raise ValueError("a callable score needs its dimension: dim=...")
        if np.isinf(sigmas[0]):
            raise ValueError("a callable score cannot be asked at sigma = inf; start flow matching at t_max < 1")
        kernels = _kernels(sampler, sigmas, eta)
        return CallableStepper(model, count("dim", dim), None, process, kernels, sigmas, dtype)
    if dim is not None and count("dim", dim) != model.dim:
        raise ValueError(f"dim is {dim}, but the model has {model.dim} dimensions; leave dim out")
    if model.batch_shape:
        raise ValueError(f"simulate takes one model at a time, got batch shape {model.batch_shape}")
    if not isinstance(model, GaussianMixture):
        diagonal, basis = diagonalised(model)
        if diagonal.is_diagonal:
            return AffineStepper(diagonal, basis, process, sampler, sigmas, eta, dtype, device)
    kernels = _kernels(sampler, sigmas, eta)
    return ScoreStepper(model.score, model.dim, model.pure_noise_mean, process, kernels, sigmas, dtype)


def _kernels(sampler: str, sigmas: Array, eta: Array | Windows) -> list[Step]:
    check(sampler, sigmas, eta, None)
    return [step(sampler, sigma, sigma_next, eta) for sigma, sigma_next in itertools.pairwise(sigmas)]


def _held(values: Array, dtype: torch.dtype) -> Array:
    """``values``, 0 where they underflow in ``dtype``: a standard deviation that does makes a step deterministic."""
    return np.where(np.abs(values) < torch.finfo(dtype).tiny, 0.0, values)


def _move(kept: float | Tensor, added: float | Tensor) -> Move:
    """``kept * state + added * xi`` in place, in as few passes as the factors allow."""
    if _is(added, 0.0):
        return lambda state, xi: state if _is(kept, 1.0) else state.mul_(kept)
    if _is(added, 1.0):
        if isinstance(kept, Tensor):
            return lambda state, xi: torch.addcmul(xi, state, kept, out=state)
        return lambda state, xi: torch.add(xi, state, alpha=kept, out=state)
    if _is(kept, 1.0):
        if isinstance(added, Tensor):
            return lambda state, xi: state.addcmul_(xi, added)
        return lambda state, xi: state.add_(xi, alpha=added)
    return lambda state, xi: state.mul_(kept).addcmul_(xi, torch.as_tensor(added))


def _is(factor: float | Tensor, value: float) -> bool:
    return not isinstance(factor, Tensor) and factor == value
