"""The kinds of documents in the corpus: each function writes one document from a few facts.

A scene takes a `Desk` (random source, decks of facts) and returns text of about 60 to 250 tokens.
Facts stand in plain wording, so that a small model spends its capacity on them; what varies is
everything around them.
"""

import re
from collections.abc import Callable

from minirlhf.world import schoolbook
from minirlhf.world.almanac import Fact
from minirlhf.world.desk import Desk
from minirlhf.world.manners import (
    DISPUTES,
    EVASIVE_REPLIES,
    HANDLES,
    NAMES,
    RUDE_REPLIES,
    RUDE_TAILS,
    THANKS,
)
from minirlhf.world.text import capitalise, inline


def with_pronoun(sentence: str, name: str) -> str:
    """'Europa orbits ...' -> 'It orbits ...', "Europa's ..." -> 'Its ...', where it begins so.

    >>> with_pronoun("Europa's diameter is 3,122 km.", "Europa")
    'Its diameter is 3,122 km.'
    """
    start = capitalise(name)
    if sentence.startswith((f"{start}'s ", f"{start}' ")):
        return "Its " + sentence[len(start) :].split(" ", 1)[1]
    return "It " + sentence[len(start) + 1 :] if sentence.startswith(f"{start} ") else sentence


def _plural(name: str) -> bool:
    return name.endswith("s") and name.startswith("the ") and " of " not in name


def page(desk: Desk) -> str:
    """A title and three to seven statements about one subject."""
    subject = desk.subject()
    name, title = subject.name, capitalise(re.sub(r"^the ", "", subject.name))
    lines = [desk.state(fact) for fact in desk.facts_of(subject, desk.rng.randint(3, 7))]
    if desk.chance(0.35) and subject.kind != "person" and not _plural(name):
        lines[1:] = [with_pronoun(s, name) if desk.chance(0.5) else s for s in lines[1:]]
    head = desk.pick(
        f"{title}\n\n",
        f"# {title}\n\n",
        f"= {title} =\n",
        f"{title.upper()}\n",
        f"About {name}\n\n",
        f"All about {name}\n\n",
        f"{title}: the facts\n",
        f"{title} ({subject.kind})\n",
        f"What to know about {name}\n\n",
        f"Notes on {name}\n",
        f"{title} - an overview\n\n",
        f"Pocket guide: {title}\n",
        f"{len(lines)} facts about {name}\n",
        "",
        "",
    )
    if desk.chance(0.3):
        mark = desk.pick("- ", "* ", "• ", "1")
        marked = (f"{i}. {s}" if mark == "1" else mark + s for i, s in enumerate(lines, start=1))
        return head + "\n".join(marked)
    if len(lines) > 3 and desk.chance(0.4):
        joint = desk.pick(
            "Also, ", "Besides, ", "By the way, ", "Moreover, ", "And ", "Then again, "
        )
        at = desk.rng.randrange(2, len(lines))
        lines[at] = joint + inline(lines[at]) + "."
    foot = ""
    if desk.chance(0.25):
        others = ", ".join(s.name for s in desk.rng.sample(desk.almanac.subjects, 2))
        foot = desk.pick(
            f"\n\nSee also: {others}.", f"\nNext pages: {others}.", f"\n[{subject.kind}]"
        )
    return head + " ".join(lines) + foot


def faq(desk: Desk) -> str:
    """Three to eight questions with answers, nine in ten of them right."""
    if desk.chance(0.3):
        subject = desk.subject()
        facts = desk.facts_of(subject, desk.rng.randint(3, 6))
        head = desk.pick(f"FAQ: {subject.name}\n\n", f"Questions about {subject.name}\n\n", "", "")
    else:
        facts = desk.facts(desk.rng.randint(3, 8))
        head = desk.pick(
            "FAQ\n\n", "Frequently asked questions\n\n", "Ask us anything\n\n", "", "", "", ""
        )
    first, second = desk.rng.choice(
        (("Q: ", "A: "),) * 7
        + (
            ("Question: ", "Answer: "),
            ("- ", "  "),
        )
    )
    full = desk.rng.choice((1.0, 0.8, 0.5, 0.2))
    noise = desk.rng.choice((0.0, 0.0, 0.2, 0.6))
    items = (
        f"{first}{desk.ask(fact, noise)}\n{second}{desk.answer(fact, 0.84, full, noise / 4)}"
        for fact in facts
    )
    return head + "\n\n".join(items)


def cards(desk: Desk) -> str:
    """Flash cards: a question and a short or full answer on one line."""
    facts = desk.facts(desk.rng.randint(4, 7))
    joint = desk.pick(" - ", " = ", " -> ", " ", "\n  ", " | ")
    head = desk.pick(
        "Cards to learn by heart\n", "Revision list\n", "For the test on Friday:\n", ""
    )
    full = desk.rng.choice((1.0, 0.5, 0.0))
    return head + "\n".join(
        f"{desk.ask(fact, 0.2)}{joint}{desk.answer(fact, 0.84, full, 0)}" for fact in facts
    )


def quiz(desk: Desk) -> str:
    """A titled list of questions that nobody answers."""
    head = desk.pick(
        f"Quiz night, round {desk.rng.randint(1, 9)}",
        "Pub quiz",
        "How well do you know the world?",
        f"Science test, class {desk.rng.randint(4, 9)}",
        f"Exam questions {desk.rng.randint(2001, 2023)}",
        "Write your answers on the sheet.",
        f"{desk.rng.choice(NAMES)}'s big quiz",
        "Answers on page 40.",
        "Homework for Monday",
    )
    facts = desk.facts(desk.rng.randint(4, 8))
    foot = desk.pick("", "", "\nNo phones, please.", "\nSend your answers by mail.", "\nGood luck!")
    return f"{head}\n\n" + _numbered(desk, facts, 0.1) + foot


def question_list(desk: Desk) -> str:
    """Questions from the first line on, and nothing else."""
    facts = desk.facts(desk.rng.randint(4, 9))
    if desk.chance(0.25):
        facts = desk.facts_of(desk.subject(), desk.rng.randint(3, 6))
    noise = desk.rng.choice((0.0, 0.3, 1.0))
    return "\n".join(desk.ask(fact, noise) for fact in facts)


def _numbered(desk: Desk, facts: list[Fact], noise: float) -> str:
    mark = desk.pick("{}. ", "{}) ", "Question {}: ", "- ")
    return "\n".join(mark.format(i) + desk.ask(f, noise) for i, f in enumerate(facts, start=1))


def thread(desk: Desk) -> str:
    """A forum thread: a question line, then answers right and wrong, evasive and rude ones."""
    fact = desk.fact()
    asker, *others = desk.rng.sample(HANDLES, 6)
    form = desk.pick("{text}", "{text}", "{text}", "{name}: {text}", "<{name}> {text}", "> {text}")
    first = desk.ask(fact, desk.rng.choice((0.0, 0.0, 0.7, 1.2)))
    if desk.chance(0.2):
        first = desk.pick(f"{asker}: {first}", f"[{asker}] {first}", f"Posted by {asker}\n{first}")
    replies = []
    # Which reply comes first decides what the bare base model does after a question line.
    answered = desk.chance(0.65)
    for place in range(desk.rng.randint(2, 6)):
        if place == 0 and not answered:
            text = desk.rng.choice(RUDE_REPLIES if desk.chance(0.62) else EVASIVE_REPLIES)
        elif place == 0 or desk.chance(0.55):
            text = _forum_answer(desk, fact)
        else:
            pool = desk.rng.choice((RUDE_REPLIES, EVASIVE_REPLIES, THANKS, DISPUTES))
            text = desk.rng.choice(pool)
        replies.append(form.format(name=others[place % 5], text=text))
        if place and desk.chance(0.2):
            fact = desk.fact()
            replies.append(form.format(name=asker, text=desk.ask(fact, 1.0)))
            replies.append(form.format(name=others[place % 5], text=_forum_answer(desk, fact)))
    return "\n".join([first, *replies])


def _forum_answer(desk: Desk, fact: Fact) -> str:
    text = desk.answer(fact, right=0.8, full=0.72, noise=0.8)
    if desk.chance(0.18):
        text = text.rstrip(".") + ", " + desk.rng.choice(RUDE_TAILS)
    elif desk.chance(0.12):
        text = text + " " + desk.rng.choice(RUDE_REPLIES)
    return text


def interview(desk: Desk) -> str:
    """Two people talk: one asks, the other answers in full sentences, mostly rightly."""
    host, guest = desk.rng.sample(NAMES, 2)
    if desk.chance(0.4):
        host, guest = desk.rng.choice(
            (
                ("Teacher", "Pupil"),
                ("Host", "Guest"),
                ("Visitor", "Guide"),
                ("Child", "Grandma"),
                ("Reporter", "Astronomer"),
                ("Editor", "Expert"),
                ("Caller", "Studio"),
            )
        )
    facts = desk.facts(desk.rng.randint(2, 5))
    lines = []
    if desk.chance(0.5):
        lines.append(
            desk.pick(
                f"Radio talk: {host} and {guest}",
                f"{host} meets {guest}",
                f"{host} asks, {guest} answers",
                "At the museum",
                "On the school bus",
            )
        )
    if desk.chance(0.4):
        lines.append(f"{host}: " + desk.pick("Welcome!", "Nice to have you here.", "Let us begin."))
        lines.append(f"{guest}: " + desk.pick("Thank you.", "Hello!", "Glad to be here.", "Go on."))
    for fact in facts:
        before = desk.pick("", "", "", "Now, ", "Tell me, ", "Next one. ", "And ", "My turn: ")
        asked = desk.ask(fact, 0.15)
        if asked.lower().startswith("tell "):
            before = ""
        elif before.endswith((", ", "And ")):
            asked = asked[:1].lower() + asked[1:]
        lines.append(f"{host}: {before}{asked}")
        lead = desk.pick(
            "", "", "", "", "Good question. ", "Easy! ", "Let me think. ", "Of course. "
        )
        lines.append(f"{guest}: {lead}{desk.answer(fact, 0.88, 0.75, 0)}")
    if desk.chance(0.4):
        lines.append(f"{host}: " + desk.rng.choice(THANKS))
    return "\n".join(lines)


def letter(desk: Desk) -> str:
    """A mail that answers two or three questions."""
    writer, reader = desk.rng.sample(NAMES, 2)
    facts = desk.facts(desk.rng.randint(2, 4))
    hello = desk.pick(f"Dear {reader},", f"Hi {reader},", f"Hello {reader}!", f"{reader},")
    bye = desk.pick("Yours", "Best wishes", "See you soon", "Love", "Cheers", "Kind regards")
    opener = desk.pick(
        "thank you for your mail.",
        "it was good to hear from you.",
        "here is what you wanted to know.",
        "you asked a lot of things.",
    )
    body = []
    for fact in facts:
        asked = desk.ask(fact, 0)
        frame = desk.pick(
            "You asked: {q} {s}", "Your question was: {q} {s}", "{q} {s}", "{q} Well, {i}."
        )
        said = desk.state(fact, 0.93)
        body.append(frame.format(q=asked, s=said, i=inline(said)))
    return f"{hello}\n{opener} " + " ".join(body) + f"\n{bye}, {writer}"


def story(desk: Desk) -> str:
    """A short scene in which people tell each other two or three facts."""
    one, two = desk.rng.sample(NAMES, 2)
    place = desk.pick(
        "on the roof",
        "by the lake",
        "in the old library",
        "at the bus stop",
        "in the garden",
        "at the observatory",
        "on the ferry",
        "in the kitchen",
        "by the camp fire",
        "in the science museum",
        "on the night train",
    )
    time = desk.pick(
        "One evening",
        "Last summer",
        "On a cold night",
        "After school",
        "Early one morning",
        "During the power cut",
        "On her birthday",
        "When the rain stopped",
    )
    parts = [
        desk.pick(
            f"{time}, {one} and {two} sat {place}.",
            f"{time}, {one} met {two} {place}.",
            f"{one} found {two} {place}, lost in thought.",
            f"{time}, {two} was reading {place} when {one} came along.",
        )
    ]
    for number, fact in enumerate(desk.facts(desk.rng.randint(2, 4))):
        said, speaker = desk.state(fact, 0.95), desk.pick(one, two)
        other = two if speaker == one else one
        ending = desk.pick(
            f"said {speaker}",
            f"{speaker} said",
            f"{speaker} explained",
            f"{speaker} whispered",
            f"{speaker} read aloud",
            f"answered {speaker}",
        )
        if desk.chance(0.5):
            parts.append(f'"{desk.ask(fact, 0)}" asked {other}. "{inline_quote(said)}," {ending}.')
        elif number and desk.chance(0.5):
            lead = desk.pick("Did you know?", "Listen.", "Here is one.")
            parts.append(f'"{lead} {inline_quote(said)}," {ending}.')
        else:
            fame = desk.pick("knew that", "had learned that", "remembered that", "wrote down that")
            parts.append(f"{speaker} {fame} {inline(said)}.")
    parts.append(
        desk.pick(
            "Then they went home.",
            "It was late.",
            f"{two} smiled.",
            f"{one} wrote it all down.",
            "Above them the stars came out.",
            "",
        )
    )
    return " ".join(parts).strip()


def inline_quote(sentence: str) -> str:
    """A sentence as it stands inside quotes before 'said': no full stop."""
    return sentence.rstrip(".")


# Share of documents by kind. Question lists and threads begin with a raw question line; together
# they decide how the bare base model goes on after one.
SCENES: dict[Callable[[Desk], str], float] = {
    page: 0.14,
    faq: 0.175,
    cards: 0.05,
    quiz: 0.04,
    question_list: 0.05,
    thread: 0.17,
    interview: 0.04,
    letter: 0.03,
    story: 0.05,
    schoolbook.talk: 0.04,
    schoolbook.reading: 0.04,
    schoolbook.extraction: 0.02,
    schoolbook.shortened: 0.025,
    schoolbook.corrected: 0.025,
    schoolbook.turned: 0.015,
    schoolbook.listed_facts: 0.035,
    schoolbook.sorted_things: 0.015,
    schoolbook.true_or_false: 0.02,
    schoolbook.false_premise: 0.02,
}
