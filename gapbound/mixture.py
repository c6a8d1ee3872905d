"""Gaussian mixtures of any dimension: targets with several modes whose score is exact at every noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from gapbound._arrays import finite_points, like, namespace, points
from gapbound._door import door
from gapbound._validate import Array, broadcastable, count, finite, fits, non_negative, positive
from gapbound._validate import seed as checked_seed
from gapbound.gaussian import Gaussian, rotate, transposed, trusted

CANCELLATION = 1e-3  # what rounding may cost a log-posterior before the fast score gives way to the direct one
MAX_KNOWN = 1024  # noise levels whose constants are kept


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

    @door()
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
    @door()
    def mean(self) -> Array:
        r"""The mean, shape (\*batch, d)."""
        return (self.weights[..., None] * self.components.mean).sum(-2)

    @property
    @door()
    def cov(self) -> Array:
        r"""The covariance, as ``Gaussian`` takes it: matrices (\*batch, d, d), in d = 1 variances (\*batch, 1)."""
        offset = self.components.mean - self.mean[..., None, :]
        weights = self.weights[..., None]
        if self.dim == 1:
            return (weights * (self.components.variances + offset**2)).sum(-2)
        spread = (weights[..., None] * self.components.matrix).sum(-3)
        return spread + transposed(weights * offset) @ offset

    @door()
    def moments(self) -> Gaussian:
        """The Gaussian of the same mean and covariance."""
        return trusted(self.mean, self.cov, event=1 if self.dim == 1 else 2)

    @property
    def pure_noise_mean(self) -> Array:
        r"""E[x_0] seen from sigma = inf, where the denoiser knows nothing: the mean. Shape (\*batch, d)."""
        return self.mean

    @door(sigma=non_negative)
    def noised(self, sigma: Any) -> GaussianMixture:
        """The law of z = x + sigma eps: every component noised. ``sigma`` broadcasts with the batch axes."""
        return mixed(self.weights, self.components.noised(np.asarray(sigma, dtype=float)[..., None]))

    @door(n=count)
    def sample(self, n: int, seed: int = 0) -> Array:
        r"""``n`` independent draws, shape (n, \*batch, d), the same for the same ``seed``, an integer of at least 0.

        Raises:
            ValueError: they would take more than a gigabyte.
        """
        shape = (n, *self.batch_shape)
        fits(f"{n} draws", math.prod(shape) * self.dim, "draw them in parts, each with its own seed")
        rng = np.random.default_rng(checked_seed(seed))
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

    @door(x=finite_points)
    def log_prob(self, x: Any) -> Any:
        """Log-density at ``x`` (array or tensor, last axis d), summed over the d dimensions; natural logarithm."""
        x = points("x", x, self.dim)
        joint, _ = self._joint(x, 0.0)
        xp = namespace(x)
        highest = xp.amax(joint, -1)
        return highest + xp.log(xp.exp(joint - highest[..., None]).sum(-1))

    @door(z=finite_points, sigma=non_negative)
    def score(self, z: Any, sigma: Any = 0.0) -> Any:
        r"""``grad log q_tau(z)`` for an array or a tensor ``z`` of last axis d; ``sigma`` broadcasts with the batch.

        .. math:: \nabla \log q_\tau = -\sum_k p_k(z) \, (S_k + \tau)^{-1} (z - m_k),
            \qquad p_k \propto w_k N(z; m_k, S_k + \tau)
        """
        z = points("z", z, self.dim)
        if isinstance(z, torch.Tensor) and not self.batch_shape and self.components.is_diagonal and np.ndim(sigma) == 0:
            return self._fast_score(z.reshape(-1, self.dim), sigma).reshape(z.shape)
        joint, pull = self._joint(z, sigma)
        xp = namespace(z)
        relative = xp.exp(joint - xp.amax(joint, -1)[..., None])
        return (relative[..., None] * pull).sum(-2) / relative.sum(-1)[..., None]

    def _fast_score(self, z: torch.Tensor, sigma: Any) -> torch.Tensor:
        """The score at ``z`` of shape (n, d) for diagonal components: matrix products over (K, n), no (K, n, d).

        They round as torch.get_float32_matmul_precision() says ("highest" unless changed); how rows are cut into calls
        shows in the last bits only.
        """
        c = self._score_constants(sigma, z.dtype, z.device)
        if c.squares_cancel:
            joint = torch.stack([((z - mean) ** 2) @ half for mean, half in zip(c.mean, c.minus_half, strict=True)])
            joint = joint + c.constant
        else:
            joint = torch.addmm(c.constant, c.linear, z.T)
            if not c.shared:
                joint = joint.addmm_(c.minus_half, (z * z).T)
        # softmax over K; what weighs less than tiny^0.7 of the heaviest would be a denormal, 30 times as slow
        floor = 0.7 * math.log(torch.finfo(z.dtype).tiny)
        relative = joint.sub_(joint.detach().amax(0)).clamp_min_(floor).exp_()
        total, relative = (torch.ones_like(c.constant).T @ relative).T, relative.T
        precision = c.precision[0] if c.shared else (relative @ c.precision).div_(total)
        return torch.addcmul((relative @ c.linear).div_(total), z, precision, value=-1)

    def _score_constants(self, sigma: Any, dtype: torch.dtype, device: torch.device) -> _ScoreConstants:
        key = (float(sigma), dtype, device)
        known = self._known_constants
        constants = known.get(key)
        if constants is None:
            if len(known) >= MAX_KNOWN:
                known.clear()  # another thread may do so at any time
            constants = known[key] = _score_constants(self, float(sigma), dtype, device)
        return constants

    @property
    def _log_weights(self) -> Array:
        """Logarithms of the weights; -inf for one that a tilt made underflow."""
        with np.errstate(divide="ignore"):
            return np.log(self.weights)

    @cached_property
    def _known_constants(self) -> dict[Any, _ScoreConstants]:
        return {}

    def _joint(self, z: Any, sigma: Any) -> tuple[Any, Any]:
        r"""log(w_k N(z; m_k, S_k + tau)) and -(S_k + tau)^-1 (z - m_k): shapes (..., K) and (..., K, d)."""
        eigenvalues, basis = self.components.spectrum
        variance = eigenvalues + np.asarray(sigma, dtype=float)[..., None, None] ** 2
        constant = self._log_weights - (np.log(variance).sum(-1) + self.dim * math.log(2 * math.pi)) / 2
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


@dataclass(frozen=True, eq=False)
class _ScoreConstants:
    """What the score needs at one noise level, shapes (K, d) and (K, 1), v = cov + tau."""

    mean: torch.Tensor
    linear: torch.Tensor  # mean / v
    precision: torch.Tensor  # 1 / v
    minus_half: torch.Tensor  # -1 / (2 v)
    constant: torch.Tensor  # of log(w_k N_k), without mean' linear / 2 where squares_cancel
    shared: bool  # whether all components have the same v, so that z^2 / v drops out of the posterior
    squares_cancel: bool


def _score_constants(law: GaussianMixture, sigma: float, dtype: torch.dtype, device: torch.device) -> _ScoreConstants:
    r"""(z - m)^2 / v is expanded where that costs the log-posterior less than ``CANCELLATION``, eps times m^2 / v."""
    mean, variance = law.components.mean, law.components.cov + sigma**2
    size = (mean**2 / variance).sum(-1)
    cancel = bool(size.max() * torch.finfo(dtype).eps > CANCELLATION)
    constant = law._log_weights - np.log(variance).sum(-1) / 2 - (0.0 if cancel else size / 2)
    arrays = (mean, mean / variance, 1 / variance, -1 / (2 * variance), constant[:, None])
    tensors = tuple(torch.tensor(array, dtype=dtype, device=device) for array in arrays)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors[:-1]):
        raise ValueError(f"a variance of {variance.min():g} is too small for {dtype}; use torch.float64")
    mean_, linear, precision, minus_half, offset = tensors
    shared = bool((variance == variance[0]).all())
    return _ScoreConstants(mean_, linear, precision, minus_half, offset, shared, cancel)


def _check_weights(weights: Array) -> None:
    if weights.ndim == 0 or not weights.size:
        raise ValueError(f"weights must have shape (*batch, K) with K of at least 1, got shape {weights.shape}")
    total = np.atleast_1d(weights.sum(-1)).ravel()
    worst = total[np.abs(total - 1).argmax()]
    if not abs(worst - 1) <= 1e-12:
        raise ValueError(f"weights must sum to 1, got a sum of {worst:.15g}; divide them by it")


def _covariances(covs: Array, weights: Array, dim: int) -> Array:
    r"""The covariances as ``Gaussian`` wants them beside means of shape (\*batch, K, d)."""
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
