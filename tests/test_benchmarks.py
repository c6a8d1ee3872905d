"""The peers of the benchmark do the work that they are timed at; nothing here is about speed."""

import numpy as np
import pytest
import torch

import gapbound as gb

pytest.importorskip("diffusers")
pytest.importorskip("torchsde")
speed = pytest.importorskip("analysis.benchmarks.speed")
N = 20_000


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def moment_z_scores(samples, law):
    x = samples.double().numpy()[:, 0]
    n, mean, variance = len(x), float(law.mean[0]), float(law.cov[0])
    return [(x.mean() - mean) / (variance / n) ** 0.5, (x.var() - variance) / (variance * (2 / n) ** 0.5)]


def test_the_naive_loop_ends_in_gddim_s_law():
    law = gb.discrete_law(speed.TARGET, speed.PROCESS, "gddim", 1.0, steps=20)
    assert np.abs(moment_z_scores(speed.naive_loop(N, 20), law)).max() < 4.5


def test_the_diffusers_loop_ends_in_ddim_s_law_on_its_schedule():
    process = gb.VP.from_diffusers(speed.SCHEDULER, 20)
    law = gb.discrete_law(speed.TARGET, process, "ddim", 1.0, steps=20, grid="leading")
    assert np.abs(moment_z_scores(speed.diffusers_loop(N, 20), law)).max() < 4.5


def test_the_torchsde_loop_ends_near_the_law_of_the_same_sde():
    law = gb.terminal_law(speed.TARGET, speed.PROCESS, 1.0)
    z = moment_z_scores(speed.torchsde_loop(speed.TARGET.score, 5000, 1, 200), law)
    assert np.abs(z).max() < 6  # Euler's own error at 200 steps is a few standard errors, and torchsde seeds itself


def test_rows_say_whether_a_target_is_met():
    assert speed.share("a", 0.81, 0.8) == speed.Row("a", "81%", ">= 80%", True)
    assert speed.times("b", 19.0, 20).met is False
    assert speed.times("b", 19.0).met is None
    assert speed.below("c", 99.0, 100, "us") == speed.Row("c", "99 us", "< 100 us", True)


def test_medians_take_sides_in_turn_after_a_warm_up():
    calls = []
    assert len(speed.medians(2, lambda: calls.append("a"), lambda: calls.append("b"))) == 2
    assert calls == ["a", "b"] * 3
