"""minirlhf.engine.metrics: one registry of names, one file of rows."""

import json

import pytest

from minirlhf.engine import records
from minirlhf.engine.metrics import METRICS, MetricsLog, read_metrics
from minirlhf.engine.records import DataError


@pytest.fixture
def log(tmp_path):
    return MetricsLog(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_explained(name):
    metric = METRICS[name]
    assert len(metric.formula) > 5
    assert metric.unit
    assert metric.healthy


def test_rows_come_back_as_written(log):
    log.write("sft", 1, {"train_loss": 2.5})
    log.write("ppo", 1, {"scores": 0.1, "ref_kl": -0.0})
    assert read_metrics(log.path) == [
        {"stage": "sft", "step": 1, "train_loss": 2.5},
        {"stage": "ppo", "step": 1, "scores": 0.1, "ref_kl": 0.0},
    ]


def test_an_unknown_name_is_refused_and_nothing_is_written(log):
    log.write("sft", 1, {"train_loss": 2.5})
    with pytest.raises(KeyError, match="metric 'loss' is not in METRICS"):
        log.write("sft", 2, {"train_loss": 2.4, "loss": 1.0})
    assert len(read_metrics(log.path)) == 1


def test_a_stage_that_runs_again_loses_its_own_rows_only(log):
    log.restart("sft")  # of a run that has none
    for stage in ("sft", "reward", "sft"):
        log.write(stage, 1, {"epoch": 1.0})
    log.restart("sft")
    assert [row["stage"] for row in read_metrics(log.path)] == ["reward"]


def test_a_stage_that_goes_on_keeps_the_rows_of_its_steps_so_far(log):
    for stage, step in (("sft", 1), ("reward", 1), ("reward", 2), ("reward", 3)):
        log.write(stage, step, {"epoch": 1.0})
    log.restart("reward", 2)
    rows = [(row["stage"], row["step"]) for row in read_metrics(log.path)]
    assert rows == [("sft", 1), ("reward", 1), ("reward", 2)]
    before = log.path.read_bytes()
    with pytest.raises(DataError, match=r"metrics\.jsonl: holds 2 of the 5 steps that reward has"):
        log.restart("reward", 5)
    assert log.path.read_bytes() == before


def test_a_torn_last_line_is_dropped(log):
    """As a run leaves it that was killed while it wrote; the next stage must not fail on it."""
    log.write("sft", 1, {"epoch": 1.0})
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"stage": "sft", "st')
    assert len(read_metrics(log.path)) == 1
    log.restart("reward")
    log.write("reward", 1, {"epoch": 1.0})
    assert [row["stage"] for row in read_metrics(log.path)] == ["sft", "reward"]


def test_another_broken_line_is_named(log):
    log.path.write_text('{"stage": "sft"}\n{"stage" "ppo"}\n{"stage": "ppo"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: broken JSON"):
        read_metrics(log.path)


def test_a_full_disk_names_the_file(log, monkeypatch):
    log.write("sft", 1, {"epoch": 1.0})
    before = log.path.read_bytes()

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        log.restart("sft")
    assert raised.value.filename == str(log.path)
    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError) as raised:
        log.write("sft", 2, {"epoch": 2.0})
    assert raised.value.filename == str(log.path)
    assert log.path.read_bytes() == before
