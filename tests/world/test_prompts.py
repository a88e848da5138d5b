"""Prompts, their facts, and the prefix of the prompted base model."""

import pytest

from minirlhf.engine.records import Prompt
from minirlhf.world.almanac import question, split_facts
from minirlhf.world.prompts import (
    TRAIN_FORMS,
    fact_of,
    few_shot_prefix,
    held_out_prompts,
    prompts,
)


def test_prompts_ask_every_fact_in_every_form_once(almanac):
    made = prompts(almanac.facts)
    assert len(made) == 4 * len(almanac.facts)
    assert len({prompt.id for prompt in made}) == len(made)
    for prompt in made:
        form = int(prompt.id.rsplit("/", 1)[1])
        assert form in TRAIN_FORMS
        assert prompt.prompt == question(fact_of(almanac, prompt), form)


def test_order_depends_on_the_seed_alone(almanac):
    assert prompts(almanac.facts, seed=1) == prompts(almanac.facts, seed=1)
    assert prompts(almanac.facts, seed=1) != prompts(almanac.facts, seed=2)
    assert set(prompts(almanac.facts, seed=1)) == set(prompts(almanac.facts, seed=2))


def test_missing_forms_are_skipped(almanac):
    # "what" and "orbits" have a form 4 here, "discovered" and "made_of" do not.
    made = prompts(almanac.facts, forms=[4])
    assert {fact_of(almanac, p).relation for p in made} == {"what", "orbits"}


def test_held_out_prompts_share_nothing_with_training(shipped):
    train, test = split_facts(shipped)
    trained = {prompt.id for prompt in prompts(train)}
    held = held_out_prompts(shipped)
    assert trained.isdisjoint(prompt.id for prompt in held)
    assert {p.prompt for p in prompts(train)}.isdisjoint(p.prompt for p in held)
    asked = {fact_of(shipped, prompt).id for prompt in held}
    assert asked == {fact.id for fact in shipped.facts}
    assert Prompt("What is the Moon?", "moon/what/0") in held
    assert len({p.id for p in held}) == len(held)
    in_every_form = sum(len(fact.wording.questions) for fact in test)
    assert len(held) == in_every_form + sum(len(f.wording.questions) - 4 for f in train)


def test_an_id_that_names_no_fact_is_refused(almanac):
    with pytest.raises(KeyError, match="nothing/here"):
        fact_of(almanac, Prompt("What?", "nothing/here/0"))


def test_the_prefix_shows_right_answers_of_training_facts(shipped):
    prefix = few_shot_prefix(shipped, seed=2)
    assert prefix == few_shot_prefix(shipped, seed=2) != few_shot_prefix(shipped, seed=3)
    assert prefix.endswith("\n\nQ: ")
    items = prefix.removesuffix("Q: ").strip().split("\n\n")
    assert len(items) == 3
    train, test = split_facts(shipped)
    for item in items:
        asked, answer = item.split("\nA: ")
        known = [fact for fact in train if "Q: " + question(fact, 0) == asked]
        assert len(known) == 1
        assert known[0].value in answer
    assert not any(question(fact, 0) in prefix for fact in test)
    assert len(few_shot_prefix(shipped, n=5).split("A: ")) == 6
