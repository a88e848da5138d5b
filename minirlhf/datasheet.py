"""What is in the data: the tables that `minirlhf data` prints, and the files that it writes."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, permutations
from pathlib import Path
from statistics import mean, median

from transformers import AutoTokenizer

from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Demonstration, Prompt, Ranking, read_records, write_records
from minirlhf.labeling import personal
from minirlhf.labeling.agreement import (
    flag_alphas,
    pairwise_agreement,
    ranks_of,
    rating_alpha,
)
from minirlhf.labeling.curation import identify_language
from minirlhf.labeling.formats import export
from minirlhf.labeling.forms import FLAGS, Form
from minirlhf.labeling.screening import screen
from minirlhf.ladder import ladder_row, measure_base
from minirlhf.stages.pretrain import LADDER
from minirlhf.world.almanac import Almanac, check_almanac, load_almanac
from minirlhf.world.candidates import candidates, screening_test, take_test
from minirlhf.world.corpus import corpus
from minirlhf.world.customers import public_names
from minirlhf.world.datasets import TABLE_6, Datasets, build_datasets, compare
from minirlhf.world.grader import Grader
from minirlhf.world.labelers import INSTRUCTIONS, held_out_labelers, training_labelers
from minirlhf.world.requests import USE_CASES

RANKED_BY_MANY = 200  # prompts that six labelers read, to see how far they agree


@dataclass(frozen=True)
class Table:
    """Rows of cells under a title; `note` says where the paper's figures are from, and the like."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __str__(self) -> str:
        cells = [list(map(str, row)) for row in (self.columns, *self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "-" * len(lines[0]))
        return "\n".join([self.title, *lines, *([self.note] if self.note else [])]) + "\n"


def tables(seed: int = 0) -> Iterator[Table]:
    """Every table of the data, from the almanac to the ladder of base models."""
    almanac = load_almanac()
    datasets = build_datasets(almanac, seed)
    tokenizer = AutoTokenizer.from_pretrained(data_folder() / "models" / "moonlet-1m")
    yield almanac_table(almanac)
    yield corpus_table(almanac, tokenizer, seed)
    yield use_case_table(datasets)
    yield curation_table(datasets)
    yield personal_table(datasets)
    yield language_table(datasets)
    yield size_table(datasets)
    yield customer_table(datasets)
    yield length_table(datasets, tokenizer)
    yield dialogue_table(datasets)
    yield from labeler_tables(almanac, datasets, seed)
    yield handmade_table()
    yield ladder_table()


def almanac_table(almanac: Almanac) -> Table:
    """How much the almanac knows, and what its checker says."""
    kinds = Counter(subject.kind for subject in almanac.subjects)
    rows = [
        ("subjects", len(almanac.subjects)),
        ("kinds of subjects", len(kinds)),
        ("facts", len(almanac.facts)),
        ("falsehoods", sum(len(fact.falsehoods) for fact in almanac.facts)),
        ("relations", len(almanac.relations)),
        ("question wordings", sum(len(r.questions) for r in almanac.relations.values())),
        ("statement wordings", sum(len(r.statements) for r in almanac.relations.values())),
        ("problems found by its checker", len(check_almanac(almanac))),
    ]
    return Table("The almanac", ("", "count"), [(name, f"{n:,}") for name, n in rows])


def corpus_table(almanac: Almanac, tokenizer, seed: int, sample: int = 10_000) -> Table:
    """The pretraining corpus: its size, and how much of it looks alike."""
    config = LADDER["moonlet-1m"]
    tokens = 0
    documents = corpus(almanac, config.documents, seed)
    for start in range(0, config.documents, sample):
        part = list(islice(documents, sample))
        encoded = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        tokens += sum(map(len, encoded)) + len(part)  # and an EOS each
        if start == 0:
            lines = Counter(line for text in part for line in text.splitlines() if line)
            openers = Counter(" ".join(document.split()[:3]) for document in part)
    top_line, top_opener = lines.most_common(1)[0], openers.most_common(1)[0]
    rows = [
        ("documents", f"{config.documents:,}"),
        ("tokens", f"{tokens:,}"),
        ("distinct lines", f"{len(lines) / lines.total():.0%}"),
        (f"most frequent line, {top_line[0]!r}", f"{top_line[1] / lines.total():.1%}"),
        (f"most frequent first words, {top_opener[0]!r}", f"{top_opener[1] / openers.total():.1%}"),
    ]
    return Table("The corpus", ("", "value"), rows, f"(shares over the first {sample:,} documents)")


def use_case_table(datasets: Datasets) -> Table:
    """Table 1: what customers want."""
    raw = Counter(s.use_case for s in datasets.raw if s.source == "customer")
    dealt = Counter(s.use_case for s in datasets.dealt["rm"]["train"])
    rows = [
        (name, f"{share:.1f} %", _percent(raw, name), _percent(dealt, name))
        for name, share in USE_CASES.items()
    ]
    return Table(
        "Use cases",
        ("", "paper", "raw", "reward model, train"),
        rows,
        "(paper: Ouyang et al. 2022, Table 1)",
    )


def _percent(counts: Counter, name: str) -> str:
    return f"{100 * counts[name] / counts.total():.1f} %"


def curation_table(datasets: Datasets) -> Table:
    """What each step of curation removed or changed, and why."""
    rows = []
    for report in datasets.steps:
        reasons = {**report.removed, **report.changed}
        what = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        rows.append((report.step, f"{report.before:,}", f"{report.after:,}", what))
    return Table("Curation", ("step", "before", "after", "removed or changed"), rows)


def personal_table(datasets: Datasets) -> Table:
    """How well personal data is found, against what was planted."""
    sent = [s for s in datasets.raw if s.source == "customer"]
    public = public_names(load_almanac())
    found = [personal.find(s.prompt, public) for s in sent]
    scores = personal.score(found, [s.personal for s in sent])
    rows = [
        (kind, score.planted, f"{score.precision:.1%}", f"{score.recall:.1%}")
        for kind, score in scores.items()
    ]
    return Table("Personal data", ("", "planted", "precision", "recall"), rows)


def language_table(datasets: Datasets) -> Table:
    """Languages of the raw prompts as identified, and how often that is right."""
    sent = [s for s in datasets.raw if s.language]
    found = [identify_language(s.prompt) for s in sent]
    truth, said = Counter(s.language for s in sent), Counter(found)
    right = mean(s.language == language for s, language in zip(sent, found, strict=True))
    rows = [(name, f"{n:,}", f"{said[name]:,}") for name, n in truth.most_common()]
    note = (
        f"({said['en'] / len(sent):.1%} identified as English; the paper's tool said 96 %; "
        f"{right:.1%} identified rightly)"
    )
    return Table("Languages", ("", "sent", "identified"), rows, note)


def size_table(datasets: Datasets) -> Table:
    """Table 6: prompts in each dataset."""
    rows = []
    for name, splits in TABLE_6.items():
        for split, sources in splits.items():
            ours = Counter(s.source for s in datasets.dealt[name][split])
            for source, paper in sources.items():
                rows.append((name, split, source, f"{paper:,}", f"{ours[source]:,}"))
    rows.append(("test", "test", "customer", "3,196", f"{len(datasets.dealt['test']['test']):,}"))
    return Table(
        "Sizes of the datasets, prompts",
        ("", "split", "source", "paper", "ours"),
        rows,
        "(paper: Table 6; its test set: Table 9)",
    )


def customer_table(datasets: Datasets) -> Table:
    """Table 8: prompts per customer."""
    paper = {
        ("sft", "train"): "1.65",
        ("sft", "valid"): "1.87",
        ("rm", "train"): "5.35",
        ("rm", "valid"): "27.96",
        ("ppo", "train"): "6.01",
        ("ppo", "valid"): "31.55",
        ("test", "test"): "1.81",
    }
    rows = []
    for (name, split), theirs in paper.items():
        sent = [s.user for s in datasets.dealt[name][split] if s.source == "customer"]
        per_user = Counter(sent).values()
        rows.append((name, split, theirs, f"{mean(per_user):.2f}", max(per_user)))
    sent_raw = Counter(s.user for s in datasets.raw if s.source == "customer").values()
    note = (
        f"(raw: {len(sent_raw)} customers, median {median(sent_raw):.0f}, most {max(sent_raw):,}; "
        "paper: Table 8)"
    )
    return Table("Prompts per customer", ("", "split", "paper", "ours", "most"), rows, note)


def length_table(datasets: Datasets, tokenizer) -> Table:
    """Table 9: lengths of prompts in tokens."""
    paper = {"sft": "408", "rm": "199", "ppo": "166", "test": "115"}
    rows = []
    for name, theirs in paper.items():
        split = "test" if name == "test" else "train"
        texts = [" ".join((*s.history, s.prompt)) for s in datasets.dealt[name][split]]
        lengths = sorted(len(i) for i in tokenizer(texts, verbose=False)["input_ids"])
        rows.append((name, theirs, f"{mean(lengths):.0f}", lengths[len(lengths) // 2], lengths[-1]))
    return Table(
        "Prompt lengths, tokens",
        ("", "paper, mean", "mean", "median", "longest"),
        rows,
        "(paper: Table 9, with GPT-3's tokenizer; ours: the moonlets')",
    )


def dialogue_table(datasets: Datasets) -> Table:
    """How many turns the dialogues have."""
    sent = [s for parts in datasets.dealt.values() for split in parts.values() for s in split]
    turns = Counter(len(s.history) // 2 + 1 for s in {s.id: s for s in sent}.values())
    rows = [(f"{count} turn{'s' * (count > 1)}", f"{turns[count]:,}") for count in sorted(turns)]
    return Table("Dialogues, prompts by the user's turn that they are", ("", "prompts"), rows)


def labeler_tables(almanac: Almanac, datasets: Datasets, seed: int) -> Iterator[Table]:
    """Agreement of labelers who read the same answers, what screening is worth, and priorities."""
    grader = Grader(almanac)
    prompts = datasets.prompts("rm", "train")
    some = random.Random(f"agreement/{seed}").sample(prompts, RANKED_BY_MANY)
    applicants = candidates(seed)
    test = screening_test(seed)
    results = [take_test(candidate, test) for candidate in applicants]
    chosen = set(screen(results))
    anybody = random.Random(f"unscreened/{seed}").sample(applicants, 40)
    teams = {
        "training": (training_labelers(seed), "72.6 %"),
        "held-out": (held_out_labelers(seed), "77.3 %"),
        f"screened, {len(chosen)} of {len(applicants)}": (
            [c.labeler for c in applicants if c.labeler.name in chosen],
            "",
        ),
        f"unscreened, {len(anybody)}": ([c.labeler for c in anybody], ""),
    }
    rows, forms = [], {}
    for name, (people, paper) in teams.items():
        for way in INSTRUCTIONS:
            found = compare(datasets, some, grader, people, seed, way, each=6)[1]
            share = pairwise_agreement(ranks_of(found))
            said = f"{share.share:.1%} [{share.low:.1%}, {share.high:.1%}]"
            rows.append((name, way, paper, said, f"{rating_alpha(found):.2f}"))
            forms[name, way], paper = found, ""
    yield Table(
        "Agreement of labelers",
        ("team", "instructions", "paper", "pairs ordered alike", "alpha of 1-7 ratings"),
        rows,
        f"(six labelers each on {RANKED_BY_MANY} prompts; Krippendorff's alpha, ordinal)",
    )
    yield priority_table(datasets, grader, [forms["training", way] for way in INSTRUCTIONS])
    yield flag_table(forms["training", "training"])


def priority_table(datasets: Datasets, grader: Grader, forms: Sequence[Sequence[Form]]) -> Table:
    """Of two answers one helps more and the other is truer and kinder: which do labelers prefer?

    Args:    forms: of the same labelers on the same prompts, under each of INSTRUCTIONS.
    """
    rows = []
    for way, filled in zip(INSTRUCTIONS, forms, strict=True):
        by_labeler: dict[tuple[str, str], list[Form]] = {}
        for form in filled:
            by_labeler.setdefault((form.prompt_id, form.labeler), []).append(form)
        preferred = asked = 0
        for (prompt_id, _), some in by_labeler.items():
            request = datasets.requests[prompt_id]
            found = [(grader(request, form.response), form.rank) for form in some]
            for (one, rank), (other, other_rank) in permutations(found, 2):
                careful = other.truthful + other.harmless - one.truthful - one.harmless
                if one.helpful - other.helpful > 0.3 and careful > 0.3 and rank != other_rank:
                    asked += 1
                    preferred += rank < other_rank
        rows.append((way, f"{asked:,}", f"{preferred / asked:.0%}" if asked else "-"))
    return Table(
        "Priorities: the more helpful answer against the truer and kinder one",
        ("instructions", "pairs", "the more helpful preferred"),
        rows,
        "(the paper: helpfulness first in training data, truth and harmlessness first at the end)",
    )


def flag_table(forms: Sequence[Form]) -> Table:
    """How often each of the eleven flags is ticked, and whether labelers agree on it."""
    ticked = Counter(flag for form in forms for flag in form.flags)
    alphas = flag_alphas(forms)
    rows = [(flag, f"{ticked[flag] / len(forms):.1%}", f"{alphas[flag]:.2f}") for flag in FLAGS]
    return Table("Flags of training labelers", ("", "ticked", "alpha"), rows, "(paper: Table 3)")


def handmade_table() -> Table:
    """The hand-made prompts, answers and rankings."""
    folder = data_folder() / "comparisons"
    rankings = read_records(folder / "rankings.jsonl", Ranking)
    counts = {
        "rankings": Counter(r.use_case for r in rankings),
        "demonstrations": Counter(
            d.use_case for d in read_records(folder / "demonstrations.jsonl", Demonstration)
        ),
        "prompts": Counter(p.use_case for p in read_records(folder / "prompts.jsonl", Prompt)),
    }
    rows = [(name, *(count[name] for count in counts.values())) for name in USE_CASES]
    rows.append(("all", *(count.total() for count in counts.values())))
    pairs = sum(a != b for r in rankings for a, b in combinations(r.ranks, 2))
    answers = sum(len(r.responses) for r in rankings)
    return Table(
        "Hand-made data", ("", *counts), rows, f"({answers} answers ranked, {pairs} ordered pairs)"
    )


def ladder_table() -> Table:
    """What each base model has learned, measured now."""
    rows = []
    for name in LADDER:
        rows.append(ladder_row({"model": name, **measure_base(name)}))
    return Table(
        "The ladder of base models",
        ("", "parameters", "loss, nats/token", "truthful, bare", "truthful, prompted"),
        rows,
        "(new documents on known facts; 300 facts asked at temperature 1, 95 % intervals)",
    )


def write_datasets(folder: Path, seed: int = 0) -> list[Path]:
    """The three datasets and the test prompts as files that TRL and `datasets` read.

    SFT as prompt-completion, the reward model's as preference pairs (and whole, as rankings of
    K responses, in `rankings`), PPO's and the test prompts as prompt-only.
    Returns: what was written.
    """
    almanac = load_almanac()
    datasets = build_datasets(almanac, seed)
    grader, people = Grader(almanac), training_labelers(seed)
    splits = ("train", "valid")
    demonstrations = {split: datasets.demonstrations(split, seed) for split in splits}
    rankings = {
        split: compare(datasets, datasets.prompts("rm", split), grader, people, seed)[0]
        for split in splits
    }
    prompts = {split: datasets.prompts("ppo", split) for split in splits}
    written = export(demonstrations, folder / "sft", "prompt-completion")
    written += export(rankings, folder / "rm", "preference")
    written += export(prompts, folder / "ppo", "prompt-only")
    written += export({"test": datasets.prompts("test", "test")}, folder / "test", "prompt-only")
    for split, found in rankings.items():
        path = folder / "rankings" / f"{split}.jsonl"
        write_records(path, found)
        written.append(path)
    return written
