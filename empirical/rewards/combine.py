"""Weighted sums of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from empirical.rewards.scoring import Reward, values
from gapbound._validate import finite


@dataclass(frozen=True)
class WeightedSum:
    r"""``sum_k w_k r_k(image, prompt)``.

    Args:
        rewards: name -> reward, at least one.
        weights: name -> finite weight, not 0; the same names.

    Raises:
        ValueError: no reward, names that differ, or a weight that is 0, NaN or infinite.
    """

    rewards: Mapping[str, Reward]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        """Validate names and weights."""
        if not self.rewards or set(self.rewards) != set(self.weights):
            raise ValueError(
                f"rewards and weights must have the same names, at least one, got {sorted(self.rewards)} and "
                f"{sorted(self.weights)}"
            )
        for name, weight in self.weights.items():
            if finite(f"the weight of {name}", weight) == 0:
                raise ValueError(f"the weight of {name} is 0; leave it out")

    @property
    def name(self) -> str:
        """``a:2+b:-1``, as ``spec.parse`` reads it."""
        return "+".join(f"{name}:{self.weights[name]:g}" for name in self.rewards)

    def parts(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each reward by itself, not weighted: name -> float32 of shape (batch,).

        Raises:
            ValueError: one of them gave NaN or an infinity; it is named.
        """
        found = {name: values(reward, images, prompts) for name, reward in self.rewards.items()}
        for name, value in found.items():
            at_fault = value[~torch.isfinite(value)]
            if at_fault.numel():
                raise ValueError(f"{name} gave {float(at_fault[0])}")
        return found

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The sum, float32 of shape (batch,)."""
        found = self.parts(images, prompts)
        return torch.stack([self.weights[name] * value for name, value in found.items()]).sum(0)
