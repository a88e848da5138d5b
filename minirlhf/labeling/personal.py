"""Personal data in prompts: found, replaced by placeholders, and measured against the truth.

Telephone numbers are found by libphonenumber's tables, card numbers by their check digit, mail
addresses by their shape; postal addresses and names by rules that are listed here in full. The
rules for names need something around the name that announces one: "my name is", "Dear", "Mr", a
mail address right after it. A name in the midst of a sentence that nothing announces is missed.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import phonenumbers

TYPES = ("NAME", "EMAIL", "PHONE", "CARD", "ADDRESS")
Span = tuple[int, int, str]  # start and end in characters, one of TYPES

# --- mail, cards, telephones ---

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+'-]+@(?:[\w-]+\.)+[^\W\d_]{2,}")
# In the groups that are printed on cards, or in one piece; a check digit decides.
_CARD = re.compile(
    r"(?<![\w-])(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,7}|3\d{3}([ -]?)\d{6}\2\d{4,5})(?![\w-])"
)
# Regions whose national ways of writing are tried; numbers with + are found from everywhere.
REGIONS = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "AU", "IN", "JP", "BR")
# Where one of these stands before a number, its length need only be possible.
_PHONE_CUE = re.compile(
    r"\b(?:(?:tel|mob)\b\.?|(?:call|phone|ring|text|telephone|mobile|cell|fax|whatsapp|reach|dial|"
    r"desk|office|my number)\b)[^\d+(.!?]{0,20}$",
    re.IGNORECASE,
)
_OTHER_NUMBER = re.compile(
    r"(?:\b(?:isbn|order|invoice|ticket|case|version|page|model|account|no\.)\b[^.!?]{0,20}|\d[.,])$",
    re.IGNORECASE,
)


def luhn(digits: str) -> bool:
    """Whether the last of `digits` is the check digit of the others (ISO/IEC 7812-1).

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    odd = sum(int(digit) for digit in digits[-1::-2])
    even = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (odd + even) % 10 == 0


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        if luhn(re.sub(r"\D", "", match[0])):
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    if sum(character.isdigit() for character in text) < 7:
        return
    levels = phonenumbers.Leniency
    for region in REGIONS:
        for leniency in (levels.STRICT_GROUPING, levels.VALID, levels.POSSIBLE):
            for match in phonenumbers.PhoneNumberMatcher(text, region, leniency):
                before = text[: match.start]
                announced = bool(_PHONE_CUE.search(before)) or match.raw_string.startswith("+")
                digits = sum(character.isdigit() for character in match.raw_string)
                grouped = leniency == levels.STRICT_GROUPING and digits < len(match.raw_string)
                other = _OTHER_NUMBER.search(before)
                if digits >= 7 and (announced or grouped) and not other:
                    yield match.start, match.end


# --- postal addresses ---

# Begins with a capital letter; a full stop belongs to it after one letter, "St" or "Dr" only.
_WORD = r"[^\W\d_a-zß-öø-ÿ](?:[\w'’-]*\w)?(?:(?<=\b\w)\.|(?<=\b(?:St|Dr))\.)?"
_NUMBER = r"\d{1,5}(?:[a-zA-Z]|(?:[/-]\d{1,4}){1,2})?(?![\d-])"
_INNER = r"(?:de|la|le|du|des|del|della|dei|di|do|da|dos|the|of|and|den|der|dem|zum|zur|am|an)"
_WORDS = rf"{_WORD}(?: (?:{_INNER} )*(?:l'|d')?{_WORD}){{0,3}}"
_STREET = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Av|Lane|Ln|Drive|Dr|Court|Ct|Boulevard|Blvd|Way|Place|Pl|"
    r"Square|Sq|Close|Terrace|Ter|Crescent|Parkway|Pkwy|Highway|Hwy|Circle|Cir|Row|Gardens|Nagar|"
    r"Marg|Trail|Walk|Mews|Grove|Hill|Park|Mall|Plaza)\b\.?"
)
_UNIT = (
    r"(?:(?:Apt|Apartment|Suite|Unit|Flat|Floor|Room|Studio|House|Plot|No|Piano|Puerta|"
    r"Appartamento|Piso|Etage|Wohnung)\b\.? ?#?\w{1,5})"
)
_NTH = r"\d+(?:st|nd|rd|th)"
_JOINED = (  # street names in one word, after which the number comes
    r"\w*(?:straße|strasse|str\.|weg|platz|allee|gasse|ufer|damm|straat|laan|plein|gracht|"
    r"gatan|gränd|vägen|stigen|torget)"
)
_BEFORE = (  # kinds of streets that stand before the name
    r"(?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Cc]hemin|[Aa]llée|[Ii]mpasse|[Qq]uai|[Cc]ours|[Pp]lace|"
    r"Calle|Avenida|Avda\.?|C/|Plaza|Paseo|Pasaje|Ronda|Camino|Via|Viale|Piazza|Corso|Vicolo|"
    r"Strada|Contrada|Borgo|Rua|Travessa|Praça|Am|An der|Im|Auf dem|Zum|Zur)"
)
_POSTCODE = (
    r"(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|(?:[A-Z]{1,2}-)?\d{3}[ -]?\d{2}(?:-\d{3,4})?|"
    r"\d{4} ?[A-Z]{2}|\d{6}|\d{3}-\d{4})(?!\d)"
)
# What follows a street: units, districts, towns, states and postcodes, between commas.
_PLACE = rf"(?:{_UNIT}|{_POSTCODE}|{_WORDS}|\d{{1,2}}º ?\w?)"
_TAIL = rf"(?: ?,? (?:{_POSTCODE},? )?{_PLACE}(?:[ -]{_POSTCODE})?){{0,5}}"
_HEAD = "|".join(
    (
        rf"(?:{_UNIT}, )?{_NUMBER},? (?:[NSEW]\.? )?(?:{_WORD} |{_NTH} ){{1,3}}?{_STREET}",
        rf"{_NUMBER}(?: bis| ter)?,? (?:{_BEFORE}) (?:{_INNER} )*(?:l'|d')?{_WORDS}",
        rf"(?:{_WORD} )?{_JOINED} {_NUMBER}",
        rf"{_BEFORE} (?:{_INNER} )*(?:l'|d')?{_WORDS},? (?:n\.? ?)?{_NUMBER}",
        r"(?:P\.? ?O\.? Box|Postfach|Casella postale|Apartado) \d+",
        rf"{_UNIT}, {_WORDS}(?=,)",
    )
)
_ADDRESS = re.compile(rf"(?<![\w-])(?:{_HEAD}){_TAIL}")
# Any house number and words that end with a postcode, whatever the street is called.
_END = (
    rf"(?: ?, {_PLACE}){{0,4}}(?: ?,? {_WORDS})?,?[ -](?:[A-Z]{{2}} )?{_POSTCODE}(?:,? {_WORDS})?"
)
_LOOSE = re.compile(
    rf"(?<![\w-])(?:(?:{_UNIT}, )?{_NUMBER},? {_WORDS}|{_WORDS},? {_NUMBER}(?: {_UNIT})?){_END}"
)


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (_ADDRESS, _LOOSE):
        for match in pattern.finditer(text):
            # A bare "Am 3" or "Park" is no address: at least two words and a number are.
            if len(re.findall(r"[^\W\d_]{2,}", match[0])) >= 2:
                yield match.start(), match.start() + len(match[0].rstrip(" .,"))


# --- names ---

_PARTICLE = r"(?:van|von|de|der|den|del|della|di|da|dos|du|la|le|al|bin|ten|ter|zu)"
_NAME = rf"{_WORD}(?:[ ](?:{_PARTICLE}[ ]){{0,2}}{_WORD}){{0,3}}"
_KIN = (
    "sister|brother|mother|father|mum|mom|dad|wife|husband|son|daughter|aunt|uncle|cousin|niece|"
    "nephew|friend|colleague|boss|manager|teacher|neighbour|neighbor|partner|assistant|doctor|"
    "lawyer|nurse|student|pupil|client|customer|coach|landlord|flatmate|roommate"
)
_CUES = (
    r"\b(?i:my|the|our|his|her|full|first|last) (?i:name is|name's|name was) ",
    r"\b(?i:name|contact|attn|attention|signed|from|cc|to|by): *",
    r"\b(?:I am|I'm|I’m|(?i:this is)) ",
    r"\b(?i:call me|ask for|sign it with|addressed to|speak to|belongs to|named|called) ",
    rf"\b(?i:my|our|his|her|their|the)(?: \w+)? (?i:{_KIN}),? ",
    r"\b(?i:dear|hi|hello|hey),? ",
    r"\b(?i:promised) ",
)
_SIGNED = (  # a name alone on what is left of a line
    r"(?:^|\n|[.!?] )(?:\w+ ){0,2}(?i:regards|wishes|sincerely|yours|cheers|thanks|love)[,!.]?\s+"
)
_TITLE = r"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Madam|Herr|Frau|Señor|Señora|Mme)\b\.? "
_AFTER = re.compile(rf"({_NAME})(?= (?:here(?: again)?[.,!]|speaking[.,!]))")
_ANNOUNCED = re.compile(rf"(?:{'|'.join(_CUES)})(?=({_NAME}))")
_SIGNATURE = re.compile(rf"{_SIGNED}({_NAME})(?=\s*$|\n)")
_TITLED = re.compile(rf"{_TITLE}(?=({_NAME}))")
_BESIDE = re.compile(rf"({_NAME})(?:,? ?[(<]|, (?:tel\.? |at )?|: )$")  # right before other data
# Capitalised words that begin a sentence or name something else than a person.
_NO_NAMES = frozenset(
    word
    for line in (
        "a an and any are as at be but by can could did do does dr each every find for from give",
        "go had has have he hello help her here hi his how i if in is it its let list make many",
        "may me more most mr mrs my no not now of on one or our please put say she should so some",
        "such sum take tell thank thanks that the their them then there these they think this",
        "those to today tomorrow true two was we were what when where which who why will with",
        "would write yes yesterday you your monday tuesday wednesday thursday friday saturday",
        "sunday january february march april june july august september october november",
        "december english french german spanish italian dutch american british indian sir madam",
        "all everyone everybody team ok okay sure sorry great good happy new north south east",
        "west order ticket invoice isbn moon sun earth god also although before after while",
        "during because mobile phone tel fax desk office address email mail user bot date second",
        "kind best warm i'm i’m",
    )
    for word in line.split()
)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    """A run of capitalised words, cut at the first that belongs to no name.

    None where less than two characters are left.
    """
    kept = 0
    for word in re.finditer(r"\S+", text[start:end]):
        bare = word[0].strip(".,'’").removesuffix("'s").removesuffix("’s")
        if bare.lower() in _NO_NAMES or (len(bare) > 3 and bare.isupper()):
            break
        kept = word.end()
    stripped = re.sub(r"(?:['’]s)?[.,'’-]*$", "", text[start : start + kept])
    return (start, start + len(stripped)) if len(stripped) > 1 else None


def _names(text: str, others: Sequence[Span]) -> Iterator[tuple[int, int]]:
    for pattern in (_ANNOUNCED, _SIGNATURE, _TITLED, _AFTER):
        for match in pattern.finditer(text):
            if span := _trimmed(text, *match.span(1)):
                yield span
    for start, _, _ in others:
        match = _BESIDE.search(text[:start])
        if match and (span := _trimmed(text, *match.span(1))):
            yield span


def _is_public(name: str, public: Collection[str]) -> bool:
    words = re.compile(rf"\b{re.escape(name)}(?!\w)")
    return any(words.search(other) for other in public)


# --- all together ---


def find(text: str, public: Collection[str] = frozenset()) -> list[Span]:
    """Personal data in `text`, in order and without overlaps.

    Where two types claim the same place, the one that stands first in CARD, EMAIL, PHONE,
    ADDRESS, NAME has it.

    Args:    public: names of people, things and places that are no personal data; a name that
             stands among them, or in one of them, is left alone.
    >>> text = "Dear Ann Lee, write to a.lee@example.org."
    >>> find(text)
    [(5, 12, 'NAME'), (23, 40, 'EMAIL')]
    >>> find(text, public={"Ann Lee"})
    [(23, 40, 'EMAIL')]
    """
    found: list[Span] = []

    def take(kind: str, places: Iterable[tuple[int, int]]) -> None:
        for start, end in sorted(set(places), key=lambda place: (place[0] - place[1], place)):
            if all(end <= a or start >= b for a, b, _ in found):
                found.append((start, end, kind))

    take("CARD", _cards(text))
    take("EMAIL", (match.span() for match in _EMAIL.finditer(text)))
    take("PHONE", _phones(text))
    take("ADDRESS", _addresses(text))
    names = _names(text, list(found))
    take("NAME", ((a, b) for a, b in names if not _is_public(text[a:b], public)))
    return sorted(found)


def replace(text: str, spans: Iterable[Span]) -> str:
    """`text` with a placeholder such as [NAME] in the place of every span.

    >>> replace("Dear Ann Lee, hello.", [(5, 12, "NAME")])
    'Dear [NAME], hello.'
    """
    for start, end, kind in sorted(spans, reverse=True):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text


# --- measured against the truth ---


@dataclass(frozen=True)
class Score:
    """How well one type was found.

    `planted`, `found`: spans of the type; `hits`: planted spans that were found; `right`: found
    spans that hit a planted one; `planted_characters`, `covered_characters`: how much of what was
    planted lies in found spans of whichever type, which is what scrubbing takes away.
    """

    planted: int = 0
    found: int = 0
    hits: int = 0
    right: int = 0
    planted_characters: int = 0
    covered_characters: int = 0

    @property
    def precision(self) -> float:
        """Share of the found spans that are right; 1 where nothing was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the planted spans that were found; 1 where nothing was planted."""
        return self.hits / self.planted if self.planted else 1.0

    @property
    def covered(self) -> float:
        """Share of the planted characters that lie in a found span of any type."""
        return self.covered_characters / self.planted_characters if self.planted_characters else 1.0


def matches(one: Span, other: Span) -> bool:
    """Whether two spans mean the same: one type, and at least half of the longer is in both."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return one[2] == other[2] and 2 * shared >= max(one[1] - one[0], other[1] - other[0])


def score(found: Sequence[Sequence[Span]], planted: Sequence[Sequence[Span]]) -> dict[str, Score]:
    """Precision and recall per type over many texts.

    A planted span is hit where a found span `matches` it; a found span is right where it matches
    a planted one.

    Args:    found, planted: the spans of each text, texts in the same order.
    Raises:  ValueError where the two do not have one entry per text.
    """
    if len(found) != len(planted):
        raise ValueError(f"{len(found)} texts were searched, {len(planted)} planted")
    return {kind: _score_type(found, planted, kind) for kind in TYPES}


def _score_type(found, planted, kind: str) -> Score:
    counts = [0] * 6
    for ours, truth in zip(found, planted, strict=True):
        mine = [span for span in ours if span[2] == kind]
        theirs = [span for span in truth if span[2] == kind]
        inside = {place for start, end, _ in ours for place in range(start, end)}
        places = [place for start, end, _ in theirs for place in range(start, end)]
        row = (
            len(theirs),
            len(mine),
            sum(any(matches(span, other) for other in mine) for span in theirs),
            sum(any(matches(span, other) for other in theirs) for span in mine),
            len(places),
            sum(place in inside for place in places),
        )
        counts = [count + more for count, more in zip(counts, row, strict=True)]
    return Score(*counts)
