"""The sampler: responses of a role, with the log-probabilities they were drawn with."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, PromptBatch
from minirlhf.engine.reading import open_reader
from minirlhf.engine.records import Demonstration, Prompt
from minirlhf.maths.masked import gather_logprobs, response_mask


class Rollout(NamedTuple):
    """Prompts (padded left) and sampled responses (padded right): two blocks side by side."""

    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool
    response_ids: Tensor  # (B, R)
    response_mask: Tensor  # (B, R) bool, the first EOS counts
    logprobs: Tensor  # (B, R) nats, at the sampling temperature, 0 where masked
    trunk: Tensor | None = None  # (B, P + R, D) what layers below the adapters made of `own` rows

    @property
    def input_ids(self) -> Tensor:
        return torch.cat([self.prompt_ids, self.response_ids], 1)

    @property
    def attention_mask(self) -> Tensor:
        return torch.cat([self.prompt_mask, self.response_mask], 1)

    @property
    def lengths(self) -> Tensor:
        """Response lengths, (B,), tokens, EOS counted."""
        return self.response_mask.sum(1)

    def ended(self, eos_id: int) -> Tensor:
        """(B,) bool: which responses reached EOS."""
        return ((self.response_ids == eos_id) & self.response_mask).any(1)

    def rows(self, index: Tensor) -> "Rollout":
        """The rows that `index` picks, without columns in which all of them are padding."""
        prompt_mask, response_mask = self.prompt_mask[index], self.response_mask[index]
        first, end = int(prompt_mask.any(0).long().argmax()), int(response_mask.sum(1).max())
        width, trunk = prompt_mask.shape[1], self.trunk
        if trunk is not None:  # it has this process's rows alone
            trunk = trunk[index // parallel.world(), first : width + end]
        return Rollout(
            self.prompt_ids[index, first:],
            prompt_mask[:, first:],
            self.response_ids[index, :end],
            response_mask[:, :end],
            self.logprobs[index, :end],
            trunk,
        )


@torch.no_grad()
def sample(
    backbone: Backbone,
    role: str,
    prompts: PromptBatch,
    max_new_tokens: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    samples: int = 1,
) -> Rollout:
    """Draw responses to prompts.

    Each row's luck is one uniform number per token, drawn for the whole batch beforehand: so a
    response does not depend on which rows stand beside it, have ended, or are another process's.

    Args:    role: who answers; max_new_tokens: at most R; generator: on the backbone's device;
             temperature: divides the logits, 0 = take the most likely; top_k: draw from so many of
             the likeliest tokens, 0 = all; top_p: then from the smallest set of tokens with that
             much probability (PPO needs all: its log-probabilities are those of the whole
             distribution); samples: responses to each prompt, side by side, the prompt read once.
    Returns: Rollout of B * samples rows, R = the longest response drawn. All tokens after the
             first EOS are padding.
    """
    ids, mask = prompts
    luck = torch.rand(
        (len(ids), samples, max_new_tokens),
        generator=generator,
        device=ids.device,
        dtype=torch.float64,
    )
    mine = parallel.share(torch.arange(len(ids), device=ids.device))
    reader = open_reader(backbone, role, ids[mine], mask[mine], max_new_tokens)
    if samples > 1:
        reader.pick(torch.arange(len(mine), device=ids.device).repeat_interleave(samples))
    drawn, logprobs = _read_on(
        reader, luck[mine].flatten(0, 1), temperature, top_p, top_k, backbone.tokenizer
    )
    drawn = parallel.together(drawn.unflatten(0, (-1, samples)), len(ids)).flatten(0, 1)
    logprobs = parallel.together(logprobs.unflatten(0, (-1, samples)), len(ids)).flatten(0, 1)
    # Where pad and EOS are one token, only the first of them counts; `response_mask` knows that.
    counted = response_mask(drawn, backbone.tokenizer.eos_token_id)
    longest = int(counted.sum(1).max())
    ids, mask = ids.repeat_interleave(samples, 0), mask.repeat_interleave(samples, 0)
    return Rollout(ids, mask, drawn[:, :longest], counted[:, :longest], logprobs[:, :longest])


def _read_on(reader, luck: Tensor, temperature: float, top_p: float, top_k: int, tokenizer):
    """Token after token until all rows have ended: tokens and their log-probabilities, (B, R).

    R is that of `luck` (B, R); after a row's EOS there is padding.
    """
    drawn = torch.full(luck.shape, tokenizer.pad_token_id, device=luck.device)
    logprobs = torch.zeros(luck.shape, device=luck.device)
    going = torch.arange(len(luck), device=luck.device)  # which rows the reader still has
    for step in range(luck.shape[1]):
        logits = reader.logits if temperature in (0, 1) else reader.logits / temperature
        logp = torch.log_softmax(logits, -1)
        if temperature > 0:
            token = _draw(logp, luck[going, step], top_p, top_k)
        else:
            token = logp.argmax(-1)
        drawn[going, step] = token
        logprobs[going, step] = logp.gather(1, token[:, None]).squeeze(1)
        ongoing = token != tokenizer.eos_token_id
        left = int(ongoing.sum())
        if left == 0 or step == luck.shape[1] - 1:
            break
        if left < len(going):
            going, token = going[ongoing], token[ongoing]
            reader.pick(ongoing.nonzero().squeeze(1))
        reader.read(token)
    return drawn, logprobs


def _draw(logp: Tensor, luck: Tensor, top_p: float, top_k: int) -> Tensor:
    """The token at which the cumulated probability passes `luck` (B,) of its total: (B,)."""
    probs = logp.double().exp()
    if top_p < 1 or top_k > 0:
        ordered, index = probs.sort(-1, descending=True)
        if top_k > 0:
            ordered[:, top_k:] = 0.0
        if top_p < 1:
            ordered[ordered.cumsum(-1) - ordered >= top_p * ordered.sum(-1, keepdim=True)] = 0.0
        probs = torch.zeros_like(probs).scatter(1, index, ordered)
    below = probs.cumsum(-1)
    # strictly above, so that a token without probability is never the first to be there
    token = torch.searchsorted(below, luck[:, None] * below[:, -1:], right=True).squeeze(1)
    return token.clamp(max=probs.shape[-1] - 1)  # beyond the last one where a logit is NaN


def response_logits(backbone: Backbone, role: str, rollout: Rollout, temperature: float) -> Tensor:
    """Logits that predict each response token, divided by the temperature: (B, R, V)."""
    length = rollout.response_ids.shape[1]
    ids, mask = rollout.input_ids, rollout.attention_mask
    logits = backbone.logits(role, ids, mask, keep=length + 1, trunk=rollout.trunk)[:, :-1]
    return logits if temperature == 1 else logits / temperature


def response_logprobs(
    backbone: Backbone, role: str, rollout: Rollout, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities of a rollout's tokens under a role: (B, R) nats, 0 where masked."""
    logits = response_logits(backbone, role, rollout, temperature)
    logprobs = gather_logprobs(logits, rollout.response_ids)
    return torch.where(rollout.response_mask, logprobs, 0.0)


def response_values(backbone: Backbone, role: str, rollout: Rollout) -> Tensor:
    """Value of the state before each response token: (B, R) RM units, 0 where masked."""
    values = backbone.values(role, rollout.input_ids, rollout.attention_mask, rollout.trunk)
    before = values[:, rollout.prompt_ids.shape[1] - 1 : -1]
    return torch.where(rollout.response_mask, before, 0.0)


def response_views(
    backbone: Backbone, role: str, rollout: Rollout, temperature: float
) -> tuple[Tensor, Tensor]:
    """`response_logits` and `response_values` of a role with a head, off the same hidden states."""
    hidden = backbone.hidden(role, rollout.input_ids, rollout.attention_mask, rollout.trunk)
    before = hidden[:, rollout.prompt_ids.shape[1] - 1 : -1]
    logits = backbone.to_logits(role, before)
    values = backbone.heads[role](before.float()).squeeze(-1)
    values = torch.where(rollout.response_mask, values, 0.0)
    return logits if temperature == 1 else logits / temperature, values


@torch.no_grad()
def answers(
    backbone: Backbone,
    role: str,
    encoder: Encoder,
    prompts: list[list[int]],
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 64,
) -> list[tuple[str, bool]]:
    """Answer encoded prompts: (text, whether it reached EOS) for each, in their order."""
    generator = torch.Generator(backbone.device).manual_seed(seed)
    found = []
    for start in range(0, len(prompts), batch_size):
        batch = encoder.prompts(prompts[start : start + batch_size])
        rollout = sample(backbone, role, batch, max_new_tokens, generator, temperature, top_p)
        texts = encoder.text(rollout.response_ids, rollout.response_mask)
        found += zip(texts, rollout.ended(backbone.tokenizer.eos_token_id).tolist(), strict=True)
    return found


@torch.no_grad()
def score_texts(
    backbone: Backbone,
    prompts: Sequence[Prompt | Demonstration],
    responses: Sequence[str],
    batch_size: int = 64,
) -> list[float]:
    """The reward model's scores of responses given as text: RM units, one for each.

    Every text is read as a finished answer, EOS appended, as in the rankings it was trained on;
    whether a sampled answer did end is another question.
    A sampled text may take more tokens to spell than it was drawn with (bytes that are no UTF-8,
    the EOS), so one that is over the context is cut there.
    """
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    texts = parallel.share(list(zip(prompts, responses, strict=True)))
    scores: list[Tensor] = []
    for start in range(0, len(texts), batch_size):
        pairs = []
        for prompt, text in texts[start : start + batch_size]:
            ids = encoder.prompt(prompt, room=1)
            room = encoder.limit - len(ids)
            pairs.append((ids, encoder.response(prompt.prompt, text)[:room]))
        batch = encoder.sequences(pairs)
        scores.append(backbone.scores("reward", batch.input_ids, batch.attention_mask))
    return parallel.together(torch.cat(scores), len(prompts)).tolist() if scores else []
