"""One step's share of the loss, from the functions of ``gapbound.updates``; nothing here knows a formula of its own.

Ratios, clips and the KL enter the loss per entry of the latents, as DDPO and Flow-GRPO publish them (a clip of 1e-4
per entry is ``summed_clip(1e-4, n)`` of the true, summed log-density); sums are kept beside for the guard and the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empirical.training.guards import require_finite
from empirical.training.policy import Policy
from empirical.training.rollout import Trajectory, scored
from gapbound.updates import clipped_surrogate, log_ratio, step_kl


@dataclass(frozen=True)
class Share:
    """What one step of one batch contributes to an update.

    Attributes:
        loss: a share of the update's loss, with gradient.
        change: summed log-ratios, shape (batch,), without gradient.
        clipped: samples whose gradient the clip removed.
        kl: to the reference, summed over entries, shape (batch,), without gradient; None if it has no weight.
    """

    loss: Tensor
    change: Tensor
    clipped: float
    kl: Tensor | None


def step_share(
    policy: Policy,
    path: Trajectory,
    k: int,
    advantage: Tensor,
    kept: Tensor,
    clip: float,
    kl_weight: float,
    terms: tuple[float, float],
    weight: float = 1.0,
) -> Share:
    r"""Step ``k``'s share of the update's loss

    .. math:: \frac{w}{n_\text{kept}} \sum_\text{kept} -\min(\rho A, \operatorname{clamp}(\rho) A)
        + \frac{\beta}{n} \sum \frac{\mathrm{KL}}{\text{entries}}

    Args:
        policy: to improve.
        path: as it was stored.
        k: a trainable step.
        advantage: shape (batch,).
        kept: mask of the samples that have one.
        clip: per entry.
        kl_weight: beta, 0 or more.
        terms: n_kept and n, pairs of sample and step in the whole update.
        weight: w of the step, see ``Policy.weight``.

    Raises:
        TrainingStopped: the loss is not finite.
        ValueError: a ratio overflows.
    """  # noqa: D415
    x, outcome = path.latents[k], path.latents[k + 1]
    mean_ref = policy.reference_mean(x, k, path.condition, outcome) if kl_weight else None
    mean, std = policy.moments(x, k, path.condition, outcome)
    new = scored(outcome, mean, std)
    change = log_ratio(new.per_entry, path.log_prob[k].per_entry)
    loss, clipped, members = 0.0 * change.sum(), 0.0, float(kept.sum())
    if members:
        surrogate = clipped_surrogate(change, advantage.to(change), clip, kept)
        loss, clipped = surrogate.loss * weight * members / terms[0], surrogate.clipped * members
    kl = None
    if mean_ref is not None:
        kl = step_kl(mean, mean_ref, std, event_dims=mean.ndim - 1)
        loss = loss + kl_weight * kl.double().sum() / path.entries / terms[1]
        kl = kl.detach()
    require_finite("the loss", loss.detach())
    return Share(loss, (new.total - path.log_prob[k].total).detach(), clipped, kl)


def check_gradients(parameters: list[torch.nn.Parameter], max_norm: float) -> float:
    """Clip the gradients' norm and return what it was.

    Raises:
        TrainingStopped: it is not finite.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    require_finite("the gradient", norm)
    return float(norm)
