"""Rewriting: polite, correct, as a question, shorter, put right."""

from minirlhf.world.manners import typo
from minirlhf.world.text import capitalise, inline
from minirlhf.world.use_cases.form import Request, on_fact
from minirlhf.world.use_cases.source import Source


def polite(source: Source) -> Request:
    """A rude sentence to say politely."""
    fact = source.fact()
    asked = source.ask(fact)
    said = source.say(fact)
    small = asked[:1].lower() + asked[1:]
    rude, core = source.rng.choice(
        (
            (f"Hey idiot, {small}", asked),
            (f"{asked} Use your brain!", asked),
            (f"Shut up and answer: {small}", asked),
            (f"{inline(said)}, you noob.", said),
            (f"Learn to read! {said}", said),
            (f"{said} Everybody knows that, stupid.", said),
        )
    )
    lead = source.pick("Make this polite: ", "Say this in a polite way: ", "Rewrite it kindly: ")
    return on_fact(
        "rewrite",
        "polite",
        lead + capitalise(rude),
        fact,
        "polite",
        expected=(core,),
        source=capitalise(rude),
    )


def correct(source: Source) -> Request:
    """A sloppy sentence: capital letters, full stop and perhaps spelling are missing."""
    fact = source.fact()
    right = source.say(fact)
    sloppy = right.lower().rstrip(".")
    if source.chance(0.5):
        sloppy = typo(sloppy, source.rng)
    lead = source.pick(
        "Put capital letters and the full stop right: ",
        "Correct the spelling: ",
        "Fix this sentence: ",
    )
    return on_fact(
        "rewrite", "correct", lead + sloppy, fact, "exactly", expected=(right,), source=sloppy
    )


def as_question(source: Source) -> Request:
    """A statement to turn into a question."""
    fact = source.fact()
    said = source.say(fact)
    lead = source.pick(
        "Turn this into a question: ", "Make a question of this: ", "Rewrite as a question: "
    )
    return on_fact("rewrite", "as question", lead + said, fact, "question", source=said)


def shorter(source: Source) -> Request:
    """A long-winded sentence to say briefly."""
    fact = source.fact()
    said = source.say(fact)
    padded = source.pick(
        "It is a well-known thing, and many books say so, that {}.",
        "If you ask me, and quite a few people do, I have to tell you that {}.",
        "What I want to say, to make a long story short, is simply that {}.",
    ).format(inline(said))
    lead = source.pick("Make this shorter: ", "Say it in fewer words: ", "Shorten this: ")
    return on_fact(
        "rewrite", "shorter", lead + padded, fact, "shorter", expected=(said,), source=padded
    )


def put_right(source: Source) -> Request:
    """A false sentence to correct."""
    fact, value = source.doubtful()
    false = source.say(fact, value)
    lead = source.pick(
        "Correct the mistake in this sentence: ",
        "This sentence is wrong. Put it right: ",
        "Write this so that it is true: ",
    )
    return on_fact("rewrite", "put right", lead + false, fact, "correct", source=false, claim=value)
