r"""Affine score models: score(z, sigma) = o(sigma) - G(sigma) z, and the laws that their samplers end in.

A Gaussian target is one (G = (cov + sigma^2)^-1). Classifier-free guidance between Gaussians is another, and it is not
the score of any diffused law: its ODE and its SDE differ even for sigma_T -> inf and N -> inf, without any training.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gapbound._arrays import finite_points, like, points
from gapbound._door import door
from gapbound._validate import Array, broadcastable, finite, non_negative
from gapbound.eta import Windows, log_variance_ratio, segments
from gapbound.gaussian import Gaussian, rotate, transposed, trusted

NODES_PER_PANEL = 16
PANEL_WIDTH = 1.0  # in log(tau + floor): the integrands are analytic to a distance pi there, 16 nodes reach rounding
STEEPEST = 8.0  # fall of log Psi within one panel that 16 nodes still resolve to rounding
FORGOTTEN = 1e-140  # a share of the start too small to matter, even squared
FAR = 1e20  # stands for sigma_T = inf, in units of the model's largest standard deviation (or of 1)


class AffineScore(ABC):
    r"""A model whose score is affine in z at every noise level."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """The dimension d."""

    @property
    @abstractmethod
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the leading axes of the parameters."""

    @property
    @abstractmethod
    def is_diagonal(self) -> bool:
        """Whether the gain acts on each coordinate alone."""

    @property
    @abstractmethod
    def variance_range(self) -> tuple[float, float]:
        """Smallest and largest variance at which the gain changes its behaviour: the scales to resolve."""

    @property
    @abstractmethod
    def pure_noise_mean(self) -> Array:
        r"""What the denoiser returns at sigma = inf, shape (\*batch, d)."""

    @property
    def cuts(self) -> Windows:
        """Windows whose edges are where the score jumps or bends: exact laws are integrated between them."""
        return Windows([])

    @abstractmethod
    def gain(self, sigma: Any) -> Array:
        r"""G(sigma), shape (\*batch, d) when diagonal, else (\*batch, d, d); axes of sigma broadcast with the batch."""

    @abstractmethod
    def offset(self, sigma: Any) -> Array:
        r"""o(sigma), shape (\*batch, d)."""

    @door(sigma=non_negative)
    def kept(self, sigma: Any) -> Array:
        r"""I - sigma^2 G(sigma), shaped like the gain: what the denoiser z + sigma^2 score keeps of z."""
        tau = np.asarray(sigma, dtype=float)[..., None] ** 2
        if self.is_diagonal:
            return 1 - tau * self.gain(sigma)
        return np.eye(self.dim) - tau[..., None] * self.gain(sigma)

    @door(z=finite_points, sigma=non_negative)
    def score(self, z: Any, sigma: Any = 0.0) -> Any:
        """``o - G z`` for an array or a tensor ``z`` of last axis d."""
        z = points("z", z, self.dim)
        gain, offset = like(z, self.gain(sigma)), like(z, self.offset(sigma))
        return offset - (gain * z if self.is_diagonal else rotate(gain, z))

    def diagonalised(self) -> tuple[AffineScore, Array | None]:
        """The model in a basis where its gain is diagonal, and that basis; itself and None if there is none."""
        return self, None


@dataclass(frozen=True, eq=False)
class Guided(AffineScore):
    """Classifier-free guidance on Gaussians; see ``guided``."""

    unconditional: Gaussian
    conditional: Gaussian
    scale: Array

    @property
    def laws(self) -> tuple[Gaussian, Gaussian]:
        """The unconditional and the conditional law."""
        return self.unconditional, self.conditional

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.conditional.dim

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Common shape of the two laws' batches and the scale."""
        return np.broadcast_shapes(self.unconditional.batch_shape, self.conditional.batch_shape, self.scale.shape)

    @property
    def is_diagonal(self) -> bool:
        """Whether both covariances are diagonal."""
        return self.unconditional.is_diagonal and self.conditional.is_diagonal

    @property
    @door()
    def variance_range(self) -> tuple[float, float]:
        """Extreme eigenvalues of the two covariances."""
        eigenvalues = [law.spectrum[0] for law in self.laws]
        return min(float(e.min()) for e in eigenvalues), max(float(e.max()) for e in eigenvalues)

    @property
    @door()
    def pure_noise_mean(self) -> Array:
        """The extrapolated mean."""
        return _extrapolate(self.unconditional.mean, self.conditional.mean, self.scale[..., None])

    @door(sigma=non_negative)
    def gain(self, sigma: Any) -> Array:
        """(1 - w) G_unconditional + w G_conditional."""
        if self.is_diagonal:
            return _extrapolate(self.unconditional.gain(sigma), self.conditional.gain(sigma), self.scale[..., None])
        noise = np.asarray(sigma, dtype=float)[..., None, None] ** 2 * np.eye(self.dim)
        unconditional, conditional = (np.linalg.inv(law.matrix + noise) for law in self.laws)
        return _extrapolate(unconditional, conditional, self.scale[..., None, None])

    @door(sigma=non_negative)
    def kept(self, sigma: Any) -> Array:
        """(1 - w) cov G + w cov G of the two laws: nothing is subtracted from 1."""
        if self.is_diagonal:
            unconditional, conditional = (law.cov * law.gain(sigma) for law in self.laws)
            return _extrapolate(unconditional, conditional, self.scale[..., None])
        noise = np.asarray(sigma, dtype=float)[..., None, None] ** 2 * np.eye(self.dim)
        unconditional, conditional = (law.matrix @ np.linalg.inv(law.matrix + noise) for law in self.laws)
        return _extrapolate(unconditional, conditional, self.scale[..., None, None])

    @door(sigma=non_negative)
    def offset(self, sigma: Any) -> Array:
        """(1 - w) o_unconditional + w o_conditional."""
        return _extrapolate(self.unconditional.offset(sigma), self.conditional.offset(sigma), self.scale[..., None])

    def diagonalised(self) -> tuple[AffineScore, Array | None]:
        """The model in the common eigenbasis of the two covariances, if they commute and are not batched."""
        return self._diagonalised

    @cached_property
    @door()
    def _diagonalised(self) -> tuple[AffineScore, Array | None]:
        if self.is_diagonal or self.batch_shape:
            return self, None
        # a generic combination of commuting matrices has no eigenspace that is not shared by both
        scaled = [law.matrix / law.variances.max() for law in self.laws]
        _, basis = np.linalg.eigh(scaled[0] + math.pi * scaled[1])
        rotated = [transposed(basis) @ matrix @ basis for matrix in scaled]
        if max(np.abs(matrix - np.diag(np.diag(matrix))).max() for matrix in rotated) > 1e-12:
            return self, None
        unconditional, conditional = (
            Gaussian(rotate(transposed(basis), law.mean), np.diag(transposed(basis) @ law.matrix @ basis))
            for law in self.laws
        )
        return Guided(unconditional, conditional, self.scale), basis


def _extrapolate(unconditional: Array, conditional: Array, scale: Array) -> Array:
    return unconditional + scale * (conditional - unconditional)


@door()
def guided(unconditional: Gaussian, conditional: Gaussian, scale: Any) -> Guided:
    r"""The affine score of classifier-free guidance, accepted wherever a target is.

    .. math:: \text{score} = \text{score}_u + w \, (\text{score}_c - \text{score}_u)

    w = 0 is the unconditional model, 1 the conditional one, above 1 extrapolates as pipelines do (7.5 is usual).

    Reference: Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), https://arxiv.org/abs/2207.12598, whose weight
    is w - 1.

    Args:
        unconditional: Gaussian, any batch.
        conditional: Gaussian of the same dimension.
        scale: w, a finite number or an array that broadcasts with the batches.

    Raises:
        ValueError: dimensions differ, batches do not broadcast, w is not finite.
        TypeError: a law is not a Gaussian.
    """
    for name, law in (("unconditional", unconditional), ("conditional", conditional)):
        if not isinstance(law, Gaussian):
            raise TypeError(f"{name} must be a Gaussian, got {type(law).__name__}")
    if unconditional.dim != conditional.dim:
        raise ValueError(f"both laws must have the same dimension, got {unconditional.dim} and {conditional.dim}")
    weight = finite("scale", scale)
    broadcastable("the batches and scale", unconditional.batch_shape, conditional.batch_shape, weight.shape)
    return Guided(unconditional, conditional, weight)


def moments(model: AffineScore, sigma_0: Array, sigma_T: Array, prior_excess: Array, eta: Array | Windows) -> Gaussian:
    r"""Law at sigma_0 of the sampler on an affine score, started from N(0, (sigma_T^2 + excess) I).

    .. math:: m' = c (G m - o), \quad V' = c (G V + V G^\top) - \eta^2 I, \quad c = (1 + \eta^2)/2, \quad ' = d/d\tau

    With Psi(tau) what a deviation at tau leaves at the end, Psi' = -c Psi G and Psi(sigma_0^2) = I, this is

    .. math:: m = \int \Psi \, c \, o \, d\tau, \quad V = \int \eta^2 \Psi \Psi^\top d\tau + \Psi_T V_T \Psi_T^\top,

    by Gauss-Legendre collocation on panels of log(tau + floor), from sigma_0 up; accurate to about 1e-13.

    Raises:
        ValueError: the law overflows or its variance underflows, as guidance can make it.
    """
    model, basis = model.diagonalised()
    far = FAR * max(1.0, math.sqrt(model.variance_range[1]))
    excess = np.where(sigma_T > far, 0.0, np.asarray(prior_excess)[..., None])  # nothing beside far^2
    start = np.minimum(sigma_T, far)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, cov, psi = _carried(model, sigma_0, start, eta)
        if model.is_diagonal:
            cov = cov + (psi * start) ** 2 + psi**2 * excess
        else:
            first = psi * start[..., None]
            cov = cov + first @ transposed(first) + excess[..., None] * (psi @ transposed(psi))
    variances = cov if model.is_diagonal else np.diagonal(cov, axis1=-2, axis2=-1)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all() and (variances > 0).all()):
        raise ValueError(
            "this affine score drives its sampler out of floating point; take w nearer to 1 or a smaller eta"
        )
    if not model.is_diagonal:
        return trusted(mean, (cov + transposed(cov)) / 2, event=2)
    if basis is None:
        return trusted(mean, cov, event=1)
    return trusted(rotate(basis, mean), (basis * cov[..., None, :]) @ transposed(basis), event=2)


def ode_map(model: AffineScore, sigma_low: float, sigma_high: float) -> tuple[Array, Array]:
    """``(psi, mean)`` of the ODE between two noise levels, z_low = psi z_high + mean; psi is shaped like the gain."""
    low, high = np.array([sigma_low]), np.array([sigma_high])
    mean, _, psi = _carried(model, low, high, np.zeros(()))
    return psi, mean


def _carried(model: AffineScore, sigma_0: Array, sigma_T: Array, eta: Array | Windows) -> tuple[Array, Array, Array]:
    """Mean, the noise's part of the covariance, and Psi_T of ``moments``."""
    floor, unit = model.variance_range[0], np.ones(model.dim) if model.is_diagonal else np.eye(model.dim)
    mean, cov, psi = np.zeros(model.dim), np.zeros_like(unit), unit
    cuts = [(low, high, np.asarray(value)[..., None]) for low, high, (value, _) in segments(eta, model.cuts)]
    axes = max(len(model.batch_shape) + 1, sigma_T.ndim, *(value.ndim for _, _, value in cuts))
    end, start = (s.reshape((1,) * (axes - s.ndim) + s.shape) for s in (sigma_0, sigma_T))
    for low, high, value in cuts:
        bottom = np.clip(low, end, start)
        span, done = log_variance_ratio(floor, bottom, np.clip(high, end, start)), 0.0
        while done < 1 and span.any() and np.isfinite(psi).all():
            # what is left of the start or of a noise of the target's size, in units of the target
            alive = _size(psi, model.is_diagonal) * np.maximum(1.0, start / math.sqrt(floor)) > FORGOTTEN
            psi = np.where(_lift(alive, model.is_diagonal), psi, 0.0)
            share = min(1 - done, PANEL_WIDTH / span.max())
            panel = _panel(model, floor, bottom, span, done, share, value, alive)
            if panel.steepness > STEEPEST:
                share *= STEEPEST / panel.steepness
                panel = _panel(model, floor, bottom, span, done, share, value, alive)
            nodes, psi = _transport(psi, panel.rate, model.is_diagonal)
            pull = np.where(alive, panel.pull, 0.0)
            if model.is_diagonal:
                mean, cov = mean + _integral(nodes * pull), cov + _integral(nodes**2 * panel.noise)
            else:
                mean = mean + _integral((nodes @ pull[..., None])[..., 0])
                cov = cov + _integral(nodes @ transposed(nodes) * panel.noise[..., None])
            done += share
    return mean, cov, psi


@dataclass(frozen=True)
class _Panel:
    """Integrands at the nodes of one panel, times its width: c G dtau, c o dtau, eta^2 dtau; shapes (nodes, ...)."""

    rate: Array
    pull: Array
    noise: Array
    steepness: float


def _panel(
    model: AffineScore, floor: float, bottom: Array, span: Array, done: float, share: float, eta: Array, alive: Array
) -> _Panel:
    base, c = bottom**2 + floor, (1 + eta**2) / 2
    y = span * (done + share * _NODES.reshape(-1, *[1] * span.ndim))
    sigma = np.sqrt(bottom**2 + base * np.expm1(y))[..., 0]
    dtau = base * np.exp(y) * span * share
    rate = np.where(_lift(alive, model.is_diagonal), _lift(c * dtau, model.is_diagonal) * model.gain(sigma), 0.0)
    return _Panel(rate, c * dtau * model.offset(sigma), eta**2 * dtau, float(_size(rate, model.is_diagonal).max()))


def _transport(psi: Array, rate: Array, diagonal: bool) -> tuple[Array, Array]:
    """Psi at the nodes of a panel and at its end, from Psi at its start: Psi' = -Psi rate on (0, 1)."""
    if diagonal:
        return psi * np.exp(-np.tensordot(_TO_NODE, rate, 1)), psi * np.exp(-_integral(rate))
    n, d = len(_NODES), rate.shape[-1]
    # X_j + sum_k T_jk X_k R_k = I at the nodes, transposed into one linear system of n d rows
    blocks = np.moveaxis(rate, 0, -3)  # (*batch, node k, b, a)
    system = _TO_NODE[:, None, :, None] * np.moveaxis(blocks, -1, -3)[..., None, :, :, :]  # (*batch, j, a, k, b)
    system = system.reshape(*system.shape[:-4], n * d, n * d) + np.eye(n * d)
    solution = np.linalg.solve(system, np.tile(np.eye(d), (n, 1)))
    solution = np.moveaxis(solution.reshape(*solution.shape[:-2], n, d, d), -3, 0)
    nodes = psi @ transposed(solution)
    return nodes, psi - _integral(nodes @ rate)


def _integral(values: Array) -> Array:
    return np.tensordot(_WEIGHTS, values, 1)


def _size(operator: Array, diagonal: bool) -> Array:
    """A norm of each factor or matrix, with the shape of a vector of last axis 1 or d."""
    return np.abs(operator) if diagonal else np.abs(operator).sum(-1).max(-1)[..., None]


def _lift(values: Array, diagonal: bool) -> Array:
    """Values per coordinate, shaped to multiply operators."""
    return values if diagonal else values[..., None]


def collocation(nodes: int) -> tuple[Array, Array, Array]:
    """Gauss-Legendre on (0, 1): nodes, weights, and the matrix that integrates from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    powers = np.polynomial.legendre.legvander(x, nodes - 1)
    antiderivative = np.stack(
        [np.polynomial.legendre.legval(x, np.polynomial.legendre.legint(unit, lbnd=-1)) for unit in np.eye(nodes)],
        axis=1,
    )
    return (x + 1) / 2, w / 2, antiderivative @ np.linalg.inv(powers) / 2


_NODES, _WEIGHTS, _TO_NODE = collocation(NODES_PER_PANEL)
