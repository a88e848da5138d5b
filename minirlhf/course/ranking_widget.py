"""Rank responses by dragging cards in a notebook, or in one line of plain Python.

The widget's whole state is `ranks`, the same tuple that `rank("D > C > A = B", n=4)` returns, so
nothing in a notebook depends on a browser.
"""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

import anywidget
import traitlets

from minirlhf.engine.records import Ranking
from minirlhf.maths.preferences import ranking_to_pairs


def rank(text: str, n: int) -> tuple[int, ...]:
    """Read an order written with letters: `>` means better than, `=` means tied with.

    Args:    text: every letter from A on exactly once, best first, such as "D > C > A = B";
             n: how many responses there are, 2 to 26.
    Returns: ranks (n,), in the order A, B, C, ...: 1 = best, equal = tied, no gaps.
    Raises:  ValueError that names the letter that is unknown, missing or repeated.

    >>> rank("D > C > A = B", n=4)
    (3, 3, 2, 1)
    >>> rank("D > C > A", n=4)
    Traceback (most recent call last):
        ...
    ValueError: answer B is missing from 'D > C > A'
    """
    letters = tuple(_letters(n))  # a tuple, since "AB" is in "ABCD"
    ranks: dict[str, int] = {}
    for place, group in enumerate(text.upper().split(">"), start=1):
        for name in (part.strip() for part in group.split("=")):
            if not name:
                raise ValueError(f"a letter is missing beside '>' or '=' in {text!r}")
            if name not in letters:
                hint = f"the answers are A to {letters[-1]}, with > or = between them"
                raise ValueError(f"unknown answer {name!r} in {text!r}: {hint}")
            if name in ranks:
                raise ValueError(f"answer {name} is named twice in {text!r}")
            ranks[name] = place
    for name in letters:
        if name not in ranks:
            raise ValueError(f"answer {name} is missing from {text!r}")
    return tuple(ranks[name] for name in letters)


def order(ranks: Sequence[int]) -> str:
    """Write ranks as letters, best first: the inverse of `rank`.

    >>> order((3, 3, 2, 1))
    'D > C > A = B'
    """
    letters = _letters(len(ranks))
    groups = ([a for a, r in zip(letters, ranks, strict=True) if r == at] for at in _places(ranks))
    return " > ".join(" = ".join(group) for group in groups)


class RankingWidget(anywidget.AnyWidget):
    """Cards that are dragged into an order; a card dropped on another one is tied with it.

    Args:    prompt: the text that the responses answer; responses: 2 to 26 texts, shown as they
             are and never read as HTML; ranks: the order to begin with (K,), 1 = best,
             equal = tied; by default the order of the responses.
    Raises:  ValueError for fewer than 2 or more than 26 responses; traitlets.TraitError where
             ranks do not fit them, whether they come from Python or from the browser.

    >>> widget = RankingWidget("What is the moon?", ["a rock", "a star", "a satellite"])
    >>> widget.ranks = rank("C > A = B", n=3)
    >>> widget.summary(), widget.pairs()
    ('C > A = B', [('C', 'A'), ('C', 'B')])
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    ranks = traitlets.Tuple().tag(sync=True)
    # For the browser to read; what Python goes by are plain attributes that no message can change.
    _prompt = traitlets.Unicode().tag(sync=True)
    _responses = traitlets.Tuple().tag(sync=True)

    def __init__(self, prompt: str, responses: Sequence[str], ranks: Sequence[int] | None = None):
        letters = _letters(len(responses))
        self.prompt = prompt
        self.responses = tuple(responses)
        ranks = range(1, len(letters) + 1) if ranks is None else ranks
        super().__init__(_prompt=prompt, _responses=self.responses, ranks=tuple(ranks))

    @traitlets.validate("ranks")
    def _check_ranks(self, proposal: dict) -> tuple[int, ...]:
        """Refuse what is not a ranking of these responses; close gaps: (1, 3, 3) is (1, 2, 2)."""
        ranks = proposal["value"]
        if len(ranks) != len(self.responses):
            raise traitlets.TraitError(
                f"ranks: {len(ranks)} given for {len(self.responses)} responses"
            )
        for value in ranks:
            if type(value) is not int or value < 1:  # bool is an int too, but not a rank
                raise traitlets.TraitError(f"ranks: {value!r} is not 1, 2, 3, ...")
        places = _places(ranks)
        return tuple(places.index(value) + 1 for value in ranks)

    def summary(self) -> str:
        """The order in one line, such as "D > C > A = B"."""
        return order(self.ranks)

    def pairs(self) -> list[tuple[str, str]]:
        """The (better, worse) pairs in the ranking, as letters, best first; a tie gives none."""
        letters = _letters(len(self.ranks))
        pairs = ranking_to_pairs(self.ranks)
        pairs.sort(key=lambda pair: [self.ranks[i] for i in pair])
        return [(letters[better], letters[worse]) for better, worse in pairs]

    def to_ranking(self, labeler: str = "", reason: str = "") -> Ranking:
        """The record that the reward model trains on.

        Raises: minirlhf.engine.records.DataError where all responses are tied.
        """
        return Ranking(self.prompt, self.responses, self.ranks, labeler=labeler, reason=reason)

    def __repr__(self) -> str:
        """The ranking as text, for a notebook read where no widget can run."""
        lines = [f"Prompt: {self.prompt}"]
        for place in _places(self.ranks):
            tied = self.ranks.count(place) > 1
            for letter, text, at in zip(
                _letters(len(self.ranks)), self.responses, self.ranks, strict=True
            ):
                if at == place:
                    lines.append(f"{place}. {letter}: {text}{'  (tied)' if tied else ''}")
        pairs = ", ".join(f"{better} > {worse}" for better, worse in self.pairs())
        return "\n".join([*lines, f"{self.summary()}, so {pairs or 'no pair'}"])


def _letters(n: int) -> str:
    """The names of n responses: 'ABCD' for 4."""
    if not 2 <= n <= len(ascii_uppercase):
        raise ValueError(f"a ranking needs 2 to {len(ascii_uppercase)} responses, got {n}")
    return ascii_uppercase[:n]


def _places(ranks: Sequence[int]) -> list[int]:
    """The ranks that occur, best first, each once."""
    return sorted(set(ranks))
