"""One-step kernels: textbook forms in z and x, special cases, marginals of point targets, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import etas, powers, windows

import gapbound as gb
from gapbound.chain import affine_steps
from gapbound.kernel import SAMPLERS, check, sampler_table, step

SIGMA, NEXT = 1.234, 0.765
PAIRS = [(1.234, 0.765), (80.0, 3.1), (0.03, 0.0292), (5.0, 0.0)]


def score(z, sigma):
    """Nothing affine: two modes."""
    return -z / (0.3 + sigma**2) + np.tanh(z) / (1 + sigma)


def applied(kernel, z, xi, sigma, sigma_next):
    """z after a step by the formula in the head of ``gapbound.kernel``."""
    if kernel.raised is not None:
        z, xi, sigma = z + kernel.std * xi, 0.0, kernel.raised
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
        case "edm":
            # Algorithm 2 of EDM with S_noise = 1, its gamma from ours
            gamma = math.sqrt(1 + eta**2 * (1 - (sigma_next / sigma) ** 2)) - 1
            raised = sigma + gamma * sigma
            z = z + math.sqrt(raised**2 - sigma**2) * xi
            d = (z - (z + raised**2 * score(z, raised))) / raised
            guess = z + (sigma_next - raised) * d
            d_next = (guess - (guess + sigma_next**2 * score(guess, sigma_next))) / sigma_next
            return z + (sigma_next - raised) * (d + d_next) / 2
        case "flow-grpo" | "dance-grpo" | "cps":
            return flow_textbook(sampler, z, xi, sigma, sigma_next, eta)
    raise NotImplementedError(sampler)


def flow_textbook(sampler, z, xi, sigma, sigma_next, eta):
    """Steps that are published in flow matching's x = (1 - t) z with its velocity u = E[noise - data | x]."""
    t, t_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
    x, dt = (1 - t) * z, t_next - t
    u = -sigma * score(z, sigma) - (z + sigma**2 * score(z, sigma))
    if sampler == "cps":
        data, noise = x - t * u, x + (1 - t) * u
        std = t_next * math.sin(eta * math.pi / 2)
        return ((1 - t_next) * data + math.sqrt(t_next**2 - std**2) * noise + std * xi) / (1 - t_next)
    level = math.sqrt(2) * eta * math.sqrt(t / (1 - t)) if sampler == "flow-grpo" else eta
    drift = u + level**2 / (2 * t) * (x + (1 - t) * u)
    return (x + drift * dt + level * math.sqrt(-dt) * xi) / (1 - t_next)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.05])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "exact"])
def test_every_kernel_is_its_textbook_step_on_a_nonlinear_score(sampler, eta):
    if (sampler == "heun" and eta) or (sampler == "cps" and eta > 1):
        pytest.skip("does not admit this eta")
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


@pytest.mark.parametrize("sampler", ["ddim", "gddim", "exact", "dance-grpo", "cps"])
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
        assert sampler in ("ddim", "heun", "cps") or math.isinf(sigma)
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
    for sampler in ("euler-maruyama", "heun", "stochastic-heun", "edm"):
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


POINT, SPREAD = gb.Gaussian(1.3, 1e-18), gb.Gaussian(0.7, 0.5)
STEPS = [512, 1024, 2048]


def marginal_errors(target, sampler, eta, steps):
    """Largest error of mean and variance among the levels of a chain that starts at its marginal, in q's variance."""
    sigmas = gb.grid(gb.VE(3.0), steps, t_min=0.2)
    m, v = float(target.mean[0]), float(target.cov[0])
    mean, var, worst = m, v + sigmas[0] ** 2, 0.0
    chain = affine_steps(target, sampler, sigmas, np.asarray(eta))
    for one, sigma in zip(chain, sigmas[1:], strict=True):
        mean, var = float(one.A[0] * mean + one.b[0]), float(one.A[0] ** 2 * var + one.S[0] ** 2)
        worst = max(worst, abs(mean - m), abs(var / (v + sigma**2) - 1))
    return worst


def order(errors):
    """Slope of log error between the two finest of ``STEPS``, extrapolated from the slope before it."""
    slopes = -np.diff(np.log(errors)) / math.log(2)
    return 2 * slopes[1] - slopes[0]


@pytest.mark.parametrize("eta", [0.5, 0.9])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_marginals_are_kept_exactly_or_at_the_order_that_the_table_says(sampler, eta):
    value, kind = 0.0 if sampler == "heun" else eta, SAMPLERS[sampler]
    if kind.keeps_points:
        assert max(marginal_errors(POINT, sampler, value, n) for n in (1, 3, 10)) < 1e-12
    else:
        assert marginal_errors(POINT, sampler, value, 10) > 1e-3
        assert order([marginal_errors(POINT, sampler, value, n) for n in STEPS]) == pytest.approx(
            kind.orders[2], abs=0.05
        )
    errors = [marginal_errors(SPREAD, sampler, value, n) for n in STEPS]
    if math.isinf(kind.orders[2]):
        assert max(errors) < 1e-12
    else:
        assert order(errors) == pytest.approx(kind.orders[2], abs=0.05)
        assert errors[-1] > 1e-9


def dance_limit(e, v, process, t_min):
    """Mean and variance at t_min of continuous time with eta^2 = e^2 / (2 sigma), from N(0.7, v)'s exact score."""
    high, low = float(process.sigma_T), float(process.sigma(t_min))
    forgotten = e**2 * (math.atan(high / math.sqrt(v)) - math.atan(low / math.sqrt(v))) / math.sqrt(v)
    phi = math.sqrt((v + low**2) / (v + high**2)) * math.exp(-forgotten / 2)
    return 0.7 * (1 - phi), v + low**2 + (float(process.prior_excess) - v) * phi**2


@pytest.mark.parametrize("process", [gb.VE(2.0), gb.FlowMatching(0.8)], ids=["VE", "flow"])
@pytest.mark.parametrize("e", [0.3, 1.0, 1.7])
def test_dance_grpo_has_order_1_towards_the_eta_of_its_constant(e, process):
    exact = dance_limit(e, 0.5, process, 0.2)
    laws = [gb.discrete_law(SPREAD, process, "dance-grpo", e, n, t_min=0.2) for n in STEPS]
    errors = [[law.mean[0] - exact[0], law.cov[0] - exact[1]] for law in laws]
    assert order(np.hypot(*np.transpose(errors))) == pytest.approx(1, abs=0.05)
    wrong = dance_limit(1.02 * e, 0.5, process, 0.2)
    errors = [[law.mean[0] - wrong[0], law.cov[0] - wrong[1]] for law in laws]
    assert abs(order(np.hypot(*np.transpose(errors))) - 1) > 0.1


def test_the_eta_of_dance_grpo_is_the_limit_of_windows_too():
    process, e = gb.VE(2.0), 1.0
    edges = np.geomspace(0.2, 2.0, 401)
    windows = gb.Windows(
        [(a, b, e / math.sqrt(a + b)) for a, b in itertools.pairwise(edges)]
    )  # mean of e^2 / (2 sigma)
    law = gb.terminal_law(SPREAD, process, windows, 0.2)
    np.testing.assert_allclose([law.mean[0], law.cov[0]], dance_limit(e, 0.5, process, 0.2), rtol=1e-5)


@pytest.mark.parametrize("eta_C", [0.3, 0.5, 0.9])
def test_cps_ends_with_too_little_variance_however_many_steps_it_takes(eta_C):
    # its fixed point at a level sigma is (1 + k) (v + sigma^2)^2 / (2 v + (1 + k) sigma^2), k = cos(pi eta_C / 2)
    v, k = 0.5, math.cos(math.pi * eta_C / 2)
    assert (1 + k) / 2 == pytest.approx(math.cos(math.pi * eta_C / 4) ** 2)
    for low, rate in [(0.5, 1.0), (0.0, 2 / 3)]:  # near sigma = 0 the noise of a step is too small to follow
        laws = [gb.discrete_law(SPREAD, gb.VE(3.0), "cps", eta_C, n, t_min=low) for n in STEPS]
        limit = (1 + k) * (v + low**2) ** 2 / (2 * v + (1 + k) * low**2)
        errors = [abs(float(law.cov[0]) - limit) for law in laws]
        assert order(errors) == pytest.approx(rate, abs=0.05)
        assert abs(laws[-1].mean[0] - 0.7) < 1e-12
        missed = [abs(float(law.cov[0]) - v - low**2) for law in laws]
        assert missed[-1] > (1 - k) * v / 3
        assert order(missed) == pytest.approx(SAMPLERS["cps"].orders[0], abs=0.1)


def test_cps_at_0_is_ddim_and_at_1_renoises():
    plain, full = (step("cps", SIGMA, NEXT, np.float64(value)) for value in (0.0, 1.0))
    assert (plain.carry, plain.std) == (NEXT, 0)
    assert abs(full.carry) < 1e-15
    assert full.std == NEXT
    errors = [
        abs(gb.discrete_law(SPREAD, gb.VE(3.0), "cps", 0.0, n).cov[0] - gb.terminal_law(SPREAD, gb.VE(3.0), 0.0).cov[0])
        for n in STEPS
    ]
    assert order(errors) == pytest.approx(SAMPLERS["cps"].orders[1], abs=0.05)


def test_flow_grpo_replaces_the_singular_noise_of_its_first_step_by_that_of_its_end():
    eta, t_next = 0.6, 0.9
    kernel = step("flow-grpo", math.inf, t_next / (1 - t_next), np.float64(eta))
    # at t = 1 the state is the noise: x' = x + (t' - 1)(u + g^2/2 eps) + g sqrt(1 - t') xi, u = eps - D, eps = x
    g = math.sqrt(2) * eta / math.sqrt(1 - t_next)
    assert (1 - t_next) * kernel.carry == pytest.approx(t_next - (1 - t_next) * g**2 / 2, rel=1e-13)
    assert (1 - t_next) * kernel.std == pytest.approx(g * math.sqrt(1 - t_next), rel=1e-13)
    later = step("flow-grpo", 1e6, t_next / (1 - t_next), np.float64(eta))
    assert later.std > 100 * kernel.std  # without the replacement it has no limit
    plain = step("flow-grpo", math.inf, 9.0, np.float64(0.0))
    assert (plain.carry, plain.std) == (9.0, 0.0)


def test_flow_grpo_leaves_the_noise_of_its_last_step_and_gddim_does_not():
    assert step("flow-grpo", 0.2, 0.0, np.float64(1.0)).std == pytest.approx(math.sqrt(2 * 0.2**2 / 1.2))
    assert step("gddim", 0.2, 0.0, np.float64(1.0)).std == 0


def test_edm_keeps_marginals_at_order_2_but_carries_what_is_left_of_the_start_at_order_1():
    process, eta = gb.VE(3.0), 0.9
    exact = gb.terminal_law(SPREAD, process, eta, 0.2)
    errors = [
        abs(float((gb.discrete_law(SPREAD, process, "edm", eta, n, t_min=0.2).mean - exact.mean)[0])) for n in STEPS
    ]
    assert order(errors) == pytest.approx(1, abs=0.05)
    assert order([marginal_errors(SPREAD, "edm", eta, n) for n in STEPS]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("target", [SPREAD, gb.Gaussian([0.7, -0.4], [[0.9, 0.4], [0.4, 0.5]])], ids=["d = 1", "d = 2"])
def test_edm_simulates_gaussians_with_the_law_of_its_chain(target):
    law = gb.discrete_law(target, gb.VE(2.0), "edm", 1.1, 6)
    run = gb.simulate(target, gb.VE(2.0), "edm", 1.1, 6, 40_000, 3)
    x = run.samples.double().numpy()
    assert (np.abs(x.mean(0) - law.mean) < 4 * np.sqrt(law.variances / len(x))).all()
    assert (np.abs(x.var(0) / law.variances - 1) < 4 * math.sqrt(2 / len(x))).all()
    wrong = gb.discrete_law(target, gb.VE(2.0), "edm", 0.9, 6)
    assert (np.abs(x.mean(0) - wrong.mean) > 4 * np.sqrt(law.variances / len(x))).any()


def test_edm_adds_its_noise_before_it_asks_any_score():
    process, common = gb.VE(2.0), dict(sampler="edm", eta=1.1, steps=6, n=500, seed=3, dtype=torch.float64)
    law = gb.Gaussian([0.7, -0.4], [[0.9, 0.4], [0.4, 0.5]])
    levels_met = []

    def score(z, sigma):
        levels_met.append(sigma)
        return law.score(z, sigma)

    exact, asked = gb.simulate(law, process, **common), gb.simulate(score, process, dim=2, **common)
    np.testing.assert_allclose(asked.samples, exact.samples, rtol=1e-10)
    raised = [step("edm", s, s_next, np.float64(1.1)).raised for s, s_next in itertools.pairwise(exact.sigmas)]
    assert levels_met[::2] == pytest.approx(raised)
    mixture, sigmas = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.2, 0.2]), np.array([2.0, 1.0, 0.5])
    runs = [gb.simulate(mixture, process, name, 0.0, n=50, sigmas=sigmas).samples for name in ("edm", "heun")]
    np.testing.assert_allclose(*runs, rtol=1e-6)


def test_cps_refuses_more_than_all_the_noise():
    with pytest.raises(
        ValueError, match=r"CPS's own eta lies in \[0, 1\], got 1\.2; 1 re-noises completely, and units"
    ):
        step("cps", SIGMA, NEXT, np.float64(1.2))


def test_the_table_says_of_every_sampler_what_the_tests_above_measure():
    head, *rows = sampler_table().splitlines()
    assert [row.split()[0] for row in rows] == list(SAMPLERS)
    places = [
        head.index(name)
        for name in ("its eta", "marginals of a point", "other marginals", "law", "ODE's law", "converges")
    ]
    said = {row.split()[0]: [row[a:b].strip() for a, b in itertools.pairwise([*places, None])] for row in rows}
    assert said["cps"] == ["eta_C", "exact", "wrong limit", "wrong limit", "order 1", "no"]
    assert said["edm"] == ["eta", "exact", "order 2", "order 1", "order 2", "yes"]
    assert said["exact"] == ["eta", "exact", "exact", "exact", "exact", "yes"]
    assert said["flow-grpo"] == ["eta", "order 1", "order 1", "order 1", "order 1", "yes"]
    assert {name for name, sampler in SAMPLERS.items() if not sampler.converges} == {"cps"}
