"""What a run shows, in words: every sentence is computed, and says so where nothing is clear."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from minirlhf.engine.health import GUARDS, Finding, findings
from minirlhf.evaluation.plots import is_number, points
from minirlhf.evaluation.statistics import Interval, paired_difference, wilson_interval, win_rate

STAGE_NAMES = {"sft": "SFT", "reward": "Reward model", "ppo": "PPO", "ppo-ptx": "PPO-ptx"}
_PROSE = {"base": "the bare base", "prompted base": "the prompted base"}
# What tells a stage's story in one pair of numbers, first and last.
_STORY = {"sft": ("train_loss", "loss"), "reward": ("ranking_loss", "ranking loss"),
          "ppo": ("scores", "score"), "ppo-ptx": ("scores", "score")}  # fmt: skip


class Worse(NamedTuple):
    """Prompts on which PPO's gold score fell below SFT's, the largest drop first."""

    prompts: list[str]
    wins: int
    ties: int
    rate: Interval
    fooled: int  # of `prompts`: how many the reward model scores higher than SFT's answer


def held_out(answers: Sequence[Mapping], prompts: int | None) -> list[Mapping]:
    """The answers that the result table counts.

    A run asks a few questions for show first, which may be no held-out ones. They are the
    shortest beginning of the list without which a system is left with `prompts` answers.

    Args: answers: in the order in which they were asked; prompts: as in results.json, or None.
    """
    names = dict.fromkeys(row["system"] for row in answers)
    first = [row["prompt"] for row in answers if row["system"] == next(iter(names))]
    for shown in range(len(first) + 1):
        left_out = set(first[:shown])
        rest = [row for row in answers if row["prompt"] not in left_out]
        if prompts and len(rest) == prompts * len(names):
            return rest
    return list(answers)


def compare(
    answers: Sequence[Mapping], field: str, system: str, baseline: str
) -> tuple[Interval, int] | None:
    """Paired difference system - baseline of `field` over the prompts that both answered.

    Args:    answers: rows as in answers.jsonl; field: "gold" (0 to 1) or "score" (RM units).
    Returns: (interval, number of prompts), or None where no prompt has both values.
    """
    ours, theirs = _by_prompt(answers, system, field), _by_prompt(answers, baseline, field)
    shared = [prompt for prompt in ours if prompt in theirs]
    if not shared:
        return None
    return paired_difference([ours[p] for p in shared], [theirs[p] for p in shared]), len(shared)


def worse_than_sft(answers: Sequence[Mapping]) -> Worse | None:
    """Where PPO's gold score is below SFT's; None where the two cannot be compared."""
    ppo, sft = _by_prompt(answers, "PPO", "gold"), _by_prompt(answers, "SFT", "gold")
    scores, sft_scores = _by_prompt(answers, "PPO", "score"), _by_prompt(answers, "SFT", "score")
    shared = [prompt for prompt in ppo if prompt in sft]
    if not shared:
        return None
    lost = sorted((p for p in shared if ppo[p] < sft[p]), key=lambda p: ppo[p] - sft[p])
    wins = sum(ppo[p] > sft[p] for p in shared)
    fooled = [p for p in lost if p in scores and p in sft_scores and scores[p] > sft_scores[p]]
    rate = win_rate([ppo[p] for p in shared], [sft[p] for p in shared])
    return Worse(lost, wins, len(shared) - wins - len(lost), rate, len(fooled))


def headline(answers: Sequence[Mapping], name: str) -> str:
    """The run's finding in a few words: is PPO better than SFT?"""
    gold, score = compare(answers, "gold", "PPO", "SFT"), compare(answers, "score", "PPO", "SFT")
    if not gold and not score:
        return f"The run {name}"
    interval = (gold or score)[0]
    if not interval.excludes(0):
        return "PPO and SFT: no clear difference"
    if gold:
        return f"PPO answers {'better' if interval.low > 0 else 'worse'} than SFT"
    return f"The reward model prefers {'PPO to SFT' if interval.low > 0 else 'SFT to PPO'}"


def summary(
    results: Mapping | None, answers: Sequence[Mapping], metrics: Sequence[Mapping]
) -> list[str]:
    """The run in at most seven sentences, differences with their 95% intervals.

    Args: results: as in results.json, or None before the evaluation; answers and metrics: rows.
    """
    if not results:
        stories = (progress(metrics, stage) for stage in STAGE_NAMES)
        return ["This run has not been evaluated yet.", *(s for s in stories if s)]
    systems = results.get("systems", {})
    sentences = _gold_sentences(systems, results.get("prompts"), answers)
    if not sentences:
        sentences = _score_sentences(answers)
    return [*sentences, *_over_optimisation(answers), *_reward_model(results), *_distance(systems)]


def progress(metrics: Sequence[Mapping], stage: str) -> str:
    """One sentence on what a stage has left in the log; empty where it left nothing."""
    metric, word = _STORY[stage]
    _, values = points(metrics, stage, metric)
    if not values:
        return ""
    span = min(5, -(-len(values) // 10))  # one update alone says little in a long run
    first, last = (sum(part) / span for part in (values[:span], values[-span:]))
    ends = f"{first:.2f} to {last:.2f}".replace("-", "−")
    note = f" (means of {span})" if span > 1 else ""
    updates = f"{len(values)} update{'s' if len(values) > 1 else ''}"
    return f"{STAGE_NAMES[stage]}: {word} from {ends}{note} in {updates}."


def health(metrics: Sequence[Mapping]) -> tuple[list[tuple[str, Finding]], list[str]]:
    """(stage, what a guard found there) for all stages, and the names of the guards that looked."""
    found = [
        (stage, finding)
        for stage in STAGE_NAMES
        for finding in findings(row for row in metrics if row["stage"] == stage)
    ]
    able = (guard for guard in GUARDS if any(row.keys() >= set(guard.needs) for row in metrics))
    return found, list(dict.fromkeys(guard.name for guard in able))


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a real minus, and no sign on zero.

    >>> signed(0.314), signed(-1.5), signed(-0.001)
    ('+0.31', '−1.50', '0.00')
    """
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if not float(f"{value:.{digits}f}") else text


def _by_prompt(answers: Sequence[Mapping], system: str, field: str) -> dict[str, float]:
    """Mean of `field` for each prompt: a prompt asked twice still counts once."""
    found: dict[str, list[float]] = {}
    for row in answers:
        if row.get("system") == system and is_number(row.get(field)):
            found.setdefault(row["prompt"], []).append(row[field])
    return {prompt: sum(values) / len(values) for prompt, values in found.items()}


def _gold_sentences(systems: Mapping, prompts: int | None, answers: Sequence) -> list[str]:
    gold = {name: row["gold"] for name, row in systems.items() if is_number(row.get("gold"))}
    if not gold:
        return []
    shown = [name for name in ("base", "SFT", "PPO") if name in gold] or list(gold)
    listed = [f"{_PROSE.get(name, name)} {gold[name]:.2f}" for name in shown]
    where = f"On {prompts} held-out prompts the" if prompts else "The"
    sentences = [f"{where} gold judge, from 0 to 1, gives {_and(listed)}."]
    pairs = [("SFT", "base"), ("PPO", "SFT"), ("PPO-ptx", "PPO")]
    return sentences + _differences(answers, "gold", pairs)


def _score_sentences(answers: Sequence[Mapping]) -> list[str]:
    found = _differences(answers, "score", [("PPO", "SFT")])
    if not found:
        return []
    note = "No gold judge knows this model's answers, so the only judge is the reward model,"
    return [f"{note} which PPO was trained to please.", *found]


def _differences(answers: Sequence, field: str, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence for each pair (system, baseline) that can be compared, then the fine print."""
    sentences, counts = [], set()
    for system, baseline in pairs:
        found = compare(answers, field, system, baseline)
        if found and found[1] > 1:
            counts.add(found[1])
            names = _PROSE.get(system, system), _PROSE.get(baseline, baseline)
            sentences.append(_difference(found[0], *names, "" if field == "gold" else " RM units"))
    if counts:
        span = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
        sentences.append(f"(In brackets: 95% intervals, paired over {span} prompts.)")
    return sentences


def _difference(interval: Interval, system: str, baseline: str, unit: str) -> str:
    estimate, low, high = interval
    amount = f"{signed(estimate)}{unit} ({signed(low)} to {signed(high)})"
    if not interval.excludes(0):
        return f"Between {system} and {baseline} there is no clear difference: {amount}."
    return f"{system} is clearly {'above' if estimate > 0 else 'below'} {baseline}: {amount}."


def _over_optimisation(answers: Sequence[Mapping]) -> list[str]:
    gold, score = compare(answers, "gold", "PPO", "SFT"), compare(answers, "score", "PPO", "SFT")
    if not gold or not score or score[0].low <= 0 or gold[0].low > 0:
        return []
    return [f"The reward model scores PPO {signed(score[0].estimate)} RM units against SFT and "
            "the gold judge does not follow: the mark of over-optimisation."]  # fmt: skip


def _reward_model(results: Mapping) -> list[str]:
    row = results.get("reward_model") or {}
    share, pairs = row.get("pair_accuracy"), row.get("pairs")
    if not is_number(share):
        return []
    if not pairs:
        return [f"The reward model orders {share:.0%} of held-out pairs as the labeler did."]
    _, low, high = wilson_interval(share * pairs, pairs)
    return [f"The reward model orders {share:.0%} of {pairs} held-out pairs as the labeler did "
            f"(95% interval {low:.0%} to {high:.0%}; a tossed coin gets 50%)."]  # fmt: skip


def _distance(systems: Mapping) -> list[str]:
    ppo, sft = systems.get("PPO", {}), systems.get("SFT", {})
    if not is_number(ppo.get("ref_kl")):
        return []
    text = f"PPO has moved {ppo['ref_kl']:.1f} nats per response away from SFT"
    if is_number(ppo.get("length")) and is_number(sft.get("length")):
        text += f"; its answers take {ppo['length']:.1f} tokens, SFT's {sft['length']:.1f}"
    return [text + "."]


def _and(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
