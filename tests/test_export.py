"""What a run hands on, loaded by those it is for: plain transformers, `datasets`, TRL 1.16."""

import json
import re
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from minirlhf.cli import main
from minirlhf.engine.batches import Encoder
from minirlhf.engine.checkpoint import CARD, open_checkpoint
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Prompt, Ranking, read_records
from minirlhf.engine.rollout import score_texts
from minirlhf.labeling.formats import import_rows, read_export
from minirlhf.stages.reward import RewardConfig, evaluate
from minirlhf.stages.sft import validation_loss

QUESTION, ANSWERS = "What is Io?", ["A moon of Jupiter.", "", " Who asks?\n"]


@pytest.fixture(scope="module")
def run(_earlier_run):
    return _earlier_run / "mine"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A whole run, handed on."""
    out = tmp_path_factory.mktemp("out") / "handed-on"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIRLHF_DATA", str(run.parents[1] / "data"))
        assert main(["export", str(run), "--out", str(out)]) == 0
    return out


def ids_of(folder, answer):
    """An answered question as any other tool would spell it: with the exported tokenizer alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


# Plain transformers -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage, role", [("sft", "reference"), ("ppo-ptx", "policy")])
def test_plain_transformers_say_what_the_policy_says(run, exported, stage, role):
    ours = open_checkpoint(run / stage, role)
    plain = AutoModelForCausalLM.from_pretrained(exported / stage).eval()
    ids = ids_of(exported / stage, ANSWERS[0])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        theirs = plain(ids).logits
        assert (theirs - ours.logits(role, ids, mask)).abs().max() < 1e-4
        assert (theirs - ours.logits("base", ids, mask)).abs().max() > 1e-2  # the adapter counts
    assert plain.generation_config.eos_token_id == ours.tokenizer.eos_token_id


def test_plain_transformers_score_what_the_reward_model_scores(run, exported):
    ours = open_checkpoint(run / "reward", "reward")
    plain = AutoModelForSequenceClassification.from_pretrained(exported / "reward").eval()
    answers = [answer.strip() for answer in ANSWERS]
    expected = torch.tensor(score_texts(ours, [Prompt(QUESTION)] * len(answers), answers))
    with torch.no_grad():
        logits = [plain(ids_of(exported / "reward", answer)).logits.item() for answer in ANSWERS]
    assert torch.allclose(torch.tensor(logits) + plain.config.score_bias, expected, atol=1e-4)
    assert abs(plain.config.score_bias) > 0.1 and expected.std() > 1e-3


# The data ---------------------------------------------------------------------------------------


def test_the_data_is_what_the_run_learned_from(run, exported):
    found = read_export(exported / "data" / "rm")
    rankings = read_records(run / "comparisons.jsonl", Ranking)  # held-out ones first
    assert [len(found[split]) for split in ("valid", "train")] == [2, 6]
    for before, after in zip(rankings, found["valid"] + found["train"], strict=True):
        assert (before.prompt, before.responses) == (after.prompt, after.responses)
    demonstrations = read_export(exported / "data" / "sft")
    assert {split: len(found) for split, found in demonstrations.items()} == {
        "train": 6,
        "valid": 6,
    }
    assert set(read_export(exported / "data" / "ppo")) == {"train", "test"}


# TRL 1.16: one step of each trainer, whose first figures must be ours -----------------------------


@pytest.fixture
def load(exported, tmp_path):
    """The training rows of an exported dataset, as `datasets` reads them."""
    from datasets import load_dataset

    cache = str(tmp_path / "cache")
    return lambda name: load_dataset(str(exported / "data" / name), split="train", cache_dir=cache)


def settings(folder, **values):
    """One step in float32 on the CPU that leaves nothing behind."""
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    plain = {"max_steps": 1, "use_cpu": True, "bf16": False, "learning_rate": 1e-3}
    return {"output_dir": str(folder), **quiet, **plain, **values}


def test_the_sft_trainer_has_our_loss(run, exported, load, tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = load("sft")
    args = SFTConfig(**settings(tmp_path, per_device_train_batch_size=len(rows)))
    trainer = SFTTrainer(model=str(exported / "sft"), args=args, train_dataset=rows)
    trainer.train()
    ours = open_checkpoint(run / "sft", "reference")
    encoder = Encoder(ours.tokenizer, ours.context_length)
    pairs = [encoder.pair(record, record.response) for record in import_rows(rows)]
    expected = validation_loss(ours, "reference", encoder, pairs, len(pairs))
    assert abs(trainer.state.log_history[0]["loss"] - expected) < 1e-4


def test_the_reward_trainer_has_our_loss(run, exported, load, tmp_path):
    from trl import RewardConfig as TheirConfig
    from trl import RewardTrainer

    pairs = load("rm")
    args = TheirConfig(**settings(tmp_path, per_device_train_batch_size=len(pairs)))
    trainer = RewardTrainer(model=str(exported / "reward"), args=args, train_dataset=pairs)
    before = trainer.model.score.weight.detach().clone()
    trainer.train()
    rankings = import_rows(pairs)
    per_ranking = len(pairs) / len(rankings)  # ours counts rankings alike, theirs pairs
    assert all(pairs["ranking"].count(number) == per_ranking for number in range(len(rankings)))
    ours = open_checkpoint(run / "reward", "reward")
    expected = evaluate(RewardConfig(), ours, rankings)["ranking_loss"]
    assert abs(trainer.state.log_history[0]["loss"] - expected) < 1e-4
    assert not torch.equal(before, trainer.model.score.weight)


def test_the_grpo_trainer_has_our_scores(run, exported, load, tmp_path):
    """Its answers come with the space after the colon; the exported template drops it."""
    from trl import GRPOConfig, GRPOTrainer

    seen = []

    def nothing(prompts, completions, **columns):
        for prompt, completion in zip(prompts, completions, strict=True):
            seen.append((prompt[-1]["content"], completion[0]["content"]))
        return [0.0] * len(prompts)

    rows, group = load("ppo"), {"per_device_train_batch_size": 4, "num_generations": 4}
    args = GRPOConfig(**settings(tmp_path, max_completion_length=8, seed=0, **group))
    rewards = [str(exported / "reward"), nothing]
    trainer = GRPOTrainer(
        str(exported / "sft"), reward_funcs=rewards, args=args, train_dataset=rows
    )
    weight = trainer.model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    trainer.train()
    assert any(answer.startswith(" ") for _, answer in seen)
    ours = open_checkpoint(run / "reward", "reward")
    scores = score_texts(ours, [Prompt(q) for q, _ in seen], [a.strip() for _, a in seen])
    bias = trainer.reward_funcs[0].config.score_bias
    logged = trainer.state.log_history[0]["rewards/reward/mean"]
    assert abs(logged + bias - sum(scores) / len(scores)) < 1e-4
    assert not torch.equal(before, weight)


# One stage, and what is refused -----------------------------------------------------------------


def test_one_stage_is_one_model(run, exported, tmp_path, capsys):
    assert main(["export", str(run / "reward"), "--out", str(tmp_path / "rm")]) == 0
    name = "model.safetensors"
    assert (tmp_path / "rm" / name).read_bytes() == (exported / "reward" / name).read_bytes()
    assert "our score = its logit" in capsys.readouterr().out


def refused(capsys, text, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert text in err and err.count("\n") == 1 and out == ""


def test_a_folder_that_is_there_is_left_alone(run, tmp_path, capsys):
    refused(capsys, "is there already; choose another --out", run, "--out", tmp_path)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    refused(capsys, "is neither a stage's folder nor a run", tmp_path / "no", "--out", out)
    assert not out.exists()


def test_four_bit_bases_are_refused_with_what_to_do(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    card = json.loads((copy / "ppo" / CARD).read_text(encoding="utf-8"))
    (copy / "ppo" / CARD).write_text(json.dumps({**card, "quantize": "4bit"}), encoding="utf-8")
    for source in (copy, copy / "ppo"):
        text = "load the 4bit base with transformers and this folder with peft"
        refused(capsys, text, source, "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_half_a_run_leaves_nothing(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "ppo-ptx" / "adapter_model.safetensors").write_bytes(b"torn")
    refused(capsys, "is damaged", copy, "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# Settings for accelerate ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["processes", "fsdp2", "zero3"])
def test_accelerate_reads_the_settings_that_are_shipped(name):
    """Whether they work is for a machine with several GPUs; here, that no name is misspelt."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import DistributedType

    file = data_folder() / "settings" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.distributed_type == DistributedType(
        {"processes": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[name]
    )
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= known.keys()


def test_the_snippets_of_the_page_run(exported, monkeypatch, tmp_path):
    """docs/scale.md, from a folder that holds `handed-on`."""
    from datasets import load_dataset

    page = (data_folder().parent / "docs" / "scale.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copytree(exported / "data", tmp_path / "handed-on" / "data")
    monkeypatch.chdir(tmp_path)
    for snippet in snippets:
        exec(snippet, {})
    verl = tmp_path / "handed-on" / "data" / "verl"
    rows = load_dataset("parquet", data_files=str(verl / "train.parquet"), split="train")
    assert rows[0]["data_source"] == "minirlhf" and rows[0]["prompt"][0]["role"] == "user"
    rows = load_dataset("parquet", data_files=str(verl / "sft.parquet"), split="train")
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]
