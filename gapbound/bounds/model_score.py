"""Any score model as one checked function of (z, sigma): the door that learned scores come in by."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gapbound._validate import Array, finite, positive, shown
from gapbound.affine import AffineScore
from gapbound.gaussian import Gaussian
from gapbound.mixture import GaussianMixture
from gapbound.simulate import usable_device

ELEMENTS = 2**22  # numbers in one call of a score
ROWS_AGREE = 1e-3  # relative: rows scored together and alone differ by rounding only
SLOPES_AGREE = 0.1  # relative: a derivative against a difference quotient, at the median row
QUOTIENT = 1e-2  # step of that quotient, in units of sigma


@dataclass(frozen=True, eq=False)
class CheckedScore:
    """``function`` with its output checked: a finite tensor of z's shape, in z's dtype.

    Args:
        function: (z of shape (n, d), sigma) -> score of the same shape.
        dim: the dimension d.
        dtype: of the tensors that the function is given.
        device: where they live.
    """

    function: Callable[[Tensor, float], Tensor]
    dim: int
    dtype: torch.dtype
    device: torch.device

    def __call__(self, z: Tensor, sigma: float) -> Tensor:
        """The score at ``z``, any number of rows, without gradients.

        Raises:
            ValueError: it is no finite tensor of z's shape.
        """
        rows = max(1, ELEMENTS // self.dim)
        with torch.no_grad():
            return torch.cat([self._checked(part, sigma) for part in blocks(z, rows)])

    def tensor(self, values: Any) -> Tensor:
        """``values`` as the function wants them."""
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    def _checked(self, z: Tensor, sigma: float) -> Tensor:
        score = self.function(z, sigma)
        if not isinstance(score, Tensor) or score.shape != z.shape:
            shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"the score must return a tensor of z's shape {tuple(z.shape)}, got {shape}")
        at_fault = ~torch.isfinite(score).all(-1)
        if at_fault.any():
            row = int(at_fault.nonzero()[0])
            raise ValueError(
                f"the score is not finite at sigma={sigma:g}, z={z[row].tolist()}; stop the sampler at the smallest "
                "noise level that it was trained on: t_min=..."
            )
        return score.to(z.dtype)


def as_score(
    model: Any, dim: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> CheckedScore:
    """``model`` as a function of (z, sigma) in ``dim`` dimensions.

    Args:
        model: a Gaussian, a mixture, an affine score, or a callable (z of shape (n, d), sigma) -> score of z's shape.
        dim: the dimension d.
        dtype: torch.float32 or torch.float64.
        device: where to evaluate.

    Raises:
        ValueError: a batched model, or one of another dimension; a dtype below fp32.
        TypeError: a model that cannot be called.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}; lower precision spoils errors")
    if isinstance(model, Gaussian | GaussianMixture | AffineScore):
        if model.batch_shape:
            raise ValueError(f"a certificate is about one model at a time, got batch shape {model.batch_shape}; loop")
        if model.dim != dim:
            raise ValueError(f"the model has dimension {model.dim}, the target {dim}; they must agree")
        function = model.score
    elif isinstance(model, type) or not callable(model):
        raise TypeError(
            f"score_model must be a callable (z, sigma) -> score, or a law with a score, got {shown(model)}"
        )
    else:
        function = model
    return CheckedScore(function, dim, dtype, usable_device(device))


def check_rows(score: CheckedScore, z: Tensor, sigma: float) -> None:
    """Refuse a score whose rows depend on each other or on chance: dropout, batch statistics.

    Raises:
        ValueError: half of the rows score differently without the other half.
    """
    half = max(1, len(z) // 2)
    together, alone = score(z, sigma)[:half], score(z[:half], sigma)
    apart, size = (together - alone).abs().amax(-1), float(together.abs().max())
    row = int(apart.argmax())
    if float(apart[row]) > ROWS_AGREE * max(size, float(torch.finfo(z.dtype).tiny)):
        raise ValueError(
            f"the score of a row changes with the other rows or from call to call (sigma={sigma:g}): "
            f"{together[row].tolist()} among {len(z)} rows, {alone[row].tolist()} among {half}; call model.eval(), "
            "without dropout or batch statistics"
        )


def check_slopes(score: CheckedScore, z: Tensor, sigma: float, seed: int = 0) -> None:
    """Refuse a score that hides its derivatives, as detached tensors and NumPy round trips do.

    Raises:
        ValueError: the Jacobian's product with a random direction is not the difference quotient.
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
    step = QUOTIENT * sigma / math.sqrt(score.dim)
    quotient = (score(z + step * v, sigma) - score(z - step * v, sigma)) / (2 * step)
    slope = directional(score.function, z, sigma, v)
    size = torch.maximum(quotient.norm(dim=-1), slope.norm(dim=-1))
    missed = (quotient - slope).norm(dim=-1)
    rounding = 10 * torch.finfo(z.dtype).eps * score(z, sigma).norm(dim=-1) / step
    if float((missed - SLOPES_AGREE * size - rounding).median()) > 0:
        raise ValueError(
            f"the score's derivative by torch.func is not its difference quotient at sigma={sigma:g} (they differ by "
            f"{float(missed.median()):.3g} of {float(size.median()):.3g}); the score must be differentiable in z: no "
            "torch.no_grad, detach or NumPy inside"
        )


def blocks(z: Tensor, rows: int) -> list[Tensor]:
    """``z`` cut into blocks of at most ``rows`` rows."""
    return [z[start : start + rows] for start in range(0, len(z), rows)]


def directional(function: Callable[[Tensor, float], Tensor], z: Tensor, sigma: float, v: Tensor) -> Tensor:
    """The Jacobian's product J v at every row, by forward mode."""
    _forward_mode_is_loaded()
    product: Tensor = torch.func.jvp(lambda x: function(x, sigma), (z,), (v,))[1]
    return product


@cache
def _forward_mode_is_loaded() -> None:
    """Torch compiles its forward-mode rules on the first use, with a deprecation warning about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


def checked_level(name: str, sigma: Any) -> float:
    """One positive noise level."""
    value = positive(name, sigma)
    if value.ndim:
        raise ValueError(f"{name} must be one number, got shape {value.shape}")
    return float(value)


def checked_levels(name: str, sigmas: Any) -> Array:
    """Positive noise levels, shape (levels,)."""
    values = positive(name, finite(name, sigmas))
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be a list of noise levels, got shape {values.shape}")
    return values
