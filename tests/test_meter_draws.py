"""What the runs of a pair share depends on seed, prompt and sample alone."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from empirical.meter.draws import Draws

PAIRS = [("a red circle", 0), ("a red circle", 1), ("two dogs", 0)]


def test_x_T_does_not_depend_on_the_batch_that_a_pair_is_in():
    together = Draws(3).initial(PAIRS, (4, 8, 8))
    alone = torch.cat([Draws(3).initial([pair], (4, 8, 8)) for pair in PAIRS])
    backwards = Draws(3).initial(PAIRS[::-1], (4, 8, 8)).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)
    assert together.dtype == torch.float32
    assert together.device.type == "cpu"


def test_x_T_is_standard_normal_and_its_entries_are_independent_across_prompts_samples_and_seeds():
    x = torch.cat([Draws(seed).initial(PAIRS, (4, 32, 32)) for seed in (0, 1)]).flatten(1).double().numpy()
    assert kstest(x.ravel(), "norm").pvalue > 0.01
    correlation = np.corrcoef(x)
    assert np.abs(correlation[~np.eye(len(x), dtype=bool)]).max() < 4 / x.shape[1] ** 0.5


def test_increments_repeat_for_a_draw_and_differ_between_draws_and_from_x_T():
    def first(draw):
        return torch.stack([torch.randn(64, generator=one) for one in Draws(0).increments(PAIRS, draw)])

    assert torch.equal(first(0), first(0))
    streams = torch.cat([first(0), first(1), Draws(0).initial(PAIRS, (64,))])
    assert len({tuple(row.tolist()) for row in streams}) == 9


@pytest.mark.parametrize("other", [("a red circle ", 0), ("a red circle", 2), ("A red circle", 0)])
def test_any_change_of_prompt_or_sample_changes_x_T(other):
    same = Draws(0).initial([PAIRS[0]], (8,))
    assert not torch.equal(same, Draws(0).initial([other], (8,)))
    assert not torch.equal(same, Draws(1).initial([PAIRS[0]], (8,)))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    Draws(0).initial(PAIRS, (4,))
    torch.randn(2, generator=Draws(0).increments(PAIRS, 0)[0])
    assert torch.equal(torch.randn(3), expected)
