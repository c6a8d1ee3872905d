"""Processes: one contract for all, the SDE behind each, accuracy at both ends, priors, bad input."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import powers

import gapbound as gb
from gapbound.process import checked_process

PROCESSES = [
    gb.VE(3.0),
    gb.VP(1.7),
    gb.VP(3.0, "constant"),
    gb.VP(0.8, "linear"),
    gb.VP(2.0, "cosine"),
    gb.VP.from_alphas_cumprod([0.9, 0.7, 0.4, 0.1]),
    gb.VP.stable_diffusion(50),
    gb.FlowMatching(0.9),
    gb.FlowMatching(),
]


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_noise_grows_from_0_and_signal_to_noise_falls(process):
    t = process.T * np.linspace(0, 1, 201)
    sigma = process.sigma(t)
    assert sigma[0] == 0
    assert (np.diff(sigma) > 0).all()
    assert (np.diff(process.snr(t)) < 0).all()
    assert process.snr(0.0) == math.inf
    assert process.sigma_T == sigma[-1]
    assert process.scale(0.0) == 1


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_alpha_bar_and_snr_are_functions_of_sigma(process):
    t = process.T * np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(process.alpha_bar(t), 1 / (1 + process.sigma(t) ** 2), rtol=1e-13)
    ratio = process.alpha_bar(t) / (1 - process.alpha_bar(t))
    np.testing.assert_allclose(process.snr(t), ratio, rtol=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_alpha_bar_is_the_squared_scale_for_vp_alone(process):
    t = process.T * np.linspace(0.1, 0.9, 9)
    if isinstance(process, gb.VP):
        np.testing.assert_allclose(process.alpha_bar(t), process.scale(t) ** 2, rtol=1e-14)
    else:
        assert (np.abs(process.alpha_bar(t) - process.scale(t) ** 2) > 1e-3).all()


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_prior_in_z_has_variance_sigma_T_squared_plus_the_excess(process):
    for dim in (1, 3):
        prior = process.prior(dim)
        assert prior.mean.shape == (dim,)
        assert (prior.mean == 0).all()
        with np.errstate(divide="ignore"):
            in_z = prior.cov / process.scale(process.T) ** 2
        np.testing.assert_allclose(in_z, process.prior_variance, rtol=1e-12)
        if np.isfinite(process.sigma_T):
            np.testing.assert_allclose(in_z - process.sigma_T**2, process.prior_excess, rtol=1e-6, atol=1e-12)


def test_excess_of_each_family_is_that_of_the_theory():
    assert gb.VE(3.0).prior_excess == 0
    assert gb.VP(3.0).prior_excess == 1
    flow = gb.FlowMatching(0.75)  # sigma_T = 3, (1 + 3)^2 = 9 + 7
    assert flow.prior_excess == 7


def test_ve_and_flow_matching_are_their_formulas():
    t = np.linspace(0, 0.9, 10)
    np.testing.assert_array_equal(gb.VE(1.0).sigma(t), t)
    np.testing.assert_array_equal(gb.VE(1.0).scale(t), 1.0)
    flow = gb.FlowMatching()
    np.testing.assert_array_equal(flow.scale(t), 1 - t)
    np.testing.assert_allclose(flow.scale(t) * flow.sigma(t), t, rtol=1e-15)  # x_t = (1 - t) x_0 + t eps
    np.testing.assert_allclose(flow.alpha_bar(t), (1 - t) ** 2 / ((1 - t) ** 2 + t**2), rtol=1e-14)
    assert flow.sigma_T == math.inf
    assert flow.alpha_bar(1.0) == 0
    assert flow.T is flow.t_max


@pytest.mark.parametrize(
    ("process", "log_alpha_bar"),
    [(gb.VP(1.7), -(1.7**2)), (gb.VP(3.0, "constant"), -3.0), (gb.VP(0.8, "linear"), -10.05 * 0.8)],
    ids=str,
)
def test_alpha_bar_at_T_is_that_of_the_theory(process, log_alpha_bar):
    assert process.alpha_bar(process.T) == pytest.approx(math.exp(log_alpha_bar), rel=1e-13)


@pytest.mark.parametrize("process", PROCESSES[1:5], ids=str)
def test_vp_keeps_unit_variance(process):
    t = process.T * np.linspace(0, 1, 50)
    np.testing.assert_allclose(process.scale(t) ** 2 * (1 + process.sigma(t) ** 2), 1.0, rtol=1e-13)


@given(B=st.one_of(powers(-300, 2), st.floats(1, 1400)))
def test_vp_sigma_is_accurate_at_small_and_at_large_times(B):
    process = gb.VP(B, "constant")
    with mp.workdps(700):
        exact = mp.sqrt(mp.expm1(mp.mpf(B)))
        assert abs(mp.mpf(float(process.sigma_T)) - exact) <= 1e-13 * max(1, B / 100) * exact


@pytest.mark.parametrize(
    "make", [gb.VE, gb.VP, lambda T: gb.VP(T, "linear"), gb.FlowMatching], ids=["VE", "2t", "linear", "flow"]
)
def test_arrays_of_T_broadcast(make):
    T = np.array([[0.3], [0.6]])
    process = make(T)
    for method in ("sigma_T", "prior_excess", "prior_variance"):
        values = getattr(process, method)
        assert values.shape == (2, 1)
        np.testing.assert_allclose(values[1, 0], getattr(make(0.6), method), rtol=1e-15)
    assert process.prior(3).mean.shape == (2, 1, 3)
    assert process.sigma(np.array([0.0, 0.1, 0.2])).shape in ((3,), (2, 3))


def test_processes_with_array_T_and_schedules_stay_themselves():
    assert gb.VP([1.0, 2.0]).sigma_T.shape == (2,)
    assert checked_process(PROCESSES[0]) is PROCESSES[0]


@pytest.mark.parametrize("process", [gb.VE(1e200), gb.VP(37.0), gb.VP(50.0)], ids=str)
def test_overflow_gives_infinity_or_0_and_never_nan(process):
    assert process.alpha_bar(process.T) < 1e-300
    assert process.prior_variance == math.inf
    assert process.snr(process.T) >= 0
    assert np.isfinite(process.sigma(process.T / 2))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: gb.VE(0.0), ValueError, "T must be positive, got 0.0"),
        (lambda: gb.VE([1.0, -2.0]), ValueError, r"T must be positive, got -2.0 at index \(1,\)"),
        (lambda: gb.VE(math.inf), ValueError, "T must be finite, got inf"),
        (lambda: gb.VE("long"), TypeError, "T must be a real number or an array of them, got 'long'"),
        (lambda: gb.VP(-1.0), ValueError, "T must be positive, got -1.0"),
        (lambda: gb.VP(math.nan), ValueError, "T must be finite, got nan"),
        (lambda: gb.VP(1.0, "quadratic"), ValueError, "unknown beta 'quadratic'; known: 2t, constant, linear, cosine"),
        (lambda: gb.VP(1.0, 2.0), TypeError, "beta must be one of the names"),
        (lambda: gb.VP.from_alphas_cumprod([0.9, 0.5], T=3), ValueError, r"T must lie in \[0, 2\], got 3.0"),
        (lambda: gb.VP.from_diffusers({}, 10, "karras"), ValueError, "unknown spacing 'karras'"),
        (lambda: gb.VP.stable_diffusion(1001), ValueError, "at most the schedule's 1000 training steps, got 1001"),
        (lambda: gb.FlowMatching(1.5), ValueError, r"t_max must lie in \[0, 1\], got 1.5"),
        (lambda: gb.FlowMatching(0.0), ValueError, "t_max must be positive, got 0.0"),
        (lambda: gb.VE(2.0).sigma(2.5), ValueError, r"t must lie in \[0, 2\], got 2.5"),
        (lambda: gb.VP(2.0).scale(-0.1), ValueError, r"t must lie in \[0, 2\], got -0.1"),
        (lambda: gb.FlowMatching(0.5).snr(math.nan), ValueError, "t must be finite, got nan"),
        (lambda: gb.VP(2.0).alpha_bar("late"), TypeError, "t must be a real number"),
        (lambda: gb.VE(2.0).prior(0), ValueError, "dim must be at least 1, got 0"),
        (lambda: gb.VP(2.0).prior(1.5), TypeError, "dim must be a whole number, got 1.5"),
        (lambda: gb.VE(1e200).prior(), ValueError, "cov must be finite, got inf"),
        (lambda: checked_process(gb.VP), TypeError, "process must be an instance of VE, VP or FlowMatching, got <"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_met(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_an_unknown_spacing_is_refused_where_the_whole_schedule_is_meant_too():
    with pytest.raises(ValueError, match="unknown spacing 'nonsense'; known: leading, trailing, linspace"):
        gb.VP.stable_diffusion(None, "nonsense")
