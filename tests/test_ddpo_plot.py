"""The figure of training runs holds the numbers of their logs."""

import json

import pytest

from analysis import plot_training
from analysis.plot_training import read


def write(folder, shift=0.0):
    """A log as the trainer writes it, with numbers that are easy to tell apart."""

    def row(eta, value, **more):
        place = {"reward": "jpeg_compressibility", "role": "model", "guidance": 3.0, "eta": eta, **more}
        return {**place, "value": value, "interval": [value - 1, value + 2]}

    folder.mkdir()
    lines = []
    for epoch in (0, 2):
        rewards = [row(0.0, 10.0 + epoch + shift), row(1.3, 20.0 + epoch), row(0.0, 99.0, guidance=1.0)]
        other = [row(0.0, 0.5 + epoch, reward="alignment")]
        lines.append({
            "kind": "evaluation", "epoch": epoch, "gaps": [row(1.3, -10.0), *other], "rewards": rewards + other,
            "path_kl": 0.5 * epoch,
            "induced": [row(1.3, 0.25)] if epoch else [], "diversity": [row(0.0, 0.1)],
            "pinned": {"plan": {"guidance": 3.0}},
        })  # fmt: skip
    lines += [{"kind": "epoch", "epoch": epoch, "reward_mean": -1.0 + epoch} for epoch in (0, 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_curves_are_the_rows_of_the_first_reward_at_the_guidance_in_use(tmp_path):
    found = read(write(tmp_path / "run"))
    assert found["training"] == [-1.0, 0.0]
    assert found["rewards"]["0"] == {"epoch": [0, 2], "value": [10.0, 12.0], "low": [9.0, 11.0], "high": [12.0, 14.0]}
    assert found["rewards"]["1.3"]["value"] == [20.0, 22.0]
    assert found["also"]["alignment"]["0"]["value"] == [0.5, 2.5]
    assert found["added"] == {"1.3": {"epoch": [2], "value": [0.25], "low": [-0.75], "high": [2.25]}}
    assert found["path_kl"] == [0.0, 1.0]


def test_the_command_writes_picture_and_numbers_of_all_runs(tmp_path):
    runs = write(tmp_path / "one"), write(tmp_path / "two", shift=1.0)
    plot_training.main(runs, tmp_path, "curves")
    content = json.loads((tmp_path / "curves.json").read_text())
    assert [run["rewards"]["0"]["value"][0] for run in content["data"]["runs"]] == [10.0, 11.0]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert str(tmp_path) not in (tmp_path / "curves.json").read_text()


def test_folders_without_a_finished_evaluation_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*nowhere holds no log.jsonl; name the folder of a run"):
        plot_training.main((tmp_path / "nowhere",), tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(SystemExit, match="has no evaluation yet"):
        plot_training.main((tmp_path,), tmp_path)
    with pytest.raises(SystemExit, match="name at least one folder of a run"):
        plot_training.main((), tmp_path)
