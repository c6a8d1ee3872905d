"""The gap of a mixture in several dimensions, by simulation fine enough that its standard error is what is left."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array
from gapbound.estimate import estimate_gap
from gapbound.estimate_value import Estimate
from gapbound.eta import Eta, Windows, checked, segments
from gapbound.mixture import GaussianMixture
from gapbound.process import Process, checked_process
from gapbound.reward import Reward

PAIRS = 100_000
STEP = 0.05  # of max(2, (1 + eta^2)/2) log(v + tau), v the smallest variance: 2e-3 of a variance, by second order
LONGEST = 10.0  # predicted seconds
PER_STEP, PER_ENTRY = 7e-3, 3e-4  # seconds of 100,000 pairs, the second for every dimension of every component
LARGEST = 1e6  # sigma_T: beyond it single precision would show


@door()
def simulated_gap(
    target: GaussianMixture,
    process: Process,
    reward: Reward | Callable[[Any], Any],
    eta: Eta = 1.0,
    eta_ref: Eta = 0.0,
) -> Estimate:
    r"""E r under the continuous-time sampler with ``eta_ref`` minus E r under the one with ``eta``: an estimate.

    100,000 pairs from the same x_T, seed 0, by stochastic Heun (weak order 2) in steps that are uniform in log(v + tau)
    and finer the larger eta is. ``estimate_gap`` has the choices that this function makes.

    Args:
        target: one mixture, any d.
        process: VE, VP or FlowMatching with one T; sigma_T = inf gives 0.
        reward: a gapbound reward, or a callable on torch tensors (n, d) -> (n,).
        eta: stochasticity of the training sampler, a number or ``Windows``.
        eta_ref: that of the reference sampler; 0 is the ODE.

    Returns:
        An ``Estimate``, method "monte carlo", whose error is the standard error.

    Raises:
        ValueError: batches, sigma_T finite but above 1e6, a reward that is not one finite number per sample, what would
            take more than ten seconds.
    """
    profiles, sigma_T = one_question(target.batch_shape, process, eta, eta_ref)
    if math.isinf(sigma_T):
        return Estimate(0.0, 0.0, "monte carlo", PAIRS)
    if sigma_T > LARGEST:
        raise ValueError(f"sigma_T must be at most {LARGEST:g} or inf to simulate, got {sigma_T:g}; use a smaller T")
    variance = float(target.components.spectrum[0].min())
    _check_cost(target, sum(count for _, _, count in _stretches(variance, float(sigma_T), profiles)))
    sigmas = _levels(variance, float(sigma_T), profiles)
    own, ref = (eta if isinstance(eta, Windows) else float(eta) for eta in profiles)
    found = estimate_gap(target, process, reward, own, ref, n=PAIRS, sampler="stochastic-heun", sigmas=sigmas)
    return Estimate(float(found.gap), float(found.standard_error), "monte carlo", PAIRS)


def one_question(
    batch: tuple[int, ...], process: Process, eta: Eta, eta_ref: Eta
) -> tuple[list[Array | Windows], Array]:
    """The checked profiles of ``eta`` and ``eta_ref``, and sigma_T; ``ValueError`` where one of all is batched."""
    profiles = [checked(eta), checked(eta_ref, "eta_ref")]
    sigma_T = np.asarray(checked_process(process).sigma_T)
    shapes = [("target", batch), ("T", sigma_T.shape)]
    shapes += [("eta", np.shape(eta)) for eta in profiles if not isinstance(eta, Windows)]
    batched = [f"{name} {shape}" for name, shape in shapes if shape]
    if batched:
        raise ValueError(f"the gap of a mixture is found one at a time, got {', '.join(batched)}; loop")
    return profiles, sigma_T


def _levels(variance: float, sigma_T: float, profiles: list[Array | Windows]) -> Array:
    """Falling noise levels: uniform in log(v + tau) between the edges of all windows."""
    pieces = [np.zeros(1)]
    for low, high, count in _stretches(variance, sigma_T, profiles):
        edges = np.linspace(math.log1p(low**2 / variance), math.log1p(high**2 / variance), count + 1)
        pieces.append(np.append(np.sqrt(variance * np.expm1(edges[1:-1])), high))
    levels = np.concatenate(pieces)
    assert all(a < b for a, b in itertools.pairwise(levels))
    return levels[::-1].copy()


def _stretches(variance: float, sigma_T: float, profiles: list[Array | Windows]) -> list[tuple[float, float, int]]:
    """``(low, high, steps)`` between the edges of all windows."""
    found = []
    for low, high, etas in segments(*profiles):
        high = min(high, sigma_T)
        if low < high:
            length = math.log1p(high**2 / variance) - math.log1p(low**2 / variance)
            stiffness = max(2.0, (1 + max(float(eta) for eta in etas) ** 2) / 2)
            found.append((low, high, math.ceil(length * stiffness / STEP)))
    return found


def _check_cost(target: GaussianMixture, steps: int) -> None:
    seconds = steps * (PER_STEP + PER_ENTRY * target.dim * target.weights.size)
    if seconds > LONGEST:
        raise ValueError(
            f"simulating this gap would take about {seconds:.2g} seconds, {steps:.3g} steps of {PAIRS} pairs, and "
            f"{LONGEST:g} seconds is the most allowed; use a smaller eta or sigma_T, or estimate_gap with fewer pairs"
        )
