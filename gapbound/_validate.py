"""Checks of what comes in, the same for every door: wrong input raises here, with the value met and the remedy.

``TypeError`` for a value of the wrong kind, ``ValueError`` for a value out of range. Nothing is clamped. What a door
does around its function, ``gapbound._door`` says.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LARGEST_ANSWER = 2**30  # bytes

_brief = reprlib.Repr()
_brief.maxother = _brief.maxstring = 160
_brief.maxlong = 40


def shown(value: Any) -> str:
    """``repr(value)``, cut to a length that a message can hold."""
    return _brief.repr(value)


def real(name: str, value: Any) -> Array:
    """``value`` as a float64 array; ``TypeError`` unless it is a real number or an array of them.

    Masked arrays are refused, because their mask would be lost, and so are bools, also inside lists.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, whose mask would be lost; use .compressed() or .filled()")
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return np.array(float(value))
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or (isinstance(value, list | tuple) and _holds_bool(value)):
            raise TypeError
        return array.astype(np.float64)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {shown(value)}, which no float holds") from None
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a real number or an array of them, got {shown(value)}") from None


def finite(name: str, value: Any) -> Array:
    """A real array without NaN or infinity, and not an empty one."""
    array = real(name, value)
    if not array.size:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
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
    if not inside.all() or not array.size:
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
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
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
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {shown(value)}")
    return int(value)


def fits(what: str, entries: int, remedy: str) -> None:
    """``ValueError`` where ``entries`` float64 numbers take more than a gigabyte."""
    if 8 * entries > LARGEST_ANSWER:
        entries = min(entries, 10**300)  # a whole number beyond all floats
        raise ValueError(f"{what} would take {entries / 2**27:.3g} GiB, and 1 GiB is the most allowed; {remedy}")


def dimension(name: str, value: Any) -> int:
    """A number of coordinates, of which two vectors fit into a gigabyte."""
    fits(f"mean and variances of {name}={shown(count(name, value))}", 2 * value, "use fewer dimensions")
    return int(value)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the ``known`` names."""
    names = list(known)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of the names {names}, got {shown(value)}")
    if value not in names:
        raise ValueError(f"unknown {name} {shown(value)}; known: {', '.join(names)}")
    return value


def broadcastable(what: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape of ``shapes``, or ``ValueError`` naming them."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{what} do not broadcast: shapes {' and '.join(map(str, shapes))}") from None


def _holds_bool(values: Any) -> bool:
    """Whether a nested list holds a bool, which NumPy would turn into 0 or 1."""
    if isinstance(values, list | tuple):
        return any(_holds_bool(value) for value in values)
    return isinstance(values, bool | np.bool_) or (isinstance(values, np.ndarray) and values.dtype.kind == "b")


def _first(array: Array, at_fault: NDArray[np.bool_]) -> str:
    where = tuple(int(i) for i in np.argwhere(at_fault)[0])
    return f"{array[where]!s}" + (f" at index {where}" if where else "")
