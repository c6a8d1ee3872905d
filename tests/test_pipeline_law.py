"""The law of diffusers' own DDIM loop: against DDIMScheduler, step for step."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import gapbound as gb
from gapbound.schedule import STABLE_DIFFUSION

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

M, V = 0.7, 0.3
CONFIG = {**STABLE_DIFFUSION, "clip_sample": False}


def law(config, steps, eta):
    """Mean and variance in z of what DDIMScheduler makes of N(0, 1) with an exact network, each step as it is.

    A step is affine in the state and its noise, so that three evaluations give its coefficients.
    """
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    mean, var = 0.0, 1.0
    x, xi = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    for timestep in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[timestep].double()
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        eps = noise * (x - signal * M) / (signal**2 * V + noise**2)
        out = scheduler.step(eps, timestep, x, eta=eta, variance_noise=xi if eta else None).prev_sample
        shift, kept, added = (float(value) for value in out)
        mean, var = (kept - shift) * mean + shift, (kept - shift) ** 2 * var + (added - shift) ** 2
    end = int(scheduler.timesteps[-1]) - 1000 // steps
    final = float(scheduler.alphas_cumprod[end] if end >= 0 else scheduler.final_alpha_cumprod)
    return mean / final**0.5, var / final


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    ("spacing", "steps"),
    [("leading", 10), ("leading", 30), ("trailing", 25), ("trailing", 28), ("linspace", 10), ("linspace", 20),
     ("linspace", 1000)],
)  # fmt: skip
def test_the_law_is_that_of_ddim_scheduler(spacing, steps, eta, to_one):
    config = {**CONFIG, "timestep_spacing": spacing, "set_alpha_to_one": to_one}
    found = gb.pipeline_law(gb.Gaussian(M, V), config, steps, eta)
    np.testing.assert_allclose([found.mean[0], found.cov[0]], law(config, steps, eta), rtol=0, atol=3e-6)


def test_where_steps_meet_it_is_the_law_of_the_chain_and_elsewhere_it_is_not():
    target = gb.Gaussian([M, -0.2], [[V, 0.1], [0.1, 0.6]])
    for spacing, steps, same in (("leading", 50, True), ("trailing", 20, True), ("linspace", 10, False)):
        process = gb.VP.stable_diffusion(steps, spacing)
        chain = gb.discrete_law(target, process, "ddim", 0.5, steps, grid=spacing)
        found = gb.pipeline_law(target, {**CONFIG, "timestep_spacing": spacing}, steps, 0.5)
        assert np.allclose(found.cov, chain.cov, rtol=1e-9, atol=0) is same
        assert np.allclose(found.mean, chain.mean, rtol=1e-9, atol=0) is same


@pytest.mark.parametrize(
    ("config", "steps", "eta", "error", "message"),
    [
        (
            {"clip_sample": True},
            10,
            0.0,
            ValueError,
            "clip_sample=True changes predictions in a way",
        ),
        ({"thresholding": True}, 10, 0.0, ValueError, "thresholding=True changes predictions"),
        ({"timestep_spacing": "trailing"}, 61, 0.0, ValueError, r"'trailing' with 61 steps visits timestep -1"),
        ({"timestep_spacing": "even"}, 10, 0.0, ValueError, "unknown timestep_spacing 'even'"),
        ({"set_alpha_to_one": "False"}, 10, 0.0, TypeError, "set_alpha_to_one must be True or False, got 'False'"),
        ({"rescale_betas_zero_snr": True}, 10, 0.0, ValueError, "sigma_T infinite"),
        ({}, 10, 1.5, ValueError, "DDIM admits eta up to"),
        ({}, 10, [0.0, 0.5], ValueError, r"one model and one eta, got batch \(\) and eta=\[0.0, 0.5\]"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(config, steps, eta, error, message):
    with pytest.raises(error, match=message):
        gb.pipeline_law(gb.Gaussian(M, V), {**CONFIG, **config}, steps, eta)


def test_a_config_without_clip_sample_clips_as_diffusers_does():
    assert DDIMScheduler().config.clip_sample is True
    with pytest.raises(ValueError, match="clip_sample=True"):
        gb.pipeline_law(gb.Gaussian(M, V), STABLE_DIFFUSION, 10)
