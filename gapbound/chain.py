r"""N-step samplers on affine scores: each step is an affine map with Gaussian noise, so the law is exact by recursion.

.. math:: z_{k+1} = A_k z_k + b_k + S_k \xi_k, \qquad
    m_{k+1} = A_k m_k + b_k, \quad V_{k+1} = A_k V_k A_k' + S_k S_k'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._validate import Array, real
from gapbound.affine import AffineScore
from gapbound.eta import Eta, Windows, checked
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.grid import grid as make_grid
from gapbound.kernel import Step, check, step
from gapbound.process import Process, checked_process


@dataclass(frozen=True)
class AffineStep:
    """One step ``z -> A z + b + S xi``; A and S act per coordinate (shape (..., d)) or as matrices (..., d, d)."""

    A: Array
    b: Array
    S: Array


def levels(process: Process, steps: int | None, sigmas: Any, kind: str, t_min: float) -> Array:
    """The noise levels to visit: ``sigmas`` if given, else ``steps`` steps (50 if None) of the grid ``kind``.

    Raises:
        ValueError: both are given, or sigmas do not fall from sigma_T.
    """
    if sigmas is None:
        return make_grid(process, 50 if steps is None else steps, kind, t_min)
    if steps is not None:
        raise ValueError(f"give steps or sigmas, not both, got steps={steps} and {len(sigmas)} sigmas")
    values, sigma_T = real("sigmas", sigmas), checked_process(process).sigma_T
    if len(values) < 2 or np.isnan(values).any() or not (np.diff(values, axis=0) < 0).all() or (values[-1] < 0).any():
        raise ValueError(f"sigmas must fall to 0 or more in at least one step, got {values}")
    if not np.isclose(values[0], sigma_T, rtol=1e-9, atol=0).all():
        raise ValueError(f"sigmas must start at sigma_T = {sigma_T}, got {values[0]}")
    return values


def discrete_law(
    model: Gaussian | AffineScore,
    process: Process,
    sampler: str = "gddim",
    eta: Eta = 1.0,
    steps: int | None = None,
    *,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
) -> Gaussian:
    r"""Exact law of an N-step sampler on a Gaussian or affine score model, in z; no sampling, no step-size limit.

    Args:
        model: a Gaussian (its exact score) or an affine score, unbatched or with batch axes that broadcast with T, eta.
        process: start sigma_T and prior.
        sampler: a name of ``gapbound.kernel.SAMPLERS``.
        eta: number, array or ``Windows``.
        steps: number of steps of the named ``grid``, 50 if neither this nor sigmas is given.
        sigmas: the levels themselves, falling from sigma_T to their last value, shape (N + 1, \*shape of T).
        grid: see ``gapbound.grid``.
        t_min: where the grid stops.

    Raises:
        ValueError: unknown names, an eta that the sampler does not admit, a sampler that needs a Gaussian.
        TypeError: a model that is neither a Gaussian nor an affine score.
    """
    eta = checked(eta)
    sigmas = levels(process, steps, sigmas, grid, t_min)
    diagonal, basis = diagonalised(model)
    start = initial_std(process)[..., None]
    mean, cov = np.zeros(diagonal.dim), start**2 * np.ones(diagonal.dim)
    if not diagonal.is_diagonal:
        cov = cov[..., None] * np.eye(diagonal.dim)
    for affine in affine_steps(diagonal, sampler, sigmas, eta):
        mean = apply(affine.A, mean, diagonal.is_diagonal) + affine.b
        if diagonal.is_diagonal:
            cov = affine.A**2 * cov + affine.S**2
        else:
            cov = affine.A @ cov @ transposed(affine.A) + affine.S @ transposed(affine.S)
    if basis is not None:
        mean, cov = rotate(basis, mean), (basis * cov[..., None, :]) @ transposed(basis)
    return trusted(mean, cov, event=1 if diagonal.is_diagonal and basis is None else 2)


def initial_std(process: Process) -> Array:
    """Standard deviation of z_T; 1 at sigma_T = inf, where the state is the noise itself and z_T has no scale."""
    return np.where(np.isinf(process.sigma_T), 1.0, np.sqrt(process.prior_variance))


def diagonalised(model: Gaussian | AffineScore) -> tuple[Gaussian | AffineScore, Array | None]:
    """The model in its eigenbasis and that basis (None where it is diagonal already or has none).

    Raises:
        TypeError: the model is neither a Gaussian nor an affine score.
    """
    if isinstance(model, AffineScore):
        return model.diagonalised()
    if not isinstance(model, Gaussian):
        raise TypeError(f"an exact chain needs a Gaussian or an affine score, got {type(model).__name__}; use simulate")
    eigenvalues, basis = model.spectrum
    return trusted(rotate(transposed(basis), model.mean), eigenvalues, event=1), basis


def affine_steps(
    model: Gaussian | AffineScore, sampler: str, sigmas: Array, eta: Array | Windows
) -> Iterator[AffineStep]:
    """The chain of a sampler on an affine model, one ``AffineStep`` per step of ``sigmas``."""
    variance = model.cov if isinstance(model, Gaussian) else None
    eta = eta if isinstance(eta, Windows) else eta[..., None]
    check(sampler, sigmas[..., None], eta, variance)
    for sigma, sigma_next in zip(sigmas[:-1, ..., None], sigmas[1:, ..., None], strict=True):
        yield _compose(model, sigma, sigma_next, step(sampler, sigma, sigma_next, eta, variance))


def apply(operator: Array, vector: Array, diagonal: bool) -> Array:
    """A per-coordinate factor or a matrix on vectors of last axis d."""
    return operator * vector if diagonal else rotate(operator, vector)


def _compose(model: Gaussian | AffineScore, sigma: Array, sigma_next: Array, kernel: Step) -> AffineStep:
    """The affine map that a kernel makes of the model's eps = sigma (G z - o)."""
    d, diagonal = model.dim, model.is_diagonal
    unit = np.ones(d) if diagonal else np.eye(d)
    if np.isinf(sigma).any():  # D = E[x_0], and the state is the noise itself: z_T / sigma_T
        return AffineStep(
            _lift(kernel.carry, diagonal) * unit, model.pure_noise_mean, _lift(kernel.std, diagonal) * unit
        )
    gain, offset = model.gain(sigma[..., 0]), model.offset(sigma[..., 0])
    pull = sigma * (sigma - kernel.carry)
    A, b = unit - _lift(pull, diagonal) * gain, pull * offset
    S = _lift(kernel.std, diagonal) * unit
    if kernel.again is None or kernel.carry_2 is None:
        return AffineStep(A, b, S)
    gain_next, offset_next = model.gain(sigma_next[..., 0]), model.offset(sigma_next[..., 0])
    pull_2, again = sigma * (sigma - kernel.carry_2), kernel.again * sigma_next
    response = _lift(again, diagonal) * gain_next
    return AffineStep(
        unit - _lift(pull_2, diagonal) * gain + _product(response, A, diagonal),
        pull_2 * offset + apply(response, b, diagonal) - again * offset_next,
        S + _product(response, S, diagonal),
    )


def _product(left: Array, right: Array, diagonal: bool) -> Array:
    return left * right if diagonal else left @ right


def _lift(coefficient: Array, diagonal: bool) -> Array:
    return coefficient if diagonal else coefficient[..., None]
