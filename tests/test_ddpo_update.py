"""A step's share of the loss against numbers by hand and against finite differences."""

import math

import ddpo_cases as cases
import numpy as np
import pipelines as tiny
import pytest
import torch

from empirical.meter.draws import Draws
from empirical.training import tune
from empirical.training.guards import TrainingStopped
from empirical.training.policy import Policy
from empirical.training.rollout import roll, scored
from empirical.training.update import check_gradients, step_share
from gapbound.updates import adapted_weight

ADVANTAGE, KEPT = torch.tensor([1.5, -0.5, 7.0]), torch.tensor([True, True, False])


def moved(policy, size):
    """The policy after its adapters were moved by noise of this size."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tune.trainable(policy.network).values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return policy


def by_hand(policy, path, k, clip, weight, terms):
    """The share from its definition, in float64, sample by sample."""
    x, outcome, n = path.latents[k], path.latents[k + 1].double(), path.entries
    mean, std = policy.moments(x, k, path.condition, path.latents[k + 1])
    reference = policy.reference_mean(x, k, path.condition, path.latents[k + 1]).double()
    mean, std, total = mean.double(), std.double(), 0.0
    for i in range(len(x)):
        new = float((-((outcome[i] - mean[i]) ** 2) / (2 * std**2)).sum()) - n * math.log(float(std))
        old = float(path.log_prob[k].total[i]) + n / 2 * math.log(2 * math.pi)
        rho, A = math.exp((new - old) / n), float(ADVANTAGE[i])
        if KEPT[i]:
            total -= min(rho * A, min(max(rho, math.exp(-clip)), math.exp(clip)) * A) / terms[0]
        total += weight * float(((mean[i] - reference[i]) ** 2).sum()) / (2 * float(std) ** 2) / n / terms[1]
    return total


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("clip", [1e-4, 10.0])
def test_the_share_of_a_step_is_its_definition(clip, weight):
    policy = cases.policy()
    path = cases.path(policy)
    moved(policy, 0.05)
    with torch.no_grad():
        share = step_share(policy, path, 1, ADVANTAGE, KEPT, clip, weight, (4, 6))
        assert float(share.loss) == pytest.approx(by_hand(policy, path, 1, clip, weight, (4, 6)), rel=1e-9)
    assert (share.kl is None) == (weight == 0)
    assert share.change.abs().max() > 1e-3
    if clip == 10.0:
        assert share.clipped == 0


def test_clipped_samples_are_counted_as_those_whose_ratio_left_on_their_advantages_side():
    policy = cases.policy()
    path = cases.path(policy)
    moved(policy, 0.05)
    share = step_share(policy, path, 1, ADVANTAGE, KEPT, 1e-9, 0.0, (4, 6))
    outside = [float(c) * float(a) > 0 for c, a in zip(share.change[:2], ADVANTAGE[:2], strict=True)]
    assert share.clipped == sum(outside)


def test_the_gradient_at_ratio_1_is_the_policy_gradient():
    policy = cases.policy()
    path = cases.path(policy)
    parameters = list(tune.trainable(policy.network).values())
    share = step_share(policy, path, 1, ADVANTAGE, KEPT, 1e-4, 0.0, (2, 3))
    found = torch.autograd.grad(share.loss, parameters)
    mean, std = policy.moments(path.latents[1], 1, path.condition, path.latents[2])
    density = scored(path.latents[2], mean, std).per_entry
    expected = torch.autograd.grad(-(density[:2] * ADVANTAGE[:2]).sum() / 2, parameters)
    assert any(bool(g.any()) for g in found)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-10)


def test_a_step_along_the_gradient_raises_the_density_of_what_was_better_and_lowers_the_other():
    policy = cases.policy()
    path = cases.path(policy)
    parameters = list(tune.trainable(policy.network).values())
    step_share(policy, path, 1, ADVANTAGE, KEPT, 1e-4, 0.0, (2, 3)).loss.backward()
    with torch.no_grad():
        for parameter in parameters:
            parameter -= 0.3 * parameter.grad
        after = step_share(policy, path, 1, ADVANTAGE, KEPT, 1e-4, 0.0, (2, 3))
    assert float((after.change[:2] * ADVANTAGE[:2]).sum()) > 0


def test_the_kl_alone_pulls_towards_the_reference():
    policy = cases.policy()
    path = cases.path(policy)
    moved(policy, 0.1)
    none = torch.zeros(3, dtype=torch.bool)
    before = step_share(policy, path, 1, ADVANTAGE, none, 1e-4, 1.0, (1, 3))
    before.loss.backward()
    with torch.no_grad():
        for parameter in tune.trainable(policy.network).values():
            parameter -= 0.05 * parameter.grad
        after = step_share(policy, path, 1, ADVANTAGE, none, 1e-4, 1.0, (1, 3))
    assert 0 < float(after.kl.sum()) < float(before.kl.sum())


def test_masked_samples_have_no_gradient():
    policy = cases.policy()
    path = cases.path(policy)
    none = torch.zeros(3, dtype=torch.bool)
    share = step_share(policy, path, 1, ADVANTAGE, none, 1e-4, 0.0, (1, 3))
    share.loss.backward()
    gradients = [parameter.grad for parameter in tune.trainable(policy.network).values()]
    assert all(gradient is not None and not bool(gradient.any()) for gradient in gradients)  # present: processes wait


def test_gradients_are_clipped_to_their_norm_and_nan_stops():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert check_gradients([parameter], 1.0) == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)
    parameter.grad = torch.tensor([math.nan, 4.0])
    with pytest.raises(TrainingStopped, match="the gradient gave NaN or an infinity; the last good checkpoint is kept"):
        check_gradients([parameter], 1.0)


def test_the_weight_of_the_kl_adapts_by_hand():
    assert adapted_weight(0.1, 1.6, 1.0) == pytest.approx(0.15)
    assert adapted_weight(0.1, 1.4, 1.0) == 0.1
    assert adapted_weight(0.1, 0.6, 1.0) == pytest.approx(0.1 / 1.5)
    assert adapted_weight(0.1, 0.7, 1.0) == 0.1
    assert adapted_weight(0.1, 2.5, 1.0, factor=2.0) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="factor must be above 1, got 1"):
        adapted_weight(0.1, 1.0, 1.0, 1)
    with pytest.raises(ValueError, match="weight must be positive"):
        adapted_weight(0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="kl must be finite"):
        adapted_weight(0.1, math.nan, 1.0)


def batch_gradient(policy, bias, first, n=64):
    """Of the expected reward with respect to a shift of ``bias``: by the surrogate of all steps, and by differences."""
    prompts, numbers, draws = ["a bird"] * n, list(range(first, first + n)), Draws(0)

    def reward(path):
        return 16 * path.latents[-1].mean((1, 2, 3))

    path = roll(policy, prompts, numbers, draws)
    start = path.latents[0].mean((1, 2, 3))
    start, advantage = start - start.mean(), reward(path) - reward(path).mean()
    advantage = advantage - start * (advantage * start).sum() / start.square().sum()  # what x_T explains is no merit
    found = 0.0
    for k in policy.trainable_steps:
        share = step_share(policy, path, k, advantage, torch.ones(n, dtype=torch.bool), 1e-4, 0.0, (n, n))
        found -= float(torch.autograd.grad(share.loss, bias)[0].sum()) * path.entries * n / (n - 2)
    ends = []
    for shift in (0.05, -0.1):
        with torch.no_grad():
            bias += shift
        ends.append(float(reward(roll(policy, prompts, numbers, draws)).mean()))
    with torch.no_grad():
        bias += 0.05
    return found, (ends[0] - ends[1]) / 0.1


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_the_sampled_gradient_is_the_derivative_of_the_expected_reward(eta):
    pipeline = tiny.stable_diffusion()
    policy = Policy(pipeline, 3, eta, 1.0, reference=tune.unfreeze(pipeline))
    bias = pipeline.unet.conv_out.bias
    both = np.array([batch_gradient(policy, bias, 64 * b) for b in range(12)])
    (found, expected), error = both.mean(0), both[:, 0].std(ddof=1) / 12**0.5
    assert abs(found - expected) < 2 * error
    assert abs(-found - expected) > 5 * error  # the wrong sign would be seen, and so would no signal


def test_steps_weigh_by_their_std_with_mean_1_and_the_share_scales_with_it():
    policy = cases.policy()
    stds = policy.scheduler.stds[list(policy.trainable_steps)]
    weights = [policy.weight(k, 2.0) for k in policy.trainable_steps]
    assert np.mean(weights) == pytest.approx(1)
    np.testing.assert_allclose(np.divide(weights, weights[0]), (stds / stds[0]) ** 2)
    assert [policy.weight(k, 0.0) for k in policy.trainable_steps] == [1.0] * 3
    path = cases.path(policy)
    plain, halved = (
        step_share(policy, path, 1, ADVANTAGE, KEPT, 1e-4, 0.0, (4, 6), weight).loss.detach() for weight in (1.0, 0.5)
    )
    assert float(plain) != 0
    assert float(halved) == pytest.approx(float(plain) / 2)


def test_the_kl_is_not_weighted():
    policy = moved(cases.policy(), 0.1)
    path = cases.path(policy)
    none = torch.zeros(3, dtype=torch.bool)
    moved(policy, 0.05)
    shares = [
        step_share(policy, path, 1, ADVANTAGE, none, 1e-4, 1.0, (1, 3), weight).loss.detach() for weight in (1.0, 0.5)
    ]
    assert float(shares[0]) == float(shares[1]) > 0
