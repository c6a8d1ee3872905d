"""N-step chains: every step against its kernel, weak orders, the exact kernel, two times, diffusers, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from strategies import FAMILIES, etas, powers, processes, signed, windows

import gapbound as gb
from gapbound.chain import affine_steps, diagonalised
from gapbound.kernel import OURS, SAMPLERS, step
from gapbound.schedule import STABLE_DIFFUSION

COV = np.array([[0.9, 0.4], [0.4, 0.5]])
ONE, FULL = gb.Gaussian(0.7, 0.5), gb.Gaussian([0.7, -0.4], COV)
GUIDED = gb.guided(gb.Gaussian([0.0, 0.3], [[1.0, 0.3], [0.3, 0.8]]), FULL, 2.5)
MODELS = {"d = 1": ONE, "d = 2, full": FULL, "guided": GUIDED}
WINDOW = gb.Windows([(0.4, 1.1, 1.3)])
IN_OUR_UNIT = [name for name, sampler in SAMPLERS.items() if sampler.unit == OURS]  # the others: tests/test_kernel.py


def admits(sampler, eta, model=ONE, **options):
    """Whether the sampler runs at this eta; at eta = 0 every one does."""
    try:
        gb.discrete_law(model, gb.VE(2.0), sampler, eta, **options)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_the_ode(sampler):
    assert admits(sampler, 0.0, steps=5)


def law_by_kernels(model, process, sampler, eta, sigmas):
    """The law of the chain from the kernel's formula, each step probed at z = 0, z = e_i and xi = e_i."""
    d = model.dim
    mean, cov = np.zeros(d), process.prior_variance * np.eye(d)
    Q = model.spectrum[1] if isinstance(model, gb.Gaussian) else None
    for sigma, sigma_next in itertools.pairwise(sigmas):
        variance = model.spectrum[0] if isinstance(model, gb.Gaussian) else None
        kernel = step(sampler, sigma, sigma_next, eta, variance)

        def turned(coefficient, vector):
            """A coefficient per eigendirection, or one for all."""
            if coefficient is None or np.ndim(coefficient) == 0 or Q is None:
                return coefficient * vector
            return Q @ (coefficient * (Q.T @ vector))

        def move(z, xi, kernel=kernel, sigma=sigma, sigma_next=sigma_next, turned=turned):
            if kernel.raised is not None:  # the noise comes first
                z, xi, sigma = z + kernel.std * xi, np.zeros(d), kernel.raised
            eps = -sigma * model.score(z, sigma)
            D = z - sigma * eps
            first = D + turned(kernel.carry, eps) + turned(kernel.std, xi)
            if kernel.again is None:
                return first
            eps_next = -sigma_next * model.score(first, sigma_next)
            return D + kernel.carry_2 * eps + kernel.again * eps_next + kernel.std * xi

        zero, unit = np.zeros(d), np.eye(d)
        b = move(zero, zero)
        A = np.stack([move(e, zero) - b for e in unit], axis=1)
        S = np.stack([move(zero, e) - b for e in unit], axis=1)
        mean, cov = A @ mean + b, A @ cov @ A.T + S @ S.T
    return mean, cov


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, WINDOW], ids=str)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_law_is_that_of_the_kernels_step_by_step(sampler, model, eta):
    process, sigmas = gb.VE(2.0), np.array([2.0, 1.5, 0.9, 0.5, 0.3, 0.0])
    if not admits(sampler, eta, MODELS[model], sigmas=sigmas):
        pytest.skip("refused")
    law = gb.discrete_law(MODELS[model], process, sampler, eta, sigmas=sigmas)
    mean, cov = law_by_kernels(MODELS[model], process, sampler, np.asarray(eta) if eta is not WINDOW else eta, sigmas)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(gb.Gaussian(law.mean, law.cov).matrix, cov, rtol=1e-12, atol=1e-13)


def distances(law, exact):
    return [float(np.linalg.norm(law.mean - exact.mean)), float(np.linalg.norm(law.cov - exact.cov))]


def order(errors, ratio=2):
    """Slope of log error between the two finest step sizes, extrapolated from the slope before it."""
    slopes = np.log(np.array(errors[:-1]) / np.array(errors[1:])) / math.log(ratio)
    return 2 * slopes[-1] - slopes[-2]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sampler", IN_OUR_UNIT)
def test_the_declared_weak_order_is_met_by_mean_and_variance(sampler, model, eta):
    # of these two the leading term of one moment nearly vanishes at some eta; that of both together does not
    together = sampler in ("edm", "flow-grpo")
    model, process, t_min, steps = MODELS[model], gb.VE(2.0), 0.3, [256, 512, 1024] if together else [64, 128, 256]
    if not admits(sampler, eta, model, steps=64, t_min=t_min):
        pytest.skip("refused")
    exact = gb.terminal_law(model, process, eta, t_min)
    laws = [gb.discrete_law(model, process, sampler, eta, n, t_min=t_min) for n in steps]
    errors = np.array([distances(law, exact) for law in laws])
    declared = SAMPLERS[sampler].orders[0 if eta else 1]
    if math.isinf(declared):
        assert errors.max() < 1e-13
        return
    for moment in [np.hypot(*errors.T)] if together else errors.T:
        if moment.max() > 1e-12:  # at eta = 1 every sampler carries the mean of a Gaussian exactly
            assert order(moment) == pytest.approx(declared, abs=0.05)
    assert errors[:, 1].min() > 1e-8


@pytest.mark.parametrize("sampler", [name for name in IN_OUR_UNIT if name != "heun"])
def test_an_order_test_sees_the_wrong_limit(sampler):
    if math.isinf(SAMPLERS[sampler].weak_order):
        pytest.skip("has no error")
    wrong = gb.terminal_law(ONE, gb.VE(2.0), 0.51, 0.3)
    laws = [gb.discrete_law(ONE, gb.VE(2.0), sampler, 0.5, n, t_min=0.3) for n in (64, 128, 256)]
    assert abs(order([distances(law, wrong)[1] for law in laws]) - SAMPLERS[sampler].weak_order) > 0.1


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0, 2.5, WINDOW], ids=str)
@pytest.mark.parametrize("target", [ONE, FULL], ids=["d = 1", "d = 2, full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exact_kernel_has_the_continuous_law_at_any_step_count(family, target, eta):
    process = FAMILIES[family](3.0)
    for t_min in (0.0, 0.1):
        exact = gb.terminal_law(target, process, eta, t_min)
        for steps in (1, 2, 7, 50):
            law = gb.discrete_law(target, process, "exact", eta, steps, t_min=t_min)
            np.testing.assert_allclose(law.mean, exact.mean, rtol=1e-13, atol=1e-14)
            np.testing.assert_allclose(law.cov, exact.cov, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("sigma_T", [1e4, 1e8, 1e12])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_exact_kernel_keeps_its_digits_from_far_away(sigma_T, eta):
    for kind, steps in [("time", 1), ("time", 20), ("karras", 30)]:
        law = gb.discrete_law(ONE, gb.VE(sigma_T), "exact", eta, steps, grid=kind)
        exact = gb.terminal_law(ONE, gb.VE(sigma_T), eta)
        np.testing.assert_allclose([law.mean, law.cov], [exact.mean, exact.cov], rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.7])
def test_two_time_covariance_under_the_exact_kernel_is_that_of_the_theory(eta, steps):
    v, sigma_T = 0.5, 3.0
    rho = v / (v + sigma_T**2)
    chain = affine_steps(gb.Gaussian(0.7, v), "exact", gb.grid(gb.VE(sigma_T), steps), np.asarray(eta))
    carried = math.prod(float(one.A[0]) for one in chain)
    # started from q_T, of variance v + sigma_T^2, the ends are correlated by rho^(eta^2 / 2)
    correlation = carried * (v + sigma_T**2) / math.sqrt(v * (v + sigma_T**2))
    assert correlation == pytest.approx(rho ** (eta**2 / 2), rel=1e-12)


def test_two_time_covariance_tells_a_wrong_eta_where_the_marginal_cannot():
    v, sigmas = 0.5, gb.grid(gb.VE(3.0), 10)
    for eta in (0.5, 1.5):
        law_mean, law_var, kept = 0.7, v + 9.0, 1.0
        for one in affine_steps(gb.Gaussian(0.7, v), "exact", sigmas, np.asarray(eta)):
            law_mean, law_var = float(one.A[0] * law_mean + one.b[0]), float(one.A[0] ** 2 * law_var + one.S[0] ** 2)
            kept *= float(one.A[0])
        assert (law_mean, law_var) == (pytest.approx(0.7, rel=1e-13), pytest.approx(v, rel=1e-13))
        assert kept * math.sqrt((v + 9.0) / v) == pytest.approx((v / (v + 9.0)) ** (eta**2 / 2), rel=1e-12)


def marginal_errors(sampler, eta, v=1e-18, m=1.3):
    """How far from q_sigma each step of a 10-step chain on a point target gets, started from q_sigma_T."""
    sigmas, errors = gb.grid(gb.VE(3.0), 10, t_min=0.1), []
    mean, var = m, v + sigmas[0] ** 2
    chain = affine_steps(gb.Gaussian(m, v), sampler, sigmas, np.asarray(eta))
    for one, sigma in zip(chain, sigmas[1:], strict=True):
        mean, var = float(one.A[0] * mean + one.b[0]), float(one.A[0] ** 2 * var + one.S[0] ** 2)
        errors.append(max(abs(mean - m), abs(var / (v + sigma**2) - 1)))
    return max(errors)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.03])
def test_ddim_and_gddim_preserve_the_marginals_of_a_point_and_euler_maruyama_does_not(eta):
    for sampler in ("ddim", "gddim", "exact"):
        assert marginal_errors(sampler, eta) < 1e-13
    assert marginal_errors("euler-maruyama", eta) > 0.02
    assert marginal_errors("stochastic-heun", eta) > 0.001


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("kind", ["time", "karras", "log-sigma"])
def test_gddim_at_eta_1_carries_the_mean_exactly_for_any_number_of_steps(kind, steps):
    for target, process in [(ONE, gb.VP(1.5)), (FULL, gb.VE(4.0))]:
        exact = gb.terminal_law(target, process, 1.0)
        law = gb.discrete_law(target, process, "gddim", 1.0, steps, grid=kind)
        np.testing.assert_allclose(law.mean, exact.mean, rtol=1e-12)
        assert np.abs(law.cov - exact.cov).max() > 1e-4
    if steps <= 5:
        other = gb.discrete_law(ONE, gb.VP(1.5), "gddim", 1.1, steps, grid=kind)
        assert abs(other.mean - gb.terminal_law(ONE, gb.VP(1.5), 1.1).mean).max() > 1e-4


def test_gddim_equals_ddim_at_eta_1_and_plain_ddim_at_eta_0():
    for eta in (0.0, 1.0):
        for model in MODELS.values():
            one, other = (gb.discrete_law(model, gb.VP(1.7), name, eta, 12) for name in ("gddim", "ddim"))
            np.testing.assert_allclose(one.mean, other.mean, rtol=1e-14)
            np.testing.assert_allclose(one.cov, other.cov, rtol=1e-13)


def test_ten_uniform_steps_lose_the_variance_of_the_theory():
    process = gb.VP(math.log(26), "constant")  # sigma_T = 5
    laws = [gb.discrete_law(ONE, process, "gddim", eta, 10, grid="sigma") for eta in (0.0, 1.0, 1.5)]
    np.testing.assert_allclose([law.cov[0] for law in laws], [0.288, 0.232, 0.197], atol=5e-4)


def test_variance_lost_at_50_steps_of_stable_diffusion_is_of_the_order_stated():
    process = gb.VP.stable_diffusion(50)
    lost = [
        float(gb.discrete_law(gb.Gaussian(0.0, 0.25), process, "gddim", eta, 50, grid="leading").cov[0]) / 0.25 - 1
        for eta in (0.0, 1.0, 1.5)
    ]
    assert -0.12 < lost[0] < -0.08
    assert -0.22 < lost[1] < -0.17
    assert -0.32 < lost[2] < -0.26


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_full_covariance_is_the_rotation_of_the_diagonal_case(family, sampler):
    rng, d = np.random.default_rng(1), 4
    m, v, Q = rng.normal(size=d), 10 ** rng.uniform(-1, 1, d), ortho_group.rvs(d, random_state=rng)
    cov, eta, process = (Q * v) @ Q.T, 0.0 if sampler == "heun" else 0.8, FAMILIES[family](3.0)
    diagonal = gb.discrete_law(gb.Gaussian(m, v), process, sampler, eta, 9, t_min=0.1)
    full = gb.discrete_law(gb.Gaussian(Q @ m, (cov + cov.T) / 2), process, sampler, eta, 9, t_min=0.1)
    np.testing.assert_allclose(full.mean, Q @ diagonal.mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(full.cov, (Q * diagonal.cov) @ Q.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("model", MODELS)
def test_arrays_of_T_and_eta_broadcast(model, sampler):
    if SAMPLERS[sampler].covariance_aware and model == "guided":
        pytest.skip("needs a Gaussian")
    T, eta = np.array([1.0, 2.0, 3.0]), np.array([[0.0], [0.9]]) * (sampler != "heun")
    law = gb.discrete_law(MODELS[model], gb.VE(T), sampler, eta, 6)
    assert law.batch_shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        single = gb.discrete_law(MODELS[model], gb.VE(T[j]), sampler, eta[i, 0], 6)
        np.testing.assert_allclose(law.mean[i, j], single.mean, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(law.cov[i, j], single.cov, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("sampler", ["ddim", "gddim", "exact"])
@pytest.mark.parametrize("eta", [0.0, 0.8, gb.Windows([(0.5, math.inf, 0.9)])], ids=str)
def test_flow_from_t_1_is_the_limit_of_later_starts_and_shares_a_batch_with_them(sampler, eta):
    for target in (ONE, FULL):
        start = gb.discrete_law(target, gb.FlowMatching(), sampler, eta, 8)
        later, levels = gb.FlowMatching(1 - 1e-13), gb.grid(gb.FlowMatching(), 8)
        near = gb.discrete_law(target, later, sampler, eta, sigmas=[float(later.sigma_T), *levels[1:]])
        np.testing.assert_allclose(start.mean, near.mean, rtol=1e-6)
        np.testing.assert_allclose(start.cov, near.cov, rtol=1e-6)
        batch = gb.discrete_law(target, gb.FlowMatching([0.7, 1.0]), sampler, eta, 8)
        below = gb.discrete_law(target, gb.FlowMatching(0.7), sampler, eta, 8)
        for k, single in enumerate((below, start)):
            np.testing.assert_allclose(batch.mean[k], single.mean, rtol=1e-13)
            np.testing.assert_allclose(batch.cov[k], single.cov, rtol=1e-13)


def test_given_levels_equal_the_named_grid():
    process = gb.VP(1.5)
    named = gb.discrete_law(ONE, process, "gddim", 1.2, 9, grid="karras")
    given = gb.discrete_law(ONE, process, "gddim", 1.2, sigmas=gb.grid(process, 9, "karras"))
    np.testing.assert_array_equal(named.cov, given.cov)
    np.testing.assert_array_equal(gb.discrete_law(ONE, process).cov, gb.discrete_law(ONE, process, steps=50).cov)


def test_chains_are_composed_in_the_eigenbasis():
    diagonal, basis = diagonalised(FULL)
    assert diagonal.is_diagonal
    np.testing.assert_allclose((basis * diagonal.cov) @ basis.T, COV, rtol=1e-13)
    assert diagonalised(GUIDED)[1] is None


def affine_law(move, states):
    """Mean and variance of x after the affine steps ``move(x, xi, state)``, started from N(0, 1)."""
    mean, var = 0.0, 1.0
    for state in states:
        b = move(0.0, 0.0, state)
        A, S = move(1.0, 0.0, state) - b, move(0.0, 1.0, state) - b
        mean, var = A * mean + b, A**2 * var + S**2
    return mean, var


def double(value):
    return torch.tensor([value], dtype=torch.float64)


def ddim_law(target, steps, spacing, eta, exact_alphas):
    """``(mean, var)`` of x_0 / s_0 after diffusers' DDIMScheduler."""
    scheduler = DDIMScheduler(**(STABLE_DIFFUSION | {"clip_sample": False, "timestep_spacing": spacing}))
    if exact_alphas is not None:
        scheduler.alphas_cumprod = torch.tensor(exact_alphas)
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    m, v = float(target.mean[0]), float(target.cov[0])

    def move(x, xi, t):
        a = float(scheduler.alphas_cumprod[t])
        eps = math.sqrt(1 - a) * (x - math.sqrt(a) * m) / (a * v + 1 - a)
        noise = double(xi) if eta else None
        return float(scheduler.step(double(eps), t, double(x), eta=eta, variance_noise=noise).prev_sample)

    mean, var = affine_law(move, [int(t) for t in scheduler.timesteps])
    final = float(scheduler.final_alpha_cumprod)
    return mean / math.sqrt(final), var / final


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("steps", "spacing"), [(10, "leading"), (30, "leading"), (50, "leading"), (20, "trailing"), (50, "trailing")]
)
def test_diffusers_ddim_reproduces_the_law_on_stable_diffusion(steps, spacing, eta):
    target, process = gb.Gaussian(0.7, 0.3), gb.VP.stable_diffusion(steps, spacing)
    law = gb.discrete_law(target, process, "ddim", eta, steps, grid=spacing)
    as_shipped = ddim_law(target, steps, spacing, eta, None)
    np.testing.assert_allclose([law.mean[0], law.cov[0]], as_shipped, rtol=1e-6)  # its alphas_cumprod are float32
    in_double = ddim_law(target, steps, spacing, eta, process.beta.alphas_cumprod)
    np.testing.assert_allclose([law.mean[0], law.cov[0]], in_double, rtol=1e-12)


def test_diffusers_ddim_differs_where_its_steps_miss_its_own_timesteps():
    target, process = gb.Gaussian(0.7, 0.3), gb.VP.stable_diffusion(30, "trailing")
    law = gb.discrete_law(target, process, "ddim", 0.0, 30, grid="trailing")
    theirs = ddim_law(target, 30, "trailing", 0.0, process.beta.alphas_cumprod)
    difference = abs(law.cov[0] / theirs[1] - 1)
    assert 1e-4 < difference < 0.05


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_diffusers_flow_matching_euler_reproduces_the_ode_law(shift):
    scheduler, target = FlowMatchEulerDiscreteScheduler(shift=shift), gb.Gaussian(0.7, 0.3)
    scheduler.set_timesteps(20)
    times, m, v = scheduler.sigmas.double().numpy(), 0.7, 0.3

    def move(x, xi, k):
        t = times[k]
        away = (x - (1 - t) * m) / ((1 - t) ** 2 * v + t**2)
        velocity = t * away - (m + (1 - t) * v * away)  # E[eps - x_0 | x]
        scheduler._step_index = k
        return float(scheduler.step(double(velocity), scheduler.timesteps[k], double(x)).prev_sample)

    mean, var = affine_law(move, range(20))
    with np.errstate(divide="ignore"):
        sigmas = times / (1 - times)
    for sampler in ("ddim", "gddim"):
        law = gb.discrete_law(target, gb.FlowMatching(), sampler, 0.0, sigmas=sigmas)
        np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean, var], rtol=2e-5)  # it steps in float32


@settings(max_examples=250)
@given(
    sampler=st.sampled_from(list(SAMPLERS)),
    m=signed(1e6),
    v=powers(-12, 12),
    process=processes(-3, 12),
    eta=st.one_of(etas(), windows(), st.sampled_from([1e3, 1e80])),
    steps=st.integers(1, 6),
    kind=st.sampled_from(["time", "sigma", "log-sigma", "karras"]),
)
def test_finite_input_gives_a_finite_law_with_positive_variance_or_is_refused(sampler, m, v, process, eta, steps, kind):
    try:
        law = gb.discrete_law(gb.Gaussian(m, v), process, sampler, eta, steps, grid=kind)
    except ValueError:
        law = None
    if law is None:  # no room for the grid, an eta that is not admitted, or divergence
        assert kind in ("log-sigma", "karras") or sampler not in ("gddim", "exact")
        return
    assert np.isfinite(law.mean).all()
    assert np.isfinite(law.cov).all()
    assert (law.cov > 0).all()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"sampler": "euler"}, ValueError, "unknown sampler 'euler'; known: ddim, gddim, exact, euler-maruyama, heun"),
        ({"sampler": None}, TypeError, "sampler must be one of the names"),
        ({"eta": -1.0}, ValueError, r"eta must be 0 or more, got -1\.0"),
        ({"eta": math.nan}, ValueError, "eta must be finite, got nan"),
        ({"eta": [1.0, 2.0, 3.0], "model": gb.Gaussian([[0.0], [1.0]], 1.0)}, ValueError, "do not broadcast"),
        ({"sampler": "ddim", "eta": 1.5, "steps": 10}, ValueError, r"up to 1\.155 .* got eta=1\.5; use .*gddim"),
        ({"sampler": "heun"}, ValueError, "heun integrates the ODE, got eta=1; use eta=0 or 'stochastic-heun'"),
        ({"sampler": "exact", "model": GUIDED}, ValueError, "needs the variances of a Gaussian target; use 'gddim'"),
        ({"sampler": "euler-maruyama", "process": gb.FlowMatching()}, ValueError, "cannot step from sigma=inf"),
        ({"sampler": "euler-maruyama", "eta": 1e80, "steps": 9}, ValueError, "maruyama diverges in 9 steps .*'gddim'"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"grid": "uniform"}, ValueError, "unknown grid 'uniform'"),
        ({"process": gb.VP}, TypeError, "process must be an instance of VE, VP or FlowMatching"),
        ({"process": gb.VE(1e160), "grid": "log-sigma"}, ValueError, r"below 1e\+150, got 1e\+160"),
        ({"process": gb.VP(27.0)}, ValueError, "start from a smaller T, or use terminal_law, which has no such limit"),
        ({"model": gb.GaussianMixture([1.0], [[0.0]], [[1.0]])}, TypeError, "got GaussianMixture; use simulate"),
        ({"steps": 2, "sigmas": [2.0, 1.0, 0.0]}, ValueError, r"not both, got steps=2 and sigmas=\[2\.0"),
        ({"sigmas": [1.0, 0.0]}, ValueError, r"sigmas must start at sigma_T = 2\.0, got 1\.0"),
        ({"sigmas": [2.0, 2.0, 0.0]}, ValueError, r"must fall to 0 or more in at least one step, got \[2\. 2\. 0\.\]"),
        ({"sigmas": [2.0, -1.0]}, ValueError, "must fall to 0 or more"),
        ({"sigmas": [2.0, math.nan, 0.0]}, ValueError, "must fall to 0 or more"),
        ({"sigmas": [2.0]}, ValueError, "must fall to 0 or more in at least one step"),
        ({"sigmas": 2.0}, ValueError, r"must fall to 0 or more in at least one step, got 2\.0"),
        ({"sigmas": "karras"}, TypeError, "sigmas must be a real number or an array of them, got 'karras'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_value_met(change, error, match):
    with pytest.raises(error, match=match):
        gb.discrete_law(**({"model": ONE, "process": gb.VE(2.0)} | change))
