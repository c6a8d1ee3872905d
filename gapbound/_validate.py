"""Checks at the public door: wrong input raises here, with the value met and the remedy.

``TypeError`` for a value of the wrong kind, ``ValueError`` for a value out of range. Nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def real(name: str, value: Any) -> Array:
    """``value`` as a float64 array; ``TypeError`` unless it is a real number or an array of them."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a real number or an array of them, got {value!r}") from None


def finite(name: str, value: Any) -> Array:
    """A real array without NaN or infinity."""
    array = real(name, value)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {_first(array, ~np.isfinite(array))}")
    return array


def positive(name: str, value: Any) -> Array:
    """A finite array with every entry above 0."""
    array = finite(name, value)
    if not (array > 0).all():
        raise ValueError(f"{name} must be positive, got {_first(array, array <= 0)}")
    return array


def non_negative(name: str, value: Any) -> Array:
    """A finite array with every entry at least 0."""
    array = finite(name, value)
    if not (array >= 0).all():
        raise ValueError(f"{name} must be 0 or more, got {_first(array, array < 0)}")
    return array


def within(name: str, value: Any, low: float, high: float) -> Array:
    """A finite array with every entry in [low, high]."""
    array = real(name, value)
    inside = (low <= array) & (array <= high)
    if not inside.all():
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {_first(finite(name, array), ~inside)}")
    return array


def number(name: str, value: Any, check: Callable[[str, Any], Array] | None = None) -> float:
    """One number that ``check`` accepts: ``finite`` if it is not given, or ``positive``, or ``non_negative``."""
    array = (check or finite)(name, value)
    if array.ndim:
        raise ValueError(f"{name} must be one number, got an array of shape {array.shape}; call once for each")
    return float(array)


def seed(value: Any, name: str = "seed") -> int:
    """A seed: a whole number of at least 0."""
    return count(name, value, 0)


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only behaves like it."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def confidence(level: Any) -> float:
    """A confidence level, strictly between 0 and 1."""
    value = finite("level", level)
    if value.ndim or not 0 < value < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!s}; 0.95 is usual")
    return float(value)


def count(name: str, value: Any, at_least: int = 1) -> int:
    """A whole number of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")
    return int(value)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the ``known`` names."""
    names = list(known)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of the names {names}, got {value!r}")
    if value not in names:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(names)}")
    return value


def broadcastable(what: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of ``shapes``, or ``ValueError`` naming them."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{what} do not broadcast: shapes {' and '.join(map(str, shapes))}") from None


def _first(array: Array, at_fault: NDArray[np.bool_]) -> str:
    where = tuple(int(i) for i in np.argwhere(at_fault)[0])
    return f"{array[where]!s}" + (f" at index {where}" if where else "")
