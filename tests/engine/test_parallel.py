"""Two processes against one: the same gradients, metrics and weights from every stage."""

import socket

import pytest
import torch
import torch.multiprocessing

from minirlhf.engine import parallel
from minirlhf.engine.checkpoint import export_merged, save_role
from minirlhf.engine.metrics import read_metrics
from minirlhf.engine.records import DataError, Prompt
from minirlhf.stages.ppo import PPO, PPOConfig
from tests.conftest import RANK, tiny_data, tiny_settings
from tests.engine.parallel_runs import RUNS, Given, command, process


@pytest.fixture(scope="module")
def given(ready_backbone, micro_folder, micro_texts, demonstrations, rankings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    for role in ("reference", "reward"):
        save_role(ready_backbone(), role, folder / role)
    export_merged(ready_backbone(), "reference", folder / "merged")
    data, flags = tiny_data(folder / "data"), tiny_settings(folder, micro_folder)
    texts = micro_texts[:40]
    return Given(micro_folder, folder, RANK, demonstrations, rankings, texts, data, flags)


@pytest.fixture(scope="module")
def out(given, tmp_path_factory):
    """What two processes left: what each found in the runs, in 0.pt and 1.pt, and their folders."""
    out = tmp_path_factory.mktemp("out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (2, port, given, out), nprocs=2)
    return out


@pytest.fixture(scope="module")
def two(out):
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("run", [name for name in RUNS if name != "dealt"])
def test_two_processes_do_what_one_does(given, two, run):
    one, found = RUNS[run](given), two[0][run]
    pairs = list(zip(one["gradients"], found["gradients"], strict=True))
    assert len(pairs) >= 4
    for step, (expected, gradient) in enumerate(pairs):
        rounding = 2e-6 if step == 0 else 1e-4  # Adam carries it on into the weights
        assert (gradient - expected).abs().max() < rounding * expected.abs().max()
    for expected, stats in zip(one["stats"], found["stats"], strict=True):
        assert stats == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for role, expected in one["weights"].items():
        assert (found["weights"][role] - expected).abs().max() < 1e-4
    assert one["stats"][0] != one["stats"][-1] or len(one["stats"]) == 1  # it did move


@pytest.mark.parametrize("run", [name for name in RUNS if name != "dealt"])
def test_all_processes_know_the_same(two, run):
    first, second = (found[run] for found in two)
    assert first["stats"] == second["stats"]
    for role, weights in first["weights"].items():
        assert torch.equal(weights, second["weights"][role])


def test_what_is_dealt_comes_together_again(two):
    for found in two:
        for count, back in enumerate(found["dealt"]["back"], start=1):
            assert back.tolist() == [[2 * i, 2 * i + 1] for i in range(count)]
    first, second = (found["dealt"] for found in two)
    assert (first["dealt"], second["dealt"]) == ([0, 2, 4], [1, 3])
    assert (first["own"].tolist(), second["own"].tolist()) == ([4, 0], [1, 3])


def test_a_process_without_a_gradient_counts_as_zero(two):
    for found in two:
        some, both = found["dealt"]["gradients"]
        assert some.tolist() == [1, 2] and both.tolist() == [2, 2, 2]


def test_figures_are_reduced(two):
    for found in two:
        assert found["dealt"]["total"] == {"a": 3.0, "b": 1.0}
        assert found["dealt"]["largest"] == {"a": 1.5, "b": 1.0}


def test_dropout_differs_between_processes(two):
    assert two[0]["dealt"]["luck"] != two[1]["dealt"]["luck"]


# The command -----------------------------------------------------------------------------------


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_the_first_process_writes(given, out, monkeypatch):
    monkeypatch.setenv("MINIRLHF_DATA", "")  # `command` changes both: put back afterwards
    monkeypatch.chdir(out)
    command(given, out / "alone")
    assert files_in(out / "cwd0") == files_in(out / "alone") != set()
    assert list((out / "cwd1").rglob("*")) == []
    one, two = (
        read_metrics(out / name / "runs" / "mine" / "metrics.jsonl") for name in ("alone", "cwd0")
    )
    for expected, row in zip(one, two, strict=True):
        assert row.pop("stage") == expected.pop("stage")
        row["seconds"] = expected.get("seconds", 0.0)
        assert row == pytest.approx({"seconds": 0.0, **expected}, rel=1e-3, abs=1e-4)


# Alone ------------------------------------------------------------------------------------------


def test_alone_nothing_happens():
    generator = torch.Generator()
    assert (parallel.rank(), parallel.world(), parallel.is_main()) == (0, 1, True)
    assert parallel.own_generator(generator) is generator
    assert parallel.share([]) == [] and parallel.deal([1, 2]) == [1, 2]
    part = torch.ones(3)
    assert parallel.together(part, 3) is part


def test_a_launcher_that_started_one_process_is_called_out(monkeypatch):
    """As `accelerate launch --cpu --num_processes 2` does."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    refusal = pytest.warns(UserWarning, match="has started one process; .* use --multi_gpu")
    with refusal, parallel.session():
        assert parallel.world() == 1


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_settings_that_split_a_model_are_refused(monkeypatch, kind):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    refusal = pytest.raises(DataError, match=rf"{kind} splits a model, .*processes\.yaml")
    with refusal, parallel.session():
        pass


def test_more_processes_than_episodes_are_refused(ready_backbone, monkeypatch):
    monkeypatch.setattr(parallel, "world", lambda: 3)
    with pytest.raises(DataError, match="is below 3 processes"):
        PPO(PPOConfig(rollout_batch_size=2), ready_backbone(), [Prompt("Why?")])
