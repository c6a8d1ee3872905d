"""Sampled training: its gradients against exact ones, DDPO and GRPO, the network, refusals."""

import numpy as np
import pytest
import torch

import gapbound as gb
from gapbound.training import Consistent, Network, PerStep, Task, objective, train, train_sampled
from gapbound.training.history import Samplers, exact_record
from gapbound.training.rollout import draw_noise, rollout, sampled_record
from gapbound.training.sampled import Round, reference_policy
from gapbound.updates import Advantage

REFERENCE = gb.Gaussian(0.2, 0.8)
REWARD = gb.Quadratic(1.1, 0.9, 0.3)
PROCESS = gb.VP(1.6)
MODES = gb.GaussianMixture([0.5, 0.5], [-1.0, 1.0], 0.2)


def task(eta=1.3, beta=0.4, steps=6, **kwargs):
    return Task(REFERENCE, PROCESS, REWARD, eta, beta, steps, **kwargs)


def moved(one):
    policy, generator = PerStep.of(one), torch.Generator().manual_seed(5)
    return policy.with_parameters(
        tuple(p + 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in policy.parameters)
    )


def loss_gradients(one, form, batches, n):
    """Gradients of the training loss at ratio 1, batch by batch; advantages are centred rewards, not normalised."""
    policy, walk, generator = moved(one), one.walk(), torch.Generator().manual_seed(0)
    leaves = tuple(p.clone().requires_grad_() for p in policy.parameters)
    model, found = policy.with_parameters(leaves), []
    for _ in range(batches):
        paths = rollout(walk, policy, one.reward, draw_noise(walk, n, generator))
        round_ = Round.of(walk, policy, reference_policy(one), paths)
        reward = paths.reward - (float(one.beta) * round_.log_path if form == "ddpo" else 0)
        value = (reward - reward.mean()) * n / (n - 1)  # own reward in the mean: unbiased after this factor
        scale = paths.reward.std() if form == "grpo" else 1.0  # undoes the unit of GRPO's KL
        advantage = Advantage(value / scale, torch.ones(n, dtype=torch.bool), 0, 0)
        loss = round_.loss(one, model, advantage, form, 0.2, first=True) * scale
        found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(-loss, leaves)]).numpy())
    return np.stack(found)


@pytest.mark.parametrize(("form", "kl", "other"), [("ddpo", "path", "visited"), ("grpo", "visited", "path")])
def test_sampled_gradients_agree_with_exact_ones_in_standard_errors(form, kl, other):
    one = task(beta=2.0)

    def exact(kind):
        leaves = tuple(p.clone().requires_grad_() for p in moved(one).parameters)
        objective(one, moved(one).with_parameters(leaves), kl=kind)[0].backward()
        return torch.cat([leaf.grad.reshape(-1) for leaf in leaves]).numpy()

    found = loss_gradients(one, form, 60, 2000)
    error = found.std(0, ddof=1) / 60**0.5
    trained = error > 0  # the deterministic last step has no gradient
    assert trained.sum() == 10
    assert np.abs((found.mean(0) - exact(kl))[trained] / error[trained]).max() < 4
    assert np.abs((found.mean(0) - exact(other))[trained] / error[trained]).max() > 8  # power: the other KL


@pytest.mark.parametrize("form", ["ddpo", "grpo"])
@pytest.mark.parametrize("policy", ["consistent", "per-step"])
def test_both_forms_raise_the_reward(form, policy):
    history = train_sampled(task(beta=0.05), policy, form, 40, 0.02, n=128, seed=3).history
    assert history.sde[-1] > history.sde[0] + 0.5
    assert history.ode[-1] > history.ode[0]
    assert history.iteration.tolist() == [0, 10, 20, 30, 40]


def test_ddpo_ends_near_the_exact_optimum():
    one = task(1.0, 0.5)
    history = train_sampled(one, "per-step", "ddpo", 150, 0.01, n=512, every=50, seed=1).history
    exact = train(one, "per-step", 600, 0.05, decay=True, every=600).history
    assert history.mean[-1] == pytest.approx(exact.mean[-1], abs=0.05)
    assert history.variance[-1] == pytest.approx(exact.variance[-1], abs=0.05)


def test_runs_repeat_with_their_seed():
    runs = [train_sampled(task(), "per-step", "grpo", 3, n=32, seed=seed).history.sde for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert runs[0][-1] != runs[2][-1]


def test_an_update_without_any_advantage_is_skipped():
    flat = Task(REFERENCE, PROCESS, gb.Quadratic(0.0, 0.0, 0.0, 1.0), 1.0, 0.0, 4)
    history = train_sampled(flat, "per-step", "grpo", 3, n=16).history
    assert history.kl[-1] == 0


def test_a_network_starts_as_the_reference_and_its_record_agrees_with_the_library():
    one = Task(MODES, PROCESS, gb.Bump(1.0, 0.5), 1.3, 0.1, 10)
    record = sampled_record(Samplers.of(one), Network.of(one), reference_policy(one), 20_000, 0)
    assert record["kl"] == 0
    for name, eta, steps in (("sde", 1.3, 10), ("ode", 0.0, 10), ("fine_ode", 0.0, 40)):
        rewards = one.reward(gb.simulate(MODES, PROCESS, "gddim", eta, steps, n=100_000, seed=9).samples)
        error = (rewards.var() * (1 / 20_000 + 1 / 100_000)) ** 0.5
        assert abs(float(record[name]) - float(rewards.mean())) < 4 * float(error)


def test_sampled_records_agree_with_closed_forms():
    one = task()
    policy = Consistent(*torch.tensor([0.7, -0.9], dtype=torch.float64))
    exact = exact_record(Samplers.of(one), policy)
    record = sampled_record(Samplers.of(one), policy, reference_policy(one), 100_000, 0)
    for name in ("kl", "rescaled_kl", "kl_1", "mean", "variance", "ode_mean", "ode_variance"):
        assert float(record[name]) == pytest.approx(float(exact[name]), rel=0.02), name
    assert abs(float(record["ode"] - record["sde"] - exact["ode"] + exact["sde"])) < 4 * record["gap_error"]
    law = gb.Gaussian(float(policy.mean), float(policy.variance))
    finer = gb.discrete_law(law, PROCESS, "gddim", 0.0, 4 * one.steps)
    assert float(record["fine_ode"]) == pytest.approx(float(REWARD.expectation(finer)), abs=0.01)


@pytest.mark.parametrize("form", ["ddpo", "grpo"])
def test_a_network_on_two_modes_learns_to_prefer_one(form):
    one = Task(MODES, PROCESS, gb.Bump(1.0, 0.5), 1.0, 0.05, 8)
    found = train_sampled(one, Network.of(one), form, 15, 0.01, n=256, every=15)
    history = found.history
    assert history.sde[-1] > history.sde[0] + 0.15
    assert history.fine_ode[-1] > history.fine_ode[0] + 0.1
    assert (history.gap_error > 0).all()
    assert isinstance(found.policy, Network)


def test_any_reward_can_be_sampled_and_a_per_step_policy_has_no_finer_ode():
    one = Task(REFERENCE, PROCESS, gb.Bump(1.0, 0.5), 1.0, 0.05, 6)
    history = train_sampled(one, "per-step", "ddpo", 20, n=128, every=20).history
    assert history.fine_ode is None
    assert history.sde[-1] > history.sde[0] + 0.1
    assert history.gap_error.shape == (2,)


def test_what_sampled_training_refuses():
    with pytest.raises(ValueError, match=r"one run at a time, got a batch of shape \(2,\)"):
        train_sampled(task(np.array([1.0, 2.0])))
    with pytest.raises(ValueError, match="unknown form 'ppo'; known: ddpo, grpo"):
        train_sampled(task(), form="ppo")
    with pytest.raises(ValueError, match="n must be a multiple of group = 8, got 12"):
        train_sampled(task(), n=12)
    with pytest.raises(ValueError, match="group must be at least 2, got 1"):
        train_sampled(task(), group=1)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train_sampled(task(), epochs=0)
    with pytest.raises(ValueError, match=r"one run at a time, got a batch"):
        Network.of(Task(MODES, PROCESS, gb.Bump(1.0, 0.5), np.array([1.0, 2.0])))
