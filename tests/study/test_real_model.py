"""The section on a real model, with a micro model in its place."""

from dataclasses import replace
from graphlib import TopologicalSorter

import pytest

from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Ranking, read_records
from minirlhf.study import training
from minirlhf.study.answering import read_json
from minirlhf.study.graph import do, everything
from minirlhf.study.plan import QUICK
from minirlhf.study.sections import real_model

PLAN = replace(QUICK, real_folds=3, real_updates=1)


@pytest.fixture
def micro(data, micro_folder, monkeypatch):
    monkeypatch.setattr(real_model, "MODEL", str(micro_folder))
    monkeypatch.setattr(real_model, "TOKENS", 8)
    monkeypatch.setattr(real_model, "is_fetched", lambda: True)
    for cache in (training.world, real_model.folds):
        cache.cache_clear()
    yield
    for cache in (training.world, real_model.folds):
        cache.cache_clear()


def test_no_prompt_is_in_two_parts(micro):
    parts = real_model.folds(3)
    rankings = read_records(data_folder() / "comparisons" / "rankings.jsonl", Ranking)
    assert sorted(r.prompt for part in parts for r in part) == sorted(r.prompt for r in rankings)
    asked = [p.prompt for p in real_model.asked(3, 0)]
    assert len({*asked}) == len(asked) and {r.prompt for r in parts[0]} <= {*asked}
    trained = {p.prompt for p in training.world("handmade").prompts}
    trained |= {r.prompt for part in parts[1:] for r in part}
    assert trained.isdisjoint(asked)


def test_answers_stand_side_by_side(micro, tmp_path):
    graph = {job: job.needs for job in everything(real_model.jobs(PLAN))}
    assert len(graph) == 1 + 3 + 1 + 1  # SFT, a reward model for each part, PPO, answers
    for job in TopologicalSorter(graph).static_order():
        do(job, tmp_path)
    for fold in range(3):  # learns from the other parts alone
        job = real_model.reward_job(PLAN, 0, fold)
        found = read_json(tmp_path / job.folder / "results.json")
        assert (found["rankings"], len(found["valid"]["prompts"])) == (8, 4)
    section = real_model.report(PLAN, tmp_path)
    ticked, answers = section.tables
    assert [row[0] for row in ticked.rows][:3] == ["ended", "whole", "own turn"]
    gains = [row[-1] for row in answers.rows]
    assert len(gains) == real_model.SHOWN and gains == sorted(gains)
    assert "over 12 prompts; 3 models, each learned from the other parts" in section.sentences[0]


def test_what_is_shown_goes_from_the_greatest_loss_to_the_greatest_gain():
    def row(prompt, score):
        return {"prompt": prompt, "answer": f"{prompt}\n!", "score": score, "ticked": {}}

    scores = [(3.0, i / 10) for i in range(20)] + [(0.0, 1.0)]  # SFT's, PPO's
    sft, ppo = ([row(f"p{i}", s[k]) for i, s in enumerate(scores)] for k in (0, 1))
    rows = real_model.side_by_side(sft, ppo).rows
    gains = [gain for *_, gain in rows]
    assert len(rows) == 10 and gains == sorted(gains)
    assert rows[0] == ["p0", "p0 / !", "p0 / !", -3.0] and rows[-1][0] == "p20"


def test_without_the_model_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(real_model, "is_fetched", lambda: False)
    assert real_model.jobs(PLAN) == []
    said = real_model.report(PLAN, tmp_path).sentences
    assert said == ["Left out: smollm2 is not here (`minirlhf fetch smollm2`)."]
