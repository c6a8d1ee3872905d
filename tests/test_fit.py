"""Rates from measured gaps: known slopes come back, intervals cover, and noise does not enter the fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

import gapbound as gb

T = np.geomspace(3, 100, 8)
RELATIVE = np.array([0.02, 0.01, 0.03, 0.02, 0.05, 0.04, 0.1, 0.08])


def power_law(x, slope=-1.3, constant=0.7):
    return constant * x**slope


def test_a_power_law_comes_back_exactly():
    gap = power_law(T)
    fit = gb.fit_rate(T, gap, RELATIVE * gap)
    assert fit.slope == pytest.approx(-1.3, rel=1e-12)
    assert fit.intercept == pytest.approx(np.log(0.7), rel=1e-12)
    assert fit.chi_square < 1e-20
    assert fit.degrees == 6
    assert fit.used.all()
    assert fit.x_range == (pytest.approx(3), pytest.approx(100))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_exponential_comes_back_exactly_for_either_sign(sign):
    x = np.linspace(0.0, 4.0, 6)  # x = 0 is allowed here
    gap = sign * 0.4 * np.exp(-2.5 * x)
    fit = gb.fit_rate(x, gap, 0.01 * np.abs(gap), "log-linear")
    assert fit.slope == pytest.approx(-2.5, rel=1e-12)
    assert fit.intercept == pytest.approx(np.log(0.4), rel=1e-12)


def test_slope_errors_and_interval_equal_scipy_s_least_squares_with_weights_from_the_line():
    rng = np.random.default_rng(1)
    error = RELATIVE * power_law(T)
    gap = power_law(T) + error * rng.standard_normal(8)
    fit = gb.fit_rate(T, gap, error, level=0.9)
    line = np.exp(fit.intercept + fit.slope * np.log(T))
    best, cov = curve_fit(
        lambda x, a, b: a + b * x, np.log(T), np.log(gap), p0=[0, -1], sigma=error / line, absolute_sigma=True
    )
    assert (fit.intercept, fit.slope) == (pytest.approx(best[0], rel=1e-6), pytest.approx(best[1], rel=1e-6))
    assert fit.standard_error == pytest.approx(cov[1, 1] ** 0.5, rel=1e-6)
    residuals = (np.log(gap) - np.log(line)) * line / error
    assert fit.chi_square == pytest.approx((residuals**2).sum(), rel=1e-6)
    half_width = 1.6448536269514722 * fit.standard_error  # of 90 %
    assert fit.interval == (pytest.approx(fit.slope - half_width), pytest.approx(fit.slope + half_width))
    assert fit.level == 0.9


def coverage(runs, relative, level=0.95, width=1.0, curve=0.0):
    """z-score of how often the interval holds the slope, mean chi-square per degree, and share of fits refused."""
    rng = np.random.default_rng(5)
    exact = power_law(T) * np.exp(curve * np.log(T) ** 2)
    error, hits, chi_squares = relative * exact, 0, []
    for _ in range(runs):
        try:
            fit = gb.fit_rate(T, exact + error * rng.standard_normal(8), error, level=level)
        except ValueError:
            continue
        hits += abs(fit.slope + 1.3) <= width * (fit.interval[1] - fit.slope)
        chi_squares.append(fit.chi_square / max(fit.degrees, 1))
    fits = len(chi_squares)
    return (hits - fits * level) / (fits * level * (1 - level)) ** 0.5, np.mean(chi_squares), 1 - fits / runs


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_covers_as_often_as_its_level_says(level):
    z, chi_square, refused = coverage(1000, RELATIVE, level)
    assert abs(z) < 3.5
    assert chi_square == pytest.approx(1, abs=0.1)
    assert refused == 0


def test_the_coverage_test_rejects_short_intervals_and_curved_lines():
    assert coverage(300, RELATIVE, width=0.7)[0] < -4
    z, chi_square, _ = coverage(300, RELATIVE, curve=0.02)
    assert z < -4
    assert chi_square > 1.2


@pytest.mark.parametrize(
    "relative",
    [[0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4], [0.01, 0.2, 0.25, 0.3, 0.3, 0.35, 0.4, 0.4]],
    ids=["a falling signal", "one good point"],
)
def test_points_at_the_edge_of_noise_do_not_spoil_the_interval(relative):
    """Weights and a range taken from the measured gaps would cover in 91 % and 65 % here."""
    z, _, refused = coverage(1000, np.array(relative))
    assert abs(z) < 3.5
    assert refused < 0.03


def test_only_points_above_the_noise_enter():
    gap = power_law(T)
    error = RELATIVE * gap
    gap[-2:], error[-2:] = [-1.0, 5.0], [0.5, 2.0]  # 2 and 2.5 standard errors, one of them negative
    fit = gb.fit_rate(T, gap, error)
    assert fit.used.tolist() == [True] * 6 + [False] * 2
    assert fit.slope == pytest.approx(-1.3, rel=1e-12)
    assert fit.degrees == 4
    assert fit.x_range == (T[0], T[5])
    with pytest.raises(ValueError, match="changes sign"):
        gb.fit_rate(T, gap, error, min_z=1.5)


def test_the_line_and_not_the_measured_gap_says_what_is_above_the_noise():
    x, error = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), 0.01
    line = 1 / x  # 6 standard errors at x = 16
    pushed_down, pushed_up = line.copy(), line.copy()
    pushed_down[-1] = 0.02
    assert gb.fit_rate(x, pushed_down, np.full(5, error)).used.all()
    far = np.append(x, 64.0)  # 1.6 standard errors there
    pushed_up = np.append(line, 0.035)
    assert gb.fit_rate(far, pushed_up, np.full(6, error)).used.tolist() == [True] * 5 + [False]
    assert gb.fit_rate(x, line, np.full(5, error), min_z=7.0).used.tolist() == [True] * 4 + [False]


def test_unsorted_points_fit_the_same_line():
    gap, order = power_law(T) * (1 + 0.05 * np.sin(T)), np.random.default_rng(0).permutation(8)
    one, other = gb.fit_rate(T, gap, RELATIVE * gap), gb.fit_rate(T[order], gap[order], (RELATIVE * gap)[order])
    assert one.slope == pytest.approx(other.slope, rel=1e-12)
    assert one.x_range == other.x_range


@given(
    slope=st.floats(-4, 4),
    stretch=st.floats(1e-3, 1e3),
    size=st.floats(1e-12, 1e12),
    wiggle=st.lists(st.floats(-0.2, 0.2), min_size=8, max_size=8),
)
def test_units_move_the_intercept_alone(slope, stretch, size, wiggle):
    gap = T**slope * np.exp(wiggle)
    one = gb.fit_rate(T, gap, RELATIVE * gap)
    other = gb.fit_rate(stretch * T, size * gap, size * RELATIVE * gap)
    assert other.slope == pytest.approx(one.slope, rel=1e-9, abs=1e-9)
    assert other.standard_error == pytest.approx(one.standard_error, rel=1e-9)
    assert other.chi_square == pytest.approx(one.chi_square, rel=1e-6, abs=1e-9)
    moved = np.log(size) - one.slope * np.log(stretch)
    assert other.intercept - one.intercept == pytest.approx(moved, rel=1e-9, abs=1e-8)


def test_two_points_fit_exactly_with_no_degree_left():
    fit = gb.fit_rate([2.0, 8.0], [3.0, 0.75], [0.1, 0.1])
    assert fit.slope == pytest.approx(-1.0)
    assert fit.degrees == 0
    assert fit.chi_square == pytest.approx(0, abs=1e-20)
    assert fit.standard_error == pytest.approx(np.hypot(0.1 / 3.0, 0.1 / 0.75) / np.log(4))


def test_the_simulated_rate_of_ve_has_the_closed_form_s_slope_over_the_same_points():
    target, reward, times = gb.Gaussian(1.0, 0.5), gb.Quadratic(1.0, 0.0), [4.0, 6.0, 9.0, 13.0]
    runs = [
        gb.estimate_gap(target, gb.VE(T), reward, 1.0, n=60_000, sampler="exact", steps=1, seed=seed)
        for seed, T in enumerate(times)
    ]
    gap, error = (np.array([float(getattr(run, name)) for run in runs]) for name in ("gap", "standard_error"))
    simulated = gb.fit_rate(times, gap, error)
    exact = gb.reward_gap(target, gb.VE(np.array(times)), reward)
    same_weights = gb.fit_rate(times, exact, error)
    assert simulated.used.all()
    assert simulated.interval[0] < same_weights.slope < simulated.interval[1]
    assert abs(simulated.slope) > 5 * simulated.standard_error


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(scale="linear"), ValueError, "unknown scale 'linear'; known: log-log, log-linear"),
        (dict(scale=None), TypeError, "scale must be one of the names"),
        (dict(x=[-1.0, 2.0, 3.0]), ValueError, r"x must be positive, got -1\.0 at index \(0,\)"),
        (dict(x=[1.0, np.nan, 3.0]), ValueError, "x must be finite"),
        (dict(x=["a", "b", "c"]), TypeError, "x must be a real number or an array"),
        (dict(gap=[1.0, np.inf, 0.2]), ValueError, "gap must be finite"),
        (dict(standard_error=[0.1, 0.0, 0.1]), ValueError, r"standard_error must be positive, got 0\.0"),
        (dict(x=[1.0, 2.0]), ValueError, r"must share a shape \(n,\), got \(2,\), \(3,\), \(3,\)"),
        (dict(x=1.0, gap=1.0, standard_error=0.1), ValueError, r"must share a shape \(n,\), got \(\), \(\), \(\)"),
        (dict(gap=[1.0, 0.1, 0.1]), ValueError, "2 points with .gap. above 3 standard errors, got 1 of 3"),
        (dict(gap=[1.0, -0.9, 0.8]), ValueError, "the gap changes sign among the points known"),
        (dict(x=[2.0, 2.0, 2.0]), ValueError, "a slope needs two different x"),
        (dict(gap=[1.0, 1e-5, 0.31]), ValueError, "2 points with .gap. above 3 standard errors, got"),
        (dict(level=0.0), ValueError, r"level must lie between 0 and 1, got 0\.0"),
        (dict(level=[0.9, 0.95]), ValueError, "level must lie between 0 and 1"),
        (dict(min_z=0.0), ValueError, "min_z must be positive"),
        (dict(min_z=-1.0), ValueError, "min_z must be positive"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_the_value_and_the_remedy(change, error, message):
    options = dict(x=[1.0, 2.0, 3.0], gap=[1.0, 0.5, 0.4], standard_error=[0.1, 0.1, 0.1]) | change
    with pytest.raises(error, match=message):
        gb.fit_rate(**options)
