"""Let a system answer held-out prompts, and say how good the answers are."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from minirlhf.engine.backbone import BASE, Backbone
from minirlhf.engine.batches import Encoder
from minirlhf.engine.records import Prompt
from minirlhf.engine.rollout import response_logprobs, sample, score_texts
from minirlhf.evaluation.statistics import mean_interval
from minirlhf.maths.kl import k1

Verdict = dict[str, bool]
JudgeFunction = Callable[[Prompt, str, bool], tuple[float, Verdict]]


@dataclass(frozen=True)
class System:
    """Who answers, and how it is asked.

    `role` answers in the chat template, but the base in plain text: `prefix` + prompt + `suffix`.
    `stop`: a base's answer ends where this text appears, as for GPT-3 on the API.
    """

    name: str
    role: str
    prefix: str = ""
    suffix: str = "\n"
    stop: str = ""

    def plain(self, prompt: Prompt) -> str:
        """The text that a base goes on from; a dialogue's earlier turns are written alike."""
        opening = self.prefix.rpartition("\n")[2]
        joint = "\n\n" if opening else "\n"
        after = self.suffix if self.suffix.endswith("\n") else f"{self.suffix} "
        turns = zip(prompt.history[::2], prompt.history[1::2], strict=True)
        said = "".join(f"{user}{after}{answer}{joint}{opening}" for user, answer in turns)
        return self.prefix + said + prompt.prompt + self.suffix

    def ids(self, encoder: Encoder, prompt: Prompt, room: int) -> list[int]:
        """The prompt's tokens, with `room` for so many more in the context.

        A base's first example loses its beginning where there is no room.
        """
        if self.role != BASE:
            return encoder.prompt(prompt, room)
        return encoder.plain(self.plain(prompt))[room - encoder.limit :]

    def cut(self, text: str, ended: bool) -> tuple[str, bool]:
        """An answer up to `stop`, and whether it ended there or by itself."""
        if not self.stop or self.stop not in text:
            return text, ended
        return text.split(self.stop)[0].strip(), True


@dataclass(frozen=True)
class Answer:
    """One system's answer to one prompt, with what was measured of it."""

    prompt: str
    system: str
    answer: str
    ended: bool
    length: int  # tokens, EOS counted
    score: float | None = None  # RM units
    gold: float | None = None  # the judge's score, 0..1
    verdict: Verdict | None = None
    ref_kl: float | None = None  # nats, log pi(answer) - log pi_ref(answer)


@torch.no_grad()
def answer_prompts(
    backbone: Backbone,
    system: System,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    judge: JudgeFunction | None = None,
    batch_size: int = 64,
) -> list[Answer]:
    """Sample one answer for each prompt; score it with the role `reward` and the judge if there.

    Args:    judge: (prompt, answer, ended) -> (score in [0, 1], verdict), None = no gold judge.
    Returns: answers in the order of the prompts. `ref_kl` is given for roles that answer in the
             chat template, where there is a role `reference`.
    """
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    generator = torch.Generator(backbone.device).manual_seed(seed)
    found: list[Answer] = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        batch = encoder.prompts([system.ids(encoder, p, max_new_tokens) for p in part])
        rollout = sample(backbone, system.role, batch, max_new_tokens, generator, temperature)
        answers = encoder.text(rollout.response_ids, rollout.response_mask)
        ended = rollout.ended(backbone.tokenizer.eos_token_id).tolist()
        kl = [None] * len(part)
        if system.role != BASE and "reference" in backbone.roles:
            # temperature 0 took the likeliest tokens; their log-probabilities are those at 1
            reference = response_logprobs(backbone, "reference", rollout, temperature or 1.0)
            kl = k1(rollout.logprobs, reference).sum(1).tolist()
        for i, prompt in enumerate(part):
            text, stopped = system.cut(answers[i], ended[i])
            whole = text == answers[i]
            length = int(rollout.lengths[i]) if whole else len(encoder.plain(text))
            found.append(
                Answer(
                    prompt.prompt,
                    system.name,
                    text,
                    stopped,
                    length,
                    ref_kl=kl[i],
                )
            )
    return _judged(backbone, prompts, found, judge, batch_size)


def _judged(backbone, prompts, found, judge, batch_size) -> list[Answer]:
    scores: list[float | None] = [None] * len(found)
    if "reward" in backbone.roles:
        scores = score_texts(backbone, prompts, [a.answer for a in found], batch_size)
    judged = []
    for prompt, answer, score in zip(prompts, found, scores, strict=True):
        gold, verdict = judge(prompt, answer.answer, answer.ended) if judge else (None, None)
        judged.append(
            Answer(**{**asdict(answer), "score": score, "gold": gold, "verdict": verdict})
        )
    return judged


def summarise(answers: Sequence[Answer], seed: int = 0) -> dict[str, float | None]:
    """One system's row of the result table: means, the judge's with a bootstrap interval."""
    row: dict[str, float | None] = {
        name: _mean([getattr(a, name) for a in answers]) for name in ("score", "ref_kl", "length")
    }
    if answers[0].gold is not None:
        gold = mean_interval([a.gold for a in answers], seed=seed)
        row |= {"gold": gold.estimate, "gold_low": gold.low, "gold_high": gold.high}
        row |= {name: _mean([a.verdict[name] for a in answers]) for name in answers[0].verdict}
    return row


def _mean(values: Sequence[float | None]) -> float | None:
    return None if values[0] is None else sum(values) / len(values)
