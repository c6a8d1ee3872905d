"""Checkpoints are whole or refused; logs and prompts continue where they were."""

import json
import random

import numpy as np
import pytest
import torch

from empirical.training import checkpoint
from empirical.training.log import Log
from empirical.training.prompts import ANIMALS, Prompts, held_out, pick_steps, training

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}


def saved(folder, epochs, keep=9):
    for epoch in epochs:
        checkpoint.save(folder, epoch, {k: v + epoch for k, v in WEIGHTS.items()}, {"epoch": epoch, "x": [1.5]}, keep)


def silent(text):
    raise AssertionError(text)


def test_what_is_read_is_what_was_written_and_the_last_k_are_kept(tmp_path):
    saved(tmp_path, range(1, 6), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000004", "epoch-000005"]
    found = checkpoint.latest(tmp_path, silent)
    assert found.epoch == 5
    assert found.state == {"epoch": 5, "x": [1.5]}
    assert torch.equal(found.weights["a"], WEIGHTS["a"] + 5)


def test_without_checkpoints_there_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere", silent) is None


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_refused_with_a_message_and_the_one_before_is_used(tmp_path, name, harm):
    saved(tmp_path, [1, 2])
    path = tmp_path / "epoch-000002" / name
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    said = []
    assert checkpoint.latest(tmp_path, said.append).epoch == 1
    assert said[0].startswith("checkpoint epoch-000002 is refused: ")
    assert said[0].endswith("; trying the one before")
    if name != "manifest.json":
        assert {"remove": "is missing"}.get(harm, "is truncated or corrupted") in said[0]


def test_if_none_is_whole_the_run_does_not_start_again_in_silence(tmp_path):
    saved(tmp_path, [1])
    (tmp_path / "epoch-000001" / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole; delete the folder to start again"):
        checkpoint.latest(tmp_path, lambda text: None)


def test_what_a_kill_left_in_the_making_is_not_seen_and_is_replaced(tmp_path):
    saved(tmp_path, [1])
    (tmp_path / ".epoch-000002").mkdir()
    (tmp_path / ".epoch-000002" / "state.pt").write_bytes(b"half")
    assert checkpoint.latest(tmp_path, silent).epoch == 1
    saved(tmp_path, [2])
    assert checkpoint.latest(tmp_path, silent).epoch == 2
    assert not (tmp_path / ".epoch-000002").exists()


def test_a_refused_checkpoint_is_replaced_by_its_repetition(tmp_path):
    saved(tmp_path, [1, 2])
    (tmp_path / "epoch-000002" / "state.pt").unlink()
    saved(tmp_path, [2])
    assert checkpoint.latest(tmp_path, silent).epoch == 2


def test_reading_runs_no_code(tmp_path):
    saved(tmp_path, [1])
    evil = tmp_path / "epoch-000001" / "state.pt"
    torch.save({"call": print}, evil)
    manifest = evil.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    content["sha256"]["state.pt"] = checkpoint._sha256(evil)
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is whole; delete the folder"):
        checkpoint.latest(tmp_path, lambda text: None)


def test_every_global_generator_goes_on_where_it_was(tmp_path):
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002

    def draw():
        return random.random(), np.random.standard_normal(), float(torch.randn(()))  # noqa: NPY002

    try:
        draw()
        checkpoint.save(tmp_path, 1, WEIGHTS, {"random": [checkpoint.random_state()]}, 1)
        expected = draw()
        checkpoint.set_random_state(checkpoint.latest(tmp_path, silent).state["random"][0])
        assert draw() == expected
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def test_a_log_forgets_what_its_checkpoint_does_not_know(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.add("evaluation", 0, {}, 1.0)
    for epoch in range(3):
        log.add("epoch", epoch, {"reward": 1.0}, 0.5)
        log.add("evaluation", epoch + 1, {}, 1.0)
    with log.path.open("a") as file:
        file.write('{"kind": "epo')
    log.rewind(2)
    assert [(line["kind"], line["epoch"]) for line in log.lines()] == [
        ("evaluation", 0), ("epoch", 0), ("evaluation", 1), ("epoch", 1), ("evaluation", 2),
    ]  # fmt: skip
    assert log.has("evaluation", 2)
    assert not log.has("evaluation", 3)


def test_trackers_get_the_numbers_of_a_line(tmp_path):
    seen = []
    log = Log(tmp_path / "log.jsonl", track=lambda values, step: seen.append((values, step)))
    log.add("epoch", 4, {"reward": 1, "why": None, "list": [1]}, 0.5)
    assert seen == [({"epoch/reward": 1.0, "epoch/seconds": 0.5}, 4)]
    Log(tmp_path / "other.jsonl", active=False).add("epoch", 0, {}, 0.0)
    assert not (tmp_path / "other.jsonl").exists()


def test_every_pass_takes_each_prompt_once_and_any_position_can_be_entered():
    prompts = Prompts(tuple("abcdefg"), seed=3)
    long = prompts.take(0, 21)
    assert [sorted(long[i : i + 7]) for i in (0, 7, 14)] == [list("abcdefg")] * 3
    assert long[:7] != long[7:14]
    assert prompts.take(5, 9) == long[5:14]
    assert Prompts(tuple("abcdefg"), seed=4).take(0, 21) != long


@pytest.mark.parametrize(
    ("texts", "message"),
    [((), "there is no prompt to train on"), (("a", " "), "training prompt 2 is empty"), (("a", "a"), "occurs before")],
)
def test_prompts_that_cannot_be_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        Prompts(texts, 0)


@pytest.mark.parametrize("model", ["embedded", "embedded-early", "embedded-flow", "some/model"])
def test_no_default_prompt_is_both_trained_on_and_held_out(model):
    trained, judged = training(None, model), held_out(None, model)
    assert len(set(trained)) == len(trained) >= 20
    assert len(set(judged)) == len(judged) >= 9
    assert not set(trained) & set(judged)
    assert len(set(ANIMALS)) == len(ANIMALS)


def test_families_choose_the_captions_of_embedded_models():
    trained, judged = (of(None, "embedded", ("count",)) for of in (training, held_out))
    assert all(text.startswith("two ") for text in (*trained, *judged))
    assert set(judged) < set(held_out(None, "embedded"))
    assert not set(trained) & set(held_out(None, "embedded"))


def test_drawn_steps_are_ordered_distinct_and_depend_on_the_key_alone():
    steps = (1, 2, 4, 7, 8)
    drawn = [pick_steps(steps, 2, (0, epoch)) for epoch in range(200)]
    assert all(len(set(two)) == 2 and list(two) == sorted(two) for two in drawn)
    assert {k for two in drawn for k in two} == set(steps)
    assert pick_steps(steps, 2, (0, 5)) == drawn[5]
    assert pick_steps(steps, None, (0, 0)) == pick_steps(steps, 5, (0, 0)) == steps
