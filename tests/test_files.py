"""Files that are whole or absent."""

import pytest

from analysis.files import append_text, atomically, write_text


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "deep" / "report.txt"
    write_text(path, "old\n")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        atomically(path, half)
    assert path.read_text() == "old\n"
    assert [found.name for found in path.parent.iterdir()] == ["report.txt"]


def test_nobody_sees_half_a_file(tmp_path):
    path, seen = tmp_path / "report.txt", []
    write_text(path, "old")

    def watched(temporary):
        temporary.write_text("new")
        seen.append((path.read_text(), temporary.parent == path.parent, temporary.suffix))

    atomically(path, watched)
    assert seen == [("old", True, ".txt")]
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_appending_keeps_what_was_there_and_line_ends_as_they_are(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    append_text(path, "one\n")
    append_text(path, "two\n")
    assert path.read_bytes() == b"one\ntwo\n"
