r"""The signed first-order error of a score that is not the exact one, and of steps that are not the exact ones.

With u(z, tau) = E[r(Y_0) | Y_tau = z] under the exact score s, and the sampler started from its prior either way,

.. math:: E r(Y^\theta_0) - E r(Y_0) = \int \frac{1 + \eta^2}{2} \, E[\nabla u(Y^\theta_\tau, \tau) \cdot
    (s_\theta - s)(Y^\theta_\tau, \tau)] \, d\tau.

This is exact along the law of the *perturbed* sampler. Along the law of the exact sampler, which starts from the prior
and so is not q_tau, it holds up to O(|s_theta - s|^2), and there it can be computed: it is the derivative of E r in the
direction s_theta - s. It has a sign, so errors at different noise levels may cancel, and no constant exp(int kappa): it
is no bound. The steps of an N-step sampler add in the same way, each by its local defect along the exact law.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapbound._door import door
from gapbound._validate import Array, choice, count, shown
from gapbound.affine import FAR, FORGOTTEN, PANEL_WIDTH, STEEPEST, AffineScore, collocation
from gapbound.chain import affine_steps, levels
from gapbound.estimate_value import Estimate
from gapbound.eta import Eta, Windows, checked, log_variance_ratio, segments
from gapbound.exponent import diag
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.kernel import step
from gapbound.law import check_batches, log_contraction, noise_range
from gapbound.mixture import GaussianMixture
from gapbound.process import Process, checked_process
from gapbound.regulator import POLICIES
from gapbound.reward import Linear, Quadratic, Reward
from gapbound.simulate import simulate

NODES, WEIGHTS, _ = collocation(16)
LARGEST_RUN = 10**8  # numbers in the trajectories of a simulated error: 0.8 GB


@door()
def signed_score_error(
    target: Gaussian,
    process: Process,
    reward: Quadratic | Linear,
    model: Gaussian | AffineScore,
    eta: Eta = 1.0,
    t_min: float = 0.0,
) -> Array:
    r"""Return the first-order change of E r when the sampler takes the score of ``model`` in place of the target's.

    The exact sampler's moments are closed forms and the integral over noise levels is numerical, accurate to about
    1e-12 of its terms. The answer is linear in the difference of the scores: with ``model = guided(unconditional,
    target, w)`` it is w - 1 times the derivative at w = 1.

    Args:
        target: Gaussian without a batch, whose exact score drives the exact sampler.
        process: start and prior, with one T.
        reward: ``Quadratic`` or ``Linear``.
        model: an affine score or a Gaussian; its batch is that of the answer.
        eta: stochasticity, one number or ``Windows``.
        t_min: where sampling stops.

    Raises:
        ValueError: eta or T is an array, the target has a batch, dimensions differ, or the error overflows.
        TypeError: another target, model or reward.
    """
    _check(target, reward)
    if not isinstance(model, Gaussian | AffineScore):
        raise TypeError(f"model must be an affine score or a Gaussian, got {type(model).__name__}")
    if model.dim != target.dim:
        raise ValueError(f"model must have the target's dimension {target.dim}, got {model.dim}")
    profile, (end, start) = _one_profile(eta, process), noise_range(process, t_min)
    check_batches(model, process, profile)
    lam, basis = target.spectrum
    plain = basis is None and model.is_diagonal
    mean = rotate(transposed(basis), target.mean)
    shift: Array = np.zeros(target.dim)
    spread: Array = np.zeros(target.dim if plain else (target.dim, target.dim))
    with np.errstate(over="ignore", invalid="ignore"):
        for sigma, weight in _nodes(target, model, end, start, profile):
            level = sigma.reshape(-1, *[1] * (len(model.batch_shape) + 1))
            left = np.exp(log_contraction(lam, end, level, profile))
            come = np.exp(log_contraction(lam, level, start, profile))
            gain, push = _score_difference(target, model, level[..., 0], basis, plain)
            away, width = -mean * come, lam + level**2 + _excess(process, lam) * come**2
            own = weight.reshape(level.shape) * left
            if plain:
                shift = shift + (own * (push - gain * away)).sum(0)
                spread = spread - (2 * own * left * gain * width).sum(0)
            else:
                shift = shift + (own * (push - rotate(gain, away))).sum(0)
                half = own[..., None] * (gain * width[..., None, :]) * left[..., None, :]
                spread = spread - (half + transposed(half)).sum(0)
    final = mean * -np.expm1(log_contraction(lam, end, start, profile))
    return _finite_answer(_change_of_reward(reward, target, final, shift, spread, basis))


@door()
def signed_step_errors(
    target: Gaussian,
    process: Process,
    reward: Quadratic | Linear,
    sampler: str = "gddim",
    eta: Eta = 1.0,
    steps: int | None = None,
    *,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
) -> Array:
    r"""Return what the defect of each step of an N-step sampler adds to E r, to first order; shape (N,).

    Each step is compared with the exact transition, started from the exact sampler's law at its upper level and
    followed by the exact sampler. The sum is E r of the N-step sampler less E r of the continuous one, up to O(1/N^2)
    where the sampler is of order 1: N times the sum tends to the constant of that order.

    Args:
        target: Gaussian without a batch.
        process: start and prior, with one T and a finite sigma_T.
        reward: ``Quadratic`` or ``Linear``.
        sampler: a name of ``gapbound.kernel.SAMPLERS``.
        eta: stochasticity, one number or ``Windows``.
        steps: number of steps, see ``discrete_law``.
        sigmas: the noise levels themselves.
        grid: kind of grid.
        t_min: where the grid stops.

    Raises:
        ValueError: eta or T is an array, the target has a batch, sigma_T is infinite, or ``discrete_law`` refuses.
        TypeError: another target or reward.
    """
    _check(target, reward)
    profile, sigma = _one_profile(eta, process), levels(process, steps, sigmas, grid, t_min)
    if np.isinf(sigma[0]):
        raise ValueError("a step down from sigma = inf has no defect in z; start flow matching at t_max < 1")
    lam, basis = target.spectrum
    mean = rotate(transposed(basis), target.mean)
    axes, found = trusted(mean, lam, event=1), []
    for affine, high, low in zip(affine_steps(axes, sampler, sigma, profile), sigma[:-1], sigma[1:], strict=True):
        come, through, left = (
            np.exp(log_contraction(lam, bottom, top, profile))
            for bottom, top in ((high, sigma[0]), (low, high), (sigma[-1], low))
        )
        width = lam + high**2 + _excess(process, lam) * come**2
        exact = lam + low**2 - through**2 * (lam + high**2)
        shift = (affine.A - through) * -mean * come + (affine.A * mean + affine.b - mean)
        spread = (affine.A - through) * (affine.A + through) * width + affine.S**2 - exact
        final = mean * -np.expm1(log_contraction(lam, sigma[-1], sigma[0], profile))
        spread = left**2 * spread
        found.append(
            _change_of_reward(reward, target, final, left * shift, spread if basis is None else diag(spread), basis)
        )
    return _finite_answer(np.array(found))


@door(infinite=True)
def estimate_signed_error(
    target: Gaussian | GaussianMixture,
    process: Process,
    reward: Reward | Callable[[Tensor], Tensor],
    score: Callable[[Tensor, float], Tensor],
    sampler: str = "gddim",
    eta: Eta = 1.0,
    steps: int | None = None,
    n: int = 10_000,
    seed: int = 0,
    *,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
) -> Estimate:
    r"""Estimate the first-order change of E r when an N-step sampler takes ``score`` in place of the exact score.

    Paths of the exact sampler carry their derivative in the direction of the difference of the scores,

    .. math:: z' = z + w \, s(z) + std \, \xi, \qquad \zeta' = \zeta + w \, (\nabla s(z) \, \zeta + s_\theta(z) - s(z)),
        \qquad w = \sigma (\sigma - carry),

    and the answer is the mean of grad r(z_0) . zeta_0 with its standard error: for any score, in any dimension.

    Args:
        target: Gaussian or mixture without a batch; its exact score is known.
        process: start and prior, with one T and a finite sigma_T.
        reward: differentiable almost everywhere and continuous: a gapbound reward other than ``HalfSpace``, or a
            callable of tensors (n, d) -> (n,).
        score: the perturbed score, a callable (z, sigma) -> score in z = x / s, as ``simulate`` takes it.
        sampler: one of ``gapbound.regulator.POLICIES``, which evaluate the model once a step.
        eta: stochasticity, one number or ``Windows``.
        steps: number of steps, see ``simulate``.
        n: number of paths, at least 2.
        seed: of the noise.
        sigmas: the noise levels themselves.
        grid: kind of grid.
        t_min: where the grid stops.

    Raises:
        ValueError: sigma_T is infinite, a score of another shape or not finite, a reward without a gradient, a run of
            more than 1e8 numbers, and what ``simulate`` refuses.
        TypeError: another target, or a score that is not callable.
    """
    if not isinstance(target, Gaussian | GaussianMixture):
        raise TypeError(f"target must be a Gaussian or a GaussianMixture, got {type(target).__name__}")
    if not callable(score):
        raise TypeError(f"score must be a callable (z, sigma) -> score, got {type(score).__name__}")
    choice("sampler", sampler, POLICIES)
    profile, level = _one_profile(eta, process), levels(process, steps, sigmas, grid, t_min)
    if np.isinf(level[0]):
        raise ValueError("the derivative of a path has no scale at sigma = inf; start flow matching at t_max < 1")
    size = count("n", n, 2) * len(level) * target.dim
    if size > LARGEST_RUN:
        raise ValueError(f"n paths of {len(level) - 1} steps hold {size:.2g} numbers, more than 1e8; use a smaller n")
    run = simulate(target, process, sampler, eta, n=n, seed=seed, sigmas=level, dtype=torch.float64, trajectory=True)
    assert run.trajectory is not None
    change = torch.zeros_like(run.samples)
    for k, (high, low) in enumerate(itertools.pairwise(level)):
        weight = float(high * (high - step(sampler, high, low, profile).carry))
        change = change + weight * _tangent(target, score, run.trajectory[k], float(high), change)
    return _mean_of(_slope(reward, run.samples, change))


def _check(target: Any, reward: Any) -> None:
    if not isinstance(target, Gaussian):
        raise TypeError(f"target must be a Gaussian, got {type(target).__name__}; estimate_signed_error takes mixtures")
    if target.batch_shape:
        raise ValueError(f"target must have no batch, got {target.batch_shape}; call once for each")
    if not isinstance(reward, Quadratic | Linear):
        raise TypeError(f"only Quadratic and Linear rewards have a closed form here, got {shown(reward)}")
    reward.quadratic_form(target.dim)


def _one_profile(eta: Any, process: Process) -> Array | Windows:
    profile, batch = checked(eta), np.shape(checked_process(process).T)
    if batch or not (isinstance(profile, Windows) or profile.ndim == 0):
        raise ValueError("a signed error takes one T and one eta, got an array; call once for each")
    return profile


def _excess(process: Process, lam: Array) -> Array:
    """Prior variance less v + sigma_T^2; irrelevant at sigma_T = inf."""
    excess = np.asarray(process.prior_excess)
    return np.where(np.isfinite(excess), excess, 0.0) - lam


def _nodes(
    target: Gaussian, model: Gaussian | AffineScore, end: Array, start: Array, eta: Array | Windows
) -> Iterator[tuple[Array, Array]]:
    """Noise levels of one Gauss-Legendre panel, and (1 + eta^2)/2 dtau there; from the data up while it matters."""
    own, other = _range(target), model.variance_range if isinstance(model, AffineScore) else _range(model)
    low_scale, high_scale = min(own[0], other[0]), max(own[1], other[1])
    ceiling = min(float(start[0]), FAR * max(1.0, math.sqrt(high_scale)))
    cuts = model.cuts if isinstance(model, AffineScore) else Windows([])
    for low, high, (value, _) in segments(eta, cuts):
        bottom, top = max(low, float(end[0])), min(high, ceiling)
        if not bottom < top:
            continue
        push = (1 + float(value) ** 2) / 2
        span = float(log_variance_ratio(low_scale, bottom, top))
        width, done = min(PANEL_WIDTH, STEEPEST / push), 0.0
        while done < span:
            left = log_contraction(target.spectrum[0], end, np.array([_level(bottom, low_scale, done)]), eta)
            if left.max() < math.log(FORGOTTEN):
                return
            length = min(width, span - done)
            y = done + length * NODES
            yield _level(bottom, low_scale, y), push * (bottom**2 + low_scale) * np.exp(y) * length * WEIGHTS
            done += length


def _level(bottom: float, floor: float, y: Any) -> Array:
    """The noise level at which log(tau + floor) is y above its value at ``bottom``."""
    return np.sqrt(bottom**2 + (bottom**2 + floor) * np.expm1(y))


def _range(law: Gaussian) -> tuple[float, float]:
    return float(law.spectrum[0].min()), float(law.spectrum[0].max())


def _score_difference(
    target: Gaussian, model: Gaussian | AffineScore, sigma: Array, basis: Array | None, plain: bool
) -> tuple[Array, Array]:
    """``(B, e)`` of s_theta - s = e - B y on the target's eigenbasis around its mean."""
    own = target.spectrum[0] + sigma[..., None] ** 2
    gain, offset = model.gain(sigma), model.offset(sigma)
    push = offset - (gain * target.mean if model.is_diagonal else rotate(gain, target.mean))
    if plain:
        return gain - 1 / own, push
    matrix = diag(gain) if model.is_diagonal else gain
    if basis is not None:
        matrix, push = transposed(basis) @ matrix @ basis, rotate(transposed(basis), push)
    return matrix - diag(1 / own), push


def _change_of_reward(
    reward: Quadratic | Linear, target: Gaussian, mean: Array, shift: Array, spread: Array, basis: Array | None
) -> Array:
    """dE r of a law with this mean whose moments change by ``shift`` and ``spread``, all on the eigenbasis."""
    A, c, b, _ = reward.quadratic_form(target.dim)
    if basis is not None:
        mean, shift, spread = rotate(basis, mean), rotate(basis, shift), basis @ spread @ transposed(basis)
    away = mean - c
    slope = b - 2 * (A * away if np.ndim(A) == 0 else away @ A)
    matrix = spread.ndim > shift.ndim
    if np.ndim(A) == 0:
        curved = A * (np.trace(spread, axis1=-2, axis2=-1) if matrix else spread.sum(-1))
    else:
        curved = (A * spread).sum((-2, -1)) if matrix else (np.diagonal(A) * spread).sum(-1)
    return (slope * shift).sum(-1) - curved


def _finite_answer(value: Array) -> Array:
    if not np.isfinite(value).all():
        raise ValueError("the signed error overflows floating point; take a model nearer to the target")
    return value


def _tangent(
    target: Gaussian | GaussianMixture,
    score: Callable[[Tensor, float], Tensor],
    z: Tensor,
    sigma: float,
    change: Tensor,
) -> Tensor:
    """grad s . zeta + s_theta - s at one noise level."""
    point = z.clone().requires_grad_()
    with torch.enable_grad():
        exact = target.score(point, sigma)
        (curved,) = torch.autograd.grad((exact * change).sum(), point)  # the Jacobian of a gradient is symmetric
    with torch.no_grad():
        own = score(z, sigma)
    if not isinstance(own, Tensor) or own.shape != z.shape or not bool(torch.isfinite(own).all()):
        raise ValueError(f"score must be finite and of z's shape {tuple(z.shape)}, got {getattr(own, 'shape', own)}")
    return curved + own.to(z.dtype) - exact.detach()


def _slope(reward: Any, samples: Tensor, change: Tensor) -> Tensor:
    """grad r . zeta of every path."""
    point = samples.clone().requires_grad_()
    with torch.enable_grad():
        value = reward(point)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise ValueError(f"a signed error needs a reward with a gradient, got {shown(reward)}; see reward_gap")
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return (gradient * change).sum(-1)


def _mean_of(values: Tensor) -> Estimate:
    if not bool(torch.isfinite(values).all()):
        raise ValueError("the derivative of a path overflows; take more steps, or a sampler that does not diverge")
    spread = float(values.std()) if len(values) > 1 else math.inf
    return Estimate(float(values.mean()), spread / math.sqrt(len(values)), "monte carlo", len(values))
