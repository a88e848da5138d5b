"""Requests: instructions of ten use cases about the almanac."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from minirlhf.world.almanac import Almanac, Fact

# Shares of the paper's prompts in per cent, Table 1 (Ouyang et al. 2022, arXiv:2203.02155).
USE_CASES = {
    "generation": 45.6,
    "open QA": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed QA": 2.6,
    "extract": 1.9,
}


@dataclass(frozen=True)
class Request:
    """One instruction, with all that is needed to answer it well and to judge an answer."""

    use_case: str
    kind: str
    prompt: str
    facts: tuple[Fact, ...]  # every fact that prompt or history tells or asks for
    history: tuple[str, ...] = ()


def draw(almanac: Almanac, pool: Sequence[Fact], use_case: str, rng: random.Random) -> Request:
    """A request of one use case that tells and asks for no other facts than those of `pool`."""
    raise NotImplementedError
