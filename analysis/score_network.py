"""A small score network and the mixtures that the committed ones were trained on, in 1, 2 and 8 dimensions.

The network predicts the clean point with the preconditioning of "Elucidating the Design Space of Diffusion-Based
Generative Models" (Karras et al., 2022), https://arxiv.org/abs/2206.00364, table 1, from z at noise level sigma:

    D = c_skip z + c_out F(c_in z, log sigma),   score = (D - z) / sigma^2,
    c_skip = s^2 / (sigma^2 + s^2),  c_out = sigma s / sqrt(sigma^2 + s^2),  c_in = 1 / sqrt(sigma^2 + s^2),

s the data's standard deviation per coordinate. F is smooth (SiLU), so that the score has a Jacobian everywhere.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import gapbound as gb

WEIGHTS = Path(__file__).with_name("weights")
SIGMA = (0.05, 8.0)  # trained noise levels; samplers start at the last and stop at the first
WIDTH = 64
VARIANCE = 0.5  # of every component

#: Targets by dimension, with one common covariance: the kappa of the true score is known too.
TARGETS: dict[int, gb.GaussianMixture] = {
    1: gb.GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], VARIANCE),
    2: gb.GaussianMixture([0.5, 0.3, 0.2], [[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], VARIANCE),
    8: gb.GaussianMixture([0.4, 0.3, 0.2, 0.1], np.eye(4, 8), VARIANCE),
}


class ScoreNetwork(nn.Module):
    """Three hidden layers; called as (z, sigma) -> score, the convention of ``gapbound.simulate``.

    Args:
        dim: the dimension d.
        data_std: s, in units of the data.
        width: of the hidden layers.
    """

    def __init__(self, dim: int, data_std: float, width: int = WIDTH) -> None:
        """Weights from torch's own initialisation, and an output of 0."""
        super().__init__()
        self.data_std = data_std
        sizes = (dim + 1, width, width, width)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*layers, nn.Linear(width, dim))
        for parameter in self.body[-1].parameters():
            nn.init.zeros_(parameter)

    def residual(self, z: Tensor, sigma: Tensor) -> Tensor:
        """F, for z of shape (n, d) and sigma of shape (n, 1)."""
        scaled = z / (sigma**2 + self.data_std**2).sqrt()
        return self.body(torch.cat([scaled, sigma.log() / 2], dim=-1))

    def forward(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        """The score at ``z`` (n, d); (D - z) / sigma^2 without the difference of nearly equal points."""
        level = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(len(z)).unsqueeze(-1)
        total = (level**2 + self.data_std**2).sqrt()
        return self.data_std / (level * total) * self.residual(z, level) - z / total**2


def data_std(target: gb.GaussianMixture) -> float:
    """Root mean square of a coordinate about the mean."""
    cov = target.cov
    return math.sqrt(float(cov[0] if target.dim == 1 else np.trace(cov) / target.dim))


def new(dim: int) -> ScoreNetwork:
    """An untrained network for the target of this dimension."""
    return ScoreNetwork(dim, data_std(TARGETS[dim]))


def file_of(dim: int, folder: Path = WEIGHTS) -> Path:
    """Where the weights for this dimension lie."""
    return folder / f"mixture_{dim}d.safetensors"


def load(dim: int, folder: Path = WEIGHTS) -> ScoreNetwork:
    """The trained network, in evaluation mode.

    Raises:
        FileNotFoundError: no such weights; says which command makes them.
    """
    path = file_of(dim, folder)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; train them: python -m analysis.train_scores --dim {dim}")
    network = new(dim)
    network.load_state_dict(load_file(path))
    return network.requires_grad_(False).eval()


def provenance(dim: int, folder: Path = WEIGHTS) -> dict[str, Any]:
    """What the weights say of their training: seed, steps, batch, versions."""
    with safe_open(file_of(dim, folder), framework="pt") as file:
        return json.loads(file.metadata()["training"])
