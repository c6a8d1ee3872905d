"""The updates of policy-gradient fine-tuning: hand-computed cases, autograd, refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import gapbound as gb
from gapbound import updates
from gapbound.updates import (
    PromptBuffer,
    clipped_surrogate,
    combined_advantage,
    group_advantage,
    kl_rescaling,
    log_prob,
    log_ratio,
    prompt_advantage,
    ratio,
    require_on_policy,
    step_kl,
    summed_clip,
)


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_log_prob_is_scipys_density_summed_and_its_mean_per_entry():
    x, mean = torch.arange(24.0, dtype=torch.float64).reshape(2, 3, 2, 2) / 7, torch.tensor(0.3, dtype=torch.float64)
    found = log_prob(x, mean, 1.234, event_dims=3)
    expected = norm(0.3, 1.234).logpdf(x.numpy()).reshape(2, -1)
    np.testing.assert_allclose(found.total, expected.sum(1), rtol=1e-13)
    np.testing.assert_allclose(found.per_entry, expected.mean(1), rtol=1e-13)
    per_step = log_prob(x, mean, torch.tensor([1.234, 0.7], dtype=torch.float64)[:, None, None, None], event_dims=3)
    assert per_step.total[0] == found.total[0]
    assert per_step.total[1] != found.total[1]


def test_log_prob_by_hand():
    found = log_prob(t([1.0, 3.0]), t([0.0, 1.0]), 2.0)
    assert float(found.total) == pytest.approx(-1 / 8 - 4 / 8 - 2 * math.log(2) - math.log(2 * math.pi), rel=1e-14)
    assert float(found.per_entry) == pytest.approx(float(found.total) / 2, rel=1e-14)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_a_deterministic_step_has_no_log_prob_and_no_kl(std):
    with pytest.raises(ValueError, match=r"std must be positive and finite, got .*: a deterministic step"):
        log_prob(t([1.0]), t([0.0]), std)
    with pytest.raises(ValueError, match="has no density and carries no policy gradient; leave it out"):
        step_kl(t([1.0]), t([0.0]), std)


def test_an_event_larger_than_the_sample_is_refused():
    with pytest.raises(ValueError, match=r"event_dims must be at most the number of axes, got 2 for shape \(1,\)"):
        log_prob(t(1.0), t(0.0), 1.0, event_dims=2)


def test_ratio_is_one_before_the_first_update_and_its_gradient_is_the_score():
    mean = t([0.4]).requires_grad_()
    x = t([1.0])
    change = log_ratio(log_prob(x, mean, 0.5).total, log_prob(x, mean, 0.5).total)
    require_on_policy(change)
    rho = ratio(change)
    assert float(rho.detach()) == 1
    rho.sum().backward()
    assert float(mean.grad) == pytest.approx((1.0 - 0.4) / 0.25)


def test_an_off_policy_start_and_broken_ratios_are_refused():
    with pytest.raises(ValueError, match=r"every ratio must be 1, but a log-ratio is 0\.001 \(tolerance 1e-05\)"):
        require_on_policy(t(0.0, -1e-3))
    with pytest.raises(ValueError, match="every ratio must be 1"):
        require_on_policy(t(0.0, math.nan))
    with pytest.raises(ValueError, match=r"must have one shape, got \(2,\) and \(1,\)"):
        log_ratio(t(0.0, 1.0), t(0.0))
    with pytest.raises(ValueError, match="1 of 1 entries of the log-ratio are NaN or infinite; store means"):
        log_ratio(t(math.nan), t(0.0))
    with pytest.raises(ValueError, match=r"a log-ratio of 400 overflows; the policy moved too far"):
        ratio(t(400.0))


@pytest.mark.parametrize(
    ("change", "advantage", "expected", "slope", "clipped"),
    [
        (0.0, 2.0, -2.0, -2.0, 0),
        (0.5, 2.0, -2 * math.exp(0.2), 0.0, 1),  # already better by more than the clip: no gradient
        (0.5, -2.0, 2 * math.exp(0.5), 2 * math.exp(0.5), 0),  # the pessimistic branch keeps its gradient
        (-0.5, -2.0, 2 * math.exp(-0.2), 0.0, 1),
        (-0.5, 2.0, -2 * math.exp(-0.5), -2 * math.exp(-0.5), 0),
    ],
)
def test_the_clipped_surrogate_is_ppos_case_by_case(change, advantage, expected, slope, clipped):
    x = t(change).requires_grad_()
    found = clipped_surrogate(x, t(advantage), clip=0.2)
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-14)
    assert found.clipped == clipped
    found.loss.backward()
    assert float(x.grad) == pytest.approx(slope, rel=1e-14)


def test_the_surrogate_averages_kept_samples_over_all_steps():
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert float(clipped_surrogate(x, t(1.0, 5.0), 0.2).loss) == -3
    assert float(clipped_surrogate(x, t(1.0, 5.0), 0.2, torch.tensor([True, False])).loss) == -1
    with pytest.raises(ValueError, match="no sample has an advantage; skip this update"):
        clipped_surrogate(x, t(1.0, 5.0), 0.2, torch.tensor([False, False]))
    with pytest.raises(ValueError, match="clip must be positive, got 0"):
        clipped_surrogate(x, t(1.0, 5.0), 0.0)


def test_ddpos_clip_in_summed_units():
    assert summed_clip(1e-4, 16_384) == pytest.approx(1.6384)
    with pytest.raises(ValueError, match="entries must be at least 1, got 0"):
        summed_clip(1e-4, 0)


def test_group_advantage_by_hand():
    found = group_advantage(t([1.0, 3.0], [0.0, 4.0]))
    np.testing.assert_array_equal(found.value, [[-1, 1], [-1, 1]])
    assert found.kept.all()
    assert (found.flat, found.failed) == (0, 0)


@pytest.mark.parametrize("value", [0.1, 0.7, 1e12])
def test_a_group_of_equal_rewards_is_masked_and_counted_never_divided(value):
    found = group_advantage(t([value] * 3, [0.0, 1.0, 5.0]))
    assert (found.flat, found.failed) == (1, 0)
    assert not found.kept[0].any()
    assert (found.value[0] == 0).all()
    assert found.kept[1].all()


def test_one_std_for_the_batch_leaves_groups_their_own_weight():
    rewards = t([1.0, 3.0], [0.0, 4.0], [5.0, 5.0])  # centred: 1 and 2; the flat group does not count
    found = group_advantage(rewards, spread="batch")
    np.testing.assert_allclose(found.value, np.array([[-1, 1], [-2, 2], [0, 0]]) / math.sqrt(2.5), rtol=1e-12)
    np.testing.assert_array_equal(found.kept, [[True] * 2, [True] * 2, [False] * 2])
    assert (found.flat, found.failed) == (1, 0)
    failed = group_advantage(t([1.0, math.nan, 3.0], [0.0, math.inf, 4.0]), "mask", "batch")
    np.testing.assert_allclose(failed.value, np.array([[-1, 0, 1], [-2, 0, 2]]) / math.sqrt(2.5), rtol=1e-12)
    none = group_advantage(t([1.0, 1.0]), spread="batch")
    assert not none.kept.any()
    assert (none.value == 0).all()
    with pytest.raises(ValueError, match="unknown spread 'all'; known: group, batch"):
        group_advantage(rewards, spread="all")


def test_failed_rewards_raise_or_are_masked_and_counted_and_never_enter_the_mean():
    rewards = t([1.0, math.nan, 3.0], [math.inf, math.nan, 2.0])
    with pytest.raises(ValueError, match="3 of 6 rewards are NaN or infinite; mend the reward, or pass failed='mask'"):
        group_advantage(rewards)
    found = group_advantage(rewards, failed="mask")
    np.testing.assert_array_equal(found.value, [[-1, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(found.kept, [[True, False, True], [False] * 3])
    assert (found.flat, found.failed) == (1, 3)
    with pytest.raises(ValueError, match="unknown failed 'zero'; known: raise, mask"):
        group_advantage(rewards, failed="zero")


def test_prompt_advantage_uses_the_batch_until_the_buffer_has_enough():
    buffer, prompts, reward = PromptBuffer(size=4, at_least=3), ["a", "a", "b"], t(1.0, 3.0, 8.0)
    first, buffer = prompt_advantage(buffer, prompts, reward)
    batch = np.array([1.0, 3.0, 8.0])
    np.testing.assert_allclose(first.value, (batch - batch.mean()) / batch.std(), rtol=1e-14)
    second, buffer = prompt_advantage(buffer, prompts, t(5.0, 7.0, 9.0))
    own, batch = np.array([1.0, 3.0, 5.0, 7.0]), np.array([5.0, 7.0, 9.0])
    np.testing.assert_allclose(second.value[:2], (np.array([5.0, 7.0]) - own.mean()) / own.std(), rtol=1e-14)
    np.testing.assert_allclose(second.value[2], (9 - batch.mean()) / batch.std(), rtol=1e-14)
    _, buffer = prompt_advantage(buffer, prompts, t(0.0, 2.0, 9.0))
    assert buffer.rewards == {"a": (5.0, 7.0, 0.0, 2.0), "b": (8.0, 9.0, 9.0)}


def test_prompt_advantage_clamps_and_counts_and_masks():
    buffer = PromptBuffer(32, 16, {"a": tuple([0.0, 1.0] * 15)})
    found, _ = prompt_advantage(buffer, ["a"], t(100.0))
    assert float(found.value) == 5
    assert found.clamped == 1
    flat, _ = prompt_advantage(PromptBuffer(), ["a", "b"], t(0.7, 0.7))
    assert (flat.flat, flat.kept.any().item()) == (2, False)
    masked, grown = prompt_advantage(PromptBuffer(), ["a", "b", "a"], t(1.0, math.nan, 3.0), failed="mask")
    np.testing.assert_array_equal(masked.value, [-1, 0, 1])
    assert (masked.failed, masked.kept.tolist()) == (1, [True, False, True])
    assert grown.rewards == {"a": (1.0, 3.0)}


def test_prompt_advantage_refuses_what_does_not_match():
    with pytest.raises(ValueError, match=r"one prompt per reward, got 1 prompts and rewards \(2,\)"):
        prompt_advantage(PromptBuffer(), ["a"], t(1.0, 2.0))
    with pytest.raises(ValueError, match="clamp must be positive"):
        prompt_advantage(PromptBuffer(), ["a"], t(1.0), clamp=0.0)
    with pytest.raises(ValueError, match="1 of 1 rewards are NaN"):
        prompt_advantage(PromptBuffer(), ["a"], t(math.nan))
    with pytest.raises(ValueError, match="size must be at least at_least = 16, got 8"):
        PromptBuffer(8)


def test_a_batch_whose_rewards_all_failed_is_masked_and_remembers_nothing():
    buffer = PromptBuffer(4, 2, {"a": (1.0, 2.0)})
    advantage, grown = prompt_advantage(buffer, ["a", "b"], torch.full((2,), math.nan), failed="mask")
    assert (advantage.failed, advantage.kept.any().item(), advantage.value.tolist()) == (2, False, [0.0, 0.0])
    assert grown == buffer


def test_rewards_of_eight_bits_are_normalised_in_float32():
    narrow = torch.tensor([[1.0, 2.0, 4.0]]).to(torch.float8_e4m3fn)
    torch.testing.assert_close(group_advantage(narrow).value, group_advantage(narrow.float()).value)


def test_step_kl_is_the_integral_of_its_definition():
    p, q = norm(0.3, 0.7), norm(-0.4, 0.7)
    integral, _ = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), -8, 8)
    assert float(step_kl(t([0.3]), t([-0.4]), 0.7)) == pytest.approx(integral, rel=1e-9)
    twice = step_kl(t([[0.3, 0.3]]), t([[-0.4, -0.4]]), 0.7, event_dims=2)
    assert twice.shape == (1,)
    assert float(twice) == pytest.approx(2 * integral, rel=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0, 1.7])
def test_rescaled_kl_is_what_eta_1_pays_for_the_same_change(eta):
    sigma, low, change = 1.234, 0.765, 0.1

    def kl(x):
        k = (low / sigma) ** x**2  # gDDIM's mean: z - sigma eps + sigma' k eps
        drop, std = sigma - low * k, low * math.sqrt(1 - k**2)
        return float(step_kl(t([-drop * change]), t([0.0]), std))

    assert kl(eta) * float(kl_rescaling(sigma, low, eta)) == pytest.approx(kl(1.0), rel=1e-12)


def test_kl_rescaling_tends_to_the_continuous_time_factor_at_second_order():
    eta = np.array([0.5, 1.0, 2.0])
    limit = 4 * eta**2 / (1 + eta**2) ** 2
    errors = [np.abs(kl_rescaling(1.0, 1.0 - h, eta) - limit) for h in (1e-2, 1e-3)]
    assert (errors[1] < 1e-5).all()
    np.testing.assert_allclose(errors[0][[0, 2]] / errors[1][[0, 2]], 100, rtol=0.05)
    assert limit.argmax() == 1  # a change costs least KL at eta = 1


def test_kl_rescaling_refuses_deterministic_steps_and_rising_levels():
    with pytest.raises(ValueError, match="a deterministic step has no KL to rescale, got eta=0"):
        kl_rescaling(1.0, 0.5, 0.0)
    with pytest.raises(ValueError, match="sigma_next must be positive"):
        kl_rescaling(1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"noise levels must fall, got sigma=0\.5 and sigma_next=1"):
        kl_rescaling(0.5, 1.0, 1.0)


def test_log_prob_agrees_with_the_simulators():
    run = gb.simulate(
        gb.Gaussian(0.0, 1.0), gb.VE(3.0), "gddim", 1.2, 3, n=5, trajectory=True, log_prob=True, dtype=torch.float64
    )
    kernel = gb.kernel.step("gddim", run.sigmas[0], run.sigmas[1], np.float64(1.2))
    z, s = run.trajectory, run.sigmas[0]
    eps = z[0] * s / (1 + s**2)
    mean = z[0] - (s - float(kernel.carry)) * eps
    np.testing.assert_allclose(log_prob(z[1], mean, float(kernel.std)).total, run.log_prob[0], rtol=1e-10)
    assert run.log_prob[-1] is None
    assert updates.FAILED == ("raise", "mask")


def test_advantages_of_several_rewards_are_weighted_and_keep_what_any_part_keeps():
    parts = {
        "a": group_advantage(t(1.0, 3.0, 2.0, 2.0).reshape(2, 2)),
        "b": group_advantage(t(0.0, 10.0, 4.0, 6.0).reshape(2, 2)),
    }
    found = combined_advantage(parts, {"a": 1.0, "b": 0.5})
    assert found.value.tolist() == [[-1.5, 1.5], [-0.5, 0.5]]  # the second group is flat in a alone
    assert found.kept.all()
    assert (found.flat, found.failed) == (1, 0)
    added = group_advantage(t(1.0, 13.0, 6.0, 8.0).reshape(2, 2))
    assert added.value.tolist() == [[-1, 1], [-1, 1]]  # by reward, the scale of each is lost
    with pytest.raises(ValueError, match=r"need the same names, at least one, got \['a', 'b'\] and \['a'\]"):
        combined_advantage(parts, {"a": 1.0})
    with pytest.raises(ValueError, match="at least one"):
        combined_advantage({}, {})


def test_a_sample_whose_one_reward_failed_keeps_the_others():
    failed = group_advantage(t(math.nan, 3.0, 1.0), failed="mask")
    found = combined_advantage({"a": failed, "b": group_advantage(t(2.0, 2.0, 2.0))}, {"a": 1.0, "b": 1.0})
    assert found.kept.tolist() == [False, True, True]
    assert found.value.tolist() == [0, 1, -1]
    assert (found.flat, found.failed) == (1, 1)


@pytest.mark.parametrize(
    ("rewards", "dtype"),
    [
        ([100.0, 400.0, 800.0], torch.float16),  # squares overflow float16
        ([2e4, 3e4, 4e4], torch.float16),  # so does the sum
        ([1e20, 2e20, 4e20], torch.float32),
        ([1e-30, 2e-30, 4e-30], torch.float32),  # squares vanish
        ([20.125, 20.25, 20.5, 20.875], torch.bfloat16),  # eps of bfloat16 is larger than the spread
        ([1e200, 2e200, 4e200], torch.float64),
        ([100, 200, 255], torch.uint8),
        ([2**20, 2**20 + 1, 2**20 + 3], torch.int64),
    ],
)
def test_advantages_of_any_dtype_and_size_are_those_in_exact_arithmetic(rewards, dtype):
    exact = [Fraction(r) for r in torch.tensor(rewards, dtype=dtype).tolist()]
    mean = sum(exact) / len(exact)
    variance = sum((r - mean) ** 2 for r in exact) / len(exact)
    expected = [math.copysign(math.sqrt((r - mean) ** 2 / variance), r - mean) for r in exact]
    given = torch.tensor(rewards, dtype=dtype)
    rtol = 1e-9 if torch.promote_types(dtype, torch.float32) == torch.float64 else 1e-5
    for spread in updates.SPREADS:
        found = group_advantage(given, spread=spread)
        assert found.value.dtype in (torch.float32, torch.float64)
        assert (found.flat, bool(found.kept.all())) == (0, True)
        np.testing.assert_allclose(found.value, expected, rtol=rtol, atol=rtol)
    by_prompt, _ = prompt_advantage(PromptBuffer(), ["a"] * len(rewards), given)
    np.testing.assert_allclose(by_prompt.value, expected, rtol=rtol, atol=rtol)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=6), st.integers(-60, 60), st.integers(-50, 50))
def test_advantages_do_not_change_with_the_unit_or_the_origin_of_the_reward(rewards, exponent, shift):
    plain = group_advantage(torch.tensor(rewards, dtype=torch.float64))
    scaled = group_advantage(torch.tensor(rewards, dtype=torch.float64) * 2.0**exponent)
    moved = group_advantage(torch.tensor(rewards, dtype=torch.float64) + shift)
    assert plain.value.equal(scaled.value)  # to the last bit: units are powers of two
    np.testing.assert_allclose(plain.value, moved.value, atol=1e-12)
    assert plain.kept.equal(moved.kept)


def test_densities_narrower_than_float32_are_refused():
    latents = torch.zeros(2, 16_384, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"x must be float32 or float64, got torch.bfloat16, in which log-densities"):
        log_prob(latents, latents.float(), 0.1)
    with pytest.raises(ValueError, match=r"mean must be float32 or float64, got torch.float16"):
        log_prob(latents.float(), latents.half(), 0.1)
    for call in (ratio, require_on_policy, lambda x: log_ratio(x, x), lambda x: step_kl(x, x, 1.0)):
        with pytest.raises(ValueError, match=r"must be float32 or float64, got torch.bfloat16"):
            call(latents)


def test_samples_that_are_not_kept_are_not_looked_at():
    change, kept = t(0.0, math.nan, 400.0), torch.tensor([True, False, False])
    change.requires_grad_()
    found = clipped_surrogate(change, t(2.0, math.nan, 1.0), 0.2, kept)
    assert float(found.loss.detach()) == -2
    found.loss.backward()
    assert change.grad.tolist() == [-2, 0, 0]
    with pytest.raises(ValueError, match="1 of 3 entries of advantage are NaN or infinite; mask them by kept"):
        clipped_surrogate(t(0.0, 0.0, 0.0), t(2.0, math.nan, 1.0), 0.2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: log_prob([1.0], t(0.0), 1.0),
            TypeError,
            r"x must be a torch tensor, got \[1.0\]; use torch.as_tensor",
        ),
        (lambda: log_prob(t(1.0), t(0.0), "1"), TypeError, "std must be a real number"),
        (lambda: log_prob(t(1.0), t(math.nan), 1.0), ValueError, "1 of 1 entries of the log-density are NaN"),
        (lambda: log_prob(t(1.0), t(0.0, 1.0), 1.0), ValueError, r"mean and std must broadcast to the shape \(1,\)"),
        (
            lambda: log_prob(t(1.0, 2.0), t(0.0, 1.0, 2.0), 1.0),
            ValueError,
            r"do not broadcast: shapes \(2,\) and \(3,\)",
        ),
        (lambda: log_ratio(t(0.0) > 0, t(0.0)), TypeError, "new must hold real numbers, got torch.bool"),
        (lambda: require_on_policy(torch.zeros(0)), ValueError, r"there is no log-ratio to check, got shape \(0,\)"),
        (lambda: require_on_policy(t(0.0), 0.0), ValueError, "tolerance must be positive, got 0"),
        (lambda: clipped_surrogate(t(0.0), t(1.0), 1000.0), ValueError, "clip must be at most 354.9, beyond which"),
        (lambda: clipped_surrogate(t(0.0), t(1.0), 0.2, t(1.0)), TypeError, "kept must be a tensor of booleans"),
        (lambda: clipped_surrogate(t(0.0), t(1.0, 2.0), 0.2), ValueError, r"must broadcast to the shape \(1,\)"),
        (lambda: group_advantage([1.0, 2.0]), TypeError, "reward must be a torch tensor"),
        (lambda: group_advantage(torch.tensor([True, False])), TypeError, "must hold real numbers, got torch.bool"),
        (lambda: group_advantage(torch.zeros(3, 0)), ValueError, r"a last axis of at least one member, got .*\(3, 0\)"),
        (lambda: group_advantage(torch.tensor(1.0)), ValueError, "a last axis of at least one member"),
        (lambda: step_kl(t(1e300), t(-1e300), 1e-9), ValueError, "entries of the KL are NaN or infinite"),
        (
            lambda: updates.adapted_weight(1e308, 3.0, 1.0, 2.0),
            ValueError,
            "adapted_weight leaves the range of",
        ),
        (lambda: summed_clip(1e-4, 10**400), ValueError, "entries must be at most 9007199254740992"),
        (lambda: kl_rescaling(1.0, np.nextafter(1.0, 0.0), 1e-200), ValueError, "no KL to rescale|is not finite"),
        (
            lambda: prompt_advantage(PromptBuffer(), "ab", t(1.0, 2.0)),
            TypeError,
            "prompts must be a sequence of strings",
        ),
        (lambda: prompt_advantage({}, ["a"], t(1.0)), TypeError, "buffer must be a PromptBuffer, got {}"),
        (lambda: PromptBuffer().extended(["a"], [math.nan]), ValueError, "rewards must be finite, got nan"),
    ],
)
def test_wrong_arguments_are_refused_with_value_and_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("weight", "error"), [(math.nan, ValueError), (1j, TypeError), (True, TypeError), (1e308, ValueError)]
)
def test_weights_of_rewards_are_finite_numbers(weight, error):
    part = group_advantage(t(0.0, 0.0, 10.0, 0.0, 0.0))
    with pytest.raises(error, match=r"weight 'a' must be|the combined advantage are NaN or infinite"):
        combined_advantage({"a": part}, {"a": weight})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: log_prob(torch.zeros(2, 0), torch.zeros(2, 0), 1.0),
            ValueError,
            "an event must have at least one entry",
        ),
        (lambda: ratio(t(math.nan)), ValueError, "a log-ratio is NaN; mask the sample"),
        (lambda: PromptBuffer(rewards={"a": (math.nan,)}), ValueError, "the rewards of 'a' must be finite, got nan"),
        (lambda: PromptBuffer(rewards="xy"), TypeError, "rewards must be a mapping from prompts to their rewards"),
    ],
)
def test_what_would_come_back_as_nan_is_refused_where_it_enters(call, error, message):
    with pytest.raises(error, match=message):
        call()
