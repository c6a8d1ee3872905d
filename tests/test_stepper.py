"""One step after another: passed noise reproduces by hand, and the fast path of affine scores equals their score."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gapbound as gb

F64 = torch.float64
FULL_COV = [[0.8, 0.3, -0.1], [0.3, 0.5, 0.2], [-0.1, 0.2, 1.7]]
MODELS = {
    "number": gb.Gaussian(0.7, 0.5),
    "isotropic": gb.Gaussian([0.7, -1.3, 2.1], 0.5),
    "diagonal": gb.Gaussian([0.7, -1.3, 2.1], [0.5, 1e-4, 30.0]),
    "full": gb.Gaussian([0.7, -1.3, 2.1], FULL_COV),
    "guided": gb.guided(gb.Gaussian([0.1, 0.4], [1.0, 2.0]), gb.Gaussian([1.2, -0.3], [0.5, 0.7]), 3.0),
    "guided, commuting": gb.guided(gb.Gaussian(np.zeros(3), 1.3), gb.Gaussian([0.7, -1.3, 2.1], FULL_COV), 2.0),
    "guided, not commuting": gb.guided(
        gb.Gaussian([0.1, 0.4], [[1.0, 0.6], [0.6, 2.0]]), gb.Gaussian([1.2, -0.3], [[0.5, -0.2], [-0.2, 0.4]]), 2.5
    ),
    "mixture": gb.GaussianMixture([0.3, 0.7], [-1.4, 0.9], [0.2, 0.6]),
    "mixture, full": gb.GaussianMixture(
        [0.3, 0.7], [[-1.4, 0.2], [0.9, -0.5]], [[[0.5, 0.1], [0.1, 0.3]], [[0.4, -0.2], [-0.2, 0.6]]]
    ),
}
SAMPLERS = {"ddim": 0.9, "gddim": 1.7, "euler-maruyama": 1.3, "heun": 0.0, "stochastic-heun": 0.8}


def dense_score(model):
    """grad log q_tau by linear algebra on full matrices, one path at a time."""

    def gaussian(law):
        return lambda z, s: np.linalg.solve(law.matrix + s**2 * np.eye(law.dim), law.mean - z)

    if isinstance(model, gb.Gaussian):
        return gaussian(model)
    if isinstance(model, gb.AffineScore):
        free, told, w = gaussian(model.unconditional), gaussian(model.conditional), float(model.scale)
        return lambda z, s: (1 - w) * free(z, s) + w * told(z, s)

    def mixture(z, s):
        parts = [gb.Gaussian(m, S) for m, S in zip(model.components.mean, model.components.matrix, strict=True)]
        density = np.array([float(np.exp(part.noised(s).log_prob(z))) for part in parts]) * model.weights
        return sum(p * gaussian(part)(z, s) for p, part in zip(density / density.sum(), parts, strict=True))

    return mixture


def walk(sampler, score, mean, z, xi, sigmas, etas):
    """The table of theory section 6, one path, one step at a time; ``z`` is the start, ``mean`` is E[x_0]."""
    path = [z]
    for s, s_next, eta, x in zip(sigmas[:-1], sigmas[1:], etas, xi, strict=True):
        if np.isinf(s):  # D = E[x_0]; z is the noise itself and stands for eps
            k = 1.0 if eta == 0 else 0.0
            z = mean + s_next * (k * z + np.sqrt(1 - k**2) * x)
            path.append(z)
            continue
        slope, h, c = score(z, s), s**2 - s_next**2, (1 + eta**2) / 2
        eps, denoised, noise = -s * slope, z + s**2 * slope, eta * np.sqrt(h) * x
        if sampler == "ddim":
            n2 = eta**2 * s_next**2 * (1 - s_next**2 / s**2)
            z = denoised + np.sqrt(s_next**2 - n2) * eps + np.sqrt(n2) * x
        elif sampler == "gddim":
            k = (s_next / s) ** (eta**2)
            z = denoised + s_next * (k * eps + np.sqrt(1 - k**2) * x)
        elif sampler == "heun":
            first = z + (s_next - s) * eps
            z = first if s_next == 0 else z + (s_next - s) * (eps - s_next * score(first, s_next)) / 2
        elif sampler == "euler-maruyama" or s_next == 0:
            z = z + c * h * slope + noise
        elif sampler == "stochastic-heun":
            first = z + c * h * slope + noise
            z = z + c * h * (slope + score(first, s_next)) / 2 + noise
        path.append(z)
    return np.array(path)


def power(matrix, exponent):
    """A power of a symmetric matrix."""
    values, basis = np.linalg.eigh((matrix + matrix.T) / 2)
    return basis @ np.diag(np.maximum(values, 0) ** exponent) @ basis.T


def exact_walk(law, z, xi, sigmas, eta):
    """The exact-marginal kernel of theory section 6 by matrix functions, one path."""
    path, eye = [z], np.eye(law.dim)
    for s, s_next, x in zip(sigmas[:-1], sigmas[1:], xi, strict=True):
        v_s, v_t = law.matrix + s_next**2 * eye, law.matrix + s**2 * eye
        ratio = v_s @ np.linalg.inv(v_t)
        R = power(ratio, eta**2 / 2)
        z = law.mean + power(ratio, 1 / 2) @ R @ (z - law.mean) + power(v_s @ (eye - R @ R), 1 / 2) @ x
        path.append(z)
    return np.array(path)


def random_noise(steps, n, dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, dim)), rng.standard_normal((steps, n, dim))


def simulated(model, process, sampler, eta, sigmas, noise, **options):
    x_T, xi = (torch.tensor(part) for part in noise)
    run = gb.simulate(
        model, process, sampler, eta, n=len(x_T), sigmas=sigmas, noise=(x_T, xi), dtype=F64, trajectory=True, **options
    )
    torch.testing.assert_close(run.samples, run.trajectory[-1], rtol=0, atol=0)
    return run.trajectory.numpy()


def by_hand(model, process, sampler, etas, sigmas, noise):
    x_T, xi = noise
    start = x_T * (1.0 if np.isinf(process.sigma_T) else np.sqrt(float(process.prior_variance)))
    paths = [
        exact_walk(model, start[i], xi[:, i], sigmas, etas[0])
        if sampler == "exact"
        else walk(sampler, dense_score(model), model.pure_noise_mean, start[i], xi[:, i], sigmas, etas)
        for i in range(len(x_T))
    ]
    return np.stack(paths, axis=1)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS.items(), ids=SAMPLERS)
@pytest.mark.parametrize("process", [gb.VE(2.3), gb.VP(1.1), gb.FlowMatching(0.8)], ids=["VE", "VP", "flow"])
def test_passed_noise_reproduces_by_hand(model, sampler, eta, process):
    sigmas = gb.grid(process, 7)
    noise = random_noise(7, 3, model.dim)
    got = simulated(model, process, sampler, eta, sigmas, noise)
    expected = by_hand(model, process, sampler, [eta] * 7, sigmas, noise)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 2.2])
@pytest.mark.parametrize("name", ["number", "diagonal", "full"])
def test_the_exact_sampler_with_passed_noise_reproduces_by_hand(name, eta):
    model, process = MODELS[name], gb.VP(1.1)
    sigmas = gb.grid(process, 4)
    noise = random_noise(4, 3, model.dim)
    got = simulated(model, process, "exact", eta, sigmas, noise)
    atol = 1e-11 if eta else 1e-6  # at eta = 0 the hand takes the square root of a rounding
    np.testing.assert_allclose(got, by_hand(model, process, "exact", [eta], sigmas, noise), rtol=1e-9, atol=atol)


@pytest.mark.parametrize("model", [MODELS[name] for name in ("diagonal", "full", "guided", "guided, commuting",
                         "guided, not commuting", "mixture, full")])  # fmt: skip
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 1.0), ("ddim", 0.0), ("gddim", 0.0), ("gddim", 1.5)])
def test_flow_matching_starts_at_t_1_from_the_noise_itself(model, sampler, eta):
    process, noise = gb.FlowMatching(), random_noise(6, 3, model.dim)
    sigmas = gb.grid(process, 6)
    got = simulated(model, process, sampler, eta, sigmas, noise)
    np.testing.assert_allclose(got[0], noise[0], rtol=1e-14)
    np.testing.assert_allclose(got, by_hand(model, process, sampler, [eta] * 6, sigmas, noise), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["diagonal", "full", "mixture"])
@pytest.mark.parametrize("sampler", ["ddim", "gddim", "euler-maruyama", "stochastic-heun"])
def test_windows_on_the_grid_are_steps_with_another_eta(name, sampler):
    model, process = MODELS[name], gb.VE(3.0)
    sigmas = np.array([3.0, 2.0, 1.5, 1.0, 0.6, 0.3, 0.0])
    etas = [0.0, 0.7, 0.7, 0.0, 1.1, 0.0]
    windows = gb.Windows([(1.0, 2.0, 0.7), (0.3, 0.6, 1.1)])
    noise = random_noise(6, 3, model.dim)
    got = simulated(model, process, sampler, windows, sigmas, noise)
    np.testing.assert_allclose(got, by_hand(model, process, sampler, etas, sigmas, noise), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("mixture")])
@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS.items(), ids=SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_fast_path_of_an_affine_score_equals_its_score_as_a_callable(name, sampler, eta, dtype):
    model, process = MODELS[name], gb.VP(1.3)
    options = dict(process=process, sampler=sampler, eta=eta, steps=20, n=50, seed=4, dtype=dtype, trajectory=True)
    fast = gb.simulate(model, **options)
    slow = gb.simulate(model.score, dim=model.dim, **options)
    scale = slow.trajectory.abs().amax()
    torch.testing.assert_close(
        fast.trajectory, slow.trajectory, rtol=0, atol=float(scale * torch.finfo(dtype).eps * 50)
    )


@given(
    means=st.lists(st.floats(-10, 10), min_size=1, max_size=4),
    log_variances=st.lists(st.floats(-6, 3), min_size=4, max_size=4),
    sigma_T=st.floats(0.5, 100),
    eta=st.one_of(st.just(0.0), st.floats(1e-6, 20)),
    steps=st.integers(1, 12),
    kind=st.sampled_from(["time", "log-sigma", "karras"]),
)
@settings(max_examples=60)
def test_the_fast_path_equals_the_score_for_any_eta_grid_and_spread_of_variances(
    means, log_variances, sigma_T, eta, steps, kind
):
    model = gb.Gaussian(means, 10.0 ** np.array(log_variances[: len(means)]))
    options = dict(process=gb.VE(sigma_T), eta=eta, steps=steps, grid=kind, n=20, dtype=F64, trajectory=True)
    fast, slow = gb.simulate(model, **options), gb.simulate(model.score, dim=model.dim, **options)
    torch.testing.assert_close(fast.trajectory, slow.trajectory, rtol=1e-9, atol=1e-9 * sigma_T)


def test_the_fast_path_reaches_starts_beyond_the_range_of_float32():
    law = gb.discrete_law(gb.Gaussian(0.4, 0.5), gb.VP(15.0), "exact", 1.0, steps=20)
    run = gb.simulate(gb.Gaussian(0.4, 0.5), gb.VP(15.0), "exact", 1.0, steps=20, n=40_000)
    assert abs(float(run.samples.mean() - law.mean[0])) < 4 * (law.cov[0] / 40_000) ** 0.5


def test_a_variance_that_underflows_ends_at_the_mean():
    samples = gb.simulate(
        gb.Gaussian([0.4, -1.0], [1e-300, 0.5]), gb.VE(1e30), eta=1.0, steps=5, n=10, dtype=F64
    ).samples
    torch.testing.assert_close(samples[:, 0], torch.full((10,), 0.4, dtype=F64), rtol=0, atol=1e-15)


def test_a_score_keeps_what_it_was_given():
    seen = []

    def score(z, sigma):
        seen.append((z, z.clone()))
        return -z / (0.5 + sigma**2)

    for sampler, eta in SAMPLERS.items():
        gb.simulate(score, gb.VE(3.0), sampler, eta, steps=5, n=4, dim=2)
    assert len(seen) > 25
    assert all(torch.equal(z, copy) for z, copy in seen)


def test_a_score_in_another_precision_does_not_change_the_state_s():
    seen = set()

    def score(z, sigma):
        seen.add(z.dtype)
        return -z.double() / (0.5 + sigma**2)

    assert gb.simulate(score, gb.VE(3.0), steps=5, n=4, dim=2).samples.dtype == torch.float32
    assert seen == {torch.float32}
