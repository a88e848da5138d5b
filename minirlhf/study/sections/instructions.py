"""Truth, harm and following instructions: what labelers tick, by system and use case."""

from collections.abc import Callable, Sequence
from pathlib import Path

from minirlhf.evaluation.statistics import Interval, seeds_interval
from minirlhf.evaluation.study_rows import shares_by_condition
from minirlhf.study import answering
from minirlhf.study.answering import MEASURES, read_json
from minirlhf.study.behaviour import Behaviour, observe, table, values
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short
from minirlhf.study.sections import figure1
from minirlhf.study.sections.figure1 import SYSTEMS, all_answers, shown
from minirlhf.study.training import world

PROBED = ("base", "SFT", "PPO", "PPO-ptx")  # asked about truth and tempted to be rude


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
    probes = [
        job
        for seed in plan.seeds
        for size in plan.sizes
        for job in probe_jobs(plan, size, seed).values()
    ]
    return figure1.jobs(plan) + probes


def measured(plan: Plan, folder: Path, size: str, read: Callable[[dict], Sequence[float]]) -> dict:
    """system -> a value from its measures.json, over seeds and items."""
    return {
        name: seeds_interval(
            [
                read(read_json(folder / probe_jobs(plan, size, s)[name].folder / MEASURES))
                for s in plan.seeds
            ]
        )
        for name in PROBED
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
    seen, large = observed(plan, folder), plan.largest

    def over_seeds(key: tuple[str, str], measure: str) -> Interval:
        return seeds_interval([values(own, measure) for own in seen[key]])

    titles = {"attempts": "does what was asked", "appropriate": "fit for an assistant"}
    ticked = {
        title: {system: over_seeds((system, large), measure) for system in SYSTEMS}
        for measure, title in titles.items()
    }
    drawn = {
        title: measured(plan, folder, large, lambda m, k=measure: m[k])
        for measure, title in (
            ("hallucinates", "makes up what a passage does not say"),
            ("follows_constraint", "keeps to the form asked for"),
        )
    }
    truth = {
        f"{what}, {said}": measured(
            plan, folder, large, lambda m, s=said, k=kind: [pair[k] for pair in m["truth"][s]]
        )
        for said in ("none", "be true")
        for kind, what in ((0, "truthful"), (1, "truthful and informative"))
    }
    rude = {
        f"rude, asked: {manner}": measured(plan, folder, large, lambda m, k=manner: m["rude"][k])
        for manner in ("respectful", "none", "biased")
    }
    rows = [
        [system, short(size), *(over_seeds((system, size), measure) for measure in titles)]
        for system in SYSTEMS
        for size in plan.sizes
    ]
    ratings = [
        [system, short(size), over_seeds((system, size), "rating")]
        for system in SYSTEMS
        for size in plan.sizes
    ]
    probes = [[what, *own.values()] for what, own in (drawn | truth | rude).items()]
    size = short(large)
    return Section(
        "instructions",
        "Truth, harm, following instructions",
        sentences(ticked | drawn | truth | rude, size),
        [
            Table("ticked", "Share of answers, read by the gold grader",
                  ["system", "size", *titles.values()], rows, percent=True),
            Table("ratings", "Overall quality, 1 to 7", ["system", "size", "rating"], ratings),
            Table("probes", f"Prompts made to tempt, {size}: share of answers. The base answers "
                  "after examples, and goes on with rude openings as they stand",
                  ["what", *PROBED], probes, percent=True),
            by_use_case(seen, large),
        ],
        {
            "ticked": (shares_by_condition(ticked), f"What the gold grader ticks, {size}"),
            "drawn": (shares_by_condition(drawn), f"On passages, and on demands of form, {size}"),
            "truth": (shares_by_condition(truth), f"Questions with a common falsehood, {size}"),
            "rude": (shares_by_condition(rude), f"Rudeness under three instructions, {size}"),
        },
    )  # fmt: skip


def by_use_case(seen: dict, size: str) -> Table:
    """Mean of attempts and rating for each use case, over seeds."""
    rows = []
    tables = {
        system: [{(r["use_case"], r["measure"]): r["mean"] for r in table(own)}
                 for own in seen[system, size]]
        for system in SYSTEMS
    }  # fmt: skip
    cases = dict.fromkeys(case for case, _ in tables["SFT"][0])
    for case in cases:
        means = [
            sum(own[case, "attempts"] for own in tables[system]) / len(tables[system])
            for system in SYSTEMS
        ]
        rows.append([case, *means])
    return Table("use-cases", f"Does what was asked, by use case, {short(size)}, mean of seeds",
                 ["use case", *SYSTEMS], rows, percent=True)  # fmt: skip


def sentences(measures: dict, size: str) -> list[str]:
    """SFT and PPO-ptx side by side, where the two intervals are apart and where they are not."""
    said = []
    for what, own in measures.items():
        apart = own["PPO-ptx"].low > own["SFT"].high or own["PPO-ptx"].high < own["SFT"].low
        verdict = "" if apart else " (no clear difference)"
        said.append(
            f"{what[:1].upper()}{what[1:]} ({size}): SFT {shown(own['SFT'])}, "
            f"PPO-ptx {shown(own['PPO-ptx'])}{verdict}."
        )
    return said
