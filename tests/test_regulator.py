"""The optimum of N-step RL: Gaussian conditioning of whole paths, the scalar recursion, optimality, order 1."""

import math
import re

import numpy as np
import pytest
import torch
from strategies import flow, ve, vp

import gapbound as gb
from gapbound.chain import affine_steps
from gapbound.kernel import step as kernel_step
from gapbound.optimum import optimum_law, rl_optimum
from gapbound.regulator import rl_optimum_discrete

RNG = np.random.default_rng(7)
ROOT, TWIST = RNG.standard_normal((2, 3, 3))
SPD, HILL = ROOT @ ROOT.T + 0.3 * np.eye(3), TWIST @ TWIST.T
MEAN, C, B = np.array([0.3, -1.0, 0.5]), np.array([1.0, 0.0, 0.5]), np.array([0.3, 0.1, -0.2])
ONE = gb.Gaussian(0.4, 0.8)
MODELS = {
    "d=1": ONE,
    "full d=1": gb.Gaussian([0.4], [[0.8]]),
    "diagonal": gb.Gaussian(MEAN, [0.2, 1.0, 3.0]),
    "full": gb.Gaussian(MEAN, SPD),
    "guided": gb.guided(ONE, gb.Gaussian(1.0, 0.5), 2.0),
    "guided full": gb.guided(gb.Gaussian(MEAN, SPD), gb.Gaussian(C, [0.4, 0.9, 0.2]), 1.5),
}
REWARDS = {
    "quadratic": gb.Quadratic(0.7, 0.3, -0.4),
    "convex": gb.Quadratic(-0.02, 0.3, 0.5),
    "linear": gb.Linear(0.6, 2.0),
    "twisted": gb.Quadratic(HILL, C, B),
}
CASES = [
    pytest.param(model, reward, id=f"{name}, {kind}")
    for name, model in MODELS.items()
    for kind, reward in REWARDS.items()
    if reward.dim in (None, model.dim)
]
MIXED = gb.Windows([(0.5, 2.0, 1.3)])
BETA = 2.3


def plain(step, model):
    """A, b, S of a step as matrices."""
    A, S = (part if not model.is_diagonal else np.diag(np.atleast_1d(part)) for part in (step.A, step.S))
    return A, step.b, S


def coefficients(reward, d):
    A, c, b, _ = reward.quadratic_form(d)
    A = A * np.eye(d) if np.ndim(A) == 0 else A
    return A, b + 2 * A @ c


def by_conditioning(model, reward, beta, process, sampler, eta, sigmas):
    """Reweight reference paths by exp(r / beta) given their start: the end given the start, then the prior."""
    d, eta = model.dim, eta if isinstance(eta, gb.Windows) else np.float64(eta)
    F, f, V = np.eye(d), np.zeros(d), np.zeros((d, d))
    for step in affine_steps(model, sampler, sigmas, eta):
        A, b, S = plain(step, model)
        F, f, V = A @ F, A @ f + b, A @ V @ A.T + S @ S.T
    A, pull = coefficients(reward, d)
    keeps = np.linalg.inv(np.eye(d) + 2 / beta * V @ A)  # (V^-1 + 2A/beta)^-1 = keeps V
    F, f, V = keeps @ F, keeps @ (f + V @ pull / beta), keeps @ V
    return f, V + float(process.prior_variance) * F @ F.T


@pytest.mark.parametrize("eta", [0.5, 1.4, MIXED], ids=str)
@pytest.mark.parametrize(("model", "reward"), CASES)
def test_the_mean_is_that_of_reweighted_paths_and_the_variance_larger_as_steps_cannot_shrink(model, reward, eta):
    for process, sampler in ((ve(3.0), "gddim"), (vp(20.0), "euler-maruyama"), (flow(9.0), "gddim")):
        policy = rl_optimum_discrete(model, reward, BETA, process, sampler, eta, 30, grid="log-sigma")
        mean, cov = by_conditioning(model, reward, BETA, process, sampler, eta, policy.sigmas)
        np.testing.assert_allclose(policy.law.mean, mean, rtol=1e-9, atol=1e-11)
        more = np.linalg.eigvalsh(policy.law.matrix - cov)
        if isinstance(reward, gb.Linear):
            np.testing.assert_allclose(policy.law.matrix, cov, rtol=1e-9, atol=1e-11)
        else:
            sign = -1 if reward is REWARDS["convex"] else 1
            assert (sign * more > -1e-12).all()
            assert (sign * more).max() > 1e-8


@pytest.mark.parametrize("eta", [0.5, MIXED], ids=str)
@pytest.mark.parametrize(("model", "reward"), CASES)
def test_gains_minimise_the_stacked_quadratic_of_all_later_controls(model, reward, eta):
    """No recursion: from each step on, one least-squares problem in all controls at once; noise does not matter."""
    d, sampler = model.dim, "gddim"
    policy = rl_optimum_discrete(model, reward, BETA, vp(9.0), sampler, eta, 7, grid="log-sigma")
    profile = eta if isinstance(eta, gb.Windows) else np.float64(eta)
    chain = [plain(step, model) for step in affine_steps(model, sampler, policy.sigmas, profile)]
    A, pull = coefficients(reward, d)
    for k, (sigma, low) in enumerate(zip(policy.sigmas[:-1], policy.sigmas[1:], strict=True)):
        if not chain[k][2].any():
            continue
        free, offset, effects, costs = np.eye(d), np.zeros(d), [], []
        for later in chain[k:]:
            step, b, S = later
            free, offset, effects = step @ free, step @ offset + b, [step @ effect for effect in effects]
            if S.any():
                effects.append(np.eye(d))
                costs.append(np.eye(d) / S[0, 0] ** 2)
        G = np.hstack(effects)
        R = np.kron(np.diag([cost[0, 0] for cost in costs]), np.eye(d))
        inverse = np.linalg.inv(R + 2 / BETA * G.T @ A @ G)[:d] @ G.T
        K, f = inverse @ (2 / BETA * A) @ free, inverse @ (pull / BETA - 2 / BETA * A @ offset)
        scale = sigma * (sigma - float(kernel_step(sampler, sigma, low, profile).carry))
        np.testing.assert_allclose(policy.gains[k] * scale, K, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(policy.pulls[k] * scale, f, rtol=1e-7, atol=1e-12)


def test_gains_are_those_of_the_scalar_recursion_of_the_theory():
    """V = -p z^2 + 2 q z, u* = 2 n2 (q - p (A z + b)) / (1 + 2 n2 p), eps = (mean - z) / (sigma' k - sigma)."""
    m, v, a, c, beta, eta = 0.4, 0.8, 0.7, 1.1, 2.3, 0.8
    policy = rl_optimum_discrete(gb.Gaussian(m, v), gb.Quadratic(a, c), beta, vp(9.0), "gddim", eta, 25)
    p, q = a / beta, a * c / beta
    for sigma, low in zip(policy.sigmas[-2::-1], policy.sigmas[:0:-1], strict=True):
        k = (low / sigma) ** eta**2
        n2 = low**2 * (1 - k**2)
        A, b = (v + sigma * low * k) / (v + sigma**2), m * (1 - (v + sigma * low * k) / (v + sigma**2))
        for z in (-1.7, 0.6):
            mean = A * z + b + 2 * n2 * (q - p * (A * z + b)) / (1 + 2 * n2 * p)
            eps = -sigma * policy.score(np.array([z]), sigma)[0]
            assert eps == pytest.approx((mean - z) / (low * k - sigma), rel=1e-9)
        p, q = A**2 * p / (1 + 2 * n2 * p), A * (q - p * b) / (1 + 2 * n2 * p)


@pytest.mark.parametrize("name", ["d=1", "full"])
def test_no_other_affine_policy_earns_more_after_its_kl(name):
    model, process, eta = MODELS[name], ve(3.0), 0.9
    reward = REWARDS["twisted" if model.dim == 3 else "quadratic"]
    policy = rl_optimum_discrete(model, reward, BETA, process, "gddim", eta, 8)
    steps = list(affine_steps(model, "gddim", policy.sigmas, np.float64(eta)))
    d = model.dim

    def value(change):
        """E r - beta KL of u = f - K z, the optimal control moved by ``change`` times a fixed direction."""
        m, V, kl = np.zeros(d), float(process.prior_variance) * np.eye(d), 0.0
        rng = np.random.default_rng(3)
        for k, step in enumerate(steps):
            A, b, S = plain(step, model)
            sigma, n2 = policy.sigmas[k], S[0, 0] ** 2
            dK, df = change * rng.standard_normal((d, d)) * n2, change * rng.standard_normal(d) * n2
            if n2 > 0:
                scale = sigma * (sigma - policy.sigmas[k + 1] * (policy.sigmas[k + 1] / sigma) ** eta**2)
                K, f = policy.gains[k] * scale + dK, policy.pulls[k] * scale + df
                kl += ((f - K @ m) @ (f - K @ m) + np.trace(K @ V @ K.T)) / (2 * n2)
                A, b = A - K, b + f
            m, V = A @ m + b, A @ V @ A.T + S @ S.T
        return float(reward.expectation(gb.Gaussian(m, V if d > 1 else V[0]))) - BETA * kl

    best, falls = value(0.0), {change: value(0.0) - value(change) for change in (-0.02, -0.01, 0.01, 0.02)}
    assert best == max(best, *(best - fall for fall in falls.values()))
    assert falls[0.02] + falls[-0.02] == pytest.approx(4 * (falls[0.01] + falls[-0.01]), rel=0.01)  # a parabola
    assert abs(falls[0.01] - falls[-0.01]) < 0.02 * falls[0.01]  # whose top is here


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_it_converges_to_the_continuous_optimum_at_order_1_under_its_own_sampler_and_under_the_ode(eta):
    process, reward = ve(3.0), REWARDS["twisted"]
    model = MODELS["full"]
    aims = (
        optimum_law(model, reward, BETA, process, eta),
        gb.terminal_law(rl_optimum(model, reward, BETA, process, eta), process, 0.0),
    )
    counts = np.array([200, 400, 800, 1600])
    errors = []
    for steps in counts:
        policy = rl_optimum_discrete(model, reward, BETA, process, "gddim", eta, int(steps), grid="sigma")
        errors.append(
            [float(law.w2(aim)) for law, aim in zip((policy.law, policy.sampled(eta=0.0)), aims, strict=True)]
        )
    slopes = np.diff(np.log(errors), axis=0) / np.diff(np.log(counts))[:, None]
    np.testing.assert_allclose(slopes[-1], -1, atol=0.05)


def test_convergence_is_slow_at_the_usual_number_of_steps():
    """Theory 3.2 (iii): 50 log-sigma steps from sigma_T = 1000 at eta = 1, where the limit is N(.5, .5)."""
    policy = rl_optimum_discrete(
        gb.Gaussian(0.0, 1.0), gb.Quadratic(1.0, 1.0), 2.0, vp(1000.0), "gddim", 1.0, 50, grid="log-sigma"
    )
    assert policy.law.mean[0] == pytest.approx(0.433, abs=0.005)
    assert policy.law.cov[0] == pytest.approx(0.457, abs=0.005)


def test_steps_without_noise_carry_no_control_and_their_eps_is_the_references():
    process = vp(20.0)
    for model in (MODELS["full"], ONE):
        policy = rl_optimum_discrete(model, gb.Quadratic(0.7, 0.3), BETA, process, "gddim", MIXED, 40, grid="log-sigma")
        below, above = policy.sigmas[1:], policy.sigmas[:-1]
        quiet = (below >= 2.0) | (above <= 0.5) | (below == 0)
        assert quiet.any()
        assert not quiet.all()
        assert not policy.gains[quiet].any()
        assert not policy.pulls[quiet].any()
        assert (np.abs(policy.pulls[~quiet]).max(-1) > 0).all()
        z = RNG.standard_normal((4, model.dim))
        for sigma in above[quiet]:
            np.testing.assert_allclose(policy.score(z, sigma), model.score(z, sigma), rtol=1e-9, atol=1e-12)


def test_its_network_serves_every_sampler_on_levels_of_its_grid():
    model, process = MODELS["full"], ve(3.0)
    policy = rl_optimum_discrete(model, REWARDS["twisted"], BETA, process, "gddim", 1.2, 24)
    drawn = gb.discrete_law(policy, process, "gddim", 1.2, sigmas=policy.sigmas)
    assert policy.law.w2(drawn) == pytest.approx(0, abs=1e-6)  # a root of what rounds differently by machine
    laws = [
        policy.sampled(eta=0.0),
        policy.sampled("heun", 0.0),
        policy.sampled("euler-maruyama", 0.7),
        policy.sampled("gddim", 0.0, every=3),
    ]
    assert all(laws[i].w2(laws[j]) > 0.01 for i in range(4) for j in range(i))
    # Heun by hand, from the scores alone
    mean = np.zeros((1, 3))
    for sigma, low in zip(policy.sigmas[:-1], policy.sigmas[1:], strict=True):
        slope = -sigma * policy.score(mean, sigma)
        there = mean + (low - sigma) * slope
        mean = there if low == 0 else mean + (low - sigma) * (slope - low * policy.score(there, low)) / 2
    np.testing.assert_allclose(laws[1].mean, mean[0], rtol=1e-10)


def test_simulation_of_the_policy_has_its_law():
    n = 60_000
    for name, reward in (("d=1", REWARDS["quadratic"]), ("full", REWARDS["twisted"])):
        policy = rl_optimum_discrete(MODELS[name], reward, BETA, ve(3.0), "gddim", 0.8, 20)
        run = gb.simulate(policy, ve(3.0), "gddim", 0.8, sigmas=policy.sigmas, n=n, seed=2, dtype=torch.float64)
        z, law = run.samples.numpy(), policy.law
        other = gb.discrete_law(MODELS[name], ve(3.0), "gddim", 0.8, sigmas=policy.sigmas)
        off, wrong = (np.abs((z.mean(0) - one.mean) / np.sqrt(one.variances / n)).max() for one in (law, other))
        assert off < 4 < 20 < wrong
        np.testing.assert_allclose(z.var(0), law.variances, rtol=4 * math.sqrt(2 / n))


def test_beta_and_the_reference_broadcast():
    betas, models = np.array([1.0, 3.0]), gb.Gaussian(np.stack([MEAN, -MEAN]), np.stack([SPD, 2 * SPD]))
    policy = rl_optimum_discrete(models, REWARDS["twisted"], betas, ve(3.0), "gddim", 0.8, 12)
    assert policy.batch_shape == (2,)
    for k in range(2):
        alone = rl_optimum_discrete(
            gb.Gaussian(models.mean[k], models.cov[k]), REWARDS["twisted"], betas[k], ve(3.0), "gddim", 0.8, 12
        )
        np.testing.assert_allclose(policy.law.mean[k], alone.law.mean, rtol=1e-11)
        np.testing.assert_allclose(policy.law.cov[k], alone.law.cov, rtol=1e-11)
    assert rl_optimum_discrete(ONE, gb.Linear(1.0), betas, ve(3.0), steps=5).law.batch_shape == (2,)


def test_a_beta_too_small_for_a_reward_without_a_top_is_refused():
    process, reward = ve(3.0), gb.Quadratic(-0.4, 0.0)
    sigmas = gb.grid(process, 20)
    V = 0.0
    for step in affine_steps(ONE, "gddim", sigmas, np.float64(0.7)):
        V = step.A[0] ** 2 * V + step.S[0] ** 2
    least = 2 * 0.4 * V  # 1/V + 2A/beta = 0
    assert rl_optimum_discrete(ONE, reward, least * 1.001, process, eta=0.7, steps=20).law.cov[0] > 10
    with pytest.raises(ValueError, match="E r - beta KL has no maximum from some step on; beta must be above"):
        rl_optimum_discrete(ONE, reward, least * 0.999, process, eta=0.7, steps=20)


def test_what_it_does_not_know_is_refused():
    policy = rl_optimum_discrete(ONE, gb.Linear(1.0), 1.0, ve(3.0), steps=10)
    with pytest.raises(ValueError, match=re.escape("the 10 levels that it steps from, got sigma=0.123, the nearest")):
        policy.gain(0.123)
    with pytest.raises(ValueError, match=re.escape("one noise level at a time, got shape (2,)")):
        policy.gain(np.array([3.0, 2.7]))
    with pytest.raises(ValueError, match="has no law in continuous time; use discrete_law"):
        gb.terminal_law(policy, ve(3.0), 0.0)
    with pytest.raises(ValueError, match="every must divide the 10 steps, got 3"):
        policy.sampled(every=3)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        policy.sampled(every=0)
    with pytest.raises(ValueError, match="sampler 'exact' needs the variances"):
        policy.sampled("exact")
    with pytest.raises(ValueError, match="known at the 10 levels"):
        gb.discrete_law(policy, gb.FlowMatching(1.0), "gddim", 1.0, 10)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.6])
def test_from_t_1_of_flow_matching_the_optimum_is_the_limit_of_far_starts_and_simulation_follows_it(eta):
    target, reward = gb.Gaussian(0.3, 0.5), gb.Quadratic(0.5, 1.0)
    laws = []
    for process in (gb.FlowMatching(1.0), gb.FlowMatching(1 - 1e-13)):
        optimum = gb.rl_optimum_discrete(target, reward, 1.0, process, "gddim", eta, 12)
        laws.append([optimum.law, optimum.sampled("ddim", 0.0)])
    for here, near in zip(*laws, strict=True):
        assert here.w2(near) < (1e-3 if eta < 1 else 1e-6)
    untrained = gb.discrete_law(target, gb.FlowMatching(1.0), "gddim", eta, 12)
    assert laws[0][0].mean[0] > untrained.mean[0] + 0.1
    endless = gb.rl_optimum_discrete(target, reward, 1.0, gb.FlowMatching(1.0), "gddim", eta, 12)
    run = gb.simulate(endless, gb.FlowMatching(1.0), "gddim", eta, sigmas=endless.sigmas, n=50_000, seed=2)
    z, law = run.samples.double().numpy()[:, 0], endless.law
    assert z.mean() == pytest.approx(float(law.mean[0]), abs=4 * math.sqrt(float(law.cov[0]) / len(z)))
    assert z.var() == pytest.approx(float(law.cov[0]), rel=4 * math.sqrt(2 / len(z)))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((ONE, gb.Bump(0.0, 1.0), 1.0, ve(1.0)), {}, TypeError, "only Quadratic and Linear rewards"),
        (
            (gb.GaussianMixture([1.0], [0.0], 1.0), gb.Linear(1.0), 1.0, ve(1.0)),
            {},
            TypeError,
            "needs a Gaussian or an",
        ),
        ((ONE, gb.Linear(1.0), 0.0, ve(1.0)), {}, ValueError, "beta must be positive, got 0.0"),
        ((ONE, gb.Linear(1.0), 1.0, ve(1.0), "heun"), {}, ValueError, "unknown sampler 'heun'; known: ddim, gddim"),
        ((ONE, gb.Linear(1.0), 1.0, gb.VE([1.0, 2.0])), {}, ValueError, "one T and one eta, got an array"),
        ((ONE, gb.Linear(1.0), 1.0, ve(1.0), "gddim", [1.0, 2.0]), {}, ValueError, "one T and one eta, got an array"),
        (
            (ONE, gb.Quadratic(1.0, 0.0), 1.0, gb.FlowMatching(1.0), "ddim", 0.5),
            {},
            ValueError,
            "'ddim' carries x_T into",
        ),
        ((ONE, gb.Linear(np.ones(2)), 1.0, ve(1.0)), {}, ValueError, "does not fit the dimension 1"),
        ((ONE, gb.Linear(1.0), 1.0, ve(1.0)), {"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ((ONE, gb.Linear(1.0), 1.0, ve(1.0), "ddim", 1.5), {"steps": 3}, ValueError, "DDIM admits eta up to"),
        ((gb.Gaussian(np.zeros((2, 1)), 1.0), gb.Linear(1.0), np.ones(3), ve(1.0)), {}, ValueError, "do not broadcast"),
    ],
)
def test_bad_input_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        rl_optimum_discrete(*arguments, **options)
