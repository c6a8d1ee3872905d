r"""What pairing an ODE run with SDE runs over the same x_T is worth, from the exact laws of the two chains."""

from __future__ import annotations

from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array
from gapbound.chain import affine_steps, diagonalised, discrete_law, initial_std
from gapbound.eta import Windows, checked
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.process import Process
from gapbound.reward import Linear, Quadratic, Reward


@door(infinite=True)
def predicted_reduction(
    model: Any,
    process: Process,
    reward: Reward,
    sampler: str,
    sigmas: Array,
    eta_ref: Any,
    eta: Any,
    draws: int = 1,
) -> float | None:
    r"""Variance of independent runs over that of the pairs of ``estimate_gap``; inf where the two runs coincide.

    In each eigendirection the covariance C of two chains over one x_T runs along with them; S S' enters where they
    share their increments too, as the first draw does with the reference:

    .. math:: C_{k+1} = A_k A'_k C_k + S_k S'_k, \qquad
        \mathrm{Cov}(r(X), r(Y)) = 2 \, \mathrm{tr}(A C A C) + g_X' C g_Y, \quad g = b - 2A(\text{mean} - c)

    For the exact sampler and the ODE the correlation is rho^(eta^2/2).

    Returns:
        The ratio, or None where it has no closed form (the model is not a Gaussian or the reward not quadratic).
    """
    if not isinstance(model, Gaussian) or not isinstance(reward, Quadratic | Linear):
        return None
    A, slope = _gradient(model, reward)
    ref, own = (_Chain(model, process, sampler, sigmas, checked(value)) for value in (eta_ref, eta))

    def covariance(x: _Chain, y: _Chain, cross: Array) -> float:
        return _quadratic_part(A, cross) + float((slope(x.mean) * cross * slope(y.mean)).sum())

    ref_variance, own_variance = covariance(ref, ref, ref.variance), covariance(own, own, own.variance)
    draw, other_draw = (covariance(ref, own, _shared(ref, own, increments)) for increments in (True, False))
    within = covariance(own, own, _shared(own, own, increments=False))
    across = (draw + (draws - 1) * other_draw) / draws
    averaged = (own_variance + (draws - 1) * within) / draws
    independent = ref_variance + own_variance / draws
    paired = ref_variance + averaged - 2 * across
    return independent / paired if paired > 1e-12 * independent else np.inf


class _Chain:
    """One chain in the eigenbasis: where it starts, its steps, and the law that it ends in."""

    def __init__(self, model: Gaussian, process: Process, sampler: str, sigmas: Array, eta: Array | Windows) -> None:
        diagonal, _ = diagonalised(model)
        law = discrete_law(diagonal, process, sampler, eta, sigmas=sigmas)
        self.mean, self.variance = law.mean, law.variances
        self.start = np.full(diagonal.dim, initial_std(process))
        self.steps = list(affine_steps(diagonal, sampler, sigmas, eta))


def _shared(one: _Chain, other: _Chain, increments: bool) -> Array:
    """Covariance of the ends of two chains over one x_T, and over the same increments if they share these too."""
    cross = one.start * other.start
    for step, other_step in zip(one.steps, other.steps, strict=True):
        cross = step.A * other_step.A * cross + (step.S * other_step.S if increments else 0.0)
    return cross


def _gradient(model: Gaussian, reward: Quadratic | Linear) -> tuple[Any, Any]:
    """The reward's matrix in the eigenbasis (a number stays one), and its gradient there as a function of the mean."""
    A, c, b, _ = reward.quadratic_form(model.dim)
    _, basis = model.spectrum
    back = transposed(basis)
    if np.ndim(A) and basis is not None:
        A = back @ A @ basis
    c, b = rotate(back, c), rotate(back, b)
    return A, lambda mean: b - 2 * (A * (mean - c) if np.ndim(A) == 0 else A @ (mean - c))


def _quadratic_part(A: Any, cross: Array) -> float:
    if np.ndim(A) == 0:
        return float(2 * A**2 * (cross**2).sum())
    return float(2 * (A**2 * np.outer(cross, cross)).sum())
