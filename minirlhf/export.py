"""What a run hands on to other tools: plain models without adapters, and its data in TRL's types.

docs/scale.md says what each of them wants.
"""

from pathlib import Path

from minirlhf.engine.checkpoint import (
    CARD,
    export_merged,
    open_checkpoint,
    read_card,
    whole_folder,
)
from minirlhf.engine.records import DataError, Ranking, read_records
from minirlhf.engine.settings import read_settings, with_values
from minirlhf.labeling.formats import export as export_records
from minirlhf.pipeline import POLICIES, RunConfig
from minirlhf.tasks import default_task, load_task


def export(source: str | Path, out: str | Path) -> list[str]:
    """Write one stage of a run as a plain transformers model, or a run with its models and data.

    Args:    source: runs/NAME/STAGE, or runs/NAME; out: a folder that is not there yet.
    Returns: a line on each thing written.
    Raises:  DataError, one line; then nothing is written.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise DataError(f"{out}: is there already; choose another --out")
    if (source / CARD).is_file():
        return [_export_stage(source, out)]
    stages = [source / name for name in ("sft", "reward", *POLICIES)]
    stages = [folder for folder in stages if (folder / CARD).is_file()]
    if not stages:
        raise DataError(f"{source}: is neither a stage's folder nor a run that has one")
    for folder in stages:
        _refuse_quantised(folder)
    with whole_folder(out) as partial:
        lines = [_export_stage(folder, partial / folder.name) for folder in stages]
        lines += _export_data(source, partial / "data")
    return [line.replace(str(partial), str(out)) for line in lines]


def _refuse_quantised(folder: Path) -> None:
    if (kind := read_card(folder)["quantize"]) != "none":
        raise DataError(
            f"{folder}: its base has {kind} weights, and adding the adapter would mean quantising "
            f"them anew; load the {kind} base with transformers and this folder with peft instead"
        )


def _export_stage(folder: Path, out: Path) -> str:
    _refuse_quantised(folder)
    card = read_card(folder)
    export_merged(open_checkpoint(folder, card["role"]), card["role"], out)
    if "score_bias" in card:
        bias = f"our score = its logit {card['score_bias']:+.4f}, `score_bias` in its config"
        return f"{out}: AutoModelForSequenceClassification, {bias}"
    return f"{out}: AutoModelForCausalLM"


def _export_data(run: Path, out: Path) -> list[str]:
    """The data that a run learned from: demonstrations, its rankings, prompts, test prompts."""
    config = with_values(RunConfig(), read_settings(run / "settings.yaml").get("run", {}))
    task = load_task(
        default_task(config.model) if config.task == "auto" else config.task, config.seed
    )
    demonstrations = {"train": task.demonstrations, "valid": task.valid_demonstrations}
    datasets = {
        "sft": (demonstrations, "prompt-completion"),
        "ppo": ({"train": task.prompts, "test": task.test_prompts}, "prompt-only"),
    }
    if (run / "comparisons.jsonl").is_file():
        rankings = read_records(run / "comparisons.jsonl", Ranking)
        held_out = config.held_out(len(rankings))
        pairs = {"train": rankings[held_out:], "valid": rankings[:held_out]}
        datasets["rm"] = (pairs, "preference")
    lines = []
    for name, (splits, dataset_type) in datasets.items():
        splits = {split: records for split, records in splits.items() if records}
        export_records(splits, out / name, dataset_type)
        counts = ", ".join(f"{len(records)} {split}" for split, records in splits.items())
        lines.append(f"{out / name}: {dataset_type}, {counts}")
    return lines
