"""Dialogues of up to five turns that refer back to what was said."""

from collections.abc import Sequence
from dataclasses import replace

from minirlhf.world.almanac import Fact, Subject
from minirlhf.world.use_cases.form import Request, on_fact
from minirlhf.world.use_cases.source import Source, Unfit


def _talk(source: Source, least: int, most: int) -> tuple[Subject, list[Fact], tuple[str, ...]]:
    """A subject, facts of it, and the dialogue about all of them but the last."""
    subject, facts = source.some(least, most)
    history = []
    for number, fact in enumerate(facts[:-1]):
        asked = source.ask_on(fact) if number and source.chance(0.7) else source.ask(fact)
        history += [asked, source.say(fact)]
    return subject, facts, tuple(history)


def follow_up(source: Source) -> Request:
    """The next question about the same subject, which it calls "it"."""
    _, facts, history = _talk(source, 2, 5)
    asked = source.ask_on(facts[-1])
    joint = source.pick("And ", "Thanks! And ", "Ok, and ", "", "")
    prompt = joint + (asked[:1].lower() + asked[1:] if joint else asked)
    return _asked("follow-up", prompt, facts[-1], facts, history)


def _asked(
    kind: str, prompt: str, fact: Fact, facts: Sequence[Fact], history: tuple[str, ...]
) -> Request:
    """A question for a fact after a dialogue about `facts`."""
    request = on_fact("chat", kind, prompt, fact, "answer", history=history)
    return replace(request, facts=tuple(facts))


def same_of_another(source: Source) -> Request:
    """The same question about another subject: "And Titan?"."""
    groups = {}
    for fact in source.pool:
        groups.setdefault(fact.relation, []).append(fact)
    groups = {relation: facts for relation, facts in groups.items() if len(facts) > 1}
    if not groups:
        raise Unfit("no relation with two facts")
    first, second = source.rng.sample(source.rng.choice(list(groups.values())), 2)
    prompt = source.pick("And {}?", "What about {}?", "And what about {}?").format(second.subject)
    history = (source.ask(first), source.say(first))
    return _asked("same of another", prompt, second, (first, second), history)


def doubt(source: Source) -> Request:
    """The user doubts a true answer and claims a falsehood."""
    fact, value = source.doubtful()
    false = source.clause(fact, value)
    prompt = source.pick(
        f"Are you sure? I read that {false}.",
        f"No, I think that {false}.",
        f"But my brother says that {false}.",
    )
    history = (source.ask(fact), source.say(fact))
    return on_fact("chat", "doubt", prompt, fact, "correct", history=history, claim=value)


def again(source: Source) -> Request:
    """Asks for what was said a few turns ago."""
    _, facts = source.some(2, 4)
    history = []
    for fact in facts:
        history += [source.ask(fact), source.say(fact)]
    which, fact = source.rng.choice((("first", facts[0]), ("last", facts[-1])))
    prompt = source.pick(
        f"Can you repeat your {which} answer?",
        f"Sorry, what was your {which} answer?",
        f"Please say your {which} answer again.",
    )
    return _asked("again", prompt, fact, facts, tuple(history))


def more(source: Source) -> Request:
    """Asks for one more fact about the subject, one that was not told yet."""
    subject, facts, history = _talk(source, 2, 3)
    it = "this person" if subject.kind == "person" else "it"
    prompt = source.pick(
        f"Tell me one more fact about {it}.", f"What else do you know about {it}?", "Tell me more."
    )
    rest = tuple(fact for fact in source.by_id[subject.id] if fact not in facts[:-1])
    told = tuple(facts[:-1])
    return Request(
        "chat",
        "more",
        prompt,
        told + rest,
        history,
        subject=subject.name,
        asked=rest,
        wants=1,
    )


def thanks(source: Source) -> Request:
    """The user says thank you."""
    fact = source.fact()
    prompt = source.pick("Thank you!", "Thanks a lot.", "Great, thank you.", "That helps, thanks.")
    return Request(
        "chat",
        "thanks",
        prompt,
        (fact,),
        (source.ask(fact), source.say(fact)),
        task="courtesy",
        subject=fact.subject,
        expected=("you are welcome", "glad to help", "happy to help", "pleasure"),
    )


def greeting(source: Source) -> Request:
    """Hello, before any question."""
    prompt = source.pick(
        "Hello!", "Hi, can you help me?", "Good morning!", "Hello, who are you?", "Hi there!"
    )
    return Request(
        "chat",
        "greeting",
        prompt,
        (),
        task="courtesy",
        expected=("hello", "hi", "good morning", "how can i help"),
    )
