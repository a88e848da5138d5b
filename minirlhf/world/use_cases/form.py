"""What an instruction is: its words, and what grading an answer to it needs to know."""

from dataclasses import dataclass

from minirlhf.world.almanac import Fact
from minirlhf.world.text import contains, normalise, sentences

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Constraint:
    """A demand on the form of an answer.

    `kind`: "sentences" (exactly `number`), "words" (at most `number`), "mention" (the words
    `text` stand somewhere), "begin" (the answer begins with `text`).
    """

    kind: str
    number: int = 0
    text: str = ""

    def met(self, answer: str) -> bool:
        """Whether an answer keeps to it; an empty one never does.

        >>> Constraint("sentences", 2).met("Io is hot. It orbits Jupiter.")
        True
        >>> Constraint("words", 3).met("Io orbits Jupiter today.")
        False
        """
        answer = answer.strip()
        if not answer:
            return False
        if self.kind == "sentences":
            return len(sentences(answer)) == self.number
        if self.kind == "words":
            return len(answer.split()) <= self.number
        if self.kind == "mention":
            return contains(normalise(answer), normalise(self.text))
        return answer.startswith(self.text)


@dataclass(frozen=True)
class Request:
    """One instruction, with all that is needed to answer it well and to judge an answer.

    `task` says what kind of answer it wants (a key of replies.TASKS and of checks.CHECKS); which
    of the other fields count follows from that.
    """

    use_case: str
    kind: str
    prompt: str  # the user's latest message
    facts: tuple[Fact, ...]  # every fact of the almanac that prompt or history tells or asks for
    history: tuple[str, ...] = ()  # earlier messages, user and assistant in turn
    task: str = "tell"
    subject: str = ""  # what it is about, as sentences name it
    asked: tuple[Fact, ...] = ()  # facts that a good answer states; may be a passage's own
    wants: int = 1  # how many facts, names or questions make a full answer
    expected: tuple[str, ...] = ()  # right answers in words: labels, names, rewritten sentences
    options: tuple[str, ...] = ()  # what `expected` was chosen from: all labels, names in play
    source: str = ""  # the sentence or passage to work on
    told: tuple[Fact, ...] = ()  # what the passage claims, true or not; empty without a passage
    claim: str = ""  # the false value that the prompt takes for true
    constraint: Constraint | None = None
    harm: str = ""  # a key of harm.HARMS: the best answer declines


def on_fact(
    use_case: str,
    kind: str,
    prompt: str,
    fact: Fact,
    task: str,
    *,
    history: tuple[str, ...] = (),
    expected: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    source: str = "",
    claim: str = "",
    constraint: Constraint | None = None,
) -> Request:
    """A request that tells or asks for one fact, which is also what a good answer states."""
    return Request(
        use_case,
        kind,
        prompt,
        (fact,),
        history,
        task,
        subject=fact.subject,
        asked=(fact,),
        expected=expected,
        options=options,
        source=source,
        claim=claim,
        constraint=constraint,
    )
