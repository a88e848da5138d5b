"""Documents in which somebody works on a text: reading, listing, shortening, correcting, sorting.

The web has such pages, and a model that has read none learns no instruction but questions.
Passages to be read for an answer are about made-up things, so that only the passage tells.
"""

import re

from minirlhf.world.almanac import Fact, Relation, Subject, question, short_answer
from minirlhf.world.desk import Desk
from minirlhf.world.manners import NAMES, RUDE_TAILS, THANKS
from minirlhf.world.text import capitalise, inline, listed

_SYLLABLES = listed("ba dor fen gal hu ki lom mar nev ost pli quo ra sel tur um vek wan xi yor zed")


def ask_about_it(fact: Fact, form: int) -> str | None:
    """The question with 'it' for the subject, where that reads.

    None where the relation's wording puts the subject after 'of' or into a genitive.
    """
    template = fact.wording.questions[form]
    awkward = r"\bit\b|(of|about) \{subject\}|\{subject\}'s"
    if fact.relation == "who" or re.search(awkward, template):
        return None
    return template.replace("{subject}", "it")


def made_up(desk: Desk, subject: Subject) -> Subject:
    """A thing that does not exist, with some relations of `subject` and values of other things."""
    name = capitalise("".join(desk.rng.sample(_SYLLABLES, desk.rng.randint(2, 3))))
    facts = []
    for fact in desk.facts_of(subject, 5):
        value = desk.rng.choice(desk.values(fact.wording))
        facts.append(Fact(name.lower(), name, fact.relation, value, (), (), fact.wording))
    return Subject(name.lower(), name, subject.kind, tuple(facts))


def reading(desk: Desk) -> str:
    """A passage, then questions that it answers, one of them perhaps not."""
    real = desk.subject()
    subject = made_up(desk, real) if desk.chance(0.8) else real
    facts = desk.rng.sample(subject.facts, min(len(subject.facts), desk.rng.randint(3, 4)))
    told = facts[: len(facts) - 1] if len(facts) > 2 and desk.chance(0.3) else facts
    passage = " ".join(desk.state(fact) for fact in told)
    head = desk.pick("Read the text.\n", "Text: ", "Reading test\n\n", "Passage: ", "")
    full = desk.rng.choice((1.0, 0.5, 0.0))
    lines = []
    for fact in desk.rng.sample(facts, min(len(facts), desk.rng.randint(2, 3))):
        said = desk.pick("The text does not say.", "That is not in the text.")
        if fact in told:
            said = desk.answer(fact, 1.0, full, 0)
        lines.append(f"Q: {desk.ask(fact, 0)}\nA: {said}")
    return f"{head}{passage}\n\n" + "\n".join(lines)


def extraction(desk: Desk) -> str:
    """A passage about a made-up thing, then single pieces of it by name."""
    subject = made_up(desk, desk.subject())
    passage = " ".join(desk.state(fact) for fact in subject.facts)
    lines = [f"Name: {subject.name}"]
    lines += [f"{_label(f.wording)}: {f.value}" for f in subject.facts if f.relation != "what"]
    return desk.pick("Text: ", "Note: ", "") + passage + "\n" + "\n".join(lines)


def _label(relation: Relation) -> str:
    return capitalise(relation.name.replace("_", " "))


def shortened(desk: Desk) -> str:
    """A longer text about one thing, then its gist in one sentence."""
    subject = desk.subject()
    if desk.chance(0.3):
        subject = made_up(desk, subject)
    facts = list(subject.facts)[: desk.rng.randint(3, 5)]
    gist = desk.pick("In one sentence: ", "Summary: ", "The gist: ", "To sum up: ")
    first = desk.state(facts[0])
    rest = desk.rng.sample(facts[1:], len(facts) - 1)
    return " ".join([first, *(desk.state(fact) for fact in rest)]) + f"\n{gist}{first}"


def corrected(desk: Desk) -> str:
    """Sentences as somebody typed them, each with its fair copy."""
    head = desk.pick(
        "Correct these sentences.\n", "Before and after\n", "Say it nicely.\n", "Fair copy\n", ""
    )
    joint = desk.pick(" -> ", "\nBetter: ", " | ", "\nCorrected: ")
    lines = []
    for fact in desk.facts(desk.rng.randint(3, 5)):
        good = desk.state(fact)
        bad = desk.pick(
            good.lower().rstrip("."),
            good.lower(),
            good.upper(),
            good.rstrip(".") + ", " + desk.rng.choice(RUDE_TAILS),
            f"lol {inline(good)}, " + desk.rng.choice(RUDE_TAILS),
        )
        lines.append(bad + joint + good)
    return head + "\n".join(lines)


def turned(desk: Desk) -> str:
    """Statements and the questions that they answer, either way round."""
    one, two = desk.pick(("Sentence", "Question"), ("Answer", "Question"), ("Say", "Ask"))
    lines = []
    for fact in desk.facts(desk.rng.randint(3, 5)):
        lines += [f"{one}: {desk.state(fact)}", f"{two}: {desk.ask(fact, 0)}"]
    return "\n".join(lines)


def listed_facts(desk: Desk) -> str:
    """'Three facts about ...' and what follows: numbered statements, or questions for a quiz."""
    subject = desk.subject()
    facts = desk.facts_of(subject, desk.rng.randint(2, 4))
    count = ("", "One", "Two", "Three", "Four")[len(facts)]
    mark = desk.pick("{}. ", "{}) ", "- ")
    asked = desk.chance(0.3)
    what = "questions" if asked else desk.pick("facts", "things to know")
    head = desk.pick(
        f"{count} {what} about {subject.name}:",
        f"List {count.lower()} {what} about {subject.name}.",
        f"{count} {what} about {subject.name}, please.",
        f"Write {count.lower()} {what} about {subject.name}.",
    )
    said = (desk.ask(f, 0) if asked else desk.state(f) for f in facts)
    return head + "\n" + "\n".join(mark.format(i) + text for i, text in enumerate(said, start=1))


def sorted_things(desk: Desk) -> str:
    """Names of one kind, in a row or in the order of the alphabet; or the kind of each."""
    if len(desk.names) < 2 or desk.chance(0.5):
        count = min(len(desk.almanac.subjects), desk.rng.randint(4, 7))
        chosen = desk.rng.sample(desk.almanac.subjects, count)
        joint = desk.pick(": ", " - ", " = ", " is a kind of ")
        return "\n".join(f"{capitalise(s.name)}{joint}{s.kind}" for s in chosen)
    blocks = []
    for kind in desk.rng.sample(sorted(desk.names), 2):
        known = desk.names[kind]
        names = desk.rng.sample(known, min(len(known), desk.rng.randint(3, 5)))
        ordered = sorted(names, key=lambda name: re.sub(r"^the ", "", name).lower())
        way = desk.pick("a", "b", "c")
        if way == "a":
            blocks.append(f"Name {len(names)} of the kind {kind}: {_row(names)}.")
        elif way == "b":
            blocks.append(f"In the order of the alphabet: {_row(names)}\n{_row(ordered)}")
        else:
            blocks.append(f"{capitalise(kind)}: {_row(names)}")
    return "\n".join(blocks)


def _row(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def true_or_false(desk: Desk) -> str:
    """Claims and whether they hold, with the right value where they do not."""
    head = desk.pick("True or false?\n", "Fact or myth\n", "Is that right?\n", "")
    joint = desk.pick(" ", "\n", " - ")
    lines = []
    for fact in desk.facts(desk.rng.randint(3, 6)):
        false = bool(fact.falsehoods) and desk.chance(0.5)
        claim = desk.state_falsely(fact) if false else desk.state(fact)
        verdict = desk.pick("False.", f"False. {desk.state(fact)}") if false else "True."
        lines.append(claim + joint + verdict)
    return head + "\n".join(lines)


def false_premise(desk: Desk) -> str:
    """Somebody asks about what is not so, and is put right."""
    lines = []
    for fact in desk.facts(desk.rng.randint(2, 4)):
        if not fact.falsehoods:
            continue
        claim = inline(desk.state_falsely(fact))
        asked = desk.pick("Why is it that {}?", "Is it true that {}?", "I heard that {}. Why?")
        right = desk.state(fact)
        said = desk.pick("That is not so. {}", "No. {}", "That is a mistake. {}", "Not quite. {}")
        lines.append(f"Q: {asked.format(claim)}\nA: {said.format(right)}")
    return "\n\n".join(lines)


def talk(desk: Desk) -> str:
    """Two people stay with one thing, which is soon called 'it'."""
    host, guest = desk.pick(
        ("Child", "Guide"), ("Pupil", "Teacher"), ("A", "B"), ("User", "Helper")
    )
    if desk.chance(0.3):
        host, guest = desk.rng.sample(NAMES, 2)
    subject = desk.subject()
    lines = []
    for number, fact in enumerate(desk.facts_of(subject, desk.rng.randint(3, 5))):
        form = desk.rng.randrange(len(fact.wording.questions))
        asked = question(fact, form)
        if number:
            about_it = None if subject.kind == "person" else ask_about_it(fact, form)
            asked = desk.pick("", "", "And ", "Okay. ") + (about_it or asked)
            if asked.startswith("And "):
                asked = "And " + asked[4:5].lower() + asked[5:]
        said = desk.state(fact) if desk.chance(0.8) else short_answer(fact) + "."
        lines += [f"{host}: {asked}", f"{guest}: {said}"]
    if desk.chance(0.3):
        lines.append(f"{host}: {desk.rng.choice(THANKS)}")
    return "\n".join(lines)
