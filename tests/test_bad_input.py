"""Bad input: exit code 2, one line that names the culprit, and earlier results untouched."""

import hashlib
import json
import subprocess
import sys

import pytest

from minirlhf.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def state(folder):
    """Every path below a folder, and a hash of what each file holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def refused(tmp_path, capfd):
    """Runs a command that must be refused; returns its one line."""

    def run(*arguments):
        capfd.readouterr()
        before = state(tmp_path)
        try:
            code = main([*arguments])
        except SystemExit as left:  # argparse
            code = left.code
        said = capfd.readouterr()
        assert code == 2, said.err
        lines = [line for line in said.err.splitlines() if not is_bar(line)]
        assert len(lines) == 1, said.err
        assert lines[0].startswith("minirlhf")
        assert "Traceback" not in said.err + said.out
        assert state(tmp_path) == before
        return lines[0]

    return run


def is_bar(line):
    """A progress bar that a later stage drew; bad input found before training draws none."""
    return "step/s" in line or "?step" in line or not line.strip()


def break_line(data, file, number, text):
    path = data / "comparisons" / file
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{path}:{number}: "


# Records ----------------------------------------------------------------------------------------

ANSWERS = ["a", "b", "c"]
BAD_LINES = [
    ("demonstrations.jsonl", '{"prompt": "Hi", ', "broken JSON"),
    ("demonstrations.jsonl", {"prompt": "", "response": "a"}, "field 'prompt': is empty"),
    ("demonstrations.jsonl", {"prompt": "Hi"}, "field 'response': is missing"),
    ("prompts.jsonl", {"prompt": "   "}, "field 'prompt': is empty"),
    ("prompts.jsonl", {"question": "Hi"}, "field 'prompt': is missing"),
    (
        "rankings.jsonl",
        {"prompt": "Hi", "responses": ANSWERS, "ranks": [1, 2, 3, 4]},
        "field 'ranks': rank number 4 is for a response that is not there",
    ),
    (
        "rankings.jsonl",
        {"prompt": "Hi", "responses": ["a"], "ranks": [1]},
        "field 'responses': has 1; a ranking needs at least 2",
    ),
    (
        "rankings.jsonl",
        {"prompt": "Hi", "responses": ANSWERS, "ranks": [2, 2, 2]},
        "field 'ranks': all responses are tied",
    ),
]


@pytest.mark.parametrize("file, row, message", BAD_LINES)
def test_a_bad_line_is_named(data, tiny_flags, refused, file, row, message):
    where = break_line(data, file, 3, row if isinstance(row, str) else json.dumps(row))
    line = refused("run", "--name", "mine", *tiny_flags)
    assert line.startswith(f"minirlhf: {where}{message}")


def test_a_missing_file_is_named(data, tiny_flags, refused):
    (data / "comparisons" / "prompts.jsonl").unlink()
    line = refused("run", "--name", "mine", *tiny_flags)
    assert line == f"minirlhf: {data / 'comparisons' / 'prompts.jsonl'}: no such file"


@pytest.mark.parametrize(
    "file, row, command",
    [
        ("demonstrations.jsonl", {"prompt": "word " * 200, "response": "a"}, "sft"),
        ("demonstrations.jsonl", {"prompt": "a", "response": "word " * 200}, "sft"),
        (
            "rankings.jsonl",
            {"prompt": "Hi", "responses": ["a", "word " * 200], "ranks": [1, 2]},
            "reward",
        ),
        ("prompts.jsonl", {"prompt": "word " * 200}, "ppo"),
    ],
)
def test_what_is_longer_than_the_context_is_named(data, finished, refused, file, row, command):
    """Found before anything is trained: the earlier checkpoints, settings and metrics stay."""
    rows = [row] * 24 if file == "prompts.jsonl" else [row] * 12  # whatever the shuffle held out
    (data / "comparisons" / file).write_text(
        "\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8"
    )
    line = refused(command, "--name", "mine", "--sft.seed" if command == "sft" else "--seed", "5")
    assert f"{data / 'comparisons' / file}:" in line
    assert "field 'prompt': has " in line
    assert "over the model's context of 128" in line


# Models and checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["no-such-model", "nobody/no-such-model"])
@pytest.mark.parametrize("command", ["run", "chat"])
def test_an_unknown_model_is_named(data, refused, model, command):
    arguments = [model] if command == "chat" else ["--model", model]
    assert f"unknown model '{model}'" in refused(command, *arguments)


def test_a_run_that_is_not_there_is_named(data, tiny_flags, refused):
    """A typing error in a name must not make a folder."""
    for command in ("reward", "ppo", "evaluate"):
        line = refused(command, "--name", "typo", *tiny_flags)
        assert line.endswith("is not a checkpoint of minirlhf (no minirlhf.json)")
        assert "runs" in line


def test_a_damaged_checkpoint_is_named(finished, refused):
    file = finished / "sft" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:300])
    for command in ("reward", "ppo", "evaluate"):
        assert f"sft{'/'}adapter_model.safetensors: is damaged" in refused(
            command, "--name", "mine"
        ).replace("\\", "/")
    assert "is damaged" in refused("chat", str(finished / "sft"))


def test_a_checkpoint_of_other_adapters_is_named(finished, refused):
    line = refused("reward", "--name", "mine", "--lora.rank", "2")
    assert "has LoRA {'rank': 4, 'alpha': 8, 'first_layer': 0}, the backbone {'rank': 2," in line


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--ppo.kl-coef", "-1"], "--ppo.kl-coef: -1.0 must be at least 0"),
        (["--sft.epochs", "many"], "--sft.epochs: 'many' is not a whole number"),
        (["--sft.epochs", "inf"], "--sft.epochs: 'inf' is not a whole number"),
        (["--sft.learning-rate", "nan"], "--sft.learning-rate: 'nan' is not a number"),
        (["--reward.ties", "keep"], "--reward.ties: 'keep' is none of drop, half, rao_kupper"),
        (["--quantize", "8bit"], "--quantize: '8bit' is none of none, 4bit"),
        (["--rankings", "7"], "--rankings: 7 must be at least 8"),
        (["--ppo.ptx-coef", "0"], "ppo.ptx_coef: 0.0 would make PPO-ptx the same as PPO"),
        (["--sft.select", "score"], "sft.select: 'score' needs a reward model"),
        (["--settings", "none.yaml"], "none.yaml: no such file"),
        (["--no-such-flag", "3"], "unrecognized arguments: --no-such-flag 3"),
        (["--ppo.kl", "3"], "unrecognized arguments: --ppo.kl 3"),
        (["--quantize", "4bit", "--full", "true"], "4-bit weights cannot be trained in full"),
    ],
)
def test_a_bad_flag_is_named(data, tiny_flags, refused, flags, message):
    assert message in refused("run", "--name", "mine", *tiny_flags, *flags)


@pytest.mark.parametrize(
    "text, message",
    [
        ("sft:\n  epochs: -3\n", ":2: field 'sft.epochs': -3 must be at least 1"),
        ("run: {seed: 1}\nsft:\n  epoch: 3\n", ":3: field 'sft.epoch': no such setting"),
        ("seed: {}\nSFT: {epochs: 3}\n", ":1: field 'seed': no such stage"),
        ("sft: {epochs: [3\n", "broken YAML"),
        ("sft: 3\n", "must map each stage to its settings"),
        (
            "ppo:\n  updates: 3\n  kl_coef: none\n",
            ":3: field 'ppo.kl_coef': 'none' is not a number",
        ),
    ],
)
def test_a_bad_settings_file_is_named(data, tiny_flags, refused, tmp_path, text, message):
    file = tmp_path / "my.yaml"
    file.write_text(text, encoding="utf-8")
    line = refused("run", "--name", "mine", *tiny_flags, "--settings", str(file))
    assert line.startswith(f"minirlhf: {file}")
    assert message in line


def test_bad_settings_leave_an_earlier_run_alone(finished, refused):
    for command in ("sft", "reward", "ppo", "evaluate"):
        assert "--seed: 'x' is not a whole number" in refused(
            command, "--name", "mine", "--seed", "x"
        )
    assert "mine: holds an earlier run" in refused("run", "--name", "mine")
    assert "pretraining_mix needs 6000 texts, got 400" in refused(
        "sft", "--name", "mine", "--sft.pretraining-mix", "1000"
    )
    assert "--vocabulary: 3 must be at least 300" in refused("pretrain", "--vocabulary", "3")


@pytest.mark.parametrize("flags", [["--temperature", "-1"], ["--tokens", "0"]])
def test_chat_refuses_what_cannot_be_sampled(micro_folder, refused, flags):
    assert "must be at least" in refused("chat", str(micro_folder), *flags)


# Disks ------------------------------------------------------------------------------------------


def test_a_file_in_the_way_is_named(data, tiny_flags, refused, tmp_path):
    (tmp_path / "runs").write_text("mine", encoding="utf-8")
    for command in ("run", "sft"):
        line = refused(command, "--name", "mine", *tiny_flags)
        assert "runs" in line
    line = refused("pretrain", "--out", "runs/moonlet", "--documents", "5", "--vocabulary", "300")
    assert "runs" in line


@pytest.mark.parametrize("place", ["settings.yaml", "adapter", "metrics.jsonl"])
def test_a_full_disk_is_one_line_and_takes_nothing_away(
    finished, refused, monkeypatch, place, tmp_path
):
    from safetensors import SafetensorError

    from minirlhf.engine import checkpoint, metrics, records

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    if place == "settings.yaml":
        monkeypatch.setattr(records.Path, "write_text", full)
    elif place == "metrics.jsonl":
        monkeypatch.setattr(metrics, "write_text", full)
    else:

        def full_safetensors(*args, **options):
            raise SafetensorError("Error while serializing: No space left on device (os error 28)")

        monkeypatch.setattr(checkpoint, "save_file", full_safetensors)
        before = state(finished / "sft")
        assert main(["sft", "--name", "mine"]) == 2  # trained, and so its metrics are new
        assert state(finished / "sft") == before
        return
    line = refused("sft", "--name", "mine")
    assert "No space left on device" in line
    assert "mine" in line


def test_a_folder_that_may_not_be_written_is_named(data, tiny_flags, refused, monkeypatch):
    """As a user who is not root sees it."""
    from minirlhf import pipeline

    def forbidden(self, *args, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(pipeline.Path, "mkdir", forbidden)
    line = refused("sft", "--name", "mine", *tiny_flags)
    assert "mine: cannot be written: Permission denied" in line


def test_data_that_is_not_there_is_named(tmp_path, monkeypatch, refused):
    monkeypatch.setenv("MINIRLHF_DATA", str(tmp_path / "nowhere"))
    assert "nowhere: no such folder; set MINIRLHF_DATA" in refused("run")


# As a process -----------------------------------------------------------------------------------


def test_the_exit_code_reaches_the_shell(tmp_path):
    command = [sys.executable, "-m", "minirlhf.cli", "run", "--settings", "no.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=290)
    assert done.returncode == 2
    assert done.stderr == "minirlhf: no.yaml: no such file\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
