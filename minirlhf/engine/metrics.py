"""Every metric that a stage reports: what it is, its unit, and where it should lie."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from minirlhf.engine.parallel import main_only
from minirlhf.engine.records import DataError, naming, write_text


class Metric(NamedTuple):
    """One entry of the registry; `healthy` is a rule of thumb in words, not a threshold."""

    formula: str
    unit: str
    healthy: str


METRICS: dict[str, Metric] = {
    # all stages
    "epoch": Metric("passes over the training data", "epochs", "rises"),
    "learning_rate": Metric("Adam's step size now", "1", "as scheduled"),
    "seconds": Metric("wall time of this step", "s", "steady"),
    # supervised fine-tuning
    "train_loss": Metric("-mean log pi(response token)", "nats per token", "falls"),
    "valid_loss": Metric("train_loss on held-out demonstrations", "nats per token", "falls, then may rise while valid_score still does"),
    "valid_score": Metric("mean score of sampled answers to held-out prompts", "score", "rises"),
    # reward model
    "ranking_loss": Metric("mean over prompts of mean over pairs of -log sigmoid(r_w - r_l)", "nats per pair", "below ln 2 = 0.693, the loss of a coin"),
    "pair_accuracy": Metric("share of untied pairs with r_w > r_l", "share", "above 0.5; labelers agree with each other at about 0.73"),
    "valid_ranking_loss": Metric("ranking_loss on held-out prompts", "nats per pair", "near ranking_loss; rising means over-fitting"),
    "valid_pair_accuracy": Metric("pair_accuracy on held-out prompts", "share", "near pair_accuracy"),
    # DPO
    "dpo_loss": Metric("mean over prompts of mean over pairs of -log sigmoid(beta (logratio_w - logratio_l))", "nats per pair", "ln 2 = 0.693 at first, then falls"),
    "valid_dpo_loss": Metric("dpo_loss on held-out prompts", "nats per pair", "falls; rising means over-fitting"),
    "chosen_logratio": Metric("mean over pairs of log pi/pi_ref of the better response", "nats per response", "may fall below 0: only its lead over rejected_logratio is trained"),
    "rejected_logratio": Metric("mean over pairs of log pi/pi_ref of the worse response", "nats per response", "falls below chosen_logratio; tens of nats down mean over-optimisation"),
    # RLOO, GRPO
    "reward_spread": Metric("mean over prompts of the standard deviation of its samples' rewards", "RM units", "above 0: where all samples of a prompt get the same there is nothing to learn"),
    # PPO (most of it RLOO and GRPO too)
    "scores": Metric("mean reward-model score of the sampled responses", "RM units", "rises, then levels off"),
    "rewards": Metric("mean of score - kl_coef * sum_t logratio", "RM units", "rises"),
    "ref_kl": Metric("mean of sum_t (log pi - log pi_ref)", "nats per response", "0 at first, then a few nats; tens of nats mean over-optimisation"),
    "kl_coef": Metric("beta, the price of one nat away from the SFT model (in GRPO's loss: advantage units)", "RM units per nat", "constant, or steered towards target_kl"),
    "response_length": Metric("mean number of counted tokens, EOS included", "tokens", "steady; a steady climb may be reward hacking"),
    "missing_eos": Metric("share of responses cut off before EOS", "share", "near 0"),
    "same_response": Metric("share of pairs of different prompts that got the very same response", "share", "near 0; near 1 means one answer for everything"),
    "length_score_correlation": Metric("correlation of length and score over a rollout's responses that ended", "1", "steady; with a climbing length, above 0.4 means that length is what is paid"),
    "entropy": Metric("mean over tokens of -sum pi log pi", "nats per token", "falls slowly; near 0 means collapse"),
    "policy_loss": Metric("mean over tokens of max(-A ratio, -A clip(ratio))", "advantage units", "near 0; small negative after the first minibatch"),
    "value_loss": Metric("1/2 mean max((V - R)^2, (clip(V) - R)^2)", "RM units squared", "falls"),
    "ptx_loss": Metric("-mean log pi(token) on pretraining text", "nats per token", "steady; rising is the alignment tax"),
    "approx_kl": Metric("mean over tokens of (ratio - 1) - log ratio, old against new policy", "nats per token", "below about 0.02"),
    "clip_fraction": Metric("share of tokens whose clipped term is the larger loss", "share", "0.05 to 0.3"),
    "ratio_error": Metric("max |ratio - 1| before the first step of an update", "1", "below 1e-5 in float32; else sampler and trainer disagree"),
    "advantages": Metric("mean of the advantages before whitening", "RM units", "around 0"),
    "returns": Metric("mean of advantage + value", "RM units", "follows rewards"),
    "explained_variance": Metric("1 - var(returns - values) / var(returns)", "share", "above 0 and rising; 1 is perfect"),
    "policy_grad_norm": Metric("norm of the policy's gradient before clipping", "1", "steady, no spikes"),
    "value_grad_norm": Metric("norm of the value model's gradient before clipping", "1", "steady, no spikes"),
    "policy_learning_rate": Metric("Adam's step size for the policy", "1", "warm-up, then constant"),
    "value_learning_rate": Metric("Adam's step size for the value model", "1", "warm-up, then constant"),
    "penalty_coef": Metric("PPO-penalty's price of KL(old, new); 0 with clipping", "advantage units per nat", "doubles and halves around its target"),
}  # fmt: skip


class MetricsLog:
    """Appends one JSON line per step to a file; refuses a name that the registry does not know."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @main_only
    def restart(self, stage: str, done: int = 0) -> None:
        """Forget the rows of a stage that is about to run again, but not of its steps up to `done`.

        Raises DataError where one of these is not there.
        """
        rows = read_metrics(self.path) if self.path.exists() else []
        rows = [row for row in rows if row["stage"] != stage or row["step"] <= done]
        found = sum(row["stage"] == stage for row in rows)
        if found != done:
            raise DataError(f"{self.path}: holds {found} of the {done} steps that {stage} has done")
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    @main_only
    def write(self, stage: str, step: int, stats: dict[str, float]) -> None:
        unknown = sorted(stats.keys() - METRICS.keys())
        if unknown:
            raise KeyError(f"metric {unknown[0]!r} is not in METRICS")
        row = {"stage": stage, "step": step, **stats}
        with self.path.open("a", encoding="utf-8", newline="\n") as file, naming(self.path):
            file.write(json.dumps(row) + "\n")
            file.flush()  # here a full disk shows, not when the file is closed
            os.fsync(file.fileno())  # a saved state counts on the rows before it


def read_metrics(path: str | Path) -> list[dict]:
    """All rows of a metrics file, in order; a last line that a killed run left torn is dropped.

    Raises DataError that names file and line for any other broken line.
    """
    path = Path(path)
    rows, lines = [], path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise DataError(f"{path}:{number}: broken JSON: {error.msg}") from None
    return rows
