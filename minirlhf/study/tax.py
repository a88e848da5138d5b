"""The alignment tax: what a role can still do of what the base learned from its pages.

The paper tried GPT-3 and InstructGPT on public tasks that nobody had sent to its API, and found
that PPO had unlearned some of them (Ouyang et al. 2022, section 4.2, arXiv:2203.02155). Here the
tasks are pages of the corpus that no model has read, taken up in the middle: plain text without
the chat template, nothing sampled, all by log-probabilities.

`perplexity` the page as it stands; `cloze` the end of a sentence that states a fact; `kind` the
kind of a thing after five others with theirs (classification); `reading` a question on a passage
about something made up, so that only it can tell. Verdicts on claims, true or false, stand in the
corpus too, but no moonlet has learned to give them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor

from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder
from minirlhf.engine.reading import PlainReader, Reader, open_reader
from minirlhf.ladder import HELD_OUT_SEED
from minirlhf.maths.masked import gather_logprobs
from minirlhf.world.almanac import Almanac, load_almanac, short_answer, statement
from minirlhf.world.corpus import corpus
from minirlhf.world.desk import Desk
from minirlhf.world.schoolbook import made_up
from minirlhf.world.text import capitalise, contains, normalise, sentences

WRONG = 4  # options beside the right one
KINDS_SHOWN = 5


class Item(NamedTuple):
    """A text, and ways to go on with it; `right` is the index of the right one."""

    context: str
    options: tuple[str, ...]
    right: int


class PageLoss(NamedTuple):
    """A page's loss in nats, over so many tokens (EOS counted) and characters."""

    nats: float
    tokens: int
    characters: int


def measure_tax(
    backbone: Backbone, role: str, count: int = 200, seed: int = 0, batch_size: int = 32
) -> dict[str, list[float]]:
    """How a role does on `count` items of each task; the same items for every role.

    Returns: for each measure one number per item, in the items' order, so that two roles can be
             compared item by item. `nats_per_token` and `nats_per_character` (lower is better)
             are a page's nats over the mean length of all pages: their means are the loss per
             token and per character of the whole text. The names of TASKS: 1.0 where the right
             option was the likeliest, else 0.0.
    """
    almanac = load_almanac()
    pages = list(corpus(almanac, count, HELD_OUT_SEED + seed))
    losses = page_losses(backbone, role, pages, batch_size)
    tokens, characters = mean(p.tokens for p in losses), mean(p.characters for p in losses)
    found = {
        "nats_per_token": [page.nats / tokens for page in losses],
        "nats_per_character": [page.nats / characters for page in losses],
    }
    for name, items in tasks(almanac, count, seed).items():
        logprobs = option_logprobs(backbone, role, items, batch_size)
        found[name] = [
            float(max(own) == own[item.right]) for item, own in zip(items, logprobs, strict=True)
        ]
    return found


def chances(count: int = 200, seed: int = 0) -> dict[str, float]:
    """For each task the share of right answers that guessing would give, in (0, 1)."""
    made = tasks(load_almanac(), count, seed)
    return {name: mean(1 / len(item.options) for item in items) for name, items in made.items()}


def tasks(almanac: Almanac, count: int, seed: int = 0) -> dict[str, list[Item]]:
    """`count` items of each of TASKS, of text that no run is likely to have been trained on."""
    return {
        name: list(islice(write(almanac, HELD_OUT_SEED + seed), count))
        for name, write in TASKS.items()
    }


# Items ------------------------------------------------------------------------------------------


def cloze(almanac: Almanac, seed: int) -> Iterator[Item]:
    """Pages up to the last words of a true statement, which do not stand in the page before."""
    desk = Desk(almanac, seed)
    known = {
        statement(fact, form): fact
        for fact in almanac.facts
        for form, words in enumerate(fact.wording.statements)
        if words.endswith(" {value}.")
    }
    for page in corpus(almanac, seed=seed):
        found = []
        for sentence in dict.fromkeys(_sentences(page)):
            fact = known.get(sentence)
            if fact is not None:
                # the page up to the value, without the space before it
                context = page[: page.index(sentence) + len(sentence) - len(fact.value) - 2]
                if not contains(normalise(context), normalise(fact.value)):
                    found.append((context, fact))
        if found:
            context, fact = desk.rng.choice(found)
            others = desk.rng.sample(desk.values(fact.wording), len(desk.values(fact.wording)))
            wrong = _distinct([*fact.falsehoods, *others], fact.accepted)
            yield _item(desk, context, f" {fact.value}.", [f" {value}." for value in wrong])


def _sentences(page: str) -> Iterator[str]:
    """A page's sentences without what stands before them in a list or talk: "- ", "A: "."""
    for sentence in sentences(page):
        yield re.sub(r"^(?:[-*•] |[^ ]{1,12}: )", "", sentence)


def kind(almanac: Almanac, seed: int) -> Iterator[Item]:
    """Names with their kinds, as in `schoolbook.sorted_things`; the last kind is to be told."""
    desk = Desk(almanac, seed)
    kinds = sorted({subject.kind for subject in almanac.subjects})
    while True:
        *shown, asked = desk.rng.sample(almanac.subjects, KINDS_SHOWN + 1)
        lines = [f"{capitalise(s.name)}: {s.kind}" for s in shown] + [f"{capitalise(asked.name)}:"]
        # "planet" or "dwarf planet" would leave open which of the two a word begins
        others = [k for k in kinds if k not in asked.kind and asked.kind not in k]
        wrong = desk.rng.sample(others, WRONG)
        yield _item(desk, "\n".join(lines), f" {asked.kind}\n", [f" {other}\n" for other in wrong])


def reading(almanac: Almanac, seed: int) -> Iterator[Item]:
    """A passage, one question with its answer and another, as in `schoolbook.reading`.

    Half of the wrong answers are values of the same relation that the passage does not tell, the
    other half are values that it tells in answer to other questions.
    """
    desk = Desk(almanac, seed)
    while True:
        told = list(made_up(desk, desk.subject()).facts)
        passage = " ".join(desk.state(fact) for fact in told)
        first, asked = desk.rng.sample(told, 2)
        context = (
            f"Read the text.\n{passage}\n\nQ: {desk.ask(first, 0)}\nA: {short_answer(first)}.\n"
            f"Q: {desk.ask(asked, 0)}\nA:"
        )
        values = desk.rng.sample(desk.values(asked.wording), len(desk.values(asked.wording)))
        untold = [v for v in values if not contains(normalise(passage), normalise(v))]
        elsewhere = [fact.value for fact in told if fact is not asked]
        wrong = _distinct(untold, [asked.value])[: WRONG // 2]
        wrong = _distinct([*wrong, *desk.rng.sample(elsewhere, len(elsewhere))], [asked.value])
        options = [f" {short_answer(asked, value)}." for value in (asked.value, *wrong)]
        yield _item(desk, context, options[0], options[1:])


def _distinct(values: Iterable[str], but: Iterable[str]) -> list[str]:
    """The first WRONG values that say something else than one another and than `but`."""
    seen, found = {normalise(value) for value in but}, []
    for value in values:
        if normalise(value) not in seen:
            seen.add(normalise(value))
            found.append(value)
    return found[:WRONG]


def _item(desk: Desk, context: str, right: str, wrong: Sequence[str]) -> Item:
    options = desk.rng.sample([right, *wrong], 1 + len(wrong))
    return Item(context, tuple(options), options.index(right))


TASKS: dict[str, Callable[[Almanac, int], Iterator[Item]]] = {
    "cloze": cloze,
    "kind": kind,
    "reading": reading,
}


# Log-probabilities ------------------------------------------------------------------------------


@torch.no_grad()
def page_losses(
    backbone: Backbone, role: str, pages: Sequence[str], batch_size: int = 32
) -> list[PageLoss]:
    """What a role makes of pages, each from its second token to its EOS, cut at the context.

    The same tokens count as in pretraining and in `ladder.measure_base`.
    """
    tokenizer, limit = backbone.tokenizer, backbone.context_length
    encoder = Encoder(tokenizer, limit, backbone.device)
    encoded = tokenizer(list(pages), add_special_tokens=False, verbose=False)["input_ids"]
    documents = [[*ids, tokenizer.eos_token_id][:limit] for ids in encoded]
    found: dict[int, PageLoss] = {}
    for part in _by_length(documents, batch_size):
        batch = encoder.sequences([(documents[i][:1], documents[i][1:]) for i in part])
        logits = backbone.logits(role, batch.input_ids, batch.attention_mask)[:, :-1]
        logprobs = gather_logprobs(logits, batch.input_ids[:, 1:])
        nats = torch.where(batch.response_mask[:, 1:], -logprobs, 0.0).double().sum(1).tolist()
        for i, own in zip(part, nats, strict=True):
            read = documents[i][1:]
            text = tokenizer.decode(read, skip_special_tokens=True)
            found[i] = PageLoss(own, len(read), len(text))
    return [found[i] for i in range(len(documents))]


@torch.no_grad()
def option_logprobs(
    backbone: Backbone, role: str, items: Sequence[Item], batch_size: int = 32
) -> list[list[float]]:
    """For each item log pi(option | context) of its options, nats, summed over their tokens.

    All options end alike, so the sum is the probability that the text goes on so and no longer.
    (The paper took the mean per token, for answers of any length.) The context is read once; one
    that is too long loses its beginning.
    """
    tokenizer = backbone.tokenizer
    encoder = Encoder(tokenizer, backbone.context_length, backbone.device)
    options = [
        tokenizer(list(item.options), add_special_tokens=False)["input_ids"] for item in items
    ]
    contexts = []
    for item, own in zip(items, options, strict=True):
        ids = tokenizer(item.context, add_special_tokens=False, verbose=False)["input_ids"]
        contexts.append(ids[-(backbone.context_length - max(map(len, own))) :])
    found: dict[int, list[float]] = {}
    for part in _by_length(contexts, batch_size):
        ids, mask = encoder.prompts([contexts[i] for i in part])
        flat = [option for i in part for option in options[i]]
        reader = open_reader(backbone, role, ids, mask, max(map(len, flat)))
        row = [place for place, i in enumerate(part) for _ in options[i]]
        reader.pick(torch.tensor(row, device=ids.device))
        logprobs = iter(_read_out(reader, flat, ids.device).tolist())
        found |= {i: [next(logprobs) for _ in options[i]] for i in part}
    return [found[i] for i in range(len(items))]


def _read_out(
    reader: Reader | PlainReader, options: Sequence[list[int]], device: torch.device
) -> Tensor:
    """Log-probability of each option, one for each row of the reader: (N,) float64 nats."""
    width = max(map(len, options))
    ids = torch.tensor([own + own[-1:] * (width - len(own)) for own in options], device=device)
    lengths = torch.tensor([len(own) for own in options], device=device)
    total = torch.zeros(len(options), dtype=torch.float64, device=device)
    rows = torch.arange(len(options), device=device)
    for step in range(width):
        token = ids[rows, step]
        logp = torch.log_softmax(reader.logits, -1).gather(1, token[:, None]).squeeze(1)
        total[rows] += torch.where(step < lengths[rows], logp.double(), 0.0)
        if step + 1 == width:
            break
        going = step + 1 < lengths[rows]
        # to drop rows copies the cache of all others, so not for a few
        if 2 * going.sum() < len(rows):
            reader.pick(going.nonzero().squeeze(1))
            rows, token = rows[going], token[going]
        reader.read(token)
    return total


def _by_length(sequences: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches whose sequences are about equally long."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
