r"""How wrong a score is at a noise level: e(tau) in L^2(q_tau) by Monte Carlo, from a law or from samples.

All levels see the same draws z = x + sigma eps, so that curves over sigma are smooth and an integral over them has one
standard error, from the same draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gapbound._door import door
from gapbound._validate import Array, count
from gapbound.bounds.certificate import DIFFERENCE, ScoreCurve
from gapbound.bounds.model_score import CheckedScore, as_score, checked_levels
from gapbound.bounds.reference import Reference, Samples, as_reference, standard_normal

DRAWS = 8192


@door(infinite=True)
def score_error(
    score_model: Any,
    target_or_samples: Any,
    sigmas: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> ScoreCurve:
    r"""Error of a learned score, :math:`e(\tau)^2 = E_{q_\tau} |s_\theta - \nabla \log q_\tau|^2`, with standard error.

    From samples the true score is unknown, and the root of the denoising loss is only an upper bound: read ``kind``.

    Args:
        score_model: a law with a score, or a callable (z of shape (n, d), sigma) -> score of z's shape.
        target_or_samples: Gaussian, GaussianMixture, or samples (n, d) as array or tensor.
        sigmas: positive noise levels, a list or array.
        n: draws; 8192, or all samples where they are fewer.
        seed: of the draws.
        dtype: that the model is evaluated in, torch.float32 or torch.float64.
        device: where.

    Raises:
        ValueError: levels that are not positive, samples that are too few or not finite, a score that is not finite or
            of another shape, batches.
        TypeError: a model that cannot be called, a target that is no law and no samples.
    """
    levels, reference = checked_levels("sigmas", sigmas), as_reference(target_or_samples)
    score = as_score(score_model, reference.dim, dtype, device)
    draws = Draws(reference, n, seed)
    return curve(levels, np.stack([draws.squares(score, float(sigma)) for sigma in levels], -1), reference.kind)


@door(infinite=True)
def score_difference(
    one: Any,
    other: Any,
    target_or_samples: Any,
    sigmas: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> ScoreCurve:
    r"""How far two scores are apart, :math:`(E_{q_\tau} |s_1 - s_2|^2)^{1/2}`, with its standard error.

    Exact up to Monte Carlo from samples too, as no true score enters; so it says nothing about the truth.

    Args:
        one: a model as in ``score_error``.
        other: another.
        target_or_samples: as in ``score_error``, like all that follow.
        sigmas: as in ``score_error``.
        n: as in ``score_error``.
        seed: as in ``score_error``.
        dtype: as in ``score_error``.
        device: as in ``score_error``.

    Raises:
        ValueError: see ``score_error``.
        TypeError: see ``score_error``.
    """
    levels, reference = checked_levels("sigmas", sigmas), as_reference(target_or_samples)
    first, second = (as_score(model, reference.dim, dtype, device) for model in (one, other))
    draws = Draws(reference, n, seed)
    columns = []
    for sigma in levels:
        z = first.tensor(draws.noised(float(sigma)))
        apart = first(z, float(sigma)).double() - second(z, float(sigma)).double()
        columns.append((apart**2).sum(-1).cpu().numpy())
    return curve(levels, np.stack(columns, -1), DIFFERENCE)


class Draws:
    """Points of the target and noise, the same at every level."""

    def __init__(self, reference: Reference, n: int | None, seed: int) -> None:
        """Draw once.

        Raises:
            ValueError: more draws than samples, or fewer than two.
        """
        if n is None:
            n = min(DRAWS, len(reference.points)) if isinstance(reference, Samples) else DRAWS
        self.reference = reference
        self.x = torch.as_tensor(reference.draw(count("n", n, 2), count("seed", seed, 0)))
        self.noise = standard_normal(tuple(self.x.shape), seed)

    def noised(self, sigma: float) -> torch.Tensor:
        """Draws of q_tau, float64, shape (n, d)."""
        return self.x + sigma * self.noise

    def squares(self, score: CheckedScore, sigma: float) -> Array:
        """Squared errors of the score at these draws, shape (n,)."""
        z = score.tensor(self.noised(sigma))
        missed = self.reference.missed(score(z, sigma).cpu(), z.cpu(), self.noise, sigma)
        squares: Array = (missed**2).sum(-1).numpy()
        return squares


def curve(levels: Array, squares: Array, kind: str) -> ScoreCurve:
    """Root means of squares (n, levels), with their standard errors."""
    n = len(squares)
    value = np.sqrt(squares.mean(0))
    error = squares.std(0, ddof=1) / np.sqrt(n) / np.where(value > 0, 2 * value, 1.0)
    return ScoreCurve(levels, value, error, kind, n)
