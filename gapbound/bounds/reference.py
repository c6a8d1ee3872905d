r"""What is known of the target: its law, or samples alone. The two ways to ask how wrong a score is.

With z = x + sigma eps, x from the target, eps standard normal:

- the law known, e(tau)^2 = E|s(z) - grad log q_tau(z)|^2 is an average over draws;
- from samples alone, E|s(z) + eps / sigma|^2 = e(tau)^2 + E tr Cov(x | z) / tau^2, the denoising loss. The second term
  is unknown, so that only an upper bound comes out, which is as large as sqrt(d) / sigma at small sigma.
- W2(prior, q_T), from samples: the smaller of two. By convexity E_x W2(prior, N(x, sigma_T^2 I))^2; and through any
  Gaussian g = N(m, S + tau I), here with the moments of one half of the samples, W2(prior, g) + W2(g, q_T), where
  W2(g, q)^2 <= 2 lambda_max(g) KL(q || g) (Talagrand 1996) and KL <= log(1 + chi^2(q || g)), with

  .. math:: 1 + \chi^2(q_\tau \| g) = E_{x, x'} \int \frac{N(z; x, \tau I) \, N(z; x', \tau I)}{g(z)} \, dz

  a closed form of two independent samples, averaged over pairs of the other half.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapbound._validate import Array, finite
from gapbound.bounds.certificate import DENOISING, EXACT_ERROR, Estimated
from gapbound.bounds.mismatch import wasserstein as distance_of
from gapbound.bounds.problem import AnyReward, Target, unreduced
from gapbound.bounds.spread import ERRORS
from gapbound.bounds.value import Constant
from gapbound.bounds.wasserstein import slope_of
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture
from gapbound.process import VE, Process
from gapbound.reward import CallableReward, Linear, Quadratic, Reward, as_reward

FEWEST = 100  # samples
PAIRED = 2000  # samples whose pairs are averaged

Ingredient = Constant | Estimated


class Reference(ABC):
    """A target, as far as it is known."""

    kind: str  # of the score error
    dim: int

    @property
    @abstractmethod
    def length(self) -> float:
        """Smallest standard deviation: where scores begin to vary with sigma."""

    @abstractmethod
    def draw(self, n: int, seed: int) -> Array:
        """``n`` points of the target, shape (n, d)."""

    @abstractmethod
    def missed(self, score: Tensor, z: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """What the score at z = x + sigma noise should not be: itself less what it should be, shape (n, d)."""

    @abstractmethod
    def start(self, process: Process) -> Ingredient:
        """W2(prior, q_T)."""

    @abstractmethod
    def slope(self, reward: Reward, sigma_0: float) -> tuple[Ingredient, float]:
        """The factors of W2 and of its square in the change of E r, for laws near q at ``sigma_0``."""

    @abstractmethod
    def stop(self, reward: Reward, sigma_0: float) -> Ingredient:
        """``|E r - E_p* r|`` under p* noised to ``sigma_0``."""


@dataclass(frozen=True, eq=False)
class KnownLaw(Reference):
    """A Gaussian or a mixture."""

    law: Target
    kind = EXACT_ERROR

    @property
    def dim(self) -> int:  # type: ignore[override]
        """The dimension d."""
        return self.law.dim

    @property
    def length(self) -> float:
        """See ``Reference``."""
        components = self.law.components if isinstance(self.law, GaussianMixture) else self.law
        return math.sqrt(float(components.spectrum[0].min()))

    def draw(self, n: int, seed: int) -> Array:
        """See ``Reference``."""
        return self.law.sample(n, seed)

    def missed(self, score: Tensor, z: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Score less the true score, in float64."""
        return score.double() - self.law.score(z.double(), sigma)

    def start(self, process: Process) -> Ingredient:
        """Exact, or an upper bound: see ``gapbound.bounds.mismatch``."""
        return distance_of(unreduced(self.law, process, Linear(0.0), 0.0))

    def slope(self, reward: Reward, sigma_0: float) -> tuple[Ingredient, float]:
        """As in ``gapbound.bounds.wasserstein``, under the noised law."""
        question = unreduced(self.law, VE(1.0), reward, 0.0)
        return slope_of(replace(question, target=self.law.noised(sigma_0)))

    def stop(self, reward: Reward, sigma_0: float) -> Ingredient:
        """In closed form; by the Lipschitz constant for a callable."""
        if isinstance(reward, CallableReward):
            return _stop_of_any(reward, sigma_0, self.dim)
        noised = float(reward.expectation(self.law.noised(sigma_0)))
        return Constant(
            "reward lost to the noise left", abs(noised - float(reward.expectation(self.law))), "closed form",
            "E r under p* noised and under p*",
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Samples(Reference):
    """Points of the target, shape (n, d), independent draws."""

    points: Array
    kind = DENOISING

    @property
    def dim(self) -> int:  # type: ignore[override]
        """The dimension d."""
        return self.points.shape[1]

    @property
    def length(self) -> float:
        """See ``Reference``."""
        return math.sqrt(float(np.linalg.eigvalsh(np.atleast_2d(np.cov(self.points.T))).min()))

    def draw(self, n: int, seed: int) -> Array:
        """``n`` of the samples without repetition.

        Raises:
            ValueError: there are fewer.
        """
        if n > len(self.points):
            raise ValueError(f"n={n} draws need as many samples, got {len(self.points)}; lower n or pass more samples")
        return self.points[np.random.default_rng(seed).permutation(len(self.points))[:n]]

    def missed(self, score: Tensor, z: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Score less that of the one noising that made z."""
        return score.double() + noise.double() / sigma

    def start(self, process: Process) -> Ingredient:
        """The smaller of the two bounds of the module, ``ERRORS`` standard errors added."""
        tau, s = float(process.sigma_T) ** 2, math.sqrt(float(process.prior_variance))
        narrower = float(process.prior_excess) / (s + math.sqrt(tau))  # s - sigma_T
        convex = _mean((self.points**2).sum(-1) + self.dim * narrower**2)
        fitted, other = self.points[::2], self.points[1::2][:PAIRED]
        mean, spread = fitted.mean(0), np.atleast_2d(np.cov(fitted.T))
        eigenvalues, basis = np.linalg.eigh(spread)
        variance = tau + np.maximum(eigenvalues, 0.0)
        to_g = math.sqrt(float((mean**2).sum() + ((np.sqrt(variance) - s) ** 2).sum()))
        excess, error = _chi2_of_pairs((other - mean) @ basis, tau, variance)
        # a chi^2 is not negative, its estimate may be
        through = to_g + math.sqrt(2 * variance.max() * math.log1p(max(excess + ERRORS * error, 0.0)))
        by_convexity = math.sqrt(convex[0] + ERRORS * convex[1])
        if through < by_convexity:
            added = through - to_g - math.sqrt(2 * variance.max() * math.log1p(max(excess, 0.0)))
            how = f"through a Gaussian of the samples' moments, by Talagrand; {ERRORS:g} standard errors added"
            return Estimated("W2(prior, q_T)", through, added / ERRORS, how)
        how = f"convexity over the samples, {ERRORS:g} standard errors added"
        return Estimated("W2(prior, q_T)", by_convexity, convex[1] / (2 * by_convexity), how)

    def slope(self, reward: Reward, sigma_0: float) -> tuple[Ingredient, float]:
        """The Lipschitz constant, or the root of E|grad r|^2 over the noised samples."""
        if math.isfinite(reward.lipschitz) or not isinstance(reward, Quadratic):
            return Constant("Lip(r)", reward.lipschitz, "closed form", type(reward).__name__), 0.0
        A, c, b, _ = reward.quadratic_form(self.dim)
        matrix = A * np.eye(self.dim) if np.ndim(A) == 0 else A
        noise = np.random.default_rng(0).standard_normal(self.points.shape)
        gradient = b - 2 * (self.points + sigma_0 * noise - c) @ matrix
        energy, error = _mean((gradient**2).sum(-1))
        root = math.sqrt(energy + ERRORS * error)
        how = f"mean over the samples, {ERRORS:g} standard errors added"
        size = float(np.abs(np.linalg.eigvalsh(matrix)).max())
        return Estimated("sqrt(E_p*|grad r|^2)", root, error / (2 * root) if root else 0.0, how), size

    def stop(self, reward: Reward, sigma_0: float) -> Ingredient:
        """By the Lipschitz constant; |tr A| sigma_0^2 for a quadratic reward."""
        if math.isfinite(reward.lipschitz) or not isinstance(reward, Quadratic):
            return _stop_of_any(reward, sigma_0, self.dim)
        A = reward.quadratic_form(self.dim)[0]
        trace = A * self.dim if np.ndim(A) == 0 else float(np.trace(A))
        return Constant("reward lost to the noise left", abs(trace) * sigma_0**2, "closed form", "|tr A| sigma_0^2")


def as_reference(target_or_samples: Any) -> Reference:
    """A law as it is, anything else as samples.

    Raises:
        ValueError: a batch of laws; samples that are not finite, not of shape (n, d), or fewer than 100.
        TypeError: neither a law nor an array or tensor of numbers.
    """
    if isinstance(target_or_samples, Gaussian | GaussianMixture):
        return KnownLaw(unreduced(target_or_samples, VE(1.0), Linear(0.0), 0.0).target)
    if isinstance(target_or_samples, Tensor):
        target_or_samples = target_or_samples.detach().cpu().double().numpy()
    if not isinstance(target_or_samples, np.ndarray | list | tuple):
        raise TypeError(
            f"the target must be a Gaussian, a GaussianMixture, or samples (n, d), got {type(target_or_samples)!r}"
        )
    points = finite("samples", target_or_samples)
    if points.ndim != 2:
        raise ValueError(f"samples must have shape (n, d), got {points.shape}; for d = 1 write x[:, None]")
    if len(points) < FEWEST:
        raise ValueError(f"samples must be at least {FEWEST} to estimate anything, got {len(points)}")
    if np.ptp(points, axis=0).min() == 0:
        raise ValueError("samples must vary in every coordinate, got a constant one; drop it")
    return Samples(points)


def checked_reward(reward: AnyReward, dim: int) -> Reward:
    """The reward in ``dim`` dimensions.

    Raises:
        ValueError: it is neither Lipschitz nor quadratic.
    """
    known = as_reward(reward).in_dim(dim)
    if not math.isfinite(known.lipschitz) and not isinstance(known, Quadratic):
        raise ValueError(
            f"certify needs a Lipschitz or quadratic reward; {type(known).__name__} has no Lipschitz constant: use a "
            "smooth one, or wrap a callable as CallableReward(f, lipschitz=...)"
        )
    return known


def _stop_of_any(reward: Reward, sigma_0: float, dim: int) -> Constant:
    value = reward.lipschitz * sigma_0 * math.sqrt(dim)
    return Constant("reward lost to the noise left", value, "cited upper bound", "Lip(r) sigma_0 sqrt(d)")


def _mean(values: Array) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _chi2_of_pairs(x: Array, tau: float, variance: Array) -> tuple[float, float]:
    r"""chi^2(q_tau || N(0, diag(variance))) by averaging pairs of centred samples, and its standard error.

    .. math:: \int \frac{N(z; a, \tau) N(z; b, \tau)}{N(z; 0, G)} dz = \frac{1}{\tau} \sqrt{\frac{G}{P}}
        \exp\Big(\frac{(a + b)^2}{2 \tau^2 P} - \frac{a^2 + b^2}{2 \tau}\Big), \qquad P = \frac{2}{\tau} - \frac{1}{G}

    The error counts both terms of the variance of such an average, 4 Var(one sample's mean) / n and
    2 Var(a pair) / n^2: where g is nearly q the first one vanishes and the second is what is left.
    """
    n, P = len(x), 2 / tau - 1 / variance
    cross = (x / (tau**2 * P)) @ x.T
    own = (x**2 * (1 / (tau**2 * P) - 1 / tau)).sum(-1) / 2
    constant = float((np.log(variance / P) / 2 - math.log(tau)).sum())
    exponent = cross + own[:, None] + own + constant
    if exponent.max() > 300:
        return math.inf, 0.0
    pairs = np.expm1(exponent)
    np.fill_diagonal(pairs, 0.0)
    each, value = pairs.sum(-1) / (n - 1), float(pairs.sum()) / (n * (n - 1))
    spread = float((pairs**2).sum()) / (n * (n - 1)) - value**2
    return value, math.sqrt(4 * float(each.var(ddof=1)) / n + 2 * max(spread, 0.0) / n**2)


def standard_normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Float64 noise, the same for the same ``seed`` on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
