"""Finished pairs survive an interrupt, a torn write, another configuration, and a folder that cannot be written."""

import json

import pytest

from empirical.meter.store import PairRecord, Store

CONFIGURATION = {"plan": {"prompts": ["a", "b"], "etas": [0.5, 1.0], "steps": [10]}, "rewards": ["red"]}


def pair(prompt=0, sample=0, value=0.25):
    return PairRecord("model", 5.0, 10, prompt, sample, [value], [[[0.5]], [[0.75]]], ["", "", ""], [13.0, 0.0], [0, 0])


def test_what_was_appended_is_read_back_by_another_process(tmp_path):
    first = Store(tmp_path, CONFIGURATION)
    first.append([pair(0), pair(1, value=0.1 + 0.2)])
    again = Store(tmp_path, CONFIGURATION)
    assert list(again.records()) == [pair(0), pair(1, value=0.1 + 0.2)]
    assert again.finished() == {pair(0).key, pair(1).key}


def test_the_processes_have_a_file_each_and_read_all(tmp_path):
    main, other = Store(tmp_path, CONFIGURATION), Store(tmp_path, CONFIGURATION, rank=1)
    main.append([pair(0)])
    other.append([pair(1), pair(0, value=9.0)])
    assert list(main.records()) == [pair(0), pair(1)]  # the first of two
    assert sorted(path.name for path in tmp_path.glob("pairs-*")) == ["pairs-0.jsonl", "pairs-1.jsonl"]


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_half_written_last_line_is_dropped_and_nothing_else(tmp_path, cut):
    store = Store(tmp_path, CONFIGURATION)
    store.append([pair(0), pair(1)])
    path = tmp_path / "pairs-0.jsonl"
    content = path.read_bytes()
    whole = content.index(b"\n") + 1
    path.write_bytes(content[: whole + cut] if cut > 0 else content[:-1])
    mended = Store(tmp_path, CONFIGURATION)
    assert mended.dropped == 1
    assert list(mended.records()) == [pair(0)]
    mended.append([pair(1)])
    assert list(mended.records()) == [pair(0), pair(1)]


def test_a_line_that_is_damaged_elsewhere_is_named(tmp_path):
    store = Store(tmp_path, CONFIGURATION)
    store.append([pair(0), pair(1)])
    path = tmp_path / "pairs-0.jsonl"
    path.write_text(path.read_text().replace('"prompt": 0', '"prompt: 0'))
    with pytest.raises(ValueError, match=r"line 1 of .*pairs-0.jsonl is damaged; remove that line"):
        Store(tmp_path, CONFIGURATION).finished()


def test_another_configuration_is_refused_and_the_first_difference_named(tmp_path):
    Store(tmp_path, CONFIGURATION).append([pair()])
    other = json.loads(json.dumps(CONFIGURATION))
    other["plan"]["steps"] = [10, 20]
    with pytest.raises(ValueError, match=r"holds another measurement: plan.steps is \[10\] there and \[10, 20\] here"):
        Store(tmp_path, other)
    with pytest.raises(ValueError, match=r'rewards is "red" there and "blue" here; name another folder'):
        Store(tmp_path, {**CONFIGURATION, "rewards": ["blue"]})
    assert list(Store(tmp_path, CONFIGURATION).records()) == [pair()]


def test_results_without_a_readable_configuration_are_refused(tmp_path):
    Store(tmp_path, CONFIGURATION).append([pair()])
    (tmp_path / "configuration.json").write_text("{")
    with pytest.raises(ValueError, match=r"configuration.json is damaged"):
        Store(tmp_path, CONFIGURATION)
    (tmp_path / "configuration.json").unlink()
    with pytest.raises(ValueError, match=r"holds results without their configuration.json"):
        Store(tmp_path, CONFIGURATION)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write into .*file.*; name another folder"):
        Store(tmp_path / "file" / "below", CONFIGURATION)


def test_a_number_that_is_not_finite_is_never_recorded(tmp_path):
    store = Store(tmp_path, CONFIGURATION)
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.append([pair(0), pair(1, value=float("nan"))])
    assert list(store.records()) == []
