"""Gaussian laws of any dimension: the one exact object that targets, priors and terminal laws are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gapbound._arrays import finite_points, like, points
from gapbound._door import door
from gapbound._validate import Array, broadcastable, count, finite, fits, non_negative, shown
from gapbound._validate import seed as checked_seed


@dataclass(frozen=True, init=False, eq=False)
class Gaussian:
    r"""N(mean, cov) in d dimensions, with any leading batch axes.

    The rule of shapes: the last axis of ``mean`` is the dimension d, the axes before it are batch; a bare number is
    d = 1. ``cov`` is

    - a number: that multiple of the identity;
    - an array with no more axes than ``mean``: diagonals, shape (\*batch, d);
    - an array with one axis more than ``mean``: full matrices, shape (\*batch, d, d);
    - where ``mean`` is a bare number, any array: diagonals of d = 1, shape (\*batch, 1).

    So one full matrix for a whole batch of means is ``cov[None]``, and a batch of diagonals around one mean needs
    ``mean[None]``. Batch axes broadcast.

    Args:
        mean: number or shape (\*batch, d).
        cov: positive (definite), see above; in squared units of the data.

    Attributes:
        mean: shape (\*batch, d).
        cov: shape (\*batch, d) when diagonal, (\*batch, d, d) when full.

    Raises:
        ValueError: shapes that do not fit the rule, entries that are not finite, a covariance that is not symmetric or
            not positive definite.
        TypeError: something that is not a number.
    """

    mean: Array
    cov: Array

    @door()
    def __init__(self, mean: Any, cov: Any) -> None:
        """See the class."""
        mean, cov = finite("mean", mean), finite("cov", cov)
        if not mean.size:
            raise ValueError(f"mean must not be empty, got shape {mean.shape}; its last axis is the dimension")
        bare_number = mean.ndim == 0
        mean = np.atleast_1d(mean)
        if cov.ndim > mean.ndim and not bare_number:
            cov = _full(mean, cov)
            batch = broadcastable("the batch axes of mean and cov", mean.shape[:-1], cov.shape[:-2])
            cov = np.broadcast_to(cov, (*batch, *cov.shape[-2:]))
        else:
            cov = _diagonal(mean, cov)
            batch = np.broadcast_shapes(mean.shape, cov.shape)[:-1]
            cov = np.broadcast_to(cov, (*batch, mean.shape[-1]))
        object.__setattr__(self, "mean", np.broadcast_to(mean, (*batch, mean.shape[-1])))
        object.__setattr__(self, "cov", cov)

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.mean.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the leading axes."""
        return self.mean.shape[:-1]

    @property
    def is_diagonal(self) -> bool:
        """Whether ``cov`` holds diagonals."""
        return self.cov.ndim == self.mean.ndim

    @property
    def variances(self) -> Array:
        r"""The diagonal of the covariance, shape (\*batch, d)."""
        return self.cov if self.is_diagonal else np.diagonal(self.cov, axis1=-2, axis2=-1)

    @property
    def matrix(self) -> Array:
        r"""The covariance as full matrices, shape (\*batch, d, d).

        Raises:
            ValueError: they would take more than a gigabyte.
        """
        fits("the full covariance", self.mean.size * self.dim, "use variances, the diagonal")
        return self.cov[..., None] * np.eye(self.dim) if self.is_diagonal else self.cov

    @cached_property
    @door()
    def spectrum(self) -> tuple[Array, Array | None]:
        r"""``(eigenvalues, basis)``: shapes (\*batch, d) and (\*batch, d, d), cov = basis diag(eigenvalues) basis'.

        The basis is None for a diagonal covariance, which is its own eigenbasis.

        Raises:
            ValueError: the covariance is singular to rounding.
        """
        if self.is_diagonal:
            return self.cov, None
        eigenvalues, basis = np.linalg.eigh(self.cov)
        if not (eigenvalues > 0).all():
            raise ValueError(
                f"cov is singular to rounding: eigenvalues from {eigenvalues.min():g} to {eigenvalues.max():g}; add a "
                "multiple of the identity"
            )
        return eigenvalues, basis

    @door(sigma=non_negative)
    def noised(self, sigma: Any) -> Gaussian:
        """The law of z = x + sigma eps: N(mean, cov + sigma^2 I). ``sigma`` broadcasts with the batch axes."""
        tau = np.asarray(sigma, dtype=float)[..., None] ** 2
        if self.is_diagonal:
            return trusted(self.mean, self.cov + tau, event=1)
        return trusted(self.mean, self.cov + tau[..., None] * np.eye(self.dim), event=2)

    @door(n=count)
    def sample(self, n: int, seed: int = 0) -> Array:
        r"""``n`` independent draws, shape (n, \*batch, d), the same for the same ``seed``, an integer of at least 0.

        Raises:
            ValueError: they would take more than a gigabyte.
        """
        fits(f"{n} draws", n * self.mean.size, "draw them in parts, each with its own seed")
        xi = np.random.default_rng(checked_seed(seed)).standard_normal((n, *self.mean.shape))
        eigenvalues, basis = self.spectrum
        return self.mean + rotate(basis, np.sqrt(eigenvalues) * xi)

    @door(x=finite_points)
    def log_prob(self, x: Any) -> Any:
        """Log-density at ``x`` (array or tensor, last axis d), summed over the d dimensions; natural logarithm."""
        x = points("x", x, self.dim)
        eigenvalues, basis = self.spectrum
        white = rotate(transposed(like(x, basis) if basis is not None else None), x - like(x, self.mean))
        white = white / like(x, np.sqrt(eigenvalues))
        normaliser = np.log(eigenvalues).sum(-1) + self.dim * math.log(2 * math.pi)
        return -((white**2).sum(-1) + like(x, normaliser)) / 2

    @door(z=finite_points, sigma=non_negative)
    def score(self, z: Any, sigma: Any = 0.0) -> Any:
        """``grad log q_tau(z) = -(cov + sigma^2 I)^-1 (z - mean)``, for an array or a tensor ``z`` of last axis d."""
        z = points("z", z, self.dim)
        eigenvalues, basis = self.spectrum
        tau = like(z, sigma)[..., None] ** 2
        Q = None if basis is None else like(z, basis)
        return rotate(Q, rotate(transposed(Q), like(z, self.mean) - z) / (like(z, eigenvalues) + tau))

    @door(sigma=non_negative)
    def gain(self, sigma: Any) -> Array:
        r"""The matrix G of the affine score o - G z: (cov + sigma^2 I)^-1, shape (\*batch, d) or (\*batch, d, d)."""
        eigenvalues, basis = self.spectrum
        inverse = 1 / (eigenvalues + np.asarray(sigma, dtype=float)[..., None] ** 2)
        return inverse if basis is None else (basis * inverse[..., None, :]) @ transposed(basis)

    @door(sigma=non_negative)
    def kept(self, sigma: Any) -> Array:
        r"""I - sigma^2 G = cov G, what the denoiser z + sigma^2 score keeps of z; shaped like the gain."""
        gain = self.gain(sigma)
        return self.cov * gain if self.is_diagonal else self.cov @ gain

    @door(sigma=non_negative)
    def offset(self, sigma: Any) -> Array:
        r"""The vector o of the affine score o - G z: (cov + sigma^2 I)^-1 mean, shape (\*batch, d)."""
        gain = self.gain(sigma)
        return gain * self.mean if self.is_diagonal else (gain @ self.mean[..., None])[..., 0]

    @property
    def pure_noise_mean(self) -> Array:
        r"""E[x_0] seen from sigma = inf, where the denoiser knows nothing: the mean. Shape (\*batch, d)."""
        return self.mean

    @door()
    def w2(self, other: Gaussian) -> Array:
        r"""Wasserstein-2 (Bures) distance to ``other``.

        .. math:: W_2^2 = |m_1 - m_2|^2 + \mathrm{tr}(S_1 + S_2 - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2})
        """
        _same_dim(self, other)
        shift = ((self.mean - other.mean) ** 2).sum(-1)
        if self.is_diagonal and other.is_diagonal:
            return np.sqrt(shift + ((np.sqrt(self.cov) - np.sqrt(other.cov)) ** 2).sum(-1))
        eigenvalues, basis = self.spectrum
        Q = np.eye(self.dim) if basis is None else basis
        root = (Q * np.sqrt(eigenvalues)[..., None, :]) @ transposed(Q)
        cross = np.linalg.eigvalsh(root @ other.matrix @ root)
        spread = self.variances.sum(-1) + other.variances.sum(-1) - 2 * np.sqrt(np.maximum(cross, 0)).sum(-1)
        return np.sqrt(shift + np.maximum(spread, 0))  # rounding can push a zero distance below 0

    @door()
    def kl(self, other: Gaussian) -> Array:
        """Kullback-Leibler divergence KL(self || other), in nats."""
        excess, shift = _relative(self, other)
        return (excess - np.log1p(excess) + shift**2).sum(-1) / 2

    @door()
    def chi2(self, other: Gaussian) -> Array:
        """chi^2(self || other) = int self^2 / other - 1.

        Raises:
            ValueError: it is infinite, because some variance of ``self`` is twice that of ``other`` or more.
        """
        excess, shift = _relative(self, other)
        if not (excess < 1).all():
            raise ValueError(
                f"chi^2 is infinite: a variance is {1 + excess.max():g} times that of the other law, and it must stay "
                "below 2 times; use kl or w2"
            )
        return np.expm1((shift**2 / (1 - excess) - np.log1p(-(excess**2)) / 2).sum(-1))


def rotate(basis: Any, vectors: Any) -> Any:
    """``basis @ vector`` on the last axis; the vectors themselves where ``basis`` is None."""
    if basis is None:
        return vectors
    # one basis for all vectors is one matrix product
    return vectors @ basis.swapaxes(-1, -2) if basis.ndim == 2 else (basis @ vectors[..., None])[..., 0]


def transposed(basis: Any) -> Any:
    """``basis'``; None for None."""
    return None if basis is None else basis.swapaxes(-1, -2)


def trusted(mean: Array, cov: Array, event: int) -> Gaussian:
    """A Gaussian whose parameters are known to be valid; ``event`` says how many axes of ``cov`` are not batch."""
    law = object.__new__(Gaussian)
    batch = np.broadcast_shapes(mean.shape[:-1], cov.shape[:-event])
    object.__setattr__(law, "mean", np.broadcast_to(mean, (*batch, mean.shape[-1])))
    object.__setattr__(law, "cov", np.broadcast_to(cov, (*batch, *cov.shape[-event:])))
    return law


def _diagonal(mean: Array, cov: Array) -> Array:
    dim = mean.shape[-1]
    if cov.ndim and cov.shape[-1] != dim:
        raise ValueError(
            f"a diagonal cov must have last axis {dim} as the mean has, got shape {cov.shape} beside mean {mean.shape}"
        )
    if not (cov > 0).all():
        raise ValueError(
            f"cov must be positive, got {cov.min():g}; an array with no more axes than the mean is read as diagonals: "
            "write one full matrix for a batch of means as cov[None]"
        )
    broadcastable("the batch axes of mean and cov", mean.shape, cov.shape)
    return cov


def _full(mean: Array, cov: Array) -> Array:
    dim = mean.shape[-1]
    if cov.ndim != mean.ndim + 1 or cov.shape[-2:] != (dim, dim):
        raise ValueError(
            f"a full cov must have shape (..., {dim}, {dim}) and one axis more than the mean, got {cov.shape} beside "
            f"mean {mean.shape}; for a batch of diagonals give the mean a batch axis too: mean[None]"
        )
    asymmetry = np.abs(cov - cov.swapaxes(-1, -2)).max()
    if asymmetry > 1e-10 * np.abs(cov).max():
        raise ValueError(f"cov must be symmetric, but cov and its transpose differ by {asymmetry:g}; use (C + C') / 2")
    cov = (cov + cov.swapaxes(-1, -2)) / 2
    try:
        np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh(cov).min()
        raise ValueError(
            f"cov must be positive definite, got smallest eigenvalue {smallest:g}; add a multiple of the identity"
        ) from None
    return cov


def _same_dim(one: Gaussian, other: Gaussian) -> None:
    if not isinstance(other, Gaussian):
        raise TypeError(f"the other law must be a Gaussian, got {shown(other)}")
    if one.dim != other.dim:
        raise ValueError(f"the two laws must have the same dimension, got {one.dim} and {other.dim}")


def _relative(one: Gaussian, other: Gaussian) -> tuple[Array, Array]:
    """Where ``other`` is N(0, I): the variances of ``one`` less 1 and its mean, on its principal axes."""
    _same_dim(one, other)
    if one.is_diagonal and other.is_diagonal:
        return (one.cov - other.cov) / other.cov, (one.mean - other.mean) / np.sqrt(other.cov)
    factor = np.linalg.cholesky(other.matrix)
    half = np.linalg.solve(factor, one.matrix - other.matrix)
    excess, basis = np.linalg.eigh(np.linalg.solve(factor, half.swapaxes(-1, -2)))
    shift = np.linalg.solve(factor, (one.mean - other.mean)[..., None])
    return excess, (transposed(basis) @ shift)[..., 0]
