"""minirlhf.engine.lock: one process writes a folder. tests/test_resume.py kills some that do."""

import pytest

from minirlhf.engine.lock import WriteLock
from minirlhf.engine.records import DataError


def test_a_second_writer_is_refused_until_the_first_has_done(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with WriteLock(folder):
        with pytest.raises(DataError, match=r"runs.mine: another process is writing there$"):
            WriteLock(folder)
        with WriteLock(folder.with_name("other")):
            pass
    lock = WriteLock(folder)
    lock.release()
    lock.release()  # twice is once


def test_by_another_name_it_is_the_same_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    with WriteLock("."), pytest.raises(DataError, match="another process"):
        WriteLock(tmp_path / "mine")


def test_it_leaves_no_trace(tmp_path):
    with WriteLock(tmp_path / "runs" / "mine"):
        assert not (tmp_path / "runs" / "mine").exists()
    assert list(tmp_path.iterdir()) == []
    with WriteLock(tmp_path / "runs" / "mine"):
        (tmp_path / "runs" / "mine").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "mine"]


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(DataError, match=r"runs.mine: cannot be written: "):
        WriteLock(tmp_path / "runs" / "mine")
