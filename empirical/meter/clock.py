"""Where the time goes: inside networks, inside rewards, and the rest, which is overhead."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Clock:
    """Adds up seconds; ``watch`` a pipeline's networks while it runs."""

    def __init__(self) -> None:
        """Nothing has run."""
        self.total = self.networks = self.rewards = 0.0
        self._entered = 0.0

    @contextmanager
    def watch(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Time inside the block, and that in the modules' forward passes."""
        handles = []
        for module in modules:
            handles += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
        start = _now()
        try:
            yield
        finally:
            self.total += _now() - start
            for handle in handles:
                handle.remove()

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Time of a reward."""
        start = _now()
        try:
            yield
        finally:
            self.rewards += _now() - start

    @property
    def overhead(self) -> float | None:
        """All that is neither a network nor a reward, over the networks' time; None before anything ran."""
        return (self.total - self.networks - self.rewards) / self.networks if self.networks else None

    def record(self) -> dict[str, float | None]:
        """As JSON holds it: seconds, and the ratio."""
        return {
            "seconds": self.total,
            "networks": self.networks,
            "rewards": self.rewards,
            "overhead_ratio": self.overhead,
        }

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._entered = _now()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.networks += _now() - self._entered


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # or work that was only queued would count elsewhere
    return time.perf_counter()
