"""From records to padded tensors: chat template, tokenising, padding, batching by length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from minirlhf.engine.records import DataError, Demonstration, Prompt, Ranking

# For a tokenizer that brings no chat template of its own: plain text, no special token but EOS.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\\n' }}"
    "{% else %}{{ 'Assistant: ' + m['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
ROLES = ("user", "assistant")  # they take turns, the user first


class PromptBatch(NamedTuple):
    """Prompts padded on the left, so that responses start in one column."""

    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool, True = counts


class SequenceBatch(NamedTuple):
    """Prompt + response, padded on the right."""

    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T) bool, True = counts
    response_mask: Tensor  # (B, T) bool, True = a token of the response, EOS included


class Tree(NamedTuple):
    """B rows: a prompt once, then all its responses side by side, none of which sees another."""

    input_ids: Tensor  # (B, T)
    positions: Tensor  # (B, T) each response goes on where its prompt ended
    branch: Tensor  # (B, T) 0 = the prompt, k = its k-th response, -1 = padding
    last: Tensor  # (N,) where each response's last token stands, counted through all rows

    @property
    def mask(self) -> Tensor:
        """What looks at what, (B, 1, T, T): the prompt and one's own response, up to oneself."""
        asks, asked = self.branch[:, :, None], self.branch[:, None]
        ones = torch.ones(asks.shape[1], asks.shape[1], dtype=torch.bool, device=asks.device)
        return ((asked == 0) | (asked == asks))[:, None] & ones.tril()


class RankingBatch(NamedTuple):
    """B prompts with up to K ranked responses each, in two layouts that give the same scores."""

    tree: Tree  # each prompt once: less to compute
    sequences: SequenceBatch  # N rows, one for each response: any model reads these
    row: Tensor  # (N,) which prompt a response belongs to
    slot: Tensor  # (N,) which of the K columns it takes
    ranks: Tensor  # (B, K) 1 = best, equal = tied, 0 = empty slot

    def by_prompt(self, scores: Tensor) -> Tensor:
        """Scores (N,) as (B, K), 0 in empty slots."""
        table = scores.new_zeros(self.ranks.shape)
        return table.index_put((self.row, self.slot), scores)


class Encoder:
    """Turns prompts and responses into token ids, for one tokenizer and one length limit.

    Args: tokenizer; limit: context length in tokens; device: where the tensors go.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, device="cpu"):
        self.tokenizer = tokenizer
        self.limit = limit
        self.device = device
        self.template = tokenizer.chat_template or CHAT_TEMPLATE

    def _render(self, messages: list[dict[str, str]], open_turn: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            add_generation_prompt=open_turn,
            tokenize=False,
        )

    def _ids(self, text: str) -> list[int]:
        # not verbose: what is too long is refused below, and in words
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def prompt(self, prompt: Prompt, room: int = 0) -> list[int]:
        """Token ids of a prompt with its history in the chat template, the assistant's turn opened.

        The oldest turns of a long history are left out, so that the response has `room`.
        Raises DataError, naming the prompt's line, where the prompt alone leaves no room.
        """
        texts = [*prompt.history, prompt.prompt]
        messages = [{"role": ROLES[i % 2], "content": text} for i, text in enumerate(texts)]
        for start in range(0, len(messages), 2):
            ids = self._ids(self._render(messages[start:], open_turn=True))
            if len(ids) + room <= self.limit:
                return ids
        return self._within_limit(ids, prompt, room)

    def plain(self, text: str, room: int = 0) -> list[int]:
        """Token ids of bare text, as the pretrained base gets it."""
        # with BOS where the tokenizer adds one: a base without it answers badly
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        ids = ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids
        return self._within_limit(ids, None, room)

    def _within_limit(self, ids: list[int], record, room: int) -> list[int]:
        if len(ids) + room > self.limit:
            where = f"{record.where}: " if record is not None and record.where else ""
            raise DataError(
                f"{where}field 'prompt': has {len(ids)} tokens; with {room} for the response "
                f"that is over the model's context of {self.limit}"
            )
        return ids

    def response(self, prompt: str, response: str) -> list[int]:
        """Token ids of a response as the template writes it, up to and with its first EOS."""
        user = {"role": "user", "content": prompt}
        opened = self._render([user], open_turn=True)
        whole = self._render([user, {"role": "assistant", "content": response}], open_turn=False)
        if not whole.startswith(opened):
            raise DataError("the tokenizer's chat template rewrites the prompt once it is answered")
        ids = self._ids(whole[len(opened) :])
        eos = self.tokenizer.eos_token_id
        return ids[: ids.index(eos) + 1] if eos in ids else [*ids, eos]

    def pair(self, record: Demonstration | Ranking, response: str) -> tuple[list[int], list[int]]:
        """(prompt ids, response ids) of a record; DataError names its line if it is too long."""
        response_ids = self.response(record.prompt, response)
        return self.prompt(record, room=len(response_ids)), response_ids

    def prompts(self, prompts: Sequence[list[int]]) -> PromptBatch:
        """Pad prompts on the left."""
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        ids = [[pad] * (width - len(p)) + p for p in prompts]
        mask = [[False] * (width - len(p)) + [True] * len(p) for p in prompts]
        return PromptBatch(self._tensor(ids), self._tensor(mask))

    def sequences(self, pairs: Sequence[tuple[list[int], list[int]]]) -> SequenceBatch:
        """Pad (prompt ids, response ids) pairs on the right."""
        width = max(len(p) + len(r) for p, r in pairs)
        pad = self.tokenizer.pad_token_id
        ids, mask, response = [], [], []
        for p, r in pairs:
            gap = width - len(p) - len(r)
            ids.append(p + r + [pad] * gap)
            mask.append([True] * (len(p) + len(r)) + [False] * gap)
            response.append([False] * len(p) + [True] * len(r) + [False] * gap)
        return SequenceBatch(*map(self._tensor, (ids, mask, response)))

    def rankings(self, rankings: Sequence[Ranking]) -> RankingBatch:
        """All responses of some rankings as one batch; a prompt has room for its longest one."""
        prompts, responses, row, slot = [], [], [], []
        width = max(len(r.ranks) for r in rankings)
        for b, ranking in enumerate(rankings):
            found = [self.response(ranking.prompt, text) for text in ranking.responses]
            prompts.append(self.prompt(ranking, room=max(map(len, found))))
            responses.append(found)
            row += [b] * len(found)
            slot += range(len(found))
        pairs = [(prompts[b], responses[b][k]) for b, k in zip(row, slot, strict=True)]
        ranks = [[*r.ranks] + [0] * (width - len(r.ranks)) for r in rankings]
        return RankingBatch(
            self._tree(prompts, responses),
            self.sequences(pairs),
            *map(self._tensor, (row, slot, ranks)),
        )

    def _tree(self, prompts: list[list[int]], responses: list[list[list[int]]]) -> Tree:
        width = max(len(p) + sum(map(len, r)) for p, r in zip(prompts, responses, strict=True))
        ids, positions, branches, last = [], [], [], []
        for prompt, texts in zip(prompts, responses, strict=True):
            row, place, branch = [*prompt], [*range(len(prompt))], [0] * len(prompt)
            for number, text in enumerate(texts, start=1):
                row += text
                place += range(len(prompt), len(prompt) + len(text))
                branch += [number] * len(text)
                last.append(len(ids) * width + len(row) - 1)
            gap = width - len(row)
            ids.append(row + [self.tokenizer.pad_token_id] * gap)
            positions.append(place + [0] * gap)
            branches.append(branch + [-1] * gap)
        return Tree(*map(self._tensor, (ids, positions, branches, last)))

    def _tensor(self, values) -> Tensor:
        return torch.tensor(values, device=self.device)

    def text(self, response_ids: Tensor, response_mask: Tensor) -> list[str]:
        """Decode the counted tokens of responses, without special tokens, stripped."""
        return [
            self.tokenizer.decode(ids[mask], skip_special_tokens=True).strip()
            for ids, mask in zip(response_ids, response_mask, strict=True)
        ]


class Passes:
    """Goes over data again and again, in a random order that can be saved and gone on with.

    Args:  draw: (generator) -> what one pass hands out, in its order; seed: of the generator,
           which draws nothing else.
    """

    def __init__(self, draw: Callable[[torch.Generator], Iterable], seed: int):
        self._draw, self._generator = draw, torch.Generator().manual_seed(seed)
        self._begin()

    def _begin(self) -> None:
        self._before, self._position = self._generator.get_state(), 0
        self._pass = list(self._draw(self._generator))

    def __iter__(self) -> "Passes":
        return self

    def __next__(self):
        if self._position == len(self._pass):
            self._begin()
        self._position += 1
        return self._pass[self._position - 1]

    def state(self) -> dict[str, Any]:
        """The generator as it was before this pass, and how much has been handed out since."""
        return {"generator": self._before, "position": self._position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._generator.set_state(state["generator"])
        self._begin()
        self._position = state["position"]


def length_grouped_batches(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """One epoch of batches of indices whose lengths are alike, in random order.

    Shuffles, cuts into pools of 16 batches and sorts within a pool: padding all but vanishes and
    a batch still differs from epoch to epoch.
    """
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), pool := 16 * batch_size):
        near = sorted(order[start : start + pool], key=lambda i: lengths[i])
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index]


def packed_blocks(texts: Sequence[str], tokenizer, length: int) -> Tensor:
    """Documents joined with EOS between them and cut into full blocks: (N, length) int64."""
    ids: list[int] = []
    for encoded in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
        ids += [*encoded, tokenizer.eos_token_id]
    count = len(ids) // length
    if count == 0:
        raise DataError(f"the texts have {len(ids)} tokens, fewer than one block of {length}")
    return torch.tensor(ids[: count * length]).view(count, length)
