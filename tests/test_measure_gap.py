"""The command: from a saved pipeline to a report, with clear words for what cannot be."""

import json
import os
import subprocess
import sys

import pipelines as tiny
import pytest

from empirical import measure_gap as command
from empirical import meter


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red cat\ntwo dogs\n", encoding="utf-8")
    return file


SMALL = {"etas": (1.0,), "steps": (2,), "samples": 2, "guidance": 2.0}


def test_a_saved_pipeline_is_measured_and_reported(saved, prompts, tmp_path, capsys):
    command.main(str(saved), prompts, out=tmp_path / "out", **SMALL)
    printed = capsys.readouterr().out
    assert "gap in jpeg_compressibility: ODE minus SDE" in printed
    assert "report.html" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["title"] == "tiny"
    assert report["provenance"]["plan"]["prompts"] == ["a red cat", "two dogs"]
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()  # no path of this machine
    command.main(str(saved), prompts, out=tmp_path / "out", **SMALL)
    assert "Nothing was left to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "/nowhere"}, "error: no such model: /nowhere is no folder"),
        ({"reference": "/nowhere"}, "error: no such model: /nowhere is no folder"),
        ({"etas": (-1.0,)}, "error: etas must be 0 or more, got -1.0"),
        ({"rewards": ("beauty",)}, "error: unknown reward 'beauty'"),
        ({"prompts": None}, "error: --prompts is missing"),
        ({"device": "tpu9"}, "--device: torch cannot use 'tpu9' here"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(saved, prompts, tmp_path, arguments, message):
    given = {"model": str(saved), "prompts": prompts, "out": tmp_path / "out", **SMALL, **arguments}
    with pytest.raises(SystemExit, match=message):
        command.main(**given)


def test_an_empty_line_between_prompts_is_named(saved, tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\na dog\n")
    with pytest.raises(SystemExit, match="error: prompt 2 is empty"):
        command.main(str(saved), tmp_path / "p.txt", out=tmp_path / "out", **SMALL)


def test_a_folder_that_cannot_be_written_is_refused(saved, prompts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"error: cannot write into .*name another folder"):
        command.main(str(saved), prompts, out=tmp_path / "file" / "out", **SMALL)


def test_an_interrupt_says_how_to_go_on(saved, prompts, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(meter, "measure_gap", interrupted)
    with pytest.raises(SystemExit, match=r"interrupted; what is finished is in .*out, and the same command goes on"):
        command.main(str(saved), prompts, out=tmp_path / "out", **SMALL)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(saved, prompts, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "empirical.measure_gap", "--model", str(saved), "--prompts", str(prompts), "--etas", "1.0",
                 "--steps", "2", "--guidance", "2", "--batch-size", "1"]  # fmt: skip
    for name, start in (("two", launch), ("one", [sys.executable])):
        run = [*start, *arguments, "--out", str(tmp_path / name)]
        result = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=280)
        assert result.returncode == 0, result.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "report.json").read_text())["summary"] for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "two" / "pairs-1.jsonl").stat().st_size > 0
