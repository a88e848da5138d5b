"""minirlhf memory: what it says, what it advises, and the settings for cards."""

import re

import pytest

from minirlhf.cli import build_parser, main, settings_from
from minirlhf.engine import shapes as shapes_module
from minirlhf.engine.memory import peak, usable
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import DataError
from minirlhf.memory_report import advice, ask, job_of

LLAMA = ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--ppo.max-new-tokens", "256"]
SMALL = ["--quantize", "4bit", "--checkpointing", "true"]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(shapes_module, "reachable", lambda source: False)


def settings(*flags):
    return settings_from(build_parser().parse_args(["memory", *flags]))


def said(capsys, *flags):
    assert main(["memory", *flags]) == 0
    return capsys.readouterr().out


def test_what_fits_and_how_much_more_would(capsys):
    text = said(capsys, *LLAMA, *SMALL, "--gpu", "12")
    assert "Llama-3.1-8B: 8,030,261,248 parameters; a 4-bit base, adapters of rank 16" in text
    assert "prompts of up to 256 tokens, responses of up to 256" in text
    for title in ("base", "reference", "policy", "SFT", "reward model", "PPO: sampling"):
        assert re.search(rf"^  {title} +\d", text, re.MULTILINE), title
    assert "It fits: a card of 12 GB has 10.70 GiB for it (0.7 for CUDA and 5% for gaps" in text
    assert re.search(r"--ppo.microbatch-size +\d+   now 4", text)
    assert re.search(r"LoRA on 4 bits, checkpointing +\d+\.\d\d +\d+ +\d+", text)
    assert re.search(r"all weights +\d{3}\.\d\d +- +-", text)


def test_the_rows_of_a_stage_add_up(capsys):
    text = said(capsys, *LLAMA, *SMALL, "--gpu", "12")
    rows = re.findall(r"^  (?:SFT|reward model|PPO: \w+) +([\d. -]+)$", text, re.MULTILINE)
    assert len(rows) == 7  # with ptx, as `minirlhf run` has it
    for row in rows:
        *parts, total = [float(part) if part != "-" else 0.0 for part in row.split()]
        assert sum(parts) == pytest.approx(total, abs=0.05)


def test_a_small_model_on_a_cpu_is_said_in_mib(capsys):
    text = said(capsys)
    assert "moonlet-1m: 1,115,264 parameters; a 32-bit base" in text
    assert "roles, MiB\n  base                       4.3" in text
    assert "prompts of up to 216 tokens" in text  # what the context leaves
    assert "fit" not in text


@pytest.mark.parametrize(
    ("flags", "card", "needed"),
    [
        ([*LLAMA], 24, "--checkpointing true"),
        ([*LLAMA], 12, "--checkpointing true --quantize 4bit"),
        ([*LLAMA, *SMALL, "--ppo.microbatch-size", "64"], 12, "--ppo.microbatch-size"),
        (["--model", "Qwen2.5-0.5B", "--full", "true"], 12, "--full false"),
    ],
)
def test_the_advice_is_good(flags, card, needed):
    question = ask(settings(*flags), card)
    assert peak(question.shapes, question.job) > question.room
    sentence = advice(question)
    assert needed in sentence
    advised = re.fullmatch(r"It would with (.+)\.", sentence).group(1).split()
    followed = ask(settings(*flags, *advised), card)
    assert peak(followed.shapes, followed.job) <= followed.room


def test_where_nothing_helps_a_smaller_model_is_named(capsys):
    text = said(capsys, *LLAMA, "--gpu", "6")
    assert "It does not fit: a card of 6 GB has 5.00 GiB" in text
    name = re.search(r"the largest model of the table that would is ([\w.-]+)\.\n", text).group(1)
    follow = ask(settings("--model", name, *SMALL), 6)
    assert "It would with" in advice(follow) or peak(follow.shapes, follow.job) <= follow.room
    assert "and no model of the table would." in said(capsys, *LLAMA, "--gpu", "1")


def test_a_job_is_what_the_settings_say():
    asked = settings(
        *("--lora.first-layer", "3", "--ppo.value-model", "shared", "--ppo.ema-decay", "0.9"),
        *("--ppo.ptx-length", "32", "--sft.microbatch-size", "99", "--lora.rank", "4"),
    )
    job = job_of(asked, True, 10, 5)
    assert (job.first_layer, job.rank, job.value_model, job.ema) == (3, 4, "shared", True)
    assert (job.ptx_tokens, job.sft_rows, job.prompt_tokens, job.responses) == (32, 32, 10, 5)
    assert job.dropout
    assert not job_of(settings("--ppo.ptx-coef", "0"), True, 10, 5).ptx_tokens


@pytest.mark.parametrize("card", [8, 12, 16, 24])
def test_the_settings_for_a_card_fit_it(card):
    file = str(data_folder() / "settings" / f"gpu-{card}.yaml")
    question = ask(settings("--settings", file), card, responses=6)  # as in the hand-made data
    need = peak(question.shapes, question.job)
    assert question.room == usable(card)
    assert 0.7 * question.room < need <= question.room
    assert question.job.tokens == 512


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--gpu", "nan"], "--gpu: nan must be at least 1"),
        (["--gpu", "0"], "--gpu: 0 must be at least 1"),
        (["--prompt-tokens", "-3"], "--prompt-tokens: -3 must be at least 1"),
        (["--responses", "1"], "--responses: 1 must be at least 2"),
        (
            ["--prompt-tokens", "250"],
            "250 + 40 tokens of prompt and response are over the context of moonlet-1m, 256",
        ),
        (["--model", "who/Knows-9B"], "model 'who/Knows-9B': no folder, not in the table"),
        (["--quantize", "3bit"], "--quantize: '3bit' is none of none, 4bit"),
    ],
)
def test_bad_input_is_one_line(flags, complaint, capsys):
    assert main(["memory", *flags]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_trial_is_printed_beside_the_sums(micro_folder, capsys):
    flags = ["--model", str(micro_folder), "--ppo.rollout-batch-size", "4", "--sft.batch-size", "2"]
    sizes = ["--ppo.microbatch-size", "2", "--sft.microbatch-size", "2", "--ppo.ptx-coef", "0"]
    few = ["--reward.microbatch-size", "1", "--prompt-tokens", "24", "--ppo.max-new-tokens", "8"]
    text = said(capsys, *flags, *sizes, *few, "--trial")
    rows = re.findall(r"^  (?:SFT|reward model|PPO: \w+)( +[\d.]+){3}$", text, re.MULTILINE)
    ratios = [float(row) for row in rows]
    assert len(ratios) == 6
    assert all(0.85 < ratio < 1.2 for ratio in ratios)


def test_quantising_and_full_tuning_exclude_each_other():
    with pytest.raises(DataError, match="4-bit weights cannot be trained in full"):
        ask(settings("--full", "true", "--quantize", "4bit"), 12)
