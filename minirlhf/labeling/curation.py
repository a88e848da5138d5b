"""From raw prompts to splits: duplicates, heavy users, languages, personal data, leaks.

Each step is a plain function that returns what it kept and a `StepReport`. `curate` runs them in
the paper's order. Source: Ouyang et al. 2022, section 3.2 and appendix A (arXiv:2203.02155).
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from minirlhf.engine.records import DataError
from minirlhf.labeling import personal
from minirlhf.labeling.submissions import Submission

PREFIX_LIMIT = 100  # characters; ours, the paper says "long"
USER_CAP = 200  # prompts of one user, the paper's number
CUSTOMER_SHARES = {"train": 0.55, "valid": 0.30, "test": 0.15}
LABELER_SHARES = {"train": 0.78, "valid": 0.22}  # 17,918 to 5,038 in the paper's Table 6
LANGUAGE = "en"
# Telling more languages apart than are sent costs accuracy on texts as short as these.
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "pl", "fi", "ro", "cs")
EXAMPLES = 3


@dataclass(frozen=True)
class StepReport:
    """What one step did: counts of submissions, and ids of a few that show it.

    `removed` and `changed` count by reason, `examples` names up to EXAMPLES ids for each reason.
    """

    step: str
    before: int
    after: int
    removed: Mapping[str, int]
    changed: Mapping[str, int]
    examples: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        counts = {**self.removed, **self.changed}
        parts = (f"{count} {reason}" for reason, count in sorted(counts.items()))
        return f"{self.step}: {self.before} -> {self.after} ({', '.join(parts) or 'no change'})"


def _report(step: str, before: int, removed: dict, changed: dict | None = None) -> StepReport:
    """A report from the lists of ids that fell to each reason."""
    changed = changed or {}
    return StepReport(
        step,
        before,
        before - sum(map(len, removed.values())),
        {reason: len(ids) for reason, ids in removed.items()},
        {reason: len(ids) for reason, ids in changed.items()},
        {reason: tuple(ids[:EXAMPLES]) for reason, ids in {**removed, **changed}.items()},
    )


def plain(text: str) -> str:
    """`text` as duplicates are compared: NFKC, lower case, single spaces, no mark at its end.

    >>> plain("  What is  the MOON? ")
    'what is the moon'
    """
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return words.rstrip(" .!?…") or words


def compared(submission: Submission) -> str:
    """The whole text of a submission, history first, as duplicates are compared.

    The history counts: "And how old is it?" is another prompt in every dialogue.
    """
    return "\n".join(plain(message) for message in (*submission.history, submission.prompt))


def drop_shared_prefixes(
    submissions: Sequence[Submission], limit: int = PREFIX_LIMIT
) -> tuple[list[Submission], StepReport]:
    """Keep the first of all submissions that are equal or share a prefix of `limit` characters.

    Two texts share a prefix of at least `limit` characters exactly when their first `limit`
    characters are equal, so a dictionary finds in O(n) what sorting and comparing neighbours
    finds in O(n log n). Texts are compared as `compared` writes them, over all users. A text
    shorter than `limit` falls only to its exact copy. Of prompts that begin with the same
    template of `limit` characters or more, one is kept.

    Source: Ouyang et al. 2022, section 3.2: prompts "that share a long common prefix".
    Args:    limit: characters, at least 1.
    Returns: the kept submissions in their order; the report tells copies from shared prefixes.
    Raises:  ValueError where limit is less than 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1 character, is {limit}")
    first: dict[str, str] = {}
    kept, removed = [], defaultdict(list)
    for submission in submissions:
        text = compared(submission)
        if text[:limit] not in first:
            first[text[:limit]] = text
            kept.append(submission)
        else:
            copied = first[text[:limit]] == text
            removed["exact copy" if copied else f"shares {limit} characters"].append(submission.id)
    return kept, _report("drop_shared_prefixes", len(submissions), removed)


def cap_per_user(
    submissions: Sequence[Submission], cap: int = USER_CAP
) -> tuple[list[Submission], StepReport]:
    """Keep each user's first `cap` submissions.

    Source: Ouyang et al. 2022, section 3.2: 200 prompts per user ID.
    Raises:  ValueError where cap is less than 1.
    """
    if cap < 1:
        raise ValueError(f"cap must be at least 1, is {cap}")
    kept, sent, removed = [], defaultdict(int), defaultdict(list)
    for submission in submissions:
        sent[submission.user] += 1
        if sent[submission.user] <= cap:
            kept.append(submission)
        else:
            removed[f"over {cap} of its user"].append(submission.id)
    return kept, _report("cap_per_user", len(submissions), removed)


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier


def identify_language(text: str) -> str:
    """The ISO 639-1 code, one of LANGUAGES, that py3langid gives `text`.

    Its model comes with the package, so nothing is fetched.

    >>> identify_language("Warum ist der Himmel am Tag blau und nachts schwarz?")
    'de'
    """
    return _identifier().classify(text)[0]


def keep_language(
    submissions: Sequence[Submission],
    language: str = LANGUAGE,
    identify: Callable[[str], str] = identify_language,
) -> tuple[list[Submission], StepReport]:
    """Keep the submissions whose whole text is in `language`, as `identify` tells it.

    The `language` that a submission may carry is not looked at: it is the truth to measure by.
    Source: Ouyang et al. 2022, appendix A: langid found about 96 % English.
    """
    kept, removed = [], defaultdict(list)
    for submission in submissions:
        found = identify("\n".join((*submission.history, submission.prompt)))
        if found == language:
            kept.append(submission)
        else:
            removed[f"in {found}"].append(submission.id)
    return kept, _report("keep_language", len(submissions), removed)


def scrub(
    submissions: Sequence[Submission], public: Iterable[str] = ()
) -> tuple[list[Submission], StepReport]:
    """Personal data in prompts and histories, replaced by [NAME], [EMAIL] and so on.

    Nothing is removed. A changed submission loses its `personal`, whose places no longer hold.
    Source: Ouyang et al. 2022, section 3.2: prompts of the training split were filtered for
    personally identifiable information. Ours are filtered in every split.
    Args:    public: names that are no personal data, such as those of scientists.
    """
    public = frozenset(public)
    kept, changed = [], defaultdict(list)
    for submission in submissions:
        texts = []
        for text in (*submission.history, submission.prompt):
            spans = personal.find(text, public)
            texts.append(personal.replace(text, spans))
            for kind in sorted({kind for _, _, kind in spans}):
                if submission.id not in changed[kind][-1:]:
                    changed[kind].append(submission.id)
        *history, prompt = texts
        if (tuple(history), prompt) != (submission.history, submission.prompt):
            submission = replace(submission, history=tuple(history), prompt=prompt, personal=())
        kept.append(submission)
    return kept, _report("scrub", len(submissions), {}, changed)


def split_of(user: str, seed: int = 0, shares: Mapping[str, float] = CUSTOMER_SHARES) -> str:
    """The split of a user: a hash of seed and name, so that new users move nobody.

    Source: Ouyang et al. 2022, section 3.2: splits are made by user ID.
    Args:    shares: split -> share of the users, in order; they add up to 1.
    Raises:  ValueError where the shares do not add up to 1.
    """
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0:
        raise ValueError(f"shares must be positive and add up to 1, are {dict(shares)}")
    digest = hashlib.sha256(f"{seed}/{user}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name  # rounding


def split_by_user(
    submissions: Sequence[Submission], seed: int = 0
) -> tuple[dict[str, list[Submission]], StepReport]:
    """Every user with all their submissions in one split; labelers never in the test split.

    Returns: split -> submissions in their order, a list for every split.
    """
    splits: dict[str, list[Submission]] = {name: [] for name in CUSTOMER_SHARES}
    for submission in submissions:
        shares = LABELER_SHARES if submission.source == "labeler" else CUSTOMER_SHARES
        splits[split_of(submission.user, seed, shares)].append(submission)
    moved = {name: [s.id for s in part] for name, part in splits.items()}
    return splits, _report("split_by_user", len(submissions), {}, moved)


def check_leakage(
    splits: Mapping[str, Sequence[Submission]],
    keys: Callable[[Submission], Iterable[str]] = lambda submission: (),
    apart: Iterable[tuple[str, str]] | None = None,
) -> None:
    """Refuse splits that share a user, a prompt, a long prefix or one of the caller's keys.

    A user, a text as `compared` writes it and its first PREFIX_LIMIT characters may stand in one
    split only. A template that customers share is no leak as long as it is shorter than that.

    Args:    keys: what else may not be shared, such as the ids of a prompt's facts; apart: pairs
             of splits that may share no key, without it all pairs. Training and validation may
             well ask about the same facts.
    Raises:  DataError that names the two ids and splits.
    """
    seen: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    pairs = None if apart is None else {frozenset(pair) for pair in apart}
    for name, part in splits.items():
        for submission in part:
            text = compared(submission)
            marks = [("user", submission.user), ("prompt", text)]
            if len(text) >= PREFIX_LIMIT:
                marks.append((f"prefix of {PREFIX_LIMIT} characters", text[:PREFIX_LIMIT]))
            marks += [("key", key) for key in keys(submission)]
            for what, value in marks:
                places = seen[what, value]
                for other, earlier in places.items():
                    counts = what != "key" or pairs is None or {name, other} in pairs
                    if other != name and counts:
                        raise DataError(
                            f"{what} {value!r} stands in two splits: {other!r} with "
                            f"{earlier!r} and {name!r} with {submission.id!r}"
                        )
                places.setdefault(name, submission.id)


def curate(
    submissions: Sequence[Submission],
    seed: int = 0,
    public: Iterable[str] = (),
    cap: int = USER_CAP,
) -> tuple[dict[str, list[Submission]], list[StepReport]]:
    """All steps in order: duplicates, cap, language, personal data, duplicates again, split.

    Scrubbing makes prompts equal that differed in a name only, hence the second look. The splits
    are checked for leaks of users, prompts and prefixes; a caller who knows of more, such as the
    facts, calls `check_leakage` again with `keys`.
    """
    reports = []
    steps = (
        drop_shared_prefixes,
        lambda kept: cap_per_user(kept, cap),
        keep_language,
        lambda kept: scrub(kept, public),
        drop_shared_prefixes,
    )
    kept = list(submissions)
    for step in steps:
        kept, report = step(kept)
        reports.append(report)
    splits, report = split_by_user(kept, seed)
    check_leakage(splits)
    return splits, [*reports, report]
