"""Formulas that serve NumPy arrays and torch tensors alike take their functions from here.

Arrays of any real dtype are computed in float64. Tensors keep float32 and float64; narrower floats (float16, bfloat16)
are computed and returned in float32, integers in float64: parameters never lose digits to the dtype of the points.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch

from gapbound._validate import finite, real, shown


def namespace(x: Any) -> ModuleType:
    """``torch`` for a tensor, ``numpy`` for anything else."""
    return torch if isinstance(x, torch.Tensor) else np


def finite_points(name: str, x: Any) -> Any:
    """A door's check of points: an array without NaN or infinity, perhaps of no points; a tensor goes to ``points``."""
    if isinstance(x, torch.Tensor):
        return x
    array = real(name, x)
    return finite(name, array) if array.size else array


def points(name: str, x: Any, dim: int | None = None) -> Any:
    """``x`` as a tensor or a float array whose last axis has ``dim`` entries; a bare number is one point in d = 1.

    The dtype is wide enough to compute in, as the module says.

    Raises:
        ValueError: the last axis is not ``dim``.
        TypeError: the entries are not real numbers.
    """
    x = _wide(name, x) if isinstance(x, torch.Tensor) else real(name, x)
    if x.ndim == 0 and dim in (1, None):
        x = x[None]
    if x.ndim == 0 or (dim is not None and x.shape[-1] != dim):
        raise ValueError(f"the last axis of {name} must have {dim} entries (the dimension), got shape {tuple(x.shape)}")
    return x


def like(x: Any, parameter: Any) -> Any:
    """``parameter`` as an array of the kind, dtype and device of ``x``."""
    if isinstance(x, torch.Tensor):
        return torch.tensor(np.asarray(parameter), dtype=x.dtype, device=x.device)
    return np.asarray(parameter, dtype=float)


def _wide(name: str, x: torch.Tensor) -> torch.Tensor:
    """A tensor of real numbers in float32 or wider."""
    if x.dtype.is_floating_point:
        return x if x.dtype.itemsize >= 4 else x.float()
    if x.dtype == torch.bool or x.dtype.is_complex or x.is_quantized:
        raise TypeError(f"{name} must hold real numbers, got a tensor of {x.dtype}: {shown(x)}")
    return x.double()
