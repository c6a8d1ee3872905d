"""A small network as a policy, for references that are mixtures on the line."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gapbound._validate import count, fits
from gapbound._validate import seed as checked_seed
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture
from gapbound.training.task import Task, checked_task


@dataclass(frozen=True)
class Network:
    r"""The reference's exact noise prediction plus two hidden layers of tanh, which start at 0.

    .. math:: \epsilon(z, \sigma) = -\sigma \nabla \log q_{\sigma^2}(z)
        + F\Big(\frac{z}{\sqrt{\sigma^2 + s^2}}, \tfrac12 \log \sigma\Big)

    It is defined at every noise level, on the training grid or off it.

    Attributes:
        parameters: weights and biases of the three layers.
        reference: whose score it starts from.
        data_std: s, the standard deviation of the reference.
    """

    parameters: tuple[Tensor, ...]
    reference: Gaussian | GaussianMixture
    data_std: float

    @classmethod
    def of(cls, task: Task, width: int = 32, seed: int = 0) -> Self:
        """An untrained network, equal to the reference of ``task``; a single run.

        Raises:
            ValueError: the task is a batch of runs.
        """
        require_single(task)
        generator, width = torch.Generator().manual_seed(checked_seed(seed) % 2**63), count("width", width)
        fits(f"a layer of width {width}", width**2, "use a smaller width")
        layers = []
        for inputs, outputs in ((2, width), (width, width)):
            weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64) / math.sqrt(inputs)
            layers += [weight, torch.zeros(outputs, dtype=torch.float64)]
        layers += [torch.zeros(width, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
        return cls(tuple(layers), task.reference, float(task.reference.cov[0]) ** 0.5)

    def with_parameters(self, parameters: tuple[Tensor, ...]) -> Self:
        """See ``Policy``."""
        return replace(self, parameters=parameters)

    def eps(self, z: Tensor, sigma: Tensor, steps: slice = slice(None)) -> Tensor:
        """See ``Policy``."""
        base = [self.reference.score(row[:, None], float(s))[:, 0] * -s for row, s in zip(z, sigma, strict=True)]
        level = (sigma.log() / 2)[:, None].expand_as(z)
        features = torch.stack([z / (sigma**2 + self.data_std**2).sqrt()[:, None], level], dim=-1)
        first, first_bias, second, second_bias, last, last_bias = self.parameters
        hidden = torch.tanh(torch.tanh(features @ first + first_bias) @ second + second_bias)
        return torch.stack(base) + (hidden @ last + last_bias)[..., 0]


def require_single(task: Task) -> None:
    """Refuse a batch of runs where only one can be trained.

    Raises:
        ValueError: eta, beta or T is an array.
        TypeError: it is no task.
    """
    if checked_task(task).batch_shape:
        raise ValueError(f"sampled training takes one run at a time, got a batch of shape {task.batch_shape}")
