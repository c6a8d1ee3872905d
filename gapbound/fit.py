r"""Rates from measured gaps: weighted least squares in log-log (VE) or log-linear (VP) coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gapbound._validate import Array, choice, finite, positive

SCALES = ("log-log", "log-linear")


@dataclass(frozen=True)
class RateFit:
    """A fitted line ``log |gap| = intercept + slope * log x`` (or ``* x``).

    Attributes:
        slope: the rate.
        standard_error: of the slope, from the stated errors of the gaps.
        interval: confidence interval of the slope at ``level``.
        level: confidence level.
        intercept: of the line.
        chi_square: weighted sum of squared residuals; near ``degrees`` when a straight line fits.
        degrees: points used less 2.
        used: which points entered the fit, boolean, shape of x.
        x_range: smallest and largest x that entered.
    """

    slope: float
    standard_error: float
    interval: tuple[float, float]
    level: float
    intercept: float
    chi_square: float
    degrees: int
    used: NDArray[np.bool_]
    x_range: tuple[float, float]


def fit_rate(
    x: Any, gap: Any, standard_error: Any, scale: str = "log-log", level: float = 0.95, min_z: float = 3.0
) -> RateFit:
    r"""Fit a rate over the range where the gap is known: ``|gap| > min_z`` standard errors.

    Each log |gap| has standard error ``standard_error / |gap|``; the points must be independent (another seed for each
    x). To compare with a closed form, fit the exact gaps with the same relative errors: then points and weights agree.

    Args:
        x: abscissae, shape (n,); positive in "log-log".
        gap: measured gaps, shape (n,), of one sign where they are used.
        standard_error: of the gaps, positive, shape (n,).
        scale: "log-log" for a power of x, "log-linear" for an exponential.
        level: of the interval.
        min_z: what counts as known.

    Raises:
        ValueError: shapes differ, fewer than 2 points are known, or the known gaps change sign.
    """
    choice("scale", scale, SCALES)
    x = positive("x", x) if scale == "log-log" else finite("x", x)
    gap, error = finite("gap", gap), positive("standard_error", standard_error)
    if not (x.ndim == 1 and x.shape == gap.shape == error.shape):
        raise ValueError(
            f"x, gap and standard_error must share a shape (n,), got {x.shape}, {gap.shape}, {error.shape}"
        )
    used = np.abs(gap) > min_z * error
    if used.sum() < 2:
        raise ValueError(
            f"a slope needs 2 points with |gap| above {min_z:g} standard errors, got {used.sum()} of {x.size}; "
            "run more paths or smaller T"
        )
    if len(set(np.sign(gap[used]))) > 1:
        raise ValueError(f"the gap changes sign among the points used, which no rate describes: {gap[used]}")
    abscissa = np.log(x[used]) if scale == "log-log" else x[used]
    slope, intercept, slope_error, chi_square = _line(
        abscissa, np.log(np.abs(gap[used])), error[used] / np.abs(gap[used])
    )
    half_width = float(ndtri((1 + level) / 2)) * slope_error
    return RateFit(
        slope=slope,
        standard_error=slope_error,
        interval=(slope - half_width, slope + half_width),
        level=level,
        intercept=intercept,
        chi_square=chi_square,
        degrees=int(used.sum()) - 2,
        used=used,
        x_range=(float(x[used].min()), float(x[used].max())),
    )


def _line(x: Array, y: Array, error: Array) -> tuple[float, float, float, float]:
    """Weighted line through (x, y): slope, intercept, error of the slope, chi-square."""
    weight = error**-2.0
    centre_x, centre_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = (weight * (x - centre_x) ** 2).sum()
    if spread == 0:
        raise ValueError(f"a slope needs two different x, got only {x[0]:g} (after the logarithm, where it applies)")
    slope = (weight * (x - centre_x) * (y - centre_y)).sum() / spread
    intercept = centre_y - slope * centre_x
    return float(slope), float(intercept), float(spread**-0.5), float((weight * (y - intercept - slope * x) ** 2).sum())
