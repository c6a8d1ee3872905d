"""What the benchmark of DDPO prepares for its peer, and what its epochs do; nothing here is about speed."""

import json

import pytest
import torch

from analysis.benchmarks import ddpo
from empirical.training import ddpo as train_ddpo
from empirical.training import tune


def test_the_copied_tokenizer_has_the_words_and_merges_of_the_original(tmp_path):
    folder = tmp_path / "model" / "tokenizer"
    assert ddpo.readable(tmp_path) == str(tmp_path / "model")
    original = json.loads((ddpo.WEIGHTS / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert json.loads((folder / "vocab.json").read_text()) == original["vocab"]
    head, *merges = (folder / "merges.txt").read_text().splitlines()
    assert head.startswith("#version")
    assert [tuple(line.split(" ")) for line in merges] == [tuple(pair) for pair in original["merges"]]


def test_an_epoch_of_the_benchmark_updates_the_adapters_and_is_saved(tmp_path, monkeypatch):
    for name, value in {"STEPS": 3, "BATCH": 8, "MICRO": 4}.items():
        monkeypatch.setattr(ddpo, name, value)
    run = ddpo.new_run(str(tmp_path), 1)
    before = [p.detach().clone() for p in run.parameters]
    train_ddpo.iteration(run, 0)
    assert all("lora" in name for name in tune.trainable(run.pipeline.unet))
    assert any(not torch.equal(old, new) for old, new in zip(before, run.parameters, strict=True))
    assert (tmp_path / "checkpoints" / "epoch-000001").is_dir()


def test_a_side_that_fails_stops_the_benchmark_with_its_words():
    with pytest.raises(SystemExit, match=r"error: .* failed:"):
        ddpo.measured(["python3", "-c", "raise ValueError('broken')"])
