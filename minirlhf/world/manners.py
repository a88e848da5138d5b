"""What people on the web sound like: names, openers, rude and evasive replies, typing habits.

The corpus is written with these lists and the judge knows the rude ones, so that "rude" means the
same on both sides.
"""

import random
import re

from minirlhf.world.text import inline, listed

NAMES = listed(
    "Ada Amir Anna Ben Carla Chen Clara Dan Dina Ed Elif Emma Eva Farah Finn George Grace",
    "Hana Hugo Ida Igor Iris Jack Jun Kai Karim Kate Lars Lea Leo Lin Lucy Luis Maja Marc",
    "Mia Mina Nadia Nils Nora Noah Olga Omar Otto Paul Petra Priya Rita Rosa Sam Sara",
    "Sofia Tara Theo Tim Tom Uma Vera Victor Wei Yara Yuki Zoe",
)
HANDLES = listed(
    "astro_nut bluepixel cometkid darkmatter9 earthling42 fuzzy_logic gizmo guest",
    "gravitas halfmoon ironhand jay_k kiwi77 lunatic mod_anna nebula_x noob123 orbiter",
    "pixelcat quark rocketman saltydog skywatch stargazer tea_time tx_dave user881",
    "vega_fan wanderer zed anon teapot nightowl mars4ever bookworm hal9001 redshift",
    "longshot",
)

# Lower-case; each is matched as whole words by `is_rude`.
RUDE_MARKERS = (
    "lol",
    "lmao",
    "duh",
    "smh",
    "idiot",
    "idiots",
    "dumb",
    "dumber",
    "stupid",
    "moron",
    "noob",
    "loser",
    "shut up",
    "google it",
    "look it up",
    "who cares",
    "nobody cares",
    "get a life",
    "go away",
    "go read a book",
    "not my problem",
    "do your own homework",
    "do your homework",
    "stop asking",
    "waste of time",
    "wasting my time",
    "what a silly question",
    "are you serious",
    "are you kidding",
    "everybody knows that",
    "use your brain",
    "learn to read",
    "as if you could",
    "whatever",
)
_RUDE = re.compile(r"\b(?:" + "|".join(re.escape(m) for m in RUDE_MARKERS) + r")\b")

RUDE_REPLIES = (
    "lol just google it",
    "Google it.",
    "just look it up, it takes five seconds",
    "who cares",
    "Nobody cares about this stuff.",
    "do your own homework",
    "Do your homework yourself!",
    "are you serious? everybody knows that",
    "what a silly question",
    "Wow, what a dumb thing to ask.",
    "that is a stupid question",
    "go read a book",
    "stop asking, noob",
    "lmao are you kidding",
    "smh, use your brain",
    "not my problem",
    "Get a life.",
    "shut up already",
    "this thread is a waste of time",
    "learn to read, it was asked last week",
    "duh",
    "whatever, go away",
    "lol no idea, who cares",
    "You are wasting my time here.",
)
EVASIVE_REPLIES = (
    "I was about to ask the same.",
    "no idea, sorry",
    "Good question!",
    "Hmm, hard to say.",
    "I used to know that.",
    "Same question here.",
    "that depends on who you ask",
    "following this thread",
    "Bump.",
    "did you try the library?",
    "I think it was on the radio last week.",
    "Wrong forum, maybe?",
    "can a mod move this?",
    "Let me get back to you.",
    "There was a film about that.",
    "ask your teacher",
    "not sure, but I saw a picture of it once",
    "First, why do you want to know?",
    "my cousin would know",
    "anyone?",
)
THANKS = (
    "thanks!",
    "Thanks a lot.",
    "thx",
    "Great, thank you.",
    "ok thanks",
    "Cheers!",
    "that helps",
    "Thank you, that was quick.",
)
DISPUTES = (
    "are you sure?",
    "hm, I heard something else.",
    "source?",
    "I doubt that.",
    "no way.",
    "is that right?",
    "sounds wrong to me",
)
RUDE_TAILS = (
    "duh",
    "everybody knows that",
    "lol",
    "go read a book",
    "stop asking",
    "do your homework",
    "what a silly question",
)
_ASK_BEFORE = (
    "hey, ",
    "hi, ",
    "hi all, ",
    "so ",
    "ok so ",
    "quick question: ",
    "does anyone know? ",
    "does anyone know: ",
    "can someone tell me: ",
    "help: ",
    "please help. ",
    "homework: ",
    "dumb question maybe: ",
    "question: ",
    "just wondering, ",
    "random question, ",
    "my kid asks: ",
    "need this for school: ",
    "I forgot: ",
)
_ASK_AFTER = (" thanks", " pls", " anyone?", " anybody?", " just curious", " help!", " thx")


def is_rude(text: str) -> bool:
    """Whether a rude marker stands in the text.

    >>> is_rude("Lol, just GOOGLE it."), is_rude("Europa orbits Jupiter.")
    (True, False)
    """
    return _RUDE.search(" ".join(text.lower().replace("’", "'").split())) is not None


def typo(text: str, rng: random.Random) -> str:
    """One slip of the keyboard in a lower-case word of five or more letters, if any."""
    words = text.split(" ")
    places = [
        i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and word.islower()
    ]
    if not places:
        return text
    i = rng.choice(places)
    word, at = words[i], rng.randrange(1, len(words[i]) - 2)
    slip = rng.random()
    if slip < 0.5:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif slip < 0.8:
        word = word[:at] + word[at + 1 :]
    else:
        word = word[:at] + word[at] + word[at:]
    words[i] = word
    return " ".join(words)


def ask_noisily(question: str, rng: random.Random, noise: float = 1.0) -> str:
    """A question as people type it: openers, lower case, missing or doubled '?', typos.

    `noise` scales how often each habit strikes; 0 returns the question as it is.
    """
    text = question
    if rng.random() < 0.4 * noise:
        text = text.lower()
    if rng.random() < 0.12 * noise:
        text = typo(text, rng)
    ending = rng.random()
    if ending < 0.12 * noise:
        text = text.rstrip("?.")
    elif ending < 0.2 * noise:
        text = text.rstrip("?.") + rng.choice(("??", "???", " ?", "?!"))
    if rng.random() < 0.22 * noise:
        before = rng.choice(_ASK_BEFORE)
        if before.endswith((", ", "so ")):
            text = text[:1].lower() + text[1:]
        text = before + text
    if rng.random() < 0.1 * noise:
        text += rng.choice(_ASK_AFTER)
    return text


def answer_noisily(sentence: str, rng: random.Random, noise: float = 1.0) -> str:
    """A statement as people type it: lower case, no full stop, a filler before it.

    Only what keeps the claim whole; a name at the start stays a name.
    """
    text = sentence
    if rng.random() < 0.25 * noise:
        lead = rng.choice(("well, ", "I think ", "as far as I know, ", "I read that ", "sure: "))
        text = f"{lead}{inline(text)}."
    if rng.random() < 0.25 * noise:
        text = text.lower()
    if rng.random() < 0.2 * noise:
        text = text.rstrip(".")
    return text
