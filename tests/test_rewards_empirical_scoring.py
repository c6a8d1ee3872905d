"""How rewards are called: what goes in, what comes out, and which image is to blame."""

import math

import pytest
import torch
from reward_models import PROMPTS, images

from empirical.rewards import RewardError, WeightedSum, load, score, score_masked
from gapbound.updates import group_advantage

IMAGES = images()


def brightness(batch, prompts):
    return batch.mean((1, 2, 3))


def expected():
    return IMAGES.mean((1, 2, 3))


def broken_on(index, how):
    """Brightness, except that ``how()`` happens on one image, recognised by its content."""

    def reward(batch, prompts):
        value = brightness(batch, prompts)
        at = [i for i, image in enumerate(batch) if torch.equal(image, IMAGES[index])]
        if at:
            value[at[0]] = how()
        return value

    return reward


def explode():
    raise RuntimeError("no such word")


@pytest.mark.parametrize("batch_size", [None, 1, 3, 4, 7])
def test_batch_split_changes_nothing(batch_size):
    torch.testing.assert_close(score(brightness, IMAGES, PROMPTS, batch_size), expected(), rtol=1e-6, atol=0)


def test_images_and_prompts_stay_together_in_every_batch():
    seen = []

    def reward(batch, prompts):
        seen.extend(zip(batch, prompts, strict=True))
        return [0.0] * len(prompts)

    score(reward, IMAGES, PROMPTS, batch_size=3)
    assert [prompt for _, prompt in seen] == PROMPTS
    assert all(torch.equal(image, expected) for (image, _), expected in zip(seen, IMAGES, strict=True))


@pytest.mark.parametrize(
    "convert",
    [
        lambda value: value.double(),
        lambda value: value.tolist(),
        lambda value: value.numpy(),
        lambda value: value.requires_grad_(),
    ],
)
def test_scores_are_float32_without_gradient_whatever_the_reward_gives(convert):
    value = score(lambda batch, prompts: convert(brightness(batch, prompts)), IMAGES, PROMPTS)
    assert value.dtype == torch.float32
    assert not value.requires_grad
    torch.testing.assert_close(value, expected())


def test_no_graph_is_built_through_a_reward():
    enabled = []

    def reward(batch, prompts):
        enabled.append(torch.is_grad_enabled())
        return brightness(batch, prompts)

    score(reward, IMAGES, PROMPTS)
    assert enabled == [False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_value_that_is_not_finite_is_named_with_image_and_prompt(bad, batch_size):
    with pytest.raises(RewardError, match=rf"gave {bad} on image 2, prompt 'a cat left of a dog'") as caught:
        score(broken_on(2, lambda: bad), IMAGES, PROMPTS, batch_size)
    assert (caught.value.index, caught.value.prompt) == (2, PROMPTS[2])


@pytest.mark.parametrize("batch_size", [None, 3])
def test_an_exception_is_named_with_image_and_prompt(batch_size):
    with pytest.raises(RewardError, match="reward reward raised RuntimeError: no such word on image 3") as caught:
        score(broken_on(3, explode), IMAGES, PROMPTS, batch_size)
    assert caught.value.index == 3
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_exception_on_the_batch_alone_says_so():
    def reward(batch, prompts):
        if len(batch) > 2:
            raise MemoryError("out of memory")
        return brightness(batch, prompts)

    with pytest.raises(RewardError, match=r"images 0 to 3 together, though on none alone .*lower batch_size"):
        score(reward, IMAGES, PROMPTS)
    torch.testing.assert_close(score(reward, IMAGES, PROMPTS, batch_size=2), expected())
    assert score_masked(reward, IMAGES, PROMPTS).failed == 0


@pytest.mark.parametrize("call", [score, score_masked])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda batch: brightness(batch, [])[:, None], r"shape \(4,\), got shape \(4, 1\) for 4 images"),
        (lambda batch: brightness(batch, []).mean(), r"got shape \(\)"),
        (lambda batch: brightness(batch, [])[:3], r"got shape \(3,\)"),
        (lambda batch: brightness(batch, []).to(torch.complex64), "got complex numbers"),
        (lambda batch: None, "got a NoneType"),
        (lambda batch: {"score": 1.0}, "got a dict"),
    ],
)
def test_a_result_of_the_wrong_kind_is_refused_and_never_masked(call, wrong, message):
    with pytest.raises(RewardError, match=message) as caught:
        call(lambda batch, prompts: wrong(batch), IMAGES, PROMPTS)
    assert caught.value.index is None


def test_masked_scores_count_failures_and_keep_the_others():
    def reward(batch, prompts):
        return broken_on(1, explode)(batch, prompts) + 0 * broken_on(2, lambda: math.nan)(batch, prompts)

    scores = score_masked(reward, IMAGES, PROMPTS)
    assert scores.failed == 2
    assert scores.valid.tolist() == [True, False, False, True]
    assert scores.value.isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(scores.value[[0, 3]], expected()[[0, 3]])
    assert "raised RuntimeError: no such word on image 1, prompt 'two blue squares'" in scores.failures[0]
    assert "gave nan on image 2" in scores.failures[1]


def test_infinite_rewards_are_masked_as_nan():
    scores = score_masked(broken_on(0, lambda: math.inf), IMAGES, PROMPTS, batch_size=3)
    assert scores.value[0].isnan()
    assert scores.failures == ("the reward reward gave inf on image 0, prompt 'a red circle'",)


def test_without_failures_masked_scores_are_the_scores():
    scores = score_masked(brightness, IMAGES, PROMPTS)
    assert torch.equal(scores.value, score(brightness, IMAGES, PROMPTS))
    assert scores.failures == ()
    assert scores.failed == 0


def test_masked_scores_go_into_the_advantage_as_they_are():
    scores = score_masked(broken_on(1, explode), IMAGES, PROMPTS)
    advantage = group_advantage(scores.value[None], failed="mask")
    assert advantage.failed == 1
    assert torch.equal(advantage.kept[0], scores.valid)


def test_a_reward_that_fails_everywhere_is_not_masked():
    with pytest.raises(RewardError, match=r"failed on all 4 images.*no such word on image 0"):
        score_masked(lambda batch, prompts: explode(), IMAGES, PROMPTS)


@pytest.mark.parametrize("alone", [False, True])
def test_an_interrupt_is_no_failure(alone):
    def reward(batch, prompts):
        if (len(batch) == 1) == alone:
            raise KeyboardInterrupt
        raise RuntimeError

    with pytest.raises(KeyboardInterrupt):
        score_masked(reward, IMAGES, PROMPTS)


@pytest.mark.parametrize("call", [score, score_masked])
def test_prompts_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="one prompt per image, got 3 prompts and 4 images"):
        call(brightness, IMAGES, PROMPTS[:3])
    with pytest.raises(TypeError, match="list of strings, one per image, got 'cats'"):
        call(brightness, IMAGES, "cats")
    with pytest.raises(TypeError, match="list of strings"):
        call(brightness, IMAGES, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="must lie in"):
        call(brightness, IMAGES - 1, PROMPTS)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        call(brightness, IMAGES, PROMPTS, 0)


def test_permuted_images_have_permuted_scores():
    reward, order = load("jpeg_compressibility:2+jpeg_incompressibility:0.5"), [2, 0, 3, 1]
    value = score(reward, IMAGES, PROMPTS)
    assert torch.equal(score(reward, IMAGES[order], [PROMPTS[i] for i in order]), value[order])


def test_a_weighted_sum_is_linear_in_its_weights():
    other = load("jpeg_compressibility")
    value = score(WeightedSum({"a": brightness, "b": other}, {"a": 2.5, "b": -0.75}), IMAGES, PROMPTS)
    first, second = score(brightness, IMAGES, PROMPTS), score(other, IMAGES, PROMPTS)
    torch.testing.assert_close(value, 2.5 * first - 0.75 * second)


def test_the_parts_of_a_sum_are_not_weighted():
    parts = WeightedSum({"a": brightness}, {"a": 3.0}).parts(IMAGES, PROMPTS)
    torch.testing.assert_close(parts, {"a": expected()})


def test_the_failing_part_of_a_sum_is_named():
    total = WeightedSum({"light": brightness, "odd": broken_on(1, lambda: math.nan)}, {"light": 1.0, "odd": 1.0})
    with pytest.raises(
        RewardError, match=r"light:1.odd:1 raised ValueError: odd gave nan on image 1, prompt 'two blue"
    ):
        score(total, IMAGES, PROMPTS)
    assert score_masked(total, IMAGES, PROMPTS).valid.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "must have the same names"),
        ({"b": 1.0}, r"got \['a'\] and \['b'\]"),
        ({"a": 0.0}, "weight of a is 0; leave it out"),
        ({"a": math.inf}, "the weight of a must be finite"),
    ],
)
def test_weights_that_make_no_sum_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum({"a": brightness}, weights)
