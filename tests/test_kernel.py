"""One-step kernels: textbook forms in z and x, special cases, marginals of point targets, refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import etas, powers, windows

import gapbound as gb
from gapbound.kernel import SAMPLERS, check, step

SIGMA, NEXT = 1.234, 0.765
PAIRS = [(1.234, 0.765), (80.0, 3.1), (0.03, 0.0292), (5.0, 0.0)]


def score(z, sigma):
    """Nothing affine: two modes."""
    return -z / (0.3 + sigma**2) + np.tanh(z) / (1 + sigma)


def applied(kernel, z, xi, sigma, sigma_next):
    """z after a step by the formula in the head of ``gapbound.kernel``."""
    eps = -sigma * score(z, sigma)
    D = z - sigma * eps
    first = D + kernel.carry * eps + kernel.std * xi
    if kernel.again is None:
        return first
    return D + kernel.carry_2 * eps + kernel.again * -sigma_next * score(first, sigma_next) + kernel.std * xi


def textbook(sampler, z, xi, sigma, sigma_next, eta):
    """The same step as the papers write it."""
    h, c = sigma**2 - sigma_next**2, (1 + eta**2) / 2
    match sampler:
        case "ddim":
            # formulas (12) and (16) of DDIM in x, with s = sqrt(alpha_bar)
            a, b = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
            x, eps = math.sqrt(a) * z, -sigma * score(z, sigma)
            noise = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
            x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
            return (math.sqrt(b) * x0 + math.sqrt(1 - b - noise**2) * eps + noise * xi) / math.sqrt(b)
        case "gddim":
            eps, k = -sigma * score(z, sigma), (sigma_next / sigma) ** eta**2
            return z - sigma * eps + sigma_next * k * eps + sigma_next * math.sqrt(1 - k**2) * xi
        case "euler-maruyama":
            return z + c * h * score(z, sigma) + eta * math.sqrt(h) * xi
        case "heun":
            d = -sigma * score(z, sigma)
            guess = z + (sigma_next - sigma) * d
            d_next = -sigma_next * score(guess, sigma_next)
            return z + (sigma_next - sigma) * (d + d_next) / 2
        case "stochastic-heun":
            guess = z + c * h * score(z, sigma) + eta * math.sqrt(h) * xi
            return z + c * h / 2 * (score(z, sigma) + score(guess, sigma_next)) + eta * math.sqrt(h) * xi
    raise NotImplementedError(sampler)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.05])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "exact"])
def test_every_kernel_is_its_textbook_step_on_a_nonlinear_score(sampler, eta):
    if sampler == "heun" and eta:
        pytest.skip("integrates the ODE")
    z, xi = np.array([-1.7, 0.3, 2.2]), np.array([0.4, -1.1, 0.8])
    for sigma, sigma_next in [(1.234, 0.965), (0.5, 0.3)]:
        kernel = step(sampler, sigma, sigma_next, np.float64(eta))
        expected = textbook(sampler, z, xi, sigma, sigma_next, eta)
        np.testing.assert_allclose(applied(kernel, z, xi, sigma, sigma_next), expected, rtol=1e-13)


@pytest.mark.parametrize(("sigma", "sigma_next"), PAIRS)
def test_gddim_equals_ddim_at_eta_0_and_at_eta_1(sigma, sigma_next):
    for eta in (np.float64(0.0), np.float64(1.0)):
        one, other = (step(name, sigma, sigma_next, eta) for name in ("gddim", "ddim"))
        np.testing.assert_allclose(one.carry, other.carry, rtol=1e-14, atol=0)
        np.testing.assert_allclose(one.std, other.std, rtol=1e-14 * sigma / (sigma - sigma_next), atol=0)
    plain = step("gddim", sigma, sigma_next, np.float64(0.0))
    assert (plain.carry, plain.std) == (sigma_next, 0)
    between = [step(name, SIGMA, NEXT, np.float64(0.6)) for name in ("gddim", "ddim")]
    assert abs(between[0].std - between[1].std) > 1e-3


@pytest.mark.parametrize("eta", [0.3, 1.0, 1.9])
def test_gddim_in_x_is_the_alpha_bar_form(eta):
    a, b = 0.3, 0.55
    sigma, sigma_next = math.sqrt((1 - a) / a), math.sqrt((1 - b) / b)
    kernel = step("gddim", sigma, sigma_next, np.float64(eta))
    variance = (1 - b) * (1 - ((1 - b) / (1 - a)) ** eta**2 * (a / b) ** eta**2)
    assert b * kernel.std**2 == pytest.approx(variance, rel=1e-13)
    assert math.sqrt(b) * kernel.carry == pytest.approx(math.sqrt(1 - b - variance), rel=1e-13)


@pytest.mark.parametrize("eta", [0.3, 1.0, 1.9])
def test_gddim_in_x_is_the_flow_form(eta):
    t, t_next = 0.6, 0.45
    sigma, sigma_next = t / (1 - t), t_next / (1 - t_next)
    kernel, k = step("gddim", sigma, sigma_next, np.float64(eta)), (sigma_next / sigma) ** eta**2
    assert (1 - t_next) * kernel.carry == pytest.approx(t_next * k, rel=1e-13)
    assert (1 - t_next) * kernel.std == pytest.approx(t_next * math.sqrt(1 - k**2), rel=1e-13)


@pytest.mark.parametrize("sampler", ["ddim", "gddim"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
def test_ddim_and_gddim_preserve_the_marginals_of_a_point_at_any_step(sampler, eta):
    # at a point D = x_0 and eps = (z - x_0) / sigma has variance 1: carry^2 + std^2 must be sigma'^2
    for sigma, sigma_next in [(1.0, 0.9), (0.03, 0.0292), (5.0, 0.0)] + [(50.0, 0.1)] * (
        sampler == "gddim" or eta <= 1
    ):
        kernel = step(sampler, sigma, sigma_next, np.float64(eta))
        assert kernel.carry**2 + kernel.std**2 == pytest.approx(sigma_next**2, rel=1e-13)


def test_euler_maruyama_does_not_preserve_the_marginals_of_a_point():
    for eta in (0.0, 1.0, 1.5):
        kernel = step("euler-maruyama", 1.0, 0.7, np.float64(eta))
        assert abs(kernel.carry**2 + kernel.std**2 - 0.49) > 0.02


def test_large_eta_renoises_completely():
    for eta in (30.0, 1e100):
        kernel = step("gddim", SIGMA, NEXT, np.float64(eta))
        np.testing.assert_allclose([kernel.carry, kernel.std], [0.0, NEXT], atol=1e-15)
        exact = step("exact", SIGMA, NEXT, np.float64(eta), np.float64(0.3))
        np.testing.assert_allclose(exact.std, math.sqrt(NEXT**2 + 0.3), rtol=1e-15)


@settings(max_examples=100)
@given(v=powers(-6, 6), sigma=powers(-3, 6), ratio=st.floats(0, 0.999), eta=etas(5.0))
def test_exact_kernel_is_the_transition_of_the_theory(v, sigma, ratio, eta):
    sigma_next = ratio * sigma
    kernel = step("exact", sigma, sigma_next, np.float64(eta), np.float64(v))
    v_s, v_t = v + sigma_next**2, v + sigma**2
    R = (v_s / v_t) ** (eta**2 / 2)
    # z' - m = A (z - m): A = 1 - sigma (sigma - carry) / v_t = (v + sigma carry) / v_t
    A = (v + sigma * kernel.carry) / v_t
    np.testing.assert_allclose(A, math.sqrt(v_s / v_t) * R, rtol=1e-12, atol=1e-15)
    assert kernel.std**2 == pytest.approx(v_s * (1 - R**2), rel=1e-9, abs=1e-14 * v_s)


def test_exact_kernel_at_variance_0_is_gddim():
    for eta, (sigma, sigma_next) in itertools.product([0.0, 0.7, 1.0, 2.0], PAIRS):
        exact, gddim = (step(name, sigma, sigma_next, np.float64(eta), np.float64(0.0)) for name in ("exact", "gddim"))
        assert (exact.carry, exact.std) == (gddim.carry, gddim.std)


@pytest.mark.parametrize("sampler", ["ddim", "gddim", "exact"])
def test_from_infinite_noise_the_state_is_the_noise_itself(sampler):
    for eta in (0.0, 0.5, 1.0):
        kernel = step(sampler, math.inf, 2.0, np.float64(eta), np.float64(0.3))
        far = step(sampler, 1e50, 2.0, np.float64(eta), np.float64(0.3))
        assert np.isfinite([kernel.carry, kernel.std]).all()
        np.testing.assert_allclose([kernel.carry, kernel.std], [far.carry, far.std], rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "heun"])
def test_a_window_over_the_whole_step_is_its_eta(sampler):
    for window in [gb.Windows([(0.0, math.inf, 0.9)]), gb.Windows([(0.5, 2.0, 0.9)])]:
        one, other = (step(sampler, SIGMA, NEXT, eta, np.float64(0.3)) for eta in (window, np.float64(0.9)))
        np.testing.assert_allclose([one.carry, one.std], [other.carry, other.std], rtol=1e-13)
    away = step(sampler, SIGMA, NEXT, gb.Windows([(0.1, 0.5, 0.9)]), np.float64(0.3))
    assert away.std == 0


@pytest.mark.parametrize("sampler", ["gddim", "exact"])
def test_a_window_over_part_of_a_step_decorrelates_by_its_own_factor(sampler):
    v, low, high, eta = (0.3 if sampler == "exact" else 0.0), 0.9, 1.1, 1.4
    kernel = step(sampler, SIGMA, NEXT, gb.Windows([(low, high, eta)]), np.float64(0.3))
    R2 = ((v + low**2) / (v + high**2)) ** eta**2
    assert kernel.std**2 == pytest.approx((v + NEXT**2) * (1 - R2), rel=1e-13)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_broadcast_over_levels_and_etas_a_last_step_among_them(sampler):
    sigma, sigma_next = np.array([1.0, 2.0, 5.0]), np.array([0.9, 1.8, 0.0])
    eta = np.zeros((2, 1)) if sampler == "heun" else np.array([[0.3], [1.0]])
    kernel, v, z, xi = step(sampler, sigma, sigma_next, eta, np.float64(0.3)), np.float64(0.3), 0.7, -1.1
    moved = applied(kernel, z, xi, sigma, sigma_next)
    for i, j in np.ndindex(2, 3):
        single = step(sampler, sigma[j], sigma_next[j], eta[i, 0], v)
        assert moved[i, j] == pytest.approx(applied(single, z, xi, sigma[j], sigma_next[j]), rel=1e-13)


@settings(max_examples=200)
@given(
    sampler=st.sampled_from(list(SAMPLERS)),
    sigma=st.one_of(powers(-12, 40), st.just(math.inf)),
    ratio=st.one_of(st.just(0.0), st.floats(1e-9, 1, exclude_max=True)),
    eta=st.one_of(etas().map(np.float64), windows(), st.just(np.float64(1e50))),
    v=powers(-12, 12),
)
def test_coefficients_are_finite_or_refused(sampler, sigma, ratio, eta, v):
    sigma_next = min(ratio * sigma, 1e30)
    if not sigma_next < sigma or math.isnan(sigma_next):
        return
    try:
        kernel = step(sampler, sigma, sigma_next, eta, np.float64(v))
    except ValueError:
        assert sampler in ("ddim", "heun") or math.isinf(sigma)
        return
    values = [value for value in (kernel.carry, kernel.std, kernel.carry_2, kernel.again) if value is not None]
    assert all(np.isfinite(value).all() for value in values)
    assert kernel.std >= 0


def test_ddim_says_the_largest_eta_and_names_gddim():
    limit = 1 / math.sqrt(1 - (NEXT / SIGMA) ** 2)
    step("ddim", SIGMA, NEXT, np.float64(limit))
    step("ddim", SIGMA, 0.0, np.float64(50.0))  # the last step adds no noise
    match = rf"DDIM admits eta up to {limit:.4g} on this grid, got eta=1.3; use sampler='gddim'.* or smaller steps"
    with pytest.raises(ValueError, match=match):
        step("ddim", SIGMA, NEXT, np.float64(1.3))
    with pytest.raises(ValueError, match=r"DDIM admits eta up to 1 on this grid, got eta=1\.2"):
        step("ddim", math.inf, NEXT, np.float64(1.2))


@pytest.mark.parametrize(
    ("steps", "largest"), [(10, "1.007"), (20, "1.017"), (50, "1.046"), (100, "1.092"), (250, "1.221"), (500, "1.41")]
)
def test_ddim_on_stable_diffusion_admits_the_eta_of_the_theory(steps, largest):
    process = gb.VP.stable_diffusion(steps)
    for eta in (1.5, 1.42):
        with pytest.raises(
            ValueError, match=f"DDIM admits eta up to {largest} on this grid, got eta={eta}; use .*gddim"
        ):
            gb.discrete_law(gb.Gaussian(0.0, 1.0), process, "ddim", eta, steps, grid="leading")
    gb.discrete_law(gb.Gaussian(0.0, 1.0), process, "ddim", float(largest) - 1e-3, steps, grid="leading")
    gb.discrete_law(gb.Gaussian(0.0, 1.0), process, "gddim", 1.5, steps, grid="leading")


def test_heun_and_euler_say_what_they_cannot_do():
    with pytest.raises(ValueError, match=r"heun integrates the ODE, got eta=0\.5; use eta=0 or 'stochastic-heun'"):
        step("heun", SIGMA, NEXT, np.float64(0.5))
    for sampler in ("euler-maruyama", "heun", "stochastic-heun"):
        with pytest.raises(
            ValueError, match="cannot step from sigma=inf; start flow matching at t_max < 1, or use sampler"
        ):
            step(sampler, math.inf, NEXT, np.float64(0.0))


@pytest.mark.parametrize(
    "call",
    [lambda name: step(name, 1.0, 0.5, np.float64(1.0)), lambda name: check(name, np.ones(2), np.float64(1.0), None)],
)
def test_unknown_samplers_are_refused_with_the_known_names(call):
    with pytest.raises(ValueError, match="unknown sampler 'euler'; known: ddim, gddim, exact, euler-maruyama, heun"):
        call("euler")
    with pytest.raises(TypeError, match="sampler must be one of the names"):
        call(3)


def test_exact_needs_the_variance_of_a_gaussian():
    with pytest.raises(ValueError, match="sampler 'exact' needs the variances of a Gaussian target; use 'gddim'"):
        check("exact", np.array([1.0, 0.5]), np.float64(1.0), None)


def test_check_refuses_before_the_widest_step_is_reached():
    sigmas = np.array([1.0, 0.999, 0.5])
    with pytest.raises(ValueError, match=r"DDIM admits eta up to 1\.155 on this grid, got eta=1.3"):
        check("ddim", sigmas, np.float64(1.3), None)
    check("ddim", sigmas, gb.Windows([(0.999, 1.0, 1.3)]), None)
