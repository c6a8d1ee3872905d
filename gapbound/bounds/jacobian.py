r"""One-sided Lipschitz constant of a differentiable score, from its Jacobian at points: the kappa of B3 for models.

A score is one-sided Lipschitz on a convex set with constant -kappa where

.. math:: \langle s(x) - s(y), x - y \rangle \le -\kappa \, |x - y|^2, \qquad
    -\kappa = \sup_z \lambda_{max}\Big( \tfrac12 (J(z) + J(z)^\top) \Big), \quad J = \nabla s,

as the left side is the integral of (x - y)' J (x - y) along the segment. The largest eigenvalue at a point comes from
the full Jacobian where d is small, by d products J e_i, and else by Lanczos' method on v -> (J v + J' v) / 2, one
product forward (jvp) and one backward (vjp) each time; a network's J is not symmetric, as it need be no gradient.

The largest over sampled points is an **estimate**: a supremum over samples is not a supremum.

Some eigenvalue lies within its residual of a Ritz value; the largest one does after enough iterations only, so that
value + residual is an estimate too (Parlett, The Symmetric Eigenvalue Problem, 1998, section 4.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gapbound._door import door
from gapbound._validate import choice, count
from gapbound.bounds.model_score import ELEMENTS, CheckedScore, as_score, blocks, checked_level, directional

METHODS = ("auto", "jacobian", "lanczos")
SMALL = 24  # dimensions up to which the full Jacobian costs no more than Lanczos
ITERATIONS = 24
CLOSED = 100.0  # rounding units below which a Krylov space counts as invariant

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Extreme:
    """The largest growth rate over some points.

    Args:
        value: largest eigenvalue of the symmetrised Jacobian over the points, its residual added: -kappa.
        rise: how much of it half of the points had missed: what one doubling of the points was worth.
        residual: largest residual of Lanczos' method, 0 for full Jacobians.
        points: how many.
    """

    value: float
    rise: float
    residual: float
    points: int


@door(infinite=True)
def one_sided_lipschitz(
    score_model: Any,
    z: Tensor,
    sigma: float,
    *,
    method: str = "auto",
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Extreme:
    """The one-sided Lipschitz constant of a score along points, an estimate from below of its supremum.

    Args:
        score_model: a law with a score, or a differentiable callable (z, sigma) -> score of z's shape, row by row.
        z: the points, a float tensor (n, d) with n of at least 2.
        sigma: noise level.
        method: "jacobian" (all of it), "lanczos", or "auto": by the dimension.
        iterations: of Lanczos' method, at most d are used.
        seed: of its starting vectors.

    Raises:
        ValueError: points of another shape, an unknown method, a score or a derivative that is not finite.
        TypeError: a model that cannot be called, points that are no tensor.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"z must be a torch tensor (n, d), got {type(z).__name__}")
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"z must be at least two points of shape (n, d), got shape {tuple(z.shape)}")
    level = checked_level("sigma", sigma)
    score = as_score(score_model, z.shape[1], z.dtype, z.device)
    score(z, level)
    return extreme(score, z, level, choice("method", method, METHODS), count("iterations", iterations), seed)


def extreme(
    score: CheckedScore, z: Tensor, sigma: float, method: str = "auto", iterations: int = ITERATIONS, seed: int = 0
) -> Extreme:
    """The same for checked arguments."""
    values, residuals = growth_rates(score, z, sigma, method, iterations, seed)
    safe = values + residuals
    largest = float(safe.max())
    return Extreme(largest, largest - float(safe[::2].max()), float(residuals.max()), len(z))


def growth_rates(
    score: CheckedScore, z: Tensor, sigma: float, method: str = "auto", iterations: int = ITERATIONS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues of the symmetrised Jacobian at the rows of ``z``, and their residuals; shapes (n,)."""
    d = score.dim
    full = d <= SMALL if method == "auto" else method == "jacobian"
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, ELEMENTS // (d * (d if full else min(iterations, d))))
    found = []
    for part in blocks(z, rows):
        if full:
            symmetric = jacobian(score, part, sigma)
            values = torch.linalg.eigvalsh((symmetric + symmetric.mT) / 2)[:, -1]
            found.append((values, torch.zeros_like(values)))
        else:
            found.append(lanczos(symmetrised(score, part, sigma), part, iterations, generator))
    values, residuals = (torch.cat(parts) for parts in zip(*found, strict=True))
    return values, residuals


def jacobian(score: CheckedScore, z: Tensor, sigma: float) -> Tensor:
    """J at every row of ``z``, shape (n, d, d), column by column."""
    columns = []
    for i in range(score.dim):
        unit = torch.zeros_like(z)
        unit[:, i] = 1
        columns.append(_finite(directional(score.function, z, sigma, unit), z, sigma))
    return torch.stack(columns, dim=-1)


def symmetrised(score: CheckedScore, z: Tensor, sigma: float) -> Operator:
    """V -> (J v + J' v) / 2 at the rows of ``z``, for v of z's shape."""
    pull = torch.func.vjp(lambda x: score.function(x, sigma), z)[1]

    def apply(v: Tensor) -> Tensor:
        (backward,) = pull(v)
        return _finite((directional(score.function, z, sigma, v) + backward) / 2, z, sigma)

    return apply


def lanczos(
    apply: Operator, like: Tensor, iterations: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Largest Ritz value of a symmetric operator per row, and its residual; rows advance together.

    With orthonormal q_1..q_k, alpha_j = q_j' S q_j and beta_j = |S q_j - alpha_j q_j - beta_{j-1} q_{j-1}|, the
    tridiagonal matrix of alpha and beta has the Ritz values as eigenvalues; the residual of one is beta_k times the
    last entry of its eigenvector. Each vector is orthogonalised against all before it, twice; where the space closes
    (beta = 0 to rounding), a fresh one goes on.

    Args:
        apply: v of shape (n, d) -> S v.
        like: a tensor (n, d) whose shape, dtype and device the vectors take.
        iterations: k, at most d are used.
        generator: of the starting vectors, on the CPU.
    """
    n, d = like.shape
    q = _unit(_normal(like, generator))
    basis: list[Tensor] = []
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    scale = torch.zeros(n, dtype=like.dtype, device=like.device)
    for k in range(min(iterations, d)):
        w = apply(q)
        basis.append(q)
        alphas.append((w * q).sum(-1))
        scale = torch.maximum(scale, w.norm(dim=-1))
        w = _orthogonal(w, basis)
        beta = w.norm(dim=-1)
        closed = beta <= CLOSED * torch.finfo(like.dtype).eps * scale
        betas.append(torch.where(closed, 0.0, beta))
        if k + 1 < min(iterations, d):
            q = _unit(torch.where(closed[:, None], _orthogonal(_unit(_normal(like, generator)), basis), w))
    off = torch.stack(betas[:-1], -1) if len(betas) > 1 else like.new_zeros(n, 0)
    T = torch.diag_embed(torch.stack(alphas, -1)) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(T)
    return values[:, -1], betas[-1] * vectors[:, -1, -1].abs()


def _finite(product: Tensor, z: Tensor, sigma: float) -> Tensor:
    at_fault = ~torch.isfinite(product).all(-1)
    if at_fault.any():
        where = z[int(at_fault.nonzero()[0])].tolist()
        raise ValueError(f"the score's derivative is not finite at sigma={sigma:g}, z={where}; smooth the score there")
    return product.detach()


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True)


def _orthogonal(w: Tensor, basis: list[Tensor]) -> Tensor:
    for _ in range(2):
        for q in basis:
            w = w - (w * q).sum(-1, keepdim=True) * q
    return w
