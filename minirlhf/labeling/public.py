"""Public comparison data in the schemas they were published in, as Ranking records.

| schema | published as | what becomes a ranking |
|---|---|---|
| hh-rlhf | Anthropic/hh-rlhf: helpful-*, harmless-base | two dialogues up to their last reply |
| summarize-from-feedback | openai/summarize_from_feedback: comparisons | two summaries of a text |
| ultrafeedback | openbmb/UltraFeedback | four scored completions; equal scores tie |
| ultrafeedback-binarized | HuggingFaceH4/ultrafeedback_binarized: *_prefs | two of those |

A row that is not of the schema (a field missing, another type) is a DataError that names its line.
A row of the schema that holds no comparison to learn from is left out and counted.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minirlhf.engine.records import DataError, Ranking
from minirlhf.labeling.rows import dialogue, field, read_rows

EXAMPLES = 3
SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
# The prompts of Stienon et al. 2020 (arXiv:2009.01325), as their code writes them.
POST = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\nTL;DR:"
ARTICLE = "Article:\n{article}\n\nTL;DR:"


class Unusable(Exception):
    """A row of the schema that holds no comparison; its text is the reason."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a public data set's rows.

    `skipped` counts rows left out by reason, `examples` names the first EXAMPLES of each.
    """

    schema: str
    rows: int
    kept: int
    skipped: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        parts = (f"{count} {reason}" for reason, count in sorted(self.skipped.items()))
        return (
            f"{self.schema}: {self.rows} rows -> {self.kept} rankings ({', '.join(parts) or 'all'})"
        )


def load_public(
    source: str | Path | Iterable[Mapping], schema: str
) -> tuple[list[Ranking], LoadReport]:
    """Rankings from a local copy of a public data set.

    Args:    source, a file (JSON Lines, JSON, parquet, each also gzipped) or a Dataset already
             loaded; schema, one of SCHEMAS.
    Returns: the rankings in the rows' order, with `where`; what was left out.
    Raises:  DataError, "FILE:LINE: field 'x': what is wrong".
    """
    if schema not in SCHEMAS:
        raise DataError(f"unknown schema {schema!r}; known are {', '.join(SCHEMAS)}")
    rankings, skipped, rows = [], defaultdict(list), 0
    for where, row in read_rows(source):
        rows += 1
        try:
            values = SCHEMAS[schema](row)
            if not all(text.strip() for text in (*values["history"][::2], values["prompt"])):
                raise Unusable("an empty message of the user")
            rankings.append(Ranking(**values, where=where))
        except Unusable as reason:
            skipped[str(reason)].append(where)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    if not rows:
        raise DataError(
            f"{source if isinstance(source, (str, Path)) else 'the data'}: holds no rows"
        )
    report = LoadReport(
        schema,
        rows,
        len(rankings),
        {reason: len(places) for reason, places in skipped.items()},
        {reason: tuple(places[:EXAMPLES]) for reason, places in skipped.items()},
    )
    return rankings, report


def _comparison(context: Sequence[str], chosen: str, rejected: str) -> dict:
    """A ranking of two; `context` ends with the prompt."""
    if chosen == rejected:
        raise Unusable("the same response twice")
    return {
        "prompt": context[-1],
        "history": tuple(context[:-1]),
        "responses": (chosen, rejected),
        "ranks": (1, 2),
    }


def transcript_turns(text: str) -> list[str]:
    """The messages of an HH-RLHF transcript, human and assistant in turn.

    A marker of the side that has the word already is part of what it says, since sides take turns.

    Raises:  DataError where the text does not start with a marker.
    >>> transcript_turns("\\n\\nHuman: Why?\\n\\nHuman: Say.\\n\\nAssistant: So.")
    ['Why?\\n\\nHuman: Say.', 'So.']
    """
    first = SPEAKER.match(text)
    if not first:
        raise DataError("does not start with a blank line and 'Human: '")
    if first[1] != "Human":
        raise Unusable("starts with the assistant")
    turns, start, speaker = [], first.end(), "Human"
    for marker in SPEAKER.finditer(text, first.end()):
        if marker[1] != speaker:
            turns.append(text[start : marker.start()])
            start, speaker = marker.end(), marker[1]
    return [*turns, text[start:]]


def _hh_rlhf(row: Mapping) -> dict:
    if "transcript" in row and "chosen" not in row:
        raise DataError(
            "field 'chosen': is missing; red-team-attempts hold single dialogues, not comparisons: "
            "load harmless-base or one of helpful-*"
        )
    sides = []
    for name in ("chosen", "rejected"):
        try:
            sides.append(transcript_turns(field(row, name, str)))
        except DataError as error:
            text = str(error)
            raise DataError(
                text if text.startswith("field") else f"field '{name}': {text}"
            ) from None
    chosen, rejected = sides
    if len(chosen) % 2 or len(rejected) % 2:
        raise Unusable("ends with the human")
    if chosen[:-1] != rejected[:-1]:
        # dialogues that go on after they part compare more than two replies to one prompt
        raise Unusable("the dialogues part before the last reply")
    return _comparison(chosen[:-1], chosen[-1], rejected[-1])


def _summarize_from_feedback(row: Mapping) -> dict:
    info = field(row, "info", dict)
    if info.get("post") is None and info.get("article") is not None:
        prompt = ARTICLE.format(article=field(row, "info.article", str))
    else:
        names = ("post", "subreddit", "title")
        prompt = POST.format(**{name: field(row, f"info.{name}", str) for name in names})
    summaries = field(row, "summaries", list)
    if len(summaries) != 2:
        raise DataError(f"field 'summaries': has {len(summaries)}; a comparison has 2")
    # the published texts start with the space that GPT's tokens want
    texts = [_item(summaries, "summaries", i, "text").removeprefix(" ") for i in range(2)]
    choice = field(row, "choice", int)
    if choice not in (0, 1):
        raise DataError(f"field 'choice': must be 0 or 1, is {choice}")
    confidence = None
    if field(row, "extra", dict, optional=True):
        confidence = field(row, "extra.confidence", int, optional=True)
    return {
        **_comparison([prompt], texts[choice], texts[1 - choice]),
        "labeler": field(row, "worker", str),
        "reason": "" if confidence is None else f"confidence {confidence}",
        "id": field(row, "info.id", str, optional=True) or "",
        "use_case": "summarization",
    }


def _item(items: list, name: str, i: int, key: str) -> str:
    """Text `key` of an object in a list."""
    try:
        if not isinstance(items[i], Mapping):
            raise DataError(f"field '{key}': stands in no object")
        return field(items[i], key, str)
    except DataError as error:
        raise DataError(f"field '{name}': number {i + 1}: {error}") from None


def _number(values: Mapping, name: str) -> float | None:
    """A score; None where it is missing, null or NaN."""
    score = field(values, name, float, optional=True)
    return None if score is None or score != score else score


def _mean_rating(completion: Mapping) -> float | None:
    """The mean of a completion's ratings by aspect, which are texts, 1 to 5 or N/A."""
    ratings = []
    for aspect in field(completion, "annotations", dict, optional=True) or ():
        text = field(completion, f"annotations.{aspect}.Rating", str, optional=True) or "N/A"
        if not re.fullmatch("[1-5]|N/A", text):
            raise DataError(
                f"field 'annotations.{aspect}.Rating': must be 1 to 5 or N/A, is {text!r}"
            )
        ratings += [] if text == "N/A" else [int(text)]
    return sum(ratings) / len(ratings) if ratings else None


# The fine-grained score is the mean of the ratings; the overall one comes from a critique, was
# wrong for many responses at first (10 for 1) and is the last resort.
SCALES: tuple[Callable[[Mapping], float | None], ...] = (
    lambda completion: _number(completion, "fine-grained_score"),
    _mean_rating,
    lambda completion: _number(completion, "overall_score"),
)


def _scores(completions: list[Mapping]) -> list[float | None]:
    """Scores on the first scale that rates most of the completions; None where it does not.

    Scales are never mixed within a row: their numbers cannot be compared.
    """
    best: list[float | None] = []
    for scale in SCALES:
        scores = []
        for i, completion in enumerate(completions):
            try:
                scores.append(scale(completion))
            except DataError as error:
                raise DataError(f"field 'completions': number {i + 1}: {error}") from None
        if not best or scores.count(None) < best.count(None):
            best = scores
        if None not in best:
            break
    return best


def _ultrafeedback(row: Mapping) -> dict:
    prompt = field(row, "instruction", str)
    completions = field(row, "completions", list)
    responses = [_item(completions, "completions", i, "response") for i in range(len(completions))]
    scores = _scores(completions)
    rated = [i for i, score in enumerate(scores) if score is not None]
    if len(rated) < 2:
        raise Unusable("fewer than two rated responses")
    order = sorted({scores[i] for i in rated}, reverse=True)
    if len(order) == 1:
        raise Unusable("equal scores")
    return {
        "prompt": prompt,
        "history": (),
        "responses": tuple(responses[i] for i in rated),
        "ranks": tuple(order.index(scores[i]) + 1 for i in rated),
        "labeler": "gpt-4",
    }


def _ultrafeedback_binarized(row: Mapping) -> dict:
    chosen, rejected = dialogue(row, "chosen"), dialogue(row, "rejected")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) % 2:
            raise DataError(f"field '{name}': does not end with a message of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise DataError("field 'rejected': answers another dialogue than 'chosen'")
    better, worse = (field(row, f"score_{name}", float) for name in ("chosen", "rejected"))
    if better < worse:
        raise DataError(f"field 'score_rejected': {worse} is above 'score_chosen', {better}")
    if better == worse:
        raise Unusable("equal scores")
    return {
        **_comparison(chosen[:-1], chosen[-1], rejected[-1]),
        "labeler": "gpt-4",
        "id": field(row, "prompt_id", str, optional=True) or "",
    }


SCHEMAS: dict[str, Callable[[Mapping], dict]] = {
    "hh-rlhf": _hh_rlhf,
    "summarize-from-feedback": _summarize_from_feedback,
    "ultrafeedback": _ultrafeedback,
    "ultrafeedback-binarized": _ultrafeedback_binarized,
}
