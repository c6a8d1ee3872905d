"""Checks of torch tensors at the public door, beside those of numbers and arrays in ``_validate``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gapbound._validate import shown

WIDE = (torch.float32, torch.float64)


def real_tensor(name: str, value: Any) -> Tensor:
    """``value`` if it is a tensor of real numbers; ``TypeError`` for anything else, booleans included."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {shown(value)}; use torch.as_tensor")
    if value.is_complex() or value.dtype is torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}; convert it first, as by .float()")
    return value


def wide_tensor(name: str, value: Any) -> Tensor:
    """``value`` if it is a tensor of float32 or float64.

    Raises:
        TypeError: it is no tensor of real numbers.
        ValueError: its dtype is narrower, so that densities computed from it would be too coarse for ratios.
    """
    if real_tensor(name, value).dtype not in WIDE:
        raise ValueError(
            f"{name} must be float32 or float64, got {value.dtype}, in which log-densities are too coarse for ratios; "
            "compute and store it in float32"
        )
    return value


def finite_tensor(name: str, value: Tensor, remedy: str) -> Tensor:
    """``value`` unless it holds NaN or infinity.

    Raises:
        ValueError: says how many entries do, and the ``remedy``.
    """
    good = torch.isfinite(value.detach())
    if not bool(good.all()):
        raise ValueError(f"{int((~good).sum())} of {good.numel()} entries of {name} are NaN or infinite; {remedy}")
    return value


def mask_tensor(name: str, value: Any, shape: torch.Size) -> Tensor:
    """``value`` if it is a tensor of booleans of this shape.

    Raises:
        TypeError: it holds something else.
        ValueError: it has another shape.
    """
    if not isinstance(value, Tensor) or value.dtype is not torch.bool:
        raise TypeError(f"{name} must be a tensor of booleans, got {getattr(value, 'dtype', value)!r}")
    if value.shape != shape:
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(value.shape)}")
    return value
