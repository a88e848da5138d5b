"""A run that was killed goes on to the end it would have come to, to the last bit."""

import json
import os
import random
import secrets
import shutil
import sys
from pathlib import Path

import pytest

from minirlhf.cli import main
from minirlhf.engine import bookmark
from minirlhf.engine.lock import WriteLock
from minirlhf.engine.metrics import read_metrics
from minirlhf.engine.snapshot import load_snapshot, save_snapshot
from tests import killed
from tests.conftest import tiny_data

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

# All that a state has to hold: dropout, the best epoch, mixed-in texts; an average, a steered price
# of the KL, orders of prompts, minibatches and pretraining blocks
SETTINGS = {
    "run": dict(task="handmade", rankings=8, valid_rankings=2, test_prompts=3),
    "lora": dict(rank=4, alpha=8),
    "sft": dict(batch_size=2, epochs=2, select="loss", pretraining_mix=0.5, learning_rate=0.02),
    "reward": dict(batch_size=2, epochs=2),
    "ppo": dict(
        updates=3,
        rollout_batch_size=4,
        minibatch_size=2,
        max_new_tokens=8,
        ptx_length=16,
        ema_decay=0.9,
        kl_controller="proportional",
        target_kl=0.1,
        kl_horizon=20,
    ),
}
MODES = {
    "lora": {},
    "full": {"run": dict(full=True), "ppo": dict(loss="penalty", ema_decay=0.0)},
}
STAGES = ("sft", "reward", "ppo", "ppo-ptx")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def flags(micro_folder, tmp_path_factory):
    """Makes the flags of a mode."""

    def make(mode):
        settings = {
            stage: values | MODES[mode].get(stage, {}) for stage, values in SETTINGS.items()
        }
        settings["run"] |= {"model": str(micro_folder)}
        file = tmp_path_factory.mktemp("flags") / "settings.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        return ["--name", "mine", "--settings", str(file)]

    return make


@pytest.fixture(scope="module")
def whole(flags, tiny, tmp_path_factory):
    """A run that was never stopped: (its folder, the names of its moments)."""
    return {mode: _whole(flags(mode), tiny, tmp_path_factory.mktemp(mode)) for mode in MODES}


def _whole(flags, tiny, folder):
    code, moments = killed.run(folder, ["run", *flags], tiny)
    assert code == 0, (folder / "error.txt").read_text()
    return folder / "runs" / "mine", moments


def said(folder):
    return (folder / "error.txt").read_text(encoding="utf-8")


def contents(folder: Path):
    """Every file, byte by byte; of metrics and results all but the times."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    rows = read_metrics(folder / "metrics.jsonl")
    found["metrics.jsonl"] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    results = json.loads(found["results.json"])
    assert results.pop("seconds").keys() == {"sft", "rankings", "reward", "ppo", "ppo-ptx"}
    found["results.json"] = results
    del found["report.html"]  # pictures and tables of these, with the times
    return found


# Kills -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_killed_again_and_again_it_ends_the_same(whole, flags, tiny, tmp_path, mode):
    """Kills at random moments of one run, each soon after the one before.

    Moments are steps of the optimiser, and anything that reaches the disk, half-way too. Now and
    then all steps of a stage but the first are lost.
    """
    seed = secrets.randbits(32)
    print("seed", seed)
    rng, (before, moments) = random.Random(seed), whole[mode]
    command, ends = ["run", *flags(mode)], []
    for _ in range({"lora": 5, "full": 3}[mode]):
        save_every = rng.choice([0.0, 0.0, 60.0])
        last = rng.randint(1, len(moments) // 4)
        code, found = killed.run(tmp_path, command, tiny, last, save_every)
        ends.append((code, save_every, last, found[-1]))
        assert code == -9, (seed, ends, said(tmp_path))
        if (tmp_path / "runs" / "mine" / "settings.yaml").is_file():
            command = RESUME
    code, _ = killed.run(tmp_path, command, tiny)
    assert code == 0, (seed, ends, said(tmp_path))
    assert contents(tmp_path / "runs" / "mine") == contents(before), (seed, ends)


# What is refused, and what is put right -----------------------------------------------------------


def stop(stage, step):
    """Stands in for the progress bar: Ctrl-C at a stage's step, once its metrics are written."""
    labels = dict(zip(("SFT", "reward model", "PPO", "PPO-ptx"), STAGES, strict=True))

    def progress(steps, total, label):
        for number, stats in enumerate(steps, start=1):
            if (labels[label], number) == (stage, step):
                raise KeyboardInterrupt
            yield stats

    return progress


@pytest.fixture(scope="module")
def halves(flags, tiny, tmp_path_factory):
    """Runs that were stopped in the third step of reward model and of PPO-ptx: {stage: folder}."""
    found = {}
    for stage in ("reward", "ppo-ptx"):
        with pytest.MonkeyPatch.context() as patch:
            found[stage] = tmp_path_factory.mktemp("half")
            patch.chdir(found[stage])
            patch.setenv("MINIRLHF_DATA", str(tiny))
            patch.setattr("minirlhf.cli.bars", stop(stage, 3))
            patch.setattr(bookmark, "SAVE_EVERY", 0.0)
            assert main(["run", *flags("lora")]) == 130
    return found


@pytest.fixture
def half(halves, data, tmp_path, monkeypatch):
    """Puts such a run below `tmp_path`: `half("reward")` gives its folder."""

    def copy(stage):
        shutil.copytree(halves[stage] / "runs", tmp_path / "runs")
        return tmp_path / "runs" / "mine"

    monkeypatch.chdir(tmp_path)
    return copy


RESUME = ["run", "--name", "mine", "--resume"]


def test_ctrl_c_says_how_to_go_on(data, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minirlhf.cli.bars", stop("sft", 2))
    assert main(["run", *flags("lora")]) == 130
    line = capsys.readouterr().err.strip().splitlines()[-1]
    command = " ".join(["minirlhf", *RESUME])
    assert line == f"minirlhf: stopped; what was finished is kept; go on with: {command}"


def test_what_a_kill_leaves_behind_is_put_right(half, whole, tmp_path, capsys):
    folder = half("ppo-ptx")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "ppo-ptx", "step": 3, "scores": 7.0}\n{"stage": "ppo-p')
    os.replace(folder / "reward", folder / ".reward.0a1b2c3d.old")  # between two renames
    shutil.copytree(folder / "ppo", folder / ".ppo-ptx.0a1b2c3d.partial")
    (folder / "state.safetensors.partial").write_bytes(b"half a state")
    (tmp_path / "runs" / ".mine.lock").touch()
    assert main(RESUME) == 0
    assert contents(folder) == contents(whole["lora"][0])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    assert "mine: no stage was stopped there" in refused(RESUME, folder, capsys)


def flip(file, place=-9):
    changed = bytearray(file.read_bytes())
    changed[place] ^= 1
    file.write_bytes(changed)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


def other_stage(file):
    """A state made by another program: its checksum is right."""
    save_snapshot(file, load_snapshot(file) | {"training": {"step": 1}})


STATE = "state.safetensors"
DAMAGES = {
    "cut": (lambda f: cut(f / STATE), "state.safetensors: is damaged"),
    "changed": (lambda f: flip(f / STATE), "its contents are not those that were saved"),
    "strange": (lambda f: shutil.copy(f / "ppo" / "adapter_model.safetensors", f / STATE),
                "state.safetensors: is no snapshot of minirlhf"),
    "other": (lambda f: save_snapshot(f / STATE, {"a": 1}), "is no state of a run"),
    "unfit": (lambda f: other_stage(f / STATE), "state.safetensors: does not fit ppo-ptx: "),
    "gone": (lambda f: (f / STATE).unlink(), "no stage was stopped there"),
    "role": (lambda f: flip(f / "reward" / "adapter_model.safetensors"), "reward: is damaged"),
    "card": (lambda f: edit(f / "reward" / "minirlhf.json", '"none"', '"4bit"'),
             "reward: is damaged"),
    "settings": (lambda f: edit(f / "settings.yaml", "kl_horizon: 20", "kl_horizon: 30"),
                 "cannot be resumed with ppo.kl_horizon: 30; it began with 20"),
    "metrics": (lambda f: (f / "metrics.jsonl").unlink(), "holds 0 of the 2 steps that ppo-ptx"),
}  # fmt: skip


def refused(arguments, folder, capsys):
    """Runs a command that must be refused in one line and change nothing; returns that line."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(arguments) == 2
    line, *more = capsys.readouterr().err.strip().splitlines()
    assert not more
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    return line


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused(half, capsys, damage):
    folder = half("ppo-ptx")
    do, message = DAMAGES[damage]
    do(folder)
    assert message in refused(RESUME, folder, capsys)


@pytest.mark.parametrize(
    "changed, message",
    [
        (["--ppo.updates", "4"], "cannot be resumed with ppo.updates: 4; it began with 3"),
        (["--seed", "1"], "cannot be resumed with run.seed: 1; it began with 0"),
        (["--sft.epochs", "9"], "cannot be resumed with sft.epochs: 9; it began with 2"),
        (["--ppo.value-clip-range", "none"], "ppo.value_clip_range: None; it began with 0.2"),
    ],
)
def test_other_settings_are_refused_by_name(half, capsys, changed, message):
    folder = half("ppo-ptx")
    assert message in refused([*RESUME, *changed], folder, capsys)


def test_other_data_is_refused(half, data, capsys):
    folder = half("reward")
    prompts = data / "comparisons" / "prompts.jsonl"
    kept = prompts.read_text(encoding="utf-8")
    edit(prompts, "How big is Rhea?", "How old is Rhea?")
    assert "cannot be resumed: the data is not what it was" in refused(RESUME, folder, capsys)
    prompts.write_text(kept, encoding="utf-8")
    edit(folder / "comparisons.jsonl", "Why Rhea?", "Why not Rhea?")
    line = refused(RESUME, folder, capsys)
    assert "does not fit reward: the rankings are not those that it began with" in line


def test_a_run_that_is_not_there_is_refused(data, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("run", "sft", "ppo"):
        line = refused([command, *flags("lora"), "--resume"], tmp_path, capsys)
        assert "mine: no such run; leave out --resume" in line
    assert list(tmp_path.glob("runs*")) == []


def test_where_nothing_was_saved_it_starts_over(data, tiny_flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "settings.yaml.partial").write_text("run: {mod", encoding="utf-8")
    assert "mine: no such run" in refused(RESUME, tmp_path, capsys)  # with which settings?
    assert main(["sft", "--name", "mine", *tiny_flags]) == 0
    shutil.rmtree(folder / "sft")
    (folder / STATE).unlink()
    assert main(["sft", "--name", "mine", "--resume"]) == 0
    assert len(read_metrics(folder / "metrics.jsonl")) == 2


# Stage by stage ----------------------------------------------------------------------------------


def test_single_stages_go_on_too(half, whole, capsys):
    folder = half("reward")
    for command in ("sft", "ppo"):
        line = refused([command, "--name", "mine", "--resume"], folder, capsys)
        assert f"mine: reward comes next there, not {command}" in line
        assert "go on with: minirlhf run --name mine --resume" in line
    assert main(["reward", "--name", "mine", "--resume"]) == 0
    assert main(RESUME) == 0
    assert contents(folder) == contents(whole["lora"][0])


def test_a_stage_made_anew_is_not_mixed_with_an_earlier_try(half, tmp_path, monkeypatch):
    """Stopped at its first step, it goes on with its own rows and state, not with the old ones."""
    folder = half("reward")
    with monkeypatch.context() as patch:
        patch.setattr("minirlhf.cli.bars", stop("reward", 1))
        assert main(["reward", "--name", "mine", "--reward.epochs", "1"]) == 130
    assert load_snapshot(folder / STATE)["step"] == 2  # no step was done: the old state stands
    with monkeypatch.context() as patch:
        patch.setattr("minirlhf.cli.bars", stop("reward", 2))
        assert main(["reward", "--name", "mine", "--reward.epochs", "1"]) == 130
    assert main(["reward", "--name", "mine", "--resume"]) == 0
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["stage"] == "reward"]
    assert [row["step"] for row in rows] == [1, 2, 3]


# Disks and other processes -----------------------------------------------------------------------


def test_a_full_disk_loses_nothing(half, whole, tiny, tmp_path):
    """No file may grow over a limit: first metrics do not fit, then states, then roles."""
    folder = half("ppo-ptx")
    saved = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".jsonl"}
    for limit in (1_000, 20_000, 40_000):
        code, _ = killed.run(tmp_path, RESUME, tiny, file_limit=limit)
        line = said(tmp_path).strip().splitlines()[-1]
        assert (code, "File too large" in line) == (2, True), line
        assert line.startswith("minirlhf: ")
        for path, content in saved.items():
            assert path.read_bytes() == content
    assert main(RESUME) == 0
    assert contents(folder) == contents(whole["lora"][0])


def test_two_runs_cannot_write_one_folder(half, tiny, tmp_path, capsys):
    folder = half("ppo-ptx")
    with WriteLock(folder):
        for command in ("run", "sft", "evaluate"):
            resume = ["--resume"] if command != "evaluate" else []
            line = refused([command, "--name", "mine", *resume], folder, capsys)
            assert line == f"minirlhf: {Path('runs/mine')}: another process is writing there"
        code, _ = killed.run(tmp_path, RESUME, tiny)
        assert code == 2
        assert "another process is writing there" in said(tmp_path)


# Base models -------------------------------------------------------------------------------------

SIZE = """--vocabulary 320 --hidden-size 16 --layers 1 --heads 2 --intermediate-size 32
    --context-length 64 --documents 60 --batch-size 12 --warmup-steps 2 --epochs 2""".split()  # noqa: SIM905


def test_a_killed_pretraining_makes_the_same_model(tiny, tmp_path, capsys):
    command = ["pretrain", *SIZE, "--out"]
    code, moments = killed.run(tmp_path, [*command, "whole"], tiny)
    assert code == 0
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    print("seed", seed)
    for _ in range(3):
        last = rng.randint(1, len(moments) // 3)
        code, _ = killed.run(tmp_path, [*command, "parts", "--resume"], tiny, last)
        assert code == -9, (seed, said(tmp_path))
    code, _ = killed.run(tmp_path, [*command, "parts", "--resume"], tiny)
    assert code == 0, (seed, said(tmp_path))
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "parts").iterdir()}, seed
    assert {p.name for p in tmp_path.iterdir() if p.name != "data"} == {
        "whole", "parts", "moments.txt", "said.txt", "error.txt"
    }  # fmt: skip


def test_a_base_goes_on_with_its_own_settings_only(tiny, tmp_path):
    command = ["pretrain", "--out", "base", *SIZE]
    code, _ = killed.run(tmp_path, command, tiny, last=25)
    assert code == -9
    code, _ = killed.run(tmp_path, [*command, "--resume", "--epochs", "3"], tiny)
    assert code == 2
    assert "cannot be resumed with pretrain.epochs: 3; it began with 2" in said(tmp_path)
