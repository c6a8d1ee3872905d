r"""The updates of policy-gradient fine-tuning as short pure functions, for closed-form and for image models alike.

Conventions, stated once:

- A step of a sampler is a policy N(mean, std^2 I). Its ``log_prob`` is the density's natural logarithm **summed** over
  the event (the last ``event_dims`` axes); the mean over the event's entries is kept beside it, because published clip
  ranges refer to it.
- A **log-ratio** is log p_new - log p_old of one step, summed unless told otherwise; a **clip** is a bound on the
  absolute value of that log-ratio, in the same units.
- A deterministic step (std = 0) has no density: it is refused, never a number.
- A reward that is NaN or infinite has failed: it is refused, or masked and counted, never 0.

References: Training Diffusion Models with Reinforcement Learning (DDPO; Black et al., 2023),
https://arxiv.org/abs/2305.13301; Flow-GRPO (Liu et al., 2025), https://arxiv.org/abs/2505.05470; Proximal Policy
Optimization Algorithms (Schulman et al., 2017), https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapbound._validate import Array, choice, count, non_negative, positive
from gapbound.eta import checked
from gapbound.kernel import step

FAILED = ("raise", "mask")
SPREADS = ("group", "batch")


@dataclass(frozen=True)
class LogProb:
    """Log-density of a step: summed over the event, and the mean over its entries; shapes of the batch."""

    total: Tensor
    per_entry: Tensor


def log_prob(x: Tensor, mean: Tensor, std: float | Tensor, event_dims: int = 1) -> LogProb:
    r"""Log-density of the outcome ``x`` of a step N(mean, std^2 I).

    .. math:: \log p = -\sum_i \Big[ \frac{(x_i - \mu_i)^2}{2 s^2} + \log s + \tfrac12 \log 2\pi \Big]

    Args:
        x: outcome exactly as stored, shape (\*batch, \*event).
        mean: of the step, broadcasts with x.
        std: positive, a number or a tensor that broadcasts with x.
        event_dims: how many trailing axes are the event; 3 for latents (B, C, H, W).

    Raises:
        ValueError: std is 0 or less: a deterministic step has no density; or event_dims does not fit x.
    """
    axes = _event(x, event_dims)
    s = _stochastic(std, x)
    entries = -(((x - mean) / s) ** 2) / 2 - s.log() - math.log(2 * math.pi) / 2
    return LogProb(entries.sum(axes), entries.mean(axes))


def log_ratio(new: Tensor, old: Tensor) -> Tensor:
    """``log p_new - log p_old`` of the same outcome, shape of both; its gradient is that of ``new``.

    Raises:
        ValueError: shapes differ, or the difference is NaN or infinite.
    """
    if new.shape != old.shape:
        raise ValueError(f"the log-densities must have one shape, got {tuple(new.shape)} and {tuple(old.shape)}")
    difference = new - old.detach()
    if not bool(torch.isfinite(difference).all()):
        raise ValueError("a log-ratio is not finite; store means, stds and outcomes in float32 or wider")
    return difference


def ratio(log_ratio: Tensor) -> Tensor:
    """``exp(log_ratio)``, the importance weight of each step.

    Raises:
        ValueError: it would overflow: the policy has moved too far from the one that sampled.
    """
    limit = math.log(torch.finfo(log_ratio.dtype).max) / 2  # products with advantages stay finite too
    worst = float(log_ratio.detach().max()) if log_ratio.numel() else 0.0
    if not worst <= limit:
        raise ValueError(
            f"a log-ratio of {worst:g} overflows; the policy moved too far since it sampled: take fewer updates per "
            "sample or a smaller learning rate"
        )
    return log_ratio.exp()


def require_on_policy(log_ratio: Tensor, tolerance: float = 1e-5) -> None:
    """Refuse to train where the ratio is not 1 before the first update, per sample and step.

    Raises:
        ValueError: a log-ratio exceeds ``tolerance`` in absolute value.
    """
    worst = float(log_ratio.detach().abs().max())
    if not worst <= float(positive("tolerance", tolerance)):
        raise ValueError(
            f"before the first update every ratio must be 1, but a log-ratio is {worst:g} (tolerance {tolerance:g}); "
            "score the stored sample with the same precision, guidance, batch and eval mode as when it was drawn"
        )


@dataclass(frozen=True)
class Surrogate:
    """The loss to minimise, and the fraction of its terms whose gradient the clip removed."""

    loss: Tensor
    clipped: float


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float, kept: Tensor | None = None) -> Surrogate:
    r"""The clipped loss of PPO, as DDPO and GRPO use it on every step.

    .. math:: -\operatorname{mean} \min\big( \rho A, \; \operatorname{clamp}(\rho, e^{-c}, e^{c}) \, A \big),
        \qquad \rho = e^{\text{log-ratio}}

    ``clip`` c bounds the log-ratio as it is given: summed with a summed log-ratio. DDPO's 1e-4 refers to the per-entry
    mean; ``summed_clip`` converts. PPO's own interval [1 - c, 1 + c] differs from ours by c^2 / 2.

    Args:
        log_ratio: shape (\*steps, n).
        advantage: shape (n,) or one that broadcasts.
        clip: positive.
        kept: mask of the samples that count, shape of ``advantage``; all if None.

    Raises:
        ValueError: clip is not positive, nothing is kept, or a ratio overflows.
    """
    c = float(positive("clip", clip))
    mask = torch.ones_like(advantage, dtype=torch.bool) if kept is None else kept
    if not bool(mask.any()):
        raise ValueError("no sample has an advantage; skip this update (every group had zero spread or failed)")
    mask = mask.expand_as(log_ratio)
    rho, A = ratio(log_ratio), advantage.expand_as(log_ratio)
    terms = torch.minimum(rho * A, rho.clamp(math.exp(-c), math.exp(c)) * A)
    outside = ((log_ratio > c) & (A > 0)) | ((log_ratio < -c) & (A < 0))
    return Surrogate(-terms[mask].mean(), float(outside[mask].double().mean()))


def summed_clip(per_entry: float, entries: int) -> float:
    """A clip on the per-entry mean log-ratio, in units of the summed one: 1e-4 at 16,384 entries is 1.64.

    Raises:
        ValueError: the clip is not positive or entries is below 1.
    """
    return float(positive("per_entry", per_entry)) * count("entries", entries)


@dataclass(frozen=True)
class Advantage:
    """Normalised rewards.

    Attributes:
        value: shape of the rewards; 0 where ``kept`` is False.
        kept: mask of the samples that carry a gradient.
        flat: how many groups had zero spread, hence no advantage.
        failed: how many rewards were NaN or infinite.
        clamped: how many advantages were cut at the clamp.
    """

    value: Tensor
    kept: Tensor
    flat: int
    failed: int
    clamped: int = 0


def group_advantage(reward: Tensor, failed: str = "raise", spread: str = "group") -> Advantage:
    r"""GRPO: ``A = (r - mean) / std``, mean within each group, the last axis; stds divide by the number of members.

    A group whose spread is 0 to rounding, or with fewer than two valid rewards, has no advantage: it is masked and
    counted.

    Args:
        reward: shape (\*groups, members).
        failed: what to do with NaN or infinite rewards: "raise", or "mask" and count.
        spread: the std is that of the "group", or one for the "batch", the root mean square of ``r - mean`` over the
            groups that have a spread: then a group whose members are nearly alike moves little, which is why Dr. GRPO
            (Liu et al., 2025), https://arxiv.org/abs/2503.20783, does not divide by the group's.

    Raises:
        ValueError: a failed reward under "raise"; an unknown ``failed`` or ``spread``.
    """
    valid = _valid(reward, failed)
    members = valid.sum(-1, keepdim=True)
    filled = torch.where(valid, reward, torch.zeros_like(reward))
    mean = filled.sum(-1, keepdim=True) / members.clamp(min=1)
    centred = torch.where(valid, reward - mean, torch.zeros_like(reward))
    std = (centred.square().sum(-1, keepdim=True) / members.clamp(min=1)).sqrt()
    spreads = (members >= 2) & (std > _rounding(filled.abs().amax(-1, keepdim=True)))
    kept = valid & spreads
    if choice("spread", spread, SPREADS) == "batch":
        std = (torch.where(kept, centred, 0.0).square().sum() / kept.sum().clamp(min=1)).sqrt().expand_as(std)
    value = torch.where(kept, centred / torch.where(spreads, std, torch.ones_like(std)), torch.zeros_like(reward))
    return Advantage(value, kept, int((~spreads).sum()), int((~valid).sum()))


def combined_advantage(parts: Mapping[str, Advantage], weights: Mapping[str, float]) -> Advantage:
    r"""Several rewards, each normalised by itself: ``A = sum_k w_k A_k``.

    A part that has no advantage for a sample adds 0; a sample is kept where any part has one. ``flat`` and ``failed``
    are summed over the parts.

    Args:
        parts: name -> the advantages by one reward, all of one shape; at least one.
        weights: of the same names.

    Raises:
        ValueError: no part, or names that differ.
    """
    if not parts or set(parts) != set(weights):
        raise ValueError(f"parts and weights need the same names, at least one, got {[*parts]} and {[*weights]}")
    value = torch.stack([weights[name] * part.value for name, part in parts.items()]).sum(0)
    kept = torch.stack([part.kept for part in parts.values()]).any(0)
    counts = (sum(getattr(part, name) for part in parts.values()) for name in ("flat", "failed", "clamped"))
    return Advantage(value, kept, *counts)


@dataclass(frozen=True)
class PromptBuffer:
    """The latest rewards of every prompt, an immutable value; see ``prompt_advantage``.

    Args:
        size: how many rewards of a prompt are remembered.
        at_least: with fewer, the batch's statistics are used instead.
        rewards: prompt -> its latest rewards, oldest first.

    Raises:
        ValueError: size is below at_least, or at_least below 2.
    """

    size: int = 32
    at_least: int = 16
    rewards: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate the sizes."""
        if count("size", self.size) < count("at_least", self.at_least, 2):
            raise ValueError(f"size must be at least at_least = {self.at_least}, got {self.size}")

    def extended(self, prompts: Sequence[str], rewards: Sequence[float]) -> PromptBuffer:
        """With ``rewards`` appended, the oldest beyond ``size`` forgotten."""
        grown = dict(self.rewards)
        for prompt, reward in zip(prompts, rewards, strict=True):
            grown[prompt] = (*grown.get(prompt, ()), reward)[-self.size :]
        return PromptBuffer(self.size, self.at_least, grown)


def prompt_advantage(
    buffer: PromptBuffer, prompts: Sequence[str], reward: Tensor, clamp: float = 5.0, failed: str = "raise"
) -> tuple[Advantage, PromptBuffer]:
    r"""DDPO: ``A = (r - mean) / std`` of the prompt's running buffer, these rewards included, cut at +-``clamp``.

    Prompts with fewer than ``buffer.at_least`` remembered rewards use the batch's mean and std. Statistics of zero
    spread mask the samples that would use them (each such prompt counts as one flat group).

    Args:
        buffer: what is remembered so far.
        prompts: the prompt of each sample, n of them.
        reward: shape (n,).
        clamp: largest absolute advantage; 5 in DDPO. The cut ones are counted.
        failed: see ``group_advantage``.

    Returns:
        The advantages and the buffer to pass next time.

    Raises:
        ValueError: a failed reward under "raise", n prompts and rewards that do not match, clamp not positive.
    """
    if reward.ndim != 1 or len(prompts) != len(reward):
        raise ValueError(f"need one prompt per reward, got {len(prompts)} prompts and rewards {tuple(reward.shape)}")
    bound, valid = float(positive("clamp", clamp)), _valid(reward, failed)
    values, good = reward.detach().double().cpu().numpy(), valid.cpu().numpy()
    grown = buffer.extended([p for p, ok in zip(prompts, good, strict=True) if ok], values[good].tolist())
    raw, kept, flat = np.zeros(len(values)), np.zeros(len(values), dtype=bool), 0
    for prompt in dict.fromkeys(prompts):
        own = np.array([p == prompt for p in prompts]) & good
        remembered = np.array(grown.rewards.get(prompt, ()))
        base = remembered if remembered.size >= buffer.at_least else values[good]
        std = base.std() if base.size else 0.0
        if base.size < 2 or std <= float(_rounding(torch.tensor(np.abs(base).max(), dtype=reward.dtype))):
            flat += 1
            continue
        raw[own], kept[own] = (values[own] - base.mean()) / std, True
    value = torch.as_tensor(raw.clip(-bound, bound), dtype=reward.dtype, device=reward.device)
    mask = torch.as_tensor(kept, device=reward.device)
    return Advantage(value, mask, flat, int((~good).sum()), int((np.abs(raw) > bound).sum())), grown


def step_kl(mean: Tensor, mean_ref: Tensor, std: float | Tensor, event_dims: int = 1) -> Tensor:
    r"""KL of N(mean, std^2 I) to N(mean_ref, std^2 I): ``|mean - mean_ref|^2 / (2 std^2)``, summed over the event.

    Raises:
        ValueError: std is 0 or less: between different deterministic steps the KL is infinite.
    """
    return (((mean - mean_ref) / _stochastic(std, mean)) ** 2 / 2).sum(_event(mean, event_dims))


def adapted_weight(weight: float, kl: float, target: float, factor: float = 1.5) -> float:
    """The KL's weight for the next epoch, the adaptive penalty of PPO.

    Raised by ``factor`` where ``kl`` exceeds ``factor * target``, lowered by it where ``kl`` is below
    ``target / factor``, else kept.

    Raises:
        ValueError: weight, target or factor is not positive, factor is not above 1, or kl is negative or not finite.
    """
    w, t, f = (float(positive(*named)) for named in (("weight", weight), ("target", target), ("factor", factor)))
    if not f > 1:
        raise ValueError(f"factor must be above 1, got {factor}")
    met = float(non_negative("kl", kl))
    return w * f if met > f * t else w / f if met < t / f else w


def kl_rescaling(sigma: Any, sigma_next: Any, eta: Any) -> Array:
    r"""What multiplies a gDDIM step's KL at ``eta`` to give the KL that eta = 1 would pay for the same change of model.

    A change d eps moves the step's mean by (sigma - carry) d eps, so the KL is (sigma - carry)^2 |d eps|^2 / (2 std^2),
    and with carry = sigma' k, std^2 = sigma'^2 (1 - k^2), k = (sigma'/sigma)^(eta^2), h = sigma^2 - sigma'^2:

    .. math:: \frac{KL(1)}{KL(\eta)} = \frac{h \, (1 - k^2)}{(\sigma - \sigma' k)^2}
        \;\longrightarrow\; \frac{4 \eta^2}{(1 + \eta^2)^2} \quad \text{for small steps}

    The limit is the continuous-time statement: the path KL is (1 + eta^2)^2 / (8 eta^2) int E|d score|^2 dtau, smallest
    at eta = 1. Raw KL does not compare between runs of different eta; rescaled KL does, up to the states over which it
    is averaged: at finite N and sigma_T a sampler of larger eta visits states where one and the same change is smaller.

    Args:
        sigma: noise level at the start of the step, finite.
        sigma_next: at its end, positive and below sigma.
        eta: positive, or ``Windows``; broadcasts.

    Raises:
        ValueError: a deterministic step (eta = 0 or sigma_next = 0), whose KL is infinite or 0; levels that rise.
    """
    high, low = positive("sigma", sigma), positive("sigma_next", sigma_next)
    if not (low < high).all():
        raise ValueError(f"noise levels must fall, got sigma={sigma} and sigma_next={sigma_next}")
    kernel = step("gddim", high, low, checked(eta))
    if not (kernel.std > 0).all():
        raise ValueError(f"a deterministic step has no KL to rescale, got eta={eta}; leave it out")
    return (high - low) * (high + low) * (kernel.std / low) ** 2 / (high - kernel.carry) ** 2


def _event(x: Tensor, event_dims: int) -> tuple[int, ...]:
    if count("event_dims", event_dims) > x.ndim:
        raise ValueError(f"event_dims must be at most the number of axes, got {event_dims} for shape {tuple(x.shape)}")
    return tuple(range(-event_dims, 0))


def _stochastic(std: float | Tensor, like: Tensor) -> Tensor:
    s = torch.as_tensor(std, dtype=like.dtype, device=like.device)
    if not bool((torch.isfinite(s) & (s > 0)).all()):
        raise ValueError(
            f"std must be positive and finite, got {float(s.min()):g}: a deterministic step (eta = 0, or the last one "
            "to sigma = 0) has no density and carries no policy gradient; leave it out"
        )
    return s


def _valid(reward: Tensor, failed: str) -> Tensor:
    """Which rewards are finite."""
    valid = torch.isfinite(reward)
    if choice("failed", failed, FAILED) == "raise" and not bool(valid.all()):
        raise ValueError(
            f"{int((~valid).sum())} of {valid.numel()} rewards are NaN or infinite; mend the reward, or pass "
            "failed='mask' to leave them out and count them"
        )
    return valid


def _rounding(size: Tensor) -> Tensor:
    """A spread that equal rewards of this size may show by rounding."""
    return 8 * torch.finfo(size.dtype).eps * size
