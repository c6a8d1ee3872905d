"""The reward gap by simulation: paired, with standard errors, and with what the pairing was worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from gapbound._door import door
from gapbound._validate import Array, confidence, count, shown
from gapbound.chain import levels
from gapbound.eta import Eta, Windows, checked
from gapbound.pairing import predicted_reduction
from gapbound.process import Process
from gapbound.reward import Reward, as_reward
from gapbound.simulate import simulate
from gapbound.stepper import Model


@dataclass(frozen=True)
class GapEstimate:
    """Paired estimates of E r(eta_ref) - E r(eta), arrays with one entry per eta (shape () for a single eta).

    Attributes:
        gap: the mean paired difference.
        standard_error: of the gap.
        interval: confidence interval, shape (..., 2), at ``level``.
        level: confidence level.
        reference: mean reward under eta_ref.
        reward: mean reward under each eta.
        variance_reduction: variance of independent runs of the same size over the variance of the pairs, as measured;
            inf where the runs of a pair coincide.
        predicted_reduction: the same from the exact N-step laws: Gaussian targets with linear or quadratic rewards,
            else None.
        n: pairs.
        draws: SDE runs per ODE run.
    """

    gap: Array
    standard_error: Array
    interval: Array
    level: float
    reference: float
    reward: Array
    variance_reduction: Array
    predicted_reduction: Array | None
    n: int
    draws: int


@door(infinite=True)
def estimate_gap(
    model: Model,
    process: Process,
    reward: Reward | Callable[[Any], Any],
    eta: Eta | Sequence[float | Windows] = 1.0,
    eta_ref: float | Windows = 0.0,
    *,
    n: int = 100_000,
    draws: int = 1,
    seed: int = 0,
    level: float = 0.95,
    sampler: str = "gddim",
    steps: int | None = None,
    sigmas: Any = None,
    grid: str = "time",
    t_min: float = 0.0,
    dim: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> GapEstimate:
    r"""Estimate the gap of an N-step sampler on any model from runs that share their randomness.

    All runs share x_T; the runs of several eta share one reference run and, step by step, their increments, as the
    reference does if it has any; ``draws`` runs per eta, with fresh increments over the same x_T, are averaged before
    they are paired. The end points of an exact Gaussian sampler and the ODE have correlation rho^(eta^2/2): little is
    gained by pairing once eta >= 1.

    Args:
        model: as in ``simulate``.
        process: start and prior.
        reward: a gapbound reward, or a callable on torch tensors (n, d) -> (n,).
        eta: one stochasticity or several (list, array; ``Windows`` too).
        eta_ref: the reference sampler's, 0 for the ODE.
        n: number of pairs, at least 2.
        draws: SDE runs per reference run.
        seed: of the noise.
        level: of the interval (Student's t).
        sampler: for both runs, a name of ``gapbound.kernel.SAMPLERS``; "exact" has no integrator error on Gaussians.
        steps: as in ``simulate``, like all that follow.
        sigmas: as in ``simulate``.
        grid: as in ``simulate``.
        t_min: as in ``simulate``.
        dim: as in ``simulate``.
        device: as in ``simulate``.
        dtype: as in ``simulate``.

    Raises:
        ValueError: what ``simulate`` raises, no eta, a level outside (0, 1), a reward that is not one finite number per
            sample.
        TypeError: what ``simulate`` raises, a reward that returns no real numbers.
    """
    etas, several = _listed(eta, eta_ref)
    measured, level = as_reward(reward), confidence(level)
    count("n", n, 2)
    count("draws", draws)
    shared = dict(
        n=n, seed=seed, sampler=sampler, steps=steps, sigmas=sigmas, grid=grid, t_min=t_min, dim=dim, device=device,
        dtype=dtype,
    )  # fmt: skip

    def rewards(value: Any, draw: int = 0) -> Array:
        return _evaluate(measured, simulate(model, process, eta=value, draw=draw, **shared).samples)

    reference = rewards(eta_ref)
    results = []
    for value in etas:
        runs = np.stack([rewards(value, draw) for draw in range(draws)])
        results.append(_paired(reference, runs, level))
    visited = levels(process, steps, sigmas, grid, t_min)
    predicted = [predicted_reduction(model, process, measured, sampler, visited, eta_ref, e, draws) for e in etas]
    gap, error, interval, own, reduction = (np.array(column) for column in zip(*results, strict=True))
    pick: Any = slice(None) if several else 0
    return GapEstimate(
        gap=gap[pick],
        standard_error=error[pick],
        interval=interval[pick],
        level=level,
        reference=float(reference.mean()),
        reward=own[pick],
        variance_reduction=reduction[pick],
        predicted_reduction=None if any(p is None for p in predicted) else np.array(predicted)[pick],
        n=n,
        draws=draws,
    )


def _listed(eta: Any, eta_ref: Any) -> tuple[list[Any], bool]:
    """The etas as a list, each checked, and whether there was more than a single one to begin with."""
    several = isinstance(eta, Sequence) or (not isinstance(eta, Windows) and np.ndim(eta) > 0)
    etas = list(eta) if several else [eta]
    if not etas:
        raise ValueError("eta must hold at least one value, got an empty list")
    for name, value in (("eta_ref", eta_ref), *(("eta", value) for value in etas)):
        if not isinstance(checked(value, name), Windows) and np.ndim(value):
            raise ValueError(f"{name} must be one number or a list of numbers, got {shown(value)} among them")
    return etas, several


def _evaluate(reward: Reward, samples: torch.Tensor) -> Array:
    found = reward(samples)
    try:
        values = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"a reward must return one real number for each sample, got {shown(found)}") from None
    if values.is_complex():
        raise TypeError(f"a reward must return real numbers, got {values.dtype}")
    if values.shape != samples.shape[:1]:
        raise ValueError(f"a reward must return shape {tuple(samples.shape[:1])}, got {tuple(values.shape)}")
    if not torch.isfinite(values).all():
        row = int((~torch.isfinite(values)).nonzero()[0])
        raise ValueError(f"the reward is not finite on sample {row}: {samples[row].tolist()}")
    return values.to(torch.float64).cpu().numpy()


def _paired(reference: Array, runs: Array, level: float) -> tuple[float, float, tuple[float, float], float, float]:
    """Gap, standard error, interval, own reward, variance reduction; of reference rewards (n,) and runs (draws, n)."""
    difference = reference - runs.mean(0)
    n = len(reference)
    gap, variance = float(difference.mean()), float(difference.var(ddof=1))
    independent = float(reference.var(ddof=1) + runs.var(axis=1, ddof=1).mean() / len(runs))
    error = (variance / n) ** 0.5
    half_width = float(stdtrit(n - 1, (1 + level) / 2)) * error
    # runs that coincide (eta = eta_ref) have no variance left to reduce
    reduction = independent / variance if variance > 0 else np.inf
    return gap, error, (gap - half_width, gap + half_width), float(runs.mean()), reduction
