"""A plan that cannot be measured is refused before anything runs."""

import pytest

from empirical.meter.generate import Run
from empirical.meter.plan import Cell, Plan

GOOD = {"prompts": ("a cat", "a dog"), "etas": (1.5, 0.5), "steps": (20, 10), "guidance": 5.0, "samples": 3}


def plan(**changes):
    return Plan(**{**GOOD, **changes})


def test_guidance_1_is_measured_beside_the_guidance_in_use_at_every_step_count():
    assert plan().cells == [Cell("model", g, n) for g in (1.0, 5.0) for n in (10, 20)]
    assert plan(guidance=1.0).guidances == (1.0,)
    assert plan(unguided=False).guidances == (5.0,)
    both = plan(roles=("model", "reference"))
    assert len(both.cells) == 8


def test_a_cell_is_one_ODE_run_and_the_draws_of_every_eta():
    runs = plan(draws=2).runs(Cell("model", 5.0, 10))
    assert runs == [Run(0.0, 10, 5.0), *(Run(eta, 10, 5.0, draw) for eta in (0.5, 1.5) for draw in (0, 1))]
    assert plan(draws=2).images == 4 * 6 * 5


def test_batches_hold_every_pair_once_prompt_by_prompt():
    batches = list(plan().batches(4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert [pair for batch in batches for pair in batch] == [(p, s) for p in range(2) for s in range(3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ()}, "prompts is empty; give at least one"),
        ({"prompts": ("a", " ")}, "prompt 2 is empty; remove it"),
        ({"prompts": ("a", "b", "a")}, "prompt 3 repeats prompt 1, 'a', which would count twice"),
        ({"etas": (0.5, -1.0)}, "etas must be 0 or more, got -1.0"),
        ({"etas": (0.0, 1.0)}, "etas must be above 0, got 0: that is the ODE"),
        ({"etas": ()}, "etas is empty; give at least one"),
        ({"etas": (1.0, 1)}, "etas holds 1 twice"),
        ({"steps": (10, 10)}, "steps holds 10 twice"),
        ({"steps": (0,)}, "steps must be at least 1, got 0"),
        ({"guidance": 0.5}, r"guidance must be 1 \(none\) or more, got 0.5"),
        ({"guidance": float("nan")}, "guidance must be finite"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ],
)
def test_values_that_cannot_be_measured_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "a cat"}, "prompts must be a list of strings, got the string 'a cat'"),
        ({"prompts": ("a", 3)}, "prompts must be a list of strings, got 3"),
        ({"etas": 1.0}, r"etas must be a list, got 1\.0"),
        ({"steps": (10.5,)}, r"steps must be a whole number, got 10\.5"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        plan(**changes)
