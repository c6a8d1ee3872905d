r"""The levels of a scheduler's grid, x = signal x_0 + noise eps, and what a network's output says of x_0 and eps there.

Variance-preserving models have signal^2 + noise^2 = 1, flow matching has signal + noise = 1 and noise = t. In
z = x / signal and sigma = noise / signal they are one process, and ``gapbound.kernel`` steps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from gapbound._validate import Array

#: What a network may predict: the noise, x_0, v = signal eps - noise x_0, or the velocity eps - x_0 of flow matching.
PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow")


@dataclass(frozen=True)
class Levels:
    """Levels from the start of a grid to its end.

    Args:
        signal: shape (N + 1,), 0 or more; 0 is pure noise.
        noise: shape (N + 1,), 0 or more.

    Raises:
        ValueError: a level has more noise than the one before.
    """

    signal: Array
    noise: Array

    def __post_init__(self) -> None:
        """Check the order."""
        rising = np.flatnonzero(self.sigma[1:] > self.sigma[:-1])
        if rising.size:
            k = int(rising[0])
            raise ValueError(
                f"noise levels must fall, got sigma={self.sigma[k]:g} then {self.sigma[k + 1]:g} in step {k}; a "
                "sampler goes from noise to data"
            )

    @property
    def sigma(self) -> Array:
        """The noise-to-signal ratio; inf at pure noise."""
        with np.errstate(divide="ignore"):
            return self.noise / self.signal


def split(kind: str, output: Tensor, x: Tensor, signal: Any, noise: Any) -> tuple[Tensor, Tensor]:
    r"""The predictions (D, eps) of x_0 and of the noise that ``output`` stands for, with x = signal D + noise eps.

    Args:
        kind: one of ``PREDICTIONS``; "epsilon" has no D at pure noise, signal = 0.
        output: of the network, the shape of x.
        x: the sample.
        signal: number, or tensor that broadcasts.
        noise: positive, likewise.
    """
    if kind == "epsilon":
        return (x - noise * output) / signal, output
    if kind == "sample":
        return output, (x - signal * output) / noise
    if kind == "v_prediction":
        return signal * x - noise * output, signal * output + noise * x
    return x - noise * output, x + signal * output
