"""A linear or quadratic reward over beta, as the exponent that Gaussians are tilted by, on a law's principal axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gapbound._validate import Array
from gapbound.eta import Windows, squared_integral
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.reward import Linear, Quadratic


@dataclass(frozen=True, eq=False)
class Exponent:
    r"""r / beta around mu on the eigenbasis of S: const + g'y - y' H y / 2.

    Attributes:
        curvature: H, shape (\*batch, d) where diagonal in that basis, else (\*batch, d, d).
        slope: g, shape (\*batch, d).
    """

    curvature: Array
    slope: Array

    @classmethod
    def of(cls, reference: Gaussian, reward: Quadratic | Linear, beta: Array) -> Exponent:
        """That of a reward at temperature beta."""
        A, c, b, _ = reward.quadratic_form(reference.dim)
        basis, from_c = reference.spectrum[1], reference.mean - c
        slope = (b - 2 * (A * from_c if np.ndim(A) == 0 else from_c @ A)) / beta[..., None]
        slope = rotate(transposed(basis), slope)
        if np.ndim(A) == 0:
            return cls(np.broadcast_to(2 * A / beta[..., None], slope.shape), slope)
        matrix = A if basis is None else transposed(basis) @ A @ basis
        diagonal = np.diagonal(matrix, axis1=-2, axis2=-1)
        if np.abs(matrix - diag(diagonal)).max() <= 1e-12 * np.abs(matrix).max():
            return cls(np.broadcast_to(2 * diagonal / beta[..., None], slope.shape), slope)
        return cls(np.broadcast_to(2 * matrix / beta[..., None, None], (*slope.shape, reference.dim)), slope)

    @property
    def is_diagonal(self) -> bool:
        """Whether reward and reference share their principal axes."""
        return self.curvature.ndim == self.slope.ndim

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """The largest H and the largest -H along any direction, 0 where there is none."""
        values = self.curvature if self.is_diagonal else np.linalg.eigvalsh(self.curvature)
        return max(0.0, float(values.max())), max(0.0, -float(values.min()))

    def lowest(self, left: Array) -> Array:
        r"""Smallest eigenvalue of C^1/2 H C^1/2, shape \*batch: h is finite above -1. ``left`` are those of C."""
        if self.is_diagonal:
            return (left * self.curvature).min(-1)
        root = np.sqrt(left)
        return np.linalg.eigvalsh(root[..., None] * self.curvature * root[..., None, :])[..., 0]

    def damped(self, left: Array) -> tuple[Array, Array]:
        """``((I + H C)^-1 H, (I + H C)^-1 g)``."""
        if self.is_diagonal:
            return self.curvature / (1 + self.curvature * left), self.slope / (1 + self.curvature * left)
        system = np.eye(left.shape[-1]) + self.curvature * left[..., None, :]
        curvature = np.broadcast_to(self.curvature, system.shape)
        slope = np.broadcast_to(self.slope, system.shape[:-1])[..., None]
        return np.linalg.solve(system, curvature), np.linalg.solve(system, slope)[..., 0]


def left_over(variance: Array, sigma: Array, eta: Array | Windows) -> Array:
    """Eigenvalues S (1 - exp(-D)) of C, the covariance of Y_0 given z at noise level ``sigma`` (last axis 1)."""
    return -variance * np.expm1(-squared_integral(over_dimensions(eta), 0.0, sigma, variance))


def over_dimensions(eta: Array | Windows) -> Array | Windows:
    """``eta`` with an axis for the dimension."""
    return eta if isinstance(eta, Windows) else eta[..., None]


def diag(values: Array) -> Array:
    """Diagonal matrices."""
    return values[..., None] * np.eye(values.shape[-1])
