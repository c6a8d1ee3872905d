"""Schedulers on the exact score of a Gaussian end in the laws of our chains: each step is pushed through as it is.

On a Gaussian a step is affine, so three evaluations give its multiplier, its shift and its noise.
"""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import gapbound as gb
from empirical.schedulers import SAMPLERS, FlowGDDIMScheduler, GDDIMScheduler
from gapbound.grid import grid
from gapbound.schedule import STABLE_DIFFUSION
from gapbound.units import per_step

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

M, V = 0.7, 0.3
TARGET = gb.Gaussian(M, V)
SPACINGS = ("leading", "trailing", "linspace")


def diffusion(steps, **config):
    scheduler = GDDIMScheduler(**{**STABLE_DIFFUSION, **config})
    scheduler.set_timesteps(steps)
    return scheduler


def levels(scheduler):
    """Signal and noise of the levels visited, from what diffusers offers alone."""
    if isinstance(scheduler, FlowGDDIMScheduler):
        t = scheduler.sigmas.double().numpy()
        return 1 - t, t
    alphas = scheduler.alphas_cumprod.double().numpy()
    visited = np.append(alphas[scheduler.timesteps.numpy()], float(scheduler.final_alpha_cumprod))
    return np.sqrt(visited), np.sqrt(1 - visited)


def network(prediction, x, signal, noise):
    """What an exact network answers at x = signal x_0 + noise eps, x_0 ~ N(M, V)."""
    D = M + V * signal / (signal**2 * V + noise**2) * (x - signal * M)
    eps = noise * (x - signal * M) / (signal**2 * V + noise**2)
    outputs = {"epsilon": eps, "sample": D, "v_prediction": signal * eps - noise * D, "flow": eps - D}
    return outputs[prediction]


def law(scheduler, prediction, dtype=torch.float64):
    """Mean and variance in z of what the scheduler makes of N(0, 1)."""
    mean, var, (signal, noise) = 0.0, 1.0, levels(scheduler)
    x, xi = torch.tensor([[0.0], [1.0], [0.0]], dtype=dtype), torch.tensor([[0.0], [0.0], [1.0]], dtype=dtype)
    for k, timestep in enumerate(scheduler.timesteps):
        output = network(prediction, x, signal[k], noise[k])
        shift, kept, added = scheduler.step(output, timestep, x, variance_noise=xi).prev_sample.double()[:, 0]
        mean, var = (kept - shift) * mean + shift, (kept - shift) ** 2 * var + (added - shift) ** 2
    return float(mean) / signal[-1], float(var) / signal[-1] ** 2


def assert_law(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, [expected.mean[0], expected.cov[0]], rtol=0, atol=tolerance)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
def test_the_law_of_n_steps_is_that_of_our_chain(eta, spacing, prediction):
    for steps in (10, 50):
        scheduler = diffusion(steps, eta=eta, timestep_spacing=spacing, prediction_type=prediction)
        process = gb.VP.stable_diffusion(steps, spacing)
        assert_law(law(scheduler, prediction), gb.discrete_law(TARGET, process, "gddim", eta, steps, grid=spacing))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_by_name_has_the_law_of_its_chain(sampler):
    for eta in (0.0, 0.7):
        scheduler = diffusion(20, eta=eta, sampler=sampler)
        process = gb.VP.stable_diffusion(20, "leading")
        assert_law(law(scheduler, "epsilon"), gb.discrete_law(TARGET, process, sampler, eta, 20, grid="leading"))


@pytest.mark.parametrize("eta", [0.0, 1.0, 1.5])
def test_float32_keeps_the_law(eta):
    process = gb.VP.stable_diffusion(50, "leading")
    expected = gb.discrete_law(TARGET, process, "gddim", eta, 50, grid="leading")
    assert_law(law(diffusion(50, eta=eta), "epsilon", torch.float32), expected)


def test_another_eta_or_another_last_step_does_not_pass():
    process = gb.VP.stable_diffusion(50, "leading")
    expected = gb.discrete_law(TARGET, process, "gddim", 1.0, 50, grid="leading")
    for other in (diffusion(50, eta=0.99), diffusion(50, eta=1.0, set_alpha_to_one=True)):
        assert abs(law(other, "epsilon")[1] - expected.cov[0]) > 1e-5


def test_a_profile_over_steps_is_a_profile_over_noise_levels():
    etas = [0.0] * 5 + [1.3] * 4 + [0.0] * 3 + [0.6] * 8
    scheduler = diffusion(20, eta=etas)
    process = gb.VP.stable_diffusion(20, "leading")
    windows = per_step(grid(process, 20, "leading"), etas)
    expected = gb.discrete_law(TARGET, process, "gddim", windows, 20, grid="leading")
    assert_law(law(scheduler, "epsilon"), expected)
    shifted = scheduler.set_eta([0.0, *etas[:-1]])
    assert abs(law(shifted, "epsilon")[1] - expected.cov[0]) > 1e-4


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 1.0, 1.5])
def test_a_zero_snr_schedule_starts_from_pure_noise(eta, prediction):
    scheduler = diffusion(
        20, eta=eta, timestep_spacing="trailing", rescale_betas_zero_snr=True, prediction_type=prediction
    )
    signal, noise = levels(scheduler)
    assert signal[0] == 0
    sigmas = [np.inf, *(noise[1:] / signal[1:])]
    # at sigma = inf the process is known by its levels alone, so flow matching serves
    assert_law(law(scheduler, prediction), gb.discrete_law(TARGET, gb.FlowMatching(), "gddim", eta, sigmas=sigmas))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "euler-maruyama"])
@pytest.mark.parametrize("config", [{"shift": 1.0}, {"shift": 3.0}, {"use_dynamic_shifting": True}], ids=str)
def test_flow_matching_has_the_law_of_our_chain(config, sampler):
    for eta in (0.0, 0.7, 1.0):
        scheduler = FlowGDDIMScheduler(**config, eta=eta, sampler=sampler)
        scheduler.set_timesteps(12, mu=0.8 if "use_dynamic_shifting" in config else None)
        t = scheduler.sigmas.double().numpy()
        assert t[0] == 1
        sigmas = [np.inf, *(t[1:] / (1 - t[1:]))]
        expected = gb.discrete_law(TARGET, gb.FlowMatching(), sampler, eta, sigmas=sigmas)
        assert_law(law(scheduler, "flow"), expected)


def test_euler_maruyama_steps_flow_matching_started_below_t_1():
    scheduler = FlowGDDIMScheduler(eta=1.0, sampler="euler-maruyama")
    scheduler.set_timesteps(sigmas=np.linspace(0.9, 0.1, 9).tolist())
    t = scheduler.sigmas.double().numpy()
    expected = gb.discrete_law(TARGET, gb.FlowMatching(t[0]), "euler-maruyama", 1.0, sigmas=t / (1 - t))
    # there z_T = x_T / (1 - t) has the prior's own variance
    assert_law(law(scheduler, "flow"), expected)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [2, 7, 50, 61, 300, 999])
@pytest.mark.parametrize("to_one", [True, False])
def test_the_levels_are_those_of_our_grids(to_one, steps, spacing):
    config = {**STABLE_DIFFUSION, "timestep_spacing": spacing, "set_alpha_to_one": to_one}
    times = gb.schedule.from_diffusers(config).times(steps, spacing)
    expected = gb.VP(times[0], gb.schedule.from_diffusers(config)).sigma(times)
    scheduler = diffusion(steps, **config)
    assert len(scheduler.timesteps) == steps
    sigmas = scheduler.levels.sigma
    # a last step that stands still has no place in our grids; the last levels lose digits in diffusers' float32
    np.testing.assert_allclose(sigmas[np.append(True, np.diff(sigmas) < 0)], expected, rtol=1e-4)


def test_trailing_spacing_never_visits_clean_data():
    theirs, ours = DDIMScheduler(timestep_spacing="trailing"), GDDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(61)
    ours.set_timesteps(61)
    assert theirs.timesteps[-1] == -1
    assert ours.timesteps.tolist() == theirs.timesteps[:-1].tolist()


@pytest.mark.parametrize("to_one", [True, False])
def test_the_last_step_goes_where_the_configuration_says(to_one):
    scheduler = diffusion(50, set_alpha_to_one=to_one)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    last = scheduler.step(x, scheduler.timesteps[-1], x, return_log_prob=True)
    if to_one:
        assert last.std == 0
        assert last.log_prob is None
        torch.testing.assert_close(last.prev_sample, last.pred_original_sample)
    else:
        assert float(scheduler.levels.sigma[-1]) == pytest.approx(0.0292, abs=1e-4)
        assert 0.01 < float(last.std) < 0.03
        assert last.log_prob is not None


def test_eta_beyond_ddims_reach_is_finite_where_ddim_gives_nan():
    steps, eta = 50, 1.5
    ours, theirs = diffusion(steps, eta=eta), DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False)
    theirs.set_timesteps(steps)
    signal, noise = levels(ours)
    ends = []
    for scheduler in (ours, theirs):
        generator, x = torch.Generator().manual_seed(1), torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        for k, timestep in enumerate(scheduler.timesteps):
            output = network("epsilon", x, signal[k], noise[k])
            x = scheduler.step(output, timestep, x, eta=eta, generator=generator).prev_sample
        ends.append(x / signal[-1])
    expected = gb.discrete_law(TARGET, gb.VP.stable_diffusion(steps, "leading"), "gddim", eta, steps, grid="leading")
    assert torch.isnan(ends[1]).all()
    standard_errors = np.sqrt([expected.cov[0] / 4096, 2 * expected.cov[0] ** 2 / 4096])
    z = (np.array([ends[0].mean(), ends[0].var()]) - [expected.mean[0], expected.cov[0]]) / standard_errors
    assert np.abs(z).max() < 4


def test_linspace_at_eta_0_is_diffusers_euler():
    steps = 10  # 999 / 9 is whole, so that Euler's timesteps are too
    config = {key: STABLE_DIFFUSION[key] for key in ("beta_schedule", "beta_start", "beta_end")}
    theirs = EulerDiscreteScheduler(**config, timestep_spacing="linspace")
    theirs.set_timesteps(steps)
    ours = GDDIMScheduler.from_config(theirs.config, eta=0.0)
    ours.set_timesteps(steps)
    signal, noise = levels(ours)
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = x / signal[0]
    for k, (timestep, same) in enumerate(zip(ours.timesteps, theirs.timesteps, strict=True)):
        assert timestep == same
        x = ours.step(network("epsilon", x, signal[k], noise[k]), timestep, x).prev_sample
        theirs.is_scale_input_called = True
        z = theirs.step(network("epsilon", signal[k] * z, signal[k], noise[k]), same, z).prev_sample
    torch.testing.assert_close(x / signal[-1], z, rtol=1e-5, atol=1e-6)
