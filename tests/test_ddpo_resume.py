"""Killed and resumed, a run ends as if it had been left alone; several processes do what one does."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import ddpo_cases as cases
import numpy as np
import pytest
import torch

from empirical.rewards import jpeg

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HERE)}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return cases.files(tmp_path_factory.mktemp("models"))


def python(*arguments):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def kill(given, out, kills, seed):
    printed = python(HERE / "ddpo_kill.py", given["model"].parent, out, kills, seed)
    assert f"{kills} kills in rounds of" in printed
    assert "no bit differs" in printed


def test_a_run_killed_three_times_ends_bit_for_bit_as_one_left_alone(given, tmp_path):
    kill(given, tmp_path, 3, seed=1)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_bit_for_bit_as_one_left_alone(given, tmp_path):
    kill(given, tmp_path, 20, seed=2)


def test_a_truncated_checkpoint_is_refused_and_the_run_ends_the_same_from_the_one_before(given, tmp_path):
    alone, harmed = tmp_path / "alone", tmp_path / "harmed"
    cases.run(given, alone, epochs=3)
    cases.run(given, harmed, epochs=2)
    state = harmed / "checkpoints" / "epoch-000002" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    said = []
    cases.train(cases.config(given, harmed, epochs=3), said.append)
    assert said[0] == "checkpoint epoch-000002 is refused: state.pt is truncated or corrupted; trying the one before"
    assert said[1] == "going on after epoch 1"
    name = "weights/pytorch_lora_weights.safetensors"
    assert (harmed / name).read_bytes() == (alone / name).read_bytes()


def test_a_reward_that_draws_from_the_global_generators_goes_on_where_it_was(given, tmp_path, monkeypatch):
    def noisy(images, prompts):
        return torch.tensor([random.random() + np.random.random() + float(torch.rand(())) for _ in prompts])  # noqa: NPY002

    monkeypatch.setattr(jpeg, "jpeg_compressibility", noisy)
    cases.run(given, tmp_path / "alone", epochs=3)
    cases.run(given, tmp_path / "halted", epochs=1, evaluate_every=100)
    cases.run(given, tmp_path / "halted", epochs=3)
    means = [
        [line["reward_mean"] for line in map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
         if line["kind"] == "epoch"]
        for name in ("alone", "halted")
    ]  # fmt: skip
    assert means[0] == means[1]
    assert len(set(means[0])) == 3


def test_a_longer_run_goes_on_and_other_settings_are_refused(given, tmp_path):
    cases.run(given, tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"holds another run \(seed 0 there and 1 here\); name another folder"):
        cases.run(given, tmp_path, epochs=1, seed=1)
    run = cases.run(given, tmp_path, epochs=2)
    assert run.state.updates == 2


def test_changed_prompts_are_another_run(given, tmp_path):
    cases.run(given, tmp_path / "out", epochs=1)
    other = tmp_path / "train.txt"
    other.write_text("\n".join([*cases.PROMPTS[:3], "a boat"]))
    with pytest.raises(ValueError, match="prompts_sha256"):
        cases.run({**given, "prompts": other}, tmp_path / "out", epochs=1)


def test_a_checkpoint_of_other_processes_is_refused(given, tmp_path):
    run = cases.run(given, tmp_path, epochs=1)
    found = cases.checkpoint.latest(tmp_path / "checkpoints", cases.silent)
    found.state["random"] *= 2
    with pytest.raises(ValueError, match="the checkpoint is of 2 processes, this run has 1; start as many"):
        run._restore(found)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddpo", "mixgrpo"])
def test_two_processes_have_the_gradient_of_one_and_the_same_log(given, tmp_path, trainer):
    models, script = given["model"].parent, HERE / "ddpo_gradient.py"
    python(script, trainer, models, tmp_path / "one", tmp_path / "one.pt")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    python(*launch, script, trainer, models, tmp_path / "two", tmp_path / "two.pt")
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["gradients"]) == len(two["gradients"]) == 4
    for number, (mine, theirs) in enumerate(zip(one["gradients"], two["gradients"], strict=True)):
        close = 1e-3 if number else 1e-6  # AdamW amplifies the rounding of entries that are nearly 0
        scale = max(float(g.abs().max()) for g in mine)
        assert scale > 0
        for g, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(g, other, rtol=0, atol=close * scale)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for line, other in zip(*logs, strict=True):
        for key in ("reward_mean", "reward_std", "samples_kept", "kl_step", "trained_steps", "clipped_fraction"):
            assert (key in line) == (key in other)
            if line.get(key) is not None:  # lines of an evaluation have none of these
                assert line[key] == pytest.approx(other[key], rel=1e-3, abs=1e-9)
