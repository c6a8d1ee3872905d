r"""N-step samplers on affine scores: each step is an affine map with Gaussian noise, so the law is exact by recursion.

.. math:: z_{k+1} = A_k z_k + b_k + S_k \xi_k, \qquad
    m_{k+1} = A_k m_k + b_k, \quad V_{k+1} = A_k V_k A_k' + S_k S_k'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, real
from gapbound.affine import AffineScore
from gapbound.eta import Eta, Windows, checked
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.grid import grid as make_grid
from gapbound.kernel import Step, check, step
from gapbound.law import check_batches
from gapbound.process import Process, checked_process

LARGEST_SIGMA = 1e150
LONGEST = 50_000  # steps: about ten seconds


@dataclass(frozen=True)
class AffineStep:
    """One step ``z -> A z + b + S xi``; A and S act per coordinate (shape (..., d)) or as matrices (..., d, d)."""

    A: Array
    b: Array
    S: Array


def levels(process: Process, steps: int | None, sigmas: Any, kind: str, t_min: float) -> Array:
    """The noise levels to visit: ``sigmas`` if given, else ``steps`` steps (50 if None) of the grid ``kind``.

    Raises:
        ValueError: both are given, sigmas do not fall from sigma_T, or their squares overflow.
    """
    sigma_T = checked_process(process).sigma_T
    if sigmas is None:
        values = make_grid(process, 50 if steps is None else steps, kind, t_min)
    elif steps is not None:
        raise ValueError(f"give steps or sigmas, not both, got steps={steps} and sigmas={sigmas}")
    else:
        values = real("sigmas", sigmas)
    if values.ndim == 0 or len(values) < 2 or not (values[1:] < values[:-1]).all() or not (values[-1] >= 0).all():
        raise ValueError(f"sigmas must fall to 0 or more in at least one step, got {values}")
    if len(values) - 1 > LONGEST:
        raise ValueError(
            f"a chain of {len(values) - 1} steps would take about {2e-4 * len(values):.2g} seconds or more, and "
            f"{LONGEST} steps are the most allowed; use fewer, or terminal_law, which has none"
        )
    if not np.isclose(values[0], sigma_T, rtol=1e-9, atol=0).all():
        raise ValueError(f"sigmas must start at sigma_T = {sigma_T}, got {values[0]}")
    if (np.isfinite(values) & (values > LARGEST_SIGMA)).any():
        raise ValueError(
            f"a chain squares its noise levels, which must stay below {LARGEST_SIGMA:g}, got {np.max(values):g}; start "
            "from a smaller T, or use terminal_law, which has no such limit"
        )
    return values


@door()
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
        ValueError: unknown names, an eta that the sampler does not admit, a sampler that needs a Gaussian, a sampler
            that diverges on this grid.
        TypeError: a model that is neither a Gaussian nor an affine score.
    """
    eta = checked(eta)
    sigmas = levels(process, steps, sigmas, grid, t_min)
    diagonal, basis = diagonalised(model)
    check_batches(diagonal, process, eta)
    start = initial_std(process)[..., None]
    mean, cov = np.zeros(diagonal.dim), start**2 * np.ones(diagonal.dim)
    if not diagonal.is_diagonal:
        cov = cov[..., None] * np.eye(diagonal.dim)
    with np.errstate(over="ignore", invalid="ignore"):
        for affine in affine_steps(diagonal, sampler, sigmas, eta):
            mean, cov = apply_step(affine, mean, cov, diagonal.is_diagonal)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(f"{sampler} diverges in {len(sigmas) - 1} steps of this grid; use more steps or 'gddim'")
    return rotated_law(mean, cov, basis, diagonal.is_diagonal)


def apply_step(step: AffineStep, mean: Array, cov: Array, diagonal: bool) -> tuple[Array, Array]:
    """Mean and covariance after a step; the covariance is per coordinate where all is ``diagonal``."""
    mean = apply(step.A, mean, diagonal) + step.b
    if diagonal:
        return mean, step.A**2 * cov + step.S**2
    return mean, step.A @ cov @ transposed(step.A) + step.S @ transposed(step.S)


def rotated_law(mean: Array, cov: Array, basis: Array | None, diagonal: bool) -> Gaussian:
    """The Gaussian whose mean and covariance are known in the coordinates of ``basis``."""
    if basis is not None:
        mean, cov = rotate(basis, mean), (basis * cov[..., None, :]) @ transposed(basis)
    return trusted(mean, cov, event=1 if diagonal and basis is None else 2)


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
    S = _lift(kernel.std, diagonal) * unit
    if kernel.raised is not None:
        after = replace(kernel, std=0.0 * kernel.std, raised=None)
        return _noise_first(_compose(model, kernel.raised, sigma_next, after), S, diagonal)
    start = np.isinf(sigma)  # there D = E[x_0], and the state is the noise itself: z_T / sigma_T
    if start.all():
        return AffineStep(_lift(kernel.carry, diagonal) * unit, model.pure_noise_mean, S)
    sigma = np.where(start, 1.0, sigma)
    gain, offset = model.gain(sigma[..., 0]), model.offset(sigma[..., 0])
    kept = model.kept(sigma[..., 0])
    # 1 - sigma (sigma - carry) G, rearranged so that a small A keeps its digits at large sigma
    A = kept + _lift(sigma * kernel.carry, diagonal) * gain
    b = sigma * (sigma - kernel.carry) * offset
    if start.any():
        A = np.where(_lift(start, diagonal), _lift(kernel.carry, diagonal) * unit, A)
        b = np.where(start, model.pure_noise_mean, b)
    if kernel.again is None or kernel.carry_2 is None:
        return AffineStep(A, b, S)
    gain_next, offset_next = model.gain(sigma_next[..., 0]), model.offset(sigma_next[..., 0])
    again = kernel.again * sigma_next
    response = _lift(again, diagonal) * gain_next
    return AffineStep(
        kept + _lift(sigma * kernel.carry_2, diagonal) * gain + _product(response, A, diagonal),
        sigma * (sigma - kernel.carry_2) * offset + apply(response, b, diagonal) - again * offset_next,
        S + _product(response, S, diagonal),
    )


def _noise_first(after: AffineStep, S: Array, diagonal: bool) -> AffineStep:
    """The step that adds S xi and then makes the step ``after``; the sign of a factor is nothing to the noise."""
    return AffineStep(after.A, after.b, np.abs(after.A * S) if diagonal else after.A @ S)


def _product(left: Array, right: Array, diagonal: bool) -> Array:
    return left * right if diagonal else left @ right


def _lift(coefficient: Array, diagonal: bool) -> Array:
    return coefficient if diagonal else coefficient[..., None]
