"""Rates: integrals against quadrature of beta, discrete schedules and times against diffusers, bad input."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler
from scipy.integrate import quad

import gapbound as gb
from gapbound.schedule import RATES, STABLE_DIFFUSION, DiscreteRate, from_diffusers

BETA_SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


def cosine_beta(t, T):
    """-d log alpha_bar / dt of the cosine schedule, below its clip."""
    angle = (t / T + 0.008) / 1.008 * math.pi / 2
    return math.pi * math.tan(angle) / (1.008 * T)


RATE_FUNCTIONS = {
    "2t": lambda t, T: 2 * t,
    "constant": lambda t, T: 1.0,
    "linear": lambda t, T: 0.1 + (20 - 0.1) * t / T,
    "cosine": cosine_beta,
}


@pytest.mark.parametrize("T", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("name", RATES)
def test_integrated_rate_is_the_integral_of_beta(name, T):
    for t in np.array([0.0, 0.1, 0.5, 0.999]) * T:
        exact = quad(RATE_FUNCTIONS[name], 0, t, args=(T,), epsabs=1e-12, epsrel=1e-12, limit=200)[0]
        assert RATES[name].integral(np.float64(t), np.float64(T)) == pytest.approx(exact, rel=1e-10, abs=1e-12)


def test_cosine_equals_squaredcos_cap_v2_at_every_thousandth():
    betas = DDPMScheduler(beta_schedule="squaredcos_cap_v2").betas.double().numpy()
    diffusers = np.cumprod(1 - betas)
    process = gb.VP(3.0, "cosine")
    ours = process.alpha_bar(3.0 * np.arange(1, 1001) / 1000)
    np.testing.assert_allclose(ours[:-1], diffusers[:-1], rtol=3e-4)  # its betas are rounded to float32
    np.testing.assert_allclose(ours[:900], diffusers[:900], rtol=2e-6)
    exact = from_diffusers({"beta_schedule": "squaredcos_cap_v2"}).alphas_cumprod
    np.testing.assert_allclose(ours, exact, rtol=1e-10)
    assert process.sigma_T == pytest.approx(20291, rel=1e-4)


def test_cosine_is_clipped_on_the_last_thousandth_alone():
    process = gb.VP(1.0, "cosine")
    B = process.integrated_beta(np.array([0.999, 0.9995, 1.0]))
    np.testing.assert_allclose(np.diff(B), -math.log(0.001) / 2, rtol=1e-9)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler, PNDMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_from_diffusers_equals_the_schedulers_own_alphas(scheduler, name):
    config = scheduler(num_train_timesteps=600, beta_start=2e-4, beta_end=0.015, beta_schedule=name)
    process = gb.VP.from_diffusers(config.config)
    ours = process.alpha_bar(np.arange(1, 601))
    # diffusers multiplies rounded float32 betas: near alpha_bar = 0 of the cosine that costs more digits
    np.testing.assert_allclose(ours, config.alphas_cumprod.numpy(), rtol=2e-4 if "cos" in name else 2e-5)
    assert process.alpha_bar(0) == 1


def test_from_diffusers_reads_trained_betas_and_defaults():
    betas = [0.01, 0.02, 0.3]
    schedule = from_diffusers(DDIMScheduler(trained_betas=betas).config)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod([0.99, 0.98, 0.7]), rtol=1e-12)
    defaults = from_diffusers({})
    assert (defaults.steps_offset, defaults.set_alpha_to_one, defaults.alphas_cumprod.size) == (0, True, 1000)
    np.testing.assert_allclose(defaults.alphas_cumprod, DDIMScheduler().alphas_cumprod.numpy(), rtol=1e-4)


def test_stable_diffusion_is_the_scheduler_of_its_config():
    scheduler = DDIMScheduler(**STABLE_DIFFUSION)
    process = gb.VP.stable_diffusion()
    np.testing.assert_allclose(process.alpha_bar(np.arange(1, 1001)), scheduler.alphas_cumprod.numpy(), rtol=1e-4)
    assert process.alpha_bar(process.T) == pytest.approx(0.00466, abs=5e-6)
    assert process.scale(process.T) == pytest.approx(0.068, abs=5e-4)
    assert process.sigma_T == pytest.approx(14.61, abs=5e-3)
    starts = {10: (8.39, 0.118), 50: (13.12, 0.076)}
    for steps, (sigma_T, kept) in starts.items():
        started = gb.VP.stable_diffusion(steps)
        assert started.sigma_T == pytest.approx(sigma_T, abs=5e-3)
        assert started.scale(started.T) == pytest.approx(kept, abs=5e-4)
        assert gb.grid(started, steps, "leading")[-1] == pytest.approx(0.0292, abs=5e-5)


def test_beta_is_constant_between_the_knots_of_a_discrete_schedule():
    alphas = np.array([0.9, 0.5, 0.2])
    process = gb.VP.from_alphas_cumprod(alphas)
    np.testing.assert_allclose(process.alpha_bar([0, 1, 2, 3]), [1, *alphas], rtol=1e-15)
    t = np.linspace(0, 3, 13)
    slopes = np.diff(process.integrated_beta(t)) / np.diff(t)
    knots = -np.diff(np.log([1, *alphas]))
    np.testing.assert_allclose(slopes, np.repeat(knots, 4), rtol=1e-12)
    assert gb.VP.from_alphas_cumprod(alphas, T=2).alpha_bar(2) == pytest.approx(0.5)


def visited(steps, spacing, K=1000, offset=1, to_one=False):
    """``(timestep, prev_timestep)`` of every step that diffusers' DDIMScheduler makes, in our times."""
    scheduler = DDIMScheduler(
        num_train_timesteps=K, steps_offset=offset, set_alpha_to_one=to_one, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    final = 0 if to_one else 1
    timesteps = scheduler.timesteps.numpy()
    previous = timesteps - K // steps
    return timesteps + 1, np.where(previous >= 0, previous + 1, final)


def schedule(K=1000, offset=1, to_one=False):
    return DiscreteRate(np.linspace(0.999, 0.01, K), offset, to_one)


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_leading_times_are_those_that_diffusers_visits_at_every_step_count(offset, to_one):
    for steps in range(1, 1000 - offset):
        start, end = visited(steps, "leading", offset=offset, to_one=to_one)
        if start[0] > 1000:  # past the end of the schedule: diffusers fails there too
            with pytest.raises(ValueError, match="past the schedule's end 1000; use fewer steps"):
                schedule(1000, offset, to_one).times(steps, "leading")
            continue
        if start[0] == end[-1]:
            with pytest.raises(ValueError, match="starts at its end, t=1; use more steps"):
                schedule(1000, offset, to_one).times(steps, "leading")
            continue
        times = schedule(1000, offset, to_one).times(steps, "leading")
        assert (start[1:] == end[:-1]).all()
        moves = start > end  # a step that stands still is none
        np.testing.assert_array_equal(times, [*start[moves], end[-1]])
        assert moves[:-1].all()


@pytest.mark.parametrize("to_one", [False, True])
def test_trailing_times_are_those_that_diffusers_visits_where_steps_divide_the_schedule(to_one):
    for steps in [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]:
        start, end = visited(steps, "trailing", to_one=to_one)
        np.testing.assert_array_equal(start[1:], end[:-1])
        np.testing.assert_array_equal(schedule(to_one=to_one).times(steps, "trailing"), [*start, end[-1]])


def test_elsewhere_ddim_in_diffusers_misses_its_own_next_timestep_and_our_times_do_not():
    for steps, spacing in [(30, "trailing"), (7, "trailing"), (50, "linspace")]:
        start, end = visited(steps, spacing)
        assert (start[1:] != end[:-1]).any()
        np.testing.assert_array_equal(schedule().times(steps, spacing), [*start[start > end[-1]], end[-1]])


def test_the_timestep_of_clean_data_that_trailing_may_round_to_does_not_move_the_end():
    for steps in (103, 201, 397):  # diffusers lists -1 as their last timestep
        times = schedule(to_one=True).times(steps, "trailing")
        assert len(times) == steps + 1
        assert times[-2] - 1000 // steps == times[-1] == 1


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_times_fall_strictly_and_number_one_more_than_the_steps(spacing):
    for steps in range(2, 1000):
        times = schedule(offset=0, to_one=True).times(steps, spacing)
        assert times.size in (steps, steps + 1)
        assert (np.diff(times) < 0).all()
        assert times[-1] in (0, 1)


def test_an_offset_as_large_as_the_last_step_keeps_it_from_clean_data():
    start, end = visited(600, "leading", offset=1, to_one=True)  # K // steps = 1: timestep 1 goes to timestep 0
    assert (start[-1], end[-1]) == (2, 1)
    assert schedule(offset=1, to_one=True).times(600, "leading")[-1] == 1


@pytest.mark.parametrize(
    ("alphas", "error", "match"),
    [
        ([], ValueError, r"alphas_cumprod must not be empty"),
        ([[0.9, 0.5]], ValueError, r"must have shape \(K,\), got \(1, 2\)"),
        ([0.9, 0.9], ValueError, "alphas_cumprod must fall, got 0.9 then 0.9 at index 1"),
        ([0.9, 0.5, 0.6], ValueError, "must fall, got 0.5 then 0.6 at index 2"),
        ([1.0, 0.5], ValueError, r"must lie in \(0, 1\), got values from 0.5 to 1"),
        ([0.9, 0.0], ValueError, "zero-SNR schedule has no finite sigma_T: leave its last entry out"),
        ([0.9, math.nan], ValueError, "alphas_cumprod must be finite, got nan"),
        (["a"], TypeError, "alphas_cumprod must be a real number or an array of them"),
    ],
)
def test_bad_alphas_are_refused_with_the_value_met(alphas, error, match):
    with pytest.raises(error, match=match):
        gb.VP.from_alphas_cumprod(alphas)


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        ({"beta_schedule": "sigmoid"}, ValueError, "unknown beta_schedule 'sigmoid'; known: linear, scaled_linear, sq"),
        ({"beta_schedule": 3}, TypeError, "beta_schedule must be one of the names"),
        ({"rescale_betas_zero_snr": True}, ValueError, "makes sigma_T infinite; set it to False"),
        ({"beta_start": -0.1}, ValueError, r"beta_start must lie in \[0, 1\], got -0.1"),
        ({"beta_end": math.nan}, ValueError, "beta_end must be finite, got nan"),
        ({"beta_start": "low"}, TypeError, "beta_start must be a real number"),
        ({"num_train_timesteps": 0}, ValueError, "num_train_timesteps must be at least 1, got 0"),
        ({"num_train_timesteps": 10.5}, TypeError, "num_train_timesteps must be a whole number, got 10.5"),
        ({"steps_offset": -1}, ValueError, "steps_offset must be at least 0, got -1"),
        ({"trained_betas": [0.1, 1.5]}, ValueError, r"must lie in \(0, 1\), got values from -0.45 to 0.9"),
        (DDIMScheduler(), TypeError, "config must be a mapping such as scheduler.config, got DDIMScheduler"),
    ],
)
def test_bad_configs_are_refused_with_the_value_met(config, error, match):
    with pytest.raises(error, match=match):
        gb.VP.from_diffusers(config)


@pytest.mark.parametrize(
    ("steps", "spacing", "error", "match"),
    [
        (0, "leading", ValueError, "steps must be at least 1, got 0"),
        (1001, "leading", ValueError, "steps must be at most the schedule's 1000 training steps, got 1001"),
        (10.0, "leading", TypeError, "steps must be a whole number, got 10.0"),
        (10, "karras", ValueError, "unknown spacing 'karras'; known: leading, trailing, linspace"),
        (10, None, TypeError, "spacing must be one of the names"),
        (1000, "leading", ValueError, "steps_offset=1 starts at t=1001, past the schedule's end 1000; use fewer steps"),
        (1, "linspace", ValueError, r"'linspace' with 1 step\(s\) starts at its end, t=1; use more steps"),
    ],
)
def test_bad_times_are_refused_with_the_value_met(steps, spacing, error, match):
    with pytest.raises(error, match=match):
        schedule().times(steps, spacing)


def test_a_torch_tensor_of_alphas_is_taken():
    process = gb.VP.from_alphas_cumprod(torch.tensor([0.9, 0.5], dtype=torch.float64))
    assert process.T == 2
    assert repr(process) == "VP(T=array(2.), beta=DiscreteRate(steps_offset=0, set_alpha_to_one=True))"
