"""Truth, harm and following instructions: what labelers tick, by system and use case."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirlhf.evaluation.statistics import Interval, bounded_interval, seeds_interval
from minirlhf.evaluation.study_rows import shares_by_condition
from minirlhf.study import answering
from minirlhf.study.answering import MEASURES, read_json
from minirlhf.study.behaviour import Behaviour, observe, values
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short
from minirlhf.study.sections import figure1
from minirlhf.study.sections.figure1 import SYSTEMS, all_answers, shown
from minirlhf.study.training import world

Values = np.ndarray  # (seeds, prompts or items)
PROBED = ("base", "SFT", "PPO", "PPO-ptx")  # asked about truth and tempted to be rude
TITLES = {"attempts": "does what was asked", "appropriate": "fit for an assistant"}
PROBES = ("drawn", "truth", "rude")
CAPTIONS = {
    "ticked": "What the gold grader ticks",
    "drawn": "On passages, and on demands of form",
    "truth": "Questions with a common falsehood",
    "rude": "Rudeness under three instructions",
}


def probe_jobs(plan: Plan, size: str, seed: int) -> dict[str, Job]:
    """For each system the job that measures tax, truth and toxicity."""
    settings = dict(seed=seed, items=plan.items, max_new_tokens=40)
    sft = plan.sft(size, seed)
    needs = {"SFT": (sft,), "PPO": (sft, plan.policy(size, seed)),
             "PPO-ptx": (sft, plan.policy(size, seed, "ppo-ptx"))}  # fmt: skip
    base = Job(
        f"measures-base-{short(size)}-{seed}", answering.measures, settings | {"model": size}
    )
    return {"base": base} | {
        name: Job(f"measures-{jobs[-1].name}", answering.measures, settings, jobs)
        for name, jobs in needs.items()
    }


def jobs(plan: Plan) -> list[Job]:
    """Those of Figure 1, whose answers are read once more, and the probes."""
    probes = [
        job
        for seed in plan.seeds
        for size in plan.sizes
        for job in probe_jobs(plan, size, seed).values()
    ]
    return figure1.jobs(plan) + probes


def probed(plan: Plan, folder: Path, size: str) -> dict[str, dict[str, Values]]:
    """Figure -> what -> system -> values of each seed and item, from the jobs' measures.json."""
    found = {
        name: [
            read_json(folder / probe_jobs(plan, size, seed)[name].folder / MEASURES)
            for seed in plan.seeds
        ]
        for name in PROBED
    }

    def of(read: Callable[[dict], Sequence[float]]) -> dict[str, Values]:
        return {name: np.array([read(own) for own in seeds]) for name, seeds in found.items()}

    return {
        "drawn": {
            "makes up what a passage does not say": of(lambda m: m["hallucinates"]),
            "keeps to the form asked for": of(lambda m: m["follows_constraint"]),
        },
        "truth": {
            f"{what}, {told}": of(lambda m, s=said, k=kind: [pair[k] for pair in m["truth"][s]])
            for said, told in (("none", "not instructed"), ("be true", "told to be true"))
            for kind, what in ((0, "truthful"), (1, "truthful and informative"))
        },
        "rude": {
            f"rude, {told}": of(lambda m, k=manner: m["rude"][k])
            for manner, told in (
                ("respectful", "told to be polite"),
                ("none", "not instructed"),
                ("biased", "told to be rude"),
            )
        },
    }


def observed(plan: Plan, folder: Path) -> dict[tuple[str, str], list[list[Behaviour]]]:
    """(system, size) -> for each seed what is found in its answers."""
    data = world("api")
    prompts = data.test_prompts[: plan.prompts]
    found: dict[tuple[str, str], list[list[Behaviour]]] = {}
    for seed in plan.seeds:
        for key, given in all_answers(plan, folder, seed).items():
            seen = observe(data.find, data.requests, prompts, given)
            found.setdefault(key, []).append(seen)
    return found


def report(plan: Plan, folder: Path) -> Section:
    """Shares of all systems at all sizes; of the largest size also what tempting prompts bring."""
    seen, size = observed(plan, folder), short(plan.largest)

    def of_all(measure: str) -> dict[tuple[str, str], Values]:
        return {key: np.array([values(s, measure) for s in own]) for key, own in seen.items()}

    everywhere = {title: of_all(measure) for measure, title in TITLES.items()}
    ticked = {
        title: {system: own[system, plan.largest] for system in SYSTEMS}
        for title, own in everywhere.items()
    }
    groups = {"ticked": ticked} | probed(plan, folder, plan.largest)
    shares = {
        name: {what: intervals(own) for what, own in group.items()}
        for name, group in groups.items()
    }
    rows = [
        [system, short(at), *(bounded_interval(own[system, at]) for own in everywhere.values())]
        for system in SYSTEMS
        for at in plan.sizes
    ]
    rated = of_all("rating")
    ratings = [
        [system, short(at), bounded_interval(rated[system, at], 1, 7)]
        for system in SYSTEMS
        for at in plan.sizes
    ]
    probes = [[what, *shares[name][what].values()] for name in PROBES for what in shares[name]]
    return Section(
        "instructions",
        "Truth, harm, following instructions",
        [compared(what, own, size) for group in groups.values() for what, own in group.items()],
        [
            Table("ticked", "Share of answers, read by the gold grader",
                  ["system", "size", *TITLES.values()], rows, percent=True),
            Table("ratings", "Overall quality, 1 to 7", ["system", "size", "rating"], ratings),
            Table("probes", f"Prompts made to tempt, {size}: share of answers. The base answers "
                  "after examples, and goes on with rude openings as they stand",
                  ["what", *PROBED], probes, percent=True),
            by_use_case(seen, plan.largest, "attempts", "use-cases", "Does what was asked", True),
            by_use_case(seen, plan.largest, "rating", "use-case-ratings", "Overall quality, 1 to 7",
                        False),
        ],
        {name: (shares_by_condition(shares[name]), f"{caption}, {size}")
         for name, caption in CAPTIONS.items()},
    )  # fmt: skip


def intervals(own: dict[Any, Values]) -> dict[Any, Interval]:
    """Of each table of shares."""
    return {key: bounded_interval(table) for key, table in own.items()}


def compared(what: str, own: dict[str, Values], size: str) -> str:
    """SFT and PPO-ptx on the same prompts, in a sentence."""
    difference = seeds_interval(own["PPO-ptx"] - own["SFT"])
    verdict = "" if difference.excludes(0) else " (no clear difference)"
    sft, ptx = (shown(bounded_interval(own[name])) for name in ("SFT", "PPO-ptx"))
    return f"{what[:1].upper()}{what[1:]} ({size}): SFT {sft}, PPO-ptx {ptx}{verdict}."


def by_use_case(seen: dict, size: str, measure: str, name: str, what: str, percent: bool) -> Table:
    """A measure for each use case and system."""
    bounds = (0, 1) if percent else (1, 7)

    def cell(system: str, case: str) -> Interval:
        return bounded_interval([[getattr(b, measure) for b in own if case in ("all", b.use_case)]
                                 for own in seen[system, size]], *bounds)  # fmt: skip

    cases = dict.fromkeys(["all", *(b.use_case for b in seen["SFT", size][0])])
    rows = [[case, *(cell(system, case) for system in SYSTEMS)] for case in cases]
    caption = f"{what}, by use case, {short(size)}"
    return Table(name, caption, ["use case", *SYSTEMS], rows, percent)
