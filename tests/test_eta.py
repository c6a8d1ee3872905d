"""Stochasticity: profiles, integrals of eta^2 against quadrature, accuracy in many digits, bad input."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from strategies import powers, windows

import gapbound as gb
from gapbound.eta import checked, eta_below, log_variance_ratio, mean_square, segments, squared_integral

PROFILE = gb.Windows([(0.9, 1.3, 0.6), (0.15, 0.5, 1.7)])


def test_profile_is_its_eta_inside_the_windows_and_0_elsewhere():
    sigma = [0.0, 0.1, 0.15, 0.3, 0.5, 0.7, 0.9, 1.2999, 1.3, 10.0, math.inf]
    np.testing.assert_array_equal(PROFILE(sigma), [0, 0, 1.7, 1.7, 0, 0, 0.6, 0.6, 0, 0, 0])
    assert PROFILE(0.3).shape == ()
    assert gb.Windows([(0.5, math.inf, 2.0)])(1e300) == 2.0
    assert gb.Windows([])(1.0) == 0.0


def test_a_step_down_has_the_eta_of_the_window_below_it():
    sigma = np.array([0.0, 0.1, 0.15, 0.3, 0.5, 0.5 * (1 + 1e-12), 0.6, 0.9, 0.9 * (1 + 1e-12), 1.3, 1.4])
    np.testing.assert_array_equal(eta_below(PROFILE, sigma), [0, 0, 0, 1.7, 1.7, 1.7, 0, 0, 0, 0.6, 0])
    assert eta_below(gb.Windows([(0.0, 1.0, 2.0)]), np.array([0.0, 1.0])).tolist() == [2.0, 2.0]
    assert eta_below(np.float64(0.3), sigma) == 0.3


def test_windows_are_sorted_and_equal_by_value():
    assert PROFILE.windows == ((0.15, 0.5, 1.7), (0.9, 1.3, 0.6))
    assert gb.Windows([(0.15, 0.5, 1.7), (0.9, 1.3, 0.6)]) == PROFILE
    assert gb.Windows(iter([(0, 1, 2)])) == gb.Windows([(0.0, 1.0, 2.0)])


def test_segments_cut_where_any_profile_jumps_and_carry_each_value():
    pieces = segments(PROFILE, np.float64(0.4), gb.Windows([(0.3, math.inf, 2.0)]))
    assert [piece[:2] for piece in pieces] == [
        *[(0.0, 0.15), (0.15, 0.3), (0.3, 0.5), (0.5, 0.9), (0.9, 1.3), (1.3, math.inf)]
    ]
    assert [tuple(float(v) for v in values) for _, _, values in pieces] == [
        *[(0, 0.4, 0), (1.7, 0.4, 0), (1.7, 0.4, 2), (0, 0.4, 2), (0.6, 0.4, 2), (0, 0.4, 2)]
    ]
    assert segments(np.float64(0.4)) == [(0.0, math.inf, (np.float64(0.4),))]


@pytest.mark.parametrize("eta", [np.float64(1.3), PROFILE], ids=str)
def test_squared_integral_and_mean_square_equal_quadrature(eta):
    low, high, v = 0.2, 1.1, 0.37

    def square(tau):
        return float(eta(math.sqrt(tau))) ** 2 if isinstance(eta, gb.Windows) else float(eta) ** 2

    jumps = [0.25, 0.81]
    decorrelation = quad(lambda tau: square(tau) / (v + tau), low**2, high**2, points=jumps, epsabs=1e-13)[0]
    assert squared_integral(eta, low, high, v) == pytest.approx(decorrelation, rel=1e-12)
    mean = quad(square, low**2, high**2, points=jumps, epsabs=1e-13)[0] / (high**2 - low**2)
    assert mean_square(eta, low, high) == pytest.approx(mean, rel=1e-12)


def test_integrals_broadcast_and_reach_infinite_sigma():
    low, high, v = np.array([0.1, 0.2]), np.array([[0.3], [math.inf]]), np.array([0.5, 0.0])
    total = squared_integral(PROFILE, low, high, v)
    assert total.shape == (2, 2)
    assert total[1, 0] == squared_integral(PROFILE, 0.1, math.inf, 0.5) == squared_integral(PROFILE, 0.1, 1e9, 0.5)
    assert np.isposinf(squared_integral(np.float64(1.0), 0.1, math.inf, 0.5))
    assert squared_integral(np.float64(0.0), 0.1, math.inf, 0.5) == 0
    means = mean_square(gb.Windows([(0.2, math.inf, 1.5)]), np.array([0.1, 0.1]), np.array([0.3, math.inf]))
    np.testing.assert_allclose(means, [1.5**2 * 0.05 / 0.08, 1.5**2])
    np.testing.assert_array_equal(mean_square(PROFILE, 0.1, math.inf), 0.0)


@settings(max_examples=100)
@given(profile=windows(), low=powers(-4, 6), ratio=powers(-3, 6), cut=st.floats(0.01, 0.99), v=powers(-12, 12))
def test_integrals_add_up_over_a_cut(profile, low, ratio, cut, v):
    high = low * (1 + ratio)
    middle = low + cut * (high - low)
    parts = squared_integral(profile, low, middle, v) + squared_integral(profile, middle, high, v)
    np.testing.assert_allclose(parts, squared_integral(profile, low, high, v), rtol=1e-9, atol=1e-300)


@settings(max_examples=300)
@given(
    v=st.one_of(st.just(0.0), powers(-200, 200)), low=st.one_of(st.just(0.0), powers(-150, 300)), ratio=powers(-9, 300)
)
def test_log_variance_ratio_has_full_relative_accuracy(v, low, ratio):
    high = min(low * (1 + ratio) if low else ratio, 1e307)
    value = float(log_variance_ratio(v, low, high))
    if v == 0 and low == 0:
        assert value == math.inf
        return
    with mp.workdps(1000):
        exact = mp.log1p((mp.mpf(high) ** 2 - mp.mpf(low) ** 2) / (mp.mpf(v) + mp.mpf(low) ** 2))
    if exact > 1e-290:
        # log v, log sigma and log of the differences are rounded: up to 700 each
        assert abs(value - exact) <= 1e-12 * exact * max(1.0, 1e-3 * abs(math.log(exact)))


def test_log_variance_ratio_of_an_empty_range_is_0_and_of_an_endless_one_infinite():
    assert log_variance_ratio(0.5, 2.0, 2.0) == 0
    assert log_variance_ratio(0.5, 2.0, 1.0) == 0
    assert log_variance_ratio(0.0, 0.0, 0.0) == 0
    assert log_variance_ratio(0.5, 2.0, math.inf) == math.inf


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ([(1.0, 0.5, 1.0)], ValueError, "0 <= sigma_low < sigma_high, got sigma_low=1, sigma_high=0.5"),
        ([(1.0, 1.0, 1.0)], ValueError, "0 <= sigma_low < sigma_high, got sigma_low=1, sigma_high=1"),
        ([(-1.0, 0.5, 1.0)], ValueError, "got sigma_low=-1"),
        ([(0.0, math.nan, 1.0)], ValueError, "sigma_high=nan"),
        ([(math.nan, 1.0, 1.0)], ValueError, "sigma_low=nan"),
        ([(0.0, 1.0, -0.5)], ValueError, r"eta must lie in \[0, 1e\+100\], got -0.5 in the window \(0, 1\)"),
        ([(0.0, 1.0, math.nan)], ValueError, "got nan in the window"),
        ([(0.0, 1.0, math.inf)], ValueError, "got inf in the window"),
        ([(0.0, 1.0, 1.0), (0.5, 2.0, 1.0)], ValueError, r"must not overlap, got \(0, 1\) and \(0.5, 2\); split them"),
        ([(0.0, 1.0)], TypeError, r"a window is a triple .* got \(0.0, 1.0\)"),
        ([(0.0, 1.0, "1")], TypeError, "a window is a triple"),
        ((0.0, 1.0, 1.0), TypeError, "a window is a triple .* got 0.0"),
        (1.0, TypeError, "windows must be a list of triples .* got 1.0"),
        ("abc", TypeError, "a window is a triple .* got 'a'"),
    ],
)
def test_bad_windows_are_refused_with_the_value_met(value, error, match):
    with pytest.raises(error, match=match):
        gb.Windows(value)


def test_a_profile_is_not_asked_for_its_value_at_nan():
    with pytest.raises(ValueError, match="sigma must not be NaN"):
        PROFILE([0.1, math.nan])
    with pytest.raises(TypeError, match="sigma must be a real number"):
        PROFILE("high")


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-0.5, ValueError, "stochasticity must be 0 or more, got -0.5"),
        ([0.5, math.nan], ValueError, r"stochasticity must be finite, got nan at index \(1,\)"),
        (math.inf, ValueError, "stochasticity must be finite, got inf"),
        (2e100, ValueError, r"stochasticity must lie in \[0, 1e\+100\], got 2e\+100"),
        ("high", TypeError, "stochasticity must be a real number or an array of them, got 'high'"),
        (1j, TypeError, "stochasticity must be a real number"),
    ],
)
def test_bad_eta_is_refused_by_name(value, error, match):
    with pytest.raises(error, match=match):
        checked(value, "stochasticity")


def test_good_eta_passes_as_an_array_or_as_the_profile_itself():
    assert checked(PROFILE) is PROFILE
    assert checked(1).dtype == np.float64
    assert checked([0.0, 1e100]).shape == (2,)
