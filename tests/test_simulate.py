"""Simulated laws against exact ones in standard errors, and what a run may not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq

import gapbound as gb
from gapbound.chain import affine_steps
from gapbound.noise import BLOCK_ELEMENTS

F64 = torch.float64
N = 40_000
LINE = gb.Gaussian(0.7, 0.5)
PLANE = gb.Gaussian([0.7, -1.3], [[0.8, 0.3], [0.3, 0.5]])
DIAGONAL = gb.Gaussian([0.7, -1.3], [0.2, 3.0])
GUIDED = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 3.0)
CROSSED = gb.guided(
    gb.Gaussian([0.1, 0.4], [[1.0, 0.6], [0.6, 2.0]]), gb.Gaussian([1.2, -0.3], [[0.5, -0.2], [-0.2, 0.4]]), 2.5
)
MIXTURE = gb.GaussianMixture([0.3, 0.7], [-1.4, 0.9], [0.2, 0.6])
MODELS = {"d=1": LINE, "full": PLANE, "diagonal": DIAGONAL, "guided": GUIDED, "not commuting": CROSSED}
SAMPLERS = {"ddim": 1.0, "gddim": 1.5, "euler-maruyama": 1.2, "heun": 0.0, "stochastic-heun": 0.8, "exact": 1.3}


def moment_z_scores(samples, law):
    """Mean and every entry of the covariance, in standard errors of a Gaussian sample."""
    x, n = samples.double().numpy(), len(samples)
    mean_z = (x.mean(0) - law.mean) / np.sqrt(law.variances / n)
    cov, S = np.cov(x.T).reshape(law.dim, law.dim), law.matrix
    cov_z = (cov - S) / np.sqrt((S**2 + np.outer(law.variances, law.variances)) / n)
    return np.concatenate([mean_z, cov_z.ravel()])


def unit_noise(steps, n, dim, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((n, dim))), torch.tensor(rng.standard_normal((steps, n, dim)))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS.items(), ids=SAMPLERS)
@pytest.mark.parametrize("process", [gb.VE(2.0), gb.VP(1.1), gb.FlowMatching(0.7)], ids=["VE", "VP", "flow"])
def test_simulated_moments_equal_the_exact_law_of_the_chain(model, sampler, eta, process):
    if sampler == "exact" and not isinstance(model, gb.Gaussian):
        pytest.skip("the exact kernel knows Gaussians alone")
    law = gb.discrete_law(model, process, sampler, eta, steps=12)
    samples = gb.simulate(model, process, sampler, eta, steps=12, n=N, seed=1).samples
    assert np.abs(moment_z_scores(samples, law)).max() < 4


def test_the_moment_test_rejects_a_wrong_eta_sampler_step_count_and_mean():
    samples = gb.simulate(LINE, gb.VP(1.1), "gddim", 1.5, steps=12, n=N, seed=1).samples
    wrong = {
        "eta": gb.discrete_law(LINE, gb.VP(1.1), "gddim", 1.2, steps=12),
        "sampler": gb.discrete_law(LINE, gb.VP(1.1), "euler-maruyama", 1.5, steps=12),
        "steps": gb.discrete_law(LINE, gb.VP(1.1), "gddim", 1.5, steps=15),
        "mean": gb.discrete_law(gb.Gaussian(0.72, 0.5), gb.VP(1.1), "gddim", 1.5, steps=12),
    }
    for name, law in wrong.items():
        assert np.abs(moment_z_scores(samples, law)).max() > 4.5, name


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_two_time_covariance_tells_a_wrong_eta_and_the_marginal_cannot(eta):
    """The law of N(0, 1) under VP is stationary: every marginal is right whatever eta; only correlations see it."""
    model, process, wrong_eta = gb.Gaussian(0.0, 1.0), gb.VP(1.3), eta + 0.2
    sigmas = gb.grid(process, 10)
    path = gb.simulate(model, process, "exact", eta, sigmas=sigmas, n=N, seed=3, trajectory=True).trajectory[..., 0]

    def covariance_z(k, value):
        v_k, v_end = 1 + sigmas[k] ** 2, 1.0
        # corr = prod R of theory 6, which telescopes
        expected = np.sqrt(v_k * v_end) * (v_end / v_k) ** (value**2 / 2)
        products = path[k].double() * path[-1].double()
        return float((products.mean() - expected) / (products.std() / N**0.5))

    for k in (0, 3, 7):
        assert abs(covariance_z(k, eta)) < 4
    assert max(abs(covariance_z(k, wrong_eta)) for k in (0, 3, 7)) > 6
    for value in (eta, wrong_eta):  # the marginal test passes with the wrong eta as well
        law = gb.discrete_law(model, process, "exact", value, sigmas=sigmas)
        assert np.abs(moment_z_scores(path[-1][:, None], law)).max() < 4


def quadrature_moments(law, low=-8.0, high=8.0):
    """Mean, variance and P(x < 0) with their sampling variances, from the density."""
    density = lambda x: float(np.exp(law.log_prob(np.array([x]))))  # noqa: E731
    moments = [quad(lambda x, p=p: x**p * density(x), low, high, epsabs=1e-12, limit=200)[0] for p in range(5)]
    below = quad(density, low, 0.0, epsabs=1e-12, limit=200)[0]
    return moments, below


@pytest.mark.parametrize(("sampler", "eta"), [("gddim", 1.0), ("heun", 0.0), ("stochastic-heun", 1.5)])
def test_a_mixture_from_far_in_many_steps_has_the_density_of_its_target(sampler, eta):
    n, moments_below = 20_000, quadrature_moments(MIXTURE)
    (_, mean, second, _, fourth), below = moments_below
    steps = 600 if sampler == "gddim" else 120
    x = gb.simulate(MIXTURE, gb.VP(3.0), sampler, eta, steps=steps, grid="karras", n=n, seed=5).samples[:, 0].double()
    z = [
        (x.mean() - mean) / ((second - mean**2) / n) ** 0.5,
        ((x**2).mean() - second) / ((fourth - second**2) / n) ** 0.5,
        ((x < 0).double().mean() - below) / (below * (1 - below) / n) ** 0.5,
    ]
    assert max(abs(float(value)) for value in z) < 4
    coarse = gb.simulate(MIXTURE, gb.VP(3.0), sampler, eta, steps=5, grid="karras", n=n, seed=5).samples[:, 0].double()
    assert abs(float(((coarse**2).mean() - second) / ((fourth - second**2) / n) ** 0.5)) > 8


def test_the_mixture_s_ode_is_the_monotone_map_between_distribution_functions():
    """Theory 4: in d = 1 the flow carries quantiles to quantiles."""
    from scipy.special import ndtr

    process, x_T = gb.VE(8.0), torch.linspace(-1.5, 1.5, 7, dtype=F64)[:, None]
    weights, means, variances = MIXTURE.weights, MIXTURE.components.mean[:, 0], MIXTURE.components.cov[:, 0]

    def cdf(z, sigma):
        return float((weights * ndtr((z - means) / np.sqrt(variances + sigma**2))).sum())

    expected = [brentq(lambda x, z=z: cdf(x, 0.0) - cdf(z, 8.0), -20, 20, xtol=1e-13) for z in 8.0 * x_T[:, 0].numpy()]
    noise = (x_T, torch.zeros(2000, 7, 1, dtype=F64))
    got = gb.simulate(MIXTURE, process, "heun", 0.0, steps=2000, grid="karras", n=7, noise=noise, dtype=F64).samples
    np.testing.assert_allclose(got[:, 0], expected, atol=3e-5)


RUNS = {
    "Gaussian": dict(model=LINE),
    "full": dict(model=PLANE),
    "mixture": dict(model=MIXTURE),
    "callable": dict(model=lambda z, sigma: -z / (1 + sigma**2), dim=3),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_results_do_not_depend_on_chunk_n_or_threads(run):
    options = dict(process=gb.VP(1.3), eta=1.2, steps=4, seed=9, trajectory=True, log_prob=True, **run)
    n = 2 * BLOCK_ELEMENTS + 11
    whole = gb.simulate(n=n, **options)
    others = [gb.simulate(n=n, chunk=chunk, **options) for chunk in (1, BLOCK_ELEMENTS + 1, 10 * n)]
    others += [gb.simulate(n=m, **options) for m in (100, BLOCK_ELEMENTS + 5)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        others.append(gb.simulate(n=n, **options))
    finally:
        torch.set_num_threads(threads)
    # Gaussians in d = 1 to the bit; a matrix product of few rows may round its own way
    tolerance = dict(rtol=0, atol=0 if run["model"] is LINE else 1e-4)
    for other in others:
        m = len(other.samples)
        torch.testing.assert_close(other.samples, whole.samples[:m], **tolerance)
        torch.testing.assert_close(other.trajectory, whole.trajectory[:, :m], **tolerance)
        for got, expected in zip(other.log_prob, whole.log_prob, strict=True):
            assert (got is None) == (expected is None)
            if got is not None:
                torch.testing.assert_close(got, expected[:m], **tolerance)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_is_left_as_it_was(threads):
    class Broken(gb.GaussianMixture):
        def score(self, z, sigma=0.0):
            raise RuntimeError("out of order")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        gb.simulate(MIXTURE, gb.VP(1.3), steps=2, n=3 * BLOCK_ELEMENTS)
        assert torch.get_num_threads() == threads
        with pytest.raises(RuntimeError, match="out of order"):
            gb.simulate(Broken([0.5, 0.5], [0.0, 1.0], 1.0), gb.VP(1.3), steps=2, n=3 * BLOCK_ELEMENTS)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@given(n=st.integers(1, 300), more=st.integers(0, 300), seed=st.integers(0, 1000), eta=st.floats(0, 3))
@settings(max_examples=25)
def test_the_first_paths_are_the_same_however_many_follow(n, more, seed, eta):
    options = dict(model=DIAGONAL, process=gb.VE(3.0), eta=eta, steps=3, seed=seed)
    few, many = gb.simulate(n=n, **options).samples, gb.simulate(n=n + more, **options).samples
    torch.testing.assert_close(few, many[:n], rtol=0, atol=0)


def recovered_increments(run, model, process, sampler, eta):
    """xi of every random step, read off a float64 trajectory; None where a step is deterministic."""
    z, found = run.trajectory[..., 0].numpy(), []
    profile = eta if isinstance(eta, gb.Windows) else np.array(eta)
    for k, affine in enumerate(affine_steps(model, sampler, run.sigmas, profile)):
        residual = z[k + 1] - affine.A * z[k] - affine.b
        found.append(residual / affine.S if affine.S[0] > 0 else None)
    return found


def test_increments_are_shared_step_by_step_across_eta_samplers_and_windows():
    process = gb.VP(1.3)
    sigmas = gb.grid(process, 8)
    window = gb.Windows([(sigmas[6], sigmas[3], 0.9)])
    runs = [("gddim", 0.5), ("gddim", 2.0), ("euler-maruyama", 1.0), ("exact", 1.0), ("gddim", window)]
    found = []
    for sampler, eta in runs:
        run = gb.simulate(LINE, process, sampler, eta, steps=8, n=500, seed=2, dtype=F64, trajectory=True)
        found.append(recovered_increments(run, LINE, process, sampler, eta))
    assert [xi is not None for xi in found[-1]] == [False] * 3 + [True] * 3 + [False] * 2
    for step in range(7):
        present = [xis[step] for xis in found if xis[step] is not None]
        assert len(present) >= 4
        for xi in present[1:]:
            np.testing.assert_allclose(xi, present[0], rtol=0, atol=1e-9)
    for earlier, later in [(0, 1), (3, 4)]:
        assert abs(np.corrcoef(found[0][earlier], found[0][later])[0, 1]) * 500**0.5 < 4


def test_seeds_and_draws_are_independent_and_draws_share_x_T():
    def run(eta=1.0, **options):
        return gb.simulate(LINE, gb.VP(1.3), "exact", eta, steps=5, n=N, dtype=F64, **options).samples[:, 0].numpy()

    def correlation_z(a, b):
        return np.corrcoef(a, b)[0, 1] * N**0.5

    assert abs(correlation_z(run(seed=1), run(seed=2))) < 4
    # two draws keep the correlation that x_T leaves: kappa^2 v_pi / var, kappa = prod of the factors
    chain = list(affine_steps(LINE, "exact", gb.grid(gb.VP(1.3), 5), np.array(1.0)))
    kept = float(np.prod([affine.A for affine in chain]) ** 2 * gb.VP(1.3).prior_variance)
    expected = kept / float(gb.discrete_law(LINE, gb.VP(1.3), "exact", 1.0, steps=5).cov[0])
    assert abs(correlation_z(run(seed=1, draw=0), run(seed=1, draw=1)) / N**0.5 - expected) * N**0.5 < 4
    assert expected * N**0.5 > 8  # so that sharing nothing would fail
    np.testing.assert_array_equal(run(eta=0.0, seed=1, draw=0), run(eta=0.0, seed=1, draw=3))


@pytest.mark.parametrize(
    "model", [LINE, DIAGONAL, PLANE, GUIDED, MIXTURE], ids=["d=1", "diagonal", "full", "guided", "mix"]
)
@pytest.mark.parametrize("sampler", ["ddim", "gddim", "euler-maruyama", "exact"])
def test_log_prob_is_the_normal_density_of_each_step_of_the_trajectory(model, sampler):
    if sampler == "exact" and not isinstance(model, gb.Gaussian):
        pytest.skip("the exact kernel knows Gaussians alone")
    process, eta = gb.VP(1.2), 0.9
    run = gb.simulate(model, process, sampler, eta, steps=6, n=50, seed=1, dtype=F64, trajectory=True, log_prob=True)
    for k, value in enumerate(run.log_prob):
        s, s_next = run.sigmas[k], run.sigmas[k + 1]
        if s_next == 0 and sampler in ("ddim", "gddim"):
            assert value is None
            continue
        mean, cov = conditional_law(model, sampler, run.trajectory[k], s, s_next, eta)
        expected = torch.distributions.MultivariateNormal(mean, cov).log_prob(run.trajectory[k + 1])
        if model.dim == 1:
            normal = torch.distributions.Normal(mean, cov[0].sqrt()).log_prob(run.trajectory[k + 1])
            torch.testing.assert_close(normal.sum(-1), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)


def conditional_law(model, sampler, z, s, s_next, eta):
    """Mean (n, d) and covariance (d, d) of a step, by theory section 6."""
    score, eye = model.score(z, s), torch.eye(model.dim, dtype=F64)
    eps, h = -s * score, s**2 - s_next**2
    denoised = z - s * eps
    if sampler == "euler-maruyama":
        return z + (1 + eta**2) / 2 * h * score, eta**2 * h * eye
    if sampler == "ddim":
        n2 = eta**2 * s_next**2 * h / s**2
        return denoised + np.sqrt(s_next**2 - n2) * eps, n2 * eye
    if sampler == "gddim":
        k = (s_next / s) ** (eta**2)
        return denoised + s_next * k * eps, s_next**2 * (1 - k**2) * eye
    values, basis = np.linalg.eigh(model.matrix)
    v_s, v_t = values + s_next**2, values + s**2
    factor = torch.tensor(basis * (v_s / v_t) ** ((1 + eta**2) / 2) @ basis.T)
    cov = torch.tensor(basis * (v_s * (1 - (v_s / v_t) ** (eta**2))) @ basis.T)
    mean = torch.tensor(model.mean)
    return mean + (z - mean) @ factor, cov


def test_log_prob_is_none_exactly_where_a_step_is_deterministic():
    def random_steps(sampler, eta, **options):
        options = dict(model=LINE, steps=6, n=3, log_prob=True) | options
        values = gb.simulate(process=gb.VE(3.0), sampler=sampler, eta=eta, **options).log_prob
        assert all(value is None or torch.isfinite(value).all() for value in values)
        return [value is not None for value in values]

    for sampler in ("ddim", "gddim", "euler-maruyama", "heun", "exact"):
        assert random_steps(sampler, 0.0) == [False] * 6
    for sampler in ("ddim", "gddim"):
        assert random_steps(sampler, 0.8) == [True] * 5 + [False]  # the last step goes to sigma = 0
        assert random_steps(sampler, 0.8, t_min=0.1) == [True] * 6
    for sampler in ("euler-maruyama", "exact"):
        assert random_steps(sampler, 0.8) == [True] * 6
    window = gb.Windows([(1.0, 2.0, 0.7)])  # grid 3, 2.5, ..., 0
    for sampler in ("ddim", "gddim", "euler-maruyama", "exact"):
        assert random_steps(sampler, window) == [False, False, True, True, False, False]
    for sampler in ("gddim", "euler-maruyama"):  # a standard deviation below the dtype's smallest number is none
        for model in (LINE, DIAGONAL, MIXTURE):
            assert random_steps(sampler, 1e-60, model=model) == [False] * 6
            assert random_steps(sampler, 1e-60, model=model, dtype=F64)[:5] == [True] * 5
    assert gb.simulate(LINE, gb.VE(3.0), steps=6, n=3).log_prob is None
    assert gb.simulate(LINE, gb.VE(3.0), steps=6, n=3).trajectory is None


@pytest.mark.parametrize("model", [LINE, PLANE, CROSSED, MIXTURE], ids=["d=1", "full", "not commuting", "mixture"])
def test_float32_follows_float64_on_the_same_noise(model):
    noise = unit_noise(30, 200, model.dim)
    options = dict(model=model, process=gb.VP(1.5), eta=1.1, steps=30, n=200, log_prob=True, trajectory=True)
    single = gb.simulate(noise=tuple(part.float() for part in noise), dtype=torch.float32, **options)
    double = gb.simulate(noise=noise, dtype=F64, **options)
    assert single.samples.dtype == torch.float32
    scale = float(double.trajectory.abs().max())
    torch.testing.assert_close(single.trajectory.double(), double.trajectory, rtol=0, atol=3e-5 * scale)
    torch.testing.assert_close(single.log_prob[0].double(), double.log_prob[0], rtol=1e-5, atol=1e-5)


def test_numpy_noise_is_accepted_and_left_alone():
    x_T, xi = (part.numpy() for part in unit_noise(3, 5, 1))
    kept = x_T.copy(), xi.copy()
    gb.simulate(LINE, gb.VE(2.0), steps=3, n=5, noise=(x_T, xi), dtype=F64)
    np.testing.assert_array_equal(x_T, kept[0])
    np.testing.assert_array_equal(xi, kept[1])


def test_a_callable_runs_without_gradients():
    weight = torch.tensor(1.0, requires_grad=True)
    run = gb.simulate(lambda z, sigma: -weight * z / (1 + sigma**2), gb.VE(2.0), steps=3, n=5, dim=1)
    assert not run.samples.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_paths_on_the_same_noise():
    noise = unit_noise(10, 300, 2)
    options = dict(model=PLANE, process=gb.VP(1.5), steps=10, n=300, noise=noise, dtype=F64)
    torch.testing.assert_close(gb.simulate(device="cuda", **options).samples.cpu(), gb.simulate(**options).samples)
    chunked = [gb.simulate(PLANE, gb.VP(1.5), n=40_000, device="cuda", chunk=chunk).samples for chunk in (1, 40_000)]
    torch.testing.assert_close(*chunked, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dim": 7}, ValueError, "dim is 7, but the model has 1 dimensions; leave dim out"),
        ({"trajectory": "no"}, TypeError, "trajectory must be True or False, got 'no'"),
        ({"log_prob": 1}, TypeError, "log_prob must be True or False, got 1"),
        ({"device": "tpu9"}, ValueError, r"torch cannot use 'tpu9' here \(.*\); try 'cpu'"),
        ({"device": "meta"}, ValueError, "torch cannot use 'meta' here"),
        ({"device": None}, TypeError, "device must be the name of a torch device, got None"),
        ({"sampler": None}, TypeError, "sampler must be one of the names"),
        ({"seed": True}, TypeError, "seed must be a whole number, got True"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"n": 10**13}, ValueError, r"n=10000000000000 paths in 1 dimensions would keep .* GiB, and there are"),
        ({"n": 10**9, "trajectory": True, "steps": 10**4}, ValueError, "leave out trajectory and log_prob"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(arguments, error, message):
    with pytest.raises(error, match=message):
        gb.simulate(gb.Gaussian(0.0, 1.0), gb.VE(3.0), **{"n": 4, "steps": 2} | arguments)


def test_a_score_may_overwrite_what_it_is_given():
    target, process = gb.Gaussian(0.3, 0.7), gb.VE(3.0)

    def overwriting(z, sigma):
        score = target.score(z, sigma)
        z.fill_(1e3)
        return score

    expected = gb.simulate(target.score, process, n=64, steps=5, dim=1, sampler="stochastic-heun", trajectory=True)
    found = gb.simulate(overwriting, process, n=64, steps=5, dim=1, sampler="stochastic-heun", trajectory=True)
    assert found.trajectory.equal(expected.trajectory)


def test_a_complex_score_is_refused():
    with pytest.raises(TypeError, match=r"the score must be real, got torch.complex64; return its real part"):
        gb.simulate(lambda z, sigma: -z * (1 + 1j), gb.VE(3.0), n=4, steps=2, dim=1)


@pytest.mark.parametrize("bad", ["ab", torch.ones(4, 1, dtype=torch.complex64), torch.ones(4, 1, dtype=torch.bool)])
def test_noise_of_the_wrong_kind_is_refused(bad):
    with pytest.raises(TypeError, match="x_T must"):
        gb.simulate(gb.Gaussian(0.0, 1.0), gb.VE(3.0), n=4, steps=2, noise=(bad, torch.zeros(2, 4, 1)))
