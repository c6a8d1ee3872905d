r"""How much a reward varies under the target: Var_p* r, which B1 and B4 use, and E|grad r|^2, which B3 and B4 use."""

from __future__ import annotations

import math

import numpy as np

from gapbound._validate import Array
from gapbound.bounds.value import Constant
from gapbound.estimate_value import Estimate
from gapbound.gaussian import Gaussian, rotate, transposed
from gapbound.mixture import GaussianMixture
from gapbound.reward import AbsoluteDeviation, Bump, CallableReward, Cosine, HalfSpace, Linear, Quadratic, Reward

ERRORS = 4.0  # standard errors added to a Monte Carlo value


def variance(reward: Reward, law: Gaussian | GaussianMixture) -> Constant:
    r"""Var r under ``law`` (no batch); for a mixture, term by term positive.

    .. math:: \mathrm{Var} r = \sum_k w_k \mathrm{Var}_k r + \sum_{j<k} w_j w_k (E_j r - E_k r)^2 .

    Closed for the rewards of gapbound, with one exception: |x - c| under a covariance that is not diagonal, where the
    standard deviations of the coordinates are added (an upper bound). A callable goes through E r^2.
    """
    name = "Var_p*(r)"
    if isinstance(reward, CallableReward):
        return _of_callable(name, reward, law)
    if isinstance(law, Gaussian):
        value = _one(reward, law)
    else:
        w, mean = law.weights, reward.expectation(law.components)
        differences = (mean[:, None] - mean) ** 2
        value = (w * _one(reward, law.components)).sum() + (w[:, None] * w * differences).sum() / 2
    components = law.components if isinstance(law, GaussianMixture) else law
    if isinstance(reward, AbsoluteDeviation) and law.dim > 1 and not components.is_diagonal:
        return Constant(name, float(value), "cited upper bound", "standard deviations of the coordinates add up")
    return Constant(name, float(value), "closed form", f"{type(reward).__name__} under Gaussians")


def _one(reward: Reward, law: Gaussian) -> Array:
    r"""Var r under Gaussians, shape \*batch."""
    mean = reward.expectation(law)
    if isinstance(reward, Quadratic | Linear):
        A, c, b, _ = reward.quadratic_form(law.dim)
        A = A * np.eye(law.dim) if np.ndim(A) == 0 else A
        gradient = b - 2 * rotate(A, law.mean - c)
        curved = A @ law.matrix
        return (gradient * rotate(law.matrix, gradient)).sum(-1) + 2 * (curved * curved.swapaxes(-1, -2)).sum((-2, -1))
    if isinstance(reward, HalfSpace):
        return mean * HalfSpace(-reward.w, -reward.threshold).expectation(law)
    if isinstance(reward, Cosine):
        power = _power(reward, law)
        angle = (reward.omega * law.mean).sum(-1) + reward.phase
        return -np.expm1(-power) * (1 - np.cos(2 * angle) * np.exp(-power)) / 2
    if isinstance(reward, Bump):
        return np.maximum(Bump(reward.c, reward.h / math.sqrt(2)).expectation(law) - mean**2, 0.0)
    if isinstance(reward, AbsoluteDeviation):
        square = (law.mean - reward.c) ** 2 + law.variances
        folded = _folded(law.mean - reward.c, np.sqrt(law.variances))
        each = np.maximum(square - folded**2, 0.0)
        total = each.sum(-1) if law.is_diagonal else np.sqrt(each).sum(-1) ** 2
        return reward.weight**2 * total
    raise TypeError(f"no variance is known for {reward!r}; wrap it as CallableReward")


def _folded(distance: Array, sd: Array) -> Array:
    """E|N(distance, sd^2)|, elementwise."""
    return AbsoluteDeviation(0.0).expectation(Gaussian(distance[..., None], sd[..., None] ** 2))


def _power(reward: Cosine, law: Gaussian) -> Array:
    """omega' S omega."""
    return (reward.omega * rotate(law.matrix, reward.omega)).sum(-1)


def _of_callable(name: str, reward: CallableReward, law: Gaussian | GaussianMixture) -> Constant:
    centre = float(reward.expectation(law).value)
    squared = CallableReward(lambda x: (reward.function(x) - centre) ** 2, n=reward.n, seed=reward.seed)
    estimate = squared.expectation(law)
    return _safe(name, estimate, "E r^2 about the mean")


def _safe(name: str, estimate: Estimate, source: str) -> Constant:
    scale = ERRORS if estimate.method == "monte carlo" else 1.0
    error = scale * float(estimate.error)
    how = f"{estimate.method}, {ERRORS:g} standard errors added" if scale > 1 else estimate.method
    return Constant(name, float(estimate.value) + error, "numerical", f"{source} ({how})", error)


def gradient_energy(reward: Reward, law: Gaussian | GaussianMixture) -> Constant | None:
    r"""E|grad r|^2 under ``law``, or None where r has no gradient in L^2: closed forms, else the Lipschitz constant."""
    name = "E_p*|grad r|^2"
    components, weights = (law.components, law.weights) if isinstance(law, GaussianMixture) else (law, np.ones(()))
    if isinstance(reward, Quadratic | Linear):
        A, c, b, _ = reward.quadratic_form(law.dim)
        A = A * np.eye(law.dim) if np.ndim(A) == 0 else A
        gradient = b - 2 * rotate(A, components.mean - c)
        each = (gradient**2).sum(-1) + 4 * ((A @ A) * components.matrix).sum((-2, -1))
    elif isinstance(reward, Cosine):
        doubled = Cosine(2 * reward.omega, 2 * reward.phase).expectation(components)
        each = (reward.omega**2).sum() * (1 - doubled) / 2
    elif isinstance(reward, Bump):
        each = _bump_energy(reward, components)
    elif math.isfinite(reward.lipschitz):
        return Constant(name, reward.lipschitz**2, "cited upper bound", "the square of the Lipschitz constant")
    else:
        return None
    return Constant(name, float((weights * each).sum()), "closed form", f"{type(reward).__name__} under Gaussians")


def _bump_energy(reward: Bump, law: Gaussian) -> Array:
    """E |x - c|^2 / h^4 exp(-|x - c|^2 / h^2): the square under the law tilted by the squared bump."""
    eigenvalues, basis = law.spectrum
    shrink = 1 / (1 + 2 * eigenvalues / reward.h**2)
    offset = rotate(transposed(basis), law.mean - reward.c) * shrink
    mass = Bump(reward.c, reward.h / math.sqrt(2)).expectation(law)
    return mass * (eigenvalues * shrink + offset**2).sum(-1) / reward.h**4
