"""diffusers' schedulers, stepped on a Gaussian's exact score, end in the laws of our chains (its DDIM: test_chain)."""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    SASolverScheduler,
)

import gapbound as gb
from gapbound import units
from gapbound.kernel import step

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

M, V = 0.7, 0.3
TARGET = gb.Gaussian(M, V)
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PROBES = 64


def fitted(move):
    """Multiplier, shift and noise of ``x -> A x + b + S xi``, from many probes at once; they must be all there is.

    ``move(x, generator)`` steps a scheduler, which draws as many normal numbers as there are probes.
    """
    x = torch.arange(PROBES, dtype=torch.float64) / 16 - 2  # exact in float32
    out = move(x, torch.Generator().manual_seed(5)).double().numpy()
    normals = {dtype: torch.randn(PROBES, generator=torch.Generator().manual_seed(5), dtype=dtype) for dtype in DTYPES}
    fits = []
    for xi in normals.values():
        design = np.stack([x.numpy(), np.ones(PROBES), xi.double().numpy()], axis=1)
        coefficients = np.linalg.lstsq(design, out, rcond=None)[0]
        fits.append((np.abs(design @ coefficients - out).max(), coefficients))
    residual, coefficients = min(fits, key=lambda fit: fit[0])
    assert residual < 1e-6 * max(1.0, np.abs(out).max())
    return coefficients


DTYPES = (torch.float32, torch.float64)


def law_of(moves, mean=0.0, var=1.0):
    """Mean and variance after affine steps."""
    for move in moves:
        A, b, S = fitted(move)
        mean, var = A * mean + b, A**2 * var + S**2
    return mean, var


def eps(x, sigma, scale=1.0):
    """The exact noise prediction at x = scale z."""
    return sigma * (x / scale - M) / (V + sigma**2)


def flow_moves(steps, shift, stochastic):
    """FlowMatchEulerDiscreteScheduler on the exact velocity, with its levels in double precision; and its times."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, stochastic_sampling=stochastic)
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()

    def move(k):
        def one(x, generator):
            t = float(scheduler.sigmas[k])
            away = (x - (1 - t) * M) / ((1 - t) ** 2 * V + t**2)
            velocity = t * away - (M + (1 - t) * V * away)  # E[noise - data | x]
            scheduler._step_index = k
            return scheduler.step(velocity, scheduler.timesteps[k], x, generator=generator).prev_sample

        return one

    with np.errstate(divide="ignore"):
        times = scheduler.sigmas.numpy()
        return [move(k) for k in range(steps)], times / (1 - times)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler_reproduces_the_ode(shift, steps):
    moves, sigmas = flow_moves(steps, shift, stochastic=False)
    mean, var = law_of(moves)
    for sampler in ("ddim", "gddim", "flow-grpo", "dance-grpo", "cps"):
        law = gb.discrete_law(TARGET, gb.FlowMatching(), sampler, 0.0, sigmas=sigmas)
        np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean, var], rtol=1e-6)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_eulers_stochastic_sampling_is_an_infinite_eta(shift, steps):
    moves, sigmas = flow_moves(steps, shift, stochastic=True)
    mean, var = law_of(moves)
    for sampler, eta in (("cps", 1.0), ("gddim", 1e3)):
        law = gb.discrete_law(TARGET, gb.FlowMatching(), sampler, eta, sigmas=sigmas)
        np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean, var], rtol=1e-6)
    other = gb.discrete_law(TARGET, gb.FlowMatching(), "gddim", 1.0, sigmas=sigmas)
    assert abs(other.cov[0] / var - 1) > 1e-3


def karras_moves(scheduler, steps):
    """A scheduler whose state is x = z at the levels of ``scheduler.sigmas``, one move for each step."""
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()

    def move(k):
        def one(x, generator):
            sigma = float(scheduler.sigmas[k])
            scheduler._step_index, scheduler.is_scale_input_called = k, True
            timestep = scheduler.timesteps[k]
            return scheduler.step(eps(x, sigma), timestep, x, generator=generator).prev_sample

        return one

    return [move(k) for k in range(steps)], scheduler.sigmas.numpy()


def test_euler_ancestral_is_ddim_and_gddim_at_eta_1():
    moves, sigmas = karras_moves(EulerAncestralDiscreteScheduler(**CONFIG), 12)
    mean, var = law_of(moves, var=sigmas[0] ** 2)
    for sampler in ("ddim", "gddim"):
        law = gb.discrete_law(TARGET, gb.VE(sigmas[0]), sampler, 1.0, sigmas=sigmas)
        np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean, var], rtol=1e-6)
    other = gb.discrete_law(TARGET, gb.VE(sigmas[0]), "gddim", 0.97, sigmas=sigmas)
    assert abs(other.cov[0] / var - 1) > 1e-3


def test_heun_is_ours():
    scheduler, steps = HeunDiscreteScheduler(**CONFIG), 12
    scheduler.set_timesteps(steps)
    sigmas = np.append(scheduler.sigmas[:-1:2].double().numpy(), 0.0)

    def run(x, generator):
        scheduler._step_index = None
        for k, timestep in enumerate(scheduler.timesteps):
            x = scheduler.step(eps(x, float(scheduler.sigmas[k])), timestep, x).prev_sample
        return x

    mean, var = law_of([run], var=sigmas[0] ** 2)
    law = gb.discrete_law(TARGET, gb.VE(sigmas[0]), "heun", 0.0, sigmas=sigmas)
    np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean, var], rtol=1e-6)
    euler = gb.discrete_law(TARGET, gb.VE(sigmas[0]), "ddim", 0.0, sigmas=sigmas)
    assert abs(euler.cov[0] / var - 1) > 1e-3


def vp_moves(scheduler, steps):
    """A scheduler in x = sqrt(alpha_bar) z, each step from a scheduler as new; moves, levels and the end's scale."""
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()
    sigmas = scheduler.sigmas.numpy()

    def move(k):
        def one(x, generator):
            scheduler._step_index, scheduler.lower_order_nums, scheduler.last_sample = k, 0, None
            noise = eps(x, sigmas[k], 1 / math.sqrt(1 + sigmas[k] ** 2))
            return scheduler.step(noise, scheduler.timesteps[k], x, generator=generator).prev_sample

        return one

    # the last step goes to sigma = 0, where both set the sample to the prediction
    return [move(k) for k in range(steps)], sigmas


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.3])
def test_sa_solvers_first_order_predictor_is_gddim_with_tau_for_eta(tau):
    scheduler = SASolverScheduler(**CONFIG, predictor_order=1, corrector_order=1, tau_func=lambda t: tau)
    moves, sigmas = vp_moves(scheduler, 12)
    mean, var = law_of(moves[:-1])
    scale2 = 1 / (1 + sigmas[-2] ** 2)
    process, eta = gb.VP(math.log1p(sigmas[0] ** 2), "constant"), float(units.from_sa_solver(tau))
    law = gb.discrete_law(TARGET, process, "gddim", eta, sigmas=sigmas[:-1])
    np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean / math.sqrt(scale2), var / scale2], rtol=1e-6)
    other = gb.discrete_law(TARGET, process, "gddim", eta + 0.05, sigmas=sigmas[:-1])
    assert abs(other.cov[0] / (var / scale2) - 1) > 1e-4


def test_dpm_solvers_first_order_sde_is_gddim_at_eta_1():
    scheduler = DPMSolverMultistepScheduler(**CONFIG, algorithm_type="sde-dpmsolver++", solver_order=1)
    moves, sigmas = vp_moves(scheduler, 12)
    mean, var = law_of(moves[:-1])
    scale2 = 1 / (1 + sigmas[-2] ** 2)
    process, eta = gb.VP(math.log1p(sigmas[0] ** 2), "constant"), float(units.from_k_diffusion(1.0))
    law = gb.discrete_law(TARGET, process, "gddim", eta, sigmas=sigmas[:-1])
    np.testing.assert_allclose([law.mean[0], law.cov[0]], [mean / math.sqrt(scale2), var / scale2], rtol=1e-6)


def test_the_churn_of_diffusers_euler_comes_after_the_model_and_is_not_edms():
    scheduler = EulerDiscreteScheduler(**CONFIG)
    scheduler.set_timesteps(10)
    scheduler.sigmas = scheduler.sigmas.double()
    sigma, sigma_next = (float(level) for level in scheduler.sigmas[3:5])
    gamma = 0.2

    def move(x, generator):
        scheduler._step_index, scheduler.is_scale_input_called = 3, True
        model = eps(x, sigma)
        # s_churn is gamma times the number of its levels less 1
        churn = gamma * (len(scheduler.sigmas) - 1)
        return scheduler.step(model, scheduler.timesteps[3], x, s_churn=churn, generator=generator).prev_sample

    A, _, S = fitted(move)
    kernel = step("edm", sigma, sigma_next, units.from_edm(gamma, sigma, sigma_next))
    raised, gain = float(kernel.raised), float(kernel.raised) / (V + float(kernel.raised) ** 2)
    ours = 1 + (sigma_next - raised) * gain  # Euler after the noise, as EDM asks the model
    theirs = 1 + (sigma_next - raised) * sigma / (V + sigma**2)
    np.testing.assert_allclose([A, S], [theirs, float(kernel.std)], rtol=1e-6)
    assert abs(A / ours - 1) > 0.01
    assert abs(S / (ours * float(kernel.std)) - 1) > 0.1


def test_a_misread_scheduler_does_not_pass():
    moves, sigmas = flow_moves(20, 3.0, stochastic=False)
    mean, var = law_of(moves)
    shifted = [math.inf, *(sigmas[1:] * 1.001)]
    law = gb.discrete_law(TARGET, gb.FlowMatching(), "ddim", 0.0, sigmas=shifted)
    assert abs(law.cov[0] / var - 1) > 1e-5 or abs(law.mean[0] / mean - 1) > 1e-5
