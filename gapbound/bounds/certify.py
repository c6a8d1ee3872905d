r"""B3 for a learned score: an estimated bound on the reward gap of any torch model, with its parts and errors.

Let the sampler run on s_theta from the prior pi at sigma_T down to sigma_0 (0, or where the model was last trained),
c = (1 + eta^2)/2, -kappa(tau) a one-sided Lipschitz constant **of s_theta**, K(tau) = int_{sigma_0^2}^tau c kappa, and
e(tau) the error of s_theta in L^2(q_tau). Coupled to the exact reverse process by the same noise,

.. math:: W_2(Y^\eta, q_{\sigma_0^2}) \le e^{-K(\sigma_T^2)} \, W_2(\pi, q_{\sigma_T^2})
    + \int_{\sigma_0^2}^{\sigma_T^2} c \, e^{-K(\tau)} \, e(\tau) \, d\tau .

Proof: with Y the model's path and Z ~ q_tau the exact one, <s_theta(Y) - grad log q(Z), Y - Z> is at most
-kappa |Y - Z|^2 + |s_theta(Z) - grad log q(Z)| |Y - Z|: the error is met at Z, hence in L^2(q_tau), and the slope is
the model's. With the true score's kappa the inequality is false. Rewards then change as in
``gapbound.bounds.wasserstein``. Both samplers stop at the same sigma_0, so that the gap compares them with q there; the
errors against p* add what the noise left costs.

What is an estimate, not a proof: e, by Monte Carlo; kappa, by the largest eigenvalue of the symmetrised Jacobian over
points of q_tau, of the model's own ODE and SDE paths, and of segments between two of them. Four standard errors, the
change on doubling the points, and that on doubling the panels of quadrature are added.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gapbound._door import door
from gapbound._validate import Array, choice, count
from gapbound.bounds.certificate import DENOISING, EXACT_ERROR, Certificate, Estimated, Part
from gapbound.bounds.jacobian import METHODS, extreme
from gapbound.bounds.model_score import CheckedScore, as_score, check_rows, check_slopes
from gapbound.bounds.noise_levels import NoiseLevels, noise_levels
from gapbound.bounds.problem import AnyReward
from gapbound.bounds.reference import Reference, as_reference, checked_reward
from gapbound.bounds.score_error import Draws, curve
from gapbound.bounds.spread import ERRORS
from gapbound.bounds.wasserstein import change
from gapbound.eta import Eta, Windows, checked
from gapbound.process import Process, checked_process
from gapbound.simulate import simulate

LARGEST_EXPONENT = 300.0  # of the amplification: beyond it the bound is inf
ASSUMED = {
    EXACT_ERROR: "score error: Monte Carlo against the true score",
    DENOISING: "score error: Monte Carlo of the denoising loss, which exceeds its square by an unknown amount",
}
SAMPLED = "kappa of the learned score: a supremum over samples, which is not a supremum"


@door(infinite=True)
def certify(
    score_model: Any,
    target_or_samples: Any,
    process: Process,
    reward: AnyReward,
    eta: Eta = 1.0,
    *,
    t_min: float = 0.0,
    n: int | None = None,
    points: int = 128,
    panels: int = 8,
    method: str = "auto",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Certificate:
    """Estimate bound B3 on the reward gap of a learned score, and say where its mass comes from.

    It speaks of the samplers in continuous time: what a number of steps adds to their gap is not in it.

    Args:
        score_model: a differentiable callable (z of shape (n, d), sigma) -> score of z's shape in z = x / s, row by
            row, without dropout; or a Gaussian, a mixture, an affine score.
        target_or_samples: the Gaussian or GaussianMixture that the model should have learned, or samples of it (n, d):
            then the score error is only known from above, by the denoising loss, and the bound is large.
        process: VE, VP or FlowMatching, of one T with finite sigma_T.
        reward: a Lipschitz or quadratic gapbound reward, or a ``CallableReward`` that states its Lipschitz constant.
        eta: stochasticity of the SDE, a number or ``Windows``.
        t_min: where both samplers stop: no later than the smallest noise level that the model was trained on.
        n: draws for the score error; 8192, or all samples where they are fewer.
        points: points at each noise level of each of four kinds, along which kappa is looked for.
        panels: of the quadrature over noise levels, an even number; four levels each.
        method: of the largest eigenvalue: "jacobian", "lanczos" or "auto", by the dimension.
        seed: of everything random.
        dtype: that the model is evaluated in, torch.float32 or torch.float64.
        device: where.

    Raises:
        ValueError: a reward that is neither Lipschitz nor quadratic, sigma_T = inf, batches, samples that are too few
            or not finite, a score that is not finite, not of z's shape, not differentiable, or that mixes rows;
            paths of the model that leave the range of dtype.
        TypeError: a model that cannot be called, a target that is no law and no samples, no process, no eta.
    """
    reference, profile = as_reference(target_or_samples), _one(checked(eta))
    sigma_0, sigma_T = _span(process, t_min)
    known = checked_reward(reward, reference.dim)
    score = as_score(score_model, reference.dim, dtype, device)
    if count("panels", panels, 2) % 2:
        raise ValueError(f"panels must be even, as half of them is the coarser rule, got {panels}")
    rules = [
        noise_levels(sigma_0, sigma_T, profile, max(sigma_0, reference.length / 4), size)
        for size in (panels // 2, panels)
    ]
    draws = Draws(reference, n, seed)
    _check_score(score, draws, sigma_T)
    sigmas = np.unique(np.concatenate([rule.sigma.ravel() for rule in rules]))
    squares = np.stack([draws.squares(score, float(sigma)) for sigma in sigmas], -1)
    choice("method", method, METHODS)
    found = _growth(score, draws, process, profile, sigma_0, sigmas, count("points", points, 2), method, seed)
    measured = Measured(sigmas, squares, -found[0] - found[1])
    start = reference.start(process)
    distances = [bound_w2(measured, rules, each, start.value) for each in (np.asarray(0.0), profile)]
    return _assemble(reference, known, sigma_0, measured, found[1], start, rules[1], distances)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of the score: squared errors (n, levels) and kappa (levels,) at ``sigma``, rising."""

    sigma: Array
    squares: Array
    kappa: Array

    def at(self, rule: NoiseLevels) -> Measured:
        """The same at the nodes of a rule, in order."""
        where = np.searchsorted(self.sigma, rule.sigma.ravel())
        return Measured(self.sigma[where], self.squares[:, where], self.kappa[where])


@dataclass(frozen=True, eq=False)
class Distance:
    """A bound on W2: ``total`` with the errors added; the start's share and each panel's; the two errors."""

    total: float
    start: float
    panels: Array
    standard_error: float
    quadrature: float


def bound_w2(measured: Measured, rules: list[NoiseLevels], eta: Array | Windows, start: float) -> Distance:
    """The bound on W2 for one eta: of the finer rule, with its standard errors and its change from the coarser one."""
    coarse, fine = (_integrated(measured.at(rule), rule, eta, start) for rule in rules)
    if not math.isfinite(fine.total):
        return fine
    quadrature = abs(fine.total - coarse.total)
    total = fine.total + quadrature + ERRORS * fine.standard_error
    return replace(fine, total=total, quadrature=quadrature)


def _integrated(at: Measured, rule: NoiseLevels, eta: Array | Windows, start: float) -> Distance:
    """One rule; the standard error from what each draw adds to the integral, as all levels share their draws."""
    value = eta(rule.sigma) if isinstance(eta, Windows) else np.full(rule.sigma.shape, float(eta))
    c, kappa = (1 + value**2) / 2, at.kappa.reshape(rule.sigma.shape)
    mean = at.squares.mean(0)
    e = np.sqrt(mean).reshape(rule.sigma.shape)
    below, whole = rule.from_below(c * kappa)
    if max(-whole, float((-below).max())) > LARGEST_EXPONENT:
        parts = np.where((e > 0).any(-1), math.inf, 0.0)
        return Distance(math.inf, math.inf if start else 0.0, parts, 0.0, 0.0)
    carried = rule.weights * c * np.exp(-below)
    panels = (carried * e).sum(-1)
    per_draw = (at.squares - mean) @ (carried.ravel() / np.where(mean > 0, 2 * np.sqrt(mean), 1.0))
    error = float(per_draw.std(ddof=1)) / math.sqrt(len(per_draw))
    first = start * math.exp(-whole)
    return Distance(first + float(panels.sum()), first, panels, error, 0.0)


def _growth(
    score: CheckedScore,
    draws: Draws,
    process: Process,
    eta: Array | Windows,
    sigma_0: float,
    sigmas: Array,
    points: int,
    method: str,
    seed: int,
) -> tuple[Array, Array]:
    """Largest growth rate of the score at every level over four kinds of points, and what doubling them was worth."""
    visited = np.concatenate([[float(process.sigma_T)], sigmas[::-1], [sigma_0]])
    paths = [
        simulate(
            score, process, "gddim", value, sigmas=visited, n=points, seed=seed, dim=score.dim, trajectory=True,
            dtype=score.dtype, device=score.device,
        ).trajectory
        for value in (0.0, eta if isinstance(eta, Windows) else float(eta))
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    values, rises = [], []
    for k, sigma in enumerate(sigmas):
        own = [path[len(sigmas) - k] for path in paths if path is not None]
        pool = torch.cat([score.tensor(draws.noised(float(sigma))[:points]), *own])
        one, other = (pool[torch.randperm(len(pool), generator=generator)[:points]] for _ in range(2))
        share = torch.rand(points, 1, generator=generator, dtype=pool.dtype).to(pool.device)
        places = torch.cat([pool, one + share * (other - one)])
        shuffled = places[torch.randperm(len(places), generator=generator)]
        largest = extreme(score, shuffled, float(sigma), method, seed=seed)
        values.append(largest.value)
        rises.append(largest.rise)
    return np.array(values), np.array(rises)


def _assemble(
    reference: Reference,
    reward: Any,
    sigma_0: float,
    measured: Measured,
    rise: Array,
    start: Any,
    rule: NoiseLevels,
    distances: list[Distance],
) -> Certificate:
    """Rewards from distances, and everything with its label."""
    slope, curvature = reference.slope(reward, sigma_0)
    stop = reference.stop(reward, sigma_0)
    ode, sde = (change(slope.value, curvature, one.total) for one in distances)
    low, high = reward.range
    return Certificate(
        ode=ode + stop.value,
        sde=sde + stop.value,
        gap=ode + sde,
        w2=(distances[0].total, distances[1].total),
        parts=_parts(rule, distances),
        sigma=measured.sigma,
        score=curve(measured.sigma, measured.squares, reference.kind),
        kappa=measured.kappa,
        kappa_rise=rise,
        ingredients=(start, slope, stop, *_errors(distances)),
        assumptions=(ASSUMED[reference.kind], SAMPLED),
        trivial=high - low,
    )


def _parts(rule: NoiseLevels, distances: list[Distance]) -> tuple[Part, ...]:
    ode, sde = distances
    parts = [Part("start, W2(prior, q_T)", None, ode.start, sde.start)]
    for span, a, b in zip(itertools.pairwise(rule.edges.tolist()), ode.panels, sde.panels, strict=True):
        parts.append(Part(f"sigma {span[0]:.3g} to {span[1]:.3g}", span, float(a), float(b)))
    return tuple(parts)


def _errors(distances: list[Distance]) -> list[Estimated]:
    found = []
    for who, one in zip(("ODE", "SDE"), distances, strict=True):
        how = f"{ERRORS:g} standard errors of the score error, {one.quadrature:.1g} of the quadrature"
        added = ERRORS * one.standard_error + one.quadrature
        found.append(Estimated(f"error added to W2, {who}", added, one.standard_error, how))
    return found


def _check_score(score: CheckedScore, draws: Draws, sigma_T: float) -> None:
    """The score's manners, at the noisiest level and on few points."""
    z = score.tensor(draws.noised(sigma_T)[:16])
    check_rows(score, z, sigma_T)
    check_slopes(score, z, sigma_T)


def _one(eta: Array | Windows) -> Array | Windows:
    if not isinstance(eta, Windows) and eta.ndim:
        raise ValueError(f"a certificate is about one eta at a time, got shape {eta.shape}; loop")
    return eta


def _span(process: Process, t_min: float) -> tuple[float, float]:
    """(sigma_0, sigma_T)."""
    sigma_T = np.asarray(checked_process(process).sigma_T)
    if sigma_T.ndim:
        raise ValueError(f"a certificate is about one T at a time, got shape {sigma_T.shape}; loop")
    if math.isinf(sigma_T):
        raise ValueError("a learned score cannot be asked at sigma_T = inf; start flow matching at t_max < 1")
    sigma_0 = float(process.sigma(t_min))
    if not sigma_0 < sigma_T:
        raise ValueError(f"t_min must be below T, got t_min={t_min} and T={process.T}")
    return sigma_0, float(sigma_T)
