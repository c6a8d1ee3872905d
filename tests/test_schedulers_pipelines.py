"""Schedulers inside diffusers' own pipelines: whole trajectories, conversion, saving, image to image."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    UniPCMultistepScheduler,
)
from pipelines import PIPELINES

from empirical.schedulers import FlowGDDIMScheduler, GDDIMScheduler, stochastic

# diffusers hands tensors to NumPy in a way that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red circle", "two blue squares"]
STEPS = 10  # divides 1000: elsewhere DDIMScheduler's trailing steps miss their next timestep
UNETS = [
    {},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
    {"timestep_spacing": "trailing", "set_alpha_to_one": True},
    {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"clip_sample": True, "clip_sample_range": 2.0},
    {"thresholding": True, "sample_max_value": 3.0},
]


@pytest.fixture(scope="module")
def pipes():
    """One tiny pipeline of each class, and the scheduler that it came with."""
    built = {name: make() for name, make in PIPELINES.items()}
    return {name: (pipe, pipe.scheduler) for name, pipe in built.items()}


def generators(seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(len(PROMPTS))]


def latents(pipe, scheduler, seed=0, steps=STEPS, **call):
    """Latents after every step, shape (steps, batch, ...), of the pipeline called as it is."""
    visited = []

    def keep(pipeline, step, timestep, tensors):
        visited.append(tensors["latents"].clone())
        return {}

    pipe.scheduler = scheduler
    torch.manual_seed(seed)  # SD3 and FLUX keep their generator from the scheduler, so that this one serves
    pipe(
        PROMPTS,
        num_inference_steps=steps,
        generator=generators(seed),
        output_type="latent",
        callback_on_step_end=keep,
        **call,
    )
    return torch.stack(visited)


class Recorder:
    """A scheduler's own step that writes down what it was given and what it made of that."""

    def __init__(self, scheduler):  # noqa: D107
        self.step, self.calls = scheduler.step, []
        # pipelines read what a step takes from its signature
        self.__signature__ = inspect.signature(scheduler.step)

    def __call__(self, model_output, timestep, sample, **options):  # noqa: D102
        made = self.step(model_output, timestep, sample, **options)
        self.calls.append((model_output, timestep, sample, made[0]))
        return made


def assert_steps_agree(pipe, theirs, ours, increments=None, **call):
    """Ours makes of every input that theirs met in the pipeline what theirs made of it, to float32 rounding."""
    recorder = theirs.step = Recorder(theirs)
    latents(pipe, theirs, **call)
    latents(pipe, ours)  # sets the timesteps as the pipeline does
    assert len(recorder.calls) == STEPS
    for k, (output, timestep, sample, made) in enumerate(recorder.calls):
        xi = None if increments is None else increments[k]
        found = ours.step(output, timestep, sample, variance_noise=xi).prev_sample
        assert found.dtype == made.dtype
        scale = float(torch.cat([sample.abs().flatten(), output.abs().flatten(), made.abs().flatten()]).max())
        torch.testing.assert_close(found, made, rtol=0, atol=1e-5 * scale)


def drawn(pipe, shape):
    """What the pipeline's generators give after x_T, step by step, shape (STEPS, batch, ...)."""
    rows = []
    for generator in generators():
        torch.randn((1, *shape), generator=generator)  # x_T
        rows.append([torch.randn((1, *shape), generator=generator) for _ in range(STEPS)])
    return [torch.cat([row[k] for row in rows]) for k in range(STEPS)]


CASES = [(eta, config) for eta in (0.0, 1.0) for config in UNETS if not eta or "rescale_betas_zero_snr" not in config]


@pytest.mark.parametrize(("eta", "config"), CASES, ids=str)
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_at_eta_0_and_1_every_step_in_a_pipeline_is_ddims(pipes, eta, name, config):
    pipe, original = pipes[name]
    steps = {"set_alpha_to_one": original.config.set_alpha_to_one, **config}
    theirs = DDIMScheduler.from_config(original.config, **steps)
    increments = drawn(pipe, (4, 8, 8)) if eta else None
    assert_steps_agree(pipe, theirs, stochastic(theirs, eta=eta), increments, eta=eta)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_from_pure_noise_at_eta_1_a_rounding_decides_whether_ddim_gives_nan_and_ours_is_finite(pipes, name):
    """DDIM takes the root of 1 - alpha_bar' - std^2, which is 0 there: below 0 on some machines, above on others."""
    pipe, original = pipes[name]
    (config,) = (config for config in UNETS if "rescale_betas_zero_snr" in config)
    theirs = DDIMScheduler.from_config(original.config, **config)
    broken = torch.isnan(latents(pipe, theirs, eta=1.0))
    t, before = int(theirs.timesteps[0]), int(theirs.timesteps[1])
    under_root = 1 - theirs.alphas_cumprod[before] - (theirs._get_variance(t, before) ** 0.5) ** 2
    assert abs(float(under_root)) < 1e-6
    assert broken.all() if under_root < 0 else not broken.any()
    assert torch.isfinite(latents(pipe, stochastic(theirs, eta=1.0))).all()


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_at_eta_0_and_1_a_whole_trajectory_is_ddims(pipes, eta, name):
    pipe, original = pipes[name]
    for config in UNETS[:2]:  # of the others, tiny random networks magnify roundings from step to step
        theirs = DDIMScheduler.from_config(original.config, **config)
        expected = latents(pipe, theirs, eta=eta)
        found = latents(pipe, stochastic(theirs, eta=eta))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert (latents(pipe, stochastic(theirs, eta=eta + 0.05)) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_at_eta_0_every_step_and_the_whole_trajectory_are_flow_matching_eulers(pipes, name):
    pipe, original = pipes[name]
    assert original.config.use_dynamic_shifting == (name == "flux")
    for config in ({}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True}):
        theirs = FlowMatchEulerDiscreteScheduler.from_config(original.config, **config)
        ours = stochastic(theirs, eta=0.0)
        expected, found = latents(pipe, theirs), latents(pipe, ours)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert_steps_agree(pipe, theirs, ours)
        assert (latents(pipe, stochastic(theirs, eta=0.3)) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_run_at_every_eta_and_draw_from_their_generators(pipes, name):
    pipe, original = pipes[name]
    for eta in (0.5, 1.0, 2.5, [0.0] * 4 + [1.2] * 3 + [0.0] * 3):
        scheduler = stochastic(original, eta=eta)
        first, again, other = (latents(pipe, scheduler, seed) for seed in (0, 0, 9))
        assert torch.isfinite(first).all()
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    ode, window = latents(pipe, stochastic(original, eta=0.0)), first
    assert torch.equal(window[:4], ode[:4])
    assert (window[4] - ode[4]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_the_schedulers_eta_holds_whatever_the_pipelines_own_argument_says(pipes, name):
    pipe, original = pipes[name]
    scheduler = stochastic(original, eta=1.2)
    assert "eta" not in inspect.signature(scheduler.step).parameters
    assert torch.equal(latents(pipe, scheduler, eta=0.3), latents(pipe, scheduler))
    assert not torch.equal(latents(pipe, scheduler), latents(pipe, scheduler.set_eta(0.3)))


@pytest.mark.parametrize("name", PIPELINES)
def test_half_precision_pipelines_run(name):
    pipe = PIPELINES[name]().to(torch.bfloat16)
    found = latents(pipe, stochastic(pipe.scheduler, eta=1.2))
    assert found.dtype == torch.bfloat16
    assert torch.isfinite(found).all()


@pytest.mark.filterwarnings("ignore:.*torchvision.*")
@pytest.mark.parametrize(
    ("name", "sampler"), [("sd", "cps"), ("sdxl", "gddim"), ("sd3", "flow-grpo"), ("flux", "gddim")]
)
def test_a_saved_pipeline_comes_back_with_its_scheduler(pipes, tmp_path, monkeypatch, name, sampler):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pipe, original = pipes[name]
    profile = [0.0] * 4 + [0.7] * 6
    pipe.scheduler = stochastic(original, sampler, profile)
    pipe.save_pretrained(tmp_path)
    absent = {"text_encoder_3": None, "tokenizer_3": None, "feature_extractor": None, "image_encoder": None}
    kept = {key: value for key, value in absent.items() if key in pipe.components and getattr(pipe, key) is None}
    if name == "sd":
        kept |= {"safety_checker": None, "requires_safety_checker": False}
    loaded = type(pipe).from_pretrained(tmp_path, **kept)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is type(pipe.scheduler)
    assert loaded.scheduler.config.eta == profile
    assert loaded.scheduler.config.sampler == sampler
    size = {"height": 16, "width": 16}
    assert torch.equal(latents(loaded, loaded.scheduler, **size), latents(pipe, pipe.scheduler, **size))
    alone = type(pipe.scheduler).from_pretrained(tmp_path, subfolder="scheduler")
    assert alone.config.eta == profile
    changed = type(alone).from_config(alone.config, eta=0.2)
    assert (changed.config.eta, changed.config.sampler) == (0.2, sampler)


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        # as in Stable Diffusion 1.5, 2.1 and XL, and as users put in their place
        (PNDMScheduler(**BETAS, steps_offset=1, skip_prk_steps=True), ("leading", 1, False, False)),
        (DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False), ("leading", 0, True, False)),
        (EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1), ("leading", 1, True, False)),
        (EulerDiscreteScheduler(**BETAS), ("linspace", 0, True, False)),
        (DPMSolverMultistepScheduler(**BETAS), ("linspace", 0, True, False)),
        (DPMSolverMultistepScheduler(**BETAS, final_sigmas_type="sigma_min"), ("linspace", 0, False, False)),
        (UniPCMultistepScheduler(**BETAS, timestep_spacing="trailing"), ("trailing", 0, True, False)),
        (DDPMScheduler(**BETAS), ("leading", 0, True, True)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_conversion_keeps_the_process_of_the_scheduler(scheduler, expected):
    ours = stochastic(scheduler, eta=0.5)
    config = ours.config
    kept = config.timestep_spacing, config.steps_offset, config.set_alpha_to_one, config.clip_sample
    assert kept == expected
    assert config.prediction_type == scheduler.config.prediction_type
    np.testing.assert_array_equal(ours.alphas_cumprod, scheduler.alphas_cumprod)
    again = stochastic(ours, "ddim", 0.0)
    assert (again.config.eta, again.config.sampler, ours.config.eta) == (0.0, "ddim", 0.5)


def test_a_conversion_keeps_what_an_xl_configuration_says_though_euler_does_not_ask():
    file = {"_class_name": "EulerDiscreteScheduler", **BETAS, "set_alpha_to_one": False, "skip_prk_steps": True}
    file |= {"steps_offset": 1, "timestep_spacing": "leading", "use_karras_sigmas": False, "clip_sample": False}
    ours = stochastic(EulerDiscreteScheduler.from_config(file))
    theirs = DDIMScheduler.from_config(EulerDiscreteScheduler.from_config(file).config)
    for key in ("set_alpha_to_one", "steps_offset", "timestep_spacing", "clip_sample"):
        assert ours.config[key] == theirs.config[key]
    assert ours.config.set_alpha_to_one is False


def test_a_shift_that_was_set_later_is_kept():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_shift(3.0)
    ours = stochastic(scheduler)
    scheduler.set_timesteps(8)
    ours.set_timesteps(8)
    assert torch.equal(ours.sigmas, scheduler.sigmas)


def test_the_schedulers_know_what_they_are_compatible_with():
    assert DDIMScheduler in GDDIMScheduler().compatibles
    assert FlowMatchEulerDiscreteScheduler in FlowGDDIMScheduler().compatibles
    assert len(GDDIMScheduler()) == len(FlowGDDIMScheduler()) == 1000
    assert FlowGDDIMScheduler().order == GDDIMScheduler().order == 1


@pytest.mark.parametrize(
    ("name", "image_to_image"), [("sd", StableDiffusionImg2ImgPipeline), ("flux", FluxImg2ImgPipeline)]
)
def test_image_to_image_starts_in_the_middle_as_with_the_original(pipes, name, image_to_image):
    pipe, original = pipes[name]
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    call = {"image": images, "strength": 0.6, "guidance_scale": 2.0}
    components = {key: value for key, value in pipe.components.items() if key != "safety_checker"}
    if name == "sd":
        components |= {"safety_checker": None, "requires_safety_checker": False}
    else:
        call |= {"height": 16, "width": 16}
    other = image_to_image(**components)
    other.set_progress_bar_config(disable=True)
    expected, found = latents(other, original, **call), latents(other, stochastic(original, eta=0.0), **call)
    assert 1 < len(found) < STEPS
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    profile = [0.0] * (STEPS - 3) + [1.0] * 3  # by the whole grid's steps, wherever the pipeline starts
    late = latents(other, stochastic(original, eta=profile), **call)
    assert torch.equal(late[:-3], found[:-3])
    assert not torch.equal(late[-3], found[-3])


def test_noise_is_added_as_the_original_does():
    x, noise = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    theirs, timesteps = DDIMScheduler(**BETAS), torch.tensor([10, 900])
    assert torch.equal(stochastic(theirs).add_noise(x, noise, timesteps), theirs.add_noise(x, noise, timesteps))
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = stochastic(theirs)
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    ours.step(x, ours.timesteps[2], x)  # before the begin is set, timesteps count
    assert torch.equal(
        ours.scale_noise(x, ours.timesteps[[1, 4]], noise), theirs.scale_noise(x, theirs.timesteps[[1, 4]], noise)
    )
    ours.set_begin_index(0)  # as inpainting does: from then on the level is where the next step starts
    expected = ours.sigmas[3] * noise + (1 - ours.sigmas[3]) * x
    torch.testing.assert_close(ours.scale_noise(x, ours.timesteps[[3, 3]], noise), expected)
