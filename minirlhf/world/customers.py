"""Simulated customers and labelers, and the raw prompts they send.

The world sees to it that no fact of a test question is trained on: a customer whom
`curation.split_of` puts into the test split asks about test facts only, everybody else about
training facts only. `curation.check_leakage` with facts as keys proves it.
"""

import math
import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist

from minirlhf.labeling.curation import CUSTOMER_SHARES, PREFIX_LIMIT, compared, split_of
from minirlhf.labeling.submissions import Submission
from minirlhf.world.almanac import Almanac, Fact, question, split_facts, statement
from minirlhf.world.foreign import FOREIGN, foreign_prompt
from minirlhf.world.personas import Persona, Spans, decoy, persona, slip
from minirlhf.world.prompts import TRAIN_FORMS
from minirlhf.world.requests import USE_CASES, Request, draw
from minirlhf.world.use_cases.form import on_fact

CUSTOMERS, ORGANIZATIONS, LABELERS = 350, 150, 40
# Prompts per customer: log-normal, median 5, cut off at 1,400.
MEDIAN, SPREAD, MOST = 5, 2.13, 1400
PERSONAL, DECOYS, FOREIGN_SHARE = 0.042, 0.05, 0.035
COPIES, ALMOST = 0.08, 0.12  # repeats of a customer's own earlier prompt
TRIES = 12  # draws of a request that does not begin like an earlier one of the customer
LABELER_PROMPTS = 2700
LABELER_KINDS = {"plain": 0.6, "few-shot": 0.1, "user-based": 0.3}  # few-shot makes 3 or 4 each
# How an opening is put together: who the assistant is to be, and for whom.
_ROLES = (
    "You are a helpful science tutor.",
    "You are the voice of a science museum.",
    "You are a friendly guide at an observatory.",
    "You are a careful editor of a school magazine.",
    "You help the team of a children's radio show.",
    "You are the help desk of a public library.",
    "You write for the web site of a planetarium.",
    "You are an assistant for busy teachers.",
    "You are the chat bot of a toy shop.",
    "You work for a quiz show on television.",
    "You are a patient coach for learners.",
    "You answer the mail of a nature park.",
)
_READERS = (
    "Your readers are children.",
    "Be kind and clear.",
    "Our visitors are curious.",
    "Write plain English.",
    "Tell only what is true.",
    "Most of our readers are busy.",
    "Parents read along.",
    "Keep a friendly tone.",
    "The text goes on a poster.",
    "People read it on a phone.",
)
_LABELS = ("Task:", "Request:", "Now this:", "###", "Input:", "Please help:")
_AFTERWORDS = ("Thanks!", "Thank you very much.", "Please.", "Second try.", "It is urgent.", "Ok?")
_FEW_SHOT = (
    "Answer the questions.",
    "Answer each question in one sentence.",
    "Questions and answers for a quiz:",
    "Go on like this:",
    "Reply as in the examples.",
)


@dataclass(frozen=True)
class Customer:
    """A user of the API: who they are, what they care about, how they write, how much they send.

    `opening` begins their prompts, "" = none; `pool` are the facts that they ask about; `size` is
    the number of prompts they send.
    """

    id: str
    organization: str
    person: Persona
    opening: str
    language: str
    pool: tuple[Fact, ...]
    size: int


def sizes(count: int = CUSTOMERS) -> list[int]:
    """Prompts per customer, the fewest first: quantiles of a log-normal, so the tail is heavy.

    >>> few = sizes()
    >>> few[0], few[len(few) // 2], few[-1]
    (1, 5, 1400)
    """
    normal = NormalDist()
    logs = (normal.inv_cdf((i + 0.5) / count) for i in range(count))
    return [max(1, min(MOST, round(MEDIAN * math.exp(SPREAD * z)))) for z in logs]


def customers(almanac: Almanac, seed: int = 0, count: int = CUSTOMERS) -> list[Customer]:
    """The customers, in the order of their ids; each organization has one or more of them.

    The split of a customer is `split_of(id, seed)`, and `curate` must be given the same seed.
    """
    rng = random.Random(f"customers/{seed}")
    train, test = split_facts(almanac)
    organizations = [f"org-{i:03d}" for i in range(min(ORGANIZATIONS, count))]
    employers = organizations + rng.choices(organizations, k=count - len(organizations))
    amounts = rng.sample(sizes(count), count)
    made = []
    for number, (employer, size) in enumerate(zip(employers, amounts, strict=True)):
        user = f"user-{number:03d}"
        facts = test if split_of(user, seed, CUSTOMER_SHARES) == "test" else train
        made.append(
            Customer(
                user,
                employer,
                persona(rng),
                _opening(rng) if size > 20 or rng.random() < 0.3 else "",
                rng.choice(FOREIGN),
                _interests(facts, 40 + size, rng),
                size,
            )
        )
    return made


def _opening(rng: random.Random) -> str:
    return f"{rng.choice(_ROLES)} {rng.choice(_READERS)} {rng.choice(_LABELS)}"


def _interests(facts: Sequence[Fact], least: int, rng: random.Random) -> tuple[Fact, ...]:
    """The facts of a few subjects: so many that they are `least`, or all that there are."""
    subjects = list(dict.fromkeys(fact.subject_id for fact in facts))
    rng.shuffle(subjects)
    chosen, had = set(), 0
    for subject in subjects:
        if had < least:
            chosen.add(subject)
            had += sum(fact.subject_id == subject for fact in facts)
    return tuple(fact for fact in facts if fact.subject_id in chosen)


def submissions(
    almanac: Almanac, seed: int = 0, count: int = CUSTOMERS
) -> tuple[list[Submission], dict[str, Request]]:
    """All raw prompts of the customers in the order in which they came in, as an API logs them.

    A submission's prompt holds the prompt of its request, word for word, in between what the
    customer writes around it: an opening, a slip of personal data, a thank-you. Prompts in other
    languages have a request of kind "foreign" without facts.

    Returns: the submissions, and the request of each submission id.
    """
    sent: list[tuple[Submission, Request]] = []
    for customer in customers(almanac, seed, count):
        sent += _sent_by(customer, almanac, random.Random(f"submissions/{seed}/{customer.id}"))
    random.Random(f"arrival/{seed}").shuffle(sent)
    return _numbered(sent, "customer")


def _numbered(
    sent: Sequence[tuple[Submission, Request]], source: str
) -> tuple[list[Submission], dict[str, Request]]:
    """The submissions with ids in their order, and the request of each id."""
    made = [replace(one, id=f"{source}-{i:05d}") for i, (one, _) in enumerate(sent)]
    return made, {one.id: request for one, (_, request) in zip(made, sent, strict=True)}


def _sent_by(
    customer: Customer, almanac: Almanac, rng: random.Random
) -> list[tuple[Submission, Request]]:
    """What one customer sends: new requests, prompts in another language, repeats of their own.

    Other repeats are avoided: long openings make some use cases begin alike more often than
    others, and dropping those would shift the use cases' shares.
    """
    sent: list[tuple[Submission, Request]] = []
    begun: set[str] = set()
    use_cases = _use_cases(rng)
    for _ in range(customer.size):
        fate = rng.random()
        if sent and fate < COPIES:
            sent.append(rng.choice(sent))
        elif sent and fate < COPIES + ALMOST:
            submission, request = rng.choice(sent)
            prompt = f"{submission.prompt} {rng.choice(_AFTERWORDS)}"
            sent.append((replace(submission, prompt=prompt), request))
        elif rng.random() < FOREIGN_SHARE:
            sent.append(_foreign(customer, rng))
        else:
            use_case = next(use_cases)
            aside = _aside(customer, rng)
            for _ in range(TRIES):
                request = draw(almanac, customer.pool, use_case, rng)
                submission = _written(customer, request, *aside)
                beginning = compared(submission)[:PREFIX_LIMIT]
                if beginning not in begun:
                    break
            begun.add(beginning)
            sent.append((submission, request))
    return sent


def _use_cases(rng: random.Random) -> Iterator[str]:
    """Use cases without end in the shares of Table 1, spread evenly from the first on.

    Steps of the golden ratio around a circle: independent draws would move the shares by two
    points, since a few customers send most of the prompts.
    """
    place = rng.random()
    bounds = list(accumulate(USE_CASES.values()))
    while True:
        place = (place + 0.6180339887) % 1
        yield list(USE_CASES)[bisect(bounds, place * bounds[-1])]


def _foreign(customer: Customer, rng: random.Random) -> tuple[Submission, Request]:
    prompt = foreign_prompt(customer.language, rng)
    submission = Submission(
        prompt,
        "new",
        customer.id,
        customer.organization,
        use_case="other",
        language=customer.language,
    )
    return submission, Request("other", "foreign", prompt, ())


def _aside(customer: Customer, rng: random.Random) -> tuple[str, Spans]:
    """What a customer says besides the matter: mostly nothing, a slip, or a decoy of one."""
    fate = rng.random()
    if fate < PERSONAL:
        return slip(customer.person if rng.random() < 0.5 else persona(rng), rng)
    return (decoy(rng) if fate < PERSONAL + DECOYS else ""), ()


def _written(customer: Customer, request: Request, aside: str, spans: Spans) -> Submission:
    """The request as this customer words it: opening, aside, the request, or a signature."""
    # In the midst of a dialogue nobody says again whom they talk to.
    opening = "" if request.history else customer.opening
    signed = aside.startswith("\n")
    before, after = ((opening,), aside) if signed else ((opening, aside), "")
    prompt = " ".join(part for part in (*before, request.prompt) if part)
    shift = len(prompt) if after else len(opening) + bool(opening)
    return Submission(
        prompt + after,
        "new",
        customer.id,
        customer.organization,
        use_case=request.use_case,
        language="en",
        history=request.history,
        personal=tuple((start + shift, end + shift, kind) for start, end, kind in spans),
    )


def public_names(almanac: Almanac) -> frozenset[str]:
    """Names that stand in the almanac, true or false: nobody's personal data. For `scrub`."""
    facts = almanac.facts
    texts = {subject.name for subject in almanac.subjects}
    texts |= {text for fact in facts for text in (*fact.accepted, *fact.falsehoods)}
    return frozenset(text for text in texts if text.lower() != text)


def labeler_submissions(
    almanac: Almanac, seed: int = 0, count: int = LABELER_PROMPTS
) -> tuple[list[Submission], dict[str, Request]]:
    """About `count` prompts that labelers wrote, on training facts only, of three kinds.

    plain: any request. few-shot: an instruction with K questions and answers makes K prompts,
    each with the other K - 1 as examples before it; the request is the last question, and its
    facts are those of all K. user-based: a request worded for the stated use of a customer (whose
    organization it names) outside the test split.

    Source: Ouyang et al. 2022, section 3.2 and appendix A (arXiv:2203.02155). The shares of the
    three kinds are ours.
    Returns: the submissions in the order of labelers, and the request of each submission id.
    """
    rng = random.Random(f"labelers/{seed}")
    train, _ = split_facts(almanac)
    hosts = [
        customer
        for customer in customers(almanac, seed)
        if customer.opening and split_of(customer.id, seed, CUSTOMER_SHARES) != "test"
    ]
    written: list[tuple[Submission, Request]] = []
    while len(written) < count:
        labeler = f"labeler-{len(written) * LABELERS // count:02d}"
        kind = rng.choices(list(LABELER_KINDS), list(LABELER_KINDS.values()))[0]
        employer = ""
        if kind == "few-shot":
            pairs = _few_shot(train, rng)
        else:
            use_case = rng.choices(list(USE_CASES), list(USE_CASES.values()))[0]
            request = draw(almanac, train, use_case, rng)
            prompt = request.prompt
            if kind == "user-based":
                host = rng.choice(hosts)
                employer = host.organization
                if not request.history:
                    prompt = f"{host.opening} {prompt}"
            pairs = [(prompt, request)]
        for prompt, request in pairs:
            submission = Submission(
                prompt,
                "new",
                labeler,
                employer,
                "labeler",
                kind,
                request.use_case,
                "en",
                request.history,
            )
            written.append((submission, request))
    return _numbered(written, "labeler")


def _few_shot(facts: Sequence[Fact], rng: random.Random) -> list[tuple[str, Request]]:
    """K questions about different facts; for each the prompt that ends with it, and its request.

    The examples go round, so that no two of the K prompts begin alike.
    """
    chosen = rng.sample(list(facts), rng.choice((3, 4)))
    asked = [question(fact, rng.choice(TRAIN_FORMS)) for fact in chosen]
    shots = [f"Q: {q}\nA: {statement(fact, 0)}\n" for fact, q in zip(chosen, asked, strict=True)]
    instruction = rng.choice(_FEW_SHOT)
    made = []
    for i, (fact, query) in enumerate(zip(chosen, asked, strict=True)):
        examples = "".join(shots[i + 1 :] + shots[:i])
        others = (other for other in chosen if other is not fact)
        request = on_fact("open QA", "few-shot", query, fact, "answer")
        request = replace(request, facts=(fact, *others))
        made.append((f"{instruction}\n{examples}Q: {query}\nA:", request))
    return made
