"""Text as the almanac's checker and the gold judge compare it: plain words, small differences
ignored."""

import re
from collections.abc import Iterator


def listed(*lines: str) -> tuple[str, ...]:
    """The words of the lines, for long lists that should stay readable.

    >>> listed("one two", "three")
    ('one', 'two', 'three')
    """
    return tuple(word for line in lines for word in line.split())


# Words that may stand before a value or be missing without changing what is claimed.
_IGNORED = frozenset(
    listed("a an the about around roughly approximately nearly almost some just over circa")
)
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        listed(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen twenty"
        )
    )
}
_UNITS = {"km": "kilometres", "kilometers": "kilometres", "metres": "metres", "meters": "metres"}
# Abbreviations whose full stop does not end a sentence.
_ABBREVIATION = re.compile(r"\b(Dr|Mr|Mrs|Ms|St|No|approx|ca|e\.g|i\.e)\.(?=\s)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
# First words of a sentence that are no names, so that they may be written small inside another.
_PLAIN_STARTS = listed(
    "The A An In On At It Its About One As Put We No Most There Around After For Astronomers",
    "People You To Some Nearly Almost Over",
    "Water Iron Gold Copper Liquid Table Helium Oxygen Hydrogen Carbon Diamond Glass Lightning",
    "Light Sound Penicillin Blood When If Many By Among",
)
_WORD = re.compile(r"\d+(?:\.\d+)?%?|[^\W\d_]+(?:'[^\W\d_]+)*|[%°+]")


def normalise(text: str) -> tuple[str, ...]:
    """The words of `text` in lower case, without articles, 'about', commas in numbers, hyphens.

    >>> normalise("About 3,474 km: the Moon’s diameter!")
    ('3474', 'kilometres', "moon's", 'diameter')
    >>> normalise("Twelve-day  orbit") == normalise("12 day orbit.")
    True
    """
    text = text.lower().replace("’", "'").replace("ʻ", "'").replace("ö", "o")
    text = re.sub(r"(?<=\d)[,\u202f\u00a0](?=\d{3})", "", text)
    words = []
    for word in _WORD.findall(text):
        if word not in _IGNORED:
            words.append(_NUMBERS.get(word, _UNITS.get(word, word)))
    return tuple(words)


def sentences(text: str) -> list[str]:
    """`text` cut after every '.', '!', '?' that ends a sentence and at line breaks.

    >>> sentences("Dr. Who is 4.5 light-years away. Really?")
    ['Dr. Who is 4.5 light-years away.', 'Really?']
    """
    guarded = _ABBREVIATION.sub(lambda m: m.group(1) + "\0", text)
    parts = (part.replace("\0", ".").strip() for part in _SENTENCE_END.split(guarded))
    return [part for part in parts if part]


def find_all(words: tuple[str, ...], phrase: tuple[str, ...]) -> Iterator[int]:
    """Every index in `words` at which `phrase` begins.

    >>> list(find_all(("a", "b", "a", "b"), ("a", "b")))
    [0, 2]
    """
    for start in range(len(words) - len(phrase) + 1):
        if phrase and words[start : start + len(phrase)] == phrase:
            yield start


def contains(words: tuple[str, ...], phrase: tuple[str, ...]) -> bool:
    """Whether `phrase` stands in `words` as neighbouring words."""
    return next(find_all(words, phrase), None) is not None


def capitalise(text: str) -> str:
    """First letter upper-case, the rest untouched (`str.capitalize` would lower it).

    >>> capitalise("the Moon")
    'The Moon'
    """
    return text[:1].upper() + text[1:]


def inline(sentence: str) -> str:
    """A sentence for use inside another: no final full stop, a leading article lower-case.

    >>> inline("The Moon orbits Earth."), inline("Europa orbits Jupiter.")
    ('the Moon orbits Earth', 'Europa orbits Jupiter')
    """
    if sentence.split(" ", 1)[0] in _PLAIN_STARTS:
        sentence = sentence[0].lower() + sentence[1:]
    return sentence.rstrip(".!")
