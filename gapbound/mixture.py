"""Gaussian mixtures of any dimension: targets with several modes whose score is exact at every noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._arrays import like, namespace, points
from gapbound._validate import Array, broadcastable, count, finite, non_negative, positive
from gapbound.gaussian import Gaussian, rotate, transposed, trusted


@dataclass(frozen=True, init=False, eq=False)
class GaussianMixture:
    r"""sum_k weights_k N(means_k, covs_k) in d dimensions, with any leading batch axes.

    The rule of shapes: the last axis of ``weights`` runs over the K components, the axes before it are batch. ``means``
    has the axes of ``weights`` and one more for the dimension d; without that one, d = 1. ``covs`` is

    - a number: that multiple of the identity, for every component;
    - where d = 1, an array with the axes of ``weights``: variances, shape (\*batch, K);
    - an array with one axis more than ``weights``: diagonals, shape (\*batch, K, d);
    - an array with two axes more than ``weights``: full matrices, shape (\*batch, K, d, d).

    Args:
        weights: positive, summing to 1 over the last axis to 1e-12.
        means: shape (\*batch, K, d), or (\*batch, K) for d = 1.
        covs: positive (definite), see above; in squared units of the data.

    Attributes:
        weights: shape (\*batch, K).
        components: the Gaussians, batch (\*batch, K).

    Raises:
        ValueError: shapes that do not fit the rule, entries that are not finite, weights that are not positive or do
            not sum to 1, a covariance that is not symmetric or not positive definite.
        TypeError: something that is not a number.
    """

    weights: Array
    components: Gaussian

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        """See the class."""
        weights, means, covs = positive("weights", weights), finite("means", means), finite("covs", covs)
        _check_weights(weights)
        if means.ndim == weights.ndim:
            means = means[..., None]
        if means.ndim != weights.ndim + 1 or means.shape[-2] != weights.shape[-1]:
            raise ValueError(
                f"means must have shape (*batch, K, d), or (*batch, K) for d = 1, got {means.shape} beside weights of "
                f"shape {weights.shape}"
            )
        covs = _covariances(covs, weights, means.shape[-1])
        batch = broadcastable("the batch axes of weights and means", weights.shape, means.shape[:-1])
        components = Gaussian(np.broadcast_to(means, (*batch, means.shape[-1])), covs)
        object.__setattr__(self, "weights", np.broadcast_to(weights, components.batch_shape))
        object.__setattr__(self, "components", components)

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.components.dim

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the leading axes, K not among them."""
        return self.weights.shape[:-1]

    @property
    def mean(self) -> Array:
        r"""The mean, shape (\*batch, d)."""
        return (self.weights[..., None] * self.components.mean).sum(-2)

    @property
    def cov(self) -> Array:
        r"""The covariance: full matrices (\*batch, d, d), in d = 1 variances (\*batch, 1), as ``Gaussian`` takes them."""
        offset = self.components.mean - self.mean[..., None, :]
        weights = self.weights[..., None]
        if self.dim == 1:
            return (weights * (self.components.variances + offset**2)).sum(-2)
        spread = (weights[..., None] * self.components.matrix).sum(-3)
        return spread + transposed(weights * offset) @ offset

    def moments(self) -> Gaussian:
        """The Gaussian of the same mean and covariance."""
        return trusted(self.mean, self.cov, event=1 if self.dim == 1 else 2)

    @property
    def pure_noise_mean(self) -> Array:
        r"""E[x_0] seen from sigma = inf, where the denoiser knows nothing: the mean. Shape (\*batch, d)."""
        return self.mean

    def noised(self, sigma: Any) -> GaussianMixture:
        """The law of z = x + sigma eps: every component noised. ``sigma`` broadcasts with the batch axes."""
        return mixed(self.weights, self.components.noised(non_negative("sigma", sigma)[..., None]))

    def sample(self, n: int, seed: int = 0) -> Array:
        r"""``n`` independent draws, shape (n, \*batch, d), the same for the same ``seed``."""
        rng = np.random.default_rng(seed)
        shape = (count("n", n), *self.batch_shape)
        cumulative = np.cumsum(self.weights, -1)[..., :-1]  # the last component takes what rounding leaves
        chosen = (rng.random(shape)[..., None] >= cumulative).sum(-1)
        xi = rng.standard_normal((*shape, self.dim))
        eigenvalues, basis = self.components.spectrum
        draws = np.empty(xi.shape)
        for k in range(self.weights.shape[-1]):
            turn = None if basis is None else basis[..., k, :, :]
            draw = self.components.mean[..., k, :] + rotate(turn, np.sqrt(eigenvalues[..., k, :]) * xi)
            np.copyto(draws, draw, where=(chosen == k)[..., None])
        return draws

    def log_prob(self, x: Any) -> Any:
        """Log-density at ``x`` (array or tensor, last axis d), summed over the d dimensions; natural logarithm."""
        x = points("x", x, self.dim)
        joint, _ = self._joint(x, 0.0)
        xp = namespace(x)
        highest = xp.amax(joint, -1)
        return highest + xp.log(xp.exp(joint - highest[..., None]).sum(-1))

    def score(self, z: Any, sigma: Any = 0.0) -> Any:
        r"""``grad log q_tau(z)`` for an array or a tensor ``z`` of last axis d; ``sigma`` broadcasts with the batch.

        .. math:: \nabla \log q_\tau = -\sum_k p_k(z) \, (S_k + \tau)^{-1} (z - m_k), \qquad p_k \propto w_k N(z; m_k, S_k + \tau)
        """
        z = points("z", z, self.dim)
        joint, pull = self._joint(z, sigma)
        return (_softmax(joint)[..., None] * pull).sum(-2)

    def _joint(self, z: Any, sigma: Any) -> tuple[Any, Any]:
        r"""log(w_k N(z; m_k, S_k + tau)) and -(S_k + tau)^-1 (z - m_k): shapes (..., K) and (..., K, d)."""
        eigenvalues, basis = self.components.spectrum
        variance = eigenvalues + non_negative("sigma", sigma)[..., None, None] ** 2
        constant = np.log(self.weights) - (np.log(variance).sum(-1) + self.dim * math.log(2 * math.pi)) / 2
        Q = None if basis is None else like(z, basis)
        offset = rotate(transposed(Q), like(z, self.components.mean) - z[..., None, :])
        pull = offset / like(z, variance)
        return like(z, constant) - (offset * pull).sum(-1) / 2, rotate(Q, pull)


def mixed(weights: Array, components: Gaussian) -> GaussianMixture:
    r"""The mixture of valid ``components``, batch (\*batch, K), whose valid ``weights`` broadcast with that batch."""
    law = object.__new__(GaussianMixture)
    batch = np.broadcast_shapes(weights.shape, components.batch_shape)
    event = 1 if components.is_diagonal else 2
    cov = np.broadcast_to(components.cov, (*batch, *components.cov.shape[-event:]))
    object.__setattr__(law, "weights", np.broadcast_to(weights, batch))
    object.__setattr__(law, "components", trusted(components.mean, cov, event))
    return law


def _softmax(joint: Any) -> Any:
    xp = namespace(joint)
    relative = xp.exp(joint - xp.amax(joint, -1)[..., None])
    return relative / relative.sum(-1)[..., None]


def _check_weights(weights: Array) -> None:
    if weights.ndim == 0 or not weights.size:
        raise ValueError(f"weights must have shape (*batch, K) with K of at least 1, got shape {weights.shape}")
    total = np.atleast_1d(weights.sum(-1)).ravel()
    worst = total[np.abs(total - 1).argmax()]
    if not abs(worst - 1) <= 1e-12:
        raise ValueError(f"weights must sum to 1, got a sum of {worst:.15g}; divide them by it")


def _covariances(covs: Array, weights: Array, dim: int) -> Array:
    """The covariances as ``Gaussian`` wants them beside means of shape (\\*batch, K, d)."""
    K = weights.shape[-1]
    if covs.ndim == weights.ndim and dim == 1:
        covs = covs[..., None]
    axes = covs.ndim - weights.ndim  # those after K
    if covs.ndim and (axes not in (1, 2) or covs.shape[-axes - 1] != K):
        raise ValueError(
            f"covs must be a number, or have shape (*batch, {K}, {dim}) for diagonals or (*batch, {K}, {dim}, {dim}) "
            f"for full matrices{f', or (*batch, {K})' if dim == 1 else ''}, got shape {covs.shape}"
        )
    return covs
