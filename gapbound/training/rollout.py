"""Sampled paths of a policy, and what they are worth when rewards have no closed form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gapbound.training.history import Samplers
from gapbound.training.policy import PerStep, Policy
from gapbound.training.task import Walk
from gapbound.updates import step_kl


class Rollout(NamedTuple):
    """Paths z of shape (N + 1, n) and their rewards (n,)."""

    z: Tensor
    reward: Tensor


def draw_noise(walk: Walk, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Unit noise for ``n`` paths of a single run: x_T (n,) and increments (N, n)."""
    x_T = torch.randn(n, generator=generator, dtype=torch.float64)
    return x_T, torch.randn(len(walk.sigma), n, generator=generator, dtype=torch.float64)


def rollout(walk: Walk, policy: Policy, reward: Any, noise: tuple[Tensor, Tensor]) -> Rollout:
    """Paths of the policy, without gradients; the same ``noise`` couples two walks."""
    x_T, xi = noise
    z = [walk.start.sqrt() * x_T]
    with torch.no_grad():
        for k in range(len(walk.sigma)):
            mean = step_mean(walk, policy, z[-1][None], slice(k, k + 1))[0]
            z.append(mean + walk.std[k] * xi[k % len(xi)])  # a finer ODE has no noise to read
    return Rollout(torch.stack(z), reward(z[-1][:, None]))


def step_mean(walk: Walk, policy: Policy, z: Tensor, steps: slice) -> Tensor:
    """Means of ``steps`` of the walk from z of shape (steps, n): z - drop eps(z)."""
    return z - walk.drop[steps, None] * policy.eps(z, walk.sigma[steps], steps)


def sampled_record(samplers: Samplers, policy: Any, reference: Any, n: int, seed: int) -> dict[str, Any]:
    """The fields of ``History`` by ``n`` paths; all samplers share their noise, so that the gap is a paired difference.

    The finer ODE has four times as many steps; a per-step policy has none.
    """
    task, walk = samplers.task, samplers.sde
    noise = draw_noise(walk, n, torch.Generator().manual_seed(seed))
    run = {
        name: rollout(w, policy, task.reward, noise)
        for name, w in (("sde", walk), ("ode", samplers.ode), ("sde_1", samplers.sde_1))
    }
    z, has = run["sde"].z, walk.stochastic
    kl = _mean_step_kl(walk, z, policy, reference)
    unit_kl = _mean_step_kl(walk, run["sde_1"].z, policy, reference)
    rescaling = (walk.unit_kl_weight / walk.kl_weight)[has]
    difference = run["ode"].reward - run["sde"].reward
    if not isinstance(policy, PerStep):
        run["fine_ode"] = rollout(task.walk(0.0, 4 * task.steps), policy, task.reward, noise)
    record = {name: one.reward.mean() for name, one in run.items()}
    record |= {"kl": kl.sum(), "rescaled_kl": (rescaling * kl).sum(), "kl_1": (rescaling * unit_kl).sum()}
    record |= {"mean": z[-1].mean(), "variance": z[-1].var()}
    record |= {"ode_mean": run["ode"].z[-1].mean(), "ode_variance": run["ode"].z[-1].var()}
    record["gap_error"] = difference.std() / n**0.5
    return {name: np.array(float(value)) for name, value in record.items()}


def _mean_step_kl(walk: Walk, z: Tensor, policy: Policy, reference: Policy) -> Tensor:
    """KL of each step that has a density, averaged over the paths ``z``."""
    has = walk.stochastic
    with torch.no_grad():
        mean, old = (step_mean(walk, model, z[:-1], slice(None))[has, :, None] for model in (policy, reference))
        return step_kl(mean, old, walk.std[has, None, None]).mean(1)
