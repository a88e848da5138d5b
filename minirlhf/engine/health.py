"""Guards over a run's metrics: what goes wrong in RLHF, seen early and said plainly.

Each guard looks at the rows that hold its metrics and compares the last few with the first few, so
that one unlucky rollout does not set it off. Its limits lie clear of what healthy runs do: moonlet
and SmolLM2 at their presets and beyond, over several seeds; the comments say how far those went.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minirlhf.engine.rollout import Rollout

Row = Mapping[str, float]
FIRST, LAST = 3, 5  # rows that stand for a stage's start, and for now
WINDOW = 10  # rows over which something would have moved, had it been alive


class Finding(NamedTuple):
    """One thing that goes wrong in a stage."""

    name: str
    step: int  # at which it showed first, from 1
    saw: str  # one sentence, with the numbers
    advice: str  # one sentence

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}. {self.saw} {self.advice}"


class Guard(NamedTuple):
    """What to look for: `look` returns what it saw, or nothing where all is well."""

    name: str
    needs: tuple[str, ...]  # metrics; rows without them are not looked at
    least: int  # rows
    look: Callable[[Sequence[Row]], str]
    advice: str


def findings(rows: Iterable[Row]) -> list[Finding]:
    """What the guards find in the rows of one stage, each once, in the order in which it showed."""
    watch = Watch()
    return [finding for row in rows for finding in watch.see(row)]


class Watch:
    """Goes along with one stage and reports each finding once, with the step at which it showed.

    Args: earlier: rows that were dealt with before.
    """

    def __init__(self, earlier: Iterable[Row] = ()):
        self._seen: dict[Guard, list[Row]] = {guard: [] for guard in GUARDS}
        self._step = 0
        for row in earlier:
            self.see(row)

    def see(self, row: Row) -> list[Finding]:
        """What the newest row of metrics brings to light."""
        self._step, found = self._step + 1, []
        for guard in GUARDS:
            rows = self._seen.get(guard)
            if rows is None or not all(_is_number(row.get(name)) for name in guard.needs):
                continue
            rows.append(row)
            if len(rows) >= guard.least and (saw := guard.look(rows)):
                del self._seen[guard]
                found.append(Finding(guard.name, self._step, saw, guard.advice))
        return found


# The guards ---------------------------------------------------------------------------------------


def _entropy(rows: Sequence[Row]) -> str:
    first, last = rows[0]["entropy"], _mean(rows[-FIRST:], "entropy")
    # Healthy runs keep a third of what SFT left and more; they stay above 0.2 nats.
    if last > max(0.15 * first, 0.02):
        return ""
    return (
        f"The entropy has fallen from {first:.2g} to {last:.2g} nats per token: the policy no "
        "longer tries anything that it could learn from."
    )


def _one_answer(rows: Sequence[Row]) -> str:
    first, last = rows[0]["same_response"], _mean(rows[-FIRST:], "same_response")
    # Healthy runs stay below 0.01. Where SFT already repeats itself (yes, no), half of the rest.
    if last < (1 + first) / 2:
        return ""
    return f"Two different prompts now get the very same answer in {last:.0%} of cases."


def _distance(rows: Sequence[Row]) -> str:
    kl, length = (_mean(rows[-FIRST:], name) for name in ("ref_kl", "response_length"))
    # Healthy runs reach 0.15 nats per token, and one that had learned to be wordy 0.25.
    if kl < max(0.5 * length, 10):
        return ""
    return (
        f"The policy is {kl:.0f} nats per response away from the SFT model ({kl / length:.1f} per "
        "token): the reward model now judges text unlike any it was trained on."
    )


def _length(rows: Sequence[Row]) -> str:
    names = ("response_length", "scores", "length_score_correlation")
    length, score, _ = (_mean(rows[:FIRST], name) for name in names)
    longer, better, tie = (_mean(rows[-LAST:], name) for name in names)
    if longer < 2 * length or better <= score or tie < 0.4:
        return ""
    return (
        f"Answers have grown from {length:.0f} to {longer:.0f} tokens and the score from "
        f"{score:.2g} to {better:.2g}, and longer answers are those that score (correlation "
        f"{tie:.2f}): it is length that is paid."
    )


def _endless(rows: Sequence[Row]) -> str:
    first, last = (_mean(part, "missing_eos") for part in (rows[:FIRST], rows[-LAST:]))
    # Healthy runs rise by 0.1 at most; SmolLM2 begins at 0.4 and falls.
    if last < first + 0.3:
        return ""
    return f"{last:.0%} of the answers are cut off before they end, at first it was {first:.0%}."


def _value(rows: Sequence[Row]) -> str:
    last = rows[-WINDOW:]
    halves = last[: WINDOW // 2], last[WINDOW // 2 :]
    before, now = (_mean(half, "value_loss") for half in halves)
    # A value model that begins as the reward model is bad at first (down to -11 in healthy runs),
    # but its loss falls from update to update, and before twenty it explains something.
    best = max(row["explained_variance"] for row in last)
    if best > 0 or now < 0.9 * before:
        return ""
    return (
        f"In the last {WINDOW} updates the value model explained nothing of the returns (at best "
        f"{best:.2g} of their variance) and its loss went from {before:.2g} to {now:.2g}."
    )


def _overfitting(name: str) -> Callable[[Sequence[Row]], str]:
    def look(rows: Sequence[Row]) -> str:
        best, last = min(row[name] for row in rows), rows[-1][name]
        # Healthy runs lose up to 5 % to their best epoch.
        if last < 1.1 * best:
            return ""
        return f"On held-out data the loss was {best:.3f} and is {last:.3f} now."

    return look


def _coin(rows: Sequence[Row]) -> str:
    loss, right = rows[-1]["valid_ranking_loss"], rows[-1]["valid_pair_accuracy"]
    if loss < math.log(2) or right > 0.55:
        return ""
    return (
        f"On held-out rankings the loss is {loss:.3f} and {right:.0%} of the pairs are right: a "
        "tossed coin has 0.693 and 50%."
    )


GUARDS = (
    Guard(
        "entropy collapse",
        ("entropy",),
        FIRST,
        _entropy,
        "Go back and lower ppo.policy_learning_rate, or raise ppo.kl_coef.",
    ),
    Guard(
        "one answer for all prompts",
        ("same_response",),
        FIRST,
        _one_answer,
        "Read that answer: the reward likes it whatever the question, so mend the reward, or raise "
        "ppo.kl_coef.",
    ),
    Guard(
        "exploding KL",
        ("ref_kl", "response_length"),
        FIRST,
        _distance,
        "Raise ppo.kl_coef, lower ppo.policy_learning_rate, or stop earlier.",
    ),
    Guard(
        "reward hacking by length",
        ("response_length", "scores", "length_score_correlation"),
        FIRST + LAST,
        _length,
        "Rank short good answers above long bad ones and train the reward model anew, or raise "
        "ppo.kl_coef.",
    ),
    Guard(
        "answers that do not end",
        ("missing_eos",),
        FIRST + LAST,
        _endless,
        "Give ppo.max_new_tokens more room, or make a missing end cost more: "
        "ppo.missing_eos=subtract, or a lower ppo.missing_eos_score.",
    ),
    Guard(
        "dead value function",
        ("explained_variance", "value_loss"),
        WINDOW,
        _value,
        "Raise ppo.value_learning_rate if the loss stands still, lower it if the loss jumps.",
    ),
    Guard(
        "over-fitting",
        ("valid_loss",),
        2,
        _overfitting("valid_loss"),
        "Take fewer sft.epochs, or sft.select=loss; InstructGPT went on, since its answers still "
        "got better.",
    ),
    Guard(
        "over-fitting",
        ("valid_ranking_loss",),
        2,
        _overfitting("valid_ranking_loss"),
        "Take fewer reward.epochs, or more rankings.",
    ),
    Guard(
        "no better than a coin",
        ("valid_ranking_loss", "valid_pair_accuracy"),
        1,
        _coin,
        "Look whether the rankings follow any rule, then raise reward.learning_rate or collect "
        "more of them; PPO on this reward model would follow noise.",
    ),
)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


# What a rollout is asked ------------------------------------------------------------------------


def vital_signs(rollout: Rollout, scores: Tensor, ended: Tensor) -> dict[str, float]:
    """What the guards want to know of a rollout beyond its means.

    Args:    scores (B,), RM units; ended (B,) bool: which responses reached EOS.
    Returns: `same_response`, the share of pairs of different prompts with the very same response,
             and `length_score_correlation` over the responses that ended, since a rule has changed
             the scores of the others; 0 where there is no pair, or nothing varies.
    """
    asked, said = (_labels(ids) for ids in (rollout.prompt_ids, rollout.response_ids))
    different = asked[:, None] != asked
    same = (said[:, None] == said) & different
    length, score = (t[ended] - t[ended].mean() for t in (rollout.lengths.float(), scores))
    spread = (length.norm() * score.norm()).item()
    return {
        "same_response": (same.sum() / different.sum().clamp(min=1)).item(),
        "length_score_correlation": (length @ score).item() / spread if spread > 0 else 0.0,
    }


def _labels(rows: Tensor) -> Tensor:
    """A number for each row, equal where the rows are: (B,)."""
    return torch.unique(rows, dim=0, return_inverse=True)[1]
