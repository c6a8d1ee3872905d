"""MixGRPO's window: which steps of the sampler are stochastic, and trained, in which iteration.

Reference: MixGRPO: Unlocking Flow-based GRPO Efficiency with Mixed ODE-SDE (Li et al., 2025),
https://arxiv.org/abs/2507.21802
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gapbound._validate import choice, count

Position = Literal["progressive", "random", "fixed"]
POSITIONS = ("progressive", "random", "fixed")


@dataclass(frozen=True)
class Window:
    """``width`` successive stochastic steps among ``steps``, the others deterministic.

    The last step is in no window: it ends at clean data, where it has no density, or too near to it to be trained.

    Args:
        steps: of the sampler.
        width: at most ``steps - 1``.
        first: where a fixed window starts, and where others start.
        stride: by how many steps it moves.
        interval: iterations between moves.
        position: "progressive": from ``first`` on towards the data and back to ``first`` at the end; "random": anew
            at every move, by ``seed`` alone, hence alike in all processes; "fixed".
        seed: of random positions.

    Raises:
        ValueError: a number out of range, or a window that does not fit.
    """

    steps: int
    width: int
    first: int = 0
    stride: int = 1
    interval: int = 25
    position: Position = "progressive"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that it fits."""
        for name in ("steps", "width", "stride", "interval"):
            count(name, getattr(self, name))
        choice("position", self.position, POSITIONS)
        if self.width > self.steps - 1:
            raise ValueError(
                f"a window of {self.width} does not fit: {self.steps} steps have {self.steps - 1} that can be trained, "
                "all but the last"
            )
        if count("first", self.first, 0) > self.last:
            raise ValueError(f"a window of {self.width} can start at 0 to {self.last}, got first = {self.first}")

    @property
    def last(self) -> int:
        """Where the window starts that ends before the last step."""
        return self.steps - 1 - self.width

    def start(self, iteration: int) -> int:
        """Where the window of an iteration starts."""
        move = count("iteration", iteration, 0) // self.interval
        if self.position == "fixed":
            return self.first
        if self.position == "random":
            return int(np.random.default_rng([self.seed, move]).integers(self.first, self.last + 1))
        places = -(-(self.last - self.first) // self.stride) + 1  # the last move is cut short at the end
        return min(self.first + self.stride * (move % places), self.last)

    def profile(self, iteration: int, eta: float) -> list[float]:
        """eta of every step in an iteration: ``eta`` inside the window, 0 outside."""
        start = self.start(iteration)
        return [eta if start <= k < start + self.width else 0.0 for k in range(self.steps)]
