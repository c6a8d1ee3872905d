"""The reward gap: what the sampler that is shipped earns more than the sampler that was trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array
from gapbound.affine import AffineScore
from gapbound.estimate_value import Estimate
from gapbound.eta import Eta, checked
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.law import (
    check_batches,
    contraction_difference,
    excess_less_variance,
    log_contraction,
    noise_range,
    terminal_law,
)
from gapbound.mixture import GaussianMixture
from gapbound.monotone import mixture_gap
from gapbound.process import Process
from gapbound.reduction import reduced
from gapbound.reward import Linear, Quadratic, Reward, as_reward
from gapbound.simulated import one_question, simulated_gap


@door()
def reward_gap(
    target: Gaussian | AffineScore | GaussianMixture,
    process: Process,
    reward: Reward | Callable[[Any], Any],
    eta: Eta = 1.0,
    eta_ref: Eta = 0.0,
) -> Any:
    r"""E r under the sampler with ``eta_ref`` minus E r under the one with ``eta``: ODE minus SDE by default.

    Linear and quadratic rewards on Gaussians use the rearranged difference

    .. math:: \mathrm{GAP} = \sum_i (\Phi^{ref}_i - \Phi_i) \big\{ -[A (2(m - c) + \delta \circ S)]_i \, \delta_i
        - A_{ii} (\text{excess} - v_i) S_i + b_i \delta_i \big\}, \quad \delta = -m, \quad S = \Phi^{ref} + \Phi

    in the eigenbasis of the covariance (Phi: see ``gapbound.law``). Nothing nearly equal is subtracted: for a diagonal
    covariance the error stays below 1e-10 of the sum of the absolute terms down to gaps of 1e-290, for a full one below
    that times the condition number. Other rewards: 1e-12 of their range. One mixture is reduced to the
    directions that matter (``gapbound.reduction``). In one dimension it is integrated along its quantiles, aiming at a
    relative 1e-6: its ``Estimate`` states the error (``gapbound.monotone``). In more it is simulated: its ``Estimate``
    states the standard error (``gapbound.simulated``).

    Args:
        target: Gaussian, or the affine score of ``guided``, whose batch axes broadcast with T and eta; or one mixture.
        process: VE, VP or FlowMatching.
        reward: a gapbound reward, or any callable on arrays (n, d) -> (n,) (torch tensors for a mixture in d > 1).
        eta: stochasticity of the training sampler: number, array or ``Windows``.
        eta_ref: stochasticity of the reference sampler; 0 is the ODE.

    Returns:
        Array of the common batch shape; an ``Estimate`` with its error for a callable or a mixture.

    Raises:
        ValueError: negative eta, a reward of another dimension, batches that do not broadcast, a batch of mixtures, T
            or eta with a mixture.
        TypeError: a target that is none of these.
    """
    if isinstance(target, GaussianMixture):
        return _gap_of_mixture(target, process, reward, eta, eta_ref)
    reward, eta, eta_ref = as_reward(reward), checked(eta), checked(eta_ref, "eta_ref")
    if isinstance(target, Gaussian) and isinstance(reward, Quadratic | Linear):
        span = noise_range(process)
        check_batches(target, process, eta, eta_ref)
        difference, total = contraction_difference(target.spectrum[0], *span, eta_ref, eta)
        return _quadratic_change(target, process, reward, difference, total)
    ref = reward.expectation(terminal_law(target, process, eta_ref))
    own = reward.expectation(terminal_law(target, process, eta))
    if isinstance(ref, Estimate):
        return Estimate(ref.value - own.value, np.hypot(ref.error, own.error), ref.method, ref.n)
    return ref - own


def _gap_of_mixture(target: GaussianMixture, process: Process, reward: Any, eta: Any, eta_ref: Any) -> Estimate:
    """The gap along the directions that matter: along quantiles where that is one, else by simulation."""
    law: Gaussian | GaussianMixture = target
    if target.dim > 1:
        one_question(target.batch_shape, process, eta, eta_ref)
        if isinstance(reward, Reward):
            law, reward = reduced(target, reward.in_dim(target.dim))
    if law.dim == 1:
        return mixture_gap(law, process, reward, eta, eta_ref)
    if isinstance(law, GaussianMixture):
        return simulated_gap(law, process, reward, eta, eta_ref)
    return Estimate(float(reward_gap(law, process, reward, eta, eta_ref)), 0.0, "closed form")


@door()
def sampler_error(target: Gaussian, process: Process, reward: Reward | Callable[[Any], Any], eta: Eta = 1.0) -> Any:
    r"""E r under the sampler with ``eta`` minus E r under ``target``: the error that a sampler makes on its own.

    The gap is the difference of two such errors. Linear and quadratic rewards use the rearrangement of ``reward_gap``
    against a sampler that forgets its start altogether, Phi = 0, and have its accuracy.

    Args:
        target: Gaussian; batch axes broadcast with T and eta.
        process: VE, VP or FlowMatching.
        reward: a gapbound reward, or any callable on arrays (n, d) -> (n,).
        eta: stochasticity of the sampler: number, array or ``Windows``; 0 is the ODE.

    Returns:
        Array of the common batch shape; an ``Estimate`` with its error for a callable.

    Raises:
        ValueError: negative eta, a reward of another dimension.
        TypeError: a target that is not a Gaussian.
    """
    reward, eta = as_reward(reward), checked(eta)
    if not isinstance(target, Gaussian):
        raise TypeError(
            f"sampler_error needs a Gaussian target, got {type(target).__name__}; an affine score need not be the "
            "score of any law, and a mixture's samplers have no closed form"
        )
    if isinstance(reward, Quadratic | Linear):
        span = noise_range(process)
        check_batches(target, process, eta)
        contraction = np.exp(log_contraction(target.spectrum[0], *span, eta))
        return _quadratic_change(target, process, reward, contraction, contraction)
    own, exact = reward.expectation(terminal_law(target, process, eta)), reward.expectation(target)
    if isinstance(own, Estimate):
        return Estimate(own.value - exact.value, np.hypot(own.error, exact.error), own.method, own.n)
    return own - exact


def _quadratic_change(
    target: Gaussian, process: Process, reward: Quadratic | Linear, difference: Array, total: Array
) -> Array:
    """Difference of two expectations from the difference and the sum of their Phi in the eigenbasis."""
    variance, basis = target.spectrum
    A, c, b, _ = reward.quadratic_form(target.dim)
    A, diagonal = _in_basis(A, basis)
    back = transposed(basis)
    centred, delta, slope = rotate(back, target.mean - c), -rotate(back, target.mean), rotate(back, b)
    curvature = 2 * centred + delta * total
    curvature = A * curvature if np.ndim(A) == 0 else rotate(A, curvature)
    bracket = delta * (slope - curvature) - diagonal * excess_less_variance(process, variance) * total
    return (difference * bracket).sum(-1)


def _in_basis(A: Any, basis: Array | None) -> tuple[Any, Any]:
    """The matrix of the reward in the eigenbasis, and its diagonal; a number is the same in every basis."""
    if np.ndim(A) == 0:
        return A, A
    if basis is not None:
        A = transposed(basis) @ A @ basis
    return A, np.diagonal(A, axis1=-2, axis2=-1)
