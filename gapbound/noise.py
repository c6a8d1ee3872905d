"""Where the randomness of a simulation comes from: a seed, in blocks, or tensors that the caller passes.

Each block of paths has random streams of its own: one for x_T and one for the increments of each ``draw``. So the
first n paths are the same however many are run, in whatever chunks and threads, and two samplers with one seed share
x_T and, step by step, their increments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**15  # numbers per block: they stay in cache, and torch fills them in one thread


class Noise(Protocol):
    """Standard normal numbers for a range of paths, cut at multiples of ``block``."""

    @property
    def block(self) -> int:
        """Paths per block of random numbers."""

    def initial(self, start: int, stop: int) -> Tensor:
        """x_T of the paths ``start`` to ``stop``, in units of its standard deviation, shape (stop - start, d).

        A tensor of its own, which may be overwritten.
        """

    def increments(self, start: int, stop: int) -> Increments:
        """The increments of these paths."""


class Increments(Protocol):
    """The increments of some paths, to be read step by step."""

    def next(self) -> Tensor:
        """xi of the next step, shape (paths, d); valid until the next call."""


@dataclass(frozen=True)
class SeededNoise:
    """Streams derived from ``seed``; ``draw`` picks independent increments over the same x_T.

    Args:
        seed: any whole number of at least 0.
        draw: which set of increments.
        dim: dimension of a path.
        dtype: floating dtype of the numbers.
        device: where they are made; CPU and GPU streams differ.
    """

    seed: int
    draw: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def block(self) -> int:
        """Paths per block."""
        return max(1, BLOCK_ELEMENTS // self.dim)

    def initial(self, start: int, stop: int) -> Tensor:
        """See ``Noise``."""
        return SeededIncrements(self, 0, start, stop).next()

    def increments(self, start: int, stop: int) -> SeededIncrements:
        """See ``Noise``."""
        return SeededIncrements(self, 1 + self.draw, start, stop)

    def generators(self, stream: int, start: int, stop: int) -> list[torch.Generator]:
        """One generator for each block of the paths ``start`` to ``stop``."""
        base = _first_seed(self.seed, stream)
        first, last = start // self.block, -(-stop // self.block)
        # torch's CPU generator keeps 32 bits of its seed: consecutive ones cannot collide within a stream
        return [torch.Generator(self.device).manual_seed((base + index) % 2**32) for index in range(first, last)]


@lru_cache(maxsize=1024)
def _first_seed(seed: int, stream: int) -> int:
    """The seed of the first block of a stream, 32 bits."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])


class SeededIncrements:
    """Whole blocks of one stream, filled in place at each step."""

    def __init__(self, noise: SeededNoise, stream: int, start: int, stop: int) -> None:
        """Open the generators of the blocks and their buffer."""
        self._generators = noise.generators(stream, start, stop)
        rows = len(self._generators) * noise.block
        self._buffer = torch.empty(rows, noise.dim, dtype=noise.dtype, device=noise.device)
        self._parts = [
            (self._buffer[i * noise.block : (i + 1) * noise.block], generator)
            for i, generator in enumerate(self._generators)
        ]
        self._paths = self._buffer[: stop - start]

    def next(self) -> Tensor:
        """See ``Increments``."""
        for part, generator in self._parts:
            part.normal_(generator=generator)
        return self._paths


@dataclass(frozen=True)
class GivenNoise:
    """Numbers that the caller passed: ``x_T`` of shape (n, d) and ``xi`` of shape (steps, n, d)."""

    x_T: Tensor
    xi: Tensor

    @property
    def block(self) -> int:
        """Paths per block."""
        return max(1, BLOCK_ELEMENTS // self.x_T.shape[-1])

    def initial(self, start: int, stop: int) -> Tensor:
        """See ``Noise``."""
        return self.x_T[start:stop].clone()

    def increments(self, start: int, stop: int) -> GivenIncrements:
        """See ``Noise``."""
        return GivenIncrements(self.xi[:, start:stop])


class GivenIncrements:
    """A slice of passed increments, step by step."""

    def __init__(self, xi: Tensor) -> None:
        """Start at the first step."""
        self._steps = iter(xi)

    def next(self) -> Tensor:
        """See ``Increments``."""
        return next(self._steps)
