"""A number that is known up to a stated error: what quadrature and Monte Carlo return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from gapbound._validate import Array, choice, confidence

METHODS = ("quadrature", "monte carlo")


@dataclass(frozen=True, eq=False)
class Estimate:
    """``value`` with its ``error``, two numbers or two arrays of one shape.

    Args:
        value: the estimate.
        error: one standard error for "monte carlo", the last correction for "quadrature"; 0 or more.
        method: "quadrature" or "monte carlo".
        n: number of draws or of nodes per value, where known.
    """

    value: Any
    error: Any
    method: str
    n: int | None = None

    def __post_init__(self) -> None:
        """Validate the method's name."""
        choice("method", self.method, METHODS)

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """``(low, high)``: a normal confidence interval for Monte Carlo, value -+ error for quadrature at any level.

        Raises:
            ValueError: the level is not in (0, 1).
        """
        quantile = ndtri((1 + confidence(level)) / 2)
        width = self.error if self.method == "quadrature" else quantile * np.asarray(self.error)
        return self.value - width, self.value + width

    def __float__(self) -> float:
        """The value as a number; ``TypeError`` where it is an array of several."""
        if np.size(self.value) != 1:
            raise TypeError(f"an estimate of shape {np.shape(self.value)} is not one number; use its value")
        return float(np.asarray(self.value).reshape(()))
