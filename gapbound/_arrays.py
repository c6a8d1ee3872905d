"""Formulas that serve NumPy arrays and torch tensors alike take their functions from here."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch


def namespace(x: Any) -> ModuleType:
    """``torch`` for a tensor, ``numpy`` for anything else."""
    return torch if isinstance(x, torch.Tensor) else np


def points(name: str, x: Any, dim: int | None = None) -> Any:
    """``x`` as a tensor or a float array whose last axis has ``dim`` entries; a bare number is one point in d = 1.

    Raises:
        ValueError: the last axis is not ``dim``.
    """
    if not isinstance(x, torch.Tensor):
        x = np.asarray(x, dtype=float)
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
