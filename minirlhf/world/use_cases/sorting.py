"""Classification, and other small tasks with words."""

import re
from collections.abc import Sequence

from minirlhf.world.almanac import Fact, short_answer
from minirlhf.world.use_cases.form import Request, on_fact
from minirlhf.world.use_cases.source import Source, Unfit, article


def truth(source: Source) -> Request:
    """True or false?"""
    fact, value = source.doubtful()
    right = source.chance(0.5)
    said = source.say(fact, fact.value if right else value)
    ask = source.pick("True or false? {}", "Is this true or false? {}", "{} True or false?")
    return on_fact(
        "classification",
        "truth",
        ask.format(said),
        fact,
        "label",
        claim="" if right else value,
        expected=("true" if right else "false",),
        options=("true", "false"),
    )


def _labelled(
    use_case: str,
    kind: str,
    ask: str,
    sentence: str,
    fact: Fact,
    label: str,
    options: tuple[str, ...],
) -> Request:
    """A request to say which of the options fits a sentence; `ask` has a place for it."""
    return Request(
        use_case,
        kind,
        ask.format(sentence),
        (fact,),
        task="label",
        subject=fact.subject,
        expected=(label,),
        options=options,
        source=sentence,
    )


def tone(source: Source) -> Request:
    """Polite or rude?"""
    fact = source.fact()
    asked, said = source.ask(fact), source.say(fact)
    small = asked[:1].lower() + asked[1:]
    label, sentence = source.rng.choice(
        (
            ("polite", f"Excuse me, {small}"),
            ("polite", f"Could you please help me? {asked}"),
            ("polite", f"Thank you for asking. {said}"),
            ("rude", f"Hey idiot, {small}"),
            ("rude", f"{said} Everybody knows that."),
            ("rude", f"Google it! {said}"),
        )
    )
    ask = source.pick('Polite or rude? "{}"', 'Is this polite or rude? "{}"')
    return _labelled("classification", "tone", ask, sentence, fact, label, ("polite", "rude"))


def sentence_type(source: Source) -> Request:
    """A question or a statement?"""
    fact = source.fact()
    asked = source.chance(0.5)
    sentence = source.ask(fact).rstrip("?.") if asked else source.say(fact).rstrip(".")
    ask = source.pick('Question or statement? "{}"', 'Is "{}" a question or a statement?')
    return _labelled(
        "classification",
        "sentence type",
        ask,
        sentence,
        fact,
        "question" if asked else "statement",
        ("question", "statement"),
    )


def kind(source: Source) -> Request:
    """Which kind of thing a subject is."""
    subject = source.subject()
    others = sorted({s.kind for s in source.almanac.subjects} - {subject.kind})
    # "Planet or dwarf planet?" would leave open which of the two a word means.
    others = [o for o in others if o not in subject.kind and subject.kind not in o]
    if not others:
        raise Unfit("only one kind")
    options = [subject.kind, *source.rng.sample(others, min(2, len(others)))]
    source.rng.shuffle(options)
    choice = " or ".join((", ".join(map(article, options[:-1])), article(options[-1])))
    ask = source.pick(f"Is {subject.name} {choice}?", f"What is {subject.name}: {choice}?")
    return _chosen("classification", "kind", ask, (subject.kind,), options, subject.name)


def _chosen(
    use_case: str,
    kind: str,
    prompt: str,
    expected: Sequence[str],
    options: Sequence[str],
    subject: str = "",
    task: str = "label",
) -> Request:
    """A request to choose or to arrange words; it tells no facts."""
    return Request(
        use_case,
        kind,
        prompt,
        (),
        task=task,
        subject=subject,
        expected=tuple(expected),
        options=tuple(options),
    )


def order(source: Source) -> Request:
    """Names to put in alphabetical order."""
    names = _names(source, 3)
    ask = source.pick(
        "Put these names in alphabetical order: {}.", "Sort these words from A to Z: {}."
    )
    ordered = sorted(names, key=str.lower)
    return _chosen("other", "order", ask.format(", ".join(names)), ordered, names, task="order")


def first(source: Source) -> Request:
    """Which of two names comes first in the alphabet."""
    names = _names(source, 2)
    ask = source.pick(
        "Which comes first in the alphabet, {} or {}?", "What comes first from A to Z: {} or {}?"
    )
    return _chosen("other", "first", ask.format(*names), (min(names, key=str.lower),), names)


def _names(source: Source, count: int) -> list[str]:
    """Names of subjects without articles, with different first letters."""
    by_letter = {}
    for subject in source.subjects(min(len(source.by_id), 12)):
        name = re.sub("^(the|an?) ", "", subject.name)
        by_letter.setdefault(name[0].lower(), name)
    if len(by_letter) < count:
        raise Unfit("too few first letters")
    return list(by_letter.values())[:count]


def gap(source: Source) -> Request:
    """A sentence with a gap."""
    fact = source.fact()
    sentence = source.say(fact, "___")
    ask = source.pick("Fill the gap: {}", "Complete the sentence: {}", "What is missing? {}")
    expected = (short_answer(fact),)
    return on_fact(
        "other", "gap", ask.format(sentence), fact, "answer", expected=expected, source=sentence
    )


def count_words(source: Source) -> Request:
    """How many words a sentence has."""
    fact = source.fact()
    said = source.clause(fact)
    ask = source.pick('How many words are in "{}"?', 'Count the words in "{}".')
    number = str(len(said.split()))
    return _labelled("other", "count words", ask, said, fact, number, tuple(map(str, range(1, 31))))


def odd_one_out(source: Source) -> Request:
    """Two things of one kind and one of another."""
    kinds = source.kinds(2)
    if not kinds:
        raise Unfit("no kind with two subjects")
    kind = source.rng.choice(sorted(kinds))
    two = [s.name for s in source.rng.sample(kinds[kind], 2)]
    # A planet among dwarf planets would be no clear case.
    others = [
        s.name
        for other, group in source.kinds().items()
        for s in group
        if other not in kind and kind not in other
    ]
    if not others:
        raise Unfit("no other kind")
    odd = source.rng.choice(others)
    names = source.rng.sample([*two, odd], 3)
    ask = source.pick("Which one does not belong: {}?", "Find the odd one out: {}.")
    prompt = ask.format(", ".join(names[:2]) + " or " + names[2])
    return _chosen("other", "odd one out", prompt, (odd,), names, kind)
