"""The paper's three datasets: from raw submissions to demonstrations, comparisons and prompts."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minirlhf.engine.records import DataError, Demonstration, Prompt, Ranking
from minirlhf.labeling.curation import StepReport, check_leakage, curate
from minirlhf.labeling.forms import Form
from minirlhf.labeling.rankings import ranking_of
from minirlhf.labeling.submissions import Submission
from minirlhf.world.almanac import Almanac
from minirlhf.world.customers import (
    CUSTOMERS,
    LABELER_PROMPTS,
    labeler_submissions,
    public_names,
    submissions,
)
from minirlhf.world.grader import Grader
from minirlhf.world.labelers import Labeler, label
from minirlhf.world.requests import Request
from minirlhf.world.responses import manners_for, respond

# Ouyang et al. 2022, Table 6 (arXiv:2203.02155): dataset -> split -> source -> prompts.
TABLE_6 = {
    "sft": {
        "train": {"labeler": 11_295, "customer": 1_430},
        "valid": {"labeler": 1_550, "customer": 103},
    },
    "rm": {
        "train": {"labeler": 6_623, "customer": 26_584},
        "valid": {"labeler": 3_488, "customer": 14_399},
    },
    "ppo": {"train": {"customer": 31_144}, "valid": {"customer": 16_185}},
}
SHARE = 0.1  # ours is a tenth of it
# How the labelers' demonstrations are: better than what models and the web say, not perfect.
DEMONSTRATION_MANNERS = {
    "exemplary": 0.62,
    "terse": 0.14,
    "hedging": 0.08,
    "sloppy": 0.08,
    "wrong": 0.04,
    "ignores the constraint": 0.02,
    "rambling": 0.02,
}
MOST_RESPONSES, LEAST_RESPONSES = 9, 4  # K, as in the paper


@dataclass(frozen=True)
class Datasets:
    """Everything between what came in and what is trained on.

    `raw`: all submissions; `steps`: what curation did to them; `curated`: split -> submissions;
    `dealt`: dataset ("sft", "rm", "ppo", "test") -> split -> submissions; `requests`: what each
    submission id asks for, for whoever judges answers.
    """

    raw: list[Submission]
    steps: list[StepReport]
    curated: dict[str, list[Submission]]
    dealt: dict[str, dict[str, list[Submission]]]
    requests: dict[str, Request]

    def demonstrations(self, split: str, seed: int = 0) -> list[Demonstration]:
        """The SFT data of a split: its prompts, answered by labelers as people answer."""
        made = []
        for sent in self.dealt["sft"][split]:
            rng = random.Random(f"demonstration/{seed}/{sent.id}")
            request = self.requests[sent.id]
            fitting = manners_for(request)
            manners = {m: share for m, share in DEMONSTRATION_MANNERS.items() if m in fitting}
            response = respond(request, _one_of(manners, rng), rng)
            made.append(Demonstration(sent.prompt, response, sent.id, sent.use_case, sent.history))
        return made

    def prompts(self, dataset: str, split: str) -> list[Prompt]:
        """The prompts of a dataset's split, without answers."""
        return [
            Prompt(sent.prompt, sent.id, sent.use_case, sent.history)
            for sent in self.dealt[dataset][split]
        ]

    def responses(self, prompt_id: str, seed: int = 0) -> tuple[str, ...]:
        """K = 4 to 9 different responses to a prompt by many hands; fewer where all agree."""
        rng = random.Random(f"responses/{seed}/{prompt_id}")
        wanted = rng.randint(LEAST_RESPONSES, MOST_RESPONSES)
        request = self.requests[prompt_id]
        manners = manners_for(request)
        found: dict[str, None] = {}
        for _ in range(20 * wanted):
            if len(found) < wanted:
                found[respond(request, _one_of(manners, rng), rng)] = None
        return tuple(found)


def build_datasets(almanac: Almanac, seed: int = 0, share: float = SHARE) -> Datasets:
    """Collect, curate, split by user and deal out: SFT first, then reward model, then PPO.

    SFT shares no prompt with the others. Where a split has too few prompts for both, PPO also
    takes prompts of the reward model's. The test split is dealt to nobody else.

    Args:    share: part of the paper's Table 6; customers and labelers' prompts go with it.
    Raises:  DataError where a test question's fact is told or asked anywhere else.
    """
    scale = share / SHARE
    raw, requests = submissions(almanac, seed, max(8, round(CUSTOMERS * scale)))
    count = max(80, round(LABELER_PROMPTS * scale))
    written, written_requests = labeler_submissions(almanac, seed, count)
    raw, requests = raw + written, requests | written_requests
    curated, steps = curate(raw, seed, public=public_names(almanac))
    check_leakage(
        curated,
        keys=lambda sent: (fact.id for fact in requests[sent.id].facts),
        apart=[("train", "test"), ("valid", "test")],
    )
    dealt: dict[str, dict[str, list[Submission]]] = {name: {} for name in TABLE_6}
    for split in ("train", "valid"):
        for source in ("labeler", "customer"):
            left = [sent for sent in curated[split] if sent.source == source]
            random.Random(f"deal/{seed}/{split}/{source}").shuffle(left)
            for name in TABLE_6:
                wanted = round(share * TABLE_6[name][split].get(source, 0))
                taken = left[:wanted]
                # What is taken goes to the end, but SFT's, which nobody else gets.
                left = left[wanted:] + (taken if name != "sft" else [])
                dealt[name].setdefault(split, []).extend(taken)
    dealt["test"] = {"test": curated["test"]}
    return Datasets(raw, steps, curated, dealt, requests)


def compare(
    datasets: Datasets,
    prompts: Iterable[Prompt],
    grader: Grader,
    labelers: Sequence[Labeler],
    seed: int = 0,
    instructions: str = "training",
    each: int = 1,
) -> tuple[list[Ranking], list[Form]]:
    """Labelers read the responses to each prompt, fill in their forms and rank them.

    Args:    each: how many labelers see a prompt; mostly one, as in the paper.
    Returns: the rankings that order at least one pair, and all forms.
    """
    rankings, forms = [], []
    for prompt in prompts:
        responses = datasets.responses(prompt.id, seed)
        if len(responses) < 2:
            raise DataError(f"prompt {prompt.id}: has {len(responses)} different responses")
        findings = [grader(datasets.requests[prompt.id], text) for text in responses]
        rng = random.Random(f"assign/{seed}/{prompt.id}")
        for labeler in rng.sample(labelers, each):
            filled = label(labeler, prompt.id, responses, findings, instructions)
            forms += filled
            ranking = ranking_of(filled, prompt)
            rankings += [ranking] if ranking else []
    return rankings, forms


def _one_of(shares: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]
