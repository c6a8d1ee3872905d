"""Units: one step by the other library's published formula against ours at the converted eta, and the refusals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import etas, powers

import gapbound as gb
from gapbound import units
from gapbound.kernel import step

STEPS = [(1.234, 0.765), (80.0, 3.1), (0.03, 0.0292), (14.6, 14.5)]


def ours(sampler, sigma, sigma_next, eta):
    """Multipliers of z and of the denoised point, and the variance added, of one of our steps."""
    kernel = step(sampler, sigma, sigma_next, np.asarray(eta, dtype=float))
    return [float(kernel.carry) / sigma, 1 - float(kernel.carry) / sigma, float(kernel.std) ** 2]


def ddim(eta, sigma, sigma_next):
    """Formulas (12) and (16) of DDIM in x = sqrt(alpha_bar) z, divided by the scales."""
    a, b = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
    noise = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    direction = math.sqrt(1 - b - noise**2)
    # x' = sqrt(b) x0 + direction eps + noise xi, eps = (x - sqrt(a) x0) / sqrt(1 - a)
    of_x = direction / math.sqrt(1 - a)
    return [of_x * math.sqrt(a / b), (math.sqrt(b) - of_x * math.sqrt(a)) / math.sqrt(b), noise**2 / b]


def ancestral(eta, sigma, sigma_next):
    """An Euler step down to sigma_down, then noise sigma_up: k-diffusion's, without its clamp."""
    up = eta * math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
    down = math.sqrt(sigma_next**2 - up**2)
    return [down / sigma, 1 - down / sigma, up**2]


def dpmpp_sde(eta, sigma, sigma_next):
    """First-order part of k-diffusion's dpmpp_2m_sde with h = log(sigma / sigma')."""
    h = math.log(sigma / sigma_next)
    of_z = sigma_next / sigma * math.exp(-eta * h)
    return [of_z, -math.expm1(-h - eta * h), sigma_next**2 * -math.expm1(-2 * eta * h)]


def sa_solver(tau, sigma, sigma_next):
    """First-order SA-Predictor on the denoised point, in z, h = log(sigma / sigma')."""
    h = math.log(sigma / sigma_next)
    of_z = sigma_next / sigma * math.exp(-(tau**2) * h)
    return [of_z, -math.expm1(-(1 + tau**2) * h), sigma_next**2 * -math.expm1(-2 * tau**2 * h)]


def cps(eta, sigma, sigma_next):
    """x' = (1 - t') x0 + t' cos eps + t' sin xi in flow matching's x = (1 - t) z."""
    t, t_next, angle = sigma / (1 + sigma), sigma_next / (1 + sigma_next), eta * math.pi / 2
    of_x = t_next * math.cos(angle) / t  # eps = (x - (1 - t) x0) / t
    of_x0 = 1 - t_next - of_x * (1 - t)
    return [of_x * (1 - t) / (1 - t_next), of_x0 / (1 - t_next), (t_next * math.sin(angle) / (1 - t_next)) ** 2]


def flow_sde(level, sigma, sigma_next):
    """x' = x + (u + g^2 (x + (1 - t) u) / (2 t)) dt + g sqrt(-dt) xi, u = (x - x0) / t, with g = level(t)."""
    t, t_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
    g, dt = level(t), t_next - t
    # eps = x + (1 - t) u = x / t - (1 - t) x0 / t
    of_x = 1 + (1 / t + g**2 / (2 * t) / t) * dt
    of_x0 = (-1 / t - g**2 / (2 * t) * (1 - t) / t) * dt
    return [of_x * (1 - t) / (1 - t_next), of_x0 / (1 - t_next), g**2 * -dt / (1 - t_next) ** 2]


@pytest.mark.parametrize(("sigma", "sigma_next"), STEPS)
@pytest.mark.parametrize(
    ("published", "convert", "values"),
    [
        (ddim, units.from_ddim, [0.0, 0.4, 1.0, 1.0004]),
        (ancestral, units.from_ddim, [0.0, 0.4, 1.0, 1.0004]),
        (dpmpp_sde, lambda value, *_: units.from_k_diffusion(value), [0.0, 0.4, 1.0, 2.3]),
        (sa_solver, lambda value, *_: units.from_sa_solver(value), [0.0, 0.4, 1.0, 2.3]),
        (cps, units.from_cps, [0.0, 0.3, 0.9]),
    ],
    ids=["DDIM", "ancestral", "k-diffusion", "SA-Solver", "CPS"],
)
def test_their_step_is_gddims_at_the_converted_eta(published, convert, values, sigma, sigma_next):
    for value in values:
        expected = published(value, sigma, sigma_next)
        found = ours("gddim", sigma, sigma_next, convert(value, sigma, sigma_next))
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    off = ours("gddim", sigma, sigma_next, 1.05 * convert(values[1], sigma, sigma_next))
    assert np.abs(np.subtract(off, published(values[1], sigma, sigma_next)) / off).max() > 1e-4


@pytest.mark.parametrize("value", [0.0, 0.7, 1.3])
@pytest.mark.parametrize(("sigma", "sigma_next"), STEPS)
def test_flow_grpos_and_dance_grpos_steps_are_their_samplers_at_the_converted_eta(sigma, sigma_next, value):
    expected = flow_sde(lambda t: value * math.sqrt(t / (1 - t)), sigma, sigma_next)
    found = ours("flow-grpo", sigma, sigma_next, units.from_flow_grpo(value))
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
    constant = flow_sde(lambda t: value, sigma, sigma_next)
    np.testing.assert_allclose(ours("dance-grpo", sigma, sigma_next, value), constant, rtol=1e-11, atol=1e-12)
    # at one level the two differ in their noise level alone
    eta = units.from_dance_grpo(value, sigma)
    np.testing.assert_allclose(ours("flow-grpo", sigma, sigma_next, eta), constant, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sampler", ["flow-grpo", "dance-grpo", "edm"])
def test_euler_steps_and_churn_agree_with_gddim_to_first_order_in_the_step(sampler):
    sigma, eta = 1.7, 0.8
    value = float(units.to_dance_grpo(eta, sigma)) if sampler == "dance-grpo" else eta

    def difference(h):
        """Of the multiplier of a deviation and of the variance after the step, on N(0, 0.5)."""
        moved = []
        for name, own in ((sampler, value), ("gddim", eta)):
            kernel = step(name, sigma, sigma - h, np.asarray(own))
            level = sigma if kernel.raised is None else float(kernel.raised)
            A = (0.5 + level * float(kernel.carry)) / (0.5 + level**2)
            moved.append([A, float(kernel.std) ** 2 * (1 if kernel.raised is None else A**2)])
        return np.abs(np.subtract(*moved))

    one, half, quarter = (difference(h) for h in (4e-3, 2e-3, 1e-3))
    slopes = [np.log2(one / half), np.log2(half / quarter)]
    np.testing.assert_allclose(2 * slopes[1] - slopes[0], 2, atol=0.05)


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.3, math.sqrt(2) - 1])
def test_edms_churn_is_the_noise_that_our_sampler_adds_first(gamma):
    for sigma, sigma_next in [*STEPS, (1.0, 0.0)]:
        kernel = step("edm", sigma, sigma_next, units.from_edm(gamma, sigma, sigma_next))
        assert kernel.raised == pytest.approx(sigma + gamma * sigma, rel=1e-13)
        assert kernel.std == pytest.approx(math.sqrt(kernel.raised**2 - sigma**2), rel=1e-12, abs=1e-12)
        assert kernel.carry == sigma_next


@settings(max_examples=200)
@given(eta=etas(2.0), sigma=powers(-3, 6), ratio=st.one_of(st.floats(1e-6, 0.999), powers(-9, -3).map(lambda x: 1 - x)))
def test_conversions_there_and_back_are_the_identity(eta, sigma, ratio):
    low = ratio * sigma
    pairs = [("ddim", (sigma, low)), ("cps", (sigma, low)), ("k_diffusion", ()), ("sa_solver", ()), ("flow_grpo", ())]
    for name, levels in [*pairs, ("dance_grpo", (sigma,))]:
        there = getattr(units, f"to_{name}")(eta, *levels)
        if eta**2 * -math.log(ratio) > 10 and levels:
            continue  # all but a millionth of the noise is drawn anew: the digits of eta are gone
        back = getattr(units, f"from_{name}")(there, *levels)
        assert back == pytest.approx(eta, rel=1e-7, abs=1e-150)
    if eta**2 * (1 - ratio**2) < 1:
        assert units.from_edm(units.to_edm(eta, sigma, low), sigma, low) == pytest.approx(eta, rel=1e-7, abs=1e-150)


@pytest.mark.parametrize(("sampler", "convert"), [("ddim", units.from_ddim), ("cps", units.from_cps)])
def test_a_chain_in_their_unit_is_a_gddim_chain_with_an_eta_for_each_step(sampler, convert):
    target, process, theirs = gb.Gaussian([0.7, -0.4], [[0.9, 0.4], [0.4, 0.5]]), gb.VP(1.5), 0.6
    sigmas = gb.grid(process, 12, "karras")
    etas = [*convert(theirs, sigmas[:-2], sigmas[1:-1]), 0.0]  # the last step, to 0, has no noise to set
    chain = gb.discrete_law(target, process, "gddim", units.per_step(sigmas, etas), sigmas=sigmas)
    own = gb.discrete_law(target, process, sampler, theirs, sigmas=sigmas)
    np.testing.assert_allclose(chain.mean, own.mean, rtol=1e-12)
    np.testing.assert_allclose(chain.cov, own.cov, rtol=1e-12)
    plain = gb.discrete_law(target, process, "gddim", theirs, sigmas=sigmas)
    assert np.abs(plain.cov - own.cov).max() > 1e-3


def test_edms_constant_churn_has_an_eta_of_the_grid_and_no_more():
    process, gamma = gb.VE(3.0), 0.02
    sigmas = gb.grid(process, 40, "log-sigma")
    etas = units.from_edm(gamma, sigmas[:-1], sigmas[1:])
    assert np.ptp(etas[:-1]) < 1e-6 * etas[0]  # geometric levels: one eta but for the last step, to 0
    law = gb.discrete_law(gb.Gaussian(0.7, 0.5), process, "edm", units.per_step(sigmas, etas), sigmas=sigmas)
    mean, var = 0.0, 9.0
    for sigma, sigma_next in itertools.pairwise(sigmas):  # Algorithm 2 on the exact score
        raised = sigma * (1 + gamma)
        var += raised**2 - sigma**2
        g, g_next = raised / (0.5 + raised**2), sigma_next / (0.5 + sigma_next**2)
        h = sigma_next - raised
        A = 1 + h * g if sigma_next == 0 else 1 + h * (g + g_next * (1 + h * g)) / 2
        mean, var = 0.7 + A * (mean - 0.7), A**2 * var
    np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean, var], rtol=1e-12)


def test_the_eta_of_a_fixed_share_grows_as_the_step_gets_shorter_and_ddims_does_not():
    cps_etas, ddim_etas = (
        [float(of(0.5, 1.0, 1 - h)) for h in (1e-2, 1e-4, 1e-6)] for of in (units.from_cps, units.from_ddim)
    )
    np.testing.assert_allclose(np.divide(cps_etas[1:], cps_etas[:-1]), 10, rtol=0.01)
    np.testing.assert_allclose(ddim_etas, 0.5, rtol=0.01)
    assert abs(ddim_etas[2] - 0.5) < 1e-6 < abs(ddim_etas[0] - 0.5)


def test_conversions_broadcast_and_numbers_stay_numbers():
    assert units.from_ddim(0.5, [2.0, 1.0], [1.0, 0.5]).shape == (2,)
    assert units.from_ddim([[0.2], [0.5], [0.7]], [2.0, 1.0], [1.0, 0.5]).shape == (3, 2)
    assert units.to_dance_grpo(1.0, 0.5) == 1.0
    assert units.to_flow_grpo(1.0) == pytest.approx(math.sqrt(2))
    assert units.to_k_diffusion(1.5) == 2.25


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: units.from_ddim(1.2, 2.0, 0.5), r"all the noise anew at eta=1\.033 .* got eta_ddim=1\.2; no eta"),
        (lambda: units.from_ddim(-0.1, 2.0, 0.5), r"eta_ddim must be 0 or more, got -0\.1"),
        (lambda: units.from_ddim(0.5, 2.0, 2.0), r"sigma_next must be below sigma, got sigma_next=2\.0 and sigma=2\.0"),
        (lambda: units.to_ddim(0.5, 2.0, 0.0), r"sigma_next must be positive, got 0\.0"),
        (lambda: units.to_ddim(0.5, math.inf, 1.0), "sigma must be finite, got inf"),
        (lambda: units.to_ddim(-0.5, 2.0, 1.0), r"eta must be 0 or more, got -0\.5"),
        (lambda: units.from_ddim(0.5, [3.0, 2.0], [1.0, 0.5, 0.1]), r"sigma and sigma_next do not broadcast"),
        (lambda: units.from_k_diffusion(-1.0), r"eta_k must be 0 or more, got -1\.0"),
        (lambda: units.to_k_diffusion(-1.0), r"eta must be 0 or more, got -1\.0"),
        (lambda: units.from_sa_solver(-1.0), r"tau must be 0 or more, got -1\.0"),
        (lambda: units.to_sa_solver(-1.0), r"eta must be 0 or more, got -1\.0"),
        (lambda: units.from_flow_grpo(-0.7), r"a must be 0 or more, got -0\.7"),
        (lambda: units.to_flow_grpo(-0.7), r"eta must be 0 or more, got -0\.7"),
        (lambda: units.from_dance_grpo(0.3, 0.0), r"sigma must be positive, got 0\.0"),
        (lambda: units.from_dance_grpo(-0.3, 1.0), r"e must be 0 or more, got -0\.3"),
        (lambda: units.to_dance_grpo(0.3, -1.0), r"sigma must be positive, got -1\.0"),
        (lambda: units.from_cps(1.0, 2.0, 1.0), "eta_cps=1 draws all the noise anew, .* take one below 1"),
        (lambda: units.from_cps(1.1, 2.0, 1.0), r"eta_cps must lie in \[0, 1\], got 1\.1"),
        (lambda: units.to_cps(-1.0, 2.0, 1.0), r"eta must be 0 or more, got -1\.0"),
        (lambda: units.from_edm(0.5, 2.0, 1.0), r"gamma must lie in \[0, 0\.414214\], got 0\.5"),
        (lambda: units.to_edm(1.2, 2.0, 0.5), r"caps gamma at .*, which is eta=1\.033 .* got eta=1\.2; .*'edm'"),
        (lambda: units.to_edm(1.2, 2.0, -0.5), r"sigma_next must be 0 or more, got -0\.5"),
        (lambda: units.per_step([2.0, 1.0, 0.5], [1.0]), r"N \+ 1 sigmas and N etas, got shapes \(3,\) and \(1,\)"),
        (lambda: units.per_step([2.0, 2.5], [1.0]), "a window needs 0 <= sigma_low < sigma_high"),
        (lambda: units.per_step([2.0, 1.0], [-1.0]), r"etas must be 0 or more, got -1\.0"),
    ],
)  # fmt: skip
def test_what_has_no_value_in_the_other_unit_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match="eta_ddim must be a real number or an array of them, got 'one'"):
        units.from_ddim("one", 2.0, 1.0)
