r"""Rates from measured gaps: weighted least squares in log-log (VE) or log-linear (VP) coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gapbound._door import door
from gapbound._validate import Array, choice, confidence, finite, number, positive

SCALES = ("log-log", "log-linear")
ROUNDS = 100  # of reweighting; a few suffice


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


@door()
def fit_rate(
    x: Any, gap: Any, standard_error: Any, scale: str = "log-log", level: float = 0.95, min_z: float = 3.0
) -> RateFit:
    r"""Fit a rate over the range where the gap is known: where the fitted line is above ``min_z`` standard errors.

    Weighted least squares on log |gap|, whose standard error is ``standard_error / |gap|``. Range and weights come from
    the fitted line, by iteration from the measured gaps: were they taken from the measured gaps, points that noise
    pushed up would enter more often and count more, and the interval would cover less than its level. The points must
    be independent (another seed for each x). The slope of a closed form over the same points and weights is that of
    ``np.polyfit(..., 1, w=line / standard_error)`` through its logarithm.

    Args:
        x: abscissae, shape (n,); positive in "log-log".
        gap: measured gaps, shape (n,), of one sign where they are known.
        standard_error: of the gaps, positive, shape (n,).
        scale: "log-log" for a power of x, "log-linear" for an exponential.
        level: of the interval.
        min_z: how many standard errors count as known.

    Raises:
        ValueError: shapes differ, fewer than 2 points are known, they share one x, or the known gaps change sign; a
            level outside (0, 1), a min_z that is not positive, NaN or infinity anywhere.
    """
    choice("scale", scale, SCALES)
    level, min_z = confidence(level), number("min_z", min_z, positive)
    x = positive("x", x) if scale == "log-log" else finite("x", x)
    gap, error = finite("gap", gap), positive("standard_error", standard_error)
    if not (x.ndim == 1 and x.shape == gap.shape == error.shape):
        raise ValueError(
            f"x, gap and standard_error must share a shape (n,), got {x.shape}, {gap.shape}, {error.shape}"
        )
    known = np.abs(gap) > min_z * error
    _check_number(known, min_z)
    if len(set(np.sign(gap[known]))) > 1:
        raise ValueError(f"the gap changes sign among the points known, which no rate describes: {gap[known]}")
    abscissa = np.log(x) if scale == "log-log" else x
    slope, intercept, slope_error, chi_square, used = _reweighted(
        abscissa, gap * np.sign(gap[known][0]), error, min_z, known
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


def _reweighted(
    x: Array, gap: Array, error: Array, min_z: float, used: NDArray[np.bool_]
) -> tuple[float, float, float, float, NDArray[np.bool_]]:
    """A line through log gap whose range and weights agree with itself: what ``_line`` gives, and the points used."""
    size = gap
    for round_ in range(ROUNDS):
        slope, intercept, slope_error, chi_square = _line(x[used], np.log(gap[used]), error[used] / size[used])
        with np.errstate(over="ignore"):
            size, before = np.exp(intercept + slope * x), size
        known = (size > min_z * error) & np.isfinite(size) & (gap > 0)
        if round_ > ROUNDS // 2:
            known &= used  # points that keep coming and going stay out
        _check_number(known, min_z)
        if (known == used).all() and np.allclose(size[used], before[used], rtol=1e-10, atol=0):
            break
        used = known
    return slope, intercept, slope_error, chi_square, used


def _check_number(used: NDArray[np.bool_], min_z: float) -> None:
    if used.sum() < 2:
        raise ValueError(
            f"a slope needs 2 points with |gap| above {min_z:g} standard errors, got {used.sum()} of {used.size}; "
            "run more paths or smaller T"
        )


def _line(x: Array, y: Array, error: Array) -> tuple[float, float, float, float]:
    """Weighted line through (x, y): slope, intercept, error of the slope, chi-square."""
    if (x == x[0]).all():
        raise ValueError(f"a slope needs two different x, got only {x[0]:g} (after the logarithm, where it applies)")
    weight = error**-2.0
    centre_x, centre_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = (weight * (x - centre_x) ** 2).sum()
    slope = (weight * (x - centre_x) * (y - centre_y)).sum() / spread
    intercept = centre_y - slope * centre_x
    return float(slope), float(intercept), float(spread**-0.5), float((weight * (y - intercept - slope * x) ** 2).sum())
