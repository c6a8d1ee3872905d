"""Rollouts are the pipeline's own samples, and replay is the rollout."""

import ddpo_cases as cases
import numpy as np
import pipelines as tiny
import pytest
import torch

from empirical.meter.draws import Draws
from empirical.meter.generate import Run, Sampler
from empirical.meter.pipelines import denoiser
from empirical.training import tune
from empirical.training.condition import prepare
from empirical.training.policy import Policy
from empirical.training.rollout import decode, passes, roll
from gapbound.updates import kl_rescaling

PAIRS = [("a red cat", 0), ("two dogs", 7)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_a_rollout_is_bit_for_bit_what_the_pipeline_itself_draws_and_decodes(name, guidance):
    pipeline = tiny.PIPELINES[name]()
    pipeline.vae.to(memory_format=torch.channels_last)  # as trainers do: another order in memory, another rounding
    path = roll(Policy(pipeline, 3, 1.2, guidance), *zip(*PAIRS, strict=True), Draws(3))
    expected = Sampler(pipeline, Draws(3))(PAIRS, Run(1.2, 3, guidance))
    assert torch.equal(path.latents[-1], expected.latents)
    assert torch.equal(decode(pipeline, path.latents[-1]), expected.images)


@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_replay_of_every_trainable_step_gives_the_density_of_the_rollout(name):
    policy = Policy(tiny.PIPELINES[name](), 4, 1.0, 3.0)
    path = cases.path(policy, 2)
    expected = {0, 1} if name == "sd3" else {0, 1, 2}  # of sd3, step 2 of 4 ends at t = .001 with as small a std
    assert set(path.log_prob) == set(policy.trainable_steps) == expected
    for k, kept in path.log_prob.items():
        mean, std = policy.moments(path.latents[k], k, path.condition, path.latents[k + 1])
        by_hand = torch.distributions.Normal(mean.double(), std.double()).log_prob(path.latents[k + 1].double())
        torch.testing.assert_close(kept.total, by_hand.flatten(1).sum(1), rtol=1e-12, atol=0)
        torch.testing.assert_close(kept.per_entry, by_hand.flatten(1).mean(1), rtol=1e-12, atol=0)


def test_a_sample_does_not_depend_on_what_runs_beside_it():
    policy = cases.policy()
    both = roll(policy, ["a bird", "two dogs"], [4, 5], Draws(0))
    alone = roll(policy, ["two dogs"], [5], Draws(0))
    torch.testing.assert_close(both.latents[:, 1], alone.latents[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(both.latents[0, 0], both.latents[0, 1])


def test_guidance_is_linear_in_its_weight():
    outputs = []
    for w in (2.0, 3.0, 4.0):
        policy = cases.policy(guidance=w)
        x = torch.ones(1, 4, 8, 8)
        outputs.append(policy.output(x, 1, policy.condition(["a bird"])))
    torch.testing.assert_close(outputs[2] - outputs[1], outputs[1] - outputs[0], rtol=1e-3, atol=1e-5)
    assert passes(cases.policy(guidance=1.0)) == 4
    assert passes(cases.policy(guidance=2.0)) == 8


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_prompts_that_occur_again_are_encoded_once_and_told_to_the_network_each_time(name, guidance):
    policy, texts = Policy(tiny.PIPELINES[name](), 3, 1.0, guidance), ["two dogs", "a red cat", "two dogs", "two dogs"]
    found = policy.condition(texts)
    expected = prepare(policy.pipeline, policy.scheduler, texts, 3, guidance)
    assert (found.prompts, found.doubled) == (tuple(texts), expected.doubled)
    torch.testing.assert_close(dict(found.inputs), dict(expected.inputs))
    rows = found.of([1, 2])
    assert rows.prompts == ("a red cat", "two dogs")
    torch.testing.assert_close(dict(rows.inputs), dict(policy.condition(["a red cat", "two dogs"]).inputs))
    seen = []
    policy.pipeline.text_encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    policy.condition(texts)
    assert max(seen) == 2


def test_a_flux_model_that_is_asked_twice_a_step_is_refused():
    with pytest.raises(ValueError, match=r"guidance 3 asks this Flux model twice a step.*use guidance 1"):
        Policy(tiny.flux(guidance_embeds=False), 3, 1.0, 3.0)
    Policy(tiny.flux(guidance_embeds=False), 3, 1.0, 1.0)


def test_steps_of_eta_0_and_the_last_step_are_not_trained():
    policy = cases.policy(eta=[0.0, 1.5, 0.7, 1.0])
    assert policy.trainable_steps == (1, 2)
    assert set(cases.path(policy).log_prob) == {1, 2}
    assert policy.scheduler.stds[0] == 0
    assert 0 < policy.scheduler.stds[3] < 0.03  # Stable Diffusion leaves noise in


@pytest.mark.parametrize("eta", [0.0, [0.0, 0.0, 0.0, 1.0]])
def test_a_sampler_without_a_step_to_train_is_refused(eta):
    policy = cases.policy(eta=eta)
    with pytest.raises(
        ValueError, match=r"no step can be trained: with eta = .* deterministic, or has a std below 0.01"
    ):
        _ = policy.trainable_steps


def test_the_reference_is_the_model_without_its_adapters_or_the_frozen_copy():
    plain = cases.policy(lora=False)
    path = cases.path(plain)
    x, k, outcome = path.latents[1], 1, path.latents[2]
    expected, _ = plain.moments(x, k, path.condition, outcome)
    tuned = cases.policy()
    full = tiny.stable_diffusion()
    copy = Policy(full, 4, 1.0, 3.0, reference=tune.unfreeze(full))
    for policy in (tuned, copy):
        with torch.no_grad():
            for parameter in tune.trainable(policy.network).values():
                parameter += 0.1
        assert not torch.allclose(policy.moments(x, k, path.condition, outcome)[0], expected)
        torch.testing.assert_close(policy.reference_mean(x, k, path.condition, outcome), expected)
        assert policy.moments(x, k, path.condition, outcome)[0].requires_grad


def test_adapters_change_nothing_at_first_and_alone_are_trained():
    plain, tuned = cases.path(cases.policy(lora=False)), cases.path(cases.policy())
    assert torch.equal(plain.latents, tuned.latents)
    policy = cases.policy()
    names = list(tune.trainable(policy.network))
    assert names
    assert all("lora" in name for name in names)
    assert not any(p.requires_grad for p in policy.pipeline.text_encoder.parameters())
    again = cases.policy()
    for name, parameter in tune.trainable(again.network).items():  # seeded, whatever was drawn before
        assert torch.equal(parameter, tune.trainable(policy.network)[name])


def test_half_precision_is_refused_for_training_all_weights():
    with pytest.raises(ValueError, match=r"all weights are trained in float32, got torch.bfloat16.*train a LoRA"):
        tune.unfreeze(tiny.stable_diffusion().to(torch.bfloat16))


def test_half_precision_networks_keep_latents_moments_and_adapters_in_float32():
    pipeline = tiny.stable_diffusion().to(torch.bfloat16)
    tune.add_lora(pipeline, 2, seed=0)
    policy = Policy(pipeline, 4, 1.0, 3.0)
    path = cases.path(policy)
    assert policy.dtype == torch.bfloat16
    assert path.latents.dtype == torch.float32
    assert path.log_prob[0].total.dtype == torch.float64
    assert {p.dtype for p in tune.trainable(pipeline.unet).values()} == {torch.float32}
    mean, _ = policy.moments(path.latents[1], 1, path.condition, path.latents[2])
    assert mean.dtype == torch.float32
    assert decode(pipeline, path.latents[-1]).dtype == torch.float32


def test_the_rescaling_of_a_step_is_that_of_its_levels_and_none_where_there_is_no_formula():
    policy = cases.policy(eta=[1.5, 0.5, 1.0, 1.0])
    sigma = policy.scheduler.levels.sigma
    assert policy.rescaling(1) == pytest.approx(float(kl_rescaling(sigma[1], sigma[2], 0.5)))
    assert policy.rescaling(2) == pytest.approx(1.0)
    assert policy.rescaling(0) < 1
    assert np.isinf(Policy(tiny.stable_diffusion_3(), 3).scheduler.levels.sigma[0])
    assert Policy(tiny.stable_diffusion_3(), 3).rescaling(0) is None
    assert cases.policy(sampler="ddim").rescaling(0) is None


@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_saved_adapters_load_in_plain_diffusers_of_every_class(name, tmp_path):
    tuned, plain = tiny.PIPELINES[name](), tiny.PIPELINES[name]()
    tune.add_lora(tuned, 2, seed=0)
    network = denoiser(tuned)
    with torch.no_grad():
        for parameter in tune.trainable(network).values():
            parameter += 0.1
    tune.save(tuned, tmp_path, lora=True)
    before = cases.path(Policy(plain, 3, 1.0, 3.0), 1).latents[-1]
    plain.load_lora_weights(tmp_path)
    loaded = cases.path(Policy(plain, 3, 1.0, 3.0), 1).latents[-1]
    torch.testing.assert_close(loaded, cases.path(Policy(tuned, 3, 1.0, 3.0), 1).latents[-1], rtol=0, atol=1e-4)
    assert float((loaded - before).abs().max()) > 1e-2
