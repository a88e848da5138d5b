"""The pretraining corpus: a small, noisy web in which every fact is stated, asked and answered."""

from collections.abc import Iterator
from itertools import count

from minirlhf.world.almanac import Almanac
from minirlhf.world.scenes import SCENES, Desk


def corpus(almanac: Almanac, documents: int | None = None, seed: int = 0) -> Iterator[str]:
    """Documents of about 60 to 250 tokens: pages, FAQs, quizzes, threads, talks, stories.

    Every fact occurs as a statement and as a question with an answer that is right most of the
    time, evenly often, however long the corpus is.

    Args:    documents: how many to write, None = without end; seed: same seed, same documents, and
             a longer corpus begins with the shorter one.
    Raises:  ValueError where documents is negative.
    """
    if documents is not None and documents < 0:
        raise ValueError(f"documents must not be negative, is {documents}")
    desk = Desk(almanac, seed)
    scenes, shares = list(SCENES), list(SCENES.values())
    for _ in count() if documents is None else range(documents):
        yield desk.rng.choices(scenes, shares)[0](desk)
