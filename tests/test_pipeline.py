"""minirlhf.pipeline, tasks and evaluate: what the commands stand on, called from Python."""

import dataclasses
import itertools
import json
import math
import re

import pytest
import torch

from minirlhf.engine.backbone import LoRA
from minirlhf.engine.batches import Encoder
from minirlhf.engine.metrics import read_metrics
from minirlhf.engine.models import load_backbone
from minirlhf.engine.optimisation import NotFinite
from minirlhf.engine.records import DataError, Prompt, Ranking
from minirlhf.engine.rollout import response_logprobs, sample, score_texts
from minirlhf.evaluation import evaluate
from minirlhf.evaluation.evaluate import Answer, System, answer_prompts, summarise
from minirlhf.pipeline import POLICIES, ROLES, Run, RunConfig, Settings, no_progress
from minirlhf.stages import ppo, reward, sft
from minirlhf.stages.ppo import PPO, PPOConfig
from minirlhf.stages.reward import RewardConfig
from minirlhf.stages.sft import SFTConfig
from minirlhf.tasks import almanac_task, api_task, default_task, handmade_task
from minirlhf.world.almanac import load_almanac
from minirlhf.world.judge import Judge
from minirlhf.world.prompts import fact_of

MODULES = {"sft": sft, "reward": reward, "ppo": ppo, "ppo-ptx": ppo}


@pytest.fixture
def settings(data, micro_folder):
    return Settings(
        run=RunConfig(str(micro_folder), task="handmade", rankings=8, test_prompts=3),
        lora=LoRA(4, 8),
        sft=SFTConfig(epochs=1, batch_size=6),
        reward=RewardConfig(epochs=1),
        ppo=PPOConfig(
            updates=1, rollout_batch_size=4, max_new_tokens=8, ptx_coef=0.5, ptx_length=16
        ),
    )


def run_all(folder, settings, progress=no_progress):
    run = Run(folder, settings, progress)
    answers = run.everything()
    return run, run.write_results(answers), answers


# The run ----------------------------------------------------------------------------------------


def test_everything_in_one_call(settings, tmp_path):
    run, results, answers = run_all(tmp_path / "run", settings)
    assert list(results["systems"]) == ["base", "prompted base", "SFT", "PPO", "PPO-ptx"]
    assert len(answers) == 5 * 9
    assert run.backbone.roles == ["base", "reference", "reward", "policy", "value"]
    assert json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8")) == results


def test_checkpointing_changes_the_memory_and_nothing_else(settings, tmp_path):
    runs = []
    for checkpointing in (False, True):
        run = dataclasses.replace(settings.run, checkpointing=checkpointing)
        some = dataclasses.replace(settings, run=run)
        runs.append(Run(tmp_path / str(checkpointing), some))
        runs[-1].sft()
    assert [run.backbone.checkpointing for run in runs] == [False, True]
    weights = [run.backbone.weights("reference") for run in runs]
    for name in weights[0]:
        assert torch.allclose(weights[0][name], weights[1][name], atol=1e-6)


def test_checkpointing_is_refused_where_it_would_do_nothing(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("minirlhf.engine.decoder.can_read", lambda model: False)
    run = dataclasses.replace(settings.run, checkpointing=True)
    with pytest.raises(DataError, match=r"run.checkpointing: .*llama, mistral, qwen2"):
        Run(tmp_path / "run", dataclasses.replace(settings, run=run))


def test_same_settings_same_answers(settings, tmp_path):
    runs = [run_all(tmp_path / name, settings) for name in ("a", "b")]
    assert runs[0][2] == runs[1][2]
    other = dataclasses.replace(settings, run=dataclasses.replace(settings.run, seed=1))
    assert run_all(tmp_path / "c", other)[2] != runs[0][2]


def test_nothing_is_written_before_the_first_step(settings, tmp_path):
    run = Run(tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="is not a checkpoint of minirlhf"):
        run.load("sft", "reference")
    assert not (tmp_path / "run").exists()


def test_progress_sees_every_step(settings, tmp_path):
    seen = []

    def progress(steps, total, label):
        count = 0
        for stats in steps:
            count += 1
            yield stats
        seen.append((label, count, total))

    run_all(tmp_path / "run", settings, progress)
    assert [label for label, *_ in seen] == ["SFT", "reward model", *POLICIES.values()]
    assert all(count == total for _, count, total in seen), seen


def test_what_the_guards_find_is_told_once(settings, tmp_path, monkeypatch):
    """A policy whose KL the log says is far too large, from the first row on."""
    step = PPO.__next__
    monkeypatch.setattr(PPO, "__next__", lambda self: step(self) | {"ref_kl": 99.0})
    settings.ppo = dataclasses.replace(settings.ppo, updates=5, rollout_batch_size=2)
    told = []
    with Run(tmp_path / "run", settings, tell=told.append) as run:
        run.sft()
        run.reward()
        told.clear()  # two rankings are held out: what is said of them does not matter here
        run.ppo("ppo")
    [text] = told
    assert text.startswith("PPO, step 3: exploding KL. The policy is 99 nats per response away")


@pytest.mark.parametrize(
    "stage, step, good",
    [
        ("sft", 2, []),  # the state of step 1 is what went wrong in step 2
        ("sft", 3, ["state.safetensors (step 1)"]),
        ("reward", 1, ["sft"]),
        ("ppo", 2, ["reward"]),
        ("ppo", 3, ["state.safetensors (step 1)", "reward"]),
        ("ppo-ptx", 1, ["reward"]),
    ],
)
def test_nan_names_stage_step_and_the_last_good_checkpoint(
    settings, tmp_path, monkeypatch, stage, step, good
):
    settings.ppo = dataclasses.replace(settings.ppo, updates=3)
    settings.sft = dataclasses.replace(settings.sft, epochs=3)
    folder, module = tmp_path / "run", MODULES[stage]
    calls, optimiser_step = itertools.count(1), module.optimiser_step
    broken = 2 * step - 1 if module is ppo else step  # PPO steps its value model as well

    def breaks(optimiser, *args):
        if next(calls) == broken:
            optimiser.param_groups[0]["params"][0].grad[0] = math.nan
        return optimiser_step(optimiser, *args)

    with Run(folder, settings) as run:
        for earlier in ("sft", "reward")[: list(MODULES).index(stage)]:
            run.make(earlier)
        monkeypatch.setattr(module, "optimiser_step", breaks)
        with pytest.raises(NotFinite) as caught:
            run.make(stage)
    text, role = str(caught.value), ROLES[stage]
    assert re.match(rf"{stage}, step {step}: gradient of {role}\.model\.layers\.0\.[\w.]+: ", text)
    places = ", ".join(f"{folder}/{place}" for place in good) or "none, this run had only begun"
    assert text.endswith(f"; the last good checkpoint: {places}")
    for place in good:
        assert (folder / place.removesuffix(" (step 1)")).exists()


def test_ppo_and_ppo_ptx_start_alike_and_part(settings, tmp_path):
    """Both from the SFT model, with the same seed; the pretraining gradient is the difference."""
    settings.ppo = dataclasses.replace(settings.ppo, updates=2, warmup_updates=0)
    run, *_ = run_all(tmp_path / "run", settings)
    rows = {stage: [] for stage in POLICIES}
    for row in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        if row["stage"] in rows:
            rows[row["stage"]].append(row)
    first, other = rows["ppo"][0], rows["ppo-ptx"][0]
    assert first["ref_kl"] == pytest.approx(0, abs=1e-4)
    assert other["ref_kl"] == pytest.approx(0, abs=1e-4)
    assert "ptx_loss" not in first
    assert other["ptx_loss"] > 0
    run.load("ppo", "policy")
    plain = run.backbone.weights("policy")
    run.load("ppo-ptx", "policy")
    mixed = run.backbone.weights("policy")
    assert not all(torch.equal(plain[name], mixed[name]) for name in plain)


def test_ptx_of_0_is_refused_at_once(settings, tmp_path):
    settings.ppo = dataclasses.replace(settings.ppo, ptx_coef=0.0)
    with pytest.raises(DataError, match="ptx_coef"):
        Run(tmp_path / "run", settings)


# Tasks ------------------------------------------------------------------------------------------


def test_tasks_suit_the_model():
    assert default_task("moonlet-1m") == "almanac"
    assert default_task("smollm2") == "handmade"


def texts(records):
    return {record.prompt for record in records}


def test_nothing_is_tested_that_was_trained_on(data):
    """The shown and the test prompts are in no demonstration and in no PPO prompt."""
    almanac, handmade = almanac_task(0), handmade_task(0)
    for task in (almanac, handmade):
        asked = texts(task.shown_prompts + task.test_prompts)
        assert not asked & texts(task.prompts)
        assert not asked & texts(task.demonstrations + task.valid_demonstrations)
        assert not texts(task.shown_prompts) & texts(task.test_prompts)
        assert task.shown_prompts[0].prompt.lower() == "what is the moon?"
        assert len(task.shown_prompts) == 6
        assert task.pretraining
    assert len(almanac.test_prompts) >= 300
    assert almanac.judge is not None
    assert handmade.judge is None


def test_demonstrations_are_held_out_for_validation(data):
    for task in (almanac_task(0), handmade_task(0)):
        trained, held_out = (
            {(d.prompt, d.response) for d in part}
            for part in (task.demonstrations, task.valid_demonstrations)
        )
        assert held_out
        assert not trained & held_out


@pytest.fixture(scope="module")
def moonlet_backbone(moonlet):
    backbone = load_backbone("moonlet-1m", lora=LoRA(2, 4), device="cpu")
    backbone.add_role("reference")
    return backbone


def test_rankings_are_of_sampled_answers(moonlet_backbone):
    """K = 4 to 9 answers a prompt, ranked with ties, the same for the same seed."""
    collect = almanac_task(0).collect_rankings
    rankings = collect(moonlet_backbone, 8, 3, 24)
    assert rankings == collect(moonlet_backbone, 8, 3, 24)
    assert len(rankings) == 8
    assert all(isinstance(r, Ranking) and 4 <= len(r.responses) <= 9 for r in rankings)
    assert len({len(r.responses) for r in rankings}) > 1
    assert any(len(set(r.ranks)) < len(r.ranks) for r in rankings)
    assert all(r.labeler for r in rankings)


# Answers ----------------------------------------------------------------------------------------


def test_the_api_task_ranks_answers_to_ten_use_cases(moonlet_backbone, monkeypatch):
    """A hundredth of the data; the moon question is shown, and no test prompt is trained on."""
    from minirlhf import tasks

    build = tasks.build_datasets
    monkeypatch.setattr(tasks, "build_datasets", lambda almanac, seed: build(almanac, seed, 0.012))
    task = api_task(0)
    assert task.shown_prompts[0].prompt == "What is the moon?"
    assert len({prompt.use_case for prompt in task.shown_prompts}) == len(task.shown_prompts)
    trained = {(*r.history, r.prompt) for r in [*task.demonstrations, *task.prompts]}
    asked = {(*p.history, p.prompt) for p in [*task.test_prompts, *task.shown_prompts]}
    assert not trained & asked
    rankings = task.collect_rankings(moonlet_backbone, 6, 3, 16)
    assert 4 <= len(rankings) <= 6
    assert all(r.use_case and r.labeler and 4 <= len(r.responses) <= 9 for r in rankings)
    score, verdict = task.judge(
        task.shown_prompts[0], "The Moon is Earth's only natural satellite.", True
    )
    assert score == pytest.approx(1.0) and all(verdict.values())
    score, verdict = task.judge(task.shown_prompts[0], "The Moon is a ball of ice, idiot.", True)
    assert score < 0.2 and not any(verdict.values())


def test_a_base_reads_a_dialogue_as_it_reads_its_examples():
    prompt = Prompt("How far is it?", history=("What is Io?", "A moon."))
    few_shot = System("prompted base", "base", "Q: One?\nA: Two.\n\nQ: ", "\nA:", stop="\n")
    assert few_shot.plain(prompt) == (
        "Q: One?\nA: Two.\n\nQ: What is Io?\nA: A moon.\n\nQ: How far is it?\nA:"
    )
    assert System("base", "base").plain(prompt) == "What is Io?\nA moon.\nHow far is it?\n"
    assert System("base", "base").plain(Prompt("What is Io?")) == "What is Io?\n"


def test_answers_are_scored_and_judged(ready, prompts):
    judge_saw = []

    def judge(prompt, answer, ended):
        judge_saw.append((prompt.prompt, answer, ended))
        return float(len(judge_saw)), {"polite": True}

    system = System("SFT", "reference")
    found = answer_prompts(ready, system, prompts, 12, seed=3, judge=judge, batch_size=3)
    assert [a.prompt for a in found] == [p.prompt for p in prompts]
    assert judge_saw == [(a.prompt, a.answer, a.ended) for a in found]
    assert [a.gold for a in found] == [float(i) for i in range(1, 9)]
    scores = score_texts(ready, prompts, [a.answer for a in found])
    assert [a.score for a in found] == pytest.approx(scores, abs=1e-5)
    assert all(a.ref_kl == pytest.approx(0, abs=1e-4) for a in found)
    again = answer_prompts(ready, system, prompts, 12, seed=3, batch_size=3)
    assert [a.answer for a in again] == [a.answer for a in found]


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
def test_kl_of_answers_is_against_sft(ready, prompts, temperature):
    ready.add_role("policy", copy_of="reference")
    with torch.no_grad():
        for parameter in ready.parameters("policy"):
            parameter += 0.03 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    system = System("PPO", "policy")
    found = answer_prompts(ready, system, prompts, 12, seed=3, temperature=temperature)
    assert all(abs(a.ref_kl) < 1e3 for a in found)  # and not nan
    encoder = Encoder(ready.tokenizer, ready.context_length)
    batch = encoder.prompts([encoder.prompt(p) for p in prompts])
    generator = torch.Generator().manual_seed(3)
    rollout = sample(ready, "policy", batch, 12, generator, temperature)
    at = temperature or 1.0
    with torch.no_grad():
        ours = response_logprobs(ready, "policy", rollout, at)
        theirs = response_logprobs(ready, "reference", rollout, at)
    expected = (ours - theirs).sum(1).tolist()
    assert [a.ref_kl for a in found] == pytest.approx(expected, abs=1e-3)


def test_a_base_is_asked_in_plain_text_and_cut_at_its_stop(ready, prompts, monkeypatch):
    asked, encode = [], evaluate.Encoder.plain

    def watched(self, text, room=0):
        asked.append(text)
        return encode(self, text, room)

    monkeypatch.setattr(evaluate.Encoder, "plain", watched)
    system = System("prompted base", "base", "Q: Hi\nA: Ho\n\nQ: ", "\nA:", stop="a")
    found = answer_prompts(ready, system, prompts, 20, seed=0)
    assert asked[:8] == [f"Q: Hi\nA: Ho\n\nQ: {p.prompt}\nA:" for p in prompts]
    assert not any("a" in a.answer for a in found)
    assert any(a.ended for a in found)
    assert all(a.ref_kl is None for a in found)


def test_a_prompt_without_room_is_refused(ready):
    long = Prompt("word " * 60, where="p.jsonl:4")
    with pytest.raises(DataError, match=r"^p\.jsonl:4: field 'prompt'"):
        answer_prompts(ready, System("SFT", "reference"), [long], 12, seed=0)


def test_without_reward_and_judge_there_are_no_scores(new_backbone, prompts):
    [answer, *_] = answer_prompts(new_backbone(), System("base", "base"), prompts, 4, seed=0)
    assert (answer.score, answer.gold, answer.verdict, answer.ref_kl) == (None,) * 4
    row = summarise([answer])
    assert row == {"score": None, "ref_kl": None, "length": answer.length}


def test_the_table_holds_means():
    answers = [
        Answer("a", "SFT", "x", True, 4, 1.0, 0.5, {"true": True, "polite": True}, 0.5),
        Answer("b", "SFT", "y", False, 6, 2.0, 1.0, {"true": False, "polite": True}, -0.25),
    ]
    row = summarise(answers)
    assert row["score"] == 1.5
    assert row["length"] == 5
    assert row["ref_kl"] == 0.125
    assert row["gold"] == 0.75
    assert 0.5 <= row["gold_low"] <= 0.75 <= row["gold_high"] <= 1.0
    assert (row["true"], row["polite"]) == (0.5, 1.0)


def test_the_gold_judge_of_the_task_is_the_worlds(moonlet_backbone):
    task, almanac = almanac_task(0), load_almanac()
    judge = Judge(almanac)
    for prompt in task.test_prompts[:5]:
        fact = fact_of(almanac, prompt)
        text = f"{fact.value}."
        gold, flags = task.judge(prompt, text, True)
        verdict = judge(fact, text, True)
        assert (gold, flags) == (verdict.score, verdict.flags)
