r"""The stochasticity eta along the sampler: a number, or a piecewise-constant profile.

``eta`` multiplies the standard deviation of the noise: in z = x / s and tau = sigma^2 the sampler is

.. math:: dz = -\frac{1 + \eta^2}{2} \nabla \log q_\tau(z) \, d\tau + \eta \, dW, \qquad \tau \downarrow 0,

so 0 is the probability-flow ODE and 1 the time reversal of the forward process. Every exact law depends on eta only
through integrals of eta^2, which this module gives segment by segment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gapbound._door import door
from gapbound._validate import Array, non_negative, real, shown, within


@dataclass(frozen=True, init=False)
class Windows:
    """Piecewise-constant eta: ``eta`` while sigma is in ``(sigma_low, sigma_high)``, 0 (the ODE) elsewhere.

    The mixed sampler of MixGRPO (https://arxiv.org/abs/2507.21802) is one such window that moves during training.

    Args:
        windows: triples ``(sigma_low, sigma_high, eta)``, 0 <= sigma_low < sigma_high <= inf, not overlapping; in units
            of sigma, the noise-to-signal ratio of the process. Parts outside [sigma(t_min), sigma_T] have no effect.

    Raises:
        ValueError: a bound or an eta is negative or NaN, a window is empty, or two windows overlap.
        TypeError: something that is not a list of triples of numbers.
    """

    windows: tuple[tuple[float, float, float], ...]

    @door()
    def __init__(self, windows: Iterable[Sequence[float]]) -> None:
        """See the class."""
        if not isinstance(windows, Iterable) or (isinstance(windows, np.ndarray) and windows.ndim == 0):
            raise TypeError(f"windows must be a list of triples (sigma_low, sigma_high, eta), got {shown(windows)}")
        ordered = sorted(_window(w) for w in windows)
        for (low, high, _), (next_low, next_high, _) in itertools.pairwise(ordered):
            if next_low < high:
                raise ValueError(
                    f"windows must not overlap, got ({low:g}, {high:g}) and ({next_low:g}, {next_high:g}); "
                    "split them at the shared sigma"
                )
        object.__setattr__(self, "windows", tuple(ordered))

    @door()
    def __call__(self, sigma: Any) -> Array:
        """Eta at noise level ``sigma``; at a shared edge, the window above it."""
        sigma = real("sigma", sigma)
        if np.isnan(sigma).any():
            raise ValueError(f"sigma must not be NaN, got {sigma}")
        value = np.zeros_like(sigma)
        for low, high, eta in self.windows:
            value = np.where((low <= sigma) & (sigma < high), eta, value)
        return value


Eta = float | Array | Windows
LARGEST = 1e100  # eta^2 and its integrals stay finite up to here
EDGE = 1e-9  # relative distance from an edge of a window within which a noise level is the edge


def _window(window: Any) -> tuple[float, float, float]:
    try:
        low, high, eta = (float(real("a window's entries", entry)) for entry in window)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a window is a triple (sigma_low, sigma_high, eta) of numbers, got {shown(window)}") from error
    if not 0 <= low < high:
        raise ValueError(f"a window needs 0 <= sigma_low < sigma_high, got sigma_low={low:g}, sigma_high={high:g}")
    if not 0 <= eta <= LARGEST:
        raise ValueError(f"eta must lie in [0, {LARGEST:g}], got {eta:g} in the window ({low:g}, {high:g})")
    return low, high, eta


def checked(eta: Any, name: str = "eta") -> Array | Windows:
    """``eta`` as a validated array or profile.

    Raises:
        ValueError: eta is negative, NaN, infinite or above 1e100.
        TypeError: eta is neither a number, an array nor ``Windows``.
    """
    if isinstance(eta, Windows):
        return eta
    value = non_negative(name, eta)
    return value if (value <= LARGEST).all() else within(name, value, 0.0, LARGEST)


def segments(*etas: Array | Windows) -> list[tuple[float, float, tuple[Array, ...]]]:
    """Cut (0, inf) where any profile jumps: ``[(sigma_low, sigma_high, (eta of each profile)), ...]``.

    A plain number never forces a cut, so numbers alone give the one segment (0, inf).
    """
    edges = {0.0, math.inf}
    for eta in etas:
        if isinstance(eta, Windows):
            edges.update(edge for low, high, _ in eta.windows for edge in (low, high))
    cuts = sorted(edges)
    return [
        (low, high, tuple(eta(low) if isinstance(eta, Windows) else eta for eta in etas))
        for low, high in itertools.pairwise(cuts)
    ]


def eta_below(eta: Array | Windows, sigma: Array) -> Array:
    """The eta of a step down from sigma: a window includes its upper edge, and its lower one if that is 0.

    A number keeps its own shape; a level within a rounding of an edge is the edge.
    """
    if not isinstance(eta, Windows):
        return eta
    value = np.zeros_like(sigma)
    for low, high, own in eta.windows:
        above = (low * (1 + EDGE) < sigma) | ((sigma == 0) & (low == 0))
        value = np.where(above & (sigma <= high * (1 + EDGE)), own, value)
    return value


def squared_integral(eta: Array | Windows, sigma_low: Any, sigma_high: Any, variance: Any) -> Array:
    r"""``int eta^2 dtau / (v + tau)`` between two noise levels: what decorrelates the end from the start.

    0 where eta is 0, even on a range that reaches sigma = inf; the arguments broadcast.
    """
    total: Array = np.zeros(())
    for low, high, (value,) in segments(eta):
        ratio = log_variance_ratio(variance, np.maximum(low, sigma_low), np.minimum(high, sigma_high))
        square = value**2
        total = total + square * np.where(square > 0, ratio, 0.0)
    return total


def mean_square(eta: Array | Windows, sigma_low: Any, sigma_high: Any) -> Array:
    """Mean of eta^2 over tau = sigma^2 between two noise levels; the value at the top if that is inf."""
    if not isinstance(eta, Windows):
        return eta**2
    endless, top = np.isinf(sigma_high), segments(eta)[-1][2][0]
    sigma_high = np.where(endless, 2 * sigma_low + 1, sigma_high)
    mean: Array = np.zeros(())
    for low, high, (value,) in segments(eta):
        bottom, ceiling = np.maximum(low, sigma_low), np.minimum(high, sigma_high)
        # two ratios: no square that could overflow or vanish
        share = (
            np.maximum(ceiling - bottom, 0) / (sigma_high - sigma_low) * ((ceiling + bottom) / (sigma_high + sigma_low))
        )
        mean = mean + value**2 * share
    return np.where(endless, top**2, mean)


def log_variance_ratio(variance: Any, sigma_low: Any, sigma_high: Any) -> Array:
    r"""``log((v + sigma_high^2) / (v + sigma_low^2))``, accurate however small or large the three are.

    Differences are taken before logarithms, so that the result keeps its relative accuracy when v dwarfs both sigmas
    as well as when sigma_high^2 overflows. 0 for an empty range, inf at sigma_high = inf.
    """
    v = np.asarray(variance, dtype=float)
    low, high = np.asarray(sigma_low, dtype=float), np.asarray(sigma_high, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_difference = np.log(high - low) + np.log(high + low)
        log_base = np.logaddexp(np.log(v), 2 * np.log(low))
        ratio = np.logaddexp(0.0, log_difference - log_base)
    return np.where(low < high, ratio, 0.0)
