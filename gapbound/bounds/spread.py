r"""How much a reward varies under the target: Var_p* r, which B1 and B4 use, and E|grad r|^2, which B3 and B4 use.

Everything is a sum of positive terms, in logarithms, because these numbers meet constants as large as the ones they are
small: far from the reward Var r may be exp(-3000) and chi^2 exp(6000). Differences that cancel get their rounding added
(``ROUNDING`` times the sum of the absolute terms), so that a variance is never below the truth, and 0 only for a
constant reward.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtr

from gapbound._validate import Array, shown
from gapbound.bounds.problem import Problem
from gapbound.bounds.value import Constant
from gapbound.estimate_value import Estimate
from gapbound.expectation import HALF_WIDTH
from gapbound.gaussian import Gaussian, rotate, transposed, trusted
from gapbound.mixture import GaussianMixture
from gapbound.reward import AbsoluteDeviation, Bump, CallableReward, Cosine, HalfSpace, Linear, Quadratic, Reward

ERRORS = 4.0  # standard errors added to a Monte Carlo value
ROUNDING = 4e-16
WITHIN = f"quadrature within {HALF_WIDTH:g} standard deviations"
FAR = 20.0  # log chi^2 beyond which a callable's tails, which nobody has looked at, may matter
UNSEEN = (
    "nothing is known of this callable beyond 12 standard deviations of the target, where the prior has mass; wrap it "
    "as CallableReward(f, range=(low, high))"
)
SQRT_2_PI = math.sqrt(2 * math.pi)


def variance(reward: Reward, law: Gaussian | GaussianMixture) -> Constant:
    r"""Var r under ``law`` (no batch); for a mixture, term by term positive.

    .. math:: \mathrm{Var} r = \sum_k w_k \mathrm{Var}_k r + \sum_{j<k} w_j w_k (E_j r - E_k r)^2 .

    Closed for the rewards of gapbound, with one exception: |x - c| under a covariance that is not diagonal, where the
    standard deviations of the coordinates are added (an upper bound). A callable goes through E r^2.
    """
    name = "Var_p*(r)"
    if isinstance(reward, CallableReward):
        return _of_callable(name, reward, law)
    components, weights = _components(law)
    log_w = np.log(weights)
    apart = log_w[:, None] + log_w + 2 * _log_differences(reward, components) - math.log(2)
    log = float(np.logaddexp(logsumexp(log_w + _log_one(reward, components)), logsumexp(apart)))
    if isinstance(reward, AbsoluteDeviation) and law.dim > 1 and not components.is_diagonal:
        return Constant.from_log(name, log, "cited upper bound", "standard deviations of the coordinates add up")
    return Constant.from_log(name, log, "closed form", f"{type(reward).__name__} under Gaussians")


def _components(law: Gaussian | GaussianMixture) -> tuple[Gaussian, Array]:
    """The components with a batch axis, and their weights."""
    if isinstance(law, GaussianMixture):
        return law.components, law.weights
    return trusted(law.mean[None], law.cov[None], 1 if law.is_diagonal else 2), np.ones(1)


def _log_one(reward: Reward, law: Gaussian) -> Array:
    r"""log Var r under every component, shape (K,)."""
    if isinstance(reward, HalfSpace):
        u, slack = _standard_score(reward, law)
        return log_ndtr(u) + log_ndtr(-u) + slack
    if isinstance(reward, Bump):
        return _log_bump_variance(reward, law)
    with np.errstate(divide="ignore"):
        return np.log(_plain_one(reward, law))


def _plain_one(reward: Reward, law: Gaussian) -> Array:
    if isinstance(reward, Linear):
        return variance_along(law, reward.b)
    if isinstance(reward, Quadratic):
        A, c, b, _ = reward.quadratic_form(law.dim)
        A = A * np.eye(law.dim) if np.ndim(A) == 0 else A
        gradient = _slope(A, c, b, law.mean)
        along = np.abs(gradient * rotate(law.matrix, gradient)).sum(-1)
        curved = A @ law.matrix
        return along + 2 * np.maximum((curved * curved.swapaxes(-1, -2)).sum((-2, -1)), 0.0)
    if isinstance(reward, Cosine):
        power, angle = variance_along(law, reward.omega), _phase(reward, law)
        return -np.expm1(-power) * (-np.expm1(-power) + 2 * np.exp(-power) * _sine(angle) ** 2) / 2
    if isinstance(reward, AbsoluteDeviation):
        each = law.variances * _folded_share(np.abs(law.mean - reward.c) / np.sqrt(law.variances))
        total = each.sum(-1) if law.is_diagonal else np.sqrt(each).sum(-1) ** 2
        return reward.weight**2 * total
    raise TypeError(f"no variance is known for {shown(reward)}; wrap it as CallableReward")


def _slope(A: Array, c: Array, b: Array, mean: Array) -> Array:
    """Grad r at the means, away from 0 by its rounding."""
    gradient = b - 2 * rotate(A, mean - c)
    size = np.abs(b) + 2 * rotate(np.abs(A), np.abs(mean) + np.abs(c))
    return gradient + np.where(gradient < 0, -1.0, 1.0) * ROUNDING * size


def _folded_share(u: Array) -> Array:
    """Var|X| / Var X of a normal variable u standard deviations from 0: 1 - 4 g (g + u), g = phi(u) - u Phi(-u)."""
    g = np.exp(-(u**2) / 2) / SQRT_2_PI - u * ndtr(-u)
    return 1 - 4 * g * (g + u)


def _log_bump_variance(reward: Bump, law: Gaussian) -> Array:
    r"""From (E r)^2 (E r^2 / (E r)^2 - 1), both factors in logarithms and of positive terms."""
    eigenvalues, offset2, slack = _bump_parts(reward, law)
    h2 = reward.h**2
    x = eigenvalues / h2
    mean = -(np.log1p(x) + offset2 / (eigenvalues + h2)).sum(-1)  # log (E r)^2
    both = (eigenvalues + h2) * (2 * eigenvalues + h2)
    growth = (np.log1p(x * (x / (1 + 2 * x))) / 2 + offset2 * (eigenvalues / both)).sum(-1)
    with np.errstate(divide="ignore"):
        excess = growth + np.log(-np.expm1(-growth))
    return mean + excess + slack


def _bump_parts(reward: Bump, law: Gaussian) -> tuple[Array, Array, Array]:
    """Eigenvalues, squared offsets from the centre along the eigenvectors, and what rounding may add to logarithms."""
    eigenvalues, basis = law.spectrum
    offset = rotate(transposed(basis), law.mean - reward.c)
    size = np.sqrt(((np.abs(law.mean) + np.abs(reward.c)) ** 2).sum(-1, keepdims=True))
    slack = (1 + np.abs(offset) * (np.abs(offset) + size) / (eigenvalues + reward.h**2)).sum(-1)
    return eigenvalues, offset**2, 8 * ROUNDING * slack


def _log_differences(reward: Reward, law: Gaussian) -> Array:
    r"""log |E_j r - E_k r| with its rounding added, shape (K, K); -inf on the diagonal."""
    K = len(law.mean)
    if K == 1:
        return np.full((1, 1), -np.inf)
    if isinstance(reward, HalfSpace):
        u, slack = _standard_score(reward, law)
        largest = float(slack.max())
        logs = np.minimum(_log_apart(log_ndtr(u), largest), _log_apart(log_ndtr(-u), largest))
    elif isinstance(reward, Bump):
        eigenvalues, offset2, slack = _bump_parts(reward, law)
        log = -(np.log1p(eigenvalues / reward.h**2) + offset2 / (eigenvalues + reward.h**2)).sum(-1) / 2
        logs = _log_apart(log, float(slack.max()))
    else:
        value, size = _expectation(reward, law)
        away = np.abs(value[:, None] - value) + ROUNDING * (size[:, None] + size)
        with np.errstate(divide="ignore"):
            logs = np.log(away)
    return np.where(np.eye(K, dtype=bool), -np.inf, logs)


def _expectation(reward: Reward, law: Gaussian) -> tuple[Array, Array]:
    """E r less its constant, and the sum of its absolute terms, under every component."""
    if isinstance(reward, Linear):
        return (reward.b * law.mean).sum(-1), np.abs(reward.b * law.mean).sum(-1)
    if isinstance(reward, Quadratic):
        A, c, b, _ = reward.quadratic_form(law.dim)
        A = A * np.eye(law.dim) if np.ndim(A) == 0 else A
        from_c, away = law.mean - c, np.abs(law.mean) + np.abs(c)
        value = (b * law.mean).sum(-1) - (from_c * rotate(A, from_c)).sum(-1) - (A * law.matrix).sum((-2, -1))
        size = (np.abs(b * law.mean)).sum(-1) + (away * rotate(np.abs(A), away)).sum(-1)
        return value, 4 * law.dim * (size + np.abs(A * law.matrix).sum((-2, -1)))
    value = reward.expectation(law)
    if isinstance(reward, Cosine):
        return value, 4 + np.abs(_phase(reward, law)) + (np.abs(reward.omega * law.mean)).sum(-1)
    assert isinstance(reward, AbsoluteDeviation)
    return value, abs(reward.weight) * (np.abs(law.mean) + np.abs(reward.c) + np.sqrt(law.variances)).sum(-1) * 4


def rounding(reward: Reward, law: Gaussian) -> float:
    """What double precision may get wrong of E r under one Gaussian."""
    one = trusted(law.mean[None], law.cov[None], 1 if law.is_diagonal else 2)
    if isinstance(reward, HalfSpace | Bump):
        slack = _standard_score(reward, one)[1] if isinstance(reward, HalfSpace) else _bump_parts(reward, one)[2]
        return float((ROUNDING + slack[0]) * reward.expectation(law))
    if isinstance(reward, CallableReward):
        return 0.0  # its stated error is more
    return ROUNDING * float(_expectation(reward, one)[1][0])


def _log_apart(log: Array, slack: float) -> Array:
    """log |exp(a) - exp(b)| for all pairs, with ``slack`` times the larger added."""
    larger = np.maximum(log[:, None], log)
    return larger + np.log(-np.expm1(-np.abs(log[:, None] - log)) + slack)


def _standard_score(reward: HalfSpace, law: Gaussian) -> tuple[Array, Array]:
    """u = (w'm - threshold) / sqrt(w'Sw), and what rounding may add to log Phi(u)."""
    sd = np.sqrt(variance_along(law, reward.w))
    u = ((reward.w * law.mean).sum(-1) - reward.threshold) / sd
    size = (np.abs(reward.w * law.mean).sum(-1) + abs(reward.threshold)) / sd
    return u, ROUNDING * (1 + np.abs(u)) * (1 + size)


def variance_along(law: Gaussian, w: Array) -> Array:
    r"""w'Sw, shape \*batch."""
    return (w**2 * law.cov).sum(-1) if law.is_diagonal else (w * rotate(law.cov, w)).sum(-1)


def _phase(reward: Cosine, law: Gaussian) -> Array:
    """omega'm + phase."""
    return (reward.omega * law.mean).sum(-1) + reward.phase


def _sine(angle: Array) -> Array:
    """|sin| with the rounding of its angle added."""
    return np.minimum(np.abs(np.sin(angle)) + 4 * ROUNDING * np.abs(angle), 1.0)


def _of_callable(name: str, reward: CallableReward, law: Gaussian | GaussianMixture) -> Constant:
    """About its mean, plus what a bounded reward may do beyond the reach of the quadrature."""
    centre = float(reward.expectation(law).value)
    squared = CallableReward(lambda x: (reward.function(x) - centre) ** 2, n=reward.n, seed=reward.seed)
    estimate = squared.expectation(law)
    low, high = reward.range
    unseen = 2 * float(ndtr(-HALF_WIDTH)) * (high - low) ** 2 if math.isfinite(high - low) else 0.0
    return _safe(name, estimate, "E r^2 about the mean", unseen)


def _safe(name: str, estimate: Estimate, source: str, unseen: float) -> Constant:
    scale = ERRORS if estimate.method == "monte carlo" else 1.0
    error = scale * float(estimate.error) + unseen
    how = f"{estimate.method}, {ERRORS:g} standard errors added" if scale > 1 else WITHIN
    return Constant(name, float(estimate.value) + error, "numerical", f"{source} ({how})", error)


def unseen(question: Problem, distance: Constant) -> bool:
    """Whether a callable of unknown range may matter beyond the reach of the quadrature that its variance comes from.

    By Cauchy-Schwarz the prior's mass there is at most sqrt(chi^2 P(beyond)), with P(beyond) = 3.6e-33.
    """
    known = not isinstance(question.reward, CallableReward) or math.isfinite(question.trivial)
    return not known and distance.logarithm > FAR


def gradient_energy(reward: Reward, law: Gaussian | GaussianMixture) -> Constant | None:
    r"""E|grad r|^2 under ``law``, or None where r has no gradient in L^2: closed forms, else the Lipschitz constant."""
    name = "E_p*|grad r|^2"
    components, weights = _components(law)
    if isinstance(reward, Linear):
        return Constant(name, float((reward.b**2).sum()), "closed form", "|b|^2")
    if isinstance(reward, Quadratic):
        A, c, b, _ = reward.quadratic_form(law.dim)
        A = A * np.eye(law.dim) if np.ndim(A) == 0 else A
        each = (_slope(A, c, b, components.mean) ** 2).sum(-1) + 4 * ((A @ A) * components.matrix).sum((-2, -1))
    elif isinstance(reward, Cosine):
        power, angle = variance_along(components, reward.omega), _phase(reward, components)
        each = (reward.omega**2).sum() * (-np.expm1(-2 * power) / 2 + np.exp(-2 * power) * _sine(angle) ** 2)
    elif isinstance(reward, Bump):
        log = logsumexp(np.log(weights) + _log_bump_energy(reward, components))
        return Constant.from_log(name, float(log), "closed form", "Bump under Gaussians")
    elif math.isfinite(reward.lipschitz):
        return Constant(name, reward.lipschitz**2, "cited upper bound", "the square of the Lipschitz constant")
    else:
        return None
    return Constant(name, float((weights * each).sum()), "closed form", f"{type(reward).__name__} under Gaussians")


def _log_bump_energy(reward: Bump, law: Gaussian) -> Array:
    """log E |x - c|^2 / h^4 exp(-|x - c|^2 / h^2): the square under the law tilted by the squared bump."""
    eigenvalues, offset2, slack = _bump_parts(reward, law)
    h2 = reward.h**2
    shrink = 1 / (1 + 2 * eigenvalues / h2)
    mass = -(np.log1p(2 * eigenvalues / h2) / 2 + offset2 / (2 * eigenvalues + h2)).sum(-1)
    square = (eigenvalues * shrink + offset2 * shrink**2).sum(-1)
    return mass + np.log(square) - 4 * math.log(reward.h) + slack
