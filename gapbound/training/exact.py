"""Training by exact gradients of E r - beta KL through the closed-form recursion: no sampling, whole batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gapbound._door import door
from gapbound._validate import choice, count, flag, number, positive
from gapbound.training.history import Samplers, Trained, exact_record, gathered, initial_policy
from gapbound.training.path import Path, expected_reward, path, path_kl
from gapbound.training.policy import AffinePolicy, Consistent
from gapbound.training.task import Task, Walk, checked_task

OPTIMIZERS = ("adam", "sgd")
KL_FORMS = ("path", "visited")


def objective(task: Task, policy: AffinePolicy, walk: Walk | None = None, kl: str = "path") -> tuple[Tensor, Tensor]:
    r"""``(E r - beta KL, variance of z_0)`` under the training sampler, each of shape \*batch, differentiable.

    Args:
        task: what is trained.
        policy: affine.
        walk: ``task.walk()``, if it is at hand already.
        kl: "path", or "visited": of the same value, but its gradient takes the visited states as given, as GRPO's KL
            term does. Its fixed point is not the KL-regularised optimum.

    Raises:
        ValueError: an unknown ``kl``.
        TypeError: no task.
    """
    walk = checked_task(task).walk() if walk is None else walk
    if not isinstance(walk, Walk) or not hasattr(policy, "affine"):
        raise TypeError("policy must be affine (Consistent, PerStep), and walk one that task.walk() returned")
    model, reference = policy.affine(walk.sigma), Consistent.of(task).affine(walk.sigma)
    law = path(walk, model)
    visited = law if choice("kl", kl, KL_FORMS) == "path" else Path(law.mean.detach(), law.variance.detach())
    cost = torch.as_tensor(task.beta) * path_kl(walk.kl_weight, visited, model, reference)
    value = expected_reward(task, law.mean[-1], law.variance[-1]) - cost
    return value, law.variance[-1]


@door()
@torch.inference_mode(False)
@torch.enable_grad()
def train(
    task: Task,
    policy: str | AffinePolicy = "consistent",
    iterations: int = 300,
    rate: float = 0.02,
    *,
    optimizer: str = "adam",
    decay: bool = False,
    every: int = 10,
    floor: float = 1e-3,
    kl: str = "path",
) -> Trained:
    r"""Gradient ascent on E r(Y_0) - beta KL, exactly, for every run of the batch, whatever the caller's grad mode.

    A run whose next update would bring the variance of z_0 under the training sampler below ``floor`` ends there: it
    keeps its last parameters, and ``History.ended`` holds the iteration. With beta = 0 and a quadratic reward nothing
    else stops the collapse onto the reward's maximum.

    Args:
        task: with a Gaussian reference and a linear or quadratic reward.
        policy: "consistent", "per-step", or a policy to go on from.
        iterations: number of updates.
        rate: learning rate; of Adam, the size of an update in the parameters' own units.
        optimizer: "adam" (updates of one size whatever eta) or "sgd" (proportional to the gradient).
        decay: let the rate fall to 0 along half a cosine.
        every: iterations between two records; the first and the last are always recorded.
        floor: positive.
        kl: see ``objective``.

    Raises:
        ValueError: arguments out of range, a start below the floor, or a run that diverges (says when).
        TypeError: a reference or reward without closed forms, arguments of the wrong kind.
    """
    count("iterations", iterations), count("every", every), choice("kl", kl, KL_FORMS)
    rate, floor = number("rate", rate, positive), number("floor", floor, positive)
    flag("decay", decay)
    checked_task(task).gaussian(), task.quadratic_form()
    model, samplers = initial_policy(task, policy, affine=True), Samplers.of(task)
    ended = torch.full(task.batch_shape, -1)
    iterations_kept, records = [0], [exact_record(samplers, model)]
    if not (records[0]["variance"] > floor).all():
        raise ValueError(f"the variance starts at {records[0]['variance'].min():g}, below floor={floor:g}; lower it")
    start = model
    for done, model in _ascent(task, start, samplers.sde, iterations, rate, optimizer, decay, floor, kl, ended):
        if done % every == 0 or done == iterations:
            iterations_kept.append(done)
            records.append(exact_record(samplers, model))
    return Trained(gathered(iterations_kept, records, ended), model)


def _ascent(
    task: Task,
    policy: AffinePolicy,
    walk: Walk,
    iterations: int,
    rate: float,
    optimizer: str,
    decay: bool,
    floor: float,
    kl: str,
    ended: Tensor,
) -> Iterator[tuple[int, AffinePolicy]]:
    """The policy after each update; fills ``ended``."""
    leaves = tuple(p.detach().clone().requires_grad_() for p in policy.parameters)
    kind: Any = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[choice("optimizer", optimizer, OPTIMIZERS)]
    optimiser = kind(leaves, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations) if decay else None
    value, _ = objective(task, policy.with_parameters(leaves), walk, kl)
    for done in range(1, iterations + 1):
        before = [leaf.detach().clone() for leaf in leaves]
        optimiser.zero_grad()
        (-value.sum()).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if schedule is not None:
            schedule.step()
        value, variance = objective(task, policy.with_parameters(leaves), walk, kl)
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"a run diverged at iteration {done}; use a smaller rate than {rate:g}, or a larger beta")
        under = variance.detach() < floor
        if bool((under | (ended >= 0)).any()):
            ended[under & (ended < 0)] = done
            with torch.no_grad():
                for leaf, last in zip(leaves, before, strict=True):
                    leaf.copy_(torch.where(ended >= 0, last, leaf))
            value, _ = objective(task, policy.with_parameters(leaves), walk, kl)
        yield done, policy.with_parameters(tuple(leaf.detach().clone() for leaf in leaves))
