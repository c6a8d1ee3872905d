"""Variants after equal wall-clock: their commands are settings that exist, and the table says what was measured."""

import io
import json
import statistics

import pytest
from rich.console import Console

from analysis import training_variants as variants
from empirical import train_ddpo, train_mixgrpo
from empirical.training.mixgrpo_config import MixGRPOConfig


def parsed(name, tmp_path):
    line = variants.command(name, tmp_path, "--epochs", "7")[2:]
    return {"ddpo": train_ddpo, "mixgrpo": train_mixgrpo}[variants.VARIANTS[name][0]].cli(line)


@pytest.mark.parametrize("name", list(variants.VARIANTS))
def test_every_variant_trains_the_same_model_on_the_same_samples(name, tmp_path):
    config, own = parsed(name, tmp_path), MixGRPOConfig()
    for same in ("model", "reward", "families", "steps", "guidance", "batch", "group", "micro_batch", "learning_rate"):
        assert getattr(config, same) == getattr(own, same), same
    assert (config.epochs, config.out) == (7, tmp_path)


def test_variants_are_what_their_papers_say(tmp_path):
    assert parsed("SDE everywhere", tmp_path).windows is None
    assert parsed("Flow-GRPO", tmp_path).sampler == "flow-grpo"
    assert parsed("Flow-GRPO-Fast", tmp_path).windows.width == 2
    assert parsed("MixGRPO", tmp_path).windows.width == 4
    assert parsed("MixGRPO-Flash", tmp_path).flash == 6
    assert parsed("DDPO", tmp_path).advantage == "prompt"
    assert parsed("DanceGRPO", tmp_path).shared_noise  # its groups start at one x_T


def fake(execute_log):
    """Stands in for a process: writes the log of a run of one second an iteration."""

    def execute(line):
        out = variants.Path(line[line.index("--out") + 1])
        n = int(line[line.index("--epochs") + 1])
        out.mkdir(parents=True)
        rows = [
            {"kind": "epoch", "epoch": k, "seconds": 2.0 if k else 9.0, "reward_mean": k / n,
             "network_passes": {"rollout": 10, "gradient": 5}} for k in range(n)
        ]  # fmt: skip
        (out / "config.json").write_text(json.dumps({"eta": [1.0]}))
        (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        execute_log.append(line)

    return execute


def test_runs_take_as_many_iterations_as_the_time_allows_and_go_on_where_they_stopped(tmp_path, monkeypatch):
    log = []
    monkeypatch.setattr(variants, "execute", fake(log))
    cells = [("ODE", 0.5, 0.7), ("SDE, eta 0.5", 0.1, 0.9), ("SDE, eta 1", 0.6, 0.65)]
    judged = [
        {"reward": reward, "sampler": sampler, "before": before - off, "after": after}
        for reward, off in (("strict_alignment", 0.0), ("alignment", 0.3))
        for sampler, before, after in cells
    ]
    monkeypatch.setattr(variants, "changes", lambda out: judged)
    shown = io.StringIO()
    monkeypatch.setattr(variants, "console", lambda: Console(file=shown, width=200))
    variants.main(1.0, 3, 1, ("MixGRPO",), tmp_path)
    assert len(log) == 2 + 3  # two to see how long an iteration takes
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["seconds"] == {"SDE everywhere": 2.0, "MixGRPO": 2.0}
    assert [one["iterations"] for one in kept["runs"]] == [30, 30, 30]
    assert kept["runs"][0]["rollouts"] == pytest.approx([2 / 30, 27 / 30])
    assert kept["runs"][0]["passes"] == 15
    assert "+20.0 +- 0.0" in shown.getvalue()
    assert kept["runs"][0]["SDE"] == [0.6, 0.65]
    variants.main(1.0, 3, 1, ("MixGRPO",), tmp_path)
    assert len(log) == 5


def test_intervals_are_students():
    values = [1.0, 2.0, 6.0]
    half = 4.302652729749464 * statistics.stdev(values) / 3**0.5
    assert variants.change(values) == f"+3.0 +- {half:.1f}"
    assert variants.change([1.0, 2.0]) == "+1.5"


def test_an_unknown_variant_and_a_run_that_failed_are_named(tmp_path):
    with pytest.raises(SystemExit, match="no variant PPO; there are SDE everywhere, Flow-GRPO"):
        variants.main(only=("PPO",), out=tmp_path)
    with pytest.raises(RuntimeError, match=r"failed:\n.*no such model"):
        variants.execute(variants.command("MixGRPO", tmp_path / "run", "--model", "./nowhere"))
