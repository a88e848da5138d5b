"""minirlhf.cli: the commands as a user types them."""

import json
import shutil

import pytest
import torch
import yaml

from minirlhf import cli
from minirlhf.cli import build_parser, flag_of, main, preset_file, run_folder, settings_from
from minirlhf.engine.checkpoint import read_card
from minirlhf.engine.metrics import METRICS, read_metrics
from minirlhf.engine.records import DataError, Ranking, read_records
from minirlhf.pipeline import Settings
from minirlhf.stages.ppo import PPOConfig

NAMES = ["base", "prompted base", "SFT", "PPO", "PPO-ptx"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test in an empty folder, where the commands make theirs."""
    monkeypatch.chdir(tmp_path)


def parse(*arguments):
    return build_parser().parse_args([*arguments])


# A whole run ------------------------------------------------------------------------------------


def test_run_goes_through_all_stages_and_leaves_a_whole_folder(data, tiny_flags, tmp_path, capsys):
    assert main(["run", "--name", "mine", *tiny_flags]) == 0
    folder = tmp_path / "runs" / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "settings.yaml", "metrics.jsonl", "comparisons.jsonl", "answers.jsonl", "results.json",
        "report.html", "sft", "reward", "ppo", "ppo-ptx",
    }  # fmt: skip
    cards = [read_card(folder / stage)["role"] for stage in ("sft", "reward", "ppo", "ppo-ptx")]
    assert cards == ["reference", "reward", "policy", "policy"]

    rows = read_metrics(folder / "metrics.jsonl")
    steps = {}
    for row in rows:
        assert set(row) - {"stage", "step"} <= METRICS.keys()
        steps.setdefault(row["stage"], []).append(row["step"])
    assert steps == {"sft": [1, 2], "reward": [1, 2], "ppo": [1, 2], "ppo-ptx": [1, 2]}
    assert ["ptx_loss" in row for row in rows[-4:]] == [False, False, True, True]
    assert len(read_records(folder / "comparisons.jsonl", Ranking)) == 8

    answers = [json.loads(line) for line in (folder / "answers.jsonl").open(encoding="utf-8")]
    shown = [a["prompt"] for a in answers if a["system"] == "base"]
    assert shown[0] == "What is the moon?"
    assert len(shown) == 6 + 3
    assert [a["system"] for a in answers] == [name for name in NAMES for _ in range(9)]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["prompts"] == 3
    assert list(results["systems"]) == NAMES
    assert 0 <= results["reward_model"]["pair_accuracy"] <= 1
    for name, row in results["systems"].items():
        mine = [a for a in answers if a["system"] == name][6:]
        assert row["score"] == pytest.approx(sum(a["score"] for a in mine) / 3)
        assert row["length"] == sum(a["length"] for a in mine) / 3
    assert results["systems"]["SFT"]["ref_kl"] == pytest.approx(0, abs=1e-4)
    assert results["systems"]["base"]["ref_kl"] is None
    assert set(results["seconds"]) == {"sft", "rankings", "reward", "ppo", "ppo-ptx"}
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")

    said = capsys.readouterr().out
    assert said.count("What is the moon?") == 1
    assert "means over 3 held-out prompts" in said
    for name in NAMES:
        rows = [line for line in said.splitlines() if line.strip().startswith(f"{name}  ")]
        assert len(rows) == 7, name  # six questions and the table
    assert "report: " in said


def test_stages_one_by_one_give_the_same_run(finished, tiny_flags, tmp_path):
    """sft, reward, ppo, evaluate, each loading what it needs; settings are given once."""
    assert main(["sft", "--name", "parts", *tiny_flags]) == 0
    for command in ("reward", "ppo", "evaluate"):
        assert main([command, "--name", "parts"]) == 0
    whole, parts = finished, tmp_path / "runs" / "parts"
    assert {p.name for p in parts.iterdir()} == {p.name for p in whole.iterdir()}
    for file in ("settings.yaml", "answers.jsonl", "comparisons.jsonl"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (whole, parts)]
    for one, other in zip(*rows, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_stage_that_runs_again_replaces_its_own_part(data, tiny_flags, tmp_path):
    for _ in range(2):
        assert main(["sft", "--name", "mine", *tiny_flags]) == 0
    assert main(["sft", "--name", "mine", "--sft.epochs", "3"]) == 0
    rows = read_metrics(tmp_path / "runs" / "mine" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]  # 3 epochs of 1 step
    settings = yaml.safe_load((tmp_path / "runs/mine/settings.yaml").read_text(encoding="utf-8"))
    assert settings["sft"]["epochs"] == 3
    assert settings["ppo"]["updates"] == 2  # of the first call


def test_a_stage_made_anew_names_what_came_from_the_old_one(finished, capsys):
    capsys.readouterr()
    assert main(["sft", "--name", "mine"]) == 0
    assert "note: reward, ppo, ppo-ptx came from the earlier sft" in capsys.readouterr().out
    assert main(["ppo", "--name", "mine"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_evaluate_reports_the_policies_that_are_there(finished):
    """Without ppo-ptx/ there is no such row; it is not PPO's answers under another name."""
    shutil.rmtree(finished / "ppo-ptx")
    assert main(["evaluate", "--name", "mine"]) == 0
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert list(results["systems"]) == NAMES[:4]


def test_sft_can_be_selected_by_the_runs_own_reward_model(finished):
    flags = ["--sft.select", "score", "--sft.epochs", "2", "--sft.max-new-tokens", "6"]
    assert main(["sft", "--name", "mine", *flags]) == 0
    rows = read_metrics(finished / "metrics.jsonl")
    assert len([row for row in rows if "valid_score" in row]) == 2


def test_full_mode_and_four_bits_run_too(data, tiny_flags, tmp_path):
    assert main(["sft", "--name", "full", "--full", "true", *tiny_flags]) == 0
    assert (tmp_path / "runs/full/sft/model.safetensors").is_file()
    assert main(["run", "--name", "packed", "--quantize", "4bit", *tiny_flags]) == 0
    assert (tmp_path / "runs/packed/report.html").is_file()


def test_the_shipped_model_runs_with_the_almanac(moonlet, tmp_path, capsys):
    """The default command, with a budget of seconds."""
    flags = """--rankings 8 --test-prompts 4 --sft.epochs 1 --sft.batch-size 128 --ppo.updates 1
        --ppo.rollout-batch-size 8 --ppo.minibatch-size 8 --ppo.max-new-tokens 16"""
    assert main(["run", *flags.split()]) == 0
    folder = tmp_path / "runs" / "moonlet-1m"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert list(results["systems"]) == NAMES
    for row in results["systems"].values():
        assert 0 <= row["gold_low"] <= row["gold"] <= row["gold_high"] <= 1
        assert {"on_topic", "true", "complete", "polite", "ended"} <= set(row)
    said = capsys.readouterr().out
    assert said.count("\nWhat is the Moon?\n") == 1
    assert "gold" in said


# Settings ---------------------------------------------------------------------------------------


def test_flags_beat_the_file_and_the_file_beats_defaults(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("sft: {epochs: 7, batch_size: 5}\nrun: {seed: 3}\n", encoding="utf-8")
    settings = settings_from(parse("run", "--settings", str(file), "--sft.epochs", "9"))
    assert (settings.sft.epochs, settings.sft.batch_size, settings.run.seed) == (9, 5, 3)
    assert settings.sft.learning_rate == Settings().sft.learning_rate


def test_the_models_preset_lies_under_file_and_flags(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("ppo: {updates: 7}\n", encoding="utf-8")
    cases = (
        ("smollm2", "auto", False),
        ("smollm2", "auto", True),
        ("moonlet-1m", "auto", True),
        ("moonlet-1m", "api", False),
        ("moonlet-1m", "api", True),
    )
    for name, task, quick in cases:
        preset = yaml.safe_load(preset_file(name, task, quick).read_text(encoding="utf-8"))
        flags = ["--model", name, "--task", task, *(["--quick"] if quick else [])]
        settings = settings_from(parse("run", *flags))
        for stage, values in preset.items():
            for setting, value in values.items():
                assert getattr(getattr(settings, stage), setting) == value
        assert settings_from(parse("run", *flags, "--settings", str(file))).ppo.updates == 7
        settings = settings_from(parse("run", *flags, "--ppo.updates", "8"))
        assert settings.ppo.updates == 8


def test_a_model_named_in_the_file_decides_preset_and_folder(data, tiny_flags, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("run: {model: smollm2}\n", encoding="utf-8")
    settings = settings_from(parse("run", "--settings", str(file)))
    assert settings.run.model == "smollm2"
    assert settings.sft.dropout == 0.0  # other.yaml
    assert main(["sft", *tiny_flags]) == 0
    assert (tmp_path / "runs" / "micro" / "sft").is_dir()


def test_ppo_ptx_differs_from_ppo_in_every_preset():
    for name in ("moonlet-1m", "smollm2"):
        for quick in ([], ["--quick"]):
            assert settings_from(parse("run", "--model", name, *quick)).ppo.ptx_coef > 0


def test_flags_of_every_setting():
    assert flag_of("run", "valid_rankings") == "--valid-rankings"
    assert flag_of("ppo", "kl_coef") == "--ppo.kl-coef"
    args = parse("run", "--ppo.kl-coef", "0.5", "--full", "true", "--ppo.value-clip-range", "none")
    settings = settings_from(args)
    assert settings.ppo.kl_coef == 0.5
    assert settings.run.full is True
    assert settings.ppo.value_clip_range is None


# Folders ----------------------------------------------------------------------------------------


def test_a_fresh_run_never_takes_a_used_folder(tmp_path):
    used = tmp_path / "runs" / "moonlet-1m"
    used.mkdir(parents=True)
    relative = used.relative_to(tmp_path)
    assert run_folder(None, "moonlet-1m", fresh=True) == relative  # empty: fine
    (used / "settings.yaml.partial").touch()  # of a run killed as it began
    assert run_folder(None, "moonlet-1m", fresh=True) == relative
    (used / "sft").mkdir()
    assert run_folder(None, "moonlet-1m", fresh=True) == relative.with_name("moonlet-1m-2")
    relative.with_name("moonlet-1m-2").mkdir()
    assert run_folder(None, "moonlet-1m", fresh=True) == relative.with_name("moonlet-1m-3")
    assert run_folder(None, "moonlet-1m", fresh=False) == relative
    with pytest.raises(DataError, match="holds an earlier run; choose another --name"):
        run_folder("moonlet-1m", "smollm2", fresh=True)
    assert run_folder(None, "some/model", fresh=True).as_posix() == "runs/model"
    assert run_folder(None, ".", fresh=True).as_posix() == f"runs/{tmp_path.name}"


# Help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["run", "sft", "reward", "ppo", "evaluate", "pretrain", "fetch", "chat", "memory", "doctor"],
)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"minirlhf {command}" in said
    if command == "sft":
        assert "paper 9.65e-06" in said
        assert "paper 16" in said
    if command in ("run", "ppo"):
        text = " ".join(said.split())
        for expected in ("paper 0.02", "paper 27.8", "paper 512", "--ppo.kl-coef", "paper 0.992"):
            assert expected in text


def test_help_shows_the_default_that_holds(capsys):
    with pytest.raises(SystemExit):
        main(["ppo", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"[{Settings().ppo.ptx_coef}; paper 27.8]" in text
    assert f"[{PPOConfig().kl_coef}; paper 0.02]" in text


def test_version_and_bare_call(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# Interruption -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "ppo-ptx"])
def test_ctrl_c_keeps_what_was_finished(data, tiny_flags, tmp_path, monkeypatch, capsys, stage):
    labels = {"SFT": "sft", "reward model": "reward", "PPO": "ppo", "PPO-ptx": "ppo-ptx"}

    def interrupted(steps, total, label):
        for number, stats in enumerate(steps, start=1):
            if labels[label] == stage and number == 2:
                raise KeyboardInterrupt
            yield stats

    monkeypatch.setattr(cli, "bars", interrupted)
    assert main(["run", "--name", "mine", *tiny_flags]) == 130
    said = capsys.readouterr()
    assert "stopped; what was finished is kept" in said.err
    assert "Traceback" not in said.err
    order = list(labels.values())
    finished = order[: order.index(stage)]
    folder = tmp_path / "runs" / "mine"
    assert [name for name in order if (folder / name).exists()] == finished
    for name in finished:
        read_card(folder / name)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    if stage == "ppo-ptx":  # and it can go on
        monkeypatch.undo()
        monkeypatch.setenv("MINIRLHF_DATA", str(data))
        monkeypatch.chdir(tmp_path)
        assert main(["ppo", "--name", "mine"]) == 0


def test_a_diverged_run_says_so(data, tiny_flags, capsys, monkeypatch):
    from minirlhf.stages import sft

    loss = sft.response_loss
    monkeypatch.setattr(sft, "response_loss", lambda *args: loss(*args) * float("nan"))
    assert main(["sft", "--name", "mine", *tiny_flags]) == 1
    error = capsys.readouterr().err
    assert "minirlhf: stopped: sft, step 1: gradient of reference.model.layers.0." in error
    assert "try a lower learning rate; the last good checkpoint: none, this run had only" in error
    assert "Traceback" not in error


def test_what_a_guard_finds_is_a_line_of_its_own(finished, capsys, monkeypatch):
    from minirlhf.stages.ppo import PPO

    step = PPO.__next__
    monkeypatch.setattr(PPO, "__next__", lambda self: step(self) | {"ref_kl": 99.0})
    assert main(["ppo", "--name", "mine", "--ppo.updates", "3"]) == 0
    lines = capsys.readouterr().err.splitlines()
    [ppo, ptx] = [line for line in lines if "exploding KL" in line]
    assert ppo.startswith("minirlhf: PPO, step 3: exploding KL. The policy is 99 nats per response")
    assert ptx.startswith("minirlhf: PPO-ptx, step 3: exploding KL. ")


# The other commands -----------------------------------------------------------------------------


def test_pretrain_makes_a_model_that_the_stages_take(data, tmp_path, capsys):
    flags = """--vocabulary 320 --hidden-size 16 --layers 1 --heads 2 --intermediate-size 32
        --context-length 128 --documents 20 --batch-size 10"""
    assert main(["pretrain", "--out", "models/mine", *flags.split()]) == 0
    assert "saved" in capsys.readouterr().out
    settings = yaml.safe_load((tmp_path / "models/mine/settings.yaml").read_text(encoding="utf-8"))
    assert settings["pretrain"]["hidden_size"] == 16
    assert settings["pretrain"]["seed"] == 0
    assert main(["pretrain", "--out", "models/mine", *flags.split()]) == 2
    assert "is there already" in capsys.readouterr().err


def chat(monkeypatch, lines, *arguments):
    given = iter(lines)

    def answer(prompt=""):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    return main(["chat", *arguments])


def test_chat_talks_to_a_checkpoint_over_several_turns(finished, monkeypatch, capsys):
    lines = ["What is Io?", "And Mars?", ""]
    assert chat(monkeypatch, lines, "runs/mine/sft", "--tokens", "8", "--temperature", "0") == 0
    said = capsys.readouterr().out
    assert said.count("reference> ") == 2
    # the same again, token for token; an end of input ends it as well
    assert chat(monkeypatch, lines[:2], "runs/mine/sft", "--tokens", "8", "--temperature", "0") == 0
    assert capsys.readouterr().out == said


def test_chat_with_a_run_talks_to_its_last_policy(finished, monkeypatch, capsys):
    for stage in ("ppo-ptx", "ppo", "sft"):
        assert chat(monkeypatch, [], "runs/mine") == 0
        assert f"mine/{stage} (" in capsys.readouterr().out.replace("\\", "/")
        shutil.rmtree(finished / stage)


def test_chat_forgets_the_oldest_turns(micro_folder, monkeypatch, capsys):
    """Ten turns of 25 tokens are more than the context of 128; the talk goes on."""
    lines = ["Tell me all about the moon, please."] * 10
    assert chat(monkeypatch, lines, str(micro_folder), "--tokens", "10") == 0
    said = capsys.readouterr()
    assert said.out.count("base> ") == 10
    assert said.err == ""


def test_chat_with_a_reward_model_is_refused(finished, monkeypatch, capsys):
    assert chat(monkeypatch, [], "runs/mine/reward") == 2
    assert "it gives scores, not answers" in capsys.readouterr().err


def test_doctor_says_what_is_there(moonlet, capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for expected in ("torch", "peft", "moonlet-1m", "smollm2", "chromium"):
        assert expected in said
    assert torch.__version__.partition("+")[0] in said


def test_fetch_goes_to_the_fetcher(monkeypatch, capsys):
    monkeypatch.setattr(cli, "fetch_smollm2", lambda: "/cache/smollm2")
    assert main(["fetch", "smollm2"]) == 0
    assert capsys.readouterr().out == "/cache/smollm2\n"
