"""Ratios are 1 before an update, to a tolerance that is derived; every planted fault is found and its step named."""

import copy
import math
from dataclasses import replace

import ddpo_cases as cases
import pipelines as tiny
import pytest
import torch

from empirical.training import guards, tune
from empirical.training.guards import RatioGuard, TrainingStopped, require_finite, tolerance
from empirical.training.policy import Policy
from empirical.training.rollout import scored
from empirical.training.update import step_share
from gapbound.updates import summed_clip


def guarded(policy, path, k_of=lambda k: k, steps=None):
    guard = RatioGuard(policy.scheduler.timesteps.tolist(), summed_clip(1e-4, path.entries))
    for k in policy.trainable_steps if steps is None else steps:
        with torch.no_grad():
            mean, std = policy.moments(path.latents[k], k_of(k), path.condition, path.latents[k + 1])
        guard.add(k, scored(path.latents[k + 1], mean, std).total - path.log_prob[k].total, path.tolerance[k],
                  path.prompts)  # fmt: skip
    return guard


def test_before_an_update_every_ratio_is_exactly_1():
    policy = cases.policy()
    path = cases.path(policy)
    guard = guarded(policy, path)
    guard.check()
    assert set(guard.shares().values()) == {0.0}


def test_the_tolerance_scales_with_unit_roundoff_times_mean_over_std_by_hand():
    mean, std = torch.full((2, 4, 8, 8), 3.0), torch.tensor(0.5)
    r = guards.GROWTH * 2.0**-24 * 3 / 0.5
    assert float(tolerance(mean, std, torch.float32)[1]) == pytest.approx(16 * r + 128 * r**2, rel=1e-12)
    half = guards.GROWTH * 2.0**-8 * 3 / 0.5
    assert float(tolerance(mean, std, torch.bfloat16)[0]) == pytest.approx(16 * half + 128 * half**2, rel=1e-12)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_rounding_of_the_network_moves_ratios_by_less_than_half_of_the_tolerance(name, steps):
    policy = Policy(tiny.PIPELINES[name](), steps, 1.0, 3.0)
    path = cases.path(policy, 4)
    policy.network, policy.dtype = copy.deepcopy(policy.network).double(), torch.float64
    inputs = {key: widened(value) for key, value in path.condition.inputs.items()}
    exact = type(path)(**{**vars(path), "condition": replace(path.condition, inputs=inputs)})
    guard = guarded(policy, exact)
    assert 1e-3 < max(guard.shares().values()) < 0.5


def widened(value):
    if isinstance(value, dict):
        return {key: widened(one) for key, one in value.items()}
    return value.double() if torch.is_tensor(value) and value.is_floating_point() else value


def test_the_tolerance_is_capped_at_the_clip():
    guard = RatioGuard([9.0], cap=0.02)
    guard.add(0, torch.tensor([0.019]), torch.tensor([100.0]), ["a"])
    guard.check()
    guard.add(0, torch.tensor([0.021]), torch.tensor([100.0]), ["a"])
    with pytest.raises(TrainingStopped, match=r"a log-ratio is 0.021, tolerance 0.02"):
        guard.check()


def test_an_off_by_one_timestep_is_found():
    policy = cases.policy()
    path = cases.path(policy)
    original = policy.output
    policy.output = lambda x, k, *rest: original(x, k + 1, *rest)
    with pytest.raises(TrainingStopped, match=r"every ratio must be 1, but at step \d \(timestep \d+\) a log-ratio is"):
        guarded(policy, path).check()


def test_a_dtype_cast_of_the_stored_latents_is_found_and_the_step_is_the_narrowest():
    policy = cases.policy()
    path = cases.path(policy)
    cast = type(path)(**{**vars(path), "latents": path.latents.bfloat16().float()})
    with pytest.raises(TrainingStopped, match=r"at step 2 \(timestep 251\)"):
        guarded(policy, cast).check()


def test_a_network_in_lower_precision_is_found():
    policy = cases.policy()
    path = cases.path(policy)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TrainingStopped, match="timestep, precision, guidance and eval mode"),
    ):
        guarded(policy, path).check()


def test_another_guidance_is_found():
    policy = cases.policy(guidance=3.0)
    path = cases.path(policy)
    other = type(path.condition)(**{**vars(path.condition), "guidance": 3.1})
    with pytest.raises(TrainingStopped, match="every ratio must be 1"):
        guarded(policy, type(path)(**{**vars(path), "condition": other})).check()


def test_dropout_is_found():
    pipeline = tiny.stable_diffusion()
    tune.add_lora(pipeline, 2, seed=0)
    for module in pipeline.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    policy = Policy(pipeline, 4, 1.0, 3.0)
    path = cases.path(policy)
    guarded(policy, path).check()
    pipeline.unet.train()
    torch.manual_seed(0)
    with pytest.raises(TrainingStopped, match="every ratio must be 1"):
        guarded(policy, path).check()


def test_a_fault_of_one_step_is_named():
    policy = cases.policy()
    path = cases.path(policy)
    path.latents[1, 2] += 0.01  # the outcome of step 0 and the start of step 1, of one sample
    with pytest.raises(TrainingStopped, match=r"at step [01] .* prompt 'a bird'; 2 of 3 trained steps fail"):
        guarded(policy, path).check()


def test_a_log_ratio_that_is_nan_is_found():
    guard = RatioGuard([9.0], cap=1.0)
    guard.add(0, torch.tensor([0.0, math.nan]), torch.ones(2), ["a", "b"])
    with pytest.raises(TrainingStopped, match=r"at step 0 \(timestep 9\) a log-ratio is nan.* prompt 'b'"):
        guard.check()


def test_nan_is_named_by_its_prompt():
    with pytest.raises(TrainingStopped, match="the network gave NaN or an infinity for sample 1, prompt 'b'; the last"):
        require_finite("the network", torch.tensor([[0.0], [math.inf]]), ["a", "b"])
    with pytest.raises(TrainingStopped, match="the loss gave NaN or an infinity; the last good checkpoint is kept"):
        require_finite("the loss", torch.tensor(math.nan))


def test_nan_in_the_network_stops_rollout_and_replay():
    policy = cases.policy()
    path = cases.path(policy)
    next(iter(tune.trainable(policy.network).values())).data.fill_(math.nan)
    with pytest.raises(TrainingStopped, match="the network at step 0 of 4 gave NaN or an infinity for sample 0"):
        cases.path(policy)
    ones = torch.ones(3)
    with pytest.raises(TrainingStopped, match="the network at step 1 of 4 gave NaN"):
        step_share(policy, path, 1, ones, ones.bool(), 1e-4, 0.0, (3, 3))
