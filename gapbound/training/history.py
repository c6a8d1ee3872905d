"""What training leaves behind: rewards under every sampler, the gap and its parts, and KL, along the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gapbound._validate import Array, shown
from gapbound.gaussian import Gaussian
from gapbound.law import terminal_law
from gapbound.training.path import expected_reward, path, path_kl
from gapbound.training.policy import AffinePolicy, Consistent, PerStep, Policy
from gapbound.training.task import Task, Walk


@dataclass(frozen=True, eq=False)
class History:
    r"""Records at K iterations of a batch of runs; arrays of shape (K, \*batch) unless said otherwise.

    Attributes:
        iteration: shape (K,); 0 is the reference.
        sde: E r under the sampler trained on, N steps at the training eta.
        ode: E r under the ODE (DDIM), the same N steps and the same noise predictions.
        sde_1: E r at eta = 1, the same N steps.
        fine_ode: E r under a finer ODE: in continuous time for ``Consistent``, with 4 N steps for ``Network``; None for
            ``PerStep``, which is defined on its N levels alone.
        kl: path KL to the reference at the training eta, steps with a density.
        rescaled_kl: the same sum with eta = 1's weights, over the states that the training sampler visits.
        kl_1: the path KL that the sampler at eta = 1 pays over its own states: a function of the policy alone, whatever
            eta trained it. Steps that training leaves deterministic are left out.
        mean: of z_0 under the sampler trained on.
        variance: of z_0 under the sampler trained on.
        ode_mean: of z_0 under the ODE with the same N steps.
        ode_variance: of z_0 under that ODE.
        ended: shape \*batch: the iteration at which a run met its variance floor, -1 where it did not.
        gap_error: standard error of ``gap`` where rewards are sampled; None where they are exact.
    """

    iteration: Array
    sde: Array
    ode: Array
    sde_1: Array
    fine_ode: Array | None
    kl: Array
    rescaled_kl: Array
    kl_1: Array
    mean: Array
    variance: Array
    ode_mean: Array
    ode_variance: Array
    ended: Array
    gap_error: Array | None = None

    @property
    def gap(self) -> Array:
        """ODE minus SDE, the same N steps."""
        return self.ode - self.sde

    @property
    def reference_gap(self) -> Array:
        r"""The gap that the reference has, shape \*batch: initial mismatch and integrator."""
        return self.gap[0]

    @property
    def induced_gap(self) -> Array:
        """What training added: the gap less the reference's."""
        return self.gap - self.reference_gap


class Trained(NamedTuple):
    """A run's history and the policy at its end."""

    history: History
    policy: Any


@dataclass(frozen=True)
class Samplers:
    """The walks that a task is judged by."""

    task: Task
    sde: Walk
    ode: Walk
    sde_1: Walk

    @classmethod
    def of(cls, task: Task) -> Samplers:
        """Training eta, 0 and 1 on the grid of ``task``."""
        return cls(task, task.walk(), task.walk(0.0), task.walk(1.0))


def exact_record(samplers: Samplers, policy: AffinePolicy) -> dict[str, Array]:
    """The fields of ``History`` at one iteration of an affine policy, in closed form."""
    task = samplers.task
    with torch.no_grad():
        model = policy.affine(samplers.sde.sigma)
        reference = Consistent.of(task).affine(samplers.sde.sigma)
        law, ode, sde_1 = (path(walk, model) for walk in (samplers.sde, samplers.ode, samplers.sde_1))
        record = {
            "sde": expected_reward(task, law.mean[-1], law.variance[-1]),
            "ode": expected_reward(task, ode.mean[-1], ode.variance[-1]),
            "sde_1": expected_reward(task, sde_1.mean[-1], sde_1.variance[-1]),
            "kl": path_kl(samplers.sde.kl_weight, law, model, reference),
            "rescaled_kl": path_kl(samplers.sde.unit_kl_weight, law, model, reference),
            "kl_1": path_kl(samplers.sde.unit_kl_weight, sde_1, model, reference),
            "mean": law.mean[-1],
            "variance": law.variance[-1],
            "ode_mean": ode.mean[-1],
            "ode_variance": ode.variance[-1],
        }
    found = {name: value.numpy().copy() for name, value in record.items()}
    return found | ({"fine_ode": _continuous_ode(task, policy)} if isinstance(policy, Consistent) else {})


def gathered(iterations: Sequence[int], records: Sequence[Mapping[str, Array]], ended: Tensor | None = None) -> History:
    """The history of the records of one run or batch."""
    fields = {name: np.stack([record[name] for record in records]) for name in records[0]}
    stopped = np.full(fields["sde"].shape[1:], -1) if ended is None else ended.numpy().copy()
    return History(
        np.array(iterations),
        fine_ode=fields.pop("fine_ode", None),
        gap_error=fields.pop("gap_error", None),
        ended=stopped,
        **fields,
    )


def initial_policy(task: Task, policy: str | Policy, affine: bool = False) -> Any:
    """A policy by name, or the one given, which must be ``affine`` where training is exact.

    Raises:
        ValueError: an unknown name.
        TypeError: something that is no policy.
    """
    if not isinstance(policy, str):
        needed = ("parameters", "with_parameters", "eps", *(("affine",) if affine else ()))
        missing = [name for name in needed if not hasattr(policy, name)]
        if missing:
            raise TypeError(
                f"policy must be a name or a policy, got {shown(policy)}, which has no {', '.join(missing)}"
            )
        return policy
    known: dict[str, Any] = {"consistent": Consistent.of, "per-step": PerStep.of}
    if policy not in known:
        raise ValueError(f"unknown policy {shown(policy)}; known: {', '.join(known)}, or pass a policy")
    return known[policy](task)


def _continuous_ode(task: Task, policy: Consistent) -> Array:
    law = Gaussian(policy.mean.detach().numpy()[..., None], policy.variance.detach().numpy()[..., None])
    return np.broadcast_to(task.reward.expectation(terminal_law(law, task.process, 0.0)), task.batch_shape)
