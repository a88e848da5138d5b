"""Jobs are done once, in order, whole or not at all."""

import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minirlhf.engine.records import DataError, write_text
from minirlhf.study import graph
from minirlhf.study.graph import CARD, Job, do, is_done, missing, read_card, run_jobs


def add(folder, needs, value):
    """Fill the folder with the value plus those of the jobs before."""
    total = value + sum(int((need / "sum").read_text()) for need in needs)
    write_text(folder / "sum", str(total))


def fail(folder, needs, text):
    write_text(folder / "half", "done")
    raise ValueError(f"{text}\nmore of it")


def wait(folder, needs, mark):
    """Say who it is, then never end by itself."""
    write_text(Path(mark), str(os.getpid()))
    time.sleep(600)


STUDY = """
from pathlib import Path
from minirlhf.study.graph import Job, run_jobs
from tests.study.test_graph import wait
if __name__ == "__main__":
    run_jobs([Job("wait", wait, {"mark": %r})], Path(%r), workers=1)
"""


def chain():
    one, two = Job("one", add, {"value": 1}), Job("two", add, {"value": 2})
    both = Job("both", add, {"value": 10}, (one, two))
    return one, two, both, Job("top", add, {"value": 100}, (both, one))


def test_a_key_is_what_the_result_depends_on():
    one, two, both, top = chain()
    again = Job("another name", add, {"value": 1}, cost=9)
    assert again == one and hash(again) == hash(one)
    assert len({one.key, two.key, both.key, top.key}) == 4
    assert Job("both", add, {"value": 10}, (two, one)).key != both.key
    assert Job("one", fail, {"value": 1}).key != one.key


def test_a_function_that_was_changed_is_another_job(monkeypatch):
    before = Job("one", add, {"value": 1}).key
    source = inspect.getsource(add)
    monkeypatch.setattr(graph.inspect, "getsource", lambda work: source.replace("+", "-"))
    assert Job("one", add, {"value": 1}).key != before


def test_two_workers_do_all_that_is_needed_and_only_once(tmp_path):
    one, _, both, top = chain()
    said = []
    run_jobs([top, both], tmp_path, workers=2, tell=said.append)
    assert (tmp_path / top.folder / "sum").read_text() == "114"  # 100 + (10 + 1 + 2) + 1
    assert len(said) == 4 and said[-1].startswith("4/4 top (")
    assert read_card(both, tmp_path)["needs"] == [job.folder for job in both.needs]

    (tmp_path / one.folder / "sum").write_text("5")  # kept, so a job that is new sees it
    more = Job("more", add, {"value": 1000}, (top, one))
    said.clear()
    run_jobs([more, top], tmp_path, workers=2, tell=said.append)
    assert (tmp_path / more.folder / "sum").read_text() == "1119"
    assert len(said) == 1


def test_what_a_finished_job_needed_is_not_done_again(tmp_path):
    one, two, both, top = chain()
    for job in (one, two, both):
        do(job, tmp_path)
    for job in (one, two):
        (tmp_path / job.folder / CARD).unlink()
    assert missing([both], tmp_path) == {}
    assert missing([top], tmp_path) == {top: [one], one: []}


def test_a_failing_job_is_named_in_one_line_and_leaves_nothing(tmp_path):
    bad = Job("bad", fail, {"text": "no such thing"})
    late = Job("late", add, {"value": 1}, (bad,))
    with pytest.raises(DataError, match=r"^study: job bad: ValueError: no such thing$"):
        run_jobs([late], tmp_path, workers=1, tell=print)
    assert not is_done(bad, tmp_path) and [*tmp_path.iterdir()] == []


def test_a_killed_job_leaves_nothing_that_counts(tmp_path):
    one = Job("one", add, {"value": 1})
    half = tmp_path / f".{one.folder}.12345678.partial"
    half.mkdir()
    run_jobs([one], tmp_path, workers=1, tell=lambda text: None)
    assert not half.exists()
    assert json.loads((tmp_path / one.folder / CARD).read_text())["settings"] == {"value": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_no_worker_outlives_a_killed_study(tmp_path):
    mark = tmp_path / "pid"
    code, root = STUDY % (str(mark), str(tmp_path / "jobs")), Path(__file__).parents[2]
    script = tmp_path / "study.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(root)}
    study = subprocess.Popen([sys.executable, str(script)], env=environment)
    assert within(120, lambda: mark.is_file() and mark.read_text())
    worker = int(mark.read_text())
    study.kill()
    study.wait()
    assert within(60, lambda: not alive(worker))


def within(seconds, happened):
    end = time.monotonic() + seconds
    while not (found := happened()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
