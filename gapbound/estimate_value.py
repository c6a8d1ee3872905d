"""A number that is known up to a stated error: what quadrature and Monte Carlo return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from gapbound._door import door
from gapbound._validate import Array, broadcastable, choice, confidence, count, finite, real, shown

METHODS = ("quadrature", "monte carlo", "closed form")


@dataclass(frozen=True, eq=False)
class Estimate:
    """``value`` with its ``error``, two numbers, or arrays of one shape.

    Args:
        value: the estimate.
        error: one standard error for "monte carlo", the last correction for "quadrature", 0 for "closed form"; 0 or
            more, inf where nothing is known.
        method: "quadrature", "monte carlo" or "closed form".
        n: number of draws or of nodes per value, where known.

    Raises:
        ValueError: the value is not finite, the error is negative or NaN, the shapes differ, the method is unknown.
        TypeError: something that is not a number.
    """

    value: Any
    error: Any
    method: str
    n: int | None = None

    @door(infinite=True)
    def __post_init__(self) -> None:
        """Validate the fields."""
        choice("method", self.method, METHODS)
        value, error = finite("value", self.value), real("error", self.error)
        if not (error >= 0).all():
            raise ValueError(f"error must be 0 or more, got {shown(self.error)}")
        if broadcastable("value and error", value.shape, error.shape) != value.shape:
            raise ValueError(f"error must fit the value's shape {value.shape}, got {error.shape}")
        for name, array in (("value", value), ("error", error)):
            if array.ndim:
                object.__setattr__(self, name, array)
        if self.n is not None:
            count("n", self.n)

    @door(infinite=True)
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
