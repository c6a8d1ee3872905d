r"""Where two published claims about training hold: a phase diagram over (eta, N, sigma_T, beta, training length).

1. "Reward gaps narrow over training": |gap| after training is below |gap| of the reference.
2. "More stochastic training improves the ODE": E r under the ODE after training at eta grows with eta, at an equal
   number of updates, or at an equal rescaled KL (KL itself is in other units at every eta; see
   ``updates.kl_rescaling``).

Both are claims of "Understanding Sampler Stochasticity in Training Diffusion Models for RLHF",
https://arxiv.org/abs/2510.10767.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, count, non_negative, positive, shown
from gapbound.gaussian import Gaussian
from gapbound.process import VP
from gapbound.reward import Linear, Quadratic
from gapbound.training.exact import train
from gapbound.training.history import History
from gapbound.training.task import Task

RECORDS = 60  # per run, at least: KL is interpolated between them


@dataclass(frozen=True, eq=False)
class Phase:
    """Exactly trained runs on a grid; axes (steps S, lengths L or fractions F, etas E, sigma_Ts T, betas B).

    Attributes:
        policy: "consistent" or "per-step".
        steps: N, shape (S,).
        lengths: numbers of updates, shape (L,).
        etas: of training, shape (E,).
        sigma_T: shape (T,).
        betas: shape (B,).
        reference_gap: shape (S, E, T, B).
        gap: after each length, shape (S, L, E, T, B).
        ode: E r under the ODE of N steps, shape (S, L, E, T, B).
        sde: E r under the training sampler, shape (S, L, E, T, B).
        control: what the ODE's mean moved over what the SDE's mean moved, shape (S, L, E, T, B).
        narrowing: standard deviation of the SDE's law over the reference's own, shape (S, L, E, T, B).
        rescaled_kl: shape (S, L, E, T, B).
        fractions: of the budget, shape (F,).
        budget: the rescaled KL that every eta has reached at the last length, shape (S, T, B).
        ode_at_kl: E r under the ODE when the rescaled KL first reaches a fraction of the budget, (S, F, E, T, B).
        gap_at_kl: the gap there, shape (S, F, E, T, B).
        ode_at_kl_1: as ``ode_at_kl``, with the KL that the eta = 1 sampler pays in place of the rescaled KL.
    """

    policy: str
    steps: Array
    lengths: Array
    etas: Array
    sigma_T: Array
    betas: Array
    reference_gap: Array
    gap: Array
    ode: Array
    sde: Array
    control: Array
    narrowing: Array
    rescaled_kl: Array
    fractions: Array
    budget: Array
    ode_at_kl: Array
    gap_at_kl: Array
    ode_at_kl_1: Array

    @property
    def narrowed(self) -> Array:
        """Claim 1: whether the gap is smaller than the reference's, shape (S, L, E, T, B)."""
        return np.abs(self.gap) < np.abs(self.reference_gap[:, None])

    @property
    def improves(self) -> Array:
        """Claim 2 at equal updates: whether the ODE is better than at the eta before, shape (S, L, E - 1, T, B)."""
        return np.diff(self.ode, axis=2) > 0

    @property
    def improves_at_kl(self) -> Array:
        """Claim 2 at equal rescaled KL, shape (S, F, E - 1, T, B)."""
        return np.diff(self.ode_at_kl, axis=2) > 0

    @property
    def improves_at_kl_1(self) -> Array:
        """Claim 2 at equal KL of the eta = 1 sampler, which depends on the model alone, shape (S, F, E - 1, T, B)."""
        return np.diff(self.ode_at_kl_1, axis=2) > 0


@door()
def phase_diagram(
    reference: Gaussian,
    reward: Linear | Quadratic,
    policy: str = "per-step",
    *,
    etas: Sequence[float],
    steps: Sequence[int] = (10, 25, 50),
    sigma_T: Sequence[float] = (2.0, 5.0, 15.0),
    betas: Sequence[float] = (0.0, 0.1, 0.3, 1.0, 3.0),
    lengths: Sequence[int] = (20, 100, 400),
    fractions: Sequence[float] = (0.25, 0.5, 1.0),
    rate: float = 0.02,
    optimizer: str = "adam",
    floor: float = 1e-2,
    rescale_beta: bool = False,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Phase:
    """Train every combination exactly, from one reference and under the VP process (beta = 2t, uniform in time).

    Args:
        reference: with d = 1, not batched.
        reward: linear or quadratic.
        policy: "consistent" or "per-step".
        etas: rising, positive.
        steps: N of the sampler, in training and evaluation.
        sigma_T: noise levels at the start.
        betas: weights of the KL, 0 or more.
        lengths: rising numbers of updates; the last one is trained to.
        fractions: of the common rescaled KL, in (0, 1].
        rate: learning rate.
        optimizer: see ``train``.
        floor: on the variance, where runs end.
        rescale_beta: train with beta 4 eta^2 / (1 + eta^2)^2, so that one change of model costs about the same at every
            eta.
        progress: told the fraction done.

    Raises:
        ValueError: etas or lengths that do not rise, fractions outside (0, 1], empty lists, or what ``train`` refuses.
        TypeError: something that is no list of numbers, or what ``train`` refuses.
    """
    eta, start, share = _listed("etas", etas), _listed("sigma_T", sigma_T), _listed("fractions", fractions)
    weights = _listed("betas", betas, non_negative)
    length = np.array(_counts("lengths", lengths))
    for name, values in (("etas", eta), ("lengths", length)):
        if not (np.diff(values) > 0).all():
            raise ValueError(f"{name} must rise, got {values}")
    if not (share <= 1).all():
        raise ValueError(f"fractions must lie in (0, 1], got {fractions}")
    process = VP(np.sqrt(np.log1p(start**2))[:, None])
    every, numbers = _spacing(length), _counts("steps", steps)
    x = eta[:, None, None] ** 2
    beta = weights * (4 * x / (1 + x) ** 2 if rescale_beta else 1.0)
    found = []
    for done, n in enumerate(numbers):
        task = Task(reference, process, reward, eta[:, None, None], beta, n)
        kwargs = {"rate": rate, "optimizer": optimizer, "floor": floor}
        history = train(task, policy, int(length[-1]), every=every, **kwargs).history  # type: ignore[arg-type]
        found.append(_summary(history, length, share, float(reference.cov[0])))
        progress((done + 1) / len(numbers))
    fields = {name: np.stack([one[name] for one in found]) for name in found[0]}
    return Phase(policy, np.array(numbers), length, eta, start, weights, fractions=share, **fields)


def _listed(name: str, values: Any, check: Callable[[str, Any], Array] = positive) -> Array:
    """The numbers of a list that is not empty."""
    array = check(name, values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must be a list of at least one number, got shape {array.shape}")
    return array


def _counts(name: str, values: Any) -> list[int]:
    """The whole numbers of a list that is not empty."""
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
        raise TypeError(f"{name} must be a list of at least one whole number, got {shown(values)}")
    return [count(f"an entry of {name}", value) for value in values]


def _summary(history: History, lengths: Array, fractions: Array, variance: float) -> dict[str, Array]:
    """The fields of ``Phase`` of one N."""
    at = np.searchsorted(history.iteration, lengths)
    moved, ode_moved = history.mean - history.mean[0], history.ode_mean - history.ode_mean[0]
    reached = np.maximum.accumulate(history.rescaled_kl, axis=0)
    budget = reached[-1].min(0)  # over eta
    unit = np.maximum.accumulate(history.kl_1, axis=0)
    return {
        "reference_gap": history.reference_gap,
        "gap": history.gap[at],
        "ode": history.ode[at],
        "sde": history.sde[at],
        "control": ode_moved[at] / moved[at],
        "narrowing": np.sqrt(history.variance[at] / variance),
        "rescaled_kl": history.rescaled_kl[at],
        "budget": budget,
        "ode_at_kl": np.stack([_at_kl(reached, f * budget, history.ode) for f in fractions]),
        "ode_at_kl_1": np.stack([_at_kl(unit, f * unit[-1].min(0), history.ode) for f in fractions]),
        "gap_at_kl": np.stack([_at_kl(reached, f * budget, history.gap) for f in fractions]),
    }


def _spacing(lengths: Array) -> int:
    """Iterations between records that meet every length."""
    common = int(np.gcd.reduce(lengths))
    fitting = [d for d in range(1, common + 1) if common % d == 0 and lengths[-1] >= RECORDS * d]
    return max(fitting, default=1)


def _at_kl(reached: Array, level: Array, values: Array) -> Array:
    """``values`` (K, E, T, B) where the rising ``reached`` (K, E, T, B) first meets ``level`` (T, B), interpolated."""
    after = np.clip((reached < level).sum(0), 1, len(reached) - 1)[None]
    low, high = (np.take_along_axis(reached, k, 0)[0] for k in (after - 1, after))
    start, end = (np.take_along_axis(values, k, 0)[0] for k in (after - 1, after))
    share = np.where(high > low, (level - low) / np.where(high > low, high - low, 1.0), 1.0)
    return start + share * (end - start)
