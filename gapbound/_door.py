r"""The public door: what every public function does around its own work, once, however deep the library calls itself.

.. code-block:: python

    @door(sigma=non_negative)
    def gain(self, sigma): ...

A call from outside

- checks the arguments that are named, and hands on what the checks return;
- computes under ``numpy.errstate(all="ignore")``, so that neither a warning nor a FloatingPointError leaks;
- turns what NumPy or torch could not do (an overflow, a matrix that is singular to rounding, too little memory, shapes
  that do not broadcast) into a ``ValueError`` that shows the arguments, and refuses a result that is NaN or infinite.

A call from inside the library goes straight to the function. Results that are torch tensors are not searched for NaN,
because that would wait for their device.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import numpy as np

from gapbound._validate import shown

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any], Any]

ALLOCATOR = "can't allocate memory"  # torch raises a RuntimeError with these words
GENERATED = "<lambdifygenerated"  # sympy names so the files of the functions that it writes for us
OURS = ("gapbound", "numpy", "scipy", "sympy", "mpmath")  # an error from elsewhere is that of a function passed in
RESCALE = "rescale the arguments towards 1"
SHAPES = (
    "could not be broadcast",
    "cannot be broadcast",
    "in its core dimension",
    "The size of tensor",
)  # NumPy, torch

_inside: ContextVar[bool] = ContextVar("inside", default=False)


def door(*, infinite: bool = False, **checks: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function or a method a public door; see the module.

    Args:
        infinite: whether the docstring documents an infinite result, which then passes; NaN never does.
        checks: for an argument, a function (name, value) -> value that raises or returns what the door hands on.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = list(inspect.signature(function).parameters)
        places = [(name, names.index(name), check) for name, check in checks.items()]

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if _inside.get():
                return function(*args, **kwargs)
            token = _inside.set(True)
            try:
                with np.errstate(all="ignore"):
                    given = _checked(places, args, kwargs)
                    result = function(*given, **kwargs)
            except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
                what = _failure(error)
                if what is None:
                    raise
                raise ValueError(_refusal(function, args, kwargs, what)) from error
            finally:
                _inside.reset(token)
            if not _sound(result, infinite):
                raise ValueError(_refusal(function, args, kwargs, f"leaves the range of floating point; {RESCALE}"))
            return result

        return guarded

    return decorate


def _checked(places: list[tuple[str, int, Check]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The positional arguments after their checks; keyword arguments are replaced in place."""
    if not places:
        return args
    given = list(args)
    for name, place, check in places:
        if name in kwargs:
            kwargs[name] = check(name, kwargs[name])
        elif place < len(given):
            given[place] = check(name, given[place])
    return given


def _sound(result: Any, infinite: bool) -> bool:
    """Whether no number in ``result`` is NaN, or infinite unless that is documented."""
    if isinstance(result, np.ndarray | float | np.floating):
        array = np.asarray(result)
        return array.dtype.kind != "f" or not bool((np.isnan(array) if infinite else ~np.isfinite(array)).any())
    if isinstance(result, tuple | list):
        return all(_sound(part, infinite) for part in result)
    if isinstance(result, Mapping):
        return all(_sound(part, infinite) for part in result.values())
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        parts = (getattr(result, field.name) for field in dataclasses.fields(result))
        # a tuple within an object is its own affair: the edges of ``Windows`` may be infinite
        return all(_sound(part, infinite) for part in parts if not isinstance(part, tuple))
    return True


def _failure(error: BaseException) -> str | None:
    """What NumPy or torch could not do for the library; None for a refusal of our own, and for others' errors."""
    if not _is_ours(error):
        return None
    if isinstance(error, MemoryError) or ALLOCATOR in str(error):
        return "needs more memory than there is"
    if isinstance(error, ArithmeticError | np.linalg.LinAlgError):
        return f"fails ({error}); {RESCALE}"
    if any(words in str(error) for words in SHAPES):
        return f"is given shapes that do not fit each other ({error})"
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether the innermost frame belongs to the library or to what it computes with."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return False
    module = frame.tb_frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in OURS or frame.tb_frame.f_code.co_filename.startswith(GENERATED)


def _refusal(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str) -> str:
    names = inspect.signature(function).parameters
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    arguments = ", ".join(f"{name}={shown(value)}" for name, value in given.items())
    return f"{function.__qualname__} {what}; the arguments were {arguments}"
