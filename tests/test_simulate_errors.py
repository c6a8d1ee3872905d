"""What ``simulate`` refuses, and how it says so."""

import numpy as np
import pytest
import torch

import gapbound as gb

LINE = gb.Gaussian(0.7, 0.5)
GUIDED = gb.guided(gb.Gaussian(0.0, 1.0), gb.Gaussian(1.0, 0.5), 3.0)
MIXTURE = gb.GaussianMixture([0.3, 0.7], [-1.4, 0.9], [0.2, 0.6])


def unit_noise(steps, n, dim):
    rng = np.random.default_rng(0)
    return torch.tensor(rng.standard_normal((n, dim))), torch.tensor(rng.standard_normal((steps, n, dim)))


def test_a_bad_score_is_named_with_its_step():
    def late(z, sigma):
        return torch.where(torch.tensor(sigma < 1.0), torch.nan, -z)

    with pytest.raises(ValueError, match=r"the score is not finite at step 3 \(sigma=0\.75\), at z=\["):
        gb.simulate(late, gb.VE(3.0), steps=4, n=5, dim=2)
    with pytest.raises(ValueError, match=r"not finite at step 0 \(sigma=0\.75\)"):  # Heun's second evaluation
        gb.simulate(late, gb.VE(1.5), "stochastic-heun", steps=2, n=5, dim=2, eta=0.5)
    with pytest.raises(ValueError, match=r"must return a tensor of z's shape \(5, 2\), got \(5,\)"):
        gb.simulate(lambda z, sigma: z[:, 0], gb.VE(3.0), steps=4, n=5, dim=2)
    with pytest.raises(ValueError, match=r"must return a tensor of z's shape \(5, 2\), got ndarray"):
        gb.simulate(lambda z, sigma: z.numpy(), gb.VE(3.0), steps=4, n=5, dim=2)


def test_paths_that_leave_the_range_of_the_dtype_are_an_error_never_nan():
    with pytest.raises(
        ValueError, match=r"standard deviation 3\.6\d*e\+42 leaves the range of torch\.float32; use dtype"
    ):
        gb.simulate(MIXTURE, gb.VP(14.0), steps=5, n=5)
    shared = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.3)
    with pytest.raises(ValueError, match=r"standard deviation 1e\+38 leaves the range of torch\.float32"):
        gb.simulate(shared, gb.VE(1e38), steps=5, n=5)
    assert torch.isfinite(gb.simulate(shared, gb.VE(1e37), steps=5, n=5).samples).all()
    with pytest.raises(ValueError, match=r"leave the range of torch\.float32 at step 0; use dtype=torch\.float64"):
        gb.simulate(LINE, gb.VP(15.0), steps=5, n=5, trajectory=True)
    with pytest.raises(ValueError, match=r"leave the range of torch\.float32 at step 4.*more steps where the sampler"):
        gb.simulate(lambda z, sigma: torch.full_like(z, 3e38), gb.VE(3.0), steps=4, n=5, dim=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(sampler="euler"), ValueError, "unknown sampler 'euler'; known: ddim, gddim, exact"),
        (dict(sampler=3), TypeError, "sampler must be one of the names"),
        (dict(eta=-0.1), ValueError, "eta must"),
        (dict(eta=float("nan")), ValueError, "eta must be finite"),
        (dict(eta="one"), TypeError, "eta must be a real number"),
        (dict(eta=[0.5, 1.0]), ValueError, r"one eta at a time, got shape \(2,\); use estimate_gap or a loop"),
        (dict(eta=1.5, sampler="ddim"), ValueError, "DDIM admits eta up to 1.* use sampler='gddim'"),
        (dict(eta=0.5, sampler="heun"), ValueError, "heun integrates the ODE, got eta=0.5; use eta=0"),
        (dict(model=MIXTURE, sampler="exact"), ValueError, "'exact' needs the variances of a Gaussian target"),
        (dict(model=GUIDED, sampler="exact"), ValueError, "'exact' needs the variances of a Gaussian target"),
        (dict(process=gb.FlowMatching(), sampler="euler-maruyama"), ValueError, "cannot step from sigma=inf"),
        (dict(process=gb.VE([1.0, 2.0])), ValueError, r"one T at a time, got shape \(2,\)"),
        (dict(process=gb.VE), TypeError, "process must be an instance"),
        (dict(model=gb.Gaussian([[0.0], [1.0]], 1.0)), ValueError, r"one model at a time, got batch shape \(2,\)"),
        (dict(model="N(0, 1)"), TypeError, "an affine score or a callable, got 'N"),
        (dict(model=lambda z, s: -z), ValueError, "a callable score needs its dimension: dim="),
        (dict(model=lambda z, s: -z, dim=0), ValueError, "dim must be at least 1"),
        (dict(model=lambda z, s: -z, dim=1, process=gb.FlowMatching()), ValueError, "cannot be asked at sigma = inf"),
        (dict(n=0), ValueError, "n must be at least 1, got 0"),
        (dict(n=1.5), TypeError, "n must be a whole number"),
        (dict(steps=0), ValueError, "steps must be at least 1"),
        (dict(seed=-1), ValueError, "seed must be at least 0, got -1"),
        (dict(seed=0.5), TypeError, "seed must be a whole number"),
        (dict(draw=-1), ValueError, "draw must be at least 0"),
        (dict(chunk=0), ValueError, "chunk must be at least 1"),
        (dict(grid="uniform"), ValueError, "unknown grid 'uniform'"),
        (dict(t_min=3.0), ValueError, "t_min must be below T"),
        (dict(sigmas=[3.0, 1.0, 0.0]), ValueError, "give steps or sigmas, not both"),
        (dict(steps=None, sigmas=[2.0, 1.0, 0.0]), ValueError, "sigmas must start at sigma_T = 3"),
        (dict(steps=None, sigmas=[3.0, 3.5, 0.0]), ValueError, "sigmas must fall"),
        (dict(dtype=torch.bfloat16), ValueError, "dtype must be torch.float32 or torch.float64, got torch.bfloat16"),
        (dict(sampler="stochastic-heun", log_prob=True), ValueError, "step of 'stochastic-heun' is not Gaussian"),
        (dict(sampler="edm", log_prob=True), ValueError, "step of 'edm' is not Gaussian and has no closed log_prob"),
        (dict(n=5, noise=unit_noise(4, 4, 1)), ValueError, r"shapes \(5, 1\) and \(4, 5, 1\), got \(4, 1\) and"),
        (dict(n=4, noise=unit_noise(3, 4, 1)), ValueError, r"and \(4, 4, 1\), got \(4, 1\) and \(3, 4, 1\)"),
        (dict(n=4, noise=torch.zeros(4, 1)), TypeError, r"noise must be a pair \(x_T, xi\), got Tensor"),
        (dict(n=1, noise=([[np.nan]], np.zeros((4, 1, 1)))), ValueError, "noise must be finite"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_the_value_and_the_remedy(options, error, message):
    options = dict(model=LINE, process=gb.VE(3.0), steps=4, n=10) | options
    with pytest.raises(error, match=message):
        gb.simulate(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is present")
def test_an_absent_gpu_is_named():
    with pytest.raises(ValueError, match=r"torch cannot use 'cuda' here \(.*CUDA.*\); try 'cpu'"):
        gb.simulate(LINE, gb.VE(3.0), steps=4, n=10, device="cuda")
