"""Rewards normalised to advantages: by group (GRPO), by prompt (DDPO), and weighted sums of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gapbound._door import door
from gapbound._tensors import finite_tensor, real_tensor
from gapbound._validate import choice, count, finite, number, positive, shown

FAILED = ("raise", "mask")
SPREADS = ("group", "batch")
ROUNDING = 8  # units in the last place by which equal rewards may differ


@dataclass(frozen=True)
class Advantage:
    """Normalised rewards.

    Attributes:
        value: shape of the rewards, float32 or float64; 0 where ``kept`` is False.
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


@door()
def group_advantage(reward: Tensor, failed: str = "raise", spread: str = "group") -> Advantage:
    r"""GRPO: ``A = (r - mean) / std``, mean within each group, the last axis; stds divide by the number of members.

    A group whose spread is 0 to rounding, or with fewer than two valid rewards, has no advantage: it is masked and
    counted. Narrow floats are normalised in float32 and integers in float64, in units of each group's largest reward,
    so that neither the squares of large rewards overflow nor those of small ones vanish.

    Args:
        reward: real, shape (\*groups, members).
        failed: what to do with NaN or infinite rewards: "raise", or "mask" and count.
        spread: the std is that of the "group", or one for the "batch", the root mean square of ``r - mean`` over the
            groups that have a spread: then a group whose members are nearly alike moves little, which is why Dr. GRPO
            (Liu et al., 2025), https://arxiv.org/abs/2503.20783, does not divide by the group's.

    Raises:
        ValueError: a failed reward under "raise"; an unknown ``failed`` or ``spread``; no axis, or no member.
        TypeError: rewards that are no tensor of real numbers.
    """
    reward = _wide_rewards(reward)
    if not (reward.ndim and reward.shape[-1]):
        raise ValueError(f"rewards need a last axis of at least one member, got shape {tuple(reward.shape)}")
    choice("spread", spread, SPREADS)
    valid = _valid(reward, failed)
    members = valid.sum(-1, keepdim=True).clamp(min=1)
    filled = torch.where(valid, reward, torch.zeros_like(reward))
    unit = _unit(filled.abs().amax(-1, keepdim=True))
    mean = (filled / unit).sum(-1, keepdim=True) / members
    centred = torch.where(valid, filled / unit - mean, torch.zeros_like(reward))
    std = (centred.square().sum(-1, keepdim=True) / members).sqrt()
    largest = (filled / unit).abs().amax(-1, keepdim=True)
    spreads = (valid.sum(-1, keepdim=True) >= 2) & (std > _rounding(reward.dtype) * largest)
    kept = valid & spreads
    if spread == "batch":
        top = unit.amax() if unit.numel() else torch.ones_like(unit)
        centred = torch.where(kept, centred * (unit / top), torch.zeros_like(reward))
        std = (centred.square().sum() / kept.sum().clamp(min=1)).sqrt().expand_as(std)
    value = torch.where(kept, centred / torch.where(spreads, std, torch.ones_like(std)), torch.zeros_like(reward))
    return Advantage(value, kept, int((~spreads).sum()), int((~valid).sum()))


@door()
def combined_advantage(parts: Mapping[str, Advantage], weights: Mapping[str, float]) -> Advantage:
    r"""Several rewards, each normalised by itself: ``A = sum_k w_k A_k``.

    A part that has no advantage for a sample adds 0; a sample is kept where any part has one. ``flat`` and ``failed``
    are summed over the parts.

    Args:
        parts: name -> the advantages by one reward, all of one shape; at least one.
        weights: of the same names, finite numbers.

    Raises:
        ValueError: no part, names or shapes that differ, a weight or a sum that is not finite.
        TypeError: a part that is no ``Advantage``, a weight that is no number.
    """
    if not isinstance(parts, Mapping) or not isinstance(weights, Mapping):
        raise TypeError("parts and weights must be mappings from names, as {'alignment': ...}")
    if not parts or set(parts) != set(weights):
        raise ValueError(f"parts and weights need the same names, at least one, got {[*parts]} and {[*weights]}")
    for name, part in parts.items():
        if not isinstance(part, Advantage):
            raise TypeError(f"part {name!r} must be an Advantage, got {shown(part)}; group_advantage makes one")
    shapes = {tuple(part.value.shape) for part in parts.values()}
    if len(shapes) > 1:
        raise ValueError(f"the parts must have one shape, got {sorted(shapes)}")
    by_name = {name: number(f"weight {name!r}", weight) for name, weight in weights.items()}
    value = torch.stack([by_name[name] * part.value for name, part in parts.items()]).sum(0)
    kept = torch.stack([part.kept for part in parts.values()]).any(0)
    counts = (sum(getattr(part, name) for part in parts.values()) for name in ("flat", "failed", "clamped"))
    return Advantage(finite_tensor("the combined advantage", value, "use smaller weights"), kept, *counts)


@dataclass(frozen=True)
class PromptBuffer:
    """The latest rewards of every prompt, an immutable value; see ``prompt_advantage``.

    Args:
        size: how many rewards of a prompt are remembered.
        at_least: with fewer, the batch's statistics are used instead.
        rewards: prompt -> its latest rewards, oldest first.

    Raises:
        ValueError: size is below at_least, at_least below 2, or a remembered reward not finite.
        TypeError: rewards that are no mapping, or no numbers.
    """

    size: int = 32
    at_least: int = 16
    rewards: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate the sizes and what is remembered."""
        if not isinstance(self.rewards, Mapping):
            raise TypeError(f"rewards must be a mapping from prompts to their rewards, got {shown(self.rewards)}")
        for prompt, remembered in self.rewards.items():
            finite(f"the rewards of {shown(prompt)}", remembered)
        if count("size", self.size) < count("at_least", self.at_least, 2):
            raise ValueError(f"size must be at least at_least = {self.at_least}, got {self.size}")

    def extended(self, prompts: Sequence[str], rewards: Sequence[float]) -> PromptBuffer:
        """With ``rewards`` appended, the oldest beyond ``size`` forgotten.

        Raises:
            ValueError: a reward that is not finite, or not one for each prompt.
            TypeError: rewards that are no numbers, prompts that are no strings.
        """
        numbers = finite("rewards", rewards)
        if numbers.shape != (len(_prompts(prompts)),):
            raise ValueError(f"need one reward per prompt, got {len(prompts)} prompts and shape {numbers.shape}")
        grown = dict(self.rewards)
        for prompt, reward in zip(prompts, numbers.tolist(), strict=True):
            grown[prompt] = (*grown.get(prompt, ()), reward)[-self.size :]
        return PromptBuffer(self.size, self.at_least, grown)


@door()
def prompt_advantage(
    buffer: PromptBuffer, prompts: Sequence[str], reward: Tensor, clamp: float = 5.0, failed: str = "raise"
) -> tuple[Advantage, PromptBuffer]:
    r"""DDPO: ``A = (r - mean) / std`` of the prompt's running buffer, these rewards included, cut at +-``clamp``.

    Prompts with fewer than ``buffer.at_least`` remembered rewards use the batch's mean and std. Statistics of zero
    spread mask the samples that would use them (each such prompt counts as one flat group).

    Args:
        buffer: what is remembered so far.
        prompts: the prompt of each sample, n of them.
        reward: real, shape (n,).
        clamp: largest absolute advantage; 5 in DDPO. The cut ones are counted.
        failed: see ``group_advantage``.

    Returns:
        The advantages and the buffer to pass next time.

    Raises:
        ValueError: a failed reward under "raise", n prompts and rewards that do not match, clamp not positive.
        TypeError: rewards that are no tensor of real numbers, prompts that are no strings, another buffer.
    """
    if not isinstance(buffer, PromptBuffer):
        raise TypeError(f"buffer must be a PromptBuffer, got {shown(buffer)}")
    reward, bound = _wide_rewards(reward), number("clamp", clamp, positive)
    if reward.ndim != 1 or len(_prompts(prompts)) != len(reward):
        raise ValueError(f"need one prompt per reward, got {len(prompts)} prompts and rewards {tuple(reward.shape)}")
    valid = _valid(reward, failed)
    values, good = reward.detach().cpu().double().numpy(), valid.cpu().numpy()
    met = [p for p, ok in zip(prompts, good, strict=True) if ok]
    grown = buffer.extended(met, values[good].tolist()) if met else buffer
    raw, kept, flat = np.zeros(len(values)), np.zeros(len(values), dtype=bool), 0
    for prompt in dict.fromkeys(prompts):
        own = np.array([p == prompt for p in prompts]) & good
        remembered = np.array(grown.rewards.get(prompt, ()))
        base = remembered if remembered.size >= buffer.at_least else values[good]
        unit = float(_unit(torch.tensor(np.abs(base).max(initial=0.0))))
        scaled = base / unit
        std = scaled.std() if base.size else 0.0
        if base.size < 2 or std <= _rounding(reward.dtype) * np.abs(scaled).max():
            flat += 1
            continue
        raw[own], kept[own] = (values[own] / unit - scaled.mean()) / std, True
    value = torch.as_tensor(raw.clip(-bound, bound), dtype=reward.dtype, device=reward.device)
    mask = torch.as_tensor(kept, device=reward.device)
    return Advantage(value, mask, flat, int((~good).sum()), int((np.abs(raw) > bound).sum())), grown


def _wide_rewards(reward: Any) -> Tensor:
    """The rewards in float32 or float64: narrow floats as float32, integers as float64."""
    given = real_tensor("reward", reward)
    if not given.is_floating_point():
        return given.to(torch.float64)
    return given if given.dtype.itemsize >= torch.float32.itemsize else given.to(torch.float32)


def _valid(reward: Tensor, failed: str) -> Tensor:
    """Which rewards are finite."""
    valid = torch.isfinite(reward)
    if choice("failed", failed, FAILED) == "raise" and not bool(valid.all()):
        raise ValueError(
            f"{int((~valid).sum())} of {valid.numel()} rewards are NaN or infinite; mend the reward, or pass "
            "failed='mask' to leave them out and count them"
        )
    return valid


def _unit(largest: Tensor) -> Tensor:
    """The power of two at or just below ``largest``, by which a division is exact; 1 for 0."""
    exponent = torch.frexp(largest).exponent
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent - 1), torch.ones_like(largest))


def _rounding(dtype: torch.dtype) -> float:
    """A spread that equal rewards of size 1 may show by rounding."""
    return ROUNDING * torch.finfo(dtype).eps


def _prompts(prompts: Any) -> Sequence[str]:
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not all(isinstance(p, str) for p in prompts):
        raise TypeError(f"prompts must be a sequence of strings, one for each sample, got {shown(prompts)}")
    return prompts
