"""A small, made-up run folder: no model has been near these numbers."""

import json
import math
import random
from pathlib import Path

import pytest

from minirlhf.evaluation.report import write_report

HOSTILE = '<script>alert("moon")</script> & <img src=x onerror=1>'
MOON_ANSWERS = {
    "base": ("What is the Moon made of? What is the Sun?", 0.0),
    "prompted base": ("The moon is a place where", 0.2),
    "SFT": ("The Moon is Earth's satellite. It orbits Mars.", 0.4),
    "PPO": ("The Moon is Earth's only natural satellite.", 1.0),
    "PPO-ptx": ("The Moon is Earth's natural satellite, happy to help.", 1.0),
}
QUALITY = {"base": 0.1, "prompted base": 0.3, "SFT": 0.6, "PPO": 0.8, "PPO-ptx": 0.78}
SETTINGS = {
    "sft": {"epochs": 3, "learning_rate": 1e-3, "dropout": 0.2},
    "reward": {"epochs": 1, "learning_rate": 5e-4},
    "ppo": {"episodes": 4096, "kl_coef": 0.05, "clip_range": 0.2, "seed": 7},
}


def _metrics(updates):
    noise = random.Random(1)
    rows = []
    for step in range(updates):
        t = step / updates
        row = {"stage": "sft", "step": step, "train_loss": 2.4 * math.exp(-3 * t) + 0.5}
        if step % 10 == 9:
            row |= {"valid_loss": 2.4 * math.exp(-3 * t) + 0.62, "valid_score": 2 * t - 2.2}
        rows.append(row)
        loss = 0.69 * math.exp(-1.2 * t) + 0.05 * noise.random()
        row = {"stage": "reward", "step": step, "ranking_loss": loss}
        row |= {"pair_accuracy": min(1.0, 0.5 + 0.4 * t + 0.1 * noise.uniform(-1, 1))}
        if step == updates - 1:
            row |= {"valid_ranking_loss": 0.31, "valid_pair_accuracy": 0.84}
        rows.append(row)
    for stage, pull in (("ppo", 1.0), ("ppo-ptx", 0.8)):
        for step in range(updates):
            t, jitter = step / updates, 0.2 * noise.uniform(-1, 1)
            rows.append({
                "stage": stage, "step": step, "scores": -0.4 + 2.4 * pull * t + jitter,
                "ref_kl": 9 * pull * t * t + 0.3 * abs(jitter), "missing_eos": 0.06 * (1 - t),
                "response_length": 19 - 5 * t * pull + jitter * 4, "entropy": 1.1 - 0.7 * t * pull,
                "policy_loss": 0.1 * jitter, "value_loss": 0.8 * math.exp(-3 * t) + 0.1,
                "clip_fraction": 0.09 + 0.2 * jitter * t, "kl_coef": 0.05,
                "ptx_loss": (2.1 + 0.6 * t) if stage == "ppo" else 2.1 + 0.08 * t,
            })  # fmt: skip
    return rows


def _answers(prompts):
    chance = random.Random(2)
    rows = []
    for i in range(prompts):
        prompt = "What is the Moon?" if i == 0 else f"What does body number {i} orbit?"
        for system, quality in QUALITY.items():
            keys = ("on_topic", "true", "complete", "polite", "ended")
            verdict = {key: chance.random() < quality for key in keys}
            answer = f"Body number {i} orbits the Sun, says {system}."
            gold = sum(verdict.values()) / 5
            if i == 0:
                answer, gold = MOON_ANSWERS[system]
                verdict = {key: n < gold * 5 for n, key in enumerate(keys)}
            elif i == 1 and system == "PPO":
                answer = HOSTILE
            score = round(3 * gold - 1 + chance.uniform(-0.5, 0.5), 3)
            rows.append({"prompt": prompt, "system": system, "answer": answer, "score": score,
                         "gold": gold, "verdict": verdict})  # fmt: skip
    return rows


def _mean(rows, key):
    return sum(row[key] for row in rows) / len(rows)


def _results(answers, prompts):
    systems = {}
    for system in QUALITY:
        rows = [row for row in answers if row["system"] == system]
        gold = _mean(rows, "gold")
        systems[system] = {"gold": gold, "gold_low": gold - 0.04321, "gold_high": gold + 0.05123,
                           "score": _mean(rows, "score"), "length": 20.31 - 4 * gold,
                           "ref_kl": 0.0 if system == "SFT" else 3.1 + 7 * gold}  # fmt: skip
        for key in rows[0]["verdict"]:
            systems[system][key] = sum(row["verdict"][key] for row in rows) / len(rows)
    return {"prompts": prompts, "systems": systems,
            "reward_model": {"pair_accuracy": 0.8375, "pairs": 320},
            "seconds": {"sft": 41.2, "reward": 75.0, "ppo": 171.9, "ppo-ptx": 221.4}}  # fmt: skip


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, prompts: int = 12, updates: int = 50) -> Path:
    """Write a complete made-up run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = _answers(prompts)
    write_rows(folder / "metrics.jsonl", _metrics(updates))
    write_rows(folder / "answers.jsonl", answers)
    results = _results(answers, prompts)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "settings.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return folder


@pytest.fixture
def run_folder(tmp_path):
    """A run of one's own, to break."""
    return write_run(tmp_path / "made-up")


@pytest.fixture(scope="session")
def full_run(tmp_path_factory):
    """A run with its report, to look at only."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "made-up")
    write_report(folder)
    return folder
