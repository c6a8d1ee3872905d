"""What the benchmark of MixGRPO compares; nothing here is about speed."""

from dataclasses import replace

import torch

from analysis.benchmarks import mixgrpo
from empirical.training import mixgrpo as train_mixgrpo
from empirical.training.run import start


def test_cases_differ_in_window_and_solver_alone():
    first, *others = mixgrpo.cases().values()
    assert first.windows is None
    for config in others:
        assert config.windows.width == 4
        assert replace(config, window=None, shared_noise=False, first=0, flash=None) == first


def test_an_iteration_of_the_benchmark_updates_the_weights_and_is_saved(tmp_path):
    config = replace(mixgrpo.cases()["window at 10, flash 6"], out=tmp_path, steps=12, first=2, batch=16, micro_batch=8)
    run = start(config, lambda text: None)
    before = [p.detach().clone() for p in run.parameters]
    train_mixgrpo.iteration(run, 9)
    assert any(not torch.equal(old, new) for old, new in zip(before, run.parameters, strict=True))
    assert (tmp_path / "checkpoints" / "epoch-000010").is_dir()


def test_what_lies_beyond_the_passes_holds_the_decoder_and_passes_are_counted_with_their_backward():
    config = replace(mixgrpo.cases()["window at 10"], steps=8, first=0, window=2, batch=8, micro_batch=8)
    found = mixgrpo.cost(config, 1)
    assert 0 < found["decoder"] < found["beyond"]
    assert found["passes"] == 8 * 8 + 3 * (2 * 8)  # nothing is shared before a window at x_T
