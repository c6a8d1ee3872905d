"""The pixel verifier as a reward, on drawn scenes."""

import random

import pytest
import torch

from empirical.rewards import RewardError, load, score
from empirical.shapes.caption import caption
from empirical.shapes.draw import draw
from empirical.shapes.scene import scene
from empirical.shapes.verify import verify

SCENES = [scene(7, index) for index in range(40)]
PICTURES = draw(SCENES)
CAPTIONS = [caption(one, random.Random(index)) for index, one in enumerate(SCENES)]


@pytest.mark.parametrize("name", ["alignment", "strict_alignment"])
def test_true_captions_are_aligned_and_those_of_other_scenes_less(name):
    true = score(load(name), PICTURES, CAPTIONS)
    other = score(load(name), PICTURES, CAPTIONS[1:] + CAPTIONS[:1])
    assert true.mean() > 0.9
    assert other.mean() < 0.5 * true.mean()
    assert ((true >= 0) & (true <= 1)).all()


def test_the_rewards_are_the_two_verdicts():
    shifted = CAPTIONS[1:] + CAPTIONS[:1]
    verdict = verify(PICTURES, shifted)
    graded, strict = (score(load(name), PICTURES, shifted) for name in ("alignment", "strict_alignment"))
    torch.testing.assert_close(graded, verdict.score)
    assert torch.equal(strict, verdict.passed.float())
    assert not torch.equal(graded, strict)


def test_images_in_bfloat16_are_judged_as_their_rounding():
    value = score(load("alignment"), PICTURES.bfloat16(), CAPTIONS)
    assert value.dtype == torch.float32
    assert torch.equal(value, score(load("alignment"), PICTURES.bfloat16().float(), CAPTIONS))


def test_a_caption_outside_the_grammar_is_named():
    with pytest.raises(RewardError, match=r"alignment raised ValueError: .*'a cat'.* on image 1, prompt 'a cat'"):
        score(load("alignment"), PICTURES[:2], [CAPTIONS[0], "a cat"])
