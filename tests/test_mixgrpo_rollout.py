"""Rollouts with a window: a trunk that is shared, noise in the window alone, and a solver at the end."""

import ddpo_cases as cases
import pipelines as tiny
import pytest
import torch

from empirical.meter.draws import Draws
from empirical.training.policy import Policy
from empirical.training.rollout import passes, roll
from empirical.training.window import Window

PAIR = ["a red cat"] * 2 + ["two dogs"] * 2


def windowed(first=2, width=2, steps=6, **more):
    return cases.policy(steps=steps, eta=Window(steps, width, first, position="fixed").profile(0, 1.0), **more)


def test_only_the_steps_of_the_window_have_a_density_and_are_trained():
    policy = windowed()
    path = roll(policy, PAIR, [0, 1, 2, 3], Draws(0))
    assert policy.trainable_steps == policy.stochastic_steps == (2, 3)
    assert set(path.log_prob) == set(path.tolerance) == {2, 3}
    assert policy.trunk == 2


def test_a_shared_trunk_is_the_ode_from_one_x_t_for_each_group():
    policy = windowed()
    shared = roll(policy, PAIR, [4, 5, 6, 7], Draws(0), together=2)
    single = roll(policy, ["a red cat", "two dogs"], [4, 6], Draws(0))
    for k in range(3):  # x_T and both steps before the window
        torch.testing.assert_close(shared.latents[k, ::2], single.latents[k], rtol=1e-4, atol=1e-5)
        assert torch.equal(shared.latents[k, 0], shared.latents[k, 1])
    assert not torch.equal(shared.latents[3, 0], shared.latents[3, 1])
    assert not torch.equal(shared.latents[0, 0], shared.latents[0, 2])


def test_samples_of_a_shared_trunk_are_those_that_start_there_one_by_one():
    """The same noise and x_T without a trunk: only rounding differs."""
    policy = windowed()
    shared = roll(policy, PAIR[:2], [4, 5], Draws(0), together=2)
    alone = roll(policy, PAIR[:1], [4], Draws(0))
    torch.testing.assert_close(shared.latents[:, 0], alone.latents[:, 0], rtol=1e-4, atol=1e-5)


def test_replay_of_the_window_gives_the_densities_of_the_rollout():
    policy = windowed(flash=1)
    path = roll(policy, PAIR, [0, 1, 2, 3], Draws(0), together=2)
    for k, kept in path.log_prob.items():
        mean, std = policy.moments(path.latents[k], k, path.condition, path.latents[k + 1])
        by_hand = torch.distributions.Normal(mean.double(), std.double()).log_prob(path.latents[k + 1].double())
        torch.testing.assert_close(kept.total, by_hand.flatten(1).sum(1), rtol=1e-12, atol=0)


def test_the_count_of_passes_is_how_often_the_network_runs():
    for more, together in (({}, 1), ({}, 2), ({"flash": 1}, 2), ({"guidance": 1.0, "flash": 2}, 2), ({"first": 0}, 2)):
        policy, seen = windowed(**more), []

        def count(module, inputs, keywords, seen=seen):
            seen.append(len(inputs[0] if inputs else keywords["sample"]))

        policy.network.register_forward_pre_hook(count, with_kwargs=True)
        expected = 4 * passes(policy, together)
        seen.clear()
        roll(policy, PAIR, [0, 1, 2, 3], Draws(0), together)
        prompts = (2 if policy.doubled else 1) * 2  # the call that learns what the network is told, which ends at once
        assert sum(seen) - prompts == expected


def test_a_solver_takes_the_steps_after_the_window_alone():
    whole, short = (roll(windowed(flash=flash), PAIR, [0, 1, 2, 3], Draws(0)) for flash in (None, 1))
    assert len(whole.latents) == 7
    assert len(short.latents) == 6
    assert torch.equal(whole.latents[:5], short.latents[:5])
    assert not torch.equal(whole.latents[-1], short.latents[-1])


def test_a_policy_goes_on_with_another_window():
    policy = windowed()
    policy.use(Window(6, 2, 0, position="fixed").profile(0, 1.3))
    assert policy.trainable_steps == (0, 1)
    assert policy.weight(0, 2.0) + policy.weight(1, 2.0) == pytest.approx(2)
    with pytest.raises(ValueError, match="eta has 3 values for 6 steps"):
        policy.use([1.0, 0.0, 0.0])


def test_a_flash_takes_at_most_its_steps_and_is_refused_where_none_is_left():
    assert windowed(flash=9).solver()[0] == [4, 5]
    assert windowed(flash=1).solver()[0] == [4]
    with pytest.raises(ValueError, match="0 of 6 steps are left after the window, which 1 cannot replace"):
        cases.policy(steps=6, eta=1.0, flash=1)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        windowed(flash=0)


def test_samples_of_different_prompts_share_no_x_t():
    with pytest.raises(ValueError, match="samples 0 to 1 share x_T, but not their prompt"):
        roll(windowed(), ["a red cat", "two dogs"], [0, 1], Draws(0), together=2)
    with pytest.raises(ValueError, match="3 samples are no multiple of the 2 that share x_T"):
        roll(windowed(), PAIR[:3], [0, 1, 2], Draws(0), together=2)


@pytest.mark.parametrize("name", list(tiny.PIPELINES))
def test_every_class_of_pipeline_rolls_with_window_trunk_and_solver(name):
    profile = Window(6, 2, 1, position="fixed").profile(0, 0.8)
    policy = Policy(tiny.PIPELINES[name](), 6, profile, 1.0, flash=2)
    path = roll(policy, PAIR, [0, 1, 2, 3], Draws(0), together=2)
    assert set(path.log_prob) == {1, 2}
    assert len(path.latents) == 6
    assert bool(torch.isfinite(path.latents).all())
