"""The ladder of base models: one corpus, several sizes, and what each size has learned."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from minirlhf.engine.backbone import BASE
from minirlhf.engine.bookmark import Bookmark
from minirlhf.engine.checkpoint import put_right, whole_folder
from minirlhf.engine.lock import WriteLock
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError, write_text
from minirlhf.engine.settings import write_settings
from minirlhf.evaluation.evaluate import System, answer_prompts
from minirlhf.evaluation.plots import scaling_curve
from minirlhf.evaluation.statistics import Interval, wilson_interval
from minirlhf.pipeline import Progress, no_progress
from minirlhf.stages.pretrain import (
    LADDER,
    PretrainConfig,
    Pretraining,
    document_loss,
    new_model,
    train_tokenizer,
)
from minirlhf.world.almanac import load_almanac
from minirlhf.world.corpus import corpus
from minirlhf.world.judge import Judge
from minirlhf.world.prompts import fact_of, few_shot_prefix, prompts

HELD_OUT_SEED = 10**6  # no run is likely to pretrain on the documents of this seed


def make_base(
    config: PretrainConfig, folder: Path, progress: Progress = no_progress, resume: bool = False
) -> LlamaForCausalLM:
    """Corpus, tokenizer, model: saved in `folder` as transformers and tokenizers save them.

    Args:    resume: go on where it was stopped, if anything was saved by then.
    Raises:  DataError where the folder is there already, or another process makes it.
    """
    bookmark = Bookmark(folder.with_name(f"{folder.name}.state.safetensors"), {"pretrain": config})
    with WriteLock(folder):
        put_right(folder)
        if folder.exists():
            bookmark.remove()  # saved, and then killed
            raise DataError(f"{folder}: is there already; choose another --out")
        if resume and bookmark.file.is_file():
            bookmark.read()
        texts = list(corpus(load_almanac(), config.documents, config.seed))
        tokenizer = train_tokenizer(texts, config.vocabulary, config.context_length)
        model = new_model(config, tokenizer)
        steps = Pretraining(config, model, tokenizer, texts)
        done = bookmark.restore("pretrain", steps)
        steps_left = bookmark.follow("pretrain", steps, done)
        for _ in progress(steps_left, len(steps) - done, folder.name):
            pass
        with whole_folder(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            write_settings(partial / "settings.yaml", {"pretrain": config})
        bookmark.remove()
    return model


@torch.no_grad()
def measure_base(name: str | Path, questions: int = 300, documents: int = 500) -> dict[str, Any]:
    """What a base model has learned.

    Returns: `parameters`; `loss`, nats per token of new documents on the same facts; `bare` and
             `prompted`: the share of facts that it states truthfully when asked as is or after
             three examples, at temperature 1, with Wilson's interval.
    """
    backbone = load_backbone(str(name))
    tokenizer, almanac = backbone.tokenizer, load_almanac()
    texts = list(corpus(almanac, documents, HELD_OUT_SEED))
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ids = [[*d, tokenizer.eos_token_id][: backbone.context_length] for d in encoded]
    total = 0.0
    for start in range(0, len(ids), 50):
        part = ids[start : start + 50]
        loss = document_loss(backbone.model, part, tokenizer.pad_token_id)
        total += loss.item() * sum(len(d) - 1 for d in part)
    judge = Judge(almanac)
    asked = random.Random("ladder").sample(prompts(almanac.facts), questions)

    def truth(prompt, answer, ended):
        verdict = judge(fact_of(almanac, prompt), answer, ended)
        return verdict.score, verdict.flags

    row: dict[str, Any] = {
        "parameters": backbone.sizes()[BASE].parameters,
        "loss": total / sum(len(d) - 1 for d in ids),
    }
    for system in (
        System("bare", BASE),
        System("prompted", BASE, few_shot_prefix(almanac), "\nA:", stop="\n"),
    ):
        found = answer_prompts(backbone, system, asked, 40, seed=0, judge=truth)
        row[system.name] = wilson_interval(sum(a.verdict["true"] for a in found), len(found))
    return row


def climb(
    folder: Path, sizes: Sequence[str], progress: Progress = no_progress, resume: bool = False
) -> list[dict]:
    """Make the named rungs of LADDER and measure each; `ladder.json` and `ladder.png` grow along.

    Args:    resume: go on where it was stopped; rungs that are there are measured, not made.
    Returns: for each rung its `model` and what `measure_base` found.
    Raises:  DataError where a rung is there already.
    """
    rows: list[dict] = []
    for name in sizes:
        if not (resume and (folder / name).is_dir()):
            make_base(LADDER[name], folder / name, progress, resume)
        rows.append({"model": name, **measure_base(folder / name)})
        write_text(folder / "ladder.json", json.dumps(rows, indent=1))
        scaling_curve(rows).savefig(folder / "ladder.png", dpi=130, facecolor="white")
    return rows


def ladder_row(row: dict[str, Any]) -> tuple[str, ...]:
    """A model's measurements in words: name, parameters, loss, bare and prompted shares."""
    shares = [Interval(*row[name]) for name in ("bare", "prompted")]
    said = [f"{s.estimate:.0%} [{s.low:.0%}, {s.high:.0%}]" for s in shares]
    return (row["model"], f"{row['parameters']:,}", f"{row['loss']:.3f}", *said)
