"""Windows that move over the noise range: closed forms for linear rewards against quadrature and known numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

import gapbound as gb
from tests.strategies import powers, processes

SD = gb.VP.stable_diffusion()
STACK = st.lists(st.tuples(st.floats(0.0, 0.9), st.floats(0.02, 1.0), st.floats(0.05, 3.0)), min_size=1, max_size=5)


def by_quadrature(v, sigma_T, windows, factors, eta):
    """The shift by integrating the last visit's control level by level in x = log(v + tau)."""

    def integral(profile, tau):
        """Of eta^2 dtau / (v + tau) from 0."""
        total = 0.0
        for low, high, value in profile.windows:
            bottom, top = min(low**2, tau), min(high**2, tau)
            total += value**2 * np.log((v + top) / (v + bottom))
        return total

    def control(x):
        tau = v * np.exp(x) - v
        for own, factor in list(zip(windows, factors, strict=True))[::-1]:
            a = float(own(np.sqrt(tau))) ** 2
            if a > 0:
                share = a / (1 + a) / factor * np.exp(-integral(own, tau) / 2)
                return share * (1 + eta**2) * np.exp(-(eta**2) * x / 2)
        return 0.0

    end = np.log1p(sigma_T**2 / v)
    edges = {np.log1p(edge**2 / v) for own in windows for low, high, _ in own.windows for edge in (low, high)}
    cuts = [0.0, *sorted(edge for edge in edges if 0 < edge < end), end]
    return sum(quad(control, low, high, epsrel=1e-11)[0] for low, high in itertools.pairwise(cuts))


def test_known_numbers_of_stable_diffusion():
    """SD 1.5, S = .5, eta 1: .95, 1.56, 2.12, 2.38, and 3.03 for infinitely many windows (theory 10.2)."""
    shifts = [float(gb.moving_shift(0.5, SD, gb.equal_windows(0.5, SD, n))) for n in (1, 2, 4, 6, 4000)]
    np.testing.assert_allclose(shifts, [0.95, 1.56, 2.12, 2.38, 3.03], atol=0.005)


@settings(max_examples=60, deadline=None)
@given(STACK, st.floats(0.1, 5.0), st.floats(0.3, 30.0), st.floats(0.0, 2.0), st.data())
def test_the_shift_is_the_integral_of_the_last_visits_control(stack, v, sigma_T, eta, data):
    """Windows of any place and order, overlapping or not, and any final sampler."""
    windows = [gb.Windows([(low * sigma_T, (low + width * (1 - low)) * sigma_T, e)]) for low, width, e in stack]
    factors = data.draw(st.lists(st.floats(0.3, 3.0), min_size=len(windows), max_size=len(windows)))
    found = float(gb.moving_shift(v, gb.VE(sigma_T), windows, factors, eta))
    assert found == pytest.approx(by_quadrature(v, sigma_T, windows, factors, eta), rel=1e-8)


def test_a_visit_of_several_windows_is_felt_through_those_below():
    """Profiles with two windows, one of them overwritten in part by a later visit."""
    windows = [gb.Windows([(0.2, 1.0, 0.8), (2.0, 4.0, 1.4)]), gb.Windows([(0.5, 2.5, 1.1)])]
    found = float(gb.moving_shift(0.7, gb.VE(6.0), windows, eta=0.6))
    assert found == pytest.approx(by_quadrature(0.7, 6.0, windows, (1.0, 1.0), 0.6), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(powers(-2, 2), processes(-2, 6), st.floats(0.05, 5.0), st.integers(1, 40))
def test_equal_windows_follow_the_closed_form(v, process, eta, n):
    """(2/(1 + a)) n (1 - rho^(a/2n)): rises with n, to (a/(1 + a)) log(1/rho) at most."""
    length = np.log1p(float(process.sigma_T) ** 2 / v)
    a = eta**2
    found, more = (float(gb.moving_shift(v, process, gb.equal_windows(v, process, k, eta))) for k in (n, 2 * n))
    assert found == pytest.approx(2 / (1 + a) * n * -np.expm1(-a * length / (2 * n)), rel=1e-9)
    assert found <= more * (1 + 1e-12)
    assert more <= a / (1 + a) * length * (1 + 1e-9)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.7])
def test_one_window_is_the_fixed_window(eta):
    """Its own sampler misses rho^a of the shift, and the ODE moves 2 (1 - rho^(a/2))/(1 + a) (theory 3.2)."""
    process, v = gb.VE(3.0), 0.8
    rho, everywhere = v / (v + 9.0), gb.equal_windows(v, process, 1, eta)
    assert float(gb.moving_shift(v, process, everywhere, eta=eta)) == pytest.approx(1 - rho ** (eta**2), rel=1e-12)
    ode = 2 * (1 - rho ** (eta**2 / 2)) / (1 + eta**2)
    assert float(gb.moving_shift(v, process, everywhere)) == pytest.approx(ode, rel=1e-12)
    inner = gb.Windows([(0.5, 2.0, eta)])
    missed = ((v + 0.25) / (v + 4.0)) ** (eta**2)
    assert float(gb.moving_shift(v, process, [inner], eta=inner)) == pytest.approx(1 - missed, rel=1e-12)


def test_borders_of_the_noise_range_and_of_eta():
    v = 0.5
    short = gb.VE(1e-6)  # rho -> 1: nothing to learn from
    assert float(gb.moving_shift(v, short, gb.equal_windows(v, short, 3))) == pytest.approx(0.5e-12 / v, rel=1e-6)
    endless = gb.FlowMatching(1.0)  # rho = 0: one window reaches 2/(1 + a), its own sampler the target
    whole = [gb.Windows([(0.0, np.inf, 1.3)])]
    assert float(gb.moving_shift(v, endless, whole)) == pytest.approx(2 / (1 + 1.69), rel=1e-14)
    assert float(gb.moving_shift(v, endless, whole, eta=1.3)) == pytest.approx(1.0, rel=1e-14)
    for eta, said in ((1e-6, 1e-12 * np.log1p(4 / v)), (1e60, 0.0)):
        found = float(gb.moving_shift(v, gb.VE(2.0), gb.equal_windows(v, gb.VE(2.0), 4, eta)))
        assert found == pytest.approx(said, rel=1e-6, abs=1e-100)
    far = gb.VE(1e9)
    assert np.isfinite(gb.moving_shift(v, far, gb.equal_windows(v, far, 50))).all()


def test_order_matters_only_where_windows_overlap():
    sigmas = gb.grid(gb.VE(6.0), 24)
    apart, lapped = gb.sliding_windows(sigmas, 4, 4), gb.sliding_windows(sigmas, 4, 1)
    for windows, same in ((apart, True), (lapped, False)):
        down, up = (float(gb.moving_shift(0.8, gb.VE(6.0), order)) for order in (windows, windows[::-1]))
        assert (abs(down - up) < 1e-12) is same
    assert up > 1.2 * down  # from the data upwards each level was last trained at the foot of its window


def test_sliding_windows_cover_the_grid_and_end_at_its_end():
    sigmas = gb.grid(gb.FlowMatching(1.0), 10)
    assert [own.windows[0][:2] for own in gb.sliding_windows(sigmas, 4, 3)] == [
        (sigmas[k + 4], sigmas[k], ) for k in (0, 3, 6)
    ]  # fmt: skip
    starts = [own.windows[0][1] for own in gb.sliding_windows(sigmas, 4, 4)]
    assert starts == [sigmas[0], sigmas[4], sigmas[6]]  # the last move is shorter
    assert len(gb.sliding_windows(sigmas, 10)) == 1


@settings(max_examples=40, deadline=None)
@given(powers(-1, 1), st.floats(0.5, 50.0), st.floats(0.2, 2.5), st.integers(1, 12))
def test_the_schedule_of_beta_cancels_the_tilt(v, sigma_T, eta, n):
    """One factor makes the shift that of the tilted target; factors of each window that of the target's own score."""
    process = gb.VE(sigma_T)
    windows = gb.equal_windows(v, process, n, eta)
    common, own = gb.beta_schedule(v, process, windows), gb.beta_schedule(v, process, windows, per_window=True)
    assert np.ptp(common) == 0
    assert float(gb.moving_shift(v, process, windows, common)) == pytest.approx(1, rel=1e-12)
    kept = np.sqrt(v / (v + sigma_T**2))
    assert float(gb.moving_shift(v, process, windows, own)) == pytest.approx(1 - kept, rel=1e-9)


def test_the_schedule_of_thin_windows_tends_to_its_limit():
    """f -> (2 a/(1 + a)) (1 + tau/S)^(1/2), at the middle of each window."""
    process, v, eta, n = gb.VE(5.0), 0.6, 0.7, 400
    windows = gb.equal_windows(v, process, n, eta)
    factors = gb.beta_schedule(v, process, windows, per_window=True)
    length = np.log1p(25 / v)
    middle = (np.arange(n)[::-1] + 0.5) * length / n
    np.testing.assert_allclose(factors, 2 * eta**2 / (1 + eta**2) * np.exp(middle / 2), rtol=0.003)


def test_an_overwritten_window_has_the_factor_1():
    process = gb.VE(4.0)
    windows = [gb.Windows([(1.0, 2.0, 1.0)]), gb.Windows([(0.0, 4.0, 0.7)])]
    assert gb.beta_schedule(0.5, process, windows, per_window=True)[0] == 1
    with pytest.raises(ValueError, match="infinite noise range"):
        gb.equal_windows(0.5, gb.FlowMatching(1.0), 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gb.equal_windows(0.0, SD, 3), ValueError, "variance must be positive"),
        (lambda: gb.equal_windows(0.5, SD, 0), ValueError, "windows must be at least 1"),
        (lambda: gb.equal_windows(0.5, SD, True), TypeError, "whole number"),
        (lambda: gb.equal_windows(1e-12, gb.VE(1e-12), 10**6, -1.0), ValueError, "eta must lie"),
        (lambda: gb.sliding_windows([1.0, 2.0], 1), ValueError, "fall to 0 or more"),
        (lambda: gb.sliding_windows([2.0, 1.0, 0.0], 3), ValueError, "width of at most"),
        (lambda: gb.sliding_windows([2.0, 1.0, 0.0], 1, 2), ValueError, "stride of at most"),
        (lambda: gb.moving_shift(0.5, SD, []), ValueError, "at least one"),
        (lambda: gb.moving_shift(0.5, SD, gb.Windows([(0.1, 1.0, 1.0)])), TypeError, "a list of Windows"),
        (lambda: gb.moving_shift(0.5, SD, [(0.1, 1.0, 1.0)]), TypeError, "Windows alone"),
        (lambda: gb.moving_shift(0.5, SD, [gb.Windows([(20.0, 30.0, 1.0)])]), ValueError, "noise below sigma_T"),
        (lambda: gb.moving_shift(0.5, SD, [gb.Windows([(1.0, 3.0, 0.0)])]), ValueError, "noise below sigma_T"),
        (lambda: gb.moving_shift(-0.5, SD, gb.equal_windows(0.5, SD, 2)), ValueError, "variance must be positive"),
        (lambda: gb.moving_shift(0.5, SD, gb.equal_windows(0.5, SD, 2), [1.0]), ValueError, "one per window"),
        (lambda: gb.moving_shift(0.5, SD, gb.equal_windows(0.5, SD, 2), 0.0), ValueError, "factors must be positive"),
        (lambda: gb.moving_shift(0.5, SD, gb.equal_windows(0.5, SD, 2), 1.0, [0.0, 1.0]), ValueError, "one number"),
        (lambda: gb.beta_schedule([0.5, 1.0], SD, gb.equal_windows(0.5, SD, 2)), ValueError, "variance"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
