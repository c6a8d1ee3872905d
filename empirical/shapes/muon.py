r"""Steepest descent in the spectral norm for matrices and convolutions, AdamW for everything else.

The step of a weight matrix W is the orthogonal factor of its gradient's moving average M = U S V^T,

    W <- W - rate * sqrt(max(1, rows / columns)) * U V^T,

found by a Newton-Schulz iteration of odd quintics on the singular values, which takes them near 1, not to 1. A
convolution counts as a matrix of shape (outputs, inputs * height * width).

Reference: Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024),
https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of a s + b s^3 + c s^5, as in the reference
ROUNDS = 5
MOMENTUM = 0.95


def orthogonal(matrices: Tensor) -> Tensor:
    """Near U V^T of every matrix U S V^T, shape (..., rows, columns); singular values come out between 0.6 and 1.3."""
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-30)).bfloat16()
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Both rules in one optimiser; ``group["lr"]`` scales both.

    Args:
        matrices: parameters with at least two axes, moved by orthogonal steps.
        others: parameters moved by AdamW.
        lr: common factor of both rates, to be scheduled.
        spectral: rate of the orthogonal steps.
        adam: rate of AdamW.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float, spectral: float, adam: float
    ) -> None:
        """Two groups."""
        groups = [{"params": list(matrices), "spectral": True}, {"params": list(others), "spectral": False}]
        super().__init__(groups, {"lr": lr, "rates": (spectral, adam)})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step of both rules."""
        matrices, others = self.param_groups
        self._orthogonal_step(
            [p for p in matrices["params"] if p.grad is not None], matrices["lr"] * matrices["rates"][0]
        )
        self._adam_step([p for p in others["params"] if p.grad is not None], others["lr"] * others["rates"][1])

    def _orthogonal_step(self, parameters: list[nn.Parameter], rate: float) -> None:
        by_shape = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.flatten(1).shape].append(parameter)
        for (rows, columns), alike in by_shape.items():
            directions = []
            for parameter in alike:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - MOMENTUM)
                directions.append(parameter.grad.lerp(average, MOMENTUM).flatten(1))
            moves = orthogonal(torch.stack(directions)) * max(1.0, rows / columns) ** 0.5
            for parameter, move in zip(alike, moves, strict=True):
                parameter.sub_(move.reshape(parameter.shape), alpha=rate)

    def _adam_step(self, parameters: list[nn.Parameter], rate: float, beta: float = 0.9, gamma: float = 0.99) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            state["steps"] = state.get("steps", 0) + 1
            mean = state.setdefault("mean", torch.zeros_like(parameter)).lerp_(parameter.grad, 1 - beta)
            square = state.setdefault("square", torch.zeros_like(parameter)).lerp_(parameter.grad.square(), 1 - gamma)
            scale = (square / (1 - gamma ** state["steps"])).sqrt_().add_(1e-8)
            parameter.addcdiv_(mean, scale, value=-rate / (1 - beta ** state["steps"]))
