"""The evaluation: intervals, references, sheet and card."""

import json

import pytest
import torch
from scipy.stats import norm

from empirical.shapes import alignment, card, evaluate, model
from empirical.shapes.scene import FAMILIES
from empirical.shapes.verify import Verdict


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (190, 200)])
def test_wilson_intervals_end_where_the_score_test_rejects(hits, n):
    low, high = evaluate.wilson(hits, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1
    for end in (low, high):
        if 0 < end < 1 and abs(end - hits / n) > 1e-9:
            score = abs(hits / n - end) / (end * (1 - end) / n) ** 0.5
            assert 2 * norm.sf(score) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_counts_are_refused(hits, n):
    with pytest.raises(ValueError, match=rf"hits must lie in 0, \.\.\., n with n at least 1, got {hits} of {n}"):
        evaluate.wilson(hits, n)


def test_a_summary_counts():
    found = evaluate.summary(Verdict(torch.tensor([True, False, True, True]), torch.tensor([0.9, 0.1, 0.8, 1.0])))
    assert (found["n"], found["strict"]) == (4, 0.75)
    assert found["graded"] == pytest.approx(0.7)
    assert found["strict_interval"] == evaluate.wilson(3, 4)


def test_a_sheet_holds_every_picture_enlarged():
    sheet = evaluate.sheet(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 3)
    assert sheet.size == (3 * 100, 2 * 100)


def test_evaluation_prompts_are_not_those_that_training_watches():
    assert evaluate.PROMPTS % 2 == 1
    assert evaluate.PROMPTS != 1
    for family in FAMILIES:
        assert alignment.prompts(20, family, evaluate.PROMPTS) != alignment.prompts(20, family)


def test_the_command_writes_numbers_picture_and_card(tmp_path):
    evaluate.main(n=3, steps=2, guidances=(1.0, 3.0), out=tmp_path)
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    names = ["drawn", "other captions", "autoencoder", "model, guidance 1", "model, guidance 3"]
    assert list(numbers["results"]) == names
    assert numbers["results"]["drawn"]["pair"]["strict"] == 1.0
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert "guidance_scale=3)" in (tmp_path / "README.md").read_text()


def test_the_committed_card_is_written_from_the_committed_numbers():
    numbers = json.loads((evaluate.HERE / "evaluation.json").read_text())
    training = json.loads((model.WEIGHTS / "training.json").read_text())
    assert (evaluate.HERE / "README.md").read_text() == card.write(numbers, training)
