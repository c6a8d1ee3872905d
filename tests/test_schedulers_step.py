"""One step of a scheduler: densities, replay, where randomness comes from, units of other papers, refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from torch.distributions import Independent, Normal

from empirical.schedulers import SAMPLERS, FlowGDDIMScheduler, GDDIMScheduler, stochastic
from gapbound.kernel import SAMPLERS as KERNELS
from gapbound.schedule import STABLE_DIFFUSION
from gapbound.updates import log_ratio, require_on_policy

STEPS = 10
SHAPES = [(3, 4, 6, 6), (3, 20, 8)]  # latents of UNets, packed latents of FLUX


def diffusion(eta=1.0, steps=STEPS, **config):
    scheduler = GDDIMScheduler(**{**STABLE_DIFFUSION, **config}, eta=eta)
    scheduler.set_timesteps(steps)
    return scheduler


def flow(eta=1.0, steps=STEPS, **config):
    scheduler = FlowGDDIMScheduler(**{"shift": 3.0, **config}, eta=eta)
    scheduler.set_timesteps(steps)
    return scheduler


SCHEDULERS = [diffusion, flow]


def normals(shape=SHAPES[0], seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def trajectory(scheduler, dtype=torch.float32, shape=SHAPES[0]):
    """Steps as a trainer stores them: (timestep, sample, output, result)."""
    x, generator, stored = normals(shape, dtype=dtype), seeded(), []
    for k, timestep in enumerate(scheduler.timesteps):
        output = (0.9 * x + 0.1 * normals(shape, 100 + k)).to(dtype)
        result = scheduler.step(output, timestep, x, generator=generator, return_log_prob=True)
        stored.append((timestep, x, output, result))
        x = result.prev_sample
    return stored


# densities


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", SCHEDULERS)
def test_log_prob_is_the_density_of_torch_distributions(make, shape):
    for _, _, _, result in trajectory(make(0.8), shape=shape)[1:-1]:
        policy = Independent(Normal(result.prev_mean.double(), result.std.double()), len(shape) - 1)
        expected = policy.log_prob(result.prev_sample.double())
        assert result.log_prob.shape == (3,)
        torch.testing.assert_close(result.log_prob.double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", SCHEDULERS)
def test_replay_in_any_order_has_a_ratio_of_exactly_1(make, dtype):
    scheduler = make(1.2)
    stored = trajectory(scheduler, dtype)
    for timestep, x, output, result in reversed(stored):
        again = scheduler.step(output, timestep, x, prev_sample=result.prev_sample, return_log_prob=True)
        assert again.prev_sample is result.prev_sample
        assert (again.log_prob is None) == (result.log_prob is None) == (result.std == 0)
        if result.log_prob is not None:
            assert torch.equal(again.log_prob, result.log_prob)
            require_on_policy(log_ratio(again.log_prob, result.log_prob), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", SCHEDULERS)
def test_half_precision_rounds_the_sample_alone(make, dtype):
    scheduler, x, output = make(1.0), normals(dtype=dtype), normals(seed=1, dtype=dtype)
    half = scheduler.step(output, scheduler.timesteps[4], x, generator=seeded(), return_log_prob=True)
    full = scheduler.step(output.float(), scheduler.timesteps[4], x.float(), generator=seeded(), return_log_prob=True)
    assert half.prev_sample.dtype == half.pred_original_sample.dtype == dtype
    assert half.prev_mean.dtype == half.std.dtype == half.log_prob.dtype == torch.float32
    assert torch.equal(half.prev_mean, full.prev_mean)
    assert torch.equal(half.prev_sample, full.prev_sample.to(dtype))
    # the density is that of what is stored; before the rounding it was another, and the ratio would not be 1
    assert (half.log_prob - full.log_prob).abs().max() > 1e-3


def test_rounding_to_half_precision_biases_densities_beyond_ddpos_clip_at_small_std():
    scheduler, shape = diffusion(1.0), (3, 4, 32, 32)
    x, output, last = normals(shape, dtype=torch.bfloat16), normals(shape, 1, torch.bfloat16), scheduler.timesteps[-1]
    half = scheduler.step(output, last, x, generator=seeded(), return_log_prob=True)
    full = scheduler.step(output.float(), last, x.float(), generator=seeded(), return_log_prob=True)
    assert 0.01 < half.std < 0.03
    assert ((half.log_prob - full.log_prob) / x[0].numel()).max() < -1e-3  # per entry; the clip is 1e-4


@pytest.mark.parametrize("make", SCHEDULERS)
def test_the_gradient_of_log_prob_is_the_score_function_also_where_the_outcome_is_drawn(make):
    scheduler, x = make(0.8), normals()
    output = normals(seed=1).requires_grad_()
    result = scheduler.step(output, scheduler.timesteps[4], x, generator=seeded(), return_log_prob=True)
    (gradient,) = torch.autograd.grad(result.log_prob.sum(), output, retain_graph=True)
    surprise = (result.prev_sample - result.prev_mean).detach() / result.std**2
    (expected,) = torch.autograd.grad((surprise * result.prev_mean).sum(), output)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0.01


@pytest.mark.parametrize("make", SCHEDULERS)
def test_a_deterministic_step_has_no_log_prob_and_draws_nothing(make):
    for scheduler, k in ((make(0.0), 3), (make([1.0] * 5 + [0.0] * 5), 7)):
        generator = seeded()
        result = scheduler.step(
            normals(), scheduler.timesteps[k], normals(seed=1), generator=generator, return_log_prob=True
        )
        assert result.log_prob is None
        assert result.std == 0
        assert torch.equal(result.prev_sample, result.prev_mean)
        assert torch.equal(generator.get_state(), seeded().get_state())


def test_log_prob_is_none_unless_asked_for():
    scheduler = diffusion()
    assert scheduler.step(normals(), scheduler.timesteps[3], normals()).log_prob is None


# where randomness comes from


@pytest.mark.parametrize("make", SCHEDULERS)
def test_equal_generators_give_equal_increments_at_every_eta(make):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        increments = []
        for eta in (0.3, 1.0, 1.7):
            scheduler, generator, x = make(eta), seeded(), normals(dtype=dtype)
            for k in (1, 2):
                result = scheduler.step(x, scheduler.timesteps[k], x, generator=generator)
            if dtype != torch.bfloat16:  # where the rounding is larger than the comparison
                increments.append((result.prev_sample - result.prev_mean) / result.std)
            expected = seeded()
            torch.randn(SHAPES[0], generator=expected), torch.randn(SHAPES[0], generator=expected)
            assert torch.equal(generator.get_state(), expected.get_state())
        for increment in increments[1:]:
            torch.testing.assert_close(increment, increments[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_one_generator_a_sample_does_not_depend_on_the_batch(make):
    scheduler, x, output = make(), normals(), normals(seed=1)
    timestep = scheduler.timesteps[3]
    together = scheduler.step(output, timestep, x, generator=[seeded(i) for i in range(3)]).prev_sample
    for i in range(3):
        alone = scheduler.step(output[i : i + 1], timestep, x[i : i + 1], generator=seeded(i)).prev_sample
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("make", SCHEDULERS)
def test_variance_noise_is_the_increment(make):
    scheduler, x, output = make(), normals(), normals(seed=1)
    timestep = scheduler.timesteps[3]
    drawn = scheduler.step(output, timestep, x, generator=seeded(5))
    given = scheduler.step(output, timestep, x, variance_noise=normals(seed=5), return_dict=False)
    assert len(given) == 5
    assert torch.equal(drawn.prev_sample, given[0])


@pytest.mark.parametrize("make", SCHEDULERS)
def test_every_sample_may_have_its_own_timestep(make):
    scheduler, x, output = make([0.5 + 0.1 * k for k in range(STEPS)]), normals(), normals(seed=1)
    timesteps = scheduler.timesteps[[6, 2, 4]]
    together = scheduler.step(output, timesteps, x, variance_noise=normals(seed=5), return_log_prob=True)
    for i, timestep in enumerate(timesteps):
        one = slice(i, i + 1)
        alone = scheduler.step(output[one], timestep, x[one], variance_noise=normals(seed=5)[one], return_log_prob=True)
        assert torch.equal(alone.prev_sample[0], together.prev_sample[i])
        assert torch.equal(alone.log_prob[0], together.log_prob[i])
        assert together.std.flatten()[i] == alone.std


@pytest.mark.parametrize("make", SCHEDULERS)
def test_eta_is_a_configuration_value_a_call_argument_or_a_profile(make):
    x, output = normals(), normals(seed=1)
    k, profile = 4, [0.0] * 4 + [1.3] + [0.0] * 5
    steps = [make(1.3), make(0.4).set_eta(1.3), make(profile), make(0.4).set_eta(tuple(profile))]
    results = [s.step(output, s.timesteps[k], x, generator=seeded()).prev_sample for s in steps]
    called = make(0.0)
    results.append(called.step(output, called.timesteps[k], x, eta=1.3, generator=seeded()).prev_sample)
    assert called.config.eta == 0.0
    for result in results[1:]:
        assert torch.equal(result, results[0])
    assert steps[2].step(output, steps[2].timesteps[3], x).std == 0


# units of other papers, in the words of their own formulas


def velocity_step(scheduler, k, x, velocity, xi):
    result = scheduler.step(velocity, scheduler.timesteps[k], x, variance_noise=xi)
    t, t_next = (float(scheduler.sigmas[i]) for i in (k, k + 1))
    return result, t, t_next


@pytest.mark.parametrize("k", [0, 1, 5, STEPS - 1])
def test_flow_grpos_step_is_the_published_one_at_a_equal_sqrt_2_eta(k):
    a, x, velocity, xi = 0.7, normals(), normals(seed=1), normals(seed=2)
    scheduler = flow(a / math.sqrt(2), sampler="flow-grpo")
    result, t, t_next = velocity_step(scheduler, k, x, velocity, xi)
    level = a * math.sqrt(t / (1 - (t_next if t == 1 else t)))
    dt = t_next - t
    mean = x * (1 + level**2 / (2 * t) * dt) + velocity * (1 + level**2 * (1 - t) / (2 * t)) * dt
    torch.testing.assert_close(result.prev_mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.prev_sample, mean + level * math.sqrt(-dt) * xi, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 5, STEPS - 1])
def test_dance_grpos_step_is_the_published_one(k):
    e, x, velocity, xi = 0.3, normals(), normals(seed=1), normals(seed=2)
    result, t, t_next = velocity_step(flow(e, sampler="dance-grpo"), k, x, velocity, xi)
    D, dt = x - t * velocity, t_next - t
    score = -(x - D * (1 - t)) / t**2
    mean = x + dt * velocity - e**2 / 2 * score * dt
    torch.testing.assert_close(result.prev_mean, mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.prev_sample, mean + e * math.sqrt(-dt) * xi, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 5, STEPS - 1])
def test_cps_step_is_the_published_one(k):
    eta_C, x, velocity, xi = 0.6, normals(), normals(seed=1), normals(seed=2)
    result, t, t_next = velocity_step(flow(eta_C, sampler="cps"), k, x, velocity, xi)
    D, eps, added = x - t * velocity, x + (1 - t) * velocity, t_next * math.sin(eta_C * math.pi / 2)
    expected = D * (1 - t_next) + eps * math.sqrt(t_next**2 - added**2) + added * xi
    torch.testing.assert_close(result.prev_sample, expected, rtol=1e-5, atol=1e-5)


def test_the_largest_eta_of_ddim_is_the_theorys():
    for steps, largest in ((10, 1.007), (20, 1.017), (50, 1.046), (100, 1.092)):
        diffusion(largest - 0.001, steps, sampler="ddim")
        with pytest.raises(ValueError, match=f"DDIM admits eta up to {largest:g} on this grid.* use sampler='gddim'"):
            diffusion(largest + 0.001, steps, sampler="ddim")


# refusals


@pytest.mark.parametrize("make", SCHEDULERS)
def test_samplers_of_two_evaluations_are_refused_with_what_can_be_used(make):
    assert set(KERNELS) - set(SAMPLERS) == {"heun", "stochastic-heun", "edm", "exact"}
    for name in ("heun", "stochastic-heun", "edm"):
        with pytest.raises(ValueError, match=f"{name}.*second model evaluation.*use one of ddim, gddim"):
            make(sampler=name)
    with pytest.raises(ValueError, match=r"exact.*a Gaussian target.*use one of ddim, gddim"):
        make(sampler="exact")
    with pytest.raises(ValueError, match="unknown sampler 'euler'; known"):
        make(sampler="euler")


@pytest.mark.parametrize("make", SCHEDULERS)
def test_bad_etas_are_refused_everywhere(make):
    scheduler, x = make(), normals()
    step = [x, scheduler.timesteps[3], x]
    for bad in (-0.1, [0.5] * 9 + [-1.0]):
        for entry in (make, scheduler.set_eta):
            with pytest.raises(ValueError, match="eta must be 0 or more, got -"):
                entry(bad)
    with pytest.raises(ValueError, match=r"eta must be 0 or more, got -0\.1"):
        scheduler.step(*step, eta=-0.1)
    for entry in (make, scheduler.set_eta):
        with pytest.raises(ValueError, match="eta has 3 values for 10 steps"):
            entry([0.0, 1.0, 0.0])
        with pytest.raises(ValueError, match="eta must be finite"):
            entry(float("nan"))
        with pytest.raises(ValueError, match=r"one value a step, got an array of shape \(1, 2\)"):
            entry([[0.0, 1.0]])
        with pytest.raises(TypeError, match="eta must be a real number"):
            entry("much")
    with pytest.raises(ValueError, match=r"a step takes one eta.*set_eta takes a profile"):
        scheduler.step(*step, eta=[1.0] * STEPS)
    assert scheduler.config.eta == 1.0
    assert scheduler.step(*step).std > 0  # still in working order


def test_eta_beyond_ddim_is_refused_with_gddim_named():
    scheduler, x = diffusion(0.5, sampler="ddim"), normals()
    message = "DDIM admits eta up to .*use sampler='gddim'"
    with pytest.raises(ValueError, match=message):
        scheduler.set_eta(1.5)
    with pytest.raises(ValueError, match=message):
        scheduler.step(x, scheduler.timesteps[3], x, eta=1.5)
    late = GDDIMScheduler(**STABLE_DIFFUSION, sampler="ddim", eta=1.5)
    with pytest.raises(ValueError, match=message):
        late.set_timesteps(50)
    with pytest.raises(ValueError, match="call set_timesteps before step"):
        late.step(x, 981, x)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_a_timestep_off_the_grid_is_refused(make):
    scheduler, x = make(), normals()
    timestep = scheduler.timesteps[3]
    rounded = torch.tensor(float(timestep) + 0.3).to(torch.bfloat16)
    for wrong in (timestep + 1, 3, rounded, float("nan"), scheduler.timesteps[:3] + 1):
        with pytest.raises(ValueError, match=r"is not one of the 10 of this grid.*as they are"):
            scheduler.step(x, wrong, x)
    with pytest.raises(ValueError, match="one for each of the 3 samples, got 2"):
        scheduler.step(x, scheduler.timesteps[:2], x)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_values_that_are_not_finite_are_refused_with_step_and_sample(make):
    scheduler, x, output = make(), normals(), normals(seed=1)
    output[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"the model's output is not finite in step 3 \(timestep .*sample 1 of 3"):
        scheduler.step(output, scheduler.timesteps[3], x)
    x[2] = math.inf
    with pytest.raises(ValueError, match=r"the sample is not finite in step 5 .*sample 2 of 3"):
        scheduler.step(normals(), scheduler.timesteps[[4, 1, 5]], x)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_shapes_and_sources_that_do_not_fit_are_refused(make):
    scheduler, x = make(), normals()
    step = [x, scheduler.timesteps[3], x]
    with pytest.raises(
        ValueError, match=r"model_output must have the sample's shape \(3, 4, 6, 6\), got \(3, 8, 6, 6\)"
    ):
        scheduler.step(torch.cat([x, x], 1), *step[1:])
    for name in ("variance_noise", "prev_sample"):
        with pytest.raises(ValueError, match=f"{name} must have the sample's shape"):
            scheduler.step(*step, **{name: x[:1]})
    with pytest.raises(ValueError, match="one source, got generator and variance_noise"):
        scheduler.step(*step, generator=seeded(), variance_noise=x)
    with pytest.raises(ValueError, match="one source, got variance_noise and prev_sample"):
        scheduler.step(*step, prev_sample=x, variance_noise=x)
    with pytest.raises(ValueError, match="got 2 generators for 3 samples"):
        scheduler.step(*step, generator=[seeded(), seeded()])
    mixed = make([0.0] * 5 + [1.0] * 5)
    with pytest.raises(ValueError, match="a deterministic step"):
        mixed.step(x, mixed.timesteps[[2, 6, 7]], x, return_log_prob=True)


def test_grids_that_cannot_be_walked_are_refused():
    with pytest.raises(ValueError, match="starts at timestep 1000, past the last, 999; use fewer steps"):
        diffusion(steps=1000)
    with pytest.raises(ValueError, match=r"says nothing of x_0 at pure noise.*must predict v or x_0"):
        diffusion(timestep_spacing="trailing", rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match=r"noise levels must fall, got sigma=1 then 1\.5 in step 1"):
        FlowGDDIMScheduler().set_timesteps(sigmas=[0.9, 0.5, 0.6])
    with pytest.raises(ValueError, match="the timesteps must all differ"):
        FlowGDDIMScheduler().set_timesteps(sigmas=[0.9, 0.5, 0.5])
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got 0 to 1.5"):
        FlowGDDIMScheduler().set_timesteps(sigmas=[1.5, 0.5])
    with pytest.raises(ValueError, match=r"euler-maruyama cannot step from sigma=inf.*'gddim' or 'ddim'"):
        flow(sampler="euler-maruyama")
    with pytest.raises(ValueError, match=r"unknown prediction_type 'flow_prediction'; known: epsilon"):
        diffusion(prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="unknown timestep_spacing"):
        diffusion(timestep_spacing="karras")


def test_schedulers_and_settings_that_cannot_be_converted_are_refused():
    for other in (LCMScheduler(), EDMEulerScheduler(), Fraction(1)):
        with pytest.raises(ValueError, match=f"cannot convert {type(other).__name__} .*DDIMScheduler"):
            stochastic(other)
    with pytest.raises(ValueError, match=r"cannot honour use_karras_sigmas=True.*pass use_karras_sigmas=False"):
        stochastic(UniPCMultistepScheduler(use_karras_sigmas=True))
    with pytest.raises(ValueError, match="cannot honour use_flow_sigmas=True"):
        stochastic(UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"))
    for setting in ("stochastic_sampling", "invert_sigmas"):
        config = FlowMatchEulerDiscreteScheduler(**{setting: True}).config
        with pytest.raises(ValueError, match=f"cannot honour {setting}=True"):
            FlowGDDIMScheduler.from_config(config)
        assert FlowGDDIMScheduler.from_config(config, **{setting: False}).config[setting] is False
    with pytest.raises(ValueError, match="GDDIMScheduler needs the configuration of a scheduler with 'beta_schedule'"):
        GDDIMScheduler.from_config(FlowMatchEulerDiscreteScheduler().config)
    with pytest.raises(ValueError, match="FlowGDDIMScheduler needs the configuration of a scheduler with 'shift'"):
        FlowGDDIMScheduler.from_config(DDIMScheduler().config)
    with pytest.raises(TypeError, match="config must be a mapping"):
        GDDIMScheduler.from_config("a/path")
    with pytest.raises(ValueError, match="eta must be 0 or more"):
        stochastic(DDIMScheduler(), eta=-1.0)
    assert np.isclose(stochastic(DDIMScheduler(), eta=0.3).config.eta, 0.3)
