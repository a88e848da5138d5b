"""study.tax: items are what they say, log-probabilities are those of a slow loop."""

import re
from itertools import islice
from statistics import mean

import pytest
import torch
from transformers import AutoTokenizer

from minirlhf.engine.backbone import BASE, Backbone
from minirlhf.engine.models import load_backbone
from minirlhf.ladder import HELD_OUT_SEED
from minirlhf.stages.pretrain import LADDER, document_loss, new_model
from minirlhf.study import tax
from minirlhf.study.tax import (
    TASKS,
    Item,
    chances,
    measure_tax,
    option_logprobs,
    page_losses,
    tasks,
)
from minirlhf.world.almanac import load_almanac
from minirlhf.world.corpus import corpus
from minirlhf.world.lore import Lore
from minirlhf.world.text import normalise

ALMANAC = load_almanac()
MADE = tasks(ALMANAC, 60)


@pytest.fixture(scope="module")
def lore():
    return Lore(ALMANAC)


def pages(count):
    return list(corpus(ALMANAC, count, HELD_OUT_SEED))


@torch.no_grad()
def slow_logprob(backbone, role, context, option):
    """One text at a time, all logits, one token after the other."""
    ids = torch.tensor([context + option])
    with backbone.active(role) as model:
        logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
    first = len(context)
    return sum(logp[first + i - 1, token].item() for i, token in enumerate(option))


# Log-probabilities --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [BASE, "reference"])
def test_options_against_one_text_at_a_time(ready, role):
    items = [*MADE["cloze"][:3], *MADE["kind"][:3], *MADE["reading"][:2]]
    found = option_logprobs(ready, role, items, batch_size=4)
    encode = ready.tokenizer.encode
    for item, own in zip(items, found, strict=True):
        options = [encode(option) for option in item.options]
        room = ready.context_length - max(map(len, options))
        context = encode(item.context)[-room:]
        assert own == pytest.approx(
            [slow_logprob(ready, role, context, option) for option in options], abs=2e-4
        )


def test_a_context_that_is_too_long_loses_its_beginning(backbone):
    options = (" Jupiter.", " the Sun, of course.")
    long = Item("x y z " * 300 + "Io orbits", options, 0)
    room = backbone.context_length - max(len(backbone.tokenizer.encode(o)) for o in options)
    kept = backbone.tokenizer.encode(long.context)[-room:]
    found = option_logprobs(backbone, BASE, [long])[0]
    slow = [slow_logprob(backbone, BASE, kept, backbone.tokenizer.encode(o)) for o in options]
    assert found == pytest.approx(slow, abs=2e-4)


@pytest.mark.parametrize("role", [BASE, "reference"])
def test_pages_against_one_page_at_a_time(ready, role):
    texts = pages(12)
    found = page_losses(ready, role, texts, batch_size=5)
    eos = ready.tokenizer.eos_token_id
    for text, page in zip(texts, found, strict=True):
        ids = [*ready.tokenizer.encode(text), eos][: ready.context_length]
        assert page.tokens == len(ids) - 1
        assert page.nats == pytest.approx(-slow_logprob(ready, role, ids[:1], ids[1:]), abs=2e-3)
        if len(ids) < ready.context_length:  # every character but those of the first token
            first = ready.tokenizer.decode(ids[:1])
            assert page.characters == len(text) - len(first)


def test_means_are_the_loss_of_pretraining(new_backbone):
    backbone = new_backbone()
    found = measure_tax(backbone, BASE, count=10)
    documents = [
        [*backbone.tokenizer.encode(text), backbone.tokenizer.eos_token_id][:128]
        for text in pages(10)
    ]
    with torch.no_grad():
        loss = document_loss(backbone.model, documents, backbone.tokenizer.pad_token_id)
    assert mean(found["nats_per_token"]) == pytest.approx(loss.item(), rel=1e-5)
    ratio = mean(found["nats_per_token"]) / mean(found["nats_per_character"])
    losses = page_losses(backbone, BASE, pages(10))
    assert ratio == pytest.approx(sum(p.characters for p in losses) / sum(p.tokens for p in losses))


def test_the_same_items_for_every_role(new_backbone):
    backbone = new_backbone()
    backbone.add_role("policy")  # an update of zero: exactly the base
    one, two = (measure_tax(backbone, role, count=8) for role in (BASE, "policy"))
    assert list(one) == ["nats_per_token", "nats_per_character", *TASKS]
    assert {len(values) for values in one.values()} == {8}
    for name in TASKS:
        assert one[name] == two[name]
        assert set(one[name]) <= {0.0, 1.0}
    assert one["nats_per_token"] == pytest.approx(two["nats_per_token"], abs=1e-5)
    assert one != measure_tax(backbone, BASE, count=8, seed=1)


def test_right_is_what_has_the_highest_logprob(new_backbone, monkeypatch):
    backbone = new_backbone()
    said = {}

    def rigged(backbone, role, items, batch_size):
        """The right option first in the first half of the items, last in the others."""
        half = len(items) // 2
        said["items"] = items
        return [
            [-1.0 if (k == item.right) == (i < half) else -2.0 for k in range(len(item.options))]
            for i, item in enumerate(items)
        ]

    monkeypatch.setattr(tax, "option_logprobs", rigged)
    found = measure_tax(backbone, BASE, count=6)
    for name in TASKS:
        assert found[name] == [1.0] * 3 + [0.0] * 3


# Items --------------------------------------------------------------------------------------------


def test_options_differ_and_say_different_things():
    for name, items in MADE.items():
        for item in items:
            assert len({normalise(option) for option in item.options}) == len(item.options), name
            assert 0 <= item.right < len(item.options)
            assert not item.context.endswith(" ")
    assert all(len(item.options) == 5 for item in MADE["kind"])
    places = [item.right for item in MADE["kind"]]
    assert len(set(places)) == 5  # the right one stands anywhere


def test_chances_are_those_of_guessing():
    found = chances(60)
    assert found["kind"] == pytest.approx(0.2)
    for name in ("cloze", "reading"):
        assert found[name] == mean(1 / len(item.options) for item in MADE[name])
        assert 0.2 <= found[name] < 0.3


def test_cloze_goes_on_truly_in_one_way_only(lore):
    held_out = pages(400)
    for item in MADE["cloze"]:
        page = next(page for page in held_out if page.startswith(item.context))
        assert page.startswith(item.context + item.options[item.right])
        sentence = item.context.splitlines()[-1]
        for k, option in enumerate(item.options):
            line = re.split(r"(?<=[.?!]) ", sentence)[-1] + option
            line = re.sub(r"^(?:[-*•] |[^ ]{1,12}: )", "", line)
            statuses = {claim.status for claim in lore.claims(line)}
            assert ("true" in statuses) == (k == item.right), (line, statuses)
        value = normalise(item.options[item.right])
        words = normalise(item.context)
        assert all(words[i : i + len(value)] != value for i in range(len(words)))


def test_kinds_are_those_of_the_almanac():
    kinds = {subject.name.lower(): subject.kind for subject in ALMANAC.subjects}
    for item in MADE["kind"]:
        *shown, asked = item.context.splitlines()
        for line in shown:
            name, kind = line.split(": ")
            assert kinds[name.lower()] == kind
        name = asked.removesuffix(":")
        assert item.options[item.right] == f" {kinds[name.lower()]}\n"
        assert name not in "\n".join(shown)


def test_only_the_passage_tells(lore):
    for item in MADE["reading"]:
        head, passage, blank, *_, answer = item.context.splitlines()
        assert (head, blank, answer) == ("Read the text.", "", "A:")
        told = normalise(passage)
        assert not lore.subjects_in(passage.split()[0])
        present = [
            any(told[i : i + len(words)] == words for i in range(len(told)))
            for words in (normalise(option.removeprefix(" In ")) for option in item.options)
        ]
        words = item.options[item.right]
        assert present[item.right] or words.startswith((" For", " To", " At", " It", " Like")), item
    assert len({item.context for item in MADE["reading"]}) == 60


def test_a_longer_draw_begins_with_the_shorter_one():
    assert {name: items[:7] for name, items in MADE.items()} == tasks(ALMANAC, 7)
    assert tasks(ALMANAC, 7) != tasks(ALMANAC, 7, seed=1)


def test_context_and_option_are_encoded_as_the_whole_text_is(moonlet):
    tokenizer = AutoTokenizer.from_pretrained(moonlet)
    for items in MADE.values():
        for item in items:
            for option in item.options:
                whole = tokenizer.encode(item.context + option)
                assert whole == tokenizer.encode(item.context) + tokenizer.encode(option)


# Who has read the corpus knows more ---------------------------------------------------------------


def test_a_base_that_has_read_beats_guessing(moonlet):
    read = load_backbone(str(moonlet))
    blank = Backbone(new_model(LADDER["moonlet-1m"], read.tokenizer), read.tokenizer)
    found, other = measure_tax(read, BASE, count=120), measure_tax(blank, BASE, count=40)
    guessing = chances(120)
    for name in TASKS:
        spread = (guessing[name] * (1 - guessing[name]) / 120) ** 0.5  # of a guesser's share
        assert mean(found[name]) > guessing[name] + 2 * spread, name
        assert mean(other[name]) < guessing[name] + 5 * spread, name
    assert mean(found["nats_per_token"]) < 1.0
    assert mean(other["nats_per_token"]) > 5.0


def test_items_are_not_those_of_training():
    trained_on = set(corpus(ALMANAC, 3000, 0)) | set(corpus(ALMANAC, 500, 1))
    assert not trained_on & set(pages(200))
    assert list(islice(tax.cloze(ALMANAC, 0), 5)) != MADE["cloze"][:5]
