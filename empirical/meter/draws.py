"""What the runs of a pair share: x_T, and the increments of each SDE draw, the same at every eta.

Every stream of random numbers has its own key: the measurement's seed, the prompt's text, the number of the sample and
of the stream. So x_T does not depend on the other prompts, on how pairs are split into batches and processes, or on
the device: it is drawn on the CPU in fp32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

INITIAL = 0  # the stream of x_T; SDE draw k reads stream 1 + k


@dataclass(frozen=True)
class Draws:
    """The random numbers of a measurement.

    Args:
        seed: of the measurement, 0 or more; measurements with different seeds are independent.
    """

    seed: int

    def initial(self, pairs: Sequence[tuple[str, int]], shape: Sequence[int]) -> Tensor:
        """x_T of each (prompt, sample), standard normal, fp32 on the CPU, shape (pairs, *shape)."""
        return torch.stack([torch.randn(*shape, generator=self._generator(pair, INITIAL)) for pair in pairs])

    def increments(self, pairs: Sequence[tuple[str, int]], draw: int) -> list[torch.Generator]:
        """One fresh CPU generator for each (prompt, sample): the increments of SDE draw ``draw``, step by step."""
        return [self._generator(pair, 1 + draw) for pair in pairs]

    def _generator(self, pair: tuple[str, int], stream: int) -> torch.Generator:
        prompt, sample = pair
        text = np.frombuffer(hashlib.sha256(prompt.encode()).digest(), dtype="<u4")
        # torch's CPU generator keeps 32 bits of its seed: among a million streams about a hundred pairs share one
        (seed,) = np.random.SeedSequence([self.seed, *text.tolist(), sample, stream]).generate_state(1)
        return torch.Generator("cpu").manual_seed(int(seed))
