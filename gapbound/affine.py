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
from scipy.integrate import solve_ivp

from gapbound._arrays import like, points
from gapbound._validate import Array, broadcastable, finite
from gapbound.eta import Windows, segments
from gapbound.gaussian import Gaussian, rotate, transposed, trusted

NODES_PER_PANEL = 16
PANEL_WIDTH = 0.5  # in log(tau + floor): the integrands are smooth there, 16 nodes reach rounding
FAR = 1e60  # stands for sigma_T = inf, in units of the model's largest standard deviation


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

    @abstractmethod
    def gain(self, sigma: Any) -> Array:
        r"""G(sigma), shape (\*batch, d) when diagonal, else (\*batch, d, d); axes of sigma broadcast with the batch."""

    @abstractmethod
    def offset(self, sigma: Any) -> Array:
        r"""o(sigma), shape (\*batch, d)."""

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
    def variance_range(self) -> tuple[float, float]:
        """Extreme eigenvalues of the two covariances."""
        eigenvalues = [law.spectrum[0] for law in self.laws]
        return min(float(e.min()) for e in eigenvalues), max(float(e.max()) for e in eigenvalues)

    @property
    def pure_noise_mean(self) -> Array:
        """The extrapolated mean."""
        return _extrapolate(self.unconditional.mean, self.conditional.mean, self.scale[..., None])

    def gain(self, sigma: Any) -> Array:
        """(1 - w) G_unconditional + w G_conditional."""
        if self.is_diagonal:
            return _extrapolate(self.unconditional.gain(sigma), self.conditional.gain(sigma), self.scale[..., None])
        noise = np.asarray(sigma, dtype=float)[..., None, None] ** 2 * np.eye(self.dim)
        unconditional, conditional = (np.linalg.inv(law.matrix + noise) for law in self.laws)
        return _extrapolate(unconditional, conditional, self.scale[..., None, None])

    def offset(self, sigma: Any) -> Array:
        """(1 - w) o_unconditional + w o_conditional."""
        return _extrapolate(self.unconditional.offset(sigma), self.conditional.offset(sigma), self.scale[..., None])

    def diagonalised(self) -> tuple[AffineScore, Array | None]:
        """The model in the common eigenbasis of the two covariances, if they commute and are not batched."""
        return self._diagonalised

    @cached_property
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

    .. math:: m' = c (G m - o), \quad V' = c (G V + V G') - \eta^2 I, \quad c = (1 + \eta^2)/2, \quad ' = d/d\tau

    Diagonal models by quadrature (16-point Gauss-Legendre panels in log tau, accurate to rounding), others by an
    eighth-order Runge-Kutta method at a relative tolerance of 1e-12, one model at a time.

    Raises:
        ValueError: a batch of models whose gains are not diagonal.
    """
    model, basis = model.diagonalised()
    excess = np.asarray(prior_excess)[..., None]
    largest = math.sqrt(model.variance_range[1])
    start = np.where(np.isinf(sigma_T), FAR * largest, sigma_T)
    excess = np.where(np.isinf(excess), 1 + 2 * start, excess)
    if model.is_diagonal:
        mean, variance = _diagonal_moments(model, sigma_0, start, excess, eta)
        if basis is None:
            return trusted(mean, variance, event=1)
        return trusted(rotate(basis, mean), (basis * variance[..., None, :]) @ transposed(basis), event=2)
    start = np.minimum(start, 1e9 * largest)  # beyond, the matrix path has forgotten the start to rounding
    return _matrix_moments(model, sigma_0, start, excess, eta)


def _diagonal_moments(
    model: AffineScore, sigma_0: Array, sigma_T: Array, excess: Array, eta: Array | Windows
) -> tuple[Array, Array]:
    r"""Panels run up from sigma_0; psi = exp(-int_{sigma_0^2}^tau c G) is what survives from tau to the end."""
    floor = model.variance_range[0]
    log_psi: Array = np.zeros(())
    mean: Array = np.zeros(())
    variance: Array = np.zeros(())
    for low, high, (value,) in segments(eta):
        eta2 = np.asarray(value)[..., None] ** 2
        c = (1 + eta2) / 2
        bottom = np.log(np.clip(low, sigma_0, sigma_T) ** 2 + floor)
        top = np.log(np.clip(high, sigma_0, sigma_T) ** 2 + floor)
        panels = max(1, math.ceil(np.max(top - bottom) / PANEL_WIDTH))
        width = (top - bottom) / panels
        for panel in range(panels):
            y = bottom + (panel + _NODES.reshape(-1, *[1] * np.ndim(width))) * width  # (nodes, *batch, 1)
            weight = np.exp(y)  # dtau / dy
            sigma = np.sqrt(np.maximum(weight - floor, 0.0))[..., 0]
            gain, offset = model.gain(sigma), model.offset(sigma)
            rate = c * gain * weight * width
            node_psi = np.exp(log_psi - np.tensordot(_TO_NODE, rate, 1))
            mean = mean + np.tensordot(_WEIGHTS, node_psi * c * offset * weight * width, 1)
            variance = variance + np.tensordot(_WEIGHTS, node_psi**2 * eta2 * weight * width, 1)
            log_psi = log_psi - np.tensordot(_WEIGHTS, rate, 1)
    return mean, variance + np.exp(2 * log_psi + np.log(sigma_T**2 + excess))


def _matrix_moments(
    model: AffineScore, sigma_0: Array, sigma_T: Array, excess: Array, eta: Array | Windows
) -> Gaussian:
    if model.batch_shape or np.size(sigma_T) > 1 or np.ndim(eta if not isinstance(eta, Windows) else 0):
        raise ValueError(
            "covariances that do not commute are solved one model at a time: loop over the batch, T and eta "
            f"(got batch {model.batch_shape}, T of shape {np.shape(sigma_T)[:-1]})"
        )
    d, floor = model.dim, model.variance_range[0]
    end, start = float(sigma_0[0]), float(sigma_T[0])
    state = np.concatenate([np.zeros(d), (start**2 + float(excess[0])) * np.eye(d).ravel()])
    for low, high, (value,) in reversed(segments(eta)):
        bottom, top = max(low, end), min(high, start)
        if bottom >= top:
            continue
        c, eta2 = (1 + float(value) ** 2) / 2, float(value) ** 2

        def slope(y: float, state: Array, c: float = c, eta2: float = eta2) -> Array:
            sigma = math.sqrt(max(math.exp(y) - floor, 0.0))
            gain, offset = model.gain(sigma), model.offset(sigma)
            mean, cov = state[:d], state[d:].reshape(d, d)
            d_mean = c * (gain @ mean - offset)
            d_cov = c * (gain @ cov + cov @ gain.T) - eta2 * np.eye(d)
            return np.concatenate([d_mean, d_cov.ravel()]) * math.exp(y)

        span = (math.log(top**2 + floor), math.log(bottom**2 + floor))
        state = solve_ivp(slope, span, state, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    return Gaussian(state[:d], _symmetric(state[d:].reshape(d, d)))


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _collocation(nodes: int) -> tuple[Array, Array, Array]:
    """Gauss-Legendre on (0, 1): nodes, weights, and the matrix that integrates from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    powers = np.polynomial.legendre.legvander(x, nodes - 1)
    antiderivative = np.stack(
        [np.polynomial.legendre.legval(x, np.polynomial.legendre.legint(unit, lbnd=-1)) for unit in np.eye(nodes)],
        axis=1,
    )
    return (x + 1) / 2, w / 2, antiderivative @ np.linalg.inv(powers) / 2


_NODES, _WEIGHTS, _TO_NODE = _collocation(NODES_PER_PANEL)
