"""Personal data in prompts: found, replaced by placeholders, and measured against the truth."""

import re

TYPES = ("NAME", "EMAIL", "PHONE", "CARD", "ADDRESS")
Span = tuple[int, int, str]


def find(text, public=frozenset()):
    return [(m.start(), m.end(), "EMAIL") for m in re.finditer(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", text)]


def replace(text, spans):
    for start, end, kind in sorted(spans, reverse=True):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text
