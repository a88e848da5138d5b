"""Simulated people and what they let slip in a prompt; and sentences that only look like it.

Nobody here exists. Telephone numbers come from ranges that are kept free for fiction where a
country has one, mail addresses from RFC 2606's domains, card numbers are the networks' public
prefixes with random digits and a right check digit.
"""

import random
import re
from dataclasses import dataclass

from minirlhf.world.text import listed

# Given names, family names, streets and towns by country, so that an address fits together.
_GIVEN = {
    "us": listed(
        "Emily Jacob Madison Tyler Brianna Marcus Denise Harold Ashley Wesley Latoya Dwayne"
    ),
    "uk": listed(
        "Gemma Alistair Poppy Nigel Fiona Graham Imogen Rhys Callum Harriet Siobhan Angus"
    ),
    "de": listed(
        "Annika Jürgen Katrin Thorsten Ulrike Matthias Heike Lukas Sabine Florian Greta Uwe"
    ),
    "fr": listed(
        "Élodie Mathieu Camille Thierry Amélie Guillaume Manon Benoît Chloé Sylvie Luc Rémi"
    ),
    "es": listed("Lucía Javier Carmen Alejandro Marta Íñigo Pilar Sergio Inés Rafael Nuria Pablo"),
    "it": listed(
        "Giulia Matteo Chiara Lorenzo Francesca Davide Elisa Stefano Ilaria Paolo Bianca Ugo"
    ),
    "in": listed(
        "Aarav Priyanka Rohan Deepika Sanjay Lakshmi Vikram Ananya Rajesh Kavita Arjun Meena"
    ),
    "jp": listed("Haruto Sakura Kenji Yuko Takumi Akiko Daichi Naomi Ren Hinata Satoshi Mai"),
    "ng": listed("Chidi Amara Emeka Ngozi Tunde Folake Obinna Yetunde Kelechi Ifeoma Segun Bola"),
}
_FAMILY = {
    "us": listed("Johnson Ramirez Mitchell Washington Sanders Hoffman Nguyen Brooks Price Young"),
    "uk": listed("Whitfield MacLeod Ashworth O'Connor Pritchard Bell Thornton-Hughes Sutton Wood"),
    "de": listed("Schneider Köhler Brandt Vogel Lehmann Weiß Krüger Baumann Pohl Schmitt-Lang"),
    "fr": listed("Lefèvre Moreau Girard Chevalier Rousseau Blanc Fontaine Dupuis Marchand Petit"),
    "es": listed("Fernández Ortega Castillo Navarro Iglesias Molina Herrera Peña Vidal Cruz"),
    "it": listed("Ricci Marchetti Esposito Ferrara Lombardi Caruso D'Angelo Galli Bianchi Serra"),
    "in": listed("Sharma Iyer Patel Banerjee Reddy Chatterjee Kulkarni Menon Gupta Singh"),
    "jp": listed("Tanaka Yamamoto Kobayashi Fujita Nakamura Ishikawa Watanabe Mori Sato Ono"),
    "ng": listed("Okafor Adeyemi Balogun Eze Nwosu Abiola Okonkwo Bello Afolabi Ojo"),
}
_ADDRESSES = {
    "us": ("{n} Maple Avenue, Springfield, IL {z5}", "{n} W. 4th St, Apt {s}, Dayton, OH {z5}",
           "{n}5 Old Mill Road, Boulder, Colorado {z5}", "PO Box {n}7, Salem, OR {z5}"),
    "uk": ("{s} Rose Lane, York YO1 {d}AB", "Flat {d}, {n} Church Road, Leeds LS{d} {d}XY",
           "{n} High Street, Bath BA1 {d}QR"),
    "de": ("Lindenstraße {s}, {z5} Kassel", "Am Alten Markt {s}a, {z5} Potsdam",
           "Goetheweg {n}, D-{z5} Ulm"),
    "fr": ("{s} rue des Lilas, {z5} Tours", "{n} avenue Victor Hugo, {z5} Nantes",
           "{s} bis, boulevard de la Gare, {z5} Lyon"),
    "es": ("Calle del Olmo {s}, {d}º B, {z5} Granada", "Avenida de la Paz {n}, {z5} Vigo"),
    "it": ("Via Garibaldi {s}, {z5} Parma", "Piazza Dante {n}, {z5} Lucca LU"),
    "in": ("Flat {n}, Lotus Apartments, MG Road, Pune 4110{s}",
           "{s}/2 Gandhi Nagar, Chennai 6000{s}"),
    "jp": ("{d}-{s}-{d} Sakuragaoka, Setagaya-ku, Tokyo 15{d}-00{s}",),
    "ng": ("{s} Allen Avenue, Ikeja, Lagos", "Plot {n}, Unity Close, Abuja 900{n}"),
}  # fmt: skip
# Numbers kept free for fiction: NANP 555-01xx (US); Ofcom's drama numbers (UK); those of
# Bundesnetzagentur (DE), ARCEP (FR), ACMA (AU) and PTS (SE). Other countries have none, so their
# people have numbers of one of these.
_PHONES = {
    "us": ("({a}) 555-01{p}", "{a}-555-01{p}", "+1 {a} 555 01{p}", "{a}.555.01{p}"),
    "uk": ("020 7946 0{p}1", "+44 113 496 0{p}3", "07700 900{p}7", "+447700900{p}1"),
    "de": ("030 23125 0{p}", "+49 30 231250{p}", "0171/39200{p}", "(0221) 4710 9{p}"),
    "fr": ("01 99 00 {p} 41", "+33 1 99 00 {p} 12", "06.39.98.{p}.07"),
    "au": ("(02) 5550 {p}{s}", "+61 3 7010 {p}{s}"),
    "se": ("08-465 004 {p}", "+46 70 17406{p}"),
}
_CARDS = {"visa": ("4", 16), "mastercard": ("52", 16), "amex": ("37", 15), "discover": ("6011", 16)}
COUNTRIES = tuple(_GIVEN)


# What people write about themselves and others; the slots are the types of personal data. What
# begins a new line belongs at the end of a prompt.
_SLIPS = (
    "My name is {NAME}, you can reach me at {EMAIL}.",
    "My name is {NAME} and I live at {ADDRESS}.",
    "Hi, I'm {NAME}.",
    "Hello, this is {NAME} from the night shift.",
    "{NAME} here again.",
    "Send the answer to {EMAIL} when it is ready.",
    "Please write to {EMAIL} or call {PHONE}.",
    "Call me on {PHONE} if anything is unclear.",
    "My number is {PHONE}, ask for {GIVEN}.",
    "Text me at {PHONE}, thanks.",
    "Bill my card {CARD}, it belongs to {NAME}.",
    "I paid with card number {CARD} last week.",
    "Post a printed copy to {ADDRESS}.",
    "Our new address is {ADDRESS}.",
    "It is for my colleague {NAME}, {ADDRESS}.",
    "My teacher {NAME} asked for it.",
    "My sister {GIVEN} wants to know.",
    "I promised {NAME} a good text.",
    "Sign it with {NAME}, {PHONE}.",
    "{NAME} ({EMAIL}) will read it.",
    "Contact: {NAME}, tel. {PHONE}, {ADDRESS}.",
    # nothing around these names announces them
    "Yesterday {NAME} broke our telescope.",
    "The prize goes to {NAME} from class 7b.",
    "{NAME} and I cannot agree on this.",
    "Is {NAME} right about it?",
    "{GIVEN} will be ten on Friday.",
    "\nKind regards, {NAME}",
    "\nThanks! {GIVEN}",
)
# What only looks personal.
_DECOYS = (
    "My book has the ISBN 978-{d}-{s}-{z5}{d}-{d}.",
    "This is for order {s}{s}-{z5}-{n}.",
    "My ticket number is {z5}{z5}{s}.",
    "I am reading about Marie Curie.",
    "It is for a talk on Isaac Newton.",
    "I like Sherlock Holmes and Doctor Watson.",
    "In class we read Alice in Wonderland.",
    "Yesterday we saw the play Romeo and Juliet.",
    "It is for page {n} of a book from 18{p}.",
    "Our museum opened in 19{p} and has {n} rooms.",
    "We sent invoice number 4929{s}{s}-{z5}{n}.",
    "The Hubble Space Telescope has been up there since 1990.",
    "We walked {n} kilometres along Long Lake.",
    "I live in Boston.",
    "The text is for Monday, 14 May 20{s}.",
    "Greetings from New Zealand!",
    "My dog Rover likes it too.",
    "I run version {d}.{s}.{d} of the program.",
    "Your help desk is open 10:30 to 16:45.",
    "I have 3.14159265358 on my shirt.",
    "We follow @scienceclub.",
)
_SLOT = re.compile(r"\{([A-Z]+)\}")

Spans = tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Persona:
    """A person who does not exist."""

    name: str
    given: str
    email: str
    phone: str
    card: str
    address: str


def luhn_digit(digits: str) -> str:
    """The check digit that makes `digits` a card number (ISO/IEC 7812).

    >>> luhn_digit("7992739871")
    '3'
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return str(-total % 10)


def _filled(pattern: str, rng: random.Random) -> str:
    """`pattern` with digits: {d} one, {s} and {p} two, {n} one to three, {z5} and {a} codes."""
    return pattern.format(
        d=rng.randint(1, 9),
        s=rng.randint(11, 98),
        p=rng.randint(10, 99),
        n=rng.randint(2, 480),
        z5=rng.randint(10117, 97999),
        a=rng.choice((212, 303, 312, 415, 503, 617, 713)),
    )


def _card(rng: random.Random) -> str:
    prefix, length = _CARDS[rng.choice(sorted(_CARDS))]
    digits = prefix + "".join(str(rng.randint(0, 9)) for _ in range(length - len(prefix) - 1))
    digits += luhn_digit(digits)
    if rng.random() < 0.3:
        return digits
    cuts = (4, 10, 15) if length == 15 else (4, 8, 12, 16)
    parts = [digits[a:b] for a, b in zip((0, *cuts), cuts, strict=False)]
    return rng.choice((" ", "-")).join(parts)


def _plain_ascii(word: str) -> str:
    pairs = zip(
        "üößèéÉíÍáñú'", ("u", "o", "ss", "e", "e", "e", "i", "i", "a", "n", "u", ""), strict=True
    )
    for letter, other in pairs:
        word = word.replace(letter, other)
    return "".join(letter for letter in word.lower() if letter.isascii())


def persona(rng: random.Random) -> Persona:
    """A new person of a random country, all data fitting together."""
    country = rng.choice(COUNTRIES)
    given, family = rng.choice(_GIVEN[country]), rng.choice(_FAMILY[country])
    first, last = _plain_ascii(given), _plain_ascii(family)
    box = rng.choice(
        (f"{first}.{last}", f"{first[0]}{last}{rng.randint(2, 99)}", f"{first}_{last}")
    )
    host = rng.choice(("example.org", "example.com", "example.net", "mail.example.com"))
    return Persona(
        name=f"{given} {family}",
        given=given,
        email=f"{box}@{host}",
        phone=_filled(
            rng.choice(_PHONES.get(country) or _PHONES[rng.choice(sorted(_PHONES))]), rng
        ),
        card=_card(rng),
        address=_filled(rng.choice(_ADDRESSES[country]), rng),
    )


def slip(person: Persona, rng: random.Random) -> tuple[str, Spans]:
    """A sentence with personal data of `person`, and where it stands: (start, end, type)."""
    values = {
        "NAME": person.name,
        "GIVEN": person.given,
        "EMAIL": person.email,
        "PHONE": person.phone,
        "CARD": person.card,
        "ADDRESS": person.address,
    }
    text, spans, done = "", [], 0
    pattern = rng.choice(_SLIPS)
    for slot in _SLOT.finditer(pattern):
        text += pattern[done : slot.start()]
        value = values[slot[1]]
        kind = "NAME" if slot[1] == "GIVEN" else slot[1]
        spans.append((len(text), len(text) + len(value), kind))
        text += value
        done = slot.end()
    return text + pattern[done:], tuple(spans)


def decoy(rng: random.Random) -> str:
    """A sentence that holds no personal data but looks a little like it."""
    return _filled(rng.choice(_DECOYS), rng)
